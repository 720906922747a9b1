//! The last records of one worker.

use std::cell::RefCell;

use super::{Asked, Ending, Explanation, Record};

/// Records that wait to be written in again: as many as requests that end together and begin again.
const MAX_SPARE: usize = 64;

/// The last records of one worker, and those that requests are noted in while they run.
#[derive(Debug, Default)]
pub struct Ring(RefCell<Held>);

#[derive(Debug, Default)]
struct Held {
    /// One behind the other: what a request leaves here is written in the sequence in which it lies in memory.
    kept: Vec<Record>,
    /// Where the oldest of them is, once there are as many as are kept.
    oldest: usize,
    /// The one that was used last is used next: it is still in the nearest cache.
    #[expect(clippy::vec_box, reason = "a record moves between here and the request that writes it")]
    spare: Vec<Box<Record>>,
}

impl Ring {
    /// Begins a record. It is of use when it is [put](Ring::push) to the others at the end.
    #[inline]
    pub fn begin(&self, asked: &Asked<'_>) -> Box<Record> {
        let mut record = self.0.borrow_mut().spare.pop().unwrap_or_default();
        record.begin(asked);
        record
    }

    /// Keeps what was noted, in the place of the oldest if there are as many as are kept.
    #[inline]
    pub fn push(&self, mut noted: Box<Record>, ending: Ending) {
        let held = &mut *self.0.borrow_mut();
        let keep = noted.keep().max(1);
        let mut at = held.oldest;
        if held.kept.len() == keep {
            held.oldest = if at + 1 == keep { 0 } else { at + 1 };
        } else {
            at = held.add(keep);
        }
        if let Some(place) = held.kept.get_mut(at) {
            place.take(&mut noted, ending);
        }
        if held.spare.len() < MAX_SPARE {
            held.spare.push(noted);
        }
    }

    /// Keeps no more than this from now on.
    pub fn keep(&self, most: usize) {
        let held = &mut *self.0.borrow_mut();
        held.keep(most);
        held.kept.shrink_to(most);
        held.spare = Vec::new();
    }

    /// Those with this id, or all; the newest first, and no more than so many.
    pub fn find(&self, id: Option<&str>, most: usize) -> Vec<Explanation> {
        let held = self.0.borrow();
        let (newer, older) = held.kept.split_at(held.oldest);
        let newest_first = newer.iter().rev().chain(older.iter().rev());
        newest_first.filter(|record| id.is_none_or(|id| record.id() == id)).take(most).map(Explanation::from).collect()
    }
}

impl Held {
    /// A place for one more, as there are not as many as are kept.
    #[cold]
    fn add(&mut self, keep: usize) -> usize {
        self.keep(keep - 1);
        let more = self.kept.len().clamp(1, keep - self.kept.len());
        if self.kept.len() == self.kept.capacity() {
            self.kept.reserve_exact(more);
        }
        self.kept.push(Record::default());
        self.kept.len() - 1
    }

    /// Leaves so many of the newest, and puts the oldest of them first.
    fn keep(&mut self, most: usize) {
        self.kept.rotate_left(self.oldest);
        self.oldest = 0;
        let over = self.kept.len().saturating_sub(most);
        self.kept.drain(..over);
    }
}
