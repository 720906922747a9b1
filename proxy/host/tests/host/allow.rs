//! What a filter is allowed.

use lacis_host::testing::TestWorld;
use lacis_host::{Allow, Half, Limit, LoadError, Restricted, Vm};

use crate::guest::Guest;

const CODE: &str = "num(proxy_get_header_map_size(0, 16)); num(proxy_set_shared_data(\"k\", \"v\", 0));
                    num(proxy_send_local_response(403, 0, 0, 0, 0, 0, 0, -1)); num(proxy_done());";

#[test]
fn a_module_that_imports_what_it_may_not_is_refused() {
    let plugin = Guest::request(CODE).plugin();
    let allow = Allow::of(["log", "headers"]).unwrap();
    match plugin.restricted(&allow, Restricted::Refuse) {
        Err(LoadError::Restricted(names)) => {
            assert_eq!(names, ["env.proxy_send_local_response", "env.proxy_set_shared_data"]);
        }
        other => panic!("{other:?}"),
    }
    let allow = Allow::of(["log", "headers", "reply", "proxy_set_shared_data"]).unwrap();
    assert!(plugin.restricted(&allow, Restricted::Refuse).is_ok());
}

#[test]
fn or_its_calls_fail() {
    let guest = Guest::request(CODE);
    let allow = Allow::of(["log", "headers"]).unwrap();
    let plugin = guest.plugin().restricted(&allow, Restricted::Answer).unwrap();
    let world = TestWorld::shared();
    let mut vm = Vm::new(&plugin, guest.settings.clone(), world.clone()).unwrap();
    let root = vm.start_root(guest.plugin.clone()).unwrap();
    let id = vm.open(root, lacis_host::testing::TestStream::request(&[])).unwrap();
    vm.on_headers(id, Half::Request, 0, true).unwrap();
    assert_eq!(world.borrow_mut().take_lines(), ["0", "10", "10", "1"]);
    assert_eq!(world.borrow().refused, [Limit::Function; 2]);
}

#[test]
fn or_they_give_nothing() {
    let code = "put(16, 7); num(proxy_get_header_map_value(0, \"a\", 16, 20)); num(proxy_get_property(\"b\", 16, 20)); num(at(16));";
    let guest = Guest::request(code);
    let plugin = guest.plugin().restricted(&Allow::of(["log"]).unwrap(), Restricted::Answer).unwrap();
    let world = TestWorld::shared();
    let mut vm = Vm::new(&plugin, guest.settings.clone(), world.clone()).unwrap();
    let root = vm.start_root(guest.plugin.clone()).unwrap();
    let id = vm.open(root, lacis_host::testing::TestStream::request(&[("a", "b")])).unwrap();
    vm.on_headers(id, Half::Request, 1, true).unwrap();
    assert_eq!(world.borrow_mut().take_lines(), ["10", "10", "7"]);
    assert_eq!(world.borrow().refused, [Limit::Function; 2]);
}

#[test]
fn a_line_that_would_be_dropped_is_refused_all_the_same() {
    let guest = Guest::request("drop(proxy_log(0, \"a\")); drop(proxy_log(2, \"b\"));");
    let plugin = guest.plugin().restricted(&Allow::of(["headers"]).unwrap(), Restricted::Answer).unwrap();
    let world = TestWorld::shared();
    let mut vm = Vm::new(&plugin, guest.settings.clone(), world.clone()).unwrap();
    let root = vm.start_root(guest.plugin.clone()).unwrap();
    let id = vm.open(root, lacis_host::testing::TestStream::request(&[])).unwrap();
    vm.on_headers(id, Half::Request, 0, true).unwrap();
    assert_eq!(world.borrow().refused, [Limit::Function; 2]);
    assert!(world.borrow().lines.is_empty());
}

#[test]
fn bodies_are_hidden_from_who_may_not_see_them() {
    let code = "num(proxy_get_buffer_bytes(0, 0, 9, 16, 20)); num(at(20)); num(proxy_get_buffer_status(0, 16, 20)); num(at(16));";
    for (names, size) in [(&["log", "body"][..], "3"), (&["log"], "0")] {
        let guest = Guest::new().on("proxy_on_request_body", code);
        let plugin = guest.plugin().restricted(&Allow::of(names.iter().copied()).unwrap(), Restricted::Refuse).unwrap();
        let world = TestWorld::shared();
        let mut vm = Vm::new(&plugin, guest.settings.clone(), world.clone()).unwrap();
        let root = vm.start_root(guest.plugin.clone()).unwrap();
        let stream = lacis_host::testing::TestStream::request(&[]);
        stream.borrow_mut().bodies[0] = Some(b"abc".to_vec());
        let id = vm.open(root, stream).unwrap();
        vm.on_body(id, Half::Request, 3, false).unwrap();
        assert_eq!(world.borrow_mut().take_lines(), ["0", size, "0", size]);
    }
}
