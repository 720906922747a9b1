//! A VM in one worker and the plugins that share it: how it starts, what happens when it dies, and when it goes.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use lacis_host::{CallId, Cause, GrpcEvent, HttpAnswer, RootId, SharedData, StartError, Trap, Vm, VmSettings, Wake};
use slab::Slab;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::callout::{Calls, Reach, Upstreams};
use super::compiled::{Compiled, VmKey};
use super::exchange::Ledger;
use super::node::NodeFacts;
use super::wasm::{Account, Filter};
use super::world::{FilterWorld, Ticks};
use crate::drain::Drain;
use crate::telemetry::cell::Sample;
use crate::telemetry::labels::{CallResult, Callback, Limit, Outcome};
use crate::telemetry::metrics::FilterMetrics;

/// How long a dead VM stays away before another is made, and the most that this doubles to: a filter that traps on
/// every request must not turn the worker into a VM factory.
const REVIVAL: Duration = Duration::from_millis(100);
const REVIVAL_MAX: Duration = Duration::from_secs(30);

/// A VM that ran for so long has earned a fresh start of that wait.
const REVIVAL_RESET: Duration = Duration::from_secs(60);

/// How long a plugin that has asked for time at its end (`proxy_on_done`) may take until it calls `proxy_done`. Flushing
/// a batch takes a tick or two; a plugin that never calls must not live as long as the process.
const FAREWELL: Duration = Duration::from_secs(10);

/// Most filters that only requests of earlier generations use, in one worker, where there are not more in use. Each has a plugin's memory and perhaps a
/// VM's, for as long as its last request runs: without a bound, changes that come faster than long streams end would
/// fill the memory.
const RETIRED_MAX: usize = 64;

/// A machine, and the task that ticks for it.
type Ticking = (Rc<Machine>, JoinHandle<()>);

/// Tells the VMs of a worker apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MachineId(u32);

thread_local! {
    static IDS: Cell<u32> = const { Cell::new(0) };
    static RUNNING: Cell<Option<MachineId>> = const { Cell::new(None) };
    static WATCHES: RefCell<Slab<Waker>> = const { RefCell::new(Slab::new()) };
}

/// The VM that runs now. None is ever entered while another runs on this thread.
pub(super) fn running() -> Option<MachineId> {
    RUNNING.get()
}

/// Has a task woken when a VM dies: what its guests have stopped will not be let go on by them.
#[derive(Debug)]
pub(super) struct DeathWatch(usize);

impl DeathWatch {
    pub(super) fn new(cx: &Context<'_>) -> Self {
        DeathWatch(WATCHES.with_borrow_mut(|all| all.insert(cx.waker().clone())))
    }
}

impl Drop for DeathWatch {
    fn drop(&mut self) {
        // The table may be gone when the thread ends.
        let _ = WATCHES.try_with(|all| all.borrow_mut().try_remove(self.0));
    }
}

/// The VMs of one worker, found by what they are equal by, so that a new generation takes over those that fit it.
pub struct Machines {
    shared: Arc<SharedData>,
    node: Rc<NodeFacts>,
    ledger: Rc<Ledger>,
    reach: Reach,
    running: RefCell<HashMap<VmKey, Ticking>>,
    filters: RefCell<Vec<Weak<Filter>>>,
}

impl Machines {
    /// None so far. `shared` is the shared data of the process.
    pub fn new(shared: Arc<SharedData>, node: Rc<NodeFacts>, ledger: Rc<Ledger>) -> Self {
        Machines {
            shared,
            node,
            ledger,
            reach: Reach::default(),
            running: RefCell::default(),
            filters: RefCell::default(),
        }
    }

    /// The filter in this worker: the one that runs already if it is the same, on a VM that runs already if that is the
    /// same. To be called inside a `LocalSet`.
    pub(super) fn filter(&self, compiled: &Arc<Compiled>, generation: u64) -> Rc<Filter> {
        if let Some(same) = self.alive().find(|filter| filter.is(compiled)) {
            return same;
        }
        let machine = self.machine(compiled);
        let filter = Rc::new(Filter::new(compiled, machine, generation, &self.ledger));
        self.filters.borrow_mut().push(Rc::downgrade(&filter));
        filter
    }

    /// Filters may call these services of a generation from now on. Those of earlier ones stay while `exchanges` of theirs
    /// run.
    pub fn reach(&self, upstreams: Rc<dyn Upstreams>, exchanges: Drain) {
        self.reach.add(upstreams, exchanges);
    }

    /// Filters that start in this may call these services: those of their own configuration, which is not in use yet.
    pub fn starting<R>(&self, upstreams: Rc<dyn Upstreams>, start: impl FnOnce() -> R) -> R {
        self.reach.starting(Some(upstreams));
        let started = start();
        self.reach.starting(None);
        started
    }

