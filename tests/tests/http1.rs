//! HTTP/1.1 in, one link, HTTP/1.1 out: the application gets back the version and the framing that it spoke.

use lacis_tests::wire::{Data, Framing, Left};
use lacis_tests::{App, Link, Mesh, Pair, app, client, on_links, peer, until};
use serde_json::json;

on_links! {
    /// What arrives is what was sent, and says where it came from.
    [H1, H2, H3, Auto, Plaintext] fn a_get_arrives_as_it_was_sent(link) {
        let pair = Pair::new(link);
        let answer = pair.connect().request("GET", "delta", "/echo?q=a%20b", &[("x-twice", "1"), ("x-twice", "2")], None);
        assert_eq!((answer.status(), answer.framing), (200, Framing::Length(answer.body.len() as u64)));
        assert!(answer.head.start.starts_with("HTTP/1.1 200"), "{}", answer.head.start);
        assert_eq!(answer.field("x-app"), Some("app"));
        let seen = &pair.app.seen()[0];
        assert_eq!((seen.method.as_str(), seen.target.as_str(), seen.version.as_str()), ("GET", "/echo?q=a%20b", "HTTP/1.1"));
        assert_eq!((seen.field("host"), seen.length, seen.chunked), (Some("delta"), 0, false));
        assert_eq!(seen.field("transfer-encoding"), None, "a request without a body gets none");
        let twice: Vec<&str> = seen.fields.iter().filter(|(n, _)| n == "x-twice").map(|(_, v)| v.as_str()).collect();
        assert_eq!(twice, ["1", "2"]);
    }

    /// A length stays a length, and an empty body stays one of length zero.
    [H1, H2, H3, Plaintext] fn a_body_with_a_length_keeps_it(link) {
        let pair = Pair::new(link);
        let body = app::pattern(0, 300_000);
        let answer = pair.connect().request("POST", "delta", "/mirror", &[], Some(&body));
        assert_eq!((answer.framing, answer.body == body), (Framing::Length(300_000), true));
        let answer = pair.connect().request("POST", "delta", "/echo", &[], Some(b""));
        assert_eq!(answer.status(), 200);
        let seen = pair.app.seen();
        assert_eq!((seen[0].length, seen[0].chunked), (300_000, false));
        assert_eq!((seen[1].field("content-length"), seen[1].chunked), (Some("0"), false));
    }

    /// An answer of no bytes is over with its head: the connection carries the next request, and it is accounted for.
    [H1, H2, H3, Plaintext] fn an_empty_answer_ends(link) {
        let pair = Pair::new(link);
        let mut client = pair.connect();
        for _ in 0..2 {
            assert_eq!(client.get("delta", "/bytes/0").status(), 200);
        }
        assert_eq!(client.request("POST", "delta", "/drain", &[], Some(b"")).body, "0");
        pair.alpha.counts(3.0, "lacis_requests_total", &[("status", "200")]);
    }

    /// Chunks stay chunks, and trailers cross both ways.
    [H1, H2, H3, Plaintext] fn chunks_and_trailers_cross_both_ways(link) {
        let pair = Pair::new(link);
        let mut client = pair.connect();
        client.send(
            "POST /mirror HTTP/1.1\r\nhost: delta\r\nconnection: te\r\nte: trailers\r\ntrailer: x-sum\r\n\
             transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\nx-sum: 11\r\n\r\n",
        );
        let answer = client.response("POST");
        assert_eq!((answer.status(), answer.framing, answer.text().as_str()), (200, Framing::Chunked, "hello world"));
        assert_eq!(answer.trailer("x-sum"), Some("11"));
        let seen = &pair.app.seen()[0];
        assert_eq!((seen.chunked, seen.length), (true, 11));
        assert!(seen.trailers.contains(&("x-sum".into(), "11".into())), "{:?}", seen.trailers);
        let fields = [("connection", "te"), ("te", "trailers")];
        let answer = client.request("GET", "delta", "/trailers", &fields, None);
        assert_eq!((answer.trailer("x-checksum"), answer.trailer("x-count")), (Some("abc"), Some("5")));
    }

    /// A response to HEAD, a 204 and a 304 have no body, and the connection goes on.
    [H1, H2, H3, Plaintext] fn answers_without_a_body_have_none(link) {
        let pair = Pair::new(link);
        let mut client = pair.connect();
        let answer = client.request("HEAD", "delta", "/bytes/1000", &[], None);
        assert_eq!((answer.status(), answer.field("content-length")), (200, Some("1000")));
        let answer = client.request("HEAD", "delta", "/chunked/1000", &[], None);
        assert_eq!((answer.status(), answer.field("content-length")), (200, None));
        let answer = client.get("delta", "/status/204");
        assert_eq!((answer.status(), answer.field("content-length"), answer.field("transfer-encoding")), (204, None, None));
        let answer = client.get("delta", "/status/304");
        assert_eq!((answer.status(), answer.field("etag"), answer.field("transfer-encoding")), (304, Some("\"1\""), None));
        assert_eq!(client.get("delta", "/bytes/10").body.len(), 10);
    }

    /// `100 Continue` comes from the application, and so does its refusal.
    [H1, H2, H3, Plaintext] fn expect_100_continue_is_the_applications_to_answer(link) {
        let pair = Pair::new(link);
        let mut client = pair.connect();
        client.send("POST /echo HTTP/1.1\r\nhost: delta\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n");
        assert_eq!(client.head().status(), 100);
        client.send("body");
        assert_eq!(client.response("POST").json()["body"], "body");
        let mut client = pair.connect();
        client.send("POST /refuse HTTP/1.1\r\nhost: delta\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n");
        assert_eq!(client.head().status(), 417, "refused before a byte of the body was sent");
    }

    /// Early hints reach the client before the answer.
    [H1, H2, H3, Plaintext] fn early_hints_come_through(link) {
        let pair = Pair::new(link);
        let answer = pair.get("/hints");
        let hint = answer.informational.iter().find(|head| head.status() == 103).expect("a 103");
        assert_eq!((hint.field("link"), answer.text().as_str()), (Some("</style.css>; rel=preload"), "hinted"));
    }

    /// A client of 1996 gets an answer that it understands: no chunks, nothing informational, and an end.
    [H1, H2, H3, Plaintext] fn an_http_1_0_client_is_understood(link) {
        let pair = Pair::new(link);
        for path in ["/chunked/100000", "/bytes/100000", "/hints"] {
            let mut client = pair.connect();
            client.send(format!("GET {path} HTTP/1.0\r\nhost: delta\r\n\r\n"));
            let head = client.head();
            assert_eq!((head.status(), head.field("transfer-encoding")), (200, None), "{path}: {head:?}");
            let body = client.rest();
            assert!(path == "/hints" || (body.len() == 100_000 && app::is_pattern(0, &body)), "{path}: {}", body.len());
        }
    }

    /// What comes back is not held up by what is still to come: each piece returns before the next is sent.
    [H1, H2, H3, Plaintext] fn bodies_stream_both_ways_at_once(link) {
        let pair = Pair::new(link);
        let mut client = pair.connect();
        client.send("POST /mirror HTTP/1.1\r\nhost: delta\r\ntransfer-encoding: chunked\r\n\r\n");
        assert_eq!(client.head().status(), 200);
        let mut left = Left::new(Framing::Chunked);
        for round in 0..20 {
            let word = format!("round {round:04}");
            client.send(format!("{:x}\r\n{word}\r\n", word.len()));
            let mut back = Vec::new();
            while back.len() < word.len() {
                match client.data(&mut left).expect("a piece") {
                    Data::Bytes(bytes) => back.extend_from_slice(&bytes),
                    Data::End(_) => panic!("ended in round {round}"),
                }
            }
            assert_eq!(back, word.as_bytes());
        }
        client.send("0\r\n\r\n");
        assert!(matches!(client.data(&mut left), Ok(Data::End(_))));
    }

    /// Requests that were sent without waiting are answered in order.
    [H1, H2, H3, Plaintext] fn pipelined_requests_are_answered_in_order(link) {
        let pair = Pair::new(link);
        let mut client = pair.connect();
        client.send(
            "POST /drain HTTP/1.1\r\nhost: delta\r\ncontent-length: 3\r\n\r\nabc\
             GET /bytes/10 HTTP/1.1\r\nhost: delta\r\n\r\n\
             HEAD /bytes/20 HTTP/1.1\r\nhost: delta\r\n\r\n\
             GET /trailers HTTP/1.1\r\nhost: delta\r\n\r\n",
        );
        assert_eq!(client.response("POST").text(), "3");
        assert_eq!(client.response("GET").body.len(), 10);
        assert_eq!(client.response("HEAD").field("content-length"), Some("20"));
        assert_eq!(client.response("GET").text(), "hello");
    }

    /// Connections are used again on every hop: the client's, the link, the application's.
    [H1, H2, H3, Auto] fn connections_are_used_again(link) {
        let pair = Pair::new(link);
        let mut client = pair.connect();
        for _ in 0..20 {
            assert_eq!(client.get("delta", "/bytes/10").status(), 200);
        }
        // On a busy machine the first attempt of `auto` may be too slow for the first request, and still make a link.
        let most = if link == Link::Auto { 2.0 } else { 1.0 };
        let links = pair.alpha.metrics().sum("lacis_link_handshakes_total", &[("result", "ok")]);
        assert!((1.0..=most).contains(&links), "{links} links");
        assert_eq!(pair.app.connections(), 1);
    }

    /// A switched protocol is bytes both ways, and one side may end before the other.
    [H1, H2, H3, Auto, Plaintext] fn an_upgrade_is_bytes_both_ways(link) {
        let pair = Pair::new(link);
        let mut client = pair.connect();
        client.send("GET /upgrade HTTP/1.1\r\nhost: delta\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\nearly");
        let head = client.head();
        assert_eq!((head.status(), head.field("upgrade")), (101, Some("websocket")), "{head:?}");
        assert!(head.has_token("connection", "upgrade"));
        assert_eq!(&client.exactly(5)[..], b"early");
        for round in 0..50_usize {
            let piece = app::pattern(round as u64, 1 + round * 1000);
            client.send(&piece);
            assert!(client.exactly(piece.len()) == piece, "round {round}");
        }
        client.finish();
        assert_eq!(&client.rest()[..], b"bye", "the application's side outlives ours");
    }

    /// An application may decline to switch.
    [H2, H3] fn a_declined_upgrade_is_an_answer(link) {
        let pair = Pair::new(link);
        let mut client = pair.connect();
        let fields = [("connection", "upgrade"), ("upgrade", "websocket")];
        let answer = client.request("GET", "delta", "/echo", &fields, None);
        assert_eq!((answer.status(), answer.json()["method"].as_str()), (200, Some("GET")));
        assert_eq!(client.get("delta", "/bytes/3").body.len(), 3);
    }

    /// What belongs to one connection does not cross it.
    [H1, H2, H3, Plaintext] fn fields_of_a_connection_stay_there(link) {
        let pair = Pair::new(link);
        let fields = [("connection", "keep-alive, x-hop"), ("x-hop", "1"), ("keep-alive", "timeout=5"), ("proxy-connection", "x")];
        let answer = pair.connect().request("GET", "delta", "/echo", &fields, None);
        assert_eq!(answer.status(), 200);
        let seen = &pair.app.seen()[0];
        for name in ["x-hop", "keep-alive", "proxy-connection"] {
            assert_eq!(seen.field(name), None, "{name}");
        }
    }

    /// The application's `connection: close` ends its own connection only.
    [H1, H2, H3] fn the_application_may_close_its_connection(link) {
        let pair = Pair::new(link);
        let mut client = pair.connect();
        for _ in 0..3 {
            let answer = client.get("delta", "/close");
            assert_eq!((answer.text().as_str(), answer.head.has_token("connection", "close")), ("closing", false));
        }
        let answer = client.get("delta", "/old");
        assert_eq!((answer.status(), answer.text().as_str()), (200, "old body"), "a body that its connection ended");
        assert_eq!(pair.app.connections(), 4);
    }

    /// An answer that comes before the body is read does not stop either.
    [H1, H2, H3] fn an_early_answer_does_not_cut_the_request(link) {
        let pair = Pair::new(link);
        let mut client = pair.connect();
        let body = app::pattern(0, 500_000);
        client.send(format!("POST /early HTTP/1.1\r\nhost: delta\r\ncontent-length: {}\r\n\r\n", body.len()));
        client.send(&body[..1000]);
        assert_eq!(client.response("POST").text(), "early");
        client.send(&body[1000..]);
        assert_eq!(client.get("delta", "/bytes/1").status(), 200);
        // In no order with the other request.
        until("the whole request has arrived", || pair.app.seen().iter().any(|seen| seen.length == 500_000).then_some(()));
    }

    /// Each request can be followed: by an id, which is kept if there is one, and by the trace that it belongs to.
    [H2, H3] fn a_request_has_an_id_and_a_trace(link) {
        let pair = Pair::new(link);
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let fields = [("x-request-id", "given-by-caller"), ("traceparent", trace)];
        pair.connect().request("GET", "delta", "/echo", &fields, None);
        pair.get("/echo");
        let seen = pair.app.seen();
        assert_eq!(seen[0].field("x-request-id"), Some("given-by-caller"));
        let continued = seen[0].field("traceparent").expect("a trace");
        assert!(continued.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"), "{continued}");
        assert!(seen[1].field("x-request-id").is_some_and(|id| id.len() >= 16), "{:?}", seen[1].field("x-request-id"));
        assert!(seen[1].field("traceparent").is_some_and(|t| t.len() == trace.len()));
    }
}

/// `http_proxy` of the application's environment is all it takes.
#[test]
fn an_absolute_uri_chooses_the_service() {
    let pair = Pair::new(Link::H2);
    let mut client = pair.connect();
    client.send("GET http://delta/echo?x HTTP/1.1\r\nhost: another\r\n\r\n");
    assert_eq!(client.response("GET").json()["target"], "/echo?x");
    client.send("GET http://delta?x HTTP/1.1\r\nhost: delta\r\n\r\n");
    assert_eq!(client.response("GET").status(), 404, "the application has nothing there, and was asked for it");
    client.send("GET http://DELTA:80/echo HTTP/1.1\r\nhost: delta\r\n\r\n");
    assert_eq!(client.response("GET").status(), 200);
    let seen = pair.app.seen();
    assert_eq!(
        seen[0].field("host"),
        Some("delta"),
        "the URI's authority, not the Host field (RFC 9112 section 3.2.2)"
    );
    let Some(curl) = peer("curl") else { return };
    let proxy = format!("http://{}", pair.alpha.outbound());
    let (code, out, err) = curl.run(["-sS", "-m", "20", "-x", &proxy, "http://delta/echo"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains(r#""target":"/echo""#), "{out}");
}

/// A service's own port needs no Host.
#[test]
fn a_service_has_a_port_of_its_own() {
    let pair = Pair::new(Link::H2);
    assert_eq!(client::get(pair.port(), "whatever.example", "/echo").status(), 200);
    assert_eq!(client::get(pair.port(), "127.0.0.1", "/bytes/5").body.len(), 5);
    assert_eq!(pair.app.requests(), 2);
}

/// Every name in `hosts` is the service, in any case and with any port.
#[test]
fn a_service_is_found_by_each_of_its_names() {
    let hosts = json!({"services": {"delta": {"hosts": ["delta.default", "delta.default.svc.cluster.local"]}}});
    let pair = Pair::with(Link::H2, App::start(), |alpha| alpha.with(hosts), |delta| delta);
    for host in ["delta", "DELTA", "delta:8080", "delta.default", "delta.default.svc.cluster.local:80"] {
        assert_eq!(client::get(pair.alpha.outbound(), host, "/echo").status(), 200, "{host}");
    }
}

/// Nobody by that name: 404, and the reason in a form that programs read.
#[test]
fn an_unknown_host_is_not_found() {
    let pair = Pair::new(Link::H2);
    let mut client = pair.connect();
    let answer = client.get("nobody.example", "/");
    assert_eq!((answer.status(), answer.proxy_error().as_deref()), (404, Some("destination_not_found")));
    assert_eq!(client.get("delta", "/bytes/1").status(), 200, "the connection goes on");
}

/// curl is content with all of it, over every link.
#[test]
fn curl_is_content() {
    let Some(curl) = peer("curl") else { return };
    for link in [Link::H1, Link::H2, Link::H3] {
        let pair = Pair::new(link);
        let url = |path: &str| format!("http://{}{path}", pair.port());
        let file = pair.mesh.file("upload", app::pattern(0, 200_000));
        let upload = format!("@{}", file.display());
        let run = |args: &[&str]| {
            let all = [&["-sS", "-m", "30"], args].concat();
            let (code, out, err) = curl.run(&all);
            assert_eq!(code, 0, "{link:?} curl {args:?}: {err}");
            out
        };
        assert_eq!(run(&[&url("/bytes/5")]).len(), 5);
        assert!(run(&["-I", &url("/bytes/5")]).starts_with("HTTP/1.1 200"));
        assert_eq!(run(&["--data-binary", &upload, &url("/drain")]), "200000");
        assert_eq!(run(&["-H", "Transfer-Encoding: chunked", "--data-binary", &upload, &url("/drain")]), "200000");
        assert_eq!(run(&["-H", "Expect: 100-continue", "--data-binary", &upload, &url("/drain")]), "200000");
        assert_eq!(run(&["--http1.0", &url("/chunked/5")]).len(), 5);
        assert_eq!(run(&["--http2-prior-knowledge", &url("/bytes/5")]).len(), 5);
        assert_eq!(run(&["-o", "/dev/null", "-w", "%{http_code}", &url("/status/204")]), "204");
        assert_eq!(
            run(&["-w", "%{num_connects}", "-o", "/dev/null", &url("/bytes/1"), "-o", "/dev/null", &url("/bytes/1")]),
            "10"
        );
    }
}

/// Two services of one sidecar are two applications.
#[test]
fn services_do_not_mix() {
    let mesh = Mesh::new();
    let (one, two) = (App::named("one"), App::named("two"));
    let first = mesh.sidecar("delta").application(&one).start();
    let second = mesh.sidecar("echo").application(&two).start();
    let alpha =
        mesh.sidecar("alpha").calls("delta", first.inbound(), Link::H2).calls("echo", second.inbound(), Link::H3);
    let alpha = alpha.start();
    let mut client = client::Client::connect(alpha.outbound());
    for _ in 0..5 {
        assert_eq!(client.get("delta", "/echo").field("x-app"), Some("one"));
        assert_eq!(client.get("echo", "/echo").field("x-app"), Some("two"));
    }
}
