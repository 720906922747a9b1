//! Heads and trailers as field sections, and back (RFC 9114 sections 4.2 and 4.3).

use bytes::Bytes;
use http::Method;

use super::Broken;
use super::qpack::{Lines, Section};
use crate::http::Fields;
use crate::http::head::{RequestHead, ResponseHead, Version};
use crate::http::message::{self, Parts, Pseudo};
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

/// The lines of a section by what they are.
fn read(section: Bytes, limit: usize) -> Result<Parts, Broken> {
    let (mut lines, mut parts) = (Lines::new(section, limit)?, Parts::default());
    while let Some((name, value)) = lines.read()? {
        if name.bytes().first() == Some(&b':') {
            let pseudo = Pseudo::read(name.bytes(), &value, || value.clone());
            parts.pseudo(pseudo.ok_or(Broken::Malformed("a pseudo-header that is none"))?)?;
        } else {
            let name = name.field().ok_or(Broken::Malformed("a field name that is none"))?;
            parts.field(name, message::value(value).ok_or(Broken::Malformed("a field value that is none"))?)?;
        }
    }
    Ok(parts)
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
