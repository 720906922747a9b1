//! How long the callbacks of a filter take.

use std::cell::{Cell, OnceCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use crate::telemetry::cell::Histogram;
use crate::telemetry::labels::{Callback, NameId};
use crate::telemetry::metrics::Metrics;

/// One callback in so many is measured: an exchange has eight or more in each filter, and two looks at the clock for each would
/// be much beside what a small filter does in them. A prime, so that it is not always the same one of an exchange.
const EVERY: u8 = 17;

/// Measures some of the callbacks of one filter in one worker.
#[derive(Debug)]
pub(super) struct Meter {
    metrics: Rc<Metrics>,
    filter: NameId,
    /// How many are not measured until the next one that is.
    idle: Cell<u8>,
    /// Only of the callbacks that there were, so that no filter shows rows of zeros.
    cells: [OnceCell<Arc<Histogram>>; Callback::ALL.len()],
}

impl Meter {
    pub(super) fn new(metrics: &Rc<Metrics>, filter: &str) -> Self {
        let filter = metrics.name(filter);
        Meter { metrics: Rc::clone(metrics), filter, idle: Cell::new(0), cells: Default::default() }
    }

    /// Makes a callback, and measures it when it is its turn.
    #[inline]
    pub(super) fn measure<T>(&self, callback: Callback, call: impl FnOnce() -> T) -> T {
        if let Some(idle) = self.idle.get().checked_sub(1) {
            self.idle.set(idle);
            return call();
        }
        self.idle.set(EVERY - 1);
        let begin = Instant::now();
        let called = call();
        let cell = self.cells[callback as usize].get_or_init(|| self.metrics.filter_callback(self.filter, callback));
        cell.observe_duration(begin.elapsed());
        called
    }

    /// The times of the callbacks of which one was measured.
    pub(super) fn read(&self) -> Vec<(Callback, Arc<Histogram>)> {
        let all = Callback::ALL.iter().zip(&self.cells);
        all.filter_map(|(callback, cell)| Some((*callback, Arc::clone(cell.get()?)))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Registry;

    #[test]
    fn one_in_so_many_is_measured_beginning_with_the_first() {
        let meter = Meter::new(&Rc::new(Registry::default().metrics()), "mine");
        assert!(meter.read().is_empty());
        for call in 0..3 * EVERY {
            let callback = if call % EVERY == 0 { Callback::Log } else { Callback::Context };
            assert_eq!(meter.measure(callback, || call), call);
        }
        let [(Callback::Log, times)] = &meter.read()[..] else { panic!("{:?}", meter.read()) };
        assert_eq!(times.buckets().sum::<u64>(), 3);
    }
}
