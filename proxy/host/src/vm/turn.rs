//! Several callbacks in one entry of the guest, by the functions of `joint.rs`, and what the host does between them.

use std::cell::RefCell;
use std::rc::Rc;

use lacis_abi::{BodyAnswer, HeadersAnswer};
use wasmtime::{AsContextMut, Global, TypedFunc, Val, WasmParams, WasmResults};

use super::http::Scene;
use super::{ContextId, RootId, Runner, Vm};
use crate::exports::{BODY, HEADERS};
use crate::state::{Context, Life, Phase, State};
use crate::stream::{Half, HeadersAction, Stream};
use crate::trap::Trap;

/// The globals by which the host knows how far an entry is, and ends it.
#[derive(Clone, Copy)]
pub(crate) struct Counters {
    pub(crate) step: Global,
    pub(crate) stop: Global,
}

/// The callbacks of one entry, and how far the host has followed them: those before `at` have returned.
#[derive(Debug)]
pub(crate) struct Turn {
    kind: Kind,
    /// The context of the first callback, and how many there are.
    first: u32,
    contexts: u32,
    at: u32,
    /// The callback whose time is taken.
    timed: u32,
    /// Whether the exchange had been answered before the callback began.
    replied: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A context is made and sees the head of the request.
    Begin,
    /// All log, then each is done and deleted. Contexts are numbered upwards.
    End,
    /// Each sees content of the response, the last one if `end`. Contexts are numbered downwards.
    Body { end: bool },
}

impl Turn {
    fn new(kind: Kind, first: ContextId, contexts: u32) -> Turn {
        Turn { kind, first: first.0, contexts, at: 0, timed: 0, replied: false }
    }

    fn steps(&self) -> u32 {
        match self.kind {
            Kind::Begin => 2,
            Kind::End => self.contexts * 3,
            Kind::Body { .. } => self.contexts,
        }
    }

    /// The context that a callback is for.
    fn context(&self, step: u32) -> u32 {
        match self.kind {
            Kind::Begin => self.first,
            Kind::End if step < self.contexts => self.first + step,
            Kind::End => self.first + (step - self.contexts) / 2,
            Kind::Body { .. } => self.first - step,
        }
    }

    /// The callback that runs.
    pub(super) fn callback(&self) -> &'static str {
        let step = self.at;
        match self.kind {
            Kind::Begin if step == 0 => "proxy_on_context_create",
            Kind::Begin => HEADERS[Half::Request as usize],
            Kind::End if step < self.contexts => "proxy_on_log",
            Kind::End if (step - self.contexts).is_multiple_of(2) => "proxy_on_done",
            Kind::End => "proxy_on_delete",
            Kind::Body { .. } => BODY[Half::Response as usize],
        }
    }

    /// Whether the callback that runs is not the one whose time was taken so far; from now on it is.
    pub(crate) fn is_another(&mut self) -> bool {
        std::mem::replace(&mut self.timed, self.at) != self.at
    }
}

/// Does what is to be done between the callbacks that have returned in this entry, so that a call of the host finds what
/// it would in an entry of its own. None of them has made one.
#[cold]
pub(crate) fn follow(mut store: impl AsContextMut<Data = State>) {
    let mut store = store.as_context_mut();
    let state = store.data();
    let (Some(turn), Some(counters)) = (&state.turn, state.counters) else { return };
    let (at, last) = (turn.at, turn.steps() - 1);
    if matches!(turn.kind, Kind::Body { .. }) {
        // What it does may concern those who would come next. The global is there, and of this type.
        _ = counters.stop.set(&mut store, Val::I32(1));
    }
    if at < last {
        let step = step(&mut store);
        if step > at {
            store.data_mut().advance(step.min(last));
            store.data_mut().face();
        }
    }
}

/// How many callbacks of this entry have begun, but for the first.
fn step(mut store: impl AsContextMut<Data = State>) -> u32 {
    let mut store = store.as_context_mut();
    let step = store.data().counters.map(|counters| counters.step.get(&mut store));
    step.and_then(|step| u32::try_from(step.i32()?).ok()).unwrap_or(0)
}

