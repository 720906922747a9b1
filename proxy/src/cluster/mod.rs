//! A service as this worker reaches it: endpoints, the choice among them, and links to them.

mod auto;
pub mod balance;
pub mod breaker;
pub mod choice;
mod dial;
mod endpoint;
mod explain;
mod gate;
mod hedge;
mod key;
pub mod outlier;
pub mod pool;
mod probe;
pub mod quantile;
pub mod replay;
pub mod retry;
mod send;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;

use auto::Auto;
use balance::{Balancer, Rules};
use breaker::Breaker;
pub use dial::Dialer;
pub use endpoint::EndpointReport;
use endpoint::{Endpoint, Udp};
use gate::Gate;
pub use gate::{GateReport, Usage};
use key::Key;
use quantile::Quantile;

use crate::clock;
use crate::config::policy::After;
use crate::config::{
    self, Affinity, Balance, Endpoints, Limits, LinkPolicy, Outliers, Retries, ServiceProtocol, SlowStart, Source,
    Timeouts, policy,
};
use crate::fault::{Fault, Reason, Retry};
use crate::http::client::Link;
use crate::http::h1;
use crate::http::head::{RequestHead, Version};
use crate::identity::SpiffeId;
use crate::telemetry::labels;
use crate::telemetry::labels::NameId;
use crate::telemetry::trail::Trail;
use crate::telemetry::why::{Because, What};

/// With `link: auto`, how long a first request waits for a peer's UDP to answer before it goes over TCP. A handshake
/// within a region takes well under 100 ms; a firewall that drops never answers.
const UDP_PATIENCE: Duration = Duration::from_millis(300);

/// Bytes of a body that are kept where the service says nothing of it: as many as `retries.body` is by default.
const REPLAY_ROOM: u64 = 64 << 10;

/// How a cluster's endpoints are spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Mutual TLS with one of these identities; whether HTTP crosses, or opaque bytes do.
    Mesh(LinkPolicy, Vec<SpiffeId>, ServiceProtocol),
    /// Plain HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    H2c,
    /// Plain HTTP in the version that the request came in.
    AsItCame,
    /// Plain TCP: the bytes of a CONNECT request's tunnel.
    Tcp,
}

impl Transport {
    /// How a service's endpoints are spoken to.
    fn of(service: &config::Service) -> Self {
        match service.link {
            LinkPolicy::Plaintext if service.protocol == ServiceProtocol::Tcp => Transport::Tcp,
            LinkPolicy::Plaintext => Transport::AsItCame,
            policy => Transport::Mesh(policy, service.identity.clone(), service.protocol),
        }
    }
}

/// What a request needs of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carriage {
    /// Nothing; it came in this version.
    Any(Version),
    /// HTTP/1.1: it asks for an upgrade.
    Http1,
    /// HTTP/2 or HTTP/3: it is a CONNECT, whose tunnel ends in each direction for itself.
    Multiplexed,
}

impl Carriage {
    fn of(head: &RequestHead) -> Self {
        match head.method {
            Method::CONNECT => Carriage::Multiplexed,
            _ if head.upgrade.is_some() => Carriage::Http1,
            _ => Carriage::Any(head.version),
        }
    }
}

/// A service, or the application itself, as a destination.
#[derive(Debug)]
pub struct Cluster {
    name: Arc<str>,
    id: NameId,
    transport: Transport,
    settings: Settings,
    /// What says where it is, if that can change without a change of the configuration.
    source: Option<Source>,
    place: RefCell<Place>,
    /// In the order of the place's; shared with the generation before where the address is the same.
    endpoints: RefCell<Vec<Rc<Endpoint>>>,
    balancer: Balancer,
    /// What of a request says where it goes, if something does.
    key: Option<Box<Key>>,
    /// Moves on with every change of an endpoint; the same for the generations that share them.
    changes: Rc<Cell<u64>>,
    dialer: Rc<Dialer>,
    gate: Rc<Gate>,
    breaker: Option<Rc<Breaker>>,
    /// How long answers take, where hedges go by that.
    quantile: Option<Rc<Quantile>>,
    /// Whether requests in flight are counted: something wants to know how many there are.
    counts: bool,
    /// When an interval of `outliers` was over last.
    swept: Cell<Instant>,
}

