use lacis_sdk::testing::{Message, Plugin};

use super::*;

const RULES: &str = r#"{"rules": [
    {"paths": ["/users", "/users/{id}"], "methods": ["POST", "PUT"], "schema": {
        "type": "object", "required": ["name", "age"], "additionalProperties": false,
        "properties": {
            "name": {"type": "string", "minLength": 1, "pattern": "^[a-z]+$"},
            "age": {"type": "integer", "minimum": 0},
            "mail": {"type": "string", "format": "email"},
            "home": {"$ref": "address"}, "work": {"$ref": "address"}
        }}},
    {"paths": ["/search"], "schema": {"type": "array", "maxItems": 2}, "required": false}
], "schemas": {"address": {"type": "object", "properties": {"city": {"type": "string"}, "in": {"$ref": "address"}}}}MORE}"#;

fn plugin(more: &str) -> Plugin<Validate> {
    Plugin::configure(&RULES.replace("MORE", more)).unwrap()
}

fn json(method: &str, path: &str, body: &str) -> Message {
    Message::request(method, path).header("content-type", "application/json").body(body)
}

/// The status, and the mistakes that are told.
fn answer(plugin: &Plugin<Validate>, request: Message) -> (u16, Vec<(String, String)>) {
    match plugin.exchange().request(request.clone()) {
        Ok(passed) => {
            assert_eq!(passed, request);
            (200, Vec::new())
        }
        Err(reply) => {
            let problem: Value = serde_json::from_slice(reply.content()).unwrap_or_default();
            let errors = problem["errors"].as_array().cloned().unwrap_or_default();
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            (reply.status(), errors.iter().map(|error| (text(&error["at"]), text(&error["what"]))).collect())
        }
    }
}

