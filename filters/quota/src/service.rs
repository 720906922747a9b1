//! Asking a rate limit service: `envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit`.

use std::time::Duration;

use lacis_filter_parts::{Condition, ConditionEntry, Source, is_service};
use lacis_sdk::{GrpcCall, Request, is_header_name, is_header_value};
use prost::Message;
use serde::Deserialize;

/// The service as it is configured.
#[derive(Debug, Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct ServiceEntry {
    /// The service that is asked: one of the proxy's, on Envoy a cluster.
    service: String,
    /// The domain of its limits.
    domain: String,
    /// What is asked about. A descriptor of which a value is not there is left out, and without any nothing is asked.
    descriptors: Vec<DescriptorEntry>,
    /// Milliseconds that the answer may take.
    #[serde(default = "default_timeout")]
    #[cfg_attr(not(target_family = "wasm"), schemars(range(min = 1, max = 60_000)))]
    timeout_ms: u32,
}

/// A descriptor.
#[derive(Debug, Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct DescriptorEntry {
    /// What must hold, all of it.
    #[serde(default, rename = "match")]
    matches: Vec<ConditionEntry>,
    /// Its entries, in order.
    entries: Vec<EntryEntry>,
}

/// An entry, with either `from` or `value`.
#[derive(Debug, Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct EntryEntry {
    /// Its key.
    key: String,
    /// A value of the request.
    from: Option<Source>,
    /// A fixed value.
    value: Option<String>,
}

/// As long as Envoy waits is 20 ms; a filter starts later and must be resumed.
const DEFAULT_TIMEOUT: u32 = 100;
/// No caller waits for longer.
const MAX_TIMEOUT: u32 = 60_000;

fn default_timeout() -> u32 {
    DEFAULT_TIMEOUT
}

/// The service.
#[derive(Debug)]
pub(crate) struct Service {
    service: String,
    domain: String,
    descriptors: Vec<(Vec<Condition>, Entries)>,
    timeout: Duration,
}

/// Keys, and where their values come from.
type Entries = Vec<(String, Value)>;

#[derive(Debug)]
enum Value {
    From(Source),
    Fixed(String),
}

/// What the service says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) over: bool,
    /// What is left of the tightest limit, and when it begins anew.
    pub(crate) tightest: Option<(u64, Duration)>,
    pub(crate) request_headers: Vec<(String, String)>,
    pub(crate) response_headers: Vec<(String, String)>,
}

impl Service {
    pub(crate) fn new(entry: ServiceEntry) -> Result<Self, String> {
        let ServiceEntry { service, domain, descriptors, timeout_ms } = entry;
        if !is_service(&service) {
            return Err(format!("{service:?} is no name of a service"));
        }
        if domain.is_empty() {
            return Err("`domain` is empty: a service knows limits by their domain".to_owned());
        }
        if descriptors.is_empty() {
            return Err("`descriptors` is empty: there is nothing to ask about".to_owned());
        }
        if timeout_ms == 0 || timeout_ms > MAX_TIMEOUT {
            return Err(format!("`timeout_ms` is {timeout_ms}; it may be 1 to {MAX_TIMEOUT}"));
        }
        let descriptor = |(index, DescriptorEntry { matches, entries })| {
            let place = |error: String| format!("descriptors[{index}]: {error}");
            if entries.is_empty() {
                return Err(place("`entries` is empty".to_owned()));
            }
            let matches: Result<Vec<_>, _> = matches.into_iter().map(Condition::new).collect();
            let entries: Result<Entries, _> = entries.into_iter().map(EntryEntry::check).collect();
            Ok((matches.map_err(place)?, entries.map_err(place)?))
        };
        let descriptors = descriptors.into_iter().enumerate().map(descriptor).collect::<Result<_, String>>()?;
        Ok(Self { service, domain, descriptors, timeout: Duration::from_millis(timeout_ms.into()) })
    }

    /// Asks; none if there is nothing to ask about.
    ///
    /// # Errors
    ///
    /// Why there is no answer, for the log.
    pub(crate) async fn ask(&self, request: &Request, cost: u64) -> Result<Option<Answer>, String> {
        let descriptors: Vec<Descriptor> = self.descriptors(request).collect();
        if descriptors.is_empty() {
            return Ok(None);
        }
        let question =
            Question { domain: self.domain.clone(), descriptors, hits: u32::try_from(cost).unwrap_or(u32::MAX) };
        let call = GrpcCall::new(&self.service, "envoy.service.ratelimit.v3.RateLimitService", "ShouldRateLimit");
        let answer = call.message(question.encode_to_vec()).timeout(self.timeout).send().await;
        let answer = answer.map_err(|error| error.to_string())?;
        let told = Told::decode(answer.as_slice()).map_err(|error| format!("{} answered: {error}", self.service))?;
        Ok(Some(told.into()))
    }

