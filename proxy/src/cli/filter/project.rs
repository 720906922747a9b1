//! A directory with a filter in it: which language, which toolchain, how it is built.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::ValueEnum;
use serde_json::{Value, json};

use super::super::{Failure, Outcome, Output, print};

/// Build the filter in this directory.
///
/// Finds out the language and its toolchain, or says what installs that. Prints where the module is, and its size.
#[derive(Debug, clap::Args)]
pub(super) struct Build {
    /// The directory of the filter.
    #[arg(default_value = ".")]
    directory: PathBuf,
    /// How the result is written.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    output: Output,
}

impl Build {
    /// Runs the command.
    pub(super) fn execute(self) -> Outcome {
        let module = Project::find(&self.directory)?.build(Aim::Ship)?;
        let cannot = |error| Failure::Input(format!("cannot read {}: {error}", module.display()));
        let bytes = fs::metadata(&module).map_err(cannot)?.len();
        print(&match self.output {
            Output::Text => format!("{}: {}\n", module.display(), size(bytes)),
            Output::Json => format!("{:#}\n", json!({ "module": module.display().to_string(), "bytes": bytes })),
        });
        Ok(())
    }
}

/// What a filter can be written in with our help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Language {
    Rust,
    C,
    Cpp,
    Zig,
    #[value(name = "assemblyscript")]
    AssemblyScript,
    Go,
}

/// What a module is built for. Only for Rust this makes a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aim {
    /// To be small and fast, as its manifest says.
    Ship,
    /// To be there soon after its source was saved.
    Try,
}

/// What makes a change of one file build in a quarter of a second, and not in one and a half: a module that is half as large
/// again, with the names of its functions.
const SOON: [&str; 4] = [
    "profile.release.lto=\"off\"",
    "profile.release.incremental=true",
    "profile.release.codegen-units=16",
    "profile.release.strip=\"debuginfo\"",
];

/// A directory with a filter in it.
#[derive(Debug)]
pub(super) struct Project {
    directory: PathBuf,
    language: Language,
}

/// The target that filters are compiled for.
const TARGET: &str = "wasm32-wasip1";

/// The oldest Go that makes modules with exported functions (Go 1.24, `go:wasmexport`).
const GO: (u32, u32) = (1, 24);

/// Most files of a source directory that are watched, so that a strange place costs nothing worth naming.
const MAX_SOURCES: usize = 2000;

impl Language {
    /// The word for it on the command line.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Language::Rust => "rust",
            Language::C => "c",
            Language::Cpp => "cpp",
            Language::Zig => "zig",
            Language::AssemblyScript => "assemblyscript",
            Language::Go => "go",
        }
    }

    /// Its name.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Language::Rust => "Rust",
            Language::C => "C",
            Language::Cpp => "C++",
            Language::Zig => "Zig",
            Language::AssemblyScript => "AssemblyScript",
            Language::Go => "Go",
        }
    }

    /// The language of a word.
    #[cfg(test)]
    pub(super) fn of(word: &str) -> Option<Language> {
        Language::from_str(word, false).ok()
    }

    /// Where the module of a scaffold with this name is.
    pub(super) fn module(self, name: &str) -> PathBuf {
        match self {
            Language::Rust => {
                Path::new("target").join(TARGET).join("release").join(format!("{}.wasm", name.replace('-', "_")))
            }
            _ => PathBuf::from(format!("{name}.wasm")),
        }
    }
}

impl Project {
    /// The filter in a directory.
    pub(super) fn find(directory: &Path) -> Result<Project, Failure> {
        let cannot = |error| Failure::Input(format!("cannot read {}: {error}", directory.display()));
        let names: Vec<String> = fs::read_dir(directory)
            .map_err(cannot)?
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        let has = |name: &str| names.iter().any(|own| own == name);
        let ends = |end: &str| names.iter().any(|own| own.ends_with(end));
        let language = match () {
            () if has("Cargo.toml") => Language::Rust,
            () if has("go.mod") => Language::Go,
            () if has("package.json") => Language::AssemblyScript,
            () if has("build.zig") || ends(".zig") => Language::Zig,
            () if ends(".cc") || ends(".cpp") || ends(".cxx") => Language::Cpp,
            () if ends(".c") => Language::C,
            () => {
                let wanted = "Cargo.toml, go.mod, package.json, build.zig, or a .zig, .cc, .cpp or .c file";
                let why = format!("{} has no filter in it: no {wanted}", directory.display());
                return Err(Failure::Input(format!("{why}; `lacis filter new NAME` makes one")));
            }
        };
        Ok(Project { directory: directory.to_owned(), language })
    }

