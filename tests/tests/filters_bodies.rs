//! Filters of content and trailers: real processes, and filters written on the `proxy-wasm` crate as their authors do.

use lacis_tests::client::Client;
use lacis_tests::wire::{Data, Framing, Left, Response};
use lacis_tests::{App, Link, Pair, Process, SidecarBuilder, guest, on_links, script};
use serde_json::{Value, json};

/// A pair with filters on delta's inbound side, in this order: their names and sections.
fn with(link: Link, filters: &[(&str, Value)]) -> Pair {
    let sections: serde_json::Map<String, Value> =
        filters.iter().map(|(name, section)| ((*name).to_owned(), section.clone())).collect();
    let names: Vec<&str> = filters.iter().map(|(name, _)| *name).collect();
    let config = json!({"filters": sections, "inbound": {"filters": names}});
    Pair::with(link, App::start(), |alpha| alpha, |delta| delta.with(config))
}

/// A guest's section with something changed.
fn changed(kind: &str, more: Value) -> Value {
    let mut section = guest(kind);
    for (key, value) in more.as_object().into_iter().flatten() {
        match section[key].as_object_mut() {
            Some(map) => map.extend(value.as_object().cloned().unwrap_or_default()),
            None => section[key] = value.clone(),
        }
    }
    section
}

/// So many bytes of a body.
fn read(client: &mut Client, left: &mut Left, count: usize) -> Vec<u8> {
    let mut got = Vec::new();
    while got.len() < count {
        match client.data(left).expect("a piece") {
            Data::Bytes(bytes) => got.extend_from_slice(&bytes),
            Data::End(_) => panic!("the end after {got:?}"),
        }
    }
    got
}

/// `GET`, where there may be no whole answer.
fn try_get(pair: &Pair, path: &str) -> std::io::Result<Response> {
    let mut client = pair.connect();
    client.send(format!("GET {path} HTTP/1.1\r\nhost: delta\r\n\r\n"));
    client.try_response("GET")
}

const CHUNKED: &str =
    "POST /mirror HTTP/1.1\r\nhost: delta\r\nconnection: te\r\nte: trailers\r\ntransfer-encoding: chunked\r\n\r\n";

