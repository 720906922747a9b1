//! Callbacks that share an entry: nothing tells a guest, or its embedder, that they do.

use std::fmt::Debug;
use std::time::Duration;

use lacis_host::abi::BodyAnswer;
use lacis_host::testing::{List, TestStream, TestWorld};
use lacis_host::{Cause, ContextId, Half, HeadersAction, Plugin, Responded, RootId, Trap, Vm, limits};

use crate::guest::{Guest, REQUEST, RESPONSE};

/// More than begin in one entry.
const CONTEXTS: usize = Vm::MOST_BEGIN + 2;

/// The number of the first context: there are so many root contexts before it, of which the contexts have one each in this order.
const FIRST: u32 = 4;
const ROOTS: [usize; CONTEXTS] = [2, 0, 1, 1, 0, 2, 0, 0, 1, 2];

/// How many contexts each exchange has that ends, one after the other: fewer exchanges than end in one entry, of which the
/// second has the second context; and more.
const ENDS: [&[u32]; 2] = [&[1, 3, CONTEXTS as u32 - 4], &[1; CONTEXTS]];

/// The callbacks of a stream that are there, whatever a guest does in them: only then are they entered together.
const ALL: [&str; 7] = [
    "proxy_on_context_create",
    "proxy_on_request_headers",
    "proxy_on_response_headers",
    "proxy_on_response_body",
    "proxy_on_log",
    "proxy_on_done",
    "proxy_on_delete",
];

/// Shows something to all contexts, as many at once as there may be: `show` has the number of the first of those that are left.
/// What each has answered.
fn pass<T: Copy + Debug + PartialEq>(
    what: &str,
    seen: &mut Vec<String>,
    go_on: T,
    mut show: impl FnMut(usize) -> Result<(u32, T), (u32, Trap)>,
) -> Result<(), Trap> {
    let mut shown = 0;
    while shown < CONTEXTS {
        let (index, answer) = match show(shown) {
            Ok((index, answer)) => (index as usize, Ok(answer)),
            Err((index, trap)) => (index as usize, Err(trap)),
        };
        (shown..shown + index).for_each(|passed| seen.push(format!("{what} {passed} {go_on:?}")));
        shown += index + 1;
        seen.push(format!("{what} {} {:?}", shown - 1, answer?));
    }
    Ok(())
}

/// How callbacks are entered that follow each other, and what the response's content is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Entry {
    Each,
    EachWhole,
    Together,
    /// Head and content of the response in one.
    Whole,
}

