//! Opaque TCP: a connection of the application to a service's own port is one CONNECT exchange (RFC 9113 section 8.5,
//! RFC 9114 section 4.4), which passes the same way as every other. Its filters see no head.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use http::Method;
use http::uri::{Authority, PathAndQuery};

use super::hop::Served;
use crate::drain::{Drain, Phase};
use crate::fault::{Fault, Reason};
use crate::http::body::Frame;
use crate::http::head::Version;
use crate::http::{Body, Fields, Request, RequestHead, Service, h1};
use crate::net::io::Io;

/// What is read of a refusal's content: ours is a line.
const REFUSAL_BYTES: usize = 64 * 1024;

/// Serves one connection until both directions have ended, one has broken, or the drain is cut.
pub async fn serve(io: Io, served: Rc<Served>, drain: Drain) {
    let mut cut = pin!(drain.reached(Phase::Cut));
    let mut tunnel = pin!(tunnel(io, served));
    poll_fn(|cx| if cut.as_mut().poll(cx).is_ready() { Poll::Ready(()) } else { tunnel.as_mut().poll(cx) }).await;
}

async fn tunnel(io: Io, served: Rc<Served>) {
    let (tunnel, body) = h1::Tunnel::accept(io);
    let name = served.pinned.as_ref().map(|pinned| Rc::clone(&pinned.borrow())).unwrap_or_default();
    let head = RequestHead {
        method: Method::CONNECT,
        // A port is required (RFC 9110 section 9.3.6); the one that was called says as much as any.
        authority: Authority::try_from(format!("{name}:{}", served.conn.local.port())).ok(),
        path: PathAndQuery::from_static("/"),
        https: false,
        headers: Fields::new(),
        version: Version::Http11,
        upgrade: None,
    };
    let response = served.call(Request { head: head.into(), body, interim: Rc::default() }).await;
    if response.head.status.is_success() {
        tunnel.answer(response.body).await;
    } else {
        // The exchange has recorded why; the application sees a reset.
        refused(response.body).await;
    }
}

/// Reads what a refusal says to its end, so that it is not taken for one that the application did not wait for.
async fn refused(mut body: Body) {
    let mut left = REFUSAL_BYTES;
    while let Some(Ok(Frame::Data(data))) = body.frame().await {
        left = left.saturating_sub(data.len());
        if left == 0 {
            return;
        }
    }
}

/// Whether a request may pass a hop: CONNECT between opaque ends, and nothing else there. An application that speaks HTTP
/// would get bytes that no filter has seen.
///
/// # Errors
/// `UnsupportedRequest`.
pub(super) fn admit(head: &RequestHead, opaque: bool) -> Result<(), Fault> {
    let refused = match (head.method == Method::CONNECT, opaque) {
        (true, false) => "the method CONNECT, to what speaks HTTP",
        (false, true) => "HTTP, to what takes opaque TCP",
        (true, true) | (false, false) => return Ok(()),
    };
    Err(Fault::new(Reason::UnsupportedRequest).detail(refused))
}
