//! Heads and trailers as HTTP/1.1 has them on the wire: the opposite of `parse.rs`.

use bytes::{BufMut, BytesMut};
use http::Method;
use http::header::{self, HeaderName, HeaderValue};
use http::uri::Authority;

use super::parse::Framing;
use crate::http::Fields;
use crate::http::fields::Value;
use crate::http::head::{RequestHead, ResponseHead};

/// Writes a request head.
pub(super) fn request(out: &mut BytesMut, head: &RequestHead, framing: Framing) {
    let path = head.path.as_str();
    let authority = head.authority.as_ref().map_or("", Authority::as_str);
    out.reserve(head_size(&head.headers) + path.len() + authority.len() + 96);
    out.put_slice(head.method.as_str().as_bytes());
    out.put_slice(b" ");
    out.put_slice(path.as_bytes());
    out.put_slice(b" HTTP/1.1\r\nhost: ");
    out.put_slice(authority.as_bytes());
    out.put_slice(b"\r\n");
    let written = fields(out, &head.headers, framing);
    if framing == Framing::Empty && !written.length && matches!(head.method, Method::POST | Method::PUT | Method::PATCH)
    {
        // RFC 9110 section 8.6: a method that expects content says that there is none.
        out.put_slice(b"content-length: 0\r\n");
    }
    if written.te {
        // It is for this hop only, and whoever sends it says so (RFC 9110 section 10.1.4).
        out.put_slice(b"connection: te\r\n");
    }
    if let Some(upgrade) = &head.upgrade {
        upgrades(out, upgrade);
    }
    out.put_slice(b"\r\n");
}

/// Writes a response head. `close` announces the end of the connection.
pub(super) fn response(out: &mut BytesMut, head: &ResponseHead, framing: Framing, close: bool, to_http10: bool) {
    out.reserve(head_size(&head.headers) + 96);
    out.put_slice(b"HTTP/1.1 ");
    out.put_slice(head.status.as_str().as_bytes());
    out.put_slice(b" ");
    out.put_slice(head.status.canonical_reason().unwrap_or("").as_bytes());
    out.put_slice(b"\r\n");
    fields(out, &head.headers, framing);
    match &head.upgrade {
        Some(upgrade) => upgrades(out, upgrade),
        None if close => out.put_slice(b"connection: close\r\n"),
        None if to_http10 => out.put_slice(b"connection: keep-alive\r\n"),
        None => {}
    }
    out.put_slice(b"\r\n");
}

fn upgrades(out: &mut BytesMut, upgrade: &HeaderValue) {
    out.put_slice(b"connection: upgrade\r\nupgrade: ");
    out.put_slice(upgrade.as_bytes());
    out.put_slice(b"\r\n");
}

/// Which were among the fields that were given.
#[derive(Default)]
struct Written {
    length: bool,
    te: bool,
}

/// Writes fields, one line each, and those that framing needs.
fn fields(out: &mut BytesMut, headers: &Fields, framing: Framing) -> Written {
    let (mut written, mut has_cookie) = (Written::default(), false);
    for (name, value) in headers {
        if *name == header::COOKIE {
            has_cookie = true;
            continue;
        }
        written.length |= *name == header::CONTENT_LENGTH;
        written.te |= *name == header::TE;
        line(out, name, value);
    }
    if has_cookie {
        // Crumbs of HTTP/2 and HTTP/3 are one line in HTTP/1 (RFC 9113 section 8.2.3).
        for (nth, crumb) in headers.get_all(header::COOKIE).enumerate() {
            out.put_slice(if nth == 0 { b"cookie: " } else { b"; " });
            out.put_slice(crumb.as_bytes());
        }
        out.put_slice(b"\r\n");
    }
    match framing {
        Framing::Chunked => out.put_slice(b"transfer-encoding: chunked\r\n"),
        Framing::Length(length) if !written.length => {
            out.put_slice(b"content-length: ");
            out.put_slice(itoa::Buffer::new().format(length).as_bytes());
            out.put_slice(b"\r\n");
        }
        Framing::Length(_) | Framing::Empty | Framing::Close | Framing::Tunnel => {}
    }
    written
}

/// Writes a trailer section and its end.
pub(super) fn trailers(out: &mut BytesMut, trailers: &Fields) {
    out.reserve(head_size(trailers) + 2);
    for (name, value) in trailers {
        line(out, name, value);
    }
    out.put_slice(b"\r\n");
}

#[inline]
fn line(out: &mut BytesMut, name: &HeaderName, value: Value<'_>) {
    out.put_slice(name.as_str().as_bytes());
    out.put_slice(b": ");
    out.put_slice(value.as_bytes());
    out.put_slice(b"\r\n");
}

fn head_size(headers: &Fields) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}
