//! Heads and trailers as field sections, and back (RFC 9114 sections 4.2 and 4.3).

use std::sync::LazyLock;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::Broken;
use super::qpack::{self, Line, Lines, Section, TABLE, Text, field};
use crate::http::Fields;
use crate::http::head::{RequestHead, ResponseHead, Version};
use crate::http::message::{self, Parts, Pseudo};
use crate::http::names;
use crate::http::rules::{MAX_HEAD_BYTES, MAX_TRAILER_BYTES};

/// The head of a request.
///
/// # Errors
/// `Malformed` or `Refused` if it is none, `TooLarge`, or `Garbled`.
pub(super) fn request(section: Bytes) -> Result<RequestHead, Broken> {
    Ok(read(section, MAX_HEAD_BYTES)?.request(Version::Http3)?)
}

/// The head of a response.
///
/// # Errors
/// As for [`request`].
pub(super) fn response(section: Bytes) -> Result<ResponseHead, Broken> {
    Ok(read(section, MAX_HEAD_BYTES)?.response()?)
}

/// Trailers.
///
/// # Errors
/// As for [`request`].
pub(super) fn trailers(section: Bytes) -> Result<Fields, Broken> {
    Ok(read(section, MAX_TRAILER_BYTES)?.trailers()?)
}

/// A line of the static table, understood.
enum Ready {
    Pseudo(Pseudo),
    Field(HeaderName, HeaderValue),
}

/// The lines of the static table; none where what there is has only a name.
static READY: LazyLock<Vec<Option<Ready>>> = LazyLock::new(|| {
    let read = |(at, (name, value)): (usize, &(&'static str, &'static str))| match field(at) {
        Some(name) => Some(Ready::Field(name.clone(), HeaderValue::from_static(value))),
        None => {
            Pseudo::read(name.as_bytes(), value.as_bytes(), || Bytes::from_static(value.as_bytes())).map(Ready::Pseudo)
        }
    };
    TABLE.iter().enumerate().map(read).collect()
});

/// The lines of a section by what they are.
fn read(section: Bytes, limit: usize) -> Result<Parts, Broken> {
    let (mut lines, mut parts) = (Lines::new(&section, limit)?, Parts::of(section.clone()));
    while let Some(line) = lines.read()? {
        match line {
            Line::Static(index) => match READY.get(index) {
                Some(Some(Ready::Pseudo(pseudo))) => parts.pseudo(pseudo.clone())?,
                Some(Some(Ready::Field(name, value))) => parts.field(name.clone(), value.clone())?,
                _ => return Err(NO_PSEUDO),
            },
            Line::Named(index, value) => match field(index) {
                Some(name) => read_field(&mut parts, name.clone(), value)?,
                None => read_pseudo(&mut parts, &section, TABLE.get(index).map_or("", |(name, _)| name), value)?,
            },
            Line::Literal(name, value) => match name.bytes() {
                [b':', ..] => {
                    let name = std::str::from_utf8(name.bytes()).map_err(|_| NO_PSEUDO)?;
                    read_pseudo(&mut parts, &section, name, value)?;
                }
                name => {
                    let name = names::lower_case(name).ok_or(Broken::Malformed("a field name that is none"))?;
                    read_field(&mut parts, name, value)?;
                }
            },
        }
    }
    Ok(parts)
}

fn read_field(parts: &mut Parts, name: HeaderName, value: Text<'_>) -> Result<(), Broken> {
    const NO_VALUE: Broken = Broken::Malformed("a field value that is none");
    match value {
        Text::Read(value) if message::is_value(value) => Ok(parts.field_read(name, value)?),
        Text::Read(_) => Err(NO_VALUE),
        Text::Decoded(value) => match message::value(value) {
            Some(value) => Ok(parts.field(name, value)?),
            None => Err(NO_VALUE),
        },
    }
}

fn read_pseudo(parts: &mut Parts, section: &Bytes, name: &str, value: Text<'_>) -> Result<(), Broken> {
    let pseudo = Pseudo::read(name.as_bytes(), value.bytes(), || match &value {
        Text::Read(value) => section.slice_ref(value),
        Text::Decoded(value) => value.clone(),
    });
    match pseudo {
        Some(pseudo) => Ok(parts.pseudo(pseudo)?),
        None => Err(NO_PSEUDO),
    }
}

const NO_PSEUDO: Broken = Broken::Malformed("a pseudo-header that is none");

/// Writes the head of a request; without scheme and path for CONNECT (RFC 9114 section 4.4).
pub(super) fn write_request(head: &RequestHead, section: &mut Section) {
    match head.method {
        Method::GET => section.ready(qpack::GET),
        _ => section.line(":method", head.method.as_str().as_bytes()),
    }
    if head.method != Method::CONNECT {
        section.ready(if head.https { qpack::HTTPS } else { qpack::HTTP });
    }
    if let Some(authority) = &head.authority {
        section.named(qpack::AUTHORITY, authority.as_str().as_bytes());
    }
    if head.method != Method::CONNECT {
        match head.path.as_str() {
            "/" => section.ready(qpack::PATH),
            path => section.named(qpack::PATH, path.as_bytes()),
        }
    }
    write_fields(&head.headers, section);
}

/// Writes the head of a response.
pub(super) fn write_response(head: &ResponseHead, section: &mut Section) {
    match head.status {
        StatusCode::OK => section.ready(qpack::OK),
        status => section.line(":status", status.as_str().as_bytes()),
    }
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
    let trailers = trailers(input);
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
    use crate::http::message::tests::{AUTHORITY, FIELD, GET, HTTPS, ROOT, Reads};

    fn section(lines: &[(&str, &str)]) -> Bytes {
        let mut section = Section::default();
        section.begin();
        lines.iter().for_each(|(name, value)| section.line(name, value.as_bytes()));
        Bytes::copy_from_slice(section.bytes())
    }

    #[test]
    fn messages_are_what_they_are_in_every_version() {
        fn shared<T>(read: Result<T, Broken>) -> Result<T, message::Broken> {
            read.map_err(|broken| match broken {
                Broken::Malformed(what) => message::Broken::Malformed(what),
                Broken::Refused(fault) => message::Broken::Refused(fault),
                Broken::TooLarge => message::Broken::TooLarge,
                other => panic!("{other:?}"),
            })
        }
        let reads = Reads {
            request: |lines| shared(request(section(lines))),
            response: |lines| shared(response(section(lines))),
            trailers: |lines| shared(trailers(section(lines))),
        };
        reads.check();
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
