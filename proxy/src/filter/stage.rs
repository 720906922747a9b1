//! One filter of an exchange, and what of it has stopped there.

use std::time::Instant;

use bytes::Bytes;
use lacis_host::abi::BodyAnswer;
use lacis_host::{Buffer, Half};

use super::content::Content;
use super::machine::MachineId;
use super::wasm::Place;

/// One filter of this exchange, and what it has in its hands.
pub(super) struct Stage {
    /// Its place in the chain.
    pub(super) number: usize,
    pub(super) machine: MachineId,
    pub(super) place: Place,
    /// When it was first shown the request, or stopped it; nothing for one that it lets go on at once, of most.
    pub(super) since: Option<Instant>,
    /// It has stopped the head of the request.
    pub(super) waited: bool,
    /// What it said of the request has been counted.
    pub(super) counted: bool,
    pub(super) parts: [Part; 2],
}

/// What a request that a filter has left is counted by.
pub(super) struct Left {
    pub(super) number: usize,
    pub(super) since: Option<Instant>,
    pub(super) waited: bool,
}

impl Stage {
    /// One whose context has just been made.
    pub(super) fn new(number: usize, machine: MachineId, place: Place, since: Option<Instant>) -> Stage {
        Stage { number, machine, place, since, waited: false, counted: false, parts: Default::default() }
    }

    /// The request leaves it: what that is counted by, the first time.
    pub(super) fn leave(&mut self) -> Option<Left> {
        let Stage { number, since, waited, ref mut counted, .. } = *self;
        (!std::mem::replace(counted, true)).then_some(Left { number, since, waited })
    }
}

/// One half of the exchange, as far as it is with one filter.
#[derive(Default)]
pub(super) struct Part {
    pub(super) head: Head,
    /// The answer by which it stopped content or trailers.
    pub(super) stopped: Option<BodyAnswer>,
    /// What has arrived here and not gone on beside content.
    pub(super) end: End,
    /// It lets go on what it had stopped.
    pub(super) resumed: bool,
    /// Its VM is dead, and this half passes it all the same.
    pub(super) absent: bool,
    /// The content that has stopped here: most goes by ([`Moving`]).
    held: Option<Box<Held>>,
}

/// Content that a filter has stopped, or was given before it is to see it.
#[derive(Default)]
pub(super) struct Held {
    /// Bytes that it has seen and that wait all the same, before `content`.
    pub(super) kept: Content,
    /// What it sees.
    pub(super) content: Content,
}

impl Part {
    /// What has stopped here, to add to it.
    pub(super) fn held(&mut self) -> &mut Held {
        self.held.get_or_insert_default()
    }

    /// Bytes here that it sees.
    pub(super) fn len(&self) -> usize {
        self.held.as_ref().map_or(0, |held| held.content.len())
    }

    /// Bytes here that it has seen.
    pub(super) fn kept(&self) -> usize {
        self.held.as_ref().map_or(0, |held| held.kept.len())
    }

    /// What it sees, for whoever shows it.
    pub(super) fn take_content(&mut self) -> Content {
        let Some(held) = &mut self.held else { return Content::default() };
        let content = std::mem::take(&mut held.content);
        if held.kept.is_empty() {
            self.held = None;
        }
        content
    }

    /// What it is still to see: content, and how that ends.
    pub(super) fn unseen(&mut self) -> (Bytes, End) {
        (self.take_content().take(), std::mem::take(&mut self.end))
    }

    /// All that is here beside the head, which stops no more, before what it has `moved`, if it has.
    pub(super) fn take(&mut self, moved: Option<(Bytes, End)>) -> (Bytes, End) {
        self.stopped = None;
        let (moved, end) = moved.unwrap_or_else(|| (Bytes::new(), std::mem::take(&mut self.end)));
        let Some(mut held) = self.held.take() else { return (moved, end) };
        held.kept.append(held.content.take());
        held.kept.append(moved);
        (held.kept.take(), end)
    }
}

/// Content that is shown to filters, one after the other, until one stops it: then it is [held](Held) there.
#[derive(Default)]
pub(super) struct Moving {
    /// Which half it is of, and the filter that has it in its hands.
    at: Option<(Half, usize)>,
    content: Content,
    end: End,
}

impl Moving {
    /// Is put into the hands of a filter, behind what this holds of that half and has not seen. How much that is.
    pub(super) fn start(&mut self, half: Half, at: usize, part: &mut Part, data: Bytes, end: bool) -> usize {
        let held = std::mem::take(&mut part.end);
        (self.at, self.end) = (Some((half, at)), if end { End::Body } else { held });
        // Nothing is left here, unless something failed meanwhile.
        if part.held.is_some() || !self.content.is_empty() {
            self.content = part.take_content();
        }
        self.content.append(data);
        self.content.len()
    }

    /// It is in the hands of another filter now.
    pub(super) fn pass(&mut self, to: usize) {
        if let Some((_, at)) = &mut self.at {
            *at = to;
        }
    }

    /// What the guest of this filter sees of this half, if that is what moves.
    pub(super) fn with(&mut self, half: Half, at: usize) -> Option<&mut Content> {
        (self.at == Some((half, at))).then_some(&mut self.content)
    }

    /// It moves no more.
    pub(super) fn take(&mut self) -> (Bytes, End) {
        self.at = None;
        (self.content.take(), std::mem::take(&mut self.end))
    }

    /// It stays with the filter that has it in its hands.
    #[inline(never)]
    pub(super) fn stop(&mut self, stages: &mut [Stage]) {
        let Some((half, at)) = self.at else { return };
        let (content, end) = self.take();
        let part = &mut stages[at].parts[half as usize];
        part.end = end;
        if !content.is_empty() {
            part.held().content.append(content);
        }
    }
}

/// Where the head of a half is, seen from one filter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Head {
    /// Not here yet.
    #[default]
    Ahead,
    /// It waits here, and nothing that follows is shown.
    Stopped,
    /// It waits here, and what follows is shown.
    Held,
    /// It has gone on.
    Gone,
}

/// How the content that is with a filter ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum End {
    /// More may come.
    #[default]
    Open,
    /// Here, without trailers.
    Body,
    /// With the trailers of the half.
    Trailers,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stopped_goes_before_what_comes() {
        let (mut moving, mut part) = (Moving::default(), Part::default());
        part.held().kept.append(Bytes::from_static(b"a"));
        part.held().content.append(Bytes::from_static(b"b"));
        assert_eq!((part.kept(), part.len()), (1, 1));
        assert_eq!(
            moving.start(Half::Response, 1, &mut part, Bytes::from_static(b"c"), true),
            2,
            "it has seen the first"
        );
        moving.pass(0);
        assert!(moving.with(Half::Response, 1).is_none() && moving.with(Half::Request, 0).is_none());
        assert!(moving.with(Half::Response, 0).is_some());
        let moved = moving.take();
        assert_eq!(part.take(Some(moved)), (Bytes::from_static(b"abc"), End::Body));
        assert_eq!((part.take(None), moving.take()), (Default::default(), Default::default()));
    }

    #[test]
    fn what_a_failure_left_moves_no_more() {
        let (mut moving, mut part) = (Moving::default(), Part::default());
        moving.start(Half::Response, 0, &mut part, Bytes::from_static(b"secret"), true);
        assert_eq!(moving.start(Half::Request, 0, &mut part, Bytes::from_static(b"d"), false), 1);
        assert_eq!(moving.take(), (Bytes::from_static(b"d"), End::Open));
    }
}
