//! The Huffman code of strings (RFC 7541 appendix B), for reading. What is written is not coded: that costs some bytes on the wire, and
//! saves both sides the work.

use bytes::{BufMut, BytesMut};

/// Bits of the code of each byte, then of the end of a string. The code is canonical: codes of one length are consecutive in the order of
/// what they stand for, and follow the shorter ones; so the lengths say it all.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28,
    28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12,
    10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6,
    5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22,
    22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20,
    22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28,
    27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28,
    27, 27, 27, 27, 27, 26, 30,
];

/// The end of a string, which a string must not contain.
const END: u16 = 256;

/// Longest code in bits.
const LONGEST: usize = 30;

/// The codes of one length.
#[derive(Clone, Copy)]
struct Row {
    /// The first one, at the upper end of 32 bits.
    first: u32,
    /// What is above the last one.
    limit: u64,
    /// Where what they stand for begins in [`Code::symbols`].
    offset: usize,
}

struct Code {
    rows: [Row; LONGEST + 1],
    symbols: [u16; 257],
    /// What a byte begins with, and the bits of that; 0 bits where a code is longer than a byte.
    short: [(u8, u8); 256],
}

static CODE: Code = code();

const fn code() -> Code {
    let mut code =
        Code { rows: [Row { first: 0, limit: 0, offset: 0 }; LONGEST + 1], symbols: [0; 257], short: [(0, 0); 256] };
    let (mut next, mut placed, mut length): (u64, usize, usize) = (0, 0, 1);
    while length <= LONGEST {
        let unit = 1 << (32 - length);
        code.rows[length] = Row { first: next as u32, limit: next, offset: placed };
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                code.symbols[placed] = symbol as u16;
                placed += 1;
                let mut byte = (next >> 24) as usize;
                next += unit;
                while length <= 8 && (byte as u64) < next >> 24 {
                    code.short[byte] = (symbol as u8, length as u8);
                    byte += 1;
                }
            }
            symbol += 1;
        }
        code.rows[length].limit = next;
        length += 1;
    }
    code
}

/// What 32 bits begin with, and the bits of that.
fn first(bits: u32) -> (u16, u32) {
    let (symbol, length) = CODE.short[(bits >> 24) as usize];
    if length > 0 {
        return (symbol.into(), length.into());
    }
    for (length, row) in (0..).zip(&CODE.rows).skip(9) {
        if u64::from(bits) < row.limit {
            let place = row.offset + ((bits - row.first) >> (32 - length)) as usize;
            return (CODE.symbols[place], length);
        }
    }
    (END, LONGEST as u32)
}

/// Appends what a string stands for: at most 8/5 of its length. `None` if it is none: it contains the end, or is padded with something else
/// than the beginning of that, or with a byte of it (RFC 7541 section 5.2).
pub(super) fn decode(string: &[u8], out: &mut BytesMut) -> Option<()> {
    // The next bits, at the upper end, and how many there are.
    let (mut window, mut bits) = (0_u64, 0);
    let mut string = string.iter();
    loop {
        while bits <= 56 {
            let Some(byte) = string.next() else { break };
            window |= u64::from(*byte) << (56 - bits);
            bits += 8;
        }
        if bits == 0 {
            return Some(());
        }
        let (symbol, length) = first((window >> 32) as u32);
        if length > bits {
            return (bits < 8 && window == !0 << (64 - bits)).then_some(());
        }
        out.put_u8(u8::try_from(symbol).ok()?);
        window <<= length;
        bits -= length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(string: &[u8]) -> Option<Vec<u8>> {
        let mut out = BytesMut::new();
        decode(string, &mut out).map(|()| out.to_vec())
    }

    /// As RFC 7541 section 5.2 says it is written.
    fn encoded(text: &[u8]) -> Vec<u8> {
        let bits = text.iter().flat_map(|byte| {
            let length = usize::from(LENGTHS[usize::from(*byte)]);
            let row = CODE.rows[length];
            let place = CODE.symbols[row.offset..].iter().position(|symbol| *symbol == u16::from(*byte)).unwrap();
            let code = (row.first >> (32 - length)) + place as u32;
            (0..length).rev().map(move |bit| code >> bit & 1 == 1)
        });
        let mut bits: Vec<bool> = bits.collect();
        bits.resize(bits.len().next_multiple_of(8), true);
        bits.chunks(8).map(|byte| byte.iter().fold(0, |byte, bit| byte << 1 | u8::from(*bit))).collect()
    }

    /// RFC 7541 appendix C.
    #[test]
    fn examples_of_the_specification() {
        for (string, text) in [
            (&b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff"[..], "www.example.com"),
            (b"\xa8\xeb\x10\x64\x9c\xbf", "no-cache"),
            (b"\x25\xa8\x49\xe9\x5b\xa9\x7d\x7f", "custom-key"),
            (b"\x25\xa8\x49\xe9\x5b\xb8\xe8\xb4\xbf", "custom-value"),
            (b"\x64\x02", "302"),
            (b"", ""),
        ] {
            assert_eq!(decoded(string).unwrap(), text.as_bytes());
            assert_eq!(encoded(text.as_bytes()), string);
        }
    }

    #[test]
    fn every_byte_comes_back() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decoded(&encoded(&all)).unwrap(), all);
        for byte in 0..=255 {
            let run = vec![byte; 5];
            assert_eq!(decoded(&encoded(&run)).unwrap(), run);
        }
    }

    #[test]
    fn what_is_no_string() {
        for (string, why) in [
            (&b"\xff\xff\xff\xff"[..], "the end of a string"),
            (b"\xff", "a whole byte of padding"),
            (b"\x00", "padding that is not ones"),
            (b"\x1f\xff", "more padding than is needed"),
            (b"\xff\xfe", "a code that is cut"),
        ] {
            assert_eq!(decoded(string), None, "{why}");
        }
    }
}
