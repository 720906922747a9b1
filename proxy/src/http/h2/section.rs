//! Heads and trailers out of field sections and into them (RFC 9113 sections 8.2 and 8.3).

use std::borrow::Cow;

use bytes::BytesMut;
use http::header::{self, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery};
use http::{Method, StatusCode};

use super::hpack::{Decoder, Encoder, Garbled, Line};
use crate::fault::{Fault, Reason};
use crate::http::Fields;
use crate::http::head::{RequestHead, ResponseHead, Version};
use crate::http::rules::{self, MAX_FIELDS, MAX_HEAD_BYTES, MAX_TARGET_BYTES};

/// What is wrong with a message.
#[derive(Debug)]
pub(super) enum Broken {
    /// It is none (RFC 9113 section 8.1.1): its stream is reset.
    Malformed(&'static str),
    /// It can be answered with what is wrong.
    Refused(Fault),
    /// Over a limit, in bytes or in lines.
    TooLarge,
}

/// The lines of a section by what they are.
#[derive(Debug, Default)]
pub(super) struct Parts {
    authority: Option<Authority>,
    path: Option<PathAndQuery>,
    method: Option<Method>,
    https: Option<bool>,
    status: Option<StatusCode>,
    headers: Fields,
    fields: usize,
    size: usize,
    broken: Option<Broken>,
}

impl Parts {
    /// Reads a section. What is wrong with it as a message is told when it is asked for as one.
    ///
    /// # Errors
    /// If it cannot be decoded: then no later one can.
    pub(super) fn read(decoder: &mut Decoder, block: &[u8]) -> Result<Parts, Garbled> {
        let mut parts = Parts::default();
        decoder.decode(block, |line| {
            parts.size += line.size();
            if parts.size > MAX_HEAD_BYTES {
                parts.broken = Some(Broken::TooLarge);
                parts.headers.clear();
            }
            if parts.broken.is_none() {
                parts.broken = parts.add(line).err();
            }
        })?;
        Ok(parts)
    }

    fn add(&mut self, line: Cow<'_, Line>) -> Result<(), Broken> {
        const MALFORMED: Broken = Broken::Malformed("a line that no message may contain");
        if let Line::Field(..) = *line {
            self.fields += 1;
            if self.fields > MAX_FIELDS {
                return Err(Broken::TooLarge);
            }
            let Line::Field(name, value) = line.into_owned() else { return Err(MALFORMED) };
            self.headers.append(name, value);
            return Ok(());
        }
        if self.fields > 0 {
            return Err(Broken::Malformed("a pseudo-header after a field"));
        }
        let twice = match line.into_owned() {
            Line::Authority(authority) => self.authority.replace(authority).is_some(),
            Line::Method(method) => self.method.replace(method).is_some(),
            Line::Path(path) => self.path.replace(path).is_some(),
            Line::Scheme(https) => self.https.replace(https).is_some(),
            Line::Status(status) => self.status.replace(status).is_some(),
            Line::Field(..) | Line::Malformed(..) => return Err(MALFORMED),
        };
        if twice { Err(Broken::Malformed("the same pseudo-header twice")) } else { Ok(()) }
    }

