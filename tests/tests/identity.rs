//! Who is on the other side: certificates, SPIFFE identities, who may call, and rotation under load.

use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;

use lacis_tests::{App, Link, Mesh, Pair, Peer, TRUST_DOMAIN, client, on_links, peer, until};
use serde_json::json;

fn spiffe(service: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/ns/default/sa/{service}")
}

on_links! {
    /// The application learns who called from the verified certificate, and from nowhere else.
    [H1, H2, H3] fn the_application_learns_who_called(link) {
        let pair = Pair::new(link);
        let forged = "By=spiffe://mesh.local/ns/default/sa/delta;URI=spiffe://mesh.local/ns/default/sa/admin";
        let fields = [
            ("x-forwarded-client-cert", forged),
            ("X-Forwarded-Client-Cert", "URI=spiffe://x/y"),
            // To some frameworks it is the same.
            ("X_Forwarded-Client_Cert", forged),
        ];
        let answer = pair.connect().request("GET", "delta", "/echo", &fields, None);
        assert_eq!(answer.status(), 200);
        let seen = &pair.app.seen()[0];
        let is = |name: &str| name.replace('_', "-").eq_ignore_ascii_case("x-forwarded-client-cert");
        let values: Vec<&str> = seen.fields.iter().filter(|(name, _)| is(name)).map(|(_, value)| value.as_str()).collect();
        assert_eq!(values.len(), 1, "{values:?}");
        assert!(values[0].contains(&format!("URI={}", spiffe("alpha"))), "{values:?}");
        assert!(values[0].contains(&format!("By={}", spiffe("delta"))), "{values:?}");
        assert!(!values[0].contains("admin") && values[0].contains("Hash="), "{values:?}");
    }

    /// `allow` lets in who is named, and refuses everybody else with the reason.
    [H1, H2, H3] fn only_those_who_are_named_may_call(link) {
        let allow = |who: &str| json!({"inbound": {"allow": [{"identity": spiffe(who)}]}});
        let pair = Pair::with(link, App::start(), |alpha| alpha, |delta| delta.with(allow("alpha")));
        assert_eq!(pair.get("/bytes/1").status(), 200);
        let pair = Pair::with(link, App::start(), |alpha| alpha, |delta| delta.with(allow("gamma")));
        let answer = pair.get("/bytes/1");
        assert_eq!((answer.status(), answer.proxy_error().as_deref()), (403, Some("http_request_denied")));
        assert_eq!(pair.app.requests(), 0);
        pair.delta().counts(1.0, "lacis_requests_total", &[("reason", "http_request_denied")]);
    }

    /// Whoever answers for delta must be delta.
    [H1, H2, H3, Auto] fn only_delta_may_answer_for_delta(link) {
        let mesh = Mesh::new();
        let app = App::start();
        let impostor = mesh.sidecar("gamma").application(&app).start();
        let alpha = mesh.sidecar("alpha").calls("delta", impostor.inbound(), link).start();
        let answer = client::get(alpha.outbound(), "delta", "/bytes/1");
        assert_eq!((answer.status(), answer.proxy_error().as_deref()), (503, Some("tls_certificate_error")));
        assert_eq!(app.requests(), 0);
        let named = json!({"services": {"delta": {"identity": [spiffe("gamma")]}}});
        let alpha = mesh.sidecar("alpha").calls("delta", impostor.inbound(), link).with(named).start();
        assert_eq!(client::get(alpha.outbound(), "delta", "/bytes/1").status(), 200, "unless another is named");
    }

    /// Two authorities that do not know each other.
    [H1, H2, H3, Auto] fn strangers_do_not_trust_each_other(link) {
        let (mesh, foreign) = (Mesh::new(), Mesh::foreign());
        let app = App::start();
        let delta = foreign.sidecar("delta").application(&app).start();
        let alpha = mesh.sidecar("alpha").calls("delta", delta.inbound(), link).start();
        let answer = client::get(alpha.outbound(), "delta", "/bytes/1");
        assert_eq!((answer.status(), answer.proxy_error().as_deref()), (503, Some("tls_certificate_error")));
        assert_eq!(app.requests(), 0);
    }

    /// New certificates are taken up while requests go on, and not one of them fails.
    [H1, H2, H3] fn certificates_rotate_under_load(link) {
        let pair = Pair::new(link);
        let load = client::load(pair.alpha.outbound(), "delta", "/bytes/100", 8);
        load.wait_more(100);
        let serial = |mesh: &Mesh| fs::read(mesh.certificate("delta")).expect("a certificate");
        let first = serial(&pair.mesh);
        for _ in 0..3 {
            pair.mesh.issue("alpha");
            pair.mesh.issue("delta");
            load.wait_more(300);
        }
        assert_ne!(serial(&pair.mesh), first);
        let load = load.stop();
        assert_eq!((load.failed(), load.reopened), (0, 0), "{load:?}");
        // Open links go on; who dials now shows and meets the new certificates.
        let fresh = pair.mesh.sidecar("alpha").calls("delta", pair.delta().inbound(), link).start();
        assert_eq!(client::get(fresh.outbound(), "delta", "/bytes/1").status(), 200);
    }
}

