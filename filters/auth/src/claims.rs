//! What a token says, and whether that holds here and now.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::text::Text;

/// The claims of a token (RFC 7519 section 4).
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Claims(Map<String, Value>);

/// Where a claim is, as it is configured: its name, or the list of names that leads to it through objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place(Vec<String>);

/// Times of a token, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Times {
    pub(crate) expires: Option<u64>,
    pub(crate) begins: Option<u64>,
    pub(crate) issued: Option<u64>,
}

/// A token that was found to hold.
#[derive(Debug, Default)]
pub(crate) struct Verified {
    /// The number of its provider.
    pub(crate) provider: usize,
    /// What it says.
    pub(crate) claims: Claims,
    /// Its claims as they stand in the token, if they are passed on.
    pub(crate) payload: Option<String>,
    /// Until when it holds, in seconds since 1970, leeway included.
    pub(crate) until: u64,
    /// How long its text is.
    pub(crate) length: usize,
}

impl Claims {
    /// Reads claims.
    pub(crate) fn parse(payload: &[u8]) -> Option<Self> {
        serde_json::from_slice(payload).ok().map(Self)
    }

    /// Who made the token.
    pub(crate) fn issuer(&self) -> Option<&str> {
        self.0.get("iss").and_then(Value::as_str)
    }

    /// Whom the token is about.
    #[cfg(test)]
    pub(crate) fn subject(&self) -> Option<&str> {
        self.0.get("sub").and_then(Value::as_str)
    }

    /// Whether the token is for one of these.
    pub(crate) fn is_for(&self, audiences: &[String]) -> bool {
        let wanted = |value: &Value| value.as_str().is_some_and(|text| audiences.iter().any(|own| own == text));
        match self.0.get("aud") {
            Some(Value::Array(values)) => values.iter().any(wanted),
            Some(value) => wanted(value),
            None => false,
        }
    }

    /// Its times; none if one of them is no number of seconds.
    pub(crate) fn times(&self) -> Option<Times> {
        let seconds = |name: &str| match self.0.get(name) {
            None => Some(None),
            // A fraction is cut; what lies beyond all numbers is the last one.
            Some(value) => match value.as_u64() {
                Some(seconds) => Some(Some(seconds)),
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
                None => value.as_f64().filter(|seconds| *seconds >= 0.0).map(|seconds| Some(seconds as u64)),
            },
        };
        Some(Times { expires: seconds("exp")?, begins: seconds("nbf")?, issued: seconds("iat")? })
    }

    /// A claim as texts: of a list each element, of `scope` each word (RFC 8693 section 4.2). Objects are none.
    pub(crate) fn texts(&self, place: &Place) -> Vec<Cow<'_, str>> {
        match self.find(place) {
            Some(Value::Array(values)) => values.iter().filter_map(text).collect(),
            Some(Value::String(words)) if place.0 == ["scope"] => words.split_whitespace().map(Cow::from).collect(),
            Some(value) => text(value).into_iter().collect(),
            None => Vec::new(),
        }
    }

    /// A claim as the value of a header; none if it is not there or is an object. Of a list, elements with a comma are
    /// left out: they would be read as two.
    pub(crate) fn header(&self, place: &Place) -> Option<String> {
        match self.find(place)? {
            Value::Array(values) => {
                let texts = values.iter().filter_map(text).filter(|text| !text.contains(','));
                let texts: Vec<Cow<'_, str>> = texts.collect();
                (!texts.is_empty()).then(|| texts.join(","))
            }
            value => text(value).map(Cow::into_owned),
        }
    }

    fn find(&self, place: &Place) -> Option<&Value> {
        let (first, rest) = place.0.split_first()?;
        rest.iter().try_fold(self.0.get(first)?, |value, name| value.get(name))
    }
}

