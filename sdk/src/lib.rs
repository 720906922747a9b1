#![doc = include_str!("../README.md")]

mod attributes;
mod backend;
mod bucket;
mod call;
mod exchange;
mod grpc;
mod headers;
mod join;
pub mod log;
mod message;
mod metrics;
mod reply;
mod run;
mod shared;
mod table;
mod task;
#[cfg(not(target_family = "wasm"))]
pub mod testing;
mod time;
#[cfg(target_family = "wasm")]
mod wasm;

pub use attributes::{Attributes, Direction};
pub use bucket::{Take, TokenBucket};
pub use call::{Answer, CALL_TIMEOUT, Call, CallError};
pub use exchange::{End, Request, Response};
pub use grpc::{GrpcCall, GrpcError};
pub use headers::{Headers, InvalidHeader, Value, is_header_name, is_header_value};
pub use join::{Notify, join, join_all};
pub use message::{BODY_LIMIT, Body, BodyError, Chunk, Reads};
pub use metrics::{Counter, CounterFamily, Family, Gauge, GaugeFamily, Histogram, HistogramFamily, Metric};
pub use reply::Reply;
pub use shared::{Shared, SharedError};
pub use time::{Sleep, now, random_u64, sleep, spawn, timeout, unix_time};
#[cfg(target_family = "wasm")]
#[doc(hidden)]
pub use wasm::{proxy_wasm, register};

use serde::de::DeserializeOwned;

/// A filter: one value for each virtual machine, shared by all exchanges that pass it.
///
/// Its methods take `&self`; what one exchange must remember goes into [`Request::keep`], what all of them share into
/// a `Cell` or `RefCell` (a virtual machine is never called by two threads).
///
/// The methods are `async`: they may wait for a body ([`Request::body`]), for another service ([`Call`]), for a time
/// ([`sleep`]), or for what another part of the filter does ([`Notify`]). Meanwhile the message is held, and others pass.
/// Do not hold a borrow of a `RefCell` across an `await`: others run in between.
pub trait Filter: Sized + 'static {
    /// What it reads of messages beyond their heads. Bodies that are not declared here cannot be read, and exchanges do
    /// not pay for them.
    const READS: Reads = Reads::HEADS;

    /// The `config` of the filter, read from JSON. Without a configuration it is read from `null`, and if it does not
    /// accept that, from `{}`: so `()`, `Option` and a struct whose fields all have defaults accept it.
    type Config: DeserializeOwned + 'static;

    /// Makes the filter. Called once for each virtual machine and each change of the configuration.
    ///
    /// # Errors
    ///
    /// An error is logged and the configuration is refused: the host keeps what it ran before, or does not start.
    fn new(config: Self::Config) -> Result<Self, ConfigError>;

    /// Sees the head of a request before it goes to the next filter, and may change it.
    ///
    /// # Errors
    ///
    /// The reply is sent to the caller in place of a response; the request goes no further.
    fn on_request(&self, request: &mut Request) -> impl Future<Output = Result<Flow, Reply>> {
        let _ = request;
        async { Ok(Flow::Continue) }
    }

    /// Sees the head of a response, a reply of a later filter or of the proxy included, and may change it. A filter
    /// does not see its own replies here.
    ///
    /// # Errors
    ///
    /// The reply is sent to the caller in place of the response.
    fn on_response(&self, response: &mut Response) -> impl Future<Output = Result<Flow, Reply>> {
        let _ = response;
        async { Ok(Flow::Continue) }
    }

    /// Works in the background, beside all exchanges: begins after [`Filter::new`], once for each virtual machine, and
    /// runs as long as that does unless it returns. Hosts have a virtual machine for each of their workers, and one more to
    /// try a configuration: what must be done once in all is agreed upon with [`Shared`].
    ///
    /// ```
    /// # use std::{cell::RefCell, time::Duration};
    /// # use lacis_sdk::{Call, ConfigError, Filter, sleep};
    /// struct Keys(RefCell<Vec<u8>>);
    ///
    /// impl Filter for Keys {
    /// #    type Config = ();
    /// #    fn new(_: ()) -> Result<Self, ConfigError> {
    /// #        Ok(Self(RefCell::default()))
    /// #    }
    ///     async fn run(&self) {
    ///         loop {
    ///             match Call::get("issuer", "/keys").send().await.and_then(|answer| answer.success()) {
    ///                 Ok(answer) => *self.0.borrow_mut() = answer.body().to_vec(),
    ///                 Err(error) => lacis_sdk::warn!("the keys are not fetched: {error}"),
    ///             }
    ///             sleep(Duration::from_secs(300)).await;
    ///         }
    ///     }
    /// }
    /// ```
    fn run(&self) -> impl Future<Output = ()> {
        async {}
    }

    /// Sees an exchange that is over, be it that the filter itself has answered it, or that the proxy refused it before
    /// the filter saw it. Nothing can be changed any more.
    fn on_end(&self, end: &End) {
        let _ = end;
    }
}

/// What becomes of an exchange after a method of a filter has seen it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Flow {
    /// It goes on to the next filter.
    Continue,
    /// It goes on, and this filter is not asked again about this exchange.
    Leave,
}

/// Why a configuration was refused. Any error and any text converts into it: `Err("keys is empty".into())`.
pub type ConfigError = Box<dyn std::error::Error>;

/// Makes a crate (`crate-type = ["cdylib"]`) the module of one filter. Outside WebAssembly it expands to nothing.
///
/// ```
/// # use lacis_sdk::{ConfigError, Filter};
/// struct Nothing;
/// impl Filter for Nothing {
///     type Config = ();
///     fn new(_: ()) -> Result<Self, ConfigError> {
///         Ok(Self)
///     }
/// }
/// lacis_sdk::filter!(Nothing);
/// ```
#[macro_export]
macro_rules! filter {
    ($filter:ty) => {
        #[cfg(target_family = "wasm")]
        const _: () = {
            $crate::proxy_wasm::main! {{ $crate::register::<$filter>(); }}
        };
        #[cfg(not(target_family = "wasm"))]
        const _: fn() = || {
            fn filter<F: $crate::Filter>() {}
            filter::<$filter>();
        };
    };
}
