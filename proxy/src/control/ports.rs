//! Services' own ports: bound here, one socket per worker, before a worker hears of them.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::config::Config;
use crate::net::listen;
use crate::worker::{Port, Sockets};

/// The ports that are bound now.
#[derive(Debug)]
pub struct Ports {
    workers: usize,
    next: Cell<usize>,
    bound: RefCell<Vec<Bound>>,
}

#[derive(Clone, Debug)]
struct Bound {
    place: usize,
    service: Arc<str>,
    /// As the configuration says; its port may be 0.
    wanted: SocketAddr,
    address: SocketAddr,
}

/// Ports on the way to the workers.
#[derive(Debug)]
pub struct Change {
    /// For each worker what it gets.
    sockets: VecDeque<Vec<Port>>,
    closed: Vec<usize>,
    /// Places that stay, and become another service's.
    moved: Vec<(usize, Arc<str>)>,
    /// The ports that are bound after it.
    bound: Vec<Bound>,
    fresh: Vec<usize>,
}

impl Ports {
    /// None so far, for so many workers.
    pub fn new(workers: usize) -> Self {
        Ports { workers, next: Cell::new(Sockets::SERVICES), bound: RefCell::default() }
    }

    /// Binds what a configuration has and the one before had not.
    ///
    /// # Errors
    /// The address that cannot be had, and why. What was bound for it is closed again.
    pub fn change(&self, config: &Config) -> Result<Change, String> {
        let before = self.bound.borrow();
        let (mut bound, mut fresh, mut moved) = (Vec::new(), Vec::new(), Vec::new());
        let mut sockets: VecDeque<Vec<Port>> = (0..self.workers).map(|_| Vec::new()).collect();
        for service in &config.services {
            let Some(wanted) = service.listen else { continue };
            if let Some(same) = before.iter().find(|port| *port.service == *service.name && port.wanted == wanted) {
                bound.push(same.clone());
                continue;
            }
            // The service has another name, or has changed ports with another. What is ours cannot be bound once more, and
            // whoever connects meanwhile must not be refused.
            if let Some(ours) = before.iter().find(|port| port.wanted == wanted && wanted.port() != 0) {
                let service = Arc::<str>::from(service.name.as_str());
                moved.push((ours.place, Arc::clone(&service)));
                bound.push(Bound { service, ..ours.clone() });
                continue;
            }
            let cannot = |error: io::Error| {
                let same =
                    |port: &&Bound| error.kind() == io::ErrorKind::AddrInUse && port.wanted.port() == wanted.port();
                let right = || listen::right(&error).to_owned();
                let why = before.iter().find(same).map_or_else(right, |Bound { service, wanted, .. }| {
                    format!("; it is open as {wanted} of {service} until the change: choose another port, or restart")
                });
                format!("cannot listen on {wanted} (services.{}): {error}{why}", service.name)
            };
            let listeners = listen::tcp(wanted, self.workers).map_err(cannot)?;
            let address = listeners.first().map_or(Ok(wanted), |first| first.local_addr()).map_err(cannot)?;
            let (place, service) = (self.next.replace(self.next.get() + 1), Arc::<str>::from(service.name.as_str()));
            for (ports, listener) in sockets.iter_mut().zip(listeners) {
                ports.push(Port { place, service: Arc::clone(&service), listener });
            }
            fresh.push(place);
            bound.push(Bound { place, service, wanted, address });
        }
        let stays = |port: &&Bound| bound.iter().any(|other| other.place == port.place);
        let closed = before.iter().filter(|port| !stays(port)).map(|port| port.place).collect();
        Ok(Change { sockets, closed, moved, bound, fresh })
    }

    /// The change has happened.
    pub fn keep(&self, change: Change) {
        let moved = change.moved.iter().map(|(place, _)| place);
        let news: Vec<usize> = change.fresh.iter().chain(moved).copied().collect();
        for port in change.bound.iter().filter(|port| news.contains(&port.place)) {
            tracing::info!(listener = &*port.service, address = %port.address, "listening");
        }
        *self.bound.borrow_mut() = change.bound;
    }

