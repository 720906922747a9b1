//! The contexts of one VM, each found in one step by the number by which guest and embedder know it.

use crate::state::{Context, Exchange};
use crate::vm::ContextId;

/// Places of a VM that has its first context. It has more when half of them are taken.
const PLACES: usize = 16;

/// Each has the place that the low bits of its number say. Numbers are given in their order, so two that are alive hardly
/// ever want the same place; where that happens, a number is passed by. Those of a chain of filters are next to each other.
#[derive(Default)]
pub(crate) struct Contexts {
    /// None, or a power of two.
    places: Vec<Option<Context>>,
    alive: usize,
    /// Most that were alive at once since the first place was taken last.
    most: usize,
    last: u32,
}

impl Contexts {
    /// Puts in what `make` makes of a fresh number: never 0 and never one that is in use, for SDKs panic on both. None if
    /// there are as many contexts as there can be.
    #[inline]
    pub(crate) fn insert(&mut self, make: impl FnOnce(ContextId) -> Context) -> Option<ContextId> {
        if self.alive * 2 >= self.places.len() {
            self.grow()?;
        }
        loop {
            self.last = self.last.wrapping_add(1);
            let number = self.last;
            let place = self.place(number);
            if number != 0
                && let Some(free @ None) = self.places.get_mut(place)
            {
                self.alive += 1;
                self.most = self.most.max(self.alive);
                *free = Some(make(ContextId(number)));
                return Some(ContextId(number));
            }
        }
    }

    /// The one of a number.
    #[inline]
    pub(crate) fn get(&self, number: u32) -> Option<&Context> {
        self.places.get(self.place(number))?.as_ref().filter(|context| context.id == number)
    }

    /// The exchange of a number.
    #[inline]
    pub(crate) fn exchange(&self, number: u32) -> Option<&Exchange> {
        self.get(number)?.exchange()
    }

    /// Takes the one of a number out. Whether there was one.
    #[inline]
    pub(crate) fn end(&mut self, number: u32) -> bool {
        let place = self.place(number);
        let own = self.places.get_mut(place).filter(|own| own.as_ref().is_some_and(|context| context.id == number));
        let Some(own) = own else { return false };
        *own = None;
        self.alive -= 1;
        if place == 0 {
            self.round();
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

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Context> {
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

    /// All places have had their turn once more. Where few of them were needed at any time of it, and no two contexts want the
    /// same one of half as many, so many they become: what many exchanges took at once is given back.
    #[cold]
    fn round(&mut self) {
        let most = std::mem::replace(&mut self.most, self.alive);
        if self.places.len() <= PLACES || most * 8 > self.places.len() {
            return;
        }
        let half = self.places.len() / 2;
        let (low, high) = self.places.split_at_mut(half);
        if low.iter().zip(&*high).any(|(low, high)| low.is_some() && high.is_some()) {
            return;
        }
        for (low, high) in low.iter_mut().zip(high) {
            *low = low.take().or(high.take());
        }
        self.places.truncate(half);
        self.places.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;
    use crate::state::Kind;

    fn root(id: ContextId) -> Context {
        let kind = Kind::Root { ending: Cell::new(false), status: Cell::new(0) };
        Context { id: id.0, root: id.0, plugin: Rc::default(), kind }
    }

    #[test]
    fn a_number_outlives_its_context_and_finds_no_other() {
        let mut contexts = Contexts::default();
        assert!(contexts.get(0).is_none() && contexts.get(1).is_none(), "none at all");
        for number in 1..=PLACES as u32 * 3 {
            assert_eq!(contexts.insert(root), Some(ContextId(number)), "ever new numbers");
            assert_eq!((contexts.get(number).unwrap().id, contexts.len()), (number, 1));
            assert!(contexts.end(number) && !contexts.end(number));
            assert!((0..=number + 1).all(|number| contexts.get(number).is_none()));
        }
        assert_eq!(contexts.places.len(), PLACES);
        let ContextId(last) = contexts.insert(root).unwrap();
        assert!(contexts.get(last).is_some() && contexts.get(last - PLACES as u32).is_none());
        contexts.clear();
        assert_eq!((contexts.len(), contexts.get(last).is_some()), (0, false));
    }

    #[test]
    fn many_are_found_and_numbers_in_use_are_passed_by() {
        let mut contexts = Contexts::default();
        let numbers: Vec<u32> = (0..1000).map(|_| contexts.insert(root).unwrap().0).collect();
        assert!(numbers.iter().all(|number| contexts.get(*number).is_some_and(|context| context.id == *number)));
        assert_eq!((contexts.len(), contexts.iter().count()), (1000, 1000));
        for number in &numbers[1..] {
            contexts.end(*number);
        }
        // The first is still there, and numbers begin anew.
        contexts.last = u32::MAX - 1;
        let numbers: Vec<u32> = (0..2).map(|_| contexts.insert(root).unwrap().0).collect();
        assert_eq!(numbers, [u32::MAX, 2], "not 0, and not the first's");
    }

    #[test]
    fn places_that_many_took_are_given_back_and_those_who_stay_are_found() {
        let mut contexts = Contexts::default();
        let plugin = Rc::new(Default::default());
        let make = |id: ContextId| Context { plugin: Rc::clone(&plugin), ..root(id) };
        let numbers: Vec<u32> = (0..1000).map(|_| contexts.insert(make).unwrap().0).collect();
        let places = contexts.places.len();
        for number in &numbers[1..999] {
            contexts.end(*number);
        }
        assert_eq!(Rc::strong_count(&plugin), 3, "what has ended holds nothing");
        for _ in 0..20 * places {
            let ContextId(number) = contexts.insert(root).unwrap();
            contexts.end(number);
        }
        assert!(contexts.places.len() <= 4 * PLACES, "{}", contexts.places.len());
        assert!([1, 1000].into_iter().all(|number| contexts.get(number).is_some_and(|own| own.id == number)));
        // 1 and 17 want one place of 16.
        let mut contexts = Contexts::default();
        (0..40).for_each(|_| _ = contexts.insert(root));
        (2..=40).filter(|number| *number != 17).for_each(|number| _ = contexts.end(number));
        for _ in 0..4 {
            contexts.round();
        }
        assert!(contexts.places.len() == 2 * PLACES && contexts.get(1).is_some() && contexts.get(17).is_some());
    }
}