    /// As the head of a request.
    ///
    /// # Errors
    /// If it is none, or too large.
    pub(super) fn request(mut self) -> Result<RequestHead, Broken> {
        if let Some(broken) = self.broken.take() {
            return Err(broken);
        }
        rules::check_fields(&self.headers, Reason::HttpRequestError).map_err(|_| CONNECTION_FIELD)?;
        let Parts { authority, path, method: Some(method), https, status: None, mut headers, .. } = self else {
            return Err(OF_ANOTHER_KIND);
        };
        let connect = method == Method::CONNECT;
        // RFC 9113 section 8.5: CONNECT says neither scheme nor path.
        let (path, https) = match (path, https) {
            (Some(path), Some(https)) if !connect => (path, https),
            (None, None) if connect => (PathAndQuery::from_static("/"), false),
            _ => return Err(Broken::Malformed("a scheme or path that does not fit the method, or none")),
        };
        let refused = |why: &'static str| Broken::Refused(Fault::new(Reason::HttpRequestError).detail(why));
        if path.as_str() == "*" && method != Method::OPTIONS {
            return Err(refused("a :path that does not fit the method"));
        }
        if path.as_str().len() > MAX_TARGET_BYTES {
            return Err(Broken::Refused(Fault::new(Reason::UriTooLong)));
        }
        // RFC 9113 section 8.3.1: they may both be there if they agree.
        let host = rules::take_host(&mut headers).map_err(refused)?;
        let authority = match (authority, host) {
            (Some(authority), Some(host)) if !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) => {
                return Err(refused("host and :authority differ"));
            }
            (Some(authority), _) => authority,
            (None, Some(host)) => {
                Authority::try_from(host.as_bytes()).map_err(|_| refused("a host that is not a host"))?
            }
            (None, None) => return Err(refused("neither :authority nor host")),
        };
        if authority.as_str().contains('@') {
            return Err(Broken::Malformed("user information in the authority"));
        }
        let (authority, version) = (Some(authority), Version::Http2);
        Ok(RequestHead { method, authority, path, https, headers, version, upgrade: None })
    }

    /// As the head of a response.
    ///
    /// # Errors
    /// As for [`Parts::request`].
    pub(super) fn response(mut self) -> Result<ResponseHead, Broken> {
        if let Some(broken) = self.broken.take() {
            return Err(broken);
        }
        rules::check_fields(&self.headers, Reason::HttpProtocolError).map_err(|_| CONNECTION_FIELD)?;
        let Parts { authority: None, path: None, method: None, https: None, status: Some(status), headers, .. } = self
        else {
            return Err(OF_ANOTHER_KIND);
        };
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Broken::Malformed("status 101, which HTTP/2 does not have"));
        }
        Ok(ResponseHead { status, headers, upgrade: None })
    }

    /// As trailers.
    ///
    /// # Errors
    /// As for [`Parts::request`].
    pub(super) fn trailers(mut self) -> Result<Fields, Broken> {
        if let Some(broken) = self.broken.take() {
            return Err(broken);
        }
        rules::check_fields(&self.headers, Reason::HttpRequestError).map_err(|_| CONNECTION_FIELD)?;
        match self {
            Parts { authority: None, path: None, method: None, https: None, status: None, headers, .. } => Ok(headers),
            _ => Err(OF_ANOTHER_KIND),
        }
    }
}

const CONNECTION_FIELD: Broken = Broken::Malformed("a field that belongs to a connection");
const OF_ANOTHER_KIND: Broken = Broken::Malformed("pseudo-headers of another kind of message, or none");

/// Writes the head of a request; without scheme and path for CONNECT (RFC 9113 section 8.5).
pub(super) fn write_request(head: &RequestHead, encoder: &mut Encoder, out: &mut BytesMut) {
    encoder.begin(out);
    match head.method {
        Method::GET => Encoder::indexed(out, 2),
        Method::POST => Encoder::indexed(out, 3),
        _ => encoder.line(out, b":method", head.method.as_str().as_bytes(), false),
    }
    if head.method != Method::CONNECT {
        Encoder::indexed(out, if head.https { 7 } else { 6 });
        match head.path.as_str() {
            "/" => Encoder::indexed(out, 4),
            path => encoder.line(out, b":path", path.as_bytes(), false),
        }
    }
    if let Some(authority) = &head.authority {
        encoder.line(out, b":authority", authority.as_str().as_bytes(), false);
    }
    write_fields(&head.headers, encoder, out);
}

/// Writes the head of a response.
pub(super) fn write_response(head: &ResponseHead, encoder: &mut Encoder, out: &mut BytesMut) {
    encoder.begin(out);
    match head.status.as_u16() {
        200 => Encoder::indexed(out, 8),
        204 => Encoder::indexed(out, 9),
        304 => Encoder::indexed(out, 11),
        404 => Encoder::indexed(out, 13),
        _ => encoder.line(out, b":status", head.status.as_str().as_bytes(), false),
    }
    write_fields(&head.headers, encoder, out);
}

/// Writes trailers.
pub(super) fn write_trailers(trailers: &Fields, encoder: &mut Encoder, out: &mut BytesMut) {
    encoder.begin(out);
    write_fields(trailers, encoder, out);
}

