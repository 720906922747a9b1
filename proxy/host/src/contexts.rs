//! The contexts of one VM, each found in one step by the number by which guest and embedder know it: plugins, and exchanges,
//! of which they know how far each half is, and so what the guest can reach.

use std::cell::{Cell, RefCell, RefMut};
use std::rc::Rc;

use lacis_abi::{Map, Status};

use crate::limits;
use crate::stream::{ContextId, Half, Headers, Stream};
use crate::trap::Fail;

/// Places of a VM that has its first context. It has more when half of them are taken.
const PLACES: usize = 16;

/// Each has the place that the low bits of its number say. Numbers are given in their order, so two that are alive hardly
/// ever want the same place; where that happens, a number is passed by. Those of a chain of filters are next to each other.
#[derive(Default)]
pub(crate) struct Contexts {
    /// None, or a power of two.
    places: Vec<Option<Context>>,
    alive: usize,
    /// Most that were alive at once since the first place was taken last.
    most: usize,
    last: u32,
}

impl Contexts {
    /// Puts in what `make` makes of a fresh number: never 0 and never one that is in use, for SDKs panic on both. None if
    /// there are as many contexts as there can be.
    #[inline]
    pub(crate) fn insert(&mut self, make: impl FnOnce(ContextId) -> Context) -> Option<ContextId> {
        if self.alive * 2 >= self.places.len() {
            self.grow()?;
        }
        loop {
            self.last = self.last.wrapping_add(1);
            let number = self.last;
            let place = self.place(number);
            if number != 0
                && let Some(free @ None) = self.places.get_mut(place)
            {
                self.alive += 1;
                self.most = self.most.max(self.alive);
                *free = Some(make(ContextId(number)));
                return Some(ContextId(number));
            }
        }
    }

    /// The one of a number.
    #[inline]
    pub(crate) fn get(&self, number: u32) -> Option<&Context> {
        self.places.get(self.place(number))?.as_ref().filter(|context| context.id == number)
    }

    /// The exchange of a number.
    #[inline]
    pub(crate) fn exchange(&self, number: u32) -> Option<&Exchange> {
        self.get(number)?.exchange()
    }

    /// Takes the one of a number out. Whether there was one.
    #[inline]
    pub(crate) fn end(&mut self, number: u32) -> bool {
        let place = self.place(number);
        let own = self.places.get_mut(place).filter(|own| own.as_ref().is_some_and(|context| context.id == number));
        let Some(own) = own else { return false };
        *own = None;
        self.alive -= 1;
        if place == 0 {
            self.round();
        }
        true
    }

