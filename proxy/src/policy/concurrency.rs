//! Adaptive concurrency: how many requests an application does well with at a time, found from how long they take.
//!
//! A server with room answers in a time that does not depend on how many ask; beyond that, requests wait in it, and their
//! time grows. The limit follows the ratio of the two (Envoy's adaptive concurrency filter, Netflix's gradient algorithm):
//!
//! ```text
//! gradient = clamp(floor × (1 + tolerance) / time, 0.5, 2)
//! limit    = gradient × limit + √limit
//! ```
//!
//! `time` is the mean of a window, `floor` what it is without a queue. Servers change, so the floor is measured anew now and
//! then: for two windows the limit is halved, and the second of them, when what was in flight before has gone, says it. What
//! is added is a little room for bursts, by which the limit also recovers. Time is an argument; there is no clock and no timer.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::admission::{Concurrency, Priority};
use crate::telemetry::cell::Gauge;
use crate::telemetry::trail::Busy;

/// Least length of a window, and least number of answers in it, by which the limit changes.
const WINDOW: Duration = Duration::from_millis(100);
const MIN_SAMPLES: u32 = 50;

/// The longest that a window waits for its answers: with fewer requests than this no limit is near.
const MAX_WINDOW: Duration = Duration::from_secs(5);

/// How much longer than the floor answers may take before the limit falls.
const TOLERANCE: f64 = 0.25;

/// How often the floor is measured anew, and how much of the limit may be used meanwhile.
const REMEASURE: Duration = Duration::from_secs(30);
const REMEASURE_SHARE: f64 = 0.5;

/// How much of the way the floor follows a window that was quicker: a single one may just have been lucky.
const FOLLOW: f64 = 0.1;

/// Bounds of one step.
const GRADIENT: (f64, f64) = (0.5, 2.0);

/// A limit of requests in flight that finds itself. Of one worker.
#[derive(Debug)]
pub struct Adaptive {
    settings: Concurrency,
    in_flight: Cell<u32>,
    state: RefCell<State>,
    /// Limits of workers add up to that of the sidecar.
    shown: Arc<Gauge>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    limit: f64,
    /// The mean without a queue, in seconds; none before it was measured.
    floor: Option<f64>,
    measured: Instant,
    phase: Phase,
    window: Window,
}

/// What the window is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// To move the limit.
    Moving,
    /// To let what was in flight end.
    Settling,
    /// To measure the floor.
    Measuring,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    begun: Instant,
    samples: u32,
    total: f64,
    /// The most requests that were in flight.
    peak: u32,
}

impl Window {
    fn new(begun: Instant) -> Self {
        Window { begun, samples: 0, total: 0.0, peak: 0 }
    }
}

impl Adaptive {
    /// Begins with the limit that the settings say, and measures the floor first.
    pub fn new(settings: Concurrency, shown: Arc<Gauge>, now: Instant) -> Self {
        let (limit, window) = (f64::from(settings.initial), Window::new(now));
        let state = State { limit, floor: None, measured: now, phase: Phase::Measuring, window };
        shown.add(u64::from(settings.initial));
        Adaptive { settings, in_flight: Cell::new(0), state: RefCell::new(state), shown }
    }

    /// What it was made of.
    pub fn settings(&self) -> Concurrency {
        self.settings
    }

    /// How many requests may be in flight now.
    pub fn limit(&self) -> u32 {
        let state = self.state.borrow();
        let lowered = state.phase != Phase::Moving && state.floor.is_some();
        self.clamp(if lowered { state.limit * REMEASURE_SHARE } else { state.limit })
    }

    /// Lets a request in until it [ends](Busy::end), if there is room for one of its importance: one that is not critical
    /// leaves a part of the limit to those that are. Of a limit of a few there is no part to leave.
    ///
    /// # Errors
    /// How many are in flight.
    pub fn enter(&self, priority: impl FnOnce() -> Priority) -> Result<(), u32> {
        let (now, limit) = (self.in_flight.get(), u64::from(self.limit()));
        let full = |priority: Priority| u64::from(now) >= (limit * priority.share()).div_ceil(100);
        // Nobody needs to know how important a request is before there is little room.
        if full(Priority::Low) && full(priority()) {
            return Err(now);
        }
        self.in_flight.set(now + 1);
        let mut state = self.state.borrow_mut();
        state.window.peak = state.window.peak.max(now + 1);
        Ok(())
    }

