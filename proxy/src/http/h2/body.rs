//! Bodies out of streams and into them.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{RecvStream, SendStream};

use super::client::Flight;
use super::stream_fault;
use crate::fault::{Fault, Reason};
use crate::http::body::{Body, Frame, Half, Length, Source};
use crate::http::rules;

pub(super) fn incoming_body(stream: RecvStream, length: Length, half: Half, flight: Option<Flight>) -> Body {
    if stream.is_end_stream() {
        return Body::empty(half);
    }
    Body::source(half, Source::H2(Incoming { stream, half, data_read: false, _flight: flight }), length)
}

/// The body of a stream.
#[derive(Debug)]
pub struct Incoming {
    stream: RecvStream,
    half: Half,
    data_read: bool,
    _flight: Option<Flight>,
}

impl Incoming {
    /// The next frame.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Fault>>> {
        if !self.data_read {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // Whoever pulled the frame holds it until it is written: only then is the next one asked for.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(Ok(Frame::Data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(stream_fault(&error, self.half)))),
                None => self.data_read = true,
            }
        }
        match ready!(self.stream.poll_trailers(cx)) {
            Ok(Some(mut trailers)) => {
                rules::clean_trailers(&mut trailers);
                Poll::Ready(Some(Ok(Frame::Trailers(trailers))))
            }
            Ok(None) => Poll::Ready(None),
            Err(error) => Poll::Ready(Some(Err(stream_fault(&error, self.half)))),
        }
    }

    /// Whether nothing more will come.
    pub fn is_end(&self) -> bool {
        self.stream.is_end_stream()
    }
}

/// A body on its way into a stream.
#[derive(Debug)]
pub struct Pump {
    body: Body,
    stream: SendStream<Bytes>,
    waiting: Option<Bytes>,
    half: Half,
    sent: bool,
}

impl Pump {
    pub(super) fn new(body: Body, stream: SendStream<Bytes>, half: Half) -> Self {
        Pump { body, stream, waiting: None, half, sent: false }
    }

    /// See [`crate::http::body::Pump::poll`].
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        if !self.sent {
            let moved = ready!(self.poll_move(cx));
            if let Err(fault) = moved {
                if fault.side() != self.far_side() {
                    // What the reader has is not the whole: it must not look so.
                    self.stream.send_reset(match fault.reason {
                        Reason::DownstreamAborted | Reason::RequestIncomplete => h2::Reason::CANCEL,
                        _ => h2::Reason::INTERNAL_ERROR,
                    });
                }
                return Poll::Ready(Err(fault));
            }
            self.sent = true;
        }
        self.body.poll_uploaded(cx)
    }

    fn poll_move(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        loop {
            self.body.poll_upload(cx)?;
            if let Some(mut data) = self.waiting.take() {
                if self.stream.capacity() == 0 {
                    if let Poll::Ready(reset) = self.stream.poll_reset(cx) {
                        return Poll::Ready(self.reset(reset));
                    }
                    match self.stream.poll_capacity(cx) {
                        Poll::Ready(Some(Ok(_))) => {}
                        Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(stream_fault(&error, self.reader()))),
                        Poll::Ready(None) => {
                            return Poll::Ready(Err(Fault::new(self.gone()).detail("the stream is closed")));
                        }
                        Poll::Pending => {
                            self.waiting = Some(data);
                            return Poll::Pending;
                        }
                    }
                }
                let n = self.stream.capacity().min(data.len());
                let rest = data.split_off(n);
                let end = rest.is_empty() && self.body.is_end();
                if n > 0 || end {
                    self.stream.send_data(data, end).map_err(|error| stream_fault(&error, self.reader()))?;
                }
                if !rest.is_empty() {
                    self.waiting = Some(rest);
                } else if end {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            let Poll::Ready(frame) = self.body.poll_frame(cx) else {
                // Nothing to send: but learn when nobody wants it any more.
                return match self.stream.poll_reset(cx) {
                    Poll::Ready(reset) => Poll::Ready(self.reset(reset)),
                    Poll::Pending => Poll::Pending,
                };
            };
            match frame.transpose()? {
                Some(Frame::Data(data)) if data.is_empty() && !self.body.is_end() => {}
                Some(Frame::Data(data)) => {
                    self.stream.reserve_capacity(data.len());
                    if data.is_empty() {
                        self.stream.send_data(data, true).map_err(|error| stream_fault(&error, self.reader()))?;
                        return Poll::Ready(Ok(()));
                    }
                    self.waiting = Some(data);
                }
                Some(Frame::Trailers(trailers)) => {
                    self.stream.send_trailers(trailers).map_err(|error| stream_fault(&error, self.reader()))?;
                    return Poll::Ready(Ok(()));
                }
                None => {
                    self.stream.send_data(Bytes::new(), true).map_err(|error| stream_fault(&error, self.reader()))?;
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }

    fn reset(&self, reason: Result<h2::Reason, h2::Error>) -> Result<(), Fault> {
        match reason {
            // RFC 9113 section 8.1: the response is complete and the rest of the request is not wanted.
            Ok(h2::Reason::NO_ERROR) if self.half == Half::Request => Ok(()),
            Ok(reason) => Err(Fault::new(self.gone()).detail(format!("the stream was reset: {reason}"))),
            Err(error) => Err(stream_fault(&error, self.reader())),
        }
    }

    /// The message that comes back on this stream belongs to the reader of what is sent.
    fn reader(&self) -> Half {
        match self.half {
            Half::Request => Half::Response,
            Half::Response => Half::Request,
        }
    }

    fn far_side(&self) -> crate::fault::Side {
        self.gone().row().side
    }

    fn gone(&self) -> Reason {
        match self.half {
            Half::Request => Reason::StreamReset,
            Half::Response => Reason::DownstreamAborted,
        }
    }
}
