//! Authorization: may this caller ask this?

use std::collections::HashMap;
use std::sync::Arc;

use super::conditions::{Asked, Matcher};
use crate::config;
use crate::config::admission::{AccessRule, UNMATCHED};
use crate::identity::SpiffeId;
use crate::telemetry::cell::Counter;
use crate::telemetry::labels::Authorization;
use crate::telemetry::metrics::Metrics;

/// The rules of one side, as a worker asks them.
#[derive(Debug)]
pub struct Access {
    deny: Vec<Rule>,
    allow: Vec<Rule>,
    /// Places in `allow` of rules that are enforced and about nothing but an identity.
    known: HashMap<SpiffeId, usize, foldhash::fast::RandomState>,
    /// Whether `allow` refuses whom none of its rules is about.
    enforced: bool,
    unmatched: Rule,
}

#[derive(Debug)]
struct Rule {
    name: Arc<str>,
    when: Option<Matcher>,
    except: Option<Matcher>,
    dry_run: bool,
    /// How often it decided, and how often it would have.
    counts: [Arc<Counter>; 2],
}

/// What rules say of a request.
#[derive(Debug, Default)]
pub struct Decision<'a> {
    /// The rule that refuses it; [`UNMATCHED`] if that is the lack of one that lets it in.
    pub refused_by: Option<&'a Arc<str>>,
    /// What a rule in its dry run would have done.
    pub dry_run: Option<(Authorization, &'a Arc<str>)>,
}

impl Access {
    /// The rules of a configuration. `None` if there are none.
    pub fn new(access: &config::Access, metrics: &Metrics) -> Option<Self> {
        if access.is_open() {
            return None;
        }
        let rules = |rules: &[AccessRule], does, would| -> Vec<Rule> {
            rules.iter().map(|rule| Rule::new(rule, metrics, does, would)).collect()
        };
        let deny = rules(&access.deny, Authorization::Deny, Authorization::WouldDeny);
        let allow = rules(access.allow.as_deref().unwrap_or_default(), Authorization::Allow, Authorization::WouldAllow);
        let enforced = access.allow.is_some() && (allow.is_empty() || allow.iter().any(|rule| !rule.dry_run));
        let mut known = HashMap::default();
        for (place, rule) in allow.iter().enumerate().filter(|(_, rule)| !rule.dry_run && rule.except.is_none()) {
            for id in rule.when.as_ref().and_then(Matcher::sole_identities).into_iter().flatten() {
                known.entry(id.clone()).or_insert(place);
            }
        }
        let unmatched = Rule {
            name: UNMATCHED.into(),
            when: None,
            except: None,
            dry_run: !enforced,
            counts: [Authorization::Deny, Authorization::WouldDeny]
                .map(|verdict| metrics.authorization(UNMATCHED, verdict)),
        };
        Some(Access { deny, allow, known, enforced, unmatched })
    }

    /// What they say of a request, and counts it.
    pub fn decide(&self, asked: &Asked<'_>) -> Decision<'_> {
        let mut dry_run = None;
        for rule in self.deny.iter().filter(|rule| rule.concerns(asked)) {
            rule.count();
            if !rule.dry_run {
                return Decision { refused_by: Some(&rule.name), dry_run };
            }
            dry_run = dry_run.or(Some((Authorization::WouldDeny, &rule.name)));
        }
        if self.enforced {
            let place = asked.peer().and_then(|peer| self.known.get(peer)).and_then(|place| self.allow.get(*place));
            let found = place.or_else(|| self.allow.iter().find(|rule| !rule.dry_run && rule.concerns(asked)));
            if let Some(rule) = found {
                rule.count();
                return Decision { refused_by: None, dry_run };
            }
        }
        let trial = self.allow.iter().find(|rule| rule.dry_run && rule.concerns(asked));
        if let Some(rule) = trial {
            rule.count();
        }
        match trial {
            _ if !self.enforced && self.allow.is_empty() => Decision { refused_by: None, dry_run },
            Some(_) if !self.enforced => Decision { refused_by: None, dry_run },
            trial => {
                self.unmatched.count();
                let would = match trial {
                    Some(rule) => Some((Authorization::WouldAllow, &rule.name)),
                    None => (!self.enforced).then_some((Authorization::WouldDeny, &self.unmatched.name)),
                };
                let refused_by = self.enforced.then_some(&self.unmatched.name);
                Decision { refused_by, dry_run: dry_run.or(would) }
            }
        }
    }
}

impl Rule {
    fn new(rule: &AccessRule, metrics: &Metrics, does: Authorization, would: Authorization) -> Self {
        let AccessRule { name, when, except, dry_run } = rule;
        Rule {
            // Its own: workers that count references to the same one would wait for each other.
            name: Arc::from(&**name),
            when: Some(Matcher::new(when)),
            except: except.as_ref().map(Matcher::new),
            dry_run: *dry_run,
            counts: [does, would].map(|verdict| metrics.authorization(name, verdict)),
        }
    }

    fn concerns(&self, asked: &Asked<'_>) -> bool {
        self.when.as_ref().is_some_and(|when| when.meets(asked))
            && !self.except.as_ref().is_some_and(|except| except.meets(asked))
    }

    fn count(&self) {
        let [does, would] = &self.counts;
        if self.dry_run { would } else { does }.add(1);
    }
}

#[cfg(test)]
mod tests;
