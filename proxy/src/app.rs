//! The process: everything is bound and loaded before anything runs; then control lives on this thread and the workers on theirs.

mod pages;

use std::cell::Cell;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::admin::{self, Admin, Readiness, Token};
use crate::config::Config;
use crate::control::certificates::Certificates;
use crate::control::discovery::{Discovery, START_PATIENCE};
use crate::control::generations::Generations;
use crate::control::health::Health;
use crate::control::modules::{self, Absence, Missing, Workshop};
use crate::control::ports::Ports;
use crate::control::reload::{Pursue, Reload, Source};
use crate::control::{memory, text};
use crate::mesh::generation::Snapshot;
use crate::net::{descriptors, listen};
use crate::telemetry::labels::Certificate;
use crate::telemetry::metrics::{Metrics, Registry};
use crate::telemetry::{access, log};
use crate::worker::{self, Order, Peers, Seed, Sockets};

/// How long after SIGTERM what still runs is cut. Kubernetes kills after 30 s; the last words need some of them.
const DRAIN_DEADLINE: Duration = Duration::from_secs(25);

/// How long a worker that was told to end may take before the process ends without it.
const CUT_PATIENCE: Duration = Duration::from_secs(2);

/// How long a process that has drained waits for the access log: a disk that is only slow has written by then what waits.
const LOG_PATIENCE: Duration = Duration::from_secs(2);

/// A deadline that no process lives to see.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Runs a sidecar until it has drained. Tells `started` what was bound, by name, once nothing keeps it from that.
///
/// # Errors
/// What keeps it from starting, in words for the operator.
pub fn run(source: Source, config: Config, started: impl FnOnce(&[(String, SocketAddr)])) -> Result<(), String> {
    let config = Arc::new(config);
    // A quarter of the descriptors for strangers who have not shown yet who they are.
    let handshakes = (descriptors::raise() / 4 / config.workers).clamp(1, worker::MAX_HANDSHAKES);
    let ports = Rc::new(Ports::new(config.workers));
    let bound = Bound::new(&config, &ports)?;
    let certificates = match &config.identity {
        Some(files) => {
            Some(Certificates::open(files.clone(), config.node.spiffe.clone()).map_err(|error| error.to_string())?)
        }
        None => None,
    };
    let mut workshop = Workshop::default();
    let (filters, missing) = workshop.start(&config).map_err(|refusals| modules::told(&refusals))?;
    workshop.keep(&filters, &missing);
    for missing in &missing {
        tracing::error!(filter = missing.filter(), "the sidecar starts without a module: {}", missing.told());
    }
    let (log_queue, log_writer) = match &config.access_log {
        Some(log) => {
            let right = "write the path of a file in a directory that is there, /dev/stdout or /dev/stderr";
            let cannot =
                |error| format!("telemetry.access_log.path: {} cannot be opened: {error}; {right}", log.path.display());
            let (queue, writer) = access::open(&log.path).map_err(cannot)?;
            (Some(queue), Some(writer))
        }
        None => (None, None),
    };

    let registry = Registry::default();
    let log_end = log_writer.map(|writer| {
        let registry = registry.clone();
        let (running, ended) = std::sync::mpsc::channel::<()>();
        let writes = move || {
            let _running = running;
            writer.run(&registry);
        };
        spawn("access-log", writes).map(|_| ended)
    });
    let (mailboxes, inboxes): (Vec<_>, Vec<_>) = (0..config.workers).map(|_| mpsc::unbounded_channel()).unzip();
    let peers = Arc::new(Peers::new(mailboxes));
    let addresses = bound.addresses();
    let generations = Rc::new(Generations::new(Arc::clone(&config), source.files().to_vec(), SystemTime::now()));
    let metrics = Rc::new(registry.metrics());
    let discovery = Discovery::new(Arc::clone(&peers), Rc::clone(&metrics));
    discovery.follow(&config);
    let places = discovery.places(&config);
    let load = Arc::default();
    let snapshot = Snapshot::new(generations.current(), config, filters, places, &load);
    let tls = certificates.as_ref().map(|certificates| Arc::clone(certificates.current()));
    let health = Health::new(Arc::clone(&peers), Rc::clone(&metrics), Rc::clone(&discovery), tls);
    let shared = Arc::default();
    let mut workers = Vec::new();
    for (number, (sockets, mailbox)) in bound.sockets.into_iter().zip(inboxes).enumerate() {
        let seed = Seed {
            number,
            snapshot: snapshot.clone(),
            sockets,
            tls: certificates.as_ref().map(|c| Arc::clone(c.current())),
            registry: registry.clone(),
            access: log_queue.clone(),
            shared: Arc::clone(&shared),
            mailbox,
            peers: Arc::clone(&peers),
            connections: worker::MAX_CONNECTIONS,
            handshakes,
        };
        workers.push(spawn(&format!("worker-{number}"), move || worker::run(seed))?);
    }
    drop(snapshot);
    metrics.config_generation(generations.current());
    let (readiness, asked) = (Readiness::default(), Arc::<Notify>::default());
    let (waiting, come) = (readiness.clone(), Arc::clone(&asked));
    let pursue: Pursue = Box::new(move |workshop, missing| pursue(missing, workshop, &come, &waiting));
    let reload = Reload {
        missing: pursue(&workshop, missing)?,
        pursue,
        source,
        workshop,
        ports: Rc::clone(&ports),
        discovery: Rc::clone(&discovery),
        health: Rc::clone(&health),
        peers: Arc::clone(&peers),
        generations: Rc::clone(&generations),
        load,
        metrics: Rc::clone(&metrics),
        asked,
    };
    let control = Control {
        generations,
        ports,
        discovery,
        health,
        registry,
        metrics,
        peers,
        addresses,
        access: log_queue,
        readiness,
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| format!("cannot start: {e}"))?;
    started(&control.addresses);
    tokio::task::LocalSet::new().block_on(&runtime, control.live(certificates, reload, bound.admin, workers))?;
    if let Some(ended) = log_end
        // The workers' ends of the queue are gone: the writer writes what is left and ends, unless nobody takes it.
        && ended?.recv_timeout(LOG_PATIENCE) == Err(RecvTimeoutError::Timeout)
    {
        tracing::warn!("the access log takes nothing: ending without its last records");
    }
    Ok(())
}

