//! Which endpoint gets the next request. Pure: loads, time and chance are given.

use std::cell::Cell;
use std::time::Duration;

use crate::config::Balance;

/// Over this time an old latency loses two thirds of its weight. Short enough to leave a slow endpoint within a few
/// requests, long enough not to follow every garbage collection (Finagle and linkerd use 10 s).
const DECAY: Duration = Duration::from_secs(10);

/// Latency assumed of an endpoint that never answered: small, so that new endpoints are tried at once.
const UNKNOWN_NANOS: f64 = 1_000_000.0;

/// How busy and how fast an endpoint is, as this worker sees it.
#[derive(Debug, Default)]
pub struct Load {
    in_flight: Cell<u32>,
    latency_nanos: Cell<f64>,
    updated_nanos: Cell<u64>,
}

impl Load {
    /// A request was given to it.
    pub fn start(&self) {
        self.in_flight.set(self.in_flight.get().saturating_add(1));
    }

    /// A request ended.
    pub fn end(&self) {
        self.in_flight.set(self.in_flight.get().saturating_sub(1));
    }

    /// Requests that it carries.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.get()
    }

    /// It answered after this time; `now` is nanoseconds of any monotonic clock. Peak EWMA: a rise counts at once, a
    /// fall with its age.
    pub fn answered(&self, latency: Duration, now: u64) {
        let latency = latency.as_nanos() as f64;
        let age = now.saturating_sub(self.updated_nanos.replace(now));
        let old = self.latency_nanos.get();
        let keep = (-(age as f64) / DECAY.as_nanos() as f64).exp();
        self.latency_nanos.set(if latency > old { latency } else { old * keep + latency * (1.0 - keep) });
    }

    /// The cost of one request more, in nanoseconds of all that it carries then.
    pub fn cost(&self) -> f64 {
        let latency = self.latency_nanos.get();
        (if latency == 0.0 { UNKNOWN_NANOS } else { latency }) * f64::from(self.in_flight.get() + 1)
    }
}

/// What a balancer needs to know of an endpoint.
pub trait Candidate {
    /// How busy it is.
    fn load(&self) -> &Load;
    /// Its share relative to its siblings.
    fn weight(&self) -> u32;
    /// Whether it should get requests now.
    fn usable(&self) -> bool;
}

/// Chooses among the endpoints of one service.
#[derive(Debug)]
pub struct Balancer {
    policy: Balance,
    /// With fewer percent of endpoints usable than this, all are used.
    floor: u8,
    turn: Cell<u64>,
}

impl Balancer {
    /// A balancer of this policy. With fewer percent of endpoints usable than `floor`, all are taken for usable.
    pub fn new(policy: Balance, floor: u8) -> Self {
        Balancer { policy, floor, turn: Cell::new(0) }
    }

    /// How it chooses.
    pub fn policy(&self) -> Balance {
        self.policy
    }

    /// The endpoint for the next request. Those for which `passed` holds are left out; those that are not usable are
    /// taken only where no other is left, for a guess beats a refusal.
    pub fn pick<C: Candidate>(
        &self,
        all: &[C],
        passed: impl Fn(usize) -> bool,
        chance: &mut fastrand::Rng,
    ) -> Option<usize> {
        if let [only] = all {
            let _ = only;
            return (!passed(0)).then_some(0);
        }
        let enough = self.floor == 0 || {
            let usable = all.iter().filter(|candidate| candidate.usable()).count();
            usable * 100 >= usize::from(self.floor) * all.len()
        };
        let usable = |i: &usize| !passed(*i) && (!enough || all.get(*i).is_some_and(Candidate::usable));
        self.among(all, usable, chance).or_else(|| self.among(all, |i| !passed(*i), chance))
    }

