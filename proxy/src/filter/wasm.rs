//! A Wasm filter in one worker: the plugin that it runs in a VM, and what its requests are answered without.

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lacis_host::abi::{Action, BodyAnswer, Peer};
use lacis_host::{Cause, ContextId, Half, HeadersAction, Responded, RootId, Stream, Trap, Vm};

use super::compiled::Compiled;
use super::exchange::Ledger;
use super::machine::{Machine, MachineId};
use super::meter::Meter;
use crate::config::Failure;
use crate::fault::{Fault, Reason};
use crate::telemetry::access::Verdict;
use crate::telemetry::cell::Histogram;
use crate::telemetry::labels::{Away, Callback, Limit, Outcome};
use crate::telemetry::metrics::FilterMetrics;

/// The callback by which a guest learns of a context.
pub(super) const CREATE: &str = "proxy_on_context_create";

/// Which of several contexts of a VM was called last, and its answer or its trap; none if there is no VM.
pub(super) type Reached<T> = Option<Result<(u32, T), (u32, Trap)>>;

/// One filter in one worker: a plugin of a VM.
pub struct Filter {
    compiled: Arc<Compiled>,
    sees: [bool; 2],
    taps: [bool; 2],
    /// Its module has what several of it need to be shown a head together.
    joins: [bool; 2],
    /// It sees content of responses, and its module has what it needs to be shown that together with the head.
    answers: bool,
    /// It is to be told of exchanges that never came to it.
    logs: bool,
    machine: Rc<Machine>,
    account: Rc<Account>,
    /// Its root context, and in which of the machine's VMs.
    root: Cell<Option<(RootId, u32)>>,
    /// The generations that it came with and that use it now.
    since: u64,
    generation: Cell<u64>,
}

/// What is known of a filter beyond its VM's life.
pub(super) struct Account {
    pub(super) name: Arc<str>,
    pub(super) metrics: FilterMetrics,
    pub(super) meter: Meter,
    last_error: RefCell<Option<String>>,
}

impl Account {
    /// Notes what went wrong.
    pub(super) fn failed(&self, error: &dyn Display) {
        *self.last_error.borrow_mut() = Some(error.to_string());
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

    /// The context.
    pub(super) fn context(self) -> ContextId {
        self.context
    }

    /// Whether it is so many after `first`, in the same VM where both are of one machine.
    pub(super) fn follows(self, first: Place, count: usize) -> bool {
        self.life == first.life
            && u32::try_from(count).is_ok_and(|count| first.context.after(count) == Some(self.context))
    }
}

impl Filter {
    pub(super) fn new(compiled: &Arc<Compiled>, machine: Rc<Machine>, generation: u64, ledger: &Ledger) -> Self {
        let name = &compiled.settings.name;
        let account = Account {
            name: name.as_str().into(),
            metrics: ledger.metrics.filter(name),
            meter: Meter::new(&ledger.metrics, name),
            last_error: RefCell::default(),
        };
        Filter {
            compiled: Arc::clone(compiled),
            sees: compiled.sees(),
            taps: compiled.taps(),
            joins: compiled.joins(),
            answers: compiled.answers(),
            logs: compiled.logs(),
            machine,
            account: Rc::new(account),
            root: Cell::new(None),
            since: generation,
            generation: Cell::new(generation),
        }
    }

    /// Whether it was made of this: the same settings and the same module.
    pub(super) fn is(&self, compiled: &Arc<Compiled>) -> bool {
        Arc::ptr_eq(&self.compiled, compiled)
    }

    /// A generation takes it into use.
    pub(super) fn used_by(&self, generation: u64) {
        self.generation.set(generation);
    }

    /// Whether this generation brought it.
    pub(super) fn came_with(&self, generation: u64) -> bool {
        self.since == generation
    }

    /// Starts the plugin, before the first request needs it.
    ///
    /// # Errors
    /// Why it does not run. Requests follow the failure policy then, and it is tried again.
    pub(super) fn ready(&self) -> Result<(), String> {
        // With a configuration that it did not have when the VM died there is a reason to try at once.
        self.machine.hurry();
        self.revive().map(drop).map_err(|why| format!("filter {}: {why}", self.account.name))
    }

    /// The VM that it runs in.
    pub(super) fn machine(&self) -> MachineId {
        self.machine.id()
    }

    /// Whether it has callbacks for more than the head of this half.
    pub(super) fn sees(&self, half: Half) -> bool {
        self.sees[half as usize]
    }