fn write_fields(headers: &Fields, encoder: &mut Encoder, out: &mut BytesMut) {
    for (name, value) in headers {
        encoder.line(out, name.as_str().as_bytes(), value.as_bytes(), is_secret(name, value));
    }
}

/// Whether a line may stand in no table: who can have requests of his own sent on the same link could else guess it, and see
/// by the length whether he was right (RFC 7541 section 7.1).
fn is_secret(name: &HeaderName, value: &HeaderValue) -> bool {
    value.is_sensitive()
        || *name == header::AUTHORIZATION
        || *name == header::COOKIE
        || *name == header::SET_COOKIE
        || *name == header::PROXY_AUTHORIZATION
}

/// What passes can be said again, and is not called two kinds of message.
pub(super) fn fuzz(input: &[u8]) {
    let read = |block: &[u8]| Parts::read(&mut Decoder::default(), block).ok();
    let [Some(one), Some(two), Some(three)] = [read(input), read(input), read(input)] else { return };
    let (request, response, trailers) = (one.request(), two.response(), three.trailers());
    assert!(u8::from(request.is_ok()) + u8::from(response.is_ok()) + u8::from(trailers.is_ok()) <= 1);
    let (mut encoder, mut out) = (Encoder::default(), BytesMut::new());
    if let Ok(head) = request {
        write_request(&head, &mut encoder, &mut out);
        let again = read(&out).and_then(|parts| parts.request().ok());
        assert!(again.is_some_and(|again| again.headers == head.headers && again.path == head.path));
    } else if let Ok(head) = response {
        write_response(&head, &mut encoder, &mut out);
        let again = read(&out).and_then(|parts| parts.response().ok());
        assert!(again.is_some_and(|again| again.headers == head.headers && again.status == head.status));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: (&str, &str) = (":method", "GET");
    const ROOT: (&str, &str) = (":path", "/");
    const HTTPS: (&str, &str) = (":scheme", "https");
    const AUTHORITY: (&str, &str) = (":authority", "a");
    const OK: (&str, &str) = (":status", "200");
    const FIELD: (&str, &str) = ("x-field", "1");

    fn parts(lines: &[(&str, &str)]) -> Parts {
        let (mut encoder, mut out) = (Encoder::default(), BytesMut::new());
        lines.iter().for_each(|(name, value)| encoder.line(&mut out, name.as_bytes(), value.as_bytes(), false));
        Parts::read(&mut Decoder::default(), &out).expect("a section of ours")
    }

    #[test]
    fn heads_as_they_should_be() {
        let head = parts(&[GET, HTTPS, AUTHORITY, (":path", "/b?c"), FIELD, ("host", "A"), FIELD]).request().unwrap();
        assert_eq!((head.host(), head.path.as_str(), head.https), ("a", "/b?c", true));
        assert_eq!((head.method, head.headers.len()), (Method::GET, 2));
        let head = parts(&[GET, (":scheme", "HTTP"), ROOT, ("host", "a:8")]).request().unwrap();
        assert_eq!((head.authority.unwrap().as_str(), head.https, head.headers.len()), ("a:8", false, 0));
        assert!(parts(&[(":method", "OPTIONS"), HTTPS, AUTHORITY, (":path", "*")]).request().is_ok());
        let head = parts(&[(":method", "CONNECT"), AUTHORITY]).request().unwrap();
        assert_eq!((head.host(), head.path.as_str()), ("a", "/"));
        let head = parts(&[OK, FIELD]).response().unwrap();
        assert_eq!((head.status.as_u16(), head.headers.len()), (200, 1));
        assert_eq!(parts(&[FIELD]).trailers().unwrap().len(), 1);
    }

    #[test]
    fn what_is_malformed() {
        let requests: &[&[(&str, &str)]] = &[
            &[HTTPS, AUTHORITY, ROOT],
            &[GET, AUTHORITY, ROOT],
            &[GET, HTTPS, AUTHORITY],
            &[GET, GET, HTTPS, AUTHORITY, ROOT],
            &[GET, HTTPS, AUTHORITY, FIELD, ROOT],
            &[GET, HTTPS, AUTHORITY, ROOT, OK],
            &[GET, HTTPS, AUTHORITY, ROOT, (":protocol", "websocket")],
            &[GET, HTTPS, AUTHORITY, ROOT, (":", "")],
            &[GET, HTTPS, (":authority", ""), ROOT],
            &[GET, HTTPS, (":authority", "user@a"), ROOT],
            &[GET, HTTPS, ROOT, ("host", "user@a")],
            &[GET, HTTPS, AUTHORITY, (":path", "x")],
            &[GET, HTTPS, AUTHORITY, (":path", "")],
            &[GET, (":scheme", "ftp"), AUTHORITY, ROOT],
            &[(":method", "G T"), HTTPS, AUTHORITY, ROOT],
            &[GET, HTTPS, AUTHORITY, ROOT, ("X-Field", "1")],
            &[GET, HTTPS, AUTHORITY, ROOT, ("", "1")],
            &[GET, HTTPS, AUTHORITY, ROOT, ("x-field", "a\r\nb")],
            &[GET, HTTPS, AUTHORITY, ROOT, ("x-field", " a")],
            &[GET, HTTPS, AUTHORITY, ROOT, ("x-field", "a\t")],
            &[GET, HTTPS, AUTHORITY, ROOT, ("connection", "close")],
            &[GET, HTTPS, AUTHORITY, ROOT, ("te", "gzip")],
            &[(":method", "CONNECT"), HTTPS, AUTHORITY, ROOT],
            &[FIELD],
        ];
        for lines in requests {
            assert!(matches!(parts(lines).request(), Err(Broken::Malformed(_))), "{lines:?}");
        }
        let responses: &[&[(&str, &str)]] =
            &[&[OK, OK], &[OK, ROOT], &[FIELD], &[FIELD, OK], &[(":status", "20")], &[(":status", "101")]];
        for lines in responses {
            assert!(matches!(parts(lines).response(), Err(Broken::Malformed(_))), "{lines:?}");
        }
        for lines in [&[FIELD, OK][..], &[OK], &[("te", "gzip")]] {
            assert!(matches!(parts(lines).trailers(), Err(Broken::Malformed(_))), "{lines:?}");
        }
        for lines in [
            &[GET, HTTPS, ROOT][..],
            &[GET, HTTPS, AUTHORITY, ROOT, ("host", "b")],
            &[GET, HTTPS, ROOT, ("host", "a b")],
            &[GET, HTTPS, ROOT, ("host", "a"), ("host", "b")],
            &[GET, HTTPS, AUTHORITY, ROOT, ("host", "a"), ("host", "b")],
        ] {
            assert!(matches!(parts(lines).request(), Err(Broken::Refused(_))), "{lines:?}");
        }
    }

    #[test]
    fn size_and_number_of_fields_are_limited() {
        let many = |n| parts(&[vec![OK], vec![FIELD; n]].concat()).response();
        assert!(many(MAX_FIELDS).is_ok());
        assert!(matches!(many(MAX_FIELDS + 1), Err(Broken::TooLarge)));
        let large = |n: usize| parts(&[OK, ("x-large", &"v".repeat(n))]).response();
        let most = MAX_HEAD_BYTES - (7 + 3 + 32) - (7 + 32);
        assert!(large(most).is_ok());
        assert!(matches!(large(most + 1), Err(Broken::TooLarge)));
    }

    #[test]
    fn any_noise_is_survived() {
        let (mut encoder, mut whole) = (Encoder::default(), BytesMut::new());
        for (name, value) in [GET, HTTPS, AUTHORITY, ROOT, FIELD, ("host", "a")] {
            encoder.line(&mut whole, name.as_bytes(), value.as_bytes(), false);
        }
        (0..=whole.len()).for_each(|end| fuzz(&whole[..end]));
        let mut noise = fastrand::Rng::with_seed(3);
        for _ in 0..20_000 {
            let mut bytes = whole.to_vec();
            for _ in 0..noise.usize(1..4) {
                let place = noise.usize(..bytes.len());
                bytes[place] = noise.u8(..);
            }
            fuzz(&bytes);
        }
    }
}
