//! The process: everything is bound and loaded before anything runs; then control lives on this thread and the workers on theirs.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::admin::{self, Admin, Readiness};
use crate::config::{Config, LinkPolicy};
use crate::control::certificates::Certificates;
use crate::net::listen;
use crate::telemetry::labels::Certificate;
use crate::telemetry::metrics::{Metrics, Registry};
use crate::telemetry::{access, log};
use crate::worker::{self, Order, Peers, Report, Seed, Sockets};

/// How long after SIGTERM what still runs is cut. Kubernetes kills after 30 s; the last words need some of them.
const DRAIN_DEADLINE: Duration = Duration::from_secs(25);

/// How long a worker that was told to end may take before the process ends without it.
const CUT_PATIENCE: Duration = Duration::from_secs(2);

/// A deadline that no process lives to see.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Runs a sidecar until it has drained.
///
/// # Errors
/// What keeps it from starting, in words for the operator.
pub fn run(config: Config) -> Result<(), String> {
    let config = Arc::new(config);
    let bound = Bound::new(&config)?;
    let certificates = match &config.identity {
        Some(files) => {
            Some(Certificates::open(files.clone(), config.node.spiffe.clone()).map_err(|error| error.to_string())?)
        }
        None => None,
    };
    let filters = crate::control::modules::prepare(&config)?;
    let (log_queue, log_writer) = match &config.access_log {
        Some(log) => access::open(&log.path).map(|(queue, writer)| (Some(queue), Some(writer))),
        None => Ok((None, None)),
    }
    .map_err(|error| format!("cannot open the access log: {error}"))?;

    let registry = Registry::default();
    let log_thread = log_writer.map(|writer| {
        let registry = registry.clone();
        spawn("access-log", move || writer.run(&registry))
    });
    let (mailboxes, inboxes): (Vec<_>, Vec<_>) = (0..config.workers).map(|_| mpsc::unbounded_channel()).unzip();
    let peers = Arc::new(Peers::new(mailboxes));
    let addresses = bound.addresses();
    let mut workers = Vec::new();
    for (number, (sockets, mailbox)) in bound.sockets.into_iter().zip(inboxes).enumerate() {
        let seed = Seed {
            number,
            config: Arc::clone(&config),
            sockets,
            tls: certificates.as_ref().map(|c| Arc::clone(c.current())),
            registry: registry.clone(),
            access: log_queue.clone(),
            filters: filters.clone(),
            mailbox,
            peers: Arc::clone(&peers),
            connections: worker::MAX_CONNECTIONS,
        };
        workers.push(spawn(&format!("worker-{number}"), move || worker::run(seed))?);
    }
    let control = Control { config, registry, peers, addresses, access: log_queue };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| format!("cannot start: {e}"))?;
    tokio::task::LocalSet::new().block_on(&runtime, control.live(certificates, bound.admin, workers))?;
    if let Some(thread) = log_thread {
        // The workers' ends of the queue are gone: the writer writes what is left and ends.
        let _ = thread?.join();
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
    names: Vec<String>,
}

impl Bound {
    fn new(config: &Config) -> Result<Self, String> {
        let cannot = |what: &str, address: SocketAddr| {
            let what = what.to_owned();
            move |error: io::Error| format!("cannot listen on {address} ({what}): {error}")
        };
        let mut sockets: Vec<Sockets> = (0..config.workers).map(|_| Sockets::default()).collect();
        if let Some(outbound) = &config.outbound {
            let listeners =
                listen::tcp(outbound.listen, config.workers).map_err(cannot("outbound", outbound.listen))?;
            sockets.iter_mut().zip(listeners).for_each(|(s, listener)| s.outbound = Some(listener));
        }
        for (index, service) in config.services.iter().enumerate() {
            if let Some(address) = service.listen {
                let listeners = listen::tcp(address, config.workers)
                    .map_err(cannot(&format!("services.{}", service.name), address))?;
                sockets.iter_mut().zip(listeners).for_each(|(s, listener)| s.services.push((index, listener)));
            }
        }
        if let Some(inbound) = &config.inbound {
            let pairs =
                listen::tcp_and_udp(inbound.listen, config.workers).map_err(cannot("inbound", inbound.listen))?;
            sockets.iter_mut().zip(pairs).for_each(|(s, pair)| s.inbound = Some(pair));
        }
        let admin =
            config.admin.map(|address| listen::tcp(address, 1).map_err(cannot("admin", address))).transpose()?;
        let names = config.services.iter().map(|service| service.name.clone()).collect();
        Ok(Bound { sockets, admin: admin.and_then(|listeners| listeners.into_iter().next()), names })
    }

    /// What was bound, by name.
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
        for (index, listener) in first.iter().flat_map(|s| &s.services) {
            add(self.names.get(*index).map_or("service", |name| name), Some(listener));
        }
        all
    }
}

/// What lives on the main thread.
struct Control {
    config: Arc<Config>,
    registry: Registry,
    peers: Arc<Peers>,
    addresses: Vec<(String, SocketAddr)>,
    access: Option<access::Queue>,
}

