//! How endpoints share requests, and how they are checked, as written.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};

use super::super::balance::{Balance, TableKind};
use super::super::reader::Field;
use super::super::word::{Choice, Notation, Percent, Word, host_and_port};
use super::super::yaml::clip;
use super::policy::Count;
use super::{Weight, one_of};

pub(in super::super) const PANIC_THRESHOLD: &str = "50%";
pub(in super::super) const WINDOW: &str = "30s";
pub(in super::super) const AGGRESSION: f64 = 1.0;
pub(in super::super) const MIN_WEIGHT: &str = "10%";
pub(in super::super) const COOKIE: &str = "lacis-affinity";
pub(in super::super) const TTL: &str = "0s";
pub(in super::super) const INTERVAL: &str = "10s";
pub(in super::super) const TIMEOUT: &str = "1s";
pub(in super::super) const UNHEALTHY: u32 = 3;
pub(in super::super) const HEALTHY: u32 = 2;
pub(in super::super) const STATUS: u16 = 200;
/// Largest priority of an endpoint (Envoy has as many).
pub(in super::super) const MAX_PRIORITY: u32 = 127;

/// An endpoint: an address, or a map with more than that.
#[derive(Debug)]
pub(in super::super) enum Endpoint {
    Plain(SocketAddr),
    Map(EndpointMap),
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "EndpointMap", deny_unknown_fields, expecting = "a map")]
pub(in super::super) struct EndpointMap {
    /// IP address and port of a peer's inbound listener.
    pub(in super::super) address: Field<Word<SocketAddr>>,
    /// Share of requests relative to the other endpoints.
    #[serde(default)]
    #[schemars(extend("default" = 1))]
    pub(in super::super) weight: Field<Weight>,
    /// The zone that it is in; see `node.locality.zone`.
    #[serde(default)]
    pub(in super::super) zone: Field<String>,
    /// Those with the smallest number are asked, others only as far as too few of these are well.
    #[serde(default)]
    #[schemars(extend("default" = 0, "minimum" = 0, "maximum" = MAX_PRIORITY))]
    pub(in super::super) priority: Field<Count>,
}

/// A balancing policy: a word, or a map for the one with settings.
#[derive(Debug)]
pub(in super::super) enum Policy {
    Word(Balance),
    Map(PolicyMap),
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "BalanceMap", deny_unknown_fields, expecting = "a map such as {hash: {header: x-user}}")]
pub(in super::super) struct PolicyMap {
    /// The same endpoint for the same key.
    pub(in super::super) hash: Field<Hash>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map such as {header: x-user}")]
#[schemars(extend("oneOf" = one_of(["header", "cookie", "query", "source"])))]
pub(in super::super) struct Hash {
    /// By the value of this field.
    #[serde(default)]
    pub(in super::super) header: Field<String>,
    /// By the value of this cookie.
    #[serde(default)]
    pub(in super::super) cookie: Field<String>,
    /// By the value of this parameter of the query.
    #[serde(default)]
    pub(in super::super) query: Field<String>,
    /// `true`: by the IP address that the request comes from.
    #[serde(default)]
    pub(in super::super) source: Field<bool>,
    /// What finds the endpoint: `maglev` at once and in even shares, `ring` without moving a key that need not move.
    #[serde(default)]
    #[schemars(extend("default" = "maglev"))]
    pub(in super::super) table: Field<Word<TableKind>>,
}

/// Whether endpoints in the own zone are preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Zones {
    Prefer,
    Ignore,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map such as {window: 30s}")]
pub(in super::super) struct SlowStart {
    /// After this it has all of its weight.
    #[serde(default)]
    #[schemars(extend("default" = WINDOW))]
    pub(in super::super) window: Field<Word<Duration>>,
    /// Before that it has the share of the window that has passed, to the power of one by this; more than 1: it rises soon.
    #[serde(default)]
    #[schemars(extend("default" = AGGRESSION, "minimum" = 0.1, "maximum" = 100))]
    pub(in super::super) aggression: Field<f64>,
    /// The part of its weight that it begins with.
    #[serde(default)]
    #[schemars(extend("default" = MIN_WEIGHT))]
    pub(in super::super) min_weight: Field<Word<Percent>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map such as {cookie: session, ttl: 1h}, or {}")]
pub(in super::super) struct Affinity {
    /// The name of the cookie that names the endpoint; nobody can read an address in it.
    #[serde(default)]
    #[schemars(extend("default" = COOKIE))]
    pub(in super::super) cookie: Field<String>,
    /// How long clients keep it; `0s`: until they end.
    #[serde(default)]
    #[schemars(extend("default" = TTL))]
    pub(in super::super) ttl: Field<Word<Duration>>,
    /// An environment variable with a secret of at least 16 bytes that all sidecars have which clients may reach. Without
    /// it each process has its own, and knows no cookie of another, nor of itself before a restart.
    #[serde(default)]
    pub(in super::super) secret_env: Field<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "HealthCheck", deny_unknown_fields, expecting = "a map such as {http: {path: /health}}")]
#[schemars(extend("oneOf" = one_of(["http", "grpc", "tcp"])))]
pub(in super::super) struct Health {
    /// A GET request.
    #[serde(default)]
    pub(in super::super) http: Field<HttpCheck>,
    /// `grpc.health.v1.Health/Check`.
    #[serde(default)]
    pub(in super::super) grpc: Field<GrpcCheck>,
    /// Whether a link can be opened.
    #[serde(default)]
    pub(in super::super) tcp: Field<TcpCheck>,
    /// From one check to the next; up to a tenth longer.
    #[serde(default)]
    #[schemars(extend("default" = INTERVAL))]
    pub(in super::super) interval: Field<Word<Duration>>,
    /// How long one may take.
    #[serde(default)]
    #[schemars(extend("default" = TIMEOUT))]
    pub(in super::super) timeout: Field<Word<Duration>>,
    /// After so many failures in a row an endpoint is passed over. The very first check decides alone.
    #[serde(default)]
    #[schemars(extend("default" = UNHEALTHY, "minimum" = 1))]
    pub(in super::super) unhealthy: Field<Count>,
    /// After so many successes in a row it is used again.
    #[serde(default)]
    #[schemars(extend("default" = HEALTHY, "minimum" = 1))]
    pub(in super::super) healthy: Field<Count>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map such as {path: /health}")]
pub(in super::super) struct HttpCheck {
    /// What is asked for.
    pub(in super::super) path: Field<String>,
    /// The Host; by default the service's name.
    #[serde(default)]
    pub(in super::super) host: Field<String>,
    /// Statuses that are good.
    #[serde(default)]
    #[schemars(extend("default" = [STATUS]))]
    pub(in super::super) status: Field<Vec<Field<StatusCode>>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map such as {service: my.Service}, or {}")]
pub(in super::super) struct GrpcCheck {
    /// The service that is asked about; by default the server as a whole.
    #[serde(default)]
    pub(in super::super) service: Field<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "an empty map: {}")]
pub(in super::super) struct TcpCheck {}

/// A final status.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct StatusCode(pub(in super::super) u16);

impl Choice for TableKind {
    const EXPECTED: &'static str = "a table";
    const WORDS: &'static [(&'static str, Option<Self>)] =
        &[("maglev", Some(Self::Maglev)), ("ring", Some(Self::Ring))];
}

