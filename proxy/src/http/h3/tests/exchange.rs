//! Both sides of ours, with a hop between them where bodies must stream.

use super::*;
use crate::http::body::Length;
use crate::net::quic::LARGEST_PAYLOAD;
use http::{HeaderValue, StatusCode, header};

/// A link through a hop: link, proxy, service.
async fn through_hop<F: Future<Output = Response> + 'static>(
    hop: &Net,
    net: &Net,
    service: impl Fn(Request) -> F + 'static,
) -> Link {
    net.serve(service);
    let inner = net.connect().await;
    hop.serve(move |request| forward(inner.clone(), request));
    hop.connect().await
}

#[test]
fn heads_bodies_and_trailers_arrive_as_they_were_sent() {
    run(async {
        let (hop, net) = (Net::new(), Net::new());
        let link = through_hop(&hop, &net, |mut request| async move {
            assert_eq!(request.head.method, Method::POST);
            assert_eq!(request.head.path, "/path?query");
            assert_eq!(request.head.authority, Some(Authority::from_static("a")));
            assert!(request.head.https);
            assert_eq!(request.head.version, Version::Http3);
            assert_eq!(request.head.headers.get_all("x-twice").count(), 2);
            let (content, trailers) = read(&mut request.body).await.unwrap();
            assert_eq!((&content[..], trailers), (&b"ping"[..], None));
            let mut answer = response(201, text("pong"));
            answer.head.headers.insert(http::HeaderName::from_static("x-answer"), HeaderValue::from_static("yes"));
            answer
        })
        .await;
        let mut ping = request(Method::POST, Body::bytes(Half::Request, Bytes::from_static(b"ping")));
        ping.head.headers.append(http::HeaderName::from_static("x-twice"), HeaderValue::from_static("1"));
        ping.head.headers.append(http::HeaderName::from_static("x-twice"), HeaderValue::from_static("2"));
        ping.head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("4"));
        let mut answer = link.send(ping).await.unwrap();
        assert_eq!(answer.head.status, StatusCode::CREATED);
        assert_eq!(answer.head.headers.get("x-answer").unwrap(), "yes");
        assert_eq!(read(&mut answer.body).await.unwrap(), (b"pong".to_vec(), None));
        assert_eq!(link.in_flight(), 0);
    });
}

#[test]
fn trailers_pass_both_ways() {
    run(async {
        let (hop, net) = (Net::new(), Net::new());
        // What comes goes back.
        let link = through_hop(&hop, &net, |request| async move {
            let Request { body, .. } = request;
            response(200, body)
        })
        .await;
        hop.serve(move |request| forward(link.clone(), request));
        let client = hop.raw_client().await;
        let (mut send, mut receive) = client.open_bi().await.unwrap();
        let trailers = frame(1, &[&[0, 0], &line("x-checksum", "7")[..]].concat());
        send.write_all(&[headers(&[POST]), frame(0, b"content"), trailers].concat()).await.unwrap();
        send.finish().unwrap();
        let back = receive.read_to_end(1000).await.unwrap();
        let back = String::from_utf8_lossy(&back);
        assert!(back.contains("content"), "{back}");
        // Huffman-coded by h3; its length is enough to know it by.
        assert!(back.len() > "content".len() + 12, "{back}");
    });
}

#[test]
fn interim_responses_come_before_the_final_one() {
    run(async {
        let (hop, net) = (Net::new(), Net::new());
        let link = through_hop(&hop, &net, |request| async move {
            let mut hints = ResponseHead::new(StatusCode::EARLY_HINTS);
            hints.headers.insert(header::LINK, HeaderValue::from_static("</a>; rel=preload"));
            request.interim.push(hints);
            tokio::task::yield_now().await;
            response(200, text("final"))
        })
        .await;
        let request = get();
        let interim = Rc::clone(&request.interim);
        let mut answer = link.send(request).await.unwrap();
        let heads = interim.take();
        assert_eq!(heads.len(), 1);
        assert_eq!(heads[0].status, StatusCode::EARLY_HINTS);
        assert_eq!(heads[0].headers.get(header::LINK).unwrap(), "</a>; rel=preload");
        assert_eq!(read(&mut answer.body).await.unwrap().0, b"final");
    });
}

#[test]
fn both_directions_stream_at_once() {
    run(async {
        const PIECES: usize = 2000;
        let (hop, net) = (Net::new(), Net::new());
        let link = through_hop(&hop, &net, |request| async move { response(200, request.body) }).await;
        hop.serve(move |request| forward(link.clone(), request));
        let client = hop.raw_client().await;
        let (mut send, mut receive) = client.open_bi().await.unwrap();
        let piece = frame(0, &[7; 16 * 1024]);
        let upload = async {
            send.write_all(&headers(&[POST])).await.unwrap();
            for _ in 0..PIECES {
                send.write_all(&piece).await.unwrap();
            }
            send.finish().unwrap();
        };
        let download = async {
            let mut length = 0;
            while let Some(chunk) = receive.read_chunk(usize::MAX, true).await.unwrap() {
                length += chunk.bytes.len();
            }
            length
        };
        let ((), length) = tokio::join!(upload, download);
        assert!(length >= PIECES * 16 * 1024);
    });
}

