//! The example of every language: built as its README says, it does what `examples/README.md` says, on Lacis and on Envoy.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use lacis_tests::{Both, Envoy, Example, Mesh, Side, client, command};
use serde_json::{Value, json};

/// What an exchange with the filter looks like from outside.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    status: u16,
    checked_by: Option<String>,
    challenge: Option<String>,
    body: String,
    /// Who has seen the request, as `NAME: host x-forwarded-host`.
    seen: Vec<String>,
}

const REFUSAL: &str = "an API key is required (header x-api-key)\n";
/// What a configuration may hold, with every kind of escape.
const CONFIG: &str = r#" {"more": [1, {"key": "}]\""}], "key" : "open-\"s\u00e9same\u0022\ud83D\ude42", "canary":"\u0063anary" ,
    "last": null}"#;
const KEY: &str = "open-\"sésame\"🙂";

fn refused() -> Outcome {
    let challenge = Some("ApiKey header=\"x-api-key\"".to_owned());
    Outcome { status: 401, checked_by: None, challenge, body: REFUSAL.to_owned(), seen: Vec::new() }
}

fn served(seen: &str) -> Outcome {
    let checked_by = Some("doorkeeper".to_owned());
    Outcome { status: 200, checked_by, challenge: None, body: "hello".to_owned(), seen: vec![seen.to_owned()] }
}

/// The table of requests: their own header lines, and what comes of them.
fn table() -> Vec<(Vec<u8>, Outcome)> {
    let with_key = |name: &str, more: &[u8]| [format!("{name}: {KEY}\r\n").as_bytes(), more].concat();
    vec![
        (b"".to_vec(), refused()),
        (b"x-api-key:\r\n".to_vec(), refused()),
        (b"x-api-key: open-\r\n".to_vec(), refused()),
        (format!("x-api-key: {KEY}!\r\n").into_bytes(), refused()),
        (b"x-api-key: \xff\xfe\r\n".to_vec(), refused()),
        (b"x-canary: yes\r\n".to_vec(), refused()),
        (with_key("x-key", b""), refused()),
        (with_key("x-api-key", b""), served("app: app -")),
        (with_key("X-API-Key", b"x-canary: no\r\n"), served("app: app -")),
        (with_key("x-api-key", b"x-canary: \xff\r\n"), served("app: app -")),
        (with_key("x-api-key", b"X-Canary: yes\r\n"), served("canary: canary app")),
        (with_key("x-api-key", b"x-canary: yes\r\nx-forwarded-host: forged\r\n"), served("canary: canary app")),
    ]
}

/// Sends one request of the table and looks at what comes of it.
fn ask(side: &Side, fields: &[u8]) -> Outcome {
    let apps = ["app", "canary"];
    let before = apps.map(|name| side.app(name).seen().len());
    let mut client = client::Client::connect(side.address());
    client.send([b"POST /mirror HTTP/1.1\r\nhost: app\r\ncontent-length: 5\r\n", fields, b"\r\nhello"].concat());
    let answer = client.response("POST");
    let field = |name: &str| answer.field(name).map(str::to_owned);
    let seen = apps.iter().zip(before).flat_map(|(name, before)| {
        let seen = side.app(name).seen().split_off(before);
        seen.into_iter().map(move |seen| {
            let field = |name: &str| seen.field(name).unwrap_or("-").to_owned();
            format!("{name}: {} {}", field("host"), field("x-forwarded-host"))
        })
    });
    Outcome {
        status: answer.status(),
        checked_by: field("x-checked-by"),
        challenge: field("www-authenticate"),
        body: answer.text(),
        seen: seen.collect(),
    }
}

/// More than the first table of contexts of `lacis.h` has room for.
const AT_ONCE: usize = 100;

