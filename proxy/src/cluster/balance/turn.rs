//! Whose turn it is: in sequence, or as often as its weight says and as evenly as can be.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// What the shortest time between two turns of an endpoint is counted in: enough for every weight to have a time of its
/// own, and few enough for times not to end.
const SCALE: u64 = 1 << 40;

/// Times are counted from the beginning again when they are larger.
const LATE: u64 = 1 << 62;

/// The turns of some endpoints, by their places.
#[derive(Debug)]
pub(super) enum Turns {
    /// One after the other.
    Even(Cell<usize>, usize),
    /// Earliest deadline first, as Envoy does it: each turn costs the logarithm of their number.
    Weighted(RefCell<BinaryHeap<Reverse<(u64, u32)>>>, Box<[u64]>),
}

impl Turns {
    /// For so many of equal weight. The first turn is anybody's: else all who begin would begin with the same one.
    pub(super) fn even(count: usize, chance: &mut fastrand::Rng) -> Self {
        Turns::Even(Cell::new(if count == 0 { 0 } else { chance.usize(..count) }), count)
    }

    /// For these weights, none of which is zero.
    pub(super) fn weighted(weights: impl Iterator<Item = u64>, chance: &mut fastrand::Rng) -> Self {
        let steps: Box<[u64]> = weights.map(|weight| (SCALE / weight.max(1)).max(1)).collect();
        let first = |(i, step): (usize, &u64)| Reverse((chance.u64(..*step), i as u32));
        let queue = steps.iter().enumerate().map(first).collect();
        Turns::Weighted(RefCell::new(queue), steps)
    }

    /// The place of the next one.
    pub(super) fn next(&self) -> Option<usize> {
        match self {
            Turns::Even(turn, count) => {
                let at = turn.get();
                turn.set(if at + 1 < *count { at + 1 } else { 0 });
                (at < *count).then_some(at)
            }
            Turns::Weighted(queue, steps) => {
                let mut queue = queue.borrow_mut();
                // Changed in its place: a heap that is popped and pushed moves its elements twice.
                let mut first = queue.peek_mut()?;
                let Reverse((time, at)) = *first;
                *first = Reverse((time.saturating_add(*steps.get(at as usize)?), at));
                drop(first);
                if time >= LATE {
                    let all = std::mem::take(&mut *queue).into_vec();
                    *queue = all.into_iter().map(|Reverse((own, at))| Reverse((own - time, at))).collect();
                }
                Some(at as usize)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_weights_and_smooth() {
        let mut chance = fastrand::Rng::with_seed(3);
        let turns = Turns::weighted([1, 5, 1].into_iter(), &mut chance);
        let taken: Vec<usize> = (0..700).filter_map(|_| turns.next()).collect();
        let count = |i| taken.iter().filter(|at| **at == i).count();
        for (i, wanted) in [(0, 100), (1, 500), (2, 100)] {
            assert!(count(i).abs_diff(wanted) <= 1, "{i}: {}", count(i));
        }
        // The heavy one never has more than its share of any seven.
        assert!(taken.windows(7).all(|seven| (4..=6).contains(&seven.iter().filter(|at| **at == 1).count())));
        let even = Turns::even(3, &mut chance);
        let taken: Vec<_> = (0..6).filter_map(|_| even.next()).collect();
        assert!((0..3).all(|i| taken.iter().filter(|at| **at == i).count() == 2));
        assert_eq!(
            (Turns::even(0, &mut chance).next(), Turns::weighted([].into_iter(), &mut chance).next()),
            (None, None)
        );
    }

    #[test]
    fn times_do_not_end() {
        let mut chance = fastrand::Rng::with_seed(3);
        let turns = Turns::weighted([1, 2].into_iter(), &mut chance);
        let Turns::Weighted(queue, _) = &turns else { panic!("weighted") };
        let late = queue.take().into_iter().map(|Reverse((time, at))| Reverse((time + LATE, at))).collect();
        queue.replace(late);
        let taken: Vec<_> = (0..300).filter_map(|_| turns.next()).collect();
        assert!(taken.iter().filter(|at| **at == 1).count().abs_diff(200) <= 1);
        assert!(queue.borrow().iter().all(|Reverse((time, _))| *time < LATE));
    }
}
