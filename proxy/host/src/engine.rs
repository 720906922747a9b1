//! The process-wide part: wasmtime's configuration, the pool, and the clock that bounds guest time.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

use wasmparser::{Parser, Payload};
use wasmtime::{
    Config, EngineWeak, InstanceAllocationStrategy, Memory, MemoryType, PoolingAllocationConfig, Store,
    WasmBacktraceDetails,
};

use crate::joint;
use crate::limits;

/// How to build an [`Engine`].
#[derive(Debug, Clone)]
pub struct Options {
    /// Most VMs alive at once; only a bound on address space.
    pub vms: u32,
    /// Whether to try the pool at all. Without it a VM takes about 10 µs more to make.
    pub pooling: bool,
    /// Whether it compiles, too. One that only runs what was compiled before has about 1 MiB less in memory.
    pub compiler: bool,
}

/// Compiles and runs modules. One per process; a clone is the same engine.
#[derive(Clone)]
pub struct Engine {
    wasm: wasmtime::Engine,
    clock: Arc<Clock>,
    placement: Placement,
}

/// Where linear memories live. Decides how code is compiled, too, so it is part of [`Engine::compatibility`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// Slots of 4 GiB of address space, reserved once: no bounds checks in the code, a VM costs microseconds.
    Pool,
    /// 4 GiB of address space reserved for each VM: for kernels with too little room for the pool.
    Reserved,
    /// Little address space, bounds checks in the code: for processes under `RLIMIT_AS` and the like.
    Small,
}

/// The engine could not be made at all.
#[derive(Debug, thiserror::Error)]
#[error("no WebAssembly engine: {0}")]
pub struct EngineError(String);

/// Why a module cannot be a plugin.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It is no WebAssembly module, or one that uses what is not supported.
    #[error("not a valid WebAssembly module: {0}")]
    Compile(String),
    /// The artifact cannot be used; compile the module again.
    #[error("{}: {why}", path.display())]
    Artifact {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// It has no mark of the ABI.
    #[error(
        "not a Proxy-Wasm module: it exports none of the functions proxy_abi_version_0_1_0, \
         proxy_abi_version_0_2_0, proxy_abi_version_0_2_1"
    )]
    NoAbi,
    /// It has no memory that the host could reach.
    #[error("the module exports no 32-bit memory named \"memory\"")]
    NoMemory,
    /// It has more tables than there is room for.
    #[error("the module has {0} tables, and there is room for {max}", max = limits::TABLES)]
    Tables(u32),
    /// It has a table that is larger than any may be.
    #[error("the module needs a table of {0} elements at once, and none may have more than {max}", max = limits::TABLE_ELEMENTS)]
    Table(u64),
    /// It has no allocator.
    #[error("the module exports neither malloc nor proxy_on_memory_allocate")]
    NoAllocator,
    /// A callback has the wrong type.
    #[error("the module exports {name} with the type {found}, which is not that of the ABI")]
    Export {
        /// Its name.
        name: &'static str,
        /// Its type.
        found: String,
    },
    /// It imports what there is not.
    #[error("the module imports what this host does not have: {}", .0.join(", "))]
    Imports(Vec<String>),
    /// It imports what it is not allowed.
    #[error("the module imports what it is not allowed: {}", .0.join(", "))]
    Restricted(Vec<String>),
    /// It cannot be linked for another reason.
    #[error("the module cannot be linked: {0}")]
    Link(String),
}

impl Default for Options {
    fn default() -> Options {
        Options { vms: limits::VMS, pooling: true, compiler: true }
    }
}

impl Engine {
    /// Makes the engine with the best placement of memory that this process is allowed, found by trying.
    pub fn new(options: &Options) -> Result<Engine, EngineError> {
        let placements: &[Placement] = match options.pooling {
            true => &[Placement::Pool, Placement::Reserved, Placement::Small],
            false => &[Placement::Reserved, Placement::Small],
        };
        let mut problems = Vec::new();
        for placement in placements {
            match probe(options, *placement) {
                Ok(wasm) => {
                    let clock = Clock::start(wasm.weak()).map_err(|e| EngineError(format!("no clock thread: {e}")))?;
                    return Ok(Engine { wasm, clock: Arc::new(clock), placement: *placement });
                }
                Err(error) => problems.push(format!("{placement:?}: {error:#}")),
            }
        }
        Err(EngineError(problems.join("; ")))
    }

