//! Routes as the Gateway API's HTTPRoute means them: which requests to a service go where, and what is done to them.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};

use super::admission::RateLimit;
use super::fault::{Faults, Mirror};
use super::matching::{PathMatch, TextMatch};

/// The rules of one service, which its requests follow.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Index into [`super::Config::services`].
    pub service: usize,
    /// In the order of the file; never empty.
    pub rules: Arc<[Rule]>,
    /// Hosts (lower case) that its matches name and no service has, `*.` before those that are the end of one: they mean
    /// this service, too.
    pub hosts: Vec<String>,
}

/// What is done with some requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// `SERVICE/NAME`, unique in the file.
    pub name: Arc<str>,
    /// It applies if one of them does; never empty, at most [`MAX_MATCHES`].
    pub matches: Vec<Match>,
    /// What changes in the fields of requests.
    pub request: FieldChanges,
    /// What changes in the fields of responses.
    pub response: FieldChanges,
    /// They are answered with another place to ask.
    pub redirect: Option<Redirect>,
    /// They ask for something else.
    pub rewrite: Option<Rewrite>,
    /// Indices into [`super::Config::filters`], in the order in which requests pass them.
    pub filters: Vec<usize>,
    /// Where they go; empty: to the service itself.
    pub to: Vec<Backend>,
    /// In place of the service's `timeouts.request`; zero: no bound.
    pub timeout: Option<Duration>,
    /// In place of the `retries.per_try_timeout` of the service that they go to; zero: no bound (Gateway API, `timeouts.backendRequest`).
    pub per_try_timeout: Option<Duration>,
    /// Faults on purpose, in place of those of the service that they go to.
    pub fault: Option<Faults>,
    /// Who gets a copy of them.
    pub mirrors: Vec<Mirror>,
    /// How often it may be followed.
    pub rate_limits: Vec<RateLimit>,
}

impl Rule {
    /// Whether the head of a request is another one after it.
    pub fn changes_request(&self) -> bool {
        let FieldChanges { set, add, remove } = &self.request;
        self.rewrite.is_some() || !(set.is_empty() && add.is_empty() && remove.is_empty())
    }
}

/// Most matches of a rule (Gateway API, `HTTPRouteRule.matches`).
pub const MAX_MATCHES: usize = 64;

/// What a request must be, in every respect.
#[derive(Clone, Debug, PartialEq)]
pub struct Match {
    /// Its host.
    pub host: Option<HostMatch>,
    /// Its path.
    pub path: PathMatch,
    /// Its method.
    pub method: Option<Method>,
    /// Its fields.
    pub headers: Vec<(HeaderName, TextMatch)>,
    /// Parameters of its query, as they are written there.
    pub query: Vec<(String, TextMatch)>,
}

/// A host, in lower case and without port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostMatch {
    /// This one.
    Exact(String),
    /// All that end with this, which begins with a dot.
    Under(String),
}

/// Changes of fields, done in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldChanges {
    /// In place of what is there.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Beside what is there.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// No more there.
    pub remove: Vec<HeaderName>,
}

/// Another place to ask. What is absent stays as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// Its scheme.
    pub scheme: Option<Scheme>,
    /// Its host.
    pub host: Option<String>,
    /// Its port.
    pub port: Option<u16>,
    /// Its path.
    pub path: Option<PathChange>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// How what a gRPC request calls is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrpcKind {
    /// It is the same.
    Exact,
    /// A pattern matches it as a whole.
    Regex,
}

/// A scheme of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `http`.
    Http,
    /// `https`.
    Https,
}

/// Something else to ask for. What is absent stays as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// The host.
    pub host: Option<String>,
    /// The path.
    pub path: Option<PathChange>,
}

/// Another path; the query stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathChange {
    /// This one.
    Full(String),
    /// This, in place of the prefix that was matched; without a `/` at its end.
    Prefix(String),
}

/// Where a share of requests goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Index into [`super::Config::services`].
    pub service: usize,
    /// Its share relative to its siblings; 0 for none.
    pub weight: u32,
}
