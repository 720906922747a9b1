//! Several callbacks in one entry of the guest, by the functions of `joint.rs`, and what the host does between them.

pub(crate) mod response;

use std::cell::RefCell;
use std::rc::Rc;

use lacis_abi::{HeadersAnswer, Level};
use wasmtime::{AsContextMut, Global, TypedFunc, Val, WasmParams, WasmResults};

use super::http::Scene;
use super::{ContextId, RootId, Runner, Vm};
use crate::calls::headers::Edited;
use crate::calls::{Answer, Call, When};
use crate::contexts::Contexts;
use crate::exports::{BODY, HEADERS};
use crate::joint::{MOST_BEGIN, MOST_END};
use crate::state::{Life, Part, Phase, Replied, State};
use crate::stream::{Half, HeadersAction, Stream};
use crate::trap::Trap;

/// The globals by which the host knows how far an entry is, ends it, and says how many lines the head has that is shown and
/// from which level on lines are logged.
#[derive(Clone, Copy)]
pub(crate) struct Counters {
    pub(crate) step: Global,
    pub(crate) stop: Global,
    pub(crate) lines: Global,
    pub(crate) quiet: Global,
}

/// The callbacks of one entry, and how far the host has followed them: those before `at` have returned.
#[derive(Debug)]
pub(crate) struct Turn {
    kind: Kind,
    /// What is shown is the last.
    end: bool,
    /// The context of the first callback, and how many there are; where several exchanges end, of the one that is told.
    first: u32,
    contexts: u32,
    /// Which exchange that is, and the callback with which it begins.
    exchange: usize,
    from: u32,
    /// How many callbacks there are, and the first that is shown content, if any is.
    steps: u32,
    content: u32,
    at: u32,
    /// The callback whose time is taken.
    timed: u32,
    /// What had been answered before the callback began.
    replied: Replied,
    /// The callback that runs is the last.
    stopped: bool,
    /// How many lines the head has that is shown, as the guest knows it.
    lines: u32,
}

/// The callback of an entry that began last, and what had been answered before.
struct Last {
    step: u32,
    context: u32,
    replied: Replied,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Each context is made and sees the head of the request. Contexts are numbered upwards.
    Begin,
    /// Each sees the head of the response. Contexts are numbered downwards.
    Heads,
    /// Of each exchange all log, then each is done and deleted. Contexts are numbered upwards in each.
    End,
    /// Each sees content of the response. Contexts are numbered downwards.
    Body,
    /// Each sees the head of the response, then each all of its content. Contexts are numbered downwards.
    Response,
}

impl Turn {
    fn new(kind: Kind, first: ContextId, contexts: u32) -> Turn {
        let (steps, content) = match kind {
            Kind::Begin => (contexts * 2, u32::MAX),
            Kind::Heads => (contexts, u32::MAX),
            Kind::End => (contexts * 3, u32::MAX),
            Kind::Body => (contexts, 0),
            Kind::Response => (contexts * 2, contexts),
        };
        let (at, from, timed, lines) = (0, 0, 0, 0);
        Turn {
            kind,
            end: false,
            first: first.0,
            contexts,
            exchange: 0,
            from,
            steps,
            content,
            at,
            timed,
            replied: Replied::Not,
            stopped: false,
            lines,
        }
    }

    fn of_head(kind: Kind, first: ContextId, contexts: u32, lines: u32) -> Turn {
        Turn { lines, ..Turn::new(kind, first, contexts) }
    }

    /// The context that a callback is for.
    fn context(&self, step: u32) -> u32 {
        match self.kind {
            Kind::Begin => self.first + step / 2,
            Kind::End => match step - self.from {
                step if step < self.contexts => self.first + step,
                step => self.first + (step - self.contexts) / 2,
            },
            Kind::Heads | Kind::Body | Kind::Response if step < self.contexts => self.first - step,
            Kind::Heads | Kind::Body | Kind::Response => self.first - (step - self.contexts),
        }
    }

    /// Whether a callback is shown content.
    fn shows_body(&self, step: u32) -> bool {
        step >= self.content
    }

    /// Whether there are callbacks between those that the host has followed and this one.
    #[inline]
    pub(crate) fn is_behind(&self, step: u32) -> bool {
        self.at < step
    }

