//! What the host keeps for one VM: the data of its store.

use std::cell::{Cell, Ref, RefCell, RefMut};
use std::rc::Rc;
use std::sync::Arc;

use lacis_abi::{AbiVersion, Level, Map, MetricKind, Status};
use wasmtime::{Memory, ResourceLimiter, TypedFunc, UpdateDeadline};

use crate::callout::CallOuts;
use crate::calls::Fail;
use crate::contexts::Contexts;
use crate::engine::Clock;
use crate::joint::ALLOCATING;
use crate::limits;
use crate::limits::{Limit, Limits};
use crate::overtime::{Budget, Overtime, thread_cpu};
use crate::queue::Mailbox;
use crate::shared::{SharedData, Space};
use crate::stream::{Half, Headers, Stream};
use crate::vm::turn::{Counters, Turn};
use crate::vm::{ContextId, PluginSettings};
use crate::world::World;

pub(crate) struct State {
    pub(crate) memory: Option<Memory>,
    pub(crate) allocator: Option<Rc<TypedFunc<u32, u32>>>,
    pub(crate) abi: AbiVersion,
    pub(crate) phase: Phase,
    /// The number of the effective context of the callback that runs, or ran last; 0 while the VM starts.
    pub(crate) context: u32,
    /// The number of the context that the callback which runs is for; 0 while the VM starts.
    pub(crate) called: u32,
    pub(crate) contexts: Contexts,
    /// Root contexts for which `proxy_done` came and `proxy_on_delete` is due.
    pub(crate) done: Vec<u32>,
    pub(crate) world: Rc<RefCell<dyn World>>,
    pub(crate) vm_id: String,
    pub(crate) configuration: Vec<u8>,
    /// `NAME=value`.
    pub(crate) env: Vec<String>,
    pub(crate) shared: Arc<Space>,
    pub(crate) process: Arc<SharedData>,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) hides_bodies: bool,
    /// It may log lines.
    pub(crate) logs: bool,
    /// The change of levels after which the guest was told which lines are dropped.
    pub(crate) levels: u32,
    /// The second in which the last line was logged, and how many were in it.
    pub(crate) lines: Cell<(u64, u32)>,
    pub(crate) limits: Limits,
    pub(crate) calls: CallOuts,
    /// The world's numbers of the metrics that guests defined, by kind; a guest's id holds the index and the kind.
    pub(crate) metrics: [Vec<u32>; 3],
    pub(crate) limiter: Limiter,
    pub(crate) clock: Arc<Clock>,
    /// Of the call that runs.
    pub(crate) budget: Budget,
    pub(crate) overtime: Overtime,
    /// What was written to standard output and standard error since the last end of a line.
    pub(crate) output: [Vec<u8>; 2],
    /// For an answer on its way to the guest; kept so that a call allocates nothing.
    pub(crate) scratch: RefCell<Vec<u8>>,
    /// How callbacks in one entry are counted and stopped, where the module has what it takes.
    pub(crate) counters: Option<Counters>,
    /// The callbacks of the entry that runs, if they are several.
    pub(crate) turn: Option<Turn>,
    /// The exchanges that end in it, or did last: their first contexts, and how many each has.
    pub(crate) ending: Vec<(ContextId, u32)>,
}

/// What the guest is doing, as far as it decides which host calls it may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Start section, `_initialize`, `_start`: no context exists yet.
    Starting,
    /// The callbacks in which the configuration of the plugin can be read.
    Configuring,
    /// Any other callback.
    Running,
    /// The guest's allocator, called by a host call; where the guest calls it for one, it says so with the step
    /// ([`ALLOCATING`]).
    Allocating,
}

/// A context that the guest knows by its id: a plugin (root context) or an exchange.
pub(crate) struct Context {
    pub(crate) id: u32,
    pub(crate) root: u32,
    pub(crate) plugin: Rc<PluginSettings>,
    pub(crate) kind: Kind,
}

pub(crate) enum Kind {
    Root {
        /// `proxy_on_done` answered false: the context ends when the guest calls `proxy_done`.
        ending: Cell<bool>,
        /// Outcome of its last call-out.
        status: Cell<u32>,
    },
    Exchange(Exchange),
}

pub(crate) struct Exchange {
    pub(crate) id: ContextId,
    pub(crate) stream: Rc<RefCell<dyn Stream>>,
    /// A TCP connection.
    pub(crate) tcp: bool,
    pub(crate) request: Side,
    pub(crate) response: Side,
    pub(crate) life: Cell<Life>,
    pub(crate) replied: Cell<Replied>,
    /// Bytes that the guest has written outside its memory, against [`limits::WRITTEN`].
    pub(crate) written: Cell<u32>,
}

