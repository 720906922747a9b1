//! What is noted of a service's decisions, where somebody may ask for it. Nothing here runs for other requests.

use std::time::{Instant, SystemTime};

use super::balance::{Candidates as _, Load};
use super::gate::Usage;
use super::members::Members;
use super::retry::Outcome;
use super::{BreakerReport, Cluster};
use crate::clock;
use crate::config::Retries;
use crate::fault::Fault;
use crate::telemetry::trail::Trail;
use crate::telemetry::why::{BreakerState, Candidate, MAX_SHOWN, NotAgain, Standing, State, Store, What};

impl Cluster {
    /// The endpoint at this place was chosen.
    pub(super) fn chose(&self, chosen: usize, own: &mut Store) -> What {
        let (members, now) = (self.members.borrow(), clock::nanos());
        let count = members.count();
        let among = own.endpoints(|all| {
            all.extend(self.candidate(&members, chosen, now));
            if count > 1 {
                let others = (0..count).filter(|at| *at != chosen).take(MAX_SHOWN - 1);
                all.extend(others.filter_map(|at| self.candidate(&members, at, now)));
            }
        });
        What::Chosen(among, count)
    }

    /// Notes the service as it is, now that a request to it failed.
    pub fn noted(&self, own: &mut Store) -> What {
        let (members, now) = (self.members.borrow(), clock::nanos());
        let gate = self.gate_report();
        let usage = |Usage { now, limit, refused: _ }: Usage| (now, limit);
        own.state(State {
            endpoints: (0..members.count())
                .take(MAX_SHOWN)
                .filter_map(|at| self.candidate(&members, at, now))
                .collect(),
            total: members.count(),
            requests: usage(gate.requests),
            pending: usage(gate.pending),
            retries: usage(gate.retries),
            breaker: self.breaker_report().map(|BreakerReport { state, left, window }| BreakerState {
                state,
                left,
                window: [window.requests, window.failed, window.slow],
            }),
        });
        What::State
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

    /// One endpoint as it is. It does not come into use by that.
    fn candidate(&self, members: &Members, at: usize, now: u64) -> Option<Candidate> {
        let (in_flight, cost, standing) = match members.get(at) {
            Some(endpoint) => {
                let in_flight = endpoint.load.in_flight();
                let ejected = endpoint.health.is_ejected().then(|| endpoint.health.ejected(Instant::now())).flatten();
                let standing = match ejected {
                    Some(ejected) => Standing::Ejected(ejected.cause, ejected.left),
                    None if in_flight >= self.settings.limits.endpoint.requests => Standing::Full,
                    None if endpoint.is_unhealthy() => Standing::Unhealthy,
                    None if endpoint.is_resting(now) => Standing::Unreachable,
                    None if endpoint.load.is_held(now) => Standing::Held,
                    None => Standing::Fine,
                };
                (in_flight, endpoint.load.cost(1.0, now, self.balancer.usual()), standing)
            }
            None => {
                let standing = if members.standing(at, now).fit { Standing::Fine } else { Standing::Unhealthy };
                (0, Load::default().cost(1.0, now, self.balancer.usual()), standing)
            }
        };
        let (address, weight) = (members.address(at)?, members.weight(at));
        Some(Candidate { address, in_flight, weight, score: f64::from(cost) / 1e6, standing })
    }
}

/// A try came to nothing, be it that it was not sent.
pub(super) fn failed(trail: &Trail, fault: &Fault, sent: bool) {
    if trail.is_recorded() {
        trail.note_at(Instant::now(), |own| What::Failed(own.say(fault), sent));
    }
}
