//! Active health checks: made here, once for all workers, which are told what comes of them.
//!
//! A check by each worker would cost every endpoint so many requests more, and keep so many links; what it would see
//! more is whether that worker's own links work, which its requests show anyway. An endpoint that was never checked
//! is used; its first check decides alone, later ones as often as is said.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

use super::discovery::Discovery;
use crate::clock;
use crate::cluster::{Cluster, Dialer, Place};
use crate::config::balance::HealthCheck;
use crate::config::{Config, Endpoints, LinkPolicy, Service, Source};
use crate::drain::Drain;
use crate::telemetry::labels::{Check, Checked, NameId};
use crate::telemetry::metrics::Metrics;
use crate::tls::TlsSettings;
use crate::worker::{Order, Peers, quic_client};

/// The first check of an endpoint comes within this time, by chance: not all at once.
const FIRST: Duration = Duration::from_millis(500);

/// Makes the checks.
pub struct Health {
    peers: Arc<Peers>,
    metrics: Rc<Metrics>,
    discovery: Rc<Discovery>,
    tls: Rc<RefCell<Option<Arc<TlsSettings>>>>,
    dialer: Rc<Dialer>,
    services: RefCell<HashMap<String, Rc<Followed>>>,
    ticks: Cell<bool>,
}

/// A service with checks.
struct Followed {
    service: Service,
    check: Arc<HealthCheck>,
    name: Arc<str>,
    id: NameId,
    endpoints: RefCell<HashMap<SocketAddr, Watched>>,
}

/// An endpoint that is checked.
struct Watched {
    state: Rc<State>,
    task: AbortHandle,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What is known of an endpoint.
#[derive(Debug, Default)]
struct State {
    judge: Judge,
    checked: Cell<Option<Instant>>,
    error: RefCell<Option<String>>,
}

/// Decides by checks in a row.
#[derive(Debug, Default)]
struct Judge {
    healthy: Cell<Option<bool>>,
    /// Checks in a row that said the opposite.
    against: Cell<u32>,
}

impl Judge {
    /// A check has ended so. Whether that changes what is thought of the endpoint.
    fn note(&self, well: bool, check: &HealthCheck) -> bool {
        let needed = match self.healthy.get() {
            None => 1,
            Some(healthy) if healthy == well => {
                self.against.set(0);
                return false;
            }
            Some(true) => check.unhealthy,
            Some(false) => check.healthy,
        };
        self.against.set(self.against.get().saturating_add(1));
        if self.against.get() < needed {
            return false;
        }
        self.healthy.set(Some(well));
        self.against.set(0);
        true
    }
}

/// What is shown of an endpoint that is checked.
#[derive(Clone, Debug)]
pub struct HealthReport {
    /// Where it is.
    pub address: SocketAddr,
    /// Whether it is well, once that is known.
    pub healthy: Option<bool>,
    /// How long ago it was last checked.
    pub age: Option<Duration>,
    /// What was wrong then.
    pub error: Option<String>,
}

impl Health {
    /// Checks nothing yet.
    pub fn new(
        peers: Arc<Peers>,
        metrics: Rc<Metrics>,
        discovery: Rc<Discovery>,
        tls: Option<Arc<TlsSettings>>,
    ) -> Rc<Self> {
        let tls = Rc::new(RefCell::new(tls));
        let dialer = Rc::new(Dialer::new(Rc::clone(&tls), Rc::clone(&metrics), Drain::default()));
        Rc::new(Health {
            peers,
            metrics,
            discovery,
            tls,
            dialer,
            services: RefCell::default(),
            ticks: Cell::new(false),
        })
    }

    /// Uses this identity for links that are opened from now on.
    pub fn identity(&self, settings: Arc<TlsSettings>) {
        *self.tls.borrow_mut() = Some(settings);
    }

