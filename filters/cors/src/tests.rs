use lacis_sdk::testing::{Message, Plugin};

use super::*;

fn plugin(more: &str) -> Plugin<Cors> {
    Plugin::configure(&format!(r#"{{"origins": ["https://app.example", "https://*.dev.example"]{more}}}"#)).unwrap()
}

fn preflight(origin: &str) -> Message {
    Message::request("OPTIONS", "/").header("origin", origin).header("access-control-request-method", "PUT")
}

fn headers(reply: &Reply) -> Vec<(String, String)> {
    reply.headers().map(|(name, value)| (name.replace("access-control-", ""), value.to_owned())).collect()
}

fn list(headers: &[(&str, &str)]) -> Vec<(String, String)> {
    headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// What a response says to a request of an origin.
fn answered(plugin: &Plugin<Cors>, origin: Option<&str>, response: Message) -> [Option<String>; 4] {
    let mut exchange = plugin.exchange();
    let request = Message::get("/");
    exchange.request(origin.into_iter().fold(request, |request, origin| request.header("origin", origin))).unwrap();
    let answered = exchange.response(response).unwrap();
    let own = |name: &str| answered.value(&format!("access-control-{name}"));
    [own("allow-origin"), own("allow-credentials"), own("expose-headers"), answered.value("vary")]
}

const VARY: (&str, &str) = ("vary", "Origin, Access-Control-Request-Method, Access-Control-Request-Headers");

#[test]
fn preflights_are_answered() {
    let plugin = plugin(r#", "methods": ["PUT", "DELETE"], "headers": ["x-a", "x-b"], "max_age": 5"#);
    let reply = plugin.exchange().request(preflight("https://a.dev.example")).unwrap_err();
    assert_eq!(reply.status(), 204);
    let expected = [
        ("allow-origin", "https://a.dev.example"),
        ("allow-methods", "PUT, DELETE"),
        ("allow-headers", "x-a, x-b"),
        ("max-age", "5"),
        VARY,
    ];
    assert_eq!(headers(&reply), list(&expected));
    let reply = plugin.exchange().request(preflight("https://evil.example")).unwrap_err();
    assert_eq!((reply.status(), headers(&reply)), (403, list(&[("vary", "Origin")])));
}

#[test]
fn with_credentials_everything_is_named() {
    let plugin = plugin(r#", "headers": ["*"], "credentials": true"#);
    let asking = preflight("https://app.example").header("access-control-request-headers", "authorization,x-a");
    let reply = plugin.exchange().request(asking).unwrap_err();
    let expected = [
        ("allow-origin", "https://app.example"),
        ("allow-methods", "GET, HEAD, POST"),
        ("allow-credentials", "true"),
        ("allow-headers", "authorization,x-a"),
        ("max-age", "600"),
        VARY,
    ];
    assert_eq!(headers(&reply), list(&expected));
}

#[test]
fn other_requests_with_options_are_the_applications() {
    let plugin = plugin("");
    for request in [
        Message::request("OPTIONS", "/"),
        Message::request("OPTIONS", "/").header("origin", "https://app.example"),
        Message::request("OPTIONS", "/").header("access-control-request-method", "PUT"),
        Message::get("/").header("origin", "https://app.example").header("access-control-request-method", "PUT"),
    ] {
        assert_eq!(plugin.exchange().request(request.clone()), Ok(request));
    }
}

#[test]
fn responses_say_who_may_read_them() {
    let text = |text: &str| Some(text.to_owned());
    let plugin = plugin(r#", "expose": ["x-a"], "credentials": true"#);
    let lying = || Message::response(200).header("access-control-allow-origin", "*").header("vary", "accept");
    let granted = [text("https://app.example"), text("true"), text("x-a"), text("accept, Origin")];
    assert_eq!(answered(&plugin, Some("https://app.example"), lying()), granted);
    let plain = [None, None, None, text("accept, Origin")];
    assert_eq!(answered(&plugin, Some("https://evil.example"), lying()), plain);
    assert_eq!(answered(&plugin, None, lying()), plain);
    for (vary, after) in [("", "Origin"), ("*", "*"), ("a, ORIGIN", "a, ORIGIN"), ("x-origin", "x-origin, Origin")] {
        assert_eq!(answered(&plugin, None, Message::response(200).header("vary", vary))[3], text(after));
    }
    let all = Plugin::configure(r#"{"origins": ["*"]}"#).unwrap();
    for origin in [None, Some("null"), Some("https://evil.example")] {
        assert_eq!(answered(&all, origin, Message::response(200)), [text("*"), None, None, None]);
    }
}

#[test]
fn strangers_can_be_refused() {
    let plugin = plugin(r#", "refuse": true"#);
    let request = |origin: &str| plugin.exchange().request(Message::get("/").header("origin", origin));
    assert_eq!(request("https://evil.example").unwrap_err().status(), 403);
    assert!(request("https://app.example").is_ok());
    assert!(plugin.exchange().request(Message::get("/")).is_ok(), "no page: no origin");
}

#[test]
fn mistakes_are_named_and_limits_checked_at_their_edges() {
    let config = |more: &str| format!(r#"{{"origins": ["https://a"]{more}}}"#);
    for config in [config(r#", "max_age": 0"#), config(r#", "max_age": 86400"#)] {
        assert!(Plugin::<Cors>::configure(&config).is_ok());
    }
    for (config, why) in [
        (String::new(), "missing field `origins`"),
        (r#"{"origins": []}"#.to_owned(), "`origins` is empty"),
        (r#"{"origins": ["a"]}"#.to_owned(), "is no origin"),
        (r#"{"origins": ["*"], "credentials": true}"#.to_owned(), "list the origins"),
        (config(r#", "methods": ["a b"]"#), "is no method"),
        (config(r#", "methods": ["*"]"#), "is no method"),
        (config(r#", "headers": [""]"#), "no name of a header"),
        (config(r#", "credentials": true, "expose": ["*"]"#), "list the headers"),
        (config(r#", "max_age": 86401"#), "0 to 86400"),
        (config(r#", "origin": []"#), "unknown field `origin`, expected one of `origins`"),
    ] {
        let error = Plugin::<Cors>::configure(&config).err().unwrap();
        assert!(error.contains(why), "{config}: {error}");
    }
}

#[test]
fn the_schema_is_the_one_in_the_file() {
    lacis_filter_parts::schema::matches_file::<Config>(env!("CARGO_MANIFEST_DIR")).unwrap();
}