    /// Whether this is a context that is made later.
    pub(crate) fn is_ahead(&self, context: u32) -> bool {
        self.kind == Kind::Begin && context > self.context(self.at) && context - self.first < self.contexts
    }

    /// Whether a head is shown to others yet, or what follows it is.
    fn shows_head(&self) -> bool {
        let heads = match self.kind {
            Kind::Begin | Kind::Heads => self.steps - 1,
            Kind::Response => self.contexts,
            Kind::End | Kind::Body => 0,
        };
        self.at < heads && !self.stopped
    }

    /// Whether a context is made in this step, of which nothing is to be done outside.
    fn makes(&self, step: u32) -> bool {
        self.kind == Kind::Begin && step.is_multiple_of(2)
    }

    /// Whether a call of the host has this callback be the last.
    fn ends_by(&self, when: When) -> bool {
        // Of one that is shown content, what it does may concern those who would come next.
        let ends = self.shows_body(self.at) || when == When::Last && self.kind != Kind::End;
        ends && !self.stopped
    }

    /// The callback that runs.
    pub(super) fn callback(&self) -> &'static str {
        let step = self.at;
        match self.kind {
            Kind::Begin if step.is_multiple_of(2) => "proxy_on_context_create",
            Kind::Begin => HEADERS[Half::Request as usize],
            _ if self.shows_body(step) => BODY[Half::Response as usize],
            Kind::Heads | Kind::Body | Kind::Response => HEADERS[Half::Response as usize],
            Kind::End => match step - self.from {
                step if step < self.contexts => "proxy_on_log",
                step if (step - self.contexts).is_multiple_of(2) => "proxy_on_done",
                _ => "proxy_on_delete",
            },
        }
    }

    /// Whether the callback that runs is not the one whose time was taken so far; from now on it is.
    pub(crate) fn is_another(&mut self) -> bool {
        std::mem::replace(&mut self.timed, self.at) != self.at
    }
}

/// A call of the host, when the entry is so far: what is to be done between the callbacks that have returned is done, so that
/// it finds what it would in an entry of its own. None of them has made one.
pub(crate) fn called(call: &mut Call<'_>, when: When, step: u32) {
    let state = call.data_mut();
    state.follow(step);
    if state.turn.as_ref().is_some_and(|turn| turn.ends_by(when)) {
        stop(call);
    }
}

/// A call of the host that changes headers. What it does to the head that is shown the next is told of, unless the embedder is
/// to see to that first.
#[inline]
pub(crate) fn edited(call: &mut Call<'_>, edit: impl FnOnce(&mut Call<'_>) -> Edited) -> Answer {
    let lines = edit(call)?;
    if call.data().turn.as_ref().is_some_and(|turn| turn.shows_head() && lines != Some(turn.lines)) {
        tell(call, lines);
    }
    Ok(())
}

/// The head that is shown the next has so many lines now; or the embedder is to see to it first.
fn tell(call: &mut Call<'_>, lines: Option<u32>) {
    let state = call.data();
    let (Some(lines), Some(counters)) = (lines, state.counters) else { return stop(call) };
    if state.turn.as_ref().is_some_and(|turn| turn.kind == Kind::Response && turn.at + 1 == turn.contexts) {
        // What is shown next is content.
        return;
    }
    // The global is there, and of this type.
    _ = counters.lines.set(&mut *call, Val::I32(lines.cast_signed()));
    if let Some(turn) = &mut call.data_mut().turn {
        turn.lines = lines;
    }
}

/// The callback that runs is the last of its entry.
#[cold]
fn stop(call: &mut Call<'_>) {
    if let Some(counters) = call.data().counters {
        // The global is there, and of this type.
        _ = counters.stop.set(&mut *call, Val::I32(1));
    }
    if let Some(turn) = &mut call.data_mut().turn {
        turn.stopped = true;
    }
}

/// As [`called`], where the guest did not say how far the entry is.
#[cold]
pub(crate) fn look(mut store: impl AsContextMut<Data = State>) {
    let mut store = store.as_context_mut();
    if store.data().turn.is_some() {
        let step = step(&mut store);
        store.data_mut().follow(step);
    }
}

/// How many callbacks of this entry have begun, but for the first.
fn step(mut store: impl AsContextMut<Data = State>) -> u32 {
    let mut store = store.as_context_mut();
    let step = store.data().counters.map(|counters| counters.step.get(&mut store));
    step.and_then(|step| u32::try_from(step.i32()?).ok()).unwrap_or(0)
}

