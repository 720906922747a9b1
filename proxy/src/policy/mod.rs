//! Which requests are let in: by whom they are, what they ask for.

pub mod access;
mod conditions;
mod path;

pub use conditions::Asked;
