//! What a peer cannot make us keep.

use super::*;
use crate::http::h3::code::Code;
use crate::http::h3::control::MAX_CONTROL_FRAME;
use crate::http::rules::{MAX_FIELDS, MAX_HEAD_BYTES, MAX_TARGET_BYTES, MAX_TRAILER_BYTES};
use crate::net::quic::{FIRST_STREAMS, STREAM_WINDOW};
use std::cell::Cell;
use tokio::sync::Notify;

/// `:status: 431`: literal with name reference.
fn is_431(answer: &[u8]) -> bool {
    answer.starts_with(b"\x01") && answer.ends_with(b"\0\0\x5f\x09\x03431")
}

#[test]
fn an_oversized_head_is_refused_at_its_announcement() {
    run(async {
        let net = Net::new();
        net.serve(|_| async { response(200, text("fine")) });
        let client = net.raw_client().await;
        let (mut send, mut receive) = client.open_bi().await.unwrap();
        send.write_all(&announce(1, 1 << 29)).await.unwrap();
        assert!(is_431(&receive.read_to_end(1000).await.unwrap()));
        assert_eq!(send.stopped().await.unwrap(), Some(code(Code::NO_ERROR)));
    });
}

#[test]
fn the_limits_of_a_head_are_met_exactly() {
    run(async {
        let net = Net::new();
        net.serve(|_| async { response(200, text("fine")) });
        let client = net.raw_client().await;
        let ask = async |lines: &[&[u8]]| {
            let (mut send, mut receive) = client.open_bi().await.unwrap();
            let _ = send.write_all(&headers(lines)).await;
            let _ = send.finish();
            receive.read_to_end(1000).await.unwrap()
        };
        // RFC 9114 section 4.2.2: each line counts with 32 bytes more than its name and value.
        let pseudo = 7 + 3 + 7 + 5 + 5 + 1 + 10 + 1 + 4 * 32;
        let fits = line("x-big", &"a".repeat(MAX_HEAD_BYTES - pseudo - 32 - 5));
        assert!(ask(&[GET, &fits]).await.ends_with(b"fine"));
        let more = line("x-big", &"a".repeat(MAX_HEAD_BYTES - pseudo - 32 - 5 + 1));
        assert!(is_431(&ask(&[GET, &more]).await));
        let field = line("x", "1").repeat(MAX_FIELDS);
        assert!(ask(&[GET, &field]).await.ends_with(b"fine"));
        assert!(is_431(&ask(&[GET, &field, &line("x", "1")]).await));
        let target = |length| line(":path", &format!("/{}", "a".repeat(length - 1)));
        let rest: &[u8] = &[0xd1, 0xd7, 0x50, 1, b'a'];
        assert!(ask(&[rest, &target(MAX_TARGET_BYTES)]).await.ends_with(b"fine"));
        let refused = ask(&[rest, &target(MAX_TARGET_BYTES + 1)]).await;
        assert!(!refused.ends_with(b"fine") && !refused.is_empty());
    });
}

#[test]
fn oversized_trailers_are_a_fault() {
    run(async {
        let net = Net::new();
        net.serve(|mut request| async move {
            match read(&mut request.body).await {
                Ok(_) => response(200, text("fine")),
                Err(fault) => response(fault.reason.row().status, text("large")),
            }
        });
        let client = net.raw_client().await;
        for (length, end) in [(MAX_TRAILER_BYTES - 5 - 32, &b"fine"[..]), (MAX_TRAILER_BYTES - 5 - 31, b"large")] {
            let (mut send, mut receive) = client.open_bi().await.unwrap();
            let trailers = headers(&[&line("x-big", &"a".repeat(length))]);
            let _ = send.write_all(&[headers(&[POST]), frame(0, b"x"), trailers].concat()).await;
            let _ = send.finish();
            assert!(receive.read_to_end(1000).await.unwrap().ends_with(end), "{length}");
        }
    });
}

