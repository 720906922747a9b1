//! The file as written: one type per section, unknown keys refused, defaults stated. `resolve` makes it valid.
//!
//! A key without `#[serde(default)]` is required; what `lacis schema` prints is derived from the same types.

pub(super) mod admission;
pub(super) mod balance;
pub(super) mod cases;
pub(super) mod fault;
pub(super) mod filter;
pub(super) mod matching;
pub(super) mod policy;
pub(super) mod route;

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};

use self::admission::{AccessRule, Concurrency, Overload, RateLimit};
use self::filter::Filter;
use super::reader::{Entries, Field, Whole};
use super::word::{LogFormat, Number, Percent, Word};
use super::{AppProtocol, LinkPolicy, MAX_RECORDS, ServiceProtocol, Tell};
use crate::identity::SpiffeId;

pub(super) const NAMESPACE: &str = "default";
pub(super) const TRUST_DOMAIN: &str = "cluster.local";
pub(super) const OUTBOUND_LISTEN: &str = "127.0.0.1:15001";
pub(super) const INBOUND_LISTEN: &str = "0.0.0.0:15006";
pub(super) const ADMIN_LISTEN: &str = "127.0.0.1:15000";
pub(super) const CONNECT: &str = "1s";
pub(super) const REQUEST: &str = "15s";
pub(super) const IDLE: &str = "5m";
pub(super) const STREAM: &str = "0s";
pub(super) const ACCESS_LOG: &str = "/dev/stdout";
pub(super) const SAMPLE: &str = "100%";
pub(super) const KEEP: usize = 1000;
/// Most worker threads that a file may ask for: more than any machine that this runs on has cores for a sidecar.
pub(super) const MAX_WORKERS: u64 = 256;
/// Largest weight of an endpoint (Gateway API, `HTTPBackendRef.weight`).
pub(super) const MAX_WEIGHT: u64 = 1_000_000;

/// Configuration of one Lacis sidecar.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename = "Config", deny_unknown_fields, expecting = "a map")]
pub(super) struct File {
    /// Who this sidecar is.
    pub(super) node: Field<Node>,
    /// PEM files, read again when they change. Needed unless every link is plaintext and there is no `inbound`.
    #[serde(default)]
    pub(super) identity: Field<Identity>,
    /// The listener for the application's own requests.
    #[serde(default)]
    pub(super) outbound: Field<Outbound>,
    /// The listener for peers.
    #[serde(default)]
    pub(super) inbound: Field<Inbound>,
    /// Services that the application can call, by name.
    #[serde(default)]
    pub(super) services: Field<Entries<Service>>,
    /// What is done with some requests to services, and where they go instead.
    #[serde(default)]
    pub(super) routes: Field<Vec<Field<route::Route>>>,
    /// Filters that `outbound`, `inbound`, services and routes can name.
    #[serde(default)]
    pub(super) filters: Field<Entries<Filter>>,
    /// Readiness, metrics and the like; without it there is no such listener.
    #[serde(default)]
    pub(super) admin: Field<Admin>,
    /// What the sidecar tells about the traffic.
    #[serde(default)]
    pub(super) telemetry: Field<Telemetry>,
    /// Bounds of the whole sidecar, beyond which requests are refused; without it there are none.
    #[serde(default)]
    pub(super) overload: Field<Overload>,
    /// Worker threads; `auto`: one per core that the process may use.
    #[serde(default)]
    #[schemars(extend("default" = 1))]
    pub(super) workers: Field<Workers>,
}

/// Who this sidecar is; its identity is `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map")]
pub(super) struct Node {
    /// The service beside this sidecar.
    pub(super) service: Field<String>,
    /// Its namespace.
    #[serde(default)]
    #[schemars(extend("default" = NAMESPACE))]
    pub(super) namespace: Field<String>,
    /// The trust domain of the mesh.
    #[serde(default)]
    #[schemars(extend("default" = TRUST_DOMAIN))]
    pub(super) trust_domain: Field<String>,
    /// What filters and control planes see as `node.id`; by default `SERVICE.NAMESPACE`.
    #[serde(default)]
    pub(super) id: Field<String>,
    /// What filters and control planes see as `node.cluster`; by default the service.
    #[serde(default)]
    pub(super) cluster: Field<String>,
    /// Where it is: endpoints of the same zone are preferred, and filters see it as `node.locality`.
    #[serde(default)]
    pub(super) locality: Field<Locality>,
    /// What filters and control planes see as `node.metadata`.
    #[serde(default)]
    pub(super) metadata: Field<Metadata>,
}

