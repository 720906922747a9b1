//! The application behind an inbound listener: a small server of our own, written on bytes, so that it can do what
//! applications do, well and badly.
//!
//! | route | what it does |
//! | --- | --- |
//! | `/echo` | reads everything, answers with what it saw, as JSON (see [`Seen`]) |
//! | `/back` | reads everything, answers with just that body |
//! | `/mirror` | streams the request body back while it comes, with its framing and trailers |
//! | `/bytes/N`, `/chunked/N` | N bytes of [`pattern`], with a length or in chunks |
//! | `/drain` | reads the body and answers its number of bytes |
//! | `/trailers` | a chunked `hello` with the trailers `x-checksum: abc` and `x-count: 5` |
//! | `/status/NNN` | that status; no body with 204 and 304 |
//! | `/hints` | 103 with a `link` field, then 200 |
//! | `/refuse` | 417 before anything of the body is read, then the connection's end |
//! | `/early` | 200 before anything of the body is read, which is then read |
//! | `/hold` | answers `held` after [`App::release`] |
//! | `/stall` | reads nothing of the body before [`App::release`], then as `/drain` |
//! | `/drip` | head and `first` at once, `second` after [`App::release`] |
//! | `/silent` | never answers |
//! | `/truncate`, `/truncate-chunked` | ends the connection in mid-body |
//! | `/reset`, `/tear` | resets the connection in mid-body; the latter after [`App::release`] |
//! | `/abort` | ends the connection instead of an answer |
//! | `/close` | answers, and closes with `connection: close` |
//! | `/old` | answers as HTTP/1.0, the body ended by the connection |
//! | `/large-head/N` | an answer with a field of N bytes |
//! | `/upgrade` | switches to the protocol `echo`: bytes come back; after their end `bye`, then the end |
//! | `/grpc/STATUS` | over h2c only: a gRPC answer with that `grpc-status` in its trailers |
//! | `/grpc-refused/STATUS` | over h2c only: that `grpc-status` in the head, with a message in percent-encoding |
//!
//! Over h2c the routes exist that make sense there: no `/old`, `/close`, `/upgrade`, `/refuse`; a reset is RST_STREAM.

mod http1;
mod http2;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::process::lock;
use crate::wire::Fields;
use crate::{PATIENCE, block_on, runtime};

/// A running application. Dropped: it ends, with all its connections.
#[derive(Debug)]
pub struct App {
    address: SocketAddr,
    h2c: bool,
    shared: Arc<Shared>,
}

/// A request as the application saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The number of the connection that it came on, from 1.
    pub connection: u64,
    /// The method.
    pub method: String,
    /// The request target; over h2c `:path`.
    pub target: String,
    /// `HTTP/1.1` and so on, `HTTP/2` for h2c.
    pub version: String,
    /// The fields in order; over h2c with `:authority` and `:scheme` first.
    pub fields: Fields,
    /// The number of bytes of the body.
    pub length: u64,
    /// Whether it came chunked.
    pub chunked: bool,
    /// The trailers.
    pub trailers: Fields,
}

impl Seen {
    /// The first value of a field.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    fn json(&self, body: &[u8]) -> Value {
        json!({
            "method": self.method, "target": self.target, "version": self.version, "fields": self.fields,
            "length": self.length, "chunked": self.chunked, "trailers": self.trailers,
            "connection": self.connection, "body": String::from_utf8_lossy(body),
        })
    }
}

/// What the tasks of an application share with the test.
#[derive(Debug)]
struct Shared {
    name: String,
    canned: Option<Vec<u8>>,
    counts: Mutex<Counts>,
    changed: Condvar,
    release: watch::Sender<bool>,
    alive: watch::Sender<()>,
    connections: AtomicU64,
}

#[derive(Debug, Default)]
struct Counts {
    seen: Vec<Seen>,
    started: u64,
    unread: u64,
    held: u64,
}

impl App {
    /// An HTTP/1.1 application.
    pub fn start() -> App {
        App::named("app")
    }

    /// One that says its name in the field `x-app` of every answer.
    pub fn named(name: &str) -> App {
        App::new(name, false, None)
    }

    /// One that speaks HTTP/2 with prior knowledge.
    pub fn h2c() -> App {
        App::new("app", true, None)
    }

