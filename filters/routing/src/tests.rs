use std::collections::BTreeMap;
use std::time::Duration;

use lacis_sdk::testing::{Answer, Message, Plugin};

use super::*;

fn plugin(rules: &str) -> Plugin<Routing> {
    Plugin::configure(&format!(r#"{{"rules": {rules}}}"#)).unwrap()
}

/// Where a request to `delta` goes.
fn service(plugin: &Plugin<Routing>, request: Message) -> String {
    plugin.exchange().request(request.header(":authority", "delta")).unwrap().value(":authority").unwrap()
}

fn user(name: &str) -> Message {
    Message::get("/").header("x-user", name)
}

#[test]
fn the_first_rule_that_matches_decides() {
    let plugin = plugin(
        r#"[
        {"match": [{"from": {"header": "x-canary"}, "value": "yes"}], "to": [{"service": "delta-v2"}]},
        {"match": [{"from": {"cookie": "beta"}, "value": "1"}, {"from": "method", "value": "GET"}],
            "to": [{"service": "delta-beta"}]},
        {"match": [{"from": "path", "prefix": "/v2/"}], "to": [{"service": "delta-v2:8080"}]}
    ]"#,
    );
    for (request, expected) in [
        (Message::get("/").header("x-canary", "yes"), "delta-v2"),
        (Message::get("/v2/a").header("x-canary", "yes!"), "delta-v2:8080"),
        (Message::get("/v2/a").header("cookie", "a=b; beta=1"), "delta-beta"),
        (Message::request("POST", "/v2/a").header("cookie", "beta=1"), "delta-v2:8080"),
        (Message::get("/v1/a?/v2/").header("x-canary", b"\xff"), "delta"),
    ] {
        assert_eq!(service(&plugin, request), expected);
    }
    let request = Message::get("/v2/a").header(":authority", "delta").header("x-forwarded-host", "forged");
    assert_eq!(plugin.exchange().request(request).unwrap().value("x-forwarded-host").unwrap(), "delta");
}

#[test]
fn one_user_is_always_on_the_same_side() {
    let share = |percent: f64| {
        let rules =
            format!(r#"[{{"percent": {percent}, "by": {{"header": "x-user"}}, "to": [{{"service": "new"}}]}}]"#);
        let plugin = plugin(&rules);
        let chosen = (0..1000).filter(|number| {
            let name = format!("u{number}");
            let first = service(&plugin, user(&name));
            assert_eq!(service(&plugin, user(&name)), first);
            first == "new"
        });
        chosen.collect::<Vec<_>>()
    };
    let (none, few, half, all) = (share(0.0), share(5.0), share(50.0), share(100.0));
    assert_eq!((none.len(), all.len()), (0, 1000));
    assert!((30..70).contains(&few.len()) && (450..550).contains(&half.len()), "{} {}", few.len(), half.len());
    assert!(few.iter().all(|user| half.contains(user)), "a canary that grows keeps those whom it has");
}

#[test]
fn weights_share_users_out() {
    let plugin = plugin(
        r#"[{"by": {"header": "x-user"}, "to": [{"service": "a", "weight": 60}, {"service": "b", "weight": 0},
            {"service": "c", "weight": 40}]}]"#,
    );
    let mut shares = BTreeMap::new();
    for number in 0..1000 {
        let name = format!("u{number}");
        let first = service(&plugin, user(&name));
        assert_eq!(service(&plugin, user(&name)), first);
        *shares.entry(first).or_insert(0) += 1;
    }
    assert!((550..650).contains(&shares["a"]) && shares["a"] + shares["c"] == 1000, "{shares:?}");
}