/// How far one half is: the [`Part`]s of it that are here, each in one of three sets. The others are not here yet, or are
/// gone to the next filter, which is all the same to the guest. In sets a half goes by in one step, for every filter.
#[derive(Default)]
pub(crate) struct Side {
    /// Its callback runs.
    running: Cell<u8>,
    /// Its callback runs, and has asked to continue; or another has, for a part that was held. The embedder acts on it
    /// when the callback has returned: until then what is done to a response still counts, as in Envoy, which drops only
    /// its request at once.
    released: Cell<u8>,
    /// Its callback stopped it.
    held: Cell<u8>,
    /// A callback has stopped it, and it has not been resumed since.
    pub(crate) stopped: Cell<bool>,
    /// The body has been shown to its end, and there are no trailers.
    pub(crate) ended: Cell<bool>,
}

/// A part of one half: a bit of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Head = 1,
    Body = 2,
    Trailers = 4,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    Open,
    /// Inside `proxy_on_log`.
    Logging,
    Logged,
    /// Inside `proxy_on_done` and `proxy_on_delete`.
    Ended,
}

/// What a guest has answered itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Replied {
    Not,
    /// The request.
    Request,
    /// A response, for which another is to be sent: that may have been its own, which comes back to it as one.
    Response,
}

/// What a guest may do with a header map now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Nothing,
    /// As `Nothing`, but in the log phase, where reading a value answers differently.
    NothingToLog,
    Read,
    Write,
}

impl State {
    /// The exchange of the effective context, if the guest may write this header map of it now; else the ABI's
    /// `BadArgument`.
    #[inline]
    pub(crate) fn writable(&self, map: Map) -> Result<&Exchange, Status> {
        self.exchange().filter(|exchange| exchange.access(map) == Access::Write).ok_or(Status::BadArgument)
    }

    /// Runs `f` on a header map of the effective context if there is one that the guest may read.
    #[inline]
    pub(crate) fn read<R>(&self, map: Map, f: impl FnOnce(&dyn Headers) -> R) -> Result<Option<R>, Fail> {
        match map {
            Map::RequestHeaders | Map::RequestTrailers | Map::ResponseHeaders | Map::ResponseTrailers => {
                match self.exchange() {
                    Some(exchange) if matches!(exchange.access(map), Access::Read | Access::Write) => {
                        exchange.headers(map, |headers| f(headers))
                    }
                    Some(_) | None => Ok(None),
                }
            }
            _ => Ok(self.calls.headers(map).map(f)),
        }
    }

    pub(crate) fn access(&self, map: Map) -> Access {
        match map {
            Map::RequestHeaders | Map::RequestTrailers | Map::ResponseHeaders | Map::ResponseTrailers => {
                self.exchange().map_or(Access::Nothing, |exchange| exchange.access(map))
            }
            _ if self.calls.headers(map).is_some() => Access::Read,
            _ if self.exchange().is_some_and(|exchange| exchange.life.get() == Life::Logging) => Access::NothingToLog,
            _ => Access::Nothing,
        }
    }

    /// The effective context, as long as it is there.
    #[inline]
    pub(crate) fn context(&self) -> Option<&Context> {
        self.contexts.get(self.context)
    }

    /// The exchange of the effective context.
    #[inline]
    pub(crate) fn exchange(&self) -> Option<&Exchange> {
        self.contexts.exchange(self.context)
    }

    /// Name of the plugin that runs; empty while the VM starts.
    pub(crate) fn plugin(&self) -> &str {
        self.context().map_or("", |context| &context.plugin.name)
    }

    /// Logs a line for the guest, if its level is wanted.
    pub(crate) fn log(&self, level: Level, text: &[u8]) -> Result<(), Fail> {
        let mut world = self.world_mut()?;
        if !world.logs(level) {
            return Ok(());
        }
        let second = world.now().monotonic / 1_000_000_000;
        let (then, lines) = self.lines.get();
        let lines = if second == then { lines } else { 0 };
        self.lines.set((second, lines.saturating_add(1)));
        let limit = self.limits.log_lines;
        if lines >= limit {
            if lines == limit {
                let text = format!("more than {limit} lines in a second: the others are left out");
                world.log(self.plugin(), Level::Warn, &text);
            }
            world.refused(self.plugin(), Limit::LogLines);
            return Ok(());
        }
        let text = String::from_utf8_lossy(&text[..text.len().min(limits::LOG_LINE)]);
        world.log(self.plugin(), level, &text);
        Ok(())
    }

    /// Has the embedder count what the guest was refused.
    pub(crate) fn refused(&self, limit: Limit) -> Result<(), Fail> {
        self.world_mut()?.refused(self.plugin(), limit);
        Ok(())
    }

