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

use std::cell::RefCell;
use std::rc::Rc;

use crate::backend::{Backend, Map};
use crate::log::Level;
use crate::metrics::Kind;
use crate::run::{self, Verdict};
use crate::{Filter, Reply};

/// A configured filter with a host of its own.
pub struct Plugin<F> {
    filter: Rc<F>,
    host: Rc<RefCell<State>>,
}

impl<F: Filter> Plugin<F> {
    /// Configures the filter with the text that a host would give, JSON as a rule, empty for none.
    ///
    /// # Errors
    ///
    /// What the filter would log, if it refuses the configuration.
    pub fn configure(config: &str) -> Result<Self, String> {
        let host = Rc::default();
        let filter = Rc::new(within(&host, || run::configure(config.as_bytes()))?);
        Ok(Self { filter, host })
    }

    /// A new exchange through the filter.
    pub fn exchange(&self) -> Exchange<F> {
        Exchange { run: run::Exchange::new(Some(self.filter.clone())), host: self.host.clone(), attributes: Vec::new() }
    }

    /// The value of a metric: of a counter or gauge its number, of a histogram the sum of its samples. Absent if it
    /// was not defined.
    pub fn metric(&self, name: &str) -> Option<u64> {
        self.host.borrow().metrics.iter().find(|metric| metric.name == name).map(|metric| metric.value)
    }

    /// The names of all metrics, in the order in which they were defined.
    pub fn metrics(&self) -> Vec<String> {
        self.host.borrow().metrics.iter().map(|metric| metric.name.clone()).collect()
    }

    /// Takes what was logged so far.
    pub fn logs(&self) -> Vec<(Level, String)> {
        std::mem::take(&mut self.host.borrow_mut().logs)
    }
}

/// One exchange through a filter.
pub struct Exchange<F> {
    run: run::Exchange<F>,
    host: Rc<RefCell<State>>,
    attributes: Vec<(String, Vec<u8>)>,
}

impl<F: Filter> Exchange<F> {
    /// Sets an attribute by its dotted name, in the encoding of the host: text as it is.
    #[must_use]
    pub fn attribute(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.attributes.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Passes a request: gives it as the filter left it.
    ///
    /// # Errors
    ///
    /// The reply, if the filter answered the request itself.
    pub fn request(&mut self, request: Message) -> Result<Message, Reply> {
        let has_body = request.has_body;
        self.pass(Map::Request, request, |run| run.on_request(has_body))
    }

    /// Passes a response: gives it as the filter left it.
    ///
    /// # Errors
    ///
    /// The reply, if the filter put its own in place of the response.
    pub fn response(&mut self, response: Message) -> Result<Message, Reply> {
        let has_body = response.has_body;
        self.pass(Map::Response, response, |run| run.on_response(has_body))
    }

    fn pass(
        &mut self,
        map: Map,
        message: Message,
        callback: impl FnOnce(&mut run::Exchange<F>) -> Verdict,
    ) -> Result<Message, Reply> {
        {
            let mut host = self.host.borrow_mut();
            host.held = Some((map, message));
            host.attributes.clone_from(&self.attributes);
            host.reply = None;
        }
        let verdict = within(&self.host, || callback(&mut self.run));
        let mut host = self.host.borrow_mut();
        let held = host.held.take();
        match (verdict, held, host.reply.take()) {
            (Verdict::Continue, Some((_, message)), _) => Ok(message),
            (_, _, reply) => Err(reply.unwrap_or_else(|| Reply::new(500))),
        }
    }
}

/// The head of a request or a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    headers: Vec<(String, Vec<u8>)>,
    has_body: bool,
}

impl Message {
    /// A GET request for `http://localhost` and a path.
    pub fn get(path: &str) -> Self {
        Self::request("GET", path)
    }

    /// A request for `http://localhost` and a path.
    pub fn request(method: &str, path: &str) -> Self {
        let headers = [(":authority", "localhost"), (":path", path), (":method", method), (":scheme", "http")];
        Self::new(&headers)
    }

    /// A response.
    pub fn response(status: u16) -> Self {
        Self::new(&[(":status", &status.to_string())])
    }

