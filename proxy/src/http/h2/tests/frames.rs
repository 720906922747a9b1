//! Frame by frame: what a peer may not do, what it may, and what it gets for it.

use super::*;

/// A server after the beginning, and what a client says next.
struct Peer {
    connection: Connection,
    encoder: Encoder,
}

impl Peer {
    fn new() -> Peer {
        let mut peer = Peer { connection: Connection::new(true), encoder: Encoder::default() };
        peer.feed(PREFACE);
        peer.frame(kind::SETTINGS, 0, 0, &[]);
        peer.said();
        peer
    }

    fn feed(&mut self, bytes: &[u8]) {
        self.connection.receive(&mut BytesMut::from(bytes));
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut out = BytesMut::new();
        frame::write(&mut out, kind, flags, stream, payload);
        self.feed(&out);
    }

    fn block(&mut self, lines: &[(&str, &str)]) -> BytesMut {
        let mut out = BytesMut::new();
        for (name, value) in lines {
            self.encoder.line(&mut out, name.as_bytes(), value.as_bytes(), false);
        }
        out
    }

    fn open(&mut self, id: u32, flags: u8, more: &[(&str, &str)]) {
        let head = [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a")];
        let block = self.block(&[&head[..], more].concat());
        self.frame(kind::HEADERS, flags | flag::END_HEADERS, id, &block);
    }

    /// The frames that it has to say.
    fn said(&mut self) -> Vec<(u8, u32, Vec<u8>)> {
        self.connection.schedule();
        let mut bytes = self.connection.output.take();
        let mut frames = Vec::new();
        while let Some(header) = Header::read(&bytes) {
            let frame = bytes.split_to(HEADER + header.length);
            frames.push((header.kind, header.stream, frame[HEADER..].to_vec()));
        }
        frames
    }

    /// The codes of what it has reset, and of its GOAWAY.
    fn codes(&mut self) -> Vec<(u32, Code)> {
        let said = self.said();
        said.iter()
            .filter_map(|(kind, stream, payload)| match *kind {
                kind::RST_STREAM => Some((*stream, Code(frame::word(payload)?))),
                kind::GOAWAY => Some((0, Code(frame::word(&payload[4..])?))),
                _ => None,
            })
            .collect()
    }
}

#[test]
fn violations_end_a_stream_or_the_connection() {
    type Case = (&'static str, fn(&mut Peer), (u32, Code));
    let cases: [Case; 25] = [
        ("a frame too large", |p| p.feed(b"\x01\0\x01\0\0\0\0\0\x01"), (0, Code::FRAME_SIZE_ERROR)),
        ("DATA on an idle stream", |p| p.frame(kind::DATA, 0, 1, b"x"), (0, Code::PROTOCOL_ERROR)),
        ("DATA on no stream", |p| p.frame(kind::DATA, 0, 0, b"x"), (0, Code::PROTOCOL_ERROR)),
        ("an even stream", |p| p.open(2, 0, &[]), (0, Code::PROTOCOL_ERROR)),
        ("PUSH_PROMISE", |p| p.frame(kind::PUSH_PROMISE, 4, 1, b"\0\0\0\x02"), (0, Code::PROTOCOL_ERROR)),
        ("CONTINUATION of nothing", |p| p.frame(kind::CONTINUATION, 4, 1, b""), (0, Code::PROTOCOL_ERROR)),
        ("garbled fields", |p| p.frame(kind::HEADERS, 4, 1, b"\xff\xff"), (0, Code::COMPRESSION_ERROR)),
        ("PING of a wrong length", |p| p.frame(kind::PING, 0, 0, b"1234567"), (0, Code::FRAME_SIZE_ERROR)),
        ("PING on a stream", |p| p.frame(kind::PING, 0, 1, b"12345678"), (0, Code::PROTOCOL_ERROR)),
        ("half a setting", |p| p.frame(kind::SETTINGS, 0, 0, b"123"), (0, Code::FRAME_SIZE_ERROR)),
        (
            "a window that cannot be",
            |p| p.frame(kind::SETTINGS, 0, 0, b"\0\x04\x80\0\0\0"),
            (0, Code::FLOW_CONTROL_ERROR),
        ),
        (
            "a frame size that cannot be",
            |p| p.frame(kind::SETTINGS, 0, 0, b"\0\x05\0\0\0\x01"),
            (0, Code::PROTOCOL_ERROR),
        ),
        ("a window that grows by nothing", |p| p.frame(kind::WINDOW_UPDATE, 0, 0, &[0; 4]), (0, Code::PROTOCOL_ERROR)),
        (
            "a window too large",
            |p| p.frame(kind::WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"),
            (0, Code::FLOW_CONTROL_ERROR),
        ),
        ("RST_STREAM of an idle stream", |p| p.frame(kind::RST_STREAM, 0, 1, &[0; 4]), (0, Code::PROTOCOL_ERROR)),
        (
            "content after the end",
            |p| {
                p.open(1, flag::END_STREAM, &[]);
                p.frame(kind::DATA, 0, 1, b"x");
            },
            (1, Code::STREAM_CLOSED),
        ),
        (
            "content after a reset",
            |p| {
                p.open(1, 0, &[]);
                p.frame(kind::RST_STREAM, 0, 1, &[0; 4]);
                (0..3).for_each(|_| p.frame(kind::DATA, 0, 1, b"x"));
            },
            (1, Code::STREAM_CLOSED),
        ),
        (
            "a second head",
            |p| {
                p.open(1, 0, &[]);
                p.open(1, 0, &[]);
            },
            (1, Code::PROTOCOL_ERROR),
        ),
        (
            "more than was announced",
            |p| {
                p.open(1, 0, &[("content-length", "1")]);
                p.frame(kind::DATA, 0, 1, b"xy");
            },
            (1, Code::PROTOCOL_ERROR),
        ),
        (
            "less than was announced",
            |p| {
                p.open(1, 0, &[("content-length", "3")]);
                p.frame(kind::DATA, flag::END_STREAM, 1, b"xy");
            },
            (1, Code::PROTOCOL_ERROR),
        ),
        ("nothing of what was announced", |p| p.open(1, 1, &[("content-length", "3")]), (1, Code::PROTOCOL_ERROR)),
        ("a field of a connection", |p| p.open(1, 1, &[("connection", "close")]), (1, Code::PROTOCOL_ERROR)),
        (
            "more than the window of the stream",
            |p| {
                p.open(1, 0, &[]);
                let piece = vec![0; 60_000];
                (0..=STREAM_WINDOW as usize / piece.len()).for_each(|_| p.frame(kind::DATA, 0, 1, &piece));
            },
            (1, Code::FLOW_CONTROL_ERROR),
        ),
        (
            "more than the window of the connection",
            |p| {
                let piece = vec![0; 60_000];
                for id in 0..=CONNECTION_WINDOW / 960_000 {
                    p.open(id * 2 + 1, 0, &[]);
                    (0..16).for_each(|_| p.frame(kind::DATA, 0, id * 2 + 1, &piece));
                }
            },
            (0, Code::FLOW_CONTROL_ERROR),
        ),
        (
            "a window of a stream too large",
            |p| {
                p.open(1, 0, &[]);
                p.frame(kind::WINDOW_UPDATE, 0, 1, b"\x7f\xff\xff\xff");
            },
            (1, Code::FLOW_CONTROL_ERROR),
        ),
    ];
    for (what, act, code) in cases {
        let mut peer = Peer::new();
        act(&mut peer);
        assert_eq!(peer.codes(), [code], "{what}");
        assert_eq!(matches!(peer.connection.over, Some(Over::Violated(_))), code.0 == 0, "{what}");
    }
}

#[test]
fn floods_end_the_connection() {
    type Case = (&'static str, fn(&mut Peer, u32), u32);
    let cases: [Case; 8] = [
        (
            "CONTINUATION without end (CVE-2024-27316)",
            |p, n| match n {
                0 => p.frame(kind::HEADERS, 0, 1, b""),
                _ => p.frame(kind::CONTINUATION, 0, 1, b""),
            },
            65,
        ),
        (
            "fields without end",
            |p, n| match n {
                0 => p.frame(kind::HEADERS, 0, 1, b""),
                _ => p.frame(kind::CONTINUATION, 0, 1, &[0x82; 60_000]),
            },
            5,
        ),
        ("empty content", |p, n| if n == 0 { p.open(1, 0, &[]) } else { p.frame(kind::DATA, 0, 1, b"") }, 10_001),
        // After the SETTINGS of the beginning.
        ("priorities", |p, _| p.frame(kind::PRIORITY, 0, 1, b"\0\0\0\0\0"), 10_000),
        ("settings (CVE-2019-9515)", |p, _| p.frame(kind::SETTINGS, 0, 0, b""), 10_000),
        ("farewells", |p, _| p.frame(kind::GOAWAY, 0, 0, &[0; 8]), 10_000),
        (
            "settings of one frame (CVE-2020-11080)",
            |p, n| p.frame(kind::SETTINGS, 0, 0, &b"\0\x04\0\0\0\x01".repeat(n as usize)),
            34,
        ),
        (
            "streams that are reset as they are opened (CVE-2023-44487)",
            |p, n| {
                p.open(n * 2 + 1, 1, &[]);
                p.frame(kind::RST_STREAM, 0, n * 2 + 1, b"\0\0\0\x08");
            },
            MAX_STREAMS + 1,
        ),
    ];
    for (what, act, enough) in cases {
        let mut peer = Peer::new();
        let mut number = 0;
        while peer.connection.over.is_none() {
            act(&mut peer, number);
            number += 1;
        }
        assert!((enough..=enough + 1).contains(&number), "{what}: after {number}");
        assert_eq!(peer.codes(), [(0, Code::ENHANCE_YOUR_CALM)], "{what}");
    }
    // Errors that make us reset streams (CVE-2025-8671): a link lives for weeks, and forgives many.
    let mut peer = Peer::new();
    for number in 0..=crate::http::h2::server::MAX_ERROR_RESETS as u32 {
        assert_eq!(peer.connection.over, None);
        peer.open(number * 2 + 1, 1, &[("connection", "close")]);
    }
    assert!(peer.connection.over.is_some());
}

/// Of the windows in one frame of settings the last one counts: all streams are gone through once.
#[test]
fn the_last_window_of_a_frame_counts() {
    let mut peer = Peer::new();
    peer.open(1, 1, &[]);
    let key = peer.connection.accepted.pop_front().expect("a request").key;
    peer.frame(kind::SETTINGS, 0, 0, b"\0\x04\x7f\xff\xff\xff\0\x04\0\0\0\x07");
    assert_eq!(peer.connection.streams.get(key).expect("open").send_window, 7);
    peer.frame(kind::SETTINGS, 0, 0, b"\0\x04\xff\xff\xff\xff\0\x04\0\0\0\x07");
    assert_eq!(peer.codes(), [(0, Code::FLOW_CONTROL_ERROR)], "and each has to be one");
}

/// However many settings are read at once, streams are gone through when that is done with: with many of both, each would cost all.
#[test]
fn windows_that_change_with_streams_that_open_are_right() {
    let mut peer = Peer::new();
    let mut bytes = BytesMut::new();
    let block = peer.block(&[(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a")]);
    for (id, window) in [(1, 7_u8), (3, 5), (5, 9)] {
        frame::write(&mut bytes, kind::HEADERS, flag::END_HEADERS, id, &block);
        frame::write(&mut bytes, kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, window]);
    }
    frame::write(&mut bytes, kind::WINDOW_UPDATE, 0, 3, &(frame::MAX_31_BITS - 9).to_be_bytes());
    peer.feed(&bytes);
    let windows = [1, 3, 5].map(|id| peer.connection.streams.by_id(id).expect("open").1.send_window);
    assert_eq!((windows, peer.connection.over), ([9, frame::MAX_31_BITS.into(), 9], None));
    peer.frame(kind::SETTINGS, 0, 0, b"\0\x04\0\0\0\x0a");
    assert_eq!(peer.codes(), [(0, Code::FLOW_CONTROL_ERROR)]);
}

/// Rapid reset (CVE-2023-44487): nobody is asked what its client does not want any more.
#[test]
fn a_request_that_was_reset_before_it_was_taken_is_not_served() {
    let mut peer = Peer::new();
    peer.open(1, flag::END_STREAM, &[]);
    peer.open(3, 0, &[]);
    peer.frame(kind::DATA, 0, 3, b"some");
    peer.open(5, flag::END_STREAM, &[]);
    for id in [1, 3] {
        peer.frame(kind::RST_STREAM, 0, id, b"\0\0\0\x08");
    }
    let key = peer.connection.next_request().expect("the last one").key;
    assert_eq!(peer.connection.streams.get(key).map(|stream| stream.id), Some(5));
    assert!(peer.connection.next_request().is_none());
    assert_eq!((peer.connection.streams.len(), peer.connection.streams.open, peer.connection.released), (1, 1, 4));
    assert_eq!((peer.connection.over, peer.codes()), (None, vec![]));
}

/// One that may not send stands in front; those that are reset behind it leave no places in the row.
#[test]
fn streams_that_are_reset_leave_the_row() {
    let mut peer = Peer::new();
    let mut number = 1;
    let mut answer = |peer: &mut Peer, content: usize| {
        peer.open(number, flag::END_STREAM, &[]);
        number += 2;
        let key = peer.connection.next_request().expect("a request").key;
        peer.connection.send(key, pattern(content), true);
        (number - 2, key)
    };
    // All of the connection's window, and the stream may send more.
    let (id, _) = answer(&mut peer, 100_000);
    peer.frame(kind::WINDOW_UPDATE, 0, id, &50_000u32.to_be_bytes());
    peer.said();
    let mut most = 0;
    for _ in 0..10_000 {
        let (id, key) = answer(&mut peer, 10);
        peer.frame(kind::RST_STREAM, 0, id, b"\0\0\0\x08");
        peer.connection.streams.get(key).expect("held by its writer").has_writer = false;
        peer.connection.settle(key);
        peer.said();
        most = most.max(peer.connection.row.len());
    }
    assert!(peer.connection.over.is_none() && peer.connection.streams.len() == 1);
    assert!((1..100).contains(&most), "{most} places for one stream");
}

#[test]
fn what_was_sent_to_a_stream_that_we_reset_is_no_error() {
    let mut peer = Peer::new();
    peer.open(1, 0, &[]);
    let key = peer.connection.accepted.pop_front().expect("a request").key;
    peer.connection.cancel(key, Code::CANCEL);
    for half in 0..2 {
        let stream = peer.connection.streams.get(key).expect("held by its halves");
        if half == 0 {
            stream.has_reader = false
        } else {
            stream.has_writer = false
        }
        peer.connection.settle(key);
    }
    assert_eq!(peer.codes(), [(1, Code::CANCEL)]);
    let window = peer.connection.receive_window;
    peer.frame(kind::DATA, 0, 1, b"more");
    let trailers = peer.block(&[("x-a", "b")]);
    peer.frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 1, &trailers);
    peer.frame(kind::RST_STREAM, 0, 1, &[0; 4]);
    assert_eq!((peer.connection.over, peer.codes()), (None, vec![]));
    assert_eq!(
        (peer.connection.receive_window, peer.connection.released),
        (window - 4, 4),
        "it goes back to the window"
    );
}

/// A reader that does not come must not hold a block for each small piece.
#[test]
fn what_waits_while_much_waits_holds_no_large_block() {
    let (mut peer, mut blocks) = (Peer::new(), Vec::new());
    [1, 3].into_iter().for_each(|id| peer.open(id, 0, &[]));
    let mut say = |id, length| {
        let mut block = BytesMut::new();
        frame::write(&mut block, kind::DATA, 0, id, &vec![0; length]);
        peer.connection.receive(&mut block);
        blocks.push(block);
    };
    say(3, 2000);
    (0..16).for_each(|_| say(1, 64 * 1024));
    say(3, 2000);
    say(3, 16 * 1024);
    let (_, stream) = peer.connection.streams.by_id(3).expect("a stream");
    let alone: Vec<_> = std::iter::from_fn(|| stream.inbox.pop()).map(|piece| piece.is_unique()).collect();
    assert_eq!(alone, [false, true, false], "copied out of the block that others hold, too");
}

/// Small answers get in between large ones, and what the windows do not allow waits.
#[test]
fn streams_take_turns_and_windows_hold() {
    let mut peer = Peer::new();
    peer.frame(kind::SETTINGS, 0, 0, b"\0\x04\0\x10\0\0");
    for id in [1, 3, 5] {
        peer.open(id, flag::END_STREAM, &[]);
    }
    let keys: Vec<_> = peer.connection.accepted.drain(..).map(|accepted| accepted.key).collect();
    for (key, length) in keys.iter().zip([200_000, 200_000, 10]) {
        peer.connection.answer(*key, &ResponseHead::new(StatusCode::OK), false).expect("sent");
        peer.connection.send(*key, pattern(length), true);
    }
    let content = |said: &[(u8, u32, Vec<u8>)]| {
        let data = said.iter().filter(|(kind, _, _)| *kind == kind::DATA);
        data.map(|(_, stream, payload)| (*stream, payload.len())).collect::<Vec<_>>()
    };
    // 65,535 bytes of the connection's window.
    let first = content(&peer.said());
    assert_eq!(first.iter().map(|(_, length)| length).sum::<usize>(), 65_535);
    peer.frame(kind::WINDOW_UPDATE, 0, 0, &100_000_u32.to_be_bytes());
    let mut second = content(&peer.said());
    second.extend(content(&peer.said()));
    assert_eq!(second.iter().map(|(_, length)| length).sum::<usize>(), 100_000);
    let small = second.iter().position(|(stream, _)| *stream == 5).expect("the small one");
    assert!(small <= 2 && second.iter().all(|(_, length)| *length <= 16 * 1024), "{second:?}");
    // A smaller window of the streams: what was sent beyond it is owed.
    peer.frame(kind::SETTINGS, 0, 0, b"\0\x04\0\0\x40\0");
    peer.frame(kind::WINDOW_UPDATE, 0, 0, &1_000_000_u32.to_be_bytes());
    assert_eq!(content(&peer.said()), []);
    let owed = peer.connection.streams.get(keys[0]).expect("open").send_window;
    assert!(owed < 0, "{owed}");
    peer.frame(kind::WINDOW_UPDATE, 0, 1, &(u32::try_from(-owed).unwrap() + 7).to_be_bytes());
    assert_eq!(content(&peer.said()), [(1, 7)]);
}

/// A drained connection serves what was on its way, and refuses what comes later.
#[test]
fn a_drain_is_announced_before_it_is_final() {
    let mut peer = Peer::new();
    peer.connection.drain();
    let said = peer.said();
    assert_eq!((said[0].0, &said[0].2[..4]), (kind::GOAWAY, &b"\x7f\xff\xff\xff"[..]));
    peer.open(1, flag::END_STREAM, &[]);
    peer.frame(kind::PING, flag::ACK, 0, &said[1].2);
    assert_eq!(peer.said()[0].2[..4], *b"\0\0\0\x01");
    peer.open(3, 0, &[]);
    peer.frame(kind::DATA, flag::END_STREAM, 3, b"too late");
    assert_eq!((peer.connection.accepted.len(), peer.connection.over), (1, None));
    assert!(!peer.connection.is_drained());
}

#[test]
fn a_goaway_tells_which_requests_were_not_touched() {
    for code in [Code::NO_ERROR, Code::ENHANCE_YOUR_CALM] {
        let mut connection = Connection::new(false);
        let mut head = RequestHead::unread();
        head.authority = Some("delta".parse().expect("a host"));
        let keys: Vec<_> = (0..3).map(|_| connection.open(&head, true, Rc::default())).collect();
        let mut said = BytesMut::new();
        frame::write_settings(&mut said, &[(setting::MAX_CONCURRENT_STREAMS, 7)]);
        frame::write(
            &mut said,
            kind::GOAWAY,
            0,
            0,
            &[&3_u32.to_be_bytes()[..], &code.0.to_be_bytes(), b"bye"].concat(),
        );
        connection.receive(&mut said);
        let faults: Vec<_> = keys
            .iter()
            .map(|key| {
                let cause = connection.streams.get(*key).expect("held").cause;
                cause.map(|cause| crate::http::h2::stream_fault(cause, Half::Response).reason)
            })
            .collect();
        assert_eq!(faults, [None, None, Some(Reason::RefusedStream)], "{code}");
        assert!(!connection.is_open());
    }
}

/// The application speaks what `inbound.protocol` does not say.
#[test]
fn a_server_of_http1_is_called_that() {
    let mut connection = Connection::new(false);
    connection.receive(&mut BytesMut::from("HTTP/1.1 400 Bad Request\r\n\r\n"));
    assert_eq!(connection.over, Some(Over::Violated("the server speaks HTTP/1, and not HTTP/2")));
}