/// How a destination is dealt with.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// How an endpoint is chosen.
    pub balance: Balance,
    /// With fewer percent of the endpoints fit, all are used.
    pub panic: u8,
    /// Our own zone, if its endpoints are preferred.
    pub zone: Option<Arc<str>>,
    /// How endpoints that are new get their share.
    pub slow_start: Option<SlowStart>,
    /// Whether clients that come again reach the same endpoint.
    pub affinity: Option<Affinity>,
    /// Whether control checks endpoints, and says how they are.
    pub checked: bool,
    /// Bounds in time.
    pub timeouts: Timeouts,
    /// When requests are sent again, if that is said.
    pub retries: Option<Retries>,
    /// How much may be asked at once.
    pub limits: Limits,
    /// When endpoints that fail are passed over.
    pub outliers: Option<Outliers>,
    /// When all requests are refused for a while.
    pub breaker: Option<policy::Breaker>,
}

impl Settings {
    /// Without anything that can be left out.
    pub fn plain(balance: Balance, timeouts: Timeouts) -> Self {
        Settings {
            balance,
            panic: 0,
            zone: None,
            slow_start: None,
            affinity: None,
            checked: false,
            timeouts,
            retries: None,
            limits: Limits::NONE,
            outliers: None,
            breaker: None,
        }
    }
}

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

/// Where a service is: what its source says, or the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Its endpoints, which may be none.
    pub endpoints: Vec<config::Endpoint>,
    /// If there is none because nobody could say where it is: why.
    pub unknown: Option<Arc<str>>,
}

/// What is known of services whose endpoints the configuration does not list.
pub type Places = HashMap<Source, Arc<Place>>;

impl Cluster {
    /// A service of the configuration, with what its source says; `zone` is our own. See [`Cluster::new`].
    pub fn service(
        service: &config::Service,
        zone: &str,
        places: &Places,
        before: Option<&Rc<Cluster>>,
        dialer: &Rc<Dialer>,
    ) -> Rc<Self> {
        let config::Service { name, endpoints, balance, timeouts, retries, limits, outliers, breaker, .. } = service;
        let settings = Settings {
            balance: balance.clone(),
            panic: service.panic,
            zone: Some(zone).filter(|zone| service.prefers_zone && !zone.is_empty()).map(Arc::from),
            slow_start: service.slow_start,
            affinity: service.affinity.clone(),
            checked: service.health.is_some(),
            timeouts: *timeouts,
            retries: retries.clone(),
            limits: *limits,
            outliers: *outliers,
            breaker: *breaker,
        };
        let (source, place) = match endpoints {
            Endpoints::Listed(endpoints) => (None, Place { endpoints: endpoints.clone(), unknown: None }),
            Endpoints::Found(source) => (Some(source), places.get(source).map(|p| (**p).clone()).unwrap_or_default()),
        };
        Cluster::new(name, Transport::of(service), source, place, settings, before, dialer)
    }

    /// A destination at this place. `before` is the one of this name in the configuration before: itself if
    /// nothing has changed, else endpoints that are reached in the same way keep their links, and what is known of them.
    pub fn new(
        name: &str,
        transport: Transport,
        source: Option<&Source>,
        place: Place,
        settings: Settings,
        before: Option<&Rc<Cluster>>,
        dialer: &Rc<Dialer>,
    ) -> Rc<Self> {
        let before = before.filter(|before| *before.name == *name && before.transport == transport);
        if let Some(same) = before
            && same.settings == settings
            && same.source.as_ref() == source
            && *same.place.borrow() == place
        {
            return Rc::clone(same);
        }
        let known = before.map(|before| before.endpoints.borrow());
        let changes = before.map_or_else(Rc::default, |before| Rc::clone(&before.changes));
        let id = dialer.metrics().name(name);
        let auto = || Auto::of(&transport, id, dialer);
        let endpoints =
            endpoint::at(&place.endpoints, known.as_ref().map_or(&[], |known| known.as_slice()), &changes, auto);
        let gate = before.map_or_else(|| Rc::new(Gate::new(id, dialer)), |before| Rc::clone(&before.gate));
        let kept = before.and_then(|before| before.breaker.as_ref());
        let kept = kept.filter(|breaker| Some(breaker.policy()) == settings.breaker.as_ref());
        let breaker = match (kept, settings.breaker) {
            (Some(kept), _) => Some(Rc::clone(kept)),
            (None, policy) => policy.map(|policy| Rc::new(Breaker::new(policy, Instant::now()))),
        };
        let hedge = settings.retries.as_ref().and_then(|retries| retries.hedge);
        let quantile = match hedge.map(|hedge| hedge.after) {
            Some(After::Quantile(per_mille)) => {
                let known = before.and_then(|before| before.quantile.as_ref());
                let known = known.filter(|known| known.per_mille() == per_mille);
                Some(known.map_or_else(|| Rc::new(Quantile::new(per_mille)), Rc::clone))
            }
            Some(After::Fixed(_)) | None => None,
        };
        let key = Key::new(name, &settings.balance, settings.affinity.as_ref());
        let namer = key.as_ref().and_then(|key| key.namer()).cloned();
        let token = namer.map(|namer| Box::new(move |id| namer.token(id)) as Box<dyn Fn(u64) -> u64>);
        let rules = Rules { policy: settings.balance.clone(), panic: settings.panic, slow_start: settings.slow_start };
        Rc::new(Cluster {
            name: name.into(),
            id,
            breaker,
            quantile,
            source: source.cloned(),
            place: RefCell::new(place),
            endpoints: RefCell::new(endpoints),
            transport,
            balancer: Balancer::new(rules, Rc::clone(&changes), token),
            key,
            changes,
            counts: settings.retries.is_some() || settings.limits.requests != u32::MAX,
            gate,
            swept: Cell::new(Instant::now()),
            settings,
            dialer: Rc::clone(dialer),
        })
    }

