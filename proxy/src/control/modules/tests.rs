//! Whole preparations, with a compiler that is this test program: see `compiler_child`.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process;

use super::*;
use crate::config;

/// Tells the child what to write; unset where it is no child.
const OUTPUT: &str = "LACIS_TEST_COMPILE_TO";

/// The least filter: `proxy_on_configure` does what is given and answers its value.
fn filter(configure: &str) -> String {
    format!(
        r#"(module
            (import "env" "proxy_log" (func $log (param i32 i32 i32) (result i32)))
            (import "env" "proxy_get_property" (func $property (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 0) "first wordlast word")
            (func (export "proxy_abi_version_0_2_1"))
            (func (export "malloc") (param i32) (result i32) (i32.const 1024))
            (func (export "proxy_on_configure") (param i32 i32) (result i32) {configure}))"#
    )
}

/// Says both its words, at level info.
const WORDS: &str = "(drop (call $log (i32.const 2) (i32.const 0) (i32.const 10)))
                     (drop (call $log (i32.const 2) (i32.const 10) (i32.const 9)))";

struct Place {
    directory: tempfile::TempDir,
    tools: Tools,
}

impl Place {
    fn new() -> Place {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::at(directory.path().join("cache")).unwrap();
        // Not a script in a file: a file that was just written cannot run while another test's child inherits it.
        let script = format!(
            "echo >> '{}'; {OUTPUT}=\"$2\" exec '{}' --exact {}::compiler_child --nocapture",
            directory.path().join("count").display(),
            std::env::current_exe().unwrap().display(),
            module_path!().split_once("::").unwrap().1,
        );
        let arguments = vec!["-c", &*script.leak(), "compiler"];
        let compiler = Compiler { program: "/bin/sh".into(), arguments, time: compiler::TIME_MAX, memory: u64::MAX };
        let engine = Engine::new(&Options { compiler: false, ..Options::default() }).unwrap();
        Place { directory, tools: Tools { engine, compiler, cache: Arc::new(cache) } }
    }

    fn module(&self, name: &str, code: impl AsRef<[u8]>) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(
            &path,
            wat::parse_bytes(code.as_ref()).map_or_else(|_| code.as_ref().into(), |code| code.into_owned()),
        )
        .unwrap();
        path
    }

    /// Prepares filters that are given as lines of the section `filters`, all used by the outbound listener.
    fn prepare(&self, filters: &[(&str, String)]) -> Result<(), String> {
        self.plan(filters, &[]).map(drop)
    }

    /// The same beside filters that are in use.
    fn plan(&self, filters: &[(&str, String)], ready: &[Arc<Compiled>]) -> Result<Plan, String> {
        let config = config(filters, filters.iter().map(|(name, _)| *name));
        prepare_with(&config, ready, &[], &self.tools, Patience::Once, &Stop::default())
            .map(|(plan, _)| plan)
            .map_err(|refusals| told(&refusals))
    }

    /// The one problem of a filter with this module, its path written as `FILE`.
    fn problem(&self, code: impl AsRef<[u8]>) -> String {
        let path = self.module("test.wasm", code);
        let problem = self.prepare(&[("test", format!("module: {}", path.display()))]).unwrap_err();
        problem.replace(path.to_str().unwrap(), "FILE")
    }

    fn compilations(&self) -> usize {
        fs::read(self.directory.path().join("count")).map_or(0, |count| count.len())
    }

    fn artifacts(&self) -> Vec<PathBuf> {
        fs::read_dir(self.directory.path().join("cache")).unwrap().map(|entry| entry.unwrap().path()).collect()
    }
}

fn config<'a>(filters: &[(&str, String)], used: impl Iterator<Item = &'a str>) -> Config {
    let mut text = format!(
        "node: {{service: alpha}}\noutbound: {{listen: 127.0.0.1:0, filters: [{}]}}\nfilters:\n",
        used.collect::<Vec<_>>().join(", ")
    );
    for (name, settings) in filters {
        writeln!(text, "  {name}: {{{settings}}}").unwrap();
    }
    let host = config::resolve::Host { variable: &|_| None, exists: &|_| true, cores: 1 };
    config::parse(&text, "test", Path::new("/"), &host).unwrap().0
}

