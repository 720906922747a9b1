//! Field sections as lines (RFC 9204 section 4.5), with a dynamic table of capacity 0: each line says itself, or is in the static table.

mod table;

use std::fmt::{self, Debug, Formatter};

use bytes::{Bytes, BytesMut};
use http::HeaderName;

use super::Broken;
use crate::http::huffman;
use crate::http::names;
use table::{Found, TABLE};

/// What a line counts beside its name and value (RFC 9114 section 4.2.2).
const LINE_OVERHEAD: usize = 32;

/// The lines of a section.
pub(super) struct Lines {
    section: Bytes,
    at: usize,
    /// What they may still count.
    room: usize,
    /// For what is in Huffman code.
    decoded: BytesMut,
}

/// The name of a line.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Name {
    /// That of a line of the static table.
    Static(usize),
    /// As it came.
    Literal(Bytes),
}

impl Name {
    /// Its bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Name::Static(index) => TABLE.get(*index).map_or(b"", |(name, _)| name.as_bytes()),
            Name::Literal(name) => name,
        }
    }

    /// As the name of a field, if it can be one: no pseudo-header, no upper case (RFC 9114 section 4.2).
    pub(super) fn field(&self) -> Option<HeaderName> {
        match self {
            Name::Static(index) => table::field(*index).cloned(),
            Name::Literal(name) => names::lower_case(name),
        }
    }
}

impl Debug for Name {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.bytes()))
    }
}

impl Lines {
    /// Begins to read a section that may count so much (RFC 9114 section 4.2.2).
    ///
    /// # Errors
    /// If it needs the dynamic table.
    pub(super) fn new(section: Bytes, limit: usize) -> Result<Self, Broken> {
        let mut lines = Lines { section, at: 0, room: limit, decoded: BytesMut::new() };
        if lines.integer(8)?.1 != 0 {
            return Err(Broken::Garbled("a reference to the dynamic table, which has capacity 0"));
        }
        // Section 4.5.1.2: one before nothing is none.
        if lines.integer(7)?.0 & 1 != 0 {
            return Err(Broken::Garbled("a base below zero"));
        }
        Ok(lines)
    }

    /// The next line; `None` at the end.
    ///
    /// # Errors
    /// `Garbled` if it cannot be decoded, `TooLarge` if the limit is reached.
    pub(super) fn read(&mut self) -> Result<Option<(Name, Bytes)>, Broken> {
        let Some(&first) = self.section.get(self.at) else { return Ok(None) };
        let (name, value) = if first & 0x80 != 0 {
            let index = self.index(6)?;
            let value = TABLE.get(index).map_or("", |(_, value)| value);
            (Name::Static(index), Bytes::from_static(value.as_bytes()))
        } else if first & 0x40 != 0 {
            (Name::Static(self.index(4)?), self.string(7)?)
        } else if first & 0x20 != 0 {
            (Name::Literal(self.string(3)?), self.string(7)?)
        } else {
            return Err(DYNAMIC);
        };
        let size = name.bytes().len() + value.len() + LINE_OVERHEAD;
        self.room = self.room.checked_sub(size).ok_or(Broken::TooLarge)?;
        Ok(Some((name, value)))
    }

    /// An index of the static table.
    fn index(&mut self, prefix: u32) -> Result<usize, Broken> {
        match self.integer(prefix)? {
            (flags, _) if flags & 1 == 0 => Err(DYNAMIC),
            (_, index) if index < TABLE.len() => Ok(index),
            _ => Err(Broken::Garbled("a line that is not in the static table")),
        }
    }

    /// A string whose length has a prefix of this many bits.
    fn string(&mut self, prefix: u32) -> Result<Bytes, Broken> {
        let (flags, length) = self.integer(prefix)?;
        let end = self.at.checked_add(length).filter(|end| *end <= self.section.len()).ok_or(SHORT)?;
        let string = self.at..end;
        self.at = end;
        if flags & 1 == 0 {
            return Ok(self.section.slice(string));
        }
        if self.decoded.capacity() == 0 {
            // All that can come of the rest, in one block.
            self.decoded.reserve((self.section.len() - string.start) * 8 / 5);
        }
        huffman::decode(&self.section[string], &mut self.decoded)
            .ok_or(Broken::Garbled("a Huffman code that is none"))?;
        Ok(self.decoded.split().freeze())
    }

    /// An integer with a prefix of this many bits (RFC 7541 section 5.1), and the bits before the prefix.
    #[inline]
    fn integer(&mut self, prefix: u32) -> Result<(u8, usize), Broken> {
        let first = self.byte()?;
        let mask = 0xff_u8 >> (8 - prefix);
        let (flags, value) = ((u16::from(first) >> prefix) as u8, first & mask);
        match value == mask {
            false => Ok((flags, value.into())),
            true => Ok((flags, self.rest(value.into())?)),
        }
    }

    /// The rest of an integer that does not fit its prefix.
    fn rest(&mut self, mut value: usize) -> Result<usize, Broken> {
        // Four bytes say more than any length that could be met here.
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Broken::Garbled("an integer without end in a field section"))
    }

    fn byte(&mut self) -> Result<u8, Broken> {
        let byte = *self.section.get(self.at).ok_or(SHORT)?;
        self.at += 1;
        Ok(byte)
    }
}

const SHORT: Broken = Broken::Garbled("a field section that ends too early");
const DYNAMIC: Broken = Broken::Garbled("a line that refers to the dynamic table");

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
        self.size += name.len() + value.len() + LINE_OVERHEAD;
        match table::find(name, value) {
            Found::Line(index) => return self.integer(0xc0, 6, index.into()),
            Found::Name(index) => self.integer(0x50, 4, index.into()),
            Found::Nothing => {
                self.integer(0x20, 3, name.len());
                self.bytes.extend_from_slice(name.as_bytes());
            }
        }
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
    let read = |section: Bytes| {
        let mut lines = Lines::new(section, 1 << 16).ok()?;
        let mut found = Vec::new();
        while let Some((name, value)) = lines.read().ok()? {
            found.push((Bytes::copy_from_slice(name.bytes()), value));
        }
        Some(found)
    };
    let Some(lines) = read(Bytes::copy_from_slice(input)) else { return };
    let mut section = Section::default();
    section.begin();
    for (name, value) in &lines {
        let Ok(name) = std::str::from_utf8(name) else { return };
        section.line(name, value);
    }
    assert_eq!(read(Bytes::copy_from_slice(section.bytes())), Some(lines));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(section: &[u8]) -> Result<Vec<(String, String)>, Broken> {
        let mut lines = Lines::new(Bytes::copy_from_slice(section), 1000)?;
        let mut found = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        while let Some((name, value)) = lines.read()? {
            found.push((text(name.bytes()), text(&value)));
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
            assert!(matches!(lines(section), Err(Broken::Garbled(_))), "{why}: {:?}", lines(section));
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
        assert!(matches!(section(1000 - 3 - 31), Err(Broken::TooLarge)));
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
