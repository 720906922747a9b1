//! The client side: a link carries requests.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::fmt;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::code::Code;
use bytes::Bytes;
use http::Method;
use http::uri::Authority;
use tokio::sync::{Notify, oneshot};

use super::body::{Incoming, Pump};
use super::coding::Wire;
use super::connection::{Ours, Theirs};
use super::control::Said;
use super::frame::Part;
use super::stream::{Reader, Writer};
use super::{Broken, is_certificate_alert};
use crate::drain::Guard;
use crate::fault::{Fault, Reason, Retry, Side};
use crate::http::body::{self, Half, Length, Source};
use crate::http::{Body, Interim, Request, Response, ResponseHead, rules};
use crate::net::quic;
use crate::net::quic::alive::{self, Answer, Pause, Watch};
use crate::telemetry::trail::Carrier;
use crate::tls::{self, Role, TlsSettings};

/// A connection to a server. Clones share it; when the last one and the last body of a response are gone, it is closed.
#[derive(Clone)]
pub struct Link(Rc<State>);

struct State {
    wire: Rc<Wire>,
    /// Stays open as long as the link.
    _ours: Ours,
    /// For requests that come without an authority, which HTTP/3 cannot say.
    name: Authority,
    carrier: Rc<Carrier>,
    /// The id from which on the server processes nothing (RFC 9114 section 5.2).
    refused: Cell<Option<u64>>,
    refusal: Notify,
    in_flight: Cell<usize>,
    waiting: Cell<usize>,
    /// Whether somebody looks at it, and how to have somebody do so.
    watched: Cell<bool>,
    begins: Rc<Notify>,
    /// It says nothing any more: requests are better off elsewhere.
    quiet: Cell<bool>,
    /// Why it was given up, if it was.
    given_up: Cell<Option<&'static str>>,
    /// A stream that was opened to see whether there is room; the next request uses it.
    spare: RefCell<Option<(quinn::SendStream, quinn::RecvStream)>>,
}

impl Link {
    /// Connects, and waits until the server has accepted our certificate: its SETTINGS have come. Gives up only when
    /// quinn does, so the caller sets a limit of time. Must run in a `LocalSet`; the guard is held by the task that runs
    /// the connection, until it is closed.
    ///
    /// # Errors
    /// `TlsCertificateError` if either side does not accept the other's certificate, `TlsProtocolError` for other
    /// failures of the handshake, `ConnectionTimeout` or `ConnectionRefused` if nobody speaks QUIC there.
    pub async fn connect(
        endpoint: &quinn::Endpoint,
        config: quinn::ClientConfig,
        address: SocketAddr,
        server_name: &str,
        own: Option<&TlsSettings>,
        guard: Guard,
    ) -> Result<Self, Fault> {
        let name = server_name.parse().map_err(|error: http::uri::InvalidUri| internal("a server name", error))?;
        let connecting = endpoint
            .connect_with(config, address, server_name)
            .map_err(|error| internal("a connection attempt", error))?;
        let quic = tokio::select! {
            biased;
            quic = connecting => quic.map_err(handshake_fault)?,
            () = alive::refused(address) => {
                return Err(Fault::new(Reason::ConnectionRefused).detail("nobody has its UDP port"));
            }
        };
        let chain = quic::peer_certificates(&quic).unwrap_or_default();
        let ends = own.map(|own| own.peer(Role::Server, &chain).map(|server| (Arc::clone(own.own()), server)));
        let ends = ends.transpose().map_err(|error| tls::refusal(&error))?;
        let local =
            quic::source_to(address).zip(endpoint.local_addr().ok()).map(|(ip, bound)| (ip, bound.port()).into());
        let carrier = Rc::new(Carrier { local, ends });
        let ours = Ours::open(&quic).await.map_err(handshake_fault)?;
        let wire = Wire::new(quic.clone(), Side::Upstream);
        let theirs = Theirs::new(Rc::clone(&wire), &ours);
        let (refused, refusal, begins) = (Cell::new(None), Notify::new(), Rc::new(Notify::new()));
        let link = Rc::new(State {
            wire,
            _ours: ours,
            name,
            carrier,
            refused,
            refusal,
            in_flight: Cell::new(0),
            waiting: Cell::new(0),
            watched: Cell::new(false),
            begins: Rc::clone(&begins),
            quiet: Cell::new(false),
            given_up: Cell::new(None),
            spare: RefCell::new(None),
        });
        let (ready, settings) = oneshot::channel();
        let state = Rc::downgrade(&link);
        tokio::task::spawn_local(async move {
            tokio::select! {
                biased;
                () = drive(theirs, Weak::clone(&state), ready) => {}
                never = watch(state, begins, address) => match never {},
            }
            drop(guard);
        });
        match settings.await {
            Ok(()) => Ok(Link(link)),
            Err(_) => Err(handshake_fault(quic.close_reason().unwrap_or(quinn::ConnectionError::LocallyClosed))),
        }
    }

