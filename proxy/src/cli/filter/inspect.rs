//! `lacis filter inspect`: what a module is, what it may do, and what it costs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use lacis_host::{Allow, Plugin};
use serde_json::{Value, json};
use wasmparser::{ExternalKind, Parser, Payload, TypeRef};

use super::measure::{self, Cost, Sample};
use super::project::size;
use crate::cli::{Failure, Outcome, Output, print};
use crate::config::cases::{Expected, Outcome as End, Subject};
use crate::config::{self};
use crate::control::modules::{Loaded, Workshop};

/// Show what a module imports, exports, may do, and costs.
///
/// The cost is that of a sample request on this machine, measured by the clock: medians of many runs in the host alone, without
/// a network. A filter that needs a configuration, or another request, is given it by --filter-config or --cases.
#[derive(Debug, clap::Args)]
pub(super) struct Inspect {
    /// A module, or builtin:NAME.
    module: String,
    /// What the filter reads as its configuration.
    #[arg(long, value_name = "TEXT", conflicts_with = "cases")]
    filter_config: Option<String>,
    /// Takes configuration, request and response from the first case of this file that the filter starts for.
    #[arg(long, value_name = "FILE")]
    cases: Option<PathBuf>,
    /// How the result is written.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    output: Output,
}

/// What a module has in it.
#[derive(Debug, Default)]
struct Anatomy {
    /// Name and bytes of each section, in the order of the module.
    sections: Vec<(String, u64)>,
    /// Module and name.
    imports: Vec<(String, String)>,
    /// Names of exported functions.
    functions: Vec<String>,
    /// Pages of 64 KiB: at the start, and at the most.
    memory: Option<(u64, Option<u64>)>,
}

/// What the families of host functions let a filter do.
const POWERS: [(&str, &str); 14] = [
    ("body", "change bodies"),
    ("foreign", "call functions of the host by their names"),
    ("grpc", "call services over gRPC"),
    ("headers", "read and change headers and trailers"),
    ("http", "call services over HTTP"),
    ("log", "write to the log"),
    ("metrics", "define and change metrics"),
    ("properties", "read and set properties: who calls, from where, by which route"),
    ("queues", "send and take messages of shared queues"),
    ("reply", "answer requests itself"),
    ("route", "have the route chosen anew"),
    ("shared_data", "keep data that all workers see"),
    ("stream", "hold messages back and let them go, or close streams"),
    ("timer", "run by a timer"),
];

/// The bytes of a page of WebAssembly.
const PAGE: u64 = 64 << 10;

impl Inspect {
    /// Runs the command.
    pub(super) fn execute(self) -> Outcome {
        let Inspect { module, filter_config, cases, output } = self;
        let loaded = Workshop::default().load(&module).map_err(Failure::Input)?;
        let anatomy = Anatomy::of(&loaded.code);
        let sample = sample(cases, filter_config)?;
        let cost = measure::cost(&loaded.plugin, &sample);
        print(&match output {
            Output::Text => text(&module, &loaded, &anatomy, &cost),
            Output::Json => format!("{:#}\n", object(&module, &loaded, &anatomy, &cost)),
        });
        Ok(())
    }
}

