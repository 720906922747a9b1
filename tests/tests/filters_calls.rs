//! Calls that filters make: HTTP and gRPC, to services of the mesh, while requests wait for them or do not.

mod words;

use lacis_tests::wire::Response;
use lacis_tests::{App, Link, Mesh, Sidecar, client, guest, on_links, unused};
use serde_json::{Value, json};

/// alpha with one filter on its outbound side, an application that it calls by `delta`, and one that the filter calls by
/// `auth` over a link of the mesh.
struct Calls {
    alpha: Sidecar,
    app: App,
    auth: App,
    /// Between alpha and what its filter calls; none where that is plaintext.
    _sidecar: Option<Sidecar>,
    _mesh: Mesh,
}

impl Calls {
    fn new(link: Link, filter: Value) -> Calls {
        Calls::with(link, filter, json!({}))
    }

    fn with(link: Link, filter: Value, more: Value) -> Calls {
        let (mesh, app, auth) = (Mesh::new(), App::start(), App::named("auth"));
        let sidecar = (link != Link::Plaintext).then(|| mesh.sidecar("auth").application(&auth).start());
        let endpoint = sidecar.as_ref().map_or(auth.address(), Sidecar::inbound);
        let config = json!({"filters": {"mine": filter}, "outbound": {"filters": ["mine"]}});
        let alpha = mesh.sidecar("alpha").calls("delta", app.address(), Link::Plaintext).calls("auth", endpoint, link);
        let alpha = alpha.with(config).with(more).start();
        Calls { alpha, app, auth, _sidecar: sidecar, _mesh: mesh }
    }

    fn get(&self, fields: &[(&str, &str)]) -> Response {
        client::request(self.alpha.outbound(), "GET", "delta", "/echo", fields, None)
    }
}

on_links! {
    /// A request waits at its head until another service has said yes to it; its body waits too.
    [H1, H2, H3, Plaintext] fn a_request_waits_for_an_answer(link) {
        let calls = Calls::new(link, guest("auth"));
        let answer = calls.get(&[("x-ask", "/bytes/5")]);
        assert_eq!(answer.status(), 200, "{answer:?}");
        let seen = calls.app.seen().remove(0);
        assert_eq!(seen.field("x-authorized"), Some("5"));
        let asked = calls.auth.seen().remove(0);
        assert_eq!((asked.method.as_str(), asked.target.as_str()), ("GET", "/bytes/5"));
        let body = "x".repeat(100_000);
        let outbound = calls.alpha.outbound();
        let answer = client::request(outbound, "POST", "delta", "/drain", &[], Some(body.as_bytes()));
        assert_eq!((answer.status(), &answer.body[..]), (200, &b"100000"[..]));
        let refused = calls.get(&[("x-ask", "/status/404")]);
        assert_eq!((refused.status(), refused.head.field("x-status")), (403, Some("404")));
        assert_eq!(calls.app.requests(), 2, "what is refused goes nowhere");
    }

    /// Two at once, and one with what they said.
    [H2, H3] fn calls_are_parallel_and_chained(link) {
        let calls = Calls::new(link, guest("fan"));
        assert_eq!(calls.get(&[]).status(), 200);
        let seen = calls.app.seen().remove(0);
        assert_eq!(seen.field("x-answers"), Some("12,4,3"));
        let mut lengths: Vec<u64> = calls.auth.seen().iter().map(|seen| seen.length).collect();
        lengths.sort_unstable();
        assert_eq!(lengths, [3, 4, 12]);
    }
}

/// What goes wrong is told as Envoy tells it: no answer in time, nobody there, an answer that breaks off or is too large.
#[test]
fn failures_are_answers() {
    let mut filter = guest("auth");
    filter["limits"]["buffer"] = json!("10KiB");
    let calls = Calls::new(Link::H2, filter);
    let late = calls.get(&[("x-ask", "/silent"), ("x-timeout", "300")]);
    assert_eq!((late.status(), late.head.field("x-status")), (403, Some("504")));
    assert_eq!(late.body, "upstream request timeout");
    for path in ["/truncate", "/bytes/10241"] {
        let broken = calls.get(&[("x-ask", path)]);
        let said = (broken.head.field("x-status"), broken.head.field("x-headers"));
        // A head that its own reset overtakes never comes.
        let early = path == "/truncate" && said.0 == Some("503");
        assert!(early || said == (Some("none"), Some("0")), "{path}: {said:?}");
    }
    assert_eq!(calls.get(&[("x-ask", "/bytes/10240")]).status(), 200);
    for result in ["timeout", "failed", "too_large", "answered"] {
        let labels = [("filter", "mine"), ("destination", "auth"), ("result", result)];
        calls.alpha.counts(1.0, "lacis_filter_calls_total", &labels);
    }
    let gone = json!({"services": {"auth": {"endpoints": [unused().to_string()]}}});
    let refused = Calls::with(Link::Plaintext, guest("auth"), gone).get(&[]);
    assert_eq!(refused.head.field("x-status"), Some("503"));
    assert!(refused.text().starts_with("upstream connect error"), "{}", refused.text());
}

