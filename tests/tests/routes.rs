//! Filters of services and of routes, and what else routes do.

#[path = "routes/on_purpose.rs"]
mod on_purpose;

use lacis_tests::wire::Response;
use lacis_tests::{App, Link, Mesh, Pair, SidecarBuilder, guest, on_links};
use serde_json::{Value, json};

/// A filter that adds `x-stamp` with its configuration to the heads of requests and responses. A configuration that
/// begins with `!` has it trap instead, one with `=` answer by itself.
const STAMP: &str = r#"
(module
  (import "env" "proxy_add_header_map_value" (func $add (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_get_buffer_bytes" (func $buffer (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_send_local_response"
    (func $answer (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (global $heap (mut i32) (i32.const 65536))
  (data (i32.const 0) "x-stamp")
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "proxy_on_memory_allocate") (param $size i32) (result i32)
    (local $at i32)
    (local.set $at (global.get $heap))
    (if (i32.gt_u (i32.add (local.get $at) (local.get $size)) (i32.const 131072))
      (then (local.set $at (i32.const 98304))))
    (global.set $heap (i32.and (i32.add (i32.add (local.get $at) (local.get $size)) (i32.const 7)) (i32.const -8)))
    (local.get $at))
  ;; For each context 8 bytes at 4096 + 8 * (id & 4095): pointer and size of its root's configuration.
  (func $slot (param $id i32) (result i32)
    (i32.add (i32.const 4096) (i32.shl (i32.and (local.get $id) (i32.const 4095)) (i32.const 3))))
  (func (export "proxy_on_context_create") (param $id i32) (param $root i32)
    (i64.store (call $slot (local.get $id)) (i64.load (call $slot (local.get $root)))))
  (func (export "proxy_on_configure") (param $id i32) (param $size i32) (result i32)
    (drop (call $buffer (i32.const 7) (i32.const 0) (local.get $size)
      (call $slot (local.get $id)) (i32.add (call $slot (local.get $id)) (i32.const 4))))
    (i32.const 1))
  (func $stamp (param $map i32) (param $id i32)
    (drop (call $add (local.get $map) (i32.const 0) (i32.const 7)
      (i32.load (call $slot (local.get $id))) (i32.load offset=4 (call $slot (local.get $id))))))
  (func (export "proxy_on_request_headers") (param $id i32) (param i32 i32) (result i32)
    (local $first i32)
    (local.set $first (i32.load8_u (i32.load (call $slot (local.get $id)))))
    (if (i32.eq (local.get $first) (i32.const 33)) (then unreachable))
    (if (i32.eq (local.get $first) (i32.const 61))
      (then
        (drop (call $answer (i32.const 418) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
          (i32.const 0) (i32.const 0) (i32.const -1)))
        (return (i32.const 1))))
    (call $stamp (i32.const 0) (local.get $id))
    (i32.const 0))
  (func (export "proxy_on_response_headers") (param $id i32) (param i32 i32) (result i32)
    (call $stamp (i32.const 2) (local.get $id))
    (i32.const 0))
  (func (export "proxy_on_done") (param i32) (result i32) (i32.const 1))
  (func (export "proxy_on_log") (param i32))
  (func (export "proxy_on_delete") (param i32)))
"#;

/// A directory with the module, and a configuration that has a filter for each of these: its name is what it stamps.
fn stamps(names: &[&str]) -> (Mesh, Value) {
    let mesh = Mesh::new();
    mesh.file("stamp.wasm", wat::parse_str(STAMP).expect("a module"));
    let filters: serde_json::Map<String, Value> =
        names.iter().map(|name| ((*name).to_owned(), json!({"module": "stamp.wasm", "config": name}))).collect();
    (mesh, json!({"filters": filters}))
}

/// A pair whose alpha has these filters, and this configuration.
fn stamped(link: Link, names: &[&str], config: Value) -> Pair {
    let (mesh, filters) = stamps(names);
    Pair::inside(mesh, link, App::start(), |alpha| alpha.with(filters).with(config), |delta| delta)
}

/// The stamps on a request, as `/echo` tells them.
fn echoed(answer: &Response) -> Vec<String> {
    let seen: Value = serde_json::from_str(&answer.text()).expect("JSON");
    let fields = seen["fields"].as_array().expect("a list");
    let stamps = fields.iter().filter(|field| field[0] == "x-stamp");
    stamps.map(|field| field[1].as_str().expect("text").to_owned()).collect()
}

on_links! {
    /// The listener's filters first, then those of the service; the response in reverse. Not those of another service.
    [H2, H3] fn a_service_has_filters_of_its_own(link) {
        let config = json!({
            "outbound": {"filters": ["a", "b"]},
            "services": {
                "delta": {"filters": ["c", "d"]},
                "other": {"endpoints": ["127.0.0.1:1"], "filters": ["e"], "link": "h2"},
            },
        });
        let pair = stamped(link, &["a", "b", "c", "d", "e"], config);
        let answer = pair.get("/echo");
        assert_eq!((answer.status(), echoed(&answer)), (200, ["a", "b", "c", "d"].map(str::to_owned).to_vec()));
        assert_eq!(answer.head.all("x-stamp"), ["d", "c", "b", "a"]);
        let answer = lacis_tests::client::get(pair.port(), "whatever", "/echo");
        assert_eq!(answer.head.all("x-stamp"), ["d", "c", "b", "a"], "on the service's own port, too");
    }
}

/// Without filters at the listener; and the same filter in both places runs in both.
#[test]
fn a_filter_may_stand_in_several_places() {
    let mut pair = stamped(Link::Plaintext, &["a"], json!({"services": {"delta": {"filters": ["a"]}}}));
    assert_eq!(echoed(&pair.get("/echo")), ["a"]);
    pair.alpha.reload(json!({"outbound": {"filters": ["a"]}}));
    let answer = pair.get("/echo");
    assert_eq!((echoed(&answer), answer.head.all("x-stamp")), (vec!["a".into(), "a".to_owned()], vec!["a", "a"]));
    pair.alpha.reload(json!({"services": {"delta": {"filters": null}}}));
    assert_eq!(echoed(&pair.get("/echo")), ["a"]);
}

/// What chooses the service stands at the listener; then that service's filters run.
#[test]
fn a_listeners_filter_chooses_the_service_whose_filters_run() {
    let other = App::named("other");
    let (mesh, filters) = stamps(&["a", "b"]);
    let config = json!({
        "filters": {"move": {"module": "builtin:routing",
            "config": {"rules": [{"match": [{"from": {"header": "x-to"}}], "to": [{"service": "other"}]}]}}},
        "outbound": {"filters": ["move"]},
        "services": {
            "delta": {"filters": ["a"]},
            "other": {"filters": ["b"], "endpoints": [other.address().to_string()], "link": "plaintext"},
        },
    });
    let pair = Pair::inside(mesh, Link::Plaintext, App::start(), |a| a.with(filters).with(config), |delta| delta);
    assert_eq!(pair.get("/echo").head.all("x-stamp"), ["a"]);
    let answer = pair.connect().request("GET", "delta", "/echo", &[("x-to", "other")], None);
    assert_eq!((answer.field("x-app"), answer.head.all("x-stamp")), (Some("other"), vec!["b"]));
}

/// An answer of a service's filter passes those before it, and the service never hears of the request.
#[test]
fn a_services_filter_may_answer() {
    let (mesh, filters) = stamps(&["a", "b", "c"]);
    let config = json!({
        "filters": {"d": {"module": "stamp.wasm", "config": "="}},
        "outbound": {"filters": ["a"]},
        "services": {"delta": {"filters": ["b", "d", "c"]}},
    });
    let with = |alpha: SidecarBuilder| alpha.with(filters).with(config);
    let pair = Pair::inside(mesh, Link::Plaintext, App::start(), with, |delta| delta);
    let answer = pair.get("/echo");
    assert_eq!(answer.status(), 418);
    assert_eq!(answer.head.all("x-stamp").last(), Some(&"a"), "{:?}", answer.head);
    assert_eq!(pair.app.requests(), 0);
    let said = |filter, outcome| [("filter", filter), ("outcome", outcome)];
    pair.alpha.counts(1.0, "lacis_filter_requests_total", &said("d", "reply"));
    pair.alpha.counts(0.0, "lacis_filter_requests_total", &[("filter", "c")]);
    pair.alpha.counts(1.0, "lacis_requests_total", &[("destination", "delta"), ("status", "418")]);
}

/// One that cannot run refuses the requests to its service, or lets them pass; others' are as they were.
#[test]
fn a_services_filter_that_fails_harms_its_service_only() {
    for (failure, status) in [("closed", 503), ("open", 200)] {
        let (mesh, filters) = stamps(&["a"]);
        let config = json!({
            "filters": {"bad": {"module": "stamp.wasm", "config": "!", "failure": failure, "vm_id": "of its own"}},
            "outbound": {"filters": ["a"]},
            "services": {"sick": {"endpoints": ["127.0.0.1:1"], "link": "plaintext", "filters": ["bad"]}},
        });
        let app = App::start();
        let endpoint = json!({"services": {"sick": {"endpoints": [app.address().to_string()]}}});
        let with = |alpha: SidecarBuilder| alpha.with(filters).with(config).with(endpoint);
        let pair = Pair::inside(mesh, Link::Plaintext, app, with, |delta| delta);
        let mut client = pair.connect();
        let answer = client.get("sick", "/echo");
        assert_eq!(answer.status(), status, "{failure}");
        assert!(answer.head.all("x-stamp").contains(&"a"), "{failure}: {:?}", answer.head);
        assert_eq!(client.get("delta", "/echo").status(), 200);
    }
}

/// A guest's section, which keeps the head until the body is there.
fn gather() -> Value {
    let mut section = guest("gather");
    section["allow_on_headers_stop_iteration"] = json!(true);
    section
}

on_links! {
    /// Bodies pass the filters of both places, whichever of them waits for the whole or keeps the head back meanwhile.
    [H2, H3] fn bodies_pass_the_filters_of_listener_and_service(link) {
        let filters = json!({"filters": {
            "gather": gather(), "gather-too": gather(), "whole": guest("upper-whole"), "upper": guest("upper"),
            "grow": guest("grow"), "trailers": guest("trailers"),
        }});
        for (listener, service, sent, answered) in [
            // The request is filtered in order, the response in reverse.
            (vec!["gather"], vec!["upper"], "<HELLO>", "<HELLO>"),
            (vec!["gather"], vec!["gather-too"], "<<hello>>", "<<hello>>"),
            (vec!["whole"], vec!["gather"], "<HELLO>", "<HELLO>"),
            (vec![], vec!["gather", "whole"], "<HELLO>", "<HELLO>"),
            (vec!["upper"], vec!["grow"], "HELLO!", "HELLO!!"),
            (vec!["gather"], vec!["grow"], "<hello>!", "<hello>!!"),
            (vec!["gather"], vec!["trailers"], "<hello>", "<hello>"),
        ] {
            let chains = json!({"outbound": {"filters": listener}, "services": {"delta": {"filters": service}}});
            let filters = filters.clone();
            let pair = Pair::with(link, App::start(), |alpha| alpha.with(filters).with(chains.clone()), |delta| delta);
            let mut client = pair.connect();
            let answer = client.request("POST", "delta", "/mirror", &[], Some(b"hello"));
            assert_eq!((answer.status(), &answer.text()[..]), (200, answered), "{chains}");
            assert_eq!(pair.app.seen()[0].length, sent.len() as u64, "{chains}");
            client.send("POST /mirror HTTP/1.1\r\nhost: delta\r\ntransfer-encoding: chunked\r\n\r\n");
            client.send("3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n");
            assert_eq!(client.response("POST").text(), answered, "{chains}");
            // Content with trailers has no end of its own, which these wait for; they pass all the same.
            client.send("POST /mirror HTTP/1.1\r\nhost: delta\r\nconnection: te\r\nte: trailers\r\ntransfer-encoding: chunked\r\n\r\n");
            client.send("5\r\nhello\r\n0\r\nx-sum: 5\r\n\r\n");
            let answer = client.response("POST");
            assert_eq!((answer.text().to_lowercase(), answer.trailer("x-sum")), ("hello".into(), Some("5")), "{chains}");
            assert_eq!(client.get("delta", "/bytes/0").status(), 200, "{chains}");
        }
    }

    /// Who waits to be asked for the content is asked once, by whichever filter wants it first.
    [H2] fn content_that_waits_to_be_asked_for(link) {
        let filters = json!({"filters": {"gather": gather(), "whole": guest("upper-whole")}});
        for (listener, service) in [(vec!["gather"], vec!["whole"]), (vec!["whole"], vec!["gather"]), (vec![], vec!["gather"])] {
            let chains = json!({"outbound": {"filters": listener}, "services": {"delta": {"filters": service}}});
            let filters = filters.clone();
            let pair = Pair::with(link, App::start(), |alpha| alpha.with(filters).with(chains.clone()), |delta| delta);
            let mut client = pair.connect();
            client.send("POST /mirror HTTP/1.1\r\nhost: delta\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n");
            assert_eq!(client.head().status(), 100, "{chains}");
            client.send("abc");
            let answer = client.response("POST");
            assert_eq!((answer.status(), answer.text().to_lowercase()), (200, "<abc>".into()), "{chains}");
        }
    }
}

/// The rule `name` of delta.
fn rule(name: &str, more: Value) -> Value {
    let mut rule = json!({"name": name});
    for (key, value) in more.as_object().into_iter().flatten() {
        rule[key] = value.clone();
    }
    rule
}

/// Routes of delta with these rules.
fn routes(rules: &[Value]) -> Value {
    json!({"routes": [{"service": "delta", "rules": rules}]})
}

/// Two applications that alpha reaches without a link, as the services `delta` and `v2`, and these rules of delta.
fn routed(rules: &[Value], more: Value) -> (Pair, App) {
    let v2 = App::named("v2");
    let (mesh, filters) = stamps(&["a", "b", "c", "d"]);
    let with = json!({"services": {"v2": {"endpoints": [v2.address().to_string()], "link": "plaintext"}}});
    let alpha = |alpha: SidecarBuilder| alpha.with(filters).with(with).with(routes(rules)).with(more);
    (Pair::inside(mesh, Link::Plaintext, App::named("delta"), alpha, |delta| delta), v2)
}

fn v2() -> Value {
    json!([{"service": "v2"}])
}

/// The most specific rule counts, by Host and on the service's own port; without one it is 404. Whom the log names.
#[test]
fn rules_choose_the_service() {
    let rules = [
        rule(
            "new",
            json!({"matches": [{"path": {"prefix": "/echo/v2"}}, {"headers": [{"name": "x-v", "value": "2"}]}], "to": v2()}),
        ),
        rule("old", json!({"matches": [{"path": {"prefix": "/echo"}, "method": "GET"}]})),
        rule("host", json!({"matches": [{"host": "delta.example"}, {"host": "*.delta.example"}], "to": v2()})),
    ];
    let (pair, v2) = routed(&rules, json!({}));
    let mut client = pair.connect();
    for (host, path, fields, app, name) in [
        ("delta", "/echo", &[][..], Some("delta"), "delta/old"),
        ("delta", "/echo/v2/x", &[], Some("v2"), "delta/new"),
        ("delta", "/echo/v2x", &[], Some("delta"), "delta/old"),
        ("delta", "/bytes/1", &[("x-v", "2")], Some("v2"), "delta/new"),
        ("DELTA.example", "/echo/host", &[], Some("v2"), "delta/host"),
        ("a.delta.example:80", "/echo/end", &[], Some("v2"), "delta/host"),
        ("v2", "/echo/straight", &[], Some("v2"), ""),
    ] {
        let answer = client.request("GET", host, path, fields, None);
        assert_eq!((answer.status(), answer.field("x-app")), (200, app), "{host} {path}");
        let record = pair.alpha.access(path, |record| record["path"] == path);
        assert_eq!(record["route_name"].as_str().unwrap_or_default(), name, "{record}");
    }
    assert_eq!(lacis_tests::client::get(pair.port(), "whatever", "/echo/v2").field("x-app"), Some("v2"));
    assert_eq!(v2.requests(), 6);
    for (host, path) in [("delta", "/bytes/1"), ("delta.example.org", "/echo"), ("example", "/echo")] {
        let answer = client.get(host, path);
        assert_eq!((answer.status(), answer.field("proxy-status")), (404, Some("alpha; error=destination_not_found")));
    }
    pair.alpha.counts(6.0, "lacis_requests_total", &[("destination", "v2"), ("status", "200")]);
    pair.alpha.counts(1.0, "lacis_requests_total", &[("destination", "delta"), ("status", "404")]);
}

/// Shares as the weights say; nothing for a weight of 0, and nobody for none at all.
#[test]
fn weights_share_requests() {
    let to = |v2: u32, delta: u32| json!([{"service": "v2", "weight": v2}, {"service": "delta", "weight": delta}]);
    let rules = [
        rule("split", json!({"matches": [{"path": {"prefix": "/bytes/1"}}], "to": to(30, 70)})),
        rule("all", json!({"matches": [{"path": {"prefix": "/bytes/2"}}], "to": to(1, 0)})),
        rule("none", json!({"matches": [{"path": {"prefix": "/bytes/3"}}], "to": to(0, 0)})),
    ];
    let (pair, v2) = routed(&rules, json!({}));
    let mut client = pair.connect();
    for _ in 0..400 {
        assert_eq!(client.get("delta", "/bytes/1").status(), 200);
    }
    // 120 expected; six standard deviations are 55.
    let share = v2.requests();
    assert!((65..=175).contains(&share), "{share} of 400");
    for _ in 0..20 {
        client.get("delta", "/bytes/2");
    }
    assert_eq!(v2.requests(), share + 20);
    let answer = client.get("delta", "/bytes/3");
    assert_eq!((answer.status(), answer.field("proxy-status")), (500, Some("alpha; error=proxy_configuration_error")));
}

/// A rule takes `expect` away: the service is not asked, and who waits is told here that its content is wanted.
#[test]
fn who_waits_is_asked_where_a_rule_takes_expect_away() {
    let rules = [rule("all", json!({"filters": [{"request_headers": {"remove": ["expect"]}}]}))];
    for more in [json!({}), json!({"outbound": {"filters": ["a"]}}), json!({"services": {"delta": {"filters": ["b"]}}})]
    {
        let (pair, _v2) = routed(&rules, more);
        let mut client = pair.connect();
        client.send("POST /mirror HTTP/1.1\r\nhost: delta\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n");
        assert_eq!(client.head().status(), 100);
        client.send("abc");
        let answer = client.response("POST");
        assert_eq!((answer.status(), answer.informational.len(), answer.text().as_str()), (200, 0, "abc"));
    }
}

/// Fields change on the way in and out, and another target is asked for; filters of the service see it so.
#[test]
fn heads_are_rewritten() {
    let rules = [rule(
        "new",
        json!({
            "matches": [{"path": {"prefix": "/api/v2"}}],
            "filters": [
                {"request_headers": {"set": [{"name": "x-set", "value": "new"}], "add": [{"name": "x-add", "value": "2"}], "remove": ["x-gone"]}},
                {"response_headers": {"set": [{"name": "x-app", "value": "hidden"}], "add": [{"name": "x-more", "value": "1"}]}},
                {"rewrite": {"host": "inside.example", "path": {"prefix": "/echo"}}},
            ],
        }),
    )];
    // With a filter before, with one after, with none: the head is handed over in another way each time.
    let (listener, service) =
        (json!({"outbound": {"filters": ["a"]}}), json!({"services": {"delta": {"filters": ["b"]}}}));
    for (more, stamps) in [(json!({}), vec![]), (listener, vec!["a"]), (service, vec!["b"])] {
        let (pair, _) = routed(&rules, more);
        let fields = [("x-set", "old"), ("x-add", "1"), ("x-gone", "here"), ("x-kept", "yes")];
        let answer = pair.connect().request("POST", "delta", "/api/v2/x?q=1", &fields, Some(b"body"));
        assert_eq!((answer.status(), answer.field("x-app"), answer.field("x-more")), (200, Some("hidden"), Some("1")));
        assert_eq!(answer.head.all("x-stamp"), stamps);
        let seen = &pair.app.seen()[0];
        assert_eq!((seen.target.as_str(), seen.field("host")), ("/echo/x?q=1", Some("inside.example")));
        assert_eq!((seen.field("x-set"), seen.field("x-gone"), seen.field("x-kept")), (Some("new"), None, Some("yes")));
        let added: Vec<&str> = seen.fields.iter().filter(|(n, _)| n == "x-add").map(|(_, v)| v.as_str()).collect();
        assert_eq!((added, seen.length), (vec!["1", "2"], 4));
    }
}

/// The answer names another place, passes the listener's filters, and nobody else hears of it.
#[test]
fn redirects_are_answers() {
    let rules = [rule(
        "moved",
        json!({
            "matches": [{"path": {"prefix": "/old"}}],
            "filters": [
                {"redirect": {"scheme": "https", "host": "example.org", "path": {"prefix": "/new"}, "status": 308}},
                {"response_headers": {"add": [{"name": "x-more", "value": "1"}]}},
            ],
        }),
    )];
    let (pair, _) = routed(&rules, json!({"outbound": {"filters": ["a"]}, "services": {"delta": {"filters": ["b"]}}}));
    let mut client = pair.connect();
    for method in ["GET", "POST", "HEAD"] {
        let body = (method == "POST").then_some(&b"body"[..]);
        let answer = client.request(method, "delta", "/old/x?q=1", &[], body);
        assert_eq!(
            (answer.status(), answer.field("location")),
            (308, Some("https://example.org/new/x?q=1")),
            "{method}"
        );
        assert_eq!((answer.field("x-more"), answer.head.all("x-stamp")), (Some("1"), vec!["a"]), "{method}");
        assert_eq!(answer.body.len(), 0);
        client = pair.connect();
    }
    assert_eq!(pair.app.requests(), 0);
}

/// One module, and a configuration for each rule: those of the listener, of the rule, of the service it chose, in this order.
#[test]
fn a_rule_has_filters_of_its_own() {
    let filter = |name: &str| json!([{"filter": name}]);
    let rules = [
        rule("one", json!({"matches": [{"path": {"exact": "/echo"}}], "filters": filter("b")})),
        rule("two", json!({"filters": [{"filter": "c"}, {"filter": "b"}], "to": v2()})),
    ];
    let filters =
        json!({"outbound": {"filters": ["a"]}, "services": {"delta": {"filters": ["d"]}, "v2": {"filters": ["a"]}}});
    let (mut pair, _v2) = routed(&rules, filters);
    let mut client = pair.connect();
    for _ in 0..3 {
        for (path, stamps) in [("/echo", vec!["a", "b", "d"]), ("/echo/2", vec!["a", "c", "b", "a"])] {
            let answer = client.get("delta", path);
            let reversed: Vec<&str> = stamps.iter().rev().copied().collect();
            assert_eq!(
                (echoed(&answer), answer.head.all("x-stamp")),
                (stamps.iter().map(|s| s.to_string()).collect(), reversed)
            );
        }
    }
    assert_eq!(client.get("v2", "/echo").head.all("x-stamp"), ["a", "a"], "whoever calls it");
    pair.alpha.reload(json!({"filters": {"b": {"config": "changed"}}}));
    assert_eq!(client.get("delta", "/echo").head.all("x-stamp"), ["d", "changed", "a"]);
}

/// A rule bounds how long an answer may take; the service's own bound is another.
#[test]
fn a_rule_has_a_timeout() {
    let rules = [
        rule(
            "soon",
            json!({"matches": [{"path": {"prefix": "/hold"}, "headers": [{"name": "x-soon", "value": "yes"}]}], "timeout": "200ms"}),
        ),
        rule(
            "tries",
            json!({"matches": [{"path": {"prefix": "/hold"}, "headers": [{"name": "x-try", "value": "yes"}]}], "per_try_timeout": "200ms"}),
        ),
        rule("late", json!({})),
    ];
    let delta = json!({"timeouts": {"request": "1h"}, "retries": {"per_try_timeout": "1h"}});
    let (pair, _) = routed(&rules, json!({"services": {"delta": delta}}));
    let mut late = pair.connect();
    late.send("GET /hold HTTP/1.1\r\nhost: delta\r\n\r\n");
    pair.app.wait_held(1);
    let answer = pair.connect().request("GET", "delta", "/hold", &[("x-soon", "yes")], None);
    assert_eq!((answer.status(), answer.field("proxy-status")), (504, Some("alpha; error=http_response_timeout")));
    // Each try may take so long, and a POST has one.
    let fields = [("x-try", "yes"), ("x-request-id", "tried")];
    let answer = pair.connect().request("POST", "delta", "/hold", &fields, Some(b"x"));
    assert_eq!(answer.status(), 504);
    let record = pair.alpha.access("the try", |record| record["request_id"] == "tried");
    assert_eq!(record["response_code_details"], "upstream_per_try_timeout");
    pair.app.release();
    assert_eq!(late.response("GET").status(), 200);
}

/// The time of a try begins when the request was read to its end, also where nothing is said of retries.
#[test]
fn a_bound_of_a_try_does_not_count_the_upload() {
    let bounded = routes(&[rule("bounded", json!({"per_try_timeout": "200ms"}))]);
    let pair = Pair::with(Link::Plaintext, App::start(), |alpha| alpha.with(bounded), |delta| delta);
    // On a busy machine the answer may take as long.
    lacis_tests::until("an upload is answered that took longer than a try may", || {
        let mut upload = pair.connect();
        let before = pair.app.requests();
        upload.send("POST /drain HTTP/1.1\r\nhost: delta\r\ncontent-length: 2\r\n\r\na");
        pair.app.wait_requests(before + 1);
        // Begun later, and its time is over.
        assert_eq!(pair.connect().request("POST", "delta", "/hold", &[], Some(b"x")).status(), 504);
        upload.send("b");
        (upload.response("POST").status() == 200).then_some(())
    });
}

on_links! {
    /// Rules, their filters and their backends change under load: no request fails, and none sees two of them.
    [H2, H3] fn routes_change_under_load(link) {
        let app = App::start();
        let (mesh, filters) = stamps(&["a", "b"]);
        let by = |name: &str| {
            routes(&[
                rule("all", json!({"filters": [{"filter": name}, {"request_headers": {"set": [{"name": "x-by", "value": name}]}},
                    {"response_headers": {"set": [{"name": "x-by", "value": name}]}}]})),
                rule("other", json!({"matches": [{"path": {"exact": "/nowhere"}}], "to": [{"service": "delta", "weight": 0}]})),
            ])
        };
        let with = |alpha: SidecarBuilder| alpha.with(filters).with(by("a")).with(json!({"workers": 2}));
        let mut pair = Pair::inside(mesh, link, app, with, |delta| delta);
        let load = lacis_tests::client::load(pair.alpha.outbound(), "delta", "/bytes/100", 4);
        load.wait_more(20);
        let mut client = pair.connect();
        for round in 0..10 {
            let name = if round % 2 == 0 { "b" } else { "a" };
            pair.alpha.reload(by(name));
            load.wait_more(20);
            let answer = client.get("delta", "/echo");
            assert_eq!((echoed(&answer), answer.head.all("x-stamp"), answer.field("x-by")), (vec![name.to_owned()], vec![name], Some(name)));
        }
        let load = load.stop();
        assert_eq!(load.failed(), 0, "{load:?}");
        let why = pair.alpha.refused(routes(&[rule("all", json!({"to": [{"service": "absent"}]}))]));
        assert!(why.contains("no service \"absent\""), "{why}");
        assert_eq!(client.get("delta", "/echo").field("x-by"), Some("a"), "as before");
    }
}

/// A filter of the listener waits for an answer, then one of the rule, then one of the service, before the request goes on.
#[test]
fn filters_of_every_place_may_wait() {
    let app = App::start();
    let config = json!({
        "filters": {"one": guest("auth"), "two": guest("auth"), "three": guest("auth")},
        "outbound": {"filters": ["one"]},
        "services": {
            "auth": {"endpoints": [app.address().to_string()], "link": "plaintext"},
            "delta": {"filters": ["three"]},
        },
        "routes": [{"service": "delta", "rules": [{"filters": [{"filter": "two"}]}]}],
    });
    let pair = Pair::with(Link::H2, App::start(), |alpha| alpha.with(config), |delta| delta);
    let mut client = pair.connect();
    for (ask, status, calls) in [("/status/200", 200, 3), ("/status/403", 403, 4)] {
        let answer = client.request("POST", "delta", "/mirror", &[("x-ask", ask)], Some(b"body"));
        assert_eq!(answer.status(), status);
        assert_eq!(app.requests(), calls, "calls pass no filters and no routes");
    }
    assert_eq!(pair.app.requests(), 1);
    // What waits goes when the client does.
    let mut client = pair.connect();
    client.send("GET /echo HTTP/1.1\r\nhost: delta\r\nx-ask: /hold\r\n\r\n");
    app.wait_held(1);
    drop(client);
    pair.alpha.metric_becomes("lacis_requests_active", &[], |active| active == 0.0);
    assert_eq!(pair.get("/echo").status(), 200);
}

/// A change of a service's filters keeps its links.
#[test]
fn a_change_of_filters_keeps_the_links() {
    let mut pair = stamped(Link::H2, &["a", "b"], json!({"services": {"delta": {"filters": ["a"]}}}));
    assert_eq!(pair.get("/echo").head.all("x-stamp"), ["a"]);
    pair.alpha.reload(json!({"services": {"delta": {"filters": ["b"]}}}));
    assert_eq!(pair.get("/echo").head.all("x-stamp"), ["b"]);
    pair.alpha.counts(1.0, "lacis_link_handshakes_total", &[("link", "h2"), ("result", "ok")]);
}

/// `conformance/tests/grpcroute-exact-method-matching.yaml`: what no rule is for is UNIMPLEMENTED.
#[test]
fn grpc_calls_follow_their_rules() {
    let grpc = |service: &str, method: &str| json!([{"grpc": {"service": service, "method": method}}]);
    let rules = [
        rule("one", json!({"matches": grpc("echo.GrpcEcho", "Echo")})),
        rule("two", json!({"matches": grpc("echo.GrpcEcho", "EchoTwo"), "to": v2()})),
    ];
    let (pair, v2) = routed(&rules, json!({}));
    let call = |path: &str| {
        let fields = [("content-type", "application/grpc"), ("te", "trailers")];
        pair.connect().request("POST", "delta", path, &fields, Some(b""))
    };
    assert_eq!(call("/echo.GrpcEcho/Echo").field("x-app"), Some("delta"));
    assert_eq!(call("/echo.GrpcEcho/EchoTwo").field("x-app"), Some("v2"));
    let answer = call("/echo.GrpcEcho/EchoThree");
    assert_eq!((answer.status(), answer.field("grpc-status")), (200, Some("12")));
    assert_eq!((pair.app.requests(), v2.requests()), (1, 1));
}