    fn new(headers: &[(&str, &str)]) -> Self {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_owned())).collect();
        Self { headers, has_body: false }
    }

    /// Adds a header; the value may be any bytes. A pseudo-header is replaced.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        if name.starts_with(':') {
            self.remove(name);
        }
        self.headers.push((name.to_ascii_lowercase(), value.as_ref().to_owned()));
        self
    }

    /// Says that a body follows.
    #[must_use]
    pub fn with_body(mut self) -> Self {
        self.has_body = true;
        self
    }

    /// The first value of a header, with U+FFFD for what is not UTF-8.
    pub fn value(&self, name: &str) -> Option<String> {
        self.first(name).map(|value| String::from_utf8_lossy(value).into_owned())
    }

    fn first(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_slice())
    }

    fn remove(&mut self, name: &str) {
        self.headers.retain(|(own, _)| !own.eq_ignore_ascii_case(name));
    }
}

#[derive(Default)]
struct State {
    held: Option<(Map, Message)>,
    attributes: Vec<(String, Vec<u8>)>,
    metrics: Vec<Metric>,
    logs: Vec<(Level, String)>,
    reply: Option<Reply>,
}

struct Metric {
    kind: Kind,
    name: String,
    value: u64,
}

thread_local! {
    /// The host whose callback runs on this thread; outside of callbacks one that nobody looks at.
    static CURRENT: RefCell<Rc<RefCell<State>>> = RefCell::default();
}

fn within<T>(host: &Rc<RefCell<State>>, callback: impl FnOnce() -> T) -> T {
    let before = CURRENT.replace(host.clone());
    let result = callback();
    CURRENT.set(before);
    result
}

fn state<T>(act: impl FnOnce(&mut State) -> T) -> T {
    let host = CURRENT.with_borrow(Rc::clone);
    act(&mut host.borrow_mut())
}

/// The message in the hands of the filter, if it is of that kind.
fn held<T>(map: Map, act: impl FnOnce(&mut Message) -> T) -> Option<T> {
    state(|state| state.held.as_mut().filter(|(own, _)| *own == map).map(|(_, message)| act(message)))
}

/// The host of a native test: behaves as Envoy 1.40 does.
pub(crate) struct Memory;

impl Backend for Memory {
    fn header(map: Map, name: &str) -> Option<Vec<u8>> {
        held(map, |message| message.first(name).map(<[u8]>::to_owned)).flatten()
    }

    fn headers(map: Map) -> Vec<(String, Vec<u8>)> {
        held(map, |message| message.headers.clone()).unwrap_or_default()
    }

    fn set_header(map: Map, name: &str, value: &[u8]) {
        held(map, |message| {
            message.remove(name);
            message.headers.push((name.to_ascii_lowercase(), value.to_owned()));
        });
    }

    fn append_header(map: Map, name: &str, value: &[u8]) {
        held(map, |message| message.headers.push((name.to_ascii_lowercase(), value.to_owned())));
    }

    fn remove_header(map: Map, name: &str) {
        held(map, |message| message.remove(name));
    }

    fn attribute(path: &[&str]) -> Option<Vec<u8>> {
        let name = path.join(".");
        state(|state| state.attributes.iter().rfind(|(own, _)| *own == name).map(|(_, value)| value.clone()))
    }

    fn reply(reply: &Reply) {
        state(|state| state.reply.get_or_insert_with(|| reply.clone()).status());
    }

    fn define(kind: Kind, name: &str) -> Option<u32> {
        state(|state| {
            let known = state.metrics.iter().position(|metric| metric.kind == kind && metric.name == name);
            let index = known.unwrap_or_else(|| {
                state.metrics.push(Metric { kind, name: name.to_owned(), value: 0 });
                state.metrics.len() - 1
            });
            u32::try_from(index).ok()
        })
    }

    fn record(metric: u32, value: u64) {
        state(|state| {
            if let Some(metric) = state.metrics.get_mut(metric as usize) {
                metric.value = match metric.kind {
                    Kind::Gauge => value,
                    Kind::Counter | Kind::Histogram => metric.value.wrapping_add(value),
                };
            }
        });
    }

    fn add(metric: u32, offset: i64) {
        state(|state| {
            if let Some(metric) = state.metrics.get_mut(metric as usize) {
                metric.value = metric.value.wrapping_add_signed(offset);
            }
        });
    }

    fn log(level: Level, message: &str) {
        state(|state| state.logs.push((level, message.to_owned())));
    }
}
