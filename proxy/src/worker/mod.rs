//! One thread of the data path: it owns its sockets, connections, links, filters and counters, and shares nothing but
//! what it is told by its mailbox and the cells that it writes for others to read.

mod change;
mod order;
mod serve;
mod shaking;

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lacis_host::SharedData;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use change::Generations;
pub use order::{Next, Order, Port, Report};
use serve::{Entrance, Way};
use shaking::Handshakes;
pub use shaking::MAX_HANDSHAKES;

use crate::clock;
use crate::cluster::Dialer;
use crate::drain::{Drain, Phase};
use crate::filter::exchange::Ledger;
use crate::filter::machine::Machines;
use crate::filter::node::NodeFacts;
use crate::mesh::generation::Snapshot;
use crate::mesh::hop::Hop;
use crate::mesh::mirror::Mirrors;
use crate::net::{quic, turn};
use crate::telemetry::access::Queue;
use crate::telemetry::labels::{Direction, NameId};
use crate::telemetry::metrics::Registry;
use crate::telemetry::why::Ring;
use crate::tls::TlsSettings;

/// How often it is looked for what nobody uses any more: links, filters.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Connections that one worker serves at a time on each way. Beyond it new ones are closed at once: each costs memory, and a
/// process without descriptors can do nothing any more. Envoy's advice for its own limit is 50,000.
pub const MAX_CONNECTIONS: usize = 50_000;

/// What a worker is made of. Everything in it crosses the thread once.
pub struct Seed {
    /// Its number, from 0.
    pub number: usize,
    /// The configuration to begin with.
    pub snapshot: Snapshot,
    /// Its own sockets.
    pub sockets: Sockets,
    /// The identity to begin with.
    pub tls: Option<Arc<TlsSettings>>,
    /// Where its metrics are read.
    pub registry: Registry,
    /// The access log.
    pub access: Option<Queue>,
    /// The shared data of all filters.
    pub shared: Arc<SharedData>,
    /// Where orders come from.
    pub mailbox: UnboundedReceiver<Order>,
    /// All workers.
    pub peers: Arc<Peers>,
    /// Connections that it serves at a time on each way; [`MAX_CONNECTIONS`] but in tests of that limit.
    pub connections: usize,
    /// Handshakes with peers at a time, [`MAX_HANDSHAKES`] where there are descriptors enough.
    pub handshakes: usize,
}

/// A worker's listening sockets.
#[derive(Default)]
pub struct Sockets {
    /// The outbound listener.
    pub outbound: Option<TcpListener>,
    /// Own ports of services.
    pub services: Vec<Port>,
    /// The inbound listener.
    pub inbound: Option<(TcpListener, UdpSocket)>,
}

impl Sockets {
    /// The place of the outbound listener.
    pub const OUTBOUND: usize = 0;
    /// The place of the inbound listener.
    pub const INBOUND: usize = 1;
    /// The first place of a service's own port.
    pub const SERVICES: usize = 2;
}

/// What workers know of each other: how busy each is, and its mailbox.
pub struct Peers {
    busy: Vec<AtomicUsize>,
    mailboxes: Vec<UnboundedSender<Order>>,
}

impl Peers {
    /// Workers with these mailboxes.
    pub fn new(mailboxes: Vec<UnboundedSender<Order>>) -> Self {
        Peers { busy: mailboxes.iter().map(|_| AtomicUsize::new(0)).collect(), mailboxes }
    }

    /// Gives an order to every worker. One that has ended does not hear it.
    pub fn tell(&self, mut order: impl FnMut() -> Order) {
        for mailbox in &self.mailboxes {
            let _ = mailbox.send(order());
        }
    }

    fn publish(&self, worker: usize, connections: usize) {
        if let Some(busy) = self.busy.get(worker) {
            busy.store(connections, Ordering::Relaxed);
        }
    }

    /// Where a connection that this worker accepted should live: elsewhere if it has clearly more than the least busy.
    /// The kernel spreads many connections well, but the few long ones of a mesh badly.
    fn settle(&self, worker: usize) -> Option<&UnboundedSender<Order>> {
        let mine = self.busy.get(worker)?.load(Ordering::Relaxed);
        let (least, place) = self.busy.iter().enumerate().map(|(i, b)| (b.load(Ordering::Relaxed), i)).min()?;
        if mine < least + 2 { None } else { self.mailboxes.get(place) }
    }
}

