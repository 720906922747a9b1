//! Who may ask what, as written.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use http::Method;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, StrDeserializer, U64Deserializer};
use serde::de::{self, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};

use super::super::admission::{self, IdentityMatch, MAX_STARS, Priority};
use super::super::names::is_label;
use super::super::reader::Field;
use super::super::word::{Notation, Size, Word};
use super::super::yaml::clip;
use super::Port;
use super::matching::{PathMatch, TextMatch};
use super::policy::Count;
use crate::identity::{MAX_ID_BYTES, SpiffeId};

/// A rule of who may ask what. It concerns requests that meet all that it says, and do not meet all that `except` says.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map such as {identity: spiffe://…}")]
pub(in super::super) struct AccessRule {
    /// Its name in metrics and access records, unique among those of `allow` and `deny`; by default `allow-N` or `deny-N`,
    /// counted from 1.
    #[serde(default)]
    pub(in super::super) name: Field<String>,
    /// Who calls. `*` stands for any text: at the beginning or the end for any at all, elsewhere for any within a segment.
    #[serde(default)]
    pub(in super::super) identity: Field<Listed<Word<IdentityMatch>>>,
    /// The namespace of who calls.
    #[serde(default)]
    pub(in super::super) namespace: Field<Listed<Word<Namespace>>>,
    /// The path. Of one that can be read in several ways all readings must match in `allow`, and one in `deny`.
    #[serde(default)]
    pub(in super::super) path: Field<Listed<PathMatch>>,
    /// The method.
    #[serde(default)]
    pub(in super::super) method: Field<Listed<Word<MethodName>>>,
    /// Fields. Of several lines all must match in `allow`, and one (or one part between commas) in `deny`.
    #[serde(default)]
    pub(in super::super) headers: Field<Vec<Field<TextMatch>>>,
    /// The port of the application.
    #[serde(default)]
    pub(in super::super) port: Field<Listed<Port>>,
    /// The rule does not concern requests that meet all of this.
    #[serde(default)]
    pub(in super::super) except: Field<Conditions>,
    /// It decides nothing; what it would do is counted, and told in the access record.
    #[serde(default)]
    #[schemars(extend("default" = false))]
    pub(in super::super) dry_run: Field<bool>,
}

/// What a request must be, in every respect that is given.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map such as {path: {prefix: /v1}, method: GET}")]
pub(in super::super) struct Conditions {
    /// Who calls.
    #[serde(default)]
    pub(in super::super) identity: Field<Listed<Word<IdentityMatch>>>,
    /// The namespace of who calls.
    #[serde(default)]
    pub(in super::super) namespace: Field<Listed<Word<Namespace>>>,
    /// The path.
    #[serde(default)]
    pub(in super::super) path: Field<Listed<PathMatch>>,
    /// The method.
    #[serde(default)]
    pub(in super::super) method: Field<Listed<Word<MethodName>>>,
    /// Fields.
    #[serde(default)]
    pub(in super::super) headers: Field<Vec<Field<TextMatch>>>,
    /// The port of the application.
    #[serde(default)]
    pub(in super::super) port: Field<Listed<Port>>,
}

pub(in super::super) const PER: &str = "1s";
/// Keys of a rate limit: 64 KiB, and more callers and users than one sidecar sees in a bucket's time.
pub(in super::super) const MAX_KEYS: u32 = 4096;

/// A token bucket: what finds it empty is answered 429 with `retry-after`. All workers together count against it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map such as {requests: 100, per: 1s, key: identity}")]
pub(in super::super) struct RateLimit {
    /// Its name in metrics, unique in its list; by default `limit-N`, counted from 1.
    #[serde(default)]
    pub(in super::super) name: Field<String>,
    /// It is about requests that meet all of one of these; by default about every request.
    #[serde(default)]
    pub(in super::super) matches: Field<Vec<Field<Conditions>>>,
    /// So many pass,
    #[schemars(extend("minimum" = 1))]
    pub(in super::super) requests: Field<Count>,
    /// in this time.
    #[serde(default)]
    #[schemars(extend("default" = PER))]
    pub(in super::super) per: Field<Word<Duration>>,
    /// So many pass at once if none did for a while; by default as many as `requests`.
    #[serde(default)]
    #[schemars(extend("minimum" = 1))]
    pub(in super::super) burst: Field<Count>,
    /// What requests are counted apart by: `identity` of who calls (inbound), or `{header: NAME}`; by default all together.
    #[serde(default)]
    pub(in super::super) key: Field<Key>,
    /// How many keys are counted apart. Those beyond it that are in use share one bucket.
    #[serde(default)]
    #[schemars(extend("default" = MAX_KEYS, "minimum" = 1, "maximum" = admission::MAX_KEYS))]
    pub(in super::super) max_keys: Field<Count>,
}

