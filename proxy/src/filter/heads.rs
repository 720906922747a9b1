//! Heads on their way through the filters of an exchange, from one to the next.

use std::rc::Rc;
use std::time::Instant;

use lacis_host::{Half, HeadersAction};

use super::run::Run;
use super::stage::{Head, Stage};
use super::tunnel;
use crate::fault::{Fault, Reason};
use crate::telemetry::labels::Outcome;
use crate::telemetry::why::What;

impl Run {
    /// Shows the head to the filters that have not seen it, until one of them stops it.
    pub(super) fn heads(&self, half: Half) -> Result<(), Fault> {
        match half {
            Half::Request => self.request_head(),
            Half::Response => self.response_head(),
        }
    }

    /// Contexts are opened on the way of the request.
    fn request_head(&self) -> Result<(), Fault> {
        const HALF: Half = Half::Request;
        loop {
            let number = {
                let way = &mut self.seen.borrow_mut().ways[HALF as usize];
                way.heads += 1;
                way.heads - 1
            };
            let Some(filter) = self.filters.get(number) else { break };
            let since = filter.begins(self.exchange.trail.is_asked());
            let Some(place) = filter.open(Rc::clone(&self.seen) as _, self.tcp)? else { continue };
            let (at, lines, end) = {
                let seen = &mut *self.seen.borrow_mut();
                let at = seen.join(Stage::new(number, filter.machine(), place, since), filter.answers());
                (at, seen.count(HALF), seen.ways[HALF as usize].bare)
            };
            let (at, action) = if self.tcp {
                (at, tunnel::begin(filter, place)?)
            } else {
                let alone = since.is_some() || self.exchange.trail.is_asked();
                match self.begin_with(filter, at, place, alone, lines, end)? {
                    Some(begun) => begun,
                    None => continue,
                }
            };
            if !self.head_shown(HALF, at, action)? {
                return Ok(());
            }
        }
        self.seen.borrow_mut().ways[HALF as usize].released = true;
        Ok(())
    }

    /// The response goes back through the contexts that there are.
    fn response_head(&self) -> Result<(), Fault> {
        const HALF: Half = Half::Response;
        loop {
            let (filter, at, place, lines, end) = {
                let seen = &mut *self.seen.borrow_mut();
                let lines = seen.count(HALF);
                let way = &mut seen.ways[HALF as usize];
                way.heads += 1;
                let Some(at) = seen.stages.len().checked_sub(way.heads) else {
                    way.released = true;
                    return Ok(());
                };
                let Stage { number, place, .. } = seen.stages[at];
                (&self.filters[number], at, place, lines, way.bare)
            };
            if !filter.has(place) && (self.ours.get() || !filter.sees(HALF)) {
                // Without callbacks for content it has nothing to protect there: others' exchanges outlive its VM.
                self.part(HALF, at, |part| (part.absent, part.head) = (true, Head::Gone));
                continue;
            }
            let (at, action) = self.go_back(filter, at, place, lines, end)?;
            if !self.head_shown(HALF, at, action)? {
                return Ok(());
            }
        }
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

    /// A filter has let the head go on: what it made of it must be one that can be sent.
    pub(super) fn head_goes(&self, half: Half, at: usize) -> Result<(), Fault> {
        let (left, place, checked) = {
            let mut seen = self.seen.borrow_mut();
            let stage = &mut seen.stages[at];
            stage.parts[half as usize].head = Head::Gone;
            let left = if half == Half::Request { stage.leave() } else { None };
            let place = stage.place;
            (left, place, seen.check(half))
        };
        // One whose VM has died of it was counted for that, and lets nothing go on.
        if let Some(left) = left.filter(|left| self.filters[left.number].has(place)) {
            self.count(left, Outcome::Continue);
        }
        checked.map_err(|why| Fault::new(Reason::FilterInvalid).detail(why))
    }
}
