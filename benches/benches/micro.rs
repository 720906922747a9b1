//! What single steps of a request cost, without a proxy around them: `cargo bench -p lacis-benches`. Absolute times of one
//! machine; what they are for is a comparison of before and after, which Criterion keeps in `target/criterion`.

#![expect(clippy::expect_used, reason = "what cannot be set up is not measured")]

use std::cell::Cell;
use std::hint::black_box;
use std::path::Path;
use std::rc::Rc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use lacis::cluster::balance::{Balancer, Candidates, Load, Rules, Standing, Want, hash};
use lacis::config::balance::{Balance, Hash, HashKey, TableKind};
use lacis::config::resolve::{self, Host};
use lacis::http::RequestHead;
use lacis::route::Table;
use lacis_host::testing::{List, TestStream, TestWorld};
use lacis_host::{Engine, Half, Options, Plugin, PluginSettings, Vm, VmSettings};

type Error = Box<dyn std::error::Error>;

/// Finding the rule of a request among so many: the last of them by its path.
fn routes(c: &mut Criterion) {
    let mut group = c.benchmark_group("route");
    for count in [10, 1000, 10_000] {
        let (table, head) = table(count).expect("routes");
        assert!(table.find(&head).is_some());
        group.bench_with_input(BenchmarkId::from_parameter(count), &count, |b, _| {
            b.iter(|| black_box(&table).find(black_box(&head)).is_some());
        });
    }
}

fn table(count: usize) -> Result<(Table, RequestHead), Error> {
    let rules: String = (0..count)
        .map(|n| {
            format!(
                "      - {{matches: [{{path: {{prefix: /area-{n}/v1}}, headers: [{{name: x-kind, value: a}}]}}]}}\n"
            )
        })
        .collect();
    let text = format!(
        "node: {{service: a}}\noutbound: {{}}\nservices: {{b: {{endpoints: ['127.0.0.1:1'], link: plaintext}}}}\nroutes:\n  - service: b\n    rules:\n{rules}"
    );
    let host = Host { variable: &|_| None, exists: &|_| true, cores: 1 };
    let (config, _) = resolve::parse(&text, "micro.yaml", Path::new("/"), &host).map_err(|p| format!("{p:?}"))?;
    let table = Table::new(&config.routes.first().ok_or("no routes")?.rules);
    let mut head = RequestHead::unread();
    head.path = format!("/area-{}/v1/things?page=2", count - 1).parse()?;
    head.headers.insert(http::HeaderName::from_static("x-kind"), "a".parse()?);
    Ok((table, head))
}

/// Reading a head of a dozen fields, writing it, and reading that again, as the fuzz targets do.
fn codec(c: &mut Criterion) {
    let head = b"GET /v1/things?page=2 HTTP/1.1\r\nhost: delta.example\r\nuser-agent: micro/1\r\naccept: */*\r\n\
        accept-encoding: gzip, br\r\nx-request-id: 7d0b1c9e-38c3-4e4c-9a8e-27a1a1b5e0aa\r\nx-user: somebody\r\n\
        x-forwarded-proto: http\r\ntraceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\
        cookie: session=0123456789abcdef\r\ncache-control: no-cache\r\n\r\n";
    c.bench_function("codec/http1 head", |b| b.iter(|| lacis::http::h1::fuzzing::parse(black_box(head))));
}

/// Endpoints that are all well: what each has to do, and its id.
struct Endpoints(Vec<(Load, u64)>);

impl Candidates for Endpoints {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn load(&self, at: usize) -> Option<&Load> {
        self.0.get(at).map(|(load, _)| load)
    }

    fn weight(&self, _: usize) -> u32 {
        1
    }

    fn priority(&self, _: usize) -> u8 {
        0
    }

    fn is_near(&self, _: usize) -> bool {
        true
    }

    fn id(&self, at: usize) -> u64 {
        self.0.get(at).map_or(0, |(_, id)| *id)
    }

    fn standing(&self, _: usize, _: u64) -> Standing {
        Standing::GOOD
    }
}

/// Choosing an endpoint among so many.
fn balance(c: &mut Criterion) {
    let maglev = Balance::Hash(Hash { key: HashKey::Source, table: TableKind::Maglev }.into());
    for (name, policy) in [("least_load", Balance::LeastLoad), ("round_robin", Balance::RoundRobin), ("maglev", maglev)]
    {
        let mut group = c.benchmark_group(format!("balance/{name}"));
        for count in [10, 1000] {
            let id = |n| hash::of(format!("10.0.{n}.1:1").bytes());
            let endpoints = Endpoints((0..count).map(|n| (Load::default(), id(n))).collect());
            let rules = Rules { policy: policy.clone(), panic: 50, slow_start: None };
            let balancer = Balancer::new(rules, Rc::new(Cell::new(0)), None);
            let mut chance = fastrand::Rng::with_seed(1);
            let mut key = 0_u64;
            group.bench_with_input(BenchmarkId::from_parameter(count), &count, |b, _| {
                b.iter(|| {
                    key = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
                    let want = Want { hash: matches!(policy, Balance::Hash(_)).then_some(key), token: None };
                    balancer.pick(black_box(&endpoints), want, |_| false, 0, &mut chance)
                });
            });
        }
    }
}

/// An exchange in the host with one entry of the guest for its head: by itself, and with so many host calls in it.
fn host_call(c: &mut Criterion) {
    let mut group = c.benchmark_group("host/exchange with calls");
    for calls in [0, 1, 10] {
        let (mut vm, root) = vm(calls).expect("a guest");
        let stream = TestStream::request(&[]);
        stream.borrow_mut().request = List::of(&[(":path", "/v1/things?page=2")]);
        group.bench_with_input(BenchmarkId::from_parameter(calls), &calls, |b, _| {
            b.iter(|| {
                let id = vm.open(root, stream.clone()).expect("a context");
                vm.on_headers(id, Half::Request, 1, true).expect("an answer");
                vm.close(id).expect("an end");
            });
        });
    }
}

fn vm(calls: usize) -> Result<(Vm, lacis_host::RootId), Error> {
    let call =
        "(drop (call $get (i32.const 0) (i32.const 0) (i32.const 5) (i32.const 16) (i32.const 20)))".repeat(calls);
    let text = format!(
        r#"(module
             (import "env" "proxy_get_header_map_value" (func $get (param i32 i32 i32 i32 i32) (result i32)))
             (memory (export "memory") 1)
             (data (i32.const 0) ":path")
             (func (export "proxy_abi_version_0_2_1"))
             (func (export "proxy_on_memory_allocate") (param i32) (result i32) (i32.const 1024))
             (func (export "proxy_on_context_create") (param i32 i32))
             (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) {call} (i32.const 0)))"#
    );
    let engine = Engine::new(&Options::default())?;
    let directory = tempfile::tempdir()?;
    let artifact = directory.path().join("micro.cwasm");
    std::fs::write(&artifact, engine.compile(&wat::parse_str(text)?)?)?;
    let plugin = Plugin::load(&engine, &artifact)?;
    let mut vm = Vm::new(&plugin, VmSettings::default(), TestWorld::shared())?;
    let root = vm.start_root(PluginSettings { name: "micro".into(), ..PluginSettings::default() })?;
    Ok((vm, root))
}

criterion_group!(micro, routes, codec, balance, host_call);
criterion_main!(micro);