/// Exchanges that go on at the same time are told apart, and all of them end.
fn many_at_once(side: &Side) {
    let request = format!("GET /hold HTTP/1.1\r\nhost: app\r\nx-api-key: {KEY}\r\n\r\n");
    let mut clients: Vec<client::Client> = (0..AT_ONCE).map(|_| client::Client::connect(side.address())).collect();
    for client in &mut clients {
        client.send(&request);
    }
    side.app("app").wait_held(AT_ONCE as u64);
    assert_eq!(ask(side, b""), refused());
    side.app("app").release();
    for client in &mut clients {
        assert_eq!(client.response("GET").field("x-checked-by"), Some("doorkeeper"));
    }
}

/// Builds the example of a language as it is documented, and runs the table on both.
fn check(language: &str) {
    let example = Example::of(language);
    let readme = example.read("README.md");
    let documented = readme.lines().filter_map(|line| Some(line.strip_prefix("    ")?.split("   #").next()?.trim()));
    assert!(
        documented.into_iter().any(|line| line == example.command),
        "{}: its README does not say so",
        example.command
    );
    let Some(module) = example.build() else { return };
    its_configuration_starts(example, &module);
    Both::of(language, &module, json!(CONFIG)).app("canary").run(|side| {
        let table = table();
        for (fields, expected) in &table {
            assert_eq!(ask(side, fields), *expected, "{}", String::from_utf8_lossy(fields));
        }
        many_at_once(side);
        let denied = table.iter().filter(|(_, expected)| expected.status == 401).count();
        side.counts((denied + 1) as f64, "requests_denied_total", &[]);
        side.counts((table.len() - denied + AT_ONCE) as f64, "requests_allowed_total", &[]);
    });
    wrong_configurations_are_refused(&module);
}

/// `lacis.yaml` names the module that the command makes, and starts with it.
fn its_configuration_starts(example: &Example, module: &Path) {
    let config = example.read("lacis.yaml");
    assert!(config.contains(&format!("module: {}\n", example.module)), "it names another module: {config}");
    // The default of 20 ms is for a machine that does not compile something else meanwhile.
    let config = config.replace("    config:", "    limits: {time: 2s}\n    config:");
    let mesh = Mesh::foreign();
    let place = mesh.dir().join(example.module);
    fs::create_dir_all(place.parent().expect("a directory")).and_then(|()| fs::copy(module, &place)).expect("a copy");
    let (good, said) = lacis_check(&mesh, &config);
    assert!(good, "{said}");
}

/// Without both texts a filter does not start, and says why.
fn wrong_configurations_are_refused(module: &Path) {
    let configuration = |config: Value| {
        json!({
            "node": {"service": "me"},
            "outbound": {"listen": "127.0.0.1:0", "filters": ["doorkeeper"]},
            "filters": {"doorkeeper": {"module": module, "config": config, "limits": {"time": "2s"}}},
        })
    };
    let mesh = Mesh::foreign();
    for config in [
        json!({}),
        json!({"key": "open-sesame"}),
        json!({"key": "", "canary": "canary"}),
        json!({"key": "open-sesame", "canary": ""}),
        json!({"key": 5, "canary": "canary"}),
        json!({"keys": {"key": "open-sesame"}, "canary": "canary"}),
        json!("open-sesame"),
    ] {
        let (good, said) = lacis_check(&mesh, &configuration(config.clone()).to_string());
        assert!(!good && said.contains("doorkeeper"), "{config}: {said}");
    }
    if let Some(envoy) = Envoy::builder() {
        let filter = json!({"name": "doorkeeper", "module": module, "config": {"key": "open-sesame"}});
        let application = SocketAddr::from(([127, 0, 0, 1], 9));
        envoy.http("main", application, &[filter]).refused();
    }
}

/// `lacis check` on a configuration: whether it is good, and what was said.
fn lacis_check(mesh: &Mesh, config: &str) -> (bool, String) {
    let path = mesh.file("lacis.yaml", config);
    let output = command(&["check", "-c"]).arg(path).output().expect("lacis runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout) + &text(&output.stderr))
}

#[test]
fn rust() {
    check("rust");
}

#[test]
fn c() {
    check("c");
}

#[test]
fn cpp() {
    check("cpp");
}

#[test]
fn zig() {
    check("zig");
}

#[test]
fn assemblyscript() {
    check("assemblyscript");
}

#[test]
fn go() {
    check("go");
}
