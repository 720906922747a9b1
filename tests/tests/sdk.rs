//! Filters of the SDK: one module, the same requests, Lacis and Envoy.

use std::sync::Once;
use std::thread;

use bytes::Bytes;
use lacis_tests::client::{self, Client};
use lacis_tests::{Both, Side, sdk};
use serde_json::json;

fn on_both(scenario: impl Fn(&Side)) {
    static SAID: Once = Once::new();
    SAID.call_once(|| println!("the module is {}", sdk().display()));
    Both::of("sdk", &sdk(), json!("")).app("helper").run(scenario);
}

/// What the application saw of the last request: `x-said`, and the number of bytes.
fn seen(side: &Side) -> (Option<String>, u64) {
    let seen = side.app("app").seen();
    let last = seen.last().expect("a request");
    (last.field("x-said").map(str::to_owned), last.length)
}

fn said(side: &Side, what: &str) -> String {
    assert_eq!(side.get("/bytes/1", &[("x-do", what)]).status(), 200, "{what}");
    seen(side).0.unwrap_or_else(|| panic!("{what}: the application is told nothing"))
}

fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn bodies() {
    on_both(|side| {
        let mirror = |what: &str, body: &[u8]| side.ask("POST", "/mirror", &[("x-do", what)], Some(body));
        for (what, said) in [("whole", "5 bytes"), ("call-and-body", "5 and 5 bytes")] {
            let answer = mirror(what, b"hello");
            let body: &[u8] = if what == "whole" { b"HELLO" } else { b"hello" };
            assert_eq!((answer.status(), &answer.body[..]), (200, body), "{what}");
            assert_eq!(seen(side), (text(said), 5), "{what}");
        }
        // Empty bodies, with a length and without.
        assert_eq!(said(side, "call-and-body"), "5 and 0 bytes");
        assert_eq!(mirror("limit", b"1234567890").status(), 200);
        let before = side.app("app").requests();
        assert_eq!(mirror("limit", b"12345678901").status(), 413);
        assert_eq!(side.app("app").requests(), before);
        let large = vec![b'a'; 300_000];
        let answer = mirror("whole", &large);
        assert_eq!((answer.status(), answer.body), (200, Bytes::from(vec![b'A'; 300_000])));
    });
}

#[test]
fn pieces_of_bodies() {
    on_both(|side| {
        let mirror = |what: &str, body: &[u8]| side.ask("POST", "/mirror", &[("x-do", what)], Some(body));
        assert_eq!(&mirror("chunks", b"hello").body[..], b"<hello");
        assert_eq!(&mirror("drop", b"hello").body[..], b"");
        let answer = mirror("call-and-chunks", b"hello");
        assert_eq!((answer.status(), &answer.body[..]), (200, &b"HELLO"[..]));
        assert_eq!(seen(side).0, text("5"));
        let large = vec![b'a'; 300_000];
        assert_eq!(mirror("call-and-chunks", &large).body, vec![b'A'; 300_000]);
        assert_eq!(mirror("chunks", &large).body.len(), 300_001);
    });
}

#[test]
fn trailers() {
    on_both(|side| {
        let mut client = Client::connect(side.address());
        for what in ["trailers", "chunks", "whole"] {
            client.send(format!(
                "POST /mirror HTTP/1.1\r\nhost: app\r\nx-do: {what}\r\nte: trailers\r\ntrailer: x-checksum\r\n\
                 transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-checksum: 7\r\n\r\n"
            ));
            assert_eq!(client.response("POST").status(), 200, "{what}");
        }
        let seen = side.app("app").seen();
        let trailer = |at: usize, name: &str| {
            let trailers = &seen[at].trailers;
            trailers.iter().find(|(own, _)| own == name).map(|(_, value)| value.clone())
        };
        // Envoy drops trailers of HTTP/1.1 unless it is told otherwise.
        if !side.is_envoy() {
            assert_eq!((trailer(0, "x-end"), trailer(1, "x-checksum")), (text("7"), text("7")));
        }
        assert_eq!((seen[0].length, seen[1].length, seen[2].length), (3, 4, 3));
    });
}

#[test]
fn responses() {
    on_both(|side| {
        let answer = side.get("/bytes/10", &[("x-do", "answer")]);
        assert_eq!((answer.field("x-said"), answer.field("content-length")), (Some("10 and 5"), Some("12")));
        assert!(answer.body.starts_with(b"<") && answer.body.ends_with(b">"));
        let answer = side.get("/chunked/100000", &[("x-do", "answer")]);
        assert_eq!((answer.field("x-said"), answer.body.len()), (Some("100000 and 5"), 100_002));
        let answer = side.get("/chunked/100000", &[("x-do", "answer-chunks")]);
        assert_eq!((answer.status(), answer.body.len()), (200, 100_000));
        assert_eq!(&side.get("/trailers", &[("x-do", "answer-chunks")]).body[..], b"hello");
    });
}

#[test]
fn calls() {
    on_both(|side| {
        assert_eq!(said(side, "call"), "5+7+9 200");
        assert_eq!(said(side, "nobody"), "nobody");
        let before = side.app("app").requests();
        let answer = side.get("/bytes/1", &[("x-do", "late-no")]);
        assert_eq!((answer.status(), answer.text().as_str()), (403, "no\n"));
        assert_eq!(side.app("app").requests(), before);
        // With a body that nobody has read.
        let answer = side.ask("POST", "/bytes/1", &[("x-do", "late-no")], Some(b"body"));
        assert_eq!(answer.status(), 403);
    });
}

#[test]
fn time_and_work_in_the_background() {
    on_both(|side| {
        assert_eq!(said(side, "sleep"), "None");
        assert_eq!(said(side, "background"), "3");
        assert_eq!(said(side, "spawn"), "spawned");
        lacis_tests::until("the task has run", || {
            side.get("/bytes/1", &[("x-do", "spawned")]);
            (seen(side).0 == text("/bytes/1")).then_some(())
        });
    });
}

/// Twenty exchanges wait for one thing, and work for 3 ms each once it is there: together for longer than a callback may take.
#[test]
fn a_herd_is_let_go_bit_by_bit() {
    on_both(|side| {
        let address = side.address();
        let ask = || client::request(address, "GET", "app", "/bytes/1", &[("x-do", "herd")], None).status();
        thread::scope(|scope| {
            let all: Vec<_> = (0..20).map(|_| scope.spawn(ask)).collect();
            all.into_iter().for_each(|one| assert_eq!(one.join().expect("an answer"), 200));
        });
    });
}

#[test]
fn shared_data() {
    on_both(|side| {
        for count in 1..=3 {
            assert_eq!(said(side, "count"), count.to_string());
        }
        assert_eq!((said(side, "bucket"), said(side, "bucket")), ("1".into(), "0".into()));
        assert_eq!(side.get("/bytes/1", &[("x-do", "bucket")]).status(), 429);
    });
}
