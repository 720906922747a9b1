//! Names of fields that many messages have, ready: to read one takes no block of memory and no count of those who share it.

use http::HeaderName;

macro_rules! names {
    ($($name:literal)*) => {
        const TEXTS: &[&str] = &[$($name),*];
        static NAMES: [HeaderName; TEXTS.len()] = [$(HeaderName::from_static($name)),*];
    };
}

names! {
    "accept" "accept-encoding" "accept-language" "access-control-allow-origin" "age" "authorization" "b3" "baggage"
    "cache-control" "connection" "content-encoding" "content-length" "content-type" "cookie" "date" "etag" "expect" "expires"
    "forwarded" "grpc-accept-encoding" "grpc-encoding" "grpc-message" "grpc-status" "grpc-timeout" "host" "idempotency-key"
    "if-modified-since" "if-none-match" "keep-alive" "last-modified" "location" "origin" "pragma" "proxy-status" "range"
    "referer" "retry-after" "server" "set-cookie" "te" "traceparent" "tracestate" "trailer" "transfer-encoding" "upgrade"
    "user-agent" "vary" "via" "x-api-key" "x-b3-parentspanid" "x-b3-sampled" "x-b3-spanid" "x-b3-traceid"
    "x-envoy-attempt-count" "x-envoy-expected-rq-timeout-ms" "x-envoy-upstream-service-time" "x-forwarded-client-cert"
    "x-forwarded-for" "x-forwarded-host" "x-forwarded-proto" "x-lacis-why" "x-request-id"
}

/// No name.
const NONE: u8 = u8::MAX;

/// Where each name is, by [`place`].
const PLACES: [u8; 256] = places();

const fn places() -> [u8; 256] {
    let mut places = [NONE; 256];
    let mut at = 0;
    while at < TEXTS.len() {
        let place = place(TEXTS[at].as_bytes());
        assert!(places[place] == NONE, "two names in one place: change the factors of `place`");
        places[place] = at as u8;
        at += 1;
    }
    places
}

/// A number below 256 that is another for each of the names. The factors are found by trying.
const fn place(text: &[u8]) -> usize {
    let [first, .., last] = text else { return 0 };
    let [first, middle, last] = [*first, text[text.len() / 2], *last];
    let [first, middle, last] = [(first | 0x20) as usize, (middle | 0x20) as usize, (last | 0x20) as usize];
    (text.len() + 13 * first + 7 * middle + 5 * last) % 256
}

/// The name that a token is, in any case. None if it is too long.
pub(super) fn token(text: &[u8]) -> Option<HeaderName> {
    ready::<CASE>(text).or_else(|| HeaderName::from_bytes(text).ok())
}

/// A name as HTTP/2 and HTTP/3 have it, in lower case. None if it cannot be one.
pub(super) fn lower_case(text: &[u8]) -> Option<HeaderName> {
    ready::<0>(text).or_else(|| HeaderName::from_lowercase(text).ok())
}

/// What letters in lower case have, and those in upper case have not. Nothing else that a token may contain becomes another such byte with it.
const CASE: u8 = 0x20;

/// The name, if it is one of those; what differs only by bits of `SET` is the same.
fn ready<const SET: u8>(text: &[u8]) -> Option<HeaderName> {
    let at = usize::from(*PLACES.get(place(text))?);
    let name = TEXTS.get(at)?.as_bytes();
    if name.len() != text.len() {
        return None;
    }
    // Eight bytes at a time.
    let ((words, rest), (own_words, own_rest)) = (text.as_chunks::<8>(), name.as_chunks::<8>());
    let set = u64::from_ne_bytes([SET; 8]);
    let differ = |a: &[u8; 8], b: &[u8; 8]| (u64::from_ne_bytes(*a) | set) ^ u64::from_ne_bytes(*b);
    let words = words.iter().zip(own_words).fold(0, |all, (a, b)| all | differ(a, b));
    let rest = rest.iter().zip(own_rest).fold(0, |all, (a, b)| all | ((a | SET) ^ b));
    (words == 0 && rest == 0).then(|| NAMES.get(at).cloned()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_they_would_be_without_the_table() {
        let others =
            ["", "x", "x-other", "x y", "x:y", "\u{e9}", "hose", "hots", "x-request-ie", "te\n", "TE ", "traceparen"];
        for text in TEXTS.iter().chain(&others) {
            for text in [text.to_string(), text.to_uppercase(), format!("{text}s"), format!("{text}\u{ff}")] {
                let bytes = text.as_bytes();
                if let Ok(name) = HeaderName::from_bytes(bytes) {
                    assert_eq!(token(bytes), Some(name), "{text}");
                }
                assert_eq!(lower_case(bytes), HeaderName::from_lowercase(bytes).ok(), "{text}");
            }
        }
        // What differs by the bit that letters' case is: `\r` and `-`, `@` and '`', `[` and `{`.
        let turned = TEXTS.iter().flat_map(|text| (0..text.len()).map(move |at| (text.as_bytes().to_vec(), at)));
        for (mut bytes, at) in turned {
            bytes[at] ^= 0x20;
            if let Ok(name) = HeaderName::from_bytes(&bytes) {
                assert_eq!(token(&bytes), Some(name));
            }
            assert_eq!(lower_case(&bytes), HeaderName::from_lowercase(&bytes).ok());
        }
    }
}
