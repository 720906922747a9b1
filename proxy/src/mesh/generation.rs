//! One worker's working form of a configuration: clusters, and the filters of each side.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use super::callout::Services;
use crate::cluster::{Cluster, Dialer, Transport};
use crate::config::{self, AppProtocol, Balance, Config};
use crate::filter::callout::Upstreams;
use crate::filter::chain::{Chain, Plan};
use crate::filter::exchange::Ledger;
use crate::telemetry::labels::{Direction, Protocol};

/// What a worker serves with. Exchanges hold the generation that they began with.
pub struct Generation {
    config: Arc<Config>,
    clusters: Vec<Rc<Cluster>>,
    hosts: HashMap<Box<str>, Rc<Cluster>, foldhash::fast::RandomState>,
    application: Option<(Rc<Cluster>, Protocol)>,
    outbound: Chain,
    inbound: Chain,
}

/// Where a request goes.
pub struct Target<'a> {
    /// The service, or the application.
    pub cluster: &'a Rc<Cluster>,
    /// What the application on this hop speaks.
    pub protocol: Protocol,
}

impl Generation {
    /// Builds the worker's form of a configuration.
    pub fn new(config: Arc<Config>, dialer: &Rc<Dialer>, filters: &Plan, ledger: &Ledger) -> Self {
        let clusters: Vec<_> =
            config.services.iter().map(|service| Rc::new(Cluster::service(service, Rc::clone(dialer)))).collect();
        let hosts = config.services.iter().zip(&clusters);
        let hosts = hosts
            .flat_map(|(service, cluster)| service.hosts.iter().map(|host| (host.as_str().into(), Rc::clone(cluster))))
            .collect();
        let application = config.inbound.as_ref().map(|inbound| application(&config, inbound, dialer));
        let upstreams: Rc<dyn Upstreams> = Rc::new(Services::new(&clusters));
        let (outbound, inbound) = Chain::both(filters, &config.node, &upstreams, ledger);
        Generation { config, clusters, hosts, application, outbound, inbound }
    }

    /// The filters of one side.
    pub fn chain(&self, direction: Direction) -> &Chain {
        match direction {
            Direction::Outbound => &self.outbound,
            Direction::Inbound => &self.inbound,
        }
    }

    /// What the worker has to run for the filters beside requests.
    pub fn timers(&self) -> impl Iterator<Item = impl Future<Output = ()> + use<>> {
        self.outbound.timers().into_iter().chain(self.inbound.timers())
    }

    /// The service with this host name, in any case.
    pub fn by_host(&self, host: &str) -> Option<&Rc<Cluster>> {
        self.hosts.get(host).or_else(|| self.hosts.get(host.to_ascii_lowercase().as_str()))
    }

    /// The service at this place of the configuration.
    pub fn by_index(&self, index: usize) -> Option<&Rc<Cluster>> {
        self.clusters.get(index)
    }

    /// The application, and what it speaks.
    pub fn application(&self) -> Option<(&Rc<Cluster>, Protocol)> {
        self.application.as_ref().map(|(cluster, protocol)| (cluster, *protocol))
    }

    /// The settings of the mesh's side.
    pub fn inbound(&self) -> Option<&config::Inbound> {
        self.config.inbound.as_ref()
    }

    /// All clusters: the services, then the application.
    pub fn clusters(&self) -> impl Iterator<Item = &Rc<Cluster>> {
        self.clusters.iter().chain(self.application.iter().map(|(cluster, _)| cluster))
    }
}

fn application(config: &Config, inbound: &config::Inbound, dialer: &Rc<Dialer>) -> (Rc<Cluster>, Protocol) {
    let (transport, protocol) = match inbound.protocol {
        AppProtocol::Http1 => (Transport::Http1, Protocol::Http1),
        AppProtocol::H2c => (Transport::H2c, Protocol::H2),
    };
    let endpoint = config::Endpoint { address: inbound.application, weight: 1 };
    let cluster = Cluster::new(
        &config.node.service,
        transport,
        &[endpoint],
        Balance::LeastLoad,
        inbound.timeouts,
        Rc::clone(dialer),
    );
    (Rc::new(cluster), protocol)
}
