//! A Wasm filter in one worker: its VM, and what happens when that dies.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use lacis_host::abi::{Action, BodyAnswer, Level};
use lacis_host::{
    CallId, Cause, ContextId, GrpcEvent, Half, HeadersAction, HttpAnswer, Limits, Plugin, PluginSettings, RootId,
    SharedData, Stream, Trap, Vm, VmSettings, Wake, limits,
};
use slab::Slab;
use tokio::sync::Notify;

use super::callout::{Calls, Upstreams};
use super::exchange::Ledger;
use super::world::{FilterWorld, NodeFacts, Timer};
use crate::config::{self, Failure};
use crate::fault::{Fault, Reason};
use crate::telemetry::access::Verdict;
use crate::telemetry::labels::Outcome;
use crate::telemetry::metrics::FilterMetrics;

/// How long a dead VM stays away before another is made, and the most that this doubles to: a filter that traps on
/// every request must not turn the worker into a VM factory.
const REVIVAL: Duration = Duration::from_millis(100);
const REVIVAL_MAX: Duration = Duration::from_secs(30);

/// A VM that ran for so long has earned a fresh start of that wait.
const REVIVAL_RESET: Duration = Duration::from_secs(60);

/// A filter of the configuration with its code, ready for every worker.
pub struct Compiled {
    /// Its section of the configuration.
    pub settings: config::Filter,
    /// Its module.
    pub plugin: Plugin,
}

impl Compiled {
    /// How its VMs are made.
    pub fn vm_settings(&self, shared: &Arc<SharedData>) -> VmSettings {
        VmSettings {
            vm_id: self.settings.vm_id.clone(),
            configuration: self.settings.vm_config.clone(),
            env: self.settings.env.clone(),
            memory: usize::try_from(self.settings.limits.memory).unwrap_or(usize::MAX),
            time: self.settings.limits.time,
            // What the log drops, the guest need not make; the log's own levels decide beyond that.
            level: Level::Trace,
            shared: Arc::clone(shared),
            limits: Limits {
                calls: self.settings.limits.calls as usize,
                body: limits::BODY.max(self.buffer_limit()),
                ..Limits::default()
            },
            ..VmSettings::default()
        }
    }

    /// How its root context is made.
    pub fn plugin_settings(&self) -> PluginSettings {
        PluginSettings {
            name: self.settings.name.clone(),
            root_id: self.settings.root_id.clone(),
            configuration: self.settings.config.clone(),
            allow_on_headers_stop_iteration: self.settings.head_waits_alone,
            ..PluginSettings::default()
        }
    }

    fn buffer_limit(&self) -> usize {
        usize::try_from(self.settings.limits.buffer).unwrap_or(usize::MAX)
    }

    /// Whether it has callbacks for more than the heads of each half: a filter without costs a body nothing.
    fn sees(&self) -> [bool; 2] {
        [
            ["proxy_on_request_body", "proxy_on_request_trailers"],
            ["proxy_on_response_body", "proxy_on_response_trailers"],
        ]
        .map(|callbacks| callbacks.iter().any(|name| self.plugin.exports(name)))
    }
}

/// One filter in one worker.
pub(super) struct Filter {
    id: FilterId,
    sees: [bool; 2],
    /// Its guest says that it sees nothing but heads.
    heads_only: Rc<Cell<bool>>,
    compiled: Arc<Compiled>,
    shared: Arc<SharedData>,
    world: Rc<RefCell<FilterWorld>>,
    timer: Rc<Timer>,
    /// Something waits in a shared queue of its guest's, put there by whatever thread.
    queues: Arc<Notify>,
    name: Arc<str>,
    metrics: FilterMetrics,
    memory: Cell<u64>,
    running: RefCell<Option<Running>>,
    revival: Cell<(Instant, Duration)>,
    lives: Cell<u32>,
    ticking: Cell<bool>,
}

struct Running {
    vm: Vm,
    root: RootId,
    since: Instant,
}

/// Tells the filters of a worker apart, whatever their names and generations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FilterId(u32);

