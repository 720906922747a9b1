//! The chunked transfer coding (RFC 9112 section 7.1), read strictly: every line ends in CRLF, sizes are plain
//! hexadecimal, extensions are skipped within a bound.

use bytes::{Bytes, BytesMut};

use super::parse;
use crate::http::Fields;
use crate::http::rules::{MAX_TRAILER_BYTES, clean_trailers};

/// Longest chunk-size line in bytes, extensions included. Nobody uses extensions; an endless one is an attack
/// (CVE-2023-39326).
const MAX_SIZE_LINE: usize = 256;

/// What of a chunked body has been read.
#[derive(Debug)]
pub(super) enum Chunked {
    /// A chunk-size line comes.
    Size,
    /// This many bytes of the chunk remain.
    Data(u64),
    /// The CRLF after a chunk's data comes.
    DataEnd,
    /// The trailer section comes.
    Trailers,
    /// All read.
    End,
}

/// What a step of decoding gave.
#[derive(Debug)]
pub(super) enum Piece {
    Data(Bytes),
    Trailers(Fields),
    /// The end, without trailers.
    End,
    /// More bytes are needed.
    More,
}

impl Chunked {
    /// Takes the next piece from the input.
    ///
    /// # Errors
    /// If the coding is malformed: what is wrong.
    pub(super) fn decode(&mut self, input: &mut BytesMut) -> Result<Piece, &'static str> {
        loop {
            match self {
                Chunked::Size => {
                    let Some(line) = take_line(input, MAX_SIZE_LINE)? else { return Ok(Piece::More) };
                    let size = chunk_size(&line)?;
                    *self = if size == 0 { Chunked::Trailers } else { Chunked::Data(size) };
                }
                Chunked::Data(left) => {
                    if input.is_empty() {
                        return Ok(Piece::More);
                    }
                    let n = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                    *left -= n as u64;
                    if *left == 0 {
                        *self = Chunked::DataEnd;
                    }
                    return Ok(Piece::Data(input.split_to(n).freeze()));
                }
                Chunked::DataEnd => match input.get(..2) {
                    Some(b"\r\n") => {
                        let _ = input.split_to(2);
                        *self = Chunked::Size;
                    }
                    Some(_) => return Err("a chunk is longer than its size"),
                    None if input.first().is_some_and(|b| *b != b'\r') => {
                        return Err("a chunk is longer than its size");
                    }
                    None => return Ok(Piece::More),
                },
                Chunked::Trailers => {
                    if input.starts_with(b"\r\n") {
                        let _ = input.split_to(2);
                        *self = Chunked::End;
                        return Ok(Piece::End);
                    }
                    let Some(end) = parse::head_end(input, &mut 0).map_err(|()| "a bare LF in the trailer section")?
                    else {
                        return if input.len() > MAX_TRAILER_BYTES {
                            Err("a trailer section that is too large")
                        } else {
                            Ok(Piece::More)
                        };
                    };
                    if end > MAX_TRAILER_BYTES {
                        return Err("a trailer section that is too large");
                    }
                    let mut trailers =
                        parse::fields(input.split_to(end).freeze()).map_err(|_| "a malformed trailer section")?;
                    clean_trailers(&mut trailers);
                    *self = Chunked::End;
                    return Ok(if trailers.is_empty() { Piece::End } else { Piece::Trailers(trailers) });
                }
                Chunked::End => return Ok(Piece::End),
            }
        }
    }
}

/// The next line without its CRLF.
fn take_line(input: &mut BytesMut, limit: usize) -> Result<Option<BytesMut>, &'static str> {
    let within = &input[..input.len().min(limit)];
    match memchr::memchr(b'\n', within) {
        Some(lf) if lf > 0 && within[lf - 1] == b'\r' => {
            let mut line = input.split_to(lf + 1);
            line.truncate(lf - 1);
            Ok(Some(line))
        }
        Some(_) => Err("a chunk size line that does not end in CRLF"),
        None if within.len() == limit => Err("a chunk size line that is too long"),
        None => Ok(None),
    }
}

