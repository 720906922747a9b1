//! Which link carries the requests to a peer with `link: auto` that has both: HTTP/3 or HTTP/2. Pure: what was measured,
//! the time and chance are given.
//!
//! HTTP/3 comes first, as long as nothing is known. Then the cheaper one carries the requests, which is HTTP/2, unless
//! answers come clearly later over it, or the path loses packets: there each loss holds up all requests of a TCP
//! connection, and of QUIC only its own. `benches/links` measures where that is so.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use crate::telemetry::labels::{Cause, Link};

/// Answers over a link before it is compared: of so many, three are slower than the quantile that is compared.
const ENOUGH: f32 = 64.0;

/// What is compared: the time that all but one in twenty answers kept. Losses of some tenths of a percent show there,
/// and it is known from few requests.
const QUANTILE: f32 = 0.95;

/// A link is clearly faster if the other takes longer by a quarter and a millisecond. Less is chance, or nobody feels it.
const CLEARLY: f32 = 1.25;
const FLOOR: Duration = Duration::from_millis(1);

/// A request may cost this much processor time more if its answer comes that many times as much earlier.
const WORTH: u32 = 10;

/// Losses from which HTTP/3 is better whatever else is known, and below which they are no reason any more.
const LOSSY: f64 = 0.005;
const LOSSLESS: f64 = 0.002;
/// Packets before losses are a share: at [`LOSSY`], two are lost.
const PACKETS: f64 = 400.0;

/// Processor time of both sidecars for one request and one answer, and for each KiB of them.
const H2_REQUEST: Duration = Duration::from_micros(73);
const H3_REQUEST: Duration = Duration::from_micros(75);
const H2_KIB: Duration = Duration::from_nanos(2_200);
const H3_KIB: Duration = Duration::from_nanos(6_500);

/// One request in so many goes over the link that is not chosen, so that it stays known.
const EXPLORES: u32 = 64;
/// And while something speaks for that link.
const TRIES: u32 = 8;
/// A trial that has not got answers enough by then is given up.
const TRIAL: Duration = Duration::from_secs(120);

/// Requests that are sent over the other link and wait for an answer at the same time: so many are lost at most, in
/// [`EXPLORING`], if that link is dead.
const AT_RISK: u32 = 8;
const EXPLORING: Duration = Duration::from_secs(60);

/// UDP counts as silent after so many thoughts in which packets were sent and none came: each is acknowledged within a
/// round trip, however long an answer takes.
const UNHEARD: u32 = 3;

/// So often in a row something has to speak for the other link.
const ROUNDS: u8 = 3;
/// How long a choice holds at least. Twice as long after each one that came soon after the one before.
const HOLDS: Duration = Duration::from_secs(10);
const HOLDS_MAX: Duration = Duration::from_secs(600);
/// One that comes after so many times that is not soon.
const SOON: u32 = 10;

/// Half of what is known is forgotten in this time, or with this many answers more.
const HALF_LIFE: Duration = Duration::from_secs(120);
const MEMORY: f32 = 512.0;

/// Which link, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// [`Link::H2`] or [`Link::H3`].
    pub link: Link,
    /// What spoke for it.
    pub cause: Cause,
}

/// What QUIC has seen of the path since it was asked last.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    /// Packets that we sent.
    pub sent: u64,
    /// Those of them that were lost.
    pub lost: u64,
    /// Packets that came.
    pub received: u64,
    /// Bytes of both directions.
    pub bytes: u64,
    /// Round trip.
    pub rtt: Duration,
}

/// A choice between two links.
#[derive(Debug)]
pub struct Choice {
    now: Cell<Verdict>,
    since: Cell<Instant>,
    holds: Cell<Duration>,
    /// Something speaks for the other link: what, how often in a row, since when.
    trial: Cell<Option<(Verdict, u8, Instant)>>,
    h2: Answers,
    h3: Answers,
    path: Cell<Path>,
    considered: Cell<Instant>,
    /// Requests that were sent over the other link since something came over it, and since when they are counted.
    at_risk: Cell<(u32, Instant)>,
    unheard: Cell<u32>,
}

/// What an operator wants to know of a choice.
#[derive(Clone, Copy, Debug)]
pub struct ChoiceReport {
    /// What is chosen.
    pub verdict: Verdict,
    /// For how long.
    pub held: Duration,
    /// What is tried.
    pub trial: Option<Verdict>,
    /// Answers over HTTP/2 that are remembered, and how long all but one in twenty took at the most.
    pub h2: (u32, Duration),
    /// The same of HTTP/3.
    pub h3: (u32, Duration),
    /// The share of packets that is lost, if that is known.
    pub loss: Option<f64>,
    /// The round trip, as QUIC sees it.
    pub rtt: Duration,
    /// Bytes of a request and its answer.
    pub bytes: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Path {
    sent: f64,
    lost: f64,
    bytes: f64,
    requests: f64,
    rtt: Duration,
}

impl Choice {
    /// Nothing is known: HTTP/3.
    pub fn new(now: Instant) -> Self {
        Choice {
            now: Cell::new(Verdict { link: Link::H3, cause: Cause::Unmeasured }),
            since: Cell::new(now),
            holds: Cell::new(HOLDS),
            trial: Cell::new(None),
            h2: Answers::default(),
            h3: Answers::default(),
            path: Cell::default(),
            considered: Cell::new(now),
            at_risk: Cell::new((0, now)),
            unheard: Cell::new(0),
        }
    }