    /// Takes one out that nobody was told of: if it is the newest, its number is given once more.
    pub(crate) fn take_back(&mut self, number: u32) {
        if self.end(number) && self.last == number {
            self.last = number.wrapping_sub(1);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.places.clear();
        self.alive = 0;
    }

    pub(crate) fn len(&self) -> usize {
        self.alive
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Context> {
        self.places.iter().flatten()
    }

    #[inline]
    fn place(&self, number: u32) -> usize {
        number as usize & self.places.len().wrapping_sub(1)
    }

    /// Twice as many places. Numbers that have had different ones have different ones then, too.
    #[cold]
    fn grow(&mut self) -> Option<()> {
        let places = (self.places.len() * 2).max(PLACES);
        // Half of the numbers can be in use at most.
        u32::try_from(places).ok()?;
        let old = std::mem::replace(&mut self.places, std::iter::repeat_with(|| None).take(places).collect());
        for context in old.into_iter().flatten() {
            let place = self.place(context.id);
            self.places[place] = Some(context);
        }
        Some(())
    }

    /// All places have had their turn once more. Where few of them were needed at any time of it, and no two contexts want the
    /// same one of half as many, so many they become: what many exchanges took at once is given back.
    #[cold]
    fn round(&mut self) {
        let most = std::mem::replace(&mut self.most, self.alive);
        if self.places.len() <= PLACES || most * 8 > self.places.len() {
            return;
        }
        let half = self.places.len() / 2;
        let (low, high) = self.places.split_at_mut(half);
        if low.iter().zip(&*high).any(|(low, high)| low.is_some() && high.is_some()) {
            return;
        }
        for (low, high) in low.iter_mut().zip(high) {
            *low = low.take().or(high.take());
        }
        self.places.truncate(half);
        self.places.shrink_to_fit();
    }
}

/// One plugin: a root context of a VM.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct PluginSettings {
    /// Its name, for logs and `plugin_name`.
    pub name: String,
    /// Chooses what the module runs, where it holds several filters; mostly empty.
    pub root_id: String,
    /// Its configuration, as the guest reads it in `proxy_on_configure`.
    pub configuration: Vec<u8>,
    /// Envoy's option of this name: a pause at the headers holds only the headers, and the body is shown all the same.
    /// Without it, such a pause stops everything.
    pub allow_on_headers_stop_iteration: bool,
    /// Upstreams that it may call, by their names; none is every one.
    pub upstreams: Option<Vec<String>>,
}

/// A context that the guest knows by its id: a plugin (root context) or an exchange.
pub(crate) struct Context {
    pub(crate) id: u32,
    pub(crate) root: u32,
    pub(crate) plugin: Rc<PluginSettings>,
    pub(crate) kind: Kind,
}

pub(crate) enum Kind {
    Root {
        /// `proxy_on_done` answered false: the context ends when the guest calls `proxy_done`.
        ending: Cell<bool>,
        /// Outcome of its last call-out.
        status: Cell<u32>,
    },
    Exchange(Exchange),
}

pub(crate) struct Exchange {
    pub(crate) id: ContextId,
    pub(crate) stream: Rc<RefCell<dyn Stream>>,
    /// A TCP connection.
    pub(crate) tcp: bool,
    pub(crate) request: Side,
    pub(crate) response: Side,
    pub(crate) life: Cell<Life>,
    pub(crate) replied: Cell<Replied>,
    /// Bytes that the guest has written outside its memory, against [`limits::WRITTEN`].
    pub(crate) written: Cell<u32>,
}

/// How far one half is: the [`Part`]s of it that are here, each in one of three sets. The others are not here yet, or are
/// gone to the next filter, which is all the same to the guest. In sets a half goes by in one step, for every filter.
#[derive(Default)]
pub(crate) struct Side {
    /// Its callback runs.
    running: Cell<u8>,
    /// Its callback runs, and has asked to continue; or another has, for a part that was held. The embedder acts on it
    /// when the callback has returned: until then what is done to a response still counts, as in Envoy, which drops only
    /// its request at once.
    released: Cell<u8>,
    /// Its callback stopped it.
    held: Cell<u8>,
    /// A callback has stopped it, and it has not been resumed since.
    pub(crate) stopped: Cell<bool>,
    /// The body has been shown to its end, and there are no trailers.
    pub(crate) ended: Cell<bool>,
}

/// The bit of a head that was held and has gone on: it can still be reached, as in Envoy, but nothing comes of that once it was written.
/// That of a request only where it went with what follows it, until the guest lets its half go on by itself.
const LEFT: u8 = 8;

/// A head that is held, or was.
const HEAD: u8 = Part::Head as u8 | LEFT;

/// A part of one half: a bit of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Head = 1,
    Body = 2,
    Trailers = 4,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    Open,
    /// Inside `proxy_on_log`.
    Logging,
    Logged,
    /// Inside `proxy_on_done` and `proxy_on_delete`.
    Ended,
}

/// What a guest has answered itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Replied {
    Not,
    /// The request.
    Request,
    /// A response, for which another is to be sent: that may have been its own, which comes back to it as one.
    Response,
}

/// What a guest may do with a header map now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Nothing,
    /// As `Nothing`, but in the log phase, where reading a value answers differently.
    NothingToLog,
    Read,
    Write,
}

impl Context {
    pub(crate) fn exchange(&self) -> Option<&Exchange> {
        match &self.kind {
            Kind::Exchange(exchange) => Some(exchange),
            Kind::Root { .. } => None,
        }
    }
}

impl Exchange {
    pub(crate) fn new(id: ContextId, stream: Rc<RefCell<dyn Stream>>, tcp: bool) -> Exchange {
        Exchange {
            id,
            stream,
            tcp,
            request: Side::default(),
            response: Side::default(),
            life: Cell::new(Life::Open),
            replied: Cell::new(Replied::Not),
            written: Cell::new(0),
        }
    }

    /// The stream, for the length of one host call.
    pub(crate) fn stream(&self) -> Result<RefMut<'_, dyn Stream + 'static>, Fail> {
        let mut stream = self.borrow()?;
        stream.asked_by(self.id);
        Ok(stream)
    }

    #[inline]
    fn borrow(&self) -> Result<RefMut<'_, dyn Stream + 'static>, Fail> {
        self.stream.try_borrow_mut().map_err(|_| Fail::host("the embedder holds a Stream across a guest call"))
    }

