//! What a text must be: a whole, or a part of it.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// A condition for a text, as it is configured: `value`, `{prefix: …}`, `{suffix: …}` or `{present: true}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Text {
    /// The whole of it.
    Is(String),
    /// Its beginning.
    Prefix(String),
    /// Its end.
    Suffix(String),
    /// Whether there is one at all.
    Present(bool),
}

/// A condition for a path: `/whole/path`, or `{prefix: /path}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    /// The whole of it, without query.
    Is(String),
    /// Its first elements: `/a` is the prefix of `/a` and `/a/b`, and not of `/ab`.
    Prefix(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
struct TextParts {
    /// Its beginning.
    prefix: Option<String>,
    /// Its end.
    suffix: Option<String>,
    /// Whether there is one at all.
    present: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
struct PathParts {
    /// Its first elements.
    prefix: String,
}

impl Text {
    /// Whether one of the texts that there are is as wanted.
    pub(crate) fn matches<'a>(&self, mut there: impl Iterator<Item = &'a [u8]>) -> bool {
        match self {
            Self::Is(text) => there.any(|given| given == text.as_bytes()),
            Self::Prefix(text) => there.any(|given| given.starts_with(text.as_bytes())),
            Self::Suffix(text) => there.any(|given| given.ends_with(text.as_bytes())),
            Self::Present(present) => there.next().is_some() == *present,
        }
    }
}

impl Path {
    /// Whether a path in its normal form is as wanted.
    pub(crate) fn matches(&self, path: &str) -> bool {
        match self {
            Self::Is(text) => path == text,
            Self::Prefix(text) => {
                let rest = path.strip_prefix(text.trim_end_matches('/'));
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
        }
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, {prefix: TEXT}, {suffix: TEXT} or {present: true}")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Text, E> {
        Ok(Text::Is(text.to_owned()))
    }

    fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Text, M::Error> {
        let parts = TextParts::deserialize(MapAccessDeserializer::new(map))?;
        match (parts.prefix, parts.suffix, parts.present) {
            (Some(prefix), None, None) => Ok(Text::Prefix(prefix)),
            (None, Some(suffix), None) => Ok(Text::Suffix(suffix)),
            (None, None, Some(present)) => Ok(Text::Present(present)),
            _ => Err(M::Error::custom("exactly one of `prefix`, `suffix` and `present` is needed")),
        }
    }
}

impl<'de> Deserialize<'de> for Path {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PathVisitor)
    }
}

struct PathVisitor;

impl<'de> Visitor<'de> for PathVisitor {
    type Value = Path;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a path, or {prefix: PATH}")
    }

    fn visit_str<E: Error>(self, path: &str) -> Result<Path, E> {
        absolute(path).map(Path::Is)
    }

    fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Path, M::Error> {
        let PathParts { prefix } = PathParts::deserialize(MapAccessDeserializer::new(map))?;
        absolute(&prefix).map(Path::Prefix)
    }
}

/// A path that some request could have after it was made normal; a rule with another one would never match.
fn absolute<E: Error>(path: &str) -> Result<String, E> {
    match crate::path::normal(path) {
        Ok(normal) if normal == path => Ok(normal),
        Ok(normal) => Err(E::custom(format!("the path {path:?} would never match: its normal form is {normal:?}"))),
        Err(_) => Err(E::custom(format!("{path:?} is no path: it begins with `/`, and has no query"))),
    }
}

#[cfg(not(target_family = "wasm"))]
mod schema {
    use std::borrow::Cow;

    use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

    use super::{Path, PathParts, Text, TextParts};

    impl JsonSchema for Text {
        fn schema_name() -> Cow<'static, str> {
            "Text".into()
        }

        fn json_schema(generator: &mut SchemaGenerator) -> Schema {
            let parts = generator.subschema_for::<TextParts>();
            json_schema!({"description": "A whole text, or a part of it", "anyOf": [{"type": "string"}, parts]})
        }
    }

    impl JsonSchema for Path {
        fn schema_name() -> Cow<'static, str> {
            "Path".into()
        }

        fn json_schema(generator: &mut SchemaGenerator) -> Schema {
            let parts = generator.subschema_for::<PathParts>();
            json_schema!({"description": "A whole path, or its first elements", "anyOf": [{"type": "string"}, parts]})
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(json: &str) -> Result<Text, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn texts_are_compared_as_wholes_or_parts() {
        let matches =
            |json: &str, there: &[&str]| text(json).unwrap().matches(there.iter().map(|text| text.as_bytes()));
        assert!(matches("\"a\"", &["b", "a"]));
        assert!(!matches("\"a\"", &["ab", "A", ""]));
        assert!(matches(r#"{"prefix": "a"}"#, &["ab"]));
        assert!(!matches(r#"{"prefix": "a"}"#, &["ba"]));
        assert!(matches(r#"{"suffix": "a"}"#, &["ba"]));
        assert!(matches(r#"{"present": true}"#, &[""]));
        assert!(!matches(r#"{"present": true}"#, &[]));
        assert!(matches(r#"{"present": false}"#, &[]));
    }

    #[test]
    fn paths_are_compared_by_elements() {
        let matches = |json: &str, path: &str| serde_json::from_str::<Path>(json).unwrap().matches(path);
        assert!(matches("\"/a\"", "/a"));
        assert!(!matches("\"/a\"", "/a/"));
        for prefix in [r#"{"prefix": "/a"}"#, r#"{"prefix": "/a/"}"#] {
            assert!(matches(prefix, "/a/b") && matches(prefix, "/a") && matches(prefix, "/a/"));
            assert!(!matches(prefix, "/ab") && !matches(prefix, "/"));
        }
        assert!(matches(r#"{"prefix": "/"}"#, "/") && matches(r#"{"prefix": "/"}"#, "/a"));
    }

    #[test]
    fn mistakes_are_told() {
        for (json, why) in [
            ("5", "expected a text, {prefix: TEXT}"),
            ("{}", "exactly one of `prefix`"),
            (r#"{"prefix": "a", "suffix": "b"}"#, "exactly one of `prefix`"),
            (r#"{"infix": "a"}"#, "unknown field `infix`"),
        ] {
            let error = text(json).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        for (json, why) in [
            ("5", "expected a path, or {prefix: PATH}"),
            (r#"{"suffix": "a"}"#, "unknown field `suffix`"),
            ("\"a\"", "is no path"),
            ("\"/a?b\"", "its normal form is \"/a\""),
            ("\"/a//b\"", "its normal form is \"/a/b\""),
            (r#"{"prefix": "/a/../b"}"#, "its normal form is \"/b\""),
        ] {
            let error = serde_json::from_str::<Path>(json).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
