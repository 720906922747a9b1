//! Connections over real sockets: many in one turn of a worker, whose messages are written at its end, and content that is here with its head.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, LocalSet};

use super::client::{Idle, send};
use super::serve;
use super::wire::Wire;
use crate::clock::Deadline;
use crate::drain::Drain;
use crate::fault::{Fault, Reason};
use crate::http::body::{Frame, Half, Length, Made, Observer, Source};
use crate::http::head::{RequestHead, ResponseHead};
use crate::http::{Body, Fields, Interim, Request, Response, Service};
use crate::net::io::Io;
use crate::net::turn;

/// Answers with much.
struct Much;

const MUCH: usize = 4000;

impl Service for Much {
    async fn call(self: Rc<Self>, _: Request) -> Response {
        Response::whole(ResponseHead::new(StatusCode::OK), Bytes::from_static(&[b'x'; MUCH]))
    }

    fn refuse(&self, fault: Fault) -> Response {
        panic!("{fault}")
    }

    fn reset(&self, fault: Fault) {
        panic!("{fault}")
    }
}

/// Says more interim responses than are taken of it, then answers.
struct Flood(Rc<Notify>);

impl Service for Flood {
    async fn call(self: Rc<Self>, request: Request) -> Response {
        let bounded = request.interim.flood().await;
        self.0.notify_one();
        Response::whole(ResponseHead::new(StatusCode::OK), Bytes::from(format!("bounded: {bounded}")))
    }

    fn refuse(&self, fault: Fault) -> Response {
        panic!("{fault}")
    }

    fn reset(&self, fault: Fault) {
        panic!("{fault}")
    }
}

/// Answers with content of no known length, which is whole or breaks off.
struct Part {
    whole: bool,
    content: Bytes,
}

impl Service for Part {
    async fn call(self: Rc<Self>, _: Request) -> Response {
        let rest = (!self.whole).then(|| Err(Fault::new(Reason::StreamReset)));
        let frames = [Some(Ok(Frame::Data(self.content.clone()))), rest].into_iter().flatten().collect();
        let mut body = Body::source(Half::Response, Source::Made(Box::new(Scripted(frames))), Length::Unknown);
        let idle = Deadline::new();
        idle.set(Duration::from_secs(5));
        body.observe(Rc::new(Impatient(idle)));
        Response { head: ResponseHead::new(StatusCode::OK).into(), body }
    }

    fn refuse(&self, fault: Fault) -> Response {
        panic!("{fault}")
    }

    fn reset(&self, fault: Fault) {
        panic!("{fault}")
    }
}

/// Has a body break off after a while in which nothing moves, as an exchange does.
struct Impatient(Deadline);

impl Observer for Impatient {
    fn data(&self, _: Half, _: usize) {}

    fn trailers(&self, _: Half, _: &Fields) {}

    fn end(&self, _: Half, _: Option<Result<(), &Fault>>) {}

    fn poll_idle(&self, cx: &mut Context<'_>) -> Poll<Fault> {
        self.0.poll(cx).map(|()| Fault::new(Reason::StreamIdleTimeout))
    }
}

#[derive(Debug)]
struct Scripted(VecDeque<Result<Frame, Fault>>);

impl Made for Scripted {
    fn poll_frame(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Frame, Fault>>> {
        Poll::Ready(self.0.pop_front())
    }

    fn is_end(&self) -> bool {
        self.0.is_empty()
    }
}

/// A client's end, and the task that serves the other one.
async fn served(service: impl Service) -> (TcpStream, JoinHandle<()>) {
    served_within(service, None).await
}

/// The same with buffers of sockets that are about so large.
async fn served_within(service: impl Service, buffer: Option<u32>) -> (TcpStream, JoinHandle<()>) {
    let [near, far] = [(); 2].map(|()| TcpSocket::new_v4().expect("a socket"));
    if let Some(size) = buffer {
        near.set_recv_buffer_size(size).expect("a size");
        far.set_send_buffer_size(size).expect("a size");
    }
    far.bind(([127, 0, 0, 1], 0).into()).expect("a port");
    let listener = far.listen(1).expect("a listener");
    let near = near.connect(listener.local_addr().expect("an address")).await.expect("a connection");
    let far = listener.accept().await.expect("a connection").0;
    (near, tokio::task::spawn_local(serve(Io::tcp(far, Bytes::new()), Rc::new(service), Drain::default())))
}

/// Runs as a worker does.
fn local(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .on_thread_park(turn::over)
        .build()
        .expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        tokio::task::spawn_local(turn::run());
        work.await;
    });
}