#[test]
fn unknown_frames_are_skipped_whatever_their_size() {
    run(async {
        let net = Net::new();
        net.serve(|mut request| async move {
            let (content, _) = read(&mut request.body).await.unwrap();
            assert_eq!(content, b"content");
            response(200, text("fine"))
        });
        let client = net.raw_client().await;
        let (mut send, mut receive) = client.open_bi().await.unwrap();
        let unknown = frame(0x21, &vec![0; 3_000_000]);
        for piece in
            [&unknown[..], &headers(&[POST]), &frame(0x3f, b""), &frame(0, b"con"), &unknown, &frame(0, b"tent")]
        {
            send.write_all(piece).await.unwrap();
        }
        send.finish().unwrap();
        assert!(receive.read_to_end(1000).await.unwrap().ends_with(b"fine"));
    });
}

#[test]
fn a_head_may_come_byte_by_byte() {
    run(async {
        let net = Net::new();
        net.serve(|_| async { response(200, text("fine")) });
        let client = net.raw_client().await;
        let (mut send, mut receive) = client.open_bi().await.unwrap();
        for byte in headers(&[GET]) {
            let before = client.stats().frame_rx.acks;
            send.write_all(&[byte]).await.unwrap();
            while client.stats().frame_rx.acks == before {
                tokio::task::yield_now().await;
            }
        }
        send.finish().unwrap();
        assert!(receive.read_to_end(1000).await.unwrap().ends_with(b"fine"));
    });
}

#[test]
fn a_large_frame_on_the_control_stream_closes_the_connection() {
    for (length, fine) in [(MAX_CONTROL_FRAME, true), (MAX_CONTROL_FRAME + 1, false)] {
        let close = closed_with("a large frame", async || {
            let net = Net::new();
            net.serve(|_| async { response(200, text("fine")) });
            let connecting = net.client.connect_with(net.config.clone(), net.address(), "localhost").unwrap();
            let client = connecting.await.unwrap();
            let mut control = client.open_uni().await.unwrap();
            let skipped = frame(0x21, &[0; 100_000]);
            // Unknown settings of four bytes each; they are ignored.
            let settings: Vec<u8> =
                (0..length / 4).flat_map(|i| [0x40 | (i >> 8) as u8 | 0x20, i as u8, 0x40, 0]).collect();
            let payload = [&settings[..], &vec![0; (length % 4) as usize]].concat();
            control.write_all(&[&[0][..], &frame(4, &payload), &skipped].concat()).await.unwrap();
            if fine {
                let (mut send, mut receive) = client.open_bi().await.unwrap();
                send.write_all(&headers(&[GET])).await.unwrap();
                send.finish().unwrap();
                assert!(receive.read_to_end(1000).await.unwrap().ends_with(b"fine"));
                net.drain.advance(crate::drain::Phase::Cut);
            }
            client.closed().await
        });
        assert_eq!(close, code(if fine { Code::NO_ERROR } else { Code::EXCESSIVE_LOAD }));
    }
}

#[test]
fn a_reader_that_stops_stops_the_writer() {
    run(async {
        let (hop, net) = (Net::new(), Net::new());
        let (inner, server, _control) = net.raw_server().await;
        hop.serve(move |request| forward(inner.clone(), request));
        let client = hop.raw_client().await;
        let (mut send, _receive) = client.open_bi().await.unwrap();
        send.write_all(&headers(&[POST])).await.unwrap();
        // The server reads nothing after the head.
        let (_origin, _request) = server.accept_bi().await.unwrap();
        let piece = frame(0, &[7; 16 * 1024]);
        let mut written = 0_u64;
        let write = async {
            loop {
                written += send.write(&piece[..]).await.unwrap() as u64;
            }
        };
        let blocked = async {
            while client.stats().frame_tx.stream_data_blocked == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = write => {}
            () = blocked => {}
        }
        // One window at the server, one at the hop, what is on the way.
        assert!(written < 3 * u64::from(STREAM_WINDOW), "{written} bytes were taken");
    });
}

