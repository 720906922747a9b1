use lacis_sdk::testing::{Message, Plugin};

use super::*;

fn plugin(config: &str) -> Plugin<Transform> {
    Plugin::configure(config).unwrap()
}

fn json(body: &str) -> Message {
    Message::post("/").header("content-type", "application/json").body(body)
}

#[test]
fn headers_of_requests_are_changed_in_order() {
    let plugin = plugin(
        r#"{"request": {"headers": [
            {"remove": "x-user"},
            {"set": "x-user", "value": "${identity|nobody}"},
            {"rename": "x-old", "to": "x-new"},
            {"copy": "x-new", "to": "x-copy"},
            {"add": "x-new", "value": "${header:x-copy}!"},
            {"set": "x-token", "value": "Bearer ${cookie:token}"},
            {"set": ":path", "value": "/v2${path}"}
        ]}}"#,
    );
    let request =
        Message::get("/a?b").header("x-user", "forged").header("x-old", "1").header("X-Old", "2").header("x-copy", "0");
    let passed = plugin.exchange().request(request).unwrap();
    let all = |name: &str| {
        let lines = passed.headers().iter().filter(|(own, _)| own == name);
        lines.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect::<Vec<_>>()
    };
    assert_eq!(all("x-user"), ["nobody"]);
    assert_eq!(all("x-old"), [""; 0]);
    assert_eq!(all("x-new"), ["1", "2", "1!"]);
    assert_eq!(all("x-copy"), ["1", "2"]);
    assert_eq!(all("x-token"), [""; 0], "no cookie, no header");
    assert_eq!(all(":path"), ["/v2/a"]);
    let exchange = plugin.exchange().attribute("connection.uri_san_peer_certificate", "spiffe://a/b");
    let mut exchange = exchange;
    let passed = exchange.request(Message::get("/").header("cookie", "token=t")).unwrap();
    assert_eq!(passed.value("x-user").unwrap(), "spiffe://a/b");
    assert_eq!(passed.value("x-token").unwrap(), "Bearer t");
}

#[test]
fn a_line_break_of_a_caller_becomes_no_header() {
    let plugin = plugin(r#"{"request": {"headers": [{"set": "x-q", "value": "${query:q}"}]}}"#);
    assert!(plugin.exchange().request(Message::get("/?q=a%20b")).is_ok());
    assert_eq!(plugin.exchange().request(Message::get("/?q=a%0d%0ab:c")).unwrap_err().status(), 400);
}

#[test]
fn responses_know_their_requests() {
    let plugin = plugin(
        r#"{"response": {"headers": [
            {"set": "x-was", "value": "${method} ${header:x-user} ${status} ${response:etag}"},
            {"set": ":status", "value": "299"}], "json": [{"set": "/by", "value": "${header:x-user}"}]}}"#,
    );
    let mut exchange = plugin.exchange();
    exchange.request(Message::get("/").header("x-user", "ada")).unwrap();
    let response = Message::response(200).header("etag", "e").header("content-type", "application/json");
    let passed = exchange.response(response.header("content-length", "2").body("{}")).unwrap();
    assert_eq!((passed.value("x-was").unwrap().as_str(), passed.status()), ("GET ada 200 e", 299));
    assert_eq!(passed.text(), r#"{"by":"ada"}"#);
    assert_eq!((passed.value("content-length").as_deref(), passed.value("etag")), (Some("12"), None));
}

