//! A response that is all here when its head goes to the filters: its content passes them right after the head, and mostly
//! nothing is left to do when it is written.
//!
//! What filters see, and what is sent, is as with content that comes later ([`Flow`]): where filters fail on it after the head
//! has gone, the response breaks off behind its head, although nothing of it was written.

use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use lacis_host::abi::BodyAnswer;
use lacis_host::{Half, Responded};

use super::flow::{Flow, announced};
use super::run::Run;
use super::stage::{End, Head};
use super::wasm::{Filter, Place};
use crate::fault::{Fault, Reason};
use crate::http::Body;
use crate::http::body::{self, Frame, Length, Made, Source};

const HALF: Half = Half::Response;

/// What comes out behind the filters of what was shown to the first: content, and whether it ends; or nothing, yet.
type Passed = Result<Option<(Bytes, bool)>, Fault>;

/// How far filters were shown a response in one entry.
enum Shown {
    /// Its head only, and nobody has seen the content.
    Head(Bytes),
    /// Its content, too.
    Body(Passed),
}

impl Run {
    /// Has the head of a response pass the filters as far as it does, and with it what follows, if that is all here. Whether
    /// both have passed: what was made of the body is in its place then; else it is what it was, and is to be read.
    ///
    /// # Errors
    /// If a filter answers, closes, or fails before the head has passed all of them.
    pub(super) fn answer(self: &Rc<Run>, body: &mut Body) -> Result<bool, Fault> {
        let open = self.seen.borrow().ways[HALF as usize].open;
        let Some(content) = (if open { body.take_whole() } else { None }) else {
            return self.heads(HALF).map(|()| false);
        };
        let passed = match self.all_at_once() {
            Some((filter, place, count)) => self.at_once(filter, place, count, content)?,
            None => {
                self.heads(HALF)?;
                Shown::Head(content)
            }
        };
        let below = body.length();
        let (passed, length) = match passed {
            Shown::Head(content) if !self.sends() => {
                body.put_whole(content, below);
                return Ok(false);
            }
            Shown::Head(content) => {
                let length = self.announced(below)?;
                let first = {
                    let mut seen = self.seen.borrow_mut();
                    seen.read(HALF);
                    seen.first(HALF)
                };
                (self.through(HALF, first, content, true), length)
            }
            Shown::Body(passed) => (passed, self.announced(below)?),
        };
        match passed {
            Ok(Some((content, true))) if !content.is_empty() && fits(length, &content) => {
                self.seen.borrow_mut().ways[HALF as usize].ended = true;
                body.put_whole(content, length);
            }
            passed => self.rest(passed, length, body),
        }
        Ok(true)
    }

    /// Whether the head has gone, and is one that content follows.
    fn sends(&self) -> bool {
        let bare = |seen: &super::seen::Seen| seen.response.as_ref().is_none_or(|it| it.head.is_without_content());
        self.has_gone(HALF) && !bare(&self.seen.borrow())
    }

    fn announced(&self, length: Length) -> Result<Length, Fault> {
        let seen = self.seen.borrow();
        seen.response.as_ref().map_or(Ok(length), |it| announced(&seen, HALF, &it.head.headers, length))
    }

    /// The last filter and how many there are, if all can be shown head and content in one entry, and are not to be measured.
    fn all_at_once(&self) -> Option<(&Filter, Place, u32)> {
        let seen = self.seen.borrow();
        let last = seen.stages.last().filter(|_| seen.answers && seen.is_row)?;
        let (filter, place, count) = (&self.filters[last.number], last.place, seen.stages.len());
        // Those that are entered one by one are measured.
        let joined = filter.has(place) && if count == 1 { filter.passes(2) } else { !self.apart };
        joined.then_some((filter, place, u32::try_from(count).ok()?))
    }

