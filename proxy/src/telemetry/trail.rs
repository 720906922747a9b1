//! How a request travelled: written by whoever sends it, read by whoever accounts for it.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use super::labels::Link;

/// The way of one request.
pub struct Trail {
    link: Cell<Link>,
    address: Cell<Option<SocketAddr>>,
    attempts: Cell<u16>,
    /// When it was last sent.
    sent: Cell<Option<Instant>>,
    /// Who has to be at the other end.
    identity: RefCell<Option<Rc<str>>>,
    busy: RefCell<Option<Rc<dyn Busy>>>,
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
            identity: RefCell::new(None),
            busy: RefCell::new(None),
        }
    }
}

impl Trail {
    /// It is about to be sent there.
    pub fn attempt(&self, address: SocketAddr) {
        self.address.set(Some(address));
        self.attempts.set(self.attempts.get() + 1);
    }

    /// Only this identity (SPIFFE) is taken at the other end; none if there are several.
    pub fn to(&self, identity: Option<&Rc<str>>) {
        self.identity.replace(identity.map(Rc::clone));
    }

    /// This kind of link is to carry it.
    pub fn over(&self, link: Link) {
        self.link.set(link);
    }

    /// This carries it from now on, until it ends or something else does.
    pub fn carried(&self, by: Rc<dyn Busy>, now: Instant) {
        self.sent.set(Some(now));
        if let Some(before) = self.busy.replace(Some(by)) {
            before.end();
        }
    }

    /// The exchange is over.
    pub fn end(&self) {
        if let Some(busy) = self.busy.take() {
            busy.end();
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

    /// The only identity that is taken at the other end, if there is just one.
    pub fn identity(&self) -> Option<Rc<str>> {
        self.identity.borrow().clone()
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