thread_local! {
    static IDS: Cell<u32> = const { Cell::new(0) };
    static RUNNING: Cell<Option<FilterId>> = const { Cell::new(None) };
    static WATCHES: RefCell<Slab<Waker>> = const { RefCell::new(Slab::new()) };
}

/// The filter whose guest runs now. Guests are never entered while another runs on this thread.
pub(super) fn running() -> Option<FilterId> {
    RUNNING.get()
}

/// Has a task woken when a VM dies: what it has stopped will not be let go on by it.
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

/// An exchange's context in a filter's VM, and which of its successive VMs that is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    context: ContextId,
    life: u32,
}

impl Place {
    /// Whether it is this context.
    pub(super) fn is(self, context: ContextId) -> bool {
        self.context == context
    }
}

impl Filter {
    pub(super) fn new(
        compiled: &Arc<Compiled>,
        shared: &Arc<SharedData>,
        node: &Rc<NodeFacts>,
        upstreams: &Rc<dyn Upstreams>,
        ledger: &Ledger,
    ) -> Rc<Self> {
        let filter = Rc::new_cyclic(|filter| Filter::stopped(compiled, shared, node, upstreams, ledger, filter));
        // The first VM is made before the first request. The canary has seen it start; if it does not here, requests
        // follow the failure policy and it is tried again.
        let _ = filter.revive();
        filter
    }

    /// Without a VM yet.
    fn stopped(
        compiled: &Arc<Compiled>,
        shared: &Arc<SharedData>,
        node: &Rc<NodeFacts>,
        upstreams: &Rc<dyn Upstreams>,
        ledger: &Ledger,
        own: &Weak<Filter>,
    ) -> Self {
        let name = &compiled.settings.name;
        let timer = Rc::new(Timer::default());
        let heads_only = Rc::default();
        let calls = Calls::new(upstreams, own, compiled.buffer_limit());
        let world = FilterWorld::new(node, ledger.metrics.guest(name), &timer, calls, &heads_only);
        Filter {
            id: FilterId(IDS.replace(IDS.get().wrapping_add(1))),
            sees: compiled.sees(),
            heads_only,
            compiled: Arc::clone(compiled),
            shared: Arc::clone(shared),
            world: Rc::new(RefCell::new(world)),
            timer,
            queues: Arc::default(),
            name: name.as_str().into(),
            metrics: ledger.metrics.filter(name),
            memory: Cell::new(0),
            running: RefCell::new(None),
            revival: Cell::new((Instant::now(), REVIVAL)),
            lives: Cell::new(0),
            ticking: Cell::new(false),
        }
    }

    /// Which one it is.
    pub(super) fn id(&self) -> FilterId {
        self.id
    }

    /// Whether it has callbacks for more than the head of this half.
    pub(super) fn sees(&self, half: Half) -> bool {
        self.sees[half as usize] && !self.heads_only.get()
    }

    /// Bytes of a body that it may hold back.
    pub(super) fn buffer_limit(&self) -> usize {
        self.compiled.buffer_limit()
    }

    /// Begins an exchange. `None` if the filter cannot run and fails open.
    ///
    /// # Errors
    /// If it cannot run and fails closed.
    pub(super) fn open(&self, stream: Rc<RefCell<dyn Stream>>) -> Result<Option<Place>, Fault> {
        if let Err(why) = self.revive() {
            return self
                .unavailable(Fault::new(Reason::FilterUnavailable).detail(format!("filter {}: {why}", self.name)));
        }
        match self.call(|running| running.vm.open(running.root, stream)) {
            Some(Ok(context)) => Ok(Some(Place { context, life: self.lives.get() })),
            Some(Err(trap)) => self.trapped(&trap).map(|()| None),
            None => self.unavailable(Fault::new(Reason::FilterUnavailable)),
        }
    }

