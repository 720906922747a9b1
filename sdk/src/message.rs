//! The content of a message, as a host shows it and as a filter asks for it.

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::ops::Deref;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use serde::de::DeserializeOwned;

use crate::backend::{Backend, Half, Host};
use crate::headers::Headers;
use crate::reply::Reply;
use crate::run::Exchange;

/// As many bytes of a body as [`Request::body`](crate::Request::body) takes: what Envoy and Lacis hold back of a body
/// unless they are told otherwise.
pub const BODY_LIMIT: usize = 1024 * 1024;

const CONTENT_LENGTH: &str = "content-length";

/// What a filter asks for beyond heads. What it does not declare costs its exchanges nothing, and cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reads {
    halves: [bool; 2],
}

impl Reads {
    /// Heads only.
    pub const HEADS: Self = Self { halves: [false, false] };
    /// Bodies and trailers of requests.
    pub const REQUEST_BODY: Self = Self { halves: [true, false] };
    /// Bodies and trailers of responses.
    pub const RESPONSE_BODY: Self = Self { halves: [false, true] };
    /// Bodies and trailers of both.
    pub const BODIES: Self = Self { halves: [true, true] };

    /// As Lacis is told: whether the request is read, and the response.
    #[cfg(target_family = "wasm")]
    pub(crate) fn bytes(self) -> [u8; 2] {
        self.halves.map(u8::from)
    }

    pub(crate) const fn has(self, half: Half) -> bool {
        self.halves[half as usize]
    }
}

/// Why a body could not be read or changed. As a [`Reply`] it is 413 for a request that is too large, 400 and 502 for
/// content that is not what the filter expects of a request and a response, and else 500.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BodyError {
    half: Half,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Undeclared,
    TooLarge(usize),
    Gone,
    Early,
    None,
    Length,
    Content(String),
}

impl BodyError {
    fn new(half: Half, kind: Kind) -> Self {
        Self { half, kind }
    }

    /// Whether there is more of it than was asked for.
    pub fn is_too_large(&self) -> bool {
        matches!(self.kind, Kind::TooLarge(_))
    }

    fn status(&self) -> u16 {
        match (&self.kind, self.half) {
            (Kind::TooLarge(_), Half::Request) => 413,
            (Kind::Content(_), Half::Request) => 400,
            (Kind::Content(_), Half::Response) => 502,
            _ => 500,
        }
    }
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let half = match self.half {
            Half::Request => "request",
            Half::Response => "response",
        };
        match &self.kind {
            Kind::Undeclared => {
                write!(f, "the filter does not say in Filter::READS that it reads the body of a {half}")
            }
            Kind::TooLarge(limit) => write!(f, "the body of the {half} has more than {limit} bytes"),
            Kind::Gone => write!(f, "the beginning of the {half}'s body has gone on already"),
            Kind::Early => write!(f, "the body of the {half} can be replaced only when it was read to its end"),
            Kind::None => write!(f, "the {half} has no body that could be replaced"),
            Kind::Length => write!(f, "the length of the {half}'s body was told already, and this would change it"),
            Kind::Content(error) => write!(f, "the body of the {half} is not what was expected: {error}"),
        }
    }
}

impl std::error::Error for BodyError {}

impl From<BodyError> for Reply {
    fn from(error: BodyError) -> Self {
        match error.status() {
            status @ (400 | 413) => {
                crate::debug!("{error}");
                Reply::new(status).body(format!("{error}\n"))
            }
            status => {
                crate::error!("{error}");
                Reply::new(status)
            }
        }
    }
}

/// The whole body of a message.
#[derive(Clone, PartialEq, Eq)]
pub struct Body {
    half: Half,
    bytes: Vec<u8>,
}

impl Body {
    /// The bytes.
    pub fn into_vec(self) -> Vec<u8> {
        self.bytes
    }

    /// The body as text.
    ///
    /// # Errors
    ///
    /// If it is not UTF-8: as a [`Reply`] 400 for a request, 502 for a response.
    pub fn text(&self) -> Result<&str, BodyError> {
        std::str::from_utf8(&self.bytes).map_err(|error| self.wrong(&error))
    }

    /// The body read as JSON.
    ///
    /// # Errors
    ///
    /// If it is not JSON, or not of this type: as a [`Reply`] 400 for a request, 502 for a response.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, BodyError> {
        serde_json::from_slice(&self.bytes).map_err(|error| self.wrong(&error))
    }

    fn wrong(&self, error: &dyn fmt::Display) -> BodyError {
        BodyError::new(self.half, Kind::Content(error.to_string()))
    }
}

impl Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&String::from_utf8_lossy(&self.bytes), f)
    }
}

/// A piece of a body, as it came. It goes on, as it is or as it was changed, when the next one is asked for or the
/// method returns.
pub struct Chunk<'m> {
    bytes: Vec<u8>,
    way: &'m RefCell<Way>,
}

