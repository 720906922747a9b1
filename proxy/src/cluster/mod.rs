//! A service as this worker reaches it: endpoints, the choice among them, and links to them.

pub mod balance;
mod dial;
mod endpoint;
pub mod pool;

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;

use balance::Balancer;
pub use dial::Dialer;
pub use endpoint::EndpointReport;
use endpoint::{Endpoint, Udp};

use crate::config::{self, Balance, Endpoints, LinkPolicy, ServiceProtocol, Source, Timeouts};
use crate::fault::{Fault, Reason, Retry};
use crate::http::client::Link;
use crate::http::head::{RequestHead, Version};
use crate::http::{Body, Request, Response, body};
use crate::identity::SpiffeId;
use crate::telemetry::labels;
use crate::telemetry::labels::NameId;
use crate::telemetry::trail::{Busy, Trail};

/// How often a request that provably reached nobody is sent elsewhere. Not a retry in the sense of policy: nothing was tried yet.
const MAX_ATTEMPTS: u16 = 3;

/// With `link: auto`, how long a first request waits for a peer's UDP to answer before it goes over TCP. A handshake
/// within a region takes well under 100 ms; a firewall that drops never answers.
const UDP_PATIENCE: Duration = Duration::from_millis(300);

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
    timeouts: Timeouts,
    /// What says where it is, if that can change without a change of the configuration.
    source: Option<Source>,
    place: RefCell<Place>,
    /// In the order of the place's; shared with the generation before where the address is the same.
    endpoints: RefCell<Vec<Rc<Endpoint>>>,
    balancer: Balancer,
    dialer: Rc<Dialer>,
    started: Instant,
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
    /// A service of the configuration, with what its source says. See [`Cluster::new`].
    pub fn service(
        service: &config::Service,
        places: &Places,
        before: Option<&Rc<Cluster>>,
        dialer: &Rc<Dialer>,
    ) -> Rc<Self> {
        let transport = match service.link {
            LinkPolicy::Plaintext if service.protocol == ServiceProtocol::Tcp => Transport::Tcp,
            LinkPolicy::Plaintext => Transport::AsItCame,
            policy => Transport::Mesh(policy, service.identity.clone(), service.protocol),
        };
        let config::Service { name, endpoints, balance, timeouts, .. } = service;
        let (source, place) = match endpoints {
            Endpoints::Listed(endpoints) => (None, Place { endpoints: endpoints.clone(), unknown: None }),
            Endpoints::Found(source) => (Some(source), places.get(source).map(|p| (**p).clone()).unwrap_or_default()),
        };
        Cluster::new(name, transport, source, place, *balance, *timeouts, before, dialer)
    }

    /// A destination at this place. `before` is the one of this name in the configuration before: itself if
    /// nothing has changed, else endpoints that are reached in the same way keep their links, and what is known of them.
    #[allow(clippy::too_many_arguments, reason = "each is one thing that a destination is made of")]
    pub fn new(
        name: &str,
        transport: Transport,
        source: Option<&Source>,
        place: Place,
        balance: Balance,
        timeouts: Timeouts,
        before: Option<&Rc<Cluster>>,
        dialer: &Rc<Dialer>,
    ) -> Rc<Self> {
        let before = before.filter(|before| *before.name == *name && before.transport == transport);
        if let Some(same) = before
            && same.timeouts == timeouts
            && same.balancer.policy() == balance
            && same.source.as_ref() == source
            && *same.place.borrow() == place
        {
            return Rc::clone(same);
        }
        let known = before.map(|before| before.endpoints.borrow());
        let endpoints = endpoint::at(&place.endpoints, known.as_ref().map_or(&[], |known| known.as_slice()));
        Rc::new(Cluster {
            name: name.into(),
            id: dialer.metrics().name(name),
            source: source.cloned(),
            place: RefCell::new(place),
            endpoints: RefCell::new(endpoints),
            transport,
            timeouts,
            balancer: Balancer::new(balance),
            dialer: Rc::clone(dialer),
            started: before.map_or_else(Instant::now, |before| before.started),
        })
    }

    /// The configuration that it belongs to comes into use. Requests of the one before see its weights, too.
    pub fn take_over(&self) {
        for (endpoint, settings) in self.endpoints.borrow().iter().zip(&self.place.borrow().endpoints) {
            endpoint.weight.set(settings.weight);
        }
    }

    /// What says where it is, if that can change.
    pub fn source(&self) -> Option<&Source> {
        self.source.as_ref()
    }

    /// Its source says something else. Endpoints that are still there keep their links, load and weight, the latter until
    /// [`Cluster::take_over`]; links of those that are not end when what they carry has ended.
    pub fn move_to(&self, place: &Place) {
        let endpoints = endpoint::at(&place.endpoints, &self.endpoints.borrow());
        let gone = self.endpoints.replace(endpoints);
        *self.place.borrow_mut() = place.clone();
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
        self.timeouts
    }

    /// Sends a request and waits for the head of its response. Chooses the endpoint and the link; goes elsewhere as
    /// long as nobody can have seen the request and its body is untouched.
    ///
    /// # Errors
    /// The fault of the last attempt.
    pub async fn send(&self, request: Request, trail: &Trail) -> Result<Response, Fault> {
        let mut request = Some(request);
        let mut tried = Vec::new();
        loop {
            let Some(mut current) = request.take() else {
                return Err(Fault::new(Reason::ProxyInternalError).detail("no request to send"));
            };
            let endpoint = self.pick(&tried)?;
            let carriage = Carriage::of(&current.head);
            trail.attempt(endpoint.address);
            let again = trail.attempts() < MAX_ATTEMPTS;
            let link = match self.link(&endpoint, carriage, trail).await {
                Ok(link) => link,
                Err(fault) => {
                    endpoint.rest();
                    // Nothing was sent: what bounds this is the number of endpoints, not that of attempts.
                    if fault.retry != Retry::Safe
                        || tried.len() + 1 >= self.endpoints.borrow().len().min(usize::from(MAX_ATTEMPTS))
                    {
                        return Err(fault);
                    }
                    tracing::debug!(service = %self.name, endpoint = %endpoint.address, %fault, "trying another endpoint");
                    tried.push(endpoint.address);
                    request = Some(current);
                    continue;
                }
            };
            endpoint.load.start();
            let start = Instant::now();
            trail.carried(Rc::clone(&endpoint) as Rc<dyn Busy>, link.carrier(), start);
            // A body can be sent once; a request without one is kept for the case that the server refuses it unread.
            if again && current.body.is_end() {
                let body = std::mem::replace(&mut current.body, Body::empty(body::Half::Request));
                request = Some(Request { head: current.head.clone(), body, interim: Rc::clone(&current.interim) });
            }
            match link.send(current).await {
                Ok(response) => {
                    endpoint.load.answered(start.elapsed(), self.started.elapsed().as_nanos() as u64);
                    return Ok(response);
                }
                Err(fault) if fault.retry == Retry::Safe && request.is_some() => {
                    tracing::debug!(service = %self.name, endpoint = %endpoint.address, %fault, "sending again what was not processed");
                }
                Err(fault) => return Err(fault),
            }
        }
    }

    fn pick(&self, tried: &[SocketAddr]) -> Result<Rc<Endpoint>, Fault> {
        let endpoints = self.endpoints.borrow();
        let passed = |i: usize| endpoints.get(i).is_none_or(|e| tried.contains(&e.address));
        let picked = self.balancer.pick(&endpoints, passed, &mut self.dialer.chance());
        picked.and_then(|i| endpoints.get(i).map(Rc::clone)).ok_or_else(|| match &self.place.borrow().unknown {
            Some(why) => Fault::new(Reason::DnsError).detail(format!("{} has no endpoint: {why}", self.name)),
            None => Fault::new(Reason::DestinationUnavailable).detail(format!("{} has no endpoint", self.name)),
        })
    }

    async fn link(&self, endpoint: &Rc<Endpoint>, carriage: Carriage, trail: &Trail) -> Result<Link, Fault> {
        let (policy, identity) = match &self.transport {
            Transport::Mesh(policy, identity, _) => (*policy, identity),
            plain => {
                trail.over(labels::Link::Plaintext);
                return match (plain, carriage) {
                    (Transport::Tcp, _) => {
                        let wire = Box::pin(self.dialer.tcp(endpoint.address, self.timeouts.connect)).await?;
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
            trail.over(labels::Link::H1);
            return self.http1(endpoint, Some(identity)).await;
        }
        if policy == LinkPolicy::H3 || policy == LinkPolicy::Auto && self.tries_udp(endpoint, identity) {
            trail.over(labels::Link::H3);
            let connect = self.timeouts.connect;
            let link = endpoint.h3.take(|| self.dialer.h3(endpoint.address, &self.name, identity, connect));
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
                Err(fault) => endpoint.udp_failed(&fault, &self.name),
            }
        }
        if !endpoint.only_http1(Instant::now()) {
            trail.over(labels::Link::H2);
            let wires = Rc::clone(&endpoint.h1);
            match endpoint
                .h2
                .take(|| {
                    self.dialer.h2(endpoint.address, &self.name, identity, self.timeouts.connect, Rc::clone(&wires))
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
        trail.over(labels::Link::H1);
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
                self.dialer.h3(endpoint.address, &self.name, identity, self.timeouts.connect)
            });
        }
        false
    }

    async fn http1(&self, endpoint: &Endpoint, identity: Option<&[SpiffeId]>) -> Result<Link, Fault> {
        let home = Rc::clone(&endpoint.h1);
        if let Some(wire) = home.take() {
            return Ok(Link::H1 { wire, home, reused: true });
        }
        // Boxed: every request would hold the room of a handshake.
        let wire = match identity {
            Some(identity) => {
                Box::pin(self.dialer.http1_tls(endpoint.address, &self.name, identity, self.timeouts.connect)).await?
            }
            None => Box::pin(self.dialer.http1(endpoint.address, self.timeouts.connect)).await?,
        };
        Ok(Link::H1 { wire, home, reused: false })
    }

    async fn h2c(&self, endpoint: &Endpoint) -> Result<Link, Fault> {
        let link = endpoint.h2.take(|| self.dialer.h2c(endpoint.address, self.timeouts.connect)).await?;
        link.map(Link::H2).ok_or_else(|| {
            Fault::new(Reason::ConnectionTerminated).retry(Retry::Safe).detail("the link closed at once")
        })
    }

    /// Closes links that are unused for too long. Called now and then.
    pub fn reap(&self) {
        let idle = if self.timeouts.idle.is_zero() { Duration::MAX } else { self.timeouts.idle };
        self.endpoints.borrow().iter().for_each(|endpoint| endpoint.reap(idle));
    }

    /// Takes no more requests; links close when what they carry has ended.
    pub fn close(&self) {
        self.endpoints.borrow().iter().for_each(|endpoint| endpoint.close());
    }

    /// What an operator wants to know of the endpoints, one by one.
    pub fn report(&self) -> Vec<EndpointReport> {
        self.endpoints.borrow().iter().map(Endpoint::report).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drain::Drain;
    use crate::telemetry::metrics::Registry;

    fn dialer() -> Rc<Dialer> {
        let metrics = Rc::new(Registry::default().metrics());
        Rc::new(Dialer::new(Rc::new(RefCell::new(None)), metrics, Drain::default()))
    }

    fn place(endpoints: &[(u16, u32)]) -> Place {
        let endpoint =
            |&(port, weight): &(u16, u32)| config::Endpoint { address: ([127, 0, 0, 1], port).into(), weight };
        Place { endpoints: endpoints.iter().map(endpoint).collect(), unknown: None }
    }

    const SECOND: Duration = Duration::from_secs(1);
    const TIMEOUTS: Timeouts = Timeouts { connect: SECOND, request: SECOND, idle: SECOND };

    fn cluster(link: LinkPolicy, place: Place, timeouts: Timeouts, before: Option<&Rc<Cluster>>) -> Rc<Cluster> {
        let source = Source::File("/delta.yaml".into());
        let transport = Transport::Mesh(link, Vec::new(), ServiceProtocol::Http);
        let dialer = before.map_or_else(dialer, |before| Rc::clone(&before.dialer));
        Cluster::new("delta", transport, Some(&source), place, Balance::Random, timeouts, before, &dialer)
    }

    fn endpoint(cluster: &Cluster, index: usize) -> Rc<Endpoint> {
        Rc::clone(&cluster.endpoints.borrow()[index])
    }

    #[test]
    fn what_has_not_changed_goes_on() {
        let first = cluster(LinkPolicy::H2, place(&[(1, 1), (2, 1)]), TIMEOUTS, None);
        let same = cluster(LinkPolicy::H2, place(&[(1, 1), (2, 1)]), TIMEOUTS, Some(&first));
        assert!(Rc::ptr_eq(&first, &same));

        let slower = Timeouts { request: 2 * SECOND, ..TIMEOUTS };
        let second = cluster(LinkPolicy::H2, place(&[(3, 1), (2, 5)]), slower, Some(&first));
        assert_eq!(second.timeouts(), slower);
        assert!(Rc::ptr_eq(&endpoint(&first, 1), &endpoint(&second, 1)), "its links");
        assert_eq!(endpoint(&second, 1).weight.get(), 1, "not in use yet");
        second.take_over();
        assert_eq!(endpoint(&second, 1).weight.get(), 5);

        let other = cluster(LinkPolicy::H3, place(&[(2, 5)]), slower, Some(&second));
        assert!(!Rc::ptr_eq(&endpoint(&second, 1), &endpoint(&other, 0)), "reached in another way");
    }

    #[test]
    fn a_place_that_changes_keeps_what_stays() {
        let cluster = cluster(LinkPolicy::H2, place(&[(1, 1), (2, 1)]), TIMEOUTS, None);
        let (gone, stays) = (Rc::downgrade(&endpoint(&cluster, 0)), endpoint(&cluster, 1));
        cluster.move_to(&place(&[(2, 3), (4, 1)]));
        cluster.take_over();
        assert!(gone.upgrade().is_none(), "nothing holds what carries nothing");
        assert!(Rc::ptr_eq(&stays, &endpoint(&cluster, 0)));
        assert_eq!(cluster.report().iter().map(|e| (e.address.port(), e.weight)).collect::<Vec<_>>(), [(2, 3), (4, 1)]);
    }

    #[test]
    fn without_endpoints_the_fault_says_why() {
        let cluster = cluster(LinkPolicy::H2, place(&[]), TIMEOUTS, None);
        assert_eq!(cluster.pick(&[]).expect_err("nowhere").reason, Reason::DestinationUnavailable);
        cluster.move_to(&Place { endpoints: Vec::new(), unknown: Some("no answer yet".into()) });
        let fault = cluster.pick(&[]).expect_err("nowhere");
        assert_eq!(fault.to_string(), "dns_error: delta has no endpoint: no answer yet");
        assert_eq!(fault.retry, Retry::Safe);
    }
}
