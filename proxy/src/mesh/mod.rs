//! The story: one request through this sidecar. Begin with [`hop`].

mod callout;
pub mod generation;
pub mod hop;
pub mod inbound;
mod inject;
pub mod mirror;
pub mod opaque;
pub mod outbound;
pub mod reply;
mod why;
