//! Call-outs: HTTP, gRPC calls and streams.

use std::time::Duration;

use lacis_host::testing::List;
use lacis_host::{CallId, CallOut, GrpcCall, GrpcEvent, HttpAnswer, HttpCall, Limit, PluginSettings};

use crate::guest::{Guest, REQUEST, Run};

/// The guest's own request head is what it calls with.
const HTTP: &str = "drop(proxy_get_header_map_pairs(0, 16, 20));
                    num(proxy_http_call(\"up\", at(16), at(20), \"body\", at(16), at(20), 100, 24)); num(at(24));";
const GRPC: &str = "put(28, 99); num(proxy_grpc_call(\"up\", \"s\", \"m\", 0, 0, \"message\", 100, 28)); num(at(28));";
const STREAM: &str = "put(28, 99); num(proxy_grpc_stream(\"up\", \"s\", \"m\", 0, 0, 28)); num(at(28));";

fn start(guest: &Guest) -> Run {
    let run = guest.start();
    run.world.borrow_mut().upstreams.push("up".into());
    run
}

/// Runs the request callback and says what was logged, and which call-outs were made.
fn request(run: &mut Run) -> (String, Vec<CallId>) {
    run.on_request().unwrap();
    (run.lines().join(" "), run.world.borrow().calls.iter().map(|(id, ..)| *id).collect())
}

fn answer() -> Option<HttpAnswer> {
    let headers = Box::new(List::of(&[(":status", "201"), ("a", "1")]));
    Some(HttpAnswer { headers, body: b"hello".to_vec(), trailers: Some(Box::new(List::of(&[("t", "2")]))) })
}

#[test]
fn a_call_is_noted_as_it_was_made() {
    let mut run = start(&Guest::request(HTTP));
    assert_eq!(request(&mut run).0, "0 4");
    let lines = List::of(REQUEST).0;
    assert_eq!(
        run.world.borrow().calls[0].2,
        CallOut::Http(HttpCall {
            upstream: "up".into(),
            headers: lines.clone(),
            body: b"body".to_vec(),
            trailers: lines,
            timeout: Some(Duration::from_millis(100)),
        })
    );
    assert_eq!((run.world.borrow().calls[0].1, run.vm.calls()), (run.root, 1));
}

#[test]
fn ids_tell_what_is_called() {
    let mut run = start(&Guest::request(&[HTTP, GRPC, STREAM, HTTP, GRPC, STREAM].concat()));
    assert_eq!(request(&mut run).0, "0 4 0 5 0 6 0 8 0 9 0 10");
}

const READ_ANSWER: &str = "num(p0); num(p1); num(p2); num(p3); num(p4); num(proxy_set_effective_context(2));
    num(proxy_get_header_map_value(6, \":status\", 16, 20)); text(); num(proxy_get_header_map_value(6, \"none\", 16, 20));
    num(proxy_get_header_map_pairs(6, 16, 20)); num(at(20)); num(proxy_get_header_map_value(7, \"t\", 16, 20)); text();
    num(proxy_get_buffer_bytes(4, 1, 3, 16, 20)); text(); num(proxy_get_buffer_status(4, 16, 20)); num(at(16));
    num(proxy_get_status(16, 24, 28)); num(at(16)); num(at(28));
    num(proxy_add_header_map_value(6, \"x\", \"y\")); num(proxy_set_buffer_bytes(4, 0, 0, \"x\")); num(proxy_get_header_map_size(6, 16));
    num(proxy_continue_stream(0));";

#[test]
fn an_answer_is_read_in_its_callback_whatever_the_effective_context() {
    let code = format!("{HTTP} return(1);");
    let mut run = start(&Guest::request(&code).on("proxy_on_http_call_response", READ_ANSWER));
    let (_, calls) = request(&mut run);
    run.vm.on_http_call(calls[0], answer()).unwrap();
    assert_eq!(run.lines().join(" "), "1 4 2 5 1 0 0 201 1 0 36 0 2 0 ell 0 5 0 0 0 2 2 2 0");
    assert_eq!(run.stream.borrow().resumed, [lacis_host::Half::Request]);
    // It is told once.
    run.vm.on_http_call(calls[0], answer()).unwrap();
    assert!(run.lines().is_empty());
    assert_eq!(run.vm.calls(), 0);
}

#[test]
fn a_call_that_fails_is_told_with_nothing_and_its_status() {
    let code = "num(p2); num(p3); num(p4); num(proxy_get_header_map_pairs(6, 16, 20)); num(at(20));
                num(proxy_get_header_map_value(6, \":status\", 16, 20)); num(proxy_get_buffer_bytes(4, 0, 9, 16, 20));
                num(proxy_get_status(16, 24, 28)); num(at(16)); put(16, at(24)); put(20, at(28)); text();";
    let after =
        "num(proxy_get_status(16, 24, 28)); num(at(16)); num(at(28)); num(proxy_get_buffer_bytes(4, 0, 9, 16, 20));";
    let mut run = start(&Guest::request(HTTP).on("proxy_on_http_call_response", code).on("proxy_on_tick", after));
    let (_, calls) = request(&mut run);
    run.vm.on_http_call(calls[0], None).unwrap();
    assert_eq!(run.lines().join(" "), "0 0 0 0 0 2 1 0 11 reset");
    run.vm.tick(run.root).unwrap();
    assert_eq!(run.lines().join(" "), "0 11 0 1");
}

#[test]
fn a_call_that_cannot_be_made_says_so_at_once() {
    let pairs = "drop(proxy_get_header_map_pairs(0, 16, 20)); put(24, 99);";
    let say = "num(at(24));";
    for (code, told) in [
        ("num(proxy_http_call(\"other\", at(16), at(20), 0, 0, 0, 0, 0, 24));", "2 0"),
        ("num(proxy_http_call(\"\", at(16), at(20), 0, 0, 0, 0, 0, 24));", "2 0"),
        ("num(proxy_http_call(\"broken\", at(16), at(20), 0, 0, 0, 0, 0, 24));", "10 0"),
        ("num(proxy_http_call(\"up\", at(16), at(20), 0, 0, 0, 0, -1, 24));", "2 0"),
        ("num(proxy_http_call(\"up\", 0, 0, 0, 0, 0, 0, 0, 24));", "2 0"),
        ("num(proxy_http_call(\"up\", at(16), 7, 0, 0, 0, 0, 0, 24));", "2 0"),
        ("num(proxy_http_call(\"up\", at(16), at(20), 0, 0, 0, 0, 0, -1));", "6 99"),
        ("num(proxy_http_call(\"up\", at(16), at(20), -1, 9, 0, 0, 0, 24));", "6 0"),
        ("num(proxy_grpc_call(\"other\", \"s\", \"m\", 0, 0, 0, 0, 0, 24));", "4 0"),
        ("num(proxy_grpc_call(\"\", \"s\", \"m\", 0, 0, 0, 0, 0, 24));", "4 0"),
        ("num(proxy_grpc_stream(\"broken\", \"s\", \"m\", 0, 0, 24));", "10 0"),
        ("num(proxy_grpc_stream(\"other\", \"s\", \"m\", 0, 0, 24));", "4 0"),
        ("num(proxy_grpc_stream(\"up\", \"s\", \"m\", 0, 0, -1));", "6 99"),
    ] {
        let mut run = start(&Guest::request(&[pairs, code, say].concat()));
        assert_eq!(request(&mut run).0, told, "{code}");
        assert_eq!((run.world.borrow().calls.len(), run.vm.calls()), (0, 0), "{code}");
    }
}

#[test]
fn what_is_in_flight_is_bounded() {
    let mut guest = Guest::request(&[HTTP, GRPC, STREAM].concat());
    guest.settings.limits.calls = 2;
    let mut run = start(&guest);
    let (lines, calls) = request(&mut run);
    assert_eq!(lines, "0 4 0 5 10 0");
    assert_eq!(run.world.borrow().refused, [Limit::Calls]);
    // Room comes back with an answer.
    run.vm.on_http_call(calls[0], None).unwrap();
    assert_eq!(request(&mut run).0, "0 8 10 0 10 0");

    let mut guest = Guest::request(GRPC);
    guest.settings.limits.call_bytes = "up".len() + "message".len();
    assert_eq!(request(&mut start(&guest)).0, "0 5");
    guest.settings.limits.call_bytes -= 1;
    assert_eq!(request(&mut start(&guest)).0, "10 0");
}

#[test]
fn only_allowed_upstreams_are_called() {
    let mut guest = Guest::request(&[HTTP, GRPC].concat());
    guest.plugin.upstreams = Some(vec!["other".into()]);
    let mut run = start(&guest);
    let said = "a call to \"up\", which this filter is not allowed";
    assert_eq!(request(&mut run).0, format!("{said} 2 0 {said} 4 0"));
    assert_eq!(run.world.borrow().refused, [Limit::Upstream; 2]);
    guest.plugin.upstreams = Some(vec!["other".into(), "up".into()]);
    assert_eq!(request(&mut start(&guest)).0, "0 4 0 5");
}

#[test]
fn calls_end_with_their_plugin_and_their_vm() {
    let guest = Guest::request(&[HTTP, STREAM].concat()).on("proxy_on_tick", "trap();");
    let mut run = start(&guest);
    let (_, calls) = request(&mut run);
    // The exchange's end is not theirs.
    run.vm.close(run.id).unwrap();
    assert!(run.world.borrow().cancelled.is_empty());
    let other = run.vm.start_root(PluginSettings::default()).unwrap();
    run.vm.stop_root(other).unwrap();
    assert!(run.world.borrow().cancelled.is_empty());
    run.vm.stop_root(run.root).unwrap();
    let mut cancelled = std::mem::take(&mut run.world.borrow_mut().cancelled);
    cancelled.sort_by_key(|id| calls.iter().position(|call| call == id));
    assert_eq!(cancelled, calls);
    run.vm.on_http_call(calls[0], answer()).unwrap();

    let mut run = start(&guest);
    request(&mut run);
    assert!(run.vm.tick(run.root).is_err());
    assert_eq!(run.world.borrow().cancelled.len(), 2);
    assert!(run.vm.on_http_call(calls[0], answer()).is_err());

    let mut run = start(&guest);
    request(&mut run);
    drop(run.vm);
    assert_eq!(run.world.borrow().cancelled.len(), 2);
}

#[test]
fn a_grpc_call_is_for_one_message() {
    let mut run = start(
        &Guest::request(&GRPC.repeat(2))
            .on("proxy_on_grpc_receive_initial_metadata", "trap();")
            .on("proxy_on_grpc_receive_trailing_metadata", "trap();")
            .on("proxy_on_grpc_receive", "num(p0); num(p1); num(p2); num(proxy_get_buffer_bytes(5, 0, 9, 16, 20)); text(); num(proxy_set_buffer_bytes(5, 0, 0, \"x\"));")
            .on("proxy_on_grpc_close", "num(p0); num(p1); num(p2); num(proxy_get_status(16, 24, 28)); num(at(16)); put(16, at(24)); put(20, at(28)); text(); num(proxy_get_buffer_bytes(5, 0, 9, 16, 20));"),
    );
    let (_, calls) = request(&mut run);
    assert_eq!(
        run.world.borrow().calls[0].2,
        CallOut::Grpc(GrpcCall {
            upstream: "up".into(),
            authority: None,
            service: "s".into(),
            method: "m".into(),
            metadata: Vec::new(),
            message: b"message".to_vec(),
            timeout: Some(Duration::from_millis(100)),
        })
    );
    run.vm.on_grpc(calls[0], GrpcEvent::InitialMetadata(Box::new(List::default()))).unwrap();
    run.vm.on_grpc(calls[0], GrpcEvent::Message(b"reply".to_vec())).unwrap();
    assert_eq!(run.lines().join(" "), "1 5 5 0 reply 2");
    run.vm.on_grpc(calls[0], GrpcEvent::Close { status: 0, message: String::new() }).unwrap();
    assert!(run.lines().is_empty());
    run.vm.on_grpc(calls[1], GrpcEvent::Close { status: 14, message: "gone".into() }).unwrap();
    assert_eq!(run.lines().join(" "), "1 9 14 0 14 gone 0");
    assert_eq!(run.vm.calls(), 0);
}

#[test]
fn a_grpc_stream_tells_all_until_it_is_closed() {
    let metadata = |map: u32| {
        format!(
            "num(p1); num(p2); num(proxy_get_header_map_value({map}, \"a\", 16, 20)); text(); num(proxy_add_header_map_value({map}, \"b\", \"c\"));"
        )
    };
    let mut run = start(
        &Guest::request(STREAM)
            .on("proxy_on_grpc_receive_initial_metadata", &metadata(4))
            .on("proxy_on_grpc_receive_trailing_metadata", &metadata(5))
            .on("proxy_on_grpc_receive", "num(p1); num(p2); num(proxy_get_header_map_value(4, \"a\", 16, 20));")
            .on("proxy_on_grpc_close", "num(p1); num(p2);"),
    );
    let (_, calls) = request(&mut run);
    let list = || Box::new(List::of(&[("a", "1")]));
    for event in [
        GrpcEvent::InitialMetadata(list()),
        GrpcEvent::Message(b"one".to_vec()),
        GrpcEvent::Message(Vec::new()),
        GrpcEvent::TrailingMetadata(list()),
        GrpcEvent::Close { status: 0, message: String::new() },
        GrpcEvent::Message(b"late".to_vec()),
    ] {
        run.vm.on_grpc(calls[0], event).unwrap();
    }
    assert_eq!(run.lines().join(" "), "6 1 0 1 2 6 3 2 6 0 2 6 1 0 1 2 6 0");
}

#[test]
fn messages_are_sent_on_streams_only_until_their_end() {
    let code = "num(proxy_grpc_send(6, \"one\", 0)); num(proxy_grpc_send(6, \"broken\", 0)); num(proxy_grpc_send(6, \"two\", 1));
                num(proxy_grpc_send(6, \"three\", 0)); num(proxy_grpc_close(6)); num(proxy_grpc_send(5, \"x\", 0)); num(proxy_grpc_send(10, \"x\", 0));
                num(proxy_grpc_send(6, -1, 9, 0));";
    let mut run = start(&Guest::request(&[GRPC, STREAM, code].concat()));
    let (lines, calls) = request(&mut run);
    assert_eq!(lines, "0 5 0 6 0 2 0 2 0 2 1 6");
    let stream = calls[1];
    let sent = [(stream, Some(b"one".to_vec()), false), (stream, Some(b"two".to_vec()), true)];
    assert_eq!(run.world.borrow().sent, sent);
    assert_eq!(run.world.borrow().refused, [Limit::Calls]);
}

#[test]
fn a_close_is_half_a_cancel_is_whole() {
    let code = "num(proxy_grpc_close(6)); num(proxy_grpc_close(6)); num(proxy_grpc_close(5)); num(proxy_grpc_close(5));
                num(proxy_grpc_cancel(6)); num(proxy_grpc_cancel(6)); num(proxy_grpc_cancel(4)); num(proxy_grpc_close(4)); num(proxy_grpc_cancel(7));";
    let mut run = start(&Guest::request(&[HTTP, GRPC, STREAM, code].concat()).on("proxy_on_grpc_close", "trap();"));
    let (lines, calls) = request(&mut run);
    assert_eq!(lines, "0 4 0 5 0 6 0 0 0 1 0 1 1 1 1");
    assert_eq!(run.world.borrow().sent, [(calls[2], None, true)]);
    assert_eq!(run.world.borrow().cancelled, [calls[1], calls[2]]);
    run.vm.on_grpc(calls[2], GrpcEvent::Close { status: 1, message: String::new() }).unwrap();
    assert_eq!(run.vm.calls(), 1);
}

#[test]
fn the_calls_of_another_plugin_are_not_to_be_touched() {
    let mut run = start(&Guest::request(STREAM).on(
        "proxy_on_tick",
        "num(proxy_grpc_send(6, \"x\", 0)); num(proxy_grpc_cancel(6)); num(proxy_grpc_close(6));",
    ));
    request(&mut run);
    let other = run.vm.start_root(PluginSettings::default()).unwrap();
    run.vm.tick(other).unwrap();
    assert_eq!(run.lines(), ["1"; 3]);
    assert!(run.world.borrow().sent.is_empty() && run.world.borrow().cancelled.is_empty());
}

#[test]
fn an_answer_of_another_kind_is_ignored() {
    let mut run = start(
        &Guest::request(&[HTTP, STREAM].concat())
            .on("proxy_on_http_call_response", "trap();")
            .on("proxy_on_grpc_receive", "trap();"),
    );
    let (_, calls) = request(&mut run);
    run.vm.on_http_call(calls[1], answer()).unwrap();
    run.vm.on_grpc(calls[0], GrpcEvent::Message(Vec::new())).unwrap();
    assert_eq!(run.vm.calls(), 2);
}