    /// The file of its cases.
    pub(super) fn cases(&self) -> PathBuf {
        self.directory.join("cases.yaml")
    }

    /// Runs the tests that its language brings along. What they write goes to standard error.
    pub(super) fn native_tests(&self) -> Result<(), Failure> {
        if self.language != Language::Rust {
            return Ok(());
        }
        self.toolchain()?;
        let mut cargo = self.command("cargo");
        cargo.arg("test");
        run(cargo)
    }

    /// Builds it; the module's path. What the toolchain writes goes to standard error.
    pub(super) fn build(&self, aim: Aim) -> Result<PathBuf, Failure> {
        self.toolchain()?;
        self.build_again(aim)
    }

    /// Builds it where that was done before, so that the toolchain is there.
    pub(super) fn build_again(&self, aim: Aim) -> Result<PathBuf, Failure> {
        if self.language == Language::Rust {
            return self.cargo(aim);
        }
        if ["Makefile", "makefile", "GNUmakefile"].iter().any(|name| self.directory.join(name).exists()) {
            self.wants(&["make"], "apt-get install make")?;
            run(self.command("make"))?;
            return self.newest(&[&self.directory]);
        }
        let name = std::path::absolute(&self.directory).ok();
        let name = name.as_deref().and_then(Path::file_name).and_then(OsStr::to_str).unwrap_or("filter");
        let module = format!("{name}.wasm");
        match self.language {
            Language::Go => {
                let mut go = self.command("go");
                go.args(["build", "-buildmode=c-shared", "-o", &module, "."])
                    .env("GOOS", "wasip1")
                    .env("GOARCH", "wasm");
                run(go)?;
                Ok(self.made(module))
            }
            Language::AssemblyScript => {
                if !self.directory.join("node_modules").exists() {
                    let mut npm = self.command("npm");
                    npm.args(["install", "--no-fund", "--no-audit"]);
                    run(npm)?;
                }
                let mut npm = self.command("npm");
                npm.args(["run", "build"]);
                run(npm)?;
                self.newest(&[&self.directory.join("build"), &self.directory])
            }
            Language::Zig => {
                let mut zig = self.command("zig");
                zig.arg("build");
                run(zig)?;
                self.newest(&[&self.directory.join("zig-out/bin"), &self.directory])
            }
            Language::C | Language::Cpp => {
                let (ends, plus): (&[&str], _) = match self.language {
                    Language::Cpp => (&["cc", "cpp", "cxx"], true),
                    _ => (&["c"], false),
                };
                let mut clang = self.command("clang");
                clang.args([
                    "--target=wasm32-wasi",
                    "-mexec-model=reactor",
                    "-O2",
                    "-Wall",
                    "-Wl,--strip-all",
                    "-o",
                    &module,
                ]);
                let sources = self.sources();
                let own = |path: &&PathBuf| {
                    let end = path.extension().and_then(OsStr::to_str);
                    path.parent() == Some(&self.directory) && end.is_some_and(|end| ends.contains(&end))
                };
                clang.args(sources.iter().filter(own).filter_map(|path| path.file_name()));
                if plus {
                    clang.args(["-fno-exceptions", "-lc++", "-lc++abi"]);
                }
                run(clang)?;
                Ok(self.made(module))
            }
            Language::Rust => self.cargo(aim),
        }
    }

    /// Every file that it may be made of, and none that it makes.
    pub(super) fn sources(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        walk(&self.directory, &written(), &mut found);
        found.sort();
        found
    }

