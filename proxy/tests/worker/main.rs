//! A worker without a process around it: limits that are too large to be reached from outside, and what a connection
//! that rests holds.

#![allow(clippy::expect_used, clippy::panic, reason = "a test may fail anywhere, helpers included")]

mod rest;

use std::alloc::System;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use lacis::cluster::Places;
use lacis::config::{self, IdentityFiles, resolve::Host};
use lacis::filter::chain::Plan;
use lacis::identity::SpiffeId;
use lacis::mesh::generation::Snapshot;
use lacis::net::{listen, quic};
use lacis::telemetry::metrics::Registry;
use lacis::tls::authority::{self, Issued};
use lacis::tls::{Alpn, TlsSettings};
use lacis::worker::{self, Order, Peers, Seed, Sockets};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tempfile::TempDir;
use tokio::sync::mpsc::{self, UnboundedSender};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// One test runs at a time: they share the allocator, whose counts one of them reads.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Longer than anything takes that works.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether a request on this connection is answered, or the connection closed without a word.
fn is_served(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    // A closed connection may take the request all the same.
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: nobody\r\n\r\n");
    let (mut answer, mut piece) = (Vec::new(), [0; 1024]);
    while !answer.ends_with(b"destination_not_found\n") {
        match stream.read(&mut piece) {
            Ok(length @ 1..) => answer.extend_from_slice(&piece[..length]),
            Ok(0) | Err(_) => {
                assert!(answer.is_empty(), "half an answer: {}", answer.escape_ascii());
                return false;
            }
        }
    }
    true
}

const LIMIT: usize = 3;

/// A worker with this configuration that serves so many connections on each way, until it is cut.
fn start(
    text: &str,
    sockets: Sockets,
    tls: Option<Arc<TlsSettings>>,
    connections: usize,
) -> (UnboundedSender<Order>, Running) {
    let host = Host { variable: &|_| None, exists: &|_| true, cores: 1 };
    let (config, _) = config::parse(text, "test", Path::new("/"), &host).expect("a config");
    let (orders, mailbox) = mpsc::unbounded_channel();
    let seed = Seed {
        number: 0,
        snapshot: Snapshot::new(1, Arc::new(config), Plan::default(), Places::default(), &Arc::default()),
        sockets,
        tls,
        registry: Registry::default(),
        access: None,
        shared: Arc::default(),
        mailbox,
        peers: Arc::new(Peers::new(vec![orders.clone()])),
        connections,
        handshakes: worker::MAX_HANDSHAKES,
    };
    (orders, thread::spawn(move || worker::run(seed)))
}

type Running = thread::JoinHandle<std::io::Result<()>>;

fn cut(orders: &UnboundedSender<Order>, worker: Running) {
    orders.send(Order::Cut).expect("a worker that listens");
    worker.join().expect("no panic").expect("a good end");
}

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().expect("an address")
}

const OUTBOUND: &str = "node: {service: alpha}\noutbound: {listen: \"127.0.0.1:0\"}\n";

const INBOUND: &str = "node: {service: delta, trust_domain: mesh.local}
identity: {certificate: a, private_key: b, trust_bundle: c}
inbound: {listen: \"127.0.0.1:0\", application: \"127.0.0.1:9\"}
";

fn identity(service: &str) -> SpiffeId {
    SpiffeId::service("mesh.local", "default", service).expect("an identity")
}

/// An authority, and a directory for it.
struct Mesh(TempDir);

impl Mesh {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        authority::init(dir.path(), "mesh.local", 1, false).expect("an authority");
        Mesh(dir)
    }

    fn tls(&self, service: &str) -> Arc<TlsSettings> {
        let issued = authority::issue(self.0.path(), service, "default", None, 1).expect("a certificate");
        let Issued { certificate, private_key, trust_bundle, .. } = issued;
        TlsSettings::load(&IdentityFiles { certificate, private_key, trust_bundle }, &identity(service))
            .expect("settings")
    }
}

#[test]
fn no_more_connections_than_the_limit() {
    let _alone = alone();
    let listener = listen::tcp(any_port(), 1).expect("a port").remove(0);
    let address = listener.local_addr().expect("its address");
    let sockets = Sockets { outbound: Some(listener), ..Sockets::default() };
    let (orders, worker) = start(OUTBOUND, sockets, None, LIMIT);
    let connect = || TcpStream::connect(address).expect("a connection");

    let mut open: Vec<TcpStream> = (0..LIMIT).map(|_| connect()).collect();
    assert!(open.iter_mut().all(is_served), "up to the limit all are served");
    assert!(!is_served(&mut connect()), "one more is closed");
    assert!(open.iter_mut().all(is_served), "at nobody's cost");
    // Once one has gone there is room for one, as soon as the worker has noticed.
    drop(open.pop());
    let end = Instant::now() + PATIENCE;
    open.push(loop {
        let mut next = connect();
        if is_served(&mut next) {
            break next;
        }
        assert!(Instant::now() < end, "the place of a closed connection stays taken");
    });
    assert!(!is_served(&mut connect()), "and for no more than one");

    cut(&orders, worker);
}

/// The same over QUIC: an attempt beyond the limit is refused before it costs a handshake (RFC 9000 section 20.1).
#[test]
fn no_more_quic_connections_than_the_limit() {
    let _alone = alone();
    let mesh = Mesh::new();
    let pair = listen::tcp_and_udp(any_port(), 1).expect("a port").remove(0);
    let address = pair.1.local_addr().expect("its address");
    let sockets = Sockets { inbound: Some(pair), ..Sockets::default() };
    let (orders, worker) = start(INBOUND, sockets, Some(mesh.tls("delta")), LIMIT);

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let socket = listen::udp(any_port(), false).expect("a port");
        let client = quic::endpoint(socket, None, None).expect("an endpoint");
        let settings = mesh.tls("alpha").client(&[identity("delta")], Alpn::Http3);
        let settings = quic::client(settings).expect("settings");
        let connect = async || {
            let connecting = client.connect_with(settings.clone(), address, "delta").expect("an attempt");
            tokio::time::timeout(PATIENCE, connecting).await.expect("an end")
        };
        let refused = |end: Result<quic::Connection, quinn::ConnectionError>| match end {
            Ok(_) => false,
            Err(quinn::ConnectionError::ConnectionClosed(close)) => {
                assert_eq!(close.error_code, quinn::TransportErrorCode::CONNECTION_REFUSED);
                true
            }
            Err(error) => panic!("{error}"),
        };
        let mut open = Vec::new();
        for _ in 0..LIMIT {
            open.push(connect().await.expect("a connection up to the limit"));
        }
        assert!(refused(connect().await), "one more is refused");
        assert!(open.iter().all(|connection| connection.close_reason().is_none()), "at nobody's cost");
        drop(open.pop());
        let end = Instant::now() + PATIENCE;
        open.push(loop {
            match connect().await {
                Ok(connection) => break connection,
                again => assert!(refused(again)),
            }
            assert!(Instant::now() < end, "the place of a closed connection stays taken");
        });
        assert!(refused(connect().await), "and for no more than one");
    });
    cut(&orders, worker);
}
