//! The server side: each stream of a connection is a request, in a task of its own.

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use http::Method;

use super::MAX_STREAMS;
use super::body::{Pump, incoming_body};
use super::connection::{Awaited, Over, Shared};
use super::driver::Driver;
use super::frame::Code;
use super::half::{Reader, Writer};
use super::receive::Accepted;
use crate::clock::Deadline;
use crate::drain::{Drain, Phase};
use crate::http::body::{Body, Half};
use crate::http::rules::{CLOSE_TIMEOUT, HEAD_TIMEOUT, IDLE_TIMEOUT};
use crate::http::{Interim, Request, Response, Service};
use crate::net::io::Io;

/// Streams that a peer may reset before we took them (CVE-2023-44487, rapid reset), per connection. A link carries many
/// callers, and one that leaves resets all of his at once; such a stream costs no more than one that is open.
pub(super) const MAX_PENDING_RESETS: usize = MAX_STREAMS as usize;

/// Streams that a client may make us reset by errors of its own, over the life of the connection (CVE-2025-8671). A link
/// lives for weeks, so this is no small number.
pub(super) const MAX_ERROR_RESETS: usize = 65_536;

/// Requests that come in one turn; a longer queue is not kept for others.
const KEPT: usize = 64;

thread_local! {
    /// A queue for whoever reads next.
    static SPARE: Cell<VecDeque<Accepted>> = const { Cell::new(VecDeque::new()) };
}

/// Serves one connection until it ends. What its client did wrong, if it ended for that.
pub async fn serve<S: Service>(io: Io, service: Rc<S>, drain: Drain) -> Option<&'static str> {
    let mut driver = Driver::new(io, true);
    let shared = driver.shared();
    let mut quiet = pin!(drain.reached(Phase::Quiet));
    let mut cut = pin!(drain.reached(Phase::Cut));
    let mut draining = false;
    let (mut awaited, deadline) = (Awaited::Nothing, Deadline::new());
    poll_fn(|cx| {
        if cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        if !draining && quiet.as_mut().poll(cx).is_ready() {
            draining = true;
            shared.borrow_mut().drain();
        }
        shared.borrow_mut().accepted = SPARE.take();
        driver.read(cx);
        loop {
            // Not in the condition: that would hold the state while a task is made.
            let accepted = shared.borrow_mut().next_request();
            let Some(accepted) = accepted else { break };
            // Its end is the connection's, which ends when its last stream has.
            // Boxed: the runtime moves a task some eight times, and this one has kilobytes.
            tokio::task::spawn_local(Box::pin(exchange(Rc::clone(&service), Rc::clone(&shared), accepted)));
        }
        let emptied = std::mem::take(&mut shared.borrow_mut().accepted);
        if emptied.capacity() <= KEPT {
            SPARE.set(emptied);
        }
        let malformed = std::mem::take(&mut shared.borrow_mut().malformed);
        malformed.into_iter().for_each(|fault| service.reset(fault));
        driver.write(cx);
        let connection = shared.borrow();
        if connection.over.is_some() || connection.is_drained() && driver.is_written(&connection) {
            let wrong = match connection.over {
                Some(Over::Violated(what)) => Some(what),
                _ => None,
            };
            drop(connection);
            driver.shutdown(cx);
            return Poll::Ready(wrong);
        }
        let before = std::mem::replace(&mut awaited, connection.awaited());
        if awaited != before {
            deadline.set(match awaited {
                Awaited::Nothing => Duration::ZERO,
                Awaited::Request => IDLE_TIMEOUT,
                Awaited::Rest(_) => HEAD_TIMEOUT,
                Awaited::Leave => CLOSE_TIMEOUT,
            });
        }
        if deadline.poll(cx).is_ready() {
            drop(connection);
            match awaited {
                Awaited::Rest(_) => {
                    shared.borrow_mut().fail(Code::ENHANCE_YOUR_CALM, "a frame or a head that did not come in time")
                }
                Awaited::Request => shared.borrow_mut().drain(),
                Awaited::Nothing | Awaited::Leave => return Poll::Ready(None),
            }
            // To be written.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    })
    .await
}

/// One request and its response.
async fn exchange<S: Service>(service: Rc<S>, shared: Shared, accepted: Accepted) {
    let Accepted { key, request, end } = accepted;
    let writer = Writer::new(Rc::clone(&shared), key);
    let reader = (!end).then(|| Reader::new(shared, key));
    let interim = Rc::new(Interim::default());
    let mut method = Method::GET;
    let response = match request {
        Err(fault) => service.refuse(fault),
        Ok((head, length)) => {
            method.clone_from(&head.method);
            let body = match reader {
                Some(reader) => incoming_body(reader, length, Half::Request, None),
                None => Body::empty(Half::Request),
            };
            let mut call = pin!(service.call(Request { head: head.into(), body, interim: Rc::clone(&interim) }));
            let answered = poll_fn(|cx| {
                let response = call.as_mut().poll(cx);
                // Also those that came with the final head: they go before it. Others wait while the client reads too little.
                if !interim.is_empty() && (response.is_ready() || !writer.is_behind()) {
                    for head in interim.take() {
                        // A stream that is gone shows below.
                        let _ = writer.answer(&head, false);
                    }
                }
                match response {
                    Poll::Ready(response) => Poll::Ready(Some(response)),
                    Poll::Pending => writer.poll_cause(cx).map(|_| None),
                }
            });
            match answered.await {
                Some(response) => response,
                None => return,
            }
        }
    };
    let Response { head, mut body } = response;
    let end = body.is_end() || head.is_bodiless(&method);
    if writer.answer(&head, end).is_err() {
        return;
    }
    drop(head);
    if end {
        let _ = poll_fn(|cx| body.poll_rest(cx)).await;
    } else {
        let mut pump = Pump::new(body, writer, Half::Response);
        // The exchange has recorded what went wrong, the stream was reset.
        let _ = poll_fn(|cx| pump.poll(cx)).await;
    }
}
