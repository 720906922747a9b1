//! What a module exports: checked when it is loaded, looked up once when it is instantiated.

use std::fmt;
use std::rc::Rc;

use lacis_abi::AbiVersion;
use wasmtime::{AsContextMut, ExternType, FuncType, Instance, Module, TypedFunc, ValType, WasmParams, WasmResults};

use crate::engine::LoadError;
use crate::joint::{ALLOCATORS, BEGIN, BODY as BODIES, END, HEADS, RESPONSE};

/// Every function that the host calls: name, numbers of parameters it may have, whether it has
/// a result. All are `i32`.
const FUNCTIONS: &[(&str, &[usize], bool)] = &[
    ("_initialize", &[0], false),
    ("_start", &[0], false),
    ("main", &[2], true),
    ("__main_void", &[0], true),
    ("malloc", &[1], true),
    ("proxy_on_memory_allocate", &[1], true),
    ("proxy_on_context_create", &[2], false),
    ("proxy_on_vm_start", &[2], true),
    ("proxy_on_configure", &[2], true),
    ("proxy_validate_configuration", &[2], true),
    ("proxy_on_tick", &[1], false),
    ("proxy_on_queue_ready", &[2], false),
    ("proxy_on_new_connection", &[1], true),
    ("proxy_on_downstream_data", &[3], true),
    ("proxy_on_upstream_data", &[3], true),
    ("proxy_on_downstream_connection_close", &[2], false),
    ("proxy_on_upstream_connection_close", &[2], false),
    // 0.1.0 has no end of stream.
    ("proxy_on_request_headers", &[2, 3], true),
    ("proxy_on_response_headers", &[2, 3], true),
    ("proxy_on_request_body", &[3], true),
    ("proxy_on_response_body", &[3], true),
    ("proxy_on_request_trailers", &[2], true),
    ("proxy_on_response_trailers", &[2], true),
    ("proxy_on_http_call_response", &[5], false),
    ("proxy_on_grpc_receive_initial_metadata", &[3], false),
    ("proxy_on_grpc_receive", &[3], false),
    ("proxy_on_grpc_receive_trailing_metadata", &[3], false),
    ("proxy_on_grpc_close", &[3], false),
    ("proxy_on_foreign_function", &[3], false),
    ("proxy_on_done", &[1], true),
    ("proxy_on_log", &[1], false),
    ("proxy_on_delete", &[1], false),
];

/// Which ABI a module is for, once its exports are known to be callable.
pub(crate) fn check(module: &Module) -> Result<AbiVersion, LoadError> {
    let abi = module
        .exports()
        .filter(|export| matches!(export.ty(), ExternType::Func(_)))
        .find_map(|export| AbiVersion::of_marker(export.name()))
        .ok_or(LoadError::NoAbi)?;
    match module.get_export("memory") {
        Some(ExternType::Memory(memory)) if !memory.is_shared() && !memory.is_64() => {}
        _ => return Err(LoadError::NoMemory),
    }
    for (name, parameters, result) in FUNCTIONS {
        let Some(ExternType::Func(ty)) = module.get_export(name) else { continue };
        let all_i32 = ty.params().chain(ty.results()).all(|ty| matches!(ty, ValType::I32));
        if !all_i32 || !parameters.contains(&ty.params().len()) || ty.results().len() != usize::from(*result) {
            return Err(LoadError::Export { name, found: Signature(&ty).to_string() });
        }
    }
    match ALLOCATORS.iter().any(|name| matches!(module.get_export(name), Some(ExternType::Func(_)))) {
        true => Ok(abi),
        false => Err(LoadError::NoAllocator),
    }
}

/// Names of the callbacks that exist for both directions.
pub(crate) const HEADERS: [&str; 2] = ["proxy_on_request_headers", "proxy_on_response_headers"];
pub(crate) const BODY: [&str; 2] = ["proxy_on_request_body", "proxy_on_response_body"];
pub(crate) const TRAILERS: [&str; 2] = ["proxy_on_request_trailers", "proxy_on_response_trailers"];
pub(crate) const DATA: [&str; 2] = ["proxy_on_downstream_data", "proxy_on_upstream_data"];
pub(crate) const CONNECTION_CLOSE: [&str; 2] =
    ["proxy_on_downstream_connection_close", "proxy_on_upstream_connection_close"];

/// The functions of one instance.
pub(crate) struct Exports {
    pub(crate) allocator: Option<Rc<TypedFunc<u32, u32>>>,
    pub(crate) context_create: Option<TypedFunc<(u32, u32), ()>>,
    pub(crate) vm_start: Option<TypedFunc<(u32, u32), u32>>,
    pub(crate) configure: Option<TypedFunc<(u32, u32), u32>>,
    pub(crate) validate_configuration: Option<TypedFunc<(u32, u32), u32>>,
    pub(crate) tick: Option<TypedFunc<u32, ()>>,
    pub(crate) headers: Halves<OnHeaders>,
    pub(crate) body: Halves<OnPiece>,
    pub(crate) trailers: Halves<TypedFunc<(u32, u32), u32>>,
    pub(crate) new_connection: Option<TypedFunc<u32, u32>>,
    pub(crate) data: Halves<OnPiece>,
    pub(crate) connection_close: Halves<TypedFunc<(u32, u32), ()>>,
    pub(crate) http_call: Option<OnHttpCall>,
    pub(crate) grpc_metadata: Option<OnEvent>,
    pub(crate) grpc_message: Option<OnEvent>,
    pub(crate) grpc_trailers: Option<OnEvent>,
    pub(crate) grpc_close: Option<OnEvent>,
    pub(crate) queue_ready: Option<TypedFunc<(u32, u32), ()>>,
    pub(crate) foreign: Option<OnEvent>,
    pub(crate) done: Option<TypedFunc<u32, u32>>,
    pub(crate) log: Option<TypedFunc<u32, ()>>,
    pub(crate) delete: Option<TypedFunc<u32, ()>>,
    pub(crate) joined: Joined,
}