    fn descriptors(&self, request: &Request) -> impl Iterator<Item = Descriptor> {
        self.descriptors.iter().filter_map(|(matches, entries)| {
            let holds = matches.iter().all(|condition| condition.holds(request));
            let entry = |(key, value): &(String, Value)| {
                let value = match value {
                    Value::Fixed(value) => value.clone(),
                    Value::From(source) => source.read(request)?,
                };
                Some(Entry { key: key.clone(), value })
            };
            holds.then(|| entries.iter().map(entry).collect::<Option<_>>())?.map(|entries| Descriptor { entries })
        })
    }
}

impl EntryEntry {
    fn check(self) -> Result<(String, Value), String> {
        let Self { key, from, value } = self;
        let value = match (from, value) {
            (Some(source), None) => {
                source.check()?;
                Value::From(source)
            }
            (None, Some(value)) => Value::Fixed(value),
            _ => return Err(format!("the entry {key:?} needs either `from` or `value`")),
        };
        if key.is_empty() { Err("an entry's `key` is empty".to_owned()) } else { Ok((key, value)) }
    }
}

/// `RateLimitRequest`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Question {
    #[prost(string, tag = "1")]
    pub(crate) domain: String,
    #[prost(message, repeated, tag = "2")]
    pub(crate) descriptors: Vec<Descriptor>,
    #[prost(uint32, tag = "3")]
    pub(crate) hits: u32,
}

/// `envoy.extensions.common.ratelimit.v3.RateLimitDescriptor`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Descriptor {
    #[prost(message, repeated, tag = "1")]
    pub(crate) entries: Vec<Entry>,
}

/// `RateLimitDescriptor.Entry`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Entry {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    #[prost(string, tag = "2")]
    pub(crate) value: String,
}

/// `RateLimitResponse.Code.OVER_LIMIT`.
pub(crate) const OVER_LIMIT: i32 = 2;

/// `RateLimitResponse`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Told {
    #[prost(int32, tag = "1")]
    pub(crate) overall: i32,
    #[prost(message, repeated, tag = "2")]
    pub(crate) statuses: Vec<Status>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) response_headers: Vec<Header>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) request_headers: Vec<Header>,
}

/// `RateLimitResponse.DescriptorStatus`. A limit that there is none for has no `current_limit`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Status {
    #[prost(int32, tag = "1")]
    pub(crate) code: i32,
    #[prost(message, optional, tag = "2")]
    pub(crate) limit: Option<Limit>,
    #[prost(uint32, tag = "3")]
    pub(crate) remaining: u32,
    #[prost(message, optional, tag = "4")]
    pub(crate) reset: Option<Reset>,
}

/// `RateLimitResponse.RateLimit`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Limit {
    #[prost(uint32, tag = "1")]
    pub(crate) requests: u32,
}

/// `google.protobuf.Duration`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Reset {
    #[prost(int64, tag = "1")]
    pub(crate) seconds: i64,
    #[prost(int32, tag = "2")]
    pub(crate) nanos: i32,
}

/// `envoy.config.core.v3.HeaderValue`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Header {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) value: String,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) raw: Vec<u8>,
}

impl From<Told> for Answer {
    fn from(told: Told) -> Self {
        let Told { overall, statuses, response_headers, request_headers } = told;
        let limited = statuses.into_iter().filter(|status| status.limit.is_some());
        let tightest = limited.min_by_key(|status| status.remaining).map(|status| {
            let reset = status.reset.unwrap_or(Reset { seconds: 0, nanos: 0 });
            let seconds = u64::try_from(reset.seconds).unwrap_or(0);
            (status.remaining.into(), Duration::new(seconds, u32::try_from(reset.nanos).unwrap_or(0).min(999_999_999)))
        });
        let plain = |headers: Vec<Header>| {
            let texts = headers.into_iter().filter_map(|Header { name, value, raw }| {
                let value = if raw.is_empty() { value } else { String::from_utf8(raw).ok()? };
                (is_header_name(&name) && is_header_value(value.as_bytes())).then_some((name, value))
            });
            texts.collect()
        };
        Self {
            over: overall == OVER_LIMIT,
            tightest,
            request_headers: plain(request_headers),
            response_headers: plain(response_headers),
        }
    }
}
