//! A Wasm filter in one worker: its VM, and what happens when that dies.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lacis_host::abi::Level;
use lacis_host::{
    Cause, ContextId, Half, HeadersAction, Plugin, PluginSettings, RootId, SharedData, Stream, Trap, Vm, VmSettings,
};

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
            ..VmSettings::default()
        }
    }

    /// How its root context is made.
    pub fn plugin_settings(&self) -> PluginSettings {
        PluginSettings {
            name: self.settings.name.clone(),
            root_id: self.settings.root_id.clone(),
            configuration: self.settings.config.clone(),
            ..PluginSettings::default()
        }
    }
}

/// One filter in one worker.
pub(super) struct Filter {
    compiled: Arc<Compiled>,
    shared: Arc<SharedData>,
    world: Rc<RefCell<FilterWorld>>,
    timer: Rc<Timer>,
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

/// An exchange's context in a filter's VM, and which of its successive VMs that is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    context: ContextId,
    life: u32,
}

impl Filter {
    pub(super) fn new(
        compiled: &Arc<Compiled>,
        shared: &Arc<SharedData>,
        node: &Rc<NodeFacts>,
        ledger: &Ledger,
    ) -> Self {
        let name = &compiled.settings.name;
        let timer = Rc::new(Timer::default());
        let filter = Filter {
            compiled: Arc::clone(compiled),
            shared: Arc::clone(shared),
            world: Rc::new(RefCell::new(FilterWorld::new(node, ledger.metrics.guest(name), &timer))),
            timer,
            name: name.as_str().into(),
            metrics: ledger.metrics.filter(name),
            memory: Cell::new(0),
            running: RefCell::new(None),
            revival: Cell::new((Instant::now(), REVIVAL)),
            lives: Cell::new(0),
            ticking: Cell::new(false),
        };
        // The first VM is made before the first request. The canary has seen it start; if it does not here, requests
        // follow the failure policy and it is tried again.
        let _ = filter.revive();
        filter
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

    /// Shows a head. `None` if the filter's VM died and it fails open; then it is to be skipped.
    ///
    /// # Errors
    /// If its VM died and it fails closed.
    pub(super) fn on_headers(
        &self,
        place: Place,
        half: Half,
        count: u32,
        end: bool,
    ) -> Result<Option<HeadersAction>, Fault> {
        if place.life != self.lives.get() {
            // The context died with its VM, through another exchange's fault or its own.
            return match half {
                Half::Request => self.unavailable(Fault::new(Reason::FilterUnavailable)),
                Half::Response => Ok(None),
            };
        }
        let called = self.call(|running| running.vm.on_headers(place.context, half, count, end));
        match called {
            Some(Ok(action)) => Ok(Some(action)),
            Some(Err(trap)) => self.trapped(&trap).map(|()| None),
            None => self.unavailable(Fault::new(Reason::FilterUnavailable)),
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

    /// Ticks for ever, as the guest wishes. A filter of both sides has one timer: the first that asks runs it.
    pub(super) async fn ticks(self: Rc<Self>) {
        while !self.ticking.replace(true) {
            self.tick().await;
        }
    }

    async fn tick(&self) {
        loop {
            self.timer.due().await;
            if let Some(Err(trap)) = self.call(|running| running.vm.tick(running.root)) {
                let _ = self.trapped(&trap);
            }
        }
    }

    /// Counts what it said of a request.
    pub(super) fn said(&self, outcome: Outcome, took: Duration) -> Verdict {
        self.metrics.request(outcome, took);
        Verdict { filter: Arc::clone(&self.name), outcome }
    }

    fn quietly(&self, place: Place, f: impl FnOnce(&mut Running) -> Result<(), Trap>) {
        if place.life == self.lives.get()
            && let Some(Err(trap)) = self.call(f)
        {
            // The response is out: a trap now only costs the VM.
            let _ = self.trapped(&trap);
        }
    }

    fn call<T>(&self, f: impl FnOnce(&mut Running) -> Result<T, Trap>) -> Option<Result<T, Trap>> {
        self.running.borrow_mut().as_mut().map(f)
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
        let started =
            Vm::new(&self.compiled.plugin, self.compiled.vm_settings(&self.shared), Rc::clone(&self.world) as _)
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
