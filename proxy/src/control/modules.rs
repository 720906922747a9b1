//! Filter modules on their way from the config to the workers: read, checked, compiled in a process of their own, loaded,
//! and tried once, so that traffic never meets a filter that cannot start.

mod cache;
mod canary;
mod compiler;
mod producers;
mod remote;
mod stop;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::fmt::{self, Write as _};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use aws_lc_rs::digest;
use lacis_host::{Allow, Engine, LoadError, Options, Plugin, Restricted, limits};

use self::cache::{Cache, Form};
use self::canary::Tried;
use self::compiler::Compiler;
pub use self::compiler::TIME_MAX;
pub use self::remote::{Absence, Missing};
use self::remote::{Patience, Wanted};
pub use self::stop::{Stop, Wish};
use crate::config::{AppProtocol, Config, Failure, Filter, Module, Node, ServiceProtocol, file};
use crate::filter::builtin;
use crate::filter::chain::Plan;
use crate::filter::compiled::Compiled;

/// Largest module in bytes, as in Istio. Modules of Go and C#, which bring their runtime along, have up to 30 MB; the
/// module and what the compiler makes of it are held in memory while it compiles.
pub const MODULE_MAX: u64 = 256 << 20;

/// Longest text of what is wrong with a filter, in bytes. Each name in a module can have 100,000.
const PROBLEM_MAX: usize = 4096;

/// Begin of a core module, WebAssembly specification 5.5.16: magic and version 1.
const MODULE: &[u8] = b"\0asm\x01\0\0\0";

/// Begin of a component, Component Model binary format: the same magic, version 13, layer 1.
const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

/// Where filters are made ready to run, before the workers start and for every change.
#[derive(Default)]
pub struct Workshop {
    /// Absent until there is a filter: without one there is no engine, and neither its memory nor its thread.
    tools: Option<Tools>,
    /// Those in use. What has not changed is not made again, so that workers know it by its address.
    ready: Vec<Arc<Compiled>>,
    /// Modules that are missing in what is in use.
    absent: Vec<Wanted>,
}

struct Tools {
    engine: Engine,
    compiler: Compiler,
    cache: Arc<Cache>,
}

impl Tools {
    fn new() -> Result<Tools, String> {
        // The compiler is a process of its own.
        let options = Options { compiler: false, ..Options::default() };
        let engine = Engine::new(&options).map_err(|error| error.to_string())?;
        Ok(Tools { engine, compiler: Compiler::own()?, cache: Arc::new(Cache::open(|name| std::env::var_os(name))?) })
    }

    /// The module with this digest, compiled; mostly that was done before.
    fn plugin(&self, code: &[u8], digest: &str, stop: &Stop) -> Result<Plugin, String> {
        let Tools { engine, cache, .. } = self;
        let key = format!("{digest}-{:016x}", engine.compatibility());
        let cached = cache.find(&key, Form::Artifact).map(|artifact| Plugin::load(engine, &artifact));
        match cached {
            // Whole, and still not for this engine or from this user.
            Some(Err(LoadError::Artifact { path, why })) => {
                tracing::warn!(artifact = %path.display(), why, "cannot use a compiled module, compiling it again");
                let _ = std::fs::remove_file(path);
                self.compile(&key, code, stop)
            }
            Some(loaded) => loaded.map_err(|error| error.to_string()),
            None => self.compile(&key, code, stop),
        }
    }

    fn compile(&self, key: &str, code: &[u8], stop: &Stop) -> Result<Plugin, String> {
        let started = Instant::now();
        let Tools { engine, compiler, cache } = self;
        let artifact = cache.add(key, Form::Artifact, |output| compiler.compile(code, output, stop))?;
        tracing::info!(artifact = %artifact.display(), duration = ?started.elapsed(), "compiled a module");
        Plugin::load(engine, &artifact).map_err(|error| error.to_string())
    }
}

/// A module that could be a filter's.
pub struct Loaded {
    /// Its bytes.
    pub code: Vec<u8>,
    /// Compiled and linked.
    pub plugin: Plugin,
    /// What it was written in, if that can be told.
    pub language: Option<String>,
}

/// Why a filter cannot run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its name; empty if this is about all of them.
    pub filter: String,
    /// What is wrong, and what would be right.
    pub why: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.filter {
            "" => f.write_str(&self.why),
            filter => write!(f, "filters.{filter}: {}", self.why),
        }
    }
}

