//! One worker's working form of a configuration: services, and filters. What a change replaces.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::callout::Services;
use crate::cluster::{Cluster, Dialer, Place, Places, Settings, Transport};
use crate::config::fault::Faults;
use crate::config::{self, AppProtocol, Balance, Config, RateLimit, Rule, Source, Timeouts};
use crate::drain::Drain;
use crate::filter::callout::Upstreams;
use crate::filter::chain::{Chain, Filters, Plan};
use crate::filter::machine::Machines;
use crate::policy::access::Access;
use crate::policy::concurrency::Adaptive;
use crate::policy::rate::{self, Limiters, RateLimits};
use crate::policy::shed::{Load, Shed};
use crate::route::{self, Table};
use crate::telemetry::labels::{Direction, Protocol};
use crate::telemetry::metrics::FilterMetrics;

/// What a worker serves with. Exchanges hold the generation that they began with.
pub struct Generation {
    number: u64,
    config: Arc<Config>,
    services: Vec<Destination>,
    /// Their places by host.
    hosts: HashMap<Box<str>, usize, foldhash::fast::RandomState>,
    /// By what their hosts end with: only those that routes name so.
    ends: HashMap<Box<str>, usize, foldhash::fast::RandomState>,
    /// Services whose endpoints change without a change of the configuration.
    found: HashMap<Arc<Source>, Vec<Rc<Cluster>>>,
    application: Option<(Rc<Cluster>, Protocol)>,
    access: Option<Access>,
    /// How often the application may be asked.
    rate_limits: Option<RateLimits>,
    /// How much the application is asked at a time, if that is limited.
    concurrency: Option<Rc<Adaptive>>,
    /// When requests are refused, whatever they are for.
    shed: Option<Rc<Shed>>,
    /// All that workers count together.
    limiters: Limiters,
    outbound: Chain,
    inbound: Chain,
    filters: Filters,
    exchanges: Drain,
}

/// A service as requests find it.
pub struct Destination {
    /// Its endpoints.
    pub cluster: Rc<Cluster>,
    /// The filters of requests to it, after those of the listener and of the rule.
    pub filters: Chain,
    /// Its routes, if it has some.
    pub routes: Option<Routes>,
    /// Faults on purpose for its requests.
    pub fault: Option<Arc<Faults>>,
    /// How often it may be asked, if that is limited.
    pub limits: Option<RateLimits>,
}

/// The routes of a service.
pub struct Routes {
    /// Its rules.
    pub table: Arc<Table>,
    /// What this worker has of each.
    pub rules: Vec<Own>,
}

/// What a worker has of a rule for itself.
pub struct Own {
    /// Its name: workers that count references to the same one would wait for each other.
    pub name: Arc<str>,
    /// Its filters.
    pub filters: Chain,
    /// How often it may be followed, if that is limited.
    pub limits: Option<RateLimits>,
}

/// A configuration on its way to the workers, with everything in it ready.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Its number, from 1.
    pub number: u64,
    /// The configuration.
    pub config: Arc<Config>,
    /// Its filters, compiled.
    pub filters: Plan,
    /// Where its services are, as far as it does not say so itself.
    places: Places,
    /// Its routes, compiled, in the order of the configuration.
    routes: Vec<Arc<Table>>,
    /// Its rate limits, full.
    limiters: Limiters,
    /// What the process carries.
    load: Arc<Load>,
}

impl Snapshot {
    /// Compiles the routes: here, not in the workers, which have requests to serve.
    pub fn new(number: u64, config: Arc<Config>, filters: Plan, places: Places, load: &Arc<Load>) -> Self {
        let routes = config.routes.iter().map(|route| Arc::new(Table::new(&route.rules))).collect();
        let limiters = rate::limiters(config.rate_limits());
        Snapshot { number, config, filters, places, routes, limiters, load: Arc::clone(load) }
    }
}

/// Where a request goes.
pub struct Target<'a> {
    /// The service, or the application.
    pub cluster: &'a Rc<Cluster>,
    /// The filters that are left to pass: those of the rule, those of the service.
    pub filters: [&'a Chain; 2],
    /// The rule that led there.
    pub rule: Option<&'a Rule>,
    /// What the application on this hop speaks.
    pub protocol: Protocol,
    /// Faults on purpose.
    pub fault: Option<&'a Faults>,
}

impl Target<'_> {
    /// The bounds of requests that go there.
    pub fn timeouts(&self) -> Timeouts {
        let timeouts = self.cluster.timeouts();
        match self.rule.and_then(|rule| rule.timeout) {
            Some(request) => Timeouts { request, ..timeouts },
            None => timeouts,
        }
    }

    /// The bound of each try, if the rule says one.
    pub fn per_try(&self) -> Option<Duration> {
        self.rule.and_then(|rule| rule.per_try_timeout)
    }
}