/// What a function answers that was added: the answer of the last callback, and which one that was.
fn answered(result: u64) -> (u32, u32) {
    (result as u32, (result >> 32) as u32)
}

impl State {
    /// See [`State::follow`].
    pub(crate) fn catch_up(&mut self, step: u32) {
        let State { turn: Some(turn), contexts, ending, .. } = self else { return };
        turn.advance(step.min(turn.steps - 1), ending, contexts);
        let number = turn.context(turn.at);
        let shows_body = turn.shows_body(turn.at);
        // Host calls are for the context of the callback that runs.
        self.context = number;
        self.called = number;
        if shows_body
            && let Some(exchange) = self.exchange()
            && let Ok(mut stream) = exchange.stream()
        {
            stream.shown(exchange.id);
        }
    }

    /// The entry has returned, and this callback was the last that began; of the last of all more is to be known, too, if it
    /// is the number of all.
    fn returned(&mut self, step: u32) -> Option<Last> {
        let State { turn: Some(turn), contexts, ending, .. } = self else { return None };
        turn.advance(step.min(turn.steps - 1), ending, contexts);
        let last = Last { step: turn.at, context: turn.context(turn.at), replied: turn.replied };
        self.turn = None;
        Some(last)
    }
}

impl Turn {
    /// The callback at which the turn is is about to begin, as far as others can see that.
    #[inline]
    fn reach(&mut self, contexts: &Contexts) {
        if self.makes(self.at) {
            return;
        }
        let Some(exchange) = contexts.exchange(self.context(self.at)) else { return };
        match self.kind {
            Kind::Begin => exchange.request.begin(Part::Head),
            _ if self.shows_body(self.at) => {
                exchange.response.begin(Part::Body);
                exchange.response.ended.set(self.end);
            }
            Kind::Heads | Kind::Body | Kind::Response => exchange.response.begin(Part::Head),
            Kind::End if self.at - self.from < self.contexts => exchange.life.set(Life::Logging),
            Kind::End => exchange.life.set(Life::Ended),
        }
        self.replied = exchange.replied.get();
    }

    /// Callbacks before this one have returned, and let go on what they were shown, whether each was [reached](Turn::reach), or
    /// began and returned unseen; and this one has begun, or none has, when it is the number of all.
    fn advance(&mut self, to: u32, ending: &[(ContextId, u32)], contexts: &mut Contexts) {
        if self.at >= to {
            return;
        }
        match self.kind {
            Kind::Begin => {
                // One that nobody has seen yet is as it was made: nothing of it is held.
                if let Some(exchange) = contexts.exchange(self.context(self.at)) {
                    exchange.request.pass();
                }
            }
            Kind::Heads | Kind::Body | Kind::Response => {
                for step in self.at..to {
                    let Some(exchange) = contexts.exchange(self.context(step)) else { continue };
                    exchange.response.pass();
                    if self.shows_body(step) {
                        exchange.response.ended.set(self.end);
                    }
                }
            }
            Kind::End => self.close(to, ending, contexts),
        }
        self.at = to;
        if to < self.steps {
            self.reach(contexts);
        }
    }

    /// Callbacks at the end of exchanges have returned: of one after the other.
    fn close(&mut self, to: u32, ending: &[(ContextId, u32)], contexts: &mut Contexts) {
        loop {
            let next = self.from + self.contexts * 3;
            self.close_one(to.min(next), contexts);
            let Some((first, count)) = ending.get(self.exchange + 1).filter(|_| to >= next) else { return };
            (self.first, self.contexts, self.from, self.at) = (first.0, *count, next, next);
            self.exchange += 1;
        }
    }

    fn close_one(&self, to: u32, contexts: &mut Contexts) {
        let (at, to) = (self.at - self.from, to - self.from);
        // After the log callbacks of all there are two of each.
        let gone = |step: u32| step.saturating_sub(self.contexts) / 2;
        if to < self.contexts * 3 {
            let logged = |step: u32| self.first + step.min(self.contexts);
            for number in logged(at)..logged(to) {
                if let Some(exchange) = contexts.exchange(number) {
                    exchange.life.set(Life::Logged);
                }
            }
        }
        for number in self.first + gone(at)..self.first + gone(to) {
            contexts.end(number);
        }
    }
}

