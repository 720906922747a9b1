//! One place where a service answers, as this worker uses it: its links, its load, and what is known of it. Until it is
//! used there is nothing to know: see `members.rs`.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::auto::Auto;
use super::balance::{Load, Standing, Usual};
use super::choice::ChoiceReport;
use super::outlier::{Ejected, Health};
use super::pool::Links;
use crate::clock;
use crate::config;
use crate::fault::Fault;
use crate::http::{h1, h2, h3};
use crate::telemetry::trail::Busy;

/// An endpoint that could not be reached is passed over for this long while there are others.
const REST: Duration = Duration::from_secs(1);

/// A peer whose UDP did not answer is tried again after this, in the background, and after twice as long each further time.
const UDP_RETRY: Duration = Duration::from_secs(30);
const UDP_RETRY_MAX: Duration = Duration::from_secs(900);

/// How long a peer that has nothing better than HTTP/1.1 is spoken to in it unasked. Then the next handshake offers
/// HTTP/2 again: whatever is chosen, the request goes over the connection that it made.
const HTTP1_MEMORY: Duration = Duration::from_secs(300);

/// One place where a service answers.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) address: SocketAddr,
    pub(super) load: Load,
    pub(super) h1: Rc<h1::Idle>,
    pub(super) h2: Rc<Links<h2::Link>>,
    pub(super) h3: Rc<Links<h3::Link>>,
    /// The peer had nothing better than HTTP/1.1, as its ALPN said; until when that is believed.
    only_http1: Cell<Option<Instant>>,
    pub(super) udp: Cell<Udp>,
    /// Until when it is passed over because it could not be reached.
    resting: Cell<u64>,
    pub(super) health: Health,
    /// With `link: auto`, what carries the requests to it.
    pub(super) auto: Option<Box<Auto>>,
    /// What active health checks say, if there are some and they have said it.
    checked: Cell<Option<bool>>,
    /// When it began to get requests.
    since: Cell<u64>,
    /// Moved on when something changes that a choice goes by; the same for all endpoints of the service.
    changes: Rc<Cell<u64>>,
}

/// What is known of a peer's UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Udp {
    Unknown,
    Works,
    /// It did not answer; when it is asked again, and how long after that.
    Silent(Instant, Duration),
}

/// One endpoint as this worker sees it.
#[derive(Clone, Debug)]
pub struct EndpointReport {
    /// Where it is.
    pub address: SocketAddr,
    /// Its share.
    pub weight: u32,
    /// Its zone, if that is known.
    pub zone: Option<Arc<str>>,
    /// Its level.
    pub priority: u8,
    /// Whether it gets requests now: it is well, or there are too few others, and its level has some.
    pub used: bool,
    /// What active health checks say of it, if they have said something.
    pub healthy: Option<bool>,
    /// Its latency as balancing sees it: the worst lately, or what is usual if it has not answered.
    pub latency: Duration,
    /// The share of its answers that say that it is overloaded, the recent ones above all.
    pub failing: f32,
    /// Whether it has asked not to be asked now.
    pub held: bool,
    /// The cost of one more request there: of two, the one with less gets it (`least_load`).
    pub cost: Duration,
    /// Requests in flight.
    pub requests: u32,
    /// Unused HTTP/1 connections.
    pub h1_idle: usize,
    /// HTTP/2 links and the requests on them.
    pub h2: (usize, usize),
    /// HTTP/3 links and the requests on them.
    pub h3: (usize, usize),
    /// What is known of its UDP: unknown, works, silent.
    pub udp: &'static str,
    /// Whether it is passed over because it could not be reached.
    pub resting: bool,
    /// Open connections, those in use included.
    pub connections: usize,
    /// Why it is passed over because it failed, if it is.
    pub ejected: Option<Ejected>,
    /// With `link: auto`, what carries the requests to it, and why.
    pub choice: Option<ChoiceReport>,
}

impl Endpoint {
    /// One that was never used. `changes` is its service's, `auto` chooses its links if they are chosen.
    pub(super) fn new(address: SocketAddr, changes: &Rc<Cell<u64>>, auto: Option<Auto>) -> Self {
        Endpoint {
            address,
            load: Load::default(),
            h1: Rc::default(),
            h2: Rc::default(),
            h3: Rc::default(),
            only_http1: Cell::new(None),
            udp: Cell::new(Udp::Unknown),
            resting: Cell::new(0),
            health: Health::default(),
            auto: auto.map(Box::new),
            checked: Cell::new(None),
            since: Cell::new(0),
            changes: Rc::clone(changes),
        }
    }

    /// What was known of it before it is used: since when it could have been, and what active health checks say.
    pub(super) fn begin(&self, since: u64, checked: Option<bool>) {
        self.since.set(since);
        self.checked.set(checked);
    }

    /// Something changed that a choice goes by.
    pub(super) fn changed(&self) {
        self.changes.set(self.changes.get().wrapping_add(1));
    }

    /// It gets requests again.
    pub(super) fn returned(&self) {
        self.since.set(clock::nanos());
        self.changed();
    }

    /// What active health checks say from now on. Whether that is something else than before.
    pub(super) fn check(&self, healthy: Option<bool>) -> bool {
        let before = self.checked.replace(healthy);
        if before == Some(false) && before != healthy {
            self.since.set(clock::nanos());
        }
        before != healthy
    }

