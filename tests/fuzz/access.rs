//! Rules about paths against what applications make of paths.

use std::collections::BTreeSet;
use std::path::Path;

use lacis::config::matching::Pattern;
use lacis::config::resolve::{Host, parse};
use lacis::http::RequestHead;
use lacis::policy::Asked;
use lacis::policy::access::Access;
use lacis::telemetry::metrics::Registry;

/// A rule in the first line (`exact PATH`, `prefix PATH` or `regex PATTERN`) and the path of a request after it. As a
/// rule of `deny` it refuses the request if any application could take its path for one that the rule means; as the only
/// one of `allow` it lets it in only if every application would.
pub fn access(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let Some((rule, path)) = text.split_once('\n') else { return };
    let Some((kind, meant)) = rule.split_once(' ') else { return };
    if !matches!(kind, "exact" | "prefix" | "regex") || path.len() > 300 {
        return;
    }
    let Ok(asked) = path.parse() else { return };
    let head = RequestHead { path: asked, ..RequestHead::unread() };
    let path = head.path.path();
    let (Some(deny), Some(allow)) = (rules("deny", kind, meant), rules("allow", kind, meant)) else { return };
    let refuses = |access: &Access| access.decide(&Asked::new(&head, None, 0)).refused_by.is_some();
    let (denied, allowed) = (refuses(&deny), !refuses(&allow));
    for (read, lenient) in readings(path) {
        // A pattern says itself which letters it means.
        if (!lenient || kind != "regex") && means(kind, meant, &read) {
            assert!(denied, "{kind} {meant:?} means {:?}, as {path:?} may be read", String::from_utf8_lossy(&read));
        }
        let known = || means(kind, meant, &read) || means(kind, &escaped(meant), &read);
        if allowed && !lenient {
            assert!(known(), "{kind} {meant:?} lets {path:?} in, for {:?}", String::from_utf8_lossy(&read));
        }
    }
}

/// The rule as the only one of a list, if it is one.
fn rules(list: &str, kind: &str, meant: &str) -> Option<Access> {
    let meant: String = meant.chars().map(|c| format!("\\U{:08x}", c as u32)).collect();
    let text = format!(
        "node: {{service: a}}\nidentity: {{certificate: /c, private_key: /k, trust_bundle: /b}}\n\
         inbound: {{listen: 127.0.0.1:1, application: 127.0.0.1:2, {list}: [{{path: {{{kind}: \"{meant}\"}}}}]}}\n"
    );
    let host = Host { variable: &|_| None, exists: &|_| true, cores: 1 };
    let (config, _) = parse(&text, "fuzz.yaml", Path::new("/"), &host).ok()?;
    Access::new(&config.inbound?.access, &Registry::default().metrics())
}

/// Whether a path, as an application has read it, is one that the rule means, letter by letter.
fn means(kind: &str, meant: &str, path: &[u8]) -> bool {
    match kind {
        "exact" => path == meant.as_bytes(),
        "prefix" => {
            let meant = meant.trim_end_matches('/').as_bytes();
            path.strip_prefix(meant).is_some_and(|rest| matches!(rest, [] | [b'/', ..]))
        }
        _ => Pattern::new(meant).is_ok_and(|pattern| pattern.matches(path)),
    }
}

/// A rule's path with escapes as what they stand for: so it may mean what it names.
fn escaped(meant: &str) -> String {
    String::from_utf8_lossy(&decode(meant.as_bytes())).into_owned()
}

/// All that applications may make of a path, and whether one did that takes letters of any case, or a slash at the end,
/// for the same. Each of the steps is done by some and not by others.
fn readings(path: &str) -> BTreeSet<(Vec<u8>, bool)> {
    type Step = fn(&[u8]) -> Vec<u8>;
    const STEPS: [(Step, bool); 10] = [
        (parameterless, false),
        (decode, false),
        (decode, false),
        (parameterless, false),
        (ended, false),
        (slashes, false),
        (merged, false),
        (resolved, false),
        (lower, true),
        (trimmed, true),
    ];
    let mut all = BTreeSet::from([(path.as_bytes().to_vec(), false)]);
    for (step, lenient) in STEPS {
        let more: Vec<_> = all.iter().map(|(path, already)| (step(path), *already || lenient)).collect();
        all.extend(more);
    }
    all
}

/// Escapes are read; what is none stays.
fn decode(path: &[u8]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), path);
    while let [first, after @ ..] = rest {
        let digit = |at: usize| after.get(at).and_then(|b| char::from(*b).to_digit(16));
        (out, rest) = match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => ([out, vec![(high * 16 + low) as u8]].concat(), &after[2..]),
            _ => ([out, vec![*first]].concat(), after),
        };
    }
    out
}

fn elements(path: &[u8], mut each: impl FnMut(&[u8]) -> Vec<u8>) -> Vec<u8> {
    path.split(|b| *b == b'/').map(&mut each).collect::<Vec<_>>().join(&b'/')
}

/// Without parameters (RFC 3986 section 3.3).
fn parameterless(path: &[u8]) -> Vec<u8> {
    elements(path, |element| element.split(|b| *b == b';').next().unwrap_or_default().to_vec())
}

/// Up to what would be a query or a fragment, once it is no escape any more.
fn ended(path: &[u8]) -> Vec<u8> {
    path.split(|b| matches!(b, b'?' | b'#')).next().unwrap_or_default().to_vec()
}

/// As Windows has it.
fn slashes(path: &[u8]) -> Vec<u8> {
    path.iter().map(|b| if *b == b'\\' { b'/' } else { *b }).collect()
}

fn merged(path: &[u8]) -> Vec<u8> {
    let mut path = path.to_vec();
    path.dedup_by(|b, before| *b == b'/' && *before == b'/');
    path
}

/// Without `.` and `..` (RFC 3986 section 5.2.4).
fn resolved(path: &[u8]) -> Vec<u8> {
    let mut out: Vec<&[u8]> = Vec::new();
    let all: Vec<&[u8]> = path.split(|b| *b == b'/').collect();
    for (at, element) in all.iter().enumerate() {
        match *element {
            b"." | b".." => {
                if *element == b".." && out.len() > 1 {
                    out.pop();
                }
                if at + 1 == all.len() {
                    out.push(b"");
                }
            }
            element => out.push(element),
        }
    }
    out.join(&b'/')
}

fn lower(path: &[u8]) -> Vec<u8> {
    path.to_ascii_lowercase()
}

fn trimmed(path: &[u8]) -> Vec<u8> {
    let end = path.iter().rposition(|b| *b != b'/').map_or(0, |at| at + 1);
    path[..end.max(1).min(path.len())].to_vec()
}
