//! How paths and values are compared, wherever the file says which requests are meant.

use std::fmt;

use regex::bytes::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};

/// Longest pattern, in bytes.
pub const MAX_PATTERN_BYTES: usize = 1024;

/// Most patterns of paths for one host of a service: what they can match is found in one pass, but its cost grows with them.
pub const MAX_PATTERNS: usize = 256;

/// What a compiled pattern may take in memory: ordinary ones take a few KiB, and `(a{99}){99}` does not pass.
const PATTERN_MEMORY: usize = 64 << 10;

/// How deep groups, repetitions and the like may stand in each other. The compiler of patterns calls itself as often, and
/// 250, as many as it allows, filled a thread's stack of 2 MiB.
const PATTERN_DEPTH: u32 = 50;

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
