//! The frames of request streams (RFC 9114 sections 4.1 and 7.1), without I/O, and what frames are made of.

use super::code::Code;
use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::Broken;
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

/// What comes on a stream.
#[derive(Debug)]
pub(super) enum Part {
    /// An encoded field section: a head, or trailers.
    Fields(Bytes),
    /// Content.
    Content(Bytes),
}

/// A connection error, and what to say of it.
pub(super) type Violation = (Code, &'static str);

/// Why a stream cannot be read on.
#[derive(Debug)]
pub(super) enum Flaw {
    /// Its message is of no use; the other streams go on.
    Message(Broken),
    /// The connection must be closed.
    Connection(Violation),
}

/// A request stream, as far as it has come.
#[derive(Default)]
pub(super) struct Frames {
    at: At,
    stage: Stage,
}

/// Where in a frame the reader is, with the bytes that are left of it.
enum At {
    Header(FrameHeader),
    Content(u64),
    /// The payload so far; it grows with what has come, not with what was announced.
    Fields(usize, BytesMut),
    Unknown(u64),
}

impl Default for At {
    fn default() -> Self {
        At::Header(FrameHeader::default())
    }
}

/// Where in a message the reader is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Head,
    Content,
    Trailers,
}

impl Frames {
    /// Has the next section taken for trailers: the head before was not interim.
    pub(super) fn head_is_final(&mut self) {
        self.stage = Stage::Content;
    }

    /// Whether the stream may end here: between two frames.
    pub(super) fn is_between(&self) -> bool {
        matches!(&self.at, At::Header(header) if header.is_empty())
    }

    /// Takes bytes until a part is complete, or some of the content is there. `None` if more bytes are needed.
    ///
    /// # Errors
    /// What is wrong with the stream. Nothing may be read after it.
    pub(super) fn read(&mut self, chunk: &mut Bytes) -> Result<Option<Part>, Flaw> {
        while !chunk.is_empty() {
            match &mut self.at {
                At::Header(header) => {
                    if let Some((kind, length)) = header.read(chunk) {
                        self.at = self.begin(kind, length)?;
                        // A section without bytes is complete, and malformed.
                        if let At::Fields(0, _) = self.at {
                            return Err(Flaw::Message(Broken::Malformed("an empty field section")));
                        }
                    }
                }
                At::Unknown(left) | At::Content(left) => {
                    let piece = take(left, chunk);
                    let content = matches!(self.at, At::Content(_));
                    if let At::Unknown(0) | At::Content(0) = self.at {
                        self.at = At::default();
                    }
                    if content {
                        return Ok(Some(Part::Content(piece)));
                    }
                }
                At::Fields(left, payload) => {
                    let piece = chunk.split_to((*left).min(chunk.len()));
                    *left -= piece.len();
                    let whole = *left == 0;
                    if whole && payload.is_empty() {
                        self.at = At::default();
                        return Ok(Some(Part::Fields(piece)));
                    }
                    payload.extend_from_slice(&piece);
                    if whole {
                        let payload = std::mem::take(payload).freeze();
                        self.at = At::default();
                        return Ok(Some(Part::Fields(payload)));
                    }
                }
            }
        }
        Ok(None)
    }

    /// What to do with a frame that begins.
    fn begin(&mut self, kind: u64, length: u64) -> Result<At, Flaw> {
        let limit = if self.stage == Stage::Head { MAX_HEAD_BYTES } else { MAX_TRAILER_BYTES };
        match (kind, self.stage) {
            (kind::DATA, Stage::Content) if length == 0 => Ok(At::default()),
            (kind::DATA, Stage::Content) => Ok(At::Content(length)),
            (kind::HEADERS, Stage::Head | Stage::Content) => {
                let length = usize::try_from(length)
                    .ok()
                    .filter(|length| *length <= limit)
                    .ok_or(Flaw::Message(Broken::TooLarge))?;
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
            ) => Err(Flaw::Connection((Code::FRAME_UNEXPECTED, "a frame out of place"))),
            (kind, _) if kind::RESERVED.contains(&kind) => {
                Err(Flaw::Connection((Code::FRAME_UNEXPECTED, "a frame of HTTP/2")))
            }
            // Section 9: unknown types are ignored, wherever they stand.
            _ if length == 0 => Ok(At::default()),
            _ => Ok(At::Unknown(length)),
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
    /// Whether nothing of it has come.
    fn is_empty(&self) -> bool {
        self.have == 0
    }

    /// Takes bytes until type and length are complete.
    pub(super) fn read(&mut self, chunk: &mut Bytes) -> Option<(u64, u64)> {
        if self.have == 0 {
            // Nearly always all of it is there.
            let mut read = &chunk[..];
            if let (Some(kind), Some(length)) = (varint(&mut read), varint(&mut read)) {
                let left = read.len();
                chunk.advance(chunk.len() - left);
                return Some((kind, length));
            }
        }
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

    /// Takes bytes until the first integer, a stream's type, is complete.
    pub(super) fn read_type(&mut self, chunk: &mut Bytes) -> Option<u64> {
        while !chunk.is_empty() && self.have < self.bytes.len() {
            self.bytes[self.have] = chunk.get_u8();
            self.have += 1;
            let kind = varint(&mut &self.bytes[..self.have]);
            if kind.is_some() {
                return kind;
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

/// Takes at most this much off the front, and counts it off.
pub(super) fn take(left: &mut u64, chunk: &mut Bytes) -> Bytes {
    let piece = chunk.split_to(usize::try_from(*left).unwrap_or(usize::MAX).min(chunk.len()));
    *left -= piece.len() as u64;
    piece
}

/// However a stream is cut into packets, it says the same; and no part is larger than its limit.
pub(super) fn fuzz(input: &[u8]) {
    assert_eq!(said(input, usize::MAX), said(input, 1));
}

/// What a stream that comes in pieces of this size says: sections, content, and how it ends.
fn said(input: &[u8], size: usize) -> (Vec<Bytes>, Vec<u8>, String) {
    let (mut frames, mut sections, mut content) = (Frames::default(), Vec::new(), Vec::new());
    for piece in input.chunks(size) {
        let mut chunk = Bytes::copy_from_slice(piece);
        loop {
            match frames.read(&mut chunk) {
                Ok(None) => break,
                Ok(Some(Part::Content(piece))) => content.extend_from_slice(&piece),
                Ok(Some(Part::Fields(section))) => {
                    assert!(!section.is_empty() && section.len() <= MAX_HEAD_BYTES);
                    sections.push(section);
                    if frames.stage == Stage::Head {
                        frames.head_is_final();
                    }
                }
                Err(flaw) => return (sections, content, format!("{flaw:?}")),
            }
        }
        assert!(chunk.is_empty(), "what is not taken would be lost");
    }
    (sections, content, format!("between: {}", frames.is_between()))
}
