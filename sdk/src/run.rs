//! Runs a filter's methods in the callbacks of a host, the same way in a module and in a native test.

use std::any::{Any, TypeId};
use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use serde::de::{DeserializeOwned, IntoDeserializer, value};

use crate::backend::{Backend, Half, Host};
use crate::message::{Arrived, Way};
use crate::task::{self, Root};
use crate::{End, Filter, Flow, Reply, Request, Response};

/// Makes a filter from its configuration as the host gives it, and begins its work in the background.
pub(crate) fn configure<F: Filter>(root: &Rc<Root>, config: &[u8]) -> Result<Rc<F>, String> {
    let config = read(config)?;
    root.configure(|| {
        let filter = F::new(config).map_err(refused)?;
        let filter = Rc::new(filter);
        let running = Rc::clone(&filter);
        root.spawn(async move { running.run().await });
        Ok(filter)
    })
}

/// Reads a configuration from JSON. Without one it is read as if it were `null`, else `{}`.
fn read<C: DeserializeOwned + 'static>(config: &[u8]) -> Result<C, String> {
    // The compiler knows the answer: a filter that has no configuration has no reader of JSON in its module, which would be
    // a sixth of it.
    if TypeId::of::<C>() == TypeId::of::<()>() {
        let nothing = C::deserialize(().into_deserializer()).map_err(|error: value::Error| refused(error))?;
        return match config.trim_ascii() {
            b"" | b"null" => Ok(nothing),
            _ => Err(refused("this filter has none")),
        };
    }
    let read = match config {
        b"" => serde_json::from_slice(b"null").or_else(|_| serde_json::from_slice(b"{}")),
        config => serde_json::from_slice(config),
    };
    read.map_err(|error| {
        let what = if error.is_data() { "" } else { "it is not JSON: " };
        match place(config, &error).as_str() {
            "" => refused(format_args!("{what}{error}")),
            place => refused(format_args!("{what}{error}, in {place}")),
        }
    })
}

/// Which value a mistake is about, as `rules[1].paths[0]`, where the line says nothing: a host makes one long line of a map in
/// its file, whose columns nobody has seen. Says keys only, for values may be secrets.
fn place(config: &[u8], error: &serde_json::Error) -> String {
    enum Step<'c> {
        List(usize),
        Map(&'c [u8]),
    }
    let read = config.get(..error.column()).filter(|_| error.line() == 1).unwrap_or_default();
    let (mut steps, mut text, mut at) = (Vec::new(), &b""[..], 0);
    while let Some(byte) = read.get(at) {
        at += 1;
        match (byte, steps.last_mut()) {
            (b'"', _) => {
                let start = at;
                while let Some(byte) = read.get(at).filter(|byte| **byte != b'"') {
                    at += if *byte == b'\\' { 2 } else { 1 };
                }
                text = read.get(start..at).unwrap_or_default();
                at += 1;
            }
            (b'{', _) => steps.push(Step::Map(b"")),
            (b'[', _) => steps.push(Step::List(0)),
            (b'}' | b']', _) => drop(steps.pop()),
            (b':', Some(Step::Map(key))) => *key = text,
            (b',', Some(Step::Map(key))) => *key = b"",
            (b',', Some(Step::List(index))) => *index += 1,
            _ => {}
        }
    }
    let mut place = String::new();
    for step in steps {
        match step {
            Step::List(index) => place.push_str(&format!("[{index}]")),
            Step::Map(b"") => {}
            Step::Map(key) => {
                place.push_str(if place.is_empty() { "" } else { "." });
                place.push_str(&String::from_utf8_lossy(key));
            }
        }
    }
    place
}

fn refused(error: impl Display) -> String {
    format!("the filter's configuration is refused: {error}")
}

/// What the host is to do with what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Pass it on.
    Continue,
    /// Hold it, for a while or, if the exchange was answered, for ever.
    Pause,
}

