//! How paths and values are compared, as written.

use schemars::JsonSchema;
use serde::Deserialize;

use super::super::reader::Field;

/// One of three.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map such as {prefix: /v2}")]
pub(in super::super) struct PathMatch {
    /// This path.
    #[serde(default)]
    pub(in super::super) exact: Field<String>,
    /// All paths that begin with these elements.
    #[serde(default)]
    pub(in super::super) prefix: Field<String>,
    /// All paths that this matches as a whole (RE2's syntax).
    #[serde(default)]
    pub(in super::super) regex: Field<String>,
}

/// A field, or a parameter, and its value: one of two.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map such as {name: x-tenant, value: blue}")]
pub(in super::super) struct TextMatch {
    /// Its name.
    pub(in super::super) name: Field<String>,
    /// Its value.
    #[serde(default)]
    pub(in super::super) value: Field<String>,
    /// What its value matches as a whole (RE2's syntax).
    #[serde(default)]
    pub(in super::super) regex: Field<String>,
}
