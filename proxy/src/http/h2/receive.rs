//! What a connection does with the frames that come.
//!
//! Frames are read where they lie. Content is handed over as it comes, without waiting for the end of its frame, as parts of the block that
//! it was read into; everything else waits until all of its frame is there.

use bytes::{Buf, Bytes, BytesMut};

use super::connection::Connection;
use super::frame::{
    self, BAD_LENGTH, Code, HEADER, Header, MAX_31_BITS, PREFACE, SMALLEST_MAX_FRAME, Wrong, flag, kind, protocol,
    setting,
};
use super::section::Parts;
use super::server::MAX_PENDING_RESETS;
use super::stream::{Answer, Cause, Key, Side, Special, Stream};
use super::{CONNECTION_WINDOW, MAX_FRAME, MAX_STREAMS, STREAM_WINDOW, stream_fault};
use crate::fault::{Fault, Reason};
use crate::http::body::{Half, Length};
use crate::http::head::{RequestHead, ResponseHead};
use crate::http::message::Broken;
use crate::http::rules::{self, MAX_HEAD_BYTES};

/// Bytes of a field section as it comes. After decompression it may have [`MAX_HEAD_BYTES`]; beyond that it is still read to be answered, as
/// later sections depend on it, but only so far.
const MAX_BLOCK: usize = 4 * MAX_HEAD_BYTES;

/// Frames of one field section (CVE-2024-27316): what fits into frames of the smallest size that a sender could mean, and then some.
const MAX_CONTINUATIONS: u32 = 64;

/// Frames in a row that move nothing: empty DATA, PRIORITY, SETTINGS, GOAWAY, unknown ones. Nobody sends so many in good faith.
const MAX_USELESS: u32 = 10_000;

/// Settings in one frame (CVE-2020-11080): some of them concern every stream, and there are six that we know. nghttp2 takes as many.
const MAX_SETTINGS: usize = 32;

/// Bytes of what a GOAWAY says beside its code that are told.
const MAX_WHY: usize = 100;

/// Content of less than this is copied out of the block that it was read into, so that what waits to be read holds no block many times as large.
const SMALL: usize = 1024;

/// So much of a connection that waits for its readers is too much for that: then content of less than a quarter of a block is copied, too.
const BEHIND: i64 = 1024 * 1024;
const PIECE: usize = 16 * 1024;

/// A request that has arrived.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) key: Key,
    /// Its head, or why it is refused, and how long its content is.
    pub(super) request: Result<(RequestHead, Length), Fault>,
    /// It has no content and no trailers.
    pub(super) end: bool,
}

/// The frame of which content is being read.
#[derive(Debug)]
pub(super) struct Content {
    stream: u32,
    left: usize,
    padding: usize,
    end: bool,
}

/// A field section of which more is to come.
#[derive(Debug)]
pub(super) struct Block {
    stream: u32,
    end: bool,
    bytes: BytesMut,
    frames: u32,
}

impl Connection {
    /// Takes what was read; what is left in the buffer waits for the rest of its frame.
    pub(super) fn receive(&mut self, buffer: &mut BytesMut) {
        match self.read(buffer).and_then(|()| self.resize_windows()) {
            Ok(()) => {}
            Err(Wrong::Connection(code, what) | Wrong::Stream(_, code, what)) => self.fail(code, what),
        }
        if self.over.is_some() {
            buffer.clear();
        }
        self.half = self.block.is_some() || !buffer.is_empty();
    }

    fn read(&mut self, buffer: &mut BytesMut) -> Result<(), Wrong> {
        if self.preface {
            let known = buffer.len().min(PREFACE.len());
            if buffer[..known] != PREFACE[..known] {
                return Err(protocol("no HTTP/2 preface"));
            }
            if known < PREFACE.len() {
                return Ok(());
            }
            buffer.advance(PREFACE.len());
            self.preface = false;
        }
        while self.over.is_none() {
            let read = match self.content {
                Some(_) => self.read_content(buffer),
                None => self.read_frame(buffer),
            };
            match read {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(Wrong::Stream(id, code, what)) => self.reset_by_error(id, code, what)?,
                Err(wrong) => return Err(wrong),
            }
            self.whole += u64::from(self.block.is_none());
        }
        Ok(())
    }

