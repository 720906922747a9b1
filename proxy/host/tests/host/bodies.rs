//! Bodies and trailers: what a guest sees of them and may change, and what stops and resumes a half.

use lacis_host::abi::{Action, BodyAnswer};
use lacis_host::testing::List;
use lacis_host::{Half, HeadersAction, Limit};

use crate::guest::{Guest, Run};

const HALVES: [(Half, &str, &str, &str); 2] = [
    (Half::Request, "proxy_on_request_headers", "proxy_on_request_body", "proxy_on_request_trailers"),
    (Half::Response, "proxy_on_response_headers", "proxy_on_response_body", "proxy_on_response_trailers"),
];

/// A guest with this in its body callbacks; `BUFFER` is the number of the body.
fn bodies(code: &str) -> Guest {
    let of = |half: Half| code.replace("BUFFER", &(half as u32).to_string());
    Guest::new().on("proxy_on_request_body", &of(Half::Request)).on("proxy_on_response_body", &of(Half::Response))
}

#[test]
fn a_guest_is_shown_each_piece_with_its_size() {
    for (half, ..) in HALVES {
        let mut run = bodies("num(p1); num(p2); num(proxy_get_buffer_bytes(BUFFER, 0, 99, 16, 20)); text();").start();
        assert_eq!(run.head(half), HeadersAction::Continue);
        assert_eq!(run.body(half, "hello", false), BodyAnswer::Continue);
        assert_eq!(run.body(half, "", true), BodyAnswer::Continue);
        assert_eq!(run.lines(), ["5", "0", "0", "hello", "0", "1", "0", ""]);
    }
}

#[test]
fn a_range_of_a_body_is_clamped() {
    for (start, max, seen) in
        [(0, 5, "hello"), (1, 3, "ell"), (4, 9, "o"), (5, 1, ""), (9, 9, ""), (0, 0, ""), (2, -1, "llo"), (-1, -1, "")]
    {
        let mut run = bodies(&format!("num(proxy_get_buffer_bytes(BUFFER, {start}, {max}, 16, 20)); text();")).start();
        run.body(Half::Request, "hello", false);
        assert_eq!(run.lines(), ["0", seen], "{start} {max}");
    }
}

#[test]
fn a_body_is_prepended_appended_and_replaced_as_in_envoy() {
    for (start, length, answer, left) in [
        (0, 0, 0, "NEWhello"),
        (0, 2, 0, "NEWllo"),
        (0, 5, 0, "NEW"),
        (0, -1, 0, "NEW"),
        (5, 0, 0, "helloNEW"),
        (5, 3, 0, "helloNEW"),
        (-1, -1, 0, "helloNEW"),
        (1, 0, 2, "hello"),
        (4, 1, 2, "hello"),
    ] {
        for (half, ..) in HALVES {
            let code = format!(
                "num(proxy_set_buffer_bytes(BUFFER, {start}, {length}, \"NEW\"));
                 num(proxy_get_buffer_status(BUFFER, 16, 20)); num(at(16)); num(at(20));"
            );
            let mut run = bodies(&code).start();
            assert_eq!(run.body(half, "hello", true), BodyAnswer::Continue);
            assert_eq!(run.text(half), left, "{start} {length}");
            assert_eq!(run.lines(), [answer.to_string(), "0".into(), left.len().to_string(), "0".into()]);
        }
    }
}

#[test]
fn answers_to_bodies_are_envoy_s() {
    use BodyAnswer::{Buffer, Continue, Discard, Watermark};
    for (answer, action) in [(0, Continue), (1, Buffer), (2, Watermark), (3, Discard), (4, Discard), (-1, Discard)] {
        for (half, ..) in HALVES {
            let mut run = bodies(&format!("return({answer});")).start();
            assert_eq!(run.body(half, "x", false), action, "{answer}");
        }
    }
}

