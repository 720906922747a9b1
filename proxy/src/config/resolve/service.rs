//! Services: who they are, where they are, how they are reached.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::super::names::{host, is_label};
use super::super::raw;
use super::super::raw::balance::{Endpoint as Written, EndpointMap, MAX_PRIORITY};
use super::super::raw::policy::Count;
use super::super::reader::{Entries, Field, Spot};
use super::super::word::Word;
use super::super::yaml::clip;
use super::super::{Dns, Endpoint, Endpoints, LinkPolicy, Node, Service, ServiceProtocol, Source};
use super::admission::Side;
use super::balance::{Balanced, Balancing};
use super::{FilterNames, Listener, Resolver, not_label};
use crate::identity::SpiffeId;

/// What is right where a list of endpoints is not.
const ADDRESSES: &str = "a list of addresses such as [10.0.0.4:15006]";

/// Which service has a host already, and at which line.
pub(super) type Hosts = HashMap<String, (String, usize)>;

/// What sections of services refer to.
pub(super) struct Beside<'a> {
    /// This sidecar, if it could be read.
    pub(super) node: Option<&'a Node>,
    /// Positions of filters by name.
    pub(super) filters: &'a FilterNames,
}

impl Resolver<'_> {
    pub(super) fn services(
        &self,
        services: Option<Entries<raw::Service>>,
        beside: &Beside<'_>,
        taken: &mut Hosts,
        listeners: &mut Vec<Listener>,
    ) -> Option<Vec<Service>> {
        let Entries(entries) = services?;
        let services: Vec<Option<Service>> = entries
            .into_iter()
            .map(|(name, field)| {
                let (raw, spot) = field.given()?;
                self.service(name, raw, spot, beside, taken, listeners)
            })
            .collect();
        // In the place of what was read, which took more room.
        let mut services: Vec<Service> = services.into_iter().collect::<Option<_>>()?;
        services.shrink_to_fit();
        share(&mut services);
        Some(services)
    }

    fn service(
        &self,
        name: String,
        raw: raw::Service,
        at: Spot,
        beside: &Beside<'_>,
        taken: &mut Hosts,
        listeners: &mut Vec<Listener>,
    ) -> Option<Service> {
        let raw::Service {
            hosts,
            listen,
            endpoints,
            dns,
            file,
            identity,
            protocol,
            filters,
            link,
            balance,
            panic_threshold,
            zones,
            slow_start,
            affinity,
            health,
            timeouts,
            retries,
            limits,
            rate_limits,
            outliers,
            breaker,
            fault,
        } = raw;
        if !is_label(&name) {
            self.report.wrong_key(at, not_label(&name, "a service name"));
            return None;
        }
        let fault_spot = fault.spot();
        let protocol = protocol.or(Word(ServiceProtocol::Http)).map(|Word(protocol)| protocol);
        let link_spot = link.spot();
        let link = link.or(Word(LinkPolicy::Auto)).map(|Word(link)| link);
        let filters = self.chain(filters, beside.filters);
        let sound = protocol != Some(ServiceProtocol::Tcp) || self.opaque(at, &hosts, &listen, link, link_spot);
        let hosts = self.hosts(&name, at, hosts, taken);
        let listen = match listen {
            Field::Absent => Some(None),
            listen => self.listen(listen, "", at, &name, listeners).map(Some),
        };
        let endpoints = self.place(endpoints, dns, file, at);
        let identity = self.peer_identity(identity, &name, link, beside.node);
        let balancing = Balancing { balance, panic_threshold, zones, slow_start, affinity, health };
        let balanced = self.balanced(balancing, protocol, beside.node);
        let timeouts = self.timeouts(timeouts);
        let (retries, limits, outliers) = (self.retries(retries), self.limits(limits), self.outliers(outliers));
        let breaker = self.breaker(breaker);
        let fault = match (fault_spot, protocol) {
            (Some(spot), Some(ServiceProtocol::Tcp)) => {
                self.report.wrong_key(spot, "opaque TCP has no requests that could be answered; remove it");
                None
            }
            _ => self.fault(fault),
        };
        let (prefix, opaque) = (format!("{name}/"), protocol == Some(ServiceProtocol::Tcp));
        let rate_limits = self.rate_limits(rate_limits, &Side { prefix: &prefix, inbound: false, opaque });
        let (endpoints, link, protocol) = (endpoints?, link?, protocol?);
        if let (LinkPolicy::Plaintext, Some(whom)) = (link, outside(&endpoints)) {
            let message = format!("requests to {whom} cross the network unencrypted, and nobody verifies who answers");
            self.report.warn(at, message);
        }
        if !sound {
            return None;
        }
        let Balanced { balance, panic, prefers_zone, slow_start, affinity, health } = balanced?;
        Some(Service {
            hosts: hosts?,
            listen: listen?,
            protocol,
            filters: filters?,
            endpoints,
            identity: identity?.into(),
            link,
            balance,
            panic,
            prefers_zone,
            slow_start: slow_start.map(Arc::new),
            affinity: affinity.map(Arc::new),
            health: health.map(Arc::new),
            timeouts: timeouts?,
            retries: retries?.map(Arc::new),
            limits: limits?,
            rate_limits: rate_limits?,
            outliers: outliers?.map(Arc::new),
            breaker: breaker?.map(Arc::new),
            fault: fault?.map(Arc::new),
            name,
        })
    }

    /// Whether what is said of an opaque service can be: bytes name no host, and need a link with streams.
    fn opaque(
        &self,
        at: Spot,
        hosts: &Field<Vec<Field<String>>>,
        listen: &Field<Word<SocketAddr>>,
        link: Option<LinkPolicy>,
        link_spot: Option<Spot>,
    ) -> bool {
        let mut sound = true;
        let mut wrong = |spot, message| {
            self.report.wrong_key(spot, message);
            sound = false;
        };
        if listen.is_absent() {
            wrong(at, "opaque TCP names no host; give the service a `listen` of its own such as 127.0.0.1:7001");
        }
        if let Some(spot) = hosts.spot() {
            wrong(spot, "opaque TCP names no host; remove `hosts`, and call the service by its `listen`");
        }
        if let (Some(LinkPolicy::H1), Some(spot)) = (link, link_spot) {
            wrong(spot, "opaque TCP crosses as a stream of HTTP/2 or HTTP/3; write auto, h3, h2 or plaintext");
        }
        sound
    }

    /// The name and the hosts of a service, each once, none of them another service's.
    fn hosts(&self, name: &str, at: Spot, field: Field<Vec<Field<String>>>, taken: &mut Hosts) -> Option<Vec<String>> {
        let (mut own, mut seen) = (Vec::new(), HashSet::new());
        let mut claim = |name_of: String, spot: Spot, is_name: bool| {
            let line = self.report.line(spot);
            let (service, line) = taken.entry(name_of.clone()).or_insert_with(|| (name.to_owned(), line));
            if service != name {
                let message = format!("\"{name_of}\" means service \"{service}\" already (line {line}); use it once");
                if is_name {
                    self.report.wrong_key(spot, message)
                } else {
                    self.report.wrong(spot, message)
                }
                return None;
            }
            if seen.insert(name_of.clone()) {
                own.push(name_of);
            }
            Some(())
        };
        let named = claim(name.to_owned(), at, true);
        let hosts = field.or(Vec::new())?;
        let hosts = self.each(hosts, |text, spot| match host(&text) {
            Ok(host) => claim(host, spot, false),
            Err(why) => self.refuse(spot, format!("\"{}\" {why}", clip(&text))),
        });
        named.and(hosts)?;
        Some(own)
    }

    /// Where a service is: exactly one of three keys says so.
    fn place(
        &self,
        endpoints: Field<Vec<Field<Written>>>,
        dns: Field<raw::Dns>,
        file: Field<String>,
        at: Spot,
    ) -> Option<Endpoints> {
        let given = [
            ("endpoints", !endpoints.is_absent(), endpoints.spot()),
            ("dns", !dns.is_absent(), dns.spot()),
            ("file", !file.is_absent(), file.spot()),
        ];
        let mut given = given.into_iter().filter(|(_, there, _)| *there);
        let Some((first, ..)) = given.next() else {
            let message = format!("`endpoints` is missing; write {ADDRESSES}, or `dns`, or `file`");
            self.report.wrong_key(at, message);
            return None;
        };
        let mut sound = true;
        for (_, _, spot) in given {
            let message = format!("`{first}` says already where the service is; keep one of them");
            self.report.wrong_key(spot.unwrap_or(at), message);
            sound = false;
        }
        let place = match (endpoints, dns, file) {
            (Field::Absent, Field::Absent, file) => {
                let (path, spot) = file.given()?;
                Endpoints::Found(Arc::new(Source::File(self.absolute(&path, spot)?)))
            }
            (Field::Absent, dns, _) => {
                let (dns, spot) = dns.given()?;
                Endpoints::Found(Arc::new(Source::Dns(self.dns(dns, spot)?)))
            }
            (endpoints, ..) => {
                let (endpoints, spot) = endpoints.given()?;
                if endpoints.is_empty() {
                    return self
                        .refuse(spot, format!("a service without endpoints cannot be called; write {ADDRESSES}"));
                }
                Endpoints::Listed(self.addresses(endpoints)?.into())
            }
        };
        sound.then_some(place)
    }

    fn dns(&self, raw: raw::Dns, at: Spot) -> Option<Dns> {
        let raw::Dns { name, port, server } = raw;
        let name = self.required(name, at, "name", "a name such as delta.internal").and_then(|(text, spot)| {
            // A dot at the end says that the name is whole.
            match host(text.strip_suffix('.').unwrap_or(&text)) {
                Ok(name) if name.parse::<IpAddr>().is_ok() || name.starts_with('[') => {
                    self.refuse(spot, format!("\"{}\" is an address; write it under `endpoints`", clip(&text)))
                }
                Ok(name) => Some(if text.ends_with('.') { name + "." } else { name }),
                Err(why) => self.refuse(spot, format!("\"{}\" {why}", clip(&text))),
            }
        });
        let port = self.required(port, at, "port", "the port of its sidecars, such as 15006");
        let server = self.optional(server, None, |Word(address), spot| self.target(address, spot).map(Some));
        Some(Dns { name: name?, port: port?.0.0, server: server? })
    }

    /// Warns of services whose requests come back to this sidecar.
    pub(super) fn circles(&self, services: &[Service], spots: &HashMap<String, Spot>, listeners: &[Listener]) {
        let of_requests = |listener: &&Listener| !matches!(listener.name.as_str(), "inbound" | "admin");
        let by_port: HashMap<u16, &Listener> =
            listeners.iter().filter(of_requests).map(|listener| (listener.address.port(), listener)).collect();
        let own = |endpoint: &Endpoint| {
            let (listener, ip) = (by_port.get(&endpoint.address.port())?, endpoint.address.ip());
            let here = listener.address.ip() == ip || listener.address.ip().is_unspecified() && ip.is_loopback();
            here.then_some((endpoint.address, &listener.name))
        };
        for Service { name, endpoints, .. } in services {
            let Endpoints::Listed(endpoints) = endpoints else { continue };
            if let (Some((address, listener)), Some(spot)) = (endpoints.iter().find_map(own), spots.get(name)) {
                let message = format!("{address} is this sidecar's own listener `{listener}`: its requests come back");
                self.report.warn(*spot, format!("{message}, and go in circles; write where the service is"));
            }
        }
    }

    /// What a file of endpoints says; an empty list is a service that has none now.
    pub(super) fn endpoints_file(&self, raw: raw::EndpointsFile, at: Spot) -> Option<Vec<Endpoint>> {
        let raw::EndpointsFile { endpoints } = raw;
        self.addresses(self.required(endpoints, at, "endpoints", ADDRESSES)?.0)
    }

    /// Endpoints, each once.
    fn addresses(&self, endpoints: Vec<Field<Written>>) -> Option<Vec<Endpoint>> {
        let mut seen = HashSet::new();
        self.each(endpoints, |endpoint, spot| {
            let (endpoint, spot) = match endpoint {
                Written::Plain(address) => (Some(Endpoint::new(address)), spot),
                Written::Map(EndpointMap { address, weight, zone, priority }) => {
                    let weight = weight.or(raw::Weight(1));
                    let zone = self.optional(zone, None, |zone, spot| match zone.is_empty() {
                        true => self.refuse(spot, "not a zone; write one, or remove it"),
                        false => Some(Some(Arc::from(zone))),
                    });
                    let priority = self.optional(priority, 0, |Count(number), spot| match number {
                        0..=MAX_PRIORITY => Some(number as u8),
                        _ => self.refuse(spot, format!("too many levels; write 0 to {MAX_PRIORITY}")),
                    });
                    let (Word(address), spot) =
                        self.required(address, spot, "address", "an address such as 10.0.0.4:15006")?;
                    let endpoint = || Some(Endpoint { address, weight: weight?.0, zone: zone?, priority: priority? });
                    (endpoint(), spot)
                }
            };
            let endpoint = endpoint?;
            let address = self.target(endpoint.address, spot)?;
            if !seen.insert(address) {
                return self.refuse(spot, format!("{address} is in this list already; give it a `weight` instead"));
            }
            Some(endpoint)
        })
    }

    /// Who may answer for a service.
    fn peer_identity(
        &self,
        field: Field<Vec<Field<Word<SpiffeId>>>>,
        name: &str,
        link: Option<LinkPolicy>,
        node: Option<&Node>,
    ) -> Option<Vec<SpiffeId>> {
        let plaintext = link == Some(LinkPolicy::Plaintext);
        match field {
            Field::Bad => None,
            Field::Absent if plaintext => Some(Vec::new()),
            Field::Absent => {
                let node = node?;
                SpiffeId::service(&node.trust_domain, &node.namespace, name).ok().map(|id| vec![id])
            }
            Field::Given(_, spot) if plaintext => {
                self.refuse(spot, "a plaintext link verifies nobody; remove `identity`, or choose another `link`")
            }
            Field::Given(ids, spot) if ids.is_empty() => {
                self.refuse(spot, "nobody could answer; name an identity, or remove `identity` to expect the usual one")
            }
            Field::Given(ids, _) => self.each(ids, |Word(id), _| Some(id)),
        }
    }
}

