//! Filters in other languages: the same module, the same requests, Envoy and Lacis side by side.

use std::net::SocketAddr;

use bytes::Bytes;
use lacis_tests::app::pattern;
use lacis_tests::wire::Response;
use lacis_tests::{App, Envoy, Link, Mesh, Sidecar, client, foreign_guest, guest};
use serde_json::{Value, json};

/// An application with one of the greeters before it, and what the greeter calls.
struct Side {
    app: App,
    helper: App,
    proxy: Proxy,
    _mesh: Mesh,
}

enum Proxy {
    Envoy(Envoy),
    Lacis(Sidecar),
}

/// What can be seen of one request from outside.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    status: u16,
    fields: Vec<Option<String>>,
    body: Bytes,
    /// What reached the application, and what the helper was asked for.
    seen: Vec<Vec<Option<String>>>,
    asked: Vec<String>,
}

impl Side {
    fn envoy(filter: &Value) -> Option<Side> {
        let (app, helper, mesh) = (App::start(), App::named("helper"), Mesh::new());
        let envoy = Envoy::builder()?.http("main", app.address(), std::slice::from_ref(filter));
        let proxy = Proxy::Envoy(envoy.cluster("helper", helper.address()).start());
        Some(Side { app, helper, proxy, _mesh: mesh })
    }

    fn lacis(filter: &Value) -> Side {
        let (app, helper, mesh) = (App::start(), App::named("helper"), Mesh::new());
        let alpha = mesh.sidecar("alpha").calls("app", app.address(), Link::Plaintext);
        let alpha = alpha.calls("helper", helper.address(), Link::Plaintext);
        let config = json!({"filters": {"greeter": filter}, "outbound": {"filters": ["greeter"]}});
        Side { app, helper, proxy: Proxy::Lacis(alpha.with(config).start()), _mesh: mesh }
    }

    fn address(&self) -> SocketAddr {
        match &self.proxy {
            Proxy::Envoy(envoy) => envoy.listener("main"),
            Proxy::Lacis(alpha) => alpha.outbound(),
        }
    }

    fn ask(&self, method: &str, path: &str, fields: &[(&str, &str)], body: Option<&[u8]>) -> Outcome {
        let (before, asked) = (self.app.seen().len(), self.helper.seen().len());
        let answer: Response = client::request(self.address(), method, "app", path, fields, body);
        let field = |name: &str| answer.field(name).map(str::to_owned);
        let mut seen = self.app.seen();
        let mut calls = self.helper.seen();
        Outcome {
            status: answer.status(),
            fields: ["x-filter", "x-why", "content-type", "content-length"].map(field).to_vec(),
            body: answer.body.clone(),
            seen: seen
                .drain(before..)
                .map(|seen| {
                    ["x-greeting", "x-helper", "x-name"].map(|name| seen.field(name).map(str::to_owned)).to_vec()
                })
                .collect(),
            asked: calls.drain(asked..).map(|seen| format!("{} {}", seen.method, seen.target)).collect(),
        }
    }

    /// Waits for that many lines of the greeter, and gives them.
    fn log(&self, count: usize) -> Vec<String> {
        let what = format!("{count} lines of the filter");
        match &self.proxy {
            Proxy::Envoy(envoy) => envoy.wait_for_wasm_log(&what, |lines| {
                let lines = lines.iter().filter(|line| line.level == "info");
                let lines: Vec<String> = lines.map(|line| line.message.clone()).collect();
                (lines.len() >= count).then_some(lines)
            }),
            Proxy::Lacis(alpha) => alpha.err.wait_for(&what, |lines| {
                let lines: Vec<Value> = lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
                let lines = lines.iter().filter(|line| line["filter"] == "greeter" && line["level"] == "info");
                let lines: Vec<String> = lines.filter_map(|line| Some(line["message"].as_str()?.to_owned())).collect();
                (lines.len() >= count).then_some(lines)
            }),
        }
    }

    fn greeted(&self, count: u64) {
        match &self.proxy {
            Proxy::Envoy(envoy) => lacis_tests::until("Envoy has counted", || {
                (envoy.stat("wasmcustom.greeted") == Some(count)).then_some(())
            }),
            Proxy::Lacis(alpha) => alpha.counts(count as f64, "greeted", &[("filter", "greeter")]),
        }
    }
}

