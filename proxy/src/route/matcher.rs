//! Finds the rule of a request: by host, then by path, then by what is left.
//!
//! All matches are put in their order of precedence once. What a request looks up is a map of hosts, a map of whole paths
//! and a tree of path elements; each ends in a short list of matches in that order, of which the first that the request
//! meets counts.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::HashMap;

use http::HeaderName;
use regex::bytes::RegexSet;

use crate::config::Rule;
use crate::config::matching::{PathMatch, Pattern, TextMatch};
use crate::config::route::{HostMatch, Match};
use crate::http::Fields;
use crate::http::RequestHead;
use crate::http::fields::Value;

/// Lists up to this length are read through; longer ones are looked up by the value of a header.
const SHORT: usize = 8;

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// The place of a match: of its rule among the rules, and its own in that.
type Place = (u32, u32);

#[derive(Debug)]
pub(super) struct Matcher {
    /// Every match, in order of precedence but for host and path.
    order: Vec<Place>,
    exact: Map<Box<str>, Paths>,
    /// Ends of hosts, with their dot.
    ends: Map<Box<str>, Paths>,
    any: Paths,
}

/// The matches of one host, by path. Numbers are places in [`Matcher::order`].
#[derive(Debug, Default)]
struct Paths {
    exact: Map<Box<str>, List>,
    prefixes: Node,
    patterns: Vec<u32>,
    /// All of `patterns` as one, where they are many.
    set: Option<RegexSet>,
}

/// One element of a path.
#[derive(Debug, Default)]
struct Node {
    here: List,
    below: Map<Box<str>, Node>,
}

/// Matches of one host and path, in order.
#[derive(Debug, Default)]
struct List {
    all: Vec<u32>,
    index: Option<Box<Index>>,
}

/// The same by an exact header that they want.
#[derive(Debug, Default)]
struct Index {
    by_header: Map<HeaderName, Map<Box<[u8]>, Vec<u32>>>,
    /// Those that want none.
    rest: Vec<u32>,
}

impl Matcher {
    pub(super) fn new(rules: &[Rule]) -> Self {
        let numbered = |n: usize| n.min(u32::MAX as usize) as u32;
        let places = rules
            .iter()
            .enumerate()
            .flat_map(|(rule, Rule { matches, .. })| (0..matches.len()).map(move |at| (numbered(rule), numbered(at))));
        let mut order: Vec<Place> = places.collect();
        order.sort_by_key(|place| {
            let (method, headers, query) =
                at(rules, *place).map_or((false, 0, 0), |m| (m.method.is_some(), m.headers.len(), m.query.len()));
            (Reverse((method, headers, query)), *place)
        });
        let mut matcher =
            Matcher { order: Vec::new(), exact: Map::default(), ends: Map::default(), any: Paths::default() };
        for (number, place) in order.iter().enumerate() {
            let Some(found) = at(rules, *place) else { continue };
            let paths = match &found.host {
                Some(HostMatch::Exact(host)) => matcher.exact.entry(host.as_str().into()).or_default(),
                Some(HostMatch::Under(end)) => matcher.ends.entry(end.as_str().into()).or_default(),
                None => &mut matcher.any,
            };
            paths.add(&found.path, numbered(number));
        }
        let get = |number: u32| order.get(number as usize).and_then(|place| at(rules, *place));
        let hosts = matcher.exact.values_mut().chain(matcher.ends.values_mut());
        hosts.chain([&mut matcher.any]).for_each(|paths| paths.finish(&get));
        Matcher { order, ..matcher }
    }

    /// The place of the rule, and how much of the path its prefix is.
    pub(super) fn find(&self, rules: &[Rule], head: &RequestHead) -> Option<(usize, usize)> {
        let asked = Asked { rules, order: &self.order, head };
        let found = self.by_host(head.host(), |paths| paths.find(&asked))?;
        let place = self.order.get(found as usize)?;
        let prefix = match &at(rules, *place)?.path {
            PathMatch::Prefix(prefix) => prefix.len(),
            PathMatch::Exact(_) | PathMatch::Regex(_) => 0,
        };
        Some((place.0 as usize, prefix))
    }

    /// What the most specific host gives: this one, then its ends from the longest, then any.
    fn by_host<T>(&self, host: &str, find: impl Fn(&Paths) -> Option<T>) -> Option<T> {
        if !self.exact.is_empty() || !self.ends.is_empty() {
            let host = match host.bytes().any(|b| b.is_ascii_uppercase()) {
                true => Cow::Owned(host.to_ascii_lowercase()),
                false => Cow::Borrowed(host),
            };
            if let Some(found) = self.exact.get(host.as_ref()).and_then(&find) {
                return Some(found);
            }
            if !self.ends.is_empty() {
                let found = super::ends(&host).filter_map(|end| self.ends.get(end)).find_map(&find);
                if found.is_some() {
                    return found;
                }
            }
        }
        find(&self.any)
    }
}

fn at(rules: &[Rule], (rule, place): Place) -> Option<&Match> {
    rules.get(rule as usize)?.matches.get(place as usize)
}

/// A request, and what the numbers mean.
struct Asked<'a> {
    rules: &'a [Rule],
    order: &'a [Place],
    head: &'a RequestHead,
}

