//! The request of a row: `METHOD PATH [name:value]… [<content] [<<chunk|chunk] [>>name:value]`, words percent-encoded.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use lacis_tests::block_on;
use lacis_tests::wire::{Response, Wire};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::word;

/// A request.
pub(crate) struct Request {
    method: String,
    bytes: Vec<u8>,
}

impl Request {
    /// Reads a row; `more` are further fields.
    pub(crate) fn parse(text: &str, more: &[(&str, &str)]) -> Request {
        let mut words = text.split(' ').filter(|word| !word.is_empty());
        let (method, path) = (words.next().expect("a method").to_owned(), words.next().expect("a path"));
        let mut head = format!("{method} {path} HTTP/1.1\r\n").into_bytes();
        let mut content = None;
        let mut trailers = Vec::new();
        let mut host = true;
        for word in words {
            if let Some(chunks) = word.strip_prefix("<<") {
                content = Some((true, chunks.split('|').map(decoded).collect::<Vec<_>>()));
            } else if let Some(all) = word.strip_prefix('<') {
                content = Some((false, vec![decoded(all)]));
            } else if let Some(trailer) = word.strip_prefix(">>") {
                trailers.extend([&decoded(trailer)[..], b"\r\n"].concat());
            } else {
                host &= !word.starts_with("host:");
                head.extend([&decoded(word)[..], b"\r\n"].concat());
            }
        }
        if host {
            head.extend(b"host: app\r\n");
        }
        for (name, value) in more {
            head.extend(format!("{name}: {value}\r\n").into_bytes());
        }
        let bytes = match content {
            None => [head, b"\r\n".to_vec()].concat(),
            Some((true, chunks)) => {
                let mut bytes = [head, b"transfer-encoding: chunked\r\n\r\n".to_vec()].concat();
                for chunk in chunks.iter().filter(|chunk| !chunk.is_empty()) {
                    bytes.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
                    bytes.extend([chunk, &b"\r\n"[..]].concat());
                }
                [bytes, b"0\r\n".to_vec(), trailers, b"\r\n".to_vec()].concat()
            }
            Some((false, all)) => {
                let all = all.concat();
                [head, format!("content-length: {}\r\n\r\n", all.len()).into_bytes(), all].concat()
            }
        };
        Request { method, bytes }
    }

    /// Sends it on a connection of its own. An error also if there is no whole response in time.
    pub(crate) fn send(&self, to: &Door) -> io::Result<Response> {
        block_on(async {
            let stream = TcpStream::connect(to.address).await?;
            match &to.tls {
                None => self.over(stream).await,
                Some(tls) => {
                    let name = ServerName::try_from(ASKED_FOR).expect("a name");
                    self.over(tls.connect(name, stream).await?).await
                }
            }
        })
    }

    async fn over(&self, stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<Response> {
        let mut wire = Wire::new(stream);
        // A server may answer, and close, before it has taken everything.
        let _ = wire.send(&self.bytes).await;
        tokio::time::timeout(PATIENCE, wire.response(&self.method)).await?
    }
}

/// Where a proxy takes requests, and with what TLS.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) address: SocketAddr,
    pub(crate) tls: Option<TlsConnector>,
}

/// The name that clients with TLS ask for.
const ASKED_FOR: &str = "asked-for.example";

/// How long either side may take for a case: much longer than anything takes that ends at all.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// `@N` is N times `y`.
fn decoded(word: &str) -> Vec<u8> {
    if let Some(count) = word.strip_prefix('@').and_then(|count| count.parse().ok()) {
        return vec![b'y'; count];
    }
    word::decoded(word)
}
