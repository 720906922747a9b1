//! Linking: every import there is, every type of it, and what is refused.

use lacis_host::{Engine, Half, Language, LoadError, Options, Plugin};

use crate::abi;
use crate::guest::{ENGINE, Guest};

fn importing(module: &str, name: &str, ty: &str) -> Result<Plugin, LoadError> {
    load(&format!(
        "(module (import \"{module}\" \"{name}\" (func {ty})) (memory (export \"memory\") 1)
          (func (export \"malloc\") (param i32) (result i32) (i32.const 0)) (func (export \"proxy_abi_version_0_2_0\")))"
    ))
}

fn load(wat: &str) -> Result<Plugin, LoadError> {
    Plugin::compile(&ENGINE, &wat::parse_str(wat).unwrap())
}

fn refusal(wat: &str) -> String {
    load(wat).unwrap_err().to_string()
}

#[test]
fn every_import_of_the_abi_links_with_every_known_type() {
    let env = abi::rows(abi::ENV).chain(abi::rows(abi::VARIANTS)).map(|row| ("env", row));
    let wasi = ["wasi_snapshot_preview1", "wasi_unstable"]
        .into_iter()
        .flat_map(|module| abi::rows(abi::WASI).map(move |row| (module, row)));
    let mut count = 0;
    for (module, (name, ty)) in env.chain(wasi) {
        assert!(importing(module, name, &ty).is_ok(), "{module}.{name} {ty}");
        count += 1;
    }
    assert_eq!(count, 45 + 5 + 2 * 46);
}

#[test]
fn one_function_can_be_imported_twice() {
    let import = "(import \"env\" \"proxy_log\" (func (param i32 i32 i32) (result i32)))";
    assert!(load(&MODULE.replace("(module", &format!("(module {import} {import}"))).is_ok());
}

#[test]
fn all_that_is_missing_is_named_at_once() {
    let wat = MODULE.replace(
        "(module",
        "(module (import \"env\" \"proxy_fly\" (func)) (import \"env\" \"proxy_log\" (func (param i64)))
         (import \"env\" \"table\" (table 1 funcref)) (import \"other\" \"proxy_log\" (func))",
    );
    assert_eq!(
        refusal(&wat),
        "the module imports what this host does not have: env.proxy_fly, \
         env.proxy_log (not as (i64) -> ()), env.table (not a function), other.proxy_log"
    );
}

#[test]
fn a_module_must_be_for_this_abi() {
    assert!(load(MODULE).is_ok());
    assert!(refusal(&MODULE.replace("proxy_abi", "other_abi")).starts_with("not a Proxy-Wasm module"));
    assert!(refusal(&MODULE.replace("\"memory\"", "\"other\"")).contains("no 32-bit memory"));
    assert!(refusal(&MODULE.replace("\"malloc\"", "\"alloc\"")).contains("neither malloc nor"));
    assert!(load(&MODULE.replace("\"malloc\"", "\"proxy_on_memory_allocate\"")).is_ok());
    let wrong = MODULE.replace("(memory", "(func (export \"proxy_on_log\") (param i64)) (memory");
    assert_eq!(
        refusal(&wrong),
        "the module exports proxy_on_log with the type (i64) -> (), which is not that of the ABI"
    );
    assert!(matches!(Plugin::compile(&ENGINE, b"\0asm\x01\0\0\0junk"), Err(LoadError::Compile(_))));
}

#[test]
fn the_first_mark_in_export_order_is_the_version() {
    let two = MODULE.replace("(memory", "(func (export \"proxy_abi_version_0_2_0\")) (memory");
    assert_eq!(load(&two).unwrap().abi().name(), "0.2.0");
    assert_eq!(load(MODULE).unwrap().abi().name(), "0.2.1");
}

#[test]
fn a_plugin_tells_what_it_is() {
    let plugin = Guest::request("drop(proxy_log(2, \"a\"));").plugin();
    assert!(plugin.exports("proxy_on_request_headers"));
    assert!(!plugin.exports("proxy_on_response_headers"));
    assert_eq!(plugin.imports().collect::<Vec<_>>(), [("env", "proxy_log")]);
    assert_eq!(plugin.language(), None);
    // As `lacis.h` makes them; the crate for Rust exports all callbacks.
    let small = MODULE.replace("\"malloc\"", "\"proxy_on_memory_allocate\"");
    assert_eq!(load(&small).unwrap().language(), None);
    let callbacks = [("queue_ready", "i32 i32"), ("grpc_close", "i32 i32 i32"), ("new_connection", "i32) (result i32")];
    let callbacks = callbacks.map(|(name, types)| {
        let body = if types.contains("result") { "(i32.const 0)" } else { "" };
        format!("(func (export \"proxy_on_{name}\") (param {types}) {body}) ")
    });
    let rust = small.replace("(memory", &format!("{}(memory", callbacks.concat()));
    assert_eq!(load(&rust).unwrap().language(), Some(Language::Rust));
}

#[test]
fn an_artifact_runs_as_the_module_does() {
    let guest = Guest::request("num(7);");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), ENGINE.compile(&guest.code()).unwrap()).unwrap();
    // As a sidecar does it: what was compiled elsewhere runs without a compiler.
    let engine = Engine::new(&Options { compiler: false, ..Options::default() }).unwrap();
    assert!(engine.compile(&guest.code()).unwrap_err().to_string().contains("compiler"));
    let plugin = Plugin::load(&engine, file.path()).unwrap();
    assert_eq!(plugin.abi().name(), "0.2.1");
    let world = lacis_host::testing::TestWorld::shared();
    let mut vm = lacis_host::Vm::new(&plugin, guest.settings.clone(), world.clone()).unwrap();
    let root = vm.start_root(guest.plugin.clone()).unwrap();
    let id = vm.open(root, lacis_host::testing::TestStream::request(&[])).unwrap();
    vm.on_headers(id, Half::Request, 0, true).unwrap();
    assert_eq!(world.borrow_mut().take_lines(), ["7"]);
}

#[test]
fn plugins_cross_threads() {
    fn check<T: Send + Sync>() {}
    check::<Plugin>();
    check::<lacis_host::Engine>();
    check::<lacis_host::SharedData>();
}

const MODULE: &str = "(module (memory (export \"memory\") 1)
  (func (export \"malloc\") (param i32) (result i32) (i32.const 0)) (func (export \"proxy_abi_version_0_2_1\")))";