impl Choice for Zones {
    const EXPECTED: &'static str = "what zones are for";
    const WORDS: &'static [(&'static str, Option<Self>)] =
        &[("prefer", Some(Self::Prefer)), ("ignore", Some(Self::Ignore))];
}

/// The policies without settings.
const POLICIES: [(&str, Balance); 4] = [
    ("least_load", Balance::LeastLoad),
    ("least_request", Balance::LeastRequest),
    ("round_robin", Balance::RoundRobin),
    ("random", Balance::Random),
];

impl Notation for Balance {
    const EXPECTED: &'static str = "a balancing policy";

    fn read(text: &str) -> Result<Self, String> {
        let words = || POLICIES.iter().map(|(word, _)| *word);
        if let Some((_, policy)) = POLICIES.iter().find(|(word, _)| *word == text) {
            return Ok(policy.clone());
        }
        let text = clip(text);
        Err(match text.as_ref() {
            "hash" => {
                "\"hash\" needs to know of what; write {hash: {header: x-user}}, or cookie, query or source".into()
            }
            _ => match super::super::reader::nearest(&text, words()) {
                Some(word) => format!("\"{text}\" is not {}; did you mean \"{word}\"?", Self::EXPECTED),
                None => {
                    let right = words().collect::<Vec<_>>().join(", ");
                    format!(
                        "\"{text}\" is not {}; write one of: {right}, or {{hash: {{header: x-user}}}}",
                        Self::EXPECTED
                    )
                }
            },
        })
    }

    fn schema() -> Schema {
        json_schema!({ "enum": POLICIES.map(|(word, _)| word) })
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Endpoint;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}, or a map such as {{address: 10.0.0.4:15006, weight: 2}}", SocketAddr::EXPECTED)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Endpoint, E> {
                let address = SocketAddr::read(text).map_err(|why| match host_and_port(text) {
                    Some((name, port)) => {
                        let (name, right) = (clip(name), "in the service, instead of `endpoints`");
                        format!("\"{name}\" is a name; write `dns: {{name: {name}, port: {port}}}` {right}")
                    }
                    None => why,
                });
                address.map(Endpoint::Plain).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Endpoint, A::Error> {
                EndpointMap::deserialize(MapAccessDeserializer::new(map)).map(Endpoint::Map)
            }
        }
        deserializer.deserialize_struct("Endpoint", &["address", "weight", "zone", "priority"], Read)
    }
}

impl<'de> Deserialize<'de> for Policy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Policy;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{} such as least_load, or {{hash: {{header: x-user}}}}", Balance::EXPECTED)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Policy, E> {
                Balance::read(text).map(Policy::Word).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Policy, A::Error> {
                PolicyMap::deserialize(MapAccessDeserializer::new(map)).map(Policy::Map)
            }
        }
        deserializer.deserialize_struct("BalanceMap", &["hash"], Read)
    }
}

impl<'de> Deserialize<'de> for StatusCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl Visitor<'_> for Read {
            type Value = StatusCode;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a final status, 200 to 599")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<StatusCode, E> {
                match u16::try_from(number) {
                    Ok(status) if (200..=599).contains(&status) => Ok(StatusCode(status)),
                    _ => Err(E::invalid_type(de::Unexpected::Unsigned(number), &self)),
                }
            }
        }
        deserializer.deserialize_any(Read)
    }
}

impl JsonSchema for StatusCode {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "StatusCode".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": 200, "maximum": 599 })
    }
}

impl JsonSchema for Endpoint {
    fn schema_name() -> Cow<'static, str> {
        "Endpoint".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [SocketAddr::schema(), generator.subschema_for::<EndpointMap>()] })
    }
}

impl JsonSchema for Policy {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Policy".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [Balance::schema(), generator.subschema_for::<PolicyMap>()] })
    }
}
