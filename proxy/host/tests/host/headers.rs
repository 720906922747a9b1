//! Header maps: what each call does and answers, and where a map can be reached.

use std::time::Duration;

use lacis_host::abi::MAX_PAIRS;
use lacis_host::testing::List;
use lacis_host::{HeadersAction as Action, Limit};

use crate::guest::{Guest, REQUEST};

/// Reads `x-user` of the request head and logs the status and the value.
const READ: &str = "put(20, 0); num(proxy_get_header_map_value(0, \"x-user\", 16, 20)); text();";
/// Reads `:status` of the response head.
const READ_STATUS: &str = "put(20, 0); num(proxy_get_header_map_value(2, \":status\", 16, 20)); text();";
/// Adds `x: y` to the request head and logs the status.
const ADD: &str = "num(proxy_add_header_map_value(0, \"x\", \"y\"));";

#[test]
fn a_value_is_the_first_of_its_name_and_the_name_ignores_case() {
    assert_eq!(Guest::request(READ).lines(), ["0", "one"]);
    assert_eq!(Guest::request(&READ.replace("x-user", "X-USER")).lines(), ["0", "one"]);
    // An empty value is there; a missing one is not.
    assert_eq!(Guest::request(&READ.replace("x-user", "x-empty")).lines(), ["0", ""]);
    assert_eq!(Guest::request(&READ.replace("x-user", "x-none")).lines(), ["1", ""]);
}

#[test]
fn a_missing_value_is_empty_in_the_first_version() {
    let guest = Guest::request(&READ.replace("x-user", "x-none")).marker("proxy_abi_version_0_1_0");
    assert_eq!(guest.lines(), ["0", ""]);
}

