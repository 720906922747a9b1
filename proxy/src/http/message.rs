//! Messages out of the lines of field sections: the rules that HTTP/2 and HTTP/3 share (RFC 9113 sections 8.2 and 8.3, RFC 9114
//! sections 4.2 and 4.3). How lines are coded is the versions' own.

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery};
use http::{Method, StatusCode};

use super::Fields;
use super::fields::Value;
use super::head::{RequestHead, ResponseHead, Version};
use super::rules::{self, MAX_FIELDS, MAX_TARGET_BYTES};
use super::text::text;
use crate::fault::{Fault, Reason};

/// What is wrong with a message.
#[derive(Debug)]
pub(super) enum Broken {
    /// It is none (RFC 9113 section 8.1.1, RFC 9114 section 4.1.2): its stream is reset.
    Malformed(&'static str),
    /// It can be answered with what is wrong.
    Refused(Fault),
    /// Over a limit, in bytes or in lines.
    TooLarge,
}

/// A pseudo-header (RFC 9113 section 8.3), understood.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Pseudo {
    /// `:authority`
    Authority(Authority),
    /// `:method`
    Method(Method),
    /// `:path`
    Path(PathAndQuery),
    /// `:scheme`, if it is one that is spoken here: whether it is https.
    Scheme(bool),
    /// `:status`
    Status(StatusCode),
}

impl Pseudo {
    /// Their names.
    pub(super) const NAMES: [&'static str; 5] = [":authority", ":method", ":path", ":scheme", ":status"];

    /// What a name and a value mean; `keep` gives the value where it may stay. `None` if no message may contain them.
    pub(super) fn read(name: &[u8], value: &[u8], keep: impl FnOnce() -> Bytes) -> Option<Pseudo> {
        Some(match name {
            b":authority" => Pseudo::Authority(Authority::from_maybe_shared(keep()).ok()?),
            b":method" => Pseudo::Method(Method::from_bytes(value).ok()?),
            b":path" if value.starts_with(b"/") || value == b"*" => {
                let path = PathAndQuery::from_maybe_shared(keep()).ok()?;
                // What it takes away is a fragment, which no request has.
                Pseudo::Path(Some(path).filter(|path| path.as_str().len() == value.len())?)
            }
            b":scheme" if value.eq_ignore_ascii_case(b"https") => Pseudo::Scheme(true),
            b":scheme" if value.eq_ignore_ascii_case(b"http") => Pseudo::Scheme(false),
            b":status" => Pseudo::Status(StatusCode::from_bytes(value).ok()?),
            _ => return None,
        })
    }

    /// Its name.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Pseudo::Authority(_) => ":authority",
            Pseudo::Method(_) => ":method",
            Pseudo::Path(_) => ":path",
            Pseudo::Scheme(_) => ":scheme",
            Pseudo::Status(_) => ":status",
        }
    }

    /// Its value.
    pub(super) fn value(&self) -> &[u8] {
        match self {
            Pseudo::Authority(authority) => authority.as_str().as_bytes(),
            Pseudo::Method(method) => method.as_str().as_bytes(),
            Pseudo::Path(path) => path.as_str().as_bytes(),
            Pseudo::Scheme(https) => {
                if *https {
                    b"https"
                } else {
                    b"http"
                }
            }
            Pseudo::Status(status) => status.as_str().as_bytes(),
        }
    }
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
}

impl Parts {
    /// None yet of those in a block that was read.
    pub(super) fn of(block: Bytes) -> Self {
        Parts { headers: Fields::of(block, 0), ..Parts::default() }
    }

    /// Takes a field.
    ///
    /// # Errors
    /// If it is one too many, or says something of a connection (RFC 9113 section 8.2.2, RFC 9114 section 4.2).
    pub(super) fn field(&mut self, name: HeaderName, value: HeaderValue) -> Result<(), Broken> {
        self.check(&name, value.as_bytes())?;
        self.headers.append(name, value);
        Ok(())
    }

    /// Takes a field whose value is a part of the block, and can be one ([`is_value`]).
    ///
    /// # Errors
    /// As [`field`](Self::field).
    pub(super) fn field_read(&mut self, name: HeaderName, value: &[u8]) -> Result<(), Broken> {
        self.check(&name, value)?;
        self.headers.append_read(name, value);
        Ok(())
    }

