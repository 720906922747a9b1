//! What applications and strangers send: HTTP/1.1 as bytes, HTTP/2 with prior knowledge, load.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

pub use crate::h2c::{H2Response, H2c, collect, send, whole};
use crate::wire::{Framing, Head, Left, Response, Wire};
use crate::{block_on, runtime};

/// `GET` on a connection of its own; panics without a whole answer.
pub fn get(address: SocketAddr, host: &str, path: &str) -> Response {
    request(address, "GET", host, path, &[], None)
}

/// A request with a length, on a connection of its own; panics without a whole answer.
pub fn request(
    address: SocketAddr,
    method: &str,
    host: &str,
    path: &str,
    fields: &[(&str, &str)],
    body: Option<&[u8]>,
) -> Response {
    let mut client = Client::connect(address);
    client.request(method, host, path, fields, body)
}

/// Sends bytes, half-closes, and gives everything that comes until the end of the connection; an error of the
/// connection ends it too.
pub fn exchange(address: SocketAddr, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    block_on(async {
        let mut wire = Wire::new(TcpStream::connect(address).await.expect("a connection"));
        let _ = wire.send(bytes.as_ref()).await;
        let _ = wire.io.shutdown().await;
        let mut all = Vec::new();
        while let Ok(more) = wire.some().await {
            if more.is_empty() {
                break;
            }
            all.extend_from_slice(&more);
        }
        all
    })
}

/// An HTTP/1.1 connection in the test's hand. Every method waits at most [`crate::PATIENCE`] and panics when that is
/// not enough; `try_` ones give the error of the connection instead of panicking about it.
#[derive(Debug)]
pub struct Client {
    wire: Wire<TcpStream>,
}

impl Client {
    /// Connects.
    pub fn connect(address: SocketAddr) -> Client {
        let stream = block_on(TcpStream::connect(address)).unwrap_or_else(|e| panic!("connect to {address}: {e}"));
        stream.set_nodelay(true).expect("a socket");
        Client { wire: Wire::new(stream) }
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        block_on(self.wire.send(bytes.as_ref())).expect("the connection takes bytes");
    }

    /// Sends bytes as they are, if the connection takes them.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        block_on(self.wire.send(bytes.as_ref()))
    }

    /// Sends a request with a length (if it has a body) and reads its answer.
    pub fn request(
        &mut self,
        method: &str,
        host: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Response {
        let mut text = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n");
        for (name, value) in fields {
            text += &format!("{name}: {value}\r\n");
        }
        if let Some(body) = body {
            text += &format!("content-length: {}\r\n", body.len());
        }
        text += "\r\n";
        let bytes = [text.as_bytes(), body.unwrap_or_default()].concat();
        // A server may answer, and close, before it has taken everything.
        let sent = self.try_send(bytes);
        self.try_response(method).unwrap_or_else(|e| panic!("{method} {path} of {host}: {e} (sent: {sent:?})"))
    }

    /// `GET` and its answer.
    pub fn get(&mut self, host: &str, path: &str) -> Response {
        self.request("GET", host, path, &[], None)
    }

    /// The next whole response, to a request with this method.
    pub fn response(&mut self, method: &str) -> Response {
        self.try_response(method).unwrap_or_else(|e| panic!("the response to {method}: {e}"))
    }

    /// The next whole response, or what was wrong with it.
    pub fn try_response(&mut self, method: &str) -> io::Result<Response> {
        block_on(self.wire.response(method))
    }

    /// The next head, informational or not.
    pub fn head(&mut self) -> Head {
        block_on(self.wire.head()).expect("a head").expect("a head before the connection's end")
    }

    /// The body that follows a head.
    pub fn body(&mut self, framing: Framing) -> Bytes {
        block_on(self.wire.body(framing)).expect("a whole body").0
    }

    /// The next piece of a body that is being read; see [`Wire::data`].
    pub fn data(&mut self, left: &mut Left) -> io::Result<crate::wire::Data> {
        block_on(self.wire.data(left))
    }

    /// Exactly this many bytes, as they are.
    pub fn exactly(&mut self, count: usize) -> Bytes {
        block_on(self.wire.exactly(count)).expect("bytes")
    }

    /// Everything up to the end of the connection.
    pub fn rest(&mut self) -> Bytes {
        block_on(self.wire.rest()).expect("a clean end")
    }

    /// Waits for the peer's end, and says whether it came without a further byte (a reset counts as an end).
    pub fn is_closed(&mut self) -> bool {
        block_on(self.wire.some()).map_or(true, |bytes| bytes.is_empty())
    }

    /// Half-closes: nothing more will be sent.
    pub fn finish(&mut self) {
        block_on(self.wire.io.shutdown()).expect("a half-close");
    }

    /// Resets the connection.
    pub fn reset(self) {
        self.wire.io.set_zero_linger().expect("a socket");
    }
}

