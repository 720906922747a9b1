//! A look at a field section before it is decoded (RFC 9204 section 4.5).
//!
//! h3 keeps the last of two equal pseudo-headers and takes them anywhere, so that two hops could disagree on what was
//! asked for. The order and number of lines is visible without decoding: with a dynamic table of capacity 0, a name is
//! an index into the static table or a literal, and a Huffman-coded literal that starts with `:` starts with its code.

use super::Broken;
use crate::http::rules::MAX_FIELDS;

/// Which message, or part of one, a section is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The head of a request.
    Request,
    /// The head of a response.
    Response,
    /// Trailers.
    Trailers,
}

const AUTHORITY: u8 = 1;
const PATH: u8 = 2;
const METHOD: u8 = 4;
const SCHEME: u8 = 8;
const STATUS: u8 = 16;

/// The pseudo-headers with their names as they are and in Huffman code (RFC 7541 appendix B).
const PSEUDO: [(u8, &[u8], &[u8]); 5] = [
    (AUTHORITY, b":authority", b"\xb8\x3b\x53\x39\xec\x32\x7d\x7f"),
    (PATH, b":path", b"\xb9\x58\xd3\x3f"),
    (METHOD, b":method", b"\xb9\x49\x53\x39\xe4"),
    (SCHEME, b":scheme", b"\xb8\x82\x4e\x5a\x4b"),
    (STATUS, b":status", b"\xb8\x84\x8d\x36\xa3"),
];

/// The Huffman code of `:`, the upper seven bits of a byte.
const COLON: u8 = 0b101_1100;

/// Checks the lines of a section: none refers to the dynamic table; pseudo-headers are those of this kind, each once and
/// not empty, all before the first field (RFC 9114 section 4.3); not more than [`MAX_FIELDS`] fields.
///
/// # Errors
/// `Malformed`, or `TooLarge` for too many fields.
pub(super) fn check(section: &[u8], kind: Kind) -> Result<(), Broken> {
    let mut lines = Lines(section);
    if lines.integer(8)?.1 != 0 {
        return Err(Broken::Garbled("a reference to the dynamic table, which has capacity 0"));
    }
    lines.integer(7)?;
    let (mut seen, mut fields) = (0, 0);
    while !lines.0.is_empty() {
        let (pseudo, empty) = lines.line()?;
        if pseudo == 0 {
            fields += 1;
            continue;
        }
        if fields > 0 {
            return Err(Broken::Malformed("a pseudo-header after a field"));
        }
        if seen & pseudo != 0 {
            return Err(Broken::Malformed("the same pseudo-header twice"));
        }
        if empty {
            return Err(Broken::Malformed("an empty pseudo-header"));
        }
        seen |= pseudo;
    }
    if fields > MAX_FIELDS {
        return Err(Broken::TooLarge);
    }
    match kind {
        Kind::Request if seen & STATUS == 0 && seen & METHOD != 0 => Ok(()),
        Kind::Response if seen == STATUS => Ok(()),
        Kind::Trailers if seen == 0 => Ok(()),
        _ => Err(Broken::Malformed("pseudo-headers of another kind of message, or none")),
    }
}

/// A section without `:scheme` and `:path`, which CONNECT does not say (RFC 9114 section 4.4).
///
/// # Errors
/// If it cannot be read.
pub(super) fn connect(section: &[u8]) -> Result<Vec<u8>, Broken> {
    let mut lines = Lines(section);
    lines.integer(8)?;
    lines.integer(7)?;
    let mut kept = section[..section.len() - lines.0.len()].to_vec();
    while !lines.0.is_empty() {
        let line = lines.0;
        if lines.line()?.0 & (SCHEME | PATH) == 0 {
            kept.extend_from_slice(&line[..line.len() - lines.0.len()]);
        }
    }
    Ok(kept)
}

/// What is left of a section.
struct Lines<'a>(&'a [u8]);

