//! The client side: one request over one connection.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use http::StatusCode;
use tokio::sync::Notify;

use super::parse::{self, Framing, Parsed};
use super::wire::{Incoming, Pump, Wire};
use super::write;
use crate::clock;
use crate::fault::{Fault, Reason, Retry, Side};
use crate::http::body::{self, Body, Half, Length, Source};
use crate::http::head::{self, ResponseHead};
use crate::http::{Request, Response};
use crate::tls;

/// Connections that carry no request and may carry the next, the most recently used last.
#[derive(Debug, Default)]
pub struct Idle {
    wires: RefCell<Vec<(Rc<RefCell<Wire>>, u64)>>,
    closed: Cell<bool>,
    shared: Rc<Shared>,
}

/// What connections tell of themselves when they are kept, or closed.
#[derive(Debug, Default)]
struct Shared {
    open: Cell<usize>,
    freed: Notify,
}

/// A connection that is open, or being opened, until it is dropped.
#[derive(Debug)]
pub struct Lease(Rc<Shared>);

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get().saturating_sub(1));
        self.0.freed.notify_waiters();
    }
}

impl Idle {
    /// Unused connections kept per endpoint; more are closed. Peaks come back, and a socket costs the server as much as us.
    pub const MAX: usize = 1024;

    /// Takes the connection that was used last, if one is still open.
    pub fn take(&self) -> Option<Rc<RefCell<Wire>>> {
        loop {
            let (wire, _) = self.wires.borrow_mut().pop()?;
            if wire.borrow_mut().is_quiet() {
                return Some(wire);
            }
        }
    }

    /// Keeps a connection that carries no request, if it may carry another.
    pub fn put(&self, wire: Rc<RefCell<Wire>>) {
        let mut wires = self.wires.borrow_mut();
        if !self.closed.get() && wires.len() < Self::MAX && wire.borrow_mut().is_quiet() {
            {
                let mut wire = wire.borrow_mut();
                wire.unread();
                wire.rest();
            }
            wires.push((wire, clock::nanos()));
            self.shared.freed.notify_waiters();
        }
    }

    /// Counts a connection as open.
    pub fn lease(&self) -> Lease {
        self.shared.open.set(self.shared.open.get() + 1);
        Lease(Rc::clone(&self.shared))
    }

    /// Connections that are open or being opened, in use or not.
    pub fn open(&self) -> usize {
        self.shared.open.get()
    }

