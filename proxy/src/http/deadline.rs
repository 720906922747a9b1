//! How long a caller waits for an answer, as its request says: honoured, and told on, shortened by what was used.

use std::time::Duration;

use http::header::{HeaderName, HeaderValue};

use super::head::RequestHead;

/// gRPC over HTTP/2, "Timeout": up to eight digits and a unit.
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// What an application asks of its sidecar (Envoy), in milliseconds.
const ASKED: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-timeout-ms");

/// What a sidecar tells the next hop (Envoy), in milliseconds.
const EXPECTED: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");

/// The most that eight digits say.
const MOST: u128 = 99_999_999;

/// How long the caller waits from the beginning of its request; the shortest time if several are said. What cannot be
/// read says nothing, and neither does a zero in milliseconds: in Envoy it is no bound.
pub fn of(head: &RequestHead, grpc: bool) -> Option<Duration> {
    // One pass: hardly a request says any of them, and each look-up would cost as much.
    let said = head.headers.iter().filter_map(|(name, value)| match name.as_str() {
        "x-envoy-upstream-rq-timeout-ms" | "x-envoy-expected-rq-timeout-ms" => {
            let millis = value.to_str().ok()?.parse().ok().filter(|millis| *millis > 0)?;
            Some(Duration::from_millis(millis))
        }
        "grpc-timeout" if grpc => call(value.to_str().ok()?),
        _ => None,
    });
    said.min()
}

/// Tells the next hop how long the caller still waits.
pub fn pass_on(head: &mut RequestHead, grpc: bool, left: Duration) {
    let millis = left.as_millis().max(1);
    if head.headers.remove(&ASKED) || head.headers.contains_key(&EXPECTED) {
        head.headers.insert(EXPECTED, HeaderValue::from(u64::try_from(millis).unwrap_or(u64::MAX)));
    }
    if grpc && head.headers.contains_key(&GRPC_TIMEOUT) {
        let text = if millis <= MOST { format!("{millis}m") } else { format!("{}S", (millis / 1000).min(MOST)) };
        if let Ok(value) = HeaderValue::try_from(text) {
            head.headers.insert(GRPC_TIMEOUT, value);
        }
    }
}

fn call(text: &str) -> Option<Duration> {
    let unit = text.as_bytes().last()?;
    let digits = text.get(..text.len() - 1).filter(|digits| (1..=8).contains(&digits.len()))?;
    let number: u64 = digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())??;
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(fields: &[(&'static str, &'static str)]) -> RequestHead {
        let mut head = RequestHead::unread();
        head.headers.extend(
            fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))),
        );
        head
    }

    #[test]
    fn the_shortest_that_is_said_counts() {
        let seconds = Duration::from_secs;
        assert_eq!(of(&head(&[]), true), None);
        assert_eq!(of(&head(&[("grpc-timeout", "2S")]), true), Some(seconds(2)));
        assert_eq!(of(&head(&[("grpc-timeout", "2S")]), false), None, "only gRPC has it");
        let both = [("x-envoy-upstream-rq-timeout-ms", "3000"), ("x-envoy-expected-rq-timeout-ms", "1000")];
        assert_eq!(of(&head(&both), false), Some(seconds(1)));
        for (text, time) in
            [("1H", seconds(3600)), ("1M", seconds(60)), ("99999999n", Duration::from_nanos(99_999_999))]
        {
            assert_eq!(call(text), Some(time));
        }
        for text in ["", "S", "1", "-1S", "+1S", "123456789S", "1s", "1 S", "é"] {
            assert_eq!(call(text), None, "{text}");
        }
        for text in ["", "0", "-1", "1s", "99999999999999999999"] {
            assert_eq!(of(&head(&[("x-envoy-upstream-rq-timeout-ms", text)]), false), None, "{text}");
        }
    }

    #[test]
    fn what_is_left_is_told_on_in_the_same_words() {
        let told = |fields: &[(&'static str, &'static str)], grpc, left| {
            let mut head = head(fields);
            pass_on(&mut head, grpc, left);
            let mut all: Vec<_> =
                head.headers.iter().map(|(n, v)| format!("{n}: {}", v.to_str().expect("text"))).collect();
            all.sort();
            all
        };
        let left = Duration::from_millis(1500);
        assert_eq!(told(&[("grpc-timeout", "2S")], true, left), ["grpc-timeout: 1500m"]);
        let hours = Duration::from_secs(100 * 3600);
        assert_eq!(told(&[("grpc-timeout", "100H")], true, hours), ["grpc-timeout: 360000S"]);
        let expected = ["x-envoy-expected-rq-timeout-ms: 1500"];
        assert_eq!(told(&[("x-envoy-upstream-rq-timeout-ms", "2000")], false, left), expected);
        assert_eq!(told(&[("x-envoy-expected-rq-timeout-ms", "2000")], false, left), expected);
        assert!(told(&[], true, left).is_empty());
    }
}
