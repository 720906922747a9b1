//! HTTP/2 with prior knowledge from the application, to applications that speak it or HTTP/1.1: streams, trailers,
//! resets, gRPC's shapes.

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, HeaderValue, Request};
use lacis_tests::client::{self, H2c, collect, h2_get, send};
use lacis_tests::wire::{Data, Left};
use lacis_tests::{App, Pair, app, block_on, on_links};
use serde_json::json;
use tokio::net::TcpStream;

fn post(path: &str) -> Request<()> {
    Request::post(format!("http://delta{path}")).header("te", "trailers").body(()).expect("a request")
}

fn trailers(name: &'static str, value: &'static str) -> Option<HeaderMap> {
    let mut map = HeaderMap::new();
    map.insert(name, HeaderValue::from_static(value));
    Some(map)
}

fn pair(link: lacis_tests::Link) -> Pair {
    Pair::with(link, App::h2c(), |alpha| alpha, |delta| delta)
}

on_links! {
    /// HTTP/2 at both ends: everything arrives as it was sent.
    [H2, H3, Plaintext] fn h2c_at_both_ends_keeps_everything(link) {
        let pair = pair(link);
        let body = app::pattern(0, 300_000);
        let answer = block_on(async {
            let h2 = H2c::open(pair.alpha.outbound()).await.expect("h2c");
            h2.request(post("/mirror"), body.clone(), trailers("x-sum", "7")).await.expect("an answer")
        });
        assert_eq!((answer.status, answer.body == body, answer.trailer("x-sum")), (200, true, Some("7")));
        let seen = &pair.app.seen()[0];
        assert_eq!((seen.method.as_str(), seen.version.as_str(), seen.length), ("POST", "HTTP/2", 300_000));
        assert_eq!((seen.field(":authority"), seen.field("te")), (Some("delta"), Some("trailers")));
        assert!(seen.trailers.contains(&("x-sum".into(), "7".into())));
    }

    /// HTTP/2 in, HTTP/1.1 out: a body without a length is chunked, its trailers survive, 1xx come through. (On a
    /// plaintext link nobody says what the service speaks: it is spoken to in the version of the request.)
    [H1, H2, H3] fn h2c_reaches_an_http1_application(link) {
        let pair = Pair::new(link);
        let answer = block_on(async {
            let h2 = H2c::open(pair.alpha.outbound()).await.expect("h2c");
            h2.request(post("/mirror"), Bytes::from_static(b"hello"), trailers("x-sum", "5")).await.expect("an answer")
        });
        assert_eq!((answer.status, &answer.body[..], answer.trailer("x-sum")), (200, &b"hello"[..], Some("5")));
        let seen = &pair.app.seen()[0];
        assert_eq!((seen.version.as_str(), seen.chunked, seen.field("host")), ("HTTP/1.1", true, Some("delta")));
        let answer = client::h2c(pair.alpha.outbound(), h2_get("delta", "/hints"), b"");
        assert_eq!((answer.status, answer.informational.contains(&103)), (200, true));
        let answer = client::h2c(pair.alpha.outbound(), h2_get("delta", "/status/204"), b"");
        assert_eq!((answer.status, answer.body.len()), (204, 0));
        let head = Request::head("http://delta/bytes/1000").body(()).expect("a request");
        let answer = client::h2c(pair.alpha.outbound(), head, b"");
        assert_eq!((answer.field("content-length"), answer.body.len()), (Some("1000"), 0));
    }

    /// HTTP/1.1 in, HTTP/2 out: chunks and trailers come back as such.
    [H2, H3] fn http1_reaches_an_h2c_application(link) {
        let pair = pair(link);
        let mut client = pair.connect();
        client.send(
            "POST /mirror HTTP/1.1\r\nhost: delta\r\nconnection: te\r\nte: trailers\r\ntransfer-encoding: chunked\r\n\r\n\
             5\r\nhello\r\n0\r\nx-sum: 5\r\n\r\n",
        );
        let answer = client.response("POST");
        assert_eq!((answer.status(), answer.text().as_str(), answer.trailer("x-sum")), (200, "hello", Some("5")));
        assert_eq!(client.get("delta", "/bytes/100000").body.len(), 100_000);
        assert_eq!(client.request("HEAD", "delta", "/bytes/7", &[], None).field("content-length"), Some("7"));
        assert_eq!(client.get("delta", "/status/204").status(), 204);
    }

    /// A gRPC status arrives in the trailers, where clients look for it.
    [H2, H3] fn a_grpc_status_arrives_in_the_trailers(link) {
        let pair = pair(link);
        let request = Request::post("http://delta/grpc/5").header("content-type", "application/grpc").header("te", "trailers");
        let answer = client::h2c(pair.alpha.outbound(), request.body(()).expect("a request"), b"\0\0\0\0\0");
        assert_eq!((answer.status, answer.field("content-type")), (200, Some("application/grpc")));
        assert_eq!((answer.trailer("grpc-status"), answer.trailer("grpc-message")), (Some("5"), Some("said so")));
        assert_eq!(&answer.body[..], b"\0\0\0\0\x02hi");
    }

    /// Messages cross while both directions are open.
    [H2, H3] fn streams_are_full_duplex(link) {
        let pair = pair(link);
        block_on(async {
            let h2 = H2c::open(pair.alpha.outbound()).await.expect("h2c");
            let (answer, mut stream) = h2.begin(post("/mirror"), false).await.expect("a stream");
            let mut body = answer.await.expect("a head before the request's end").into_body();
            for round in 0..20 {
                let word = format!("round {round:04}");
                send(&mut stream, word.clone().into(), false).await.expect("room");
                let mut back = Vec::new();
                while back.len() < word.len() {
                    let data = body.data().await.expect("more").expect("data");
                    body.flow_control().release_capacity(data.len()).expect("capacity");
                    back.extend_from_slice(&data);
                }
                assert_eq!(back, word.as_bytes());
            }
            send(&mut stream, Bytes::new(), true).await.expect("an end");
            assert_eq!(collect(&mut body).await.expect("an end").0.len(), 0);
        });
    }

    /// A client that makes no room for a response holds it no longer than `timeouts.idle`, small as it is.
    [H2, H3] fn a_response_that_nobody_makes_room_for_ends(link) {
        let timeouts = json!({"services": {"delta": {"timeouts": {"idle": "1s"}}}});
        let pair = Pair::with(link, App::start(), |alpha| alpha.with(timeouts), |delta| delta);
        block_on(async {
            let stream = TcpStream::connect(pair.alpha.outbound()).await.expect("a connection");
            let opened = h2::client::Builder::new().initial_window_size(0).handshake::<_, Bytes>(stream).await;
            let (h2, connection) = opened.expect("h2c");
            tokio::spawn(connection);
            let (answer, _) = h2.ready().await.expect("room").send_request(h2_get("delta", "/bytes/1000"), true).expect("a stream");
            let mut body = answer.await.expect("a head").into_body();
            let end = body.data().await.expect("no whole response").expect_err("no room for content");
            assert_eq!(end.reason(), Some(Reason::INTERNAL_ERROR));
        });
    }

    /// A client's reset reaches the application; the other streams of its connection go on.
    [H1, H2, H3] fn a_reset_ends_one_stream_only(link) {
        let pair = Pair::new(link);
        let h2 = block_on(async {
            let h2 = H2c::open(pair.alpha.outbound()).await.expect("h2c");
            let (answer, mut stream) = h2.begin(post("/silent"), false).await.expect("a stream");
            send(&mut stream, Bytes::from_static(b"x"), true).await.expect("room");
            drop((answer, stream));
            h2
        });
        // Dropped handles of an unfinished stream are a RST_STREAM (CANCEL).
        for side in [&pair.alpha, pair.delta()] {
            side.metric_becomes("lacis_requests_active", &[], |n| n == 0.0);
        }
        let answer = block_on(h2.request(h2_get("delta", "/bytes/9"), Bytes::new(), None)).expect("an answer");
        assert_eq!(answer.body.len(), 9);
    }

    /// The application's reset reaches the client as one, and never looks like the end of a body.
    [H2, H3] fn a_reset_answer_never_looks_whole(link) {
        let pair = pair(link);
        block_on(async {
            let h2 = H2c::open(pair.alpha.outbound()).await.expect("h2c");
            let (answer, _) = h2.begin(h2_get("delta", "/tear"), true).await.expect("a stream");
            let mut body = answer.await.expect("a head").into_body();
            let mut length = 0;
            while length < 50 {
                let data = body.data().await.expect("more").expect("data");
                length += data.len();
            }
            pair.app.release();
            let error = loop {
                match body.data().await.expect("an end that is none") {
                    Ok(data) => assert!(data.is_empty(), "more than was sent"),
                    Err(error) => break error,
                }
            };
            assert!(error.is_reset() && error.reason() != Some(Reason::NO_ERROR), "{error}");
            let answer = h2.request(h2_get("delta", "/bytes/9"), Bytes::new(), None).await.expect("an answer");
            assert_eq!(answer.body.len(), 9);
        });
        let mut client = pair.connect();
        pair.app.hold();
        client.send("GET /tear HTTP/1.1\r\nhost: delta\r\n\r\n");
        let head = client.head();
        pair.app.release();
        let mut left = Left::new(head.response_framing("GET").expect("a framing"));
        let end = loop {
            match client.data(&mut left) {
                Ok(Data::Bytes(_)) => {}
                end => break end,
            }
        };
        assert!(end.is_err(), "over HTTP/1.1 the connection says it: {end:?}");
    }

    /// A hundred streams of one client share a link and do not wait for one another.
    [H2, H3] fn streams_do_not_wait_for_one_another(link) {
        let pair = pair(link);
        block_on(async {
            let h2 = H2c::open(pair.alpha.outbound()).await.expect("h2c");
            let (held, _) = h2.begin(h2_get("delta", "/hold"), true).await.expect("a stream");
            let mut others = tokio::task::JoinSet::new();
            for n in 0..100_usize {
                let h2 = h2.clone();
                let request = h2_get("delta", &format!("/bytes/{}", n * 1000));
                others.spawn(async move { (n, h2.request(request, Bytes::new(), None).await.expect("an answer")) });
            }
            while let Some(done) = others.join_next().await {
                let (n, answer) = done.expect("no panic");
                assert!(answer.body.len() == n * 1000 && app::is_pattern(0, &answer.body), "stream {n}");
            }
            pair.app.release();
            assert_eq!(held.await.expect("an answer").status(), 200);
        });
        assert_eq!(pair.alpha.metrics().sum("lacis_link_handshakes_total", &[]), 1.0);
    }
}

