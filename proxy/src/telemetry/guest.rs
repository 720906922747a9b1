//! Metrics that filters define for themselves (Proxy-Wasm `proxy_define_metric` and its kin, with Envoy's answers).

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use foldhash::{HashMap, HashMapExt as _};

use super::cell::{Counter, GUEST_VALUES, Gauge, Histogram};
use super::family::Kind;

/// Most metrics that all filters of one worker define together. Filters written for Envoy put label values into
/// names, so this is as many as [`super::family::MAX_SERIES`]; a histogram takes about 300 bytes.
pub const MAX_GUEST_METRICS: usize = 4096;

/// Longest name of a metric in bytes; it is kept and shown at each scrape. Istio's 25 labels are part of it, with values
/// of up to 128 bytes.
pub const MAX_GUEST_NAME_BYTES: usize = 4096;

/// Why an operation on a guest's metric did nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuestMetricError {
    /// No metric has this id (Proxy-Wasm status 1).
    #[error("no metric has this id")]
    NotFound,
    /// The metric cannot do this (Proxy-Wasm status 2).
    #[error("a metric of this type cannot do this, or the name is too long")]
    BadArgument,
    /// There are [`MAX_GUEST_METRICS`] already.
    #[error("the filters of this worker have defined 4096 metrics already")]
    TooMany,
}

/// The metrics of one filter's guest. Ids belong to this handle; a new handle for the same filter (a new machine after a
/// trap, a new generation) finds the same values again by defining the same names.
#[derive(Debug)]
pub struct GuestMetrics {
    filter: Arc<str>,
    guests: Rc<Guests>,
    defined: RefCell<Vec<GuestCell>>,
    ids: RefCell<HashMap<(Kind, Box<str>), u32>>,
}

impl GuestMetrics {
    pub(super) fn new(filter: &str, guests: Rc<Guests>) -> Self {
        GuestMetrics { filter: filter.into(), guests, defined: RefCell::default(), ids: RefCell::new(HashMap::new()) }
    }

    /// The id of a metric, never 0; the same for the same kind and name. The same name with another kind is another
    /// metric.
    ///
    /// # Errors
    /// [`GuestMetricError::BadArgument`] if the name is too long, [`GuestMetricError::TooMany`].
    pub fn define(&self, kind: Kind, name: &str) -> Result<u32, GuestMetricError> {
        if name.len() > MAX_GUEST_NAME_BYTES {
            return Err(GuestMetricError::BadArgument);
        }
        let key = (kind, name.into());
        if let Some(&id) = self.ids.borrow().get(&key) {
            return Ok(id);
        }
        let cell = self.guests.cell(&self.filter, kind, name)?;
        let mut defined = self.defined.borrow_mut();
        defined.push(cell);
        let id = u32::try_from(defined.len()).map_err(|_| GuestMetricError::TooMany)?;
        self.ids.borrow_mut().insert(key, id);
        Ok(id)
    }

    /// The id of a metric that it has defined, as [`define`](GuestMetrics::define) gives it.
    pub fn known(&self, kind: Kind, name: &str) -> Option<u32> {
        self.ids.borrow().get(&(kind, name.into())).copied()
    }

    /// How many it has defined.
    pub fn count(&self) -> usize {
        self.defined.borrow().len()
    }

    /// Adds to a counter or gauge.
    ///
    /// # Errors
    /// [`GuestMetricError::BadArgument`] for a negative step of a counter, a histogram, and an unknown id.
    pub fn increment(&self, id: u32, step: i64) -> Result<(), GuestMetricError> {
        match self.defined.borrow().get(index(id)).ok_or(GuestMetricError::BadArgument)? {
            GuestCell::Counter(counter) => {
                counter.add(u64::try_from(step).map_err(|_| GuestMetricError::BadArgument)?);
            }
            GuestCell::Gauge(gauge) => gauge.add(step.cast_unsigned()),
            GuestCell::Histogram(_) => return Err(GuestMetricError::BadArgument),
        }
        Ok(())
    }

    /// Adds to a counter, sets a gauge, counts in a histogram.
    ///
    /// # Errors
    /// [`GuestMetricError::NotFound`] for an unknown id.
    pub fn record(&self, id: u32, value: u64) -> Result<(), GuestMetricError> {
        match self.defined.borrow().get(index(id)).ok_or(GuestMetricError::NotFound)? {
            GuestCell::Counter(counter) => counter.add(value),
            GuestCell::Gauge(gauge) => gauge.set(value),
            GuestCell::Histogram(histogram) => histogram.observe(value),
        }
        Ok(())
    }

    /// The value of a counter or gauge as this worker has written it.
    ///
    /// # Errors
    /// [`GuestMetricError::BadArgument`] for a histogram and an unknown id.
    pub fn value(&self, id: u32) -> Result<u64, GuestMetricError> {
        match self.defined.borrow().get(index(id)).ok_or(GuestMetricError::BadArgument)? {
            GuestCell::Counter(counter) => Ok(counter.read()),
            GuestCell::Gauge(gauge) => Ok(gauge.read()),
            GuestCell::Histogram(_) => Err(GuestMetricError::BadArgument),
        }
    }
}

/// What all guests of one worker have defined.
#[derive(Debug)]
pub(super) struct Guests {
    cells: RefCell<HashMap<GuestKey, GuestCell>>,
    shared: Arc<GuestShared>,
}

