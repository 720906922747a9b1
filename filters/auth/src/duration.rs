//! Lengths of time as the sidecar's file has them: `1500ms`, `2s`, `5m`, `24h`.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};

/// A length of time as it is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(SpanVisitor)
    }
}

struct SpanVisitor;

impl Visitor<'_> for SpanVisitor {
    type Value = Span;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a length of time like `1500ms`, `2s`, `5m` or `24h`")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Span, E> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let unit = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
        };
        let millis = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
        let millis = millis.ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))?;
        Ok(Span(Duration::from_millis(millis)))
    }
}

/// A length of time within its bounds.
pub(crate) fn bounded(
    name: &str,
    span: Option<Span>,
    default: Duration,
    bounds: RangeInclusive<Duration>,
) -> Result<Duration, String> {
    let time = span.map_or(default, |Span(time)| time);
    if bounds.contains(&time) {
        return Ok(time);
    }
    Err(format!("`{name}` is {time:?}: it must be {:?} to {:?}", bounds.start(), bounds.end()))
}

#[cfg(not(target_family = "wasm"))]
impl schemars::JsonSchema for Span {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Span".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "description": "A length of time", "pattern": "^[0-9]+(ms|s|m|h)$"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_read() {
        let read = |text: &str| serde_json::from_value::<Span>(text.into()).map(|span| span.0.as_millis());
        for (text, millis) in [("0s", 0), ("1500ms", 1500), ("2s", 2000), ("5m", 300_000), ("24h", 86_400_000)] {
            assert_eq!(read(text).unwrap(), millis, "{text}");
        }
        for text in ["", "5", "s", "-1s", "1.5s", "5 s", "5d", "99999999999999999999s", "9999999999999999999h"] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains("expected a length of time like"), "{error}");
        }
    }
}
