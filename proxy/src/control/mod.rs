//! Around the workers, on the main thread: what changes while they run.

pub mod certificates;
pub mod modules;
pub mod watch;