fn spawn<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<thread::JoinHandle<T>, String> {
    thread::Builder::new()
        .name(name.into())
        .spawn(body)
        .map_err(|error| format!("cannot start the thread {name}: {error}"))
}

/// Every listening socket, before anything runs: a port clash stops the process, not a worker.
struct Bound {
    sockets: Vec<Sockets>,
    admin: Option<TcpListener>,
}

impl Bound {
    fn new(config: &Config, ports: &Ports) -> Result<Self, String> {
        let cannot = |what: &str, address: SocketAddr| {
            let what = what.to_owned();
            move |error: io::Error| format!("cannot listen on {address} ({what}): {error}{}", listen::right(&error))
        };
        let mut sockets: Vec<Sockets> = (0..config.workers).map(|_| Sockets::default()).collect();
        if let Some(outbound) = &config.outbound {
            let listeners =
                listen::tcp(outbound.listen, config.workers).map_err(cannot("outbound", outbound.listen))?;
            sockets.iter_mut().zip(listeners).for_each(|(s, listener)| s.outbound = Some(listener));
        }
        let mut change = ports.change(config)?;
        sockets.iter_mut().for_each(|s| s.services = change.next_worker());
        ports.keep(change);
        if let Some(inbound) = &config.inbound {
            let pairs =
                listen::tcp_and_udp(inbound.listen, config.workers).map_err(cannot("inbound", inbound.listen))?;
            sockets.iter_mut().zip(pairs).for_each(|(s, pair)| s.inbound = Some(pair));
        }
        let admin =
            config.admin.map(|address| listen::tcp(address, 1).map_err(cannot("admin", address))).transpose()?;
        Ok(Bound { sockets, admin: admin.and_then(|listeners| listeners.into_iter().next()) })
    }

    /// What was bound beside services' own ports, by name.
    fn addresses(&self) -> Vec<(String, SocketAddr)> {
        let first = self.sockets.first();
        let mut all = Vec::new();
        let mut add = |name: &str, listener: Option<&TcpListener>| {
            if let Some(Ok(address)) = listener.map(TcpListener::local_addr) {
                all.push((name.to_owned(), address));
            }
        };
        add("outbound", first.and_then(|s| s.outbound.as_ref()));
        add("inbound", first.and_then(|s| s.inbound.as_ref()).map(|(tcp, _)| tcp));
        add("admin", self.admin.as_ref());
        all
    }
}

/// What lives on the main thread.
struct Control {
    generations: Rc<Generations>,
    ports: Rc<Ports>,
    discovery: Rc<Discovery>,
    health: Rc<Health>,
    registry: Registry,
    metrics: Rc<Metrics>,
    peers: Arc<Peers>,
    addresses: Vec<(String, SocketAddr)>,
    access: Option<access::Queue>,
    readiness: Readiness,
}

