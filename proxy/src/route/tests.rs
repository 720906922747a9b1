//! The conformance cases of the Gateway API (`conformance/tests/httproute-*.yaml`), as far as they are about decisions.

use std::cell::Cell;
use std::path::Path;

use http::uri::{Authority, PathAndQuery};
use http::{HeaderName, HeaderValue, Method};

use super::*;
use crate::config::resolve::Host;
use crate::fault::Reason;
use crate::http::Fields;
use crate::http::rules::MAX_TARGET_BYTES;

/// The table of these rules, as they stand in the file. Backends are `v1` to `v3`, in this order.
fn table(rules: &str) -> Table {
    let service = |name: &str| format!("  {name}: {{endpoints: ['127.0.0.1:1'], link: plaintext}}\n");
    let services: String = ["v1", "v2", "v3", "parent"].map(service).concat();
    let rules: String =
        rules.lines().map(|line| format!("      {}\n", line.strip_prefix("    ").unwrap_or(line))).collect();
    let text = format!(
        "node: {{service: a}}\noutbound: {{}}\nservices:\n{services}routes:\n  - service: parent\n    rules:\n{rules}"
    );
    let host = Host { variable: &|_| None, exists: &|_| true, cores: 1 };
    let (config, _) =
        crate::config::parse(&text, "test.yaml", Path::new("/"), &host).unwrap_or_else(|p| panic!("{p:?}\n{text}"));
    Table::new(&config.routes[0].rules)
}

/// `[METHOD ]TARGET[ name:value]...` to `host`.
fn request_to(host: &str, text: &str) -> RequestHead {
    let mut words = text.split(' ').peekable();
    let method = words.next_if(|word| !word.starts_with('/')).map_or(Method::GET, |m| m.parse().expect("a method"));
    let path: PathAndQuery = words.next().expect("a target").parse().expect("a target");
    let mut headers = Fields::new();
    for word in words {
        let (name, value) = word.split_once(':').expect("a field");
        headers.append(name.parse::<HeaderName>().expect("a name"), value.parse::<HeaderValue>().expect("a value"));
    }
    let authority = Some(Authority::try_from(host).expect("a host"));
    RequestHead { method, authority, path, headers, ..RequestHead::unread() }
}

fn request(text: &str) -> RequestHead {
    request_to("example.com", text)
}

/// Which backend a request gets: 1 to 3, 0 for none.
fn backend(table: &Table, head: &RequestHead) -> usize {
    table.find(head).map_or(0, |found| found.rule.to[0].service + 1)
}

fn check(rules: &str, cases: &[(&str, usize)]) {
    let table = table(rules);
    for (text, wanted) in cases {
        assert_eq!(backend(&table, &request(text)), *wanted, "{text}");
    }
}

#[test]
fn matching() {
    check(
        "- {matches: [{path: {prefix: /}}, {headers: [{name: version, value: one}]}], to: [{service: v1}]}
- {matches: [{path: {prefix: /v2}}, {headers: [{name: version, value: two}]}], to: [{service: v2}]}",
        &[
            ("/", 1),
            ("/example", 1),
            ("/ version:one", 1),
            ("/v2", 2),
            ("/v2/example", 2),
            ("/ version:two", 2),
            ("/v2/", 2),
            ("/v2example", 1),
            ("/foo/v2/example", 1),
        ],
    );
}

#[test]
fn paths_in_order() {
    check(
        "- {matches: [{path: {exact: /match/exact/one}}], to: [{service: v3}]}
- {matches: [{path: {exact: /match/exact}}], to: [{service: v2}]}
- {matches: [{path: {exact: /match}}], to: [{service: v1}]}
- {matches: [{path: {prefix: /match/prefix/one/}}], to: [{service: v2}]}
- {matches: [{path: {prefix: /match/prefix/}}], to: [{service: v1}]}
- {matches: [{path: {prefix: /match}}], to: [{service: v3}]}",
        &[
            ("/match/exact/one", 3),
            ("/match/exact", 2),
            ("/match", 1),
            ("/match/prefix/one/any", 2),
            ("/match/prefix/any", 1),
            ("/match/any", 3),
            ("/match/prefix", 1),
            ("/match/prefixes", 3),
            ("/match?exact", 1),
            ("/", 0),
            ("/MATCH", 0),
        ],
    );
}

