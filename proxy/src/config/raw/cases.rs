//! Cases of a filter as written.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::super::reader::{Entries, Field, Whole};
use super::super::word::Number;
use super::filter::Payload;

/// Cases of a filter, for `lacis filter test`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "Cases", deny_unknown_fields, expecting = "a map")]
pub(in super::super) struct File {
    /// What the filter reads as its configuration, where a case has none of its own: a map as JSON, a text as it is.
    #[serde(default)]
    pub(in super::super) config: Field<Payload>,
    /// `plugin_root_id`, as in Envoy.
    #[serde(default)]
    pub(in super::super) root_id: Field<String>,
    /// What the VM reads as its configuration.
    #[serde(default)]
    pub(in super::super) vm_config: Field<Payload>,
    /// Environment variables of the VM.
    #[serde(default)]
    pub(in super::super) env: Field<Entries<String>>,
    /// As in Envoy: a filter that pauses at the headers still sees the body, and the headers wait for it.
    #[serde(default)]
    #[schemars(extend("default" = false))]
    pub(in super::super) allow_on_headers_stop_iteration: Field<bool>,
    /// The cases. Each has a VM of its own.
    pub(in super::super) cases: Field<Vec<Field<Case>>>,
}

impl Whole for File {
    const SMALLEST: &'static str = "`cases: [{name: passes, expect: {request: {}}}]`";
}

