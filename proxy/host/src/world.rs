//! What outlives an exchange, as guests see it. The embedder implements [`World`], one for each VM.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use lacis_abi::{Level, MetricKind, Path, Status};

use crate::callout::{CallId, CallOut};
use crate::limits::Limit;

/// A root context of one VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RootId(pub(crate) u32);

/// How often the levels have changed, from 1.
static LEVELS: AtomicU32 = AtomicU32::new(1);

/// Says that [`World::level`] may answer otherwise than it did, in any VM of the process: each asks again when it is entered
/// next.
pub fn levels_changed() {
    LEVELS.fetch_add(1, Ordering::Release);
}

/// A number that is another after each change of levels.
pub(crate) fn levels() -> u32 {
    LEVELS.load(Ordering::Acquire)
}

/// What outlives an exchange. As with [`Stream`](crate::Stream), a method takes a note and does not call the VM.
pub trait World {
    /// A line that a filter logs, or that the host logs about it. `plugin` is empty while the VM starts and no plugin
    /// runs in it yet. The text is at most [`limits::LOG_LINE`](crate::limits::LOG_LINE) bytes and may hold any
    /// character.
    fn log(&mut self, plugin: &str, level: Level, text: &str);

    /// The least level that is logged now, which guests are told if they ask. Lines below it do not even leave the guest, so
    /// whoever changes it has to [say so](levels_changed).
    fn level(&self) -> Level {
        Level::Info
    }

    /// Whether a line of this level is logged now: asked for lines that may be, so it had better cost little.
    fn logs(&self, level: Level) -> bool {
        level >= self.level()
    }

    /// What time it is.
    fn now(&self) -> Now;

    /// A property read where there is no exchange, for example `node`. Answers as
    /// [`Stream::property`](crate::Stream::property).
    fn property(&self, path: Path<'_>, out: &mut Vec<u8>) -> Result<(), Status>;

    /// Wishes [`Vm::tick`](crate::Vm::tick) to be called for a root context: first after one period, then one period
    /// after each tick returned. Replaces an earlier wish; `None` ends it.
    fn set_tick(&mut self, root: RootId, period: Option<Duration>);

    /// A number for the metric of this kind and name: the same number for the same pair, from any plugin of the VM, or
    /// from the same plugin where metrics are told apart by plugin. `more` is whether one may be made.
    /// `None` when there is none, and may be no more of them.
    fn define_metric(&mut self, plugin: &str, kind: MetricKind, name: &str, more: bool) -> Option<u32>;

    /// Changes or reads a metric by the number that `define_metric` gave; answers its value then, 0 for a histogram.
    fn metric(&mut self, metric: u32, change: Change) -> u64;

    /// Begins a call-out. What comes of it is told by [`Vm::on_http_call`](crate::Vm::on_http_call) or
    /// [`Vm::on_grpc`](crate::Vm::on_grpc), never from within this method, and not after an error here. The VM has seen
    /// to what must be there (`:method`, `:path`, `:authority` or `host`), to allowed upstreams, and to how many there may be;
    /// names and values are the embedder's to judge.
    ///
    /// The call belongs to the plugin and outlives the exchange that made it. An id is used again by the next VM: when
    /// this one has ended or died, each call in flight has been [cancelled](World::call_cancel).
    ///
    /// # Errors
    /// `NotFound` when there is no such upstream; anything else when it cannot be begun, of which the guest is told as
    /// `InternalFailure`.
    fn call_out(&mut self, plugin: &str, id: CallId, root: RootId, call: CallOut) -> Result<(), Status> {
        _ = (plugin, id, root, call);
        Err(Status::NotFound)
    }

    /// Sends a message on a gRPC stream, without its five bytes of framing; `end` when no more follow. None with `end`:
    /// only the end.
    ///
    /// # Errors
    /// When more than [`limits::CALL_QUEUED`](crate::limits::CALL_QUEUED) bytes wait to be sent on it already, or more than
    /// [`limits::CALL_BYTES`](crate::limits::CALL_BYTES) would on all streams of the VM: the guest may send as fast as it
    /// can. It is told `BadArgument`.
    fn call_send(&mut self, id: CallId, message: Option<Vec<u8>>, end: bool) -> Result<(), Status> {
        _ = (id, message, end);
        Err(Status::NotFound)
    }

    /// Ends a call-out in flight; nothing that comes of it is wanted any more.
    fn call_cancel(&mut self, id: CallId) {
        _ = id;
    }

    /// Runs a foreign function and appends what it answers to `out`; see [`Stream::foreign`](crate::Stream::foreign),
    /// which is asked first where there is an exchange.
    fn foreign(&mut self, plugin: &str, name: &[u8], arguments: &[u8], out: &mut Vec<u8>) -> Result<(), Status> {
        _ = (plugin, name, arguments, out);
        Err(Status::NotFound)
    }

    /// Something was refused to a plugin, for a metric: a limit was reached, or it is not allowed. The guest has been
    /// told in its own way, and goes on.
    fn refused(&mut self, plugin: &str, limit: Limit) {
        _ = (plugin, limit);
    }
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
