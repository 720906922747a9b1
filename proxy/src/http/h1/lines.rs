//! The lines of a head, taken apart in one pass and without a copy (RFC 9112 sections 2 to 5). As strict as httparse, and
//! stricter: each line ends in CRLF. The tests hold one against the other.

use std::ops::Range;

use crate::http::text::{plain, text};

/// Why lines are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Bad {
    /// So far they may be some.
    #[error("the head ends early")]
    Partial,
    #[error("invalid token")]
    Token,
    #[error("invalid HTTP version")]
    Version,
    #[error("invalid response status")]
    Status,
    #[error("invalid header name")]
    Name,
    #[error("invalid header value")]
    Value,
    #[error("invalid new line")]
    NewLine,
    /// More fields than a reader takes.
    #[error("too many headers")]
    TooMany,
}

/// A field: its name is a token, its value has no space around it and no control characters but tabs.
#[derive(Debug, PartialEq)]
pub(super) struct Field<'a> {
    pub(super) name: &'a [u8],
    /// Where its value is in what is read.
    pub(super) value: Range<usize>,
}

/// What is read, and how far it was.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    input: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(input: &'a [u8]) -> Self {
        Reader { input, at: 0 }
    }

    /// How much was read.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Method, where the target is (text without spaces and control characters), and minor version.
    pub(super) fn request_line(&mut self) -> Result<(&'a [u8], Range<usize>, u8), Bad> {
        let method = self.token();
        match self.next()? {
            b' ' if !method.is_empty() => {}
            _ => return Err(Bad::Token),
        }
        let from = self.at;
        self.at += plain::<b'!'>(self.rest());
        let target = from..self.at;
        match self.next()? {
            b' ' if std::str::from_utf8(self.input.get(target.clone()).unwrap_or_default())
                .is_ok_and(|t| !t.is_empty()) => {}
            _ => return Err(Bad::Token),
        }
        let minor = self.version()?;
        self.new_line(Bad::NewLine)?;
        Ok((method, target, minor))
    }

    /// Passes over an empty line.
    pub(super) fn skip_empty(&mut self) {
        if self.rest().starts_with(b"\r\n") {
            self.at += 2;
        }
    }

    /// Status and minor version. The reason may be missing, and the space before it.
    pub(super) fn status_line(&mut self) -> Result<(u16, u8), Bad> {
        let minor = self.version()?;
        if self.next()? != b' ' {
            return Err(Bad::Version);
        }
        let mut status = 0;
        for _ in 0..3 {
            match self.next()? {
                digit @ b'0'..=b'9' => status = 10 * status + u16::from(digit - b'0'),
                _ => return Err(Bad::Status),
            }
        }
        if self.rest().first() == Some(&b' ') {
            self.at += 1;
            self.text();
        }
        self.new_line(Bad::Status)?;
        Ok((status, minor))
    }

    /// The next field; `None` after the empty line that is the end.
    #[inline]
    pub(super) fn field(&mut self) -> Result<Option<Field<'a>>, Bad> {
        let name = self.token();
        match self.next()? {
            b':' if !name.is_empty() => {}
            b'\r' if name.is_empty() => {
                return if self.next()? == b'\n' { Ok(None) } else { Err(Bad::NewLine) };
            }
            _ => return Err(Bad::Name),
        }
        while matches!(self.rest().first(), Some(b' ' | b'\t')) {
            self.at += 1;
        }
        let (from, text) = (self.at, self.text());
        self.new_line(Bad::Value)?;
        let padding = text.iter().rev().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        Ok(Some(Field { name, value: from..from + text.len() - padding }))
    }

    fn rest(&self) -> &'a [u8] {
        self.input.get(self.at..).unwrap_or_default()
    }

    fn next(&mut self) -> Result<u8, Bad> {
        let next = *self.input.get(self.at).ok_or(Bad::Partial)?;
        self.at += 1;
        Ok(next)
    }

    fn token(&mut self) -> &'a [u8] {
        let rest = self.rest();
        let length = rest.iter().position(|&byte| !TOKEN[usize::from(byte)]).unwrap_or(rest.len());
        self.at += length;
        rest.get(..length).unwrap_or_default()
    }

    /// Visible bytes, spaces and tabs, of any character set.
    fn text(&mut self) -> &'a [u8] {
        let rest = self.rest();
        let length = text(rest);
        self.at += length;
        rest.get(..length).unwrap_or_default()
    }

    fn version(&mut self) -> Result<u8, Bad> {
        let rest = self.rest();
        let Some((version, _)) = rest.split_first_chunk::<8>() else {
            return Err(if b"HTTP/1.".starts_with(rest) { Bad::Partial } else { Bad::Version });
        };
        self.at += version.len();
        match version {
            b"HTTP/1.1" => Ok(1),
            b"HTTP/1.0" => Ok(0),
            _ => Err(Bad::Version),
        }
    }

    fn new_line(&mut self, bad: Bad) -> Result<(), Bad> {
        for byte in *b"\r\n" {
            if self.next()? != byte {
                return Err(bad);
            }
        }
        Ok(())
    }
}

