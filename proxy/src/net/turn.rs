//! Messages that are ready together are written together: one after the other at the end of the worker's turn, and not
//! each as soon as it is made.
//!
//! A turn is what a worker does between two looks for events. A write to a socket whose reader sleeps wakes it, and on a
//! machine of several processors that is an interrupt for another one: two of the eight microseconds that a small message
//! cost. A reader with many connections (a busy application, a busy sidecar) that was woken stays awake for what follows at
//! once, but has gone back to sleep if we first make the next message. So a message waits for the others of its turn,
//! unless there are hardly any: alone it would only wait. So does other work that many exchanges of a turn have
//! ([`gather`], [`last`]): code that runs several times in a row is fetched once.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Messages in a turn from which on it is worth waiting for the others: below, waiting costs more than it saves.
const ENOUGH: u32 = 4;

thread_local! {
    /// Messages of this turn.
    static NOW: Cell<u32> = const { Cell::new(0) };
    /// Messages of the turn before.
    static BEFORE: Cell<u32> = const { Cell::new(0) };
    static WAITING: RefCell<Waiting> = const { RefCell::new(Waiting::new()) };
}

struct Waiting {
    writers: Vec<(Rc<dyn Writer>, Waker)>,
    /// What is to be done when they have written.
    last: Option<fn()>,
    /// Tasks that go on after that.
    gathered: Vec<Waker>,
    /// Who writes at the end of a turn.
    task: Option<Waker>,
}

impl Waiting {
    const fn new() -> Waiting {
        Waiting { writers: Vec::new(), last: None, gathered: Vec::new(), task: None }
    }

    /// Has the task woken that writes, unless it is: behind all tasks that are ready, which do what else is done in this
    /// turn. False if there is none.
    fn wake(&self) -> bool {
        let Some(task) = &self.task else { return false };
        if self.writers.is_empty() && self.last.is_none() && self.gathered.is_empty() {
            task.wake_by_ref();
        }
        true
    }
}

/// A connection with a message that waits.
pub trait Writer {
    /// Writes what waits, as far as that is possible at once. If it is not, or fails, the task of this context is woken
    /// when it is time to go on.
    fn write(&self, cx: &mut Context<'_>);
}

/// Has a message written at the end of this turn, behind the others that are made in it: the task that made it is not woken
/// for that. False if it is to be written at once, as there are hardly any others, or nobody writes for this thread
/// ([`run`]).
pub fn collect<W: Writer + 'static>(writer: &Rc<W>, cx: &Context<'_>) -> bool {
    let now = NOW.get().saturating_add(1);
    NOW.set(now);
    if now.max(BEFORE.get()) < ENOUGH {
        return false;
    }
    WAITING.with_borrow_mut(|waiting| {
        let waits = waiting.wake();
        if waits {
            waiting.writers.push((Rc::clone(writer) as Rc<dyn Writer>, cx.waker().clone()));
        }
        waits
    })
}

/// Has this done once at the end of this turn, when what waits has been written, or when nobody writes any more. False if
/// it is to be done at once, by the rule of [`collect`]; it counts for no message. There is one such work for a thread.
pub fn last(work: fn()) -> bool {
    if NOW.get().max(BEFORE.get()) < ENOUGH {
        return false;
    }
    // There may be nothing any more when the thread ends.
    let waits = WAITING.try_with(|waiting| {
        let waiting = &mut *waiting.borrow_mut();
        let waits = waiting.wake();
        if waits {
            waiting.last = Some(work);
        }
        waits
    });
    waits.unwrap_or(false)
}

