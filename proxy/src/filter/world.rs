//! What outlives an exchange, as a filter's guest sees it: the log, the clock, the node, metrics and its timer.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use lacis_host::abi::{Level, MetricKind, Path, Status};
use lacis_host::{CallId, CallOut, Change, Now, RootId, World};
use tokio::sync::Notify;

use super::callout::Calls;
use crate::config;
use crate::telemetry::family::Kind;
use crate::telemetry::guest::GuestMetrics;

/// What filters learn of the sidecar (`node.*`).
#[derive(Debug)]
pub struct NodeFacts {
    id: String,
    cluster: String,
    metadata: serde_json::Map<String, serde_json::Value>,
    pub(super) spiffe: String,
}

impl NodeFacts {
    /// Of this sidecar.
    pub fn new(node: &config::Node) -> Self {
        NodeFacts {
            id: node.id.clone(),
            cluster: node.cluster.clone(),
            metadata: node.metadata.clone(),
            spiffe: node.spiffe.to_string(),
        }
    }

    /// A property of the sidecar itself: `node.*`, in Envoy's newer place (`xds.node.*`) too.
    pub fn property(&self, path: &[&[u8]], out: &mut Vec<u8>) -> Result<(), Status> {
        let path = path.strip_prefix(&[b"xds".as_slice()]).unwrap_or(path);
        match path {
            [b"node", b"id"] => out.extend_from_slice(self.id.as_bytes()),
            [b"node", b"cluster"] => out.extend_from_slice(self.cluster.as_bytes()),
            [b"node"] | [b"node", b"metadata"] => return Err(Status::SerializationFailure),
            [b"node", b"metadata", key] => {
                let value =
                    std::str::from_utf8(key).ok().and_then(|key| self.metadata.get(key)).ok_or(Status::NotFound)?;
                match value {
                    serde_json::Value::String(text) => out.extend_from_slice(text.as_bytes()),
                    serde_json::Value::Bool(truth) => out.push(u8::from(*truth)),
                    serde_json::Value::Number(number) => {
                        out.extend_from_slice(&number.as_f64().unwrap_or(0.0).to_le_bytes())
                    }
                    other => out.extend_from_slice(other.to_string().as_bytes()),
                }
            }
            _ => return Err(Status::NotFound),
        }
        Ok(())
    }
}

/// One filter's world in one worker.
pub(super) struct FilterWorld {
    node: Rc<NodeFacts>,
    metrics: GuestMetrics,
    timer: Rc<Timer>,
    pub(super) calls: Calls,
    heads_only: Rc<Cell<bool>>,
    began: Instant,
}

/// When a filter's tick is due. Set by the guest, waited for by the worker.
#[derive(Debug, Default)]
pub(super) struct Timer {
    period: Cell<Option<Duration>>,
    changed: Notify,
}

impl Timer {
    /// Waits for the next tick. A guest that has set no period waits for ever.
    pub(super) async fn due(&self) {
        loop {
            let changed = self.changed.notified();
            match self.period.get() {
                None => changed.await,
                Some(period) => tokio::select! {
                    () = tokio::time::sleep(period) => return,
                    () = changed => {}
                },
            }
        }
    }
}

impl FilterWorld {
    pub(super) fn new(
        node: &Rc<NodeFacts>,
        metrics: GuestMetrics,
        timer: &Rc<Timer>,
        calls: Calls,
        heads_only: &Rc<Cell<bool>>,
    ) -> Self {
        let (node, timer, heads_only) = (Rc::clone(node), Rc::clone(timer), Rc::clone(heads_only));
        FilterWorld { node, metrics, timer, calls, heads_only, began: Instant::now() }
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

    fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Now { unix: unix.as_nanos() as u64, monotonic: self.began.elapsed().as_nanos() as u64 }
    }

    fn property(&self, path: Path<'_>, out: &mut Vec<u8>) -> Result<(), Status> {
        let segments: Vec<&[u8]> = path.segments().take(4).collect();
        self.node.property(&segments, out)
    }

    fn set_tick(&mut self, _: RootId, period: Option<Duration>) {
        self.timer.period.set(period.filter(|p| !p.is_zero()));
        self.timer.changed.notify_one();
    }

    fn define_metric(&mut self, _: &str, kind: MetricKind, name: &str) -> Option<u32> {
        let kind = match kind {
            MetricKind::Counter => Kind::Counter,
            MetricKind::Gauge => Kind::Gauge,
            MetricKind::Histogram => Kind::Histogram,
        };
        self.metrics.define(kind, name).ok()
    }

    fn metric(&mut self, metric: u32, change: Change) -> u64 {
        // The host has checked the id and what its kind allows.
        let _ = match change {
            Change::Read => Ok(()),
            Change::Add(step) => self.metrics.increment(metric, step as i64),
            Change::Set(value) | Change::Sample(value) => self.metrics.record(metric, value),
        };
        self.metrics.value(metric).unwrap_or(0)
    }

    /// `lacis_heads_only`: the filter has no use for content and trailers, whatever its module exports. So says the SDK
    /// of filters that see heads only: its module has all callbacks.
    fn foreign(&mut self, _: &str, name: &[u8], _: &[u8], _: &mut Vec<u8>) -> Result<(), Status> {
        match name {
            b"lacis_heads_only" => {
                self.heads_only.set(true);
                Ok(())
            }
            _ => Err(Status::NotFound),
        }
    }

    fn call_out(&mut self, id: CallId, _: RootId, call: CallOut) -> Result<(), Status> {
        self.calls.begin(id, call)
    }

    fn call_send(&mut self, id: CallId, message: Option<Vec<u8>>, end: bool) -> Result<(), Status> {
        self.calls.send(id, message, end)
    }

    fn call_cancel(&mut self, id: CallId) {
        self.calls.cancel(id);
    }
}
