//! One VM of each filter is made, started and configured off the data path, and dropped: what fails here is an error of
//! the configuration, and no worker ever sees it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lacis_host::abi::{Level, MetricKind, Path, Status};
use lacis_host::{CallId, CallOut, Change, Now, RootId, StartError, Vm, World};

use crate::config::Node;
use crate::filter::compiled::Compiled;
use crate::filter::node::NodeFacts;
use crate::filter::world::READS;

/// Longest piece of a filter's last line that an error repeats, in characters; the log has all of it.
const LAST_MAX: usize = 300;

/// Last lines of a filter that are kept for the log should it fail, each at most `lacis_host::limits::LOG_LINE` long.
/// What led to a failure is in the last few.
const LINES_MAX: usize = 100;

/// How many times longer than on trial a filter may take to start in a worker, where others wait for it, and how long the
/// quickest may. What is hostile behaves on trial, and would hold a worker for a second or more each time that it is replaced.
const SLACK: u32 = 4;
const START_MIN: Duration = Duration::from_millis(100);

/// What is known of a filter that has started once.
#[derive(Debug)]
pub(super) struct Tried {
    /// What it says that it reads beyond heads of HTTP ([`READS`]).
    pub(super) reads: Option<[bool; 2]>,
    /// How long each step of its start may take from now on.
    pub(super) start: Duration,
}

/// Starts and configures a filter once.
///
/// # Errors
/// What happened, and what the filter logged last.
pub(super) fn run(filter: &Compiled, node: &Node) -> Result<Tried, String> {
    // A thread of its own: a guest's stack and its end are nobody else's.
    thread::scope(|scope| {
        let canary = thread::Builder::new().name("canary".into()).spawn_scoped(scope, || start(filter, node));
        let canary = canary.map_err(|error| format!("cannot start a thread to try the filter: {error}"))?;
        canary.join().unwrap_or_else(|_| Err("trying it hit a defect of lacis, see the log".into()))
    })
}

fn start(filter: &Compiled, node: &Node) -> Result<Tried, String> {
    let begin = Instant::now();
    let trial = Rc::new(RefCell::new(Trial::new(node)));
    // Shared data of its own: what a canary leaves there must not reach the filters that serve.
    let started = Vm::new(&filter.plugin, filter.vm_settings(&Arc::default()), trial.clone())
        .and_then(|mut vm| vm.start_root(filter.plugin_settings()).map(drop));
    // The VM that serves says the same once more, and there it is news.
    let Err(error) = started else {
        return Ok(Tried { reads: trial.borrow().reads, start: start_time(begin.elapsed(), filter.start) });
    };
    let lines = std::mem::take(&mut trial.borrow_mut().lines);
    let last = lines.back().map(|(_, text)| text.trim().chars().take(LAST_MAX).collect::<String>());
    lines.iter().for_each(|(level, text)| log(&filter.settings.name, *level, text));
    if let StartError::Trap(trap) = &error {
        let name = &*filter.settings.name;
        tracing::error!(target: "filter", filter = name, backtrace = trap.backtrace, "{trap}");
    }
    Err(last.map_or_else(|| format!("{error}; it logged nothing"), |last| format!("{error}; it logged last: {last}")))
}

/// How long each step of a start may take that took so long on trial.
fn start_time(took: Duration, most: Duration) -> Duration {
    took.saturating_mul(SLACK).max(START_MIN).min(most)
}

/// Writes to the log what a filter that failed had to say.
fn log(filter: &str, level: Level, text: &str) {
    match level {
        Level::Trace => tracing::trace!(target: "filter", filter, canary = true, "{text}"),
        Level::Debug => tracing::debug!(target: "filter", filter, canary = true, "{text}"),
        Level::Info => tracing::info!(target: "filter", filter, canary = true, "{text}"),
        Level::Warn => tracing::warn!(target: "filter", filter, canary = true, "{text}"),
        Level::Error => tracing::error!(target: "filter", filter, canary = true, "{text}"),
        Level::Critical => tracing::error!(target: "filter", filter, canary = true, critical = true, "{text}"),
    }
}

/// The world of a filter that is tried. All that it does there ends with it.
struct Trial {
    node: NodeFacts,
    begin: Instant,
    lines: VecDeque<(Level, String)>,
    /// Kind, name and value; the host bounds how many a VM may define.
    metrics: Vec<(MetricKind, String, u64)>,
    reads: Option<[bool; 2]>,
}

impl Trial {
    fn new(node: &Node) -> Trial {
        Trial {
            node: NodeFacts::new(node),
            begin: Instant::now(),
            lines: VecDeque::new(),
            metrics: Vec::new(),
            reads: None,
        }
    }
}

impl World for Trial {
    fn log(&mut self, _: &str, level: Level, text: &str) {
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back((level, text.to_owned()));
    }

    /// All of it: what it says last explains a failure, at whatever level it says it.
    fn level(&self) -> Level {
        Level::Trace
    }

    fn now(&self) -> Now {
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { unix: nanoseconds(unix), monotonic: nanoseconds(self.begin.elapsed()) }
    }

    fn property(&self, path: Path<'_>, out: &mut Vec<u8>) -> Result<(), Status> {
        let segments: Vec<&[u8]> = path.segments().take(4).collect();
        self.node.property(&segments, out)
    }

    fn foreign(&mut self, _: &str, name: &[u8], arguments: &[u8], _: &mut Vec<u8>) -> Result<(), Status> {
        if name != READS {
            return Err(Status::NotFound);
        }
        let [request, response] = arguments.try_into().map_err(|_| Status::BadArgument)?;
        self.reads = Some([request != 0, response != 0]);
        Ok(())
    }

    /// It does not live to see a tick.
    fn set_tick(&mut self, _: RootId, _: Option<Duration>) {}

    /// Nor an answer to a call: that it can be made is what is tried.
    fn call_out(&mut self, _: &str, _: CallId, _: RootId, _: CallOut) -> Result<(), Status> {
        Ok(())
    }

    fn call_send(&mut self, _: CallId, _: Option<Vec<u8>>, _: bool) -> Result<(), Status> {
        Ok(())
    }

    fn define_metric(&mut self, _: &str, kind: MetricKind, name: &str, more: bool) -> Option<u32> {
        let known = self.metrics.iter().position(|(k, n, _)| (*k, n.as_str()) == (kind, name));
        if known.is_none() && more {
            self.metrics.push((kind, name.to_owned(), 0));
            return u32::try_from(self.metrics.len() - 1).ok();
        }
        u32::try_from(known?).ok()
    }

    fn metric(&mut self, metric: u32, change: Change) -> u64 {
        let Some((kind, _, value)) = self.metrics.get_mut(metric as usize) else { return 0 };
        match change {
            Change::Read | Change::Sample(_) => {}
            Change::Add(more) => *value = value.wrapping_add(more),
            Change::Set(to) => *value = to,
        }
        if *kind == MetricKind::Histogram { 0 } else { *value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_may_take_some_times_as_long_as_on_trial() {
        let millis = Duration::from_millis;
        for (took, may) in [(0, 100), (25, 100), (26, 104), (249, 996), (250, 1000), (u64::MAX, 1000)] {
            assert_eq!(start_time(millis(took), millis(1000)), millis(may), "{took}");
        }
    }
}
