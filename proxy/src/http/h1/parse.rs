//! Heads of HTTP/1 messages: read strictly, written plainly.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery};
use http::{Method, StatusCode};

use super::lines::{Bad, Field, Reader};
use crate::fault::{Fault, Reason};
use crate::http::Fields;
use crate::http::body::{Half, Length};
use crate::http::head::{RequestHead, ResponseHead, Shared, Version};
use crate::http::names;
use crate::http::rules::{self, MAX_FIELDS, MAX_HEAD_BYTES, MAX_TARGET_BYTES};

/// How the content of a message is delimited (RFC 9112 section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Empty,
    Length(u64),
    Chunked,
    /// Until the connection ends.
    Close,
    /// The connection is not HTTP any more.
    Tunnel,
}

impl Framing {
    /// Whether only the end of the connection says that this is all.
    pub(super) fn ends_with_connection(self) -> bool {
        matches!(self, Framing::Close | Framing::Tunnel)
    }

    pub(super) fn length(self) -> Length {
        match self {
            Framing::Empty => Length::Known(0),
            Framing::Length(length) => Length::Known(length),
            Framing::Chunked | Framing::Close => Length::Unknown,
            Framing::Tunnel => Length::Tunnel,
        }
    }
}

/// A head and what it says about its connection.
#[derive(Debug)]
pub(super) struct Parsed<H> {
    pub(super) head: H,
    pub(super) framing: Framing,
    /// Whether the connection may carry another message after this one.
    pub(super) keep_alive: bool,
}

/// Finds the end of a section of lines (a head, or trailers): the index after the empty line. `scanned` remembers how far earlier calls came,
/// so that a head that drips in costs no more than one that comes at once.
///
/// # Errors
/// If a line ends in a bare LF: lenient readers and strict ones would see different messages.
pub(super) fn head_end(input: &[u8], scanned: &mut usize) -> Result<Option<usize>, ()> {
    for lf in memchr::memchr_iter(b'\n', &input[*scanned..]) {
        let lf = *scanned + lf;
        if lf == 0 || input[lf - 1] != b'\r' {
            return Err(());
        }
        if lf >= 3 && input[lf - 2] == b'\n' {
            return Ok(Some(lf + 1));
        }
    }
    *scanned = input.len();
    Ok(None)
}

/// Takes a request head from the input if it is all there.
///
/// # Errors
/// If it is malformed, too large, or asks for what is not spoken here.
pub(super) fn request(input: &mut BytesMut, scanned: &mut usize) -> Result<Option<Parsed<Shared<RequestHead>>>, Fault> {
    // RFC 9112 section 2.2: empty lines before a request are ignored.
    while input.starts_with(b"\r\n") {
        let _ = input.split_to(2);
        *scanned = 0;
    }
    let line = |reader: &mut Reader<'_>| {
        let (method, target, minor) = reader.request_line()?;
        Ok((Method::from_bytes(method).map_err(|_| Bad::Token)?, target, minor))
    };
    let Some(((method, target, minor), sorted, bytes)) = head(input, scanned, Half::Request, line)? else {
        return Ok(None);
    };
    let target = bytes.get(target).and_then(|target| std::str::from_utf8(target).ok()).unwrap_or_default();
    if target.len() > MAX_TARGET_BYTES {
        return Err(Fault::new(Reason::UriTooLong));
    }
    let version = if minor == 0 { Version::Http10 } else { Version::Http11 };
    if method == Method::CONNECT {
        return Err(Fault::new(Reason::UnsupportedRequest).detail("the method CONNECT"));
    }
    let (coding, has_length) = (sorted.coding, sorted.has_length);
    let host = sorted.host.clone().map(|host| bytes.slice(host));
    let (headers, connection) = sorted.clean(&bytes).map_err(malformed)?;
    let (https, target_authority, path) = split_target(&bytes, target, &method)?;
    let authority = match (target_authority, host_authority(host, version)?) {
        // RFC 9112 section 3.2.2: an absolute-form target overrides Host.
        (Some(authority), _) => Some(authority),
        (None, host) => host,
    };
    let length = if has_length { rules::content_length(&headers, Reason::HttpRequestError)? } else { None };
    let framing = request_framing(coding, length, version)?;
    let upgrade = connection.upgrade.filter(|_| framing == Framing::Empty && version == Version::Http11);
    let framing = if upgrade.is_some() { Framing::Tunnel } else { framing };
    let keep_alive = match version {
        Version::Http10 => connection.keep_alive && !connection.close,
        _ => !connection.close,
    };
    let head = RequestHead { method, authority, path, https, headers, version, upgrade };
    Ok(Some(Parsed { head: head.into(), framing, keep_alive }))
}

