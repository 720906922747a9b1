//! Connections that carry opaque bytes: no heads, both directions at once, each with an end of its own. To the rest of
//! the hop they are the two bodies of a CONNECT exchange.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;

use http::StatusCode;

use super::parse::Framing;
use super::server::linger;
use super::wire::{Incoming, Pump, Wire};
use crate::clock::Deadline;
use crate::http::body::{self, Body, Half, Length, Source};
use crate::http::head::ResponseHead;
use crate::http::{Request, Response};
use crate::net::io::Io;

/// The server's end of a tunnel: an accepted connection. Dropped before all that was to be sent was sent, it is reset.
#[derive(Debug)]
pub struct Tunnel(Rc<RefCell<Wire>>);

impl Tunnel {
    /// A connection, and what comes from it as the body of a request.
    pub fn accept(io: Io) -> (Self, Body) {
        let wire = Rc::new(RefCell::new(Wire::tunnel(io)));
        let body = incoming(&wire, Half::Request);
        (Tunnel(wire), body)
    }

    /// Writes the body of the response into it, and moves the rest of the request that rides on that along. Ends when both
    /// directions have, or one has broken: whoever watches the bodies knows why.
    pub async fn answer(self, body: Body) {
        let mut pump = Pump::new(body, Rc::clone(&self.0), Framing::Tunnel, Half::Response);
        let moved = poll_fn(|cx| pump.poll(cx)).await;
        drop(pump);
        if moved.is_ok() && !self.0.borrow().body_read() {
            // The server takes no more. To close now would reset the connection, and with it what was sent last.
            linger(&self.0, &Deadline::new()).await;
        }
    }
}

/// The client's end of a tunnel: hands the request's body to a fresh connection as it is. The answer is the connection's own
/// bytes; the rest of the request rides on it.
pub fn connect(wire: Wire, request: Request) -> Response {
    let wire = Rc::new(RefCell::new(wire));
    let mut body = incoming(&wire, Half::Response);
    body.carry(body::Pump::H1(Pump::new(request.body, wire, Framing::Tunnel, Half::Request)));
    Response { head: ResponseHead::new(StatusCode::OK).into(), body }
}

fn incoming(wire: &Rc<RefCell<Wire>>, half: Half) -> Body {
    Body::source(half, Source::H1(Incoming::new(Rc::clone(wire), half, None)), Length::Tunnel)
}
