//! Field sections as lines (RFC 9204 section 4.5), with a dynamic table of capacity 0: each line says itself, or is in the static table.

mod table;

use bytes::{Bytes, BytesMut};

use super::Broken;
use crate::http::huffman;
use table::Found;
pub(super) use table::{AUTHORITY, GET, HTTP, HTTPS, OK, PATH, TABLE, field};

/// What a line counts beside its name and value (RFC 9114 section 4.2.2).
const LINE_OVERHEAD: usize = 32;

/// Why lines cannot be read. Nothing to let go of, so that what checks every byte costs only the check.
#[derive(Clone, Copy, Debug)]
pub(super) enum Flaw {
    /// What is wrong with the code.
    Garbled(&'static str),
    /// They count more than they may.
    TooLarge,
}

impl From<Flaw> for Broken {
    fn from(flaw: Flaw) -> Self {
        match flaw {
            Flaw::Garbled(what) => Broken::Garbled(what),
            Flaw::TooLarge => Broken::TooLarge,
        }
    }
}

/// The lines of a section.
pub(super) struct Lines<'a> {
    rest: &'a [u8],
    /// What they may still count.
    room: usize,
    /// For what is in Huffman code.
    decoded: BytesMut,
}

/// A line.
pub(super) enum Line<'a> {
    /// All of it is in the static table, at this index.
    Static(usize),
    /// Its name is that of a line of the static table.
    Named(usize, Text<'a>),
    /// All of it, as it came.
    Literal(Text<'a>, Text<'a>),
}

/// A name or a value that came in a section.
pub(super) enum Text<'a> {
    /// These bytes of the section.
    Read(&'a [u8]),
    /// What was in Huffman code.
    Decoded(Bytes),
}

impl Text<'_> {
    /// Its bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Text::Read(bytes) => bytes,
            Text::Decoded(bytes) => bytes,
        }
    }
}

impl Line<'_> {
    /// The bytes of name and value.
    pub(super) fn bytes(&self) -> (&[u8], &[u8]) {
        match self {
            Line::Static(index) => {
                let (name, value) = entry(*index);
                (name.as_bytes(), value.as_bytes())
            }
            Line::Named(index, value) => (entry(*index).0.as_bytes(), value.bytes()),
            Line::Literal(name, value) => (name.bytes(), value.bytes()),
        }
    }
}

/// Name and value of a line of the static table; empty ones where there is none.
fn entry(index: usize) -> (&'static str, &'static str) {
    TABLE.get(index).copied().unwrap_or_default()
}

impl<'a> Lines<'a> {
    /// Begins to read a section that may count so much (RFC 9114 section 4.2.2).
    ///
    /// # Errors
    /// If it needs the dynamic table.
    pub(super) fn new(section: &'a [u8], limit: usize) -> Result<Self, Flaw> {
        let mut lines = Lines { rest: section, room: limit, decoded: BytesMut::new() };
        if lines.integer(8)?.1 != 0 {
            return Err(Flaw::Garbled("a reference to the dynamic table, which has capacity 0"));
        }
        // Section 4.5.1.2: one before nothing is none.
        if lines.integer(7)?.0 & 1 != 0 {
            return Err(Flaw::Garbled("a base below zero"));
        }
        Ok(lines)
    }

