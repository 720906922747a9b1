//! Our client against a server by hand.

use super::*;
use crate::fault::{Reason, Retry};
use crate::http::h3::code::Code;
use crate::net::quic::{IDLE_TIMEOUT, KEEP_ALIVE};

/// The request's stream as the server sees it, its head read.
async fn accept(connection: &quinn::Connection) -> (quinn::SendStream, quinn::RecvStream) {
    let (send, mut receive) = connection.accept_bi().await.unwrap();
    assert_eq!(receive.read_chunk(1, true).await.unwrap().unwrap().bytes[0], 1);
    (send, receive)
}

#[test]
fn a_dropped_request_is_cancelled_and_never_ends_cleanly() {
    run(async {
        let (hop, net) = (Net::new(), Net::new());
        let (link, server, _control) = net.raw_server().await;
        hop.serve(move |request| forward(link.clone(), request));
        let client = hop.raw_client().await;
        // A body that has not ended, so that both directions are open.
        let (mut send, mut receive) = client.open_bi().await.unwrap();
        send.write_all(&[headers(&[POST]), frame(0, b"some")].concat()).await.unwrap();
        let (origin, mut from_hop) = accept(&server).await;
        receive.stop(code(Code::REQUEST_CANCELLED)).unwrap();
        assert_eq!(origin.stopped().await.unwrap(), Some(code(Code::REQUEST_CANCELLED)));
        loop {
            match from_hop.read_chunk(usize::MAX, true).await {
                Ok(Some(_)) => {}
                end => {
                    assert_eq!(end.unwrap_err(), quinn::ReadError::Reset(code(Code::REQUEST_CANCELLED)));
                    break;
                }
            }
        }
    });
}

#[test]
fn a_dropped_response_is_stopped() {
    run(async {
        let net = Net::new();
        let (link, server, _control) = net.raw_server().await;
        let origin = async {
            let (mut send, _receive) = accept(&server).await;
            send.write_all(&[headers(&[OK]), frame(0, b"some")].concat()).await.unwrap();
            send
        };
        let (answer, send) = tokio::join!(link.send(get()), origin);
        let mut answer = answer.unwrap();
        assert!(matches!(answer.body.frame().await, Some(Ok(Frame::Data(_)))));
        assert_eq!(link.in_flight(), 1);
        drop(answer);
        assert_eq!(send.stopped().await.unwrap(), Some(code(Code::REQUEST_CANCELLED)));
        assert_eq!(link.in_flight(), 0);
    });
}

#[test]
fn resets_tell_whether_to_try_again() {
    for (reset, reason, retry) in [
        (Code::REQUEST_REJECTED, Reason::RefusedStream, Retry::Safe),
        (Code::REQUEST_CANCELLED, Reason::StreamReset, Retry::Unsafe),
        (Code::INTERNAL_ERROR, Reason::StreamReset, Retry::Unsafe),
    ] {
        run(async {
            let net = Net::new();
            let (link, server, _control) = net.raw_server().await;
            let origin = async {
                let (mut send, _receive) = accept(&server).await;
                send.reset(code(reset)).unwrap();
            };
            let (answer, ()) = tokio::join!(link.send(get()), origin);
            let fault = answer.unwrap_err();
            assert_eq!((fault.reason, fault.retry), (reason, retry), "{reset}");
        });
    }
}

#[test]
fn a_goaway_below_a_request_makes_it_safe_to_send_again() {
    run(async {
        let net = Net::new();
        let (link, server, mut control) = net.raw_server().await;
        let origin = async {
            let first = accept(&server).await;
            let second = accept(&server).await;
            control.write_all(&frame(7, &[4])).await.unwrap();
            (first, second)
        };
        let (first, second) = (link.send(get()), link.send(get()));
        let finish_first = async {
            let ((mut send, _first), _second) = origin.await;
            while !link.is_draining() {
                tokio::task::yield_now().await;
            }
            // New ones are refused without asking.
            let third = link.send(get()).await.unwrap_err();
            assert_eq!((third.reason, third.retry), (Reason::RefusedStream, Retry::Safe));
            send.write_all(&[headers(&[OK]), frame(0, b"done")].concat()).await.unwrap();
            send.finish().unwrap();
        };
        let (first, second, ()) = tokio::join!(first, second, finish_first);
        let second = second.unwrap_err();
        assert_eq!((second.reason, second.retry), (Reason::RefusedStream, Retry::Safe));
        assert_eq!(read(&mut first.unwrap().body).await.unwrap().0, b"done");
        // Nothing is in flight any more: the client closes.
        link.closed().await;
        assert!(link.is_closed() && link.is_draining());
    });
}

#[test]
fn a_goaway_that_grows_closes_the_connection() {
    let close = closed_with("a GOAWAY that grows", async || {
        let net = Net::new();
        let (link, server, mut control) = net.raw_server().await;
        let hold = link.send(get());
        let origin = async {
            let _stream = accept(&server).await;
            control.write_all(&[frame(7, &[4]), frame(7, &[8])].concat()).await.unwrap();
            server.closed().await
        };
        tokio::join!(hold, origin).1
    });
    assert_eq!(close, code(Code::ID_ERROR));
}

