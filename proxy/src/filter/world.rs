//! What outlives an exchange, as a VM's guests see it: the log, the clock, the node, metrics and timers.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use lacis_host::abi::{Level, MetricKind, Path, Status};
use lacis_host::{CallId, CallOut, Change, Limit, Now, RootId, World};
use tokio::sync::Notify;

use super::callout::Calls;
use super::compiled::Compiled;
use super::foreign::Foreign;
use super::node::{MAX_SEGMENTS, NodeFacts};
use crate::telemetry::family::Kind;
use crate::telemetry::guest::GuestMetrics;
use crate::telemetry::labels;
use crate::telemetry::metrics::Metrics;

/// The foreign function by which a filter of the SDK says what it reads beyond heads of HTTP, in a byte each: requests,
/// and responses. Its modules export all callbacks. It is asked for when the filter is tried, and after that is known.
pub const READS: &[u8] = b"lacis_reads";

/// The world of one VM in one worker.
pub(super) struct FilterWorld {
    node: Rc<NodeFacts>,
    metrics: Rc<Metrics>,
    /// What each plugin has defined, by its name: metrics have the filter as a label.
    defined: Vec<(Box<str>, GuestMetrics)>,
    /// Most of them for one plugin.
    most_metrics: usize,
    /// By the VM's number of a metric: the place of its plugin, and its number there.
    ids: Vec<(usize, u32)>,
    ticks: Rc<Ticks>,
    pub(super) calls: Calls,
    foreign: Foreign,
    /// What each plugin was told already to have reached.
    told: Vec<(Box<str>, labels::Limit)>,
    began: Instant,
}

/// When the plugins of one VM want their ticks. Wished by the guest, waited for by the VM's task.
#[derive(Debug, Default)]
pub(super) struct Ticks {
    /// Period and next moment; one for each plugin at most.
    wishes: RefCell<Vec<(RootId, Duration, Instant)>>,
    changed: Notify,
}

impl Ticks {
    /// Waits for the next tick, and says whose it is. While nobody wants one that is for ever.
    pub(super) async fn due(&self) -> RootId {
        loop {
            let changed = self.changed.notified();
            let next = self.wishes.borrow().iter().map(|(root, _, at)| (*at, *root)).min_by_key(|(at, _)| *at);
            match next {
                None => changed.await,
                Some((at, root)) => tokio::select! {
                    () = tokio::time::sleep_until(at.into()) => return root,
                    () = changed => {}
                },
            }
        }
    }

    /// The plugin's tick has returned after so long: its period begins anew, and is longer where ticks would take more than
    /// their share, in percent. Whether it is.
    pub(super) fn ticked(&self, root: RootId, took: Duration, share: u8) -> bool {
        let mut wishes = self.wishes.borrow_mut();
        let Some((_, period, at)) = wishes.iter_mut().find(|(own, ..)| *own == root) else { return false };
        let pause = pause(took, share);
        *at = Instant::now() + pause.max(*period);
        pause > *period
    }

    /// A plugin wants ticks, or no more.
    pub(super) fn wish(&self, root: RootId, period: Option<Duration>) {
        let mut wishes = self.wishes.borrow_mut();
        wishes.retain(|(own, ..)| *own != root);
        // A period that no clock can hold ends never: as good as none.
        let next = |period: Duration| Some((root, period, Instant::now().checked_add(period)?));
        wishes.extend(period.filter(|period| !period.is_zero()).and_then(next));
        self.changed.notify_one();
    }

    /// The VM is gone, and all that its plugins wished.
    pub(super) fn clear(&self) {
        self.wishes.borrow_mut().clear();
        self.changed.notify_one();
    }
}

/// How long there must be none after ticks that took so long, so that they take no more than this share, in percent.
fn pause(took: Duration, share: u8) -> Duration {
    took.saturating_mul(100_u32.saturating_sub(share.into())) / u32::from(share.max(1))
}

