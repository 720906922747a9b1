//! What a connection sends: heads at once, content as the windows and the socket have room for it, stream by stream in turn.

use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};

use super::STREAM_WINDOW;
use super::connection::Connection;
use super::frame::{self, BAD_LENGTH, Code, HEADER, Header, MAX_31_BITS, Wrong, flag, kind, protocol};
use super::hpack::Encoder;
use super::section;
use super::stream::{After, Answer, Cause, Key, Side, Special, Stream, watch};
use crate::http::Fields;
use crate::http::Interim;
use crate::http::head::{RequestHead, ResponseHead};
use http::Method;

/// Content that a stream may send at a time while others have something to send, too.
const TURN: usize = 16 * 1024;

impl Connection {
    /// Opens a stream with a request. There must be room for one.
    pub(super) fn open(&mut self, head: &RequestHead, end: bool, interim: Rc<Interim>) -> Key {
        let id = self.next;
        self.next += 2;
        let mut stream = Stream::new(id, STREAM_WINDOW, self.peer.window.into());
        stream.answer = Answer::Awaited(interim);
        stream.method = match head.method {
            Method::HEAD => Special::Head,
            Method::CONNECT => Special::Connect,
            _ => Special::None,
        };
        if end {
            stream.written = Side::Ended;
            stream.has_writer = false;
        }
        self.section(id, end, |encoder, out| section::write_request(head, encoder, out));
        self.streams.insert(stream)
    }

    /// Sends the head of a response, interim or final.
    pub(super) fn answer(&mut self, key: Key, head: &ResponseHead, end: bool) -> Result<(), Cause> {
        let Some(stream) = self.streams.get(key) else { return Err(Cause::Lost("the stream is gone")) };
        if let Some(cause) = stream.cause {
            return Err(cause);
        }
        let id = stream.id;
        if end {
            stream.written = Side::Ended;
        }
        self.section(id, end, |encoder, out| section::write_response(head, encoder, out));
        self.closed(key);
        Ok(())
    }

    /// Writes a field section: HEADERS, and CONTINUATION if that is too large.
    fn section(&mut self, id: u32, end: bool, write: impl FnOnce(&mut Encoder, &mut BytesMut)) {
        let out = self.output.tail();
        let at = out.len();
        out.put_bytes(0, HEADER);
        write(&mut self.encoder, out);
        let length = out.len() - at - HEADER;
        let end = if end { flag::END_STREAM } else { 0 };
        if length <= self.peer.frame {
            let header = Header { length, kind: kind::HEADERS, flags: end | flag::END_HEADERS, stream: id };
            out[at..at + HEADER].copy_from_slice(&header.bytes());
        } else {
            let block = out.split_off(at + HEADER);
            out.truncate(at);
            let (mut kind, mut flags) = (kind::HEADERS, end);
            let mut pieces = block.chunks(self.peer.frame).peekable();
            while let Some(piece) = pieces.next() {
                flags |= if pieces.peek().is_none() { flag::END_HEADERS } else { 0 };
                frame::write(out, kind, flags, id, piece);
                (kind, flags) = (kind::CONTINUATION, 0);
            }
        }
        self.poke();
    }

