//! What a value of a request is compared with.

use lacis_sdk::Request;
use serde::Deserialize;

use crate::Source;

/// A condition as it is configured: at most one of `value`, `values`, `prefix`, `suffix`, `contains` and `present`; with
/// none of them, the value must be there.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ConditionEntry {
    /// What is looked at.
    from: Source,
    /// It is exactly this.
    value: Option<String>,
    /// It is exactly one of these.
    values: Option<Vec<String>>,
    /// It begins with this.
    prefix: Option<String>,
    /// It ends in this.
    suffix: Option<String>,
    /// This is part of it.
    contains: Option<String>,
    /// Whether it is there at all, be it empty.
    present: Option<bool>,
    /// The condition holds where it would not, and the other way round.
    #[serde(default)]
    not: bool,
}

/// A condition.
#[derive(Clone, Debug)]
pub struct Condition {
    from: Source,
    test: Test,
    not: bool,
}

#[derive(Clone, Debug)]
enum Test {
    Value(String),
    Values(Vec<String>),
    Prefix(String),
    Suffix(String),
    Contains(String),
    Present(bool),
}

impl Condition {
    /// Checks a condition.
    ///
    /// # Errors
    ///
    /// What is wrong with it, and what would be right.
    pub fn new(entry: ConditionEntry) -> Result<Self, String> {
        let ConditionEntry { from, value, values, prefix, suffix, contains, present, not } = entry;
        from.check()?;
        let mut tests = [
            value.map(Test::Value),
            values.map(Test::Values),
            prefix.map(Test::Prefix),
            suffix.map(Test::Suffix),
            contains.map(Test::Contains),
            present.map(Test::Present),
        ]
        .into_iter()
        .flatten();
        let test = tests.next().unwrap_or(Test::Present(true));
        if tests.next().is_some() {
            return Err(
                "at most one of `value`, `values`, `prefix`, `suffix`, `contains` and `present` may be set".into()
            );
        }
        Ok(Self { from, test, not })
    }

    /// Whether it holds for a request.
    pub fn holds(&self, request: &Request) -> bool {
        self.test.holds(self.from.read(request).as_deref()) != self.not
    }
}

impl Test {
    fn holds(&self, value: Option<&str>) -> bool {
        match self {
            Test::Value(expected) => value == Some(expected),
            Test::Values(expected) => value.is_some_and(|value| expected.iter().any(|one| one == value)),
            Test::Prefix(start) => value.is_some_and(|value| value.starts_with(start.as_str())),
            Test::Suffix(end) => value.is_some_and(|value| value.ends_with(end.as_str())),
            Test::Contains(part) => value.is_some_and(|value| value.contains(part.as_str())),
            Test::Present(present) => value.is_some() == *present,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(text: &str) -> Result<Condition, String> {
        Condition::new(serde_json::from_str(text).map_err(|error| error.to_string())?)
    }

    #[test]
    fn each_test_says_what_it_says() {
        for (test, holds) in [
            (r#""value": "blue""#, [false, false, true, false]),
            (r#""values": ["red", ""]"#, [false, true, false, false]),
            (r#""prefix": "blue""#, [false, false, true, true]),
            (r#""suffix": "ue""#, [false, false, true, false]),
            (r#""contains": "lu""#, [false, false, true, true]),
            (r#""present": true"#, [false, true, true, true]),
            (r#""present": false"#, [true, false, false, false]),
            (r#""value": "blue", "not": true"#, [true, true, false, true]),
        ] {
            let condition = condition(&format!(r#"{{"from": "path", {test}}}"#)).unwrap();
            let holds_for = |value| condition.test.holds(value) != condition.not;
            assert_eq!([None, Some(""), Some("blue"), Some("blue-1")].map(holds_for), holds, "{test}");
        }
    }

    #[test]
    fn mistakes_are_told() {
        for (text, why) in [
            (r#"{"from": "path", "value": "a", "prefix": "b"}"#, "at most one of"),
            (r#"{"from": {"header": "a b"}}"#, "no name of a header"),
            (r#"{"from": {"haeder": "a"}}"#, "unknown variant `haeder`, expected one of `header`"),
            (r#"{"from": "path", "regex": "a"}"#, "unknown field `regex`, expected one of"),
        ] {
            let error = condition(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
