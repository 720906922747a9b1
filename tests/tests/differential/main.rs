//! The same filter and the same requests through Envoy and through us: what client, application and log see is the same,
//! but for what [`differences`] lists.
//!
//! The filter is `tests/script`: each case is a row of a table, with a request and a script for it. `LACIS_CASES=headers/`
//! runs those only whose name has that in it, and shows what they gave.

mod areas;
mod differences;
mod outcome;
mod random;
mod request;
mod sides;
#[path = "../../script/src/word.rs"]
mod word;

use areas::Row;
use differences::DIFFERENCES;
use lacis_tests::{peer, until};
use sides::{Place, Setting, Sides};

/// Everything that one request can show with one filter.
#[test]
fn one_filter() {
    let filter = [("one", "", serde_json::json!({}))];
    let Some(sides) = Sides::start(&filter) else { return };
    report(compare(sides, areas::ONE_FILTER));
}

/// Two filters of one module.
#[test]
fn a_chain() {
    let none = serde_json::json!({});
    let Some(sides) = Sides::start(&[("a", "", none.clone()), ("b", "x-script-b|lg sset logged 1 0", none)]) else {
        return;
    };
    report(compare(sides, &[("chain", areas::CHAIN)]));
}

/// A filter that may stop its headers and see the body all the same.
#[test]
fn headers_held_alone() {
    let alone = serde_json::json!({"allow_on_headers_stop_iteration": true});
    let Some(sides) = Sides::start(&[("one", "", alone)]) else { return };
    report(compare(sides, &[("held", areas::HELD)]));
}

/// What a trap does to its own request.
#[test]
fn traps() {
    let mut wrong = Vec::new();
    for (area, failure, rows) in [("traps", "closed", areas::TRAPS), ("fails-open", "open", areas::OPEN)] {
        for row in rows {
            let filter = ("one", "", serde_json::json!({"failure": failure}));
            let Some(sides) = Sides::start(&[filter]) else { return };
            wrong.extend(compare(sides, &[(area, std::slice::from_ref(row))]));
        }
    }
    report(wrong);
}

/// What filters learn of TLS, of the caller's and of their own.
#[test]
fn with_tls() {
    for (place, area, rows) in [(Place::Inbound, "inbound", areas::INBOUND), (Place::Link, "link", areas::LINK)] {
        let filter = ("one", "", serde_json::json!({}));
        let Some(sides) = Sides::start_in(Setting { place, ..Setting::PLAIN }, &[filter]) else { return };
        report(compare(sides, &[(area, rows)]));
    }
}

/// What becomes of exchanges in which nothing happens.
#[test]
fn idle_exchanges() {
    let filter = [("one", "", serde_json::json!({}))];
    let setting = Setting { idle: Some(500), ..Setting::PLAIN };
    if peer("envoy").is_none() {
        return;
    }
    // On a busy machine an exchange may be idle that is not meant to be.
    until("idle exchanges are the same", || {
        let wrong = compare(Sides::start_in(setting, &filter)?, &[("idle", areas::IDLE)]);
        eprintln!("{}", wrong.join("\n"));
        wrong.is_empty().then_some(())
    });
}

/// Several workers have VMs of their own; data, queues and metrics are common.
#[test]
fn several_workers() {
    let filter = ("one", "", serde_json::json!({}));
    let Some(sides) = Sides::start_in(Setting { workers: 2, ..Setting::PLAIN }, &[filter]) else { return };
    let mut wrong = Vec::new();
    for row in areas::WORKERS {
        let (envoy, lacis) = sides.both(&format!("workers/{}", row.0), row);
        if envoy.lines() != lacis.lines() {
            wrong.push(format!("──── workers/{}\n{}", row.0, diff(&envoy.lines(), &lacis.lines())));
        }
    }
    report(wrong);
    let count = areas::WORKERS.len() as u64;
    assert_eq!(sides.exported("seen_by_workers"), (Some(count), count));
}

