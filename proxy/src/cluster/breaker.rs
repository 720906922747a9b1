//! Whether a service as a whole is given a rest, because too many of its answers fail or come late. Pure: the time is given.

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::config::policy::Breaker as Policy;
use crate::telemetry::labels::Cause;

/// Parts of the window: what is older than it goes by so much at once.
const PARTS: u64 = 10;

/// A breaker of one service in one worker.
#[derive(Debug)]
pub struct Breaker {
    policy: Policy,
    state: Cell<State>,
    start: Instant,
    parts: [Cell<Part>; PARTS as usize],
}

/// Requests of one part of the window.
#[derive(Clone, Copy, Debug, Default)]
struct Part {
    /// Which one, from the start; others have used the same place before.
    number: u64,
    count: Count,
}

/// How requests went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// All of them.
    pub requests: u32,
    /// Those that failed.
    pub failed: u32,
    /// Those that took long.
    pub slow: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    Open(Instant, Cause),
    /// So many were let in to try the service, and so many of them went well.
    Half(u32, u32, Cause),
}

/// How one request went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Went {
    /// It failed.
    pub failed: bool,
    /// Until the head of its response.
    pub took: Duration,
}

/// A change that others want to know of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// From now on requests are refused.
    Opened(Cause),
    /// From now on all are let in.
    Closed(Cause),
}

impl Breaker {
    /// A closed one.
    pub fn new(policy: Policy, now: Instant) -> Self {
        Breaker { policy, state: Cell::new(State::Closed), start: now, parts: Default::default() }
    }

    /// What it goes by.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Lets a request in: whether it is one that tries the service.
    ///
    /// # Errors
    /// How long it stays open yet.
    pub fn admit(&self, now: Instant) -> Result<bool, Duration> {
        let (tried, well, cause) = match self.state.get() {
            State::Closed => return Ok(false),
            State::Open(until, _) if now < until => return Err(until - now),
            State::Open(_, cause) => (0, 0, cause),
            State::Half(tried, well, cause) => (tried, well, cause),
        };
        if tried >= self.policy.probes {
            return Err(Duration::ZERO);
        }
        self.state.set(State::Half(tried + 1, well, cause));
        Ok(true)
    }

    /// How a request went that was let in; nothing if it was given up.
    pub fn note(&self, trying: bool, went: Option<Went>, now: Instant) -> Option<Change> {
        let bad = |went: Went| if went.failed { Some(Cause::Failures) } else { self.slow(went).then_some(Cause::Slow) };
        match (self.state.get(), trying, went) {
            (State::Half(tried, well, cause), true, None) => {
                self.state.set(State::Half(tried.saturating_sub(1), well, cause));
                None
            }
            (State::Half(tried, well, cause), true, Some(went)) => match bad(went) {
                Some(_) => {
                    self.state.set(State::Open(now + self.policy.open, cause));
                    None
                }
                None if well + 1 >= self.policy.probes => {
                    self.state.set(State::Closed);
                    self.parts.iter().for_each(|part| part.set(Part::default()));
                    Some(Change::Closed(cause))
                }
                None => {
                    self.state.set(State::Half(tried, well + 1, cause));
                    None
                }
            },
            (State::Closed, false, Some(went)) => {
                self.count(went, now);
                let cause = bad(went).and_then(|_| self.over(now))?;
                self.state.set(State::Open(now + self.policy.open, cause));
                Some(Change::Opened(cause))
            }
            // What was let in before the state changed proves nothing of the time after.
            _ => None,
        }
    }

    /// Whether all are let in.
    pub fn is_closed(&self) -> bool {
        self.state.get() == State::Closed
    }

    /// `closed`, `open` or `half_open`, and how long it stays open yet.
    pub fn state(&self, now: Instant) -> (&'static str, Duration) {
        match self.state.get() {
            State::Closed => ("closed", Duration::ZERO),
            State::Open(until, _) => ("open", until.saturating_duration_since(now)),
            State::Half(..) => ("half_open", Duration::ZERO),
        }
    }

    /// What is in the window.
    pub fn window(&self, now: Instant) -> Count {
        let newest = self.number(now);
        let within = |part: &Part| part.number + PARTS > newest;
        self.parts.iter().map(Cell::get).filter(within).fold(Count::default(), |sum, Part { count, .. }| Count {
            requests: sum.requests.saturating_add(count.requests),
            failed: sum.failed.saturating_add(count.failed),
            slow: sum.slow.saturating_add(count.slow),
        })
    }

    fn slow(&self, went: Went) -> bool {
        self.policy.slow.is_some_and(|(_, after)| went.took >= after)
    }

    fn number(&self, now: Instant) -> u64 {
        let width = (self.policy.window.as_millis() / u128::from(PARTS)).max(1);
        (now.saturating_duration_since(self.start).as_millis() / width) as u64
    }

    fn count(&self, went: Went, now: Instant) {
        let number = self.number(now);
        let Some(place) = self.parts.get((number % PARTS) as usize) else { return };
        let mut part = place.get();
        if part.number != number {
            part = Part { number, count: Count::default() };
        }
        part.count.requests = part.count.requests.saturating_add(1);
        part.count.failed = part.count.failed.saturating_add(went.failed.into());
        part.count.slow = part.count.slow.saturating_add(self.slow(went).into());
        place.set(part);
    }