    fn among<C: Candidate>(
        &self,
        all: &[C],
        fits: impl Fn(&usize) -> bool,
        chance: &mut fastrand::Rng,
    ) -> Option<usize> {
        let total: u64 = (0..all.len()).filter(&fits).filter_map(|i| all.get(i)).map(|c| u64::from(c.weight())).sum();
        if total == 0 {
            return None;
        }
        // The endpoint at this point of the line on which each stands as wide as its weight.
        let at = |point: u64| {
            let mut left = point;
            (0..all.len()).filter(&fits).find(|i| {
                let weight = all.get(*i).map_or(0, |c| u64::from(c.weight()));
                let here = left < weight;
                left = left.saturating_sub(weight);
                here
            })
        };
        match self.policy {
            Balance::Random => at(chance.u64(0..total)),
            Balance::RoundRobin => at(self.turn.replace(self.turn.get().wrapping_add(1)) % total),
            Balance::LeastLoad => {
                let (one, two) = (at(chance.u64(0..total))?, at(chance.u64(0..total))?);
                let cost = |i: usize| all.get(i).map_or(f64::MAX, |c| c.load().cost());
                Some(if cost(two) < cost(one) { two } else { one })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake(Load, u32, bool);

    impl Candidate for Fake {
        fn load(&self) -> &Load {
            &self.0
        }
        fn weight(&self) -> u32 {
            self.1
        }
        fn usable(&self) -> bool {
            self.2
        }
    }

    fn endpoints(weights: &[u32]) -> Vec<Fake> {
        weights.iter().map(|w| Fake(Load::default(), *w, true)).collect()
    }

    fn shares(policy: Balance, all: &[Fake], n: usize) -> Vec<usize> {
        let (balancer, mut chance) = (Balancer::new(policy, 0), fastrand::Rng::with_seed(7));
        let mut counts = vec![0; all.len()];
        for _ in 0..n {
            counts[balancer.pick(all, |_| false, &mut chance).expect("one")] += 1;
        }
        counts
    }

    #[test]
    fn weights_are_shares() {
        assert_eq!(shares(Balance::RoundRobin, &endpoints(&[1, 2, 1]), 400), [100, 200, 100]);
        let random = shares(Balance::Random, &endpoints(&[1, 3]), 4000);
        assert!((900..1100).contains(&random[0]), "{random:?}");
    }

    #[test]
    fn a_slow_endpoint_gets_less() {
        let all = endpoints(&[1, 1, 1]);
        all[0].0.answered(Duration::from_millis(100), 0);
        all[1].0.answered(Duration::from_millis(1), 0);
        all[2].0.answered(Duration::from_millis(1), 0);
        // It is only taken when chance offers it twice.
        let counts = shares(Balance::LeastLoad, &all, 3000);
        assert!((250..420).contains(&counts[0]), "{counts:?}");
    }

    #[test]
    fn a_busy_endpoint_gets_less() {
        let all = endpoints(&[1, 1]);
        all[0].0.start();
        let counts = shares(Balance::LeastLoad, &all, 4000);
        assert!((900..1100).contains(&counts[0]), "{counts:?}");
        all[0].0.end();
        assert_eq!(all[0].0.in_flight(), 0);
    }

    #[test]
    fn unusable_endpoints_are_the_last_resort() {
        let mut all = endpoints(&[1, 1, 1]);
        all[0].2 = false;
        all[2].2 = false;
        assert_eq!(shares(Balance::LeastLoad, &all, 100), [0, 100, 0]);
        let (balancer, mut chance) = (Balancer::new(Balance::RoundRobin, 0), fastrand::Rng::with_seed(7));
        assert!(matches!(balancer.pick(&all, |i| i == 1, &mut chance), Some(0 | 2)));
        assert_eq!(balancer.pick(&all, |_| true, &mut chance), None);
        assert_eq!(balancer.pick(&all[..0], |_| false, &mut chance), None);
    }

    #[test]
    fn below_the_floor_all_are_used() {
        let mut all = endpoints(&[1, 1, 1, 1]);
        all[0].2 = false;
        all[1].2 = false;
        let taken = |all: &[Fake], floor| {
            let (balancer, mut chance) = (Balancer::new(Balance::RoundRobin, floor), fastrand::Rng::with_seed(7));
            let mut taken: Vec<_> = (0..8).filter_map(|_| balancer.pick(all, |_| false, &mut chance)).collect();
            taken.sort_unstable();
            taken.dedup();
            taken
        };
        assert_eq!(taken(&all, 50), [2, 3], "half of them are left, and that is enough");
        assert_eq!(taken(&all, 51), [0, 1, 2, 3]);
    }

    #[test]
    fn a_latency_rises_at_once_and_falls_slowly() {
        let load = Load::default();
        load.answered(Duration::from_millis(10), 0);
        load.answered(Duration::from_millis(1), 1_000_000_000);
        assert!(load.latency_nanos.get() > 9_000_000.0);
        load.answered(Duration::from_millis(1), 60_000_000_000);
        assert!(load.latency_nanos.get() < 1_100_000.0);
    }
}