    /// Compiles a module to an artifact for [`Plugin::load`](crate::Plugin::load). Takes some 100 ms of every core and
    /// tens of MiB, which is why it belongs in a short-lived process. Fails where there is no compiler
    /// ([`Options::compiler`]).
    pub fn compile(&self, code: &[u8]) -> Result<Vec<u8>, LoadError> {
        self.compiled(code, |code| self.wasm.precompile_module(code))
    }

    /// A number that is equal for engines which can load each other's artifacts: wasmtime's version, settings, CPU; and
    /// whether they compile.
    pub fn compatibility(&self) -> u64 {
        let mut hash = DefaultHasher::new();
        self.wasm.precompile_compatibility_hash().hash(&mut hash);
        joint::VERSION.hash(&mut hash);
        // Of the CPU that speaks only of an engine that compiles.
        extensions().hash(&mut hash);
        hash.finish()
    }

    /// Where linear memories live.
    pub fn placement(&self) -> Placement {
        self.placement
    }

    /// Compiles a module with what we give it.
    pub(crate) fn compiled<T>(
        &self,
        code: &[u8],
        compile: impl Fn(&[u8]) -> wasmtime::Result<T>,
    ) -> Result<T, LoadError> {
        compile(&self.extended(code)?).map_err(|e| LoadError::Compile(format!("{e:#}")))
    }

    /// The module as it is compiled.
    pub(crate) fn extended(&self, code: &[u8]) -> Result<Vec<u8>, LoadError> {
        // Before: what the module must not name might be there afterwards.
        wasmtime::Module::validate(&self.wasm, code).map_err(|e| LoadError::Compile(format!("{e:#}")))?;
        tables(code)?;
        joint::extend(joint::hide(code).as_deref().unwrap_or(code))
            .ok_or_else(|| LoadError::Compile("what the host adds to a module does not fit into it".into()))
    }

    pub(crate) fn wasm(&self) -> &wasmtime::Engine {
        &self.wasm
    }

    pub(crate) fn clock(&self) -> &Arc<Clock> {
        &self.clock
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("placement", &self.placement).finish_non_exhaustive()
    }
}

/// Makes an engine and one memory in it: reservations are made lazily, so the engine alone proves nothing.
fn probe(options: &Options, placement: Placement) -> wasmtime::Result<wasmtime::Engine> {
    let engine = wasmtime::Engine::new(&config(options, placement))?;
    Memory::new(Store::new(&engine, ()), MemoryType::new(1, None))?;
    Ok(engine)
}

/// What of this CPU the compiler makes use of where it is there (`cranelift-native`).
#[cfg(target_arch = "x86_64")]
fn extensions() -> impl Hash {
    use std::arch::is_x86_feature_detected as has;
    [
        [has!("sse3"), has!("ssse3"), has!("sse4.1"), has!("sse4.2"), has!("popcnt"), has!("lzcnt")],
        [has!("avx"), has!("avx2"), has!("fma"), has!("bmi1"), has!("bmi2"), has!("cmpxchg16b")],
        [has!("avx512f"), has!("avx512dq"), has!("avx512vl"), has!("avx512bitalg"), has!("avx512vbmi"), false],
    ]
}

/// What of this CPU the compiler makes use of where it is there (`cranelift-native`).
#[cfg(target_arch = "aarch64")]
fn extensions() -> impl Hash {
    use std::arch::is_aarch64_feature_detected as has;
    [has!("lse"), has!("paca"), has!("fp16")]
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn extensions() -> impl Hash {}

/// Whether there is room for a module's tables, of which the pool would speak in words of its own.
fn tables(code: &[u8]) -> Result<(), LoadError> {
    let mut count = 0;
    for payload in Parser::new(0).parse_all(code) {
        let Ok(Payload::TableSection(tables)) = payload else { continue };
        count += tables.count();
        let most = tables.into_iter().flatten().map(|table| table.ty.initial).max();
        if let Some(needs) = most.filter(|needs| *needs > limits::TABLE_ELEMENTS as u64) {
            return Err(LoadError::Table(needs));
        }
    }
    if count > limits::TABLES { Err(LoadError::Tables(count)) } else { Ok(()) }
}

fn config(options: &Options, placement: Placement) -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .memory_init_cow(true)
        .max_wasm_stack(limits::STACK)
        // Functions stay where the guest's compiler has left them (`Inlining::No`): with inlining requests cost no less,
        // artifacts were up to five times as large and as long in the making, and backtraces of traps lacked functions.
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        .wasm_backtrace_max_frames(NonZeroUsize::new(limits::BACKTRACE))
        // No frame of ours is ever unwound through; the tables would only make artifacts larger.
        .native_unwind_info(false)
        // The ABI is 32-bit and single-threaded; what a guest cannot need is not there to be attacked.
        .wasm_memory64(false)
        .wasm_multi_memory(false);
    match placement {
        Placement::Pool => {
            config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(options)));
        }
        Placement::Reserved => {}
        Placement::Small => {
            config.memory_reservation(0).memory_guard_size(0).memory_reservation_for_growth(1 << 20);
        }
    }
    config.enable_compiler(options.compiler);
    config
}

