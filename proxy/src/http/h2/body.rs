//! Bodies out of streams and into them.

use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::client::Flight;
use super::frame::Code;
use super::half::{Reader, Writer};
use super::stream::Cause;
use super::stream_fault;
use crate::fault::{Fault, Reason, Side};
use crate::http::body::{Body, Frame, Half, Length, Source};

pub(super) fn incoming_body(reader: Reader, length: Length, half: Half, flight: Option<Flight>) -> Body {
    if reader.is_end() {
        return Body::empty(half);
    }
    Body::source(half, Source::H2(Incoming { reader, half, _flight: flight }), length)
}

/// The body of a stream.
#[derive(Debug)]
pub struct Incoming {
    reader: Reader,
    half: Half,
    _flight: Option<Flight>,
}

impl Incoming {
    /// The next frame.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Fault>>> {
        self.reader.poll_frame(cx).map_err(|cause| stream_fault(cause, self.half))
    }

    /// Whether nothing more will come.
    pub fn is_end(&self) -> bool {
        self.reader.is_end()
    }

    /// See [`Body::take_whole`].
    pub fn take_whole(&mut self, fits: impl Fn(usize) -> bool) -> Option<Bytes> {
        self.reader.take_whole(fits)
    }
}

/// A body on its way into a stream.
#[derive(Debug)]
pub struct Pump {
    body: Body,
    writer: Writer,
    half: Half,
    sent: bool,
}

impl Pump {
    pub(super) fn new(body: Body, writer: Writer, half: Half) -> Self {
        Pump { body, writer, half, sent: false }
    }

    /// See [`crate::http::body::Pump::poll`].
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        if !self.sent {
            let moved = ready!(self.poll_move(cx));
            if let Err(fault) = moved {
                if fault.side() != self.gone().row().side {
                    // What the reader has is not the whole: it must not look so.
                    self.writer.cancel(match fault.side() {
                        Side::Downstream => Code::CANCEL,
                        Side::Proxy | Side::Upstream => Code::INTERNAL_ERROR,
                    });
                }
                return Poll::Ready(Err(fault));
            }
            self.sent = true;
        }
        if self.half == Half::Response && self.writer.poll_room(cx).is_pending() {
            // A client that makes no room for the end would hold it for ever.
            return match self.body.poll_upload(cx) {
                Ok(()) => Poll::Pending,
                Err(fault) => {
                    self.writer.cancel(Code::INTERNAL_ERROR);
                    Poll::Ready(Err(fault))
                }
            };
        }
        self.body.poll_uploaded(cx)
    }

    fn poll_move(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        loop {
            self.body.poll_upload(cx)?;
            if let Err(cause) = ready!(self.writer.poll_room(cx)) {
                return Poll::Ready(self.over(cause));
            }
            let Poll::Ready(frame) = self.body.poll_frame(cx) else {
                // Nothing to send: but learn when nobody wants it any more.
                return self.writer.poll_cause(cx).map(|cause| self.over(cause));
            };
            match frame.transpose()? {
                Some(Frame::Data(data)) => {
                    let end = self.body.is_end();
                    if end || !data.is_empty() {
                        self.writer.send(data, end);
                    }
                    if end {
                        return Poll::Ready(Ok(()));
                    }
                }
                Some(Frame::Trailers(trailers)) => {
                    self.writer.send_trailers(trailers);
                    return Poll::Ready(Ok(()));
                }
                None => {
                    self.writer.send(Bytes::new(), true);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }

    fn over(&self, cause: Cause) -> Result<(), Fault> {
        match cause {
            // RFC 9113 section 8.1: the response is complete and the rest of the request is not wanted.
            Cause::Reset(Code::NO_ERROR) if self.half == Half::Request => Ok(()),
            Cause::Reset(code) => Err(Fault::new(self.gone()).detail(format!("the stream was reset: {code}"))),
            cause => Err(stream_fault(
                cause,
                match self.half {
                    // The message that comes back on this stream belongs to the reader of what is sent.
                    Half::Request => Half::Response,
                    Half::Response => Half::Request,
                },
            )),
        }
    }

    fn gone(&self) -> Reason {
        match self.half {
            Half::Request => Reason::StreamReset,
            Half::Response => Reason::DownstreamAborted,
        }
    }
}
