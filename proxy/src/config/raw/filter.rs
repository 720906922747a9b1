//! Filters as written.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use lacis_host::limits;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};

use super::super::Failure;
use super::super::reader::{Entries, Field};
use super::super::word::{Number, Percent, Size, Word};

pub(in super::super) const FILTER_MEMORY: &str = "64MiB";
pub(in super::super) const FILTER_TIME: &str = "20ms";
pub(in super::super) const FILTER_BUFFER: &str = "1MiB";
pub(in super::super) const FILTER_CALLS: u32 = 100;
pub(in super::super) const FILTER_SHARED_DATA: &str = "16MiB";
pub(in super::super) const FILTER_QUEUE_SIZE: &str = "4MiB";
/// A worker has requests to serve; what a filter does beside them is mostly far less.
pub(in super::super) const FILTER_TICKS: &str = "20%";

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map")]
pub(in super::super) struct Filter {
    /// A path of a WebAssembly module, `builtin:NAME`, or where it is fetched: `https://…` (a module, or a tar.gz with
    /// `plugin.wasm`), `oci://REGISTRY/REPOSITORY:TAG` or `oci://REGISTRY/REPOSITORY@sha256:…`.
    pub(in super::super) module: Field<String>,
    /// SHA-256 in hexadecimal digits, of the module, of the file at `https://`, or of the image's manifest; what differs
    /// is refused. Needed for modules that are fetched.
    #[serde(default)]
    #[schemars(extend("pattern" = "^[0-9a-fA-F]{64}$"))]
    pub(in super::super) sha256: Field<String>,
    /// What the filter reads as its configuration: a map as JSON, a text as it is.
    #[serde(default)]
    pub(in super::super) config: Field<Payload>,
    /// Requests while the filter cannot run: answered 503 (closed), or passed by it (open).
    #[serde(default)]
    #[schemars(extend("default" = "closed"))]
    pub(in super::super) failure: Field<Word<Failure>>,
    /// Its bounds.
    #[serde(default)]
    pub(in super::super) limits: Field<FilterLimits>,
    /// What it may use; without it everything.
    #[serde(default)]
    pub(in super::super) allow: Field<Allowed>,
    /// A `config.json` of Docker with what a registry wants to know; by default `$DOCKER_CONFIG/config.json`, else
    /// `~/.docker/config.json`.
    #[serde(default)]
    pub(in super::super) credentials: Field<String>,
    /// `plugin_root_id`, as in Envoy.
    #[serde(default)]
    pub(in super::super) root_id: Field<String>,
    /// Filters with the same `vm_id`, `vm_config`, environment and module share a VM, as in Envoy.
    #[serde(default)]
    pub(in super::super) vm_id: Field<String>,
    /// What the VM reads as its configuration: a map as JSON, a text as it is.
    #[serde(default)]
    pub(in super::super) vm_config: Field<Payload>,
    /// Environment variables of the VM.
    #[serde(default)]
    pub(in super::super) env: Field<Entries<String>>,
    /// Environment variables that the VM gets from the sidecar's own environment.
    #[serde(default)]
    pub(in super::super) host_env: Field<Vec<Field<String>>>,
    /// As in Envoy: a filter that pauses at the headers still sees the body, and the headers wait for it.
    #[serde(default)]
    #[schemars(extend("default" = false))]
    pub(in super::super) allow_on_headers_stop_iteration: Field<bool>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map such as {calls: [delta], functions: [log, headers]}")]
pub(in super::super) struct Allowed {
    /// Services that it may call; without it all of them.
    #[serde(default)]
    pub(in super::super) calls: Field<Vec<Field<String>>>,
    /// Families of host functions that it may use (body, foreign, grpc, headers, http, log, metrics, properties, queues,
    /// reply, route, shared_data, stream, timer), or single ones by name; without it all of them. A service under
    /// `calls` brings `grpc` and `http` along.
    #[serde(default)]
    pub(in super::super) functions: Field<Vec<Field<String>>>,
}

/// Bytes for a filter.
#[derive(Debug, Default)]
pub(in super::super) struct Payload(pub(in super::super) Vec<u8>);

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map such as {memory: 64MiB, time: 20ms}")]
pub(in super::super) struct FilterLimits {
    /// Memory of the VM, from 64KiB to 1GiB.
    #[serde(default)]
    #[schemars(extend("default" = FILTER_MEMORY))]
    pub(in super::super) memory: Field<Word<Size>>,
    /// Time of one callback, measured in steps of 10ms: less than that is as much.
    #[serde(default)]
    #[schemars(extend("default" = FILTER_TIME))]
    pub(in super::super) time: Field<Word<Duration>>,
    /// What a filter may hold back of a body, and what it may receive as the answer to a call of its own.
    #[serde(default)]
    #[schemars(extend("default" = FILTER_BUFFER))]
    pub(in super::super) buffer: Field<Word<Size>>,
    /// Calls of its own that may be under way at once, in each worker.
    #[serde(default)]
    #[schemars(extend("default" = FILTER_CALLS, "minimum" = 0, "maximum" = 10000))]
    pub(in super::super) calls: Field<Number>,
    /// Elements of a table of functions.
    #[serde(default)]
    #[schemars(extend("default" = limits::TABLE_ELEMENTS, "minimum" = 0, "maximum" = limits::TABLE_ELEMENTS))]
    pub(in super::super) table: Field<Number>,
    /// Lines that it may log in a second, in each worker.
    #[serde(default)]
    #[schemars(extend("default" = limits::LOG_LINES, "minimum" = 0, "maximum" = 1_000_000))]
    pub(in super::super) log_lines: Field<Number>,
    /// Metrics that it may define.
    #[serde(default)]
    #[schemars(extend("default" = limits::METRICS, "minimum" = 0, "maximum" = limits::METRICS))]
    pub(in super::super) metrics: Field<Number>,
    /// Shared data of its `vm_id`, keys and values.
    #[serde(default)]
    #[schemars(extend("default" = FILTER_SHARED_DATA))]
    pub(in super::super) shared_data: Field<Word<Size>>,
    /// Shared queues of its `vm_id`.
    #[serde(default)]
    #[schemars(extend("default" = limits::QUEUES, "minimum" = 0, "maximum" = 1000))]
    pub(in super::super) queues: Field<Number>,
    /// Items that may wait in one shared queue.
    #[serde(default)]
    #[schemars(extend("default" = limits::QUEUE_ITEMS, "minimum" = 0, "maximum" = 1_000_000))]
    pub(in super::super) queue_items: Field<Number>,
    /// What may wait in one shared queue, all items together.
    #[serde(default)]
    #[schemars(extend("default" = FILTER_QUEUE_SIZE))]
    pub(in super::super) queue_size: Field<Word<Size>>,
    /// The share of its worker's time that its ticks may take: they come later than it asks for where they take more.
    #[serde(default)]
    #[schemars(extend("default" = FILTER_TICKS))]
    pub(in super::super) ticks: Field<Word<Percent>>,
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Payload;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map, or a text")
            }

            fn visit_str<E>(self, text: &str) -> Result<Payload, E> {
                Ok(Payload(text.into()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Payload, A::Error> {
                let map = serde_json::Map::deserialize(MapAccessDeserializer::new(map))?;
                serde_json::to_vec(&map).map(Payload).map_err(de::Error::custom)
            }
        }
        deserializer.deserialize_any(Read)
    }
}

impl JsonSchema for Payload {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Payload".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["object", "string"] })
    }
}
