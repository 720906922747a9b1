//! Why a request ended as it did: what is kept, who may ask for it, and what it says.

use std::process::Output;

use lacis_tests::wire::Response;
use lacis_tests::{App, Link, Mesh, Pair, Sidecar, TRUST_DOMAIN, command, on_links, until, unused};
use serde_json::{Value, json};

/// The records of one id, once there are so many.
fn records(sidecar: &Sidecar, id: &str, count: usize) -> Vec<Value> {
    until(&format!("{count} records of {id}"), || {
        let answer = sidecar.admin_get(&format!("/requests/{id}"));
        let all = (answer.status() == 200).then(|| answer.json()["requests"].as_array().cloned()).flatten()?;
        (all.len() == count).then_some(all)
    })
}

fn steps<'a>(record: &'a Value, kind: &str) -> Vec<&'a Value> {
    record["steps"].as_array().expect("a list").iter().filter(|step| step["step"] == kind).collect()
}

fn lacis_why(sidecar: &Sidecar, more: &[&str]) -> Output {
    let admin = sidecar.admin().to_string();
    command(&["why", "--admin", &admin]).args(more).output().expect("lacis runs")
}

/// The identity of the caller's sidecar.
fn alpha() -> String {
    format!("spiffe://{TRUST_DOMAIN}/ns/default/sa/alpha")
}

fn send(pair: &Pair, id: &str, fields: &[(&str, &str)]) -> Response {
    pair.connect().request("GET", "delta", "/echo", &[&[("x-request-id", id)][..], fields].concat(), None)
}

/// What the application was sent of a field.
fn arrived(answer: &Response, name: &str) -> Vec<String> {
    let seen: Value = answer.json();
    let fields = seen["fields"].as_array().expect("a list").iter().filter(|field| field[0] == name);
    fields.map(|field| field[1].as_str().unwrap_or_default().to_owned()).collect()
}

on_links! {
    /// Both sidecars know their part, under the id that the access log has; no credential is in it.
    [H2, H3] fn a_request_is_explained_on_both_sides(link) {
        let why = json!({"telemetry": {"why": {}}});
        let rule = json!({"routes": [{"service": "delta", "rules": [{"name": "all"}]}]});
        let pair = Pair::inside(
            Mesh::new(), link, App::start(), |alpha| alpha.with(why.clone()).with(rule), |delta| delta.with(why.clone()),
        );
        let secret = [("authorization", "Bearer hunter2"), ("cookie", "session=hunter2"), ("x-lacis-why", "1")];
        let answer = pair.connect().request(
            "GET", "delta", "/echo?key=hunter2", &[&[("x-request-id", "me")][..], &secret[..]].concat(), None,
        );
        assert_eq!((answer.status(), answer.field("x-lacis-why")), (200, Some("me")));
        assert_eq!(arrived(&answer, "x-lacis-why"), [""; 0], "alpha is nobody whom delta was told to trust");
        let out = &records(&pair.alpha, "me", 1)[0];
        assert_eq!((&out["direction"], &out["service"], &out["route"]), (&json!("outbound"), &json!("delta"), &json!("delta/all")));
        assert_eq!((&out["status"], &out["link"], &out["attempts"]), (&json!(200), &json!(link.name()), &json!(1)));
        assert_eq!((&out["path"], &out["query"]), (&json!("/echo"), &json!(true)));
        let endpoint = pair.delta().inbound().to_string();
        assert_eq!(steps(out, "chosen")[0]["endpoint"], endpoint);
        assert_eq!(steps(out, "chosen")[0]["considered"][0]["standing"], "fine");
        assert_eq!(steps(out, "link")[0]["because"], "configured");
        assert_eq!(steps(out, "answered")[0]["status"], 200);
        let back = &records(pair.delta(), "me", 1)[0];
        assert_eq!(back["caller"]["identity"], json!(alpha()));
        assert_eq!(steps(back, "chosen")[0]["endpoint"], pair.app.address().to_string());

        let told = lacis_why(&pair.alpha, &["me"]);
        let text = String::from_utf8(told.stdout).expect("text");
        assert!(told.status.success() && text.starts_with(&format!("200: delta answered 200 over {}\n", link.name())), "{text}");
        assert!(text.contains("it follows the rule delta/all") && text.contains(&endpoint), "{text}");
        let told = lacis_why(&pair.alpha, &["me", "--output", "json"]);
        let json: Value = serde_json::from_slice(&told.stdout).expect("JSON");
        assert_eq!(json["requests"][0]["id"], "me");
        for page in [text, json.to_string(), pair.delta().admin_get("/requests").text()] {
            assert!(!page.contains("hunter2"), "{page}");
        }
        let none = lacis_why(&pair.alpha, &["nobody"]);
        let said = String::from_utf8(none.stderr).expect("text");
        assert_eq!(none.status.code(), Some(1));
        assert!(said.contains("no record of the request \"nobody\""), "{said}");
    }
}

