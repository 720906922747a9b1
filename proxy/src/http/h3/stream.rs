//! Request streams on quinn: what comes in by `frame`, what goes out in order.

use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use super::code::Code;
use bytes::{Bytes, BytesMut};

use super::Broken;
use super::coding::{self, Wire};
use super::frame::{Flaw, Frames, Part, Violation, kind};

/// Content of this much is not copied behind the head.
const LARGE: usize = 4 * 1024;

/// The receiving half of a request stream. Dropped before its end, it asks the peer to stop.
pub(super) struct Reader {
    wire: Rc<Wire>,
    quic: quinn::RecvStream,
    /// Received and not parsed yet.
    chunk: Bytes,
    /// What has come after it.
    ahead: Bytes,
    frames: Frames,
    over: bool,
}

impl Reader {
    pub(super) fn new(wire: Rc<Wire>, quic: quinn::RecvStream) -> Self {
        Reader { wire, quic, chunk: Bytes::new(), ahead: Bytes::new(), frames: Frames::default(), over: false }
    }

    pub(super) fn wire(&self) -> &Rc<Wire> {
        &self.wire
    }

    /// Has the next section taken for trailers: the head before was not interim.
    pub(super) fn head_is_final(&mut self) {
        self.frames.head_is_final();
    }

    /// The next part; `None` at the end of the stream.
    pub(super) fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Part>, Broken>> {
        let part = ready!(self.poll_frame(cx));
        self.over |= !matches!(part, Ok(Some(_)));
        Poll::Ready(part)
    }

    /// Whether nothing comes any more.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// Whether the stream has ended, as far as quinn knows. Between two frames only.
    pub(super) fn is_end(&mut self, cx: &mut Context<'_>) -> bool {
        if self.frames.is_between()
            && let Poll::Ready(Ok(false)) = self.poll_chunk(cx)
        {
            self.over = true;
        }
        self.over
    }

