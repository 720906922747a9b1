//! Coarse time for the data path: one timer per worker thread, however many deadlines there are.
//!
//! Most deadlines never come: a request is answered, a connection is used again. So setting one costs a store, and
//! only the worker's tick, ten times a second, looks for those that have passed. A deadline fires at most one
//! [`TICK`] late.
//!
//! Nothing ticks where nothing happens: of a thousand sidecars on a machine most are idle, and ten wake-ups a second of each
//! would keep a processor busy. A clock that [rests](run_unless_idle) is right for whoever is woken by something else, and runs
//! again as soon as somebody sets a deadline.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;
use tokio::time::Instant;

/// How often the worker looks for deadlines that have passed.
pub const TICK: Duration = Duration::from_millis(100);

/// Ticks in a row without anything to do before the clock rests: who calls once in a second finds it running.
const QUIET: u32 = 10;

/// Looks for events in one tick that nothing speaks for: the clock's own are up to four, those of what else looks after the
/// worker each second as many again.
const FEW: u32 = 8;

/// Ticks of a second.
const IN_A_SECOND: u64 = 1000 / TICK.as_millis() as u64;

thread_local! {
    static NOW: Cell<u64> = const { Cell::new(0) };
    static DEADLINES: RefCell<Slab<Entry>> = const { RefCell::new(Slab::new()) };
    /// What this thread's time is counted from, while it rests.
    static RESTS: Cell<Option<Since>> = const { Cell::new(None) };
    /// A deadline was set since the last tick.
    static STIRRED: Cell<bool> = const { Cell::new(false) };
    /// Looks for events since the last tick.
    static LOOKS: Cell<u32> = const { Cell::new(0) };
    /// Who runs the clock, while it rests.
    static RUNNER: Cell<Option<Waker>> = const { Cell::new(None) };
}

struct Entry {
    /// In ticks; `u64::MAX` when not set.
    at: u64,
    waker: Option<Waker>,
}

/// A moment after which something is given up. Made once for whatever it guards and set as often as needed.
#[derive(Debug)]
pub struct Deadline(usize);

impl Deadline {
    /// A deadline that is not set.
    pub fn new() -> Self {
        Deadline(DEADLINES.with_borrow_mut(|all| all.insert(Entry { at: u64::MAX, waker: None })))
    }

    /// Sets it; zero means none.
    pub fn set(&self, after: Duration) {
        // Without a division of large numbers: each request sets some.
        let part = u64::from(after.subsec_nanos().div_ceil(TICK.subsec_nanos()));
        let ticks = after.as_secs().saturating_mul(IN_A_SECOND).saturating_add(part);
        let at = if ticks == 0 { u64::MAX } else { ticks.saturating_add(1).saturating_add(NOW.get()) };
        self.entry(|entry| entry.at = at);
        if !STIRRED.replace(true) {
            wake_runner();
        }
    }

    /// Unsets it.
    pub fn clear(&self) {
        self.entry(|entry| entry.at = u64::MAX);
    }

    /// Ready once it has passed.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.entry(|entry| {
            if entry.at <= NOW.get() {
                return Poll::Ready(());
            }
            if !entry.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                entry.waker = Some(cx.waker().clone());
            }
            Poll::Pending
        })
    }

    /// Waits until it has passed.
    pub async fn passed(&self) {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    fn entry<T>(&self, f: impl FnOnce(&mut Entry) -> T) -> T {
        DEADLINES.with_borrow_mut(|all| f(&mut all[self.0]))
    }
}

impl Default for Deadline {
    fn default() -> Self {
        Deadline::new()
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        // The table may be gone when the thread ends; so is everything that waited then.
        let _ = DEADLINES.try_with(|all| all.borrow_mut().remove(self.0));
    }
}

/// Nanoseconds since this thread's clock began, as of the last tick, or of the last event while it rests: time that costs nothing to read.
#[inline]
pub fn nanos() -> u64 {
    NOW.get().saturating_mul(TICK.as_nanos() as u64)
}

/// Moves this thread's time on by one tick and wakes whoever waits for a deadline that has passed.
pub fn tick() {
    NOW.set(NOW.get() + 1);
    wake_due();
}

fn wake_due() {
    let now = NOW.get();
    let due: Vec<Waker> = DEADLINES.with_borrow_mut(|all| {
        all.iter_mut().filter(|(_, entry)| entry.at <= now).filter_map(|(_, entry)| entry.waker.take()).collect()
    });
    due.into_iter().for_each(Waker::wake);
}

/// Ticks for ever: a worker's one timer.
pub async fn run() {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    loop {
        interval.tick().await;
        tick();
    }
}

/// A moment, and the tick that it was.
#[derive(Clone, Copy, Debug)]
struct Since {
    moment: Instant,
    tick: u64,
}

impl Since {
    /// Sets this thread's time to what it is now.
    fn read(self) {
        let ticks = self.moment.elapsed().as_nanos() / TICK.as_nanos();
        NOW.set(NOW.get().max(self.tick.saturating_add(u64::try_from(ticks).unwrap_or(u64::MAX))));
    }

