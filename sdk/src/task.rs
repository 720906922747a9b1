//! What waits, and who runs it again. A virtual machine has one thread, which the host lends it for one callback at a
//! time: a task is polled in callbacks of its own exchange, and besides in those of the plugin itself (ticks, answers to
//! what the plugin asked), on behalf of its exchange.
//!
//! Callbacks of one exchange leave those of others alone: the host tells an answer to the context in whose callback the
//! call was made, and that one may be gone before the answer comes. So who wakes another exchange asks for a tick.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use crate::backend::{Backend, Half, Host};
use crate::call::Slot;
use crate::run::Exchange;
use crate::table::Table;

/// The shortest period of a tick that there is: what is due is run after it.
const SOON: Duration = Duration::from_millis(1);

/// After so long a callback begins no further task: a thousand exchanges may have waited for one answer, and hosts end a
/// filter whose callback takes long (on Lacis `limits.time`, 20 ms).
const SLICE: Duration = Duration::from_millis(1);

/// A plugin: one filter of one configuration, and all that waits in it.
pub(crate) struct Root {
    pub(crate) context: u32,
    waiting: RefCell<Table<u64, Waiting>>,
    /// By the moment of the monotonic clock at which they are due, and a number that makes moments different.
    timers: RefCell<Table<(Duration, u64), Waker>>,
    /// When the next tick is expected.
    tick: Cell<Option<Duration>>,
    pub(crate) calls: RefCell<Table<u32, Rc<RefCell<Slot>>>>,
    configuring: Cell<bool>,
}

enum Waiting {
    Exchange(Rc<Exchange>, Half),
    Background(Pin<Box<dyn Future<Output = ()>>>),
}

thread_local! {
    /// Woken tasks, by the context of their plugin and their number.
    static READY: RefCell<Vec<(u32, u64)>> = const { RefCell::new(Vec::new()) };
    static NEXT: Cell<u64> = const { Cell::new(1) };
    /// The plugin whose callback runs.
    static CURRENT: RefCell<Option<Rc<Root>>> = const { RefCell::new(None) };
}

/// A number that was not given before.
pub(crate) fn number() -> u64 {
    NEXT.replace(NEXT.get() + 1)
}

/// The waker of the task with this number.
pub(crate) fn waker(root: &Root, task: u64) -> Waker {
    Arc::new(Ticket { root: root.context, task }).into()
}

struct Ticket {
    root: u32,
    task: u64,
}

impl Wake for Ticket {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // A future that is dropped with its thread may wake another one: nothing runs that any more.
        let _ = READY.try_with(|ready| ready.borrow_mut().push((self.root, self.task)));
    }
}

/// Takes a task out of those that were woken; false if it was not.
pub(crate) fn take_woken(task: u64) -> bool {
    READY.with_borrow_mut(|ready| {
        let before = ready.len();
        ready.retain(|(_, own)| *own != task);
        ready.len() != before
    })
}

/// The plugin whose callback runs.
pub(crate) fn current() -> Option<Rc<Root>> {
    CURRENT.with_borrow(Clone::clone)
}

impl Root {
    pub(crate) fn new(context: u32) -> Rc<Self> {
        Rc::new(Self {
            context,
            waiting: RefCell::default(),
            timers: RefCell::default(),
            tick: Cell::new(None),
            calls: RefCell::default(),
            configuring: Cell::new(false),
        })
    }

    /// Runs a callback of an exchange.
    pub(crate) fn enter<T>(self: &Rc<Self>, callback: impl FnOnce() -> T) -> T {
        let before = CURRENT.replace(Some(Rc::clone(self)));
        let result = callback();
        if self.is_ready() {
            self.tick_at(Host::elapsed() + SOON);
        }
        CURRENT.set(before);
        result
    }

    /// Runs a callback of the plugin itself, and then the tasks that are ready.
    pub(crate) fn enter_root<T>(self: &Rc<Self>, callback: impl FnOnce() -> T) -> T {
        let before = CURRENT.replace(Some(Rc::clone(self)));
        let result = callback();
        self.run();
        CURRENT.set(before);
        result
    }

    /// While it is configured no call is sent: a host that only tries the configuration would send it for nothing.
    pub(crate) fn configure<T>(self: &Rc<Self>, callback: impl FnOnce() -> T) -> T {
        self.configuring.set(true);
        let result = self.enter_root(callback);
        self.configuring.set(false);
        result
    }

