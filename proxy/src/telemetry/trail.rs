//! How a request travelled: written by whoever sends it, read by whoever accounts for it.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::labels::Link;
use crate::identity::Peer;

/// The way of one request.
pub struct Trail {
    link: Cell<Link>,
    address: Cell<Option<SocketAddr>>,
    attempts: Cell<u16>,
    /// When it was last sent.
    sent: Cell<Option<Instant>>,
    carrier: RefCell<Option<Rc<Carrier>>>,
    busy: RefCell<Option<Rc<dyn Busy>>>,
    admitted: RefCell<Option<Rc<dyn Busy>>>,
    expired: Cell<bool>,
    due: Cell<Option<Instant>>,
}

/// What is known of a connection that carries requests, for those who ask.
#[derive(Debug, Default)]
pub struct Carrier {
    /// Our end of it.
    pub local: Option<SocketAddr>,
    /// What its TLS has shown of both ends: ours, the other's. None without TLS.
    pub ends: Option<(Arc<Peer>, Peer)>,
}

/// Something that carries requests and counts them.
pub trait Busy {
    /// One request fewer.
    fn end(&self);
}

impl Default for Trail {
    fn default() -> Self {
        Trail {
            link: Cell::new(Link::None),
            address: Cell::new(None),
            attempts: Cell::new(0),
            sent: Cell::new(None),
            carrier: RefCell::new(None),
            busy: RefCell::new(None),
            admitted: RefCell::new(None),
            expired: Cell::new(false),
            due: Cell::new(None),
        }
    }
}

impl Trail {
    /// It is about to be sent there.
    pub fn attempt(&self, address: SocketAddr) {
        self.address.set(Some(address));
        self.carrier.take();
        self.attempts.set(self.attempts.get() + 1);
    }

    /// This kind of link is to carry it.
    pub fn over(&self, link: Link) {
        self.link.set(link);
    }

    /// This carries it from now on, until it ends or something else does.
    pub fn carried(&self, by: Rc<dyn Busy>) {
        if let Some(before) = self.busy.replace(Some(by)) {
            before.end();
        }
    }

    /// It is sent now, on this connection.
    pub fn leaves(&self, on: Rc<Carrier>, now: Instant) {
        self.sent.set(Some(now));
        self.carrier.replace(Some(on));
    }

    /// Nothing carries it any more, until it is sent again.
    pub fn put_down(&self) {
        if let Some(busy) = self.busy.take() {
            busy.end();
        }
    }

    /// This counts it until it ends.
    pub fn admitted(&self, by: Rc<dyn Busy>) {
        if let Some(before) = self.admitted.replace(Some(by)) {
            before.end();
        }
    }

    /// Its caller waits until then.
    pub fn wanted(&self, until: Instant) {
        self.due.set(Some(until));
    }

    /// Until when its caller waits, if that is known.
    pub fn due(&self) -> Option<Instant> {
        self.due.get()
    }

    /// It is given up, because no answer came in time.
    pub fn expire(&self) {
        self.expired.set(true);
    }

    /// Whether it was given up because no answer came in time.
    pub fn is_expired(&self) -> bool {
        self.expired.get()
    }

    /// The exchange is over.
    pub fn end(&self) {
        self.put_down();
        if let Some(admitted) = self.admitted.take() {
            admitted.end();
        }
    }

    /// What carried it last.
    pub fn link(&self) -> Link {
        self.link.get()
    }

    /// Where it went last.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address.get()
    }

    /// The connection that it was sent on last; none while one is looked for.
    pub fn carrier(&self) -> Option<Rc<Carrier>> {
        self.carrier.borrow().clone()
    }

    /// When it was last sent; none before that.
    pub fn sent(&self) -> Option<Instant> {
        self.sent.get()
    }

    /// How often it was sent.
    pub fn attempts(&self) -> u16 {
        self.attempts.get()
    }
}

impl Drop for Trail {
    fn drop(&mut self) {
        self.end();
    }
}
