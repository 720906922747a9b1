//! The response in one entry for several contexts: its head, its content, or both.

use std::rc::Rc;

use lacis_abi::BodyAnswer;

use super::{Kind, Turn, answered};
use crate::exports::{BODY, HEADERS};
use crate::state::Context;
use crate::stream::{Half, HeadersAction};
use crate::trap::Trap;
use crate::vm::http::Scene;
use crate::vm::{ContextId, Vm};

/// What the last callback was shown of several in which a head and what follows it could be, which of the contexts that was,
/// and what becomes of it.
#[derive(Debug)]
pub enum Responded {
    /// The head.
    Head(Result<(u32, HeadersAction), (u32, Trap)>),
    /// The content: all have let the head go on.
    Body(Result<(u32, BodyAnswer), (u32, Trap)>),
}

impl Vm {
    /// Shows the head of the response to the contexts of `count` exchanges, numbered downwards from this one, as
    /// [`Vm::on_headers`] does to each, until one does not let it go on, or has the embedder look at what it did. Which of them
    /// that is, and what becomes of the head; if it goes on and it is the last of all, all have let it go on.
    ///
    /// # Errors
    /// A trap, and which of them met it.
    pub fn on_response_heads(
        &mut self,
        first: ContextId,
        count: u32,
        lines: u32,
        end: bool,
    ) -> Result<(u32, HeadersAction), (u32, Trap)> {
        let function = self.exports.joined.heads.as_ref().filter(|_| count > 1 && first.0 >= count);
        let (Some(function), false) = (function, self.runner.dead) else {
            let shown = self.on_headers(first, Half::Response, lines, end);
            return shown.map(|action| (0, action)).map_err(|trap| (0, trap));
        };
        let context = self.context(first, HEADERS[Half::Response as usize]).map_err(|trap| (0, trap))?;
        let turn = Turn::of_head(Kind::Heads, first, count, lines);
        let result = match self.runner.take(turn, function, (first.0, count, lines, u32::from(end)), &context) {
            Ok(result) => result,
            Err(trap) => return Err((self.met(), trap)),
        };
        self.shown(context, result, Half::Response, end)
    }

    /// Shows content of the response to the contexts of `count` exchanges, numbered downwards from this one, as
    /// [`Vm::on_body`] does to each, until one does not let it go on, or has called the host. Which of them was shown it
    /// last, and its answer; if that lets it go on and it is the last of all, all do. Each may count on
    /// [`Stream::shown`](crate::Stream::shown).
    ///
    /// # Errors
    /// A trap, and which of them met it.
    pub fn on_bodies(
        &mut self,
        first: ContextId,
        count: u32,
        size: usize,
        end: bool,
    ) -> Result<(u32, BodyAnswer), (u32, Trap)> {
        let function = self.exports.joined.body.as_ref().filter(|_| count > 1 && first.0 >= count);
        let (Some(function), false) = (function, self.runner.dead) else {
            return self.on_body(first, Half::Response, size, end).map(|answer| (0, answer)).map_err(|trap| (0, trap));
        };
        let context = self.context(first, BODY[Half::Response as usize]).map_err(|trap| (0, trap))?;
        let turn = Turn { end, ..Turn::new(Kind::Body, first, count) };
        let bytes = u32::try_from(size).unwrap_or(u32::MAX);
        match self.runner.take(turn, function, (first.0, count, bytes, u32::from(end)), &context) {
            Ok(result) => self.shown_body(context, result),
            Err(trap) => Err((self.met(), trap)),
        }
    }

    /// Shows the head of the response to the contexts of `count` exchanges, numbered downwards from this one, as
    /// [`Vm::on_response_heads`], and where all of them let it go on and there is nothing to see to, all of its content, so many
    /// bytes, as [`Vm::on_bodies`]. It may leave the content to the embedder.
    pub fn on_response(&mut self, first: ContextId, count: u32, lines: u32, size: usize) -> Responded {
        let function = self.exports.joined.response.as_ref().filter(|_| first.0 >= count);
        let (Some(function), false) = (function, self.runner.dead) else {
            return Responded::Head(self.on_response_heads(first, count, lines, false));
        };
        let context = match self.context(first, HEADERS[Half::Response as usize]) {
            Ok(context) => context,
            Err(trap) => return Responded::Head(Err((0, trap))),
        };
        let turn = Turn { end: true, ..Turn::of_head(Kind::Response, first, count, lines) };
        let bytes = u32::try_from(size).unwrap_or(u32::MAX);
        match self.runner.take(turn, function, (first.0, count, lines, 0, bytes), &context) {
            Ok(result) if answered(result).1 < count => {
                Responded::Head(self.shown(context, result, Half::Response, false))
            }
            Ok(result) => Responded::Body(self.shown_body(context, result)),
            Err(trap) => match self.met() {
                step if step < count => Responded::Head(Err((step, trap))),
                step => Responded::Body(Err((step - count, trap))),
            },
        }
    }

    /// The callbacks of an entry have been shown content of the response: which of the contexts has it now, and its answer.
    fn shown_body(&mut self, first: Rc<Context>, result: u64) -> Result<(u32, BodyAnswer), (u32, Trap)> {
        let (answer, step) = answered(result);
        let state = self.runner.store.data_mut();
        // All have returned if it is the number of all: of the last one more is to be known.
        let last = state.turn.as_ref().map_or(0, |turn| turn.steps - 1);
        let context = state.advance(step.min(last));
        let (number, replied) =
            state.turn.take().map_or((first.id, false), |turn| (turn.context(turn.at), turn.replied));
        let at = first.id - number;
        let answer = BodyAnswer::of(answer);
        self.delete_done().map_err(|trap| (at, trap))?;
        let Some(exchange) = context.as_ref().and_then(|context| context.exchange()) else { return Ok((at, answer)) };
        Ok((at, Scene::of(exchange, Half::Response, |side| &side.body, replied).body(answer)))
    }
}
