//! The static table (RFC 9204 appendix A).

use std::sync::LazyLock;

use http::HeaderName;

/// Names and values by their index.
pub(super) const TABLE: [(&str, &str); 99] = [
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

/// Longest name.
const LONGEST: usize = 32;

/// The indices of the table by the length of their names, and where those of a length begin.
static BY_LENGTH: ([u8; TABLE.len()], [u8; LONGEST + 2]) = by_length();

const fn by_length() -> ([u8; TABLE.len()], [u8; LONGEST + 2]) {
    let (mut order, mut begins) = ([0; TABLE.len()], [0; LONGEST + 2]);
    let (mut placed, mut length) = (0, 0);
    while length <= LONGEST {
        begins[length] = placed as u8;
        let mut index = 0;
        while index < TABLE.len() {
            if TABLE[index].0.len() == length {
                order[placed] = index as u8;
                placed += 1;
            }
            index += 1;
        }
        length += 1;
    }
    assert!(placed == TABLE.len(), "a name is longer than the longest");
    begins[LONGEST + 1] = placed as u8;
    (order, begins)
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
    let (order, begins) = &BY_LENGTH;
    let Some([begin, end]) = begins.get(name.len()..name.len() + 2) else { return Found::Nothing };
    let mut found = Found::Nothing;
    for index in &order[usize::from(*begin)..usize::from(*end)] {
        let (known, content) = TABLE[usize::from(*index)];
        if known == name {
            if content.as_bytes() == value {
                return Found::Line(*index);
            }
            if found == Found::Nothing {
                found = Found::Name(*index);
            }
        }
    }
    found
}

/// The name of a field at an index; none where there is a pseudo-header.
pub(super) fn field(index: usize) -> Option<&'static HeaderName> {
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
        assert_eq!(find(&"x".repeat(LONGEST + 1), b""), Found::Nothing);
        assert_eq!(field(99), None);
    }
}
