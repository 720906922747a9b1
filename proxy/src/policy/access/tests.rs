use std::path::Path;

use http::uri::PathAndQuery;

use super::*;
use crate::http::Fields;
use crate::http::RequestHead;
use crate::telemetry::metrics::Registry;

const ALPHA: &str = "spiffe://cluster.local/ns/default/sa/alpha";
const OMEGA: &str = "spiffe://cluster.local/ns/other/sa/omega";

/// Rules as a file says them.
fn access(rules: &str) -> Access {
    let host = config::resolve::Host { variable: &|_| None, exists: &|_| true, cores: 1 };
    let file = format!(
        "node: {{service: delta}}\nidentity: {{certificate: a, private_key: b, trust_bundle: c}}\n\
         inbound: {{application: \"127.0.0.1:8080\", {rules}}}\n"
    );
    let config = config::parse(&file, "test", Path::new("/"), &host).expect("a config").0;
    let access = config.inbound.expect("inbound").access;
    Access::new(&access, &Registry::default().metrics()).expect("rules")
}

struct Request(RequestHead, SpiffeId);

impl Request {
    fn new(peer: &str, method: &str, path: &str, fields: &[(&'static str, &'static str)]) -> Self {
        let mut head = RequestHead::unread();
        head.method = method.parse().expect("a method");
        head.path = PathAndQuery::try_from(path).expect("a path");
        let mut headers = Fields::new();
        for (name, value) in fields {
            headers.append(http::HeaderName::from_static(name), value.parse::<http::HeaderValue>().expect("a value"));
        }
        head.headers = headers;
        Request(head, peer.parse().expect("an identity"))
    }

    fn of<'a>(&self, access: &'a Access) -> (Option<&'a str>, Option<(&'static str, &'a str)>) {
        let decision = access.decide(&Asked::new(&self.0, Some(&self.1), 8080));
        let dry_run = decision.dry_run.map(|(verdict, rule)| (verdict.token(), &**rule));
        (decision.refused_by.map(|rule| &**rule), dry_run)
    }
}

fn refused<'a>(access: &'a Access, peer: &str, method: &str, path: &str) -> Option<&'a str> {
    Request::new(peer, method, path, &[]).of(access).0
}

#[test]
fn without_rules_there_is_nothing_to_ask() {
    assert!(Access::new(&config::Access::default(), &Registry::default().metrics()).is_none());
}

#[test]
fn deny_comes_before_allow_and_allow_refuses_the_rest() {
    let rules = access(&format!(
        "allow: [{{identity: \"{ALPHA}\"}}, {{name: readers, namespace: other, method: [GET, HEAD]}}], \
         deny: [{{name: no-admin, path: {{prefix: /admin}}, except: {{identity: \"{OMEGA}\"}}}}]"
    ));
    assert_eq!(refused(&rules, ALPHA, "POST", "/a"), None);
    assert_eq!(refused(&rules, ALPHA, "POST", "/admin"), Some("no-admin"));
    assert_eq!(refused(&rules, ALPHA, "POST", "/administer"), None);
    assert_eq!(refused(&rules, OMEGA, "GET", "/admin/x"), None);
    assert_eq!(refused(&rules, OMEGA, "POST", "/a"), Some(UNMATCHED));
    assert_eq!(refused(&rules, "spiffe://cluster.local/ns/third/sa/alpha", "GET", "/"), Some(UNMATCHED));
    assert_eq!(rules.allow[0].counts[0].read(), 2);
    assert_eq!(rules.allow[1].counts[0].read(), 1);
    assert_eq!(rules.deny[0].counts[0].read(), 1);
    assert_eq!(rules.unmatched.counts[0].read(), 2);
    let nobody = access("allow: []");
    assert_eq!(refused(&nobody, ALPHA, "GET", "/"), Some(UNMATCHED));
    let only_deny = access("deny: [{method: DELETE}]");
    assert_eq!(refused(&only_deny, ALPHA, "DELETE", "/"), Some("deny-1"));
    assert_eq!(refused(&only_deny, ALPHA, "GET", "/"), None);
}