/// Whether a first line is one of HTTP at all, so that only its version is at fault.
fn names_version(head: &[u8]) -> bool {
    let line = head.split(|b| *b == b'\r').next().unwrap_or_default();
    let words: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
    matches!(words.as_slice(), [_, _, version] if version.starts_with(b"HTTP/"))
}

/// Takes a response head from the input if it is all there.
///
/// # Errors
/// If it is malformed or too large.
pub(super) fn response(
    input: &mut BytesMut,
    scanned: &mut usize,
    method: &Method,
) -> Result<Option<Parsed<Shared<ResponseHead>>>, Fault> {
    let garbled = |why: &'static str| Fault::new(Reason::HttpProtocolError).detail(why);
    let line = |reader: &mut Reader<'_>| {
        reader.skip_empty();
        reader.status_line()
    };
    let Some(((code, minor), sorted, bytes)) = head(input, scanned, Half::Response, line)? else { return Ok(None) };
    let status = StatusCode::from_u16(code).map_err(|e| Fault::new(Reason::HttpProtocolError).from(e))?;
    let (coding, has_length) = (sorted.coding, sorted.has_length);
    let (mut headers, connection) = sorted.clean(&bytes).map_err(garbled)?;
    if has_length {
        rules::clean_response(status, &mut headers);
    }
    let switching = status == StatusCode::SWITCHING_PROTOCOLS;
    let head = ResponseHead { status, headers, upgrade: connection.upgrade.filter(|_| switching) };
    let framing = if switching {
        Framing::Tunnel
    } else if head.is_bodiless(method) {
        Framing::Empty
    } else {
        let length = if has_length { rules::content_length(&head.headers, Reason::HttpProtocolError)? } else { None };
        match (coding, length) {
            (Coding::None, None) => Framing::Close,
            (Coding::None, Some(length)) => Framing::Length(length),
            (Coding::Chunked, None) if minor == 1 => Framing::Chunked,
            (Coding::Chunked, Some(_)) => return Err(garbled("both transfer-encoding and content-length")),
            (Coding::Chunked | Coding::Other, _) => return Err(garbled("a transfer coding that was not asked for")),
        }
    };
    let keep_alive = framing != Framing::Close && !connection.close && (minor == 1 || connection.keep_alive);
    Ok(Some(Parsed { head: head.into(), framing, keep_alive }))
}

/// The fields of a trailer section that ends in an empty line.
pub(super) fn fields(bytes: Bytes) -> Result<Fields, Bad> {
    let (mut reader, mut fields) = (Reader::new(&bytes), Fields::unread());
    while let Some(Field { name, value }) = reader.field()? {
        if fields.len() == MAX_FIELDS {
            return Err(Bad::TooMany);
        }
        fields.append_at(names::token(name).ok_or(Bad::Name)?, value);
    }
    if reader.at() < bytes.len() {
        return Err(Bad::Partial);
    }
    fields.keep(bytes);
    Ok(fields)
}