    /// Reads one frame; `false` if it is not all there.
    fn read_frame(&mut self, buffer: &mut BytesMut) -> Result<bool, Wrong> {
        let Some(header) = Header::read(buffer) else { return Ok(false) };
        if !self.peer.known && buffer.starts_with(b"HTTP/1") {
            return Err(protocol("the server speaks HTTP/1, and not HTTP/2"));
        }
        if header.length > MAX_FRAME as usize {
            return Err(Wrong::Connection(Code::FRAME_SIZE_ERROR, "a frame over the limit"));
        }
        if !self.peer.known && (header.kind != kind::SETTINGS || header.has(flag::ACK)) {
            return Err(protocol("no SETTINGS at the beginning"));
        }
        if self.block.is_some() != (header.kind == kind::CONTINUATION) {
            return Err(protocol("CONTINUATION where there is nothing to continue, or something else where there is"));
        }
        if header.kind == kind::DATA {
            return self.begin_content(header, buffer);
        }
        let end = HEADER + header.length;
        let Some(payload) = buffer.get(HEADER..end) else {
            buffer.reserve(end - buffer.len());
            return Ok(false);
        };
        let done = self.frame(header, payload);
        buffer.advance(end);
        done.map(|()| true)
    }

    fn frame(&mut self, header: Header, payload: &[u8]) -> Result<(), Wrong> {
        let connection = header.stream == 0;
        match header.kind {
            kind::HEADERS => self.headers(header, payload),
            kind::CONTINUATION => self.continuation(header, payload),
            kind::PRIORITY if connection => Err(protocol("PRIORITY on no stream")),
            kind::PRIORITY if payload.len() != 5 => {
                Err(Wrong::Stream(header.stream, Code::FRAME_SIZE_ERROR, "PRIORITY of a wrong length"))
            }
            kind::PRIORITY => {
                depends_on_itself(header.stream, payload)?;
                self.useless()
            }
            kind::RST_STREAM if payload.len() != 4 => Err(BAD_LENGTH),
            kind::RST_STREAM => self.peer_reset(header.stream, Code(frame::word(payload).unwrap_or_default())),
            kind::SETTINGS if !connection => Err(protocol("SETTINGS on a stream")),
            kind::SETTINGS if header.has(flag::ACK) => {
                if payload.is_empty() {
                    Ok(())
                } else {
                    Err(BAD_LENGTH)
                }
            }
            kind::SETTINGS => self.settings(payload),
            kind::PUSH_PROMISE => Err(protocol("PUSH_PROMISE, which was not allowed")),
            kind::PING if !connection => Err(protocol("PING on a stream")),
            kind::PING if payload.len() != 8 => Err(BAD_LENGTH),
            kind::PING if header.has(flag::ACK) => {
                self.ponged(payload);
                Ok(())
            }
            kind::PING => {
                self.answers += HEADER + payload.len();
                self.write(kind::PING, flag::ACK, 0, payload);
                Ok(())
            }
            kind::GOAWAY if !connection => Err(protocol("GOAWAY on a stream")),
            kind::GOAWAY => self.peer_leaves(payload),
            kind::WINDOW_UPDATE => self.window_update(header.stream, payload),
            _ => self.useless(),
        }
    }

    /// What a frame means on a stream that has ended so: it crossed our reset, or the peer has reset the stream itself and goes on.
    fn after(&self, id: u32, cause: Cause) -> Result<(), Wrong> {
        match cause {
            Cause::Reset(_) => {
                self.late(id).map_err(|_| Wrong::Stream(id, Code::STREAM_CLOSED, "a frame after a reset"))
            }
            _ => Ok(()),
        }
    }

    fn useless(&mut self) -> Result<(), Wrong> {
        self.useless += 1;
        match self.useless > MAX_USELESS {
            true => Err(Wrong::Connection(Code::ENHANCE_YOUR_CALM, "too many frames that say nothing")),
            false => Ok(()),
        }
    }

