//! Several callbacks in one entry of the guest: how it is entered, and what came of it.

pub(crate) mod response;

use std::cell::RefCell;
use std::rc::Rc;

use lacis_abi::{HeadersAnswer, Level};
use wasmtime::{TypedFunc, Val, WasmParams, WasmResults};

use super::http::Scene;
use super::{Runner, Vm};
use crate::calls::turn::look;
use crate::contexts::{Life, Part, Replied};
use crate::joint::{MOST_BEGIN, MOST_END};
use crate::state::{Phase, State};
use crate::stream::{ContextId, Half, HeadersAction, Stream};
use crate::trap::Trap;
use crate::turn::{Last, Turn};
use crate::world::RootId;

/// What a function answers that was added: the answer of the last callback, and which one that was.
fn answered(result: u64) -> (u32, u32) {
    (result as u32, (result >> 32) as u32)
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
        let turn = Turn::begin(first, count, lines);
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
        let turn = Turn::end(*first, *count, steps);
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