    /// Checks the services of this configuration, which workers have just begun to use, and no others. What is known
    /// of those that have not changed stays, and is told again: some of their endpoints may be new to the workers.
    pub fn follow(self: &Rc<Self>, config: &Config) {
        let before = self.services.take();
        let mut now = HashMap::new();
        for service in &config.services {
            let Some(check) = &service.health else { continue };
            let same = before.get(&service.name).filter(|known| {
                let Service { link, identity, protocol, health, .. } = &known.service;
                (link, identity, protocol) == (&service.link, &service.identity, &service.protocol)
                    && health == &service.health
                    && known.service.endpoints == service.endpoints
            });
            let followed = same.cloned().unwrap_or_else(|| {
                Rc::new(Followed {
                    service: service.clone(),
                    check: Arc::clone(check),
                    name: service.name.as_str().into(),
                    id: self.metrics.name(&service.name),
                    endpoints: RefCell::default(),
                })
            });
            now.insert(service.name.clone(), followed);
        }
        for (name, followed) in &before {
            let successor = now.get(name);
            if !successor.is_some_and(|next| Rc::ptr_eq(next, followed)) {
                // What checks them holds what it checks, and would go on for ever.
                followed.endpoints.take();
            }
            if successor.is_none() {
                self.count(followed.id, [0; 3]);
            }
        }
        *self.services.borrow_mut() = now;
        let services: Vec<_> = self.services.borrow().values().map(Rc::clone).collect();
        for followed in services {
            self.settle(&followed);
            for (address, watched) in followed.endpoints.borrow().iter() {
                if let Some(healthy) = watched.state.judge.healthy.get() {
                    self.tell(&followed, *address, healthy);
                }
            }
        }
    }

    /// Follows services that move, for as long as the process runs.
    pub async fn run(self: Rc<Self>) {
        loop {
            let moved: HashSet<Source> = self.discovery.moved().await;
            let is_moved = |followed: &Rc<Followed>| match &followed.service.endpoints {
                Endpoints::Found(source) => moved.contains(&**source),
                Endpoints::Listed(_) => false,
            };
            let services: Vec<_> = self.services.borrow().values().filter(|f| is_moved(f)).map(Rc::clone).collect();
            services.iter().for_each(|followed| self.settle(followed));
        }
    }

    /// Begins to check endpoints that have come, and forgets those that have gone.
    fn settle(self: &Rc<Self>, followed: &Rc<Followed>) {
        let addresses: HashSet<SocketAddr> = match &followed.service.endpoints {
            Endpoints::Listed(endpoints) => endpoints.iter().map(|endpoint| endpoint.address).collect(),
            Endpoints::Found(source) => {
                let place: Option<Arc<Place>> = self.discovery.place(source);
                place.iter().flat_map(|place| place.endpoints.iter()).map(|endpoint| endpoint.address).collect()
            }
        };
        if !addresses.is_empty() && !self.ticks.replace(true) {
            // Deadlines of links are those of a thread's own clock.
            tokio::task::spawn_local(clock::run());
        }
        if matches!(followed.service.link, LinkPolicy::Auto | LinkPolicy::H3)
            && let Err(error) = self.dialer.enable_udp(quic_client)
        {
            tracing::warn!(%error, "health checks have no UDP socket: none of them takes HTTP/3");
        }
        let mut endpoints = followed.endpoints.borrow_mut();
        endpoints.retain(|address, _| addresses.contains(address));
        for address in addresses {
            endpoints.entry(address).or_insert_with(|| {
                let state = Rc::new(State::default());
                let watch = Rc::clone(self).watch(Rc::clone(followed), address, Rc::clone(&state));
                Watched { state, task: tokio::task::spawn_local(watch).abort_handle() }
            });
        }
        drop(endpoints);
        self.recount(followed);
    }