impl State {
    /// Callbacks before this one have returned, and it has begun; or none, when it is the number of all.
    fn advance(&mut self, to: u32) {
        let Some(mut turn) = self.turn.take() else { return };
        if turn.kind == Kind::End && to == turn.steps() {
            // None of those that come after has called the host: nobody has seen how they went.
            self.context = None;
            // After the log callbacks of all there are two of each.
            let gone = turn.at.saturating_sub(turn.contexts) / 2;
            for number in turn.first + gone..turn.first + turn.contexts {
                if let Some(context) = self.contexts.get(number).cloned() {
                    self.contexts.remove(context);
                }
            }
            turn.at = to;
        }
        while turn.at < to {
            self.leave(&turn);
            turn.at += 1;
            if turn.at < turn.steps() {
                self.reach(&mut turn);
            }
        }
        self.turn = Some(turn);
    }

    /// The callback is about to begin, as far as others can see that.
    fn reach(&self, turn: &mut Turn) {
        let Some(exchange) = self.contexts.get(turn.context(turn.at)).and_then(|context| context.exchange()) else {
            return;
        };
        match turn.kind {
            Kind::Begin if turn.at == 0 => {}
            Kind::Begin => exchange.request.begin(&exchange.request.head),
            Kind::End if turn.at < turn.contexts => exchange.life.set(Life::Logging),
            Kind::End => exchange.life.set(Life::Ended),
            Kind::Body { end } => {
                exchange.response.begin(&exchange.response.body);
                exchange.response.ended.set(end);
            }
        }
        turn.replied = exchange.replied.get();
    }

    /// The callback has returned, and lets go on what it was shown.
    fn leave(&mut self, turn: &Turn) {
        let number = turn.context(turn.at);
        let Some(exchange) = self.contexts.get(number).and_then(|context| context.exchange()) else { return };
        match turn.kind {
            Kind::Begin => {}
            Kind::End if turn.at < turn.contexts => exchange.life.set(Life::Logged),
            Kind::End if (turn.at - turn.contexts).is_multiple_of(2) => {}
            Kind::End => {
                if let Some(context) = self.contexts.get(number).cloned() {
                    self.context = None;
                    self.contexts.remove(context);
                }
            }
            Kind::Body { .. } => _ = exchange.response.settle(&exchange.response.body, true),
        }
    }