/// A new certificate is what a new connection is shown, without a restart.
#[test]
fn a_rotated_certificate_is_shown_to_the_next_peer() {
    let Some(openssl) = peer("openssl") else { return };
    let pair = Pair::new(Link::H2);
    let shown = || shown(&openssl, pair.delta().inbound(), &pair.mesh);
    let before = shown();
    pair.mesh.issue("delta");
    until("the new certificate is shown", || (shown() != before).then_some(()));
}

/// The certificate that a caller from this mesh is shown.
fn shown(openssl: &Peer, address: SocketAddr, mesh: &Mesh) -> String {
    let (_, out, _) = openssl.run([
        "s_client",
        "-connect",
        &address.to_string(),
        "-tls1_3",
        "-alpn",
        "h2",
        "-showcerts",
        "-cert",
        path(&mesh.certificate("alpha")),
        "-key",
        path(&mesh.key("alpha")),
        "-CAfile",
        path(&mesh.ca()),
    ]);
    let start = out.find("-----BEGIN").unwrap_or_else(|| panic!("no certificate: {out}"));
    out[start..].lines().take_while(|l| !l.starts_with("-----END")).collect::<String>()
}

/// Kubernetes swaps the files of a mounted volume all at once: they are symbolic links through `..data`, which is one
/// itself and is renamed over.
#[test]
fn a_swapped_volume_is_taken_up_whole() {
    let Some(openssl) = peer("openssl") else { return };
    let (mesh, app) = (Mesh::new(), App::start());
    let volume = mesh.dir().join("volume");
    let files = ["delta.pem", "delta-key.pem", "ca.pem"];
    let publish = |version: &str| {
        let data = volume.join(version);
        fs::create_dir_all(&data).expect("a directory");
        for file in files {
            fs::copy(mesh.certs().join(file), data.join(file)).expect("a copy");
        }
        symlink(version, volume.join("..data_tmp")).expect("a link");
        fs::rename(volume.join("..data_tmp"), volume.join("..data")).expect("a swap");
    };
    publish("..2026_1");
    files.iter().for_each(|file| symlink(format!("..data/{file}"), volume.join(file)).expect("a link"));
    let identity = json!({"identity": {
        "certificate": "volume/delta.pem", "private_key": "volume/delta-key.pem", "trust_bundle": "volume/ca.pem",
    }});
    let delta = mesh.sidecar("delta").application(&app).with(identity).start();
    let mut before = shown(&openssl, delta.inbound(), &mesh);
    for (old, new) in [("..2026_1", "..2026_2"), ("..2026_2", "..2026_3")] {
        mesh.issue("delta");
        publish(new);
        fs::remove_dir_all(volume.join(old)).expect("the old version goes");
        let after = until("the new certificate is shown", || {
            Some(shown(&openssl, delta.inbound(), &mesh)).filter(|shown| *shown != before)
        });
        before = after;
    }
}