    /// The configuration that it belongs to comes into use. Requests of the one before see its weights and zones, too.
    pub fn take_over(&self) {
        if self.breaker.as_ref().is_none_or(|breaker| breaker.is_closed()) {
            self.gate.closed();
        }
        let mut other = false;
        for (endpoint, settings) in self.endpoints.borrow().iter().zip(&self.place.borrow().endpoints) {
            let near = self.settings.zone.is_none() || settings.zone == self.settings.zone;
            other |= endpoint.set(settings, near);
            if !self.settings.checked {
                endpoint.check(None);
            }
        }
        if other {
            self.balancer.relist();
        }
    }

    /// What active health checks say of one of its endpoints, if it is one.
    pub fn checked(&self, address: SocketAddr, healthy: bool) {
        if let Some(endpoint) = self.endpoints.borrow().iter().find(|endpoint| endpoint.address == address) {
            endpoint.check(Some(healthy));
        }
    }

    /// Whether it chooses by where requests come from: [`Trail::came_from`].
    pub fn wants_source(&self) -> bool {
        self.key.as_ref().is_some_and(|key| key.wants_source())
    }

    /// What says where it is, if that can change.
    pub fn source(&self) -> Option<&Source> {
        self.source.as_ref()
    }

    /// Its source says something else. Endpoints that are still there keep their links, load and weight, the latter until
    /// [`Cluster::take_over`]; links of those that are not end when what they carry has ended.
    pub fn move_to(&self, place: &Place) {
        let auto = || Auto::of(&self.transport, self.id, &self.dialer);
        let endpoints = endpoint::at(&place.endpoints, &self.endpoints.borrow(), &self.changes, auto);
        let gone = self.endpoints.replace(endpoints);
        *self.place.borrow_mut() = place.clone();
        self.balancer.relist();
        drop(gone);
    }

    /// The service's name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Whether it takes opaque bytes, by CONNECT, and nothing else.
    pub fn is_opaque(&self) -> bool {
        matches!(self.transport, Transport::Tcp | Transport::Mesh(_, _, ServiceProtocol::Tcp))
    }

    /// Its name in this worker's metrics.
    pub fn id(&self) -> NameId {
        self.id
    }

    /// Its bounds.
    pub fn timeouts(&self) -> Timeouts {
        self.settings.timeouts
    }

    /// Bytes of a request's body that are kept for it.
    pub fn replay_room(&self) -> u64 {
        self.settings.retries.as_ref().map_or(REPLAY_ROOM, |retries| retries.body)
    }