/// A worker at work.
struct Worker {
    number: usize,
    outbound: Way,
    inbound: Way,
    tls: Rc<RefCell<Option<Arc<TlsSettings>>>>,
    handshakes: Handshakes,
    /// By place.
    entrances: RefCell<HashMap<usize, Rc<Entrance>>>,
    generations: Generations,
    peers: Arc<Peers>,
}

/// Runs a worker until it has drained or was cut: the body of its thread.
///
/// # Errors
/// If the system gives it no runtime or sockets.
pub fn run(seed: Seed) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .on_thread_park(turn::over)
        .on_thread_unpark(clock::looked)
        .build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, work(seed))
}

async fn work(seed: Seed) -> io::Result<()> {
    let Seed { number, snapshot, sockets, tls, registry, access, shared, mut mailbox, peers, connections, handshakes } =
        seed;
    let tls = Rc::new(RefCell::new(tls));
    let (tcp, udp) = sockets.inbound.map_or((None, None), |(tcp, udp)| (Some(tcp), Some(udp)));
    let server = udp.map(|udp| quic_server(udp, number, tls.borrow().as_deref())).transpose()?;

    let metrics = Rc::new(registry.metrics());
    let ledger = Rc::new(Ledger {
        metrics: Rc::clone(&metrics),
        access: access.map(|queue| queue.log(&metrics)),
        why: Ring::default(),
    });
    let (drain_in, drain_out, drain_links) = (Drain::default(), Drain::default(), Drain::default());
    let dialer = Rc::new(Dialer::new(Rc::clone(&tls), Rc::clone(&metrics), drain_links));
    let node = &snapshot.config.node;
    let machines = Machines::new(shared, Rc::new(NodeFacts::new(node)), Rc::clone(&ledger));
    let generations = Generations::new(&snapshot, dialer, machines).await?;
    let source = metrics.name(&node.service);
    let hop = |direction| {
        Rc::new(Hop {
            direction,
            ledger: Rc::clone(&ledger),
            node: node.service.as_str().into(),
            nowhere: if direction == Direction::Outbound { NameId::UNKNOWN } else { source },
            generation: RefCell::new(generations.current()),
            chance: RefCell::new(fastrand::Rng::new()),
            mirrors: Mirrors::default(),
        })
    };
    let way = |direction, drain| Way {
        hop: hop(direction),
        drain,
        doors: Drain::default(),
        source,
        limit: connections,
        connections: Rc::default(),
    };
    let mut listeners = Vec::new();
    let mut enter = |place, listener: TcpListener, direction, service: Option<&str>| -> io::Result<()> {
        let entrance = Entrance::new(place, &listener, direction, service)?;
        listeners.push((entrance, tokio::net::TcpListener::from_std(listener)?));
        Ok(())
    };
    if let Some(listener) = sockets.outbound {
        enter(Sockets::OUTBOUND, listener, Direction::Outbound, None)?;
    }
    for Port { place, service, listener } in sockets.services {
        enter(place, listener, Direction::Outbound, Some(&service))?;
    }
    if let Some(listener) = tcp {
        enter(Sockets::INBOUND, listener, Direction::Inbound, None)?;
    }
    let worker = Rc::new(Worker {
        number,
        outbound: way(Direction::Outbound, drain_out),
        inbound: way(Direction::Inbound, drain_in),
        tls,
        handshakes: Handshakes::new(handshakes),
        entrances: RefCell::new(listeners.iter().map(|(entrance, _)| (entrance.place, Rc::clone(entrance))).collect()),
        generations,
        peers,
    });

    for (entrance, listener) in listeners {
        tokio::task::spawn_local(serve::accept(Rc::clone(&worker), entrance, listener));
    }
    if let Some(endpoint) = &server {
        tokio::task::spawn_local(serve::accept_quic(Rc::clone(&worker), endpoint.clone()));
    }
    tokio::task::spawn_local(clock::run_unless_idle());
    tokio::task::spawn_local(turn::run());
    tokio::task::spawn_local(sweep(Rc::clone(&worker)));

    let drained = || Box::pin(drained(Rc::clone(&worker)));
    let mut ending = None;
    loop {
        tokio::select! {
            biased;
            order = mailbox.recv(), if !mailbox.is_closed() => match order {
                Some(Order::Adopt(place, stream, from)) => worker.adopt(place, stream, from),
                Some(Order::Identity(settings)) => worker.identity(settings, server.as_ref()),
                Some(Order::Prepare(next)) => worker.prepare(*next).await,
                Some(Order::Switch(number, answer)) => {
                    worker.switch(number);
                    let _ = answer.send(());
                }
                Some(Order::Discard(number)) => worker.discard(number),
                Some(Order::Moved(source, place)) => worker.generations.moved(&source, &place),
                Some(Order::Requests(id, most, answer)) => drop(answer.send(ledger.why.find(id.as_deref(), most))),
                Some(Order::Checked { service, address, healthy }) => {
                    worker.generations.checked(&service, address, healthy);
                }
                Some(Order::Report { clusters, answer }) => drop(answer.send(worker.generations.report(clusters))),
                Some(Order::Drain) if ending.is_none() => {
                    if let Some(endpoint) = &server {
                        endpoint.set_server_config(None);
                    }
                    ending = Some(drained());
                }
                Some(Order::Drain) => {}
                Some(Order::Cut) | None => break,
            },
            () = async { match &mut ending { Some(ending) => ending.await, None => std::future::pending().await } } => {
                // Another worker that has not heard of the end yet may have handed over a connection. From here on it
                // keeps what it accepts.
                mailbox.close();
                if !worker.adopt_rest(&mut mailbox) {
                    break;
                }
                ending = Some(drained());
            }
        }
    }
    worker.inbound.drain.advance(Phase::Cut);
    worker.outbound.drain.advance(Phase::Cut);
    worker.generations.current().clusters().for_each(|cluster| cluster.close());
    if let Some(endpoint) = server {
        endpoint.close(0u32.into(), b"");
        endpoint.wait_idle().await;
    }
    Ok(())
}

