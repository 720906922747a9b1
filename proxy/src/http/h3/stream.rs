//! Request streams: frames in, frames out (RFC 9114 sections 4.1 and 7.1).

use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h3::error::Code;

use super::coding::Wire;
use super::{Broken, code};
use crate::http::rules::{MAX_HEAD_BYTES, MAX_TRAILER_BYTES};

/// Frame types (RFC 9114 section 7.2).
pub(super) mod kind {
    pub(in super::super) const DATA: u64 = 0x0;
    pub(in super::super) const HEADERS: u64 = 0x1;
    pub(in super::super) const CANCEL_PUSH: u64 = 0x3;
    pub(in super::super) const SETTINGS: u64 = 0x4;
    pub(in super::super) const PUSH_PROMISE: u64 = 0x5;
    pub(in super::super) const GOAWAY: u64 = 0x7;
    pub(in super::super) const MAX_PUSH_ID: u64 = 0xd;
    /// Those of HTTP/2 that have no meaning here and must be refused (section 7.2.8).
    pub(in super::super) const RESERVED: [u64; 4] = [0x2, 0x6, 0x8, 0x9];
}

/// Most bytes taken from quinn at once; more than a datagram carries anyhow.
const MAX_CHUNK: usize = 64 * 1024;

/// What comes on a stream.
#[derive(Debug)]
pub(super) enum Part {
    /// An encoded field section: a head, or trailers.
    Fields(Bytes),
    /// Content.
    Content(Bytes),
}

/// The receiving half of a request stream. Dropped before its end, it asks the peer to stop.
pub(super) struct Reader {
    wire: Rc<Wire>,
    quic: quinn::RecvStream,
    /// Received and not parsed yet.
    chunk: Bytes,
    header: FrameHeader,
    at: At,
    stage: Stage,
    over: bool,
}

/// Where in a frame the reader is, with the bytes that are left of it.
enum At {
    Header,
    Content(u64),
    /// The payload so far; it grows with what has come, not with what was announced.
    Fields(usize, BytesMut),
    Unknown(u64),
}

/// Where in a message the reader is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Head,
    Content,
    Trailers,
}

impl Reader {
    pub(super) fn new(wire: Rc<Wire>, quic: quinn::RecvStream) -> Self {
        let header = FrameHeader::default();
        Reader { wire, quic, chunk: Bytes::new(), header, at: At::Header, stage: Stage::Head, over: false }
    }

    pub(super) fn wire(&self) -> &Rc<Wire> {
        &self.wire
    }

