//! What is noted of a service's decisions, where somebody may ask for it. Nothing here runs for other requests.

use std::rc::Rc;
use std::time::{Instant, SystemTime};

use super::Cluster;
use super::balance::Candidate as _;
use super::endpoint::Endpoint;
use super::gate::Usage;
use super::retry::Outcome;
use crate::clock;
use crate::config::Retries;
use crate::fault::Fault;
use crate::telemetry::trail::Trail;
use crate::telemetry::why::{BreakerState, Candidate, MAX_SHOWN, NotAgain, Standing, State, What};

impl Cluster {
    /// An endpoint was chosen.
    pub(super) fn chose(&self, chosen: &Rc<Endpoint>) -> What {
        let endpoints = self.endpoints.borrow();
        let others = endpoints.iter().filter(|other| !Rc::ptr_eq(other, chosen)).take(MAX_SHOWN - 1);
        let all = std::iter::once(chosen).chain(others).map(|endpoint| self.candidate(endpoint)).collect();
        What::Chosen(all, 0, endpoints.len())
    }

    /// The service as it is, now that a request to it failed.
    pub fn state(&self) -> What {
        let now = Instant::now();
        let endpoints = self.endpoints.borrow();
        let limits = &self.settings.limits;
        let gate = self.gate.report(limits);
        let usage = |Usage { now, limit, refused: _ }: Usage| (now, limit);
        What::State(Box::new(State {
            endpoints: endpoints.iter().take(MAX_SHOWN).map(|endpoint| self.candidate(endpoint)).collect(),
            total: endpoints.len(),
            requests: usage(gate.requests),
            pending: usage(gate.pending),
            retries: usage(gate.retries),
            breaker: self.breaker.as_ref().map(|breaker| {
                let (state, left) = breaker.state(now);
                let window = breaker.window(now);
                BreakerState { state, left, window: [window.requests, window.failed, window.slow] }
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

    fn candidate(&self, endpoint: &Rc<Endpoint>) -> Candidate {
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
        Candidate { address: endpoint.address, in_flight, weight: endpoint.weight.get(), score, standing }
    }
}

/// A try came to nothing, be it that it was not sent.
pub(super) fn failed(trail: &Trail, fault: &Fault, sent: bool) {
    if trail.is_recorded() {
        trail.note_at(Instant::now(), || What::Failed(fault.to_string().into(), sent));
    }
}
