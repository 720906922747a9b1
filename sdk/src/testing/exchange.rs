//! One exchange of a test, from head to end.

use std::collections::VecDeque;
use std::panic::Location;
use std::rc::Rc;
use std::time::Duration;

use super::engine::{Engine, Passage};
use super::message::{Lines, Message};
use super::state::Scene;
use super::{Half, step};
use crate::Reply;

/// So long a test waits, by its own clock, for what a filter waits for.
const PATIENCE: Duration = Duration::from_secs(3600);

/// One exchange through a filter.
pub struct Exchange {
    engine: Rc<dyn Engine>,
    scene: Scene,
    number: u32,
    /// The heads as they went on, for the end.
    passed: [Option<Lines>; 2],
}

/// What follows a head.
enum Part {
    Body(Vec<u8>, bool),
    Trailers(Lines),
}

impl Exchange {
    pub(super) fn new(engine: &Rc<dyn Engine>, scene: &Scene) -> Self {
        let number = engine.open();
        scene.content(number, |_| {});
        Self { engine: Rc::clone(engine), scene: scene.clone(), number, passed: [None, None] }
    }

    /// Sets an attribute by its dotted name, in the encoding of the host: text as it is, numbers as 8 bytes, little end
    /// first, flags as one byte.
    #[must_use]
    pub fn attribute(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.scene.content(self.number, |content| {
            content.attributes.insert(name.to_owned(), value.as_ref().to_owned());
        });
        self
    }

    /// Passes a request, to its end: gives it as the filter left it.
    ///
    /// # Errors
    ///
    /// The reply, if the filter answered the request itself.
    ///
    /// # Panics
    ///
    /// If the filter waits for what does not come within an hour of the test's time.
    #[track_caller]
    pub fn request(&mut self, request: Message) -> Result<Message, Reply> {
        self.pass(Half::Request, request, Location::caller())
    }

    /// Passes a response, to its end: gives it as the filter left it.
    ///
    /// # Errors
    ///
    /// The reply, if the filter put its own in place of the response.
    ///
    /// # Panics
    ///
    /// If the filter waits for what does not come within an hour of the test's time.
    #[track_caller]
    pub fn response(&mut self, response: Message) -> Result<Message, Reply> {
        self.pass(Half::Response, response, Location::caller())
    }

    /// Whether the filter had the route chosen anew.
    pub fn has_chosen_route(&self) -> bool {
        self.scene.content(self.number, |content| content.rerouted)
    }

    /// The exchange is over: the filter sees its end.
    pub fn end(self) {
        let passed = self.passed.clone();
        self.scene.content(self.number, |content| content.heads = passed);
        self.engine.log(self.number);
    }

    fn pass(&mut self, half: Half, message: Message, caller: &Location<'_>) -> Result<Message, Reply> {
        let Message { headers, has_body, chunks, trailers } = message;
        let mut size = 0;
        let count = chunks.len();
        let last = |index| trailers.is_none() && index + 1 == count;
        let mut parts: VecDeque<Part> =
            chunks.into_iter().enumerate().map(|(index, chunk)| Part::Body(chunk, last(index))).collect();
        parts.extend((has_body && count == 0 && trailers.is_none()).then(|| Part::Body(Vec::new(), true)));
        parts.extend(trailers.map(Part::Trailers));
        let mut out = Message { headers: Vec::new(), has_body, chunks: Vec::new(), trailers: None };
        self.scene.content(self.number, |content| {
            content.heads[half as usize] = Some(headers);
            content.bodies[half as usize].clear();
            content.trailers[half as usize] = None;
            (content.reply, content.resumed) = (None, [false, false]);
        });
        let mut held = self.engine.head(self.number, half, parts.is_empty());
        let begin = self.scene.edit(|state| state.elapsed);
        loop {
            let (reply, resumed) = self.scene.content(self.number, |content| {
                (content.reply.take(), std::mem::take(&mut content.resumed[half as usize]))
            });
            if let Some(reply) = reply {
                self.replied(&reply);
                return Err(reply);
            }
            if held == Passage::Continue || resumed {
                held = Passage::Continue;
                self.release(half, &mut out);
            }
            let now = self.scene.edit(|state| state.elapsed);
            // Answers that are there come before the next piece.
            if step(&*self.engine, &self.scene, Some(now)) {
                continue;
            }
            match parts.pop_front() {
                Some(Part::Body(chunk, end)) => {
                    size += chunk.len();
                    self.scene.content(self.number, |content| content.bodies[half as usize].extend(chunk));
                    held = self.engine.body(self.number, half, end);
                }
                Some(Part::Trailers(trailers)) => {
                    self.scene.content(self.number, |content| content.trailers[half as usize] = Some(trailers));
                    held = self.engine.trailers(self.number, half);
                }
                None if held == Passage::Continue => break,
                None => {
                    let goes_on = now < begin + PATIENCE && step(&*self.engine, &self.scene, None);
                    assert!(
                        goes_on,
                        "{caller}: the filter holds the {half:?} for ever: what it waits for does not come"
                    );
                }
            }
        }
        let counted = if half == Half::Request { "request.size" } else { "response.size" };
        self.scene.content(self.number, |content| {
            content.attributes.entry(counted.to_owned()).or_insert((size as u64).to_le_bytes().into());
        });
        self.passed[half as usize] = Some(out.headers.clone());
        Ok(out)
    }

    /// What is held goes on.
    fn release(&self, half: Half, out: &mut Message) {
        self.scene.content(self.number, |content| {
            if let Some(head) = content.heads[half as usize].take() {
                out.headers = head;
            }
            let body = std::mem::take(&mut content.bodies[half as usize]);
            if !body.is_empty() {
                out.chunks.push(body);
            }
            if let Some(trailers) = content.trailers[half as usize].take() {
                out.trailers = Some(trailers);
            }
        });
    }

    fn replied(&mut self, reply: &Reply) {
        let status = (":status".to_owned(), reply.status().to_string().into_bytes());
        let headers = reply.headers().map(|(name, value)| (name.to_owned(), value.as_bytes().to_owned()));
        let head = self.scene.content(self.number, |content| content.heads[0].take());
        self.passed = [self.passed[0].take().or(head), Some(std::iter::once(status).chain(headers).collect())];
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.engine.close(self.number);
        self.scene.edit(|state| state.forget(self.number));
    }
}
