//! A Proxy-Wasm host on wasmtime (ABI 0.1.0, 0.2.0, 0.2.1). It knows nothing of proxies: it sees the world through two
//! traits, [`Stream`] (one exchange) and [`World`] (what outlives it).
//!
//! ```text
//! Engine   one per process     settings, pool, clock that bounds guest time
//! Plugin   one per module      compiled, checked, linked; Send + Sync
//! Vm       one per thread      an instance: root contexts (plugins) and exchange contexts
//! ```
//!
//! A VM is driven like this: [`Vm::new`], [`Vm::start_root`] for each plugin; then for each exchange [`Vm::open`], and for
//! each of its halves [`Vm::on_headers`], [`Vm::on_body`], [`Vm::on_trailers`]; at its end [`Vm::log`], [`Vm::close`]. A
//! TCP connection has [`Vm::open_tcp`], [`Vm::on_new_connection`], [`Vm::on_data`], [`Vm::on_connection_close`]. In
//! between come [`Vm::tick`] when the world's timer says so, [`Vm::on_http_call`] and [`Vm::on_grpc`] with what came of
//! call-outs, and [`Vm::on_queue_ready`] when another VM has put something in a shared queue.
//!
//! Where nothing is to be done between callbacks, one entry of the guest does for several of them, which costs less and
//! cannot be told apart: [`Vm::admit`] and [`Vm::begin`] for an exchange and the head of its request, [`Vm::on_bodies`]
//! for several contexts of one stream, [`Vm::end`] for their ends.
//!
//! What an embedder must know:
//!
//! - **Host functions record, they do not act.** A local reply, a resume, a close is noted in the `Stream`; the embedder
//!   acts when the callback has returned. So a guest is never entered while it runs.
//! - **No borrow is held across a guest call**, by either side: the embedder holds none of `Stream` or `World` while it
//!   calls the `Vm`.
//! - **A trap kills the VM** ([`Vm::is_dead`]): its contexts are gone, every call fails, a new one must be made.
//! - Behaviour is Envoy's as it can be observed, without its crashes: which map can be reached in which callback, which
//!   status a call answers, the order of callbacks.

mod allow;
mod artifact;
mod callout;
mod calls;
mod contexts;
mod engine;
mod exports;
mod grpc_service;
mod imports;
mod joint;
pub mod limits;
mod link;
mod memory;
mod overtime;
mod plugin;
pub mod protobuf;
mod queue;
mod shared;
mod state;
mod stream;
mod symbol;
#[cfg(feature = "testing")]
pub mod testing;
mod trap;
mod turn;
mod vm;
mod world;

pub use allow::{Allow, Restricted};
pub use callout::{CallId, CallOut, GrpcCall, GrpcEvent, HttpAnswer, HttpCall, Lines};
pub use contexts::PluginSettings;
pub use engine::{Engine, EngineError, LoadError, Options, Placement};
pub use lacis_abi as abi;
pub use limits::{Limit, Limits};
pub use plugin::{Language, Plugin};
pub use queue::Wake;
pub use shared::SharedData;
pub use stream::{Buffer, ContextId, Half, Headers, HeadersAction, Reply, Stream};
pub use trap::{Cause, Trap};
pub use vm::{Responded, StartError, Vm, VmSettings};
pub use world::{Change, Now, RootId, World, levels_changed};
