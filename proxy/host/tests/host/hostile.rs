//! Guests that mean harm: any host call with any arguments, in any callback. Whatever it does, the host does not panic,
//! keeps within its limits, and blames the guest. The script is bytes, so that a fuzzer can write it, too
//! (`tests/fuzz/fuzz_targets/host.rs`).

use std::fmt::Write;
use std::sync::LazyLock;

use lacis_host::abi::Peer;
use lacis_host::testing::{List, TestStream, TestWorld};
use lacis_host::{
    CallOut, Cause, GrpcEvent, Half, HttpAnswer, Plugin, PluginSettings, StartError, Trap, Vm, VmSettings,
};

use crate::abi;
use crate::guest::ENGINE;

/// Scripts that chance makes.
const ROUNDS: u64 = 200;

static PLUGIN: LazyLock<Plugin> =
    LazyLock::new(|| Plugin::compile(&ENGINE, &wat::parse_str(module()).unwrap()).unwrap());

#[test]
fn any_host_call_with_any_arguments_is_survived() {
    let made: Vec<Made> = (0..ROUNDS).map(|seed| play(&script(seed))).collect();
    // Chance has been fair: without that the test would prove little.
    let some = |what: fn(&Made) -> usize| made.iter().map(what).sum::<usize>() > 20;
    assert!(some(|made| made.calls) && some(|made| made.sent) && some(|made| made.refused) && some(|made| made.whole));
}

/// Runs a script in every callback there is. A script that traps has ended its VM, for a reason of its own.
pub(crate) fn play(script: &[u8]) -> Made {
    let world = TestWorld::shared();
    world.borrow_mut().upstreams.push("up".into());
    let mut settings = VmSettings { configuration: script.to_vec(), ..VmSettings::default() };
    settings.limits.calls = 8;
    settings.limits.queue_items = 8;
    settings.limits.log_lines = 64;
    let mut vm = match Vm::new(&PLUGIN, settings, world.clone()) {
        Ok(vm) => vm,
        Err(error) => panic!("{error}"),
    };
    let plugin = PluginSettings { allow_on_headers_stop_iteration: true, ..PluginSettings::default() };
    let ended = match vm.start_root(plugin) {
        Ok(root) => drive(&mut vm, root, &world),
        Err(StartError::Trap(trap)) => Err(trap),
        Err(StartError::Refused(_)) => Ok(()),
        Err(error) => panic!("{error}"),
    };
    let whole = ended.is_ok();
    if let Err(trap) = ended {
        assert!(!matches!(trap.cause, Cause::Host(_)), "{trap}");
        assert!(vm.is_dead());
    }
    drop(vm);
    let world = world.borrow();
    assert!(world.lines.len() <= 65, "{}", world.lines.len());
    let called: Vec<_> = world.calls.iter().map(|(id, ..)| *id).collect();
    assert!(world.cancelled.iter().all(|id| called.contains(id)));
    Made { calls: called.len(), sent: world.sent.len(), refused: world.refused.len(), whole: usize::from(whole) }
}

/// What a script has done.
pub(crate) struct Made {
    calls: usize,
    sent: usize,
    refused: usize,
    /// It came to its end.
    whole: usize,
}

fn drive(
    vm: &mut Vm,
    root: lacis_host::RootId,
    world: &std::rc::Rc<std::cell::RefCell<TestWorld>>,
) -> Result<(), Trap> {
    let stream = TestStream::request(crate::guest::REQUEST);
    stream.borrow_mut().response = Some(List::of(crate::guest::RESPONSE));
    stream.borrow_mut().bodies = [Some(b"request".to_vec()), Some(b"response".to_vec())];
    let id = vm.open(root, stream.clone())?;
    for half in [Half::Request, Half::Response] {
        vm.on_headers(id, half, 6, false)?;
        vm.on_body(id, half, 8, false)?;
        vm.on_body(id, half, 8, true)?;
        vm.on_trailers(id, half, 0)?;
    }
    vm.tick(root)?;
    let tcp = vm.open_tcp(root, stream.clone())?;
    vm.on_new_connection(tcp)?;
    for half in [Half::Request, Half::Response] {
        vm.on_data(tcp, half, false)?;
        vm.on_connection_close(tcp, half, Peer::Remote)?;
    }
    let list = || Box::new(List::of(&[("a", "1")]));
    for _ in 0..8 {
        let calls = std::mem::take(&mut world.borrow_mut().calls);
        let answered = calls.iter().try_for_each(|(id, _, call)| match call {
            CallOut::Http(_) => {
                let answer = HttpAnswer { headers: list(), body: b"body".to_vec(), trailers: Some(list()) };
                vm.on_http_call(*id, Some(answer)).map(drop)
            }
            CallOut::Grpc(_) | CallOut::GrpcStream(_) => {
                vm.on_grpc(*id, GrpcEvent::InitialMetadata(list()))?;
                vm.on_grpc(*id, GrpcEvent::Message(b"message".to_vec()))?;
                vm.on_grpc(*id, GrpcEvent::TrailingMetadata(list()))?;
                vm.on_grpc(*id, GrpcEvent::Close { status: 2, message: "end".into() }).map(drop)
            }
        });
        // Also after a trap: what is cancelled then was called.
        world.borrow_mut().calls.extend(calls);
        answered?;
        vm.on_queue_ready()?;
    }
    assert!(vm.calls() <= 8);
    vm.on_foreign_function(root, 1, b"arguments".to_vec())?;
    vm.log(id)?;
    vm.close(id)?;
    vm.close(tcp)?;
    vm.stop_root(root).map(drop)
}

