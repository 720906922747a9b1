//! Load shedding: what is asked when the whole sidecar has enough is refused, the least important first.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::conditions::{Asked, Matcher};
use crate::config::admission::{Overload, Priority};
use crate::fault::{Fault, Reason};
use crate::telemetry::cell::Counter;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::trail::{Busy, Trail};

/// Requests that are let in however much memory is in use: an allocator may keep what was freed, and a sidecar that
/// refused everything until it is given back would never recover.
const MIN_IN_FLIGHT: u32 = 16;

/// When to ask again.
const SOON: Duration = Duration::from_secs(1);

/// What the process carries, of all workers together.
#[derive(Debug, Default)]
pub struct Load {
    in_flight: AtomicU32,
    memory: AtomicU64,
}

impl Load {
    /// So much memory is in use, in bytes.
    pub fn use_memory(&self, bytes: u64) {
        self.memory.store(bytes, Relaxed);
    }
}

/// The bounds of the sidecar, as a worker asks them.
#[derive(Debug)]
pub struct Shed {
    load: Arc<Load>,
    requests: Option<u32>,
    memory: Option<u64>,
    priorities: Vec<(Priority, Vec<Matcher>)>,
    refused: [Arc<Counter>; Priority::ALL.len()],
}

impl Shed {
    /// The bounds of a configuration, for what all its workers carry.
    pub fn new(overload: &Overload, load: &Arc<Load>, metrics: &Metrics) -> Rc<Self> {
        let priorities = overload.priorities.iter();
        Rc::new(Shed {
            load: Arc::clone(load),
            requests: overload.requests,
            memory: overload.memory,
            priorities: priorities.map(|(p, of)| (*p, of.iter().map(Matcher::new).collect())).collect(),
            refused: Priority::ALL.map(|priority| metrics.shed(priority.token())),
        })
    }

    /// Lets a request in until its trail ends, unless there is too much for one of its importance.
    ///
    /// # Errors
    /// `Overload`.
    pub fn enter(self: &Rc<Self>, asked: &Asked<'_>, trail: &Trail) -> Result<(), Fault> {
        let others = self.load.in_flight.fetch_add(1, Relaxed);
        if let Err(fault) = self.has_room(others, asked) {
            self.load.in_flight.fetch_sub(1, Relaxed);
            return Err(fault);
        }
        trail.held_by(Rc::clone(self) as Rc<dyn Busy>);
        Ok(())
    }

    /// How important a request is.
    pub fn priority(&self, asked: &Asked<'_>) -> Priority {
        let about = |(_, of): &&(Priority, Vec<Matcher>)| of.iter().any(|matcher| matcher.meets(asked));
        self.priorities.iter().find(about).map_or(Priority::Normal, |(priority, _)| *priority)
    }

    fn has_room(&self, others: u32, asked: &Asked<'_>) -> Result<(), Fault> {
        let full = |priority: Priority| {
            let share = |of: u64| of.saturating_mul(priority.share()) / 100;
            let requests = self.requests.is_some_and(|most| u64::from(others) >= share(most.into()).max(1));
            let memory = others >= MIN_IN_FLIGHT
                && self.memory.is_some_and(|most| self.load.memory.load(Relaxed) >= share(most));
            requests || memory
        };
        // Nobody needs to know how important a request is before there is little room.
        if !full(Priority::Low) {
            return Ok(());
        }
        let priority = self.priority(asked);
        if !full(priority) {
            return Ok(());
        }
        if let Some(refused) = self.refused.get(priority as usize) {
            refused.add(1);
        }
        let memory = self.load.memory.load(Relaxed);
        let detail = format!(
            "{others} requests are in flight and {memory} bytes in use: no more of {} priority",
            priority.token()
        );
        Err(Fault::new(Reason::Overload).detail(detail).wait(SOON))
    }
}

impl Busy for Shed {
    fn end(&self) {
        self.load.in_flight.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::admission::Conditions;
    use crate::config::matching::PathMatch;
    use crate::http::RequestHead;
    use crate::telemetry::metrics::Registry;

    fn shed(requests: Option<u32>, memory: Option<u64>, load: &Arc<Load>) -> Rc<Shed> {
        let path = |path: &str| Conditions { paths: vec![PathMatch::Exact(path.into())], ..Conditions::default() };
        let priorities = vec![(Priority::Critical, vec![path("/health")]), (Priority::Low, vec![path("/report")])];
        Shed::new(&Overload { requests, memory, priorities }, load, &Registry::default().metrics())
    }

    fn enter(shed: &Rc<Shed>, path: &str, trail: &Trail) -> bool {
        let mut head = RequestHead::unread();
        head.path = path.parse().expect("a path");
        let entered = shed.enter(&Asked::new(&head, None, 0), trail);
        if let Err(fault) = &entered {
            assert!(fault.reason == Reason::Overload && fault.wait.is_some());
        }
        entered.is_ok()
    }

    #[test]
    fn the_least_important_go_first_and_what_matters_last() {
        let load = Arc::default();
        let shed = shed(Some(100), None, &load);
        let trails: Vec<Trail> = (0..101).map(|_| Trail::default()).collect();
        let (last, rest) = trails.split_last().expect("some");
        assert!(rest[..80].iter().all(|trail| enter(&shed, "/report", trail)));
        assert!(!enter(&shed, "/report", last), "80 of 100 are low");
        assert!(rest[80..95].iter().all(|trail| enter(&shed, "/", trail)));
        assert!(!enter(&shed, "/", last), "95 are normal");
        assert!(rest[95..].iter().all(|trail| enter(&shed, "/health", trail)));
        assert!(!enter(&shed, "/health", last), "and 100 are all");
        assert_eq!(shed.refused.each_ref().map(|count| count.read()), [1, 1, 1]);
        rest[..21].iter().for_each(Trail::end);
        assert!(enter(&shed, "/report", last));
        drop(trails);
        assert_eq!(load.in_flight.load(Relaxed), 0);
        let narrow = self::shed(Some(1), None, &load);
        let trails = [Trail::default(), Trail::default()];
        assert!(enter(&narrow, "/report", &trails[0]) && !enter(&narrow, "/health", &trails[1]));
    }

    #[test]
    fn memory_counts_but_never_stops_everything() {
        let load = Arc::<Load>::default();
        let shed = shed(None, Some(1000), &load);
        let trails: Vec<Trail> = (0..MIN_IN_FLIGHT + 1).map(|_| Trail::default()).collect();
        let (last, rest) = trails.split_last().expect("some");
        load.use_memory(5000);
        assert!(rest.iter().all(|trail| enter(&shed, "/report", trail)));
        assert!(!enter(&shed, "/health", last));
        for (bytes, passing) in [(799, 3), (800, 2), (949, 2), (950, 1), (999, 1), (1000, 0)] {
            load.use_memory(bytes);
            let passed = ["/report", "/", "/health"].iter().filter(|path| {
                let trail = Trail::default();
                enter(&shed, path, &trail)
            });
            assert_eq!(passed.count(), passing, "{bytes}");
        }
    }
}
