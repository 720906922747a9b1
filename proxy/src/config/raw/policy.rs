//! Repetitions, bounds and ejection as written.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

use super::super::policy::{After, MAX_HEDGES, RetryOn};
use super::super::reader::{Field, nearest};
use super::super::word::{Notation, Percent, Size, Word};
use super::super::yaml::clip;

pub(in super::super) const ATTEMPTS: u32 = 2;
pub(in super::super) const ON: [&str; 3] = ["connect_failure", "refused_stream", "503"];
pub(in super::super) const BUDGET: &str = "20%";
pub(in super::super) const BACKOFF: &str = "25ms";
pub(in super::super) const MAX_BACKOFF: &str = "250ms";
pub(in super::super) const PER_TRY: &str = "0s";
pub(in super::super) const BODY: &str = "64KiB";
pub(in super::super) const CONSECUTIVE: u32 = 5;
pub(in super::super) const INTERVAL: &str = "10s";
pub(in super::super) const EJECTION: &str = "30s";
pub(in super::super) const MAX_EJECTION: &str = "5m";
pub(in super::super) const MAX_EJECTED: &str = "50%";
pub(in super::super) const FACTOR: f64 = 3.0;
pub(in super::super) const TIMED_ENDPOINTS: u32 = 3;
pub(in super::super) const TIMED_REQUESTS: u32 = 20;
pub(in super::super) const RATED_ENDPOINTS: u32 = 5;
pub(in super::super) const RATED_REQUESTS: u32 = 100;
pub(in super::super) const WINDOW: &str = "10s";
pub(in super::super) const MIN_REQUESTS: u32 = 20;
pub(in super::super) const OPEN: &str = "5s";
pub(in super::super) const PROBES: u32 = 3;
pub(in super::super) const DEVIATION: f64 = 1.9;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map such as {attempts: 2, on: [connect_failure, refused_stream, 503]}")]
pub(in super::super) struct Retries {
    /// Repetitions at the most; 0: none, not even of what nobody has seen.
    #[serde(default)]
    #[schemars(extend("default" = ATTEMPTS, "minimum" = 0, "maximum" = 10))]
    pub(in super::super) attempts: Field<Count>,
    /// What a request is repeated for: connect_failure, refused_stream (provably not processed), reset (no answer came),
    /// gateway_error (502, 503, 504), 5xx, statuses, and codes of gRPC by their names. But for the first two, only
    /// requests that are idempotent, have an `idempotency-key`, or one of `methods`.
    #[serde(default)]
    #[schemars(extend("default" = ON))]
    pub(in super::super) on: Field<Vec<Field<Condition>>>,
    /// Methods of which the service says that they may be repeated, such as POST for gRPC.
    #[serde(default)]
    pub(in super::super) methods: Field<Vec<Field<String>>>,
    /// Repetitions under way at once, as a share of the requests in flight, but at least three. What reached nobody is
    /// repeated without it.
    #[serde(default)]
    #[schemars(extend("default" = BUDGET))]
    pub(in super::super) budget: Field<Word<Percent>>,
    /// The wait before the first repetition is a random part of this, twice as much before the next, and so on.
    #[serde(default)]
    #[schemars(extend("default" = BACKOFF))]
    pub(in super::super) backoff: Field<Word<Duration>>,
    /// The longest wait.
    #[serde(default)]
    #[schemars(extend("default" = MAX_BACKOFF))]
    pub(in super::super) max_backoff: Field<Word<Duration>>,
    /// From the end of the request until the head of the response, for each try; a try that takes longer is given up, and
    /// repeated if the request may be. `0s`: no bound but `timeouts.request`, which is for all tries together.
    #[serde(default)]
    #[schemars(extend("default" = PER_TRY))]
    pub(in super::super) per_try_timeout: Field<Word<Duration>>,
    /// Another endpoint is asked, too, when an answer takes long, and the first good answer counts. Only for requests that
    /// may be repeated whatever became of them, and within `budget`.
    #[serde(default)]
    pub(in super::super) hedge: Field<Hedge>,
    /// Bytes of a request's body that are kept for a repetition.
    #[serde(default)]
    #[schemars(extend("default" = BODY))]
    pub(in super::super) body: Field<Word<Size>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map such as {after: p95}")]
pub(in super::super) struct Hedge {
    /// After what wait from the end of the request: a time, or a quantile of the recent ones such as p95, which needs a
    /// hundred answers first.
    pub(in super::super) after: Field<Word<After>>,
    /// How many at the most for one request.
    #[serde(default)]
    #[schemars(extend("default" = 1, "minimum" = 1, "maximum" = MAX_HEDGES))]
    pub(in super::super) max: Field<Count>,
}

/// `50ms`, or `p95`.
impl Notation for After {
    const EXPECTED: &'static str = "a wait such as 50ms, or a quantile such as p95";

