//! The order of callbacks, their answers, and the ends of contexts.

use lacis_host::HeadersAction as Action;
use lacis_host::testing::{TestStream, TestWorld};
use lacis_host::{Half, PluginSettings, StartError};

use crate::guest::Guest;

/// A guest that logs each callback by a letter and its context.
fn witness() -> Guest {
    let say = |letter: &str| format!("drop(proxy_log(2, \"{letter}\")); num(p0);");
    Guest::new()
        .on("_initialize", "drop(proxy_log(2, \"init\"));")
        .on("main", "drop(proxy_log(2, \"main\"));")
        .on("_start", "drop(proxy_log(2, \"start\"));")
        .on("proxy_on_context_create", &(say("create") + "num(p1);"))
        .on("proxy_on_vm_start", &(say("vm") + "num(p1);"))
        .on("proxy_on_configure", &(say("configure") + "num(p1);"))
        .on("proxy_on_request_headers", &(say("request") + "num(p1); num(p2);"))
        .on("proxy_on_response_headers", &(say("response") + "num(p1); num(p2);"))
        .on("proxy_on_log", &say("log"))
        .on("proxy_on_done", &say("done"))
        .on("proxy_on_delete", &say("delete"))
}

#[test]
fn callbacks_come_in_envoy_s_order() {
    let mut guest = witness();
    guest.settings.configuration = b"12345".to_vec();
    guest.plugin.configuration = b"123".to_vec();
    assert_eq!(
        guest.lines().join(" "),
        "init main create 1 0 vm 1 5 configure 1 3 \
         create 2 1 request 2 6 1 response 2 2 0 log 2 done 2 delete 2"
    );
}

#[test]
fn a_command_is_started_when_there_is_no_initialize() {
    let world = TestWorld::shared();
    Guest::new().on("_start", "drop(proxy_log(2, \"start\"));").vm(&world).unwrap();
    assert_eq!(world.borrow_mut().take_lines(), ["start"]);
}

#[test]
fn a_start_section_can_log() {
    let world = TestWorld::shared();
    Guest::new().on("main", "").items("(func $s (call $num (i32.const 7))) (start $s)").vm(&world).unwrap();
    assert_eq!(world.borrow_mut().take_lines(), ["7"]);
}

#[test]
fn every_root_context_has_its_own_vm_start() {
    let mut run = witness().start();
    run.lines();
    run.vm.start_root(PluginSettings::default()).unwrap();
    assert_eq!(run.lines().join(" "), "create 3 0 vm 3 0 configure 3 0");
}

#[test]
fn a_first_version_has_no_end_of_stream() {
    let guest = Guest::request("num(p0); num(p1);").marker("proxy_abi_version_0_1_0");
    assert_eq!(guest.lines(), ["2", "6"]);
}

#[test]
fn logging_comes_once_and_before_the_end() {
    let mut run = witness().start();
    run.lines();
    run.vm.log(run.id).unwrap();
    run.vm.log(run.id).unwrap();
    run.vm.close(run.id).unwrap();
    assert_eq!(run.lines().join(" "), "log 2 done 2 delete 2");
    assert_eq!(run.vm.contexts(), 1);
}

#[test]
fn what_a_stream_answers_to_done_counts_for_nothing() {
    let mut run = Guest::new().on("proxy_on_done", "return(0);").on("proxy_on_delete", "num(p0);").start();
    run.vm.close(run.id).unwrap();
    assert_eq!(run.lines(), ["2"]);
}

#[test]
fn a_plugin_can_ask_for_time_to_end() {
    let mut run = Guest::new()
        .on("proxy_on_done", "num(proxy_done()); return(0);")
        .on("proxy_on_tick", "num(proxy_done()); num(proxy_done());")
        .on("proxy_on_delete", "num(p0);")
        .start();
    run.vm.close(run.id).unwrap();
    assert_eq!(run.lines(), ["1", "2"]);
    run.vm.tick(run.root).unwrap();
    assert_eq!(run.lines(), ["1", "1"]);
    assert!(!run.vm.stop_root(run.root).unwrap());
    assert!(run.vm.has_root(run.root));
    assert_eq!(run.lines(), ["1"]);
    run.vm.tick(run.root).unwrap();
    assert_eq!(run.lines(), ["0", "1", "1"]);
    assert!(!run.vm.has_root(run.root));
    assert!(run.vm.tick(run.root).is_err());
    assert!(!run.vm.is_dead());
}

