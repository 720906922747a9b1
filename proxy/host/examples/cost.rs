//! What a filter costs: `cost ARTIFACT` runs whole exchanges through one VM on one thread, entered as a sidecar with little to do
//! enters it, and prints, in nanoseconds of CPU for each exchange, the best of several rounds; then the memory of the process, with
//! the filter loaded from an artifact as the sidecar does it. `cost bare MODULE` is the floor under it: the same callbacks of the
//! same module on wasmtime alone, one exchange after the other, and with a request and its answer on two connections between them,
//! which leave to the callbacks the caches that a proxy leaves to them.

use std::fmt::{self, Display};
use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Sub;
use std::time::Instant;

use lacis_host::testing::{List, TestStream, TestWorld};
use lacis_host::{Engine, Options, Plugin, PluginSettings, Responded, Vm, VmSettings};
use wasmtime::{Caller, Config, Linker, Memory, Module, Store, TypedFunc, WasmParams, WasmResults};

const ROUNDS: usize = 7;

/// New VMs whose start is measured.
const VMS: usize = 200;
const EXCHANGES: u32 = 100_000;

/// Lines of the heads of request and response, and the content of the latter.
const LINES: [usize; 2] = [10, 4];
const BODY: &[u8] = b"hello, world";

/// Bytes of a request and of its answer on connections.
const MESSAGES: [usize; 2] = [200, 1200];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [compile, module, artifact] if compile == "compile" => {
            let begin = Instant::now();
            let code = Engine::new(&Options::default())?.compile(&fs::read(module)?)?;
            println!("compiled in {:?} to {} bytes", begin.elapsed(), code.len());
            Ok(fs::write(artifact, code)?)
        }
        [what, module] if what == "bare" => bare(module),
        [artifact] => measure(artifact),
        _ => Err("usage: cost compile MODULE ARTIFACT, then cost ARTIFACT; or cost bare MODULE".into()),
    }
}

fn measure(artifact: &str) -> Result<(), Box<dyn std::error::Error>> {
    let before = resident()?;
    let engine = Engine::new(&Options { compiler: false, ..Options::default() })?;
    println!("engine: {:?}, {}", engine.placement(), resident()? - before);
    let begin = Instant::now();
    let plugin = Plugin::load(&engine, artifact.as_ref())?;
    println!("load: {:?}, ABI {}, {:?}", begin.elapsed(), plugin.abi().name(), plugin.language());

    let world = TestWorld::shared();
    let begin = Instant::now();
    let mut vm = Vm::new(&plugin, VmSettings::default(), world.clone())?;
    let root = vm.start_root(PluginSettings { name: "cost".into(), ..PluginSettings::default() })?;
    println!("first VM with plugin: {:?}", begin.elapsed());
    println!("engine, module and VM: {}; the process: {}", resident()? - before, resident()?);
    starts(&engine, artifact)?;

    let head = List::of(&[
        (":authority", "delta.example"),
        (":path", "/v1/things?page=2"),
        (":method", "GET"),
        (":scheme", "http"),
        ("user-agent", "cost/1"),
        ("accept", "*/*"),
        ("accept-encoding", "gzip, br"),
        ("x-request-id", "7d0b1c9e-38c3-4e4c-9a8e-27a1a1b5e0aa"),
        ("x-user", "somebody"),
        ("x-forwarded-proto", "http"),
    ]);
    let answer =
        List::of(&[(":status", "200"), ("content-type", "text/plain"), ("content-length", "12"), ("server", "x")]);
    let stream = TestStream::request(&[]);
    {
        let stream = &mut *stream.borrow_mut();
        (stream.request, stream.response, stream.bodies[1]) = (head, Some(answer), Some(BODY.to_vec()));
    }
    let (mut best, mut last) = (f64::INFINITY, Vec::new());
    for _ in 0..ROUNDS {
        let begin = cpu()?;
        for _ in 0..EXCHANGES {
            let id = vm.admit(root, stream.clone())?;
            vm.begin(id, 1, LINES[0] as u32, true).map_err(|(_, trap)| trap)?;
            match vm.on_response(id, 1, LINES[1] as u32, BODY.len()) {
                Responded::Head(shown) => drop(shown.map_err(|(_, trap)| trap)?),
                Responded::Body(shown) => drop(shown.map_err(|(_, trap)| trap)?),
            }
            vm.end(&[(id, 1)]).map_err(|(_, trap)| trap)?;
            // What the filter has added goes; the lists keep their room, for they are not what is measured.
            let stream = &mut *stream.borrow_mut();
            last.clear();
            let there = stream.request.0.len().min(LINES[0]);
            last.extend(stream.request.0.drain(there..));
            stream.response.iter_mut().for_each(|head| head.0.truncate(LINES[1]));
        }
        best = best.min((cpu()? - begin) / f64::from(EXCHANGES));
    }
    println!("one exchange: {best:.0} ns; added to the request: {:?}", List(last).text());
    println!("memory of the guest: {} KiB; the process: {}", vm.memory() >> 10, resident()?);
    Ok(())
}

