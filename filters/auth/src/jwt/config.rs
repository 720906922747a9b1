//! What is configured of tokens.

use std::cell::RefCell;
use std::time::Duration;

use lacis_sdk::is_header_name;
use serde::Deserialize;
use serde_json::Value;

use super::place::{Entry, Place};
use super::{Cache, Keys, Provider, Remote, Tokens};
use crate::claims::Place as Claim;
use crate::duration::{Span, bounded};
use crate::jose::{Algorithm, KeySet};

/// How many tokens are remembered as checked, unless something else is configured.
const CACHE: usize = 512;
/// The greatest number that may be configured: some 2 KiB of memory each, on each worker.
const MOST_CACHE: usize = 4096;
/// How far clocks may differ, unless something else is configured. Hosts that run NTP differ by milliseconds; tokens are
/// made by others.
const SKEW: Duration = Duration::from_secs(60);
/// The greatest difference of clocks that may be configured: a token lives that much longer.
const MOST_SKEW: Duration = Duration::from_secs(300);
/// How often keys are fetched, unless something else is configured.
const REFRESH: Duration = Duration::from_secs(600);
/// How often they may be fetched.
const REFRESHES: std::ops::RangeInclusive<Duration> = Duration::from_secs(10)..=Duration::from_secs(12 * 60 * 60);
/// How long an answer with keys may take, unless something else is configured.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The longest time that may be configured for it: requests wait for it.
const MOST_TIMEOUT: Duration = Duration::from_secs(30);

/// JSON Web Tokens.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
pub(crate) struct Config {
    /// Whose tokens are accepted. Those that have the token's `iss` are asked in this order.
    providers: Vec<ProviderConfig>,
    /// Where tokens are looked for, in this order; absent: after `Bearer` in the header `authorization`.
    from: Option<Vec<Entry>>,
    /// Whether the service sees the token; absent: it does not.
    #[serde(default)]
    forward_token: bool,
    /// How many checked tokens each worker remembers, at most 4096; absent: 512. With 0 each request has its signature
    /// checked.
    cache: Option<usize>,
}

/// An issuer.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
struct ProviderConfig {
    /// What it is called in the log.
    name: String,
    /// What its tokens have in `iss`.
    issuer: String,
    /// What its tokens must have in `aud`, one of these; an empty list accepts tokens for whomever.
    audiences: Vec<String>,
    /// Its keys, as a JSON Web Key Set.
    jwks: Option<Value>,
    /// The service that its keys are fetched from.
    jwks_from: Option<RemoteConfig>,
    /// The algorithms that its tokens may be signed by; absent: each that its keys are for.
    #[serde(default)]
    algorithms: Vec<Algorithm>,
    /// How far its clock may differ, at most 5m; absent: 60s.
    clock_skew: Option<Span>,
    /// Whether its tokens must have `exp`; absent: they must.
    require_expiration: Option<bool>,
    /// The longest time between `iat` (or now) and `exp` of its tokens; absent: any.
    max_lifetime: Option<Span>,
    /// Headers that tell the service what the token says. What a request itself has in them is always removed.
    #[serde(default)]
    claim_headers: Vec<ClaimHeader>,
    /// A header that tells the service all claims, in base64url as they stand in the token; absent: none.
    forward_payload: Option<String>,
}

/// A header with a claim.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
struct ClaimHeader {
    /// Which claim. Texts, numbers and flags are forwarded, and lists of them with commas between.
    claim: Claim,
    /// The name of the header.
    header: String,
}

/// Where keys come from.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
struct RemoteConfig {
    /// A service of the sidecar's file (on Envoy a cluster).
    service: String,
    /// The path there, as in `jwks_uri` of the issuer.
    path: String,
    /// The `host` to ask for; absent: the service's name.
    authority: Option<String>,
    /// How often, 10s to 12h; absent: 10m.
    refresh: Option<Span>,
    /// How long it may take, at most 30s; absent: 5s.
    timeout: Option<Span>,
}