/// Whoever breaks the rules of HTTP/2 loses the connection, and the log says what for.
#[test]
fn the_log_says_what_a_connection_was_closed_for() {
    let pair = Pair::new(lacis_tests::Link::H2);
    let mut client = pair.connect();
    client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x08\x06\0\0\0\0\x0112345678");
    let told = |line: &serde_json::Value| line["message"] == "a connection was closed for what its client did";
    assert_eq!(pair.alpha.log("what was wrong", told)["what"], "PING on a stream");
}

/// A request that is none is reset, and leaves a record as one of HTTP/1.1 does.
#[test]
fn a_malformed_request_leaves_a_record() {
    let pair = Pair::new(lacis_tests::Link::H2);
    let mut client = pair.connect();
    // A GET without a path.
    client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x05\x01\x05\0\0\0\x01\x82\x86\x41\x01a");
    pair.alpha.counts(1.0, "lacis_requests_total", &[("reason", "http_request_error"), ("status", "0")]);
    let record = pair.alpha.access("for it", |record| record["reason"] == "http_request_error");
    assert_eq!(
        (record["direction"].as_str(), record["response_code"].as_u64()),
        (Some("outbound"), Some(0)),
        "{record}"
    );
}

/// Failures of ours that a gRPC client meets are trailers-only answers with gRPC's code.
#[test]
fn our_failures_speak_grpc_to_grpc() {
    let pair = Pair::new(lacis_tests::Link::H2);
    for (path, host, code) in [("/a.B/C", "nobody.example", "12"), ("/abort", "delta", "14")] {
        let request = Request::post(format!("http://{host}{path}")).header("content-type", "application/grpc+proto");
        let request = request.header("te", "trailers").body(()).expect("a request");
        let answer = client::h2c(pair.alpha.outbound(), request, b"\0\0\0\0\0");
        assert_eq!((answer.status, answer.field("grpc-status")), (200, Some(code)), "{path}: {answer:?}");
        assert_eq!(answer.field("content-type").map(|t| t.starts_with("application/grpc")), Some(true));
        assert!(answer.body.is_empty() && answer.trailers.is_empty(), "one header section, nothing more");
    }
    let plain = client::h2c(pair.alpha.outbound(), h2_get("nobody.example", "/"), b"");
    assert_eq!((plain.status, plain.field("grpc-status")), (404, None));
}
