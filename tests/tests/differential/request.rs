//! The request of a row: `METHOD PATH [name:value]… [HTTP/2] [<content] [<<chunk|chunk] [>>name:value]`, words percent-encoded.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use lacis_tests::block_on;
use lacis_tests::client::{H2Response, H2c};
use lacis_tests::wire::{Fields, Framing, Head, Response, Wire};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::word;

/// A request.
pub(crate) struct Request {
    method: String,
    path: String,
    /// Lines of the header section, framing left out.
    fields: Vec<Vec<u8>>,
    content: Content,
    trailers: Vec<Vec<u8>>,
    http2: bool,
}

enum Content {
    None,
    /// With its length.
    Length(Vec<u8>),
    Chunked(Vec<Vec<u8>>),
}

impl Request {
    /// Reads a row; `more` are further fields.
    pub(crate) fn parse(text: &str, more: &[(&str, &str)]) -> Request {
        let mut words = text.split(' ').filter(|word| !word.is_empty());
        let (method, path) = (words.next().expect("a method").to_owned(), words.next().expect("a path").to_owned());
        let (fields, content, trailers) = (Vec::new(), Content::None, Vec::new());
        let mut request = Request { method, path, fields, content, trailers, http2: false };
        let mut host = true;
        for word in words {
            if let Some(chunks) = word.strip_prefix("<<") {
                request.content = Content::Chunked(chunks.split('|').map(decoded).collect());
            } else if let Some(all) = word.strip_prefix('<') {
                request.content = Content::Length(decoded(all));
            } else if let Some(trailer) = word.strip_prefix(">>") {
                request.trailers.push(decoded(trailer));
            } else if word == "HTTP/2" {
                request.http2 = true;
            } else {
                host &= !word.starts_with("host:");
                request.fields.push(decoded(word));
            }
        }
        if host {
            request.fields.push(b"host: app".to_vec());
        }
        request.fields.extend(more.iter().map(|(name, value)| format!("{name}: {value}").into_bytes()));
        request
    }

    /// Sends it on a connection of its own. An error also if there is no whole response in time.
    pub(crate) fn send(&self, to: &Door) -> io::Result<Response> {
        block_on(async {
            if self.http2 {
                return tokio::time::timeout(PATIENCE, self.over_http2(to.address)).await?;
            }
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
        let (read, mut write) = tokio::io::split(stream);
        let mut wire = Wire::new(tokio::io::join(read, tokio::io::sink()));
        let bytes = self.bytes();
        // A server may answer, and close, before it has taken everything.
        let send = tokio::time::timeout(PATIENCE, async {
            write.write_all(&bytes).await?;
            write.flush().await
        });
        let response = tokio::time::timeout(PATIENCE, wire.response(&self.method));
        let (_, response) = tokio::join!(send, response);
        response?
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\n", self.method, self.path).into_bytes();
        let line = |line: &[u8]| [line, b"\r\n"].concat();
        bytes.extend(self.fields.iter().flat_map(|field| line(field)));
        match &self.content {
            Content::None => bytes.extend(b"\r\n"),
            Content::Length(all) => {
                bytes.extend(format!("content-length: {}\r\n\r\n", all.len()).into_bytes());
                bytes.extend(all);
            }
            Content::Chunked(chunks) => {
                bytes.extend(b"transfer-encoding: chunked\r\n\r\n");
                for chunk in chunks.iter().filter(|chunk| !chunk.is_empty()) {
                    bytes.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
                    bytes.extend(line(chunk));
                }
                bytes.extend(b"0\r\n");
                bytes.extend(self.trailers.iter().flat_map(|trailer| line(trailer)));
                bytes.extend(b"\r\n");
            }
        }
        bytes
    }

    /// The same over HTTP/2: a length is said if the row says it, and what is chunked ends with its stream.
    async fn over_http2(&self, to: SocketAddr) -> io::Result<Response> {
        let mut fields = map(&self.fields);
        let host = fields.remove("host");
        let host = host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default();
        let (body, announced) = match &self.content {
            Content::None => (Vec::new(), false),
            Content::Length(all) => (all.clone(), true),
            Content::Chunked(chunks) => (chunks.concat(), false),
        };
        if announced {
            fields.insert("content-length", body.len().into());
        }
        let uri = format!("http://{host}{}", self.path);
        let mut request =
            http::Request::builder().method(self.method.as_str()).uri(uri).body(()).map_err(io::Error::other)?;
        *request.headers_mut() = fields;
        let trailers = (!self.trailers.is_empty()).then(|| map(&self.trailers));
        let client = H2c::open(to).await?;
        let answer = client.request(request, Bytes::from(body), trailers).await.map_err(io::Error::other)?;
        Ok(self.as_http1(answer))
    }

    /// What came over HTTP/2, as it would be over HTTP/1.
    fn as_http1(&self, answer: H2Response) -> Response {
        let lines = |map: &HeaderMap| -> Fields {
            map.iter().map(|(n, v)| (n.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned())).collect()
        };
        let head = Head { start: format!("HTTP/2 {} ", answer.status), fields: lines(&answer.headers) };
        let framing = match head.response_framing(&self.method) {
            Ok(Framing::Close) | Err(_) => Framing::Chunked,
            Ok(framing) => framing,
        };
        Response { informational: Vec::new(), head, framing, body: answer.body, trailers: lines(&answer.trailers) }
    }
}

/// Lines `name:value` as HTTP/2 has them.
fn map(lines: &[Vec<u8>]) -> HeaderMap {
    let split = |line: &Vec<u8>| {
        let at = line.iter().position(|b| *b == b':').expect("a colon");
        let name = HeaderName::from_bytes(&line[..at]).expect("a name");
        (name, HeaderValue::from_bytes(line[at + 1..].trim_ascii()).expect("a value"))
    };
    let mut map = HeaderMap::new();
    for (name, value) in lines.iter().map(split) {
        map.append(name, value);
    }
    map
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

/// `@N` is N times `y`, `#N` as much of a text that goes on differently.
fn decoded(word: &str) -> Vec<u8> {
    if let Some(count) = word.strip_prefix('#').and_then(|count| count.parse().ok()) {
        return (0..).flat_map(|number: u32| format!("{number}.").into_bytes()).take(count).collect();
    }
    if let Some(count) = word.strip_prefix('@').and_then(|count| count.parse().ok()) {
        return vec![b'y'; count];
    }
    word::decoded(word)
}
