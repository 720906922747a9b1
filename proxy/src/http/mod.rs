//! HTTP messages and the three protocols that carry them.
//!
//! A message is a head (`head`) and a body (`body`), the same for all versions. Each protocol has a server side, which
//! turns a connection into calls of a [`Service`], and a client side, which carries a [`Request`] over a link. Bytes
//! move by polling: the side that writes a body pulls frames from the side that reads it, so a slow reader stops the
//! reading at the other end and nothing grows in between.

pub mod body;
pub mod client;
pub mod deadline;
pub mod fields;
pub mod h1;
pub mod h2;
pub mod h3;
pub mod head;
mod huffman;
mod message;
mod names;
mod output;
mod room;
pub mod rules;
mod text;

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use http::header::{self, HeaderValue};

use crate::fault::Fault;

pub use body::Body;
use body::Half;
pub use fields::Fields;
pub use head::{RequestHead, ResponseHead, Shared};

/// A request on its way through this hop.
#[derive(Debug)]
pub struct Request {
    /// Method, target and fields.
    pub head: Shared<RequestHead>,
    /// Content and trailers.
    pub body: Body,
    /// Where interim (1xx) responses go.
    pub interim: Rc<Interim>,
}

/// A final response on its way back.
#[derive(Debug)]
pub struct Response {
    /// Status and fields.
    pub head: Shared<ResponseHead>,
    /// Content and trailers.
    pub body: Body,
}

impl Response {
    /// A response whose content is all here; its length is announced, for versions that do not delimit by it too.
    pub fn whole(mut head: ResponseHead, content: Bytes) -> Self {
        head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(content.len()));
        Response { head: head.into(), body: Body::bytes(Half::Response, content) }
    }
}

/// Interim responses (RFC 9110 section 15.2) that the upstream has sent and the downstream side has not written yet.
/// The side that serves the request drains it whenever it polls the call.
#[derive(Debug, Default)]
pub struct Interim(RefCell<Vec<ResponseHead>>);

/// Interim responses that wait at the most; a server that sends more without the client reading them loses the rest
/// (they carry no obligation), so that a hostile server cannot make memory grow.
pub const MAX_INTERIM: usize = 8;

impl Interim {
    /// Hands an interim response to the downstream side.
    pub fn push(&self, head: ResponseHead) {
        let mut waiting = self.0.borrow_mut();
        if waiting.len() < MAX_INTERIM {
            waiting.push(head);
        }
    }

    /// Whether one waits.
    pub fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// Takes those that wait, oldest first.
    pub fn take(&self) -> Vec<ResponseHead> {
        self.0.take()
    }
}

#[cfg(test)]
impl Interim {
    /// Says one after the other, as a hostile server does, to a client who does not read. True once the side that serves that takes no more.
    async fn flood(&self) -> bool {
        const MORE_THAN_ANY_BUFFER: usize = 10_000;
        let mut hints = ResponseHead::new(http::StatusCode::EARLY_HINTS);
        // A field that no table of HTTP/2 makes small.
        hints
            .headers
            .insert(header::SET_COOKIE, HeaderValue::from_static(str::from_utf8(&[b'v'; 1000]).expect("text")));
        for _ in 0..MORE_THAN_ANY_BUFFER {
            (0..MAX_INTERIM).for_each(|_| self.push(hints.clone()));
            tokio::task::yield_now().await;
            if !self.is_empty() {
                return true;
            }
        }
        false
    }
}

/// Whether two names are the same, for the tables of names that are made while this is compiled: `==` cannot be called there.
const fn same(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let mut at = 0;
    while at < one.len() {
        if one[at] != other[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// What a server side does with a request. Never fails: a fault is a response.
pub trait Service: 'static {
    /// Answers one request. Dropping the future cancels the request.
    fn call(self: Rc<Self>, request: Request) -> impl Future<Output = Response> + 'static;

    /// Answers a request that could not be read.
    fn refuse(&self, fault: Fault) -> Response;

    /// Takes note of a request that could not be read, and that a reset has answered.
    fn reset(&self, fault: Fault);
}