    /// Sends a request and gives its response when the final head is there. What is left of the request's body then
    /// rides on the response's. Dropping the future cancels the request.
    ///
    /// # Errors
    /// `RefusedStream`, safe to send again, where the server has not processed any of it; faults of the server; and those
    /// of the request's body.
    pub async fn send(&self, request: Request) -> Result<Response, Fault> {
        let Request { mut head, body, interim } = request;
        if head.upgrade.is_some() {
            return Err(Fault::new(Reason::UnsupportedRequest).detail("an upgrade through HTTP/3"));
        }
        let flight = InFlight::new(&self.0);
        let (send, receive) = self.open().await?;
        let method = head.method.clone();
        if head.authority.is_none() {
            head.authority = Some(self.0.name.clone());
        }
        let wire = &self.0.wire;
        let mut writer = Writer::new(Rc::clone(wire), send);
        let mut reader = Reader::new(Rc::clone(wire), receive);
        writer.frame(wire.encode_request(&head).map_err(|broken| broken.fault(Side::Upstream))?);
        let id = writer.id();
        let mut upload = Some(Pump::new(writer, body));
        let head = self.receive(&mut reader, &mut upload, &interim, id).await?;
        let body = self.body(reader, &head, &method, flight).await?;
        let mut response = Response { head: head.into(), body };
        if let Some(upload) = upload {
            response.body.carry(body::Pump::H3(upload));
        }
        Ok(response)
    }

    /// Whether it is closed.
    pub fn is_closed(&self) -> bool {
        self.0.wire.quic().close_reason().is_some()
    }

    /// Whether the server takes no new requests on it (GOAWAY).
    pub fn is_draining(&self) -> bool {
        self.0.refused.get().is_some()
    }

    /// What is known of its connection.
    pub fn carrier(&self) -> Rc<Carrier> {
        Rc::clone(&self.0.carrier)
    }

    /// Requests whose response is not complete.
    pub fn in_flight(&self) -> usize {
        self.0.in_flight.get()
    }

    /// Whether a request waits for the server to allow another stream: the next one is better off on another link.
    pub fn is_full(&self) -> bool {
        self.0.waiting.get() > 0
    }

    /// Whether the server is heard, and allows another stream now: the only way to know is to open one.
    pub fn has_room(&self) -> bool {
        if self.is_full() || self.0.quiet.get() {
            return false;
        }
        let mut spare = self.0.spare.borrow_mut();
        if spare.is_none()
            && let Poll::Ready(Ok(stream)) =
                pin!(self.0.wire.quic().open_bi()).poll(&mut Context::from_waker(Waker::noop()))
        {
            *spare = Some(stream);
        }
        spare.is_some()
    }

    /// What its connection has counted so far.
    pub fn stats(&self) -> quic::Stats {
        self.0.wire.quic().stats()
    }

    /// Closes it. What is in flight fails.
    pub fn close(&self) {
        self.0.wire.close(Code::NO_ERROR, "");
    }

    /// Waits until it is closed.
    pub async fn closed(&self) {
        self.0.wire.quic().closed().await;
    }

    /// Opens a stream, waiting for the server to allow it.
    async fn open(&self) -> Result<(quinn::SendStream, quinn::RecvStream), Fault> {
        if self.is_draining() {
            return Err(Fault::new(Reason::RefusedStream).detail("the server is going away"));
        }
        if let Some(stream) = self.0.spare.take() {
            return Ok(stream);
        }
        let mut refusal = pin!(self.0.refusal.notified());
        let mut open = pin!(self.0.wire.quic().open_bi());
        let mut waiting = None;
        poll_fn(|cx| {
            if let Poll::Ready(stream) = open.as_mut().poll(cx) {
                return Poll::Ready(stream.map_err(|error| Fault::new(Reason::RefusedStream).from(error)));
            }
            waiting.get_or_insert_with(|| Waiting::new(&self.0));
            let refused = || Err(Fault::new(Reason::RefusedStream).detail("the server is going away"));
            refusal.as_mut().poll(cx).map(|()| refused())
        })
        .await
    }

