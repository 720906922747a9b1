//! Reading field sections.

use std::borrow::Cow;

use bytes::BytesMut;

use super::LINE_OVERHEAD;
use super::table::{Dynamic, Line, LineName};
use crate::http::huffman;

/// The reader of one direction of a connection. After an error it cannot go on: what later sections mean is unknown.
#[derive(Debug, Default)]
pub(in crate::http::h2) struct Decoder {
    table: Dynamic,
}

/// A section that cannot be decoded (RFC 7541 section 5).
#[derive(Debug, PartialEq, Eq)]
pub(in crate::http::h2) struct Garbled;

/// How a line is said.
enum Form {
    Insert,
    Literal,
}

impl Decoder {
    /// Reads a section and hands over its lines in order.
    ///
    /// # Errors
    /// If it is none.
    pub(in crate::http::h2) fn decode(
        &mut self,
        block: &[u8],
        mut take: impl FnMut(Cow<'_, Line>),
    ) -> Result<(), Garbled> {
        let mut input = Input(block);
        let mut scratch = BytesMut::new();
        let mut lines = 0;
        while let Some(&first) = input.0.first() {
            let (form, prefix) = match first {
                0x80.. => {
                    let index = input.integer(7)?;
                    take(Cow::Borrowed(self.table.get(index).ok_or(Garbled)?));
                    lines += 1;
                    continue;
                }
                0x40.. => (Form::Insert, 6),
                0x20.. => {
                    // RFC 7541 section 4.2: at the beginning.
                    let size = input.integer(5)?;
                    if lines > 0 || !self.table.resize(size) {
                        return Err(Garbled);
                    }
                    continue;
                }
                _ => (Form::Literal, 4),
            };
            lines += 1;
            let index = input.integer(prefix)?;
            let name = match index {
                0 => LineName::new(input.string(&mut scratch)?),
                index => self.table.get(index).ok_or(Garbled)?.name(),
            };
            let value = input.string(&mut scratch)?;
            let mut line = Line::new(&name, value);
            // RFC 7541 section 6.2.3: nor may it be indexed further on.
            if first & 0xf0 == 0x10
                && let Line::Field(_, value) = &mut line
            {
                value.set_sensitive(true);
            }
            if matches!(form, Form::Literal) {
                take(Cow::Owned(line));
                continue;
            }
            take(Cow::Borrowed(&line));
            let size = line.size();
            self.table.insert(line, size);
        }
        Ok(())
    }
}

/// What is left to read.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// An integer with a prefix of this many bits (RFC 7541 section 5.1).
    fn integer(&mut self, prefix: u32) -> Result<usize, Garbled> {
        let mask = 0xff_u8 >> (8 - prefix);
        let value = self.byte()? & mask;
        if value < mask {
            return Ok(value.into());
        }
        let mut value = usize::from(value);
        // Four bytes say more than any length or index that could be met here.
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Garbled)
    }

    /// A string (RFC 7541 section 5.2).
    fn string<'b>(&mut self, scratch: &'b mut BytesMut) -> Result<&'b [u8], Garbled>
    where
        'a: 'b,
    {
        let coded = *self.0.first().ok_or(Garbled)? & 0x80 != 0;
        let length = self.integer(7)?;
        let (string, rest) = self.0.split_at_checked(length).ok_or(Garbled)?;
        self.0 = rest;
        if !coded {
            return Ok(string);
        }
        scratch.clear();
        scratch.reserve(length * 8 / 5 + 1);
        huffman::decode(string, scratch).ok_or(Garbled)?;
        Ok(scratch)
    }

    fn byte(&mut self) -> Result<u8, Garbled> {
        let (&byte, rest) = self.0.split_first().ok_or(Garbled)?;
        self.0 = rest;
        Ok(byte)
    }
}

