//! The server side: requests of one connection, one after the other.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Method, StatusCode};

use super::parse::{self, Framing, Parsed};
use super::wire::{Incoming, Pump, Wire};
use super::write;
use crate::clock::Deadline;
use crate::drain::{Drain, Phase};
use crate::fault::{Fault, Reason};
use crate::http::body::{Body, Half, Length, Source};
use crate::http::head::{RequestHead, Shared, Version};
use crate::http::rules::{CLOSE_TIMEOUT, HEAD_TIMEOUT, IDLE_TIMEOUT};
use crate::http::{Interim, Request, Response, Service};
use crate::net::io::Io;

/// Who connected just before the drain is about to ask something: that first request is waited for so long and served.
pub const FIRST_REQUEST: Duration = Duration::from_millis(500);

/// Input that is read ahead of its turn (pipelining, RFC 9112 section 9.3.2) before reading stops.
const READ_AHEAD: usize = 64 * 1024;

/// How often it is asked whether a client has left behind more than that.
const LOOK: Duration = Duration::from_secs(1);

/// After a response that did not need the rest of its request, what still comes is read and dropped, up to this much
/// and this long, so that the response is not destroyed by a reset (RFC 9112 section 9.6).
const LINGER_BYTES: usize = 256 * 1024;
const LINGER: Duration = Duration::from_secs(2);

/// Serves one connection until it ends.
pub async fn serve<S: Service>(io: Io, service: Rc<S>, drain: Drain) {
    let wire = Rc::new(RefCell::new(Wire::new(io)));
    let deadline = Deadline::new();
    let interim = Rc::new(Interim::default());
    let served = Cell::new(false);
    let mut cut = pin!(drain.reached(Phase::Cut));
    let mut quiet = pin!(async {
        drain.reached(Phase::Quiet).await;
        if !served.get() {
            tokio::time::sleep(FIRST_REQUEST).await;
        }
    });
    let mut requests = pin!(async {
        while let Some(read) = read_head(&wire, &deadline, quiet.as_mut()).await {
            served.set(true);
            let keep = match read {
                Ok(parsed) => exchange(&wire, &service, &interim, parsed, &drain).await,
                Err(fault) => {
                    respond(&wire, service.refuse(fault), &Method::GET, Version::Http11, false).await;
                    linger(&wire, &deadline).await;
                    false
                }
            };
            match keep {
                true => wire.borrow_mut().rest(),
                false => break,
            }
        }
        if !wire.borrow().is_unfinished() {
            close(&wire, &deadline).await;
        }
    });
    poll_fn(|cx| if cut.as_mut().poll(cx).is_ready() { Poll::Ready(()) } else { requests.as_mut().poll(cx) }).await;
}

/// The next head; `None` when the connection ends between requests.
async fn read_head(
    wire: &RefCell<Wire>,
    deadline: &Deadline,
    mut quiet: Pin<&mut impl Future<Output = ()>>,
) -> Option<Result<Parsed<Shared<RequestHead>>, Fault>> {
    deadline.set(IDLE_TIMEOUT);
    let mut started = false;
    let read = poll_fn(|cx| {
        loop {
            let mut wire = wire.borrow_mut();
            if wire.has_rest() && matches!(wire.poll_flush(cx), Poll::Ready(Err(_))) {
                return Poll::Ready(None);
            }
            let Wire { input, scanned, .. } = &mut *wire;
            match parse::request(input, scanned) {
                Ok(Some(parsed)) => return Poll::Ready(Some(Ok(parsed))),
                Ok(None) => {}
                Err(fault) => return Poll::Ready(Some(Err(fault))),
            }
            if !started && !wire.input.is_empty() {
                started = true;
                deadline.set(HEAD_TIMEOUT);
            }
            match wire.poll_fill(cx) {
                Poll::Ready(Ok(n)) if n > 0 => continue,
                Poll::Ready(_) if started => {
                    return Poll::Ready(Some(Err(
                        Fault::new(Reason::RequestIncomplete).detail("the connection ended in a head")
                    )));
                }
                Poll::Ready(_) => return Poll::Ready(None),
                Poll::Pending => {}
            }
            if deadline.poll(cx).is_ready() {
                return Poll::Ready(
                    started.then(|| Err(Fault::new(Reason::RequestTimeout).detail("the head did not come in time"))),
                );
            }
            // While draining, a connection on which a request has begun is served; an unused one is closed.
            return if !started && quiet.as_mut().poll(cx).is_ready() { Poll::Ready(None) } else { Poll::Pending };
        }
    })
    .await;
    deadline.clear();
    read
}

