//! Copies of requests, and faults: what a rule does to requests on purpose.

use lacis_tests::until;
use serde_json::json;

use super::{routed, rule};

/// Copies: `conformance/tests/httproute-request-mirror.yaml`, `-request-multiple-mirrors.yaml` and
/// `-request-percentage-mirror.yaml`. What becomes of a copy is of no matter to its request.
#[test]
fn requests_are_mirrored() {
    let set = json!({"request_headers": {"set": [{"name": "x-set", "value": "set"}], "remove": ["x-remove"]}});
    let mirror = |service: &str| json!({"mirror": {"service": service}});
    let rules = [
        rule("one", json!({"matches": [{"path": {"prefix": "/bytes/1"}}], "filters": [mirror("v2")]})),
        rule("changed", json!({"matches": [{"path": {"prefix": "/echo"}}], "filters": [set, mirror("v2")]})),
        rule(
            "both",
            json!({"matches": [{"path": {"prefix": "/bytes/2"}}], "filters": [mirror("v2"), mirror("nobody")]}),
        ),
        rule(
            "share",
            json!({"matches": [{"path": {"prefix": "/bytes/3"}}],
            "filters": [{"mirror": {"service": "v2", "fraction": {"numerator": 3, "denominator": 10}}}]}),
        ),
        rule(
            "hold",
            json!({"matches": [{"path": {"prefix": "/nowhere"}}], "filters": [mirror("v2")], "to": [{"service": "delta"}]}),
        ),
        rule("rest", json!({})),
    ];
    let nobody = json!({"endpoints": [lacis_tests::unused().to_string()], "link": "plaintext"});
    let more = json!({"services": {"nobody": nobody, "v2": {"retries": {"attempts": 0, "body": "1KiB"}}}});
    let (pair, v2) = routed(&rules, more);
    let counts = |count: f64, result: &str| {
        pair.alpha.counts(count, "lacis_mirrors_total", &[("destination", "v2"), ("result", result)]);
    };
    assert_eq!(pair.get("/bytes/1").status(), 200);
    counts(1.0, "answered");
    assert_eq!((pair.app.requests(), v2.requests()), (1, 1));

    // With its body, and as the rule has changed it.
    let fields = [("x-remove", "here"), ("x-kept", "yes")];
    let answer = pair.connect().request("POST", "delta", "/echo", &fields, Some(b"body"));
    assert_eq!((answer.status(), answer.field("x-app")), (200, Some("delta")));
    counts(2.0, "answered");
    let copy = &v2.seen()[1];
    assert_eq!((copy.target.as_str(), copy.length, copy.field("host")), ("/echo", 4, Some("delta")));
    assert_eq!((copy.field("x-set"), copy.field("x-remove"), copy.field("x-kept")), (Some("set"), None, Some("yes")));

    // 1 KiB is copied, and not a byte more.
    for (length, answered, too_large) in [(1024, 3.0, 0.0), (1025, 3.0, 1.0)] {
        let answer = pair.connect().request("POST", "delta", "/echo", &[], Some(&vec![b'x'; length]));
        assert_eq!(answer.status(), 200);
        counts(answered, "answered");
        counts(too_large, "too_large");
    }

    // Two of them, one to nobody; and one whose answer is an error.
    assert_eq!(pair.get("/bytes/2").status(), 200);
    counts(4.0, "answered");
    pair.alpha.counts(1.0, "lacis_mirrors_total", &[("destination", "nobody"), ("result", "failed")]);
    assert_eq!(pair.get("/nowhere").status(), 404);
    counts(5.0, "answered");

    let mut client = pair.connect();
    let before = v2.requests();
    for _ in 0..400 {
        assert_eq!(client.get("delta", "/bytes/3").status(), 200);
    }
    // 120 expected; six standard deviations are 55.
    pair.alpha.metric_becomes("lacis_mirrors_total", &[("result", "answered")], |all| all as u64 == v2.requests());
    let share = v2.requests() - before;
    assert!((65..=175).contains(&share), "{share} of 400");
}