#[test]
fn without_a_user_each_request_is_on_its_own() {
    let plugin = plugin(r#"[{"percent": 25.5, "by": {"header": "x-user"}, "to": [{"service": "new"}]}]"#);
    for (random, expected) in [(0, "new"), (2549, "new"), (2550, "delta"), (9999, "delta"), (10_000, "new")] {
        plugin.set_random([random]);
        assert_eq!(service(&plugin, Message::get("/")), expected, "{random}");
    }
}

#[test]
fn a_rule_holds_in_its_time() {
    let plugin = plugin(r#"[{"during": {"from": "2026-12-01T08:00:00Z"}, "to": [{"service": "new"}]}]"#);
    plugin.set_unix_time(Duration::from_secs(1_796_111_999));
    assert_eq!(service(&plugin, Message::get("/")), "delta");
    plugin.set_unix_time(Duration::from_secs(1_796_112_000));
    assert_eq!(service(&plugin, Message::get("/")), "new");
}

#[test]
fn what_is_to_be_mirrored_is_marked_and_nobody_else_can_mark_it() {
    let plugin =
        plugin(r#"[{"match": [{"from": {"header": "x-mirror"}}], "mirror": "twin"}, {"to": [{"service": "new"}]}]"#);
    let pass = |request: Message| {
        let passed = plugin.exchange().request(request.header("x-mirror-to", "forged")).unwrap();
        (passed.value(":authority").unwrap(), passed.value("x-mirror-to"))
    };
    assert_eq!(pass(Message::get("/").header("x-mirror", "")), ("new".to_owned(), Some("twin".to_owned())));
    assert_eq!(pass(Message::get("/")), ("new".to_owned(), None));
}

#[test]
fn a_copy_goes_to_the_shadow() {
    let plugin = plugin(r#"[{"match": [{"from": {"header": "x-shadow"}}], "shadow": "twin"}]"#);
    plugin.on_call("twin", |_| Answer::new(500));
    let request = Message::get("/a?b").header("x-shadow", "1").header("connection", "close").header("x-bytes", b"\xff");
    assert_eq!(service(&plugin, request), "delta");
    service(&plugin, Message::get("/"));
    service(&plugin, Message::post("/").header("x-shadow", "1").body("text"));
    plugin.advance(Duration::from_millis(1));
    let calls = plugin.calls();
    assert_eq!(calls.len(), 1, "bodies are not copied");
    let call = &calls[0];
    assert_eq!(
        (call.path(), call.value(":authority").unwrap(), call.value("x-shadow").unwrap()),
        ("/a?b".to_owned(), "delta-shadow".to_owned(), "1".to_owned())
    );
    assert_eq!((call.value("connection"), call.value("x-bytes")), (None, None));
}

#[test]
fn mistakes_are_named() {
    let to = r#""to": [{"service": "a"}]"#;
    for (config, why) in [
        (String::new(), "missing field `rules`"),
        (r#"{"rules": []}"#.to_owned(), "`rules` is empty"),
        (r#"{"rules": [{}]}"#.to_owned(), "rules[0]: it does nothing"),
        (r#"{"rules": [{"to": [{"service": "a b"}]}]}"#.to_owned(), "\"a b\" is no name of a service"),
        (r#"{"rules": [{"mirror": ""}]}"#.to_owned(), "no name of a service"),
        (r#"{"rules": [{"to": [{"service": "a", "weight": 0}]}]}"#.to_owned(), "a weight above 0"),
        (r#"{"rules": [{"to": [{"service": "a", "weight": 1000001}]}]}"#.to_owned(), "0 to 1000000"),
        (format!(r#"{{"rules": [{{"percent": 100.01, {to}}}]}}"#), "it may be 0 to 100"),
        (format!(r#"{{"rules": [{{"percent": -1, {to}}}]}}"#), "it may be 0 to 100"),
        (format!(r#"{{"rules": [{{"by": "identity", {to}}}]}}"#), "`by` needs `percent`"),
        (
            format!(r#"{{"rules": [{{"match": [{{"from": {{"header": "a b"}}}}], {to}}}]}}"#),
            "match[0]: \"a b\" is no name",
        ),
        (format!(r#"{{"rules": [{{"during": {{}}, {to}}}]}}"#), "during: it needs one of"),
        (format!(r#"{{"rules": [{{"header": "a", {to}}}]}}"#), "unknown field `header`, expected one of `match`"),
        (format!(r#"{{"rules": [{{{to}}}], "mark": "a b"}}"#), "no name of a header"),
    ] {
        let error = Plugin::<Routing>::configure(&config).err().unwrap();
        assert!(error.contains(why), "{config}: {error}");
    }
}

#[test]
fn the_schema_is_the_one_in_the_file() {
    lacis_filter_parts::schema::matches_file::<Config>(env!("CARGO_MANIFEST_DIR")).unwrap();
}
