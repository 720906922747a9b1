//! Who may ask what.

use std::collections::HashSet;
use std::time::Duration;

use super::super::admission::{
    Access, AccessRule, Concurrency, Conditions, MAX_KEYS, MAX_RATE_LIMITS, MAX_RULES, Overload, Priority, RateKey,
    RateLimit, UNMATCHED,
};
use super::super::matching::PathMatch;
use super::super::names::is_label;
use super::super::raw::admission::{self as raw, Listed, MethodName, Namespace};
use super::super::raw::policy::Count;
use super::super::raw::{self as file};
use super::super::reader::{Field, Spot};
use super::super::route::MAX_MATCHES;
use super::super::word::{Size, Word};
use super::super::yaml::clip;
use super::{Resolver, not_label};

/// Shortest time in which a rate limit counts.
const MIN_PER: Duration = Duration::from_millis(1);

/// Who called, as the application is told; what comes in is dropped.
const CLIENT_CERT: &str = "x-forwarded-client-cert";

/// Least bound of memory.
const MIN_MEMORY: u64 = 64 << 20;

/// The health service of gRPC.
fn health() -> Conditions {
    Conditions { paths: vec![PathMatch::Prefix("/grpc.health.v1.Health".into())], ..Conditions::default() }
}

/// Where limits stand.
pub(super) struct Side<'a> {
    /// What their names begin with.
    pub(super) prefix: &'a str,
    /// Whether callers have identities.
    pub(super) inbound: bool,
    /// Whether what passes is opaque TCP.
    pub(super) opaque: bool,
}

/// What is wrong with what only the inbound side knows.
const NO_CALLER: &str =
    "every request here is of this sidecar's own service; limit it at the inbound side of the one that is called";

/// What is wrong with conditions on HTTP where there is none.
const NO_HTTP: &str = "the application takes opaque TCP, of which only identity, namespace and port are known";

