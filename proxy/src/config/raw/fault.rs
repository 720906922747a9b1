//! Faults on purpose and copies, as written.

use std::time::Duration;

use schemars::{JsonSchema, Schema, json_schema};
use serde::Deserialize;

use super::super::fault::Portion;
use super::super::reader::{Field, nearest};
use super::super::word::{Notation, Number, Word};
use super::super::yaml::clip;
use super::matching::TextMatch;
use super::policy::{Count, GRPC};

/// Faults for some requests, to see what an application does about them.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map such as {abort: {http_status: 503, percentage: 5%}}")]
pub(in super::super) struct Fault {
    /// Only for requests with all of these fields.
    #[serde(default)]
    pub(in super::super) headers: Field<Vec<Field<TextMatch>>>,
    /// A wait before the request is sent.
    #[serde(default)]
    pub(in super::super) delay: Field<Delay>,
    /// An answer in the place of the service's.
    #[serde(default)]
    pub(in super::super) abort: Field<Abort>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "FaultDelay", deny_unknown_fields, expecting = "a map such as {fixed: 2s, percentage: 10%}")]
pub(in super::super) struct Delay {
    /// How long; `timeouts.request` counts from its end.
    pub(in super::super) fixed: Field<Word<Duration>>,
    /// Of how many requests.
    pub(in super::super) percentage: Field<Word<Portion>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "FaultAbort", deny_unknown_fields, expecting = "a map such as {http_status: 503, percentage: 5%}")]
pub(in super::super) struct Abort {
    /// With this status, 200 to 599;
    #[serde(default)]
    #[schemars(extend("minimum" = 200, "maximum" = 599))]
    pub(in super::super) http_status: Field<Number>,
    /// or this code of gRPC, by its name.
    #[serde(default)]
    pub(in super::super) grpc_status: Field<Word<GrpcCode>>,
    /// Of how many requests.
    pub(in super::super) percentage: Field<Word<Portion>>,
}

/// A copy of requests, whose answer nobody sees. Bodies up to `retries.body` of the service are copied (64KiB unless it says so);
/// of longer ones there is no copy.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map such as {service: delta-v2, percent: 10%}")]
pub(in super::super) struct Mirror {
    /// The service that gets it.
    pub(in super::super) service: Field<String>,
    /// Of how many requests; by default of all.
    #[serde(default)]
    #[schemars(extend("default" = "100%"))]
    pub(in super::super) percent: Field<Word<Portion>>,
    /// The same as a fraction.
    #[serde(default)]
    pub(in super::super) fraction: Field<Fraction>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map such as {numerator: 1, denominator: 1000}")]
pub(in super::super) struct Fraction {
    /// So many requests
    pub(in super::super) numerator: Field<Count>,
    /// of so many.
    #[serde(default)]
    #[schemars(extend("default" = 100, "minimum" = 1))]
    pub(in super::super) denominator: Field<Count>,
}

/// The code of a failed gRPC call.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct GrpcCode(pub(in super::super) u8);

impl Notation for GrpcCode {
    const EXPECTED: &'static str = "the name of a gRPC code such as unavailable";

    fn read(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        if let Some(code) = GRPC.iter().position(|name| *name == lower).filter(|code| *code > 0) {
            return Ok(GrpcCode(code as u8));
        }
        Err(match nearest(&lower, GRPC.into_iter().skip(1)) {
            Some(name) => format!("\"{}\" is not {}; did you mean \"{name}\"?", clip(text), Self::EXPECTED),
            None => format!("\"{}\" is not {}", clip(text), Self::EXPECTED),
        })
    }

    fn schema() -> Schema {
        json_schema!({ "enum": GRPC.into_iter().skip(1).collect::<Vec<_>>() })
    }
}

/// `10%`, `0.0001%`: to the millionth part.
impl Notation for Portion {
    const EXPECTED: &'static str = "a percentage such as 10% or 0.1%";

    fn read(text: &str) -> Result<Self, String> {
        let parts = || {
            let number = text.strip_suffix('%')?;
            let (whole, rest) = number.split_once('.').unwrap_or((number, "0"));
            let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            if !digits(whole) || !digits(rest) || rest.len() > 4 {
                return None;
            }
            let millionths =
                whole.parse::<u32>().ok()?.checked_mul(10_000)? + format!("{rest:0<4}").parse::<u32>().ok()?;
            (millionths <= 1_000_000).then_some(Portion { numerator: millionths, denominator: 1_000_000 })
        };
        let right = "0% to 100%, with up to four decimals";
        parts().ok_or_else(|| format!("\"{}\" is not {} ({right})", clip(text), Self::EXPECTED))
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": r"^(100(\.0{1,4})?|[0-9]{1,2}(\.[0-9]{1,4})?)%$", "examples": ["10%", "0.1%"] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_have_four_decimals() {
        for (text, parts) in
            [("0%", 0), ("0.0001%", 1), ("0.1%", 1000), ("10%", 100_000), ("99.9999%", 999_999), ("100%", 1_000_000)]
        {
            assert_eq!(Portion::read(text), Ok(Portion { numerator: parts, denominator: 1_000_000 }), "{text}");
        }
        for text in ["", "%", "1", "101%", "100.0001%", "0.00001%", "-1%", "1,5%", ".5%", "5.%", "99999999999%"] {
            assert!(Portion::read(text).is_err(), "{text}");
        }
    }
}