    /// Why it opens, if it does.
    fn over(&self, now: Instant) -> Option<Cause> {
        let Count { requests, failed, slow } = self.window(now);
        let share = |part: u32, percent: u8| u64::from(part) * 100 >= u64::from(percent) * u64::from(requests);
        if requests < self.policy.requests {
            return None;
        }
        if self.policy.failures.is_some_and(|percent| share(failed, percent)) {
            return Some(Cause::Failures);
        }
        self.policy.slow.is_some_and(|(percent, _)| share(slow, percent)).then_some(Cause::Slow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const POLICY: Policy = Policy {
        failures: Some(50),
        slow: Some((80, SECOND)),
        window: Duration::from_secs(10),
        requests: 10,
        open: Duration::from_secs(5),
        probes: 2,
    };
    const WELL: Went = Went { failed: false, took: Duration::ZERO };
    const FAILED: Went = Went { failed: true, took: Duration::ZERO };
    const SLOW: Went = Went { failed: false, took: SECOND };

    fn breaker() -> (Breaker, Instant) {
        let now = Instant::now();
        (Breaker::new(POLICY, now), now)
    }

    fn send(breaker: &Breaker, went: Went, times: u32, now: Instant) -> Option<Change> {
        (0..times).fold(None, |change, _| {
            let trying = breaker.admit(now).expect("closed");
            change.or(breaker.note(trying, Some(went), now))
        })
    }

    #[test]
    fn it_opens_at_its_share_and_not_before() {
        let (breaker, now) = breaker();
        assert_eq!(send(&breaker, FAILED, 4, now), None, "too few requests");
        assert_eq!(send(&breaker, WELL, 5, now), None);
        assert_eq!(
            send(&breaker, FAILED, 1, now),
            Some(Change::Opened(Cause::Failures)),
            "the tenth, the fifth that failed"
        );
        assert_eq!(breaker.admit(now + 2 * SECOND), Err(3 * SECOND));

        let (breaker, now) = self::breaker();
        assert_eq!(send(&breaker, WELL, 2, now), None);
        assert_eq!(send(&breaker, SLOW, 7, now), None);
        assert_eq!(send(&breaker, SLOW, 1, now), Some(Change::Opened(Cause::Slow)));
    }

    #[test]
    fn what_is_older_than_the_window_does_not_count() {
        let (breaker, now) = breaker();
        send(&breaker, FAILED, 9, now);
        assert_eq!(breaker.window(now + 9 * SECOND).failed, 9);
        assert_eq!(breaker.window(now + 10 * SECOND).failed, 0);
        assert_eq!(send(&breaker, FAILED, 9, now + 10 * SECOND), None);
        assert_eq!(breaker.window(now + 100_000 * SECOND), Count::default());
    }

    #[test]
    fn a_few_try_it_before_it_closes() {
        let (breaker, now) = breaker();
        send(&breaker, FAILED, 10, now);
        let now = now + 5 * SECOND;
        assert_eq!((breaker.admit(now), breaker.admit(now)), (Ok(true), Ok(true)));
        assert_eq!(breaker.admit(now), Err(Duration::ZERO), "no more at once");
        assert_eq!(breaker.note(true, None, now), None);
        assert_eq!(breaker.admit(now), Ok(true), "in place of the one that was given up");
        assert_eq!(breaker.note(true, Some(FAILED), now), None);
        assert_eq!(breaker.state(now), ("open", 5 * SECOND));
        assert_eq!(breaker.note(true, Some(WELL), now), None, "too late");

        let now = now + 5 * SECOND;
        assert_eq!((breaker.admit(now), breaker.admit(now)), (Ok(true), Ok(true)));
        assert_eq!(breaker.note(true, Some(WELL), now), None);
        assert_eq!(breaker.note(true, Some(WELL), now), Some(Change::Closed(Cause::Failures)));
        assert_eq!((breaker.state(now).0, breaker.window(now)), ("closed", Count::default()));
    }

    /// A service that is well and ill by turns, asked at random, with requests that are given up: it is never refused for
    /// long when it is well, and asked rarely while it is ill.
    #[test]
    fn simulated() {
        for seed in 0..20 {
            let mut chance = fastrand::Rng::with_seed(seed);
            let (breaker, start) = breaker();
            let (mut ill_asked, mut ill_all, mut well_refused, mut well_all) = (0u32, 0u32, 0u32, 0u32);
            for step in 0..100_000u32 {
                let now = start + Duration::from_millis(u64::from(step) * 20);
                // Two minutes each.
                let ill = step / 6000 % 2 == 1;
                let admitted = breaker.admit(now);
                *(if ill { &mut ill_all } else { &mut well_all }) += 1;
                match (&admitted, ill) {
                    (Ok(_), true) => ill_asked += 1,
                    (Err(left), false) => {
                        assert!(*left <= POLICY.open);
                        well_refused += 1;
                    }
                    _ => {}
                }
                if let Ok(trying) = admitted {
                    let given_up = chance.u8(..) < 25;
                    breaker.note(trying, (!given_up).then_some(if ill { FAILED } else { WELL }), now);
                }
            }
            assert!(ill_asked * 10 < ill_all, "seed {seed}: {ill_asked} of {ill_all}");
            assert!(well_refused * 10 < well_all, "seed {seed}: {well_refused} of {well_all}");
        }
    }
}