#[test]
fn headers() {
    check(
        "- {matches: [{headers: [{name: version, value: one}]}], to: [{service: v1}]}
- {matches: [{headers: [{name: version, value: two}]}], to: [{service: v2}]}
- {matches: [{headers: [{name: version, value: two}, {name: Color, value: orange}]}], to: [{service: v1}]}
- {matches: [{headers: [{name: color, value: blue}]}, {headers: [{name: color, value: green}]}], to: [{service: v1}]}
- {matches: [{headers: [{name: color, value: red}]}, {headers: [{name: color, value: yellow}]}], to: [{service: v2}]}
- {matches: [{headers: [{name: x-id, regex: '[0-9]+'}]}], to: [{service: v3}]}",
        &[
            ("/ version:one", 1),
            ("/ version:two", 2),
            ("/ version:two color:orange", 1),
            ("/ VERSION:two Color:orange", 1),
            ("/ color:blue", 1),
            ("/ color:green", 1),
            ("/ color:red", 2),
            ("/ color:yellow", 2),
            ("/ color:purple", 0),
            ("/ color:Blue", 0),
            ("/", 0),
            ("/ x-id:12", 3),
            ("/ x-id:12a", 0),
            // Lines of one name are one value (RFC 9110 section 5.3).
            ("/ color:red color:blue", 0),
        ],
    );
}

#[test]
fn methods() {
    check(
        "- {matches: [{method: POST}], to: [{service: v1}]}
- {matches: [{method: GET}], to: [{service: v2}]}
- {matches: [{path: {prefix: /path1}, method: GET}], to: [{service: v1}]}
- {matches: [{headers: [{name: version, value: one}], method: PUT}], to: [{service: v2}]}
- {matches: [{path: {prefix: /path2}, headers: [{name: version, value: two}], method: POST}], to: [{service: v3}]}
- {matches: [{path: {prefix: /path5}}], to: [{service: v1}]}
- {matches: [{method: PATCH}], to: [{service: v2}]}
- {matches: [{headers: [{name: version, value: four}]}], to: [{service: v1}]}",
        &[
            ("POST /", 1),
            ("GET /", 2),
            ("HEAD /", 0),
            ("GET /path1", 1),
            ("PUT / version:one", 2),
            ("POST /path2 version:two", 3),
            // The path counts more than the method, the method more than fields.
            ("PATCH /path5", 1),
            ("PATCH / version:four", 2),
        ],
    );
}

#[test]
fn parameters() {
    check(
        "- {matches: [{query: [{name: animal, value: whale}]}], to: [{service: v1}]}
- {matches: [{query: [{name: animal, value: dolphin}]}], to: [{service: v2}]}
- {matches: [{query: [{name: animal, value: dolphin}, {name: color, value: blue}]}], to: [{service: v3}]}
- {matches: [{query: [{name: ANIMAL, value: Whale}]}], to: [{service: v3}]}
- {matches: [{path: {prefix: /path5}}], to: [{service: v1}]}
- {matches: [{query: [{name: animal, value: hydra}]}], to: [{service: v3}]}
- {matches: [{headers: [{name: version, value: four}]}], to: [{service: v1}]}
- {matches: [{query: [{name: id, regex: '[0-9]+'}]}], to: [{service: v2}]}",
        &[
            ("/?animal=whale", 1),
            ("/?animal=dolphin", 2),
            ("/?animal=dolphin&color=blue", 3),
            ("/?color=blue&animal=dolphin", 3),
            ("/?ANIMAL=Whale", 3),
            ("/?animal=whale&otherparam=irrelevant", 1),
            ("/?animal=whale&animal=dolphin", 1),
            ("/?animal=dog", 0),
            ("/?animal=whaledolphin", 0),
            ("/?animal", 0),
            ("/", 0),
            ("/path5?animal=hydra", 1),
            ("/?animal=hydra version:four", 1),
            ("/?id=7", 2),
            ("/?id=7x", 0),
        ],
    );
}

