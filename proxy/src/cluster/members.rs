//! The endpoints of a cluster: where they are, which all workers share, and what this worker has of each, which is made
//! when a request is first given to it. A mesh has thousands of services, and a sidecar calls a few of them.

use std::cell::{Cell, OnceCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::balance::{Candidates, Load, Standing, id};
use super::endpoint::Endpoint;
use crate::clock;
use crate::config::{self, Source};

/// Where a service is: what its source says, or the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Its endpoints, which may be none.
    pub endpoints: Arc<[config::Endpoint]>,
    /// If there is none because nobody could say where it is: why.
    pub unknown: Option<Arc<str>>,
}

/// What is known of services whose endpoints the configuration does not list.
pub type Places = HashMap<Source, Arc<Place>>;

/// The endpoints of a cluster, by their place in the list.
#[derive(Debug)]
pub(super) struct Members {
    place: Place,
    /// Our own zone, if its endpoints are preferred.
    zone: Option<Arc<str>>,
    /// In the order of the place's. Generations whose lists have the same addresses share them.
    slots: Rc<[Slot]>,
}

/// What a worker has of an endpoint: little, until it is used.
#[derive(Clone, Debug)]
struct Slot {
    used: OnceCell<Rc<Endpoint>>,
    /// When it began to get requests, in ticks of the clock. Until it is used: then that is the endpoint's own to know.
    since: Cell<u32>,
    /// What active health checks say. The same.
    checked: Cell<Option<bool>>,
}

/// Nanoseconds in a tick of the clock.
const TICK: u64 = clock::TICK.as_nanos() as u64;

impl Slot {
    fn new() -> Self {
        Slot { used: OnceCell::new(), since: Cell::new(now()), checked: Cell::new(None) }
    }

    /// See [`Members::check`].
    fn check(&self, healthy: Option<bool>) -> bool {
        if let Some(used) = self.used.get() {
            return used.check(healthy);
        }
        let before = self.checked.replace(healthy);
        if before == Some(false) && before != healthy {
            self.since.set(now());
        }
        before != healthy
    }

    fn since(&self) -> u64 {
        u64::from(self.since.get()) * TICK
    }
}

/// In ticks: a process lives shorter than 13 years.
fn now() -> u32 {
    u32::try_from(clock::nanos() / TICK).unwrap_or(u32::MAX)
}

impl Members {
    /// Those of a place. What is known of them from `before` stays.
    pub(super) fn new(place: Place, zone: Option<&Arc<str>>, before: Option<&Members>) -> Self {
        let slots = match before {
            None => place.endpoints.iter().map(|_| Slot::new()).collect(),
            Some(before) if before.addresses().eq(place.endpoints.iter().map(|endpoint| endpoint.address)) => {
                Rc::clone(&before.slots)
            }
            Some(before) => {
                let known: HashMap<SocketAddr, &Slot> = before.addresses().zip(before.slots.iter()).collect();
                let slot = |endpoint: &config::Endpoint| known.get(&endpoint.address).map(|slot| (*slot).clone());
                place.endpoints.iter().map(|endpoint| slot(endpoint).unwrap_or_else(Slot::new)).collect()
            }
        };
        Members { place, zone: zone.cloned(), slots }
    }

    /// Takes over what has come into use of those before since these were made of them.
    pub(super) fn adopt(&self, before: &Members) {
        if Rc::ptr_eq(&self.slots, &before.slots) {
            return;
        }
        let used: HashMap<SocketAddr, &Rc<Endpoint>> = before.used().map(|used| (used.address, used)).collect();
        for (address, slot) in self.addresses().zip(self.slots.iter()) {
            if let Some(used) = used.get(&address) {
                slot.used.get_or_init(|| Rc::clone(used));
            }
        }
    }

    /// Where they are.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Where each of them is.
    pub(super) fn addresses(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.place.endpoints.iter().map(|endpoint| endpoint.address)
    }

    /// Where one is.
    pub(super) fn address(&self, at: usize) -> Option<SocketAddr> {
        self.place.endpoints.get(at).map(|endpoint| endpoint.address)
    }

    /// What this worker has of one, if it was used.
    #[inline]
    pub(super) fn get(&self, at: usize) -> Option<&Rc<Endpoint>> {
        self.slots.get(at)?.used.get()
    }

    /// One for use; `make` gives it if it was not used yet.
    #[inline]
    pub(super) fn take(&self, at: usize, make: impl FnOnce(SocketAddr) -> Endpoint) -> Option<Rc<Endpoint>> {
        let slot = self.slots.get(at)?;
        if let Some(used) = slot.used.get() {
            return Some(Rc::clone(used));
        }
        let made = make(self.address(at)?);
        made.begin(slot.since(), slot.checked.get());
        Some(Rc::clone(slot.used.get_or_init(|| Rc::new(made))))
    }

    /// As [`Members::take`], but it does not come into use by that: for those who only look.
    pub(super) fn show(&self, at: usize, make: impl FnOnce(SocketAddr) -> Endpoint) -> Option<Rc<Endpoint>> {
        let slot = self.slots.get(at)?;
        let fresh = || {
            let made = make(self.address(at)?);
            made.begin(slot.since(), slot.checked.get());
            Some(Rc::new(made))
        };
        slot.used.get().map(Rc::clone).or_else(fresh)
    }

    /// Those that were used.
    pub(super) fn used(&self) -> impl Iterator<Item = &Rc<Endpoint>> {
        self.slots.iter().filter_map(|slot| slot.used.get())
    }

    /// All of them, each with what this worker has of it.
    pub(super) fn all(&self) -> impl Iterator<Item = Option<&Rc<Endpoint>>> + Clone {
        self.slots.iter().map(|slot| slot.used.get())
    }

    /// Requests that one carries.
    #[inline]
    pub(super) fn in_flight(&self, at: usize) -> u32 {
        self.get(at).map_or(0, |used| used.load.in_flight())
    }

    /// What active health checks say of one from now on. Whether that is something else than before.
    pub(super) fn check(&self, address: SocketAddr, healthy: bool) -> bool {
        let slot = self.addresses().zip(self.slots.iter()).find(|(known, _)| *known == address);
        slot.is_some_and(|(_, slot)| slot.check(Some(healthy)))
    }

    /// There are no active health checks. Whether there were some.
    pub(super) fn uncheck(&self) -> bool {
        self.slots.iter().filter(|slot| slot.check(None)).count() > 0
    }
}

impl Candidates for Members {
    fn count(&self) -> usize {
        self.slots.len()
    }

    #[inline]
    fn load(&self, at: usize) -> Option<&Load> {
        self.get(at).map(|used| &used.load)
    }

    fn weight(&self, at: usize) -> u32 {
        self.place.endpoints.get(at).map_or(1, |endpoint| endpoint.weight)
    }

    fn priority(&self, at: usize) -> u8 {
        self.place.endpoints.get(at).map_or(0, |endpoint| endpoint.priority)
    }

    fn is_near(&self, at: usize) -> bool {
        self.zone.is_none() || self.place.endpoints.get(at).is_some_and(|endpoint| endpoint.zone == self.zone)
    }

    fn id(&self, at: usize) -> u64 {
        self.address(at).map_or(0, |address| id(&address))
    }

    fn standing(&self, at: usize, now: u64) -> Standing {
        match self.slots.get(at) {
            Some(slot) => match slot.used.get() {
                Some(used) => used.standing(now),
                None => Standing { since: slot.since(), fit: slot.checked.get() != Some(false), ..Standing::GOOD },
            },
            None => Standing::GOOD,
        }
    }
}
