//! Guests that misbehave: traps, endless loops, recursion, memory, hostile pointers, calls at the wrong time.

use std::time::{Duration, Instant};

use lacis_host::testing::{TestStream, TestWorld};
use lacis_host::{Cause, Engine, Half, Headers, Limit, Options, Plugin, StartError, Vm, limits};

use crate::abi;
use crate::guest::{ENGINE, Guest};

#[test]
fn a_trap_kills_the_vm_and_names_the_functions() {
    let mut run = Guest::request("bad();").items("(func $bad unreachable)").start();
    let trap = run.on_request().unwrap_err();
    assert_eq!(trap.callback, "proxy_on_request_headers");
    assert!(matches!(&trap.cause, Cause::Guest(text) if text.contains("unreachable")), "{trap}");
    assert!(trap.backtrace.contains("!bad"), "{}", trap.backtrace);
    assert!(trap.backtrace.contains("!proxy_on_request_headers"), "{}", trap.backtrace);
}

#[test]
fn nothing_of_a_dead_vm_is_ever_entered() {
    let mut run = Guest::request("trap();").on("proxy_on_log", "num(1);").on("proxy_on_tick", "num(1);").start();
    assert!(run.on_request().is_err());
    assert!(run.vm.is_dead());
    let dead = |trap: lacis_host::Trap| assert_eq!(trap.cause, Cause::Dead);
    dead(run.on_response().unwrap_err());
    dead(run.vm.log(run.id).unwrap_err());
    dead(run.vm.close(run.id).unwrap_err());
    dead(run.vm.tick(run.root).unwrap_err());
    dead(run.vm.open(run.root, TestStream::request(&[])).unwrap_err());
    dead(run.vm.stop_root(run.root).unwrap_err());
    assert!(matches!(run.vm.start_root(Default::default()), Err(StartError::Trap(_))));
    assert!(run.lines().is_empty());
    // Its exchanges are let go.
    assert_eq!(std::rc::Rc::strong_count(&run.stream), 1);
}

#[test]
fn an_endless_loop_is_stopped_after_its_budget() {
    let mut guest = Guest::request("forever();");
    guest.settings.time = Duration::from_millis(30);
    let mut run = guest.start();
    let begin = Instant::now();
    assert_eq!(run.on_request().unwrap_err().cause, Cause::Timeout(Duration::from_millis(30)));
    assert!(begin.elapsed() >= Duration::from_millis(30));
    assert_eq!(run.world.borrow().refused, [Limit::Time]);
}

