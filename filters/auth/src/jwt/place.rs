//! Where in a request a token is.

use lacis_sdk::is_header_name;
use serde::Deserialize;

use crate::head::{Changes, Head, credentials};
use crate::path;

pub(crate) use crate::head::Twice;

/// A place as it is configured: one of `header` (with `scheme` if it has one), `query` and `cookie`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
pub(crate) struct Entry {
    /// A header.
    header: Option<String>,
    /// The word before the token in that header, `Bearer` as a rule; absent: there is none.
    scheme: Option<String>,
    /// A parameter of the query.
    query: Option<String>,
    /// A cookie.
    cookie: Option<String>,
}

/// A place.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Header { name: String, scheme: Option<String> },
    Query(String),
    Cookie(String),
}

impl Place {
    /// The usual place.
    pub(crate) fn bearer() -> Self {
        Self::Header { name: "authorization".to_owned(), scheme: Some("Bearer".to_owned()) }
    }

    pub(crate) fn new(entry: Entry) -> Result<Self, String> {
        let Entry { header, scheme, query, cookie } = entry;
        match (header, scheme, query, cookie) {
            (Some(name), scheme, None, None) if is_header_name(&name) => {
                Ok(Self::Header { name: name.to_ascii_lowercase(), scheme })
            }
            (Some(name), ..) if !is_header_name(&name) => Err(format!("{name:?} is no name of a header")),
            (None, None, Some(name), None) if !name.is_empty() => Ok(Self::Query(name)),
            (None, None, None, Some(name)) if is_header_name(&name) => Ok(Self::Cookie(name)),
            _ => Err("a place of `from` has one of `header` (with `scheme` if there is one), `query` and `cookie`"
                .to_owned()),
        }
    }

    /// The token that is there. What is no text is none: it could only be refused, and may be something else.
    pub(crate) fn find<'a>(&'a self, head: &'a Head) -> Result<Option<&'a str>, Twice> {
        match self {
            Self::Header { name, scheme: None } => Ok(head.one(name)?.and_then(|value| str::from_utf8(value).ok())),
            Self::Header { name, scheme: Some(scheme) } => {
                only(head.values(name).filter_map(|value| credentials(value, scheme)))
            }
            Self::Query(name) => only(path::parameters(head.pseudo(":path"), name)),
            Self::Cookie(name) => {
                only(head.values("cookie").flat_map(cookies).filter_map(|(own, value)| (own == name).then_some(value)))
            }
        }
    }

    /// Takes the token away.
    pub(crate) fn strip(&self, head: &Head, changes: &mut Changes) {
        match self {
            Self::Header { name, scheme: None } => changes.remove(name),
            Self::Header { name, scheme: Some(scheme) } => {
                // Credentials of another kind are not ours.
                if head.values(name).any(|value| credentials(value, scheme).is_some()) {
                    changes.remove(name);
                }
            }
            Self::Query(name) => {
                if path::parameters(head.pseudo(":path"), name).next().is_some() {
                    changes.remove_parameter(name);
                }
            }
            Self::Cookie(name) => {
                let all: Vec<(&str, &str)> = head.values("cookie").flat_map(cookies).collect();
                let others: Vec<String> =
                    all.iter().filter(|(own, _)| own != name).map(|(name, value)| format!("{name}={value}")).collect();
                if others.is_empty() && !all.is_empty() {
                    changes.remove("cookie");
                } else if others.len() < all.len() {
                    changes.set("cookie", others.join("; ").into_bytes());
                }
            }
        }
    }
}

/// The cookies of one header (RFC 6265 section 4.2.1).
fn cookies(value: &[u8]) -> impl Iterator<Item = (&str, &str)> {
    let text = str::from_utf8(value).unwrap_or_default();
    text.split(';').filter_map(|pair| pair.split_once('=')).map(|(name, value)| (name.trim(), value.trim()))
}

