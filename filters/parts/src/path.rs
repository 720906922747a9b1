//! Patterns of paths: `/users/{id}`, `/static/**`.

/// Patterns, of which the first that matches counts.
#[derive(Debug)]
pub struct Paths {
    patterns: Vec<Pattern>,
}

#[derive(Debug)]
struct Pattern {
    text: String,
    elements: Vec<Element>,
    /// Whether any number of further elements may follow.
    open: bool,
}

#[derive(Debug)]
enum Element {
    Literal(String),
    /// Any one element that is not empty.
    Any,
}

impl Paths {
    /// Reads patterns. An element in braces stands for any one element, `**` at the end for any number of them, none
    /// included. Elements are compared as they are written: nothing is decoded.
    ///
    /// # Errors
    ///
    /// What is wrong with one of them, and what would be right.
    pub fn new(patterns: &[String]) -> Result<Self, String> {
        Ok(Self { patterns: patterns.iter().map(|text| Pattern::new(text)).collect::<Result<_, _>>()? })
    }

    /// The place of the first pattern that matches a path (its query, if there is one, does not count).
    pub fn find(&self, path: &str) -> Option<usize> {
        let path = path_of(path);
        self.patterns.iter().position(|pattern| pattern.matches(path))
    }

    /// The pattern at a place, as it was written.
    pub fn text(&self, index: usize) -> Option<&str> {
        self.patterns.get(index).map(|pattern| pattern.text.as_str())
    }
}

impl Pattern {
    fn new(text: &str) -> Result<Self, String> {
        let wrong =
            |why: &str| Err(format!("{text:?} is no pattern of paths: {why}, like /users/{{id}} or /static/**"));
        let Some(rest) = text.strip_prefix('/') else { return wrong("it must begin with /") };
        let (rest, open) = match rest.strip_suffix("**") {
            Some("") => ("", true),
            Some(rest) if rest.ends_with('/') => (&rest[..rest.len() - 1], true),
            Some(_) => return wrong("** must be an element of its own"),
            None => (rest, false),
        };
        let mut elements = Vec::new();
        // `/**` alone has no elements before what is open.
        for element in rest.split('/').take(if open && rest.is_empty() { 0 } else { usize::MAX }) {
            elements.push(match element.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')) {
                Some(name) if !name.is_empty() && !name.contains(['{', '}']) => Element::Any,
                None if !element.contains(['{', '}', '*', '?', '#']) => Element::Literal(element.to_owned()),
                _ => return wrong("an element is literal or a name in braces, and ** comes last"),
            });
        }
        Ok(Self { text: text.to_owned(), elements, open })
    }

    fn matches(&self, path: &str) -> bool {
        let mut given = path.strip_prefix('/').into_iter().flat_map(|rest| rest.split('/'));
        for element in &self.elements {
            let same = match (element, given.next()) {
                (Element::Literal(own), Some(given)) => own == given,
                (Element::Any, Some(given)) => !given.is_empty(),
                (_, None) => false,
            };
            if !same {
                return false;
            }
        }
        self.open || (path.starts_with('/') && given.next().is_none())
    }
}

/// A request's path without its query.
pub fn path_of(path: &str) -> &str {
    path.split_once(['?', '#']).map_or(path, |(path, _)| path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(patterns: &[&str]) -> Result<Paths, String> {
        Paths::new(&patterns.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_first_pattern_that_matches_counts() {
        let paths = paths(&["/", "/users", "/users/{id}", "/users/{id}/orders", "/static/**", "/a/"]).unwrap();
        for (path, expected) in [
            ("/", Some("/")),
            ("/?a=/users", Some("/")),
            ("/users", Some("/users")),
            ("/users?x", Some("/users")),
            ("/users/", None),
            ("/users/7", Some("/users/{id}")),
            ("/users/7/orders", Some("/users/{id}/orders")),
            ("/users//orders", None),
            ("/users/7/orders/1", None),
            ("/static", Some("/static/**")),
            ("/static/", Some("/static/**")),
            ("/static/a/b.js", Some("/static/**")),
            ("/statics", None),
            ("/a", None),
            ("/a/", Some("/a/")),
            ("*", None),
            ("", None),
        ] {
            assert_eq!(paths.find(path).and_then(|index| paths.text(index)), expected, "{path}");
        }
        let all = super::Paths::new(&["/**".to_owned()]).unwrap();
        assert!(["/", "/a", "/a/b"].iter().all(|path| all.find(path) == Some(0)));
    }

    #[test]
    fn mistakes_are_told_with_what_would_be_right() {
        for pattern in ["", "users", "/a**", "/**/a", "/{}", "/{a}b", "/*", "/a?b", "/{a{b}}"] {
            let error = paths(&[pattern]).unwrap_err();
            assert!(error.contains("like /users/{id} or /static/**"), "{pattern}: {error}");
        }
    }
}