on_links! {
    /// Piece by piece, as it comes: what was sent is answered before more is sent.
    [H1, H2, H3] fn a_streaming_filter_changes_pieces_as_they_pass(link) {
        let pair = with(link, &[("mine", guest("upper"))]);
        let mut client = pair.connect();
        client.send(CHUNKED);
        client.send("3\r\nabc\r\n");
        assert_eq!(client.head().status(), 200);
        let mut left = Left::new(Framing::Chunked);
        assert_eq!(read(&mut client, &mut left, 3), b"ABC");
        client.send("3\r\ndef\r\n0\r\n\r\n");
        assert_eq!(read(&mut client, &mut left, 3), b"DEF");
    }

    /// The whole body at once, in both directions, with the length that it came with.
    [H2, H3] fn a_buffering_filter_sees_the_whole(link) {
        let pair = with(link, &[("mine", guest("upper-whole"))]);
        let body = "word ".repeat(20_000);
        let answer = pair.connect().request("POST", "delta", "/mirror", &[], Some(body.as_bytes()));
        assert_eq!((answer.status(), answer.head.field("x-filtered")), (200, Some("yes")));
        assert!(answer.body == body.to_uppercase().as_bytes(), "{} bytes", answer.body.len());
        assert_eq!(pair.app.seen()[0].length, body.len() as u64);
    }

    /// A filter that takes content-length away may change the length.
    [H1, H2, H3] fn a_body_may_grow(link) {
        let pair = with(link, &[("mine", guest("grow"))]);
        let mut client = pair.connect();
        let answer = client.request("POST", "delta", "/mirror", &[], Some(b"abc"));
        assert_eq!((answer.status(), &answer.body[..]), (200, &b"abc!!"[..]));
        assert_eq!(client.request("POST", "delta", "/mirror", &[], Some(b"d")).body, "d!!");
        assert_eq!(client.get("delta", "/bytes/0").status(), 200, "no body, nothing to grow");
    }

    /// One that leaves content-length as it was never makes a wrong frame: the message is cut, the next one is whole.
    [H1, H2, H3] fn a_wrong_length_is_never_sent(link) {
        let pair = with(link, &[("mine", guest("sloppy"))]);
        // Our own answer passes the filter too, and breaks there.
        let mut client = pair.connect();
        client.send("POST /drain HTTP/1.1\r\nhost: delta\r\ncontent-length: 3\r\n\r\nabc");
        let answer = client.try_response("POST");
        assert!(answer.as_ref().map_or(true, |answer| answer.status() >= 500), "{answer:?}");
        // The surplus stays here, and no client takes what is left for a whole.
        let answer = try_get(&pair, "/bytes/10");
        assert!(answer.as_ref().map_or(true, |answer| answer.status() >= 500), "{answer:?}");
        let answer = try_get(&pair, "/chunked/10");
        assert!(answer.is_ok_and(|answer| answer.status() == 200 && answer.body.len() > 10), "without a length");
        assert!(pair.app.seen().iter().all(|seen| seen.length != 4), "{:?}", pair.app.seen());
        // Without a length there is nothing that could be wrong. A pair of its own: the link that was cut may be used once
        // more before its end is seen, and a POST is not sent again.
        let pair = with(link, &[("mine", guest("sloppy"))]);
        let mut client = pair.connect();
        client.send(CHUNKED);
        client.send("3\r\nabc\r\n0\r\n\r\n");
        assert_eq!(client.response("POST").body, "abc!!");
    }

    /// The head waits for its body: what the filter learns from the body it says in the head, and lengths are set right.
    [H2, H3] fn a_head_can_wait_for_its_body(link) {
        let pair = with(link, &[("mine", changed("gather", json!({"allow_on_headers_stop_iteration": true})))]);
        let mut client = pair.connect();
        let answer = client.request("POST", "delta", "/mirror", &[], Some(b"hello"));
        assert_eq!((answer.status(), &answer.body[..]), (200, &b"<hello>"[..]));
        let seen = &pair.app.seen()[0];
        assert_eq!((seen.field("x-gathered"), seen.field("content-length"), seen.length), (Some("5"), Some("7"), 7));
        assert_eq!(client.get("delta", "/bytes/1").status(), 200);
        // Who waits to be asked for the body is asked, and once.
        client.send("POST /mirror HTTP/1.1\r\nhost: delta\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n");
        assert_eq!(client.head().status(), 100);
        client.send("abc");
        let answer = client.response("POST");
        assert_eq!((answer.informational.len(), &answer.body[..]), (0, &b"<abc>"[..]));
    }

    /// Where a filter takes `expect` away the service is not asked: who waits is told here that its content is wanted.
    [H1, H2, H3] fn who_waits_is_asked_where_expect_is_taken_away(link) {
        let pair = with(link, &[("mine", script(""))]);
        let mut client = pair.connect();
        client.send("POST /mirror HTTP/1.1\r\nhost: delta\r\nexpect: 100-continue\r\ncontent-length: 3\r\n");
        client.send("x-script: rq rem 0 expect\r\n\r\n");
        assert_eq!(client.head().status(), 100);
        client.send("abc");
        let answer = client.response("POST");
        assert_eq!((answer.status(), answer.informational.len(), &answer.body[..]), (200, 0, &b"abc"[..]));
        assert_eq!(pair.app.seen()[0].field("expect"), None);
    }

    /// An upgraded connection passes a filter like any content, in both directions.
    [H1] fn an_upgraded_connection_passes_filters(link) {
        let pair = with(link, &[("mine", guest("upper"))]);
        let mut client = pair.connect();
        client.send("GET /upgrade HTTP/1.1\r\nhost: delta\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n");
        assert_eq!(client.head().status(), 101);
        client.send("abc");
        assert_eq!(&client.exactly(3)[..], b"ABC");
        client.finish();
        assert_eq!(&client.rest()[..], b"BYE");
    }

    /// A filter makes the switch to another protocol another answer: nothing follows that, on either side, and its connection goes on.
    [H1, H2, H3, Plaintext] fn an_upgrade_can_be_refused_by_its_answer(link) {
        let pair = match link {
            Link::Plaintext => {
                let filter = json!({"filters": {"mine": script("")}, "outbound": {"filters": ["mine"]}});
                Pair::with(link, App::start(), |alpha| alpha.with(filter), |delta| delta)
            }
            _ => with(link, &[("mine", script(""))]),
        };
        let mut client = pair.connect();
        for status in [200, 403, 204] {
            client.send("GET /upgrade HTTP/1.1\r\nhost: delta\r\nconnection: upgrade\r\nupgrade: echo\r\n");
            client.send(format!("x-script: rs rep 2 :status {status}\r\n\r\n"));
            let answer = client.response("GET");
            assert_eq!((answer.status(), answer.field("upgrade"), answer.body.len()), (status, None, 0));
            assert_eq!(client.get("delta", "/bytes/3").body.len(), 3);
        }
    }

    /// Trailers are changed, added, removed, and made where there were none.
    [H1, H2, H3] fn trailers_pass_filters(link) {
        let pair = with(link, &[("mine", guest("trailers"))]);
        let fields = [("connection", "te"), ("te", "trailers")];
        let answer = pair.connect().request("GET", "delta", "/trailers", &fields, None);
        assert_eq!(answer.body, "hello");
        let trailer = |answer: &Response, name: &str| {
            answer.trailers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone())
        };
        assert_eq!(trailer(&answer, "x-checksum").as_deref(), Some("changed, one of 2"));
        let answer = pair.connect().request("GET", "delta", "/chunked/10", &fields, None);
        assert_eq!((answer.body.len(), trailer(&answer, "x-made").as_deref()), (10, Some("yes")));
        let mut client = pair.connect();
        client.send(CHUNKED);
        client.send("3\r\nabc\r\n0\r\nx-sum: 3\r\nx-old: 1\r\n\r\n");
        assert_eq!(client.response("POST").body, "abc");
        let seen = pair.app.seen();
        let trailers = &seen.last().expect("a request").trailers;
        assert!(trailers.contains(&("x-count".into(), "2".into())), "{trailers:?}");
        assert!(trailers.iter().all(|(name, _)| name != "x-old"), "{trailers:?}");
    }

    /// An end that is known is shown with the content before it; one that only comes is shown by itself.
    [H1, H2] fn content_is_shown_with_its_end(link) {
        let pair = with(link, &[("mine", script("rqb buf 0 0 9 ; rsb buf 1 0 9"))]);
        assert_eq!(pair.connect().request("POST", "delta", "/drain", &[], Some(b"hello")).body, "5");
        assert_eq!(pair.get("/chunked/3").body.len(), 3);
        let shown = pair.delta().err.wait_for("what both were shown", |lines| {
            let lines = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let lines: Vec<String> = lines.filter_map(|line| Some(line["message"].as_str()?.to_owned())).collect();
            let body = |line: &&String| line.starts_with("- rqb ") || line.starts_with("- rsb ");
            let over = lines.iter().filter(|line| line.starts_with("- dl ")).count() == 2;
            over.then(|| lines.iter().filter(body).filter_map(|line| line.get(2..9)).map(str::to_owned).collect::<Vec<_>>())
        });
        assert_eq!(shown, ["rqb 5 1", "rsb 1 1", "rsb 3 0", "rsb 0 1"]);
    }

    /// What is all there with its head is shown with it, and the client gets what it would get if it came later: nothing that is
    /// no more sent behind the head, another length only where none is announced, and no answer once the head has gone on.
    [H1, H2] fn content_that_is_there_with_its_head_passes_like_any(link) {
        // Two of one VM.
        let pair = with(link, &[("mine", script("")), ("other", script(""))]);
        let get = |script: &str| {
            let mut client = pair.connect();
            client.send(format!("GET /bytes/5 HTTP/1.1\r\nhost: delta\r\nx-script: {script}\r\n\r\n"));
            client.try_response("GET")
        };
        let got = |script: &str| {
            let answer = get(script).expect("a whole response");
            (answer.status(), answer.text())
        };
        assert_eq!(get("rs add 2 x-a 1").expect("a whole response").body.len(), 5);
        assert_eq!(got("rsb setbuf 1 0 9 abcde"), (200, "abcde".into()));
        assert_eq!(got("rs rem 2 content-length ; rsb setbuf 1 0 99 more%20of%20it"), (200, "more of it".into()));
        assert_eq!(got("rs rem 2 content-length ; rsb setbuf 1 0 99 ~"), (200, String::new()));
        assert_eq!(got("rs rep 2 content-length 3 ; rsb setbuf 1 0 99 abc"), (200, "abc".into()));
        assert_eq!(got("rs reply 403 ~ no ~ ; rsb log 2 never"), (403, "no".into()));
        assert_eq!(got("rs rep 2 :status 204 ; rsb setbuf 1 0 99 ~"), (204, String::new()));
        for (script, reason, count) in [
            ("rs rep 2 content-length some ; rsb log 2 never", "filter_invalid", 1.0),
            ("rs rep 2 content-length 9", "filter_invalid", 2.0),
            ("rsb setbuf 1 0 99 abcdef", "filter_invalid", 3.0),
            ("rsb setbuf 1 0 99 ~", "filter_invalid", 4.0),
            ("rsb reply 403 ~ no ~", "filter_reset", 1.0),
            ("rsb close 1", "filter_reset", 2.0),
            ("rsb trap", "filter_trap", 1.0),
        ] {
            let answer = get(script);
            assert!(answer.as_ref().map_or(true, |answer| answer.status() >= 500), "{script}: {answer:?}");
            pair.delta().counts(count, "lacis_requests_total", &[("reason", reason)]);
        }
        let lines = pair.delta().err.wait_for("the trap", |lines| {
            lines.iter().any(|line| line.contains("the filter trapped")).then(|| lines.join("\n"))
        });
        assert!(!lines.contains("never"), "{lines}");
    }

    /// Filters see the content of a response of which one has made a status that has none; nothing of it is sent, and the connection
    /// goes on.
    [H1, H2, H3] fn content_that_is_no_more_sent_is_shown(link) {
        let pair = with(link, &[("mine", script(""))]);
        let mut client = pair.connect();
        for (path, status) in [("/bytes/5", 204), ("/chunked/5", 304), ("/bytes/100000", 204)] {
            let script = format!("rs rep 2 :status {status} ; rsb ret 1 ; rsbe log 2 shown, bufstat 1, ret 0");
            let answer = client.request("GET", "delta", path, &[("x-script", &script)], None);
            assert_eq!((answer.status(), answer.text()), (status, String::new()));
        }
        assert_eq!(client.request("GET", "delta", "/bytes/3", &[], None).body.len(), 3);
        pair.delta().err.wait_for("all content shown", |lines| {
            let shown = lines.iter().filter(|line| line.contains("rsb ") && line.contains("log 0")).count();
            (shown == 3).then_some(())
        });
    }

    /// The head of such a response does not wait for what is only shown. (Over HTTP/1 whoever has a whole response before its request
    /// has ended closes the connection.)
    [H2, H3] fn a_head_without_content_goes_before_what_is_shown(link) {
        let pair = with(link, &[("mine", script("rs rep 2 :status 204 ; rsbe log 2 shown"))]);
        let mut client = pair.connect();
        client.send(CHUNKED);
        client.send("3\r\nabc\r\n");
        assert_eq!(client.head().status(), 204);
        client.send("3\r\ndef\r\n0\r\n\r\n");
        let ended = |line: &String| line.contains("rsb 0 1 | log 0");
        pair.delta().err.wait_for("its end", |lines| lines.iter().any(ended).then_some(()));
    }

    /// A filter may answer while the body comes: before the response has begun.
    [H1, H2, H3] fn a_filter_answers_in_mid_body(link) {
        let pair = with(link, &[("mine", guest("refuse"))]);
        let answer = pair.connect().request("POST", "delta", "/drain", &[], Some(b"so bad"));
        assert_eq!((answer.status(), answer.head.field("x-why")), (422, Some("bad")));
        assert_eq!((answer.head.field("x-filtered"), &answer.body[..]), (Some("yes"), &b"no such words\n"[..]));
        assert_eq!(pair.connect().request("POST", "delta", "/drain", &[], Some(b"so good")).body, "7");
        // Once the response has begun there is no other answer: it is cut.
        let mut client = pair.connect();
        client.send(CHUNKED);
        client.send("3\r\nabc\r\n");
        let head = client.head();
        assert_eq!(head.status(), 200);
        client.send("3\r\nbad\r\n");
        let mut left = Left::new(Framing::Chunked);
        let end = loop {
            match client.data(&mut left) {
                Ok(Data::Bytes(_)) => {}
                end => break end,
            }
        };
        assert!(end.is_err(), "cut, and not ended: {end:?}");
        pair.delta().counts(1.0, "lacis_requests_total", &[("reason", "filter_reset")]);
    }

    /// A trap in a body callback is the filter's failure: 503 before the response has begun.
    [H2, H3] fn a_trap_in_mid_body_follows_the_policy(link) {
        let closed = with(link, &[("mine", guest("trap"))]);
        let answer = closed.connect().request("POST", "delta", "/drain", &[], Some(b"abc"));
        assert_eq!((answer.status(), answer.proxy_error().as_deref()), (503, Some("proxy_internal_error")));
        let open = with(link, &[("mine", changed("trap", json!({"failure": "open"})))]);
        assert_eq!(open.connect().request("POST", "delta", "/drain", &[], Some(b"abc")).body, "3");
    }
}