    /// Reads heads until the final one comes, and sends the request's body meanwhile.
    async fn receive(
        &self,
        reader: &mut Reader,
        upload: &mut Option<Pump>,
        interim: &Interim,
        id: u64,
    ) -> Result<ResponseHead, Fault> {
        let mut refusal = pin!(self.0.refusal.notified());
        loop {
            let payload = poll_fn(|cx| {
                if let Some(pump) = upload
                    && let Poll::Ready(done) = pump.poll(cx)
                {
                    *upload = None;
                    match done {
                        Err(fault) if fault.side() != Side::Upstream => return Poll::Ready(Err(fault)),
                        // The server may answer all the same.
                        _ => {}
                    }
                }
                if let Poll::Ready(part) = reader.poll_part(cx) {
                    return Poll::Ready(match part {
                        Ok(Some(Part::Fields(payload))) => Ok(payload),
                        Ok(Some(Part::Content(_)) | None) => Err(self.fault(Broken::Incomplete, id)),
                        Err(broken) => Err(self.fail(reader, broken, id)),
                    });
                }
                while refusal.as_mut().poll(cx).is_ready() {
                    if self.0.is_refused(id) {
                        return Poll::Ready(Err(Fault::new(Reason::RefusedStream).detail("GOAWAY below the request")));
                    }
                    refusal.set(self.0.refusal.notified());
                }
                Poll::Pending
            });
            let payload: Bytes = payload.await?;
            let head = self.0.wire.decode_response(payload).map_err(|broken| self.fail(reader, broken, id))?;
            if !head.status.is_informational() {
                return Ok(head);
            }
            interim.push(head);
        }
    }

    /// The body that belongs to a head.
    async fn body(
        &self,
        mut reader: Reader,
        head: &ResponseHead,
        method: &Method,
        flight: InFlight,
    ) -> Result<Body, Fault> {
        let length = if head.is_bodiless(method) {
            Length::Known(0)
        } else {
            rules::response_length(method == Method::CONNECT, head.status, &head.headers)?
        };
        if matches!(length, Length::Known(0) | Length::Unknown | Length::Tunnel)
            && poll_fn(|cx| Poll::Ready(reader.is_end(cx))).await
        {
            return Ok(Body::empty(Half::Response));
        }
        Ok(Body::source(Half::Response, Source::H3(Box::new(Incoming::new(reader, Some(flight)))), length))
    }

    fn fail(&self, reader: &mut Reader, broken: Broken, id: u64) -> Fault {
        match broken {
            Broken::Malformed(_) => reader.stop(Code::MESSAGE_ERROR),
            Broken::TooLarge => reader.stop(Code::EXCESSIVE_LOAD),
            _ => {}
        }
        self.fault(broken, id)
    }

    fn fault(&self, broken: Broken, id: u64) -> Fault {
        match broken {
            // Whatever ended it: the server has promised not to process it.
            Broken::Reset(_) | Broken::Lost(_) if self.0.is_refused(id) => {
                Fault::new(Reason::RefusedStream).retry(Retry::Safe).detail("GOAWAY below the request")
            }
            Broken::Lost(_) if let Some(why) = self.0.given_up.get() => {
                Fault::new(Reason::ConnectionTerminated).detail(why)
            }
            broken => broken.fault(Side::Upstream),
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("h3::Link").field("in_flight", &self.in_flight()).finish_non_exhaustive()
    }
}

impl State {
    fn is_refused(&self, id: u64) -> bool {
        self.refused.get().is_some_and(|refused| id >= refused)
    }

    /// Nothing is lost by closing when the server goes away and nothing is in flight.
    fn close_if_done(&self) {
        if self.refused.get().is_some() && self.in_flight.get() == 0 {
            self.wire.close(Code::NO_ERROR, "");
        }
    }

