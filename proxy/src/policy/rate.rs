//! Local rate limits: token buckets that all workers share.
//!
//! A bucket is one number, the time at which it will be full again (the generic cell rate algorithm), so that a request
//! costs one compare-and-swap and nothing has to be refilled. Buckets of keys lie in a table of fixed size. A bucket that is
//! full says nothing, so its place may be taken by another key; where no place can be had, requests share one bucket with all
//! others that have none, which is no wider than that of one key.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::conditions::{Asked, Matcher};
use crate::config::admission::{RateKey, RateLimit};
use crate::fault::{Fault, Reason};
use crate::telemetry::cell::Counter;
use crate::telemetry::metrics::Metrics;

/// Places among which a key looks for its own. Keys that meet others in all of them share the common bucket.
const WAYS: usize = 16;

/// A limit that all workers count against.
#[derive(Debug)]
pub struct Limiter {
    /// Time between two tokens, in nanoseconds.
    interval: u64,
    /// How far ahead of time a bucket may be, in nanoseconds: all tokens but one.
    ahead: u64,
    slots: Box<[Slot]>,
    /// Of all requests where there is no key; else of those whose key has no place.
    common: AtomicU64,
    seeds: RandomState,
    epoch: Instant,
}

/// The place of a bucket.
#[derive(Debug, Default)]
struct Slot {
    /// The hash of its key; 0 if it never had one.
    key: AtomicU64,
    /// When it will be full, in nanoseconds of the limiter.
    full: AtomicU64,
}

impl Limiter {
    /// A limit with full buckets.
    pub fn new(limit: &RateLimit) -> Self {
        let interval =
            u64::try_from(limit.per.as_nanos() / u128::from(limit.requests.max(1))).unwrap_or(u64::MAX).max(1);
        let slots = match (&limit.key, limit.max_keys as usize) {
            (None, _) => 0,
            (Some(_), few @ ..=WAYS) => few,
            (Some(_), many) => many.div_ceil(WAYS) * WAYS,
        };
        Limiter {
            interval,
            ahead: u64::from(limit.burst.saturating_sub(1)).saturating_mul(interval),
            slots: (0..slots).map(|_| Slot::default()).collect(),
            common: AtomicU64::new(0),
            seeds: RandomState::new(),
            epoch: Instant::now(),
        }
    }

    /// Takes a token for a request that began at this time.
    ///
    /// # Errors
    /// How long there will be none.
    fn take(&self, key: Option<u64>, began: Instant) -> Result<(), Duration> {
        let now = u64::try_from(began.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX);
        let bucket = key.map_or(&self.common, |key| self.bucket(key.max(1), now));
        let mut full = bucket.load(Relaxed);
        loop {
            let from = full.max(now);
            if from - now > self.ahead {
                return Err(Duration::from_nanos(from - now - self.ahead));
            }
            match bucket.compare_exchange_weak(full, from.saturating_add(self.interval), Relaxed, Relaxed) {
                Ok(_) => return Ok(()),
                Err(other) => full = other,
            }
        }
    }

    /// The bucket of a key: its own, or one that is full, which is as good as a new one, or the common one. Two workers that
    /// look for one at the same moment may count a request in a bucket that has just changed hands; never more than that.
    fn bucket(&self, key: u64, now: u64) -> &AtomicU64 {
        let sets = (self.slots.len() / WAYS).max(1);
        let set = ((u128::from(key) * sets as u128) >> 64) as usize;
        let ways = self.slots.chunks(WAYS).nth(set).unwrap_or_default();
        if let Some(own) = ways.iter().find(|slot| slot.key.load(Relaxed) == key) {
            return &own.full;
        }
        let free = ways.iter().find(|slot| {
            let before = slot.key.load(Relaxed);
            slot.full.load(Relaxed) <= now && slot.key.compare_exchange(before, key, Relaxed, Relaxed).is_ok()
        });
        free.map_or(&self.common, |slot| &slot.full)
    }