/// One that does not answer holds up nobody, and a request that is given up is not copied.
#[test]
fn a_copy_holds_up_nobody() {
    let filters = json!([{"mirror": {"service": "v2"}}]);
    let rules =
        [rule("all", json!({"matches": [{"path": {"prefix": "/hold"}}], "filters": filters})), rule("rest", json!({}))];
    let (pair, v2) = routed(&rules, json!({}));
    pair.app.release();
    assert_eq!(pair.get("/hold").status(), 200);
    v2.wait_held(1);
    assert_eq!(pair.get("/hold").status(), 200, "the connection is for others");
    v2.wait_held(2);
    v2.release();
    pair.alpha.counts(2.0, "lacis_mirrors_total", &[("destination", "v2"), ("result", "answered")]);
}

/// Delays and aborts by share and header, of a rule and of a service; counted, told, and held against no endpoint.
#[test]
fn faults_are_injected() {
    let all = |status: u16| json!({"abort": {"http_status": status, "percentage": "100%"}});
    let jason = json!([{"name": "x-user", "value": "jason"}]);
    let mut slow = json!({"delay": {"fixed": "300ms", "percentage": "100%"}});
    slow["headers"] = jason;
    let rules = [
        rule("teapot", json!({"matches": [{"path": {"prefix": "/bytes/1"}}], "fault": all(418)})),
        rule("slow", json!({"matches": [{"path": {"prefix": "/bytes/2"}}], "fault": slow})),
        rule(
            "share",
            json!({"matches": [{"path": {"prefix": "/bytes/3"}}],
            "fault": {"abort": {"grpc_status": "RESOURCE_EXHAUSTED", "percentage": "30%"}}}),
        ),
        rule("rest", json!({})),
    ];
    let strict = json!({"services": {"delta": {"fault": all(500), "outliers": {"consecutive": 1},
        "breaker": {"failures": "1%", "requests": 1}}}});
    let (pair, _) = routed(&rules, strict);
    let get = |path: &str, id: &str, user: &str| {
        pair.connect().request("GET", "delta", path, &[("x-request-id", id), ("x-user", user)], None)
    };
    let answer = get("/bytes/1", "tea", "any");
    assert_eq!((answer.status(), answer.field("proxy-status")), (418, Some("alpha; error=proxy_internal_response")));
    let record = pair.alpha.access("the teapot", |record| record["request_id"] == "tea");
    assert_eq!(
        (&record["response_flags"], &record["response_code_details"]),
        (&json!("FI"), &json!("fault_filter_abort"))
    );
    assert_eq!(get("/other", "own", "any").status(), 500, "the service's own, where the rule has none");
    assert_eq!(pair.app.requests(), 0);

    let start = std::time::Instant::now();
    assert_eq!(get("/bytes/2", "slow", "jason").status(), 200);
    assert!(start.elapsed() >= std::time::Duration::from_millis(300), "no sooner");
    let record = pair.alpha.access("the slow one", |record| record["request_id"] == "slow");
    assert_eq!(record["response_flags"], "DI");
    assert_eq!(get("/bytes/2", "quick", "other").status(), 200);
    let record = pair.alpha.access("the quick one", |record| record["request_id"] == "quick");
    assert_eq!(record["response_flags"], "-");

    let mut client = pair.connect();
    let mut failed = 0;
    for _ in 0..400 {
        let answer = client.get("delta", "/bytes/3");
        failed += usize::from(answer.field("grpc-status") == Some("8"));
    }
    assert!((65..=175).contains(&failed), "{failed} of 400");
    pair.alpha.counts(failed as f64 + 2.0, "lacis_faults_total", &[("destination", "delta"), ("cause", "abort")]);
    pair.alpha.counts(1.0, "lacis_faults_total", &[("destination", "delta"), ("cause", "delay")]);
    pair.alpha.counts(0.0, "lacis_ejections_total", &[]);
    pair.alpha.counts(0.0, "lacis_breaker_open", &[]);
}

/// The bound of a rule counts from the end of the delay.
#[test]
fn a_delay_is_not_of_the_time_of_its_request() {
    let slow = json!({"delay": {"fixed": "300ms", "percentage": "100%"}});
    let (pair, _) = routed(&[rule("slow", json!({"fault": slow, "timeout": "200ms"}))], json!({}));
    // On a busy machine the answer may take as long.
    until("a delayed one is served", || (pair.get("/bytes/1").status() == 200).then_some(()));
}
