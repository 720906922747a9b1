//! The response in one entry for several contexts: its head, its content, or both.

use lacis_abi::BodyAnswer;

use super::answered;
use crate::contexts::{Part, Replied};
use crate::exports::{BODY, HEADERS};
use crate::stream::{ContextId, Half, HeadersAction};
use crate::trap::Trap;
use crate::turn::Turn;
use crate::vm::Vm;
use crate::vm::http::Scene;

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
        self.context(first.0, HEADERS[Half::Response as usize]).map_err(|trap| (0, trap))?;
        let turn = Turn::heads(first, count, lines);
        let result = match self.runner.take(turn, function, (first.0, count, lines, u32::from(end))) {
            Ok(result) => result,
            Err(trap) => return Err((self.met(), trap)),
        };
        self.shown(first, result, Half::Response, end)
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
        self.context(first.0, BODY[Half::Response as usize]).map_err(|trap| (0, trap))?;
        let turn = Turn::body(first, count, end);
        let bytes = u32::try_from(size).unwrap_or(u32::MAX);
        match self.runner.take(turn, function, (first.0, count, bytes, u32::from(end))) {
            Ok(result) => self.shown_body(first, result),
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
        if let Err(trap) = self.context(first.0, HEADERS[Half::Response as usize]) {
            return Responded::Head(Err((0, trap)));
        }
        let turn = Turn::response(first, count, lines);
        let bytes = u32::try_from(size).unwrap_or(u32::MAX);
        match self.runner.take(turn, function, (first.0, count, lines, 0, bytes)) {
            Ok(result) if answered(result).1 < count => {
                Responded::Head(self.shown(first, result, Half::Response, false))
            }
            Ok(result) => Responded::Body(self.shown_body(first, result)),
            Err(trap) => match self.met() {
                step if step < count => Responded::Head(Err((step, trap))),
                step => Responded::Body(Err((step - count, trap))),
            },
        }
    }

    /// The callbacks of an entry have been shown content of the response: which of the contexts has it now, and its answer.
    fn shown_body(&mut self, first: ContextId, result: u64) -> Result<(u32, BodyAnswer), (u32, Trap)> {
        let (answer, step) = answered(result);
        let last = self.runner.store.data_mut().returned(step);
        let (number, replied) = last.map_or((first.0, Replied::Not), |last| (last.context, last.replied));
        let at = first.0 - number;
        self.delete_done().map_err(|trap| (at, trap))?;
        let answer = BodyAnswer::of(answer);
        let Some(context) = self.runner.store.data().contexts.get(number) else { return Ok((at, answer)) };
        Ok((at, Scene::of(Half::Response, Part::Body, replied).body(context, answer)))
    }
}
