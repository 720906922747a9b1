//! What a mesh costs a sidecar that calls little of it: bytes for each service and endpoint that it knows, and what a
//! change of one of them takes. And what it costs a request that it is recorded, or that it passes filters (`filters`). Bytes and blocks are counted by the
//! allocator, time is not looked at.

#![allow(clippy::expect_used, clippy::panic, reason = "a test may fail anywhere, helpers included")]

mod filters;

use std::alloc::System;
use std::cell::RefCell;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::thread;

use lacis::cluster::{Dialer, Place, Places};
use lacis::config::{self, Config, Endpoint, Source, resolve::Host};
use lacis::drain::Drain;
use lacis::filter::chain::Plan;
use lacis::filter::exchange::Ledger;
use lacis::filter::machine::Machines;
use lacis::filter::node::NodeFacts;
use lacis::mesh::generation::{Generation, Snapshot};
use lacis::net::listen;
use lacis::telemetry::metrics::Registry;
use lacis::telemetry::why::Ring;
use lacis::worker::{self, Order, Peers, Seed, Sockets};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// One test measures at a time: they share the allocator.
static ALONE: Mutex<()> = Mutex::new(());

/// Bytes that a service of ten endpoints may take, without the endpoints, and that one of them may.
const SERVICE: usize = 1536;
const ENDPOINT: usize = 100;

/// Blocks that a request takes which nobody looks into: the heads, the exchange, and the values of the fields that it is given.
const BLOCKS: usize = 5;

/// What is said of each service beside its endpoints.
#[derive(Clone, Copy)]
enum Said {
    Nothing,
    /// The policies that most have, the same for all.
    Much,
}

fn config(services: usize, endpoints: usize, said: Said) -> Config {
    let mut text = String::from(
        "node: {service: alpha}\noutbound: {listen: 127.0.0.1:0}\nidentity: {certificate: /c, private_key: /k, trust_bundle: /b}\nservices:\n",
    );
    for service in 0..services {
        let _ = write!(text, "  service-{service}:\n    endpoints: [");
        for endpoint in 0..endpoints {
            let _ = write!(text, "10.{}.{}.{endpoint}:15006, ", service / 256, service % 256);
        }
        text.push_str("]\n");
        if matches!(said, Said::Much) {
            text.push_str("    retries: {attempts: 3}\n    limits: {requests: 1000, pending: 100}\n");
            text.push_str("    outliers: {consecutive: 5}\n    breaker: {failures: 50%}\n");
        }
    }
    parse(&text)
}

fn parse(text: &str) -> Config {
    let host = Host { variable: &|_| None, exists: &|_| true, cores: 1 };
    config::parse(text, "test", Path::new("/"), &host).expect("a config").0
}

/// What a worker has before it has a configuration.
struct Worker {
    dialer: Rc<Dialer>,
    ledger: Rc<Ledger>,
    machines: Machines,
}

impl Worker {
    fn new(config: &Config) -> Self {
        let metrics = Rc::new(Registry::default().metrics());
        let ledger = Rc::new(Ledger { metrics: Rc::clone(&metrics), access: None, why: Ring::default() });
        let dialer = Rc::new(Dialer::new(Rc::new(RefCell::new(None)), metrics, Drain::default()));
        let machines = Machines::new(Arc::default(), Rc::new(NodeFacts::new(&config.node)), Rc::clone(&ledger));
        Worker { dialer, ledger, machines }
    }

    fn generation(&self, snapshot: &Snapshot, before: Option<&Generation>) -> Generation {
        let generation = Generation::new(snapshot, before, &self.dialer, &self.machines);
        generation.take_over(&self.machines);
        generation
    }
}

fn snapshot(config: Config, places: Places) -> Snapshot {
    Snapshot::new(1, Arc::new(config), Plan::default(), places, &Arc::default())
}

fn kept(region: &Region<'_, System>) -> usize {
    let change = region.change();
    change.bytes_allocated - change.bytes_deallocated
}

/// Bytes that a process with one worker keeps of this mesh: all of them, and those of the worker.
fn bytes(services: usize, endpoints: usize, said: Said) -> (usize, usize) {
    let empty = parse("node: {service: alpha}\noutbound: {listen: 127.0.0.1:0}\n");
    let worker = Worker::new(&empty);
    let region = Region::new(ALLOCATOR);
    let snapshot = snapshot(config(services, endpoints, said), Places::default());
    let shared = kept(&region);
    let generation = worker.generation(&snapshot, None);
    let all = kept(&region);
    drop(generation);
    (all, all - shared)
}

/// Bytes for each service without its endpoints, and for each endpoint; then the same of the worker alone.
fn costs(said: Said) -> [(usize, usize); 2] {
    let (few, many) = (1000, 11_000);
    let each = |endpoints| {
        let ((few_all, few_own), (many_all, many_own)) = (bytes(few, endpoints, said), bytes(many, endpoints, said));
        [(many_all - few_all) / (many - few), (many_own - few_own) / (many - few)]
    };
    let (one, ten) = (each(1), each(10));
    [0, 1].map(|of| {
        let endpoint = (ten[of] - one[of]).div_ceil(9);
        (ten[of] - 10 * endpoint, endpoint)
    })
}

