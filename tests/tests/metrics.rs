//! What an operator reads: metrics, access records, readiness, the admin pages.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use lacis_tests::client::Client;
use lacis_tests::{App, Link, Mesh, Pair, client, command, on_links, unused};
use serde_json::{Value, json};

/// The names of product.md that any traffic makes appear, with their types.
const NAMES: &[(&str, &str)] = &[
    ("lacis_requests_total", "counter"),
    ("lacis_request_duration_seconds", "histogram"),
    ("lacis_request_bytes_total", "counter"),
    ("lacis_response_bytes_total", "counter"),
    ("lacis_requests_active", "gauge"),
    ("lacis_connections_active", "gauge"),
    ("lacis_connections_total", "counter"),
    ("lacis_link_handshakes_total", "counter"),
    ("lacis_config_generation", "gauge"),
    ("lacis_certificate_expiry_seconds", "gauge"),
];

on_links! {
    /// A request is counted once on each side, with who called whom over what.
    [H1, H2, H3] fn a_request_is_counted_on_both_sides(link) {
        let pair = Pair::new(link);
        pair.connect().request("POST", "delta", "/mirror", &[], Some(b"hello"));
        pair.get("/nowhere");
        for (side, direction) in [(&pair.alpha, "outbound"), (pair.delta(), "inbound")] {
            let edge = [("direction", direction), ("source", "alpha"), ("destination", "delta")];
            side.counts(2.0, "lacis_requests_total", &edge);
            let once = |more: &[(&str, &str)]| side.counts(1.0, "lacis_requests_total", &[&edge[..], more].concat());
            once(&[("method", "POST"), ("status", "200"), ("link", link.name()), ("reason", "none")]);
            once(&[("method", "GET"), ("status", "404"), ("protocol", "http1")]);
            side.counts(5.0, "lacis_request_bytes_total", &edge);
            side.metric_becomes("lacis_response_bytes_total", &edge, |bytes| bytes >= 5.0);
            side.counts(2.0, "lacis_request_duration_seconds_count", &edge);
            side.counts(0.0, "lacis_requests_active", &[("direction", direction)]);
        }
    }
}

/// The names of the documentation are the names of the page, with their types.
#[test]
fn the_documented_metrics_are_there() {
    let pair = Pair::new(Link::H2);
    pair.get("/bytes/1");
    for side in [&pair.alpha, pair.delta()] {
        side.counts(1.0, "lacis_requests_total", &[]);
        let metrics = side.metrics();
        for (name, kind) in NAMES {
            assert_eq!(metrics.types.get(*name).map(String::as_str), Some(*kind), "{name}");
        }
        let kinds: BTreeSet<&str> = metrics
            .select("lacis_certificate_expiry_seconds", &[])
            .filter_map(|s| s.labels.get("kind"))
            .map(String::as_str)
            .collect();
        assert!(kinds.contains("certificate"), "{kinds:?}");
    }
}

/// OpenMetrics for who asks for it.
#[test]
fn openmetrics_on_request() {
    let pair = Pair::new(Link::H2);
    let accept = [("accept", "application/openmetrics-text; version=1.0.0")];
    let answer = client::request(pair.alpha.admin(), "GET", "localhost", "/metrics", &accept, None);
    assert!(
        answer.field("content-type").is_some_and(|t| t.starts_with("application/openmetrics-text")),
        "{:?}",
        answer.head
    );
    assert!(answer.text().ends_with("# EOF\n"));
    let plain = pair.alpha.admin_get("/metrics");
    assert!(plain.field("content-type").is_some_and(|t| t.starts_with("text/plain")), "{:?}", plain.head);
    assert!(!plain.text().contains("# EOF"));
}