impl Chunk<'_> {
    /// Puts other bytes in its place; none drop it.
    ///
    /// # Errors
    ///
    /// If that changes the length of the body and the head has gone on with a `content-length`: call
    /// [`Request::rewrite_body`](crate::Request::rewrite_body) before the first chunk.
    pub fn replace(&mut self, bytes: impl Into<Vec<u8>>) -> Result<(), BodyError> {
        self.way.borrow_mut().replace(bytes.into())
    }

    /// Drops it.
    ///
    /// # Errors
    ///
    /// As [`Chunk::replace`].
    pub fn clear(&mut self) -> Result<(), BodyError> {
        self.replace(Vec::new())
    }
}

impl Deref for Chunk<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for Chunk<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&String::from_utf8_lossy(&self.bytes), f)
    }
}

/// How much of a message has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Arrived {
    Nothing,
    Head,
    /// All, and it ends without trailers.
    End,
    Trailers,
}

/// What the method waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Something that is not of this message.
    Other,
    Body,
    Chunk,
    Trailers,
}

/// One half of an exchange between host and method.
///
/// The host's buffer holds the first `size` bytes that have not gone on. Of these the method has been given the first
/// `taken`, piece by piece; what became of them is in `out`, if it is not what they were.
pub(crate) struct Way {
    half: Half,
    reads: bool,
    arrived: Arrived,
    head_held: bool,
    /// The method has no more to do with the head.
    let_go: bool,
    /// The body's length will change: the head goes on without one.
    rewrites: bool,
    /// The head has gone on, and said a length.
    length_told: bool,
    size: usize,
    taken: usize,
    /// Where the piece in the method's hands begins.
    hand: usize,
    replacement: Option<Vec<u8>>,
    out: Option<Vec<u8>>,
    /// The host has shown a body, be it empty.
    shown: bool,
    /// Some of it has gone on.
    passed: bool,
    wish: Wish,
    waker: Option<Waker>,
    /// The last callback has stopped this half.
    pub(crate) stopped: bool,
}

impl Way {
    pub(crate) fn new(half: Half) -> Self {
        Self {
            half,
            reads: false,
            arrived: Arrived::Nothing,
            head_held: false,
            let_go: false,
            rewrites: false,
            length_told: false,
            size: 0,
            taken: 0,
            hand: 0,
            replacement: None,
            out: None,
            shown: false,
            passed: false,
            wish: Wish::Other,
            waker: None,
            stopped: false,
        }
    }

    /// The head has come.
    pub(crate) fn head(&mut self, end: bool, reads: bool) {
        (self.head_held, self.reads) = (true, reads);
        self.arrived = if end { Arrived::End } else { Arrived::Head };
    }

    /// A piece of the body has come, or its end: so many bytes are in the host's buffer now.
    pub(crate) fn body(&mut self, size: usize, end: bool) {
        (self.size, self.shown) = (size, true);
        self.arrived(if end { Arrived::End } else { Arrived::Head });
    }

    pub(crate) fn arrived(&mut self, arrived: Arrived) {
        self.arrived = self.arrived.max(arrived);
        // The method is polled in any case: this is for a future within it that has a waker of its own.
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Whether the host shows the head.
    pub(crate) fn shows_head(&self) -> bool {
        self.head_held
    }

    /// Whether the host shows trailers.
    pub(crate) fn shows_trailers(&self) -> bool {
        self.arrived == Arrived::Trailers && self.reads
    }

    /// The method has returned: everything goes on.
    pub(crate) fn finish(&mut self) {
        self.commit();
        self.reads = false;
        self.pass();
    }

    /// The method waits. Whether what the host holds may go on meanwhile; then it is made what it has become.
    pub(crate) fn may_pass(&mut self, inside: bool) -> bool {
        let content = matches!(self.wish, Wish::Chunk | Wish::Trailers);
        // Alone a head can go only while nothing of the body is held, too.
        let head = self.let_go && self.head_held && self.size == 0 && (inside || self.arrived == Arrived::Head);
        if content {
            self.commit();
        }
        if content || head {
            self.pass();
        }
        content || head
    }

    fn pass(&mut self) {
        if std::mem::take(&mut self.head_held) {
            let map = self.half.head();
            if self.rewrites {
                Host::remove_header(map, CONTENT_LENGTH);
            } else if self.reads {
                self.length_told = Host::header(map, CONTENT_LENGTH).is_some();
            }
        }
        if let Some(mut out) = self.out.take() {
            if self.taken < self.size {
                out.extend(Host::body(self.half, self.taken, self.size - self.taken));
            }
            Host::set_body(self.half, self.size, &out);
        }
        self.passed |= self.shown;
        (self.size, self.taken, self.hand) = (0, 0, 0);
    }

    /// The piece in the method's hands is as it shall be.
    fn commit(&mut self) {
        let (from, to) = (self.hand, self.taken);
        match (self.replacement.take(), &mut self.out) {
            (Some(replacement), Some(out)) => out.extend(replacement),
            (Some(replacement), None) => {
                let mut out = if from > 0 { Host::body(self.half, 0, from) } else { Vec::new() };
                out.extend(replacement);
                self.out = Some(out);
            }
            (None, Some(out)) if from < to => out.extend(Host::body(self.half, from, to - from)),
            (None, _) => {}
        }
        self.hand = self.taken;
    }

    fn replace(&mut self, bytes: Vec<u8>) -> Result<(), BodyError> {
        self.may_change(self.taken - self.hand, bytes.len())?;
        self.replacement = Some(bytes);
        Ok(())
    }

    fn may_change(&mut self, from: usize, to: usize) -> Result<(), BodyError> {
        if from != to {
            if self.length_told {
                return Err(self.error(Kind::Length));
            }
            self.rewrites = true;
        }
        Ok(())
    }

    fn error(&self, kind: Kind) -> BodyError {
        BodyError::new(self.half, kind)
    }

    fn wait(&mut self, wish: Wish, cx: &Context<'_>) {
        self.wish = wish;
        self.waker = Some(cx.waker().clone());
    }
}

/// The content of a message; [`crate::Request`] and [`crate::Response`] hand it out.
#[derive(Clone, Copy)]
pub(crate) struct Content<'m> {
    way: &'m RefCell<Way>,
}

