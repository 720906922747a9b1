//! Shared queues: lines of items that any VM of the process may append to and take from, each with one consumer that is
//! told of every item. They belong to a `vm_id`, and live as long as any VM of it.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use lacis_abi::Status;

use crate::limits::Limits;

/// Wakes the thread of a VM: called from any thread, also from within a host call of the VM itself. It does no more than
/// take a note.
#[derive(Clone)]
pub struct Wake(pub Arc<dyn Fn() + Send + Sync>);

/// All queues of the process, by their numbers.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    queues: Mutex<Numbered>,
}

#[derive(Debug, Default)]
struct Numbered {
    queues: HashMap<u32, Weak<Queue>>,
    last: u32,
}

/// The queues of one `vm_id`, by their names.
#[derive(Debug, Default)]
pub(crate) struct Named(Mutex<HashMap<Vec<u8>, Arc<Queue>>>);

/// One queue.
#[derive(Debug)]
pub(crate) struct Queue {
    number: u32,
    content: Mutex<Content>,
}

#[derive(Debug, Default)]
struct Content {
    items: VecDeque<Vec<u8>>,
    bytes: usize,
    consumer: Option<Consumer>,
}

/// Who is told of items: the root context that registered the queue last.
#[derive(Debug, Clone)]
pub(crate) struct Consumer {
    pub(crate) mailbox: Weak<Mailbox>,
    pub(crate) root: u32,
}

/// What one VM is to be told, from any thread.
#[derive(Debug)]
pub(crate) struct Mailbox {
    due: Mutex<VecDeque<Due>>,
    wake: Wake,
}

/// So many items in a queue, to be told to a root context one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) root: u32,
    pub(crate) queue: u32,
    items: u32,
}

impl Named {
    /// Makes the queue of this name if there is none, and its consumer the one that is told from now on. Answers its
    /// number; `None` when there may be no more queues.
    pub(crate) fn register(
        &self,
        name: &[u8],
        consumer: Consumer,
        registry: &Registry,
        limits: &Limits,
    ) -> Option<u32> {
        let mut queues = lock(&self.0);
        let queue = match queues.get(name) {
            Some(queue) => queue.clone(),
            None if queues.len() >= limits.queues => return None,
            None => {
                let queue = registry.make();
                queues.insert(name.to_vec(), queue.clone());
                queue
            }
        };
        lock(&queue.content).consumer = Some(consumer);
        Some(queue.number)
    }

    /// The number of the queue of this name.
    pub(crate) fn number(&self, name: &[u8]) -> Option<u32> {
        lock(&self.0).get(name).map(|queue| queue.number)
    }
}

impl Registry {
    /// The queue with this number.
    pub(crate) fn queue(&self, number: u32) -> Result<Arc<Queue>, Status> {
        lock(&self.queues).queues.get(&number).and_then(Weak::upgrade).ok_or(Status::NotFound)
    }

    fn make(&self) -> Arc<Queue> {
        let mut numbered = lock(&self.queues);
        numbered.queues.retain(|_, queue| queue.strong_count() > 0);
        loop {
            numbered.last = numbered.last.wrapping_add(1);
            let number = numbered.last;
            if number != 0 && !numbered.queues.contains_key(&number) {
                let queue = Arc::new(Queue { number, content: Mutex::default() });
                numbered.queues.insert(number, Arc::downgrade(&queue));
                return queue;
            }
        }
    }
}

impl Queue {
    /// Appends an item and has the consumer told. False when it is full.
    pub(crate) fn push(&self, item: &[u8], limits: &Limits) -> bool {
        let consumer = {
            let mut content = lock(&self.content);
            if content.items.len() >= limits.queue_items || content.bytes + item.len() > limits.queue_bytes {
                return false;
            }
            content.bytes += item.len();
            content.items.push_back(item.to_vec());
            content.consumer.clone()
        };
        if let Some((mailbox, root)) = consumer.and_then(|consumer| Some((consumer.mailbox.upgrade()?, consumer.root)))
        {
            mailbox.post(root, self.number);
        }
        true
    }

    /// Takes the oldest item out; `Empty` when there is none.
    pub(crate) fn pop(&self) -> Result<Vec<u8>, Status> {
        let mut content = lock(&self.content);
        let item = content.items.pop_front().ok_or(Status::Empty)?;
        content.bytes -= item.len();
        Ok(item)
    }
}

impl Mailbox {
    pub(crate) fn new(wake: Wake) -> Mailbox {
        Mailbox { due: Mutex::default(), wake }
    }

    /// The next thing to tell, and whether there is more.
    pub(crate) fn next(&self) -> Option<(Due, bool)> {
        let mut due = lock(&self.due);
        let mut next = due.pop_front()?;
        next.items -= 1;
        if next.items > 0 {
            // To the end, so that a busy queue does not hold up the others.
            due.push_back(next);
        }
        Some((next, !due.is_empty()))
    }