fn pool(options: &Options) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_core_instances(options.vms)
        .total_memories(options.vms)
        .total_tables(options.vms.saturating_mul(limits::TABLES))
        .max_tables_per_module(limits::TABLES)
        .max_core_instance_size(limits::INSTANCE)
        .table_elements(limits::TABLE_ELEMENTS)
        .max_memory_size(limits::MEMORY_MAX)
        // A slot that held a VM keeps no page: VMs live long, and memory is what a sidecar must not waste.
        .linear_memory_keep_resident(0)
        .table_keep_resident(0);
    pool
}

/// The clock that bounds guest time: a thread which advances the engine's epoch every [`limits::TICK`] while guests
/// run, and sleeps when none does, so that an idle process is not woken. It counts its own wake-ups and not wall time:
/// when the whole process is held (a CPU quota), guests are not charged for it.
#[derive(Debug)]
pub(crate) struct Clock {
    shared: Arc<Shared>,
    thread: Thread,
}

#[derive(Debug)]
struct Shared {
    /// A guest was entered since the last tick.
    active: AtomicBool,
    stop: AtomicBool,
    /// Ticks without an entry after which no guest can be running any more: the longest deadline that was asked for.
    longest: AtomicU64,
}

impl Clock {
    fn start(engine: EngineWeak) -> std::io::Result<Clock> {
        let shared =
            Arc::new(Shared { active: AtomicBool::new(false), stop: AtomicBool::new(false), longest: 0.into() });
        let theirs = shared.clone();
        let thread =
            thread::Builder::new().name("wasm-clock".into()).stack_size(64 << 10).spawn(move || theirs.run(&engine))?;
        Ok(Clock { shared, thread: thread.thread().clone() })
    }

    /// Number of ticks after which a call with this budget is stopped. The first tick may come at once, hence one more.
    pub(crate) fn ticks(&self, budget: Duration) -> u64 {
        let ticks = budget.as_nanos().div_ceil(limits::TICK.as_nanos()).min(u128::from(u32::MAX)) as u64 + 1;
        self.shared.longest.fetch_max(ticks, Ordering::Relaxed);
        ticks
    }

    /// To be called before a guest is entered: the clock runs from here on. One relaxed load when it runs already.
    pub(crate) fn wind(&self) {
        if !self.shared.active.load(Ordering::Relaxed) {
            self.shared.active.store(true, Ordering::Release);
            self.thread.unpark();
        }
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

impl Shared {
    fn run(&self, engine: &EngineWeak) {
        let mut quiet = 0;
        loop {
            // A guest that found `active` set just before it was cleared is still timed: the clock goes on for the
            // longest deadline after that.
            if quiet > self.longest.load(Ordering::Relaxed) {
                while !self.active.load(Ordering::Acquire) && !self.stop.load(Ordering::Acquire) {
                    thread::park();
                }
                quiet = 0;
            }
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            thread::sleep(limits::TICK);
            let Some(engine) = engine.upgrade() else { return };
            engine.increment_epoch();
            quiet = if self.active.swap(false, Ordering::AcqRel) { 0 } else { quiet + 1 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_never_cut_short() {
        let engine = Engine::new(&Options::default()).unwrap();
        let clock = engine.clock();
        assert_eq!(clock.ticks(Duration::ZERO), 1);
        assert_eq!(clock.ticks(limits::TICK), 2);
        assert_eq!(clock.ticks(limits::TICK + Duration::from_nanos(1)), 3);
        assert_eq!(clock.ticks(Duration::MAX), u64::from(u32::MAX) + 1);
    }

    #[test]
    fn every_placement_makes_an_engine_and_only_small_compiles_differently() {
        let options = Options::default();
        let [pool, reserved, small] = [Placement::Pool, Placement::Reserved, Placement::Small].map(|placement| {
            let wasm = probe(&options, placement).unwrap();
            let mut hash = DefaultHasher::new();
            wasm.precompile_compatibility_hash().hash(&mut hash);
            hash.finish()
        });
        assert_eq!(pool, reserved);
        assert_ne!(pool, small);
    }
}
