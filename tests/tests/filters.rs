//! WebAssembly on the way: the filters that ship, a user's own, and one that misbehaves.

use lacis_tests::{App, Link, Pair, client, on_links, script};
use serde_json::{Value, json};

/// SHA-256 of `open-sesame`.
const KEY_HASH: &str = "d7ecdf25eaf3deba0f2628771dbdd22d4138ab6cf38f91ed02a2ca0dec7c8ab7";

/// A filter as somebody else's compiler would make it, ABI 0.2.1. It adds `x-wat: was here` to requests and
/// `x-answer: 42` to responses; `x-crash` traps and `x-loop` never returns.
const WAT: &str = r#"
(module
  (import "env" "proxy_add_header_map_value" (func $add (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_get_header_map_value" (func $get (param i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (global $heap (mut i32) (i32.const 4096))
  (data (i32.const 0) "x-wat")
  (data (i32.const 16) "was here")
  (data (i32.const 32) "x-answer")
  (data (i32.const 48) "42")
  (data (i32.const 64) "x-crash")
  (data (i32.const 80) "x-loop")
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "proxy_on_memory_allocate") (param $size i32) (result i32)
    (local $at i32)
    (local.set $at (global.get $heap))
    (if (i32.gt_u (i32.add (local.get $at) (local.get $size)) (i32.const 131072))
      (then (local.set $at (i32.const 4096))))
    (global.set $heap (i32.and (i32.add (i32.add (local.get $at) (local.get $size)) (i32.const 7)) (i32.const -8)))
    (local.get $at))
  (func (export "proxy_on_context_create") (param i32 i32))
  (func (export "proxy_on_vm_start") (param i32 i32) (result i32) (i32.const 1))
  (func (export "proxy_on_configure") (param i32 i32) (result i32) (i32.const 1))
  (func $has (param $name i32) (param $length i32) (result i32)
    ;; 0 (Ok) with a value written, or 1 (NotFound)
    (i32.store (i32.const 1028) (i32.const 0))
    (if (call $get (i32.const 0) (local.get $name) (local.get $length) (i32.const 1024) (i32.const 1028))
      (then (return (i32.const 0))))
    (i32.ne (i32.load (i32.const 1028)) (i32.const 0)))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
    (if (call $has (i32.const 64) (i32.const 7)) (then unreachable))
    (if (call $has (i32.const 80) (i32.const 6)) (then (loop $for_ever (br $for_ever))))
    (drop (call $add (i32.const 0) (i32.const 0) (i32.const 5) (i32.const 16) (i32.const 8)))
    (i32.const 0))
  (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32)
    (drop (call $add (i32.const 2) (i32.const 32) (i32.const 8) (i32.const 48) (i32.const 2)))
    (i32.const 0))
  (func (export "proxy_on_done") (param i32) (result i32) (i32.const 1))
  (func (export "proxy_on_log") (param i32))
  (func (export "proxy_on_delete") (param i32)))
"#;

/// A pair with the module above as the filter `mine` on delta's inbound side.
fn with_wat(link: Link, more: Value) -> Pair {
    let mesh = lacis_tests::Mesh::new();
    mesh.file("mine.wasm", wat::parse_str(WAT).expect("a module"));
    let mut filter = json!({"module": "mine.wasm"});
    for (key, value) in more.as_object().into_iter().flatten() {
        filter[key] = value.clone();
    }
    let config = json!({"filters": {"mine": filter}, "inbound": {"filters": ["mine"]}});
    Pair::inside(mesh, link, App::start(), |alpha| alpha, |delta| delta.with(config))
}

/// A pair with a shipped filter on delta's inbound side.
fn with_builtin(name: &str, config: Value) -> Pair {
    let filter = json!({"filters": {"shipped": {"module": format!("builtin:{name}"), "config": config}},
        "inbound": {"filters": ["shipped"]}});
    Pair::with(Link::H2, App::start(), |alpha| alpha, |delta| delta.with(filter))
}

on_links! {
    /// A user's own module sees and changes requests and responses, over every link.
    [H1, H2, H3] fn a_module_of_ones_own_works(link) {
        let pair = with_wat(link, json!({}));
        let answer = pair.get("/echo");
        assert_eq!((answer.status(), answer.field("x-answer")), (200, Some("42")));
        assert_eq!(pair.app.seen()[0].field("x-wat"), Some("was here"));
    }
}