/// One to a line.
pub fn told(refusals: &[Refusal]) -> String {
    refusals.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

impl Workshop {
    /// Makes the filters ready that a listener uses. Blocks: milliseconds where the modules were fetched and compiled
    /// before, else as long as that takes.
    ///
    /// It may go without the modules that are missing in what is in use already: who waits for one of them must be able to
    /// change what has nothing to do with it. It gives up when it is to stop.
    ///
    /// # Errors
    /// Everything that is wrong with the filters; that another module cannot be fetched is. Anything, where it gave up.
    pub fn prepare(&mut self, config: &Config, stop: &Stop) -> Result<(Plan, Vec<Missing>), Vec<Refusal>> {
        let (plan, missing) = self.make(config, Patience::Retries, stop)?;
        let known = |missing: &Missing| self.absent.iter().any(|absent| absent.is(&missing.wanted));
        if missing.iter().all(known) {
            return Ok((plan, missing));
        }
        Err(missing.into_iter().filter(|missing| !known(missing)).map(Refusal::from).collect())
    }

    /// The same for a process that starts: it goes without what cannot be fetched at once, and filters without a module
    /// follow their failure policy. [`Workshop::pursue`] gets them later.
    ///
    /// # Errors
    /// Everything else that is wrong with the filters.
    pub fn start(&mut self, config: &Config) -> Result<(Plan, Vec<Missing>), Vec<Refusal>> {
        self.make(config, Patience::Once, &Stop::default())
    }

    /// Goes on fetching what is missing, on a thread of its own, until it is in the cache, where the next generation finds
    /// it, or until nobody needs it any more. `heard` is told, on that thread, what is still missing after each attempt.
    /// `over` is called when another generation has come into use.
    ///
    /// # Errors
    /// If there can be no such thread.
    pub fn pursue(
        &self,
        missing: Vec<Missing>,
        heard: impl Fn(&[Missing]) + Send + 'static,
        over: impl FnOnce() + 'static,
    ) -> Result<Option<Absence>, String> {
        let Some(tools) = self.tools.as_ref().filter(|_| !missing.is_empty()) else { return Ok(None) };
        Absence::begin(missing, Arc::clone(&tools.cache), heard, over).map(Some)
    }

    fn make(&mut self, config: &Config, patience: Patience, stop: &Stop) -> Result<(Plan, Vec<Missing>), Vec<Refusal>> {
        if used(config).is_empty() {
            return Ok((Plan::new(vec![None; config.filters.len()]), Vec::new()));
        }
        let tools = match self.tools.take().map_or_else(Tools::new, Ok) {
            Ok(tools) => self.tools.insert(tools),
            Err(why) => return Err(vec![Refusal { filter: String::new(), why }]),
        };
        prepare_with(config, &self.ready, &self.absent, tools, patience, stop)
    }

    /// Reads and compiles one module, as a filter's would be; nothing of it runs. A path, or `builtin:NAME`.
    ///
    /// # Errors
    /// What is wrong with it, and what would be right.
    pub fn load(&mut self, module: &str) -> Result<Loaded, String> {
        let code = match module.strip_prefix("builtin:") {
            Some(name) => embedded(name)?.to_vec(),
            None => file(Path::new(module))?,
        };
        let tools = match self.tools.take() {
            Some(tools) => self.tools.insert(tools),
            None => self.tools.insert(Tools::new()?),
        };
        let plugin = tools
            .plugin(&code, &sha256(&code), &Stop::default())
            .map_err(|problem| line(&format!("{module}: {problem}")))?;
        let language = producers::language(&code).or_else(|| plugin.language().map(|known| known.name().to_owned()));
        Ok(Loaded { code, plugin, language })
    }

    /// Remembers what has come into use, and what is missing there.
    pub fn keep(&mut self, plan: &Plan, missing: &[Missing]) {
        self.ready = plan.filters().cloned().collect();
        self.absent = missing.iter().map(|missing| missing.wanted.clone()).collect();
    }
}

fn prepare_with(
    config: &Config,
    ready: &[Arc<Compiled>],
    absent: &[Wanted],
    tools: &Tools,
    patience: Patience,
    stop: &Stop,
) -> Result<(Plan, Vec<Missing>), Vec<Refusal>> {
    let used = used(config);
    let wanted = used.iter().filter_map(|index| Wanted::of(config.filters.get(*index)?, ready, &tools.cache));
    // Somebody asks for them again and again already.
    let (pursued, wanted) = wanted.partition(|wanted| absent.iter().any(|absent| absent.is(wanted)));
    let mut missing = remote::fetch(wanted, &tools.cache, patience, stop);
    missing.extend(remote::fetch(pursued, &tools.cache, Patience::Once, stop));
    let whole = |filter: &Compiled| match &filter.settings.allow.functions {
        None => Some(filter.plugin.clone()),
        Some(_) => filter.plugin.unrestricted().ok(),
    };
    let loaded = ready.iter().filter_map(|filter| Some((filter.digest.clone(), whole(filter)?))).collect();
    let mut shop = Shop { tools, node: &config.node, ready, loaded, stop };
    let mut filters = vec![None; config.filters.len()];
    let mut refusals = Vec::new();
    let opaque = opaque(config);
    for index in used {
        if stop.is_due() {
            return Err(Vec::new());
        }
        let (Some(place), Some(filter)) = (filters.get_mut(index), config.filters.get(index)) else { continue };
        if missing.iter().any(|missing| missing.wanted.filter == filter.name) {
            continue;
        }
        match shop.filter(filter) {
            Ok(compiled) if opaque.contains(&index) && !compiled.is_for_tcp() => {
                let why = "its module has no callbacks for TCP connections, and what names it has `protocol: tcp`";
                refusals.push(Refusal { filter: filter.name.clone(), why: why.into() });
            }
            Ok(compiled) => *place = Some(compiled),
            Err(why) => refusals.push(Refusal { filter: filter.name.clone(), why: line(&why) }),
        }
    }
    if !refusals.is_empty() {
        refusals.extend(missing.into_iter().map(Refusal::from));
        return Err(refusals);
    }
    let mut plan = Plan::new(filters);
    for (index, filter) in config.filters.iter().enumerate() {
        if let Some(missing) = missing.iter().find(|missing| missing.wanted.filter == filter.name) {
            let why = format!("filter {}: its module {} is missing", filter.name, missing.wanted.remote.url);
            plan.miss(index, &filter.name, Some(&*why).filter(|_| filter.failure == Failure::Closed));
        }
    }
    Ok((plan, missing))
}

/// Positions of the filters that see opaque bytes.
fn opaque(config: &Config) -> BTreeSet<usize> {
    let inbound = config.inbound.iter().filter(|inbound| inbound.protocol == AppProtocol::Tcp);
    let services = config.services.iter().filter(|service| service.protocol == ServiceProtocol::Tcp);
    let chains = inbound.map(|inbound| &inbound.filters).chain(services.map(|service| &service.filters));
    chains.flatten().copied().collect()
}

/// Positions of the filters that something names.
fn used(config: &Config) -> BTreeSet<usize> {
    config.chains().flatten().copied().collect()
}

/// Where plugins are made.
struct Shop<'a> {
    tools: &'a Tools,
    node: &'a Node,
    /// Those in use.
    ready: &'a [Arc<Compiled>],
    /// By SHA-256 of the module: filters of one module share its code.
    loaded: HashMap<String, Plugin>,
    stop: &'a Stop,
}