    /// Whether it has a callback for this direction of a TCP connection.
    pub(super) fn taps(&self, half: Half) -> bool {
        self.taps[half as usize]
    }

    /// Whether it can be shown the head of this half together with another of its VM.
    pub(super) fn joins(&self, half: Half) -> bool {
        self.joins[half as usize]
    }

    /// Whether it can be shown the head of a response together with all that follows.
    pub(super) fn answers(&self) -> bool {
        self.answers
    }

    /// Passes over so many of its callbacks if none of them is to be measured.
    pub(super) fn passes(&self, callbacks: u8) -> bool {
        self.account.meter.pass(callbacks)
    }

    /// Bytes of a body that it may hold back.
    pub(super) fn buffer_limit(&self) -> usize {
        self.compiled.buffer_limit()
    }

    /// Makes a context for an exchange, which is to [begin](Filter::begin), or a TCP connection, which has begun. `None` if
    /// the filter cannot run and fails open.
    ///
    /// # Errors
    /// If it cannot run and fails closed; nor is one without callbacks for TCP let pass what it cannot see.
    pub(super) fn open(&self, stream: Rc<RefCell<dyn Stream>>, tcp: bool) -> Result<Option<Place>, Fault> {
        if tcp && !self.compiled.is_for_tcp() {
            let text = format!("filter {}: its module has no callbacks for TCP connections", self.account.name);
            return self.unavailable(Fault::new(Reason::FilterUnavailable).detail(text));
        }
        let root = match self.revive() {
            Ok(root) => root,
            Err(why) => {
                let text = format!("filter {}: {why}", self.account.name);
                return self.unavailable(Fault::new(Reason::FilterUnavailable).detail(text));
            }
        };
        let opened = match tcp {
            true => self.call(Callback::Context, |vm| vm.open_tcp(root, stream)),
            false => self.enter(|vm| vm.admit(root, stream)),
        };
        match opened {
            Some(Ok(context)) => Ok(Some(Place { context, life: self.machine.life() })),
            Some(Err(trap)) => self.trapped(&trap).map(|()| None),
            None => self.unavailable(Fault::new(Reason::FilterUnavailable)),
        }
    }

    /// Makes a context for an exchange that is over and never came to it, and tells it of that; none if it logs nothing, or
    /// cannot run.
    pub(super) fn open_late(&self, stream: Rc<RefCell<dyn Stream>>) -> Option<Place> {
        let root = self.logs.then(|| self.revive().ok())??;
        match self.call(Callback::Context, |vm| vm.open(root, stream))? {
            Ok(context) => Some(Place { context, life: self.machine.life() }),
            Err(trap) => {
                let _ = self.trapped(&trap);
                None
            }
        }
    }

    /// Tells it of an exchange that was opened, and shows it the head of its request; see [`Filter::on_headers`]. `None` if
    /// it died before it saw that, and fails open: it has no part in the exchange.
    ///
    /// # Errors
    /// If its VM died and it fails closed.
    pub(super) fn begin(&self, place: Place, count: u32, end: bool) -> Result<Option<HeadersAction>, Fault> {
        if !self.account.meter.pass(2) {
            let both = self.account.meter.is_due();
            return match self.call(Callback::Context, |vm| vm.create(place.context)) {
                Some(Ok(())) if both => {
                    self.measured();
                    self.on_headers(place, Half::Request, count, end).map(Some)
                }
                Some(Ok(())) => self.on_headers(place, Half::Request, count, end).map(Some),
                Some(Err(trap)) => self.trapped(&trap).map(|()| None),
                None => self.unavailable(self.vm_died()),
            };
        }
        match self.machine.call(|vm| vm.begin(place.context, 1, count, end)) {
            Some(Ok((_, action))) => Ok(Some(self.held(Half::Request, action))),
            Some(Err((_, trap))) => self.ended_by(&trap),
            None => self.unavailable(self.vm_died()),
        }
    }

    /// Its VM died while it [began](Filter::begin).
    ///
    /// # Errors
    /// If it fails closed.
    pub(super) fn ended_by(&self, trap: &Trap) -> Result<Option<HeadersAction>, Fault> {
        self.trapped(trap)?;
        Ok((trap.callback != CREATE).then_some(HeadersAction::Continue))
    }

    /// Whether it could begin with an exchange right after this one, in the VM that runs, with nothing to be done before: nor is
    /// that to be measured, though nobody has asked for it.
    pub(super) fn may_join(&self, first: &Filter) -> bool {
        Rc::ptr_eq(&self.machine, &first.machine)
            && self.root.get().is_some_and(|(_, life)| life == self.machine.life())
            && !self.account.meter.begins_measured()
    }