/// A value that is one text.
fn text(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(Cow::from(text)),
        Value::Number(number) => Some(Cow::from(number.to_string())),
        Value::Bool(true) => Some(Cow::from("true")),
        Value::Bool(false) => Some(Cow::from("false")),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// A condition for a claim.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
pub(crate) struct ClaimMatch {
    /// Which claim: its name, or a list of names that leads to it through objects.
    claim: Place,
    /// What it must be; of a list, one of its elements.
    value: Text,
}

impl ClaimMatch {
    pub(crate) fn matches(&self, claims: &Claims) -> bool {
        let texts = claims.texts(&self.claim);
        self.value.matches(texts.iter().map(|text| text.as_bytes()))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PlaceVisitor)
    }
}

struct PlaceVisitor;

impl<'de> Visitor<'de> for PlaceVisitor {
    type Value = Place;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a claim, or a list of names that leads to it")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Place, E> {
        Ok(Place(vec![name.to_owned()]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut names: A) -> Result<Place, A::Error> {
        let mut place = Vec::new();
        while let Some(name) = names.next_element()? {
            place.push(name);
        }
        if place.is_empty() { Err(A::Error::invalid_length(0, &self)) } else { Ok(Place(place)) }
    }
}

#[cfg(not(target_family = "wasm"))]
impl schemars::JsonSchema for Place {
    fn schema_name() -> Cow<'static, str> {
        "Place".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "The name of a claim, or the list of names that leads to it through objects",
            "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}],
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claims(value: &Value) -> Claims {
        Claims::parse(value.to_string().as_bytes()).unwrap()
    }

    fn place(value: Value) -> Place {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn claims_become_texts() {
        let claims = claims(&json!({
            "sub": "ada", "level": 3, "staff": true, "nothing": null, "groups": ["a", 5, "b,c", {}, null],
            "scope": "read write", "words": "read write", "realm": {"roles": ["x"]}, "realm.roles": "flat", "empty": [],
        }));
        for (at, texts, header) in [
            (json!("sub"), vec!["ada"], Some("ada")),
            (json!("level"), vec!["3"], Some("3")),
            (json!("staff"), vec!["true"], Some("true")),
            (json!("nothing"), vec![], None),
            (json!("missing"), vec![], None),
            (json!("groups"), vec!["a", "5", "b,c"], Some("a,5")),
            (json!("scope"), vec!["read", "write"], Some("read write")),
            (json!("words"), vec!["read write"], Some("read write")),
            (json!("realm"), vec![], None),
            (json!(["realm", "roles"]), vec!["x"], Some("x")),
            (json!(["realm", "none", "deeper"]), vec![], None),
            (json!(["sub", "deeper"]), vec![], None),
            (json!("realm.roles"), vec!["flat"], Some("flat")),
            (json!("empty"), vec![], None),
        ] {
            let at = place(at);
            assert_eq!(
                (claims.texts(&at), claims.header(&at).as_deref()),
                (texts.iter().map(|t| Cow::from(*t)).collect(), header),
                "{at}"
            );
        }
    }

    #[test]
    fn times_are_numbers() {
        let times = |value: Value| claims(&value).times().map(|times| times.expires);
        assert_eq!(times(json!({})), Some(None));
        assert_eq!(times(json!({"exp": 5})), Some(Some(5)));
        assert_eq!(times(json!({"exp": 5.9})), Some(Some(5)));
        assert_eq!(times(json!({"exp": 1e300})), Some(Some(u64::MAX)));
        for wrong in [json!("5"), json!(-1), json!(-1.5), json!(null), json!([5])] {
            assert_eq!(times(json!({ "exp": wrong })), None, "{wrong}");
            assert_eq!(times(json!({ "nbf": wrong })), None, "{wrong}");
        }
    }

    #[test]
    fn audiences_are_one_or_many() {
        let own = ["delta".to_owned(), "d2".to_owned()];
        for (audience, is) in [
            (json!("delta"), true),
            (json!(["x", "d2"]), true),
            (json!("delt"), false),
            (json!(["x"]), false),
            (json!([["delta"]]), false),
            (json!(null), false),
        ] {
            assert_eq!(claims(&json!({ "aud": audience })).is_for(&own), is, "{audience}");
        }
        assert!(!claims(&json!({})).is_for(&own));
    }
}