impl<'a> Lines<'a> {
    /// The pseudo-header that the next line is, 0 for a field, and whether its value is empty.
    fn line(&mut self) -> Result<(u8, bool), Broken> {
        let first = *self.0.first().ok_or(SHORT)?;
        if first & 0x80 != 0 {
            let (flags, index) = self.integer(6)?;
            return if flags & 1 == 0 { Err(DYNAMIC) } else { Ok((indexed(index), index == 0)) };
        }
        let pseudo = if first & 0x40 != 0 {
            let (flags, index) = self.integer(4)?;
            if flags & 1 == 0 {
                return Err(DYNAMIC);
            }
            indexed(index)
        } else if first & 0x20 != 0 {
            let (huffman, name) = self.string(3)?;
            literal(huffman, name)?
        } else {
            return Err(DYNAMIC);
        };
        let (_, value) = self.string(7)?;
        Ok((pseudo, value.is_empty()))
    }

    /// A string whose length has a prefix of this many bits, and whether it is Huffman-coded.
    fn string(&mut self, prefix: u32) -> Result<(bool, &'a [u8]), Broken> {
        let (flags, length) = self.integer(prefix)?;
        let (string, rest) = self.0.split_at_checked(length).ok_or(SHORT)?;
        self.0 = rest;
        Ok((flags & 1 != 0, string))
    }

    /// An integer with a prefix of this many bits (RFC 7541 section 5.1), and the bits before the prefix.
    fn integer(&mut self, prefix: u32) -> Result<(u8, usize), Broken> {
        let (&first, mut rest) = self.0.split_first().ok_or(SHORT)?;
        let mask = 0xff_u8 >> (8 - prefix);
        let flags = u8::try_from(u16::from(first) >> prefix).unwrap_or_default();
        let mut value = usize::from(first & mask);
        if first & mask == mask {
            // Four bytes say more than any length that could be met here.
            for shift in [0, 7, 14, 21, 28] {
                let (&byte, left) = rest.split_first().ok_or(SHORT)?;
                if shift == 28 {
                    return Err(Broken::Garbled("an integer without end in a field section"));
                }
                rest = left;
                value += usize::from(byte & 0x7f) << shift;
                if byte & 0x80 == 0 {
                    break;
                }
            }
        }
        self.0 = rest;
        Ok((flags, value))
    }
}

const SHORT: Broken = Broken::Garbled("a field section that ends too early");
const DYNAMIC: Broken = Broken::Garbled("a line that refers to the dynamic table");

/// The pseudo-header at an index of the static table (RFC 9204 appendix A).
fn indexed(index: usize) -> u8 {
    match index {
        0 => AUTHORITY,
        1 => PATH,
        15..=21 => METHOD,
        22 | 23 => SCHEME,
        24..=28 | 63..=71 => STATUS,
        _ => 0,
    }
}

fn literal(huffman: bool, name: &[u8]) -> Result<u8, Broken> {
    let Some(&first) = name.first() else { return Err(Broken::Malformed("an empty field name")) };
    if if huffman { first >> 1 != COLON } else { first != b':' } {
        return Ok(0);
    }
    let known = PSEUDO.iter().find(|(_, plain, coded)| name == if huffman { *coded } else { *plain });
    known.map(|(pseudo, ..)| *pseudo).ok_or(Broken::Malformed("an unknown pseudo-header"))
}