    /// Runs `f` on a header map that the guest may [write](crate::state::State::writable), and says how many lines that has then
    /// ([`Headers::lines`]); the ABI's `BadArgument` if there is none.
    #[inline]
    pub(crate) fn edit(&self, map: Map, f: impl FnOnce(&mut dyn Headers)) -> Result<Option<u32>, Fail> {
        let edited = self.headers(map, |headers| {
            f(headers);
            headers.lines()
        });
        edited?.ok_or(Status::BadArgument.into())
    }

    /// Runs `f` on a header map, if it is there.
    #[inline]
    pub(crate) fn headers<R>(&self, map: Map, f: impl FnOnce(&mut dyn Headers) -> R) -> Result<Option<R>, Fail> {
        Ok(self.borrow()?.headers(map).map(f))
    }

    pub(crate) fn side(&self, half: Half) -> &Side {
        match half {
            Half::Request => &self.request,
            Half::Response => &self.response,
        }
    }

    /// Bytes that the guest sees of a body. None while the embedder holds the stream, which the first host call tells.
    pub(crate) fn body_len(&self, half: Half) -> u32 {
        let len = self.stream().ok().and_then(|mut stream| Some(stream.body(half)?.len()));
        u32::try_from(len.unwrap_or(0)).unwrap_or(u32::MAX)
    }

    /// Counts what the guest is about to write outside its memory; `InternalFailure` when it is too much.
    #[inline]
    pub(crate) fn charge(&self, bytes: usize) -> Result<(), Status> {
        const _: () = assert!(limits::WRITTEN <= u32::MAX as usize);
        let total = bytes.saturating_add(limits::ENTRY + self.written.get() as usize);
        if total > limits::WRITTEN {
            return Err(Status::InternalFailure);
        }
        self.written.set(total as u32);
        Ok(())
    }

    /// Whether the guest may reach a body now: that of the request, too, when it has let it go on in the same callback.
    pub(crate) fn reaches_body(&self, half: Half) -> bool {
        let side = self.side(half);
        self.life.get() == Life::Open && (side.is_here(Part::Body) || side.is_released(Part::Body))
    }

    /// Trailers can be made where there are none, at the end of the body.
    fn reaches_trailers(&self, half: Half) -> bool {
        self.reaches(half, Part::Trailers) || self.side(half).ended.get() && self.reaches(half, Part::Body)
    }

    #[inline]
    fn reaches_head(&self, half: Half) -> bool {
        self.reaches(half, Part::Head) || self.side(half).held.get() & LEFT != 0
    }

    #[inline]
    fn reaches(&self, half: Half, part: Part) -> bool {
        let side = self.side(half);
        side.is_here(part) || half == Half::Response && side.is_released(part)
    }

    /// Envoy's rule: a head, or trailers, can be reached while they are here or held, and heads and the response's
    /// trailers can be read in the log phase.
    #[inline]
    pub(crate) fn access(&self, map: Map) -> Access {
        match self.life.get() {
            Life::Logging => match map {
                Map::RequestHeaders | Map::ResponseHeaders | Map::ResponseTrailers => Access::Read,
                _ => Access::NothingToLog,
            },
            Life::Logged | Life::Ended => Access::Nothing,
            Life::Open => {
                let reachable = match map {
                    Map::RequestHeaders => self.reaches_head(Half::Request),
                    Map::RequestTrailers => self.reaches_trailers(Half::Request),
                    Map::ResponseHeaders => self.reaches_head(Half::Response),
                    Map::ResponseTrailers => self.reaches_trailers(Half::Response),
                    _ => false,
                };
                if reachable { Access::Write } else { Access::Nothing }
            }
        }
    }
}

impl Side {
    /// Whether a callback runs for a part, or has stopped it.
    pub(crate) fn is_here(&self, part: Part) -> bool {
        (self.running.get() | self.held.get()) & part as u8 != 0
    }

    fn is_released(&self, part: Part) -> bool {
        self.released.get() & part as u8 != 0
    }

    /// A part has been shown to the guest, whose answer is that it goes on, or not. False means that it does not.
    pub(crate) fn settle(&self, part: Part, goes_on: bool) -> bool {
        let goes_on = goes_on || self.is_released(part);
        if goes_on {
            self.go();
        } else {
            self.running.set(self.running.get() & !(part as u8));
            self.held.set(self.held.get() | part as u8);
        }
        self.stopped.set(!goes_on);
        goes_on
    }