#[test]
fn patterns_come_last() {
    let rules = "- {matches: [{path: {regex: '/v[0-9]+/.*'}}], to: [{service: v1}]}
- {matches: [{path: {prefix: /}, method: POST}], to: [{service: v2}]}
- {matches: [{path: {regex: '/.*'}, headers: [{name: a, value: b}]}], to: [{service: v3}]}";
    let cases = [("/v1/x", 1), ("POST /v1/x", 2), ("/v1/x a:b", 3), ("/v1", 0), ("/xv1/x", 0)];
    check(rules, &cases);
    // So many that they are asked as one.
    let many: String =
        (0..20).map(|n| format!("\n- {{matches: [{{path: {{regex: '/n{n}'}}}}], to: [{{service: v3}}]}}")).collect();
    check(&format!("{rules}{many}"), &[&cases[..], &[("/n19", 3), ("/n20", 0)]].concat());
}

#[test]
fn hosts() {
    let table = table(
        "- {matches: [{host: very.specific.com, path: {prefix: /only}}], to: [{service: v1}]}
- {matches: [{host: '*.specific.com'}], to: [{service: v2}]}
- {matches: [{host: '*.com', method: GET}], to: [{service: v3}]}",
    );
    for (host, path, wanted) in [
        ("very.specific.com", "/only", 1),
        ("Very.Specific.com:8080", "/only", 1),
        // What the most specific host has no rule for, the next may have one for.
        ("very.specific.com", "/", 2),
        ("a.b.specific.com", "/", 2),
        ("specific.com", "/", 3),
        ("specific.com", "POST /", 0),
        ("com", "/", 0),
        ("example.net", "/", 0),
    ] {
        assert_eq!(backend(&table, &request_to(host, path)), wanted, "{host} {path}");
    }
}

#[test]
fn the_first_of_equals() {
    check(
        "- {matches: [{path: {prefix: /a}}], to: [{service: v1}]}
- {matches: [{path: {prefix: /a/}}], to: [{service: v2}]}
- {matches: [{path: {prefix: /b}}, {path: {prefix: /b}, method: GET}], to: [{service: v3}]}
- {matches: [{path: {prefix: /b}, method: GET}], to: [{service: v1}]}",
        &[("/a", 1), ("/a/", 1), ("/b", 3), ("POST /b", 3)],
    );
}

/// Many rules for one path are told apart by a header, in the same order as a few.
#[test]
fn many_matches_of_one_path() {
    let many =
        |n: usize| format!("- {{matches: [{{headers: [{{name: x-tenant, value: t{n}}}]}}], to: [{{service: v2}}]}}\n");
    let many: String = (0..50).map(many).collect();
    check(
        &format!(
            "{many}- {{matches: [{{headers: [{{name: x-tenant, value: t7}}, {{name: a, value: b}}]}}], to: [{{service: v1}}]}}
- {{matches: [{{headers: [{{name: x-tenant, regex: 't.*'}}]}}], to: [{{service: v3}}]}}
- {{matches: [{{path: {{prefix: /}}}}], to: [{{service: v1}}]}}"
        ),
        &[("/ x-tenant:t49", 2), ("/ x-tenant:t50", 3), ("/ x-tenant:t7 a:b", 1), ("/ x-tenant:t7", 2), ("/ x-tenant:u", 1)],
    );
}

#[test]
fn shares() {
    let backends = |weights: &[u32]| -> Vec<Backend> {
        weights.iter().enumerate().map(|(service, &weight)| Backend { service, weight }).collect()
    };
    let mut chance = fastrand::Rng::with_seed(7);
    let (three, mut counts) = (backends(&[70, 30, 0]), [0; 3]);
    for _ in 0..10_000 {
        counts[pick(&three, |total| chance.u64(..total)).expect("one").service] += 1;
    }
    assert!((6800..7200).contains(&counts[0]) && counts[2] == 0, "{counts:?}");
    let edges = backends(&[0, 2, 1]);
    let picked = |n| pick(&edges, |total| if total == 3 { n } else { panic!("{total}") }).map(|b| b.service);
    assert_eq!([picked(0), picked(1), picked(2)], [Some(1), Some(1), Some(2)]);
    assert_eq!(pick(&backends(&[0, 0]), |_| 0), None);
    assert_eq!(pick(&[], |_| 0), None);
    assert!(pick(&backends(&[1_000_000; 16]), |total| total - 1).is_some_and(|b| b.service == 15));
}

