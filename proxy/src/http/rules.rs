//! Rules that all versions share: which fields belong to a connection, what a well-formed message is, and the limits.

use std::time::Duration;

use http::header;
use http::uri::Authority;
use http::{Method, StatusCode};

use super::body::Length;
use crate::fault::{Fault, Reason};
use crate::http::Fields;
use crate::http::fields::Value;

/// Largest head (start line and fields) in bytes, as received and after decompression. Envoy's default is 60 KiB,
/// nginx's 32; a mesh carries tokens and baggage, so the larger one.
pub const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Most fields in a head or a trailer section. Envoy's and hyper's default; bounds the work of one head.
pub const MAX_FIELDS: usize = 100;

/// Longest request target in bytes (RFC 9110 section 4.1 asks for 8000 at least).
pub const MAX_TARGET_BYTES: usize = 16 * 1024;

/// Largest trailer section in bytes.
pub const MAX_TRAILER_BYTES: usize = 16 * 1024;

/// How long a client may take for a head, from its first byte to its last (slowloris). Envoy and nginx allow 10 and 60 s; a sidecar's
/// clients are near.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// A client's connection that carries nothing stays this long: longer than clients keep theirs, so that it is they who close.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// How long a client may take to make room for the end of what it is sent: as long as nginx waits between two writes.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(60);

/// The field that tells an application who calls it.
pub const CLIENT_CERT: &str = "x-forwarded-client-cert";