/// No test of its own: what [`Compiler`] starts.
#[test]
fn compiler_child() {
    let Some(output) = std::env::var_os(OUTPUT) else { return };
    let code = module(std::io::stdin(), 0).unwrap();
    let compiled = Engine::new(&Options::default()).unwrap().compile(&code);
    match compiled {
        Ok(artifact) => fs::write(output, artifact).unwrap(),
        Err(error) => {
            eprintln!("lacis: {error}");
            process::exit(1);
        }
    }
}

#[test]
fn a_module_is_compiled_once() {
    let place = Place::new();
    let path = place.module("one.wasm", filter("(i32.const 1)")).display().to_string();
    let both = [("one", format!("module: {path}")), ("two", format!("module: {path}, config: other"))];
    assert_eq!(place.prepare(&both), Ok(()));
    assert_eq!(place.compilations(), 1, "two filters of one module");
    assert_eq!(place.prepare(&both), Ok(()));
    assert_eq!(place.compilations(), 1, "a second start");
    place.module("one.wasm", filter("(i32.const 2)"));
    assert_eq!(place.prepare(&both), Ok(()));
    assert_eq!((place.compilations(), place.artifacts().len()), (2, 2), "another module at the same path");
}

#[test]
fn what_no_listener_uses_is_not_touched() {
    let place = Place::new();
    let filters = [("one", "module: /nonexistent".to_owned())];
    let config = config(&filters, std::iter::empty());
    let stop = Stop::default();
    assert_eq!(prepare_with(&config, &[], &[], &place.tools, Patience::Once, &stop).map(drop).ok(), Some(()));
    let mut workshop = Workshop::default();
    assert_eq!(workshop.prepare(&config, &stop).map(drop), Ok(()));
    assert!(workshop.tools.is_none(), "no engine where nothing runs");
}

#[test]
fn what_has_not_changed_is_not_made_again() {
    let place = Place::new();
    let path = place.module("one.wasm", filter("(i32.const 1)")).display().to_string();
    let filters =
        |config: &str| [("same", format!("module: {path}")), ("other", format!("module: {path}, config: {config}"))];
    let all = |plan: &Plan| plan.filters().cloned().collect::<Vec<_>>();
    let first = all(&place.plan(&filters("a"), &[]).unwrap());
    let second = all(&place.plan(&filters("b"), &first).unwrap());
    assert!(Arc::ptr_eq(&first[0], &second[0]) && !Arc::ptr_eq(&first[1], &second[1]));
    assert_eq!(first[1].vm_key(), second[1].vm_key(), "another configuration of the plugin, in the same VM");
    place.module("one.wasm", filter("(i32.const 2)"));
    let third = all(&place.plan(&filters("b"), &second).unwrap());
    assert!(!Arc::ptr_eq(&second[0], &third[0]));
    assert_ne!(second[0].vm_key(), third[0].vm_key());
}

#[test]
fn what_is_allowed_belongs_to_the_filter_and_not_to_the_module() {
    let place = Place::new();
    let path = place.module("one.wasm", filter("(i32.const 1)")).display().to_string();
    let some = ("some", format!("module: {path}, allow: {{functions: [log, properties]}}"));
    let all = ("all", format!("module: {path}"));
    let none = ("none", format!("module: {path}, allow: {{functions: [log, properties], calls: []}}"));
    let first: Vec<_> = place.plan(std::slice::from_ref(&some), &[]).unwrap().filters().cloned().collect();
    let both: Vec<_> = place.plan(&[some, all, none], &first).unwrap().filters().cloned().collect();
    assert!(Arc::ptr_eq(&first[0], &both[0]));
    assert_ne!(both[0].vm_key(), both[1].vm_key());
    // In one VM it could call as the other.
    assert_ne!(both[0].vm_key(), both[2].vm_key());
    let problem = place.prepare(&[("less", format!("module: {path}, allow: {{functions: [log]}}"))]).unwrap_err();
    let expected =
        "one.wasm imports env.proxy_get_property, which it is not allowed; add to allow.functions: properties";
    assert!(problem.starts_with("filters.less: ") && problem.ends_with(expected), "{problem}");
    assert_eq!(place.compilations(), 1, "the code is one");
}

