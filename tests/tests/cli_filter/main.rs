//! `lacis filter`: from nothing to a filter that answers live traffic, in each language.

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use lacis_tests::{Example, Process, client, command, peer, script, until};
use serde_json::Value;

/// What a command came to: exit code, standard output, standard error.
type Ended = (Option<i32>, String, String);

/// A directory in which filters are made. What cargo compiles of others' crates is kept from one test to the next.
struct Bench {
    directory: tempfile::TempDir,
    path: String,
}

impl Bench {
    fn new() -> Bench {
        Bench { directory: tempfile::tempdir().expect("a directory"), path: env::var("PATH").unwrap_or_default() }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// `lacis` in a directory of the bench, without a network.
    fn command(&self, directory: &str, arguments: &[&str]) -> Command {
        let mut command = command(arguments);
        command.current_dir(self.path().join(directory)).env("PATH", &self.path);
        command.env("CARGO_NET_OFFLINE", "true").env("GOFLAGS", "-mod=mod").env("GOPROXY", "off");
        for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_TARGET_DIR"] {
            command.env_remove(name);
        }
        command
    }

    fn lacis(&self, directory: &str, arguments: &[&str]) -> Ended {
        let output = self.command(directory, arguments).output().expect("lacis runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    }

    fn fine(&self, directory: &str, arguments: &[&str]) -> String {
        let (code, out, err) = self.lacis(directory, arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {out}{err}");
        out
    }

    /// Changes a text in a file, by renaming, as editors do.
    fn edit(&self, file: &str, from: &str, to: &str) {
        let path = self.path().join(file);
        let text = fs::read_to_string(&path).expect("a file");
        assert!(text.contains(from), "{from} in {text}");
        let fresh = path.with_extension("fresh");
        fs::write(&fresh, text.replace(from, to)).expect("writable");
        fs::rename(&fresh, &path).expect("renamed");
    }
}

/// Where cargo puts what it builds of scaffolds: beside the modules of other tests.
fn kept() -> PathBuf {
    let exe = env::current_exe().expect("a path of our own");
    let target = exe.ancestors().nth(3).expect("a target directory").join("guests").join("scaffold");
    fs::create_dir_all(&target).expect("a directory");
    target
}

fn listening(process: &Process) -> SocketAddr {
    process.err.wait_for("it listens", |lines| {
        lines.iter().find_map(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            (line["message"] == "listening").then(|| line["address"].as_str()?.parse().ok()).flatten()
        })
    })
}

fn body(address: SocketAddr, headers: &[(&str, &str)]) -> (u16, String) {
    let answer = client::request(address, "GET", "127.0.0.1", "/", headers, None);
    (answer.status(), answer.text())
}

const KEY: (&str, &str) = ("x-api-key", "open-sesame");

/// From nothing to live traffic, and to live traffic again after a save of the source and of the configuration.
#[test]
fn a_new_filter_answers_live_traffic() {
    let bench = Bench::new();
    // What is said to be typed can be typed, wherever the filter is.
    let said = bench.fine(".", &["filter", "new", "it's a place/my-filter"]);
    assert!(said.contains("\n    cd 'it'\\''s a place/my-filter'\n"), "{said}");
    let said = bench.fine(".", &["filter", "new", "my-filter"]);
    assert!(said.starts_with("my-filter: a filter in Rust (") && said.contains("\n    cd my-filter\n"), "{said}");
    let (code, out, err) = bench.lacis("my-filter", &["filter", "run"]);
    assert!(code == Some(1) && out.is_empty() && err.contains("`lacis filter run --build` builds it"), "{out}{err}");
    let (code, out, err) = bench.lacis(".", &["filter", "run", "-c", "my-filter/lacis.yaml"]);
    assert!(code == Some(1) && out.is_empty() && err.contains("`lacis filter run --build` builds it"), "{out}{err}");
    symlink(kept(), bench.path().join("my-filter/target")).expect("a link");

    // Its own tests, and its cases against the module.
    let (code, out, err) = bench.lacis("my-filter", &["filter", "test"]);
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.ends_with("6 cases, 0 failed\n"), "{out}");
    assert!(err.contains("test result: ok. 2 passed"), "{err}");
    let built = bench.fine("my-filter", &["filter", "build", "--output", "json"]);
    let built: Value = serde_json::from_str(&built).expect("JSON");
    assert_eq!(built["module"], "target/wasm32-wasip1/release/my_filter.wasm");
    assert!(built["bytes"].as_u64().expect("a number") > 1000, "{built}");

    // A file that runs another module would not run what is built.
    bench.edit("my-filter/lacis.yaml", "my_filter.wasm", "other.wasm");
    let (code, _, err) = bench.lacis("my-filter", &["filter", "run", "--build"]);
    assert!(code == Some(1) && err.contains("write `module: target/wasm32-wasip1/release/my_filter.wasm`"), "{err}");
    bench.edit("my-filter/lacis.yaml", "other.wasm", "my_filter.wasm");

    let mut run = bench.command("my-filter", &["--log-format", "json", "filter", "run", "--build"]);
    run.args(["--listen", "127.0.0.1:0"]);
    let run = Process::start("lacis filter run", run);
    let address = listening(&run);
    assert_eq!(body(address, &[]), (401, "an API key is required (header x-api-key)\n".into()));
    let (status, echo) = body(address, &[KEY]);
    assert!(status == 200 && echo.starts_with("app: GET / HTTP/1.1\n"), "{echo}");
    let (_, echo) = body(address, &[KEY, ("x-canary", "yes")]);
    assert!(echo.starts_with("canary: GET / HTTP/1.1\n"), "{echo}");

    bench.edit("my-filter/src/lib.rs", "an API key is required", "no entry");
    until("the new code is live", || body(address, &[]).1.starts_with("no entry").then_some(()));
    bench.edit("my-filter/lacis.yaml", "open-sesame", "mellon");
    until("the new key is live", || (body(address, &[("x-api-key", "mellon")]).0 == 200).then_some(()));
    // What does not build changes nothing.
    bench.edit("my-filter/src/lib.rs", "fn new(", "fn new ew(");
    run.err.wait_for("it says so", |lines| lines.iter().any(|line| line.contains("not built: ")).then_some(()));
    assert_eq!(body(address, &[("x-api-key", "mellon")]).0, 200);
    bench.edit("my-filter/src/lib.rs", "fn new ew(", "fn new(");
    // A file that comes after the one that names it is built, too.
    bench.edit("my-filter/src/lib.rs", "\"no entry (header x-api-key)\\n\"", "include_str!(\"no.txt\")");
    run.err.wait_for("it misses it", |lines| lines.iter().any(|line| line.contains("couldn't read")).then_some(()));
    fs::write(bench.path().join("my-filter/src/no.txt"), "no way").expect("writable");
    until("the new file is live", || (body(address, &[]).1 == "no way").then_some(()));
    run.signal("TERM");
    assert!(run.wait().success());

    // A native test that fails names its line.
    bench.edit("my-filter/src/lib.rs", ".status(), 401)", ".status(), 402)");
    let source = fs::read_to_string(bench.path().join("my-filter/src/lib.rs")).expect("a file");
    let line = 1 + source.lines().position(|line| line.contains(".status(), 402)")).expect("the wrong line");
    let (code, _, err) = bench.lacis("my-filter", &["filter", "test"]);
    assert!(
        code == Some(1)
            && err.contains(&format!("src/lib.rs:{line}:"))
            && err.ends_with("lacis: `cargo test` failed (exit status: 101)\n"),
        "{err}"
    );

    // What a filter pays for that does next to nothing, in what was scaffolded.
    fs::write(bench.path().join("my-filter/src/lib.rs"), SMALLEST).expect("writable");
    let built = bench.fine("my-filter", &["filter", "build", "--output", "json"]);
    let built: Value = serde_json::from_str(&built).expect("JSON");
    let bytes = built["bytes"].as_u64().expect("a number");
    assert!((10_000..102_400).contains(&bytes), "{bytes} bytes");
}

/// Without a configuration, so that no reader of JSON is in the module.
const SMALLEST: &str = r#"
use lacis_sdk::{ConfigError, Filter, Flow, Reply, Response};

struct Greeting;

impl Filter for Greeting {
    type Config = ();