    /// Logs what was written to standard output (0) or error (1) without an end of line.
    pub(crate) fn flush(&mut self, output: usize) -> Result<(), Fail> {
        let level = if output == 0 { Level::Info } else { Level::Error };
        let text = std::mem::take(&mut self.output[output]);
        if text.is_empty() { Ok(()) } else { self.log(level, text.strip_suffix(b"\n").unwrap_or(&text)) }
    }

    pub(crate) fn world(&self) -> Result<Ref<'_, dyn World + 'static>, Fail> {
        self.world.try_borrow().map_err(|_| Fail::host("the embedder holds its World across a guest call"))
    }

    pub(crate) fn world_mut(&self) -> Result<RefMut<'_, dyn World + 'static>, Fail> {
        self.world.try_borrow_mut().map_err(|_| Fail::host("the embedder holds its World across a guest call"))
    }

    /// A call of the host is for the callback that runs in this entry of the guest, so far as it is.
    #[inline]
    pub(crate) fn follow(&mut self, step: u32) {
        let step = step & !ALLOCATING;
        if self.turn.as_ref().is_some_and(|turn| turn.is_behind(step)) {
            self.catch_up(step);
        }
    }

    /// What happens to the call that runs, now that its deadline has come.
    pub(crate) fn deadline(&mut self) -> UpdateDeadline {
        // A call that is given more time must be timed for it.
        self.clock.wind();
        if self.turn.as_mut().is_some_and(Turn::is_another) {
            // It has begun some time since the entry: its budget begins now.
            self.overtime = Overtime::None;
            return UpdateDeadline::Continue(self.budget.half);
        }
        self.overtime.decide(self.budget, thread_cpu())
    }

    /// The world's number of the metric with this id.
    pub(crate) fn metric(&self, id: u32) -> Option<(MetricKind, u32)> {
        let kind = MetricKind::from_u32(id & 3)?;
        let index = (id >> 2).checked_sub(1)?;
        Some((kind, *self.metrics[kind as usize].get(index as usize)?))
    }
}

impl Context {
    pub(crate) fn exchange(&self) -> Option<&Exchange> {
        match &self.kind {
            Kind::Exchange(exchange) => Some(exchange),
            Kind::Root { .. } => None,
        }
    }
}

impl Exchange {
    pub(crate) fn new(id: ContextId, stream: Rc<RefCell<dyn Stream>>, tcp: bool) -> Exchange {
        Exchange {
            id,
            stream,
            tcp,
            request: Side::default(),
            response: Side::default(),
            life: Cell::new(Life::Open),
            replied: Cell::new(Replied::Not),
            written: Cell::new(0),
        }
    }

    /// The stream, for the length of one host call.
    pub(crate) fn stream(&self) -> Result<RefMut<'_, dyn Stream + 'static>, Fail> {
        let mut stream = self.borrow()?;
        stream.asked_by(self.id);
        Ok(stream)
    }

    #[inline]
    fn borrow(&self) -> Result<RefMut<'_, dyn Stream + 'static>, Fail> {
        self.stream.try_borrow_mut().map_err(|_| Fail::host("the embedder holds a Stream across a guest call"))
    }

    /// Runs `f` on a header map that the guest may [write](State::writable), and says how many lines that has then
    /// ([`Headers::lines`]); the ABI's `BadArgument` if there is none.
    #[inline]
    pub(crate) fn edit(&self, map: Map, f: impl FnOnce(&mut dyn Headers)) -> Result<Option<u32>, Fail> {
        let edited = self.headers(map, |headers| {
            f(headers);
            headers.lines()
        });
        edited?.ok_or(Status::BadArgument.into())
    }

    /// Runs `f` on a header map, if it is there.
    #[inline]
    pub(crate) fn headers<R>(&self, map: Map, f: impl FnOnce(&mut dyn Headers) -> R) -> Result<Option<R>, Fail> {
        Ok(self.borrow()?.headers(map).map(f))
    }

    pub(crate) fn side(&self, half: Half) -> &Side {
        match half {
            Half::Request => &self.request,
            Half::Response => &self.response,
        }
    }

    /// Bytes that the guest sees of a body. None while the embedder holds the stream, which the first host call tells.
    pub(crate) fn body_len(&self, half: Half) -> u32 {
        let len = self.stream().ok().and_then(|mut stream| Some(stream.body(half)?.len()));
        u32::try_from(len.unwrap_or(0)).unwrap_or(u32::MAX)
    }

