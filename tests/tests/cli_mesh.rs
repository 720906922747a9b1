//! The command line: exit codes, where output goes, and a whole mesh from one command.

use std::process::Command;

use lacis_tests::{Mesh, Process, command, lacis};
use serde_json::{Value, json};

/// Runs to the end: exit code, standard output, standard error.
fn run(mut command: Command) -> (Option<i32>, String, String) {
    let output = command.output().expect("lacis runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn lacis_in(mesh: &Mesh, args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = command(args);
    command.current_dir(mesh.dir());
    run(command)
}

/// The smallest useful file of ten lines.
const SMALLEST: &str = "\
node: {service: alpha}
identity:
  certificate: certs/alpha.pem
  private_key: certs/alpha-key.pem
  trust_bundle: certs/ca.pem
outbound: {listen: 127.0.0.1:0}
services:
  delta:
    endpoints: [127.0.0.1:15006]
admin: {listen: 127.0.0.1:0}
";

/// A good file is nobody's business; a bad one is all its problems at once, each with its place.
#[test]
fn check_reports_every_problem_with_its_place() {
    let mesh = Mesh::foreign();
    mesh.file("good.yaml", SMALLEST.replace("{service: alpha}", "{service: alpha, trust_domain: mesh.local}"));
    let (code, _, err) = lacis_in(&mesh, &["check", "-c", "good.yaml"]);
    assert_eq!(code, Some(0), "{err}");
    mesh.file(
        "bad.yaml",
        SMALLEST.replace("endpoints: [127.0.0.1:15006]", "endpoint: []\n    link: h4").replace("admin:", "admni:"),
    );
    let (code, out, err) = lacis_in(&mesh, &["check", "-c", "bad.yaml"]);
    let report = format!("{out}{err}");
    assert_eq!(code, Some(1), "{report}");
    for place in ["bad.yaml:9:", "bad.yaml:10:", "bad.yaml:11:"] {
        assert!(report.lines().any(|line| line.contains(place)), "{place} in {report}");
    }
    for word in ["endpoint", "h4", "admni"] {
        assert!(report.contains(word), "{word} in {report}");
    }
}

/// What this version does not build is refused, not ignored.
#[test]
fn what_is_not_supported_is_refused() {
    let mesh = Mesh::foreign();
    mesh.file("later.yaml", format!("{SMALLEST}telemetry: {{access_log: {{format: text}}}}\n"));
    let (code, out, err) = lacis_in(&mesh, &["check", "-c", "later.yaml"]);
    assert_eq!(code, Some(1));
    assert!(format!("{out}{err}").contains("not supported yet"), "{out}{err}");
}

/// The schema is one.
#[test]
fn schema_prints_a_json_schema() {
    let (code, out, err) = run(command(&["schema"]));
    assert_eq!(code, Some(0), "{err}");
    let schema: Value = serde_json::from_str(&out).expect("JSON");
    assert!(schema["$schema"].is_string() && schema["properties"]["services"].is_object(), "{out}");
}

/// A wrong command line is exit code 2, a wrong file 1, and a missing one says so.
#[test]
fn exit_codes_tell_who_is_wrong() {
    assert_eq!(run(command(&["no-such-command"])).0, Some(2));
    assert_eq!(run(command(&["run"])).0, Some(2));
    let (code, _, err) = run(command(&["run", "-c", "/nowhere/at/all.yaml"]));
    assert_eq!(code, Some(1));
    assert!(err.contains("/nowhere/at/all.yaml"), "{err}");
    let (code, out, _) = run(command(&["--help"]));
    assert_eq!(code, Some(0));
    for word in ["run", "check", "schema", "cert", "demo"] {
        assert!(out.contains(word), "{word} in {out}");
    }
    let mut full = command(&["schema"]);
    full.stdout(std::fs::File::create("/dev/full").expect("a device"));
    let ended = full.output().expect("lacis runs");
    let err = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.code() == Some(1) && err.contains("cannot write to standard output"), "{err}");
}