    /// Shows a head. A filter whose VM died and that fails open lets everything pass.
    ///
    /// # Errors
    /// If its VM died and it fails closed.
    pub(super) fn on_headers(&self, place: Place, half: Half, count: u32, end: bool) -> Result<HeadersAction, Fault> {
        let shown = self.show(place, |running| running.vm.on_headers(place.context, half, count, end))?;
        Ok(shown.unwrap_or(HeadersAction::Continue))
    }

    /// Shows what it sees of a body; see [`Filter::on_headers`].
    pub(super) fn on_body(&self, place: Place, half: Half, end: bool) -> Result<BodyAnswer, Fault> {
        let shown = self.show(place, |running| running.vm.on_body(place.context, half, end))?;
        Ok(shown.unwrap_or(BodyAnswer::Continue))
    }

    /// Shows trailers; see [`Filter::on_headers`].
    pub(super) fn on_trailers(&self, place: Place, half: Half, count: u32) -> Result<Action, Fault> {
        let shown = self.show(place, |running| running.vm.on_trailers(place.context, half, count))?;
        Ok(shown.unwrap_or(Action::Continue))
    }

    /// Whether a context is still there: not when its VM died.
    pub(super) fn has(&self, place: Place) -> bool {
        place.life == self.lives.get()
    }

    /// What becomes of an exchange that waits for a context which died.
    ///
    /// # Errors
    /// If the filter fails closed.
    pub(super) fn lost(&self) -> Result<(), Fault> {
        match self.compiled.settings.failure {
            Failure::Closed => {
                Err(Fault::new(Reason::FilterUnavailable).detail(format!("filter {}: its VM died", self.name)))
            }
            Failure::Open => Ok(()),
        }
    }

    /// One callback for an exchange. `None` if there is no VM for it and the filter fails open.
    fn show<T>(&self, place: Place, f: impl FnOnce(&mut Running) -> Result<T, Trap>) -> Result<Option<T>, Fault> {
        if !self.has(place) {
            return self.lost().map(|()| None);
        }
        match self.call(f) {
            Some(Ok(answer)) => Ok(Some(answer)),
            Some(Err(trap)) => self.trapped(&trap).map(|()| None),
            None => self.lost().map(|()| None),
        }
    }

    /// The exchange is over: its log callback.
    pub(super) fn log(&self, place: Place) {
        self.quietly(place, |running| running.vm.log(place.context));
    }

    /// The exchange is over: its context goes.
    pub(super) fn close(&self, place: Place) {
        self.quietly(place, |running| running.vm.close(place.context));
    }

    /// Ticks for ever, as the guest wishes, and tells it of its shared queues. A filter of both sides has one timer: the
    /// first that asks runs it.
    pub(super) async fn ticks(self: Rc<Self>) {
        while !self.ticking.replace(true) {
            self.tick().await;
        }
    }

    async fn tick(&self) {
        loop {
            tokio::select! {
                () = self.timer.due() => drop(self.aside(|running| running.vm.tick(running.root))),
                () = self.queues.notified() => {
                    while self.aside(|running| running.vm.on_queue_ready()) == Some(true) {
                        tokio::task::yield_now().await;
                    }
                }
            }
        }
    }

    /// An HTTP call of its guest's is over.
    pub(super) fn http_called(&self, id: CallId, answer: Option<HttpAnswer>) {
        self.world.borrow_mut().calls.over(id);
        self.aside(|running| running.vm.on_http_call(id, answer));
    }

    /// Something came of a gRPC call of its guest's; nothing more will if it is the last.
    pub(super) fn grpc_event(&self, id: CallId, event: GrpcEvent, last: bool) {
        if last {
            self.world.borrow_mut().calls.over(id);
        }
        self.aside(|running| running.vm.on_grpc(id, event));
    }

    /// A callback that belongs to no exchange. `None` if there is no VM, or it died.
    fn aside<T>(&self, f: impl FnOnce(&mut Running) -> Result<T, Trap>) -> Option<T> {
        match self.call(f)? {
            Ok(answer) => Some(answer),
            Err(trap) => {
                // The exchanges that it stopped learn of it by themselves.
                let _ = self.trapped(&trap);
                None
            }
        }
    }