// A line's size is that of its parts.
const _: () = assert!(LINE_OVERHEAD == 32);

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.chars().filter_map(|c| c.to_digit(16)).map(|d| d as u8).collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    }

    fn read(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<String>, Garbled> {
        let mut lines = Vec::new();
        decoder.decode(block, |line| {
            let (name, value) = line.parts();
            lines.push(format!("{}: {}", String::from_utf8_lossy(name), String::from_utf8_lossy(value)));
        })?;
        Ok(lines)
    }

    /// RFC 7541 appendix C.2.
    #[test]
    fn single_lines_of_the_specification() {
        for (block, line, size) in [
            ("400a637573746f6d2d6b65790d637573746f6d2d686561646572", "custom-key: custom-header", 55),
            ("040c2f73616d706c652f70617468", ":path: /sample/path", 0),
            ("100870617373776f726406736563726574", "password: secret", 0),
            ("82", ":method: GET", 0),
        ] {
            let mut decoder = Decoder::default();
            assert_eq!(read(&mut decoder, &hex(block)).unwrap(), [line]);
            assert_eq!(decoder.table.size(), size, "{line}");
        }
    }

    /// RFC 7541 appendix C.3 and C.4: three requests, without and with the Huffman code.
    #[test]
    fn requests_of_the_specification() {
        let first = [":method: GET", ":scheme: http", ":path: /", ":authority: www.example.com"];
        let second = [&first[..], &["cache-control: no-cache"]].concat();
        let third = [
            ":method: GET",
            ":scheme: https",
            ":path: /index.html",
            ":authority: www.example.com",
            "custom-key: custom-value",
        ];
        for blocks in [
            [
                "828684410f7777772e6578616d706c652e636f6d",
                "828684be58086e6f2d6361636865",
                "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
            ],
            [
                "828684418cf1e3c2e5f23a6ba0ab90f4ff",
                "828684be5886a8eb10649cbf",
                "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
            ],
        ] {
            let mut decoder = Decoder::default();
            let expected: [(&[&str], usize); 3] = [(&first, 57), (&second, 110), (&third, 164)];
            for (block, (lines, size)) in blocks.into_iter().zip(expected) {
                assert_eq!(read(&mut decoder, &hex(block)).unwrap(), lines);
                assert_eq!(decoder.table.size(), size);
            }
        }
    }

    /// RFC 7541 appendix C.6: responses, where the table of 256 bytes evicts.
    #[test]
    fn responses_of_the_specification() {
        let mut decoder = Decoder::default();
        assert_eq!(read(&mut decoder, &hex("3fe101")), Ok(vec![]), "256 bytes");
        let date = |second| format!("date: Mon, 21 Oct 2013 20:13:{second} GMT");
        let location = "location: https://www.example.com".to_owned();
        let private = "cache-control: private".to_owned();
        let block = hex(
            "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
        );
        assert_eq!(
            read(&mut decoder, &block).unwrap(),
            [":status: 302".into(), private.clone(), date(21), location.clone()]
        );
        assert_eq!(decoder.table.size(), 222);
        let block = hex("4883640effc1c0bf");
        assert_eq!(
            read(&mut decoder, &block).unwrap(),
            [":status: 307".into(), private.clone(), date(21), location.clone()]
        );
        assert_eq!(decoder.table.size(), 222);
        let block = hex(
            "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
        );
        let cookie = "set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1".to_owned();
        assert_eq!(
            read(&mut decoder, &block).unwrap(),
            [":status: 200".into(), private, date(22), location, "content-encoding: gzip".into(), cookie]
        );
        assert_eq!(decoder.table.size(), 215);
    }

    #[test]
    fn what_cannot_be_decoded() {
        for (block, why) in [
            ("80", "index 0"),
            ("be", "nothing is in the table yet"),
            ("7e0161", "a name from the table, in which nothing is"),
            ("82 20", "a change of the size after a line"),
            ("3fe21f", "a size above the limit"),
            ("ffffffffffff", "an integer without end"),
            ("40", "no name"),
            ("4001", "a name that is cut"),
            ("400161", "no value"),
            ("4001610561", "a value that is cut"),
            ("41 81 00", "padding that is none"),
            ("41 82 fc ff", "padding of a byte"),
            ("41 84 ff ff ff ff", "the end of a string inside it"),
        ] {
            assert_eq!(read(&mut Decoder::default(), &hex(block)), Err(Garbled), "{why}");
        }
        assert_eq!(
            read(&mut Decoder::default(), &hex("20 3fe11f 82")).unwrap(),
            [":method: GET"],
            "to 0, then to 4096"
        );
    }

    #[test]
    fn a_line_larger_than_the_table_empties_it() {
        let mut decoder = Decoder::default();
        read(&mut decoder, &hex("400161 0162")).unwrap();
        assert_eq!(decoder.table.size(), 34);
        let mut large = hex("400161 7fa11f");
        large.extend([b'v'; 4128]);
        read(&mut decoder, &large).unwrap();
        assert_eq!(decoder.table.size(), 0);
    }

    #[test]
    fn any_noise_is_survived() {
        let whole = hex("828684418cf1e3c2e5f23a6ba0ab90f4ff408825a849e95ba97d7f8925a849e95bb8e8b4bf");
        (0..=whole.len()).for_each(|end| super::super::fuzz(&whole[..end]));
        let mut noise = fastrand::Rng::with_seed(3);
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..noise.usize(..40)).map(|_| noise.u8(..)).collect();
            super::super::fuzz(&bytes);
        }
    }
}