/// The limit of what a filter may hold back, at its edge: 413 for a request, 500 or a cut for a response.
#[test]
fn what_is_held_back_is_bounded() {
    let limits = json!({"limits": {"buffer": "10KiB"}});
    let pair = with(Link::H2, &[("mine", changed("upper-whole", limits.clone()))]);
    // What comes with its end is not held back: here that is still to come.
    let begin = |size: usize| {
        let mut client = pair.connect();
        client.send(CHUNKED.replace("/mirror", "/drain"));
        client.send(format!("{size:x}\r\n{}\r\n", "x".repeat(size)));
        client
    };
    let mut client = begin(10 << 10);
    client.send("0\r\n\r\n");
    assert_eq!(client.response("POST").body, "10240");
    let answer = begin((10 << 10) + 1).response("POST");
    assert_eq!((answer.status(), answer.text().as_str()), (413, "CONTENT_TOO_LARGE\n"));
    pair.delta().counts(1.0, "lacis_filter_refusals_total", &[("filter", "mine"), ("limit", "buffer")]);
    let pair = with(Link::H2, &[("mine", changed("hold", limits))]);
    assert_eq!(pair.get("/chunked/10240").body.len(), 10240);
    let answer = try_get(&pair, "/chunked/10241");
    assert!(answer.as_ref().map_or(true, |answer| answer.status() >= 500), "{answer:?}");
    pair.delta().counts(1.0, "lacis_requests_total", &[("reason", "http_response_body_size")]);
}

