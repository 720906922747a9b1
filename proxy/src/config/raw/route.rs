//! Routes as written.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

use super::super::reader::Field;
use super::super::route::{GrpcKind, Scheme};
use super::super::word::{Number, Word};
use super::MAX_WEIGHT;
use super::admission::RateLimit;
use super::fault::{Fault, Mirror};
use super::matching::{PathMatch, TextMatch};

/// Which requests to a service go where (Gateway API, HTTPRoute). Of all rules of a service the most specific counts.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map")]
pub(in super::super) struct Route {
    /// The service that is called.
    pub(in super::super) service: Field<String>,
    /// What is done with its requests; those that no rule matches are answered 404.
    pub(in super::super) rules: Field<Vec<Field<Rule>>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "RouteRule", deny_unknown_fields, expecting = "a map")]
pub(in super::super) struct Rule {
    /// Its name, unique for the service; by default `rule-N`, counted from 1.
    #[serde(default)]
    pub(in super::super) name: Field<String>,
    /// It applies if one of them does; by default to every request.
    #[serde(default)]
    pub(in super::super) matches: Field<Vec<Field<Match>>>,
    /// What is done to requests and responses.
    #[serde(default)]
    pub(in super::super) filters: Field<Vec<Field<RuleFilter>>>,
    /// Where requests go, by weight; by default to the service itself.
    #[serde(default)]
    pub(in super::super) to: Field<Vec<Field<To>>>,
    /// In place of the service's `timeouts.request`; `0s`: no bound.
    #[serde(default)]
    pub(in super::super) timeout: Field<Word<Duration>>,
    /// In place of the `retries.per_try_timeout` of the service that requests go to (Gateway API, `timeouts.backendRequest`); `0s`: no bound.
    #[serde(default)]
    pub(in super::super) per_try_timeout: Field<Word<Duration>>,
    /// Faults on purpose, in place of those of the service that it goes to.
    #[serde(default)]
    pub(in super::super) fault: Field<Fault>,
    /// How often the rule may be followed; before the limits of the service that requests go to.
    #[serde(default)]
    pub(in super::super) rate_limits: Field<Vec<Field<RateLimit>>>,
}

/// What a request must be, in every respect that is given.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "RouteMatch", deny_unknown_fields, expecting = "a map such as {path: {prefix: /v2}, method: GET}")]
pub(in super::super) struct Match {
    /// Its host, or `*.` and the end of it.
    #[serde(default)]
    pub(in super::super) host: Field<String>,
    /// Its path; by default `{prefix: /}`.
    #[serde(default)]
    pub(in super::super) path: Field<PathMatch>,
    /// Its method.
    #[serde(default)]
    pub(in super::super) method: Field<String>,
    /// The gRPC service and method that it calls (Gateway API, GRPCRoute), in place of path and method.
    #[serde(default)]
    pub(in super::super) grpc: Field<GrpcMatch>,
    /// Its fields.
    #[serde(default)]
    pub(in super::super) headers: Field<Vec<Field<TextMatch>>>,
    /// Parameters of its query.
    #[serde(default)]
    pub(in super::super) query: Field<Vec<Field<TextMatch>>>,
}

/// What a gRPC request calls: a service, a method, or both.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map such as {service: shop.v1.Orders, method: Place}")]
pub(in super::super) struct GrpcMatch {
    /// The service, with its package.
    #[serde(default)]
    pub(in super::super) service: Field<String>,
    /// The method.
    #[serde(default)]
    pub(in super::super) method: Field<String>,
    /// Whether these are meant as they are, or as patterns of the whole (RE2's syntax).
    #[serde(default, rename = "type")]
    #[schemars(extend("default" = "exact"))]
    pub(in super::super) kind: Field<Word<GrpcKind>>,
}

