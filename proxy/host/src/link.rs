//! Linking: a module is given what it imports, in the variant that it asks for where SDKs disagree about a type.

use lacis_abi::Status;
use wasmtime::{Caller, ExternType, FuncType, InstancePre, Linker, Module, Val};

use crate::allow::{Allow, Restricted};
use crate::calls::IntoResult;
use crate::engine::{Engine, LoadError};
use crate::exports::Signature;
use crate::imports::{ENV, WASI};
use crate::limits::Limit;
use crate::state::State;

/// Links a module, or says everything it imports that there is not, or that it is not allowed.
pub(crate) fn link(
    engine: &Engine,
    module: &Module,
    allow: Option<(&Allow, Restricted)>,
) -> Result<InstancePre<State>, LoadError> {
    let mut linker = Linker::new(engine.wasm());
    // A module may import one function several times.
    linker.allow_shadowing(true);
    let (mut missing, mut restricted) = (Vec::new(), Vec::new());
    for import in module.imports() {
        let name = format!("{}.{}", import.module(), import.name());
        let ExternType::Func(ty) = import.ty() else {
            missing.push(format!("{name} (not a function)"));
            continue;
        };
        let table = match import.module() {
            "env" => ENV,
            "wasi_snapshot_preview1" | "wasi_unstable" => WASI,
            _ => &[],
        };
        let asked = as_written(&ty);
        let mut named = table.iter().filter(|entry| entry.name == import.name()).peekable();
        if named.peek().is_none() {
            missing.push(name);
            continue;
        }
        match named.find(|entry| entry.has_type(&asked)) {
            Some(entry) if allow.is_some_and(|(allow, _)| !allow.has(entry.name)) => {
                restricted.push(name);
                linker
                    .func_new(import.module(), entry.name, ty, |caller, parameters, results| {
                        refuse(caller, parameters, results)
                    })
                    .map_err(|e| LoadError::Link(format!("{e:#}")))?;
            }
            Some(entry) => {
                (entry.define)(&mut linker, import.module()).map_err(|e| LoadError::Link(format!("{e:#}")))?;
            }
            None => missing.push(format!("{name} (not as {})", Signature(&asked))),
        }
    }
    if !missing.is_empty() {
        return Err(LoadError::Imports(missing));
    }
    if !restricted.is_empty() && allow.is_some_and(|(_, what)| what == Restricted::Refuse) {
        return Err(LoadError::Restricted(restricted));
    }
    linker.instantiate_pre(module).map_err(|e| LoadError::Link(format!("{e:#}")))
}

/// Stands for a function that the filter is not allowed. It follows no pointer, so it may be called at any time.
fn refuse(mut caller: Caller<'_, State>, parameters: &[Val], results: &mut [Val]) -> wasmtime::Result<()> {
    let step = parameters.last().and_then(Val::i32).and_then(|step| u32::try_from(step).ok());
    caller.data_mut().follow(step.unwrap_or(0));
    caller.data().refused(Limit::Function).into_result()?;
    // The status is the first of several, if they are (`Back::Bytes`).
    match results {
        [status] => *status = Val::I32(Status::InternalFailure as i32),
        [status, words @ ..] => {
            *status = Val::I64(Status::InternalFailure as i64);
            words.fill(Val::I64(0));
        }
        [] => {}
    }
    Ok(())
}

/// The type of an imported function before it was given the step (`joint.rs`).
fn as_written(ty: &FuncType) -> FuncType {
    let parameters = ty.params().len().saturating_sub(1);
    FuncType::new(ty.engine(), ty.params().take(parameters), ty.results())
}
