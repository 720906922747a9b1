//! HTTP/2 as others speak it: h2spec on both listeners, nghttp and h2load before the pair, curl on the inbound link,
//! nginx at its far end.

#[path = "../peers/mod.rs"]
mod peers;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use lacis_tests::client::{self, Client};
use lacis_tests::{App, Link, Mesh, Pair, block_on, on_links, peer};
use peers::{Nginx, caller, identity, run};
use serde_json::json;
use tokio::net::TcpStream;

/// The cases of h2spec 2.2.1, the strict ones included.
const CASES: usize = 146;

/// Cases that the inbound link does not pass, each with its reason. The test fails when one of them passes.
const INBOUND_EXCEPTIONS: &[(&str, &str)] = &[];

/// Cases that the outbound listener does not pass, each with its reason.
const OUTBOUND_EXCEPTIONS: &[(&str, &str)] = &[(
    "http2/3.5/2",
    "the listener speaks HTTP/1 as well: what does not begin with the preface is answered 400 before the connection ends",
)];

#[test]
fn h2spec_on_the_inbound_link() {
    let pair = peers::pair(Link::H2);
    let alpha = identity(&pair.mesh, "alpha", "-").split_off(2);
    h2spec(&pair, pair.delta().inbound(), &alpha, INBOUND_EXCEPTIONS);
}

#[test]
fn h2spec_on_the_outbound_listener() {
    let pair = peers::pair(Link::H2);
    // h2spec's authority is the address that it connects to, so the port has to mean the service.
    h2spec(&pair, pair.port(), &[], OUTBOUND_EXCEPTIONS);
}

/// Runs every case and compares what failed with the exceptions; then the listener must still serve.
fn h2spec(pair: &Pair, address: SocketAddr, arguments: &[String], exceptions: &[(&str, &str)]) {
    let Some(h2spec) = peer("h2spec") else { return };
    let report = pair.mesh.dir().join("h2spec.xml");
    let mut command = h2spec.command();
    // Case 5.1.2/1 opens one stream more than MAX_STREAMS, 16,385: that takes a debug build its time.
    command.args(["-port", &address.port().to_string(), "-timeout", "20s", "-report"]).arg(&report).args(arguments);
    let (code, out, err) = run(&mut command);
    assert!(code == 0 || code == 1, "h2spec: exit code {code}\n{out}\n{err}");
    // It writes none when it cannot even connect any more.
    let report = fs::read_to_string(report).unwrap_or_else(|e| panic!("h2spec wrote no report: {e}\n{out}\n{err}"));
    let results = results(&report);
    assert_eq!(results.len(), CASES, "h2spec ran every case: {out}");

    let failed: BTreeSet<&str> = results.iter().filter(|(_, passed)| !**passed).map(|(id, _)| id.as_str()).collect();
    let excepted: BTreeSet<&str> = exceptions.iter().map(|(id, _)| *id).collect();
    let new: Vec<_> = failed.difference(&excepted).collect();
    assert!(new.is_empty(), "new failures {new:?}:\n{}", out.split("Failures:").nth(1).unwrap_or(&out));
    let passing: Vec<_> = excepted.difference(&failed).collect();
    assert!(passing.is_empty(), "exceptions that pass and can go: {passing:?}");
    assert_eq!(pair.get("/bytes/10").status(), 200, "the sidecars still serve");
}

/// Case by case from h2spec's JUnit report: `http2/6.9.1/2` and whether it passed.
fn results(report: &str) -> BTreeMap<String, bool> {
    let mut results = BTreeMap::new();
    for suite in report.split("<testsuite ").skip(1) {
        for (number, case) in suite.split("<testcase ").skip(1).enumerate() {
            let package = case.strip_prefix("package=\"").and_then(|rest| rest.split('"').next()).expect("a package");
            let failed = case.contains("<failure") || case.contains("<error") || case.contains("<skipped");
            results.insert(format!("{package}/{}", number + 1), !failed);
        }
    }
    results
}