#[test]
fn messages_without_content_stay_so() {
    run(async {
        let net = Net::new();
        net.serve(|request| async move {
            assert!(request.body.is_end());
            match request.head.method {
                Method::HEAD => {
                    let mut head = response(200, Body::empty(Half::Response));
                    head.head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("100"));
                    head
                }
                Method::OPTIONS => {
                    assert_eq!(request.head.path, "*");
                    assert_eq!(request.head.authority, Some(Authority::from_static("localhost")));
                    response(204, Body::empty(Half::Response))
                }
                _ => response(304, Body::empty(Half::Response)),
            }
        });
        let link = net.connect().await;
        let head = link.send(request(Method::HEAD, Body::empty(Half::Request))).await.unwrap();
        assert_eq!(head.head.headers.get(header::CONTENT_LENGTH).unwrap(), "100");
        assert_eq!(read(&mut { head.body }).await.unwrap(), (Vec::new(), None));
        let mut options = request(Method::OPTIONS, Body::empty(Half::Request));
        options.head.path = PathAndQuery::from_static("*");
        options.head.authority = None;
        assert_eq!(read(&mut link.send(options).await.unwrap().body).await.unwrap(), (Vec::new(), None));
        assert_eq!(read(&mut link.send(get()).await.unwrap().body).await.unwrap(), (Vec::new(), None));
    });
}

/// Its head says neither scheme nor path: our server would refuse it.
#[test]
fn connect_opens_a_tunnel() {
    run(async {
        let net = Net::new();
        net.serve(|mut request| async move {
            assert_eq!(request.head.method, Method::CONNECT);
            assert_eq!(request.head.headers.get("x-a").unwrap(), "b");
            assert_eq!(request.head.authority, Some(Authority::from_static("delta:7001")));
            let (asked, _) = read(&mut request.body).await.unwrap();
            assert_eq!((&asked[..], request.body.length()), (&b"ping"[..], Length::Tunnel));
            let mut response = response(200, text("pong"));
            response.head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("9"));
            response
        });
        let link = net.connect().await;
        let mut connect = request(Method::CONNECT, text("ping"));
        connect.head.authority = Some(Authority::from_static("delta:7001"));
        connect.head.headers.insert(http::HeaderName::from_static("x-a"), HeaderValue::from_static("b"));
        let mut response = link.send(connect).await.unwrap();
        assert_eq!(response.body.length(), Length::Tunnel);
        assert_eq!(read(&mut response.body).await.unwrap(), (b"pong".to_vec(), None));
    });
}

#[test]
fn what_is_ready_together_leaves_together() {
    const REQUESTS: u64 = 64;
    run(async {
        let net = Net::new();
        net.serve(|_| async { response(200, text("fine")) });
        let link = net.connect().await;
        let before = link.stats();
        let mut requests = tokio::task::JoinSet::new();
        for _ in 0..REQUESTS {
            let link = link.clone();
            requests.spawn_local(async move {
                let mut answer = link.send(get()).await.unwrap();
                assert_eq!(read(&mut answer.body).await.unwrap().0, b"fine");
            });
        }
        requests.join_all().await;
        // Two or three writes, some acknowledgements, and the search for what the path carries.
        let (writes, packets) =
            (link.stats().udp_tx.ios - before.udp_tx.ios, link.stats().udp_rx.datagrams - before.udp_rx.datagrams);
        assert!(writes < REQUESTS / 2 && packets < REQUESTS / 2, "{writes} writes, {packets} packets");
    });
}

#[test]
fn a_wide_path_is_found_and_filled() {
    const LENGTH: usize = 1024 * 1024;
    run(async {
        let net = Net::new();
        net.serve(|_| async { response(200, Body::bytes(Half::Response, Bytes::from(vec![b'x'; LENGTH]))) });
        let link = net.connect().await;
        let get = async || {
            let before = link.stats().udp_rx.datagrams;
            let mut answer = link.send(get()).await.unwrap();
            assert_eq!(read(&mut answer.body).await.unwrap().0.len(), LENGTH);
            link.stats().udp_rx.datagrams - before
        };
        // Both ends search, each for its own direction; loopback carries anything.
        while link.stats().path.current_mtu < LARGEST_PAYLOAD
            || get().await > 2 * LENGTH as u64 / u64::from(LARGEST_PAYLOAD)
        {
            get().await;
        }
    });
}
