//! Header maps: access that never panics, whatever the peer sent.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use std::rc::Rc;

use crate::backend::{Backend, Half, Host, Map};
use crate::run::Exchange;

/// The headers or the trailers of a request or a response. Names are matched without regard to case. The pseudo-headers `:method`,
/// `:scheme`, `:authority` and `:path` of a request and `:status` of a response are part of the map; `host` is
/// `:authority`.
///
/// They can be reached as long as the message is held. A head goes on when the method returns, and before that with the
/// first [`chunk`](crate::Request::chunk): from then on it reads as empty, and changes are refused.
pub struct Headers {
    map: Map,
    /// Of whose message they are; none in the log phase, where all can be read.
    of: Option<(Rc<Exchange>, Half)>,
}

impl Headers {
    pub(crate) fn head(exchange: &Rc<Exchange>, half: Half) -> Self {
        Self { map: half.head(), of: Some((Rc::clone(exchange), half)) }
    }

    pub(crate) fn trailers(exchange: &Rc<Exchange>, half: Half) -> Self {
        Self { map: half.trailers(), of: Some((Rc::clone(exchange), half)) }
    }

    /// Of an exchange that is over.
    pub(crate) fn past(half: Half) -> Self {
        Self { map: half.head(), of: None }
    }

    /// Hosts may end a filter that asks for a map that they do not show.
    fn is_shown(&self) -> bool {
        let Some((exchange, half)) = &self.of else { return true };
        let way = exchange.way(*half).borrow();
        match self.map {
            Map::Request | Map::Response => way.shows_head(),
            Map::RequestTrailers | Map::ResponseTrailers => way.shows_trailers(),
        }
    }

    fn check(&self, name: &str, value: &[u8]) -> Result<(), InvalidHeader> {
        check(self.map, name, value)?;
        match self.is_shown() {
            true => Ok(()),
            false => Err(InvalidHeader { name: name.to_owned(), part: "place (the message has gone on already)" }),
        }
    }

    /// The first value of a header.
    pub fn get(&self, name: &str) -> Option<Value> {
        if self.is_shown() { Host::header(self.map, name).map(Value) } else { None }
    }

    /// Whether a header is there, be it empty.
    pub fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// All headers in their order, pseudo-headers included. Copies the whole map: prefer [`Headers::get`].
    pub fn all(&self) -> Vec<(String, Value)> {
        if !self.is_shown() {
            return Vec::new();
        }
        Host::headers(self.map).into_iter().map(|(name, value)| (name, Value(value))).collect()
    }

    /// Replaces all values of a header by one.
    ///
    /// # Errors
    ///
    /// [`InvalidHeader`] if the name or the value cannot stand in an HTTP message, or the message has gone on; the map is
    /// unchanged.
    pub fn set(&mut self, name: &str, value: impl AsRef<[u8]>) -> Result<(), InvalidHeader> {
        self.check(name, value.as_ref())?;
        Host::set_header(self.map, name, value.as_ref());
        Ok(())
    }

    /// Adds a value to a header.
    ///
    /// # Errors
    ///
    /// As [`Headers::set`], and for a pseudo-header, of which there is always one.
    pub fn append(&mut self, name: &str, value: impl AsRef<[u8]>) -> Result<(), InvalidHeader> {
        self.check(name, value.as_ref())?;
        if name.starts_with(':') {
            return Err(InvalidHeader { name: name.to_owned(), part: "name (a pseudo-header has one value)" });
        }
        Host::append_header(self.map, name, value.as_ref());
        Ok(())
    }

    /// Removes all values of a header. A pseudo-header stays, because a message without it is none.
    pub fn remove(&mut self, name: &str) {
        if !name.starts_with(':') && self.is_shown() {
            Host::remove_header(self.map, name);
        }
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.all()).finish()
    }
}

/// The value of a header: bytes, most often text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value(pub(crate) Vec<u8>);