/// A session is resumed as long as nothing changed, and never after: a ticket that the old trust bundle paid for lets
/// nobody in.
#[test]
fn tickets_do_not_outlive_the_trust_bundle() {
    let Some(openssl) = peer("openssl") else { return };
    let (pair, foreign) = (Pair::new(Link::H2), Mesh::foreign());
    let request = pair.mesh.file("request", "GET /bytes/5 HTTP/1.1\r\nhost: delta\r\nconnection: close\r\n\r\n");
    let address = pair.delta().inbound().to_string();
    let alpha = (path(&pair.mesh.certificate("alpha")).to_owned(), path(&pair.mesh.key("alpha")).to_owned());
    let session = |number: u32| pair.mesh.dir().join(format!("session-{number}"));
    // The whole of what openssl says. A ticket works once, so each call leaves another.
    let call = |number: u32| {
        let mut command = openssl.command();
        command.args(["s_client", "-connect", &address, "-tls1_3", "-alpn", "http/1.1", "-ign_eof"]);
        command.args(["-cert", &alpha.0, "-key", &alpha.1, "-sess_out"]).arg(session(number));
        if number > 1 {
            command.arg("-sess_in").arg(session(number - 1));
        }
        let output = command.stdin(fs::File::open(&request).expect("a request")).output().expect("openssl runs");
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    };
    let served = |said: &str| said.contains("HTTP/1.1 200");
    let (first, second) = (call(1), call(2));
    assert!(first.contains("New, TLSv1.3") && served(&first), "{first}");
    assert!(second.contains("Reused, TLSv1.3") && served(&second), "{second}");

    // Another certificate of the same authority: alpha is still welcome, by a handshake of its own.
    let before = shown(&openssl, pair.delta().inbound(), &pair.mesh);
    pair.mesh.issue("delta");
    until("the new certificate is shown", || {
        (shown(&openssl, pair.delta().inbound(), &pair.mesh) != before).then_some(())
    });
    let third = call(3);
    assert!(third.contains("New, TLSv1.3") && served(&third), "{third}");

    // Another authority: alpha's certificate is worth nothing any more, and neither is its ticket.
    let before = shown(&openssl, pair.delta().inbound(), &pair.mesh);
    for file in ["ca.pem", "delta-key.pem", "delta.pem"] {
        fs::copy(foreign.certs().join(file), pair.mesh.certs().join(file)).expect("a copy");
    }
    until("the new authority's certificate is shown", || {
        (shown(&openssl, pair.delta().inbound(), &pair.mesh) != before).then_some(())
    });
    let requests = pair.app.requests();
    let fourth = call(4);
    assert!(!fourth.contains("Reused, TLSv1.3") && !served(&fourth), "{fourth}");
    assert_eq!(pair.app.requests(), requests, "nothing reached the application");
}

/// TLS 1.3 only, ALPN as documented.
#[test]
fn the_inbound_port_speaks_tls_1_3_only() {
    let Some(openssl) = peer("openssl") else { return };
    let pair = Pair::new(Link::H2);
    let address = pair.delta().inbound().to_string();
    let (certificate, key) = (pair.mesh.certificate("alpha"), pair.mesh.key("alpha"));
    let run = |more: &[&str]| {
        let common = ["s_client", "-connect", &address, "-cert", path(&certificate), "-key", path(&key)];
        let (_, out, err) = openssl.run([&common, more].concat());
        out + &err
    };
    let modern = run(&["-tls1_3", "-alpn", "h2"]);
    assert!(modern.contains("ALPN protocol: h2") && modern.contains("TLSv1.3"), "{modern}");
    assert!(run(&["-alpn", "http/1.1"]).contains("ALPN protocol: http/1.1"));
    let old = run(&["-tls1_2"]);
    assert!(old.contains("alert protocol version") || old.contains("no peer certificate available"), "{old}");
}

