//! How a guest call can fail, and a call of the host, and what is told about it.

use std::time::Duration;

use lacis_abi::Status;
use wasmtime::WasmBacktrace;

use crate::limits::Limit;
use crate::symbol::readable;

/// A guest call that did not return. The VM is dead from then on.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{callback}: {cause}")]
pub struct Trap {
    /// The export that was called.
    pub callback: &'static str,
    /// Why it did not return.
    pub cause: Cause,
    /// Guest functions that were active, innermost first, one per line, names demangled; empty where there is none.
    pub backtrace: String,
}

/// Why a guest call did not return.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// It used up its time.
    #[error("ran longer than its budget of {0:?}")]
    Timeout(Duration),
    /// It asked for more memory than it may have, and gave up.
    #[error("needs more memory than its limit of {0} bytes")]
    Memory(usize),
    /// It asked for a larger table than it may have, and gave up.
    #[error("needs a larger table than its limit of {0} elements")]
    Table(usize),
    /// It recursed too deeply.
    #[error("call stack exhausted")]
    Stack,
    /// It called `proc_exit` with this code.
    #[error("exit with code {0}")]
    Exit(i32),
    /// Any other WebAssembly trap: a panic or abort (`unreachable`), a bad memory access, a division by zero, …
    #[error("{0}")]
    Guest(String),
    /// It called the host where the ABI forbids it, or the host could not go on.
    #[error("{0}")]
    Host(String),
    /// An earlier call had killed the VM; the guest was not entered.
    #[error("the VM is dead since an earlier trap")]
    Dead,
}

/// `proc_exit`, on its way through the guest's frames.
#[derive(Debug, thiserror::Error)]
#[error("exit with code {0}")]
pub(crate) struct Exit(pub(crate) i32);

/// Why a host function did not do what it was asked.
pub(crate) enum Fail {
    /// The guest is told so and goes on.
    Status(Status),
    /// The guest cannot go on: its allocator trapped, or the host is in a state that should not be possible.
    Trap(wasmtime::Error),
}

impl Fail {
    pub(crate) fn host(text: &'static str) -> Fail {
        Fail::Trap(wasmtime::Error::msg(text))
    }
}

impl From<Status> for Fail {
    fn from(status: Status) -> Fail {
        Fail::Status(status)
    }
}

/// Bounds that were in force during a call, for the text of [`Cause`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) time: Duration,
    pub(crate) memory: usize,
    pub(crate) table: usize,
    /// Of memory and tables, what was last refused to grow during the call.
    pub(crate) refused: Option<Limit>,
}

impl Trap {
    pub(crate) fn of(callback: &'static str, error: &wasmtime::Error, bounds: Bounds) -> Trap {
        Trap { callback, cause: cause(error, bounds), backtrace: backtrace(error) }
    }

    pub(crate) fn dead(callback: &'static str) -> Trap {
        Trap { callback, cause: Cause::Dead, backtrace: String::new() }
    }
}

fn cause(error: &wasmtime::Error, bounds: Bounds) -> Cause {
    if let Some(Exit(code)) = error.downcast_ref::<Exit>() {
        return Cause::Exit(*code);
    }
    match error.downcast_ref::<wasmtime::Trap>() {
        Some(wasmtime::Trap::Interrupt) => Cause::Timeout(bounds.time),
        // Guests answer a refused allocation with a panic or an abort, so the trap itself says nothing of memory.
        Some(_) if bounds.refused == Some(Limit::Table) => Cause::Table(bounds.table),
        Some(_) if bounds.refused.is_some() => Cause::Memory(bounds.memory),
        Some(wasmtime::Trap::StackOverflow) => Cause::Stack,
        Some(trap) => Cause::Guest(trap.to_string()),
        None => Cause::Host(error.root_cause().to_string()),
    }
}

/// As wasmtime writes it, but for the names: it makes all of them that there is, however much that is.
fn backtrace(error: &wasmtime::Error) -> String {
    let frames = error.downcast_ref().map(WasmBacktrace::frames).unwrap_or_default();
    let lines = frames.iter().enumerate().map(|(number, frame)| {
        let place = frame.module_offset().map(|offset| format!("{offset:#8x} - ")).unwrap_or_default();
        let module = frame.module().name().map_or_else(|| "<unknown>".into(), readable);
        let function = frame.func_name().map_or_else(|| format!("<wasm function {}>", frame.func_index()), readable);
        format!("{number:>3}: {place}{module}!{function}")
    });
    lines.collect::<Vec<_>>().join("\n")
}
