//! The two halves of a stream, as those hold them who read and write its messages. When both are gone, so is the stream.

use std::task::{Context, Poll};

use bytes::Bytes;

use super::connection::Shared;
use super::frame::Code;
use super::stream::{Answer, Cause, Key, Side, watch};
use crate::http::Fields;
use crate::http::body::Frame;
use crate::http::head::ResponseHead;

/// Reads the message that comes.
pub(super) struct Reader {
    shared: Shared,
    key: Key,
}

/// Writes the message that goes.
pub(super) struct Writer {
    shared: Shared,
    key: Key,
}

impl Reader {
    /// The reading half of a stream, of which there is one.
    pub(super) fn new(shared: Shared, key: Key) -> Self {
        Reader { shared, key }
    }

    /// The head of the response.
    pub(super) fn poll_head(&self, cx: &Context<'_>) -> Poll<Result<ResponseHead, Cause>> {
        let connection = &mut *self.shared.borrow_mut();
        let Some(stream) = connection.streams.get(self.key) else { return Poll::Ready(Err(GONE)) };
        match std::mem::replace(&mut stream.answer, Answer::Taken) {
            Answer::Here(head) => return Poll::Ready(Ok(head)),
            awaited => stream.answer = awaited,
        }
        match stream.cause {
            Some(cause) => Poll::Ready(Err(cause)),
            None => {
                watch(&mut stream.reader, cx);
                Poll::Pending
            }
        }
    }

    /// The next piece of content, or the trailers; `None` at the end.
    pub(super) fn poll_frame(&self, cx: &Context<'_>) -> Poll<Option<Result<Frame, Cause>>> {
        let connection = &mut *self.shared.borrow_mut();
        let Some(stream) = connection.streams.get(self.key) else { return Poll::Ready(Some(Err(GONE))) };
        if let Some(data) = stream.inbox.pop() {
            // Whoever pulled it holds it until it is written: only then is the next one asked for.
            connection.release(self.key, data.len());
            return Poll::Ready(Some(Ok(Frame::Data(data))));
        }
        if let Some(trailers) = stream.trailers.take() {
            return Poll::Ready(Some(Ok(Frame::Trailers(*trailers))));
        }
        match (stream.read, stream.cause) {
            (Side::Ended, _) => Poll::Ready(None),
            (Side::Open, Some(cause)) => Poll::Ready(Some(Err(cause))),
            (Side::Open, None) => {
                watch(&mut stream.reader, cx);
                Poll::Pending
            }
        }
    }

    /// All of the content that was not read, if it came in one piece which `fits`, and nothing follows.
    pub(super) fn take_whole(&self, fits: impl Fn(usize) -> bool) -> Option<Bytes> {
        let connection = &mut *self.shared.borrow_mut();
        let stream = connection.streams.get(self.key)?;
        let ended = stream.read == Side::Ended && stream.trailers.is_none();
        let data = if ended { stream.inbox.take_only(fits)? } else { return None };
        connection.release(self.key, data.len());
        Some(data)
    }

    /// Whether nothing more will come.
    pub(super) fn is_end(&self) -> bool {
        self.shared.borrow_mut().streams.get(self.key).is_none_or(|stream| stream.is_read())
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let connection = &mut *self.shared.borrow_mut();
        let Some(stream) = connection.streams.get(self.key) else { return };
        stream.has_reader = false;
        stream.reader = None;
        let unread = stream.inbox.clear();
        connection.release_connection(unread);
        connection.settle(self.key);
    }
}

impl Writer {
    /// The writing half of a stream, of which there is one.
    pub(super) fn new(shared: Shared, key: Key) -> Self {
        Writer { shared, key }
    }

    /// Sends the head of a response.
    ///
    /// # Errors
    /// If the stream is over.
    pub(super) fn answer(&self, head: &ResponseHead, end: bool) -> Result<(), Cause> {
        self.shared.borrow_mut().answer(self.key, head, end)
    }

    /// Whether the peer reads too little for more heads than it needs.
    pub(super) fn is_behind(&self) -> bool {
        self.shared.borrow().is_behind()
    }

    /// Ready when more can be given to be sent, and then no more was left.
    pub(super) fn poll_room(&self, cx: &Context<'_>) -> Poll<Result<(), Cause>> {
        self.shared.borrow_mut().poll_room(self.key, cx)
    }

    /// Ready when the stream is over before its time.
    pub(super) fn poll_cause(&self, cx: &Context<'_>) -> Poll<Cause> {
        self.shared.borrow_mut().poll_cause(self.key, cx)
    }

    /// Sends content, for which there is room.
    pub(super) fn send(&self, data: Bytes, end: bool) {
        self.shared.borrow_mut().send(self.key, data, end);
    }

    /// Sends trailers, for which there is room.
    pub(super) fn send_trailers(&self, trailers: Fields) {
        self.shared.borrow_mut().send_trailers(self.key, trailers);
    }

    /// Says that the message will not be whole.
    pub(super) fn cancel(&self, code: Code) {
        self.shared.borrow_mut().cancel(self.key, code);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let connection = &mut *self.shared.borrow_mut();
        let Some(stream) = connection.streams.get(self.key) else { return };
        stream.has_writer = false;
        stream.writer = None;
        connection.settle(self.key);
    }
}

const GONE: Cause = Cause::Lost("the stream is gone");

macro_rules! shown {
    ($($name:ident)+) => {$(
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).field("key", &self.key).finish_non_exhaustive()
            }
        }
    )+};
}

shown!(Reader Writer);