/// What is not ours to know the keys of. Not serde's own map, which nothing is one for, too.
#[derive(Debug, Default, JsonSchema)]
#[schemars(inline)]
pub(super) struct Metadata(pub(super) serde_json::Map<String, serde_json::Value>);

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Metadata;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Metadata, A::Error> {
                serde_json::Map::deserialize(MapAccessDeserializer::new(map)).map(Metadata)
            }
        }
        deserializer.deserialize_map(Read)
    }
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map such as {region: eu-west-1, zone: eu-west-1a}")]
pub(super) struct Locality {
    /// Such as eu-west-1.
    #[serde(default)]
    pub(super) region: Field<String>,
    /// Such as eu-west-1a; compared with the `zone` of endpoints.
    #[serde(default)]
    pub(super) zone: Field<String>,
    /// Such as a rack.
    #[serde(default)]
    pub(super) sub_zone: Field<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map")]
pub(super) struct Identity {
    /// Certificate chain, leaf first.
    pub(super) certificate: Field<String>,
    /// Private key of the leaf.
    pub(super) private_key: Field<String>,
    /// Authorities that peers are verified against.
    pub(super) trust_bundle: Field<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map")]
pub(super) struct Outbound {
    /// Where the application's requests arrive; the service is chosen by Host, or by an absolute-form URI.
    #[serde(default)]
    #[schemars(extend("default" = OUTBOUND_LISTEN))]
    pub(super) listen: Field<Word<SocketAddr>>,
    /// Names of filters, in the order in which requests pass them.
    #[serde(default)]
    pub(super) filters: Field<Vec<Field<String>>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map")]
pub(super) struct Inbound {
    /// Where peers arrive: TCP (TLS; h2 and http/1.1 by ALPN) and UDP (h3) on one port number.
    #[serde(default)]
    #[schemars(extend("default" = INBOUND_LISTEN))]
    pub(super) listen: Field<Word<SocketAddr>>,
    /// Where the application listens.
    pub(super) application: Field<Word<SocketAddr>>,
    /// What the application speaks; `tcp` for opaque bytes.
    #[serde(default)]
    #[schemars(extend("default" = "http1"))]
    pub(super) protocol: Field<Word<AppProtocol>>,
    /// Names of filters, in the order in which requests pass them; with `protocol: tcp` of filters of TCP connections.
    #[serde(default)]
    pub(super) filters: Field<Vec<Field<String>>>,
    /// Who may call, and what; without it any identity of the trust domain.
    #[serde(default)]
    pub(super) allow: Field<Vec<Field<AccessRule>>>,
    /// What is refused before `allow` is asked.
    #[serde(default)]
    pub(super) deny: Field<Vec<Field<AccessRule>>>,
    /// How often may be called, by whom is let in.
    #[serde(default)]
    pub(super) rate_limits: Field<Vec<Field<RateLimit>>>,
    /// A limit of the requests that the application is asked at a time, found from how long they take; without it, none.
    #[serde(default)]
    pub(super) concurrency: Field<Concurrency>,
    /// Bounds in time, beside those of whoever calls.
    #[serde(default)]
    pub(super) timeouts: Field<InboundTimeouts>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map")]
#[schemars(extend("oneOf" = one_of(["endpoints", "dns", "file"])))]
pub(super) struct Service {
    /// Host names that mean this service, besides its own name. Not for `protocol: tcp`, which knows no hosts.
    #[serde(default)]
    pub(super) hosts: Field<Vec<Field<String>>>,
    /// A loopback port of its own, where no Host is needed; with `protocol: tcp` the only way to call it.
    #[serde(default)]
    pub(super) listen: Field<Word<SocketAddr>>,
    /// Where the service's sidecars are; or `dns`, or `file`.
    #[serde(default)]
    pub(super) endpoints: Field<Vec<Field<balance::Endpoint>>>,
    /// A name whose addresses are where the service's sidecars are; asked again when the answer is no longer valid.
    #[serde(default)]
    pub(super) dns: Field<Dns>,
    /// A YAML file with a key `endpoints`, as it would stand here; read again when it changes.
    #[serde(default)]
    pub(super) file: Field<String>,
    /// Who must answer; by default `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/NAME`.
    #[serde(default)]
    pub(super) identity: Field<Vec<Field<Word<SpiffeId>>>>,
    /// What the application sends: HTTP, or opaque bytes.
    #[serde(default)]
    #[schemars(extend("default" = "http"))]
    pub(super) protocol: Field<Word<ServiceProtocol>>,
    /// Names of filters, in the order in which requests to the service pass them, after those of `outbound`; with
    /// `protocol: tcp` of filters of TCP connections, which `outbound` has none of.
    #[serde(default)]
    pub(super) filters: Field<Vec<Field<String>>>,
    /// How the sidecars are reached.
    #[serde(default)]
    #[schemars(extend("default" = "auto"))]
    pub(super) link: Field<Word<LinkPolicy>>,
    /// How an endpoint is chosen.
    #[serde(default)]
    #[schemars(extend("default" = "least_load"))]
    pub(super) balance: Field<balance::Policy>,
    /// With a smaller share of endpoints neither ejected nor unhealthy than this, all are used.
    #[serde(default)]
    #[schemars(extend("default" = balance::PANIC_THRESHOLD))]
    pub(super) panic_threshold: Field<Word<Percent>>,
    /// Whether endpoints of `node.locality.zone` are asked first, and others only as far as too few of them are well.
    #[serde(default)]
    #[schemars(extend("default" = "prefer"))]
    pub(super) zones: Field<Word<balance::Zones>>,
    /// Endpoints that are new, or were passed over, get their share little by little; without it, at once.
    #[serde(default)]
    pub(super) slow_start: Field<balance::SlowStart>,
    /// Clients that come again reach the same endpoint, by a cookie.
    #[serde(default)]
    pub(super) affinity: Field<balance::Affinity>,
    /// How it is found out whether endpoints are well, besides by the requests that they get.
    #[serde(default)]
    pub(super) health: Field<balance::Health>,
    /// Bounds in time.
    #[serde(default)]
    pub(super) timeouts: Field<Timeouts>,
    /// When requests are sent again. Without it: up to twice, on another endpoint if there is one, if no connection could
    /// be made or the server provably did not process it.
    #[serde(default)]
    pub(super) retries: Field<policy::Retries>,
    /// How much may be asked at once; without one of them there is no such limit.
    #[serde(default)]
    pub(super) limits: Field<policy::Limits>,
    /// How often it may be asked. Of conditions and keys only those of HTTP: every request here is of this sidecar's own service.
    #[serde(default)]
    pub(super) rate_limits: Field<Vec<Field<RateLimit>>>,
    /// When endpoints that fail are passed over; without it, those that cannot be reached, for a second.
    #[serde(default)]
    pub(super) outliers: Field<policy::Outliers>,
    /// When all requests are refused for a while; without it, never.
    #[serde(default)]
    pub(super) breaker: Field<policy::Breaker>,
    /// Faults on purpose, for requests whose rule has none of its own.
    #[serde(default)]
    pub(super) fault: Field<fault::Fault>,
}

/// Exactly one of these keys is there.
fn one_of<const N: usize>(keys: [&str; N]) -> Vec<Schema> {
    keys.map(|key| json_schema!({ "required": [key] })).into()
}

/// A name in the DNS.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map such as {name: delta.internal, port: 15006}")]
pub(super) struct Dns {
    /// The name; its A and AAAA records are asked for.
    pub(super) name: Field<String>,
    /// The port of the peers' inbound listeners.
    pub(super) port: Field<Port>,
    /// Address and port of a DNS server, such as that of Consul; by default those of /etc/resolv.conf.
    #[serde(default)]
    pub(super) server: Field<Word<SocketAddr>>,
}

/// A file that says where a service is.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map such as {endpoints: [10.0.0.4:15006]}")]
pub(super) struct EndpointsFile {
    pub(super) endpoints: Field<Vec<Field<balance::Endpoint>>>,
}

impl Whole for File {
    const SMALLEST: &'static str = "`node`, `outbound` and `services`";
}

impl Whole for EndpointsFile {
    const SMALLEST: &'static str = "`endpoints: []`";
}

/// A share of requests, 1 to [`MAX_WEIGHT`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Weight(pub(super) u32);

/// A port that can be called.
#[derive(Clone, Copy, Debug)]
pub(super) struct Port(pub(super) u16);

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map such as {connect: 1s, request: 15s, idle: 5m}")]
pub(super) struct Timeouts {
    /// Until a link is open.
    #[serde(default)]
    #[schemars(extend("default" = CONNECT))]
    pub(super) connect: Field<Word<Duration>>,
    /// From the end of the request until the head of the response; `0s`: no bound.
    #[serde(default)]
    #[schemars(extend("default" = REQUEST))]
    pub(super) request: Field<Word<Duration>>,
    /// Silence on a stream, or an unused connection; `0s`: no bound.
    #[serde(default)]
    #[schemars(extend("default" = IDLE))]
    pub(super) idle: Field<Word<Duration>>,
    /// From the first byte of a request to the last of its response, however much moves; `0s`: no bound.
    #[serde(default)]
    #[schemars(extend("default" = STREAM))]
    pub(super) stream: Field<Word<Duration>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map such as {idle: 5m}")]
pub(super) struct InboundTimeouts {
    /// Silence on a stream, or an unused connection to the application; `0s`: no bound.
    #[serde(default)]
    #[schemars(extend("default" = IDLE))]
    pub(super) idle: Field<Word<Duration>>,
    /// From the first byte of a request to the last of its response, however much moves; `0s`: no bound.
    #[serde(default)]
    #[schemars(extend("default" = STREAM))]
    pub(super) stream: Field<Word<Duration>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map")]
pub(super) struct Admin {
    /// Where readiness, metrics and the like are served.
    #[serde(default)]
    #[schemars(extend("default" = ADMIN_LISTEN))]
    pub(super) listen: Field<Word<SocketAddr>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map")]
pub(super) struct Telemetry {
    /// One record per request; without it there are none.
    #[serde(default)]
    pub(super) access_log: Field<AccessLog>,
    /// What was decided for the last requests is kept, for `lacis why ID` and `/requests/ID`; without it nothing is.
    #[serde(default)]
    pub(super) why: Field<Why>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map such as {sample: 100%, keep: 1000, header: failed}, or {}")]
pub(super) struct Why {
    /// The share of requests; those that ask for it with the field `x-lacis-why` always are.
    #[serde(default)]
    #[schemars(extend("default" = SAMPLE))]
    pub(super) sample: Field<Word<Percent>>,
    /// The last so many, of each worker.
    #[serde(default)]
    #[schemars(extend("default" = KEEP, "minimum" = 1, "maximum" = MAX_RECORDS))]
    pub(super) keep: Field<Number>,
    /// Which responses say their id in `x-lacis-why`: those to requests that ask for it, those that failed, too, or all.
    #[serde(default)]
    #[schemars(extend("default" = "asked"))]
    pub(super) header: Field<Word<Tell>>,
    /// Peers who may ask for it, beside the own application; from others the field is taken away.
    #[serde(default)]
    pub(super) trusted: Field<Vec<Field<Word<SpiffeId>>>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map such as {path: /dev/stdout}")]
pub(super) struct AccessLog {
    /// A file that is appended to, /dev/stdout or /dev/stderr.
    #[serde(default)]
    #[schemars(extend("default" = ACCESS_LOG))]
    pub(super) path: Field<String>,
    /// How a record is written.
    #[serde(default)]
    #[schemars(extend("default" = "json"))]
    pub(super) format: Field<Word<LogFormat>>,
}

/// Number of worker threads.
#[derive(Clone, Copy, Debug)]
pub(super) enum Workers {
    /// As many as the process may use cores.
    Auto,
    /// So many, at least one.
    Count(usize),
}

impl<'de> Deserialize<'de> for Workers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl Visitor<'_> for Read {
            type Value = Workers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a number from 1 to {MAX_WORKERS}, or auto")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Workers, E> {
                let refused = || E::invalid_type(de::Unexpected::Str(text), &self);
                if text == "auto" { Ok(Workers::Auto) } else { Err(refused()) }
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Workers, E> {
                let refused = || E::invalid_type(de::Unexpected::Unsigned(number), &self);
                match usize::try_from(number) {
                    Ok(count) if (1..=MAX_WORKERS).contains(&number) => Ok(Workers::Count(count)),
                    _ => Err(refused()),
                }
            }
        }
        deserializer.deserialize_any(Read)
    }
}

/// A number from 1 to a maximum, as a type of its own.
macro_rules! number {
    ($name:ident, $what:literal, $most:expr) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Read;
                impl Visitor<'_> for Read {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        write!(f, concat!($what, " from 1 to {}"), $most)
                    }

                    fn visit_u64<E: de::Error>(self, number: u64) -> Result<$name, E> {
                        match number.try_into() {
                            Ok(small) if (1..=$most).contains(&number) => Ok($name(small)),
                            _ => Err(E::invalid_type(de::Unexpected::Unsigned(number), &self)),
                        }
                    }
                }
                deserializer.deserialize_any(Read)
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "integer", "minimum": 1, "maximum": $most })
            }
        }
    };
}

number!(Weight, "a weight", MAX_WEIGHT);
number!(Port, "a port", u64::from(u16::MAX));

impl JsonSchema for Workers {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Workers".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "integer", "minimum": 1, "maximum": MAX_WORKERS }, { "const": "auto" }] })
    }
}
