//! Which requests are let in: rules of who may ask what.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Method};

use super::matching::{PathMatch, TextMatch};
use crate::identity::SpiffeId;

/// Most rules in a list, and most alternatives of a condition: a request is compared with one after the other.
pub const MAX_RULES: usize = 256;

/// Most `*` in a pattern of identities: what finds a match tries each place for each of them.
pub const MAX_STARS: usize = 3;

/// What stands for the absence of a rule in metrics and logs. No rule may be called so.
pub const UNMATCHED: &str = "default";

/// Who may ask what of the application. A request is refused by the first rule of `deny` that it meets; then, if rules
/// of `allow` are enforced, by its meeting none of them (Istio's AuthorizationPolicy).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Access {
    /// `None`: every identity of the trust domain; empty: nobody.
    pub allow: Option<Vec<AccessRule>>,
    /// May be empty.
    pub deny: Vec<AccessRule>,
}

impl Access {
    /// Whether there is anything to ask.
    pub fn is_open(&self) -> bool {
        self.allow.is_none() && self.deny.is_empty()
    }
}

/// One rule.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessRule {
    /// Its name, unique among those of `allow` and `deny`.
    pub name: Arc<str>,
    /// What a request must be.
    pub when: Conditions,
    /// What it must not be: all of this at once.
    pub except: Option<Conditions>,
    /// It decides nothing: what it would do is counted and recorded.
    pub dry_run: bool,
}

/// What a request must be, in every respect that is given; an empty list gives none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conditions {
    /// Who calls: one of these.
    pub identities: Vec<IdentityMatch>,
    /// The namespace of who calls: one of these.
    pub namespaces: Vec<String>,
    /// The path: one of these.
    pub paths: Vec<PathMatch>,
    /// The method: one of these.
    pub methods: Vec<Method>,
    /// Fields: all of these.
    pub headers: Vec<(HeaderName, TextMatch)>,
    /// The application's port: one of these.
    pub ports: Vec<u16>,
    /// Whether what can be read in several ways (a path, a field of several lines) meets a condition if one of them does;
    /// else only if all do. What refuses is lenient, so that no spelling gets around it; what lets in is not.
    pub lenient: bool,
}

/// Most limits in a list: a request is counted in one after the other.
pub const MAX_RATE_LIMITS: usize = 16;

/// Most keys of a limit: 16 MiB.
pub const MAX_KEYS: u32 = 1 << 20;

/// A token bucket, or one for each key. All workers together count against it.
#[derive(Clone, Debug, PartialEq)]
pub struct RateLimit {
    /// Its name, unique in the file: that of the list before it, unless that is the inbound side's.
    pub name: Arc<str>,
    /// It is about requests that meet one of them; empty: about all.
    pub matches: Vec<Conditions>,
    /// So many tokens come, at least one,
    pub requests: u32,
    /// in this time, evenly; never so many that there are several in a nanosecond.
    pub per: Duration,
    /// A bucket holds so many, at least one.
    pub burst: u32,
    /// What requests have buckets of their own by; `None`: one for all.
    pub key: Option<RateKey>,
    /// Buckets at the most. Keys beyond it share one.
    pub max_keys: u32,
}

impl RateLimit {
    /// Whether what was counted for this one holds for the other: all but which requests they are about is equal.
    pub fn counts_as(&self, other: &RateLimit) -> bool {
        let RateLimit { name: _, matches: _, requests, per, burst, key, max_keys } = self;
        (requests, per, burst, key, max_keys)
            == (&other.requests, &other.per, &other.burst, &other.key, &other.max_keys)
    }
}

/// What tells the buckets of a limit apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RateKey {
    /// The identity of who calls.
    Identity,
    /// The lines of this field; none of them is a key, too.
    Header(HeaderName),
}

/// An adaptive limit of the requests that the application is asked at a time, in each worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Concurrency {
    /// It never falls below this, at least one.
    pub min: u32,
    /// It never rises above this, at least `min`.
    pub max: u32,
    /// Where it begins, between the two.
    pub initial: u32,
}

