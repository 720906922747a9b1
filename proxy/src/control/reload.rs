//! A saved file becomes a generation: read, checked, compiled and tried apart from the workers, then taken over by all
//! of them or by none.

use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant as Moment, timeout_at};

use super::discovery::{Discovery, FIRST_ANSWER};
use super::generations::Generations;
use super::health::Health;
use super::modules::{self, Absence, Missing, Wish, Workshop};
use super::ports::Ports;
use super::watch::Watcher;
use crate::config::{self, Config, Module, Problem, Warning};
use crate::filter::chain::Plan;
use crate::mesh::generation::Snapshot;
use crate::policy::shed::Load;
use crate::telemetry::labels;
use crate::telemetry::metrics::Metrics;
use crate::worker::{Next, Order, Peers};

/// How long all workers together may take until each has made a generation ready. A worker does that between two
/// requests, and each new filter may take a second to start.
const PREPARE_TIME: Duration = Duration::from_secs(30);

/// How often an attempt is begun anew because the files have changed while its modules were fetched and compiled. Then one is
/// carried through: who saves faster than a module compiles must not keep it from being compiled.
const ANEW_MAX: u32 = 8;

/// The config file and what it refers to, watched.
pub struct Source {
    path: PathBuf,
    files: Vec<PathBuf>,
    watcher: Watcher,
    /// What is made of the file each time that it is read.
    change: Option<Change>,
}

/// See [`Source::open_changed`].
type Change = Box<dyn Fn(&mut Config)>;

impl Source {
    /// Begins to watch a config file, and then reads it.
    ///
    /// # Errors
    /// Every problem of the file.
    pub fn open(path: &Path) -> Result<(Self, Config), Vec<Problem>> {
        Self::new(path, None)
    }

    /// The same with something else in the place of parts of the file, now and at each reload.
    ///
    /// # Errors
    /// Every problem of the file.
    pub fn open_changed(path: &Path, change: impl Fn(&mut Config) + 'static) -> Result<(Self, Config), Vec<Problem>> {
        Self::new(path, Some(Box::new(change)))
    }

    fn new(path: &Path, change: Option<Change>) -> Result<(Self, Config), Vec<Problem>> {
        let files = vec![path.to_owned()];
        let mut source = Source { path: path.to_owned(), watcher: Watcher::new(files.clone()), files, change };
        let config = source.read()?;
        Ok((source, config))
    }

    /// Reads the config file. From then on the modules that it refers to are watched as well: they are read after that.
    fn read(&mut self) -> Result<Config, Vec<Problem>> {
        let (mut config, warnings) = config::load(&self.path)?;
        if let Some(change) = &self.change {
            // What is worth a thought may be what is changed here; `lacis check` tells it of the file alone.
            change(&mut config);
        } else {
            for Warning(warning) in warnings {
                tracing::warn!("{warning}");
            }
        }
        let modules = config.filters.iter().filter_map(|filter| match &filter.module {
            Module::Path(path) => Some(path.clone()),
            // What these are is known by a digest in the file.
            Module::Builtin(_) | Module::Remote(_) => None,
        });
        self.files = vec![self.path.clone()];
        for module in modules {
            if !self.files.contains(&module) {
                self.files.push(module);
            }
        }
        self.watcher.watch(self.files.clone());
        Ok(config)
    }

    /// The files, as far as they are known.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }
}

/// Makes new generations for as long as the process runs.
pub struct Reload {
    /// Where they come from.
    pub source: Source,
    /// Where filters are made ready.
    pub workshop: Workshop,
    /// Services' own ports.
    pub ports: Rc<Ports>,
    /// Where services are.
    pub discovery: Rc<Discovery>,
    /// Whether their endpoints are well.
    pub health: Rc<Health>,
    /// Who takes them over.
    pub peers: Arc<Peers>,
    /// What is shown of them.
    pub generations: Rc<Generations>,
    /// What the process carries.
    pub load: Arc<Load>,
    /// Where they are counted.
    pub metrics: Rc<Metrics>,
    /// Somebody wants one though no file has changed.
    pub asked: Arc<Notify>,
    /// The modules that are missing in what is in use.
    pub missing: Option<Absence>,
    /// Has modules fetched that were missing at the start, and are so in a later generation.
    pub pursue: Pursue,
}

/// See [`Reload::pursue`].
pub type Pursue = Box<dyn Fn(&Workshop, Vec<Missing>) -> Result<Option<Absence>, String>>;

