#![doc = include_str!("../README.md")]

mod attributes;
mod backend;
mod exchange;
mod headers;
pub mod log;
mod metrics;
mod reply;
mod run;
#[cfg(not(target_family = "wasm"))]
pub mod testing;
#[cfg(target_family = "wasm")]
mod wasm;

pub use attributes::{Attributes, Direction};
pub use exchange::{Request, Response};
pub use headers::{Headers, InvalidHeader, Value, is_header_name, is_header_value};
pub use metrics::{Counter, Gauge, Histogram};
pub use reply::Reply;
#[cfg(target_family = "wasm")]
#[doc(hidden)]
pub use wasm::{proxy_wasm, register};

use serde::de::DeserializeOwned;

/// A filter: one value for each virtual machine, shared by all exchanges that pass it.
///
/// Its methods take `&self`; what one exchange must remember goes into [`Request::keep`], what all of them share into
/// a `Cell` or `RefCell` (a virtual machine is never called by two threads).
///
/// The methods are `async`, so that a later version can wait for a body or for a call to another service. In this
/// version nothing of the SDK waits, and a method that waits for something else is answered with 500.
pub trait Filter: Sized + 'static {
    /// The `config` of the filter, read from JSON. Without a configuration it is read from `null`, and if it does not
    /// accept that, from `{}`: so `()`, `Option` and a struct whose fields all have defaults accept it.
    type Config: DeserializeOwned;

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
