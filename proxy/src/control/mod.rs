//! Around the workers, on the main thread: what changes while they run.

pub mod certificates;
pub mod discovery;
pub mod generations;
pub mod health;
pub mod memory;
pub mod modules;
pub mod ports;
pub mod reload;
pub mod text;
pub mod watch;