    fn check(&self, name: &HeaderName, value: &[u8]) -> Result<(), Broken> {
        if self.headers.len() == MAX_FIELDS {
            return Err(Broken::TooLarge);
        }
        match name.as_str() {
            "te" if !value.eq_ignore_ascii_case(b"trailers") => {
                Err(Broken::Malformed("a te field that is not \"trailers\""))
            }
            name if rules::is_of_connection(name) => Err(Broken::Malformed("a field that belongs to a connection")),
            _ => Ok(()),
        }
    }

    /// Takes a pseudo-header.
    ///
    /// # Errors
    /// If it comes after a field, or for the second time.
    pub(super) fn pseudo(&mut self, pseudo: Pseudo) -> Result<(), Broken> {
        if !self.headers.is_empty() {
            return Err(Broken::Malformed("a pseudo-header after a field"));
        }
        let twice = match pseudo {
            Pseudo::Authority(authority) => self.authority.replace(authority).is_some(),
            Pseudo::Method(method) => self.method.replace(method).is_some(),
            Pseudo::Path(path) => self.path.replace(path).is_some(),
            Pseudo::Scheme(https) => self.https.replace(https).is_some(),
            Pseudo::Status(status) => self.status.replace(status).is_some(),
        };
        if twice { Err(Broken::Malformed("the same pseudo-header twice")) } else { Ok(()) }
    }

    /// As the head of a request.
    ///
    /// # Errors
    /// If it is none.
    pub(super) fn request(self, version: Version) -> Result<RequestHead, Broken> {
        let Parts { authority, path, method: Some(method), https, status: None, mut headers } = self else {
            return Err(OF_ANOTHER_KIND);
        };
        let connect = method == Method::CONNECT;
        // RFC 9113 section 8.5, RFC 9114 section 4.4: CONNECT says neither scheme nor path.
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
        let authority = match (authority, take_host(&mut headers)?) {
            // They may both be there if they agree.
            (Some(authority), Some(host)) if !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) => {
                return Err(refused("host and :authority differ"));
            }
            (Some(authority), _) => authority,
            (None, Some(host)) if !connect => {
                Authority::try_from(host.as_bytes()).map_err(|_| refused("a host that is not a host"))?
            }
            (None, _) => return Err(refused("neither :authority nor host")),
        };
        if !rules::is_host(&authority) {
            return Err(Broken::Malformed("an authority that is no host and port"));
        }
        let authority = Some(authority);
        Ok(RequestHead { method, authority, path, https, headers, version, upgrade: None })
    }

    /// As the head of a response.
    ///
    /// # Errors
    /// If it is none.
    pub(super) fn response(self) -> Result<ResponseHead, Broken> {
        let Parts { authority: None, path: None, method: None, https: None, status: Some(status), mut headers } = self
        else {
            return Err(OF_ANOTHER_KIND);
        };
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Broken::Malformed("status 101, which only HTTP/1.1 has"));
        }
        rules::clean_response(status, &mut headers);
        Ok(ResponseHead { status, headers, upgrade: None })
    }

    /// As trailers.
    ///
    /// # Errors
    /// If they are none.
    pub(super) fn trailers(self) -> Result<Fields, Broken> {
        let Parts { authority: None, path: None, method: None, https: None, status: None, mut headers } = self else {
            return Err(OF_ANOTHER_KIND);
        };
        rules::clean_trailers(&mut headers);
        Ok(headers)
    }
}

const OF_ANOTHER_KIND: Broken = Broken::Malformed("pseudo-headers of another kind of message, or none");

/// Takes the Host field away: from now on it is known as the authority.
fn take_host(headers: &mut Fields) -> Result<Option<HeaderValue>, Broken> {
    if headers.get_all(header::HOST).nth(1).is_some() {
        // Two readers could go by two of them (RFC 9110 section 7.2).
        return Err(Broken::Refused(Fault::new(Reason::HttpRequestError).detail("more than one host field")));
    }
    let host = headers.get(header::HOST).map(Value::share);
    if host.is_some() {
        headers.remove(header::HOST);
    }
    Ok(host)
}

/// A field's value, if it is one.
pub(super) fn value(bytes: Bytes) -> Option<HeaderValue> {
    match is_padded(&bytes) {
        true => None,
        false => HeaderValue::from_maybe_shared(bytes).ok(),
    }
}

