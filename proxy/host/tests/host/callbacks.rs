//! Every callback of the ABI is called.

use std::collections::BTreeSet;

use lacis_host::abi::Peer;
use lacis_host::testing::{List, TestStream};
use lacis_host::{GrpcEvent, Half, HttpAnswer};

use crate::abi;
use crate::guest::Guest;

/// Written down from the specification's versions 0.1.0, 0.2.0 and 0.2.1 and from proxy-wasm-cpp-host's `wasm.h`: all
/// but HTTP/2's METADATA frames (`proxy_on_{request,response}_metadata`), which no version of the specification has.
const SPECIFIED: &[&str] = &[
    "proxy_on_context_create",
    "proxy_on_vm_start",
    "proxy_validate_configuration",
    "proxy_on_configure",
    "proxy_on_tick",
    "proxy_on_queue_ready",
    "proxy_on_new_connection",
    "proxy_on_downstream_data",
    "proxy_on_downstream_connection_close",
    "proxy_on_upstream_data",
    "proxy_on_upstream_connection_close",
    "proxy_on_request_headers",
    "proxy_on_request_body",
    "proxy_on_request_trailers",
    "proxy_on_response_headers",
    "proxy_on_response_body",
    "proxy_on_response_trailers",
    "proxy_on_http_call_response",
    "proxy_on_grpc_receive_initial_metadata",
    "proxy_on_grpc_receive",
    "proxy_on_grpc_receive_trailing_metadata",
    "proxy_on_grpc_close",
    "proxy_on_foreign_function",
    "proxy_on_done",
    "proxy_on_log",
    "proxy_on_delete",
];

#[test]
fn every_callback_of_the_abi_is_called() {
    let mut guest = Guest::new();
    for name in SPECIFIED {
        let mut code = format!("drop(proxy_log(2, \"{name}\"));");
        if *name == "proxy_on_configure" {
            code += "num(proxy_register_shared_queue(\"q\", 16)); num(proxy_enqueue_shared_queue(at(16), \"i\"));";
        }
        if *name == "proxy_on_request_headers" {
            code += "num(proxy_get_header_map_pairs(0, 16, 20)); num(proxy_http_call(\"up\", at(16), at(20), 0, 0, 0, 0, 0, 24));
                     num(proxy_grpc_stream(\"up\", \"s\", \"m\", 0, 0, 24));";
        }
        guest = guest.on(name, &code);
    }
    let mut run = guest.start();
    run.world.borrow_mut().upstreams.push("up".into());
    run.on_request().unwrap();
    for half in [Half::Request, Half::Response] {
        run.body(half, "x", false);
        run.vm.on_trailers(run.id, half, 0).unwrap();
    }
    run.on_response().unwrap();
    run.vm.close(run.id).unwrap();
    let calls: Vec<_> = run.world.borrow().calls.iter().map(|(id, ..)| *id).collect();
    let [http, grpc] = calls[..] else { panic!("{calls:?}") };
    let list = || Box::new(List::default());
    run.vm.on_http_call(http, Some(HttpAnswer { headers: list(), body: Vec::new(), trailers: None })).unwrap();
    for event in [
        GrpcEvent::InitialMetadata(list()),
        GrpcEvent::Message(Vec::new()),
        GrpcEvent::TrailingMetadata(list()),
        GrpcEvent::Close { status: 0, message: String::new() },
    ] {
        run.vm.on_grpc(grpc, event).unwrap();
    }
    run.vm.tick(run.root).unwrap();
    run.vm.on_queue_ready().unwrap();
    run.vm.on_foreign_function(run.root, 1, Vec::new()).unwrap();
    let tcp = run.vm.open_tcp(run.root, TestStream::request(&[])).unwrap();
    run.vm.on_new_connection(tcp).unwrap();
    for half in [Half::Request, Half::Response] {
        run.vm.on_data(tcp, half, true).unwrap();
        run.vm.on_connection_close(tcp, half, Peer::Local).unwrap();
    }
    run.vm.close(tcp).unwrap();
    let called: BTreeSet<String> = run.lines().into_iter().filter(|line| line.starts_with("proxy_")).collect();
    assert_eq!(called, SPECIFIED.iter().map(|name| (*name).to_owned()).collect());
}

#[test]
fn a_callback_of_another_type_is_refused() {
    for (name, _) in abi::rows(abi::CALLBACKS) {
        let wat = format!(
            "(module (memory (export \"memory\") 1) (func (export \"malloc\") (param i32) (result i32) (i32.const 0))
             (func (export \"proxy_abi_version_0_2_1\")) (func (export \"{name}\") (param i64)))"
        );
        let refused = lacis_host::Plugin::compile(&crate::guest::ENGINE, &wat::parse_str(wat).unwrap());
        assert!(matches!(refused, Err(lacis_host::LoadError::Export { .. })), "{name}");
    }
    // The two tables speak of the same callbacks.
    let tabled: BTreeSet<&str> =
        abi::rows(abi::CALLBACKS).map(|row| row.0).filter(|name| name.starts_with("proxy_")).collect();
    assert_eq!(tabled, SPECIFIED.iter().copied().collect());
}
