//! What an operator sees of a destination. Looking brings nothing of it into use.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::auto::Auto;
use super::breaker;
use super::endpoint::{Endpoint, EndpointReport};
use super::gate::{GateReport, Usage};
use super::{Cluster, balance::Candidates as _};
use crate::clock;
use crate::config::Balance;

/// A breaker as it is now.
#[derive(Clone, Copy, Debug)]
pub struct BreakerReport {
    /// `closed`, `open` or `half_open`.
    pub state: &'static str,
    /// How long it stays open yet.
    pub left: Duration,
    /// The requests that it goes by.
    pub window: breaker::Count,
}

impl BreakerReport {
    /// Of a service that was never used.
    const UNUSED: BreakerReport = BreakerReport {
        state: "closed",
        left: Duration::ZERO,
        window: breaker::Count { requests: 0, failed: 0, slow: 0 },
    };
}

/// What an operator wants to know of a destination.
#[derive(Clone, Debug)]
pub struct ClusterReport {
    /// Its name.
    pub name: Arc<str>,
    /// How much of it is in use.
    pub gate: GateReport,
    /// Its breaker, if it has one.
    pub breaker: Option<BreakerReport>,
    /// How an endpoint is chosen.
    pub balance: Balance,
    /// Whether endpoints are used that are not well, for want of others.
    pub panics: bool,
    /// Open connections.
    pub connections: Usage,
    /// Its endpoints, one by one.
    pub endpoints: Vec<EndpointReport>,
}

impl Cluster {
    /// What an operator wants to know.
    pub fn report(&self) -> ClusterReport {
        let limit = self.settings.limits.connections;
        let members = self.members.borrow();
        let (used, panics) = self.balancer.in_use(&*members, clock::nanos(), &mut self.dialer.chance());
        let endpoint = |(at, used): (usize, bool)| {
            let unused = |address| Endpoint::new(address, &self.changes, None);
            let report =
                members.show(at, unused)?.report(members.place().endpoints.get(at)?, used, self.balancer.usual());
            let choice = report.choice.or_else(|| Auto::unused(&self.transport));
            Some(EndpointReport { choice, ..report })
        };
        let endpoints: Vec<_> = (0..members.count()).zip(used).filter_map(endpoint).collect();
        let open = endpoints.iter().map(|endpoint| endpoint.connections).sum::<usize>();
        ClusterReport {
            name: Arc::clone(&self.name),
            gate: self.gate_report(),
            balance: self.settings.balance.clone(),
            panics,
            breaker: self.breaker_report(),
            connections: Usage { now: open as u32, limit: (limit != u32::MAX).then_some(limit), refused: 0 },
            endpoints,
        }
    }

    /// How much of it is in use.
    pub(super) fn gate_report(&self) -> GateReport {
        let limits = &self.settings.limits;
        self.gate.get().map_or_else(|| GateReport::unused(limits), |gate| gate.report(limits))
    }

    /// Its breaker as it is now, if it has one.
    pub(super) fn breaker_report(&self) -> Option<BreakerReport> {
        self.settings.breaker.as_ref()?;
        let Some(breaker) = self.breaker.get() else { return Some(BreakerReport::UNUSED) };
        let now = Instant::now();
        let (state, left) = breaker.state(now);
        Some(BreakerReport { state, left, window: breaker.window(now) })
    }
}
