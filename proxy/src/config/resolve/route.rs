//! Routes: which requests they mean, what is done with those, where they go.

use std::collections::{HashMap, HashSet};

use http::Method;
use http::header::{self, HeaderName, HeaderValue};
use http::uri::PathAndQuery;

use super::super::fault::Mirror;
use super::super::matching::{MAX_PATTERNS, PathMatch, Pattern, TextMatch};
use super::super::names::{host, is_label};
use super::super::raw::matching as raw_matching;
use super::super::raw::route as raw;
use super::super::reader::{Field, Spot};
use super::super::route::{
    Backend, FieldChanges, GrpcKind, HostMatch, MAX_MATCHES, Match, PathChange, Redirect, Rewrite, Route, Rule,
};
use super::super::word::Word;
use super::super::yaml::clip;
use super::super::{Service, ServiceProtocol};
use super::admission::Side;
use super::service::Hosts;
use super::{FilterNames, Resolver, not_label};

/// Most headers or parameters of a match, changes of fields, or backends (Gateway API: 16 of each).
const MAX_LIST: usize = 16;

/// Longest path, or value of a field or parameter, in bytes (Gateway API: 1024 for paths, 4096 for values).
const MAX_PATH_BYTES: usize = 1024;
const MAX_VALUE_BYTES: usize = 4096;

/// Fields that routes do not change: they frame the message, or belong to one connection.
const FRAMING: [&str; 8] =
    ["connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"];

/// What routes may name.
pub(super) struct Known<'a> {
    /// Positions of services by name.
    pub(super) services: &'a HashMap<String, usize>,
    /// The services, if they could be read.
    pub(super) read: Option<&'a [Service]>,
    /// Which service has which host.
    pub(super) hosts: Hosts,
    /// Positions of filters by name.
    pub(super) filters: &'a FilterNames,
}

/// What the filters of a rule say.
#[derive(Default)]
struct Actions {
    request: FieldChanges,
    response: FieldChanges,
    redirect: Option<Redirect>,
    rewrite: Option<Rewrite>,
    filters: Vec<usize>,
    mirrors: Vec<Mirror>,
    /// Replaces a matched prefix.
    prefix: Option<Spot>,
}

/// What is gathered for one service, of all its routes.
#[derive(Default)]
struct Gathered {
    rules: Vec<Rule>,
    /// Those that were refused counted.
    count: usize,
    names: HashSet<String>,
    hosts: Vec<String>,
    patterns: usize,
}