pub(in super::super) const MIN_CONCURRENCY: u32 = 4;
pub(in super::super) const MAX_CONCURRENCY: u32 = 1000;
pub(in super::super) const INITIAL_CONCURRENCY: u32 = 20;

/// A limit of requests in flight that finds itself: `adaptive`, or a map.
#[derive(Debug)]
pub(in super::super) struct Concurrency(pub(in super::super) ConcurrencyBounds);

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map such as {min: 4, max: 1000}")]
pub(in super::super) struct ConcurrencyBounds {
    /// It never falls below this, in each worker.
    #[serde(default)]
    #[schemars(extend("default" = MIN_CONCURRENCY, "minimum" = 1))]
    pub(in super::super) min: Field<Count>,
    /// It never rises above this, in each worker.
    #[serde(default)]
    #[schemars(extend("default" = MAX_CONCURRENCY, "minimum" = 1))]
    pub(in super::super) max: Field<Count>,
    /// Where it begins, in each worker.
    #[serde(default)]
    #[schemars(extend("default" = INITIAL_CONCURRENCY, "minimum" = 1))]
    pub(in super::super) initial: Field<Count>,
}

impl<'de> Deserialize<'de> for Concurrency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Concurrency;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("adaptive, or a map such as {min: 4, max: 1000}")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Concurrency, E> {
                match text {
                    "adaptive" => Ok(Concurrency(ConcurrencyBounds::default())),
                    _ => Err(E::invalid_type(de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Concurrency, A::Error> {
                ConcurrencyBounds::deserialize(MapAccessDeserializer::new(map)).map(Concurrency)
            }
        }
        deserializer.deserialize_struct("ConcurrencyBounds", &["min", "max", "initial"], Read)
    }
}

impl JsonSchema for Concurrency {
    fn schema_name() -> Cow<'static, str> {
        "Concurrency".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "const": "adaptive" }, generator.subschema_for::<ConcurrencyBounds>()] })
    }
}

/// Bounds of the whole sidecar. Beyond them requests are answered 503 with `retry-after`, the least important first: `low`
/// from 80 % of a bound on, `normal` from 95 %, `critical` at the bound.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map such as {requests: 10000, memory: 512MiB}")]
pub(in super::super) struct Overload {
    /// Requests in flight, both ways, in all workers.
    #[serde(default)]
    #[schemars(extend("minimum" = 1))]
    pub(in super::super) requests: Field<Count>,
    /// Resident memory of the process. A few requests are let in even beyond it.
    #[serde(default)]
    pub(in super::super) memory: Field<Word<Size>>,
    /// Which requests matter more or less than others: the first that one meets counts; else it is `normal`. The health
    /// service of gRPC is `critical`.
    #[serde(default)]
    pub(in super::super) priorities: Field<Vec<Field<PriorityRule>>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map such as {priority: critical, matches: [{path: {exact: /health}}]}")]
pub(in super::super) struct PriorityRule {
    /// How much the requests matter.
    pub(in super::super) priority: Field<Word<Priority>>,
    /// Those that meet all of one of these.
    pub(in super::super) matches: Field<Vec<Field<Conditions>>>,
}

/// What requests are counted apart by.
#[derive(Debug)]
pub(in super::super) enum Key {
    Identity,
    Header(HeaderKey),
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map such as {header: x-user}")]
pub(in super::super) struct HeaderKey {
    /// The name of a field.
    pub(in super::super) header: Field<String>,
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("identity, or a map such as {header: x-user}")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Key, E> {
                match text {
                    "identity" => Ok(Key::Identity),
                    _ => Err(E::invalid_type(de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Key, A::Error> {
                HeaderKey::deserialize(MapAccessDeserializer::new(map)).map(Key::Header)
            }
        }
        deserializer.deserialize_struct("HeaderKey", &["header"], Read)
    }
}

impl JsonSchema for Key {
    fn schema_name() -> Cow<'static, str> {
        "RateLimitKey".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "const": "identity" }, generator.subschema_for::<HeaderKey>()] })
    }
}

