//! Measuring proxies on one small machine: a load generator with its backend, and the accounting of what a request
//! costs. `benches/README.md` says how they are used and why they are made this way.

pub mod account;
pub mod dial;
pub mod load;
mod message;
pub mod plan;
mod random;
pub mod relay;
mod run;
mod schedule;
pub mod shim;
