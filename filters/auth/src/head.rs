//! The head of a request as values, and what is to become of it.

use lacis_sdk::{Headers, InvalidHeader, Request, is_header_value};

use crate::path;

/// What a request says in its head. Reading all of it at once shows a header that comes twice, in which proxies differ
/// when they are asked for one value.
#[derive(Debug)]
pub(crate) struct Head {
    headers: Vec<(String, Vec<u8>)>,
}

/// There is more than one of what there may be one of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Twice;

impl Head {
    pub(crate) fn new(headers: Vec<(String, Vec<u8>)>) -> Self {
        Self { headers }
    }

    /// The head of a request as the host shows it.
    pub(crate) fn of(request: &Request) -> Self {
        let headers = request.headers().all().into_iter();
        Self::new(headers.map(|(name, value)| (name, value.as_bytes().to_owned())).collect())
    }

    /// All headers in order, pseudo-headers included.
    pub(crate) fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()))
    }

    /// All values of a header.
    pub(crate) fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.headers().filter(move |(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The only value of a header.
    pub(crate) fn one<'a>(&'a self, name: &'a str) -> Result<Option<&'a [u8]>, Twice> {
        let mut values = self.values(name);
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
            _ => Err(Twice),
        }
    }

    fn remove(&mut self, name: &str) {
        self.headers.retain(|(own, _)| !own.eq_ignore_ascii_case(name));
    }

    /// The text of a pseudo-header; empty if it is not there or no text.
    pub(crate) fn pseudo(&self, name: &'static str) -> &str {
        self.values(name).next().and_then(|value| str::from_utf8(value).ok()).unwrap_or_default()
    }
}

/// What is to be done to the head of a request: first headers go, then some get their values, then others are changed
/// one after the other.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    remove: Vec<String>,
    set: Vec<(String, Vec<u8>)>,
    mutations: Vec<Mutation>,
    /// Names of parameters of the query that go.
    parameters: Vec<String>,
}

/// A header that is to be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mutation {
    pub(crate) name: String,
    pub(crate) value: Vec<u8>,
    pub(crate) action: Action,
}

/// How it is to be changed: `HeaderValueOption.append_action` of Envoy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Append,
    AddIfAbsent,
    Overwrite,
    OverwriteIfPresent,
}

impl Changes {
    /// Removes all values of a header that came with the request.
    pub(crate) fn remove(&mut self, name: &str) {
        if !self.remove.iter().any(|own| own == name) {
            self.remove.push(name.to_owned());
        }
    }

    /// Gives a header this one value.
    pub(crate) fn set(&mut self, name: &str, value: Vec<u8>) {
        self.set.retain(|(own, _)| own != name);
        self.set.push((name.to_owned(), value));
    }

    /// Changes a header.
    pub(crate) fn mutate(&mut self, mutation: Mutation) {
        self.mutations.push(mutation);
    }

    /// Takes a parameter out of the query.
    pub(crate) fn remove_parameter(&mut self, name: &str) {
        self.parameters.push(name.to_owned());
    }

    /// The head with these changes, as others are shown it.
    pub(crate) fn preview(&self, head: &Head) -> Head {
        let mut head = Head::new(head.headers.clone());
        if let Some(path) = head.headers.iter_mut().find(|(name, _)| name == ":path") {
            path.1 = self.target(&String::from_utf8_lossy(&path.1)).into_bytes();
        }
        self.remove.iter().for_each(|name| head.remove(name));
        for (name, value) in &self.set {
            head.remove(name);
            head.headers.push((name.clone(), value.clone()));
        }
        for Mutation { name, value, action } in &self.mutations {
            if action.applies(head.values(name).next().is_some()) {
                if action.replaces() {
                    head.remove(name);
                }
                head.headers.push((name.clone(), value.clone()));
            }
        }
        head
    }

    /// Does them to a request. A value that no header can have is left out, but not what was to go.
    pub(crate) fn apply(self, request: &mut Request) -> Result<(), InvalidHeader> {
        if !self.parameters.is_empty() {
            let target = self.target(&request.path());
            request.headers_mut().set(":path", target)?;
        }
        let Self { remove, set, mutations, parameters: _ } = self;
        let headers = request.headers_mut();
        remove.iter().for_each(|name| headers.remove(name));
        for (name, value) in set {
            headers.remove(&name);
            if is_header_value(&value) {
                headers.set(&name, value)?;
            }
        }
        mutations.iter().try_for_each(|mutation| mutation.apply(headers))
    }

    fn target(&self, target: &str) -> String {
        self.parameters.iter().fold(target.to_owned(), |target, name| path::without_parameter(&target, name))
    }
}

impl Mutation {
    /// Does it.
    pub(crate) fn apply(&self, headers: &mut Headers) -> Result<(), InvalidHeader> {
        let Self { name, value, action } = self;
        match action.applies(headers.contains(name)) {
            true if action.replaces() => headers.set(name, value),
            true => headers.append(name, value),
            false => Ok(()),
        }
    }
}

impl Action {
    /// Whether anything is done to a header that is there, or is not.
    fn applies(self, present: bool) -> bool {
        match self {
            Self::Append | Self::Overwrite => true,
            Self::AddIfAbsent => !present,
            Self::OverwriteIfPresent => present,
        }
    }

    /// Whether the values that are there go.
    fn replaces(self) -> bool {
        match self {
            Self::Append | Self::AddIfAbsent => false,
            Self::Overwrite | Self::OverwriteIfPresent => true,
        }
    }
}

/// What follows the scheme in the value of `authorization` (RFC 9110 section 11.4), if it is this scheme.
pub(crate) fn credentials<'a>(value: &'a [u8], scheme: &str) -> Option<&'a str> {
    let (own, rest) = str::from_utf8(value).ok()?.trim_start().split_once(' ')?;
    own.eq_ignore_ascii_case(scheme).then(|| rest.trim())
}