#[test]
fn changes_of_fields() {
    let table = table(
        "- filters: [{request_headers: {set: [{name: X-Set, value: new}], add: [{name: x-add, value: more}], remove: [x-remove]}}]",
    );
    let changed = |text: &str| {
        let mut head = request(text);
        let changes = &table.find(&head).expect("a rule").rule.request;
        fields(&mut head.headers, changes);
        let mut lines: Vec<_> =
            head.headers.iter().map(|(n, v)| format!("{n}:{}", v.to_str().expect("text"))).collect();
        lines.sort();
        lines.join(" ")
    };
    assert_eq!(changed("/"), "x-add:more x-set:new");
    assert_eq!(changed("/ x-set:old x-set:older x-add:some X-Remove:it a:b"), "a:b x-add:more x-add:some x-set:new");
}

/// The location of a redirect by a rule with this filter, or the target of the request that it makes.
fn made(rule: &str, host: &str, text: &str) -> String {
    let table = table(&format!("- {rule}"));
    let mut head = request_to(host, text);
    let Found { rule, prefix, .. } = table.find(&head).expect("a rule");
    match (&rule.redirect, &rule.rewrite) {
        (Some(change), _) => {
            let answer = redirect(&head, change, prefix).expect("an answer");
            format!("{} {}", answer.status.as_u16(), answer.headers["location"].to_str().expect("text"))
        }
        (None, Some(change)) => {
            rewrite(&mut head, change, prefix).expect("a target");
            format!("{}{}", head.authority.expect("an authority"), head.path)
        }
        (None, None) => panic!("changes nothing"),
    }
}

#[test]
fn redirects() {
    let redirect =
        |settings: &str, host: &str, text: &str| made(&format!("filters: [{{redirect: {settings}}}]"), host, text);
    for (settings, location) in [
        ("{host: example.org}", "302 http://example.org/x?q=1"),
        ("{status: 301}", "301 http://example.com/x?q=1"),
        ("{host: example.org, status: 308}", "308 http://example.org/x?q=1"),
        ("{port: 8083}", "302 http://example.com:8083/x?q=1"),
        ("{port: 80}", "302 http://example.com/x?q=1"),
        ("{scheme: https}", "302 https://example.com/x?q=1"),
        ("{scheme: https, port: 443}", "302 https://example.com/x?q=1"),
        ("{scheme: https, port: 8443}", "302 https://example.com:8443/x?q=1"),
        ("{scheme: http, port: 443}", "302 http://example.com:443/x?q=1"),
        ("{path: {full: /y}}", "302 http://example.com/y?q=1"),
    ] {
        assert_eq!(redirect(settings, "example.com", "/x?q=1"), location, "{settings}");
    }
    assert_eq!(
        redirect("{status: 301}", "example.com:8080", "/"),
        "301 http://example.com:8080/",
        "the port that was asked for"
    );
    assert_eq!(redirect("{scheme: https}", "example.com:8080", "/"), "302 https://example.com/");
}

#[test]
fn prefixes_are_replaced() {
    // The table of the Gateway API (`HTTPPathModifier.replacePrefixMatch`).
    for (path, matched, new, changed) in [
        ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
        ("/foo", "/foo", "/xyz", "/xyz"),
        ("/foo/", "/foo", "/xyz", "/xyz/"),
        ("/foo/bar", "/foo", "''", "/bar"),
        ("/foo/", "/foo", "''", "/"),
        ("/foo", "/foo", "''", "/"),
        ("/foo/", "/foo", "/", "/"),
        ("/foo", "/foo", "/", "/"),
        ("/", "/", "/xyz", "/xyz/"),
        ("/bar?q=/foo", "/", "/xyz", "/xyz/bar?q=/foo"),
    ] {
        let rule = |kind: &str| {
            format!(
                "{{matches: [{{path: {{prefix: {matched}}}}}], filters: [{{{kind}: {{path: {{prefix: {new}}}}}}}]}}"
            )
        };
        assert_eq!(made(&rule("rewrite"), "h", path), format!("h{changed}"), "{matched} by {new} in {path}");
        assert_eq!(
            made(&rule("redirect"), "h", path),
            format!("302 http://h{changed}"),
            "{matched} by {new} in {path}"
        );
    }
}

