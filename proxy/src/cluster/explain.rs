//! What is noted of a service's decisions, where somebody may ask for it. Nothing here runs for other requests.

use std::rc::Rc;
use std::time::{Instant, SystemTime};

use super::balance::Candidates as _;
use super::endpoint::Endpoint;
use super::gate::Usage;
use super::members::Members;
use super::retry::Outcome;
use super::{BreakerReport, Cluster};
use crate::clock;
use crate::config::Retries;
use crate::fault::Fault;
use crate::telemetry::trail::Trail;
use crate::telemetry::why::{BreakerState, Candidate, MAX_SHOWN, NotAgain, Standing, State, What};

impl Cluster {
    /// An endpoint was chosen.
    pub(super) fn chose(&self, chosen: &Rc<Endpoint>) -> What {
        let members = self.members.borrow();
        let is_chosen = |at: &usize| members.get(*at).is_some_and(|endpoint| Rc::ptr_eq(endpoint, chosen));
        let (first, others) = ((0..members.count()).find(is_chosen), (0..members.count()).filter(|at| !is_chosen(at)));
        let all = first.into_iter().chain(others.take(MAX_SHOWN - 1)).filter_map(|at| self.candidate(&members, at));
        What::Chosen(all.collect(), 0, members.count())
    }

    /// The service as it is, now that a request to it failed.
    pub fn state(&self) -> What {
        let members = self.members.borrow();
        let gate = self.gate_report();
        let usage = |Usage { now, limit, refused: _ }: Usage| (now, limit);
        let endpoints = (0..members.count()).take(MAX_SHOWN).filter_map(|at| self.candidate(&members, at));
        What::State(Box::new(State {
            endpoints: endpoints.collect(),
            total: members.count(),
            requests: usage(gate.requests),
            pending: usage(gate.pending),
            retries: usage(gate.retries),
            breaker: self.breaker_report().map(|BreakerReport { state, left, window }| BreakerState {
                state,
                left,
                window: [window.requests, window.failed, window.slow],
            }),
        }))
    }

    /// Why a request that came to nothing is not sent again. `kept` if it was, `whole` if its body was.
    pub(super) fn not_again(
        &self,
        outcome: &Outcome<'_>,
        retries: &Retries,
        repeated: u16,
        [kept, whole, repeatable]: [bool; 3],
    ) -> NotAgain {
        if !kept || repeated >= retries.attempts {
            return NotAgain::Spent;
        }
        if !whole {
            return NotAgain::Body;
        }
        let again = |repeatable: bool| {
            let chance = &mut fastrand::Rng::with_seed(0);
            retries.again(outcome, repeated, || repeatable, SystemTime::now, chance).is_some()
        };
        match (again(repeatable), again(true)) {
            (true, _) => NotAgain::Budget,
            (false, true) => NotAgain::Unsafe,
            (false, false) => NotAgain::Unasked,
        }
    }

    fn candidate(&self, members: &Members, at: usize) -> Option<Candidate> {
        let endpoint = members.show(at, |address| Endpoint::new(address, &self.changes, None))?;
        let (in_flight, now) = (endpoint.load.in_flight(), clock::nanos());
        let ejected = endpoint.health.is_ejected().then(|| endpoint.health.ejected(Instant::now())).flatten();
        let standing = match ejected {
            Some(ejected) => Standing::Ejected(ejected.cause, ejected.left),
            None if in_flight >= self.settings.limits.endpoint.requests => Standing::Full,
            None if endpoint.is_unhealthy() => Standing::Unhealthy,
            None if !endpoint.standing(now).reachable => Standing::Unreachable,
            None if endpoint.load.is_held(now) => Standing::Held,
            None => Standing::Fine,
        };
        let score = endpoint.cost(now, self.balancer.usual()).as_secs_f64() * 1000.0;
        Some(Candidate { address: endpoint.address, in_flight, weight: members.weight(at), score, standing })
    }
}

/// A try came to nothing, be it that it was not sent.
pub(super) fn failed(trail: &Trail, fault: &Fault, sent: bool) {
    if trail.is_recorded() {
        trail.note_at(Instant::now(), || What::Failed(fault.to_string().into(), sent));
    }
}
