//! The filters of `tests/guest`, which are written straight on the `proxy-wasm` crate, and of `tests/script` and `tests/sdk`,
//! which do what a request tells them.

use std::env;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::process::target;

const TARGET: &str = "wasm32-wasip1";

/// The section of a filter of this kind; see `tests/guest/src/lib.rs` for what there is.
pub fn guest(kind: &str) -> Value {
    // The default of 20 ms is for a machine that does not compile something else meanwhile.
    json!({"module": module("lacis_test_guest.wasm"), "config": kind, "limits": {"time": "2s"}})
}

/// The section of a filter that does what a script says; see `tests/script/src/lib.rs`.
pub fn script(config: &str) -> Value {
    json!({"module": module("lacis_test_script.wasm"), "config": config, "limits": {"time": "2s"}})
}

/// The module that uses all that the SDK has; see `tests/sdk/src/lib.rs`.
pub fn sdk() -> PathBuf {
    module("lacis_test_sdk.wasm")
}

/// Compiled at the first call, in a target directory of its own: the outer cargo holds the lock of the usual one.
fn module(file: &str) -> PathBuf {
    static MODULES: OnceLock<PathBuf> = OnceLock::new();
    let modules = MODULES.get_or_init(|| {
        let dir = target().join("guests");
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--release", "--locked", "--quiet"]);
        cargo.args(["--package", "lacis-test-guest", "--package", "lacis-test-script", "--package", "lacis-test-sdk"]);
        // Names of functions stay, as in the filters that ship.
        cargo.args(["--config", "profile.release.strip=\"debuginfo\""]);
        cargo.args(["--target", TARGET, "--target-dir"]).arg(&dir).current_dir(env!("CARGO_MANIFEST_DIR"));
        let status = cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS").status().expect("cargo runs");
        assert!(status.success(), "{cargo:?}: {status}");
        dir.join(TARGET).join("release")
    });
    modules.join(file)
}