    fn read(text: &str) -> Result<Self, String> {
        let wrong = || format!("\"{}\" is not {}", clip(text), Self::EXPECTED);
        let Some(quantile) = text.strip_prefix('p') else {
            return Duration::read(text).map(After::Fixed).map_err(|_| wrong());
        };
        let (whole, tenth) = quantile.split_once('.').unwrap_or((quantile, "0"));
        let digits = |text: &str, most| text.len() <= most && text.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole, 2) || !digits(tenth, 1) {
            return Err(wrong());
        }
        match (whole.parse::<u16>(), tenth.parse::<u16>()) {
            (Ok(whole @ 50..), Ok(tenth)) => Ok(After::Quantile(whole * 10 + tenth)),
            (Ok(_), Ok(_)) => Err(format!("\"{}\" would ask twice for most requests; write p50 to p99.9", clip(text))),
            _ => Err(wrong()),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": r"^([0-9]+(ms|s|m|h)|p[5-9][0-9](\.[0-9])?)$", "examples": ["50ms", "p95"] })
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map such as {connections: 1024, pending: 1024, requests: 4096}")]
pub(in super::super) struct Limits {
    /// Open connections to all endpoints, in each worker. Beyond it requests wait for one.
    #[serde(default)]
    #[schemars(extend("minimum" = 1))]
    pub(in super::super) connections: Field<Count>,
    /// Requests that wait for a connection, those for which it is opened included, in each worker. Beyond it they are
    /// answered 503 at once.
    #[serde(default)]
    #[schemars(extend("minimum" = 1))]
    pub(in super::super) pending: Field<Count>,
    /// Requests in flight, in each worker. Beyond it they are answered 503 at once.
    #[serde(default)]
    #[schemars(extend("minimum" = 1))]
    pub(in super::super) requests: Field<Count>,
    /// Repetitions under way, in each worker. Beyond it there are no more.
    #[serde(default)]
    #[schemars(extend("minimum" = 0))]
    pub(in super::super) retries: Field<Count>,
    /// The same for each endpoint.
    #[serde(default)]
    pub(in super::super) endpoint: Field<EndpointLimits>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map such as {connections: 128, requests: 512}")]
pub(in super::super) struct EndpointLimits {
    /// Open connections to an endpoint, in each worker.
    #[serde(default)]
    #[schemars(extend("minimum" = 1))]
    pub(in super::super) connections: Field<Count>,
    /// Requests in flight at an endpoint, in each worker. Beyond it others are chosen.
    #[serde(default)]
    #[schemars(extend("minimum" = 1))]
    pub(in super::super) requests: Field<Count>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(
    deny_unknown_fields,
    expecting = "a map such as {consecutive: 5, interval: 10s, ejection: 30s, max_ejected: 50%}"
)]
pub(in super::super) struct Outliers {
    /// Failures in a row (502, 503, 504, or no answer) after which an endpoint is passed over; 0: they do not count. With
    /// hedges also requests that others answer first, if it has answered none for a second.
    #[serde(default)]
    #[schemars(extend("default" = CONSECUTIVE, "minimum" = 0))]
    pub(in super::super) consecutive: Field<Count>,
    /// How often success rates are compared, and how long an endpoint must do well for one ejection to be forgotten.
    #[serde(default)]
    #[schemars(extend("default" = INTERVAL))]
    pub(in super::super) interval: Field<Word<Duration>>,
    /// How long the first ejection lasts; the second twice as long, and so on. Then one request at a time tries the
    /// endpoint, and the first that succeeds brings it back.
    #[serde(default)]
    #[schemars(extend("default" = EJECTION))]
    pub(in super::super) ejection: Field<Word<Duration>>,
    /// How long an ejection lasts at the most.
    #[serde(default)]
    #[schemars(extend("default" = MAX_EJECTION))]
    pub(in super::super) max_ejection: Field<Word<Duration>>,
    /// Endpoints that may be ejected at once, 1% or more; one may always be if there are others.
    #[serde(default)]
    #[schemars(extend("default" = MAX_EJECTED))]
    pub(in super::super) max_ejected: Field<Word<Percent>>,
    /// Ejects an endpoint whose share of successes is far below that of the others; without it they are not compared.
    #[serde(default)]
    pub(in super::super) success_rate: Field<SuccessRate>,
    /// Ejects an endpoint whose median latency is far above that of the others; without it they are not compared.
    #[serde(default)]
    pub(in super::super) latency: Field<Latency>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(
    rename = "OutlierLatency",
    deny_unknown_fields,
    expecting = "a map such as {factor: 3, endpoints: 3, requests: 20}, or {}"
)]
pub(in super::super) struct Latency {
    /// By how much its median over an interval has to be above the median of theirs; and 5 ms at least.
    #[serde(default)]
    #[schemars(extend("default" = FACTOR, "minimum" = 1.5, "maximum" = 1000))]
    pub(in super::super) factor: Field<f64>,
    /// How many endpoints must have had enough answers.
    #[serde(default)]
    #[schemars(extend("default" = TIMED_ENDPOINTS, "minimum" = 2))]
    pub(in super::super) endpoints: Field<Count>,
    /// How many answers in an interval are enough.
    #[serde(default)]
    #[schemars(extend("default" = TIMED_REQUESTS, "minimum" = 1))]
    pub(in super::super) requests: Field<Count>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map such as {endpoints: 5, requests: 100, deviation: 1.9}, or {}")]
pub(in super::super) struct SuccessRate {
    /// How many endpoints must have had enough requests.
    #[serde(default)]
    #[schemars(extend("default" = RATED_ENDPOINTS, "minimum" = 3))]
    pub(in super::super) endpoints: Field<Count>,
    /// How many requests in an interval are enough.
    #[serde(default)]
    #[schemars(extend("default" = RATED_REQUESTS, "minimum" = 1))]
    pub(in super::super) requests: Field<Count>,
    /// How many standard deviations below the mean are too few.
    #[serde(default)]
    #[schemars(extend("default" = DEVIATION, "minimum" = 0.1, "maximum" = 100))]
    pub(in super::super) deviation: Field<f64>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map such as {failures: 50%, window: 10s, requests: 20, open: 5s}")]
pub(in super::super) struct Breaker {
    /// The share of requests that fail (5xx, or no answer) from which on all are answered 503.
    #[serde(default)]
    pub(in super::super) failures: Field<Word<Percent>>,
    /// The same for answers that take long.
    #[serde(default)]
    pub(in super::super) slow: Field<Slow>,
    /// The time over which requests are counted.
    #[serde(default)]
    #[schemars(extend("default" = WINDOW))]
    pub(in super::super) window: Field<Word<Duration>>,
    /// How many there must be in it.
    #[serde(default)]
    #[schemars(extend("default" = MIN_REQUESTS, "minimum" = 1))]
    pub(in super::super) requests: Field<Count>,
    /// How long all are refused.
    #[serde(default)]
    #[schemars(extend("default" = OPEN))]
    pub(in super::super) open: Field<Word<Duration>>,
    /// How many requests try the service then; if all go well, all are let in again.
    #[serde(default)]
    #[schemars(extend("default" = PROBES, "minimum" = 1))]
    pub(in super::super) probes: Field<Count>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map such as {share: 50%, after: 1s}")]
pub(in super::super) struct Slow {
    /// The share of requests.
    pub(in super::super) share: Field<Word<Percent>>,
    /// From when on an answer is late.
    pub(in super::super) after: Field<Word<Duration>>,
}

/// How many.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Count(pub(in super::super) u32);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl Visitor<'_> for Read {
            type Value = Count;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number such as 1024")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Count, E> {
                let count = u32::try_from(number).map(Count);
                count.map_err(|_| E::invalid_type(de::Unexpected::Unsigned(number), &self))
            }
        }
        deserializer.deserialize_any(Read)
    }
}

impl JsonSchema for Count {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Count".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": 0, "maximum": u32::MAX })
    }
}

