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
mod members;
pub mod outlier;
pub mod pool;
mod probe;
pub mod quantile;
pub mod replay;
mod report;
pub mod retry;
mod send;

use std::cell::{Cell, OnceCell, RefCell};
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
use members::Members;
pub use members::{Place, Places};
use quantile::Quantile;
pub use report::{BreakerReport, ClusterReport};

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
    Mesh(LinkPolicy, Arc<[SpiffeId]>, ServiceProtocol),
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
            policy => Transport::Mesh(policy, Arc::clone(&service.identity), service.protocol),
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

/// A service, or the application itself, as a destination. What a request needs of it is made when the first one needs it.
#[derive(Debug)]
pub struct Cluster {
    name: Arc<str>,
    id: OnceCell<NameId>,
    transport: Transport,
    settings: Settings,
    /// What says where it is, if that can change without a change of the configuration.
    source: Option<Arc<Source>>,
    members: RefCell<Members>,
    balancer: Balancer,
    /// What of a request says where it goes, if something does.
    key: Option<Box<Key>>,
    /// Moves on with every change of an endpoint; the same for the generations that share them.
    changes: Rc<Cell<u64>>,
    dialer: Rc<Dialer>,
    gate: OnceCell<Rc<Gate>>,
    breaker: OnceCell<Rc<Breaker>>,
    /// How long answers take, where hedges go by that.
    quantile: OnceCell<Rc<Quantile>>,
    /// Whether requests in flight are counted: something wants to know how many there are.
    counts: bool,
    /// When an interval of `outliers` was over last.
    swept: Cell<Instant>,
    /// The one of this name that is in use until this one is.
    before: RefCell<Option<Rc<Cluster>>>,
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
    pub slow_start: Option<Arc<SlowStart>>,
    /// Whether clients that come again reach the same endpoint.
    pub affinity: Option<Arc<Affinity>>,
    /// Whether control checks endpoints, and says how they are.
    pub checked: bool,
    /// Bounds in time.
    pub timeouts: Timeouts,
    /// When requests are sent again, if that is said.
    pub retries: Option<Arc<Retries>>,
    /// How much may be asked at once.
    pub limits: Limits,
    /// When endpoints that fail are passed over.
    pub outliers: Option<Arc<Outliers>>,
    /// When all requests are refused for a while.
    pub breaker: Option<Arc<policy::Breaker>>,
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

impl Cluster {
    /// A service of the configuration, with what its source says; `zone` is our own, if it is known. See [`Cluster::new`].
    pub fn service(
        service: &config::Service,
        zone: Option<&Arc<str>>,
        places: &Places,
        before: Option<&Rc<Cluster>>,
        dialer: &Rc<Dialer>,
    ) -> Rc<Self> {
        let config::Service { name, endpoints, balance, timeouts, retries, limits, outliers, breaker, .. } = service;
        let settings = Settings {
            balance: balance.clone(),
            panic: service.panic,
            zone: zone.filter(|_| service.prefers_zone).cloned(),
            slow_start: service.slow_start.clone(),
            affinity: service.affinity.clone(),
            checked: service.health.is_some(),
            timeouts: *timeouts,
            retries: retries.clone(),
            limits: *limits,
            outliers: outliers.clone(),
            breaker: breaker.clone(),
        };
        let (source, place) = match endpoints {
            Endpoints::Listed(endpoints) => (None, Place { endpoints: Arc::clone(endpoints), unknown: None }),
            Endpoints::Found(source) => {
                (Some(source), places.get(&**source).map(|place| (**place).clone()).unwrap_or_default())
            }
        };
        Cluster::new(name, Transport::of(service), source, place, settings, before, dialer)
    }