    /// Checks one endpoint until that is aborted.
    async fn watch(self: Rc<Self>, followed: Rc<Followed>, address: SocketAddr, state: Rc<State>) {
        let check = &followed.check;
        sleep(FIRST.min(check.interval).mul_f64(fastrand::f64())).await;
        let mut cluster: Option<Rc<Cluster>> = None;
        loop {
            let alone = || Cluster::alone(&followed.service, address, check.timeout, &self.dialer);
            let asked = Rc::clone(cluster.get_or_insert_with(alone));
            let (outcome, result) = match timeout(check.timeout, Box::pin(asked.probe(&check.probe))).await {
                Ok(Ok(())) => (Ok(()), Check::Success),
                Ok(Err(why)) => (Err(why), Check::Failure),
                Err(_) => (Err(format!("no answer within {:?}", check.timeout)), Check::Timeout),
            };
            if outcome.is_err() {
                // The next one shows whether another link can be had, too.
                if let Some(cluster) = cluster.take() {
                    cluster.close();
                }
            }
            self.metrics.health_check(followed.id, result);
            self.note(&followed, address, &state, outcome);
            sleep(check.interval.mul_f64(1.0 + fastrand::f64() / 10.0)).await;
        }
    }

    fn note(&self, followed: &Followed, address: SocketAddr, state: &State, outcome: Result<(), String>) {
        state.checked.set(Some(Instant::now()));
        let well = outcome.is_ok();
        let first = state.judge.healthy.get().is_none();
        let changed = state.judge.note(well, &followed.check);
        let error = outcome.err();
        if changed {
            let service = &followed.name;
            match (&error, first) {
                (None, true) => tracing::debug!(%service, endpoint = %address, "an endpoint is healthy"),
                (None, false) => tracing::info!(%service, endpoint = %address, "an endpoint is healthy again"),
                (Some(error), _) => tracing::warn!(%service, endpoint = %address, error, "an endpoint is unhealthy"),
            }
            self.tell(followed, address, well);
            self.recount(followed);
        }
        *state.error.borrow_mut() = error;
    }

    fn tell(&self, followed: &Followed, address: SocketAddr, healthy: bool) {
        self.peers.tell(|| Order::Checked { service: Arc::clone(&followed.name), address, healthy });
    }

    fn recount(&self, followed: &Followed) {
        let endpoints = followed.endpoints.borrow();
        let count = |is| endpoints.values().filter(|watched| watched.state.judge.healthy.get() == is).count();
        self.count(followed.id, [count(Some(true)), count(Some(false)), count(None)]);
    }

    fn count(&self, id: NameId, [healthy, unhealthy, unknown]: [usize; 3]) {
        for (state, count) in
            [(Checked::Healthy, healthy), (Checked::Unhealthy, unhealthy), (Checked::Unknown, unknown)]
        {
            self.metrics.endpoints_checked(id, state, count);
        }
    }

    /// Services that are checked, with their endpoints.
    pub fn report(&self) -> Vec<(String, Vec<HealthReport>)> {
        let endpoint = |(address, watched): (&SocketAddr, &Watched)| HealthReport {
            address: *address,
            healthy: watched.state.judge.healthy.get(),
            age: watched.state.checked.get().map(|checked| checked.elapsed()),
            error: watched.state.error.borrow().clone(),
        };
        let service = |(name, followed): (&String, &Rc<Followed>)| {
            let mut all: Vec<_> = followed.endpoints.borrow().iter().map(endpoint).collect();
            all.sort_unstable_by_key(|report| report.address);
            (name.clone(), all)
        };
        self.services.borrow().iter().map(service).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::balance::Probe;

    #[test]
    fn the_first_check_decides_and_then_so_many_in_a_row() {
        let second = Duration::from_secs(1);
        let check = HealthCheck { probe: Probe::Tcp, interval: second, timeout: second, unhealthy: 3, healthy: 2 };
        let judge = Judge::default();
        let mut told = Vec::new();
        for (at, well) in
            [true, false, false, true, false, false, false, false, true, false, true, true].iter().enumerate()
        {
            if judge.note(*well, &check) {
                told.push((at, judge.healthy.get()));
            }
        }
        assert_eq!(told, [(0, Some(true)), (6, Some(false)), (11, Some(true))]);
        let judge = Judge::default();
        assert!(judge.note(false, &check) && judge.healthy.get() == Some(false));
    }
}
