use super::*;
use crate::engine::{Engine, Options};
use crate::limits;

const CALLBACKS: &str = r#"
    (func (export "proxy_on_context_create") (param i32 i32))
    (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) i32.const 0)
    (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32) i32.const 0)
    (func (export "proxy_on_response_body") (param i32 i32 i32) (result i32) i32.const 0)
    (func (export "proxy_on_done") (param i32) (result i32) i32.const 1)
    (func (export "proxy_on_log") (param i32))
    (func (export "proxy_on_delete") (param i32))"#;

/// It is given bytes.
const GIVEN: &str = r#"
    (import "env" "proxy_get_header_map_value" (func $v (param i32 i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_replace_header_map_value" (func $r (param i32 i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_get_property" (func $p (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1) (table 1 funcref) (elem (i32.const 0) func $p)
    (func (export "malloc") (param i32) (result i32) i32.const 8)
    (func (param i32 i32 i32 i32 i32) (result i32) local.get 0 local.get 1 local.get 2 local.get 3 local.get 4 return_call $v)
    (func (result i32) i32.const 0 i32.const 0 i32.const 0 i32.const 0 i32.const 0 call $r)"#;

fn extended(items: &str) -> Vec<String> {
    let engine = Engine::new(&Options::default()).unwrap();
    let code = wat::parse_str(format!("(module {items})")).unwrap();
    let module = wasmtime::Module::new(engine.wasm(), engine.extended(&code).unwrap()).unwrap();
    for import in module.imports() {
        if let wasmtime::ExternType::Func(ty) = import.ty() {
            assert!(ty.params().last().is_some_and(|ty| ty.is_i32()), "{}", import.name());
        }
    }
    module.exports().map(|export| export.name().to_owned()).filter(|name| name.starts_with("lacis_")).collect()
}

#[test]
fn a_module_is_valid_with_what_is_added() {
    let all = NAMES.map(str::to_owned).to_vec();
    let many: String = (0..200).map(|n| format!("(func (export \"f{n}\")) (global $g{n} i32 (i32.const 0))")).collect();
    for items in [
        "",
        r#"(import "env" "f" (func (param i64))) (import "env" "g" (global i32)) (memory 1) (table 1 funcref)"#,
        r#"(global i64 (i64.const 7)) (func $s) (start $s) (table 1 funcref) (elem (i32.const 0) func $s)
           (memory 1) (data "x")"#,
        // Imports that are referred to in every way.
        r#"(import "env" "f" (func $f)) (table 2 funcref (ref.func $f))"#,
        r#"(import "env" "f" (func $f)) (import "env" "g" (func $g (param i64 f32 f64 v128 funcref)))
           (type $t (func)) (table $t 3 funcref) (elem (table $t) (i32.const 0) func $f $h $f) (elem declare func $g)
           (elem (table $t) (i32.const 1) funcref (ref.func $f) (ref.null func))
           (global funcref (ref.func $f)) (export "f" (func $f)) (start $f)
           (func $h (drop (ref.func $g)) (call $f) (return_call $f))"#,
        r#"(import "env" "proxy_on_log" (func $l (param i32))) (export "l" (func $l))"#,
        "(type (func)) (type (func (param i64))) (func (param i64) (result i64) local.get 0)",
        GIVEN,
        &many,
    ] {
        assert_eq!(extended(&format!("{items} {CALLBACKS}")), all, "{items}");
    }
    let some = CALLBACKS.replace("proxy_on_log", "other").replace("(param i32 i32))", "(param i32))");
    assert_eq!(
        extended(&some),
        [STEP, STOP, LINES, QUIET, HEADS, BODY, RESPONSE],
        "what it has not, or otherwise, is not called"
    );
    let old =
        CALLBACKS.replace("(param i32 i32 i32) (result i32) i32.const 0)", "(param i32 i32) (result i32) i32.const 0)");
    assert_eq!(extended(&old), [STEP, STOP, LINES, QUIET, BEGIN, HEADS, END], "heads without an end");
    for nothing in ["", r#"(func (export "proxy_on_log"))"#, r#"(import "env" "f" (func $f)) (export "f" (func $f))"#] {
        assert_eq!(extended(nothing), [STEP, STOP, LINES, QUIET], "{nothing}");
    }
    let imported = r#"(import "env" "l" (func $l (param i32))) (export "proxy_on_log" (func $l))"#;
    assert!(!extended(&format!("{imported} {}", CALLBACKS.replace("proxy_on_log", "other"))).contains(&END.to_owned()));
}

#[test]
fn bytes_are_given_where_there_is_room_for_them() {
    let engine = Engine::new(&Options::default()).unwrap();
    let giving = |items: &str| {
        let code = wat::parse_str(format!("(module {items})")).unwrap();
        let module = wasmtime::Module::new(engine.wasm(), engine.extended(&code).unwrap()).unwrap();
        let results = module.imports().filter_map(|import| Some(import.ty().func()?.results().len()));
        results.filter(|results| *results == RESULTS).count()
    };
    assert_eq!(giving(GIVEN), 2);
    assert_eq!(giving(&GIVEN.replace("\"malloc\"", "\"proxy_on_memory_allocate\"")), 2);
    for (other, by) in [
        ("\"malloc\"", "\"calloc\""),
        ("\"memory\"", "\"other\""),
        ("(param i32) (result i32) i32.const 8", "(result i32) i32.const 8"),
    ] {
        assert_eq!(giving(&GIVEN.replace(other, by)), 0, "{by}");
    }
    // One that is like what becomes of those is none of them.
    let results = "i64 ".repeat(RESULTS);
    let like = format!("(module (import \"env\" \"proxy_get_property\" (func (param i32) (result {results}))))");
    assert!(engine.extended(&wat::parse_str(like).unwrap()).is_err());
}

#[test]
fn any_valid_module_stays_valid() {
    use wasm_smith::{Config, InstructionKind, InstructionKinds};
    let engine = Engine::new(&Options::default()).unwrap();
    let mut state = 1u64;
    let mut number = || {
        // Marsaglia's xorshift64.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let imports = wat::parse_str(
        r#"(module (import "env" "proxy_log" (func (param i32 i32 i32) (result i32))) (import "env" "f" (func))
             (import "env" "g" (func (param i32 f64))) (import "env" "h" (func (result i64)))
             (import "env" "i" (global i32)) (import "env" "j" (func (param v128) (result i32 i32))))"#,
    );
    let calling = Config {
        available_imports: Some(imports.unwrap()),
        allowed_instructions: InstructionKinds::new(&[InstructionKind::Control, InstructionKind::Reference]),
        min_imports: 5,
        min_funcs: 5,
        min_tables: 1,
        min_element_segments: 3,
        min_exports: 3,
        ..Config::default()
    };
    let (mut calls, mut references) = (0, 0);
    for index in 0..1000 {
        let chance: Vec<u8> = (0..512).flat_map(|_| number().to_le_bytes()).collect();
        // Of all sorts that the engine takes, and of those in which it matters. References to anything but functions are
        // not among the former, and wasm-smith makes none without the others.
        let config = if index % 2 == 0 { Config::default() } else { calling.clone() };
        let config = Config {
            gc_enabled: false,
            reference_types_enabled: false,
            exceptions_enabled: false,
            wide_arithmetic_enabled: false,
            memory64_enabled: false,
            threads_enabled: false,
            max_tables: limits::TABLES as usize,
            max_table_elements: limits::TABLE_ELEMENTS as u64,
            ..config
        };
        let module = wasm_smith::Module::new(config, &mut arbitrary::Unstructured::new(&chance)).unwrap();
        let code = module.to_bytes();
        wasmtime::Module::validate(engine.wasm(), &code).unwrap();
        let own = Anatomy::of(&code).unwrap();
        let patches = own.patches(&code, own.globals).unwrap();
        calls += patches.calls();
        references += patches.referred.len();
        wasmtime::Module::validate(engine.wasm(), &engine.extended(&code).unwrap()).unwrap();
    }
    assert!(calls > 10_000 && references > 200, "{calls} {references}");
}

#[test]
fn what_is_called_like_ours_is_called_otherwise() {
    let code = wat::parse_str(format!(
        r#"(module {CALLBACKS} (memory (export "0000000000") 1) (global (export "{STEP}") i32 (i32.const 0))
           (global (export "{STOP}") i32 (i32.const 0)) (func $f (export "{END}")) (func ref.func $f drop))"#
    ));
    let engine = Engine::new(&Options::default()).unwrap();
    let code = code.unwrap();
    let hidden = hide(&code).unwrap();
    let names = |code: &[u8]| -> Vec<String> {
        let module = wasmtime::Module::new(engine.wasm(), code).unwrap();
        module.exports().map(|export| export.name().to_owned()).collect()
    };
    let expected = names(&code).into_iter().map(|name| match name.as_str() {
        STEP => "0000000001".to_owned(),
        STOP => "0000000002".to_owned(),
        END => "000000000".to_owned(),
        _ => name,
    });
    assert!(expected.eq(names(&hidden)), "{:?}", names(&hidden));
    assert_eq!((hide(&hidden), hide(b"no module")), (None, None));
    assert!(engine.extended(&code).is_ok());
}

#[test]
fn what_is_no_module_is_not_made_one() {
    let engine = Engine::new(&Options::default()).unwrap();
    assert!(engine.extended(b"no module").is_err());
    // It names a global that it has not, and would have.
    let code = wat::parse_str(format!("(module {CALLBACKS} (global i32 (i32.const 0)) (func global.get 0 drop))"));
    let code = code.unwrap();
    let named = code.windows(2).rposition(|at| at == [0x23, 0]).unwrap();
    let mut broken = code.clone();
    broken[named + 1] = 1;
    assert!(engine.extended(&code).is_ok() && engine.extended(&broken).is_err());
}
