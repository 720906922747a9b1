//! The host of a native test: behaves as Envoy 1.40 does.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use super::message::{Answer, Called, Lines};
use crate::Reply;
use crate::backend::{Backend, Half, Map, Outdated};
use crate::call::{Outgoing, Told};
use crate::grpc::Unary;
use crate::log::Level;
use crate::metrics::Kind;

/// What a filter sees in a test, and what it has done.
#[derive(Clone, Default)]
pub struct Scene(Rc<RefCell<State>>);

/// An exchange as a filter sees it.
#[derive(Clone, Debug, Default)]
pub struct Content {
    /// The heads that are held.
    pub heads: [Option<Lines>; 2],
    /// What is held of the bodies.
    pub bodies: [Vec<u8>; 2],
    /// The trailers that are held.
    pub trailers: [Option<Lines>; 2],
    /// Attributes by their dotted names, as hosts encode them.
    pub attributes: BTreeMap<String, Vec<u8>>,
    /// The filter's own answer.
    pub reply: Option<Reply>,
    /// Halves that it let go on outside of their callbacks.
    pub resumed: [bool; 2],
    /// Whether it had the route chosen anew.
    pub rerouted: bool,
}

pub(crate) type Answers = Rc<RefCell<dyn FnMut(&Called) -> Answer>>;

pub(crate) struct State {
    current: u32,
    exchanges: BTreeMap<u32, Content>,
    pub(super) services: BTreeMap<String, Answers>,
    pub(super) calls: Vec<Called>,
    /// Calls that were made in the present callback.
    pub(super) made: Vec<u32>,
    last_call: u32,
    /// By the time at which they come, and the number of the call.
    pub(super) answers: BTreeMap<(Duration, u64), (u32, Told)>,
    /// When the next tick comes, and at which distance the ones after it.
    pub(super) tick: Option<(Duration, Duration)>,
    pub(super) elapsed: Duration,
    /// The time of day at which no time had passed.
    pub(super) unix: Duration,
    pub(super) random: VecDeque<u64>,
    seed: u64,
    pub(super) shared: BTreeMap<String, (Vec<u8>, u32)>,
    version: u32,
    pub(super) metrics: Vec<Metric>,
    pub(super) logs: Vec<(Level, String)>,
}

pub(super) struct Metric {
    kind: Kind,
    pub(super) name: String,
    pub(super) value: u64,
}

impl Default for State {
    fn default() -> Self {
        Self {
            current: 0,
            exchanges: BTreeMap::new(),
            services: BTreeMap::new(),
            calls: Vec::new(),
            made: Vec::new(),
            last_call: 0,
            answers: BTreeMap::new(),
            tick: None,
            elapsed: Duration::ZERO,
            // 2026-01-01T00:00:00Z
            unix: Duration::from_secs(1_767_225_600),
            random: VecDeque::new(),
            seed: 0,
            shared: BTreeMap::new(),
            version: 0,
            metrics: Vec::new(),
            logs: Vec::new(),
        }
    }
}

impl Scene {
    /// Looks at an exchange, or changes it.
    pub fn content<T>(&self, exchange: u32, edit: impl FnOnce(&mut Content) -> T) -> T {
        self.edit(|state| edit(state.content(exchange)))
    }

    /// The numbers of the exchanges that there are.
    pub fn exchanges(&self) -> Vec<u32> {
        self.edit(|state| state.exchanges.keys().copied().collect())
    }

    /// Writes a line.
    pub fn log(&self, level: Level, message: &str) {
        self.edit(|state| state.logs.push((level, message.to_owned())));
    }

    /// The line that was written last.
    pub fn last_line(&self) -> Option<String> {
        self.edit(|state| state.logs.last().map(|(_, line)| line.clone()))
    }

    /// The time since 1970.
    pub fn unix_time(&self) -> Duration {
        self.edit(|state| state.unix + state.elapsed)
    }

    /// The time since the test began.
    pub fn elapsed(&self) -> Duration {
        self.edit(|state| state.elapsed)
    }

    /// Asks for ticks at this period, for none with zero.
    pub fn set_tick(&self, period: Duration) {
        self.edit(|state| {
            state.tick = state.elapsed.checked_add(period).filter(|_| !period.is_zero()).map(|at| (at, period));
        });
    }

