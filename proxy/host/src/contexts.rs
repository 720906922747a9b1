//! The contexts of one VM: the embedder finds them by a handle, in one step; a guest by the number that it knows.

use std::rc::Rc;

use foldhash::HashMap;
use slab::Slab;

use crate::state::Context;
use crate::vm::ContextId;

#[derive(Default)]
pub(crate) struct Contexts {
    slots: Slab<Rc<Context>>,
    /// Where each is, by its number.
    numbers: HashMap<u32, u32>,
    last: u32,
    /// All numbers have been given once.
    around: bool,
}

impl Contexts {
    /// Puts in what `make` makes of a fresh number: never 0 and never one that is in use, for SDKs panic on both. None if
    /// there are as many contexts as numbers.
    pub(crate) fn insert(&mut self, make: impl FnOnce(ContextId) -> Context) -> Option<Rc<Context>> {
        let entry = self.slots.vacant_entry();
        let slot = u32::try_from(entry.key()).ok()?;
        loop {
            self.last = self.last.wrapping_add(1);
            self.around |= self.last == 0;
            if self.last != 0 && !(self.around && self.numbers.contains_key(&self.last)) {
                break;
            }
        }
        self.numbers.insert(self.last, slot);
        Some(Rc::clone(entry.insert(Rc::new(make(ContextId { number: self.last, slot })))))
    }

    /// The one of a handle.
    #[inline]
    pub(crate) fn at(&self, id: ContextId) -> Option<&Rc<Context>> {
        self.slots.get(id.slot as usize).filter(|context| context.id == id.number)
    }

    /// The one of a number.
    pub(crate) fn get(&self, number: u32) -> Option<&Rc<Context>> {
        self.slots.get(*self.numbers.get(&number)? as usize)
    }

    pub(crate) fn remove(&mut self, number: u32) {
        if let Some(slot) = self.numbers.remove(&number) {
            self.slots.try_remove(slot as usize);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.slots.clear();
        self.numbers.clear();
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Rc<Context>> {
        self.slots.iter().map(|(_, context)| context)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::state::Kind;

    fn root(id: ContextId) -> Context {
        let kind = Kind::Root { ending: Cell::new(false), status: Cell::new(0) };
        Context { id: id.number, root: id.number, plugin: Rc::default(), kind }
    }

    #[test]
    fn a_handle_outlives_its_context_and_finds_no_other() {
        let mut contexts = Contexts::default();
        let mut handles = Vec::new();
        for _ in 0..2 {
            contexts.insert(|id| {
                handles.push(id);
                root(id)
            });
            contexts.remove(handles[handles.len() - 1].number);
        }
        let third = contexts.insert(root).unwrap().id;
        assert_eq!((handles[0].slot, handles[1].slot, third), (0, 0, 3), "one slot, ever new numbers");
        assert!(handles.iter().all(|id| contexts.at(*id).is_none() && contexts.get(id.number).is_none()));
        assert!(contexts.at(ContextId { number: 3, slot: 0 }).is_some() && contexts.get(3).is_some());
        contexts.clear();
        assert_eq!((contexts.len(), contexts.get(3).is_some()), (0, false));
    }

    #[test]
    fn numbers_begin_anew_and_pass_by_0_and_those_in_use() {
        let mut contexts = Contexts::default();
        contexts.insert(root);
        contexts.last = u32::MAX - 1;
        let numbers: Vec<u32> = (0..2).map(|_| contexts.insert(root).unwrap().id).collect();
        assert_eq!(numbers, [u32::MAX, 2]);
    }
}
