//! `builtin:auth` and `builtin:jwt`.

#[path = "auth/authz.rs"]
mod authz;

use std::sync::{Arc, Mutex};
use std::time::Instant;

use lacis_tests::{Page, Side, Web, until};
use serde_json::{Value, json};

use crate::both;

/// SHA-256 of `open-sesame`.
const KEY_HASH: &str = "d7ecdf25eaf3deba0f2628771dbdd22d4138ab6cf38f91ed02a2ca0dec7c8ab7";

/// Keys and tokens that OpenSSL made; see `filters/auth/vectors/make.py`.
fn vectors() -> Value {
    serde_json::from_str(include_str!("tokens.json")).expect("JSON")
}

fn token(vectors: &Value, name: &str) -> String {
    let listed = vectors["tokens"].as_array().expect("tokens").iter().find(|token| token["kid"] == name);
    let token = listed.map_or(&vectors[name], |token| &token["token"]);
    format!("Bearer {}", token.as_str().unwrap_or_else(|| panic!("there is no token {name}")))
}

fn provider(more: &Value) -> Value {
    let mut provider = json!({"name": "corp", "issuer": "https://issuer.example", "audiences": ["delta"],
        "claim_headers": [{"claim": "sub", "header": "x-user"}, {"claim": "roles", "header": "x-roles"}]});
    provider.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
    provider
}

/// A request with these fields: its status, and what the application saw of these fields, if it came there.
fn outcome(side: &Side, path: &str, fields: &[(&str, &str)], seen: &[&str]) -> (u16, Option<Vec<Option<String>>>) {
    let before = side.app("app").seen().len();
    let status = side.get(path, fields).status();
    let after = side.app("app").seen();
    let fields = |request: &lacis_tests::Seen| seen.iter().map(|name| request.field(name).map(str::to_owned)).collect();
    (status, after.get(before).map(fields))
}

#[test]
fn keys_and_passwords() {
    // printf %s%s saltsalt secret | sha256sum
    let hash = "27b0d9f5088892201b4d5341d34eeca7dfd3b19a6a4f35c536dda0cbed45e701";
    let config = json!({
        "keys": [{"name": "ali-baba", "sha256": KEY_HASH}], "forward_name": "x-client",
        "basic": {"users": [{"name": "ada", "salt": "saltsalt", "sha256": hash}], "forward_name": "x-client"},
        "rules": {"deny": [{"name": "private", "when": {"paths": [{"prefix": "/status"}]}, "except": {"names": ["ada"]}}]},
    });
    both("auth", config).run(|side| {
        let ask = |path: &str, fields: &[(&str, &str)]| {
            outcome(side, path, fields, &["x-client", "x-api-key", "authorization"])
        };
        let passed = |name: &str| (200, Some(vec![Some(name.to_owned()), None, None]));
        assert_eq!(ask("/echo", &[]), (401, None));
        assert_eq!(ask("/echo", &[("x-api-key", "wrong")]), (401, None));
        assert_eq!(ask("/echo", &[("x-api-key", "open-sesame"), ("x-client", "forged")]), passed("ali-baba"));
        assert_eq!(ask("/echo", &[("x-api-key", "open-sesame"), ("x-api-key", "open-sesame")]), (401, None));
        let basic = ("authorization", "Basic YWRhOnNlY3JldA==");
        assert_eq!(ask("/echo", &[basic]), passed("ada"));
        assert_eq!(ask("/echo", &[("authorization", "Basic YWRhOndyb25n")]), (401, None));
        assert_eq!(ask("/status/200", &[("x-api-key", "open-sesame")]), (403, None));
        assert_eq!(ask("/echo/../status/200", &[("x-api-key", "open-sesame")]).1, None);
        assert_eq!(ask("/status/200", &[basic]), passed("ada"));
        let challenges =
            side.get("/echo", &[]).head.fields.iter().filter(|(name, _)| name == "www-authenticate").count();
        assert_eq!(challenges, 2);
        side.counts(3.0, "auth_allowed_total", &[]);
    });
}

/// Every algorithm, in WebAssembly, by keys that stand in the configuration; and what is refused.
#[test]
fn tokens_by_inline_keys() {
    let vectors = vectors();
    let admins = json!({"allow": [
        {"name": "admins", "when": {"claims": [{"claim": "roles", "value": "admin"}]}},
        {"name": "reading", "when": {"methods": ["GET"], "paths": ["/bytes/1"]}},
    ]});
    let jwks = json!({"jwks": vectors["jwks"]});
    both("jwt", json!({"jwt": {"providers": [provider(&jwks)]}, "rules": admins})).run(|side| {
        let ask = |path: &str, authorization: &str| {
            let fields = [("authorization", authorization), ("x-user", "forged"), ("x-roles", "forged")];
            outcome(side, path, &fields, &["x-user", "x-roles", "authorization"])
        };
        let some = |text: &str| Some(text.to_owned());
        for listed in vectors["tokens"].as_array().expect("tokens") {
            let token = format!("Bearer {}", listed["token"].as_str().expect("a token"));
            for _ in 0..2 {
                let passed = (200, Some(vec![some("ada"), some("admin,dev"), None]));
                assert_eq!(ask("/echo", &token), passed, "{}", listed["alg"]);
            }
            let (signed, _) = token.rsplit_once('.').expect("a token");
            assert_eq!(ask("/echo", &format!("{signed}.")), (401, None), "{}", listed["alg"]);
        }
        for name in ["expired", "early", "other_audience", "other_issuer"] {
            assert_eq!(ask("/echo", &token(&vectors, name)), (401, None), "{name}");
        }
        assert_eq!(ask("/echo", &token(&vectors, "dev")), (403, None));
        assert_eq!(ask("/bytes/1", &token(&vectors, "dev")), (200, Some(vec![some("eve"), some("dev"), None])));
        // {"alg":"none"} and {"alg":"HS256"}, with claims that would do.
        let claims = token(&vectors, "rsa").split('.').nth(1).expect("claims").to_owned();
        for header in ["eyJhbGciOiJub25lIn0", "eyJhbGciOiJIUzI1NiJ9"] {
            assert_eq!(ask("/echo", &format!("Bearer {header}.{claims}.")), (401, None), "{header}");
            assert_eq!(ask("/echo", &format!("Bearer {header}.{claims}.AAAA")), (401, None), "{header}");
        }
        assert_eq!(ask("/echo", "Bearer"), (401, None));
        assert_eq!(ask("/echo", "Bearer a.b.c"), (401, None));
    });
}

