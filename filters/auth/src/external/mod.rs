//! Asking a service whether a request may pass, as Envoy's `ext_authz` does: the same services answer both.

mod grpc;
mod http;

use std::collections::BTreeMap;
use std::time::Duration;

use lacis_sdk::{Reply, is_header_name};
use serde::Deserialize;

use crate::duration::{Span, bounded};
use crate::head::{Changes, Head, Mutation};

pub(crate) use grpc::{METHOD, SERVICE};

/// How long the answer may take, unless something else is configured; as Envoy has it.
const TIMEOUT: Duration = Duration::from_millis(200);
/// The longest time that may be configured for it: requests wait for it.
const MOST_TIMEOUT: Duration = Duration::from_secs(30);

/// A service that decides.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
pub(crate) struct Config {
    /// A service of the sidecar's file (on Envoy a cluster).
    service: String,
    /// It is asked over HTTP.
    http: Option<HttpConfig>,
    /// It is asked by `envoy.service.auth.v3.Authorization/Check`.
    grpc: Option<GrpcConfig>,
    /// How long it may take, at most 30s; absent: 200ms.
    timeout: Option<Span>,
    /// What becomes of requests if it does not answer; absent: `closed`.
    #[serde(default)]
    failure: Failure,
    /// The headers that it is shown. Absent: over HTTP `authorization` alone, over gRPC all.
    request_headers: Option<Vec<String>>,
}

/// How it is asked over HTTP: the request's own method, host and path, without its body.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
struct HttpConfig {
    /// What its path has before that of the request; absent: nothing.
    #[serde(default)]
    path_prefix: String,
    /// Headers of an answer of 200 that the request gets. What it has of them itself is always removed. Those that the
    /// answer names in `x-envoy-auth-headers-to-remove` go, too.
    #[serde(default)]
    set_headers: Vec<String>,
    /// Headers of another answer that the caller gets; absent: all.
    reply_headers: Option<Vec<String>>,
}

/// How it is asked over gRPC.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
struct GrpcConfig {
    /// `context_extensions` of what it is asked.
    #[serde(default)]
    context: BTreeMap<String, String>,
}

/// What becomes of requests if there is no answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
pub(crate) enum Failure {
    /// They are answered 503.
    #[default]
    Closed,
    /// They pass.
    Open,
}

/// The service that decides.
pub(crate) struct External {
    pub(crate) service: String,
    pub(crate) timeout: Duration,
    pub(crate) failure: Failure,
    pub(crate) protocol: Protocol,
    /// In small letters, as headers are.
    request_headers: Option<Vec<String>>,
}

/// How it is asked.
pub(crate) enum Protocol {
    Http(Http),
    Grpc(Grpc),
}

/// How it is asked over HTTP.
pub(crate) struct Http {
    path_prefix: String,
    set_headers: Vec<String>,
    reply_headers: Option<Vec<String>>,
}

/// How it is asked over gRPC.
pub(crate) struct Grpc {
    context: BTreeMap<String, String>,
}

/// What is known of a request beside its head.
#[derive(Debug, Default)]
pub(crate) struct Surroundings {
    pub(crate) identity: Option<String>,
    pub(crate) source: Option<String>,
    pub(crate) destination: Option<String>,
    pub(crate) request_id: Option<String>,
    pub(crate) protocol: Option<String>,
    /// Since 1970.
    pub(crate) time: Duration,
}

/// What a service has decided.
#[derive(Debug)]
pub(crate) enum Decision {
    /// The request passes with these changes, and the response gets these headers.
    Pass(Changes, Vec<Mutation>),
    /// The caller is answered this.
    Refuse(Reply),
    /// It was no decision.
    Failed(String),
}

impl External {
    pub(crate) fn new(config: Config) -> Result<Self, String> {
        let Config { service, http, grpc, timeout, failure, request_headers } = config;
        if service.is_empty() {
            return Err("`external.service` is empty: name a service of the sidecar's file".to_owned());
        }
        let protocol = match (http, grpc) {
            (Some(HttpConfig { path_prefix, set_headers, reply_headers }), None) => {
                let plain = path_prefix.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#".contains(&byte));
                let is_path = path_prefix.is_empty() || path_prefix.starts_with('/');
                if !is_path || !plain {
                    return Err(format!("`external.http.path_prefix` {path_prefix:?} must be a path without query"));
                }
                let set_headers = names(set_headers)?;
                Protocol::Http(Http { path_prefix, set_headers, reply_headers: reply_headers.map(names).transpose()? })
            }
            (None, Some(GrpcConfig { context })) => Protocol::Grpc(Grpc { context }),
            _ => return Err("`external` needs exactly one of `http` and `grpc`".to_owned()),
        };
        let timeout = bounded("external.timeout", timeout, TIMEOUT, Duration::from_millis(1)..=MOST_TIMEOUT)?;
        Ok(Self { service, timeout, failure, protocol, request_headers: request_headers.map(names).transpose()? })
    }

    /// The headers of the request that the service is to see, in order, without pseudo-headers. What is about one
    /// connection or about a body is not among them: neither goes there.
    fn shown<'a>(&'a self, head: &'a Head, otherwise: &'a [&'a str]) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        head.headers().filter(move |(name, _)| {
            let wanted = match &self.request_headers {
                Some(wanted) => wanted.iter().any(|own| own.eq_ignore_ascii_case(name)),
                None => otherwise.is_empty() || otherwise.iter().any(|own| own.eq_ignore_ascii_case(name)),
            };
            wanted && !name.starts_with(':')
        })
    }
}

/// Whether a header is about how a message is carried: it is not passed on in another message.
fn is_framing(name: &str) -> bool {
    const FRAMING: [&str; 10] = [
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    name.starts_with(':') || FRAMING.iter().any(|own| own.eq_ignore_ascii_case(name))
}

fn names(names: Vec<String>) -> Result<Vec<String>, String> {
    let checked = names.into_iter().map(|name| match is_header_name(&name) {
        true if is_framing(&name) => Err(format!("{name:?} is about how messages are carried, and is not passed on")),
        true => Ok(name.to_ascii_lowercase()),
        false => Err(format!("{name:?} is no name of a header")),
    });
    checked.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn mistakes_are_told() {
        for (config, why) in [
            (json!({}), "missing field `service`"),
            (json!({"service": "", "http": {}}), "`external.service` is empty"),
            (json!({"service": "a"}), "exactly one of `http` and `grpc`"),
            (json!({"service": "a", "http": {}, "grpc": {}}), "exactly one of `http` and `grpc`"),
            (json!({"service": "a", "http": {"path_prefix": "x"}}), "must be a path"),
            (json!({"service": "a", "http": {"path_prefix": "/x?y"}}), "must be a path"),
            (json!({"service": "a", "http": {"set_headers": ["a b"]}}), "no name of a header"),
            (json!({"service": "a", "http": {"set_headers": ["Content-Length"]}}), "is not passed on"),
            (json!({"service": "a", "http": {}, "timeout": "31s"}), "`external.timeout` is 31s"),
            (json!({"service": "a", "http": {}, "failure": "ajar"}), "unknown variant `ajar`"),
            (json!({"service": "a", "grpc": {"set_headers": []}}), "unknown field `set_headers`"),
        ] {
            let read = |config: Value| serde_json::from_value(config).map_err(|error| error.to_string());
            let error = read(config).and_then(External::new).err().unwrap();
            assert!(error.contains(why), "{error}");
        }
    }
}
