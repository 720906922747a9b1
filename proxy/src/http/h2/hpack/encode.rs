//! Writing field sections.
//!
//! A line goes into the table when it is said for the second time within a while: what is different in every message (ids, times, lengths)
//! would only push out what is the same in each. Strings are not Huffman-coded: what repeats is an index anyway, and the code costs both
//! sides more than the bytes that it saves.

use std::collections::VecDeque;
use std::hash::BuildHasher;

use bytes::{BufMut, BytesMut};
use foldhash::fast::RandomState;

use super::table::{TABLE, named};
use super::{LINE_OVERHEAD, TABLE_SIZE};

/// Lines that are remembered by their hash.
const PLACES: usize = 128;

/// The writer of one direction of a connection.
#[derive(Debug)]
pub(in crate::http::h2) struct Encoder {
    /// What is in the table, the oldest first.
    lines: VecDeque<Entry>,
    /// How many lines were ever put in.
    inserted: u32,
    size: usize,
    limit: usize,
    /// Changes of the limit that the peer has not been told of: the smallest since then (RFC 7541 section 4.2).
    told: Option<usize>,
    /// What was said lately, by hash; only made when something is said.
    places: Vec<Place>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Entry {
    text: Box<[u8]>,
    name: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Place {
    hash: u32,
    /// Which of those ever put in it is, from 1; 0 if it was not.
    number: u32,
}

impl Default for Encoder {
    fn default() -> Self {
        Encoder {
            lines: VecDeque::new(),
            inserted: 0,
            size: 0,
            limit: TABLE_SIZE,
            told: None,
            places: Vec::new(),
            hasher: RandomState::default(),
        }
    }
}

impl Encoder {
    /// The peer's table counts at most so much (SETTINGS_HEADER_TABLE_SIZE).
    pub(in crate::http::h2) fn resize(&mut self, limit: usize) {
        let limit = limit.min(TABLE_SIZE);
        if limit != self.limit {
            self.told = Some(self.told.unwrap_or(limit).min(limit));
            self.limit = limit;
            self.evict(limit);
        }
    }

    /// Begins a section.
    pub(in crate::http::h2) fn begin(&mut self, out: &mut BytesMut) {
        if let Some(smallest) = self.told.take() {
            if smallest < self.limit {
                integer(out, 0x20, 5, smallest);
            }
            integer(out, 0x20, 5, self.limit);
        }
    }

    /// Writes a line whose whole is at this index of the static table.
    pub(in crate::http::h2) fn indexed(out: &mut BytesMut, index: u8) {
        out.put_u8(0x80 | index);
    }

    /// Writes a line. A secret one stands in no table, here or further on (RFC 7541 section 7.1.3).
    pub(in crate::http::h2) fn line(&mut self, out: &mut BytesMut, name: &[u8], value: &[u8], secret: bool) {
        let size = name.len() + value.len() + LINE_OVERHEAD;
        if secret || size > self.limit / 4 {
            return literal(out, if secret { 0x10 } else { 0 }, 4, name, value);
        }
        if self.places.is_empty() {
            self.places.resize(PLACES, Place::default());
        }
        let hash = self.hasher.hash_one((name, value)) as u32;
        let place = self.places[hash as usize % PLACES];
        let again = place.hash == hash;
        if again && let Some(age) = self.age(place.number) {
            let entry = &self.lines[self.lines.len() - 1 - age];
            if entry.name == name.len() && entry.text[..entry.name] == *name && entry.text[entry.name..] == *value {
                return integer(out, 0x80, 7, TABLE.len() + 1 + age);
            }
        }
        let number = if again { self.insert(name, value, size) } else { 0 };
        self.places[hash as usize % PLACES] = Place { hash, number };
        match again {
            true => literal(out, 0x40, 6, name, value),
            false => literal(out, 0, 4, name, value),
        }
    }

    /// How many lines were put in after that with this number, if it is still there.
    fn age(&self, number: u32) -> Option<usize> {
        let age = self.inserted.checked_sub(number).filter(|_| number > 0)? as usize;
        (age < self.lines.len()).then_some(age)
    }

    fn insert(&mut self, name: &[u8], value: &[u8], size: usize) -> u32 {
        self.evict(self.limit - size);
        self.lines.push_back(Entry { text: [name, value].concat().into(), name: name.len() });
        self.size += size;
        // After four billion lines the first are found no more, and all is as in the beginning.
        self.inserted = self.inserted.checked_add(1).unwrap_or_else(|| {
            self.places.fill(Place::default());
            1
        });
        self.inserted
    }

    fn evict(&mut self, limit: usize) {
        while self.size > limit {
            let Some(entry) = self.lines.pop_front() else { return };
            self.size -= entry.text.len() + LINE_OVERHEAD;
        }
    }
}

fn literal(out: &mut BytesMut, flags: u8, prefix: u32, name: &[u8], value: &[u8]) {
    let index = named(name);
    integer(out, flags, prefix, index.into());
    if index == 0 {
        integer(out, 0, 7, name.len());
        out.put_slice(name);
    }
    integer(out, 0, 7, value.len());
    out.put_slice(value);
}

fn integer(out: &mut BytesMut, flags: u8, prefix: u32, value: usize) {
    let mask = 0xff_u8 >> (8 - prefix);
    let Some(mut rest) = value.checked_sub(mask.into()) else {
        return out.put_u8(flags | value as u8);
    };
    out.put_u8(flags | mask);
    while rest >= 0x80 {
        out.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}

#[cfg(test)]
mod tests {
    use super::super::Decoder;
    use super::*;

    fn say(encoder: &mut Encoder, lines: &[(&str, &str)]) -> BytesMut {
        let mut out = BytesMut::new();
        encoder.begin(&mut out);
        lines.iter().for_each(|(name, value)| encoder.line(&mut out, name.as_bytes(), value.as_bytes(), false));
        out
    }

    fn hear(decoder: &mut Decoder, block: &[u8]) -> Vec<(String, String)> {
        let mut lines = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        decoder
            .decode(block, |line| {
                let (name, value) = line.parts();
                lines.push((text(name), text(value)));
            })
            .expect("a section of ours");
        lines
    }

    #[test]
    fn what_repeats_becomes_one_byte_and_what_does_not_stays_out() {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        let mut lengths = Vec::new();
        for number in 0..4 {
            let id = format!("id-{number}");
            let lines = [("user-agent", "one/1.0"), ("x-request-id", id.as_str())];
            let block = say(&mut encoder, &lines);
            let expected = lines.map(|(name, value)| (name.to_owned(), value.to_owned()));
            assert_eq!(hear(&mut decoder, &block), expected);
            lengths.push(block.len());
        }
        assert_eq!(lengths[2], 1 + 1 + 1 + 12 + 1 + 4);
        assert_eq!((lengths[3], encoder.lines.len()), (lengths[2], 1));
    }

    #[test]
    fn secrets_are_never_indexed() {
        let mut encoder = Encoder::default();
        for _ in 0..3 {
            let mut out = BytesMut::new();
            encoder.line(&mut out, b"authorization", b"secret", true);
            assert_eq!(&out[..], b"\x1f\x08\x06secret");
        }
        assert!(encoder.lines.is_empty() && encoder.places.is_empty());
    }

    #[test]
    fn a_smaller_table_of_the_peer_is_respected() {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        let lines = [("x-a", "1"), ("x-b", "2")];
        for _ in 0..3 {
            hear(&mut decoder, &say(&mut encoder, &lines));
        }
        encoder.resize(0);
        encoder.resize(10_000);
        let block = say(&mut encoder, &lines);
        assert_eq!(&block[..4], b"\x20\x3f\xe1\x1f", "to nothing, then to all that we have");
        assert_eq!(hear(&mut decoder, &block).len(), 2);
        encoder.resize(0);
        for _ in 0..3 {
            hear(&mut decoder, &say(&mut encoder, &lines));
        }
        assert!(encoder.lines.is_empty());
    }

    /// Whatever is said is heard, by us and by a decoder that we did not write.
    #[test]
    fn any_lines_are_read_as_they_were_written() {
        let mut chance = fastrand::Rng::with_seed(7);
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        let names = ["x-a", "content-type", "server", "x-b", "cookie", "date", "vary"];
        for _ in 0..3000 {
            if chance.u8(..) < 5 {
                encoder.resize(chance.usize(..5000));
            }
            let lines: Vec<(&str, String)> = (0..chance.usize(..8))
                .map(|_| {
                    let most = if chance.bool() { 3 } else { 300 };
                    let value = "v".repeat(chance.usize(..most));
                    (*chance.choice(&names).unwrap(), value)
                })
                .collect();
            let said: Vec<_> = lines.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let heard = hear(&mut decoder, &say(&mut encoder, &said));
            assert!(heard.iter().map(|(name, value)| (name.as_str(), value.as_str())).eq(said));
        }
    }
}
