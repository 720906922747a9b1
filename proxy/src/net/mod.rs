//! Sockets.

pub mod connect;
pub mod descriptors;
pub mod detect;
pub mod io;
pub mod listen;
pub mod quic;
pub mod turn;
