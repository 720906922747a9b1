//! The filters of `examples`: the same one in every language, each built by the command that its README names.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{self, Command};

use crate::guests::{digest, files, repository, succeed};
use crate::peers::peer;
use crate::process::target;

/// The example in one language.
#[derive(Debug)]
pub struct Example {
    /// Its directory in `examples`.
    pub language: &'static str,
    /// The command that builds it, run in that directory.
    pub command: &'static str,
    /// What that makes, as `lacis.yaml` names it.
    pub module: &'static str,
    /// The directory in `sdk` that it uses.
    sdk: Option<&'static str>,
    /// Programs that it needs.
    programs: &'static [&'static str],
}

const EXAMPLES: [Example; 6] = [
    Example {
        language: "rust",
        command: "cargo build --release --target wasm32-wasip1",
        module: "target/wasm32-wasip1/release/doorkeeper.wasm",
        sdk: None,
        programs: &[],
    },
    Example { language: "c", command: "make", module: "doorkeeper.wasm", sdk: Some("c"), programs: &["make", "clang"] },
    Example {
        language: "cpp",
        command: "make",
        module: "doorkeeper.wasm",
        sdk: Some("c"),
        programs: &["make", "clang"],
    },
    Example {
        language: "zig",
        command: "make",
        module: "doorkeeper.wasm",
        sdk: Some("zig"),
        programs: &["make", "zig"],
    },
    Example {
        language: "assemblyscript",
        command: "npm run build",
        module: "doorkeeper.wasm",
        sdk: Some("assemblyscript"),
        programs: &["npm", "asc"],
    },
    Example {
        language: "go",
        command: "GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -o doorkeeper.wasm .",
        module: "doorkeeper.wasm",
        sdk: None,
        programs: &["go"],
    },
];

impl Example {
    /// The example in a language.
    pub fn of(language: &str) -> &'static Example {
        EXAMPLES.iter().find(|example| example.language == language).expect("a language")
    }

    /// One of its files.
    pub fn read(&self, file: &str) -> String {
        let path = self.dir().join(file);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Its module, built unless that was done with this very content. `None`, loudly, where a program is missing; see
    /// [`peer`].
    pub fn build(&self) -> Option<PathBuf> {
        for program in self.programs {
            peer(program)?;
        }
        let out = target().join("guests");
        if self.language == "rust" {
            // Cargo knows by itself what is up to date, and the outer one holds the lock of the usual directory.
            succeed(self.shell().current_dir(self.dir()).env("CARGO_TARGET_DIR", &out));
            return Some(out.join(self.module.trim_start_matches("target/")));
        }
        let sdk = self.sdk.map(|name| repository().join("sdk").join(name));
        let sources: Vec<PathBuf> = [Some(self.dir()), sdk].into_iter().flatten().collect();
        let module = out.join(format!("example-{}-{:016x}.wasm", self.language, digest(&sources, self.command)));
        if module.exists() {
            return Some(module);
        }
        // What a build leaves behind does not belong among the sources. The copy lies as they do.
        let copy = out.join(format!("example-{}-{}", self.language, process::id()));
        for source in &sources {
            let to = copy.join(source.strip_prefix(repository()).expect("a place in the repository"));
            fs::create_dir_all(&to).expect("a directory");
            for file in files(source) {
                fs::copy(&file, to.join(file.file_name().expect("a name"))).expect("a copy");
            }
        }
        let dir = copy.join("examples").join(self.language);
        if self.language == "assemblyscript" {
            // In the place of `npm install`; see `the_compiler_of_the_tests_is_that_of_the_example`.
            symlink(target().join("peers/npm/node_modules"), dir.join("node_modules")).expect("a link");
        }
        let mut shell = self.shell();
        // The same module whatever the commit, so that Lacis compiles it once.
        shell.env("ZIG_GLOBAL_CACHE_DIR", out.join("zig")).env("GOFLAGS", "-buildvcs=false");
        succeed(shell.current_dir(&dir));
        fs::rename(dir.join(self.module), &module).expect("a module");
        fs::remove_dir_all(&copy).expect("our own copy");
        Some(module)
    }

    fn dir(&self) -> PathBuf {
        repository().join("examples").join(self.language)
    }

    /// A shell that runs the command and finds the peers.
    fn shell(&self) -> Command {
        let mut shell = Command::new("sh");
        let peers = target().join("peers/bin");
        let path = env::var_os("PATH").unwrap_or_default();
        let path = env::join_paths(std::iter::once(peers).chain(env::split_paths(&path))).expect("a path");
        shell.args(["-c", self.command]).env("PATH", path);
        shell.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
        shell
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example names one version of AssemblyScript, and `tests/peers/install` installs it.
    #[test]
    fn the_compiler_of_the_tests_is_that_of_the_example() {
        let version = |text: &str| {
            let line = text.lines().find(|line| line.trim_start().starts_with("\"assemblyscript\":"));
            line.map(|line| line.trim().trim_end_matches(',').to_owned()).expect("a version of assemblyscript")
        };
        let peers = repository().join("tests/peers/npm/package.json");
        let peers = fs::read_to_string(peers).expect("the peers");
        assert_eq!(version(&Example::of("assemblyscript").read("package.json")), version(&peers));
    }
}
