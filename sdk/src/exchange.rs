//! The two halves of an exchange that a filter sees, and its end.

use std::any::Any;
use std::rc::Rc;
use std::time::Duration;

use crate::attributes::Attributes;
use crate::backend::{Backend, Half, Host};
use crate::headers::{Headers, InvalidHeader, Value};
use crate::message::{BODY_LIMIT, Body, BodyError, Chunk, Content};
use crate::run::Exchange;

/// A request, while the filter holds it.
#[derive(Debug)]
pub struct Request {
    message: Message,
}

/// A response, while the filter holds it.
#[derive(Debug)]
pub struct Response {
    message: Message,
    kept: Option<Rc<dyn Any>>,
}

/// What both have.
struct Message {
    exchange: Rc<Exchange>,
    half: Half,
    head: Headers,
    trailers: Headers,
    has_body: bool,
}

impl Message {
    fn new(exchange: &Rc<Exchange>, half: Half, has_body: bool) -> Self {
        let (head, trailers) = (Headers::head(exchange, half), Headers::trailers(exchange, half));
        Self { exchange: Rc::clone(exchange), half, head, trailers, has_body }
    }

    fn content(&self) -> Content<'_> {
        Content::new(&self.exchange, self.half)
    }
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.head.fmt(f)
    }
}

/// The methods that are the same for both, told once.
macro_rules! message {
    ($name:ident) => {
        impl $name {
            /// Its headers.
            pub fn headers(&self) -> &Headers {
                &self.message.head
            }

            /// Its headers, to be changed.
            pub fn headers_mut(&mut self) -> &mut Headers {
                &mut self.message.head
            }

            /// Whether a body follows (or trailers).
            pub fn has_body(&self) -> bool {
                self.message.has_body
            }

            /// Waits for the whole body, of up to [`BODY_LIMIT`] bytes, while head and body are held. Empty if there is
            /// none. Until it is changed or a chunk of it is asked for, it can be asked for again.
            ///
            /// On Envoy a plugin whose filter does that needs `allow_on_headers_stop_iteration: true`, without which
            /// Envoy shows no body while the head is held; or the filter calls `pass_head` before.
            ///
            /// # Errors
            ///
            /// If there is more, if a chunk of it was asked for before, and if [`Filter::READS`](crate::Filter::READS)
            /// does not say that this is read.
            pub async fn body(&mut self) -> Result<Body, BodyError> {
                self.body_up_to(BODY_LIMIT).await
            }

            /// As `body`, with another limit. The proxy has one, too: `limits.buffer` on Lacis, the buffer limit of the
            /// listener or cluster on Envoy, 1 MiB each; what is larger it answers with 413 (500 for a response) itself.
            ///
            /// # Errors
            ///
            /// As `body`.
            pub async fn body_up_to(&mut self, bytes: usize) -> Result<Body, BodyError> {
                self.message.content().body(bytes).await
            }

            /// Replaces the whole body, after it was read with `body`. A `content-length` in the head that is still
            /// held is set.
            ///
            /// # Errors
            ///
            /// If it was not read to its end or if there is none, and if it would change the length that a head told
            /// that has gone on (unless `rewrite_body` was called before).
            pub fn set_body(&mut self, body: impl AsRef<[u8]>) -> Result<(), BodyError> {
                self.message.content().set_body(body.as_ref())
            }

            /// Waits for the next piece of the body, as the proxy happens to read it; none at its end. With the first
            /// one that is asked for the head goes on, and each piece goes on when the next one is asked for: so
            /// nothing is held but the piece in hand.
            ///
            /// # Errors
            ///
            /// If [`Filter::READS`](crate::Filter::READS) does not say that this is read.
            pub async fn chunk(&mut self) -> Result<Option<Chunk<'_>>, BodyError> {
                self.message.content().chunk().await
            }

            /// Waits for the trailers; none if the message ends without. What is left of the body goes on meanwhile, and the head.
            ///
            /// # Errors
            ///
            /// If [`Filter::READS`](crate::Filter::READS) does not say that this is read.
            pub async fn trailers(&mut self) -> Result<Option<&mut Headers>, BodyError> {
                let content = Content::new(&self.message.exchange, self.message.half);
                content.trailers(&mut self.message.trailers).await
            }

            /// Lets the head go on as soon as the method waits for something. From then on it cannot be read or changed,
            /// and the other side may begin to act on it. For a body that is read while nobody is kept from the head.
            pub fn pass_head(&mut self) {
                self.message.content().pass_head();
            }

            /// Says that the body's length will change: the head goes on without `content-length`. To be called before
            /// the first chunk; `set_body`, and a change of the first chunk while the head is held, do not need it.
            pub fn rewrite_body(&mut self) {
                self.message.content().rewrite();
            }

            /// Who and where: the peer's identity, addresses and what else the proxy knows.
            pub fn attributes(&self) -> Attributes<'_> {
                Attributes::new()
            }
        }
    };
}

