//! The layers of the sidecar's library, and of the host of its filters, checked by reading their sources: who may import whom, and which library may be
//! named where. See `proxy/ARCHITECTURE.md`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The layers from the bottom. A module imports only from layers below its own; a new module must be given a place.
const LAYERS: &[&[&str]] = &[
    &["clock", "fault", "identity", "endpoint"],
    &["config", "drain", "telemetry"],
    // Wires stand on one another: `tls` decides who is trusted, `net` carries bytes, `http` makes messages of them.
    &["tls"],
    &["net"],
    &["http"],
    &["route", "policy", "cluster", "filter"],
    &["mesh"],
    &["worker"],
    &["control", "admin"],
    &["app", "demo"],
    // `lacis run` starts the process that `app` is.
    &["cli"],
    &["main"],
];

/// Those of `lacis-host`.
const HOST: &[&[&str]] = &[
    &["limits", "protobuf", "joint"],
    // `stream` and `callout`, then `world`, are what an embedder is asked for.
    &["engine", "symbol", "stream"],
    &["artifact", "exports", "callout", "overtime", "trap"],
    &["world", "grpc_service", "queue"],
    &["shared"],
    // What the host keeps for a VM: its contexts, the callbacks of one entry, all of it.
    &["contexts"],
    &["turn"],
    &["state"],
    &["memory"],
    &["calls"],
    &["imports"],
    &["allow"],
    &["link"],
    &["plugin"],
    &["vm"],
    &["testing"],
];

/// Words of libraries, and the only places that may say them: a file, or a folder with everything in it.
const NAMES: &[(&str, &[&str])] = &[
    ("wasmtime", &[]),
    ("quinn", &["net/quic", "http/h3"]),
    ("rustls", &["tls", "net/quic"]),
    ("hickory_resolver", &["control/discovery/dns"]),
    // `raw` is what a file may say; `reader` gives it a place in the file, `word` the types that stand for a word in it.
    ("serde", &["config/raw", "config/reader", "config/word", "admin"]),
    // The command line, and the log's words, which are options of it (`ValueEnum`).
    ("clap", &["cli", "main", "telemetry/log"]),
];

/// Files may be read where a worker never waits for it: at the start, and by control and the command line.
const FILES: (&[&str], &[&str]) = (
    &["std::fs", "fs::read", "File::open", "tokio::fs"],
    &[
        // `config::load`, for whoever asks for it: `run`, `check` and a reload. Nothing else there touches files.
        "config/resolve.rs",
        "config/file.rs",
        // Keys and certificates, for `control/certificates` and `lacis cert`.
        "tls/settings.rs",
        "tls/authority.rs",
        // The access log's own thread.
        "telemetry/access.rs",
        "telemetry/access/",
        "control/",
        "admin/",
        "cli/",
        // The demo writes the certificates and configurations of its mesh; it has no data path of its own.
        "demo/",
        "app.rs",
    ],
);

/// Where they lie.
const PROXY: &str = "proxy/src";
const HOST_SOURCES: &str = "proxy/host/src";

/// Lines of a file without its tests.
const LONGEST: usize = 600;

#[test]
fn modules_import_only_from_lower_layers() {
    let wrong = [wrong_imports(&sources(PROXY), LAYERS), wrong_imports(&sources(HOST_SOURCES), HOST)].concat();
    assert!(wrong.is_empty(), "imports upward or sideways:\n{}", wrong.join("\n"));
}

fn wrong_imports(files: &[Source], layers: &[&[&str]]) -> Vec<String> {
    let layer = |module: &str| match module {
        "lib" => Some(layers.len()),
        _ => layers.iter().position(|layer| layer.contains(&module)),
    };
    let mut wrong = Vec::new();
    for file in files {
        let Some(own) = layer(&file.module) else {
            wrong.push(format!("{}: the module `{}` has no layer", file.name, file.module));
            continue;
        };
        for (line, other) in file.imports() {
            let allowed = other == file.module || layer(&other).is_some_and(|l| l < own) || file.name == "lib.rs";
            if !allowed {
                wrong.push(format!("{}:{line}: `{}` may not import `{other}`", file.name, file.module));
            }
        }
    }
    wrong
}

#[test]
fn libraries_are_named_only_where_they_belong() {
    let mut wrong = Vec::new();
    for file in sources(PROXY) {
        for (name, places) in NAMES {
            let at_home = places
                .iter()
                .any(|place| file.name.strip_prefix(place).is_some_and(|rest| rest == ".rs" || rest.starts_with('/')));
            if !at_home && !file.has_own(name) {
                wrong.extend(file.names(name).map(|line| format!("{}:{line}: names `{name}`", file.name)));
            }
        }
    }
    assert!(wrong.is_empty(), "a library is named outside its home:\n{}", wrong.join("\n"));
}

#[test]
fn files_are_read_only_where_nobody_waits_for_them() {
    let (words, homes) = FILES;
    let mut wrong = Vec::new();
    for file in sources(PROXY).iter().filter(|file| !homes.iter().any(|home| file.name.starts_with(home))) {
        for word in words {
            wrong.extend(file.containing(word).map(|line| format!("{}:{line}: names `{word}`", file.name)));
        }
    }
    assert!(wrong.is_empty(), "a file is touched outside of control:\n{}", wrong.join("\n"));
}