#[test]
fn bodies_that_fit_pass_and_others_are_told_why() {
    let plugin = plugin("");
    for (body, mistakes) in [
        (r#"{"name": "ada", "age": 36, "mail": "ada@example.org", "home": {"city": "London"}}"#, &[][..]),
        (r#"{"name": "ada"}"#, &[("", "missing properties 'age'")]),
        (
            r#"{"name": "", "age": -1}"#,
            &[("/age", "must be >=0"), ("/name", "does not match pattern"), ("/name", "length must be >=1")],
        ),
        (r#"{"name": "ada", "age": "36"}"#, &[("/age", "want integer, but got string")]),
        (r#"{"name": "ada", "age": 1, "x": 1}"#, &[("", "'x' not allowed")]),
        (r#"{"name": "ada", "age": 1, "mail": "nobody"}"#, &[("/mail", "email")]),
        (r#"{"name": "ada", "age": 1, "home": {"in": {"city": 7}}}"#, &[("/home/in/city", "want string")]),
        (r#"{"name": "ada", "age": 1, "name": 7}"#, &[("", "two members are called \"name\"")]),
        ("[1", &[("", "this is no JSON")]),
        ("", &[("", "this is no JSON")]),
    ] {
        let (status, mut told) = answer(&plugin, json("POST", "/users", body));
        told.sort();
        assert_eq!(status, if mistakes.is_empty() { 200 } else { 400 }, "{body}: {told:?}");
        assert_eq!(told.len(), mistakes.len(), "{body}: {told:?}");
        for ((at, what), (wanted_at, wanted)) in told.iter().zip(mistakes) {
            assert!(at == wanted_at && what.contains(wanted), "{body}: {told:?}");
        }
    }
}

#[test]
fn rules_are_for_their_paths_and_methods() {
    let plugin = plugin("");
    for (request, status) in [
        (json("PUT", "/users/7?a", "{}"), 400),
        (json("GET", "/users/7", "{}"), 200),
        (json("POST", "/users/7/more", "{}"), 200),
        (json("GET", "/search", "[1, 2]"), 200),
        (json("GET", "/search", "[1, 2, 3]"), 400),
        (json("GET", "/search", ""), 200),
        (Message::get("/search"), 200),
        (Message::post("/users"), 400),
        (Message::post("/users").body("{}"), 415),
        (json("POST", "/users", "{}").header("content-encoding", "gzip"), 415),
    ] {
        assert_eq!(answer(&plugin, request.clone()).0, status, "{request:?}");
    }
}

#[test]
fn limits_are_where_they_say() {
    let plugin = plugin(r#", "limit": 8, "depth": 3, "errors": 2"#);
    let status = |body: &str| answer(&plugin, json("GET", "/search", body)).0;
    assert_eq!([status("[1,2222]"), status("[1,22222]"), status("[[[]]]"), status("[[[[]]]]")], [200, 413, 200, 400]);
    let many = RULES.replace("MORE", r#", "errors": 2"#).replace(r#""maxItems": 2"#, r#""items": {"type": "null"}"#);
    let many = Plugin::<Validate>::configure(&many).unwrap();
    assert_eq!(answer(&many, json("GET", "/search", "[1, 2, 3]")).1.len(), 2);
    let usual = self::plugin("");
    let long = |bytes: usize| answer(&usual, json("GET", "/search", &format!("[\"{}\"]", "x".repeat(bytes - 4)))).0;
    assert_eq!([long(131_072), long(131_073)], [200, 413]);
}

#[test]
fn a_schema_that_refers_to_itself_ends_with_the_body() {
    let plugin = plugin(r#", "depth": 64"#);
    let deep = |levels: usize| {
        let home = format!("{}{{}}{}", r#"{"in":"#.repeat(levels), "}".repeat(levels));
        answer(&plugin, json("POST", "/users", &format!(r#"{{"name":"a","age":1,"home":{home}}}"#))).0
    };
    assert_eq!([deep(62), deep(63), deep(1000)], [200, 400, 400]);
}

#[test]
fn mistakes_are_named_and_limits_checked_at_their_edges() {
    let schema = |schema: &str| format!(r#"{{"rules": [{{"paths": ["/a"], "schema": {schema}}}]}}"#);
    let more = |more: &str| RULES.replace("MORE", more);
    for config in [more(r#", "depth": 1, "errors": 1, "limit": 1"#), more(r#", "depth": 64, "errors": 100"#)] {
        assert!(Plugin::<Validate>::configure(&config).is_ok());
    }
    for (config, why) in [
        (String::new(), "missing field `rules`"),
        (r#"{"rules": []}"#.to_owned(), "`rules` is empty"),
        (r#"{"rules": [{"paths": [], "schema": true}]}"#.to_owned(), "rules[0]: `paths` is empty"),
        (r#"{"rules": [{"paths": ["a"], "schema": true}]}"#.to_owned(), "is no pattern of paths"),
        (schema(r#"{"type": "text"}"#), "rules[0]: schema: it"),
        (schema(r#"{"pattern": "("}"#), "rules[0]: schema: it"),
        (schema(r#"{"$ref": "nothing"}"#), "there is no \"nothing\" in `schemas`"),
        (schema(r#"{"$ref": "https://example.org/a"}"#), "nothing is fetched"),
        (schema(r#"{"$ref": "file:///etc/passwd"}"#), "nothing is fetched"),
        (more(r#", "depth": 0"#), "1 to 64"),
        (more(r#", "depth": 65"#), "1 to 64"),
        (more(r#", "errors": 101"#), "1 to 100"),
        (more(r#", "limit": 0"#), "`limit` is 0"),
        (RULES.replace("MORE", "").replace(r#""address": {"type""#, r#""a b": {"type""#), "no name of a schema"),
        (more(r#", "schema": {}"#), "unknown field `schema`, expected one of `rules`"),
    ] {
        let error = Plugin::<Validate>::configure(&config).err().unwrap_or_else(|| panic!("{config} is accepted"));
        assert!(error.contains(why), "{config}: {error}");
    }
}

#[test]
fn the_schema_is_the_one_in_the_file() {
    lacis_filter_parts::schema::matches_file::<Config>(env!("CARGO_MANIFEST_DIR")).unwrap();
}
