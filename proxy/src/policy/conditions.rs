//! Whether a request is one that a rule concerns.

use std::cell::OnceCell;
use std::sync::Arc;

use http::{HeaderName, Method};

use super::path::{Reading, Readings};
use crate::config::admission::{Conditions, IdentityMatch};
use crate::config::matching::{PathMatch, Pattern, TextMatch};
use crate::http::RequestHead;
use crate::http::fields::Value;
use crate::identity::SpiffeId;

/// A request that rules are asked about.
#[derive(Debug)]
pub struct Asked<'a> {
    head: &'a RequestHead,
    peer: Option<&'a SpiffeId>,
    port: u16,
    readings: OnceCell<Readings>,
}

impl<'a> Asked<'a> {
    /// A request of this caller, to an application at this port.
    pub fn new(head: &'a RequestHead, peer: Option<&'a SpiffeId>, port: u16) -> Self {
        Asked { head, peer, port, readings: OnceCell::new() }
    }

    /// Who calls.
    pub fn peer(&self) -> Option<&'a SpiffeId> {
        self.peer
    }

    /// What is asked for.
    pub fn head(&self) -> &'a RequestHead {
        self.head
    }
}

/// Conditions as a worker asks them.
#[derive(Debug)]
pub(super) struct Matcher {
    identities: Vec<IdentityMatch>,
    namespaces: Vec<String>,
    paths: Vec<Path>,
    methods: Vec<Method>,
    headers: Vec<(HeaderName, Text)>,
    ports: Vec<u16>,
    lenient: bool,
}

/// A path, or many.
#[derive(Debug)]
enum Path {
    Any,
    Exact(Spelled),
    Prefix(Spelled),
    Pattern(Pattern),
}

/// A path as the configuration has it, and with escapes as what they stand for.
#[derive(Debug)]
struct Spelled {
    text: Box<[u8]>,
    decoded: Box<[u8]>,
}

/// The value of a field.
#[derive(Debug)]
enum Text {
    Exact(Arc<[u8]>),
    Pattern(Pattern),
}

impl Matcher {
    pub(super) fn new(conditions: &Conditions) -> Self {
        let Conditions { identities, namespaces, paths, methods, headers, ports, lenient } = conditions;
        let text = |text: &TextMatch| match text {
            TextMatch::Exact(text) => Text::Exact(text.as_bytes().into()),
            // A clone has scratch memory of its own, for which workers need not wait.
            TextMatch::Regex(pattern) => Text::Pattern(pattern.clone()),
        };
        Matcher {
            identities: identities.clone(),
            namespaces: namespaces.clone(),
            paths: paths.iter().map(Path::new).collect(),
            methods: methods.clone(),
            headers: headers.iter().map(|(name, value)| (name.clone(), text(value))).collect(),
            ports: ports.clone(),
            lenient: *lenient,
        }
    }

    /// The one identity that it is about, if it is about nothing else.
    pub(super) fn sole_identities(&self) -> Option<impl Iterator<Item = &SpiffeId>> {
        let Matcher { identities, namespaces, paths, methods, headers, ports, lenient: _ } = self;
        let alone = namespaces.is_empty()
            && paths.is_empty()
            && methods.is_empty()
            && headers.is_empty()
            && ports.is_empty()
            && identities.iter().all(|id| matches!(id, IdentityMatch::Exact(_)));
        alone.then(|| identities.iter().filter_map(exactly))
    }

    /// Whether a request meets all of it.
    pub(super) fn meets(&self, asked: &Asked<'_>) -> bool {
        let Matcher { identities, namespaces, paths, methods, headers, ports, lenient } = self;
        let is = |peer: &SpiffeId| identities.iter().any(|id| id.matches(peer));
        let within = |name: &str| namespaces.iter().any(|known| known == name);
        (identities.is_empty() || asked.peer.is_some_and(is))
            && (namespaces.is_empty() || asked.peer.and_then(SpiffeId::namespace).is_some_and(within))
            && (ports.is_empty() || ports.contains(&asked.port))
            && (methods.is_empty() || methods.contains(&asked.head.method))
            && (paths.is_empty() || paths.iter().any(|path| path.meets(asked, *lenient)))
            && headers.iter().all(|(name, text)| text.meets(asked.head, name, *lenient))
    }
}

