//! Modules from other machines: fetched by their digest, kept in the cache, and asked for again while they are missing.

mod credentials;
mod image;
mod unpack;
mod web;

use std::collections::VecDeque;
use std::fs;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use tokio::task::JoinSet;

use self::web::{Client, Trouble};
use super::cache::{Cache, Form};
use super::{Refusal, Stop, sha256};
use crate::config::{Filter, Module, Place, Remote};
use crate::filter::compiled::Compiled;

/// How long one attempt to fetch a module may take, all its requests together; Istio's default. It holds up the start.
const ATTEMPT_TIME: Duration = Duration::from_secs(15);

/// How often a failed attempt is repeated before a configuration is refused; Istio's default.
const RETRIES: u32 = 5;

/// The first wait between two attempts; it doubles up to the longest. A sidecar that lacks a module asks once a minute,
/// which a registry does not feel and an operator can wait for.
const BACKOFF: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// Modules that are fetched at once. Each is held in memory, up to [`MODULE_MAX`](super::MODULE_MAX).
const PARALLEL: usize = 4;

/// How much is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// One attempt.
    Once,
    /// [`RETRIES`] more.
    Retries,
}

/// A module to fetch.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// Who wants it.
    pub(super) filter: String,
    /// Where it is.
    pub(super) remote: Remote,
    /// What it must be, and its key in the cache.
    pub(super) sha256: String,
}

/// A module that could not be fetched.
#[derive(Clone, Debug)]
pub struct Missing {
    pub(super) wanted: Wanted,
    /// Why.
    pub(super) why: String,
}

impl Wanted {
    /// What must be fetched for a filter; nothing if its module is here, or somewhere that is no other machine.
    pub(super) fn of(filter: &Filter, ready: &[Arc<Compiled>], cache: &Cache) -> Option<Wanted> {
        let (Module::Remote(remote), Some(sha256)) = (&filter.module, &filter.sha256) else { return None };
        let here = ready.iter().any(|ready| ready.settings == *filter) || cache.find(sha256, Form::Module).is_some();
        (!here).then(|| Wanted { filter: filter.name.clone(), remote: remote.clone(), sha256: sha256.clone() })
    }

    /// Whether it is the same module, whoever wants it.
    pub(super) fn is(&self, other: &Wanted) -> bool {
        self.sha256 == other.sha256 && self.remote == other.remote
    }
}

impl Missing {
    /// The filter that lacks it.
    pub fn filter(&self) -> &str {
        &self.wanted.filter
    }

    /// Where it should come from, and why it does not.
    pub fn told(&self) -> String {
        format!("cannot fetch {}: {}", self.wanted.remote.url, self.why)
    }
}

impl From<Missing> for Refusal {
    fn from(missing: Missing) -> Self {
        Refusal { why: missing.told(), filter: missing.wanted.filter }
    }
}

/// Fetches modules into the cache. Blocks. What could not be had comes back, unless it was to stop.
pub(super) fn fetch(wanted: Vec<Wanted>, cache: &Arc<Cache>, patience: Patience, stop: &Stop) -> Vec<Missing> {
    if wanted.is_empty() {
        return Vec::new();
    }
    let nothing = |why: String| wanted.iter().map(|one| Missing { wanted: one.clone(), why: why.clone() }).collect();
    let client = Arc::new(Client::new());
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return nothing(format!("cannot start: {error}")),
    };
    let mut queue: VecDeque<&Wanted> = VecDeque::new();
    for one in &wanted {
        if !queue.iter().any(|other| other.is(one)) {
            queue.push_back(one);
        }
    }
    let (mut tasks, mut missing) = (JoinSet::new(), Vec::new());
    let fetched = async {
        loop {
            while tasks.len() < PARALLEL
                && let Some(wanted) = queue.pop_front()
            {
                let (client, cache, wanted) = (Arc::clone(&client), Arc::clone(cache), wanted.clone());
                tasks.spawn(async move {
                    let fetched = patiently(&client, &wanted, &cache, patience).await;
                    fetched.err().map(|why| Missing { wanted, why })
                });
            }
            match tasks.join_next().await {
                Some(Ok(None)) => {}
                Some(Ok(Some(Missing { wanted: lost, why }))) => {
                    let losers = wanted.iter().filter(|one| one.is(&lost));
                    missing.extend(losers.map(|one| Missing { wanted: one.clone(), why: why.clone() }));
                }
                // It has panicked, which the log says, and then its file is not found.
                Some(Err(_)) => {}
                None => return,
            }
        }
    };
    runtime.block_on(async {
        tokio::select! {
            () = fetched => {}
            () = stop.due() => {}
        }
    });
    // Not by dropping it, which waits for a name server that does not answer.
    runtime.shutdown_background();
    missing
}

