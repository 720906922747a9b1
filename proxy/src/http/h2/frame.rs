//! Frames (RFC 9113 sections 4 and 6): their headers, read and written, and what codes and settings are called.

use std::fmt::{self, Display, Formatter};

use bytes::{BufMut, BytesMut};

/// What a client says first (RFC 9113 section 3.4).
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of a frame's header.
pub(super) const HEADER: usize = 9;

/// Largest frame that a peer takes that says nothing of it, in bytes.
pub(super) const SMALLEST_MAX_FRAME: u32 = 16_384;

/// Window of a stream or connection of which nothing was said, in bytes.
pub(super) const DEFAULT_WINDOW: u32 = 65_535;

/// Largest window, and largest stream identifier.
pub(super) const MAX_31_BITS: u32 = 0x7fff_ffff;

/// Types of frames.
pub(super) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const PRIORITY: u8 = 2;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PUSH_PROMISE: u8 = 5;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
    pub(crate) const CONTINUATION: u8 = 9;
}

/// Flags of frames.
pub(super) mod flag {
    pub(crate) const END_STREAM: u8 = 0x1;
    /// Of SETTINGS and PING.
    pub(crate) const ACK: u8 = 0x1;
    pub(crate) const END_HEADERS: u8 = 0x4;
    pub(crate) const PADDED: u8 = 0x8;
    pub(crate) const PRIORITY: u8 = 0x20;
}

/// Identifiers of settings.
pub(super) mod setting {
    pub(crate) const HEADER_TABLE_SIZE: u16 = 1;
    pub(crate) const ENABLE_PUSH: u16 = 2;
    pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;
    pub(crate) const MAX_FRAME_SIZE: u16 = 5;
    pub(crate) const MAX_HEADER_LIST_SIZE: u16 = 6;
}

/// Why a stream or a connection ends (RFC 9113 section 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Code(pub(super) u32);

impl Code {
    pub(super) const NO_ERROR: Code = Code(0);
    pub(super) const PROTOCOL_ERROR: Code = Code(1);
    pub(super) const INTERNAL_ERROR: Code = Code(2);
    pub(super) const FLOW_CONTROL_ERROR: Code = Code(3);
    pub(super) const STREAM_CLOSED: Code = Code(5);
    pub(super) const FRAME_SIZE_ERROR: Code = Code(6);
    pub(super) const REFUSED_STREAM: Code = Code(7);
    pub(super) const CANCEL: Code = Code(8);
    pub(super) const COMPRESSION_ERROR: Code = Code(9);
    pub(super) const ENHANCE_YOUR_CALM: Code = Code(11);
}

impl Display for Code {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 14] = [
            "NO_ERROR",
            "PROTOCOL_ERROR",
            "INTERNAL_ERROR",
            "FLOW_CONTROL_ERROR",
            "SETTINGS_TIMEOUT",
            "STREAM_CLOSED",
            "FRAME_SIZE_ERROR",
            "REFUSED_STREAM",
            "CANCEL",
            "COMPRESSION_ERROR",
            "CONNECT_ERROR",
            "ENHANCE_YOUR_CALM",
            "INADEQUATE_SECURITY",
            "HTTP_1_1_REQUIRED",
        ];
        match NAMES.get(self.0 as usize) {
            Some(name) => f.write_str(name),
            None => write!(f, "{:#x}", self.0),
        }
    }
}

