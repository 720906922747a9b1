//! Filters that want too much: each limit is counted and told, and harms nobody else.

use std::net::TcpListener;

use lacis_tests::{App, Link, Mesh, Pair, Sidecar, client, guest, script, until};
use serde_json::{Value, json};

/// A filter whose callback for request headers is `code`, beside `items`. `$count` is a global that begins with 0.
fn module(items: &str, code: &str) -> Vec<u8> {
    let text = format!(
        r#"(module
          (import "env" "proxy_log" (func $log (param i32 i32 i32) (result i32)))
          (import "env" "proxy_define_metric" (func $define (param i32 i32 i32 i32) (result i32)))
          (import "env" "proxy_set_shared_data" (func $share (param i32 i32 i32 i32 i32) (result i32)))
          (import "env" "proxy_register_shared_queue" (func $register (param i32 i32 i32) (result i32)))
          (import "env" "proxy_enqueue_shared_queue" (func $enqueue (param i32 i32 i32) (result i32)))
          (import "env" "proxy_http_call"
            (func $call (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
          (import "env" "proxy_send_local_response"
            (func $reply (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
          (memory (export "memory") 1)
          (table $table 1 funcref)
          (global $count (mut i32) (i32.const 0))
          ;; A map: `:method: GET`, `:path: /silent`, `:authority: a`, as the ABI writes it.
          (data (i32.const 0) "\03\00\00\00\07\00\00\00\03\00\00\00\05\00\00\00\07\00\00\00\0a\00\00\00\01\00\00\00")
          (data (i32.const 28) ":method\00GET\00:path\00/silent\00:authority\00a\00")
          (data (i32.const 100) "delta")
          (func $ask (result i32)
            (call $call (i32.const 100) (i32.const 5) (i32.const 0) (i32.const 67) (i32.const 0) (i32.const 0)
              (i32.const 0) (i32.const 0) (i32.const 60000) (i32.const 200)))
          ;; Answers with this status, and goes no further.
          (func $say (param $status i32) (result i32)
            (drop (call $reply (local.get $status) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
              (i32.const 0) (i32.const 0) (i32.const -1)))
            (i32.const 1))
          (func (export "proxy_abi_version_0_2_1"))
          (func (export "proxy_on_memory_allocate") (param i32) (result i32) (i32.const 1024))
          (func (export "proxy_on_context_create") (param i32 i32))
          {items}
          (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) {code}))"#
    );
    wat::parse_str(text).expect("a module")
}

/// alpha before an application, with one filter.
struct Place {
    alpha: Sidecar,
    app: App,
    _mesh: Mesh,
}

impl Place {
    fn new(code: &[u8], settings: Value) -> Place {
        let (mesh, app) = (Mesh::new(), App::start());
        let mut filter = json!({"module": mesh.file("mine.wasm", code)});
        for (key, value) in settings.as_object().into_iter().flatten() {
            filter[key] = value.clone();
        }
        let config = json!({"outbound": {"filters": ["mine"]}, "filters": {"mine": filter}});
        let alpha = mesh.sidecar("alpha").calls("delta", app.address(), Link::Plaintext).with(config).start();
        Place { alpha, app, _mesh: mesh }
    }

    fn status(&self) -> u16 {
        client::get(self.alpha.outbound(), "delta", "/echo").status()
    }

    fn refused(&self, count: f64, limit: &str) {
        self.alpha.counts(count, "lacis_filter_refusals_total", &[("filter", "mine"), ("limit", limit)]);
        self.alpha.log(&format!("{limit} was refused"), |line| {
            line["limit"] == limit && line["filter"] == "mine" && line["level"] == "warn"
        });
    }

    fn page(&self) -> Value {
        let page: Value = serde_json::from_str(&self.alpha.admin_get("/filters").text()).expect("JSON");
        page["filters"][0].clone()
    }
}

/// What the guest goes on after: the n-th of a thing is refused, with a status of the ABI, a metric and a line.
#[test]
fn what_is_too_much_is_refused_and_counted() {
    let log = "(drop (call $log (i32.const 2) (i32.const 100) (i32.const 5)))";
    let define = |name: u32| format!("(call $define (i32.const 0) (i32.const {name}) (i32.const 5) (i32.const 200))");
    let share = |size: u32| {
        format!("(call $share (i32.const 100) (i32.const 5) (i32.const 1024) (i32.const {size}) (i32.const 0))")
    };
    let register = |name: u32| format!("(call $register (i32.const {name}) (i32.const 5) (i32.const 200))");
    let enqueue = |size: u32| format!("(call $enqueue (i32.load (i32.const 200)) (i32.const 1024) (i32.const {size}))");
    // The status is 200 and the ABI's status of what comes last.
    let say = |what: &str| format!("(call $say (i32.add (i32.const 200) {what}))");
    for (limit, settings, code, status) in [
        ("log_lines", json!({"limits": {"log_lines": 2}}), format!("{}{}", log.repeat(3), say("(i32.const 0)")), 200),
        ("metrics", json!({"limits": {"metrics": 1}}), format!("(drop {}){}", define(29), say(&define(100))), 200),
        ("shared_data", json!({"limits": {"shared_data": "64KiB"}}), say(&share(60_000)), 200),
        ("shared_data", json!({"limits": {"shared_data": "32KiB"}}), say(&share(60_000)), 208),
        ("queues", json!({"limits": {"queues": 1}}), format!("(drop {}){}", register(100), say(&register(29))), 210),
        (
            "queues",
            json!({"limits": {"queue_items": 1}}),
            format!("(drop {})(drop {}){}", register(100), enqueue(1), say(&enqueue(1))),
            201,
        ),
        (
            "queues",
            json!({"limits": {"queue_size": "4B"}}),
            format!("(drop {})(drop {}){}", register(100), enqueue(4), say(&enqueue(1))),
            201,
        ),
        ("calls", json!({"limits": {"calls": 1}}), format!("(drop (call $ask)){}", say("(call $ask)")), 210),
        (
            "service",
            json!({"allow": {"calls": [], "functions": ["http", "log", "metrics", "queues", "reply", "shared_data"]}}),
            say("(call $ask)"),
            202,
        ),
    ] {
        let place = Place::new(&module("", &code), settings);
        assert_eq!(place.status(), status, "{limit}");
        if status != 200 || limit != "shared_data" {
            place.refused(1.0, limit);
        } else {
            assert_eq!(place.alpha.metrics().sum("lacis_filter_refusals_total", &[]), 0.0, "{limit}");
        }
    }
}

/// What kills the VM: the request that met it is answered 503, the reason is told, and the next VM serves.
#[test]
fn what_a_guest_dies_of_harms_its_own_request() {
    // Only the first request of each VM goes well, so that a new one is told from an old one.
    let once = |fatal: &str| {
        format!(
            "(if (global.get $count) (then {fatal}))
             (global.set $count (i32.const 1)) (call $say (i32.const 200))"
        )
    };
    let recurse = "(func $recurse (call $recurse) (global.set $count (i32.const 2)))";
    let grow = "(if (i32.eq (memory.grow (i32.const 8)) (i32.const -1)) (then unreachable))";
    let table = "(if (i32.eq (table.grow $table (ref.null func) (i32.const 8)) (i32.const -1)) (then unreachable))";
    for (items, fatal, limit, error) in [
        ("", "unreachable", None, "unreachable"),
        (recurse, "(call $recurse)", None, "call stack exhausted"),
        ("", grow, Some("memory"), "needs more memory than its limit of 131072 bytes"),
        ("", table, Some("table"), "needs a larger table than its limit of 4 elements"),
        ("", "(loop $l (br $l))", Some("time"), "ran longer than its budget of 20ms"),
    ] {
        let limits = json!({"limits": {"memory": "128KiB", "table": 4, "time": "20ms"}});
        let place = Place::new(&module(items, &once(fatal)), limits);
        for _ in 0..2 {
            until("a VM serves", || (place.status() == 200).then_some(()));
            assert_eq!(place.status(), 503, "{error}");
        }
        until("a VM serves again", || (place.status() == 200).then_some(()));
        if let Some(limit) = limit {
            place.refused(2.0, limit);
        }
        let last = place.page()["last_error"].to_string();
        assert!(last.contains(error), "{last}");
        assert_eq!(place.app.requests(), 0);
    }
}

/// Metrics live as long as the process: those of all VMs of a filter are no more than one may have, and one that is
/// refused is not there for others to do without.
#[test]
fn metrics_of_a_filter_are_bounded_however_often_it_dies() {
    let (mesh, app) = (Mesh::new(), App::start());
    let mut mine = script("");
    mine["limits"]["metrics"] = 2.into();
    let config = json!({"outbound": {"filters": ["mine"]}, "filters": {"mine": mine}});
    let alpha = mesh.sidecar("alpha").calls("delta", app.address(), Link::Plaintext).with(config).start();
    let run = |script: &str| {
        client::request(alpha.outbound(), "GET", "delta", "/echo", &[("x-script", script)], None).status()
    };
    for names in [["a1", "a2", "a3"], ["a1", "b2", "b3"]] {
        let steps = names.map(|name| format!("mdef 0 {name}, mrec $ 1")).join(", ");
        until("a VM serves", || (run(&format!("rq {steps}")) == 200).then_some(()));
        assert_eq!(run("rq trap"), 503);
    }
    let metrics = alpha.metrics();
    let made = ["a1", "a2", "a3", "b2", "b3"].map(|name| metrics.select(name, &[]).count());
    assert_eq!(made, [1, 1, 0, 0, 0]);
}

/// Ticks take their share of a worker's time and no more: those that are long come later.
#[test]
fn ticks_that_are_long_come_later() {
    let text = r#"(module
      (import "env" "proxy_set_tick_period_milliseconds" (func $tick (param i32) (result i32)))
      (memory (export "memory") 1)
      (func (export "proxy_abi_version_0_2_1"))
      (func (export "proxy_on_memory_allocate") (param i32) (result i32) (i32.const 1024))
      (func (export "proxy_on_context_create") (param i32 i32))
      (func (export "proxy_on_configure") (param i32 i32) (result i32) (drop (call $tick (i32.const 1))) (i32.const 1))
      (func (export "proxy_on_tick") (param i32) (local $left i32)
        (local.set $left (i32.const 10000000))
        (loop $more (br_if $more (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))))"#;
    let code = wat::parse_str(text).expect("a module");
    for (share, is) in [("20%", true), ("100%", false)] {
        let place = Place::new(&code, json!({"limits": {"ticks": share, "time": "1s"}}));
        let measured = [("filter", "mine"), ("callback", "aside")];
        // One in 61 is measured.
        place.alpha.metric_becomes("lacis_filter_callback_seconds_count", &measured, |count| count >= 1.0);
        if is {
            place.alpha.metric_becomes("lacis_filter_refusals_total", &[("limit", "ticks")], |count| count >= 1.0);
            place.alpha.log("which key would change that", |line| line.to_string().contains("limits.ticks"));
        } else {
            assert_eq!(place.alpha.metrics().sum("lacis_filter_refusals_total", &[]), 0.0);
        }
    }
}

/// The memory of a VM is counted once, for whoever is the first in it.
#[test]
fn the_memory_of_a_vm_is_counted_for_the_first_filter_in_it() {
    let (mesh, app) = (Mesh::new(), App::start());
    let mine = mesh.file("mine.wasm", module("", "(i32.const 0)"));
    let filters = json!({"one": {"module": mine}, "two": {"module": mine, "config": "x"}});
    let config = json!({"outbound": {"filters": ["one", "two"]}, "filters": filters});
    let mut alpha = mesh.sidecar("alpha").calls("delta", app.address(), Link::Plaintext).with(config).start();
    let memory = |alpha: &Sidecar, filter| alpha.metrics().sum("lacis_filter_memory_bytes", &[("filter", filter)]);
    assert_eq!(["one", "two"].map(|filter| memory(&alpha, filter)), [65536.0, 0.0]);
    alpha.reload(json!({"outbound": {"filters": ["two"]}}));
    for (bytes, filter) in [(65536.0, "two"), (0.0, "one")] {
        alpha.counts(bytes, "lacis_filter_memory_bytes", &[("filter", filter)]);
    }
}

/// Messages for a service that reads nothing are the sidecar's: those of all streams of a filter are bounded together.
#[test]
fn what_waits_on_all_streams_is_bounded() {
    let (mesh, app) = (Mesh::new(), App::start());
    let mute = TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = mute.local_addr().expect("an address").to_string();
    let config = json!({
        "outbound": {"filters": ["mine"]},
        "filters": {"mine": script("")},
        "services": {"mute": {"endpoints": [endpoint], "link": "plaintext"}},
    });
    let alpha = mesh.sidecar("alpha").calls("delta", app.address(), Link::Plaintext).with(config).start();
    let script = "rq gstream mute s m x, gsend k @10000000 0, gstream mute s m x, gsend k @10000000 0, gsend k @1000 0";
    let answer = client::request(alpha.outbound(), "GET", "delta", "/echo", &[("x-script", script)], None);
    assert_eq!(answer.status(), 200);
    // The second large one; a small one still has room.
    alpha.counts(1.0, "lacis_filter_refusals_total", &[("filter", "mine"), ("limit", "calls")]);
}

/// What a plugin wished in a start that failed is not for the one that starts after it, and nobody waits for it.
#[test]
fn a_start_that_failed_leaves_no_timer() {
    let (alpha, _mesh) = once_started("(i32.const 0)");
    assert_eq!(["starts", "ticks"].map(|name| alpha.metrics().sum(name, &[])), [3.0, 0.0]);
}

/// A trap is told and counted wherever it comes.
#[test]
fn a_trap_of_a_start_is_told_with_its_functions() {
    let (alpha, _mesh) = once_started("unreachable");
    let line = alpha.log("the start", |line| line["message"] == "the filter could not be started");
    assert!(line["backtrace"].as_str().is_some_and(|backtrace| backtrace.contains("!configure")), "{line}");
    alpha.counts(2.0, "lacis_filter_requests_total", &[("filter", "mine"), ("outcome", "trap")]);
}

/// A sidecar whose filter has trapped, has failed like this when it was to start again, and runs now.
fn once_started(failing: &str) -> (Sidecar, (Mesh, App)) {
    let text = r#"(module
      (import "env" "proxy_get_shared_data" (func $get (param i32 i32 i32 i32 i32) (result i32)))
      (import "env" "proxy_set_shared_data" (func $set (param i32 i32 i32 i32 i32) (result i32)))
      (import "env" "proxy_set_tick_period_milliseconds" (func $tick (param i32) (result i32)))
      (import "env" "proxy_define_metric" (func $define (param i32 i32 i32 i32) (result i32)))
      (import "env" "proxy_record_metric" (func $record (param i32 i64) (result i32)))
      (memory (export "memory") 1)
      (data (i32.const 0) "starts ticks")
      (func $count (param $name i32) (param $size i32)
        (drop (call $define (i32.const 0) (local.get $name) (local.get $size) (i32.const 16)))
        (drop (call $record (i32.load (i32.const 16)) (i64.const 1))))
      ;; How far it is: so many bytes of the shared data `starts`.
      (func $state (result i32)
        (drop (call $get (i32.const 0) (i32.const 6) (i32.const 20) (i32.const 24) (i32.const 28)))
        (i32.load (i32.const 24)))
      (func $go (param $state i32)
        (drop (call $set (i32.const 0) (i32.const 6) (i32.const 0) (local.get $state) (i32.const 0))))
      (func (export "proxy_abi_version_0_2_1"))
      (func (export "proxy_on_memory_allocate") (param i32) (result i32) (i32.const 1024))
      (func (export "proxy_on_context_create") (param i32 i32))
      (func $configure (export "proxy_on_configure") (param i32 i32) (result i32)
        (call $count (i32.const 0) (i32.const 6))
        (if (i32.ne (call $state) (i32.const 1)) (then (return (i32.const 1))))
        (call $go (i32.const 2))
        (drop (call $tick (i32.const 1)))
        FAILING)
      (func (export "proxy_on_tick") (param i32) (call $count (i32.const 7) (i32.const 5)))
      (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
        (if (i32.eqz (call $state)) (then (call $go (i32.const 1)) unreachable))
        (i32.const 0)))"#;
    let (mesh, app) = (Mesh::new(), App::start());
    let mine = mesh.file("mine.wasm", wat::parse_str(text.replace("FAILING", failing)).expect("a module"));
    // The other one keeps the shared data while `mine` has no VM.
    let config = json!({"outbound": {"filters": ["keeper", "mine"]}, "filters": {
        "mine": {"module": mine, "vm_id": "same"},
        "keeper": {"module": mesh.file("keeper.wasm", module("", "(i32.const 0)")), "vm_id": "same"},
    }});
    let alpha = mesh.sidecar("alpha").calls("delta", app.address(), Link::Plaintext).with(config).start();
    let status = || client::get(alpha.outbound(), "delta", "/echo").status();
    assert_eq!(status(), 503);
    until("a VM serves", || (status() == 200).then_some(()));
    assert_eq!(status(), 200);
    (alpha, (mesh, app))
}

/// A VM that keeps something of each request dies of its own limit, and no other request does.
#[test]
fn a_guest_that_leaks_dies_alone() {
    let leak = "(func (export \"proxy_on_done\") (param i32) (result i32) (i32.const 0))";
    let code = "(if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable)) (i32.const 0)";
    let place = Place::new(&module(leak, code), json!({"limits": {"memory": "640KiB"}}));
    let statuses: Vec<u16> = (0..10).map(|_| place.status()).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 200, 200, 200, 200, 503]);
    until("a VM serves", || (place.status() == 200).then_some(()));
    assert!(place.page()["contexts"].as_u64().is_some_and(|contexts| contexts < 4), "{}", place.page());
    assert!(place.page()["memory_bytes"].as_u64().is_some_and(|bytes| bytes < 640 << 10), "{}", place.page());
}

/// A dead VM is away for longer each time; meanwhile requests follow the policy and no VM is made.
#[test]
fn a_vm_that_dies_again_and_again_is_replaced_less_and_less_often() {
    let place = Place::new(&module("", "unreachable"), json!({}));
    let begin = std::time::Instant::now();
    // 100, 200, 400 and 800 ms lie between five deaths.
    until("it has died five times", || {
        assert_eq!(place.status(), 503);
        let traps = place.page()["traps"].as_u64();
        (traps >= Some(5)).then_some(())
    });
    assert!(begin.elapsed().as_millis() >= 1500, "{:?}", begin.elapsed());
    let requests = place.alpha.metrics().sum("lacis_requests_total", &[]);
    assert!(requests > 5.0, "{requests} requests, and each of them a VM");
}

/// A request that comes while the VM is away has an outcome that is none of the filter's, by its policy.
#[test]
fn requests_that_come_while_a_vm_is_away_are_counted() {
    for (failure, result, status) in [("closed", "refused", 503), ("open", "skipped", 200)] {
        let place = Place::new(&module("", "unreachable"), json!({"failure": failure}));
        let away =
            || place.alpha.metrics().sum("lacis_filter_unavailable_total", &[("filter", "mine"), ("result", result)]);
        until("one came while it was away", || {
            assert_eq!(place.status(), status);
            (away() > 0.0).then_some(())
        });
        let metrics = place.alpha.metrics();
        let met = metrics.sum("lacis_filter_requests_total", &[("filter", "mine")]);
        place.alpha.counts(met + away(), "lacis_requests_total", &[]);
        assert_eq!(metrics.sum("lacis_filter_unavailable_total", &[]), away(), "the other result");
        assert_eq!(place.page()["unavailable"][result].as_f64(), Some(away()));
    }
}

/// A trap is told with the functions that it happened in, by the names that people gave them.
#[test]
fn a_trap_is_told_with_its_functions() {
    let items = "(func $_ZN6filter4Auth5check17h0123456789abcdefE unreachable)
                 (func $_ZN6filter3runEi call $_ZN6filter4Auth5check17h0123456789abcdefE)";
    let place = Place::new(&module(items, "(call $_ZN6filter3runEi) (i32.const 0)"), json!({}));
    assert_eq!(place.status(), 503);
    let line = place.alpha.log("the trap", |line| line["message"] == "the filter trapped");
    let backtrace = line["backtrace"].as_str().expect("a backtrace");
    let place = |name: &str| backtrace.find(name).unwrap_or_else(|| panic!("no {name} in {backtrace}"));
    assert!(place("filter::Auth::check") < place("filter::run(int)"), "{backtrace}");
    assert_eq!((line["filter"].as_str(), line["callback"].as_str()), (Some("mine"), Some("proxy_on_request_headers")));
}

/// So is that of a filter in Rust which is built as those that ship are.
#[test]
fn a_trap_of_a_rust_filter_is_told_with_its_functions() {
    let (mesh, app) = (Mesh::new(), App::start());
    let alpha = mesh.sidecar("alpha").calls("delta", app.address(), Link::Plaintext);
    let filters = json!({"filters": {"mine": guest("trap")}, "outbound": {"filters": ["mine"]}});
    let alpha = alpha.with(filters).start();
    let answer = client::request(alpha.outbound(), "POST", "delta", "/drain", &[], Some(b"hello"));
    assert_eq!(answer.status(), 503);
    let line = alpha.log("the trap", |line| line["message"] == "the filter trapped");
    let backtrace = line["backtrace"].as_str().expect("a backtrace");
    assert!(backtrace.contains("lacis_test_guest::Bodies"), "{backtrace}");
}

/// `/filters` shows how a filter is; calls and callbacks are counted.
#[test]
fn a_filter_is_shown_with_its_callbacks_and_calls() {
    let place = Place::new(&module("", "(drop (call $ask)) (i32.const 0)"), json!({"limits": {"time": "1s"}}));
    assert_eq!(place.status(), 200);
    let page = place.page();
    assert_eq!(
        (page["name"].as_str(), page["generation"].as_u64(), page["vms"].as_u64()),
        (Some("mine"), Some(1), Some(1))
    );
    assert_eq!((page["abi"].as_str(), page["traps"].as_u64()), (Some("0.2.1"), Some(0)));
    assert!(page["contexts"].as_u64() >= Some(1) && page["memory_bytes"].as_u64() >= Some(64 << 10), "{page}");
    let keys: Vec<&str> = page.as_object().expect("an object").keys().map(String::as_str).collect();
    for key in
        ["language", "calls", "duration_seconds", "missing", "last_error", "since", "sha256", "module", "failure"]
    {
        assert!(keys.contains(&key), "no {key} in {page}");
    }
    assert_eq!((page["calls"]["continue"].as_u64(), page["last_error"].as_str()), (Some(1), None), "{page}");
    let measured = page["callback_seconds"].as_object().expect("callbacks");
    let counts: u64 = measured.values().filter_map(|histogram| histogram["count"].as_u64()).sum();
    assert!(counts >= 1, "{page}");
    place.alpha.metric_becomes("lacis_filter_callback_seconds_count", &[("filter", "mine")], |count| count >= 1.0);
    // The call is under way until the filter goes.
    let called = |alpha: &Sidecar, result: &str, count| {
        let labels = [("filter", "mine"), ("destination", "delta"), ("result", result)];
        alpha.counts(count, "lacis_filter_calls_total", &labels);
    };
    called(&place.alpha, "answered", 0.0);
    let mut alpha = place.alpha;
    alpha.reload(json!({"outbound": {"filters": []}}));
    called(&alpha, "cancelled", 1.0);
}

/// A head that a filter makes so large that no sidecar reads it ends no link, and with that what others send over it.
#[test]
fn an_immense_head_harms_nobody_else() {
    let place = |side: &str| {
        let mut config = json!({"filters": {"one": script("")}});
        config[side] = json!({"filters": ["one"]});
        config
    };
    for (alpha, delta, steps, status) in [
        (place("outbound"), json!({}), "rq add 0 x-big @300000", 431),
        (json!({}), place("inbound"), "rs add 2 x-big @300000", 502),
    ] {
        let pair = Pair::with(Link::H2, App::start(), |builder| builder.with(alpha), |builder| builder.with(delta));
        let mut held = pair.connect();
        held.send("GET /hold HTTP/1.1\r\nhost: delta\r\n\r\n");
        pair.app.wait_held(1);
        let answer = pair.connect().request("GET", "delta", "/echo", &[("x-script", steps)], None);
        assert_eq!(answer.status(), status);
        pair.app.release();
        assert_eq!(held.response("GET").status(), 200, "{steps}");
    }
}
