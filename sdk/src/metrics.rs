//! Metrics of a filter. Define them in [`crate::Filter::new`] and keep the handles: a definition costs a search by
//! name, an update does not.
//!
//! The host exports a metric under the name given here; Lacis replaces characters that Prometheus does not allow by
//! `_` and adds the label `filter`, and where two names of a filter would become one, `defined_as` with the name as it was given.
//! Defining a name again gives the same metric.
//! If the host refuses a metric, its updates do nothing.

use std::cell::RefCell;
use std::collections::BTreeMap;

use crate::backend::{Backend, Host};

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(target_family = "wasm", expect(unreachable_pub, reason = "a part of `testing`"))]
pub enum Kind {
    /// A number that only grows.
    Counter,
    /// A number that rises and falls.
    Gauge,
    /// A distribution.
    Histogram,
}

/// A number that only grows.
#[derive(Clone, Copy, Debug)]
pub struct Counter(Option<u32>);

impl Counter {
    /// Defines a counter.
    pub fn new(name: &str) -> Self {
        Self(define(Kind::Counter, name))
    }

    /// Adds to it.
    pub fn add(&self, count: u32) {
        if let Some(metric) = self.0 {
            Host::add(metric, count.into());
        }
    }
}

/// A number that rises and falls. Below zero it wraps around, as it does on Envoy.
#[derive(Clone, Copy, Debug)]
pub struct Gauge(Option<u32>);

impl Gauge {
    /// Defines a gauge.
    pub fn new(name: &str) -> Self {
        Self(define(Kind::Gauge, name))
    }

    /// Sets it.
    pub fn set(&self, value: u64) {
        if let Some(metric) = self.0 {
            Host::record(metric, value);
        }
    }

    /// Adds to it, or takes away.
    pub fn add(&self, offset: i32) {
        if let Some(metric) = self.0 {
            Host::add(metric, offset.into());
        }
    }
}

/// A distribution of numbers, in the unit that its name ends in.
#[derive(Clone, Copy, Debug)]
pub struct Histogram(Option<u32>);

impl Histogram {
    /// Defines a histogram.
    pub fn new(name: &str) -> Self {
        Self(define(Kind::Histogram, name))
    }

    /// Adds a sample.
    pub fn record(&self, sample: u64) {
        if let Some(metric) = self.0 {
            Host::record(metric, sample);
        }
    }
}

/// Bytes of a label's value: callers must not be able to make names that hosts refuse.
const VALUE_MAX: usize = 64;

/// Bytes of a name that every host takes: Lacis has this limit, Envoy none. Istio's 25 labels are part of a name.
const NAME_MAX: usize = 4096;

/// A value that a label has beyond the most series of its family.
const OTHER: &str = "other";

/// One metric for each combination of values of some labels, made when it is first seen.
///
/// Values come from callers, and each series takes memory for ever, here and wherever metrics are kept: so a family has
/// at most as many as it was given. Every combination beyond that is counted by one series more, whose labels are all
/// `other`.
///
/// A series is defined under the name `LABEL=.=VALUE;.;NAME`, as Istio's are. Lacis makes labels of that; Envoy does where
/// its configuration has a rule in `stats_tags` for the label, and else shows all of it as the name, with `_` for what
/// Prometheus does not allow there. Lacis does so, too, where a label has no name that Prometheus allows, or is called
/// `filter` or `le`.
#[derive(Debug)]
pub struct Family<M> {
    name: String,
    labels: Vec<String>,
    most: usize,
    series: RefCell<BTreeMap<Vec<String>, M>>,
}

/// [`Family`] of counters.
pub type CounterFamily = Family<Counter>;
/// [`Family`] of gauges.
pub type GaugeFamily = Family<Gauge>;
/// [`Family`] of histograms.
pub type HistogramFamily = Family<Histogram>;

/// A metric that a [`Family`] can consist of.
pub trait Metric: Copy + sealed::Sealed {
    #[doc(hidden)]
    fn define(name: &str) -> Self;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Counter {}
    impl Sealed for super::Gauge {}
    impl Sealed for super::Histogram {}
}

impl Metric for Counter {
    fn define(name: &str) -> Self {
        Self::new(name)
    }
}

impl Metric for Gauge {
    fn define(name: &str) -> Self {
        Self::new(name)
    }
}

impl Metric for Histogram {
    fn define(name: &str) -> Self {
        Self::new(name)
    }
}

impl<M: Metric> Family<M> {
    /// A family with these labels and at most so many series.
    pub fn new(name: &str, labels: &[&str], most: usize) -> Self {
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        Self { name: name.to_owned(), labels, most, series: RefCell::default() }
    }

    /// The metric with these values, one for each label in their order, of which the first 64 bytes count. A value that is
    /// missing is empty.
    pub fn with(&self, values: &[&str]) -> M {
        let mut series = self.series.borrow_mut();
        let mut key: Vec<String> = values.iter().map(|value| cut(value).to_owned()).collect();
        key.resize(self.labels.len(), String::new());
        if let Some(metric) = series.get(&key) {
            return *metric;
        }
        let other = vec![OTHER.to_owned(); self.labels.len()];
        if series.len() >= self.most + usize::from(series.contains_key(&other)) {
            key = other;
        }
        let name = self.series_name(&key);
        *series.entry(key).or_insert_with(|| M::define(&name))
    }

    fn series_name(&self, values: &[String]) -> String {
        let mut name = String::new();
        for (label, value) in self.labels.iter().zip(values) {
            // What ends a value is not a part of it.
            let value = value.replace(";.;", ";_;").replace("=.=", "=_=");
            name.extend([label, "=.=", &value, ";.;"]);
        }
        name + &self.name
    }
}

/// The beginning of a value that a label may have.
fn cut(value: &str) -> &str {
    &value[..value.floor_char_boundary(VALUE_MAX)]
}

/// Hosts may end a filter that defines what they do not take.
fn define(kind: Kind, name: &str) -> Option<u32> {
    if name.len() > NAME_MAX {
        crate::error!("a metric's name has more than {NAME_MAX} bytes, and is not counted: {name}");
        return None;
    }
    Host::define(kind, name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Scene;

    #[test]
    fn a_family_is_bounded() {
        let scene = Scene::default();
        scene.within(0, || {
            let family = CounterFamily::new("hits_total", &["a", "b"], 2);
            for a in ["x", "y", "z", "x", "z;.;b=.=w"] {
                family.with(&[a, "b"]).add(1);
            }
            family.with(&["x"]).add(1);
            CounterFamily::new("plain_total", &[], 1).with(&["extra"]).add(3);
            CounterFamily::new("odd_total", &["a"], 1).with(&["z;.;b=.=w"]).add(1);
        });
        let expected = [
            ("a=.=x;.;b=.=b;.;hits_total", 2),
            ("a=.=y;.;b=.=b;.;hits_total", 1),
            ("a=.=other;.;b=.=other;.;hits_total", 3),
            ("plain_total", 3),
            ("a=.=z;_;b=_=w;.;odd_total", 1),
        ];
        let metrics = scene.metrics();
        assert_eq!(metrics, expected.map(|(name, value)| (name.to_owned(), value)));
    }
}
