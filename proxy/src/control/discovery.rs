//! Where services are that the configuration does not list: asked of the DNS, read from files, and told to the workers
//! when it changes.
//!
//! What is known here is the truth: a generation begins with it, and `Order::Moved` follows every change. An error
//! changes nothing: the last good answer stays. A change costs what the endpoints of its services cost, not the mesh.

mod dns;

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::watch::Watcher;
use crate::cluster::{Place, Places};
use crate::config::{self, Config, Dns, Endpoint, Endpoints, Problem, Source};
use crate::telemetry::labels::{Discovered, Origin};
use crate::telemetry::metrics::Metrics;
use crate::worker::{Order, Peers};
use dns::Answers;

/// How often a name is asked for at the most, whatever its time to live. Consul says 0, which would be a loop; one
/// question a second is nothing to a server, and soon enough for anybody.
const MIN_VALID: Duration = Duration::from_secs(1);

/// How often a name is asked for at the least. Who wrote a time to live of a day did not know that the service would
/// move today; a resolver in between still answers from its memory.
const MAX_VALID: Duration = Duration::from_secs(300);

/// The same for a name that has no address: it is about to be made, and its requests fail until it is found.
const MAX_NONE: Duration = Duration::from_secs(30);

/// The same where the server does not say how long its answer holds: that there is no name must then not be remembered
/// at all (RFC 2308 section 5).
const UNSAID: Duration = Duration::from_secs(5);

/// How soon a question is asked again that had no answer, and twice as long each further time up to the maximum.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Most questions to one server at a time. One that has no answer holds three sockets for seconds, and there may be thousands of
/// names: a server that is silent must not take the descriptors that requests need.
const MAX_LOOKUPS: usize = 64;

/// A new generation waits for first answers for so long, and is then taken into use without them.
pub const FIRST_ANSWER: Duration = Duration::from_secs(2);

/// The start waits for first answers for so long before the sidecar says that it is ready all the same: other services
/// work, and who waits for whom may go in a circle.
pub const START_PATIENCE: Duration = Duration::from_secs(10);

/// What says where services are, followed.
pub struct Discovery {
    peers: Arc<Peers>,
    metrics: Rc<Metrics>,
    sources: RefCell<HashMap<Source, Rc<Followed>>>,
    /// By the server that is asked, or none for those of the system.
    turns: RefCell<HashMap<Option<SocketAddr>, Rc<Semaphore>>>,
    /// Other sources are followed than before.
    others: Notify,
    /// A source has answered, or failed.
    heard: Notify,
    /// Sources whose services have moved since [`Discovery::moved`] was asked last.
    moves: RefCell<HashSet<Source>>,
    moving: Notify,
}

struct Followed {
    place: RefCell<Arc<Place>>,
    status: RefCell<Status>,
    task: RefCell<Option<AbortHandle>>,
}

/// How a source does.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// When it last answered.
    pub answered: Option<Instant>,
    /// Why it does not, if it has failed since.
    pub error: Option<String>,
    /// Why only one family of addresses is known, or only one anew.
    pub lacks: Option<String>,
}

impl Discovery {
    /// Follows nothing yet.
    pub fn new(peers: Arc<Peers>, metrics: Rc<Metrics>) -> Rc<Self> {
        let (sources, turns, others, heard) = (RefCell::default(), RefCell::default(), Notify::new(), Notify::new());
        let (moves, moving) = (RefCell::default(), Notify::new());
        Rc::new(Discovery { peers, metrics, sources, turns, others, heard, moves, moving })
    }

    /// Follows the sources of a configuration besides those that are followed. Files are read at once; for an answer of
    /// the DNS see [`Discovery::answers`].
    pub fn follow(&self, config: &Config) {
        for source in sources(config) {
            if self.sources.borrow().contains_key(source) {
                continue;
            }
            let unknown = match source {
                Source::Dns(dns) => Some(format!("no answer yet for {}", dns.name).into()),
                Source::File(_) => None,
            };
            let followed = Followed {
                place: RefCell::new(Arc::new(Place { unknown, ..Place::default() })),
                status: RefCell::default(),
                task: RefCell::default(),
            };
            self.sources.borrow_mut().insert(source.clone(), Rc::new(followed));
            if let Source::File(path) = source {
                self.read(path);
            }
        }
        self.others.notify_one();
    }

    /// Forgets what this configuration does not need.
    pub fn keep(&self, config: &Config) {
        let needed: Vec<_> = sources(config).collect();
        self.moves.borrow_mut().retain(|source| needed.contains(&source));
        self.sources.borrow_mut().retain(|source, followed| {
            let keep = needed.contains(&source);
            if !keep && let Some(task) = followed.task.take() {
                task.abort();
            }
            keep
        });
        self.others.notify_one();
    }