/// `builtin:auth`: 401 without a known key, and the application never hears of it.
#[test]
fn auth_lets_in_who_has_a_key() {
    let pair = with_builtin(
        "auth",
        json!({"keys": [{"name": "ali-baba", "sha256": KEY_HASH}], "forward_name": "x-api-client"}),
    );
    let mut client = pair.connect();
    let answer = client.get("delta", "/echo");
    assert_eq!(answer.status(), 401);
    assert!(answer.field("www-authenticate").is_some(), "{:?}", answer.head);
    assert_eq!(client.request("GET", "delta", "/echo", &[("x-api-key", "wrong")], None).status(), 401);
    assert_eq!(pair.app.requests(), 0);
    assert_eq!(client.request("GET", "delta", "/echo", &[("x-api-key", "open-sesame")], None).status(), 200);
    let seen = &pair.app.seen()[0];
    assert_eq!((seen.field("x-api-key"), seen.field("x-api-client")), (None, Some("ali-baba")));
    pair.delta().counts(2.0, "lacis_filter_requests_total", &[("filter", "shipped"), ("outcome", "reply")]);
    pair.delta().counts(1.0, "lacis_filter_requests_total", &[("filter", "shipped"), ("outcome", "continue")]);
}

/// `builtin:metrics`: what it counts is on `/metrics`, under its own names and labels.
#[test]
fn metrics_of_a_filter_are_exported() {
    let pair = with_builtin(
        "metrics",
        json!({"metrics": [{"name": "tenants_total", "labels": [
            {"name": "tenant", "from": {"header": "x-tenant"}}, {"name": "class", "response": "class"}]}]}),
    );
    let mut client = pair.connect();
    for tenant in ["blue", "blue", "green"] {
        client.request("GET", "delta", "/bytes/1", &[("x-tenant", tenant)], None);
    }
    client.request("GET", "delta", "/nowhere", &[("x-tenant", "blue")], None);
    for (value, tenant, class) in [(2.0, "blue", "2xx"), (1.0, "green", "2xx"), (1.0, "blue", "4xx")] {
        let labels = [("filter", "shipped"), ("tenant", tenant), ("class", class)];
        pair.delta().counts(value, "tenants_total", &labels);
    }
}

/// `builtin:routing`: a header sends requests to another service.
#[test]
fn routing_moves_requests_to_another_service() {
    let (stable, canary) = (App::named("stable"), App::named("canary"));
    let mesh = lacis_tests::Mesh::new();
    let first = mesh.sidecar("delta").application(&stable).start();
    let second = mesh.sidecar("delta-v2").application(&canary).start();
    let filter = json!({
        "filters": {"canary": {"module": "builtin:routing", "config": {"rules": [{"match": [{"from": {"header": "x-canary"}}], "to": [{"service": "delta-v2"}]}]}}},
        "outbound": {"filters": ["canary"]},
    });
    let alpha =
        mesh.sidecar("alpha").calls("delta", first.inbound(), Link::H2).calls("delta-v2", second.inbound(), Link::H3);
    let alpha = alpha.with(filter).start();
    let mut client = client::Client::connect(alpha.outbound());
    for round in 0..4 {
        assert_eq!(client.get("delta", "/echo").field("x-app"), Some("stable"), "round {round}");
        let answer = client.request("GET", "delta", "/echo", &[("x-canary", "yes")], None);
        assert_eq!(answer.field("x-app"), Some("canary"), "round {round}");
    }
    alpha.counts(4.0, "lacis_requests_total", &[("destination", "delta-v2")]);
}

/// Filters stand in the order of the list on the way in, in reverse on the way out.
#[test]
fn filters_run_in_order() {
    let module = wat::parse_str(WAT).expect("a module");
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("mine.wasm");
    std::fs::write(&path, module).expect("a written module");
    let config = json!({
        "filters": {
            "gate": {"module": "builtin:auth", "config": {"keys": [{"name": "a", "sha256": KEY_HASH}]}},
            "mine": {"module": path.to_str().expect("a path of ours")},
        },
        "inbound": {"filters": ["gate", "mine"]},
    });
    let pair = Pair::with(Link::H2, App::start(), |alpha| alpha, |delta| delta.with(config));
    let refused = pair.get("/echo");
    assert_eq!(refused.status(), 401);
    let passed = [("filter", "mine"), ("outcome", "continue")];
    pair.delta().counts(1.0, "lacis_requests_total", &[]);
    let seen = pair.delta().metrics().sum("lacis_filter_requests_total", &passed);
    assert_eq!(seen, 0.0, "what the first refuses, the second does not see");
    let answer = pair.connect().request("GET", "delta", "/echo", &[("x-api-key", "open-sesame")], None);
    assert_eq!((answer.status(), answer.field("x-answer")), (200, Some("42")));
    pair.delta().counts(1.0, "lacis_filter_requests_total", &passed);
}

