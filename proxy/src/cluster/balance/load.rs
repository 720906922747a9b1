//! How busy, how fast and how sound an endpoint is, and what one more request there would cost.

use std::cell::Cell;
use std::time::Duration;

/// Over this time an old latency loses two thirds of its weight. Short enough to leave a slow endpoint within a few
/// requests, long enough not to follow every garbage collection (Finagle and linkerd use 10 s).
const DECAY: Duration = Duration::from_secs(10);

/// Over this time failures lose two thirds of their weight: an endpoint that was overloaded gets a request to show
/// that it is not any more.
const FORGET: Duration = Duration::from_secs(5);

/// How many times as expensive an endpoint is that fails every time: a failure is quick, and must not look cheap.
const PENALTY: f32 = 64.0;

/// What a failure moves the share of failures by, and what a success does. The first is larger: a few failures in a row
/// are reason enough to look elsewhere.
const BLAME: f32 = 1.0 / 4.0;
const PRAISE: f32 = 1.0 / 16.0;

/// A smaller share of failures is none: it would never be quite forgotten.
const SOUND: f32 = 0.001;

/// Latency that is assumed while no endpoint has answered.
const UNKNOWN_NANOS: f32 = 1_000_000.0;

/// The longest time that an endpoint is believed when it asks not to be asked (linkerd has the same).
const MAX_HOLD: Duration = Duration::from_secs(300);

/// How busy, fast and sound an endpoint is, as this worker sees it. Times are nanoseconds of any monotonic clock.
#[derive(Debug, Default)]
pub struct Load {
    in_flight: Cell<u32>,
    /// Peak EWMA, in nanoseconds; zero before the first answer.
    latency: Cell<f32>,
    updated: Cell<u64>,
    /// The share of answers that were failures, the recent ones above all.
    failing: Cell<f32>,
    failed: Cell<u64>,
    /// Until when it has asked not to be asked.
    held: Cell<u64>,
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

    /// It answered well after this time. Peak EWMA: a rise counts at once, a fall with its age.
    pub fn answered(&self, latency: Duration, now: u64, usual: &Usual) {
        let latency = latency.as_nanos() as f32;
        let failing = self.failing.get();
        if failing > 0.0 {
            let left = failing * (1.0 - PRAISE);
            self.failing.set(if left < SOUND { 0.0 } else { left });
        }
        usual.note(latency);
        let old = self.latency.get();
        let age = now.saturating_sub(self.updated.replace(now));
        if latency >= old {
            self.latency.set(latency);
        } else if age > 0 {
            let keep = decayed(age, DECAY);
            self.latency.set(old * keep + latency * (1.0 - keep));
        }
    }

    /// It could not answer, or said that it cannot: overloaded, or what is behind it. That it said so quickly is no
    /// reason to ask it again; what it took counts only if it is long.
    pub fn failed(&self, took: Duration, now: u64) {
        let failing = self.failing(now);
        self.failing.set(failing + (1.0 - failing) * BLAME);
        self.failed.set(now);
        let took = took.as_nanos() as f32;
        if self.latency.get() > 0.0 && took > self.latency.get() {
            self.latency.set(took);
            self.updated.set(now);
        }
    }

    /// It has not answered within this time, and nobody waits for it any more: its latency is no shorter.
    pub fn unanswered(&self, after: Duration, now: u64) {
        let after = after.as_nanos() as f32;
        if after > self.latency.get() {
            self.latency.set(after);
            self.updated.set(now);
        }
    }

    /// It has asked not to be asked for this long: it is the second choice until then, [`MAX_HOLD`] at the most.
    pub fn hold(&self, wait: Duration, now: u64) {
        self.held.set(self.held.get().max(now.saturating_add(nanos(wait.min(MAX_HOLD)))));
    }

    /// Whether it has asked not to be asked now.
    pub fn is_held(&self, now: u64) -> bool {
        now < self.held.get()
    }

    /// Its latency, as far as that is known: what it was comes closer to what is usual with its age, so that one that was
    /// slow is tried again.
    pub fn latency(&self, now: u64, usual: &Usual) -> Duration {
        Duration::from_nanos(self.latency_nanos(now, usual) as u64)
    }

    /// The share of its answers that were failures, 0 to 1.
    pub fn failing(&self, now: u64) -> f32 {
        match self.failing.get() {
            0.0 => 0.0,
            share => match now.saturating_sub(self.failed.get()) {
                0 => share,
                age => share * decayed(age, FORGET),
            },
        }
    }

    fn latency_nanos(&self, now: u64, usual: &Usual) -> f32 {
        let (latency, usual) = (self.latency.get(), usual.nanos());
        if latency == 0.0 {
            return usual;
        }
        match now.saturating_sub(self.updated.get()) {
            0 => latency,
            age => usual + (latency - usual) * decayed(age, DECAY),
        }
    }