/// How long a further VM takes, until its plugin is configured: of a module that is loaded, and of one from the cache.
fn starts(engine: &Engine, artifact: &str) -> Result<(), Box<dyn std::error::Error>> {
    let loaded = Plugin::load(engine, artifact.as_ref())?;
    for (what, cached) in [("loaded", false), ("cached", true)] {
        let mut times = Vec::with_capacity(VMS);
        for _ in 0..VMS {
            let begin = Instant::now();
            let fresh = if cached { Some(Plugin::load(engine, artifact.as_ref())?) } else { None };
            let mut vm = Vm::new(fresh.as_ref().unwrap_or(&loaded), VmSettings::default(), TestWorld::shared())?;
            vm.start_root(PluginSettings { name: "cost".into(), ..PluginSettings::default() })?;
            times.push(begin.elapsed());
        }
        times.sort_unstable();
        let at = |part: usize| times.get(part.min(VMS - 1)).copied().unwrap_or_default().as_secs_f64() * 1e6;
        println!("new VM of a {what} module: median {:.0} µs, p99 {:.0} µs of {VMS}", at(VMS / 2), at(VMS * 99 / 100));
    }
    Ok(())
}

/// What a host that knows nothing of an exchange has: the one value that guests are given, and what they wrote.
struct Nothing {
    memory: Option<Memory>,
    allocator: Option<TypedFunc<u32, u32>>,
    written: Vec<u8>,
}