    /// Makes a call, which is answered by what the test says of the service; gives its number, if there is one.
    pub fn call(&self, called: Called) -> Option<u32> {
        let answers = self.edit(|state| {
            state.calls.push(called.clone());
            state.services.get(called.service()).cloned()
        })?;
        // The test may look at the plugin meanwhile.
        let answer = (answers.borrow_mut())(&called);
        self.edit(|state| {
            state.last_call += 1;
            let number = state.last_call;
            let (delay, told) = answer.told(&called);
            if let Some(at) = state.elapsed.checked_add(delay) {
                state.answers.insert((at, number.into()), (number, told));
            }
            state.made.push(number);
            Some(number)
        })
    }

    /// Gives a call up.
    pub fn cancel(&self, call: u32) {
        self.edit(|state| state.answers.retain(|_, (own, _)| *own != call));
    }

    /// Defines a metric, or finds the one that there is.
    pub fn define(&self, kind: Kind, name: &str) -> Option<u32> {
        self.edit(|state| {
            let known = state.metrics.iter().position(|metric| metric.kind == kind && metric.name == name);
            let index = known.unwrap_or_else(|| {
                state.metrics.push(Metric { kind, name: name.to_owned(), value: 0 });
                state.metrics.len() - 1
            });
            u32::try_from(index).ok()
        })
    }

    /// Sets a gauge, adds to others.
    pub fn record(&self, metric: u32, value: u64) {
        self.edit(|state| {
            if let Some(metric) = state.metric(metric) {
                metric.value = match metric.kind {
                    Kind::Gauge => value,
                    Kind::Counter | Kind::Histogram => metric.value.wrapping_add(value),
                };
            }
        });
    }

    /// Adds to a counter or a gauge.
    pub fn add(&self, metric: u32, offset: i64) {
        self.edit(|state| {
            if let Some(metric) = state.metric(metric) {
                metric.value = metric.value.wrapping_add_signed(offset);
            }
        });
    }

    /// The value of a metric, 0 if there is none.
    pub fn value(&self, metric: u32) -> u64 {
        self.edit(|state| state.metric(metric).map_or(0, |metric| metric.value))
    }

    /// Names and values of the metrics.
    #[cfg(test)]
    pub(crate) fn metrics(&self) -> Vec<(String, u64)> {
        self.edit(|state| state.metrics.iter().map(|metric| (metric.name.clone(), metric.value)).collect())
    }

    pub(super) fn edit<T>(&self, edit: impl FnOnce(&mut State) -> T) -> T {
        edit(&mut self.0.borrow_mut())
    }

    /// Runs a callback of this context, with this scene as its host.
    pub(crate) fn within<T>(&self, context: u32, callback: impl FnOnce() -> T) -> T {
        let before = CURRENT.replace(self.clone());
        self.edit(|state| state.current = context);
        let result = callback();
        CURRENT.set(before);
        result
    }
}

impl State {
    pub(super) fn content(&mut self, exchange: u32) -> &mut Content {
        self.exchanges.entry(exchange).or_default()
    }

    pub(super) fn forget(&mut self, exchange: u32) {
        self.exchanges.remove(&exchange);
    }

    pub(super) fn set_shared(&mut self, key: &str, value: Vec<u8>) {
        self.version += 1;
        self.shared.insert(key.to_owned(), (value, self.version));
    }

    /// The exchange whose callback runs, or on whose behalf.
    fn mine(&mut self) -> Option<&mut Content> {
        self.exchanges.get_mut(&self.current)
    }

    fn lines(&mut self, map: Map) -> Option<&mut Lines> {
        let content = self.mine()?;
        match map {
            Map::Request => content.heads[0].as_mut(),
            Map::Response => content.heads[1].as_mut(),
            Map::RequestTrailers => content.trailers[0].as_mut(),
            Map::ResponseTrailers => content.trailers[1].as_mut(),
        }
    }

    fn metric(&mut self, metric: u32) -> Option<&mut Metric> {
        self.metrics.get_mut(metric as usize)
    }
}

thread_local! {
    /// The host whose callback runs on this thread; outside of callbacks one that nobody looks at.
    static CURRENT: RefCell<Scene> = RefCell::default();
}

fn scene() -> Scene {
    CURRENT.with_borrow(Clone::clone)
}

fn state<T>(act: impl FnOnce(&mut State) -> T) -> T {
    scene().edit(act)
}

