//! One rule: a header, what to look for in it, and where to send the request.

use lacis_sdk::is_header_name;
use serde::Deserialize;

/// A rule as it is configured, with exactly one of `value`, `prefix` and `present`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    header: String,
    value: Option<String>,
    prefix: Option<String>,
    present: Option<bool>,
    service: String,
}

/// A rule.
pub(crate) struct Rule {
    pub(crate) header: String,
    condition: Condition,
    pub(crate) service: String,
}

enum Condition {
    Value(String),
    Prefix(String),
    Present(bool),
}

impl Rule {
    pub(crate) fn new(entry: Entry) -> Result<Self, String> {
        let Entry { header, value, prefix, present, service } = entry;
        if !is_header_name(&header) && !matches!(header.as_str(), ":method" | ":path" | ":authority") {
            return Err(format!("{header:?} is no name of a header"));
        }
        if service.is_empty() || !service.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte))
        {
            return Err(format!("{service:?} is no name of a service"));
        }
        let condition = match (value, prefix, present) {
            (Some(value), None, None) => Condition::Value(value),
            (None, Some(prefix), None) => Condition::Prefix(prefix),
            (None, None, Some(present)) => Condition::Present(present),
            _ => return Err("exactly one of `value`, `prefix` and `present` is needed".to_owned()),
        };
        Ok(Self { header, condition, service })
    }

    /// Whether the rule is for a request with this value of its header.
    pub(crate) fn matches(&self, value: Option<&[u8]>) -> bool {
        match &self.condition {
            Condition::Value(expected) => value == Some(expected.as_bytes()),
            Condition::Prefix(prefix) => value.is_some_and(|value| value.starts_with(prefix.as_bytes())),
            Condition::Present(present) => value.is_some() == *present,
        }
    }
}
