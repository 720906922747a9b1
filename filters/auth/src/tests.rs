use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use lacis_sdk::testing::{Answer, Exchange, Message, Plugin};
use serde_json::{Value, json};

use super::*;
use crate::vectors::{self, START};

// printf %s open-sesame | sha256sum
const SHA256: &str = "d7ecdf25eaf3deba0f2628771dbdd22d4138ab6cf38f91ed02a2ca0dec7c8ab7";

fn plugin(config: &Value) -> Plugin<Auth> {
    let plugin = Plugin::configure(&config.to_string()).unwrap();
    plugin.set_unix_time(Duration::from_secs(START));
    plugin
}

fn keys(more: Value) -> Value {
    let mut config = json!({"keys": [{"name": "ali-baba", "sha256": SHA256}]});
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    config
}

fn jwt(provider: Value) -> Value {
    let mut own = json!({"name": "corp", "issuer": "https://issuer.example", "audiences": ["delta"]});
    own.as_object_mut().unwrap().extend(provider.as_object().unwrap().clone());
    json!({"providers": [own]})
}

/// A request with the token of a key.
fn bearer(key: &str) -> Message {
    let tokens = vectors::tokens();
    let algorithm = if key == "rsa" { "RS256" } else { "ES256" };
    let token = &tokens.iter().find(|(own, _)| own == algorithm).unwrap().1;
    Message::get("/").header("authorization", format!("Bearer {token}"))
}

/// A set with the keys of these names.
fn set(names: &[&str]) -> String {
    let mut set = vectors::keys();
    set["keys"].as_array_mut().unwrap().retain(|key| names.iter().any(|name| key["kid"] == *name));
    set.to_string()
}

fn refused(exchange: &mut Exchange, request: Message) -> (u16, String) {
    let reply = exchange.request(request).unwrap_err();
    (reply.status(), String::from_utf8_lossy(reply.content()).trim_end().to_owned())
}

#[test]
fn a_known_key_passes_and_is_not_shown_to_the_service() {
    let request = Message::get("/").header("X-API-Key", "open-sesame");
    let passed = plugin(&keys(json!({}))).exchange().request(request).unwrap();
    assert_eq!(passed, Message::get("/"));
}

#[test]
fn the_service_sees_what_the_configuration_says() {
    let plugin = plugin(&keys(json!({"header": "x-token", "forward_name": "x-api-client", "forward_key": true})));
    let request = Message::get("/").header("x-token", "open-sesame").header("x-api-client", "forged");
    let passed = plugin.exchange().request(request).unwrap();
    assert_eq!(passed.value("x-token").unwrap(), "open-sesame");
    assert_eq!(passed.value("x-api-client").unwrap(), "ali-baba");
}

#[test]
fn other_requests_get_401() {
    let plugin = plugin(&keys(json!({})));
    for (request, why) in [
        (Message::get("/"), "an API key is required (header x-api-key)"),
        (Message::get("/").header("x-api-key", ""), "the API key is not known"),
        (Message::get("/").header("x-api-key", "open-sesam"), "the API key is not known"),
        (Message::get("/").header("x-api-key", b"\xff\xfe"), "the API key is not known"),
        (
            Message::get("/").header("x-api-key", "open-sesame").header("x-api-key", "open-sesame"),
            "there is more than one API key",
        ),
    ] {
        let reply = plugin.exchange().request(request).unwrap_err();
        assert_eq!(reply.status(), 401);
        assert_eq!(reply.header_value("www-authenticate"), Some("ApiKey header=\"x-api-key\""));
        let text = String::from_utf8_lossy(reply.content()).into_owned();
        assert!(text.starts_with(why), "{text}");
    }
    assert_eq!(plugin.metric("auth_unauthenticated_total"), Some(5));
}

