//! What filters cost a request: blocks of memory, which the allocator counts. Time is not looked at.

use std::cell::Cell;
use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use lacis::cluster::Places;
use lacis::config;
use lacis::drain::Drain;
use lacis::filter::chain::{Plan, Stop};
use lacis::filter::compiled::Compiled;
use lacis::filter::exchange::{Conn, Exchange};
use lacis::http::{Body, Request, RequestHead, Response, ResponseHead, body};
use lacis::mesh::generation::{Generation, Snapshot};
use lacis::telemetry::labels::{Direction, Link, Protocol};
use lacis_host::{Engine, Options, Plugin};
use stats_alloc::Region;
use tokio::task::LocalSet;

use super::{ALLOCATOR, ALONE, Worker, parse};

/// Blocks that a request and its response may take when they pass filters. The first makes what all share: the exchange as
/// guests see it and as it is run, the places of all filters in it, the body that is filtered, and the values of the two
/// fields that it sets. Further ones that set the same take none.
const FILTERED: usize = 6;

/// Reads the path, sets a field of the request and one of the response, and has a callback for all else, as filters of
/// the released crate have.
const FILTER: &str = r#"(module
    (import "env" "proxy_get_header_map_value" (func $get (param i32 i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_replace_header_map_value" (func $set (param i32 i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) ":pathx-knownx-filteredyes")
    (func (export "proxy_abi_version_0_2_1"))
    (func (export "malloc") (param i32) (result i32) (i32.const 1024))
    (func (export "proxy_on_context_create") (param i32 i32))
    (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
        (if (call $get (i32.const 0) (i32.const 0) (i32.const 5) (i32.const 64) (i32.const 68)) (then unreachable))
        (if (i32.ne (i32.load (i32.const 64)) (i32.const 1024)) (then unreachable))
        (call $set (i32.const 0) (i32.const 5) (i32.const 7) (i32.const 22) (i32.const 3)))
    (func (export "proxy_on_request_body") (param i32 i32 i32) (result i32) (i32.const 0))
    (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32)
        (call $set (i32.const 2) (i32.const 12) (i32.const 10) (i32.const 22) (i32.const 3)))
    (func (export "proxy_on_response_body") (param i32 i32 i32) (result i32) (i32.const 0))
    (func (export "proxy_on_done") (param i32) (result i32) (i32.const 1))
    (func (export "proxy_on_log") (param i32))
    (func (export "proxy_on_delete") (param i32)))"#;

/// A worker whose requests pass so many filters of one module, each with a VM of its own or all in one.
fn filtered(filters: usize, one: bool, plugin: &Plugin) -> (Worker, Generation) {
    let names: Vec<String> = (0..filters).map(|n| format!("f{n}")).collect();
    let mut text = format!(
        "node: {{service: alpha}}\noutbound: {{listen: 127.0.0.1:0, filters: [{}]}}\nfilters:\n",
        names.join(", ")
    );
    for name in &names {
        let _ = writeln!(text, "  {name}: {{module: /{name}.wasm, vm_id: {}}}", if one { "one" } else { name });
    }
    let config = parse(if filters == 0 { "node: {service: alpha}\noutbound: {listen: 127.0.0.1:0}\n" } else { &text });
    let compile = |filter: &config::Filter| Compiled {
        settings: filter.clone(),
        digest: String::new(),
        language: None,
        plugin: plugin.clone(),
        reads: None,
        start: lacis_host::limits::START_TIME,
    };
    let plan = Plan::new(config.filters.iter().map(|filter| Some(Arc::new(compile(filter)))).collect());
    let worker = Worker::new(&config);
    let snapshot = Snapshot::new(1, Arc::new(config), plan, Places::default(), &Arc::default());
    let generation = worker.generation(&snapshot, None);
    (worker, generation)
}

/// One exchange through the filters of the outbound listener: the head that would be sent, and the answer's.
async fn exchange(
    worker: &Worker,
    generation: &Generation,
    conn: &Rc<Conn>,
) -> Result<(Rc<RequestHead>, Rc<ResponseHead>), Stop> {
    let mut head = RequestHead::unread();
    head.authority = Some("delta".parse().expect("an authority"));
    head.headers.insert(http::header::USER_AGENT, HeaderValue::from_static("footprint/1"));
    let (nowhere, guard) = (worker.ledger.metrics.name("delta"), Drain::default().guard());
    let account = Exchange::open(conn, &worker.ledger, &head, nowhere, Protocol::Http1, guard);
    let body = Body::empty(body::Half::Request);
    let mut request = Request { head: head.into(), body, interim: Rc::default() };
    let mut passage = generation.chain(Direction::Outbound).open(false);
    passage.request(&account, &mut request).await?;
    let none = generation.chain(Direction::Inbound);
    passage.onward(&account, &mut request, [none, none], false).await?;
    let mut response = Response::whole(ResponseHead::new(StatusCode::OK), Bytes::from_static(b"content"));
    passage.response(&mut response).await?;
    account.answered(response.head.status);
    response.body.observe(passage.observer(account));
    while let Some(frame) = response.body.frame().await {
        frame.map_err(Stop::Fault)?;
    }
    Ok((request.head.into_rc(), response.head.into_rc()))
}

fn plugin() -> Plugin {
    let engine = Engine::new(&Options::default()).expect("an engine");
    let code = engine.compile(&wat::parse_str(FILTER).expect("a module"));
    let directory = tempfile::tempdir().expect("a directory");
    let artifact = directory.path().join("filter");
    std::fs::write(&artifact, code.expect("code")).expect("a file");
    Plugin::load(&engine, &artifact).expect("a plugin")
}

/// Blocks that an exchange takes with so many filters, once all that is made but once has been made.
fn blocks(filters: usize, one: bool, plugin: &Plugin) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        let (worker, generation) = filtered(filters, one, plugin);
        generation.start(&worker.machines).await.expect("filters that start");
        let conn = Rc::new(Conn {
            id: Conn::next_id(),
            direction: Direction::Outbound,
            protocol: Protocol::Http1,
            link: Link::None,
            local: ([127, 0, 0, 1], 1).into(),
            remote: ([127, 0, 0, 1], 2).into(),
            peer: None,
            own: None,
            server_name: None,
            forwarded: None,
            source: worker.ledger.metrics.name("alpha"),
            drain: Drain::default(),
        });
        const EXCHANGES: usize = 50;
        for _ in 0..EXCHANGES {
            let Ok((request, response)) = exchange(&worker, &generation, &conn).await else { panic!("no answer") };
            let fields = (request.headers.get("x-known"), response.headers.get("x-filtered"));
            assert_eq!(fields.0, fields.1);
            assert_eq!(fields.0.is_some_and(|value| value == "yes"), filters > 0);
        }
        let region = Region::new(ALLOCATOR);
        for _ in 0..EXCHANGES {
            let _ = exchange(&worker, &generation, &conn).await;
        }
        region.change().allocations / EXCHANGES
    })
}

