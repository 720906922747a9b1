//! Heads and trailers to and from field sections, by h3.
//!
//! h3's futures never wait here: the streams that it sees are memory (`adapter::Desk`).

use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h3::SharedState;
use h3::error::{Code, StreamError};
use h3::frame::FrameStream;
use h3::proto::frame::Frame;
use h3::stream::BufRecvStream;
use http::uri::Scheme;
use http::{HeaderMap, Method, Uri, header};

use super::adapter::{Desk, Opener, Quic};
use super::frame::{kind, varint, write_varint};
use super::section::{self, Kind};
use super::{Broken, code};
use crate::fault::{Reason, Side};
use crate::http::head::{RequestHead, ResponseHead, Version};
use crate::http::rules::{self, MAX_HEAD_BYTES, MAX_TRAILER_BYTES};

/// A connection, as its streams share it.
pub(super) struct Wire {
    quic: quinn::Connection,
    desk: Desk,
    state: Arc<SharedState>,
    peer: Side,
}

impl Wire {
    pub(super) fn new(quic: quinn::Connection, desk: Desk, state: Arc<SharedState>, peer: Side) -> Rc<Self> {
        Rc::new(Wire { quic, desk, state, peer })
    }

    pub(super) fn quic(&self) -> &quinn::Connection {
        &self.quic
    }

    /// On which side the peer is.
    pub(super) fn peer(&self) -> Side {
        self.peer
    }

    pub(super) fn is_server(&self) -> bool {
        self.peer == Side::Downstream
    }

    /// Closes the connection at once.
    pub(super) fn close(&self, reason: Code, what: &str) {
        self.quic.close(code(reason), what.as_bytes());
    }

    /// The type and length of a frame, encoded.
    pub(super) fn frame_header(&self, kind: u64, length: u64) -> Bytes {
        self.desk.write(|out| {
            write_varint(out, kind);
            write_varint(out, length);
        })
    }

    /// Checks a section. One that cannot be decoded closes the connection: what later ones mean is unknown.
    fn check(&self, payload: &[u8], kind: Kind) -> Result<(), Broken> {
        section::check(payload, kind).inspect_err(|broken| {
            if let Broken::Garbled(what) = broken {
                self.close(Code::QPACK_DECOMPRESSION_FAILED, what);
            }
        })
    }

    /// The frame that carries these trailers.
    pub(super) fn encode_trailers(&self, mut trailers: HeaderMap) -> Result<Bytes, Broken> {
        rules::clean_trailers(&mut trailers);
        now(self.section(0).send_trailers(trailers)).map_err(encoding)?;
        Ok(self.desk.take())
    }

    /// The trailers of a checked section.
    pub(super) fn decode_trailers(&self, payload: Bytes) -> Result<HeaderMap, Broken> {
        self.check(&payload, Kind::Trailers)?;
        self.lay_out(payload);
        let mut section = self.section(MAX_TRAILER_BYTES as u64);
        let trailers = now(std::future::poll_fn(|cx| section.poll_recv_trailers(cx)));
        let trailers = trailers.map_err(decoding)?.unwrap_or_default();
        rules::check_fields(&trailers, self.malformed()).map_err(|_| CONNECTION_FIELD)?;
        Ok(trailers)
    }

    /// A stream of h3's to code one section with.
    fn section(&self, limit: u64) -> h3::connection::RequestStream<Desk, Bytes> {
        let stream = FrameStream::new(BufRecvStream::new(self.desk.clone()));
        h3::connection::RequestStream::new(stream, limit, Arc::clone(&self.state), false)
    }

    /// Puts a section before h3, as the frame that it was.
    fn lay_out(&self, payload: Bytes) {
        let header = self.frame_header(kind::HEADERS, payload.len() as u64);
        self.desk.put([header, payload]);
    }

    fn malformed(&self) -> Reason {
        if self.is_server() { Reason::HttpRequestError } else { Reason::HttpProtocolError }
    }
}

const CONNECTION_FIELD: Broken = Broken::Malformed("a field that belongs to a connection");

