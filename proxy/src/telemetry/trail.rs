//! How a request travelled: written by whoever sends it, read by whoever accounts for it.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::labels::Link;
use super::why::{Answer, Because, Candidate, Chosen, First, Record, Stage, Store, What};
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
    /// What counts it from its beginning.
    held: RefCell<[Option<Rc<dyn Busy>>; 2]>,
    expired: Cell<bool>,
    due: Cell<Option<Instant>>,
    /// Only where somebody may ask why it ended as it did.
    record: RefCell<Option<Box<Record>>>,
    telling: Cell<Telling>,
    is_asked: Cell<bool>,
    is_grpc: Cell<bool>,
    /// Of the first try, beside what is above.
    because: Cell<Because>,
    chosen: Cell<Chosen>,
    answer: Cell<Answer>,
    /// Where it came from, for who asked for that.
    source: Cell<Option<IpAddr>>,
    /// The hash and the token by which it finds its endpoint, where that is by a key of its own.
    key: Cell<[Option<u64>; 2]>,
}

/// How a request is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Telling {
    /// Not at all.
    Off,
    /// By steps.
    Steps,
    /// By what is here of the first try, until something else is noted.
    First(Stage),
}

/// What is known of a connection that carries requests, for those who ask.
#[derive(Debug, Default)]
pub struct Carrier {
    /// Our end of it.
    pub local: Option<SocketAddr>,
    /// What its TLS has shown of both ends: ours, the other's. None without TLS.
    pub ends: Option<(Arc<Peer>, Arc<Peer>)>,
}

/// Something that carries requests and counts them.
pub trait Busy {
    /// One request fewer.
    fn end(&self);

    /// It was answered by whom it was sent to, after this time.
    fn answered(&self, _took: Duration, _now: Instant) {}

    /// Its answer did not come in time.
    fn late(&self) {}
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
            held: RefCell::default(),
            expired: Cell::new(false),
            due: Cell::new(None),
            record: RefCell::new(None),
            telling: Cell::new(Telling::Off),
            is_asked: Cell::new(false),
            is_grpc: Cell::new(false),
            because: Cell::new(Because::Configured),
            chosen: Cell::default(),
            answer: Cell::default(),
            source: Cell::new(None),
            key: Cell::new([None; 2]),
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

    /// This was known of where it is about to be sent; `rival` is what that was compared with.
    pub fn chose(&self, chosen: Chosen, rival: Option<Candidate>) {
        if self.telling.get() == Telling::Steps {
            self.chosen.set(chosen);
            self.telling.set(Telling::First(Stage::Chosen));
            if let Some(rival) = rival {
                self.write(|record| record.compared(rival));
            }
        } else if let Some(address) = self.address.get() {
            self.note(|own| chosen.step(address, rival, own));
        }
    }

    /// This kind of link is to carry it, for this.
    #[inline]
    pub fn over(&self, link: Link, because: Because) {
        if self.telling.get() == Telling::First(Stage::Chosen) {
            self.because.set(because);
            self.telling.set(Telling::First(Stage::Linked));
        } else {
            self.note(|_| What::Link(link, because));
        }
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
        if self.telling.get() == Telling::First(Stage::Linked) {
            self.telling.set(Telling::First(Stage::Sent));
        } else {
            self.note_at(now, |_| What::Sent);
        }
        self.sent.set(Some(now));
        self.carrier.replace(Some(on));
    }

    /// What was sent last is answered; it is noted here only.
    #[inline]
    pub fn noted(&self, answer: Answer) {
        if self.telling.get() == Telling::First(Stage::Sent) {
            self.answer.set(answer);
            self.telling.set(Telling::First(Stage::Answered));
        } else if let Some(sent) = self.sent.get() {
            let Answer { status, code, took } = answer;
            self.note_at(sent + took, |_| What::Answered(status, code, took));
        }
    }

    /// From now on it is noted what becomes of it: because somebody asked for that, or not; of gRPC, or not.
    pub fn record(&self, record: Box<Record>, asked: bool, grpc: bool) {
        self.telling.set(Telling::Steps);
        self.is_asked.set(asked);
        self.is_grpc.set(grpc);
        self.record.replace(Some(record));
    }

    /// Whether it is noted what becomes of it.
    #[inline]
    pub fn is_recorded(&self) -> bool {
        self.telling.get() != Telling::Off
    }