impl Path {
    fn new(path: &PathMatch) -> Self {
        match path {
            PathMatch::Exact(path) => Path::Exact(Spelled::new(path)),
            PathMatch::Prefix(path) if path.is_empty() => Path::Any,
            PathMatch::Prefix(path) => Path::Prefix(Spelled::new(path)),
            PathMatch::Regex(pattern) => Path::Pattern(pattern.clone()),
        }
    }

    fn meets(&self, asked: &Asked<'_>, lenient: bool) -> bool {
        if matches!(self, Path::Any) {
            return true;
        }
        let path = asked.head.path.path().as_bytes();
        let is = |Reading { text, decoded }: &Reading| self.is(text, *decoded, lenient);
        match asked.readings.get_or_init(|| Readings::of(path)) {
            Readings::Plain => self.is(path, false, lenient),
            Readings::Several(all) if lenient => all.iter().any(is),
            Readings::Several(all) => all.iter().all(is),
            Readings::Unclear => lenient,
        }
    }

    fn is(&self, path: &[u8], decoded: bool, lenient: bool) -> bool {
        match self {
            Path::Any => true,
            // Some do not tell `/a/` from `/a`, or `/A` from `/a`.
            Path::Pattern(pattern) if lenient => pattern.matches(path) || pattern.matches(end(path)),
            Path::Pattern(pattern) => pattern.matches(path),
            Path::Exact(own) if lenient => end(own.get(decoded)).eq_ignore_ascii_case(end(path)),
            Path::Exact(own) => own.get(decoded) == path,
            Path::Prefix(own) => {
                let own = own.get(decoded);
                path.split_at_checked(own.len()).is_some_and(|(begin, rest)| {
                    let same = if lenient { begin.eq_ignore_ascii_case(own) } else { begin == own };
                    same && matches!(rest, [] | [b'/', ..])
                })
            }
        }
    }
}

fn exactly(id: &IdentityMatch) -> Option<&SpiffeId> {
    match id {
        IdentityMatch::Exact(id) => Some(id),
        IdentityMatch::Pattern(_) => None,
    }
}

/// A path without slashes at its end.
fn end(mut path: &[u8]) -> &[u8] {
    while let [rest @ .., b'/'] = path {
        path = rest;
    }
    path
}

impl Spelled {
    fn new(path: &str) -> Self {
        let decoded = match Readings::of(path.as_bytes()) {
            Readings::Several(all) => all.into_iter().find(|reading| reading.decoded).map(|reading| reading.text),
            Readings::Plain | Readings::Unclear => None,
        };
        let text = path.as_bytes();
        Spelled { text: text.into(), decoded: decoded.map_or_else(|| text.into(), Vec::into_boxed_slice) }
    }

    fn get(&self, decoded: bool) -> &[u8] {
        if decoded { &self.decoded } else { &self.text }
    }
}

impl Text {
    /// A field of several lines means what any reader may make of them.
    fn meets(&self, head: &RequestHead, name: &HeaderName, lenient: bool) -> bool {
        if *name == http::header::HOST {
            // Never among the fields; see `RequestHead::authority`.
            return head.authority.as_ref().is_some_and(|authority| {
                let (whole, host) = (authority.as_str().as_bytes(), authority.host().as_bytes());
                if lenient { self.is_in_any_case(whole) || self.is_in_any_case(host) } else { self.is(whole) }
            });
        }
        let mut lines = head.headers.get_all(name).map(Value::as_bytes);
        if lenient {
            let parts = |line: &[u8]| line.split(|b| *b == b',').any(|part| self.is(part.trim_ascii()));
            return lines.any(|line| self.is(line) || parts(line));
        }
        lines.next().is_some_and(|first| self.is(first) && lines.all(|line| self.is(line)))
    }

    fn is(&self, value: &[u8]) -> bool {
        match self {
            Text::Exact(text) => **text == *value,
            Text::Pattern(pattern) => pattern.matches(value),
        }
    }

    fn is_in_any_case(&self, value: &[u8]) -> bool {
        match self {
            Text::Exact(text) => text.eq_ignore_ascii_case(value),
            Text::Pattern(pattern) => pattern.matches(value) || pattern.matches(&value.to_ascii_lowercase()),
        }
    }
}
