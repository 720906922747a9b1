//! What is noted of a service's decisions, where somebody may ask for it. Nothing here runs for other requests.

use std::time::{Duration, Instant, SystemTime};

use super::balance::{Candidates as _, Load, Looked};
use super::endpoint::Endpoint;
use super::gate::Usage;
use super::members::Members;
use super::retry::{self, Outcome};
use super::{BreakerReport, Cluster};
use crate::clock;
use crate::config::{Balance, Retries};
use crate::fault::Fault;
use crate::http::head::ResponseHead;
use crate::telemetry::trail::Trail;
use crate::telemetry::why::{
    Answer, BreakerState, Candidate, Chosen, MAX_SHOWN, NotAgain, Standing, State, Store, What,
};

impl Cluster {
    /// The endpoint at this place was chosen. Where one is not as it should be, or was passed over, all are noted;
    /// else those that were compared.
    pub(super) fn chose(&self, at: usize, endpoint: &Endpoint, looked: Looked, trail: &Trail) {
        let (members, now) = (self.members.borrow(), clock::nanos());
        let total = members.count();
        if looked.passes || !endpoint.is_fine(now) {
            return trail.note(|own| self.chose_among(at, &members, now, own));
        }
        let score = looked.compared.map(|(score, ..)| self.score(score));
        let rival = looked.compared.and_then(|(_, at, score)| {
            let (in_flight, weight) = (members.in_flight(at), members.weight(at));
            let score = Some(self.score(score));
            Some(Candidate { address: members.address(at)?, in_flight, weight, score, standing: Standing::Fine })
        });
        let (in_flight, weight) = (endpoint.load.in_flight(), members.weight(at));
        trail.chose(Chosen { in_flight, weight, total: total as u32, score }, rival);
    }

    #[cold]
    fn chose_among(&self, chosen: usize, members: &Members, now: u64, own: &mut Store) -> What {
        let among = own.endpoints(|all| {
            all.extend(self.candidate(members, chosen, now));
            let others = (0..members.count()).filter(|at| *at != chosen).take(MAX_SHOWN - 1);
            all.extend(others.filter_map(|at| self.candidate(members, at, now)));
        });
        What::Chosen(among, members.count())
    }

    /// A cost as it is shown: a latency in milliseconds, or requests, where these are what is compared.
    fn score(&self, cost: f32) -> f32 {
        if self.balancer.rules().policy == Balance::LeastRequest { cost } else { cost / 1e6 }
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
        let load = Load::default();
        let (load, standing) = match members.get(at) {
            Some(endpoint) => {
                let ejected = endpoint.health.is_ejected().then(|| endpoint.health.ejected(Instant::now())).flatten();
                let standing = match ejected {
                    Some(ejected) => Standing::Ejected(ejected.cause, ejected.left),
                    None if endpoint.load.in_flight() >= self.settings.limits.endpoint.requests => Standing::Full,
                    None if endpoint.is_unhealthy() => Standing::Unhealthy,
                    None if endpoint.is_resting(now) => Standing::Unreachable,
                    None if endpoint.load.is_held(now) => Standing::Held,
                    None => Standing::Fine,
                };
                (&endpoint.load, standing)
            }
            None => {
                let standing = if members.standing(at, now).fit { Standing::Fine } else { Standing::Unhealthy };
                (&load, standing)
            }
        };
        let cost = match self.balancer.rules().policy {
            Balance::LeastRequest => load.queue(1.0),
            _ => load.cost(1.0, now, self.balancer.usual()),
        };
        let (address, in_flight, weight) = (members.address(at)?, load.in_flight(), members.weight(at));
        Some(Candidate { address, in_flight, weight, score: Some(self.score(cost)), standing })
    }
}

/// A try was answered, after this time.
#[inline]
pub(super) fn answered(trail: &Trail, head: &ResponseHead, took: Duration) {
    if trail.is_recorded() {
        let code = if trail.is_recorded_grpc() { retry::grpc_status(head) } else { None };
        trail.noted(Answer { status: head.status.as_u16(), code, took });
    }
}

/// Whether what came of a try is one that one may ask about: of what is not gRPC no code is looked for.
#[inline]
pub(super) fn is_failure(trail: &Trail, outcome: &Outcome<'_>) -> bool {
    match outcome {
        Outcome::Answered(head) if !trail.is_recorded_grpc() => head.status.is_server_error(),
        outcome => outcome.is_failure(),
    }
}

/// A try came to nothing, be it that it was not sent.
pub(super) fn failed(trail: &Trail, fault: &Fault, sent: bool) {
    if trail.is_recorded() {
        trail.note_at(Instant::now(), |own| What::Failed(own.say(fault), sent));
    }
}