impl Reload {
    /// Makes a generation whenever a file has changed or somebody asks.
    pub async fn run(mut self) {
        loop {
            wish(&mut self.source.watcher, &self.asked).await;
            self.change().await;
        }
    }

    async fn change(&mut self) {
        let (number, started) = (self.generations.begin(), Instant::now());
        let mut anew = 0;
        let outcome = loop {
            match self.attempt(number, anew < ANEW_MAX).await {
                Ok(made) => break Ok(made),
                Err(Failure::Refused(why)) => break Err(why),
                Err(Failure::Superseded) => anew += 1,
            }
            tracing::info!(generation = number, "the files have changed again: their modules are made ready anew");
        };
        let (files, now) = (self.source.files().to_vec(), SystemTime::now());
        match outcome {
            Ok((config, missing)) => {
                if let Some(absence) = self.missing.take() {
                    absence.end();
                }
                self.missing = (self.pursue)(&self.workshop, missing).unwrap_or_else(|why| {
                    tracing::error!("modules stay missing until the next change: {why}");
                    None
                });
                self.generations.accepted(number, config, files, now);
                self.metrics.config_generation(number);
                self.metrics.config_reload(labels::Reload::Accepted);
                tracing::info!(generation = number, duration = ?started.elapsed(), "configuration reloaded");
            }
            Err(why) => {
                let in_use = self.generations.current();
                self.generations.rejected(number, &why, files, now);
                self.metrics.config_reload(labels::Reload::Rejected);
                tracing::error!(
                    generation = number,
                    in_use,
                    "configuration not reloaded, the previous one stays in use: {why}"
                );
            }
        }
        self.discovery.keep(&self.generations.config());
    }

    /// Tries what the files are now, unless they change again and it may be `superseded`.
    async fn attempt(&mut self, number: u64, superseded: bool) -> Result<(Arc<Config>, Vec<Missing>), Failure> {
        let path = &self.source.path;
        // As at the start it may be a pipe. That is read once: whoever tries again waits, and so do signals and probes.
        if fs::metadata(path).is_ok_and(|about| !about.is_file()) {
            return Err(format!("{}: cannot be read again: it is not a file", path.display()).into());
        }
        let config = Arc::new(self.source.read().map_err(lines)?);
        let fixed = fixed(&self.generations.config(), &config);
        if !fixed.is_empty() {
            let (keys, verb) = (fixed.join(", "), if fixed.len() == 1 { "needs" } else { "need" });
            return Err(format!("{keys}: cannot change while the sidecar runs and {verb} a restart").into());
        }
        let (plan, missing) = self.prepare(&config, superseded).await?;
        self.discovery.follow(&config);
        self.discovery.answers(&config, FIRST_ANSWER, |_| {}).await;
        let mut ports = self.ports.change(&config)?;
        let places = self.discovery.places(&config);
        let snapshot = Snapshot::new(number, Arc::clone(&config), plan.clone(), places, &self.load);
        let mut answers = Vec::new();
        self.peers.tell(|| {
            let (answer, ready) = oneshot::channel();
            answers.push(ready);
            let (closed, moved) = (ports.closed(), ports.moved());
            Order::Prepare(Box::new(Next {
                snapshot: snapshot.clone(),
                ports: ports.next_worker(),
                closed,
                moved,
                answer,
            }))
        });
        if let Err(why) = all_ready(answers).await {
            self.peers.tell(|| Order::Discard(number));
            return Err(why.into());
        }
        let mut answers = Vec::new();
        self.peers.tell(|| {
            let (answer, switched) = oneshot::channel();
            answers.push(switched);
            Order::Switch(number, answer)
        });
        // Nothing can fail there. A worker that is stuck switches before it begins its next request.
        let deadline = Moment::now() + PREPARE_TIME;
        for answer in answers {
            let _ = timeout_at(deadline, answer).await;
        }
        self.health.follow(&config);
        self.ports.keep(ports);
        self.workshop.keep(&plan, &missing);
        Ok((config, missing))
    }