/// What a failure says: the breaker's words, the endpoints', and whether it was tried again.
#[test]
fn a_failure_is_explained() {
    let breaker = json!({"failures": "60%", "requests": 3, "window": "1h", "open": "1h", "probes": 1});
    let config = json!({
        "telemetry": {"why": {"header": "failed"}},
        "services": {"delta": {"breaker": breaker, "retries": {"attempts": 1, "on": [503]}}},
    });
    let pair = Pair::inside(Mesh::new(), Link::Plaintext, App::start(), |a| a.with(config), |delta| delta);
    assert_eq!(send(&pair, "well", &[]).field("x-lacis-why"), None, "nothing failed, and nobody asked");
    let fails = |method: &str, id: &str| {
        pair.connect().request(method, "delta", "/status/503", &[("x-request-id", id)], Some(b""))
    };
    let answer = fails("POST", "once");
    assert_eq!((answer.status(), answer.field("x-lacis-why")), (503, Some("once")));
    let once = &records(&pair.alpha, "once", 1)[0];
    assert!(
        once["why"]
            .as_str()
            .is_some_and(|why| why.contains("delta answered 503 itself") && why.contains("neither its method")),
        "{once}"
    );
    assert_eq!(fails("GET", "twice").status(), 503);
    let twice = &records(&pair.alpha, "twice", 1)[0];
    assert_eq!(
        (steps(twice, "sent").len(), steps(twice, "again").len(), steps(twice, "not_again").len()),
        (2, 1, 1),
        "{twice}"
    );
    let answer = fails("GET", "refused");
    assert_eq!(answer.field("x-lacis-why"), Some("refused"));
    let told = String::from_utf8(lacis_why(&pair.alpha, &["refused"]).stdout).expect("text");
    assert!(told.starts_with("503 breaker_open: too many requests to delta failed"), "{told}");
    assert!(
        told.contains("delta has 1 endpoint; its breaker is open for another ") && told.contains(" 2 failed"),
        "{told}"
    );
    let nowhere = pair.connect().request("GET", "nobody", "/", &[("x-request-id", "lost")], None);
    assert_eq!((nowhere.status(), nowhere.field("x-lacis-why")), (404, Some("lost")));
    assert_eq!(records(&pair.alpha, "lost", 1)[0]["why"], "no service has the host \"nobody\"");
}

