//! HTTP/1 as bytes, read strictly: what a sidecar writes must be exactly right, so nothing is forgiven here.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Header fields in the order in which they came, names as they were spelled.
pub type Fields = Vec<(String, String)>;

/// A start line and its header fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Request line or status line, without its line end.
    pub start: String,
    /// The header section.
    pub fields: Fields,
}

/// How the end of a message body is known (RFC 9112 section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    Empty,
    /// `Content-Length`.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// The connection's end.
    Close,
}

/// A whole response.
#[derive(Clone, Debug)]
pub struct Response {
    /// Heads with a status below 200 that came first.
    pub informational: Vec<Head>,
    /// The final head.
    pub head: Head,
    /// How the body was framed.
    pub framing: Framing,
    /// The body, unframed.
    pub body: Bytes,
    /// The trailer section.
    pub trailers: Fields,
}

impl Head {
    /// The first value of a field, whatever its case.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// Every value of a field, in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect()
    }

    /// The status of a status line; 0 if this is not one.
    pub fn status(&self) -> u16 {
        self.start.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0)
    }

    /// Whether a comma-separated field contains this token.
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.all(name).iter().any(|v| v.split(',').any(|t| t.trim().eq_ignore_ascii_case(token)))
    }

    /// How the body of a request with this head is framed.
    pub fn request_framing(&self) -> io::Result<Framing> {
        Ok(self.framing()?.unwrap_or(Framing::Empty))
    }

    /// How the body of a response with this head, to a request with this method, is framed.
    pub fn response_framing(&self, method: &str) -> io::Result<Framing> {
        let status = self.status();
        if method == "HEAD" || status < 200 || status == 204 || status == 304 {
            return Ok(Framing::Empty);
        }
        Ok(self.framing()?.unwrap_or(Framing::Close))
    }

    fn framing(&self) -> io::Result<Option<Framing>> {
        let codings = self.all("transfer-encoding");
        let lengths = self.all("content-length");
        match (codings.as_slice(), lengths.as_slice()) {
            ([], []) => Ok(None),
            ([coding], []) if coding.eq_ignore_ascii_case("chunked") => Ok(Some(Framing::Chunked)),
            ([], [length]) if !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit()) => {
                Ok(Some(Framing::Length(length.parse().map_err(|_| wrong("content-length out of range"))?)))
            }
            _ => Err(wrong(format!("ambiguous framing: codings {codings:?}, lengths {lengths:?}"))),
        }
    }
}

impl Response {
    /// The status code.
    pub fn status(&self) -> u16 {
        self.head.status()
    }

    /// The first value of a header field.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.field(name)
    }

    /// The first value of a trailer field.
    pub fn trailer(&self, name: &str) -> Option<&str> {
        self.trailers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("not JSON ({e}): {:?}", self.text()))
    }

    /// The `error` parameter of `proxy-status` (RFC 9209).
    pub fn proxy_error(&self) -> Option<String> {
        let value = self.field("proxy-status")?;
        let rest = &value[value.find("error=")? + "error=".len()..];
        Some(rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect())
    }
}

/// One end of an HTTP/1 connection, read strictly.
#[derive(Debug)]
pub struct Wire<S> {
    /// The connection itself, for what has no method here.
    pub io: S,
    buffer: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// Starts to read `io`.
    pub fn new(io: S) -> Self {
        Wire { io, buffer: BytesMut::new() }
    }