#[test]
fn a_server_that_pushes_is_left() {
    for (what, kind, payload, reason) in [
        ("a push stream", None, &[1][..], Code::ID_ERROR),
        ("a CANCEL_PUSH", Some(3), &[0], Code::ID_ERROR),
        ("a MAX_PUSH_ID", Some(13), &[0], Code::FRAME_UNEXPECTED),
        ("half a GOAWAY", Some(7), &[0x40], Code::FRAME_ERROR),
    ] {
        let close = closed_with(what, async || {
            let net = Net::new();
            let (link, server, mut control) = net.raw_server().await;
            match kind {
                Some(kind) => control.write_all(&frame(kind, payload)).await.unwrap(),
                None => server.open_uni().await.unwrap().write_all(payload).await.unwrap(),
            }
            let closed = server.closed().await;
            assert!(link.is_closed());
            closed
        });
        assert_eq!(close, code(reason), "{what}");
    }
}

#[test]
fn a_lost_connection_is_no_refusal() {
    run(async {
        let net = Net::new();
        let (link, server, _control) = net.raw_server().await;
        let origin = async {
            let _stream = accept(&server).await;
            server.close(code(Code::INTERNAL_ERROR), b"");
        };
        let (answer, ()) = tokio::join!(link.send(get()), origin);
        let fault = answer.unwrap_err();
        assert_eq!((fault.reason, fault.retry), (Reason::ConnectionTerminated, Retry::Unsafe));
        let fault = link.send(get()).await.unwrap_err();
        assert_eq!((fault.reason, fault.retry), (Reason::RefusedStream, Retry::Safe));
    });
}

#[test]
fn broken_responses_are_faults() {
    let length = line("content-length", "10");
    let connection = line("connection", "close");
    let big = line("x-big", &"a".repeat(crate::http::rules::MAX_HEAD_BYTES));
    for (what, frames, reason) in [
        ("two statuses", headers(&[OK, OK]), Reason::HttpProtocolError),
        ("a connection field", headers(&[OK, &connection]), Reason::HttpProtocolError),
        ("status 101", headers(&[&[0x5f, 0x09, 3, b'1', b'0', b'1']]), Reason::HttpProtocolError),
        ("no head", Vec::new(), Reason::HttpResponseIncomplete),
        ("data first", frame(0, b"x"), Reason::HttpProtocolError),
        ("a large head", headers(&[OK, &big]), Reason::HttpResponseHeaderSectionSize),
        ("two lengths", headers(&[OK, &length, &length]), Reason::HttpProtocolError),
        ("a head only", headers(&[OK, &length]), Reason::HttpResponseIncomplete),
        ("too little", [headers(&[OK, &length]), frame(0, b"short")].concat(), Reason::HttpResponseIncomplete),
        ("too much", [headers(&[OK, &length]), frame(0, b"longer than ten")].concat(), Reason::HttpProtocolError),
        ("a cut frame", [headers(&[OK]), announce(0, 10), b"cut".to_vec()].concat(), Reason::HttpProtocolError),
        ("a status in trailers", [headers(&[OK]), frame(0, b"x"), headers(&[OK])].concat(), Reason::HttpProtocolError),
    ] {
        run(async {
            let net = Net::new();
            let (link, server, _control) = net.raw_server().await;
            let origin = async {
                let (mut send, _receive) = accept(&server).await;
                // May be stopped midway.
                let _ = send.write_all(&frames).await;
                let _ = send.finish();
                let _ = send.stopped().await;
            };
            let exchange = async {
                let mut response = link.send(get()).await?;
                read(&mut response.body).await
            };
            let (read, ()) = tokio::join!(exchange, origin);
            assert_eq!(read.unwrap_err().reason, reason, "{what}");
        });
    }
}

#[test]
fn a_server_that_needs_no_more_of_a_request_may_answer() {
    run(async {
        let (hop, net) = (Net::new(), Net::new());
        let (link, server, _control) = net.raw_server().await;
        hop.serve(move |request| forward(link.clone(), request));
        let client = hop.raw_client().await;
        let (mut send, mut receive) = client.open_bi().await.unwrap();
        send.write_all(&[headers(&[POST]), frame(0, b"some")].concat()).await.unwrap();
        let (mut origin, mut upload) = accept(&server).await;
        upload.stop(code(Code::NO_ERROR)).unwrap();
        send.write_all(&frame(0, b"more")).await.unwrap();
        origin.write_all(&[headers(&[OK]), frame(0, b"enough")].concat()).await.unwrap();
        origin.finish().unwrap();
        let answer = receive.read_to_end(1000).await.unwrap();
        assert!(answer.ends_with(b"enough"));
    });
}