    /// Counts what the guest is about to write outside its memory; `InternalFailure` when it is too much.
    #[inline]
    pub(crate) fn charge(&self, bytes: usize) -> Result<(), Status> {
        const _: () = assert!(limits::WRITTEN <= u32::MAX as usize);
        let total = bytes.saturating_add(limits::ENTRY + self.written.get() as usize);
        if total > limits::WRITTEN {
            return Err(Status::InternalFailure);
        }
        self.written.set(total as u32);
        Ok(())
    }

    /// Whether the guest may reach a body now: that of the request, too, when it has let it go on in the same callback.
    pub(crate) fn reaches_body(&self, half: Half) -> bool {
        let side = self.side(half);
        self.life.get() == Life::Open && (side.is_here(Part::Body) || side.is_released(Part::Body))
    }

    /// Trailers can be made where there are none, at the end of the body.
    fn reaches_trailers(&self, half: Half) -> bool {
        self.reaches(half, Part::Trailers) || self.side(half).ended.get() && self.reaches(half, Part::Body)
    }

    #[inline]
    fn reaches(&self, half: Half, part: Part) -> bool {
        let side = self.side(half);
        side.is_here(part) || half == Half::Response && side.is_released(part)
    }

    /// Envoy's rule: a head, or trailers, can be reached while they are here or held, and heads and the response's
    /// trailers can be read in the log phase.
    #[inline]
    fn access(&self, map: Map) -> Access {
        match self.life.get() {
            Life::Logging => match map {
                Map::RequestHeaders | Map::ResponseHeaders | Map::ResponseTrailers => Access::Read,
                _ => Access::NothingToLog,
            },
            Life::Logged | Life::Ended => Access::Nothing,
            Life::Open => {
                let reachable = match map {
                    Map::RequestHeaders => self.reaches(Half::Request, Part::Head),
                    Map::RequestTrailers => self.reaches_trailers(Half::Request),
                    Map::ResponseHeaders => self.reaches(Half::Response, Part::Head),
                    Map::ResponseTrailers => self.reaches_trailers(Half::Response),
                    _ => false,
                };
                if reachable { Access::Write } else { Access::Nothing }
            }
        }
    }
}

impl Side {
    /// Whether a callback runs for a part, or has stopped it.
    pub(crate) fn is_here(&self, part: Part) -> bool {
        (self.running.get() | self.held.get()) & part as u8 != 0
    }

    fn is_released(&self, part: Part) -> bool {
        self.released.get() & part as u8 != 0
    }

    /// A part has been shown to the guest, whose answer is that it goes on, or not. False means that it does not.
    pub(crate) fn settle(&self, part: Part, goes_on: bool) -> bool {
        let goes_on = goes_on || self.is_released(part);
        if goes_on {
            self.go();
        } else {
            self.running.set(self.running.get() & !(part as u8));
            self.held.set(self.held.get() | part as u8);
        }
        self.stopped.set(!goes_on);
        goes_on
    }

    /// The guest lets it go on. True when it was stopped and waits for that; false when its own callback runs.
    pub(crate) fn release(&self) -> bool {
        let (running, held) = (self.running.take(), self.held.take());
        self.released.set(self.released.get() | running | held);
        running == 0 && self.stopped.replace(false)
    }

    /// A callback of this half begins: what was let go before has gone.
    #[inline]
    pub(crate) fn begin(&self, part: Part) {
        self.released.set(0);
        self.held.set(self.held.get() & !(part as u8));
        self.running.set(self.running.get() | part as u8);
    }

    /// A part goes by, and everything that was held goes with it: as if it [began](Side::begin) and was
    /// [settled](Side::settle).
    #[inline]
    pub(crate) fn pass(&self) {
        self.go();
        self.stopped.set(false);
    }

    /// Everything that is here goes.
    #[inline]
    pub(crate) fn go(&self) {
        self.running.set(0);
        self.released.set(0);
        self.held.set(0);
    }

    /// A part that was stopped is gone all the same: no other callback reaches it.
    pub(crate) fn forget(&self, part: Part) {
        self.held.set(self.held.get() & !(part as u8));
    }
}

/// Bounds memory and tables, and remembers that it did: the trap which follows says nothing of memory.
#[derive(Debug)]
pub(crate) struct Limiter {
    pub(crate) memory: usize,
    pub(crate) table: usize,
    /// What was refused last since this was cleared: memory or a table.
    pub(crate) refused: Option<Limit>,
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, _: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let allowed = desired <= self.memory && maximum.is_none_or(|maximum| desired <= maximum);
        if !allowed {
            self.refused = Some(Limit::Memory);
        }
        Ok(allowed)
    }

    fn table_growing(&mut self, _: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let allowed = desired <= self.table && maximum.is_none_or(|maximum| desired <= maximum);
        if !allowed {
            self.refused = Some(Limit::Table);
        }
        Ok(allowed)
    }
}
