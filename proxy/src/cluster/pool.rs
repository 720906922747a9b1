//! The links of one worker to one endpoint: found, opened once for all who wait, and closed when unused.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock;
use crate::fault::{Fault, Reason, Retry};
use crate::http::client::Multiplexed;

/// Links of one worker to one endpoint and protocol. Beyond it requests wait for a stream: more links would only move
/// the queue to the peer.
pub const MAX_LINKS: usize = 8;

/// Shared links of one protocol to one endpoint.
#[derive(Debug)]
pub struct Links<L: Multiplexed> {
    open: RefCell<Vec<Entry<L>>>,
    dial: RefCell<Option<Rc<Dial>>>,
}

#[derive(Debug)]
struct Entry<L> {
    link: L,
    /// By the coarse clock: it is told for every request.
    used: Cell<u64>,
}

/// An attempt to open a link that several requests may wait for.
#[derive(Debug, Default)]
struct Dial {
    done: Cell<bool>,
    /// The peer speaks another protocol.
    other: Cell<bool>,
    fault: RefCell<Option<(Reason, Retry, String)>>,
    finished: Notify,
}

impl<L: Multiplexed> Default for Links<L> {
    fn default() -> Self {
        Links { open: RefCell::default(), dial: RefCell::default() }
    }
}

impl<L: Multiplexed> Links<L> {
    /// The open link with the fewest requests, if one has room. Links that take no more requests are let go.
    pub fn ready(&self) -> Option<L> {
        let mut open = self.open.borrow_mut();
        open.retain(|entry| !entry.link.is_closed());
        let entry = open.iter().filter(|entry| entry.link.has_room()).min_by_key(|entry| entry.link.in_flight())?;
        entry.used.set(clock::nanos());
        Some(entry.link.clone())
    }

    /// The link to wait at when none has room and no more may be opened.
    fn crowded(&self, more: impl Fn() -> bool) -> Option<L> {
        let open = self.open.borrow();
        if open.is_empty() || open.len() < MAX_LINKS && more() {
            return None;
        }
        open.iter().min_by_key(|entry| entry.link.in_flight()).map(|entry| entry.link.clone())
    }

    /// A link for a request: an open one, or a new one that is opened once however many wait for it. `None` if the peer
    /// turned out to speak another protocol. `more` says whether there may be another one beside those that are open.
    ///
    /// # Errors
    /// What the dial came to.
    pub async fn take<F>(self: &Rc<Self>, more: impl Fn() -> bool, dial: impl Fn() -> F) -> Result<Option<L>, Fault>
    where
        F: Future<Output = Result<Option<L>, Fault>> + 'static,
    {
        loop {
            if let Some(link) = self.ready().or_else(|| self.crowded(&more)) {
                return Ok(Some(link));
            }
            let waited = self.dialing(&dial);
            waited.wait().await;
            if let Some((reason, retry, text)) = waited.fault.borrow().as_ref() {
                // There is no descriptor for another one. One of those that are open has room again some time.
                if *reason == Reason::Overload
                    && let Some(link) = self.crowded(|| false)
                {
                    return Ok(Some(link));
                }
                return Err(Fault::new(*reason).retry(*retry).detail(text.as_str()));
            }
            if waited.other.get() {
                return Ok(None);
            }
            // Links that are closed go when one is looked for.
            if let Some(link) = self.ready() {
                return Ok(Some(link));
            }
            if self.open.borrow().is_empty() {
                let fault = Fault::new(Reason::ConnectionTerminated).retry(Retry::Safe);
                return Err(fault.detail("the link closed at once"));
            }
        }
    }

    /// Starts opening a link unless that is under way. The attempt goes on when those who wait for it give up.
    pub fn dialing_in_background<F>(self: &Rc<Self>, dial: impl Fn() -> F)
    where
        F: Future<Output = Result<Option<L>, Fault>> + 'static,
    {
        self.dialing(&dial);
    }

    fn dialing<F>(self: &Rc<Self>, dial: &impl Fn() -> F) -> Rc<Dial>
    where
        F: Future<Output = Result<Option<L>, Fault>> + 'static,
    {
        if let Some(dial) = self.dial.borrow().as_ref() {
            return Rc::clone(dial);
        }
        let waited = Rc::new(Dial::default());
        *self.dial.borrow_mut() = Some(Rc::clone(&waited));
        let (links, shared, attempt) = (Rc::clone(self), Rc::clone(&waited), dial());
        tokio::task::spawn_local(async move {
            match attempt.await {
                Ok(Some(link)) => links.open.borrow_mut().push(Entry { link, used: Cell::new(clock::nanos()) }),
                Ok(None) => shared.other.set(true),
                Err(fault) => *shared.fault.borrow_mut() = Some((fault.reason, fault.retry, fault.to_string())),
            }
            *links.dial.borrow_mut() = None;
            shared.done.set(true);
            shared.finished.notify_waiters();
        });
        waited
    }

    /// Closes links that carried nothing for this long.
    pub fn reap(&self, unused: Duration) {
        self.open.borrow_mut().retain(|entry| {
            let busy = entry.link.in_flight() > 0;
            if busy {
                entry.used.set(clock::nanos());
            }
            let keep =
                !entry.link.is_closed() && (busy || Duration::from_nanos(clock::nanos() - entry.used.get()) < unused);
            if !keep {
                entry.link.close();
            }
            keep
        });
    }

    /// Closes all links when what they carry has ended.
    pub fn close(&self) {
        self.open.borrow_mut().drain(..).for_each(|entry| entry.link.close());
    }

    /// Does something with each open link.
    pub fn each(&self, mut visit: impl FnMut(&L)) {
        self.open.borrow().iter().for_each(|entry| visit(&entry.link));
    }