/// Functions that were added, see `joint.rs`.
#[derive(Default)]
pub(crate) struct Joined {
    pub(crate) begin: Option<OnBegin>,
    pub(crate) heads: Option<TypedFunc<(u32, u32, u32, u32), u64>>,
    pub(crate) end: Option<OnEnd>,
    pub(crate) body: Option<TypedFunc<(u32, u32, u32, u32), u64>>,
    pub(crate) response: Option<OnResponse>,
}

/// First context, how many, lines, end, and the root contexts.
type OnBegin = TypedFunc<(u32, u32, u32, u32, u32, u32, u32, u32, u32, u32, u32, u32), u64>;

/// Exchanges, each its first context, and above it how many it has.
type OnEnd = TypedFunc<(u64, u64, u64, u64, u64, u64, u64, u64), ()>;

/// Last context, how many, lines, end of the head, and size.
type OnResponse = TypedFunc<(u32, u32, u32, u32, u32), u64>;

/// The callbacks for the two directions: from the client, to the client.
pub(crate) type Halves<F> = [Option<F>; 2];

/// A callback for bytes: context, how many there are, whether they are the last.
pub(crate) type OnPiece = TypedFunc<(u32, u32, u32), u32>;

/// A callback for an event: context, number of what it is about, size or status.
pub(crate) type OnEvent = TypedFunc<(u32, u32, u32), ()>;

/// The callback for an HTTP call-out: context, id, numbers of headers, bytes of body, trailers.
pub(crate) type OnHttpCall = TypedFunc<(u32, u32, u32, u32, u32), ()>;

/// A header callback: context, number of headers, and from 0.2.0 on whether the stream ends with them.
#[derive(Clone)]
pub(crate) enum OnHeaders {
    Old(TypedFunc<(u32, u32), u32>),
    New(TypedFunc<(u32, u32, u32), u32>),
}

impl Exports {
    /// `counts` if the module has what functions that were added count in: of no use without.
    pub(crate) fn of(instance: &Instance, mut store: impl AsContextMut, counts: bool) -> Exports {
        let store = &mut store;
        Exports {
            allocator: ALLOCATORS.iter().find_map(|name| find(instance, &mut *store, name)).map(Rc::new),
            context_create: find(instance, &mut *store, "proxy_on_context_create"),
            vm_start: find(instance, &mut *store, "proxy_on_vm_start"),
            configure: find(instance, &mut *store, "proxy_on_configure"),
            validate_configuration: find(instance, &mut *store, "proxy_validate_configuration"),
            tick: find(instance, &mut *store, "proxy_on_tick"),
            headers: HEADERS.map(|name| headers(instance, &mut *store, name)),
            body: BODY.map(|name| find(instance, &mut *store, name)),
            trailers: TRAILERS.map(|name| find(instance, &mut *store, name)),
            new_connection: find(instance, &mut *store, "proxy_on_new_connection"),
            data: DATA.map(|name| find(instance, &mut *store, name)),
            connection_close: CONNECTION_CLOSE.map(|name| find(instance, &mut *store, name)),
            http_call: find(instance, &mut *store, "proxy_on_http_call_response"),
            grpc_metadata: find(instance, &mut *store, "proxy_on_grpc_receive_initial_metadata"),
            grpc_message: find(instance, &mut *store, "proxy_on_grpc_receive"),
            grpc_trailers: find(instance, &mut *store, "proxy_on_grpc_receive_trailing_metadata"),
            grpc_close: find(instance, &mut *store, "proxy_on_grpc_close"),
            queue_ready: find(instance, &mut *store, "proxy_on_queue_ready"),
            foreign: find(instance, &mut *store, "proxy_on_foreign_function"),
            done: find(instance, &mut *store, "proxy_on_done"),
            log: find(instance, &mut *store, "proxy_on_log"),
            delete: find(instance, &mut *store, "proxy_on_delete"),
            joined: match counts {
                true => Joined {
                    begin: find(instance, &mut *store, BEGIN),
                    heads: find(instance, &mut *store, HEADS),
                    end: find(instance, &mut *store, END),
                    body: find(instance, &mut *store, BODIES),
                    response: find(instance, &mut *store, RESPONSE),
                },
                false => Joined::default(),
            },
        }
    }
}

/// An export of this type; one of another type counts as none, which [`check`] has ruled out before.
pub(crate) fn find<P: WasmParams, R: WasmResults>(
    instance: &Instance,
    mut store: impl AsContextMut,
    name: &str,
) -> Option<TypedFunc<P, R>> {
    // Not `get_typed_func`: of an export that is not there it makes an error, if need be with a backtrace.
    instance.get_func(&mut store, name)?.typed(&store).ok()
}

fn headers(instance: &Instance, mut store: impl AsContextMut, name: &str) -> Option<OnHeaders> {
    match find(instance, &mut store, name) {
        Some(function) => Some(OnHeaders::New(function)),
        None => find(instance, &mut store, name).map(OnHeaders::Old),
    }
}

/// A function type, as people read it.
pub(crate) struct Signature<'a>(pub(crate) &'a FuncType);

impl fmt::Display for Signature<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words =
            |types: &mut dyn Iterator<Item = ValType>| types.map(|ty| ty.to_string()).collect::<Vec<_>>().join(" ");
        write!(f, "({}) -> ({})", words(&mut self.0.params()), words(&mut self.0.results()))
    }
}
