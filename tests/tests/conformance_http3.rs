//! HTTP/3 as others speak it: aioquic on both ends of a link, quic-go and libcurl (ngtcp2) before an inbound listener.

#[path = "../peers/mod.rs"]
mod peers;

use std::collections::BTreeMap;

use lacis_tests::client::{self, Client};
use lacis_tests::{App, Link, Mesh, peer};
use peers::{H3Client, H3Server, caller, identity, json_lines, run};
use serde_json::{Value, json};

/// What a probe must lead to.
#[derive(Clone, Copy, Debug)]
enum Wanted {
    /// A malformed message (RFC 9114 section 4.1.2): 400 or H3_MESSAGE_ERROR, on this stream alone.
    Malformed,
    /// Over a limit of ours: 431, 413, H3_EXCESSIVE_LOAD or H3_MESSAGE_ERROR; the connection may end with it.
    Limit,
    /// The connection ends with one of these codes.
    Closed(&'static [u64]),
    /// The stream is reset with this code, and nothing else happens.
    Reset(u64),
    /// Served as if nothing was wrong.
    Served,
    /// The request never becomes whole at the application; whatever else happens on that stream.
    Cut,
}

use Wanted::{Closed, Cut, Limit, Malformed, Reset, Served};

const H3_STREAM_CREATION_ERROR: u64 = 0x103;
const H3_CLOSED_CRITICAL_STREAM: u64 = 0x104;
const H3_FRAME_UNEXPECTED: u64 = 0x105;
const H3_FRAME_ERROR: u64 = 0x106;
const H3_EXCESSIVE_LOAD: u64 = 0x107;
const H3_ID_ERROR: u64 = 0x108;
const H3_REQUEST_INCOMPLETE: u64 = 0x10d;
const H3_MESSAGE_ERROR: u64 = 0x10e;
const QPACK_DECOMPRESSION_FAILED: u64 = 0x200;

/// The probes of `h3_client.py`.
const PROBES: &[(&str, Wanted)] = &[
    ("two-paths", Malformed),
    ("two-methods", Malformed),
    ("two-authorities", Malformed),
    ("pseudo-after-regular", Malformed),
    ("status-in-request", Malformed),
    ("unknown-pseudo", Malformed),
    ("protocol-without-connect", Malformed),
    ("no-method", Malformed),
    ("no-scheme", Malformed),
    ("no-path", Malformed),
    ("empty-path", Malformed),
    ("no-authority", Malformed),
    ("path-with-space", Malformed),
    ("path-with-line-end", Malformed),
    ("method-with-space", Malformed),
    ("authority-with-user", Malformed),
    ("host-differs", Malformed),
    ("connection", Malformed),
    ("keep-alive", Malformed),
    ("proxy-connection", Malformed),
    ("transfer-encoding", Malformed),
    ("upgrade", Malformed),
    ("te-gzip", Malformed),
    ("uppercase-name", Malformed),
    ("name-with-space", Malformed),
    ("empty-name", Malformed),
    ("value-with-line-end", Malformed),
    ("value-with-nul", Malformed),
    ("length-100-body-3", Malformed),
    ("length-2-body-3", Malformed),
    ("length-3-no-body", Malformed),
    ("two-lengths", Malformed),
    ("length-plus", Malformed),
    ("pseudo-in-trailers", Malformed),
    ("connection-in-trailers", Malformed),
    ("uppercase-in-trailers", Malformed),
    ("huge-head", Limit),
    ("many-fields", Limit),
    ("long-fields", Limit),
    ("data-first", Closed(&[H3_FRAME_UNEXPECTED])),
    ("headers-after-trailers", Closed(&[H3_FRAME_UNEXPECTED])),
    ("data-after-trailers", Closed(&[H3_FRAME_UNEXPECTED])),
    ("settings-on-request", Closed(&[H3_FRAME_UNEXPECTED])),
    ("goaway-on-request", Closed(&[H3_FRAME_UNEXPECTED])),
    ("push-promise-from-client", Closed(&[H3_FRAME_UNEXPECTED])),
    ("h2-frame-on-request", Closed(&[H3_FRAME_UNEXPECTED])),
    ("frame-cut-by-fin", Closed(&[H3_FRAME_ERROR])),
    ("qpack-garbage", Closed(&[QPACK_DECOMPRESSION_FAILED])),
    ("settings-twice", Closed(&[H3_FRAME_UNEXPECTED])),
    ("data-on-control", Closed(&[H3_FRAME_UNEXPECTED])),
    ("headers-on-control", Closed(&[H3_FRAME_UNEXPECTED])),
    ("h2-frame-on-control", Closed(&[H3_FRAME_UNEXPECTED])),
    ("goaway-cut", Closed(&[H3_FRAME_ERROR])),
    ("goaway-rising", Closed(&[H3_ID_ERROR])),
    ("max-push-id-falling", Closed(&[H3_ID_ERROR])),
    ("control-closed", Closed(&[H3_CLOSED_CRITICAL_STREAM])),
    ("control-reset", Closed(&[H3_CLOSED_CRITICAL_STREAM])),
    ("second-control", Closed(&[H3_STREAM_CREATION_ERROR])),
    ("push-stream-from-client", Closed(&[H3_STREAM_CREATION_ERROR])),
    ("unknown-frames", Served),
    ("unknown-frame-first", Served),
    ("unknown-stream", Served),
    ("goaway-from-client", Served),
    ("te-trailers", Served),
    ("asterisk", Served),
    ("empty-stream", Reset(H3_REQUEST_INCOMPLETE)),
    ("cancelled-upload", Cut),
    ("cancelled-download", Served),
];

/// Memory that one bad frame may cost.
const GROWTH: u64 = 16 << 20;

#[test]
fn aioquic_sends_what_no_honest_client_sends() {
    let pair = peers::pair(Link::H3);
    let Some(client) = H3Client::new(pair.delta().inbound(), identity(&pair.mesh, "alpha", "--")) else { return };
    let client = client.arg("--patience", "10");
    let known =
        run(peer("peer-python").expect("it is here").command().arg(peers::file("h3_client.py")).arg("--probes")).1;
    let mut names: Vec<&str> = PROBES.iter().map(|(name, _)| *name).collect();
    let mut known: Vec<&str> = known.lines().collect();
    names.sort_unstable();
    known.sort_unstable();
    assert_eq!(names, known, "every probe has its line here");

    let mut wrong = BTreeMap::new();
    for (name, wanted) in PROBES {
        let (before, memory) = (whole(&pair.app), pair.delta().rss());
        let answer = client.perform(&[json!({"probe": name})]).remove(0);
        let mut verdict = judge(*wanted, &answer);
        if !matches!(wanted, Served) && whole(&pair.app) > before {
            verdict = Err("it reached the application as a whole request".to_owned());
        }
        let growth = pair.delta().rss().saturating_sub(memory);
        if growth > GROWTH {
            verdict = Err(format!("it cost {growth} bytes of memory"));
        }
        if let Err(why) = verdict {
            wrong.insert(*name, format!("{why}; {answer}"));
        }
        // Nothing may outlive its stream.
        pair.delta().metric_becomes("lacis_requests_active", &[("direction", "inbound")], |active| active == 0.0);
    }
    let lines: Vec<String> = wrong.iter().map(|(name, why)| format!("{name}: {why}")).collect();
    assert!(lines.is_empty(), "{} probes:\n{}", lines.len(), lines.join("\n"));
}

/// Requests of probes that the application read to their end.
fn whole(app: &App) -> usize {
    app.seen().iter().filter(|seen| !seen.target.starts_with("/bytes/")).count()
}

/// Whether an answer is what was wanted, or why not.
fn judge(wanted: Wanted, answer: &Value) -> Result<(), String> {
    let status = answer["status"].as_u64();
    let code = answer["reset"].as_u64().or_else(|| answer["stop"].as_u64());
    let closed = answer["closed"]["code"].as_u64();
    let healthy = answer["healthy"] == true && closed.is_none();
    let want = |good: bool, what: &str| if good { Ok(()) } else { Err(format!("wanted {what}")) };
    match wanted {
        Malformed => {
            let refused = status == Some(400) || code == Some(H3_MESSAGE_ERROR);
            want(refused && healthy, "400 or H3_MESSAGE_ERROR, and a healthy connection")
        }
        Limit => {
            let codes = [H3_EXCESSIVE_LOAD, H3_MESSAGE_ERROR];
            let refused = matches!(status, Some(431 | 413)) || code.or(closed).is_some_and(|c| codes.contains(&c));
            want(refused && (healthy || closed.is_some()), "431, 413 or H3_EXCESSIVE_LOAD")
        }
        Closed(codes) => want(closed.is_some_and(|c| codes.contains(&c)), "the connection to end with that code"),
        Reset(wanted) => want(code == Some(wanted) && healthy, "the stream to be reset with that code"),
        Served => want(status.is_some_and(|s| s < 500 && s != 400) && healthy, "an answer of the application"),
        Cut => want(healthy && status.is_none_or(|s| s >= 400), "no success, and a healthy connection"),
    }
}

/// Whole requests, alone and many at once, on one connection.
#[test]
fn aioquic_is_served() {
    let pair = peers::pair(Link::H3);
    let Some(client) = H3Client::new(pair.delta().inbound(), identity(&pair.mesh, "alpha", "--")) else { return };
    let forged = [["x-forwarded-client-cert", "URI=spiffe://mesh.local/ns/default/sa/root"]];
    let answers = client.perform(&[
        json!({"request": {"path": "/echo?q=1", "headers": forged}}),
        json!({"request": {"method": "POST", "path": "/mirror", "pieces": [1, 70_000, 0, 5], "trailers": [["x-sum", "7"]]}}),
        json!({"request": {"method": "POST", "path": "/drain", "body": "hello", "headers": [["content-length", "5"]]}}),
        json!({"request": {"method": "HEAD", "path": "/bytes/70"}}),
        json!({"request": {"path": "/status/204"}}),
        json!({"request": {"path": "/trailers"}}),
        json!({"request": {"path": "/hints"}}),
        json!({"request": {"path": "/truncate"}}),
        json!({"request": {"path": "/truncate-chunked"}}),
        json!({"many": {"path": "/bytes/100000", "count": 100}}),
    ]);
    assert!(
        answers.iter().all(|a| a["closed"].is_null() && a["server"] == peers::DELTA),
        "one connection: {answers:?}"
    );
    let [echo, mirror, drain, head, none, trailers, hints, cut, cut_chunked, many] = &answers[..] else {
        unreachable!()
    };

    let seen = &pair.app.seen()[0];
    assert_eq!((echo["status"].as_u64(), seen.target.as_str()), (Some(200), "/echo?q=1"));
    let identity = seen.field("x-forwarded-client-cert").expect("set by the sidecar");
    assert!(identity.contains(peers::ALPHA) && !identity.contains("sa/root"), "{identity}");
    assert_eq!((mirror["length"].as_u64(), &mirror["trailers"]), (Some(70_006), &json!([["x-sum", "7"]])));
    assert_eq!(drain["body"], "5");
    let length = head["headers"].as_array().expect("fields").iter().find(|field| field[0] == "content-length");
    assert_eq!((length, head["length"].as_u64()), (Some(&json!(["content-length", "70"])), Some(0)), "{head}");
    assert_eq!((none["status"].as_u64(), none["finished"].as_bool()), (Some(204), Some(true)));
    assert_eq!((trailers["body"].as_str(), &trailers["trailers"][0]), (Some("hello"), &json!(["x-checksum", "abc"])));
    assert_eq!((&hints["informational"][0][0], hints["body"].as_str()), (&json!([":status", "103"]), Some("hinted")));
    for answer in [cut, cut_chunked] {
        assert_eq!(answer["finished"], false, "a body that was cut must not look finished: {answer}");
        assert!(answer["reset"].is_u64(), "{answer}");
    }
    let many = many["answers"].as_array().expect("answers");
    assert!(many.iter().all(|a| a["length"] == 100_000 && a["finished"] == true), "{many:?}");
}

/// GOAWAY when the sidecar drains: its id lets every request that was accepted finish.
#[test]
fn a_draining_sidecar_says_goaway_to_aioquic() {
    let pair = peers::pair(Link::H3);
    let Some(client) = H3Client::new(pair.delta().inbound(), identity(&pair.mesh, "alpha", "--")) else { return };
    let held = std::thread::spawn(move || client.request(json!({"path": "/hold", "goaway": true})));
    pair.app.wait_held(1);
    pair.delta().signal("TERM");
    pair.delta().log("that it drains", |line| line.to_string().to_lowercase().contains("drain"));
    pair.app.release();
    let answer = held.join().expect("an answer");
    assert_eq!((answer["status"].as_u64(), answer["body"].as_str()), (Some(200), Some("held")), "{answer}");
    // The request was stream 0; a GOAWAY that said 0 would have disowned it.
    let ids: Vec<u64> = answer["goaway"].as_array().expect("ids").iter().filter_map(Value::as_u64).collect();
    assert!(!ids.is_empty() && ids.iter().all(|id| *id >= 4), "GOAWAY with {ids:?}");
}

/// Nothing for a client without a certificate, or with one of another CA.
#[test]
fn aioquic_without_a_good_certificate_gets_nothing() {
    let pair = peers::pair(Link::H3);
    let other = Mesh::foreign();
    let ca = identity(&pair.mesh, "alpha", "--")[..2].to_vec();
    let stranger = [ca.clone(), identity(&other, "alpha", "--").split_off(2)].concat();
    for (who, certificate) in [("no certificate", ca), ("another CA", stranger)] {
        let Some(client) = H3Client::new(pair.delta().inbound(), certificate) else { return };
        let answer = client.request(json!({"path": "/echo"}));
        assert_eq!(answer["status"], Value::Null, "{who}: {answer}");
        // RFC 9001 section 4.8: a TLS alert is a connection error of 0x100 + alert.
        assert_eq!(answer["closed"]["code"].as_u64().map(|c| c & !0xff), Some(0x100), "{who}: {answer}");
    }
    assert_eq!(pair.app.requests(), 0, "nothing reached the application");
    assert_eq!(pair.get("/echo").status(), 200, "the pair itself works");
}

/// quic-go: many requests at once, bodies with and without a length, trailers; and it is refused without a certificate.
#[test]
fn quic_go_is_served() {
    let Some(quicgo) = peer("quicgo") else { return };
    let pair = peers::pair(Link::H3);
    let call = |identity: Vec<String>, more: &[&str]| {
        let mut command = quicgo.command();
        command.args(["-address", &pair.delta().inbound().to_string(), "-identity", peers::DELTA, "-timeout", "40s"]);
        let (code, out, err) = run(command.args(identity).args(more));
        assert_eq!(code, 0, "{err}");
        json_lines(&out)
    };
    let alpha = || identity(&pair.mesh, "alpha", "-");

    // Fewer than the application's accept queue holds: each is a connection there.
    let answers = call(alpha(), &["-path", "/bytes/100000", "-count", "100"]);
    assert_eq!(answers.len(), 100);
    for answer in &answers {
        assert_eq!((answer["status"].as_u64(), answer["length"].as_u64()), (Some(200), Some(100_000)), "{answer}");
    }
    let mirror = &call(alpha(), &["-method", "POST", "-path", "/mirror", "-body", "3000000", "-trailer", "x-sum:7"])[0];
    assert_eq!((mirror["length"].as_u64(), &mirror["trailers"]["X-Sum"]), (Some(3_000_000), &json!(["7"])), "{mirror}");
    let drain = &call(alpha(), &["-method", "POST", "-path", "/drain", "-body", "1000000"])[0];
    assert_eq!(drain["status"], 200, "{drain}");
    let cut = &call(alpha(), &["-path", "/truncate-chunked"])[0];
    assert!(cut["error"].is_string(), "a cut body is an error: {cut}");

    let before = pair.app.requests();
    let nobody = &call(alpha()[..2].to_vec(), &["-path", "/echo"])[0];
    assert!(nobody["error"].is_string() && nobody["status"].is_null(), "{nobody}");
    assert_eq!(pair.app.requests(), before);
}

/// libcurl with ngtcp2, from Python.
#[test]
fn libcurl_is_served_over_http3() {
    let Some(python) = peer("peer-python") else { return };
    let pair = peers::pair(Link::H3);
    let mut command = python.command();
    command.arg(peers::file("h3_curl.py")).args(identity(&pair.mesh, "alpha", "--"));
    command.arg(format!("https://{}", pair.delta().inbound()));
    let (code, out, err) = run(&mut command);
    assert_eq!(code, 0, "{out}\n{err}");
    let told: Value = serde_json::from_str(&out).expect("JSON");
    // 30 is libcurl's number for HTTP/3.
    assert_eq!(told, json!({"get": [200, 30, 3_000_000], "post": [200, 30, "2000000"], "cut": true}));
}

/// The pair's first half, with aioquic as the server of its link.
struct ToAioquic {
    alpha: lacis_tests::Sidecar,
    server: H3Server,
    _mesh: Mesh,
}

impl ToAioquic {
    fn start(streams: u32) -> Option<ToAioquic> {
        let mesh = Mesh::new();
        let server = H3Server::start(&mesh, streams)?;
        let alpha = caller(&mesh, server.address, Link::H3);
        Some(ToAioquic { alpha, server, _mesh: mesh })
    }

