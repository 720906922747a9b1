//! What the filters that ship have in common: where a value of a request comes from, what it is compared with, patterns
//! of paths, and a hash that stays the same for ever.

mod condition;
mod hash;
mod json;
mod path;
#[cfg(not(target_family = "wasm"))]
pub mod schema;
mod source;

pub use condition::{Condition, ConditionEntry};
pub use hash::hash;
pub use json::is_json;
pub use path::{Paths, path_of};
pub use source::Source;

/// Whether this can be the name of a service: what an authority may consist of.
pub fn is_service(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:[]|".contains(&byte))
}
