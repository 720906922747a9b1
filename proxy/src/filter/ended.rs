//! Exchanges that are over: their filters log, and go.
//!
//! What they do then is code that nothing else runs. Between the ends of two exchanges a busy worker does so much else that the
//! processor has it no more in its cache, so filters are told of those that end in one turn at the end of that, in a row, and
//! those of one VM in one entry of it. Where little happens they are told at once.

use std::cell::RefCell;
use std::rc::Rc;
use std::slice;

use lacis_host::{ContextId, Half, Vm};

use super::legs::Legs;
use super::run::Run;
use super::seen::Seen;
use super::stage::Stage;
use super::wasm::{Filter, Place};
use crate::net::turn;

/// Most exchanges that wait for the end of a turn; then all are told of. Each holds its heads and the memory that these were
/// read into, which the next would use again while it is in the processor's caches; and code that has run so often in a row
/// has been fetched for all of them.
const MOST: usize = 32;

thread_local! {
    static WAITING: RefCell<Vec<Ended>> = const { RefCell::new(Vec::new()) };
}

/// An exchange that is over, of which its filters are to be told.
pub(super) struct Ended {
    filters: Legs,
    stages: Vec<Stage>,
    /// They are next to each other in one VM.
    is_row: bool,
    /// What its log callbacks read. Contexts hold it, too, but what goes with it must not go while a VM runs.
    _seen: Rc<RefCell<Seen>>,
}

impl Drop for Run {
    /// The exchange is over. Of a connection all learn who has closed it.
    fn drop(&mut self) {
        if self.tcp {
            let by = self.seen.borrow().closed_by();
            let place = |at: usize| self.seen.borrow().stages.get(at).map(|stage| (stage.number, stage.place));
            for (number, place) in (0..).map_while(place) {
                self.filters[number].on_connection_close(place, Half::Request, by);
            }
            return Ended::new(&self.filters, &self.seen).close();
        }
        if !self.seen.borrow().ways[Half::Request as usize].released {
            self.join_late();
        }
        // What filters have stopped may be much, and does not wait with them.
        let stopped = self.seen.borrow().ways.iter().any(|way| way.halted);
        let ended = Ended::new(&self.filters, &self.seen);
        if self.apart || stopped { ended.tell_apart(self.apart) } else { ended.tell() }
    }
}

impl Run {
    /// The filters that the request did not come to are to log it, too, as in Envoy: who counts requests or writes them down
    /// is often the last of all, and wants those that another has refused.
    #[cold]
    fn join_late(&self) {
        let came = self.seen.borrow().ways[Half::Request as usize].heads;
        for (number, filter) in (came..).map_while(|number| Some((number, self.filters.get(number)?))) {
            if let Some(place) = filter.open_late(Rc::clone(&self.seen) as _) {
                let mut stage = Stage::new(number, filter.machine(), place, None);
                // Of the request it said nothing.
                stage.counted = true;
                self.seen.borrow_mut().join(stage, false);
            }
        }
    }
}

impl Ended {
    /// The exchange that was seen as this, by these filters. From here on none has anything in its hands.
    pub(super) fn new(filters: &Legs, seen: &Rc<RefCell<Seen>>) -> Ended {
        let own = &mut *seen.borrow_mut();
        let (stages, is_row) = (std::mem::take(&mut own.stages), own.is_row);
        Ended { filters: filters.clone(), stages, is_row, _seen: Rc::clone(seen) }
    }

    /// All log, then all go (Envoy's order): at the end of this turn, unless little happens in it.
    pub(super) fn tell(self) {
        if self.stages.is_empty() {
            return;
        }
        if !turn::last(tell_waiting) {
            tell_waiting();
            tell(slice::from_ref(&self));
            return;
        }
        let waiting = WAITING.with_borrow_mut(|waiting| {
            waiting.push(self);
            waiting.len()
        });
        if waiting == MOST {
            tell_waiting();
        }
    }

    /// The same at once, filter by filter, and measured where they could be told together.
    pub(super) fn tell_apart(self, measured: bool) {
        tell_waiting();
        let measured = measured && self.place().is_some();
        self.each(Filter::log, measured);
        self.each(Filter::close, measured);
    }

    /// At once, of a connection: all log when they go.
    pub(super) fn close(self) {
        tell_waiting();
        self.each(Filter::close, false);
    }

    fn each(&self, callback: fn(&Filter, Place), measured: bool) {
        for Stage { number, place, .. } in &self.stages {
            let filter = &self.filters[*number];
            if measured {
                filter.measured();
            }
            callback(filter, *place);
        }
    }

    /// Its first context and how many it has, if all are next to each other in one VM, and that lives.
    fn place(&self) -> Option<(ContextId, u32)> {
        let first = self.stages.first().filter(|_| self.is_row)?;
        let lives = self.filters[first.number].has(first.place);
        Some((first.place.context(), u32::try_from(self.stages.len()).ok().filter(|_| lives)?))
    }

    /// Whether the first filters of both are in one VM.
    fn is_beside(&self, other: &Ended) -> bool {
        let machine = |ended: &Ended| ended.stages.first().map(|stage| stage.machine);
        machine(self) == machine(other)
    }

    /// Its filter with this context.
    fn filter_of(&self, context: ContextId) -> Option<&Filter> {
        let stage = self.stages.iter().find(|stage| stage.place.is(context))?;
        Some(&self.filters[stage.number])
    }
}

/// Tells of all that wait, in the order in which they ended.
fn tell_waiting() {
    // When its thread ends there may be none any more, and nothing waits.
    let Ok(mut all) = WAITING.try_with(RefCell::take) else { return };
    if all.is_empty() {
        return;
    }
    tell(&all);
    all.clear();
    WAITING.with_borrow_mut(|waiting| {
        if waiting.is_empty() {
            // Room for those of the next turn.
            *waiting = all;
        }
    });
}

fn tell(mut all: &[Ended]) {
    while let [first, rest @ ..] = all {
        let Some(place) = first.place() else {
            first.each(Filter::log, false);
            first.each(Filter::close, false);
            all = rest;
            continue;
        };
        let mut places = [place; Vm::MOST_END];
        let mut count = 1;
        for (place, other) in places.iter_mut().skip(1).zip(rest) {
            let Some(near) = other.place().filter(|_| other.is_beside(first)) else { break };
            *place = near;
            count += 1;
        }
        let (these, later) = all.split_at(count);
        if let Some(filter) = first.filter_of(place.0)
            && let Err((context, trap)) = filter.end(&places[..count])
            && let Some(filter) = these.iter().find_map(|ended| ended.filter_of(context))
        {
            // The response is out: a trap now only costs the VM.
            let _ = filter.died(&trap);
        }
        all = later;
    }
}