    /// The metrics of a filter, be it here or not.
    pub(super) fn metrics(&self, filter: &str) -> FilterMetrics {
        self.ledger.metrics.filter(filter)
    }

    /// What is known of the node.
    pub(super) fn node(&self) -> &Rc<NodeFacts> {
        &self.node
    }

    /// The filters that run, whatever generation uses them.
    pub fn alive(&self) -> impl Iterator<Item = Rc<Filter>> {
        let filters: Vec<_> = self.filters.borrow().iter().filter_map(Weak::upgrade).collect();
        filters.into_iter()
    }

    /// Whether another generation may be built beside `used` filters in use and those that older ones still need.
    ///
    /// # Errors
    /// If requests of older generations hold too many filters.
    pub fn has_room(&self, used: usize) -> Result<(), String> {
        // One long stream can hold as many as a generation has: it must not be what keeps others from coming.
        let most = RETIRED_MAX.max(used);
        match self.alive().count().saturating_sub(used) {
            retired if retired > most => Err(format!(
                "requests that began with older configurations still use {retired} filters of these, and {most} is the \
                 limit; save the file again when they have ended"
            )),
            _ => Ok(()),
        }
    }

    /// Lets go of what nobody uses any more, and accounts for the memory of the rest. Called now and then.
    pub fn sweep(&self) {
        self.filters.borrow_mut().retain(|filter| filter.strong_count() > 0);
        self.reach.sweep();
        let now = Instant::now();
        self.running.borrow_mut().retain(|_, (machine, ticks)| {
            machine.farewell(now);
            // One is ours; the ticking task holds none while it waits.
            let used = Rc::strong_count(machine) > 1 || !machine.leaving.borrow().is_empty();
            if !used {
                ticks.abort();
            }
            used
        });
    }

    fn machine(&self, compiled: &Arc<Compiled>) -> Rc<Machine> {
        let mut running = self.running.borrow_mut();
        let (machine, _) = running.entry(compiled.vm_key()).or_insert_with(|| {
            let machine = Rc::new_cyclic(|own| {
                let calls = Calls::new(&self.reach, own, compiled.buffer_limit(), &self.ledger.metrics);
                Machine::new(compiled, &self.shared, &self.node, &self.ledger, calls)
            });
            let (ticks, queues) = (Rc::clone(&machine.ticks), Arc::clone(&machine.queues));
            let ticks = tokio::task::spawn_local(self::ticks(Rc::downgrade(&machine), ticks, queues));
            (machine, ticks)
        });
        Rc::clone(machine)
    }
}

/// A VM, or the place of one that died.
pub(super) struct Machine {
    id: MachineId,
    /// The first filter that wanted it.
    compiled: Arc<Compiled>,
    shared: Arc<SharedData>,
    world: Rc<RefCell<FilterWorld>>,
    ticks: Rc<Ticks>,
    /// Something waits in a shared queue of its guests', put there by whatever thread.
    queues: Arc<Notify>,
    vm: RefCell<Option<Vm>>,
    /// Which of its successive VMs this is.
    life: Cell<u32>,
    since: Cell<Instant>,
    revival: Cell<(Instant, Duration)>,
    /// What is counted of its memory, and for which of the plugins.
    memory: RefCell<Option<(Rc<Account>, u64)>>,
    plugins: RefCell<Vec<(RootId, Rc<Account>)>>,
    /// Plugins that have asked for time at their end, and how long that is.
    leaving: RefCell<Vec<(RootId, Instant)>>,
}

impl Machine {
    fn new(
        compiled: &Arc<Compiled>,
        shared: &Arc<SharedData>,
        node: &Rc<NodeFacts>,
        ledger: &Ledger,
        calls: Calls,
    ) -> Self {
        let ticks = Rc::new(Ticks::default());
        let now = Instant::now();
        Machine {
            id: MachineId(IDS.replace(IDS.get().wrapping_add(1))),
            compiled: Arc::clone(compiled),
            shared: Arc::clone(shared),
            world: Rc::new(RefCell::new(FilterWorld::new(compiled, node, &ledger.metrics, &ticks, calls))),
            ticks,
            queues: Arc::default(),
            vm: RefCell::new(None),
            life: Cell::new(0),
            since: Cell::new(now),
            revival: Cell::new((now, REVIVAL)),
            memory: RefCell::default(),
            plugins: RefCell::default(),
            leaving: RefCell::default(),
        }
    }

    /// Which one it is.
    pub(super) fn id(&self) -> MachineId {
        self.id
    }

