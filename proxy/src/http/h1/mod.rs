//! HTTP/1.1 (RFC 9112), both sides.
//!
//! Our own: the libraries at hand do not forward interim responses, send trailers
//! only where they were announced, and hide how a message was framed, while this hop must restore all three exactly and
//! refuse every ambiguous framing. One `Wire` is one connection; reading and writing are polled by whoever needs them,
//! so that a connection needs no task beside the one that uses it.

mod chunk;
mod client;
mod lines;
mod parse;
mod server;
#[cfg(test)]
mod tests;
mod tunnel;
mod wire;
mod write;

pub use client::{Idle, Lease, send};
pub use server::{FIRST_REQUEST, serve};
pub use tunnel::{Tunnel, connect};
pub use wire::{Incoming, Pump, Wire};

/// What the fuzz targets call.
pub mod fuzzing {
    /// Feeds bytes to the parsers of request heads, response heads and chunked bodies.
    pub fn parse(input: &[u8]) {
        super::parse::fuzz(input);
        super::chunk::fuzz(input);
    }
}
