//! Heads and trailers out of field sections and into them (RFC 9113 sections 8.2 and 8.3).

use std::borrow::Cow;

use bytes::BytesMut;
use http::Method;
use http::header::{self, HeaderName};

use super::hpack::{Decoder, Encoder, Garbled, Line};
use crate::http::Fields;
use crate::http::fields::Value;
use crate::http::head::{RequestHead, ResponseHead, Version};
use crate::http::message::{self, Broken};
use crate::http::rules::MAX_HEAD_BYTES;

/// The lines of a section, and what is wrong with them as a message.
#[derive(Debug, Default)]
pub(super) struct Parts {
    parts: message::Parts,
    size: usize,
    broken: Option<Broken>,
}

impl Parts {
    /// Reads a section. What is wrong with it as a message is told when it is asked for as one.
    ///
    /// # Errors
    /// If it cannot be decoded: then no later one can.
    pub(super) fn read(decoder: &mut Decoder, block: &[u8]) -> Result<Parts, Garbled> {
        let mut section = Parts::default();
        decoder.decode(block, |line| {
            section.size += line.size();
            if section.size > MAX_HEAD_BYTES {
                section.broken = Some(Broken::TooLarge);
                section.parts = message::Parts::default();
            }
            if section.broken.is_none() {
                section.broken = section.add(line).err();
            }
        })?;
        Ok(section)
    }

    fn add(&mut self, line: Cow<'_, Line>) -> Result<(), Broken> {
        match line.into_owned() {
            Line::Field(name, value) => self.parts.field(name, value),
            Line::Pseudo(pseudo) => self.parts.pseudo(pseudo),
            Line::Malformed(..) => Err(Broken::Malformed("a line that no message may contain")),
        }
    }

    /// As the head of a request.
    ///
    /// # Errors
    /// If it is none, or too large.
    pub(super) fn request(self) -> Result<RequestHead, Broken> {
        self.whole()?.request(Version::Http2)
    }

    /// As the head of a response.
    ///
    /// # Errors
    /// As for [`Parts::request`].
    pub(super) fn response(self) -> Result<ResponseHead, Broken> {
        self.whole()?.response()
    }

    /// As trailers.
    ///
    /// # Errors
    /// As for [`Parts::request`].
    pub(super) fn trailers(self) -> Result<Fields, Broken> {
        self.whole()?.trailers()
    }

    fn whole(self) -> Result<message::Parts, Broken> {
        self.broken.map_or(Ok(self.parts), Err)
    }
}

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
fn is_secret(name: &HeaderName, value: Value<'_>) -> bool {
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
    use crate::http::message::tests::{AUTHORITY, FIELD, GET, HTTPS, OK, ROOT, Reads};

    fn parts(lines: &[(&str, &str)]) -> Parts {
        let (mut encoder, mut out) = (Encoder::default(), BytesMut::new());
        lines.iter().for_each(|(name, value)| encoder.line(&mut out, name.as_bytes(), value.as_bytes(), false));
        Parts::read(&mut Decoder::default(), &out).expect("a section of ours")
    }

    #[test]
    fn messages_are_what_they_are_in_every_version() {
        let reads = Reads {
            request: |lines| parts(lines).request(),
            response: |lines| parts(lines).response(),
            trailers: |lines| parts(lines).trailers(),
        };
        reads.check();
    }

    #[test]
    fn the_size_is_limited() {
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
