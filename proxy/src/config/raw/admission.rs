//! Who may ask what, as written.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use http::Method;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, StrDeserializer, U64Deserializer};
use serde::de::{self, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};

use super::super::admission::{IdentityMatch, MAX_STARS};
use super::super::names::is_label;
use super::super::reader::Field;
use super::super::word::{Notation, Word};
use super::super::yaml::clip;
use super::Port;
use super::route::{PathMatch, TextMatch};
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
