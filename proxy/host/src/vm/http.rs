//! The callbacks of an exchange, half by half: head, pieces of body, trailers.
//!
//! After each of them the caller looks for what the guest has noted in its [`Stream`](crate::Stream): a reply or a close
//! ends the half whatever the callback says (it says `Pause` or `Discard` then).

use std::cell::Cell;

use lacis_abi::{Action, BodyAnswer, HeadersAnswer};

use super::{ContextId, PluginSettings, Vm};
use crate::exports::{BODY, HEADERS, OnHeaders, TRAILERS};
use crate::state::{Exchange, Phase, Progress, Side};
use crate::stream::{Half, HeadersAction};
use crate::trap::Trap;

impl Vm {
    /// Shows the guest a head: `count` header lines with pseudo-headers, `end` when nothing follows.
    pub fn on_headers(&mut self, id: ContextId, half: Half, count: u32, end: bool) -> Result<HeadersAction, Trap> {
        let callback = HEADERS[half as usize];
        let context = self.context(id, callback)?;
        let Some(exchange) = context.exchange() else { return Ok(HeadersAction::Continue) };
        let scene = Scene::begin(exchange, half, |side| &side.head);
        let runner = &mut self.runner;
        let answer = match &self.exports.headers[half as usize] {
            None => 0,
            Some(OnHeaders::New(function)) => {
                runner.enter(callback, function, (id.0, count, u32::from(end)), &context, Phase::Running)?
            }
            Some(OnHeaders::Old(function)) => {
                runner.enter(callback, function, (id.0, count), &context, Phase::Running)?
            }
        };
        self.delete_done()?;
        let answer = HeadersAnswer::of(answer);
        Ok(scene.head(answer, &context.plugin, end))
    }

    /// Shows the guest what [`Stream::body`](crate::Stream::body) has of a half, `size` bytes; `end` when neither body nor
    /// trailers follow. A body that ends with trailers has no such piece. There may be a last piece of no bytes.
    ///
    /// The answer says what becomes of those bytes as they are now, which are not necessarily those that were there
    /// before. When too much is held, the embedder ends the exchange (`Buffer`) or holds the sender back (`Watermark`).
    pub fn on_body(&mut self, id: ContextId, half: Half, size: usize, end: bool) -> Result<BodyAnswer, Trap> {
        let callback = BODY[half as usize];
        let context = self.context(id, callback)?;
        let Some(exchange) = context.exchange() else { return Ok(BodyAnswer::Continue) };
        let scene = Scene::begin(exchange, half, |side| &side.body);
        exchange.side(half).ended.set(end);
        let answer = match &self.exports.body[half as usize] {
            None => 0,
            Some(function) => {
                let size = u32::try_from(size).unwrap_or(u32::MAX);
                self.runner.enter(callback, function, (id.0, size, u32::from(end)), &context, Phase::Running)?
            }
        };
        self.delete_done()?;
        Ok(scene.body(BodyAnswer::of(answer)))
    }

    /// Shows the guest the trailers of a half, of which there are `count`. `Continue` lets everything go on that is held
    /// of the half.
    pub fn on_trailers(&mut self, id: ContextId, half: Half, count: u32) -> Result<Action, Trap> {
        let callback = TRAILERS[half as usize];
        let context = self.context(id, callback)?;
        let Some(exchange) = context.exchange() else { return Ok(Action::Continue) };
        let scene = Scene::begin(exchange, half, |side| &side.trailers);
        let answer =
            self.enter(callback, |e| e.trailers[half as usize].as_ref(), (id.0, count), &context, Phase::Running)?;
        Ok(match scene.end(Action::of(answer.unwrap_or(0)) == Action::Continue) {
            Outcome::GoesOn => Action::Continue,
            Outcome::Stays | Outcome::Over => Action::Pause,
        })
    }
}

/// One part of one half while its callback runs.
pub(super) struct Scene<'e> {
    exchange: &'e Exchange,
    side: &'e Side,
    part: &'e Cell<Progress>,
    replied: bool,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    GoesOn,
    Stays,
    /// The guest has answered in this callback: this half goes nowhere, whatever the callback says.
    Over,
}

impl<'e> Scene<'e> {
    #[inline]
    pub(super) fn begin(exchange: &'e Exchange, half: Half, part: fn(&Side) -> &Cell<Progress>) -> Scene<'e> {
        let side = exchange.side(half);
        side.begin(part(side));
        Scene::of(exchange, half, part, exchange.replied.get())
    }

    /// One that has begun, before or after the exchange was answered.
    pub(super) fn of(
        exchange: &'e Exchange,
        half: Half,
        part: fn(&Side) -> &Cell<Progress>,
        replied: bool,
    ) -> Scene<'e> {
        let side = exchange.side(half);
        Scene { exchange, side, part: part(side), replied }
    }

    /// What becomes of a head.
    #[inline]
    pub(super) fn head(self, answer: HeadersAnswer, plugin: &PluginSettings, end: bool) -> HeadersAction {
        let hold = answer == HeadersAnswer::StopIteration && plugin.allow_on_headers_stop_iteration && !end;
        match self.end(answer.action() == Action::Continue) {
            Outcome::GoesOn => HeadersAction::Continue,
            Outcome::Stays if hold => HeadersAction::Hold,
            Outcome::Stays | Outcome::Over => HeadersAction::Pause,
        }
    }

    /// What becomes of a body.
    #[inline]
    pub(super) fn body(self, answer: BodyAnswer) -> BodyAnswer {
        let side = self.side;
        let outcome = self.end(answer == BodyAnswer::Continue);
        if answer != BodyAnswer::Buffer && outcome == Outcome::Stays {
            // Only a buffered body is to be reached from another callback, as in Envoy.
            side.body.set(Progress::Gone);
        }
        match outcome {
            Outcome::GoesOn => BodyAnswer::Continue,
            Outcome::Stays => answer,
            Outcome::Over => BodyAnswer::Discard,
        }
    }

    #[inline]
    pub(super) fn end(self, goes_on: bool) -> Outcome {
        let Scene { exchange, side, part, replied } = self;
        if exchange.replied.get() != replied {
            side.go();
            side.stopped.set(false);
            return Outcome::Over;
        }
        if side.settle(part, goes_on) { Outcome::GoesOn } else { Outcome::Stays }
    }
}