    /// Whether no stream of this number was opened yet, by whom it could be.
    pub(super) fn is_idle(&self, id: u32) -> bool {
        match self.server {
            // What a client opened after the final GOAWAY was not looked at.
            true => id.is_multiple_of(2) || id > self.last && self.final_goaway.is_none(),
            false => id.is_multiple_of(2) || id >= self.next,
        }
    }

    /// The header of a DATA frame, and its first byte if that says how much padding there is.
    fn begin_content(&mut self, header: Header, buffer: &mut BytesMut) -> Result<bool, Wrong> {
        let id = header.stream;
        if id == 0 || self.is_idle(id) {
            return Err(protocol("DATA on a stream that is not open"));
        }
        let (mut padding, mut overhead) = (0, 0);
        if header.has(flag::PADDED) {
            if header.length == 0 {
                return Err(BAD_LENGTH);
            }
            let Some(&bytes) = buffer.get(HEADER) else { return Ok(false) };
            padding = usize::from(bytes);
            overhead = padding + 1;
            if overhead > header.length {
                return Err(protocol("more padding than payload"));
            }
        }
        buffer.advance(HEADER + overhead - padding);
        let (all, left) = (header.length as i64, header.length - overhead);
        if all > self.receive_window {
            return Err(Wrong::Connection(Code::FLOW_CONTROL_ERROR, "more than the window of the connection"));
        }
        self.receive_window -= all;
        self.release_connection(overhead);
        let end = header.has(flag::END_STREAM);
        self.content = Some(Content { stream: id, left, padding, end });
        match left > 0 || end {
            true => self.useless = 0,
            false => self.useless()?,
        }
        let Some((_, stream)) = self.streams.by_id(id) else { return self.late(id).map(|()| true) };
        if let Some(cause) = stream.cause {
            return self.after(id, cause).map(|()| true);
        }
        if stream.read == Side::Ended {
            return Err(Wrong::Stream(id, Code::STREAM_CLOSED, "content after the end"));
        }
        if matches!(stream.answer, Answer::Awaited(_)) {
            return Err(Wrong::Stream(id, Code::PROTOCOL_ERROR, "content before the head"));
        }
        if all > stream.receive_window {
            return Err(Wrong::Stream(id, Code::FLOW_CONTROL_ERROR, "more than the window of the stream"));
        }
        stream.receive_window -= all;
        if let Some(announced) = &mut stream.left {
            match announced.checked_sub(left as u64) {
                Some(rest) => *announced = rest,
                None => {
                    return Err(Wrong::Stream(id, Code::PROTOCOL_ERROR, "more content than content-length announced"));
                }
            }
        }
        // Goes back with what is read.
        stream.released += overhead as u32;
        Ok(true)
    }

    /// Content that is there; `false` if all was read.
    fn read_content(&mut self, buffer: &mut BytesMut) -> Result<bool, Wrong> {
        let Some(content) = &mut self.content else { return Ok(true) };
        let (id, end) = (content.stream, content.end);
        let length = content.left.min(buffer.len());
        content.left -= length;
        let padding = if content.left == 0 { content.padding.min(buffer.len() - length) } else { 0 };
        content.padding -= padding;
        let whole = content.left == 0 && content.padding == 0;
        if whole {
            self.content = None;
        }
        if length > 0 {
            self.deliver(id, buffer.split_to(length).freeze());
        }
        buffer.advance(padding);
        if whole
            && end
            && let Some(key) = self.streams.find(id)
        {
            self.peer_ended(key)?;
        }
        Ok(whole)
    }

    fn deliver(&mut self, id: u32, data: Bytes) {
        let unread = i64::from(CONNECTION_WINDOW) - self.receive_window - i64::from(self.released);
        match self.streams.by_id(id) {
            Some((_, stream)) if stream.has_reader && stream.cause.is_none() => {
                let small = data.len() < if unread > BEHIND { PIECE } else { SMALL };
                if small {
                    stream.inbox.push_copy(&data)
                } else {
                    stream.inbox.push(data)
                }
                stream.wake_reader();
            }
            // Nobody reads it.
            _ => self.release_connection(data.len()),
        }
    }

