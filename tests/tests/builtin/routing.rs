//! `builtin:routing`.

use serde_json::json;

use crate::both;

#[test]
fn rules_choose_services() {
    let rules = json!([
        {"match": [{"from": {"header": "x-canary"}, "value": "yes"}], "to": [{"service": "canary"}]},
        {"match": [{"from": "path", "prefix": "/bytes/"}], "by": {"cookie": "user"},
            "to": [{"service": "canary", "weight": 50}, {"service": "bytes", "weight": 50}]},
        {"match": [{"from": {"header": "x-mirror"}}], "mirror": "twin"},
        {"match": [{"from": {"header": "x-shadow"}}], "shadow": "twin"},
        {"during": {"until": "2001-01-01T00:00:00Z"}, "to": [{"service": "nobody"}]},
    ]);
    both("routing", json!({"rules": rules})).app("canary").app("bytes").app("twin").run(|side| {
        for (path, canary, expected) in
            [("/echo", "no", "app"), ("/echo", "yes", "canary"), ("/bytes/1", "yes", "canary")]
        {
            let before = side.app(expected).requests();
            assert_eq!(side.get(path, &[("x-canary", canary)]).status(), 200);
            assert_eq!(side.app(expected).requests(), before + 1, "{path} {canary} goes to {expected}");
        }
        // The same users on all sides, whoever's the proxy is.
        let of_user = |user: &str| {
            let before = side.app("bytes").requests();
            assert_eq!(side.get("/bytes/1", &[("cookie", &format!("user={user}"))]).status(), 200);
            side.app("bytes").requests() > before
        };
        let users: Vec<bool> = ["ada", "bob", "cid", "dan"].map(of_user).into();
        assert_eq!(users, ["ada", "bob", "cid", "dan"].map(of_user));
        assert_eq!(users, USERS);
        side.get("/echo", &[("x-mirror", "1"), ("x-mirror-to", "forged")]);
        side.get("/echo", &[("x-mirror-to", "forged")]);
        let seen: Vec<_> =
            side.app("app").seen().iter().map(|seen| seen.field("x-mirror-to").map(str::to_owned)).collect();
        assert_eq!(seen, [None, Some("twin".to_owned()), None]);
        side.get("/echo?a", &[("x-shadow", "1")]);
        side.app("twin").wait_requests(1);
        let copy = lacis_tests::until("the copy has been read", || side.app("twin").seen().pop());
        assert_eq!(
            (copy.target.as_str(), copy.field("x-shadow"), copy.field("host")),
            ("/echo?a", Some("1"), Some("app-shadow"))
        );
    });
}

/// Who of four is on the second of two sides.
const USERS: [bool; 4] = [true, false, false, true];