/// The bytes of a token (RFC 9110 section 5.6.2).
static TOKEN: [bool; 256] = {
    let mut token = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let is = matches!(byte as u8, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9')
            || matches!(
                byte as u8,
                b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
            );
        token[byte] = is;
        byte += 1;
    }
    token
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::rules::MAX_FIELDS;

    type Fields = Vec<(Vec<u8>, Vec<u8>)>;
    /// First line, fields, and where they end.
    type Read = Result<(String, Fields, usize), bool>;

    fn fields(reader: &mut Reader<'_>) -> Result<Fields, Bad> {
        let mut all = Vec::new();
        while let Some(field) = reader.field()? {
            if all.len() == MAX_FIELDS {
                return Err(Bad::TooMany);
            }
            all.push((field.name.to_vec(), reader.input[field.value].to_vec()));
        }
        Ok(all)
    }

    /// A request, or a response; false is an error, true one that more bytes may mend.
    fn ours(input: &[u8], request: bool) -> Read {
        let mut reader = Reader::new(input);
        let mut read = || {
            let first = if request {
                let (method, target, minor) = reader.request_line()?;
                let [method, target] = [method, &input[target]].map(String::from_utf8_lossy);
                format!("{method} {target} {minor}")
            } else {
                format!("{:?}", reader.status_line()?)
            };
            Ok((first, fields(&mut reader)?))
        };
        let read = read();
        read.map(|(first, fields)| (first, fields, reader.at())).map_err(|bad: Bad| bad == Bad::Partial)
    }

    fn theirs(input: &[u8], request: bool) -> Read {
        let mut headers = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let owned = |headers: &[httparse::Header<'_>]| {
            headers.iter().map(|h| (h.name.as_bytes().to_vec(), h.value.to_vec())).collect::<Fields>()
        };
        // Lines that end in a bare LF, and empty ones before the first, are another's matter.
        let strict = |end: usize| {
            let lf = |at: &usize| input[*at] == b'\n' && (*at == 0 || input[*at - 1] != b'\r');
            !(0..end).any(|at| lf(&at)) && !input.starts_with(b"\r\n")
        };
        let mut read = || {
            if request {
                let mut parsed = httparse::Request::new(&mut headers);
                let status = parsed.parse(input)?;
                let first =
                    || format!("{} {} {}", parsed.method.unwrap(), parsed.path.unwrap(), parsed.version.unwrap());
                Ok::<_, httparse::Error>(
                    status.is_complete().then(|| (first(), owned(parsed.headers), status.unwrap())),
                )
            } else {
                let mut parsed = httparse::Response::new(&mut headers);
                let status = parsed.parse(input)?;
                let first = || format!("{:?}", (parsed.code.unwrap(), parsed.version.unwrap()));
                Ok(status.is_complete().then(|| (first(), owned(parsed.headers), status.unwrap())))
            }
        };
        match read() {
            Ok(Some(read)) if strict(read.2) => Ok(read),
            Ok(Some(_)) => Err(false),
            Ok(None) => Err(true),
            Err(_) => Err(false),
        }
    }

    fn same(input: &[u8]) {
        for request in [true, false] {
            let (ours, theirs) = (ours(input, request), theirs(input, request));
            // What is incomplete, ours may know to be broken before httparse does.
            let early = (ours.as_ref().err(), theirs.as_ref().err()) == (Some(&false), Some(&true));
            assert!(ours == theirs || early, "{:?}: {ours:?}, not {theirs:?}", String::from_utf8_lossy(input));
        }
    }

    /// Bytes of different kinds.
    const BYTES: &[u8] = b"\r\n \t:\0\x7f\x80\xff/.HTP1a-(\x1f\x0b";

    const HEADS: &[&[u8]] = &[
        b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        b"POST /a/b?c=d&e=%20#f HTTP/1.0\r\nHost:b:1\r\nContent-Length:\t 5 \t\r\nX-Empty:\r\nX-Blank: \t \r\n\r\nhello",
        b"M-SEARCH http://[::1]/\xc3\xa9 HTTP/1.1\r\nX: a\tb\xe9\x80 c\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\ndate: Thu, 26 Nov 2026 22:44:23 GMT\r\n\r\n",
        b"HTTP/1.1 404\r\nx:y\r\n\r\n",
        b"HTTP/1.0 503 \tno \xff way \r\nA-very-long-name-that-no-register-holds: and a value that is longer than thirty-two bytes, too\r\n\r\n",
    ];

    #[test]
    fn heads_are_read_as_httparse_reads_them() {
        for head in HEADS {
            (0..=head.len()).for_each(|end| same(&head[..end]));
            for at in 0..head.len() {
                for &byte in BYTES {
                    let mut head = head.to_vec();
                    head[at] = byte;
                    same(&head);
                    head.insert(at, byte);
                    same(&head);
                }
            }
        }
        // Any byte in any kind of place.
        for byte in 0..=255 {
            let with = |parts: &[&[u8]]| same(&parts.join(&byte));
            with(&[b"G", b"ET /long/enough/for/words", b"/ HTTP/1.1\r\nho", b"st: a value of", b"words", b"\r\n\r\n"]);
            with(&[b"GET /long/enough/for/words", b"/ HTTP/1.1\r\n\r\n"]);
            with(&[b"GET / HTTP/1.1\r\nho", b"st: a\r\n\r\n"]);
            with(&[b"GET / HTTP/1.1\r\nhost: a value of", b"words\r\n\r\n"]);
            with(&[b"HTTP/1.1 200 O", b"K\r\n\r\n"]);
        }
        let many = |n: usize| [b"GET / HTTP/1.1\r\n", "a: b\r\n".repeat(n).as_bytes(), b"\r\n"].concat();
        (MAX_FIELDS - 1..=MAX_FIELDS + 1).for_each(|n| same(&many(n)));
        for lead in [&b"\r\n"[..], b"\n", b"\r", b" "] {
            same(&[lead, HEADS[0]].concat());
        }
    }

    /// Pieces of heads, put together by chance, and changed in some places.
    #[test]
    fn and_so_is_what_chance_makes_of_them() {
        let mut chance = fastrand::Rng::with_seed(9112);
        for _ in 0..20_000 {
            let (one, other) = (HEADS[chance.usize(..HEADS.len())], HEADS[chance.usize(..HEADS.len())]);
            let mut head = [&one[..chance.usize(..=one.len())], &other[chance.usize(..=other.len())..]].concat();
            for _ in 0..chance.usize(..4) {
                let at = chance.usize(..=head.len());
                let byte = BYTES[chance.usize(..BYTES.len())];
                match chance.u8(..3) {
                    0 => head.insert(at, byte),
                    1 if at < head.len() => head[at] = byte,
                    _ if at < head.len() => drop(head.remove(at)),
                    _ => {}
                }
            }
            same(&head);
        }
    }
}