/// Filters of one module share a VM, and their callbacks entries of it: here one more filter than an entry takes. Each sees
/// what those before it have made of a head, and one that ends the exchange is the last that sees it.
#[test]
fn filters_that_share_a_vm_see_a_head_one_after_the_other() {
    const FILTERS: usize = 9;
    let name = |number: usize| format!("f{number}");
    let chain = |failure: &str, middle: &str| {
        let filters = (0..FILTERS).map(|number| {
            let middle = if number == 4 { middle } else { "rq ret 0 ; rs ret 0" };
            let [request, response] = middle.split(" ; ").collect::<Vec<_>>()[..] else { panic!("{middle}") };
            let steps = |section: &str, map: u8| {
                section.split_once(' ').map(|(_, steps)| format!("get {map} x-way, add {map} x-way {number}, {steps}"))
            };
            let [request, response] = [(request, 0), (response, 2)].map(|(section, map)| steps(section, map));
            let mut section = script(&format!("rq {} ; rs {}", request.expect("steps"), response.expect("steps")));
            section["failure"] = failure.into();
            (name(number), section)
        });
        let filters: serde_json::Map<String, Value> = filters.collect();
        let names: Vec<String> = (0..FILTERS).map(name).collect();
        let config = json!({"filters": filters, "inbound": {"filters": names}});
        Pair::with(Link::H2, App::start(), |alpha| alpha, |delta| delta.with(config))
    };
    let request = |pair: &Pair| {
        let seen = pair.app.seen();
        let way = |(name, value): &(String, String)| (name == "x-way").then(|| value.clone());
        seen.first().map(|seen| seen.fields.iter().filter_map(way).collect::<String>())
    };
    let said = |pair: &Pair, outcomes: [&str; FILTERS]| {
        for (number, outcome) in outcomes.into_iter().enumerate() {
            let labels = [("filter", &*name(number)), ("outcome", outcome)];
            pair.delta().counts(f64::from(u8::from(!outcome.is_empty())), "lacis_filter_requests_total", &labels);
        }
    };
    let (all, back) = (Some("012345678".to_owned()), "876543210");
    let on = "continue";

    let pair = chain("closed", "rq ret 0 ; rs ret 0");
    let answer = pair.get("/echo");
    assert_eq!((answer.status(), answer.head.all("x-way").concat().as_str(), request(&pair)), (200, back, all.clone()));
    said(&pair, [on; FILTERS]);

    // What others must see ends the entry, and nothing else.
    let pair = chain("closed", "rq setprop a b, cont 0, raw clear_route_cache ; rs eff 1, eff 0, cont 1");
    let answer = pair.get("/echo");
    assert_eq!((answer.status(), answer.head.all("x-way").concat().as_str(), request(&pair)), (200, back, all.clone()));

    let pair = chain("closed", "rq reply 403 why no ; rs ret 0");
    assert_eq!((pair.get("/echo").status(), request(&pair)), (403, None));
    said(&pair, [on, on, on, on, "reply", "", "", "", ""]);

    let pair = chain("closed", "rq rem 0 :path ; rs ret 0");
    assert_eq!((pair.get("/echo").status(), request(&pair)), (500, None));
    said(&pair, [on, on, on, on, on, "", "", "", ""]);

    let pair = chain("closed", "rq trap ; rs ret 0");
    assert_eq!((pair.get("/echo").status(), request(&pair)), (503, None));
    said(&pair, [on, on, on, on, "trap", "", "", "", ""]);
    let pair = chain("open", "rq trap ; rs ret 0");
    assert_eq!((pair.get("/echo").status(), request(&pair)), (200, Some("01234".into())));

    // Of the response none has an own part any more where its VM is dead.
    let pair = chain("closed", "rq ret 0 ; rs trap");
    assert_eq!((pair.get("/echo").status(), request(&pair)), (503, all.clone()));
    let pair = chain("closed", "rq ret 0 ; rs reply 403 why no");
    let answer = pair.get("/echo");
    assert_eq!((answer.status(), answer.head.all("x-way").concat().as_str()), (403, ""));
}

