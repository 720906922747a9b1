//! Changes while it runs: saved files become generations, nothing is dropped, and what is wrong changes nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lacis_tests::wire::Response;
use lacis_tests::{App, Link, Mesh, Pair, client, guest, on_links, until, unused};
use serde_json::{Value, json};

/// A filter that stamps its configuration and version on request and response heads (`x-stamp`, `x-version`), and counts the requests that its
/// VM has seen in the VM's memory (`x-count` on responses, one letter from `a`) and in shared data (`x-shared`, too).
/// It refuses a configuration that begins with `!` and traps on one that begins with `#`. `VERSION` is its own.
const STAMP: &str = r#"
(module
  (import "env" "proxy_add_header_map_value" (func $add (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_get_buffer_bytes" (func $buffer (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_get_shared_data" (func $shared (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_set_shared_data" (func $share (param i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (global $heap (mut i32) (i32.const 65536))
  (global $configured (mut i32) (i32.const 0))
  (data (i32.const 0) "x-stamp")
  (data (i32.const 16) "x-count")
  (data (i32.const 32) "x-version")
  (data (i32.const 48) "VERSION")
  (data (i32.const 64) "x-shared")
  (data (i32.const 96) "a")
  (data (i32.const 128) "a")
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "proxy_on_memory_allocate") (param $size i32) (result i32)
    (local $at i32)
    (local.set $at (global.get $heap))
    (if (i32.gt_u (i32.add (local.get $at) (local.get $size)) (i32.const 131072))
      (then (local.set $at (i32.const 65536))))
    (global.set $heap (i32.and (i32.add (i32.add (local.get $at) (local.get $size)) (i32.const 7)) (i32.const -8)))
    (local.get $at))
  ;; For each context, of root contexts as of exchanges: 8 bytes at 4096 + 8 * (id & 4095): pointer and size of the
  ;; configuration. That of each root context is copied to the next 16 bytes from 40960 on.
  (func $slot (param $id i32) (result i32)
    (i32.add (i32.const 4096) (i32.shl (i32.and (local.get $id) (i32.const 4095)) (i32.const 3))))
  (func (export "proxy_on_context_create") (param $id i32) (param $root i32)
    (i64.store (call $slot (local.get $id)) (i64.load (call $slot (local.get $root)))))
  (func (export "proxy_on_configure") (param $id i32) (param $size i32) (result i32)
    (local $at i32) (local $first i32)
    (local.set $at (i32.add (i32.const 40960) (i32.shl (i32.and (global.get $configured) (i32.const 1023)) (i32.const 4))))
    (global.set $configured (i32.add (global.get $configured) (i32.const 1)))
    (drop (call $buffer (i32.const 7) (i32.const 0) (local.get $size) (i32.const 1024) (i32.const 1028)))
    (i64.store (local.get $at) (i64.load (i32.load (i32.const 1024))))
    (i64.store offset=8 (local.get $at) (i64.load offset=8 (i32.load (i32.const 1024))))
    (i32.store (call $slot (local.get $id)) (local.get $at))
    (i32.store offset=4 (call $slot (local.get $id)) (local.get $size))
    (local.set $first (i32.load8_u (local.get $at)))
    (if (i32.eq (local.get $first) (i32.const 35)) (then unreachable))
    (i32.ne (local.get $first) (i32.const 33)))
  (func $stamp (param $map i32) (param $id i32)
    (drop (call $add (local.get $map) (i32.const 0) (i32.const 7)
      (i32.load (call $slot (local.get $id))) (i32.load offset=4 (call $slot (local.get $id))))))
  (func (export "proxy_on_request_headers") (param $id i32) (param i32 i32) (result i32)
    (call $stamp (i32.const 0) (local.get $id))
    (drop (call $add (i32.const 0) (i32.const 32) (i32.const 9) (i32.const 48) (i32.const 7)))
    (i32.const 0))
  (func (export "proxy_on_response_headers") (param $id i32) (param i32 i32) (result i32)
    (call $stamp (i32.const 2) (local.get $id))
    (drop (call $add (i32.const 2) (i32.const 16) (i32.const 7) (i32.const 96) (i32.const 1)))
    (drop (call $add (i32.const 2) (i32.const 32) (i32.const 9) (i32.const 48) (i32.const 7)))
    ;; The letters go from a to z and begin again.
    (i32.store8 (i32.const 96)
      (i32.add (i32.const 97) (i32.rem_u (i32.sub (i32.load8_u (i32.const 96)) (i32.const 96)) (i32.const 26))))
    (if (i32.eqz (call $shared (i32.const 64) (i32.const 8) (i32.const 1024) (i32.const 1028) (i32.const 1032)))
      (then (i32.store8 (i32.const 128) (i32.load8_u (i32.load (i32.const 1024))))))
    (drop (call $add (i32.const 2) (i32.const 64) (i32.const 8) (i32.const 128) (i32.const 1)))
    (i32.store8 (i32.const 128)
      (i32.add (i32.const 97) (i32.rem_u (i32.sub (i32.load8_u (i32.const 128)) (i32.const 96)) (i32.const 26))))
    (drop (call $share (i32.const 64) (i32.const 8) (i32.const 128) (i32.const 1) (i32.const 0)))
    (i32.const 0))
  (func (export "proxy_on_done") (param i32) (result i32) (i32.const 1))
  (func (export "proxy_on_log") (param i32))
  (func (export "proxy_on_delete") (param i32)))
"#;

fn module(version: &str) -> Vec<u8> {
    assert_eq!(version.len(), "VERSION".len());
    wat::parse_str(STAMP.replace("\"VERSION\"", &format!("\"{version}\""))).expect("a module")
}

fn replace(path: &Path, content: &[u8]) {
    let new = path.with_extension("new");
    fs::write(&new, content).and_then(|()| fs::rename(&new, path)).expect("a replaced file");
}

/// The section of the filter `stamp` with this configuration.
fn stamp(config: &str) -> Value {
    json!({"filters": {"stamp": {"module": "stamp.wasm", "config": config}}})
}

/// A pair whose delta has the filter `stamp` on its inbound side, and alpha a worker more than one.
fn stamped(link: Link, workers: usize) -> Pair {
    let module = module("one one");
    let with = |delta: lacis_tests::SidecarBuilder| {
        delta.with(stamp("first")).with(json!({"inbound": {"filters": ["stamp"]}, "workers": workers}))
    };
    let mesh = Mesh::new();
    mesh.file("stamp.wasm", module);
    Pair::inside(mesh, link, App::start(), |alpha| alpha, with)
}

/// A field of the request, as `/echo` tells it.
fn echoed(answer: &Response, name: &str) -> Option<String> {
    let seen: Value = serde_json::from_str(&answer.text()).expect("JSON");
    let fields = seen["fields"].as_array().expect("a list");
    let found = fields.iter().find(|field| field[0] == name)?;
    found[1].as_str().map(str::to_owned)
}

fn field(pair: &Pair, name: &str) -> String {
    pair.get("/bytes/1").field(name).unwrap_or_else(|| panic!("no {name}")).to_owned()
}

on_links! {
    /// A filter's configuration and its module change by turns under load, in two workers: nothing fails, and no exchange sees
    /// two of either.
    [H2, H3] fn configurations_change_under_load(link) {
        let mut pair = stamped(link, 2);
        let load = client::load(pair.alpha.outbound(), "delta", "/bytes/100", 8);
        load.wait_more(50);
        let (outbound, stop) = (pair.alpha.outbound(), Arc::new(AtomicBool::new(false)));
        let watched = stop.clone();
        let watcher = std::thread::spawn(move || {
            let mut client = client::Client::connect(outbound);
            let mut stamps = BTreeSet::new();
            while !watched.load(Ordering::SeqCst) {
                let answer = client.get("delta", "/echo");
                let response = ["x-stamp", "x-version"].map(|name| answer.field(name).map(str::to_owned));
                let request = ["x-stamp", "x-version"].map(|name| echoed(&answer, name));
                assert_eq!((answer.status(), &request), (200, &response), "one filter for an exchange");
                stamps.extend(request);
            }
            stamps
        });
        for round in 0..10 {
            pair.delta_mut().reload(stamp(&format!("round {round}")));
            load.wait_more(50);
            assert_eq!(field(&pair, "x-stamp"), format!("round {round}"));
            let version = ["two two", "one one"][round % 2];
            replace(&pair.mesh.dir().join("stamp.wasm"), &module(version));
            pair.delta().counts((2 * round + 3) as f64, "lacis_config_generation", &[]);
            load.wait_more(50);
            assert_eq!(field(&pair, "x-version"), version);
        }
        let load = load.stop();
        assert_eq!((load.failed(), load.reopened), (0, 0), "{load:?}");
        stop.store(true, Ordering::SeqCst);
        let stamps = watcher.join().expect("no mixed exchange");
        assert!(stamps.len() > 4, "{stamps:?}");
        pair.delta().counts(20.0, "lacis_config_reloads_total", &[("result", "accepted")]);
    }

    /// A request that began with one configuration ends with it, however long that takes; then the generation goes.
    [H1, H2, H3] fn what_was_begun_ends_as_it_began(link) {
        let mut pair = stamped(link, 1);
        let mut held = pair.connect();
        held.send("GET /hold HTTP/1.1\r\nhost: delta\r\n\r\n");
        pair.app.wait_held(1);
        pair.delta_mut().reload(stamp("second"));
        assert_eq!(field(&pair, "x-stamp"), "second");
        let page: Value = serde_json::from_str(&pair.delta().admin_get("/generations").text()).expect("JSON");
        assert_eq!((&page["generations"][1]["state"], &page["generations"][1]["in_flight"]), (&json!("draining"), &json!(1)));
        pair.app.release();
        assert_eq!(held.response("GET").field("x-stamp"), Some("first"));
        let stamps: Vec<_> = pair.app.seen().iter().map(|seen| seen.field("x-stamp").map(str::to_owned)).collect();
        assert_eq!(stamps, [Some("first".to_owned()), Some("second".to_owned())]);
        until("the first generation has ended", || {
            let page: Value = serde_json::from_str(&pair.delta().admin_get("/generations").text()).expect("JSON");
            (page["generations"][1]["state"] == "ended").then_some(())
        });
        until("its filter has gone", || (filters(&pair).len() == 1).then_some(()));
    }

    /// Links, on both sides of a change, are the same connections.
    [H1, H2, H3] fn links_stay(link) {
        let mut pair = stamped(link, 1);
        let mut client = pair.connect();
        assert_eq!(client.get("delta", "/bytes/1").status(), 200);
        let handshakes = |pair: &Pair| pair.alpha.metrics().sum("lacis_link_handshakes_total", &[]);
        let (before, connections) = (handshakes(&pair), pair.app.connections());
        for round in 0..3 {
            pair.delta_mut().reload(stamp(&format!("round {round}")));
            let hosts = json!(["delta", format!("delta-{round}")]);
            let timeouts = json!({"request": format!("{}s", 20 + round)});
            pair.alpha.reload(json!({"services": {"delta": {"hosts": hosts, "timeouts": timeouts}}}));
            assert_eq!(client.get(&format!("delta-{round}"), "/bytes/1").status(), 200);
        }
        assert_eq!((handshakes(&pair), pair.app.connections()), (before, connections));
    }
}

fn filters(pair: &Pair) -> Vec<Value> {
    let page: Value = serde_json::from_str(&pair.delta().admin_get("/filters").text()).expect("JSON");
    page["filters"].as_array().expect("a list").clone()
}

/// An unchanged filter keeps its VM and its shared data; a changed configuration of the plugin keeps them as well, as the
/// VM is the same; another module has its own VM, and finds the shared data.
#[test]
fn what_is_the_same_goes_on() {
    let mut pair = stamped(Link::H2, 1);
    let see = |pair: &Pair| {
        let answer = pair.get("/bytes/1");
        let field = |name| answer.field(name).expect("a field").to_owned();
        [field("x-stamp"), field("x-version"), field("x-count"), field("x-shared")].join(" ")
    };
    assert_eq!(see(&pair), "first one one a a");
    assert_eq!(see(&pair), "first one one b b");
    pair.delta_mut().reload(json!({"inbound": {"allow": [{"identity": "spiffe://mesh.local/ns/default/sa/alpha"}]}}));
    assert_eq!(see(&pair), "first one one c c");
    pair.delta_mut().reload(stamp("second"));
    assert_eq!(see(&pair), "second one one d d");
    replace(&pair.mesh.dir().join("stamp.wasm"), &module("two two"));
    until("the other module answers", || (field(&pair, "x-version") == "two two").then_some(()));
    assert_eq!(see(&pair).split_at(16).0, "second two two b");
    let shared = field(&pair, "x-shared");
    assert!(shared.as_str() > "d", "shared data goes on: {shared}");
    let shown = until("the filter before has gone", || <[Value; 1]>::try_from(filters(&pair)).ok());
    let [shown] = &shown;
    assert_eq!((&shown["name"], &shown["abi"], &shown["vms"]), (&json!("stamp"), &json!("0.2.1"), &json!(1)));
    assert!(shown["calls"]["continue"].as_u64().is_some_and(|calls| calls >= 6), "{shown}");
    assert!(shown["duration_seconds"]["count"].as_u64().is_some_and(|calls| calls >= 6), "{shown}");
}

/// Two filters of one module with the same VM settings share a VM, each with a root context of its own; a change of one
/// leaves the other's alone.
#[test]
fn filters_of_one_module_share_a_vm() {
    let mut pair = stamped(Link::H2, 1);
    let other = |config: &str| json!({"filters": {"other": {"module": "stamp.wasm", "config": config}}});
    let mut both = other("its own");
    both["inbound"] = json!({"filters": ["stamp", "other"]});
    pair.delta_mut().reload(both);
    let see = |pair: &Pair| {
        let answer = pair.get("/bytes/1");
        let all =
            |name| answer.head.fields.iter().filter(|(n, _)| n == name).map(|(_, v)| v.clone()).collect::<Vec<_>>();
        (all("x-stamp").join(", "), all("x-count").join(", "))
    };
    assert_eq!(see(&pair), ("its own, first".to_owned(), "a, b".to_owned()));
    pair.delta_mut().reload(other("changed"));
    assert_eq!(see(&pair), ("changed, first".to_owned(), "c, d".to_owned()));
    until("the root context before has gone", || (filters(&pair).len() == 2).then_some(()));
    let since: Vec<_> =
        filters(&pair).iter().map(|f| (f["name"].clone(), f["since"].clone(), f["generation"].clone())).collect();
    assert_eq!(since, [(json!("other"), json!(3), json!(3)), (json!("stamp"), json!(1), json!(3))]);
}

/// What is wrong is refused, told everywhere, and changes nothing.
#[test]
fn what_is_wrong_is_refused_and_told() {
    let mut pair = stamped(Link::H2, 2);
    let good = module("one one");
    let path = pair.mesh.dir().join("stamp.wasm");
    let cases: [(&str, Value, Value, &str); 5] = [
        ("a wrong key", json!({"inbond": {}}), json!({"inbond": null}), "unknown key \"inbond\""),
        ("a configuration that the filter refuses", stamp("!"), stamp("first"), "proxy_on_configure answered false"),
        ("one that it traps on", stamp("#"), stamp("first"), "proxy_on_configure"),
        (
            "another port",
            json!({"inbound": {"listen": "127.0.0.1:1"}}),
            json!({"inbound": {"listen": "127.0.0.1:0"}}),
            "inbound.listen: cannot change while the sidecar runs and needs a restart",
        ),
        ("more workers", json!({"workers": 3}), json!({"workers": 2}), "needs a restart"),
    ];
    let count = cases.len();
    for (number, (what, bad, repaired, why)) in cases.into_iter().enumerate() {
        let told = pair.delta_mut().refused(bad);
        assert!(told.contains(why), "{what}: {told}");
        pair.delta()
            .log(what, |line| line["message"].as_str().is_some_and(|m| m.contains("not reloaded") && m.contains(why)));
        pair.delta().counts((number + 1) as f64, "lacis_config_reloads_total", &[("result", "rejected")]);
        assert_eq!(field(&pair, "x-stamp"), "first", "{what}");
        pair.delta_mut().reload(repaired);
    }
    let in_use = pair.delta().metrics().sum("lacis_config_generation", &[]);
    replace(&path, b"no module");
    let refused = pair.delta().generation("a bad module is refused", |newest| newest["state"] == "rejected");
    assert!(refused["error"].as_str().is_some_and(|e| e.starts_with("filters.stamp: ")), "{refused}");
    assert_eq!(pair.delta().metrics().sum("lacis_config_generation", &[]), in_use);
    let mut check = lacis_tests::command(&["check", "-c"]);
    let checked = check.arg(pair.delta().path()).output().expect("lacis runs");
    let words = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(checked.status.code() == Some(1) && words.contains("filters.stamp: "), "{words}");
    assert_eq!(field(&pair, "x-version"), "one one");
    replace(&path, &good);
    pair.delta().generation("the good one is back", |newest| newest["state"] == "active");
    assert_eq!(pair.delta().metrics().sum("lacis_config_reloads_total", &[("result", "rejected")]), count as f64 + 1.0);
}

/// A pipe in the place of a file would be waited for, and a module may be larger than anybody would want to read: what is
/// read again while the sidecar runs is refused then, and control has time for whoever asks.
#[test]
fn what_has_no_end_is_not_read() {
    let mut pair = stamped(Link::H2, 1);
    let dir = pair.mesh.dir().to_owned();
    let pipe = |path: &Path| {
        let new = path.with_extension("pipe");
        assert!(Command::new("mkfifo").arg(&new).status().expect("mkfifo").success());
        fs::rename(&new, path).expect("a replaced file");
    };
    pair.mesh.file("more.yaml", "endpoints: [127.0.0.1:9]");
    pair.alpha.reload(json!({"services": {"more": {"file": "more.yaml", "link": "plaintext"}}}));
    pipe(&dir.join("more.yaml"));
    until("endpoints are not read", || {
        let page: Value = serde_json::from_str(&pair.alpha.admin_get("/clusters").text()).expect("JSON");
        page["sources"]["more"]["last_error"].as_str()?.contains("cannot be read: it is not a file").then_some(())
    });
    pipe(&dir.join("certs/ca.pem"));
    pair.alpha.log("a bundle that is a pipe", |line| {
        line["error"].as_str().is_some_and(|error| error.contains("ca.pem: cannot be read: it is not a file"))
    });
    pipe(pair.delta().path());
    let refused = pair.delta().generation("a configuration that is a pipe", |newest| newest["state"] == "rejected");
    assert!(
        refused["error"].as_str().is_some_and(|e| e.ends_with("cannot be read again: it is not a file")),
        "{refused}"
    );
    pair.delta_mut().reload(stamp("second"));
    // 20 GiB without a block on the disk.
    let large = fs::File::create(dir.join("large")).expect("a file");
    large
        .set_len(20 << 30)
        .and_then(|()| fs::rename(dir.join("large"), dir.join("stamp.wasm")))
        .expect("a large module");
    let refused = pair.delta().generation("a large module", |newest| newest["state"] == "rejected");
    assert!(refused["error"].as_str().is_some_and(|e| e.contains("is larger than the 256 MiB")), "{refused}");
    assert_eq!(field(&pair, "x-stamp"), "second");
}

/// Services come, with a port of their own, and go; requests to the others do not notice.
#[test]
fn services_come_and_go_under_load() {
    let mut pair = Pair::new(Link::H2);
    let other = App::named("other");
    let load = client::load(pair.alpha.outbound(), "delta", "/bytes/100", 4);
    let mut kept = client::Client::connect(pair.port());
    assert_eq!(kept.get("whatever", "/bytes/1").status(), 200);
    assert_eq!(client::get(pair.alpha.outbound(), "other", "/echo").status(), 404);
    let service = json!({"endpoints": [other.address().to_string()], "link": "plaintext", "listen": "127.0.0.1:0"});
    pair.alpha.reload(json!({"services": {"other": service}}));
    assert_eq!(client::get(pair.alpha.outbound(), "other", "/echo").field("x-app"), Some("other"));
    let config: Value = serde_json::from_str(&pair.alpha.admin_get("/config").text()).expect("JSON");
    let port = config["listeners"]["other"].as_str().and_then(|a| a.parse().ok()).expect("an address");
    let mut open = client::Client::connect(port);
    assert_eq!(open.get("x", "/echo").field("x-app"), Some("other"));
    assert_eq!(
        kept.get("whatever", "/bytes/1").status(),
        200,
        "a connection outlives the generation that it began with"
    );

    pair.alpha.reload(json!({"services": {"other": null}}));
    assert_eq!(open.get("x", "/echo").status(), 404, "an open connection of a service that is gone");
    until("the port is closed", || std::net::TcpStream::connect(port).is_err().then_some(()));
    assert_eq!(client::get(pair.alpha.outbound(), "other", "/echo").status(), 404);
    load.wait_more(50);
    let load = load.stop();
    assert_eq!((load.failed(), load.reopened), (0, 0), "{load:?}");
}

/// Services change ports with each other, and one gets another name: who connects to a port, or has done so, reaches the
/// service that it is of.
#[test]
fn a_port_becomes_another_services() {
    let mut pair = Pair::new(Link::H2);
    let (apps, ports) = ([App::named("one"), App::named("two")], [unused(), unused()]);
    let service = |app: usize, port: usize| json!({"endpoints": [apps[app].address().to_string()], "link": "plaintext", "listen": ports[port].to_string()});
    pair.alpha.reload(json!({"services": {"one": service(0, 0), "two": service(1, 1)}}));
    let mut open = ports.map(client::Client::connect);
    let mut answers = || {
        let kept = open.each_mut().map(|client| client.get("x", "/bytes/1"));
        let new = ports.map(|port| client::get(port, "x", "/bytes/1"));
        [kept, new].map(|answers| answers.map(|answer| answer.field("x-app").unwrap_or_default().to_owned()))
    };
    assert_eq!(answers(), [["one", "two"]; 2]);
    pair.alpha.reload(json!({"services": {"one": service(0, 1), "two": service(1, 0)}}));
    assert_eq!(answers(), [["two", "one"]; 2]);
    pair.alpha.reload(json!({"services": {"one": null, "other": service(0, 1)}}));
    assert_eq!(answers(), [["two", "one"]; 2]);
    let config: Value = serde_json::from_str(&pair.alpha.admin_get("/config").text()).expect("JSON");
    assert_eq!((&config["listeners"]["other"], &config["listeners"]["one"]), (&json!(ports[1]), &Value::Null));
}

/// A filter that comes with a service of its own may call it while it is configured.
#[test]
fn a_starting_filter_reaches_the_services_that_come_with_it() {
    let mut pair = Pair::new(Link::H2);
    let auth = App::named("auth");
    let service = json!({"endpoints": [auth.address().to_string()], "link": "plaintext"});
    let filter = json!({"filters": {"fetch": guest("fetch")}, "outbound": {"filters": ["fetch"]}});
    let mut change = json!({"services": {"auth": service}});
    change.as_object_mut().expect("a map").extend(filter.as_object().expect("a map").clone());
    pair.alpha.reload(change);
    until("it has fetched", || (client::get(pair.alpha.outbound(), "delta", "/echo").text() == "5").then_some(()));
    assert_eq!(auth.requests(), 1);
}

/// As Kubernetes updates a mounted ConfigMap: a link beside the files is swapped.
#[test]
fn a_swapped_link_is_a_change() {
    let pair = stamped(Link::H2, 1);
    let dir = pair.mesh.dir();
    let version = |name: &str, content: &str| {
        fs::create_dir(dir.join(name)).expect("a directory");
        fs::write(dir.join(name).join("stamp.wasm"), module(content)).expect("a written module");
    };
    let link = |to: &str| {
        std::os::unix::fs::symlink(to, dir.join("..data_tmp")).expect("a link");
        fs::rename(dir.join("..data_tmp"), dir.join("..data")).expect("a swapped link");
    };
    version("..1", "one one");
    link("..1");
    fs::remove_file(dir.join("stamp.wasm")).expect("a removed file");
    std::os::unix::fs::symlink("..data/stamp.wasm", dir.join("stamp.wasm")).expect("a link");
    version("..2", "two two");
    link("..2");
    until("the other module answers", || (field(&pair, "x-version") == "two two").then_some(()));
}

/// Filters that only old requests use are bounded, at 64 of a worker: a change beyond is refused until some have ended.
#[test]
fn held_generations_are_bounded() {
    let mesh = Mesh::new();
    mesh.file("stamp.wasm", module("one one"));
    let patient = json!({"services": {"delta": {"timeouts": {"request": "10m"}}}});
    let filter = stamp("round 0");
    let mut pair = Pair::inside(
        mesh,
        Link::H2,
        App::start(),
        |alpha| alpha.with(patient),
        |delta| delta.with(filter).with(json!({"inbound": {"filters": ["stamp"]}})),
    );
    let mut held = Vec::new();
    for round in 1..=65 {
        let mut client = pair.connect();
        client.send("GET /hold HTTP/1.1\r\nhost: delta\r\n\r\n");
        pair.app.wait_held(round);
        held.push(client);
        pair.delta_mut().reload(stamp(&format!("round {round}")));
    }
    let told = pair.delta_mut().refused(stamp("one more"));
    assert!(told.contains("still use 65 filters"), "{told}");
    assert_eq!(field(&pair, "x-stamp"), "round 65");
    pair.app.release();
    for (round, client) in held.iter_mut().enumerate() {
        assert_eq!(client.response("GET").field("x-stamp"), Some(format!("round {round}").as_str()));
    }
    until("the old filters have gone", || (filters(&pair).len() == 1).then_some(()));
    pair.delta_mut().reload(stamp("after all"));
    assert_eq!(field(&pair, "x-stamp"), "after all");
}

/// A request that holds more filters than that, for it passes so many, keeps nobody from changing them all again.
#[test]
fn one_stream_does_not_keep_changes_from_coming() {
    let mesh = Mesh::new();
    mesh.file("stamp.wasm", module("one one"));
    let patient = json!({"services": {"delta": {"timeouts": {"request": "10m"}}}});
    let names: Vec<String> = (0..65).map(|number| format!("stamp-{number}")).collect();
    let stamps = |config: &str| {
        let filter = json!({"module": "stamp.wasm", "config": config});
        let all: serde_json::Map<_, _> = names.iter().map(|name| (name.clone(), filter.clone())).collect();
        json!({"filters": all, "inbound": {"filters": names}})
    };
    let first = stamps("round 0");
    let mut pair = Pair::inside(mesh, Link::H2, App::start(), |alpha| alpha.with(patient), |delta| delta.with(first));
    let hold = |pair: &Pair, requests| {
        let mut client = pair.connect();
        client.send("GET /hold HTTP/1.1\r\nhost: delta\r\n\r\n");
        pair.app.wait_held(requests);
        client
    };
    let one = hold(&pair, 1);
    pair.delta_mut().reload(stamps("round 1"));
    pair.delta_mut().reload(stamps("round 2"));
    let two = hold(&pair, 2);
    pair.delta_mut().reload(stamps("round 3"));
    let told = pair.delta_mut().refused(stamps("round 4"));
    assert!(told.contains("still use 130 filters of these, and 65 is the limit"), "{told}");
    pair.app.release();
    drop((one, two));
    until("the old filters have gone", || (filters(&pair).len() == names.len()).then_some(()));
    pair.delta_mut().reload(stamps("round 5"));
}

/// SIGHUP makes a generation though nothing has changed; hundreds of them leave nothing behind.
#[test]
fn hundreds_of_reloads_leave_nothing_behind() {
    let mut pair = stamped(Link::H2, 1);
    let mut client = pair.connect();
    let mut reload = |pair: &mut Pair, round: u64| {
        // Every tenth with another root context, every other one as it is.
        if round.is_multiple_of(10) {
            pair.delta_mut().reconfigure(stamp(&format!("round {round}")));
        } else {
            pair.delta().signal("HUP");
        }
        pair.delta().generation("the next", |newest| newest["number"].as_u64() >= Some(round + 2));
        assert_eq!(client.get("delta", "/bytes/1").status(), 200);
    };
    (0..50).for_each(|round| reload(&mut pair, round));
    let before = pair.delta().rss();
    (50..250).for_each(|round| reload(&mut pair, round));
    let grown = pair.delta().rss().saturating_sub(before);
    assert!(grown < 8 << 20, "grown by {grown} bytes in 200 reloads");
    until("one root context is left", || {
        let shown = filters(&pair);
        (shown.len() == 1 && shown[0]["vms"] == 1 && shown[0]["contexts"] == 1).then_some(())
    });
}
