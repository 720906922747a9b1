//! Handshakes under way. Strangers may begin as many as they like, and none of them has shown yet who it is.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use tokio::sync::Notify;

/// Handshakes of a worker at a time: one in good faith takes milliseconds. Each costs some 20 KB, and over TCP a descriptor.
pub const MAX_HANDSHAKES: usize = 1024;

/// Those under way.
pub(super) struct Handshakes {
    /// By their numbers, so the oldest first.
    open: RefCell<BTreeMap<u64, Rc<Notify>>>,
    next: Cell<u64>,
    most: usize,
}

impl Handshakes {
    /// So many at a time.
    pub(super) fn new(most: usize) -> Self {
        Handshakes { open: RefCell::default(), next: Cell::new(0), most }
    }

    /// Begins another one. If there are too many the oldest is given up: it is the one that does not go on, and who comes in good faith
    /// still gets through.
    pub(super) fn begin(&self) -> Handshake<'_> {
        let mut open = self.open.borrow_mut();
        if open.len() >= self.most
            && let Some((_, oldest)) = open.pop_first()
        {
            oldest.notify_one();
        }
        let (number, given_up) = (self.next.get(), Rc::<Notify>::default());
        self.next.set(number + 1);
        open.insert(number, Rc::clone(&given_up));
        Handshake { all: self, number, given_up }
    }
}

/// One of them, until it is dropped.
pub(super) struct Handshake<'a> {
    all: &'a Handshakes,
    number: u64,
    given_up: Rc<Notify>,
}

impl Handshake<'_> {
    /// Resolves when it has to make room for others.
    pub(super) async fn given_up(&self) {
        self.given_up.notified().await;
    }
}

impl Drop for Handshake<'_> {
    fn drop(&mut self) {
        self.all.open.borrow_mut().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn the_oldest_makes_room() {
        let all = Handshakes::new(2);
        let is_given_up = |one: &Handshake<'_>| {
            let given_up = pin!(one.given_up());
            given_up.poll(&mut Context::from_waker(Waker::noop())).is_ready()
        };
        let (first, second) = (all.begin(), all.begin());
        assert_eq!([&first, &second].map(is_given_up), [false, false]);
        let third = all.begin();
        assert_eq!([&first, &second, &third].map(is_given_up), [true, false, false]);
        drop(second);
        let fourth = all.begin();
        assert_eq!([&third, &fourth].map(is_given_up), [false, false], "one had ended");
        drop((first, third, fourth));
        assert!(all.open.borrow().is_empty());
    }
}