/// Exchanges' contexts of one stream, from their making to their end, where so many each end at once: what is seen of it from
/// outside.
fn run(guest: &Guest, plugin: &Plugin, ends: &[u32], entry: Entry) -> Vec<String> {
    let together = matches!(entry, Entry::Together | Entry::Whole);
    let pieces = match entry {
        Entry::Each | Entry::Together => &[("content", false), ("", true)][..],
        Entry::EachWhole | Entry::Whole => &[("content", true)],
    };
    let mut seen = Vec::new();
    let world = TestWorld::shared();
    let mut vm = Vm::new(plugin, guest.settings.clone(), world.clone()).unwrap();
    let roots: Vec<RootId> = (1..FIRST).map(|_| vm.start_root(guest.plugin.clone()).unwrap()).collect();
    let stream = TestStream::request(REQUEST);
    let lines = |half: Half| match half {
        Half::Request => stream.borrow().request.0.len() as u32,
        Half::Response => stream.borrow().response.as_ref().map_or(0, |head| head.0.len() as u32),
    };
    let walk = |vm: &mut Vm, seen: &mut Vec<String>| -> Result<(), Trap> {
        let mut ids: Vec<ContextId> = Vec::new();
        if together {
            for root in ROOTS {
                ids.push(vm.admit(roots[root], stream.clone())?);
            }
        }
        pass("request of", seen, HeadersAction::Continue, |at| {
            let (lines, end) = (lines(Half::Request), false);
            if together {
                return vm.begin(ids[at], (CONTEXTS - at) as u32, lines, end);
            }
            let id = vm.open(roots[ROOTS[at]], stream.clone()).map_err(|trap| (0, trap))?;
            ids.push(id);
            vm.on_headers(id, Half::Request, lines, end).map(|action| (0, action)).map_err(|trap| (0, trap))
        })?;
        seen.push(format!("{:?}", stream.borrow().request.text()));
        stream.borrow_mut().response = Some(List::of(RESPONSE));
        ids.reverse();
        let (mut head, mut body) = (None, None);
        if entry == Entry::Whole {
            let size = pieces[0].0.len();
            stream.borrow_mut().bodies[Half::Response as usize] = Some(pieces[0].0.into());
            match vm.on_response(ids[0], CONTEXTS as u32, lines(Half::Response), size) {
                Responded::Head(shown) => head = Some(shown),
                Responded::Body(shown) => {
                    head = Some(Ok((CONTEXTS as u32 - 1, HeadersAction::Continue)));
                    body = Some(shown);
                }
            }
        }
        pass("response of", seen, HeadersAction::Continue, |at| {
            if let Some(shown) = head.take() {
                return shown;
            }
            let lines = lines(Half::Response);
            match together {
                true => vm.on_response_heads(ids[at], (CONTEXTS - at) as u32, lines, false),
                false => vm.on_headers(ids[at], Half::Response, lines, false).map(|a| (0, a)).map_err(|trap| (0, trap)),
            }
        })?;
        seen.push(format!("{:?}", stream.borrow().response.as_ref().map(List::text)));
        for (bytes, end) in pieces.iter().copied() {
            if body.is_none() {
                stream.borrow_mut().bodies[Half::Response as usize] = Some(bytes.into());
            }
            pass("body of", seen, BodyAnswer::Continue, |at| match body.take() {
                Some(shown) => shown,
                None if together => vm.on_bodies(ids[at], (CONTEXTS - at) as u32, bytes.len(), end),
                None => {
                    let shown = vm.on_body(ids[at], Half::Response, bytes.len(), end);
                    shown.map(|answer| (0, answer)).map_err(|trap| (0, trap))
                }
            })?;
            seen.push(format!("{:?}", stream.borrow().bodies[Half::Response as usize]));
        }
        ids.reverse();
        let (mut exchanges, mut first) = (Vec::new(), 0);
        for count in ends {
            exchanges.push((ids[first], *count));
            first += *count as usize;
        }
        if together {
            vm.end(&exchanges).map_err(|(id, trap)| {
                seen.push(format!("{id:?}"));
                trap
            })?;
        } else {
            for (first, count) in exchanges {
                for close in [false, true] {
                    for id in (0..count).filter_map(|index| first.after(index)) {
                        let ended = if close { vm.close(id) } else { vm.log(id) };
                        ended.inspect_err(|_| seen.push(format!("{id:?}")))?;
                    }
                }
            }
        }
        Ok(())
    };
    let walked = walk(&mut vm, &mut seen).map_err(|trap| (trap.callback, trap.cause));
    let TestStream { reply, closed, rerouted, properties, .. } = &*stream.borrow();
    seen.push(format!("{walked:?}, {} contexts", vm.contexts()));
    seen.push(format!("{reply:?} {closed} {rerouted} {properties:?} {:?}", world.borrow().calls));
    seen.extend(world.borrow_mut().take_lines());
    seen
}

/// A guest that has all of these callbacks, some of them with code, and what it does the same in either way.
fn same(code: &[(&str, &str)], items: &str) -> Vec<String> {
    let mut guest = Guest::new().items(items);
    for name in ALL {
        guest = guest.on(name, "");
    }
    for (name, code) in code {
        guest = guest.on(name, code);
    }
    alike(&guest, &format!("{code:?}"))
}

/// What a guest does the same however it is entered.
fn alike(guest: &Guest, what: &str) -> Vec<String> {
    let plugin = guest.plugin();
    let whole = |entry| run(guest, &plugin, ENDS[0], entry);
    assert_eq!(whole(Entry::Whole), whole(Entry::EachWhole), "{what}");
    let [apart, _] = ENDS.map(|ends| {
        let apart = run(guest, &plugin, ends, Entry::Each);
        assert_eq!(run(guest, &plugin, ends, Entry::Together), apart, "{what}");
        apart
    });
    apart
}