#[test]
fn an_endless_loop_while_it_starts_is_stopped() {
    let mut guest = Guest::new().on("_initialize", "forever();");
    guest.settings.start_time = Duration::from_millis(10);
    match guest.vm(&TestWorld::shared()) {
        Err(StartError::Trap(trap)) => assert_eq!(trap.cause, Cause::Timeout(Duration::from_millis(10))),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_endless_loop_is_stopped_though_the_clock_was_asleep() {
    // An engine of its own: its clock goes to sleep when no guest has run for some ticks.
    let engine = Engine::new(&Options::default()).unwrap();
    let guest = Guest::request("forever();");
    let plugin = Plugin::compile(&engine, &guest.code()).unwrap();
    let mut vm = Vm::new(&plugin, guest.settings.clone(), TestWorld::shared()).unwrap();
    let root = vm.start_root(guest.plugin).unwrap();
    let id = vm.open(root, TestStream::request(&[])).unwrap();
    // No event tells that it sleeps; a busy machine only makes this test prove less.
    let begin = Instant::now();
    while begin.elapsed() < limits::START_TIME + 10 * limits::TICK {
        std::thread::yield_now();
    }
    assert_eq!(vm.on_headers(id, Half::Request, 0, true).unwrap_err().cause, Cause::Timeout(limits::CALL_TIME));
}

#[test]
fn the_allocator_cannot_loop_either() {
    let guest = Guest::request("num(proxy_get_header_map_value(0, \"x-user\", 16, 20));")
        .allocator("(func (export \"malloc\") (param i32) (result i32) (loop $l (br $l)) unreachable)");
    assert!(matches!(guest.start().on_request().unwrap_err().cause, Cause::Timeout(_)));
}

#[test]
fn endless_recursion_is_a_trap() {
    let mut run = Guest::request("recurse();").start();
    assert_eq!(run.on_request().unwrap_err().cause, Cause::Stack);
}

#[test]
fn memory_grows_to_its_limit() {
    let mut guest = Guest::request("num(grow(4)); num(grow(1)); num(at(524284));");
    guest.settings.memory = 8 << 16;
    let mut run = guest.start();
    run.on_request().unwrap();
    assert_eq!(run.lines(), ["4", "4294967295", "0"]);
    assert_eq!(run.vm.memory(), 8 << 16);
    assert_eq!(run.world.borrow().refused, [Limit::Memory]);
}

#[test]
fn a_guest_that_gives_up_for_want_of_memory_says_so() {
    let mut guest = Guest::request("drop(grow(5)); trap();");
    guest.settings.memory = 8 << 16;
    assert_eq!(guest.start().on_request().unwrap_err().cause, Cause::Memory(8 << 16));
}

#[test]
fn a_module_that_needs_too_much_at_once_is_told_so() {
    let mut guest = Guest::new();
    guest.settings.memory = 3 << 16;
    match guest.vm(&TestWorld::shared()) {
        Err(error @ StartError::Memory { .. }) => {
            assert_eq!(error.to_string(), "the module needs 262144 bytes of memory at once, and its limit is 196608");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn tables_are_bounded() {
    let items =
        "(table $t 1 funcref) (func $more (param i32) (result i32) (table.grow $t (ref.null func) (local.get 0)))";
    // No setting goes beyond what the pool has room for.
    for (limit, elements) in [(limits::TABLE_ELEMENTS, limits::TABLE_ELEMENTS), (usize::MAX, 65536), (10, 10)] {
        let tick = |after: &str| {
            format!(
                "(func (export \"proxy_on_tick\") (param i32)
                   (call $num (call $more (i32.const {}))) (call $num (call $more (i32.const 1))) {after})",
                elements - 1
            )
        };
        let mut guest = Guest::new().items(items).items(&tick(""));
        guest.settings.limits.table = limit;
        let mut run = guest.start();
        run.vm.tick(run.root).unwrap();
        assert_eq!(run.lines(), ["1", "4294967295"]);
        assert_eq!(run.world.borrow().refused, [Limit::Table]);
        let mut guest = Guest::new().items(items).items(&tick("unreachable"));
        guest.settings.limits.table = limit;
        let mut run = guest.start();
        assert_eq!(run.vm.tick(run.root).unwrap_err().cause, Cause::Table(elements));
    }
    // One that is too large to begin with.
    let mut guest = Guest::new().items("(table 11 funcref)");
    guest.settings.limits.table = 10;
    match guest.vm(&TestWorld::shared()) {
        Err(error @ StartError::Table { .. }) => {
            assert_eq!(error.to_string(), "the module needs a table of 11 elements at once, and its limit is 10");
        }
        other => panic!("{other:?}"),
    }
}

/// Each of several tables has the bound; what there is no room for is said when the module is compiled.
#[test]
fn several_tables_are_bounded_each() {
    let grown = |table: &str| format!("(call $num (table.grow {table} (ref.null func) (i32.const 9)))");
    let tick = ["$a", "$b", "$b"].map(grown).concat();
    let items = format!(
        "(table $a 2 funcref) (table $b 2 funcref) (elem (table $b) (i32.const 1) func $two)
         (func $two (result i32) (i32.const 2))
         (func (export \"proxy_on_tick\") (param i32)
           (call $num (call_indirect $b (result i32) (i32.const 1))) {tick})"
    );
    let mut guest = Guest::new().items(&items);
    guest.settings.limits.table = 11;
    let mut run = guest.start();
    run.vm.tick(run.root).unwrap();
    assert_eq!(run.lines(), ["2", "2", "2", "4294967295"]);
    let why = |items: &str| Plugin::compile(&ENGINE, &Guest::new().items(items).code()).unwrap_err().to_string();
    assert_eq!(why(&"(table 1 funcref)".repeat(5)), "the module has 5 tables, and there is room for 4");
    assert_eq!(
        why("(table 65537 funcref)"),
        "the module needs a table of 65537 elements at once, and none may have more than 65536"
    );
}

#[test]
fn a_module_can_be_large_beside_its_memory() {
    // As much as the functions of a full table take, which would take long to compile.
    let globals = "(global (mut i64) (i64.const 1))".repeat(limits::TABLE_ELEMENTS * 2);
    Guest::new().items(&globals).start();
}

#[test]
fn what_a_language_calls_a_function_is_in_the_backtrace() {
    // As rustc and clang mangle `filter::Auth::check` and `filter::check(int)`.
    let items = "(func $_ZN6filter4Auth5check17h0123456789abcdefE unreachable)
                 (func $_ZN6filter5checkEi call $_ZN6filter4Auth5check17h0123456789abcdefE)
                 (func (export \"proxy_on_tick\") (param i32) call $_ZN6filter5checkEi)";
    let mut run = Guest::new().items(items).start();
    let trap = run.vm.tick(run.root).unwrap_err();
    let lines: Vec<&str> = trap.backtrace.lines().collect();
    let place = |name: &str| lines.iter().position(|line| line.contains(name));
    let (inner, outer) = (place("filter::Auth::check"), place("filter::check(int)"));
    assert!(inner.is_some() && inner < outer, "{}", trap.backtrace);
    assert!(!trap.backtrace.contains("_ZN"), "{}", trap.backtrace);
}

#[test]
fn what_a_function_is_called_cannot_make_a_backtrace_long() {
    // `f(A<int, int>, A<twice the one before>, …)`: its last argument alone has 2 to the power of 24 times `int`.
    let digits = ('0'..='9').chain('A'..='N');
    let doubled: String = digits.map(|digit| format!("S_IS{digit}_S{digit}_E")).collect();
    for name in [format!("_Z1f1AIiiE{doubled}"), "n".repeat(1 << 20)] {
        let items = format!(
            "(func $f (@name \"{name}\") (param i32) (if (local.get 0) (then unreachable)) (call $f (i32.const 1)))
                             (func (export \"proxy_on_tick\") (param i32) (call $f (i32.const 0)))"
        );
        let mut run = Guest::new().items(&items).start();
        let trap = run.vm.tick(run.root).unwrap_err();
        assert!(trap.backtrace.len() < 3 * (limits::SYMBOL + 64), "{}", trap.backtrace);
        assert_eq!(trap.backtrace.lines().filter(|line| line.ends_with('…')).count(), 2, "{}", trap.backtrace);
    }
}

#[test]
fn a_plugin_that_starts_has_its_own_time() {
    let guest = Guest::new().on("proxy_on_configure", "forever();");
    let mut vm = guest.vm(&TestWorld::shared()).unwrap();
    vm.set_start_time(Duration::from_millis(30));
    match vm.start_root(guest.plugin) {
        Err(StartError::Trap(trap)) => assert_eq!(trap.cause, Cause::Timeout(Duration::from_millis(30))),
        other => panic!("{other:?}"),
    }
}

#[test]
fn pointers_outside_of_memory_are_refused() {
    // The guest has 4 pages: 262144 bytes. Each place of a pointer, one past the end and at the top of the address space.
    let there = "drop(proxy_set_shared_data(\"k\", \"value\", 0)); drop(proxy_define_metric(0, \"m\", 16));";
    let calls = [
        "proxy_log(2, BAD, 4)",
        "proxy_get_log_level(BAD)",
        "proxy_get_current_time_nanoseconds(BAD)",
        "proxy_get_buffer_bytes(6, 0, 10, BAD, 20)",
        "proxy_get_buffer_bytes(6, 0, 10, 16, BAD)",
        "proxy_get_buffer_status(6, BAD, 20)",
        "proxy_get_buffer_status(6, 16, BAD)",
        "proxy_set_buffer_bytes(6, 0, 0, BAD, 4)",
        "proxy_get_configuration(BAD, 20)",
        "proxy_get_configuration(16, BAD)",
        "proxy_get_header_map_size(0, BAD)",
        "proxy_get_header_map_pairs(0, BAD, 20)",
        "proxy_get_header_map_pairs(0, 16, BAD)",
        "proxy_set_header_map_pairs(0, BAD, 4)",
        "proxy_get_header_map_value(0, BAD, 4, 16, 20)",
        "proxy_get_header_map_value(0, \"x-user\", BAD, 20)",
        "proxy_get_header_map_value(0, \"x-user\", 16, BAD)",
        "proxy_add_header_map_value(0, BAD, 4, 0, 4)",
        "proxy_add_header_map_value(0, 0, 4, BAD, 4)",
        "proxy_replace_header_map_value(0, BAD, 4, 0, 4)",
        "proxy_replace_header_map_value(0, 0, 4, BAD, 4)",
        "proxy_remove_header_map_value(0, BAD, 4)",
        "proxy_send_local_response(200, BAD, 4, 0, 0, 0, 0, -1)",
        "proxy_send_local_response(200, 0, 0, BAD, 4, 0, 0, -1)",
        "proxy_send_local_response(200, 0, 0, 0, 0, BAD, 4, -1)",
        "proxy_get_property(BAD, 4, 16, 20)",
        "proxy_get_property(\"plugin_name\", BAD, 20)",
        "proxy_get_property(\"plugin_name\", 16, BAD)",
        "proxy_set_property(BAD, 4, 0, 0)",
        "proxy_set_property(0, 4, BAD, 4)",
        "proxy_get_shared_data(BAD, 4, 16, 20, 24)",
        "proxy_get_shared_data(\"k\", BAD, 20, 24)",
        "proxy_get_shared_data(\"k\", 16, BAD, 24)",
        "proxy_get_shared_data(\"k\", 16, 20, BAD)",
        "proxy_set_shared_data(BAD, 4, 0, 0, 0)",
        "proxy_set_shared_data(0, 4, BAD, 4, 0)",
        "proxy_define_metric(0, BAD, 4, 16)",
        "proxy_define_metric(0, \"m\", BAD)",
        "proxy_get_metric(4, BAD)",
        "proxy_http_call(BAD, 4, 0, 0, 0, 0, 0, 0, 0, 24)",
        "proxy_http_call(0, 0, BAD, 4, 0, 0, 0, 0, 0, 24)",
        "proxy_http_call(0, 0, 0, 0, BAD, 4, 0, 0, 0, 24)",
        "proxy_http_call(0, 0, 0, 0, 0, 0, BAD, 4, 0, 24)",
        "proxy_http_call(0, 0, 0, 0, 0, 0, 0, 0, 0, BAD)",
        "proxy_grpc_call(BAD, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 24)",
        "proxy_grpc_call(0, 0, BAD, 4, 0, 0, 0, 0, 0, 0, 0, 24)",
        "proxy_grpc_call(0, 0, 0, 0, BAD, 4, 0, 0, 0, 0, 0, 24)",
        "proxy_grpc_call(0, 0, 0, 0, 0, 0, BAD, 4, 0, 0, 0, 24)",
        "proxy_grpc_call(0, 0, 0, 0, 0, 0, 0, 0, BAD, 4, 0, 24)",
        "proxy_grpc_call(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, BAD)",
        "proxy_grpc_stream(BAD, 4, 0, 0, 0, 0, 0, 0, 24)",
        "proxy_grpc_stream(0, 0, BAD, 4, 0, 0, 0, 0, 24)",
        "proxy_grpc_stream(0, 0, 0, 0, BAD, 4, 0, 0, 24)",
        "proxy_grpc_stream(0, 0, 0, 0, 0, 0, BAD, 4, 24)",
        "proxy_grpc_stream(0, 0, 0, 0, 0, 0, 0, 0, BAD)",
        "proxy_grpc_send(5, BAD, 4, 0)",
        "proxy_get_status(BAD, 20, 24)",
        "proxy_get_status(16, BAD, 24)",
        "proxy_get_status(16, 20, BAD)",
        "proxy_register_shared_queue(BAD, 4, 16)",
        "proxy_register_shared_queue(\"q\", BAD)",
        "proxy_resolve_shared_queue(BAD, 4, 0, 0, 16)",
        "proxy_resolve_shared_queue(0, 0, BAD, 4, 16)",
        "proxy_resolve_shared_queue(0, 0, 0, 0, BAD)",
        "proxy_enqueue_shared_queue(1, BAD, 4)",
        "proxy_call_foreign_function(BAD, 4, 0, 0, 16, 20)",
        "proxy_call_foreign_function(\"echo\", BAD, 4, 16, 20)",
        "proxy_call_foreign_function(\"echo\", \"x\", BAD, 20)",
        "proxy_call_foreign_function(\"echo\", \"x\", 16, BAD)",
    ];
    // All imports are here that take more than numbers, but for the one that needs something to hand over: see `queues`.
    let numbers = [
        "emscripten_notify_memory_growth",
        "proxy_clear_route_cache",
        "proxy_close_stream",
        "proxy_continue_request",
        "proxy_continue_response",
        "proxy_continue_stream",
        "proxy_done",
        "proxy_grpc_cancel",
        "proxy_grpc_close",
        "proxy_increment_metric",
        "proxy_record_metric",
        "proxy_set_effective_context",
        "proxy_set_tick_period_milliseconds",
        "pthread_equal",
    ];
    for (import, _) in abi::rows(abi::ENV).filter(|(import, _)| *import != "proxy_dequeue_shared_queue") {
        let pointers = calls.iter().any(|call| call.split('(').next() == Some(import));
        assert!(pointers != numbers.contains(&import), "{import}");
    }
    for call in calls {
        let bad = ["262144", "262141", "-4", "-1"].map(|bad| format!("num({});", call.replace("BAD", bad)));
        let mut guest = Guest::request(&(there.to_owned() + &bad.concat()));
        guest.settings.configuration = b"vm".to_vec();
        let mut run = guest.start();
        run.on_request().unwrap();
        assert_eq!(run.lines(), ["6"; 4], "{call}");
        assert_eq!(run.stream.borrow().reply, None);
        assert_eq!(run.stream.borrow().request.text().len(), crate::guest::REQUEST.len(), "{call}");
    }
    assert_eq!(
        Guest::request("num(proxy_log(2, 262140, 4)); num(proxy_log(2, -1, 0));").lines().concat(),
        "\u{0}\u{0}\u{0}\u{0}00"
    );
}

#[test]
fn an_allocator_that_gives_nonsense_is_survived() {
    let read = "num(proxy_get_header_map_value(0, \"x-user\", 16, 20)); num(at(20)); num(proxy_get_header_map_pairs(0, 16, 20));";
    for answer in [0, -1, 262143] {
        let malloc = format!("(func (export \"malloc\") (param i32) (result i32) (i32.const {answer}))");
        assert_eq!(Guest::request(read).allocator(&malloc).lines(), ["6", "0", "6"], "{answer}");
    }
}

#[test]
fn memory_that_grows_in_the_allocator_is_seen() {
    let malloc =
        "(func (export \"malloc\") (param i32) (result i32) (i32.mul (memory.grow (i32.const 1)) (i32.const 65536)))";
    let read = "num(proxy_get_header_map_value(0, \"x-user\", 16, 20)); text();";
    assert_eq!(Guest::request(read).allocator(malloc).lines(), ["0", "one"]);
}

#[test]
fn bytes_of_any_number_go_where_the_allocator_says_and_no_further() {
    // Around the block are points, of which none may be touched.
    let items = format!("(data (i32.const 65528) \"{}\")", ".".repeat(160));
    let malloc = "(func (export \"malloc\") (param i32) (result i32) (i32.const 65536))";
    let all = "drop(proxy_log(2, 65528, 160));";
    let read = format!("num(proxy_get_header_map_value(0, \"x-user\", 16, 20)); text(); {all}");
    let property = format!("num(proxy_get_property(\"mine\", 16, 20)); text(); {all}");
    for code in [read, property] {
        let mut run = Guest::request(&code).items(&items).allocator(malloc).start();
        for length in 0..=140u8 {
            let value: String = (0..length).map(|at| char::from(b'A' + at % 57)).collect();
            run.stream.borrow_mut().request.replace(b"x-user", value.as_bytes());
            run.stream.borrow_mut().properties.insert(b"mine".to_vec(), value.as_bytes().to_vec());
            run.on_request().unwrap();
            let memory = format!("........{value}{}", ".".repeat(152 - usize::from(length)));
            assert_eq!(run.lines(), ["0", &value, &memory], "{length} bytes");
            run.vm.close(run.id).unwrap();
            run.id = run.vm.open(run.root, run.stream.clone()).unwrap();
        }
    }
}

#[test]
fn the_allocator_is_never_asked_for_nothing() {
    let malloc = "(func (export \"malloc\") (param i32) (result i32)
      (if (i32.eqz (local.get 0)) (then unreachable)) (i32.const 65536))";
    let code = "num(proxy_get_header_map_value(0, \"x-empty\", 16, 20)); num(proxy_get_buffer_bytes(6, 0, 9, 16, 20));
                num(proxy_get_property(\"plugin_root_id\", 16, 20)); num(proxy_get_header_map_pairs(1, 16, 20)); num(at(16));";
    assert_eq!(Guest::request(code).allocator(malloc).lines(), ["0", "0", "0", "0", "0"]);
}

#[test]
fn calls_at_the_wrong_time_are_traps() {
    // From the allocator only the log and the clock may be called.
    let allocator = |call: &str| {
        let malloc = format!("(func (export \"malloc\") (param i32) (result i32) {call} (i32.const 65536))");
        let code = "drop(proxy_get_header_map_value(0, \"x-user\", 16, 20)); drop(proxy_done());";
        Guest::request(code).allocator(&malloc).start().on_request()
    };
    assert!(allocator("(call $num (i32.const 1))").is_ok());
    match allocator("(drop (call $proxy_done))").unwrap_err().cause {
        Cause::Host(text) => assert_eq!(text, "proxy_done called from the memory allocator"),
        other => panic!("{other}"),
    }
    // While the module starts there is no context.
    match Guest::new().on("_initialize", "drop(proxy_done());").vm(&TestWorld::shared()) {
        Err(StartError::Trap(trap)) => {
            assert_eq!(
                trap.to_string(),
                "_initialize: proxy_done called while the module starts, before a context exists"
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_borrow_that_the_embedder_holds_is_a_trap_and_no_panic() {
    let mut run = Guest::request("num(1);").start();
    let world = run.world.clone();
    let borrow = world.borrow_mut();
    assert!(matches!(run.on_request().unwrap_err().cause, Cause::Host(_)));
    drop(borrow);
    let mut run = Guest::request("drop(proxy_add_header_map_value(0, \"x\", \"y\"));").start();
    let stream = run.stream.clone();
    let _borrow = stream.borrow_mut();
    assert!(matches!(run.vm.on_headers(run.id, Half::Request, 0, true).unwrap_err().cause, Cause::Host(_)));
}

#[test]
fn metrics_are_bounded() {
    let mut code = String::new();
    for index in 0..=lacis_host::limits::METRICS {
        code.push_str(&format!("put(12, proxy_define_metric(0, \"m{index}\", 16));"));
    }
    // The last one is one too many; one that exists is still found.
    code.push_str("num(at(12)); num(proxy_define_metric(1, \"m0\", 16)); num(proxy_define_metric(0, \"m0\", 16));");
    code.push_str("num(proxy_define_metric(0, 65536, 4097, 16));");
    let mut run = Guest::request(&code).start();
    run.on_request().unwrap();
    assert_eq!(run.lines(), ["0", "0", "0", "2"]);
    // Nor has the embedder made any of those that the guest did not get.
    assert_eq!(run.world.borrow().metrics.len(), lacis_host::limits::METRICS);
}

#[test]
fn an_answer_is_bounded_as_bodies_are() {
    // The second one would be ignored if the first had been taken.
    let mut guest = Guest::request(
        "num(proxy_send_local_response(200, \"\", \"12345\", \"\", -1));
         num(proxy_send_local_response(201, \"\", \"1234\", \"\", -1));",
    );
    guest.settings.limits.body = 4;
    let mut run = guest.start();
    run.on_request().unwrap();
    assert_eq!(run.lines(), ["10", "0"]);
    assert_eq!(run.world.borrow().refused, [Limit::Body]);
    assert_eq!(run.stream.borrow().reply.as_ref().map(|reply| reply.status), Some(201));
}

#[test]
fn a_vm_that_dies_while_it_starts_says_where() {
    let world = TestWorld::shared();
    match Guest::new().items("(func $s unreachable) (start $s)").vm(&world) {
        Err(StartError::Trap(trap)) => assert_eq!(trap.callback, "start section"),
        other => panic!("{other:?}"),
    }
    let guest = Guest::new().on("proxy_on_configure", "trap();");
    let mut vm = guest.vm(&world).unwrap();
    match vm.start_root(guest.plugin) {
        Err(StartError::Trap(trap)) => assert_eq!(trap.callback, "proxy_on_configure"),
        other => panic!("{other:?}"),
    }
    assert!(vm.is_dead());
}

#[test]
fn log_lines_are_bounded_for_each_second() {
    let mut guest = Guest::request("num(1); num(2); num(3); num(4);").on("proxy_on_tick", "num(5);");
    guest.settings.limits.log_lines = 2;
    let mut run = guest.start();
    run.on_request().unwrap();
    assert_eq!(run.lines(), ["1", "2", "more than 2 lines in a second: the others are left out"]);
    assert_eq!(run.world.borrow().refused, [Limit::LogLines; 2]);
    run.world.borrow_mut().now.monotonic = 999_999_999;
    run.vm.tick(run.root).unwrap();
    assert!(run.lines().is_empty());
    run.world.borrow_mut().now.monotonic = 1_000_000_000;
    run.vm.tick(run.root).unwrap();
    assert_eq!(run.lines(), ["5"]);
}

#[test]
fn what_is_refused_is_told_to_the_world() {
    let code = "num(proxy_define_metric(0, \"a\", 16)); num(proxy_define_metric(0, \"b\", 16));
                num(proxy_set_shared_data(\"k\", \"vv\", 0)); num(proxy_set_shared_data(\"k\", \"vvv\", 0));";
    let mut guest = Guest::request(code);
    (guest.settings.limits.metrics, guest.settings.limits.shared_entry) = (1, 3);
    let mut run = guest.start();
    run.on_request().unwrap();
    assert_eq!(run.lines(), ["0", "0", "0", "8"]);
    assert_eq!(run.world.borrow().refused, [Limit::Metrics, Limit::SharedData]);
    let mut names = Limit::ALL.map(Limit::name);
    names.sort_unstable();
    assert_eq!(names, Limit::ALL.map(Limit::name));
}