    /// Ready when what was given to be sent has left, and more can be given.
    pub(super) fn poll_room(&mut self, key: Key, cx: &Context<'_>) -> Poll<Result<(), Cause>> {
        let Some(stream) = self.streams.get(key) else { return Poll::Ready(Err(Cause::Lost("the stream is gone"))) };
        if let Some(cause) = stream.cause {
            return Poll::Ready(Err(cause));
        }
        if stream.has_waiting() {
            watch(&mut stream.writer, cx);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when the stream is over before its time.
    pub(super) fn poll_cause(&mut self, key: Key, cx: &Context<'_>) -> Poll<Cause> {
        let Some(stream) = self.streams.get(key) else { return Poll::Ready(Cause::Lost("the stream is gone")) };
        match stream.cause {
            Some(cause) => Poll::Ready(cause),
            None => {
                watch(&mut stream.writer, cx);
                Poll::Pending
            }
        }
    }

    /// Sends content, and says that it is the last. What was given before must have left.
    pub(super) fn send(&mut self, key: Key, data: Bytes, end: bool) {
        self.give(key, data, if end { After::End } else { After::More });
    }

    /// Sends trailers.
    pub(super) fn send_trailers(&mut self, key: Key, trailers: Fields) {
        self.give(key, Bytes::new(), After::Trailers(Box::new(trailers)));
    }

    fn give(&mut self, key: Key, data: Bytes, after: After) {
        let Some(stream) = self.streams.get(key) else { return };
        if stream.cause.is_some() || stream.written == Side::Ended {
            return;
        }
        (stream.waiting, stream.after) = (data, after);
        if self.row.is_empty() {
            while self.output.has_room() && self.send_frame(key) {}
        }
        self.queue(key);
        self.poke();
    }

    /// Puts a stream at the end of the row, if it has something that it may send.
    fn queue(&mut self, key: Key) {
        if let Some(stream) = self.streams.get(key)
            && !stream.queued
            && stream.has_waiting()
            && (stream.send_window > 0 || stream.waiting.is_empty())
        {
            stream.queued = true;
            self.row.push_back((key, stream.id));
        }
    }

    /// Moves content of those whose turn it is into what is to be written, until that is enough.
    pub(super) fn schedule(&mut self) {
        while self.output.has_room() {
            let Some((key, id)) = self.row.pop_front() else { return };
            let Some(stream) = self.streams.get(key).filter(|stream| stream.id == id) else { continue };
            stream.queued = false;
            let writer = stream.has_waiting().then(|| self.send_frame(key));
            if writer == Some(false) && self.send_window <= 0 {
                // The connection has no room for anybody.
                if let Some(stream) = self.streams.get(key).filter(|stream| stream.id == id) {
                    stream.queued = true;
                    self.row.push_front((key, id));
                }
                return;
            }
            self.queue(key);
            if let Some(stream) = self.streams.get(key).filter(|stream| stream.id == id && !stream.has_waiting()) {
                stream.wake_writer();
            }
        }
    }

    /// Sends one frame of a stream; `false` if it has nothing that it may send.
    fn send_frame(&mut self, key: Key) -> bool {
        let most = if self.row.is_empty() { self.peer.frame } else { TURN };
        let Some(stream) = self.streams.get(key).filter(|stream| stream.has_waiting()) else { return false };
        let id = stream.id;
        if !stream.waiting.is_empty() || matches!(stream.after, After::End) {
            let room = usize::try_from(stream.send_window.min(self.send_window)).unwrap_or(0);
            let length = stream.waiting.len().min(room).min(most);
            if length == 0 && !stream.waiting.is_empty() {
                return false;
            }
            let data = if length == stream.waiting.len() {
                std::mem::take(&mut stream.waiting)
            } else {
                stream.waiting.split_to(length)
            };
            stream.send_window -= length as i64;
            self.send_window -= length as i64;
            let end = stream.waiting.is_empty() && matches!(stream.after, After::End);
            let flags = if end { flag::END_STREAM } else { 0 };
            self.output.tail().put_slice(&Header { length, kind: kind::DATA, flags, stream: id }.bytes());
            self.output.push(data);
            if end {
                stream.after = After::More;
                stream.written = Side::Ended;
            }
        }
        if stream.waiting.is_empty()
            && let After::Trailers(trailers) = std::mem::take(&mut stream.after)
        {
            stream.written = Side::Ended;
            self.section(id, true, |encoder, out| section::write_trailers(&trailers, encoder, out));
        }
        if self.streams.get(key).is_some_and(|stream| stream.written == Side::Ended) {
            self.closed(key);
            self.settle(key);
        }
        true
    }

    /// Resets a stream that is being written.
    pub(super) fn cancel(&mut self, key: Key, code: Code) {
        let Some(stream) = self.streams.get(key) else { return };
        if stream.is_closed() {
            return;
        }
        let id = stream.id;
        self.end_stream(key, Cause::Reset(code));
        self.reset(id, code);
    }

    /// The peer has made the windows of all streams larger or smaller (RFC 9113 section 6.9.2).
    pub(super) fn resize_windows(&mut self) -> Result<(), Wrong> {
        let change = std::mem::take(&mut self.resized);
        if change == 0 {
            return Ok(());
        }
        let mut freed = VecDeque::new();
        for (key, stream) in self.streams.iter_mut() {
            stream.send_window += change;
            if stream.send_window > MAX_31_BITS.into() {
                return Err(Wrong::Connection(Code::FLOW_CONTROL_ERROR, "a window beyond the limit"));
            }
            if change > 0 && stream.has_waiting() {
                freed.push_back(key);
            }
        }
        freed.into_iter().for_each(|key| self.queue(key));
        Ok(())
    }

    /// The peer has room for more.
    pub(super) fn window_update(&mut self, id: u32, payload: &[u8]) -> Result<(), Wrong> {
        if payload.len() != 4 {
            return Err(BAD_LENGTH);
        }
        let more = frame::word(payload).unwrap_or_default() & MAX_31_BITS;
        if id == 0 {
            self.send_window += i64::from(more);
            return match more {
                0 => Err(protocol("a window that grows by nothing")),
                _ if self.send_window > MAX_31_BITS.into() => {
                    Err(Wrong::Connection(Code::FLOW_CONTROL_ERROR, "a window beyond the limit"))
                }
                _ => Ok(()),
            };
        }
        if self.is_idle(id) {
            return Err(protocol("WINDOW_UPDATE on a stream that is not open"));
        }
        // On one that is over it means nothing.
        let Some((key, stream)) = self.streams.by_id(id) else { return Ok(()) };
        if stream.cause.is_some() {
            return Ok(());
        }
        if more == 0 {
            return Err(Wrong::Stream(id, Code::PROTOCOL_ERROR, "a window that grows by nothing"));
        }
        stream.send_window += i64::from(more);
        if stream.send_window + self.resized > MAX_31_BITS.into() {
            return Err(Wrong::Stream(id, Code::FLOW_CONTROL_ERROR, "a window beyond the limit"));
        }
        self.queue(key);
        Ok(())
    }
}
