//! `builtin:cors`.

use serde_json::json;

use crate::both;

#[test]
fn browsers_are_told_what_they_may() {
    let config = json!({
        "origins": ["https://*.example"], "methods": ["PUT"], "headers": ["*"], "expose": ["x-app"], "credentials": true,
        "max_age": 60, "refuse": true,
    });
    both("cors", config).run(|side| {
        let (ours, evil) = (("origin", "https://a.example"), ("origin", "https://example"));
        let asking = ("access-control-request-method", "PUT");
        let asked = side.ask("OPTIONS", "/echo", &[ours, asking, ("access-control-request-headers", "x-a")], None);
        assert_eq!(asked.status(), 204);
        for (name, value) in [
            ("access-control-allow-origin", Some("https://a.example")),
            ("access-control-allow-methods", Some("PUT")),
            ("access-control-allow-headers", Some("x-a")),
            ("access-control-allow-credentials", Some("true")),
            ("access-control-max-age", Some("60")),
            ("vary", Some("Origin, Access-Control-Request-Method, Access-Control-Request-Headers")),
        ] {
            assert_eq!(asked.field(name), value, "{name}");
        }
        assert_eq!(side.ask("OPTIONS", "/echo", &[evil, asking], None).status(), 403);
        assert_eq!(side.get("/echo", &[evil]).status(), 403);
        assert_eq!(side.app("app").requests(), 0);
        let answer = side.get("/echo", &[ours]);
        assert_eq!((answer.status(), answer.field("access-control-allow-origin")), (200, Some("https://a.example")));
        assert_eq!(
            (answer.field("access-control-expose-headers"), answer.field("vary")),
            (Some("x-app"), Some("Origin"))
        );
        let answer = side.get("/echo", &[]);
        assert_eq!((answer.status(), answer.field("access-control-allow-origin")), (200, None));
        assert_eq!(answer.field("vary"), Some("Origin"));
        assert_eq!(side.ask("OPTIONS", "/echo", &[ours], None).status(), 200, "no preflight");
    });
}