/// Stores in its cell at 4 whether the number in that at 0 is 5, the second context's.
const SECOND: &str = "(func $bad (i32.store (i32.const 4) (i32.eq (i32.load (i32.const 0)) (i32.const 5))))";
/// Traps in the second context.
const TRAPS: &str = "(func $bad (if (i32.eq (i32.load (i32.const 0)) (i32.const 5)) (then unreachable)))";

#[test]
fn what_callbacks_do_is_the_same_in_one_entry() {
    assert!(same(&[], "").iter().any(|line| line == "Ok(()), 3 contexts"));
    let say = |letter: &str| format!("drop(proxy_log(2, \"{letter}\")); num(p0);");
    let codes: Vec<String> = ALL.iter().map(|name| say(name)).collect();
    let all: Vec<(&str, &str)> = ALL.iter().copied().zip(codes.iter().map(String::as_str)).collect();
    let lines = same(&all, "");
    assert!(lines.join(" ").ends_with("proxy_on_done 13 proxy_on_delete 13"), "{lines:?}");

    let reads = "num(proxy_get_header_map_value(0, \"x-user\", 16, 20)); num(proxy_get_header_map_size(0, 16));";
    let other = "num(proxy_set_effective_context(1));";
    let reply = "num(proxy_send_local_response(403, \"why\", \"no\", \"\", -1));";
    let body = "num(proxy_get_buffer_status(1, 16, 20)); num(at(16)); num(proxy_set_buffer_bytes(1, 0, 0, \"+\"));";
    for name in ALL {
        for code in [reads, reply, body, &format!("{other} {reads}"), "num(proxy_done());"] {
            same(&[(name, code)], "");
        }
    }
    // Of one that is made later nobody knows.
    let lines = same(&[(ALL[0], "num(proxy_set_effective_context(6));")], "");
    assert_eq!(lines.iter().filter(|line| *line == "0").count(), CONTEXTS - 2);
    // What one callback did is not to be seen in the next.
    let [create, request, response, shown, log, done, delete] = ALL;
    for (first, next) in
        [(create, request), (request, create), (response, shown), (shown, log), (log, done), (done, delete)]
    {
        for code in ["", reply, other] {
            same(&[(first, code), (next, &format!("{reads} {body}"))], "");
        }
    }
}

#[test]
fn what_the_guest_itself_calls_like_ours_is_never_called() {
    const FORGED: &str = r#"
        (global (export "lacis_step") (mut i32) (i32.const 0)) (global (export "lacis_stop") (mut i32) (i32.const 0))
        (global (export "lacis_lines") (mut i32) (i32.const 0))
        (func (export "lacis_response_headers") (param i32 i32 i32 i32) (result i64) unreachable)
        (func (export "lacis_begin") (param i32 i32 i32 i32) (result i32) unreachable)
        (func (export "lacis_end") (param i32 i32) unreachable)
        (func (export "lacis_response_body") (param i32 i32 i32 i32) (result i32) unreachable)"#;
    let codes: Vec<String> = ALL.iter().map(|name| format!("drop(proxy_log(2, \"{name}\")); num(p0);")).collect();
    let all: Vec<(&str, &str)> = ALL.iter().copied().zip(codes.iter().map(String::as_str)).collect();
    let lines = same(&all, FORGED);
    assert_eq!(lines, same(&all, ""));
    assert!(lines.join(" ").ends_with("proxy_on_done 13 proxy_on_delete 13"), "{lines:?}");
}