    /// Closes a connection whose other end is gone.
    fn give_up(&self, why: &'static str) {
        tracing::debug!(why, server = %self.name, "an HTTP/3 link is given up");
        self.given_up.set(Some(why));
        self.wire.close(Code::NO_ERROR, why);
    }

    /// Notes a GOAWAY.
    fn go_away(&self, id: u64) {
        self.refused.set(Some(id));
        self.refusal.notify_waiters();
        self.close_if_done();
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.wire.close(Code::NO_ERROR, "");
    }
}

/// Counts a request until its response is complete or dropped.
pub(super) struct InFlight(Rc<State>);

impl InFlight {
    fn new(state: &Rc<State>) -> Self {
        state.in_flight.set(state.in_flight.get() + 1);
        if !state.watched.replace(true) {
            state.begins.notify_one();
        }
        InFlight(Rc::clone(state))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get().saturating_sub(1));
        self.0.close_if_done();
    }
}

/// Counts a request while it waits for a stream.
struct Waiting<'a>(&'a State);

impl<'a> Waiting<'a> {
    fn new(state: &'a State) -> Self {
        state.waiting.set(state.waiting.get() + 1);
        Waiting(state)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get().saturating_sub(1));
    }
}

/// Hears what the server says of the connection, until it is closed.
async fn drive(mut theirs: Theirs, state: Weak<State>, ready: oneshot::Sender<()>) {
    let mut ready = Some(ready);
    while let Some(said) = theirs.next().await {
        match (said, state.upgrade()) {
            (Said::Settings(_), _) => {
                if let Some(ready) = ready.take() {
                    // Nobody waits if the attempt was given up; the link is dropped then, too.
                    let _ = ready.send(());
                }
            }
            (Said::GoAway(id), Some(state)) => state.go_away(id),
            (Said::GoAway(_), None) => {}
        }
    }
}

/// Looks, while the connection carries requests, whether its other end is still there, and gives it up if it is not.
async fn watch(state: Weak<State>, begins: Rc<Notify>, address: SocketAddr) -> Infallible {
    loop {
        begins.notified().await;
        let (pause, mut watch) = (Pause::default(), Watch::default());
        loop {
            let answer = match watch.doubts() {
                true => alive::ask(address, watch.patience()).await,
                false => {
                    pause.over().await;
                    Answer::Silence
                }
            };
            let Some(state) = state.upgrade() else { return std::future::pending().await };
            let seen = state.wire.quic().stats().into();
            let mut dead = watch.look(seen);
            match answer {
                Answer::Refused if !watch.is_well() => dead = Some("nobody has the server's UDP port any more"),
                Answer::Lives => watch.lives(seen),
                Answer::Refused | Answer::Silence => {}
            }
            if let Some(why) = dead {
                state.give_up(why);
            }
            state.quiet.set(watch.is_quiet());
            if watch.is_well() && state.in_flight.get() == 0 {
                state.watched.set(false);
                break;
            }
        }
    }
}

/// Why no connection came about.
pub fn handshake_fault(error: quinn::ConnectionError) -> Fault {
    let code = match &error {
        quinn::ConnectionError::TransportError(error) => u64::from(error.code),
        quinn::ConnectionError::ConnectionClosed(close) => u64::from(close.error_code),
        _ => 0,
    };
    let reason = match &error {
        error if is_certificate_alert(error) => Reason::TlsCertificateError,
        quinn::ConnectionError::TimedOut => Reason::ConnectionTimeout,
        // CONNECTION_REFUSED (RFC 9000 section 20.1).
        quinn::ConnectionError::ConnectionClosed(_) if code == 0x2 => Reason::ConnectionRefused,
        quinn::ConnectionError::ApplicationClosed(_) | quinn::ConnectionError::Reset => Reason::ConnectionRefused,
        quinn::ConnectionError::LocallyClosed | quinn::ConnectionError::CidsExhausted => Reason::ConnectionRefused,
        quinn::ConnectionError::TransportError(_)
        | quinn::ConnectionError::ConnectionClosed(_)
        | quinn::ConnectionError::VersionMismatch => Reason::TlsProtocolError,
    };
    Fault::new(reason).from(error)
}

fn internal(what: &str, error: impl std::error::Error + Send + Sync + 'static) -> Fault {
    Fault::new(Reason::ProxyInternalError).detail(format!("{what} that QUIC does not take")).from(error)
}