/// A service that there is not, and more calls than a filter may have, are refused to the guest at once.
#[test]
fn what_may_not_be_called_is_refused_at_once() {
    let calls = Calls::with(Link::Plaintext, guest("auth"), json!({"services": {"auth": null}}));
    assert_eq!(calls.get(&[]).head.field("x-status"), Some("BadArgument"));
    let mut filter = guest("auth");
    filter["allow"] = json!({"calls": ["delta"]});
    let calls = Calls::new(Link::Plaintext, filter);
    assert_eq!(calls.get(&[]).head.field("x-status"), Some("BadArgument"));
    assert_eq!(calls.auth.requests(), 0);
    calls.alpha.counts(1.0, "lacis_filter_refusals_total", &[("filter", "mine"), ("limit", "service")]);
    calls.alpha.log("who was called", |line| line.to_string().contains("a call to \\\"auth\\\", which"));
    let mut filter = guest("auth");
    filter["limits"]["calls"] = json!(0);
    let calls = Calls::new(Link::Plaintext, filter);
    assert_eq!(calls.get(&[]).head.field("x-status"), Some("InternalFailure"));
}

/// A call that its request does not wait for: the refusal overtakes the response, or comes too late for it.
#[test]
fn an_answer_may_overtake_the_response() {
    let calls = Calls::new(Link::H2, guest("ask-and-go"));
    let outbound = calls.alpha.outbound();
    let answer = client::request(outbound, "GET", "delta", "/silent", &[("x-ask", "/status/404")], None);
    assert_eq!((answer.status(), answer.head.field("x-status")), (403, Some("404")));
    calls.alpha.metric_becomes("lacis_requests_active", &[], |active| active == 0.0);
}

/// A client that leaves does not take the call with it, and the filter lives on.
#[test]
fn a_client_may_leave_while_a_call_is_under_way() {
    let calls = Calls::new(Link::H2, guest("auth"));
    let mut client = client::Client::connect(calls.alpha.outbound());
    client.send("GET /echo HTTP/1.1\r\nhost: delta\r\nx-ask: /hold\r\n\r\n");
    calls.auth.wait_held(1);
    client.reset();
    calls.alpha.metric_becomes("lacis_requests_active", &[], |active| active == 0.0);
    calls.auth.release();
    assert_eq!(calls.get(&[("x-ask", "/bytes/1")]).status(), 200);
    assert_eq!(calls.app.requests(), 1);
}

/// A request that began before a change ends as if there was none: its filters still call a service that is gone.
#[test]
fn a_request_calls_the_services_that_it_began_with() {
    let fan = json!({"filters": {"fan": guest("fan")}, "services": {"delta": {"filters": ["fan"]}}});
    let mut calls = Calls::with(Link::Plaintext, guest("auth"), fan);
    let mut client = client::Client::connect(calls.alpha.outbound());
    client.send("GET /echo HTTP/1.1\r\nhost: delta\r\nx-ask: /hold\r\n\r\n");
    calls.auth.wait_held(1);
    let without = json!({"auth": null, "delta": {"filters": null}});
    calls.alpha.reload(json!({"filters": null, "outbound": {"filters": null}, "services": without}));
    calls.auth.release();
    assert_eq!(client.response("GET").status(), 200);
    assert_eq!(calls.app.seen().remove(0).field("x-answers"), Some("12,4,3"));
}

/// Two filters of one module, each with its own calls: what is answered to one does not let the other's request go on.
#[test]
fn filters_of_one_module_wait_for_their_own_answers() {
    let both = json!({"filters": {"first": guest("auth"), "second": guest("fan")},
        "outbound": {"filters": ["first", "mine", "second"]}});
    let calls = Calls::with(Link::H2, guest("auth"), both);
    assert_eq!(calls.get(&[("x-ask", "/bytes/5")]).status(), 200);
    let seen = calls.app.seen().remove(0);
    assert_eq!((seen.field("x-authorized"), seen.field("x-answers")), (Some("5"), Some("12,4,3")));
    assert_eq!(calls.auth.requests(), 5);
}

/// gRPC: a call, one that fails, one to nobody, and a stream, against tonic.
#[test]
fn grpc_calls_and_streams() {
    let (words, _waiting) = words::serve();
    let mesh = Mesh::new();
    let app = App::start();
    let config = json!({"filters": {"mine": guest("grpc")}, "outbound": {"filters": ["mine"]}});
    let alpha = mesh.sidecar("alpha").calls("delta", app.address(), Link::Plaintext);
    let alpha = alpha.calls("words", words, Link::Plaintext).calls("nobody", unused(), Link::Plaintext);
    let alpha = alpha.with(config).start();
    let events = |method: &str, service: &str| {
        let fields = [("x-method", method), ("x-service", service)];
        client::request(alpha.outbound(), "GET", "delta", "/", &fields, None).text()
    };
    assert_eq!(events("Echo", "words"), "0 Some(\"hello\") (0, None)");
    let failed = events("Fail", "words");
    assert!(failed.starts_with("9 None (9, Some(\"no »hello« here\"))"), "{failed}");
    assert!(events("Nothing", "words").starts_with("12 None"));
    assert!(events("Echo", "nobody").starts_with("14 None"));
    assert_eq!(events("Shout", "words"), "head\nFIRST\nSECOND\ntrailers\nclosed 0");
    assert_eq!(app.requests(), 0);
}

/// What one worker puts into a queue, the worker that listens hears; where it is, everybody sees.
#[test]
fn queues_cross_workers() {
    let calls = Calls::with(Link::Plaintext, guest("queue"), json!({"workers": 2}));
    let text = |path: &str| client::get(calls.alpha.outbound(), "delta", path).text();
    for n in 0..8 {
        let path = format!("/put/{n}");
        text(&path);
        lacis_tests::until("it was heard", || (text("/") == path).then_some(()));
    }
}