/// One, or a list of which one is meant.
#[derive(Debug)]
pub(in super::super) struct Listed<T>(pub(in super::super) Vec<Field<T>>, pub(in super::super) Option<T>);

/// The name of a namespace.
#[derive(Debug)]
pub(in super::super) struct Namespace(pub(in super::super) String);

/// The name of a method.
#[derive(Debug)]
pub(in super::super) struct MethodName(pub(in super::super) Method);

impl Notation for IdentityMatch {
    const EXPECTED: &'static str = SpiffeId::EXPECTED;

    fn read(text: &str) -> Result<Self, String> {
        if !text.contains('*') {
            return SpiffeId::read(text).map(IdentityMatch::Exact);
        }
        let stars = text.bytes().filter(|b| *b == b'*').count();
        let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'*' | b':' | b'/' | b'.' | b'-' | b'_');
        let begins = text.starts_with('*') || text.starts_with("spiffe://");
        if !begins || !text.bytes().all(known) || text.len() > MAX_ID_BYTES {
            let right = "write one such as spiffe://cluster.local/ns/default/*";
            return Err(format!("\"{}\" is not a pattern of SPIFFE IDs; {right}", clip(text)));
        }
        if stars > MAX_STARS || text.contains("**") {
            return Err(format!("\"{}\" has more than {MAX_STARS} `*`, or two in a row", clip(text)));
        }
        Ok(IdentityMatch::Pattern(text.into()))
    }

    fn schema() -> Schema {
        json_schema!({
            "type": "string",
            "pattern": r"^(spiffe://|\*)[A-Za-z0-9:/._*-]*$",
            "maxLength": MAX_ID_BYTES,
            "examples": ["spiffe://cluster.local/ns/default/sa/alpha", "spiffe://cluster.local/ns/default/*"],
        })
    }
}

impl Notation for Namespace {
    const EXPECTED: &'static str = "a namespace such as default";

    fn read(text: &str) -> Result<Self, String> {
        match is_label(text) {
            true => Ok(Namespace(text.into())),
            false => Err(format!("\"{}\" is not {}", clip(text), Self::EXPECTED)),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", "maxLength": 63 })
    }
}

impl Notation for MethodName {
    const EXPECTED: &'static str = "a method of HTTP such as GET";

    fn read(text: &str) -> Result<Self, String> {
        match Method::from_bytes(text.as_bytes()) {
            Ok(method) if method != Method::CONNECT && text == text.to_ascii_uppercase() => Ok(MethodName(method)),
            _ => Err(format!("\"{}\" is not {}", clip(text), Self::EXPECTED)),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[^a-z]+$", "examples": ["GET"] })
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Listed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Read<T> {
            type Value = Listed<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("one, or a list of which one is meant")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Listed<T>, E> {
                let text: StrDeserializer<'_, E> = text.into_deserializer();
                T::deserialize(text).map(|one| Listed(Vec::new(), Some(one)))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Listed<T>, E> {
                let number: U64Deserializer<E> = number.into_deserializer();
                T::deserialize(number).map(|one| Listed(Vec::new(), Some(one)))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Listed<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(|one| Listed(Vec::new(), Some(one)))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Listed<T>, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = list.next_element()? {
                    items.push(item);
                }
                Ok(Listed(items, None))
            }
        }
        deserializer.deserialize_any(Read(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for Listed<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Listed{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [one, { "type": "array", "minItems": 1, "items": one }] })
    }
}
