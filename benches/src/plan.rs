//! What is asked of the load generator, and what it answers: a line of JSON each.

use crate::account::{Processor, Usage};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, io, net::SocketAddr};

/// Load for one target, and the window in which it is measured.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Where the requests go: the outbound listener of a sidecar, another proxy, or the backend itself.
    pub target: SocketAddr,
    /// The `host` header.
    #[serde(default = "host")]
    pub host: String,
    /// Kept-alive HTTP/1.1 connections, at most one request on each. None: only the backend is served.
    pub connections: usize,
    /// Seconds under load before the window.
    #[serde(default)]
    pub warmup: f64,
    /// Seconds that are measured.
    pub seconds: f64,
    /// Requests per second, sent when they are due (open loop); absent: each connection sends when it has its answer
    /// (closed loop).
    #[serde(default)]
    pub rate: Option<f64>,
    /// When requests are due.
    #[serde(default)]
    pub arrivals: Arrivals,
    /// Processes whose use of the processors is reported.
    #[serde(default)]
    pub pids: Vec<u32>,
    /// Between requests that are due it sleeps, and does not watch the clock: where what is measured needs this processor,
    /// too. They are sent some ten microseconds later.
    #[serde(default)]
    pub sleeps: bool,
    /// Some connections get more requests than the others; absent: whichever was free last gets the next.
    #[serde(default)]
    pub heavy: Option<Heavy>,
}

/// Connections that get most of the requests of an open loop. Those of either kind take turns.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heavy {
    /// Which, by the order in which they are opened, from 0 on.
    pub of: Vec<usize>,
    /// The part of the requests that they get, between 0 and 1.
    pub part: f64,
    /// Before the window opens they are like the others.
    #[serde(default)]
    pub late: bool,
}

fn host() -> String {
    "delta".to_owned()
}

/// When the requests of an open loop are due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Arrivals {
    /// Evenly spaced.
    #[default]
    Constant,
    /// Independent of each other, as those of many users are: bursts and gaps.
    Poisson,
}

/// What one window showed.
#[derive(Clone, Debug, Serialize)]
pub struct Window {
    /// Its length, between the two readings of the accounts.
    pub seconds: f64,
    /// Requests that came due in it; in a closed loop, that were sent.
    pub offered: u64,
    /// Right answers that came in it.
    pub done: u64,
    /// What went wrong, and how often, from the first request of the warm-up to the last answer.
    pub errors: BTreeMap<String, u64>,
    /// Connections that the target closed between two requests, which it may.
    pub closed: u64,
    /// Requests that were sent more than a millisecond after they were due, which latency includes.
    pub late: u64,
    /// From when a request was due to the last byte of its answer.
    pub latency: Latency,
    /// What each process of the plan used, in its order.
    pub processes: Vec<Usage>,
    /// What the generator and its backend used.
    pub generator: Usage,
    /// The part of that in which the generator only looked at the clock for the next request.
    pub generator_idle_ns: u64,
    /// What every processor did.
    pub processors: Vec<Processor>,
}

/// Why there is no measurement.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The plan asks for what cannot be.
    #[error("plan: {0}")]
    Plan(&'static str),
    /// A process of the plan cannot be read: most likely it has ended.
    #[error("process {pid}: {source}")]
    Process {
        /// Its id.
        pid: u32,
        /// Why not.
        source: io::Error,
    },
    /// The generator itself failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Microseconds. Of a histogram with three significant digits.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    /// Arithmetic.
    pub mean: f64,
    /// Half were faster.
    pub p50: f64,
    /// Nine of ten were faster.
    pub p90: f64,
    /// One of a hundred was slower.
    pub p99: f64,
    /// One of a thousand was slower.
    pub p999: f64,
    /// The slowest.
    pub max: f64,
}

impl From<&Histogram<u64>> for Latency {
    /// `nanoseconds` as they were recorded.
    fn from(nanoseconds: &Histogram<u64>) -> Self {
        let quantile = |q| nanoseconds.value_at_quantile(q) as f64 / 1000.0;
        Self {
            mean: nanoseconds.mean() / 1000.0,
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            p999: quantile(0.999),
            max: nanoseconds.max() as f64 / 1000.0,
        }
    }
}
