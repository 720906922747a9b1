//! One thread of the data path: it owns its sockets, connections, links, filters and counters, and shares nothing but
//! what it is told by its mailbox and the cells that it writes for others to read.

mod order;
mod serve;

use std::cell::RefCell;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

pub use order::{Order, Report};
use serve::{Entrance, Way};

use crate::clock;
use crate::cluster::Dialer;
use crate::config::Config;
use crate::drain::{Drain, Phase};
use crate::filter::chain::Plan;
use crate::filter::exchange::Ledger;
use crate::mesh::generation::Generation;
use crate::mesh::hop::Hop;
use crate::net::quic;
use crate::telemetry::access::Queue;
use crate::telemetry::labels::{Direction, NameId};
use crate::telemetry::metrics::Registry;
use crate::tls::TlsSettings;

/// How often unused links are looked for.
const REAP_INTERVAL: Duration = Duration::from_secs(1);

/// Connections that one worker serves at a time on each way. Beyond it new ones are closed at once: each costs memory, and a
/// process without descriptors can do nothing any more. Envoy's advice for its own limit is 50,000.
pub const MAX_CONNECTIONS: usize = 50_000;

/// What a worker is made of. Everything in it crosses the thread once.
pub struct Seed {
    /// Its number, from 0.
    pub number: usize,
    /// The configuration.
    pub config: Arc<Config>,
    /// Its own sockets.
    pub sockets: Sockets,
    /// The identity to begin with.
    pub tls: Option<Arc<TlsSettings>>,
    /// Where its metrics are read.
    pub registry: Registry,
    /// The access log.
    pub access: Option<Queue>,
    /// The filters of both sides, compiled.
    pub filters: Plan,
    /// Where orders come from.
    pub mailbox: UnboundedReceiver<Order>,
    /// All workers.
    pub peers: Arc<Peers>,
    /// Connections that it serves at a time on each way; [`MAX_CONNECTIONS`] but in tests of that limit.
    pub connections: usize,
}

/// A worker's listening sockets.
#[derive(Default)]
pub struct Sockets {
    /// The outbound listener.
    pub outbound: Option<TcpListener>,
    /// Own ports of services, by their place in the configuration.
    pub services: Vec<(usize, TcpListener)>,
    /// The inbound listener.
    pub inbound: Option<(TcpListener, UdpSocket)>,
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
    pub fn tell(&self, order: impl Fn() -> Order) {
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
    entrances: Vec<Entrance>,
    peers: Arc<Peers>,
}

/// Runs a worker until it has drained or was cut: the body of its thread.
///
/// # Errors
/// If the system gives it no runtime or sockets.
pub fn run(seed: Seed) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, work(seed))
}