impl Guests {
    /// The scrape's side.
    pub(super) fn shared(&self) -> Arc<GuestShared> {
        self.shared.clone()
    }

    fn cell(&self, filter: &Arc<str>, kind: Kind, name: &str) -> Result<GuestCell, GuestMetricError> {
        let name: Arc<str> = name.into();
        let key = (kind, filter.clone(), name.clone());
        let mut cells = self.cells.borrow_mut();
        if let Some(cell) = cells.get(&key) {
            return Ok(cell.clone());
        }
        if cells.len() >= MAX_GUEST_METRICS {
            return Err(GuestMetricError::TooMany);
        }
        let cell = match kind {
            Kind::Counter => GuestCell::Counter(Arc::default()),
            Kind::Gauge => GuestCell::Gauge(Arc::default()),
            Kind::Histogram => GuestCell::Histogram(Arc::new(Histogram::new(&GUEST_VALUES))),
        };
        cells.insert(key, cell.clone());
        let series = GuestSeries { filter: filter.clone(), kind, name, cell: cell.clone() };
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner).push(series);
        Ok(cell)
    }
}

impl Default for Guests {
    fn default() -> Self {
        Guests { cells: RefCell::new(HashMap::new()), shared: Arc::default() }
    }
}

/// The scrape's side of what all guests of one worker have defined.
#[derive(Debug, Default)]
pub(super) struct GuestShared(Mutex<Vec<GuestSeries>>);

impl GuestShared {
    /// Everything so far. Holds the mutex only while it copies the handles.
    pub(super) fn series(&self) -> Vec<GuestSeries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One metric that a guest has defined.
#[derive(Clone, Debug)]
pub(super) struct GuestSeries {
    pub(super) filter: Arc<str>,
    pub(super) kind: Kind,
    /// As the guest named it.
    pub(super) name: Arc<str>,
    pub(super) cell: GuestCell,
}

#[derive(Clone, Debug)]
pub(super) enum GuestCell {
    Counter(Arc<Counter>),
    Gauge(Arc<Gauge>),
    Histogram(Arc<Histogram>),
}

type GuestKey = (Kind, Arc<str>, Arc<str>);

/// Ids start at 1; 0 wraps to an index that nothing has.
fn index(id: u32) -> usize {
    (id as usize).wrapping_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(filter: &str, guests: &Rc<Guests>) -> GuestMetrics {
        GuestMetrics::new(filter, guests.clone())
    }

    #[test]
    fn operations_answer_as_envoy_does() {
        use GuestMetricError::{BadArgument, NotFound};
        let guest = guest("f", &Rc::default());
        let [counter, gauge, histogram] =
            [Kind::Counter, Kind::Gauge, Kind::Histogram].map(|kind| guest.define(kind, "same name").unwrap());
        assert_eq!(guest.define(Kind::Counter, "same name"), Ok(counter));
        assert!(counter != 0 && counter != gauge && gauge != histogram);

        assert_eq!(guest.increment(counter, 5), Ok(()));
        assert_eq!(guest.increment(counter, -1), Err(BadArgument));
        assert_eq!(guest.record(counter, 2), Ok(()));
        assert_eq!(guest.value(counter), Ok(7));

        assert_eq!(guest.record(gauge, 7), Ok(()));
        assert_eq!(guest.increment(gauge, -100), Ok(()));
        assert_eq!(guest.value(gauge), Ok(18_446_744_073_709_551_523));

        assert_eq!(guest.record(histogram, 3), Ok(()));
        assert_eq!(guest.increment(histogram, 1), Err(BadArgument));
        assert_eq!(guest.value(histogram), Err(BadArgument));

        for unknown in [0, 4, u32::MAX] {
            assert_eq!(guest.increment(unknown, 1), Err(BadArgument));
            assert_eq!(guest.record(unknown, 1), Err(NotFound));
            assert_eq!(guest.value(unknown), Err(BadArgument));
        }
    }

    #[test]
    fn a_new_machine_of_a_filter_goes_on_counting_and_another_filter_does_not() {
        let guests = Rc::default();
        let first = guest("f", &guests);
        first.increment(first.define(Kind::Counter, "n").unwrap(), 3).unwrap();
        let [second, stranger] = ["f", "g"].map(|filter| guest(filter, &guests));
        assert_eq!(second.value(1), Err(GuestMetricError::BadArgument));
        assert_eq!(second.value(second.define(Kind::Counter, "n").unwrap()), Ok(3));
        assert_eq!(stranger.value(stranger.define(Kind::Counter, "n").unwrap()), Ok(0));
    }

    #[test]
    fn names_and_their_number_are_bounded() {
        let guests = Rc::default();
        let guest = guest("f", &guests);
        assert!(guest.define(Kind::Gauge, &"n".repeat(MAX_GUEST_NAME_BYTES)).is_ok());
        let long = "n".repeat(MAX_GUEST_NAME_BYTES + 1);
        assert_eq!(guest.define(Kind::Gauge, &long), Err(GuestMetricError::BadArgument));
        for i in 1..MAX_GUEST_METRICS {
            guest.define(Kind::Counter, &i.to_string()).unwrap();
        }
        assert_eq!(guest.define(Kind::Counter, "more"), Err(GuestMetricError::TooMany));
        assert_eq!(guest.define(Kind::Counter, "1"), Ok(2));
        assert_eq!(guests.shared().series().len(), MAX_GUEST_METRICS);
    }
}
