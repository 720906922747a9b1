//! Compiles the shipped filters to WebAssembly and makes the table of `src/filter/builtin.rs`, so that one `cargo build`
//! is enough on a fresh machine.

#[path = "build/templates.rs"]
mod templates;

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Packages are `lacis-filter-NAME`, in `filters/NAME`.
const FILTERS: [&str; 8] = ["auth", "cors", "jwt", "metrics", "quota", "routing", "transform", "validate"];
/// The filter that is the package of another one with its default features, which all others are compiled without.
const FULL: (&str, &str) = ("jwt", "auth");
const TARGET: &str = "wasm32-wasip1";

/// Settings of the shipped modules, over those of the release profile: small code is loaded faster and takes less
/// memory in each worker, and none of the filters computes much. Relocations are padded to their greatest length
/// unless the linker is told otherwise, a tenth of a module. The names of functions stay: the backtrace of a trap is made
/// of them. Arithmetic of signatures is on words of 32 bits: products of 64 bits are more than WebAssembly has an
/// instruction for, and the larger curve would take twice as long.
const SETTINGS: [&str; 3] = [
    "profile.release.opt-level=\"s\"",
    "profile.release.strip=\"debuginfo\"",
    "target.wasm32-wasip1.rustflags=[\"-Clink-arg=--compress-relocations\", \"--cfg=cpubits=\\\"32\\\"\"]",
];

fn main() {
    if let Err(message) = embed() {
        println!("cargo::error={}", message.replace('\n', " "));
    }
}

