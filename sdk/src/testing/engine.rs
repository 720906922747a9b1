//! What runs a filter in a test.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::Half;
use super::state::Scene;
use crate::Filter;
use crate::call::Told;
use crate::run::{self, Stream, Verdict};
use crate::task::{self, Root};

/// Runs the callbacks of a filter, which finds what it sees in a [`Scene`] and leaves there what it does. The SDK has one
/// for filters that are compiled natively; another one can run modules, so that the same tests test them.
///
/// A method is called while the scene is not borrowed.
pub trait Engine {
    /// Begins an exchange, and gives its number.
    fn open(&self) -> u32;
    /// Shows a head; `end` if nothing follows. A head that stays is held alone: what follows is shown all the same.
    fn head(&self, exchange: u32, half: Half, end: bool) -> Passage;
    /// Shows the body that is held; `end` if nothing follows.
    fn body(&self, exchange: u32, half: Half, end: bool) -> Passage;
    /// Shows trailers.
    fn trailers(&self, exchange: u32, half: Half) -> Passage;
    /// The exchange is over: it may be looked at.
    fn log(&self, exchange: u32);
    /// It is gone.
    fn close(&self, exchange: u32);
    /// The plugin's tick.
    fn tick(&self);
    /// Something came of a call.
    fn told(&self, call: u32, told: Told);
}

/// What becomes of what a filter was shown, and of what it held of the same half before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// It goes on.
    Continue,
    /// It stays.
    Pause,
}

/// A filter that is part of the test's own program.
pub(super) struct Native<F> {
    filter: Rc<F>,
    root: Rc<Root>,
    scene: Scene,
    streams: RefCell<BTreeMap<u32, Rc<Stream<F>>>>,
    /// In whose exchange's callback each call was made.
    callers: RefCell<BTreeMap<u32, u32>>,
}

impl<F: Filter> Native<F> {
    pub(super) fn configure(scene: &Scene, config: &str) -> Result<Self, String> {
        let root = Root::new(number());
        let filter = scene.within(root.context, || run::configure(&root, config.as_bytes()))?;
        Ok(Self { filter, root, scene: scene.clone(), streams: RefCell::default(), callers: RefCell::default() })
    }

    fn stream(&self, exchange: u32) -> Option<Rc<Stream<F>>> {
        self.streams.borrow().get(&exchange).cloned()
    }

    /// Runs a callback in this context, which the calls made meanwhile belong to.
    fn within<T>(&self, context: u32, callback: impl FnOnce() -> T) -> T {
        let result = self.scene.within(context, callback);
        let made = self.scene.edit(|state| std::mem::take(&mut state.made));
        self.callers.borrow_mut().extend(made.into_iter().map(|call| (call, context)));
        result
    }

    fn pass(&self, exchange: u32, callback: impl FnOnce(&Stream<F>) -> Verdict) -> Passage {
        let verdict = self.stream(exchange).map(|stream| self.within(exchange, || callback(&stream)));
        match verdict {
            Some(Verdict::Pause) => Passage::Pause,
            Some(Verdict::Continue) | None => Passage::Continue,
        }
    }
}

impl<F: Filter> Engine for Native<F> {
    fn open(&self) -> u32 {
        let context = number();
        let stream = Rc::new(Stream::new(Some(Rc::clone(&self.filter)), &self.root, context));
        self.streams.borrow_mut().insert(context, stream);
        context
    }

    fn head(&self, exchange: u32, half: Half, end: bool) -> Passage {
        self.pass(exchange, |stream| stream.on_head(half, end))
    }

    fn body(&self, exchange: u32, half: Half, end: bool) -> Passage {
        let size = self.scene.edit(|state| state.content(exchange).bodies[half as usize].len());
        self.pass(exchange, |stream| stream.on_body(half, size, end))
    }

    fn trailers(&self, exchange: u32, half: Half) -> Passage {
        self.pass(exchange, |stream| stream.on_trailers(half))
    }

    fn log(&self, exchange: u32) {
        if let Some(stream) = self.stream(exchange) {
            self.within(exchange, || stream.on_log());
        }
    }

    fn close(&self, exchange: u32) {
        let stream = self.streams.borrow_mut().remove(&exchange);
        if let Some(stream) = stream {
            self.within(exchange, || stream.on_done());
        }
    }

    fn tick(&self) {
        self.within(self.root.context, || self.root.on_tick());
    }

    /// As Proxy-Wasm's SDK for Rust does: told to the context in whose callback the call was made, if it is still there.
    fn told(&self, call: u32, told: Told) {
        let Some(context) = self.callers.borrow_mut().remove(&call) else { return };
        if context == self.root.context {
            self.within(context, || self.root.enter_root(|| self.root.told(call, || told)));
        } else if let Some(stream) = self.stream(context) {
            self.within(context, || stream.on_event(|root| root.told(call, || told)));
        }
    }
}

impl<F> Drop for Native<F> {
    fn drop(&mut self) {
        // What waits holds on to the plugin that it waits in.
        self.scene.within(self.root.context, || self.root.close());
    }
}

fn number() -> u32 {
    u32::try_from(task::number()).unwrap_or(u32::MAX)
}