/// Requests pass filters in order, responses in reverse: the one that holds back sees what the other made of it.
#[test]
fn content_passes_filters_in_order() {
    let pair = with(Link::H2, &[("first", guest("grow")), ("second", guest("upper-whole"))]);
    let answer = pair.connect().request("POST", "delta", "/mirror", &[], Some(b"abc"));
    assert_eq!((answer.status(), &answer.body[..]), (200, &b"ABC!!"[..]));
}

/// A body of any size passes a filter that lets each piece go: memory stays flat.
#[test]
fn a_streaming_filter_costs_no_memory() {
    const SIZE: u64 = 256 << 20;
    let pair = with(Link::H2, &[("mine", guest("upper"))]);
    assert_eq!(pair.get("/bytes/1000").status(), 200);
    let mut client = pair.connect();
    let (grown, ()) = Process::growth(&[pair.delta()], || {
        client.send(format!("GET /bytes/{SIZE} HTTP/1.1\r\nhost: delta\r\n\r\n"));
        assert_eq!(client.head().status(), 200);
        let mut left = Left::new(Framing::Length(SIZE));
        let mut got = 0;
        while got < SIZE {
            match client.data(&mut left).expect("a piece") {
                Data::Bytes(bytes) => got += bytes.len() as u64,
                Data::End(_) => panic!("the end after {got} bytes"),
            }
        }
    });
    assert!(grown[0] < 16, "grew by {} MiB", grown[0]);
}

