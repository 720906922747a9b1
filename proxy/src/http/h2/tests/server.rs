//! Our server with a client by hand: what it waits for, and how long, and what it takes note of.

use std::cell::RefCell;

use tokio::task::JoinHandle;

use super::*;
use crate::clock;
use crate::http::rules::{CLOSE_TIMEOUT, HEAD_TIMEOUT, IDLE_TIMEOUT};

/// A client by hand.
struct Client {
    socket: TcpStream,
    read: BytesMut,
    served: JoinHandle<Option<&'static str>>,
}

impl Client {
    async fn new(service: Rc<impl Service>) -> Client {
        let (socket, far) = sockets().await;
        let served = tokio::task::spawn_local(serve(io(far), service, Drain::default()));
        let mut client = Client { socket, read: BytesMut::new(), served };
        let mut first = BytesMut::from(&PREFACE[..]);
        frame::write_settings(&mut first, &[]);
        client.say(&first).await;
        client.said(kind::SETTINGS, flag::ACK).await;
        client
    }

    async fn say(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.expect("written");
    }

    /// The payload of the next frame of this kind with these flags; what comes before is passed over.
    async fn said(&mut self, kind: u8, flags: u8) -> BytesMut {
        loop {
            if let Some(header) = Header::read(&self.read).filter(|header| self.read.len() >= HEADER + header.length) {
                let frame = self.read.split_to(HEADER + header.length);
                if header.kind == kind && header.has(flags) | (flags == 0) {
                    return BytesMut::from(&frame[HEADER..]);
                }
            } else {
                assert!(self.socket.read_buf(&mut self.read).await.expect("read") > 0, "closed before {kind}");
            }
        }
    }

    /// Reads until the connection is closed.
    async fn end(&mut self) {
        while self.socket.read_buf(&mut self.read).await.expect("an end") > 0 {}
    }

    /// Lets time pass until the server has ended, and says what it ended for, and after how long.
    async fn ended(&mut self) -> (Option<&'static str>, Duration) {
        // What was said is read first.
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        let mut took = Duration::ZERO;
        while !self.served.is_finished() {
            assert!(took < 2 * IDLE_TIMEOUT, "it does not end");
            clock::tick();
            took += clock::TICK;
            tokio::task::yield_now().await;
        }
        ((&mut self.served).await.expect("no panic"), took)
    }
}

fn pass(time: Duration) {
    (0..time.as_millis() / clock::TICK.as_millis()).for_each(|_| clock::tick());
}

/// GET http://a/ on this stream, as far as these flags say.
fn get(stream: u32, flags: u8) -> BytesMut {
    let mut out = BytesMut::new();
    frame::write(&mut out, kind::HEADERS, flag::END_STREAM | flags, stream, b"\x82\x86\x84\x41\x01a");
    out
}

#[test]
fn who_asks_nothing_is_told_to_go() {
    for answers in [true, false] {
        local(async {
            let mut client = Client::new(Rc::new(Counting(Cell::new(0)))).await;
            pass(IDLE_TIMEOUT / 2);
            client.say(&get(1, flag::END_HEADERS)).await;
            client.said(kind::HEADERS, flag::END_STREAM).await;
            pass(IDLE_TIMEOUT - clock::TICK);
            client.say(&get(3, flag::END_HEADERS)).await;
            client.said(kind::HEADERS, flag::END_STREAM).await;
            pass(IDLE_TIMEOUT + 2 * clock::TICK);
            let last = |payload: BytesMut| (frame::word(&payload), frame::word(&payload[4..]).map(Code));
            assert_eq!(last(client.said(kind::GOAWAY, 0).await), (Some(frame::MAX_31_BITS), Some(Code::NO_ERROR)));
            let ping = client.said(kind::PING, 0).await;
            if answers {
                let mut pong = BytesMut::new();
                frame::write(&mut pong, kind::PING, flag::ACK, 0, &ping);
                client.say(&pong).await;
                assert_eq!(last(client.said(kind::GOAWAY, 0).await), (Some(3), Some(Code::NO_ERROR)));
                client.end().await;
            } else {
                let (wrong, took) = client.ended().await;
                assert!(wrong.is_none() && (CLOSE_TIMEOUT..2 * CLOSE_TIMEOUT).contains(&took), "{took:?}");
            }
        });
    }
}