/// Certificates come from two commands, and a second authority does not replace the first by accident.
#[test]
fn cert_makes_an_authority_once() {
    let mesh = Mesh::foreign();
    let before = std::fs::read(mesh.ca()).expect("a CA");
    let (code, _, err) = lacis_in(&mesh, &["cert", "init", "--dir", "certs"]);
    assert_eq!(code, Some(1), "{err}");
    assert_eq!(std::fs::read(mesh.ca()).expect("a CA"), before);
    let (code, _, err) = lacis_in(&mesh, &["cert", "issue", "gamma", "--dir", "nowhere"]);
    assert_eq!(code, Some(1));
    assert!(err.contains("nowhere"), "{err}");
}

/// A port that is taken stops the start, and the message says which.
#[test]
fn a_taken_port_is_an_error_at_once() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    let mesh = Mesh::new();
    let config = SMALLEST.replace("{service: alpha}", "{service: alpha, trust_domain: mesh.local}");
    let path = mesh.file(
        "alpha.yaml",
        config.replace("outbound: {listen: 127.0.0.1:0}", &format!("outbound: {{listen: {address}}}")),
    );
    let (code, _, err) = lacis_in(&mesh, &["run", "-c", path.to_str().expect("a path of ours")]);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains(&address), "{err}");
}

/// A certificate that is not there, or not this service's, is an error of the configuration.
#[test]
fn a_wrong_certificate_is_an_error_at_once() {
    let mesh = Mesh::new();
    for (certificate, word) in [("certs/absent.pem", "absent.pem"), ("certs/delta.pem", "delta")] {
        let config = json!({
            "node": {"service": "alpha", "trust_domain": "mesh.local"},
            "identity": {"certificate": certificate, "private_key": certificate.replace(".pem", "-key.pem"), "trust_bundle": "certs/ca.pem"},
            "outbound": {"listen": "127.0.0.1:0"},
        });
        let path = mesh.file("alpha.yaml", config.to_string());
        let mut lacis = command(&["run", "-c"]);
        lacis.arg(path).current_dir(mesh.dir());
        let process = Process::start("lacis", lacis);
        assert_eq!(process.wait().code(), Some(1), "{certificate}");
        assert!(process.err.to_end().join("\n").contains(word), "{certificate}: {:?}", process.err.all());
    }
}

/// `lacis demo --requests N` shows a mesh at work over h3, ends by itself, and leaves nothing behind.
#[test]
fn the_demo_ends_by_itself_and_leaves_nothing() {
    let mut lacis = command(&["demo", "--requests", "50"]);
    let dir = tempfile::tempdir().expect("a directory");
    lacis.current_dir(dir.path()).env("TMPDIR", dir.path());
    let demo = Process::start("lacis demo", lacis);
    let mut children = Vec::new();
    let status = lacis_tests::until("the demo ends", || {
        children.extend(demo.children());
        demo.ended()
    });
    assert_eq!(status.code(), Some(0));
    children.sort_unstable();
    children.dedup();
    assert!(children.len() >= 2, "two sidecars are processes: {children:?}");
    for child in children {
        let name = std::fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
        assert!(!name.starts_with("lacis"), "{child} ({name}) outlives the demo");
    }
    let summary = demo.out.to_end().join("\n");
    assert!(summary.contains("50") && summary.contains("h3"), "{summary}");
    let left: Vec<_> = std::fs::read_dir(dir.path()).expect("a directory").collect();
    assert!(left.is_empty(), "{left:?}");
}

/// The demo that is interrupted takes its children with it.
#[test]
fn an_interrupted_demo_leaves_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut lacis = command(&["demo"]);
    lacis.current_dir(dir.path()).env("TMPDIR", dir.path());
    let demo = Process::start("lacis demo", lacis);
    let children = lacis_tests::until("two sidecars run", || {
        assert!(demo.ended().is_none(), "the demo ended before it was interrupted");
        let children = demo.children();
        (children.len() >= 2).then_some(children)
    });
    demo.signal("INT");
    demo.wait();
    for child in children {
        lacis_tests::until("a child ends", || {
            let status = std::fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
            (!status.starts_with("lacis")).then_some(())
        });
    }
}

/// The binary says which version it is.
#[test]
fn version_is_said() {
    let (code, out, _) = run(command(&["--version"]));
    assert_eq!((code, out.trim()), (Some(0), concat!("lacis ", env!("CARGO_PKG_VERSION"))), "{}", lacis().display());
}