impl Control {
    async fn live(
        self,
        certificates: Option<Certificates>,
        reload: Reload,
        admin: Option<TcpListener>,
        workers: Vec<thread::JoinHandle<io::Result<()>>>,
    ) -> Result<(), String> {
        let readiness = self.readiness.clone();
        let draining = readiness.token("drain", "");
        draining.ready();
        let stop = Rc::new(Stop::default());
        tokio::task::spawn_local(Rc::clone(&self.discovery).run());
        tokio::task::spawn_local(memory::watch(Arc::clone(&reload.load), Rc::clone(&self.generations)));
        tokio::task::spawn_local(text::settle());
        self.health.follow(&self.generations.config());
        tokio::task::spawn_local(Rc::clone(&self.health).run());
        tokio::task::spawn_local(first_answers(
            Rc::clone(&self.discovery),
            self.generations.config(),
            readiness.token("services", "starting"),
        ));
        if let Some(listener) = admin {
            let listener =
                tokio::net::TcpListener::from_std(listener).map_err(|error| format!("cannot serve admin: {error}"))?;
            tokio::task::spawn_local(admin::serve(Rc::new(self.admin(readiness, &stop)), listener));
        }
        for (listener, address) in &self.addresses {
            tracing::info!(listener, %address, "listening");
        }
        let config = self.generations.config();
        tracing::info!(service = %config.node.service, workers = config.workers, "ready");
        let asked = Arc::clone(&reload.asked);
        let reload = tokio::task::spawn_local(reload.run());
        let mut terminate = signal(SignalKind::terminate()).map_err(|e| format!("cannot wait for signals: {e}"))?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| format!("cannot wait for signals: {e}"))?;
        let mut hangup = signal(SignalKind::hangup()).map_err(|e| format!("cannot wait for signals: {e}"))?;
        let mut certificates = certificates;
        let mut ended = std::pin::pin!(ended(workers));
        let mut deadline = std::pin::pin!(tokio::time::sleep(FOR_EVER));
        if let Some(certificates) = &certificates {
            publish(&self.metrics, certificates);
        }
        loop {
            tokio::select! {
                done = &mut ended => return done,
                _ = terminate.recv() => stop.more(),
                _ = interrupt.recv() => stop.more(),
                _ = hangup.recv() => {
                    if let Some(log) = &self.access {
                        log.reopen();
                    }
                    asked.notify_one();
                }
                settings = async { match &mut certificates { Some(c) => c.renewed().await, None => std::future::pending().await } } => {
                    self.peers.tell(|| Order::Identity(Arc::clone(&settings)));
                    self.health.identity(settings);
                    if let Some(certificates) = &certificates {
                        publish(&self.metrics, certificates);
                    }
                }
                () = stop.changed.notified() => {
                    reload.abort();
                    if stop.wanted.get() == 1 {
                        tracing::info!(deadline = ?DRAIN_DEADLINE, "draining");
                        draining.waits_for("the sidecar is shutting down");
                        deadline.as_mut().reset(tokio::time::Instant::now() + DRAIN_DEADLINE);
                        self.peers.tell(|| Order::Drain);
                    } else {
                        tracing::info!("ending at once");
                        self.cut();
                    }
                }
                () = &mut deadline => {
                    tracing::warn!("the deadline for draining has passed: cutting what is left");
                    deadline.as_mut().reset(tokio::time::Instant::now() + FOR_EVER);
                    self.cut();
                }
            }
        }
    }

    /// Ends the workers; and the process, should one of them not hear.
    fn cut(&self) {
        self.peers.tell(|| Order::Cut);
        tokio::task::spawn_local(async {
            tokio::time::sleep(CUT_PATIENCE).await;
            tracing::error!("a worker does not end: leaving without it");
            log::flush();
            std::process::exit(0);
        });
    }

    fn admin(&self, readiness: Readiness, stop: &Rc<Stop>) -> Admin {
        let (generations, ports, addresses) =
            (Rc::clone(&self.generations), Rc::clone(&self.ports), self.addresses.clone());
        let config =
            move || pages::config(generations.config(), generations.current(), addresses.clone(), ports.addresses());
        let (discovery, configs) = (Rc::clone(&self.discovery), Rc::clone(&self.generations));
        let sources = move || pages::sources(&discovery, &configs.config());
        let health = Rc::clone(&self.health);
        let checks = move || pages::checks(&health);
        let (clusters, filters, history) =
            (Arc::clone(&self.peers), Arc::clone(&self.peers), (Arc::clone(&self.peers), Rc::clone(&self.generations)));
        let (waiting, current) = (readiness.clone(), Rc::clone(&self.generations));
        let missing = move || pages::missing(&current.config(), current.current(), |part| waiting.waits_for(part));
        let (drain, quit, requests) = (Rc::clone(stop), Rc::clone(stop), Arc::clone(&self.peers));
        Admin {
            readiness,
            metrics: self.registry.clone(),
            config: Box::new(move || Box::pin(config())),
            clusters: Box::new(move || Box::pin(pages::clusters(pages::ask(&clusters, true), sources(), checks()))),
            filters: Box::new(move || Box::pin(pages::filters(pages::ask(&filters, false), missing()))),
            generations: Box::new(move || {
                Box::pin(pages::generations(pages::ask(&history.0, false), Rc::clone(&history.1)))
            }),
            requests: Box::new(move |id, most| Box::pin(pages::requests(&requests, id, most))),
            logging: Box::new(|levels| {
                levels.map_or(Ok(()), log::set_level)?;
                lacis_host::levels_changed();
                Ok(log::level())
            }),
            drain: Box::new(move || drain.once()),
            quit: Box::new(move || {
                quit.more();
                quit.more();
            }),
        }
    }
}