    /// The cost of one request more. `relative`: by how much its weight is less than the mean.
    pub fn cost(&self, relative: f32, now: u64, usual: &Usual) -> f32 {
        let failing = 1.0 + PENALTY * self.failing(now);
        self.latency_nanos(now, usual) * failing * self.queue(relative)
    }

    /// How long a request more would wait, in requests.
    pub fn queue(&self, relative: f32) -> f32 {
        // The one more is not divided by the weight: an idle endpoint would else be the better the heavier it is, and
        // get all there is.
        1.0 + self.in_flight.get() as f32 * relative
    }
}

/// What is usual in a group of endpoints: the latency that is assumed of one that has not answered yet. With the
/// latency of an idle network, a new endpoint of a slow service would be given everything at once.
#[derive(Debug, Default)]
pub struct Usual(Cell<f32>);

impl Usual {
    /// A good answer after this time.
    fn note(&self, latency: f32) {
        let usual = self.0.get();
        self.0.set(if usual == 0.0 { latency } else { usual + (latency - usual) / 64.0 });
    }

    /// The cost of the first request to one that was never asked anything: as [`Load::cost`] of a new one.
    pub(super) fn cost(&self) -> f32 {
        self.nanos()
    }

    fn nanos(&self) -> f32 {
        if self.0.get() == 0.0 { UNKNOWN_NANOS } else { self.0.get() }
    }
}

/// What is left after so many nanoseconds of what loses two thirds in this time.
fn decayed(age: u64, time: Duration) -> f32 {
    (-(age as f32) / time.as_nanos() as f32).exp()
}

/// A duration as it is counted here.
pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);
    const SECOND: u64 = 1_000_000_000;

    fn millis(load: &Load, now: u64, usual: &Usual) -> u128 {
        load.latency(now, usual).as_millis()
    }

    #[test]
    fn a_latency_rises_at_once_and_falls_slowly() {
        let (load, usual) = (Load::default(), Usual::default());
        load.answered(10 * MILLI, 0, &usual);
        load.answered(MILLI, SECOND, &usual);
        assert_eq!(millis(&load, SECOND, &usual), 9);
        load.answered(MILLI, 60 * SECOND, &usual);
        assert_eq!(millis(&load, 60 * SECOND, &usual), 1);
    }

    #[test]
    fn who_is_not_waited_for_any_more_is_no_quicker_than_that() {
        let (load, usual) = (Load::default(), Usual::default());
        load.unanswered(10 * MILLI, 0);
        assert_eq!(millis(&load, 0, &usual), 10);
        load.unanswered(MILLI, 0);
        assert_eq!((millis(&load, 0, &usual), load.failing(0)), (10, 0.0), "and that is all that is known");
    }

    #[test]
    fn what_is_not_known_is_as_usual() {
        let usual = Usual::default();
        assert_eq!(millis(&Load::default(), 0, &usual), 1);
        let slow = Load::default();
        Load::default().answered(50 * MILLI, 0, &usual);
        slow.answered(800 * MILLI, 0, &Usual::default());
        assert_eq!(millis(&Load::default(), 0, &usual), 50);
        assert_eq!(millis(&slow, 0, &usual), 800);
        assert_eq!(millis(&slow, 100 * SECOND, &usual), 50, "forgotten, so that it is tried again");
    }

    #[test]
    fn to_fail_is_not_cheap_however_quick() {
        let usual = Usual::default();
        let (good, bad) = (Load::default(), Load::default());
        good.answered(20 * MILLI, 0, &usual);
        bad.answered(20 * MILLI, 0, &usual);
        (0..8).for_each(|_| bad.failed(MILLI / 10, 0));
        assert!(bad.failing(0) > 0.85 && bad.cost(1.0, 0, &usual) > 50.0 * good.cost(1.0, 0, &usual));
        assert!(bad.failing(30 * SECOND) < 0.01, "nor for ever");
        (0..40).for_each(|_| bad.answered(20 * MILLI, 0, &usual));
        assert!(bad.failing(0) < 0.1);
    }

    #[test]
    fn a_wish_not_to_be_asked_has_an_end() {
        let load = Load::default();
        load.hold(Duration::from_secs(2), SECOND);
        load.hold(Duration::from_secs(1), SECOND);
        assert!(load.is_held(3 * SECOND - 1) && !load.is_held(3 * SECOND));
        load.hold(Duration::from_secs(1_000_000), 0);
        assert!(load.is_held(300 * SECOND - 1) && !load.is_held(300 * SECOND));
    }
}