/// A script by chance, which is the same for the same seed (xorshift): half of it calls that would make sense, with one
/// argument in eight changed, half of it anything.
fn script(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 8) as usize % below
    };
    let mut bytes = Vec::new();
    while bytes.len() < 400 {
        if next(2) == 0 {
            bytes.extend((0..4).map(|_| next(256) as u8));
            continue;
        }
        let (name, arguments) = SENSIBLE[next(SENSIBLE.len())];
        bytes.push(imports().iter().position(|(_, (other, _))| *other == name).unwrap() as u8);
        bytes.extend(arguments.iter().map(|argument| if next(8) == 0 { next(256) as u8 } else { *argument }));
    }
    bytes.extend_from_slice(MAP);
    bytes.extend_from_slice(NAME);
    bytes
}

/// What every script ends with: a map that makes a request, and the name of an upstream.
const MAP: &[u8] =
    b"\x03\0\0\0\x07\0\0\0\x01\0\0\0\x05\0\0\0\x01\0\0\0\x0a\0\0\0\x01\0\0\0:method\0G\0:path\0/\0:authority\0a\0";
const NAME: &[u8] = b"up";

/// Bytes of a script that become the arguments they say; see [`module`].
const fn small(number: u8) -> u8 {
    number << 3
}
const MAP_SIZE: u8 = 3;
const MAP_AT: u8 = 4;
const NAME_AT: u8 = small(NAME.len() as u8) | 5;
const TWO: u8 = small(2);
const AT: u8 = small(16);

const SENSIBLE: &[(&str, &[u8])] = &[
    ("proxy_http_call", &[NAME_AT, TWO, MAP_AT, MAP_SIZE, NAME_AT, TWO, MAP_AT, MAP_SIZE, TWO, AT]),
    ("proxy_grpc_call", &[NAME_AT, TWO, NAME_AT, TWO, NAME_AT, TWO, MAP_AT, MAP_SIZE, NAME_AT, TWO, TWO, AT]),
    ("proxy_grpc_stream", &[NAME_AT, TWO, NAME_AT, TWO, NAME_AT, TWO, MAP_AT, MAP_SIZE, AT]),
    ("proxy_grpc_send", &[small(6), NAME_AT, TWO, 0]),
    ("proxy_grpc_close", &[small(6)]),
    ("proxy_grpc_cancel", &[small(5)]),
    ("proxy_set_header_map_pairs", &[TWO, MAP_AT, MAP_SIZE]),
    ("proxy_get_header_map_pairs", &[small(6), AT, AT]),
    ("proxy_add_header_map_value", &[0, NAME_AT, TWO, NAME_AT, TWO]),
    ("proxy_set_buffer_bytes", &[0, 0, TWO, MAP_AT, MAP_SIZE]),
    ("proxy_get_buffer_bytes", &[small(1), 0, small(9), AT, AT]),
    ("proxy_register_shared_queue", &[NAME_AT, TWO, AT]),
    ("proxy_enqueue_shared_queue", &[small(1), MAP_AT, MAP_SIZE]),
    ("proxy_dequeue_shared_queue", &[small(1), AT, AT]),
    ("proxy_set_shared_data", &[NAME_AT, TWO, MAP_AT, MAP_SIZE, 0]),
    ("proxy_send_local_response", &[small(20), NAME_AT, TWO, NAME_AT, TWO, MAP_AT, MAP_SIZE, 0]),
    ("proxy_set_effective_context", &[TWO]),
    ("proxy_continue_stream", &[0]),
    ("proxy_call_foreign_function", &[NAME_AT, TWO, NAME_AT, TWO, AT, AT]),
];

fn imports() -> Vec<(&'static str, (&'static str, String))> {
    let env = abi::rows(abi::ENV).map(|row| ("env", row));
    let wasi = abi::rows(abi::WASI).map(|row| ("wasi_snapshot_preview1", row));
    // It would end a script too soon.
    env.chain(wasi).filter(|(_, (name, _))| *name != "proc_exit").collect()
}

