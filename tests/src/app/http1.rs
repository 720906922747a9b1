//! The HTTP/1.1 side of the application.

use std::io;
use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{Seen, Shared, Unread, pattern, route};
use crate::wire::{self, Data, Framing, Head, Left, Wire};

/// Serves a connection to its end.
pub(super) async fn serve(stream: TcpStream, shared: &Arc<Shared>, connection: u64) -> io::Result<()> {
    let mut wire = Wire::new(stream);
    while let Some(head) = wire.head().await? {
        let unread = shared.begin();
        if let Some(bytes) = &shared.canned {
            wire.send(bytes).await?;
            return wire.io.shutdown().await;
        }
        let then = Exchange::new(&mut wire, shared, connection, head, unread)?.run().await?;
        match then {
            Then::Next => {}
            Then::Close => return wire.io.shutdown().await,
            Then::Reset => return wire.io.set_zero_linger(),
        }
    }
    Ok(())
}

enum Then {
    Next,
    Close,
    Reset,
}

/// The size of the pieces that a body is written in.
const PIECE: usize = 64 * 1024;

struct Exchange<'a> {
    wire: &'a mut Wire<TcpStream>,
    shared: &'a Shared,
    head: Head,
    framing: Framing,
    seen: Seen,
    unread: Option<Unread<'a>>,
    continued: bool,
}

impl<'a> Exchange<'a> {
    fn new(
        wire: &'a mut Wire<TcpStream>,
        shared: &'a Shared,
        connection: u64,
        head: Head,
        unread: Unread<'a>,
    ) -> io::Result<Self> {
        let framing = head.request_framing()?;
        let mut words = head.start.splitn(3, ' ').map(str::to_owned);
        let mut word = || words.next().unwrap_or_default();
        let (method, target, version) = (word(), word(), word());
        let fields = head.fields.clone();
        let chunked = framing == Framing::Chunked;
        let seen = Seen { connection, method, target, version, fields, length: 0, chunked, trailers: Vec::new() };
        Ok(Exchange { wire, shared, head, framing, seen, unread: Some(unread), continued: false })
    }