#[test]
fn an_answer_of_one_in_the_middle_ends_what_all_are_shown() {
    let second = "put(0, p0); bad();";
    for answer in ["return(at(4));", "num(p1); return(at(4));", "drop(proxy_continue_stream(1)); return(at(4));"] {
        let lines = same(&[("proxy_on_response_body", &format!("{second} {answer}"))], SECOND);
        assert!(lines.iter().any(|line| line.starts_with("body of 8")), "{lines:?}");
    }
    // The content that is all there, once for all: the second lets it go on after it has stopped it.
    for code in
        ["put(0, p0); bad(); return(at(4));", "num(p2); num(p1);", "num(proxy_set_buffer_bytes(1, 0, 3, \"more\"));"]
    {
        same(&[("proxy_on_response_headers", "num(p0);"), ("proxy_on_response_body", code)], SECOND);
    }
    for name in &ALL[1..3] {
        let lines = same(&[(name, &format!("{second} return(at(4));"))], SECOND);
        assert_eq!(lines.iter().filter(|line| line.ends_with("of 1 Pause") || line.ends_with("of 8 Pause")).count(), 1);
        same(&[(name, &format!("{second} num(p1); return(at(4));"))], SECOND);
    }
}

#[test]
fn each_is_told_how_many_lines_there_are() {
    for (map, name) in [0, 2].into_iter().zip(&ALL[1..3]) {
        for edit in [
            "num(proxy_add_header_map_value({map}, \"x-more\", \"1\"));",
            "num(proxy_replace_header_map_value({map}, \"x-same\", \"1\"));",
            "num(proxy_remove_header_map_value({map}, \"x-user\"));",
            "num(proxy_set_header_map_pairs({map}, \"\\0\\0\\0\\0\"));",
            "num(proxy_add_header_map_value({map}, \"broken\", \"1\"));",
            "put(0, p0); bad(); num(proxy_replace_header_map_value({map}, \"x-other\", \"1\")); return(at(4));",
            "num(proxy_set_effective_context(5)); num(proxy_add_header_map_value({map}, \"x-more\", \"1\"));",
        ] {
            let edit = edit.replace("{map}", &map.to_string());
            let lines = same(&[(name, &format!("num(p1); num(p2); {edit} num(p1);"))], SECOND);
            if edit.contains("x-more") && !edit.contains("effective") {
                let most = if map == 0 { REQUEST.len() } else { RESPONSE.len() } + CONTEXTS - 1;
                assert!(lines.contains(&most.to_string()), "{lines:?}");
            }
        }
    }
}

#[test]
fn what_others_must_see_ends_what_all_are_shown() {
    let plain = [
        "drop(proxy_log(2, \"line\"));",
        "num(proxy_get_header_map_value(0, \"x-user\", 16, 20));",
        "num(proxy_add_header_map_value(0, \"x-more\", \"1\"));",
        "num(proxy_get_property(\"a\", 16, 20)); num(proxy_set_property(\"a\", \"b\"));",
        "num(proxy_set_shared_data(\"a\", \"b\", 0)); num(proxy_define_metric(0, \"m\", 16));",
        "num(proxy_get_current_time_nanoseconds(16));",
    ];
    let last = [
        "num(proxy_send_local_response(403, \"why\", \"no\", \"\", -1));",
        "num(proxy_close_stream(0));",
        "num(proxy_continue_stream(0));",
        "num(proxy_clear_route_cache());",
        "num(proxy_set_effective_context(1));",
        "num(proxy_done());",
        "num(proxy_http_call(\"users\", \"\", \"\", \"\", 100, 16));",
        "num(proxy_call_foreign_function(\"reverse\", \"a\", 16, 20));",
        "num(proxy_add_header_map_value(0, \"broken\", \"1\"));",
    ];
    for (code, to) in plain.into_iter().map(|code| (code, 2)).chain(last.into_iter().map(|code| (code, 0))) {
        let mut guest = Guest::new();
        for name in ALL {
            guest = guest.on(name, "");
        }
        let guest = guest.on(ALL[1], code);
        let mut vm = guest.vm(&TestWorld::shared()).unwrap();
        let root = vm.start_root(guest.plugin.clone()).unwrap();
        let stream = TestStream::request(REQUEST);
        let ids: Vec<ContextId> = (0..3).map(|_| vm.admit(root, stream.clone()).unwrap()).collect();
        assert_eq!(vm.begin(ids[0], 3, REQUEST.len() as u32, true).unwrap().0, to, "{code}");
        // The others are as if they had never been.
        ids[to as usize + 1..].iter().rev().for_each(|id| vm.dismiss(*id));
        assert_eq!(vm.contexts(), 2 + to as usize, "{code}");
        let again = vm.admit(root, stream).unwrap();
        assert_eq!(Some(again), ids[0].after(to + 1));
        same(&[(ALL[1], code)], "");
    }
}

