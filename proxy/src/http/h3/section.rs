//! Heads and trailers as field sections, and back (RFC 9114 sections 4.2 and 4.3).

use bytes::Bytes;
use http::header::HeaderValue;
use http::uri::{Authority, PathAndQuery};
use http::{Method, StatusCode};

use super::Broken;
use super::qpack::{Lines, Name, Section};
use crate::fault::Reason;
use crate::http::Fields;
use crate::http::head::{RequestHead, ResponseHead, Version};
use crate::http::rules::{self, MAX_FIELDS, MAX_HEAD_BYTES, MAX_TRAILER_BYTES};

/// The head of a request.
///
/// # Errors
/// `Malformed` if it is none, `TooLarge`, or `Garbled`.
pub(super) fn request(section: Bytes) -> Result<RequestHead, Broken> {
    let Parts { authority, path, method, scheme, status: None, mut headers } = Parts::read(section, MAX_HEAD_BYTES)?
    else {
        return Err(OF_ANOTHER_KIND);
    };
    rules::check_fields(&headers, Reason::HttpRequestError).map_err(|_| CONNECTION_FIELD)?;
    let method = Method::from_bytes(&method.ok_or(OF_ANOTHER_KIND)?).map_err(|_| Broken::Malformed("no method"))?;
    let connect = method == Method::CONNECT;
    let authority = match (authority, rules::take_host(&mut headers).map_err(Broken::Malformed)?) {
        (Some(authority), Some(host)) if authority != host.as_bytes() => {
            return Err(Broken::Malformed("a host that is not the authority"));
        }
        (Some(authority), _) => Authority::from_maybe_shared(authority),
        (None, Some(host)) if !connect => Authority::try_from(host.as_bytes()),
        (None, _) => return Err(Broken::Malformed("a request without authority")),
    };
    let authority = authority.map_err(|_| Broken::Malformed("an authority that is none"))?;
    if authority.as_str().contains('@') {
        return Err(Broken::Malformed("user information in the authority"));
    }
    let https = match &scheme {
        None => connect,
        Some(scheme) => scheme.eq_ignore_ascii_case(b"https"),
    };
    let spoken = https || scheme.as_ref().is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"http"));
    if !spoken || connect != scheme.is_none() {
        return Err(Broken::Malformed("a scheme that is not spoken here, or none"));
    }
    let path = match path {
        Some(path) if !connect => PathAndQuery::from_maybe_shared(path)
            .ok()
            .filter(|path| path.as_str().starts_with('/') || path == "*" && method == Method::OPTIONS),
        None if connect => Some(PathAndQuery::from_static("/")),
        _ => None,
    };
    let path = path.ok_or(Broken::Malformed("a path that does not fit the method, or none"))?;
    let (authority, version) = (Some(authority), Version::Http3);
    Ok(RequestHead { method, authority, path, https, headers, version, upgrade: None })
}

/// The head of a response.
///
/// # Errors
/// As for [`request`].
pub(super) fn response(section: Bytes) -> Result<ResponseHead, Broken> {
    let Parts { authority: None, path: None, method: None, scheme: None, status: Some(status), headers } =
        Parts::read(section, MAX_HEAD_BYTES)?
    else {
        return Err(OF_ANOTHER_KIND);
    };
    rules::check_fields(&headers, Reason::HttpProtocolError).map_err(|_| CONNECTION_FIELD)?;
    match StatusCode::from_bytes(&status) {
        Ok(StatusCode::SWITCHING_PROTOCOLS) => Err(Broken::Malformed("status 101, which HTTP/3 does not have")),
        Ok(status) => Ok(ResponseHead { status, headers, upgrade: None }),
        Err(_) => Err(Broken::Malformed("a status that is none")),
    }
}

/// Trailers. `malformed` is what it is called if they are.
///
/// # Errors
/// As for [`request`].
pub(super) fn trailers(section: Bytes, malformed: Reason) -> Result<Fields, Broken> {
    let Parts { authority: None, path: None, method: None, scheme: None, status: None, mut headers } =
        Parts::read(section, MAX_TRAILER_BYTES)?
    else {
        return Err(OF_ANOTHER_KIND);
    };
    rules::check_fields(&headers, malformed).map_err(|_| CONNECTION_FIELD)?;
    rules::clean_trailers(&mut headers);
    Ok(headers)
}

const CONNECTION_FIELD: Broken = Broken::Malformed("a field that belongs to a connection");
const OF_ANOTHER_KIND: Broken = Broken::Malformed("pseudo-headers of another kind of message, or none");

/// The lines of a section by what they are.
#[derive(Default)]
struct Parts {
    authority: Option<Bytes>,
    path: Option<Bytes>,
    method: Option<Bytes>,
    scheme: Option<Bytes>,
    status: Option<Bytes>,
    headers: Fields,
}

