//! Connections over real sockets: many in one turn of a worker, whose messages are written at its end, and content that is here with its head.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use super::client::{Idle, send};
use super::serve;
use super::wire::Wire;
use crate::drain::Drain;
use crate::fault::Fault;
use crate::http::body::{Frame, Half};
use crate::http::head::{RequestHead, ResponseHead};
use crate::http::{Body, Interim, Request, Response, Service};
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