    /// What carries requests.
    pub fn verdict(&self) -> Verdict {
        self.now.get()
    }

    /// What should carry the next request: now and then the other one.
    pub fn next(&self, chance: &mut fastrand::Rng) -> Link {
        let Verdict { link, cause } = self.now.get();
        if cause == Cause::Unmeasured || cause == Cause::Silent {
            // Who finds its UDP silent knows what to do, and when to ask again.
            return Link::H3;
        }
        let one_in = if self.trial.get().is_some() { TRIES } else { EXPLORES };
        let (at_risk, since) = self.at_risk.get();
        if chance.u32(0..one_in) != 0 || at_risk >= AT_RISK {
            return link;
        }
        self.at_risk.set((at_risk + 1, since));
        other(link)
    }

    /// An answer's head came over this link, so long after its request was sent.
    pub fn answered(&self, link: Link, took: Duration) {
        if link != self.now.get().link {
            self.at_risk.set((0, self.considered.get()));
        }
        match link {
            Link::H2 => self.h2.add(took),
            Link::H3 => self.h3.add(took),
            _ => {}
        }
    }

    /// Thinks about it: to be called about every second. What is chosen, if that has changed. `silent`: the peer's UDP
    /// does not answer.
    pub fn consider(&self, now: Instant, sample: Sample, silent: bool) -> Option<Verdict> {
        self.learn(now, sample);
        if now.saturating_duration_since(self.at_risk.get().1) > EXPLORING {
            self.at_risk.set((0, now));
        }
        let current = self.now.get();
        if silent != (current.cause == Cause::Silent) {
            let verdict = match silent {
                true => Verdict { link: Link::H2, cause: Cause::Silent },
                false => Verdict { link: Link::H3, cause: Cause::Unmeasured },
            };
            return self.choose(verdict, now);
        }
        if silent {
            self.unheard.set(0);
            return None;
        }
        let trial = self.trial.get();
        let tried = trial.map(|(verdict, ..)| verdict.link);
        // A trial by latency goes on until there are answers enough.
        if let Some((verdict, _, since)) = trial
            && verdict.cause == Cause::Latency
            && self.of(verdict.link).count() < ENOUGH
        {
            if now.saturating_duration_since(since) > TRIAL {
                self.trial.set(None);
            }
            return None;
        }
        let Some(verdict) = self.judge() else {
            self.trial.set(None);
            return None;
        };
        if verdict.link == current.link {
            self.trial.set(None);
            // The same for another reason, unless that one is only that it is cheaper, too.
            return if verdict.cause == current.cause { None } else { self.choose(verdict, now) };
        }
        if now.saturating_duration_since(self.since.get()) < self.holds.get() && current.cause != Cause::Unmeasured {
            return None;
        }
        let (rounds, since) = match trial {
            Some((_, rounds, since)) if tried == Some(verdict.link) => (rounds + 1, since),
            _ => {
                if verdict.cause == Cause::Latency {
                    // What was slow may be slow over both by now: what is known of the other is too old to say.
                    self.of(verdict.link).forget();
                }
                (1, now)
            }
        };
        if rounds < ROUNDS {
            self.trial.set(Some((verdict, rounds, since)));
            return None;
        }
        self.choose(verdict, now)
    }

    /// Whether UDP that answered once does so no more.
    pub fn is_unheard(&self) -> bool {
        self.unheard.get() >= UNHEARD
    }

    /// What an operator wants to know.
    pub fn report(&self, now: Instant) -> ChoiceReport {
        let path = self.path.get();
        let of = |answers: &Answers| (answers.count() as u32, answers.quantile());
        ChoiceReport {
            verdict: self.now.get(),
            held: now.saturating_duration_since(self.since.get()),
            trial: self.trial.get().map(|(verdict, ..)| verdict),
            h2: of(&self.h2),
            h3: of(&self.h3),
            loss: path.loss(),
            rtt: path.rtt,
            bytes: path.per_request() as u64,
        }
    }

    fn learn(&self, now: Instant, sample: Sample) {
        let passed = now.saturating_duration_since(self.considered.replace(now));
        let keep = 0.5f64.powf(passed.as_secs_f64() / HALF_LIFE.as_secs_f64());
        self.h2.fade(keep as f32);
        let requests = self.h3.fade(keep as f32);
        match sample {
            Sample { received: 1.., .. } => self.unheard.set(0),
            Sample { sent: 1.., .. } => self.unheard.set(self.unheard.get() + 1),
            _ => {}
        }
        let path = self.path.get();
        self.path.set(Path {
            sent: path.sent * keep + sample.sent as f64,
            lost: path.lost * keep + sample.lost as f64,
            bytes: path.bytes * keep + sample.bytes as f64,
            requests: path.requests * keep + f64::from(requests),
            rtt: if sample.rtt.is_zero() { path.rtt } else { sample.rtt },
        });
    }

