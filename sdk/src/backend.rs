//! What the SDK needs of the world: a Proxy-Wasm host in a module, an in-memory one in a native test.

use crate::log::Level;
use crate::metrics::Kind;
use crate::reply::Reply;

#[cfg(not(target_family = "wasm"))]
pub(crate) use crate::testing::Memory as Host;
#[cfg(target_family = "wasm")]
pub(crate) use crate::wasm::ProxyWasm as Host;

/// Which of an exchange's header maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Map {
    Request,
    Response,
}

/// The host, as seen by the callback that runs now. Header names and values were checked by the caller.
pub(crate) trait Backend {
    /// The first value of a header.
    fn header(map: Map, name: &str) -> Option<Vec<u8>>;
    /// All headers in order, pseudo-headers first.
    fn headers(map: Map) -> Vec<(String, Vec<u8>)>;
    /// Replaces all values of a header.
    fn set_header(map: Map, name: &str, value: &[u8]);
    /// Adds a value.
    fn append_header(map: Map, name: &str, value: &[u8]);
    /// Removes all values of a header.
    fn remove_header(map: Map, name: &str);
    /// An attribute in the encoding of Proxy-Wasm.
    fn attribute(path: &[&str]) -> Option<Vec<u8>>;
    /// Answers the exchange.
    fn reply(reply: &Reply);
    /// Defines a metric, or finds the one defined before; absent where the host refuses it.
    fn define(kind: Kind, name: &str) -> Option<u32>;
    /// Sets a gauge, or adds a sample to a histogram.
    fn record(metric: u32, value: u64);
    /// Adds to a counter or a gauge.
    fn add(metric: u32, offset: i64);
    /// Writes a line to the log.
    fn log(level: Level, message: &str);
}