    fn new((): ()) -> Result<Self, ConfigError> {
        Ok(Greeting)
    }

    async fn on_response(&self, response: &mut Response) -> Result<Flow, Reply> {
        response.headers_mut().set("x-greeting", "hello")?;
        Ok(Flow::Continue)
    }
}

lacis_sdk::filter!(Greeting);
"#;

/// A scaffold in another language: built, and its cases run.
fn scaffold(language: &str, programs: &[&str]) {
    let mut bench = Bench::new();
    let mut modules = None;
    for program in programs {
        let Some(peer) = peer(program) else { return };
        let folder = peer.path().parent().expect("a folder");
        bench.path = format!("{}:{}", folder.display(), bench.path);
        if *program == "asc" {
            modules = folder.parent().map(|peers| peers.join("npm/node_modules"));
        }
    }
    bench.fine(".", &["filter", "new", "own", "--language", language]);
    if let Some(modules) = modules {
        // What `npm install` would fetch.
        symlink(modules, bench.path().join("own/node_modules")).expect("a link");
    }
    let out = bench.fine("own", &["filter", "test"]);
    assert!(out.ends_with("6 cases, 0 failed\n"), "{out}");
    measured(&bench, "own", "own.wasm");
    if language == "c" {
        fs::remove_file(bench.path().join("own/cases.yaml")).expect("a file");
        let (code, out, err) = bench.lacis("own", &["filter", "test"]);
        assert!(
            code == Some(0) && out.is_empty() && err.contains("there is no ./cases.yaml: nothing was tried"),
            "{err}"
        );
    }
}

/// What the scaffold's module costs can be said.
fn measured(bench: &Bench, directory: &str, module: &str) {
    let inspected = bench.fine(directory, &["filter", "inspect", module, "--cases", "cases.yaml", "--output", "json"]);
    let inspected: Value = serde_json::from_str(&inspected).expect("JSON");
    assert!(inspected["cost"]["runs"].as_u64().is_some_and(|runs| runs >= 50), "{inspected}");
}

#[test]
fn c() {
    scaffold("c", &["clang", "make"]);
}

#[test]
fn cpp() {
    scaffold("cpp", &["clang", "make"]);
}

#[test]
fn zig() {
    scaffold("zig", &["zig", "make"]);
}

#[test]
fn assemblyscript() {
    scaffold("assemblyscript", &["asc", "node"]);
}

/// The cases run against the module of the example, which is the same filter: a debug build of ours compiles the runtime that
/// Go brings along for a minute, and other tests have that one compiled, too.
#[test]
fn go() {
    if peer("go").is_none() {
        return;
    }
    let bench = Bench::new();
    bench.fine(".", &["filter", "new", "doorkeeper", "--language", "go"]);
    assert!(bench.fine("doorkeeper", &["filter", "build"]).starts_with("doorkeeper.wasm: "));
    let Some(module) = Example::of("go").build() else { return };
    let out = bench.fine("doorkeeper", &["filter", "test", module.to_str().expect("a path of ours"), "cases.yaml"]);
    assert!(out.ends_with("6 cases, 0 failed\n"), "{out}");
    measured(&bench, "doorkeeper", module.to_str().expect("a path of ours"));
}

/// What cases can give and expect.
#[test]
fn cases_give_everything_and_expect_everything() {
    let module = script("")["module"].as_str().expect("a path").to_owned();
    let cases = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli_filter/scripted.yaml");
    let (code, out, err) = Bench::new().lacis(".", &["filter", "test", &module, cases]);
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.ends_with("12 cases, 0 failed\n"), "{out}");
}