    /// What all that is known speaks for; none if it does not speak.
    fn judge(&self) -> Option<Verdict> {
        let (current, path) = (self.now.get(), self.path.get());
        let compared = self.h2.count() >= ENOUGH && self.h3.count() >= ENOUGH;
        if compared {
            let (h2, h3) = (self.h2.quantile(), self.h3.quantile());
            let clearly = |less: Duration, more: Duration| more > less.mul_f32(CLEARLY) + FLOOR;
            if clearly(h3, h2) && h2.saturating_sub(h3) > path.dearer() * WORTH {
                return Some(Verdict { link: Link::H3, cause: Cause::Latency });
            }
            if clearly(h2, h3) {
                return Some(Verdict { link: Link::H2, cause: Cause::Latency });
            }
        }
        let limit = if current.cause == Cause::Loss { LOSSLESS } else { LOSSY };
        if path.loss()? >= limit {
            return Some(Verdict { link: Link::H3, cause: Cause::Loss });
        }
        // That it was faster is not refuted by knowing too little.
        let refuted = compared || current.cause != Cause::Latency;
        refuted.then_some(Verdict { link: Link::H2, cause: Cause::Cpu })
    }

    fn choose(&self, verdict: Verdict, now: Instant) -> Option<Verdict> {
        let before = self.now.replace(verdict);
        self.trial.set(None);
        if before.link != verdict.link {
            let held = now.saturating_duration_since(self.since.replace(now));
            let known = before.cause != Cause::Unmeasured && before.cause != Cause::Silent;
            let soon = known && held < self.holds.get() * SOON;
            self.holds.set(if soon { (self.holds.get() * 2).min(HOLDS_MAX) } else { HOLDS });
        }
        Some(verdict)
    }

    fn of(&self, link: Link) -> &Answers {
        if link == Link::H2 { &self.h2 } else { &self.h3 }
    }
}

impl Path {
    /// The share of packets that is lost, if there were enough of them.
    fn loss(&self) -> Option<f64> {
        (self.sent >= PACKETS).then(|| self.lost / self.sent)
    }

    /// Bytes of a request and its answer.
    fn per_request(&self) -> f64 {
        if self.requests < 1.0 { 0.0 } else { self.bytes / self.requests }
    }

    /// What a request over HTTP/3 costs more.
    fn dearer(&self) -> Duration {
        let kib = self.per_request() / 1024.0;
        (H3_REQUEST + H3_KIB.mul_f64(kib)).saturating_sub(H2_REQUEST + H2_KIB.mul_f64(kib))
    }
}

fn other(link: Link) -> Link {
    if link == Link::H2 { Link::H3 } else { Link::H2 }
}

/// Four steps to each doubling, from 16 µs to a minute and more.
const STEPS: usize = 4 * 22;
const SHORTEST_LOG2: u32 = 14;

/// How long answers took, the recent ones above all.
#[derive(Debug)]
struct Answers {
    steps: RefCell<[f32; STEPS]>,
    count: Cell<f32>,
    /// Those since the last [`Answers::fade`].
    fresh: Cell<u32>,
}

impl Default for Answers {
    fn default() -> Self {
        Answers { steps: RefCell::new([0.0; STEPS]), count: Cell::new(0.0), fresh: Cell::new(0) }
    }
}

impl Answers {
    fn add(&self, took: Duration) {
        let nanos = (took.as_nanos() as u64).max(1 << SHORTEST_LOG2);
        let log2 = 63 - nanos.leading_zeros();
        let step = (log2 - SHORTEST_LOG2) * 4 + (nanos >> (log2 - 2)) as u32 % 4;
        if let Some(count) = self.steps.borrow_mut().get_mut((step as usize).min(STEPS - 1)) {
            *count += 1.0;
        }
        self.count.set(self.count.get() + 1.0);
        self.fresh.set(self.fresh.get() + 1);
    }

    fn count(&self) -> f32 {
        self.count.get()
    }

    /// The upper end of the step in which [`QUANTILE`] is: at most a fifth too long.
    fn quantile(&self) -> Duration {
        let mut left = self.count.get() * QUANTILE;
        let steps = self.steps.borrow();
        let at = steps.iter().position(|count| {
            left -= count;
            left <= 0.0
        });
        let Some(at) = at.filter(|_| self.count.get() > 0.0) else { return Duration::ZERO };
        Duration::from_nanos((5 + at as u64 % 4) << (SHORTEST_LOG2 as usize - 2 + at / 4))
    }

    /// Keeps this share of what is known, or less where that is much; how many answers were new.
    fn fade(&self, keep: f32) -> u32 {
        let keep = keep.min(MEMORY / self.count.get().max(MEMORY));
        let mut count = 0.0;
        for step in self.steps.borrow_mut().iter_mut() {
            *step *= keep;
            count += *step;
        }
        self.count.set(count);
        self.fresh.take()
    }

    fn forget(&self) {
        *self.steps.borrow_mut() = [0.0; STEPS];
        self.count.set(0.0);
    }
}

#[cfg(test)]
mod tests;
