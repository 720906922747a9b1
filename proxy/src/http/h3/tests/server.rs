//! Our server against a client by hand.

use super::*;
use crate::clock;
use crate::drain::Phase;
use crate::http::h3::code::Code;
use crate::http::rules::IDLE_TIMEOUT;
use std::cell::{Cell, RefCell};
use std::time::Duration;

/// Sends one request and gives what comes back, to the end or the reset.
async fn ask(client: &quinn::Connection, frames: &[u8]) -> Result<Vec<u8>, u64> {
    let (mut send, mut receive) = client.open_bi().await.unwrap();
    // May be stopped midway.
    let _ = send.write_all(frames).await;
    let _ = send.finish();
    let mut answer = Vec::new();
    loop {
        match receive.read_chunk(usize::MAX, true).await {
            Ok(Some(chunk)) => answer.extend_from_slice(&chunk.bytes),
            Ok(None) => return Ok(answer),
            Err(quinn::ReadError::Reset(code)) => return Err(code.into_inner()),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn malformed_heads_are_reset_and_the_connection_lives() {
    run(async {
        let net = Net::new();
        net.serve(|_| async { response(200, text("fine")) });
        let client = net.raw_client().await;
        let path = line(":path", "/admin");
        for (what, lines) in [
            ("two paths", vec![GET, &path]),
            ("a path after a field", vec![&[0xd1, 0xd7], &line("x", "1"), &path]),
            ("a status", vec![GET, OK]),
            ("no method", vec![&[0xd7, 0xc1, 0x50, 1, b'a']]),
            ("no path", vec![&[0xd1, 0xd7, 0x50, 1, b'a']]),
            ("no scheme", vec![&[0xd1, 0xc1, 0x50, 1, b'a']]),
            ("an empty path", vec![&[0xd1, 0xd7, 0x51, 0, 0x50, 1, b'a']]),
            ("a path that is none", vec![&[0xd1, 0xd7, 0x51, 1, b'x', 0x50, 1, b'a']]),
            ("user information", vec![&[0xd1, 0xd7, 0xc1, 0x50, 3, b'u', b'@', b'a']]),
            ("another scheme", vec![&[0xd1, 0xc1, 0x50, 1, b'a', 0x5f, 7, 3, b'f', b't', b'p']]),
            ("connection", vec![GET, &line("connection", "close")]),
            ("transfer-encoding", vec![GET, &line("transfer-encoding", "chunked")]),
            ("te", vec![GET, &line("te", "gzip")]),
            ("upper case", vec![GET, &line("X-Upper", "1")]),
            ("a line break", vec![GET, &line("x-break", "a\r\nb: c")]),
            ("two lengths", vec![GET, &line("content-length", "0"), &line("content-length", "0")]),
            ("a signed length", vec![GET, &line("content-length", "+1")]),
            ("a length without content", vec![GET, &line("content-length", "1")]),
            ("a protocol", vec![&line(":protocol", "websocket"), GET]),
        ] {
            assert_eq!(ask(&client, &headers(&lines)).await, Err(Code::MESSAGE_ERROR.0), "{what}");
        }
        assert_eq!(net.noted.borrow().len(), 19);
        for (what, lines) in [
            ("no authority", vec![&[0xd1, 0xd7, 0xc1][..]]),
            ("another host", vec![GET, &line("host", "b")]),
            ("two hosts", vec![GET, &line("host", "a"), &line("host", "b")]),
        ] {
            // HEADERS with the line of the static table for the status 400.
            assert_eq!(ask(&client, &headers(&lines)).await, Ok(vec![1, 4, 0, 0, 0xff, 0x04]), "{what}");
        }
        assert!(net.noted.take().iter().all(|reason| *reason == Reason::HttpRequestError));
        assert_eq!(ask(&client, &[]).await, Err(Code::REQUEST_INCOMPLETE.0));
        assert_eq!(net.noted.take(), [Reason::RequestIncomplete]);
        let fine = headers(&[GET, &line("te", "trailers"), &line("host", "a")]);
        assert!(ask(&client, &fine).await.unwrap().ends_with(b"fine"));
    });
}

#[test]
fn huffman_coded_pseudo_headers_are_the_same_pseudo_headers() {
    // What the guard takes for `:path` must be what h3 takes for it.
    let names: [&[u8]; 3] = [b"\xb9\x49\x53\x39\xe4", b"\xb8\x82\x4e\x5a\x4b", b"\xb9\x58\xd3\x3f"];
    let huffman = |name: &[u8], value: &[u8]| -> Vec<u8> {
        let length = if name.len() < 7 { vec![0x28 | name.len() as u8] } else { vec![0x2f, name.len() as u8 - 7] };
        [&length[..], name, &[value.len() as u8], value].concat()
    };
    let authority = huffman(b"\xb8\x3b\x53\x39\xec\x32\x7d\x7f", b"a");
    run(async {
        let net = Net::new();
        net.serve(|request| async move {
            assert_eq!((&request.head.method, request.head.path.as_str()), (&Method::PUT, "/x"));
            response(200, text("fine"))
        });
        let client = net.raw_client().await;
        let lines = [huffman(names[0], b"PUT"), huffman(names[1], b"https"), huffman(names[2], b"/x"), authority];
        let lines: Vec<&[u8]> = lines.iter().map(|line| &line[..]).collect();
        assert!(ask(&client, &headers(&lines)).await.unwrap().ends_with(b"fine"));
    });
}

#[test]
fn what_breaks_the_protocol_closes_the_connection() {
    let plain = |frames: Vec<u8>| frames;
    for (what, frames, reason) in [
        ("data before the head", plain(frame(0, b"x")), Code::FRAME_UNEXPECTED),
        ("settings on a request", plain(frame(4, b"")), Code::FRAME_UNEXPECTED),
        ("a push promise", plain(frame(5, b"\0")), Code::FRAME_UNEXPECTED),
        ("a frame of HTTP/2", plain(frame(6, b"")), Code::FRAME_UNEXPECTED),
        ("a cut head", [announce(1, 10), vec![0, 0]].concat(), Code::FRAME_ERROR),
        ("an unknown index", headers(&[GET, &[0xff, 0xff, 0x01]]), Code::QPACK_DECOMPRESSION_FAILED),
    ] {
        let close = closed_with(what, async || {
            let net = Net::new();
            net.serve(|mut request| async move {
                let _ = read(&mut request.body).await;
                response(200, text("no"))
            });
            let client = net.raw_client().await;
            let (mut send, _receive) = client.open_bi().await.unwrap();
            send.write_all(&frames).await.unwrap();
            send.finish().unwrap();
            client.closed().await
        });
        assert_eq!(close, code(reason), "{what}");
    }
}

#[test]
fn what_a_client_says_of_pushes_is_checked() {
    // MAX_PUSH_ID is 13, CANCEL_PUSH 3, GOAWAY 7.
    let falling = [frame(13, &[4]), frame(13, &[4]), frame(13, &[1])].concat();
    for (what, frames, reason) in [
        ("a GOAWAY without its number", frame(7, b""), Code::FRAME_ERROR),
        ("a GOAWAY with half a number", frame(7, &[0x80, 0]), Code::FRAME_ERROR),
        ("a GOAWAY with more than a number", frame(7, &[0, 0]), Code::FRAME_ERROR),
        ("the announcement of nine bytes", announce(7, 9), Code::FRAME_ERROR),
        ("a MAX_PUSH_ID without its number", frame(13, b""), Code::FRAME_ERROR),
        ("a CANCEL_PUSH without its number", frame(3, b""), Code::FRAME_ERROR),
        ("a CANCEL_PUSH of no push", frame(3, &[0]), Code::ID_ERROR),
        ("a MAX_PUSH_ID that falls", falling, Code::ID_ERROR),
    ] {
        let close = closed_with(what, async || {
            let net = Net::new();
            net.serve(|_| async { response(200, text("no")) });
            let connecting = net.client.connect_with(net.config.clone(), net.address(), "localhost").unwrap();
            let client = connecting.await.unwrap();
            let mut control = client.open_uni().await.unwrap();
            control.write_all(&[SETTINGS, &frames].concat()).await.unwrap();
            client.closed().await
        });
        assert_eq!(close, code(reason), "{what}");
    }
    let close = closed_with("a push stream", async || {
        let net = Net::new();
        net.serve(|_| async { response(200, text("fine")) });
        let client = net.raw_client().await;
        let mut push = client.open_uni().await.unwrap();
        push.write_all(&[1]).await.unwrap();
        client.closed().await
    });
    assert_eq!(close, code(Code::STREAM_CREATION_ERROR));
}

/// RFC 9114 section 6.2.1: also on a connection on which nothing else happens.
#[test]
fn to_stop_a_control_stream_closes_the_connection() {
    async fn stop(peer: quinn::Connection) -> quinn::ConnectionError {
        peer.accept_uni().await.unwrap().stop(code(Code::NO_ERROR)).unwrap();
        peer.closed().await
    }
    let served = closed_with("by a client", async || {
        let net = Net::new();
        net.serve(|_| async { response(200, text("fine")) });
        stop(net.raw_client().await).await
    });
    let linked = closed_with("by a server", async || {
        let (link, server, _control) = Net::new().raw_server().await;
        let closed = stop(server).await;
        assert!(link.is_closed());
        closed
    });
    assert_eq!([served, linked], [code(Code::CLOSED_CRITICAL_STREAM); 2]);
}

#[test]
fn bodies_must_have_the_length_that_was_announced() {
    let length = line("content-length", "10");
    for (what, frames, reason) in [
        ("too little", vec![headers(&[POST, &length]), frame(0, b"short")], Reason::RequestIncomplete),
        ("too much", vec![headers(&[POST, &length]), frame(0, b"longer than ten")], Reason::HttpRequestError),
        (
            "a pseudo-header in trailers",
            vec![headers(&[POST]), frame(0, b"x"), headers(&[GET])],
            Reason::HttpRequestError,
        ),
    ] {
        run(async {
            let net = Net::new();
            net.serve(move |mut request| async move {
                let fault = read(&mut request.body).await.unwrap_err();
                assert_eq!(fault.reason, reason);
                response(400, text("bad"))
            });
            let client = net.raw_client().await;
            assert!(ask(&client, &frames.concat()).await.unwrap().ends_with(b"bad"), "{what}");
        });
    }
}

#[test]
fn a_fault_in_mid_body_resets_the_response() {
    run(async {
        let (hop, net) = (Net::new(), Net::new());
        let (link, origin, _control) = net.raw_server().await;
        hop.serve(move |request| forward(link.clone(), request));
        let client = hop.raw_client().await;
        let broken = async {
            let (mut send, mut receive) = origin.accept_bi().await.unwrap();
            receive.read_to_end(1000).await.unwrap();
            send.write_all(&[headers(&[OK]), frame(0, b"half")].concat()).await.unwrap();
            send
        };
        let (mut send, mut receive) = client.open_bi().await.unwrap();
        send.write_all(&headers(&[GET])).await.unwrap();
        send.finish().unwrap();
        let mut upstream = broken.await;
        // What has come so far passes first.
        let mut answer = Vec::new();
        while !answer.ends_with(b"half") {
            answer.extend_from_slice(&receive.read_chunk(usize::MAX, true).await.unwrap().unwrap().bytes);
        }
        upstream.reset(code(Code::INTERNAL_ERROR)).unwrap();
        let end = receive.read_chunk(usize::MAX, true).await;
        assert_eq!(end.unwrap_err(), quinn::ReadError::Reset(code(Code::INTERNAL_ERROR)));
    });
}

#[test]
fn a_client_that_goes_away_cancels_the_call() {
    struct Dropped(Rc<Cell<bool>>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.set(true);
        }
    }
    run(async {
        let net = Net::new();
        let (called, dropped) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(false)));
        let flags = (Rc::clone(&called), Rc::clone(&dropped));
        net.serve(move |request| {
            let held = (request, Dropped(Rc::clone(&flags.1)));
            flags.0.set(true);
            async move {
                std::future::pending::<()>().await;
                drop(held);
                response(200, text(""))
            }
        });
        let client = net.raw_client().await;
        let (mut send, mut receive) = client.open_bi().await.unwrap();
        send.write_all(&headers(&[GET])).await.unwrap();
        send.finish().unwrap();
        while !called.get() {
            tokio::task::yield_now().await;
        }
        receive.stop(code(Code::REQUEST_CANCELLED)).unwrap();
        while !dropped.get() {
            tokio::task::yield_now().await;
        }
    });
}

