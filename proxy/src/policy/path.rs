//! The ways in which an application may read a path.
//!
//! A path reaches the application as it was sent. Applications differ in what they make of `%61`, `//`, `;x`, `%2f` and
//! the like, so a rule that compares letters only would be asked about one path and the application serve another. Here
//! a path is what any of them may read: a rule that refuses concerns it if one reading does, one that lets in only if
//! all do. What no client sends in good faith, or is read in ways that cannot be told, is [`Readings::Unclear`], which
//! every refusing rule with a path concerns and no other.

/// Longest path that is read in several ways, in bytes: each is a copy. Longer ones with anything odd are unclear.
const MAX_ODD_BYTES: usize = 4096;

/// What an application may take a path for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Readings {
    /// What it says.
    Plain,
    /// One of these, the first of which is what it says.
    Several(Vec<Reading>),
    /// Who knows.
    Unclear,
}

/// One of them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) text: Vec<u8>,
    /// Whether escapes are what they stand for.
    pub(super) decoded: bool,
}

impl Readings {
    /// Reads a path, without its query. Allocates only where there is more than one way.
    pub(super) fn of(path: &[u8]) -> Readings {
        if is_plain(path) {
            return Readings::Plain;
        }
        let Some(decoded) = Some(path).filter(|path| path.len() <= MAX_ODD_BYTES).and_then(decode) else {
            return Readings::Unclear;
        };
        let parameters = decoded.contains(&b';');
        let hidden_slash = slashes(&decoded) > slashes(path);
        if is_unclear(&decoded) || parameters && hidden_slash {
            return Readings::Unclear;
        }
        let mut readings = vec![Reading { text: path.to_vec(), decoded: false }];
        let mut add = |text: Vec<u8>, decoded: bool| {
            if !readings.iter().any(|known| known.decoded == decoded && known.text == text) {
                readings.push(Reading { text, decoded });
            }
        };
        // Parameters go before escapes are read, or after.
        let bases = [(path.to_vec(), false), (decoded.clone(), true), (decode(&cut(path)).unwrap_or(decoded), true)];
        for (base, decoded) in bases {
            // An escaped `?` or `#` may end it once it is one.
            let end = base.iter().position(|b| matches!(b, b'?' | b'#')).unwrap_or(base.len());
            for text in [&base[..], &base[..end]] {
                for text in [text.to_vec(), cut(text)] {
                    add(merge(&text), decoded);
                    add(text, decoded);
                }
            }
        }
        Readings::Several(readings)
    }
}

/// Whether all read the same.
fn is_plain(path: &[u8]) -> bool {
    let mut before = 0;
    path.iter().all(|&b| {
        let plain = match b {
            b'%' | b';' | b'\\' | 0..=b' ' | 0x7f.. => false,
            // An element that begins with a dot may be one or two of them.
            b'/' | b'.' => before != b'/',
            _ => true,
        };
        before = b;
        plain
    })
}

/// Escapes as what they stand for, once. `None` if one is none, or hides what no text has, or another escape.
fn decode(path: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::with_capacity(path.len());
    let mut rest = path.iter();
    while let Some(&b) = rest.next() {
        match b {
            b'%' => {
                let mut digit = || rest.next().and_then(|b| char::from(*b).to_digit(16));
                let (high, low) = (digit()?, digit()?);
                text.push((high * 16 + low) as u8);
            }
            b => text.push(b),
        }
    }
    let control = text.iter().any(|b| matches!(b, 0..0x20 | 0x7f | b'\\'));
    let escape = text.windows(2).any(|w| w[0] == b'%' && (w[1].is_ascii_hexdigit() || matches!(w[1], b'u' | b'U')));
    // What is no UTF-8 (overlong forms of `.` and `/`, too) is read as one likes.
    (!control && !escape && std::str::from_utf8(&text).is_ok()).then_some(text)
}

