//! Callbacks that share an entry: nothing tells a guest, or its embedder, that they do.

use std::time::Duration;

use lacis_host::abi::BodyAnswer;
use lacis_host::testing::{List, TestStream, TestWorld};
use lacis_host::{Cause, ContextId, Half, Plugin, Trap, Vm, limits};

use crate::guest::{Guest, REQUEST, RESPONSE};

const CONTEXTS: u32 = 3;

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

/// Three exchanges' contexts of one stream, from their making to their end: what is seen of it from outside.
fn run(guest: &Guest, plugin: &Plugin, together: bool) -> Vec<String> {
    let mut seen = Vec::new();
    let world = TestWorld::shared();
    let mut vm = Vm::new(plugin, guest.settings.clone(), world.clone()).unwrap();
    let root = vm.start_root(guest.plugin.clone()).unwrap();
    let stream = TestStream::request(REQUEST);
    let mut walk = || -> Result<(), Trap> {
        let mut ids: Vec<ContextId> = Vec::new();
        for _ in 0..CONTEXTS {
            let (count, end) = (REQUEST.len() as u32, false);
            let (id, action) = if together {
                let id = vm.admit(root, stream.clone())?;
                (id, vm.begin(id, count, end)?)
            } else {
                let id = vm.open(root, stream.clone())?;
                (id, vm.on_headers(id, Half::Request, count, end)?)
            };
            ids.push(id);
            seen.push(format!("{action:?} {:?}", stream.borrow().request.text()));
        }
        stream.borrow_mut().response = Some(List::of(RESPONSE));
        for id in ids.iter().rev() {
            seen.push(format!("{:?}", vm.on_headers(*id, Half::Response, RESPONSE.len() as u32, false)?));
        }
        for (bytes, end) in [("content", false), ("", true)] {
            stream.borrow_mut().bodies[Half::Response as usize] = Some(bytes.into());
            let mut left = ids.len();
            while left > 0 {
                let (id, size) = (ids[left - 1], bytes.len());
                let shown = match together {
                    true => vm.on_bodies(id, left as u32, size, end),
                    false => vm.on_body(id, Half::Response, size, end).map(|a| (0, a)).map_err(|trap| (0, trap)),
                };
                let (index, answer) = match shown {
                    Ok(shown) => shown,
                    Err((index, trap)) => {
                        (0..index as usize).for_each(|passed| seen.push(format!("body of {} Continue", left - passed)));
                        return Err(trap);
                    }
                };
                for passed in 0..=index as usize {
                    let answer = if passed == index as usize { answer } else { BodyAnswer::Continue };
                    seen.push(format!("body of {} {answer:?}", left - passed));
                }
                left -= index as usize + 1;
                if answer != BodyAnswer::Continue {
                    break;
                }
            }
            seen.push(format!("{:?}", stream.borrow().bodies[Half::Response as usize]));
        }
        if together {
            vm.end(ids[0], CONTEXTS).map_err(|(index, trap)| {
                seen.push(format!("index {index}"));
                trap
            })?;
        } else {
            for close in [false, true] {
                for (index, id) in ids.iter().enumerate() {
                    let ended = if close { vm.close(*id) } else { vm.log(*id) };
                    ended.inspect_err(|_| seen.push(format!("index {index}")))?;
                }
            }
        }
        Ok(())
    };
    let walked = walk().map_err(|trap| (trap.callback, trap.cause));
    seen.push(format!("{walked:?}, {} contexts, {:?}", vm.contexts(), stream.borrow().reply));
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
    let plugin = guest.plugin();
    let apart = run(&guest, &plugin, false);
    assert_eq!(run(&guest, &plugin, true), apart, "{code:?}");
    apart
}

/// Stores in its cell at 4 whether the number in that at 0 is 3, the second context's.
const SECOND: &str = "(func $bad (i32.store (i32.const 4) (i32.eq (i32.load (i32.const 0)) (i32.const 3))))";
/// Traps in the second context.
const TRAPS: &str = "(func $bad (if (i32.eq (i32.load (i32.const 0)) (i32.const 3)) (then unreachable)))";

