//! The generations of the configuration: which is in use, which were, and which were refused and why.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::Notify;

use crate::config::Config;

/// Most generations that are remembered. Enough to see what a day of changes did; each takes some hundred bytes.
pub const REMEMBERED: usize = 32;

/// What is known of the generations, for whoever shows it.
#[derive(Debug)]
pub struct Generations {
    last: Cell<u64>,
    current: Cell<u64>,
    config: RefCell<Arc<Config>>,
    entries: RefCell<VecDeque<Entry>>,
    another: Notify,
}

/// One generation.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its number, from 1. One that was refused has a number, too.
    pub number: u64,
    /// When it was decided upon.
    pub time: SystemTime,
    /// The files that it was made of.
    pub files: Vec<PathBuf>,
    /// What became of it.
    pub state: State,
}

/// What became of a generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It is or was in use.
    Accepted,
    /// It was never in use, and why.
    Rejected(String),
}

impl Generations {
    /// Begins with the generation 1, of these files.
    pub fn new(config: Arc<Config>, files: Vec<PathBuf>, now: SystemTime) -> Self {
        let first = Entry { number: 1, time: now, files, state: State::Accepted };
        Generations {
            last: Cell::new(1),
            current: Cell::new(1),
            config: RefCell::new(config),
            entries: RefCell::new([first].into()),
            another: Notify::new(),
        }
    }

    /// The number of the one in use.
    pub fn current(&self) -> u64 {
        self.current.get()
    }

    /// The configuration in use.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.borrow())
    }

    /// What is remembered, the newest first.
    pub fn entries(&self) -> Vec<Entry> {
        self.entries.borrow().iter().rev().cloned().collect()
    }

    /// The number of a new one.
    pub fn begin(&self) -> u64 {
        self.last.set(self.last.get() + 1);
        self.last.get()
    }

    /// One has come into use.
    pub fn accepted(&self, number: u64, config: Arc<Config>, files: Vec<PathBuf>, now: SystemTime) {
        self.current.set(number);
        *self.config.borrow_mut() = config;
        self.remember(Entry { number, time: now, files, state: State::Accepted });
        self.another.notify_one();
    }

    /// Waits until another one has come into use since this was asked last. For one who asks.
    pub async fn another(&self) {
        self.another.notified().await;
    }

    /// One was refused.
    pub fn rejected(&self, number: u64, why: &str, files: Vec<PathBuf>, now: SystemTime) {
        self.remember(Entry { number, time: now, files, state: State::Rejected(why.to_owned()) });
    }

    /// Forgets the oldest, but never the one in use.
    fn remember(&self, entry: Entry) {
        let mut entries = self.entries.borrow_mut();
        entries.push_back(entry);
        if entries.len() > REMEMBERED
            && let Some(oldest) = entries.iter().position(|entry| entry.number != self.current.get())
        {
            entries.remove(oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_in_use_is_never_forgotten() {
        let host = crate::config::resolve::Host { variable: &|_| None, exists: &|_| true, cores: 1 };
        let parsed = crate::config::parse("node: {service: alpha}\noutbound: {}", "test", "/".as_ref(), &host);
        let config = Arc::new(parsed.expect("a config").0);
        let now = SystemTime::UNIX_EPOCH;
        let generations = Generations::new(Arc::clone(&config), Vec::new(), now);
        assert_eq!(generations.begin(), 2);
        generations.accepted(2, config, Vec::new(), now);
        for _ in 0..2 * REMEMBERED {
            generations.rejected(generations.begin(), "no", Vec::new(), now);
        }
        let entries = generations.entries();
        assert_eq!((entries.len(), generations.current()), (REMEMBERED, 2));
        assert_eq!(entries.first().map(|e| (e.number, e.state.clone())), Some((66, State::Rejected("no".into()))));
        assert_eq!(entries.last().map(|e| (e.number, e.state.clone())), Some((2, State::Accepted)));
    }
}
