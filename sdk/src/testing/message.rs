//! What a test gives to a filter, and what comes out.

use std::time::Duration;

use crate::call::{self, Outgoing, Told};
use crate::grpc::Unary;
use crate::headers::Value;

/// Names and values in their order, pseudo-headers first.
pub type Lines = Vec<(String, Vec<u8>)>;

/// A request or a response. Two are equal if a caller could not tell them apart: however their bodies are cut.
#[derive(Clone, Debug, Eq)]
pub struct Message {
    pub(super) headers: Lines,
    pub(super) has_body: bool,
    pub(super) chunks: Vec<Vec<u8>>,
    pub(super) trailers: Option<Lines>,
}

impl PartialEq for Message {
    fn eq(&self, other: &Self) -> bool {
        let Self { headers, has_body, chunks: _, trailers } = self;
        (headers, has_body, trailers) == (&other.headers, &other.has_body, &other.trailers)
            && self.content() == other.content()
    }
}

impl Message {
    /// A GET request for `http://localhost` and a path.
    pub fn get(path: &str) -> Self {
        Self::request("GET", path)
    }

    /// A POST request for `http://localhost` and a path; give it a body.
    pub fn post(path: &str) -> Self {
        Self::request("POST", path)
    }

    /// A request for `http://localhost` and a path.
    pub fn request(method: &str, path: &str) -> Self {
        let headers = [(":authority", "localhost"), (":path", path), (":method", method), (":scheme", "http")];
        Self::new(&headers)
    }

    /// A response.
    pub fn response(status: u16) -> Self {
        Self::new(&[(":status", &status.to_string())])
    }

    fn new(headers: &[(&str, &str)]) -> Self {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_owned())).collect();
        Self { headers, has_body: false, chunks: Vec::new(), trailers: None }
    }

    /// Adds a header; the value may be any bytes. A pseudo-header is replaced.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        if name.starts_with(':') {
            self.headers.retain(|(own, _)| own != name);
        }
        self.headers.push((name.to_ascii_lowercase(), value.as_ref().to_owned()));
        self
    }

    /// Says that a body follows, of no bytes unless it is given some.
    #[must_use]
    pub fn with_body(mut self) -> Self {
        self.has_body = true;
        self
    }

    /// Gives it a body, as one piece, and a header that says its length.
    #[must_use]
    pub fn body(self, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        let length = body.len().to_string();
        self.header("content-length", length).chunk(body)
    }

    /// Adds a piece of a body, as it might arrive.
    #[must_use]
    pub fn chunk(mut self, chunk: impl Into<Vec<u8>>) -> Self {
        self.chunks.push(chunk.into());
        self.with_body()
    }

    /// Adds a trailer.
    #[must_use]
    pub fn trailer(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let line = (name.to_ascii_lowercase(), value.as_ref().to_owned());
        self.trailers.get_or_insert_default().push(line);
        self.with_body()
    }

    /// The first value of a header, with U+FFFD for what is not UTF-8.
    pub fn value(&self, name: &str) -> Option<String> {
        first(&self.headers, name)
    }

    /// The first value of a trailer, with U+FFFD for what is not UTF-8.
    pub fn trailer_value(&self, name: &str) -> Option<String> {
        first(self.trailers.as_ref()?, name)
    }

    /// The status of a response; 0 if it has none.
    pub fn status(&self) -> u16 {
        self.value(":status").and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    /// All headers.
    pub fn headers(&self) -> &Lines {
        &self.headers
    }

    /// The whole body.
    pub fn content(&self) -> Vec<u8> {
        self.chunks.concat()
    }

    /// The whole body, with U+FFFD for what is not UTF-8.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.content()).into_owned()
    }

    /// The body in the pieces in which the filter let it go on.
    pub fn chunks(&self) -> &[Vec<u8>] {
        &self.chunks
    }
}

fn first(lines: &Lines, name: &str) -> Option<String> {
    let value = lines.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value);
    value.map(|value| String::from_utf8_lossy(value).into_owned())
}

