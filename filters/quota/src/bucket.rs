//! Token buckets for more callers than there is room for. Each is one number, the time at which it is full again (GCRA,
//! ITU-T I.371 annex A): that of a caller who asks for nothing need not be kept.

use std::time::Duration;

use lacis_filter_parts::hash;
use lacis_sdk::{Shared, SharedError};

/// Buckets in one place of the shared data. One caller more than that, of those whose places are the same, takes the place
/// of the one that would be full soonest.
const WAYS: usize = 8;

/// Buckets of one rule, shared by all workers.
#[derive(Debug)]
pub(crate) struct Buckets {
    name: String,
    /// Nanoseconds for one token.
    interval: u64,
    /// Nanoseconds for all tokens that a bucket holds.
    full: u64,
    places: u64,
}

/// What became of a request for tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Whether the tokens were there.
    pub(crate) granted: bool,
    /// Whole tokens that are left.
    pub(crate) remaining: u64,
    /// When the bucket will be full.
    pub(crate) full_in: Duration,
    /// When the tokens will be there, if nobody takes any meanwhile; none if never.
    pub(crate) retry_in: Option<Duration>,
}

/// A caller's mark and the time at which his bucket is full, in nanoseconds since 1970.
type Bucket = (u64, u64);

impl Buckets {
    /// `tokens` come in each `per`, and `burst` are kept at most; about `keys` callers have buckets of their own.
    ///
    /// # Errors
    ///
    /// If the rate is out of what a clock of nanoseconds can tell.
    pub(crate) fn new(name: &str, tokens: u64, per: Duration, burst: u64, keys: usize) -> Result<Self, String> {
        let interval = u64::try_from(per.as_nanos()).ok().and_then(|per| per.checked_div(tokens)).unwrap_or(0);
        let full = interval.checked_mul(burst).filter(|full| *full <= u64::MAX / 4);
        match full {
            Some(full) if interval > 0 && burst > 0 => {
                let places = (keys / WAYS).max(1) as u64;
                Ok(Self { name: format!("quota/{name}/"), interval, full, places })
            }
            _ => Err(
                "that rate cannot be kept: a token may take from a nanosecond on, and a full bucket a hundred years"
                    .into(),
            ),
        }
    }

    /// Takes tokens out of a caller's bucket, or none.
    pub(crate) fn take(&self, caller: &str, cost: u64, now: Duration) -> Result<Taken, SharedError> {
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let place = hash("place", caller) % self.places;
        let mark = hash("mark", caller);
        let mut taken = None;
        Shared::<Vec<Bucket>>::new(format!("{}{place}", self.name)).update(|buckets| {
            let mut buckets = buckets.unwrap_or_default();
            taken = Some(self.take_from(&mut buckets, mark, cost, now));
            buckets
        })?;
        Ok(taken.unwrap_or(Taken { granted: true, remaining: 0, full_in: Duration::ZERO, retry_in: None }))
    }

    fn take_from(&self, buckets: &mut Vec<Bucket>, mark: u64, cost: u64, now: u64) -> Taken {
        // Full ones are as good as none. A clock that was set back leaves none that is emptier than empty.
        buckets.retain(|(_, full_at)| *full_at > now);
        let at = buckets.iter().position(|(own, _)| *own == mark);
        let before =
            at.and_then(|at| buckets.get(at)).map_or(now, |(_, full_at)| (*full_at).min(now.saturating_add(self.full)));
        let wanted = cost.saturating_mul(self.interval);
        let after = before.saturating_add(wanted);
        let granted = after - now <= self.full;
        let full_at = if granted { after } else { before };
        match at.and_then(|at| buckets.get_mut(at)) {
            Some(bucket) => bucket.1 = full_at,
            None if full_at > now => {
                if buckets.len() >= WAYS
                    && let Some(soonest) =
                        (0..buckets.len()).min_by_key(|at| buckets.get(*at).map(|(_, full_at)| *full_at))
                {
                    buckets.swap_remove(soonest);
                }
                buckets.push((mark, full_at));
            }
            None => {}
        }
        Taken {
            granted,
            remaining: (self.full - (full_at - now)) / self.interval,
            full_in: Duration::from_nanos(full_at - now),
            retry_in: (wanted <= self.full).then(|| Duration::from_nanos((after - now).saturating_sub(self.full))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn buckets(tokens: u64, per: u64, burst: u64) -> Buckets {
        Buckets::new("test", tokens, Duration::from_secs(per), burst, 1000).unwrap()
    }

    #[test]
    fn tokens_are_taken_and_come_back() {
        let rate = buckets(10, 10, 3);
        let mut all = Vec::new();
        let mut take = |cost, at: u64| rate.take_from(&mut all, 7, cost, at);
        let now = 1000 * SECOND;
        assert_eq!([0; 3].map(|_| take(1, now).remaining), [2, 1, 0]);
        let denied = take(1, now);
        assert_eq!((denied.granted, denied.remaining, denied.retry_in), (false, 0, Some(Duration::from_secs(1))));
        assert_eq!(denied.full_in, Duration::from_secs(3));
        assert!(!take(1, now + SECOND - 1).granted);
        assert!(take(1, now + SECOND).granted);
        assert!(!take(1, now + SECOND).granted);
        assert!(take(3, now + 10 * SECOND).granted, "no more than a bucket holds");
        assert!(!take(1, now + 10 * SECOND).granted);
        assert_eq!(take(4, now + 90 * SECOND).retry_in, None);
        assert!(take(0, now + 90 * SECOND).granted);
        assert_eq!(all, [], "a full bucket is not kept");
    }

    #[test]
    fn a_clock_that_is_set_back_locks_nobody_out() {
        let rate = buckets(1, 1, 2);
        let mut all = Vec::new();
        assert!(rate.take_from(&mut all, 7, 2, 1000 * SECOND).granted);
        let denied = rate.take_from(&mut all, 7, 1, 10 * SECOND);
        assert_eq!((denied.granted, denied.retry_in), (false, Some(Duration::from_secs(1))));
        assert!(rate.take_from(&mut all, 7, 1, 11 * SECOND).granted);
    }

    #[test]
    fn callers_have_buckets_of_their_own_within_the_bound() {
        let rate = buckets(1, 1, 1);
        let mut all = Vec::new();
        for mark in 0..8 {
            assert!(rate.take_from(&mut all, mark, 1, SECOND + mark).granted);
        }
        assert!(!rate.take_from(&mut all, 0, 1, SECOND + 8).granted);
        assert!(rate.take_from(&mut all, 8, 1, SECOND + 8).granted, "the ninth takes the first one's place");
        assert_eq!(all.len(), WAYS);
        assert!(!rate.take_from(&mut all, 1, 1, SECOND + 8).granted);
    }

    #[test]
    fn rates_have_bounds() {
        let rate = |tokens, per, burst| Buckets::new("a", tokens, Duration::from_secs(per), burst, 1).is_ok();
        assert!(rate(SECOND, 1, 1));
        assert!(!rate(SECOND + 1, 1, 1));
        assert!(rate(1, 86_400, 50_000));
        assert!(!rate(1, 86_400, 1_000_000));
        assert!(!rate(0, 1, 1) && !rate(1, 0, 1) && !rate(1, 1, 0));
    }
}