#[test]
fn dry_runs_decide_nothing_and_say_what_they_would() {
    let rules = access(&format!(
        "allow: [{{identity: \"{ALPHA}\"}}, {{name: soon, identity: \"{OMEGA}\", dry_run: true}}], \
         deny: [{{name: trial, path: {{exact: /x}}, dry_run: true}}, {{name: real, path: {{exact: /y}}}}]"
    ));
    let ask = |peer, path| Request::new(peer, "GET", path, &[]).of(&rules);
    assert_eq!(ask(ALPHA, "/"), (None, None));
    assert_eq!(ask(ALPHA, "/x"), (None, Some(("would_deny", "trial"))));
    assert_eq!(ask(ALPHA, "/y"), (Some("real"), None));
    assert_eq!(ask(OMEGA, "/"), (Some(UNMATCHED), Some(("would_allow", "soon"))));
    assert_eq!(rules.deny[0].counts.each_ref().map(|count| count.read()), [0, 1]);
    let trial = access(&format!("allow: [{{name: soon, identity: \"{ALPHA}\", dry_run: true}}]"));
    let ask = |peer| Request::new(peer, "GET", "/", &[]).of(&trial);
    assert_eq!(ask(ALPHA), (None, None));
    assert_eq!(ask(OMEGA), (None, Some(("would_deny", UNMATCHED))));
}

#[test]
fn fields_of_several_lines_are_what_any_reader_makes_of_them() {
    let rules = access(
        "allow: [{headers: [{name: x-role, value: user}]}], \
         deny: [{name: no-root, headers: [{name: x-role, value: root}]}, {name: hosts, headers: [{name: host, regex: '.*\\.evil'}]}]",
    );
    let ask = |lines: &[(&'static str, &'static str)]| {
        let request = Request::new(ALPHA, "GET", "/", lines);
        request.of(&rules).0
    };
    assert_eq!(ask(&[("x-role", "user")]), None);
    assert_eq!(ask(&[]), Some(UNMATCHED));
    assert_eq!(ask(&[("x-role", "user"), ("x-role", "user")]), None);
    assert_eq!(ask(&[("x-role", "user"), ("x-role", "guest")]), Some(UNMATCHED));
    assert_eq!(ask(&[("x-role", "user,guest")]), Some(UNMATCHED));
    assert_eq!(ask(&[("x-role", "user"), ("x-role", "root")]), Some("no-root"));
    assert_eq!(ask(&[("x-role", "user, root")]), Some("no-root"));
    let mut request = Request::new(ALPHA, "GET", "/", &[("x-role", "user")]);
    request.0.authority = Some("Www.EVIL:80".parse().expect("an authority"));
    assert_eq!(request.of(&rules).0, Some("hosts"));
}

#[test]
fn a_port_is_the_applications() {
    let rules = access("deny: [{name: other, port: [1, 2]}, {name: own, port: 8080, method: PUT}]");
    assert_eq!(refused(&rules, ALPHA, "PUT", "/"), Some("own"));
    assert_eq!(refused(&rules, ALPHA, "GET", "/"), None);
}

type Reader = fn(&[u8]) -> Vec<u8>;

/// What applications do to a path before they look at it, in any order.
const READERS: [Reader; 10] = [
    |path| {
        let mut text = Vec::new();
        let mut at = 0;
        while at < path.len() {
            let hex = |i: usize| path.get(i).and_then(|b| char::from(*b).to_digit(16));
            match (path[at], hex(at + 1), hex(at + 2)) {
                (b'%', Some(high), Some(low)) => {
                    text.push((high * 16 + low) as u8);
                    at += 3;
                }
                (b, ..) => {
                    text.push(b);
                    at += 1;
                }
            }
        }
        text
    },
    // Parameters of elements.
    |path| {
        path.split(|b| *b == b'/').map(|e| e.split(|b| *b == b';').next().unwrap_or(e)).collect::<Vec<_>>().join(&b'/')
    },
    |path| {
        let mut path = path.to_vec();
        path.dedup_by(|b, before| *b == b'/' && *before == b'/');
        path
    },
    |path| {
        let mut out: Vec<&[u8]> = Vec::new();
        for element in path.split(|b| *b == b'/') {
            match element {
                b"." => {}
                b".." if out.len() > 1 => drop(out.pop()),
                b".." => {}
                element => out.push(element),
            }
        }
        out.join(&b'/')
    },
    |path| path.iter().map(|b| if *b == b'\\' { b'/' } else { *b }).collect(),
    |path| path.split(|b| *b == 0).next().unwrap_or(path).to_vec(),
    |path| path.split(|b| *b == b'?').next().unwrap_or(path).to_vec(),
    |path| path.split(|b| *b == b'#').next().unwrap_or(path).to_vec(),
    // Overlong forms, as lenient decoders of UTF-8 read them.
    |path| {
        let text: Vec<u8> = path.to_vec();
        let mut out = Vec::new();
        let mut at = 0;
        while at < text.len() {
            match (text[at], text.get(at + 1)) {
                (lead @ 0xc0..=0xc1, Some(next @ 0x80..=0xbf)) => {
                    out.push((lead & 1) << 6 | next & 0x3f);
                    at += 2;
                }
                (b, _) => {
                    out.push(b);
                    at += 1;
                }
            }
        }
        out
    },
    |path| path.strip_suffix(b"/").unwrap_or(path).to_vec(),
];

