//! Values that are one word in the file: durations, sizes, addresses, identities and closed sets.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, Visitor};

use super::admission::Priority;
use super::reader::nearest;
use super::route::{GrpcKind, Scheme};
use super::yaml::clip;
use super::{AppProtocol, Failure, LinkPolicy, ServiceProtocol, Tell};
use crate::identity::{InvalidId, SpiffeId};

/// Longest duration that a config may state: beyond it a bound bounds nothing.
pub const MAX_DURATION: Duration = Duration::from_secs(24 * 3600);

/// Largest size that a config may state: what 32-bit WebAssembly can address.
pub const MAX_SIZE: u64 = 4 << 30;

/// A value that is written as one word.
pub(super) trait Notation: Sized {
    /// What the word should be, with an example.
    const EXPECTED: &'static str;

    /// Its value.
    ///
    /// # Errors
    /// What is wrong with it, and what would be right.
    fn read(text: &str) -> Result<Self, String>;

    /// The words that are accepted.
    fn schema() -> Schema;
}

/// A [`Notation`] as serde reads it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Word<T>(pub(super) T);

/// A size in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size(pub(super) u64);

/// A whole number of whatever size: who knows its bounds says whether it is within them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Number(i64);

/// A share in percent, 0 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Percent(pub(super) u8);

/// A closed set of words.
pub(super) trait Choice: Copy + 'static {
    /// What the set is.
    const EXPECTED: &'static str;
    /// Its words; nothing for those that are not supported yet.
    const WORDS: &'static [(&'static str, Option<Self>)];
}

/// How an access record is written.
#[derive(Clone, Copy, Debug)]
pub(super) enum LogFormat {
    Json,
}

impl Choice for ServiceProtocol {
    const EXPECTED: &'static str = "a protocol";
    const WORDS: &'static [(&'static str, Option<Self>)] = &[("http", Some(Self::Http)), ("tcp", Some(Self::Tcp))];
}

impl Choice for Priority {
    const EXPECTED: &'static str = "a priority";
    const WORDS: &'static [(&'static str, Option<Self>)] =
        &[("low", Some(Self::Low)), ("normal", Some(Self::Normal)), ("critical", Some(Self::Critical))];
}

impl Choice for Scheme {
    const EXPECTED: &'static str = "a scheme";
    const WORDS: &'static [(&'static str, Option<Self>)] = &[("http", Some(Self::Http)), ("https", Some(Self::Https))];
}

impl Choice for LogFormat {
    const EXPECTED: &'static str = "a log format";
    const WORDS: &'static [(&'static str, Option<Self>)] = &[("json", Some(Self::Json)), ("text", None)];
}

impl Choice for GrpcKind {
    const EXPECTED: &'static str = "a type of match";
    const WORDS: &'static [(&'static str, Option<Self>)] =
        &[("exact", Some(Self::Exact)), ("regex", Some(Self::Regex))];
}

impl Choice for Tell {
    const EXPECTED: &'static str = "a choice of responses";
    const WORDS: &'static [(&'static str, Option<Self>)] =
        &[("asked", Some(Self::Asked)), ("failed", Some(Self::Failed)), ("always", Some(Self::Always))];
}

impl Choice for AppProtocol {
    const EXPECTED: &'static str = "a protocol of the application";
    const WORDS: &'static [(&'static str, Option<Self>)] =
        &[("http1", Some(Self::Http1)), ("h2c", Some(Self::H2c)), ("tcp", Some(Self::Tcp))];
}

impl Choice for LinkPolicy {
    const EXPECTED: &'static str = "a link";
    const WORDS: &'static [(&'static str, Option<Self>)] = &[
        ("auto", Some(Self::Auto)),
        ("h3", Some(Self::H3)),
        ("h2", Some(Self::H2)),
        ("h1", Some(Self::H1)),
        ("plaintext", Some(Self::Plaintext)),
    ];
}

impl Choice for Failure {
    const EXPECTED: &'static str = "a failure mode";
    const WORDS: &'static [(&'static str, Option<Self>)] =
        &[("closed", Some(Self::Closed)), ("open", Some(Self::Open))];
}

impl<'de, T: Notation> Deserialize<'de> for Word<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read<T>(PhantomData<T>);
        impl<T: Notation> Visitor<'_> for Read<T> {
            type Value = Word<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(T::EXPECTED)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Word<T>, E> {
                T::read(text).map(Word).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Read(PhantomData))
    }
}

impl<T: Notation> JsonSchema for Word<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        T::EXPECTED.into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        T::schema()
    }
}

impl Number {
    /// It, if it is one of these.
    pub(super) fn within<T: Copy + PartialOrd + TryFrom<i64>>(self, bounds: RangeInclusive<T>) -> Option<T> {
        T::try_from(self.0).ok().filter(|number| bounds.contains(number))
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl Visitor<'_> for Read {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number")
            }

            fn visit_u64<E>(self, number: u64) -> Result<Number, E> {
                Ok(Number(i64::try_from(number).unwrap_or(i64::MAX)))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Number, E> {
                Ok(Number(number))
            }
        }
        deserializer.deserialize_any(Read)
    }
}

impl JsonSchema for Number {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Number".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer" })
    }
}

fn words<T: Choice>() -> impl Iterator<Item = &'static str> {
    T::WORDS.iter().filter(|(_, value)| value.is_some()).map(|(word, _)| *word)
}

impl<T: Choice> Notation for T {
    const EXPECTED: &'static str = T::EXPECTED;