fn embed() -> Result<(), String> {
    let out = PathBuf::from(variable("OUT_DIR")?);
    let manifest = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let root = manifest.parent().ok_or("the package has no workspace around it")?;
    for input in ["Cargo.toml", "Cargo.lock", "sdk/Cargo.toml", "sdk/src", "filters", "proxy/build.rs", "proxy/build"] {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    templates::write(root, &out)?;
    ensure_target(installed, add_target)?;
    let target = out.join("filters");
    let modules = target.join(TARGET).join("release");
    let (name, package) = FULL;
    compile(root, &target, &[package], &[])?;
    fs::copy(module(&modules, package), module(&modules, name)).map_err(|error| format!("builtin:{name}: {error}"))?;
    let others: Vec<&str> = FILTERS.into_iter().filter(|own| *own != name).collect();
    compile(root, &target, &others, &["--no-default-features"])?;
    fs::write(out.join("builtin.rs"), table(&modules)).map_err(|error| format!("cannot write the table: {error}"))
}

fn variable(name: &str) -> Result<OsString, String> {
    env::var_os(name).ok_or_else(|| format!("{name} is not set; cargo sets it for a build script"))
}

/// The compiler and cargo that build the proxy build the filters too: rustup's choice of a toolchain by folder or
/// variable has been made already.
fn tool(name: &str) -> OsString {
    env::var_os(name).unwrap_or_else(|| name.to_ascii_lowercase().into())
}

/// Makes sure that there is a standard library for the target, by adding it if need be.
fn ensure_target(installed: impl Fn() -> bool, add: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    if installed() {
        return Ok(());
    }
    let problem = match add() {
        Ok(()) if installed() => return Ok(()),
        Ok(()) => "rustup added it, but to another toolchain than the one in use".to_owned(),
        Err(error) => error,
    };
    Err(format!(
        "the shipped filters need Rust's target {TARGET}, and it could not be added ({problem}): run `rustup target \
         add {TARGET}`, or install the rust-std component of {TARGET} by the means that installed rustc"
    ))
}

fn installed() -> bool {
    let library = Command::new(tool("RUSTC")).args(["--print", "target-libdir", "--target", TARGET]).output();
    let Ok(library) = library else { return false };
    let folder = String::from_utf8_lossy(&library.stdout);
    let holds_std = |entry: fs::DirEntry| entry.file_name().to_string_lossy().starts_with("libstd-");
    fs::read_dir(folder.trim()).is_ok_and(|entries| entries.flatten().any(holds_std))
}

/// Explicit commands of rustup download also where RUSTUP_AUTO_INSTALL is 0. RUSTUP_TOOLCHAIN, which rustup has set
/// where it started cargo, names the toolchain.
fn add_target() -> Result<(), String> {
    let output = Command::new("rustup").args(["target", "add", TARGET]).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("rustup does not start: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let error = text.lines().find(|line| line.starts_with("error")).or(text.lines().last());
    Err(error.unwrap_or("rustup failed without a word").to_owned())
}

/// One run of cargo for several filters, in a target folder of its own: the outer cargo holds the lock of the usual one.
fn compile(root: &Path, target: &Path, filters: &[&str], features: &[&str]) -> Result<(), String> {
    let mut cargo = Command::new(tool("CARGO"));
    cargo.current_dir(root).args(["build", "--release", "--locked", "--quiet", "--target", TARGET, "--target-dir"]);
    cargo.arg(target).args(SETTINGS.iter().flat_map(|setting| ["--config", setting]));
    cargo.args(features).args(filters.iter().flat_map(|name| ["--package".to_owned(), format!("lacis-filter-{name}")]));
    for (name, _) in env::vars_os() {
        if leaks(&name) {
            cargo.env_remove(name);
        }
    }
    match cargo.stdin(Stdio::null()).stdout(Stdio::null()).status() {
        Ok(status) if status.success() => Ok(()),
        // The outer cargo shows what the inner one wrote to stderr only if the script itself fails.
        Ok(_) => std::process::exit(1),
        Err(error) => Err(format!("cargo does not start: {error}")),
    }
}

/// Whether a variable speaks of the build of the proxy and would change that of the filters: flags and wrappers of
/// the compiler (coverage, sanitizers, clippy), profiles, the target folder, what cargo tells a build script. The
/// job server, places and network settings are the user's and stay.
fn leaks(name: &OsStr) -> bool {
    const STAY: [&str; 8] = [
        "CARGO_HOME",
        "CARGO_MAKEFLAGS",
        "CARGO_BUILD_JOBS",
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTR",
        "CARGO_SOURCE_",
        "CARGO_TERM_",
    ];
    let name = name.to_string_lossy();
    let of_cargo = name == "CARGO" || name.starts_with("CARGO_");
    (of_cargo && !STAY.iter().any(|stay| name.starts_with(stay)))
        || matches!(&*name, "RUSTFLAGS" | "RUSTC_WRAPPER" | "RUSTC_WORKSPACE_WRAPPER" | "RUSTC_LINKER" | "RUSTDOCFLAGS")
        || matches!(&*name, "TARGET" | "HOST" | "PROFILE" | "OPT_LEVEL" | "DEBUG" | "OUT_DIR" | "NUM_JOBS")
}

fn module(modules: &Path, name: &str) -> PathBuf {
    modules.join(format!("lacis_filter_{name}.wasm"))
}

fn table(modules: &Path) -> String {
    let mut table = String::from("&[\n");
    for name in FILTERS {
        let module = module(modules, name);
        // Writing to a String cannot fail.
        let _ = writeln!(table, "    ({name:?}, include_bytes!({:?})),", module.display().to_string());
    }
    table.push_str("]\n");
    table
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn ensured(installed: &[bool], added: Result<(), String>) -> Result<(), String> {
        let answers = RefCell::new(installed.iter());
        ensure_target(|| *answers.borrow_mut().next().unwrap(), || added)
    }

    #[test]
    fn a_missing_target_is_added_or_the_error_says_what_to_do() {
        assert_eq!(ensured(&[true], Err("not asked".to_owned())), Ok(()));
        assert_eq!(ensured(&[false, true], Ok(())), Ok(()));
        for added in [Ok(()), Err("rustup does not start".to_owned())] {
            let error = ensured(&[false, false], added).unwrap_err();
            assert!(error.contains("run `rustup target add wasm32-wasip1`"), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn the_build_of_the_proxy_does_not_leak_into_that_of_the_filters() {
        for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_TARGET_DIR", "CARGO_PROFILE_RELEASE_LTO", "CARGO"] {
            assert!(leaks(OsStr::new(name)), "{name}");
        }
        for name in ["PATH", "HOME", "CARGO_HOME", "CARGO_MAKEFLAGS", "CARGO_NET_OFFLINE", "RUSTUP_TOOLCHAIN"] {
            assert!(!leaks(OsStr::new(name)), "{name}");
        }
    }
}
