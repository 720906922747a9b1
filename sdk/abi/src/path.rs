//! Paths of properties: segments joined by one NUL.

/// A property path as a guest passed it. The Rust and Go SDKs send segments joined by NUL, the C++ one adds a NUL at
/// the end; both name the same property. Segments may contain dots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Path<'a>(&'a [u8]);

impl<'a> Path<'a> {
    /// Takes the bytes; one NUL at the end is left off.
    pub fn new(bytes: &'a [u8]) -> Path<'a> {
        Path(bytes.strip_suffix(&[0]).unwrap_or(bytes))
    }

    /// The path without its closing NUL: what one compares, and the key under which a property is stored.
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// True when it has no segment at all.
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// First segment and the rest; `request\0headers\0x-user` is `request` and `headers\0x-user`.
    pub fn split(self) -> (&'a [u8], Path<'a>) {
        match self.0.iter().position(|b| *b == 0) {
            Some(at) => (&self.0[..at], Path(&self.0[at + 1..])),
            None => (self.0, Path(&[])),
        }
    }

    /// All segments, in order. The empty path has one, which is empty.
    pub fn segments(self) -> impl Iterator<Item = &'a [u8]> {
        self.0.split(|b| *b == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_closing_nul_is_not_a_segment() {
        for bytes in [&b"request\0headers\0x.user"[..], b"request\0headers\0x.user\0"] {
            let path = Path::new(bytes);
            assert_eq!(path.segments().collect::<Vec<_>>(), [&b"request"[..], b"headers", b"x.user"]);
            let (first, rest) = path.split();
            assert_eq!((first, rest.bytes()), (&b"request"[..], &b"headers\0x.user"[..]));
        }
        assert!(Path::new(b"").is_empty());
        assert!(Path::new(b"\0").is_empty());
        assert_eq!(Path::new(b"\0a").split().0, b"");
        assert_eq!(Path::new(b"a").split(), (&b"a"[..], Path::new(b"")));
    }
}
