//! The client side: a link carries requests.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::uri::{self, PathAndQuery, Scheme};
use tokio::sync::Notify;

use super::body::{Pump, incoming_body};
use super::gather::Gather;
use super::{CONNECTION_WINDOW, MAX_FRAME, MAX_STREAMS, SEND_BUFFER, STREAM_WINDOW, stream_fault};
use crate::drain::Guard;
use crate::fault::{Fault, Reason, Retry, Side};
use crate::http::body::{self, Half};
use crate::http::head::{RequestHead, ResponseHead};
use crate::http::rules::{self, MAX_HEAD_BYTES};
use crate::http::{Request, Response};
use crate::net::io::Io;
use crate::telemetry::trail::Carrier;
use crate::tls;

/// An idle link is asked whether it is alive this often, and given up when the answer does not come within [`PING_TIMEOUT`].
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to a server, shared by the requests that it carries. Clones are the same link.
#[derive(Clone, Debug)]
pub struct Link(Rc<State>);

#[derive(Debug)]
struct State {
    send: RefCell<h2::client::SendRequest<Bytes>>,
    carrier: Rc<Carrier>,
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
        let carrier = io.carrier();
        let gather = Gather::new(io);
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
            .handshake::<_, Bytes>(gather.clone())
            .await
            .map_err(|error| stream_fault(&error, Half::Response))?;
        let state = Rc::new(State {
            send: RefCell::new(send),
            carrier,
            in_flight: Cell::new(0),
            closed: Cell::new(false),
            close: Notify::new(),
            ready: Cell::new(false),
            first: Notify::new(),
            ended: RefCell::new(None),
        });
        tokio::task::spawn_local(drive(connection, gather, Rc::clone(&state), guard));
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
        let (end, connect) = (body.is_end(), head.method == Method::CONNECT);
        let (mut response, stream) = send.send_request(outgoing_request(head.take())?, end).map_err(refused)?;
        drop(send);
        let mut upload = (!end).then(|| Pump::new(body, stream, Half::Request));
        let response = poll_fn(|cx| {
            if let Some(pump) = &mut upload
                && let Poll::Ready(done) = pump.poll(cx)
            {
                upload = None;
                match done {
                    Err(fault) if fault.side() != Side::Upstream => return Poll::Ready(Err(fault)),
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
        let length = rules::response_length(connect, parts.status, &parts.headers)?;
        let mut body = incoming_body(stream, length, Half::Response, Some(flight));
        if let Some(pump) = upload {
            body.carry(body::Pump::H2(pump));
        }
        Ok(Response { head: incoming_response(parts).into(), body })
    }

    /// What is known of its connection.
    pub fn carrier(&self) -> Rc<Carrier> {
        Rc::clone(&self.0.carrier)
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
async fn drive(mut connection: h2::client::Connection<Gather, Bytes>, gather: Gather, state: Rc<State>, guard: Guard) {
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
        gather.turn(cx, |cx| Pin::new(&mut connection).poll(cx)).map_err(connection_fault)
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
pub(super) struct Flight(Rc<State>);

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

fn outgoing_request(head: RequestHead) -> Result<http::Request<()>, Fault> {
    let mut parts = uri::Parts::default();
    parts.authority = head.authority;
    // RFC 9113 section 8.5: CONNECT says neither.
    if head.method != Method::CONNECT {
        parts.scheme = Some(if head.https { Scheme::HTTPS } else { Scheme::HTTP });
        parts.path_and_query = Some(match head.path.as_str() {
            "*" => PathAndQuery::from_static("*"),
            _ => head.path,
        });
    }
    let mut request = http::Request::new(());
    *request.uri_mut() = uri::Uri::from_parts(parts)
        .map_err(|e| Fault::new(Reason::HttpRequestError).from(e).detail("a request without a host"))?;
    *request.method_mut() = head.method;
    *request.headers_mut() = head.headers;
    *request.version_mut() = http::Version::HTTP_2;
    Ok(request)
}
