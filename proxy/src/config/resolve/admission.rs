//! Who may ask what.

use std::collections::HashSet;

use super::super::admission::{Access, AccessRule, Conditions, MAX_RULES, UNMATCHED};
use super::super::names::is_label;
use super::super::raw::admission::{self as raw, Listed, MethodName, Namespace};
use super::super::raw::{self as file};
use super::super::reader::{Field, Spot};
use super::super::route::PathMatch;
use super::super::word::Word;
use super::super::yaml::clip;
use super::{Resolver, not_label};

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
            false => self.refuse(spot, format!("\"{name}\" is the name of a rule already")),
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
        let headers = self.text_matches(headers, |name, spot| self.field_name(&name, spot));
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

    /// A path as rules have it, which compare it without its parameters, too.
    fn admission_path(&self, raw: file::route::PathMatch, at: Spot, lenient: bool) -> Option<PathMatch> {
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
