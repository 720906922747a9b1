//! How long answers take: an estimate of one quantile of recent times, in constant room. Pure: times are given.

use std::cell::{Cell, RefCell};
use std::time::Duration;

/// Buckets are an eighth of a power of two wide, so an estimate is at most an eighth too long. The last begins at
/// 126 s: nobody waits so long for a second try.
const BUCKETS: usize = 208;

/// Times before which it says nothing: of fewer, the slowest twentieth is four or less.
const FEW: u32 = 100;

/// When there are so many, all counts are halved: what was ten thousand requests ago weighs a thirtieth.
const MANY: u32 = 4000;

/// It is looked for again after so many times: a quantile of thousands changes little with each.
const REFRESH: u32 = 32;

/// An estimate of one quantile.
#[derive(Debug)]
pub struct Quantile {
    per_mille: u16,
    counts: RefCell<Box<[u32; BUCKETS]>>,
    total: Cell<u32>,
    since: Cell<u32>,
    value: Cell<Option<Duration>>,
}

impl Quantile {
    /// One of so many thousandths, such as 950.
    pub fn new(per_mille: u16) -> Self {
        let counts = RefCell::new(Box::new([0; BUCKETS]));
        Quantile { per_mille, counts, total: Cell::new(0), since: Cell::new(0), value: Cell::new(None) }
    }

    /// Which one it is.
    pub fn per_mille(&self) -> u16 {
        self.per_mille
    }

    /// An answer took so long, or longer and was not waited for.
    pub fn note(&self, took: Duration) {
        let mut counts = self.counts.borrow_mut();
        if let Some(count) = counts.get_mut(bucket(took)) {
            *count += 1;
        }
        self.total.set(self.total.get() + 1);
        if self.total.get() >= MANY {
            counts.iter_mut().for_each(|count| *count /= 2);
            self.total.set(counts.iter().sum());
        }
        self.since.set(self.since.get() + 1);
        if self.total.get() >= FEW && (self.value.get().is_none() || self.since.get() >= REFRESH) {
            self.since.set(0);
            self.value.set(Some(self.find(&counts)));
        }
    }

    /// The estimate, once there is enough to make one of.
    pub fn value(&self) -> Option<Duration> {
        self.value.get()
    }

    fn find(&self, counts: &[u32; BUCKETS]) -> Duration {
        let rank = u64::from(self.total.get()) * u64::from(self.per_mille);
        let mut below = 0;
        let at = counts.iter().position(|count| {
            below += u64::from(*count) * 1000;
            below >= rank
        });
        end(at.unwrap_or(BUCKETS - 1))
    }
}

fn bucket(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).clamp(1, (1 << 27) - 1);
    if micros < 8 {
        return micros as usize;
    }
    let exponent = micros.ilog2();
    (exponent as usize - 2) * 8 + ((micros >> (exponent - 3)) & 7) as usize
}

/// Where a bucket ends.
fn end(bucket: usize) -> Duration {
    Duration::from_micros(match bucket {
        0..8 => bucket as u64 + 1,
        _ => (bucket as u64 % 8 + 9) << (bucket / 8 - 1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other() {
        assert_eq!((bucket(Duration::ZERO), bucket(Duration::from_secs(1 << 40))), (1, (27 - 3) * 8 + 7));
        let mut before = 0;
        for micros in (1..4096).chain((12..27).flat_map(|e| [(1u64 << e) - 1, 1 << e, (1 << e) + (1 << (e - 1))])) {
            let took = Duration::from_micros(micros);
            let at = bucket(took);
            assert!(at >= before && at < BUCKETS, "{micros}: {at} after {before}");
            assert!(end(at) > took && end(at).as_micros() as u64 <= micros + micros / 8 + 1, "{micros}: {:?}", end(at));
            before = at;
        }
    }

    #[test]
    fn it_says_nothing_of_a_few() {
        let quantile = Quantile::new(950);
        (1..FEW).for_each(|_| quantile.note(Duration::from_millis(1)));
        assert_eq!(quantile.value(), None);
        quantile.note(Duration::from_millis(1));
        assert!(quantile.value().is_some_and(|value| value >= Duration::from_millis(1)));
    }

    /// Against the truth, for several shapes of latencies.
    #[test]
    fn simulated() {
        for seed in 0..10 {
            let mut chance = fastrand::Rng::with_seed(seed);
            for (name, shape) in [
                ("even", (|c: &mut fastrand::Rng| 1.0 + 99.0 * c.f64()) as fn(&mut fastrand::Rng) -> f64),
                ("exponential", |c| -10.0 * (1.0 - c.f64()).ln() + 0.1),
                ("two humps", |c| if c.u8(..10) == 0 { 80.0 + 40.0 * c.f64() } else { 2.0 + c.f64() }),
            ] {
                for per_mille in [500, 950, 990] {
                    let quantile = Quantile::new(per_mille);
                    let mut all: Vec<f64> = (0..3000).map(|_| shape(&mut chance)).collect();
                    all.iter().for_each(|millis| quantile.note(Duration::from_secs_f64(millis / 1e3)));
                    all.sort_by(f64::total_cmp);
                    let value = quantile.value().expect("enough").as_secs_f64() * 1e3;
                    let (from, to) = (
                        all[3000 * (usize::from(per_mille) - 8) / 1000],
                        all[3000 * (usize::from(per_mille) + 8) / 1000],
                    );
                    assert!(
                        (from * 0.99..to * 1.14).contains(&value),
                        "{name} {per_mille}: {value}, in truth {from} to {to}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_was_long_ago_is_forgotten() {
        let quantile = Quantile::new(950);
        (0..20_000).for_each(|_| quantile.note(Duration::from_millis(500)));
        (0..20_000).for_each(|_| quantile.note(Duration::from_millis(1)));
        assert!(quantile.value().is_some_and(|value| value < Duration::from_millis(2)), "{:?}", quantile.value());
    }
}
