//! Runs the tests of a filter against its compiled module, in the host that Lacis has: the same test code, once natively
//! and once as it is shipped.
//!
//! ```no_run
//! use lacis_sdk::testing::{Message, Plugin};
//! use lacis_sdk_testing::Module;
//!
//! /// For any plugin, whatever runs it.
//! fn greets<F>(plugin: &Plugin<F>) {
//!     let response = plugin.exchange().response(Message::response(200)).unwrap();
//!     assert_eq!(response.value("x-greeting").as_deref(), Some("hello"));
//! }
//!
//! let module = Module::load("target/wasm32-wasip1/release/greeting.wasm").unwrap();
//! greets(&module.configure(r#"{"text": "hello"}"#).unwrap());
//! // Natively: greets(&Plugin::<Greeting>::configure(r#"{"text": "hello"}"#).unwrap());
//! ```
//!
//! What a test gives natively it gives here, but for two things that a module keeps to itself: random numbers are real ones, and
//! [`Plugin::shared`] does not see its shared data.

mod world;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use lacis_host::abi::{Action, BodyAnswer};
use lacis_host::testing::{List, TestStream};
use lacis_host::{
    ContextId, GrpcEvent, HeadersAction, HttpAnswer, Options, PluginSettings, RootId, StartError, Trap, Vm, VmSettings,
};
use lacis_sdk::testing::{Content, Engine, Half, Lines, Passage, Plugin, Scene, Told};
use lacis_sdk::{Reply, Value};
use world::Host;

/// A compiled module.
pub struct Module {
    plugin: lacis_host::Plugin,
}

impl Module {
    /// Compiles a module from a file.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or is none that Lacis runs.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, String> {
        let path = path.as_ref();
        let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let code = std::fs::read(path).map_err(|error| wrong(&error))?;
        let engine = lacis_host::Engine::new(&Options::default()).map_err(|error| wrong(&error))?;
        let plugin = lacis_host::Plugin::compile(&engine, &code).map_err(|error| wrong(&error))?;
        Ok(Self { plugin })
    }

    /// Starts it with a configuration.
    ///
    /// # Errors
    ///
    /// What it logged, if it refuses the configuration; else why it does not start.
    pub fn configure(&self, config: &str) -> Result<Plugin<Module>, String> {
        let scene = Scene::default();
        let host = Rc::new(RefCell::new(Host::new(&scene)));
        // A test may run beside others: what a callback may take is not what is tested.
        let settings = VmSettings { time: Duration::from_secs(10), ..VmSettings::default() };
        let start = || -> Result<(Vm, RootId), StartError> {
            let mut vm = Vm::new(&self.plugin, settings, host.clone())?;
            let root = vm.start_root(PluginSettings {
                name: "module".to_owned(),
                configuration: config.as_bytes().to_owned(),
                allow_on_headers_stop_iteration: true,
                ..PluginSettings::default()
            })?;
            Ok((vm, root))
        };
        let (vm, root) = start().map_err(|error| scene.last_line().unwrap_or_else(|| error.to_string()))?;
        let running = Running {
            vm: RefCell::new(vm),
            root,
            scene: scene.clone(),
            host,
            exchanges: RefCell::default(),
            last: Cell::new(0),
        };
        Ok(Plugin::new(Rc::new(running), scene))
    }
}

struct Running {
    vm: RefCell<Vm>,
    root: RootId,
    scene: Scene,
    host: Rc<RefCell<Host>>,
    exchanges: RefCell<Exchanges>,
    last: Cell<u32>,
}

/// Contexts and what they see, by the test's number of an exchange.
type Exchanges = BTreeMap<u32, (ContextId, Rc<RefCell<TestStream>>)>;

impl Running {
    /// Runs a callback: all exchanges may be changed by it.
    fn run<T>(&self, callback: impl FnOnce(&mut Vm) -> Result<T, Trap>) -> T {
        for (number, (_, stream)) in &*self.exchanges.borrow() {
            self.scene.content(*number, |content| show(content, &mut stream.borrow_mut()));
        }
        let result = callback(&mut self.vm.borrow_mut());
        for (number, (_, stream)) in &*self.exchanges.borrow() {
            self.scene.content(*number, |content| note(content, &mut stream.borrow_mut()));
        }
        match result {
            Ok(result) => result,
            Err(trap) => trapped(&trap),
        }
    }

    fn context(&self, exchange: u32) -> Option<ContextId> {
        self.exchanges.borrow().get(&exchange).map(|(context, _)| *context)
    }

    fn within(&self, exchange: u32, callback: impl FnOnce(&mut Vm, ContextId) -> Result<Passage, Trap>) -> Passage {
        match self.context(exchange) {
            Some(context) => self.run(|vm| callback(vm, context)),
            None => Passage::Continue,
        }
    }
}

#[expect(clippy::panic, reason = "a test fails by panicking")]
fn trapped(trap: &Trap) -> ! {
    panic!("the module has trapped: {trap}\n{}", trap.backtrace)
}