    /// Compiles and tries the filters on a thread of its own: this one has signals and probes to answer.
    async fn prepare(&mut self, config: &Arc<Config>, superseded: bool) -> Result<(Plan, Vec<Missing>), Failure> {
        let (done, mut prepared) = oneshot::channel();
        let (wanted, stop) = Wish::new();
        let mut wanted = Some(wanted);
        let (mut workshop, config) = (std::mem::take(&mut self.workshop), Arc::clone(config));
        let work = move || {
            let plan = workshop.prepare(&config, &stop);
            // Whoever waits has not gone: only the end of the process ends it.
            let _ = done.send((workshop, plan));
        };
        let thread = thread::Builder::new().name("reload".into()).spawn(work);
        thread.map_err(|error| format!("cannot start a thread to make filters: {error}"))?;
        let prepared = loop {
            tokio::select! {
                prepared = &mut prepared => break prepared,
                () = wish(&mut self.source.watcher, &self.asked), if superseded && wanted.is_some() => wanted = None,
            }
        };
        let (workshop, plan) = prepared.map_err(|_| "making filters hit a defect of lacis, see the log".to_owned())?;
        self.workshop = workshop;
        if wanted.is_none() {
            return Err(Failure::Superseded);
        }
        Ok(plan.map_err(|refusals| modules::told(&refusals))?)
    }
}

/// Why an attempt at a generation came to nothing.
enum Failure {
    /// It is wrong, and why.
    Refused(String),
    /// The files have changed, or somebody has asked, while it was made ready.
    Superseded,
}

impl From<String> for Failure {
    fn from(why: String) -> Self {
        Failure::Refused(why)
    }
}

/// Waits until a file has changed or somebody asks.
async fn wish(watcher: &mut Watcher, asked: &Notify) {
    tokio::select! {
        _ = watcher.changed() => {}
        () = asked.notified() => {}
    }
}

async fn all_ready(answers: Vec<oneshot::Receiver<Result<(), String>>>) -> Result<(), String> {
    let deadline = Moment::now() + PREPARE_TIME;
    for (worker, answer) in answers.into_iter().enumerate() {
        match timeout_at(deadline, answer).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(why))) => return Err(why),
            Ok(Err(_)) => return Err(format!("worker {worker} has ended")),
            Err(_) => return Err(format!("worker {worker} has not answered within {PREPARE_TIME:?}")),
        }
    }
    Ok(())
}

/// The keys that differ and cannot: what the process is made of, what it listens on, and who it is.
fn fixed(now: &Config, next: &Config) -> Vec<&'static str> {
    let outbound = |config: &Config| config.outbound.as_ref().map(|outbound| outbound.listen);
    let inbound = |config: &Config| config.inbound.as_ref().map(|inbound| inbound.listen);
    let keys = [
        ("node", now.node != next.node),
        ("identity", now.identity != next.identity),
        ("outbound.listen", outbound(now) != outbound(next)),
        ("inbound.listen", inbound(now) != inbound(next)),
        ("admin.listen", now.admin != next.admin),
        ("telemetry.access_log", now.access_log != next.access_log),
        ("workers", now.workers != next.workers),
    ];
    keys.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
}

fn lines(items: Vec<impl ToString>) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        let host = config::resolve::Host { variable: &|_| None, exists: &|_| true, cores: 1 };
        config::parse(text, "test", Path::new("/"), &host).expect("a config").0
    }

    #[test]
    fn what_needs_a_restart_is_named() {
        let base = "outbound: {listen: 127.0.0.1:1}\n";
        let now = config(&format!("node: {{service: alpha}}\n{base}"));
        assert!(fixed(&now, &now).is_empty());
        let services = "services: {b: {endpoints: [127.0.0.1:9], link: plaintext, listen: 127.0.0.1:8}}";
        assert!(fixed(&now, &config(&format!("node: {{service: alpha}}\n{base}{services}"))).is_empty());
        for (key, text) in [
            ("node", "node: {service: beta}\noutbound: {listen: 127.0.0.1:1}"),
            ("outbound.listen", "node: {service: alpha}\noutbound: {listen: 127.0.0.1:2}"),
            ("admin.listen", "node: {service: alpha}\noutbound: {listen: 127.0.0.1:1}\nadmin: {listen: 127.0.0.1:3}"),
            ("workers", "node: {service: alpha}\noutbound: {listen: 127.0.0.1:1}\nworkers: 2"),
            (
                "telemetry.access_log",
                "node: {service: alpha}\noutbound: {listen: 127.0.0.1:1}\ntelemetry: {access_log: {path: /tmp/a}}",
            ),
        ] {
            assert_eq!(fixed(&now, &config(text)), [key]);
        }
    }
}
