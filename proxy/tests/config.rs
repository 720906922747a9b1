//! Golden files: `tests/config/NAME.yaml` read, `NAME.txt` what is said about it. `UPDATE_GOLDEN=1` writes them anew.

#![allow(clippy::expect_used, clippy::panic, reason = "a test may fail anywhere, helpers included")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use lacis::config::resolve::{Host, Outcome};
use lacis::config::{self, Balance, Endpoints, Failure, LinkPolicy, Module};
use serde_json::{Value, json};

fn golden_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config")
}

/// Reads a config on a machine that is the same everywhere: two cores, `HOSTNAME` set, every file there but `absent*`.
fn parse(text: &str) -> Outcome {
    let host = Host {
        variable: &|name| (name == "HOSTNAME").then(|| "box".to_owned()),
        exists: &|path| !path.to_string_lossy().contains("absent"),
        cores: 2,
    };
    config::parse(text, "lacis.yaml", Path::new("/etc/lacis"), &host)
}

fn said(outcome: &Outcome) -> String {
    match outcome {
        Ok((_, warnings)) if warnings.is_empty() => "fine\n".into(),
        Ok((_, warnings)) => warnings.iter().map(|warning| format!("{warning}\n")).collect(),
        Err(problems) => problems.iter().map(|problem| format!("{problem}\n")).collect(),
    }
}

fn cases() -> Vec<(String, String)> {
    let mut cases: Vec<(String, String)> = fs::read_dir(golden_dir())
        .expect("golden files")
        .map(|entry| entry.expect("entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .map(|path| {
            let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
            (name, fs::read_to_string(path).expect("text"))
        })
        .collect();
    cases.sort();
    cases
}