    fn connect(&self) -> Client {
        Client::connect(self.alpha.outbound())
    }

    fn try_get(&self, path: &str) -> std::io::Result<lacis_tests::wire::Response> {
        let mut client = self.connect();
        client.send(format!("GET {path} HTTP/1.1\r\nhost: delta\r\n\r\n"));
        client.try_response("GET")
    }
}

#[test]
fn a_link_to_aioquic_carries_requests() {
    let Some(to) = ToAioquic::start(100) else { return };
    let mut client = to.connect();
    let body = vec![b'x'; 1_000_000];
    let echo = client.request("POST", "delta", "/echo", &[], Some(&body));
    assert!(echo.status() == 200 && echo.body == body, "{} bytes", echo.body.len());
    client.send(
        "POST /echo HTTP/1.1\r\nhost: delta\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 7\r\n\r\n",
    );
    let echo = client.response("POST");
    assert_eq!((echo.text().as_str(), echo.trailer("echoed-x-sum")), ("hello", Some("7")));
    let early = client.get("delta", "/early");
    assert_eq!((early.informational.len(), early.text().as_str()), (1, "late"));
    assert_eq!(client.get("delta", "/bytes/3000000").body.len(), 3_000_000);

    let fields: Vec<(String, String)> = serde_json::from_value(client.get("delta", "/headers").json()).expect("pairs");
    let field = |name: &str| fields.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect::<Vec<_>>();
    assert_eq!((field(":authority"), field("host")), (vec!["delta"], Vec::new()), "{fields:?}");
    assert_eq!((field("x-request-id").len(), field("traceparent").len()), (1, 1), "{fields:?}");
    assert!(
        fields.iter().all(|(n, _)| !matches!(n.as_str(), "connection" | "keep-alive" | "transfer-encoding")),
        "{fields:?}"
    );
    assert_eq!(to.server.events("connection").len(), 1, "one link for all of it");
    assert_eq!(to.server.events("connection")[0]["identity"], peers::ALPHA);
}

/// The server answers before it has the body, and asks not to be sent the rest (RFC 9114 section 4.1).
#[test]
fn a_link_stops_sending_when_aioquic_asks() {
    let Some(to) = ToAioquic::start(100) else { return };
    let answer = client::request(to.alpha.outbound(), "POST", "delta", "/stop", &[], Some(&vec![b'x'; 5_000_000]));
    assert_eq!((answer.status(), answer.text().as_str()), (200, "enough"));
}

/// A body that the server resets, or ends too early, never looks finished to the application.
#[test]
fn a_body_cut_by_aioquic_is_cut_for_the_application() {
    let Some(to) = ToAioquic::start(100) else { return };
    for path in ["/reset", "/reset-open", "/truncated"] {
        let answer = to.try_get(path);
        // With a length too short there may be no head of ours yet: then it is a fault.
        let good = match &answer {
            Err(_) => true,
            Ok(answer) => path == "/truncated" && answer.status() == 502,
        };
        assert!(good, "{path}: {answer:?}");
        assert_eq!(to.try_get("/fine").expect("an answer").status(), 200, "after {path}");
    }
}

/// Answers that are malformed (RFC 9114 section 4.1.2) become faults, or cut bodies where the head was already sent.
#[test]
fn malformed_answers_of_aioquic_are_refused() {
    let Some(to) = ToAioquic::start(100) else { return };
    let in_the_head = [
        "two-status",
        "no-status",
        "status-not-a-number",
        "pseudo-after-regular",
        "request-pseudo",
        "unknown-pseudo",
        "connection",
        "transfer-encoding",
        "uppercase",
        "line-feed",
        "two-lengths",
        "huge-head",
    ];
    let memory = to.alpha.rss();
    for kind in in_the_head {
        let answer = to.try_get(&format!("/malformed/{kind}")).unwrap_or_else(|e| panic!("{kind}: {e}"));
        let error = answer.proxy_error().unwrap_or_default();
        assert_eq!((answer.status(), error.starts_with("http_")), (502, true), "{kind}: {error}");
    }
    for kind in ["body-longer", "body-shorter", "pseudo-in-trailers", "connection-in-trailers"] {
        if let Ok(answer) = to.try_get(&format!("/malformed/{kind}")) {
            assert_eq!(answer.status(), 502, "{kind} must not look finished: {answer:?}");
        }
    }
    assert_eq!(to.try_get("/fine").expect("an answer").status(), 200);
    assert!(to.alpha.rss().saturating_sub(memory) < GROWTH, "an announced gigabyte is not kept");
}

/// More requests at once than a connection takes: more links.
#[test]
fn the_link_opens_more_connections_when_aioquic_allows_few_streams() {
    let Some(to) = ToAioquic::start(4) else { return };
    let mut clients: Vec<Client> = (0..12).map(|_| to.connect()).collect();
    for client in &mut clients {
        client.send("GET /held/12 HTTP/1.1\r\nhost: delta\r\n\r\n");
    }
    // None of them is answered before all of them have arrived.
    for client in &mut clients {
        assert_eq!(client.response("GET").text(), "held");
    }
    let links = to.server.events("connection").len();
    assert!((3..=4).contains(&links), "as many links as it takes: {links}");
}

/// GOAWAY: what was accepted is answered, what comes later goes to another connection.
#[test]
fn goaway_of_aioquic_loses_no_request() {
    let Some(to) = ToAioquic::start(100) else { return };
    let mut client = to.connect();
    for number in 0..10 {
        assert_eq!(client.get("delta", "/goaway").text(), "going", "request {number}");
        assert_eq!(client.get("delta", "/bytes/10").status(), 200, "request {number}");
    }
    let load = client::load(to.alpha.outbound(), "delta", "/bytes/100", 8);
    for _ in 0..10 {
        load.wait_more(20);
        assert_eq!(client.get("delta", "/goaway").status(), 200);
    }
    let load = load.stop();
    assert_eq!(load.failed(), 0, "a rejected stream was not processed, so it is sent again: {load:?}");
}

/// A connection that goes away without an answer is a fault, and the next request has a new one.
#[test]
fn a_link_survives_a_closed_connection() {
    let Some(to) = ToAioquic::start(100) else { return };
    let answer = to.try_get("/close").expect("an answer of ours");
    assert_eq!(answer.status(), 502);
    assert!(answer.proxy_error().is_some(), "{answer:?}");
    assert_eq!(to.try_get("/fine").expect("an answer").status(), 200);
}

/// A server whose certificate is another service's, or another CA's, gets no request.
#[test]
fn the_link_refuses_an_aioquic_that_is_not_delta() {
    let mesh = Mesh::new();
    let other = Mesh::foreign();
    mesh.issue("gamma");
    let gamma = (mesh.certificate("gamma"), mesh.key("gamma"));
    let stranger = (other.certificate("delta"), other.key("delta"));
    for (who, (certificate, key)) in [("gamma", gamma), ("another CA", stranger)] {
        let Some(server) = H3Server::with_certificate(&mesh, &certificate, &key) else { return };
        let alpha = caller(&mesh, server.address, Link::H3);
        let answer = client::get(alpha.outbound(), "delta", "/echo");
        assert_eq!((answer.status(), answer.proxy_error().as_deref()), (503, Some("tls_certificate_error")), "{who}");
        assert!(server.events("request").is_empty(), "{who}");
    }
}