    /// One that reads a request head, writes these bytes whatever it was, and closes.
    pub fn canned(bytes: impl Into<Vec<u8>>) -> App {
        App::new("app", false, Some(bytes.into()))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it speaks h2c.
    pub fn is_h2c(&self) -> bool {
        self.h2c
    }

    /// How many requests it has begun to read.
    pub fn requests(&self) -> u64 {
        lock(&self.shared.counts).started
    }

    /// How many connections it has taken.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// The requests that it has read to their end, oldest first.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.shared.counts).seen.clone()
    }

    /// Waits until `/hold`, `/stall`, `/drip`, `/tear` and `/silent` hold this many requests.
    pub fn wait_held(&self, count: u64) {
        self.wait("held requests", |counts| counts.held >= count);
    }

    /// Waits until this many requests were begun.
    pub fn wait_requests(&self, count: u64) {
        self.wait("requests", |counts| counts.started >= count);
    }

    /// Waits until every request that it has begun to read was read to its end, or broke off.
    pub fn wait_read(&self) {
        self.wait("the rest of requests", |counts| counts.unread == 0);
    }

    /// How many requests are held now.
    pub fn held(&self) -> u64 {
        lock(&self.shared.counts).held
    }

    /// Lets go what is held, and what comes later.
    pub fn release(&self) {
        self.shared.release.send_replace(true);
    }

    /// Holds again what comes later.
    pub fn hold(&self) {
        self.shared.release.send_replace(false);
    }

    fn new(name: &str, h2c: bool, canned: Option<Vec<u8>>) -> App {
        let listener = block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let address = listener.local_addr().expect("a bound socket");
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            canned,
            counts: Mutex::default(),
            changed: Condvar::new(),
            release: watch::channel(false).0,
            alive: watch::channel(()).0,
            connections: AtomicU64::new(0),
        });
        runtime().spawn(accept(listener, shared.clone(), h2c));
        App { address, h2c, shared }
    }

    fn wait(&self, what: &str, enough: impl Fn(&Counts) -> bool) {
        let end = Instant::now() + PATIENCE;
        let mut counts = lock(&self.shared.counts);
        while !enough(&counts) {
            let left = end.saturating_duration_since(Instant::now());
            let (started, held) = (counts.started, counts.held);
            assert!(!left.is_zero(), "waited in vain for {what}: {started} begun, {held} held");
            counts = self.shared.changed.wait_timeout(counts, left).unwrap_or_else(|e| e.into_inner()).0;
        }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        let _ = self.shared.alive.send(());
    }
}

impl Shared {
    /// A request has begun, and is unread as long as this lives.
    fn begin(&self) -> Unread<'_> {
        let mut counts = lock(&self.counts);
        counts.started += 1;
        counts.unread += 1;
        drop(counts);
        self.changed.notify_all();
        Unread(self)
    }

    /// Counts a request as held, as long as this lives.
    fn hold(&self) -> Held<'_> {
        Held::new(self)
    }

    /// Waits until the test lets go.
    async fn released(&self) {
        let _ = self.release.subscribe().wait_for(|go| *go).await;
    }
}

struct Unread<'a>(&'a Shared);

impl Unread<'_> {
    /// It was read to its end.
    fn see(self, seen: Seen) {
        lock(&self.0.counts).seen.push(seen);
    }
}

impl Drop for Unread<'_> {
    fn drop(&mut self) {
        lock(&self.0.counts).unread -= 1;
        self.0.changed.notify_all();
    }
}

struct Held<'a>(&'a Shared);