/// Reads the GOAWAY ids off the server's control stream, the only one that it opens.
async fn goaways(client: &quinn::Connection) -> Rc<RefCell<Vec<u64>>> {
    let ids = Rc::new(RefCell::new(Vec::new()));
    let (mut stream, seen) = (client.accept_uni().await.unwrap(), Rc::clone(&ids));
    tokio::task::spawn_local(async move {
        let mut bytes = Vec::new();
        while let Ok(Some(chunk)) = stream.read_chunk(usize::MAX, true).await {
            bytes.extend_from_slice(&chunk.bytes);
            assert_eq!(bytes[0], 0, "a control stream");
            let (mut rest, mut found) = (&bytes[1..], Vec::new());
            while let (Some(kind), Some(length)) = (varint(&mut rest), varint(&mut rest)) {
                let Some((mut payload, left)) = rest.split_at_checked(length as usize) else { break };
                if kind == 7 {
                    found.push(varint(&mut payload).unwrap());
                }
                rest = left;
            }
            *seen.borrow_mut() = found;
        }
    });
    ids
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    super::super::frame::varint(bytes)
}

#[test]
fn draining_answers_what_was_asked_and_refuses_the_rest() {
    // On a busy machine a request comes too late that was on its way before the client knew.
    while !drains_with_a_request_on_its_way() {}
}