impl<'m> Content<'m> {
    pub(crate) fn new(exchange: &'m Rc<Exchange>, half: Half) -> Self {
        Self { way: exchange.way(half) }
    }

    pub(crate) async fn body(self, limit: usize) -> Result<Body, BodyError> {
        let body = self.wait(Wish::Body, |way| {
            if way.passed || way.taken > 0 {
                return Some(Err(way.error(Kind::Gone)));
            }
            if way.size > limit {
                return Some(Err(way.error(Kind::TooLarge(limit))));
            }
            (way.arrived > Arrived::Head).then(|| {
                let bytes = if way.size > 0 { Host::body(way.half, 0, way.size) } else { Vec::new() };
                Ok(Body { half: way.half, bytes })
            })
        });
        body.await?
    }

    pub(crate) fn set_body(self, bytes: &[u8]) -> Result<(), BodyError> {
        let way = &mut *self.way.borrow_mut();
        if !way.reads {
            return Err(way.error(Kind::Undeclared));
        }
        if way.passed || way.taken > 0 {
            return Err(way.error(Kind::Gone));
        }
        if way.arrived <= Arrived::Head {
            return Err(way.error(Kind::Early));
        }
        if !way.shown {
            return Err(way.error(Kind::None));
        }
        let map = way.half.head();
        if way.head_held && !way.rewrites {
            // The new length is known: the head may go on saying one.
            if Host::header(map, CONTENT_LENGTH).is_some() {
                Host::set_header(map, CONTENT_LENGTH, bytes.len().to_string().as_bytes());
            }
        } else {
            way.may_change(way.size, bytes.len())?;
        }
        Host::set_body(way.half, way.size, bytes);
        way.size = bytes.len();
        Ok(())
    }

    pub(crate) async fn chunk(self) -> Result<Option<Chunk<'m>>, BodyError> {
        self.way.borrow_mut().commit();
        let chunk = self.wait(Wish::Chunk, |way| {
            if way.taken < way.size {
                way.hand = way.taken;
                way.taken = way.size;
                return Some(Some(Host::body(way.half, way.hand, way.size - way.hand)));
            }
            (way.arrived > Arrived::Head).then_some(None)
        });
        Ok(chunk.await?.map(|bytes| Chunk { bytes, way: self.way }))
    }

    pub(crate) async fn trailers(self, headers: &mut Headers) -> Result<Option<&mut Headers>, BodyError> {
        self.way.borrow_mut().commit();
        let arrived = self.wait(Wish::Trailers, |way| (way.arrived > Arrived::Head).then_some(way.arrived)).await?;
        Ok((arrived == Arrived::Trailers).then_some(headers))
    }

    pub(crate) fn pass_head(self) {
        self.way.borrow_mut().let_go = true;
    }

    pub(crate) fn rewrite(self) {
        self.way.borrow_mut().rewrites = true;
    }

    async fn wait<T>(self, wish: Wish, mut ready: impl FnMut(&mut Way) -> Option<T>) -> Result<T, BodyError> {
        let _waits = Waits(self.way);
        poll_fn(|cx| {
            let way = &mut *self.way.borrow_mut();
            if !way.reads {
                return Poll::Ready(Err(way.error(Kind::Undeclared)));
            }
            match ready(way) {
                Some(value) => Poll::Ready(Ok(value)),
                None => {
                    way.wait(wish, cx);
                    Poll::Pending
                }
            }
        })
        .await
    }
}

/// While it lives, the method waits for content; it may give that up.
struct Waits<'m>(&'m RefCell<Way>);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let way = &mut *self.0.borrow_mut();
        (way.wish, way.waker) = (Wish::Other, None);
    }
}
