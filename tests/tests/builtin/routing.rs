//! `builtin:routing`.

use serde_json::json;

use crate::both;

#[test]
fn the_first_rule_that_matches_decides() {
    let rules = json!([
        {"header": "x-canary", "value": "yes", "service": "canary"},
        {"header": ":path", "prefix": "/bytes/", "service": "bytes"},
    ]);
    both("routing", json!({"rules": rules})).app("canary").app("bytes").run(|side| {
        for (path, canary, expected) in [
            ("/echo", "no", "app"),
            ("/echo", "yes", "canary"),
            ("/bytes/1", "yes", "canary"),
            ("/bytes/1", "", "bytes"),
        ] {
            let before = side.app(expected).requests();
            assert_eq!(side.get(path, &[("x-canary", canary)]).status(), 200);
            assert_eq!(side.app(expected).requests(), before + 1, "{path} {canary} goes to {expected}");
        }
    });
}
