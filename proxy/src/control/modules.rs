//! Filter modules on their way from the config to the workers: read, checked, compiled in a process of their own, loaded,
//! and tried once, so that traffic never meets a filter that cannot start.

mod cache;
mod canary;
mod compiler;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use aws_lc_rs::digest;
use lacis_host::{Engine, LoadError, Options, Plugin};

use self::cache::Cache;
use self::compiler::Compiler;
pub use self::compiler::TIME_MAX;
use crate::config::{AppProtocol, Config, Filter, Module, Node, ServiceProtocol};
use crate::filter::builtin;
use crate::filter::chain::Plan;
use crate::filter::wasm::Compiled;

/// Largest module in bytes. Modules of Go and C#, which bring their runtime along, have up to 30 MB; the module and what
/// the compiler makes of it are held in memory while it compiles.
pub const MODULE_MAX: u64 = 64 << 20;

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
}

struct Tools {
    engine: Engine,
    compiler: Compiler,
    cache: Cache,
}

impl Tools {
    fn new() -> Result<Tools, String> {
        let engine = Engine::new(&Options::default()).map_err(|error| error.to_string())?;
        Ok(Tools { engine, compiler: Compiler::own()?, cache: Cache::open(|name| std::env::var_os(name))? })
    }
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
    /// Makes the filters ready that a listener uses. Blocks: milliseconds where the modules were compiled before, else
    /// as long as compiling takes.
    ///
    /// # Errors
    /// Everything that is wrong with the filters.
    pub fn prepare(&mut self, config: &Config) -> Result<Plan, Vec<Refusal>> {
        if used(config).is_empty() {
            return Ok(Plan::new(vec![None; config.filters.len()]));
        }
        let tools = match self.tools.take().map_or_else(Tools::new, Ok) {
            Ok(tools) => self.tools.insert(tools),
            Err(why) => return Err(vec![Refusal { filter: String::new(), why }]),
        };
        prepare_with(config, &self.ready, tools)
    }

    /// Remembers what has come into use.
    pub fn keep(&mut self, plan: &Plan) {
        self.ready = plan.filters().cloned().collect();
    }
}

fn prepare_with(config: &Config, ready: &[Arc<Compiled>], tools: &Tools) -> Result<Plan, Vec<Refusal>> {
    let loaded = ready.iter().map(|filter| (filter.digest.clone(), filter.plugin.clone())).collect();
    let mut shop = Shop { tools, node: &config.node, ready, loaded };
    let mut filters = vec![None; config.filters.len()];
    let mut refusals = Vec::new();
    let opaque = opaque(config);
    for index in used(config) {
        let (Some(place), Some(filter)) = (filters.get_mut(index), config.filters.get(index)) else { continue };
        match shop.filter(filter) {
            Ok(compiled) if opaque.contains(&index) && !compiled.is_for_tcp() => {
                let why = "its module has no callbacks for TCP connections, and what names it has `protocol: tcp`";
                refusals.push(Refusal { filter: filter.name.clone(), why: why.into() });
            }
            Ok(compiled) => *place = Some(compiled),
            Err(why) => refusals.push(Refusal { filter: filter.name.clone(), why }),
        }
    }
    if refusals.is_empty() { Ok(Plan::new(filters)) } else { Err(refusals) }
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
}

impl Shop<'_> {
    fn filter(&mut self, filter: &Filter) -> Result<Arc<Compiled>, String> {
        let (name, code) = match &filter.module {
            Module::Builtin(name) => (format!("builtin:{name}"), Cow::Borrowed(embedded(name)?)),
            Module::Path(path) => (path.display().to_string(), Cow::Owned(file(path)?)),
        };
        let digest = hex(digest::digest(&digest::SHA256, &code).as_ref());
        if let Some(expected) = filter.sha256.as_ref().filter(|expected| **expected != digest) {
            return Err(format!("{name} has the SHA-256 {digest}, and sha256 expects {expected}"));
        }
        if let Some(same) = self.ready.iter().find(|ready| ready.settings == *filter && ready.digest == digest) {
            return Ok(Arc::clone(same));
        }
        let plugin = self.plugin(&code, &digest).map_err(|problem| format!("{name}: {problem}"))?;
        // Before a guest runs: a large module need not be held meanwhile.
        drop(code);
        let mut compiled = Compiled { settings: filter.clone(), digest, plugin, heads_only: false };
        compiled.heads_only = canary::run(&compiled, self.node)?;
        Ok(Arc::new(compiled))
    }

    fn plugin(&mut self, code: &[u8], digest: &str) -> Result<Plugin, String> {
        if let Some(plugin) = self.loaded.get(digest) {
            return Ok(plugin.clone());
        }
        let Tools { engine, cache, .. } = self.tools;
        let key = format!("{digest}-{:016x}", engine.compatibility());
        let cached = cache.find(&key).map(|artifact| Plugin::load(engine, &artifact));
        let plugin = match cached {
            // Whole, and still not for this engine or from this user.
            Some(Err(LoadError::Artifact { path, why })) => {
                tracing::warn!(artifact = %path.display(), why, "cannot use a compiled module, compiling it again");
                let _ = std::fs::remove_file(path);
                self.compile(&key, code)?
            }
            Some(loaded) => loaded.map_err(|error| error.to_string())?,
            None => self.compile(&key, code)?,
        };
        self.loaded.insert(digest.to_owned(), plugin.clone());
        Ok(plugin)
    }

    fn compile(&self, key: &str, code: &[u8]) -> Result<Plugin, String> {
        let started = Instant::now();
        let Tools { engine, compiler, cache } = self.tools;
        let artifact = cache.add(key, |output| compiler.compile(code, output))?;
        tracing::info!(artifact = %artifact.display(), duration = ?started.elapsed(), "compiled a module");
        Plugin::load(engine, &artifact).map_err(|error| error.to_string())
    }
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
    let read = || -> std::io::Result<Option<Vec<u8>>> {
        // To open a pipe would wait for its writer.
        if !std::fs::metadata(path)?.is_file() {
            return Ok(None);
        }
        module(File::open(path)?).map(Some)
    };
    let code = match read() {
        Ok(Some(code)) => code,
        Ok(None) => return Err(format!("{name} is not a file; write the path of a WebAssembly module")),
        Err(error) => return Err(format!("cannot read {name}: {error}; write the path of a WebAssembly module")),
    };
    if code.len() as u64 > MODULE_MAX {
        return Err(format!("{name} is larger than the {} MiB that a module may have", MODULE_MAX >> 20));
    }
    if code.starts_with(COMPONENT) {
        return Err(format!("{name} is a component; Proxy-Wasm filters are core modules (target wasm32-wasip1)"));
    }
    if !code.starts_with(MODULE) {
        return Err(format!("{name} is not a WebAssembly module: it does not begin with \\0asm and version 1"));
    }
    Ok(code)
}

/// Reads a module, and no more than one byte above the limit of its size.
///
/// # Errors
/// Those of the reader.
pub fn module(from: impl Read) -> std::io::Result<Vec<u8>> {
    let mut code = Vec::new();
    from.take(MODULE_MAX + 1).read_to_end(&mut code)?;
    Ok(code)
}

/// Lower-case hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let written = write!(text, "{byte:02x}");
        debug_assert!(written.is_ok(), "a string takes everything");
        text
    })
}