    /// Shows head and content to all filters.
    fn at_once(&self, filter: &Filter, place: Place, count: u32, content: Bytes) -> Result<Shown, Fault> {
        let (at, lines, size) = {
            let seen = &mut *self.seen.borrow_mut();
            let at = seen.stages.len() - 1;
            let size = seen.take_up(HALF, at, content, true);
            // The guests may make some when they are shown the end.
            seen.trailers[HALF as usize].may_come();
            seen.ways[HALF as usize].heads = 1;
            (at, seen.count(HALF), size)
        };
        let shown = match filter.on_response(place, count, lines, size) {
            Some(Responded::Body(shown)) => {
                let sound = self.heads_gone();
                if let Ok((last, BodyAnswer::Continue)) = shown
                    && last + 1 == count
                    && let Some(content) = self.all_gone()
                {
                    return sound.map(|()| Shown::Body(Ok(Some((content, true)))));
                }
                let passed = self.passed(at, Some(shown));
                sound?;
                return Ok(Shown::Body(passed.and_then(|(to, answer)| self.content_shown(to, answer))));
            }
            Some(Responded::Head(shown)) => Some(shown),
            None => None,
        };
        let content = {
            let seen = &mut *self.seen.borrow_mut();
            seen.trailers[HALF as usize].are_none();
            seen.moving.take().0
        };
        let (to, action) = self.gone_back(at, shown)?;
        if self.head_shown(HALF, to, action)? {
            self.heads(HALF)?;
        }
        Ok(Shown::Head(content))
    }

    /// All filters have let the head go on, and have been shown the end of what follows.
    fn heads_gone(&self) -> Result<(), Fault> {
        let seen = &mut *self.seen.borrow_mut();
        for stage in &mut seen.stages {
            stage.parts[HALF as usize].head = Head::Gone;
        }
        // As if each had been asked for the next.
        let heads = seen.stages.len() + 1;
        let way = &mut seen.ways[HALF as usize];
        (way.heads, way.released) = (heads, true);
        seen.read(HALF);
        seen.check(HALF).map_err(|why| Fault::new(Reason::FilterInvalid).detail(why))
    }

    /// All filters have let content go on: what it is now, if nothing is to be done but to send it.
    fn all_gone(&self) -> Option<Bytes> {
        let seen = &mut *self.seen.borrow_mut();
        let trailers = &mut seen.trailers[HALF as usize];
        if seen.closed || seen.reply.is_some() || trailers.count() > 0 {
            return None;
        }
        trailers.are_none();
        Some(seen.moving.take().0)
    }

    /// The last of the filters that were shown content has answered.
    fn content_shown(&self, at: usize, answer: BodyAnswer) -> Passed {
        self.noted()?;
        if answer != BodyAnswer::Continue {
            return self.hold(HALF, at, answer).map(|()| None);
        }
        let gone = self.release(HALF, at)?;
        match gone.end {
            End::Body => self.through(HALF, gone.next, gone.data, true),
            End::Open | End::Trailers => self.reach(HALF, gone).map(|()| None),
        }
    }

    /// Filters have content, or have made of it what is not as long as the head that has gone says, which is found when it is
    /// written, or have failed on it.
    #[inline(never)]
    fn rest(self: &Rc<Run>, passed: Passed, length: Length, body: &mut Body) {
        match passed {
            Ok(passed) => {
                let (content, end) = passed.unwrap_or_default();
                self.write(HALF, content, end);
                Flow::new(self, HALF, body).put(length, body);
            }
            Err(fault) => {
                *body = broken(fault, length);
            }
        }
    }
}

/// Whether content is as long as announced, if that is.
fn fits(length: Length, content: &Bytes) -> bool {
    match length {
        Length::Known(length) => length == content.len() as u64,
        Length::Unknown => true,
        Length::Tunnel => false,
    }
}

/// What breaks off with a fault before its first byte.
pub(super) fn broken(fault: Fault, length: Length) -> Body {
    Body::source(body::Half::Response, Source::Made(Box::new(Broken(Some(fault)))), length)
}

/// What follows a head that has gone, where filters failed on it.
#[derive(Debug)]
struct Broken(Option<Fault>);

impl Made for Broken {
    fn poll_frame(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Frame, Fault>>> {
        Poll::Ready(self.0.take().map(Err))
    }

    fn is_end(&self) -> bool {
        self.0.is_none()
    }
}
