//! The control stream (RFC 9114 section 6.2.1), without I/O.

use bytes::{Bytes, BytesMut};

use super::code::Code;
use super::frame::{FrameHeader, Violation, kind, take, varint};

/// Largest frame on a control stream. SETTINGS is the only one that is longer than a number; ours has a dozen bytes, and no
/// implementation that is known here sends more than a hundred.
pub(super) const MAX_CONTROL_FRAME: u64 = 1024;

/// Longest variable-length integer (RFC 9000 section 16), and so the longest of the frames that are one.
const MAX_NUMBER: u64 = 8;

/// SETTINGS_MAX_FIELD_SECTION_SIZE (RFC 9114 section 7.2.4.1).
pub(super) const MAX_FIELD_SECTION_SIZE: u64 = 0x6;

/// What a peer says of its connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// SETTINGS: most that a field section may count which it takes.
    Settings(u64),
    /// GOAWAY.
    GoAway(u64),
}

/// What the peer's control stream has brought so far, after its type.
pub(super) struct Control {
    /// Whether the peer is a client.
    client: bool,
    at: At,
    settled: bool,
    /// The largest MAX_PUSH_ID.
    max_push_id: u64,
    /// The last GOAWAY.
    leaving: Option<u64>,
}

enum At {
    /// Before or in a frame's type and length.
    Header(FrameHeader),
    /// In a frame that says something: its type, what is still to come of it, and all that has.
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
    pub(super) fn new(client: bool) -> Self {
        Control { client, at: At::default(), settled: false, max_push_id: 0, leaving: None }
    }

    /// Takes bytes until something is said. `None` if more bytes are needed.
    ///
    /// # Errors
    /// What the connection must be closed with. Nothing may be read after it.
    pub(super) fn read(&mut self, chunk: &mut Bytes) -> Result<Option<Said>, Violation> {
        loop {
            match &mut self.at {
                At::Frame(kind, 0, payload) => {
                    let (kind, payload) = (*kind, std::mem::take(payload));
                    self.at = At::default();
                    if let Some(said) = self.frame(kind, &payload)? {
                        return Ok(Some(said));
                    }
                }
                At::Unknown(0) => self.at = At::default(),
                _ if chunk.is_empty() => return Ok(None),
                At::Header(header) => {
                    if let Some((kind, length)) = header.read(chunk) {
                        self.at = self.begin(kind, length)?;
                    }
                }
                At::Frame(_, left, payload) => payload.extend_from_slice(&take(left, chunk)),
                At::Unknown(left) => drop(take(left, chunk)),
            }
        }
    }

    /// What to do with a frame that begins.
    fn begin(&mut self, kind: u64, length: u64) -> Result<At, Violation> {
        const UNEXPECTED: Violation = (Code::FRAME_UNEXPECTED, "a frame that has no place on a control stream");
        if !self.settled && kind != kind::SETTINGS {
            return Err((Code::MISSING_SETTINGS, "a control stream that does not begin with SETTINGS"));
        }
        match kind {
            kind::SETTINGS if self.settled => Err((Code::FRAME_UNEXPECTED, "SETTINGS a second time")),
            kind::SETTINGS if length > MAX_CONTROL_FRAME => {
                Err((Code::EXCESSIVE_LOAD, "a control frame over 1024 bytes"))
            }
            // Section 7.2.7: only clients send it.
            kind::MAX_PUSH_ID if !self.client => Err(UNEXPECTED),
            kind::GOAWAY | kind::MAX_PUSH_ID | kind::CANCEL_PUSH if length > MAX_NUMBER => Err(NO_NUMBER),
            kind::SETTINGS | kind::GOAWAY | kind::MAX_PUSH_ID | kind::CANCEL_PUSH => {
                self.settled = true;
                Ok(At::Frame(kind, length, BytesMut::new()))
            }
            kind::DATA | kind::HEADERS | kind::PUSH_PROMISE => Err(UNEXPECTED),
            _ if kind::RESERVED.contains(&kind) => Err(UNEXPECTED),
            // Section 9: unknown types are ignored.
            _ => Ok(At::Unknown(length)),
        }
    }

    /// A frame that is complete.
    fn frame(&mut self, kind: u64, mut payload: &[u8]) -> Result<Option<Said>, Violation> {
        if kind == kind::SETTINGS {
            return settings(payload).map(|most| Some(Said::Settings(most)));
        }
        let id = varint(&mut payload).filter(|_| payload.is_empty()).ok_or(NO_NUMBER)?;
        match kind {
            // Section 7.2.3: only for a push that was promised, or may be; no push ever is.
            kind::CANCEL_PUSH => Err((Code::ID_ERROR, "CANCEL_PUSH where no push is")),
            kind::MAX_PUSH_ID if id < self.max_push_id => Err((Code::ID_ERROR, "MAX_PUSH_ID below the one before")),
            kind::MAX_PUSH_ID => {
                self.max_push_id = id;
                Ok(None)
            }
            // Section 5.2: of a server it names a request, of a client a push.
            _ if !self.client && !id.is_multiple_of(4) => Err((Code::ID_ERROR, "a GOAWAY that is no request's")),
            _ if self.leaving.is_some_and(|before| id > before) => {
                Err((Code::ID_ERROR, "a GOAWAY above the one before"))
            }
            _ => {
                self.leaving = Some(id);
                Ok(Some(Said::GoAway(id)))
            }
        }
    }
}

