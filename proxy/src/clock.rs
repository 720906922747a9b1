//! Coarse time for the data path: one timer per worker thread, however many deadlines there are.
//!
//! Most deadlines never come: a request is answered, a connection is used again. So setting one costs a store, and
//! only the worker's tick, ten times a second, looks for those that have passed. A deadline fires at most one
//! [`TICK`] late.

use std::cell::{Cell, RefCell};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;

/// How often the worker looks for deadlines that have passed.
pub const TICK: Duration = Duration::from_millis(100);

thread_local! {
    static NOW: Cell<u64> = const { Cell::new(0) };
    static DEADLINES: RefCell<Slab<Entry>> = const { RefCell::new(Slab::new()) };
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
        let ticks = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX).div_ceil(TICK.as_nanos() as u64);
        let at = if ticks == 0 { u64::MAX } else { ticks.saturating_add(1).saturating_add(NOW.get()) };
        self.entry(|entry| entry.at = at);
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

/// Nanoseconds since this thread's clock began, as of the last tick: time that costs nothing to read.
#[inline]
pub fn nanos() -> u64 {
    NOW.get().saturating_mul(TICK.as_nanos() as u64)
}

/// Moves this thread's time on by one tick and wakes whoever waits for a deadline that has passed.
pub fn tick() {
    NOW.set(NOW.get() + 1);
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
}
