//! Routes as the Gateway API's HTTPRoute means them: which requests to a service go where, and what is done to them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::fault::{Faults, Mirror};
use http::{HeaderName, HeaderValue, Method};
use regex::bytes::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};

use super::admission::RateLimit;

/// Longest pattern, in bytes.
pub const MAX_PATTERN_BYTES: usize = 1024;

/// Most patterns of paths for one host of a service: what they can match is found in one pass, but its cost grows with them.
pub const MAX_PATTERNS: usize = 256;

/// What a compiled pattern may take in memory: ordinary ones take a few KiB, and `(a{99}){99}` does not pass.
const PATTERN_MEMORY: usize = 64 << 10;

/// How deep groups, repetitions and the like may stand in each other. The compiler of patterns calls itself as often, and
/// 250, as many as it allows, filled a thread's stack of 2 MiB.
const PATTERN_DEPTH: u32 = 50;

/// The rules of one service, which its requests follow.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Index into [`super::Config::services`].
    pub service: usize,
    /// In the order of the file; never empty.
    pub rules: Arc<[Rule]>,
    /// Hosts (lower case) that its matches name and no service has, `*.` before those that are the end of one: they mean
    /// this service, too.
    pub hosts: Vec<String>,
}

/// What is done with some requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// `SERVICE/NAME`, unique in the file.
    pub name: Arc<str>,
    /// It applies if one of them does; never empty, at most [`MAX_MATCHES`].
    pub matches: Vec<Match>,
    /// What changes in the fields of requests.
    pub request: FieldChanges,
    /// What changes in the fields of responses.
    pub response: FieldChanges,
    /// They are answered with another place to ask.
    pub redirect: Option<Redirect>,
    /// They ask for something else.
    pub rewrite: Option<Rewrite>,
    /// Indices into [`super::Config::filters`], in the order in which requests pass them.
    pub filters: Vec<usize>,
    /// Where they go; empty: to the service itself.
    pub to: Vec<Backend>,
    /// In place of the service's `timeouts.request`; zero: no bound.
    pub timeout: Option<Duration>,
    /// In place of the `retries.per_try_timeout` of the service that they go to; zero: no bound (Gateway API, `timeouts.backendRequest`).
    pub per_try_timeout: Option<Duration>,
    /// Faults on purpose, in place of those of the service that they go to.
    pub fault: Option<Faults>,
    /// Who gets a copy of them.
    pub mirrors: Vec<Mirror>,
    /// How often it may be followed.
    pub rate_limits: Vec<RateLimit>,
}

impl Rule {
    /// Whether the head of a request is another one after it.
    pub fn changes_request(&self) -> bool {
        let FieldChanges { set, add, remove } = &self.request;
        self.rewrite.is_some() || !(set.is_empty() && add.is_empty() && remove.is_empty())
    }
}

/// Most matches of a rule (Gateway API, `HTTPRouteRule.matches`).
pub const MAX_MATCHES: usize = 64;

/// What a request must be, in every respect.
#[derive(Clone, Debug, PartialEq)]
pub struct Match {
    /// Its host.
    pub host: Option<HostMatch>,
    /// Its path.
    pub path: PathMatch,
    /// Its method.
    pub method: Option<Method>,
    /// Its fields.
    pub headers: Vec<(HeaderName, TextMatch)>,
    /// Parameters of its query, as they are written there.
    pub query: Vec<(String, TextMatch)>,
}

/// A host, in lower case and without port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostMatch {
    /// This one.
    Exact(String),
    /// All that end with this, which begins with a dot.
    Under(String),
}

/// A path, without the query.
#[derive(Clone, Debug, PartialEq)]
pub enum PathMatch {
    /// This one.
    Exact(String),
    /// All that begin with these elements; without a `/` at its end, so empty for all.
    Prefix(String),
    /// All that this matches as a whole.
    Regex(Pattern),
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum TextMatch {
    /// This one.
    Exact(String),
    /// All that this matches as a whole.
    Regex(Pattern),
}

/// Changes of fields, done in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldChanges {
    /// In place of what is there.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Beside what is there.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// No more there.
    pub remove: Vec<HeaderName>,
}

/// Another place to ask. What is absent stays as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// Its scheme.
    pub scheme: Option<Scheme>,
    /// Its host.
    pub host: Option<String>,
    /// Its port.
    pub port: Option<u16>,
    /// Its path.
    pub path: Option<PathChange>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// How what a gRPC request calls is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrpcKind {
    /// It is the same.
    Exact,
    /// A pattern matches it as a whole.
    Regex,
}