    async fn link(&self, endpoint: &Rc<Endpoint>, carriage: Carriage, trail: &Trail) -> Result<Link, Fault> {
        let (policy, identity) = match &self.transport {
            Transport::Mesh(policy, identity, _) => (*policy, identity),
            plain => {
                over(trail, labels::Link::Plaintext, Because::Configured);
                return match (plain, carriage) {
                    (Transport::Tcp, _) => {
                        let wire = Box::pin(self.dialer.tcp(endpoint.address, self.settings.timeouts.connect)).await?;
                        Ok(Link::Tcp(Box::new(wire)))
                    }
                    (Transport::H2c, Carriage::Any(_)) | (Transport::AsItCame, Carriage::Any(Version::Http2)) => {
                        self.h2c(endpoint).await
                    }
                    _ => self.http1(endpoint, None).await,
                };
            }
        };
        if carriage == Carriage::Http1 || policy == LinkPolicy::H1 {
            let upgrade = carriage == Carriage::Http1 && policy != LinkPolicy::H1;
            over(trail, labels::Link::H1, if upgrade { Because::Upgrade } else { Because::Configured });
            return self.http1(endpoint, Some(identity)).await;
        }
        let mut because = Because::Configured;
        if let Some(auto) = &endpoint.auto
            && carriage != Carriage::Multiplexed
            && let Some(link) = self.chosen(auto, endpoint, identity)
        {
            over(trail, labels::Link::H2, auto.because(labels::Link::H2).unwrap_or(because));
            return Ok(Link::H2(link));
        }
        if policy == LinkPolicy::H3 || policy == LinkPolicy::Auto && self.tries_udp(endpoint, identity) {
            let works = if endpoint.udp.get() == Udp::Works { Because::UdpWorks } else { Because::UdpUnknown };
            let works = endpoint.auto.as_ref().and_then(|auto| auto.because(labels::Link::H3)).unwrap_or(works);
            over(trail, labels::Link::H3, if policy == LinkPolicy::H3 { Because::Configured } else { works });
            let connect = self.settings.timeouts.connect;
            let more = || self.may_connect(endpoint);
            let link = endpoint.h3.take(more, || self.dialer.h3(endpoint.address, &self.name, identity, connect));
            let patience = if policy == LinkPolicy::Auto { UDP_PATIENCE.min(connect) } else { connect };
            // The attempt goes on when patience is over: a slow handshake still makes a link for those who come later.
            let link = tokio::time::timeout(patience, link).await.unwrap_or_else(|_| {
                Err(Fault::new(Reason::ConnectionTimeout).detail(format!("no link within {patience:?}")))
            });
            match link {
                Ok(Some(link)) => {
                    endpoint.udp.set(Udp::Works);
                    return Ok(Link::H3(link));
                }
                Ok(None) => {
                    return Err(Fault::new(Reason::ConnectionTerminated)
                        .retry(Retry::Safe)
                        .detail("the link closed at once"));
                }
                // A link that closed at once is one that opened: UDP works.
                Err(fault) if policy == LinkPolicy::H3 || fault.reason == Reason::ConnectionTerminated => {
                    return Err(fault);
                }
                Err(fault) => {
                    trail.note(|| What::NoUdp(fault.to_string().into()));
                    because = Because::UdpFailed;
                    endpoint.udp_failed(&fault, &self.name);
                }
            }
        } else if let (LinkPolicy::Auto, Udp::Silent(again, _)) = (policy, endpoint.udp.get()) {
            because = Because::UdpSilent(again.saturating_duration_since(Instant::now()));
        }
        if !endpoint.only_http1(Instant::now()) {
            over(trail, labels::Link::H2, because);
            let wires = Rc::clone(&endpoint.h1);
            let more = || self.may_connect(endpoint);
            match endpoint
                .h2
                .take(more, || {
                    self.dialer.h2(
                        endpoint.address,
                        &self.name,
                        identity,
                        self.settings.timeouts.connect,
                        Rc::clone(&wires),
                    )
                })
                .await?
            {
                Some(link) => return Ok(Link::H2(link)),
                None => endpoint.has_only_http1(Instant::now()),
            }
        }
        if carriage == Carriage::Multiplexed {
            return Err(Fault::new(Reason::HttpProtocolError)
                .retry(Retry::Safe)
                .detail("the peer speaks HTTP/1.1 only, and opaque TCP crosses on HTTP/2 or HTTP/3"));
        }
        over(trail, labels::Link::H1, Because::NothingBetter);
        self.http1(endpoint, Some(identity)).await
    }

