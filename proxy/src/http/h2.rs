//! HTTP/2 (RFC 9113), both sides, on the `h2` crate: streams in and out of our messages.
//!
//! The crate keeps framing, flow control and the attacks on them; here is what a hop adds: heads checked by the rules
//! that all versions share, bodies that are pulled, interim responses, and links that know how full they are.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::uri::{self, PathAndQuery, Scheme};
use http::{Method, header};
use tokio::sync::Notify;

use super::body::{self, Body, Frame, Half, Length, Source};
use super::head::{RequestHead, ResponseHead, Version};
use super::rules::{self, MAX_HEAD_BYTES};
use super::{Interim, Request, Response, Service};
use crate::drain::{Drain, Guard, Phase};
use crate::fault::{Fault, Reason, Retry};
use crate::net::io::Io;
use crate::tls;

/// Requests that one connection may carry at a time. A peer is one authenticated sidecar or the own application, so
/// this bounds a mistake, not an attack: room for the 10,000 concurrent requests of one large caller.
pub const MAX_STREAMS: u32 = 16_384;

/// Flow-control window of one stream: at 1 ms round trip a gigabyte a second, and what one stalled reader can hold.
const STREAM_WINDOW: u32 = 1024 * 1024;

/// Window of a connection: several streams' worth, so that a stalled one does not stop its siblings.
const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;

/// Largest frame that we accept. Bigger frames mean fewer of them; small responses still get in between.
const MAX_FRAME: u32 = 64 * 1024;

/// What one stream may have waiting to be written.
const SEND_BUFFER: usize = 256 * 1024;

/// Streams that a peer may reset before we took them (CVE-2023-44487, rapid reset), per connection. A link carries many
/// callers, and one that leaves resets all of his at once; such a stream costs no more than one that is open.
const MAX_PENDING_RESETS: usize = MAX_STREAMS as usize;

/// Streams that we have reset and still know, so that what a client had already sent on them is no error of it.
const RESET_STREAMS: usize = 1024;

/// Streams that a client may make us reset by errors of its own, over the life of the connection (CVE-2025-8671). A link
/// lives for weeks, so this is no small number.
const MAX_ERROR_RESETS: usize = 65_536;

