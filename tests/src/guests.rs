//! The filters of `tests/guests`: one in every language, compiled by the toolchain of that language.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use serde_json::json;
use tempfile::NamedTempFile;

use crate::peers::peer;
use crate::process::{command, target};

/// How the guest of one language is compiled.
struct Recipe {
    /// Its directory, where the compiler runs.
    language: &'static str,
    /// The compiler; see `tests/peers/install`.
    compiler: &'static str,
    /// Its arguments. `OUT` stands for the module, `CACHE` for a directory of the compiler's, `PEERS` for where the
    /// peers are.
    arguments: &'static str,
    env: &'static [(&'static str, &'static str)],
    /// The directory in `sdk` that it uses.
    sdk: Option<&'static str>,
}

const RECIPES: [Recipe; 5] = [
    Recipe {
        language: "go",
        compiler: "go",
        arguments: "build -mod=readonly -buildvcs=false -buildmode=c-shared -o OUT .",
        env: &[("GOOS", "wasip1"), ("GOARCH", "wasm")],
        sdk: None,
    },
    Recipe {
        language: "cpp",
        compiler: "clang",
        arguments: "--target=wasm32-wasi -mexec-model=reactor -std=c++17 -O2 -fno-exceptions -Wall -Wextra \
                    -I../../../sdk/c greeter.cc -lc++ -lc++abi -o OUT",
        env: &[],
        sdk: Some("c"),
    },
    Recipe {
        language: "assemblyscript",
        compiler: "asc",
        arguments: "greeter.ts --optimize --use abort=../../../sdk/assemblyscript/lacis/abort -o OUT",
        env: &[],
        sdk: Some("assemblyscript"),
    },
    Recipe {
        language: "assemblyscript-sdk",
        compiler: "sdk-asc",
        arguments: "greeter.ts --optimize --use abort=abort_proc_exit --path PEERS/npm/node_modules -b OUT",
        env: &[],
        sdk: None,
    },
    Recipe {
        language: "zig",
        compiler: "zig",
        arguments: "build-exe -target wasm32-wasi -O ReleaseSmall --stack 65536 -fno-entry -rdynamic --dep lacis -Mroot=greeter.zig \
                    -Mlacis=../../../sdk/zig/lacis.zig --cache-dir CACHE --global-cache-dir CACHE -femit-bin=OUT",
        env: &[],
        sdk: Some("zig"),
    },
];

/// The module of a language (a directory of `tests/guests`), compiled unless that was done with this very content.
/// `None`, loudly, without its compiler; see [`peer`].
pub fn foreign_guest(language: &str) -> Option<PathBuf> {
    let recipe = RECIPES.iter().find(|recipe| recipe.language == language).expect("a language");
    let compiler = peer(recipe.compiler)?;
    let sources = repository().join("tests/guests").join(language);
    let sdk = recipe.sdk.map(|name| repository().join("sdk").join(name));
    let all: Vec<&PathBuf> = std::iter::once(&sources).chain(&sdk).collect();
    let out = target().join("guests");
    let module = out.join(format!("{language}-{:016x}.wasm", digest(&all, (recipe.compiler, recipe.arguments))));
    if module.exists() {
        translate(&module);
        return Some(module);
    }
    fs::create_dir_all(&out).expect("a directory");
    // Of this process alone, for others may be at it too.
    let fresh = out.join(format!("{language}-{}.wasm", process::id()));
    let text = |path: PathBuf| path.to_str().expect("a path of ours").to_owned();
    let places = [("OUT", fresh.clone()), ("CACHE", out.join(language)), ("PEERS", target().join("peers"))];
    let places = places.map(|(word, path)| (word, text(path)));
    let fill = |word: &str| places.iter().fold(word.to_owned(), |word, (name, path)| word.replace(name, path));
    let mut command = compiler.command();
    command.current_dir(&sources).envs(recipe.env.iter().copied());
    succeed(command.args(recipe.arguments.split_whitespace().map(fill)));
    fs::rename(&fresh, &module).expect("a module");
    translate(&module);
    Some(module)
}

/// Has it translated for this machine now, into the cache if it is not there: of a module with a whole runtime in it that
/// takes longer, where much else runs, than a test waits for a sidecar. The cache is not kept as long as the module is.
fn translate(module: &Path) {
    let config = json!({
        "node": {"service": "alpha"},
        "outbound": {"listen": "127.0.0.1:0", "filters": ["guest"]},
        "services": {"delta": {"endpoints": ["127.0.0.1:9"], "link": "plaintext"}},
        "filters": {"guest": {"module": module, "config": "Hello", "root_id": "greeter", "limits": {"time": "10s"}}},
    });
    let file = NamedTempFile::with_suffix(".yaml").expect("a file");
    fs::write(file.path(), config.to_string()).expect("a written configuration");
    let output = command(&["check", "-c"]).arg(file.path()).output().expect("lacis runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// Where everything is.
pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository")
}

/// Runs a compiler; what it said is the test's failure.
pub(crate) fn succeed(command: &mut Command) {
    let output = command.output().expect("the compiler runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{said}", output.status);
}

/// What a module is made of, as a number: the files of some directories, and how it is made.
pub(crate) fn digest(sources: &[impl AsRef<Path>], how: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    how.hash(&mut hasher);
    for sources in sources {
        for file in files(sources.as_ref()) {
            file.file_name().hash(&mut hasher);
            fs::read(&file).expect("a source").hash(&mut hasher);
        }
    }
    hasher.finish()
}

/// The sources in a directory, in order: its files, but for a module that somebody has built there.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("the sources").map(|entry| entry.expect("an entry").path());
    let is_source = |path: &PathBuf| path.is_file() && path.extension().is_none_or(|extension| extension != "wasm");
    let mut files: Vec<PathBuf> = entries.filter(is_source).collect();
    files.sort();
    files
}
