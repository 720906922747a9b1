//! The answer of a filter in place of a response.

use crate::headers::{InvalidHeader, is_header_name, is_header_value};

/// Most headers of a reply: as many as Lacis sends of a filter's head.
const MOST_HEADERS: usize = 1000;

/// Most bytes of its headers, each with its lengths and ends as it crosses to the proxy: of more than a mebibyte Envoy sends none.
const MOST_BYTES: usize = 1_000_000;
const OVERHEAD: usize = 10;

/// An answer that the filter gives itself. `Err(reply)` sends it, and `?` turns any error into one for which the
/// filter says how: `impl From<MyError> for Reply`.
///
/// A gRPC caller gets it as a gRPC status; the proxy translates.
///
/// ```
/// use lacis_sdk::Reply;
/// let reply = Reply::new(403).header("x-reason", "tenant").body("this tenant is blocked\n");
/// assert_eq!((reply.status(), reply.header_value("X-Reason")), (403, Some("tenant")));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Reply {
    /// A reply without headers and body. A status that cannot end an exchange (outside 200 to 599) becomes 500.
    pub fn new(status: u16) -> Self {
        if (200..=599).contains(&status) {
            return Self { status, headers: Vec::new(), body: Vec::new() };
        }
        crate::error!("a reply cannot have status {status}; it is sent as 500");
        Self::new(500)
    }

    /// Adds a header. One that cannot stand in a message is left out, and so is what would be more than 1,000 headers or a
    /// megabyte of them; the log says so.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let size = |(name, value): (&str, &str)| name.len() + value.len() + OVERHEAD;
        if !(is_header_name(name) && is_header_value(value.as_bytes())) {
            crate::error!("a reply cannot have the header {name:?} with the value {value:?}; it is left out");
        } else if self.headers.len() == MOST_HEADERS
            || self.headers().map(size).sum::<usize>() + size((name, value)) > MOST_BYTES
        {
            crate::error!(
                "a reply cannot have more than {MOST_HEADERS} headers, or than {MOST_BYTES} bytes of them; {name:?} is left out"
            );
        } else {
            self.headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// Sets the body; its type is `text/plain` unless a header says otherwise. A status that allows no body (204, 304)
    /// is sent without it.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Its status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The first value of a header of it.
    pub fn header_value(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// All its headers.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Its body as it is sent.
    pub fn content(&self) -> &[u8] {
        // Envoy writes a body after these heads all the same, and the caller reads it as the next response.
        if matches!(self.status, 204 | 304) { &[] } else { &self.body }
    }
}

impl From<InvalidHeader> for Reply {
    fn from(error: InvalidHeader) -> Self {
        crate::error!("{error}");
        Self::new(500)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_always_one_that_a_caller_can_read() {
        for (given, sent) in [(199, 500), (200, 200), (599, 599), (600, 500), (0, 500)] {
            assert_eq!(Reply::new(given).status(), sent);
        }
        assert_eq!(Reply::new(204).body("x").content(), b"");
        assert_eq!(Reply::new(200).body("x").content(), b"x");
        let reply = Reply::new(200).header("a", "b\r\nc: d").header("a b", "c").header("d", "e");
        assert_eq!(reply.headers().collect::<Vec<_>>(), [("d", "e")]);
        let many = (0..=MOST_HEADERS).fold(Reply::new(200), |reply, n| reply.header(&format!("x-{n}"), "v"));
        assert_eq!((many.headers().count(), many.header_value("x-999")), (MOST_HEADERS, Some("v")));
        let value = |bytes: usize| "v".repeat(bytes - OVERHEAD - 1);
        let large = |bytes| Reply::new(200).header("a", &value(1000)).header("b", &value(bytes)).headers().count();
        assert_eq!([MOST_BYTES - 1000, MOST_BYTES - 999].map(large), [2, 1]);
    }
}