impl ContextId {
    /// The one that is made so many after this one, as long as numbers are not used again.
    pub fn after(self, count: u32) -> Option<ContextId> {
        self.0.checked_add(count).map(ContextId)
    }
}

impl Runner {
    /// Has the guest know which lines are dropped. It is told of none that it may not log: the host refuses these.
    #[cold]
    pub(super) fn learn(&mut self, levels: u32) {
        let state = self.store.data_mut();
        let (Some(counters), Ok(world)) = (state.counters, state.world.try_borrow()) else { return };
        let level = if state.logs { world.level() } else { Level::Trace };
        drop(world);
        state.levels = levels;
        // The global is there, and of this type.
        _ = counters.quiet.set(&mut self.store, Val::I32(level as i32));
    }

    /// Enters for the callbacks of a turn, which begins with this context, and leaves it in the state.
    fn take<P: WasmParams, R: WasmResults>(
        &mut self,
        turn: Turn,
        function: &TypedFunc<P, R>,
        parameters: P,
    ) -> Result<R, Trap> {
        let first = turn.first;
        let state = self.store.data_mut();
        state.turn.insert(turn).reach(&state.contexts);
        self.call(function, parameters, first, Phase::Running).map_err(|error| {
            look(&mut self.store);
            let callback = self.store.data().turn.as_ref().map_or("", Turn::callback);
            self.die(callback, &error)
        })
    }
}

impl Vm {
    /// Most exchanges that [`Vm::begin`] takes at once.
    pub const MOST_BEGIN: usize = MOST_BEGIN;

    /// Most exchanges that [`Vm::end`] ends in one entry of the guest.
    pub const MOST_END: usize = MOST_END;

    /// Makes a context for an exchange without a word to the guest: [`Vm::begin`] must follow, or [`Vm::create`].
    #[inline]
    pub fn admit(&mut self, root: RootId, stream: Rc<RefCell<dyn Stream>>) -> Result<ContextId, Trap> {
        self.insert(root, stream, false)
    }

    /// Tells the guest of an admitted exchange: with it, what [`Vm::open`] does.
    pub fn create(&mut self, id: ContextId) -> Result<(), Trap> {
        const CALLBACK: &str = "proxy_on_context_create";
        let root = self.context(id.0, CALLBACK)?.root;
        let created = self.enter(CALLBACK, |e| e.context_create.as_ref(), (id.0, root), id.0, Phase::Running);
        created.map(drop)
    }

    /// Takes back an exchange that was admitted, of which the guest was told nothing. Where several are taken back, the newest
    /// first, their numbers are given once more.
    pub fn dismiss(&mut self, id: ContextId) {
        self.runner.store.data_mut().contexts.take_back(id.0);
    }

    /// Tells the guest of `count` admitted exchanges, numbered upwards from this one, and shows them the head of their
    /// request: of each `proxy_on_context_create` and what [`Vm::on_headers`] does, until one does not let it go on, or has the
    /// embedder look at what it did. Which of them that is, and what becomes of the head; if it goes on and it is the last of
    /// all, all have let it go on. The guest knows nothing yet of those after it. At most [`Vm::MOST_BEGIN`].
    ///
    /// # Errors
    /// A trap, and which of them met it.
    pub fn begin(
        &mut self,
        first: ContextId,
        count: u32,
        lines: u32,
        end: bool,
    ) -> Result<(u32, HeadersAction), (u32, Trap)> {
        const CALLBACK: &str = "proxy_on_context_create";
        let root = self.context(first.0, CALLBACK).map_err(|trap| (0, trap))?.root;
        let Some(function) = &self.exports.joined.begin else {
            let shown = self.create(first).and_then(|()| self.on_headers(first, Half::Request, lines, end));
            return shown.map(|action| (0, action)).map_err(|trap| (0, trap));
        };
        // There is no number after the last.
        let count = count.min(MOST_BEGIN as u32).min(u32::MAX - first.0).max(1);
        let contexts = &self.runner.store.data().contexts;
        let mut roots = [root; MOST_BEGIN];
        for (index, root) in (1..count).zip(&mut roots[1..]) {
            *root = contexts.get(first.0 + index).map_or(0, |context| context.root);
        }
        let [a, b, c, d, e, f, g, h] = roots;
        let parameters = (first.0, count, lines, u32::from(end), a, b, c, d, e, f, g, h);
        let turn = Turn::of_head(Kind::Begin, first, count, lines);
        let result = match self.runner.take(turn, function, parameters) {
            Ok(result) => result,
            Err(trap) => return Err((self.met() / 2, trap)),
        };
        self.shown(first, result, Half::Request, end)
    }