fn chunk_size(line: &[u8]) -> Result<u64, &'static str> {
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    // 15 digits are an exbibyte: no overflow, and no body is larger.
    if digits == 0 || digits > 15 {
        return Err("a chunk size that is not a hexadecimal number");
    }
    let (size, rest) = line.split_at(digits);
    match rest.iter().find(|b| !matches!(b, b' ' | b'\t')) {
        None if rest.is_empty() => {}
        Some(b';') if !rest.contains(&b'\r') => {}
        _ => return Err("a chunk size that is followed by something else than an extension"),
    }
    Ok(size.iter().fold(0, |n, d| n * 16 + u64::from((*d as char).to_digit(16).unwrap_or(0))))
}

pub(super) fn fuzz(input: &[u8]) {
    let mut input = BytesMut::from(input);
    let mut decoder = Chunked::Size;
    let before = input.len();
    let mut total = 0;
    while let Ok(Piece::Data(data)) = decoder.decode(&mut input) {
        total += data.len();
    }
    assert!(total <= before, "a decoder cannot make bytes");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes input that arrives in pieces of the given size.
    fn decode(text: &str, step: usize) -> Result<(String, Option<Fields>, usize), &'static str> {
        let (mut decoder, mut input, mut out, mut rest) =
            (Chunked::Size, BytesMut::new(), String::new(), text.as_bytes());
        loop {
            match decoder.decode(&mut input)? {
                Piece::Data(data) => out.push_str(std::str::from_utf8(&data).expect("ASCII")),
                Piece::Trailers(trailers) => return Ok((out, Some(trailers), input.len() + rest.len())),
                Piece::End => return Ok((out, None, input.len() + rest.len())),
                Piece::More if rest.is_empty() => return Err("incomplete"),
                Piece::More => {
                    let (now, later) = rest.split_at(step.min(rest.len()));
                    input.extend_from_slice(now);
                    rest = later;
                }
            }
        }
    }

    #[test]
    fn well_formed_whatever_the_pieces() {
        for step in [1, 2, 3, 7, 1000] {
            let (body, trailers, left) =
                decode("5\r\nhello\r\nA;x=\"y\"\r\n0123456789\r\n0\r\nX-A: b\r\nhost: evil\r\n\r\nGET", step)
                    .expect("fine");
            assert_eq!((body.as_str(), left), ("hello0123456789", 3));
            let trailers = trailers.expect("trailers");
            assert_eq!((trailers.len(), trailers.get("x-a").expect("a field").as_bytes()), (1, &b"b"[..]));
            assert_eq!(decode("0\r\n\r\n", step), Ok((String::new(), None, 0)));
        }
    }

    #[test]
    fn malformed() {
        for text in [
            "\r\n",
            "g\r\n",
            "+5\r\nhello\r\n",
            "0x5\r\nhello\r\n",
            "-1\r\n",
            "5 5\r\nhello\r\n",
            "5\nhello\n",
            "5\r\nhello!\r\n",
            "5\r\nhelloX0\r\n\r\n",
            "1234567890123456\r\n",
            "0\r\nbad name: x\r\n\r\n",
            "0\r\n folded\r\n\r\n",
            "0\r\na: b\n\r\n",
            "5;a\rb\r\nhello\r\n",
        ] {
            let got = decode(text, 1000);
            assert!(matches!(got, Err(why) if why != "incomplete"), "{text:?}: {got:?}");
        }
    }

    #[test]
    fn limits_at_their_edge() {
        let line = |n: usize| format!("1;{}\r\n", "x".repeat(n - 4));
        assert!(decode(&format!("{}a\r\n0\r\n\r\n", line(MAX_SIZE_LINE)), 1000).is_ok());
        assert_eq!(
            decode(&format!("{}a\r\n0\r\n\r\n", line(MAX_SIZE_LINE + 1)), 1000),
            Err("a chunk size line that is too long")
        );
        let trailer = |n: usize| format!("0\r\na: {}\r\n\r\n", "x".repeat(n - 7));
        assert!(decode(&trailer(MAX_TRAILER_BYTES), 4096).is_ok());
        assert_eq!(decode(&trailer(MAX_TRAILER_BYTES + 1), 4096), Err("a trailer section that is too large"));
    }
}
