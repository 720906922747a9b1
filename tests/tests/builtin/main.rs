//! The filters that ship, each on Lacis and unmodified on Envoy: the same module, configuration and requests, and what
//! comes of them must be the same.

mod auth;
mod cors;
mod metrics;
mod quota;
mod routing;
mod transform;
mod validate;
#[path = "../words/mod.rs"]
mod words;

use lacis_tests::Both;
use serde_json::Value;

/// A filter that ships, on both.
fn both(name: &str, config: Value) -> Both {
    let module = lacis::filter::builtin::module(name).unwrap_or_else(|| panic!("there is no builtin:{name}"));
    Both::new(name, module, config)
}