/// Bounds of the whole sidecar, beyond which requests are refused.
#[derive(Clone, Debug, PartialEq)]
pub struct Overload {
    /// Requests in flight, both ways, in all workers.
    pub requests: Option<u32>,
    /// Resident memory of the process, in bytes.
    pub memory: Option<u64>,
    /// Which requests matter more or less than others: the first that one meets counts.
    pub priorities: Vec<(Priority, Vec<Conditions>)>,
}

/// How much of the bounds a request may find in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// Refused first.
    Low,
    /// What most are.
    Normal,
    /// Refused last: probes of health, and what must work when nothing else does.
    Critical,
}

impl Priority {
    /// Every one, in this order.
    pub const ALL: [Priority; 3] = [Priority::Low, Priority::Normal, Priority::Critical];

    /// Percent of a bound.
    pub fn share(self) -> u64 {
        match self {
            Priority::Low => 80,
            Priority::Normal => 95,
            Priority::Critical => 100,
        }
    }

    /// Its word in the configuration and in metrics.
    pub fn token(self) -> &'static str {
        match self {
            Priority::Low => "low",
            Priority::Normal => "normal",
            Priority::Critical => "critical",
        }
    }
}

/// An identity, or several.
#[derive(Clone, PartialEq, Eq)]
pub enum IdentityMatch {
    /// This one.
    Exact(SpiffeId),
    /// Those that this text matches, in which `*` stands for any text: at its beginning and its end for any at all, elsewhere
    /// for any within one segment of the path.
    Pattern(Box<str>),
}

impl IdentityMatch {
    /// Whether an identity is meant.
    pub fn matches(&self, id: &SpiffeId) -> bool {
        match self {
            IdentityMatch::Exact(exact) => exact == id,
            IdentityMatch::Pattern(pattern) => glob(pattern.as_bytes(), id.as_str().as_bytes(), true),
        }
    }
}

/// Whether a pattern matches a text; `first` where it is the whole pattern. Tries the places of one `*` after the other, of
/// which there are at most [`MAX_STARS`].
fn glob(pattern: &[u8], text: &[u8], first: bool) -> bool {
    let Some(star) = pattern.iter().position(|b| *b == b'*') else { return pattern == text };
    let (before, after) = (&pattern[..star], &pattern[star + 1..]);
    let Some(rest) = text.strip_prefix(before) else { return false };
    if after.is_empty() {
        return true;
    }
    let whole = first && star == 0;
    let end = if whole { rest.len() } else { rest.iter().position(|b| *b == b'/').unwrap_or(rest.len()) };
    (0..=end).any(|at| glob(after, &rest[at..], false))
}

impl fmt::Display for IdentityMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IdentityMatch::Exact(id) => fmt::Display::fmt(id, f),
            IdentityMatch::Pattern(pattern) => f.write_str(pattern),
        }
    }
}

impl fmt::Debug for IdentityMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_within_a_pattern_stay_within_a_segment() {
        let alpha: SpiffeId = "spiffe://mesh.local/ns/default/sa/alpha".parse().expect("valid");
        for (pattern, matches) in [
            ("*", true),
            ("spiffe://mesh.local/*", true),
            ("spiffe://mesh.local/ns/default/*", true),
            ("spiffe://mesh.local/ns/default/sa/al*", true),
            ("*/sa/alpha", true),
            ("*alpha", true),
            ("spiffe://mesh.local/ns/*/sa/alpha", true),
            ("spiffe://*/ns/default/sa/alpha", true),
            ("spiffe://mesh.local/ns/d*t/sa/*pha", true),
            ("*/ns/*/sa/*", true),
            ("spiffe://mesh.local/*/alpha", false),
            ("spiffe://mesh.local/ns/*/alpha", false),
            ("spiffe://mesh.local/ns/defaul/*", false),
            ("*/sa/alph", false),
            ("spiffe://mesh.local/ns/default/sa/alphabet*", false),
        ] {
            assert_eq!(IdentityMatch::Pattern(pattern.into()).matches(&alpha), matches, "{pattern}");
        }
        assert!(IdentityMatch::Exact(alpha.clone()).matches(&alpha));
    }
}
