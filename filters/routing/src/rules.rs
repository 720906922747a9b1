//! One rule: for which requests it is, and what it does with them.

use std::time::SystemTime;

use lacis_filter_parts::{Condition, ConditionEntry, Source, hash, is_service};
use lacis_sdk::Request;
use serde::Deserialize;

use crate::window::{self, Window};

/// The parts of which `percent` counts: hundredths of a percent.
const PARTS: u64 = 10_000;
/// Largest weight, as in the proxy's own routes.
const MAX_WEIGHT: u32 = 1_000_000;

/// A rule as it is configured.
#[derive(Debug, Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    /// What must hold, all of it; none: for every request.
    #[serde(default, rename = "match")]
    matches: Vec<ConditionEntry>,
    /// When the rule holds; absent: always.
    during: Option<window::Entry>,
    /// The share of the users (see `by`) for whom the rule is, in percent, to two decimal places; absent: all.
    percent: Option<f64>,
    /// Who the user is: one user is always on the same side of `percent`, and always goes to the same of several
    /// services. Absent, or where a request has no such value: each request is on its own.
    by: Option<Source>,
    /// Rules of one salt choose the same users first; another one chooses others.
    #[serde(default)]
    salt: String,
    /// Where the requests go; several by weight. Absent: they go on to the next rule.
    #[serde(default)]
    to: Vec<Backend>,
    /// Marks the requests as to be mirrored to this service, by the header that `mark` names.
    mirror: Option<String>,
    /// Sends a copy of the requests to this service, whose answer nobody waits for.
    shadow: Option<String>,
}

/// A service and its share.
#[derive(Debug, Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct Backend {
    /// The service.
    service: String,
    /// Its share of the sum of all weights.
    #[serde(default = "one")]
    weight: u32,
}

fn one() -> u32 {
    1
}

/// A rule.
#[derive(Debug)]
pub(crate) struct Rule {
    matches: Vec<Condition>,
    during: Option<Window>,
    /// Of [`PARTS`].
    share: u64,
    by: Option<Source>,
    salts: [String; 2],
    to: Vec<Backend>,
    total: u64,
    pub(crate) mirror: Option<String>,
    pub(crate) shadow: Option<String>,
}

/// Time and chance, as a rule asks for them.
pub(crate) struct World {
    pub(crate) now: fn() -> SystemTime,
    pub(crate) random: fn() -> u64,
}

impl Rule {
    pub(crate) fn new(entry: Entry) -> Result<Self, String> {
        let Entry { matches, during, percent, by, salt, to, mirror, shadow } = entry;
        let services = to.iter().map(|backend| &backend.service).chain(&mirror).chain(&shadow);
        for service in services {
            if !is_service(service) {
                return Err(format!("{service:?} is no name of a service"));
            }
        }
        if to.is_empty() && mirror.is_none() && shadow.is_none() {
            return Err("it does nothing; it needs one of `to`, `mirror` and `shadow`".to_owned());
        }
        if to.iter().any(|backend| backend.weight > MAX_WEIGHT) {
            return Err(format!("a weight of `to` may be 0 to {MAX_WEIGHT}"));
        }
        let total: u64 = to.iter().map(|backend| u64::from(backend.weight)).sum();
        if total == 0 && !to.is_empty() {
            return Err("no service of `to` has a weight above 0".to_owned());
        }
        if let Some(by) = &by {
            by.check()?;
            if percent.is_none() && to.len() < 2 {
                return Err("`by` needs `percent`, or several services in `to`".to_owned());
            }
        }
        let percent = percent.unwrap_or(100.0);
        if !(0.0..=100.0).contains(&percent) {
            return Err(format!("`percent` is {percent}; it may be 0 to 100"));
        }
        let numbered = |(index, entry)| Condition::new(entry).map_err(|error| format!("match[{index}]: {error}"));
        Ok(Self {
            matches: matches.into_iter().enumerate().map(numbered).collect::<Result<_, _>>()?,
            during: during.map(Window::new).transpose().map_err(|error| format!("during: {error}"))?,
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 10000")]
            share: (percent * 100.0).round() as u64,
            by,
            // Who is chosen and where he goes must have nothing to do with each other.
            salts: [format!("percent {salt}"), format!("to {salt}")],
            to,
            total,
            mirror,
            shadow,
        })
    }

    /// Whether the rule is for a request.
    pub(crate) fn is_for(&self, request: &Request, world: &World) -> bool {
        self.matches.iter().all(|condition| condition.holds(request))
            && self.during.as_ref().is_none_or(|window| window.contains((world.now)()))
            && (self.share == PARTS || self.number(0, request, world) % PARTS < self.share)
    }

    /// The service that a request goes to.
    pub(crate) fn service(&self, request: &Request, world: &World) -> Option<&str> {
        let mut left = if self.to.len() > 1 { self.number(1, request, world) % self.total } else { 0 };
        let chosen = self.to.iter().find(|backend| {
            let weight = u64::from(backend.weight);
            let chosen = left < weight;
            left = left.saturating_sub(weight);
            chosen
        });
        chosen.map(|backend| backend.service.as_str())
    }

    fn number(&self, choice: usize, request: &Request, world: &World) -> u64 {
        match (self.by.as_ref().and_then(|by| by.read(request)), self.salts.get(choice)) {
            (Some(user), Some(salt)) => hash(salt, &user),
            _ => (world.random)(),
        }
    }
}