#[test]
fn content_follows_a_head_in_its_entry_where_nothing_is_to_be_done_before() {
    use HeadersAction::{Continue, Pause};
    let shown = |code: &[(&str, &str)], count: u32| {
        let mut guest = Guest::new().items(SECOND);
        for name in ALL {
            guest = guest.on(name, "");
        }
        for (name, code) in code {
            guest = guest.on(name, code);
        }
        let mut vm = guest.vm(&TestWorld::shared()).unwrap();
        let roots: Vec<RootId> = (1..FIRST).map(|_| vm.start_root(guest.plugin.clone()).unwrap()).collect();
        let stream = TestStream::request(REQUEST);
        stream.borrow_mut().response = Some(List::of(RESPONSE));
        stream.borrow_mut().bodies[Half::Response as usize] = Some("content".into());
        let ids: Vec<ContextId> = (0..count).map(|_| vm.admit(roots[0], stream.clone()).unwrap()).collect();
        assert_eq!(vm.begin(ids[0], count, REQUEST.len() as u32, true).unwrap().0, count - 1);
        let shown = vm.on_response(*ids.last().unwrap(), count, RESPONSE.len() as u32, 7);
        assert_eq!(vm.is_dead(), matches!(&shown, Responded::Head(Err(_)) | Responded::Body(Err(_))));
        match shown {
            Responded::Head(shown) => format!("head {:?}", shown.map_err(|(at, trap)| (at, trap.callback))),
            Responded::Body(shown) => format!("body {:?}", shown.map_err(|(at, trap)| (at, trap.callback))),
        }
    };
    let [_, _, head, body, ..] = ALL;
    for count in 1..4 {
        let all = format!("body Ok(({}, Continue))", count - 1);
        for code in ["", "drop(proxy_log(2, \"line\"));", "num(proxy_add_header_map_value(2, \"x-more\", \"1\"));"] {
            assert_eq!(shown(&[(head, code)], count), all, "{code}");
        }
        for code in [
            "num(proxy_send_local_response(403, \"why\", \"no\", \"\", -1));",
            "num(proxy_close_stream(1));",
            "num(proxy_set_effective_context(1));",
            "num(proxy_add_header_map_value(2, \"broken\", \"1\"));",
        ] {
            let action = if code.contains("local") { Pause } else { Continue };
            let first = format!("head Ok((0, {action:?}))");
            assert_eq!(shown(&[(head, code)], count), first, "{code}");
        }
        assert_eq!(shown(&[(head, "return(1);")], count), "head Ok((0, Pause))");
        assert_eq!(shown(&[(head, "trap();")], count), format!("head Err((0, {head:?}))"));
        // What it does to content, those who come next are to be shown.
        for code in ["num(proxy_get_buffer_status(1, 16, 20));", "num(proxy_set_buffer_bytes(1, 0, 3, \"more\"));"] {
            assert_eq!(shown(&[(body, code)], count), "body Ok((0, Continue))", "{code}");
        }
        assert_eq!(shown(&[(body, "return(1);")], count), "body Ok((0, Buffer))");
        let reply = "num(proxy_send_local_response(403, \"why\", \"no\", \"\", -1));";
        assert_eq!(shown(&[(body, reply)], count), "body Ok((0, Discard))");
        assert_eq!(shown(&[(body, "trap();")], count), format!("body Err((0, {body:?}))"));
    }
    // In the middle: of three, whose numbers are 4 to 6, the second.
    let second = "put(0, p0); bad(); return(at(4));";
    assert_eq!(shown(&[(head, second)], 3), "head Ok((1, Pause))");
    assert_eq!(shown(&[(body, second)], 3), "body Ok((1, Buffer))");
}