/// What is told of cases that fail is a golden file; `UPDATE_GOLDEN=1` writes it anew.
#[test]
fn a_failing_case_says_where_and_why() {
    let module = script("")["module"].as_str().expect("a path").to_owned();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli_filter");
    let run = |more: &[&str]| {
        let cases = format!("{folder}/wrong.yaml");
        Bench::new().lacis(".", &[&["filter", "test", &module, &cases][..], more].concat())
    };
    let (code, out, _) = run(&[]);
    assert_eq!(code, Some(1));
    let told = out.replace(folder, "DIR");
    let golden = format!("{folder}/wrong.txt");
    if env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&golden, &told).expect("writable");
    }
    assert_eq!(told, fs::read_to_string(&golden).unwrap_or_default());

    // One case, for a program. It goes on in the one before it, which is run for that, and not told.
    let (code, out, _) = run(&["--case", "the fate", "--output", "json"]);
    let told: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, &told["failed"], &told["passed"]), (Some(1), &1.into(), &0.into()), "{told}");
    let problem = &told["cases"][0]["problems"][0];
    assert_eq!((&told["cases"][0]["name"], &problem["line"]), (&"the fate of a trap".into(), &22.into()), "{told}");
    let (code, out, err) = run(&["--case", "no such case"]);
    assert!(code == Some(1) && out.is_empty() && err.contains("in its name"), "{out}{err}");
}