/// Changes a map that is there. Where it is not, Envoy's answer ends the filter.
fn edit(map: Map, act: impl FnOnce(&mut Lines)) {
    state(|state| {
        let lines = state.lines(map);
        assert!(lines.is_some(), "lacis-sdk wants to change a map of headers that is not held: {map:?}");
        if let Some(lines) = lines {
            act(lines);
        }
    });
}

fn remove(lines: &mut Lines, name: &str) {
    lines.retain(|(own, _)| !own.eq_ignore_ascii_case(name));
}

pub(crate) struct Memory;

impl Backend for Memory {
    fn header(map: Map, name: &str) -> Option<Vec<u8>> {
        state(|state| {
            let mut lines = state.lines(map)?.iter();
            lines.find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone())
        })
    }

    fn headers(map: Map) -> Lines {
        state(|state| state.lines(map).cloned()).unwrap_or_default()
    }

    fn set_header(map: Map, name: &str, value: &[u8]) {
        edit(map, |lines| {
            remove(lines, name);
            lines.push((name.to_ascii_lowercase(), value.to_owned()));
        });
    }

    fn append_header(map: Map, name: &str, value: &[u8]) {
        edit(map, |lines| lines.push((name.to_ascii_lowercase(), value.to_owned())));
    }

    fn remove_header(map: Map, name: &str) {
        edit(map, |lines| remove(lines, name));
    }

    fn body(half: Half, start: usize, size: usize) -> Vec<u8> {
        state(|state| {
            let body = state.mine().map(|content| content.bodies[half as usize].as_slice()).unwrap_or_default();
            body.iter().skip(start).take(size).copied().collect()
        })
    }

    fn set_body(half: Half, size: usize, bytes: &[u8]) {
        state(|state| {
            let body = state.mine().map(|content| &mut content.bodies[half as usize]);
            let held = body.as_ref().map(|body| body.len());
            assert!(held == Some(size), "lacis-sdk wants to replace {size} bytes of a body, and {held:?} are held");
            body.into_iter().for_each(|body| *body = bytes.to_owned());
        });
    }

    fn resume(half: Half) {
        state(|state| state.mine().into_iter().for_each(|content| content.resumed[half as usize] = true));
    }

    fn reroute() {
        state(|state| state.mine().into_iter().for_each(|content| content.rerouted = true));
    }

    fn attribute(path: &[&str]) -> Option<Vec<u8>> {
        state(|state| state.mine()?.attributes.get(&path.join(".")).cloned())
    }

    fn reply(reply: &Reply) {
        state(|state| {
            if let Some(content) = state.mine() {
                content.reply.get_or_insert_with(|| reply.clone());
            }
        });
    }

    fn call(outgoing: &Outgoing) -> Option<u32> {
        scene().call(Called::http(outgoing))
    }

    fn grpc_call(unary: &Unary) -> Option<u32> {
        scene().call(Called::grpc(unary))
    }

    fn cancel_grpc(token: u32) {
        scene().cancel(token);
    }

    fn enter(context: u32) {
        state(|state| state.current = context);
    }

    fn tick(period: Duration) {
        scene().set_tick(period);
    }

    fn unix_time() -> Duration {
        scene().unix_time()
    }

    fn elapsed() -> Duration {
        scene().elapsed()
    }

    fn random() -> u64 {
        state(|state| {
            state.random.pop_front().unwrap_or_else(|| {
                // SplitMix64: no two are the same, and each run of a test has the same ones.
                state.seed = state.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mixed = (state.seed ^ (state.seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                mixed ^ (mixed >> 31)
            })
        })
    }

    fn shared(key: &str) -> Option<(Vec<u8>, u32)> {
        state(|state| state.shared.get(key).cloned())
    }

    fn set_shared(key: &str, value: &[u8], version: Option<u32>) -> Result<(), Outdated> {
        state(|state| {
            let current = state.shared.get(key).map(|(_, version)| *version);
            if version.is_some() && current.is_some() && version != current {
                return Err(Outdated);
            }
            state.set_shared(key, value.to_owned());
            Ok(())
        })
    }

    fn define(kind: Kind, name: &str) -> Option<u32> {
        scene().define(kind, name)
    }

    fn record(metric: u32, value: u64) {
        scene().record(metric, value);
    }

    fn add(metric: u32, offset: i64) {
        scene().add(metric, offset);
    }

    fn log(level: Level, message: &str) {
        scene().log(level, message);
    }
}