/// What a request is repeated for: one word of `retries.on`.
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum Condition {
    /// One of [`WORDS`].
    Word(&'static str),
    /// A status, 400 to 599.
    Status(u16),
    /// A code of gRPC.
    Grpc(u8),
}

const WORDS: [&str; 5] = ["connect_failure", "refused_stream", "reset", "gateway_error", "5xx"];

/// The codes of gRPC by number (`google.rpc.Code`), as Envoy's `retry_on` spells some of them.
pub(super) const GRPC: [&str; 17] = [
    "ok",
    "cancelled",
    "unknown",
    "invalid_argument",
    "deadline_exceeded",
    "not_found",
    "already_exists",
    "permission_denied",
    "resource_exhausted",
    "failed_precondition",
    "aborted",
    "out_of_range",
    "unimplemented",
    "internal",
    "unavailable",
    "data_loss",
    "unauthenticated",
];

impl Condition {
    const EXPECTED: &'static str = "something that a request is repeated for, such as connect_failure or 503";

    /// Its value.
    ///
    /// # Errors
    /// What is wrong with it, and what would be right.
    pub(in super::super) fn read(text: &str) -> Result<Self, String> {
        if let Some(word) = WORDS.iter().find(|word| **word == text) {
            return Ok(Condition::Word(word));
        }
        if let Some(code) = GRPC.iter().position(|name| *name == text).filter(|code| *code > 0) {
            return Ok(Condition::Grpc(code as u8));
        }
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            return Condition::status(text.parse().unwrap_or(u64::MAX));
        }
        Err(match nearest(text, WORDS.into_iter().chain(GRPC.into_iter().skip(1))) {
            Some(word) => format!("\"{}\" is not {}; did you mean \"{word}\"?", clip(text), Self::EXPECTED),
            None => {
                let right = WORDS.join(", ");
                format!(
                    "\"{}\" is not {}; write {right}, a status, or the name of a gRPC code",
                    clip(text),
                    Self::EXPECTED
                )
            }
        })
    }

    fn status(number: u64) -> Result<Self, String> {
        match u16::try_from(number) {
            Ok(status) if (400..=599).contains(&status) => Ok(Condition::Status(status)),
            _ => Err(format!("the status {number} is no failure; write one from 400 to 599")),
        }
    }

    /// Adds it to what is repeated.
    pub(in super::super) fn add_to(self, on: &mut RetryOn) {
        match self {
            Condition::Word("connect_failure") => on.connect_failure = true,
            Condition::Word("refused_stream") => on.refused_stream = true,
            Condition::Word("reset") => on.reset = true,
            Condition::Word("gateway_error") => (502..=504).for_each(|status| on.statuses.insert(status)),
            Condition::Word(_) => (500..=599).for_each(|status| on.statuses.insert(status)),
            Condition::Status(status) => on.statuses.insert(status),
            Condition::Grpc(code) => on.grpc |= 1 << code,
        }
    }
}

impl<'de> Deserialize<'de> for Condition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl Visitor<'_> for Read {
            type Value = Condition;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(Condition::EXPECTED)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Condition, E> {
                Condition::read(text).map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Condition, E> {
                Condition::status(number).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Read)
    }
}

impl JsonSchema for Condition {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Condition".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let words: Vec<&str> = WORDS.into_iter().chain(GRPC.into_iter().skip(1)).collect();
        json_schema!({ "anyOf": [
            { "enum": words },
            { "type": "string", "pattern": "^[45][0-9][0-9]$" },
            { "type": "integer", "minimum": 400, "maximum": 599 },
        ] })
    }
}

/// `20%`.
impl Notation for Percent {
    const EXPECTED: &'static str = "a percentage such as 20%";

    fn read(text: &str) -> Result<Self, String> {
        let digits = text.strip_suffix('%').filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
        match digits.and_then(|digits| digits.parse().ok()) {
            Some(percent @ 0..=100) => Ok(Percent(percent)),
            _ => Err(format!("\"{}\" is not {} (0% to 100%)", clip(text), Self::EXPECTED)),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^(100|[0-9]{1,2})%$", "examples": ["20%"] })
    }
}
