//! Where a value of a request comes from.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lacis_sdk::{Attributes, Direction, Headers, Request, is_header_name};
use serde::Deserialize;

use crate::path_of;

/// A longer token than this is not looked into: what a server accepts as a head is hardly longer.
const MAX_TOKEN_BYTES: usize = 16 << 10;

/// A value of a request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The first value of a header.
    Header(String),
    /// A cookie.
    Cookie(String),
    /// The first parameter of this name in the query, decoded.
    Query(String),
    /// A claim of the bearer token in `authorization`: a name, or a JSON Pointer if it begins with `/`. The token is read
    /// and not verified: that is for a filter before this one.
    Claim(String),
    /// Any attribute that is text, by its dotted name, as `request.id`.
    Attribute(String),
    /// The URI in the peer's verified certificate.
    Identity,
    /// The method.
    Method,
    /// The path without its query.
    Path,
    /// The host that the request is for, without its port.
    Host,
    /// The IP address that the request came from.
    Address,
    /// The service (on Envoy the cluster) that was chosen before filters ran.
    Service,
    /// The route that was chosen before filters ran.
    Route,
    /// `inbound` or `outbound`.
    Direction,
}

impl Source {
    /// Checks the names in it.
    ///
    /// # Errors
    ///
    /// Which name cannot be one.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Source::Header(name) if !is_header_name(name) => Err(format!("{name:?} is no name of a header")),
            Source::Cookie(name) if !is_header_name(name) => Err(format!("{name:?} is no name of a cookie")),
            Source::Query(name) | Source::Claim(name) | Source::Attribute(name) if name.is_empty() => {
                Err("a name of `query`, `claim` or `attribute` is empty; say which".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// The value in a request, with U+FFFD for what is not UTF-8; absent if the request has none.
    pub fn read(&self, request: &Request) -> Option<String> {
        self.read_from(request.headers(), request.attributes())
    }

    /// The value in what is known of a request, also after its end.
    pub fn read_from(&self, headers: &Headers, attributes: Attributes<'_>) -> Option<String> {
        let header = |name: &str| headers.get(name).map(|value| value.to_text().into_owned());
        match self {
            Source::Header(name) => header(name),
            Source::Cookie(name) => cookie(headers, name),
            Source::Query(name) => query(&header(":path")?, name),
            Source::Claim(name) => claim(&header("authorization")?, name),
            Source::Attribute(name) => attributes.text(&name.split('.').collect::<Vec<_>>()),
            Source::Identity => attributes.peer_identity(),
            Source::Method => header(":method"),
            Source::Path => header(":path").map(|path| path_of(&path).to_owned()),
            Source::Host => header(":authority").map(|host| without_port(&host).to_ascii_lowercase()),
            Source::Address => attributes.source_address().map(|address| without_port(&address).to_owned()),
            Source::Service => attributes.service(),
            Source::Route => attributes.route().filter(|route| !route.is_empty()),
            Source::Direction => attributes.direction().map(|direction| match direction {
                Direction::Inbound => "inbound".to_owned(),
                Direction::Outbound => "outbound".to_owned(),
            }),
        }
    }
}

/// As it stands in a text: `header:x-user`, `identity`.
impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, name) = text.split_once(':').map_or((text, None), |(kind, name)| (kind, Some(name.to_owned())));
        let source = match (kind, name) {
            ("header", Some(name)) => Source::Header(name),
            ("cookie", Some(name)) => Source::Cookie(name),
            ("query", Some(name)) => Source::Query(name),
            ("claim", Some(name)) => Source::Claim(name),
            ("attribute", Some(name)) => Source::Attribute(name),
            ("identity", None) => Source::Identity,
            ("method", None) => Source::Method,
            ("path", None) => Source::Path,
            ("host", None) => Source::Host,
            ("address", None) => Source::Address,
            ("service", None) => Source::Service,
            ("route", None) => Source::Route,
            ("direction", None) => Source::Direction,
            _ => {
                return Err(format!(
                    "{text:?} is no value of a request; there are header:NAME, cookie:NAME, query:NAME, claim:NAME, \
                     attribute:NAME, identity, method, path, host, address, service, route, direction"
                ));
            }
        };
        source.check()?;
        Ok(source)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Header(name) => write!(f, "header:{name}"),
            Source::Cookie(name) => write!(f, "cookie:{name}"),
            Source::Query(name) => write!(f, "query:{name}"),
            Source::Claim(name) => write!(f, "claim:{name}"),
            Source::Attribute(name) => write!(f, "attribute:{name}"),
            Source::Identity => f.write_str("identity"),
            Source::Method => f.write_str("method"),
            Source::Path => f.write_str("path"),
            Source::Host => f.write_str("host"),
            Source::Address => f.write_str("address"),
            Source::Service => f.write_str("service"),
            Source::Route => f.write_str("route"),
            Source::Direction => f.write_str("direction"),
        }
    }
}

fn cookie(headers: &Headers, name: &str) -> Option<String> {
    let first = headers.get("cookie")?;
    // HTTP/2 and HTTP/3 may send each cookie in a field of its own (RFC 9113 section 8.2.3).
    cookie_in(&first.to_text(), name).or_else(|| {
        let all = headers.all();
        let mut cookies = all.iter().filter(|(own, _)| own == "cookie").skip(1);
        cookies.find_map(|(_, value)| cookie_in(&value.to_text(), name))
    })
}