#[test]
fn a_bad_artifact_is_compiled_again() {
    let place = Place::new();
    let path = place.module("one.wasm", filter("(i32.const 1)")).display().to_string();
    let filters = [("one", format!("module: {path}"))];
    place.prepare(&filters).unwrap();
    let [artifact] = &*place.artifacts() else { panic!("one artifact") };
    let good = fs::read(artifact).unwrap();

    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    for (again, bad) in [&flipped[..], &good[..good.len() - 1], b""].into_iter().enumerate() {
        fs::write(artifact, bad).unwrap();
        assert_eq!(place.prepare(&filters), Ok(()));
        assert_eq!(place.compilations(), 2 + again);
    }
    // One that others can write: its bytes are right and still it is not trusted.
    fs::set_permissions(artifact, Permissions::from_mode(0o666)).unwrap();
    assert_eq!(place.prepare(&filters), Ok(()));
    assert_eq!(place.compilations(), 5);
    assert_eq!(fs::metadata(artifact).unwrap().permissions().mode() & 0o777, 0o600);
    // One whose content fits its name and is no machine code of this engine.
    let name = artifact.file_name().unwrap().to_str().unwrap();
    let key = name.rsplit_once('-').unwrap().0;
    fs::remove_file(artifact).unwrap();
    let foreign = place
        .tools
        .cache
        .add(key, Form::Artifact, |path| fs::write(path, b"foreign").map_err(|e| e.to_string()))
        .unwrap();
    assert_eq!(place.prepare(&filters), Ok(()));
    assert_eq!(place.compilations(), 6);
    assert!(!foreign.exists(), "else it would be tried at each start");
}

#[test]
fn the_digest_of_a_module_is_checked() {
    let place = Place::new();
    let path = place.module("one.wasm", filter("(i32.const 1)"));
    let right = hex(digest::digest(&digest::SHA256, &fs::read(&path).unwrap()).as_ref());
    let with = |sha256: &str| place.prepare(&[("one", format!("module: {}, sha256: \"{sha256}\"", path.display()))]);
    assert_eq!(with(&right.to_uppercase()), Ok(()));
    let wrong = "0".repeat(64);
    let expected = format!("filters.one: {} has the SHA-256 {right}, and sha256 expects {wrong}", path.display());
    assert_eq!(with(&wrong), Err(expected));
}

