//! When an endpoint that fails is passed over, and when it comes back. Pure: the time is given.

use std::cell::{Cell, OnceCell};
use std::time::{Duration, Instant};

use crate::config::Outliers;
use crate::fault::Reason;
use crate::telemetry::labels::Cause;

/// How an endpoint did, as this worker sees it.
#[derive(Debug)]
pub struct Health {
    state: Cell<State>,
    /// Failures in a row,
    failures: Cell<u32>,
    /// and when the first of them was.
    since: Cell<Option<Instant>>,
    /// Ejections that are not forgotten: the next lasts so much longer.
    ejections: Cell<u32>,
    /// Requests in this interval, and those of them that succeeded.
    requests: Cell<u32>,
    successes: Cell<u32>,
    /// How long answers took in this interval, if that is asked for.
    times: OnceCell<Box<Times>>,
}

/// Answers by how long they took, in steps of a quarter of an octave from [`SHORTEST`] on.
#[derive(Debug)]
struct Times([Cell<u32>; 88]);

/// The end of the first step of [`Times`]; with 88 of them the last begins at 350 s.
const SHORTEST: Duration = Duration::from_micros(100);

/// An endpoint with a shorter median is not ejected for its latency, whatever the others' is: nobody waits for that, and
/// chance makes factors of it.
pub const SLOW: Duration = Duration::from_millis(5);

/// How long an endpoint must have answered nothing, however many requests others have answered in its place. Some are
/// always late, and hedges are for those; one that never answers is no better than one that fails.
pub const SILENCE: Duration = Duration::from_secs(1);

impl Default for Times {
    fn default() -> Self {
        Times([const { Cell::new(0) }; 88])
    }
}

impl Times {
    fn note(&self, took: Duration) {
        let step = (took.as_secs_f64() / SHORTEST.as_secs_f64()).log2() * 4.0 + 1.0;
        // A negative one is zero.
        let at = (step as usize).min(self.0.len() - 1);
        if let Some(count) = self.0.get(at) {
            count.set(count.get().saturating_add(1));
        }
    }

    fn count(&self) -> u32 {
        self.0.iter().fold(0, |sum, count| sum.saturating_add(count.get()))
    }

    /// The median, in seconds: the middle of its step.
    fn median(&self) -> f64 {
        let half = self.count().div_ceil(2);
        let mut sum = 0u32;
        let at = self.0.iter().position(|count| {
            sum = sum.saturating_add(count.get());
            sum >= half
        });
        SHORTEST.as_secs_f64() * ((at.unwrap_or(0) as f64 - 0.5) / 4.0).exp2()
    }

    fn clear(&self) {
        self.0.iter().for_each(|count| count.set(0));
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    In,
    /// Passed over; after this time it is tried.
    Out(Instant, Cause),
    /// Passed over, but for one request that tries it.
    Tried(Cause),
}

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Result {
    /// An answer, be it that the caller was wrong.
    Success,
    /// An answer with an error of the server's own: nothing that counts in a row.
    Error,
    /// None, or one of a gateway that had none.
    Failure(Cause),
    /// None until another endpoint had answered.
    Outrun,
}

/// What is shown of an ejected endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Ejected {
    /// Why.
    pub cause: Cause,
    /// How long it is passed over yet; nothing if it is tried, or will be by the next request.
    pub left: Duration,
    /// How often it was ejected, as far as that is not forgotten.
    pub times: u32,
}

impl Default for Health {
    fn default() -> Self {
        Health {
            state: Cell::new(State::In),
            failures: Cell::new(0),
            since: Cell::new(None),
            ejections: Cell::new(0),
            requests: Cell::new(0),
            successes: Cell::new(0),
            times: OnceCell::new(),
        }
    }
}

impl Health {
    /// Whether it should get requests: it is not ejected, or may be tried.
    pub fn is_usable(&self, now: Instant) -> bool {
        match self.state.get() {
            State::In => true,
            State::Out(until, _) => now >= until,
            State::Tried(_) => false,
        }
    }

    /// Whether it is ejected, if only until it was tried.
    pub fn is_ejected(&self) -> bool {
        self.state.get() != State::In
    }

    /// Why it is passed over.
    pub fn ejected(&self, now: Instant) -> Option<Ejected> {
        let (cause, left) = match self.state.get() {
            State::In => return None,
            State::Out(until, cause) => (cause, until.saturating_duration_since(now)),
            State::Tried(cause) => (cause, Duration::ZERO),
        };
        Some(Ejected { cause, left, times: self.ejections.get() })
    }