    /// Writes bytes as they are.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.io.write_all(bytes).await?;
        self.io.flush().await
    }

    /// The next head; `None` if the connection ended before its first byte.
    pub async fn head(&mut self) -> io::Result<Option<Head>> {
        let Some(start) = self.line().await? else { return Ok(None) };
        let fields = self.fields().await?;
        Ok(Some(Head { start, fields }))
    }

    /// The next response to a request with this method, with its body.
    pub async fn response(&mut self, method: &str) -> io::Result<Response> {
        let (informational, head) = self.response_head().await?;
        let framing = head.response_framing(method)?;
        let (body, trailers) = self.body(framing).await?;
        Ok(Response { informational, head, framing, body, trailers })
    }

    /// Informational heads and the final head of the next response; 101 is final.
    pub async fn response_head(&mut self) -> io::Result<(Vec<Head>, Head)> {
        let mut informational = Vec::new();
        loop {
            let head = self.head().await?.ok_or_else(|| ended("before a response"))?;
            match head.status() {
                100 | 102..=199 => informational.push(head),
                101 | 200..=599 => return Ok((informational, head)),
                _ => return Err(wrong(format!("not a status line: {:?}", head.start))),
            }
        }
    }

    /// A whole body and its trailers.
    pub async fn body(&mut self, framing: Framing) -> io::Result<(Bytes, Fields)> {
        let mut body = BytesMut::new();
        let mut left = Left::new(framing);
        loop {
            match self.data(&mut left).await? {
                Data::Bytes(bytes) => body.extend_from_slice(&bytes),
                Data::End(trailers) => return Ok((body.freeze(), trailers)),
            }
        }
    }

    /// The next piece of a body.
    pub async fn data(&mut self, left: &mut Left) -> io::Result<Data> {
        match left.framing {
            Framing::Empty => Ok(Data::End(Vec::new())),
            Framing::Length(_) | Framing::Chunked if left.bytes > 0 => {
                if self.buffer.is_empty() && self.fill().await? == 0 {
                    return Err(ended("in mid-body"));
                }
                let take = self.buffer.len().min(usize::try_from(left.bytes).unwrap_or(usize::MAX));
                left.bytes -= take as u64;
                let bytes = self.buffer.split_to(take).freeze();
                if left.bytes == 0 && left.framing == Framing::Chunked {
                    self.chunk_end().await?;
                }
                Ok(Data::Bytes(bytes))
            }
            Framing::Length(_) => Ok(Data::End(Vec::new())),
            Framing::Chunked => {
                left.bytes = self.chunk_size().await?;
                if left.bytes == 0 {
                    left.framing = Framing::Empty;
                    return Ok(Data::End(self.fields().await?));
                }
                Ok(Data::Bytes(Bytes::new()))
            }
            Framing::Close => {
                if self.buffer.is_empty() && self.fill().await? == 0 {
                    left.framing = Framing::Empty;
                    return Ok(Data::End(Vec::new()));
                }
                Ok(Data::Bytes(self.buffer.split().freeze()))
            }
        }
    }

    /// Exactly this many bytes.
    pub async fn exactly(&mut self, count: usize) -> io::Result<Bytes> {
        while self.buffer.len() < count {
            if self.fill().await? == 0 {
                return Err(ended(&format!("after {} of {count} bytes", self.buffer.len())));
            }
        }
        Ok(self.buffer.split_to(count).freeze())
    }

    /// Whatever comes next; empty at the end.
    pub async fn some(&mut self) -> io::Result<Bytes> {
        if self.buffer.is_empty() {
            self.fill().await?;
        }
        Ok(self.buffer.split().freeze())
    }

    /// Everything up to the connection's end.
    pub async fn rest(&mut self) -> io::Result<Bytes> {
        while self.fill().await? > 0 {}
        Ok(self.buffer.split().freeze())
    }

    /// Waits for the connection's end. What comes before it is kept, to be read later.
    pub async fn closed(&mut self) -> io::Result<()> {
        while self.fill().await? > 0 {}
        Ok(())
    }

    async fn fields(&mut self) -> io::Result<Fields> {
        let mut fields = Vec::new();
        loop {
            let line = self.line().await?.ok_or_else(|| ended("in a field section"))?;
            if line.is_empty() {
                return Ok(fields);
            }
            let (name, value) = line.split_once(':').ok_or_else(|| wrong(format!("no colon in {line:?}")))?;
            if name.is_empty() || !name.bytes().all(is_token) {
                return Err(wrong(format!("field name {name:?}")));
            }
            fields.push((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()));
        }
    }

    async fn chunk_size(&mut self) -> io::Result<u64> {
        let line = self.line().await?.ok_or_else(|| ended("before a chunk size"))?;
        let digits = line.split(';').next().unwrap_or_default();
        let hex = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
        u64::from_str_radix(if hex { digits } else { "-" }, 16).map_err(|_| wrong(format!("chunk size {line:?}")))
    }

    async fn chunk_end(&mut self) -> io::Result<()> {
        match self.line().await?.ok_or_else(|| ended("after chunk data"))?.as_str() {
            "" => Ok(()),
            other => Err(wrong(format!("{other:?} after chunk data"))),
        }
    }

    /// A line that ends in CR LF and contains neither; `None` at a clean end.
    async fn line(&mut self) -> io::Result<Option<String>> {
        let mut searched = 0;
        let end = loop {
            if let Some(at) = self.buffer[searched..].iter().position(|b| *b == b'\n') {
                break searched + at;
            }
            searched = self.buffer.len();
            if self.fill().await? == 0 {
                if self.buffer.is_empty() {
                    return Ok(None);
                }
                return Err(ended(&format!("in the line {:?}", String::from_utf8_lossy(&self.buffer))));
            }
        };
        let line = self.buffer.split_to(end);
        self.buffer.advance(1);
        match line.strip_suffix(b"\r") {
            Some(text) if !text.contains(&b'\r') => Ok(Some(String::from_utf8_lossy(text).into_owned())),
            _ => Err(wrong(format!("line end of {:?}", String::from_utf8_lossy(&line)))),
        }
    }

    async fn fill(&mut self) -> io::Result<usize> {
        if self.buffer.capacity() - self.buffer.len() < 16 * 1024 {
            self.buffer.reserve(64 * 1024);
        }
        self.io.read_buf(&mut self.buffer).await
    }
}