/// Lets all tasks go first that are ready, where more than a little happens in this turn: who does the same next goes on
/// right behind the others that do, and not each amid something else, as the code for all of it is more than a processor
/// has in its nearest cache. It counts for no message. To be woken once more costs, too: of two kinds of work that meet in a
/// turn it is enough that one is gathered, and the other is among itself.
pub async fn gather() {
    let mut waited = false;
    std::future::poll_fn(|cx| {
        if waited || NOW.get().max(BEFORE.get()) < ENOUGH {
            return Poll::Ready(());
        }
        waited = WAITING.with_borrow_mut(|waiting| {
            let waits = waiting.wake();
            if waits {
                waiting.gathered.push(cx.waker().clone());
            }
            waits
        });
        if waited { Poll::Pending } else { Poll::Ready(()) }
    })
    .await
}

/// Writes what waits, turn after turn: a worker's one task for that.
pub async fn run() {
    let _end = End;
    let (mut writers, mut gathered) = (Vec::new(), Vec::new());
    let write = std::future::poll_fn(|cx| {
        let last = WAITING.with_borrow_mut(|waiting| {
            std::mem::swap(&mut writers, &mut waiting.writers);
            std::mem::swap(&mut gathered, &mut waiting.gathered);
            match &mut waiting.task {
                Some(task) => task.clone_from(cx.waker()),
                None => waiting.task = Some(cx.waker().clone()),
            }
            waiting.last.take()
        });
        for (writer, waker) in writers.drain(..) {
            writer.write(&mut Context::from_waker(&waker));
        }
        if let Some(work) = last {
            work();
        }
        gathered.drain(..).for_each(Waker::wake);
        Poll::<()>::Pending
    });
    // One poll writes for many connections, each of which has had its share of the turn already.
    tokio::task::unconstrained(write).await
}

/// From here on nobody writes.
struct End;

impl Drop for End {
    fn drop(&mut self) {
        // Dropped only when it can be asked again.
        let waiting = WAITING.replace(Waiting::new());
        if let Some(work) = waiting.last {
            work();
        }
        waiting.gathered.into_iter().for_each(Waker::wake);
    }
}

