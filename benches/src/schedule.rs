//! When the requests of an open loop are due, whatever the target does.

use crate::{plan::Arrivals, random::Random};
use std::time::{Duration, Instant};

/// The instants at which requests are due, without end.
#[derive(Debug)]
pub(crate) struct Schedule {
    arrivals: Arrivals,
    /// The mean time between two.
    interval: Duration,
    next: Instant,
    random: Random,
}

impl Schedule {
    /// From `start`, `rate` requests per second. `seed` makes the same bursts again.
    pub(crate) fn new(arrivals: Arrivals, rate: f64, start: Instant, seed: u64) -> Self {
        Self { arrivals, interval: Duration::from_secs_f64(1.0 / rate), next: start, random: Random::new(seed) }
    }

    /// When the next request is due.
    pub(crate) fn next(&self) -> Instant {
        self.next
    }

    /// Goes on to the one after it.
    pub(crate) fn advance(&mut self) {
        self.next += match self.arrivals {
            Arrivals::Constant => self.interval,
            // Gaps of a Poisson process are exponential: the inverse of its distribution function.
            Arrivals::Poisson => self.interval.mul_f64(-(1.0 - self.random.unit()).ln()),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The gaps of 20,000 arrivals at 1000 per second, in milliseconds: their mean and standard deviation.
    fn gaps(arrivals: Arrivals) -> (f64, f64) {
        let start = Instant::now();
        let mut schedule = Schedule::new(arrivals, 1000.0, start, 7);
        let gaps: Vec<f64> = (0..20_000)
            .map(|_| {
                let due = schedule.next();
                schedule.advance();
                (schedule.next() - due).as_secs_f64() * 1000.0
            })
            .collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        (mean, variance.sqrt())
    }

    #[test]
    fn spaces_evenly() {
        let (mean, deviation) = gaps(Arrivals::Constant);
        assert!((mean - 1.0).abs() < 1e-6 && deviation < 1e-6, "{mean} ± {deviation}");
    }

    #[test]
    fn makes_the_gaps_of_a_poisson_process() {
        let (mean, deviation) = gaps(Arrivals::Poisson);
        assert!((mean - 1.0).abs() < 0.03, "{mean}");
        assert!((deviation - 1.0).abs() < 0.05, "an exponential's deviation is its mean, not {deviation}");
    }
}