/// Only the last ones are kept, of the share that is wanted; who asks is always heard, if it may ask.
#[test]
fn what_is_kept_and_who_may_ask() {
    let link = Link::H2;
    let mut pair = Pair::inside(
        Mesh::new(),
        link,
        App::start(),
        |alpha| alpha.with(json!({"telemetry": {"why": {"keep": 3}}})),
        |delta| delta.with(json!({"telemetry": {"why": {"sample": "0%"}}})),
    );
    (0..4).for_each(|i| assert_eq!(send(&pair, &format!("r{i}"), &[]).status(), 200));
    records(&pair.alpha, "r3", 1);
    assert_eq!(pair.alpha.admin_get("/requests/r0").status(), 404);
    let last = pair.alpha.admin_get("/requests").json();
    let ids: Vec<_> = last["requests"].as_array().expect("a list").iter().map(|one| one["id"].clone()).collect();
    assert_eq!(ids, ["r3", "r2", "r1"]);

    // A peer is heard only where its identity is named; its word goes no further otherwise.
    let asks = [("x-lacis-why", "yes")];
    assert_eq!(arrived(&send(&pair, "stranger", &asks), "x-lacis-why"), [""; 0]);
    records(&pair.alpha, "stranger", 1);
    assert_eq!(pair.delta().admin_get("/requests/stranger").status(), 404);
    pair.delta_mut().reload(json!({"telemetry": {"why": {"trusted": [alpha()]}}}));
    let answer = send(&pair, "friend", &asks);
    assert_eq!(
        (answer.field("x-lacis-why"), arrived(&answer, "x-lacis-why")),
        (Some("friend"), vec!["yes".to_owned()])
    );
    records(pair.delta(), "friend", 1);

    // An id of our own is one that can be found, in the log as well.
    let answer = pair.connect().request("GET", "delta", "/echo", &asks, None);
    let id = answer.field("x-lacis-why").expect("an id").to_owned();
    records(&pair.alpha, &id, 1);
    pair.alpha.access("the one with a new id", |record| record["request_id"] == *id);

    pair.alpha.reload(json!({"telemetry": {"why": null}}));
    assert_eq!(pair.alpha.admin_get("/requests").json()["requests"], json!([]));
    assert_eq!(arrived(&send(&pair, "off", &asks), "x-lacis-why"), ["yes"], "without it, it is a field like any other");
    let none = lacis_why(&pair.alpha, &[]);
    assert!(String::from_utf8(none.stderr).expect("text").contains("`telemetry.why`"));
}

/// Which endpoints were compared, and which were passed over for how they are.
#[test]
fn what_a_choice_has_looked_at() {
    let why = json!({"telemetry": {"why": {}}});
    let mut pair = Pair::inside(Mesh::new(), Link::Plaintext, App::start(), |a| a.with(why), |delta| delta);
    let live = pair.app.address().to_string();
    let dead = unused().to_string();
    pair.alpha.reload(json!({"services": {"delta": {"endpoints": [live, dead]}}}));
    let record = |id: &str| {
        assert_eq!(send(&pair, id, &[]).status(), 200);
        records(&pair.alpha, id, 1).remove(0)
    };
    let failed = (0..100).map(|i| record(&format!("r{i}"))).find(|record| !steps(record, "failed").is_empty());
    let failed = failed.expect("one that went to the dead one first");
    let chosen = steps(&failed, "chosen");
    assert_eq!((&chosen[0]["endpoint"], &chosen[1]["endpoint"]), (&json!(dead), &json!(live)), "{failed}");
    let compared = chosen[0]["considered"].as_array().expect("a list");
    assert!(compared.len() == 2 && compared.iter().all(|one| one["score"].is_number()), "{failed}");
    assert_eq!(chosen[1]["considered"][0]["standing"], "fine");
    assert_eq!(chosen[1]["considered"][1]["standing"], "unreachable");
}

/// As many as may be asked for are told, however much each has to say.
#[test]
fn the_last_thousand_are_told() {
    let why = json!({"telemetry": {"why": {}}});
    let pair = Pair::inside(Mesh::new(), Link::Plaintext, App::start(), |a| a.with(why), |delta| delta);
    let (mut client, path) = (pair.connect(), format!("/{}", "long".repeat(120)));
    for id in 0..1000 {
        let answer = client.request("GET", "nobody", &path, &[("x-request-id", &id.to_string())], None);
        assert_eq!(answer.status(), 404);
    }
    records(&pair.alpha, "999", 1);
    let told = lacis_why(&pair.alpha, &["--limit", "1000", "--output", "json"]);
    let all: Value = serde_json::from_slice(&told.stdout).unwrap_or_else(|error| panic!("{error}: {told:?}"));
    assert_eq!(all["requests"].as_array().map(Vec::len), Some(1000));
    assert!(told.stdout.len() > 1 << 20, "{} bytes", told.stdout.len());
}
