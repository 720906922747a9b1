//! Every limit of the host, with its reason. The ones that a user may set are defaults here and fields of
//! [`VmSettings`](crate::VmSettings), [`Limits`] or [`Options`](crate::Options).

use std::time::Duration;

/// Step of the clock that bounds guest time, which goes only while guests run. A guest that has a CPU to itself is
/// stopped between its budget and two steps after it; a finer step would only cost wake-ups: each is worth some filters of
/// a request, where there are few requests between them.
pub const TICK: Duration = Duration::from_millis(10);

/// Default budget of one callback. A worker serves everybody on one thread, so this is how long one filter may hold up
/// all others; Envoy has no bound and hangs.
pub const CALL_TIME: Duration = Duration::from_millis(20);

/// Default budget of each start-up step (`_initialize`, `_start`, on_vm_start, on_configure). Start-up parses
/// configuration and, in Go, starts a runtime: longer than a callback, and rare.
pub const START_TIME: Duration = Duration::from_secs(1);

/// Shortest budget: one step of the clock.
pub const MIN_TIME: Duration = Duration::from_millis(10);

/// Default bound of a VM's linear memory. C modules built by Zig ask for 16 MiB of stack at once, Go for some MiB.
pub const MEMORY: usize = 64 << 20;

/// Largest linear memory whatever the settings say: the bound of proxy-wasm-cpp-host.
pub const MEMORY_MAX: usize = 1 << 30;

/// Largest function table, and the default bound. Debug builds of C# and Go modules have somewhat over 10,000 functions
/// in it; the pool sets aside room for it in each instance, which is why no setting goes beyond.
pub const TABLE_ELEMENTS: usize = 65_536;

/// Most tables of a module: compilers make one, and the pool sets aside room for all of them in each instance. Each has the bound of its own.
pub const TABLES: u32 = 4;

/// Most bytes that the engine keeps of one VM beside memory and table: 32 for each function that may be in the table, and its
/// globals. Only a bound; a usual module needs some KiB.
pub const INSTANCE: usize = 4 << 20;

/// Default number of VMs alive at once in one engine: 8 filters on 8 workers in 4 generations of a configuration, twice.
/// It costs address space (4 GiB each) and no memory.
pub const VMS: u32 = 512;

/// Stack of a guest, inside the stack of the thread that calls it (2 MiB for a Rust thread).
pub const STACK: usize = 512 << 10;

/// Longest log line in bytes; the rest is cut off. Envoy has no bound; a line is copied and kept until it is written.
pub const LOG_LINE: usize = 16 << 10;

/// Most pieces of one `fd_write`: `IOV_MAX` of Linux. A host call is not interrupted, so its work must end by itself.
pub const VECTORS: u32 = 1024;

/// Largest answer of one `random_get`, as in proxy-wasm-cpp-host: random bytes are the dearest that a guest can ask for.
pub const RANDOM: u32 = 64 << 10;

/// Most bytes of headers and properties that one filter may write for one exchange. They live outside guest memory, so
/// the guest's own bound does not hold them; the largest serialized map is as big (1 MiB), and a filter may replace it
/// a few times.
pub const WRITTEN: usize = 4 << 20;

/// What each header or property costs besides its bytes when counted against [`WRITTEN`]: the host's own bookkeeping.
pub const ENTRY: usize = 64;

/// Most metrics that one VM may define. A name lives as long as the process.
pub const METRICS: usize = 1000;

/// Longest name of a metric. Istio's names with their labels in them stay below it.
pub const METRIC_NAME: usize = 4096;

/// Most bytes of shared data (keys and values) for one `vm_id`. It is shared by all workers and lives outside guest
/// memory.
pub const SHARED_BYTES: usize = 16 << 20;

/// Most frames of a guest backtrace, as in Envoy.
pub const BACKTRACE: usize = 20;

/// Longest name of a function in a backtrace, in bytes; the rest is cut off. Those of C++ templates are the longest that
/// anybody reads. With [`BACKTRACE`] frames they fit into one line of the log.
pub const SYMBOL: usize = 512;

/// Capacity that the buffer for answers keeps between calls: more than any usual header, less than would be missed.
pub const SCRATCH: usize = 16 << 10;

/// Default number of call-outs in flight for one VM. Envoy has no bound; each holds a connection and a response.
pub const CALLS: usize = 1024;

/// Default bound of the bytes that the call-outs in flight of one VM may send (heads and bodies). They live outside guest
/// memory until they are sent.
pub const CALL_BYTES: usize = 16 << 20;