    pub(crate) fn is_configuring(&self) -> bool {
        self.configuring.get()
    }

    /// The host's tick.
    pub(crate) fn on_tick(self: &Rc<Self>) {
        self.tick.set(None);
        self.enter_root(|| {
            let now = Host::elapsed();
            loop {
                let due = self.timers.borrow_mut().pop_if(|(at, _)| at <= now);
                match due {
                    Some(waker) => waker.wake(),
                    None => break,
                }
            }
        });
        // Ticks go on coming until they are told not to.
        match self.timers.borrow().first() {
            Some((at, _)) => self.tick_at(at),
            None if self.tick.get().is_none() => Host::tick(Duration::ZERO),
            None => {}
        }
    }

    /// Runs tasks that are ready, as many as fit into a [`SLICE`]; a tick runs the others.
    fn run(self: &Rc<Self>) {
        let mut end = None;
        while let Some(task) = self.take_ready() {
            // One alone does not need the clock, which is a call of the host.
            if end.is_none() && self.is_ready() {
                end = Some(Host::elapsed() + SLICE);
            }
            let Some(waiting) = self.waiting.borrow_mut().remove(task) else { continue };
            match waiting {
                Waiting::Exchange(exchange, half) => {
                    Host::enter(exchange.context);
                    exchange.go_on(half);
                    Host::enter(self.context);
                }
                Waiting::Background(mut future) => {
                    let waker = waker(self, task);
                    if future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
                        self.waiting.borrow_mut().insert(task, Waiting::Background(future));
                    }
                }
            }
            if self.is_ready() && end.is_some_and(|end| Host::elapsed() >= end) {
                return self.tick_at(Host::elapsed() + SOON);
            }
        }
    }

    fn is_ready(&self) -> bool {
        READY.with_borrow(|ready| ready.iter().any(|(root, _)| *root == self.context))
    }

    fn take_ready(&self) -> Option<u64> {
        READY.with_borrow_mut(|ready| {
            let at = ready.iter().position(|(root, _)| *root == self.context)?;
            Some(ready.remove(at).1)
        })
    }

    /// The plugin ends: nothing waits any more.
    pub(crate) fn close(self: &Rc<Self>) {
        let before = CURRENT.replace(Some(Rc::clone(self)));
        let gone = self.waiting.take();
        drop(gone);
        let gone = self.timers.take();
        drop(gone);
        READY.with_borrow_mut(|ready| ready.retain(|(root, _)| *root != self.context));
        CURRENT.set(before);
    }

    /// An exchange's task waits.
    pub(crate) fn wait(&self, task: u64, exchange: &Rc<Exchange>, half: Half) {
        self.waiting.borrow_mut().insert(task, Waiting::Exchange(Rc::clone(exchange), half));
    }

    /// It does not wait any more.
    pub(crate) fn forget(&self, task: u64) {
        // What is dropped may itself forget: not while the list is borrowed.
        let gone = self.waiting.borrow_mut().remove(task);
        drop(gone);
        take_woken(task);
    }

    /// Runs a task that belongs to no exchange.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        let task = number();
        self.waiting.borrow_mut().insert(task, Waiting::Background(Box::pin(future)));
        READY.with_borrow_mut(|ready| ready.push((self.context, task)));
    }

    /// Wakes at a moment of the monotonic clock; with the number the timer can be taken back.
    pub(crate) fn wake_at(&self, at: Duration, number: u64, waker: Waker) {
        self.timers.borrow_mut().insert((at, number), waker);
        self.tick_at(at);
    }

    pub(crate) fn take_back(&self, at: Duration, number: u64) {
        let gone = self.timers.borrow_mut().remove((at, number));
        drop(gone);
    }

    fn tick_at(&self, at: Duration) {
        if self.tick.get().is_some_and(|tick| tick <= at) {
            return;
        }
        self.tick.set(Some(at));
        let wait = at.saturating_sub(Host::elapsed());
        // Hosts count milliseconds; a tick that came too early would be in vain.
        let wait = wait.clamp(SOON, LONGEST);
        let more = u64::from(!wait.subsec_nanos().is_multiple_of(1_000_000));
        Host::tick(Duration::from_millis(wait.as_secs() * 1000 + u64::from(wait.subsec_millis()) + more));
    }
}

/// Hosts count milliseconds in 31 bits.
const LONGEST: Duration = Duration::from_millis(0x7fff_ffff);
