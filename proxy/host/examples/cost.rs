//! What a filter costs: `cost FILTER.wasm` runs whole exchanges through one VM on one thread and prints, in nanoseconds
//! of CPU for each exchange, the best of several rounds; then the memory of the process, with the filter loaded from an artifact
//! as the sidecar does it.

use std::fmt::{self, Display};
use std::fs;
use std::ops::Sub;
use std::time::Instant;

use lacis_host::testing::{List, TestStream, TestWorld};
use lacis_host::{Engine, Half, Options, Plugin, PluginSettings, Vm, VmSettings};

const ROUNDS: usize = 7;

/// New VMs whose start is measured.
const VMS: usize = 200;
const EXCHANGES: u32 = 100_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [compile, module, artifact] if compile == "compile" => {
            let begin = Instant::now();
            let code = Engine::new(&Options::default())?.compile(&fs::read(module)?)?;
            println!("compiled in {:?} to {} bytes", begin.elapsed(), code.len());
            Ok(fs::write(artifact, code)?)
        }
        [artifact] => measure(artifact),
        _ => Err("usage: cost compile MODULE ARTIFACT, then cost ARTIFACT".into()),
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
    let mut best = f64::INFINITY;
    let mut bare = f64::INFINITY;
    for _ in 0..ROUNDS {
        let begin = cpu()?;
        for _ in 0..EXCHANGES {
            reset(&mut stream.borrow_mut(), &head, &answer);
        }
        bare = bare.min((cpu()? - begin) / f64::from(EXCHANGES));
        let begin = cpu()?;
        for _ in 0..EXCHANGES {
            reset(&mut stream.borrow_mut(), &head, &answer);
            let id = vm.open(root, stream.clone())?;
            vm.on_headers(id, Half::Request, 10, true)?;
            vm.on_headers(id, Half::Response, 4, false)?;
            vm.close(id)?;
        }
        best = best.min((cpu()? - begin) / f64::from(EXCHANGES));
    }
    println!("one exchange: {:.0} ns (of {best:.0} ns with the making of its heads)", best - bare);
    println!("head of the request after it: {:?}", stream.borrow().request.text());
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

fn reset(stream: &mut TestStream, head: &List, answer: &List) {
    stream.request.clone_from(head);
    stream.response = Some(answer.clone());
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
