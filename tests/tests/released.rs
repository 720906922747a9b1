//! Filters written straight on the released `proxy-wasm` crate, on Envoy and on Lacis: what they do is the same. Timers are in
//! `guests.rs`, filters of TCP connections in `tcp_filters.rs`.

mod words;

use lacis_tests::app::pattern;
use lacis_tests::client::Client;
use lacis_tests::wire::Response;
use lacis_tests::{Both, Side, until};

/// What the application got last.
fn last(side: &Side) -> lacis_tests::app::Seen {
    side.app("app").seen().pop().expect("a request")
}

fn field<'a>(answer: &'a Response, name: &str) -> Option<&'a str> {
    answer.field(name)
}

/// Content piece by piece, and whole; of another length, and of none.
#[test]
fn bodies() {
    for kind in ["upper", "upper-whole"] {
        Both::guest(kind).run(|side| {
            let answer = side.ask("POST", "/mirror", &[], Some(b"hello"));
            assert_eq!((answer.status(), &answer.body[..]), (200, &b"HELLO"[..]));
            assert_eq!((field(&answer, "x-filtered"), last(side).length), (Some("yes"), 5));
            assert_eq!(side.get("/chunked/200000", &[]).body, pattern(0, 200_000).to_ascii_uppercase());
            assert_eq!(side.get("/bytes/0", &[]).body, "");
        });
    }
    Both::guest("grow").run(|side| {
        let answer = side.ask("POST", "/mirror", &[], Some(b"hello"));
        assert_eq!((answer.status(), &answer.body[..]), (200, &b"hello!!"[..]));
        assert_eq!((field(&answer, "content-length"), last(side).chunked), (None, true));
    });
    Both::guest("hold").run(|side| assert_eq!(side.get("/chunked/5000", &[]).body, pattern(0, 5000)));
    Both::guest("refuse").run(|side| {
        let refused = side.ask("POST", "/mirror", &[], Some(b"a bad word"));
        assert_eq!(
            (refused.status(), field(&refused, "x-why"), refused.text()),
            (422, Some("bad"), "no such words\n".into())
        );
        assert_eq!(side.ask("POST", "/mirror", &[], Some(b"a good one")).status(), 200);
        assert_eq!(side.app("app").requests(), 1);
    });
}

/// Trailers are changed, added, removed, and made where there were none.
#[test]
fn trailers() {
    Both::guest("trailers").run(|side| {
        let fields = [("connection", "te"), ("te", "trailers")];
        let trailers = |answer: Response| {
            let named = |name: &str| answer.trailers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name));
            ["x-checksum", "x-made"].map(|name| named(name).map(|(_, value)| value.clone()))
        };
        let changed = Some("changed, one of 2".to_owned());
        assert_eq!(trailers(side.get("/trailers", &fields)), [changed, None]);
        assert_eq!(trailers(side.get("/chunked/10", &fields)), [None, Some("yes".into())]);
        let mut client = Client::connect(side.address());
        client.send("POST /mirror HTTP/1.1\r\nhost: app\r\ntransfer-encoding: chunked\r\n\r\n");
        client.send("3\r\nabc\r\n0\r\nx-sum: 3\r\nx-old: 1\r\n\r\n");
        assert_eq!(client.response("POST").body, "abc");
        let mut got: Vec<_> =
            last(side).trailers.into_iter().map(|(name, value)| (name.to_lowercase(), value)).collect();
        got.sort();
        assert_eq!(got, [("x-count".to_owned(), "2".to_owned()), ("x-sum".to_owned(), "3".to_owned())]);
    });
}

/// A call that the request waits for, with its content; one that it does not wait for; one that nobody answers.
#[test]
fn calls() {
    Both::guest("auth").app("auth").run(|side| {
        assert_eq!(side.get("/echo", &[("x-ask", "/bytes/5")]).status(), 200);
        assert_eq!(last(side).field("x-authorized"), Some("5"));
        let large = vec![b'x'; 100_000];
        assert_eq!(side.ask("POST", "/drain", &[], Some(&large)).body, "100000");
        let refused = side.get("/echo", &[("x-ask", "/status/404")]);
        assert_eq!((refused.status(), field(&refused, "x-status")), (403, Some("404")));
        let late = side.get("/echo", &[("x-ask", "/silent"), ("x-timeout", "300")]);
        assert_eq!((late.status(), field(&late, "x-status")), (403, Some("504")));
        assert_eq!(late.body, "upstream request timeout");
        assert_eq!(side.app("app").requests(), 2);
    });
    Both::guest("ask-and-go").app("auth").run(|side| {
        let answer = side.get("/silent", &[("x-ask", "/status/404")]);
        assert_eq!((answer.status(), field(&answer, "x-status")), (403, Some("404")));
    });
}

/// A call that is made when the filter is configured, before there is a request.
#[test]
fn calls_at_the_start() {
    Both::guest("fetch").app("auth").run(|side| {
        until("it was fetched", || {
            let answer = side.get("/", &[]);
            assert_eq!(answer.status(), 200, "the filter runs");
            (answer.text() == "5").then_some(())
        });
        assert_eq!(side.app("auth").seen()[0].target, "/bytes/5");
    });
}

/// Two calls at once, and a third with what they said.
#[test]
fn parallel_and_chained_calls() {
    Both::guest("fan").app("auth").run(|side| {
        assert_eq!(side.get("/echo", &[]).status(), 200);
        assert_eq!(last(side).field("x-answers"), Some("12,4,3"));
        let mut lengths: Vec<u64> = side.app("auth").seen().iter().map(|seen| seen.length).collect();
        lengths.sort_unstable();
        assert_eq!(lengths, [3, 4, 12]);
    });
}

/// gRPC: a call, one that fails, one of what is not there, and a stream.
#[test]
fn grpc() {
    let (words, _waiting) = words::serve();
    Both::guest("grpc").grpc("words", words).run(|side| {
        let events = |method: &str| side.get("/", &[("x-method", method)]).text();
        assert_eq!(events("Echo"), "0 Some(\"hello\") (0, None)");
        let failed = events("Fail");
        // Envoy leaves the message as it is on the wire: see `grpc-calls/call-refused` of the differential suite.
        let said = if side.is_envoy() { "no%20%C2%BBhello%C2%AB%20here" } else { "no »hello« here" };
        assert!(failed.starts_with(&format!("9 None (9, Some(\"{said}")), "{failed}");
        assert!(events("Nothing").starts_with("12 None"));
        assert_eq!(events("Shout"), "head\nFIRST\nSECOND\ntrailers\nclosed 0");
        assert_eq!(side.app("app").requests(), 0);
    });
}

/// What is put into a queue is heard, and kept where requests find it.
#[test]
fn queues_and_shared_data() {
    Both::guest("queue").run(|side| {
        for path in ["/put/1", "/put/2"] {
            side.get(path, &[]);
            until("it was heard", || (side.get("/", &[]).text() == path).then_some(()));
        }
    });
}