    /// Whether a request should go over UDP to a peer with `link: auto`. A silent peer is asked again in the background.
    fn tries_udp(&self, endpoint: &Rc<Endpoint>, identity: &[SpiffeId]) -> bool {
        let Udp::Silent(again, _) = endpoint.udp.get() else { return true };
        if endpoint.h3.ready().is_some() {
            return true;
        }
        if Instant::now() >= again {
            // Whatever comes of it, no request waits: if a link opens, the next request finds it.
            endpoint.udp_silent();
            endpoint.h3.dialing_in_background(|| {
                self.dialer.h3(endpoint.address, &self.name, identity, self.settings.timeouts.connect)
            });
        }
        false
    }

    async fn http1(&self, endpoint: &Endpoint, identity: Option<&[SpiffeId]>) -> Result<Link, Fault> {
        let home = Rc::clone(&endpoint.h1);
        if let Some(wire) = home.take() {
            return Ok(Link::H1 { wire, home, reused: true });
        }
        if !self.may_connect(endpoint)
            && let Some(wire) = Box::pin(self.free(endpoint)).await
        {
            return Ok(Link::H1 { wire, home, reused: true });
        }
        let lease = home.lease();
        // Boxed: every request would hold the room of a handshake.
        let wire = match identity {
            Some(identity) => {
                let connect = self.settings.timeouts.connect;
                Box::pin(self.dialer.http1_tls(endpoint.address, &self.name, identity, connect, lease)).await?
            }
            None => Box::pin(self.dialer.http1(endpoint.address, self.settings.timeouts.connect, lease)).await?,
        };
        Ok(Link::H1 { wire, home, reused: false })
    }

    /// Waits for a connection that is kept, or (none) for one to be closed in whose place another may be opened.
    async fn free(&self, endpoint: &Endpoint) -> Option<Rc<RefCell<h1::Wire>>> {
        loop {
            let freed = endpoint.h1.freed();
            if let Some(wire) = endpoint.h1.take() {
                return Some(wire);
            }
            if self.may_connect(endpoint) {
                return None;
            }
            freed.await;
        }
    }

    async fn h2c(&self, endpoint: &Endpoint) -> Result<Link, Fault> {
        let link = endpoint
            .h2
            .take(|| self.may_connect(endpoint), || self.dialer.h2c(endpoint.address, self.settings.timeouts.connect))
            .await?;
        link.map(Link::H2).ok_or_else(|| {
            Fault::new(Reason::ConnectionTerminated).retry(Retry::Safe).detail("the link closed at once")
        })
    }

    /// Closes links that are unused for too long. Called now and then.
    pub fn reap(&self) {
        let idle = if self.settings.timeouts.idle.is_zero() { Duration::MAX } else { self.settings.timeouts.idle };
        self.endpoints.borrow().iter().for_each(|endpoint| endpoint.reap(idle));
    }

    /// Takes no more requests; links close when what they carry has ended.
    pub fn close(&self) {
        self.endpoints.borrow().iter().for_each(|endpoint| endpoint.close());
    }

    /// What an operator wants to know.
    pub fn report(&self) -> ClusterReport {
        let limit = self.settings.limits.connections;
        let (all, place) = (self.endpoints.borrow(), self.place.borrow());
        let (used, panics) = self.balancer.in_use(&all, clock::nanos(), &mut self.dialer.chance());
        let zones = place.endpoints.iter().map(|endpoint| endpoint.zone.clone());
        let about = all.iter().zip(zones).zip(used);
        let endpoints: Vec<_> =
            about.map(|((endpoint, zone), used)| endpoint.report(zone, used, self.balancer.usual())).collect();
        let open = endpoints.iter().map(|endpoint| endpoint.connections).sum::<usize>();
        ClusterReport {
            name: Arc::clone(&self.name),
            gate: self.gate.report(&self.settings.limits),
            balance: self.settings.balance.clone(),
            panics,
            breaker: self.breaker.as_ref().map(|breaker| {
                let now = Instant::now();
                let (state, left) = breaker.state(now);
                BreakerReport { state, left, window: breaker.window(now) }
            }),
            connections: Usage { now: open as u32, limit: (limit != u32::MAX).then_some(limit), refused: 0 },
            endpoints,
        }
    }
}

/// This kind of link is to carry a request, because of this.
fn over(trail: &Trail, link: labels::Link, because: Because) {
    trail.over(link);
    trail.note(|| What::Link(link, because));
}

#[cfg(test)]
mod tests;