/// One request through the filter, and what should come of it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map such as {name: passes, request: {path: /}, expect: {request: {}}}")]
pub(in super::super) struct Case {
    /// What it shows, in a few words; no other case has this name.
    pub(in super::super) name: Field<String>,
    /// What the filter reads as its configuration in this case.
    #[serde(default)]
    pub(in super::super) config: Field<Payload>,
    /// Goes on in the VM of the case before it: with its configuration, metrics, clock and shared data.
    #[serde(default)]
    #[schemars(extend("default" = false))]
    pub(in super::super) continues: Field<bool>,
    /// How often the request is sent; what is expected is of the last time.
    #[serde(default)]
    #[schemars(extend("default" = 1, "minimum" = 1, "maximum" = 10000))]
    pub(in super::super) repeat: Field<Number>,
    /// What time it is, in seconds since 1970. The clock stands still, but for the filter's timer: while that is all that
    /// the filter waits for, time goes on from one tick to the next.
    #[serde(default)]
    pub(in super::super) now: Field<u64>,
    /// How often the filter's timer goes off before the request.
    #[serde(default)]
    #[schemars(extend("default" = 0, "minimum" = 0, "maximum" = 10000))]
    pub(in super::super) ticks: Field<Number>,
    /// What the filter can read of the exchange, by dotted paths: `source.address: 10.0.0.1:4711`.
    #[serde(default)]
    pub(in super::super) properties: Field<Entries<Property>>,
    /// What is in the shared data when the filter starts.
    #[serde(default)]
    pub(in super::super) shared_data: Field<Entries<Bytes>>,
    /// What services answer when the filter calls them. A call gets the first answer that is for it and that no call has
    /// had; one that no answer is for fails the case.
    #[serde(default)]
    pub(in super::super) calls: Field<Vec<Field<Answer>>>,
    /// The request; by default `GET /`.
    #[serde(default)]
    pub(in super::super) request: Field<Request>,
    /// What the service answers if the request gets there; by default 200 without a body.
    #[serde(default)]
    pub(in super::super) response: Field<Response>,
    /// What should come of it.
    pub(in super::super) expect: Field<Expect>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map such as {method: GET, path: /, headers: {x-user: ann}}")]
pub(in super::super) struct Request {
    #[serde(default)]
    #[schemars(extend("default" = "GET"))]
    pub(in super::super) method: Field<String>,
    #[serde(default)]
    #[schemars(extend("default" = "/"))]
    pub(in super::super) path: Field<String>,
    /// The host that is asked.
    #[serde(default)]
    #[schemars(extend("default" = "app"))]
    pub(in super::super) authority: Field<String>,
    #[serde(default)]
    #[schemars(extend("default" = "http"))]
    pub(in super::super) scheme: Field<String>,
    /// Header lines: a text for each, or a list of texts for several of one name.
    #[serde(default)]
    pub(in super::super) headers: Field<Entries<Lines>>,
    /// The body: a text, or a list of the pieces that come one after the other.
    #[serde(default)]
    pub(in super::super) body: Field<Pieces>,
    #[serde(default)]
    pub(in super::super) trailers: Field<Entries<Lines>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map such as {status: 200, headers: {content-type: text/plain}, body: hi}")]
pub(in super::super) struct Response {
    #[serde(default)]
    #[schemars(extend("default" = 200, "minimum" = 200, "maximum" = 599))]
    pub(in super::super) status: Field<Number>,
    #[serde(default)]
    pub(in super::super) headers: Field<Entries<Lines>>,
    #[serde(default)]
    pub(in super::super) body: Field<Pieces>,
    #[serde(default)]
    pub(in super::super) trailers: Field<Entries<Lines>>,
}

/// What a service answers to a call of the filter's: an HTTP response, or `grpc`, or `fails`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map such as {service: users, status: 200, body: ann}")]
pub(in super::super) struct Answer {
    /// The service that is called.
    #[serde(default)]
    pub(in super::super) service: Field<String>,
    /// Only a call of this path is answered so; of gRPC `/package.Service/Method`.
    #[serde(default)]
    pub(in super::super) path: Field<String>,
    #[serde(default)]
    #[schemars(extend("default" = 200, "minimum" = 200, "maximum" = 599))]
    pub(in super::super) status: Field<Number>,
    #[serde(default)]
    pub(in super::super) headers: Field<Entries<Lines>>,
    #[serde(default)]
    pub(in super::super) body: Field<Bytes>,
    #[serde(default)]
    pub(in super::super) trailers: Field<Entries<Lines>>,
    /// The outcome of a gRPC call.
    #[serde(default)]
    pub(in super::super) grpc: Field<Grpc>,
    /// The connection breaks.
    #[serde(default)]
    #[schemars(extend("default" = false))]
    pub(in super::super) fails: Field<bool>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map such as {status: 0, messages: [{base64: CgE=}]}")]
pub(in super::super) struct Grpc {
    #[serde(default)]
    #[schemars(extend("default" = 0, "minimum" = 0, "maximum" = 16))]
    pub(in super::super) status: Field<Number>,
    /// The text of the status.
    #[serde(default)]
    pub(in super::super) text: Field<String>,
    /// The messages, without framing.
    #[serde(default)]
    pub(in super::super) messages: Field<Vec<Field<Bytes>>>,
}

/// What should come of it: one of `request`, `reply`, `reset`, `refused`, and whatever else counts.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map such as {reply: {status: 401}}")]
pub(in super::super) struct Expect {
    /// The request goes on, and the service gets this; `{}` if only that counts.
    #[serde(default)]
    pub(in super::super) request: Field<Message>,
    /// The client gets this.
    #[serde(default)]
    pub(in super::super) response: Field<Message>,
    /// The filter answers by itself, and the client gets this.
    #[serde(default)]
    pub(in super::super) reply: Field<Message>,
    /// The filter closes the stream.
    #[serde(default)]
    pub(in super::super) reset: Field<Yes>,
    /// The filter does not take its configuration.
    #[serde(default)]
    pub(in super::super) refused: Field<Yes>,
    /// The calls that the filter makes, all of them and in this order; `[]` for none.
    #[serde(default)]
    pub(in super::super) calls: Field<Vec<Field<Message>>>,
    /// Texts, each of which is in a line of the filter's log.
    #[serde(default)]
    pub(in super::super) log: Field<Vec<Field<String>>>,
    /// Metrics by name; of a histogram the sum of its samples.
    #[serde(default)]
    pub(in super::super) metrics: Field<Entries<u64>>,
    /// Values of the shared data.
    #[serde(default)]
    pub(in super::super) shared_data: Field<Entries<Wanted>>,
    /// Properties of the exchange that the filter has set.
    #[serde(default)]
    pub(in super::super) properties: Field<Entries<Property>>,
}

/// A message as it should be. What is not written may be anything.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map such as {headers: {x-user: ann}, absent: [x-api-key]}")]
pub(in super::super) struct Message {
    /// Of a response.
    #[serde(default)]
    #[schemars(extend("minimum" = 100, "maximum" = 599))]
    pub(in super::super) status: Field<Number>,
    /// Of a call: the service.
    #[serde(default)]
    pub(in super::super) service: Field<String>,
    /// Of a request.
    #[serde(default)]
    pub(in super::super) method: Field<String>,
    /// Of a request; of gRPC `/package.Service/Method`.
    #[serde(default)]
    pub(in super::super) path: Field<String>,
    /// Of a request: the host. A filter that sets it chooses the service.
    #[serde(default)]
    pub(in super::super) authority: Field<String>,
    /// These headers have these values, and no other ones.
    #[serde(default)]
    pub(in super::super) headers: Field<Entries<Lines>>,
    /// Names of headers that are not there.
    #[serde(default)]
    pub(in super::super) absent: Field<Vec<Field<String>>>,
    /// The whole body: a text, `{json: …}`, or `{base64: …}`.
    #[serde(default)]
    pub(in super::super) body: Field<Wanted>,
    /// As `headers`.
    #[serde(default)]
    pub(in super::super) trailers: Field<Entries<Lines>>,
}

/// A key that is there or not.
#[derive(Debug)]
pub(in super::super) struct Yes;

/// The values of a header.
#[derive(Debug)]
pub(in super::super) struct Lines(pub(in super::super) Vec<String>);

/// A text, `{base64: …}`, or `{json: …}`.
#[derive(Debug, PartialEq)]
pub(in super::super) enum Wanted {
    Text(String),
    Base64(String),
    Json(Value),
}

/// The same for bytes that are given.
#[derive(Debug)]
pub(in super::super) struct Bytes(pub(in super::super) Wanted);

/// One of them, or several.
#[derive(Debug)]
pub(in super::super) struct Pieces(pub(in super::super) Vec<Wanted>);

/// The value of a property.
#[derive(Debug, PartialEq)]
pub(in super::super) enum Property {
    Text(String),
    /// Eight bytes, little-endian.
    Number(i64),
    /// One byte.
    Truth(bool),
    /// Pairs.
    Map(Vec<(String, String)>),
}

impl<'de> Deserialize<'de> for Yes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match bool::deserialize(deserializer)? {
            true => Ok(Yes),
            false => Err(de::Error::custom("only `true` says something; remove the key")),
        }
    }
}

impl<'de> Deserialize<'de> for Lines {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Lines;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, in quotes if it looks like a number, or a list of texts")
            }