/// What SETTINGS say of the size of field sections. Others that are known concern a dynamic table, which we do not use.
fn settings(mut payload: &[u8]) -> Result<u64, Violation> {
    /// Those of HTTP/2 that have no meaning here (sections 7.2.4.1 and 11.2.2).
    const RESERVED: [u64; 5] = [0x0, 0x2, 0x3, 0x4, 0x5];
    const CUT: Violation = (Code::FRAME_ERROR, "SETTINGS that are cut");
    let (mut most, mut seen) = (u64::MAX, Vec::new());
    while !payload.is_empty() {
        let setting = varint(&mut payload).ok_or(CUT)?;
        let value = varint(&mut payload).ok_or(CUT)?;
        if RESERVED.contains(&setting) {
            return Err((Code::SETTINGS_ERROR, "a setting of HTTP/2"));
        }
        if setting == MAX_FIELD_SECTION_SIZE {
            most = value;
        }
        seen.push(setting);
    }
    seen.sort_unstable();
    if seen.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err((Code::SETTINGS_ERROR, "a setting that is said twice"));
    }
    Ok(most)
}

const NO_NUMBER: Violation = (Code::FRAME_ERROR, "a frame that must be one number, and is not");

/// However the stream is cut into packets, it says the same.
pub(super) fn fuzz(input: &[u8]) {
    for client in [true, false] {
        assert_eq!(said(client, input, usize::MAX), said(client, input, 1));
    }
}

fn said(client: bool, input: &[u8], size: usize) -> (Vec<Said>, Option<Violation>) {
    let (mut control, mut all) = (Control::new(client), Vec::new());
    for piece in input.chunks(size) {
        let mut chunk = Bytes::copy_from_slice(piece);
        loop {
            match control.read(&mut chunk) {
                Ok(None) => break,
                Ok(Some(said)) => all.push(said),
                Err(violation) => return (all, Some(violation)),
            }
        }
        assert!(chunk.is_empty(), "what is not taken would be lost");
        if let At::Frame(_, left, payload) = &control.at {
            assert!(left + payload.len() as u64 <= MAX_CONTROL_FRAME);
        }
    }
    (all, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_says_and_may_not() {
        const SETTINGS: &[u8] = &[4, 0];
        for (what, client, frames, wanted) in [
            ("a limit", true, &[&[4, 5, 6, 0x44, 0, 0x33, 1][..]][..], Ok(vec![Said::Settings(1024)])),
            ("none", false, &[SETTINGS], Ok(vec![Said::Settings(u64::MAX)])),
            ("leaving", false, &[SETTINGS, &[7, 1, 8], &[7, 1, 4]], {
                Ok(vec![Said::Settings(u64::MAX), Said::GoAway(8), Said::GoAway(4)])
            }),
            ("something unknown", true, &[SETTINGS, &[0x21, 2, 9, 9], &[13, 1, 7]], Ok(vec![Said::Settings(u64::MAX)])),
            ("nothing first", true, &[&[0x21, 0], SETTINGS], Err(Code::MISSING_SETTINGS)),
            ("GOAWAY first", true, &[&[7, 1, 0]], Err(Code::MISSING_SETTINGS)),
            ("SETTINGS twice", true, &[SETTINGS, SETTINGS], Err(Code::FRAME_UNEXPECTED)),
            ("a setting twice", true, &[&[4, 4, 6, 1, 6, 1]], Err(Code::SETTINGS_ERROR)),
            ("a setting of HTTP/2", true, &[&[4, 2, 3, 1]], Err(Code::SETTINGS_ERROR)),
            ("the setting 0", true, &[&[4, 2, 0, 0]], Err(Code::SETTINGS_ERROR)),
            ("a cut setting", true, &[&[4, 1, 6]], Err(Code::FRAME_ERROR)),
            ("content", true, &[SETTINGS, &[0, 1, 0]], Err(Code::FRAME_UNEXPECTED)),
            ("PING", true, &[SETTINGS, &[6, 0]], Err(Code::FRAME_UNEXPECTED)),
            ("a server's MAX_PUSH_ID", false, &[SETTINGS, &[13, 1, 0]], Err(Code::FRAME_UNEXPECTED)),
            ("a client's stream", false, &[SETTINGS, &[7, 1, 5]], Err(Code::ID_ERROR)),
            ("a later GOAWAY above", true, &[SETTINGS, &[7, 1, 5], &[7, 1, 6]], Err(Code::ID_ERROR)),
        ] {
            let stream = frames.concat();
            let got = match said(client, &stream, usize::MAX) {
                (all, None) => Ok(all),
                (_, Some((code, _))) => Err(code),
            };
            assert_eq!(got, wanted, "{what}");
            fuzz(&stream);
        }
    }
}
