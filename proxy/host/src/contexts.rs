//! The contexts of one VM, each found in one step by the number by which guest and embedder know it.

use std::rc::Rc;

use crate::state::{Context, Exchange, Kind};
use crate::vm::ContextId;

/// Places of a VM that has its first context. It has more when half of them are taken.
const PLACES: usize = 16;

/// Contexts that have ended and are kept to be used again: those of some dozens of exchanges that end together, of a chain
/// of filters in one VM. They are some 30 KiB, and are there only after such a moment.
const SPARE: usize = 256;

/// Each has the place that the low bits of its number say. Numbers are given in their order, so two that are alive hardly
/// ever want the same place; where that happens, a number is passed by.
#[derive(Default)]
pub(crate) struct Contexts {
    /// None, or a power of two.
    places: Vec<Option<Rc<Context>>>,
    alive: usize,
    last: u32,
    spare: Vec<Rc<Context>>,
}

impl Contexts {
    /// Puts in what `make` makes of a fresh number: never 0 and never one that is in use, for SDKs panic on both. None if
    /// there are as many contexts as there can be.
    #[inline]
    pub(crate) fn insert(&mut self, make: impl FnOnce(ContextId) -> Context) -> Option<&Rc<Context>> {
        if self.alive * 2 >= self.places.len() {
            self.grow()?;
        }
        let place = loop {
            self.last = self.last.wrapping_add(1);
            let place = self.place(self.last);
            if self.last != 0 && self.places[place].is_none() {
                break place;
            }
        };
        let new = make(ContextId(self.last));
        let context = match self.spare.pop() {
            Some(mut old) => {
                match Rc::get_mut(&mut old) {
                    Some(room) => *room = new,
                    None => old = Rc::new(new),
                }
                old
            }
            None => Rc::new(new),
        };
        self.alive += 1;
        Some(self.places[place].insert(context))
    }

    /// The one of a number.
    #[inline]
    pub(crate) fn get(&self, number: u32) -> Option<&Rc<Context>> {
        self.places.get(self.place(number))?.as_ref().filter(|context| context.id == number)
    }

    /// The exchange of a number.
    #[inline]
    pub(crate) fn exchange(&self, number: u32) -> Option<&Exchange> {
        self.get(number)?.exchange()
    }

    /// Takes one out, of which the caller is to be the only other holder.
    pub(crate) fn remove(&mut self, context: Rc<Context>) {
        let number = context.id;
        if self.get(number).is_some_and(|own| Rc::ptr_eq(own, &context)) {
            drop(context);
            self.end(number);
        }
    }

    /// Takes the one of a number out, which nobody else is to hold. Whether there was one.
    pub(crate) fn end(&mut self, number: u32) -> bool {
        let place = self.place(number);
        let own = self.places.get_mut(place).and_then(|own| own.take_if(|context| context.id == number));
        let Some(mut context) = own else { return false };
        self.alive -= 1;
        if self.spare.len() < SPARE
            && let Some(room) = Rc::get_mut(&mut context)
        {
            // What it held goes now.
            room.kind = Kind::Over;
            self.spare.push(context);
        }
        true
    }

    /// Takes one out that nobody was told of: if it is the newest, its number is given once more.
    pub(crate) fn take_back(&mut self, number: u32) {
        if self.end(number) && self.last == number {
            self.last = number.wrapping_sub(1);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.places.clear();
        self.alive = 0;
    }

    pub(crate) fn len(&self) -> usize {
        self.alive
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Rc<Context>> {
        self.places.iter().flatten()
    }

    #[inline]
    fn place(&self, number: u32) -> usize {
        number as usize & self.places.len().wrapping_sub(1)
    }

    /// Twice as many places. Numbers that have had different ones have different ones then, too.
    #[cold]
    fn grow(&mut self) -> Option<()> {
        let places = (self.places.len() * 2).max(PLACES);
        // Half of the numbers can be in use at most.
        u32::try_from(places).ok()?;
        let old = std::mem::replace(&mut self.places, std::iter::repeat_with(|| None).take(places).collect());
        for context in old.into_iter().flatten() {
            let place = self.place(context.id);
            self.places[place] = Some(context);
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn root(id: ContextId) -> Context {
        let kind = Kind::Root { ending: Cell::new(false), status: Cell::new(0) };
        Context { id: id.0, root: id.0, plugin: Rc::default(), kind }
    }

    #[test]
    fn a_number_outlives_its_context_and_finds_no_other() {
        let mut contexts = Contexts::default();
        assert!(contexts.get(0).is_none() && contexts.get(1).is_none(), "none at all");
        for number in 1..=PLACES as u32 * 3 {
            let context = Rc::clone(contexts.insert(root).unwrap());
            assert_eq!((context.id, contexts.len()), (number, 1), "ever new numbers");
            contexts.remove(context);
            assert!((0..=number + 1).all(|number| contexts.get(number).is_none()));
        }
        assert_eq!(contexts.places.len(), PLACES);
        let last = contexts.insert(root).unwrap().id;
        assert!(contexts.get(last).is_some() && contexts.get(last - PLACES as u32).is_none());
        contexts.clear();
        assert_eq!((contexts.len(), contexts.get(last).is_some()), (0, false));
    }

    #[test]
    fn many_are_found_and_numbers_in_use_are_passed_by() {
        let mut contexts = Contexts::default();
        let numbers: Vec<u32> = (0..1000).map(|_| contexts.insert(root).unwrap().id).collect();
        assert!(numbers.iter().all(|number| contexts.get(*number).is_some_and(|context| context.id == *number)));
        assert_eq!((contexts.len(), contexts.iter().count()), (1000, 1000));
        for number in &numbers[1..] {
            let context = contexts.get(*number).cloned().unwrap();
            contexts.remove(context);
        }
        // The first is still there, and numbers begin anew.
        contexts.last = u32::MAX - 1;
        let numbers: Vec<u32> = (0..2).map(|_| contexts.insert(root).unwrap().id).collect();
        assert_eq!(numbers, [u32::MAX, 2], "not 0, and not the first's");
    }

    #[test]
    fn an_ended_context_holds_nothing_and_is_used_again() {
        let mut contexts = Contexts::default();
        let plugin = Rc::default();
        for _ in 0..3 {
            let kind = Kind::Root { ending: Cell::new(true), status: Cell::new(7) };
            let make = |id: ContextId| Context { id: id.0, root: id.0, plugin: Rc::clone(&plugin), kind };
            let context = Rc::clone(contexts.insert(make).unwrap());
            assert!(matches!(&context.kind, Kind::Root { ending, .. } if ending.get()));
            let held = Rc::clone(&context);
            contexts.remove(context);
            assert!(contexts.spare.is_empty(), "somebody holds it");
            drop(held);
            let context = Rc::clone(contexts.insert(root).unwrap());
            contexts.remove(context);
            assert!(matches!(contexts.spare[..], [ref one] if matches!(one.kind, Kind::Over)));
            contexts.spare.truncate(0);
        }
        let all: Vec<_> = (0..2 * SPARE).map(|_| Rc::clone(contexts.insert(root).unwrap())).collect();
        all.into_iter().for_each(|context| contexts.remove(context));
        assert_eq!(contexts.spare.len(), SPARE);
    }
}
