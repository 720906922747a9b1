//! Trace context (W3C Trace Context, <https://www.w3.org/TR/trace-context/>) and request ids.
//!
//! Chance is an argument everywhere: ids are as good as the generator that is handed in.

use http::HeaderValue;

/// Most bytes of a request id that is kept when a request brings one; it goes into every log line.
pub const MAX_REQUEST_ID_BYTES: usize = 256;

/// One position in a trace: what `traceparent` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace: [u8; 16],
    span: [u8; 8],
    flags: u8,
}

impl TraceContext {
    /// The context of the `traceparent` values of a request. None where there is no value, more than one, or an invalid
    /// one (section 3.2.2): then a trace is started, and `tracestate` must be removed with it (section 3.3).
    pub fn read<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Option<Self> {
        let mut values = values.into_iter();
        match (values.next(), values.next()) {
            (Some(value), None) => Self::parse(value),
            _ => None,
        }
    }

    /// The context of one `traceparent` value.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (head, rest) = value.split_at_checked(LENGTH)?;
        let [version] = decode(head.get(..2)?)?;
        let separated = [2, 35, 52].iter().all(|&at| head.get(at) == Some(&b'-'));
        let length_fits = match version {
            0x00 => rest.is_empty(),
            // Not a version (section 3.2.2.1).
            0xff => false,
            // Later versions begin like 00, and may go on after a dash (section 4.3).
            _ => rest.first().is_none_or(|&next| next == b'-'),
        };
        let context = TraceContext {
            trace: decode(head.get(3..35)?)?,
            span: decode(head.get(36..52)?)?,
            flags: decode::<1>(head.get(53..55)?)?[0],
        };
        (separated && length_fits && context.trace != [0; 16] && context.span != [0; 8]).then_some(context)
    }

    /// A new trace.
    pub fn start(chance: &mut fastrand::Rng, sampled: bool) -> Self {
        let trace = chance.u128(1..).to_be_bytes();
        TraceContext { trace, span: span(chance), flags: if sampled { SAMPLED } else { 0 } }
    }

    /// The same trace one hop further: a new span, the sampling decision kept.
    #[must_use]
    pub fn next(self, chance: &mut fastrand::Rng) -> Self {
        TraceContext { span: span(chance), flags: self.flags & (SAMPLED | RANDOM), ..self }
    }

    /// The trace's id.
    pub fn trace_id(&self) -> [u8; 16] {
        self.trace
    }

    /// The id of this position.
    pub fn span_id(&self) -> [u8; 8] {
        self.span
    }

    /// Whether the caller may have recorded the trace.
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The `traceparent` value, as version 00.
    pub fn header(&self) -> HeaderValue {
        let mut text = *b"00-________________________________-________________-__";
        encode(&self.trace, &mut text[3..35]);
        encode(&self.span, &mut text[36..52]);
        encode(&[self.flags], &mut text[53..55]);
        value(&text)
    }
}

/// A new `x-request-id`: a UUID version 4 (RFC 9562 section 5.4) of 122 random bits.
pub fn request_id(chance: &mut fastrand::Rng) -> HeaderValue {
    let mut bytes = chance.u128(..).to_be_bytes();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = *b"________-____-____-____-____________";
    encode(&bytes[..4], &mut text[..8]);
    encode(&bytes[4..6], &mut text[9..13]);
    encode(&bytes[6..8], &mut text[14..18]);
    encode(&bytes[8..10], &mut text[19..23]);
    encode(&bytes[10..], &mut text[24..]);
    value(&text)
}