    /// The entry ended with a trap: the step that met it.
    fn met(&mut self) -> u32 {
        self.runner.store.data_mut().turn.take().map_or(0, |turn| turn.at)
    }

    /// The callbacks of an entry have been shown a head: which of the contexts has it now, and what becomes of it.
    fn shown(
        &mut self,
        first: ContextId,
        result: u64,
        half: Half,
        end: bool,
    ) -> Result<(u32, HeadersAction), (u32, Trap)> {
        let (answer, step) = answered(result);
        let last = self.runner.store.data_mut().returned(step);
        let Last { step, context, replied } = last.unwrap_or(Last { step: 0, context: first.0, replied: Replied::Not });
        let at = if half == Half::Request { step / 2 } else { step };
        self.delete_done().map_err(|trap| (at, trap))?;
        let Some(context) = self.runner.store.data().contexts.get(context) else {
            return Ok((at, HeadersAction::Continue));
        };
        Ok((at, Scene::of(half, Part::Head, replied).head(context, HeadersAnswer::of(answer), end)))
    }

    /// Ends exchanges one after the other, each with so many contexts numbered upwards from the first: the log callbacks of
    /// all that have not logged, then `proxy_on_done` and `proxy_on_delete` of each. As [`Vm::log`] for all of an exchange, then
    /// [`Vm::close`] for all of it.
    ///
    /// # Errors
    /// A trap, and the context that met it. Those that come after are gone with the guest, as all others are.
    pub fn end(&mut self, exchanges: &[(ContextId, u32)]) -> Result<(), (ContextId, Trap)> {
        exchanges.chunks(MOST_END).try_for_each(|exchanges| self.end_some(exchanges))
    }

    fn end_some(&mut self, exchanges: &[(ContextId, u32)]) -> Result<(), (ContextId, Trap)> {
        let state = self.runner.store.data();
        let is_open = |number: u32| {
            let exchange = state.contexts.exchange(number);
            exchange.is_some_and(|exchange| exchange.life.get() == Life::Open && !exchange.tcp)
        };
        let are_open = |(first, count): &(ContextId, u32)| {
            *count > 0 && first.0.checked_add(*count).is_some_and(|last| (first.0..last).all(is_open))
        };
        let function = self.exports.joined.end.as_ref().filter(|_| exchanges.iter().all(are_open));
        let (Some(function), Some((first, count)), false) = (function, exchanges.first(), self.runner.dead) else {
            return exchanges.iter().try_for_each(|(first, count)| self.end_apart(*first, *count));
        };
        let steps = exchanges.iter().map(|(_, count)| count * 3).sum();
        let state = self.runner.store.data_mut();
        state.ending.clear();
        state.ending.extend_from_slice(exchanges);
        let turn = Turn { steps, ..Turn::new(Kind::End, *first, *count) };
        let place = |index: usize| {
            exchanges.get(index).map_or(0, |(first, count)| u64::from(first.0) | u64::from(*count) << 32)
        };
        let [a, b, c, d, e, f, g, h] = std::array::from_fn(place);
        if let Err(trap) = self.runner.take(turn, function, (a, b, c, d, e, f, g, h)) {
            let turn = self.runner.store.data_mut().turn.take();
            return Err((turn.map_or(*first, |turn| ContextId(turn.context(turn.at))), trap));
        }
        let state = self.runner.store.data_mut();
        if let State { turn: Some(turn), contexts, ending, .. } = state {
            turn.advance(steps, ending, contexts);
        }
        state.turn = None;
        self.delete_done().map_err(|trap| (*first, trap))
    }

    /// The contexts of one exchange, callback by callback.
    fn end_apart(&mut self, first: ContextId, count: u32) -> Result<(), (ContextId, Trap)> {
        let all = || (0..count).map(|index| ContextId(first.0.wrapping_add(index)));
        all().try_for_each(|id| self.log(id).map_err(|trap| (id, trap)))?;
        all().try_for_each(|id| self.close(id).map_err(|trap| (id, trap)))
    }
}
