//! What a mesh costs a sidecar that calls little of it: bytes for each service and endpoint that it knows, and what a
//! change of one of them takes. Bytes and blocks are counted by the allocator, time is not looked at.

#![allow(clippy::expect_used, clippy::panic, reason = "a test may fail anywhere, helpers included")]

use std::alloc::System;
use std::cell::RefCell;
use std::fmt::Write as _;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use lacis::cluster::{Dialer, Place, Places};
use lacis::config::{self, Config, Endpoint, Source, resolve::Host};
use lacis::drain::Drain;
use lacis::filter::chain::Plan;
use lacis::filter::exchange::Ledger;
use lacis::filter::machine::Machines;
use lacis::filter::node::NodeFacts;
use lacis::mesh::generation::{Generation, Snapshot};
use lacis::telemetry::metrics::Registry;
use lacis::telemetry::why::Ring;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// One test measures at a time: they share the allocator.
static ALONE: Mutex<()> = Mutex::new(());

/// Bytes that a service of ten endpoints may take, without the endpoints, and that one of them may.
const SERVICE: usize = 1536;
const ENDPOINT: usize = 100;

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
    machines: Machines,
}

impl Worker {
    fn new(config: &Config) -> Self {
        let metrics = Rc::new(Registry::default().metrics());
        let ledger = Rc::new(Ledger { metrics: Rc::clone(&metrics), access: None, why: Ring::default() });
        let dialer = Rc::new(Dialer::new(Rc::new(RefCell::new(None)), metrics, Drain::default()));
        let machines = Machines::new(Arc::default(), Rc::new(NodeFacts::new(&config.node)), ledger);
        Worker { dialer, machines }
    }

    fn generation(&self, snapshot: &Snapshot, before: Option<&Generation>) -> Generation {
        let (generation, ready) = Generation::new(snapshot, before, &self.dialer, &self.machines);
        ready.expect("no filter");
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