/// Whether a request id that a request brought is kept: visible ASCII, not empty, at most [`MAX_REQUEST_ID_BYTES`].
pub fn keeps_request_id(id: &[u8]) -> bool {
    (1..=MAX_REQUEST_ID_BYTES).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

/// Bytes of a `traceparent` of version 00.
const LENGTH: usize = 55;

/// Trace flag: the caller may have recorded the trace (section 3.2.2.5.1).
const SAMPLED: u8 = 1;

/// Trace flag of Trace Context level 2: the trace id is random. Passed on, never set by us.
const RANDOM: u8 = 2;

fn span(chance: &mut fastrand::Rng) -> [u8; 8] {
    chance.u64(1..).to_be_bytes()
}

/// The bytes of lower-case hexadecimal text; upper case is invalid (section 3.2.2).
fn decode<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// Lower-case hexadecimal text of bytes, four at a time.
fn encode(bytes: &[u8], text: &mut [u8]) {
    let (words, rest) = bytes.as_chunks::<4>();
    let (texts, rest_text) = text.as_chunks_mut::<8>();
    for (word, text) in words.iter().zip(texts) {
        *text = digits(u32::from_be_bytes(*word)).to_be_bytes();
    }
    for (byte, text) in rest.iter().zip(rest_text.as_chunks_mut::<2>().0) {
        let [.., high, low] = digits(u32::from(*byte)).to_be_bytes();
        *text = [high, low];
    }
}

/// The eight digits of a number, the first in the highest byte.
fn digits(number: u32) -> u64 {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    // Each four bits into a byte of their own.
    let mut digits = u64::from(number);
    digits = (digits | digits << 16) & 0x0000_ffff_0000_ffff;
    digits = (digits | digits << 8) & 0x00ff_00ff_00ff_00ff;
    digits = (digits | digits << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    let letters = (digits + ONES * 6) >> 4 & ONES;
    digits + ONES * u64::from(b'0') + letters * u64::from(b'a' - b'0' - 10)
}

/// The text as a header value: one allocation. Hexadecimal digits and dashes are always valid.
fn value(text: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_context_is_read_and_written_back() {
        let context = TraceContext::parse(VALID.as_bytes()).unwrap();
        assert!(context.is_sampled());
        assert_eq!(context.header(), VALID);
    }

    #[test]
    fn a_hop_keeps_the_trace_and_changes_the_span() {
        let mut chance = fastrand::Rng::with_seed(1);
        let context = TraceContext::parse(VALID.replace("-01", "-ff").as_bytes()).unwrap();
        let next = context.next(&mut chance);
        assert_eq!(next.trace_id(), context.trace_id());
        assert_ne!(next.span_id(), context.span_id());
        assert!(next.header().to_str().unwrap().ends_with("-03"), "flags that nobody defined are not passed on");
    }

    #[test]
    fn what_is_not_a_context_starts_a_trace() {
        let cases = [
            String::new(),
            VALID[..54].into(),
            format!("{VALID}-"),
            format!("{VALID}0"),
            VALID.replacen("00", "ff", 1),
            VALID.replacen("00", "0g", 1),
            VALID.replacen("00-", "00_", 1),
            VALID.to_uppercase(),
            VALID.replace("-01", "_01"),
            VALID.replace("-01", "-0x"),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01".into(),
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01".into(),
            VALID.replace("4bf9", "4bF9"),
            format!(" {VALID}"),
            VALID.replacen("00", "cc", 1) + "x",
        ];
        for case in cases {
            assert_eq!(TraceContext::parse(case.as_bytes()), None, "{case}");
        }
        assert_eq!(TraceContext::parse(&[0xff; 55]), None);
        assert_eq!(TraceContext::read([]), None);
        assert_eq!(TraceContext::read([VALID.as_bytes(), VALID.as_bytes()]), None);
        assert!(TraceContext::read([VALID.as_bytes()]).is_some());
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        for value in [VALID.replacen("00", "cc", 1), VALID.replacen("00", "01", 1) + "-what-comes-then"] {
            assert_eq!(TraceContext::parse(value.as_bytes()).unwrap().header(), VALID);
        }
    }

    #[test]
    fn a_new_trace_is_valid() {
        let mut chance = fastrand::Rng::with_seed(2);
        for sampled in [true, false] {
            let context = TraceContext::start(&mut chance, sampled);
            assert_eq!(TraceContext::parse(context.header().as_bytes()), Some(context));
            assert_eq!(context.is_sampled(), sampled);
        }
    }

    #[test]
    fn a_request_id_is_a_version_4_uuid() {
        let mut chance = fastrand::Rng::with_seed(3);
        let ids: Vec<_> = (0..100).map(|_| request_id(&mut chance)).collect();
        for id in &ids {
            let text = id.to_str().unwrap();
            let dashes: Vec<_> = text.match_indices('-').map(|(at, _)| at).collect();
            assert_eq!((text.len(), &*dashes), (36, &[8, 13, 18, 23][..]), "{text}");
            assert!(text.bytes().all(|b| matches!(b, b'-' | b'0'..=b'9' | b'a'..=b'f')), "{text}");
            assert_eq!(&text[14..15], "4");
            assert!("89ab".contains(&text[19..20]), "{text}");
            assert!(keeps_request_id(id.as_bytes()));
        }
        assert_ne!(ids[0], ids[1]);
    }

    #[test]
    fn request_ids_that_would_spoil_a_log_are_not_kept() {
        assert!(keeps_request_id(&[b'x'; MAX_REQUEST_ID_BYTES]));
        assert!(!keeps_request_id(&[b'x'; MAX_REQUEST_ID_BYTES + 1]));
        for id in [&b""[..], b"a b", b"a\tb", b"\xc3\xa9", b"\x7f"] {
            assert!(!keeps_request_id(id), "{id:?}");
        }
    }
}