message!(Request);
message!(Response);

impl Request {
    pub(crate) fn new(exchange: &Rc<Exchange>, has_body: bool) -> Self {
        Self { message: Message::new(exchange, Half::Request, has_body) }
    }

    /// The method, empty if the host shows none.
    pub fn method(&self) -> String {
        self.pseudo(":method")
    }

    /// The path with its query, empty if the host shows none.
    pub fn path(&self) -> String {
        self.pseudo(":path")
    }

    /// The host and port that the request is for, empty if the host shows none.
    pub fn authority(&self) -> String {
        self.pseudo(":authority")
    }

    /// Sends the request to another service: it becomes the authority, by which the proxy chooses the service after
    /// the filters have run. `x-forwarded-host` carries the authority that the caller used.
    ///
    /// # Errors
    ///
    /// [`InvalidHeader`] if the name cannot be an authority; nothing has changed then.
    pub fn send_to(&mut self, service: &str) -> Result<(), InvalidHeader> {
        let headers = self.headers_mut();
        let original = headers.get(":authority");
        headers.set(":authority", service)?;
        if let Some(original) = original {
            headers.set("x-forwarded-host", original)?;
        }
        Ok(())
    }

    /// Has the route chosen anew, by the headers as they are now. Lacis always chooses after the listener's filters
    /// have run. Envoy has chosen before, and chooses again by itself when a filter changes headers.
    pub fn choose_route(&mut self) {
        Host::reroute();
    }

    /// Keeps one value for [`Response::kept`] and [`End::kept`]; a second one replaces the first. A response does not
    /// show its request's headers, so what it needs of them is kept here.
    pub fn keep<T: 'static>(&mut self, value: T) {
        *self.message.exchange.kept.borrow_mut() = Some(Rc::new(value));
    }

    fn pseudo(&self, name: &str) -> String {
        self.headers().get(name).as_ref().map(Value::to_text).unwrap_or_default().into_owned()
    }
}

impl Response {
    pub(crate) fn new(exchange: &Rc<Exchange>, has_body: bool) -> Self {
        let kept = exchange.kept.borrow().clone();
        Self { message: Message::new(exchange, Half::Response, has_body), kept }
    }

    /// The status; 0 if the host shows none.
    pub fn status(&self) -> u16 {
        status(self.headers())
    }

    /// What [`Request::keep`] kept, if it was a `T`.
    pub fn kept<T: 'static>(&self) -> Option<&T> {
        self.kept.as_ref()?.downcast_ref()
    }

    /// Keeps one value for [`End::kept`], in place of what the request kept.
    pub fn keep<T: 'static>(&mut self, value: T) {
        let value: Rc<dyn Any> = Rc::new(value);
        self.kept = Some(Rc::clone(&value));
        *self.message.exchange.kept.borrow_mut() = Some(value);
    }
}

/// An exchange that is over, for [`Filter::on_end`](crate::Filter::on_end).
#[derive(Debug)]
pub struct End {
    request: Headers,
    response: Headers,
    kept: Option<Rc<dyn Any>>,
}

impl End {
    pub(crate) fn new(kept: Option<Rc<dyn Any>>) -> Self {
        Self { request: Headers::past(Half::Request), response: Headers::past(Half::Response), kept }
    }

    /// The headers of the request as they went on; empty if none came.
    pub fn request_headers(&self) -> &Headers {
        &self.request
    }

    /// The headers of the response as the caller got it; empty if it got none.
    pub fn response_headers(&self) -> &Headers {
        &self.response
    }

    /// The status that the caller got; 0 if it got none.
    pub fn status(&self) -> u16 {
        status(&self.response)
    }

    /// Bytes of the request's body.
    pub fn request_bytes(&self) -> u64 {
        self.count(&["request", "size"])
    }

    /// Bytes of the response's body.
    pub fn response_bytes(&self) -> u64 {
        self.count(&["response", "size"])
    }

    /// From the first byte of the request to the last of the response; zero if the host does not know.
    pub fn duration(&self) -> Duration {
        Duration::from_nanos(self.count(&["request", "duration"]))
    }

    /// Who and where, and what the proxy says of how it ended.
    pub fn attributes(&self) -> Attributes<'_> {
        Attributes::new()
    }

    /// What [`Request::keep`] kept, if it was a `T`.
    pub fn kept<T: 'static>(&self) -> Option<&T> {
        self.kept.as_ref()?.downcast_ref()
    }

    fn count(&self, path: &[&str]) -> u64 {
        self.attributes().integer(path).and_then(|count| u64::try_from(count).ok()).unwrap_or(0)
    }
}

fn status(headers: &Headers) -> u16 {
    headers.get(":status").and_then(|status| status.parse()).unwrap_or(0)
}