    /// As [`Filter::open`] for an exchange which has its context here, for others that [may join](Filter::may_join) it: as many
    /// as there is room for right after that.
    pub(super) fn admit_more<'f>(
        &self,
        first: Place,
        others: impl Iterator<Item = &'f Filter>,
        stream: impl Fn() -> Rc<RefCell<dyn Stream>>,
        mut admitted: impl FnMut(&Filter, Place),
    ) {
        self.machine.call(|vm| {
            for (index, filter) in others.enumerate() {
                let Some((root, life)) = filter.root.get() else { return };
                let Ok(context) = vm.admit(root, stream()) else { return };
                let place = Place { context, life };
                if !place.follows(first, index + 1) {
                    return vm.dismiss(context);
                }
                admitted(filter, place);
            }
        });
    }

    /// Takes a context back of which the guest was told nothing.
    pub(super) fn dismiss(&self, place: Place) {
        if self.has(place) {
            self.machine.call(|vm| vm.dismiss(place.context));
        }
    }

    /// Has `count` contexts of its VM, upwards from this one, begin with an exchange; see [`Vm::begin`]. The filter that met a
    /// trap is to be [told](Filter::ended_by). `None` if there is no VM.
    pub(super) fn begin_all(&self, place: Place, count: u32, lines: u32, end: bool) -> Reached<HeadersAction> {
        self.machine.call(|vm| vm.begin(place.context, count, lines, end))
    }

    /// Shows the head of a response to `count` contexts of its VM, downwards from this one; see [`Vm::on_response_heads`]. The
    /// filter that met a trap is to be [told](Filter::died). `None` if there is no VM.
    pub(super) fn on_response_heads(&self, place: Place, count: u32, lines: u32, end: bool) -> Reached<HeadersAction> {
        self.machine.call(|vm| vm.on_response_heads(place.context, count, lines, end))
    }

    /// Shows the head of a response, and perhaps its content of so many bytes, to `count` contexts of its VM, downwards from
    /// this one; see [`Vm::on_response`]. `None` if there is no VM.
    pub(super) fn on_response(&self, place: Place, count: u32, lines: u32, size: usize) -> Option<Responded> {
        self.machine.call(|vm| vm.on_response(place.context, count, lines, size))
    }

    /// Shows a head. A filter whose VM died and that fails open lets everything pass.
    ///
    /// # Errors
    /// If its VM died and it fails closed.
    pub(super) fn on_headers(&self, place: Place, half: Half, count: u32, end: bool) -> Result<HeadersAction, Fault> {
        let callback = [Callback::RequestHeaders, Callback::ResponseHeaders][half as usize];
        let shown = self.show(place, callback, |vm| vm.on_headers(place.context, half, count, end))?;
        Ok(self.held(half, shown.unwrap_or(HeadersAction::Continue)))
    }

    /// What becomes of a head by its answer.
    pub(super) fn held(&self, half: Half, action: HeadersAction) -> HeadersAction {
        match action {
            // Where it reads no bodies, one that went by would take the head along.
            HeadersAction::Hold if self.compiled.reads.is_some() && !self.sees(half) => HeadersAction::Pause,
            action => action,
        }
    }

    /// Shows so many bytes of a response to `count` contexts of its VM, downwards from this one; see [`Vm::on_bodies`]. The
    /// filter that met a trap is to be [told](Filter::died). `None` if there is no VM.
    pub(super) fn on_bodies(&self, place: Place, count: u32, size: usize, end: bool) -> Reached<BodyAnswer> {
        self.machine.call(|vm| vm.on_bodies(place.context, count, size, end))
    }

    /// Its VM died in a callback of its, among those of others.
    ///
    /// # Errors
    /// If it fails closed.
    pub(super) fn died(&self, trap: &Trap) -> Result<(), Fault> {
        self.trapped(trap)
    }

    /// Logs and ends exchanges of its VM, each with so many contexts from the first on; see [`Vm::end`]. The filter with the
    /// context that met a trap is to be [told](Filter::died).
    pub(super) fn end(&self, exchanges: &[(ContextId, u32)]) -> Result<(), (ContextId, Trap)> {
        self.machine.call(|vm| vm.end(exchanges)).unwrap_or(Ok(()))
    }

    /// Has its next callback measured.
    pub(super) fn measured(&self) {
        self.account.meter.wind();
    }