/// What is sent through the filter.
fn sample(cases: Option<PathBuf>, config: Option<String>) -> Result<Sample, Failure> {
    let Some(path) = cases else { return Ok(Sample::usual(config.unwrap_or_default())) };
    let cases = config::read_cases(&path)
        .map_err(|problems| Failure::Input(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")))?;
    let starts = |what: &Expected| *what != Expected::Outcome(End::Refused);
    let goes_on = |what: &Expected| *what == Expected::Outcome(End::Continue);
    let all = || cases.cases.iter().filter(|case| case.expect.iter().all(|expected| starts(&expected.what)));
    // The way of most requests is what one wants to know.
    let case = all().find(|case| case.expect.iter().any(|expected| goes_on(&expected.what))).or(all().next());
    let Some(case) = case else {
        return Err(Failure::Input(format!("{}: in no case does the filter start", path.display())));
    };
    Ok(Sample {
        name: format!("the case \"{}\"", case.name),
        subject: cases.subject.clone(),
        config: case.config.clone(),
        request: case.request.clone(),
        response: case.response.clone(),
    })
}

impl Anatomy {
    /// Takes a module apart that was compiled, so that it is valid.
    fn of(code: &[u8]) -> Anatomy {
        let mut anatomy = Anatomy::default();
        for payload in Parser::new(0).parse_all(code).map_while(Result::ok) {
            if let Some((id, range)) = payload.as_section() {
                let name = match &payload {
                    Payload::CustomSection(section) => format!("custom {:?}", section.name()),
                    _ => section(id).to_owned(),
                };
                anatomy.sections.push((name, (range.end - range.start) as u64));
            }
            match payload {
                Payload::ImportSection(imports) => {
                    for import in imports.into_imports().map_while(Result::ok) {
                        if let TypeRef::Func(_) = import.ty {
                            anatomy.imports.push((import.module.to_owned(), import.name.to_owned()));
                        }
                    }
                }
                Payload::ExportSection(exports) => {
                    let functions = exports.into_iter().map_while(Result::ok).filter(|e| e.kind == ExternalKind::Func);
                    anatomy.functions.extend(functions.map(|export| export.name.to_owned()));
                }
                Payload::MemorySection(memories) => {
                    let memory = memories.into_iter().map_while(Result::ok).next();
                    anatomy.memory = memory.map(|memory| (memory.initial, memory.maximum));
                }
                _ => {}
            }
        }
        anatomy
    }

    /// What the module may do, by families; functions without one are always allowed.
    fn families(&self) -> BTreeMap<&'static str, Vec<&str>> {
        let mut families: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (_, name) in &self.imports {
            if let Some(family) = Allow::family(name) {
                families.entry(family).or_default().push(name);
            }
        }
        families
    }

    /// What else it imports.
    fn always(&self) -> Vec<&str> {
        self.imports.iter().map(|(_, name)| name.as_str()).filter(|name| Allow::family(name).is_none()).collect()
    }

    /// What the host calls.
    fn callbacks(&self) -> Vec<&str> {
        const ALLOCATOR: &str = "proxy_on_memory_allocate";
        let of_ours =
            |name: &&str| (name.starts_with("proxy_on_") || name.starts_with("proxy_validate")) && *name != ALLOCATOR;
        self.functions.iter().map(String::as_str).filter(of_ours).collect()
    }
}

/// The sections of a module, WebAssembly specification 5.5.2.
fn section(id: u8) -> &'static str {
    const NAMES: [&str; 14] = [
        "custom",
        "type",
        "import",
        "function",
        "table",
        "memory",
        "global",
        "export",
        "start",
        "element",
        "code",
        "data",
        "data count",
        "tag",
    ];
    NAMES.get(usize::from(id)).copied().unwrap_or("other")
}

fn power(family: &str) -> &'static str {
    POWERS.iter().find(|(own, _)| *own == family).map_or("", |(_, power)| power)
}

/// Whether it may see bodies: it needs the callback, and what reads them is always allowed.
fn sees_bodies(plugin: &Plugin) -> bool {
    plugin.exports("proxy_on_request_body") || plugin.exports("proxy_on_response_body")
}

fn text(module: &str, loaded: &Loaded, anatomy: &Anatomy, cost: &Cost) -> String {
    let Loaded { code, plugin, language } = loaded;
    let mut text = String::new();
    let mut add = |name: &str, value: String| {
        let written = writeln!(text, "{name:<12}{value}");
        debug_assert!(written.is_ok(), "a string takes everything");
    };
    add("module", format!("{module}, {}", size(code.len() as u64)));
    add("abi", format!("Proxy-Wasm {}", plugin.abi().name()));
    add("language", language.clone().unwrap_or_else(|| "unknown".into()));
    let memory = anatomy.memory.map(|(initial, maximum)| {
        let most = maximum.map_or("no bound of its own".into(), |pages| format!("{} at the most", size(pages * PAGE)));
        format!("{} to begin with, {most}", size(initial * PAGE))
    });
    add("memory", memory.unwrap_or_else(|| "none".into()));
    for (number, (name, bytes)) in anatomy.sections.iter().enumerate() {
        add(if number == 0 { "sections" } else { "" }, format!("{name} {}", size(*bytes)));
    }
    for (number, (family, functions)) in anatomy.families().into_iter().enumerate() {
        let line = format!("{} (allow {family}: {})", power(family), functions.join(", "));
        add(if number == 0 { "it may" } else { "" }, line);
    }
    if sees_bodies(plugin) {
        add("", "see bodies".into());
    }
    let always = anatomy.always();
    if !always.is_empty() {
        add("and always", always.join(", "));
    }
    add("callbacks", anatomy.callbacks().join(", "));
    let Cost { sample, measured } = cost;
    match measured {
        Err(why) => add("cost", format!("not measured: {why}")),
        Ok(measured) => {
            add("cost", format!("medians of {} runs of {sample}, by the clock of this machine", measured.runs));
            add("", format!("start of a VM with the filter: {} ({} starts)", time(measured.start), measured.starts));
            add("", format!("its memory then: {}", size(measured.memory as u64)));
            for (callback, nanoseconds) in &measured.callbacks {
                add("", format!("{callback}: {}", time(*nanoseconds)));
            }
        }
    }
    text
}

