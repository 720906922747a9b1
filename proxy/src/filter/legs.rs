//! The filters that one exchange passes: those of its listener, then those of where it goes.

use std::cell::OnceCell;
use std::ops::Index;
use std::rc::Rc;

use super::wasm::Filter;

/// The filters of an exchange, numbered in the order in which its request passes them.
#[derive(Clone)]
pub(super) struct Legs {
    /// Those of where it came in.
    pub(super) listener: Rc<[Rc<Filter>]>,
    /// Those of where it goes, once that is known.
    pub(super) onward: OnceCell<[Rc<[Rc<Filter>]>; 2]>,
}

impl Legs {
    /// Those of the listener, so far.
    pub(super) fn new(listener: &Rc<[Rc<Filter>]>) -> Self {
        Legs { listener: Rc::clone(listener), onward: OnceCell::new() }
    }

    /// Whether there is one of this kind.
    pub(super) fn any(&self, is: impl Fn(&Filter) -> bool) -> bool {
        let has = |chain: &[Rc<Filter>]| chain.iter().any(|filter| is(filter));
        has(&self.listener) || self.onward.get().is_some_and(|chains| chains.iter().any(|chain| has(chain)))
    }

    /// The one of a number, if there are so many.
    pub(super) fn get(&self, number: usize) -> Option<&Filter> {
        if let Some(filter) = self.listener.get(number) {
            return Some(filter);
        }
        let [first, second] = self.onward.get()?;
        let number = number - self.listener.len();
        first.get(number).or_else(|| second.get(number - first.len())).map(|filter| &**filter)
    }
}

impl Index<usize> for Legs {
    type Output = Filter;

    fn index(&self, number: usize) -> &Filter {
        match (self.listener.get(number), self.onward.get()) {
            (None, Some([first, second])) => {
                let number = number - self.listener.len();
                first.get(number).unwrap_or_else(|| &second[number - first.len()])
            }
            _ => &self.listener[number],
        }
    }
}
