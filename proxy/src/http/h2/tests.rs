//! Both sides with a peer that we did not write (the `h2` crate), and with each other.

mod frames;
mod server;

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::LocalSet;

use super::connection::{Connection, Over};
use super::driver::Driver;
use super::frame::{self, Code, HEADER, Header, PREFACE, flag, kind, setting};
use super::half::{Reader, Writer};
use super::hpack::Encoder;
use super::{CONNECTION_WINDOW, Link, MAX_STREAMS, STREAM_WINDOW, serve};
use crate::drain::{Drain, Phase};
use crate::fault::{Fault, Reason};
use crate::http::body::{Frame, Half, Made, Source};
use crate::http::head::{RequestHead, ResponseHead};
use crate::http::{Body, Fields, Interim, Request, Response, Service};
use crate::net::io::Io;

/// Runs a test as a worker runs: on one thread, with local tasks.
fn local(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, test);
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let near = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a connection");
    (near, listener.accept().await.expect("a connection").0)
}

fn io(stream: TcpStream) -> Io {
    Io::tcp(stream, Bytes::new())
}

/// Answers with what it was asked: the body, and the trailers.
struct Mirror;

impl Service for Mirror {
    async fn call(self: Rc<Self>, request: Request) -> Response {
        request.interim.push(ResponseHead::new(StatusCode::EARLY_HINTS));
        let mut head = ResponseHead::new(StatusCode::OK);
        head.headers = request.head.headers.clone();
        head.headers.remove("content-length");
        let length = crate::http::body::Length::Unknown;
        let body = Mirrored(request.body);
        Response { head: head.into(), body: Body::source(Half::Response, Source::Made(Box::new(body)), length) }
    }

    fn refuse(&self, fault: Fault) -> Response {
        let status = StatusCode::from_u16(fault.reason.row().status).expect("a status");
        Response::whole(ResponseHead::new(status), Bytes::from_static(b"refused"))
    }

    fn reset(&self, _: Fault) {}
}

#[derive(Debug)]
struct Mirrored(Body);

impl Made for Mirrored {
    fn poll_frame(&mut self, cx: &mut std::task::Context<'_>) -> Poll<Option<Result<Frame, Fault>>> {
        self.0.poll_frame(cx)
    }

    fn is_end(&self) -> bool {
        self.0.is_end()
    }
}

/// Content, then trailers.
#[derive(Debug)]
struct Scripted(Vec<Frame>);

impl Made for Scripted {
    fn poll_frame(&mut self, _: &mut std::task::Context<'_>) -> Poll<Option<Result<Frame, Fault>>> {
        Poll::Ready(if self.0.is_empty() { None } else { Some(Ok(self.0.remove(0))) })
    }

    fn is_end(&self) -> bool {
        self.0.is_empty()
    }
}

fn pattern(length: usize) -> Bytes {
    (0..length).map(|n| (n * 7 + n / 251) as u8).collect()
}

fn ask(content: Bytes, trailers: bool) -> Request {
    let mut head = RequestHead::unread();
    head.method = Method::POST;
    head.authority = Some("delta".parse().expect("a host"));
    head.headers.insert(http::HeaderName::from_static("x-first"), HeaderValue::from_static("1"));
    head.headers
        .insert(http::HeaderName::from_static("x-large"), HeaderValue::from_str(&"v".repeat(20_000)).expect("a value"));
    let mut frames = vec![Frame::Data(content)];
    if trailers {
        let mut map = Fields::new();
        map.insert(http::HeaderName::from_static("x-sum"), HeaderValue::from_static("7"));
        frames.push(Frame::Trailers(map));
    }
    let length = crate::http::body::Length::Unknown;
    let body = Body::source(Half::Request, Source::Made(Box::new(Scripted(frames))), length);
    Request { head: head.into(), body, interim: Rc::new(Interim::default()) }
}

async fn collect(mut body: Body) -> Result<(Bytes, Option<Fields>), Fault> {
    let (mut content, mut trailers) = (BytesMut::new(), None);
    while let Some(frame) = body.frame().await {
        match frame? {
            Frame::Data(data) => content.extend_from_slice(&data),
            Frame::Trailers(map) => trailers = Some(map),
        }
    }
    Ok((content.freeze(), trailers))
}

