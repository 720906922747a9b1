//! One instance of a module on one thread: its contexts, its callbacks in Envoy's order, and its death.

mod calls;
mod http;
mod tcp;
mod turn;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use wasmtime::{ExternType, Store, TypedFunc, WasmBacktrace, WasmParams, WasmResults};

use crate::callout::CallOuts;
use crate::calls::turn::look;
use crate::contexts::{Context, Exchange, Kind, Life, PluginSettings};
use crate::exports::{Exports, find};
use crate::joint;
use crate::limits::{self, Limit, Limits};
use crate::overtime::{Budget, Overtime};
use crate::plugin::Plugin;
use crate::queue::{Mailbox, Wake};
use crate::shared::SharedData;
use crate::state::{Limiter, Phase, State};
use crate::stream::{ContextId, Stream};
use crate::trap::{Bounds, Cause, Exit, Trap};
use crate::turn::Counters;
use crate::world::{self, RootId, World};
pub use turn::response::Responded;

/// How a VM is made. Plugins may share a VM when all of this and the module are equal.
#[derive(Debug, Clone)]
pub struct VmSettings {
    /// Names the shared data that it sees; may be empty.
    pub vm_id: String,
    /// `vm_config`, as the guest reads it.
    pub configuration: Vec<u8>,
    /// Environment variables.
    pub env: Vec<(String, String)>,
    /// Most bytes of linear memory, at most [`limits::MEMORY_MAX`].
    pub memory: usize,
    /// Budget of a callback, at least [`limits::MIN_TIME`]. One that has a CPU to itself is stopped after it, within two
    /// [`limits::TICK`]s; on a busy machine it gets more, until it has run for half of it at least. Of callbacks that share an
    /// entry (`turn.rs`) each has this; one that follows others may be stopped half of it later.
    pub time: Duration,
    /// Budget of each step of the start.
    pub start_time: Duration,
    /// The shared data of the process.
    pub shared: Arc<SharedData>,
    /// The other limits.
    pub limits: Limits,
    /// Called when [`Vm::on_queue_ready`] has something to do.
    pub wake: Wake,
}