impl Engine for Running {
    fn open(&self) -> u32 {
        let stream = Rc::new(RefCell::new(TestStream::default()));
        let context = self.run(|vm| vm.open(self.root, stream.clone()));
        self.last.set(self.last.get() + 1);
        self.exchanges.borrow_mut().insert(self.last.get(), (context, stream));
        self.last.get()
    }

    fn head(&self, exchange: u32, half: Half, end: bool) -> Passage {
        let count = self.scene.content(exchange, |content| content.heads[half as usize].as_ref().map_or(0, Vec::len));
        self.within(exchange, |vm, context| {
            Ok(match vm.on_headers(context, side(half), count as u32, end)? {
                HeadersAction::Continue => Passage::Continue,
                HeadersAction::Pause | HeadersAction::Hold => Passage::Pause,
            })
        })
    }

    fn body(&self, exchange: u32, half: Half, end: bool) -> Passage {
        let size = self.scene.content(exchange, |content| content.bodies[half as usize].len());
        self.within(exchange, |vm, context| {
            Ok(match vm.on_body(context, side(half), size, end)? {
                BodyAnswer::Continue => Passage::Continue,
                _ => Passage::Pause,
            })
        })
    }

    fn trailers(&self, exchange: u32, half: Half) -> Passage {
        let trailers = |content: &mut Content| content.trailers[half as usize].as_ref().map_or(0, Vec::len);
        let count = self.scene.content(exchange, trailers);
        self.within(exchange, |vm, context| {
            Ok(match vm.on_trailers(context, side(half), count as u32)? {
                Action::Continue => Passage::Continue,
                Action::Pause => Passage::Pause,
            })
        })
    }

    fn log(&self, exchange: u32) {
        self.within(exchange, |vm, context| vm.log(context).map(|()| Passage::Continue));
    }

    fn close(&self, exchange: u32) {
        self.within(exchange, |vm, context| vm.close(context).map(|()| Passage::Continue));
        self.exchanges.borrow_mut().remove(&exchange);
    }

    fn tick(&self) {
        self.run(|vm| vm.tick(self.root));
    }

    fn told(&self, call: u32, told: Told) {
        let Some(id) = self.host.borrow_mut().calls.remove(&call) else { return };
        self.run(|vm| match told {
            Told::Answer(answer) if answer.headers().is_empty() => vm.on_http_call(id, None),
            Told::Answer(answer) => {
                let trailers = Some(answer.trailers()).filter(|trailers| !trailers.is_empty());
                let answer = HttpAnswer {
                    headers: Box::new(values(answer.headers())),
                    body: answer.body().to_owned(),
                    trailers: trailers.map(|trailers| Box::new(values(trailers)) as _),
                };
                vm.on_http_call(id, Some(answer))
            }
            Told::Message(message) => vm.on_grpc(id, GrpcEvent::Message(message)),
            Told::Closed(status) => vm.on_grpc(id, GrpcEvent::Close { status, message: String::new() }),
        });
    }
}

fn side(half: Half) -> lacis_host::Half {
    match half {
        Half::Request => lacis_host::Half::Request,
        Half::Response => lacis_host::Half::Response,
    }
}

/// Gives the guest what the test has of an exchange.
fn show(content: &mut Content, stream: &mut TestStream) {
    let Content { heads: [request, response], bodies, trailers, attributes, .. } = content;
    stream.request = request.take().map(list).unwrap_or_default();
    stream.response = response.take().map(list);
    stream.bodies = std::mem::take(bodies).map(Some);
    [stream.request_trailers, stream.response_trailers] = std::mem::take(trailers).map(|lines| lines.map(list));
    let path = |name: &str| name.replace('.', "\0").into_bytes();
    stream.properties = attributes.iter().map(|(name, value)| (path(name), value.clone())).collect();
}

/// Gives the test what the guest has made of it.
fn note(content: &mut Content, stream: &mut TestStream) {
    let request = std::mem::take(&mut stream.request);
    content.heads = [Some(request).filter(|list| !list.0.is_empty()).map(lines), stream.response.take().map(lines)];
    content.bodies = std::mem::take(&mut stream.bodies).map(Option::unwrap_or_default);
    let trailers = [stream.request_trailers.take(), stream.response_trailers.take()];
    content.trailers = trailers.map(|list| list.map(lines));
    for half in stream.resumed.drain(..) {
        content.resumed[half as usize] = true;
    }
    content.rerouted |= stream.rerouted > 0;
    if let Some(reply) = stream.reply.take() {
        let text = String::from_utf8_lossy;
        let empty = Reply::new(u16::try_from(reply.status).unwrap_or(0)).body(reply.body);
        let headers = reply.headers.iter();
        let full = headers.fold(empty, |reply, (name, value)| reply.header(&text(name), &text(value)));
        content.reply.get_or_insert(full);
    }
}

fn list(lines: Lines) -> List {
    List(lines.into_iter().map(|(name, value)| (name.into_bytes(), value)).collect())
}

fn lines(list: List) -> Lines {
    list.0.into_iter().map(|(name, value)| (String::from_utf8_lossy(&name).into_owned(), value)).collect()
}

fn values(lines: &[(String, Value)]) -> List {
    List(lines.iter().map(|(name, value)| (name.clone().into_bytes(), value.as_bytes().to_owned())).collect())
}