/// A module of ABI 0.1.0: other signatures, other functions.
#[test]
fn the_oldest_abi() {
    let directory = tempfile::tempdir().expect("a directory");
    let module = directory.path().join("old.wasm");
    std::fs::write(&module, wat::parse_str(OLD).expect("a module")).expect("a written module");
    let filter = [("one", "configured", serde_json::json!({"module": module}))];
    let Some(sides) = Sides::start(&filter) else { return };
    for row in [
        Row("plain", "GET /echo x-a:1", ""),
        Row("paused", "GET /echo x-wait:1", ""),
        Row("body", "POST /echo <abc", ""),
    ] {
        let (envoy, lacis) = sides.both(&format!("old/{}", row.0), &row);
        let (envoy, lacis) = (envoy.lines(), lacis.lines());
        assert_eq!(envoy, lacis, "{}", row.0);
        // Configured, and with the field that it has added on its way.
        let line = |text: &str| lacis.iter().any(|line| line.contains(text));
        assert!(line("status 200") && line("app: field x-old: configured") && line("rs ") && line("dl "), "{lacis:?}");
        assert_eq!(line("tick "), row.0 == "paused", "{lacis:?}");
    }
}

const OLD: &str = include_str!("old.wat");

/// What filters count is seen from outside.
#[test]
fn exported_metrics() {
    let Some(sides) = Sides::start(&[("one", "", serde_json::json!({}))]) else { return };
    let script = "rq mdef 0 seen_total, minc m 3, mrec m 4, mdef 1 level, mrec m 9, minc m -2";
    sides.both("exported", &Row("exported", "GET /bytes/1", script));
    for (name, value) in [("seen_total", 7), ("level", 7)] {
        assert_eq!(sides.exported(name), (Some(value), value), "{name}");
    }
}

/// What a filter can do while it is configured. Envoy does it once more for a trial, and once on its main thread.
#[test]
fn configuration() {
    let config = "x-script|cfg buf 6 0 99, buf 7 0 200, prop plugin_name, prop plugin_root_id, prop plugin_vm_id, \
        prop xds.node.id, prop request.path, get 0 :path, pairs 0, buf 0 0 9, setprop mine x, reply 403 ~ no ~, cont 0, \
        close 0, done, env NAME, args, mdef 0 configured, minc m 1, sset configured x 0, qreg configured, ff nothing ~, time";
    let more = serde_json::json!({"root_id": "my-root", "vm_id": "my-vm", "vm_config": "vm buf 6 0 99, env NAME",
        "env": {"NAME": "value"}});
    let Some(sides) = Sides::start(&[("one", config, more)]) else { return };
    let (envoy, lacis) = sides.configured();
    drop(sides);
    assert_eq!(envoy, lacis);
    assert!(lacis.len() == 2 && lacis[1].contains("env 0 'value'"), "{lacis:?}");
}

/// Runs cases on both sides; gives every difference that is not listed, and every listed one that is none.
fn compare(sides: Sides, areas: &[(&str, &[Row])]) -> Vec<String> {
    let wanted = std::env::var("LACIS_CASES").unwrap_or_default();
    let mut wrong = Vec::new();
    for (area, rows) in areas {
        for row in *rows {
            let name = format!("{area}/{}", row.0);
            if !name.contains(&wanted) {
                continue;
            }
            let (envoy, lacis) = sides.both(&name, row);
            let (envoy, lacis) = (envoy.lines(), lacis.lines());
            if !wanted.is_empty() {
                eprintln!("──── {name}\n{}", envoy.join("\n"));
            }
            let listed = DIFFERENCES.iter().find(|difference| difference.cases.contains(&name.as_str()));
            let has = |lines: &[String], text: &str| lines.iter().any(|line| line.contains(text));
            match listed {
                None if envoy == lacis => {}
                None => wrong.push(format!("──── {name}\n     {}\n     {}\n{}", row.1, row.2, diff(&envoy, &lacis))),
                Some(_) if envoy == lacis => wrong.push(format!("──── {name}: listed as a difference, and is none")),
                Some(listed) if has(&envoy, listed.envoy) && has(&lacis, listed.lacis) => {}
                Some(_) => wrong.push(format!("──── {name}: differs otherwise\n{}", diff(&envoy, &lacis))),
            }
        }
    }
    wrong
}

/// Fails if something is wrong.
fn report(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "{} cases are wrong\n{}", wrong.len(), wrong.join("\n"));
}

/// The lines in which they differ; `-` Envoy's, `+` ours.
fn diff(envoy: &[String], lacis: &[String]) -> String {
    let mut text = Vec::new();
    let mut rest = lacis;
    for line in envoy {
        match rest.iter().position(|other| other == line) {
            Some(at) => {
                text.extend(rest[..at].iter().map(|line| format!("+ {line}")));
                rest = &rest[at + 1..];
            }
            None => text.push(format!("- {line}")),
        }
    }
    text.extend(rest.iter().map(|line| format!("+ {line}")));
    text.join("\n")
}