impl Asked<'_> {
    fn get(&self, number: u32) -> Option<&Match> {
        at(self.rules, *self.order.get(number as usize)?)
    }

    /// Whether the request meets a match in all but host and path.
    fn meets(&self, number: u32) -> bool {
        #[cfg(test)]
        super::tests::MET.with(|met| met.set(met.get() + 1));
        let Some(Match { method, headers, query, .. }) = self.get(number) else { return false };
        method.as_ref().is_none_or(|method| *method == self.head.method)
            && has_headers(&self.head.headers, headers)
            && query.iter().all(|(name, text)| self.has_parameter(name, text))
    }

    fn first(&self, numbers: &[u32]) -> Option<u32> {
        numbers.iter().copied().find(|number| self.meets(*number))
    }

    /// The first parameter of this name counts. Names and values as they are written: nothing is decoded.
    fn has_parameter(&self, name: &str, text: &TextMatch) -> bool {
        let mut pairs = self.head.path.query().unwrap_or("").split('&').map(|p| p.split_once('=').unwrap_or((p, "")));
        pairs.find(|(key, _)| *key == name).is_some_and(|(_, value)| matches(text, value.as_bytes()))
    }
}

/// Whether a head has all of these fields.
pub fn has_headers(headers: &Fields, wanted: &[(HeaderName, TextMatch)]) -> bool {
    wanted.iter().all(|(name, text)| header(headers, name).is_some_and(|value| matches(text, &value)))
}

/// The value of a field; of several lines as one (RFC 9110 section 5.3).
fn header<'h>(headers: &'h Fields, name: &HeaderName) -> Option<Cow<'h, [u8]>> {
    let mut lines = headers.get_all(name).map(Value::as_bytes);
    let first = lines.next()?;
    let mut value = Cow::Borrowed(first);
    for line in lines {
        let value = value.to_mut();
        value.push(b',');
        value.extend_from_slice(line);
    }
    Some(value)
}

fn matches(text: &TextMatch, value: &[u8]) -> bool {
    match text {
        TextMatch::Exact(text) => text.as_bytes() == value,
        TextMatch::Regex(pattern) => pattern.matches(value),
    }
}

impl Paths {
    fn add(&mut self, path: &PathMatch, number: u32) {
        match path {
            PathMatch::Exact(path) => self.exact.entry(path.as_str().into()).or_default().all.push(number),
            PathMatch::Prefix(prefix) => {
                let elements = prefix.split('/').skip(1);
                let node = elements.fold(&mut self.prefixes, |node, e| node.below.entry(e.into()).or_default());
                node.here.all.push(number);
            }
            PathMatch::Regex(_) => self.patterns.push(number),
        }
    }

    fn finish<'r>(&mut self, get: &impl Fn(u32) -> Option<&'r Match>) {
        self.exact.values_mut().for_each(|list| list.finish(get));
        let mut nodes = vec![&mut self.prefixes];
        while let Some(node) = nodes.pop() {
            node.here.finish(get);
            nodes.extend(node.below.values_mut());
        }
        if self.patterns.len() > SHORT {
            self.set = Pattern::set(self.patterns.iter().filter_map(|number| get(*number).and_then(pattern)));
        }
    }

    fn find(&self, asked: &Asked<'_>) -> Option<u32> {
        let path = asked.head.path.path();
        let exact = || self.exact.get(path).and_then(|list| list.first(asked));
        let prefix = || self.prefixes.deepest(path.strip_prefix('/'), asked);
        exact().or_else(prefix).or_else(|| self.by_pattern(path, asked))
    }

    fn by_pattern(&self, path: &str, asked: &Asked<'_>) -> Option<u32> {
        if let Some(set) = &self.set {
            let found = set.matches(path.as_bytes());
            return found.iter().filter_map(|i| self.patterns.get(i).copied()).find(|number| asked.meets(*number));
        }
        let here = |number: &u32| asked.get(*number).and_then(pattern).is_some_and(|p| p.matches(path.as_bytes()));
        self.patterns.iter().copied().find(|number| here(number) && asked.meets(*number))
    }
}

fn pattern(found: &Match) -> Option<&Pattern> {
    match &found.path {
        PathMatch::Regex(pattern) => Some(pattern),
        PathMatch::Exact(_) | PathMatch::Prefix(_) => None,
    }
}

impl Node {
    /// The first match of the longest prefix that has one. As deep as the tree, which configured prefixes bound.
    fn deepest(&self, rest: Option<&str>, asked: &Asked<'_>) -> Option<u32> {
        let below = rest.filter(|_| !self.below.is_empty()).and_then(|rest| {
            let (element, rest) = rest.split_once('/').map_or((rest, None), |(element, rest)| (element, Some(rest)));
            self.below.get(element)?.deepest(rest, asked)
        });
        below.or_else(|| self.here.first(asked))
    }
}

impl List {
    fn finish<'r>(&mut self, get: &impl Fn(u32) -> Option<&'r Match>) {
        if self.all.len() <= SHORT {
            return;
        }
        let mut index = Index::default();
        for number in std::mem::take(&mut self.all) {
            let wanted = get(number).and_then(|found| {
                found.headers.iter().find_map(|(name, text)| match text {
                    TextMatch::Exact(value) => Some((name, value)),
                    TextMatch::Regex(_) => None,
                })
            });
            match wanted {
                Some((name, value)) => {
                    let values = index.by_header.entry(name.clone()).or_default();
                    values.entry(value.as_bytes().into()).or_default().push(number);
                }
                None => index.rest.push(number),
            }
        }
        self.index = Some(Box::new(index));
    }

    fn first(&self, asked: &Asked<'_>) -> Option<u32> {
        let Some(index) = &self.index else { return asked.first(&self.all) };
        let by_header = asked.head.headers.names().filter_map(|name| {
            let values = index.by_header.get(name)?;
            asked.first(values.get(header(&asked.head.headers, name)?.as_ref())?)
        });
        by_header.chain(asked.first(&index.rest)).min()
    }
}
