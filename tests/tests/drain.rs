//! The end of a sidecar: nothing that was begun is lost, and nothing outlives it.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::Duration;

use lacis_tests::{App, Link, Mesh, Pair, client, on_links};
use serde_json::json;

on_links! {
    /// SIGTERM before the application, under load: every request is answered, by this sidecar or by its sibling.
    [H1, H2, H3] fn the_inbound_side_leaves_without_a_loss(link) {
        let mesh = Mesh::new();
        let (one, two) = (App::named("one"), App::named("two"));
        let leaving = mesh.sidecar("delta").application(&one).start();
        let staying = mesh.sidecar("delta").application(&two).start();
        let endpoints = [leaving.inbound(), staying.inbound()];
        let alpha = mesh.sidecar("alpha").calls_all("delta", &endpoints, link).start();
        let load = client::load(alpha.outbound(), "delta", "/bytes/1000", 16);
        one.wait_requests(100);
        leaving.signal("TERM");
        assert!(leaving.wait().success());
        load.wait_more(200);
        let load = load.stop();
        assert_eq!(load.failed(), 0, "{load:?}");
        assert!(two.requests() > 0);
    }

    /// SIGTERM beside the calling application, under load: what was taken is answered.
    [H1, H2, H3] fn the_outbound_side_leaves_without_a_loss(link) {
        let pair = Pair::new(link);
        let load = client::load(pair.alpha.outbound(), "delta", "/bytes/1000", 16);
        load.wait_more(200);
        pair.alpha.signal("TERM");
        assert!(pair.alpha.wait().success());
        let load = load.join();
        assert_eq!(load.failed(), 0, "{load:?}");
        assert_eq!(load.refused, 16, "the port is closed in the end");
    }

    /// A request that was begun before SIGTERM is finished after it, on both sides.
    [H1, H2, H3] fn what_was_begun_is_finished(link) {
        let pair = Pair::new(link);
        let mut held = pair.connect();
        held.send("GET /hold HTTP/1.1\r\nhost: delta\r\n\r\n");
        let mut dripping = pair.connect();
        dripping.send("GET /drip HTTP/1.1\r\nhost: delta\r\n\r\n");
        let head = dripping.head();
        pair.app.wait_held(2);
        pair.delta().signal("TERM");
        pair.delta().log("drain begins", |line| line.to_string().contains("drain"));
        pair.alpha.signal("TERM");
        pair.alpha.log("drain begins", |line| line.to_string().contains("drain"));
        assert!(pair.alpha.ended().is_none() && pair.delta().ended().is_none());
        pair.app.release();
        assert_eq!(held.response("GET").text(), "held");
        assert_eq!(&dripping.body(head.response_framing("GET").expect("a framing"))[..], b"firstsecond");
        assert!(pair.alpha.wait().success() && pair.delta().wait().success());
    }
}

/// While it drains, `/ready` says so.
#[test]
fn a_draining_sidecar_is_not_ready() {
    let pair = Pair::new(Link::H2);
    let mut held = pair.connect();
    held.send("GET /hold HTTP/1.1\r\nhost: delta\r\n\r\n");
    pair.app.wait_held(1);
    pair.delta().signal("TERM");
    let answer = lacis_tests::until("/ready is refused", || {
        let answer = pair.delta().admin_get("/ready");
        (answer.status() == 503).then_some(answer)
    });
    assert!(answer.text().contains("drain"), "{}", answer.text());
    assert_eq!(pair.delta().admin_get("/live").status(), 200);
    pair.app.release();
    assert_eq!(held.response("GET").status(), 200);
    assert!(pair.delta().wait().success());
}

/// Who is told to leave and comes again at once is refused. Silence would cost a second, until it is asked again.
#[test]
fn who_is_told_to_leave_finds_the_port_closed() {
    let pair = Pair::new(Link::H2);
    let mut rests = pair.connect();
    assert_eq!(rests.get("delta", "/bytes/1").status(), 200);
    pair.alpha.signal("TERM");
    assert!(rests.rest().is_empty());
    let again = TcpStream::connect_timeout(&pair.alpha.outbound(), Duration::from_millis(900));
    assert_eq!(again.expect_err("nobody listens").kind(), ErrorKind::ConnectionRefused);
}

/// A second SIGTERM means now, and the account of what it cut says so.
#[test]
fn a_second_sigterm_ends_at_once() {
    let pair = Pair::new(Link::H2);
    let mut held = pair.connect();
    held.send("GET /hold HTTP/1.1\r\nhost: delta\r\n\r\n");
    pair.app.wait_held(1);
    pair.alpha.signal("TERM");
    lacis_tests::until("/ready is refused", || (pair.alpha.admin_get("/ready").status() == 503).then_some(()));
    assert!(pair.alpha.ended().is_none(), "the first one waits for the request");
    pair.alpha.signal("TERM");
    pair.alpha.wait();
    assert!(held.try_response("GET").is_err());
    pair.alpha.access("of what was cut", |record| record["path"] == "/hold" && record["reason"] == "draining");
}

/// An idle sidecar with open connections ends as soon as it is asked to.
#[test]
fn idle_connections_do_not_hold_it_up() {
    let pair = Pair::new(Link::H3);
    let mut client = pair.connect();
    assert_eq!(client.get("delta", "/bytes/1").status(), 200);
    for side in [&pair.alpha, pair.delta()] {
        side.signal("TERM");
        assert!(side.wait().success());
        let cut = side.err.to_end().into_iter().find(|line| line.contains("the deadline for draining has passed"));
        assert_eq!(cut, None, "it ended by itself");
    }
    assert!(client.is_closed());
}

/// The admin port can do it too.
#[test]
fn quit_ends_it() {
    let pair = Pair::new(Link::H2);
    let answer = client::request(pair.delta().admin(), "POST", "localhost", "/quit", &[], Some(b""));
    assert!(answer.status() < 300, "{}", answer.status());
    assert!(pair.delta().wait().success());
}

/// Whoever dials a draining sidecar's replacement finds it: both share nothing but the service's name.
#[test]
fn a_replacement_takes_over() {
    let mesh = Mesh::new();
    let app = App::start();
    let old = mesh.sidecar("delta").application(&app).start();
    let new = mesh.sidecar("delta").application(&app).start();
    let services = json!({"services": {"delta": {"balance": "round_robin"}}});
    let endpoints = [old.inbound(), new.inbound()];
    let alpha = mesh.sidecar("alpha").calls_all("delta", &endpoints, Link::Auto).with(services).start();
    let load = client::load(alpha.outbound(), "delta", "/bytes/10", 4);
    load.wait_more(50);
    old.signal("TERM");
    assert!(old.wait().success());
    load.wait_more(50);
    let load = load.stop();
    assert_eq!(load.failed(), 0, "{load:?}");
}
