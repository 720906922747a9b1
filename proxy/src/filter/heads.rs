//! Heads on their way through the filters of an exchange, from one to the next.

use std::rc::Rc;
use std::time::Instant;

use lacis_host::abi::Action;
use lacis_host::{Half, HeadersAction};

use super::run::Run;
use super::seen::{Head, Stage};
use crate::fault::{Fault, Reason};
use crate::telemetry::labels::Outcome;
use crate::telemetry::why::What;

impl Run {
    /// Shows the head to the filters that have not seen it, until one of them stops it.
    pub(super) fn heads(&self, half: Half) -> Result<(), Fault> {
        while let Some(at) = self.next(half)? {
            let (filter, place, count, end) = {
                let seen = self.seen.borrow();
                let Stage { number, place, .. } = seen.stages[at];
                (&self.filters[number], place, seen.count(half), seen.ways[half as usize].bare)
            };
            if half == Half::Response && !filter.has(place) && (self.ours.get() || !filter.sees(half)) {
                // Without callbacks for content it has nothing to protect there: others' exchanges outlive its VM.
                self.part(half, at, |part| (part.absent, part.head) = (true, Head::Gone));
                continue;
            }
            let (at, action) = match self.tcp {
                true => match filter.on_new_connection(place)? {
                    Action::Continue => (at, HeadersAction::Continue),
                    Action::Pause => (at, HeadersAction::Pause),
                },
                // It has just been opened.
                false if half == Half::Request => match self.begin_with(at, place, count, end)? {
                    Some(begun) => begun,
                    None => continue,
                },
                false => self.go_back(at, place, count, end)?,
            };
            if !self.head_shown(half, at, action)? {
                return Ok(());
            }
        }
        self.seen.borrow_mut().ways[half as usize].released = true;
        Ok(())
    }

    /// A filter was shown the head: whether that goes on.
    pub(super) fn head_shown(&self, half: Half, at: usize, action: HeadersAction) -> Result<bool, Fault> {
        self.noted()?;
        let head = match action {
            HeadersAction::Continue => return self.head_goes(half, at).map(|()| true),
            HeadersAction::Pause => Head::Stopped,
            HeadersAction::Hold => Head::Held,
        };
        {
            let mut seen = self.seen.borrow_mut();
            seen.ways[half as usize].halted = true;
            let stage = &mut seen.stages[at];
            stage.parts[half as usize].head = head;
            if half == Half::Request {
                stage.since.get_or_insert_with(Instant::now);
                stage.waited = true;
            }
        }
        self.exchange.trail.note(|own| What::Paused(own.text(self.filter(at).name())));
        Ok(false)
    }

    /// The next filter for a head. The request's opens contexts on its way; the response's goes back through them.
    fn next(&self, half: Half) -> Result<Option<usize>, Fault> {
        loop {
            let number = {
                let mut seen = self.seen.borrow_mut();
                let way = &mut seen.ways[half as usize];
                let number = way.heads;
                way.heads += 1;
                if half == Half::Response {
                    return Ok(seen.stages.len().checked_sub(number + 1));
                }
                number
            };
            let Some(filter) = self.filters.get(number) else { return Ok(None) };
            let since = filter.begins(self.exchange.trail.is_asked());
            let Some(place) = filter.open(Rc::clone(&self.seen) as _, self.tcp)? else { continue };
            let stages = &mut self.seen.borrow_mut().stages;
            stages.push(Stage::new(number, filter.machine(), place, since));
            return Ok(Some(stages.len() - 1));
        }
    }

    /// A filter has let the head go on: what it made of it must be one that can be sent.
    pub(super) fn head_goes(&self, half: Half, at: usize) -> Result<(), Fault> {
        let (left, checked) = {
            let mut seen = self.seen.borrow_mut();
            let stage = &mut seen.stages[at];
            stage.parts[half as usize].head = Head::Gone;
            let left = if half == Half::Request { stage.leave() } else { None };
            (left, seen.check(half))
        };
        if let Some(left) = left {
            self.count(left, Outcome::Continue);
        }
        checked.map_err(|why| Fault::new(Reason::FilterInvalid).detail(why))
    }
}