    fn read(text: &str) -> Result<T, String> {
        match T::WORDS.iter().find(|(word, _)| *word == text) {
            Some((_, Some(value))) => Ok(*value),
            Some((word, None)) => {
                Err(format!("\"{word}\" is not supported yet; write {}", words::<T>().collect::<Vec<_>>().join(", ")))
            }
            None => Err(match nearest(text, words::<T>()) {
                Some(word) => format!("\"{}\" is not {}; did you mean \"{word}\"?", clip(text), T::EXPECTED),
                None => {
                    let right = words::<T>().collect::<Vec<_>>().join(", ");
                    format!("\"{}\" is not {}; write one of: {right}", clip(text), T::EXPECTED)
                }
            }),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "enum": words::<T>().collect::<Vec<_>>() })
    }
}

/// `1500ms`, `2s`, `5m`, `1h`; zero is `0s`.
impl Notation for Duration {
    const EXPECTED: &'static str = "a duration such as 1500ms, 2s, 5m or 1h";

    fn read(text: &str) -> Result<Self, String> {
        let unit = |unit: &str| match unit {
            "ms" => Some(1),
            "s" => Some(1000),
            "m" => Some(60_000),
            "h" => Some(3_600_000),
            _ => None,
        };
        let millis = quantity(text, unit).ok_or_else(|| not(text, Self::EXPECTED))?;
        match Duration::from_millis(millis) {
            duration if duration <= MAX_DURATION => Ok(duration),
            _ => Err(format!("{} is longer than a day; write at most 24h", clip(text))),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]+(ms|s|m|h)$", "examples": ["1500ms", "2s", "5m"] })
    }
}

/// `4096B`, `64KiB`, `32MiB`, `1GiB`.
impl Notation for Size {
    const EXPECTED: &'static str = "a size such as 64KiB, 32MiB or 1GiB";

    fn read(text: &str) -> Result<Self, String> {
        let unit = |unit: &str| match unit {
            "B" => Some(1),
            "KiB" => Some(1 << 10),
            "MiB" => Some(1 << 20),
            "GiB" => Some(1 << 30),
            _ => None,
        };
        match quantity(text, unit).ok_or_else(|| not(text, Self::EXPECTED))? {
            bytes if bytes <= MAX_SIZE => Ok(Size(bytes)),
            _ => Err(format!("{} is more than 4GiB; write at most 4GiB", clip(text))),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB)$", "examples": ["64KiB", "32MiB"] })
    }
}

impl Notation for SocketAddr {
    const EXPECTED: &'static str = "an IP address and a port such as 127.0.0.1:8080 or [::1]:8080";

    fn read(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| match host_and_port(text) {
            Some(_) => format!("\"{}\" names a host, which is not supported yet; write {}", clip(text), Self::EXPECTED),
            None => not(text, Self::EXPECTED),
        })
    }

    fn schema() -> Schema {
        json_schema!({
            "type": "string",
            "pattern": r"^([0-9]{1,3}(\.[0-9]{1,3}){3}|\[[0-9a-fA-F:.]+(%[0-9]+)?\]):[0-9]{1,5}$",
            "examples": ["127.0.0.1:8080", "[::1]:8080"],
        })
    }
}

impl Notation for SpiffeId {
    const EXPECTED: &'static str = "a SPIFFE ID such as spiffe://cluster.local/ns/default/sa/alpha";

    fn read(text: &str) -> Result<Self, String> {
        text.parse().map_err(|why: InvalidId| format!("\"{}\" is not {}: {why}", clip(text), Self::EXPECTED))
    }

    fn schema() -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^spiffe://[a-z0-9._-]+(/[A-Za-z0-9._-]+)+$",
            "maxLength": crate::identity::MAX_ID_BYTES,
        })
    }
}

/// The name and the port of what is no address because it names a host.
pub(super) fn host_and_port(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let named = host.contains(|c: char| c.is_ascii_alphabetic()) && !host.contains([':', '[']);
    Some((host, port.parse().ok()?)).filter(|_| named)
}

fn not(text: &str, expected: &str) -> String {
    format!("\"{}\" is not {expected}", clip(text))
}

/// Digits and a unit; nothing if either is not there, or the product is too large to have.
fn quantity(text: &str, unit: impl Fn(&str) -> Option<u64>) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, suffix) = text.split_at(digits);
    if number.is_empty() {
        return None;
    }
    // More digits than a u64 has is still a number: too large, and said so by the caller's bound.
    Some(number.parse::<u64>().unwrap_or(u64::MAX).saturating_mul(unit(suffix)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in [("0s", 0), ("1500ms", 1500), ("2s", 2000), ("5m", 300_000), ("24h", 86_400_000)] {
            assert_eq!(Duration::read(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "5", "-1s", "1.5s", "2 s", "2S", "2sec", "5µs"] {
            assert!(Duration::read(text).is_err_and(|why| why.contains("is not a duration")), "{text:?}");
        }
        for text in ["86400001ms", "25h", "99999999999999999999h"] {
            assert!(Duration::read(text).is_err_and(|why| why.contains("at most 24h")), "{text:?}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [("0B", 0), ("64KiB", 65_536), ("32MiB", 33_554_432), ("4GiB", MAX_SIZE)] {
            assert_eq!(Size::read(text), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "64", "64KB", "64kib", "1.5GiB"] {
            assert!(Size::read(text).is_err(), "{text:?}");
        }
        for text in ["4294967297B", "5GiB", "99999999999999999999GiB"] {
            assert!(Size::read(text).is_err_and(|why| why.contains("at most 4GiB")), "{text:?}");
        }
    }
}
