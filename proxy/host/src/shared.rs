//! Shared data: the key-value store with compare-and-set that all VMs of one `vm_id` see, whatever their worker.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};

use lacis_abi::Status;

use crate::limits::{self, Limits};
use crate::queue::{Consumer, Named, Queue, Registry, lock};

/// The shared data and the shared queues of a process. Values belong to a `vm_id` and live as long as any VM of it.
#[derive(Debug, Default)]
pub struct SharedData {
    spaces: Mutex<HashMap<String, Weak<Space>>>,
    /// One counter for all keys, as in Envoy: a value read under one key never fits another.
    cas: Arc<AtomicU32>,
    queues: Registry,
}

/// The store of one `vm_id`, and its queues.
#[derive(Debug)]
pub(crate) struct Space {
    data: Mutex<Data>,
    cas: Arc<AtomicU32>,
    queues: Named,
}

#[derive(Debug, Default)]
struct Data {
    values: HashMap<Vec<u8>, Value>,
    /// Bytes of all keys and values.
    bytes: usize,
}

#[derive(Debug)]
struct Value {
    bytes: Vec<u8>,
    cas: u32,
}

impl SharedData {
    /// The store of a `vm_id`; made if there is none.
    pub(crate) fn space(&self, vm_id: &str) -> Arc<Space> {
        let mut spaces = lock(&self.spaces);
        if let Some(space) = spaces.get(vm_id).and_then(Weak::upgrade) {
            return space;
        }
        spaces.retain(|_, space| space.strong_count() > 0);
        let space = Arc::new(Space { data: Mutex::default(), cas: self.cas.clone(), queues: Named::default() });
        spaces.insert(vm_id.to_owned(), Arc::downgrade(&space));
        space
    }

    /// The value of a key as the filters of a `vm_id` see it, while there is one of them.
    #[cfg(feature = "testing")]
    pub fn value(&self, vm_id: &str, key: &[u8]) -> Option<Vec<u8>> {
        let mut value = Vec::new();
        self.space(vm_id).get(key, &mut value).ok().map(|_| value)
    }

    /// Sets a key for the filters of a `vm_id`; kept while there is one of them. False if it has no room.
    #[cfg(feature = "testing")]
    pub fn set_value(&self, vm_id: &str, key: &[u8], value: &[u8]) -> bool {
        self.space(vm_id).set(key, value, 0, &Limits::default()).is_ok()
    }

    /// Makes a queue of a `vm_id`, or changes its consumer; see [`Named::register`].
    pub(crate) fn register(&self, space: &Space, name: &[u8], consumer: Consumer, limits: &Limits) -> Option<u32> {
        space.queues.register(name, consumer, &self.queues, limits)
    }

    /// The number of a queue of a `vm_id`.
    pub(crate) fn resolve(&self, vm_id: &str, name: &[u8]) -> Option<u32> {
        let space = lock(&self.spaces).get(vm_id).and_then(Weak::upgrade)?;
        space.queues.number(name)
    }

    /// The queue with this number, whoever's it is.
    pub(crate) fn queue(&self, number: u32) -> Result<Arc<Queue>, Status> {
        self.queues.queue(number)
    }
}

impl Space {
    /// Appends the value of a key to `out` and answers its version. `NotFound` if there is none.
    pub(crate) fn get(&self, key: &[u8], out: &mut Vec<u8>) -> Result<u32, Status> {
        let data = lock(&self.data);
        let value = data.values.get(key).ok_or(Status::NotFound)?;
        out.extend_from_slice(&value.bytes);
        Ok(value.cas)
    }