/// A scheme of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `http`.
    Http,
    /// `https`.
    Https,
}

/// Something else to ask for. What is absent stays as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// The host.
    pub host: Option<String>,
    /// The path.
    pub path: Option<PathChange>,
}

/// Another path; the query stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathChange {
    /// This one.
    Full(String),
    /// This, in place of the prefix that was matched; without a `/` at its end.
    Prefix(String),
}

/// Where a share of requests goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Index into [`super::Config::services`].
    pub service: usize,
    /// Its share relative to its siblings; 0 for none.
    pub weight: u32,
}

/// A regular expression (RE2's syntax, ASCII classes) that a value matches as a whole.
#[derive(Clone)]
pub struct Pattern {
    text: String,
    regex: Regex,
}

impl Pattern {
    /// Compiles one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(text: &str) -> Result<Self, String> {
        if text.len() > MAX_PATTERN_BYTES {
            return Err(format!("is longer than {MAX_PATTERN_BYTES} bytes"));
        }
        // By itself first: `a)(b` is whole only between our parentheses.
        let compile = |text: &str, depth: u32| {
            RegexBuilder::new(text).unicode(false).size_limit(PATTERN_MEMORY).nest_limit(depth).build()
        };
        // What makes it whole is two deep.
        match compile(text, PATTERN_DEPTH).and_then(|_| compile(&whole(text), PATTERN_DEPTH + 2)) {
            Ok(regex) => Ok(Pattern { text: text.to_owned(), regex }),
            Err(regex::Error::CompiledTooBig(_)) => Err("is too complex; write it with fewer repetitions".into()),
            // The last line says what; those before point to it.
            Err(error) => Err(format!("is not a regular expression: {}", last_line(&error.to_string()))),
        }
    }

    /// As the file has it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it matches all of a value.
    pub fn matches(&self, value: &[u8]) -> bool {
        self.regex.is_match(value)
    }

    /// The same in any case of its ASCII letters.
    ///
    /// # Errors
    /// If it is too complex then.
    pub fn in_any_case(&self) -> Result<Self, &'static str> {
        let text = whole(&self.text);
        let built =
            RegexBuilder::new(&text).unicode(false).case_insensitive(true).size_limit(2 * PATTERN_MEMORY).build();
        let regex = built.map_err(|_| "is too complex in any case of its letters; write it with fewer repetitions")?;
        Ok(Pattern { text: self.text.clone(), regex })
    }

    /// Several as one. `None` if that would be too large.
    pub fn set<'p>(patterns: impl Iterator<Item = &'p Pattern>) -> Option<RegexSet> {
        let limit = MAX_PATTERNS * PATTERN_MEMORY;
        RegexSetBuilder::new(patterns.map(|p| whole(&p.text))).unicode(false).size_limit(limit).build().ok()
    }
}

fn whole(text: &str) -> String {
    format!(r"\A(?:{text})\z")
}

fn last_line(text: &str) -> &str {
    text.lines().last().unwrap_or_default().trim_start_matches("error: ")
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_the_whole_and_are_bounded() {
        let matches = |pattern: &str, value: &str| Pattern::new(pattern).expect("valid").matches(value.as_bytes());
        assert!(matches("/v[0-9]+", "/v12") && !matches("/v[0-9]+", "/v12/x") && !matches("a|b", "ab"));
        assert!(matches(r"\d", "7") && !matches(r"\d", "٧"), "as in RE2");
        assert!(!matches("(?m)a$", "a\nb"));
        assert!(Pattern::new(&"a".repeat(MAX_PATTERN_BYTES)).is_ok());
        let deep = |n: u32| format!("{}a{}", "(".repeat(n as usize), ")".repeat(n as usize));
        assert!(Pattern::new(&deep(PATTERN_DEPTH)).is_ok_and(|pattern| pattern.in_any_case().is_ok()));
        assert!(Pattern::new(&deep(PATTERN_DEPTH + 1)).is_err());
        assert!(Pattern::new(&format!("a{}", "*".repeat(MAX_PATTERN_BYTES - 1))).is_err());
        for (text, why) in [
            ("a)(b", "is not a regular expression: unopened group"),
            ("[", "is not a regular expression: unclosed character class"),
            ("((a{99}){99}){99}", "is too complex; write it with fewer repetitions"),
            (&"a".repeat(MAX_PATTERN_BYTES + 1), "is longer than 1024 bytes"),
        ] {
            assert_eq!(Pattern::new(text).err().as_deref(), Some(why));
        }
    }
}