#[test]
fn a_filter_takes_few_blocks_of_a_request() {
    let _alone = ALONE.lock().expect("no other failed");
    let plugin = plugin();
    let [none, one, ten] = [0, 1, 10].map(|filters| blocks(filters, false, &plugin));
    assert_eq!(blocks(10, true, &plugin), ten, "in one VM");
    println!("{none} blocks without a filter, {one} with one, {ten} with ten");
    assert!(one - none <= FILTERED, "{} blocks for one filter", one - none);
    assert_eq!(ten, one, "as many with ten");
}

/// The start of each may take long, and requests are served meanwhile.
#[test]
fn others_have_their_turn_between_the_starts_of_filters() {
    let _alone = ALONE.lock().expect("no other failed");
    let plugin = plugin();
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    for one in [false, true] {
        LocalSet::new().block_on(&runtime, async {
            let (worker, generation) = filtered(10, one, &plugin);
            let turns = Rc::new(Cell::new(0));
            let counted = Rc::clone(&turns);
            tokio::task::spawn_local(async move {
                loop {
                    counted.set(counted.get() + 1);
                    tokio::task::yield_now().await;
                }
            });
            generation.start(&worker.machines).await.expect("filters that start");
            assert!(turns.get() >= 9, "{} turns", turns.get());
        });
    }
}
