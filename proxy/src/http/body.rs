//! The one body type: content and trailers of a message, pulled frame by frame from whatever carries it.
//!
//! A response body also carries what is left of its request: while the response streams, the rest of the request's
//! body is sent by the same task (`upload`), so that both directions flow at once without a task or a channel between.

use std::fmt;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::{h1, h2, h3};
use crate::fault::{Fault, Reason, Side};
use crate::http::Fields;

/// A piece of a body.
#[derive(Debug)]
pub enum Frame {
    /// Content.
    Data(Bytes),
    /// Trailer fields; always the last frame.
    Trailers(Fields),
}

/// How long the content is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// This many bytes, by content-length or because it is all here.
    Known(u64),
    /// Known when it ends.
    Unknown,
    /// Not content but the bytes of a tunnel (an upgraded connection, or CONNECT), until it ends.
    Tunnel,
}

/// Which message a body belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// The request's.
    Request,
    /// The response's.
    Response,
}

/// Learns what a body carried and how it ended: the exchange, which accounts for both.
pub trait Observer {
    /// Content passed.
    fn data(&self, half: Half, bytes: usize);
    /// Trailers passed.
    fn trailers(&self, half: Half, trailers: &Fields);
    /// The body is over: completely, by a fault, or (`None`) because nobody reads it any more.
    fn end(&self, half: Half, outcome: Option<Result<(), &Fault>>);
    /// Ready when nothing has moved for too long.
    fn poll_idle(&self, cx: &mut Context<'_>) -> Poll<Fault>;
}

/// The content and trailers of a message.
pub struct Body {
    kind: Kind,
    length: Length,
    half: Half,
    passed: u64,
    ended: bool,
    upload: Option<Box<Pump>>,
    observer: Option<Rc<dyn Observer>>,
}

/// What carries a body.
enum Kind {
    Empty,
    Bytes(Bytes),
    Source(Source),
}

/// A body that is made here: filters change another body, or write one themselves.
pub trait Made: fmt::Debug {
    /// The next frame; `None` at the end.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Fault>>>;
    /// Whether nothing more will come.
    fn is_end(&self) -> bool;
}

/// Where a body comes from.
#[derive(Debug)]
pub enum Source {
    /// An HTTP/1 connection.
    H1(h1::Incoming),
    /// An HTTP/2 stream.
    H2(h2::Incoming),
    /// An HTTP/3 stream. Boxed: its reader would make every body four times as large.
    H3(Box<h3::Incoming>),
    /// This process.
    Made(Box<dyn Made>),
}

/// A body on its way into the network: owns it and writes it, frame by frame, as fast as the other side takes it.
#[derive(Debug)]
pub enum Pump {
    /// Into an HTTP/1 connection.
    H1(h1::Pump),
    /// Into an HTTP/2 stream.
    H2(h2::Pump),
    /// Into an HTTP/3 stream.
    H3(h3::Pump),
}

impl Source {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Fault>>> {
        match self {
            Source::H1(source) => source.poll_frame(cx),
            Source::H2(source) => source.poll_frame(cx),
            Source::H3(source) => source.poll_frame(cx),
            Source::Made(source) => source.poll_frame(cx),
        }
    }

    fn is_end(&self) -> bool {
        match self {
            Source::H1(source) => source.is_end(),
            Source::H2(source) => source.is_end(),
            Source::H3(source) => source.is_end(),
            Source::Made(source) => source.is_end(),
        }
    }
}

impl Pump {
    /// Moves what can be moved. Ready when the body is written to its end, or cannot be.
    ///
    /// # Errors
    /// A fault of the downstream side if the body broke (the upstream stream has been reset then), of the upstream
    /// side if the server no longer takes it.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        match self {
            Pump::H1(pump) => pump.poll(cx),
            Pump::H2(pump) => pump.poll(cx),
            Pump::H3(pump) => pump.poll(cx),
        }
    }
}

impl Body {
    /// No content, no trailers.
    pub fn empty(half: Half) -> Self {
        Body::of(Kind::Empty, Length::Known(0), half)
    }

    /// Content that is all here.
    pub fn bytes(half: Half, bytes: Bytes) -> Self {
        let length = Length::Known(bytes.len() as u64);
        Body::of(if bytes.is_empty() { Kind::Empty } else { Kind::Bytes(bytes) }, length, half)
    }

