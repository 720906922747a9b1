//! From one generation to the next: made ready beside the one in use, taken over by all workers or by none.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::order::{Next, Port, Report};
use super::serve::{self, Entrance};
use super::{Worker, quic_client};
use crate::cluster::{Dialer, Place};
use crate::config::{Config, LinkPolicy, Source};
use crate::drain::{Drain, Phase};
use crate::filter::machine::Machines;
use crate::mesh::generation::{Generation, Snapshot};
use crate::telemetry::labels::Direction;

/// What a worker makes its generations with, and those that it has.
pub(super) struct Generations {
    dialer: Rc<Dialer>,
    machines: Machines,
    current: RefCell<Rc<Generation>>,
    next: RefCell<Option<Ready>>,
    /// Earlier ones whose last exchange has not ended.
    ending: RefCell<Vec<(u64, Drain)>>,
}

/// Ports that nobody accepts from yet.
type Listeners = Vec<(Rc<Entrance>, tokio::net::TcpListener)>;

/// A generation that can be taken over at once.
struct Ready {
    generation: Rc<Generation>,
    listeners: Listeners,
    closed: Vec<usize>,
    moved: Vec<(usize, Arc<str>)>,
}

impl Generations {
    /// Begins with a configuration. A filter that does not run leaves its requests to the failure policy: there is no
    /// generation before that could go on.
    ///
    /// # Errors
    /// If the system gives no sockets.
    pub(super) async fn new(snapshot: &Snapshot, dialer: Rc<Dialer>, machines: Machines) -> io::Result<Self> {
        enable_udp(&snapshot.config, &dialer)?;
        let generation = Generation::new(snapshot, None, &dialer, &machines);
        let _ = generation.start(&machines).await;
        generation.take_over(&machines);
        let (next, ending) = (RefCell::default(), RefCell::default());
        Ok(Generations { dialer, machines, current: RefCell::new(Rc::new(generation)), next, ending })
    }

    /// The generation in use.
    pub(super) fn current(&self) -> Rc<Generation> {
        Rc::clone(&self.current.borrow())
    }

    /// Closes what is unused for too long, and forgets what has ended. Called now and then.
    pub(super) fn sweep(&self) {
        self.current().clusters().for_each(|cluster| {
            cluster.reap();
            cluster.choose_links();
        });
        self.ending.borrow_mut().retain(|(_, exchanges)| exchanges.guards() > 0);
        self.machines.sweep();
    }

    /// Services have moved: for requests from now on, and for a generation that is ready.
    pub(super) fn moved(&self, source: &Source, place: &Place) {
        self.current().moved(source, place, true);
        if let Some(next) = self.next.borrow().as_ref() {
            next.generation.moved(source, place, false);
        }
    }

    /// Active health checks say this of an endpoint: for requests from now on, and for a generation that is ready.
    pub(super) fn checked(&self, service: &str, address: SocketAddr, healthy: bool) {
        self.current().checked(service, address, healthy);
        if let Some(next) = self.next.borrow().as_ref() {
            next.generation.checked(service, address, healthy);
        }
    }

    pub(super) fn report(&self, clusters: bool) -> Report {
        let current = self.current();
        let in_use = (current.number(), current.exchanges().guards());
        let ending = self.ending.borrow();
        let ending = ending.iter().map(|(number, exchanges)| (*number, exchanges.guards()));
        Report {
            clusters: current.clusters().filter(|_| clusters).map(|cluster| cluster.report()).collect(),
            filters: self.machines.alive().map(|filter| filter.report()).collect(),
            missing: current.missing().collect(),
            generations: std::iter::once(in_use).chain(ending.filter(|(_, exchanges)| *exchanges > 0)).collect(),
        }
    }
}

impl Worker {
    /// Makes a generation ready, and says so.
    pub(super) async fn prepare(&self, next: Next) {
        let Next { snapshot, ports, closed, moved, answer } = next;
        let ready = self.ready(&snapshot, ports).await.map(|(generation, listeners)| {
            *self.generations.next.borrow_mut() = Some(Ready { generation, listeners, closed, moved });
        });
        let _ = answer.send(ready);
    }

    async fn ready(&self, snapshot: &Snapshot, ports: Vec<Port>) -> Result<(Rc<Generation>, Listeners), String> {
        let Generations { dialer, machines, .. } = &self.generations;
        let current = self.generations.current();
        machines.has_room(current.filters())?;
        enable_udp(&snapshot.config, dialer).map_err(|error| format!("cannot open a UDP socket: {error}"))?;
        let generation = Generation::new(snapshot, Some(&current), dialer, machines);
        generation.start(machines).await?;
        let listeners = ports.into_iter().map(|port| self.enter(port)).collect::<io::Result<_>>();
        let listeners = listeners.map_err(|error| format!("cannot listen: {error}"))?;
        Ok((Rc::new(generation), listeners))
    }

    /// A port can take connections that another worker hands over even before this one accepts.
    fn enter(&self, port: Port) -> io::Result<(Rc<Entrance>, tokio::net::TcpListener)> {
        let Port { place, service, listener } = port;
        let entrance = Entrance::new(place, &listener, Direction::Outbound, Some(&service))?;
        self.entrances.borrow_mut().insert(place, Rc::clone(&entrance));
        Ok((entrance, tokio::net::TcpListener::from_std(listener)?))
    }

    /// Begins requests on the generation that was made ready.
    pub(super) fn switch(self: &Rc<Self>, number: u64) {
        let ready = self.generations.next.borrow_mut().take_if(|ready| ready.generation.number() == number);
        let Some(Ready { generation, listeners, closed, moved }) = ready else { return };
        generation.take_over(&self.generations.machines);
        self.outbound.hop.ledger.why.keep(generation.why().map_or(0, |why| why.keep));
        for way in [&self.outbound, &self.inbound] {
            *way.hop.generation.borrow_mut() = Rc::clone(&generation);
        }
        let before = self.generations.current.replace(generation);
        if before.exchanges().guards() > 0 {
            self.generations.ending.borrow_mut().push((before.number(), before.exchanges().clone()));
        }
        // Entrances that closed earlier have handed over their last connection long ago.
        self.entrances.borrow_mut().retain(|_, entrance| entrance.closing.phase() == Phase::Running);
        for place in closed {
            if let Some(entrance) = self.entrances.borrow().get(&place) {
                entrance.closing.advance(Phase::Quiet);
            }
        }
        for (place, service) in moved {
            if let Some(entrance) = self.entrances.borrow().get(&place) {
                entrance.lead_to(&service);
            }
        }
        for (entrance, listener) in listeners {
            tokio::task::spawn_local(serve::accept(Rc::clone(self), entrance, listener));
        }
    }

    /// Forgets the generation that was made ready.
    pub(super) fn discard(&self, number: u64) {
        let ready = self.generations.next.borrow_mut().take_if(|ready| ready.generation.number() == number);
        for (entrance, _) in ready.into_iter().flat_map(|ready| ready.listeners) {
            self.entrances.borrow_mut().remove(&entrance.place);
        }
    }
}

/// A worker that opens no HTTP/3 link needs no socket for them.
fn enable_udp(config: &Config, dialer: &Dialer) -> io::Result<()> {
    match config.services.iter().any(|s| matches!(s.link, LinkPolicy::Auto | LinkPolicy::H3)) {
        true => dialer.enable_udp(quic_client),
        false => Ok(()),
    }
}
