//! Cells that one thread writes and any thread reads.
//!
//! A write is a relaxed load and a relaxed store, no locked instruction: right only while every cell has one writing
//! thread. Each worker therefore owns its cells and the scrape sums over workers. Two writers would lose additions
//! (never more than that: no cell can tear).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds, wrapping after 2^64.
    #[inline]
    pub fn add(&self, n: u64) {
        add(&self.0, n);
    }

    /// The value as last stored.
    pub fn read(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that goes up and down; below zero it wraps, and is shown as negative.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Adds, wrapping.
    #[inline]
    pub fn add(&self, n: u64) {
        add(&self.0, n);
    }

    /// Subtracts, wrapping.
    #[inline]
    pub fn sub(&self, n: u64) {
        add(&self.0, n.wrapping_neg());
    }

    /// Replaces the value.
    #[inline]
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// The value as last stored, in two's complement.
    pub fn read(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Where the buckets of a histogram end.
#[derive(Debug)]
pub struct Bounds {
    /// Inclusive upper ends in ascending order: in raw units, and as the `le` label shows them (OpenMetrics' canonical
    /// numbers: `1.0`, not `1`).
    pub steps: &'static [(u64, &'static str)],
    /// Raw units per exported unit.
    pub scale: u64,
}

/// A value as histograms with the same bounds count it: see [`Bounds::sample`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sample {
    bucket: usize,
    raw: u64,
}

impl Bounds {
    /// What a value in raw units is counted as.
    #[inline]
    pub fn sample(&self, raw: u64) -> Sample {
        Sample { bucket: self.steps.partition_point(|&(end, _)| end < raw), raw }
    }

