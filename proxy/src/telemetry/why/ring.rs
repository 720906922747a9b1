//! The last records of one worker.

use std::cell::RefCell;

use super::{Asked, Record};

/// Records that wait to be used again, beyond those that are kept: as many as requests that end together and begin again.
const MAX_SPARE: usize = 64;

/// The last records of one worker, and those that fell out of them, which the next requests use.
#[derive(Debug, Default)]
pub struct Ring(RefCell<Held>);

/// Boxes, as records move between here and the requests that write them.
#[derive(Debug, Default)]
struct Held {
    #[expect(clippy::vec_box, reason = "a record must not move when it falls out")]
    kept: Vec<Box<Record>>,
    /// Where the oldest of them is, once there are as many as are kept.
    oldest: usize,
    #[expect(clippy::vec_box, reason = "the same boxes")]
    spare: Vec<Box<Record>>,
}

impl Ring {
    /// Begins a record. It is of use when it is [put](Ring::push) to the others at the end.
    pub fn begin(&self, asked: &Asked<'_>) -> Box<Record> {
        match self.0.borrow_mut().spare.pop() {
            Some(mut record) => {
                record.begin(asked);
                record
            }
            None => Box::new(Record::new(asked)),
        }
    }

    /// Takes a record, in the place of the oldest if there are as many as are kept.
    #[inline]
    pub fn push(&self, record: Box<Record>) {
        let held = &mut *self.0.borrow_mut();
        let keep = record.keep.max(1);
        if held.kept.len() != keep {
            return held.add(record, keep);
        }
        if let Some(place) = held.kept.get_mut(held.oldest) {
            let fell = std::mem::replace(place, record);
            held.oldest = if held.oldest + 1 == keep { 0 } else { held.oldest + 1 };
            if held.spare.len() < MAX_SPARE {
                held.spare.push(fell);
            }
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
    pub fn find(&self, id: Option<&str>, most: usize) -> Vec<Record> {
        let held = self.0.borrow();
        let (newer, older) = held.kept.split_at(held.oldest);
        let newest_first = newer.iter().rev().chain(older.iter().rev()).map(|record| &**record);
        newest_first.filter(|record| id.is_none_or(|id| record.id() == id)).take(most).cloned().collect()
    }
}

impl Held {
    /// As there are not as many as are kept.
    #[cold]
    fn add(&mut self, record: Box<Record>, keep: usize) {
        self.keep(keep - 1);
        self.kept.push(record);
    }

    /// Leaves so many of the newest, and puts the oldest of them first.
    fn keep(&mut self, most: usize) {
        self.kept.rotate_left(self.oldest);
        self.oldest = 0;
        let over = self.kept.len().saturating_sub(most);
        self.kept.drain(..over);
    }
}