#[test]
fn a_body_is_reached_only_in_its_callback_and_while_it_is_buffered() {
    let read = "num(proxy_set_effective_context(2)); num(proxy_get_buffer_bytes(0, 0, 9, 16, 20)); num(at(20));
                num(proxy_set_buffer_bytes(0, 0, 0, \"x\"));";
    for (answer, seen) in [(0, "0002"), (1, "0030"), (2, "0002"), (3, "0002")] {
        let mut run = bodies(&format!("return({answer});")).on("proxy_on_tick", read).start();
        run.body(Half::Request, "abc", false);
        run.vm.tick(run.root).unwrap();
        assert_eq!(run.lines().concat(), seen, "{answer}");
    }
    // The other half, the head, and the end have none.
    let guest =
        Guest::request(read).on("proxy_on_response_body", read).on("proxy_on_log", read).on("proxy_on_done", read);
    let mut run = guest.start();
    run.set_body(Half::Request, "abc");
    run.on_request().unwrap();
    run.body(Half::Response, "abc", false);
    run.vm.close(run.id).unwrap();
    assert_eq!(run.lines().concat(), "0002".repeat(4));
}

#[test]
fn a_buffered_body_grows_and_goes_on_with_a_later_piece() {
    let mut run = bodies("num(p1); return(pthread_equal(p2, 0));").start();
    assert_eq!(run.body(Half::Request, "abc", false), BodyAnswer::Buffer);
    assert_eq!(run.body(Half::Request, "abcdef", false), BodyAnswer::Buffer);
    assert_eq!(run.body(Half::Request, "abcdef", true), BodyAnswer::Continue);
    assert_eq!(run.lines(), ["3", "6", "6"]);
    assert!(run.stream.borrow().resumed.is_empty());
}

#[test]
fn every_phase_can_be_paused_and_resumed_once() {
    for (half, head, body, trailers) in HALVES {
        let go = format!("num(proxy_set_effective_context(2)); num(proxy_continue_stream({}));", half as u32);
        for phase in [head, body, trailers] {
            let mut run = Guest::new().on(phase, "return(1);").on("proxy_on_tick", &go.repeat(2)).start();
            let stops = [
                run.head(half) == HeadersAction::Pause,
                run.body(half, "x", false) == BodyAnswer::Buffer,
                run.vm.on_trailers(run.id, half, 1).unwrap() == Action::Pause,
            ];
            assert_eq!(stops, [phase == head, phase == body, phase == trailers], "{phase}");
            if phase == trailers {
                run.vm.tick(run.root).unwrap();
                assert_eq!(run.stream.borrow().resumed, [half], "{phase}");
                assert_eq!(run.lines(), ["0"; 4]);
            }
        }
        for (phase, code) in [(head, "return(1);"), (body, "return(2);"), (body, "return(3);")] {
            let mut run = Guest::new().on(phase, code).on("proxy_on_tick", &go.repeat(2)).start();
            run.head(half);
            if phase == body {
                run.body(half, "x", false);
            }
            run.vm.tick(run.root).unwrap();
            assert_eq!(run.stream.borrow().resumed, [half], "{phase} {code}");
        }
    }
}

#[test]
fn a_resume_within_any_callback_makes_it_continue() {
    for (half, head, body, trailers) in HALVES {
        let code = format!("num(proxy_continue_stream({})); return(1);", half as u32);
        let mut run = Guest::new().on(head, &code).on(body, &code).on(trailers, &code).start();
        assert_eq!(run.head(half), HeadersAction::Continue);
        assert_eq!(run.body(half, "x", false), BodyAnswer::Continue);
        assert_eq!(run.vm.on_trailers(run.id, half, 1).unwrap(), Action::Continue);
        assert!(run.stream.borrow().resumed.is_empty());
    }
}

#[test]
fn a_pause_at_the_headers_can_hold_only_them() {
    for (half, head, body, trailers) in HALVES {
        let map = 2 * (half as u32);
        let change = format!("num(proxy_add_header_map_value({map}, \"x\", \"y\"));");
        let mut guest = Guest::new()
            .on(head, "return(1);")
            .on(body, &format!("{change} return(pthread_equal(p2, 0));"))
            .on(trailers, &change);
        guest.plugin.allow_on_headers_stop_iteration = true;
        let mut run = guest.start();
        assert_eq!(run.head(half), HeadersAction::Hold);
        assert_eq!(run.body(half, "x", false), BodyAnswer::Buffer);
        assert_eq!(run.body(half, "x", true), BodyAnswer::Continue);
        // Gone with the body; it is reached all the same, as in Envoy.
        run.vm.on_trailers(run.id, half, 1).unwrap();
        assert_eq!(run.lines(), ["0", "0", "0"]);
        // By trailers, and by a resume.
        let mut run = guest.start();
        run.head(half);
        assert_eq!(run.vm.on_trailers(run.id, half, 1).unwrap(), Action::Continue);
        assert_eq!(run.lines(), ["0"]);
        // Nothing follows: nothing else can release it.
        assert_eq!(run.vm.on_headers(run.id, half, 1, true).unwrap(), HeadersAction::Pause);
        let mut stop_all = Guest::new().on(head, "return(3);");
        stop_all.plugin = guest.plugin.clone();
        assert_eq!(stop_all.start().head(half), HeadersAction::Pause);
    }
}

fn trailers(run: &Run, half: Half) -> Vec<String> {
    let stream = run.stream.borrow();
    let list = if half == Half::Request { &stream.request_trailers } else { &stream.response_trailers };
    list.as_ref().map_or(Vec::new(), List::text)
}

#[test]
fn trailers_are_read_and_changed_in_their_callback() {
    for (half, _, body, phase) in HALVES {
        let map = 2 * (half as u32) + 1;
        let code = format!(
            "num(p1); num(proxy_get_header_map_value({map}, \"a\", 16, 20)); text();
             num(proxy_replace_header_map_value({map}, \"a\", \"2\")); num(proxy_add_header_map_value({map}, \"b\", \"3\"));
             num(proxy_get_header_map_size({map}, 16)); num(at(16));"
        );
        let read = format!("num(proxy_get_header_map_size({map}, 16));");
        let mut run = Guest::new().on(phase, &code).on(body, &read).on("proxy_on_done", &read).start();
        let list = Some(List::of(&[("a", "1")]));
        match half {
            Half::Request => run.stream.borrow_mut().request_trailers = list,
            Half::Response => run.stream.borrow_mut().response_trailers = list,
        }
        run.body(half, "x", false);
        assert_eq!(run.vm.on_trailers(run.id, half, 1).unwrap(), Action::Continue);
        run.vm.close(run.id).unwrap();
        assert_eq!(run.lines(), ["2", "1", "0", "1", "0", "0", "0", "4", "2"]);
        assert_eq!(trailers(&run, half), ["a: 2", "b: 3"]);
    }
}

#[test]
fn trailers_are_made_at_the_end_of_a_body_that_has_none() {
    for (half, _, body, _) in HALVES {
        let map = 2 * (half as u32) + 1;
        let mut run = Guest::new().on(body, &format!("num(proxy_add_header_map_value({map}, \"a\", \"1\"));")).start();
        run.body(half, "x", false);
        run.body(half, "x", true);
        assert_eq!(run.lines(), ["2", "0"]);
        assert_eq!(trailers(&run, half), ["a: 1"]);
    }
}

#[test]
fn held_trailers_hold_the_body_and_let_it_go_with_them() {
    let read = "num(proxy_get_buffer_status(0, 16, 20)); num(at(16));";
    let mut run = Guest::new()
        .on("proxy_on_request_body", "return(1);")
        .on("proxy_on_request_trailers", &format!("{read} return(1);"))
        .on("proxy_on_tick", &format!("num(proxy_set_effective_context(2)); num(proxy_continue_stream(0)); {read}"))
        .start();
    run.body(Half::Request, "abc", false);
    assert_eq!(run.vm.on_trailers(run.id, Half::Request, 0).unwrap(), Action::Pause);
    run.vm.tick(run.root).unwrap();
    assert_eq!(run.lines(), ["0", "3", "0", "0", "0", "3"]);
    assert_eq!(run.stream.borrow().resumed, [Half::Request]);
}

#[test]
fn a_reply_from_any_phase_ends_its_half() {
    let reply = "num(proxy_send_local_response(403, 0, 0, 0, 0, 0, 0, -1));";
    for (half, head, body, trailers) in HALVES {
        for answer in [0, 1] {
            let code = format!("{reply} return({answer});");
            let mut run = Guest::new().on(head, &code).start();
            assert_eq!(run.head(half), HeadersAction::Pause);
            assert_eq!(run.stream.borrow_mut().reply.take().unwrap().status, 403);
            let mut run = Guest::new().on(body, &code).start();
            assert_eq!(run.body(half, "x", false), BodyAnswer::Discard);
            assert_eq!(run.stream.borrow_mut().reply.take().unwrap().status, 403);
            let mut run = Guest::new().on(trailers, &code).start();
            assert_eq!(run.vm.on_trailers(run.id, half, 1).unwrap(), Action::Pause);
            assert_eq!(run.stream.borrow_mut().reply.take().unwrap().status, 403);
        }
    }
    // From a tick, while the request is held; then it has nowhere to go on to, but its answer passes.
    let code = format!("num(proxy_set_effective_context(2)); {reply} num(proxy_continue_stream(0));");
    let mut run = Guest::new().on("proxy_on_request_body", "return(1);").on("proxy_on_tick", &code).start();
    run.body(Half::Request, "x", true);
    run.vm.tick(run.root).unwrap();
    assert_eq!(run.lines(), ["0"; 3]);
    assert!(run.stream.borrow().reply.is_some() && run.stream.borrow().resumed.is_empty());
    assert_eq!(run.head(Half::Response), HeadersAction::Continue);
}

#[test]
fn a_body_that_a_guest_makes_is_bounded() {
    let grow = "num(proxy_set_buffer_bytes(0, 99, 0, \"12345678\"));";
    let mut guest = bodies(&grow.repeat(2));
    guest.settings.limits.body = 10;
    let mut run = guest.start();
    run.body(Half::Request, "12", false);
    assert_eq!(run.lines(), ["0", "10"]);
    assert_eq!(run.text(Half::Request), "1212345678");
    assert_eq!(run.world.borrow().refused, [Limit::Body]);
    // One that is larger already may be changed, if it does not grow.
    let mut guest = bodies(
        "num(proxy_set_buffer_bytes(0, 0, 8, \"abcdefgh\")); num(proxy_set_buffer_bytes(0, 0, 7, \"abcdefgh\"));",
    );
    guest.settings.limits.body = 10;
    let mut run = guest.start();
    run.body(Half::Request, "1234567890123", false);
    assert_eq!(run.lines(), ["0", "10"]);
    assert_eq!(run.text(Half::Request), "abcdefgh90123");
}

#[test]
fn routes_are_forgotten_on_request() {
    let run = {
        let mut run = Guest::request(
            "num(proxy_clear_route_cache()); num(proxy_call_foreign_function(\"clear_route_cache\", 0, 0, 0, 0));",
        )
        .start();
        run.on_request().unwrap();
        run
    };
    assert_eq!(run.lines(), ["0", "0"]);
    assert_eq!(run.stream.borrow().rerouted, 2);
}

#[test]
fn the_first_version_resumes_by_its_own_calls() {
    let go = "num(proxy_set_effective_context(2)); num(proxy_continue_request()); num(proxy_continue_response());";
    let mut run = bodies("return(1);").on("proxy_on_tick", go).marker("proxy_abi_version_0_1_0").start();
    run.body(Half::Request, "x", false);
    run.body(Half::Response, "x", false);
    run.vm.tick(run.root).unwrap();
    assert_eq!(run.lines(), ["0"; 3]);
    assert_eq!(run.stream.borrow().resumed, [Half::Request, Half::Response]);
}

#[test]
fn a_response_is_still_in_hand_after_its_resume_and_a_request_is_not() {
    // As SDKs' users write it: first resume, then change. What is noted is acted on when the callback has returned.
    for (half, head, ..) in HALVES {
        let map = 2 * (half as u32);
        let write = format!("num(proxy_add_header_map_value({map}, \"x\", \"y\"));");
        let code = format!("num(proxy_set_effective_context(2)); num(proxy_continue_stream({})); {write}", half as u32);
        let mut run = Guest::new().on(head, "return(1);").on("proxy_on_tick", &code).start();
        run.head(half);
        run.vm.tick(run.root).unwrap();
        assert_eq!(run.lines().concat(), if half == Half::Request { "002" } else { "000" });
        assert_eq!(run.stream.borrow().resumed, [half]);
        // In a later callback of that half a request's is not; of a response's nothing comes any more.
        let body = if half == Half::Request { "proxy_on_request_body" } else { "proxy_on_response_body" };
        let mut run = Guest::new().on(head, "return(1);").on("proxy_on_tick", &code).on(body, &write).start();
        run.head(half);
        run.vm.tick(run.root).unwrap();
        run.lines();
        run.body(half, "x", true);
        assert_eq!(run.lines(), [if half == Half::Request { "2" } else { "0" }]);
    }
}

#[test]
fn a_body_is_still_in_hand_after_its_resume() {
    for (half, ..) in HALVES {
        let half_number = half as u32;
        let code = format!(
            "num(proxy_set_effective_context(2)); num(proxy_continue_stream({half_number}));
             num(proxy_set_buffer_bytes({half_number}, 0, 1, \"J\"));"
        );
        // In its own callback, and in another.
        let mut run = bodies(&format!("{code} return(1);")).start();
        run.body(half, "hello", true);
        assert_eq!((run.lines().concat().as_str(), run.text(half).as_str()), ("000", "Jello"));
        let mut run = bodies("return(1);").on("proxy_on_tick", &code).start();
        run.body(half, "hello", true);
        run.vm.tick(run.root).unwrap();
        assert_eq!((run.lines().concat().as_str(), run.text(half).as_str()), ("000", "Jello"));
        assert_eq!(run.stream.borrow().resumed, [half]);
    }
}
