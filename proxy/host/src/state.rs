//! What the host keeps for one VM: the data of its store.

use std::cell::{Cell, Ref, RefCell, RefMut};
use std::rc::Rc;
use std::sync::Arc;

use lacis_abi::{AbiVersion, Level, Map, MetricKind, Status};
use wasmtime::{Memory, ResourceLimiter, TypedFunc, UpdateDeadline};

use crate::callout::CallOuts;
use crate::contexts::{Access, Context, Contexts, Exchange, Life};
use crate::engine::Clock;
use crate::joint::ALLOCATING;
use crate::limits;
use crate::limits::{Limit, Limits};
use crate::overtime::{Budget, Overtime, thread_cpu};
use crate::queue::Mailbox;
use crate::shared::{SharedData, Space};
use crate::stream::{ContextId, Headers};
use crate::trap::Fail;
use crate::turn::{Counters, Last, Turn};
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
        // Rust writes an empty line before what a panic says, and after it how one may have a backtrace, which there is in
        // any case: what was logged last is what the panic said.
        let text = text.strip_prefix(b"\n").unwrap_or(&text);
        if text.is_empty() || text.starts_with(b"note: run with `RUST_BACKTRACE=1` environment variable") {
            return Ok(());
        }
        self.log(level, text.strip_suffix(b"\n").unwrap_or(text))
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

    /// See [`State::follow`].
    pub(crate) fn catch_up(&mut self, step: u32) {
        let State { turn: Some(turn), contexts, ending, .. } = self else { return };
        turn.advance(step.min(turn.steps - 1), ending, contexts);
        let number = turn.context(turn.at);
        let shows_body = turn.shows_body(turn.at);
        // Host calls are for the context of the callback that runs.
        self.context = number;
        self.called = number;
        if shows_body
            && let Some(exchange) = self.exchange()
            && let Ok(mut stream) = exchange.stream()
        {
            stream.shown(exchange.id);
        }
    }

    /// The entry has returned, and this callback was the last that began; of the last of all more is to be known, too, if it
    /// is the number of all.
    pub(crate) fn returned(&mut self, step: u32) -> Option<Last> {
        let State { turn: Some(turn), contexts, ending, .. } = self else { return None };
        turn.advance(step.min(turn.steps - 1), ending, contexts);
        let last = Last { step: turn.at, context: turn.context(turn.at), replied: turn.replied };
        self.turn = None;
        Some(last)
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