/// Many streams at once, of content larger than windows, over heads larger than a frame of the smallest size.
#[test]
fn both_sides_together() {
    local(async {
        let (near, far) = sockets().await;
        let drain = Drain::default();
        let served = tokio::task::spawn_local(serve(io(far), Rc::new(Mirror), drain.clone()));
        let link = Link::open(io(near), Drain::default().guard()).await.expect("a link");
        assert!(link.has_room() && !link.is_closed());
        let mut tasks = Vec::new();
        for number in 0..20_usize {
            let link = link.clone();
            tasks.push(tokio::task::spawn_local(async move {
                let content = pattern(number * number * 10_000 + 1);
                let request = ask(content.clone(), number % 2 == 0);
                let interim = Rc::clone(&request.interim);
                let answer = link.send(request).await.expect("an answer");
                assert_eq!((answer.head.status, interim.take().len()), (StatusCode::OK, 1));
                assert_eq!(answer.head.headers["x-large"].len(), 20_000);
                let (back, trailers) = collect(answer.body).await.expect("a body");
                assert!(back == content, "stream {number}");
                assert_eq!(trailers.map(|map| map["x-sum"].clone()), (number % 2 == 0).then(|| "7".parse().unwrap()));
            }));
        }
        for task in tasks {
            task.await.expect("no panic");
        }
        assert_eq!(link.in_flight(), 0);
        // A drained server lets the client go without losing anything.
        drain.advance(Phase::Quiet);
        served.await.expect("served to its end");
        assert!(link.is_closed());
        let refused = link.send(ask(Bytes::new(), false)).await.expect_err("no more");
        assert_eq!(refused.reason, Reason::RefusedStream);
    });
}

#[test]
fn our_server_with_a_foreign_client() {
    local(async {
        let (near, far) = sockets().await;
        tokio::task::spawn_local(serve(io(far), Rc::new(Mirror), Drain::default()));
        let (mut client, connection) =
            h2::client::Builder::new().initial_window_size(100_000).handshake::<_, Bytes>(near).await.expect("h2");
        tokio::task::spawn_local(async move { connection.await.expect("no error") });
        for round in 0..50_usize {
            client = client.ready().await.expect("room");
            let content = pattern(round * 5000);
            let request = http::Request::post("http://delta/path").header("x-round", round).header("user-agent", "h2");
            let (mut answer, mut stream) =
                client.send_request(request.body(()).expect("a request"), false).expect("sent");
            let mut map = http::HeaderMap::new();
            map.insert("x-sum", HeaderValue::from(round));
            let upload = async {
                let mut rest = content.clone();
                while !rest.is_empty() {
                    stream.reserve_capacity(rest.len());
                    let room = poll_fn(|cx| stream.poll_capacity(cx)).await.expect("open").expect("room");
                    stream.send_data(rest.split_to(room), false).expect("sent");
                }
                stream.send_trailers(map).expect("sent");
            };
            let download = async {
                let hints = poll_fn(|cx| answer.poll_informational(cx)).await.expect("one").expect("hints");
                assert_eq!(hints.status(), 103);
                let answer = answer.await.expect("an answer");
                assert_eq!(
                    (answer.status(), &answer.headers()["x-round"]),
                    (StatusCode::OK, &HeaderValue::from(round))
                );
                let (mut body, mut back) = (answer.into_body(), BytesMut::new());
                while let Some(data) = body.data().await {
                    let data = data.expect("data");
                    body.flow_control().release_capacity(data.len()).expect("capacity");
                    back.extend_from_slice(&data);
                }
                (back, body.trailers().await.expect("trailers"))
            };
            let ((), (back, trailers)) = tokio::join!(upload, download);
            assert!(back == content, "round {round}");
            assert_eq!(trailers.expect("trailers")["x-sum"], HeaderValue::from(round));
        }
    });
}

