//! Who is let in, and how much: rules of access, rate limits, load shedding, over real links.

use lacis_tests::{App, Pair, TRUST_DOMAIN, client, on_links};
use serde_json::json;

/// What asks for one path as it stands, and for gRPC as gRPC does.
const GRPC: (&str, &str) = ("content-type", "application/grpc");

on_links! {
    /// Rules over path, method, field and caller; the caller learns that it is refused, the access record by which rule.
    [H2, H3] fn rules_say_who_may_ask_what(link) {
        let rules = json!({"inbound": {
            "deny": [
                {"name": "no-admin", "path": {"prefix": "/admin"},
                    "except": {"identity": format!("spiffe://{TRUST_DOMAIN}/ns/default/sa/ops*")}},
                {"name": "no-debug", "headers": [{"name": "x-debug", "regex": "(?i)yes|1"}]},
                {"name": "trial", "path": {"exact": "/bytes/2"}, "dry_run": true},
            ],
            "allow": [
                {"name": "known", "namespace": "default", "method": ["GET", "POST"]},
            ],
        }});
        let pair = Pair::with(link, App::start(), |alpha| alpha, |delta| delta.with(rules));
        let ask = |method, path: &str, fields: &[(&str, &str)]| {
            client::request(pair.alpha.outbound(), method, "delta", path, fields, None)
        };
        assert_eq!(ask("GET", "/bytes/1", &[]).status(), 200);
        let refused = ask("GET", "/admin/keys", &[]);
        assert_eq!((refused.status(), refused.proxy_error().as_deref()), (403, Some("http_request_denied")));
        assert!(!refused.text().contains("admin"), "nothing of the rule: {}", refused.text());
        // However it is spelled.
        for path in ["/ADMIN", "/%61dmin/x", "//admin", "/admin;x=1/y", "/x/../admin", "/x/%2e%2e/admin", "/x%2f..%2fadmin", "/%2561dmin"] {
            assert_eq!(ask("GET", path, &[]).status(), 403, "{path}");
        }
        assert_eq!(ask("PUT", "/bytes/1", &[]).status(), 403);
        assert_eq!(ask("GET", "/bytes/1", &[("x-debug", "no"), ("x-debug", "YES")]).status(), 403);
        let grpc = ask("POST", "/admin.Keys/Get", &[GRPC]);
        assert_eq!((grpc.status(), grpc.field("grpc-status")), (404, None), "another element than /admin");
        let grpc = ask("POST", "/admin/Get", &[GRPC]);
        assert_eq!((grpc.status(), grpc.field("grpc-status")), (200, Some("7")));
        assert_eq!(ask("GET", "/bytes/2", &[]).status(), 200);
        assert_eq!(pair.app.requests(), 3);

        let delta = pair.delta();
        delta.counts(10.0, "lacis_authorization_total", &[("rule", "no-admin"), ("verdict", "deny")]);
        delta.counts(1.0, "lacis_authorization_total", &[("rule", "trial"), ("verdict", "would_deny")]);
        delta.counts(1.0, "lacis_authorization_total", &[("rule", "default"), ("verdict", "deny")]);
        delta.counts(3.0, "lacis_authorization_total", &[("rule", "known"), ("verdict", "allow")]);
        let record = delta.access("the refusal", |record| record["path"] == "/admin/keys");
        assert_eq!(record["authorization"], "deny no-admin");
        assert_eq!(record["reason"], "http_request_denied");
        let record = delta.access("the dry run", |record| record["path"] == "/bytes/2");
        assert_eq!((&record["authorization"], &record["response_code"]), (&json!("would_deny trial"), &json!(200)));
        let page = delta.admin_get("/config").json();
        assert_eq!(page["inbound"]["deny"][0]["when"], json!({"path": [{"prefix": "/admin"}]}));

        let ops = pair.mesh.sidecar("ops").calls("delta", delta.inbound(), link).start();
        assert_eq!(client::get(ops.outbound(), "delta", "/admin/keys").status(), 404, "of the application");
    }

    /// What was let in goes on when the rules change; the next one meets the new ones.
    [H2] fn rules_change_for_requests_to_come(link) {
        let mut pair = Pair::new(link);
        let (mut first, mut second) = (pair.connect(), pair.connect());
        first.send("GET /hold HTTP/1.1\r\nhost: delta\r\n\r\n");
        pair.app.wait_held(1);
        pair.delta_mut().reload(json!({"inbound": {"deny": [{"path": {"exact": "/hold"}}]}}));
        assert_eq!(second.get("delta", "/hold").status(), 403);
        pair.app.release();
        assert_eq!(first.response("GET").status(), 200);
        let refused = pair.delta_mut().refused(json!({"inbound": {"deny": [{}]}}));
        assert!(refused.contains("inbound.deny[0]: no condition"), "{refused}");
    }
}