fn only<'a>(mut found: impl Iterator<Item = &'a str>) -> Result<Option<&'a str>, Twice> {
    match (found.next(), found.next()) {
        (token, None) => Ok(token),
        _ => Err(Twice),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(headers: &[(&str, &str)]) -> Head {
        Head::new(headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_owned())).collect())
    }

    fn place(json: &str) -> Result<Place, String> {
        Place::new(serde_json::from_str(json).map_err(|error| error.to_string())?)
    }

    #[test]
    fn tokens_are_found_where_they_should_be() {
        let found = |json: &str, headers: &[(&str, &str)]| {
            place(json).unwrap().find(&head(headers)).map(|token| token.map(str::to_owned))
        };
        let bearer = r#"{"header": "Authorization", "scheme": "Bearer"}"#;
        let some = |text: &str| Ok(Some(text.to_owned()));
        assert_eq!(found(bearer, &[("authorization", "bearer  abc ")]), some("abc"));
        assert_eq!(found(bearer, &[("authorization", "Bearer")]), Ok(None));
        assert_eq!(found(bearer, &[("authorization", "Basic abc")]), Ok(None));
        assert_eq!(found(bearer, &[("authorization", "Bearerabc")]), Ok(None));
        assert_eq!(found(bearer, &[("authorization", "Basic a"), ("authorization", "Bearer b")]), some("b"));
        assert_eq!(found(bearer, &[("authorization", "Bearer a"), ("authorization", "Bearer b")]), Err(Twice));
        assert_eq!(found(bearer, &[("x", "Bearer a")]), Ok(None));
        let plain = r#"{"header": "x-token"}"#;
        assert_eq!(found(plain, &[("x-token", "abc")]), some("abc"));
        assert_eq!(found(plain, &[("x-token", "a"), ("x-token", "a")]), Err(Twice));
        let query = r#"{"query": "t"}"#;
        assert_eq!(found(query, &[(":path", "/?a=t&t=abc")]), some("abc"));
        assert_eq!(found(query, &[(":path", "/?t=a&t=b")]), Err(Twice));
        assert_eq!(found(query, &[(":path", "/")]), Ok(None));
        let cookie = r#"{"cookie": "t"}"#;
        assert_eq!(found(cookie, &[("cookie", "a=b; t=abc; c=d")]), some("abc"));
        assert_eq!(found(cookie, &[("cookie", "a=b"), ("cookie", "t=abc")]), some("abc"));
        assert_eq!(found(cookie, &[("cookie", "t=a; t=b")]), Err(Twice));
        assert_eq!(found(cookie, &[("cookie", "tt=a; x; ")]), Ok(None));
    }

    #[test]
    fn tokens_are_taken_away_and_nothing_else() {
        let left = |json: &str, headers: &[(&str, &str)]| {
            let (head, mut changes) = (head(headers), Changes::default());
            place(json).unwrap().strip(&head, &mut changes);
            let left = changes.preview(&head);
            left.headers()
                .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value)))
                .collect::<Vec<_>>()
        };
        let bearer = r#"{"header": "authorization", "scheme": "Bearer"}"#;
        assert_eq!(left(bearer, &[("authorization", "Bearer a"), ("x", "y")]), ["x: y"]);
        assert_eq!(left(bearer, &[("authorization", "Basic a")]), ["authorization: Basic a"]);
        assert_eq!(left(r#"{"query": "t"}"#, &[(":path", "/?t=1&a=2")]), [":path: /?a=2"]);
        let cookie = r#"{"cookie": "t"}"#;
        assert_eq!(left(cookie, &[("cookie", "t=1")]), Vec::<String>::new());
        assert_eq!(left(cookie, &[("cookie", "a=b; t=1"), ("cookie", "c=d")]), ["cookie: a=b; c=d"]);
        assert_eq!(left(cookie, &[("cookie", "a=b;c=d")]), ["cookie: a=b;c=d"]);
    }

    #[test]
    fn mistakes_are_told() {
        for (json, why) in [
            ("{}", "has one of `header`"),
            (r#"{"scheme": "Bearer"}"#, "has one of `header`"),
            (r#"{"header": "a", "query": "b"}"#, "has one of `header`"),
            (r#"{"query": "a", "scheme": "Bearer"}"#, "has one of `header`"),
            (r#"{"header": "a b"}"#, "no name of a header"),
            (r#"{"body": "a"}"#, "unknown field `body`"),
        ] {
            let error = place(json).unwrap_err();
            assert!(error.contains(why), "{json}: {error}");
        }
    }
}