async fn work(seed: Seed) -> io::Result<()> {
    let Seed { number, config, sockets, tls, registry, access, filters, mut mailbox, peers, connections } = seed;
    let tls = Rc::new(RefCell::new(tls));
    let (tcp, udp) = sockets.inbound.map_or((None, None), |(tcp, udp)| (Some(tcp), Some(udp)));
    let server = udp.map(|udp| quic_endpoint(udp, tls.borrow().as_deref())).transpose()?;
    let needs_udp = config
        .services
        .iter()
        .any(|s| matches!(s.link, crate::config::LinkPolicy::Auto | crate::config::LinkPolicy::H3));
    let client = needs_udp.then(quic_client).transpose()?;

    let metrics = Rc::new(registry.metrics());
    let ledger = Rc::new(Ledger { metrics: Rc::clone(&metrics), access: access.map(|queue| queue.log(&metrics)) });
    let (drain_in, drain_out, drain_links) = (Drain::default(), Drain::default(), Drain::default());
    let dialer = Rc::new(Dialer::new(Rc::clone(&tls), client, Rc::clone(&metrics), drain_links));
    let generation = Rc::new(Generation::new(Arc::clone(&config), &dialer, &filters, &ledger));
    let source = metrics.name(&config.node.service);
    let hop = |direction| {
        let (nowhere, protocol) = match direction {
            Direction::Outbound => (NameId::UNKNOWN, None),
            Direction::Inbound => (source, generation.application().map(|(_, protocol)| protocol)),
        };
        Rc::new(Hop {
            direction,
            ledger: Rc::clone(&ledger),
            node: config.node.service.as_str().into(),
            nowhere,
            protocol,
            generation: RefCell::new(Rc::clone(&generation)),
            chance: RefCell::new(fastrand::Rng::new()),
        })
    };
    let way =
        |direction, drain| Way { hop: hop(direction), drain, source, limit: connections, connections: Rc::default() };
    let (mut entrances, mut listeners) = (Vec::new(), Vec::new());
    let mut enter = |listener: TcpListener, direction, service| -> io::Result<()> {
        entrances.push(Entrance { local: listener.local_addr()?, direction, service });
        listeners.push(tokio::net::TcpListener::from_std(listener)?);
        Ok(())
    };
    if let Some(listener) = sockets.outbound {
        enter(listener, Direction::Outbound, None)?;
    }
    for (index, listener) in sockets.services {
        enter(listener, Direction::Outbound, Some(index))?;
    }
    if let Some(listener) = tcp {
        enter(listener, Direction::Inbound, None)?;
    }
    let worker = Rc::new(Worker {
        number,
        outbound: way(Direction::Outbound, drain_out),
        inbound: way(Direction::Inbound, drain_in),
        tls,
        entrances,
        peers,
    });

    for (place, listener) in listeners.into_iter().enumerate() {
        tokio::task::spawn_local(serve::accept(Rc::clone(&worker), place, listener));
    }
    if let Some(endpoint) = &server {
        tokio::task::spawn_local(serve::accept_quic(Rc::clone(&worker), endpoint.clone()));
    }
    tokio::task::spawn_local(clock::run());
    for timer in generation.timers() {
        tokio::task::spawn_local(timer);
    }
    tokio::task::spawn_local(reap(Rc::clone(&generation)));

    let drained = || Box::pin(drained(worker.inbound.drain.clone(), worker.outbound.drain.clone()));
    let mut ending = None;
    loop {
        tokio::select! {
            biased;
            order = mailbox.recv(), if !mailbox.is_closed() => match order {
                Some(Order::Adopt(place, stream, from)) => worker.adopt(place, stream, from),
                Some(Order::Identity(settings)) => worker.identity(settings, server.as_ref()),
                Some(Order::Report(answer)) => drop(answer.send(Worker::report(&generation))),
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
    generation.clusters().for_each(|cluster| cluster.close());
    if let Some(endpoint) = server {
        endpoint.close(0u32.into(), b"");
        endpoint.wait_idle().await;
    }
    Ok(())
}

/// Inbound first, while the application may still need its own calls to finish what it is doing; then outbound.
async fn drained(inbound: Drain, outbound: Drain) {
    inbound.advance(Phase::Quiet);
    inbound.idle().await;
    outbound.advance(Phase::Quiet);
    outbound.idle().await;
}

async fn reap(generation: Rc<Generation>) {
    let mut interval = tokio::time::interval(REAP_INTERVAL);
    loop {
        interval.tick().await;
        generation.clusters().for_each(|cluster| cluster.reap());
    }
}

fn quic_endpoint(socket: UdpSocket, tls: Option<&TlsSettings>) -> io::Result<quic::Endpoint> {
    let settings = tls.map(|tls| quic::server(Arc::clone(tls.server_quic()))).transpose().map_err(io::Error::other)?;
    quic::endpoint(socket, settings)
}

/// The socket for links that this worker opens; both families where the system has IPv6.
fn quic_client() -> io::Result<quic::Endpoint> {
    let any = |text: &str| text.parse::<SocketAddr>().map_err(io::Error::other);
    let socket = crate::net::listen::udp(any("[::]:0")?, false)
        .or_else(|_| crate::net::listen::udp(any("0.0.0.0:0")?, false))?;
    quic::endpoint(socket, None)
}

impl Worker {
    fn identity(&self, settings: Arc<TlsSettings>, server: Option<&quic::Endpoint>) {
        if let Some(endpoint) = server
            && self.inbound.drain.phase() == Phase::Running
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

    fn report(generation: &Generation) -> Report {
        Report { clusters: generation.clusters().map(|c| (Arc::clone(c.name()), c.report())).collect() }
    }
}