/// Whether that request was still served.
fn drains_with_a_request_on_its_way() -> bool {
    let served = Cell::new(false);
    let close = closed_with("drained", async || {
        let net = Net::new();
        let gate = Drain::default();
        net.serve({
            let gate = gate.clone();
            move |_| {
                let gate = gate.clone();
                async move {
                    gate.reached(Phase::Quiet).await;
                    response(200, text("answered"))
                }
            }
        });
        let client = net.raw_client().await;
        let ids = goaways(&client).await;
        let open = async || {
            let (mut send, receive) = client.open_bi().await.unwrap();
            send.write_all(&headers(&[GET])).await.unwrap();
            send.finish().unwrap();
            receive
        };
        let refused = async |mut stream: quinn::RecvStream| {
            let error = stream.read_chunk(1, true).await.unwrap_err();
            assert_eq!(error, quinn::ReadError::Reset(code(Code::REQUEST_REJECTED)));
        };
        let mut first = open().await;
        net.drain.advance(Phase::Quiet);
        while ids.borrow().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(ids.borrow()[0], (1 << 62) - 4);
        let mut second = open().await;
        while ids.borrow().len() < 2 {
            tokio::task::yield_now().await;
        }
        served.set(*ids.borrow() == [(1 << 62) - 4, 8]);
        refused(open().await).await;
        gate.advance(Phase::Quiet);
        assert!(first.read_to_end(1000).await.unwrap().ends_with(b"answered"));
        if served.get() {
            assert!(second.read_to_end(1000).await.unwrap().ends_with(b"answered"));
        } else {
            assert_eq!(*ids.borrow(), [(1 << 62) - 4, 4]);
            refused(second).await;
        }
        let closed = client.closed().await;
        net.drain.idle().await;
        closed
    });
    assert_eq!(close, code(Code::NO_ERROR));
    served.get()
}