#[test]
fn the_file_as_written_is_seen_only_by_what_resolves_it() {
    let readers = ["config/mod.rs", "config/raw.rs", "config/resolve.rs", "config/schema.rs"];
    let outside = sources(PROXY).into_iter().filter(|f| {
        !readers.contains(&f.name.as_str())
            && !f.name.starts_with("config/raw/")
            && !f.name.starts_with("config/resolve/")
    });
    let wrong: Vec<String> = outside
        .flat_map(|f| f.containing("config::raw").map(|line| format!("{}:{line}", f.name)).collect::<Vec<_>>())
        .collect();
    assert!(wrong.is_empty(), "`config::raw` is named by {wrong:?}");
}

#[test]
fn no_file_is_too_long() {
    let long: Vec<String> = [sources(PROXY), sources(HOST_SOURCES)]
        .iter()
        .flatten()
        .map(|f| (f, f.code.len()))
        .filter(|(_, lines)| *lines > LONGEST)
        .map(|(f, lines)| format!("{}: {lines} lines without tests", f.name))
        .collect();
    assert!(long.is_empty(), "split these: {long:#?}");
}

/// A source file up to its tests, comments blanked.
struct Source {
    /// Relative to the folder.
    name: String,
    /// The first part of its module path.
    module: String,
    code: Vec<String>,
}

impl Source {
    fn read(root: &Path, path: &Path) -> Source {
        let name = path.strip_prefix(root).expect("below the root").to_string_lossy().into_owned();
        let module = name.split(['/', '.']).next().unwrap_or_default().to_owned();
        let text = fs::read_to_string(path).expect("a readable source");
        let code = text.lines().take_while(|line| line.trim() != "#[cfg(test)]");
        let code = code.map(|line| line.split("//").next().unwrap_or_default().to_owned()).collect();
        Source { name, module, code }
    }

    /// Line numbers and first parts of what `crate::…` names, also in groups: `use crate::{a, b::c}`.
    fn imports(&self) -> Vec<(usize, String)> {
        let text = self.code.join("\n");
        let mut found = Vec::new();
        for (at, _) in text.match_indices("crate::") {
            if text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
                continue;
            }
            let line = text[..at].matches('\n').count() + 1;
            let rest = &text[at + "crate::".len()..];
            let names = if let Some(group) = rest.strip_prefix('{') { tops(group) } else { vec![word(rest)] };
            found.extend(names.into_iter().map(|name| (line, name)));
        }
        found
    }

    /// Whether the name means a module of ours in this file, as `h3` may after `use crate::http::{h2, h3}`.
    fn has_own(&self, name: &str) -> bool {
        let text = self.code.join("\n");
        let declared = [format!("super::{name}"), format!("http::{name}"), format!("mod {name};")];
        let groups = ["http::{", "super::{"].into_iter().flat_map(|open| text.split(open).skip(1));
        groups.into_iter().any(|group| tops(group).iter().any(|top| top == name))
            || declared.iter().any(|words| text.contains(words))
    }

    /// Lines that name a library as a path: `name::…`, `use name;`, `extern crate name`.
    fn names(&self, name: &str) -> impl Iterator<Item = usize> {
        let path = format!("{name}::");
        let plain = [format!("use {name};"), format!("extern crate {name}")];
        self.code.iter().enumerate().filter_map(move |(i, line)| {
            let whole = line.match_indices(&path).any(|(at, _)| {
                let before = line[..at].chars().next_back();
                before.is_none_or(|c| !(c.is_alphanumeric() || c == '_' || c == ':'))
            });
            (whole || plain.iter().any(|p| line.contains(p))).then_some(i + 1)
        })
    }

    fn containing(&self, text: &str) -> impl Iterator<Item = usize> {
        self.code.iter().enumerate().filter_map(move |(i, line)| line.contains(text).then_some(i + 1))
    }
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// First words of the members of a group, up to its closing brace.
fn tops(group: &str) -> Vec<String> {
    let mut depth = 0;
    let mut member = String::new();
    let mut members = BTreeSet::new();
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                members.insert(word(member.trim()));
                member.clear();
                continue;
            }
            _ => {}
        }
        member.push(c);
    }
    members.insert(word(member.trim()));
    members.remove("");
    members.into_iter().collect()
}

fn sources(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").join(folder);
    let mut files = Vec::new();
    walk(&root, &mut files);
    assert!(files.len() > 5, "no sources in {}", root.display());
    files.iter().map(|path| Source::read(&root, path)).collect()
}

fn walk(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a readable folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            walk(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") && !is_test(&path) {
            files.push(path);
        }
    }
    files.sort();
}

/// Whether this is a file of tests, which may name and open what they like.
fn is_test(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == "tests.rs") || path.parent().is_some_and(|dir| dir.ends_with("tests"))
}

#[test]
fn groups_of_imports_are_taken_apart() {
    let code =
        ["use crate::{a::b, c::{d, e}, f};", "let x = crate::g::h();", "mycrate::i;"].map(str::to_owned).to_vec();
    let source = Source { name: "x.rs".into(), module: "x".into(), code };
    let names: Vec<String> = source.imports().into_iter().map(|(_, name)| name).collect();
    assert_eq!(names, ["a", "c", "f", "g"]);
    assert_eq!((source.names("g").count(), source.names("mycrate").count()), (0, 1));
}