/// Lets neighbours that say the same have one of it: the services of a mesh are often written by one template.
fn share(services: &mut [Service]) {
    fn one<T: PartialEq>(own: &mut Option<Arc<T>>, before: &Option<Arc<T>>) {
        if own == before {
            own.clone_from(before);
        }
    }
    let mut rest = services;
    while let [before, after @ ..] = rest {
        if let Some(own) = after.first_mut() {
            one(&mut own.slow_start, &before.slow_start);
            one(&mut own.affinity, &before.affinity);
            one(&mut own.health, &before.health);
            one(&mut own.retries, &before.retries);
            one(&mut own.outliers, &before.outliers);
            one(&mut own.breaker, &before.breaker);
            one(&mut own.fault, &before.fault);
        }
        rest = after;
    }
}

/// Whom requests leave this machine for, if they may.
fn outside(endpoints: &Endpoints) -> Option<String> {
    match endpoints {
        Endpoints::Listed(endpoints) => {
            let outside = endpoints.iter().find(|endpoint| !endpoint.address.ip().is_loopback())?;
            Some(outside.address.to_string())
        }
        Endpoints::Found(source) => Some(match &**source {
            Source::Dns(Dns { name, port, .. }) => format!("{name}:{port}"),
            Source::File(path) => format!("the endpoints in {}", path.display()),
        }),
    }
}