/// Any bytes are told apart, and what passes is not called two kinds of message.
pub(super) fn fuzz(input: &[u8]) {
    let passed = [Kind::Request, Kind::Response, Kind::Trailers].map(|kind| check(input, kind).is_ok());
    assert!(passed.iter().filter(|passed| **passed).count() <= 1);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A literal line with a literal name, no Huffman.
    fn line(name: &str, value: &str) -> Vec<u8> {
        assert!(name.len() >= 7 && name.len() < 100 && value.len() < 127);
        let mut line = vec![0x27, (name.len() - 7) as u8];
        line.extend_from_slice(name.as_bytes());
        line.push(value.len() as u8);
        line.extend_from_slice(value.as_bytes());
        line
    }

    fn section(lines: &[&[u8]]) -> Vec<u8> {
        [&[0, 0][..], &lines.concat()].concat()
    }

    // Indexed: `:method: GET`, `:path: /`, `:scheme: https`, `:status: 200`, `:authority` with a literal value.
    const GET: &[u8] = &[0xc0 | 17];
    const ROOT: &[u8] = &[0xc0 | 1];
    const HTTPS: &[u8] = &[0xc0 | 23];
    const OK: &[u8] = &[0xc0 | 25];
    const HOST: &[u8] = &[0x50, 1, b'a'];

    #[test]
    fn heads_as_they_should_be() {
        let field = line("x-field", "1");
        assert!(check(&section(&[GET, HTTPS, HOST, ROOT, &field, &field]), Kind::Request).is_ok());
        assert!(check(&section(&[OK, &field]), Kind::Response).is_ok());
        assert!(check(&section(&[&field]), Kind::Trailers).is_ok());
        assert!(check(&section(&[&line(":method", "GET"), HTTPS, HOST, ROOT]), Kind::Request).is_ok());
    }

    #[test]
    fn pseudo_headers_out_of_place_are_malformed() {
        let field = line("x-field", "1");
        let second = line(":method", "PUT");
        let mut coded = vec![0x2d];
        coded.extend_from_slice(b"\xb9\x49\x53\x39\xe4\x01A");
        for (lines, kind) in [
            (vec![GET, ROOT, ROOT], Kind::Request),
            (vec![GET, &second, ROOT], Kind::Request),
            (vec![GET, &coded, ROOT], Kind::Request),
            (vec![GET, &field, ROOT], Kind::Request),
            (vec![GET, ROOT, OK], Kind::Request),
            (vec![ROOT, HTTPS], Kind::Request),
            (vec![GET, &[0xc0], HTTPS], Kind::Request),
            (vec![&line(":protocol", "websocket"), GET], Kind::Request),
            (vec![OK, OK], Kind::Response),
            (vec![OK, ROOT], Kind::Response),
            (vec![&field], Kind::Response),
            (vec![&field, OK], Kind::Trailers),
            (vec![&[0x80]], Kind::Trailers),
            (vec![&[0x40, 0]], Kind::Trailers),
            (vec![&[0x10]], Kind::Trailers),
            (vec![&[0x00, 0]], Kind::Trailers),
            (vec![&[0x20, 0]], Kind::Trailers),
        ] {
            assert!(
                matches!(check(&section(&lines), kind), Err(Broken::Malformed(_) | Broken::Garbled(_))),
                "{lines:x?}"
            );
        }
    }

    #[test]
    fn connect_says_neither_scheme_nor_path() {
        let connect_method: &[u8] = &[0xc0 | 15];
        let field = line("x-field", "value");
        let literal_path = [&[0x20 | 5][..], b":path", &[2], b"/a"].concat();
        let whole = section(&[connect_method, HTTPS, HOST, ROOT, &literal_path, &field]);
        assert_eq!(connect(&whole).unwrap(), section(&[connect_method, HOST, &field]));
        assert!(connect(&whole[..whole.len() - 1]).is_err());
    }

    #[test]
    fn the_number_of_fields_is_limited() {
        let field = line("x-field", "1");
        let lines = |n| section(&std::iter::once(OK).chain(std::iter::repeat_n(&field[..], n)).collect::<Vec<_>>());
        assert!(check(&lines(MAX_FIELDS), Kind::Response).is_ok());
        assert!(matches!(check(&lines(MAX_FIELDS + 1), Kind::Response), Err(Broken::TooLarge)));
    }

    #[test]
    fn every_cut_and_any_noise_is_survived() {
        let whole = section(&[GET, HTTPS, HOST, ROOT, &line("x-field", "value")]);
        for end in 0..whole.len() - 8 {
            let _ = check(&whole[..end], Kind::Request);
        }
        assert!(check(&whole[..whole.len() - 1], Kind::Request).is_err());
        assert!(check(&[0, 0, 0x27, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], Kind::Trailers).is_err());
        let mut noise = fastrand::Rng::with_seed(3);
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..noise.usize(..40)).map(|_| noise.u8(..)).collect();
            let _ = check(&bytes, Kind::Request);
        }
    }
}