/// Whoever brings credentials of one kind is known; wrong ones of another kind are refused all the same.
#[test]
fn one_kind_of_credentials_suffices_and_none_may_be_wrong() {
    let user = json!({"name": "ada", "salt": "saltsalt", "sha256": hex("saltsaltsecret")});
    let plugin = plugin(&keys(json!({
        "forward_name": "x-client",
        "basic": {"users": [user], "forward_name": "x-client"},
        "jwt": jwt(json!({"jwks": vectors::keys(), "claim_headers": [{"claim": "sub", "header": "x-user"}]})),
    })));
    let key = || Message::get("/").header("x-client", "forged").header("x-user", "forged");
    let basic = "Basic YWRhOnNlY3JldA==";
    let seen = |request: Message| {
        let passed = plugin.exchange().request(request).unwrap();
        assert_eq!((passed.value("authorization"), passed.value("x-api-key")), (None, None));
        (passed.value("x-client"), passed.value("x-user"))
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(seen(key().header("x-api-key", "open-sesame")), (some("ali-baba"), None));
    assert_eq!(seen(key().header("authorization", basic)), (some("ada"), None));
    let token = bearer("rsa").value("authorization").unwrap();
    assert_eq!(seen(key().header("authorization", &token)), (None, some("ada")));
    let refused = |request: Message| refused(&mut plugin.exchange(), request);
    assert_eq!(refused(key()), (401, "an API key or a password or a token is required".to_owned()));
    let both = key().header("x-api-key", "open-sesame").header("authorization", "Bearer a.b.c");
    assert_eq!(refused(both), (401, "the token is malformed".to_owned()));
    let both = key().header("x-api-key", "wrong").header("authorization", basic);
    assert_eq!(refused(both), (401, "the API key is not known".to_owned()));
    let wrong = key().header("authorization", "Basic YWRhOndyb25n");
    assert_eq!(refused(wrong), (401, "user or password is wrong".to_owned()));
}

fn hex(text: &str) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn tokens_are_refused_with_the_reason() {
    let plugin = plugin(&json!({"jwt": jwt(json!({"jwks": vectors::keys()}))}));
    assert!(plugin.exchange().request(bearer("rsa")).is_ok());
    let reply = plugin.exchange().request(Message::get("/")).unwrap_err();
    assert_eq!((reply.status(), reply.header_value("www-authenticate")), (401, Some("Bearer")));
    plugin.set_unix_time(Duration::from_secs(START + 3660));
    let reply = plugin.exchange().request(bearer("rsa")).unwrap_err();
    let challenge = "Bearer error=\"invalid_token\", error_description=\"the token has expired\"";
    assert_eq!((reply.status(), reply.header_value("www-authenticate")), (401, Some(challenge)));
    let twice = bearer("rsa").header("authorization", bearer("rsa").value("authorization").unwrap());
    assert_eq!(refused(&mut plugin.exchange(), twice), (401, "there is more than one token".to_owned()));
}

#[test]
fn who_has_no_credentials_passes_where_rules_judge() {
    let plugin = plugin(&keys(json!({
        "anonymous": true,
        "forward_name": "x-client",
        "rules": {"allow": [
            {"name": "public", "when": {"paths": [{"prefix": "/public"}]}},
            {"name": "keys", "when": {"names": ["ali-baba"]}},
        ]},
    })));
    let passed = plugin.exchange().request(Message::get("/public").header("x-client", "forged")).unwrap();
    assert_eq!(passed, Message::get("/public"));
    assert_eq!(refused(&mut plugin.exchange(), Message::get("/")), (403, "access denied".to_owned()));
    assert!(plugin.exchange().request(Message::get("/").header("x-api-key", "open-sesame")).is_ok());
    assert_eq!(refused(&mut plugin.exchange(), Message::get("/public").header("x-api-key", "x")).0, 401);
    assert_eq!(refused(&mut plugin.exchange(), Message::get("/public/%2f")).0, 400);
    assert_eq!(plugin.metric("auth_denied_total"), Some(2));
    assert_eq!(plugin.metric("auth_allowed_total"), Some(2));
}

#[test]
fn rules_see_the_peer_and_say_who_was_denied() {
    let rules = json!({"allow": [{"name": "ops", "when": {"identities": [{"prefix": "spiffe://x/ns/ops/"}]}}]});
    let ops = |plugin: &Plugin<Auth>, identity: &str| {
        plugin.exchange().attribute("connection.uri_san_peer_certificate", identity).request(Message::get("/a?secret"))
    };
    let real = plugin(&json!({"rules": rules}));
    assert!(ops(&real, "spiffe://x/ns/ops/sa/a").is_ok());
    assert_eq!(ops(&real, "spiffe://x/ns/dev/sa/a").unwrap_err().status(), 403);
    assert!(real.exchange().request(Message::get("/")).is_err());
    let logged = real.logs().remove(0).1;
    assert_eq!(logged, r#"no rule allows "GET" "/a", peer "spiffe://x/ns/dev/sa/a", name None"#);
    let mut rules = rules;
    rules["dry_run"] = json!(true);
    let dry = plugin(&json!({"rules": rules}));
    assert!(ops(&dry, "spiffe://x/ns/dev/sa/a").is_ok());
    assert!(dry.logs().remove(0).1.starts_with("dry run: no rule allows"));
    assert_eq!((dry.metric("auth_would_deny_total"), dry.metric("auth_denied_total")), (Some(1), Some(0)));
}

/// A provider of keys, whose answers a test changes, and how often it was asked.
fn remote() -> (Plugin<Auth>, Rc<RefCell<Answer>>) {
    let from = json!({"service": "idp", "path": "/jwks", "authority": "issuer.example", "refresh": "10m"});
    let plugin = plugin(&json!({"jwt": jwt(json!({"jwks_from": from}))}));
    let answer = Rc::new(RefCell::new(Answer::new(200).body(set(&["rsa"]))));
    let given = answer.clone();
    plugin.on_call("idp", move |_| given.borrow().clone());
    (plugin, answer)
}

fn asked(plugin: &Plugin<Auth>) -> usize {
    plugin.calls().len()
}

#[test]
fn keys_are_fetched_before_they_are_needed_and_again() {
    let (plugin, _) = remote();
    plugin.advance(Duration::from_millis(10));
    let calls = plugin.calls();
    assert_eq!(calls.len(), 1);
    assert_eq!((calls[0].path().as_str(), calls[0].value(":authority").unwrap().as_str()), ("/jwks", "issuer.example"));
    assert!(plugin.exchange().request(bearer("rsa")).is_ok());
    assert!(plugin.exchange().request(bearer("rsa")).is_ok());
    assert_eq!(asked(&plugin), 0);
    plugin.advance(Duration::from_secs(601));
    assert_eq!(asked(&plugin), 1);
}

#[test]
fn a_request_waits_for_the_first_keys() {
    let (plugin, answer) = remote();
    answer.replace_with(|answer| answer.clone().after(Duration::from_secs(3)));
    assert!(plugin.exchange().request(bearer("rsa")).is_ok());
    assert_eq!(asked(&plugin), 1);
}

#[test]
fn nobody_passes_without_keys_and_they_are_asked_for_slowly() {
    let (plugin, answer) = remote();
    answer.replace(Answer::new(500));
    plugin.advance(Duration::from_millis(10));
    let unavailable = (503, "the keys of the token's issuer are not available".to_owned());
    for _ in 0..20 {
        assert_eq!(refused(&mut plugin.exchange(), bearer("rsa")), unavailable);
    }
    assert_eq!(asked(&plugin), 1);
    assert_eq!(plugin.metric("auth_failed_fetches_total"), Some(1));
    assert!(plugin.logs().iter().any(|(_, line)| line.contains("the keys of \"corp\" cannot be fetched")));
    for text in ["", "{}", "{\"keys\": []}", "<html>"] {
        answer.replace(Answer::new(200).body(text));
        plugin.advance(Duration::from_secs(60));
        assert_eq!(refused(&mut plugin.exchange(), bearer("rsa")), unavailable, "{text}");
    }
    answer.replace(Answer::silent());
    plugin.advance(Duration::from_secs(120));
    assert_eq!(refused(&mut plugin.exchange(), bearer("rsa")), unavailable);
    answer.replace(Answer::new(200).body(set(&["rsa"])));
    plugin.advance(Duration::from_secs(120));
    assert!(plugin.exchange().request(bearer("rsa")).is_ok());
}

#[test]
fn a_new_key_is_fetched_once_for_a_token_that_names_it() {
    let (plugin, answer) = remote();
    plugin.advance(Duration::from_millis(10));
    assert_eq!(asked(&plugin), 1);
    let unknown = (401, "the token's key is not known".to_owned());
    assert_eq!(refused(&mut plugin.exchange(), bearer("p256")), unknown, "fetched a moment ago");
    assert_eq!(asked(&plugin), 0);
    plugin.advance(Duration::from_secs(11));
    answer.replace(Answer::new(200).body(set(&["p256"])));
    assert!(plugin.exchange().request(bearer("p256")).is_ok());
    assert_eq!(asked(&plugin), 1);
    for _ in 0..20 {
        assert_eq!(refused(&mut plugin.exchange(), bearer("rsa")), unknown, "the old key is gone");
    }
    assert_eq!(asked(&plugin), 0);
    assert!(plugin.exchange().request(bearer("p256")).is_ok());
}

fn external(more: Value) -> Value {
    let mut config = json!({"service": "authz"});
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({ "external": config })
}

#[test]
fn a_service_decides_over_http() {
    let plugin = plugin(&external(json!({"http": {"path_prefix": "/check", "set_headers": ["x-user"]}})));
    let request = || Message::post("/a?b").header("authorization", "secret").header("x-user", "forged").body("content");
    plugin.on_call("authz", |call| match call.value("authorization").as_deref() {
        Some("secret") => Answer::new(200).header("x-user", "ada"),
        _ => Answer::new(302).header("location", "/login").body("who are you?"),
    });
    let passed = plugin.exchange().request(request()).unwrap();
    assert_eq!((passed.value("x-user").as_deref(), passed.text().as_str()), (Some("ada"), "content"));
    let call = plugin.calls().remove(0);
    assert_eq!((call.method().as_str(), call.path().as_str(), call.body()), ("POST", "/check/a?b", &b""[..]));
    assert_eq!((call.value(":authority").as_deref(), call.timeout()), (Some("localhost"), Duration::from_millis(200)));
    let reply = plugin.exchange().request(Message::get("/")).unwrap_err();
    assert_eq!((reply.status(), reply.header_value("location")), (302, Some("/login")));
    assert_eq!(reply.content(), b"who are you?");
}

#[test]
fn without_a_decision_requests_are_refused_or_pass() {
    let failed =
        |protocol| if protocol == "http" { Answer::new(500) } else { Answer::new(200).header("grpc-status", "13") };
    for protocol in ["http", "grpc"] {
        for answer in [failed(protocol), Answer::broken(), Answer::silent()] {
            for (failure, passes) in [("closed", false), ("open", true)] {
                let plugin = plugin(&external(json!({protocol: {}, "failure": failure})));
                let answer = answer.clone();
                plugin.on_call("authz", move |_| answer.clone());
                let result = plugin.exchange().request(Message::get("/"));
                assert_eq!(result.map_err(|reply| reply.status()).err(), (!passes).then_some(503), "{protocol}");
                assert_eq!(plugin.metric("auth_unavailable_total"), Some(1));
            }
        }
    }
}

/// The messages as bytes, as another implementation would write them.
#[test]
fn a_service_decides_over_grpc() {
    let plugin = plugin(&external(json!({"grpc": {}})));
    // status {code: 7}, denied_response {status {code: 401}, headers {header {"x-why", "no"}}, body: "out"}
    let denied = b"\x0a\x02\x08\x07\x12\x1a\x0a\x03\x08\x91\x03\x12\x0e\x0a\x0c\x0a\x05x-why\x12\x03no!\x1a\x03out";
    // ok_response {headers {header {"x-user", "ada"}}, response_headers_to_add {header {"x-seen", "1"}}}
    let ok = b"\x1a\x22\x12\x0f\x0a\x0d\x0a\x06x-user\x12\x03ada\x32\x0f\x0a\x0d\x0a\x06x-seen\x12\x03yes";
    plugin.on_grpc("authz", move |call| {
        assert_eq!(call.path(), "/envoy.service.auth.v3.Authorization/Check");
        let asked = call.body().windows(6).any(|bytes| bytes == b"secret");
        Ok(if asked { ok.to_vec() } else { denied.to_vec() })
    });
    let mut exchange = plugin.exchange();
    let passed = exchange.request(Message::get("/").header("x-a", "secret").header("x-user", "forged")).unwrap();
    assert_eq!(passed.value("x-user").as_deref(), Some("ada"));
    assert_eq!(exchange.response(Message::response(200)).unwrap().value("x-seen").as_deref(), Some("yes"));
    let reply = plugin.exchange().request(Message::get("/")).unwrap_err();
    assert_eq!((reply.status(), reply.header_value("x-why"), reply.content()), (401, Some("no!"), &b"out"[..]));
}

#[test]
fn a_configuration_that_protects_nothing_is_refused() {
    let key = |sha256: &str| format!(r#"{{"name": "a", "sha256": "{sha256}"}}"#);
    let jwt = jwt(json!({"jwks": vectors::keys()}));
    for (config, why) in [
        (String::new(), "nothing is protected: give at least one of `keys`"),
        (r#"{"keys": []}"#.to_owned(), "`keys` is empty"),
        (format!(r#"{{"keys": [{}]}}"#, key("abc")), "64 hexadecimal digits"),
        (format!(r#"{{"keys": [{0}, {0}]}}"#, key(SHA256)), "the same `sha256`"),
        (format!(r#"{{"keys": [{}], "header": "x y"}}"#, key(SHA256)), "no name of a header"),
        (format!(r#"{{"keys": [{}], "haeder": "x"}}"#, key(SHA256)), "unknown field `haeder`"),
        (format!(r#"{{"keys": [{{"name": "a\nb", "sha256": "{SHA256}"}}]}}"#), "no value of a header"),
        (format!(r#"{{"jwt": {jwt}, "forward_key": true}}"#), "are about `keys`, which is missing"),
        (keys(json!({"anonymous": true})).to_string(), "with `anonymous` every request passes"),
        (keys(json!({"header": "authorization", "jwt": jwt})).to_string(), "give API keys another one"),
        (
            r#"{"rules": {"deny": [{"name": "r", "when": {"claims": [{"claim": "a", "value": "b"}]}}]}}"#.to_owned(),
            "a rule has `claims`, but there is no `jwt`",
        ),
        (r#"{"rules": {"deny": [{"name": "r", "when": {"names": ["a"]}}]}}"#.to_owned(), "neither `keys` nor `basic`"),
        (
            r#"{"anonymous": true, "rules": {"deny": [{"name": "r", "when": {}}]}}"#.to_owned(),
            "`anonymous` says nothing",
        ),
    ] {
        let error = Plugin::<Auth>::configure(&config).err().unwrap();
        assert!(error.contains(why), "{config}: {error}");
    }
}

#[test]
fn the_schema_is_that_of_the_file() {
    lacis_filter_parts::schema::matches_file::<Config>(env!("CARGO_MANIFEST_DIR")).unwrap();
}