    /// Host calls are for the context of the callback that runs.
    fn face(&mut self) {
        let Some(turn) = &self.turn else { return };
        let number = turn.context(turn.at);
        self.called = number;
        self.context = self.contexts.get(number).cloned();
        if let (Kind::Body { .. }, Some(exchange)) = (turn.kind, self.exchange())
            && let Ok(mut stream) = exchange.stream()
        {
            stream.shown(exchange.id);
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
    /// Enters for the callbacks of the [`Turn`] that is in the state, and leaves it there.
    pub(super) fn take<P: WasmParams, R: WasmResults>(
        &mut self,
        function: &TypedFunc<P, R>,
        parameters: P,
        context: &Rc<Context>,
    ) -> Result<R, Trap> {
        self.call(function, parameters, Some(context), Phase::Running).map_err(|error| {
            follow(&mut self.store);
            let callback = self.store.data().turn.as_ref().map_or("", Turn::callback);
            self.die(callback, &error)
        })
    }
}

impl Vm {
    /// Makes a context for an exchange without a word to the guest: [`Vm::begin`] must follow, or [`Vm::create`].
    pub fn admit(&mut self, root: RootId, stream: Rc<RefCell<dyn Stream>>) -> Result<ContextId, Trap> {
        Ok(ContextId(self.insert(root, stream, false)?.id))
    }

    /// Tells the guest of an admitted exchange: with it, what [`Vm::open`] does.
    pub fn create(&mut self, id: ContextId) -> Result<(), Trap> {
        let context = self.context(id, "proxy_on_context_create")?;
        self.created(&context)
    }

    /// Tells the guest of an admitted exchange (`proxy_on_context_create`), and shows it the head of its request, as
    /// [`Vm::on_headers`] does.
    pub fn begin(&mut self, id: ContextId, count: u32, end: bool) -> Result<HeadersAction, Trap> {
        const CALLBACK: &str = "proxy_on_context_create";
        let context = self.context(id, CALLBACK)?;
        let (Some(function), Some(exchange)) = (&self.exports.joined.begin, context.exchange()) else {
            self.created(&context)?;
            return self.on_headers(id, Half::Request, count, end);
        };
        self.runner.store.data_mut().turn = Some(Turn::new(Kind::Begin, id, 1));
        let answer = self.runner.take(function, (id.0, context.root, count, u32::from(end)), &context)?;
        let state = self.runner.store.data_mut();
        state.advance(1);
        let replied = state.turn.take().is_some_and(|turn| turn.replied);
        self.delete_done()?;
        let answer = HeadersAnswer::of(answer);
        let scene = Scene::of(exchange, Half::Request, |side| &side.head, replied);
        Ok(scene.head(answer, &context.plugin, end))
    }

    /// Ends the contexts of `count` exchanges, numbered upwards from this one: the log callbacks of all that have not
    /// logged, then `proxy_on_done` and `proxy_on_delete` of each. As [`Vm::log`] for all, then [`Vm::close`] for all.
    ///
    /// # Errors
    /// A trap, and which of them met it.
    pub fn end(&mut self, first: ContextId, count: u32) -> Result<(), (u32, Trap)> {
        let at = |index: u32| ContextId(first.0.wrapping_add(index));
        let state = self.runner.store.data();
        let is_open = |number: u32| {
            let exchange = state.contexts.get(number).and_then(|context| context.exchange());
            exchange.is_some_and(|exchange| exchange.life.get() == Life::Open && !exchange.tcp)
        };
        let numbers = first.0.checked_add(count).map(|last| first.0..last);
        let function = self.exports.joined.end.as_ref().filter(|_| numbers.is_some_and(|mut all| all.all(is_open)));
        let (Some(function), false) = (function, self.runner.dead) else {
            for index in 0..count {
                self.log(at(index)).map_err(|trap| (index, trap))?;
            }
            for index in 0..count {
                self.close(at(index)).map_err(|trap| (index, trap))?;
            }
            return Ok(());
        };
        let context = self.context(first, "proxy_on_log").map_err(|trap| (0, trap))?;
        let mut turn = Turn::new(Kind::End, first, count);
        let state = self.runner.store.data_mut();
        state.reach(&mut turn);
        state.turn = Some(turn);
        if let Err(trap) = self.runner.take(function, (first.0, count), &context) {
            let turn = self.runner.store.data_mut().turn.take();
            return Err((turn.map_or(0, |turn| turn.context(turn.at) - first.0), trap));
        }
        // It is the last to hold it.
        drop(context);
        let state = self.runner.store.data_mut();
        state.context = None;
        state.advance(count * 3);
        state.turn = None;
        self.delete_done().map_err(|trap| (0, trap))
    }

    /// Shows content of the response to the contexts of `count` exchanges, numbered downwards from this one, as
    /// [`Vm::on_body`] does to each, until one does not let it go on, or has called the host. Which of them was shown it
    /// last, and its answer; if that lets it go on and it is the last of all, all do. Each may count on
    /// [`Stream::shown`](crate::Stream::shown).
    ///
    /// # Errors
    /// A trap, and which of them met it.
    pub fn on_bodies(
        &mut self,
        first: ContextId,
        count: u32,
        size: usize,
        end: bool,
    ) -> Result<(u32, BodyAnswer), (u32, Trap)> {
        let function = self.exports.joined.body.as_ref().filter(|_| count > 1 && first.0 >= count);
        let (Some(function), false) = (function, self.runner.dead) else {
            return self.on_body(first, Half::Response, size, end).map(|answer| (0, answer)).map_err(|trap| (0, trap));
        };
        let context = self.context(first, BODY[Half::Response as usize]).map_err(|trap| (0, trap))?;
        let mut turn = Turn::new(Kind::Body { end }, first, count);
        let state = self.runner.store.data_mut();
        state.reach(&mut turn);
        state.turn = Some(turn);
        let bytes = u32::try_from(size).unwrap_or(u32::MAX);
        let answer = match self.runner.take(function, (first.0, count, bytes, u32::from(end)), &context) {
            Ok(answer) => answer,
            Err(trap) => {
                let turn = self.runner.store.data_mut().turn.take();
                return Err((turn.map_or(0, |turn| turn.at), trap));
            }
        };
        let step = step(&mut self.runner.store);
        let state = self.runner.store.data_mut();
        // All have returned if it is the number of all: of the last one more is to be known.
        state.advance(step.min(count - 1));
        let turn = state.turn.take();
        let (at, replied) = turn.map_or((0, false), |turn| (turn.at, turn.replied));
        let answer = BodyAnswer::of(answer);
        let last = state.contexts.get(first.0 - at).cloned();
        self.delete_done().map_err(|trap| (at, trap))?;
        let Some(exchange) = last.as_ref().and_then(|context| context.exchange()) else { return Ok((at, answer)) };
        Ok((at, Scene::of(exchange, Half::Response, |side| &side.body, replied).body(answer)))
    }
}
