//! `builtin:transform`.

use serde_json::json;

use crate::both;

const JSON: (&str, &str) = ("content-type", "application/json");

#[test]
fn headers_and_bodies_are_changed() {
    let config = json!({
        "request": {
            "headers": [
                {"rename": "x-old", "to": "x-new"},
                {"set": "x-who", "value": "${header:x-user|nobody} ${method}"},
                {"remove": "x-secret"},
            ],
            "json": [{"set": "/user", "value": "${header:x-user}"}, {"remove": "/secret"}, {"rename": "/a", "to": "/b/c"}],
        },
        "response": {
            "headers": [{"set": "x-for", "value": "${header:x-user|nobody} ${status}"}],
            "json": [{"remove": "/user"}],
        },
        "not_json": "refuse",
    });
    both("transform", config).run(|side| {
        let body = br#"{"a": 1.50, "secret": true, "z": [1, 2]}"#;
        // The application sends back what it got, and says nothing of its type.
        let answer =
            side.ask("POST", "/drain", &[JSON, ("x-user", "ada"), ("x-old", "1"), ("x-secret", "2")], Some(body));
        let sent = r#"{"z":[1, 2],"user":"ada","b":{"c":1.50}}"#;
        assert_eq!((answer.status(), answer.field("x-for")), (502, None), "not JSON, says the response");
        let seen = lacis_tests::until("the request has been read", || side.app("app").seen().pop());
        assert_eq!((seen.length, seen.field("content-length")), (sent.len() as u64, Some(&*sent.len().to_string())));
        assert_eq!((seen.field("x-new"), seen.field("x-old"), seen.field("x-secret")), (Some("1"), None, None));
        assert_eq!(seen.field("x-who"), Some("ada POST"));
        let before = side.app("app").requests();
        assert_eq!(side.ask("POST", "/echo", &[JSON], Some(b"{")).status(), 400);
        assert_eq!(side.ask("POST", "/echo", &[], Some(b"{}")).status(), 415);
        assert_eq!(side.app("app").requests(), before);
        // No body, nothing that must be JSON.
        let answer = side.get("/status/204", &[]);
        assert_eq!((answer.status(), answer.field("x-for")), (204, Some("nobody 204")));
    });
}

#[test]
fn json_of_responses_is_changed() {
    let config = json!({"response": {"json": [
        {"remove": "/fields"}, {"set": "/by", "value": "${header:x-user} ${response:x-app}"}]}});
    both("transform", config).run(|side| {
        let answer = side.ask("POST", "/echo", &[("x-user", "ada")], Some(&[b'x'; 100_000]));
        assert_eq!(answer.status(), 200);
        let length = answer.body.len().to_string();
        assert_eq!(answer.field("content-length"), Some(&*length));
        let json = answer.json();
        assert_eq!((json.get("fields"), &json["by"], &json["length"]), (None, &json!("ada app"), &json!(100_000)));
        let plain = side.get("/bytes/3", &[]);
        assert_eq!((plain.status(), plain.body.len()), (200, 3), "not JSON: it passes");
    });
}