/// The callbacks of an exchange one by one, on wasmtime with deadlines (epochs), and host functions that do as little as they
/// can: the two that change a head copy the value out of the guest, the one that reads it has a block from the guest's allocator;
/// all others answer 0 at once.
fn bare(module: &str) -> Result<(), Box<dyn std::error::Error>> {
    let engine = wasmtime::Engine::new(Config::new().epoch_interruption(true))?;
    let module = Module::new(&engine, fs::read(module)?)?;
    let mut store = Store::new(&engine, Nothing { memory: None, allocator: None, written: Vec::new() });
    store.set_epoch_deadline(u64::from(u32::MAX));
    let mut linker = Linker::new(&engine);
    linker.func_wrap("env", "proxy_get_header_map_value", give)?;
    linker.func_wrap("env", "proxy_replace_header_map_value", take)?;
    linker.func_wrap("env", "proxy_add_header_map_value", take)?;
    linker.define_unknown_imports_as_default_values(&mut store, &module)?;
    let instance = linker.instantiate(&mut store, &module)?;
    store.data_mut().memory = instance.get_memory(&mut store, "memory");
    let names = ["proxy_on_memory_allocate", "malloc"];
    let allocator = names.iter().find_map(|name| instance.get_typed_func(&mut store, name).ok());
    store.data_mut().allocator = allocator;
    if let Ok(initialize) = instance.get_typed_func::<(), ()>(&mut store, "_initialize") {
        initialize.call(&mut store, ())?;
    }
    let create = Callback::<(u32, u32), ()>::of(&instance, &mut store, "proxy_on_context_create");
    let configure = Callback::<(u32, u32), u32>::of(&instance, &mut store, "proxy_on_configure");
    let heads = ["proxy_on_request_headers", "proxy_on_response_headers"]
        .map(|name| Callback::<(u32, u32, u32), u32>::of(&instance, &mut store, name));
    let body = Callback::<(u32, u32, u32), u32>::of(&instance, &mut store, "proxy_on_response_body");
    let log = Callback::<u32, ()>::of(&instance, &mut store, "proxy_on_log");
    let done = Callback::<u32, u32>::of(&instance, &mut store, "proxy_on_done");
    let delete = Callback::<u32, ()>::of(&instance, &mut store, "proxy_on_delete");
    create.call(&mut store, (1, 0))?;
    configure.call(&mut store, (1, 0))?;
    let mut id = 1_u32;
    let mut called = |phase: Phase| {
        match phase {
            Phase::Request => {
                id += 1;
                create.call(&mut store, (id, 1))?;
                heads[0].call(&mut store, (id, LINES[0] as u32, 1))?;
            }
            Phase::Response => {
                heads[1].call(&mut store, (id, LINES[1] as u32, 0))?;
                body.call(&mut store, (id, BODY.len() as u32, 1))?;
            }
            Phase::End => {
                log.call(&mut store, id)?;
                done.call(&mut store, id)?;
                delete.call(&mut store, id)?;
            }
        }
        Ok(())
    };
    let warm = rounds(|| [Phase::Request, Phase::Response, Phase::End].into_iter().try_for_each(&mut called))?;
    let mut hop = Hop::new()?;
    // In turn, as the machine may change its pace: what differs is the callbacks.
    let mut added = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let without = round(|| hop.pass(|_| Ok(())))?;
        added.push(round(|| hop.pass(&mut called))? - without);
    }
    added.sort_unstable_by(f64::total_cmp);
    let cold = added.get(ROUNDS / 2).copied().unwrap_or_default();
    println!("one exchange on wasmtime alone: {warm:.0} ns; between those of connections: {cold:.0} ns");
    println!("written last: {:?}", String::from_utf8_lossy(&store.data().written));
    Ok(())
}

/// The callbacks of an exchange that follow each other.
#[derive(Clone, Copy)]
enum Phase {
    Request,
    Response,
    End,
}

/// What a proxy does at the least: it reads a request from one connection and writes it to another, and so with the answer. Both
/// ends of both connections are here: what they cost is in the round without callbacks, too.
struct Hop {
    /// The application's end and ours.
    near: [TcpStream; 2],
    /// Ours and the service's.
    far: [TcpStream; 2],
    buffer: Vec<u8>,
}

impl Hop {
    fn new() -> io::Result<Self> {
        let pair = || {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let near = TcpStream::connect(listener.local_addr()?)?;
            let (far, _) = listener.accept()?;
            near.set_nodelay(true)?;
            far.set_nodelay(true)?;
            io::Result::Ok([near, far])
        };
        Ok(Hop { near: pair()?, far: pair()?, buffer: vec![0; MESSAGES[1]] })
    }

    fn pass(&mut self, mut called: impl FnMut(Phase) -> wasmtime::Result<()>) -> wasmtime::Result<()> {
        let Hop { near: [application, here], far: [there, service], buffer } = self;
        let ways = [
            (Phase::Request, [&*application, here, there, service], MESSAGES[0]),
            (Phase::Response, [&*service, there, here, application], MESSAGES[1]),
        ];
        for (phase, [mut sender, mut receives, mut sends, mut receiver], size) in ways {
            let bytes = buffer.get_mut(..size).unwrap_or_default();
            sender.write_all(bytes)?;
            receives.read_exact(bytes)?;
            called(phase)?;
            sends.write_all(bytes)?;
            receiver.read_exact(bytes)?;
        }
        called(Phase::End)
    }
}