/// A module whose every callback reads the next instructions of its script: a byte for the import, and one for each
/// argument, which becomes a small number, the size of the map at its end, a pointer to that or into it, or a number at the
/// edge of memory or of all numbers.
fn module() -> String {
    let imports = abi::rows(abi::ENV)
        .map(|row| ("env", row))
        .chain(abi::rows(abi::WASI).map(|row| ("wasi_snapshot_preview1", row)));
    // It would end a script too soon.
    let imports: Vec<_> = imports.filter(|(_, (name, _))| *name != "proc_exit").collect();
    let (mut declared, mut choices) = (String::new(), String::new());
    for (index, (module, (name, ty))) in imports.iter().enumerate() {
        writeln!(declared, "(import \"{module}\" \"{name}\" (func ${name} {ty}))").unwrap();
        let (parameters, result) = ty.split_once(')').unwrap();
        let arguments: String = parameters
            .split_ascii_whitespace()
            .filter_map(|word| match word {
                "i32" => Some("(call $argument)"),
                "i64" => Some("(i64.extend_i32_s (call $argument))"),
                _ => None,
            })
            .collect();
        let call = format!("(call ${name} {arguments})");
        let call = if result.is_empty() { call } else { format!("(drop {call})") };
        writeln!(choices, "(if (i32.eq (local.get $op) (i32.const {index})) (then {call}))").unwrap();
    }
    let mut callbacks = String::new();
    for (name, ty) in abi::rows(abi::CALLBACKS).filter(|(name, _)| name.starts_with("proxy_")) {
        let start = if name == "proxy_on_vm_start" { "(call $load)" } else { "" };
        // It says what the script says; but it starts, mostly.
        let result = match ty.contains("result") {
            true if name.contains("start") || name.contains("config") => "(i32.const 1)",
            true => "(i32.and (call $byte) (i32.const 3))",
            false => "",
        };
        writeln!(callbacks, "(func (export \"{name}\") {ty} {start} (call $play) {result})").unwrap();
    }
    let (count, map, tail) = (imports.len(), MAP.len(), MAP.len() + NAME.len());
    format!(
        "(module {declared} (memory (export \"memory\") 2 4)
         (func (export \"proxy_abi_version_0_2_1\"))
         (global $base (mut i32) (i32.const 0)) (global $length (mut i32) (i32.const 0)) (global $at (mut i32) (i32.const 0))
         (global $heap (mut i32) (i32.const 65536))
         ;; Hands out memory until it runs over its end, and begins again.
         (func (export \"malloc\") (param $size i32) (result i32) (local $block i32)
           (local.set $block (global.get $heap))
           (global.set $heap (i32.and (i32.add (local.get $block) (local.get $size)) (i32.const 0x1ffff)))
           (local.get $block))
         (func $load
           (drop (call $proxy_get_buffer_bytes (i32.const 6) (i32.const 0) (i32.const 65536) (i32.const 8) (i32.const 12)))
           (global.set $base (i32.load (i32.const 8)))
           (global.set $length (i32.load (i32.const 12))))
         ;; The next byte of the script; from the beginning again after its end.
         (func $byte (result i32)
           (if (i32.eqz (global.get $length)) (then (return (i32.const 0))))
           (if (i32.ge_u (global.get $at) (global.get $length)) (then (global.set $at (i32.const 0))))
           (i32.load8_u (i32.add (global.get $base) (global.get $at)))
           (global.set $at (i32.add (global.get $at) (i32.const 1))))
         (func $argument (result i32) (local $b i32) (local $n i32)
           (local.set $b (call $byte))
           (local.set $n (i32.shr_u (local.get $b) (i32.const 3)))
           (if (i32.lt_u (i32.and (local.get $b) (i32.const 7)) (i32.const 3)) (then (return (local.get $n))))
           (if (i32.eq (i32.and (local.get $b) (i32.const 7)) (i32.const 3)) (then (return (i32.const {map}))))
           (if (i32.eq (i32.and (local.get $b) (i32.const 7)) (i32.const 4))
             (then (return (i32.sub (i32.add (global.get $base) (global.get $length)) (i32.const {tail})))))
           (if (i32.eq (i32.and (local.get $b) (i32.const 7)) (i32.const 5))
             (then (return (i32.sub (i32.add (global.get $base) (global.get $length)) (local.get $n)))))
           (if (i32.eq (i32.and (local.get $b) (i32.const 7)) (i32.const 6))
             (then (return (i32.sub (i32.const 131080) (local.get $n)))))
           (i32.sub (i32.const -1) (local.get $n)))
         (func $play (local $op i32) (local $left i32)
           (local.set $left (i32.const 12))
           (loop $l
             (local.set $op (i32.rem_u (call $byte) (i32.const {count})))
             {choices}
             (local.set $left (i32.sub (local.get $left) (i32.const 1)))
             (br_if $l (local.get $left))))
         {callbacks})"
    )
}