fn object(module: &str, loaded: &Loaded, anatomy: &Anatomy, cost: &Cost) -> Value {
    let Loaded { code, plugin, language } = loaded;
    let sections: Vec<Value> =
        anatomy.sections.iter().map(|(name, bytes)| json!({ "name": name, "bytes": bytes })).collect();
    let imports: Vec<Value> = anatomy
        .imports
        .iter()
        .map(|(module, name)| json!({ "module": module, "name": name, "allow": Allow::family(name) }))
        .collect();
    let may: Vec<Value> =
        anatomy.families().into_keys().map(|family| json!({ "allow": family, "what": power(family) })).collect();
    let measured = match &cost.measured {
        Err(why) => json!({ "sample": cost.sample, "error": why }),
        Ok(measured) => {
            let callbacks: Vec<Value> = measured
                .callbacks
                .iter()
                .map(|(name, nanoseconds)| json!({ "name": name, "nanoseconds": nanoseconds }))
                .collect();
            json!({
                "sample": cost.sample,
                "runs": measured.runs,
                "start_nanoseconds": measured.start,
                "starts": measured.starts,
                "memory_bytes": measured.memory,
                "callbacks": callbacks,
            })
        }
    };
    json!({
        "module": module,
        "bytes": code.len(),
        "abi": plugin.abi().name(),
        "language": language,
        "memory": anatomy.memory.map(|(initial, maximum)| json!({
            "initial_bytes": initial * PAGE,
            "maximum_bytes": maximum.map(|pages| pages * PAGE),
        })),
        "sections": sections,
        "imports": imports,
        "may": may,
        "sees_bodies": sees_bodies(plugin),
        "exports": anatomy.functions,
        "callbacks": anatomy.callbacks(),
        "cost": measured,
    })
}

/// A time for people.
fn time(nanoseconds: u64) -> String {
    match nanoseconds {
        0..1000 => format!("{nanoseconds} ns"),
        1000..1_000_000 => format!("{:.1} µs", nanoseconds as f64 / 1e3),
        _ => format!("{:.1} ms", nanoseconds as f64 / 1e6),
    }
}

impl Sample {
    /// A request as browsers and services send them.
    fn usual(config: String) -> Sample {
        let pairs = |lines: &[(&str, &str)]| {
            lines.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>()
        };
        let request = pairs(&[
            (":authority", "delta.example"),
            (":path", "/v1/things?page=2"),
            (":method", "POST"),
            (":scheme", "http"),
            ("user-agent", "sample/1"),
            ("accept", "*/*"),
            ("accept-encoding", "gzip, br"),
            ("content-type", "application/json"),
            ("content-length", "17"),
            ("x-request-id", "7d0b1c9e-38c3-4e4c-9a8e-27a1a1b5e0aa"),
        ]);
        let response = pairs(&[(":status", "200"), ("content-type", "text/plain"), ("content-length", "12")]);
        let message =
            |head, body: &[u8]| crate::config::cases::Message { head, body: vec![body.to_vec()], trailers: Vec::new() };
        Sample {
            name: "a request with ten header lines and a short body".into(),
            subject: Subject::default(),
            config: config.into_bytes(),
            request: message(request, br#"{"name":"things"}"#),
            response: message(response, b"twelve bytes"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_has_its_words() {
        let families: Vec<&str> = Allow::families().collect();
        assert_eq!(families, POWERS.map(|(family, _)| family));
    }

    #[test]
    fn a_module_is_taken_apart() {
        let code = wat::parse_str(
            r#"(module (import "env" "proxy_log" (func (param i32 i32 i32) (result i32)))
                (import "env" "proxy_done" (func (result i32))) (memory (export "memory") 2 9)
                (func (export "proxy_on_log") (param i32)) (@custom "note" "hi"))"#,
        )
        .unwrap();
        let anatomy = Anatomy::of(&code);
        assert_eq!(anatomy.families(), BTreeMap::from([("log", vec!["proxy_log"])]));
        assert_eq!((anatomy.always(), anatomy.callbacks()), (vec!["proxy_done"], vec!["proxy_on_log"]));
        assert_eq!(anatomy.memory, Some((2, Some(9))));
        let names: Vec<&str> = anatomy.sections.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["type", "import", "function", "memory", "export", "code", "custom \"note\""]);
        for end in 0..code.len() {
            Anatomy::of(&code[..end]);
        }
    }

    #[test]
    fn times() {
        assert_eq!([time(7), time(1500), time(2_500_000)], ["7 ns", "1.5 µs", "2.5 ms"]);
    }
}