    /// Notes what happened, if that is wanted.
    #[inline]
    pub fn note(&self, what: impl FnOnce(&mut Store) -> What) {
        if self.is_recorded() {
            self.tell(None, what);
        }
    }

    /// Notes what happened at this moment, if that is wanted.
    #[inline]
    pub fn note_at(&self, at: Instant, what: impl FnOnce(&mut Store) -> What) {
        if self.is_recorded() {
            self.tell(Some(at), what);
        }
    }

    #[inline(never)]
    fn tell(&self, at: Option<Instant>, what: impl FnOnce(&mut Store) -> What) {
        let first = self.first();
        self.telling.set(Telling::Steps);
        self.write(|record| {
            if let Some(first) = first {
                record.tried(&first);
            }
            record.note(at, what);
        });
    }

    /// The first try, if nothing was noted since it began.
    #[inline]
    pub fn first(&self) -> Option<First> {
        let Telling::First(stage) = self.telling.get() else { return None };
        Some(First {
            address: self.address.get()?,
            chosen: self.chosen.get(),
            stage,
            link: self.link.get(),
            because: self.because.get(),
            sent: self.sent.get(),
            answer: self.answer.get(),
        })
    }

    /// Changes the record, if there is one.
    #[inline]
    pub fn write(&self, change: impl FnOnce(&mut Record)) {
        if let Some(record) = self.record.borrow_mut().as_deref_mut() {
            change(record);
        }
    }

    /// By this id it is known across the mesh.
    #[inline]
    pub fn identify(&self, id: &[u8]) {
        if self.is_recorded() {
            self.write(|record| record.identify(id));
        }
    }

    /// Whether it is recorded, and a request of gRPC.
    #[inline]
    pub fn is_recorded_grpc(&self) -> bool {
        self.is_grpc.get()
    }

    /// Whether somebody asked for the record.
    #[inline]
    pub fn is_asked(&self) -> bool {
        self.is_asked.get()
    }

    /// What was noted, but for the first try; there is none any more then.
    #[inline]
    pub fn recorded(&self) -> Option<Box<Record>> {
        if self.telling.replace(Telling::Off) == Telling::Off { None } else { self.record.take() }
    }

    /// It is sent once more, beside what carries it.
    pub fn doubled(&self) {
        self.attempts.set(self.attempts.get().saturating_add(1));
    }

    /// What was sent beside it has won: it travelled that way.
    pub fn adopt(&self, other: &Trail) {
        self.address.set(other.address.get());
        self.link.set(other.link.get());
        self.sent.set(other.sent.get());
        self.carrier.replace(other.carrier.take());
        if let Some(busy) = other.busy.take() {
            self.carried(busy);
        }
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

    /// This counts it, too, until it ends; there is room for two.
    pub fn held_by(&self, by: Rc<dyn Busy>) {
        match self.held.borrow_mut().iter_mut().find(|place| place.is_none()) {
            Some(place) => *place = Some(by),
            None => by.end(),
        }
    }

    /// The head of its answer is here. Tells those who [hold](Trail::held_by) it, if it was sent.
    pub fn answered(&self) {
        let held = self.held.borrow();
        if held.iter().any(Option::is_some)
            && let Some(sent) = self.sent.get()
        {
            let now = Instant::now();
            let took = now.saturating_duration_since(sent);
            held.iter().flatten().for_each(|by| by.answered(took, now));
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

    /// It came from there.
    pub fn came_from(&self, source: IpAddr) {
        self.source.set(Some(source));
    }

    /// It finds its endpoint by this hash, or by this token. Kept here, and not by who sends it: each request would hold
    /// room for it there.
    pub fn seeks(&self, hash: Option<u64>, token: Option<u64>) {
        self.key.set([hash, token]);
    }

    /// The hash and the token by which it finds its endpoint.
    pub fn key(&self) -> [Option<u64>; 2] {
        self.key.get()
    }

    /// Where it came from, if that was said.
    pub fn source(&self) -> Option<IpAddr> {
        self.source.get()
    }

    /// It is given up, because no answer came in time.
    pub fn expire(&self) {
        self.expired.set(true);
        if let Some(busy) = self.busy.borrow().as_ref() {
            busy.late();
        }
    }

    /// Whether it was given up because no answer came in time.
    pub fn is_expired(&self) -> bool {
        self.expired.get()
    }

    /// The exchange is over.
    pub fn end(&self) {
        self.put_down();
        self.held.take().into_iter().flatten().for_each(|by| by.end());
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
