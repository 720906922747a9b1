//! How the endpoints of a service share its requests, and how it is known whether they are well.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderName;
use http::uri::{Authority, PathAndQuery};

/// How an endpoint is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Balance {
    /// Of two drawn by weight, the one with the lower latency × load; one that fails, or asks not to be asked, is avoided.
    LeastLoad,
    /// Of two drawn by weight, the one with fewer requests in flight.
    LeastRequest,
    /// In turn, by weight.
    RoundRobin,
    /// At random, by weight.
    Random,
    /// The same one for the same key.
    Hash(Arc<Hash>),
}

/// By what, and how, a key finds its endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hash {
    /// What of a request is hashed. Requests that have none go anywhere.
    pub key: HashKey,
    /// What finds the endpoint.
    pub table: TableKind,
}

/// What of a request is hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// The value of this field, or of all of that name.
    Header(HeaderName),
    /// The value of the cookie of this name.
    Cookie(String),
    /// The value of the parameter of this name in the query, as it is written.
    Query(String),
    /// The IP address that the request comes from.
    Source,
}

/// How a hash finds an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableKind {
    /// Google's Maglev.
    Maglev,
    /// Ketama's ring.
    Ring,
}

/// How an endpoint that is new, or back, gets its share (Envoy's `slow_start_config`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowStart {
    /// After this it has all of its weight, and before that a part of it.
    pub window: Duration,
    /// The part is the share of the window that has passed, to the power of one by this; more than 1: it rises soon.
    pub aggression: f64,
    /// The least part of its weight, in percent.
    pub min_weight: u8,
}

/// Who calls again reaches the same endpoint.
#[derive(Clone, PartialEq, Eq)]
pub struct Affinity {
    /// The name of the cookie.
    pub cookie: String,
    /// How long a client keeps it; zero: until it ends.
    pub ttl: Duration,
    /// What endpoints' names in cookies are made with, if it is not this process's own: sidecars that share it know each
    /// other's.
    pub secret: Option<String>,
}

impl fmt::Debug for Affinity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Affinity").field("cookie", &self.cookie).field("ttl", &self.ttl).finish_non_exhaustive()
    }
}

/// How it is found out whether endpoints are well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked.
    pub probe: Probe,
    /// From the end of one check to the next; up to a tenth longer.
    pub interval: Duration,
    /// How long one may take, the opening of a link included.
    pub timeout: Duration,
    /// After so many failures in a row an endpoint is unhealthy.
    pub unhealthy: u32,
    /// After so many successes in a row it is healthy again.
    pub healthy: u32,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// A GET request.
    Http {
        /// Of what.
        path: PathAndQuery,
        /// At whom; none: the service.
        host: Option<Authority>,
        /// Answers that are good.
        statuses: Vec<u16>,
    },
    /// `grpc.health.v1.Health/Check`.
    Grpc {
        /// Which service is asked about; empty: the server as a whole.
        service: String,
    },
    /// Whether a link can be opened.
    Tcp,
}