/// A path spelled in another way, by someone who wants it to look like something else.
fn respell(path: &str, chance: &mut fastrand::Rng) -> String {
    let mut out = String::new();
    let noise = [
        "/", "/.", "/x/..", ";x=1", "/;y", "%2f", "%5c", "\\", "%00", "%3f", "%23", "%3b", "/%2e", "%2f..%2f", "/z",
        "%20",
    ];
    for c in path.chars() {
        if chance.u8(..12) == 0 {
            out.push_str(noise[chance.usize(..noise.len())]);
        }
        match chance.u8(..16) {
            0 => out.push_str(&format!("%{:02x}", c as u32)),
            1 => out.push_str(&format!("%{:02X}", c as u32)),
            2 => out.push_str(&format!("%25{:02x}", c as u32)),
            3 => out.push(if c.is_ascii_lowercase() { c.to_ascii_uppercase() } else { c }),
            4 => out.push_str(&format!("%c1%{:02x}", 0x80 | (c as u32 & 0x3f))),
            _ => out.push(c),
        }
    }
    if chance.u8(..4) == 0 {
        out.push_str(noise[chance.usize(..noise.len())]);
    }
    if out.starts_with('/') { out } else { format!("/{out}") }
}

/// What an application takes a path for.
fn read(path: &str, chance: &mut fastrand::Rng) -> Vec<u8> {
    let mut text = path.as_bytes().to_vec();
    for _ in 0..chance.usize(..7) {
        text = READERS[chance.usize(..READERS.len())](&text);
    }
    text
}

fn is_under(path: &[u8], prefix: &[u8]) -> bool {
    path.len() >= prefix.len()
        && path[..prefix.len()].eq_ignore_ascii_case(prefix)
        && matches!(path[prefix.len()..], [] | [b'/', ..])
}

#[test]
fn no_spelling_of_a_path_gets_around_a_rule_that_refuses_it() {
    let rules = access("deny: [{path: [{prefix: /admin}, {exact: /v1/secret}, {regex: '/files/[a-z]+/private'}]}]");
    let mut chance = fastrand::Rng::with_seed(7);
    let (mut hit, mut passed) = (0, 0);
    for _ in 0..100_000 {
        let path = ["/admin/keys", "/admin", "/v1/secret", "/files/abc/private", "/x/y"][chance.usize(..5)];
        let spelled = respell(path, &mut chance);
        if PathAndQuery::try_from(spelled.as_str()).is_err() {
            continue;
        }
        let refused = refused(&rules, ALPHA, "GET", &spelled).is_some();
        let taken = read(&spelled, &mut chance);
        let pattern = taken.strip_prefix(b"/files/").and_then(|rest| rest.strip_suffix(b"/private"));
        let meant = is_under(&taken, b"/admin")
            || taken.eq_ignore_ascii_case(b"/v1/secret")
            || pattern.is_some_and(|name| !name.is_empty() && name.iter().all(u8::is_ascii_alphabetic));
        assert!(refused || !meant, "{spelled} is read as {}", String::from_utf8_lossy(&taken));
        hit += u32::from(meant);
        passed += u32::from(!refused);
    }
    assert!(hit > 3_000 && passed > 3_000, "the cases say something: {hit} were meant, {passed} passed");
}

#[test]
fn no_spelling_of_another_path_is_let_in_by_a_rule_for_one() {
    let rules = access("allow: [{path: [{prefix: /public}, {exact: /v1/open}, {regex: '/files/[a-z]+/shared'}]}]");
    let mut chance = fastrand::Rng::with_seed(8);
    let mut let_in = 0;
    for _ in 0..100_000 {
        let path = [
            "/public/x",
            "/public",
            "/public/a/../../admin",
            "/v1/open",
            "/files/abc/shared",
            "/public;/../admin",
            "/admin",
        ][chance.usize(..7)];
        let spelled = respell(path, &mut chance);
        if PathAndQuery::try_from(spelled.as_str()).is_err() || refused(&rules, ALPHA, "GET", &spelled).is_some() {
            continue;
        }
        let_in += 1;
        let taken = read(&spelled, &mut chance);
        let taken = READERS[9](&taken);
        let pattern = taken.strip_prefix(b"/files/").and_then(|rest| rest.strip_suffix(b"/shared"));
        let meant = is_under(&taken, b"/public")
            || taken == b"/v1/open"
            || pattern.is_some_and(|name| !name.is_empty() && name.iter().all(u8::is_ascii_lowercase));
        assert!(meant, "{spelled} is read as {}", String::from_utf8_lossy(&taken));
    }
    assert!(let_in > 700, "the cases say something: {let_in} were let in");
}
