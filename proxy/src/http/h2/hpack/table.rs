//! The static table (RFC 7541 appendix A), and the dynamic one of a decoder, whose lines are kept as what they mean, so
//! that a line which comes again costs no reading.

use std::collections::VecDeque;
use std::sync::LazyLock;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};

use super::{LINE_OVERHEAD, TABLE_SIZE};
use crate::http::message::{Pseudo, is_padded};
use crate::http::names;
use crate::http::same;

/// Names and values by their index, which begins at 1.
pub(super) const TABLE: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// A line of a field section, understood.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::http::h2) enum Line {
    /// A field.
    Field(HeaderName, HeaderValue),
    /// A pseudo-header.
    Pseudo(Pseudo),
    /// What no message may contain: name and value as they came.
    Malformed(Bytes, Bytes),
}

impl Line {
    /// What a name and a value mean. The value may be of a larger block only if that does not matter.
    pub(super) fn new(name: &LineName, value: &[u8]) -> Line {
        let read = || match name {
            LineName::Field(_) if is_padded(value) => None,
            LineName::Field(name) => HeaderValue::from_bytes(value).ok().map(|value| Line::Field(name.clone(), value)),
            LineName::Pseudo(name) => {
                Pseudo::read(name.as_bytes(), value, || Bytes::copy_from_slice(value)).map(Line::Pseudo)
            }
            LineName::Other(_) => None,
        };
        read().unwrap_or_else(|| {
            let name = match name {
                LineName::Other(name) => name.clone(),
                _ => Bytes::copy_from_slice(name.bytes()),
            };
            Line::Malformed(name, Bytes::copy_from_slice(value))
        })
    }

    /// Its name, for another line.
    pub(super) fn name(&self) -> LineName {
        match self {
            Line::Field(name, _) => LineName::Field(name.clone()),
            Line::Malformed(name, _) => LineName::new(name),
            Line::Pseudo(pseudo) => LineName::Pseudo(pseudo.name()),
        }
    }

    /// The bytes of its name and value.
    pub(in crate::http::h2) fn parts(&self) -> (&[u8], &[u8]) {
        match self {
            Line::Field(name, value) => (name.as_str().as_bytes(), value.as_bytes()),
            Line::Pseudo(pseudo) => (pseudo.name().as_bytes(), pseudo.value()),
            Line::Malformed(name, value) => (name, value),
        }
    }

    /// What it counts (RFC 7541 section 4.1).
    pub(in crate::http::h2) fn size(&self) -> usize {
        let (name, value) = self.parts();
        name.len() + value.len() + LINE_OVERHEAD
    }
}

/// The name of a line.
#[derive(Clone, Debug)]
pub(super) enum LineName {
    Field(HeaderName),
    Pseudo(&'static str),
    /// What is none.
    Other(Bytes),
}

impl LineName {
    pub(super) fn new(name: &[u8]) -> LineName {
        if name.first() == Some(&b':') {
            if let Some(name) = Pseudo::NAMES.into_iter().find(|known| known.as_bytes() == name) {
                return LineName::Pseudo(name);
            }
        } else if let Some(name) = names::lower_case(name) {
            return LineName::Field(name);
        }
        LineName::Other(Bytes::copy_from_slice(name))
    }

    fn bytes(&self) -> &[u8] {
        match self {
            LineName::Field(name) => name.as_str().as_bytes(),
            LineName::Pseudo(name) => name.as_bytes(),
            LineName::Other(name) => name,
        }
    }
}

/// The lines of the static table. Some are no line that a message may contain, only a name for others.
static LINES: LazyLock<Vec<Line>> = LazyLock::new(|| {
    TABLE.iter().map(|(name, value)| Line::new(&LineName::new(name.as_bytes()), value.as_bytes())).collect()
});

/// The dynamic table of a decoder. The newest line is the first.
#[derive(Debug)]
pub(super) struct Dynamic {
    lines: VecDeque<(Line, u16)>,
    size: usize,
    limit: usize,
}

impl Default for Dynamic {
    fn default() -> Self {
        Dynamic { lines: VecDeque::new(), size: 0, limit: TABLE_SIZE }
    }
}

impl Dynamic {
    /// The line with an index of both tables.
    pub(super) fn get(&self, index: usize) -> Option<&Line> {
        let index = index.checked_sub(1)?;
        match index.checked_sub(TABLE.len()) {
            None => LINES.get(index),
            Some(index) => self.lines.get(index).map(|(line, _)| line),
        }
    }

    /// Takes a line in. One that is larger than the table empties it (RFC 7541 section 4.4).
    pub(super) fn insert(&mut self, line: Line, size: usize) {
        self.evict(self.limit.saturating_sub(size));
        if let (true, Ok(size)) = (size <= self.limit, u16::try_from(size)) {
            self.size += usize::from(size);
            self.lines.push_front((line, size));
        }
    }

    /// Changes how much it may count; `false` if that is more than was allowed.
    pub(super) fn resize(&mut self, limit: usize) -> bool {
        if limit > TABLE_SIZE {
            return false;
        }
        self.limit = limit;
        self.evict(limit);
        true
    }

    fn evict(&mut self, limit: usize) {
        while self.size > limit {
            let Some((_, size)) = self.lines.pop_back() else { return };
            self.size -= usize::from(size);
        }
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        self.size
    }
}

/// Places of the table by a hash of name's length and first and last byte; 0 is none.
const PLACES: usize = 256;
static BY_NAME: [[u8; 4]; PLACES] = by_name();

const fn place(name: &[u8]) -> usize {
    let (first, last) = match name {
        [] => (0, 0),
        [first, .., last] => (*first, *last),
        [only] => (*only, *only),
    };
    (name.len() * 31 + first as usize * 7 + last as usize * 3) % PLACES
}

const fn by_name() -> [[u8; 4]; PLACES] {
    let mut places = [[0; 4]; PLACES];
    let mut index = TABLE.len();
    // From the end: what comes first in the table is found for a name that has several lines.
    while index > 0 {
        index -= 1;
        let name = TABLE[index].0.as_bytes();
        if index > 0 && same(TABLE[index - 1].0.as_bytes(), name) {
            continue;
        }
        let row = &mut places[place(name)];
        let mut column = 0;
        while row[column] != 0 {
            column += 1;
        }
        row[column] = index as u8 + 1;
    }
    places
}

/// The first line of the static table with a name; 0 if there is none.
pub(super) fn named(name: &[u8]) -> u8 {
    let found = BY_NAME[place(name)].iter().find(|index| {
        let index = usize::from(**index);
        index == 0 || TABLE[index - 1].0.as_bytes() == name
    });
    found.copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found() {
        for (name, _) in TABLE {
            let first = TABLE.iter().position(|(other, _)| *other == name).unwrap();
            assert_eq!(usize::from(named(name.as_bytes())), first + 1, "{name}");
        }
        for name in ["", "x", "x-nothing", "accepx", ":protocol"] {
            assert_eq!(named(name.as_bytes()), 0, "{name}");
        }
    }

    #[test]
    fn lines_of_the_static_table_mean_what_they_say() {
        for (index, (name, value)) in TABLE.iter().enumerate() {
            assert_eq!(LINES[index].parts(), (name.as_bytes(), value.as_bytes()));
        }
        assert_eq!(LINES[1], Line::Pseudo(Pseudo::Method(http::Method::GET)));
        assert!(matches!(LINES[0], Line::Malformed(..)), "an authority must be said");
        assert!(matches!(LINES[0].name(), LineName::Pseudo(":authority")));
    }
}