    fn post(&self, root: u32, queue: u32) {
        {
            let mut due = lock(&self.due);
            // One entry for each queue, so it is bounded by them.
            match due.iter_mut().find(|due| (due.root, due.queue) == (root, queue)) {
                Some(due) => due.items = due.items.saturating_add(1),
                None => due.push_back(Due { root, queue, items: 1 }),
            }
        }
        (self.wake.0)();
    }
}

impl Default for Wake {
    /// Nobody waits.
    fn default() -> Wake {
        Wake(Arc::new(|| {}))
    }
}

impl fmt::Debug for Wake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wake")
    }
}

/// No code that runs under these locks panics; should it, what it left is still a valid store.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;

    use super::*;

    fn mailbox() -> (Arc<Mailbox>, Arc<AtomicU32>) {
        let woken = Arc::new(AtomicU32::new(0));
        let theirs = woken.clone();
        let wake = Wake(Arc::new(move || _ = theirs.fetch_add(1, Ordering::Relaxed)));
        (Arc::new(Mailbox::new(wake)), woken)
    }

    fn consumer(mailbox: &Arc<Mailbox>, root: u32) -> Consumer {
        Consumer { mailbox: Arc::downgrade(mailbox), root }
    }

    #[test]
    fn items_come_out_in_order_and_are_told_one_by_one() {
        let (registry, named, limits) = (Registry::default(), Named::default(), Limits::default());
        let (mailbox, woken) = mailbox();
        let number = named.register(b"q", consumer(&mailbox, 7), &registry, &limits).unwrap();
        assert_eq!(named.number(b"q"), Some(number));
        let queue = registry.queue(number).unwrap();
        assert!(queue.push(b"one", &limits) && queue.push(b"", &limits));
        assert_eq!(woken.load(Ordering::Relaxed), 2);
        let told: Vec<_> =
            std::iter::from_fn(|| mailbox.next()).map(|(due, more)| (due.root, due.queue, more)).collect();
        assert_eq!(told, [(7, number, true), (7, number, false)]);
        assert_eq!((queue.pop(), queue.pop(), queue.pop()), (Ok(b"one".to_vec()), Ok(Vec::new()), Err(Status::Empty)));
    }

    #[test]
    fn the_last_one_to_register_is_told_and_nobody_when_it_is_gone() {
        let (registry, named, limits) = (Registry::default(), Named::default(), Limits::default());
        let ((first, _), (last, _)) = (mailbox(), mailbox());
        let number = named.register(b"q", consumer(&first, 1), &registry, &limits).unwrap();
        let queue = registry.queue(number).unwrap();
        assert!(queue.push(b"kept", &limits));
        assert_eq!(named.register(b"q", consumer(&last, 2), &registry, &limits), Some(number));
        assert!(queue.push(b"two", &limits));
        assert_eq!((first.next().unwrap().1, last.next().unwrap().1), (false, false));
        drop(last);
        assert!(queue.push(b"three", &limits));
        assert!(first.next().is_none());
        assert_eq!(queue.pop(), Ok(b"kept".to_vec()));
    }

    #[test]
    fn a_queue_is_bounded_and_so_is_their_number() {
        let limits = Limits { queues: 1, queue_items: 2, queue_bytes: 4, ..Limits::default() };
        let (registry, named) = (Registry::default(), Named::default());
        let (mailbox, _) = mailbox();
        let number = named.register(b"q", consumer(&mailbox, 1), &registry, &limits).unwrap();
        assert_eq!(named.register(b"r", consumer(&mailbox, 1), &registry, &limits), None);
        let queue = registry.queue(number).unwrap();
        assert!(queue.push(b"four", &limits));
        assert!(!queue.push(b"5", &limits));
        assert!(queue.push(b"", &limits));
        assert!(!queue.push(b"", &limits));
        assert_eq!(queue.pop(), Ok(b"four".to_vec()));
        assert!(queue.push(b"room", &limits));
    }

    #[test]
    fn a_queue_goes_with_its_owner() {
        let (registry, named, limits) = (Registry::default(), Named::default(), Limits::default());
        let (mailbox, _) = mailbox();
        let number = named.register(b"q", consumer(&mailbox, 1), &registry, &limits).unwrap();
        drop(named);
        assert_eq!(registry.queue(number).err(), Some(Status::NotFound));
        assert_eq!(registry.queue(number + 1).err(), Some(Status::NotFound));
    }

    #[test]
    fn every_item_of_every_thread_arrives() {
        let (registry, named, limits) = (Registry::default(), Named::default(), Limits::default());
        let (mailbox, woken) = mailbox();
        let queue = registry.queue(named.register(b"q", consumer(&mailbox, 1), &registry, &limits).unwrap()).unwrap();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..100).for_each(|_| assert!(queue.push(b"item", &limits))));
            }
        });
        assert_eq!(woken.load(Ordering::Relaxed), 400);
        assert_eq!(std::iter::from_fn(|| mailbox.next()).count(), 400);
        assert_eq!(std::iter::from_fn(|| queue.pop().ok()).count(), 400);
    }
}
