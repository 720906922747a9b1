//! How much of a service is in use in this worker, and what is refused beyond its limits.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use super::Dialer;
use super::breaker::Change;
use crate::config::Limits;
use crate::config::policy::MIN_BUDGET;
use crate::fault::{Fault, Reason};
use crate::telemetry::labels::{Cause, NameId};
use crate::telemetry::trail::{Busy, Trail};

/// A limit that is used up now may be free soon: a second is the shortest time that `retry-after` can say.
pub(super) const SOON: Duration = Duration::from_secs(1);

/// Counts what is under way. Outlives changes of the configuration, so that what began before is counted after.
#[derive(Debug)]
pub(super) struct Gate {
    requests: Count,
    pending: Count,
    retries: Count,
    /// Why the breaker is open, as it is said.
    tripped: Cell<Option<Cause>>,
    id: NameId,
    dialer: Rc<Dialer>,
}

/// Something that is counted against a limit.
#[derive(Debug)]
struct Count {
    cause: Cause,
    now: Cell<u32>,
    /// Whether it is said that the limit is used up.
    open: Cell<bool>,
    refused: Cell<u64>,
}

/// What is in use of a service.
#[derive(Clone, Copy, Debug)]
pub struct GateReport {
    /// Requests in flight. Counted only where a limit or a budget needs it.
    pub requests: Usage,
    /// Requests that wait for a connection.
    pub pending: Usage,
    /// Repetitions under way.
    pub retries: Usage,
}

impl GateReport {
    /// Of a service that was never used.
    pub(super) fn unused(limits: &Limits) -> Self {
        let usage = |limit: u32| Usage { now: 0, limit: (limit != u32::MAX).then_some(limit), refused: 0 };
        GateReport { requests: usage(limits.requests), pending: usage(limits.pending), retries: usage(limits.retries) }
    }
}

/// How much of a limit is in use.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// At the moment.
    pub now: u32,
    /// At the most; none if there is no such limit.
    pub limit: Option<u32>,
    /// How often it was refused.
    pub refused: u64,
}

/// A request that waits for a connection, until this is dropped.
#[derive(Debug)]
pub(super) struct Waiting(Rc<Gate>);

/// A repetition that is under way, until this is dropped.
#[derive(Debug)]
pub(super) struct Repeating(Rc<Gate>);

impl Gate {
    pub(super) fn new(id: NameId, dialer: &Rc<Dialer>) -> Self {
        let count = |cause| Count { cause, now: Cell::new(0), open: Cell::new(false), refused: Cell::new(0) };
        Gate {
            requests: count(Cause::Requests),
            pending: count(Cause::Pending),
            retries: count(Cause::Retries),
            tripped: Cell::new(None),
            id,
            dialer: Rc::clone(dialer),
        }
    }

    /// Lets a request in, until its exchange is over.
    pub(super) fn admit(self: &Rc<Self>, limits: &Limits, trail: &Trail) -> Result<(), Fault> {
        self.enter(&self.requests, limits.requests)?;
        trail.admitted(Rc::clone(self) as Rc<dyn Busy>);
        Ok(())
    }

    /// Lets a request wait for a connection.
    pub(super) fn wait(self: &Rc<Self>, limits: &Limits) -> Result<Waiting, Fault> {
        self.enter(&self.pending, limits.pending)?;
        Ok(Waiting(Rc::clone(self)))
    }

    /// Lets a request be sent again. `budget` is the share of requests in flight that may be so at once, in percent; those
    /// that it does not concern have none.
    pub(super) fn repeat(self: &Rc<Self>, limits: &Limits, budget: Option<u8>) -> Option<Repeating> {
        let share = budget.map_or(u32::MAX, |percent| share(percent, self.requests.now.get()));
        self.enter(&self.retries, limits.retries.min(share)).ok()?;
        Some(Repeating(Rc::clone(self)))
    }

    /// The breaker has opened, or closed.
    pub(super) fn changed(&self, change: Change) {
        self.closed();
        if let Change::Opened(cause) = change {
            self.tripped.set(Some(cause));
            self.dialer.metrics().breaker(self.id, cause, true);
        }
    }

    /// The breaker is closed, or there is none any more.
    pub(super) fn closed(&self) {
        if let Some(before) = self.tripped.take() {
            self.dialer.metrics().breaker(self.id, before, false);
        }
    }

    /// What is in use.
    pub(super) fn report(&self, limits: &Limits) -> GateReport {
        GateReport {
            requests: self.requests.usage(limits.requests),
            pending: self.pending.usage(limits.pending),
            retries: self.retries.usage(limits.retries),
        }
    }