    /// END_STREAM was said.
    fn peer_ended(&mut self, key: Key) -> Result<(), Wrong> {
        let Some(stream) = self.streams.get(key) else { return Ok(()) };
        if stream.cause.is_some() {
            return Ok(());
        }
        if stream.left.is_some_and(|left| left > 0) {
            return Err(Wrong::Stream(stream.id, Code::PROTOCOL_ERROR, "less content than content-length announced"));
        }
        stream.read = Side::Ended;
        stream.wake_reader();
        self.closed(key);
        self.settle(key);
        Ok(())
    }

    fn headers(&mut self, header: Header, payload: &[u8]) -> Result<(), Wrong> {
        let id = header.stream;
        if id.is_multiple_of(2) {
            return Err(protocol("HEADERS on a stream that a client cannot open"));
        }
        let mut block = header.unpadded(payload)?;
        let mut priority = Ok(());
        if header.has(flag::PRIORITY) {
            priority = depends_on_itself(id, block);
            block = block.get(5..).ok_or(BAD_LENGTH)?;
        }
        let end = header.has(flag::END_STREAM);
        if header.has(flag::END_HEADERS) {
            self.fields(id, end, block)?;
        } else {
            self.block = Some(Box::new(Block { stream: id, end, bytes: BytesMut::from(block), frames: 0 }));
        }
        priority
    }

    fn continuation(&mut self, header: Header, payload: &[u8]) -> Result<(), Wrong> {
        let Some(mut block) = self.block.take() else { return Ok(()) };
        if block.stream != header.stream {
            return Err(protocol("CONTINUATION of another stream"));
        }
        block.frames += 1;
        if block.frames > MAX_CONTINUATIONS || block.bytes.len() + payload.len() > MAX_BLOCK {
            return Err(Wrong::Connection(Code::ENHANCE_YOUR_CALM, "a field section without end"));
        }
        block.bytes.extend_from_slice(payload);
        if header.has(flag::END_HEADERS) {
            return self.fields(block.stream, block.end, &block.bytes);
        }
        self.block = Some(block);
        Ok(())
    }

    fn fields(&mut self, id: u32, end: bool, block: &[u8]) -> Result<(), Wrong> {
        self.useless = 0;
        let parts = Parts::read(&mut self.decoder, block)
            .map_err(|_| Wrong::Connection(Code::COMPRESSION_ERROR, "a field section that cannot be decoded"))?;
        let (opened, idle) = (self.server && id > self.last, self.is_idle(id));
        match self.streams.by_id(id) {
            Some((_, Stream { cause: Some(cause), .. })) => {
                let cause = *cause;
                self.after(id, cause)
            }
            Some((_, stream)) if stream.read == Side::Ended => {
                Err(Wrong::Stream(id, Code::STREAM_CLOSED, "fields after the end"))
            }
            Some((key, stream)) => match &stream.answer {
                Answer::Awaited(_) => self.response(key, end, parts),
                _ => self.trailers(key, end, parts),
            },
            None if opened => self.request(id, end, parts),
            None if idle => Err(protocol("HEADERS on a stream that nobody opened")),
            None => self.late(id),
        }
    }

    fn request(&mut self, id: u32, end: bool, parts: Parts) -> Result<(), Wrong> {
        if self.final_goaway.is_some() {
            // The client is told that it was not touched.
            return Ok(());
        }
        self.last = id;
        if self.streams.open >= MAX_STREAMS as usize {
            return Err(Wrong::Stream(id, Code::REFUSED_STREAM, "too many streams"));
        }
        let request = match parts.request() {
            Ok(head) => rules::request_length(&head.method, &head.headers).map(|length| (head, length)),
            Err(Broken::Malformed(what)) => return Err(self.malformed(id, what)),
            Err(Broken::Refused(fault)) => Err(fault),
            Err(Broken::TooLarge) => Err(Fault::new(Reason::RequestHeaderSectionSize)),
        };
        let mut stream = Stream::new(id, STREAM_WINDOW, i64::from(self.peer.window) - self.resized);
        if let Ok((_, Length::Known(length))) = request {
            stream.left = Some(length);
            if end && length > 0 {
                return Err(self.malformed(id, "less content than content-length announced"));
            }
        }
        if end {
            stream.read = Side::Ended;
            stream.has_reader = false;
        }
        let key = self.streams.insert(stream);
        self.accepted.push_back(Accepted { key, request, end });
        Ok(())
    }

