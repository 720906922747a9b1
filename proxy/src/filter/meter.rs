//! How long the callbacks of a filter take, and how long it has a request.

use std::cell::{Cell, OnceCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::telemetry::cell::{FILTER_SECONDS, Histogram, Sample};
use crate::telemetry::labels::{Callback, NameId};
use crate::telemetry::metrics::Metrics;

/// One callback in so many is measured, and one request: an exchange has eight or more callbacks in each filter, and two looks at
/// the clock for each would be much beside what a small filter does in them, and so is to enter them one by one for it. A prime,
/// so that it is not always the same callback of an exchange.
const EVERY: u8 = 61;

thread_local! {
    static JOINED: Cell<u8> = const { Cell::new(EVERY - 1) };
}

/// Whether the callbacks of one more exchange are to be entered one by one where they could be together, and measured:
/// those of one in so many are.
pub(super) fn apart() -> bool {
    let left = JOINED.get().checked_sub(1);
    JOINED.set(left.unwrap_or(EVERY - 1));
    left.is_none()
}

/// Measures some of the callbacks and of the requests of one filter in one worker.
#[derive(Debug)]
pub(super) struct Meter {
    metrics: Rc<Metrics>,
    filter: NameId,
    /// How many are not measured until the next one that is.
    idle: Cell<u8>,
    /// As `idle`, for requests; and how long the last that was measured took.
    skip: Cell<u8>,
    took: Cell<Sample>,
    /// Only of the callbacks that there were, so that no filter shows rows of zeros.
    cells: [OnceCell<Arc<Histogram>>; Callback::ALL.len()],
}

impl Meter {
    pub(super) fn new(metrics: &Rc<Metrics>, filter: &str) -> Self {
        let filter = metrics.name(filter);
        Meter {
            metrics: Rc::clone(metrics),
            filter,
            idle: Cell::new(0),
            skip: Cell::new(0),
            took: Cell::default(),
            cells: Default::default(),
        }
    }

    /// Makes a callback, and measures it when it is its turn.
    #[inline]
    pub(super) fn measure<T>(&self, callback: Callback, call: impl FnOnce() -> T) -> T {
        let idle = self.idle.get().checked_sub(1);
        self.idle.set(idle.unwrap_or(EVERY - 1));
        let begin = if idle.is_none() { Some(Instant::now()) } else { None };
        let called = call();
        if let Some(begin) = begin {
            self.observe(callback, begin);
        }
        called
    }

    #[cold]
    fn observe(&self, callback: Callback, begin: Instant) {
        let cell = self.cells[callback as usize].get_or_init(|| self.metrics.filter_callback(self.filter, callback));
        cell.observe_duration(begin.elapsed());
    }

    /// Passes over so many callbacks if none of them is to be measured.
    #[inline]
    pub(super) fn pass(&self, callbacks: u8) -> bool {
        let left = self.idle.get().checked_sub(callbacks);
        left.map(|idle| self.idle.set(idle)).is_some()
    }

    /// Whether the next callback is measured.
    pub(super) fn is_due(&self) -> bool {
        self.idle.get() == 0
    }

    /// Has the next callback measured.
    pub(super) fn wind(&self) {
        self.idle.set(0);
    }

    /// The filter begins with a request: when that is, if it is one to measure, as all are that somebody `asked` for.
    #[inline]
    pub(super) fn begin(&self, asked: bool) -> Option<Instant> {
        match self.skip.get().checked_sub(1) {
            Some(skip) => {
                self.skip.set(skip);
                asked.then(Instant::now)
            }
            None => {
                self.skip.set(EVERY - 1);
                Some(Instant::now())
            }
        }
    }

    /// Whether the next request that it begins with is one to measure, though nobody has asked for it.
    #[inline]
    pub(super) fn begins_measured(&self) -> bool {
        self.skip.get() == 0
    }

    /// How long it had a request that it lets go now, if that was measured, and what it counts as: one that was not measured went on at once, and counts for as long as the
    /// last such that was.
    #[inline]
    pub(super) fn took(&self, since: Option<Instant>, waited: bool) -> (Option<Duration>, Sample) {
        let Some(since) = since else { return (None, self.took.get()) };
        let took = since.elapsed();
        let sample = FILTER_SECONDS.sample_duration(took);
        if !waited {
            self.took.set(sample);
        }
        (Some(took), sample)
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

    #[test]
    fn several_are_passed_over_where_none_is_to_be_measured() {
        let meter = Meter::new(&Rc::new(Registry::default().metrics()), "mine");
        assert!(!meter.pass(1), "the first is");
        meter.measure(Callback::Context, || {});
        assert!((0..(EVERY - 1) / 2).all(|_| meter.pass(2)));
        assert!(!meter.pass(1));
        meter.measure(Callback::Context, || {});
        meter.wind();
        meter.measure(Callback::Log, || {});
        assert!(meter.read().iter().any(|(callback, _)| *callback == Callback::Log));
        let apart = (0..2 * EVERY).filter(|_| super::apart()).count();
        assert_eq!(apart, 2);
    }

    #[test]
    fn a_request_that_is_not_measured_counts_for_the_last_that_was() {
        let meter = Meter::new(&Rc::new(Registry::default().metrics()), "mine");
        let measured = (0..2 * EVERY).map(|_| meter.begin(false).is_some());
        assert!(measured.eq((0..2 * EVERY).map(|request| request % EVERY == 0)));
        assert!((0..2).all(|_| meter.begin(true).is_some()), "one that was asked for");
        let nothing = (None, FILTER_SECONDS.sample(0));
        assert_eq!(meter.took(None, false), nothing);
        let past = Instant::now().checked_sub(Duration::from_secs(3)).unwrap();
        assert!(meter.took(Some(past), true).0 >= Some(Duration::from_secs(3)));
        assert_eq!(meter.took(None, false), nothing, "to wait is not how others went on");
        let (took, sample) = meter.took(Some(past), false);
        assert_eq!(took.map(|took| FILTER_SECONDS.sample_duration(took)), Some(sample));
        assert_eq!(meter.took(None, false), (None, sample));
    }
}