    /// The guest lets it go on. True when it was stopped and waits for that; false when its own callback runs.
    pub(crate) fn release(&self, half: Half) -> bool {
        let (running, held) = (self.running.take(), self.held.take());
        self.released.set(self.released.get() | running | held);
        if half == Half::Response && held & HEAD != 0 {
            self.held.set(LEFT);
        }
        running == 0 && self.stopped.replace(false)
    }

    /// A callback of this half begins: what was let go before has gone.
    #[inline]
    pub(crate) fn begin(&self, part: Part) {
        self.released.set(0);
        self.held.set(self.held.get() & !(part as u8));
        self.running.set(self.running.get() | part as u8);
    }

    /// A part goes by, and everything that was held goes with it: as if it [began](Side::begin) and was
    /// [settled](Side::settle).
    #[inline]
    pub(crate) fn pass(&self) {
        self.go();
        self.stopped.set(false);
    }

    /// Everything that is here goes.
    #[inline]
    pub(crate) fn go(&self) {
        self.running.set(0);
        self.released.set(0);
        self.held.set(if self.held.get() & HEAD == 0 { 0 } else { LEFT });
    }

    /// A part that was stopped is gone all the same: no other callback reaches it.
    pub(crate) fn forget(&self, part: Part) {
        self.held.set(self.held.get() & !(part as u8));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(id: ContextId) -> Context {
        let kind = Kind::Root { ending: Cell::new(false), status: Cell::new(0) };
        Context { id: id.0, root: id.0, plugin: Rc::default(), kind }
    }

    #[test]
    fn a_number_outlives_its_context_and_finds_no_other() {
        let mut contexts = Contexts::default();
        assert!(contexts.get(0).is_none() && contexts.get(1).is_none(), "none at all");
        for number in 1..=PLACES as u32 * 3 {
            assert_eq!(contexts.insert(root), Some(ContextId(number)), "ever new numbers");
            assert_eq!((contexts.get(number).unwrap().id, contexts.len()), (number, 1));
            assert!(contexts.end(number) && !contexts.end(number));
            assert!((0..=number + 1).all(|number| contexts.get(number).is_none()));
        }
        assert_eq!(contexts.places.len(), PLACES);
        let ContextId(last) = contexts.insert(root).unwrap();
        assert!(contexts.get(last).is_some() && contexts.get(last - PLACES as u32).is_none());
        contexts.clear();
        assert_eq!((contexts.len(), contexts.get(last).is_some()), (0, false));
    }

    #[test]
    fn many_are_found_and_numbers_in_use_are_passed_by() {
        let mut contexts = Contexts::default();
        let numbers: Vec<u32> = (0..1000).map(|_| contexts.insert(root).unwrap().0).collect();
        assert!(numbers.iter().all(|number| contexts.get(*number).is_some_and(|context| context.id == *number)));
        assert_eq!((contexts.len(), contexts.iter().count()), (1000, 1000));
        for number in &numbers[1..] {
            contexts.end(*number);
        }
        // The first is still there, and numbers begin anew.
        contexts.last = u32::MAX - 1;
        let numbers: Vec<u32> = (0..2).map(|_| contexts.insert(root).unwrap().0).collect();
        assert_eq!(numbers, [u32::MAX, 2], "not 0, and not the first's");
    }

    #[test]
    fn places_that_many_took_are_given_back_and_those_who_stay_are_found() {
        let mut contexts = Contexts::default();
        let plugin = Rc::new(Default::default());
        let make = |id: ContextId| Context { plugin: Rc::clone(&plugin), ..root(id) };
        let numbers: Vec<u32> = (0..1000).map(|_| contexts.insert(make).unwrap().0).collect();
        let places = contexts.places.len();
        for number in &numbers[1..999] {
            contexts.end(*number);
        }
        assert_eq!(Rc::strong_count(&plugin), 3, "what has ended holds nothing");
        for _ in 0..20 * places {
            let ContextId(number) = contexts.insert(root).unwrap();
            contexts.end(number);
        }
        assert!(contexts.places.len() <= 4 * PLACES, "{}", contexts.places.len());
        assert!([1, 1000].into_iter().all(|number| contexts.get(number).is_some_and(|own| own.id == number)));
        // 1 and 17 want one place of 16.
        let mut contexts = Contexts::default();
        (0..40).for_each(|_| _ = contexts.insert(root));
        (2..=40).filter(|number| *number != 17).for_each(|number| _ = contexts.end(number));
        for _ in 0..4 {
            contexts.round();
        }
        assert!(contexts.places.len() == 2 * PLACES && contexts.get(1).is_some() && contexts.get(17).is_some());
    }
}