            fn visit_str<E>(self, text: &str) -> Result<Lines, E> {
                Ok(Lines(vec![text.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Lines, A::Error> {
                let mut lines = Vec::new();
                while let Some(line) = items.next_element()? {
                    lines.push(line);
                }
                match lines.is_empty() {
                    true => Err(de::Error::custom("no value; write one, or the name under `absent`")),
                    false => Ok(Lines(lines)),
                }
            }
        }
        deserializer.deserialize_any(Read)
    }
}

/// Reads a [`Wanted`]; a list of them, too, where that may be.
struct WantedVisitor {
    list: bool,
}

impl<'de> Visitor<'de> for WantedVisitor {
    type Value = Vec<Wanted>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, {json: …} or {base64: …}")?;
        if self.list { f.write_str(", or a list of these") } else { Ok(()) }
    }

    fn visit_str<E>(self, text: &str) -> Result<Vec<Wanted>, E> {
        Ok(vec![Wanted::Text(text.to_owned())])
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<Wanted>, A::Error> {
        let wanted = match map.next_key::<String>()?.as_deref() {
            Some("json") => Wanted::Json(map.next_value()?),
            Some("base64") => Wanted::Base64(map.next_value()?),
            _ => return Err(de::Error::custom("expected the key `json` or `base64`")),
        };
        match map.next_key::<String>()? {
            None => Ok(vec![wanted]),
            Some(_) => Err(de::Error::custom("one key is enough: `json` or `base64`")),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<Wanted>, A::Error> {
        if !self.list {
            return Err(de::Error::invalid_type(de::Unexpected::Seq, &self));
        }
        let mut pieces = Vec::new();
        while let Some(piece) = items.next_element()? {
            pieces.push(piece);
        }
        Ok(pieces)
    }
}

impl<'de> Deserialize<'de> for Wanted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let one = deserializer.deserialize_any(WantedVisitor { list: false })?;
        one.into_iter().next().ok_or_else(|| de::Error::custom("nothing"))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Wanted::deserialize(deserializer).map(Bytes)
    }
}

impl<'de> Deserialize<'de> for Pieces {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WantedVisitor { list: true }).map(Pieces)
    }
}

impl<'de> Deserialize<'de> for Property {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Property;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, a whole number, true or false, or a map of texts")
            }

            fn visit_str<E>(self, text: &str) -> Result<Property, E> {
                Ok(Property::Text(text.to_owned()))
            }

            fn visit_bool<E>(self, truth: bool) -> Result<Property, E> {
                Ok(Property::Truth(truth))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Property, E> {
                Ok(Property::Number(number))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Property, E> {
                let too_large = |_| E::custom(format!("{number} is larger than a property can be"));
                i64::try_from(number).map(Property::Number).map_err(too_large)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Property, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Property::Map(pairs))
            }
        }
        deserializer.deserialize_any(Read)
    }
}

/// Types that are written in several forms, and the schema of these.
macro_rules! forms {
    ($($type:ident: $schema:tt)*) => {$(
        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    )*};
}

forms! {
    Yes: { "const": true }
    Lines: { "type": ["string", "array"], "items": { "type": "string" }, "minItems": 1 }
    Wanted: { "type": ["string", "object"], "minProperties": 1, "maxProperties": 1, "properties": { "json": true, "base64": { "type": "string" } }, "additionalProperties": false }
    Bytes: { "type": ["string", "object"], "minProperties": 1, "maxProperties": 1, "properties": { "json": true, "base64": { "type": "string" } }, "additionalProperties": false }
    Pieces: { "type": ["string", "object", "array"], "properties": { "json": true, "base64": { "type": "string" } }, "additionalProperties": false }
    Property: { "type": ["string", "integer", "boolean", "object"], "additionalProperties": { "type": "string" } }
}
