//! `lacis compile`, as `lacis run` starts it.

#![allow(clippy::expect_used, clippy::panic, reason = "a test may fail anywhere, helpers included")]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use lacis_host::{Engine, Options, Plugin};

const FILTER: &str = r#"(module (memory (export "memory") 1) (func (export "proxy_abi_version_0_2_1"))
    (func (export "malloc") (param i32) (result i32) (i32.const 1024)))"#;

fn compile(arguments: &[&Path], module: &[u8]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lacis"));
    command.arg("compile").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("lacis starts");
    child.stdin.take().expect("a pipe").write_all(module).expect("it reads");
    child.wait_with_output().expect("it ends")
}

#[test]
fn what_it_writes_can_be_loaded() {
    let directory = tempfile::tempdir().expect("a directory");
    let (module, artifact) = (directory.path().join("module"), directory.path().join("artifact"));
    let code = wat::parse_str(FILTER).expect("a module");
    fs::write(&module, &code).expect("writable");
    for (arguments, input) in [(vec![], &*code), (vec![&*module], b"")] {
        let output = compile(&[&[Path::new("--output"), &artifact], &*arguments].concat(), input);
        assert!(output.status.success(), "{output:?}");
        assert_eq!((&*output.stdout, &*output.stderr), (&b""[..], &b""[..]));
        assert_eq!(fs::metadata(&artifact).expect("written").permissions().mode() & 0o7777, 0o600);
        // Another process and another build profile, and still the same settings.
        let engine = Engine::new(&Options::default()).expect("an engine");
        Plugin::load(&engine, &artifact).expect("a plugin");
        fs::remove_file(&artifact).expect("removable");
    }
}

#[test]
fn what_is_wrong_is_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let output = compile(&[Path::new("--output"), &directory.path().join("artifact")], b"\0asm\x01\0\0\0\x7f");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.starts_with("lacis: not a valid WebAssembly module: "), "{said}");
    assert_eq!(fs::read_dir(&directory).expect("readable").count(), 0);
}

/// Where memory is short it goes, and not the sidecar.
#[test]
fn the_kernel_ends_it_first() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut command = Command::new(env!("CARGO_BIN_EXE_lacis"));
    command.arg("compile").arg("--output").arg(directory.path().join("artifact")).stdin(Stdio::piped());
    // It waits for its module.
    let mut child = command.spawn().expect("lacis starts");
    let score = || fs::read_to_string(format!("/proc/{}/oom_score_adj", child.id())).expect("it runs");
    let end = Instant::now() + Duration::from_secs(60);
    while score().trim() != "1000" {
        assert!(Instant::now() < end, "{}", score());
        thread::yield_now();
    }
    child.kill().expect("it runs");
    child.wait().expect("it ends");
}

#[test]
fn users_are_not_bothered_with_it() {
    let help = Command::new(env!("CARGO_BIN_EXE_lacis")).arg("--help").output().expect("lacis starts");
    let help = String::from_utf8_lossy(&help.stdout);
    assert!(help.contains("\n  check"), "{help}");
    assert!(!help.contains("compile"), "{help}");
}
