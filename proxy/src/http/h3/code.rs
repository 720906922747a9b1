//! Why streams and connections end (RFC 9114 section 8.1, RFC 9204 section 6).

use std::fmt::{self, Display, Formatter};

/// An error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Code(pub(super) u64);

impl Code {
    pub(super) const NO_ERROR: Code = Code(0x100);
    pub(super) const INTERNAL_ERROR: Code = Code(0x102);
    pub(super) const STREAM_CREATION_ERROR: Code = Code(0x103);
    pub(super) const CLOSED_CRITICAL_STREAM: Code = Code(0x104);
    pub(super) const FRAME_UNEXPECTED: Code = Code(0x105);
    pub(super) const FRAME_ERROR: Code = Code(0x106);
    pub(super) const EXCESSIVE_LOAD: Code = Code(0x107);
    pub(super) const ID_ERROR: Code = Code(0x108);
    pub(super) const SETTINGS_ERROR: Code = Code(0x109);
    pub(super) const MISSING_SETTINGS: Code = Code(0x10a);
    pub(super) const REQUEST_REJECTED: Code = Code(0x10b);
    pub(super) const REQUEST_CANCELLED: Code = Code(0x10c);
    pub(super) const REQUEST_INCOMPLETE: Code = Code(0x10d);
    pub(super) const MESSAGE_ERROR: Code = Code(0x10e);
    pub(super) const QPACK_DECOMPRESSION_FAILED: Code = Code(0x200);
    pub(super) const QPACK_ENCODER_STREAM_ERROR: Code = Code(0x201);
    pub(super) const QPACK_DECODER_STREAM_ERROR: Code = Code(0x202);
}

impl Display for Code {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        const HTTP: [&str; 17] = [
            "H3_NO_ERROR",
            "H3_GENERAL_PROTOCOL_ERROR",
            "H3_INTERNAL_ERROR",
            "H3_STREAM_CREATION_ERROR",
            "H3_CLOSED_CRITICAL_STREAM",
            "H3_FRAME_UNEXPECTED",
            "H3_FRAME_ERROR",
            "H3_EXCESSIVE_LOAD",
            "H3_ID_ERROR",
            "H3_SETTINGS_ERROR",
            "H3_MISSING_SETTINGS",
            "H3_REQUEST_REJECTED",
            "H3_REQUEST_CANCELLED",
            "H3_REQUEST_INCOMPLETE",
            "H3_MESSAGE_ERROR",
            "H3_CONNECT_ERROR",
            "H3_VERSION_FALLBACK",
        ];
        const QPACK: [&str; 3] =
            ["QPACK_DECOMPRESSION_FAILED", "QPACK_ENCODER_STREAM_ERROR", "QPACK_DECODER_STREAM_ERROR"];
        let name = |names: &[&'static str], first: u64| {
            usize::try_from(self.0.checked_sub(first)?).ok().and_then(|at| names.get(at).copied())
        };
        match name(&HTTP, 0x100).or_else(|| name(&QPACK, 0x200)) {
            Some(name) => f.write_str(name),
            None => write!(f, "{:#x}", self.0),
        }
    }
}

impl From<Code> for quinn::VarInt {
    fn from(code: Code) -> Self {
        // Every code of RFC 9114 and 9204 is below 2^32.
        quinn::VarInt::from_u64(code.0).unwrap_or(quinn::VarInt::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_the_names_of_the_specifications() {
        for (code, name) in [
            (Code::NO_ERROR, "H3_NO_ERROR"),
            (Code::ID_ERROR, "H3_ID_ERROR"),
            (Code::MESSAGE_ERROR, "H3_MESSAGE_ERROR"),
            (Code::QPACK_DECOMPRESSION_FAILED, "QPACK_DECOMPRESSION_FAILED"),
            (Code::QPACK_DECODER_STREAM_ERROR, "QPACK_DECODER_STREAM_ERROR"),
            (Code(0xff), "0xff"),
            (Code(0x111), "0x111"),
            (Code(u64::MAX), "0xffffffffffffffff"),
        ] {
            assert_eq!(code.to_string(), name);
        }
    }
}