    /// A destination at this place. `before` is the one of this name in the configuration before: itself if
    /// nothing has changed, else endpoints that are reached in the same way keep their links, and what is known of them.
    pub fn new(
        name: &str,
        transport: Transport,
        source: Option<&Arc<Source>>,
        place: Place,
        settings: Settings,
        before: Option<&Rc<Cluster>>,
        dialer: &Rc<Dialer>,
    ) -> Rc<Self> {
        let before = before.filter(|before| *before.name == *name && before.transport == transport);
        if let Some(same) = before
            && same.settings == settings
            && same.source.as_ref() == source
            && *same.members.borrow().place() == place
        {
            return Rc::clone(same);
        }
        let known = before.map(|before| before.members.borrow());
        let members = Members::new(place, settings.zone.as_ref(), known.as_deref());
        let changes = before.map_or_else(Rc::default, |before| Rc::clone(&before.changes));
        let key = Key::new(name, &settings.balance, settings.affinity.as_deref());
        let namer = key.as_ref().and_then(|key| key.namer()).cloned();
        let token = namer.map(|namer| Box::new(move |id| namer.token(id)) as Box<dyn Fn(u64) -> u64>);
        let rules =
            Rules { policy: settings.balance.clone(), panic: settings.panic, slow_start: settings.slow_start.clone() };
        let cluster = Cluster {
            name: before.map_or_else(|| name.into(), |before| Arc::clone(&before.name)),
            id: OnceCell::new(),
            breaker: OnceCell::new(),
            quantile: OnceCell::new(),
            source: source.cloned(),
            members: RefCell::new(members),
            transport,
            balancer: Balancer::new(rules, Rc::clone(&changes), token),
            key,
            changes,
            counts: settings.retries.is_some() || settings.limits.requests != u32::MAX,
            gate: OnceCell::new(),
            swept: Cell::new(Instant::now()),
            settings,
            dialer: Rc::clone(dialer),
            before: RefCell::new(before.cloned()),
        };
        Rc::new(cluster)
    }

    /// The configuration that it belongs to comes into use.
    pub fn take_over(&self) {
        if let Some(before) = self.before.take() {
            self.adopt(&before);
        }
        if let Some(gate) = self.gate.get()
            && self.breaker.get().is_none_or(|breaker| breaker.is_closed())
        {
            gate.closed();
        }
        if !self.settings.checked && self.members.borrow().uncheck() {
            self.balancer.changed();
        }
    }

    /// Takes over what came into use of the one before, as far as it still means the same.
    fn adopt(&self, before: &Cluster) {
        self.members.borrow().adopt(&before.members.borrow());
        if let Some(gate) = before.gate.get() {
            self.gate.get_or_init(|| Rc::clone(gate));
        }
        if let Some(breaker) =
            before.breaker.get().filter(|known| Some(known.policy()) == self.settings.breaker.as_deref())
        {
            self.breaker.get_or_init(|| Rc::clone(breaker));
        }
        if let Some(quantile) = before.quantile.get().filter(|known| Some(known.per_mille()) == self.per_mille()) {
            self.quantile.get_or_init(|| Rc::clone(quantile));
        }
    }

    /// What counts its requests.
    fn gate(&self) -> &Rc<Gate> {
        self.gate.get_or_init(|| Rc::new(Gate::new(self.id(), &self.dialer)))
    }

    /// Its breaker, if it is to have one.
    fn breaker(&self) -> Option<&Breaker> {
        let policy = self.settings.breaker.as_deref()?;
        Some(self.breaker.get_or_init(|| Rc::new(Breaker::new(*policy, Instant::now()))))
    }

    /// How many thousandths of the answers are waited for before a hedge, if hedges go by that.
    fn per_mille(&self) -> Option<u16> {
        match self.settings.retries.as_ref()?.hedge?.after {
            After::Quantile(per_mille) => Some(per_mille),
            After::Fixed(_) => None,
        }
    }

    /// How long answers take, if hedges go by that.
    fn quantile(&self) -> Option<&Quantile> {
        let per_mille = self.per_mille()?;
        Some(self.quantile.get_or_init(|| Rc::new(Quantile::new(per_mille))))
    }

    /// One of its endpoints, for use.
    fn endpoint(&self, members: &Members, at: usize) -> Option<Rc<Endpoint>> {
        let auto = || Auto::of(&self.transport, self.id(), &self.dialer);
        members.take(at, |address| Endpoint::new(address, &self.changes, auto()))
    }

    /// What active health checks say of one of its endpoints, if it is one.
    pub fn checked(&self, address: SocketAddr, healthy: bool) {
        if self.members.borrow().check(address, healthy) {
            self.balancer.changed();
        }
    }