    /// What is known of the sources of a configuration. Hand it to the workers before anything else can be learnt: later
    /// changes are orders of their own.
    pub fn places(&self, config: &Config) -> Places {
        let followed = self.sources.borrow();
        let place = |source: &Source| Some((source.clone(), Arc::clone(&followed.get(source)?.place.borrow())));
        sources(config).filter_map(place).collect()
    }

    /// What is known of a source.
    pub fn place(&self, source: &Source) -> Option<Arc<Place>> {
        self.sources.borrow().get(source).map(|followed| Arc::clone(&followed.place.borrow()))
    }

    /// Waits until services have moved, and gives their sources. For one who asks.
    pub async fn moved(&self) -> HashSet<Source> {
        loop {
            let moves = self.moves.take();
            if !moves.is_empty() {
                return moves;
            }
            self.moving.notified().await;
        }
    }

    /// Waits until every source of a configuration has answered, or patience is over; `missing` hears at once and then
    /// after each answer what has not.
    pub async fn answers(&self, config: &Config, patience: Duration, mut missing: impl FnMut(&[String])) {
        let all = async {
            loop {
                let heard = self.heard.notified();
                let waiting = self.waiting(config);
                missing(&waiting);
                if waiting.is_empty() {
                    return;
                }
                heard.await;
            }
        };
        // What is missing is told by whoever asks for it.
        let _ = timeout(patience, all).await;
    }

    /// Services whose source never answered, each with why.
    fn waiting(&self, config: &Config) -> Vec<String> {
        let waiting = |(name, _, status): (&str, _, Status)| match status {
            Status { answered: Some(_), .. } => None,
            Status { error: Some(error), .. } => Some(format!("{name} has no endpoint yet: {error}")),
            Status { .. } => Some(format!("{name} has no endpoint yet: the DNS has not answered")),
        };
        self.report(config).filter_map(waiting).collect()
    }