#[test]
fn every_kind_of_mistake() {
    let cases = cases();
    assert!(cases.len() > 60, "the golden files are there: {}", cases.len());
    let mut wrong = Vec::new();
    for (name, text) in cases {
        let outcome = parse(&text);
        let said = said(&outcome);
        let path = golden_dir().join(format!("{name}.txt"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, &said).expect("writable");
        }
        let golden = fs::read_to_string(&path).unwrap_or_default();
        if said != golden {
            wrong.push(format!("{name}\n--- golden\n{golden}--- said\n{said}"));
        }
        assert_eq!(name.starts_with("good-"), outcome.is_ok(), "{name}: only `good-*` is accepted\n{said}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The same of cases of filters, in `tests/cases`.
#[test]
fn every_kind_of_mistake_in_cases() {
    let dir = Path::new("tests/cases");
    let golden = |name: &str, said: &str| {
        let path = dir.join(name);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, said).expect("writable");
        }
        let golden = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(said, golden, "{name}");
    };
    for name in ["empty", "good", "mistakes", "no-list", "none"] {
        let outcome = config::read_cases(&dir.join(format!("{name}.yaml")));
        assert_eq!(outcome.is_ok(), name == "good", "{name}");
        let problems = outcome.err().unwrap_or_default();
        golden(&format!("{name}.txt"), &problems.iter().map(|problem| format!("{problem}\n")).collect::<String>());
    }
    golden("schema.json", &config::schema::cases());
    let schema: Value = serde_json::from_str(&config::schema::cases()).expect("JSON");
    for (name, fits) in [("good", true), ("mistakes", false), ("no-list", false)] {
        let text = fs::read_to_string(dir.join(format!("{name}.yaml"))).expect("text");
        let value = serde_saphyr::from_str::<Value>(&text).expect("YAML");
        assert_eq!(mismatch(&schema, &schema, &value, "$").is_none(), fits, "{name}");
    }
}

/// The example of the documentation: nothing is refused but what it leaves out (two filters, a service, and the rest of
/// a digest).
#[test]
fn the_example_of_the_documentation() {
    let text = fs::read_to_string(golden_dir().join("documented.yaml")).expect("text");
    let problems = parse(&text).expect_err("it leaves something out");
    let paths: Vec<_> = problems.iter().map(|problem| problem.path.as_str()).collect();
    let to = "routes[0].rules[0].to[0].service";
    assert_eq!(paths, ["outbound.filters[0]", "outbound.filters[1]", to, "filters.auth.sha256"]);
}

/// No part of the documented file is ignored: changing the value of any key, or taking it out, changes the result.
#[test]
fn nothing_is_ignored() {
    let text = fs::read_to_string(golden_dir().join("good-everything.yaml")).expect("text");
    let whole = parse(&text).expect("valid").0;
    let lines: Vec<&str> = text.lines().collect();
    let mut tried = BTreeSet::new();
    for (position, line) in lines.iter().enumerate() {
        let Some((key, value)) = line.split_once(": ") else { continue };
        if line.trim_start().starts_with('#') || value.trim_start().starts_with('#') {
            continue;
        }
        let mut changed = lines.clone();
        changed.remove(position);
        let without = parse(&changed.join("\n"));
        // Only their default is supported yet.
        let only = ["protocol: http", "allow_on_headers_stop_iteration: false"].contains(&line.trim());
        assert!(only || without.is_err() || without.is_ok_and(|(config, _)| config != whole), "{line:?} means nothing");
        let misspelt = format!("{key}x: {value}");
        changed.insert(position, &misspelt);
        assert!(parse(&changed.join("\n")).is_err() || key.trim().chars().all(|c| c.is_uppercase()), "{misspelt:?}");
        tried.insert(key.trim().trim_start_matches("- ").to_owned());
    }
    // Every key that the documentation shows and that is built is among the tried.
    let documented = fs::read_to_string(golden_dir().join("documented.yaml")).expect("text");
    let later = ["env", "allow", "config"];
    for line in documented.lines().filter(|line| line.starts_with(char::is_alphabetic) || line.starts_with("  ")) {
        let Some((key, _)) = line.trim().split_once(':') else { continue };
        let word = key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        let depth = line.len() - line.trim_start().len();
        if !word || depth > 4 || later.contains(&key) || !line.trim().contains(": ") || in_routes(&documented, line) {
            continue;
        }
        if line.trim()[key.len() + 1..].trim_start().starts_with('#') {
            continue;
        }
        assert!(tried.contains(key), "`{key}` is documented and not in good-everything.yaml");
    }
}

fn in_routes(text: &str, line: &str) -> bool {
    let begin = text.find("\nroutes:").expect("routes");
    let end = text[begin..].find("\nfilters:").expect("filters") + begin;
    (begin..end).contains(&(line.as_ptr() as usize - text.as_ptr() as usize))
}

/// What the schema says of a file is what the parser says, as far as a schema can say it.
#[test]
fn the_schema_agrees() {
    let schema: Value = serde_json::from_str(&config::schema::text()).expect("JSON");
    let (mut accepted, mut refused) = (0, 0);
    for (name, text) in cases() {
        let Ok(value) = serde_saphyr::from_str::<Value>(&text) else { continue };
        let wrong = mismatch(&schema, &schema, &value, "$");
        match parse(&text) {
            Ok(_) => {
                assert_eq!(wrong, None, "{name}: the parser takes it");
                accepted += 1;
            }
            Err(problems) => {
                let stated = problems.iter().find(|p| STRUCTURAL.iter().any(|s| p.message.contains(s)));
                assert!(stated.is_none() || wrong.is_some(), "{name}: the schema takes it");
                refused += usize::from(wrong.is_some());
            }
        }
    }
    assert!(accepted >= 5 && refused >= 25, "accepted {accepted}, refused {refused}");
}

/// The same of configs that nobody would write: whatever stands in the place of each value of those that are good.
#[test]
fn the_schema_agrees_on_whatever_stands_in_a_place() {
    let schema: Value = serde_json::from_str(&config::schema::text()).expect("JSON");
    let odd = [json!(null), json!(true), json!(-1), json!(0), json!(1), json!(1.5), json!(1_u64 << 40)]
        .into_iter()
        .chain([json!("word"), json!(""), json!([]), json!([null]), json!({}), json!({"x": null})]);
    let odd: Vec<Value> = odd.collect();
    let (mut taken, mut refused, mut differ) = (0, 0, BTreeSet::new());
    for (name, text) in cases().into_iter().filter(|(name, _)| name.starts_with("good-")) {
        let Ok(whole) = serde_saphyr::from_str::<Value>(&text) else { continue };
        let mut places = Vec::new();
        self::places(&whole, "", &mut places);
        for (place, other) in places.iter().flat_map(|place| odd.iter().map(move |other| (place, other))) {
            let mut changed = whole.clone();
            *changed.pointer_mut(place).expect("a value") = other.clone();
            let wrong = mismatch(&schema, &schema, &changed, "$");
            match parse(&changed.to_string()) {
                Ok(_) if wrong.is_some() => {
                    _ = differ.insert(format!("{name}{place}: {other}: taken, but not by the schema"))
                }
                Ok(_) => taken += 1,
                Err(problems) => {
                    let stated = problems.iter().find(|p| STRUCTURAL.iter().any(|words| p.message.contains(words)));
                    if let Some(problem) = stated.filter(|_| wrong.is_none()) {
                        differ.insert(format!("{name}{place}: {other}: taken by the schema, but {problem}"));
                    }
                    refused += 1;
                }
            }
        }
    }
    assert!(differ.is_empty(), "{} differ:\n{}", differ.len(), differ.into_iter().collect::<Vec<_>>().join("\n"));
    assert!(taken > 300 && refused > 5000, "taken {taken}, refused {refused}");
}

/// The places of all values below one, as JSON Pointers.
fn places(value: &Value, at: &str, all: &mut Vec<String>) {
    let mut below = |key: &str, value: &Value| {
        let at = format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"));
        places(value, &at, all);
        all.push(at);
    };
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| below(key, value)),
        Value::Array(items) => items.iter().enumerate().for_each(|(i, item)| below(&i.to_string(), item)),
        _ => {}
    }
}

