//! HTTP/2 (RFC 9113), both sides: streams in and out of our messages.
//!
//! It is our own for the sake of its cost. All of a connection is one thread's: its state is one `RefCell`, which the driver and the tasks of
//! the streams share without locks, and nothing stands between a frame and a message, in either direction.

mod body;
mod client;
mod connection;
mod driver;
mod frame;
mod half;
mod hpack;
mod receive;
mod section;
mod send;
mod server;
mod stream;
#[cfg(test)]
mod tests;

use crate::fault::{Fault, Reason};
use crate::http::body::Half;
use frame::Code;
use stream::Cause;

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

/// Largest frame that we accept, and send. Bigger frames mean fewer of them; while several streams have something to send, none of theirs
/// are as large.
const MAX_FRAME: u32 = 64 * 1024;

/// What the end of a stream means for the message that was being read from it.
fn stream_fault(cause: Cause, half: Half) -> Fault {
    let reason = match (half, cause) {
        (Half::Request, Cause::Malformed(_)) => Reason::HttpRequestError,
        (Half::Request, Cause::TooLarge) => Reason::RequestHeaderSectionSize,
        (Half::Request, _) => Reason::DownstreamAborted,
        (Half::Response, Cause::Reset(Code::REFUSED_STREAM)) => Reason::RefusedStream,
        // Beyond the last stream of a GOAWAY nothing was done, whatever its code says (RFC 9113 section 6.8).
        (Half::Response, Cause::Unprocessed(_)) => Reason::RefusedStream,
        (Half::Response, Cause::Reset(_)) => Reason::StreamReset,
        (Half::Response, Cause::Lost(_)) => Reason::ConnectionTerminated,
        (Half::Response, Cause::Malformed(_)) => Reason::HttpProtocolError,
        (Half::Response, Cause::TooLarge) => Reason::HttpResponseHeaderSectionSize,
    };
    Fault::new(reason).detail(match cause {
        Cause::Reset(code) => format!("the stream was reset: {code}"),
        Cause::Unprocessed(code) => format!("the peer goes away: {code}"),
        Cause::Malformed(what) | Cause::Lost(what) => what.to_owned(),
        Cause::TooLarge => "more fields than are read".to_owned(),
    })
}

/// What the fuzz targets call.
pub mod fuzzing {
    /// Feeds bytes to the readers of connections and field sections.
    pub fn parse(input: &[u8]) {
        super::hpack::fuzz(input);
        super::section::fuzz(input);
        super::receive::fuzz(input);
    }
}