#[test]
fn rewrites() {
    let rewrite =
        |settings: &str, text: &str| made(&format!("filters: [{{rewrite: {settings}}}]"), "example.com:80", text);
    assert_eq!(rewrite("{host: one.example.org}", "/x?q"), "one.example.org/x?q");
    assert_eq!(rewrite("{path: {full: /one}}", "/full/two?q=1"), "example.com:80/one?q=1");
    assert_eq!(rewrite("{host: one.example.org, path: {full: /}}", "/full/two"), "one.example.org/");
}

#[test]
fn a_target_does_not_grow_over_the_limit() {
    let new = format!("/{}", "n".repeat(999));
    let table = table(&format!("- filters: [{{rewrite: {{path: {{prefix: {new}}}}}}}]"));
    for (length, fine) in [(MAX_TARGET_BYTES - 1000, true), (MAX_TARGET_BYTES - 999, false)] {
        let mut head = request(&format!("/{}", "x".repeat(length - 1)));
        let Found { rule, prefix, .. } = table.find(&head).expect("a rule");
        let rewritten = rewrite(&mut head, rule.rewrite.as_ref().expect("a rewrite"), prefix);
        assert_eq!(rewritten.map_err(|fault| fault.reason), if fine { Ok(()) } else { Err(Reason::UriTooLong) });
    }
}

/// A path of nothing but slashes costs no more than the rules are deep.
#[test]
fn odd_paths() {
    let slashes = format!("/{}", "/".repeat(16_000));
    check(
        "- {matches: [{path: {prefix: /a/b}}], to: [{service: v1}]}",
        &[(&slashes, 0), ("//a/b", 0), ("/a//b", 0), ("/a/b//", 1)],
    );
    let deep = "/a".repeat(500);
    let rules = format!("- {{matches: [{{path: {{prefix: {deep}}}}}], to: [{{service: v1}}]}}");
    check(&rules, &[(&deep, 1), (&"/a".repeat(8000), 1), (&"/a".repeat(499), 0)]);
    let mut star = request("OPTIONS /");
    star.path = PathAndQuery::from_static("*");
    assert_eq!(backend(&table("- {to: [{service: v1}]}"), &star), 1, "a rule for everything");
}

/// The rule with this number.
type Rules<'a> = &'a dyn Fn(usize) -> String;

thread_local! {
    /// How many matches were compared with a request.
    pub(super) static MET: Cell<usize> = const { Cell::new(0) };
}

/// What it takes to find a rule does not grow with their number.
#[test]
fn thousands_of_rules_cost_what_ten_do() {
    let compared = |count: usize, rule: Rules<'_>, head: &RequestHead| {
        let table = table(&(0..count).map(rule).collect::<Vec<_>>().join("\n"));
        MET.set(0);
        assert!(table.find(head).is_some());
        MET.get()
    };
    let kinds: [(&str, Rules<'_>, &str); 4] = [
        ("prefixes", &|n| format!("- {{matches: [{{path: {{prefix: /api/s{n}/v1}}}}]}}"), "/api/s9/v1/x"),
        ("exact paths", &|n| format!("- {{matches: [{{path: {{exact: /api/s{n}}}}}]}}"), "/api/s9"),
        ("headers", &|n| format!("- {{matches: [{{headers: [{{name: x-tenant, value: t{n}}}]}}]}}"), "/ x-tenant:t9"),
        ("hosts", &|n| format!("- {{matches: [{{host: h{n}.example}}]}}"), "/"),
    ];
    for (what, rule, text) in kinds {
        let head = request_to("h9.example", text);
        assert_eq!((compared(10, rule, &head), compared(10_000, rule, &head)), (1, 1), "{what}");
    }
}