async fn patiently(client: &Client, wanted: &Wanted, cache: &Cache, patience: Patience) -> Result<(), String> {
    let mut failures = 0;
    loop {
        let attempt = tokio::time::timeout(ATTEMPT_TIME, attempt(client, wanted)).await;
        let trouble = match attempt {
            Ok(Ok(code)) => {
                let write = |path: &std::path::Path| fs::write(path, &code).map_err(|error| error.to_string());
                return cache.add(&wanted.sha256, Form::Module, write).map(drop);
            }
            Ok(Err(trouble)) => trouble,
            Err(_) => Trouble::passing(format!("it takes longer than {ATTEMPT_TIME:?}")),
        };
        failures += 1;
        if patience == Patience::Once || !trouble.passes || failures > RETRIES {
            let times = if failures > 1 { format!(" (tried {failures} times)") } else { String::new() };
            return Err(format!("{}{times}", trouble.why));
        }
        let wait = backoff(failures, fastrand::f64());
        let Wanted { filter, remote, .. } = wanted;
        tracing::warn!(filter, url = remote.url, ?wait, "cannot fetch a module, trying again: {}", trouble.why);
        tokio::time::sleep(wait).await;
    }
}

/// Fetches a module once, compares its digest, and unpacks it.
async fn attempt(client: &Client, wanted: &Wanted) -> Result<Vec<u8>, Trouble> {
    let Wanted { remote, sha256: expected, .. } = wanted;
    let bytes = match &remote.place {
        Place::Url(url) => {
            let bytes = client.file(url).await?;
            let digest = sha256(&bytes);
            if digest != *expected {
                return Err(Trouble::lasting(format!("it has the SHA-256 {digest}, and sha256 expects {expected}")));
            }
            bytes
        }
        Place::Image { registry, repository } => {
            image::fetch(client, registry, repository, expected, remote.credentials.as_deref()).await?
        }
    };
    unpack::module(bytes).map_err(Trouble::lasting)
}

/// How long to wait after so many failures: half of it by chance (0 to 1), so that a thousand sidecars that lost one
/// registry at once do not return at once.
fn backoff(failures: u32, chance: f64) -> Duration {
    let whole = BACKOFF.saturating_mul(2u32.saturating_pow(failures.saturating_sub(1))).min(BACKOFF_MAX);
    whole.mul_f64(0.5 + chance / 2.0)
}

/// Modules that are missing in what is in use, and the thread that asks for them.
pub struct Absence {
    /// The thread ends when this has gone.
    _stop: mpsc::Sender<()>,
    over: Box<dyn FnOnce()>,
}

impl Absence {
    pub(super) fn begin(
        missing: Vec<Missing>,
        cache: Arc<Cache>,
        heard: impl Fn(&[Missing]) + Send + 'static,
        over: impl FnOnce() + 'static,
    ) -> Result<Absence, String> {
        let (stop, stopped) = mpsc::channel();
        let wanted: Vec<Wanted> = missing.into_iter().map(|missing| missing.wanted).collect();
        thread::Builder::new()
            .name("fetch".into())
            .spawn(move || pursue(wanted, &cache, &stopped, &heard))
            .map_err(|error| format!("cannot start a thread to fetch modules: {error}"))?;
        Ok(Absence { _stop: stop, over: Box::new(over) })
    }

    /// Another generation is in use: what is missing there is another's concern.
    pub fn end(self) {
        (self.over)();
    }
}

fn pursue(mut wanted: Vec<Wanted>, cache: &Arc<Cache>, stopped: &mpsc::Receiver<()>, heard: &dyn Fn(&[Missing])) {
    for failures in 1.. {
        match stopped.recv_timeout(backoff(failures, fastrand::f64())) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
        }
        let missing = fetch(wanted, cache, Patience::Once, &Stop::default());
        heard(&missing);
        if missing.is_empty() {
            return;
        }
        wanted = missing.into_iter().map(|missing| missing.wanted).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_server_that_says_nothing_is_given_up() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/m", silent.local_addr().unwrap());
        let remote = Remote { place: Place::Url(url.parse().unwrap()), url, credentials: None };
        let wanted = Wanted { filter: "a".into(), remote, sha256: sha256(b"") };
        let home = tempfile::tempdir().unwrap();
        let cache = Cache::at(home.path().join("cache")).unwrap();
        for (patience, told, attempts) in [
            (Patience::Once, "it takes longer than 15s", 1),
            (Patience::Retries, "it takes longer than 15s (tried 6 times)", 6),
        ] {
            let began = tokio::time::Instant::now();
            assert_eq!(patiently(&Client::new(), &wanted, &cache, patience).await, Err(told.into()));
            let waits: Duration = (1..attempts).map(|failures| backoff(failures, 1.0)).sum();
            let least = ATTEMPT_TIME * attempts + waits / 2;
            // Timers are a millisecond coarse.
            let most = ATTEMPT_TIME * attempts + waits + Duration::from_millis(50);
            assert!((least..most).contains(&began.elapsed()), "{:?}", began.elapsed());
        }
    }

    #[test]
    fn waits_grow_to_a_bound_and_are_spread() {
        let waits: Vec<_> = (1..=9).map(|failures| backoff(failures, 1.0).as_millis()).collect();
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
        assert_eq!(backoff(2, 0.0), Duration::from_millis(500));
        assert_eq!(backoff(u32::MAX, 0.5), Duration::from_secs(45));
    }
}
