//! HTTP/1.1 as others speak it: curl and WebSocket clients before the pair, nginx and Python behind it.

#[path = "../peers/mod.rs"]
mod peers;

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use lacis_tests::{Mesh, Peer, Process, on_links, peer};
use peers::{Foreign, Nginx, run};
use serde_json::Value;

/// curl with the options that every call here has.
fn curl(curl: &Peer, arguments: &[&str]) -> (i32, String, String) {
    let mut command = curl.command();
    run(command.args(["--silent", "--show-error", "--max-time", "50"]).args(arguments))
}

/// The last line of curl's output when it was told to write `--write-out '\n…'`.
fn last(out: &str) -> &str {
    out.lines().last().unwrap_or_default()
}

on_links! {
    /// A connection that is used again, a body with a length, in chunks, and after `100 Continue`; HEAD; trailers.
    [H1, H2, H3] fn curl_speaks_http1(link) {
        let Some(peer) = peer("curl") else { return };
        let pair = peers::pair(link);
        let url = |path: &str| format!("http://{}{path}", pair.alpha.outbound());
        let host = ["--header", "host: delta"];
        let body = pair.mesh.file("body", vec![b'b'; 3_000_000]);
        let upload = format!("@{}", body.display());

        let (out1, out2) = (pair.mesh.dir().join("1"), pair.mesh.dir().join("2"));
        let (code, out, err) = curl(&peer, &[
            &host[..], &["--write-out", "%{http_version} %{response_code} %{num_connects} %{size_download}\n"],
            &["--output", &out1.to_string_lossy(), &url("/bytes/1000000")],
            &["--output", &out2.to_string_lossy(), &url("/chunked/1000000")],
        ].concat());
        assert_eq!((code, out.as_str()), (0, "1.1 200 1 1000000\n1.1 200 0 1000000\n"), "{err}");
        assert!(lacis_tests::app::is_pattern(0, &fs::read(out1).expect("a download")));
        assert!(lacis_tests::app::is_pattern(0, &fs::read(out2).expect("a download")));

        // Over 1 MiB curl asks for 100 Continue by itself.
        let (code, out, err) = curl(&peer, &[&host[..], &["--data-binary", &upload, &url("/drain")]].concat());
        assert_eq!((code, out.as_str()), (0, "3000000"), "{err}");
        let chunked = ["--header", "transfer-encoding: chunked", "--data-binary", &upload];
        let (code, out, err) = curl(&peer, &[&host[..], &chunked, &[&url("/drain")]].concat());
        assert_eq!((code, out.as_str()), (0, "3000000"), "{err}");

        let (code, out, err) = curl(&peer, &[&host[..], &["--head", &url("/bytes/70")]].concat());
        assert_eq!(code, 0, "{err}");
        assert!(out.to_ascii_lowercase().contains("content-length: 70\r\n"), "{out}");

        let (code, out, err) = curl(&peer, &[&host[..], &["--dump-header", "-", &url("/trailers")]].concat());
        assert_eq!(code, 0, "{err}");
        assert!(out.contains("x-checksum: abc"), "curl shows trailers after the body: {out}");

        let (code, out, err) = curl(&peer, &[&host[..], &["--http1.0", "--dump-header", "-", &url("/chunked/70")]].concat());
        assert_eq!(code, 0, "{err}");
        assert!(out.ends_with(&String::from_utf8_lossy(&lacis_tests::app::pattern(0, 70)).into_owned()), "{out}");
        assert!(!out.to_ascii_lowercase().contains("transfer-encoding"), "HTTP/1.0 knows no chunks: {out}");
    }

    /// `http_proxy=`: the service comes from the absolute URI.
    [H2, H3] fn curl_uses_the_outbound_listener_as_its_proxy(link) {
        let Some(peer) = peer("curl") else { return };
        let pair = peers::pair(link);
        let proxy = format!("http://{}", pair.alpha.outbound());
        let (code, out, err) = curl(&peer, &["--proxy", &proxy, "http://delta/echo?q=1"]);
        assert_eq!(code, 0, "{err}");
        let seen: Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!(seen["target"], "/echo?q=1", "the application gets the origin form");
    }

    /// An offer to upgrade to h2c is not taken (RFC 9113 section 3.1 has dropped it), and does not reach the application.
    [H2, H3] fn curl_offers_h2c_in_vain(link) {
        let Some(peer) = peer("curl") else { return };
        let pair = peers::pair(link);
        let url = format!("http://{}/echo", pair.port());
        let (code, out, err) = curl(&peer, &["--http2", "--write-out", "\n%{http_version} %{response_code}", &url]);
        assert_eq!((code, last(&out)), (0, "1.1 200"), "{err}");
        let seen: Value = serde_json::from_str(out.lines().next().unwrap_or_default()).expect("JSON");
        let fields = seen["fields"].to_string().to_ascii_lowercase();
        assert!(!fields.contains("http2-settings") && !fields.contains("h2c"), "{fields}");
    }

    /// A body that the application cuts: curl must notice, whatever the framing.
    [H1, H2, H3] fn curl_notices_a_cut_body(link) {
        let Some(peer) = peer("curl") else { return };
        let pair = peers::pair(link);
        for path in ["/truncate", "/truncate-chunked", "/reset"] {
            let (code, _, err) = curl(&peer, &["--fail", &format!("http://{}{path}", pair.port())]);
            // 22: what came before the cut was still on its way when the stream was reset, so all of it became a 502.
            assert!(matches!(code, 18 | 22 | 52 | 56), "{path}: curl ended with {code}: {err}");
        }
        let (code, out, err) = curl(&peer, &[&format!("http://{}/bytes/3", pair.port())]);
        assert_eq!((code, out.len()), (0, 3), "the link is healthy: {err}");
    }

    /// nginx as the application: files, ranges, conditions, and connections that are kept.
    [H2, H3] fn nginx_is_the_application(link) {
        let Some(peer) = peer("curl") else { return };
        let mesh = Mesh::new();
        let content: Vec<u8> = (0..5_000_000_u32).map(|i| (i % 251) as u8).collect();
        mesh.file("files/large", &content);
        let server = format!(
            "listen LISTEN; root {}; location = /again {{ return 200 \"$connection_requests\"; }}
             location = /host {{ return 200 \"$http_host $server_protocol $request_method\"; }}",
            mesh.dir().join("files").display(),
        );
        let Some(nginx) = Nginx::start(&mesh, &server) else { return };
        let pair = Foreign::start(link, nginx.address, "http1");

        let output = mesh.dir().join("out");
        let (code, _, err) = curl(&peer, &["--output", &output.to_string_lossy(), &pair.url("/large")]);
        assert_eq!(code, 0, "{err}");
        assert!(fs::read(&output).expect("a download") == content, "5 MB arrive unchanged");

        let (code, out, err) = curl(&peer, &["--range", "251-260", "--write-out", "\n%{response_code}", &pair.url("/large")]);
        assert_eq!((code, last(&out)), (0, "206"), "{err}");
        assert!(out.starts_with("\0\x01\x02\x03"), "{out:?}");

        let (_, head, _) = curl(&peer, &["--head", &pair.url("/large")]);
        let etag = head.lines().find_map(|l| l.strip_prefix("ETag: ").or_else(|| l.strip_prefix("etag: "))).expect("an etag");
        let condition = format!("if-none-match: {etag}");
        let (code, out, err) = curl(&peer, &["--header", &condition, "--write-out", "\n%{response_code}", &pair.url("/large")]);
        assert_eq!((code, last(&out)), (0, "304"), "{err}");

        let requests: Vec<String> = (0..3).map(|_| curl(&peer, &[&pair.url("/again")]).1).collect();
        let numbers: Vec<u32> = requests.iter().map(|n| n.parse().expect("a number")).collect();
        assert!(numbers[2] > numbers[0], "the connection to the application is kept: {numbers:?}");

        let (_, out, _) = curl(&peer, &["--header", "host: delta", "--request", "DELETE", &pair.url("/host")]);
        assert_eq!(out, "delta HTTP/1.1 DELETE");
    }

    /// Python's `http.server` as the application: HTTP/1.0, bodies that end with the connection.
    [H2, H3] fn python_is_the_application(link) {
        let Some(peer) = peer("curl") else { return };
        let mesh = Mesh::new();
        mesh.file("files/page", "from python");
        let Some((_server, address)) = peers::http_server(&mesh.dir().join("files")) else { return };
        let pair = Foreign::start(link, address, "http1");
        let write = ["--write-out", "\n%{http_version} %{response_code}"];
        let (code, out, err) = curl(&peer, &[&write[..], &[&pair.url("/page")]].concat());
        assert_eq!((code, out.as_str()), (0, "from python\n1.1 200"), "{err}");
        // A listing of the directory has no length.
        let (code, out, err) = curl(&peer, &[&write[..], &[&pair.url("/")]].concat());
        assert_eq!((code, last(&out)), (0, "1.1 200"), "{err}");
        let (code, out, err) = curl(&peer, &[&write[..], &["--data", "x", &pair.url("/page")]].concat());
        assert_eq!((code, last(&out)), (0, "1.1 501"), "{err}");
        let (code, out, err) = curl(&peer, &[&write[..], &["--head", &pair.url("/nothing")]].concat());
        assert_eq!((code, last(&out)), (0, "1.1 404"), "{err}");
    }
}

/// The WebSocket server of Python's `websockets`, and its address.
fn websocket_server() -> Option<(Process, SocketAddr)> {
    let mut command = peer("peer-python")?.command();
    command.arg(peers::file("websocket.py")).arg("serve");
    let process = Process::start("websocket server", command);
    let port = process.out.wait_for("its port", |lines| {
        let line: Value = serde_json::from_str(lines.first()?).ok()?;
        line["port"].as_u64().and_then(|port| u16::try_from(port).ok())
    });
    Some((process, SocketAddr::from(([127, 0, 0, 1], port))))
}

fn websocket_client(pair: &Foreign) -> Value {
    let python = peer("peer-python").expect("it runs the server");
    let mut command: Command = python.command();
    command.arg(peers::file("websocket.py")).args(["talk", &format!("ws://{}/chat", pair.port())]);
    let (code, out, err) = run(&mut command);
    assert_eq!(code, 0, "{out}\n{err}");
    serde_json::from_str(&out).expect("JSON")
}

on_links! {
    /// Text, binary, a large and a compressed message, ping, and the close codes of both sides. `auto` and `h2` have to
    /// cross on HTTP/1.1 here, because the request needs it.
    [H1, H2, H3, Auto] fn websocket_crosses(link) {
        let Some((_server, address)) = websocket_server() else { return };
        let pair = Foreign::start(link, address, "http1");
        let told = websocket_client(&pair);
        assert_eq!(told["subprotocol"], "chat", "{told}");
        assert_eq!(told["text"], "grüße", "{told}");
        assert_eq!(told["binary"], 1_000_000, "{told}");
        assert_eq!(told["pong"], true, "{told}");
        assert_eq!(told["server_close"], serde_json::json!([4001, "enough"]), "{told}");
        assert_eq!(told["refused"], 403, "{told}");
    }
}