    /// Whether it chooses by where requests come from: [`Trail::came_from`].
    pub fn wants_source(&self) -> bool {
        self.key.as_ref().is_some_and(|key| key.wants_source())
    }

    /// What says where it is, if that can change.
    pub fn source(&self) -> Option<&Arc<Source>> {
        self.source.as_ref()
    }

    /// Its source says something else. Endpoints that are still there keep their links and load; links of those that are
    /// not end when what they carry has ended.
    pub fn move_to(&self, place: &Place) {
        let moved = Members::new(place.clone(), self.settings.zone.as_ref(), Some(&self.members.borrow()));
        let gone = self.members.replace(moved);
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

    /// Its name in this worker's metrics. Only those that are used have one: there is room for some thousands.
    pub fn id(&self) -> NameId {
        *self.id.get_or_init(|| self.dialer.metrics().name(&self.name))
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
                trail.over(labels::Link::Plaintext, Because::Configured);
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
            trail.over(labels::Link::H1, if upgrade { Because::Upgrade } else { Because::Configured });
            return self.http1(endpoint, Some(identity)).await;
        }
        let mut because = Because::Configured;
        if let Some(auto) = &endpoint.auto
            && carriage != Carriage::Multiplexed
            && let Some(link) = self.chosen(auto, endpoint, identity)
        {
            trail.over(labels::Link::H2, auto.because(labels::Link::H2).unwrap_or(because));
            return Ok(Link::H2(link));
        }
        if policy == LinkPolicy::H3 || policy == LinkPolicy::Auto && self.tries_udp(endpoint, identity) {
            let works = if endpoint.udp.get() == Udp::Works { Because::UdpWorks } else { Because::UdpUnknown };
            let works = endpoint.auto.as_ref().and_then(|auto| auto.because(labels::Link::H3)).unwrap_or(works);
            trail.over(labels::Link::H3, if policy == LinkPolicy::H3 { Because::Configured } else { works });
            // Nearly always there: no clock is read then.
            if let Some(link) = endpoint.h3.ready() {
                endpoint.udp.set(Udp::Works);
                return Ok(Link::H3(link));
            }
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
                    trail.note(|own| What::NoUdp(own.say(&fault)));
                    because = Because::UdpFailed;
                    endpoint.udp_failed(&fault, &self.name);
                }
            }
        } else if let (LinkPolicy::Auto, Udp::Silent(again, _)) = (policy, endpoint.udp.get()) {
            because = Because::UdpSilent(again.saturating_duration_since(Instant::now()));
        }
        if !endpoint.only_http1(Instant::now()) {
            trail.over(labels::Link::H2, because);
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
        trail.over(labels::Link::H1, Because::NothingBetter);
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
        let connect = self.settings.timeouts.connect;
        // Boxed: every request would hold the room of a handshake.
        let opened = match identity {
            Some(identity) => {
                Box::pin(self.dialer.http1_tls(endpoint.address, &self.name, identity, connect, lease)).await
            }
            None => Box::pin(self.dialer.http1(endpoint.address, connect, lease)).await,
        };
        match opened {
            Ok(wire) => Ok(Link::H1 { wire, home, reused: false }),
            // There is no descriptor for another connection. One of those that are open will do, too, once it is free.
            Err(fault) if fault.reason == Reason::Overload => {
                let spare = Box::pin(tokio::time::timeout(connect, self.spare(endpoint))).await;
                let wire = spare.ok().flatten().ok_or(fault)?;
                Ok(Link::H1 { wire, home, reused: true })
            }
            Err(fault) => Err(fault),
        }
    }

    /// Waits for a connection that is kept; none as soon as none is open.
    async fn spare(&self, endpoint: &Endpoint) -> Option<Rc<RefCell<h1::Wire>>> {
        loop {
            let freed = endpoint.h1.freed();
            if let Some(wire) = endpoint.h1.take() {
                return Some(wire);
            }
            if endpoint.h1.open() == 0 {
                return None;
            }
            freed.await;
        }
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
        self.members.borrow().used().for_each(|endpoint| endpoint.reap(idle));
    }

    /// Takes no more requests; links close when what they carry has ended.
    pub fn close(&self) {
        self.members.borrow().used().for_each(|endpoint| endpoint.close());
    }
}

#[cfg(test)]
mod tests;