/// One access record for each request on each side, as JSON.
#[test]
fn each_request_leaves_an_access_record() {
    let pair = Pair::new(Link::H2);
    let fields = [("x-request-id", "the-one"), ("user-agent", "a \"quoted\" agent")];
    pair.connect().request("GET", "delta", "/bytes/7?q", &fields, None);
    for (side, direction) in [(&pair.alpha, "outbound"), (pair.delta(), "inbound")] {
        let record = side.access("for the request", |r| r["request_id"] == "the-one");
        assert_eq!(record["direction"], direction, "{record}");
        assert_eq!((&record["method"], &record["path"]), (&json!("GET"), &json!("/bytes/7?q")), "{record}");
        assert_eq!((record["response_code"].as_u64(), record["bytes_sent"].as_u64()), (Some(200), Some(7)), "{record}");
        assert_eq!(record["user_agent"], "a \"quoted\" agent");
        assert_eq!(record["reason"], "none");
    }
    let [there, here] =
        [pair.delta(), &pair.alpha].map(|side| side.access("once more", |r| r["request_id"] == "the-one"));
    assert!(here["trace_id"].is_string() && here["trace_id"] == there["trace_id"], "the trace that began here: {here}");
    client::get(pair.alpha.outbound(), "nobody.example", "/");
    let failed = pair.alpha.access("for the failure", |r| r["reason"] == "destination_not_found");
    assert_eq!(failed["upstream_service_time"], Value::Null, "nobody was asked: {failed}");
}

on_links! {
    /// Both ends of a link tell the same two addresses, also where one of them listens on all that it has.
    [H1, H2, H3] fn both_sides_know_the_addresses_of_a_link(link) {
        let (mesh, app) = (Mesh::new(), App::start());
        let delta = mesh.sidecar("delta").application(&app).with(json!({"inbound": {"listen": "0.0.0.0:0"}})).start();
        let alpha = mesh.sidecar("alpha").calls("delta", ([127, 0, 0, 1], delta.inbound().port()).into(), link).start();
        assert_eq!(client::get(alpha.outbound(), "delta", "/bytes/1").status(), 200);
        let [here, there] = [&alpha, &delta].map(|side| side.access("for the request", |r| r["path"] == "/bytes/1"));
        assert!(here["upstream_local_address"].is_string(), "{here}");
        assert_eq!(here["upstream_local_address"], there["downstream_remote_address"], "{here} {there}");
        assert_eq!(here["upstream_host"], there["downstream_local_address"], "{here} {there}");
    }
}

/// How long who was asked took is not how long the caller took to ask.
#[test]
fn the_time_of_the_service_begins_when_it_is_asked() {
    let fault = json!({"services": {"delta": {"fault": {"delay": {"fixed": "1s", "percentage": "100%"}}}}});
    let pair = Pair::with(Link::H2, App::start(), |alpha| alpha.with(fault), |delta| delta);
    pair.get("/bytes/7");
    let record = pair.alpha.access("for the request", |r| r["response_flags"] == "DI");
    let [whole, service] = ["duration", "upstream_service_time"].map(|key| record[key].as_u64().expect("milliseconds"));
    assert!(whole - service >= 1000, "the wait is not the service's: {record}");
}

/// A pipe as its path: it waits for nobody who reads it, and neither does the end.
#[test]
fn an_access_log_that_nobody_reads_stops_nothing() {
    let mesh = Mesh::new();
    let pipe = mesh.dir().join("access.pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().is_ok_and(|made| made.success()));
    let alpha = mesh.sidecar("alpha").with(json!({"telemetry": {"access_log": {"path": "access.pipe"}}})).start();
    let mut client = Client::connect(alpha.outbound());
    let path = format!("/{}", "x".repeat(1000));
    // More than a pipe holds (pipe(7): 64 KiB).
    for _ in 0..100 {
        assert_eq!(client.get("nobody", &path).status(), 404);
    }
    let mut lines = BufReader::new(File::open(&pipe).expect("a pipe")).lines();
    let first: Value = serde_json::from_str(&lines.next().expect("a line").expect("text")).expect("JSON");
    assert_eq!(first["path"], path);
    alpha.signal("TERM");
    assert!(alpha.wait().success());
}

/// What is asked is answered although who reads the log has stopped, and the end comes.
#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let mesh = Mesh::new();
    mesh.file("alpha.yaml", "{node: {service: alpha}, outbound: {listen: 127.0.0.1:0}, admin: {listen: 127.0.0.1:0}}");
    let mut alpha = command(&["--log-format", "json", "run", "--until-stdin-closes", "-c", "alpha.yaml"]);
    alpha.current_dir(mesh.dir()).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut alpha = alpha.spawn().expect("lacis runs");
    let mut lines = BufReader::new(alpha.stderr.take().expect("piped")).lines();
    let outbound = lines.find_map(|line| {
        let line: Value = serde_json::from_str(&line.expect("text")).expect("JSON");
        (line["listener"] == "outbound").then(|| line["address"].as_str().and_then(|text| text.parse().ok()))?
    });
    let mut client = Client::connect(outbound.expect("it listens"));
    let host = "x".repeat(200);
    for _ in 0..400 {
        assert_eq!(client.get(&host, "/").status(), 404);
    }
    assert!(Command::new("kill").arg(alpha.id().to_string()).status().is_ok_and(|sent| sent.success()));
    assert!(alpha.wait().expect("a child of ours").success());
}