    /// Shows what it sees of a body, so many bytes; see [`Filter::on_headers`].
    pub(super) fn on_body(&self, place: Place, half: Half, size: usize, end: bool) -> Result<BodyAnswer, Fault> {
        let callback = [Callback::RequestBody, Callback::ResponseBody][half as usize];
        let shown = self.show(place, callback, |vm| vm.on_body(place.context, half, size, end))?;
        Ok(shown.unwrap_or(BodyAnswer::Continue))
    }

    /// Shows trailers; see [`Filter::on_headers`].
    pub(super) fn on_trailers(&self, place: Place, half: Half, count: u32) -> Result<Action, Fault> {
        let callback = [Callback::RequestTrailers, Callback::ResponseTrailers][half as usize];
        let shown = self.show(place, callback, |vm| vm.on_trailers(place.context, half, count))?;
        Ok(shown.unwrap_or(Action::Continue))
    }

    /// Tells it that the connection is there; see [`Filter::on_headers`].
    pub(super) fn on_new_connection(&self, place: Place) -> Result<Action, Fault> {
        let shown = self.show(place, Callback::Connection, |vm| vm.on_new_connection(place.context))?;
        Ok(shown.unwrap_or(Action::Continue))
    }

    /// Shows what it sees of one direction of a TCP connection; see [`Filter::on_headers`].
    pub(super) fn on_data(&self, place: Place, half: Half, end: bool) -> Result<Action, Fault> {
        let callback = [Callback::DownstreamData, Callback::UpstreamData][half as usize];
        let shown = self.show(place, callback, |vm| vm.on_data(place.context, half, end))?;
        Ok(shown.unwrap_or(Action::Continue))
    }

    /// Tells it that one side of the connection is closed, and by whom.
    pub(super) fn on_connection_close(&self, place: Place, half: Half, by: Peer) {
        self.quietly(place, Callback::Connection, |vm| vm.on_connection_close(place.context, half, by));
    }

    /// Whether a context is still there: not when its VM died.
    pub(super) fn has(&self, place: Place) -> bool {
        place.life == self.machine.life()
    }

    /// What becomes of an exchange that waits for a context which died.
    ///
    /// # Errors
    /// If the filter fails closed.
    pub(super) fn lost(&self) -> Result<(), Fault> {
        match self.compiled.settings.failure {
            Failure::Closed => self.unavailable(self.vm_died()),
            Failure::Open => Ok(()),
        }
    }

    fn vm_died(&self) -> Fault {
        Fault::new(Reason::FilterUnavailable).detail(format!("filter {}: its VM died", self.account.name))
    }

    /// Counts a request that passes without it.
    pub(super) fn skipped(&self) {
        self.account.metrics.unavailable(Away::Skipped);
    }

    /// One callback for an exchange. `None` if there is no VM for it and the filter fails open.
    fn show<T>(
        &self,
        place: Place,
        callback: Callback,
        f: impl FnOnce(&mut Vm) -> Result<T, Trap>,
    ) -> Result<Option<T>, Fault> {
        if !self.has(place) {
            return self.lost().map(|()| None);
        }
        match self.call(callback, f) {
            Some(Ok(answer)) => Ok(Some(answer)),
            Some(Err(trap)) => self.trapped(&trap).map(|()| None),
            None => self.lost().map(|()| None),
        }
    }

    /// The exchange is over: its log callback.
    pub(super) fn log(&self, place: Place) {
        self.quietly(place, Callback::Log, |vm| vm.log(place.context));
    }

    /// The exchange is over: its context goes.
    pub(super) fn close(&self, place: Place) {
        self.quietly(place, Callback::Context, |vm| vm.close(place.context));
    }

    /// Counts that it wanted to hold back more than it may.
    pub(super) fn held_too_much(&self) {
        self.machine.refused(&self.account.name, Limit::Buffer);
    }

    /// It begins with a request: when that is, if its time is to be measured, as it is where somebody `asked` for it.
    pub(super) fn begins(&self, asked: bool) -> Option<Instant> {
        self.account.meter.begin(asked)
    }

    /// Counts what it said of a request that it had `since` then, if that was measured; `waited` if it had stopped it. How
    /// long it took, if that was measured.
    pub(super) fn said(&self, outcome: Outcome, since: Option<Instant>, waited: bool) -> Option<Duration> {
        let (took, sample) = self.account.meter.took(since, waited);
        self.account.metrics.request(outcome, sample);
        took
    }

