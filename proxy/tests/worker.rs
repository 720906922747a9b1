//! A worker without a process around it: limits that are too large to be reached from outside.

#![allow(clippy::expect_used, clippy::panic, reason = "a test may fail anywhere, helpers included")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use lacis::config::{self, resolve::Host};
use lacis::filter::chain::Plan;
use lacis::mesh::generation::Snapshot;
use lacis::net::listen;
use lacis::telemetry::metrics::Registry;
use lacis::worker::{self, Order, Peers, Seed, Sockets};
use tokio::sync::mpsc;

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

#[test]
fn no_more_connections_than_the_limit() {
    const LIMIT: usize = 3;
    let host = Host { variable: &|_| None, exists: &|_| true, cores: 1 };
    let text = "node: {service: alpha}\noutbound: {listen: \"127.0.0.1:0\"}\n";
    let (config, _) = config::parse(text, "test", Path::new("/"), &host).expect("a config");
    let address: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    let listener = listen::tcp(address, 1).expect("a port").remove(0);
    let address = listener.local_addr().expect("its address");
    let (orders, mailbox) = mpsc::unbounded_channel();
    let seed = Seed {
        number: 0,
        snapshot: Snapshot::new(1, Arc::new(config), Plan::default()),
        sockets: Sockets { outbound: Some(listener), ..Sockets::default() },
        tls: None,
        registry: Registry::default(),
        access: None,
        shared: Arc::default(),
        mailbox,
        peers: Arc::new(Peers::new(vec![orders.clone()])),
        connections: LIMIT,
    };
    let worker = thread::spawn(move || worker::run(seed));
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

    orders.send(Order::Cut).expect("a worker that listens");
    worker.join().expect("no panic").expect("a good end");
}