/// A trap is 503 for the request that met it; the VM is replaced and the next one is served.
#[test]
fn a_trap_harms_only_its_own_request() {
    let pair = with_wat(Link::H2, json!({}));
    let mut client = pair.connect();
    for _ in 0..3 {
        let answer = client.request("GET", "delta", "/echo", &[("x-crash", "1")], None);
        assert_eq!(answer.status(), 503);
        lacis_tests::until("a new VM serves", || (client.get("delta", "/echo").status() == 200).then_some(()));
    }
    assert!(pair.app.seen().iter().all(|seen| seen.field("x-crash").is_none()), "closed: what trapped does not pass");
    pair.delta().counts(3.0, "lacis_filter_requests_total", &[("filter", "mine"), ("outcome", "trap")]);
}

/// A filter that never returns is stopped after its time; everybody else is served.
#[test]
fn an_endless_filter_is_stopped() {
    let pair = with_wat(Link::H2, json!({"limits": {"time": "20ms"}}));
    let mut client = pair.connect();
    let answer = client.request("GET", "delta", "/echo", &[("x-loop", "1")], None);
    assert_eq!(answer.status(), 503);
    lacis_tests::until("a new VM serves", || (client.get("delta", "/echo").status() == 200).then_some(()));
    pair.delta().counts(1.0, "lacis_filter_requests_total", &[("filter", "mine"), ("outcome", "timeout")]);
}

/// `failure: open` lets requests pass a filter that cannot run.
#[test]
fn an_open_filter_is_skipped_when_it_fails() {
    let pair = with_wat(Link::H2, json!({"failure": "open"}));
    let mut client = pair.connect();
    let answer = client.request("GET", "delta", "/echo", &[("x-crash", "1")], None);
    assert_eq!(answer.status(), 200);
    assert_eq!(pair.app.seen()[0].field("x-crash"), Some("1"));
    lacis_tests::until("the filter is back", || {
        (client.get("delta", "/echo").field("x-answer") == Some("42")).then_some(())
    });
}

/// A module that is none, and one whose digest is another's, are errors of the configuration.
#[test]
fn a_bad_module_is_refused_at_the_start() {
    let mesh = lacis_tests::Mesh::new();
    mesh.file("bad.wasm", "this is no module");
    mesh.file("good.wasm", wat::parse_str(WAT).expect("a module"));
    for (what, filter) in [
        ("no module", json!({"module": "bad.wasm"})),
        ("no file", json!({"module": "absent.wasm"})),
        ("another digest", json!({"module": "good.wasm", "sha256": KEY_HASH})),
        ("an unknown builtin", json!({"module": "builtin:nothing"})),
        ("a configuration that the filter refuses", json!({"module": "builtin:auth", "config": {"keys": []}})),
    ] {
        let config = json!({
            "node": {"service": "alpha", "trust_domain": "mesh.local"},
            "identity": {"certificate": "certs/alpha.pem", "private_key": "certs/alpha-key.pem", "trust_bundle": "certs/ca.pem"},
            "outbound": {"listen": "127.0.0.1:0", "filters": ["mine"]},
            "filters": {"mine": filter},
        });
        let path = mesh.file("alpha.yaml", config.to_string());
        let mut command = lacis_tests::command(&["run", "-c"]);
        command.arg(path).current_dir(mesh.dir());
        let process = lacis_tests::Process::start("lacis", command);
        assert_eq!(process.wait().code(), Some(1), "{what}");
        assert!(process.err.to_end().join("\n").contains("mine"), "{what}: {:?}", process.err.all());
    }
}

/// A line of a level that the log has not does not even leave the filter; when the levels have changed, the next one does.
#[test]
fn lines_of_a_filter_follow_the_levels() {
    let filter = json!({"filters": {"mine": script("rq log 1 whispered")}, "inbound": {"filters": ["mine"]}});
    let pair = Pair::with(Link::H2, App::start(), |alpha| alpha, |delta| delta.with(filter));
    let delta = pair.delta();
    let set = |levels: &str| {
        let target = format!("/logging?level={levels}");
        assert_eq!(client::request(delta.admin(), "POST", "localhost", &target, &[], Some(b"")).status(), 200);
    };
    set("info");
    pair.get("/bytes/1");
    set("info,filter=debug");
    pair.get("/bytes/1");
    let whispered = |line: &Value| line.to_string().contains("whispered");
    delta.log("what the filter says", whispered);
    let lines = delta.err.all();
    let said = lines.iter().filter(|line| line.contains("whispered")).count();
    assert_eq!(said, 1, "{lines:?}");
}

