//! The client side: a link carries requests.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use http::Method;
use tokio::sync::Notify;

use super::body::{Pump, incoming_body};
use super::connection::{Over, Shared};
use super::driver::Driver;
use super::half::{Reader, Writer};
use super::stream_fault;
use crate::drain::Guard;
use crate::fault::{Fault, Reason, Retry, Side};
use crate::http::body::{self, Half};
use crate::http::rules;
use crate::http::{Request, Response};
use crate::net::io::Io;
use crate::telemetry::trail::Carrier;
use crate::tls;

/// A link is asked whether it is alive this often, and given up when the answer does not come within [`PING_TIMEOUT`]. One of the mesh also
/// while it carries nothing. Over plain TCP only if something was asked since: who is gone otherwise the kernel notices, and servers
/// of gRPC end a connection, with all that it carries, for three pings between which they had nothing to say (`too_many_pings`).
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to a server, shared by the requests that it carries. Clones are the same link.
#[derive(Clone, Debug)]
pub struct Link(Rc<State>);

#[derive(Debug)]
struct State {
    shared: Shared,
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
        let driver = Driver::new(io, false);
        let state = Rc::new(State {
            shared: driver.shared(),
            carrier,
            in_flight: Cell::new(0),
            closed: Cell::new(false),
            close: Notify::new(),
            ready: Cell::new(false),
            first: Notify::new(),
            ended: RefCell::new(None),
        });
        tokio::task::spawn_local(drive(driver, Rc::clone(&state), guard));
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
        let shared = &self.0.shared;
        self.room().await?;
        if head.authority.is_none() {
            return Err(Fault::new(Reason::HttpRequestError).detail("a request without a host"));
        }
        let (end, connect) = (body.is_end(), head.method == Method::CONNECT);
        let key = shared.borrow_mut().open(&head, end, interim);
        let reader = Reader::new(Rc::clone(shared), key);
        drop(head);
        let mut upload = (!end).then(|| Pump::new(body, Writer::new(Rc::clone(shared), key), Half::Request));
        let head = poll_fn(|cx| {
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
            reader.poll_head(cx).map_err(|cause| stream_fault(cause, Half::Response))
        })
        .await?;
        let length = rules::response_length(connect, head.status, &head.headers)?;
        let mut body = incoming_body(reader, length, Half::Response, Some(flight));
        if let Some(pump) = upload {
            body.carry(body::Pump::H2(pump));
        }
        Ok(Response { head: head.into(), body })
    }

    /// Waits until another stream may be opened.
    async fn room(&self) -> Result<(), Fault> {
        loop {
            let room = {
                let connection = &mut *self.0.shared.borrow_mut();
                if !connection.is_open() {
                    self.0.closed.set(true);
                    let refused = Fault::new(Reason::RefusedStream).retry(Retry::Safe);
                    return Err(refused.detail("the link takes no more requests"));
                }
                if connection.streams.open < connection.peer.streams {
                    return Ok(());
                }
                connection.waiting += 1;
                Rc::clone(&connection.room)
            };
            let waiting = Waiting(&self.0.shared);
            room.notified().await;
            drop(waiting);
        }
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
        self.in_flight() < self.0.shared.borrow().peer.streams
    }

    /// Whether it takes no more requests: closed, or the server said GOAWAY.
    pub fn is_closed(&self) -> bool {
        if !self.0.closed.get() && !self.0.shared.borrow().is_open() {
            self.0.closed.set(true);
        }
        self.0.closed.get()
    }

    /// Takes no more requests and closes when those that it carries have ended.
    pub fn close(&self) {
        self.0.closed.set(true);
        self.0.close.notify_one();
    }
}

/// One that waits for room.
struct Waiting<'a>(&'a Shared);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let connection = &mut *self.0.borrow_mut();
        connection.waiting -= 1;
        // There may be room for another; and one that gives up passes on what it was told.
        if connection.waiting > 0 && connection.streams.open + 1 < connection.peer.streams {
            connection.room.notify_one();
        }
    }
}

/// Runs a link until it ends.
async fn drive(mut driver: Driver, state: Rc<State>, guard: Guard) {
    let mut alive = pin!(keep_alive(&state));
    let mut close = pin!(state.close.notified());
    let ended = poll_fn(|cx| {
        driver.read(cx);
        if alive.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(Fault::new(Reason::ConnectionTimeout).detail("a ping was not answered")));
        }
        if close.as_mut().poll(cx).is_ready() {
            close.set(state.close.notified());
            cx.waker().wake_by_ref();
        }
        driver.write(cx);
        let connection = state.shared.borrow();
        let left = connection.leaving && connection.streams.len() == 0;
        let done = (left || state.closed.get() && state.in_flight.get() == 0) && driver.is_written(&connection);
        match connection.over {
            Some(Over::Violated(what)) => Poll::Ready(Err(Fault::new(Reason::HttpProtocolError).detail(what))),
            Some(Over::Lost(_)) => {
                Poll::Ready(driver.take_error().map_or(Ok(()), |e| Err(tls::fault_after_handshake(e))))
            }
            None if done => Poll::Ready(Ok(())),
            None => Poll::Pending,
        }
    })
    .await;
    if let Err(fault) = ended {
        tracing::debug!(%fault, "an HTTP/2 link ended");
        *state.ended.borrow_mut() = Some(fault);
    }
    poll_fn(|cx| {
        driver.shutdown(cx);
        Poll::Ready(())
    })
    .await;
    drop(driver);
    state.closed.set(true);
    state.first.notify_one();
    drop(guard);
}

/// Ends when the other side does not answer a ping.
async fn keep_alive(state: &State) {
    let ponged = Rc::clone(&state.shared.borrow().ponged);
    let mesh = state.carrier.ends.is_some();
    loop {
        let asked = state.shared.borrow().next;
        state.shared.borrow_mut().ping();
        if tokio::time::timeout(PING_TIMEOUT, ponged.notified()).await.is_err() {
            return;
        }
        if !state.ready.replace(true) {
            state.first.notify_one();
        }
        tokio::time::sleep(PING_INTERVAL).await;
        while !mesh && state.shared.borrow().next == asked {
            tokio::time::sleep(PING_INTERVAL).await;
        }
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
