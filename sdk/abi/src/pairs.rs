//! The serialized header map ("pairs"): a count, then the two lengths of each pair, then each name and each value, each
//! followed by one NUL; all numbers are `u32`, little-endian.

use std::fmt;

/// Largest serialized map that is read. The same as in proxy-wasm-cpp-host (`limits.h`), so that a map which Envoy
/// accepts is accepted.
pub const MAX_PAIRS_BYTES: usize = 1 << 20;

/// Largest number of pairs that is read. The same as in proxy-wasm-cpp-host (`limits.h`).
pub const MAX_PAIRS: usize = 1024;

/// A serialized map that was checked as a whole: iterating cannot fail.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pairs<'a> {
    /// Eight bytes for each pair: length of the name, length of the value.
    lengths: &'a [u8],
    /// Names and values, each with its NUL.
    bytes: &'a [u8],
}

/// The bytes are no serialized map, or one over the limits. Envoy takes such bytes for the empty map, without an error;
/// so does `Pairs::decode(bytes).unwrap_or_default()`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

impl<'a> Pairs<'a> {
    /// Checks the whole map: limits, every length, every NUL, no byte left over. No bytes at all are the empty map.
    pub fn decode(bytes: &'a [u8]) -> Result<Pairs<'a>, Malformed> {
        if bytes.is_empty() {
            return Ok(Pairs::default());
        }
        if bytes.len() > MAX_PAIRS_BYTES {
            return Err(Malformed);
        }
        let (count, rest) = take_u32(bytes).ok_or(Malformed)?;
        if count > MAX_PAIRS {
            return Err(Malformed);
        }
        let (lengths, bytes) = rest.split_at_checked(count * 8).ok_or(Malformed)?;
        let pairs = Pairs { lengths, bytes };
        let mut rest = bytes;
        for (name, value) in pairs.sizes() {
            rest = skip(rest, name).and_then(|rest| skip(rest, value)).ok_or(Malformed)?;
        }
        if rest.is_empty() { Ok(pairs) } else { Err(Malformed) }
    }

    /// Whether these bytes are no map for its limits alone.
    pub fn are_too_many(bytes: &[u8]) -> bool {
        let could_be = |(count, rest): &(usize, &[u8])| *count > MAX_PAIRS && *count <= rest.len() / 8;
        bytes.len() > MAX_PAIRS_BYTES || take_u32(bytes).is_some_and(|head| could_be(&head))
    }

    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.lengths.len() / 8
    }

    /// True when there is no pair.
    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    /// Names and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let mut rest = self.bytes;
        let mut take = move |size: usize| {
            let (text, after) = rest.split_at_checked(size).unwrap_or_default();
            rest = after.get(1..).unwrap_or_default();
            text
        };
        self.sizes().map(move |(name, value)| (take(name), take(value)))
    }

    fn sizes(&self) -> impl Iterator<Item = (usize, usize)> + use<'a> {
        self.lengths.chunks_exact(8).filter_map(|pair| {
            let (name, rest) = take_u32(pair)?;
            Some((name, take_u32(rest)?.0))
        })
    }
}

/// Number of bytes that a map takes when serialized.
pub fn encoded_len<'p>(pairs: impl IntoIterator<Item = (&'p [u8], &'p [u8])>) -> usize {
    pairs.into_iter().fold(4, |total, (name, value)| total + Encoder::pair_len(name, value))
}

/// Writes a map into a block of exactly its size. Two cursors run: one over the table of lengths, one over the bytes.
#[derive(Debug)]
pub struct Encoder<'a> {
    lengths: &'a mut [u8],
    bytes: &'a mut [u8],
}

impl<'a> Encoder<'a> {
    /// Bytes that one pair adds to a map.
    pub const fn pair_len(name: &[u8], value: &[u8]) -> usize {
        8 + name.len() + 1 + value.len() + 1
    }

    /// Starts a map of `count` pairs; `None` when the block cannot hold even their lengths.
    pub fn new(block: &'a mut [u8], count: usize) -> Option<Encoder<'a>> {
        let (head, rest) = block.split_first_chunk_mut::<4>()?;
        *head = u32::try_from(count).ok()?.to_le_bytes();
        let (lengths, bytes) = rest.split_at_mut_checked(count.checked_mul(8)?)?;
        Some(Encoder { lengths, bytes })
    }

    /// Adds one pair; false, and nothing more is written, when the block has no room for it.
    pub fn push(&mut self, name: &[u8], value: &[u8]) -> bool {
        let Some(lengths) = self.lengths.split_off_mut(..8) else { return false };
        let Some(bytes) = self.bytes.split_off_mut(..name.len() + value.len() + 2) else { return false };
        lengths[..4].copy_from_slice(&(name.len() as u32).to_le_bytes());
        lengths[4..].copy_from_slice(&(value.len() as u32).to_le_bytes());
        let (left, right) = bytes.split_at_mut(name.len() + 1);
        left[..name.len()].copy_from_slice(name);
        left[name.len()] = 0;
        right[..value.len()].copy_from_slice(value);
        right[value.len()] = 0;
        true
    }

    /// True when every pair that was announced was written and the block is full.
    pub fn is_complete(&self) -> bool {
        self.lengths.is_empty() && self.bytes.is_empty()
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a serialized header map")
    }
}

impl std::error::Error for Malformed {}

fn take_u32(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*head) as usize, rest))
}