    /// The services of a configuration that have a source, and how it does.
    pub fn report<'c>(&self, config: &'c Config) -> impl Iterator<Item = (&'c str, &'c Source, Status)> {
        let found = |service: &'c config::Service| match &service.endpoints {
            Endpoints::Found(source) => Some((service.name.as_str(), &**source)),
            Endpoints::Listed(_) => None,
        };
        config.services.iter().filter_map(found).map(|(name, source)| {
            let status = self.sources.borrow().get(source).map(|followed| followed.status.borrow().clone());
            (name, source, status.unwrap_or_default())
        })
    }

    /// Follows the sources for as long as the process runs.
    pub async fn run(self: Rc<Self>) {
        let mut watcher: Option<Watcher> = None;
        loop {
            let (names, files) = self.started();
            for (dns, followed) in names {
                let task = tokio::task::spawn_local(Rc::clone(&self).ask(dns, Rc::clone(&followed)));
                followed.task.replace(Some(task.abort_handle()));
            }
            match &mut watcher {
                Some(watcher) => watcher.watch(files.clone()),
                None if files.is_empty() => {}
                None => watcher = Some(Watcher::new(files.clone())),
            }
            // What has changed before it was watched.
            files.iter().for_each(|path| self.read(path));
            loop {
                let changed = async {
                    match &mut watcher {
                        Some(watcher) => watcher.changed().await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = self.others.notified() => break,
                    files = changed => files.iter().for_each(|path| self.read(path)),
                }
            }
        }
    }

    /// Names that nobody asks for yet, and all files.
    fn started(&self) -> (Vec<(Dns, Rc<Followed>)>, Vec<PathBuf>) {
        let (mut names, mut files) = (Vec::new(), Vec::new());
        for (source, followed) in self.sources.borrow().iter() {
            match source {
                Source::Dns(dns) if followed.task.borrow().is_none() => names.push((dns.clone(), Rc::clone(followed))),
                Source::Dns(_) => {}
                Source::File(path) => files.push(path.clone()),
            }
        }
        (names, files)
    }

    async fn ask(self: Rc<Self>, dns: Dns, followed: Rc<Followed>) {
        let source = Source::Dns(dns.clone());
        let mut known = Known::default();
        let turns = Rc::clone(
            self.turns.borrow_mut().entry(dns.server).or_insert_with(|| Rc::new(Semaphore::new(MAX_LOOKUPS))),
        );
        loop {
            let turn = turns.acquire().await;
            let answers = dns::lookup(&dns).await;
            drop(turn);
            let (outcome, pause) = known.take(&dns, answers);
            self.told(&source, &followed, outcome);
            sleep(spread(pause, fastrand::f64())).await;
        }
    }

    fn read(&self, path: &Path) {
        let source = Source::File(path.to_owned());
        let Some(followed) = self.sources.borrow().get(&source).map(Rc::clone) else { return };
        let outcome = match config::endpoints(path) {
            Ok(endpoints) => Ok((Place { endpoints: endpoints.into(), unknown: None }, None)),
            Err(problems) => Err(problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")),
        };
        self.told(&source, &followed, outcome);
    }

    /// A source has answered, and maybe lacks something, or failed; the former is told to the workers if it is new, the others
    /// once to the operator.
    fn told(&self, source: &Source, followed: &Followed, outcome: Result<(Place, Option<String>), String>) {
        let shown = Shown(source);
        let mut status = followed.status.borrow_mut();
        let (place, result) = match outcome {
            Ok((place, lacks)) => {
                if status.error.take().is_some() {
                    tracing::info!(source = %shown, "endpoints can be found again");
                }
                match (&status.lacks, &lacks) {
                    (None, Some(error)) => {
                        tracing::warn!(source = %shown, error, "some endpoints cannot be found: the others are used");
                    }
                    (Some(_), None) => tracing::info!(source = %shown, "all endpoints can be found again"),
                    _ => {}
                }
                status.lacks = lacks;
                status.answered = Some(Instant::now());
                let result = if place == **followed.place.borrow() { Discovered::Same } else { Discovered::Changed };
                (Some(place), result)
            }
            Err(error) => {
                let (first, known) = (status.error.is_none(), status.answered.is_some());
                match (first, known) {
                    (false, _) => tracing::debug!(source = %shown, error, "endpoints cannot be found"),
                    (true, true) => {
                        tracing::warn!(source = %shown, error, "endpoints cannot be found: the last known ones stay in use");
                    }
                    (true, false) => tracing::warn!(source = %shown, error, "endpoints cannot be found"),
                }
                let unknown = (!known).then(|| Place { unknown: Some(error.as_str().into()), ..Place::default() });
                status.error = Some(error);
                (unknown, Discovered::Failed)
            }
        };
        drop(status);
        let origin = match source {
            Source::Dns(_) => Origin::Dns,
            Source::File(_) => Origin::File,
        };
        self.metrics.discovery(origin, result);
        if let Some(place) = place
            && place != **followed.place.borrow()
        {
            if place.unknown.is_none() {
                tracing::info!(source = %shown, endpoints = place.endpoints.len(), "endpoints have changed");
            }
            let place = Arc::new(place);
            followed.place.replace(Arc::clone(&place));
            self.peers.tell(|| Order::Moved(source.clone(), Arc::clone(&place)));
            self.moves.borrow_mut().insert(source.clone());
            self.moving.notify_one();
        }
        self.heard.notify_waiters();
    }
}

fn sources(config: &Config) -> impl Iterator<Item = &Source> {
    config.services.iter().filter_map(|service| match &service.endpoints {
        Endpoints::Found(source) => Some(&**source),
        Endpoints::Listed(_) => None,
    })
}

/// A source in the log.
struct Shown<'a>(&'a Source);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Source::Dns(Dns { name, .. }) => f.write_str(name),
            Source::File(path) => path.display().fmt(f),
        }
    }
}

/// What the DNS has said of a name, by family.
#[derive(Debug, Default)]
struct Known {
    families: [Option<Vec<IpAddr>>; 2],
    failures: u32,
}

impl Known {
    /// What an answer comes to, with what it lacks, and when to ask again. A family without an answer keeps its last one:
    /// servers that do not know AAAA must not cost the A records.
    fn take(&mut self, dns: &Dns, answers: Answers) -> (Result<(Place, Option<String>), String>, Duration) {
        let (mut holds, mut exists, mut error) = (Vec::new(), true, None);
        for ((known, answer), kind) in self.families.iter_mut().zip(answers).zip(["A", "AAAA"]) {
            match answer {
                Ok(records) => {
                    let some = !records.addresses.is_empty();
                    let most = if some { MAX_VALID } else { MAX_NONE };
                    holds.push((some, records.valid.unwrap_or(UNSAID).clamp(MIN_VALID, most)));
                    exists &= records.exists;
                    *known = Some(records.addresses);
                }
                Err(why) => error = error.or(Some((kind, why))),
            }
        }
        let addresses: Vec<_> = self.families.iter().flatten().flatten().copied().collect();
        // A family that the name has none of says nothing about how long the other's addresses hold.
        let some = holds.iter().any(|(some, _)| *some);
        let valid = holds.iter().filter(|(own, _)| *own == some).map(|(_, valid)| *valid).min();
        match (valid, error) {
            (Some(valid), error) if error.is_none() || !addresses.is_empty() => {
                self.failures = 0;
                let why = if exists { "has no address" } else { "does not exist (NXDOMAIN)" };
                let unknown = addresses.is_empty().then(|| format!("{} {why}", dns.name).into());
                let endpoint = |ip| Endpoint::new(SocketAddr::new(ip, dns.port));
                let place = Place { endpoints: addresses.into_iter().map(endpoint).collect(), unknown };
                (Ok((place, error.map(|(kind, why)| format!("no {kind} records: {why}")))), valid)
            }
            (_, error) => {
                let pause = RETRY.saturating_mul(1 << self.failures.min(16)).min(RETRY_MAX);
                self.failures = self.failures.saturating_add(1);
                (Err(error.map(|(_, why)| why).unwrap_or_default()), pause)
            }
        }
    }
}