#[test]
fn of_an_old_module_the_callbacks_for_heads_have_no_end() {
    let mut guest = Guest::new().marker("proxy_abi_version_0_1_0");
    for name in ALL {
        guest = guest.on(name, "num(p0);");
    }
    let guest = guest.on(ALL[1], "num(p1);").on(ALL[2], "num(p1);");
    alike(&guest, "");
}

#[test]
fn imports_that_are_not_only_called_are_found() {
    // By a table, by a reference, and by an export.
    let items = r#"
        (type $log (func (param i32 i32 i32) (result i32)))
        (table $t 3 funcref) (elem (table $t) (i32.const 0) func $proxy_log $num)
        (global $g funcref (ref.func $proxy_log)) (elem declare func $proxy_log) (export "again" (func $proxy_log))
        (func $bad
            (table.set $t (i32.const 2) (ref.func $proxy_log))
            (drop (call_indirect $t (type $log) (i32.const 2) (i32.const 4096) (i32.const 3) (i32.const 0)))
            (table.set $t (i32.const 2) (global.get $g))
            (drop (call_indirect $t (type $log) (i32.const 2) (i32.const 4096) (i32.const 3) (i32.const 2))))"#;
    let codes: Vec<String> = ALL.iter().map(|_| "drop(proxy_log(0, \"abc\")); bad(); num(p0);".to_owned()).collect();
    let all: Vec<(&str, &str)> = ALL.iter().copied().zip(codes.iter().map(String::as_str)).collect();
    let lines = same(&all, items);
    assert!(lines.iter().filter(|line| *line == "abc").count() >= 2 * ALL.len() * CONTEXTS, "{lines:?}");
}

#[test]
fn a_trap_is_that_of_its_callback() {
    for name in ALL {
        for code in ["put(0, p0); bad();", "put(0, p0); num(p0); bad();", "put(0, p0); bad(); num(p0);"] {
            let lines = same(&[(name, code)], TRAPS);
            assert!(lines.iter().any(|line| line.contains(&format!("Err((\"{name}\", Guest("))), "{name}: {lines:?}");
        }
    }
}

#[test]
fn each_callback_has_its_time() {
    let mut guest = Guest::new().on("proxy_on_context_create", "").on("proxy_on_request_headers", "forever();");
    guest.settings.time = limits::MIN_TIME;
    let mut vm = guest.vm(&TestWorld::shared()).unwrap();
    let root = vm.start_root(guest.plugin.clone()).unwrap();
    let id = vm.admit(root, TestStream::request(REQUEST)).unwrap();
    let begin = std::time::Instant::now();
    let (_, trap) = vm.begin(id, 1, 1, true).unwrap_err();
    assert_eq!((trap.callback, trap.cause), ("proxy_on_request_headers", Cause::Timeout(limits::MIN_TIME)));
    assert!(begin.elapsed() >= limits::MIN_TIME);

    // A loop of so many steps takes more than half of its time, in each of these callbacks.
    let busy = "(func $bad (local $i i32) (loop $l
        (local.set $i (i32.add (local.get $i) (i32.const 1))) (br_if $l (i32.ne (local.get $i) (i32.load (i32.const 0))))))";
    let mut guest = Guest::new().items(busy);
    for name in ALL {
        guest = guest.on(name, "");
    }
    for name in ["proxy_on_done", "proxy_on_delete"] {
        guest = guest.on(name, "put(0, 10000000); bad();");
    }
    let plugin = guest.plugin();
    // How long that is here.
    guest.settings.time = Duration::from_secs(60);
    let begin = std::time::Instant::now();
    assert!(run(&guest, &plugin, ENDS[0], Entry::Each).iter().any(|line| line.contains("Ok(())")));
    let each = begin.elapsed() / (2 * CONTEXTS as u32);
    guest.settings.time = each * 3;
    let lines = run(&guest, &plugin, ENDS[0], Entry::Together);
    assert!(lines.iter().any(|line| line.contains("Ok(())")), "{lines:?}");
}
