//! Runs a filter in a native test, against exchanges in memory.
//!
//! ```
//! use lacis_sdk::testing::{Message, Plugin};
//! use lacis_sdk::{ConfigError, Filter, Flow, Reply, Request};
//!
//! struct Closed;
//! impl Filter for Closed {
//!     type Config = ();
//!     fn new(_: ()) -> Result<Self, ConfigError> {
//!         Ok(Self)
//!     }
//!     async fn on_request(&self, _: &mut Request) -> Result<Flow, Reply> {
//!         Err(Reply::new(503))
//!     }
//! }
//!
//! let plugin = Plugin::<Closed>::configure("")?;
//! let mut exchange = plugin.exchange();
//! assert_eq!(exchange.request(Message::get("/")).unwrap_err().status(), 503);
//! # Ok::<(), String>(())
//! ```
//!
//! Time stands still unless the test moves it with [`Plugin::advance`], or an exchange waits for nothing else: then it
//! jumps to what is due next. Calls are answered by [`Plugin::on_call`] and [`Plugin::on_grpc`], chance is a fixed
//! sequence or what [`Plugin::set_random`] says.

mod engine;
mod exchange;
mod message;
mod state;

use std::cell::RefCell;
use std::marker::PhantomData;
use std::rc::Rc;
use std::time::Duration;

pub use engine::{Engine, Passage};
pub use exchange::Exchange;
pub use message::{Answer, Called, Lines, Message};
pub(crate) use state::Memory;
pub use state::{Content, Scene};

use crate::Filter;
pub use crate::backend::Half;

pub use crate::call::Told;
use crate::log::Level;
pub use crate::metrics::Kind;

/// A configured filter with a host of its own. `F` says what runs: a [`Filter`] natively, or what else has an
/// [`Engine`].
pub struct Plugin<F> {
    engine: Rc<dyn Engine>,
    scene: Scene,
    of: PhantomData<fn() -> F>,
}

impl<F: Filter> Plugin<F> {
    /// Configures the filter with the text that a host would give, JSON as a rule, empty for none.
    ///
    /// # Errors
    ///
    /// What the filter would log, if it refuses the configuration.
    pub fn configure(config: &str) -> Result<Self, String> {
        let scene = Scene::default();
        let engine = engine::Native::<F>::configure(&scene, config)?;
        Ok(Self::new(Rc::new(engine), scene))
    }
}

impl<F> Plugin<F> {
    /// A plugin that is run by an engine, in this scene.
    pub fn new(engine: Rc<dyn Engine>, scene: Scene) -> Self {
        Self { engine, scene, of: PhantomData }
    }

    /// A new exchange through the filter.
    pub fn exchange(&self) -> Exchange {
        Exchange::new(&self.engine, &self.scene)
    }

    /// Answers calls to a service from now on; the last that was said of a service counts. A service that nothing is said
    /// of does not exist, and is not called.
    pub fn on_call(&self, service: &str, answer: impl FnMut(&Called) -> Answer + 'static) {
        let answer = Rc::new(RefCell::new(answer));
        self.scene.edit(|state| state.services.insert(service.to_owned(), answer));
    }

    /// Answers gRPC calls to an upstream from now on: with a message, or with a status that is not 0.
    pub fn on_grpc(&self, upstream: &str, mut answer: impl FnMut(&Called) -> Result<Vec<u8>, u32> + 'static) {
        self.on_call(upstream, move |call| match answer(call) {
            Ok(message) => Answer::new(200).body(message),
            Err(code) => Answer::new(200).header("grpc-status", code.to_string()),
        });
    }

    /// Takes the calls that were made so far.
    pub fn calls(&self) -> Vec<Called> {
        self.scene.edit(|state| std::mem::take(&mut state.calls))
    }

    /// Sets the time of day; at first it is the first second of 2026, UTC.
    pub fn set_unix_time(&self, time: Duration) {
        self.scene.edit(|state| state.unix = time.saturating_sub(state.elapsed));
    }

    /// Lets time pass: what becomes due meanwhile happens in its order, timers and work in the background included.
    pub fn advance(&self, time: Duration) {
        let end = self.scene.edit(|state| state.elapsed + time);
        while step(&*self.engine, &self.scene, Some(end)) {}
        self.scene.edit(|state| state.elapsed = end);
    }

    /// Gives the next random numbers; after them comes a fixed sequence.
    pub fn set_random(&self, numbers: impl IntoIterator<Item = u64>) {
        self.scene.edit(|state| state.random = numbers.into_iter().collect());
    }

    /// A value of shared data, as it is kept.
    pub fn shared(&self, key: &str) -> Option<Vec<u8>> {
        self.scene.edit(|state| state.shared.get(key).map(|(value, _)| value.clone()))
    }

    /// Sets a value of shared data, as another worker would.
    pub fn set_shared(&self, key: &str, value: impl Into<Vec<u8>>) {
        self.scene.edit(|state| state.set_shared(key, value.into()));
    }

    /// The value of a metric: of a counter or gauge its number, of a histogram the sum of its samples. Absent if it
    /// was not defined.
    pub fn metric(&self, name: &str) -> Option<u64> {
        self.scene.edit(|state| state.metrics.iter().find(|metric| metric.name == name).map(|metric| metric.value))
    }

    /// The names of all metrics, in the order in which they were defined.
    pub fn metrics(&self) -> Vec<String> {
        self.scene.edit(|state| state.metrics.iter().map(|metric| metric.name.clone()).collect())
    }

    /// Takes what was logged so far.
    pub fn logs(&self) -> Vec<(Level, String)> {
        self.scene.edit(|state| std::mem::take(&mut state.logs))
    }
}

/// Lets the next thing happen that is due until `end`, or without a limit if that is nearest; false if there is none.
fn step(engine: &dyn Engine, scene: &Scene, end: Option<Duration>) -> bool {
    let (answer, tick, now) = scene.edit(|state| {
        (state.answers.first_key_value().map(|((at, number), _)| (*at, *number)), state.tick, state.elapsed)
    });
    let next = [answer.map(|(at, _)| at), tick.map(|(at, _)| at)].into_iter().flatten().min();
    let Some(next) = next.filter(|next| end.is_none_or(|end| *next <= end)) else { return false };
    scene.edit(|state| state.elapsed = now.max(next));
    match answer {
        Some((at, number)) if at == next => {
            let answer = scene.edit(|state| state.answers.remove(&(at, number)));
            if let Some((token, told)) = answer {
                engine.told(token, told);
            }
        }
        _ => {
            scene.edit(|state| state.tick = state.tick.and_then(|(at, every)| Some((at.checked_add(every)?, every))));
            engine.tick();
        }
    }
    true
}
