//! When it goes wrong: malformed requests, limits, applications and clients that end too early. The right answer, and
//! nobody else notices.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use lacis_tests::wire::{Data, Framing, Left};
use lacis_tests::{App, Link, Mesh, Pair, Process, app, client, on_links, until, unused};
use serde_json::json;

/// Request heads that a stricter or a laxer reader behind us would understand differently (RFC 9112 sections 2.2, 5, 6,
/// 7.1), and the status that refuses each.
const SMUGGLED: &[(&str, &[u8], &[u16])] = &[
    ("both length and coding", b"POST /drain HTTP/1.1\r\nhost: delta\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", &[400]),
    ("two lengths", b"POST /drain HTTP/1.1\r\nhost: delta\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nabcde", &[400]),
    ("a list of lengths", b"POST /drain HTTP/1.1\r\nhost: delta\r\ncontent-length: 4, 5\r\n\r\nabcde", &[400]),
    ("a signed length", b"POST /drain HTTP/1.1\r\nhost: delta\r\ncontent-length: +4\r\n\r\nabcd", &[400]),
    ("a negative length", b"POST /drain HTTP/1.1\r\nhost: delta\r\ncontent-length: -1\r\n\r\n", &[400]),
    ("a hexadecimal length", b"POST /drain HTTP/1.1\r\nhost: delta\r\ncontent-length: 0x4\r\n\r\nabcd", &[400]),
    ("an empty length", b"POST /drain HTTP/1.1\r\nhost: delta\r\ncontent-length: \r\n\r\n", &[400]),
    ("an immense length", b"POST /drain HTTP/1.1\r\nhost: delta\r\ncontent-length: 99999999999999999999\r\n\r\n", &[400, 413]),
    ("an unknown coding", b"POST /drain HTTP/1.1\r\nhost: delta\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n", &[400, 501]),
    ("a coding twice", b"POST /drain HTTP/1.1\r\nhost: delta\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", &[400, 501]),
    ("chunked not last", b"POST /drain HTTP/1.1\r\nhost: delta\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n", &[400, 501]),
    ("chunked in HTTP/1.0", b"POST /drain HTTP/1.0\r\nhost: delta\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", &[400, 501]),
    ("space before the colon", b"GET /echo HTTP/1.1\r\nhost: delta\r\nx-a : b\r\n\r\n", &[400]),
    ("a folded field", b"GET /echo HTTP/1.1\r\nhost: delta\r\nx-a: b\r\n c\r\n\r\n", &[400]),
    ("a bare CR in a value", b"GET /echo HTTP/1.1\r\nhost: delta\r\nx-a: b\rx-b: c\r\n\r\n", &[400]),
    ("a NUL in a value", b"GET /echo HTTP/1.1\r\nhost: delta\r\nx-a: b\0c\r\n\r\n", &[400]),
    ("a NUL in a name", b"GET /echo HTTP/1.1\r\nhost: delta\r\nx\0a: b\r\n\r\n", &[400]),
    ("an empty name", b"GET /echo HTTP/1.1\r\nhost: delta\r\n: b\r\n\r\n", &[400]),
    ("no host", b"GET /echo HTTP/1.1\r\nx-a: b\r\n\r\n", &[400]),
    ("two hosts", b"GET /echo HTTP/1.1\r\nhost: delta\r\nhost: delta\r\n\r\n", &[400]),
    ("no version", b"GET /echo\r\nhost: delta\r\n\r\n", &[400]),
    ("an unknown version", b"GET /echo HTTP/3.7\r\nhost: delta\r\n\r\n", &[400, 505]),
    ("a space in the target", b"GET /e cho HTTP/1.1\r\nhost: delta\r\n\r\n", &[400]),
    ("a method that is no token", b"G(T /echo HTTP/1.1\r\nhost: delta\r\n\r\n", &[400]),
];

/// Line ends that RFC 9112 section 2.2 lets a server accept: either it refuses, or it reads what everybody reads.
const TOLERATED: &[(&str, &[u8])] = &[
    ("bare LF", b"GET /echo HTTP/1.1\nhost: delta\n\n"),
    ("an empty line first", b"\r\nGET /echo HTTP/1.1\r\nhost: delta\r\n\r\n"),
];