    /// Whether it is believed to have nothing better than HTTP/1.1.
    pub(super) fn only_http1(&self, now: Instant) -> bool {
        if self.only_http1.get().is_some_and(|until| now >= until) {
            self.only_http1.set(None);
        }
        self.only_http1.get().is_some()
    }

    /// Its UDP did not answer.
    pub(super) fn udp_failed(&self, fault: &Fault, service: &str) {
        if !matches!(self.udp.get(), Udp::Silent(..)) {
            tracing::info!(service, endpoint = %self.address, %fault, "no HTTP/3 link: using TCP for now");
            self.udp_silent();
        }
    }

    /// It is asked again later, and then later still.
    pub(super) fn udp_silent(&self) {
        let wait = match self.udp.get() {
            Udp::Silent(_, wait) => (wait * 2).min(UDP_RETRY_MAX),
            Udp::Unknown | Udp::Works => UDP_RETRY,
        };
        self.udp.set(Udp::Silent(Instant::now() + wait, wait));
    }

    /// It has shown that it has nothing better than HTTP/1.1.
    pub(super) fn has_only_http1(&self, now: Instant) {
        self.only_http1.set(Some(now + HTTP1_MEMORY));
    }

    /// It could not be reached.
    pub(super) fn rest(&self) {
        let rested = self.is_resting(clock::nanos());
        // Beyond the next tick in any case.
        self.resting.set(clock::nanos().saturating_add((REST + clock::TICK).as_nanos() as u64));
        if !rested {
            self.changed();
        }
    }

    /// Whether active health checks say that it is not well.
    pub(super) fn is_unhealthy(&self) -> bool {
        self.checked.get() == Some(false)
    }

    /// What one more request there would cost: latency, times what else it carries.
    pub(super) fn cost(&self, now: u64, usual: &Usual) -> Duration {
        Duration::from_nanos(self.load.cost(1.0, now, usual) as u64)
    }

    /// Whether it could not be reached a moment ago.
    pub(super) fn is_resting(&self, now: u64) -> bool {
        now < self.resting.get()
    }

    /// Whether nothing keeps requests away from it but how many it has.
    pub(super) fn is_fine(&self, now: u64) -> bool {
        !self.health.is_ejected() && !self.is_unhealthy() && !self.is_resting(now) && !self.load.is_held(now)
    }

    /// Whether it should get requests.
    pub(super) fn standing(&self, now: u64) -> Standing {
        let mut standing = Standing { since: self.since.get(), ..Standing::GOOD };
        if self.is_resting(now) {
            standing.reachable = false;
            standing.until = self.resting.get();
        }
        if self.health.is_ejected() {
            let at = Instant::now();
            standing.fit = self.health.is_usable(at);
            // One that is being tried changes when that is over, and says so.
            if let Some(Ejected { left, .. }) = self.health.ejected(at).filter(|ejected| !ejected.left.is_zero()) {
                standing.until = standing.until.min(now.saturating_add(left.as_nanos() as u64));
            }
        }
        standing.fit &= !self.is_unhealthy();
        standing
    }

    /// Connections to it, those that are being opened included.
    pub(super) fn connections(&self) -> usize {
        self.h1.open() + self.h2.open() + self.h3.open()
    }

    /// Closes links that are unused for longer than this.
    pub(super) fn reap(&self, idle: Duration) {
        self.h1.reap(idle);
        self.h2.reap(idle);
        self.h3.reap(idle);
    }

    /// Takes no more requests; links close when what they carry has ended.
    pub(super) fn close(&self) {
        self.h1.close();
        self.h2.close();
        self.h3.close();
    }

    /// What an operator wants to know of it.
    pub(super) fn report(&self, settings: &config::Endpoint, used: bool, usual: &Usual) -> EndpointReport {
        let now = clock::nanos();
        let config::Endpoint { address, weight, zone, priority } = settings;
        EndpointReport {
            address: *address,
            weight: *weight,
            zone: zone.clone(),
            priority: *priority,
            used,
            healthy: self.checked.get(),
            latency: self.load.latency(now, usual),
            failing: self.load.failing(now),
            held: self.load.is_held(now),
            cost: self.cost(now, usual),
            requests: self.load.in_flight(),
            h1_idle: self.h1.len(),
            h2: self.h2.count(),
            h3: self.h3.count(),
            udp: match self.udp.get() {
                Udp::Unknown => "unknown",
                Udp::Works => "works",
                Udp::Silent(..) => "silent",
            },
            resting: self.is_resting(now),
            connections: self.connections(),
            ejected: self.health.ejected(Instant::now()),
            choice: self.auto.as_ref().map(|auto| auto.choice.report(Instant::now())),
        }
    }
}

impl Busy for Endpoint {
    fn end(&self) {
        self.load.end();
    }

    fn late(&self) {
        self.load.failed(Duration::ZERO, clock::nanos());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_a_peer_has_only_http1_is_forgotten() {
        let endpoint = Endpoint::new(([127, 0, 0, 1], 1).into(), &Rc::default(), None);
        let now = Instant::now();
        assert!(!endpoint.only_http1(now));
        endpoint.has_only_http1(now);
        assert!(endpoint.only_http1(now + HTTP1_MEMORY - Duration::from_nanos(1)));
        assert!(!endpoint.only_http1(now + HTTP1_MEMORY), "asked again");
        assert!(!endpoint.only_http1(now), "until it says so again");
    }
}