#[test]
fn json_of_requests_is_changed() {
    let plugin = plugin(
        r#"{"request": {"json": [
            {"set": "/user", "value": {"name": "${header:x-user|nobody}", "admin": false}},
            {"remove": "/secret"},
            {"rename": "/old", "to": "/new/place"},
            {"set": "/nothing", "value": null}
        ]}}"#,
    );
    let request = json(r#"{"secret": 1, "old": 1.50, "user": 3}"#)
        .header("x-user", "ada")
        .header("content-digest", "sha-256=:a:");
    let passed = plugin.exchange().request(request).unwrap();
    assert_eq!(passed.text(), r#"{"user":{"admin":false,"name":"ada"},"new":{"place":1.50},"nothing":null}"#);
    assert_eq!(passed.value("content-digest"), None);
    let whole = json("[1 ]").header("content-digest", "sha-256=:a:");
    assert_eq!(plugin.exchange().request(whole.clone()), Ok(whole), "what is not changed stays byte for byte");
}

#[test]
fn what_is_not_json_passes_or_is_refused() {
    let change = r#""request": {"json": [{"remove": "/a"}]}, "response": {"json": [{"remove": "/a"}]}"#;
    let pass = plugin(&format!("{{{change}}}"));
    let refuse = plugin(&format!(r#"{{{change}, "not_json": "refuse"}}"#));
    for (request, status) in [
        (json("{").header("x-a", "b"), 400),
        (json("\"\u{fe}"), 400),
        (Message::post("/").body("{}"), 415),
        (json("{}").header("content-encoding", "gzip"), 415),
    ] {
        assert_eq!(pass.exchange().request(request.clone()), Ok(request.clone()));
        assert_eq!(refuse.exchange().request(request).unwrap_err().status(), status);
    }
    for plugin in [&pass, &refuse] {
        assert!(plugin.exchange().request(Message::get("/")).is_ok(), "no body, nothing to change");
    }
    let answer = |plugin: &Plugin<Transform>, body: &str| {
        let mut exchange = plugin.exchange();
        exchange.request(Message::get("/")).unwrap();
        exchange.response(Message::response(200).header("content-type", "application/json").body(body))
    };
    assert_eq!(answer(&refuse, "<html>").unwrap_err().status(), 502);
    assert_eq!(answer(&pass, "<html>").unwrap().text(), "<html>");
    assert_eq!(answer(&refuse, r#"{"a":1}"#).unwrap().text(), "{}");
}

#[test]
fn the_limit_is_where_it_says() {
    let plugin = plugin(r#"{"request": {"json": [{"remove": "/a"}]}, "limit": 9}"#);
    assert_eq!(plugin.exchange().request(json(r#"{"a":123}"#)).unwrap().text(), "{}");
    assert_eq!(plugin.exchange().request(json(r#"{"a":1234}"#)).unwrap_err().status(), 413);
    let usual = self::plugin(r#"{"request": {"json": [{"remove": "/a"}]}}"#);
    let long = |bytes: usize| format!(r#"{{"a":1,"b":"{}"}}"#, "x".repeat(bytes - r#"{"a":1,"b":""}"#.len()));
    assert!(usual.exchange().request(json(&long(262_144))).is_ok());
    assert_eq!(usual.exchange().request(json(&long(262_145))).unwrap_err().status(), 413);
}

#[test]
fn mistakes_are_named() {
    for (config, why) in [
        ("", "it changes nothing"),
        (r#"{"request": {"headers": [{"set": "a"}]}}"#, "request.headers[0]: write {set: NAME, value: TEXT}"),
        (r#"{"request": {"headers": [{"set": "a", "remove": "b"}]}}"#, "write {set: NAME"),
        (r#"{"request": {"headers": [{"set": ":status", "value": "1"}]}}"#, "\":status\" is no name of a header"),
        (r#"{"request": {"headers": [{"remove": ":path"}]}}"#, "no name of a header"),
        (r#"{"request": {"headers": [{"set": "a", "value": "${status}"}]}}"#, "not there when the request passes"),
        (r#"{"response": {"json": [{"set": "a", "value": 1}]}}"#, "response.json[0]: \"a\" is no JSON Pointer"),
        (r#"{"response": {"json": [{"set": "/a"}]}}"#, "write {set: POINTER, value: JSON}"),
        (r#"{"response": {"json": [{"remove": ""}]}}"#, "can only be `set`"),
        (r#"{"response": {"json": [{"remove": "/a"}]}, "limit": 0}"#, "at least 1"),
        (r#"{"response": {"json": [{"delete": "/a"}]}}"#, "unknown field `delete`, expected one of `set`"),
        (r#"{"response": {}, "not_json": "drop"}"#, "expected `pass` or `refuse`"),
    ] {
        let error = Plugin::<Transform>::configure(config).err().unwrap();
        assert!(error.contains(why), "{config}: {error}");
    }
}

#[test]
fn the_schema_is_the_one_in_the_file() {
    lacis_filter_parts::schema::matches_file::<Config>(env!("CARGO_MANIFEST_DIR")).unwrap();
}