/// What follows a text of `size` bytes and its NUL.
fn skip(bytes: &[u8], size: usize) -> Option<&[u8]> {
    match bytes.get(size..)?.split_first()? {
        (0, rest) => Some(rest),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: &[(&[u8], &[u8])] = &[(b":path", b"/a"), (b"x-empty", b""), (b"", b"nameless"), (b"x", b"\xff\0y")];

    fn encode(pairs: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut block = vec![0xAA; encoded_len(pairs.iter().copied())];
        let mut encoder = Encoder::new(&mut block, pairs.len()).unwrap();
        for (name, value) in pairs {
            assert!(encoder.push(name, value));
        }
        assert!(encoder.is_complete());
        block
    }

    #[test]
    fn bytes_are_those_of_the_abi() {
        let bytes = encode(&[(b"a", b"bc"), (b"d", b"")]);
        assert_eq!(bytes, b"\x02\0\0\0\x01\0\0\0\x02\0\0\0\x01\0\0\0\0\0\0\0a\0bc\0d\0\0");
    }

    #[test]
    fn what_was_written_reads_back() {
        let bytes = encode(MAP);
        let pairs = Pairs::decode(&bytes).unwrap();
        assert_eq!(pairs.len(), MAP.len());
        assert_eq!(pairs.iter().collect::<Vec<_>>(), MAP);
        assert!(Pairs::decode(b"").unwrap().is_empty());
        assert!(Pairs::decode(b"\0\0\0\0").unwrap().is_empty());
    }

    #[test]
    fn any_cut_any_surplus_and_any_wrong_nul_is_malformed() {
        let bytes = encode(MAP);
        for end in 1..bytes.len() {
            assert!(Pairs::decode(&bytes[..end]).is_err(), "cut at {end}");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(Pairs::decode(&longer).is_err());
        let table = 4 + MAP.len() * 8;
        let mut at = table;
        for (name, value) in MAP {
            for nul in [at + name.len(), at + name.len() + 1 + value.len()] {
                let mut wrong = bytes.clone();
                wrong[nul] = b'!';
                assert!(Pairs::decode(&wrong).is_err(), "NUL at {nul}");
            }
            at += name.len() + value.len() + 2;
        }
    }

    #[test]
    fn lengths_that_lie_are_malformed() {
        let bytes = encode(MAP);
        for field in 0..1 + MAP.len() * 2 {
            for value in [u32::MAX, u32::MAX - 1, 1 << 31, 1 << 20] {
                let mut wrong = bytes.clone();
                wrong[field * 4..field * 4 + 4].copy_from_slice(&value.to_le_bytes());
                assert!(Pairs::decode(&wrong).is_err(), "field {field} = {value}");
            }
        }
    }

    #[test]
    fn limits_are_exact() {
        let pair: (&[u8], &[u8]) = (b"a", b"b");
        let (most, more) = (encode(&vec![pair; MAX_PAIRS]), encode(&vec![pair; MAX_PAIRS + 1]));
        assert_eq!(Pairs::decode(&most).unwrap().len(), MAX_PAIRS);
        assert!(Pairs::decode(&more).is_err());
        assert_eq!(
            [&most[..], &more, b"", b"junk!", &[0xff; 64]].map(Pairs::are_too_many),
            [false, true, false, false, false]
        );
        let value = vec![b'v'; MAX_PAIRS_BYTES - 4 - Encoder::pair_len(b"a", b"")];
        assert!(Pairs::decode(&encode(&[(b"a", &value)])).is_ok());
        let value = vec![b'v'; value.len() + 1];
        assert!(Pairs::decode(&encode(&[(b"a", &value)])).is_err());
    }

    #[test]
    fn a_block_of_the_wrong_size_is_never_overrun() {
        let mut block = [0; 4 + 8 + 3];
        let mut encoder = Encoder::new(&mut block, 1).unwrap();
        assert!(!encoder.push(b"ab", b""));
        assert!(!encoder.is_complete());
        assert!(Encoder::new(&mut [0; 11], 1).is_none());
        assert!(Encoder::new(&mut [0; 3], 0).is_none());
    }
}