    /// Sets a key. A `cas` other than 0 must be the version of the value that is replaced (`CasMismatch`); for a key
    /// that does not exist any will do. `InternalFailure` when the entry is too large or the store is full.
    pub(crate) fn set(&self, key: &[u8], bytes: &[u8], cas: u32, limits: &Limits) -> Result<(), Status> {
        let mut data = lock(&self.data);
        let old = match data.values.get(key) {
            Some(value) if cas != 0 && cas != value.cas => return Err(Status::CasMismatch),
            Some(value) => key.len() + value.bytes.len() + limits::ENTRY,
            None => 0,
        };
        let total = data.bytes - old + key.len() + bytes.len() + limits::ENTRY;
        if key.len() + bytes.len() > limits.shared_entry || total > limits.shared_bytes {
            return Err(Status::InternalFailure);
        }
        data.bytes = total;
        let value = Value { bytes: bytes.to_vec(), cas: self.next_cas() };
        match data.values.get_mut(key) {
            Some(old) => *old = value,
            None => drop(data.values.insert(key.to_vec(), value)),
        }
        Ok(())
    }

    /// Never 0, which means "whatever is there".
    fn next_cas(&self) -> u32 {
        match self.cas.fetch_add(1, Ordering::Relaxed).wrapping_add(1) {
            0 => self.cas.fetch_add(1, Ordering::Relaxed).wrapping_add(1),
            cas => cas,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(space: &Space, key: &[u8]) -> Result<(Vec<u8>, u32), Status> {
        let mut out = Vec::new();
        space.get(key, &mut out).map(|cas| (out, cas))
    }

    fn set(space: &Space, key: &[u8], bytes: &[u8], cas: u32) -> Result<(), Status> {
        space.set(key, bytes, cas, &Limits { shared_entry: usize::MAX, ..Limits::default() })
    }

    #[test]
    fn an_entry_is_bounded() {
        let limits = Limits { shared_entry: 3, ..Limits::default() };
        let space = SharedData::default().space("");
        assert_eq!(space.set(b"k", b"vv", 0, &limits), Ok(()));
        assert_eq!(space.set(b"k", b"vvv", 0, &limits), Err(Status::InternalFailure));
    }

    #[test]
    fn a_stale_version_is_refused_and_zero_overwrites() {
        let shared = SharedData::default();
        let space = shared.space("");
        assert_eq!(read(&space, b"k"), Err(Status::NotFound));
        assert_eq!(set(&space, b"k", b"1", 77), Ok(()));
        let (value, cas) = read(&space, b"k").unwrap();
        assert_eq!(value, b"1");
        assert_eq!(set(&space, b"k", b"2", cas), Ok(()));
        assert_eq!(set(&space, b"k", b"3", cas), Err(Status::CasMismatch));
        assert_eq!(set(&space, b"k", b"", 0), Ok(()));
        assert_eq!(read(&space, b"k").unwrap().0, b"");
    }

    #[test]
    fn the_version_zero_is_skipped() {
        let shared = SharedData { cas: Arc::new(AtomicU32::new(u32::MAX)), ..SharedData::default() };
        let space = shared.space("");
        set(&space, b"k", b"1", 0).unwrap();
        assert_eq!(read(&space, b"k").unwrap().1, 1);
    }

    #[test]
    fn a_vm_id_keeps_its_data_while_a_vm_has_it() {
        let shared = SharedData::default();
        let (one, two) = (shared.space("a"), shared.space("a"));
        set(&one, b"k", b"v", 0).unwrap();
        drop(one);
        assert!(read(&two, b"k").is_ok());
        assert!(read(&shared.space("b"), b"k").is_err());
        drop(two);
        assert!(read(&shared.space("a"), b"k").is_err());
    }

    #[test]
    fn the_store_is_bounded_and_room_comes_back() {
        let shared = SharedData::default();
        let space = shared.space("");
        let exact = vec![0; limits::SHARED_BYTES - 1 - limits::ENTRY];
        assert_eq!(set(&space, b"k", &exact, 0), Ok(()));
        assert_eq!(set(&space, b"l", b"", 0), Err(Status::InternalFailure));
        assert_eq!(set(&space, b"k", &[&exact[..], b"x"].concat(), 0), Err(Status::InternalFailure));
        assert_eq!(set(&space, b"k", b"small", 0), Ok(()));
        assert_eq!(set(&space, b"l", b"", 0), Ok(()));
    }
}
