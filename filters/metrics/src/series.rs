//! Metrics with the same labels, one of each for every combination of values.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use lacis_sdk::{Counter, End, Histogram};
use serde::Deserialize;

use crate::labels::{OTHER, Values};

/// What is counted or measured of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub(crate) enum Of {
    /// One for each exchange.
    Requests,
    /// Milliseconds from the first byte of the request to the last of the response.
    Duration,
    /// Bytes of the request with its head.
    RequestBytes,
    /// Bytes of the response with its head.
    ResponseBytes,
}

/// Whether a metric is a sum or a distribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// A sum.
    Counter,
    /// A distribution.
    Histogram,
}

/// One metric.
#[derive(Debug)]
pub(crate) struct Metric {
    pub(crate) name: String,
    pub(crate) of: Of,
    pub(crate) kind: Kind,
}

enum Handle {
    Counter(Counter),
    Histogram(Histogram),
}

/// The metrics of a group, by the numbers of their labels' values.
pub(crate) struct Group {
    metrics: Vec<Metric>,
    series: BTreeMap<Box<[u32]>, Vec<Handle>>,
    most: usize,
}

impl Of {
    fn read(self, end: &End) -> u64 {
        // What a host does not know is nothing.
        let total = |half: &str| {
            let count = end.attributes().integer(&[half, "total_size"]);
            count.and_then(|count| u64::try_from(count).ok()).unwrap_or(0)
        };
        match self {
            Of::Requests => 1,
            Of::Duration => u64::try_from(end.duration().as_millis()).unwrap_or(u64::MAX),
            Of::RequestBytes => total("request"),
            Of::ResponseBytes => total("response"),
        }
    }
}

impl Group {
    /// At most so many combinations have series of their own.
    pub(crate) fn new(metrics: Vec<Metric>, most: usize) -> Self {
        Self { metrics, series: BTreeMap::new(), most }
    }

    /// Counts an exchange. `values` are the numbers of its labels' values, `labels` gives their names and texts.
    pub(crate) fn count<'a, L>(&mut self, end: &End, values: &[u32], labels: impl FnOnce() -> L)
    where
        L: Iterator<Item = (&'a str, &'a str)>,
    {
        let of = self.metrics.iter().map(|metric| metric.of.read(end)).collect::<Vec<_>>();
        if !self.series.contains_key(values) {
            let other: Box<[u32]> = values.iter().map(|_| Values::OTHER).collect();
            let full = self.series.len() >= self.most + usize::from(self.series.contains_key(&other));
            let prefix = labels().fold(String::new(), |prefix, (name, value)| {
                let value = if full { OTHER } else { value };
                add_label(prefix, name, value)
            });
            let key = if full { other } else { values.into() };
            let handles = || self.metrics.iter().map(|metric| Handle::new(metric, &prefix)).collect();
            let handles = self.series.entry(key).or_insert_with(handles);
            handles.iter().zip(of).for_each(|(handle, value)| handle.add(value));
        } else if let Some(handles) = self.series.get(values) {
            handles.iter().zip(of).for_each(|(handle, value)| handle.add(value));
        }
    }
}

impl Handle {
    fn new(metric: &Metric, prefix: &str) -> Self {
        let name = format!("{prefix}{}", metric.name);
        match metric.kind {
            Kind::Counter => Self::Counter(Counter::new(&name)),
            Kind::Histogram => Self::Histogram(Histogram::new(&name)),
        }
    }

    fn add(&self, value: u64) {
        match self {
            Self::Counter(counter) => counter.add(u32::try_from(value).unwrap_or(u32::MAX)),
            Self::Histogram(histogram) => histogram.record(value),
        }
    }
}

/// Proxy-Wasm knows names only, so labels are part of them, as Istio's filters have always written them: Lacis shows
/// them as labels, and Envoy with the `stats_tags` of Istio.
fn add_label(mut prefix: String, name: &str, value: &str) -> String {
    // Writing to a String cannot fail.
    let _ = write!(prefix, "{name}=.={value};.;");
    prefix
}