#[test]
fn what_callbacks_do_is_the_same_in_one_entry() {
    assert!(same(&[], "").last().unwrap().contains("Ok(()), 1 contexts"));
    let say = |letter: &str| format!("drop(proxy_log(2, \"{letter}\")); num(p0);");
    let codes: Vec<String> = ALL.iter().map(|name| say(name)).collect();
    let all: Vec<(&str, &str)> = ALL.iter().copied().zip(codes.iter().map(String::as_str)).collect();
    let lines = same(&all, "");
    assert!(lines.join(" ").ends_with("proxy_on_done 4 proxy_on_delete 4"), "{lines:?}");

    let reads = "num(proxy_get_header_map_value(0, \"x-user\", 16, 20)); num(proxy_get_header_map_size(0, 16));";
    let other = "num(proxy_set_effective_context(1));";
    let reply = "num(proxy_send_local_response(403, \"why\", \"no\", \"\", -1));";
    let body = "num(proxy_get_buffer_status(1, 16, 20)); num(at(16)); num(proxy_set_buffer_bytes(1, 0, 0, \"+\"));";
    for name in ALL {
        for code in [reads, reply, body, &format!("{other} {reads}"), "num(proxy_done());"] {
            same(&[(name, code)], "");
        }
    }
    // What one callback did is not to be seen in the next.
    let [create, request, _, shown, log, done, delete] = ALL;
    for (first, next) in [(create, request), (shown, log), (log, done), (done, delete)] {
        for code in ["", reply, other] {
            same(&[(first, code), (next, &format!("{reads} {body}"))], "");
        }
    }
}

#[test]
fn what_the_guest_itself_calls_like_ours_is_never_called() {
    const FORGED: &str = r#"
        (global (export "lacis_step") (mut i32) (i32.const 0)) (global (export "lacis_stop") (mut i32) (i32.const 0))
        (func (export "lacis_begin") (param i32 i32 i32 i32) (result i32) unreachable)
        (func (export "lacis_end") (param i32 i32) unreachable)
        (func (export "lacis_response_body") (param i32 i32 i32 i32) (result i32) unreachable)"#;
    let codes: Vec<String> = ALL.iter().map(|name| format!("drop(proxy_log(2, \"{name}\")); num(p0);")).collect();
    let all: Vec<(&str, &str)> = ALL.iter().copied().zip(codes.iter().map(String::as_str)).collect();
    let lines = same(&all, FORGED);
    assert_eq!(lines, same(&all, ""));
    assert!(lines.join(" ").ends_with("proxy_on_done 4 proxy_on_delete 4"), "{lines:?}");
}

#[test]
fn an_answer_of_one_in_the_middle_ends_what_all_are_shown() {
    let second = "put(0, p0); bad();";
    for answer in ["return(at(4));", "num(p1); return(at(4));", "drop(proxy_continue_stream(1)); return(at(4));"] {
        let lines = same(&[("proxy_on_response_body", &format!("{second} {answer}"))], SECOND);
        assert!(lines.iter().any(|line| line.starts_with("body of 2")), "{lines:?}");
    }
    same(&[("proxy_on_request_headers", &format!("{second} return(at(4));"))], SECOND);
}

#[test]
fn a_trap_is_that_of_its_callback() {
    for name in ALL {
        for code in ["put(0, p0); bad();", "put(0, p0); num(p0); bad();"] {
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
    let trap = vm.begin(id, 1, true).unwrap_err();
    assert_eq!((trap.callback, trap.cause), ("proxy_on_request_headers", Cause::Timeout(limits::MIN_TIME)));
    assert!(begin.elapsed() >= limits::MIN_TIME);

    // A loop of so many steps takes more than half of its time, in each of six callbacks.
    let busy = "(func $bad (local $i i32) (loop $l
        (local.set $i (i32.add (local.get $i) (i32.const 1))) (br_if $l (i32.ne (local.get $i) (i32.load (i32.const 0))))))";
    let mut guest = Guest::new().items(busy);
    for name in ALL {
        guest = guest.on(name, "");
    }
    for name in ["proxy_on_done", "proxy_on_delete"] {
        guest = guest.on(name, "put(0, 30000000); bad();");
    }
    let plugin = guest.plugin();
    // How long that is here.
    guest.settings.time = Duration::from_secs(60);
    let begin = std::time::Instant::now();
    assert!(run(&guest, &plugin, false).last().unwrap().contains("Ok(())"));
    let each = begin.elapsed() / 6;
    guest.settings.time = each * 3;
    let lines = run(&guest, &plugin, true);
    assert!(lines.last().unwrap().contains("Ok(())"), "{lines:?}");
}