#[test]
fn a_plugin_that_does_not_ask_ends_at_once() {
    let mut run = witness().start();
    run.vm.close(run.id).unwrap();
    run.lines();
    assert!(run.vm.stop_root(run.root).unwrap());
    assert_eq!(run.lines().join(" "), "done 1 delete 1");
    assert!(!run.vm.has_root(run.root));
    assert!(run.vm.open(run.root, TestStream::request(&[])).is_err());
}

#[test]
fn a_refusal_says_which_callback() {
    for callback in ["proxy_on_vm_start", "proxy_on_configure"] {
        let guest = Guest::new().on(callback, "return(0);");
        let mut vm = guest.vm(&TestWorld::shared()).unwrap();
        match vm.start_root(guest.plugin) {
            Err(StartError::Refused(who)) => assert_eq!(who, callback),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_plugin_that_refuses_leaves_the_others_alone() {
    for callback in ["proxy_validate_configuration", "proxy_on_configure"] {
        // Agrees to be configured until it has seen a request.
        let guest = witness().on("_initialize", "put(24, 1);").on(callback, "return(at(24));");
        let mut run = guest.on("proxy_on_request_headers", "put(24, 0);").start();
        run.on_request().unwrap();
        run.lines();
        match run.vm.start_root(PluginSettings::default()) {
            Err(StartError::Refused(who)) => assert_eq!(who, callback),
            other => panic!("{other:?}"),
        }
        assert_eq!(run.lines().join(" "), "create 3 0 vm 3 0 delete 3");
        assert_eq!((run.vm.contexts(), run.vm.contexts_of(run.root)), (2, 2));
        assert_eq!(run.on_response().unwrap(), Action::Continue);
    }
}

#[test]
fn a_guest_without_callbacks_lets_everything_pass() {
    let mut run = Guest::new().start();
    assert_eq!(run.on_request().unwrap(), Action::Continue);
    assert_eq!(run.on_response().unwrap(), Action::Continue);
    run.vm.tick(run.root).unwrap();
    run.vm.close(run.id).unwrap();
    assert!(run.lines().is_empty());
}

#[test]
fn answers_to_headers_are_envoy_s() {
    for (answer, action) in [
        (0, Action::Continue),
        (1, Action::Pause),
        (2, Action::Continue),
        (3, Action::Pause),
        (4, Action::Pause),
        (5, Action::Pause),
        (-1, Action::Pause),
    ] {
        let mut run = Guest::request(&format!("return({answer});"))
            .on("proxy_on_response_headers", &format!("return({answer});"))
            .start();
        assert_eq!(run.on_request().unwrap(), action, "{answer}");
        assert_eq!(run.on_response().unwrap(), action, "{answer}");
    }
}

#[test]
fn exchanges_are_apart_and_ids_are_not_used_twice() {
    let mut run = Guest::request("num(p0); drop(proxy_add_header_map_value(0, \"x\", \"y\"));").start();
    let other = TestStream::request(&[]);
    let id = run.vm.open(run.root, other.clone()).unwrap();
    run.vm.close(run.id).unwrap();
    let third = run.vm.open(run.root, TestStream::request(&[])).unwrap();
    run.vm.on_headers(id, Half::Request, 0, true).unwrap();
    run.vm.on_headers(third, Half::Request, 0, true).unwrap();
    assert_eq!(run.lines(), ["3", "4"]);
    assert_eq!(other.borrow().request.text(), ["x: y"]);
    assert_eq!(run.stream.borrow().request.text().len(), crate::guest::REQUEST.len());
    // Closed: the guest does not know it any more, and the VM holds the stream no longer.
    assert!(run.on_request().is_err());
    assert_eq!(std::rc::Rc::strong_count(&run.stream), 1);
}
