//! Filters of one exchange that share a VM: where nothing is to be done between their callbacks, these share an entry of it.

use std::rc::Rc;

use lacis_host::abi::BodyAnswer;
use lacis_host::{Half, HeadersAction, Vm};

use super::run::Run;
use super::stage::{Head, Stage};
use super::wasm::{Filter, Place, Reached};
use crate::fault::Fault;
use crate::telemetry::labels::Outcome;

impl Run {
    /// Has a filter that was opened begin with the exchange, and those that come after it in the same VM as far as they let
    /// the head go on, unless it is to be `alone`. Which of them has it in its hands then, and what becomes of it; none if
    /// that one has no part in the exchange.
    pub(super) fn begin_with(
        &self,
        filter: &Filter,
        at: usize,
        place: Place,
        alone: bool,
        lines: u32,
        end: bool,
    ) -> Result<Option<(usize, HeadersAction)>, Fault> {
        let count = if alone || !filter.joins(Half::Request) { 1 } else { self.admit_more(filter, place) };
        if count == 1 {
            let begun = filter.begin(place, lines, end)?;
            if begun.is_none() {
                self.seen.borrow_mut().stages.truncate(at);
            }
            return Ok(begun.map(|action| (at, action)));
        }
        let shown = filter.begin_all(place, count, lines, end);
        let to = at + index(&shown);
        self.dismiss_from(to + 1);
        for stage in &mut self.seen.borrow_mut().stages[at..to] {
            stage.parts[Half::Request as usize].head = Head::Gone;
            if let Some(left) = stage.leave() {
                self.count(left, Outcome::Continue);
            }
        }
        let filter = self.filter(to);
        let action = match shown {
            Some(Ok((_, action))) => Some(filter.held(Half::Request, action)),
            Some(Err((_, trap))) => filter.ended_by(&trap)?,
            None => filter.lost().map(|()| None)?,
        };
        if action.is_none() {
            self.seen.borrow_mut().stages.truncate(to);
        }
        Ok(action.map(|action| (to, action)))
    }

    /// Makes contexts for the filters after one that can begin in the same entry of the guest. How many these are, with it.
    fn admit_more(&self, own: &Filter, first: Place) -> u32 {
        let stream = &self.seen;
        let seen = &mut *stream.borrow_mut();
        let next = seen.ways[Half::Request as usize].heads;
        let more = (next..).map_while(|number| self.filters.get(number)).take_while(|filter| filter.may_join(own));
        if self.apart {
            if more.count() > 0 {
                own.measured();
            }
            return 1;
        }
        let (mut number, mut count) = (next, 1);
        own.admit_more(
            first,
            more.take(Vm::MOST_BEGIN - 1),
            || Rc::clone(stream) as _,
            |filter, place| {
                let since = filter.begins(false);
                seen.join(Stage::new(number, filter.machine(), place, since), filter.answers());
                (number, count) = (number + 1, count + 1);
            },
        );
        seen.ways[Half::Request as usize].heads = number;
        count
    }

    /// Filters from here on were not shown the exchange: they have no part in it, yet.
    fn dismiss_from(&self, from: usize) {
        while let Some(Stage { number, place, .. }) = {
            let stages = &mut self.seen.borrow_mut().stages;
            if stages.len() > from { stages.pop() } else { None }
        } {
            self.filters[number].dismiss(place);
            self.seen.borrow_mut().ways[Half::Request as usize].heads = number;
        }
    }

    /// Shows the head of the response to a filter, and to those that it reaches next in the same VM as far as they let it go
    /// on. Which of them has it in its hands then, and what becomes of it.
    pub(super) fn go_back(
        &self,
        filter: &Filter,
        at: usize,
        place: Place,
        lines: u32,
        end: bool,
    ) -> Result<(usize, HeadersAction), Fault> {
        let count = if at > 0 && filter.joins(Half::Response) && filter.has(place) { self.behind(at) } else { 1 };
        if count == 1 || self.apart {
            if count > 1 {
                filter.measured();
            }
            return Ok((at, filter.on_headers(place, Half::Response, lines, end)?));
        }
        self.gone_back(at, filter.on_response_heads(place, count, lines, end))
    }

    /// The head of the response was shown to filters from this one on: which of them has it in its hands now, and what
    /// becomes of it.
    pub(super) fn gone_back(&self, at: usize, shown: Reached<HeadersAction>) -> Result<(usize, HeadersAction), Fault> {
        let to = at - index(&shown).min(at);
        {
            let seen = &mut *self.seen.borrow_mut();
            seen.ways[Half::Response as usize].heads += at - to;
            for stage in &mut seen.stages[to + 1..=at] {
                stage.parts[Half::Response as usize].head = Head::Gone;
            }
        }
        let filter = self.filter(to);
        let action = match shown {
            Some(Ok((_, action))) => filter.held(Half::Response, action),
            Some(Err((_, trap))) => filter.died(&trap).map(|()| HeadersAction::Continue)?,
            None => filter.lost().map(|()| HeadersAction::Continue)?,
        };
        Ok((to, action))
    }

    /// How many filters, beginning with this one and towards the first, are next to each other in one VM.
    pub(super) fn behind(&self, at: usize) -> u32 {
        let stages = &self.seen.borrow().stages;
        let first = &stages[at];
        let near = |(count, stage): &(usize, &Stage)| {
            stage.machine == first.machine && first.place.follows(stage.place, *count)
        };
        let count = stages[..=at].iter().rev().enumerate().take_while(near).count();
        u32::try_from(count).unwrap_or(1)
    }

    /// Shows content of the response to several filters of one VM, as far as they let it go on. Which of them has it in its
    /// hands then, and its answer.
    pub(super) fn together(
        &self,
        at: usize,
        place: Place,
        count: u32,
        size: usize,
        end: bool,
    ) -> Result<(usize, BodyAnswer), Fault> {
        self.passed(at, self.filter(at).on_bodies(place, count, size, end))
    }

    /// Content of the response was shown to filters from this one on: which of them has it in its hands now, and its answer.
    pub(super) fn passed(&self, at: usize, shown: Reached<BodyAnswer>) -> Result<(usize, BodyAnswer), Fault> {
        let answer = if let Some(Ok((_, answer))) = &shown { *answer } else { BodyAnswer::Continue };
        let to = at.saturating_sub(index(&shown));
        self.seen.borrow_mut().moving.pass(to);
        match shown {
            Some(Ok(_)) => {}
            Some(Err((_, trap))) => self.filter(to).died(&trap)?,
            None => self.filter(to).lost()?,
        }
        Ok((to, answer))
    }
}

/// Which of several filters was called last.
fn index<T>(shown: &Reached<T>) -> usize {
    match shown {
        Some(Ok((index, _)) | Err((index, _))) => *index as usize,
        None => 0,
    }
}