impl Generation {
    /// Builds the worker's form of a configuration, whose filters are to be [started](Generation::start). Of the one `before` it
    /// takes over what has not changed.
    pub fn new(snapshot: &Snapshot, before: Option<&Generation>, dialer: &Rc<Dialer>, machines: &Machines) -> Self {
        let Snapshot { number, config, filters, places, routes, limiters, load } = snapshot;
        let limiters = rate::kept(limiters, before.map(|before| &before.limiters));
        let limits = |limits: &[RateLimit]| RateLimits::new(limits, &limiters, dialer.metrics());
        let zone = Some(&*config.node.locality.zone).filter(|zone| !zone.is_empty()).map(Arc::from);
        let cluster = |service: &config::Service| {
            let known = before.and_then(|before| before.by_host(&service.name)).map(|known| &known.cluster);
            Cluster::service(service, zone.as_ref(), places, known, dialer)
        };
        let clusters: Vec<_> = config.services.iter().map(cluster).collect();
        let filters = Filters::new(filters, machines, *number);
        let destination = |(service, cluster): (&config::Service, Rc<Cluster>)| Destination {
            cluster,
            filters: filters.chain(&service.filters),
            routes: None,
            fault: service.fault.clone(),
            limits: limits(&service.rate_limits),
        };
        let mut services: Vec<_> = config.services.iter().zip(clusters).map(destination).collect();
        let (mut hosts, mut ends) = (HashMap::default(), HashMap::default());
        for (at, service) in config.services.iter().enumerate() {
            hosts.extend(service.hosts.iter().map(|host| (host.as_str().into(), at)));
        }
        let mut found = HashMap::<Arc<Source>, Vec<Rc<Cluster>>>::new();
        for Destination { cluster, .. } in &services {
            if let Some(source) = cluster.source() {
                found.entry(Arc::clone(source)).or_default().push(Rc::clone(cluster));
            }
        }
        for (route, table) in config.routes.iter().zip(routes) {
            let Some(service) = services.get_mut(route.service) else { continue };
            let own = |rule: &Rule| Own {
                name: Arc::from(&*rule.name),
                filters: filters.chain(&rule.filters),
                limits: limits(&rule.rate_limits),
            };
            let rules = route.rules.iter().map(own).collect();
            service.routes = Some(Routes { table: Arc::clone(table), rules });
            for host in &route.hosts {
                match host.strip_prefix('*') {
                    Some(end) => ends.insert(end.into(), route.service),
                    None => hosts.insert(host.as_str().into(), route.service),
                };
            }
        }
        let known = before.and_then(Generation::application).map(|(cluster, _)| cluster);
        let application = config.inbound.as_ref().map(|inbound| application(config, inbound, known, dialer));
        let access = config.inbound.as_ref().and_then(|inbound| Access::new(&inbound.access, dialer.metrics()));
        Generation {
            number: *number,
            outbound: filters.chain(config.outbound.as_ref().map_or(&[], |outbound| &outbound.filters)),
            inbound: filters.chain(config.inbound.as_ref().map_or(&[], |inbound| &inbound.filters)),
            config: Arc::clone(config),
            services,
            hosts,
            ends,
            found,
            application,
            access,
            rate_limits: config.inbound.as_ref().and_then(|inbound| limits(&inbound.rate_limits)),
            concurrency: concurrency(config, before, dialer),
            shed: config.overload.as_ref().map(|overload| Shed::new(overload, load, dialer.metrics())),
            limiters,
            filters,
            exchanges: Drain::default(),
        }
    }

    /// Starts its filters that are new.
    ///
    /// # Errors
    /// Why some do not run; they are used all the same, and their requests follow the failure policy.
    pub async fn start(&self, machines: &Machines) -> Result<(), String> {
        if self.filters.count() == 0 {
            return Ok(());
        }
        let services = Services::new(self.services.iter().map(|service| &service.cluster));
        self.filters.start(machines, &(Rc::new(services) as Rc<dyn Upstreams>), self.number).await
    }

    /// Its number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The exchanges that hold it.
    pub fn exchanges(&self) -> &Drain {
        &self.exchanges
    }

    /// It comes into use.
    pub fn take_over(&self, machines: &Machines) {
        // Filters call its services, where there are some.
        if machines.alive().next().is_some() {
            let services = Services::new(self.services.iter().map(|service| &service.cluster));
            machines.reach(Rc::new(services), self.exchanges.clone());
        }
        self.clusters().for_each(|cluster| cluster.take_over());
        self.filters.used_by(self.number);
    }

