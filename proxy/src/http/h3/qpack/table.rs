//! The static table (RFC 9204 appendix A).

use std::sync::LazyLock;

use http::HeaderName;

use crate::http::same;

/// Names and values by their index.
pub(in super::super) const TABLE: [(&str, &str); 99] = [
    (":authority", ""),
    (":path", "/"),
    ("age", "0"),
    ("content-disposition", ""),
    ("content-length", "0"),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("referer", ""),
    ("set-cookie", ""),
    (":method", "CONNECT"),
    (":method", "DELETE"),
    (":method", "GET"),
    (":method", "HEAD"),
    (":method", "OPTIONS"),
    (":method", "POST"),
    (":method", "PUT"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "103"),
    (":status", "200"),
    (":status", "304"),
    (":status", "404"),
    (":status", "503"),
    ("accept", "*/*"),
    ("accept", "application/dns-message"),
    ("accept-encoding", "gzip, deflate, br"),
    ("accept-ranges", "bytes"),
    ("access-control-allow-headers", "cache-control"),
    ("access-control-allow-headers", "content-type"),
    ("access-control-allow-origin", "*"),
    ("cache-control", "max-age=0"),
    ("cache-control", "max-age=2592000"),
    ("cache-control", "max-age=604800"),
    ("cache-control", "no-cache"),
    ("cache-control", "no-store"),
    ("cache-control", "public, max-age=31536000"),
    ("content-encoding", "br"),
    ("content-encoding", "gzip"),
    ("content-type", "application/dns-message"),
    ("content-type", "application/javascript"),
    ("content-type", "application/json"),
    ("content-type", "application/x-www-form-urlencoded"),
    ("content-type", "image/gif"),
    ("content-type", "image/jpeg"),
    ("content-type", "image/png"),
    ("content-type", "text/css"),
    ("content-type", "text/html; charset=utf-8"),
    ("content-type", "text/plain"),
    ("content-type", "text/plain;charset=utf-8"),
    ("range", "bytes=0-"),
    ("strict-transport-security", "max-age=31536000"),
    ("strict-transport-security", "max-age=31536000; includesubdomains"),
    ("strict-transport-security", "max-age=31536000; includesubdomains; preload"),
    ("vary", "accept-encoding"),
    ("vary", "origin"),
    ("x-content-type-options", "nosniff"),
    ("x-xss-protection", "1; mode=block"),
    (":status", "100"),
    (":status", "204"),
    (":status", "206"),
    (":status", "302"),
    (":status", "400"),
    (":status", "403"),
    (":status", "421"),
    (":status", "425"),
    (":status", "500"),
    ("accept-language", ""),
    ("access-control-allow-credentials", "FALSE"),
    ("access-control-allow-credentials", "TRUE"),
    ("access-control-allow-headers", "*"),
    ("access-control-allow-methods", "get"),
    ("access-control-allow-methods", "get, post, options"),
    ("access-control-allow-methods", "options"),
    ("access-control-expose-headers", "content-length"),
    ("access-control-request-headers", "content-type"),
    ("access-control-request-method", "get"),
    ("access-control-request-method", "post"),
    ("alt-svc", "clear"),
    ("authorization", ""),
    ("content-security-policy", "script-src 'none'; object-src 'none'; base-uri 'none'"),
    ("early-data", "1"),
    ("expect-ct", ""),
    ("forwarded", ""),
    ("if-range", ""),
    ("origin", ""),
    ("purpose", "prefetch"),
    ("server", ""),
    ("timing-allow-origin", "*"),
    ("upgrade-insecure-requests", "1"),
    ("user-agent", ""),
    ("x-forwarded-for", ""),
    ("x-frame-options", "deny"),
    ("x-frame-options", "sameorigin"),
];