/// Whether a name, in lower case, is that of a field which never crosses a hop (RFC 9110 section 7.6.1).
#[inline]
pub fn is_of_connection(name: impl AsRef<[u8]>) -> bool {
    matches!(name.as_ref(), b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade")
}

/// Whether an authority is a host and at most a port (RFC 9110 section 7.2). Credentials in it are a trick to make two readers see two hosts
/// (section 4.2.4), and so is what comes behind the host and is no port.
pub fn is_host(authority: &Authority) -> bool {
    let text = authority.as_str();
    let port = text.get(authority.host().len()..).unwrap_or_default();
    !text.contains('@')
        && (port.is_empty() || matches!(port.as_bytes(), [b':', digits @ ..] if digits.iter().all(u8::is_ascii_digit)))
}

/// The content-length of a message, if it has one.
///
/// # Errors
/// `malformed` if it is not a number, or given twice with different values (RFC 9110 section 8.6). A repeated equal value, in one
/// line or several, is refused too: nobody sends it in good faith.
pub fn content_length(headers: &Fields, malformed: Reason) -> Result<Option<u64>, Fault> {
    let mut lines = headers.get_all(header::CONTENT_LENGTH);
    let Some(first) = lines.next() else { return Ok(None) };
    match (decimal(first), lines.next()) {
        (Some(length), None) => Ok(Some(length)),
        (Some(_), Some(_)) => Err(Fault::new(malformed).detail("more than one content-length")),
        (None, _) => Err(Fault::new(malformed).detail("a content-length that is not a number")),
    }
}

/// How long the content of a request is that came over HTTP/2 or HTTP/3, if it has any.
///
/// # Errors
/// As [`content_length`]; and if CONNECT, whose stream is a tunnel, announces content (RFC 9110 section 9.3.6).
pub fn request_length(method: &Method, headers: &Fields) -> Result<Length, Fault> {
    match content_length(headers, Reason::HttpRequestError)? {
        Some(_) if method == Method::CONNECT => {
            Err(Fault::new(Reason::HttpRequestError).detail("a content-length with the method CONNECT"))
        }
        None if method == Method::CONNECT => Ok(Length::Tunnel),
        length => Ok(length.map_or(Length::Unknown, Length::Known)),
    }
}

/// How long the content of a response is that came over HTTP/2 or HTTP/3, if it has any. After success, what answers
/// CONNECT is a tunnel whatever its fields say (RFC 9110 section 9.3.6).
///
/// # Errors
/// As [`content_length`].
pub fn response_length(connect: bool, status: StatusCode, headers: &Fields) -> Result<Length, Fault> {
    match connect && status.is_success() {
        true => Ok(Length::Tunnel),
        false => content_length(headers, Reason::HttpProtocolError)
            .map(|length| length.map_or(Length::Unknown, Length::Known)),
    }
}

fn decimal(value: Value<'_>) -> Option<u64> {
    let digits = value.as_bytes();
    // u64::MAX has 20 digits; 19 always fit. `+5` and ` 5` are no DIGITs.
    if digits.is_empty() || digits.len() > 19 {
        return None;
    }
    digits.iter().try_fold(0, |number, byte| {
        let digit = byte.wrapping_sub(b'0');
        (digit < 10).then(|| number * 10 + u64::from(digit))
    })
}

/// Whether another sidecar reads so many fields of so many bytes, as HTTP/2 and HTTP/3 count them (RFC 9113 section 6.5.2), which is no less
/// than HTTP/1 has. What came within the limits may be beyond them with what was added, and who refuses it does not know by whom; of far
/// more its whole connection would end.
///
/// # Errors
/// In words, if not.
pub fn check_size(fields: usize, bytes: usize) -> Result<(), String> {
    let (has, most) = match () {
        () if fields > MAX_FIELDS => (format!("{fields} fields"), MAX_FIELDS),
        () if bytes > MAX_HEAD_BYTES => (format!("{bytes} bytes of fields (RFC 9113 section 6.5.2)"), MAX_HEAD_BYTES),
        () => return Ok(()),
    };
    Err(format!("{has} with those that were added here, and another sidecar reads at most {most}"))
}

/// Takes the length away that a response without content must not have (RFC 9110 section 8.6): to some readers it is there.
pub fn clean_response(status: StatusCode, headers: &mut Fields) {
    if status.is_informational() || status == StatusCode::NO_CONTENT {
        headers.remove(header::CONTENT_LENGTH);
    }
}

/// Takes away what may not stand in a trailer section (RFC 9110 section 6.5.1): who puts trailers and fields into one map would take it for
/// what was checked in the head.
pub fn clean_trailers(trailers: &mut Fields) {
    trailers.retain(|name| !belongs_into_a_head(name.as_str()));
}

/// Whether a field says how a message is framed, where it goes, by whom it was sent or what its content is, and so is of no use behind that.
fn belongs_into_a_head(name: &str) -> bool {
    is_of_connection(name)
        || matches!(
            name,
            "authorization"
                | "content-encoding"
                | "content-length"
                | "content-range"
                | "content-type"
                | "cookie"
                | "expect"
                | "host"
                | "max-forwards"
                | "proxy-authorization"
                | "range"
                | "set-cookie"
                | "te"
                | "trailer"
        )
        || says_who_calls(name)
}

/// Whether a field, by its name in lower case, is [`CLIENT_CERT`] or would be taken for it by an application that gets fields as variables
/// (CGI, WSGI), where `_` stands for `-`.
pub fn says_who_calls(name: &str) -> bool {
    let same = |(byte, own)| byte == own || (byte, own) == (b'_', b'-');
    name.len() == CLIENT_CERT.len() && name.bytes().zip(CLIENT_CERT.bytes()).all(same)
}

#[cfg(test)]
mod tests {
    use http::header::HeaderName;

    use super::*;
    use http::HeaderValue;

    #[test]
    fn fields_of_a_connection_are_known_by_name() {
        assert!(["connection", "upgrade"].iter().all(is_of_connection));
        assert!(["te", "trailer", "connections", ""].iter().all(|name| !is_of_connection(name)));
    }

    #[test]
    fn sizes_are_held_to_the_limits() {
        assert_eq!(check_size(MAX_FIELDS, MAX_HEAD_BYTES), Ok(()));
        let text = |has: &str, most| {
            Err(format!("{has} with those that were added here, and another sidecar reads at most {most}"))
        };
        assert_eq!(check_size(101, 10), text("101 fields", 100));
        assert_eq!(check_size(1, 65537), text("65537 bytes of fields (RFC 9113 section 6.5.2)", 65536));
    }

    fn map(lines: &[(&'static str, &'static str)]) -> Fields {
        let mut map = Fields::new();
        for (name, value) in lines {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn trailers_keep_what_may_come_late() {
        let mut trailers = map(&[
            ("grpc-status", "0"),
            ("content-length", "5"),
            ("host", "a"),
            ("authorization", "b"),
            ("x-sum", "1"),
            ("x-forwarded-client-cert", "URI=spiffe://c"),
            ("x_forwarded-client_cert", "URI=spiffe://d"),
            ("x-sum", "2"),
            ("transfer-encoding", "chunked"),
        ]);
        clean_trailers(&mut trailers);
        assert_eq!(trailers, map(&[("grpc-status", "0"), ("x-sum", "1"), ("x-sum", "2")]));
    }

    #[test]
    fn hosts() {
        let is = |text: &'static str| Authority::try_from(text).is_ok_and(|authority| is_host(&authority));
        for host in ["a", "a:", "a:80", "a.b-c_d", "[::1]", "[::1]:80", "127.0.0.1:15001"] {
            assert!(is(host), "{host}");
        }
        for other in
            ["", "a:x", "a:8x", "a:-1", "a:+1", "a:1:2", "u@a", "u:p@a:1", "a@", "[::1]b", "[::1]b:1", "[::1]:x"]
        {
            assert!(!is(other), "{other}");
        }
    }

    #[test]
    fn lengths() {
        let length = |lines: &[_]| content_length(&map(lines), Reason::HttpRequestError).map_err(|f| f.reason);
        assert_eq!(length(&[]), Ok(None));
        assert_eq!(length(&[("content-length", "10")]), Ok(Some(10)));
        assert_eq!(length(&[("content-length", "9999999999999999999")]), Ok(Some(9_999_999_999_999_999_999)));
        for bad in ["", "+5", "-1", "5 ", "0x5", "5,5", "5, 6", "18446744073709551616"] {
            assert_eq!(length(&[("content-length", bad)]), Err(Reason::HttpRequestError), "{bad}");
        }
        assert_eq!(length(&[("content-length", "5"), ("content-length", "5")]), Err(Reason::HttpRequestError));
    }

    #[test]
    fn connect_has_no_content() {
        let connect = |lines: &[_]| request_length(&Method::CONNECT, &map(lines)).map_err(|f| f.reason);
        assert_eq!(connect(&[]), Ok(Length::Tunnel));
        assert_eq!(connect(&[("content-length", "0")]), Err(Reason::HttpRequestError));
        let answer = |connect, status| {
            response_length(connect, StatusCode::from_u16(status).unwrap(), &map(&[("content-length", "5")])).unwrap()
        };
        assert_eq!((answer(true, 200), answer(true, 503)), (Length::Tunnel, Length::Known(5)));
        assert_eq!(answer(false, 200), Length::Known(5));
    }
}