    /// A source says where its services are from now on; `used` if this generation is in use.
    pub fn moved(&self, source: &Source, place: &Place, used: bool) {
        for cluster in self.found.get(source).into_iter().flatten() {
            cluster.move_to(place);
            if used {
                cluster.take_over();
            }
        }
    }

    /// What active health checks say of an endpoint of a service.
    pub fn checked(&self, service: &str, address: SocketAddr, healthy: bool) {
        if let Some(destination) = self.by_host(service) {
            destination.cluster.checked(address, healthy);
        }
    }

    /// How many filters run for it.
    pub fn filters(&self) -> usize {
        self.filters.count()
    }

    /// Its filters that have no module, by name, with what is counted of them.
    pub fn missing(&self) -> impl Iterator<Item = (Arc<str>, FilterMetrics)> {
        self.filters.missing()
    }

    /// The filters of one side's listener.
    pub fn chain(&self, direction: Direction) -> &Chain {
        match direction {
            Direction::Outbound => &self.outbound,
            Direction::Inbound => &self.inbound,
        }
    }

    /// The service with this host name, in any case.
    pub fn by_host(&self, host: &str) -> Option<&Destination> {
        let exact = |host: &str| self.hosts.get(host).copied();
        let at = exact(host).or_else(|| {
            let host = host.to_ascii_lowercase();
            exact(&host).or_else(|| self.by_end(&host))
        });
        self.services.get(at?)
    }

    /// By the longest end of a host.
    fn by_end(&self, host: &str) -> Option<usize> {
        if self.ends.is_empty() {
            return None;
        }
        route::ends(host).find_map(|end| self.ends.get(end).copied())
    }

    /// The service at this place in the configuration.
    pub fn service(&self, place: usize) -> Option<&Destination> {
        self.services.get(place)
    }

    /// The application, and what it speaks.
    pub fn application(&self) -> Option<(&Rc<Cluster>, Protocol)> {
        self.application.as_ref().map(|(cluster, protocol)| (cluster, *protocol))
    }

    /// The chain without a filter.
    pub fn no_filters(&self) -> &Chain {
        self.filters.none()
    }

    /// Which requests can be explained afterwards.
    pub fn why(&self) -> Option<&config::Why> {
        self.config.why.as_ref()
    }

    /// The settings of the mesh's side.
    pub fn inbound(&self) -> Option<&config::Inbound> {
        self.config.inbound.as_ref()
    }

    /// Who may ask what of the application, if that is said.
    pub fn access(&self) -> Option<&Access> {
        self.access.as_ref()
    }

    /// How often the application may be asked, if that is limited.
    pub fn rate_limits(&self) -> Option<&RateLimits> {
        self.rate_limits.as_ref()
    }

    /// How much the application is asked at a time, if that is limited.
    pub fn concurrency(&self) -> Option<&Rc<Adaptive>> {
        self.concurrency.as_ref()
    }

    /// When requests are refused, whatever they are for, if that is said.
    pub fn shed(&self) -> Option<&Rc<Shed>> {
        self.shed.as_ref()
    }

    /// All clusters: the services, then the application.
    pub fn clusters(&self) -> impl Iterator<Item = &Rc<Cluster>> {
        self.services.iter().map(|service| &service.cluster).chain(self.application.iter().map(|(cluster, _)| cluster))
    }
}

/// The adaptive limit: that of the generation before, if it has the same bounds.
fn concurrency(config: &Config, before: Option<&Generation>, dialer: &Rc<Dialer>) -> Option<Rc<Adaptive>> {
    let bounds = config.inbound.as_ref()?.concurrency?;
    let known = before.and_then(Generation::concurrency).filter(|known| known.settings() == bounds);
    let new = || Rc::new(Adaptive::new(bounds, dialer.metrics().concurrency_limit(), Instant::now()));
    Some(known.map_or_else(new, Rc::clone))
}

fn application(
    config: &Config,
    inbound: &config::Inbound,
    before: Option<&Rc<Cluster>>,
    dialer: &Rc<Dialer>,
) -> (Rc<Cluster>, Protocol) {
    let (transport, protocol) = match inbound.protocol {
        AppProtocol::Http1 => (Transport::Http1, Protocol::Http1),
        AppProtocol::H2c => (Transport::H2c, Protocol::H2),
        AppProtocol::Tcp => (Transport::Tcp, Protocol::Tcp),
    };
    let place = Place { endpoints: [config::Endpoint::new(inbound.application)].into(), unknown: None };
    let name = &config.node.service;
    let settings = Settings::plain(Balance::LeastLoad, inbound.timeouts);
    let cluster = Cluster::new(name, transport, None, place, settings, before, dialer);
    (cluster, protocol)
}