    /// Which of its successive VMs runs, or will.
    pub(super) fn life(&self) -> u32 {
        self.life.get()
    }

    /// Waits no longer until a dead VM is replaced.
    pub(super) fn hurry(&self) {
        self.revival.set((Instant::now(), REVIVAL));
    }

    /// Counts what a plugin was refused.
    pub(super) fn refused(&self, plugin: &str, limit: Limit) {
        self.world.borrow_mut().count(plugin, limit);
    }

    /// Calls the VM; nothing if there is none.
    pub(super) fn call<T>(&self, f: impl FnOnce(&mut Vm) -> T) -> Option<T> {
        let mut vm = self.vm.borrow_mut();
        let vm = vm.as_mut()?;
        RUNNING.set(Some(self.id));
        let called = f(vm);
        RUNNING.set(None);
        Some(called)
    }

    /// Starts a plugin, and the VM if there is none and it may be tried again.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn start(&self, filter: &Compiled, account: &Rc<Account>) -> Result<(RootId, u32), String> {
        let (from, wait) = self.revival.get();
        let now = Instant::now();
        if now < from {
            return Err("its VM died and is being replaced".into());
        }
        let started = self.start_now(filter);
        match started {
            Ok(root) => {
                self.plugins.borrow_mut().push((root, Rc::clone(account)));
                self.account();
                Ok((root, self.life.get()))
            }
            Err(StartError::Trap(trap)) if self.vm.borrow().is_some() => {
                self.trapped(&trap, account);
                Err(format!("it did not start: {trap}"))
            }
            Err(error) => {
                let trap = if let StartError::Trap(trap) = &error { Some(trap) } else { None };
                let backtrace = trap.map(|trap| &*trap.backtrace);
                tracing::error!(target: "filter", filter = %account.name, %error, backtrace, "the filter could not be started");
                account.failed(&error);
                if let Some(trap) = trap {
                    account.metrics.request(outcome(trap), Sample::default());
                }
                self.revival.set((now + wait, (wait * 2).min(REVIVAL_MAX)));
                Err(format!("it could not be started: {error}"))
            }
        }
    }

    fn start_now(&self, filter: &Compiled) -> Result<RootId, StartError> {
        self.world.borrow_mut().begin(&filter.settings.name);
        let mut vm = self.vm.borrow_mut();
        if let Some(vm) = vm.as_mut() {
            vm.set_start_time(filter.start);
            return vm.start_root(filter.plugin_settings());
        }
        let queues = Arc::clone(&self.queues);
        let wake = Wake(Arc::new(move || queues.notify_one()));
        let settings = VmSettings { wake, ..self.compiled.vm_settings(&self.shared) };
        let mut new = Vm::new(&self.compiled.plugin, settings, Rc::clone(&self.world) as _)?;
        new.set_start_time(filter.start);
        // What it wished until it failed is not for the next one, whose plugins have the same numbers.
        let root = new.start_root(filter.plugin_settings()).inspect_err(|_| self.ticks.clear())?;
        self.since.set(Instant::now());
        *vm = Some(new);
        Ok(root)
    }

    /// The VM is dead: it goes, and all its plugins with it. `account` is the plugin's that met the trap.
    pub(super) fn trapped(&self, trap: &Trap, account: &Account) {
        tracing::error!(target: "filter", filter = %account.name, callback = trap.callback, cause = %trap.cause, backtrace = %trap.backtrace, "the filter trapped");
        account.failed(trap);
        account.metrics.request(outcome(trap), Sample::default());
        if self.vm.borrow_mut().take().is_none() {
            return;
        }
        self.life.set(self.life.get().wrapping_add(1));
        self.plugins.borrow_mut().clear();
        self.account();
        self.leaving.borrow_mut().clear();
        self.ticks.clear();
        self.world.borrow_mut().calls.clear();
        WATCHES.with_borrow(|all| all.iter().for_each(|(_, waker)| waker.wake_by_ref()));
        let (_, wait) = self.revival.get();
        let wait = if self.since.get().elapsed() > REVIVAL_RESET { REVIVAL } else { wait };
        self.revival.set((Instant::now() + wait, (wait * 2).min(REVIVAL_MAX)));
    }

    /// Ends a plugin that no exchange uses any more.
    pub(super) fn stop(&self, root: RootId, account: &Account) {
        // Exchanges end outside of the VM, and so do the filters that they were the last to hold.
        let Ok(mut vm) = self.vm.try_borrow_mut() else { return };
        let stopped = vm.as_mut().map(|vm| vm.stop_root(root));
        drop(vm);
        match stopped {
            Some(Ok(true)) => self.forget(root),
            Some(Ok(false)) => self.leaving.borrow_mut().push((root, Instant::now() + FAREWELL)),
            Some(Err(trap)) => self.trapped(&trap, account),
            None => {}
        }
    }

    fn forget(&self, root: RootId) {
        self.ticks.wish(root, None);
        self.plugins.borrow_mut().retain(|(own, _)| *own != root);
    }

    /// Looks which of the leaving have gone, or have had their time.
    fn farewell(&self, now: Instant) {
        let (mut gone, vm) = (Vec::new(), self.vm.borrow());
        self.leaving.borrow_mut().retain(|(root, until)| {
            let stays = now < *until && vm.as_ref().is_some_and(|vm| vm.has_root(*root));
            if !stays {
                gone.push(*root);
            }
            stays
        });
        drop(vm);
        gone.into_iter().for_each(|root| self.forget(root));
        self.account();
    }

    fn tick(&self, root: RootId) {
        let began = Instant::now();
        match self.aside(Some(root), |vm| vm.tick(root)) {
            Some(()) => {
                let late = self.ticks.ticked(root, began.elapsed(), self.compiled.settings.limits.ticks);
                if let Some(account) = self.plugin(Some(root)).filter(|_| late) {
                    self.refused(&account.name, Limit::Ticks);
                }
            }
            // It is not there, or not any more: its wish would be due for ever.
            None => self.ticks.wish(root, None),
        }
    }

    /// An HTTP call of a plugin's is over.
    pub(super) fn http_called(&self, root: RootId, id: CallId, answer: Option<HttpAnswer>, result: CallResult) {
        self.world.borrow_mut().calls.over(id, result);
        self.aside(Some(root), |vm| vm.on_http_call(id, answer));
    }

    /// Something came of a gRPC call of a plugin's; `last` is how it has ended, if it has.
    pub(super) fn grpc_event(&self, root: RootId, id: CallId, event: GrpcEvent, last: Option<CallResult>) {
        if let Some(result) = last {
            self.world.borrow_mut().calls.over(id, result);
        }
        self.aside(Some(root), |vm| vm.on_grpc(id, event));
    }

    /// The plugin with this root context; the first where that is not known.
    fn plugin(&self, root: Option<RootId>) -> Option<Rc<Account>> {
        let plugins = self.plugins.borrow();
        let own = plugins.iter().find(|(own, _)| root.is_none_or(|root| *own == root));
        own.map(|(_, account)| Rc::clone(account))
    }

    /// A callback that belongs to no exchange. `None` if there is no VM, or it died of it: at the cost of the plugin with
    /// this root context, or of the first where that is not known.
    fn aside<T>(&self, root: Option<RootId>, f: impl FnOnce(&mut Vm) -> Result<T, Trap>) -> Option<T> {
        let account = self.plugin(root);
        let called = match &account {
            Some(account) => account.meter.measure(Callback::Aside, || self.call(f)),
            None => self.call(f),
        };
        match called? {
            Ok(answer) => Some(answer),
            Err(trap) => {
                if let Some(account) = account {
                    self.trapped(&trap, &account);
                }
                None
            }
        }
    }

    /// The gauge is the sum over workers, so each adds and takes away its own: once, for the first plugin of those that there
    /// are, so that the sum over filters is what they take together.
    fn account(&self) {
        let bytes = self.vm.borrow().as_ref().map_or(0, |vm| vm.memory() as u64);
        let first = self.plugins.borrow().first().map(|(_, account)| (Rc::clone(account), bytes));
        if let Some((account, bytes)) = &first {
            account.metrics.memory().add(*bytes);
        }
        if let Some((account, bytes)) = self.memory.replace(first) {
            account.metrics.memory().sub(bytes);
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.plugins.borrow_mut().clear();
        self.account();
    }
}

/// How a trap is counted.
fn outcome(trap: &Trap) -> Outcome {
    match trap.cause {
        Cause::Timeout(_) => Outcome::Timeout,
        _ => Outcome::Trap,
    }
}

/// Ticks as the plugins wish, and tells them of their shared queues, for as long as there is the machine.
async fn ticks(machine: Weak<Machine>, ticks: Rc<Ticks>, queues: Arc<Notify>) {
    loop {
        let root = tokio::select! {
            root = ticks.due() => Some(root),
            () = queues.notified() => None,
        };
        let Some(machine) = machine.upgrade() else { return };
        match root {
            Some(root) => machine.tick(root),
            None => {
                if machine.aside(None, |vm| vm.on_queue_ready()) == Some(true) {
                    // Others first.
                    queues.notify_one();
                    drop(machine);
                    tokio::task::yield_now().await;
                }
            }
        }
    }
}
