//! `builtin:validate`.

use serde_json::json;

use crate::both;

const JSON: (&str, &str) = ("content-type", "application/json");

#[test]
fn bodies_must_fit_their_schema() {
    let config = json!({
        "rules": [{"paths": ["/echo", "/mirror"], "methods": ["POST"], "schema": {
            "type": "object", "required": ["name"],
            "properties": {"name": {"type": "string", "pattern": "^\\p{L}+$"}, "in": {"$ref": "tree"}}}}],
        "schemas": {"tree": {"type": "object", "properties": {"in": {"$ref": "tree"}}}},
        "depth": 64, "limit": 1 << 20,
    });
    both("validate", config).run(|side| {
        let post = |path: &str, body: &str| side.ask("POST", path, &[JSON], Some(body.as_bytes()));
        let body = r#"{"name": "Grüß", "more": 1.0}"#;
        let passed = post("/mirror", body);
        assert_eq!((passed.status(), passed.text().as_str()), (200, body));
        let refused = post("/echo", r#"{"name": 7}"#);
        assert_eq!((refused.status(), refused.field("content-type")), (400, Some("application/problem+json")));
        let wrong = json!([{"at": "/name", "what": "want string, but got number"}]);
        assert_eq!(refused.json()["errors"], wrong);
        assert_eq!(post("/echo", "{").status(), 400);
        assert_eq!(post("/echo", "").status(), 400);
        assert_eq!(side.ask("POST", "/echo", &[], Some(b"{}")).status(), 415);
        assert_eq!((post("/drain", "{").status(), side.get("/echo", &[]).status()), (200, 200));
        // As deep as it may be, which takes the most of the module's stack.
        let deep = |levels: usize| {
            let tree = format!("{}{{}}{}", r#"{"in":"#.repeat(levels), "}".repeat(levels));
            post("/echo", &format!(r#"{{"name":"a","in":{tree}}}"#)).status()
        };
        assert_eq!([deep(62), deep(63), deep(10_000)], [200, 400, 400]);
        let large = format!(r#"{{"name":"{}"}}"#, "x".repeat(500_000));
        assert_eq!(post("/drain", &large).status(), 200);
        assert_eq!(post("/echo", &large).status(), 200);
    });
}