impl Control {
    async fn live(
        self,
        certificates: Option<Certificates>,
        admin: Option<TcpListener>,
        workers: Vec<thread::JoinHandle<io::Result<()>>>,
    ) -> Result<(), String> {
        let metrics = self.registry.metrics();
        metrics.config_generation(1);
        let readiness = Readiness::default();
        let draining = readiness.token("drain", "");
        draining.ready();
        let stop = Rc::new(Stop::default());
        if let Some(listener) = admin {
            let listener =
                tokio::net::TcpListener::from_std(listener).map_err(|error| format!("cannot serve admin: {error}"))?;
            tokio::task::spawn_local(admin::serve(Rc::new(self.admin(readiness, &stop)), listener));
        }
        for (listener, address) in &self.addresses {
            tracing::info!(listener, %address, "listening");
        }
        tracing::info!(service = %self.config.node.service, workers = self.config.workers, "ready");
        let mut terminate = signal(SignalKind::terminate()).map_err(|e| format!("cannot wait for signals: {e}"))?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| format!("cannot wait for signals: {e}"))?;
        let mut hangup = signal(SignalKind::hangup()).map_err(|e| format!("cannot wait for signals: {e}"))?;
        let mut certificates = certificates;
        let mut ended = std::pin::pin!(ended(workers));
        let mut deadline = std::pin::pin!(tokio::time::sleep(FOR_EVER));
        if let Some(certificates) = &certificates {
            publish(&metrics, certificates);
        }
        loop {
            tokio::select! {
                done = &mut ended => return done,
                _ = terminate.recv() => stop.more(),
                _ = interrupt.recv() => stop.more(),
                _ = hangup.recv() => if let Some(log) = &self.access { log.reopen() },
                settings = async { match &mut certificates { Some(c) => c.renewed().await, None => std::future::pending().await } } => {
                    self.peers.tell(|| Order::Identity(Arc::clone(&settings)));
                    if let Some(certificates) = &certificates {
                        publish(&metrics, certificates);
                    }
                }
                () = stop.changed.notified() => {
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
            std::process::exit(0);
        });
    }

    fn admin(&self, readiness: Readiness, stop: &Rc<Stop>) -> Admin {
        let (config, addresses, peers) = (Arc::clone(&self.config), self.addresses.clone(), Arc::clone(&self.peers));
        let (drain, quit) = (Rc::clone(stop), Rc::clone(stop));
        Admin {
            readiness,
            metrics: self.registry.clone(),
            config: Box::new(move || describe(&config, &addresses)),
            clusters: Box::new(move || reports(&peers)),
            logging: Box::new(|levels| {
                levels.map_or(Ok(()), log::set_level)?;
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

/// What `/config` shows: what is in use, and what was bound.
fn describe(config: &Config, addresses: &[(String, SocketAddr)]) -> Value {
    let listeners: serde_json::Map<_, _> =
        addresses.iter().map(|(name, address)| (name.clone(), json!(address.to_string()))).collect();
    let filters = |indices: &[usize]| -> Vec<_> {
        indices.iter().filter_map(|i| config.filters.get(*i)).map(|f| f.name.clone()).collect()
    };
    let services: serde_json::Map<_, _> = config
        .services
        .iter()
        .map(|service| {
            let endpoints: Vec<_> = service.endpoints.iter().map(|e| json!({"address": e.address.to_string(), "weight": e.weight})).collect();
            let identity: Vec<_> = service.identity.iter().map(ToString::to_string).collect();
            let timeouts = json!({
                "connect": seconds(service.timeouts.connect), "request": seconds(service.timeouts.request), "idle": seconds(service.timeouts.idle),
            });
            let about = json!({
                "hosts": service.hosts, "endpoints": endpoints, "identity": identity, "link": link(service.link),
                "balance": format!("{:?}", service.balance), "timeouts": timeouts,
            });
            (service.name.clone(), about)
        })
        .collect();
    json!({
        "generation": 1,
        "node": {"service": config.node.service, "namespace": config.node.namespace, "identity": config.node.spiffe.to_string(), "id": config.node.id},
        "listeners": listeners,
        "outbound": config.outbound.as_ref().map(|outbound| json!({"filters": filters(&outbound.filters)})),
        "inbound": config.inbound.as_ref().map(|inbound| json!({
            "application": inbound.application.to_string(),
            "protocol": format!("{:?}", inbound.protocol).to_lowercase(),
            "filters": filters(&inbound.filters),
            "allow": inbound.allow.as_ref().map(|allow| allow.iter().map(ToString::to_string).collect::<Vec<_>>()),
        })),
        "services": services,
        "workers": config.workers,
    })
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

fn link(policy: LinkPolicy) -> &'static str {
    match policy {
        LinkPolicy::Auto => "auto",
        LinkPolicy::H3 => "h3",
        LinkPolicy::H2 => "h2",
        LinkPolicy::H1 => "h1",
        LinkPolicy::Plaintext => "plaintext",
    }
}

/// Asks every worker; one that does not answer in time shows up as such.
fn reports(peers: &Peers) -> Vec<admin::Report> {
    let asked: RefCell<Vec<oneshot::Receiver<Report>>> = RefCell::default();
    peers.tell(|| {
        let (answer, report) = oneshot::channel();
        asked.borrow_mut().push(report);
        Order::Report(answer)
    });
    let answer = |report: oneshot::Receiver<Report>| async move { Some(clusters(&report.await.ok()?)) };
    asked
        .into_inner()
        .into_iter()
        .enumerate()
        .map(|(worker, report)| admin::Report { worker, answer: Box::pin(answer(report)) })
        .collect()
}

fn clusters(report: &Report) -> Value {
    let endpoint = |e: &crate::cluster::EndpointReport| {
        json!({
            "address": e.address.to_string(), "weight": e.weight, "requests": e.requests, "reachable": !e.resting, "udp": e.udp,
            "links": {"h1_idle": e.h1_idle, "h2": {"open": e.h2.0, "requests": e.h2.1}, "h3": {"open": e.h3.0, "requests": e.h3.1}},
        })
    };
    let clusters: serde_json::Map<_, _> = report
        .clusters
        .iter()
        .map(|(name, endpoints)| {
            (name.to_string(), json!({"endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>()}))
        })
        .collect();
    Value::Object(clusters)
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