    /// The next line; `None` at the end.
    ///
    /// # Errors
    /// `Garbled` if it cannot be decoded, `TooLarge` if the limit is reached.
    #[inline]
    pub(super) fn read(&mut self) -> Result<Option<Line<'a>>, Flaw> {
        let Some(first) = self.rest.first() else { return Ok(None) };
        let line = if first & 0x80 != 0 {
            Line::Static(self.index(6)?)
        } else if first & 0x40 != 0 {
            Line::Named(self.index(4)?, self.string(7)?)
        } else if first & 0x20 != 0 {
            Line::Literal(self.string(3)?, self.string(7)?)
        } else {
            return Err(DYNAMIC);
        };
        let (name, value) = line.bytes();
        self.room = self.room.checked_sub(name.len() + value.len() + LINE_OVERHEAD).ok_or(Flaw::TooLarge)?;
        Ok(Some(line))
    }

    /// An index of the static table.
    #[inline]
    fn index(&mut self, prefix: u32) -> Result<usize, Flaw> {
        match self.integer(prefix)? {
            (flags, _) if flags & 1 == 0 => Err(DYNAMIC),
            (_, index) if index < TABLE.len() => Ok(index),
            _ => Err(Flaw::Garbled("a line that is not in the static table")),
        }
    }

    /// A string whose length has a prefix of this many bits.
    #[inline]
    fn string(&mut self, prefix: u32) -> Result<Text<'a>, Flaw> {
        let (flags, length) = self.integer(prefix)?;
        let before = self.rest.len();
        let (string, rest) = self.rest.split_at_checked(length).ok_or(SHORT)?;
        self.rest = rest;
        match flags & 1 == 0 {
            true => Ok(Text::Read(string)),
            false => self.decode(string, before),
        }
    }

    /// A string that is in Huffman code, where so many bytes of the section were left.
    fn decode(&mut self, string: &[u8], left: usize) -> Result<Text<'a>, Flaw> {
        if self.decoded.capacity() == 0 {
            // All that can come of the rest, in one block.
            self.decoded.reserve(left * 8 / 5);
        }
        huffman::decode(string, &mut self.decoded).ok_or(Flaw::Garbled("a Huffman code that is none"))?;
        Ok(Text::Decoded(self.decoded.split().freeze()))
    }

    /// An integer with a prefix of this many bits (RFC 7541 section 5.1), and the bits before the prefix.
    #[inline]
    fn integer(&mut self, prefix: u32) -> Result<(u8, usize), Flaw> {
        let first = self.byte()?;
        let mask = 0xff_u8 >> (8 - prefix);
        let (flags, value) = ((u16::from(first) >> prefix) as u8, first & mask);
        match value == mask {
            false => Ok((flags, value.into())),
            true => Ok((flags, self.rest(value.into())?)),
        }
    }

    /// The rest of an integer that does not fit its prefix.
    fn rest(&mut self, mut value: usize) -> Result<usize, Flaw> {
        // Four bytes say more than any length that could be met here.
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Flaw::Garbled("an integer without end in a field section"))
    }

    #[inline]
    fn byte(&mut self) -> Result<u8, Flaw> {
        let (byte, rest) = self.rest.split_first().ok_or(SHORT)?;
        self.rest = rest;
        Ok(*byte)
    }
}

const SHORT: Flaw = Flaw::Garbled("a field section that ends too early");
const DYNAMIC: Flaw = Flaw::Garbled("a line that refers to the dynamic table");

/// Writes a section.
#[derive(Default)]
pub(super) struct Section {
    bytes: Vec<u8>,
    size: usize,
}

impl Section {
    /// Begins another one, in the same memory.
    pub(super) fn begin(&mut self) {
        self.bytes.clear();
        // Nothing of the dynamic table is needed.
        self.bytes.extend([0, 0]);
        self.size = 0;
    }

    /// Adds a line.
    pub(super) fn line(&mut self, name: &str, value: &[u8]) {
        match table::find(name, value) {
            Found::Line(index) => return self.ready(index),
            Found::Name(index) => self.integer(0x50, 4, index.into()),
            Found::Nothing => {
                self.integer(0x20, 3, name.len());
                self.bytes.extend_from_slice(name.as_bytes());
            }
        }
        self.value(name, value);
    }

    /// Adds the line of the static table that has this index.
    pub(super) fn ready(&mut self, index: u8) {
        let (name, value) = entry(index.into());
        self.size += name.len() + value.len() + LINE_OVERHEAD;
        self.integer(0xc0, 6, index.into());
    }

    /// Adds a line with the name of the one of the static table that has this index.
    pub(super) fn named(&mut self, index: u8, value: &[u8]) {
        self.integer(0x50, 4, index.into());
        self.value(entry(index.into()).0, value);
    }

    /// Adds the value of a line with this name.
    #[inline]
    fn value(&mut self, name: &str, value: &[u8]) {
        self.size += name.len() + value.len() + LINE_OVERHEAD;
        self.integer(0, 7, value.len());
        self.bytes.extend_from_slice(value);
    }

    /// What is written.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What its lines count (RFC 9114 section 4.2.2).
    pub(super) fn size(&self) -> usize {
        self.size
    }

    #[inline]
    fn integer(&mut self, flags: u8, prefix: u32, value: usize) {
        let mask = 0xff_u8 >> (8 - prefix);
        match value.checked_sub(mask.into()) {
            None => self.bytes.push(flags | value as u8),
            Some(rest) => self.rest(flags | mask, rest),
        }
    }

