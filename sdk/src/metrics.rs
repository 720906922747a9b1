//! Metrics of a filter. Define them in [`crate::Filter::new`] and keep the handles: a definition costs a search by
//! name, an update does not.
//!
//! The host exports a metric under the name given here; Lacis replaces characters that Prometheus does not allow by
//! `_` and adds the label `filter`. Defining a name again gives the same metric.
//! If the host refuses a metric, its updates do nothing.

use crate::backend::{Backend, Host};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A number that only grows.
#[derive(Clone, Copy, Debug)]
pub struct Counter(Option<u32>);

impl Counter {
    /// Defines a counter.
    pub fn new(name: &str) -> Self {
        Self(Host::define(Kind::Counter, name))
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
        Self(Host::define(Kind::Gauge, name))
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
        Self(Host::define(Kind::Histogram, name))
    }

    /// Adds a sample.
    pub fn record(&self, sample: u64) {
        if let Some(metric) = self.0 {
            Host::record(metric, sample);
        }
    }
}