impl Resolver<'_> {
    /// Rules of both lists. With opaque TCP none may ask for what only HTTP has: in `allow` it could let nobody in, and in
    /// `deny` it would refuse nobody, or everybody.
    pub(super) fn access(
        &self,
        allow: Field<Vec<Field<raw::AccessRule>>>,
        deny: Field<Vec<Field<raw::AccessRule>>>,
        opaque: bool,
    ) -> Option<Access> {
        let mut names = HashSet::new();
        let allow = self.optional(allow, None, |rules, spot| {
            if rules.is_empty() {
                self.report.warn(spot, "nobody may call; remove `allow` to let every identity of the trust domain in");
            }
            let rules = self.access_rules(rules, spot, ("allow", false), &mut names, opaque)?;
            if !rules.is_empty() && rules.iter().all(|rule| rule.dry_run) {
                self.report.warn(
                    spot,
                    "every rule is a dry run: until one is not, every identity of the trust domain may call",
                );
            }
            Some(Some(rules))
        });
        let deny = self.optional(deny, Vec::new(), |rules, spot| {
            self.access_rules(rules, spot, ("deny", true), &mut names, opaque)
        });
        Some(Access { allow: allow?, deny: deny? })
    }

    fn access_rules(
        &self,
        rules: Vec<Field<raw::AccessRule>>,
        at: Spot,
        (list, lenient): (&str, bool),
        names: &mut HashSet<String>,
        opaque: bool,
    ) -> Option<Vec<AccessRule>> {
        if rules.len() > MAX_RULES {
            return self.refuse(at, format!("has more than {MAX_RULES} rules"));
        }
        let mut number = 0;
        self.each(rules, |rule, at| {
            number += 1;
            let raw::AccessRule { name, identity, namespace, path, method, headers, port, except, dry_run } = rule;
            let name = self.rule_name(name, at, format!("{list}-{number}"), names);
            let when = raw::Conditions { identity, namespace, path, method, headers, port };
            let when = self.conditions_of(when, at, lenient, opaque);
            let except =
                self.optional(except, None, |raw, spot| self.conditions_of(raw, spot, !lenient, opaque).map(Some));
            let dry_run = dry_run.or(false);
            Some(AccessRule { name: name?.into(), when: when?, except: except?, dry_run: dry_run? })
        })
    }

    /// The name of a rule, or the one that it has by its place.
    pub(super) fn rule_name(
        &self,
        name: Field<String>,
        at: Spot,
        default: String,
        names: &mut HashSet<String>,
    ) -> Option<String> {
        let spot = name.spot().unwrap_or(at);
        let name = self.optional(name, default, |name, spot| match is_label(&name) {
            true if name == UNMATCHED => {
                self.refuse(spot, format!("\"{UNMATCHED}\" stands for what no rule concerns; choose another name"))
            }
            true => Some(name),
            false => self.refuse(spot, not_label(&name, "the name of a rule")),
        })?;
        match names.insert(name.clone()) {
            true => Some(name),
            false => self.refuse(spot, format!("\"{name}\" is the name of a rule already; choose another")),
        }
    }

    /// Conditions of which there is at least one.
    pub(super) fn conditions_of(
        &self,
        raw: raw::Conditions,
        at: Spot,
        lenient: bool,
        opaque: bool,
    ) -> Option<Conditions> {
        let raw::Conditions { identity, namespace, path, method, headers, port } = raw;
        let given = [&identity.spot(), &namespace.spot(), &path.spot(), &method.spot(), &headers.spot(), &port.spot()];
        let absent = identity.is_absent()
            && namespace.is_absent()
            && path.is_absent()
            && method.is_absent()
            && headers.is_absent()
            && port.is_absent();
        if absent {
            let right = "write one such as `identity`, or `path: {prefix: /}` if every request is meant";
            return self.refuse(at, format!("no condition; {right}"));
        }
        if opaque {
            let [_, _, path, method, headers, _] = given;
            let http: Vec<&Spot> = [path, method, headers].into_iter().flatten().collect();
            http.iter().for_each(|spot| self.report.wrong_key(**spot, NO_HTTP));
            if !http.is_empty() {
                return None;
            }
        }
        let identities = self.listed(identity, |Word(id), _| Some(id));
        let namespaces = self.listed(namespace, |Word(Namespace(name)), _| Some(name));
        let paths = self.listed(path, |raw, spot| self.admission_path(raw, spot, lenient));
        let methods = self.listed(method, |Word(MethodName(method)), _| Some(method));
        let headers = self.text_matches(headers, |name, spot| match self.field_name(&name, spot)? {
            name if name == CLIENT_CERT => {
                self.refuse(spot, format!("{CLIENT_CERT} is what a caller says of itself here; write `identity`"))
            }
            name => Some(name),
        });
        let ports = self.listed(port, |file::Port(port), _| Some(port));
        Some(Conditions {
            identities: identities?,
            namespaces: namespaces?,
            paths: paths?,
            methods: methods?,
            headers: headers?,
            ports: ports?,
            lenient,
        })
    }

    /// Limits of how often something may be asked.
    pub(super) fn rate_limits(
        &self,
        field: Field<Vec<Field<raw::RateLimit>>>,
        side: &Side<'_>,
    ) -> Option<Vec<RateLimit>> {
        self.optional(field, Vec::new(), |limits, at| {
            if limits.len() > MAX_RATE_LIMITS {
                return self.refuse(at, format!("has more than {MAX_RATE_LIMITS} limits"));
            }
            let (mut names, mut number) = (HashSet::new(), 0);
            self.each(limits, |limit, at| {
                number += 1;
                self.rate_limit(limit, at, number, &mut names, side)
            })
        })
    }

    fn rate_limit(
        &self,
        raw: raw::RateLimit,
        at: Spot,
        number: usize,
        names: &mut HashSet<String>,
        side: &Side<'_>,
    ) -> Option<RateLimit> {
        let raw::RateLimit { name, matches, requests, per, burst, key, max_keys } = raw;
        let name = self.rule_name(name, at, format!("limit-{number}"), names);
        let matches = self.optional(matches, Vec::new(), |matches, spot| {
            if matches.len() > MAX_MATCHES {
                return self.refuse(spot, format!("a limit has at most {MAX_MATCHES} matches"));
            }
            self.each(matches, |raw, spot| {
                let of_caller = [raw.identity.spot(), raw.namespace.spot(), raw.port.spot()];
                let of_caller: Vec<Spot> = of_caller.into_iter().flatten().filter(|_| !side.inbound).collect();
                if !of_caller.is_empty() {
                    of_caller.into_iter().for_each(|spot| self.report.wrong_key(spot, NO_CALLER));
                    return None;
                }
                // What is spelled oddly is counted, too.
                self.conditions_of(raw, spot, true, side.opaque)
            })
        });
        let requests = self.required(requests, at, "requests", "how many pass in `per`, such as 100");
        let requests = requests.and_then(|(Count(requests), spot)| match requests {
            0 => self.refuse(spot, "nothing could pass; write at least 1"),
            requests => Some((requests, spot)),
        });
        let per = self.duration(per, raw::PER, MIN_PER);
        let burst = self.optional(burst, None, |Count(burst), spot| match burst {
            0 => self.refuse(spot, "nothing could pass; write at least 1"),
            burst => Some(Some(burst)),
        });
        let key = self.optional(key, None, |key, spot| {
            match key {
                raw::Key::Identity if side.inbound => Some(RateKey::Identity),
                raw::Key::Identity => self.refuse(spot, NO_CALLER),
                raw::Key::Header(_) if side.opaque => self.refuse(spot, "opaque TCP has no fields"),
                raw::Key::Header(raw::HeaderKey { header }) => {
                    let (name, spot) = self.required(header, spot, "header", "the name of a field")?;
                    self.field_name(&name, spot).map(RateKey::Header)
                }
            }
            .map(Some)
        });
        let max_keys = self.optional(max_keys, raw::MAX_KEYS, |Count(keys), spot| match keys {
            1..=MAX_KEYS => Some(keys),
            _ => self.refuse(spot, format!("write 1 to {MAX_KEYS}; each takes 16 bytes")),
        });
        let ((requests, spot), per) = (requests?, per?);
        if u128::from(requests) > per.as_nanos() {
            return self.refuse(spot, "more than one in a nanosecond is no limit; write fewer");
        }
        Some(RateLimit {
            name: format!("{}{}", side.prefix, name?).into(),
            matches: matches?,
            requests,
            per,
            burst: burst?.unwrap_or(requests),
            key: key?,
            max_keys: max_keys?,
        })
    }

    /// Bounds of an adaptive limit.
    pub(super) fn concurrency(&self, field: Field<raw::Concurrency>) -> Option<Option<Concurrency>> {
        self.optional(field, None, |raw::Concurrency(raw::ConcurrencyBounds { min, max, initial }), at| {
            let none = "nothing could pass; write at least 1";
            let said = initial.spot();
            let min = self.at_least(min, raw::MIN_CONCURRENCY, 1, none);
            let max = self.at_least(max, raw::MAX_CONCURRENCY, 1, none);
            let initial = self.at_least(initial, raw::INITIAL_CONCURRENCY, 1, none);
            let (min, max, initial) = (min?, max?, initial?);
            if min > max {
                return self.refuse(at, format!("`min` is {min}, which is more than `max`, {max}"));
            }
            match said {
                Some(spot) if !(min..=max).contains(&initial) => {
                    self.refuse(spot, format!("not between `min` and `max`; write {min} to {max}"))
                }
                _ => Some(Some(Concurrency { min, max, initial: initial.clamp(min, max) })),
            }
        })
    }

    /// Bounds of the whole sidecar.
    pub(super) fn overload(&self, field: Field<raw::Overload>) -> Option<Option<Overload>> {
        self.optional(field, None, |raw, at| {
            let raw::Overload { requests, memory, priorities } = raw;
            if requests.is_absent() && memory.is_absent() {
                self.report.wrong_key(at, "no bound; write `requests`, or `memory`");
                return None;
            }
            let requests = self.optional(requests, None, |Count(most), spot| match most {
                0 => self.refuse(spot, "nothing could pass; write at least 1"),
                most => Some(Some(most)),
            });
            let memory = self.optional(memory, None, |Word(Size(bytes)), spot| match bytes {
                MIN_MEMORY.. => Some(Some(bytes)),
                _ => self.refuse(spot, "a sidecar that does nothing needs about that; write at least 64MiB"),
            });
            let priorities = self.optional(priorities, Vec::new(), |rules, spot| {
                if rules.len() > MAX_RULES {
                    return self.refuse(spot, format!("has more than {MAX_RULES} rules"));
                }
                self.each(rules, |rule, at| self.priority(rule, at))
            });
            let mut priorities = priorities?;
            priorities.push((Priority::Critical, vec![health()]));
            Some(Some(Overload { requests: requests?, memory: memory?, priorities }))
        })
    }

    fn priority(&self, raw: raw::PriorityRule, at: Spot) -> Option<(Priority, Vec<Conditions>)> {
        let raw::PriorityRule { priority, matches } = raw;
        let priority = self.required(priority, at, "priority", "low, normal or critical");
        let matches = self.required(matches, at, "matches", "which requests, such as [{path: {exact: /health}}]");
        let (Word(priority), _) = priority?;
        let (matches, spot) = matches?;
        if matches.is_empty() || matches.len() > MAX_MATCHES {
            return self.refuse(spot, format!("write 1 to {MAX_MATCHES} matches"));
        }
        // Nobody is to get ahead by an odd spelling.
        let lenient = priority != Priority::Critical;
        let matches = self.each(matches, |raw, spot| match raw.port.spot() {
            Some(port) => {
                self.report.wrong_key(port, "is the same for all; remove it");
                None
            }
            None => self.conditions_of(raw, spot, lenient, false),
        });
        Some((priority, matches?))
    }

    /// A path as rules have it, which compare it without its parameters, too.
    fn admission_path(&self, raw: file::matching::PathMatch, at: Spot, lenient: bool) -> Option<PathMatch> {
        match self.path_match(raw, at)? {
            PathMatch::Exact(path) | PathMatch::Prefix(path) if path.contains(';') => {
                let right = "write it without, and what follows `;` in a request does not matter";
                self.refuse(at, format!("\"{}\" has parameters; {right}", clip(&path)))
            }
            PathMatch::Regex(pattern) if lenient => match pattern.in_any_case() {
                Ok(pattern) => Some(PathMatch::Regex(pattern)),
                Err(why) => self.refuse(at, format!("the pattern {why}")),
            },
            path => Some(path),
        }
    }

    /// One, or several; never none where the key is there.
    fn listed<T, U>(&self, field: Field<Listed<T>>, mut check: impl FnMut(T, Spot) -> Option<U>) -> Option<Vec<U>> {
        self.optional(field, Vec::new(), |Listed(items, one), spot| {
            if let Some(one) = one {
                return check(one, spot).map(|one| vec![one]);
            }
            if items.is_empty() {
                return self.refuse(spot, "an empty list, which nothing meets; write one, or remove it");
            }
            if items.len() > MAX_RULES {
                return self.refuse(spot, format!("has more than {MAX_RULES} items"));
            }
            self.each(items, check)
        })
    }
}
