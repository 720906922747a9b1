//! Ending well: three phases, and guards that tell when everything has ended.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use slab::Slab;
use tokio::sync::Notify;

/// How far the end has come. Phases only advance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Serving.
    Running,
    /// Nothing new: no connection is accepted, connections are told to close after what they are doing
    /// (`connection: close`, GOAWAY).
    Quiet,
    /// The deadline has passed: what is left is cut.
    Cut,
}

/// One worker's view of the end of one side (outbound or inbound). Clones share it.
#[derive(Clone)]
pub struct Drain(Rc<State>);

struct State {
    phase: Cell<Phase>,
    /// Who waits for a phase. Each connection does for as long as it lives.
    waiting: RefCell<Slab<Waker>>,
    guards: Cell<usize>,
    idle: Notify,
}

/// Held by everything that must end before the side counts as ended.
pub struct Guard(Rc<State>);

impl Default for Drain {
    fn default() -> Self {
        Drain(Rc::new(State {
            phase: Cell::new(Phase::Running),
            waiting: RefCell::default(),
            guards: Cell::new(0),
            idle: Notify::new(),
        }))
    }
}

impl Drain {
    /// The phase.
    pub fn phase(&self) -> Phase {
        self.0.phase.get()
    }

    /// Goes on to a phase; going back is ignored.
    pub fn advance(&self, phase: Phase) {
        if phase > self.phase() {
            self.0.phase.set(phase);
            self.0.waiting.borrow().iter().for_each(|(_, waker)| waker.wake_by_ref());
        }
    }

    /// Waits until this phase (or a later one) is reached.
    pub fn reached(&self, phase: Phase) -> Reached<'_> {
        Reached { state: &self.0, phase, place: None }
    }

    /// Counts its holder as not ended.
    pub fn guard(&self) -> Guard {
        self.0.guards.set(self.0.guards.get() + 1);
        Guard(Rc::clone(&self.0))
    }

    /// How many guards are held.
    pub fn guards(&self) -> usize {
        self.0.guards.get()
    }

    /// Waits until no guard is held.
    pub async fn idle(&self) {
        loop {
            let idle = self.0.idle.notified();
            if self.guards() == 0 {
                return;
            }
            idle.await;
        }
    }
}

/// Ready when a phase is reached: [`Drain::reached`].
pub struct Reached<'a> {
    state: &'a State,
    phase: Phase,
    /// Its place among those that wait, once it does, and who is woken there: it is polled with every message of its
    /// connection, so a look must cost no more than a comparison.
    place: Option<(usize, Waker)>,
}

impl Future for Reached<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.state.phase.get() >= self.phase {
            return Poll::Ready(());
        }
        if self.place.as_ref().is_none_or(|(_, waker)| !waker.will_wake(cx.waker())) {
            self.leave();
            let place = self.state.waiting.borrow_mut().insert(cx.waker().clone());
            self.place = Some((place, cx.waker().clone()));
        }
        Poll::Pending
    }
}

impl Reached<'_> {
    /// Waits no more.
    fn leave(&mut self) {
        if let Some((place, _)) = self.place.take() {
            self.state.waiting.borrow_mut().remove(place);
        }
    }
}

impl Drop for Reached<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

impl fmt::Debug for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drain").field("phase", &self.phase()).field("guards", &self.guards()).finish()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let left = self.0.guards.get().saturating_sub(1);
        self.0.guards.set(left);
        if left == 0 {
            self.0.idle.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn phases_advance_and_guards_are_waited_for() {
        let drain = Drain::default();
        let guard = drain.guard();
        drain.advance(Phase::Quiet);
        drain.advance(Phase::Running);
        drain.reached(Phase::Quiet).await;
        assert_eq!((drain.phase(), drain.guards()), (Phase::Quiet, 1));
        drop(guard);
        drain.idle().await;
    }

    #[test]
    fn who_waits_is_woken_once_it_is_time_and_forgotten_when_it_goes() {
        use std::sync::Arc;
        use std::sync::atomic::{AtomicUsize, Ordering};
        use std::task::Wake;

        #[derive(Default)]
        struct Woken(AtomicUsize);
        impl Wake for Woken {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }

        let (drain, before, woken) = (Drain::default(), Arc::<Woken>::default(), Arc::<Woken>::default());
        let (mut cut, mut gone) = (Box::pin(drain.reached(Phase::Cut)), Box::pin(drain.reached(Phase::Quiet)));
        let poll = |future: &mut Pin<Box<Reached<'_>>>, by: &Arc<Woken>| {
            future.as_mut().poll(&mut Context::from_waker(&Arc::clone(by).into()))
        };
        assert!(poll(&mut gone, &before).is_pending() && poll(&mut cut, &before).is_pending());
        drop(gone);
        assert!(poll(&mut cut, &woken).is_pending(), "another task waits now");
        drain.advance(Phase::Quiet);
        assert!(poll(&mut cut, &woken).is_pending());
        drain.advance(Phase::Cut);
        assert!(poll(&mut cut, &woken).is_ready());
        drop(cut);
        let times = [&before, &woken].map(|woken| woken.0.load(Ordering::Relaxed));
        assert_eq!((times, drain.0.waiting.borrow().len()), ([0, 2], 0));
    }
}