/// The filters of each exchange are told of its end, all of one before any of another, also where many end at once and the
/// sidecar right after them. Where one traps then, that costs nobody an answer, with filters that fail open.
#[test]
fn each_filter_is_told_of_the_end_of_each_exchange() {
    const EXCHANGES: usize = 24;
    for crash in [None, Some(EXCHANGES / 2)] {
        let mut filters = json!({"first": script(""), "second": script("")});
        for name in ["first", "second"] {
            filters[name]["failure"] = "open".into();
        }
        let config = json!({"filters": filters, "outbound": {"filters": ["first", "second"]}});
        let pair = Pair::with(Link::H2, App::start(), |alpha| alpha.with(config), |delta| delta);
        let begun = (0..EXCHANGES).map(|number| {
            let mut client = pair.connect();
            let script = if crash == Some(number) { "x-script: lg trap\r\n" } else { "" };
            client.send(format!("GET /hold HTTP/1.1\r\nhost: delta\r\nx-case: {number}\r\n{script}\r\n"));
            client
        });
        let begun: Vec<_> = begun.collect();
        pair.app.wait_held(EXCHANGES as u64);
        pair.alpha.signal("TERM");
        pair.alpha.log("drain begins", |line| line.to_string().contains("drain"));
        pair.app.release();
        for mut client in begun {
            assert_eq!(client.response("GET").status(), 200);
        }
        assert!(pair.alpha.wait().success());
        let lines = pair.alpha.err.to_end();
        let told: Vec<String> = lines
            .iter()
            .filter_map(|line| serde_json::from_str(line).ok())
            .filter_map(|line: Value| {
                let said = line["message"].as_str()?.split_once(" => ")?.0.to_owned();
                let end =
                    ["lg", "dn", "dl"].iter().any(|callback| said.ends_with(callback)) && !said.starts_with("root");
                end.then(|| format!("{said} {}", line["filter"].as_str().unwrap_or_default()))
            })
            .collect();
        for exchange in told.chunks(6) {
            let case = exchange[0].split(' ').next().unwrap_or_default();
            let all = ["lg first", "lg second", "dn first", "dl first", "dn second", "dl second"];
            assert_eq!(exchange, all.map(|said| format!("{case} {said}")), "{told:?}");
        }
        let mut cases: Vec<_> = told.chunks(6).map(|exchange| &exchange[0]).collect();
        cases.sort();
        cases.dedup();
        assert_eq!(cases.len() * 6, told.len(), "each once: {told:?}");
        assert!(if crash.is_none() { cases.len() == EXCHANGES } else { cases.len() < EXCHANGES }, "{told:?}");
    }
}

/// The access record of what no service has answered says so, in the words of the filter that did.
#[test]
fn an_answer_of_a_filters_own_is_not_the_services() {
    let redirect =
        json!({"matches": [{"path": {"exact": "/moved"}}], "filters": [{"redirect": {"host": "new.example"}}]});
    let config = json!({"filters": {"one": script("")}, "outbound": {"filters": ["one"]},
        "routes": [{"service": "delta", "rules": [redirect, {}]}]});
    let pair = Pair::with(Link::Plaintext, App::start(), |alpha| alpha.with(config), |delta| delta);
    for (path, script, status, details) in [
        ("/bytes/1", "rq ret 0", 200, "via_upstream"),
        ("/bytes/2", "rq reply 403 no%20key no ~, ret 1 ; lg prop response.code_details", 403, "no_key"),
        ("/bytes/3", "rq reply 403 ~ no ~, ret 1", 403, "direct_response"),
        ("/bytes/4", "rs reply 403 ~ no ~, ret 1", 403, "direct_response"),
        ("/moved", "lg prop response.code_details", 302, "direct_response"),
    ] {
        let mut client = pair.connect();
        let answer = client.request("GET", "delta", path, &[("x-case", path), ("x-script", script)], None);
        assert_eq!(answer.status(), status, "{path}");
        let record = pair.alpha.access(path, |record| record["path"] == path);
        assert_eq!(record["response_code_details"], details, "{path}");
        if script.starts_with("lg") || script.contains("; lg") {
            let told = format!("prop 0 '{details}'");
            pair.alpha.log(&told, |line| line["message"].as_str().is_some_and(|message| message.contains(&told)));
        }
    }
}