#[test]
fn more_streams_are_allowed_to_a_client_that_uses_them() {
    run(async {
        const REQUESTS: usize = FIRST_STREAMS as usize * 3;
        let net = Net::new();
        let (open, gate) = (Rc::new(Cell::new(0)), Drain::default());
        net.serve({
            let (open, gate) = (Rc::clone(&open), gate.clone());
            move |_| {
                open.set(open.get() + 1);
                if open.get() == REQUESTS {
                    gate.advance(crate::drain::Phase::Quiet);
                }
                let gate = gate.clone();
                async move {
                    gate.reached(crate::drain::Phase::Quiet).await;
                    response(200, text("fine"))
                }
            }
        });
        let link = net.connect().await;
        let requests: Vec<_> = (0..REQUESTS)
            .map(|_| {
                let link = link.clone();
                tokio::task::spawn_local(async move {
                    let mut response = link.send(get()).await.unwrap();
                    read(&mut response.body).await.unwrap().0.len()
                })
            })
            .collect();
        for request in requests {
            assert_eq!(request.await.unwrap(), 4);
        }
    });
}

/// Rapid reset (as CVE-2023-44487): a stream that is reset makes room for another one, so what was asked on it must end.
#[test]
fn requests_that_are_reset_end() {
    struct Open(Rc<[Cell<usize>; 2]>, Rc<Notify>);
    impl Drop for Open {
        fn drop(&mut self) {
            self.0[0].set(self.0[0].get() - 1);
            self.1.notify_one();
        }
    }
    run(async {
        const TOGETHER: usize = FIRST_STREAMS as usize / 2;
        const ROUNDS: usize = 6;
        let net = Net::new();
        // How many run, and how many have run.
        let (counts, changed) = (Rc::new([Cell::new(0), Cell::new(0)]), Rc::new(Notify::new()));
        net.serve({
            let (counts, changed) = (Rc::clone(&counts), Rc::clone(&changed));
            move |_| {
                counts.iter().for_each(|count| count.set(count.get() + 1));
                changed.notify_one();
                let open = Open(Rc::clone(&counts), Rc::clone(&changed));
                async move {
                    std::future::pending::<()>().await;
                    drop(open);
                    response(200, text("never"))
                }
            }
        });
        let client = net.raw_client().await;
        let until = async |done: &dyn Fn(usize, usize) -> bool| {
            while !done(counts[0].get(), counts[1].get()) {
                changed.notified().await;
            }
        };
        for round in 1..=ROUNDS {
            let mut streams = Vec::new();
            for _ in 0..TOGETHER {
                let (mut send, receive) = client.open_bi().await.unwrap();
                send.write_all(&headers(&[GET])).await.unwrap();
                streams.push((send, receive));
            }
            until(&|_, all| all == round * TOGETHER).await;
            assert!(counts[0].get() <= 2 * TOGETHER, "{} run in round {round}", counts[0].get());
            for (mut send, mut receive) in streams {
                send.reset(code(Code::REQUEST_CANCELLED)).unwrap();
                receive.stop(code(Code::REQUEST_CANCELLED)).unwrap();
            }
        }
        until(&|open, _| open == 0).await;
        assert!(client.close_reason().is_none());
    });
}

#[test]
fn a_client_proves_its_address_while_many_do_not() {
    run(async {
        let net = Net::new();
        let accept = async {
            assert!(quic::admit(net.server.accept().await.unwrap(), quic::MAX_UNPROVEN).is_none());
            let proven = net.server.accept().await.unwrap();
            assert!(proven.remote_address_validated());
            quic::admit(proven, quic::MAX_UNPROVEN).unwrap().await.unwrap()
        };
        let (_client, server) = tokio::join!(net.raw_client(), accept);
        assert!(server.close_reason().is_none());
    });
}

#[test]
fn interim_responses_that_nobody_reads_do_not_pile_up() {
    run(async {
        let (net, said) = (Net::new(), Rc::new(Notify::new()));
        net.serve({
            let said = Rc::clone(&said);
            move |request| {
                let said = Rc::clone(&said);
                async move {
                    let bounded = request.interim.flood().await;
                    said.notify_one();
                    response(200, text(if bounded { "bounded" } else { "not bounded" }))
                }
            }
        });
        let client = net.raw_client().await;
        let (mut send, mut receive) = client.open_bi().await.unwrap();
        send.write_all(&headers(&[GET])).await.unwrap();
        send.finish().unwrap();
        said.notified().await;
        assert!(receive.read_to_end(usize::MAX).await.unwrap().ends_with(b"\x07bounded"));
    });
}