impl Shop<'_> {
    fn filter(&mut self, filter: &Filter) -> Result<Arc<Compiled>, String> {
        let name = filter.module.to_string();
        let mut expected = filter.sha256.as_ref();
        let code = match &filter.module {
            Module::Builtin(name) => Cow::Borrowed(embedded(name)?),
            Module::Path(path) => Cow::Owned(file(path)?),
            Module::Remote(_) => {
                // What is in use is what that digest stands for, wherever the cache has gone.
                if let Some(same) = self.ready.iter().find(|ready| ready.settings == *filter) {
                    return Ok(Arc::clone(same));
                }
                // It was compared when this was fetched.
                let key = expected.take().map_or("", String::as_str);
                let cached = self.tools.cache.find(key, Form::Module);
                Cow::Owned(file(&cached.ok_or_else(|| format!("{name} has gone from the cache; try again"))?)?)
            }
        };
        let digest = sha256(&code);
        if let Some(expected) = expected.filter(|expected| **expected != digest) {
            return Err(format!("{name} has the SHA-256 {digest}, and sha256 expects {expected}"));
        }
        if let Some(same) = self.ready.iter().find(|ready| ready.settings == *filter && ready.digest == digest) {
            return Ok(Arc::clone(same));
        }
        let plugin = self.plugin(&code, &digest).map_err(|problem| format!("{name}: {problem}"))?;
        let language = producers::language(&code).or_else(|| plugin.language().map(|known| known.name().to_owned()));
        // Before a guest runs: a large module need not be held meanwhile.
        drop(code);
        let plugin = match &filter.allow.functions {
            None => plugin,
            Some(allow) => plugin.restricted(allow, Restricted::Refuse).map_err(|error| restricted(&name, &error))?,
        };
        let (settings, start) = (filter.clone(), limits::START_TIME);
        let compiled = Compiled { settings, digest, language, plugin, reads: None, start };
        let Tried { reads, start } = canary::run(&compiled, self.node)?;
        Ok(Arc::new(Compiled { reads, start, ..compiled }))
    }

    fn plugin(&mut self, code: &[u8], digest: &str) -> Result<Plugin, String> {
        if let Some(plugin) = self.loaded.get(digest) {
            return Ok(plugin.clone());
        }
        let plugin = self.tools.plugin(code, digest, self.stop)?;
        self.loaded.insert(digest.to_owned(), plugin.clone());
        Ok(plugin)
    }
}

