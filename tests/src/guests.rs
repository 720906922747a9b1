//! The filters of `tests/guests`: one in every language, compiled by the toolchain of that language.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process;

use crate::peers::peer;
use crate::process::target;

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
}

const RECIPES: [Recipe; 5] = [
    Recipe {
        language: "go",
        compiler: "go",
        arguments: "build -mod=readonly -buildmode=c-shared -o OUT .",
        env: &[("GOOS", "wasip1"), ("GOARCH", "wasm")],
    },
    Recipe {
        language: "cpp",
        compiler: "clang",
        arguments: "--target=wasm32-wasi -mexec-model=reactor -std=c++17 -O2 -fno-exceptions -Wall -Wextra \
                    greeter.cc -lc++ -lc++abi -o OUT",
        env: &[],
    },
    Recipe {
        language: "assemblyscript",
        compiler: "asc",
        arguments: "greeter.ts --optimize --use abort=greeter/abort -o OUT",
        env: &[],
    },
    Recipe {
        language: "assemblyscript-sdk",
        compiler: "sdk-asc",
        arguments: "greeter.ts --optimize --use abort=abort_proc_exit --path PEERS/npm/node_modules -b OUT",
        env: &[],
    },
    Recipe {
        language: "zig",
        compiler: "zig",
        arguments: "build-exe greeter.zig -target wasm32-wasi -O ReleaseSmall -fno-entry -rdynamic \
                    --cache-dir CACHE --global-cache-dir CACHE -femit-bin=OUT",
        env: &[],
    },
];

/// The module of a language (a directory of `tests/guests`), compiled unless that was done with this very content.
/// `None`, loudly, without its compiler; see [`peer`].
pub fn foreign_guest(language: &str) -> Option<PathBuf> {
    let recipe = RECIPES.iter().find(|recipe| recipe.language == language).expect("a language");
    let compiler = peer(recipe.compiler)?;
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("guests").join(language);
    let out = target().join("guests");
    let module = out.join(format!("{language}-{:016x}.wasm", digest(&sources, recipe)));
    if module.exists() {
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
    let output = command.args(recipe.arguments.split_whitespace().map(fill)).output().expect("the compiler runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{said}", output.status);
    fs::rename(&fresh, &module).expect("a module");
    Some(module)
}

/// What a module is made of, as a number.
fn digest(sources: &Path, recipe: &Recipe) -> u64 {
    let mut hasher = DefaultHasher::new();
    (recipe.compiler, recipe.arguments).hash(&mut hasher);
    let mut files: Vec<PathBuf> =
        fs::read_dir(sources).expect("its sources").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    for file in files {
        file.file_name().hash(&mut hasher);
        fs::read(&file).expect("a source").hash(&mut hasher);
    }
    hasher.finish()
}