#[test]
fn our_client_with_a_foreign_server() {
    local(async {
        let (near, far) = sockets().await;
        tokio::task::spawn_local(async move {
            let mut connection = h2::server::Builder::new()
                .initial_window_size(20_000)
                .max_concurrent_streams(2)
                .handshake::<_, Bytes>(far)
                .await
                .expect("h2");
            while let Some(request) = connection.accept().await {
                let (request, mut respond) = request.expect("a request");
                tokio::task::spawn_local(async move {
                    let (head, mut body) = request.into_parts();
                    respond.send_informational(http::Response::builder().status(103).body(()).unwrap()).expect("sent");
                    let answer = http::Response::builder().header("x-path", head.uri.path()).body(()).unwrap();
                    let mut stream = respond.send_response(answer, false).expect("sent");
                    let mut all = BytesMut::new();
                    while let Some(data) = body.data().await {
                        let data = data.expect("data");
                        body.flow_control().release_capacity(data.len()).expect("capacity");
                        all.extend_from_slice(&data);
                    }
                    stream.send_data(all.freeze(), false).expect("sent");
                    stream.send_trailers(body.trailers().await.expect("trailers").unwrap_or_default()).expect("sent");
                });
            }
        });
        let link = Link::open(io(near), Drain::default().guard()).await.expect("a link");
        let mut tasks = Vec::new();
        // More than the server takes at a time: they wait for one another.
        for number in 0..30_usize {
            let link = link.clone();
            tasks.push(tokio::task::spawn_local(async move {
                let content = pattern(number * 4000);
                let answer = link.send(ask(content.clone(), true)).await.expect("an answer");
                assert_eq!(answer.head.headers["x-path"], "/");
                let (back, trailers) = collect(answer.body).await.expect("a body");
                assert!(back == content && trailers.is_some_and(|map| map["x-sum"] == "7"), "request {number}");
            }));
        }
        tokio::task::yield_now().await;
        assert!(!link.has_room());
        for task in tasks {
            task.await.expect("no panic");
        }
        assert!(link.has_room());
    });
}

/// Answers at once, with a head that is another one each time.
struct Counting(Cell<usize>);

impl Service for Counting {
    async fn call(self: Rc<Self>, _: Request) -> Response {
        self.0.set(self.0.get() + 1);
        let mut head = ResponseHead::new(StatusCode::NO_CONTENT);
        let value = HeaderValue::from_str(&format!("{:600}!", self.0.get())).expect("a value");
        head.headers.insert(http::HeaderName::from_static("x-number"), value);
        Response { head: head.into(), body: Body::empty(Half::Response) }
    }

    fn refuse(&self, fault: Fault) -> Response {
        panic!("{fault}")
    }

    fn reset(&self, fault: Fault) {
        panic!("{fault}")
    }
}

/// A client that asks and does not read the answers is not read any more itself, and gets all of them when it does.
#[test]
fn who_does_not_read_is_not_read() {
    const REQUESTS: usize = 60_000;
    local(async {
        let (near, far) = sockets().await;
        let service = Rc::new(Counting(Cell::new(0)));
        let server = tokio::task::spawn_local(serve(io(far), Rc::clone(&service), Drain::default()));
        let mut requests = BytesMut::from(&PREFACE[..]);
        frame::write_settings(&mut requests, &[]);
        for number in 0..REQUESTS as u32 {
            // GET http://aaaaaaaaaaaaaaaaaaaa/: so long that one reading brings fewer than may be open.
            frame::write(
                &mut requests,
                kind::HEADERS,
                flag::END_STREAM | flag::END_HEADERS,
                number * 2 + 1,
                b"\x82\x86\x84\x41\x14aaaaaaaaaaaaaaaaaaaa",
            );
        }
        // How far it comes without reading: until nothing has moved for a long time.
        let (mut written, mut still) = (0, 0);
        while still < 2000 {
            let before = (written, service.0.get());
            written += near.try_write(&requests[written..]).unwrap_or(0);
            tokio::task::yield_now().await;
            still = if before == (written, service.0.get()) { still + 1 } else { 0 };
        }
        let unread = service.0.get();
        assert!((1..REQUESTS).contains(&unread), "{unread} answers wait");
        let (mut answers, mut buffer, mut end) = (0, BytesMut::new(), 0);
        while answers < REQUESTS {
            if written < requests.len() {
                written += near.try_write(&requests[written..]).unwrap_or(0);
            }
            match near.try_read_buf(&mut buffer) {
                Ok(0) => panic!("closed after {answers} answers"),
                _ => tokio::task::yield_now().await,
            }
            while let Some(header) =
                Header::read(&buffer[end..]).filter(|header| buffer.len() - end >= HEADER + header.length)
            {
                answers += usize::from(header.kind == kind::HEADERS);
                assert!(!matches!(header.kind, kind::GOAWAY | kind::RST_STREAM));
                end += HEADER + header.length;
            }
            bytes::Buf::advance(&mut buffer, std::mem::take(&mut end));
        }
        server.abort();
    });
}

