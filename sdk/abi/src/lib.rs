//! The words of the Proxy-Wasm ABI (versions 0.1.0, 0.2.0, 0.2.1), shared by the host and by guests: its closed sets
//! as enums ([`Status`], [`Level`], [`Map`], …), the header-map codec ([`Pairs`]), and property [`Path`]s.
//!
//! Numbers are those of the specification (`abi-versions/*/README.md` in proxy-wasm/spec); where Envoy and the text
//! disagree, Envoy's observable behaviour is what is coded. This crate depends on nothing and allocates nothing.

mod pairs;
mod path;
mod words;

pub use pairs::{Encoder, MAX_PAIRS, MAX_PAIRS_BYTES, Malformed, Pairs, encoded_len};
pub use path::Path;
pub use words::{
    AbiVersion, Action, BodyAnswer, Buffer, GRPC_STATUS_MAX, HeadersAnswer, Level, Map, MetricKind, Peer, Status,
    StreamType,
};