/// One request and its response. True if the connection may carry another.
async fn exchange<S: Service>(
    wire: &Rc<RefCell<Wire>>,
    service: &Rc<S>,
    interim: &Rc<Interim>,
    parsed: Parsed<Shared<RequestHead>>,
    drain: &Drain,
) -> bool {
    let Parsed { head, framing, keep_alive } = parsed;
    wire.borrow_mut().expect(framing);
    let body = match framing {
        Framing::Empty => Body::empty(Half::Request),
        _ => Body::source(
            Half::Request,
            Source::H1(Incoming::new(Rc::clone(wire), Half::Request, None)),
            framing.length(),
        ),
    };
    let (method, version, tunnel) = (head.method.clone(), head.version, framing == Framing::Tunnel);
    // What an abandoned exchange left belongs to nobody.
    interim.take();
    let mut call = pin!(Rc::clone(service).call(Request { head, body, interim: Rc::clone(interim) }));
    let mut look = None;
    let response = poll_fn(|cx| {
        let response = call.as_mut().poll(cx);
        // Also those that came with the final head: they go before it.
        let written = poll_interim(&mut wire.borrow_mut(), interim, version, response.is_ready(), cx);
        if let Poll::Ready(response) = response {
            return Poll::Ready(Some(response));
        }
        // The end of what CONNECT sends says nothing of who sent it.
        match written.is_err() || (method != Method::CONNECT && is_gone(&mut wire.borrow_mut(), &mut look, cx)) {
            true => Poll::Ready(None),
            false => Poll::Pending,
        }
    })
    .await;
    let Some(response) = response else { return false };
    let switched = response.head.status == StatusCode::SWITCHING_PROTOCOLS;
    if tunnel && !switched {
        wire.borrow_mut().expect(Framing::Empty);
    }
    // What is still on its way up goes on while the response is written.
    let whole = wire.borrow().body_read() || response.body.uploads();
    let reusable = keep_alive && drain.phase() == Phase::Running && whole && !switched;
    let Some(keep) = respond(wire, response, &method, version, reusable).await else { return false };
    let read = wire.borrow().body_read();
    let over = reusable && keep && read;
    // Whoever still sends its request would lose the response to the reset that closing is.
    if !over && !switched && (keep || !read) {
        linger(wire, &Deadline::new()).await;
    }
    over
}

/// Whether the client went away. Looked for also while nobody reads what it sends, as where a filter holds an answer back: behind as much as
/// may be read ahead its end is found, and behind more the kernel is asked for it now and then. Takes nothing from a reader that waits: that
/// has looked in this very poll, before which the driver has said what there is.
fn is_gone(wire: &mut Wire, look: &mut Option<Deadline>, cx: &mut Context<'_>) -> bool {
    while wire.input.len() < READ_AHEAD {
        match wire.poll_fill(cx) {
            Poll::Pending => return false,
            Poll::Ready(Ok(n)) if n > 0 => {}
            Poll::Ready(_) => return true,
        }
    }
    let look = look.get_or_insert_with(|| {
        let look = Deadline::new();
        look.set(LOOK);
        look
    });
    while look.poll(cx).is_ready() {
        if wire.is_hung_up() {
            return true;
        }
        look.set(LOOK);
    }
    false
}

/// Writes the interim responses that wait, unless a client that does not read has not taken those before: then they go with the final head. HTTP/1.0
/// knows none (RFC 9110 section 15.2).
fn poll_interim(
    wire: &mut Wire,
    interim: &Interim,
    version: Version,
    answered: bool,
    cx: &mut Context<'_>,
) -> Result<(), std::io::Error> {
    let mut flushed = wire.poll_flush(cx);
    if !interim.is_empty() && (answered || flushed.is_ready()) {
        for head in interim.take() {
            if version == Version::Http11 {
                write::response(wire.head_out(), &head, Framing::Empty, false, false);
            }
        }
        flushed = wire.poll_flush(cx);
    }
    match flushed {
        Poll::Ready(Err(error)) => Err(error),
        _ => Ok(()),
    }
}

/// Writes a response, and says whether its end leaves the connection open; none if it could not be written.
async fn respond(
    wire: &Rc<RefCell<Wire>>,
    response: Response,
    method: &Method,
    version: Version,
    keep: bool,
) -> Option<bool> {
    let Response { head, body } = response;
    let framing = match body.length() {
        Length::Tunnel => Framing::Tunnel,
        _ if head.is_bodiless(method) => Framing::Empty,
        Length::Known(length) => Framing::Length(length),
        Length::Unknown if version == Version::Http10 => Framing::Close,
        Length::Unknown => Framing::Chunked,
    };
    let close = !keep || framing == Framing::Close;
    if framing.ends_with_connection() {
        wire.borrow_mut().ends_with_it();
    }
    write::response(wire.borrow_mut().head_out(), &head, framing, close, version == Version::Http10);
    let mut pump = Pump::new(body, Rc::clone(wire), framing, Half::Response);
    // A body that breaks off leaves no way to say so but to end the connection; the exchange has recorded why. A client
    // that leaves in the middle of a silent body is noticed too.
    let mut look = None;
    let written = poll_fn(|cx| match pump.poll(cx) {
        Poll::Ready(done) => Poll::Ready(done.is_ok()),
        Poll::Pending if framing != Framing::Tunnel && is_gone(&mut wire.borrow_mut(), &mut look, cx) => {
            Poll::Ready(false)
        }
        Poll::Pending => Poll::Pending,
    });
    let tunnel = framing == Framing::Tunnel;
    (written.await || tunnel).then_some(!close || tunnel)
}

/// Closes in a way that lets the client read the last response.
pub(super) async fn linger(wire: &RefCell<Wire>, deadline: &Deadline) {
    deadline.set(LINGER);
    let mut dropped = 0;
    let mut shut = false;
    poll_fn(|cx| {
        let mut wire = wire.borrow_mut();
        if !shut {
            match wire.poll_shutdown(cx) {
                Poll::Ready(Ok(())) => shut = true,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => return deadline.poll(cx),
            }
        }
        loop {
            dropped += wire.input.len();
            wire.input.clear();
            match wire.poll_fill(cx) {
                Poll::Ready(Ok(n)) if n > 0 && dropped < LINGER_BYTES => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return deadline.poll(cx),
            }
        }
    })
    .await;
}

/// Closes. A client that reads nothing of what is left would else hold its connection for ever.
async fn close(wire: &RefCell<Wire>, deadline: &Deadline) {
    deadline.set(CLOSE_TIMEOUT);
    poll_fn(|cx| {
        let mut wire = wire.borrow_mut();
        match wire.poll_shutdown(cx) {
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending => deadline.poll(cx).map(|()| wire.ends_with_it()),
        }
    })
    .await;
}