/// What is said of what a schema can say, too.
const STRUCTURAL: [&str; 5] =
    ["unknown key", "is missing", "expected ", "not supported yet; remove", "; write one of: "];

/// Where a value is not what a schema says: the part of JSON Schema that ours uses, without patterns.
fn mismatch(root: &Value, schema: &Value, value: &Value, at: &str) -> Option<String> {
    let Value::Object(keywords) = schema else { return (schema == false).then(|| at.to_owned()) };
    keywords.iter().find_map(|(keyword, rule)| {
        let list = || rule.as_array().expect("a list").iter();
        let wrong = match keyword.as_str() {
            "$ref" => {
                let target = root.pointer(rule.as_str()?.trim_start_matches('#')).expect("a target");
                return mismatch(root, target, value, at);
            }
            "oneOf" => list().filter(|option| mismatch(root, option, value, at).is_none()).count() != 1,
            "anyOf" => list().all(|option| mismatch(root, option, value, at).is_some()),
            "enum" => list().all(|option| option != value),
            "const" => rule != value,
            "type" => !list_or_one(rule).any(|name| has_type(value, name)),
            "minimum" => value.as_f64().is_some_and(|n| n < rule.as_f64().expect("a number")),
            "maximum" => value.as_f64().is_some_and(|n| n > rule.as_f64().expect("a number")),
            "minItems" => value.as_array().is_some_and(|items| (items.len() as u64) < rule.as_u64().expect("a number")),
            "minProperties" => {
                value.as_object().is_some_and(|map| (map.len() as u64) < rule.as_u64().expect("a number"))
            }
            "maxProperties" => {
                value.as_object().is_some_and(|map| (map.len() as u64) > rule.as_u64().expect("a number"))
            }
            "required" => value.is_object() && list().any(|key| value.get(key.as_str().expect("a key")).is_none()),
            "items" => {
                let mut items = value.as_array().into_iter().flatten().enumerate();
                return items.find_map(|(i, item)| mismatch(root, rule, item, &format!("{at}[{i}]")));
            }
            "properties" => {
                let mut entries = value.as_object().into_iter().flatten();
                return entries.find_map(|(key, item)| mismatch(root, rule.get(key)?, item, &format!("{at}.{key}")));
            }
            "additionalProperties" => {
                let known = |key| schema.get("properties").is_some_and(|properties| properties.get(key).is_some());
                let mut entries = value.as_object().into_iter().flatten().filter(|(key, _)| !known(key.as_str()));
                return entries.find_map(|(key, item)| mismatch(root, rule, item, &format!("{at}.{key}")));
            }
            "format" | "pattern" | "maxLength" | "default" | "description" | "examples" | "title" | "$schema"
            | "$defs" => false,
            other => panic!("teach this test the keyword {other}"),
        };
        wrong.then(|| format!("{at}: {keyword}"))
    })
}