/// Inbound first, while the application may still need its own calls to finish what it is doing; then outbound. Nobody is
/// told to leave before the listeners are closed: those who come again at once must be refused, and go elsewhere, and not wait
/// a second for a listener that lets nobody begin any more ([`listen::shut`](crate::net::listen::shut)).
async fn drained(worker: Rc<Worker>) {
    for way in [&worker.inbound, &worker.outbound] {
        way.doors.advance(Phase::Quiet);
        way.doors.idle().await;
        way.drain.advance(Phase::Quiet);
        way.drain.idle().await;
    }
}

async fn sweep(worker: Rc<Worker>) {
    let mut interval = tokio::time::interval(SWEEP_INTERVAL);
    loop {
        interval.tick().await;
        worker.generations.sweep();
    }
}

fn quic_server(socket: UdpSocket, worker: usize, tls: Option<&TlsSettings>) -> io::Result<quic::Endpoint> {
    let settings = tls.map(|tls| quic::server(Arc::clone(tls.server_quic()))).transpose().map_err(io::Error::other)?;
    // Nobody else has it at the same time: of the workers that share the address it is this one's, to which the kernel gives the
    // same packets after a restart.
    let place = format!("QUIC endpoint {} {worker}", socket.local_addr()?);
    quic::endpoint(socket, settings, tls.map(|tls| tls.secret(place.as_bytes())))
}

/// A socket for HTTP/3 links that are opened; both families where the system has IPv6.
///
/// # Errors
/// If the system gives none.
pub fn quic_client() -> io::Result<quic::Endpoint> {
    let any = |text: &str| text.parse::<SocketAddr>().map_err(io::Error::other);
    let socket = crate::net::listen::udp(any("[::]:0")?, false)
        .or_else(|_| crate::net::listen::udp(any("0.0.0.0:0")?, false))?;
    quic::endpoint(socket, None, None)
}

impl Worker {
    fn identity(&self, settings: Arc<TlsSettings>, server: Option<&quic::Endpoint>) {
        if let Some(endpoint) = server
            && self.inbound.doors.phase() == Phase::Running
        {
            match quic::server(Arc::clone(settings.server_quic())) {
                Ok(quic) => endpoint.set_server_config(Some(quic)),
                Err(error) => tracing::error!(%error, "the new identity cannot be used for QUIC"),
            }
        }
        *self.tls.borrow_mut() = Some(settings);
    }

    /// Serves the connections that wait in a mailbox which is closed. False if there is none.
    fn adopt_rest(self: &Rc<Self>, mailbox: &mut UnboundedReceiver<Order>) -> bool {
        let mut adopted = false;
        while let Ok(order) = mailbox.try_recv() {
            if let Order::Adopt(place, stream, from) = order {
                self.adopt(place, stream, from);
                adopted = true;
            }
        }
        adopted
    }
}