#[test]
fn content_that_is_all_here_is_taken_at_once_and_its_connection_is_free_again() {
    local(async {
        for (answer, whole) in [
            ("content-length: 5\r\n\r\nhello", true),
            ("content-length: 6\r\n\r\nhello", false),
            ("transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", false),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let near = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a connection");
            let mut far = listener.accept().await.expect("a connection").0;
            let mut head = RequestHead::unread();
            head.authority = Some("delta".parse().expect("a host"));
            let request =
                Request { head: head.into(), body: Body::empty(Half::Request), interim: Rc::new(Interim::default()) };
            let (wire, home) =
                (Rc::new(RefCell::new(Wire::new(Io::tcp(near, Bytes::new())))), Rc::new(Idle::default()));
            let answered = async {
                assert!(far.read(&mut [0; 1024]).await.expect("a request") > 0);
                far.write_all(format!("HTTP/1.1 200 OK\r\n{answer}").as_bytes()).await.expect("answered");
            };
            let (response, ()) = tokio::join!(send(wire, Rc::clone(&home), request, false), answered);
            let mut body = response.expect("a response").body;
            let length = body.length();
            assert_eq!(body.take_whole().as_deref(), whole.then_some(&b"hello"[..]), "{answer}");
            assert_eq!((home.len(), body.is_end(), body.length()), (usize::from(whole), whole, length), "{answer}");
            if whole {
                assert!(body.take_whole().is_none() && body.frame().await.is_none(), "it is over");
                body.put_whole(Bytes::from_static(b"other"), length);
            }
            let Some(Ok(Frame::Data(data))) = body.frame().await else { panic!("{answer}") };
            assert_eq!(&data[..], if whole { b"other" } else { b"hello" });
            assert!(body.take_whole().is_none(), "not of what was read");
        }
    });
}

#[test]
fn who_is_answered_before_its_request_has_ended_can_send_the_rest_of_it() {
    local(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut near = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a connection");
        let far = listener.accept().await.expect("a connection").0;
        let served = tokio::task::spawn_local(serve(Io::tcp(far, Bytes::new()), Rc::new(Much), Drain::default()));
        near.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nsome").await.expect("asked");
        let mut answer = String::new();
        near.read_to_string(&mut answer).await.expect("an answer and its end");
        assert!(answer.contains("connection: close") && answer.ends_with('x'), "{answer}");
        assert!(!served.is_finished(), "closed, so what comes is reset");
        for byte in [b"t", b"h", b"i", b"n", b"g"] {
            near.write_all(byte).await.expect("taken");
        }
        drop(near);
        served.await.expect("no panic");
    });
}

#[test]
fn what_waits_for_the_end_of_a_turn_arrives_however_slowly_it_is_read() {
    const CONNECTIONS: usize = 20;
    const REQUESTS: usize = 3000;
    local(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let (mut served, mut clients) = (Vec::new(), Vec::new());
        for number in 0..CONNECTIONS {
            let near = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a connection");
            let far = listener.accept().await.expect("a connection").0;
            served.push(tokio::task::spawn_local(serve(Io::tcp(far, Bytes::new()), Rc::new(Much), Drain::default())));
            clients.push(tokio::task::spawn_local(async move {
                // More than the sockets hold where nothing is read before all is asked; the others ask one by one.
                let (at_once, times) = if number == 0 { (REQUESTS, 1) } else { (1, REQUESTS / 100) };
                let (mut read, mut write) = near.into_split();
                let (mut count, mut buffer) = (0, vec![0; 64 * 1024]);
                for _ in 0..times {
                    let asked = async {
                        for _ in 0..at_once {
                            write.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("asked");
                        }
                    };
                    let expected = count + at_once * MUCH;
                    let answered = async {
                        while count < expected {
                            tokio::task::yield_now().await;
                            let n = read.read(&mut buffer).await.expect("an answer");
                            assert!(n > 0, "the connection has ended");
                            count += buffer[..n].iter().filter(|byte| **byte == b'x').count();
                        }
                    };
                    tokio::join!(asked, answered);
                }
                assert_eq!(count, at_once * times * MUCH);
            }));
        }
        for client in clients {
            client.await.expect("no mistake");
        }
        for server in served {
            server.await.expect("no panic");
        }
    });
}