/// How long an answer may take counts from when the service has the request: what filters hold of it does not count.
#[test]
fn what_is_held_of_a_request_is_not_waited_for_by_the_service() {
    let (other, filter) = (App::start(), json!({"filters": {"one": script("")}, "outbound": {"filters": ["one"]}}));
    let timeouts = json!({"services": {"delta": {"timeouts": {"request": "300ms"}}}});
    let alpha =
        |alpha: SidecarBuilder| alpha.with(filter).with(timeouts).calls("other", other.address(), Link::Plaintext);
    let pair = Pair::with(Link::Plaintext, App::start(), alpha, |delta| delta);
    let held = "call other :method=GET&:path=/hold&:authority=other a 60000, ret 1 ; a eff, cont 0";
    let begin = |callback: &str, content: &str| {
        let mut client = pair.connect();
        client.send(format!("POST /echo HTTP/1.1\r\nhost: delta\r\nx-script: {callback} {held}\r\n{content}"));
        client
    };
    let mut clients = [
        begin("rqb ret 1 ; rqbe", "content-length: 3\r\n\r\nabc"),
        begin("rqt", "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 3\r\n\r\n"),
    ];
    other.wait_held(2);
    // It begins later, and its time is over.
    assert_eq!(pair.get("/silent").status(), 504);
    other.release();
    for client in &mut clients {
        assert_eq!((client.response("POST").status(), pair.app.seen().last().map(|seen| seen.length)), (200, Some(3)));
    }
    // From then on it does.
    let mut client = pair.connect();
    client.send("POST /silent HTTP/1.1\r\nhost: delta\r\ncontent-length: 3\r\nx-script: rqb ret 1 ; rqbe buf 0 0 9, ret 0\r\n\r\nabc");
    assert_eq!(client.response("POST").status(), 504);
}

