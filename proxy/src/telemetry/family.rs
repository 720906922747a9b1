//! One metric of one worker: its series by label values.
//!
//! The worker finds a series in a map of its own. Only when a new combination of labels appears does it take the mutex
//! that it shares with the scrape.

use std::cell::{OnceCell, RefCell};
use std::sync::{Arc, Mutex, PoisonError};

use foldhash::{HashMap, HashMapExt as _};

use super::cell::{Counter, Gauge, Histogram};
use super::labels::{Labels, Names, label};

/// Most series of one metric in one worker. A series of the largest metric takes about 300 bytes here and 200 in the
/// exposition, so this bounds both at about a megabyte. What comes later is counted in one series whose labels are all
/// `other`.
pub const MAX_SERIES: usize = 4096;

/// The worker's side of one metric.
#[derive(Debug)]
pub struct Family<K, C> {
    new: fn() -> C,
    cells: RefCell<HashMap<K, Arc<C>>>,
    other: OnceCell<Arc<C>>,
    shared: Arc<Shared<C>>,
}

impl<K: Labels, C> Family<K, C> {
    /// A metric without series, whose cells `new` makes.
    pub fn new(new: fn() -> C) -> Self {
        Family { new, cells: RefCell::new(HashMap::new()), other: OnceCell::new(), shared: Arc::default() }
    }

    /// The cell of a combination of labels; the shared one of all others once there are [`MAX_SERIES`].
    pub fn cell(&self, key: K, names: &Names) -> Arc<C> {
        self.lookup(key, names).unwrap_or_else(|| self.other())
    }

    /// The cell of a combination of labels, if it has one of its own or can still get one.
    pub fn lookup(&self, key: K, names: &Names) -> Option<Arc<C>> {
        let mut cells = self.cells.borrow_mut();
        if let Some(cell) = cells.get(&key) {
            return Some(cell.clone());
        }
        if cells.len() >= MAX_SERIES {
            return None;
        }
        let mut labels = String::new();
        key.write(names, &mut labels);
        let cell = self.shared.insert(labels, (self.new)());
        cells.insert(key, cell.clone());
        Some(cell)
    }

    /// The cell of everything that got none of its own.
    pub fn other(&self) -> Arc<C> {
        let insert = || {
            let mut labels = String::new();
            for name in K::NAMES {
                label(&mut labels, name, |out| out.push_str("other"));
            }
            self.shared.insert(labels, (self.new)())
        };
        self.other.get_or_init(insert).clone()
    }

    /// The scrape's side.
    pub fn shared(&self) -> Arc<Shared<C>> {
        self.shared.clone()
    }
}

/// The scrape's side of one metric.
#[derive(Debug)]
pub struct Shared<C>(Mutex<Vec<Series<C>>>);

/// One combination of labels and its value.
#[derive(Debug)]
pub struct Series<C> {
    /// `name="value",…`
    pub labels: Arc<str>,
    /// The value.
    pub cell: Arc<C>,
}

impl<C> Shared<C> {
    /// The series so far. Holds the mutex only while it copies their handles.
    pub fn series(&self) -> Vec<Series<C>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn insert(&self, labels: String, cell: C) -> Arc<C> {
        let cell = Arc::new(cell);
        let series = Series { labels: labels.into(), cell: cell.clone() };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(series);
        cell
    }
}

impl<C> Default for Shared<C> {
    fn default() -> Self {
        Shared(Mutex::default())
    }
}

impl<C> Clone for Series<C> {
    fn clone(&self) -> Self {
        Series { labels: self.labels.clone(), cell: self.cell.clone() }
    }
}

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts values by size.
    Histogram,
}

impl Kind {
    /// The word of both text formats.
    pub const fn token(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// The scrape's side of one metric, of whatever kind.
#[derive(Clone, Debug)]
pub enum Readable {
    /// A counter.
    Counter(Arc<Shared<Counter>>),
    /// A gauge.
    Gauge(Arc<Shared<Gauge>>),
    /// A histogram.
    Histogram(Arc<Shared<Histogram>>),
}

impl From<Arc<Shared<Counter>>> for Readable {
    fn from(shared: Arc<Shared<Counter>>) -> Self {
        Readable::Counter(shared)
    }
}

impl From<Arc<Shared<Gauge>>> for Readable {
    fn from(shared: Arc<Shared<Gauge>>) -> Self {
        Readable::Gauge(shared)
    }
}

impl From<Arc<Shared<Histogram>>> for Readable {
    fn from(shared: Arc<Shared<Histogram>>) -> Self {
        Readable::Histogram(shared)
    }
}

#[cfg(test)]
mod tests {
    use super::super::labels::{Cause, CauseKey, NameId};
    use super::*;

    #[test]
    fn equal_labels_share_a_cell() {
        let family = Family::<CauseKey, Counter>::new(Counter::default);
        let names = Names::default();
        let key = CauseKey { destination: NameId::UNKNOWN, cause: Cause::Pending };
        family.cell(key, &names).add(1);
        family.cell(key, &names).add(2);
        let series = family.shared().series();
        assert_eq!(series.len(), 1);
        assert_eq!((&*series[0].labels, series[0].cell.read()), (r#"destination="unknown",cause="pending""#, 3));
    }

    #[test]
    fn series_are_bounded_and_the_rest_is_other() {
        let family = Family::<CauseKey, Counter>::new(Counter::default);
        let names = Names::default();
        let key = |status| CauseKey { destination: NameId::UNKNOWN, cause: Cause::Status(status) };
        for status in 0..MAX_SERIES as u16 {
            family.cell(key(status), &names).add(1);
        }
        assert_eq!(family.shared().series().len(), MAX_SERIES);
        for status in [10_000, 10_001] {
            assert!(family.lookup(key(status), &names).is_none());
            family.cell(key(status), &names).add(1);
        }
        family.cell(key(0), &names).add(1);
        let series = family.shared().series();
        assert_eq!(series.len(), MAX_SERIES + 1);
        assert_eq!(series[0].cell.read(), 2);
        let last = series.last().unwrap();
        assert_eq!((&*last.labels, last.cell.read()), (r#"destination="other",cause="other""#, 2));
    }
}