    fn hash(&self, write: impl FnOnce(&mut dyn Hasher)) -> u64 {
        let mut hasher = self.seeds.build_hasher();
        write(&mut hasher);
        hasher.finish()
    }
}

/// Limits by their names, with what they were made of: what is equal after a change goes on where it was.
pub type Limiters = HashMap<Arc<str>, (RateLimit, Arc<Limiter>)>;

/// New limiters for these limits, each under its name.
pub fn limiters<'a>(limits: impl Iterator<Item = &'a RateLimit>) -> Limiters {
    limits.map(|limit| (Arc::clone(&limit.name), (limit.clone(), Arc::new(Limiter::new(limit))))).collect()
}

/// These, but for those that `before` has with equal settings. All workers come to the same end.
pub fn kept(new: &Limiters, before: Option<&Limiters>) -> Limiters {
    let kept = |(name, (limit, limiter)): (&Arc<str>, &(RateLimit, Arc<Limiter>))| {
        let known = before.and_then(|before| before.get(name)).filter(|(known, _)| known.counts_as(limit));
        (Arc::clone(name), (limit.clone(), Arc::clone(known.map_or(limiter, |(_, limiter)| limiter))))
    };
    new.iter().map(kept).collect()
}

/// The limits of one place (the inbound side, a service, a rule), as a worker asks them.
#[derive(Debug)]
pub struct RateLimits(Vec<Limit>);

#[derive(Debug)]
struct Limit {
    name: Arc<str>,
    limiter: Arc<Limiter>,
    matches: Vec<Matcher>,
    key: Option<RateKey>,
    requests: Option<NonZeroU32>,
    refused: Arc<Counter>,
}

impl RateLimits {
    /// `None` if there are none.
    pub fn new(limits: &[RateLimit], limiters: &Limiters, metrics: &Metrics) -> Option<Self> {
        let limit = |limit: &RateLimit| {
            let (_, limiter) = limiters.get(&limit.name)?;
            Some(Limit {
                // Its own: workers that count references to the same one would wait for each other.
                name: Arc::from(&*limit.name),
                limiter: Arc::clone(limiter),
                matches: limit.matches.iter().map(Matcher::new).collect(),
                key: limit.key.clone(),
                requests: NonZeroU32::new(limit.requests),
                refused: metrics.rate_limited(&limit.name),
            })
        };
        let limits: Vec<Limit> = limits.iter().filter_map(limit).collect();
        (!limits.is_empty()).then_some(RateLimits(limits))
    }