#[test]
fn who_asks_nothing_is_told_to_go() {
    let close = closed_with("unused", async || {
        let net = Net::new();
        net.serve(|_| async { response(200, text("fine")) });
        let client = net.raw_client().await;
        let ids = goaways(&client).await;
        for asked in 1..=2 {
            assert!(ask(&client, &headers(&[GET])).await.unwrap().ends_with(b"fine"));
            let mut waited = Duration::ZERO;
            while if asked == 1 { waited < IDLE_TIMEOUT / 2 } else { ids.borrow().is_empty() } {
                clock::tick();
                waited += clock::TICK;
                tokio::task::yield_now().await;
            }
            assert!(asked == 1 || (IDLE_TIMEOUT..IDLE_TIMEOUT * 5 / 4).contains(&waited), "{waited:?}");
        }
        let closed = client.closed().await;
        assert_eq!(*ids.borrow(), [(1 << 62) - 4, 8]);
        closed
    });
    assert_eq!(close, code(Code::NO_ERROR));
}

#[test]
fn a_drained_link_is_closed_by_its_client() {
    run(async {
        let net = Net::new();
        net.serve(|_| async { response(200, text("answered")) });
        let link = net.connect().await;
        assert!(read(&mut link.send(get()).await.unwrap().body).await.is_ok());
        net.drain.advance(Phase::Quiet);
        link.closed().await;
        assert!(link.is_draining());
        net.drain.idle().await;
    });
}

#[test]
fn cutting_ends_what_is_left() {
    run(async {
        let net = Net::new();
        net.serve(|_| async {
            std::future::pending::<()>().await;
            response(200, text(""))
        });
        let link = net.connect().await;
        let cut = async {
            while link.in_flight() == 0 {
                tokio::task::yield_now().await;
            }
            net.drain.advance(Phase::Cut);
            net.drain.idle().await;
        };
        let (answer, ()) = tokio::join!(link.send(get()), cut);
        assert_eq!(answer.unwrap_err().reason, Reason::ConnectionTerminated);
    });
}