/// Keys that are fetched, and change.
#[test]
fn tokens_by_fetched_keys() {
    let vectors = vectors();
    let with = |name: &str| {
        let keys = vectors["jwks"]["keys"].as_array().expect("keys").iter().filter(|key| key["kid"] == name);
        json!({"keys": keys.collect::<Vec<_>>()}).to_string()
    };
    let page = Arc::new(Mutex::new(with("p256")));
    let served = Arc::clone(&page);
    let idp = Web::plain(move |_| Page::ok(served.lock().expect("no panic").clone()));
    let from = json!({"jwks_from": {"service": "idp", "path": "/keys", "refresh": "12h"}});
    both("jwt", json!({"jwt": {"providers": [provider(&from)]}})).http("idp", idp.address()).run(|side| {
        *page.lock().expect("no panic") = with("p256");
        let ask = |name: &str| side.get("/echo", &[("authorization", &token(&vectors, name))]).status();
        until("the first keys have come", || (ask("p256") == 200).then_some(()));
        assert_eq!(ask("rsa"), 401);
        let (asked, since) = (idp.asked().len(), Instant::now());
        for _ in 0..20 {
            assert_eq!(ask("rsa"), 401);
        }
        let most = 1 + since.elapsed().as_secs() as usize / 5;
        assert!(idp.asked().len() <= asked + most, "unknown keys are asked for once in a while");
        *page.lock().expect("no panic") = with("rsa");
        until("the new key has come", || (ask("rsa") == 200).then_some(()));
        assert_eq!(ask("p256"), 401, "the old key is gone");
    });
}

/// Nobody passes where the keys cannot be had.
#[test]
fn tokens_without_keys() {
    let idp = Web::plain(|_| Page::status(404));
    let from = json!({"jwks_from": {"service": "idp", "path": "/keys"}});
    let vectors = vectors();
    both("jwt", json!({"jwt": {"providers": [provider(&from)]}})).http("idp", idp.address()).run(|side| {
        let ask = |fields: &[(&str, &str)]| outcome(side, "/echo", fields, &[]);
        assert_eq!(ask(&[("authorization", &token(&vectors, "rsa"))]), (503, None));
        assert_eq!(ask(&[]), (401, None));
    });
}

/// The same table for services that speak HTTP and gRPC: what the caller sends, and what comes of it.
#[test]
fn a_service_decides() {
    // Authorizes `x-token: good` as `ada`, sends `x-token: none` to the login, and refuses others.
    let http = Web::plain(|asked| match asked.authorization.as_str() {
        "good" => Page::ok("").field("x-user", "ada"),
        "broken" => Page::status(500),
        "none" => Page::status(302).field("location", "/login"),
        _ => Page::status(403).field("x-why", "unknown"),
    });
    let grpc = authz::serve();
    for protocol in ["http", "grpc"] {
        let how = if protocol == "http" { json!({"set_headers": ["x-user"]}) } else { json!({}) };
        let config = json!({"external": {"service": "authz", protocol: how, "timeout": "5s"}});
        let both = both("auth", config);
        let both = if protocol == "http" { both.http("authz", http.address()) } else { both.grpc("authz", grpc) };
        both.run(|side| {
            let ask = |authorization: &str| {
                let before = side.app("app").seen().len();
                let fields = [("authorization", authorization), ("x-user", "forged")];
                let answer = side.get("/echo", &fields);
                let user = side.app("app").seen().get(before).map(|seen| seen.field("x-user").map(str::to_owned));
                let field = |name: &str| answer.field(name).map(str::to_owned);
                (answer.status(), user, field("x-why"), field("location"))
            };
            let some = |text: &str| Some(text.to_owned());
            assert_eq!(ask("good"), (200, Some(some("ada")), None, None), "{protocol}");
            assert_eq!(ask("bad"), (403, None, some("unknown"), None), "{protocol}");
            assert_eq!(ask("none"), (302, None, None, some("/login")), "{protocol}");
            assert_eq!(ask("broken"), (503, None, None, None), "{protocol}");
            side.counts(1.0, "auth_unavailable_total", &[]);
        });
    }
}