    fn step(&self, state: &mut State, window: Window, now: Instant) {
        let mean = (window.total / f64::from(window.samples.max(1))).max(1e-6);
        let Some(floor) = state.floor.filter(|_| state.phase == Phase::Moving) else {
            match state.phase {
                Phase::Settling => state.phase = Phase::Measuring,
                Phase::Measuring | Phase::Moving => {
                    state.floor = Some(mean);
                    state.measured = now;
                    state.phase = Phase::Moving;
                }
            }
            return;
        };
        let floor = if mean < floor { floor + FOLLOW * (mean - floor) } else { floor };
        state.floor = Some(floor);
        let gradient = (floor * (1.0 + TOLERANCE) / mean).clamp(GRADIENT.0, GRADIENT.1);
        let wanted = gradient * state.limit + state.limit.sqrt();
        // A limit that is not in use says nothing of whether a higher one would do.
        let used = f64::from(window.peak) * 2.0 >= state.limit;
        if used || wanted < state.limit {
            state.limit = wanted.clamp(f64::from(self.settings.min), f64::from(self.settings.max));
        }
        if now.saturating_duration_since(state.measured) >= REMEASURE {
            state.phase = Phase::Settling;
        }
    }

    fn clamp(&self, limit: f64) -> u32 {
        (limit as u32).clamp(self.settings.min, self.settings.max)
    }
}

impl Busy for Adaptive {
    fn end(&self) {
        self.in_flight.set(self.in_flight.get().saturating_sub(1));
    }

    fn answered(&self, took: Duration, now: Instant) {
        let mut state = self.state.borrow_mut();
        state.window.samples += 1;
        state.window.total += took.as_secs_f64();
        let age = now.saturating_duration_since(state.window.begun);
        if age < WINDOW || state.window.samples < MIN_SAMPLES && age < MAX_WINDOW {
            return;
        }
        let before = self.clamp(state.limit);
        let window = std::mem::replace(&mut state.window, Window::new(now));
        self.step(&mut state, window, now);
        self.shown.add(u64::from(self.clamp(state.limit)).wrapping_sub(u64::from(before)));
    }
}