/// Keeps the sidecar from being ready until it knows where its services are, but not for ever.
async fn first_answers(discovery: Rc<Discovery>, config: Arc<Config>, token: Token) {
    let wait = discovery.answers(&config, START_PATIENCE, |missing| token.waits_for(missing.join("; ")));
    wait.await;
    token.ready();
}

/// Has modules fetched that are missing in what is in use. `/ready` says so until another generation is; it is asked for
/// whenever one of them has come.
fn pursue(
    missing: Vec<Missing>,
    workshop: &Workshop,
    asked: &Arc<Notify>,
    readiness: &Readiness,
) -> Result<Option<Absence>, String> {
    let token = |missing: &Missing| {
        let token = readiness.token(&pages::filter_part(missing.filter()), missing.told());
        (missing.filter().to_owned(), token, false)
    };
    // Emptied when another generation is in use: what the thread hears after that is of no interest.
    let tokens: Arc<Mutex<Vec<_>>> = Arc::new(Mutex::new(missing.iter().map(token).collect()));
    let (waiting, asked) = (Arc::clone(&tokens), Arc::clone(asked));
    let heard = move |missing: &[Missing]| {
        for (filter, token, come) in waiting.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
            if let Some(missing) = missing.iter().find(|missing| missing.filter() == filter) {
                tracing::warn!(filter, "a module is still missing: {}", missing.told());
                token.waits_for(missing.told());
            } else if !std::mem::replace(come, true) {
                token.waits_for("its module has come, and is in use soon; /generations says if that fails");
                asked.notify_one();
            }
        }
    };
    workshop.pursue(missing, heard, move || {
        let all = std::mem::take(&mut *tokens.lock().unwrap_or_else(PoisonError::into_inner));
        all.iter().for_each(|(_, token, _)| token.ready());
    })
}

/// How badly the end is wanted: once drains, twice ends at once.
#[derive(Default)]
struct Stop {
    wanted: Cell<u8>,
    changed: Notify,
}

impl Stop {
    fn more(&self) {
        self.wanted.set(self.wanted.get().saturating_add(1));
        self.changed.notify_one();
    }

    fn once(&self) {
        if self.wanted.get() == 0 {
            self.more();
        }
    }
}

/// Waits until all workers have ended.
async fn ended(workers: Vec<thread::JoinHandle<io::Result<()>>>) -> Result<(), String> {
    let (done, all) = oneshot::channel();
    let joined = spawn("joiner", move || {
        let results: Vec<_> = workers.into_iter().map(thread::JoinHandle::join).collect();
        let _ = done.send(results);
    })?;
    let results = all.await.map_err(|_| "the workers were lost".to_owned())?;
    let _ = joined.join();
    for result in results {
        result
            .map_err(|_| "a worker panicked".to_owned())?
            .map_err(|error| format!("a worker could not run: {error}"))?;
    }
    Ok(())
}

fn publish(metrics: &Metrics, certificates: &Certificates) {
    let unix = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    metrics.certificate_expiry(Certificate::Leaf, unix(certificates.current().valid_until()));
    metrics.certificate_expiry(Certificate::TrustBundle, unix(certificates.current().bundle_until()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_stops_the_start() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let error = listen::tcp(taken.local_addr().expect("its address"), 1).expect_err("it is taken");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
