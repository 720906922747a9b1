//! What happens to an exchange between its two sides.

pub mod chain;
pub mod exchange;