/// Chunked bodies that lie.
const BAD_CHUNKS: &[(&str, &[u8])] = &[
    ("a size that is no number", b"zz\r\nab\r\n0\r\n\r\n"),
    ("an empty size", b"\r\nab\r\n0\r\n\r\n"),
    ("a signed size", b"+2\r\nab\r\n0\r\n\r\n"),
    ("a prefixed size", b"0x2\r\nab\r\n0\r\n\r\n"),
    ("an immense size", b"ffffffffffffffffff\r\nab\r\n0\r\n\r\n"),
    ("more data than its size", b"2\r\nabcd\r\n0\r\n\r\n"),
    ("no end after the data", b"2\r\nab0\r\n\r\n"),
    ("a bare CR in an extension", b"2;a\rb\r\nab\r\n0\r\n\r\n"),
    ("a folded trailer", b"0\r\nx-a: b\r\n c\r\n\r\n"),
];

on_links! {
    /// Ambiguous requests are refused here and never reach an application; other streams of the link go on.
    [H2, H3] fn ambiguous_requests_are_refused(link) {
        let pair = Pair::new(link);
        let mut neighbour = pair.connect();
        neighbour.send("GET /drip HTTP/1.1\r\nhost: delta\r\n\r\n");
        assert_eq!(neighbour.head().status(), 200);
        let before = pair.app.requests();
        let mut wrong = Vec::new();
        for (what, bytes, statuses) in SMUGGLED {
            let mut client = pair.connect();
            client.send(bytes);
            match client.try_response("GET") {
                Ok(answer) if !statuses.contains(&answer.status()) => wrong.push(format!("{what}: {}", answer.status())),
                Ok(_) if !client.is_closed() => wrong.push(format!("{what}: what follows can not be trusted")),
                Ok(_) => {}
                Err(error) => wrong.push(format!("{what}: {error}")),
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
        assert_eq!(pair.app.requests(), before, "something reached the application");
        pair.app.release();
        assert_eq!(&neighbour.body(Framing::Chunked)[..], b"firstsecond");
    }

    /// A chunk that lies ends the request, at whatever point it is found.
    [H2, H3] fn a_lying_chunk_ends_the_request(link) {
        let pair = Pair::new(link);
        let head = b"POST /drain HTTP/1.1\r\nhost: delta\r\ntransfer-encoding: chunked\r\n\r\n";
        let mut wrong = Vec::new();
        for (what, body) in BAD_CHUNKS {
            let mut client = pair.connect();
            client.send([&head[..], body].concat());
            match client.try_response("POST") {
                Ok(answer) if answer.status() != 400 => wrong.push(format!("{what}: {}", answer.status())),
                Ok(_) if !client.is_closed() => wrong.push(format!("{what}: the connection goes on")),
                Ok(_) => {}
                Err(error) => wrong.push(format!("{what}: {error}")),
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
        assert!(pair.app.seen().is_empty(), "the application saw a complete request: {:?}", pair.app.seen());
        assert_eq!(pair.get("/bytes/1").status(), 200);
        assert_eq!(pair.alpha.metrics().sum("lacis_link_handshakes_total", &[]), 1.0, "the link went on");
    }

    /// A body that is shorter than it said never looks complete to the application.
    [H1, H2, H3] fn a_short_body_never_looks_complete(link) {
        let pair = Pair::new(link);
        let mut client = pair.connect();
        client.send("POST /drain HTTP/1.1\r\nhost: delta\r\ncontent-length: 100\r\n\r\nonly this");
        pair.app.wait_requests(1);
        client.finish();
        let answer = client.try_response("POST");
        assert!(answer.as_ref().map_or(true, |a| a.status() == 400), "{answer:?}");
        assert_eq!(pair.get("/bytes/1").status(), 200);
        assert!(pair.app.seen().iter().all(|seen| seen.target != "/drain"), "{:?}", pair.app.seen());
    }

    /// A client that goes away takes its request with it, all the way.
    [H1, H2, H3] fn a_client_that_goes_away_ends_its_request(link) {
        let pair = Pair::new(link);
        let mut client = pair.connect();
        client.send("GET /drip HTTP/1.1\r\nhost: delta\r\n\r\n");
        assert_eq!(client.head().status(), 200);
        let mut client2 = pair.connect();
        client2.send("POST /stall HTTP/1.1\r\nhost: delta\r\ncontent-length: 10\r\n\r\nabc");
        pair.app.wait_held(2);
        client.reset();
        client2.reset();
        for side in [&pair.alpha, pair.delta()] {
            side.metric_becomes("lacis_requests_active", &[], |n| n == 0.0);
        }
        pair.app.release();
        assert_eq!(pair.get("/bytes/1").status(), 200);
    }

    /// The application that dies in mid-answer: the client sees that the answer is not whole.
    [H1, H2, H3, Plaintext] fn a_truncated_answer_is_seen_to_be_truncated(link) {
        let pair = Pair::new(link);
        for path in ["/truncate", "/truncate-chunked", "/reset"] {
            let mut client = pair.connect();
            client.send(format!("GET {path} HTTP/1.1\r\nhost: delta\r\n\r\n"));
            match client.try_response("GET") {
                Err(_) => {}
                Ok(answer) => assert_eq!(answer.status(), 502, "{path}: an answer that looks whole: {answer:?}"),
            }
        }
        assert_eq!(pair.get("/bytes/1").status(), 200);
    }

    /// The application that ends the connection instead of an answer, or answers garbage: 502 with the reason.
    [H1, H2, H3, Plaintext] fn no_answer_is_a_bad_gateway(link) {
        let pair = Pair::new(link);
        let answer = pair.get("/abort");
        assert_eq!((answer.status(), answer.proxy_error().as_deref()), (502, Some("connection_terminated")));
        assert_eq!(pair.get("/bytes/1").status(), 200);
    }

    /// The application that never answers: 504 after `timeouts.request`.
    [H1, H2, H3] fn no_answer_in_time_is_a_gateway_timeout(link) {
        let short = json!({"services": {"delta": {"timeouts": {"request": "300ms"}}}});
        let pair = Pair::with(link, App::start(), |alpha| alpha.with(short), |delta| delta);
        let mut client = pair.connect();
        // Opens the link: the time of a handshake is not the application's.
        until("the link is open", || (client.get("delta", "/bytes/1").status() == 200).then_some(()));
        let answer = client.get("delta", "/silent");
        assert_eq!((answer.status(), answer.proxy_error().as_deref()), (504, Some("http_response_timeout")));
        until("the application is left alone", || (pair.app.held() == 0).then_some(()));
        until("the connection goes on", || (client.get("delta", "/bytes/1").status() == 200).then_some(()));
    }
}

/// What a server may tolerate is either refused or read as everybody reads it.
#[test]
fn tolerated_line_ends_mean_one_thing() {
    let pair = Pair::new(Link::H2);
    for (what, bytes) in TOLERATED {
        let mut client = pair.connect();
        client.send(bytes);
        let answer = client.response("GET");
        match answer.status() {
            200 => assert_eq!(answer.json()["target"], "/echo", "{what}"),
            status => assert_eq!(status, 400, "{what}"),
        }
    }
}

/// Answers that are ambiguous or garbage never reach a client.
#[test]
fn a_malformed_answer_is_a_bad_gateway() {
    for (what, bytes) in [
        ("garbage", &b"this is not HTTP\r\n\r\n"[..]),
        (
            "both length and coding",
            b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        ("two lengths", b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab"),
        ("space before the colon", b"HTTP/1.1 200 OK\r\ncontent-length : 0\r\n\r\n"),
        ("a status of two digits", b"HTTP/1.1 20 OK\r\n\r\n"),
        ("a NUL", b"HTTP/1.1 200 OK\r\nx-a: \0\r\ncontent-length: 0\r\n\r\n"),
        ("half a head", b"HTTP/1.1 200 OK\r\ncontent-le"),
        (
            "a switch that nobody asked for",
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
        ),
    ] {
        let pair = Pair::with(Link::H2, App::canned(bytes), |alpha| alpha, |delta| delta);
        assert_eq!(pair.get("/").status(), 502, "{what}");
    }
}

/// Heads are bounded before they are kept.
#[test]
fn heads_beyond_the_limits_are_refused() {
    let pair = Pair::new(Link::H2);
    let status = |request: String| {
        let mut client = pair.connect();
        let _ = client.try_send(request);
        client.response("GET").status()
    };
    let large = |n: usize| format!("GET /echo HTTP/1.1\r\nhost: delta\r\nx-large: {}\r\n\r\n", "v".repeat(n));
    assert_eq!(status(large(60 * 1024)), 200, "60 KiB is what meshes carry");
    assert_eq!(status(large(65 * 1024)), 431);
    assert_eq!(status(large(1024 * 1024)), 431);
    let many = |n: usize| format!("GET /echo HTTP/1.1\r\nhost: delta\r\n{}\r\n", "a: b\r\n".repeat(n));
    assert_eq!(status(many(80)), 200);
    assert_eq!(status(many(101)), 431);
    let long = |n: usize| format!("GET /echo?{} HTTP/1.1\r\nhost: delta\r\n\r\n", "q".repeat(n));
    assert_eq!(status(long(8000)), 200, "RFC 9110 section 4.1 asks for 8000 octets");
    assert_eq!(status(long(20 * 1024)), 414);
    assert_eq!(status("GET /echo HTTP/1.1\r\nhost: delta\r\n\r\n".into()), 200);
}

/// What is added on the way to another sidecar counts: where that makes a head too large it is refused, and not where it is read.
#[test]
fn heads_that_outgrow_the_limits_are_refused_where_they_do() {
    for link in [Link::H1, Link::H2, Link::H3] {
        let pair = Pair::new(link);
        let answered = |lines: String| {
            let mut client = pair.connect();
            let _ = client.try_send(format!("GET /echo HTTP/1.1\r\nhost: delta\r\n{lines}\r\n"));
            let answer = client.response("GET");
            (answer.status(), answer.field("proxy-status").map(str::to_owned))
        };
        let refused = (431, Some("alpha; error=http_request_error".to_owned()));
        // Beside `x-request-id` and `traceparent`.
        let many = |n: usize| answered("a: b\r\n".repeat(n));
        assert_eq!((many(98), many(99)), ((200, None), refused.clone()), "{link:?}");
        // With these, and `:method: GET`, `:scheme: http`, `:authority: delta`, `:path: /echo`.
        let others = [(12, 36), (11, 55), (7, 3), (7, 4), (10, 5), (5, 5), (7, 0)];
        let most = 65536 - others.map(|(name, value)| name + value + 32).iter().sum::<usize>();
        let large = |n: usize| answered(format!("x-large: {}\r\n", "v".repeat(n)));
        assert_eq!((large(most), large(most + 1)), ((200, None), refused), "{link:?}");
        pair.alpha.counts(2.0, "lacis_requests_total", &[("reason", "request_header_section_size")]);
        // `:status` and `content-length: 5` beside it; no more than HTTP/1 reads, but more than HTTP/2 does.
        let answer = |n: usize| pair.get(&format!("/large-head/{n}"));
        let most = 65536 - (7 + 3 + 32) - (14 + 1 + 32) - (7 + 32);
        assert_eq!((answer(most - 1000).status(), pair.app.requests() > 0), (200, true), "{link:?}");
        let refused = answer(most + 1);
        let by = refused.field("proxy-status");
        assert_eq!((refused.status(), by), (502, Some("delta; error=http_response_header_section_size")), "{link:?}");
    }
}

/// An answer with a head beyond the limits is the application's failure.
#[test]
fn an_immense_answer_head_is_a_bad_gateway() {
    let pair = Pair::new(Link::H2);
    assert_eq!(pair.get("/large-head/50000").status(), 200);
    assert_eq!(pair.get("/large-head/200000").status(), 502);
    assert_eq!(pair.get("/bytes/1").status(), 200);
}

/// Nobody listens: 503. Nobody answers: 504. With the reason, and for gRPC in its own words.
#[test]
fn a_service_that_is_not_there_is_unavailable() {
    let mesh = Mesh::new();
    // Where nobody is; and where somebody is who never says a word.
    let closed = unused();
    let mute = TcpListener::bind("127.0.0.1:0").expect("a port");
    let quick = json!({"timeouts": {"connect": "300ms"}});
    let mute_at = mute.local_addr().expect("bound");
    let alpha = mesh
        .sidecar("alpha")
        .calls("gone", closed, Link::H2)
        .calls("mute", mute_at, Link::H2)
        .calls("silent", mute_at, Link::H3)
        .with(json!({"services": {"mute": quick, "silent": quick}}))
        .start();
    let outcome = |host: &str| {
        let answer = client::get(alpha.outbound(), host, "/");
        (answer.status(), answer.proxy_error().unwrap_or_default())
    };
    assert_eq!(outcome("gone"), (503, "connection_refused".into()));
    assert_eq!(outcome("mute"), (504, "connection_timeout".into()));
    assert!([503, 504].contains(&outcome("silent").0), "UDP: refused by the machine, or dropped");
    let grpc = http::Request::post("http://gone/words.Words/Say")
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    let answer = client::h2c(alpha.outbound(), grpc.body(()).expect("a request"), b"\0\0\0\0\0");
    assert_eq!((answer.status, answer.field("grpc-status")), (200, Some("14")), "{answer:?}");
    assert!(answer.body.is_empty() && answer.trailers.is_empty(), "trailers-only: one header section");
}

/// What a sidecar may hold of a body whose reader is slow: windows and socket buffers, not the body.
const HELD_MIB: u64 = 16;

/// A client that does not read stops the application from sending, and nobody's memory grows.
#[test]
fn a_slow_reader_costs_no_memory() {
    for link in [Link::H2, Link::H3] {
        let pair = Pair::new(link);
        pair.get("/bytes/8000000");
        let mut client = pair.connect();
        let (growth, mut left) = Process::growth(&[&pair.alpha, pair.delta()], || {
            client.send("GET /bytes/1000000000 HTTP/1.1\r\nhost: delta\r\n\r\n");
            let head = client.head();
            // Nothing is read while 300 other requests cross the same link.
            let mut other = pair.connect();
            for _ in 0..300 {
                assert_eq!(other.get("delta", "/bytes/20000").body.len(), 20_000);
            }
            Left::new(head.response_framing("GET").expect("a framing"))
        });
        assert!(growth.iter().all(|mib| *mib < HELD_MIB), "{link:?}: {growth:?} MiB");
        // And it goes on as soon as somebody reads.
        let mut at = 0;
        while at < 32_000_000 {
            let Data::Bytes(bytes) = client.data(&mut left).expect("data") else { panic!("ended") };
            assert!(app::is_pattern(at, &bytes), "at {at}");
            at += bytes.len() as u64;
        }
    }
}

/// An application that does not read stops the client from sending.
#[test]
fn a_slow_application_costs_no_memory() {
    const LENGTH: usize = 200_000_000;
    for link in [Link::H2, Link::H3] {
        let pair = Pair::new(link);
        pair.get("/bytes/8000000");
        let address = pair.alpha.outbound();
        let (growth, sender) = Process::growth(&[&pair.alpha, pair.delta()], || {
            let sender = std::thread::spawn(move || {
                let mut stream = TcpStream::connect(address).expect("a connection");
                let head = format!("POST /stall HTTP/1.1\r\nhost: delta\r\ncontent-length: {LENGTH}\r\n\r\n");
                stream.write_all(head.as_bytes()).expect("a head");
                stream.write_all(&app::pattern(0, LENGTH)).expect("a body, in the end");
                let mut answer = [0; 12];
                stream.read_exact(&mut answer).expect("an answer");
                assert_eq!(&answer, b"HTTP/1.1 200");
            });
            pair.app.wait_held(1);
            let mut other = pair.connect();
            for _ in 0..300 {
                assert_eq!(other.get("delta", "/bytes/20000").body.len(), 20_000);
            }
            sender
        });
        assert!(growth.iter().all(|mib| *mib < HELD_MIB), "{link:?}: {growth:?} MiB");
        pair.app.release();
        sender.join().expect("the sender is content");
    }
}