impl Resolver<'_> {
    pub(super) fn routes(&self, field: Field<Vec<Field<raw::Route>>>, mut known: Known<'_>) -> Option<Vec<Route>> {
        let routes = field.or(Vec::new())?;
        let (mut order, mut gathered) = (Vec::new(), HashMap::<usize, Gathered>::new());
        self.each(routes, |raw::Route { service, rules }, at| {
            let right = "the name of the service that is called";
            let service = self.required(service, at, "service", right).and_then(|(name, spot)| {
                let place = self.http_service(&name, spot, &known)?;
                Some((name, place))
            });
            let (rules, spot) = self.required(rules, at, "rules", "a list such as [{to: [{service: NAME}]}]")?;
            if rules.is_empty() {
                return self.refuse(spot, "without a rule every request would be answered 404; add one");
            }
            let (name, place) = service?;
            let of_service = gathered.entry(place).or_insert_with(|| {
                order.push(place);
                Gathered::default()
            });
            self.each(rules, |rule, spot| {
                let rule = self.rule(rule, spot, &name, of_service, &mut known)?;
                of_service.rules.push(rule);
                Some(())
            })
            .map(|_| ())
        })?;
        let route = |service| {
            let Gathered { rules, hosts, .. } = gathered.remove(&service)?;
            Some(Route { service, rules: rules.into(), hosts })
        };
        Some(order.into_iter().filter_map(route).collect())
    }

    fn rule(
        &self,
        raw: raw::Rule,
        at: Spot,
        service: &str,
        gathered: &mut Gathered,
        known: &mut Known<'_>,
    ) -> Option<Rule> {
        let raw::Rule { name, matches, filters, to, timeout, per_try_timeout, fault, rate_limits } = raw;
        gathered.count += 1;
        let default = format!("rule-{}", gathered.count);
        let name_spot = name.spot().unwrap_or(at);
        let name = self.optional(name, default, |name, spot| match is_label(&name) {
            true => Some(name),
            false => self.refuse(spot, not_label(&name, "the name of a rule")),
        });
        let name = name.and_then(|name| match gathered.names.insert(name.clone()) {
            true => Some(name),
            false => self
                .refuse(name_spot, format!("\"{name}\" is the name of a rule of this service already; choose another")),
        });
        let matches = self.matches(matches, service, gathered, known);
        let actions = self.actions(filters, known);
        let to = self.list(to, |raw::To { service, weight }, spot| {
            let service = self
                .required(service, spot, "service", "the name of a service")
                .and_then(|(name, spot)| self.http_service(&name, spot, known));
            let weight = weight.or(raw::Share(1));
            Some(Backend { service: service?, weight: weight?.0 })
        });
        let timeout = self.optional(timeout, None, |Word(timeout), _| Some(Some(timeout)));
        let per_try_timeout = self.optional(per_try_timeout, None, |Word(timeout), _| Some(Some(timeout)));
        let fault_spot = fault.spot();
        let fault = self.fault(fault);
        let prefix = format!("{service}/{}/", name.as_deref().unwrap_or_default());
        let rate_limits = self.rate_limits(rate_limits, &Side { prefix: &prefix, inbound: false, opaque: false });
        let (matches, actions, to) = (matches?, actions?, to?);
        let by_prefix = |m: &Match| matches!(m.path, PathMatch::Prefix(_));
        if let Some(spot) = actions.prefix.filter(|_| !matches.iter().all(by_prefix)) {
            return self.refuse(spot, "replaces a prefix, but not every match of the rule is one; write `full`");
        }
        let goes = !(to.is_empty() && actions.filters.is_empty() && actions.mirrors.is_empty()) || fault_spot.is_some();
        if actions.redirect.is_some() && goes {
            let right = "remove `to`, `filter`, `mirror` and `fault`";
            self.report.wrong_key(at, format!("a redirect goes to no service and passes no filter; {right}"));
            return None;
        }
        if !to.is_empty() && to.iter().all(|backend| backend.weight == 0) {
            self.report.warn(at, "no backend has a weight, so every request is answered 500");
        }
        let Actions { request, response, redirect, rewrite, filters, mirrors, prefix: _ } = actions;
        let name = format!("{service}/{}", name?).into();
        let (timeout, per_try_timeout, fault, rate_limits) = (timeout?, per_try_timeout?, fault?, rate_limits?);
        Some(Rule {
            name,
            matches,
            request,
            response,
            redirect,
            rewrite,
            filters,
            to,
            timeout,
            per_try_timeout,
            fault,
            mirrors,
            rate_limits,
        })
    }

    fn matches(
        &self,
        field: Field<Vec<Field<raw::Match>>>,
        service: &str,
        gathered: &mut Gathered,
        known: &mut Known<'_>,
    ) -> Option<Vec<Match>> {
        let spot = field.spot();
        let matches = field.or(Vec::new())?;
        if let Some(spot) = spot.filter(|_| matches.len() > MAX_MATCHES) {
            return self.refuse(spot, format!("a rule has at most {MAX_MATCHES} matches; make it several rules"));
        }
        let mut matches = self.each(matches, |raw, spot| {
            let raw::Match { host, path, method, grpc, headers, query } = raw;
            let of_grpc = (grpc.spot(), path.spot().or(method.spot()));
            if let (Some(_), Some(spot)) = of_grpc {
                self.report.wrong_key(spot, "`grpc` says path and method already; keep one of them");
                return None;
            }
            let host = self
                .optional(host, None, |text, spot| self.host_match(&text, spot, service, gathered, known).map(Some));
            let path = self.optional(path, PathMatch::Prefix(String::new()), |path, spot| self.path_match(path, spot));
            let method = self.optional(method, None, |text, spot| match Method::from_bytes(text.as_bytes()) {
                Ok(method) if method != Method::CONNECT && text == text.to_ascii_uppercase() => Some(Some(method)),
                _ => self.refuse(spot, format!("\"{}\" is not a method of HTTP; write one such as GET", clip(&text))),
            });
            let (path, method) = match self.optional(grpc, None, |raw, at| self.grpc_match(raw, at).map(Some)) {
                Some(None) => (path, method),
                // Every call is a POST (gRPC over HTTP/2).
                Some(Some(path)) => (Some(path), Some(Some(Method::POST))),
                None => (None, None),
            };
            let headers = self.text_matches(headers, |name, spot| self.field_name(&name, spot));
            let query = self.text_matches(query, |name, _| Some(name));
            if matches!(path, Some(PathMatch::Regex(_))) {
                gathered.patterns += 1;
                if gathered.patterns > MAX_PATTERNS {
                    return self.refuse(spot, format!("a service has at most {MAX_PATTERNS} patterns of paths"));
                }
            }
            Some(Match { host: host?, path: path?, method: method?, headers: headers?, query: query? })
        })?;
        if matches.is_empty() {
            let path = PathMatch::Prefix(String::new());
            matches.push(Match { host: None, path, method: None, headers: Vec::new(), query: Vec::new() });
        }
        Some(matches)
    }

    /// A host that a match names. If no service has it, it means the service that is called.
    fn host_match(
        &self,
        text: &str,
        spot: Spot,
        service: &str,
        gathered: &mut Gathered,
        known: &mut Known<'_>,
    ) -> Option<HostMatch> {
        let (end, wild) = text.strip_prefix("*.").map_or((text, false), |end| (end, true));
        if end.contains('*') {
            let right = "write a whole one, or `*.` and the end of one such as *.example";
            return self.refuse(spot, format!("\"{}\" is not a host; {right}", clip(text)));
        }
        let end = match host(end) {
            Ok(end) => end,
            Err(why) => return self.refuse(spot, format!("\"{}\" {why}", clip(text))),
        };
        let key = if wild { format!("*.{end}") } else { end.clone() };
        match known.hosts.get(&key) {
            Some((owner, _)) if owner == service => {}
            Some((owner, line)) => {
                let message =
                    format!("\"{key}\" means service \"{owner}\" (line {line}): by host, no request comes here");
                self.report.warn(spot, message);
            }
            None => {
                known.hosts.insert(key.clone(), (service.to_owned(), self.report.line(spot)));
                gathered.hosts.push(key);
            }
        }
        Some(if wild { HostMatch::Under(format!(".{end}")) } else { HostMatch::Exact(end) })
    }

    pub(super) fn path_match(&self, raw: raw_matching::PathMatch, at: Spot) -> Option<PathMatch> {
        let raw_matching::PathMatch { exact, prefix, regex } = raw;
        match (exact, prefix, regex) {
            (Field::Given(path, spot), Field::Absent, Field::Absent) => {
                self.path_text(path, spot).map(PathMatch::Exact)
            }
            (Field::Absent, Field::Given(path, spot), Field::Absent) => {
                self.path_text(path, spot).map(|path| PathMatch::Prefix(path.trim_end_matches('/').to_owned()))
            }
            (Field::Absent, Field::Absent, Field::Given(text, spot)) => self.pattern(&text, spot).map(PathMatch::Regex),
            (Field::Bad, ..) | (_, Field::Bad, _) | (.., Field::Bad) => None,
            _ => self.refuse(at, "not a match; write one of exact, prefix and regex"),
        }
    }

    /// The path of a gRPC call is `/SERVICE/METHOD`. The order of GRPCRoute comes of it: service and method, then the
    /// service, then the method alone, and patterns.
    fn grpc_match(&self, raw: raw::GrpcMatch, at: Spot) -> Option<PathMatch> {
        let raw::GrpcMatch { service, method, kind } = raw;
        let Word(kind) = kind.or(Word(GrpcKind::Exact))?;
        if service.is_absent() && method.is_absent() {
            return self.refuse(at, "matches nothing in particular; write service, method, or both");
        }
        let name = |field: Field<String>| {
            self.optional(field, None, |name, spot| match kind {
                GrpcKind::Regex => Some(Some((name, spot))),
                GrpcKind::Exact => match name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
                    true if !name.is_empty() && name.len() <= MAX_PATH_BYTES / 4 => Some(Some((name, spot))),
                    _ => self.refuse(spot, format!("\"{}\" is not a name of gRPC such as shop.v1.Orders", clip(&name))),
                },
            })
        };
        let (service, method) = (name(service), name(method));
        let any = || r"[^/]+".to_owned();
        match (kind, service?, method?) {
            (GrpcKind::Exact, Some((service, _)), Some((method, _))) => {
                Some(PathMatch::Exact(format!("/{service}/{method}")))
            }
            (GrpcKind::Exact, Some((service, _)), None) => Some(PathMatch::Prefix(format!("/{service}"))),
            (GrpcKind::Exact, None, method) => {
                let (method, spot) = method?;
                self.pattern(&format!("/[^/]+/{}", regex::escape(&method)), spot).map(PathMatch::Regex)
            }
            (GrpcKind::Regex, service, method) => {
                // By themselves first: what is not whole by itself must not become so between our parts.
                for (text, spot) in [&service, &method].into_iter().flatten() {
                    self.pattern(text, *spot)?;
                }
                let part = |text: Option<(String, Spot)>| text.map_or_else(any, |(text, _)| format!("(?:{text})"));
                self.pattern(&format!("/{}/{}", part(service), part(method)), at).map(PathMatch::Regex)
            }
        }
    }

    /// A path as matches and rewrites have it.
    fn path_text(&self, path: String, spot: Spot) -> Option<String> {
        let odd = |path: &str| {
            let element = |element| matches!(element, "." | "..");
            path.contains("//") || path.to_ascii_lowercase().contains("%2f") || path.split('/').any(element)
        };
        let whole = path.len() <= MAX_PATH_BYTES && path.starts_with('/') && !path.contains(['?', '#']);
        if !whole || PathAndQuery::try_from(path.as_str()).is_err() {
            let right = format!("write one such as /v2, of at most {MAX_PATH_BYTES} bytes, without a query");
            return self.refuse(spot, format!("\"{}\" is not a path; {right}", clip(&path)));
        }
        if odd(&path) {
            return self
                .refuse(spot, format!("\"{}\" has an element that is empty, a dot or two, or %2f", clip(&path)));
        }
        Some(path)
    }

    fn pattern(&self, text: &str, spot: Spot) -> Option<Pattern> {
        match Pattern::new(text) {
            Ok(pattern) => Some(pattern),
            Err(why) => self.refuse(spot, format!("\"{}\" {why}", clip(text))),
        }
    }

    /// Fields or parameters, each once.
    pub(super) fn text_matches<N: Clone + Eq + std::hash::Hash>(
        &self,
        field: Field<Vec<Field<raw_matching::TextMatch>>>,
        read: impl Fn(String, Spot) -> Option<N>,
    ) -> Option<Vec<(N, TextMatch)>> {
        let mut seen = HashSet::new();
        self.list(field, |raw_matching::TextMatch { name, value, regex }, at| {
            let name = self.required(name, at, "name", "its name").and_then(|(name, spot)| {
                let name = read(name, spot)?;
                // The Gateway API takes the first; nobody means the second.
                if seen.insert(name.clone()) { Some(name) } else { self.refuse(spot, "is in this list already") }
            });
            let text = match (value, regex) {
                (Field::Given(value, spot), Field::Absent) if value.len() > MAX_VALUE_BYTES => {
                    self.refuse(spot, format!("is longer than {MAX_VALUE_BYTES} bytes"))
                }
                (Field::Given(value, _), Field::Absent) => Some(TextMatch::Exact(value)),
                (Field::Absent, Field::Given(text, spot)) => self.pattern(&text, spot).map(TextMatch::Regex),
                (Field::Bad, _) | (_, Field::Bad) => None,
                _ => self.refuse(at, "not a match; write one of value and regex"),
            };
            Some((name?, text?))
        })
    }

    fn actions(&self, field: Field<Vec<Field<raw::RuleFilter>>>, known: &Known<'_>) -> Option<Actions> {
        let (mut actions, mut filters) = (Actions::default(), Vec::new());
        let mut kinds = HashSet::new();
        let sound = self.list(field, |raw, at| {
            let raw::RuleFilter { request_headers, response_headers, redirect, rewrite, filter, mirror } = raw;
            let given = [
                ("request_headers", !request_headers.is_absent()),
                ("response_headers", !response_headers.is_absent()),
                ("redirect", !redirect.is_absent()),
                ("rewrite", !rewrite.is_absent()),
                ("filter", !filter.is_absent()),
                ("mirror", !mirror.is_absent()),
            ];
            let mut given = given.iter().filter(|(_, given)| *given).map(|(kind, _)| *kind);
            let (Some(kind), None) = (given.next(), given.next()) else {
                let right = "request_headers, response_headers, redirect, rewrite, mirror or filter";
                return self.refuse(at, format!("not one filter; write one of {right} in each item"));
            };
            if !matches!(kind, "filter" | "mirror") && !kinds.insert(kind) {
                return self.refuse(at, format!("`{kind}` is in this list already; make it one"));
            }
            if !filter.is_absent() {
                filters.push(filter);
            }
            if let Some(mirror) = self.optional(mirror, None, |raw, spot| self.mirror(raw, spot, known).map(Some))? {
                actions.mirrors.push(mirror);
            }
            let mut prefix = None;
            let mut replaces = |path: &Option<PathChange>, spot| {
                prefix = matches!(path, Some(PathChange::Prefix(_))).then_some(spot);
            };
            actions.request =
                self.optional(request_headers, std::mem::take(&mut actions.request), |raw, _| self.changes(raw))?;
            actions.response =
                self.optional(response_headers, std::mem::take(&mut actions.response), |raw, _| self.changes(raw))?;
            actions.redirect = self.optional(redirect, actions.redirect.take(), |raw, spot| {
                let redirect = self.redirect(raw)?;
                replaces(&redirect.path, spot);
                Some(Some(redirect))
            })?;
            actions.rewrite = self.optional(rewrite, actions.rewrite.take(), |raw, spot| {
                let raw::Rewrite { host, path } = raw;
                let (host, path) = (self.new_host(host), self.path_change(path));
                let rewrite = Rewrite { host: host?, path: path? };
                replaces(&rewrite.path, spot);
                Some(Some(rewrite))
            })?;
            actions.prefix = actions.prefix.or(prefix);
            if actions.redirect.is_some() && actions.rewrite.is_some() {
                return self
                    .refuse(at, "a redirect goes to no service, which could be asked for something else; keep one");
            }
            Some(())
        });
        actions.filters = self.names(filters, known.filters)?;
        sound.map(|_| actions)
    }

    fn changes(&self, raw: raw::FieldChanges) -> Option<FieldChanges> {
        let raw::FieldChanges { set, add, remove } = raw;
        let mut seen = HashSet::new();
        let mut name = |text: String, spot: Spot| {
            let name = self.field_name(&text, spot)?;
            if FRAMING.contains(&name.as_str()) || name == header::HOST {
                let right = if name == header::HOST { "write `rewrite: {host: …}`" } else { "remove it" };
                return self.refuse(spot, format!("{name} is not a route's to change; {right}"));
            }
            if !seen.insert(name.clone()) {
                return self.refuse(spot, format!("{name} is changed already; name it once"));
            }
            Some(name)
        };
        let mut lines = |field| {
            self.list(field, |raw::Line { name: text, value }, at| {
                let name = self.required(text, at, "name", "the name of a field").and_then(|(t, spot)| name(t, spot));
                let value = self.required(value, at, "value", "its value").and_then(|(text, spot)| {
                    let value = HeaderValue::try_from(text.as_str()).ok().filter(|_| text.len() <= MAX_VALUE_BYTES);
                    let right = "write it without control characters such as line breaks, of at most 4096 bytes";
                    value.or_else(|| {
                        self.refuse(spot, format!("\"{}\" is not the value of a field; {right}", clip(&text)))
                    })
                });
                Some((name?, value?))
            })
        };
        let (set, add) = (lines(set), lines(add));
        let remove = self.list(remove, &mut name);
        Some(FieldChanges { set: set?, add: add?, remove: remove? })
    }

    fn redirect(&self, raw: raw::Redirect) -> Option<Redirect> {
        let raw::Redirect { scheme, host, port, path, status } = raw;
        let scheme = self.optional(scheme, None, |Word(scheme), _| Some(Some(scheme)));
        let port = self.optional(port, None, |port, spot| match port.within(1..=u16::MAX) {
            None => self.refuse(spot, "not a port; write 1 to 65535"),
            port => Some(port),
        });
        let (host, path, status) = (self.new_host(host), self.path_change(path), status.or(raw::RedirectStatus(302)));
        Some(Redirect { scheme: scheme?, host: host?, port: port?, path: path?, status: status?.0 })
    }

    fn new_host(&self, field: Field<String>) -> Option<Option<String>> {
        self.optional(field, None, |text, spot| match host(&text) {
            Ok(host) => Some(Some(host)),
            Err(why) => self.refuse(spot, format!("\"{}\" {why}", clip(&text))),
        })
    }

    fn path_change(&self, field: Field<raw::PathChange>) -> Option<Option<PathChange>> {
        self.optional(field, None, |raw::PathChange { full, prefix }, at| match (full, prefix) {
            (Field::Given(path, spot), Field::Absent) => {
                self.path_text(path, spot).map(|path| Some(PathChange::Full(path)))
            }
            // None at all is the prefix without elements.
            (Field::Absent, Field::Given(path, _)) if path.is_empty() => Some(Some(PathChange::Prefix(path))),
            (Field::Absent, Field::Given(path, spot)) => {
                let path = self.path_text(path, spot)?;
                Some(Some(PathChange::Prefix(path.trim_end_matches('/').to_owned())))
            }
            (Field::Bad, _) | (_, Field::Bad) => None,
            _ => self.refuse(at, "not a path; write one of full and prefix"),
        })
    }

    pub(super) fn field_name(&self, text: &str, spot: Spot) -> Option<HeaderName> {
        let name = HeaderName::from_bytes(text.as_bytes()).ok();
        name.or_else(|| self.refuse(spot, format!("\"{}\" is not the name of a field such as x-user", clip(text))))
    }

    /// The position of a service that speaks HTTP.
    pub(super) fn http_service(&self, name: &str, spot: Spot, known: &Known<'_>) -> Option<usize> {
        let Some(&position) = known.services.get(name) else {
            let right = match self.report.suggest(name, known.services.keys().map(String::as_str)) {
                Some(known) => format!("did you mean \"{known}\"?"),
                None => "define it under `services`".into(),
            };
            return self.refuse(spot, format!("no service \"{}\"; {right}", clip(name)));
        };
        let opaque = known.read.and_then(|services| services.get(position));
        if opaque.is_some_and(|service| service.protocol == ServiceProtocol::Tcp) {
            return self.refuse(spot, format!("\"{name}\" takes opaque TCP, and routes are for HTTP"));
        }
        Some(position)
    }

    /// As [`Resolver::each`], for the short lists that routes have.
    fn list<T, U>(&self, field: Field<Vec<Field<T>>>, check: impl FnMut(T, Spot) -> Option<U>) -> Option<Vec<U>> {
        let spot = field.spot();
        let items = field.or(Vec::new())?;
        if let Some(spot) = spot.filter(|_| items.len() > MAX_LIST) {
            return self.refuse(spot, format!("has more than {MAX_LIST} items"));
        }
        self.each(items, check)
    }
}