/// The server's side of h3.
pub(super) struct Server {
    pub(super) wire: Rc<Wire>,
    pub(super) h3: RefCell<h3::server::Connection<Quic, Bytes>>,
    /// Encodes heads. To h3, the response to a request that never was; it stands for all.
    responder: RefCell<h3::server::RequestStream<Desk, Bytes>>,
}

/// The smallest section that h3 takes for a request: GET, https, /, and an authority.
const SOME_REQUEST: &[u8] = b"\0\0\xd1\xd7\xc1\x50\x01a";

impl Server {
    /// Starts HTTP/3: our SETTINGS are on their way.
    pub(super) async fn start(quic: quinn::Connection) -> Result<Self, Broken> {
        let desk = Desk::default();
        let adapter = Quic::open(quic.clone(), desk.clone()).await.map_err(Broken::Lost)?;
        let mut builder = h3::server::builder();
        builder.max_field_section_size(MAX_HEAD_BYTES as u64).send_grease(false);
        let h3 = builder.build(adapter).await.map_err(|_| lost(&quic))?;
        let wire = Wire::new(quic, desk.clone(), Arc::clone(&h3.inner.shared), Side::Downstream);
        let (_, responder) = resolve(&h3, desk, Bytes::from_static(SOME_REQUEST))?;
        Ok(Server { wire, h3: RefCell::new(h3), responder: RefCell::new(responder) })
    }

    /// The head of a request, from its section.
    pub(super) fn decode(&self, payload: Bytes) -> Result<RequestHead, Broken> {
        self.wire.check(&payload, Kind::Request)?;
        let resolved = resolve(&self.h3.borrow(), self.wire.desk.clone(), payload);
        if resolved.is_err() {
            // h3 may have written an answer of its own.
            self.wire.desk.take();
        }
        head(resolved?.0)
    }

    /// The frame that carries this head.
    pub(super) fn encode(&self, head: ResponseHead) -> Result<Bytes, Broken> {
        let mut response = http::Response::new(());
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers;
        now(self.responder.borrow_mut().send_response(response)).map_err(encoding)?;
        Ok(self.wire.desk.take())
    }
}

fn resolve(
    h3: &h3::server::Connection<Quic, Bytes>,
    desk: Desk,
    payload: Bytes,
) -> Result<(http::Request<()>, h3::server::RequestStream<Desk, Bytes>), Broken> {
    let resolver = h3.create_resolver(FrameStream::new(BufRecvStream::new(desk)));
    let request = resolver.accept_with_frame(Ok(Some(Frame::Headers(payload)))).map_err(decoding)?;
    now(request.resolve()).map_err(decoding)
}

/// The client's side of h3.
pub(super) struct Client {
    pub(super) wire: Rc<Wire>,
    sender: RefCell<h3::client::SendRequest<Opener, Bytes>>,
}

/// Decodes the responses to one request.
pub(super) type Asker = h3::client::RequestStream<Desk, Bytes>;

impl Client {
    /// Starts HTTP/3: our SETTINGS are on their way. The connection needs its driver.
    pub(super) async fn start(
        quic: quinn::Connection,
    ) -> Result<(Self, h3::client::Connection<Quic, Bytes>), quinn::ConnectionError> {
        let desk = Desk::default();
        let adapter = Quic::open(quic.clone(), desk.clone()).await?;
        let mut builder = h3::client::builder();
        builder.max_field_section_size(MAX_HEAD_BYTES as u64).send_grease(false);
        let started = builder.build(adapter).await;
        let (driver, sender) =
            started.map_err(|_| quic.close_reason().unwrap_or(quinn::ConnectionError::LocallyClosed))?;
        let wire = Wire::new(quic, desk, Arc::clone(&driver.inner.shared), Side::Upstream);
        Ok((Client { wire, sender: RefCell::new(sender) }, driver))
    }

    /// The frame that carries this head, whose authority is known.
    pub(super) fn encode(&self, head: RequestHead) -> Result<(Bytes, Asker), Broken> {
        let connect = head.method == Method::CONNECT;
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(if head.https { Scheme::HTTPS } else { Scheme::HTTP });
        parts.authority = head.authority;
        parts.path_and_query = Some(head.path);
        let mut request = http::Request::new(());
        *request.method_mut() = head.method;
        *request.uri_mut() = Uri::from_parts(parts).map_err(|_| Broken::Malformed("a target that is no URI"))?;
        *request.headers_mut() = head.headers;
        let asker = now(self.sender.borrow_mut().send_request(request)).map_err(encoding)?;
        let frame = self.wire.desk.take();
        Ok((if connect { self.bare(&frame)? } else { frame }, asker))
    }