impl Value {
    /// The bytes as they came.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The value as text; absent if it is not UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// The value as text in which U+FFFD stands for what is not UTF-8.
    pub fn to_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }

    /// The value read as a number or the like; absent if it is not one. Spaces around it are ignored.
    pub fn parse<T: FromStr>(&self) -> Option<T> {
        self.as_str()?.trim().parse().ok()
    }
}

impl AsRef<[u8]> for Value {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl PartialEq<str> for Value {
    fn eq(&self, other: &str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl PartialEq<&str> for Value {
    fn eq(&self, other: &&str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_text())
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_text(), f)
    }
}

/// A header that cannot stand in an HTTP message. As a [`crate::Reply`] it is 500, with the detail in the log only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidHeader {
    name: String,
    part: &'static str,
}

impl fmt::Display for InvalidHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "header \"{}\" has an invalid {}", self.name.as_bytes().escape_ascii(), self.part)
    }
}

impl std::error::Error for InvalidHeader {}

/// Whether `name` can be the name of a header (RFC 9110 section 5.6.2), pseudo-headers aside. For filters that take a
/// name from their configuration.
pub fn is_header_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(is_token)
}

/// Whether `value` can be the value of a header (RFC 9110 section 5.5): no control characters but tab, and no white
/// space around it.
pub fn is_header_value(value: &[u8]) -> bool {
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    value.iter().all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f))
        && !blank(value.first())
        && !blank(value.last())
}

/// Proxies differ in what they do with a header that breaks the message around it; so it never reaches one.
fn check(map: Map, name: &str, value: &[u8]) -> Result<(), InvalidHeader> {
    let valid = match (map, name) {
        (Map::Request, ":method") => !value.is_empty() && value.iter().copied().all(is_token),
        (Map::Request, ":scheme" | ":authority" | ":path") => {
            !value.is_empty() && value.iter().all(u8::is_ascii_graphic)
        }
        (Map::Response, ":status") => value.len() == 3 && value.iter().all(u8::is_ascii_digit) && value[0] >= b'2',
        _ if is_header_name(name) => is_header_value(value),
        _ => return Err(InvalidHeader { name: name.to_owned(), part: "name" }),
    };
    if valid { Ok(()) } else { Err(InvalidHeader { name: name.to_owned(), part: "value" }) }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_that_break_a_message_are_refused() {
        let ok = |map, name, value: &str| check(map, name, value.as_bytes()).is_ok();
        assert!(ok(Map::Request, "x-a", "b"));
        assert!(ok(Map::Request, "X-A", ""));
        assert!(ok(Map::Request, "x-a", "b\tc\u{e9}"));
        for value in ["b\r\nc: d", "b\0", " b", "b\t", "\x7f"] {
            assert!(!ok(Map::Request, "x-a", value), "{value:?}");
        }
        for name in ["", "x a", "x:a", "x\n", "\u{e9}", ":status", ":protocol"] {
            assert!(!ok(Map::Request, name, "b"), "{name:?}");
        }
        assert!(ok(Map::Request, ":path", "/a?b=c"));
        assert!(!ok(Map::Request, ":path", "/a b"));
        assert!(!ok(Map::Request, ":path", ""));
        assert!(!ok(Map::Request, ":method", "GET /"));
        assert!(ok(Map::Response, ":status", "204"));
        for status in ["99", "101", "20a", "2000", ""] {
            assert!(!ok(Map::Response, ":status", status), "{status:?}");
        }
        assert!(!ok(Map::Response, ":path", "/"));
    }

    #[test]
    fn a_value_need_not_be_text() {
        let value = Value(vec![b'a', 0xff]);
        assert_eq!(value.as_str(), None);
        assert_eq!(value.to_text(), "a\u{fffd}");
        assert_eq!(value.parse::<u32>(), None);
        assert_eq!(Value(b" 12 ".to_vec()).parse(), Some(12));
        assert_eq!(Value(b"a".to_vec()), "a");
    }
}
