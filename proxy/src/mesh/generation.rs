//! One worker's working form of a configuration: clusters, and the filters of each side. What a change replaces.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use super::callout::Services;
use crate::cluster::{Cluster, Dialer, Transport};
use crate::config::{self, AppProtocol, Balance, Config};
use crate::drain::Drain;
use crate::filter::chain::{Chain, Plan};
use crate::filter::machine::Machines;
use crate::telemetry::labels::{Direction, Protocol};

/// What a worker serves with. Exchanges hold the generation that they began with.
pub struct Generation {
    number: u64,
    config: Arc<Config>,
    clusters: Vec<Rc<Cluster>>,
    hosts: HashMap<Box<str>, Rc<Cluster>, foldhash::fast::RandomState>,
    application: Option<(Rc<Cluster>, Protocol)>,
    outbound: Chain,
    inbound: Chain,
    exchanges: Drain,
}

/// A configuration on its way to the workers, with everything in it ready.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Its number, from 1.
    pub number: u64,
    /// The configuration.
    pub config: Arc<Config>,
    /// The filters of both sides, compiled.
    pub filters: Plan,
}

/// Where a request goes.
pub struct Target<'a> {
    /// The service, or the application.
    pub cluster: &'a Rc<Cluster>,
    /// What the application on this hop speaks.
    pub protocol: Protocol,
}

impl Generation {
    /// Builds the worker's form of a configuration. Of the one `before` it takes over what has not changed.
    ///
    /// # Errors
    /// Beside it, why a filter that is new does not run; used all the same, its requests follow the failure policy.
    pub fn new(
        snapshot: &Snapshot,
        before: Option<&Generation>,
        dialer: &Rc<Dialer>,
        machines: &Machines,
    ) -> (Self, Result<(), String>) {
        let Snapshot { number, config, filters } = snapshot;
        let cluster = |service: &config::Service| {
            let known = before.and_then(|before| before.hosts.get(service.name.as_str()));
            Cluster::service(service, known, dialer)
        };
        let clusters: Vec<_> = config.services.iter().map(cluster).collect();
        let hosts = config.services.iter().zip(&clusters);
        let hosts = hosts
            .flat_map(|(service, cluster)| service.hosts.iter().map(|host| (host.as_str().into(), Rc::clone(cluster))))
            .collect();
        let known = before.and_then(Generation::application).map(|(cluster, _)| cluster);
        let application = config.inbound.as_ref().map(|inbound| application(config, inbound, known, dialer));
        if before.is_none() {
            machines.reach(Rc::new(Services::new(&clusters)));
        }
        let (outbound, inbound, ready) = Chain::both(filters, machines, *number);
        let exchanges = Drain::default();
        let config = Arc::clone(config);
        (Generation { number: *number, config, clusters, hosts, application, outbound, inbound, exchanges }, ready)
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
        machines.reach(Rc::new(Services::new(&self.clusters)));
        self.clusters().for_each(|cluster| cluster.take_over());
        self.outbound.used_by(self.number);
        self.inbound.used_by(self.number);
    }

    /// How many places in its chains have a filter: at most so many filters run for it.
    pub fn filters(&self) -> usize {
        self.outbound.len() + self.inbound.len()
    }

    /// The filters of one side.
    pub fn chain(&self, direction: Direction) -> &Chain {
        match direction {
            Direction::Outbound => &self.outbound,
            Direction::Inbound => &self.inbound,
        }
    }

    /// The service with this host name, in any case.
    pub fn by_host(&self, host: &str) -> Option<&Rc<Cluster>> {
        self.hosts.get(host).or_else(|| self.hosts.get(host.to_ascii_lowercase().as_str()))
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
    let endpoint = [config::Endpoint { address: inbound.application, weight: 1 }];
    let name = &config.node.service;
    let cluster = Cluster::new(name, transport, &endpoint, Balance::LeastLoad, inbound.timeouts, before, dialer);
    (cluster, protocol)
}