    /// A request goes to it. Whether it is the one that tries it: then [`Health::tried`] says what came of it.
    pub fn begin(&self, now: Instant) -> bool {
        match self.state.get() {
            State::Out(until, cause) if now >= until => {
                self.state.set(State::Tried(cause));
                true
            }
            State::In | State::Out(..) | State::Tried(_) => false,
        }
    }

    /// What came of the request that tried it; nothing if it was given up. Gives the cause if that ejects it again.
    pub fn tried(&self, result: Option<Result>, policy: &Outliers, now: Instant) -> Option<Cause> {
        let State::Tried(before) = self.state.get() else { return None };
        match result {
            None => self.state.set(State::Out(now, before)),
            Some(Result::Failure(cause)) => {
                self.eject(cause, policy, now);
                return Some(cause);
            }
            Some(Result::Outrun) if self.fails_on(true, policy, now) => {
                self.eject(SILENT, policy, now);
                return Some(SILENT);
            }
            Some(Result::Outrun) => self.state.set(State::Out(now, before)),
            Some(Result::Success | Result::Error) => {
                self.state.set(State::In);
                self.failures.set(0);
                self.requests.set(0);
                self.successes.set(0);
                if let Some(times) = self.times.get() {
                    times.clear();
                }
            }
        }
        None
    }

    /// What came of a request. `may` says whether one more of the group may be ejected, and is asked only if one should.
    /// Gives the cause of an ejection.
    pub fn note(&self, result: Result, policy: &Outliers, now: Instant, may: impl FnOnce() -> bool) -> Option<Cause> {
        // What was sent before the ejection, or because nothing else was left, proves nothing.
        if self.is_ejected() {
            return None;
        }
        if result != Result::Outrun {
            self.requests.set(self.requests.get().saturating_add(1));
        }
        let cause = match result {
            Result::Success => {
                self.successes.set(self.successes.get().saturating_add(1));
                self.failures.set(0);
                return None;
            }
            Result::Error => {
                self.failures.set(0);
                return None;
            }
            Result::Failure(cause) => cause,
            Result::Outrun => SILENT,
        };
        if !self.fails_on(result == Result::Outrun, policy, now) || !may() {
            return None;
        }
        self.eject(cause, policy, now);
        Some(cause)
    }

    /// One more failure in a row. Whether there are enough of them.
    fn fails_on(&self, outrun: bool, policy: &Outliers, now: Instant) -> bool {
        let failures = self.failures.get().saturating_add(1);
        self.failures.set(failures);
        if failures == 1 {
            self.since.set(Some(now));
        }
        let lasts = self.since.get().is_some_and(|since| now.saturating_duration_since(since) >= SILENCE);
        policy.consecutive > 0 && failures >= policy.consecutive && (lasts || !outrun)
    }

    /// How long it took to answer, for those who compare that.
    pub fn took(&self, time: Duration) {
        if !self.is_ejected() {
            self.times.get_or_init(Box::default).note(time);
        }
    }

    fn eject(&self, cause: Cause, policy: &Outliers, now: Instant) {
        let times = self.ejections.get().saturating_add(1);
        self.ejections.set(times);
        self.failures.set(0);
        let length = policy.ejection.saturating_mul(times).min(policy.max_ejection);
        self.state.set(State::Out(now + length, cause));
    }
}

/// Why an endpoint is ejected that others outran.
const SILENT: Cause = Cause::Reason(Reason::HttpResponseTimeout);

/// Whether one more of so many may be ejected. Never the last; of several one always.
pub fn may_eject(ejected: usize, total: usize, policy: &Outliers) -> bool {
    let share = usize::from(policy.max_ejected);
    ejected + 1 < total && (ejected == 0 || (ejected + 1) * 100 <= share * total)
}

