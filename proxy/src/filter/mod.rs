//! What happens to an exchange between its two sides: the filters of its listener.

pub mod builtin;
pub mod chain;
pub mod exchange;
mod guest;
pub mod machine;
mod seen;
pub mod wasm;
pub mod world;