    /// Asks the peer to stop, now and with this code.
    pub(super) fn stop(&mut self, reason: Code) {
        self.over = true;
        // Fails where the stream has ended: nothing to stop then.
        let _ = self.quic.stop(reason.into());
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Part>, Broken>> {
        loop {
            if !ready!(self.poll_chunk(cx))? {
                return Poll::Ready(match self.frames.is_between() {
                    true => Ok(None),
                    false => Err(self.violation((Code::FRAME_ERROR, "the last frame is cut"))),
                });
            }
            match self.frames.read(&mut self.chunk) {
                Ok(None) => {}
                Ok(part) => return Poll::Ready(Ok(part)),
                Err(Flaw::Message(broken)) => return Poll::Ready(Err(broken)),
                Err(Flaw::Connection(violation)) => return Poll::Ready(Err(self.violation(violation))),
            }
        }
    }

    /// Has something in `chunk`; false at the end of the stream.
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Broken>> {
        if !self.chunk.is_empty() {
            return Poll::Ready(Ok(true));
        }
        if self.over {
            return Poll::Ready(Ok(false));
        }
        if !self.ahead.is_empty() {
            self.chunk = std::mem::take(&mut self.ahead);
            return Poll::Ready(Ok(true));
        }
        // Two at once: a short message is one, and with room for another quinn sees in the same look that it was the last.
        let mut pieces = [Bytes::new(), Bytes::new()];
        // The future keeps nothing between polls: quinn remembers the waker by stream.
        let read = ready!(pin!(self.quic.read_chunks(&mut pieces)).poll(cx));
        match read {
            Ok(Some(_)) => {
                [self.chunk, self.ahead] = pieces;
                Poll::Ready(Ok(true))
            }
            Ok(None) => Poll::Ready(Ok(false)),
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }

    /// Closes the connection for what the peer did.
    fn violation(&self, violation: Violation) -> Broken {
        self.wire.violated(violation);
        Broken::Malformed(violation.1)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if !self.over {
            // RFC 9114 section 4.1: a server that has answered needs no more of the request; a client that stops cancels.
            self.stop(if self.wire.is_server() { Code::NO_ERROR } else { Code::REQUEST_CANCELLED });
        }
    }
}

/// The sending half of a request stream. Dropped before [`finish`](Writer::finish), it resets the stream: what was
/// written never looks like a complete message.
pub(super) struct Writer {
    wire: Rc<Wire>,
    quic: quinn::SendStream,
    /// What goes first.
    queue: Vec<Bytes>,
    /// Frames that lie side by side: a head and its content mostly are one piece.
    tail: BytesMut,
    over: bool,
}

impl Writer {
    pub(super) fn new(wire: Rc<Wire>, quic: quinn::SendStream) -> Self {
        Writer { wire, quic, queue: Vec::new(), tail: BytesMut::new(), over: false }
    }

    pub(super) fn wire(&self) -> &Rc<Wire> {
        &self.wire
    }

    pub(super) fn id(&self) -> u64 {
        quinn::VarInt::from(self.quic.id()).into_inner()
    }

    /// Resolves when the peer asks to stop, when it has acknowledged all after the end, or with the connection.
    pub(super) fn stopped(&self) -> impl Future<Output = Result<Option<quinn::VarInt>, quinn::StoppedError>> + 'static {
        self.quic.stopped()
    }

    /// Queues a whole frame, as the coder made it.
    pub(super) fn frame(&mut self, frame: BytesMut) {
        // Copies nothing where both lie side by side.
        self.tail.unsplit(frame);
    }

    /// Queues content. Without copying it if there is much: quinn keeps these bytes until they are acknowledged.
    pub(super) fn content(&mut self, content: Bytes) {
        if content.len() < LARGE {
            return self.frame(coding::frame(kind::DATA, content.len(), &content));
        }
        self.frame(coding::frame(kind::DATA, content.len(), &[]));
        self.queue.extend([self.tail.split().freeze(), content]);
    }

    /// Whether content is still waiting, so that no more should be queued.
    pub(super) fn is_full(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Hands what is queued to quinn. Pending while the windows or the send buffer are full.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if !self.tail.is_empty() {
            let tail = std::mem::take(&mut self.tail).freeze();
            if self.queue.is_empty() {
                // Nearly always taken whole: that needs no queue.
                let mut piece = [tail];
                let written = pin!(self.quic.write_chunks(&mut piece)).poll(cx)?;
                if let Poll::Ready(quinn::Written { chunks: 1, .. }) = written {
                    return Poll::Ready(Ok(()));
                }
                self.queue.extend(piece);
                ready!(written);
            } else {
                self.queue.push(tail);
            }
        }
        while !self.queue.is_empty() {
            // Keeps nothing between polls, as above.
            let written = ready!(pin!(self.quic.write_chunks(&mut self.queue)).poll(cx))?;
            self.queue.drain(..written.chunks);
        }
        Poll::Ready(Ok(()))
    }

    /// Ends the stream after what was flushed.
    pub(super) fn finish(mut self) {
        // What quinn does with a stream that is dropped.
        self.over = true;
    }

    /// Breaks the stream off.
    pub(super) fn reset(&mut self, reason: Code) {
        self.over = true;
        // Fails only where the stream is closed already.
        let _ = self.quic.reset(reason.into());
    }

    /// Breaks the stream off, with the code that says no more than that.
    pub(super) fn break_off(&mut self) {
        self.reset(if self.wire.is_server() { Code::INTERNAL_ERROR } else { Code::REQUEST_CANCELLED });
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.over {
            self.break_off();
        }
    }
}

impl From<quinn::ReadError> for Broken {
    fn from(error: quinn::ReadError) -> Self {
        match error {
            quinn::ReadError::Reset(code) => Broken::Reset(code.into_inner()),
            quinn::ReadError::ConnectionLost(error) => Broken::Lost(error),
            // Never met: we read in order, do not read after an end, and use no 0-RTT.
            quinn::ReadError::ClosedStream
            | quinn::ReadError::IllegalOrderedRead
            | quinn::ReadError::ZeroRttRejected => Broken::Lost(quinn::ConnectionError::LocallyClosed),
        }
    }
}

impl From<quinn::WriteError> for Broken {
    fn from(error: quinn::WriteError) -> Self {
        match error {
            quinn::WriteError::Stopped(code) => Broken::Reset(code.into_inner()),
            quinn::WriteError::ConnectionLost(error) => Broken::Lost(error),
            // Never met, as above.
            quinn::WriteError::ClosedStream | quinn::WriteError::ZeroRttRejected => {
                Broken::Lost(quinn::ConnectionError::LocallyClosed)
            }
        }
    }
}