impl FilterWorld {
    /// For VMs of this.
    pub(super) fn new(
        compiled: &Compiled,
        node: &Rc<NodeFacts>,
        metrics: &Rc<Metrics>,
        ticks: &Rc<Ticks>,
        calls: Calls,
    ) -> Self {
        FilterWorld {
            node: Rc::clone(node),
            metrics: Rc::clone(metrics),
            defined: Vec::new(),
            most_metrics: compiled.settings.limits.metrics as usize,
            ids: Vec::new(),
            ticks: Rc::clone(ticks),
            calls,
            foreign: Foreign::new(compiled.buffer_limit()),
            told: Vec::new(),
            began: Instant::now(),
        }
    }

    /// A plugin is to start.
    pub(super) fn begin(&mut self, plugin: &str) {
        self.foreign.begin(plugin);
    }

    /// Counts what a plugin was refused, and says so the first time.
    pub(super) fn count(&mut self, plugin: &str, limit: labels::Limit) {
        self.metrics.filter_refused(plugin, limit);
        if self.told.iter().any(|(own, told)| **own == *plugin && *told == limit) {
            return;
        }
        self.told.push((plugin.into(), limit));
        tracing::warn!(
            target: "filter",
            filter = plugin,
            limit = limit.token(),
            "{}; how often that happens is counted by lacis_filter_refusals_total",
            told(limit)
        );
    }

    fn guest(&self, metric: u32) -> Option<(&GuestMetrics, u32)> {
        let (place, id) = *self.ids.get(metric as usize)?;
        self.defined.get(place).map(|(_, metrics)| (metrics, id))
    }
}

/// What was refused, and which key would change that.
fn told(limit: labels::Limit) -> &'static str {
    match limit {
        labels::Limit::Buffer => {
            "it held back more of a message than limits.buffer, or gave a foreign function more than it takes"
        }
        labels::Limit::Calls => "it has more calls under way than limits.calls, or they send too much",
        labels::Limit::LogLines => "it logs more lines in a second than limits.log_lines; the others are left out",
        labels::Limit::Memory => "it wants more memory than limits.memory",
        labels::Limit::Metrics => "it defines more metrics than limits.metrics, or one with too long a name",
        labels::Limit::SharedData => "it puts more into shared data than limits.shared_data, or too large an entry",
        labels::Limit::Table => "it wants a larger table than limits.table",
        labels::Limit::Ticks => "its ticks want more of the worker's time than limits.ticks, and come later",
        labels::Limit::Time => "it ran longer than limits.time",
        labels::Limit::Body => "it makes a body larger than it may be",
        labels::Limit::Headers => "it writes more headers and properties than one exchange may have",
        labels::Limit::Queues => {
            "its shared queues are full (limits.queue_items, limits.queue_size), or more than limits.queues"
        }
        labels::Limit::Function => "it called a host function that allow.functions does not name",
        labels::Limit::Service => "it called a service that allow.calls does not name",
    }
}

impl World for FilterWorld {
    fn log(&mut self, plugin: &str, level: Level, text: &str) {
        match level {
            Level::Trace => tracing::trace!(target: "filter", filter = plugin, "{text}"),
            Level::Debug => tracing::debug!(target: "filter", filter = plugin, "{text}"),
            Level::Info => tracing::info!(target: "filter", filter = plugin, "{text}"),
            Level::Warn => tracing::warn!(target: "filter", filter = plugin, "{text}"),
            Level::Error => tracing::error!(target: "filter", filter = plugin, "{text}"),
            Level::Critical => tracing::error!(target: "filter", filter = plugin, critical = true, "{text}"),
        }
    }

    /// What the log drops, the guest need not make. The levels may change while it runs.
    fn level(&self) -> Level {
        use tracing::{Level as Of, enabled};
        match () {
            () if enabled!(target: "filter", Of::TRACE) => Level::Trace,
            () if enabled!(target: "filter", Of::DEBUG) => Level::Debug,
            () if enabled!(target: "filter", Of::INFO) => Level::Info,
            () if enabled!(target: "filter", Of::WARN) => Level::Warn,
            () => Level::Error,
        }
    }

    /// Where no target has a level as low as this one, that is a comparison.
    fn logs(&self, level: Level) -> bool {
        use tracing::{Level as Of, enabled};
        match level {
            Level::Trace => enabled!(target: "filter", Of::TRACE),
            Level::Debug => enabled!(target: "filter", Of::DEBUG),
            Level::Info => enabled!(target: "filter", Of::INFO),
            Level::Warn => enabled!(target: "filter", Of::WARN),
            Level::Error | Level::Critical => true,
        }
    }

    fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Now { unix: unix.as_nanos() as u64, monotonic: self.began.elapsed().as_nanos() as u64 }
    }

    fn property(&self, path: Path<'_>, out: &mut Vec<u8>) -> Result<(), Status> {
        let segments: Vec<&[u8]> = path.segments().take(MAX_SEGMENTS + 1).collect();
        self.node.property(&segments, out)
    }

    fn set_tick(&mut self, root: RootId, period: Option<Duration>) {
        self.ticks.wish(root, period);
    }

    /// [`READS`], or one of [`foreign`](super::foreign).
    fn foreign(&mut self, plugin: &str, name: &[u8], arguments: &[u8], out: &mut Vec<u8>) -> Result<(), Status> {
        match name {
            READS => Ok(()),
            _ => {
                let done = self.foreign.call(plugin, name, arguments, out);
                if done == Err(Status::InternalFailure) {
                    self.count(plugin, labels::Limit::Buffer);
                }
                done
            }
        }
    }

    fn call_out(&mut self, plugin: &str, id: CallId, root: RootId, call: CallOut) -> Result<(), Status> {
        self.calls.begin(plugin, id, root, call)
    }

    fn call_send(&mut self, id: CallId, message: Option<Vec<u8>>, end: bool) -> Result<(), Status> {
        self.calls.send(id, message, end)
    }

    fn call_cancel(&mut self, id: CallId) {
        self.calls.cancel(id);
    }

    fn define_metric(&mut self, plugin: &str, kind: MetricKind, name: &str, more: bool) -> Option<u32> {
        let kind = match kind {
            MetricKind::Counter => Kind::Counter,
            MetricKind::Gauge => Kind::Gauge,
            MetricKind::Histogram => Kind::Histogram,
        };
        let place = self.defined.iter().position(|(own, _)| **own == *plugin).unwrap_or_else(|| {
            self.defined.push((plugin.into(), self.metrics.guest(plugin)));
            self.defined.len() - 1
        });
        let metrics = &self.defined.get(place)?.1;
        // The host counts those of one VM; the names of all VMs that died stay.
        let id = match more && metrics.count() < self.most_metrics {
            true => metrics.define(kind, name).ok(),
            false => metrics.known(kind, name),
        };
        let id = (place, id?);
        let number = self.ids.iter().position(|own| *own == id).unwrap_or_else(|| {
            self.ids.push(id);
            self.ids.len() - 1
        });
        u32::try_from(number).ok()
    }

    fn metric(&mut self, metric: u32, change: Change) -> u64 {
        let Some((metrics, id)) = self.guest(metric) else { return 0 };
        // The host has checked the id and what its kind allows.
        let _ = match change {
            Change::Read => Ok(()),
            Change::Add(step) => metrics.increment(id, step as i64),
            Change::Set(value) | Change::Sample(value) => metrics.record(id, value),
        };
        metrics.value(id).unwrap_or(0)
    }

    fn refused(&mut self, plugin: &str, limit: Limit) {
        self.count(
            plugin,
            match limit {
                Limit::Body => labels::Limit::Body,
                Limit::Calls => labels::Limit::Calls,
                Limit::Function => labels::Limit::Function,
                Limit::Headers => labels::Limit::Headers,
                Limit::LogLines => labels::Limit::LogLines,
                Limit::Memory => labels::Limit::Memory,
                Limit::Metrics => labels::Limit::Metrics,
                Limit::Queues => labels::Limit::Queues,
                Limit::SharedData => labels::Limit::SharedData,
                Limit::Table => labels::Limit::Table,
                Limit::Time => labels::Limit::Time,
                Limit::Upstream => labels::Limit::Service,
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_that_take_long_come_later() {
        let millis = Duration::from_millis;
        for (took, share, then) in [(0, 20, 0), (10, 20, 40), (100, 50, 100), (20, 1, 1980), (1000, 100, 0)] {
            assert_eq!(pause(millis(took), share), millis(then), "{took} ms of {share} %");
        }
    }
}