#[test]
fn half_a_head_has_the_time_of_a_head() {
    for (what, piece) in [
        ("a field section without its end", get(1, 0).to_vec()),
        ("a part of a frame", get(1, flag::END_HEADERS)[..12].to_vec()),
        ("a part of its header", get(1, flag::END_HEADERS)[..1].to_vec()),
        ("another field section while a stream is open", [get(1, flag::END_HEADERS), get(3, 0)].concat()),
    ] {
        local(async {
            let mut client = Client::new(Rc::new(Never)).await;
            client.say(&piece).await;
            let (wrong, took) = client.ended().await;
            assert!(wrong.is_some() && (HEAD_TIMEOUT..2 * HEAD_TIMEOUT).contains(&took), "{what}: {took:?}");
            let goaway = client.said(kind::GOAWAY, 0).await;
            assert_eq!(frame::word(&goaway[4..]).map(Code), Some(Code::ENHANCE_YOUR_CALM), "{what}");
        });
    }
}

/// However little of the next one comes with it.
#[test]
fn each_head_has_all_of_its_time() {
    local(async {
        let mut client = Client::new(Rc::new(Counting(Cell::new(0)))).await;
        let all: Vec<u8> = (0..5).flat_map(|n| get(n * 2 + 1, flag::END_HEADERS)).collect();
        let (mut at, length) = (0, all.len() / 5);
        for _ in 0..4 {
            let next = at + length + usize::from(at == 0);
            client.say(&all[at..next]).await;
            client.said(kind::HEADERS, flag::END_STREAM).await;
            pass(HEAD_TIMEOUT - 2 * clock::TICK);
            at = next;
        }
        client.say(&all[at..]).await;
        client.said(kind::HEADERS, flag::END_STREAM).await;
    });
}

/// Takes note of what was reset.
#[derive(Default)]
struct Noting(RefCell<Vec<(Reason, String)>>);

impl Service for Noting {
    async fn call(self: Rc<Self>, _: Request) -> Response {
        Response { head: ResponseHead::new(StatusCode::NO_CONTENT).into(), body: Body::empty(Half::Response) }
    }

    fn refuse(&self, fault: Fault) -> Response {
        panic!("{fault}")
    }

    fn reset(&self, fault: Fault) {
        self.0.borrow_mut().push((fault.reason, fault.to_string()));
    }
}

#[test]
fn requests_that_are_none_are_taken_note_of() {
    local(async {
        let noting = Rc::new(Noting::default());
        let mut client = Client::new(Rc::clone(&noting)).await;
        let mut all = BytesMut::new();
        let whole = flag::END_HEADERS | flag::END_STREAM;
        // Without a path; with `connection`; with a length and nothing else.
        frame::write(&mut all, kind::HEADERS, whole, 1, b"\x82\x86\x41\x01a");
        frame::write(&mut all, kind::HEADERS, whole, 3, b"\x82\x86\x84\x41\x01a\x00\x0aconnection\x05close");
        frame::write(&mut all, kind::HEADERS, whole, 5, b"\x82\x86\x84\x41\x01a\x0f\x0d\x011");
        // With more than its length, before anybody has taken it.
        frame::write(&mut all, kind::HEADERS, flag::END_HEADERS, 7, b"\x83\x86\x84\x41\x01a\x0f\x0d\x011");
        frame::write(&mut all, kind::DATA, 0, 7, b"12");
        // Reset by its client: nobody is to hear of that.
        frame::write(&mut all, kind::HEADERS, flag::END_HEADERS, 9, b"\x83\x86\x84\x41\x01a");
        frame::write(&mut all, kind::RST_STREAM, 0, 9, &[0, 0, 0, 8]);
        all.extend_from_slice(&get(11, flag::END_HEADERS));
        client.say(&all).await;
        client.said(kind::HEADERS, flag::END_STREAM).await;
        let noted = noting.0.borrow();
        assert!(noted.iter().all(|(reason, _)| *reason == Reason::HttpRequestError), "{noted:?}");
        let said =
            ["that does not fit the method", "belongs to a connection", "less content than", "more content than"];
        assert!(noted.len() == 4 && noted.iter().zip(said).all(|((_, text), said)| text.contains(said)), "{noted:?}");
    });
}

/// Answers nothing.
struct Never;

impl Service for Never {
    async fn call(self: Rc<Self>, _: Request) -> Response {
        std::future::pending().await
    }

    fn refuse(&self, fault: Fault) -> Response {
        panic!("{fault}")
    }

    fn reset(&self, fault: Fault) {
        panic!("{fault}")
    }
}