/// Runs the greeter of a language on both, and holds what comes out against each other and against what it should be.
fn greet(language: &str) {
    let Some(module) = foreign_guest(language) else { return };
    let filter = json!({
        "name": "greeter", "module": module, "config": "Grüß Gott", "root_id": "greeter", "limits": {"time": "2s"},
    });
    let Some(envoy) = Side::envoy(&filter) else { return };
    let mut ours = filter;
    ours.as_object_mut().expect("an object").remove("name");
    let lacis = Side::lacis(&ours);

    let both = |method: &str, path: &str, fields: &[(&str, &str)], body: Option<&[u8]>| {
        let there = envoy.ask(method, path, fields, body);
        let here = lacis.ask(method, path, fields, body);
        assert_eq!(there, here, "Envoy, then Lacis: {method} {path} {fields:?}");
        here
    };
    let text = |text: &str| Some(text.to_owned());

    let plain = both("GET", "/bytes/10", &[], None);
    assert_eq!((plain.status, plain.fields[0].clone(), plain.body.len()), (200, text("greeter"), 12));
    assert_eq!(plain.seen, [[text("Grüß Gott, nobody"), None, None]]);
    let named = both("POST", "/mirror", &[("x-name", "Ada")], Some(b"hello"));
    assert_eq!(
        (&named.body[..], &named.seen),
        (&b"<hello>"[..], &vec![vec![text("Grüß Gott, Ada"), None, text("Ada")]])
    );
    let large = both("GET", "/chunked/300000", &[], None);
    assert_eq!((large.status, large.body.len()), (200, 300_002));
    assert_eq!(large.body.slice(1..300_001), pattern(0, 300_000));
    let empty = both("GET", "/bytes/0", &[], None);
    assert_eq!(empty.status, 200);
    let denied = both("GET", "/bytes/1", &[("x-name", "Eve"), ("x-deny", "1")], None);
    assert_eq!((denied.status, denied.fields[1].clone(), denied.seen.len()), (403, text("denied"), 0));
    let called = both("GET", "/bytes/1", &[("x-call", "1")], None);
    assert_eq!(called.seen, [[text("Grüß Gott, nobody"), text("200 5"), None]]);
    assert_eq!(called.asked, ["GET /bytes/5"]);
    for _ in 0..50 {
        both("GET", "/bytes/1", &[("x-name", "again")], None);
    }

    let mut log = vec!["configured: Grüß Gott".to_owned()];
    log.extend((0..56).map(|at| format!("done: {}", if at == 4 { 403 } else { 200 })));
    assert_eq!(lacis.log(log.len()), log);
    // There every thread has configured a VM of its own.
    let there = envoy.log(log.len());
    let configured = there.iter().take_while(|line| **line == log[0]).count();
    assert!(configured >= 1, "{there:?}");
    let there = envoy.log(configured + log.len() - 1);
    assert_eq!(there[configured..], log[1..]);
    envoy.greeted(56);
    lacis.greeted(56);
}

/// Timers, on the released `proxy-wasm` crate: ticks come by themselves, and let requests go on that wait for them.
#[test]
fn ticks_of_the_rust_sdk() {
    let filter = guest("timer");
    let mut there = filter.clone();
    there["name"] = json!("greeter");
    let lacis = Side::lacis(&filter);
    let told = |side: &Side| {
        for _ in 0..3 {
            let answer = side.ask("GET", "/bytes/3", &[], None);
            assert_eq!((answer.status, answer.body.len(), answer.seen.len()), (200, 3, 1), "{answer:?}");
            assert_eq!(
                side.app.seen().last().and_then(|seen| seen.field("x-waited").map(str::to_owned)).as_deref(),
                Some("for a tick")
            );
        }
        // Where each thread has a VM, each tells.
        let lines = side.log(3);
        let mut lines: Vec<String> = lines.into_iter().collect::<std::collections::BTreeSet<_>>().into_iter().collect();
        lines.truncate(3);
        lines
    };
    let here = told(&lacis);
    assert_eq!(here, ["tick 1", "tick 2", "tick 3"]);
    let Some(envoy) = Side::envoy(&there) else { return };
    let all = ["tick 1", "tick 2", "tick 3"];
    lacis_tests::until("Envoy has ticked", || {
        let lines = envoy.log(3);
        all.iter().all(|tick| lines.iter().any(|line| line == tick)).then_some(())
    });
    assert_eq!(told(&envoy), here, "Envoy, then Lacis");
}

/// A filter on a file of the SDK may call a service for itself, too, when no exchange is there.
fn fetch(language: &str) {
    let Some(module) = foreign_guest(language) else { return };
    let filter = json!({"module": module, "config": "tick", "root_id": "greeter", "limits": {"time": "2s"}});
    let told = |side: &Side| {
        lacis_tests::until("the filter has fetched", || {
            side.log(2).iter().any(|line| line == "fetched: 200 5").then_some(())
        });
        assert!(side.helper.seen().iter().all(|seen| seen.target == "/bytes/5"));
    };
    let lacis = Side::lacis(&filter);
    told(&lacis);
    // Where one VM is all there is, nobody is faster.
    let shared: Vec<String> = lacis.log(2).into_iter().filter(|line| line.starts_with("shared: ")).collect();
    assert!(shared.iter().all(|line| line == "shared: true false"), "{shared:?}");
    assert_eq!(shared.is_empty(), language != "assemblyscript", "{shared:?}");
    let mut there = filter;
    there["name"] = json!("greeter");
    if let Some(envoy) = Side::envoy(&there) {
        told(&envoy);
    }
}

#[test]
fn files_of_the_sdk_call_by_themselves() {
    for language in ["cpp", "zig", "assemblyscript"] {
        fetch(language);
    }
}

#[test]
fn go() {
    greet("go");
}

#[test]
fn cpp() {
    greet("cpp");
}

#[test]
fn assemblyscript() {
    greet("assemblyscript");
}

#[test]
fn assemblyscript_sdk() {
    greet("assemblyscript-sdk");
}

#[test]
fn zig() {
    greet("zig");
}