/// Takes a head from the input if it is all there: what its first line says, its fields, and itself.
fn head<F>(
    input: &mut BytesMut,
    scanned: &mut usize,
    half: Half,
    line: impl Fn(&mut Reader<'_>) -> Result<F, Bad>,
) -> Result<Option<(F, Sorted, Bytes)>, Fault> {
    if input.is_empty() {
        return Ok(None);
    }
    let read = |input: &[u8]| {
        let mut reader = Reader::new(input);
        Ok((line(&mut reader)?, Sorted::read(&mut reader, input, half)?, reader.at()))
    };
    // Most come whole, and are looked at once. Of others the end is looked for first, so that one that drips in is not read again and again;
    // and it has to be there before anything is said of them.
    let whole = match *scanned {
        0 => read(input).ok().filter(|(.., end)| *end <= MAX_HEAD_BYTES),
        _ => None,
    };
    let (first, fields, end) = match whole {
        Some(whole) => whole,
        None => {
            let Some(end) = end(input, scanned, half)? else { return Ok(None) };
            let bytes = input.get(..end).unwrap_or_default();
            match read(bytes) {
                Ok((first, fields, read)) if read == end => (first, fields, end),
                Ok(_) => return Err(refused(Bad::Partial, bytes, half)),
                Err(bad) => return Err(refused(bad, bytes, half)),
            }
        }
    };
    *scanned = 0;
    Ok(Some((first, fields, input.split_to(end).freeze())))
}

/// Where a head ends, if that is there.
fn end(input: &[u8], scanned: &mut usize, half: Half) -> Result<Option<usize>, Fault> {
    let (malformed, too_large) = reasons(half);
    let end = head_end(input, scanned).map_err(|()| Fault::new(malformed).detail("a line that ends in a bare LF"))?;
    match end {
        Some(end) if end <= MAX_HEAD_BYTES => Ok(Some(end)),
        None if input.len() <= MAX_HEAD_BYTES => Ok(None),
        // What fills the head without a first line is a target.
        _ if memchr::memchr(b'\n', input).is_none() && half == Half::Request => Err(Fault::new(Reason::UriTooLong)),
        _ => Err(Fault::new(too_large).detail(format!("a head of more than {MAX_HEAD_BYTES} bytes"))),
    }
}

/// What is wrong with a head.
fn refused(bad: Bad, head: &[u8], half: Half) -> Fault {
    let (malformed, too_large) = reasons(half);
    match bad {
        Bad::TooMany => Fault::new(too_large).detail(format!("more than {MAX_FIELDS} fields")),
        Bad::Version if half == Half::Request && names_version(head) => Fault::new(Reason::UnsupportedVersion),
        bad => Fault::new(malformed).from(bad),
    }
}

/// How a head is refused that is malformed, or too large.
fn reasons(half: Half) -> (Reason, Reason) {
    match half {
        Half::Request => (Reason::HttpRequestError, Reason::RequestHeaderSectionSize),
        Half::Response => (Reason::HttpProtocolError, Reason::HttpResponseHeaderSectionSize),
    }
}

/// The fields of a head, sorted as they are read: those that go on, and where the others are, which say something of this
/// connection and of the message on it (RFC 9110 section 7.6.1).
#[derive(Default)]
struct Sorted {
    headers: Fields,
    connection: Vec<Range<usize>>,
    upgrade: Option<Range<usize>>,
    /// Of a request; that of a response means nothing, and goes on.
    host: Option<Range<usize>>,
    /// Several for the host: two readers could go by two of them (RFC 9110 section 7.2).
    hosts: bool,
    /// Whether trailers are taken, if something is said of what is.
    te: Option<bool>,
    coding: Coding,
    /// Whether there is a content-length, which goes on.
    has_length: bool,
}

impl Sorted {
    fn read(reader: &mut Reader<'_>, input: &[u8], half: Half) -> Result<Sorted, Bad> {
        let mut all = Sorted { headers: Fields::unread(), ..Sorted::default() };
        while let Some(Field { name, value: place }) = reader.field()? {
            let name = names::token(name).ok_or(Bad::Name)?;
            let value = || input.get(place.clone()).unwrap_or_default();
            match name.as_str() {
                "host" if half == Half::Request => all.hosts |= all.host.replace(place).is_some(),
                "connection" => all.connection.push(place),
                "upgrade" => all.upgrade = all.upgrade.or(Some(place)),
                "transfer-encoding" => all.coding.add(value()),
                "keep-alive" | "proxy-connection" => {}
                "te" => {
                    let trailers = tokens(value()).any(|token| token.eq_ignore_ascii_case("trailers"));
                    all.te = Some(all.te.unwrap_or(false) || trailers);
                }
                known => {
                    all.has_length |= known == "content-length";
                    all.headers.append_at(name, place);
                }
            }
            // Those that go on, as HTTP/2 and HTTP/3 count them: others are few, or said again and again, which the size of a head bounds.
            if all.headers.len() + usize::from(all.te.is_some()) > MAX_FIELDS {
                return Err(Bad::TooMany);
            }
        }
        Ok(all)
    }

    /// The fields of this head that go on, and what was said of its connection.
    ///
    /// # Errors
    /// If a field says what it may not.
    fn clean(self, bytes: &Bytes) -> Result<(Fields, Connection), &'static str> {
        let Sorted { mut headers, connection: lists, upgrade, hosts, te, .. } = self;
        if hosts {
            return Err("more than one host field");
        }
        headers.keep(bytes.clone());
        // Kept: it holds for the whole path of a gRPC call.
        if te == Some(true) {
            headers.append(header::TE, HeaderValue::from_static("trailers"));
        }
        let mut connection = Connection::default();
        let mut upgrades = false;
        let lists = lists.into_iter().filter_map(|place| bytes.get(place));
        for (nth, token) in lists.flat_map(tokens).enumerate() {
            // Each is looked for among all fields.
            if nth == MAX_FIELDS {
                return Err("a connection field that names too much");
            }
            match token {
                t if t.eq_ignore_ascii_case("close") => connection.close = true,
                t if t.eq_ignore_ascii_case("keep-alive") => connection.keep_alive = true,
                t if t.eq_ignore_ascii_case("upgrade") => upgrades = true,
                // Nobody may have framing, routing or credentials dropped by naming them here.
                t => {
                    if let Ok(name) = HeaderName::from_bytes(t.as_bytes())
                        && !KEPT.contains(&name)
                    {
                        headers.remove(name);
                    }
                }
            }
        }
        let upgrade = upgrade.filter(|_| upgrades).map(|place| bytes.slice(place));
        connection.upgrade = upgrade
            .filter(|value| !tokens(value).any(|t| t.eq_ignore_ascii_case("h2c")))
            .and_then(|value| HeaderValue::from_maybe_shared(value).ok());
        Ok((headers, connection))
    }
}

