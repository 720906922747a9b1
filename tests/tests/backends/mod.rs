//! Applications whose behaviour a test writes, and a sidecar that calls them all.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "shared by tests; each uses its own part")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lacis_tests::client::{self, Client};
use lacis_tests::wire::{Response, Wire};
use lacis_tests::{Link, Mesh, Sidecar, block_on, runtime, until, unused};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What a backend does with a request.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    /// Answers with this status and these fields.
    Answer(u16, &'static [(&'static str, &'static str)]),
    /// Answers so after [`Backend::release`].
    Hold(u16),
    /// Closes the connection instead of an answer.
    Abort,
    /// Answers 200 so much later.
    Late(Duration),
    /// Never answers.
    Silent,
}

pub const OK: Act = Act::Answer(200, &[]);

/// A request as a backend saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub id: String,
    pub path: String,
    /// `x-envoy-attempt-count`.
    pub attempt: Option<u16>,
    pub body: Vec<u8>,
    /// `x-envoy-expected-rq-timeout-ms`, or `grpc-timeout` in milliseconds.
    pub deadline: Option<u64>,
}

/// What is done with a request, given how often its id was seen here before.
pub type Script = Box<dyn Fn(&Seen, usize) -> Act + Send>;

/// An HTTP/1.1 application whose behaviour a test writes.
pub struct Backend {
    pub address: SocketAddr,
    pub shared: Arc<Shared>,
    pub alive: watch::Sender<()>,
}

pub struct Shared {
    pub seen: Mutex<Vec<Seen>>,
    /// How often each id was seen: in ten minutes of chaos there are too many to look through.
    pub times: Mutex<HashMap<String, usize>>,
    pub script: Mutex<Script>,
    pub released: watch::Sender<bool>,
    pub connections: AtomicU64,
}

pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Backend {
    pub fn new(script: impl Fn(&Seen, usize) -> Act + Send + 'static) -> Backend {
        let listener = block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let address = listener.local_addr().expect("a bound socket");
        let shared = Arc::new(Shared {
            seen: Mutex::default(),
            times: Mutex::default(),
            script: Mutex::new(Box::new(script)),
            released: watch::channel(false).0,
            connections: AtomicU64::new(0),
        });
        let (alive, mut end) = watch::channel(());
        let accepting = shared.clone();
        runtime().spawn(async move {
            loop {
                let accepted = tokio::select! {
                    _ = end.changed() => return,
                    accepted = listener.accept() => accepted,
                };
                let Ok((stream, _)) = accepted else { continue };
                accepting.connections.fetch_add(1, Ordering::SeqCst);
                let (shared, mut end) = (accepting.clone(), end.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        _ = end.changed() => {}
                        // An error is the peer's way to end.
                        _ = serve(stream, &shared) => {}
                    }
                });
            }
        });
        Backend { address, shared, alive }
    }

    pub fn now(&self, script: impl Fn(&Seen, usize) -> Act + Send + 'static) {
        *lock(&self.shared.script) = Box::new(script);
    }

    pub fn release(&self) {
        self.shared.released.send_replace(true);
    }

    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.shared.seen).clone()
    }

    pub fn count(&self) -> usize {
        lock(&self.shared.seen).len()
    }

    pub fn of(&self, id: &str) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.id == id).collect()
    }

    pub fn wait(&self, count: usize) {
        until("the backend has seen the requests", || (self.count() >= count).then_some(()));
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        let _ = self.alive.send(());
    }
}

async fn serve(stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let _ = stream.set_nodelay(true);
    let mut wire = Wire::new(stream);
    while let Some(head) = wire.head().await? {
        let (body, _) = wire.body(head.request_framing()?).await?;
        let seen = Seen {
            id: head.field("x-request-id").unwrap_or_default().to_owned(),
            path: head.start.split(' ').nth(1).unwrap_or_default().to_owned(),
            attempt: head.field("x-envoy-attempt-count").and_then(|n| n.parse().ok()),
            body: body.to_vec(),
            deadline: head
                .field("x-envoy-expected-rq-timeout-ms")
                .or(head.field("grpc-timeout").and_then(|text| text.strip_suffix('m')))
                .and_then(|text| text.parse().ok()),
        };
        let before = {
            lock(&shared.seen).push(seen.clone());
            let mut times = lock(&shared.times);
            let times = times.entry(seen.id.clone()).or_default();
            *times += 1;
            *times - 1
        };
        let act = lock(&shared.script)(&seen, before);
        let (status, fields) = match act {
            Act::Answer(status, fields) => (status, fields),
            Act::Hold(status) => {
                let _ = shared.released.subscribe().wait_for(|go| *go).await;
                (status, &[][..])
            }
            Act::Late(wait) => {
                tokio::time::sleep(wait).await;
                (200, &[][..])
            }
            Act::Abort => return Ok(()),
            Act::Silent => return wire.closed().await,
        };
        let mut text = format!("HTTP/1.1 {status} Status\r\ncontent-length: 2\r\n");
        fields.iter().for_each(|(name, value)| text += &format!("{name}: {value}\r\n"));
        wire.send(format!("{text}\r\nok").as_bytes()).await?;
    }
    Ok(())
}

/// One sidecar that calls `delta` at each of these backends; but for a plaintext link through a sidecar before each.
pub struct Net {
    pub alpha: Sidecar,
    pub deltas: Vec<Sidecar>,
    pub mesh: Mesh,
}

impl Net {
    pub fn new(link: Link, backends: &[&Backend], service: Value) -> Net {
        Net::with(link, backends, |_, _| json!({"services": {"delta": service}}))
    }

    /// The same with a word about all of the configuration, given where the endpoints are.
    pub fn with(link: Link, backends: &[&Backend], more: impl FnOnce(&Mesh, &[SocketAddr]) -> Value) -> Net {
        let mesh = Mesh::new();
        let deltas: Vec<Sidecar> = match link {
            Link::Plaintext => Vec::new(),
            // At places that nobody else takes while one of them is away.
            _ => backends
                .iter()
                .map(|backend| {
                    let listen = json!({"inbound": {"listen": unused().to_string()}});
                    mesh.sidecar("delta").application_at(backend.address).with(listen).start()
                })
                .collect(),
        };
        let endpoints: Vec<SocketAddr> = match link {
            Link::Plaintext => backends.iter().map(|backend| backend.address).collect(),
            _ => deltas.iter().map(Sidecar::inbound).collect(),
        };
        let alpha = mesh.sidecar("alpha").calls_all("delta", &endpoints, link);
        let alpha = alpha.with(more(&mesh, &endpoints)).start();
        Net { alpha, deltas, mesh }
    }

    pub fn send(&self, method: &str, id: &str, fields: &[(&str, &str)], body: Option<&[u8]>) -> Response {
        let fields = [&[("x-request-id", id)], fields].concat();
        client::request(self.alpha.outbound(), method, "delta", "/", &fields, body)
    }

    pub fn get(&self, id: &str) -> Response {
        self.send("GET", id, &[], None)
    }

    /// A request whose answer is not waited for yet.
    pub fn begin(&self, id: &str) -> Client {
        let mut client = Client::connect(self.alpha.outbound());
        client.send(format!("GET / HTTP/1.1\r\nhost: delta\r\nx-request-id: {id}\r\n\r\n"));
        client
    }

    /// `delta` on `/clusters`, with the only worker.
    pub fn cluster(&self) -> Value {
        let page: Value = serde_json::from_str(&self.alpha.admin_get("/clusters").text()).expect("JSON");
        page["workers"][0]["clusters"]["delta"].clone()
    }
}