    /// What is bound, by service.
    pub fn addresses(&self) -> Vec<(String, SocketAddr)> {
        self.bound.borrow().iter().map(|port| (port.service.to_string(), port.address)).collect()
    }
}

impl Change {
    /// What the next worker gets, in the order of the workers.
    pub fn next_worker(&mut self) -> Vec<Port> {
        self.sockets.pop_front().unwrap_or_default()
    }

    /// The places that close.
    pub fn closed(&self) -> Vec<usize> {
        self.closed.clone()
    }

    /// The places that become another service's.
    pub fn moved(&self) -> Vec<(usize, Arc<str>)> {
        self.moved.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config;

    fn config(services: &[(&str, SocketAddr)]) -> Config {
        let mut text = "node: {service: alpha}\noutbound: {}\nservices:\n".to_owned();
        for (name, listen) in services {
            text += &format!("  {name}: {{endpoints: [127.0.0.1:9], link: plaintext, listen: \"{listen}\"}}\n");
        }
        let host = config::resolve::Host { variable: &|_| None, exists: &|_| true, cores: 1 };
        config::parse(&text, "test", Path::new("/"), &host).expect("a config").0
    }

    /// An address that no other test has.
    fn own(port: u16) -> SocketAddr {
        let [_, _, third, fourth] = std::process::id().to_be_bytes();
        SocketAddr::from(([127, 63, third, fourth], port))
    }

    #[test]
    fn only_what_changes_is_bound_and_closed() {
        let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        let ports = Ports::new(2);
        let mut first = ports.change(&config(&[("a", any)])).expect("bound");
        let (one, two) = (first.next_worker(), first.next_worker());
        assert_eq!((one.len(), two.len(), first.closed()), (1, 1, vec![]));
        let address = one[0].listener.local_addr().expect("an address");
        assert_eq!((one[0].place, two[0].place), (Sockets::SERVICES, Sockets::SERVICES));
        assert_eq!(address, two[0].listener.local_addr().expect("an address"));
        ports.keep(first);
        assert_eq!(ports.addresses(), [("a".to_owned(), address)]);

        let mut second = ports.change(&config(&[("a", any), ("b", any)])).expect("bound");
        assert_eq!((second.next_worker().len(), second.closed()), (1, vec![]), "a stays as it is");
        // Never taken over: the next change begins where this one began.
        drop(second);
        let third = ports.change(&config(&[("b", any)])).expect("bound");
        assert_eq!(third.closed(), [Sockets::SERVICES]);
        let (one, two) = (own(7001), own(7002));
        let mut fourth = ports.change(&config(&[("a", one), ("b", two)])).expect("bound");
        let places: Vec<_> = fourth.next_worker().iter().map(|port| port.place).collect();
        ports.keep(fourth);
        let mut fifth = ports.change(&config(&[("a", two), ("c", one)])).expect("what is ours is not bound again");
        let moved = [(places[1], "a".into()), (places[0], "c".into())];
        assert_eq!((fifth.next_worker().len(), fifth.closed(), fifth.moved()), (0, vec![], moved.to_vec()));
        ports.keep(fifth);
        assert_eq!(ports.addresses(), [("a".to_owned(), two), ("c".to_owned(), one)]);
        let _ours = std::net::TcpListener::bind(two).expect("as a worker has it");
        let wider = ports.change(&config(&[("a", SocketAddr::from(([0, 0, 0, 0], two.port())))])).map(drop);
        assert!(
            wider.as_ref().is_err_and(|why| why.contains(&format!("; it is open as {two} of a until"))),
            "{wider:?}"
        );
        let other = std::net::TcpListener::bind(any).expect("a port");
        let address = other.local_addr().expect("an address");
        let taken = ports.change(&config(&[("b", address)])).map(drop);
        assert!(taken.is_err_and(|why| why.starts_with(&format!("cannot listen on {address} (services.b): "))));
    }
}