/// An interval is over, or several: forgets an ejection of those that stayed for each, compares success rates and latencies,
/// and begins to count anew. Gives those that this ejects, and why.
pub fn sweep<'h>(
    all: impl Iterator<Item = &'h Health> + Clone,
    intervals: u32,
    policy: &Outliers,
    now: Instant,
) -> Vec<(usize, Cause)> {
    let failing = policy.success_rate.map_or(Vec::new(), |rule| {
        let rated: Vec<(usize, f64)> = all
            .clone()
            .enumerate()
            .filter(|(_, health)| !health.is_ejected() && health.requests.get() >= rule.requests)
            .map(|(i, health)| (i, f64::from(health.successes.get()) / f64::from(health.requests.get())))
            .collect();
        if rated.len() < rule.endpoints as usize { Vec::new() } else { laggards(&rated, rule.deviation) }
    });
    let slow = policy.latency.map_or(Vec::new(), |rule| {
        let timed = |(i, health): (usize, &'h Health)| {
            let times = health.times.get().filter(|times| !health.is_ejected() && times.count() >= rule.requests)?;
            Some((i, times.median()))
        };
        let timed: Vec<(usize, f64)> = all.clone().enumerate().filter_map(timed).collect();
        if timed.len() < rule.endpoints as usize { Vec::new() } else { stragglers(&timed, rule.factor) }
    });
    let (total, mut ejected) =
        all.clone().fold((0, 0), |(n, out), health| (n + 1, out + usize::from(health.is_ejected())));
    let mut out = Vec::new();
    for (i, health) in all.enumerate() {
        if !health.is_ejected() {
            health.ejections.set(health.ejections.get().saturating_sub(intervals));
            let cause = match (failing.contains(&i), slow.contains(&i)) {
                (true, _) => Some(Cause::SuccessRate),
                (false, true) => Some(Cause::Latency),
                (false, false) => None,
            };
            if let Some(cause) = cause.filter(|_| may_eject(ejected, total, policy)) {
                health.eject(cause, policy, now);
                ejected += 1;
                out.push((i, cause));
            }
        }
        if let Some(times) = health.times.get() {
            times.clear();
        }
        health.requests.set(0);
        health.successes.set(0);
    }
    out
}

/// Those whose rate is below the mean by more than so many thousandths of the standard deviation.
fn laggards(rates: &[(usize, f64)], deviation: u32) -> Vec<usize> {
    let count = rates.len() as f64;
    let mean = rates.iter().map(|(_, rate)| rate).sum::<f64>() / count;
    let variance = rates.iter().map(|(_, rate)| (rate - mean).powi(2)).sum::<f64>() / count;
    let least = mean - f64::from(deviation) / 1000.0 * variance.sqrt();
    rates.iter().filter(|(_, rate)| *rate < least).map(|(i, _)| *i).collect()
}