/// What a change of one endpoint of one service takes in a worker that knows so many services: blocks, and bytes.
fn change(services: usize) -> (usize, usize) {
    let mut text = String::from("node: {service: alpha}\noutbound: {listen: 127.0.0.1:0}\nservices:\n");
    for service in 0..services {
        let _ = writeln!(text, "  service-{service}: {{link: plaintext, file: /endpoints/{service}.yaml}}");
    }
    let config = parse(&text);
    let source = |service| Source::File(format!("/endpoints/{service}.yaml").into());
    let place = |addresses: std::ops::Range<u8>| {
        let endpoint = |i| Endpoint::new(([10, 0, 0, i], 15006).into());
        Place { endpoints: addresses.map(endpoint).collect(), unknown: None }
    };
    let places = (0..services).map(|service| (source(service), Arc::new(place(0..10)))).collect();
    let worker = Worker::new(&config);
    let generation = worker.generation(&snapshot(config, places), None);
    let (source, moved) = (source(services / 2), place(1..11));
    let region = Region::new(ALLOCATOR);
    generation.moved(&source, &moved, true);
    let change = region.change();
    (change.allocations, change.bytes_allocated)
}

#[test]
fn a_change_of_one_endpoint_costs_the_same_in_every_mesh() {
    let _alone = ALONE.lock().expect("no other failed");
    let (few, many) = (change(10), change(5000));
    assert!(few.0 > 0, "it is a change");
    assert_eq!(few, many);
}

#[test]
fn a_service_that_is_not_called_costs_little() {
    let _alone = ALONE.lock().expect("no other failed");
    for said in [Said::Nothing, Said::Much] {
        let [(service, endpoint), (own_service, own_endpoint)] = costs(said);
        println!("{service} bytes a service, {endpoint} an endpoint; {own_service} and {own_endpoint} in each worker");
        assert!(service <= SERVICE, "{service} bytes a service, {own_service} of them in each worker");
        assert!(endpoint <= ENDPOINT, "{endpoint} bytes an endpoint, {own_endpoint} of them in each worker");
    }
}

const ASK: &[u8] = b"GET /item?x=1 HTTP/1.1\r\nhost: delta\r\nuser-agent: counter\r\naccept: */*\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Blocks that the allocator gave out for so many requests through a worker with this `telemetry`, one after the other.
fn blocks(telemetry: &str, warm: usize, requests: usize) -> usize {
    let backend = TcpListener::bind("127.0.0.1:0").expect("a port");
    let target = backend.local_addr().expect("its address");
    // Neither end takes a block for a request: what is counted is the worker's.
    let answering = thread::spawn(move || {
        let (mut stream, mut asked) = (backend.accept().expect("the worker").0, [0; 4096]);
        let mut length = 0;
        while let Ok(more @ 1..) = stream.read(&mut asked[length..]) {
            length += more;
            if asked[..length].ends_with(b"\r\n\r\n") {
                stream.write_all(ANSWER).expect("the worker listens");
                length = 0;
            }
        }
    });
    let listener = listen::tcp("127.0.0.1:0".parse().expect("an address"), 1).expect("a port").remove(0);
    let address: SocketAddr = listener.local_addr().expect("its address");
    let config = parse(&format!(
        "node: {{service: alpha}}\noutbound: {{listen: 127.0.0.1:0}}\n{telemetry}\
         services: {{delta: {{endpoints: [\"{target}\"], link: plaintext}}}}\n"
    ));
    let (orders, mailbox) = tokio::sync::mpsc::unbounded_channel();
    let seed = Seed {
        number: 0,
        snapshot: snapshot(config, Places::default()),
        sockets: Sockets { outbound: Some(listener), ..Sockets::default() },
        tls: None,
        registry: Registry::default(),
        access: None,
        shared: Arc::default(),
        mailbox,
        peers: Arc::new(Peers::new(vec![orders.clone()])),
        connections: 10,
        handshakes: worker::MAX_HANDSHAKES,
    };
    let running = thread::spawn(move || worker::run(seed));
    let mut client = TcpStream::connect(address).expect("a connection");
    let mut ask = |count| {
        let mut answer = [0; 4096];
        for _ in 0..count {
            client.write_all(ASK).expect("the worker listens");
            let mut length = 0;
            while !answer[..length].ends_with(b"\r\n\r\nok") {
                length += client.read(&mut answer[length..]).expect("an answer");
            }
            assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", answer[..length].escape_ascii());
        }
    };
    ask(warm);
    let region = Region::new(ALLOCATOR);
    ask(requests);
    let blocks = region.change().allocations + region.change().reallocations;
    orders.send(Order::Cut).expect("a worker that listens");
    running.join().expect("no panic").expect("a good end");
    answering.join().expect("no panic");
    blocks
}

/// What is noted of a request is written where the one before it was, and kept where the oldest lay.
#[test]
fn a_request_that_is_recorded_takes_no_more_blocks() {
    let _alone = ALONE.lock().expect("no other failed");
    let (warm, requests) = (300, 1000);
    let plain = blocks("", warm, requests);
    let recorded = blocks("telemetry: {why: {keep: 100}}\n", warm, requests);
    println!("{plain} blocks for {requests} requests, {recorded} where they are recorded");
    assert!(plain >= requests, "something is counted");
    assert!(plain < requests * BLOCKS + requests / 10, "{plain} blocks for {requests} requests");
    // Of those of both runs a few are not of requests.
    assert!(recorded.saturating_sub(plain) < requests / 20, "{plain} without, {recorded} with");
    // What a usual request leaves lies beside that of others, so that room for all of them is a few blocks.
    let kept = blocks("telemetry: {why: {keep: 10000}}\n", warm, requests);
    assert!(kept.saturating_sub(plain) < requests / 20, "{plain} without, {kept} where they are all kept");
}