/// Every wrong input has its exit code and its advice.
#[test]
fn what_is_wrong_is_told_with_what_would_be_right() {
    let mut bench = Bench::new();
    fs::create_dir(bench.path().join("full")).expect("a directory");
    fs::write(bench.path().join("full/file"), "").expect("writable");
    fs::write(bench.path().join("text.wasm"), "no module").expect("writable");
    for (arguments, code, advice) in [
        (&["filter", "new", "My_Filter"][..], 1, "write a-z, 0-9 and '-'"),
        (&["filter", "new", "full"], 1, "full is there already; choose another name"),
        (&["filter", "new", "x", "--language", "cobol"], 2, "rust, c, cpp, zig, assemblyscript, go"),
        (&["filter", "build", "full"], 1, "`lacis filter new NAME` makes one"),
        (&["filter", "build", "nowhere"], 1, "cannot read nowhere"),
        (&["filter", "test", "text.wasm"], 2, "required"),
        (&["filter", "test", "text.wasm", "none.yaml"], 1, "none.yaml: cannot be read"),
        (&["filter", "inspect", "text.wasm"], 1, "text.wasm is not a WebAssembly module"),
        (&["filter", "inspect", "builtin:nothing"], 1, "there is no builtin:nothing; there are builtin:auth"),
        (&["filter", "run"], 1, "lacis.yaml: cannot be read: there is no such file; name a module"),
        (&["filter", "run", "none.wasm", "--listen", "127.0.0.1:0"], 1, "none.wasm: No such file"),
        (
            &["filter", "run", "builtin:metrics", "--upstream", "other=127.0.0.1:1"],
            1,
            "there is no service \"other\"; there are app",
        ),
        (&["filter", "run", "builtin:metrics", "--upstream", "app"], 2, "such as 127.0.0.1:8080"),
        (&["filter", "run", "builtin:metrics", "--listen", "localhost:1"], 2, "such as 127.0.0.1:8080"),
        (&["why", "--admin", "localhost:15000"], 2, "such as 127.0.0.1:8080"),
        (&["filter"], 2, "Usage"),
    ] {
        let (ended, out, err) = bench.lacis(".", arguments);
        assert_eq!((ended, out.as_str()), (Some(code), ""), "{arguments:?}: {err}");
        assert!(err.contains(advice), "{arguments:?}: {err}");
    }

    // Without the toolchain, what installs it.
    bench.path = "/nonexistent".into();
    for (file, install) in [
        ("Cargo.toml", "curl -fsS https://sh.rustup.rs | sh -s -- -y"),
        ("filter.c", "apt-get install clang lld wasi-libc libclang-rt-dev-wasm32"),
        ("filter.cc", "libc++-dev-wasm32"),
        ("filter.zig", "snap install zig"),
        ("package.json", "apt-get install nodejs npm"),
        ("go.mod", "https://go.dev/dl/"),
    ] {
        let folder = bench.path().join(file.replace('.', "-"));
        fs::create_dir(&folder).expect("a directory");
        fs::write(folder.join(file), "").expect("writable");
        let (code, out, err) = bench.lacis(folder.to_str().expect("text"), &["filter", "build"]);
        assert!(code == Some(1) && out.is_empty(), "{file}: {out}{err}");
        assert!(err.contains(" is not here; install it with: ") && err.contains(install), "{file}: {err}");
    }
}

/// What a module is, for people and for programs.
#[test]
fn a_module_is_inspected() {
    let bench = Bench::new();
    let config =
        r#"{"metrics": [{"name": "requests_total", "labels": [{"name": "tenant", "from": {"header": "x-tenant"}}]}]}"#;
    let out = bench.fine(".", &["filter", "inspect", "builtin:metrics", "--filter-config", config, "--output", "json"]);
    let told: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((&told["abi"], &told["language"]), (&"0.2.1".into(), &"Rust".into()), "{told}");
    let sections: u64 = told["sections"].as_array().expect("a list").iter().filter_map(|s| s["bytes"].as_u64()).sum();
    let all = told["bytes"].as_u64().expect("a number");
    assert!(sections <= all && sections * 10 > all * 9, "{sections} of {all}");
    let may = told["may"].as_array().expect("a list");
    assert!(may.iter().any(|power| power["allow"] == "metrics"), "{told}");
    let callbacks = told["cost"]["callbacks"].as_array().expect("a list");
    let head = callbacks.iter().find(|callback| callback["name"] == "proxy_on_request_headers").expect("measured");
    assert!(head["nanoseconds"].as_u64().is_some_and(|time| time > 0), "{head}");

    let out = bench.fine(".", &["filter", "inspect", "builtin:metrics"]);
    for part in ["Proxy-Wasm 0.2.1", "define and change metrics (allow metrics: ", "not measured: ", "--filter-config"]
    {
        assert!(out.contains(part), "{part} in {out}");
    }
}

/// A module of any origin is tried without a file.
#[test]
fn a_module_runs_without_a_file() {
    let bench = Bench::new();
    let mut run = bench.command(".", &["--log-format", "json", "filter", "run", "builtin:routing"]);
    run.args(["--listen", "127.0.0.1:0", "--filter-config"]);
    run.arg(r#"{"rules": [{"match": [{"from": {"header": "x-away"}}], "to": [{"service": "nowhere"}]}]}"#);
    let run = Process::start("lacis filter run", run);
    let address = listening(&run);
    run.out.wait_for("it says where", |lines| {
        lines
            .iter()
            .any(|line| *line == format!("http://{address} passes filter and goes to app; Ctrl-C ends it"))
            .then_some(())
    });
    assert!(body(address, &[]).1.starts_with("app: GET / HTTP/1.1\n"));
    assert_eq!(body(address, &[("x-away", "1")]).0, 404);
    run.signal("INT");
    assert!(run.wait().success());
}
