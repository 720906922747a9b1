//! Which requests are let in: by whom they are, what they ask for, how many there are.

pub mod access;
pub mod concurrency;
mod conditions;
mod path;
pub mod rate;
pub mod shed;

pub use conditions::Asked;