/// Bytes that may wait to be sent on one gRPC stream of a guest when it adds a message; see
/// [`World::call_send`](crate::World::call_send).
pub const CALL_QUEUED: usize = 1 << 20;

/// Default number of log lines that one VM may write in a second. A filter that logs ten lines for each request is
/// heard at 100 requests a second; a filter that logs in a loop does not fill a disk.
pub const LOG_LINES: u32 = 1000;

/// Default bound of a body, or TCP data, that a guest has changed: an edit may not leave more than this, unless it
/// leaves no more than there was. The guest's own bound does not hold it.
pub const BODY: usize = 16 << 20;

/// Default bound of one entry of the shared data, key and value.
pub const SHARED_ENTRY: usize = 1 << 20;

/// Default number of items that wait in one shared queue. Envoy has no bound; where nobody takes items out, the oldest
/// are of no use any more.
pub const QUEUE_ITEMS: usize = 8192;

/// Default bound of the bytes that wait in one shared queue.
pub const QUEUE_BYTES: usize = 4 << 20;

/// Longest name of a shared queue. It is kept as long as the queue.
pub const QUEUE_NAME: usize = 4096;

/// Default number of shared queues of one `vm_id`.
pub const QUEUES: usize = 64;

/// The limits of one VM that a user may set, beside its memory and its time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Elements of a table, at most [`TABLE_ELEMENTS`].
    pub table: usize,
    /// Call-outs in flight.
    pub calls: usize,
    /// Bytes that they send.
    pub call_bytes: usize,
    /// Log lines in a second.
    pub log_lines: u32,
    /// Metrics that it may define.
    pub metrics: usize,
    /// Bytes of the shared data of its `vm_id`, all entries together.
    pub shared_bytes: usize,
    /// Bytes of one entry of it.
    pub shared_entry: usize,
    /// Shared queues of its `vm_id`.
    pub queues: usize,
    /// Items in one of them.
    pub queue_items: usize,
    /// Bytes in one of them.
    pub queue_bytes: usize,
    /// Bytes of a body that it has changed, or answers with.
    pub body: usize,
}

/// What was refused to a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Limit {
    /// A change of a body, or an answer, see [`Limits::body`].
    Body,
    /// A call-out, see [`Limits::calls`] and [`Limits::call_bytes`].
    Calls,
    /// A host function that its capabilities do not have.
    Function,
    /// Headers or properties, see [`WRITTEN`].
    Headers,
    /// A log line, see [`Limits::log_lines`].
    LogLines,
    /// Linear memory, see [`VmSettings::memory`](crate::VmSettings::memory).
    Memory,
    /// A metric, see [`Limits::metrics`].
    Metrics,
    /// An item or a queue, see [`Limits::queues`], [`Limits::queue_items`] and [`Limits::queue_bytes`].
    Queues,
    /// An entry, see [`Limits::shared_bytes`] and [`Limits::shared_entry`].
    SharedData,
    /// A larger table, see [`Limits::table`].
    Table,
    /// More time for a call, see [`VmSettings::time`](crate::VmSettings::time): the VM is dead.
    Time,
    /// A call-out to an upstream that its capabilities do not have.
    Upstream,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            table: TABLE_ELEMENTS,
            calls: CALLS,
            call_bytes: CALL_BYTES,
            log_lines: LOG_LINES,
            metrics: METRICS,
            shared_bytes: SHARED_BYTES,
            shared_entry: SHARED_ENTRY,
            queues: QUEUES,
            queue_items: QUEUE_ITEMS,
            queue_bytes: QUEUE_BYTES,
            body: BODY,
        }
    }
}

impl Limit {
    /// All of them, in the order of their names.
    pub const ALL: [Limit; 12] = [
        Limit::Body,
        Limit::Calls,
        Limit::Function,
        Limit::Headers,
        Limit::LogLines,
        Limit::Memory,
        Limit::Metrics,
        Limit::Queues,
        Limit::SharedData,
        Limit::Table,
        Limit::Time,
        Limit::Upstream,
    ];

    /// The word for it in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Limit::Body => "body",
            Limit::Calls => "calls",
            Limit::Function => "function",
            Limit::Headers => "headers",
            Limit::LogLines => "log_lines",
            Limit::Memory => "memory",
            Limit::Metrics => "metrics",
            Limit::Queues => "queues",
            Limit::SharedData => "shared_data",
            Limit::Table => "table",
            Limit::Time => "time",
            Limit::Upstream => "upstream",
        }
    }
}
