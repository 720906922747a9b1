//! A module that was compiled, checked and linked: what VMs are made from.

use std::fmt;
use std::path::Path;

use lacis_abi::AbiVersion;
use wasmtime::{ExternType, InstancePre, Module};

use crate::allow::{Allow, Restricted};
use crate::engine::{Engine, LoadError};
use crate::state::State;
use crate::{artifact, exports, link};

/// A module, ready to make [`Vm`](crate::Vm)s of on any thread. A clone is the same module.
#[derive(Clone)]
pub struct Plugin {
    pub(crate) engine: Engine,
    pub(crate) instance: InstancePre<State>,
    pub(crate) abi: AbiVersion,
    /// It may not see bodies.
    pub(crate) hides_bodies: bool,
    /// It may log lines.
    pub(crate) logs: bool,
    language: Option<Language>,
}

/// What a module was written in, as far as its imports and exports tell. For display only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// AssemblyScript.
    AssemblyScript,
    /// C++ by emscripten.
    Cpp,
    /// Go's own compiler.
    Go,
    /// Rust.
    Rust,
    /// TinyGo.
    TinyGo,
}

impl Plugin {
    /// Compiles a module in this process. Compilation leaves tens of MiB behind; a long-lived process uses
    /// [`Plugin::load`].
    pub fn compile(engine: &Engine, code: &[u8]) -> Result<Plugin, LoadError> {
        Plugin::of(engine, &engine.compiled(code, |code| Module::new(engine.wasm(), code))?)
    }

    /// Maps an artifact that [`Engine::compile`] made. The file holds machine code that will run in this process: it
    /// must belong to this user or root, and nobody else may be able to write it, nor may it be changed in place while
    /// the plugin is used (replace it by renaming).
    pub fn load(engine: &Engine, artifact: &Path) -> Result<Plugin, LoadError> {
        Plugin::of(engine, &artifact::load(engine, artifact)?)
    }

    /// The same module, with no more of the host's functions than these. The code is shared.
    ///
    /// # Errors
    /// If it imports others and `others` is `Refuse`; all of them are named.
    pub fn restricted(&self, allow: &Allow, others: Restricted) -> Result<Plugin, LoadError> {
        let instance = link::link(&self.engine, self.instance.module(), Some((allow, others)))?;
        Ok(Plugin { instance, hides_bodies: !allow.has_bodies(), logs: allow.has("proxy_log"), ..self.clone() })
    }

    /// The same module, with all of the host's functions.
    ///
    /// # Errors
    /// None that [`Plugin::load`] has not had.
    pub fn unrestricted(&self) -> Result<Plugin, LoadError> {
        Plugin::of(&self.engine, self.instance.module())
    }

    /// Version of the ABI that the module declares.
    pub fn abi(&self) -> AbiVersion {
        self.abi
    }

    /// What it was written in, if that can be told.
    pub fn language(&self) -> Option<Language> {
        self.language
    }

    /// Whether the module has a callback of this name, for example `proxy_on_response_headers`.
    pub fn exports(&self, callback: &str) -> bool {
        matches!(self.instance.module().get_export(callback), Some(ExternType::Func(_)))
    }

    /// Names of everything it imports, for display.
    pub fn imports(&self) -> impl Iterator<Item = (&str, &str)> {
        self.instance.module().imports().map(|import| (import.module(), import.name()))
    }

    fn of(engine: &Engine, module: &Module) -> Result<Plugin, LoadError> {
        let abi = exports::check(module)?;
        let instance = link::link(engine, module, None)?;
        Ok(Plugin {
            engine: engine.clone(),
            instance,
            abi,
            hides_bodies: false,
            logs: true,
            language: Language::of(module),
        })
    }
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plugin").field("abi", &self.abi).field("language", &self.language).finish_non_exhaustive()
    }
}

impl Language {
    /// The name of the language, as people write it.
    pub const fn name(self) -> &'static str {
        match self {
            Language::AssemblyScript => "AssemblyScript",
            Language::Cpp => "C++",
            Language::Go => "Go",
            Language::Rust => "Rust",
            Language::TinyGo => "TinyGo",
        }
    }

    fn of(module: &Module) -> Option<Language> {
        let imports = |name: &str| module.imports().any(|import| import.name() == name);
        let exports = |name: &str| module.get_export(name).is_some();
        match () {
            () if exports("__new") || exports("__collect") => Some(Language::AssemblyScript),
            () if imports("emscripten_notify_memory_growth") => Some(Language::Cpp),
            () if exports("proxy_on_memory_allocate") && exports("malloc") && exports("calloc") => {
                Some(Language::TinyGo)
            }
            () if imports("sched_yield") && imports("poll_oneoff") => Some(Language::Go),
            // Nobody else exports callbacks that are of no use to a filter: the crate has all of them, whatever the filter is for.
            () if [
                "proxy_on_memory_allocate",
                "proxy_on_queue_ready",
                "proxy_on_grpc_close",
                "proxy_on_new_connection",
            ]
            .into_iter()
            .all(exports)
                && !exports("malloc") =>
            {
                Some(Language::Rust)
            }
            () => None,
        }
    }
}