    /// The same for a duration; right where the raw unit is the nanosecond.
    #[inline]
    pub fn sample_duration(&self, duration: Duration) -> Sample {
        self.sample(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
    }
}

/// Request times in seconds, raw in nanoseconds. Envoy's bounds up to a minute, so that queries carry over, with 2.5 ms
/// added where a mesh hop usually falls.
pub static REQUEST_SECONDS: Bounds = Bounds {
    steps: &[
        (500_000, "0.0005"),
        (1_000_000, "0.001"),
        (2_500_000, "0.0025"),
        (5_000_000, "0.005"),
        (10_000_000, "0.01"),
        (25_000_000, "0.025"),
        (50_000_000, "0.05"),
        (100_000_000, "0.1"),
        (250_000_000, "0.25"),
        (500_000_000, "0.5"),
        (1_000_000_000, "1.0"),
        (2_500_000_000, "2.5"),
        (5_000_000_000, "5.0"),
        (10_000_000_000, "10.0"),
        (30_000_000_000, "30.0"),
        (60_000_000_000, "60.0"),
    ],
    scale: NANOS,
};

/// Filter times in seconds, raw in nanoseconds: from one microsecond, since a call into a guest costs less than that,
/// to the largest budget of a call that makes sense.
pub static FILTER_SECONDS: Bounds = Bounds {
    steps: &[
        (1_000, "0.000001"),
        (2_500, "0.0000025"),
        (5_000, "0.000005"),
        (10_000, "0.00001"),
        (25_000, "0.000025"),
        (50_000, "0.00005"),
        (100_000, "0.0001"),
        (250_000, "0.00025"),
        (500_000, "0.0005"),
        (1_000_000, "0.001"),
        (5_000_000, "0.005"),
        (20_000_000, "0.02"),
        (100_000_000, "0.1"),
        (1_000_000_000, "1.0"),
    ],
    scale: NANOS,
};

/// Values of unknown unit that a guest records: Envoy's default buckets, which filters written for Envoy expect.
pub static GUEST_VALUES: Bounds = Bounds {
    steps: &[
        (0, "0.5"),
        (1, "1.0"),
        (5, "5.0"),
        (10, "10.0"),
        (25, "25.0"),
        (50, "50.0"),
        (100, "100.0"),
        (250, "250.0"),
        (500, "500.0"),
        (1_000, "1000.0"),
        (2_500, "2500.0"),
        (5_000, "5000.0"),
        (10_000, "10000.0"),
        (30_000, "30000.0"),
        (60_000, "60000.0"),
        (300_000, "300000.0"),
        (600_000, "600000.0"),
        (1_800_000, "1800000.0"),
        (3_600_000, "3600000.0"),
    ],
    scale: 1,
};

/// Counts of values by bucket, and their sum.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static Bounds,
    /// One per bound and one for what lies above; not cumulative.
    buckets: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Histogram {
    /// An empty histogram.
    pub fn new(bounds: &'static Bounds) -> Self {
        let buckets = (0..=bounds.steps.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram { bounds, buckets, sum: AtomicU64::new(0) }
    }

    /// Counts a value in raw units.
    #[inline]
    pub fn observe(&self, raw: u64) {
        self.count(self.bounds.sample(raw));
    }

    /// Counts a value once more that was looked up in the same bounds.
    #[inline]
    pub fn count(&self, Sample { bucket, raw }: Sample) {
        if let Some(bucket) = self.buckets.get(bucket) {
            add(bucket, 1);
        }
        add(&self.sum, raw);
    }

    /// Counts a duration; right for bounds whose raw unit is the nanosecond.
    #[inline]
    pub fn observe_duration(&self, duration: Duration) {
        self.count(self.bounds.sample_duration(duration));
    }

    /// Its bounds.
    pub fn bounds(&self) -> &'static Bounds {
        self.bounds
    }

    /// The count of each bucket, not cumulative, the one above all bounds last.
    pub fn buckets(&self) -> impl Iterator<Item = u64> {
        self.buckets.iter().map(|bucket| bucket.load(Relaxed))
    }

    /// The sum of all values in raw units, wrapping after 2^64 (584 years of nanoseconds).
    pub fn sum(&self) -> u64 {
        self.sum.load(Relaxed)
    }
}

const NANOS: u64 = 1_000_000_000;

#[inline]
fn add(cell: &AtomicU64, n: u64) {
    cell.store(cell.load(Relaxed).wrapping_add(n), Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gauge_wraps_below_zero() {
        let gauge = Gauge::default();
        gauge.add(7);
        gauge.sub(100);
        assert_eq!(gauge.read(), 18_446_744_073_709_551_523);
        assert_eq!(gauge.read() as i64, -93);
        gauge.set(4);
        assert_eq!(gauge.read(), 4);
    }

    #[test]
    fn a_bound_belongs_to_the_bucket_below() {
        let histogram = Histogram::new(&REQUEST_SECONDS);
        for (i, &(end, _)) in REQUEST_SECONDS.steps.iter().enumerate() {
            histogram.observe(end);
            assert_eq!(histogram.buckets().nth(i), Some(if i == 0 { 1 } else { 2 }), "at {end}");
            histogram.observe(end + 1);
        }
        assert_eq!(histogram.buckets().last(), Some(1));
        assert_eq!(histogram.buckets().sum::<u64>(), 2 * REQUEST_SECONDS.steps.len() as u64);
    }

    #[test]
    fn extreme_values_are_counted() {
        let histogram = Histogram::new(&GUEST_VALUES);
        histogram.observe(0);
        histogram.observe_duration(Duration::MAX);
        assert_eq!(histogram.buckets().next(), Some(1));
        assert_eq!(histogram.buckets().last(), Some(1));
    }

    #[test]
    fn bounds_ascend_and_their_texts_are_their_values() {
        for bounds in [&REQUEST_SECONDS, &FILTER_SECONDS, &GUEST_VALUES] {
            assert!(bounds.steps.is_sorted_by(|a, b| a.0 < b.0));
            for &(raw, text) in bounds.steps.iter().filter(|&&(raw, _)| raw != 0) {
                let value: f64 = text.parse().unwrap();
                assert!((value * bounds.scale as f64 - raw as f64).abs() < 1e-3, "{raw} is not {text}");
            }
        }
    }
}