/// One of these.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map such as {rewrite: {path: {prefix: /}}}")]
pub(in super::super) struct RuleFilter {
    /// Changes of the request's fields.
    #[serde(default)]
    pub(in super::super) request_headers: Field<FieldChanges>,
    /// Changes of the response's fields.
    #[serde(default)]
    pub(in super::super) response_headers: Field<FieldChanges>,
    /// The answer is another place to ask.
    #[serde(default)]
    pub(in super::super) redirect: Field<Redirect>,
    /// The service is asked for something else.
    #[serde(default)]
    pub(in super::super) rewrite: Field<Rewrite>,
    /// The name of one of `filters`; several run in the order in which they stand.
    #[serde(default)]
    pub(in super::super) filter: Field<String>,
    /// A copy goes to another service; there may be several.
    #[serde(default)]
    pub(in super::super) mirror: Field<Mirror>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map such as {set: [{name: x-version, value: \"2\"}]}")]
pub(in super::super) struct FieldChanges {
    /// In place of what is there.
    #[serde(default)]
    pub(in super::super) set: Field<Vec<Field<Line>>>,
    /// Beside what is there.
    #[serde(default)]
    pub(in super::super) add: Field<Vec<Field<Line>>>,
    /// Names of what is taken away.
    #[serde(default)]
    pub(in super::super) remove: Field<Vec<Field<String>>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "HeaderLine", deny_unknown_fields, expecting = "a map such as {name: x-version, value: \"2\"}")]
pub(in super::super) struct Line {
    /// The field's name.
    pub(in super::super) name: Field<String>,
    /// Its value.
    pub(in super::super) value: Field<String>,
}

/// Another place to ask; what is not given stays as it is.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map such as {scheme: https, status: 301}")]
pub(in super::super) struct Redirect {
    /// Its scheme.
    #[serde(default)]
    pub(in super::super) scheme: Field<Word<Scheme>>,
    /// Its host.
    #[serde(default)]
    pub(in super::super) host: Field<String>,
    /// Its port; with `scheme` by default that of the scheme.
    #[serde(default)]
    #[schemars(extend("minimum" = 1, "maximum" = u16::MAX))]
    pub(in super::super) port: Field<Number>,
    /// Its path.
    #[serde(default)]
    pub(in super::super) path: Field<PathChange>,
    /// The status of the answer.
    #[serde(default)]
    #[schemars(extend("default" = 302))]
    pub(in super::super) status: Field<RedirectStatus>,
}

/// Something else to ask for; what is not given stays as it is.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map such as {path: {prefix: /}}")]
pub(in super::super) struct Rewrite {
    /// The host.
    #[serde(default)]
    pub(in super::super) host: Field<String>,
    /// The path.
    #[serde(default)]
    pub(in super::super) path: Field<PathChange>,
}

/// One of two; the query stays.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map such as {prefix: /v1}")]
pub(in super::super) struct PathChange {
    /// This path.
    #[serde(default)]
    pub(in super::super) full: Field<String>,
    /// This in place of the prefix that was matched.
    #[serde(default)]
    pub(in super::super) prefix: Field<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "Backend", deny_unknown_fields, expecting = "a map such as {service: delta-v2, weight: 10}")]
pub(in super::super) struct To {
    /// A service.
    pub(in super::super) service: Field<String>,
    /// Share of requests relative to the others; 0 for none.
    #[serde(default)]
    #[schemars(extend("default" = 1))]
    pub(in super::super) weight: Field<Share>,
}

/// A share of requests, 0 to [`MAX_WEIGHT`].
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Share(pub(in super::super) u32);

/// 301, 302, 303, 307 or 308.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct RedirectStatus(pub(in super::super) u16);

const STATUSES: [u16; 5] = [301, 302, 303, 307, 308];

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl Visitor<'_> for Read {
            type Value = Share;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a weight from 0 to {MAX_WEIGHT}")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Share, E> {
                let share = u32::try_from(number).ok().filter(|_| number <= MAX_WEIGHT).map(Share);
                share.ok_or_else(|| E::invalid_type(de::Unexpected::Unsigned(number), &self))
            }
        }
        deserializer.deserialize_any(Read)
    }
}

impl<'de> Deserialize<'de> for RedirectStatus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl Visitor<'_> for Read {
            type Value = RedirectStatus;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the status of a redirect: 301, 302, 303, 307 or 308")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<RedirectStatus, E> {
                let status = u16::try_from(number).ok().filter(|status| STATUSES.contains(status)).map(RedirectStatus);
                status.ok_or_else(|| E::invalid_type(de::Unexpected::Unsigned(number), &self))
            }
        }
        deserializer.deserialize_any(Read)
    }
}

impl JsonSchema for Share {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Share".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": 0, "maximum": MAX_WEIGHT })
    }
}

impl JsonSchema for RedirectStatus {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "RedirectStatus".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "enum": STATUSES })
    }
}