/// A request over h2c on a connection of its own; panics without a whole answer.
pub fn h2c(address: SocketAddr, request: http::Request<()>, body: &[u8]) -> H2Response {
    let body = Bytes::copy_from_slice(body);
    block_on(async { H2c::open(address).await.expect("h2c").request(request, body, None).await.expect("an answer") })
}

/// A `GET` request for [`h2c`].
pub fn h2_get(authority: &str, path: &str) -> http::Request<()> {
    http::Request::get(format!("http://{authority}{path}")).body(()).expect("a request")
}

/// What a load met, by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Requests with the answer that was wanted.
    pub ok: u64,
    /// Connections that the server had announced to close, or closed between two requests, and that were opened anew.
    pub reopened: u64,
    /// Connection attempts that were refused: the end of a worker, and no failed request.
    pub refused: u64,
    /// Failed requests by what happened.
    pub failures: BTreeMap<String, u64>,
}

impl Load {
    /// The number of failed requests.
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    fn add(&mut self, other: Load) {
        self.ok += other.ok;
        self.reopened += other.reopened;
        self.refused += other.refused;
        for (kind, count) in other.failures {
            *self.failures.entry(kind).or_default() += count;
        }
    }
}

/// A load that goes on until it is stopped.
#[derive(Debug)]
pub struct Running {
    tasks: JoinSet<Load>,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
}

/// Starts keep-alive connections that send `GET` without a pause and want status 200.
pub fn load(address: SocketAddr, host: &str, path: &str, connections: usize) -> Running {
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n");
        tasks.spawn_on(worker(address, request, stop.clone(), done.clone()), runtime().handle());
    }
    Running { tasks, stop, done }
}

impl Running {
    /// Requests answered so far.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::SeqCst)
    }

    /// Waits until this many more requests were answered.
    pub fn wait_more(&self, count: u64) {
        let goal = self.done() + count;
        crate::until(&format!("the load has {goal} answers"), || (self.done() >= goal).then_some(()));
    }

    /// Lets every connection finish its request and gives the sum.
    pub fn stop(self) -> Load {
        self.stop.store(true, Ordering::SeqCst);
        self.join()
    }

    /// Waits until every connection was refused (the server has gone) and gives the sum.
    pub fn join(mut self) -> Load {
        block_on(async {
            let mut sum = Load::default();
            while let Some(load) = self.tasks.join_next().await {
                sum.add(load.expect("a load task does not panic"));
            }
            sum
        })
    }
}

/// One connection's worth of load. A client may send again what was lost with a re-used connection that closed before
/// the first byte of an answer (RFC 9112 section 9.3.1, and every client does); on a fresh one that is a failure.
async fn worker(address: SocketAddr, request: String, stop: Arc<AtomicBool>, done: Arc<AtomicU64>) -> Load {
    let mut load = Load::default();
    'connection: while !stop.load(Ordering::SeqCst) {
        let Ok(stream) = TcpStream::connect(address).await else {
            load.refused += 1;
            return load;
        };
        let _ = stream.set_nodelay(true);
        let mut wire = Wire::new(stream);
        let mut used = false;
        while !stop.load(Ordering::SeqCst) {
            let answer = async {
                wire.send(request.as_bytes()).await?;
                wire.response("GET").await
            };
            let failure = match answer.await {
                Ok(answer) if answer.status() == 200 => {
                    load.ok += 1;
                    done.fetch_add(1, Ordering::SeqCst);
                    used = true;
                    if answer.head.has_token("connection", "close") {
                        load.reopened += 1;
                        continue 'connection;
                    }
                    continue;
                }
                Ok(answer) => {
                    used = true;
                    format!("status {} {}", answer.status(), answer.proxy_error().unwrap_or_default())
                }
                Err(error) if used && is_close(&error) => {
                    load.reopened += 1;
                    continue 'connection;
                }
                Err(error) => {
                    *load.failures.entry(error.to_string()).or_default() += 1;
                    continue 'connection;
                }
            };
            *load.failures.entry(failure).or_default() += 1;
        }
    }
    load
}

fn is_close(error: &io::Error) -> bool {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => true,
        io::ErrorKind::UnexpectedEof => error.to_string().ends_with("before a response"),
        _ => false,
    }
}