/// Lines that need no look-up: those of pseudo-headers, of which the last two are written with other values, too.
pub(in super::super) const GET: u8 = 17;
pub(in super::super) const HTTP: u8 = 22;
pub(in super::super) const HTTPS: u8 = 23;
pub(in super::super) const OK: u8 = 25;
pub(in super::super) const AUTHORITY: u8 = 0;
pub(in super::super) const PATH: u8 = 1;

/// Places of [`PLACES`]: so many that few names meet.
const SIZE: usize = 256;

/// No line.
const NONE: u8 = u8::MAX;

/// The first line of each name, at the place that [`place`] says or after it; and, by the index of a line, the next one with
/// its name.
static PLACES: ([u8; SIZE], [u8; TABLE.len()]) = places();

/// Where to look for a name.
const fn place(name: &[u8]) -> usize {
    match name {
        [] => 0,
        [first, ..] => {
            let (middle, last) = (name[name.len() / 2] as usize, name[name.len() - 1] as usize);
            (name.len() * 7 + *first as usize + middle * 19 + last * 43) % SIZE
        }
    }
}

const fn places() -> ([u8; SIZE], [u8; TABLE.len()]) {
    let (mut first, mut next) = ([NONE; SIZE], [NONE; TABLE.len()]);
    let mut index = 0;
    'lines: while index < TABLE.len() {
        let name = TABLE[index].0.as_bytes();
        let mut at = place(name);
        while first[at] != NONE {
            let mut line = first[at] as usize;
            if same(TABLE[line].0.as_bytes(), name) {
                while next[line] != NONE {
                    line = next[line] as usize;
                }
                next[line] = index as u8;
                index += 1;
                continue 'lines;
            }
            at = (at + 1) % SIZE;
        }
        first[at] = index as u8;
        index += 1;
    }
    (first, next)
}

/// Where a line is in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// All of it.
    Line(u8),
    /// A line with its name.
    Name(u8),
    /// Nowhere.
    Nothing,
}

/// Looks for a line.
pub(super) fn find(name: &str, value: &[u8]) -> Found {
    let (first, next) = &PLACES;
    let mut at = place(name.as_bytes());
    let known = loop {
        match first[at] {
            NONE => return Found::Nothing,
            index if TABLE[usize::from(index)].0 == name => break index,
            _ => at = (at + 1) % SIZE,
        }
    };
    let mut line = known;
    while line != NONE {
        if TABLE[usize::from(line)].1.as_bytes() == value {
            return Found::Line(line);
        }
        line = next[usize::from(line)];
    }
    Found::Name(known)
}

/// The name of a field at an index; none where there is a pseudo-header.
pub(in super::super) fn field(index: usize) -> Option<&'static HeaderName> {
    static NAMES: LazyLock<Vec<Option<HeaderName>>> =
        LazyLock::new(|| TABLE.iter().map(|(name, _)| HeaderName::from_lowercase(name.as_bytes()).ok()).collect());
    NAMES.get(index)?.as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found() {
        for (index, (name, value)) in (0..).zip(TABLE) {
            assert_eq!(find(name, value.as_bytes()), Found::Line(index));
            assert_eq!(field(usize::from(index)).is_none(), name.starts_with(':'), "{name}");
        }
        assert_eq!(find("content-type", b"image/webp"), Found::Name(44));
        assert_eq!(find(":status", b"418"), Found::Name(24));
        assert_eq!(find("x-nothing", b""), Found::Nothing);
        assert_eq!(find("", b""), Found::Nothing);
        assert_eq!(find(&"x".repeat(1000), b""), Found::Nothing);
        assert_eq!(field(99), None);
    }

    #[test]
    fn names_are_where_they_are_looked_for() {
        for (name, _) in TABLE {
            let at = place(name.as_bytes());
            let found = (0..).find(|step| PLACES.0[(at + step) % SIZE] == first(name)).unwrap();
            assert!(found < 4, "{name} is {found} places off");
        }
        fn first(name: &str) -> u8 {
            TABLE.iter().position(|(known, _)| *known == name).unwrap() as u8
        }
    }
}
