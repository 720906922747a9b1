//! Everything else a guest may call: log, clock, timer, configuration, properties, shared data, metrics, local replies,
//! resume and close, and what is not there yet.

use std::time::Duration;

use lacis_host::HeadersAction as Action;
use lacis_host::abi::{Level, MetricKind};
use lacis_host::testing::TestStream;
use lacis_host::{Half, Now, VmSettings};

use crate::guest::Guest;

#[test]
fn a_line_is_logged_with_its_level_if_that_is_wanted() {
    let mut run = Guest::request(
        "num(proxy_log(1, \"unwanted\")); num(proxy_log(5, \"wanted\")); num(proxy_log(6, \"a\")); num(proxy_log(2, 0, 0));",
    )
    .start();
    run.on_request().unwrap();
    let world = run.world.borrow();
    let lines: Vec<_> =
        world.lines.iter().map(|(plugin, level, text)| (plugin.as_str(), *level, text.as_str())).collect();
    let guest = "guest";
    assert_eq!(
        lines,
        [
            (guest, Level::Info, "0"),
            (guest, Level::Critical, "wanted"),
            (guest, Level::Info, "0"),
            (guest, Level::Info, "2"),
            (guest, Level::Info, ""),
            (guest, Level::Info, "0"),
        ]
    );
}

#[test]
fn a_line_that_is_dropped_answers_as_others_do() {
    const TEXTS: [&str; 5] = ["\"a\"", "0, 0", "-1, 0", "-1, 1", "65536, -1"];
    let code = |level: &str| TEXTS.map(|text| format!("num(proxy_log({level}, {text}));")).concat();
    assert_eq!(Guest::request(&code("0")).lines(), ["0", "0", "0", "6", "6"]);
    assert_eq!(Guest::request(&code("2")).lines(), ["a", "0", "", "0", "", "0", "6", "6"]);
}

#[test]
fn levels_may_change_between_two_callbacks() {
    let mut run = Guest::request("num(proxy_log(1, \"a\"));").start();
    run.on_request().unwrap();
    run.world.borrow_mut().level = Some(Level::Debug);
    lacis_host::levels_changed();
    run.on_request().unwrap();
    run.world.borrow_mut().level = Some(Level::Error);
    lacis_host::levels_changed();
    run.on_request().unwrap();
    assert_eq!(run.lines(), ["0", "a", "0"], "what the last one answers is dropped, too");
}

#[test]
fn a_long_line_is_cut() {
    let lines = Guest::request("drop(proxy_log(2, 65536, 16385));").lines();
    assert_eq!(lines[0].len(), lacis_host::limits::LOG_LINE);
}

#[test]
fn the_guest_learns_the_log_level() {
    let code = "num(proxy_get_log_level(16)); num(at(16));";
    let guest = Guest::request(code);
    assert_eq!(guest.lines(), ["0", "2"]);
    let mut run = guest.start();
    run.world.borrow_mut().level = Some(Level::Debug);
    run.on_request().unwrap();
    assert_eq!(run.lines(), ["0", "1"]);
}

#[test]
fn the_time_is_the_world_s() {
    let mut run = Guest::request(
        "num(proxy_get_current_time_nanoseconds(16)); num(at(16)); num(at(20));
         num(clock_time_get(0, 0L, 24)); num(at(24)); num(clock_time_get(1, 0L, 24)); num(at(24));
         num(clock_time_get(4, 0L, 24)); num(clock_res_get(0, 24)); num(at(24));",
    )
    .start();
    run.world.borrow_mut().now = Now { unix: 5 << 32 | 7, monotonic: 11 };
    run.on_request().unwrap();
    assert_eq!(run.lines(), ["0", "7", "5", "0", "7", "0", "11", "58", "0", "1"]);
}

#[test]
fn the_timer_belongs_to_the_root_context() {
    let mut run =
        Guest::request("num(proxy_set_tick_period_milliseconds(20)); num(proxy_set_tick_period_milliseconds(0));")
            .on("proxy_on_tick", "num(p0);")
            .start();
    run.on_request().unwrap();
    assert_eq!(run.lines(), ["0", "0"]);
    assert_eq!(run.world.borrow().ticks, [(run.root, Some(Duration::from_millis(20))), (run.root, None)]);
    run.vm.tick(run.root).unwrap();
    assert_eq!(run.lines(), ["1"]);
}