/// What a peer did that it may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// The connection cannot go on (RFC 9113 section 5.4.1).
    Connection(Code, &'static str),
    /// One stream cannot (RFC 9113 section 5.4.2).
    Stream(u32, Code, &'static str),
}

/// A violation for which RFC 9113 has no better word.
pub(super) const fn protocol(what: &'static str) -> Wrong {
    Wrong::Connection(Code::PROTOCOL_ERROR, what)
}

/// A frame of a length that its type does not have.
pub(super) const BAD_LENGTH: Wrong = Wrong::Connection(Code::FRAME_SIZE_ERROR, "a frame of a wrong length");

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Bytes of the payload; 24 bits.
    pub(super) length: usize,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

impl Header {
    /// The header at the beginning of these bytes, if all of it is there.
    pub(super) fn read(bytes: &[u8]) -> Option<Header> {
        let [l1, l2, l3, kind, flags, s1, s2, s3, s4] = *bytes.first_chunk::<HEADER>()?;
        let length = u32::from_be_bytes([0, l1, l2, l3]) as usize;
        let stream = u32::from_be_bytes([s1, s2, s3, s4]) & MAX_31_BITS;
        Some(Header { length, kind, flags, stream })
    }

    /// Its bytes.
    pub(super) fn bytes(self) -> [u8; HEADER] {
        let [_, l1, l2, l3] = (self.length as u32).to_be_bytes();
        let [s1, s2, s3, s4] = self.stream.to_be_bytes();
        [l1, l2, l3, self.kind, self.flags, s1, s2, s3, s4]
    }

    /// Whether it has a flag.
    pub(super) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The payload without padding (RFC 9113 section 6.1), of which the first byte says how much there is.
    ///
    /// # Errors
    /// If there is more padding than payload.
    pub(super) fn unpadded(self, payload: &[u8]) -> Result<&[u8], Wrong> {
        if !self.has(flag::PADDED) {
            return Ok(payload);
        }
        let (&padding, rest) = payload.split_first().ok_or(BAD_LENGTH)?;
        let length = rest.len().checked_sub(padding.into()).ok_or(protocol("more padding than payload"))?;
        Ok(&rest[..length])
    }
}

/// The first four bytes of a payload.
pub(super) fn word(payload: &[u8]) -> Option<u32> {
    payload.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// Writes a frame with a short payload.
pub(super) fn write(out: &mut BytesMut, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.reserve(HEADER + payload.len());
    out.put_slice(&Header { length: payload.len(), kind, flags, stream }.bytes());
    out.put_slice(payload);
}

/// Writes SETTINGS.
pub(super) fn write_settings(out: &mut BytesMut, settings: &[(u16, u32)]) {
    out.put_slice(&Header { length: settings.len() * 6, kind: kind::SETTINGS, flags: 0, stream: 0 }.bytes());
    for (name, value) in settings {
        out.put_u16(*name);
        out.put_u32(*value);
    }
}

/// The settings in a payload.
///
/// # Errors
/// If its length is none of a whole number of settings.
pub(super) fn settings(payload: &[u8]) -> Result<impl Iterator<Item = (u16, u32)>, Wrong> {
    let (settings, rest) = payload.as_chunks::<6>();
    match rest {
        [] => Ok(settings
            .iter()
            .map(|&[n1, n2, v1, v2, v3, v4]| (u16::from_be_bytes([n1, n2]), u32::from_be_bytes([v1, v2, v3, v4])))),
        _ => Err(BAD_LENGTH),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_they_are_written() {
        let header = Header { length: 0x01_02_03, kind: kind::HEADERS, flags: 0x25, stream: 0x7654_3210 };
        assert_eq!(header.bytes(), *b"\x01\x02\x03\x01\x25\x76\x54\x32\x10");
        assert_eq!(Header::read(&header.bytes()), Some(header));
        assert_eq!(Header::read(&header.bytes()[..8]), None);
        assert_eq!(
            Header::read(b"\0\0\0\0\0\xff\xff\xff\xff").unwrap().stream,
            MAX_31_BITS,
            "the first bit is reserved"
        );
    }

    #[test]
    fn padding_is_taken_away() {
        let of = |flags, payload: &'static [u8]| Header { length: 0, kind: 0, flags, stream: 1 }.unpadded(payload);
        assert_eq!(of(0, b"\x02ab"), Ok(&b"\x02ab"[..]));
        assert_eq!(of(flag::PADDED, b"\x02ab\0\0"), Ok(&b"ab"[..]));
        assert_eq!(of(flag::PADDED, b"\x02\0\0"), Ok(&b""[..]));
        assert_eq!(of(flag::PADDED, b"\x03\0\0"), Err(protocol("more padding than payload")));
        assert_eq!(of(flag::PADDED, b""), Err(BAD_LENGTH));
    }

    #[test]
    fn settings_are_read_as_they_are_written() {
        let mut out = BytesMut::new();
        let all = [(setting::ENABLE_PUSH, 0), (setting::MAX_FRAME_SIZE, 0x0102_0304)];
        write_settings(&mut out, &all);
        assert_eq!(Header::read(&out).unwrap().length, 12);
        assert_eq!(settings(&out[HEADER..]).unwrap().collect::<Vec<_>>(), all);
        assert!(settings(&out[HEADER..20]).is_err());
    }
}
