//! The callbacks of an exchange, half by half: head, pieces of body, trailers.
//!
//! After each of them the caller looks for what the guest has noted in its [`Stream`](crate::Stream): a reply or a close
//! ends the half whatever the callback says (it says `Pause` or `Discard` then).

use lacis_abi::{Action, BodyAnswer, HeadersAnswer};

use super::Vm;
use crate::contexts::{Context, Exchange, Part, Replied};
use crate::exports::{BODY, HEADERS, OnHeaders, TRAILERS};
use crate::state::Phase;
use crate::stream::{ContextId, Half, HeadersAction};
use crate::trap::Trap;

impl Vm {
    /// Shows the guest a head: `count` header lines with pseudo-headers, `end` when nothing follows.
    pub fn on_headers(&mut self, id: ContextId, half: Half, count: u32, end: bool) -> Result<HeadersAction, Trap> {
        let callback = HEADERS[half as usize];
        let Some(exchange) = self.exchange(id, callback)? else { return Ok(HeadersAction::Continue) };
        let scene = Scene::begin(exchange, half, Part::Head);
        let runner = &mut self.runner;
        let answer = match &self.exports.headers[half as usize] {
            None => 0,
            Some(OnHeaders::New(function)) => {
                runner.enter(callback, function, (id.0, count, u32::from(end)), id.0, Phase::Running)?
            }
            Some(OnHeaders::Old(function)) => runner.enter(callback, function, (id.0, count), id.0, Phase::Running)?,
        };
        self.delete_done()?;
        Ok(scene.head(self.context(id.0, callback)?, HeadersAnswer::of(answer), end))
    }

    /// Shows the guest what [`Stream::body`](crate::Stream::body) has of a half, `size` bytes; `end` when neither body nor
    /// trailers follow. A body that ends with trailers has no such piece. There may be a last piece of no bytes.
    ///
    /// The answer says what becomes of those bytes as they are now, which are not necessarily those that were there
    /// before. When too much is held, the embedder ends the exchange (`Buffer`) or holds the sender back (`Watermark`).
    pub fn on_body(&mut self, id: ContextId, half: Half, size: usize, end: bool) -> Result<BodyAnswer, Trap> {
        let callback = BODY[half as usize];
        let Some(exchange) = self.exchange(id, callback)? else { return Ok(BodyAnswer::Continue) };
        let scene = Scene::begin(exchange, half, Part::Body);
        exchange.side(half).ended.set(end);
        let answer = match &self.exports.body[half as usize] {
            None => 0,
            Some(function) => {
                let size = u32::try_from(size).unwrap_or(u32::MAX);
                self.runner.enter(callback, function, (id.0, size, u32::from(end)), id.0, Phase::Running)?
            }
        };
        self.delete_done()?;
        Ok(scene.body(self.context(id.0, callback)?, BodyAnswer::of(answer)))
    }

    /// Shows the guest the trailers of a half, of which there are `count`. `Continue` lets everything go on that is held
    /// of the half.
    pub fn on_trailers(&mut self, id: ContextId, half: Half, count: u32) -> Result<Action, Trap> {
        let callback = TRAILERS[half as usize];
        let Some(exchange) = self.exchange(id, callback)? else { return Ok(Action::Continue) };
        let scene = Scene::begin(exchange, half, Part::Trailers);
        let answer =
            self.enter(callback, |e| e.trailers[half as usize].as_ref(), (id.0, count), id.0, Phase::Running)?;
        let Some(exchange) = self.exchange(id, callback)? else { return Ok(Action::Continue) };
        Ok(match scene.end(exchange, Action::of(answer.unwrap_or(0)) == Action::Continue) {
            Outcome::GoesOn => Action::Continue,
            Outcome::Stays | Outcome::Over => Action::Pause,
        })
    }
}

/// One part of one half while its callback runs.
pub(super) struct Scene {
    half: Half,
    part: Part,
    replied: Replied,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    GoesOn,
    Stays,
    /// The guest has answered in this callback: this half goes nowhere, whatever the callback says.
    Over,
}

impl Scene {
    #[inline]
    pub(super) fn begin(exchange: &Exchange, half: Half, part: Part) -> Scene {
        exchange.side(half).begin(part);
        Scene::of(half, part, exchange.replied.get())
    }

    /// One that has begun when this was answered.
    #[inline]
    pub(super) fn of(half: Half, part: Part, replied: Replied) -> Scene {
        Scene { half, part, replied }
    }

    /// What becomes of a head that a context was shown.
    #[inline]
    pub(super) fn head(self, context: &Context, answer: HeadersAnswer, end: bool) -> HeadersAction {
        let Some(exchange) = context.exchange() else { return HeadersAction::Continue };
        match self.end(exchange, answer.action() == Action::Continue) {
            Outcome::GoesOn => HeadersAction::Continue,
            Outcome::Stays => {
                let holds = context.plugin.allow_on_headers_stop_iteration && !end;
                if holds && answer == HeadersAnswer::StopIteration { HeadersAction::Hold } else { HeadersAction::Pause }
            }
            Outcome::Over => HeadersAction::Pause,
        }
    }

    /// What becomes of a body that a context was shown.
    #[inline]
    pub(super) fn body(self, context: &Context, answer: BodyAnswer) -> BodyAnswer {
        let Some(exchange) = context.exchange() else { return BodyAnswer::Continue };
        let side = exchange.side(self.half);
        match self.end(exchange, answer == BodyAnswer::Continue) {
            Outcome::GoesOn => BodyAnswer::Continue,
            Outcome::Stays => {
                if answer != BodyAnswer::Buffer {
                    // Only a buffered body is to be reached from another callback, as in Envoy.
                    side.forget(Part::Body);
                }
                answer
            }
            Outcome::Over => BodyAnswer::Discard,
        }
    }

    #[inline]
    pub(super) fn end(self, exchange: &Exchange, goes_on: bool) -> Outcome {
        let Scene { half, part, replied } = self;
        let side = exchange.side(half);
        if exchange.replied.get() != replied {
            side.pass();
            return Outcome::Over;
        }
        if side.settle(part, goes_on) { Outcome::GoesOn } else { Outcome::Stays }
    }
}