    /// By cargo, which says what it has made.
    fn cargo(&self, aim: Aim) -> Result<PathBuf, Failure> {
        let mut cargo = self.command("cargo");
        cargo.args(["build", "--release", "--target", TARGET, "--message-format", "json-render-diagnostics"]);
        if aim == Aim::Try {
            cargo.args(SOON.iter().flat_map(|setting| ["--config", setting]));
        }
        let output = cargo.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
        let output = output.map_err(|error| Failure::Input(format!("cargo does not start: {error}")))?;
        if !output.status.success() {
            return Err(Failure::Input(format!("the filter does not build (cargo ended with {})", output.status)));
        }
        let said = String::from_utf8_lossy(&output.stdout);
        let modules: Vec<PathBuf> = said
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|message| message["reason"] == "compiler-artifact")
            .flat_map(|message| message["filenames"].as_array().cloned().unwrap_or_default())
            .filter_map(|file| file.as_str().filter(|file| file.ends_with(".wasm")).map(PathBuf::from))
            .collect();
        let here = std::env::current_dir().unwrap_or_default();
        match modules.as_slice() {
            [module] => Ok(module.strip_prefix(&here).map(Path::to_owned).unwrap_or_else(|_| module.clone())),
            [] => Err(Failure::Input(
                "cargo made no module; write `crate-type = [\"cdylib\"]` below [lib] in Cargo.toml".into(),
            )),
            several => {
                let names: Vec<String> = several.iter().map(|module| module.display().to_string()).collect();
                Err(Failure::Input(format!("cargo made several modules: {}; build one package", names.join(", "))))
            }
        }
    }

    /// The youngest module in the first of these directories that has one.
    fn newest(&self, directories: &[&Path]) -> Result<PathBuf, Failure> {
        for directory in directories {
            let Ok(entries) = fs::read_dir(directory) else { continue };
            let modules =
                entries.flatten().map(|entry| entry.path()).filter(|path| path.extension() == Some("wasm".as_ref()));
            let age = |path: &PathBuf| fs::metadata(path).and_then(|data| data.modified()).ok();
            if let Some(module) = modules.max_by_key(age) {
                return Ok(module.strip_prefix("./").map(Path::to_owned).unwrap_or(module));
            }
        }
        Err(Failure::Input(format!("the build made no module (*.wasm) in {}", self.directory.display())))
    }

    /// A file that the build has made, as one names it from here.
    fn made(&self, file: String) -> PathBuf {
        if self.directory == Path::new(".") { file.into() } else { self.directory.join(file) }
    }

    /// Whether everything is there that the build needs; else what installs it, in one command.
    fn toolchain(&self) -> Result<(), Failure> {
        const CLANG: &str = "apt-get install clang lld wasi-libc libclang-rt-dev-wasm32";
        const CPP: &str =
            "apt-get install clang lld wasi-libc libclang-rt-dev-wasm32 libc++-dev-wasm32 libc++abi-dev-wasm32";
        match self.language {
            Language::Rust => {
                self.wants(&["cargo", "rustc"], "curl -fsS https://sh.rustup.rs | sh -s -- -y")?;
                let mut rustc = self.command("rustc");
                rustc.args(["--print", "target-libdir", "--target", TARGET]);
                let folder = rustc.output().map(|output| output.stdout).unwrap_or_default();
                let folder = String::from_utf8_lossy(&folder).trim().to_owned();
                let holds_std = |entry: fs::DirEntry| entry.file_name().to_string_lossy().starts_with("libstd-");
                if fs::read_dir(folder).is_ok_and(|entries| entries.flatten().any(holds_std)) {
                    return Ok(());
                }
                Err(missing("Rust's target wasm32-wasip1", "rustup target add wasm32-wasip1"))
            }
            Language::C | Language::Cpp => {
                let install = if self.language == Language::C { CLANG } else { CPP };
                self.wants(&["clang", "wasm-ld"], install)?;
                let (kind, header) = if self.language == Language::C { ("c", "stdlib.h") } else { ("c++", "string") };
                let mut clang = self.command("clang");
                clang.args(["--target=wasm32-wasi", "-E", "-include", header, "-x", kind, "/dev/null"]);
                clang.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                if clang.status().is_ok_and(|status| status.success()) {
                    return Ok(());
                }
                Err(missing(&format!("the library of {} for WebAssembly (<{header}>)", self.language.name()), install))
            }
            Language::Zig => self.wants(&["zig"], "snap install zig --classic --beta"),
            Language::AssemblyScript => self.wants(&["node", "npm"], "apt-get install nodejs npm"),
            Language::Go => {
                let machine = if std::env::consts::ARCH == "aarch64" { "arm64" } else { "amd64" };
                let install = format!(
                    "curl -fsSL https://go.dev/dl/go1.24.13.linux-{machine}.tar.gz | tar -C /usr/local -xz (and put \
                     /usr/local/go/bin in PATH)"
                );
                self.wants(&["go"], &install)?;
                let mut go = self.command("go");
                go.args(["env", "GOVERSION"]);
                let said = go.output().map(|output| output.stdout).unwrap_or_default();
                let said = String::from_utf8_lossy(&said).trim().to_owned();
                match version(&said) {
                    Some(version) if version < GO => {
                        Err(missing(&format!("Go {}.{} or newer ({said} is here)", GO.0, GO.1), &install))
                    }
                    _ => Ok(()),
                }
            }
        }
    }

    /// Fails if one of these programs is not in PATH.
    fn wants(&self, programs: &[&str], install: &str) -> Result<(), Failure> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        match programs.iter().find(|program| !is_in(&path, program)) {
            None => Ok(()),
            Some(program) => Err(missing(
                &format!("`{program}`, which filters in {} are built with,", self.language.name()),
                install,
            )),
        }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.directory);
        command
    }
}