/// Says that this thread's turn is over. For the runtime, before the thread rests.
pub fn over() {
    BEFORE.set(NOW.replace(0));
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    /// Notes what is written.
    struct Message(usize, Rc<RefCell<Vec<String>>>);

    impl Writer for Message {
        fn write(&self, _: &mut Context<'_>) {
            self.1.borrow_mut().push(format!("written {}", self.0));
        }
    }

    /// In a turn with so many messages: the order in which they were made and written.
    fn turns(messages: &[usize], writes: bool) -> Vec<String> {
        let runtime = tokio::runtime::Builder::new_current_thread().on_thread_park(over).build().expect("a runtime");
        let local = tokio::task::LocalSet::new();
        let done = Rc::new(RefCell::new(Vec::new()));
        if writes {
            local.spawn_local(run());
            local.block_on(&runtime, tokio::task::yield_now());
        }
        over();
        for &count in messages {
            local.block_on(&runtime, async {
                let tasks = (0..count).map(|number| {
                    let done = Rc::clone(&done);
                    tokio::task::spawn_local(poll_fn(move |cx| {
                        done.borrow_mut().push(format!("made {number}"));
                        let message = Rc::new(Message(number, Rc::clone(&done)));
                        if !collect(&message, cx) {
                            message.write(cx);
                        }
                        Poll::Ready(())
                    }))
                });
                for task in tasks.collect::<Vec<_>>() {
                    task.await.expect("a message");
                }
                tokio::task::yield_now().await;
            });
            // The thread rests.
            over();
        }
        done.take()
    }

    fn at_once(numbers: std::ops::Range<usize>) -> Vec<String> {
        numbers.flat_map(|number| [format!("made {number}"), format!("written {number}")]).collect()
    }

    fn together(numbers: std::ops::Range<usize>) -> Vec<String> {
        let of = |what: &str| numbers.clone().map(|number| format!("{what} {number}")).collect::<Vec<_>>();
        [of("made"), of("written")].concat()
    }

    #[test]
    fn a_few_messages_do_not_wait() {
        let few = ENOUGH as usize - 1;
        assert_eq!(turns(&[few, few], true), [at_once(0..few), at_once(0..few)].concat());
    }

    #[test]
    fn many_are_written_together_once_that_is_known() {
        let (few, many) = (ENOUGH as usize - 1, 2 * ENOUGH as usize);
        let all = together(0..many);
        assert_eq!(turns(&[many, many, many], true), [at_once(0..few), together(few..many), all.clone(), all].concat());
    }

    #[test]
    fn one_alone_waits_for_the_end_of_one_turn_at_the_most() {
        let many = ENOUGH as usize;
        let done = turns(&[many, many, 1, 2], true);
        assert_eq!(done[done.len() - 6..], [together(0..1), at_once(0..2)].concat());
    }

    thread_local! {
        static WORK: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
    }

    /// Two messages and what is last, in a turn after one of `before` messages. What is done in it, and what when all ends.
    fn with_last(before: u32) -> [Vec<&'static str>; 2] {
        struct Mark;
        impl Writer for Mark {
            fn write(&self, _: &mut Context<'_>) {
                WORK.with_borrow_mut(|work| work.push("written"));
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let local = tokio::task::LocalSet::new();
        local.spawn_local(run());
        local.block_on(&runtime, tokio::task::yield_now());
        let work = || WORK.with_borrow_mut(|work| work.push("last"));
        NOW.set(before);
        over();
        local.block_on(&runtime, async {
            for _ in 0..2 {
                if !last(work) {
                    work();
                }
                let mark = Rc::new(Mark);
                if !poll_fn(|cx| Poll::Ready(collect(&mark, cx))).await {
                    mark.write(&mut Context::from_waker(Waker::noop()));
                }
            }
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
        });
        let done = WORK.take();
        let asked = last(work);
        drop(local);
        assert!(!last(work), "nobody writes any more");
        assert_eq!(asked, before >= ENOUGH);
        [done, WORK.take()]
    }

    #[test]
    fn what_is_last_is_done_once_and_when_all_is_written() {
        assert_eq!(with_last(ENOUGH), [vec!["written", "written", "last"], vec!["last"]]);
        assert_eq!(with_last(0), [vec!["last", "written", "last", "written"], vec![]]);
    }

    /// Two tasks with something between that they gather for, in a turn after one of `before` messages.
    fn gathered(before: u32) -> Vec<String> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let local = tokio::task::LocalSet::new();
        let done = Rc::new(RefCell::new(Vec::new()));
        let writes = local.spawn_local(run());
        local.block_on(&runtime, tokio::task::yield_now());
        NOW.set(before);
        over();
        let tasks = |count: usize| {
            let tasks = (0..count).map(|number| {
                let done = Rc::clone(&done);
                local.spawn_local(async move {
                    done.borrow_mut().push(format!("first {number}"));
                    gather().await;
                    done.borrow_mut().push(format!("then {number}"));
                })
            });
            tasks.collect::<Vec<_>>()
        };
        for task in tasks(2) {
            local.block_on(&runtime, task).expect("a task");
        }
        // Whoever waits when the last writer goes is not forgotten.
        done.borrow_mut().push("end".into());
        let last = tasks(1);
        writes.abort();
        for task in last {
            local.block_on(&runtime, task).expect("a task");
        }
        done.take()
    }

    #[test]
    fn all_that_is_ready_goes_before_what_is_gathered() {
        let end = ["end", "first 0", "then 0"];
        assert_eq!(gathered(ENOUGH), [&["first 0", "first 1", "then 0", "then 1"][..], &end].concat());
        assert_eq!(gathered(0), [&["first 0", "then 0", "first 1", "then 1"][..], &end].concat());
    }

    #[test]
    fn nothing_waits_where_nobody_writes() {
        assert_eq!(turns(&[9, 9], false), [at_once(0..9), at_once(0..9)].concat());
    }
}
