//! The command line as a user meets it: what is printed where, and the exit code.

#![allow(clippy::expect_used, clippy::panic, reason = "a test may fail anywhere, helpers included")]

use std::process::{Command, Output};

fn lacis(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lacis")).args(arguments).output().expect("lacis starts")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

fn file(text: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("lacis.yaml");
    std::fs::write(&path, text).expect("writable");
    (dir, path.to_str().expect("UTF-8").to_owned())
}

#[test]
fn check_a_good_file() {
    let (_dir, path) = file("node: {service: alpha}\noutbound: {}\n");
    let output = lacis(&["check", "-c", &path]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stderr), "");
    assert_eq!(
        text(&output.stdout),
        format!(
            "{path}:1:1: warning: no `identity`: every link is plaintext, and no peer is verified\n\
             {path}: fine: spiffe://cluster.local/ns/default/sa/alpha, outbound 127.0.0.1:15001, 0 services, 0 filters, \
             1 worker\n"
        )
    );
}

#[test]
fn check_a_bad_file() {
    let (_dir, path) = file("node: {service: alpha}\noutbond: {}\nworkers: 0\n");
    let output = lacis(&["check", "-c", &path]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stderr), "");
    let problems: Vec<&str> = text(&output.stdout).lines().collect();
    assert_eq!(problems[0], format!("{path}:2:1: unknown key \"outbond\"; did you mean \"outbound\"?"));
    assert_eq!(
        problems[1],
        format!("{path}:3:10: workers: expected a number from 1 to 256, or auto, found the number 0")
    );
}

#[test]
fn check_modules() {
    let config = "node: {service: alpha}
outbound: {filters: [text, broken, foreign, strict, fine]}
filters:
  text: {module: text.wasm}
  broken: {module: broken.wasm}
  foreign:
    module: foreign.wasm
  strict: {module: builtin:auth, config: {keys: wrong}}
  fine: {module: builtin:metrics, config: {preset: istio}}
";
    let (dir, path) = file(config);
    let module = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).expect("writable");
    module("text.wasm", b"(module)");
    module("broken.wasm", b"\0asm\x01\0\0\0\x7f");
    module("foreign.wasm", b"\0asm\x01\0\0\0");
    let check = |path: &str| {
        let mut lacis = Command::new(env!("CARGO_BIN_EXE_lacis"));
        lacis.args(["check", "-c", path]).env("LACIS_CACHE", dir.path().join("cache")).output().expect("lacis starts")
    };
    let output = check(&path);
    assert_eq!(output.status.code(), Some(1), "{}", text_of(&output));
    let said = text(&output.stdout).replace(dir.path().to_str().expect("UTF-8"), "DIR");
    let starts = [
        "DIR/lacis.yaml:4:9: filters.text: DIR/text.wasm is not a WebAssembly module: it does not begin with \\0asm and version 1",
        "DIR/lacis.yaml:5:11: filters.broken: DIR/broken.wasm: not a valid WebAssembly module: ",
        "DIR/lacis.yaml:7:5: filters.foreign: DIR/foreign.wasm: not a Proxy-Wasm module: it exports none of the functions ",
        "DIR/lacis.yaml:8:11: filters.strict: the filter refuses its configuration: proxy_on_configure answered false; it logged last: ",
    ];
    let lines: Vec<&str> = said.lines().filter(|line| !line.contains(": warning: ")).collect();
    assert!(
        lines.len() == starts.len() && lines.iter().zip(starts).all(|(line, start)| line.starts_with(start)),
        "{said}"
    );

    let fine = "node: {service: alpha}\noutbound: {filters: [fine]}\nfilters:\n  fine: {module: builtin:metrics, config: {preset: istio}}\n";
    std::fs::write(&path, fine).expect("writable");
    let output = check(&path);
    assert_eq!(output.status.code(), Some(0), "{}", text_of(&output));
    assert!(text(&output.stdout).ends_with("0 services, 1 filter, 1 worker\n"), "{}", text_of(&output));
}

