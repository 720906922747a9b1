//! What happens to an exchange between its two sides: the filters of its listener, of its route and of its service.

mod answer;
pub mod builtin;
pub mod callout;
pub mod chain;
pub mod compiled;
mod content;
mod ended;
pub mod exchange;
mod flow;
mod foreign;
pub mod grpc;
mod guest;
mod heads;
mod legs;
pub mod machine;
mod meter;
mod names;
pub mod node;
mod property;
mod run;
mod seen;
mod signature;
mod stage;
mod together;
mod tunnel;
pub mod wasm;
pub mod world;