impl Tokens {
    pub(crate) fn new(config: Config) -> Result<Self, String> {
        let Config { providers, from, forward_token, cache } = config;
        if providers.is_empty() {
            return Err("`jwt.providers` is empty: no token could pass".to_owned());
        }
        let places = match from {
            None => vec![Place::bearer()],
            Some(entries) if entries.is_empty() => {
                return Err("`jwt.from` is empty: no token could be found".to_owned());
            }
            Some(entries) => entries.into_iter().map(Place::new).collect::<Result<_, _>>()?,
        };
        let cache = cache.unwrap_or(CACHE);
        if cache > MOST_CACHE {
            return Err(format!("`jwt.cache` is {cache}: at most {MOST_CACHE} tokens can be remembered"));
        }
        let providers = providers.into_iter().map(provider).collect::<Result<_, _>>()?;
        Ok(Self { places, forward_token, providers, cache: RefCell::new(Cache::new(cache)) })
    }
}

fn provider(config: ProviderConfig) -> Result<Provider, String> {
    let name = config.name.clone();
    read(config).map_err(|error| format!("provider {name:?} of `jwt`: {error}"))
}

fn read(config: ProviderConfig) -> Result<Provider, String> {
    let ProviderConfig {
        name,
        issuer,
        audiences,
        jwks,
        jwks_from,
        algorithms,
        clock_skew,
        require_expiration,
        max_lifetime,
        claim_headers,
        forward_payload,
    } = config;
    if issuer.is_empty() {
        return Err("`issuer` is empty: say what its tokens have in `iss`".to_owned());
    }
    let keys = match (jwks, jwks_from) {
        (Some(set), None) => Keys::Inline(KeySet::configured(&set).map_err(|error| format!("`jwks`: {error}"))?),
        (None, Some(config)) => Keys::Remote(Box::new(remote(name, config)?)),
        _ => return Err("exactly one of `jwks` and `jwks_from` is needed: the keys, or where they are".to_owned()),
    };
    let skew = bounded("clock_skew", clock_skew, SKEW, Duration::ZERO..=MOST_SKEW)?.as_secs();
    let claim_headers = claim_headers.into_iter().map(|ClaimHeader { claim, header }| (claim, header));
    let claim_headers: Vec<(Claim, String)> =
        claim_headers.map(|(claim, header)| Ok((claim, own_header(&header)?))).collect::<Result<_, String>>()?;
    let forward_payload = forward_payload.as_deref().map(own_header).transpose()?;
    Ok(Provider {
        issuer,
        audiences,
        algorithms,
        skew,
        require_expiration: require_expiration.unwrap_or(true),
        max_lifetime: max_lifetime.map(|Span(time)| time.as_secs()),
        keys,
        claim_headers,
        forward_payload,
    })
}

fn remote(provider: String, config: RemoteConfig) -> Result<Remote, String> {
    let RemoteConfig { service, path, authority, refresh, timeout } = config;
    if service.is_empty() {
        return Err("`service` of `jwks_from` is empty: name a service of the sidecar's file".to_owned());
    }
    if !path.starts_with('/') || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("`path` of `jwks_from` is {path:?}: it begins with `/`, and has no spaces"));
    }
    if authority.as_ref().is_some_and(|name| name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic())) {
        return Err("`authority` of `jwks_from` must be a host, with a port if need be".to_owned());
    }
    let refresh = bounded("jwks_from.refresh", refresh, REFRESH, REFRESHES)?;
    let timeout = bounded("jwks_from.timeout", timeout, TIMEOUT, Duration::from_millis(1)..=MOST_TIMEOUT)?;
    Ok(Remote::new(provider, service, path, authority, timeout, refresh))
}

/// The name of a header that this filter alone may set.
fn own_header(name: &str) -> Result<String, String> {
    if is_header_name(name) { Ok(name.to_ascii_lowercase()) } else { Err(format!("{name:?} is no name of a header")) }
}