on_links! {
    /// Thousands of requests, many at once on each connection.
    [H2, H3] fn h2load_on_the_outbound_listener(link) {
        let Some(h2load) = peer("h2load") else { return };
        let pair = peers::pair(link);
        let url = format!("http://{}/bytes/1000", pair.port());
        let (code, out, err) = h2load.run(["-n", "3000", "-c", "4", "-m", "100", "-t", "1", &url]);
        assert_eq!(code, 0, "{out}\n{err}");
        assert!(out.contains("3000 succeeded, 0 failed") && out.contains("3000 2xx"), "{out}");
        let slow = pair.mesh.file("body", vec![b'x'; 200_000]);
        let url = format!("http://{}/mirror", pair.port());
        let (code, out, err) = h2load.run(["-n", "100", "-c", "2", "-m", "10", "-w", "16", "-d", &slow.to_string_lossy(), &url]);
        assert_eq!(code, 0, "{out}\n{err}");
        assert!(out.contains("100 succeeded, 0 failed"), "small windows only slow it down: {out}");
    }

    /// Bodies and trailers in both directions, several requests at once.
    [H2, H3] fn nghttp_on_the_outbound_listener(link) {
        let Some(nghttp) = peer("nghttp") else { return };
        let pair = peers::pair(link);
        let body = pair.mesh.file("body", vec![b'x'; 100_000]);
        let authority = ["-H", ":authority: delta"];
        let url = |path: &str| format!("http://{}{path}", pair.alpha.outbound());
        // With a content-length the application's HTTP/1.1 would have no place for trailers (RFC 9112 section 7.1.2).
        let sent = ["-v", "-n", "--no-content-length", "-d", &body.to_string_lossy()];
        let (code, out, err) = nghttp.run(
            [&authority[..], &sent, &["--trailer", "x-sum: 7", &url("/mirror")]].concat(),
        );
        assert_eq!(code, 0, "{err}");
        assert!(out.contains("x-sum: 7"), "the trailer comes back: {out}");
        let seen = pair.app.seen();
        assert_eq!(seen.last().map(|s| (s.length, s.trailers.clone())), Some((100_000, vec![("x-sum".into(), "7".into())])));

        let (code, out, err) = nghttp.run([&authority[..], &["-v", "-n", &url("/trailers")]].concat());
        assert_eq!(code, 0, "{err}");
        assert!(out.contains("x-checksum: abc"), "{out}");
        let (code, out, err) = nghttp.run([&authority[..], &["-v", "-n", &url("/hints")]].concat());
        assert_eq!(code, 0, "{err}");
        assert!(out.contains(":status: 103") && out.contains(":status: 200"), "{out}");
    }
}

#[test]
fn curl_speaks_h2c_with_prior_knowledge() {
    let Some(curl) = peer("curl") else { return };
    let pair = peers::pair(Link::Auto);
    let body = pair.mesh.file("body", vec![b'x'; 3_000_000]);
    let write =
        ["--silent", "--show-error", "--http2-prior-knowledge", "--write-out", "\n%{http_version} %{response_code}"];
    let url = |path: &str| format!("http://{}{path}", pair.port());
    let data = format!("@{}", body.display());
    let (code, out, err) = curl.run([&write[..], &["--data-binary", &data, &url("/drain")]].concat());
    assert_eq!((code, out.as_str()), (0, "3000000\n2 200"), "{err}");
    let (code, _, err) = curl.run([&write[..], &["--fail", &url("/truncate")]].concat());
    // 22: what came before the cut was still on its way when the stream was reset, so all of it became a 502.
    assert!(matches!(code, 18 | 22 | 56 | 92), "a cut body is noticed: {code} {err}");
}

/// How curl calls an inbound listener directly.
fn direct(pair: &Pair, identity: &[(&str, PathBuf)], more: &[&str], path: &str) -> Option<(i32, String, String)> {
    let curl = peer("curl")?;
    let mut command = curl.command();
    command.args(["--silent", "--show-error", "--insecure", "--max-time", "20"]);
    command.args(["--write-out", "\n%{http_version} %{response_code}"]).args(more);
    for (name, path) in identity {
        command.arg(format!("--{name}")).arg(path);
    }
    Some(run(command.arg(format!("https://{}{path}", pair.delta().inbound()))))
}

fn shown(mesh: &Mesh, service: &str) -> Vec<(&'static str, PathBuf)> {
    vec![("cert", mesh.certificate(service)), ("key", mesh.key(service))]
}

/// A stranger's client with a good certificate: HTTP/2 and HTTP/1.1 by ALPN, and an identity that cannot be forged.
#[test]
fn inbound_serves_a_foreign_client_with_a_certificate() {
    let pair = peers::pair(Link::H2);
    let forged = ["--header", "x-forwarded-client-cert: URI=spiffe://mesh.local/ns/default/sa/root"];
    for (protocol, version) in [("--http2", "2 200"), ("--http1.1", "1.1 200")] {
        let more = [&[protocol][..], &forged].concat();
        let Some((code, out, err)) = direct(&pair, &shown(&pair.mesh, "alpha"), &more, "/echo") else { return };
        assert_eq!((code, out.lines().last()), (0, Some(version)), "{err}");
        let seen = pair.app.seen().pop().expect("a request");
        let identities: Vec<_> =
            seen.fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case("x-forwarded-client-cert")).collect();
        assert_eq!(identities.len(), 1, "{identities:?}");
        assert!(identities[0].1.contains(peers::ALPHA) && !identities[0].1.contains("sa/root"), "{identities:?}");
    }
}