fn configured(code: &str) -> Guest {
    let mut guest = Guest::new().on("proxy_on_configure", code).on("proxy_on_request_headers", code);
    guest.settings = VmSettings { configuration: b"vm".to_vec(), ..VmSettings::default() };
    guest.plugin.configuration = b"plugin".to_vec();
    guest
}

#[test]
fn the_plugin_configuration_is_there_while_it_is_configured() {
    let read = "num(proxy_get_buffer_bytes(7, 0, -1, 16, 20)); text();";
    assert_eq!(configured(read).lines(), ["0", "plugin", "1", "plugin"]);
    let status = "put(16, 9); num(proxy_get_buffer_status(7, 16, 20)); num(at(16));";
    assert_eq!(configured(status).lines(), ["0", "6", "1", "9"]);
}

#[test]
fn the_vm_configuration_is_always_there() {
    let read = "num(proxy_get_buffer_bytes(6, 0, 100, 16, 20)); text();";
    assert_eq!(configured(read).lines(), ["0", "vm", "0", "vm"]);
    let old = "num(proxy_get_configuration(16, 20)); text();";
    assert_eq!(configured(old).marker("proxy_abi_version_0_1_0").lines(), ["0", "plugin", "0", "vm"]);
}

#[test]
fn a_range_of_a_buffer_is_clamped() {
    let read = |start: i64, max: i64| {
        let code = format!("num(proxy_get_buffer_bytes(7, {start}, {max}, 16, 20)); text();");
        let mut guest = Guest::new().on("proxy_on_configure", &code);
        guest.plugin.configuration = b"plugin".to_vec();
        guest.lines().join(" ")
    };
    assert_eq!(read(2, 3), "0 ugi");
    assert_eq!(read(4, 100), "0 in");
    assert_eq!(read(5, -1), "0 n");
    assert_eq!(read(6, 1), "0 ");
    assert_eq!(read(-1, -1), "0 ");
    assert_eq!(read(0, 0), "0 ");
}