/// Why a VM or a plugin in it did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The module wants more memory to begin with than it may have at all.
    #[error("the module needs {needs} bytes of memory at once, and its limit is {limit}")]
    Memory {
        /// What it needs.
        needs: u64,
        /// What it may have.
        limit: usize,
    },
    /// The module wants a larger table to begin with than it may have at all.
    #[error("the module needs a table of {needs} elements at once, and its limit is {limit}")]
    Table {
        /// What it needs.
        needs: u64,
        /// What it may have.
        limit: usize,
    },
    /// There are too many VMs, or the system has no room for one more.
    #[error("no instance: {0}")]
    Instance(String),
    /// A start-up function did not return.
    #[error(transparent)]
    Trap(#[from] Trap),
    /// `proxy_on_vm_start` or `proxy_on_configure` answered false; the log says why, if the filter does.
    #[error("the filter refuses its configuration: {0} answered false")]
    Refused(&'static str),
}

/// An instance of a plugin's module. Whatever it does, it belongs to the thread that made it.
pub struct Vm {
    runner: Runner,
    exports: Exports,
}

/// Enters the guest, with its budget, and sees to what a trap leaves behind. Its callers enter no dead guest.
struct Runner {
    store: Store<State>,
    call: Budget,
    start: Budget,
    dead: bool,
}

impl Default for VmSettings {
    fn default() -> VmSettings {
        VmSettings {
            vm_id: String::new(),
            configuration: Vec::new(),
            env: Vec::new(),
            memory: limits::MEMORY,
            time: limits::CALL_TIME,
            start_time: limits::START_TIME,
            shared: Arc::default(),
            limits: Limits::default(),
            wake: Wake::default(),
        }
    }
}

const VALIDATE: &str = "proxy_validate_configuration";

impl Vm {
    /// Instantiates the module and runs its start-up: the start section, then `_initialize` and `main`, or `_start`.
    pub fn new(plugin: &Plugin, settings: VmSettings, world: Rc<RefCell<dyn World>>) -> Result<Vm, StartError> {
        let VmSettings { vm_id, configuration, env, memory, time, start_time, shared, limits, wake } = settings;
        let memory = memory.min(limits::MEMORY_MAX);
        if let Some(ExternType::Memory(ty)) = plugin.instance.module().get_export("memory") {
            let needs = ty.minimum().saturating_mul(ty.page_size());
            if needs > memory as u64 {
                return Err(StartError::Memory { needs, limit: memory });
            }
        }
        let table = limits.table.min(limits::TABLE_ELEMENTS);
        if let Some(needs) = plugin.instance.module().resources_required().max_initial_table_size
            && needs > table as u64
        {
            return Err(StartError::Table { needs, limit: table });
        }
        let clock = plugin.engine.clock().clone();
        let (call, start) = (Budget::of(time, &clock), Budget::of(start_time, &clock));
        let state = State {
            memory: None,
            allocator: None,
            abi: plugin.abi,
            phase: Phase::Starting,
            context: 0,
            called: 0,
            contexts: Default::default(),
            done: Vec::new(),
            world,
            shared: shared.space(&vm_id),
            process: shared,
            mailbox: Arc::new(Mailbox::new(wake)),
            hides_bodies: plugin.hides_bodies,
            logs: plugin.logs,
            levels: 0,
            lines: Cell::default(),
            vm_id,
            configuration,
            env: env.into_iter().map(|(name, value)| format!("{name}={value}")).collect(),
            limits,
            calls: CallOuts::default(),
            metrics: Default::default(),
            limiter: Limiter { memory, table, refused: None },
            clock,
            budget: start,
            overtime: Overtime::None,
            output: Default::default(),
            scratch: RefCell::default(),
            counters: None,
            turn: None,
            ending: Vec::new(),
        };
        let mut store = Store::new(plugin.engine.wasm(), state);
        store.limiter(|state| &mut state.limiter);
        store.epoch_deadline_callback(|mut store| {
            look(&mut store);
            Ok(store.data_mut().deadline())
        });
        let mut runner = Runner { store, call, start, dead: false };

        runner.begin(0, Phase::Starting);
        let instance = match plugin.instance.instantiate(&mut runner.store) {
            Ok(instance) => instance,
            // A guest ran; that it did tells of more than traps, whose text says nothing of its frames.
            Err(error) if error.is::<WasmBacktrace>() || error.is::<wasmtime::Trap>() || error.is::<Exit>() => {
                return Err(runner.die("start section", &error).into());
            }
            Err(error) => return Err(StartError::Instance(format!("{error:#}"))),
        };
        let names = [joint::STEP, joint::STOP, joint::LINES, joint::QUIET];
        let globals = names.map(|name| instance.get_global(&mut runner.store, name));
        let counters = match globals {
            [Some(step), Some(stop), Some(lines), Some(quiet)] => Some(Counters { step, stop, lines, quiet }),
            _ => None,
        };
        runner.store.data_mut().counters = counters;
        let exports = Exports::of(&instance, &mut runner.store, counters.is_some());
        let memory = instance.get_memory(&mut runner.store, "memory");
        let state = runner.store.data_mut();
        state.memory = memory;
        state.allocator = exports.allocator.clone();
        runner.initialize(&instance)?;
        Ok(Vm { runner, exports })
    }

    /// Another budget for each step of the start of a plugin: each may have its own.
    pub fn set_start_time(&mut self, time: Duration) {
        self.runner.start = Budget::of(time, &self.runner.store.data().clock);
    }

    /// Starts a plugin: `proxy_on_context_create`, `proxy_on_vm_start` (for each root context, as in Envoy),
    /// `proxy_on_configure`. One that refuses is gone again (`proxy_on_delete`); the VM and its other plugins live on.
    pub fn start_root(&mut self, settings: PluginSettings) -> Result<RootId, StartError> {
        if self.runner.dead {
            return Err(Trap::dead("proxy_on_context_create").into());
        }
        let size = size(&settings.configuration);
        let state = self.runner.store.data_mut();
        let vm_size = self::size(&state.configuration);
        let context = state.contexts.insert(|ContextId(id)| {
            let kind = Kind::Root { ending: Cell::new(false), status: Cell::new(0) };
            Context { id, root: id, plugin: Rc::new(settings), kind }
        });
        let ContextId(id) = context.ok_or_else(|| full("proxy_on_context_create"))?;
        let phase = Phase::Configuring;
        self.enter("proxy_on_context_create", |e| e.context_create.as_ref(), (id, 0), id, phase)?;
        if self.enter("proxy_on_vm_start", |e| e.vm_start.as_ref(), (id, vm_size), id, phase)? == Some(0) {
            return self.refused(id, "proxy_on_vm_start");
        }
        // Of Envoy's own SDK for C++ only.
        let valid = self.enter(VALIDATE, |e| e.validate_configuration.as_ref(), (id, size), id, phase)?;
        if valid == Some(0) {
            return self.refused(id, VALIDATE);
        }
        if self.enter("proxy_on_configure", |e| e.configure.as_ref(), (id, size), id, phase)? == Some(0) {
            return self.refused(id, "proxy_on_configure");
        }
        Ok(RootId(id))
    }

    fn refused(&mut self, context: u32, callback: &'static str) -> Result<RootId, StartError> {
        self.delete(context)?;
        Err(StartError::Refused(callback))
    }

    /// Ends a plugin. True when it is gone; false when it has asked for time, and goes by itself once it has called
    /// `proxy_done` in a later callback (see [`Vm::has_root`]). The caller bounds that time.
    pub fn stop_root(&mut self, root: RootId) -> Result<bool, Trap> {
        self.context(root.0, "proxy_on_done")?;
        let done = self.enter("proxy_on_done", |e| e.done.as_ref(), root.0, root.0, Phase::Running)? != Some(0);
        if done {
            self.delete(root.0)?;
        } else if let Some(Context { kind: Kind::Root { ending, .. }, .. }) =
            self.runner.store.data().contexts.get(root.0)
        {
            ending.set(true);
        }
        Ok(done)
    }

    /// Whether a plugin is still there.
    pub fn has_root(&self, root: RootId) -> bool {
        self.runner.store.data().contexts.get(root.0).is_some()
    }

    /// Runs the plugin's timer callback.
    pub fn tick(&mut self, root: RootId) -> Result<(), Trap> {
        self.context(root.0, "proxy_on_tick")?;
        self.enter("proxy_on_tick", |e| e.tick.as_ref(), root.0, root.0, Phase::Running).map(drop)
    }

    /// Makes a context for an exchange (`proxy_on_context_create`). It must be [closed](Vm::close).
    pub fn open(&mut self, root: RootId, stream: Rc<RefCell<dyn Stream>>) -> Result<ContextId, Trap> {
        self.open_stream(root, stream, false)
    }

    /// Makes a context for a TCP connection, as [`Vm::open`] for an exchange.
    pub fn open_tcp(&mut self, root: RootId, stream: Rc<RefCell<dyn Stream>>) -> Result<ContextId, Trap> {
        self.open_stream(root, stream, true)
    }

    fn open_stream(&mut self, root: RootId, stream: Rc<RefCell<dyn Stream>>, tcp: bool) -> Result<ContextId, Trap> {
        let context = self.insert(root, stream, tcp)?;
        self.create(context)?;
        Ok(context)
    }

    fn insert(&mut self, root: RootId, stream: Rc<RefCell<dyn Stream>>, tcp: bool) -> Result<ContextId, Trap> {
        const CALLBACK: &str = "proxy_on_context_create";
        let plugin = Rc::clone(&self.context(root.0, CALLBACK)?.plugin);
        let context = self.runner.store.data_mut().contexts.insert(|id| {
            let kind = Kind::Exchange(Exchange::new(id, stream, tcp));
            Context { id: id.0, root: root.0, plugin, kind }
        });
        context.ok_or_else(|| full(CALLBACK))
    }

    /// Runs the log callback: the exchange is over and all its heads can be read once more. In a chain of filters it
    /// runs for all of them before the first is closed.
    pub fn log(&mut self, id: ContextId) -> Result<(), Trap> {
        let Some(exchange) = self.exchange(id, "proxy_on_log")?.filter(|exchange| exchange.life.get() == Life::Open)
        else {
            return Ok(());
        };
        exchange.life.set(Life::Logging);
        self.enter("proxy_on_log", |e| e.log.as_ref(), id.0, id.0, Phase::Running)?;
        self.live(id, Life::Logged);
        Ok(())
    }

    /// How far the life of an exchange is now.
    fn live(&self, id: ContextId, life: Life) {
        if let Some(exchange) = self.runner.store.data().contexts.exchange(id.0) {
            exchange.life.set(life);
        }
    }

    /// Ends an exchange's context: the log callback if it has not run, `proxy_on_done` (whose answer counts for nothing
    /// here), `proxy_on_delete`. Of a TCP connection `proxy_on_done` comes first, as in Envoy.
    pub fn close(&mut self, id: ContextId) -> Result<(), Trap> {
        let Some(Exchange { tcp, .. }) = self.exchange(id, "proxy_on_done")? else { return Ok(()) };
        let tcp = *tcp;
        if !tcp {
            self.log(id)?;
            self.live(id, Life::Ended);
        }
        self.enter("proxy_on_done", |e| e.done.as_ref(), id.0, id.0, Phase::Running)?;
        if tcp {
            self.log(id)?;
            self.live(id, Life::Ended);
        }
        self.delete(id.0)
    }

    /// True after a trap. Every call fails from then on, and no context is left.
    pub fn is_dead(&self) -> bool {
        self.runner.dead
    }

    /// Bytes of linear memory that the guest has.
    pub fn memory(&self) -> usize {
        self.runner.store.data().memory.map_or(0, |memory| memory.data_size(&self.runner.store))
    }

    /// Contexts alive: plugins and exchanges.
    pub fn contexts(&self) -> usize {
        self.runner.store.data().contexts.len()
    }

    /// Contexts alive of one plugin: its own and those of its exchanges.
    pub fn contexts_of(&self, root: RootId) -> usize {
        self.runner.store.data().contexts.iter().filter(|context| context.root == root.0).count()
    }

    /// Calls an export in a context; `None` when the module has it not, and then the guest is not entered.
    fn enter<P: WasmParams, R: WasmResults>(
        &mut self,
        callback: &'static str,
        export: impl Fn(&Exports) -> Option<&TypedFunc<P, R>>,
        parameters: P,
        context: u32,
        phase: Phase,
    ) -> Result<Option<R>, Trap> {
        let Some(function) = export(&self.exports) else { return Ok(None) };
        let result = self.runner.enter(callback, function, parameters, context, phase)?;
        self.delete_done()?;
        Ok(Some(result))
    }

    fn delete(&mut self, context: u32) -> Result<(), Trap> {
        // It can be named (`proxy_set_effective_context`) until the guest has let it go.
        let deleted = match &self.exports.delete {
            Some(function) => {
                self.runner.enter("proxy_on_delete", function, context, context, Phase::Running).map(drop)
            }
            None => Ok(()),
        };
        let contexts = &mut self.runner.store.data_mut().contexts;
        let root = contexts.exchange(context).is_none();
        contexts.end(context);
        if root {
            self.runner.cancel(Some(context));
        }
        deleted
    }

    /// Deletes the plugins that have called `proxy_done` in the callback which has just returned: hardly ever one.
    #[inline]
    fn delete_done(&mut self) -> Result<(), Trap> {
        if self.runner.store.data().done.is_empty() { Ok(()) } else { self.delete_all_done() }
    }

    #[cold]
    fn delete_all_done(&mut self) -> Result<(), Trap> {
        while let Some(id) = self.runner.store.data_mut().done.pop() {
            if self.runner.store.data().contexts.get(id).is_some() {
                self.delete(id)?;
            }
        }
        Ok(())
    }

    /// The context of a number, for a callback.
    fn context(&self, number: u32, callback: &'static str) -> Result<&Context, Trap> {
        if self.runner.dead {
            return Err(Trap::dead(callback));
        }
        self.runner.store.data().contexts.get(number).ok_or_else(|| absent(number, callback))
    }

    /// The exchange of a context, if it is not that of a plugin.
    fn exchange(&self, id: ContextId, callback: &'static str) -> Result<Option<&Exchange>, Trap> {
        self.context(id.0, callback).map(Context::exchange)
    }
}

#[cold]
fn absent(number: u32, callback: &'static str) -> Trap {
    Trap { callback, cause: Cause::Host(format!("context {number} does not exist")), backtrace: String::new() }
}

#[cold]
fn full(callback: &'static str) -> Trap {
    Trap { callback, cause: Cause::Host("there is no number for one more context".into()), backtrace: String::new() }
}

impl Runner {
    /// `_initialize` and then `main`, or `_start`. To exit with 0 is fine here: some C programs end that way.
    fn initialize(&mut self, instance: &wasmtime::Instance) -> Result<(), Trap> {
        if let Some(function) = find::<(), ()>(instance, &mut self.store, "_initialize") {
            self.run_start("_initialize", &function, ())?;
            if let Some(function) = find::<(u32, u32), u32>(instance, &mut self.store, "main") {
                self.run_start("main", &function, (0, 0))?;
            } else if let Some(function) = find::<(), u32>(instance, &mut self.store, "__main_void") {
                self.run_start("__main_void", &function, ())?;
            }
        } else if let Some(function) = find::<(), ()>(instance, &mut self.store, "_start") {
            self.run_start("_start", &function, ())?;
        }
        Ok(())
    }

    fn run_start<P: WasmParams, R: WasmResults>(
        &mut self,
        name: &'static str,
        function: &TypedFunc<P, R>,
        parameters: P,
    ) -> Result<(), Trap> {
        match self.call(function, parameters, 0, Phase::Starting) {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.downcast_ref(), Some(Exit(0))) => Ok(()),
            Err(error) => Err(self.die(name, &error)),
        }
    }

    fn enter<P: WasmParams, R: WasmResults>(
        &mut self,
        callback: &'static str,
        function: &TypedFunc<P, R>,
        parameters: P,
        context: u32,
        phase: Phase,
    ) -> Result<R, Trap> {
        self.call(function, parameters, context, phase).map_err(|error| self.die(callback, &error))
    }

    /// The one place where guests are entered. No borrow of a `Stream` or the `World` can be alive here: the only code
    /// that takes one is a host function, and those have returned.
    fn call<P: WasmParams, R: WasmResults>(
        &mut self,
        function: &TypedFunc<P, R>,
        parameters: P,
        context: u32,
        phase: Phase,
    ) -> wasmtime::Result<R> {
        self.begin(context, phase);
        let called = function.call(&mut self.store, parameters);
        if let Some(limit) = self.store.data().limiter.refused {
            self.refused(limit);
        }
        called
    }

    /// Has the embedder count what the guest was refused. A world that is borrowed now has been reported by a trap.
    #[cold]
    fn refused(&self, limit: Limit) {
        _ = self.store.data().refused(limit);
    }

    /// Sets the scene for a call, and starts its time.
    fn begin(&mut self, context: u32, phase: Phase) {
        let budget = match phase {
            Phase::Starting | Phase::Configuring => self.start,
            Phase::Running | Phase::Allocating => self.call,
        };
        let state = self.store.data_mut();
        state.called = context;
        state.context = context;
        state.phase = phase;
        state.limiter.refused = None;
        state.budget = budget;
        state.overtime = Overtime::None;
        state.clock.wind();
        self.store.set_epoch_deadline(budget.half);
        let levels = world::levels();
        if self.store.data().levels != levels {
            self.learn(levels);
        }
    }

    /// The VM is dead: what it wrote last is logged, every context is let go.
    fn die(&mut self, callback: &'static str, error: &wasmtime::Error) -> Trap {
        self.dead = true;
        let state = self.store.data_mut();
        let Limiter { memory, table, refused } = state.limiter;
        let trap = Trap::of(callback, error, Bounds { time: state.budget.time, memory, table, refused });
        if matches!(trap.cause, Cause::Timeout(_)) {
            _ = state.refused(Limit::Time);
        }
        for output in 0..state.output.len() {
            // A world that is borrowed now has been reported by the trap itself.
            _ = state.flush(output);
        }
        state.contexts.clear();
        state.done.clear();
        state.calls.answer = None;
        self.cancel(None);
        trap
    }

    /// Ends the call-outs of a root context, or all. A world that is borrowed now has been reported by a trap.
    fn cancel(&mut self, root: Option<u32>) {
        let state = self.store.data_mut();
        let ended = state.calls.end_all(root);
        if !ended.is_empty()
            && let Ok(mut world) = state.world.try_borrow_mut()
        {
            ended.into_iter().for_each(|id| world.call_cancel(id));
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.cancel(None);
    }
}

impl fmt::Debug for Vm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vm").field("contexts", &self.contexts()).field("dead", &self.is_dead()).finish_non_exhaustive()
    }
}

fn size(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}