/// Without a certificate, with one of another authority, with an identity of another trust domain, without an identity:
/// not one byte of HTTP.
#[test]
fn a_stranger_gets_nothing() {
    let (Some(curl), Some(openssl)) = (peer("curl"), peer("openssl")) else { return };
    let pair = Pair::new(Link::H2);
    let foreign = Mesh::foreign();
    let mesh = &pair.mesh;
    let url = format!("https://{}/bytes/5", pair.delta().inbound());
    let call = |identity: Option<(&Path, &Path)>| {
        let mut args = vec!["-sS", "-k", "-m", "20", url.as_str()];
        if let Some((certificate, key)) = identity {
            args.extend(["--cert", path(certificate), "--key", path(key)]);
        }
        curl.run(args)
    };
    let (code, out, err) = call(Some((&mesh.certificate("alpha"), &mesh.key("alpha"))));
    assert_eq!((code, out.len()), (0, 5), "a member of the mesh is served: {err}");
    let before = pair.app.requests();
    let signed = |name: &str, san: &str| {
        // Signed by the mesh's own authority, so only the identity is wrong.
        let (key, certificate) =
            (mesh.certs().join(format!("{name}-key.pem")), mesh.certs().join(format!("{name}.pem")));
        let extension = mesh
            .file(&format!("{name}.ext"), format!("subjectAltName={san}\nextendedKeyUsage=clientAuth,serverAuth\n"));
        let request = mesh.dir().join(format!("{name}.csr"));
        let steps: [Vec<&str>; 2] = [
            vec![
                "req",
                "-new",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-subj",
                "/CN=x",
                "-keyout",
                path(&key),
                "-out",
                path(&request),
            ],
            vec![
                "x509",
                "-req",
                "-in",
                path(&request),
                "-CA",
                path(&mesh.certs().join("ca.pem")).to_owned().leak(),
                "-CAkey",
                path(&mesh.certs().join("ca-key.pem")).to_owned().leak(),
                "-CAcreateserial",
                "-days",
                "1",
                "-extfile",
                path(&extension),
                "-out",
                path(&certificate),
            ],
        ];
        for args in steps {
            let (code, _, err) = openssl.run(&args);
            assert_eq!(code, 0, "openssl {args:?}: {err}");
        }
        (certificate, key)
    };
    let own = signed("own", &format!("URI:{}", spiffe("alpha")));
    let (code, out, err) = call(Some((&own.0, &own.1)));
    assert_eq!((code, out.len()), (0, 5), "what openssl signs is fine if its identity is: {err}");
    let other_domain = signed("domain", "URI:spiffe://other.example/ns/default/sa/alpha");
    let no_identity = signed("dns", "DNS:alpha.default");
    let two = signed("two", &format!("URI:{},URI:{}", spiffe("alpha"), spiffe("delta")));
    for (what, identity) in [
        ("no certificate", None),
        ("another authority", Some((foreign.certificate("alpha"), foreign.key("alpha")))),
        ("another trust domain", Some(other_domain)),
        ("no SPIFFE identity", Some(no_identity)),
        ("two SPIFFE identities", Some(two)),
    ] {
        let (code, out, err) = call(identity.as_ref().map(|(c, k)| (c.as_path(), k.as_path())));
        assert!(code != 0 && out.is_empty(), "{what}: {code} {out:?} {err}");
    }
    let plain = client::exchange(pair.delta().inbound(), "GET /bytes/5 HTTP/1.1\r\nhost: delta\r\n\r\n");
    assert!(!plain.starts_with(b"HTTP/"), "plaintext: {:?}", String::from_utf8_lossy(&plain));
    assert_eq!(pair.app.requests(), before + 1, "a stranger reached the application");
}

/// Keys are for their owner.
#[test]
fn private_keys_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let mesh = Mesh::foreign();
    for key in ["ca-key.pem", "alpha-key.pem", "delta-key.pem"] {
        let mode = fs::metadata(mesh.certs().join(key)).expect("a key").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path of ours")
}

/// Strangers who connect and say nothing get a part of the descriptors: who comes in good faith is served meanwhile.
#[test]
fn strangers_who_say_nothing_leave_room_for_others() {
    // A quarter of the descriptors is for handshakes.
    const DESCRIPTORS: usize = 256;
    const STRANGERS: usize = 400;
    let few = format!("--nofile={DESCRIPTORS}:{DESCRIPTORS}");
    let pair = Pair::with(Link::H2, App::start(), |alpha| alpha, |delta| delta.under(&["prlimit", &few]));
    let delta = pair.delta();
    let connect = |_| TcpStream::connect(delta.inbound()).expect("a place in the queue");
    let strangers: Vec<_> = (0..STRANGERS).map(connect).collect();
    let turned_away = [("link", "h2"), ("result", "limit_reached")];
    let beyond = (STRANGERS - DESCRIPTORS / 4) as f64;
    delta.metric_becomes("lacis_link_handshakes_total", &turned_away, |count| count >= beyond);
    assert_eq!(pair.get("/bytes/1").status(), 200);
    let mut first = &strangers[0];
    assert!(matches!(first.read(&mut [0]), Ok(0) | Err(_)), "the oldest made room");
    delta.counts(1.0, "lacis_link_handshakes_total", &[("result", "ok")]);
}
