//! What outlives an exchange, as guests see it. The embedder implements [`World`], one for each VM.

use std::time::Duration;

use lacis_abi::{Level, MetricKind, Path, Status};

use crate::vm::RootId;

/// What outlives an exchange. As with [`Stream`](crate::Stream), a method takes a note and does not call the VM.
pub trait World {
    /// A line that a filter logs, or that the host logs about it. `plugin` is empty while the VM starts and no plugin
    /// runs in it yet. The text is at most [`limits::LOG_LINE`](crate::limits::LOG_LINE) bytes and may hold any
    /// character.
    fn log(&mut self, plugin: &str, level: Level, text: &str);

    /// What time it is.
    fn now(&self) -> Now;

    /// A property read where there is no exchange, for example `node`. Answers as
    /// [`Stream::property`](crate::Stream::property).
    fn property(&self, path: Path<'_>, out: &mut Vec<u8>) -> Result<(), Status>;

    /// Wishes [`Vm::tick`](crate::Vm::tick) to be called for a root context: first after one period, then one period
    /// after each tick returned. Replaces an earlier wish; `None` ends it.
    fn set_tick(&mut self, root: RootId, period: Option<Duration>);

    /// A number for the metric of this kind and name: the same number for the same pair, from any plugin of the VM, or
    /// from the same plugin where metrics are told apart by plugin.
    /// `None` when there may be no more of them.
    fn define_metric(&mut self, plugin: &str, kind: MetricKind, name: &str) -> Option<u32>;

    /// Changes or reads a metric by the number that `define_metric` gave; answers its value then, 0 for a histogram.
    fn metric(&mut self, metric: u32, change: Change) -> u64;
}

/// What happens to a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing; it is read.
    Read,
    /// A counter grows; a gauge goes up, or down by a wrapping amount, as in Envoy.
    Add(u64),
    /// A gauge is set.
    Set(u64),
    /// A histogram takes a sample.
    Sample(u64),
}

/// A moment, on both clocks a guest may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// Nanoseconds since 1970.
    pub unix: u64,
    /// Nanoseconds since some fixed moment; never goes back.
    pub monotonic: u64,
}