    /// The frame of a CONNECT request, which h3 encodes like any other, without what it may not say (RFC 9114 section 4.4).
    fn bare(&self, mut frame: &[u8]) -> Result<Bytes, Broken> {
        let _type_and_length = (varint(&mut frame), varint(&mut frame));
        let section = section::connect(frame)?;
        let header = self.wire.frame_header(kind::HEADERS, section.len() as u64);
        Ok(Bytes::from([&header[..], &section].concat()))
    }

    /// The head of a response, from its section.
    pub(super) fn decode(&self, asker: &mut Asker, payload: Bytes) -> Result<ResponseHead, Broken> {
        self.wire.check(&payload, Kind::Response)?;
        self.wire.lay_out(payload);
        let (parts, ()) = now(asker.recv_response()).map_err(decoding)?.into_parts();
        rules::check_fields(&parts.headers, Reason::HttpProtocolError).map_err(|_| CONNECTION_FIELD)?;
        if parts.status == http::StatusCode::SWITCHING_PROTOCOLS {
            return Err(Broken::Malformed("status 101, which HTTP/3 does not have"));
        }
        Ok(ResponseHead { status: parts.status, headers: parts.headers, upgrade: None })
    }
}

/// A request as h3 parsed it, with what it left unchecked (RFC 9114 sections 4.2 and 4.3.1).
fn head(request: http::Request<()>) -> Result<RequestHead, Broken> {
    let (parts, ()) = request.into_parts();
    let (uri, mut headers) = (parts.uri.into_parts(), parts.headers);
    rules::check_fields(&headers, Reason::HttpRequestError).map_err(|_| CONNECTION_FIELD)?;
    // h3 has compared Host with :authority, one of which is there; the first Host, though.
    if headers.get_all(header::HOST).iter().count() > 1 {
        return Err(Broken::Malformed("more than one host"));
    }
    headers.remove(header::HOST);
    if uri.authority.as_ref().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(Broken::Malformed("user information in the authority"));
    }
    let connect = parts.method == Method::CONNECT;
    let https = match uri.scheme {
        Some(scheme) if !connect && scheme == Scheme::HTTPS => true,
        Some(scheme) if !connect && scheme == Scheme::HTTP => false,
        None if connect => true,
        _ => return Err(Broken::Malformed("a scheme that is not spoken here, or none")),
    };
    let path = match uri.path_and_query {
        Some(path)
            if !connect && (path.as_str().starts_with('/') || path == "*" && parts.method == Method::OPTIONS) =>
        {
            path
        }
        None if connect => http::uri::PathAndQuery::from_static("/"),
        _ => return Err(Broken::Malformed("a path that does not fit the method, or none")),
    };
    let (method, authority) = (parts.method, uri.authority);
    Ok(RequestHead { method, authority, path, https, headers, version: Version::Http3, upgrade: None })
}

/// The result of a future that never waits.
fn now<T>(future: impl Future<Output = Result<T, StreamError>>) -> Result<T, StreamError> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => Err(StreamError::Undefined("h3 waits for more than a section".into())),
    }
}

/// What h3 says of a section of the peer. It has closed the connection for some of it already.
fn decoding(error: StreamError) -> Broken {
    match error {
        StreamError::HeaderTooBig { .. } => Broken::TooLarge,
        _ => Broken::Malformed("a field section that is not valid"),
    }
}

/// What h3 says of a head or trailers of ours.
fn encoding(error: StreamError) -> Broken {
    match error {
        StreamError::HeaderTooBig { .. } => Broken::Unwanted,
        _ => Broken::Malformed("a head that HTTP/3 cannot say"),
    }
}

/// What became of a connection on which h3 could not start.
fn lost(quic: &quinn::Connection) -> Broken {
    Broken::Lost(quic.close_reason().unwrap_or(quinn::ConnectionError::LocallyClosed))
}