type Outcome = Result<Flow, Reply>;

/// One exchange, whatever filter it passes.
pub(crate) struct Exchange {
    pub(crate) context: u32,
    root: Rc<Root>,
    pub(crate) kept: RefCell<Option<Rc<dyn Any>>>,
    /// The filter replied or left: it is not asked again. Hosts show it its own reply as a response.
    over: Cell<bool>,
    ways: [RefCell<Way>; 2],
    methods: [RefCell<Option<Method>>; 2],
}

/// A method of the filter that is under way.
struct Method {
    future: Pin<Box<dyn Future<Output = Outcome>>>,
    /// Its number and what wakes it, once it has had to wait.
    task: Option<(u64, Waker)>,
}

impl Exchange {
    pub(crate) fn new(root: &Rc<Root>, context: u32) -> Rc<Self> {
        Rc::new(Self {
            context,
            root: Rc::clone(root),
            kept: RefCell::default(),
            over: Cell::new(false),
            ways: [RefCell::new(Way::new(Half::Request)), RefCell::new(Way::new(Half::Response))],
            methods: Default::default(),
        })
    }

    pub(crate) fn way(&self, half: Half) -> &RefCell<Way> {
        &self.ways[half as usize]
    }

    fn begin(self: &Rc<Self>, half: Half, method: impl Future<Output = Outcome> + 'static) -> Verdict {
        *self.methods[half as usize].borrow_mut() = Some(Method { future: Box::pin(method), task: None });
        self.callback(half)
    }

    fn is_busy(&self, half: Half) -> bool {
        self.methods[half as usize].borrow().is_some()
    }

    /// Something of this half has come: what does the method make of it?
    fn callback(self: &Rc<Self>, half: Half) -> Verdict {
        let outcome = self.poll(half);
        let verdict = self.settle(half, outcome, true);
        self.way(half).borrow_mut().stopped = verdict == Verdict::Pause;
        verdict
    }

    /// Runs what was woken besides: in a callback that is not about a half, or about the other one.
    fn others(self: &Rc<Self>, but: Option<Half>) {
        for half in [Half::Request, Half::Response] {
            if Some(half) != but && self.is_woken(half) {
                self.go_on(half);
            }
        }
    }

    fn is_woken(&self, half: Half) -> bool {
        let number = self.number(half);
        number.is_some_and(task::take_woken)
    }

    fn number(&self, half: Half) -> Option<u64> {
        self.methods[half as usize].borrow().as_ref()?.task.as_ref().map(|(number, _)| *number)
    }

    /// The method was woken outside of the callbacks of its half.
    pub(crate) fn go_on(self: &Rc<Self>, half: Half) {
        let outcome = self.poll(half);
        if self.settle(half, outcome, false) == Verdict::Continue {
            let stopped = std::mem::take(&mut self.way(half).borrow_mut().stopped);
            // To resume what goes on anyway is a grave mistake in some callbacks.
            if stopped {
                Host::resume(half);
            }
        }
    }

    fn poll(self: &Rc<Self>, half: Half) -> Option<Outcome> {
        let slot = &self.methods[half as usize];
        let mut method = slot.borrow_mut().take()?;
        loop {
            // Most methods never wait: they need no waker.
            let waker = method.task.as_ref().map_or(Waker::noop(), |(_, waker)| waker);
            if let Poll::Ready(outcome) = method.future.as_mut().poll(&mut Context::from_waker(waker)) {
                if let Some((number, _)) = method.task {
                    self.root.forget(number);
                }
                return Some(outcome);
            }
            match method.task {
                None => {
                    let number = task::number();
                    method.task = Some((number, task::waker(&self.root, number)));
                }
                // It may have been woken by what it has done itself.
                Some((number, _)) if task::take_woken(number) => {}
                Some((number, _)) => {
                    self.root.wait(number, self, half);
                    *slot.borrow_mut() = Some(method);
                    return None;
                }
            }
        }
    }