/// A filter that never lets go on what it holds of a request is waited for as long as nothing may move.
#[test]
fn what_is_held_of_a_request_for_ever_is_given_up() {
    let config = json!({"filters": {"one": script("")}, "outbound": {"filters": ["one"]},
        "services": {"delta": {"timeouts": {"idle": "300ms"}}}});
    let pair = Pair::with(Link::Plaintext, App::start(), |alpha| alpha.with(config), |delta| delta);
    for (script, content, status) in [
        ("rqb ret 1", "content-length: 3\r\n\r\nabc", 504),
        ("rqb ret 1", "content-length: 3\r\n\r\nab", 408),
        ("rqt ret 1", "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 3\r\n\r\n", 504),
    ] {
        let mut client = pair.connect();
        client.send(format!("POST /echo HTTP/1.1\r\nhost: delta\r\nx-script: {script}\r\n{content}"));
        assert_eq!(client.response("POST").status(), status, "{script} {content}");
    }
    pair.alpha.metric_becomes("lacis_requests_active", &[], |active| active == 0.0);
}

/// A request that a filter makes a HEAD has an answer without content, which announces none: what comes next is another answer.
#[test]
fn a_request_that_becomes_a_head_has_no_content() {
    let config = json!({"filters": {"one": script("")}, "outbound": {"filters": ["one"]}});
    let pair = Pair::with(Link::Plaintext, App::start(), |alpha| alpha.with(config), |delta| delta);
    let mut client = pair.connect();
    for script in ["rq rep 0 :method HEAD", "rq rep 0 :method HEAD ; rs get 2 :status ; rsb buf 1 0 9"] {
        let answer = client.request("GET", "delta", "/bytes/5", &[("x-script", script)], None);
        assert_eq!((answer.status(), answer.framing, &answer.body[..]), (200, Framing::Length(0), &b""[..]));
    }
    assert_eq!(client.get("delta", "/bytes/5").body.len(), 5);
    assert_eq!(pair.app.seen().iter().map(|seen| &*seen.method).collect::<Vec<_>>(), ["HEAD", "HEAD", "GET"]);
}