    /// A body that a protocol reads. With a known length the content is checked against it (RFC 9110 section 8.6):
    /// more is cut, less is a fault, in all protocols alike.
    pub fn source(half: Half, source: Source, length: Length) -> Self {
        let over = length == Length::Known(0) && source.is_end();
        Body::of(if over { Kind::Empty } else { Kind::Source(source) }, length, half)
    }

    fn of(kind: Kind, length: Length, half: Half) -> Self {
        Body { kind, length, half, passed: 0, ended: false, upload: None, observer: None }
    }

    /// How long the content is in all.
    pub fn length(&self) -> Length {
        self.length
    }

    /// Whether it is known that nothing will come (any more).
    pub fn is_end(&self) -> bool {
        self.ended || matches!(self.kind, Kind::Empty)
    }

    /// Has the rest of the request's body sent while this response's body is read.
    pub fn carry(&mut self, upload: impl Into<Box<Pump>>) {
        self.upload = Some(upload.into());
    }

    /// Gives up what is left of the request's body, for the body that stands for this one to carry.
    pub fn take_upload(&mut self) -> Option<Box<Pump>> {
        self.upload.take()
    }

    /// All of the content, if it is here in one piece, nothing follows it, and nothing of the request is left to send: the
    /// body is over then, and keeps its length. Else nothing has happened. Not for a body that is observed.
    pub fn take_whole(&mut self) -> Option<Bytes> {
        if self.ended || self.passed > 0 || self.uploads() || self.observer.is_some() {
            return None;
        }
        let fits = |length: usize| match self.length {
            Length::Known(known) => known == length as u64,
            Length::Unknown => true,
            Length::Tunnel => false,
        };
        let content = match &mut self.kind {
            Kind::Bytes(bytes) if fits(bytes.len()) => std::mem::take(bytes),
            Kind::Source(Source::H1(source)) => source.take_whole(fits)?,
            Kind::Source(Source::H2(source)) => source.take_whole(fits)?,
            // HTTP/3 hears of the end when it looks for more.
            Kind::Source(Source::H3(_) | Source::Made(_)) | Kind::Bytes(_) | Kind::Empty => return None,
        };
        self.passed = content.len() as u64;
        self.end(Some(Ok(())));
        Some(content)
    }

    /// Makes this the content of a body of which [all was taken](Body::take_whole), announced as this long or not.
    pub fn put_whole(&mut self, content: Bytes, length: Length) {
        (self.kind, self.length, self.passed, self.ended) = (Kind::Bytes(content), length, 0, false);
    }

    /// Whether some of the request's body is still to be sent.
    pub fn uploads(&self) -> bool {
        self.upload.is_some()
    }

    /// Tells this observer what passes. An empty body ends at once.
    pub fn observe(&mut self, observer: Rc<dyn Observer>) {
        let over = self.is_end();
        self.observer = Some(observer);
        if over {
            self.end(Some(Ok(())));
        }
    }

    /// Moves the request's rest along. A writer that waits for its own side calls this, so that the two directions
    /// cannot wait for each other.
    ///
    /// # Errors
    /// If the request broke: the response is worthless then. If nothing moved for too long.
    pub fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<(), Fault> {
        if let Some(observer) = &self.observer
            && let Poll::Ready(fault) = observer.poll_idle(cx)
        {
            return Err(self.fail(fault));
        }
        let Some(upload) = &mut self.upload else { return Ok(()) };
        let Poll::Ready(done) = upload.poll(cx) else { return Ok(()) };
        self.upload = None;
        if self.ended {
            self.kind = Kind::Empty;
        }
        match done {
            // The server takes no more of the request but may still answer (RFC 9110 section 7.5): its answer decides.
            Ok(()) => Ok(()),
            Err(fault) if fault.side() == Side::Upstream => Ok(()),
            Err(fault) => Err(self.fail(fault)),
        }
    }