    fn enter(&self, count: &Count, limit: u32) -> Result<(), Fault> {
        let now = count.now.get();
        if now >= limit {
            count.refused.set(count.refused.get() + 1);
            self.say(count, true);
            let what = match count.cause {
                Cause::Pending => "requests wait for a connection",
                _ => "requests are in flight",
            };
            return Err(Fault::new(Reason::LimitReached)
                .detail(format!("{now} {what}, and no more may be"))
                .wait(SOON));
        }
        count.now.set(now + 1);
        Ok(())
    }

    fn leave(&self, count: &Count) {
        count.now.set(count.now.get().saturating_sub(1));
        self.say(count, false);
    }

    /// A limit is used up from the first refusal until something leaves.
    fn say(&self, count: &Count, open: bool) {
        if count.open.replace(open) != open {
            self.dialer.metrics().breaker(self.id, count.cause, open);
        }
    }
}

/// So many of this many, but not fewer than a few.
fn share(percent: u8, of: u32) -> u32 {
    let share = u64::from(of) * u64::from(percent) / 100;
    u32::try_from(share).unwrap_or(u32::MAX).max(MIN_BUDGET)
}

impl Count {
    fn usage(&self, limit: u32) -> Usage {
        Usage { now: self.now.get(), limit: (limit != u32::MAX).then_some(limit), refused: self.refused.get() }
    }
}

impl Busy for Gate {
    fn end(&self) {
        self.leave(&self.requests);
    }
}

impl Drop for Gate {
    /// Nothing is limited that is not there any more.
    fn drop(&mut self) {
        self.closed();
        [&self.requests, &self.pending, &self.retries].into_iter().for_each(|count| self.say(count, false));
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.leave(&self.0.pending);
    }
}

impl Drop for Repeating {
    fn drop(&mut self) {
        self.0.leave(&self.0.retries);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::drain::Drain;
    use crate::telemetry::metrics::Registry;

    fn gate() -> Rc<Gate> {
        let metrics = Rc::new(Registry::default().metrics());
        let dialer = Rc::new(Dialer::new(Rc::new(RefCell::new(None)), metrics, Drain::default()));
        Rc::new(Gate::new(NameId::UNKNOWN, &dialer))
    }

    #[test]
    fn the_last_that_fits_is_let_in_and_the_next_is_not() {
        let (gate, limits) = (gate(), Limits { requests: 2, pending: 1, ..Limits::NONE });
        let trails = [Trail::default(), Trail::default(), Trail::default()];
        assert!(gate.admit(&limits, &trails[0]).is_ok());
        assert!(gate.admit(&limits, &trails[1]).is_ok());
        assert!(!gate.requests.open.get());
        assert!(gate.admit(&limits, &trails[2]).is_err_and(|fault| fault.reason == Reason::LimitReached));
        assert!(gate.requests.open.get());
        trails[0].end();
        assert!(!gate.requests.open.get());
        assert!(gate.admit(&limits, &trails[2]).is_ok());
        drop(trails);
        assert_eq!((gate.requests.now.get(), gate.requests.refused.get()), (0, 1));

        let waiting = gate.wait(&limits).expect("the first");
        assert!(gate.wait(&limits).is_err());
        drop(waiting);
        assert!(gate.wait(&limits).is_ok());
    }

    #[test]
    fn a_budget_is_a_share_of_what_is_in_flight_but_not_less_than_a_few() {
        for (percent, live, allowed) in [(20, 0, 3), (20, 15, 3), (20, 20, 4), (20, 100, 20), (100, 5, 5), (0, 9, 3)] {
            let gate = gate();
            let trails: Vec<_> = (0..live).map(|_| Trail::default()).collect();
            trails.iter().for_each(|trail| gate.admit(&Limits::NONE, trail).expect("no limit"));
            let repeated: Vec<_> = (0..200).map_while(|_| gate.repeat(&Limits::NONE, Some(percent))).collect();
            assert_eq!(repeated.len(), allowed, "{percent}% of {live}");
            assert!(gate.repeat(&Limits::NONE, None).is_some(), "what is free");
            let limits = Limits { retries: 2, ..Limits::NONE };
            drop(repeated);
            let repeated: Vec<_> = (0..200).map_while(|_| gate.repeat(&limits, None)).collect();
            assert_eq!(repeated.len(), 2, "a limit is for all");
        }
    }
}
