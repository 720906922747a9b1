//! Opaque TCP: a connection to a service's own port is a connection to the service, whatever carries it in between.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use bytes::Bytes;
use lacis_tests::client::{self, H2c};
use lacis_tests::{
    Link, Mesh, PATIENCE, Pair, Process, Sidecar, SidecarBuilder, TRUST_DOMAIN, app, block_on, guest, on_links, until,
    unused,
};
use serde_json::json;

/// A TCP server of the test: every connection in a thread of its own.
struct Server {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
}

impl Server {
    fn start(handle: impl Fn(TcpStream) + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let (accepted, handle) = (Arc::new(AtomicUsize::new(0)), Arc::new(handle));
        let count = accepted.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::SeqCst);
                stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
                let handle = handle.clone();
                thread::spawn(move || handle(stream));
            }
        });
        Server { address, accepted }
    }

    /// Sends back what comes, and its end.
    fn echo() -> Server {
        Server::start(|mut stream| echo(&mut stream))
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

fn echo(stream: &mut TcpStream) {
    let mut piece = vec![0; 64 * 1024];
    while let Ok(n @ 1..) = stream.read(&mut piece) {
        if stream.write_all(&piece[..n]).is_err() {
            return;
        }
    }
}

/// alpha with the opaque service delta, and the sidecar before it unless the link is plaintext.
struct Mirror {
    alpha: Sidecar,
    delta: Option<Sidecar>,
    _mesh: Mesh,
}

impl Mirror {
    fn new(link: Link, application: SocketAddr) -> Mirror {
        Mirror::with(link, application, |alpha| alpha, |delta| delta)
    }

    fn with(
        link: Link,
        application: SocketAddr,
        alpha: impl FnOnce(SidecarBuilder) -> SidecarBuilder,
        delta: impl FnOnce(SidecarBuilder) -> SidecarBuilder,
    ) -> Mirror {
        let mesh = Mesh::new();
        let tcp = json!({"inbound": {"protocol": "tcp"}});
        let delta = (link != Link::Plaintext)
            .then(|| delta(mesh.sidecar("delta").application_at(application).with(tcp)).start());
        let endpoint = delta.as_ref().map_or(application, Sidecar::inbound);
        let alpha = alpha(mesh.sidecar("alpha").calls("delta", endpoint, link).with(own_port())).start();
        Mirror { alpha, delta, _mesh: mesh }
    }

    /// A connection to delta's port at alpha.
    fn connect(&self) -> TcpStream {
        connect(&self.alpha)
    }

    /// The sidecars that there are.
    fn sides(&self) -> impl Iterator<Item = &Sidecar> {
        std::iter::once(&self.alpha).chain(&self.delta)
    }

    /// Where it is decided whether delta's application may be called.
    fn last(&self) -> &Sidecar {
        self.delta.as_ref().unwrap_or(&self.alpha)
    }
}

fn own_port() -> serde_json::Value {
    json!({"services": {"delta": {"listen": "127.0.0.1:0", "protocol": "tcp"}}})
}

fn connect(alpha: &Sidecar) -> TcpStream {
    let stream = TcpStream::connect(alpha.service("delta")).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream
}

fn exactly(stream: &mut TcpStream, wanted: &[u8]) {
    let mut read = vec![0; wanted.len()];
    stream.read_exact(&mut read).expect("bytes");
    assert_eq!(String::from_utf8_lossy(&read), String::from_utf8_lossy(wanted));
}

/// Waits until the connection is reset, and says how many bytes came before.
fn reset(stream: &mut TcpStream) -> usize {
    let mut all = Vec::new();
    let error = stream.read_to_end(&mut all).expect_err("a reset, not an end");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    all.len()
}

/// Says something, and then nothing until the tunnel is reset; the sidecar whose bound that was has counted it.
fn ends_in_silence(mirror: &Mirror, bound: &Sidecar) {
    // On a busy machine it may be silent before anything has crossed.
    until("a tunnel is silent that was not", || {
        let mut stream = mirror.connect();
        stream.write_all(b"hello").ok()?;
        stream.read_exact(&mut [0; 5]).ok()?;
        assert_eq!(reset(&mut stream), 0);
        Some(())
    });
    let ended = [("reason", "stream_idle_timeout"), ("protocol", "tcp")];
    bound.metric_becomes("lacis_requests_total", &ended, |count| count >= 1.0);
}

/// Has the connection reset when it is dropped.
fn resetting(stream: TcpStream) {
    stream.set_nonblocking(true).expect("a socket");
    block_on(async { tokio::net::TcpStream::from_std(stream).expect("a socket").set_zero_linger().expect("a socket") });
}

on_links! {
    /// A change leaves connections alone that are open: each goes on, and ends, with the configuration that it began with.
    [H2, H3] fn open_connections_outlive_a_change(link) {
        let server = Server::echo();
        let mut mirror = Mirror::new(link, server.address);
        let mut old = mirror.connect();
        old.write_all(b"upper\n").expect("taken");
        exactly(&mut old, b"upper\n");
        mirror.alpha.reload(json!({"services": {"delta": {"timeouts": {"request": "20s"}}}}));
        let filter = json!({"filters": {"tap": guest("tcp")}, "inbound": {"filters": ["tap"]}});
        mirror.delta.as_mut().expect("a sidecar").reload(filter);
        let mut new = mirror.connect();
        for _ in 0..2 {
            for (stream, wanted) in [(&mut old, "upper\n"), (&mut new, "UPPER!\n")] {
                stream.write_all(b"upper\n").expect("taken");
                exactly(stream, wanted.as_bytes());
            }
        }
        let before = |side: &Sidecar| -> serde_json::Value {
            let page: serde_json::Value = serde_json::from_str(&side.admin_get("/generations").text()).expect("JSON");
            page["generations"][1].clone()
        };
        for side in mirror.sides() {
            assert_eq!((&before(side)["state"], &before(side)["in_flight"]), (&json!("draining"), &json!(1)));
        }
        old.shutdown(Shutdown::Write).expect("a half-close");
        assert_eq!(old.read(&mut [0]).expect("an end"), 0);
        for side in mirror.sides() {
            until("the generation before has ended", || (before(side)["state"] == "ended").then_some(()));
        }
        new.write_all(b"upper\n").expect("taken");
        exactly(&mut new, b"UPPER!\n");
        assert_eq!(server.accepted(), 2);
    }

    /// Whatever the bytes say, HTTP too; counted as one CONNECT, on both sides.
    [H2, H3, Auto, Plaintext] fn bytes_cross_both_ways(link) {
        let server = Server::echo();
        let mirror = Mirror::new(link, server.address);
        let mut stream = mirror.connect();
        let said: [&[u8]; 3] = [b"hello", b"GET / HTTP/1.1\r\nhost: delta\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\xff"];
        for message in said {
            stream.write_all(message).expect("taken");
            exactly(&mut stream, message);
        }
        for side in mirror.sides() {
            side.counts(1.0, "lacis_requests_active", &[]);
        }
        stream.shutdown(Shutdown::Write).expect("a half-close");
        exactly(&mut stream, b"");
        assert_eq!(stream.read(&mut [0]).expect("an end"), 0);
        let length: usize = said.iter().map(|message| message.len()).sum();
        // On a machine that has no time for us `auto` may have given up waiting for QUIC.
        let carried = match link {
            Link::Auto => mirror.alpha.access("of the tunnel", |record| record["method"] == "CONNECT")["link"].clone(),
            link => json!(link.name()),
        };
        let carried = carried.as_str().expect("a link");
        assert!(link != Link::Auto || ["h2", "h3"].contains(&carried), "{carried}");
        for side in mirror.sides() {
            let labels = [("protocol", "tcp"), ("method", "CONNECT"), ("status", "200"), ("reason", "none"),
                ("link", carried), ("source", "alpha"), ("destination", "delta")];
            side.counts(1.0, "lacis_requests_total", &labels);
            side.counts(0.0, "lacis_requests_active", &[]);
            side.counts(length as f64, "lacis_request_bytes_total", &[]);
            side.counts(length as f64, "lacis_response_bytes_total", &[]);
            let record = side.access("of the tunnel", |record| record["method"] == "CONNECT");
            assert_eq!((&record["response_code"], &record["reason"]), (&json!(200), &json!("none")), "{record}");
            assert_eq!(record["bytes_received"], json!(length), "{record}");
        }
        let connections = [("direction", "outbound"), ("protocol", "tcp")];
        mirror.alpha.counts(1.0, "lacis_connections_total", &connections);
        mirror.alpha.counts(0.0, "lacis_connections_active", &connections);
        let record = mirror.alpha.access("of the tunnel", |record| record["method"] == "CONNECT");
        assert_eq!(record["authority"], json!(format!("delta:{}", mirror.alpha.service("delta").port())));
        assert_eq!(server.accepted(), 1);
    }

    /// The caller's end is not the server's, and the other way round.
    [H2, H3, Plaintext] fn each_direction_has_its_own_end(link) {
        let (tell, told) = mpsc::channel();
        let tell = Mutex::new(tell);
        let server = Server::start(move |mut stream| {
            let mut first = [0];
            stream.read_exact(&mut first).expect("a byte");
            let mut rest = Vec::new();
            if first == *b"a" {
                stream.read_to_end(&mut rest).expect("the caller's end");
                stream.write_all(format!("{} came", rest.len()).as_bytes()).expect("taken");
            } else {
                stream.write_all(b"no more from here").expect("taken");
                stream.shutdown(Shutdown::Write).expect("a half-close");
                stream.read_to_end(&mut rest).expect("the caller's end");
                tell.lock().expect("nobody panics").send(rest).expect("somebody listens");
            }
        });
        let mirror = Mirror::new(link, server.address);
        let mut stream = mirror.connect();
        stream.write_all(b"a and more").expect("taken");
        stream.shutdown(Shutdown::Write).expect("a half-close");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an end");
        assert_eq!(answer, "9 came");

        let mut stream = mirror.connect();
        stream.write_all(b"b").expect("taken");
        answer.clear();
        stream.read_to_string(&mut answer).expect("an end");
        assert_eq!(answer, "no more from here");
        let pattern = app::pattern(0, 3_000_000);
        stream.write_all(&pattern).expect("still taken");
        stream.shutdown(Shutdown::Write).expect("a half-close");
        assert!(told.recv_timeout(PATIENCE).expect("all of it") == pattern);
        for side in mirror.sides() {
            side.counts(2.0, "lacis_requests_total", &[("reason", "none"), ("protocol", "tcp")]);
            side.counts(pattern.len() as f64 + 11.0, "lacis_request_bytes_total", &[]);
        }
    }

    /// Nobody waits for the caller's first word.
    [H2, H3, Auto, Plaintext] fn a_server_may_speak_first(link) {
        let server = Server::start(|mut stream| {
            stream.write_all(b"220 ready\r\n").expect("taken");
            echo(&mut stream);
        });
        let mirror = Mirror::new(link, server.address);
        let mut stream = mirror.connect();
        exactly(&mut stream, b"220 ready\r\n");
        stream.write_all(b"EHLO").expect("taken");
        exactly(&mut stream, b"EHLO");
    }

    /// Much, both ways at once; and neither a caller nor a server that does not read costs memory.
    [H2, H3, Plaintext] fn nothing_grows(link) {
        const LENGTH: usize = 64 << 20;
        /// Windows and socket buffers, as for HTTP (`stream.rs`), and the buffers of the other connections.
        const HELD_MIB: u64 = 16;
        let (release, released) = mpsc::channel::<()>();
        let released = Mutex::new(released);
        let server = Server::start(move |mut stream| {
            let mut mode = [0];
            stream.read_exact(&mut mode).expect("a byte");
            match mode[0] {
                b'p' => stream.write_all(&app::pattern(0, LENGTH)).expect("taken, in the end"),
                b's' => {
                    released.lock().expect("nobody panics").recv().expect("released");
                    let mut all = Vec::new();
                    stream.read_to_end(&mut all).expect("the caller's end");
                    assert!(all.len() == LENGTH && app::is_pattern(0, &all));
                    stream.write_all(b"all").expect("taken");
                }
                _ => echo(&mut stream),
            }
        });
        let mirror = Mirror::new(link, server.address);
        let open = |mode: &[u8]| {
            let mut stream = mirror.connect();
            stream.write_all(mode).expect("taken");
            stream
        };
        let whole = |stream: &mut TcpStream| {
            let (mut piece, mut at) = (vec![0; 64 * 1024], 0);
            while at < LENGTH {
                let n = stream.read(&mut piece).expect("bytes");
                assert!(n > 0 && app::is_pattern(at as u64, &piece[..n]), "at {at}");
                at += n;
            }
        };
        let send = |stream: &TcpStream| {
            let mut stream = stream.try_clone().expect("a socket");
            thread::spawn(move || {
                stream.write_all(&app::pattern(0, LENGTH)).expect("taken, in the end");
                stream.shutdown(Shutdown::Write).expect("a half-close");
            })
        };
        let others = || {
            for _ in 0..50 {
                let mut other = open(b"e");
                let pattern = app::pattern(0, 100_000);
                other.write_all(&pattern).expect("taken");
                let mut read = vec![0; pattern.len()];
                other.read_exact(&mut read).expect("the echo");
                assert!(read == pattern);
            }
        };
        others();
        let processes: Vec<&Process> = mirror.sides().map(|side| &**side).collect();
        let (growth, (mut deaf, mut stalled, sender)) = Process::growth(&processes, || {
            let mut stream = open(b"e");
            let sender = send(&stream);
            whole(&mut stream);
            sender.join().expect("sent");
            assert_eq!(stream.read(&mut [0]).expect("an end"), 0);
            let (deaf, stalled) = (open(b"p"), open(b"s"));
            let sender = send(&stalled);
            others();
            (deaf, stalled, sender)
        });
        assert!(growth.iter().all(|mib| *mib < HELD_MIB), "{growth:?} MiB");
        // And both go on.
        whole(&mut deaf);
        release.send(()).expect("the server waits");
        sender.join().expect("sent");
        exactly(&mut stalled, b"all");
    }

    /// Nobody listens there: the caller sees a reset, and the records say why.
    [H2, H3, Plaintext] fn a_refused_application_is_a_reset(link) {
        let closed = unused();
        let mirror = Mirror::new(link, closed);
        assert_eq!(reset(&mut mirror.connect()), 0);
        for side in mirror.sides() {
            side.counts(1.0, "lacis_requests_total", &[("status", "503"), ("protocol", "tcp"), ("method", "CONNECT")]);
        }
        let labels = [("status", "503"), ("protocol", "tcp"), ("reason", "connection_refused")];
        mirror.last().counts(1.0, "lacis_requests_total", &labels);
        mirror.last().access("of the refusal", |record| record["reason"] == "connection_refused");
        mirror.alpha.counts(0.0, "lacis_requests_total", &[("reason", "downstream_aborted")]);
    }

    /// Who breaks off is not taken for one who has ended.
    [H2, H3, Plaintext] fn a_reset_crosses(link) {
        let (tell, told) = mpsc::channel();
        let tell = Mutex::new(tell);
        let server = Server::start(move |mut stream| {
            let mut first = [0];
            stream.read_exact(&mut first).expect("a byte");
            stream.write_all(b"yes").expect("taken");
            if first == *b"c" {
                let kind = stream.read_to_end(&mut Vec::new()).map_err(|error| error.kind());
                tell.lock().expect("nobody panics").send(kind).expect("somebody listens");
            } else {
                // Only when the caller has it: a reset takes with it what is on its way.
                stream.read_exact(&mut first).expect("a byte");
                resetting(stream);
            }
        });
        let mirror = Mirror::new(link, server.address);
        let mut stream = mirror.connect();
        stream.write_all(b"c").expect("taken");
        exactly(&mut stream, b"yes");
        resetting(stream);
        assert_eq!(told.recv_timeout(PATIENCE).expect("an end"), Err(ErrorKind::ConnectionReset));

        let mut stream = mirror.connect();
        stream.write_all(b"s").expect("taken");
        exactly(&mut stream, b"yes");
        stream.write_all(b"!").expect("taken");
        assert_eq!(reset(&mut stream), 0);
        for side in mirror.sides() {
            side.counts(2.0, "lacis_requests_total", &[("status", "200")]);
            side.counts(0.0, "lacis_requests_total", &[("reason", "none")]);
        }
    }

    /// `inbound.allow` holds for bytes as for requests.
    [H2, H3] fn only_those_who_are_named_may_call(link) {
        let server = Server::echo();
        let allow = json!({"inbound": {"allow": [{"identity": format!("spiffe://{TRUST_DOMAIN}/ns/default/sa/gamma")}]}});
        let mirror = Mirror::with(link, server.address, |alpha| alpha, |delta| delta.with(allow));
        assert_eq!(reset(&mut mirror.connect()), 0);
        mirror.last().counts(1.0, "lacis_requests_total", &[("reason", "http_request_denied"), ("status", "403")]);
        mirror.last().access("of the refusal", |record| record["reason"] == "http_request_denied");
        mirror.alpha.counts(1.0, "lacis_requests_total", &[("status", "403"), ("reason", "none")]);
        assert_eq!(server.accepted(), 0);
    }

    /// Bytes never reach an application that speaks HTTP: its filters have not seen them. Nor HTTP one that does not.
    [H2, H3] fn http_and_opaque_ends_do_not_meet(link) {
        let pair = Pair::new(link);
        let alpha = pair.mesh.sidecar("alpha").calls("delta", pair.delta().inbound(), link).with(own_port()).start();
        let mut stream = connect(&alpha);
        let _ = stream.write_all(b"GET /echo HTTP/1.1\r\nhost: delta\r\n\r\n");
        assert_eq!(reset(&mut stream), 0);
        let refused = [("reason", "unsupported_request"), ("status", "501"), ("method", "CONNECT")];
        pair.delta().counts(1.0, "lacis_requests_total", &refused);
        assert_eq!((pair.app.requests(), pair.get("/bytes/1").status()), (0, 200), "the link goes on");

        let server = Server::echo();
        let mirror = Mirror::new(link, server.address);
        let alpha = pair.mesh.sidecar("alpha").calls("delta", mirror.last().inbound(), link).start();
        assert_eq!(client::get(alpha.outbound(), "delta", "/").status(), 501);
        mirror.last().counts(1.0, "lacis_requests_total", &[("reason", "unsupported_request"), ("status", "501")]);
        assert_eq!(server.accepted(), 0);
    }

    /// Silence is bounded by `timeouts.idle`.
    [H2, H3] fn silence_ends_a_tunnel(link) {
        let server = Server::echo();
        let idle = json!({"services": {"delta": {"timeouts": {"idle": "1s"}}}});
        let mirror = Mirror::with(link, server.address, |alpha| alpha.with(idle), |delta| delta);
        ends_in_silence(&mirror, &mirror.alpha);
    }

    /// The sidecar before the application has a bound of its own, `inbound.timeouts.idle`.
    [H2, H3] fn silence_before_the_application_ends_a_tunnel(link) {
        let server = Server::echo();
        let idle = json!({"inbound": {"timeouts": {"idle": "1s"}}});
        let mirror = Mirror::with(link, server.address, |alpha| alpha, |delta| delta.with(idle));
        ends_in_silence(&mirror, mirror.last());
    }

    /// A sidecar that is told to end lets tunnels end, too.
    [H2, H3] fn drain_waits_for_tunnels(link) {
        let server = Server::echo();
        let mirror = Mirror::new(link, server.address);
        let mut stream = mirror.connect();
        stream.write_all(b"hello").expect("taken");
        exactly(&mut stream, b"hello");
        for side in mirror.sides() {
            side.signal("TERM");
            side.log("that it drains", |line| line["message"].as_str().is_some_and(|message| message.contains("drain")));
        }
        stream.write_all(b"still here").expect("taken");
        exactly(&mut stream, b"still here");
        stream.shutdown(Shutdown::Write).expect("a half-close");
        assert_eq!(stream.read(&mut [0]).expect("an end"), 0);
        for side in mirror.sides() {
            assert!(side.wait().success());
        }
    }
}

/// What an HTTP client asks for passes filters; what they cannot see is refused.
#[test]
fn an_http_client_opens_no_tunnel() {
    let (pair, server) = (Pair::new(Link::H2), Server::echo());
    let tcp = json!({"services": {"raw": {"listen": "127.0.0.1:0", "protocol": "tcp"}}});
    let alpha = pair.mesh.sidecar("alpha").calls("delta", pair.delta().inbound(), Link::H2);
    let http_port = json!({"services": {"delta": {"listen": "127.0.0.1:0"}}});
    let alpha = alpha.calls("raw", server.address, Link::Plaintext).with(tcp).with(http_port).start();
    for address in [alpha.outbound(), alpha.service("delta")] {
        for target in ["delta:80", "raw:80"] {
            let mut client = client::Client::connect(address);
            client.send(format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n"));
            assert_eq!(client.response("CONNECT").status(), 501, "{target}");
            let request = http::Request::connect(target).body(()).expect("a request");
            let answer =
                block_on(async { H2c::open(address).await.expect("h2c").request(request, Bytes::new(), None).await });
            assert_eq!(answer.expect("an answer").status, 501, "{target}");
        }
    }
    assert_eq!(client::get(alpha.outbound(), "raw", "/").status(), 404, "an opaque service has no host");
    assert_eq!((pair.app.requests(), server.accepted()), (0, 0));
    alpha.counts(8.0, "lacis_requests_total", &[("reason", "unsupported_request")]);
}