#[test]
fn every_problem_is_told_with_its_filter() {
    let place = Place::new();
    let problem = place
        .prepare(&[
            ("one", "module: \"builtin:nothing\"".into()),
            ("two", "module: /nonexistent/a.wasm".into()),
            ("three", "module: /".into()),
        ])
        .unwrap_err();
    let expected = [
        "filters.one: there is no builtin:nothing; there are builtin:auth, builtin:cors, builtin:jwt, builtin:metrics, \
         builtin:quota, builtin:routing, builtin:transform, builtin:validate",
        "filters.two: cannot read /nonexistent/a.wasm: No such file or directory (os error 2); write the path of a \
         WebAssembly module",
        "filters.three: cannot read /: it is not a file; write the path of a WebAssembly module",
    ];
    assert_eq!(problem.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn what_is_no_module_is_refused_before_it_is_compiled() {
    let place = Place::new();
    let no_module = "filters.test: FILE is not a WebAssembly module: it does not begin with \\0asm and version 1";
    assert_eq!(place.problem(""), no_module);
    assert_eq!(place.problem("\0asm\x02\0\0\0"), no_module);
    assert_eq!(
        place.problem("\0asm\x0d\0\x01\0"),
        "filters.test: FILE is a component; Proxy-Wasm filters are core modules (target wasm32-wasip1)"
    );
    assert_eq!(place.compilations(), 0);
}

#[test]
fn the_size_of_a_module_is_bounded() {
    let place = Place::new();
    let large = place.module("large.wasm", MODULE);
    let bytes = |length| {
        fs::File::options().write(true).open(&large).unwrap().set_len(length).unwrap();
        file(&large).map(|code| code.len() as u64)
    };
    assert_eq!(bytes(MODULE_MAX), Ok(MODULE_MAX));
    let problem = format!("{} is larger than the 256 MiB that a module may have", large.display());
    assert_eq!(bytes(MODULE_MAX + 1), Err(problem));
}

#[test]
fn what_the_compiler_or_the_abi_refuses_is_told() {
    let place = Place::new();
    let problem = place.problem("\0asm\x01\0\0\0\x7f");
    assert!(problem.starts_with("filters.test: FILE: not a valid WebAssembly module: "), "{problem}");
    assert_eq!(
        place.problem("(module)"),
        "filters.test: FILE: not a Proxy-Wasm module: it exports none of the functions proxy_abi_version_0_1_0, \
         proxy_abi_version_0_2_0, proxy_abi_version_0_2_1"
    );
    let importing = filter("(i32.const 1)").replace("proxy_log", "proxy_lag");
    let problem = place.problem(importing);
    assert!(problem.starts_with("filters.test: FILE: the module imports what this host does not have: "), "{problem}");
    assert!(problem.contains("proxy_lag"), "{problem}");
}

#[test]
fn words_of_a_module_are_one_short_line() {
    let place = Place::new();
    let importing = |name: &str| place.problem(filter("(i32.const 1)").replace("proxy_log", name));
    let problem = importing("\\1b[2J\\0alacis: fine");
    assert!(problem.contains("env.\\u{1b}[2J\\nlacis: fine"), "{problem}");
    let problem = importing(&"n".repeat(2 * PROBLEM_MAX));
    assert!(problem.ends_with("n…") && problem.len() < PROBLEM_MAX + 100, "{problem}");
    let words = filter(&format!("{WORDS} (i32.const 0)")).replace("last word", "last\\0aword");
    assert!(place.problem(words).ends_with("it logged last: last\\nword"));
}

#[test]
fn a_filter_that_cannot_start_is_an_error_with_its_last_words() {
    let place = Place::new();
    assert_eq!(
        place.problem(filter(&format!("{WORDS} (i32.const 0)"))),
        "filters.test: the filter refuses its configuration: proxy_on_configure answered false; it logged last: \
         last word"
    );
    assert_eq!(
        place.problem(filter("(i32.const 0)").replace("proxy_on_configure", "proxy_on_vm_start")),
        "filters.test: the filter refuses its configuration: proxy_on_vm_start answered false; it logged nothing"
    );
    let problem = place.problem(filter(&format!("{WORDS} (unreachable)")));
    assert!(problem.starts_with("filters.test: proxy_on_configure: "), "{problem}");
    assert!(problem.ends_with("; it logged last: last word"), "{problem}");
    let problem = place.problem(filter("(loop $ever (br $ever)) (i32.const 1)"));
    assert!(problem.contains("longer than its budget"), "{problem}");
}

#[test]
fn a_module_that_compiles_for_ever_is_given_up() {
    let mut place = Place::new();
    place.tools.compiler.arguments = vec!["-c", "exec sleep 600"];
    place.tools.compiler.time = std::time::Duration::from_millis(20);
    assert_eq!(
        place.problem(filter("(i32.const 1)")),
        "filters.test: FILE: the module takes longer than 20ms to compile"
    );
    assert_eq!(place.artifacts().len(), 0);
}