fn list_or_one(rule: &Value) -> impl Iterator<Item = &str> {
    rule.as_array().map_or(std::slice::from_ref(rule), Vec::as_slice).iter().filter_map(Value::as_str)
}

fn has_type(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        other => panic!("teach this test the type {other}"),
    }
}

#[test]
fn the_schema_is_golden() {
    let path = golden_dir().join("schema.json");
    let text = config::schema::text();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &text).expect("writable");
    }
    assert_eq!(text, fs::read_to_string(path).expect("golden"));
}

#[test]
fn defaults() {
    let (config, warnings) = parse(
        "node: {service: alpha}
identity: {certificate: a.pem, private_key: /keys/a.pem, trust_bundle: ca.pem}
outbound: {}
inbound: {application: '127.0.0.1:8080'}
admin: {}
telemetry: {access_log: {}}
services: {delta: {endpoints: ['10.0.0.4:15006']}}
filters: {auth: {module: 'builtin:auth'}, own: {module: f/own.wasm, config: {b: [1, x, 1.5, ~, true], a: y}}}
",
    )
    .expect("valid");
    assert_eq!(warnings.len(), 2, "two unused filters: {warnings:?}");
    assert_eq!(config.node.spiffe.as_str(), "spiffe://cluster.local/ns/default/sa/alpha");
    assert_eq!((config.node.id.as_str(), config.node.cluster.as_str()), ("alpha.default", "alpha"));
    let identity = config.identity.expect("given");
    assert_eq!(identity.certificate, Path::new("/etc/lacis/a.pem"));
    assert_eq!(identity.private_key, Path::new("/keys/a.pem"));
    assert_eq!(config.outbound.expect("given").listen.to_string(), "127.0.0.1:15001");
    let inbound = config.inbound.expect("given");
    assert_eq!((inbound.listen.to_string(), inbound.access.allow), ("0.0.0.0:15006".into(), None));
    let timeouts = [inbound.timeouts.connect, inbound.timeouts.request, inbound.timeouts.idle, inbound.timeouts.stream];
    assert_eq!(timeouts.map(|t| t.as_millis()), [5000, 0, 300_000, 0]);
    assert_eq!(config.admin.expect("given").to_string(), "127.0.0.1:15000");
    assert_eq!(config.access_log.expect("given").path, Path::new("/dev/stdout"));
    assert_eq!(config.workers, 1);
    let delta = &config.services[0];
    assert_eq!((delta.hosts.as_slice(), delta.listen), (["delta".to_owned()].as_slice(), None));
    assert_eq!((delta.link, &delta.balance), (LinkPolicy::Auto, &Balance::LeastLoad));
    assert!(matches!(&delta.endpoints, Endpoints::Listed(all) if all[0].weight == 1), "{:?}", delta.endpoints);
    assert_eq!(delta.identity[0].as_str(), "spiffe://cluster.local/ns/default/sa/delta");
    let timeouts = [delta.timeouts.connect, delta.timeouts.request, delta.timeouts.idle];
    assert_eq!(timeouts.map(|t| t.as_millis()), [1000, 15_000, 300_000]);
    let [auth, own] = &config.filters[..] else { panic!("two filters") };
    assert_eq!((&auth.module, auth.failure), (&Module::Builtin("auth".into()), Failure::Closed));
    assert_eq!((auth.limits.memory, auth.limits.time.as_millis()), (64 << 20, 20));
    assert_eq!((auth.config.as_slice(), auth.env.as_slice()), (b"".as_slice(), [].as_slice()));
    assert_eq!(own.module, Module::Path("/etc/lacis/f/own.wasm".into()));
    assert_eq!(own.config, br#"{"a":"y","b":[1,"x",1.5,null,true]}"#);
    assert_eq!(own.allow, config::Allow::default());
    let limits = &own.limits;
    assert_eq!((limits.table, limits.log_lines, limits.metrics, limits.shared_data), (65_536, 1000, 1000, 16 << 20));
}

/// Limits of filters, at their bounds; those beyond are in `filter-limits-too-large`.
#[test]
fn limits_of_filters_have_edges() {
    let limits = |limits: &str| {
        let filter = format!("{{own: {{module: own.wasm, limits: {{{limits}}}}}}}");
        let config = parse(&format!("node: {{service: alpha}}\noutbound: {{}}\nfilters: {filter}\n")).expect("valid").0;
        let config::FilterLimits { queues, queue_items, queue_size, ticks, .. } = config.filters[0].limits;
        (queues, queue_items, queue_size, ticks)
    };
    assert_eq!(limits(""), (64, 8192, 4 << 20, 20));
    assert_eq!(limits("queues: 0, queue_items: 0, queue_size: 0B, ticks: 1%"), (0, 0, 0, 1));
    let most = "queues: 1000, queue_items: 1000000, queue_size: 256MiB, ticks: 100%";
    assert_eq!(limits(&format!("memory: 1GiB, {most}")), (1000, 1_000_000, 256 << 20, 100));
}

/// The names of an image, at their bounds.
#[test]
fn names_of_images_are_bounded() {
    let fine = |image: String| {
        let digest = "0".repeat(64);
        let filter = format!("{{own: {{module: 'oci://{image}', sha256: '{digest}'}}}}");
        parse(&format!("node: {{service: alpha}}\noutbound: {{}}\nfilters: {filter}\n")).is_ok()
    };
    for (length, is) in [(1, true), (255, true), (256, false)] {
        assert_eq!(fine(format!("a.example/{}:1", "r".repeat(length))), is, "a repository of {length}");
    }
    for (length, is) in [(0, false), (1, true), (128, true), (129, false)] {
        assert_eq!(fine(format!("a.example/r:{}", "t".repeat(length))), is, "a tag of {length}");
    }
}

/// What a filter may use is what its lists say, and what those bring along.
#[test]
fn what_is_allowed() {
    let allow = |allow: &str| {
        let text = format!(
            "node: {{service: alpha}}\noutbound: {{}}\nservices: {{delta: {{endpoints: ['10.0.0.4:1'], link: plaintext}}}}\n\
             filters: {{own: {{module: own.wasm, allow: {allow}}}}}"
        );
        parse(&text).expect("valid").0.filters.remove(0).allow
    };
    let has = |allow: &config::Allow, name| allow.functions.as_ref().is_none_or(|functions| functions.has(name));
    let none = allow("{calls: [], functions: []}");
    assert!(!has(&none, "proxy_log") && !has(&none, "proxy_http_call") && none.calls == Some(vec![]));
    let log = allow("{functions: [log]}");
    assert!(has(&log, "proxy_log") && !has(&log, "proxy_http_call") && log.calls.is_none());
    let delta = allow("{calls: [delta], functions: [log]}");
    assert!(has(&delta, "proxy_http_call") && has(&delta, "proxy_grpc_call") && !has(&delta, "proxy_get_property"));
    assert_eq!(delta.calls, Some(vec!["delta".to_owned()]));
    let calls = allow("{calls: [delta]}");
    assert!(calls.functions.is_none());
}

#[test]
fn workers_as_many_as_cores() {
    let text = "node: {service: alpha}\noutbound: {}\nworkers: auto\n";
    assert_eq!(parse(text).expect("valid").0.workers, 2);
}

#[test]
fn hostile_files_end_soon() {
    let service = |i: usize| format!("  s{i}: {{endpoints: [10.0.0.4], links: h2}}\n");
    let many: String = (0..20_000).map(service).collect();
    let problems = parse(&format!("services:\n{many}")).expect_err("wrong");
    assert_eq!(problems.len(), 1001, "a thousand, then how many more");
    assert!(problems[1000].message.ends_with("more problems"));
    let laughs: String = (1..30).map(|i| format!("l{i}: &l{i} [*l{0}, *l{0}, *l{0}, *l{0}]\n", i - 1)).collect();
    let problems = parse(&format!("l0: &l0 x\n{laughs}")).expect_err("wrong");
    assert!(problems[0].message.contains("more than 500000 values"), "{}", problems[0]);
    for text in ["[".repeat(1 << 20), "{a: ".repeat(1 << 20), "- ".repeat(1 << 20), "a".repeat(10 << 20)] {
        assert!(parse(&text).is_err());
    }
}

/// What is wrong with a file of endpoints is told like what is wrong with a config.
#[test]
fn files_of_endpoints() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("delta.yaml");
    let read = |text: &str| {
        fs::write(&path, text).expect("writable");
        config::endpoints(&path).map_err(|problems| {
            let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
            lines.join("\n").replace(dir.path().to_str().expect("UTF-8"), "DIR")
        })
    };
    let good = read("endpoints:\n  - 10.0.0.4:15006\n  - {address: '[::1]:7', weight: 2}\n").expect("valid");
    let good: Vec<_> = good.iter().map(|endpoint| (endpoint.address.to_string(), endpoint.weight)).collect();
    assert_eq!(good, [("10.0.0.4:15006".to_owned(), 1), ("[::1]:7".to_owned(), 2)]);
    assert_eq!(read(r#"{"endpoints": []}"#), Ok(Vec::new()), "a service may have none now; JSON is YAML");
    for (text, said) in [
        ("", "DIR/delta.yaml:1:1: the file is empty; the smallest useful one has `endpoints: []`"),
        ("[10.0.0.4:15006]", "DIR/delta.yaml:1:1: expected a map such as {endpoints: [10.0.0.4:15006]}, found a list"),
        ("{}", "DIR/delta.yaml:1:1: `endpoints` is missing; write a list of addresses such as [10.0.0.4:15006]"),
        ("endpoints:", "DIR/delta.yaml:1:10: endpoints: expected a list, found nothing"),
        (
            "endpoint: []\nendpoints:\n- 10.0.0.4\n- {address: 10.0.0.5:0}\n",
            "DIR/delta.yaml:1:1: unknown key \"endpoint\"; did you mean \"endpoints\"?
DIR/delta.yaml:3:3: endpoints[0]: \"10.0.0.4\" is not an IP address and a port such as 127.0.0.1:8080 or [::1]:8080
DIR/delta.yaml:4:13: endpoints[1].address: nothing listens on port 0; write the port",
        ),
    ] {
        assert_eq!(read(text), Err(said.to_owned()));
    }
}

/// A config is not valid without the files of endpoints that it names.
#[test]
fn a_config_with_bad_files_of_endpoints() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("lacis.yaml");
    let services = "services:\n  delta: {file: ends/delta.yaml}\n  other: {file: other.yaml}\n";
    let files = "identity: {certificate: a, private_key: b, trust_bundle: c}\n";
    fs::write(&path, format!("node: {{service: alpha}}\n{files}outbound: {{}}\n{services}")).expect("writable");
    fs::write(dir.path().join("other.yaml"), "endpoints: [nowhere]\n").expect("writable");
    let problems = config::load(&path).expect_err("two bad files");
    let said: Vec<_> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        said.join("\n").replace(dir.path().to_str().expect("UTF-8"), "DIR"),
        "DIR/lacis.yaml:5:17: services.delta.file: DIR/ends/delta.yaml: cannot be read: No such file or directory (os error 2)
DIR/other.yaml:1:13: endpoints[0]: \"nowhere\" is not an IP address and a port such as 127.0.0.1:8080 or [::1]:8080"
    );
}

#[test]
fn a_file_that_is_no_utf8() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("lacis.yaml");
    let said = |bytes: &[u8]| {
        fs::write(&path, bytes).expect("writable");
        let problems = config::load(&path).expect_err("wrong");
        problems[0].to_string().replace(dir.path().to_str().expect("UTF-8"), "DIR")
    };
    let wrong = "DIR/lacis.yaml: cannot be read: line 2 is not UTF-8; save the file as UTF-8";
    assert_eq!(said(b"node: {service: alpha}\n# \xe4\n"), wrong);
    // The end of what is read is within a character.
    let long = "\u{e4}".repeat(4 << 20);
    assert_eq!(said(long.as_bytes()), "DIR/lacis.yaml:1:1: the file is larger than 4 MiB");
}

#[test]
fn a_file_that_cannot_be_read() {
    let path = Path::new("/nonexistent/lacis.yaml");
    let problems = config::load(path).expect_err("not there");
    assert_eq!(
        problems[0].to_string(),
        "/nonexistent/lacis.yaml: cannot be read: No such file or directory (os error 2)"
    );
}