/// An idle link is asked whether it is alive this often, and given up when the answer does not come within [`PING_TIMEOUT`].
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves one connection until it ends.
pub async fn serve<S: Service>(io: Io, service: Rc<S>, drain: Drain) {
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(MAX_STREAMS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_header_list_size(MAX_HEAD_BYTES as u32)
        .max_send_buffer_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_concurrent_reset_streams(RESET_STREAMS)
        .max_local_error_reset_streams(Some(MAX_ERROR_RESETS));
    let Ok(mut connection) = builder.handshake::<_, Bytes>(io).await else { return };
    let mut quiet = pin!(drain.reached(Phase::Quiet));
    let mut cut = pin!(drain.reached(Phase::Cut));
    let mut draining = false;
    poll_fn(|cx| {
        if cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if !draining && quiet.as_mut().poll(cx).is_ready() {
            draining = true;
            connection.graceful_shutdown();
        }
        loop {
            match ready!(connection.poll_accept(cx)) {
                Some(Ok((request, respond))) => {
                    // Its end is the connection's, which ends when its last stream has.
                    tokio::task::spawn_local(exchange(Rc::clone(&service), request, respond));
                }
                Some(Err(error)) => {
                    // Its GOAWAY is written; asked again it would say the same for ever.
                    tracing::debug!(%error, "an HTTP/2 connection broke");
                    return Poll::Ready(());
                }
                None => return Poll::Ready(()),
            }
        }
    })
    .await;
}

/// One request and its response.
async fn exchange<S: Service>(
    service: Rc<S>,
    request: http::Request<RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
) {
    let interim = Rc::new(Interim::default());
    let method = request.method().clone();
    let response = match incoming_request(request, &interim) {
        Err(fault) => service.refuse(fault),
        Ok(request) => {
            let mut call = pin!(service.call(request));
            let answered = poll_fn(|cx| {
                let response = call.as_mut().poll(cx);
                // Also those that came with the final head: they go before it.
                for head in interim.take() {
                    // A stream that is gone shows below.
                    let _ = respond.send_informational(outgoing_response(head));
                }
                match response {
                    Poll::Ready(response) => Poll::Ready(Some(response)),
                    Poll::Pending => respond.poll_reset(cx).map(|_| None),
                }
            });
            match answered.await {
                Some(response) => response,
                None => return,
            }
        }
    };
    let Response { head, body } = response;
    let bodiless = head.is_bodiless(&method);
    let end = body.is_end() || bodiless;
    let Ok(stream) = respond.send_response(outgoing_response(head), end) else { return };
    if end {
        let mut body = body;
        let _ = poll_fn(|cx| body.poll_uploaded(cx)).await;
    } else {
        let mut pump = Pump::new(body, stream, Half::Response);
        // The exchange has recorded what went wrong, the stream was reset.
        let _ = poll_fn(|cx| pump.poll(cx)).await;
    }
}

fn incoming_request(request: http::Request<RecvStream>, interim: &Rc<Interim>) -> Result<Request, Fault> {
    let malformed = |why: &'static str| Fault::new(Reason::HttpRequestError).detail(why);
    let (parts, stream) = request.into_parts();
    if parts.method == Method::CONNECT {
        return Err(Fault::new(Reason::UnsupportedRequest).detail("the method CONNECT"));
    }
    let mut headers = parts.headers;
    rules::check_fields(&headers, Reason::HttpRequestError)?;
    let length = rules::content_length(&headers, Reason::HttpRequestError)?;
    let uri::Parts { scheme, authority, path_and_query, .. } = parts.uri.into_parts();
    let host = headers.remove(header::HOST);
    let authority = match (authority, host) {
        // RFC 9113 section 8.3.1: they may both be there if they agree.
        (Some(authority), Some(host)) if !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) => {
            return Err(malformed("host and :authority differ"));
        }
        (Some(authority), _) => Some(authority),
        (None, Some(host)) => Some(
            uri::Authority::from_maybe_shared(Bytes::from_owner(host))
                .map_err(|_| malformed("a host that is not a host"))?,
        ),
        (None, None) => return Err(malformed("neither :authority nor host")),
    };
    let head = RequestHead {
        method: parts.method,
        authority,
        path: path_and_query.ok_or_else(|| malformed("no :path"))?,
        https: scheme == Some(Scheme::HTTPS),
        headers,
        version: Version::Http2,
        upgrade: None,
    };
    let body = incoming_body(stream, length, Half::Request, None);
    Ok(Request { head, body, interim: Rc::clone(interim) })
}

fn incoming_body(stream: RecvStream, length: Option<u64>, half: Half, flight: Option<Flight>) -> Body {
    if stream.is_end_stream() {
        return Body::empty(half);
    }
    Body::source(
        half,
        Source::H2(Incoming { stream, half, data_read: false, _flight: flight }),
        length.map_or(Length::Unknown, Length::Known),
    )
}

fn outgoing_response(head: ResponseHead) -> http::Response<()> {
    let mut response = http::Response::new(());
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    response
}

fn outgoing_request(head: RequestHead) -> Result<http::Request<()>, Fault> {
    let mut parts = uri::Parts::default();
    parts.scheme = Some(if head.https { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = head.authority;
    parts.path_and_query = Some(match head.path.as_str() {
        "*" => PathAndQuery::from_static("*"),
        _ => head.path,
    });
    let mut request = http::Request::new(());
    *request.uri_mut() = uri::Uri::from_parts(parts)
        .map_err(|e| Fault::new(Reason::HttpRequestError).from(e).detail("a request without a host"))?;
    *request.method_mut() = head.method;
    *request.headers_mut() = head.headers;
    *request.version_mut() = http::Version::HTTP_2;
    Ok(request)
}

/// The body of a stream.
#[derive(Debug)]
pub struct Incoming {
    stream: RecvStream,
    half: Half,
    data_read: bool,
    _flight: Option<Flight>,
}

impl Incoming {
    /// The next frame.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Fault>>> {
        if !self.data_read {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // Whoever pulled the frame holds it until it is written: only then is the next one asked for.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(Ok(Frame::Data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(stream_fault(&error, self.half)))),
                None => self.data_read = true,
            }
        }
        match ready!(self.stream.poll_trailers(cx)) {
            Ok(Some(mut trailers)) => {
                rules::clean_trailers(&mut trailers);
                Poll::Ready(Some(Ok(Frame::Trailers(trailers))))
            }
            Ok(None) => Poll::Ready(None),
            Err(error) => Poll::Ready(Some(Err(stream_fault(&error, self.half)))),
        }
    }

    /// Whether nothing more will come.
    pub fn is_end(&self) -> bool {
        self.stream.is_end_stream()
    }
}