impl<'a> Held<'a> {
    fn new(shared: &'a Shared) -> Self {
        lock(&shared.counts).held += 1;
        shared.changed.notify_all();
        Held(shared)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        lock(&self.0.counts).held -= 1;
        self.0.changed.notify_all();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, h2c: bool) {
    let mut end = shared.alive.subscribe();
    loop {
        let accepted = tokio::select! {
            _ = end.changed() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else { continue };
        let _ = stream.set_nodelay(true);
        let number = shared.connections.fetch_add(1, Ordering::SeqCst) + 1;
        let (shared, mut end) = (shared.clone(), end.clone());
        tokio::spawn(async move {
            tokio::select! {
                _ = end.changed() => {}
                () = async {
                    // An error is the peer's way to end: tests look at the peer's side of it.
                    if h2c {
                        let _ = http2::serve(stream, &shared, number).await;
                    } else {
                        let _ = http1::serve(stream, &shared, number).await;
                    }
                } => {}
            }
        });
    }
}

/// Bytes `from..from + length` of an endless stream in which every byte depends on its place.
pub fn pattern(from: u64, length: usize) -> Bytes {
    let (table, start) = table(from);
    if let Some(piece) = (length <= REPEATED).then(|| table.slice(start..start + length)) {
        return piece;
    }
    let mut all = Vec::with_capacity(length);
    while all.len() < length {
        all.extend_from_slice(&table[start..start + REPEATED.min(length - all.len())]);
    }
    all.into()
}

/// Whether these are the bytes of [`pattern`] at this place.
pub fn is_pattern(from: u64, bytes: &[u8]) -> bool {
    let (table, start) = table(from);
    bytes.chunks(REPEATED).all(|chunk| table[start..start + chunk.len()] == *chunk)
}

/// The period of the pattern: prime, so that no power of two of a buffer hides a shift.
const PERIOD: usize = 251;

/// A whole number of periods, larger than any piece that is sent at once: gigabytes of it are copied and compared, which
/// a debug build does slowly byte by byte.
const REPEATED: usize = PERIOD * 1024;

/// A stretch of the pattern, and where in it the pattern of this place begins.
fn table(from: u64) -> (&'static Bytes, usize) {
    static TABLE: OnceLock<Bytes> = OnceLock::new();
    let table = TABLE.get_or_init(|| (0..REPEATED + PERIOD).map(|i| (i % PERIOD) as u8).collect());
    (table, (from % PERIOD as u64) as usize)
}

/// `/route/ARGUMENT` apart; a query is not part of either.
fn route(target: &str) -> (&str, &str) {
    let path = target.split('?').next().unwrap_or_default();
    let path = path.strip_prefix('/').unwrap_or(path);
    path.split_once('/').unwrap_or((path, ""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{self, Client};

    #[test]
    fn http1_routes_behave() {
        let app = App::start();
        let mut client = Client::connect(app.address());
        let answer = client.request("POST", "h", "/echo", &[("x-a", "b")], Some(b"body"));
        assert_eq!((answer.status(), answer.json()["body"].as_str()), (200, Some("body")));
        let answer = client.get("h", "/chunked/100000");
        assert!(answer.body.len() == 100_000 && is_pattern(0, &answer.body));
        assert_eq!(client.get("h", "/trailers").trailer("x-checksum"), Some("abc"));
        assert_eq!(client.get("h", "/hints").informational[0].status(), 103);
        assert_eq!(client.get("h", "/status/204").status(), 204);
        client.send("GET /upgrade HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nearly");
        assert_eq!(client.head().status(), 101);
        assert_eq!(&client.exactly(5)[..], b"early");
        client.finish();
        assert_eq!(&client.rest()[..], b"bye");
        assert_eq!((app.requests(), app.connections(), app.seen()[0].length), (6, 1, 4));
    }

    #[test]
    fn the_pattern_depends_on_the_place() {
        for (from, length) in [(0, 0), (0, 1), (250, 3), (7, REPEATED), (1 << 40, REPEATED + 1), (3, 3 * REPEATED + 5)]
        {
            let piece = pattern(from, length);
            let byte = |i: usize| ((from + i as u64) % 251) as u8;
            assert!(
                piece.len() == length && piece.iter().enumerate().all(|(i, b)| *b == byte(i)),
                "{length} at {from}"
            );
            assert!(is_pattern(from, &piece) && (length == 0 || !is_pattern(from + 1, &piece)), "{length} at {from}");
        }
    }

    #[test]
    fn what_is_held_is_let_go() {
        let app = App::start();
        let mut client = Client::connect(app.address());
        client.send("GET /hold HTTP/1.1\r\nhost: h\r\n\r\n");
        app.wait_held(1);
        app.release();
        assert_eq!(client.response("GET").text(), "held");
    }

    #[test]
    fn h2c_routes_behave() {
        let app = App::h2c();
        let answer = client::h2c(app.address(), client::h2_get("h", "/bytes/3000000"), b"");
        assert!(answer.body.len() == 3_000_000 && is_pattern(0, &answer.body));
        let answer = client::h2c(app.address(), client::h2_get("h", "/grpc/5"), b"x");
        assert_eq!(answer.trailer("grpc-status"), Some("5"));
        let answer = client::h2c(app.address(), client::h2_get("h", "/hints"), b"");
        assert_eq!((answer.status, answer.informational.as_slice()), (200, &[103][..]));
    }
}
