//! Ending well: three phases, and guards that tell when everything has ended.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;

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
    advanced: Notify,
    guards: Cell<usize>,
    idle: Notify,
}

/// Held by everything that must end before the side counts as ended.
pub struct Guard(Rc<State>);

impl Default for Drain {
    fn default() -> Self {
        Drain(Rc::new(State {
            phase: Cell::new(Phase::Running),
            advanced: Notify::new(),
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
            self.0.advanced.notify_waiters();
        }
    }

    /// Waits until this phase (or a later one) is reached.
    pub async fn reached(&self, phase: Phase) {
        loop {
            let advanced = self.0.advanced.notified();
            if self.phase() >= phase {
                return;
            }
            advanced.await;
        }
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
}