impl Parts {
    /// Reads them: pseudo-headers are known ones, each once and not empty, all before the first field (RFC 9114 section 4.3);
    /// not more than [`MAX_FIELDS`] fields.
    fn read(section: Bytes, limit: usize) -> Result<Parts, Broken> {
        let (mut lines, mut parts, mut fields) = (Lines::new(section, limit)?, Parts::default(), 0);
        while let Some((name, value)) = lines.read()? {
            if rules::is_padded(&value) {
                return Err(Broken::Malformed("a value that begins or ends with white space"));
            }
            if name.bytes().first() != Some(&b':') {
                fields += 1;
                if fields > MAX_FIELDS {
                    return Err(Broken::TooLarge);
                }
                let name = name.field().ok_or(Broken::Malformed("a field name that is none"))?;
                let value = HeaderValue::from_maybe_shared(value);
                parts.headers.append(name, value.map_err(|_| Broken::Malformed("a field value that is none"))?);
                continue;
            }
            if fields > 0 {
                return Err(Broken::Malformed("a pseudo-header after a field"));
            }
            if value.is_empty() {
                return Err(Broken::Malformed("an empty pseudo-header"));
            }
            let place = parts.pseudo(&name).ok_or(Broken::Malformed("an unknown pseudo-header"))?;
            if place.replace(value).is_some() {
                return Err(Broken::Malformed("the same pseudo-header twice"));
            }
        }
        Ok(parts)
    }

    fn pseudo(&mut self, name: &Name) -> Option<&mut Option<Bytes>> {
        match name.bytes() {
            b":authority" => Some(&mut self.authority),
            b":path" => Some(&mut self.path),
            b":method" => Some(&mut self.method),
            b":scheme" => Some(&mut self.scheme),
            b":status" => Some(&mut self.status),
            _ => None,
        }
    }
}

/// Writes the head of a request; without scheme and path for CONNECT (RFC 9114 section 4.4).
pub(super) fn write_request(head: &RequestHead, section: &mut Section) {
    section.line(":method", head.method.as_str().as_bytes());
    if head.method != Method::CONNECT {
        section.line(":scheme", if head.https { b"https" } else { b"http" });
    }
    if let Some(authority) = &head.authority {
        section.line(":authority", authority.as_str().as_bytes());
    }
    if head.method != Method::CONNECT {
        section.line(":path", head.path.as_str().as_bytes());
    }
    write_fields(&head.headers, section);
}

/// Writes the head of a response.
pub(super) fn write_response(head: &ResponseHead, section: &mut Section) {
    section.line(":status", head.status.as_str().as_bytes());
    write_fields(&head.headers, section);
}

/// Writes fields.
pub(super) fn write_fields(headers: &Fields, section: &mut Section) {
    headers.iter().for_each(|(name, value)| section.line(name.as_str(), value.as_bytes()));
}