#[test]
fn check_the_identity() {
    let config = "node: {service: alpha}
identity: {certificate: alpha.pem, private_key: alpha-key.pem, trust_bundle: ca.pem}
outbound: {}
";
    let (dir, path) = file(config);
    // Where a config is checked there may be no keys.
    let output = lacis(&["check", "-c", &path]);
    assert_eq!(output.status.code(), Some(0), "{}", text_of(&output));
    let told = text(&output.stdout);
    let warned = |what: &str| told.matches(&format!(": warning: identity.{what}")).count();
    assert_eq!((warned("certificate: no file at "), warned("")), (1, 3), "{told}");
    let directory = dir.path().to_str().expect("UTF-8");
    for arguments in [["init", "--dir", directory].as_slice(), &["issue", "beta", "--dir", directory]] {
        let output = lacis(&[&["cert"], arguments].concat());
        assert_eq!(output.status.code(), Some(0), "{}", text_of(&output));
    }
    std::fs::write(&path, config.replace("alpha.pem", "beta.pem").replace("alpha-key", "beta-key")).expect("writable");
    let output = lacis(&["check", "-c", &path]);
    assert_eq!(output.status.code(), Some(1), "{}", text_of(&output));
    let told = text(&output.stdout);
    assert!(told.starts_with(&format!("{path}:2:25: identity.certificate: ")), "{told}");
    assert!(
        told.contains("is the certificate of spiffe://cluster.local/ns/default/sa/beta, but `node` says"),
        "{told}"
    );
}

#[test]
fn check_the_access_log() {
    let (dir, path) = file("");
    let directory = dir.path().to_str().expect("UTF-8").to_owned();
    for (log, code, said) in [
        (".", 1, format!("{directory}/. cannot be opened: Is a directory (os error 21); write the path of a file, ")),
        (
            "lacis.yaml/log",
            1,
            format!("{directory}/lacis.yaml/log cannot be opened: Not a directory (os error 20); write "),
        ),
        (
            "no/log",
            0,
            format!("{directory}/no/log cannot be opened: No such file or directory (os error 2); its directory "),
        ),
        ("log", 0, String::new()),
    ] {
        let config = format!("node: {{service: alpha}}\noutbound: {{}}\ntelemetry: {{access_log: {{path: {log}}}}}\n");
        std::fs::write(&path, config).expect("writable");
        let output = lacis(&["check", "-c", &path]);
        assert_eq!(output.status.code(), Some(code), "{}", text_of(&output));
        let kind = if code == 0 { "warning: " } else { "" };
        let told = format!("{path}:3:32: {kind}telemetry.access_log.path: {said}");
        assert_eq!(text(&output.stdout).contains(&told), !said.is_empty(), "{told}\n{}", text_of(&output));
        assert!(!dir.path().join("log").exists(), "checking makes no log");
    }
}

fn text_of(output: &Output) -> String {
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

#[test]
fn check_as_json() {
    let (_dir, path) = file(
        "node: {service: alpha}\noutbound: {}\nservices:\n  delta: {endpoints: [127.0.0.1:80], link: plaintext, balance: hash}\n",
    );
    let output = lacis(&["check", "-c", &path, "--output", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let problem = serde_json::json!({
        "file": path, "line": 4, "column": 64, "path": "services.delta.balance", "message": "\"hash\" needs to know of what; write {hash: {header: x-user}}, or cookie, query or source",
    });
    assert_eq!(said, serde_json::json!({ "valid": false, "problems": [problem], "warnings": [] }));
}

#[test]
fn check_no_file() {
    let output = lacis(&["check", "-c", "/nonexistent/lacis.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        text(&output.stdout),
        "/nonexistent/lacis.yaml: cannot be read: No such file or directory (os error 2)\n"
    );
}

#[test]
fn schema_is_json() {
    let output = lacis(&["schema"]);
    assert_eq!(output.status.code(), Some(0));
    serde_json::from_slice::<serde_json::Value>(&output.stdout).expect("JSON");
}

#[test]
fn help_is_data_and_a_wrong_line_is_2() {
    let help = lacis(&["--help"]);
    assert_eq!((help.status.code(), text(&help.stderr)), (Some(0), ""));
    for command in ["run", "check", "schema", "cert", "demo", "filter"] {
        assert!(text(&help.stdout).contains(command), "{command}");
    }
    for wrong in [&["serve"][..], &[], &["check"], &["--log-level", "verbose", "schema"], &["demo", "--requests", "0"]]
    {
        let output = lacis(wrong);
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(2), ""), "{wrong:?}");
        assert!(!output.stderr.is_empty());
    }
}