    /// An integer that does not fit its prefix.
    fn rest(&mut self, first: u8, mut rest: usize) {
        self.bytes.push(first);
        while rest >= 0x80 {
            self.bytes.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.bytes.push(rest as u8);
    }
}

/// What can be read can be written, and read again.
pub(super) fn fuzz(input: &[u8]) {
    let read = |section: &[u8]| {
        let mut lines = Lines::new(section, 1 << 16).ok()?;
        let mut found = Vec::new();
        while let Some(line) = lines.read().ok()? {
            let (name, value) = line.bytes();
            found.push((name.to_vec(), value.to_vec()));
        }
        Some(found)
    };
    let Some(lines) = read(input) else { return };
    let mut section = Section::default();
    section.begin();
    for (name, value) in &lines {
        let Ok(name) = std::str::from_utf8(name) else { return };
        section.line(name, value);
    }
    assert_eq!(read(section.bytes()), Some(lines));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(section: &[u8]) -> Result<Vec<(String, String)>, Flaw> {
        let mut lines = Lines::new(section, 1000)?;
        let mut found = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        while let Some(line) = lines.read()? {
            let (name, value) = line.bytes();
            found.push((text(name), text(value)));
        }
        Ok(found)
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    /// RFC 9204 appendix B.1.
    #[test]
    fn the_example_of_the_specification() {
        let section = b"\0\0\x51\x0b/index.html";
        assert_eq!(lines(section).unwrap(), [pair(":path", "/index.html")]);
        let mut written = Section::default();
        written.begin();
        written.line(":path", b"/index.html");
        assert_eq!(written.bytes(), section);
        assert_eq!(written.size(), 5 + 11 + 32);
    }

    #[test]
    fn what_is_known_to_be_in_the_table_is_written_as_what_is_found_there() {
        let section = |write: &dyn Fn(&mut Section)| {
            let mut section = Section::default();
            section.begin();
            write(&mut section);
            (section.bytes().to_vec(), section.size())
        };
        for (index, name, value) in
            [(GET, ":method", "GET"), (HTTP, ":scheme", "http"), (HTTPS, ":scheme", "https"), (OK, ":status", "200")]
        {
            let found = section(&|section| section.line(name, value.as_bytes()));
            assert_eq!(section(&|section| section.ready(index)), found);
        }
        for (index, name) in [(AUTHORITY, ":authority"), (PATH, ":path")] {
            let found = section(&|section| section.line(name, b"/other"));
            assert_eq!(section(&|section| section.named(index, b"/other")), found);
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let long = "v".repeat(500);
        let all =
            [(":method", "GET"), (":status", "418"), ("x-a", ""), ("content-type", "image/png"), ("x-long", &long)];
        let mut section = Section::default();
        for _ in 0..2 {
            section.begin();
            all.iter().for_each(|(name, value)| section.line(name, value.as_bytes()));
            assert_eq!(lines(section.bytes()).unwrap(), all.map(|(name, value)| pair(name, value)));
        }
        assert_eq!(section.bytes()[2], 0xc0 | 17, "a whole line of the table is one byte");
    }

    #[test]
    fn huffman_in_names_and_values() {
        let section =
            b"\0\0\x2f\x01\x25\xa8\x49\xe9\x5b\xa9\x7d\x7f\x89\x25\xa8\x49\xe9\x5b\xb8\xe8\xb4\xbf\x51\x82\x64\x02";
        assert_eq!(lines(section).unwrap(), [pair("custom-key", "custom-value"), pair(":path", "302")]);
    }

    #[test]
    fn what_cannot_be_decoded_is_garbled() {
        for (section, why) in [
            (&b""[..], "no prefix"),
            (b"\x01\0", "an insert count"),
            (b"\0\x80", "a base below zero"),
            (b"\0\0\x80", "an indexed line of the dynamic table"),
            (b"\0\0\x40\0", "a name of the dynamic table"),
            (b"\0\0\x10", "a line after the base"),
            (b"\0\0\x00\0", "a name after the base"),
            (b"\0\0\xff\x24", "the static table has 99 lines"),
            (b"\0\0\x51\x05/a", "a value that is cut"),
            (b"\0\0\x51\x81\x00", "padding that is none"),
            (b"\0\0\x27\xff\xff\xff\xff\xff\xff", "a length without end"),
        ] {
            assert!(matches!(lines(section), Err(Flaw::Garbled(_))), "{why}: {:?}", lines(section));
        }
        assert!(lines(b"\0\0\xff\x23").is_ok(), "the last line of the table");
    }

    #[test]
    fn the_size_is_limited() {
        let section = |length: usize| {
            let mut section = Section::default();
            section.begin();
            section.line("x-a", "v".repeat(length).as_bytes());
            lines(section.bytes())
        };
        assert!(section(1000 - 3 - 32).is_ok());
        assert!(matches!(section(1000 - 3 - 31), Err(Flaw::TooLarge)));
    }

    #[test]
    fn every_cut_and_any_noise_is_survived() {
        let whole =
            b"\0\0\x2f\x01\x25\xa8\x49\xe9\x5b\xa9\x7d\x7f\x89\x25\xa8\x49\xe9\x5b\xb8\xe8\xb4\xbf\x51\x82\x64\x02\xd1";
        (0..=whole.len()).for_each(|end| fuzz(&whole[..end]));
        let mut noise = fastrand::Rng::with_seed(3);
        for _ in 0..20_000 {
            let bytes: Vec<u8> = [0, 0].into_iter().chain((0..noise.usize(..40)).map(|_| noise.u8(..))).collect();
            fuzz(&bytes);
        }
    }
}
