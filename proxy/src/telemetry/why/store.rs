//! What the steps of one record refer to: a few blocks for all of them, which the next record uses again.

use std::fmt::{Display, Write as _};

use super::{Candidate, State};

/// Bytes of one text that are kept: what a failure says of itself is seldom longer than a line.
pub(super) const MAX_TEXT_BYTES: usize = 4096;

/// What a store keeps for its next record. More than most need; what a rare one took is given back.
pub(super) const USUAL: Room = Room { text: 1024, candidates: 16 };

/// Bytes of text, and endpoints, that fit without asking for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    text: usize,
    candidates: usize,
}

/// A part of what a [`Store`] has: bytes of its text, or some of its endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    at: u32,
    count: u32,
}

/// Words and endpoints of one record.
#[derive(Clone, Debug, Default)]
pub struct Store {
    text: String,
    candidates: Vec<Candidate>,
    /// Of the service, as it was last noted.
    state: Option<Box<State>>,
}

impl Store {
    /// Keeps a text.
    #[inline]
    pub fn text(&mut self, text: &str) -> Span {
        let at = self.text.len();
        self.text.push_str(text);
        self.span(at)
    }

    /// Keeps what something says of itself, [`MAX_TEXT_BYTES`] at the most.
    pub fn say(&mut self, what: impl Display) -> Span {
        let at = self.text.len();
        // Nothing is wrong with a text that is written into memory.
        let _ = write!(self.text, "{what}");
        self.span(at)
    }

    /// Keeps the endpoints that are added.
    #[inline]
    pub fn endpoints(&mut self, add: impl FnOnce(&mut Vec<Candidate>)) -> Span {
        let at = self.candidates.len();
        add(&mut self.candidates);
        Span { at: at as u32, count: (self.candidates.len() - at) as u32 }
    }

    /// Keeps how the service is now.
    pub fn state(&mut self, state: State) {
        self.state = Some(Box::new(state));
    }

    pub(super) fn read(&self, span: Span) -> &str {
        let Span { at, count } = span;
        self.text.get(at as usize..(at + count) as usize).unwrap_or_default()
    }

    pub(super) fn candidates(&self, span: Span) -> &[Candidate] {
        let Span { at, count } = span;
        self.candidates.get(at as usize..(at + count) as usize).unwrap_or_default()
    }

    pub(super) fn kept_state(&self) -> Option<&State> {
        self.state.as_deref()
    }

    /// Forgets everything, and keeps the room.
    #[inline]
    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.text.shrink_to(USUAL.text);
        self.candidates.clear();
        self.candidates.shrink_to(USUAL.candidates);
        self.state = None;
    }

    /// What fits.
    #[cfg(test)]
    pub(super) fn room(&self) -> Room {
        Room { text: self.text.capacity(), candidates: self.candidates.capacity() }
    }

    #[inline]
    fn span(&mut self, at: usize) -> Span {
        if self.text.len() - at > MAX_TEXT_BYTES {
            self.text.truncate(self.text.floor_char_boundary(at + MAX_TEXT_BYTES));
        }
        Span { at: at as u32, count: (self.text.len() - at) as u32 }
    }
}