    /// Open links, and the one that is being opened.
    pub fn open(&self) -> usize {
        self.open.borrow().len() + usize::from(self.dial.borrow().is_some())
    }

    /// Open links, and requests on them.
    pub fn count(&self) -> (usize, usize) {
        let open = self.open.borrow();
        (open.len(), open.iter().map(|entry| entry.link.in_flight()).sum())
    }
}

impl<L: Multiplexed> Drop for Links<L> {
    /// The endpoint is gone: what its links still carry ends, and they with it.
    fn drop(&mut self) {
        self.close();
    }
}

impl Dial {
    async fn wait(&self) {
        loop {
            let finished = self.finished.notified();
            if self.done.get() {
                return;
            }
            finished.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug)]
    struct Fake(Rc<(Cell<usize>, usize, Cell<bool>)>);

    impl Fake {
        fn new(room: usize) -> Self {
            Fake(Rc::new((Cell::new(0), room, Cell::new(false))))
        }
    }

    impl Multiplexed for Fake {
        fn has_room(&self) -> bool {
            self.0.0.get() < self.0.1
        }
        fn is_closed(&self) -> bool {
            self.0.2.get()
        }
        fn in_flight(&self) -> usize {
            self.0.0.get()
        }
        fn close(&self) {
            self.0.2.set(true);
        }
    }

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        tokio::task::LocalSet::new().block_on(&runtime, test);
    }

    #[test]
    fn all_who_wait_share_one_dial_and_a_full_link_brings_another() {
        run(async {
            let links = Rc::new(Links::<Fake>::default());
            let dials = Rc::new(Cell::new(0));
            let dial = || {
                let dials = Rc::clone(&dials);
                async move {
                    dials.set(dials.get() + 1);
                    Ok(Some(Fake::new(2)))
                }
            };
            for (nth, expected) in [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3)] {
                let link = links.take(|| true, dial).await.expect("link").expect("same protocol");
                link.0.0.set(link.0.0.get() + 1);
                assert_eq!(dials.get(), expected, "request {nth}");
            }
            let (one, two) = tokio::join!(links.take(|| true, dial), links.take(|| true, dial));
            assert!(one.is_ok() && two.is_ok());
            assert_eq!(dials.get(), 3, "the third link has room for both");
            links.close();
            assert_eq!(links.count(), (0, 0));
        });
    }

    #[test]
    fn no_more_links_than_the_limit() {
        run(async {
            let links = Rc::new(Links::<Fake>::default());
            for _ in 0..MAX_LINKS + 3 {
                let link = links
                    .take(|| true, || async { Ok(Some(Fake::new(1))) })
                    .await
                    .expect("link")
                    .expect("same protocol");
                link.0.0.set(link.0.0.get() + 1);
            }
            assert_eq!(links.count(), (MAX_LINKS, MAX_LINKS + 3));
        });
    }

    #[test]
    fn where_no_more_may_be_opened_requests_wait_at_one() {
        run(async {
            let links = Rc::new(Links::<Fake>::default());
            let dials = Cell::new(0);
            for _ in 0..3 {
                let dial = || {
                    dials.set(dials.get() + 1);
                    async { Ok(Some(Fake::new(1))) }
                };
                let link = links.take(|| false, dial).await.expect("link").expect("same protocol");
                link.0.0.set(link.0.0.get() + 1);
            }
            assert_eq!((dials.get(), links.count()), (1, (1, 3)), "the first is opened all the same");
        });
    }

    #[test]
    fn without_descriptors_requests_wait_at_an_open_one() {
        run(async {
            let links = Rc::new(Links::<Fake>::default());
            let without = || async { Err(Fault::new(Reason::Overload)) };
            assert!(links.take(|| true, without).await.is_err(), "there is none yet");
            let one = || async { Ok(Some(Fake::new(1))) };
            let full = links.take(|| true, one).await.expect("link").expect("same protocol");
            full.0.0.set(1);
            let same = links.take(|| true, without).await.expect("the open one").expect("same protocol");
            assert!(Rc::ptr_eq(&full.0, &same.0));
        });
    }

    #[test]
    fn a_failed_dial_fails_all_who_wait_and_the_next_tries_again() {
        run(async {
            let links = Rc::new(Links::<Fake>::default());
            let failing = || async { Err(Fault::new(Reason::ConnectionRefused)) };
            let (one, two) = tokio::join!(links.take(|| true, failing), links.take(|| true, failing));
            for failed in [one, two] {
                assert!(
                    matches!(failed, Err(fault) if fault.reason == Reason::ConnectionRefused && fault.retry == Retry::Safe)
                );
            }
            assert!(links.take(|| true, || async { Ok(Some(Fake::new(1))) }).await.expect("link").is_some());
        });
    }

    #[test]
    fn a_link_that_closes_at_once_says_nothing_of_the_protocol() {
        run(async {
            let links = Rc::new(Links::<Fake>::default());
            let closing = || async {
                let link = Fake::new(1);
                link.close();
                Ok(Some(link))
            };
            assert!(links.take(|| true, closing).await.is_err_and(|fault| fault.retry == Retry::Safe));
            assert!(links.take(|| true, || async { Ok(None) }).await.expect("an answer").is_none());
        });
    }

    #[test]
    fn unused_links_are_closed() {
        run(async {
            let links = Rc::new(Links::<Fake>::default());
            let link =
                links.take(|| true, || async { Ok(Some(Fake::new(1))) }).await.expect("link").expect("same protocol");
            link.0.0.set(1);
            links.reap(Duration::ZERO);
            assert!(!link.is_closed(), "it carries a request");
            link.0.0.set(0);
            links.reap(Duration::ZERO);
            assert!(link.is_closed());
            assert_eq!(links.count(), (0, 0));
        });
    }
}