/// Says more interim responses than are taken of it, then answers: 200 if that was bounded.
struct Flood(Rc<Notify>);

impl Service for Flood {
    async fn call(self: Rc<Self>, request: Request) -> Response {
        let bounded = request.interim.flood().await;
        self.0.notify_one();
        let status = if bounded { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
        Response { head: ResponseHead::new(status).into(), body: Body::empty(Half::Response) }
    }

    fn refuse(&self, fault: Fault) -> Response {
        panic!("{fault}")
    }

    fn reset(&self, fault: Fault) {
        panic!("{fault}")
    }
}

#[test]
fn interim_responses_that_nobody_reads_do_not_pile_up() {
    local(async {
        let (near, far) = sockets().await;
        let said = Rc::new(Notify::new());
        let server = tokio::task::spawn_local(serve(io(far), Rc::new(Flood(Rc::clone(&said))), Drain::default()));
        let (mut client, connection) = h2::client::handshake(near).await.expect("h2");
        let (answer, _) =
            client.send_request(http::Request::get("http://delta/").body(()).expect("a request"), true).expect("sent");
        // Writes what is to be sent, and then reads nothing for as long as the server says something.
        let mut connection = Box::pin(connection);
        poll_fn(|cx| {
            let _ = connection.as_mut().poll(cx);
            Poll::Ready(())
        })
        .await;
        said.notified().await;
        tokio::task::spawn_local(async move { connection.await.expect("no error") });
        assert_eq!(answer.await.expect("an answer").status(), StatusCode::OK);
        server.abort();
    });
}

/// Whoever rests holds no room for reading or writing.
#[test]
fn a_resting_link_holds_no_buffers() {
    local(async {
        let (near, far) = sockets().await;
        let (mut client, mut server) = (Driver::new(io(near), false), Driver::new(io(far), true));
        let (near, far) = (client.shared(), server.shared());
        let mut head = RequestHead::unread();
        head.authority = Some("delta".parse().expect("a host"));
        let mut answers = 0;
        for _ in 0..3 {
            let key = near.borrow_mut().open(&head, true, Rc::default());
            let reader = Reader::new(Rc::clone(&near), key);
            poll_fn(|cx| {
                client.write(cx);
                server.read(cx);
                let accepted: Vec<_> = far.borrow_mut().accepted.drain(..).collect();
                for accepted in accepted {
                    let writer = Writer::new(Rc::clone(&far), accepted.key);
                    writer.answer(&ResponseHead::new(StatusCode::OK), false).expect("sent");
                    writer.send(pattern(100_000), true);
                }
                server.write(cx);
                client.read(cx);
                client.write(cx);
                while let Poll::Ready(Some(frame)) = reader.poll_frame(cx) {
                    let Ok(Frame::Data(data)) = frame else { panic!("{frame:?}") };
                    answers += data.len();
                }
                if reader.is_end() { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }
        assert_eq!(answers, 300_000);
        poll_fn(|cx| {
            for driver in [&mut client, &mut server] {
                driver.read(cx);
                driver.write(cx);
            }
            Poll::Ready(())
        })
        .await;
        for (driver, shared) in [(&client, &near), (&server, &far)] {
            assert!(driver.is_at_rest() && shared.borrow().is_at_rest());
        }
    });
}