/// A body on its way into a stream.
#[derive(Debug)]
pub struct Pump {
    body: Body,
    stream: SendStream<Bytes>,
    waiting: Option<Bytes>,
    half: Half,
    sent: bool,
}

impl Pump {
    fn new(body: Body, stream: SendStream<Bytes>, half: Half) -> Self {
        Pump { body, stream, waiting: None, half, sent: false }
    }

    /// See [`crate::http::body::Pump::poll`].
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        if !self.sent {
            let moved = ready!(self.poll_move(cx));
            if let Err(fault) = moved {
                if fault.side() != self.far_side() {
                    // What the reader has is not the whole: it must not look so.
                    self.stream.send_reset(match fault.reason {
                        Reason::DownstreamAborted | Reason::RequestIncomplete => h2::Reason::CANCEL,
                        _ => h2::Reason::INTERNAL_ERROR,
                    });
                }
                return Poll::Ready(Err(fault));
            }
            self.sent = true;
        }
        self.body.poll_uploaded(cx)
    }

    fn poll_move(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        loop {
            self.body.poll_upload(cx)?;
            if let Some(mut data) = self.waiting.take() {
                if self.stream.capacity() == 0 {
                    if let Poll::Ready(reset) = self.stream.poll_reset(cx) {
                        return Poll::Ready(self.reset(reset));
                    }
                    match self.stream.poll_capacity(cx) {
                        Poll::Ready(Some(Ok(_))) => {}
                        Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(stream_fault(&error, self.reader()))),
                        Poll::Ready(None) => {
                            return Poll::Ready(Err(Fault::new(self.gone()).detail("the stream is closed")));
                        }
                        Poll::Pending => {
                            self.waiting = Some(data);
                            return Poll::Pending;
                        }
                    }
                }
                let n = self.stream.capacity().min(data.len());
                let rest = data.split_off(n);
                let end = rest.is_empty() && self.body.is_end();
                if n > 0 || end {
                    self.stream.send_data(data, end).map_err(|error| stream_fault(&error, self.reader()))?;
                }
                if !rest.is_empty() {
                    self.waiting = Some(rest);
                } else if end {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            let Poll::Ready(frame) = self.body.poll_frame(cx) else {
                // Nothing to send: but learn when nobody wants it any more.
                return match self.stream.poll_reset(cx) {
                    Poll::Ready(reset) => Poll::Ready(self.reset(reset)),
                    Poll::Pending => Poll::Pending,
                };
            };
            match frame.transpose()? {
                Some(Frame::Data(data)) if data.is_empty() && !self.body.is_end() => {}
                Some(Frame::Data(data)) => {
                    self.stream.reserve_capacity(data.len());
                    if data.is_empty() {
                        self.stream.send_data(data, true).map_err(|error| stream_fault(&error, self.reader()))?;
                        return Poll::Ready(Ok(()));
                    }
                    self.waiting = Some(data);
                }
                Some(Frame::Trailers(trailers)) => {
                    self.stream.send_trailers(trailers).map_err(|error| stream_fault(&error, self.reader()))?;
                    return Poll::Ready(Ok(()));
                }
                None => {
                    self.stream.send_data(Bytes::new(), true).map_err(|error| stream_fault(&error, self.reader()))?;
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }

    fn reset(&self, reason: Result<h2::Reason, h2::Error>) -> Result<(), Fault> {
        match reason {
            // RFC 9113 section 8.1: the response is complete and the rest of the request is not wanted.
            Ok(h2::Reason::NO_ERROR) if self.half == Half::Request => Ok(()),
            Ok(reason) => Err(Fault::new(self.gone()).detail(format!("the stream was reset: {reason}"))),
            Err(error) => Err(stream_fault(&error, self.reader())),
        }
    }

    /// The message that comes back on this stream belongs to the reader of what is sent.
    fn reader(&self) -> Half {
        match self.half {
            Half::Request => Half::Response,
            Half::Response => Half::Request,
        }
    }

    fn far_side(&self) -> crate::fault::Side {
        self.gone().row().side
    }

    fn gone(&self) -> Reason {
        match self.half {
            Half::Request => Reason::StreamReset,
            Half::Response => Reason::DownstreamAborted,
        }
    }
}

/// What an error on a stream means for the message that was being read from it.
fn stream_fault(error: &h2::Error, half: Half) -> Fault {
    let reason = match half {
        Half::Request => Reason::DownstreamAborted,
        Half::Response if error.is_remote() && error.reason() == Some(h2::Reason::REFUSED_STREAM) => {
            Reason::RefusedStream
        }
        // A GOAWAY without error that ends a stream is one below whose last stream id this stream lies not (RFC 9113 section 6.8).
        Half::Response if error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR) => {
            Reason::RefusedStream
        }
        Half::Response if error.is_reset() && error.is_remote() => Reason::StreamReset,
        Half::Response if error.is_io() || error.is_go_away() => Reason::ConnectionTerminated,
        Half::Response => Reason::HttpProtocolError,
    };
    Fault::new(reason).detail(error.to_string())
}

/// A connection to a server, shared by the requests that it carries. Clones are the same link.
#[derive(Clone, Debug)]
pub struct Link(Rc<State>);

#[derive(Debug)]
struct State {
    send: RefCell<h2::client::SendRequest<Bytes>>,
    in_flight: Cell<usize>,
    closed: Cell<bool>,
    close: Notify,
    /// The server answered: the link is open.
    ready: Cell<bool>,
    /// The link is open, or never will be.
    first: Notify,
    /// Why it never will be.
    ended: RefCell<Option<Fault>>,
}

impl Link {
    /// Opens HTTP/2 on a connection. The link's driver is a task of its own and holds the guard.
    ///
    /// # Errors
    /// If the server does not speak HTTP/2.
    pub async fn open(io: Io, guard: Guard) -> Result<Link, Fault> {
        let (send, connection) = h2::client::Builder::new()
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(MAX_FRAME)
            .max_header_list_size(MAX_HEAD_BYTES as u32)
            .max_send_buffer_size(SEND_BUFFER)
            // What a server still sends on streams that we gave up is our doing: it must not end the link for the others.
            .max_concurrent_reset_streams(MAX_STREAMS as usize)
            .max_local_error_reset_streams(None)
            .handshake::<_, Bytes>(io)
            .await
            .map_err(|error| stream_fault(&error, Half::Response))?;
        let state = Rc::new(State {
            send: RefCell::new(send),
            in_flight: Cell::new(0),
            closed: Cell::new(false),
            close: Notify::new(),
            ready: Cell::new(false),
            first: Notify::new(),
            ended: RefCell::new(None),
        });
        tokio::task::spawn_local(drive(connection, Rc::clone(&state), guard));
        // The answer to the first ping comes after the server's SETTINGS, which say how many streams it takes, and proves
        // that it accepted our certificate: in TLS 1.3 the handshake ends for a client before it is told.
        state.first.notified().await;
        match state.ready.get() {
            true => Ok(Link(state)),
            false => {
                Err(state.ended.take().unwrap_or_else(|| Fault::new(Reason::ConnectionTerminated).retry(Retry::Safe)))
            }
        }
    }

    /// Sends a request and waits for the head of its response. The rest of the request's body rides on the response's.
    ///
    /// # Errors
    /// A fault of the upstream side if the server does not answer, safe to retry if it provably did nothing; a fault of
    /// the downstream side if the request's body breaks.
    pub async fn send(&self, request: Request) -> Result<Response, Fault> {
        let Request { head, body, interim } = request;
        let flight = Flight::start(&self.0);
        let mut send = self.0.send.borrow().clone();
        let refused = |error: h2::Error| Fault::new(Reason::RefusedStream).retry(Retry::Safe).detail(error.to_string());
        if let Err(error) = poll_fn(|cx| send.poll_ready(cx)).await {
            self.0.closed.set(true);
            return Err(refused(error));
        }
        let end = body.is_end();
        let (mut response, stream) = send.send_request(outgoing_request(head)?, end).map_err(refused)?;
        drop(send);
        let mut upload = (!end).then(|| Pump::new(body, stream, Half::Request));
        let response = poll_fn(|cx| {
            if let Some(pump) = &mut upload
                && let Poll::Ready(done) = pump.poll(cx)
            {
                upload = None;
                match done {
                    Err(fault) if fault.side() != crate::fault::Side::Upstream => return Poll::Ready(Err(fault)),
                    // If the server refused the rest, its answer says why.
                    _ => {}
                }
            }
            while let Poll::Ready(Some(Ok(head))) = response.poll_informational(cx) {
                interim.push(incoming_response(head.into_parts().0));
            }
            Pin::new(&mut response).poll(cx).map_err(|error| stream_fault(&error, Half::Response))
        })
        .await?;
        let (parts, stream) = response.into_parts();
        rules::check_fields(&parts.headers, Reason::HttpProtocolError)?;
        let length = rules::content_length(&parts.headers, Reason::HttpProtocolError)?;
        let mut body = incoming_body(stream, length, Half::Response, Some(flight));
        if let Some(pump) = upload {
            body.carry(body::Pump::H2(pump));
        }
        Ok(Response { head: incoming_response(parts), body })
    }

    /// Requests that it carries.
    pub fn in_flight(&self) -> usize {
        self.0.in_flight.get()
    }

    /// Whether another request can start at once.
    pub fn has_room(&self) -> bool {
        self.in_flight() < self.0.send.borrow().current_max_send_streams()
    }

    /// Whether it takes no more requests: closed, or the server said GOAWAY.
    pub fn is_closed(&self) -> bool {
        if !self.0.closed.get() {
            let ready = self.0.send.borrow_mut().poll_ready(&mut Context::from_waker(std::task::Waker::noop()));
            if matches!(ready, Poll::Ready(Err(_))) {
                self.0.closed.set(true);
            }
        }
        self.0.closed.get()
    }

    /// Takes no more requests and closes when those that it carries have ended.
    pub fn close(&self) {
        self.0.closed.set(true);
        self.0.close.notify_one();
    }
}

fn incoming_response(parts: http::response::Parts) -> ResponseHead {
    ResponseHead { status: parts.status, headers: parts.headers, upgrade: None }
}

/// Runs a link until it ends.
async fn drive(mut connection: h2::client::Connection<Io, Bytes>, state: Rc<State>, guard: Guard) {
    let ping = connection.ping_pong();
    let mut alive = pin!(keep_alive(ping, &state));
    let mut close = pin!(state.close.notified());
    let ended = poll_fn(|cx| {
        if alive.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(Fault::new(Reason::ConnectionTimeout).detail("a ping was not answered")));
        }
        if state.closed.get() && state.in_flight.get() == 0 {
            return Poll::Ready(Ok(()));
        }
        if close.as_mut().poll(cx).is_ready() {
            close.set(state.close.notified());
            cx.waker().wake_by_ref();
        }
        Pin::new(&mut connection).poll(cx).map_err(connection_fault)
    })
    .await;
    if let Err(fault) = ended {
        tracing::debug!(%fault, "an HTTP/2 link ended");
        *state.ended.borrow_mut() = Some(fault);
    }
    state.closed.set(true);
    state.first.notify_one();
    drop(guard);
}

/// Why a link ended before it was open, or as a whole.
fn connection_fault(error: h2::Error) -> Fault {
    match error.into_io() {
        Some(error) => tls::fault_after_handshake(error),
        None => Fault::new(Reason::HttpProtocolError),
    }
}

/// Ends when the other side does not answer a ping.
async fn keep_alive(ping: Option<h2::PingPong>, state: &State) {
    let Some(mut ping) = ping else { return std::future::pending().await };
    loop {
        match tokio::time::timeout(PING_TIMEOUT, ping.ping(h2::Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection ends by itself then.
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return,
        }
        if !state.ready.replace(true) {
            state.first.notify_one();
        }
        tokio::time::sleep(PING_INTERVAL).await;
    }
}

/// Counts a request as carried, until its response's body is read or dropped.
#[derive(Debug)]
struct Flight(Rc<State>);

impl Flight {
    fn start(state: &Rc<State>) -> Self {
        state.in_flight.set(state.in_flight.get() + 1);
        Flight(Rc::clone(state))
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
        if self.0.closed.get() {
            self.0.close.notify_one();
        }
    }
}
