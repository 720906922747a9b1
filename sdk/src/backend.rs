//! What the SDK needs of the world: a Proxy-Wasm host in a module, an in-memory one in a native test.

use std::time::Duration;

use crate::call::Outgoing;
use crate::grpc::Unary;
use crate::log::Level;
use crate::metrics::Kind;
use crate::reply::Reply;

#[cfg(not(target_family = "wasm"))]
pub(crate) use crate::testing::Memory as Host;
#[cfg(target_family = "wasm")]
pub(crate) use crate::wasm::ProxyWasm as Host;

/// The two directions of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(target_family = "wasm", expect(unreachable_pub, reason = "a part of `testing`"))]
pub enum Half {
    /// From the caller.
    Request,
    /// To the caller.
    Response,
}

/// Which of an exchange's header maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Map {
    Request,
    RequestTrailers,
    Response,
    ResponseTrailers,
}

impl Half {
    pub(crate) fn head(self) -> Map {
        match self {
            Half::Request => Map::Request,
            Half::Response => Map::Response,
        }
    }

    pub(crate) fn trailers(self) -> Map {
        match self {
            Half::Request => Map::RequestTrailers,
            Half::Response => Map::ResponseTrailers,
        }
    }
}

/// Somebody else has set a value of shared data since it was read.
#[derive(Debug)]
pub(crate) struct Outdated;

/// The host, as seen by the callback that runs now. Some hosts end a guest that asks for what is not there: names and
/// values were checked by the caller, and maps and bodies are asked for only while the host shows them.
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
    /// Some of the bytes that the host holds of a body.
    fn body(half: Half, start: usize, size: usize) -> Vec<u8>;
    /// Puts others in the place of all the `size` bytes that it holds.
    fn set_body(half: Half, size: usize, bytes: &[u8]);
    /// Lets a half go on that a callback has stopped.
    fn resume(half: Half);
    /// Has the route chosen anew.
    fn reroute();
    /// An attribute in the encoding of Proxy-Wasm.
    fn attribute(path: &[&str]) -> Option<Vec<u8>>;
    /// Answers the exchange.
    fn reply(reply: &Reply);

    /// Begins a call; absent if the host refuses it.
    fn call(call: &Outgoing) -> Option<u32>;
    /// Begins a gRPC call; absent if the host refuses it.
    fn grpc_call(call: &Unary) -> Option<u32>;
    /// Gives a gRPC call up.
    fn cancel_grpc(token: u32);

    /// Makes this exchange or plugin the one that the other functions are about.
    fn enter(context: u32);
    /// Asks for a tick at this period, for none with zero.
    fn tick(period: Duration);
    /// The time since 1970.
    fn unix_time() -> Duration;
    /// The time since some moment in the past, by a clock that nobody sets.
    fn elapsed() -> Duration;
    /// Random bits that nobody can foresee.
    fn random() -> u64;

    /// A value of shared data, and its version.
    fn shared(key: &str) -> Option<(Vec<u8>, u32)>;
    /// Sets a value of shared data: whatever there is, or only over this version.
    fn set_shared(key: &str, value: &[u8], version: Option<u32>) -> Result<(), Outdated>;

    /// Defines a metric, or finds the one defined before; absent where the host refuses it.
    fn define(kind: Kind, name: &str) -> Option<u32>;
    /// Sets a gauge, or adds a sample to a histogram.
    fn record(metric: u32, value: u64);
    /// Adds to a counter or a gauge.
    fn add(metric: u32, offset: i64);
    /// Writes a line to the log.
    fn log(level: Level, message: &str);
}
