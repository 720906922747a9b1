//! The control stream (RFC 9114 section 6.2.1): whole frames of bounded size, checked for what h3 does not check.

use bytes::{Bytes, BytesMut};
use h3::error::Code;

use super::frame::{FrameHeader, Violation, kind, take, varint, write_varint};

/// Largest frame on a control stream. SETTINGS is the only one that is longer than a number; ours has 33 bytes, and no
/// implementation that is known here sends more than a hundred.
pub(super) const MAX_CONTROL_FRAME: u64 = 1024;

/// Longest variable-length integer (RFC 9000 section 16), and so the longest of the frames that are one.
const MAX_NUMBER: u64 = 8;

/// What the peer's control stream has brought so far, after its type.
#[derive(Default)]
pub(super) struct Control {
    at: At,
    /// The largest MAX_PUSH_ID.
    max_push_id: u64,
}

enum At {
    /// Before or in a frame's type and length.
    Header(FrameHeader),
    /// In a frame that h3 reads: its type, what is still to come of it, and all that has.
    Frame(u64, u64, BytesMut),
    /// In a frame that is unknown, with this much to come.
    Unknown(u64),
}

impl Default for At {
    fn default() -> Self {
        At::Header(FrameHeader::default())
    }
}

impl Control {
    /// Takes bytes until a frame is complete that h3 should read; gives it as it came. `None` if more bytes are needed.
    ///
    /// # Errors
    /// What the connection must be closed with. Nothing may be read after it.
    pub(super) fn read(&mut self, chunk: &mut Bytes) -> Result<Option<Bytes>, Violation> {
        loop {
            match &mut self.at {
                At::Frame(kind, 0, frame) => {
                    let (kind, frame) = (*kind, std::mem::take(frame).freeze());
                    self.at = At::default();
                    self.check(kind, &frame)?;
                    return Ok(Some(frame));
                }
                At::Unknown(0) => self.at = At::default(),
                _ if chunk.is_empty() => return Ok(None),
                At::Header(header) => {
                    if let Some((kind, length)) = header.read(chunk) {
                        self.at = begin(kind, length)?;
                    }
                }
                At::Frame(_, left, frame) => frame.extend_from_slice(&take(left, chunk)),
                At::Unknown(left) => drop(take(left, chunk)),
            }
        }
    }

    /// h3 0.0.8 waits for more where a number is cut, ignores what follows one, and all that is said of pushes.
    fn check(&mut self, kind: u64, mut frame: &[u8]) -> Result<(), Violation> {
        if !matches!(kind, kind::GOAWAY | kind::MAX_PUSH_ID | kind::CANCEL_PUSH) {
            return Ok(());
        }
        let _type_and_length = (varint(&mut frame), varint(&mut frame));
        let id = varint(&mut frame).filter(|_| frame.is_empty()).ok_or(NO_NUMBER)?;
        match kind {
            // Section 7.2.3: only for a push that was promised, or may be; no push ever is.
            kind::CANCEL_PUSH => Err((Code::H3_ID_ERROR, "CANCEL_PUSH where no push is")),
            kind::MAX_PUSH_ID if id < self.max_push_id => Err((Code::H3_ID_ERROR, "MAX_PUSH_ID below the one before")),
            kind::MAX_PUSH_ID => {
                self.max_push_id = id;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// What to do with a frame that begins. h3 would buffer any of them, whatever its length.
fn begin(frame: u64, length: u64) -> Result<At, Violation> {
    let length = match frame {
        kind::SETTINGS => length,
        kind::GOAWAY | kind::MAX_PUSH_ID | kind::CANCEL_PUSH if length > MAX_NUMBER => return Err(NO_NUMBER),
        kind::GOAWAY | kind::MAX_PUSH_ID | kind::CANCEL_PUSH => length,
        // Refused by h3 at sight; what is in them does not matter.
        kind::DATA | kind::HEADERS | kind::PUSH_PROMISE => 0,
        _ if kind::RESERVED.contains(&frame) => 0,
        _ => return Ok(At::Unknown(length)),
    };
    if length > MAX_CONTROL_FRAME {
        return Err((Code::H3_EXCESSIVE_LOAD, "a control frame over 1024 bytes"));
    }
    let mut bytes = BytesMut::new();
    write_varint(&mut bytes, frame);
    write_varint(&mut bytes, length);
    Ok(At::Frame(frame, length, bytes))
}

/// What a SETTINGS frame says of SETTINGS_MAX_FIELD_SECTION_SIZE (RFC 9114 section 7.2.4.1). h3 refuses what is wrong with it.
pub(super) fn max_field_section_size(mut frame: &[u8]) -> Option<u64> {
    const MAX_FIELD_SECTION_SIZE: u64 = 6;
    if varint(&mut frame)? != kind::SETTINGS {
        return None;
    }
    varint(&mut frame)?;
    loop {
        let (setting, value) = (varint(&mut frame)?, varint(&mut frame)?);
        if setting == MAX_FIELD_SECTION_SIZE {
            return Some(value);
        }
    }
}

const NO_NUMBER: Violation = (Code::H3_FRAME_ERROR, "a frame that must be one number, and is not");

/// However the stream is cut into packets, it says the same; and no frame is larger than the limit.
pub(super) fn fuzz(input: &[u8]) {
    assert_eq!(said(input, usize::MAX), said(input, 1));
}

fn said(input: &[u8], size: usize) -> (Vec<Bytes>, Option<Violation>) {
    let (mut control, mut frames) = (Control::default(), Vec::new());
    for piece in input.chunks(size) {
        let mut chunk = Bytes::copy_from_slice(piece);
        loop {
            match control.read(&mut chunk) {
                Ok(None) => break,
                Ok(Some(frame)) => {
                    assert!(frame.len() as u64 <= MAX_CONTROL_FRAME + 2 * MAX_NUMBER);
                    frames.push(frame);
                }
                Err(violation) => return (frames, Some(violation)),
            }
        }
        assert!(chunk.is_empty(), "what is not taken would be lost");
    }
    (frames, None)
}