    async fn run(&mut self) -> io::Result<Then> {
        let target = self.seen.target.clone();
        let (name, argument) = route(&target);
        let number = || argument.parse::<u64>().unwrap_or(0);
        match name {
            "echo" => {
                let body = self.read().await?;
                let json = self.seen.json(&body).to_string();
                self.answer("200 OK", &[("content-type", "application/json")], json.as_bytes()).await?;
            }
            "back" => {
                let body = self.read().await?;
                self.answer("200 OK", &[], &body).await?;
            }
            "mirror" => self.mirror().await?,
            "bytes" => self.sized(number()).await?,
            "chunked" => self.chunked(number()).await?,
            "drain" => {
                self.drain().await?;
                let count = self.seen.length.to_string();
                self.answer("200 OK", &[], count.as_bytes()).await?;
            }
            "trailers" => {
                self.drain().await?;
                self.start("200 OK", &[("transfer-encoding", "chunked"), ("trailer", "x-checksum")]).await?;
                if !self.is_head() {
                    self.wire.send(b"5\r\nhello\r\n0\r\nx-checksum: abc\r\nx-count: 5\r\n\r\n").await?;
                }
            }
            "status" => {
                self.drain().await?;
                match number() {
                    204 => self.start("204 No Content", &[]).await?,
                    304 => self.start("304 Not Modified", &[("etag", "\"1\"")]).await?,
                    code => self.answer(&format!("{code} Status"), &[], b"status").await?,
                }
            }
            "hints" => {
                self.drain().await?;
                self.wire.send(b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n").await?;
                self.answer("200 OK", &[], b"hinted").await?;
            }
            "refuse" => {
                self.answer("417 Expectation Failed", &[("connection", "close")], b"no").await?;
                return Ok(Then::Close);
            }
            "early" => {
                self.continued = true;
                self.answer("200 OK", &[], b"early").await?;
                self.drain().await?;
            }
            "hold" => {
                self.drain().await?;
                self.held().await?;
                self.answer("200 OK", &[], b"held").await?;
            }
            "stall" => {
                {
                    let _held = self.shared.hold();
                    self.shared.released().await;
                }
                self.drain().await?;
                let count = self.seen.length.to_string();
                self.answer("200 OK", &[], count.as_bytes()).await?;
            }
            "drip" => {
                self.drain().await?;
                self.start("200 OK", &[("transfer-encoding", "chunked")]).await?;
                self.wire.send(b"5\r\nfirst\r\n").await?;
                self.held().await?;
                self.wire.send(b"6\r\nsecond\r\n0\r\n\r\n").await?;
            }
            "silent" => {
                self.drain().await?;
                let _held = self.shared.hold();
                self.wire.closed().await?;
            }
            "truncate" => {
                self.drain().await?;
                self.start("200 OK", &[("content-length", "100")]).await?;
                self.wire.send(&[b'x'; 50]).await?;
                return Ok(Then::Close);
            }
            "truncate-chunked" => {
                self.drain().await?;
                self.start("200 OK", &[("transfer-encoding", "chunked")]).await?;
                self.wire.send(b"5\r\nhello\r\n").await?;
                return Ok(Then::Close);
            }
            "reset" | "tear" => {
                self.drain().await?;
                self.start("200 OK", &[("content-length", "100")]).await?;
                self.wire.send(&[b'x'; 50]).await?;
                if name == "tear" {
                    self.held().await?;
                }
                return Ok(Then::Reset);
            }
            "abort" => {
                self.drain().await?;
                return Ok(Then::Close);
            }
            "close" => {
                self.drain().await?;
                self.answer("200 OK", &[("connection", "close")], b"closing").await?;
                return Ok(Then::Close);
            }
            "old" => {
                self.drain().await?;
                self.wire.send(b"HTTP/1.0 200 OK\r\ncontent-type: text/plain\r\n\r\nold body").await?;
                return Ok(Then::Close);
            }
            "large-head" => {
                self.drain().await?;
                let value = "v".repeat(usize::try_from(number()).unwrap_or(0));
                self.answer("200 OK", &[("x-large", value.as_str())], b"large").await?;
            }
            "upgrade" => return self.upgrade().await,
            _ => {
                self.drain().await?;
                self.answer("404 Not Found", &[], b"no such route").await?;
            }
        }
        Ok(if self.head.has_token("connection", "close") { Then::Close } else { Then::Next })
    }

    /// Counts as held until the test lets go, or the caller goes away. For a request that was read to its end.
    async fn held(&mut self) -> io::Result<()> {
        let _held = self.shared.hold();
        tokio::select! {
            () = self.shared.released() => Ok(()),
            closed = self.wire.closed() => closed.and(Err(io::ErrorKind::ConnectionAborted.into())),
        }
    }

    fn is_head(&self) -> bool {
        self.seen.method == "HEAD"
    }

    async fn start(&mut self, status: &str, fields: &[(&str, &str)]) -> io::Result<()> {
        let mut all = vec![("x-app".to_owned(), self.shared.name.clone())];
        all.extend(fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        self.wire.send(format!("HTTP/1.1 {status}\r\n{}\r\n", wire::lines(&all)).as_bytes()).await
    }

    async fn answer(&mut self, status: &str, fields: &[(&str, &str)], body: &[u8]) -> io::Result<()> {
        let length = body.len().to_string();
        let fields = [fields, &[("content-length", length.as_str())]].concat();
        self.start(status, &fields).await?;
        if self.is_head() { Ok(()) } else { self.wire.send(body).await }
    }

    /// RFC 9110 section 10.1.1: a server that wants the body says so.
    async fn welcome(&mut self) -> io::Result<()> {
        if self.head.has_token("expect", "100-continue") && !self.continued {
            self.continued = true;
            self.wire.send(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        Ok(())
    }

    async fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        self.each(|bytes| body.extend_from_slice(bytes)).await?;
        Ok(body)
    }

    async fn drain(&mut self) -> io::Result<()> {
        self.each(|_| {}).await
    }

    async fn each(&mut self, mut take: impl FnMut(&[u8])) -> io::Result<()> {
        self.welcome().await?;
        let mut left = Left::new(self.framing);
        loop {
            match self.wire.data(&mut left).await? {
                Data::Bytes(bytes) => {
                    self.seen.length += bytes.len() as u64;
                    take(&bytes);
                }
                Data::End(trailers) => {
                    self.seen.trailers = trailers;
                    self.note();
                    return Ok(());
                }
            }
        }
    }

    async fn mirror(&mut self) -> io::Result<()> {
        self.welcome().await?;
        let length;
        let field = match self.framing {
            Framing::Length(n) => {
                length = n.to_string();
                ("content-length", length.as_str())
            }
            Framing::Empty => ("content-length", "0"),
            Framing::Chunked | Framing::Close => ("transfer-encoding", "chunked"),
        };
        let chunked = self.framing == Framing::Chunked;
        let mut left = Left::new(self.framing);
        // Noted before the last byte of the answer goes: who has all of it may ask at once what was seen.
        if left.is_none() {
            self.note();
        }
        self.start("200 OK", &[field]).await?;
        while !left.is_none() {
            match self.wire.data(&mut left).await? {
                Data::Bytes(bytes) if bytes.is_empty() => {}
                Data::Bytes(bytes) => {
                    self.seen.length += bytes.len() as u64;
                    if left.is_none() {
                        self.note();
                    }
                    if chunked {
                        self.wire.send(format!("{:x}\r\n", bytes.len()).as_bytes()).await?;
                    }
                    self.wire.send(&bytes).await?;
                    if chunked {
                        self.wire.send(b"\r\n").await?;
                    }
                }
                Data::End(trailers) => {
                    let lines = wire::lines(&trailers);
                    self.seen.trailers = trailers;
                    self.note();
                    if chunked {
                        self.wire.send(format!("0\r\n{lines}\r\n").as_bytes()).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The request was read to its end.
    fn note(&mut self) {
        if let Some(unread) = self.unread.take() {
            unread.see(self.seen.clone());
        }
    }

    async fn sized(&mut self, length: u64) -> io::Result<()> {
        self.drain().await?;
        self.start("200 OK", &[("content-length", &length.to_string())]).await?;
        if self.is_head() {
            return Ok(());
        }
        let mut sent = 0;
        while sent < length {
            let piece = pattern(sent, PIECE.min(usize::try_from(length - sent).unwrap_or(PIECE)));
            self.wire.send(&piece).await?;
            sent += piece.len() as u64;
        }
        Ok(())
    }

    async fn chunked(&mut self, length: u64) -> io::Result<()> {
        self.drain().await?;
        self.start("200 OK", &[("transfer-encoding", "chunked")]).await?;
        if self.is_head() {
            return Ok(());
        }
        let mut sent = 0;
        while sent < length {
            let piece = pattern(sent, PIECE.min(usize::try_from(length - sent).unwrap_or(PIECE)));
            self.wire.send(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
            self.wire.send(&piece).await?;
            self.wire.send(b"\r\n").await?;
            sent += piece.len() as u64;
        }
        self.wire.send(b"0\r\n\r\n").await
    }

    async fn upgrade(&mut self) -> io::Result<Then> {
        let asked = self.head.field("upgrade").map(str::to_owned);
        self.drain().await?;
        let Some(protocol) = asked.filter(|_| self.head.has_token("connection", "upgrade")) else {
            self.answer("426 Upgrade Required", &[("upgrade", "echo")], b"upgrade, please").await?;
            return Ok(Then::Next);
        };
        self.start("101 Switching Protocols", &[("connection", "upgrade"), ("upgrade", protocol.as_str())]).await?;
        loop {
            let bytes = self.wire.some().await?;
            if bytes.is_empty() {
                self.wire.send(b"bye").await?;
                return Ok(Then::Close);
            }
            self.wire.send(&bytes).await?;
        }
    }
}