/// `/ready` says what is missing, `/live` says that it lives.
#[test]
fn readiness_is_said_in_words() {
    let pair = Pair::new(Link::H2);
    assert_eq!((pair.alpha.admin_get("/ready").status(), pair.alpha.admin_get("/live").status()), (200, 200));
    assert_eq!(pair.alpha.admin_get("/nothing-here").status(), 404);
}

/// `/config` shows what is in force and what was bound, and no key.
#[test]
fn the_config_page_shows_what_was_bound() {
    let pair = Pair::new(Link::H2);
    let text = pair.alpha.admin_get("/config").text();
    for address in [pair.alpha.outbound(), pair.alpha.admin(), pair.alpha.service("delta")] {
        assert!(text.contains(&address.to_string()), "{address} in {text}");
    }
    assert!(!text.contains("BEGIN"), "PEM in {text}");
}

/// `/clusters` shows each service's endpoints.
#[test]
fn the_clusters_page_shows_endpoints() {
    let pair = Pair::new(Link::H2);
    pair.get("/bytes/1");
    let text = pair.alpha.admin_get("/clusters").text();
    assert!(text.contains("delta") && text.contains(&pair.delta().inbound().to_string()), "{text}");
}

/// `/clusters` shows the application beside a service of its name: one file may be for all sidecars of a mesh.
#[test]
fn the_clusters_page_shows_the_own_service_and_the_application() {
    let (mesh, elsewhere) = (Mesh::new(), unused());
    let application = unused();
    let alpha = mesh.sidecar("alpha").application_at(application).calls("alpha", elsewhere, Link::H2).start();
    let clusters = alpha.admin_get("/clusters").json()["workers"][0]["clusters"].clone();
    let address = |name: &str| clusters[name]["endpoints"][0]["address"].clone();
    assert_eq!(
        (address("alpha"), address("alpha (application)")),
        (json!(elsewhere.to_string()), json!(application.to_string()))
    );
}

/// The log level can be changed while it runs.
#[test]
fn the_log_level_can_be_changed() {
    let pair = Pair::new(Link::H2);
    let answer = client::request(pair.alpha.admin(), "POST", "localhost", "/logging?level=error", &[], Some(b""));
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let wrong = client::request(pair.alpha.admin(), "POST", "localhost", "/logging?level=loud", &[], Some(b""));
    assert_eq!(wrong.status(), 400, "{}", wrong.text());
}

/// The log is JSON lines with the documented fields.
#[test]
fn log_lines_have_their_fields() {
    let pair = Pair::new(Link::H2);
    for line in pair.alpha.err.all() {
        let value: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
        for field in ["timestamp", "level", "target", "message"] {
            assert!(value[field].is_string(), "{field} in {line}");
        }
        let level = value["level"].as_str().unwrap_or_default();
        assert!(["trace", "debug", "info", "warn", "error", "critical"].contains(&level), "{line}");
    }
}

/// Labels are bounded whatever strangers send.
#[test]
fn strangers_do_not_make_labels() {
    let mesh = Mesh::new();
    let app = App::start();
    let alpha = mesh.sidecar("alpha").calls("delta", app.address(), Link::Plaintext).start();
    let mut client = client::Client::connect(alpha.outbound());
    for n in 0..50 {
        client.request(&format!("METHOD{n}"), &format!("host-{n}.example"), "/", &[], None);
        client.request(&format!("METHOD{n}"), "delta", &format!("/path-{n}"), &[], None);
    }
    alpha.counts(100.0, "lacis_requests_total", &[]);
    let series = alpha.metrics().select("lacis_requests_total", &[]).count();
    assert!(series <= 4, "{series} series from 100 made-up requests");
}