    /// The same for the access log.
    pub(super) fn verdict(&self, outcome: Outcome) -> Verdict {
        Verdict { filter: Arc::clone(&self.account.name), outcome }
    }

    /// Its name in the configuration.
    pub(super) fn name(&self) -> &Arc<str> {
        &self.account.name
    }

    /// How it is.
    pub fn report(&self) -> FilterReport {
        let Account { name, metrics, meter, last_error } = &*self.account;
        let root = self.root.get().filter(|(_, life)| *life == self.machine.life());
        let vm = root.and_then(|(root, _)| self.machine.call(|vm| (vm.contexts_of(root), vm.memory())));
        FilterReport {
            name: Arc::clone(name),
            compiled: Arc::clone(&self.compiled),
            since: self.since,
            generation: self.generation.get(),
            machine: Rc::as_ptr(&self.machine) as usize,
            contexts: vm.map(|(contexts, _)| contexts),
            memory: vm.map_or(0, |(_, memory)| memory),
            metrics: metrics.clone(),
            callbacks: meter.read(),
            last_error: last_error.borrow().clone(),
        }
    }

    fn quietly(&self, place: Place, callback: Callback, f: impl FnOnce(&mut Vm) -> Result<(), Trap>) {
        if place.life == self.machine.life()
            && let Some(Err(trap)) = self.call(callback, f)
        {
            // The response is out: a trap now only costs the VM.
            let _ = self.trapped(&trap);
        }
    }

    fn call<T>(&self, callback: Callback, f: impl FnOnce(&mut Vm) -> Result<T, Trap>) -> Option<Result<T, Box<Trap>>> {
        self.account.meter.measure(callback, || self.enter(f))
    }

    /// The same, not measured. A trap is large, and rare.
    #[inline]
    fn enter<T>(&self, f: impl FnOnce(&mut Vm) -> Result<T, Trap>) -> Option<Result<T, Box<Trap>>> {
        self.machine.call(|vm| f(vm).map_err(Box::new))
    }

    /// The VM is dead: it goes, and the request that met the trap follows the failure policy.
    fn trapped(&self, trap: &Trap) -> Result<(), Fault> {
        self.machine.trapped(trap, &self.account);
        let reason = match trap.cause {
            Cause::Timeout(_) => Reason::FilterTimeout,
            _ => Reason::FilterTrap,
        };
        let fault = Fault::new(reason).detail(format!("filter {}: {trap}", self.account.name));
        match self.compiled.settings.failure {
            Failure::Closed => Err(fault),
            Failure::Open => Ok(()),
        }
    }

    fn unavailable<T: Default>(&self, fault: Fault) -> Result<T, Fault> {
        match self.compiled.settings.failure {
            Failure::Closed => {
                self.account.metrics.unavailable(Away::Refused);
                Err(fault)
            }
            Failure::Open => {
                self.skipped();
                Ok(T::default())
            }
        }
    }

    /// Its root context, once its plugin is started if that does not run in the VM of now, and may be tried again.
    #[inline]
    fn revive(&self) -> Result<RootId, String> {
        match self.root.get() {
            Some((root, life)) if life == self.machine.life() => Ok(root),
            _ => self.start(),
        }
    }

    #[cold]
    fn start(&self) -> Result<RootId, String> {
        let started = self.machine.start(&self.compiled, &self.account)?;
        self.root.set(Some(started));
        Ok(started.0)
    }
}

impl Drop for Filter {
    /// Its last exchange has ended, and no generation in use has it.
    fn drop(&mut self) {
        if let Some((root, life)) = self.root.get()
            && life == self.machine.life()
        {
            self.machine.stop(root, &self.account);
        }
    }
}

/// One filter as one worker sees it.
#[derive(Clone, Debug)]
pub struct FilterReport {
    /// Its name.
    pub name: Arc<str>,
    /// What it was made of.
    pub compiled: Arc<Compiled>,
    /// The generation that it came with.
    pub since: u64,
    /// The newest generation that uses it.
    pub generation: u64,
    /// Tells the worker's VMs apart: equal where filters share one.
    pub machine: usize,
    /// Its contexts, the root context included; none if its VM does not run.
    pub contexts: Option<usize>,
    /// Linear memory of its VM in bytes.
    pub memory: usize,
    /// What was counted under its name since the start.
    pub metrics: FilterMetrics,
    /// The times of its callbacks, of those that were measured.
    pub callbacks: Vec<(Callback, Arc<Histogram>)>,
    /// What went wrong last, if anything did.
    pub last_error: Option<String>,
}
