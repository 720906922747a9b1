//! TCP connections.

use lacis_host::Half;
use lacis_host::abi::{Action, Peer};

use crate::guest::Guest;

const DATA: [(Half, &str, u32); 2] =
    [(Half::Request, "proxy_on_downstream_data", 2), (Half::Response, "proxy_on_upstream_data", 3)];

#[test]
fn callbacks_come_in_envoy_s_order() {
    let say = |letter: &str| format!("drop(proxy_log(2, \"{letter}\"));");
    let mut run = Guest::new()
        .on("proxy_on_new_connection", &say("new"))
        .on("proxy_on_downstream_data", &(say("down") + "num(p1); num(p2);"))
        .on("proxy_on_upstream_data", &(say("up") + "num(p1); num(p2);"))
        .on("proxy_on_downstream_connection_close", &(say("closed") + "num(p1);"))
        .on("proxy_on_upstream_connection_close", &(say("upstream") + "num(p1);"))
        .on("proxy_on_log", &say("log"))
        .on("proxy_on_done", &say("done"))
        .on("proxy_on_delete", &say("delete"))
        .connect();
    assert_eq!(run.vm.on_new_connection(run.id).unwrap(), Action::Continue);
    for (half, ..) in DATA {
        run.set_body(half, "abc");
        assert_eq!(run.vm.on_data(run.id, half, half == Half::Response).unwrap(), Action::Continue);
    }
    run.vm.on_connection_close(run.id, Half::Response, Peer::Unknown).unwrap();
    run.vm.on_connection_close(run.id, Half::Request, Peer::Remote).unwrap();
    run.vm.close(run.id).unwrap();
    assert_eq!(run.lines().join(" "), "new down 3 0 up 3 1 upstream 0 closed 2 done log delete");
}

#[test]
fn data_is_read_and_changed() {
    for (half, callback, buffer) in DATA {
        let code = format!(
            "num(proxy_get_buffer_bytes({buffer}, 0, 99, 16, 20)); text();
             num(proxy_set_buffer_bytes({buffer}, 0, 99, \"new\")); num(proxy_get_buffer_bytes(0, 0, 9, 16, 20)); num(at(20));"
        );
        let mut run = Guest::new().on(callback, &code).connect();
        run.set_body(half, "old");
        run.vm.on_data(run.id, half, false).unwrap();
        assert_eq!(run.lines(), ["0", "old", "0", "0", "0"]);
        assert_eq!(run.text(half), "new");
    }
}

#[test]
fn data_from_the_client_is_paused_and_resumed() {
    let go = "num(proxy_set_effective_context(3)); num(proxy_continue_stream(0)); num(proxy_continue_stream(2));
              num(proxy_continue_stream(2)); num(proxy_continue_stream(3));";
    for answer in [1, 2, -1] {
        let code = format!("return({answer});");
        let guest = Guest::new()
            .on("proxy_on_new_connection", &code)
            .on("proxy_on_downstream_data", &code)
            .on("proxy_on_upstream_data", &code)
            .on("proxy_on_tick", go);
        let mut run = guest.connect();
        assert_eq!(run.vm.on_new_connection(run.id).unwrap(), Action::Pause);
        run.vm.tick(run.root).unwrap();
        run.set_body(Half::Request, "abc");
        assert_eq!(run.vm.on_data(run.id, Half::Request, false).unwrap(), Action::Pause);
        run.vm.tick(run.root).unwrap();
        run.set_body(Half::Response, "abc");
        assert_eq!(run.vm.on_data(run.id, Half::Response, false).unwrap(), Action::Pause);
        run.vm.tick(run.root).unwrap();
        assert_eq!(run.lines(), ["0", "0", "0", "0", "12"].repeat(3));
        assert_eq!(run.stream.borrow().resumed, [Half::Request; 2]);
    }
}

#[test]
fn each_side_can_be_closed_and_nothing_can_be_answered() {
    let code = "num(proxy_close_stream(0)); num(proxy_close_stream(1)); num(proxy_close_stream(2)); num(proxy_close_stream(3));
                num(proxy_close_stream(4)); num(proxy_send_local_response(403, 0, 0, 0, 0, 0, 0, -1));";
    let mut run = Guest::new().on("proxy_on_new_connection", code).connect();
    assert_eq!(run.vm.on_new_connection(run.id).unwrap(), Action::Continue);
    assert_eq!(run.lines(), ["0", "0", "0", "0", "2", "0"]);
    let stream = run.stream.borrow();
    assert_eq!(stream.closed_sides, [Half::Request, Half::Response]);
    assert!(!stream.closed && stream.reply.is_none());
}

#[test]
fn an_exchange_has_no_sides_of_a_connection() {
    let mut run =
        Guest::request("num(proxy_close_stream(2)); num(proxy_close_stream(3)); num(proxy_close_stream(0));").start();
    run.on_request().unwrap();
    assert_eq!(run.lines(), ["0"; 3]);
    assert!(run.stream.borrow().closed && run.stream.borrow().closed_sides.is_empty());
}