fn malformed(why: &'static str) -> Fault {
    Fault::new(Reason::HttpRequestError).detail(why)
}

/// What the Connection field said.
#[derive(Default)]
struct Connection {
    close: bool,
    keep_alive: bool,
    upgrade: Option<HeaderValue>,
}

const KEPT: [HeaderName; 6] = [
    header::TRANSFER_ENCODING,
    header::CONTENT_LENGTH,
    header::HOST,
    header::AUTHORIZATION,
    header::TE,
    header::UPGRADE,
];

/// The elements of a list; those of what is not ASCII are none.
fn tokens(value: &[u8]) -> impl Iterator<Item = &str> {
    std::str::from_utf8(value)
        .ok()
        .filter(|text| text.is_ascii())
        .unwrap_or("")
        .split(',')
        .map(str::trim)
        .filter(|t| !t.is_empty())
}

/// What transfer-encoding says.
#[derive(Clone, Copy, Default)]
enum Coding {
    #[default]
    None,
    Chunked,
    /// Something else, or more than once.
    Other,
}

impl Coding {
    /// Another line.
    fn add(&mut self, line: &[u8]) {
        *self = match self {
            Coding::None if line.eq_ignore_ascii_case(b"chunked") => Coding::Chunked,
            _ => Coding::Other,
        };
    }
}