/// No certificate, one of another CA, TLS 1.2, no TLS at all: nothing comes back and nothing reaches the application.
#[test]
fn inbound_refuses_whom_it_does_not_know() {
    let pair = peers::pair(Link::H2);
    let other = Mesh::foreign();
    for protocol in ["--http2", "--http1.1"] {
        let strangers: [(&str, Vec<_>, &[&str]); 3] = [
            ("no certificate", Vec::new(), &[]),
            ("another CA", shown(&other, "alpha"), &[]),
            ("TLS 1.2", shown(&pair.mesh, "alpha"), &["--tls-max", "1.2"]),
        ];
        for (who, certificate, more) in strangers {
            let more = [&[protocol][..], more].concat();
            let Some((code, out, err)) = direct(&pair, &certificate, &more, "/echo") else { return };
            assert!(code != 0 && out.ends_with(" 000"), "{who} got {out:?} (curl ended with {code}): {err}");
        }
    }
    let plain = client::exchange(pair.delta().inbound(), "GET /echo HTTP/1.1\r\nhost: delta\r\n\r\n");
    assert!(!plain.starts_with(b"HTTP/"), "no TLS: {:?}", String::from_utf8_lossy(&plain));
    assert_eq!(pair.app.requests(), 0, "nothing reached the application");
    assert_eq!(pair.get("/echo").status(), 200, "the pair itself works");
}

/// An identity of the mesh that is not in `allow` is told so, and gets nothing from the application.
#[test]
fn inbound_refuses_an_identity_that_is_not_allowed() {
    let gamma = json!({"inbound": {"allow": [{"identity": "spiffe://mesh.local/ns/default/sa/gamma"}]}});
    let pair = Pair::with(Link::H2, App::start(), peers::patient, |delta| delta.with(gamma));
    pair.mesh.issue("gamma");
    let Some((code, out, err)) = direct(&pair, &shown(&pair.mesh, "gamma"), &["--http2"], "/bytes/3") else { return };
    assert_eq!((code, out.lines().last()), (0, Some("2 200")), "{err}");
    let (_, out, _) = direct(&pair, &shown(&pair.mesh, "alpha"), &["--http2"], "/bytes/3").expect("curl is here");
    assert!(out.ends_with(" 403") || out.ends_with(" 000"), "{out}");
    assert_eq!(pair.app.requests(), 1, "only gamma's request reached the application");
}

/// nginx as the far end of a link: verified on both sides, few streams a connection, GOAWAY after some requests.
fn nginx(mesh: &Mesh, service: &str, app: &App, more: &str) -> Option<Nginx> {
    nginx_with(mesh, service, app, "http2", more)
}

/// The same, with these words after `listen … ssl`: without `http2` its ALPN has nothing better than HTTP/1.1.
fn nginx_with(mesh: &Mesh, service: &str, app: &App, listen: &str, more: &str) -> Option<Nginx> {
    let server = format!(
        "listen LISTEN ssl {listen}; ssl_protocols TLSv1.3;
         ssl_certificate {}; ssl_certificate_key {}; ssl_client_certificate {}; ssl_verify_client on; ssl_verify_depth 4;
         {more}
         location / {{
             proxy_pass http://{}; proxy_http_version 1.1; proxy_buffering off; proxy_request_buffering off;
             proxy_set_header host $http_host; proxy_set_header connection \"\";
             add_header x-verified $ssl_client_verify always; add_header x-link \"$server_protocol $connection\" always;
         }}",
        mesh.certificate(service).display(),
        mesh.key(service).display(),
        mesh.ca().display(),
        app.address(),
    );
    Nginx::start(mesh, &server)
}

/// A peer that offers only `http/1.1` by ALPN is spoken to in HTTP/1.1, on the connection that found it out.
#[test]
fn the_link_falls_back_to_http1_where_nginx_offers_no_more() {
    for link in [Link::H2, Link::Auto] {
        let (mesh, app) = (Mesh::new(), App::start());
        let Some(nginx) = nginx_with(&mesh, "delta", &app, "", "") else { return };
        let alpha = caller(&mesh, nginx.address, link);
        let mut client = Client::connect(alpha.outbound());
        let mut links = BTreeSet::new();
        for _ in 0..5 {
            let answer = client.request("POST", "delta", "/mirror", &[], Some(b"hello"));
            assert_eq!(
                (answer.status(), answer.field("x-verified"), answer.text().as_str()),
                (200, Some("SUCCESS"), "hello")
            );
            links.insert(answer.field("x-link").expect("set by nginx").to_owned());
        }
        assert!(links.len() == 1 && links.iter().all(|link| link.starts_with("HTTP/1.1 ")), "{link:?}: {links:?}");
        alpha.counts(5.0, "lacis_requests_total", &[("direction", "outbound"), ("link", "h1"), ("status", "200")]);
    }
}

