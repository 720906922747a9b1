//! Messages that are ready together are written together: one after the other at the end of the worker's turn, and not
//! each as soon as it is made.
//!
//! A turn is what a worker does between two looks for events. A write to a socket whose reader sleeps wakes it, and on a
//! machine of several processors that is an interrupt for another one: two of the eight microseconds that a small message cost.
//! A reader with many connections (a busy application, a busy sidecar) that was woken stays awake for what follows at
//! once, but has gone back to sleep if we first make the next message. So a message waits for the others of its turn,
//! unless there are hardly any: alone it would only wait.

use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll};

/// Messages in the turn before from which on it is worth waiting for the others: below, waiting costs more than it saves.
const ENOUGH: u32 = 4;

thread_local! {
    /// Messages of this turn.
    static NOW: Cell<u32> = const { Cell::new(0) };
    /// Messages of the turn before; one in which those that had waited were written and none was made is none.
    static BEFORE: Cell<u32> = const { Cell::new(0) };
    /// In this turn those that had waited are written.
    static WRITING: Cell<bool> = const { Cell::new(false) };
}

/// The end of a turn, for a message that is to be written.
#[derive(Debug, Default)]
pub struct Turn {
    waited: bool,
}

impl Turn {
    /// Ready when the message is to be written: at once, or after the other messages of this turn were made. Never later
    /// than the worker's next look for events.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.waited {
            // Those that have waited come after what new events made, and the first of them ends that turn's count.
            if !WRITING.replace(true) && NOW.get() > 0 {
                BEFORE.set(NOW.replace(0));
            }
            return Poll::Ready(());
        }
        NOW.set(NOW.get().saturating_add(1));
        if BEFORE.get() < ENOUGH {
            return Poll::Ready(());
        }
        self.waited = true;
        // Asked once it has us woken after the next look for events.
        pin!(tokio::task::yield_now()).poll(cx)
    }
}

/// Says that this thread's turn is over. For the runtime, before the thread rests.
pub fn over() {
    let now = NOW.replace(0);
    if !WRITING.replace(false) || now > 0 {
        BEFORE.set(now);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::future::poll_fn;
    use std::rc::Rc;

    use super::*;

    /// In a turn with so many messages: the order in which they were made and written.
    fn turns(messages: &[usize]) -> Vec<String> {
        let runtime = tokio::runtime::Builder::new_current_thread().on_thread_park(over).build().expect("a runtime");
        let local = tokio::task::LocalSet::new();
        let done = Rc::new(RefCell::new(Vec::new()));
        for &count in messages {
            local.block_on(&runtime, async {
                let tasks = (0..count).map(|number| {
                    let done = Rc::clone(&done);
                    tokio::task::spawn_local(async move {
                        done.borrow_mut().push(format!("made {number}"));
                        let mut turn = Turn::default();
                        poll_fn(|cx| turn.poll(cx)).await;
                        done.borrow_mut().push(format!("written {number}"));
                    })
                });
                for task in tasks.collect::<Vec<_>>() {
                    task.await.expect("a message");
                }
            });
            // The thread rests.
            over();
        }
        done.take()
    }

    #[test]
    fn a_few_messages_do_not_wait() {
        let few = ENOUGH as usize - 1;
        let at_once = (0..few).flat_map(|number| [format!("made {number}"), format!("written {number}")]);
        let at_once: Vec<_> = at_once.collect();
        assert_eq!(turns(&[few, few]), [at_once.clone(), at_once].concat());
    }

    #[test]
    fn many_are_written_together() {
        let many = ENOUGH as usize;
        let mut done = turns(&[many, many, many]);
        let of = |what: &str| (0..many).map(|number| format!("{what} {number}")).collect::<Vec<_>>();
        for turn in done.chunks_mut(2 * many).skip(1) {
            // In which order is the runtime's affair.
            turn[many..].sort_unstable();
            assert_eq!(turn, [of("made"), of("written")].concat());
        }
    }

    #[test]
    fn one_alone_waits_once_at_the_most() {
        let done = turns(&[ENOUGH as usize, 1, 2]);
        assert_eq!(done[done.len() - 4..], ["made 0", "written 0", "made 1", "written 1"]);
    }
}