/// RFC 6265 section 5.4; a value in quotes keeps them.
fn cookie_in(header: &str, name: &str) -> Option<String> {
    let mut pairs = header.split(';').filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(own, _)| *own == name).map(|(_, value)| value.to_owned())
}

fn query(path: &str, name: &str) -> Option<String> {
    let (_, query) = path.split_once('?')?;
    let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    // A caller may send thousands, and each rule may ask for one: nothing is made of those that it is not.
    pairs.find(|(own, _)| decode(own).eq(name.bytes())).map(|(_, value)| decoded(value))
}

/// See [`decode`]; with U+FFFD for what is not UTF-8.
fn decoded(text: &str) -> String {
    String::from_utf8_lossy(&decode(text).collect::<Vec<u8>>()).into_owned()
}

/// Decodes `%XX` and `+` of a query; what is no code stays as it is.
fn decode(text: &str) -> impl Iterator<Item = u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut rest = text.as_bytes();
    std::iter::from_fn(move || {
        let [byte, after @ ..] = rest else { return None };
        rest = after;
        Some(match (byte, after) {
            (b'+', _) => b' ',
            (b'%', [high, low, after @ ..]) => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => {
                    rest = after;
                    high << 4 | low
                }
                _ => b'%',
            },
            _ => *byte,
        })
    })
}

fn claim(authorization: &str, name: &str) -> Option<String> {
    let (scheme, token) = authorization.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") || token.len() > MAX_TOKEN_BYTES {
        return None;
    }
    let payload = URL_SAFE_NO_PAD.decode(token.trim().split('.').nth(1)?).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&payload).ok()?;
    let claim = if name.starts_with('/') { claims.pointer(name) } else { claims.get(name) };
    match claim? {
        serde_json::Value::Null => None,
        serde_json::Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// `127.0.0.1:80`, `[::1]:80`, `delta:80`, each without its port.
fn without_port(address: &str) -> &str {
    match address.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !host.ends_with(':') => host,
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_are_found_by_their_whole_names() {
        let header = "sid=31; theme=dark=er; q=\"a\"; empty=; alone";
        for (name, value) in [
            ("sid", Some("31")),
            ("theme", Some("dark=er")),
            ("q", Some("\"a\"")),
            ("empty", Some("")),
            ("id", None),
            ("alone", None),
        ] {
            assert_eq!(cookie_in(header, name).as_deref(), value, "{name}");
        }
    }

    #[test]
    fn parameters_are_decoded() {
        let path = "/a?user=Ada%20L+&flag&%75=1&bad=%zz%4&a+b=2&user=second";
        for (name, value) in [
            ("user", Some("Ada L ")),
            ("flag", Some("")),
            ("u", Some("1")),
            ("bad", Some("%zz%4")),
            ("a b", Some("2")),
            ("a+b", None),
            ("a", None),
        ] {
            assert_eq!(query(path, name).as_deref(), value, "{name}");
        }
        assert_eq!(query("/a", "user"), None);
    }

    #[test]
    fn claims_are_read_from_a_bearer_token() {
        let payload = URL_SAFE_NO_PAD.encode(r#"{"sub":"ada","n":7,"a":{"b":[true]},"no":null}"#);
        let header = format!("bearer x.{payload}.y");
        for (name, value) in
            [("sub", Some("ada")), ("n", Some("7")), ("/a/b/0", Some("true")), ("no", None), ("missing", None)]
        {
            assert_eq!(claim(&header, name).as_deref(), value, "{name}");
        }
        for header in ["", "Bearer", "Bearer x", "Bearer x.y.z", "Basic x.e30.z", "Bearer x.%.z"] {
            assert_eq!(claim(header, "sub"), None, "{header}");
        }
        let long = |size: usize| format!("Bearer x.{payload}.{}", "y".repeat(size - payload.len() - 3));
        assert_eq!(claim(&long(MAX_TOKEN_BYTES), "sub").as_deref(), Some("ada"));
        assert_eq!(claim(&long(MAX_TOKEN_BYTES + 1), "sub"), None);
    }

    #[test]
    fn ports_are_taken_off() {
        for (address, host) in
            [("1.2.3.4:5", "1.2.3.4"), ("[::1]:5", "[::1]"), ("[::1]", "[::1]"), ("delta", "delta"), ("::1", "::1")]
        {
            assert_eq!(without_port(address), host);
        }
    }

    #[test]
    fn texts_name_the_same_sources_as_maps() {
        for (text, map) in [
            ("header:x-user", r#"{"header": "x-user"}"#),
            ("claim:/a/b", r#"{"claim": "/a/b"}"#),
            ("attribute:request.id", r#"{"attribute": "request.id"}"#),
            ("identity", r#""identity""#),
        ] {
            let source: Source = text.parse().unwrap();
            assert_eq!(source, serde_json::from_str(map).unwrap());
            assert_eq!(source.to_string(), text);
        }
        for (text, why) in [
            ("haeder:x", "there are header:NAME"),
            ("header", "there are header:NAME"),
            ("identity:x", "there are header:NAME"),
            ("header:a b", "no name of a header"),
            ("query:", "is empty"),
        ] {
            let error = text.parse::<Source>().unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