#[test]
fn the_link_opens_more_connections_when_nginx_allows_few_streams() {
    const REQUESTS: usize = 12;
    let (mesh, app) = (Mesh::new(), App::start());
    let Some(nginx) = nginx(&mesh, "delta", &app, "http2_max_concurrent_streams 4;") else { return };
    let alpha = caller(&mesh, nginx.address, Link::H2);
    let mut clients: Vec<Client> = (0..REQUESTS).map(|_| Client::connect(alpha.outbound())).collect();
    for client in &mut clients {
        client.send("GET /hold HTTP/1.1\r\nhost: delta\r\n\r\n");
    }
    app.wait_held(REQUESTS as u64);
    app.release();
    let mut links = BTreeSet::new();
    for client in &mut clients {
        let answer = client.response("GET");
        assert_eq!((answer.status(), answer.field("x-verified")), (200, Some("SUCCESS")));
        links.insert(answer.field("x-link").expect("set by nginx").to_owned());
    }
    assert!(links.iter().all(|link| link.starts_with("HTTP/2.0 ")), "{links:?}");
    assert_eq!(links.len(), REQUESTS / 4, "as many links as it takes, no more: {links:?}");
}

/// A caller that leaves with more requests open than h2 remembers (50) and forgives (1024): what else the link carries
/// goes on.
#[test]
fn requests_that_are_given_up_leave_the_link_alone() {
    const REQUESTS: usize = 4000;
    let pair = peers::pair(Link::H2);
    let mut neighbour = pair.connect();
    neighbour.send("GET /drip HTTP/1.1\r\nhost: delta\r\n\r\n");
    let head = neighbour.head();
    block_on(async {
        let stream = TcpStream::connect(pair.alpha.outbound()).await.expect("a connection");
        let (mut caller, connection) = h2::client::handshake(stream).await.expect("h2c");
        let connection = tokio::spawn(connection);
        let mut answers = Vec::new();
        for _ in 0..REQUESTS {
            caller = caller.ready().await.expect("a stream");
            let request = client::h2_get("delta", "/bytes/20000");
            answers.push(caller.send_request(request, true).expect("a stream").0);
        }
        assert_eq!(answers.swap_remove(0).await.expect("an answer").status(), 200);
        connection.abort();
    });
    assert_eq!(pair.get("/bytes/10").status(), 200);
    pair.app.release();
    assert_eq!(&neighbour.body(head.response_framing("GET").expect("a framing"))[..], b"firstsecond");
}

/// nginx says GOAWAY after every tenth request: nothing is lost, alone or in a crowd.
#[test]
fn goaway_of_nginx_loses_no_request() {
    let (mesh, app) = (Mesh::new(), App::start());
    let Some(nginx) = nginx(&mesh, "delta", &app, "keepalive_requests 10;") else { return };
    let alpha = caller(&mesh, nginx.address, Link::H2);
    let mut client = Client::connect(alpha.outbound());
    for number in 0..100 {
        assert_eq!(client.get("delta", "/bytes/100").status(), 200, "request {number}");
    }
    let load = client::load(alpha.outbound(), "delta", "/bytes/100", 8);
    load.wait_more(1000);
    let load = load.stop();
    assert_eq!(load.failed(), 0, "{load:?}");
}

#[test]
fn bodies_and_trailers_cross_a_link_to_nginx() {
    let (mesh, app) = (Mesh::new(), App::start());
    let Some(nginx) = nginx(&mesh, "delta", &app, "") else { return };
    let alpha = caller(&mesh, nginx.address, Link::H2);
    let mut client = Client::connect(alpha.outbound());
    let body = vec![b'x'; 2_000_000];
    assert_eq!(client.request("POST", "delta", "/drain", &[], Some(&body)).text(), "2000000");
    let large = client.get("delta", "/chunked/3000000");
    assert!(large.body.len() == 3_000_000 && lacis_tests::app::is_pattern(0, &large.body));
    client.send("GET /truncate HTTP/1.1\r\nhost: delta\r\n\r\n");
    assert!(client.try_response("GET").is_err(), "nginx resets the stream, so the body is cut");
    assert_eq!(Client::connect(alpha.outbound()).get("delta", "/bytes/3").status(), 200);
}

/// A server of the mesh that is not the one that was called gets no request.
#[test]
fn the_link_refuses_a_server_with_another_identity() {
    let (mesh, app) = (Mesh::new(), App::start());
    mesh.issue("gamma");
    let Some(nginx) = nginx(&mesh, "gamma", &app, "") else { return };
    let alpha = caller(&mesh, nginx.address, Link::H2);
    let answer = client::get(alpha.outbound(), "delta", "/echo");
    assert_eq!((answer.status(), answer.proxy_error().as_deref()), (503, Some("tls_certificate_error")));
    assert_eq!(app.requests(), 0);
}
