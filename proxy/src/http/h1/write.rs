//! Heads and trailers as HTTP/1.1 has them on the wire: the opposite of `parse.rs`.

use bytes::{BufMut, BytesMut};
use http::Method;
use http::header::{self, HeaderMap};
use http::uri::Authority;

use super::parse::Framing;
use crate::http::head::{RequestHead, ResponseHead};

/// Writes a request head.
pub(super) fn request(out: &mut BytesMut, head: &RequestHead, framing: Framing) {
    let path = head.path.as_str();
    let authority = head.authority.as_ref().map_or("", Authority::as_str);
    out.reserve(head_size(&head.headers) + path.len() + authority.len() + 96);
    put(out, &[head.method.as_str().as_bytes(), b" "]);
    // A path that begins with `?` comes from an absolute-form target without one.
    put(out, &[if path.starts_with('?') { b"/" } else { b"" }, path.as_bytes()]);
    put(out, &[b" HTTP/1.1\r\nhost: ", authority.as_bytes(), b"\r\n"]);
    let asks = framing == Framing::Empty && matches!(head.method, Method::POST | Method::PUT | Method::PATCH);
    if asks && !head.headers.contains_key(header::CONTENT_LENGTH) {
        // RFC 9110 section 8.6: a method that expects content says that there is none.
        put(out, &[b"content-length: 0\r\n"]);
    }
    fields(out, &head.headers, framing);
    if let Some(upgrade) = &head.upgrade {
        put(out, &[b"connection: upgrade\r\nupgrade: ", upgrade.as_bytes(), b"\r\n"]);
    }
    put(out, &[b"\r\n"]);
}

/// Writes a response head. `close` announces the end of the connection.
pub(super) fn response(out: &mut BytesMut, head: &ResponseHead, framing: Framing, close: bool, to_http10: bool) {
    out.reserve(head_size(&head.headers) + 96);
    put(
        out,
        &[
            b"HTTP/1.1 ",
            head.status.as_str().as_bytes(),
            b" ",
            head.status.canonical_reason().unwrap_or("").as_bytes(),
            b"\r\n",
        ],
    );
    fields(out, &head.headers, framing);
    match &head.upgrade {
        Some(upgrade) => put(out, &[b"connection: upgrade\r\nupgrade: ", upgrade.as_bytes(), b"\r\n"]),
        None if close => put(out, &[b"connection: close\r\n"]),
        None if to_http10 => put(out, &[b"connection: keep-alive\r\n"]),
        None => {}
    }
    put(out, &[b"\r\n"]);
}

/// Writes fields, one line each, and those that framing needs.
fn fields(out: &mut BytesMut, headers: &HeaderMap, framing: Framing) {
    for (name, value) in headers {
        if *name != header::COOKIE {
            put(out, &[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
        }
    }
    // Crumbs of HTTP/2 and HTTP/3 are one line in HTTP/1 (RFC 9113 section 8.2.3).
    for (nth, crumb) in headers.get_all(header::COOKIE).iter().enumerate() {
        put(out, &[if nth == 0 { b"cookie: " } else { b"; " }, crumb.as_bytes()]);
    }
    if headers.contains_key(header::COOKIE) {
        put(out, &[b"\r\n"]);
    }
    match framing {
        Framing::Chunked => put(out, &[b"transfer-encoding: chunked\r\n"]),
        Framing::Length(length) if !headers.contains_key(header::CONTENT_LENGTH) => {
            put(out, &[b"content-length: ", itoa::Buffer::new().format(length).as_bytes(), b"\r\n"]);
        }
        Framing::Length(_) | Framing::Empty | Framing::Close | Framing::Tunnel => {}
    }
}

/// Writes a trailer section and its end.
pub(super) fn trailers(out: &mut BytesMut, trailers: &HeaderMap) {
    out.reserve(head_size(trailers) + 2);
    for (name, value) in trailers {
        put(out, &[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
    }
    put(out, &[b"\r\n"]);
}

fn head_size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}

fn put(out: &mut BytesMut, parts: &[&[u8]]) {
    for part in parts {
        out.put_slice(part);
    }
}