/// The best of several rounds, in nanoseconds for each exchange.
fn rounds(mut exchange: impl FnMut() -> wasmtime::Result<()>) -> Result<f64, Box<dyn std::error::Error>> {
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        best = best.min(round(&mut exchange)?);
    }
    Ok(best)
}

fn round(mut exchange: impl FnMut() -> wasmtime::Result<()>) -> Result<f64, Box<dyn std::error::Error>> {
    let begin = cpu()?;
    for _ in 0..EXCHANGES {
        exchange()?;
    }
    Ok((cpu()? - begin) / f64::from(EXCHANGES))
}

/// An export, if the module has it.
struct Callback<P, R>(Option<TypedFunc<P, R>>);

impl<P: WasmParams, R: WasmResults> Callback<P, R> {
    fn of(instance: &wasmtime::Instance, store: &mut Store<Nothing>, name: &str) -> Self {
        Callback(instance.get_typed_func(store, name).ok())
    }

    fn call(&self, store: &mut Store<Nothing>, parameters: P) -> wasmtime::Result<()> {
        self.0.as_ref().map_or(Ok(()), |function| function.call(store, parameters).map(drop))
    }
}

/// `proxy_get_header_map_value`, whatever is asked for.
fn give(
    mut caller: Caller<'_, Nothing>,
    _map: u32,
    _name: u32,
    _size: u32,
    pointer: u32,
    length: u32,
) -> wasmtime::Result<u32> {
    const VALUE: &[u8] = b"/v1/things?page=2";
    let (Some(memory), Some(allocator)) = (caller.data().memory, caller.data().allocator.clone()) else {
        return Err(wasmtime::Error::msg("no memory or no allocator"));
    };
    let block = allocator.call(&mut caller, VALUE.len() as u32)?;
    for (at, bytes) in [(block, VALUE), (pointer, &block.to_le_bytes()), (length, &(VALUE.len() as u32).to_le_bytes())]
    {
        memory.write(&mut caller, at as usize, bytes)?;
    }
    Ok(0)
}

/// `proxy_replace_header_map_value` and `proxy_add_header_map_value`.
fn take(
    mut caller: Caller<'_, Nothing>,
    _map: u32,
    _name: u32,
    _size: u32,
    value: u32,
    length: u32,
) -> wasmtime::Result<u32> {
    let Some(memory) = caller.data().memory else { return Err(wasmtime::Error::msg("no memory")) };
    let (bytes, state) = memory.data_and_store_mut(&mut caller);
    let value = bytes.get(value as usize..).and_then(|bytes| bytes.get(..length as usize));
    state.written.clear();
    state.written.extend_from_slice(value.ok_or_else(|| wasmtime::Error::msg("a value outside of the memory"))?);
    Ok(0)
}

/// Nanoseconds for which this thread has run: on a busy machine the clock would tell of others.
fn cpu() -> Result<f64, Box<dyn std::error::Error>> {
    let statistics = fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(statistics.split_ascii_whitespace().next().ok_or("no CPU time")?.parse()?)
}

/// Resident memory of this process in KiB: all of it, and what is not mapped from a file.
fn resident() -> Result<Resident, Box<dyn std::error::Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let field = |name: &str| -> Result<usize, Box<dyn std::error::Error>> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).ok_or("no such field")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    };
    Ok(Resident { all: field("VmRSS:")?, anonymous: field("RssAnon:")? })
}

#[derive(Clone, Copy)]
struct Resident {
    all: usize,
    anonymous: usize,
}

impl Sub for Resident {
    type Output = Resident;

    fn sub(self, other: Resident) -> Resident {
        Resident { all: self.all.saturating_sub(other.all), anonymous: self.anonymous.saturating_sub(other.anonymous) }
    }
}

impl Display for Resident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} KiB resident, {} KiB of it anonymous", self.all, self.anonymous)
    }
}