/// A call that a filter has made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Called {
    service: String,
    headers: Lines,
    body: Vec<u8>,
    timeout: Duration,
    grpc: bool,
}

impl Called {
    /// An HTTP call.
    pub fn new(service: &str, headers: Lines, body: Vec<u8>, timeout: Duration) -> Self {
        Self { service: service.to_owned(), headers, body, timeout, grpc: false }
    }

    /// A gRPC call of a method of a service, sent to `upstream`.
    pub fn new_grpc(
        upstream: &str,
        service: &str,
        method: &str,
        metadata: Lines,
        message: Vec<u8>,
        timeout: Duration,
    ) -> Self {
        let path = format!("/{service}/{method}").into_bytes();
        let headers = std::iter::once((":path".to_owned(), path)).chain(metadata).collect();
        Self { service: upstream.to_owned(), headers, body: message, timeout, grpc: true }
    }

    pub(super) fn http(call: &Outgoing) -> Self {
        let Outgoing { service, headers, body, timeout } = call;
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.as_bytes().to_owned())).collect();
        Self::new(service, headers, body.clone(), *timeout)
    }

    pub(super) fn grpc(call: &Unary) -> Self {
        let Unary { upstream, service, method, metadata, message, timeout } = call;
        Self::new_grpc(upstream, service, method, metadata.clone(), message.clone(), *timeout)
    }

    /// The service that was called.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// The path with its query; of a gRPC call `/SERVICE/METHOD`.
    pub fn path(&self) -> String {
        self.value(":path").unwrap_or_default()
    }

    /// The method; empty for a gRPC call.
    pub fn method(&self) -> String {
        self.value(":method").unwrap_or_default()
    }

    /// The first value of a header, or of metadata, with U+FFFD for what is not UTF-8.
    pub fn value(&self, name: &str) -> Option<String> {
        first(&self.headers, name)
    }

    /// Its body, or its message.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// How long it may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }
}

/// What a service answers.
#[derive(Clone, Debug)]
pub struct Answer {
    message: Option<Message>,
    delay: Duration,
}

impl Answer {
    /// An answer without headers and body.
    pub fn new(status: u16) -> Self {
        Self { message: Some(Message::response(status)), delay: Duration::ZERO }
    }

    /// The connection breaks before there is an answer.
    pub fn broken() -> Self {
        Self { message: None, delay: Duration::ZERO }
    }

    /// There is no answer until the call has taken too long: then the proxy tells it as one with status 504.
    pub fn silent() -> Self {
        Self::new(200).after(Duration::MAX)
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.message = self.message.map(|message| message.header(name, value));
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.message = self.message.map(|message| message.chunk(body));
        self
    }

    /// Adds a trailer.
    #[must_use]
    pub fn trailer(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.message = self.message.map(|message| message.trailer(name, value));
        self
    }

    /// It takes so long.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// When it is told, and as what.
    pub(super) fn told(self, call: &Called) -> (Duration, Told) {
        const DEADLINE_EXCEEDED: u32 = 4;
        const UNAVAILABLE: u32 = 14;
        let Self { message, delay } = self;
        let late = delay > call.timeout;
        let delay = delay.min(call.timeout);
        let told = match message {
            _ if late && call.grpc => Told::Closed(DEADLINE_EXCEEDED),
            _ if late => Told::Answer(answer(Self::new(504).body("upstream request timeout").message)),
            None if call.grpc => Told::Closed(UNAVAILABLE),
            Some(message) if call.grpc => match message.value("grpc-status").and_then(|code| code.parse().ok()) {
                None | Some(0) => Told::Message(message.content()),
                Some(code) => Told::Closed(code),
            },
            message => Told::Answer(answer(message)),
        };
        (delay, told)
    }
}

fn answer(message: Option<Message>) -> call::Answer {
    let Some(message) = message else { return call::Answer::default() };
    let values = |lines: Lines| lines.into_iter().map(|(name, value)| (name, Value(value))).collect();
    call::Answer {
        body: message.content(),
        headers: values(message.headers),
        trailers: values(message.trailers.unwrap_or_default()),
        service: String::new(),
    }
}