    /// Has the next section taken for trailers: the head before was not interim.
    pub(super) fn head_is_final(&mut self) {
        self.stage = Stage::Content;
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
        if let (At::Header, true) = (&self.at, self.header.is_empty())
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
        let _ = self.quic.stop(code(reason));
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Part>, Broken>> {
        loop {
            let more = ready!(self.poll_chunk(cx))?;
            match &mut self.at {
                At::Header if !more && self.header.is_empty() => return Poll::Ready(Ok(None)),
                _ if !more => return Poll::Ready(Err(self.violation(Code::H3_FRAME_ERROR, "the last frame is cut"))),
                At::Header => {
                    if let Some((kind, length)) = self.header.read(&mut self.chunk) {
                        self.at = self.frame(kind, length)?;
                        // A section without bytes is complete, and malformed.
                        if let At::Fields(0, _) = self.at {
                            return Poll::Ready(Err(Broken::Malformed("an empty field section")));
                        }
                    }
                }
                At::Unknown(left) | At::Content(left) => {
                    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(self.chunk.len());
                    let piece = self.chunk.split_to(length);
                    *left -= length as u64;
                    let content = matches!(self.at, At::Content(_));
                    if let At::Unknown(0) | At::Content(0) = self.at {
                        self.at = At::Header;
                    }
                    if content && length > 0 {
                        return Poll::Ready(Ok(Some(Part::Content(piece))));
                    }
                }
                At::Fields(left, payload) => {
                    let piece = self.chunk.split_to((*left).min(self.chunk.len()));
                    *left -= piece.len();
                    let whole = *left == 0;
                    if whole && payload.is_empty() {
                        self.at = At::Header;
                        return Poll::Ready(Ok(Some(Part::Fields(piece))));
                    }
                    payload.extend_from_slice(&piece);
                    if whole {
                        let payload = std::mem::take(payload).freeze();
                        self.at = At::Header;
                        return Poll::Ready(Ok(Some(Part::Fields(payload))));
                    }
                }
            }
        }
    }

    /// What to do with a frame that begins.
    fn frame(&mut self, kind: u64, length: u64) -> Result<At, Broken> {
        let limit = if self.stage == Stage::Head { MAX_HEAD_BYTES } else { MAX_TRAILER_BYTES };
        match (kind, self.stage) {
            (kind::DATA, Stage::Content) if length == 0 => Ok(At::Header),
            (kind::DATA, Stage::Content) => Ok(At::Content(length)),
            (kind::HEADERS, Stage::Head | Stage::Content) => {
                let length = usize::try_from(length).ok().filter(|length| *length <= limit).ok_or(Broken::TooLarge)?;
                if self.stage == Stage::Content {
                    self.stage = Stage::Trailers;
                }
                Ok(At::Fields(length, BytesMut::new()))
            }
            (
                kind::DATA
                | kind::HEADERS
                | kind::CANCEL_PUSH
                | kind::SETTINGS
                | kind::PUSH_PROMISE
                | kind::GOAWAY
                | kind::MAX_PUSH_ID,
                _,
            ) => Err(self.violation(Code::H3_FRAME_UNEXPECTED, "a frame out of place")),
            (kind, _) if kind::RESERVED.contains(&kind) => {
                Err(self.violation(Code::H3_FRAME_UNEXPECTED, "a frame of HTTP/2"))
            }
            // Section 9: unknown types are ignored, wherever they stand.
            _ if length == 0 => Ok(At::Header),
            _ => Ok(At::Unknown(length)),
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
        // The future keeps nothing between polls: quinn remembers the waker by stream.
        match ready!(pin!(self.quic.read_chunk(MAX_CHUNK, true)).poll(cx)) {
            Ok(Some(chunk)) => {
                self.chunk = chunk.bytes;
                Poll::Ready(Ok(true))
            }
            Ok(None) => Poll::Ready(Ok(false)),
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }

    /// Closes the connection for what the peer did.
    fn violation(&self, reason: Code, what: &'static str) -> Broken {
        self.wire.close(reason, what);
        Broken::Malformed(what)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if !self.over {
            // RFC 9114 section 4.1: a server that has answered needs no more of the request; a client that stops cancels.
            self.stop(if self.wire.is_server() { Code::H3_NO_ERROR } else { Code::H3_REQUEST_CANCELLED });
        }
    }
}

/// The type and length of a frame, both variable-length integers (RFC 9000 section 16), while they come in.
#[derive(Default)]
pub(super) struct FrameHeader {
    bytes: [u8; 16],
    have: usize,
}

impl FrameHeader {
    pub(super) fn is_empty(&self) -> bool {
        self.have == 0
    }

    /// Takes bytes until type and length are complete.
    pub(super) fn read(&mut self, chunk: &mut Bytes) -> Option<(u64, u64)> {
        while !chunk.is_empty() && self.have < self.bytes.len() {
            self.bytes[self.have] = chunk.get_u8();
            self.have += 1;
            let mut read = &self.bytes[..self.have];
            if let (Some(kind), Some(length)) = (varint(&mut read), varint(&mut read)) {
                self.have = 0;
                return Some((kind, length));
            }
        }
        None
    }

    /// Takes bytes until the first integer, a stream's type, is complete; gives it as it came.
    pub(super) fn read_type(&mut self, chunk: &mut Bytes) -> Option<Bytes> {
        while !chunk.is_empty() && self.have < self.bytes.len() {
            self.bytes[self.have] = chunk.get_u8();
            self.have += 1;
            let read = &self.bytes[..self.have];
            if varint(&mut &read[..]).is_some() {
                return Some(Bytes::copy_from_slice(read));
            }
        }
        None
    }
}

/// Takes a variable-length integer off the front, if it is all there.
pub(super) fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let first = *bytes.first()?;
    let (number, rest) = bytes.split_at_checked(1 << (first >> 6))?;
    *bytes = rest;
    Some(number[1..].iter().fold(u64::from(first & 0x3f), |value, byte| value << 8 | u64::from(*byte)))
}

/// Writes a variable-length integer.
pub(super) fn write_varint(out: &mut BytesMut, value: u64) {
    match value {
        0..0x40 => out.put_u8(value as u8),
        0x40..0x4000 => out.put_u16(value as u16 | 0x4000),
        0x4000..0x4000_0000 => out.put_u32(value as u32 | 0x8000_0000),
        _ => out.put_u64(value | 0xc000_0000_0000_0000),
    }
}

/// The sending half of a request stream. Dropped before [`finish`](Writer::finish), it resets the stream: what was
/// written never looks like a complete message.
pub(super) struct Writer {
    wire: Rc<Wire>,
    quic: quinn::SendStream,
    queue: Vec<Bytes>,
    over: bool,
}

impl Writer {
    pub(super) fn new(wire: Rc<Wire>, quic: quinn::SendStream) -> Self {
        Writer { wire, quic, queue: Vec::new(), over: false }
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
    pub(super) fn frame(&mut self, frame: Bytes) {
        self.queue.push(frame);
    }

    /// Queues content. Without copying it: quinn keeps these bytes until they are acknowledged.
    pub(super) fn content(&mut self, content: Bytes) {
        self.queue.push(self.wire.frame_header(kind::DATA, content.len() as u64));
        self.queue.push(content);
    }

    /// Whether content is still waiting, so that no more should be queued.
    pub(super) fn is_full(&self) -> bool {
        self.queue.len() > 1
    }

    /// Hands what is queued to quinn. Pending while the windows or the send buffer are full.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        while !self.queue.is_empty() {
            // Keeps nothing between polls, as above.
            let written = ready!(pin!(self.quic.write_chunks(&mut self.queue)).poll(cx))?;
            self.queue.drain(..written.chunks);
        }
        Poll::Ready(Ok(()))
    }

    /// Ends the stream after what was flushed.
    pub(super) fn finish(&mut self) {
        self.over = true;
        // Fails only where the stream is closed already.
        let _ = self.quic.finish();
    }

    /// Breaks the stream off.
    pub(super) fn reset(&mut self, reason: Code) {
        self.over = true;
        // As above.
        let _ = self.quic.reset(code(reason));
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.over {
            self.reset(if self.wire.is_server() { Code::H3_INTERNAL_ERROR } else { Code::H3_REQUEST_CANCELLED });
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