#[test]
fn buffers_that_are_not_there_say_so_and_none_can_be_changed() {
    let answers = |buffer: i32| {
        Guest::request(&format!(
            "num(proxy_get_buffer_bytes({buffer}, 0, 1, 16, 20)); num(proxy_get_buffer_status({buffer}, 16, 20));
             num(proxy_set_buffer_bytes({buffer}, 0, 0, \"x\"));"
        ))
        .lines()
        .concat()
    };
    assert_eq!([0, 1, 2, 3].map(answers), ["002"; 4]);
    assert_eq!([4, 7].map(answers), ["111"; 2]);
    assert_eq!([5, 6, 8].map(answers), ["002"; 3]);
    assert_eq!([9, -1].map(answers), ["222"; 2]);
}

#[test]
fn properties_come_from_the_exchange_or_the_world() {
    let read = |path: &str| format!("num(proxy_get_property(\"{path}\", 16, 20)); text();");
    let code =
        ["plugin_name", "plugin_root_id", "plugin_vm_id\\0", "request\\0path", "request\\0path\\0", "node", "", "none"]
            .map(read)
            .concat();
    let mut guest = Guest::request(&code).on("proxy_on_tick", &code);
    guest.settings.vm_id = "v".into();
    guest.plugin.root_id = "r".into();
    let mut run = guest.start();
    run.stream.borrow_mut().properties.insert(b"request\0path".to_vec(), b"/a".to_vec());
    run.world.borrow_mut().properties.insert(b"node".to_vec(), b"n".to_vec());
    run.on_request().unwrap();
    let names = ["0", "guest", "0", "r", "0", "v"];
    let lines = run.lines();
    assert_eq!(lines[..6], names);
    assert_eq!(lines[6..], ["0", "/a", "0", "/a", "1", "/a", "3", "/a", "1", "/a"]);
    run.vm.tick(run.root).unwrap();
    let lines = run.lines();
    assert_eq!(lines[..6], names);
    assert_eq!(lines[6..], ["1", "v", "1", "v", "0", "n", "3", "n", "1", "n"]);
}

#[test]
fn a_property_is_set_for_an_exchange_only() {
    let code = "num(proxy_set_property(\"a\\0b\\0\", \"v\"));";
    let mut run = Guest::request(code).on("proxy_on_tick", code).on("proxy_on_log", code).start();
    run.on_request().unwrap();
    assert_eq!(run.stream.borrow().properties[&b"a\0b"[..]], b"v");
    run.vm.tick(run.root).unwrap();
    run.vm.close(run.id).unwrap();
    assert_eq!(run.lines(), ["0", "1", "0"]);
}

#[test]
fn shared_data_is_compared_and_set() {
    let lines = Guest::request(
        "num(proxy_get_shared_data(\"k\", 16, 20, 24));
         num(proxy_set_shared_data(\"k\", \"one\", 99));
         num(proxy_get_shared_data(\"k\", 16, 20, 24)); text();
         num(proxy_set_shared_data(\"k\", \"two\", at(24)));
         num(proxy_set_shared_data(\"k\", \"three\", at(24)));
         num(proxy_get_shared_data(\"k\", 16, 20, 28)); text();
         num(proxy_set_shared_data(\"k\", 0, 0, 0));
         num(proxy_get_shared_data(\"k\", 16, 20, 24)); num(at(16)); num(at(20));",
    )
    .lines();
    assert_eq!(lines, ["1", "0", "0", "one", "0", "8", "0", "two", "0", "0", "0", "0"]);
}

#[test]
fn shared_data_is_seen_by_other_vms_of_the_same_id() {
    let mut guest = Guest::request("num(proxy_get_shared_data(\"k\", 16, 20, 24)); text();")
        .on("proxy_on_log", "drop(proxy_set_shared_data(\"k\", \"v\", 0));");
    let mut first = guest.start();
    first.exchange().unwrap();
    assert_eq!(first.lines(), ["1", ""]);
    assert_eq!(guest.lines(), ["0", "v"]);
    guest.settings.vm_id = "other".into();
    assert_eq!(guest.lines(), ["1", ""]);
}

#[test]
fn metrics_count_as_in_envoy() {
    let mut run = Guest::request(
        "num(proxy_define_metric(0, \"c\", 16)); num(at(16)); num(proxy_define_metric(1, \"g\", 16)); num(at(16));
         num(proxy_define_metric(2, \"h\", 16)); num(at(16)); num(proxy_define_metric(0, \"c\", 16)); num(at(16));
         num(proxy_define_metric(0, \"d\", 16)); num(at(16)); num(proxy_define_metric(3, \"x\", 16));",
    )
    .on(
        "proxy_on_log",
        "num(proxy_increment_metric(4, 2L)); num(proxy_record_metric(4, 3L)); num(proxy_get_metric(4, 16)); num(at(16));
         num(proxy_increment_metric(4, 0L)); num(proxy_increment_metric(4, -1L));
         num(proxy_record_metric(5, 9L)); num(proxy_increment_metric(5, -4L)); num(proxy_get_metric(5, 16)); num(at(16));
         num(proxy_record_metric(6, 8L)); num(proxy_increment_metric(6, 1L)); num(proxy_get_metric(6, 16));
         num(proxy_increment_metric(99, 1L)); num(proxy_record_metric(99, 1L)); num(proxy_get_metric(99, 16));
         num(proxy_increment_metric(0, 1L)); num(proxy_record_metric(3, 1L));",
    )
    .start();
    run.on_request().unwrap();
    assert_eq!(run.lines(), ["0", "4", "0", "5", "0", "6", "0", "4", "0", "8", "2"]);
    run.vm.close(run.id).unwrap();
    assert_eq!(
        run.lines().concat(),
        // counter, gauge, histogram, unknown ids, ids that no metric can have
        ["0", "0", "0", "5", "2", "2", "0", "0", "0", "5", "0", "2", "2", "2", "1", "2", "1", "1"].concat()
    );
    assert_eq!(
        run.world.borrow().metrics,
        [
            (MetricKind::Counter, "c".into(), 5),
            (MetricKind::Gauge, "g".into(), 5),
            (MetricKind::Histogram, "h".into(), 8),
            (MetricKind::Counter, "d".into(), 0),
        ]
    );
}

const REPLY: &str = "num(proxy_send_local_response(403, \"no way\\n\", \"body\", 0, 0, -1));";

#[test]
fn a_reply_is_noted_once_and_stops_its_half() {
    let again = REPLY.replace("403", "404").replace("-1", "7");
    let mut run = Guest::request(&format!("{REPLY} {again} num(proxy_add_header_map_value(0, \"x\", \"y\"));")).start();
    assert_eq!(run.on_request().unwrap(), Action::Pause);
    assert_eq!(run.lines(), ["0", "0", "0"]);
    let reply = run.stream.borrow_mut().reply.take().unwrap();
    assert_eq!((reply.status, reply.grpc_status), (403, None));
    assert_eq!((reply.details, reply.body, reply.headers), (b"no_way_".to_vec(), b"body".to_vec(), vec![]));
    // Its own response callback runs for it.
    assert_eq!(run.on_response().unwrap(), Action::Continue);
}

#[test]
fn an_answer_of_its_own_can_be_replaced_like_any_response() {
    let instead = REPLY.replace("403", "404");
    let twice = format!("{instead} {}", REPLY.replace("403", "405"));
    for (head, tick) in [(twice.as_str(), ""), ("return(1);", twice.as_str())] {
        let tick = format!("num(proxy_set_effective_context(2)); {tick}");
        let mut run = Guest::request(REPLY).on("proxy_on_response_headers", head).on("proxy_on_tick", &tick).start();
        run.on_request().unwrap();
        assert_eq!(run.stream.borrow_mut().reply.take().unwrap().status, 403);
        assert_eq!(run.on_response().unwrap(), Action::Pause);
        run.vm.tick(run.root).unwrap();
        assert_eq!(run.stream.borrow_mut().reply.take().unwrap().status, 404);
        // That one does not come back.
        run.vm.tick(run.root).unwrap();
        assert_eq!(run.stream.borrow().reply, None);
    }
}

#[test]
fn a_reply_carries_headers_and_a_grpc_status() {
    let mut run = Guest::request(
        "put(1024, 1); put(1028, 3); put(1032, 1); put(1036, 4407873); put(1040, 86);
         drop(proxy_send_local_response(200, 0, 0, 0, 0, 1024, 18, 16)); return(1);",
    )
    .start();
    assert_eq!(run.on_request().unwrap(), Action::Pause);
    let reply = run.stream.borrow_mut().reply.take().unwrap();
    assert_eq!((reply.headers, reply.grpc_status), (vec![(b"abc".to_vec(), b"V".to_vec())], Some(16)));
}

#[test]
fn a_reply_where_it_makes_no_sense_does_nothing() {
    let mut run = Guest::new().on("proxy_on_log", REPLY).on("proxy_on_done", REPLY).on("proxy_on_tick", REPLY).start();
    run.vm.tick(run.root).unwrap();
    run.exchange().unwrap();
    assert_eq!(run.lines(), ["0", "0", "0"]);
    assert_eq!(run.stream.borrow().reply, None);
}

#[test]
fn a_paused_half_is_resumed_once() {
    let mut run = Guest::request("return(1);")
        .on(
            "proxy_on_tick",
            "num(proxy_set_effective_context(2)); num(proxy_continue_stream(0)); num(proxy_continue_stream(0));",
        )
        .start();
    assert_eq!(run.on_request().unwrap(), Action::Pause);
    run.vm.tick(run.root).unwrap();
    assert_eq!(run.lines(), ["0", "0", "0"]);
    assert_eq!(run.stream.borrow().resumed, [Half::Request]);
}

#[test]
fn a_resume_within_the_callback_makes_it_continue() {
    // Envoy sends the request twice when the answer is 0, and dies of the other half.
    for answer in [0, 1] {
        for resume in ["proxy_continue_stream(0)", "proxy_continue_request()"] {
            let mut run = Guest::request(&format!(
                "num({resume}); num(proxy_continue_stream(1)); num(proxy_continue_response());
                 num(proxy_add_header_map_value(0, \"x\", \"y\")); return({answer});"
            ))
            .start();
            assert_eq!(run.on_request().unwrap(), Action::Continue);
            assert_eq!(run.lines(), ["0", "0", "0", "2"]);
            assert!(run.stream.borrow().resumed.is_empty());
        }
    }
}

#[test]
fn only_streams_that_exist_can_be_resumed_or_closed() {
    let code = "num(proxy_continue_stream(2)); num(proxy_continue_stream(3)); num(proxy_continue_stream(4));
                num(proxy_close_stream(4)); num(proxy_close_stream(0)); num(proxy_close_stream(3));";
    let mut run = Guest::request(code).on("proxy_on_tick", code).start();
    run.vm.tick(run.root).unwrap();
    assert!(!run.stream.borrow().closed);
    run.on_request().unwrap();
    assert!(run.stream.borrow().closed);
    assert_eq!(run.lines(), ["0", "12", "2", "2", "0", "0"].repeat(2));
}

#[test]
fn the_effective_context_lasts_for_one_callback() {
    let mut run = Guest::new()
        .on(
            "proxy_on_tick",
            "num(proxy_get_property(\"a\", 16, 20)); num(proxy_set_effective_context(99)); num(proxy_set_effective_context(0));
             num(proxy_set_effective_context(2)); num(proxy_get_property(\"a\", 16, 20));
             num(proxy_set_effective_context(1)); num(proxy_get_property(\"a\", 16, 20)); num(proxy_set_effective_context(2));",
        )
        .start();
    run.stream.borrow_mut().properties.insert(b"a".to_vec(), b"v".to_vec());
    for _ in 0..2 {
        run.vm.tick(run.root).unwrap();
        assert_eq!(run.lines(), ["1", "2", "0", "0", "0", "0", "1", "0"]);
    }
    run.vm.close(run.id).unwrap();
    run.vm.tick(run.root).unwrap();
    assert_eq!(run.lines(), ["1", "2", "0", "2", "1", "0", "1", "2"]);
}

#[test]
fn what_is_not_there_says_so() {
    let answers = [
        ("proxy_http_call(\"c\", 0, 0, 0, 0, 0, 0, 100, 16)", 2),
        ("proxy_grpc_call(\"c\", \"s\", \"m\", 0, 0, 0, 0, 100, 16)", 4),
        ("proxy_grpc_stream(\"c\", \"s\", \"m\", 0, 0, 16)", 4),
        ("proxy_grpc_send(6, \"m\", 1)", 1),
        ("proxy_grpc_send(5, \"m\", 1)", 2),
        ("proxy_grpc_cancel(5)", 1),
        ("proxy_grpc_close(5)", 1),
        ("proxy_get_status(16, 20, 24)", 0),
        ("proxy_resolve_shared_queue(\"\", \"q\", 16)", 1),
        ("proxy_enqueue_shared_queue(1, \"i\")", 1),
        ("proxy_dequeue_shared_queue(1, 16, 20)", 1),
        ("proxy_call_foreign_function(\"compress\", \"x\", 16, 20)", 1),
        ("proxy_clear_route_cache()", 0),
        ("pthread_equal(1, 1)", 1),
        ("pthread_equal(1, 2)", 0),
        ("proxy_done()", 1),
    ];
    for (call, status) in answers {
        assert_eq!(Guest::request(&format!("num({call});")).lines(), [status.to_string()], "{call}");
    }
    assert!(Guest::request("emscripten_notify_memory_growth(0);").lines().is_empty());
}

#[test]
fn two_plugins_of_a_vm_are_apart() {
    let mut run = Guest::request("num(proxy_get_property(\"plugin_name\", 16, 20)); text();").start();
    let other = lacis_host::PluginSettings { name: "other".into(), ..Default::default() };
    let root = run.vm.start_root(other).unwrap();
    let id = run.vm.open(root, TestStream::request(&[])).unwrap();
    run.vm.on_headers(id, Half::Request, 0, true).unwrap();
    run.on_request().unwrap();
    assert_eq!(run.lines(), ["0", "other", "0", "guest"]);
}