    /// Ready when, from now on, a connection was kept or closed.
    pub fn freed(&self) -> impl Future<Output = ()> + '_ {
        self.shared.freed.notified()
    }

    /// Closes those that are unused for longer than this, or that the server has closed.
    pub fn reap(&self, unused: Duration) {
        let now = clock::nanos();
        let unused = |since: u64| u128::from(now.saturating_sub(since)) >= unused.as_nanos();
        self.wires.borrow_mut().retain(|(wire, since)| !unused(*since) && wire.borrow_mut().is_quiet());
    }

    /// Closes all, and keeps no more.
    pub fn close(&self) {
        self.closed.set(true);
        self.wires.borrow_mut().clear();
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.wires.borrow().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Sends a request and waits for the head of its response. The rest of the request's body rides on the response's.
/// `reused` tells that the connection carried a request before, so that the server may have closed it by now.
///
/// # Errors
/// A fault of the upstream side if the connection breaks or what comes is no HTTP; safe to retry if the request was
/// idempotent and the connection ended as an unused one does. A fault of the downstream side if the request's body breaks.
pub async fn send(wire: Rc<RefCell<Wire>>, home: Rc<Idle>, request: Request, reused: bool) -> Result<Response, Fault> {
    let Request { head, body, interim } = request;
    let framing = match body.length() {
        _ if body.is_end() => Framing::Empty,
        Length::Tunnel => Framing::Empty,
        Length::Known(length) => Framing::Length(length),
        Length::Unknown => Framing::Chunked,
    };
    write::request(wire.borrow_mut().head_out(), &head, framing);
    let repeatable = reused && head.method.is_idempotent() && body.is_end();
    let mut tunnel = None;
    let mut upload = match body.length() {
        // What follows an upgrade is sent only once the server agreed to it.
        Length::Tunnel => {
            tunnel = Some(body);
            Some(Pump::new(Body::empty(Half::Request), Rc::clone(&wire), Framing::Empty, Half::Request))
        }
        _ => Some(Pump::new(body, Rc::clone(&wire), framing, Half::Request)),
    };
    let mut write_failed = false;
    let parsed = poll_fn(|cx| {
        if let Some(pump) = &mut upload {
            match pump.poll(cx) {
                Poll::Pending => {}
                Poll::Ready(done) => {
                    upload = None;
                    match done {
                        Ok(()) => {}
                        // The server closed its receiving side; its answer may be on the way (RFC 9112 section 9.6).
                        Err(fault) if fault.side() == Side::Upstream => write_failed = true,
                        Err(fault) => return Poll::Ready(Err(fault)),
                    }
                }
            }
        }
        let mut wire = wire.borrow_mut();
        loop {
            let Wire { input, scanned, .. } = &mut *wire;
            // What an HTTP/2 server says first: SETTINGS (RFC 9113 section 3.4).
            if let [0, _, _, 4, 0, 0, 0, 0, 0, ..] = input[..] {
                let fault = Fault::new(Reason::HttpProtocolError);
                return Poll::Ready(Err(fault.detail("the server speaks HTTP/2, and not HTTP/1")));
            }
            match parse::response(input, scanned, &head.method)? {
                Some(parsed)
                    if parsed.head.status.is_informational()
                        && parsed.head.status != StatusCode::SWITCHING_PROTOCOLS =>
                {
                    interim.push(parsed.head.take());
                }
                Some(parsed) => return Poll::Ready(Ok(parsed)),
                None => match wire.poll_fill(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(n)) if n > 0 => {}
                    Poll::Ready(ended) => {
                        let fresh = wire.input.is_empty();
                        let fault = match ended {
                            Err(error) => tls::fault_after_handshake(error),
                            Ok(_) => Fault::new(Reason::ConnectionTerminated)
                                .detail("the connection ended before the response"),
                        };
                        return Poll::Ready(Err(if fresh && repeatable { fault.retry(Retry::Safe) } else { fault }));
                    }
                },
            }
        }
    })
    .await?;
    finish(wire, home, parsed, upload, tunnel, write_failed)
}

fn finish(
    wire: Rc<RefCell<Wire>>,
    home: Rc<Idle>,
    parsed: Parsed<head::Shared<ResponseHead>>,
    upload: Option<Pump>,
    tunnel: Option<Body>,
    write_failed: bool,
) -> Result<Response, Fault> {
    let Parsed { head, framing, keep_alive } = parsed;
    let upload = match (framing, tunnel) {
        (Framing::Tunnel, Some(body)) => Some(Pump::new(body, Rc::clone(&wire), Framing::Tunnel, Half::Request)),
        (Framing::Tunnel, None) => {
            return Err(Fault::new(Reason::HttpProtocolError).detail("status 101 that nobody asked for"));
        }
        (_, _) => upload,
    };
    wire.borrow_mut().expect(framing);
    if framing == Framing::Tunnel {
        wire.borrow_mut().ends_with_it();
    }
    // A connection whose request is not sent to its end carries no other.
    let home = Some(home).filter(|_| keep_alive && upload.is_none() && !write_failed && framing != Framing::Tunnel);
    let mut body = if wire.borrow().body_read() {
        if let Some(home) = home {
            home.put(wire);
        }
        Body::empty(Half::Response)
    } else {
        Body::source(Half::Response, Source::H1(Incoming::new(wire, Half::Response, home)), framing.length())
    };
    if let Some(upload) = upload {
        body.carry(body::Pump::H1(upload.carried()));
    }
    Ok(Response { head, body })
}