/// Without a length, and without chunks, which HTTP/1.0 does not know, only the end of the connection tells where content ends.
#[test]
fn content_that_breaks_off_never_looks_whole() {
    local(async {
        for (version, whole, ended) in [
            ("1.0", true, Ok("hello")),
            ("1.0", false, Err(ErrorKind::ConnectionReset)),
            ("1.1", true, Ok("5\r\nhello\r\n0\r\n\r\n")),
            ("1.1", false, Ok("5\r\nhello\r\n")),
        ] {
            let (mut near, served) = served(Part { whole, content: Bytes::from_static(b"hello") }).await;
            let request = format!("GET / HTTP/{version}\r\nhost: a\r\nconnection: close\r\n\r\n");
            near.write_all(request.as_bytes()).await.expect("asked");
            let mut answer = String::new();
            let read = near.read_to_string(&mut answer).await.map_err(|error| error.kind());
            let content = answer.split_once("\r\n\r\n").map_or("", |(_, content)| content);
            assert_eq!(read.map(|_| content), ended, "{version}, whole: {whole}");
            served.await.expect("no panic");
        }
    });
}

#[test]
fn who_reads_nothing_of_the_end_is_given_up() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .on_thread_park(turn::over)
        .build()
        .expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        tokio::task::spawn_local(turn::run());
        tokio::task::spawn_local(crate::clock::run());
        // More than the sockets hold; the second is no more than what may wait to be written.
        for (length, buffer) in [(64 << 20, None), (60 << 10, Some(4096))] {
            let part = Part { whole: true, content: Bytes::from(vec![b'x'; length]) };
            let (mut near, served) = served_within(part, buffer).await;
            near.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("asked");
            let ended = tokio::time::timeout(Duration::from_secs(3600), served).await;
            ended.expect("it holds its connection for ever").expect("no panic");
            let read = near.read_to_end(&mut Vec::new()).await.map_err(|error| error.kind());
            assert_eq!(read.map(|_| ()), Err(ErrorKind::ConnectionReset), "what the kernel still holds is let go, too");
        }
    });
}

#[test]
fn interim_responses_that_nobody_reads_do_not_pile_up() {
    local(async {
        let said = Rc::new(Notify::new());
        let (mut near, _served) = served(Flood(Rc::clone(&said))).await;
        near.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.expect("asked");
        said.notified().await;
        let mut answer = String::new();
        near.read_to_string(&mut answer).await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 103 ") && answer.ends_with("bounded: true"), "{} bytes", answer.len());
    });
}

/// The application speaks what `inbound.protocol` does not say.
#[test]
fn a_server_of_http2_is_called_that() {
    local(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let near = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a connection");
        let mut far = listener.accept().await.expect("a connection").0;
        // One of its settings is 10: a line feed.
        far.write_all(b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x0a").await.expect("said");
        let wire = Rc::new(RefCell::new(Wire::new(Io::tcp(near, Bytes::new()))));
        let mut head = RequestHead::unread();
        head.authority = Some("delta".parse().expect("a host"));
        let request =
            Request { head: head.into(), body: Body::empty(Half::Request), interim: Rc::new(Interim::default()) };
        let fault = send(wire, Rc::default(), request, false).await.expect_err("no answer");
        assert_eq!(fault.reason, Reason::HttpProtocolError);
        assert!(fault.to_string().contains("HTTP/2, and not HTTP/1"), "{fault}");
    });
}