/// Whether a value of a field may be these bytes: those that [`value`] takes.
pub(super) fn is_value(bytes: &[u8]) -> bool {
    !is_padded(bytes) && text(bytes) == bytes.len()
}

/// Whether a value begins or ends with white space, which is of no value (RFC 9113 section 8.2.1): a reader of HTTP/1 would take it away, and
/// see another one than who has checked it.
pub(super) fn is_padded(value: &[u8]) -> bool {
    matches!(value, [b' ' | b'\t', ..] | [.., b' ' | b'\t'])
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::http) const GET: (&str, &str) = (":method", "GET");
    pub(in crate::http) const ROOT: (&str, &str) = (":path", "/");
    pub(in crate::http) const HTTPS: (&str, &str) = (":scheme", "https");
    pub(in crate::http) const AUTHORITY: (&str, &str) = (":authority", "a");
    pub(in crate::http) const OK: (&str, &str) = (":status", "200");
    pub(in crate::http) const FIELD: (&str, &str) = ("x-field", "1");
    const CONNECT: (&str, &str) = (":method", "CONNECT");

    #[test]
    fn bytes_are_a_value_where_they_can_be_made_one() {
        for byte in 0..=u8::MAX {
            // At both ends, and within eight that are looked at together.
            for at in [0, 20, 24, 42] {
                let mut bytes = [b'v'; 43];
                bytes[at] = byte;
                assert_eq!(is_value(&bytes), value(Bytes::copy_from_slice(&bytes)).is_some(), "{byte:#x} at {at}");
            }
        }
        assert!(is_value(b""));
    }

    type Lines<'a> = &'a [(&'a str, &'a str)];

    /// Sections that a version reads, and as what.
    pub(in crate::http) struct Reads {
        pub(in crate::http) request: fn(Lines<'_>) -> Result<RequestHead, Broken>,
        pub(in crate::http) response: fn(Lines<'_>) -> Result<ResponseHead, Broken>,
        pub(in crate::http) trailers: fn(Lines<'_>) -> Result<Fields, Broken>,
    }

    impl Reads {
        /// What every version reads in the same way.
        pub(in crate::http) fn check(&self) {
            self.heads_as_they_should_be();
            self.what_is_malformed();
            self.what_is_refused();
            let many = |n| (self.response)(&[vec![OK], vec![FIELD; n]].concat());
            assert!(many(MAX_FIELDS).is_ok());
            assert!(matches!(many(MAX_FIELDS + 1), Err(Broken::TooLarge)));
        }

        fn heads_as_they_should_be(&self) {
            let asked = |lines: Lines<'_>| (self.request)(lines).expect("a request");
            let head = asked(&[GET, HTTPS, AUTHORITY, (":path", "/b?c"), FIELD, ("host", "A"), FIELD]);
            assert_eq!((head.host(), head.path.as_str(), head.https), ("a", "/b?c", true));
            assert_eq!((head.method, head.headers.len()), (Method::GET, 2));
            let head = asked(&[GET, (":scheme", "HTTP"), ROOT, ("host", "a:8"), ("te", "Trailers"), ("empty", "")]);
            assert_eq!((head.authority.unwrap().as_str(), head.https, head.headers.len()), ("a:8", false, 2));
            assert_eq!(asked(&[(":method", "OPTIONS"), HTTPS, AUTHORITY, (":path", "*")]).path.as_str(), "*");
            let head = asked(&[CONNECT, AUTHORITY]);
            assert_eq!((head.host(), head.path.as_str()), ("a", "/"));
            let answered = |lines: Lines<'_>| (self.response)(lines).expect("a response");
            let head = answered(&[OK, FIELD, ("content-length", "5")]);
            assert_eq!((head.status.as_u16(), head.headers.len()), (200, 2));
            assert!(answered(&[(":status", "204"), ("content-length", "5")]).headers.is_empty());
            assert!(answered(&[(":status", "103"), ("content-length", "5")]).headers.is_empty());
            let late = (self.trailers)(&[FIELD, ("content-length", "5"), ("host", "a")]).expect("trailers");
            assert_eq!(late.len(), 1, "what belongs into a head is left out");
        }

        fn what_is_malformed(&self) {
            let requests: &[Lines<'_>] = &[
                &[HTTPS, AUTHORITY, ROOT],
                &[GET, AUTHORITY, ROOT],
                &[GET, HTTPS, AUTHORITY],
                &[GET, ("host", "a:8")],
                &[GET, GET, HTTPS, AUTHORITY, ROOT],
                &[GET, (":method", "PUT"), HTTPS, AUTHORITY, ROOT],
                &[GET, HTTPS, AUTHORITY, FIELD, ROOT],
                &[GET, HTTPS, AUTHORITY, ROOT, OK],
                &[GET, HTTPS, AUTHORITY, ROOT, (":protocol", "websocket")],
                &[GET, HTTPS, AUTHORITY, ROOT, (":", "")],
                &[GET, HTTPS, (":authority", ""), ROOT],
                &[GET, HTTPS, (":authority", "user@a"), ROOT],
                &[GET, HTTPS, (":authority", "a b"), ROOT],
                &[GET, HTTPS, (":authority", "a:b"), ROOT],
                &[GET, HTTPS, ROOT, ("host", "user@a")],
                &[GET, HTTPS, AUTHORITY, (":path", "x")],
                &[GET, HTTPS, AUTHORITY, (":path", "")],
                &[GET, HTTPS, AUTHORITY, (":path", "*x")],
                &[GET, HTTPS, AUTHORITY, (":path", "/a#b")],
                &[GET, HTTPS, AUTHORITY, (":path", "/a b")],
                &[GET, (":scheme", "ftp"), AUTHORITY, ROOT],
                &[(":method", "G T"), HTTPS, AUTHORITY, ROOT],
                &[(":method", ""), HTTPS, AUTHORITY, ROOT],
                &[("g e t", "GET")],
                &[GET, HTTPS, AUTHORITY, ROOT, ("X-Field", "1")],
                &[GET, HTTPS, AUTHORITY, ROOT, ("", "1")],
                &[GET, HTTPS, AUTHORITY, ROOT, ("x-field", "a\r\nb")],
                &[GET, HTTPS, AUTHORITY, ROOT, ("x-field", " a")],
                &[GET, HTTPS, AUTHORITY, ROOT, ("x-field", "a\t")],
                &[GET, HTTPS, AUTHORITY, ROOT, ("connection", "close")],
                &[GET, HTTPS, AUTHORITY, ROOT, ("transfer-encoding", "chunked")],
                &[GET, HTTPS, AUTHORITY, ROOT, ("te", "gzip")],
                &[CONNECT, HTTPS, AUTHORITY, ROOT],
                &[FIELD],
            ];
            for lines in requests {
                assert!(matches!((self.request)(lines), Err(Broken::Malformed(_))), "{lines:?}");
            }
            let responses: &[Lines<'_>] =
                &[&[OK, OK], &[OK, ROOT], &[FIELD], &[FIELD, OK], &[(":status", "20")], &[(":status", "101")]];
            for lines in responses {
                assert!(matches!((self.response)(lines), Err(Broken::Malformed(_))), "{lines:?}");
            }
            for lines in [&[FIELD, OK][..], &[OK], &[("te", "gzip")]] {
                assert!(matches!((self.trailers)(lines), Err(Broken::Malformed(_))), "{lines:?}");
            }
        }

        fn what_is_refused(&self) {
            let long = "/".repeat(MAX_TARGET_BYTES);
            assert!((self.request)(&[GET, HTTPS, AUTHORITY, (":path", &long)]).is_ok());
            let refused: &[(Lines<'_>, Reason)] = &[
                (&[GET, HTTPS, ROOT], Reason::HttpRequestError),
                (&[GET, HTTPS, AUTHORITY, (":path", "*")], Reason::HttpRequestError),
                (&[GET, HTTPS, AUTHORITY, ROOT, ("host", "b")], Reason::HttpRequestError),
                (&[GET, HTTPS, ROOT, ("host", "a b")], Reason::HttpRequestError),
                (&[GET, HTTPS, ROOT, ("host", "a"), ("host", "b")], Reason::HttpRequestError),
                (&[GET, HTTPS, AUTHORITY, ROOT, ("host", "a"), ("host", "a")], Reason::HttpRequestError),
                (&[CONNECT, ("host", "a")], Reason::HttpRequestError),
                (&[GET, HTTPS, AUTHORITY, (":path", &(long.clone() + "/"))], Reason::UriTooLong),
            ];
            for (lines, reason) in refused {
                let refused = (self.request)(lines);
                assert!(matches!(&refused, Err(Broken::Refused(fault)) if fault.reason == *reason), "{lines:?}");
            }
        }
    }
}