    /// Counts a request that began at this time, in every limit that is about it, one after the other.
    ///
    /// # Errors
    /// `RateLimited`, with the time after which there is a token again. What the limits before have counted stays counted.
    pub fn admit(&self, asked: &Asked<'_>, began: Instant) -> Result<(), Fault> {
        for limit in &self.0 {
            let Limit { name, limiter, matches, key, requests, refused } = limit;
            if !matches.is_empty() && !matches.iter().any(|matcher| matcher.meets(asked)) {
                continue;
            }
            let key = key.as_ref().map(|key| match key {
                RateKey::Identity => limiter.hash(|mut hasher| asked.peer().hash(&mut hasher)),
                RateKey::Header(name) => limiter.hash(|mut hasher| {
                    asked.head().headers.get_all(name).for_each(|value| value.as_bytes().hash(&mut hasher));
                }),
            });
            if let Err(wait) = limiter.take(key, began) {
                refused.add(1);
                let detail = format!("the rate limit {name} is used up");
                return Err(Fault::new(Reason::RateLimited).detail(detail).wait(wait).quota(*requests));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(requests: u32, per: u64, burst: u32, max_keys: u32) -> RateLimit {
        let (per, key) = (Duration::from_secs(per), (max_keys > 0).then_some(RateKey::Identity));
        RateLimit { name: "limit".into(), matches: Vec::new(), requests, per, burst, key, max_keys }
    }

    #[test]
    fn a_burst_passes_and_then_what_the_rate_allows() {
        let limiter = Limiter::new(&limit(10, 1, 3, 0));
        let at = |millis| limiter.epoch + Duration::from_millis(millis);
        for _ in 0..3 {
            assert_eq!(limiter.take(None, at(0)), Ok(()));
        }
        assert_eq!(limiter.take(None, at(0)), Err(Duration::from_millis(100)));
        assert_eq!(limiter.take(None, at(99)), Err(Duration::from_millis(1)));
        assert_eq!(limiter.take(None, at(100)), Ok(()));
        assert!(limiter.take(None, at(100)).is_err());
        // It never holds more than the burst, however long nobody comes.
        let passed = (0..10).filter(|_| limiter.take(None, at(3_600_000)).is_ok()).count();
        assert_eq!(passed, 3);
        // A clock that another worker has read later counts.
        assert!(limiter.take(None, at(0)).is_err());
    }

    #[test]
    fn over_time_no_more_pass_than_the_rate_and_the_burst() {
        let limiter = Limiter::new(&limit(1000, 1, 50, 0));
        let mut chance = fastrand::Rng::with_seed(3);
        let (mut now, mut passed) = (limiter.epoch, 0_u64);
        while now < limiter.epoch + Duration::from_secs(20) {
            passed += u64::from(limiter.take(None, now).is_ok());
            now += Duration::from_micros(chance.u64(0..500));
        }
        assert!((20_000..=20_051).contains(&passed), "{passed}");
    }

    #[test]
    fn keys_have_buckets_of_their_own_until_there_is_no_place() {
        let limiter = Limiter::new(&limit(1, 10, 1, 4));
        let at = |seconds| limiter.epoch + Duration::from_secs(seconds);
        let take = |key: u64, seconds| limiter.take(Some(key), at(seconds)).is_ok();
        for key in 1..=4 {
            assert!(take(key, 0) && !take(key, 0), "{key}");
        }
        // The fifth and the sixth share what is left.
        assert!(take(5, 0) && !take(6, 0) && !take(5, 0));
        // The first four are full again: any of their places may be taken, and nobody has lost anything.
        assert!(take(6, 10) && take(1, 10) && !take(6, 10) && !take(1, 10));
    }

    #[test]
    fn a_table_is_as_large_as_was_said_and_strangers_cannot_widen_the_gate() {
        for (max_keys, slots) in [(1, 1), (16, 16), (17, 32), (4096, 4096)] {
            assert_eq!(Limiter::new(&limit(1, 1, 1, max_keys)).slots.len(), slots);
        }
        assert!(Limiter::new(&limit(1, 1, 1, 0)).slots.is_empty());
        let limiter = Limiter::new(&limit(1, 10, 1, 64));
        let keys = (0..100_000).map(|n: u64| limiter.hash(|mut hasher| n.hash(&mut hasher)));
        let passed = keys.filter(|key| limiter.take(Some(*key), limiter.epoch).is_ok()).count();
        assert!((48..=65).contains(&passed), "{passed}");
    }

    #[test]
    fn workers_together_get_no_more_than_one() {
        let limiter = Arc::new(Limiter::new(&limit(1, 3600, 1000, 8)));
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let limiter = Arc::clone(&limiter);
                std::thread::spawn(move || (0..1000).filter(|_| limiter.take(Some(7), limiter.epoch).is_ok()).count())
            })
            .collect();
        let passed: usize = workers.into_iter().map(|worker| worker.join().expect("a count")).sum();
        // All four may have looked for a place at once, once.
        assert!((1000..=1003).contains(&passed), "{passed}");
    }

    #[test]
    fn what_is_equal_goes_on() {
        let first = limiters([limit(1, 10, 1, 0)].iter());
        let same = kept(&limiters([limit(1, 10, 1, 0)].iter()), Some(&first));
        let other = kept(&limiters([limit(2, 10, 1, 0)].iter()), Some(&first));
        let of = |limiters: &Limiters| Arc::clone(&limiters["limit"].1);
        assert!(Arc::ptr_eq(&of(&first), &of(&same)) && !Arc::ptr_eq(&of(&first), &of(&other)));
        assert!(kept(&first, None).contains_key("limit"));
    }
}