    /// What becomes of this half now; `inside` a callback of its, that is what the callback answers.
    fn settle(&self, half: Half, outcome: Option<Outcome>, inside: bool) -> Verdict {
        match outcome {
            Some(Ok(flow)) => {
                self.over.set(self.over.get() || flow == Flow::Leave);
                self.way(half).borrow_mut().finish();
                Verdict::Continue
            }
            Some(Err(reply)) => {
                self.reply(&reply);
                Verdict::Pause
            }
            None if self.way(half).borrow_mut().may_pass(inside) => Verdict::Continue,
            None => Verdict::Pause,
        }
    }

    fn reply(&self, reply: &Reply) {
        self.end();
        Host::reply(reply);
    }

    /// Nothing more is asked of the filter, and nothing more waits.
    fn end(&self) {
        self.over.set(true);
        for (half, method) in [Half::Request, Half::Response].into_iter().zip(&self.methods) {
            let number = self.number(half);
            if let Some(number) = number {
                self.root.forget(number);
            }
            // Futures take back their calls and timers.
            let gone = method.take();
            drop(gone);
        }
    }
}

/// One exchange through a filter.
pub(crate) struct Stream<F> {
    filter: Option<Rc<F>>,
    root: Rc<Root>,
    exchange: Rc<Exchange>,
}

impl<F: Filter> Stream<F> {
    /// Without a filter (it could not be configured) each request is refused.
    pub(crate) fn new(filter: Option<Rc<F>>, root: &Rc<Root>, context: u32) -> Self {
        Self { filter, root: Rc::clone(root), exchange: Exchange::new(root, context) }
    }

    pub(crate) fn on_head(&self, half: Half, end: bool) -> Verdict {
        let exchange = &self.exchange;
        let Some(filter) = self.filter.clone() else {
            if !exchange.over.get() {
                exchange.reply(&Reply::new(503));
                return Verdict::Pause;
            }
            return Verdict::Continue;
        };
        if exchange.over.get() {
            return Verdict::Continue;
        }
        exchange.way(half).borrow_mut().head(end, F::READS.has(half));
        self.root.enter(|| match half {
            Half::Request => {
                let mut request = Request::new(exchange, !end);
                exchange.begin(half, async move { filter.on_request(&mut request).await })
            }
            Half::Response => {
                let mut response = Response::new(exchange, !end);
                exchange.begin(half, async move { filter.on_response(&mut response).await })
            }
        })
    }

    pub(crate) fn on_body(&self, half: Half, size: usize, end: bool) -> Verdict {
        self.more(half, |way| way.body(size, end))
    }

    pub(crate) fn on_trailers(&self, half: Half) -> Verdict {
        self.more(half, |way| way.arrived(Arrived::Trailers))
    }

    fn more(&self, half: Half, note: impl FnOnce(&mut Way)) -> Verdict {
        let exchange = &self.exchange;
        if !exchange.is_busy(half) {
            // What was answered goes nowhere; what the method is done with goes on.
            return Verdict::Continue;
        }
        note(&mut exchange.way(half).borrow_mut());
        self.root.enter(|| {
            let verdict = exchange.callback(half);
            exchange.others(Some(half));
            verdict
        })
    }

    /// Something was told to this exchange that is not of its message.
    pub(crate) fn on_event(&self, event: impl FnOnce(&Root)) {
        self.root.enter(|| {
            event(&self.root);
            self.exchange.others(None);
        });
    }

    /// The exchange is over: the host shows its heads once more.
    pub(crate) fn on_log(&self) {
        self.exchange.end();
        if let Some(filter) = &self.filter {
            let kept = self.exchange.kept.borrow().clone();
            self.root.enter(|| filter.on_end(&End::new(kept)));
        }
    }

    pub(crate) fn on_done(&self) {
        self.exchange.end();
    }
}