    /// When it is this tick.
    fn moment_of(self, tick: u64) -> Instant {
        self.moment + TICK.saturating_mul(u32::try_from(tick.saturating_sub(self.tick)).unwrap_or(u32::MAX))
    }
}

/// The clock rests no longer than this, where there is no deadline either.
const FAR: Duration = Duration::from_secs(24 * 60 * 60);

/// Ticks for ever: a worker's one timer. While nothing happens it rests, until the first deadline. The thread's runtime must say
/// [`looked`] whenever it has looked for events, before it does anything about them.
pub async fn run_unless_idle() {
    let since = Since { moment: Instant::now(), tick: NOW.get() };
    let mut quiet = 0;
    loop {
        tokio::time::sleep_until(since.moment_of(NOW.get() + 1)).await;
        since.read();
        wake_due();
        let busy = STIRRED.take() | (LOOKS.take() > FEW);
        quiet = if busy { 0 } else { quiet + 1 };
        if quiet == QUIET {
            rest(since).await;
            since.read();
            wake_due();
            quiet = 0;
        }
    }
}

/// Waits for the next deadline, or until there is something to do.
async fn rest(since: Since) {
    let now = NOW.get();
    let next = DEADLINES.with_borrow(|all| all.iter().map(|(_, entry)| entry.at).filter(|at| *at > now).min());
    let far = Instant::now() + FAR;
    let until = next.map_or(far, |tick| far.min(since.moment_of(tick)));
    RESTS.set(Some(since));
    let mut passed = pin!(tokio::time::sleep_until(until));
    poll_fn(|cx| {
        if STIRRED.get() || LOOKS.get() > FEW || passed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        RUNNER.set(Some(cx.waker().clone()));
        Poll::Pending
    })
    .await;
    RESTS.set(None);
    RUNNER.set(None);
}

/// Says that this thread has looked for events. For its runtime, each time that it did.
pub fn looked() {
    let looks = LOOKS.get() + 1;
    LOOKS.set(looks);
    if let Some(since) = RESTS.get() {
        let before = NOW.get();
        since.read();
        if NOW.get() != before {
            // So many in one tick count, not so many in an hour.
            LOOKS.set(1);
        } else if looks == FEW + 1 {
            wake_runner();
        }
    }
}

fn wake_runner() {
    if let Some(runner) = RUNNER.take() {
        runner.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_no_sooner_than_asked_and_one_tick_later_at_most() {
        let mut cx = Context::from_waker(Waker::noop());
        let deadline = Deadline::new();
        assert!(deadline.poll(&mut cx).is_pending());
        deadline.set(TICK * 3);
        for _ in 0..3 {
            tick();
            assert!(deadline.poll(&mut cx).is_pending());
        }
        tick();
        assert!(deadline.poll(&mut cx).is_ready());
        deadline.set(Duration::ZERO);
        tick();
        assert!(deadline.poll(&mut cx).is_pending(), "zero means none");
    }

    /// The right time and every deadline, with and without anybody who ticks.
    #[test]
    fn it_rests_where_nothing_happens() {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).on_thread_unpark(looked).build().expect("a runtime");
        let local = tokio::task::LocalSet::new();
        let now = || NOW.get();
        let rests = || RESTS.get().is_some();
        local.block_on(&runtime, async {
            tokio::task::spawn_local(run_unless_idle());
            tokio::time::sleep(TICK * (QUIET - 1) + TICK / 2).await;
            assert_eq!((now(), rests()), (u64::from(QUIET) - 1, false));
            tokio::time::sleep(TICK).await;
            assert_eq!((now(), rests()), (u64::from(QUIET), true));
            let hour = Duration::from_secs(3600);
            tokio::time::sleep(hour).await;
            assert_eq!((now(), rests()), (u64::from(QUIET) + 36_000, true), "time is right, and nobody has ticked");

            let mut deadline = Deadline::new();
            for (after, rested) in [(TICK * 3, false), (hour, true), (TICK * 30, true)] {
                let (begin, before) = (Instant::now(), now());
                deadline.set(after);
                if rested {
                    tokio::time::sleep(TICK * (QUIET + 5)).await;
                    assert!(rests(), "it is long until {after:?} is over");
                }
                deadline.passed().await;
                let took = begin.elapsed();
                assert!(took >= after && took <= after + TICK + Duration::from_millis(5), "{took:?} and not {after:?}");
                assert!(now() - before > (after.as_millis() / TICK.as_millis()) as u64);
                deadline = Deadline::new();
            }

            // Many events without a deadline.
            tokio::time::sleep(TICK * 30).await;
            assert!(rests());
            for _ in 0..200 {
                tokio::time::sleep(TICK / 20).await;
            }
            assert!(!rests(), "it ticks for who is busy");
            tokio::time::sleep(TICK * 30).await;
            assert!(rests());
        });
    }
}