fn request_framing(coding: Coding, length: Option<u64>, version: Version) -> Result<Framing, Fault> {
    Ok(match (coding, length) {
        (Coding::None, None) => Framing::Empty,
        (Coding::None, Some(0)) => Framing::Empty,
        (Coding::None, Some(length)) => Framing::Length(length),
        (Coding::Chunked, None) if version == Version::Http11 => Framing::Chunked,
        (Coding::Chunked | Coding::Other, Some(_)) => {
            return Err(malformed("both transfer-encoding and content-length"));
        }
        (Coding::Chunked, None) => return Err(malformed("transfer-encoding in HTTP/1.0")),
        (Coding::Other, None) => {
            return Err(Fault::new(Reason::UnsupportedRequest).detail("a transfer coding other than chunked"));
        }
    })
}

fn host_authority(host: Option<Bytes>, version: Version) -> Result<Option<Authority>, Fault> {
    match host {
        None if version == Version::Http10 => Ok(None),
        None => Err(malformed("no host field")),
        Some(host) if host.is_empty() => Ok(None),
        Some(host) => authority(host).map(Some),
    }
}

fn authority(bytes: Bytes) -> Result<Authority, Fault> {
    match Authority::from_maybe_shared(bytes) {
        Ok(authority) if rules::is_host(&authority) => Ok(authority),
        _ => Err(malformed("a host that is not a host")),
    }
}

/// The four forms of a target (RFC 9112 section 3.2): scheme is https, authority, path.
fn split_target(
    bytes: &Bytes,
    target: &str,
    method: &Method,
) -> Result<(bool, Option<Authority>, PathAndQuery), Fault> {
    let path = |text: Bytes| {
        let length = text.len();
        let path = PathAndQuery::from_maybe_shared(text).map_err(|e| Fault::new(Reason::HttpRequestError).from(e))?;
        match path.as_str().len() == length {
            true => Ok(path),
            // It would be taken away, and what others make of it is not known.
            false => Err(malformed("a target with a fragment")),
        }
    };
    if target.starts_with('/') {
        return Ok((false, None, path(bytes.slice_ref(target.as_bytes()))?));
    }
    if target == "*" && *method == Method::OPTIONS {
        return Ok((false, None, PathAndQuery::from_static("*")));
    }
    let Some((scheme, rest)) = target.split_once("://") else {
        return Err(malformed("a target that is no path and no URI"));
    };
    let https = match scheme {
        s if s.eq_ignore_ascii_case("http") => false,
        s if s.eq_ignore_ascii_case("https") => true,
        _ => return Err(malformed("a target with a scheme other than http or https")),
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (host, rest) = rest.split_at(end);
    let path = match rest {
        "" if *method == Method::OPTIONS => PathAndQuery::from_static("*"),
        "" => PathAndQuery::from_static("/"),
        // RFC 9112 section 3.2.1. Nobody else writes a path that does not begin so, and not all read it.
        query if query.starts_with('?') => path(format!("/{query}").into())?,
        rest => path(bytes.slice_ref(rest.as_bytes()))?,
    };
    Ok((https, Some(authority(bytes.slice_ref(host.as_bytes()))?), path))
}

pub(super) fn fuzz(input: &[u8]) {
    let mut out = BytesMut::new();
    if let Ok(Some(parsed)) = request(&mut BytesMut::from(input), &mut 0) {
        // What is accepted is written so that a second reader sees the same message, where a line with its length leaves it within the limits.
        let framing = if parsed.framing == Framing::Tunnel { Framing::Empty } else { parsed.framing };
        super::write::request(&mut out, &parsed.head, framing);
        let within = parsed.head.headers.len() < MAX_FIELDS && out.len() <= MAX_HEAD_BYTES;
        let again = request(&mut out, &mut 0);
        assert!(
            !within
                || matches!(again, Ok(Some(again)) if again.head.method == parsed.head.method && again.framing == parsed.framing)
        );
    }
    let _ = response(&mut BytesMut::from(input), &mut 0, &Method::GET);
}

#[cfg(test)]
mod tests;
