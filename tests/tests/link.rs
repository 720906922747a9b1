//! The link itself: secret, shared, wide, and found again when UDP does not answer.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use bytes::Bytes;
use lacis_tests::client::{H2c, h2_get};
use lacis_tests::wire::{Data, Left};
use lacis_tests::{
    App, Link, Mesh, Pair, Process, Relay, Sidecar, app, block_on, client, on_links, runtime, until, unused,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// A pair with a wire between its sidecars that the test holds.
struct Wired {
    alpha: Sidecar,
    delta: Sidecar,
    relay: Relay,
    app: App,
    _mesh: Mesh,
}

impl Wired {
    fn new(link: Link, relay: impl FnOnce(SocketAddr) -> Relay) -> Wired {
        Wired::with_timeouts(link, relay, json!({}))
    }

    /// With these of `services.*.timeouts`.
    fn with_timeouts(link: Link, relay: impl FnOnce(SocketAddr) -> Relay, timeouts: Value) -> Wired {
        let mesh = Mesh::new();
        let app = App::start();
        let delta = mesh.sidecar("delta").application(&app).start();
        let relay = relay(delta.inbound());
        let timeouts = json!({"services": {"delta": {"timeouts": timeouts}}});
        let alpha = mesh.sidecar("alpha").calls("delta", relay.address(), link).with(timeouts).start();
        Wired { alpha, delta, relay, app, _mesh: mesh }
    }

    fn get(&self, path: &str) -> lacis_tests::wire::Response {
        client::get(self.alpha.outbound(), "delta", path)
    }

    /// Attempts to open a link of this kind that have ended.
    fn handshakes(&self, link: &str) -> f64 {
        self.alpha.metrics().sum("lacis_link_handshakes_total", &[("link", link)])
    }

    /// Requests that went over this kind of link, as alpha counts them when it has counted `all`.
    fn carried(&self, all: f64, link: &str) -> f64 {
        self.alpha.counts(all, "lacis_requests_total", &[("direction", "outbound")]);
        self.alpha.metrics().sum("lacis_requests_total", &[("direction", "outbound"), ("link", link)])
    }
}

/// A pair whose `delta` was killed while it had a request that is not sent again.
struct Killed {
    mesh: Mesh,
    app: App,
    listen: SocketAddr,
    alpha: Sidecar,
    delta: Sidecar,
    waiting: client::Client,
}

fn inbound(listen: SocketAddr) -> Value {
    json!({"inbound": {"listen": listen.to_string()}})
}

impl Killed {
    fn new(link: Link) -> Killed {
        let (mesh, app) = (Mesh::new(), App::named("one"));
        // A place that nobody else takes while it is away.
        let listen = unused();
        let delta = mesh.sidecar("delta").application(&app).with(inbound(listen)).start();
        let policy = json!({"timeouts": {"request": "20s"}, "retries": {"on": ["connect_failure", "reset"]}});
        let policy = json!({"services": {"delta": policy}});
        let alpha = mesh.sidecar("alpha").calls("delta", listen, link).with(policy).start();
        assert_eq!(client::get(alpha.outbound(), "delta", "/bytes/1").status(), 200);
        // POST: what is idempotent would be sent again.
        let mut waiting = client::Client::connect(alpha.outbound());
        waiting.send("POST /hold HTTP/1.1\r\nhost: delta\r\ncontent-length: 2\r\n\r\nhi");
        app.wait_held(1);
        delta.signal("KILL");
        delta.wait();
        Killed { mesh, app, listen, alpha, delta, waiting }
    }

    fn come_back(&mut self) {
        self.delta = self.mesh.sidecar("delta").application(&self.app).with(inbound(self.listen)).start();
    }

    fn get(&self) -> u16 {
        client::get(self.alpha.outbound(), "delta", "/bytes/1").status()
    }

    /// What was asked of it has come to nothing.
    fn ended(&mut self) {
        let answer = self.waiting.response("POST");
        assert_eq!((answer.status(), answer.proxy_error().as_deref()), (502, Some("connection_terminated")));
    }
}

on_links! {
    /// Nothing that the applications say can be read on the wire, nor can the name of a path.
    [H1, H2, H3] fn the_wire_shows_nothing(link) {
        let wired = Wired::new(link, Relay::new);
        let secret = "a-secret-that-is-nowhere-else-1f6e";
        let mut client = client::Client::connect(wired.alpha.outbound());
        let body = secret.repeat(100);
        let fields = [("x-secret", secret)];
        let path = format!("/mirror?{secret}");
        for _ in 0..20 {
            let answer = client.request("POST", "delta", &path, &fields, Some(body.as_bytes()));
            assert_eq!(answer.body, body.as_bytes());
        }
        let recorded = wired.relay.recorded();
        assert!(recorded.len() > body.len() * 20, "the relay saw only {} bytes", recorded.len());
        for word in [secret.as_bytes(), b"HTTP/1.1", b"/mirror", b"x-secret"] {
            assert!(!recorded.windows(word.len()).any(|w| w == word), "{:?} is in the clear", String::from_utf8_lossy(word));
        }
    }

    /// A link on which nothing arrives any more is found dead by its pings: what it carried is answered, not held for
    /// ever, and the next request opens another.
    [H2, H3] fn a_silent_link_is_found_dead_and_replaced(link) {
        let wired = Wired::with_timeouts(link, Relay::new, json!({"request": "10m", "idle": "10m"}));
        let mut held = client::Client::connect(wired.alpha.outbound());
        held.send("GET /hold HTTP/1.1\r\nhost: delta\r\n\r\n");
        wired.app.wait_held(1);
        wired.relay.silence();
        wired.relay.set_mute(true);
        let answer = held.response("GET");
        assert_eq!((answer.status(), answer.proxy_error().as_deref()), (502, Some("connection_terminated")));
        wired.relay.set_mute(false);
        assert_eq!(wired.get("/bytes/1").status(), 200);
        wired.alpha.counts(2.0, "lacis_link_handshakes_total", &[("link", link.name()), ("result", "ok")]);
    }

    /// A link that carried nothing for `timeouts.idle` is closed, at both ends, and opened again when it is needed.
    [H1, H2, H3] fn an_unused_link_is_closed(link) {
        let wired = Wired::with_timeouts(link, Relay::new, json!({"idle": "3s"}));
        for handshakes in [1.0, 2.0] {
            // On a busy machine a request may do nothing for as long.
            until("the link carries a request", || (wired.get("/bytes/1").status() == 200).then_some(()));
            wired.alpha.counts(handshakes, "lacis_link_handshakes_total", &[("link", link.name()), ("result", "ok")]);
            wired.delta.counts(handshakes, "lacis_connections_total", &[("direction", "inbound")]);
            wired.delta.counts(0.0, "lacis_connections_active", &[("direction", "inbound")]);
        }
    }

    /// 1 GiB each way at the same time, and neither sidecar holds more of it than a few buffers.
    [H2, H3] fn a_gibibyte_streams_in_constant_memory(link) {
        const GIB: u64 = 1 << 30;
        let pair = Pair::new(link);
        pair.get("/bytes/33554432");
        let mut client = pair.connect();
        let address = pair.alpha.outbound();
        let (growth, ()) = Process::growth(&[&pair.alpha, pair.delta()], || {
            let upload = std::thread::spawn(move || upload(address, GIB));
            client.send(format!("GET /bytes/{GIB} HTTP/1.1\r\nhost: delta\r\n\r\n"));
            let head = client.head();
            assert_eq!((head.status(), head.field("content-length")), (200, Some(GIB.to_string().as_str())));
            let mut left = Left::new(head.response_framing("GET").expect("a framing"));
            let mut received = 0;
            while let Data::Bytes(bytes) = client.data(&mut left).expect("the whole body") {
                assert!(app::is_pattern(received, &bytes), "wrong after {received} bytes");
                received += bytes.len() as u64;
            }
            assert_eq!(received, GIB);
            assert_eq!(upload.join().expect("the upload is content"), GIB.to_string());
        });
        assert!(growth.iter().all(|mib| *mib < 16), "{link:?}: grew by {growth:?} MiB");
    }

    /// Ten thousand requests are under way at the same time, and share one link. They come in waves: a peer allows more
    /// streams as more of them are used, and a burst beyond that would rightly open another link.
    [H2, H3] fn ten_thousand_requests_share_one_link(link) {
        const WAVES: [usize; 6] = [500, 500, 1000, 2000, 4000, 2000];
        const STREAMS: usize = 100;
        let patient = json!({"services": {"delta": {"timeouts": {"request": "120s"}}}});
        let pair = Pair::with(link, App::h2c(), |alpha| alpha.with(patient), |delta| delta);
        let mut tasks = JoinSet::new();
        let mut begun = 0;
        for wave in WAVES {
            for _ in 0..wave / STREAMS {
                tasks.spawn_on(hold(pair.alpha.outbound(), STREAMS), runtime().handle());
            }
            begun += wave;
            pair.app.wait_held(begun as u64);
            // What the peer allows now is on its way before this answer.
            assert_eq!(pair.get("/bytes/1").status(), 200);
        }
        assert_eq!((begun, pair.app.held()), (10_000, 10_000));
        assert_eq!(pair.alpha.metrics().sum("lacis_link_handshakes_total", &[]), 1.0, "one link carries them all");
        pair.app.release();
        block_on(async { while tasks.join_next().await.transpose().expect("no panic").is_some() {} });
    }

    /// A peer whose process was killed says that its links are gone, by itself when it is back or else by its kernel, and does not
    /// leave those who use them to their timeouts, which here are shorter than that of a silent link: these would answer 504.
    [H2, H3] fn a_killed_peer_that_is_back_disowns_its_links(link) {
        let mut killed = Killed::new(link);
        killed.come_back();
        assert_eq!(killed.get(), 200);
        killed.ended();
    }

    /// The same if it came back with another key, and so with other secrets: nobody rotates a certificate for those who die.
    [H2, H3] fn one_that_is_back_with_another_key_disowns_them_too(link) {
        let mut killed = Killed::new(link);
        killed.mesh.issue("delta");
        killed.come_back();
        killed.ended();
        assert_eq!(killed.get(), 200);
    }

    /// The same if it stays away.
    [H2, H3] fn the_links_of_a_peer_that_stays_away_are_given_up(link) {
        let mut killed = Killed::new(link);
        killed.ended();
        assert_eq!(killed.get(), 503, "the connection is refused");
        let refused = [("link", link.name()), ("result", "connection_refused")];
        killed.alpha.metric_becomes("lacis_link_handshakes_total", &refused, |refused| refused >= 1.0);
    }

    /// A link that breaks costs what was on it; the next request makes a new one.
    [H1, H2] fn a_broken_link_is_replaced(link) {
        let wired = Wired::new(link, Relay::new);
        assert_eq!(wired.get("/bytes/1").status(), 200);
        let mut waiting = client::Client::connect(wired.alpha.outbound());
        // POST: what is idempotent may be sent again (RFC 9110 section 9.2.2).
        waiting.send("POST /hold HTTP/1.1\r\nhost: delta\r\ncontent-length: 2\r\n\r\nhi");
        wired.app.wait_held(1);
        wired.relay.cut();
        let answer = waiting.response("POST");
        assert_eq!((answer.status(), answer.proxy_error().as_deref()), (502, Some("connection_terminated")));
        assert_eq!(wired.get("/bytes/1").status(), 200);
    }
}

/// Sends this much of the pattern to `/drain` and gives its answer: how much came.
fn upload(address: SocketAddr, length: u64) -> String {
    let mut stream = TcpStream::connect(address).expect("a connection");
    let head = format!("POST /drain HTTP/1.1\r\nhost: delta\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("a head");
    let piece = app::pattern(0, 64 * 1024);
    for _ in 0..length / piece.len() as u64 {
        stream.write_all(&piece).expect("a body");
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer.rsplit("\r\n").next().unwrap_or_default().to_owned()
}

/// Has a connection's worth of requests held, and answered in the end.
async fn hold(address: SocketAddr, streams: usize) {
    let h2 = H2c::open(address).await.expect("h2c");
    let mut requests = JoinSet::new();
    for _ in 0..streams {
        let h2 = h2.clone();
        requests.spawn(async move { h2.request(h2_get("delta", "/hold"), Bytes::new(), None).await });
    }
    while let Some(done) = requests.join_next().await {
        let answer = done.expect("no panic").expect("an answer");
        assert_eq!((answer.status, &answer.body[..]), (200, &b"held"[..]));
    }
}

/// Where UDP answers, `auto` is HTTP/3. A machine that is too busy to shake hands within the bound is allowed to miss it:
/// what counts is that it works.
#[test]
fn auto_is_h3_where_udp_answers() {
    until("a fresh pair speaks h3", || {
        let wired = Wired::new(Link::Auto, Relay::new);
        for _ in 0..5 {
            assert_eq!(wired.get("/bytes/1").status(), 200);
        }
        ((wired.carried(5.0, "h3"), wired.relay.connections()) == (5.0, 0)).then_some(())
    });
}

/// Where UDP is dropped, the first request does not wait until HTTP/3 is given up, and later ones do not wait at all.
#[test]
fn auto_falls_back_when_udp_is_dropped() {
    let wired = Wired::new(Link::Auto, Relay::mute_udp);
    assert_eq!(wired.get("/bytes/1").status(), 200);
    assert!(wired.relay.datagrams() > 0, "h3 was tried");
    assert_eq!(wired.handshakes("h3"), 0.0, "and still is");
    for _ in 0..20 {
        assert_eq!(wired.get("/bytes/1").status(), 200);
    }
    // The attempt of h3 goes on behind the requests, and ends as the only one: nobody waits for another.
    wired.alpha.counts(1.0, "lacis_link_handshakes_total", &[("link", "h3")]);
    wired.alpha.counts(1.0, "lacis_link_handshakes_total", &[("link", "h2"), ("result", "ok")]);
    assert_eq!((wired.carried(21.0, "h2"), wired.carried(21.0, "h3")), (21.0, 0.0));
}

/// `auto` begins with HTTP/3 and, where nothing is lost, settles on HTTP/2, which is cheaper: metrics and `/clusters` say so and why. A
/// few requests still try the other one. When UDP falls silent, that is noticed, and costs none of those that come then.
#[test]
fn auto_settles_on_what_is_cheaper_and_notices_silence() {
    let wired = Wired::new(Link::Auto, Relay::new);
    let load = client::load(wired.alpha.outbound(), "delta", "/bytes/1", 32);
    let chosen = |link, cause| [("destination", "delta"), ("link", link), ("cause", cause)];
    wired
        .alpha
        .metric_becomes("lacis_link_choices_total", &[("link", "h2"), ("cause", "cpu")], |choices| choices >= 1.0);
    let carried =
        |link| wired.alpha.metrics().sum("lacis_requests_total", &[("direction", "outbound"), ("link", link)]);
    let before = carried("h2");
    until("HTTP/2 carries requests", || (carried("h2") > before + 100.0).then_some(()));
    assert!(carried("h3") > 64.0, "it was measured first");
    let clusters: Value = serde_json::from_str(&wired.alpha.admin_get("/clusters").text()).expect("JSON");
    let auto = &clusters["workers"][0]["clusters"]["delta"]["endpoints"][0]["auto"];
    assert!(auto["h3"]["answers"].as_u64() > Some(0) && auto["request_bytes"].as_u64() > Some(0), "{auto}");
    wired.relay.set_mute(true);
    wired.alpha.metric_becomes("lacis_link_chosen", &chosen("h2", "silent"), |endpoints| endpoints == 1.0);
    // But for those that tried it just then, and were not answered.
    let h3 = carried("h3");
    load.wait_more(1000);
    assert!(carried("h3") - h3 <= 8.0, "nothing goes over UDP any more");
}

/// Where the machine says that nobody has the UDP port, the fall back is immediate.
#[test]
fn auto_falls_back_at_once_when_udp_is_refused() {
    let wired = Wired::new(Link::Auto, Relay::without_udp);
    for _ in 0..3 {
        assert_eq!(wired.get("/bytes/1").status(), 200);
    }
    assert_eq!(wired.carried(3.0, "h2"), 3.0);
}

/// A burst on a cold `auto` link whose UDP is dropped: nobody is lost, nobody waits longer than the first.
#[test]
fn a_burst_falls_back_together() {
    let wired = Wired::new(Link::Auto, Relay::mute_udp);
    let mut clients: Vec<_> = (0..50).map(|_| client::Client::connect(wired.alpha.outbound())).collect();
    clients.iter_mut().for_each(|client| client.send("GET /bytes/1 HTTP/1.1\r\nhost: delta\r\n\r\n"));
    assert!(clients.iter_mut().all(|client| client.response("GET").status() == 200));
    assert_eq!(wired.handshakes("h3"), 0.0, "it is still tried");
}

/// Two endpoints share the requests, and one that refuses connections costs nobody a request.
#[test]
fn requests_go_around_an_endpoint_that_is_gone() {
    let mesh = Mesh::new();
    let (one, two) = (App::named("one"), App::named("two"));
    let first = mesh.sidecar("delta").application(&one).start();
    let second = mesh.sidecar("delta").application(&two).start();
    let endpoints = [first.inbound(), second.inbound()];
    let turns = json!({"services": {"delta": {"balance": "round_robin"}}});
    let alpha = mesh.sidecar("alpha").calls_all("delta", &endpoints, Link::H2).with(turns).start();
    for _ in 0..20 {
        assert_eq!(client::get(alpha.outbound(), "delta", "/bytes/1").status(), 200);
    }
    assert_eq!((one.requests(), two.requests()), (10, 10));
    second.signal("KILL");
    second.wait();
    for _ in 0..20 {
        let answer = client::get(alpha.outbound(), "delta", "/bytes/1");
        assert_eq!((answer.status(), answer.field("x-app")), (200, Some("one")));
    }
}