#[test]
fn a_request_waits_while_the_server_allows_no_more_streams() {
    run(async {
        let mut net = Net::new();
        let certificate = Certificate::new();
        let roots = certificate.roots();
        let mut tls = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(certificate.chain, certificate.key)
            .unwrap();
        tls.alpn_protocols = vec![b"h3".to_vec()];
        let mut config = quic::server(Arc::new(tls)).unwrap();
        let mut transport = quinn::TransportConfig::default();
        transport.max_concurrent_bidi_streams(1_u8.into());
        config.transport_config(Arc::new(transport));
        net.config = Net::with(
            rustls::ServerConfig::builder_with_provider(provider())
                .with_protocol_versions(&[&rustls::version::TLS13])
                .unwrap()
                .with_no_client_auth()
                .with_cert_resolver(Arc::new(rustls::server::ResolvesServerCertUsingSni::new())),
            roots,
        )
        .config;
        net.server.set_server_config(Some(config));
        let (link, server, _control) = net.raw_server().await;
        let answer = |(mut send, mut receive): (quinn::SendStream, quinn::RecvStream)| async move {
            receive.read_to_end(1000).await.unwrap();
            send.write_all(&headers(&[OK])).await.unwrap();
            send.finish().unwrap();
        };
        let origin = async {
            let first = accept(&server).await;
            while !link.is_full() {
                tokio::task::yield_now().await;
            }
            answer(first).await;
            answer(accept(&server).await).await;
        };
        let (first, second, ()) = tokio::join!(link.send(get()), link.send(get()), origin);
        assert!(read(&mut first.unwrap().body).await.is_ok());
        assert!(read(&mut second.unwrap().body).await.is_ok());
        assert!(!link.is_full());
    });
}

#[test]
fn certificates_are_told_from_other_failures() {
    run(async {
        let mut net = Net::new();
        net.config = Net::new().config;
        net.serve(|_| async { response(200, text("")) });
        let fault = net.try_connect().await.unwrap_err();
        assert_eq!((fault.reason, fault.retry), (Reason::TlsCertificateError, Retry::Safe), "{fault}");
    });
    run(async {
        let certificate = Certificate::new();
        let roots = certificate.roots();
        let verifier =
            rustls::server::WebPkiClientVerifier::builder_with_provider(roots.clone(), provider()).build().unwrap();
        let server = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(certificate.chain, certificate.key)
            .unwrap();
        let net = Net::with(server, roots);
        let endpoint = net.server.clone();
        let server = async move { endpoint.accept().await.unwrap().await.unwrap_err() };
        let (connected, _) = tokio::join!(net.try_connect(), server);
        let fault = connected.map(|_| ()).unwrap_err();
        assert_eq!((fault.reason, fault.retry), (Reason::TlsCertificateError, Retry::Safe), "{fault}");
    });
}

/// By its pings alone an idle link stays open; and without their answers it is found dead. The clock is the test's:
/// nobody waits.
#[test]
fn pings_keep_an_idle_link_open_and_find_a_dead_one() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let net = Net::new();
        net.serve(|_| async { response(200, text("fine")) });
        let link = net.connect().await;
        for _ in 0..2 {
            let mut answer = link.send(get()).await.unwrap();
            assert_eq!(read(&mut answer.body).await.unwrap().0, b"fine");
            tokio::time::sleep(10 * IDLE_TIMEOUT).await;
            assert!(!link.is_closed(), "idle, and alive");
        }
        // The server goes on at another port, where nobody looks for it.
        net.server.rebind(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).unwrap();
        tokio::time::sleep(IDLE_TIMEOUT - KEEP_ALIVE).await;
        assert!(!link.is_closed(), "packets may be lost");
        tokio::time::sleep(2 * KEEP_ALIVE).await;
        assert!(link.is_closed());
    });
}

#[test]
fn a_link_that_a_server_does_not_acknowledge_any_more_is_given_up() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        tokio::task::spawn_local(crate::clock::run());
        let net = Net::new();
        let (link, server, _control) = net.raw_server().await;
        for _ in 0..2 {
            let answer = async {
                let (mut send, _receive) = accept(&server).await;
                send.write_all(&headers(&[OK])).await.unwrap();
                send.finish().unwrap();
            };
            let (answered, ()) = tokio::join!(link.send(get()), answer);
            assert!(answered.is_ok());
            tokio::time::sleep(crate::clock::TICK * 4).await;
        }
        let waiting = tokio::task::spawn_local({
            let link = link.clone();
            async move { link.send(get()).await }
        });
        let _asked = accept(&server).await;
        tokio::time::sleep(IDLE_TIMEOUT * 2).await;
        assert!(link.has_room(), "it waits for an answer, and all is acknowledged");
        // The server hears who asks at its port, and goes on with the connection at another one, where nobody looks for it.
        net.server.rebind(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).unwrap();
        while link.has_room() {
            tokio::time::sleep(crate::clock::TICK).await;
        }
        assert!(!link.is_closed(), "nothing new is sent there, and what is may be answered");
        let fault = waiting.await.unwrap().unwrap_err();
        assert_eq!((fault.reason, fault.retry), (Reason::ConnectionTerminated, Retry::Unsafe));
        assert!(fault.to_string().contains("does not know the link") && link.is_closed(), "{fault}");
    });
}