    /// Counts what it said of a request.
    pub(super) fn said(&self, outcome: Outcome, took: Duration) -> Verdict {
        self.metrics.request(outcome, took);
        Verdict { filter: Arc::clone(&self.name), outcome }
    }

    fn quietly(&self, place: Place, f: impl FnOnce(&mut Running) -> Result<(), Trap>) {
        if self.has(place)
            && let Some(Err(trap)) = self.call(f)
        {
            // The response is out: a trap now only costs the VM.
            let _ = self.trapped(&trap);
        }
    }

    fn call<T>(&self, f: impl FnOnce(&mut Running) -> Result<T, Trap>) -> Option<Result<T, Trap>> {
        let mut running = self.running.borrow_mut();
        let running = running.as_mut()?;
        RUNNING.set(Some(self.id));
        let called = f(running);
        RUNNING.set(None);
        Some(called)
    }

    /// The VM is dead: it goes, and the request that met the trap follows the failure policy.
    fn trapped(&self, trap: &Trap) -> Result<(), Fault> {
        let (reason, outcome) = match trap.cause {
            Cause::Timeout(_) => (Reason::FilterTimeout, Outcome::Timeout),
            _ => (Reason::FilterTrap, Outcome::Trap),
        };
        tracing::error!(target: "filter", filter = %self.name, callback = trap.callback, cause = %trap.cause, backtrace = %trap.backtrace, "the filter trapped");
        let ran = self.running.borrow_mut().take().map_or(Duration::ZERO, |running| running.since.elapsed());
        self.lives.set(self.lives.get().wrapping_add(1));
        self.world.borrow_mut().calls.clear();
        WATCHES.with_borrow(|all| all.iter().for_each(|(_, waker)| waker.wake_by_ref()));
        self.account(0);
        let (_, wait) = self.revival.get();
        let wait = if ran > REVIVAL_RESET { REVIVAL } else { wait };
        self.revival.set((Instant::now() + wait, (wait * 2).min(REVIVAL_MAX)));
        self.metrics.request(outcome, Duration::ZERO);
        let fault = Fault::new(reason).detail(format!("filter {}: {trap}", self.name));
        match self.compiled.settings.failure {
            Failure::Closed => Err(fault),
            Failure::Open => Ok(()),
        }
    }

    fn unavailable<T>(&self, fault: Fault) -> Result<Option<T>, Fault> {
        match self.compiled.settings.failure {
            Failure::Closed => Err(fault),
            Failure::Open => Ok(None),
        }
    }

    /// Makes a VM if there is none and it may be tried again.
    fn revive(&self) -> Result<(), String> {
        if self.running.borrow().is_some() {
            return Ok(());
        }
        let (from, wait) = self.revival.get();
        let now = Instant::now();
        if now < from {
            return Err("its VM died and is being replaced".into());
        }
        let queues = Arc::clone(&self.queues);
        let wake = Wake(Arc::new(move || queues.notify_one()));
        let settings = VmSettings { wake, ..self.compiled.vm_settings(&self.shared) };
        let started = Vm::new(&self.compiled.plugin, settings, Rc::clone(&self.world) as _)
            .and_then(|mut vm| vm.start_root(self.compiled.plugin_settings()).map(|root| (vm, root)));
        match started {
            Ok((vm, root)) => {
                self.account(vm.memory() as u64);
                *self.running.borrow_mut() = Some(Running { vm, root, since: now });
                Ok(())
            }
            Err(error) => {
                tracing::error!(target: "filter", filter = %self.name, %error, "the filter's VM could not be made");
                self.revival.set((now + wait, (wait * 2).min(REVIVAL_MAX)));
                Err(format!("its VM could not be made: {error}"))
            }
        }
    }

    /// The gauge is the sum over workers, so each adds and takes away its own.
    fn account(&self, bytes: u64) {
        let before = self.memory.replace(bytes);
        self.metrics.memory().add(bytes);
        self.metrics.memory().sub(before);
    }
}
