//! The same tests for a filter that is compiled natively and for its module.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lacis_sdk::testing::{Answer, Message, Plugin};
use lacis_sdk_testing::Module;

#[path = "../../../tests/sdk/src/lib.rs"]
mod all;

/// The module of the smallest filter, and that of the one that uses all; compiled where the black-box tests compile theirs.
fn modules() -> [PathBuf; 2] {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned();
    // CARGO_TARGET_TMPDIR is `tmp` of the target directory.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("guests");
    let build = |directory: &Path, more: &[&str]| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--release", "--locked", "--quiet", "--target", "wasm32-wasip1", "--target-dir"]);
        cargo.arg(&target).args(more).current_dir(directory).env_remove("RUSTFLAGS");
        let status = cargo.env_remove("CARGO_ENCODED_RUSTFLAGS").status().expect("cargo runs");
        assert!(status.success(), "{cargo:?}: {status}");
    };
    build(&root.join("examples/filter"), &[]);
    build(&root, &["--package", "lacis-test-guest", "--package", "lacis-test-script", "--package", "lacis-test-sdk"]);
    ["greeting.wasm", "lacis_test_sdk.wasm"].map(|file| target.join("wasm32-wasip1/release").join(file))
}

/// The test of `examples/filter`, for its module.
fn greets<F>(configure: impl Fn(&str) -> Result<Plugin<F>, String>) {
    let plugin = configure(r#"{"text": "hello"}"#).unwrap();
    let mut exchange = plugin.exchange();
    assert_eq!(exchange.request(Message::get("/")), Ok(Message::get("/")));
    let response = exchange.response(Message::response(200)).unwrap();
    assert_eq!(response.value("x-greeting").as_deref(), Some("hello"));
    exchange.end();
    let reply = configure(r#"{"text": "a\nb"}"#).unwrap().exchange().response(Message::response(200)).unwrap_err();
    assert_eq!(reply.status(), 500);
    assert!(configure("{}").err().unwrap().contains("missing field `text`"));
}

/// What `tests/sdk` does, by `x-do`.
fn does_all<F>(plugin: &Plugin<F>) {
    plugin.on_call("helper", |call| {
        let size = call.path().strip_prefix("/bytes/").and_then(|size| size.parse().ok()).unwrap_or(1);
        Answer::new(200).body("x".repeat(size))
    });
    let request = |what: &str| Message::post("/bytes/1").header("x-do", what);
    let said = |what: &str| {
        let passed = plugin.exchange().request(request(what).chunk("ab").chunk("c").trailer("x-checksum", "1"));
        passed.unwrap_or_else(|reply| Message::response(reply.status()))
    };
    let passed = said("whole");
    assert_eq!((passed.text().as_str(), passed.value("x-said").as_deref()), ("ABC", Some("3 bytes")));
    assert_eq!(passed.trailer_value("x-checksum").as_deref(), Some("1"));
    assert_eq!(said("chunks").chunks(), [&b"<ab"[..], b"c"]);
    assert_eq!(said("drop").text(), "");
    assert_eq!(said("trailers").trailer_value("x-end").as_deref(), Some("1"));
    assert_eq!(said("call-and-body").value("x-said").as_deref(), Some("5 and 3 bytes"));
    let passed = said("call-and-chunks");
    assert_eq!((passed.text().as_str(), passed.value("x-said").as_deref()), ("ABC", Some("5")));
    for (what, expected) in [
        ("call", "5+7+9 200"),
        ("nobody", "nobody"),
        ("sleep", "None"),
        ("count", "1"),
        ("count", "2"),
        ("background", "3"),
    ] {
        assert_eq!(said(what).value("x-said").as_deref(), Some(expected), "{what}");
    }
    assert_eq!((said("bucket").value("x-said"), said("bucket").value("x-said")), (Some("1".into()), Some("0".into())));
    assert_eq!((said("bucket").status(), said("late-no").status()), (429, 403));
    let reply = plugin.exchange().request(request("limit").chunk("12345678901")).unwrap_err();
    assert_eq!(reply.status(), 413);
    plugin.exchange().request(request("spawn")).unwrap();
    plugin.advance(Duration::from_secs(1));
    assert_eq!(said("spawned").value("x-said").as_deref(), Some("/bytes/1"));

    let mut exchange = plugin.exchange();
    exchange.request(request("answer")).unwrap();
    let passed = exchange.response(Message::response(200).body("abc")).unwrap();
    assert_eq!((passed.text().as_str(), passed.value("x-said").as_deref()), ("<abc>", Some("3 and 5")));
    assert_eq!(passed.value("content-length").as_deref(), Some("5"));
    exchange.end();
    let mut exchange = plugin.exchange();
    exchange.request(request("answer-chunks")).unwrap();
    let passed = exchange.response(Message::response(200).chunk("ab").chunk("c").trailer("a", "b")).unwrap();
    assert_eq!((passed.chunks().len(), passed.trailer_value("x-size").as_deref()), (2, Some("3")));
    assert_eq!(plugin.metric("status=.=200;.;ended_total"), Some(1));
}

#[test]
fn what_a_filter_does_its_module_does() {
    does_all(&Plugin::<all::All>::configure("").unwrap());
    let [smallest, all] = modules();
    let size = std::fs::metadata(&smallest).unwrap().len();
    assert!(size < 140 * 1024, "the smallest module has {size} bytes");
    let module = Module::load(smallest).unwrap();
    greets(|config| module.configure(config));
    does_all(&Module::load(all).unwrap().configure("").unwrap());
}