#[test]
fn lines_are_added_replaced_and_removed() {
    let mut run = Guest::request(
        "num(proxy_add_header_map_value(0, \"X-New\", \"a\"));
         num(proxy_replace_header_map_value(0, \"x-user\", \"three\"));
         num(proxy_remove_header_map_value(0, \"X-EMPTY\"));
         num(proxy_remove_header_map_value(0, \"x-none\"));
         num(proxy_replace_header_map_value(0, \":path\", \"/new\"));",
    )
    .start();
    assert_eq!(run.on_request().unwrap(), Action::Continue);
    assert_eq!(run.lines(), ["0"; 5]);
    assert_eq!(
        run.stream.borrow().request.text(),
        [":authority: delta", ":path: /new", ":method: GET", "x-user: three", "x-new: a"]
    );
}

#[test]
fn the_size_of_a_map_is_its_bytes() {
    let size: usize = REQUEST.iter().map(|(name, value)| name.len() + value.len()).sum();
    let lines = Guest::request("num(proxy_get_header_map_size(0, 16)); num(at(16));").lines();
    assert_eq!(lines, ["0".to_owned(), size.to_string()]);
}

#[test]
fn a_map_that_is_read_can_be_set() {
    let mut run = Guest::request(
        "num(proxy_add_header_map_value(0, \"b\", \"\"));
         num(proxy_get_header_map_pairs(0, 16, 20));
         num(proxy_remove_header_map_value(0, \"b\"));
         num(proxy_set_header_map_pairs(0, at(16), at(20)));",
    )
    .start();
    run.on_request().unwrap();
    assert_eq!(run.lines(), ["0"; 4]);
    let mut expected: Vec<String> = REQUEST.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    expected.push("b: ".into());
    assert_eq!(run.stream.borrow().request.text(), expected);
}

#[test]
fn names_in_a_map_that_is_set_become_lower_case() {
    // One pair: lengths 3 and 1, then "ABC\0" and "V\0" as little-endian numbers.
    let mut run = Guest::request(
        "put(1024, 1); put(1028, 3); put(1032, 1); put(1036, 4407873); put(1040, 86);
         num(proxy_set_header_map_pairs(0, 1024, 18));",
    )
    .start();
    run.on_request().unwrap();
    assert_eq!(run.lines(), ["0"]);
    assert_eq!(run.stream.borrow().request.text(), ["abc: V"]);
}

#[test]
fn a_malformed_map_empties_the_head() {
    for code in ["proxy_set_header_map_pairs(0, \"junk!\")", "proxy_set_header_map_pairs(0, 0, 0)"] {
        let mut run =
            Guest::request(&format!("num({code}); num(proxy_get_header_map_pairs(0, 16, 20)); num(at(20));")).start();
        run.on_request().unwrap();
        assert_eq!(run.lines(), ["0", "0", "0"]);
        assert!(run.stream.borrow().request.0.is_empty());
    }
}

/// Nobody would be told that it is missing: least of all who gets an answer without its fields.
#[test]
fn a_map_over_the_limits_is_refused() {
    // Names and values without a byte, each with its NUL.
    let size = |pairs: usize| 4 + 10 * pairs;
    for call in [
        "proxy_set_header_map_pairs(0, 65536, SIZE)",
        "proxy_send_local_response(200, 0, 0, 0, 0, 65536, SIZE, -1)",
        "proxy_grpc_stream(\"up\", \"s\", \"m\", 65536, SIZE, 16)",
    ] {
        let run = |pairs: usize| {
            let call = call.replace("SIZE", &size(pairs).to_string());
            let mut run = Guest::request(&format!("put(65536, {pairs}); num({call});")).start();
            run.world.borrow_mut().upstreams.push("up".into());
            run.on_request().unwrap();
            run
        };
        let run = (run(MAX_PAIRS), run(MAX_PAIRS + 1));
        assert_eq!((run.0.lines(), run.1.lines()), (vec!["0".to_owned()], vec!["10".to_owned()]), "{call}");
        assert!(run.0.world.borrow().refused.is_empty());
        assert_eq!(run.1.world.borrow().refused, [Limit::Headers]);
        assert_eq!(run.1.stream.borrow().request, List::of(REQUEST));
        assert!(run.1.stream.borrow().reply.is_none() && run.1.world.borrow().calls.is_empty());
    }
}

#[test]
fn an_unknown_map_is_a_bad_argument() {
    for call in [
        "proxy_get_header_map_value(8, \"x\", 16, 20)",
        "proxy_get_header_map_pairs(8, 16, 20)",
        "proxy_get_header_map_size(-1, 16)",
        "proxy_set_header_map_pairs(9, 0, 0)",
        "proxy_add_header_map_value(8, \"x\", \"y\")",
        "proxy_replace_header_map_value(8, \"x\", \"y\")",
        "proxy_remove_header_map_value(8, \"x\")",
    ] {
        assert_eq!(Guest::request(&format!("num({call});")).lines(), ["2"], "{call}");
    }
}

#[test]
fn a_map_that_is_not_there_reads_as_empty_and_cannot_be_written() {
    // Response head, trailers and call-out maps, in a request callback.
    for map in [1, 2, 3, 4, 5, 6, 7] {
        let lines = Guest::request(&format!(
            "put(20, 9); num(proxy_get_header_map_pairs({map}, 16, 20)); num(at(20));
             num(proxy_get_header_map_value({map}, \"x\", 16, 20));
             num(proxy_get_header_map_size({map}, 16));
             num(proxy_set_header_map_pairs({map}, 0, 0));
             num(proxy_add_header_map_value({map}, \"x\", \"y\"));
             num(proxy_replace_header_map_value({map}, \"x\", \"y\"));
             num(proxy_remove_header_map_value({map}, \"x\"));"
        ))
        .lines();
        assert_eq!(lines, ["0", "0", "2", "2", "2", "2", "2", "2"], "map {map}");
    }
}

#[test]
fn the_request_head_is_gone_once_it_went_on() {
    let guest = Guest::new().on("proxy_on_request_headers", READ).on("proxy_on_response_headers", READ);
    assert_eq!(guest.lines(), ["0", "one", "2", ""]);
    let guest = Guest::new().on("proxy_on_response_headers", &format!("{READ_STATUS} {ADD}"));
    assert_eq!(guest.lines(), ["0", "200", "2"]);
}

#[test]
fn the_log_phase_reads_both_heads_and_writes_none() {
    let code = format!(
        "{READ} {READ_STATUS} {ADD} num(proxy_get_header_map_value(0, \"x-none\", 16, 20));
         num(proxy_get_header_map_value(1, \"x\", 16, 20)); num(proxy_get_header_map_size(0, 16));
         num(proxy_get_header_map_pairs(2, 16, 20)); num(at(at(16)));"
    );
    let lines = Guest::new().on("proxy_on_log", &code).lines();
    assert_eq!(lines, ["0", "one", "0", "200", "2", "1", "1", "2", "0", "2"]);
}

#[test]
fn the_last_phases_and_root_contexts_have_no_heads() {
    let guest = Guest::new().on("proxy_on_done", READ).on("proxy_on_delete", READ);
    assert_eq!(guest.lines(), ["2", "", "2", ""]);
    let mut run = Guest::new().on("proxy_on_tick", &format!("{READ} {ADD}")).start();
    run.vm.tick(run.root).unwrap();
    assert_eq!(run.lines(), ["2", "", "2"]);
}

#[test]
fn a_held_head_can_be_changed_from_a_tick() {
    let mut run = Guest::request("return(1);")
        .on("proxy_on_tick", &format!("num(proxy_set_effective_context(2)); {READ} {ADD}"))
        .start();
    assert_eq!(run.on_request().unwrap(), Action::Pause);
    run.vm.tick(run.root).unwrap();
    assert_eq!(run.lines(), ["0", "0", "one", "0"]);
    assert_eq!(run.stream.borrow().request.text().last().unwrap(), "x: y");
}

#[test]
fn context_0_is_the_one_that_was_called() {
    let code = format!("num(proxy_set_effective_context(1)); {READ} num(proxy_set_effective_context(0)); {READ}");
    let mut run = Guest::request(&code).start();
    run.on_request().unwrap();
    let lines = run.lines();
    let (root, own) = lines.split_at(lines.len() / 2);
    assert_eq!((root[0].as_str(), own[0].as_str()), ("0", "0"));
    assert_ne!(root[1..], own[1..], "{lines:?}");
    assert_eq!(own[1], "0", "the request can be read again");
}

#[test]
fn what_a_filter_may_write_is_bounded() {
    // 1 MiB of zeros is below the limit four times, less what each line costs.
    let add = "num(proxy_add_header_map_value(0, \"x\", 65536, 1048000));";
    let mut guest = Guest::request(&format!("drop(grow(32)); {}", add.repeat(6)));
    // Megabytes are copied, which takes its time on a busy machine.
    guest.settings.time = Duration::from_secs(10);
    assert_eq!(guest.lines(), ["0", "0", "0", "0", "10", "10"]);
}
