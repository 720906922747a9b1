use std::cell::Cell;
use std::rc::Rc;

use lacis_sdk::testing::{Message, Plugin};
use prost::Message as _;
use service::{Header, Limit, OVER_LIMIT, Question, Reset, Status};

use super::*;

const RULE: &str = r#"{"name": "user", "by": [{"header": "x-user"}], "tokens": 2, "per": 10}"#;

fn plugin(rules: &str, more: &str) -> Plugin<Quota> {
    let plugin = Plugin::configure(&format!(r#"{{"rules": [{rules}]{more}}}"#)).unwrap();
    plugin.set_unix_time(Duration::from_secs(1_000_000));
    plugin
}

fn user(name: &str) -> Message {
    Message::get("/").header("x-user", name)
}

fn status(plugin: &Plugin<Quota>, request: Message) -> u16 {
    plugin.exchange().request(request).map_or_else(|reply| reply.status(), |_| 200)
}

#[test]
fn each_caller_has_a_bucket() {
    let plugin = plugin(RULE, "");
    assert_eq!(["ada", "ada", "bob", "ada"].map(|name| status(&plugin, user(name))), [200, 200, 200, 429]);
    let reply = plugin.exchange().request(user("ada")).unwrap_err();
    let headers: Vec<_> = reply.headers().collect();
    let expected =
        [("ratelimit-policy", "\"user\";q=2;w=10"), ("ratelimit", "\"user\";r=0;t=10"), ("retry-after", "5")];
    assert_eq!((headers.as_slice(), reply.content()), (&expected[..], &b"user: too many requests\n"[..]));
    plugin.advance(Duration::from_secs(5));
    assert_eq!([0; 2].map(|_| status(&plugin, user("ada"))), [200, 429]);
}

#[test]
fn responses_say_what_is_left() {
    let both = format!(r#"{RULE}, {{"name": "all", "tokens": 100, "per": 1}}"#);
    let plugin_with = plugin(&both, "");
    let answered = |plugin: &Plugin<Quota>| {
        let mut exchange = plugin.exchange();
        exchange.request(user("ada")).unwrap();
        let response = exchange.response(Message::response(200)).unwrap();
        (response.value("ratelimit-policy"), response.value("ratelimit"))
    };
    let text = |text: &str| Some(text.to_owned());
    let told = (text("\"user\";q=2;w=10, \"all\";q=100;w=1"), text("\"user\";r=1;t=5, \"all\";r=99;t=1"));
    assert_eq!(answered(&plugin_with), told);
    assert_eq!(answered(&plugin(&both, r#", "headers": false"#)), (None, None));
}

#[test]
fn requests_cost_what_they_say() {
    let plugin = plugin(
        r#"{"name": "a", "tokens": 10, "per": 10, "burst": 12}"#,
        r#", "cost": 5, "cost_from": {"header": "x-cost"}"#,
    );
    let cost = |cost: &str| status(&plugin, Message::get("/").header("x-cost", cost));
    assert_eq!([cost("13"), cost("5"), cost("many"), cost("3"), cost("0"), cost("2")], [429, 200, 200, 429, 200, 200]);
    let never = plugin.exchange().request(Message::get("/").header("x-cost", "13")).unwrap_err();
    assert_eq!(never.header_value("retry-after"), None);
}

#[test]
fn who_has_no_name_shares_passes_or_is_refused() {
    let with = |without: &str| plugin(&RULE.replace("\"tokens\"", &format!(r#""without": "{without}", "tokens""#)), "");
    for (without, statuses) in [("share", [200, 200, 429]), ("pass", [200; 3]), ("refuse", [429; 3])] {
        let plugin = with(without);
        assert_eq!([0; 3].map(|_| status(&plugin, Message::get("/"))), statuses, "{without}");
        assert_eq!(status(&plugin, user("-")), 200, "a caller of that name is somebody else");
    }
}

#[test]
fn rules_are_for_what_matches_and_values_are_kept_apart() {
    let plugin = plugin(
        r#"{"name": "w", "match": [{"from": "method", "value": "POST"}], "by": [{"header": "a"}, {"header": "b"}],
            "tokens": 1, "per": 1}"#,
        "",
    );
    let post = |a: &str, b: &str| Message::post("/").header("a", a).header("b", b);
    assert_eq!(
        [("x;1:y", ""), ("x", "1:y;"), ("x", "y"), ("x", "y")].map(|(a, b)| status(&plugin, post(a, b))),
        [200, 200, 200, 429]
    );
    assert_eq!([0; 3].map(|_| status(&plugin, Message::get("/"))), [200; 3]);
}

const SERVICE: &str = r#"{"service": {"service": "limits", "domain": "shop", "descriptors": [
    {"entries": [{"key": "user", "from": {"header": "x-user"}}, {"key": "kind", "value": "read"}]},
    {"match": [{"from": "method", "value": "POST"}], "entries": [{"key": "write", "value": "1"}]}]}, "cost": 3MORE}"#;

fn asking(more: &str) -> Plugin<Quota> {
    Plugin::configure(&SERVICE.replace("MORE", more)).unwrap()
}

fn header(name: &str, value: &str, raw: &[u8]) -> Header {
    Header { name: name.to_owned(), value: value.to_owned(), raw: raw.to_owned() }
}

#[test]
fn a_service_is_asked_and_obeyed() {
    let plugin = asking("");
    let asked = Rc::new(Cell::new(0));
    let count = Rc::clone(&asked);
    plugin.on_grpc("limits", move |call| {
        count.set(count.get() + 1);
        let question = Question::decode(call.body()).unwrap();
        let over = question.descriptors.len() == 2;
        assert_eq!((question.domain.as_str(), question.hits), ("shop", 3));
        let entries = &question.descriptors[0].entries;
        assert_eq!(
            (entries[0].key.as_str(), entries[0].value.as_str(), entries[1].value.as_str()),
            ("user", "ada", "read")
        );
        let status = |remaining, seconds| Status {
            code: 1,
            limit: Some(Limit { requests: 100 }),
            remaining,
            reset: Some(Reset { seconds, nanos: 1 }),
        };
        let told = service::Told {
            overall: if over { OVER_LIMIT } else { 1 },
            statuses: vec![status(9, 1), status(4, 59), Status { code: 1, limit: None, remaining: 0, reset: None }],
            response_headers: vec![header("x-told", "a", b""), header("bad name", "a", b"")],
            request_headers: vec![header("x-plan", "", b"gold"), header("x-bad", "a\nb", b"")],
        };
        Ok(told.encode_to_vec())
    });
    let mut exchange = plugin.exchange();
    let passed = exchange.request(user("ada")).unwrap();
    assert_eq!((passed.value("x-plan").as_deref(), passed.value("x-bad")), (Some("gold"), None));
    let response = exchange.response(Message::response(200)).unwrap();
    assert_eq!(response.value("x-told").as_deref(), Some("a"));
    assert_eq!(response.value("ratelimit").as_deref(), Some("\"service\";r=4;t=60"));
    let reply = plugin.exchange().request(Message::post("/").header("x-user", "ada")).unwrap_err();
    let headers: Vec<_> = reply.headers().collect();
    let expected = [
        ("x-told", "a"),
        ("x-envoy-ratelimited", "true"),
        ("ratelimit", "\"service\";r=4;t=60"),
        ("retry-after", "60"),
    ];
    assert_eq!((reply.status(), headers.as_slice()), (429, &expected[..]));
    assert_eq!(asked.get(), 2);
    assert!(plugin.exchange().request(Message::get("/")).is_ok(), "nothing to ask about");
    assert_eq!(asked.get(), 2);
}

#[test]
fn a_service_that_does_not_answer_decides_nothing() {
    for (more, expected) in [("", 200), (r#", "failure": "closed""#, 503)] {
        let plugin = asking(more);
        plugin.on_grpc("limits", |_| Err(14));
        assert_eq!(status(&plugin, user("ada")), expected);
        plugin.on_grpc("limits", |_| Ok(vec![0xff]));
        assert_eq!(status(&plugin, user("ada")), expected);
    }
}

#[test]
fn mistakes_are_named_and_limits_checked_at_their_edges() {
    let rule = |rule: &str| format!(r#"{{"rules": [{rule}]}}"#);
    let keys = |keys: usize| format!(r#"{{"rules": [{RULE}], "keys": {keys}}}"#);
    let service = |from: &str, to: &str| SERVICE.replace("MORE", "").replace(from, to);
    let timeout = |timeout: &str| service(r#""domain""#, &format!(r#""timeout_ms": {timeout}, "domain""#));
    for config in [keys(8), keys(262_144), timeout("1"), timeout("60000")] {
        assert!(Plugin::<Quota>::configure(&config).is_ok(), "{config}");
    }
    for (config, why) in [
        (String::new(), "it needs `rules` or `service`"),
        (keys(7), "8 to 262144"),
        (keys(262_145), "8 to 262144"),
        (timeout("0"), "1 to 60000"),
        (timeout("60001"), "1 to 60000"),
        (rule(r#"{"name": "a b", "tokens": 1, "per": 1}"#), "rules[0]: \"a b\" is no name of a rule"),
        (rule(r#"{"name": "a", "tokens": 0, "per": 1}"#), "that rate cannot be kept"),
        (rule(r#"{"name": "a", "tokens": 1, "per": 1, "burst": 0}"#), "that rate cannot be kept"),
        (rule(r#"{"name": "a", "tokens": 1}"#), "missing field `per`"),
        (rule(r#"{"name": "a", "tokens": 1, "per": 1, "by": [{"header": ""}]}"#), "no name of a header"),
        (rule(r#"{"name": "a", "tokens": 1, "per": 1, "key": "b"}"#), "unknown field `key`, expected one of `name`"),
        (rule(&format!("{RULE}, {RULE}")), "rules[1]: there is a rule \"user\" before it"),
        (service(r#""limits""#, r#""a b""#), "service: \"a b\" is no name of a service"),
        (service(r#""shop""#, r#""""#), "`domain` is empty"),
        (
            service(r#""value": "1""#, r#""value": "1", "from": "path""#),
            "descriptors[1]: the entry \"write\" needs either",
        ),
    ] {
        let error = Plugin::<Quota>::configure(&config).err().unwrap();
        assert!(error.contains(why), "{config}: {error}");
    }
}

#[test]
fn the_schema_is_the_one_in_the_file() {
    lacis_filter_parts::schema::matches_file::<Config>(env!("CARGO_MANIFEST_DIR")).unwrap();
}
