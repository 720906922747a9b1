//! Programs that we did not write: found, or the test says how to get them.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::target;

/// How to get each program that a test asks for. One place, read by people; `.ci/run` installs the same.
const INSTALL: &[(&str, &str)] = &[
    ("curl", "apt-get install curl"),
    ("dnsmasq", "apt-get install dnsmasq-base"),
    ("strace", "apt-get install strace"),
    ("openssl", "apt-get install openssl"),
    ("nghttp", "apt-get install nghttp2-client"),
    ("h2load", "apt-get install nghttp2-client"),
    ("nginx", "apt-get install nginx-light"),
    ("envoy", "tests/peers/install"),
    ("clang", "apt-get install clang lld wasi-libc libc++-dev-wasm32 libclang-rt-dev-wasm32"),
    ("make", "apt-get install make"),
    ("zig", "tests/peers/install"),
    ("asc", "tests/peers/install"),
    ("sdk-asc", "tests/peers/install"),
    ("ip", "apt-get install iproute2"),
    ("setpriv", "apt-get install util-linux"),
    ("unshare", "apt-get install util-linux"),
];

/// A foreign program.
#[derive(Clone, Debug)]
pub struct Peer {
    path: PathBuf,
}

/// Finds a program under `target/peers/bin`, then on the path. Absent: prints one line that says so and gives `None`,
/// so that the test can return; with `LACIS_REQUIRE_PEERS=1` it fails instead.
pub fn peer(name: &str) -> Option<Peer> {
    let install = INSTALL.iter().find(|(n, _)| *n == name).map_or(".ci/run", |(_, how)| how);
    peer_or(name, install)
}

/// Like [`peer`], for a program with an install hint of the test's own.
pub fn peer_or(name: &str, install: &str) -> Option<Peer> {
    let own = target().join("peers/bin");
    let path = env::var_os("PATH").unwrap_or_default();
    // Tools of the administrator are not on everybody's path.
    let places = std::iter::once(own).chain(env::split_paths(&path)).chain(["/usr/sbin".into(), "/sbin".into()]);
    let found = places.map(|dir| dir.join(name)).find(|file| file.is_file());
    if found.is_none() {
        let required = env::var_os("LACIS_REQUIRE_PEERS").is_some_and(|v| v == "1");
        assert!(!required, "{name} is required here; install with: {install}");
        eprintln!("skipped: {name} is not here; install with: {install}");
    }
    found.map(|path| Peer { path })
}

impl Peer {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A command that runs it, deaf to the proxy settings of the environment.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
            command.env_remove(name);
        }
        command
    }

    /// Runs it to its end: exit code (-1 for a signal), standard output, standard error.
    pub fn run<I: IntoIterator<Item = S>, S: AsRef<std::ffi::OsStr>>(&self, args: I) -> (i32, String, String) {
        let mut command = self.command();
        let output = command.args(args).stdin(std::process::Stdio::null()).output().expect("runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
    }
}
