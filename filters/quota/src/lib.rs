//! Limits how much each caller may ask for: by token buckets that all workers share, or by asking a rate limit service.

mod bucket;
mod service;

use std::collections::BTreeSet;
use std::time::Duration;

use bucket::Buckets;
use lacis_filter_parts::{Condition, ConditionEntry, Source};
use lacis_sdk::{ConfigError, Filter, Flow, Reply, Request, Response};
use serde::Deserialize;
use service::{Service, ServiceEntry};

/// The filter's configuration, with `rules`, `service` or both.
#[derive(Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Limits that are kept here. All that match a request must grant it.
    #[serde(default)]
    rules: Vec<Entry>,
    /// A service that keeps limits, for all proxies together. It is asked if the rules grant the request.
    service: Option<ServiceEntry>,
    /// What happens to requests while the limits cannot be told: the service does not answer, or the shared data is full.
    #[serde(default)]
    failure: Failure,
    /// Whether responses have `ratelimit` and `ratelimit-policy`.
    #[serde(default = "yes")]
    headers: bool,
    /// How much a request costs.
    #[serde(default = "one")]
    cost: u64,
    /// A value of the request that says how much it costs, where it is a whole number. Callers must not choose it.
    cost_from: Option<Source>,
    /// About so many callers of each rule have buckets of their own. 40 bytes each of `limits.shared_data`.
    #[serde(default = "default_keys")]
    #[cfg_attr(not(target_family = "wasm"), schemars(range(min = 8, max = 262_144)))]
    keys: usize,
}

/// A limit.
#[derive(Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct Entry {
    /// Its name: callers see it, and filters with one `vm_id` share the buckets of rules with one name.
    name: String,
    /// What must hold for a request, all of it.
    #[serde(default, rename = "match")]
    matches: Vec<ConditionEntry>,
    /// Who has a bucket of his own: requests with the same values. None: all requests share one.
    #[serde(default)]
    by: Vec<Source>,
    /// What happens to requests without one of these values.
    #[serde(default)]
    without: Without,
    /// So many tokens come.
    tokens: u64,
    /// In so many seconds.
    per: u64,
    /// So many are kept while nobody asks; absent: `tokens`.
    burst: Option<u64>,
}

/// What happens to requests without a value of `by`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
enum Without {
    /// They share a bucket.
    #[default]
    Share,
    /// The rule is not for them.
    Pass,
    /// They are answered with 429.
    Refuse,
}

/// What happens to requests while the limits cannot be told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
enum Failure {
    /// They pass.
    #[default]
    Open,
    /// They are answered with 503.
    Closed,
}

/// With 40 bytes each, a sixth of the shared data that a filter has unless it is told otherwise.
const DEFAULT_KEYS: usize = 65_536;
/// Most of that shared data. Where callers are more than this, a rate limit service knows them better.
const MAX_KEYS: usize = 262_144;
/// Eight buckets are kept in one place.
const MIN_KEYS: usize = 8;

fn default_keys() -> usize {
    DEFAULT_KEYS
}

fn one() -> u64 {
    1
}

fn yes() -> bool {
    true
}

/// The filter.
pub struct Quota {
    rules: Vec<Rule>,
    service: Option<Service>,
    failure: Failure,
    headers: bool,
    cost: u64,
    cost_from: Option<Source>,
}

struct Rule {
    name: String,
    matches: Vec<Condition>,
    by: Vec<Source>,
    without: Without,
    buckets: Buckets,
    /// An item of `ratelimit-policy`.
    policy: String,
}

/// What the response will say.
#[derive(Clone, Debug, Default)]
struct Told {
    policies: Vec<String>,
    limits: Vec<String>,
    more: Vec<(String, String)>,
}

impl Filter for Quota {
    type Config = Config;

    fn new(config: Config) -> Result<Self, ConfigError> {
        let Config { rules, service, failure, headers, cost, cost_from, keys } = config;
        if rules.is_empty() && service.is_none() {
            return Err("it limits nothing; it needs `rules` or `service`".into());
        }
        if !(MIN_KEYS..=MAX_KEYS).contains(&keys) {
            return Err(format!("`keys` is {keys}; it may be {MIN_KEYS} to {MAX_KEYS}").into());
        }
        if let Some(source) = &cost_from {
            source.check().map_err(|error| format!("cost_from: {error}"))?;
        }
        let mut names = BTreeSet::new();
        let mut made = Vec::new();
        for (index, entry) in rules.into_iter().enumerate() {
            let rule = Rule::new(entry, keys).map_err(|error| format!("rules[{index}]: {error}"))?;
            if !names.insert(rule.name.clone()) {
                return Err(format!("rules[{index}]: there is a rule {:?} before it", rule.name).into());
            }
            made.push(rule);
        }
        let service = service.map(Service::new).transpose().map_err(|error| format!("service: {error}"))?;
        Ok(Self { rules: made, service, failure, headers, cost, cost_from })
    }