    /// Ready when nothing of the request is left to send: a server may answer before it has read everything, and reads
    /// on (RFC 9112 section 9.3). What is not wanted any more, the server says itself.
    ///
    /// # Errors
    /// If the request broke, or nothing moved for too long.
    pub fn poll_uploaded(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        if self.uploads() {
            self.poll_upload(cx)?;
        }
        if self.uploads() { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    /// As [`Body::poll_uploaded`], when what is left of this body has been read, which nobody is to get.
    ///
    /// # Errors
    /// As [`Body::poll_frame`].
    pub fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        while let Some(frame) = ready!(self.poll_frame(cx)) {
            frame?;
        }
        self.poll_uploaded(cx)
    }

    /// The next frame; `None` at the end. After an error or the end nothing more comes.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Fault>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Err(fault) = self.poll_upload(cx) {
            return Poll::Ready(Some(Err(self.fail(fault))));
        }
        let frame = match &mut self.kind {
            Kind::Empty => None,
            Kind::Bytes(bytes) => {
                let bytes = std::mem::take(bytes);
                Some(Ok(Frame::Data(bytes)))
            }
            Kind::Source(source) => ready!(source.poll_frame(cx)),
        };
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                let last = matches!(frame, Frame::Trailers(_)) || self.last();
                let frame = self.pass(frame);
                // Whoever writes learns from `is_end` that this was the last frame and can say so with it.
                if last && frame.is_ok() && !matches!(self.length, Length::Known(length) if self.passed < length) {
                    self.end(Some(Ok(())));
                }
                Some(frame)
            }
            Some(Err(fault)) => Some(Err(self.fail(fault))),
            None => match self.length {
                Length::Known(length) if self.passed < length => {
                    let text = format!("{} of {length} bytes came", self.passed);
                    Some(Err(self.fail(Fault::new(self.incomplete()).detail(text))))
                }
                _ => {
                    self.end(Some(Ok(())));
                    None
                }
            },
        })
    }

    /// Waits for the next frame.
    pub async fn frame(&mut self) -> Option<Result<Frame, Fault>> {
        std::future::poll_fn(|cx| self.poll_frame(cx)).await
    }

    fn pass(&mut self, frame: Frame) -> Result<Frame, Fault> {
        match &frame {
            Frame::Data(data) => {
                self.passed += data.len() as u64;
                if matches!(self.length, Length::Known(length) if self.passed > length) {
                    return Err(
                        self.fail(Fault::new(self.malformed()).detail("more content than content-length announced"))
                    );
                }
                if let Some(observer) = &self.observer {
                    observer.data(self.half, data.len());
                }
            }
            Frame::Trailers(trailers) => {
                if self.length == Length::Tunnel {
                    // RFC 9113 section 8.5, RFC 9114 section 4.4.
                    return Err(self.fail(Fault::new(self.malformed()).detail("trailers in a tunnel")));
                }
                if matches!(self.length, Length::Known(length) if self.passed < length) {
                    return Err(self.fail(Fault::new(self.incomplete()).detail("trailers before the announced length")));
                }
                if let Some(observer) = &self.observer {
                    observer.trailers(self.half, trailers);
                }
            }
        }
        Ok(frame)
    }

    fn last(&self) -> bool {
        match &self.kind {
            Kind::Empty | Kind::Bytes(_) => true,
            Kind::Source(source) => source.is_end(),
        }
    }

    fn fail(&mut self, fault: Fault) -> Fault {
        self.end(Some(Err(&fault)));
        fault
    }

    fn end(&mut self, outcome: Option<Result<(), &Fault>>) {
        if self.ended {
            return;
        }
        self.ended = true;
        // A stream that still carries the rest of the request is in use until that is sent, too.
        if self.upload.is_none() || !matches!(outcome, Some(Ok(()))) {
            self.kind = Kind::Empty;
        }
        // Kept while the request is still on its way: its idleness is this observer's matter too.
        if let Some(observer) = &self.observer {
            observer.end(self.half, outcome);
        }
    }

    fn incomplete(&self) -> Reason {
        match self.half {
            Half::Request => Reason::RequestIncomplete,
            Half::Response => Reason::HttpResponseIncomplete,
        }
    }

    fn malformed(&self) -> Reason {
        match self.half {
            Half::Request => Reason::HttpRequestError,
            Half::Response => Reason::HttpProtocolError,
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.end(None);
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body")
            .field("half", &self.half)
            .field("length", &self.length)
            .field("passed", &self.passed)
            .finish_non_exhaustive()
    }
}