/// Up to a tenth longer, by chance from 0 to 1: sidecars that started together must not ask together for ever.
fn spread(pause: Duration, chance: f64) -> Duration {
    pause.mul_f64(1.0 + chance / 10.0)
}

#[cfg(test)]
mod tests {
    use super::dns::Records;
    use super::*;

    fn records(addresses: &[&str], valid: u64) -> Result<Records, String> {
        let addresses = addresses.iter().map(|ip| ip.parse().expect("an address")).collect();
        Ok(Records { addresses, valid: Some(Duration::from_secs(valid)), exists: true })
    }

    fn failed() -> Result<Records, String> {
        Err("refused".into())
    }

    /// The addresses, or why there are none, and the seconds until the next question.
    fn take(known: &mut Known, four: Result<Records, String>, six: Result<Records, String>) -> (String, u64) {
        let dns = Dns { name: "delta.internal".into(), port: 7, server: None };
        let (outcome, pause) = known.take(&dns, [four, six]);
        let said = match outcome {
            Ok((Place { endpoints, unknown: None }, lacks)) => {
                let all = endpoints.iter().map(|e| e.address.to_string()).chain(lacks);
                all.collect::<Vec<_>>().join(" ")
            }
            Ok((Place { endpoints, unknown: Some(why) }, lacks)) => {
                assert_eq!(lacks, None);
                assert!(endpoints.is_empty());
                why.to_string()
            }
            Err(error) => format!("error: {error}"),
        };
        (said, pause.as_secs())
    }

    #[test]
    fn both_families_count_and_the_shorter_time_holds() {
        let known = &mut Known::default();
        let said = take(known, records(&["10.0.0.1", "10.0.0.2"], 60), records(&["fd00::1"], 20));
        assert_eq!(said, ("10.0.0.1:7 10.0.0.2:7 [fd00::1]:7".into(), 20));
        assert_eq!(take(known, records(&["10.0.0.1"], 60), records(&[], 5)), ("10.0.0.1:7".into(), 60));
    }

    #[test]
    fn times_are_bounded() {
        let known = &mut Known::default();
        for (valid, pause) in [(0, 1), (1, 1), (300, 300), (301, 300), (86_400, 300)] {
            assert_eq!(take(known, records(&["10.0.0.1"], valid), records(&[], 0)).1, pause);
        }
        for (valid, pause) in [(0, 1), (30, 30), (31, 30)] {
            assert_eq!(take(known, records(&[], valid), records(&[], 3600)).1, pause);
        }
        assert_eq!(spread(10 * RETRY, 0.0), 10 * RETRY);
        assert_eq!(spread(10 * RETRY, 1.0), 11 * RETRY);
    }

    #[test]
    fn a_failure_keeps_what_was_known() {
        let known = &mut Known::default();
        assert_eq!(take(known, failed(), failed()), ("error: refused".into(), 1));
        assert_eq!(take(known, records(&[], 5), failed()), ("error: refused".into(), 2), "there may be others");
        let said = take(known, records(&["10.0.0.1"], 60), failed());
        assert_eq!(said, ("10.0.0.1:7 no AAAA records: refused".into(), 60), "no AAAA, no harm");
        assert_eq!(take(known, records(&["10.0.0.1"], 60), records(&["fd00::1"], 60)).0, "10.0.0.1:7 [fd00::1]:7");
        let said = take(known, records(&["10.0.0.2"], 60), failed()).0;
        assert_eq!(said, "10.0.0.2:7 [fd00::1]:7 no AAAA records: refused");
        let pauses: Vec<_> = (0..7).map(|_| take(known, failed(), failed()).1).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(take(known, records(&[], 5), records(&[], 5)).0, "delta.internal has no address");
    }

    #[test]
    fn that_there_is_no_such_name_is_an_answer() {
        let none = || Ok(Records { addresses: Vec::new(), valid: None, exists: false });
        let said = take(&mut Known::default(), none(), none());
        assert_eq!(said, ("delta.internal does not exist (NXDOMAIN)".into(), 5));
    }
}