/// Lines of one name are one value: it is looked for once, however many they are.
#[test]
fn a_name_of_many_lines_is_looked_for_once() {
    let tenants = (0..10).map(|n| format!("t{n}")).collect::<Vec<_>>().join(",");
    let rule = |n| format!("- {{matches: [{{headers: [{{name: x-tenant, value: \"{tenants}-{n}\"}}]}}]}}");
    let table = table(&(0..10).map(rule).collect::<Vec<_>>().join("\n"));
    let lines = format!("/ {}", format!("x-tenant:{tenants}-3").replace(',', " x-tenant:"));
    MET.set(0);
    assert_eq!(table.find(&request(&lines)).map(|found| found.number), Some(3));
    assert_eq!(MET.get(), 1);
}

/// `conformance/tests/grpcroute-exact-method-matching.yaml`, and the order of GRPCRoute.
#[test]
fn grpc_methods() {
    check(
        "- {matches: [{grpc: {service: echo.GrpcEcho, method: Echo}}], to: [{service: v1}]}
- {matches: [{grpc: {service: echo.GrpcEcho, method: EchoTwo}}], to: [{service: v2}]}",
        &[
            ("POST /echo.GrpcEcho/Echo", 1),
            ("POST /echo.GrpcEcho/EchoTwo", 2),
            ("POST /echo.GrpcEcho/EchoThree", 0),
            ("POST /echo.GrpcEcho2/Echo", 0),
            ("POST /echo.grpcecho/Echo", 0),
            ("GET /echo.GrpcEcho/Echo", 0),
        ],
    );
    check(
        "- {matches: [{grpc: {method: Echo}}], to: [{service: v3}]}
- {matches: [{grpc: {service: echo.GrpcEcho}}], to: [{service: v2}]}
- {matches: [{grpc: {service: echo.GrpcEcho, method: Echo}}], to: [{service: v1}]}",
        &[
            ("POST /echo.GrpcEcho/Echo", 1),
            ("POST /echo.GrpcEcho/EchoTwo", 2),
            ("POST /echo.GrpcEcho2/Echo", 3),
            ("POST /echo.GrpcEcho2/Echo2", 0),
            ("POST /a/b/Echo", 0),
        ],
    );
    check(
        "- {matches: [{grpc: {service: 'echo[.].*', method: Echo|EchoTwo, type: regex}}], to: [{service: v1}]}
- {matches: [{grpc: {method: 'Echo.*', type: regex}}], to: [{service: v2}]}
- {matches: [{grpc: {service: a.b}}], to: [{service: v3}]}",
        &[
            ("POST /echo.GrpcEcho/EchoTwo", 1),
            ("POST /echo.GrpcEcho/EchoThree", 2),
            ("POST /echoxGrpcEcho/Echo", 2),
            ("POST /a.b/Echo", 3),
            ("POST /axb/Some", 0),
            ("POST /echo.GrpcEcho/Some", 0),
        ],
    );
}

/// `conformance/tests/grpcroute-header-matching.yaml`.
#[test]
fn grpc_headers() {
    check(
        "- {matches: [{grpc: {service: e.E}, headers: [{name: version, value: one}]}], to: [{service: v1}]}
- {matches: [{grpc: {service: e.E}, headers: [{name: version, value: two}]}], to: [{service: v2}]}
- {matches: [{grpc: {service: e.E}, headers: [{name: version, value: two}, {name: color, value: orange}]}], to: [{service: v1}]}
- {matches: [{headers: [{name: color, value: blue}]}, {headers: [{name: color, value: green}]}], to: [{service: v1}]}
- {matches: [{headers: [{name: color, value: red}]}, {headers: [{name: color, value: yellow}]}], to: [{service: v2}]}",
        &[
            ("POST /e.E/Echo version:one", 1),
            ("POST /e.E/Echo version:two", 2),
            ("POST /e.E/Echo version:two color:orange", 1),
            ("POST /e.E/Echo color:blue", 1),
            ("POST /e.E/Echo color:green", 1),
            ("POST /e.E/Echo color:red", 2),
            ("POST /e.E/Echo color:yellow", 2),
            ("POST /e.E/Echo color:purple", 0),
            ("POST /e.E/Echo", 0),
            ("POST /e.E/Echo version:three", 0),
        ],
    );
}
