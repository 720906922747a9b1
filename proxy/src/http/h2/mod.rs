//! HTTP/2 (RFC 9113), both sides, on the `h2` crate: streams in and out of our messages.
//!
//! The crate keeps framing, flow control and the attacks on them; here is what a hop adds: heads checked by the rules
//! that all versions share, bodies that are pulled, interim responses, and links that know how full they are.

mod body;
mod client;
mod gather;
mod server;

use crate::fault::{Fault, Reason};
use crate::http::body::Half;

pub use body::{Incoming, Pump};
pub use client::Link;
pub use server::serve;

/// Requests that one connection may carry at a time. A peer is one authenticated sidecar or the own application, so
/// this bounds a mistake, not an attack: room for the 10,000 concurrent requests of one large caller.
pub const MAX_STREAMS: u32 = 16_384;

/// Flow-control window of one stream: at 1 ms round trip a gigabyte a second, and what one stalled reader can hold.
const STREAM_WINDOW: u32 = 1024 * 1024;

/// Window of a connection: several streams' worth, so that a stalled one does not stop its siblings.
const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;

/// Largest frame that we accept. Bigger frames mean fewer of them; small responses still get in between.
const MAX_FRAME: u32 = 64 * 1024;

/// What one stream may have waiting to be written.
const SEND_BUFFER: usize = 256 * 1024;

/// What an error on a stream means for the message that was being read from it.
fn stream_fault(error: &h2::Error, half: Half) -> Fault {
    let reason = match half {
        Half::Request => Reason::DownstreamAborted,
        Half::Response if error.is_remote() && error.reason() == Some(h2::Reason::REFUSED_STREAM) => {
            Reason::RefusedStream
        }
        // A GOAWAY without error that ends a stream is one below whose last stream id this stream lies not (RFC 9113 section 6.8).
        Half::Response if error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR) => {
            Reason::RefusedStream
        }
        Half::Response if error.is_reset() && error.is_remote() => Reason::StreamReset,
        Half::Response if error.is_io() || error.is_go_away() => Reason::ConnectionTerminated,
        Half::Response => Reason::HttpProtocolError,
    };
    Fault::new(reason).detail(error.to_string())
}