    /// Nobody is called for a request that is none, but it counts.
    fn malformed(&mut self, id: u32, what: &'static str) -> Wrong {
        self.malformed.push(stream_fault(Cause::Malformed(what), Half::Request));
        Wrong::Stream(id, Code::PROTOCOL_ERROR, what)
    }

    fn response(&mut self, key: Key, end: bool, parts: Parts) -> Result<(), Wrong> {
        let Some(stream) = self.streams.get(key) else { return Ok(()) };
        let head = match parts.response() {
            Ok(head) => head,
            Err(broken) => {
                stream.cause = Some(Stream::cause_of(&broken));
                return Err(Wrong::Stream(stream.id, Code::PROTOCOL_ERROR, "a response that is none"));
            }
        };
        if head.status.is_informational() {
            if end {
                return Err(Wrong::Stream(stream.id, Code::PROTOCOL_ERROR, "an interim response at the end"));
            }
            if let Answer::Awaited(interim) = &stream.answer {
                interim.push(head);
            }
            stream.wake_reader();
            return Ok(());
        }
        stream.left = announced(stream.method, &head);
        stream.answer = Answer::Here(head);
        if end {
            return self.peer_ended(key);
        }
        stream.wake_reader();
        Ok(())
    }

    fn trailers(&mut self, key: Key, end: bool, parts: Parts) -> Result<(), Wrong> {
        let Some(stream) = self.streams.get(key) else { return Ok(()) };
        if !end {
            return Err(Wrong::Stream(stream.id, Code::PROTOCOL_ERROR, "trailers that are not the end"));
        }
        match parts.trailers() {
            Ok(trailers) => {
                if stream.has_reader {
                    stream.trailers = Some(Box::new(trailers));
                }
                self.peer_ended(key)
            }
            Err(broken) => {
                stream.cause = Some(Stream::cause_of(&broken));
                Err(Wrong::Stream(stream.id, Code::PROTOCOL_ERROR, "trailers that are none"))
            }
        }
    }

    fn peer_reset(&mut self, id: u32, code: Code) -> Result<(), Wrong> {
        if id == 0 || self.is_idle(id) {
            return Err(protocol("RST_STREAM on a stream that is not open"));
        }
        if let Some(key) = self.streams.find(id) {
            self.end_stream(key, Cause::Reset(code));
        }
        match self.server && self.streams.len() - self.streams.open > MAX_PENDING_RESETS {
            true => Err(Wrong::Connection(Code::ENHANCE_YOUR_CALM, "too many streams were reset at once")),
            false => Ok(()),
        }
    }

    fn settings(&mut self, payload: &[u8]) -> Result<(), Wrong> {
        self.useless()?;
        if !self.peer.known {
            // Who says nothing of it takes any number.
            self.peer.streams = usize::MAX;
            self.peer.known = true;
        }
        let mut window = None;
        for (number, (name, value)) in frame::settings(payload)?.enumerate() {
            if number == MAX_SETTINGS {
                return Err(Wrong::Connection(Code::ENHANCE_YOUR_CALM, "too many settings in a frame"));
            }
            match name {
                setting::HEADER_TABLE_SIZE => self.encoder.resize(value as usize),
                setting::ENABLE_PUSH if value > 1 || (!self.server && value > 0) => {
                    return Err(protocol("a value that ENABLE_PUSH does not have"));
                }
                setting::MAX_CONCURRENT_STREAMS => self.peer.streams = value as usize,
                setting::INITIAL_WINDOW_SIZE if value > MAX_31_BITS => {
                    return Err(Wrong::Connection(Code::FLOW_CONTROL_ERROR, "a window beyond the limit"));
                }
                setting::INITIAL_WINDOW_SIZE => window = Some(value),
                setting::MAX_FRAME_SIZE if (SMALLEST_MAX_FRAME..1 << 24).contains(&value) => {
                    self.peer.frame = value.min(MAX_FRAME) as usize;
                }
                setting::MAX_FRAME_SIZE => return Err(protocol("a value that MAX_FRAME_SIZE does not have")),
                _ => {}
            }
        }
        if let Some(window) = window {
            // All streams are gone through when what was read is done with, once.
            self.resized += i64::from(window) - i64::from(self.peer.window);
            self.peer.window = window;
        }
        self.answers += HEADER;
        self.write(kind::SETTINGS, flag::ACK, 0, &[]);
        if self.waiting > 0 {
            self.room.notify_one();
        }
        Ok(())
    }

