//! What the process tells about itself: metrics, access log, trace context.

pub mod access;
pub mod cell;
pub mod family;
pub mod guest;
mod keys;
pub mod labels;
pub mod log;
pub mod metrics;
mod names;
pub mod text;
pub mod trace;
pub mod trail;
pub mod why;