/// What a filter may not import, and what to write if it should.
fn restricted(module: &str, error: &LoadError) -> String {
    let LoadError::Restricted(imports) = error else { return format!("{module}: {error}") };
    let functions = imports.iter().map(|import| import.rsplit('.').next().unwrap_or(import));
    let families: BTreeSet<&str> = functions.filter_map(Allow::family).collect();
    let families = families.into_iter().collect::<Vec<_>>().join(", ");
    format!("{module} imports {}, which it is not allowed; add to allow.functions: {families}", imports.join(", "))
}

fn embedded(name: &str) -> Result<&'static [u8], String> {
    builtin::module(name).ok_or_else(|| {
        let names: Vec<_> = builtin::names().map(|name| format!("builtin:{name}")).collect();
        format!("there is no builtin:{name}; there are {}", names.join(", "))
    })
}

/// Reads a module from a file.
fn file(path: &Path) -> Result<Vec<u8>, String> {
    let name = path.display();
    let cannot = |error| format!("cannot read {name}: {error}; write the path of a WebAssembly module");
    let large = || format!("{name} is larger than the {} MiB that a module may have", MODULE_MAX >> 20);
    let file = file::open(path).map_err(cannot)?;
    let size = file.metadata().map_err(cannot)?.len();
    // Nothing of it need be in memory.
    if size > MODULE_MAX {
        return Err(large());
    }
    let code = module(file, size).map_err(cannot)?;
    if code.len() as u64 > MODULE_MAX {
        return Err(large());
    }
    if code.starts_with(COMPONENT) {
        return Err(format!("{name} is a component; Proxy-Wasm filters are core modules (target wasm32-wasip1)"));
    }
    if !code.starts_with(MODULE) {
        return Err(format!("{name} is not a WebAssembly module: it does not begin with \\0asm and version 1"));
    }
    Ok(code)
}

/// Reads a module, and no more than one byte above the limit of its size. It is expected to have `size`: to grow, a block of
/// memory would be there twice.
///
/// # Errors
/// Those of the reader.
pub fn module(from: impl Read, size: u64) -> std::io::Result<Vec<u8>> {
    let mut code = Vec::with_capacity(size.min(MODULE_MAX) as usize);
    from.take(MODULE_MAX + 1).read_to_end(&mut code)?;
    Ok(code)
}

/// What is wrong with a filter, as one line for a terminal or a log: its module names what it imports, and logs, as it likes.
fn line(problem: &str) -> String {
    let mut line = String::new();
    for character in problem.chars() {
        if line.len() >= PROBLEM_MAX {
            line.push('…');
            break;
        }
        match character.is_control() {
            true => line.extend(character.escape_default()),
            false => line.push(character),
        }
    }
    line
}

/// SHA-256, in lower-case hexadecimal digits.
fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// Lower-case hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let written = write!(text, "{byte:02x}");
        debug_assert!(written.is_ok(), "a string takes everything");
        text
    })
}