    fn peer_leaves(&mut self, payload: &[u8]) -> Result<(), Wrong> {
        self.useless()?;
        let [last, code] = [payload, payload.get(4..).unwrap_or_default()].map(frame::word);
        let (Some(last), Some(code)) = (last, code) else { return Err(BAD_LENGTH) };
        let last = last & MAX_31_BITS;
        if !self.server {
            if code != Code::NO_ERROR.0 && !self.leaving {
                let why = String::from_utf8_lossy(&payload[8..payload.len().min(8 + MAX_WHY)]);
                tracing::info!(code = %Code(code), %why, "a server has ended an HTTP/2 connection");
            }
            self.leaving = true;
            let beyond: Vec<Key> =
                self.streams.iter_mut().filter(|(_, stream)| stream.id > last).map(|(key, _)| key).collect();
            for key in beyond {
                self.end_stream(key, Cause::Unprocessed(Code(code)));
            }
            self.room.notify_waiters();
        }
        Ok(())
    }
}

/// How much content is to come after the head of a response, if it says so. What makes no sense is left to whoever reads the head.
fn announced(method: Special, head: &ResponseHead) -> Option<u64> {
    match method {
        Special::Head => Some(0),
        Special::Connect if head.status.is_success() => None,
        _ if matches!(head.status.as_u16(), 204 | 304) => Some(0),
        _ => rules::content_length(&head.headers, Reason::HttpProtocolError).ok().flatten(),
    }
}

/// RFC 7540 section 5.3.1. Else priorities say nothing any more (RFC 9113 section 5.3.2).
fn depends_on_itself(id: u32, payload: &[u8]) -> Result<(), Wrong> {
    match frame::word(payload) {
        Some(parent) if parent & MAX_31_BITS == id => {
            Err(Wrong::Stream(id, Code::PROTOCOL_ERROR, "a stream that depends on itself"))
        }
        _ => Ok(()),
    }
}

/// Whatever is read, in whatever pieces: the state stays one that can exist.
pub(super) fn fuzz(input: &[u8]) {
    for server in [true, false] {
        let mut connection = Connection::new(server);
        connection.preface = false;
        connection.peer.known = true;
        if !server {
            for _ in 0..3 {
                connection.open(&RequestHead::unread(), false, Default::default());
            }
        }
        let mut buffer = BytesMut::new();
        let piece = usize::from(input.first().copied().unwrap_or(1)).max(1);
        for part in input.chunks(piece) {
            buffer.extend_from_slice(part);
            connection.receive(&mut buffer);
            connection.schedule();
        }
        let (mut open, mut all) = (0, 0);
        for (_, stream) in connection.streams.iter_mut() {
            open += usize::from(stream.counted);
            all += 1;
            assert!(stream.counted != stream.is_closed() && stream.receive_window <= STREAM_WINDOW.into());
        }
        assert_eq!((open, all), (connection.streams.open, connection.streams.len()));
        assert!(connection.receive_window <= super::CONNECTION_WINDOW.into());
        assert!(buffer.len() < HEADER + MAX_FRAME as usize);
        assert!(connection.accepted.len() <= connection.streams.len());
    }
}