/// What is left of a body that is being read.
#[derive(Clone, Copy, Debug)]
pub struct Left {
    framing: Framing,
    bytes: u64,
}

impl Left {
    /// Nothing read yet.
    pub fn new(framing: Framing) -> Self {
        Left { framing, bytes: if let Framing::Length(n) = framing { n } else { 0 } }
    }

    /// Whether the body has ended; known as soon as its last byte is read where it has a length, else with
    /// [`Data::End`].
    pub fn is_none(&self) -> bool {
        self.bytes == 0 && matches!(self.framing, Framing::Empty | Framing::Length(_))
    }
}

/// A piece of a body.
#[derive(Clone, Debug)]
pub enum Data {
    /// Bytes of it, possibly none.
    Bytes(Bytes),
    /// Its end, with the trailers.
    End(Fields),
}

/// `name: value` lines, each with its line end.
pub fn lines(fields: &[(String, String)]) -> String {
    fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect()
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn wrong(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

fn ended(when: &str) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, format!("the connection ended {when}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], method: &str) -> io::Result<Response> {
        crate::block_on(async {
            let (near, mut far) = tokio::io::duplex(64 * 1024);
            far.write_all(bytes).await?;
            drop(far);
            Wire::new(near).response(method).await
        })
    }

    #[test]
    fn chunks_and_trailers_are_unframed() {
        let r = read(b"HTTP/1.1 103 E\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: 1\r\n\r\n", "GET").unwrap();
        assert_eq!((r.status(), r.text().as_str(), r.trailer("t")), (200, "abcde", Some("1")));
        assert_eq!(r.informational[0].status(), 103);
    }

    #[test]
    fn what_is_not_exactly_right_is_an_error() {
        for bytes in [
            &b"HTTP/1.1 200 OK\ncontent-length: 0\n\n"[..],
            b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc",
            b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length : 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
            b"garbage\r\n\r\n",
        ] {
            assert!(read(bytes, "GET").is_err(), "{:?}", String::from_utf8_lossy(bytes));
        }
    }
}