/// Any bytes are told apart, what passes is not called two kinds of message, and what passes can be said again.
pub(super) fn fuzz(input: &[u8]) {
    let input = Bytes::copy_from_slice(input);
    let (request, response) = (request(input.clone()), response(input.clone()));
    let trailers = trailers(input, Reason::HttpRequestError);
    assert!(u8::from(request.is_ok()) + u8::from(response.is_ok()) + u8::from(trailers.is_ok()) <= 1);
    let mut section = Section::default();
    section.begin();
    if let Ok(head) = request {
        write_request(&head, &mut section);
        // Host has become the authority: the same or shorter.
        assert!(
            self::request(Bytes::copy_from_slice(section.bytes())).is_ok_and(|again| again.headers == head.headers)
        );
    } else if let Ok(head) = response {
        write_response(&head, &mut section);
        assert!(
            self::response(Bytes::copy_from_slice(section.bytes())).is_ok_and(|again| again.headers == head.headers)
        );
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

    fn section(lines: &[(&str, &str)]) -> Bytes {
        let mut section = Section::default();
        section.begin();
        lines.iter().for_each(|(name, value)| section.line(name, value.as_bytes()));
        Bytes::copy_from_slice(section.bytes())
    }

    fn asked(lines: &[(&str, &str)]) -> Result<RequestHead, Broken> {
        request(section(lines))
    }

    #[test]
    fn heads_as_they_should_be() {
        let head = asked(&[GET, HTTPS, AUTHORITY, (":path", "/b?c"), FIELD, ("host", "a"), FIELD]).unwrap();
        assert_eq!((head.host(), head.path.as_str(), head.https), ("a", "/b?c", true));
        assert_eq!((head.method, head.headers.len()), (Method::GET, 2));
        assert!(asked(&[GET, ("host", "a:8")]).is_err(), "neither scheme nor path");
        let head = asked(&[GET, (":scheme", "HTTP"), ROOT, ("host", "a:8")]).unwrap();
        assert_eq!((head.authority.unwrap().as_str(), head.https, head.headers.len()), ("a:8", false, 0));
        assert!(asked(&[(":method", "OPTIONS"), HTTPS, AUTHORITY, (":path", "*")]).is_ok());
        let head = asked(&[(":method", "CONNECT"), AUTHORITY]).unwrap();
        assert_eq!((head.host(), head.path.as_str()), ("a", "/"));
        let head = response(section(&[OK, FIELD])).unwrap();
        assert_eq!((head.status.as_u16(), head.headers.len()), (200, 1));
        let late =
            trailers(section(&[FIELD, ("content-length", "5"), ("host", "a")]), Reason::HttpRequestError).unwrap();
        assert_eq!(late.len(), 1, "what belongs into a head is left out");
    }

    #[test]
    fn what_is_malformed() {
        type Cases<'a> = &'a [&'a [(&'a str, &'a str)]];
        let ways: [(&dyn Fn(Bytes) -> bool, Cases<'_>); 3] = [
            (
                &|section| matches!(request(section), Err(Broken::Malformed(_))),
                &[
                    &[HTTPS, AUTHORITY, ROOT],
                    &[GET, AUTHORITY, ROOT],
                    &[GET, HTTPS, ROOT],
                    &[GET, HTTPS, AUTHORITY],
                    &[GET, GET, HTTPS, AUTHORITY, ROOT],
                    &[GET, (":method", "PUT"), HTTPS, AUTHORITY, ROOT],
                    &[GET, HTTPS, AUTHORITY, FIELD, ROOT],
                    &[GET, HTTPS, AUTHORITY, ROOT, OK],
                    &[GET, HTTPS, AUTHORITY, ROOT, (":protocol", "websocket")],
                    &[GET, HTTPS, AUTHORITY, ROOT, (":", "")],
                    &[GET, HTTPS, (":authority", ""), ROOT],
                    &[GET, HTTPS, (":authority", "user@a"), ROOT],
                    &[GET, HTTPS, (":authority", "a b"), ROOT],
                    &[GET, HTTPS, AUTHORITY, (":path", "x")],
                    &[GET, HTTPS, AUTHORITY, (":path", "*")],
                    &[GET, (":scheme", "ftp"), AUTHORITY, ROOT],
                    &[("g e t", "GET")],
                    &[(":method", "G T"), HTTPS, AUTHORITY, ROOT],
                    &[GET, HTTPS, AUTHORITY, ROOT, ("host", "b")],
                    &[GET, HTTPS, AUTHORITY, ROOT, ("host", "a"), ("host", "a")],
                    &[GET, HTTPS, AUTHORITY, ROOT, ("X-Field", "1")],
                    &[GET, HTTPS, AUTHORITY, ROOT, ("", "1")],
                    &[GET, HTTPS, AUTHORITY, ROOT, ("x-field", "a\r\nb")],
                    &[GET, HTTPS, AUTHORITY, ROOT, ("x-field", " a")],
                    &[GET, HTTPS, AUTHORITY, ROOT, ("x-field", "a\t")],
                    &[GET, HTTPS, AUTHORITY, ROOT, ("connection", "close")],
                    &[(":method", "CONNECT"), HTTPS, AUTHORITY, ROOT],
                    &[(":method", "CONNECT"), ("host", "a")],
                    &[FIELD],
                ],
            ),
            (
                &|section| matches!(response(section), Err(Broken::Malformed(_))),
                &[&[OK, OK], &[OK, ROOT], &[FIELD], &[FIELD, OK], &[(":status", "20")], &[(":status", "101")]],
            ),
            (
                &|section| matches!(trailers(section, Reason::HttpRequestError), Err(Broken::Malformed(_))),
                &[&[FIELD, OK], &[OK], &[("te", "gzip")]],
            ),
        ];
        for (is_malformed, cases) in ways {
            cases.iter().for_each(|lines| assert!(is_malformed(section(lines)), "{lines:?}"));
        }
    }

    #[test]
    fn the_number_of_fields_is_limited() {
        let lines = |n| section(&[vec![OK], vec![FIELD; n]].concat());
        assert!(response(lines(MAX_FIELDS)).is_ok());
        assert!(matches!(response(lines(MAX_FIELDS + 1)), Err(Broken::TooLarge)));
    }

    #[test]
    fn any_noise_is_survived() {
        let whole = section(&[GET, HTTPS, AUTHORITY, ROOT, FIELD, ("host", "a")]);
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