/// Those whose median is above the median of all by more than so many thousandths of it.
fn stragglers(medians: &[(usize, f64)], factor: u32) -> Vec<usize> {
    let mut sorted: Vec<f64> = medians.iter().map(|(_, median)| *median).collect();
    sorted.sort_unstable_by(f64::total_cmp);
    // Of an even number the lower one: of two, the slow one must not be half of its own measure.
    let usual = sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(f64::MAX);
    let most = (usual * f64::from(factor) / 1000.0).max(SLOW.as_secs_f64());
    medians.iter().filter(|(_, median)| *median > most).map(|(i, _)| *i).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::policy::{Latency, SuccessRate};

    const SECOND: Duration = Duration::from_secs(1);
    const DOWN: Result = Result::Failure(Cause::Reason(Reason::ConnectionRefused));
    const POLICY: Outliers = Outliers {
        consecutive: 3,
        interval: Duration::from_secs(10),
        ejection: Duration::from_secs(30),
        max_ejection: Duration::from_secs(70),
        max_ejected: 50,
        success_rate: None,
        latency: None,
    };

    fn fail(health: &Health, times: u32, now: Instant) -> Option<Cause> {
        (0..times).fold(None, |_, _| health.note(DOWN, &POLICY, now, || true))
    }

    #[test]
    fn failures_in_a_row_eject_and_others_do_not() {
        let (health, now) = (Health::default(), Instant::now());
        for other in [Result::Success, Result::Error] {
            assert_eq!(fail(&health, 2, now), None);
            assert_eq!(health.note(other, &POLICY, now, || true), None);
        }
        assert_eq!(fail(&health, 2, now), None);
        assert_eq!(health.note(DOWN, &POLICY, now, || false), None, "no more of the group may be");
        assert!(fail(&health, 1, now).is_some(), "now one may");
        assert!(health.is_ejected() && !health.is_usable(now + 30 * SECOND - Duration::from_nanos(1)));
        assert_eq!(fail(&health, 9, now), None, "what comes late proves nothing");
    }

    /// Hedges answer for it: that some of its requests are late is nothing, that all are for long is a failure.
    #[test]
    fn who_is_outrun_for_long_is_ejected() {
        let (health, start) = (Health::default(), Instant::now());
        let outrun = |now| health.note(Result::Outrun, &POLICY, now, || true);
        assert_eq!((0..100).find_map(|_| outrun(start)), None, "at once");
        assert_eq!(outrun(start + SILENCE - Duration::from_nanos(1)), None);
        assert_eq!(health.note(Result::Success, &POLICY, start + SILENCE, || true), None, "it lives");
        let again = start + SILENCE;
        assert_eq!((outrun(again), outrun(again + SILENCE)), (None, None), "two");
        assert_eq!(outrun(again + SILENCE), Some(SILENT));
        assert_eq!((health.requests.get(), health.successes.get()), (1, 1), "no answer, no rate");

        // It is tried, with the same patience.
        let mut now = again + SILENCE + 30 * SECOND;
        let tried = |now| {
            assert!(health.begin(now));
            health.tried(Some(Result::Outrun), &POLICY, now)
        };
        assert_eq!((tried(now), tried(now)), (None, None));
        now += SILENCE;
        assert_eq!(tried(now), Some(SILENT));
        assert_eq!(health.ejected(now).map(|ejected| ejected.times), Some(2));

        let never = Outliers { consecutive: 0, ..POLICY };
        let health = Health::default();
        assert!((0..9).all(|n| health.note(Result::Outrun, &never, start + n * SILENCE, || true).is_none()));
    }

    #[test]
    fn one_request_tries_an_endpoint_before_it_comes_back() {
        let (health, now) = (Health::default(), Instant::now());
        fail(&health, 3, now);
        assert!(!health.begin(now));
        let now = now + 30 * SECOND;
        assert!(health.is_usable(now) && health.begin(now));
        assert!(!health.is_usable(now) && !health.begin(now), "one at a time");
        assert_eq!(health.tried(None, &POLICY, now), None);
        assert!(health.is_usable(now), "given up: the next one tries");
        assert!(health.begin(now));
        assert!(health.tried(Some(DOWN), &POLICY, now).is_some());
        assert!(!health.is_usable(now + 59 * SECOND), "twice as long");
        let now = now + 60 * SECOND;
        assert!(health.begin(now));
        assert_eq!(health.tried(Some(Result::Success), &POLICY, now), None);
        assert!(!health.is_ejected());
        fail(&health, 3, now);
        assert_eq!(
            health.ejected(now).map(|e| (e.left, e.times)),
            Some((70 * SECOND, 3)),
            "no longer than the longest"
        );
    }

    #[test]
    fn ejections_are_forgotten_one_by_one() {
        let (health, now) = (Health::default(), Instant::now());
        fail(&health, 3, now);
        health.begin(now + 30 * SECOND);
        health.tried(Some(Result::Success), &POLICY, now);
        assert!(sweep([&health].into_iter(), 1, &POLICY, now).is_empty());
        fail(&health, 3, now);
        assert_eq!(health.ejected(now).map(|e| e.left), Some(30 * SECOND));
        sweep([&health].into_iter(), 5, &POLICY, now);
        assert_eq!(health.ejected(now).map(|e| e.times), Some(1), "not while it is ejected");
    }

    #[test]
    fn never_all_of_a_group() {
        let policy = |max_ejected| Outliers { max_ejected, ..POLICY };
        for (percent, total, most) in
            [(50, 1, 0), (50, 2, 1), (50, 3, 1), (50, 4, 2), (10, 5, 1), (100, 5, 4), (1, 5, 1)]
        {
            let ejected = (0..total).take_while(|ejected| may_eject(*ejected, total, &policy(percent))).count();
            assert_eq!(ejected, most, "{percent}% of {total}");
        }
    }

    #[test]
    fn an_endpoint_far_below_the_others_is_ejected() {
        let rule = SuccessRate { endpoints: 5, requests: 100, deviation: 1900 };
        let policy = Outliers { consecutive: 0, success_rate: Some(rule), ..POLICY };
        let now = Instant::now();
        let group = |bad: u32, requests: u32| {
            let all: Vec<Health> = (0..6).map(|_| Health::default()).collect();
            for (i, health) in all.iter().enumerate() {
                for n in 0..requests {
                    let fails = i == 2 && n % 100 < bad || n % 100 == 99;
                    health.note(if fails { Result::Error } else { Result::Success }, &policy, now, || true);
                }
            }
            sweep(all.iter(), 1, &policy, now)
        };
        assert_eq!(group(40, 100), [(2, Cause::SuccessRate)]);
        assert!(group(0, 100).is_empty(), "all the same");
        assert!(group(40, 99).is_empty(), "too few requests");
    }

    #[test]
    fn an_endpoint_far_slower_than_the_others_is_ejected() {
        let rule = Latency { endpoints: 3, requests: 20, factor: 3000 };
        let policy = Outliers { consecutive: 0, latency: Some(rule), ..POLICY };
        let now = Instant::now();
        let group = |millis: &[u64], requests: u64| {
            let all: Vec<Health> = millis.iter().map(|_| Health::default()).collect();
            for (health, millis) in all.iter().zip(millis) {
                // Most answers count, not the few that are later than all others.
                let took = |n| if n % 4 == 0 { 9000 } else { *millis };
                (1..=requests).for_each(|n| health.took(Duration::from_millis(took(n))));
            }
            let out = sweep(all.iter(), 1, &policy, now);
            assert!(sweep(all.iter(), 1, &policy, now).is_empty(), "what was counted is forgotten");
            out
        };
        assert_eq!(group(&[10, 10, 40], 20), [(2, Cause::Latency)]);
        assert!(group(&[10, 10, 40], 19).is_empty(), "too few answers");
        assert!(group(&[10, 40], 20).is_empty(), "too few endpoints");
        assert!(group(&[10, 10, 25], 20).is_empty(), "not that much slower");
        assert!(group(&[0, 0, 4], 20).is_empty(), "nobody waits for that");
        assert_eq!(group(&[10, 10, 10, 90, 90, 90, 90], 20), [], "the slow ones are the usual");
        assert_eq!(group(&[10, 10, 10, 10, 90, 90, 90], 20).len(), 3);
        assert_eq!(group(&[10, 10, 90, 90], 20).len(), 2, "no more than may be");
    }

    #[test]
    fn medians() {
        let times = Times::default();
        times.note(Duration::ZERO);
        times.note(Duration::MAX);
        for micros in [100u64, 1000, 20_000, 3_000_000, 300_000_000] {
            times.clear();
            (0..3).for_each(|_| times.note(Duration::from_micros(micros)));
            let off = times.median() * 1e6 / micros as f64;
            assert!((0.8..1.25).contains(&off), "{micros}: {off}");
        }
    }

    /// Endpoints that fail, recover and are asked at random, for a day: the group is never ejected as a whole, who is
    /// well comes back, and who is ill for long is asked ever more rarely.
    #[test]
    fn simulated() {
        for seed in 0..20 {
            let mut chance = fastrand::Rng::with_seed(seed);
            let total = chance.usize(2..12);
            let policy = Outliers { max_ejected: chance.u8(1..=100), ..POLICY };
            let all: Vec<Health> = (0..total).map(|_| Health::default()).collect();
            let mut ill = vec![false; total];
            let start = Instant::now();
            let mut asked_while_ill = 0u64;
            for step in 0..200_000u64 {
                let now = start + Duration::from_millis(step * 400);
                if step % 25 == 0 {
                    sweep(all.iter(), 1, &policy, now);
                }
                if chance.u32(0..2000) == 0 {
                    let i = chance.usize(0..total);
                    ill[i] = !ill[i];
                }
                let usable: Vec<usize> = (0..total).filter(|i| all[*i].is_usable(now)).collect();
                let ejected = all.iter().filter(|health| health.is_ejected()).count();
                assert!(ejected < total, "seed {seed}, step {step}: all are ejected");
                assert!(!usable.is_empty(), "seed {seed}, step {step}: nobody is left");
                let i = usable[chance.usize(0..usable.len())];
                let result = if ill[i] { DOWN } else { Result::Success };
                asked_while_ill += u64::from(ill[i]);
                if all[i].begin(now) {
                    all[i].tried((chance.u8(..) > 5).then_some(result), &policy, now);
                } else {
                    all[i].note(result, &policy, now, || may_eject(ejected, total, &policy));
                }
            }
            if ill.iter().any(|ill| !ill) && policy.max_ejected > 50 && total > 4 {
                assert!(asked_while_ill < 120_000, "seed {seed}: {asked_while_ill}");
            }
            // All are well again: within the longest ejection and one request each they are back.
            let mut now = start + Duration::from_millis(200_000 * 400);
            for _ in 0..3 {
                now += policy.max_ejection;
                for health in &all {
                    if health.begin(now) {
                        health.tried(Some(Result::Success), &policy, now);
                    }
                }
            }
            assert!(all.iter().all(|health| !health.is_ejected()), "seed {seed}");
        }
    }
}