fn missing(what: &str, install: &str) -> Failure {
    Failure::Input(format!("{what} is not here; install it with: {install}"))
}

fn is_in(path: &OsString, program: &str) -> bool {
    std::env::split_paths(path).any(|folder| folder.join(program).is_file())
}

/// Runs a tool; what it says is not data of ours.
fn run(mut command: Command) -> Result<(), Failure> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command.stdin(Stdio::null()).stdout(std::io::stderr()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => {
            let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
            Err(Failure::Input(format!(
                "`{}` failed ({status})",
                [name.as_str(), &words.join(" ")].join(" ").trim_end()
            )))
        }
        Err(error) => Err(Failure::Input(format!("{name} does not start: {error}"))),
    }
}

/// `go1.24.3` as its first two numbers.
fn version(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said.strip_prefix("go")?.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Source files below a directory. What begins with a dot, what builds leave behind, and logs are none.
fn walk(directory: &Path, written: &[(u64, u64)], found: &mut Vec<PathBuf>) {
    const OUTPUTS: [&str; 4] = ["target", "node_modules", "build", "zig-out"];
    const OTHERS: [&str; 4] = ["Cargo.lock", "package-lock.json", "lacis.yaml", "cases.yaml"];
    // Cargo marks every directory that it builds in, whatever its name.
    const CACHE: &str = "CACHEDIR.TAG";
    const ENDS: [&str; 2] = [".wasm", ".log"];
    let Ok(entries) = fs::read_dir(directory) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with('.') || found.len() >= MAX_SOURCES {
            continue;
        }
        let Ok(about) = fs::metadata(&path) else { continue };
        match about.is_dir() {
            true if OUTPUTS.contains(&name.as_str()) || path.join(CACHE).exists() => {}
            true => walk(&path, written, found),
            false if ENDS.iter().any(|end| name.ends_with(end)) || OTHERS.contains(&name.as_str()) => {}
            false if written.contains(&(about.dev(), about.ino())) => {}
            false => found.push(path),
        }
    }
}

/// The files that this process has open, by device and number: its log may be written into the directory of the filter, and
/// to build because of what a build logs would never end.
fn written() -> Vec<(u64, u64)> {
    let open = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    open.filter_map(|entry| fs::metadata(entry.path()).ok()).map(|about| (about.dev(), about.ino())).collect()
}

/// A size for people.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_language_is_told_by_files() {
        for (files, language) in [
            (&["Cargo.toml", "x.c"][..], Some(Language::Rust)),
            (&["go.mod", "main.go"], Some(Language::Go)),
            (&["package.json"], Some(Language::AssemblyScript)),
            (&["filter.zig"], Some(Language::Zig)),
            (&["filter.cc", "more.c"], Some(Language::Cpp)),
            (&["filter.c"], Some(Language::C)),
            (&["README.md"], None),
        ] {
            let directory = tempfile::tempdir().unwrap();
            files.iter().for_each(|file| fs::write(directory.path().join(file), "").unwrap());
            assert_eq!(Project::find(directory.path()).ok().map(|project| project.language), language, "{files:?}");
        }
    }

    #[test]
    fn versions_of_go() {
        assert_eq!(version("go1.24.13"), Some((1, 24)));
        assert_eq!(version("go1.9"), Some((1, 9)));
        assert_eq!(version("devel"), None);
        assert!((1, 9) < GO && (2, 0) > GO);
    }

    #[test]
    fn what_a_build_makes_is_no_source() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        };
        let others =
            ["target/x.rs", "out/CACHEDIR.TAG", "out/x.rs", ".git/config", "filter.wasm", "cases.yaml", "run.log"];
        ["src/lib.rs", "x.h", "own"].into_iter().chain(others).for_each(file);
        let _ours = fs::File::open(directory.path().join("own")).unwrap();
        let project = Project { directory: directory.path().to_owned(), language: Language::Rust };
        let mut names: Vec<_> = project.sources().iter().map(|p| p.file_name().unwrap().to_owned()).collect();
        names.sort();
        assert_eq!(names, ["lib.rs", "x.h"]);
    }

    #[test]
    fn sizes() {
        assert_eq!([size(5), size(2048), size(3 << 20)], ["5 B", "2.0 KiB", "3.0 MiB"]);
    }
}