/// Whether an element is a dot or two once what may be taken away is gone: clients resolve these before they send.
fn is_unclear(decoded: &[u8]) -> bool {
    let elements = decoded.split(|b| matches!(b, b'/' | b'?' | b'#'));
    elements.map(parameterless).any(|element| matches!(element, b"." | b".."))
}

/// An element without its parameters.
fn parameterless(element: &[u8]) -> &[u8] {
    element.split(|b| *b == b';').next().unwrap_or_default()
}

/// Every element without its parameters.
fn cut(path: &[u8]) -> Vec<u8> {
    let elements: Vec<&[u8]> = path.split(|b| *b == b'/').map(parameterless).collect();
    elements.join(&b'/')
}

/// Several slashes as one.
fn merge(path: &[u8]) -> Vec<u8> {
    let mut text = path.to_vec();
    text.dedup_by(|b, before| *b == b'/' && *before == b'/');
    text
}

fn slashes(path: &[u8]) -> usize {
    path.iter().filter(|b| **b == b'/').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readings(path: &str) -> Vec<String> {
        match Readings::of(path.as_bytes()) {
            Readings::Plain => vec![path.to_owned()],
            Readings::Several(all) => {
                let mut all: Vec<_> = all.into_iter().map(|r| String::from_utf8(r.text).expect("text")).collect();
                all.sort();
                all.dedup();
                all
            }
            Readings::Unclear => Vec::new(),
        }
    }

    #[test]
    fn ordinary_paths_are_what_they_say() {
        for path in ["/", "*", "/a/b-c_d~e.f/", "/a.b/c..d", "/v1/items:batch", "/@me/$x,y=z"] {
            assert_eq!(Readings::of(path.as_bytes()), Readings::Plain, "{path}");
        }
    }

    #[test]
    fn odd_ones_are_all_that_they_may_be() {
        assert_eq!(readings("/%61b"), ["/%61b", "/ab"]);
        assert_eq!(readings("/a//b"), ["/a//b", "/a/b"]);
        assert_eq!(readings("/a;x=1/b"), ["/a/b", "/a;x=1/b"]);
        assert_eq!(readings("/a%2Fb"), ["/a%2Fb", "/a/b"]);
        assert_eq!(readings("/a%3fb"), ["/a", "/a%3fb", "/a?b"]);
        assert_eq!(readings("/;x/%61"), ["/%61", "//%61", "//a", "/;x/%61", "/;x/a", "/a"]);
        assert_eq!(readings("/.well-known/a"), ["/.well-known/a"]);
        assert_eq!(readings("/caf%C3%A9"), ["/caf%C3%A9", "/café"]);
    }

    #[test]
    fn what_nobody_sends_in_good_faith_is_unclear() {
        for path in [
            "/a/../b",
            "/a/.",
            "/./a",
            "/a/..",
            "/%2e%2e/a",
            "/a/.%2E/b",
            "/a/..;x/b",
            "/a/%2e%2e%3bx/b",
            "/a%2f..%2fb",
            "/a\\b",
            "/a%5cb",
            "/a%00",
            "/a%0a",
            "/a%7f",
            "/%2561",
            "/%25%36%31",
            "/%u0061",
            "/%",
            "/%6",
            "/%zz",
            "/%c0%af",
            "/%c0%ae%c0%ae/",
            "/%ff",
            "/;x%2fy",
            "/a%3b%2fb",
            "/..%3fx",
            "/a/..%23",
        ] {
            assert_eq!(Readings::of(path.as_bytes()), Readings::Unclear, "{path}");
        }
        let edge = |n: usize| format!("/%61{}", "a".repeat(n - 4));
        assert!(matches!(Readings::of(edge(MAX_ODD_BYTES).as_bytes()), Readings::Several(_)));
        assert_eq!(Readings::of(edge(MAX_ODD_BYTES + 1).as_bytes()), Readings::Unclear);
    }
}