    async fn on_request(&self, request: &mut Request) -> Result<Flow, Reply> {
        let cost = self.cost_of(request);
        let mut told = Told::default();
        for rule in &self.rules {
            self.apply(rule, request, cost, &mut told)?;
        }
        if let Some(service) = &self.service {
            match service.ask(request, cost).await {
                Ok(Some(answer)) => self.obey(answer, request, &mut told)?,
                Ok(None) => {}
                Err(error) => self.fail(&error)?,
            }
        }
        if told.limits.is_empty() && told.more.is_empty() {
            return Ok(Flow::Leave);
        }
        request.keep(told);
        Ok(Flow::Continue)
    }

    async fn on_response(&self, response: &mut Response) -> Result<Flow, Reply> {
        let told = response.kept::<Told>().cloned().unwrap_or_default();
        for (name, value) in told.headers() {
            response.headers_mut().set(&name, &value)?;
        }
        Ok(Flow::Leave)
    }
}

impl Quota {
    fn cost_of(&self, request: &Request) -> u64 {
        let told = self.cost_from.as_ref().and_then(|source| source.read(request));
        told.and_then(|told| told.trim().parse().ok()).unwrap_or(self.cost)
    }

    fn apply(&self, rule: &Rule, request: &Request, cost: u64, told: &mut Told) -> Result<(), Reply> {
        if !rule.matches.iter().all(|condition| condition.holds(request)) {
            return Ok(());
        }
        let values: Option<Vec<String>> = rule.by.iter().map(|source| source.read(request)).collect();
        let caller = match (values, rule.without) {
            // The lengths keep apart what would read the same when it is joined.
            (Some(values), _) => values.iter().map(|value| format!("{}:{value};", value.len())).collect(),
            (None, Without::Share) => String::from("-"),
            (None, Without::Pass) => return Ok(()),
            (None, Without::Refuse) => {
                return Err(Reply::new(429).body(format!("{}: nobody knows whose request this is\n", rule.name)));
            }
        };
        let taken = match rule.buckets.take(&caller, cost, lacis_sdk::unix_time()) {
            Ok(taken) => taken,
            Err(error) => return self.fail(&error.to_string()),
        };
        if self.headers {
            told.policies.push(rule.policy.clone());
            told.limits.push(format!("\"{}\";r={};t={}", rule.name, taken.remaining, seconds(taken.full_in)));
        }
        if taken.granted {
            return Ok(());
        }
        Err(told.refuse(&rule.name, taken.retry_in))
    }

    fn obey(&self, answer: service::Answer, request: &mut Request, told: &mut Told) -> Result<(), Reply> {
        let service::Answer { over, tightest, request_headers, response_headers } = answer;
        if let Some((remaining, reset)) = tightest.filter(|_| self.headers) {
            told.limits.push(format!("\"service\";r={remaining};t={}", seconds(reset)));
        }
        told.more.extend(response_headers);
        if over {
            told.more.push(("x-envoy-ratelimited".to_owned(), "true".to_owned()));
            return Err(told.refuse("service", tightest.map(|(_, reset)| reset)));
        }
        for (name, value) in request_headers {
            request.headers_mut().append(&name, value)?;
        }
        Ok(())
    }

    fn fail(&self, error: &str) -> Result<(), Reply> {
        lacis_sdk::warn!("a limit cannot be told: {error}");
        match self.failure {
            Failure::Open => Ok(()),
            Failure::Closed => Err(Reply::new(503).body("limits cannot be told at the moment\n")),
        }
    }
}

impl Rule {
    fn new(entry: Entry, keys: usize) -> Result<Self, String> {
        let Entry { name, matches, by, without, tokens, per, burst } = entry;
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
            return Err(format!("{name:?} is no name of a rule: letters, digits, - _ ."));
        }
        by.iter().try_for_each(Source::check)?;
        let burst = burst.unwrap_or(tokens);
        let buckets = Buckets::new(&name, tokens, Duration::from_secs(per), burst, keys)
            .map_err(|error| format!("`tokens` {tokens}, `per` {per}, `burst` {burst}: {error}"))?;
        let matches = matches.into_iter().map(Condition::new).collect::<Result<_, _>>()?;
        let policy = format!("\"{name}\";q={tokens};w={per}");
        Ok(Self { name, matches, by, without, buckets, policy })
    }
}

impl Told {
    /// draft-ietf-httpapi-ratelimit-headers-10.
    fn headers(&self) -> Vec<(String, String)> {
        let mut headers = self.more.clone();
        for (name, items) in [("ratelimit-policy", &self.policies), ("ratelimit", &self.limits)] {
            if !items.is_empty() {
                headers.push((name.to_owned(), items.join(", ")));
            }
        }
        headers
    }

    fn refuse(&self, name: &str, retry: Option<Duration>) -> Reply {
        let reply = Reply::new(429).body(format!("{name}: too many requests\n"));
        let reply = self.headers().iter().fold(reply, |reply, (name, value)| reply.header(name, value));
        match retry {
            Some(retry) => reply.header("retry-after", &seconds(retry).max(1).to_string()),
            None => reply,
        }
    }
}

/// Whole seconds, upward: who comes earlier comes in vain.
fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

lacis_sdk::filter!(Quota);

#[cfg(test)]
mod tests;
