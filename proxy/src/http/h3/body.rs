//! Bodies: from a request stream, and into one.

use std::fmt;
use std::task::{Context, Poll, ready};

use super::code::Code;

use super::Broken;
use super::client::InFlight;
use super::frame::Part;
use super::stream::{Reader, Writer};
use crate::fault::Fault;
use crate::http::Fields;
use crate::http::body::{Body, Frame};

/// The content and trailers that a peer sends. Dropped before the end, it asks the peer to stop.
pub struct Incoming {
    reader: Reader,
    /// Keeps the link from counting as unused.
    flight: Option<InFlight>,
    /// Kept until the end of the stream shows that nothing follows them (RFC 9114 section 4.1).
    trailers: Option<Fields>,
}

impl Incoming {
    pub(super) fn new(mut reader: Reader, flight: Option<InFlight>) -> Self {
        reader.head_is_final();
        Incoming { reader, flight, trailers: None }
    }

    /// The next frame; `None` at the end.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Fault>>> {
        loop {
            let frame = match ready!(self.reader.poll_part(cx)) {
                Ok(Some(Part::Content(content))) => Ok(Frame::Data(content)),
                Ok(Some(Part::Fields(payload))) => match self.reader.wire().decode_trailers(payload) {
                    Ok(trailers) => {
                        self.trailers = Some(trailers);
                        continue;
                    }
                    Err(broken) => Err(broken),
                },
                Ok(None) => {
                    return Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::Trailers(trailers))));
                }
                Err(broken) => Err(broken),
            };
            return Poll::Ready(Some(frame.map_err(|broken| self.fail(broken))));
        }
    }

    /// Whether it is known that nothing will come (any more).
    pub fn is_end(&self) -> bool {
        self.reader.is_over()
    }

    fn fail(&mut self, broken: Broken) -> Fault {
        match broken {
            Broken::Malformed(_) => self.reader.stop(Code::MESSAGE_ERROR),
            Broken::TooLarge => self.reader.stop(Code::EXCESSIVE_LOAD),
            _ => {}
        }
        self.flight = None;
        broken.fault(self.reader.wire().peer())
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("h3::Incoming")
    }
}

/// A body on its way into a stream. Dropped before the end, it resets the stream.
pub struct Pump {
    /// Until the stream is ended.
    writer: Option<Writer>,
    body: Body,
    over: bool,
}

impl Pump {
    pub(super) fn new(writer: Writer, body: Body) -> Self {
        let over = body.is_end();
        Pump { writer: Some(writer), body, over }
    }

    /// Moves what can be moved: pulls a frame when quinn has taken the one before, so that a peer that stops reading
    /// stops the body's source. Ready when the body is written to its end, or cannot be.
    ///
    /// # Errors
    /// The body's own fault, or one of the peer, if it takes no more; the stream is reset then. A peer that needs no
    /// more of a request (H3_NO_ERROR, RFC 9114 section 4.1) is no error.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        while let Some(writer) = &mut self.writer {
            // A head may still wait; content that is ready at once goes with it.
            let mut waits = false;
            if !self.over && !writer.is_full() {
                match self.body.poll_frame(cx) {
                    Poll::Ready(Some(Ok(Frame::Data(content)))) if content.is_empty() => {}
                    Poll::Ready(Some(Ok(Frame::Data(content)))) => {
                        writer.content(content);
                        self.over = self.body.is_end();
                    }
                    Poll::Ready(Some(Ok(Frame::Trailers(trailers)))) => match writer.wire().encode_trailers(trailers) {
                        Ok(frame) => writer.frame(frame),
                        Err(broken) => return Poll::Ready(Err(fail(writer, broken))),
                    },
                    Poll::Ready(None) => self.over = true,
                    Poll::Ready(Some(Err(fault))) => {
                        writer.break_off();
                        return Poll::Ready(Err(fault));
                    }
                    Poll::Pending => waits = true,
                }
            }
            match writer.poll_flush(cx) {
                Poll::Pending => {
                    // The other direction must not wait for this one.
                    if let Err(fault) = self.body.poll_upload(cx) {
                        writer.break_off();
                        return Poll::Ready(Err(fault));
                    }
                    return Poll::Pending;
                }
                Poll::Ready(Err(Broken::Reset(code))) if !writer.wire().is_server() && Code(code) == Code::NO_ERROR => {
                    writer.break_off();
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Err(broken)) => return Poll::Ready(Err(fail(writer, broken))),
                Poll::Ready(Ok(())) if waits => return Poll::Pending,
                Poll::Ready(Ok(())) if self.over => {
                    if let Some(writer) = self.writer.take() {
                        writer.finish();
                    }
                }
                Poll::Ready(Ok(())) => {}
            }
        }
        self.body.poll_uploaded(cx)
    }
}

fn fail(writer: &mut Writer, broken: Broken) -> Fault {
    writer.break_off();
    broken.fault(writer.wire().peer())
}

impl fmt::Debug for Pump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("h3::Pump").field("body", &self.body).finish_non_exhaustive()
    }
}