impl Drop for Adaptive {
    fn drop(&mut self) {
        self.shown.sub(u64::from(self.clamp(self.state.borrow().limit)));
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;
    use std::collections::BinaryHeap;

    use super::*;

    const SETTINGS: Concurrency = Concurrency { min: 4, max: 1000, initial: 20 };

    fn adaptive(now: Instant) -> Adaptive {
        Adaptive::new(SETTINGS, Arc::default(), now)
    }

    /// A server with some workers, which a request occupies for a random time, and a queue without end before them.
    struct Server {
        workers: usize,
        mean: f64,
        chance: fastrand::Rng,
    }

    /// What came of a time.
    #[derive(Debug)]
    struct Outcome {
        /// Requests in a second.
        goodput: f64,
        /// Mean time of an answer, in seconds.
        latency: f64,
        limit: u32,
        /// The least limit of the time.
        least: u32,
    }

    impl Server {
        /// Requests come at random at this rate for this time.
        fn run(&mut self, adaptive: &Adaptive, start: Instant, seconds: f64, rate: f64) -> Outcome {
            let micros = |seconds: f64| (seconds * 1e6) as u64;
            // When each worker is free, and who is answered when.
            let mut free: BinaryHeap<Reverse<u64>> = (0..self.workers).map(|_| Reverse(0)).collect();
            let mut answers: BinaryHeap<Reverse<(u64, u64)>> = BinaryHeap::new();
            let (mut now, mut done, mut total, mut least) = (0_u64, 0_u32, 0.0, u32::MAX);
            while now < micros(seconds) {
                now += micros(-self.chance.f64().max(1e-12).ln() / rate);
                while let Some(Reverse((at, began))) = answers.peek().copied().filter(|Reverse((at, _))| *at <= now) {
                    answers.pop();
                    adaptive.end();
                    let took = Duration::from_micros(at - began);
                    adaptive.answered(took, start + Duration::from_micros(at));
                    done += 1;
                    total += took.as_secs_f64();
                }
                least = least.min(adaptive.limit());
                if adaptive.enter(|| Priority::Critical).is_ok() {
                    let Reverse(worker) = free.pop().expect("a worker");
                    let work = self.mean * (0.5 + self.chance.f64());
                    let end = worker.max(now) + micros(work).max(1);
                    free.push(Reverse(end));
                    answers.push(Reverse((end, now)));
                }
            }
            answers.into_iter().for_each(|_| adaptive.end());
            let (goodput, latency) = (f64::from(done) / seconds, total / f64::from(done.max(1)));
            Outcome { goodput, latency, limit: adaptive.limit(), least }
        }
    }

    #[test]
    fn the_knee_of_a_server_is_found_and_kept() {
        for seed in 0..4 {
            let start = Instant::now();
            let adaptive = adaptive(start);
            // 40 workers of 20 ms do 2000 requests a second; half as many again come.
            let mut server = Server { workers: 40, mean: 0.02, chance: fastrand::Rng::with_seed(seed) };
            server.run(&adaptive, start, 5.0, 3000.0);
            let outcome = server.run(&adaptive, start + Duration::from_secs(5), 60.0, 3000.0);
            println!("knee {seed} {outcome:?}");
            assert!(outcome.goodput > 1800.0, "{seed}: the server is busy: {outcome:?}");
            assert!(outcome.latency < 0.040, "{seed}: and has no long queue: {outcome:?}");
            assert!((30..=90).contains(&outcome.limit), "{seed}: {outcome:?}");
        }
    }

    #[test]
    fn it_follows_a_server_that_slows_down_and_recovers() {
        for seed in 0..4 {
            let start = Instant::now();
            let adaptive = adaptive(start);
            let at = |seconds| start + Duration::from_secs(seconds);
            let mut server = Server { workers: 40, mean: 0.02, chance: fastrand::Rng::with_seed(seed) };
            let quick = server.run(&adaptive, start, 10.0, 3000.0);
            // Three of four workers go, and come back.
            server.workers = 10;
            let slow = server.run(&adaptive, at(10), 20.0, 3000.0);
            println!("slow {seed} {quick:?} {slow:?}");
            assert!(slow.limit < quick.limit && slow.latency < 0.080, "{seed}: {quick:?} {slow:?}");
            server.workers = 40;
            server.run(&adaptive, at(30), 10.0, 3000.0);
            let again = server.run(&adaptive, at(40), 20.0, 3000.0);
            println!("again {seed} {again:?}");
            assert!(again.goodput > 1800.0, "{seed}: {again:?}");
            // Every request takes longer from now on: that is no queue, once it was measured.
            server.mean = 0.06;
            server.run(&adaptive, at(60), 70.0, 3000.0);
            let longer = server.run(&adaptive, at(130), 10.0, 3000.0);
            println!("longer {seed} {longer:?}");
            assert!(longer.goodput > 560.0, "{seed}: {longer:?}");
        }
    }

    #[test]
    fn it_never_falls_below_its_least_nor_grows_when_nobody_asks() {
        let start = Instant::now();
        let falling = adaptive(start);
        // Each answer takes longer than the one before: as bad as it can be.
        let (mut now, mut took) = (start, 0.001_f64);
        for _ in 0..3000 {
            falling.enter(|| Priority::Critical).expect("room for one");
            now += Duration::from_millis(10);
            took = (took * 1.01).min(1000.0);
            falling.end();
            falling.answered(Duration::from_secs_f64(took), now);
            assert!(falling.limit() >= SETTINGS.min);
        }
        // The last that fits is let in, and the next is not.
        let limit = falling.limit();
        (0..limit).for_each(|_| falling.enter(|| Priority::Critical).expect("room"));
        assert_eq!(falling.enter(|| Priority::Critical), Err(limit));
        falling.end();
        assert_eq!(falling.enter(|| Priority::Critical), Ok(()));

        let idle = adaptive(start);
        for second in 0..1000 {
            idle.enter(|| Priority::Critical).expect("room");
            idle.end();
            idle.answered(Duration::from_millis(5), start + Duration::from_secs(second));
        }
        let shown = Arc::clone(&idle.shown);
        assert!(idle.limit() <= SETTINGS.initial, "{}", idle.limit());
        drop(idle);
        assert_eq!(shown.read(), 0, "what is gone limits nothing");
    }

    #[test]
    fn what_matters_least_is_refused_first() {
        let adaptive =
            |limit| Adaptive::new(Concurrency { min: 1, max: 1000, initial: limit }, Arc::default(), Instant::now());
        let takes =
            |adaptive: &Adaptive, priority| (0..2000).take_while(|_| adaptive.enter(|| priority).is_ok()).count();
        let wide = adaptive(100);
        let all = [Priority::Low, Priority::Normal, Priority::Critical].map(|priority| takes(&wide, priority));
        assert_eq!(all, [80, 15, 5]);
        (0..21).for_each(|_| wide.end());
        assert_eq!([Priority::Low, Priority::Low].map(|priority| wide.enter(|| priority)), [Ok(()), Err(80)]);
        let few = [1, 2, 3, 10].map(|limit| [Priority::Low, Priority::Normal].map(|p| takes(&adaptive(limit), p)));
        assert_eq!(few, [[1, 1], [2, 2], [3, 3], [8, 10]]);
        let room = adaptive(10);
        assert_eq!(room.enter(|| panic!("it does not matter yet")), Ok(()));
    }

    #[test]
    fn the_least_is_kept_in_every_simulation() {
        for seed in 0..10 {
            let start = Instant::now();
            let adaptive = adaptive(start);
            let mut chance = fastrand::Rng::with_seed(seed);
            let (workers, mean) = (chance.usize(1..100), 0.001 + chance.f64() * 0.2);
            let capacity = workers as f64 / mean;
            let mut server = Server { workers, mean, chance };
            let outcome = server.run(&adaptive, start, 40.0, (capacity * 1.5).min(3000.0));
            println!("least {seed} {workers} {mean} {capacity} {outcome:?}");
            assert!(outcome.least >= SETTINGS.min && outcome.goodput > 0.0, "{seed}: {outcome:?}");
        }
    }
}
