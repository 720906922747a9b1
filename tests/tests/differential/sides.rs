//! Envoy and us with the same filters, each before applications of its own.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lacis_tests::{App, Envoy, Link, Mesh, Process, Sidecar, script};
use serde_json::{Value, json};

use crate::areas::Row;
use crate::outcome::{End, Outcome};
use crate::request::{PATIENCE, Request};

/// A filter: its name, its script, and what else its section has.
pub(crate) type Filter<'a> = (&'a str, &'a str, Value);

/// How long an application may take to note a request that it has begun to read. One that was cut short it never notes.
const NOTED: Duration = Duration::from_millis(300);

/// Both of them.
pub(crate) struct Sides {
    envoy: RefCell<Side>,
    lacis: Side,
    filters: Vec<(String, Value)>,
}

/// One of them.
struct Side {
    proxy: Proxy,
    address: SocketAddr,
    /// The name of the filter, if there is just one.
    one: String,
    apps: Vec<(&'static str, App)>,
}

enum Proxy {
    Envoy(Envoy),
    Lacis(Sidecar, #[expect(dead_code, reason = "its directory")] Mesh),
}

impl Sides {
    /// Starts both with a chain of filters; `None` where there is no Envoy.
    pub(crate) fn start(filters: &[Filter<'_>]) -> Option<Sides> {
        let filters: Vec<(String, Value)> = filters
            .iter()
            .map(|(name, config, more)| {
                let mut section = script(config);
                for (key, value) in more.as_object().into_iter().flatten() {
                    section[key] = value.clone();
                }
                ((*name).to_owned(), section)
            })
            .collect();
        Some(Sides { envoy: RefCell::new(envoy(&filters)?), lacis: lacis(&filters), filters })
    }

    /// Runs a case on both.
    pub(crate) fn both(&self, name: &str, row: &Row) -> (Outcome, Outcome) {
        let filters = self.filters.len();
        let envoys = self.envoy.borrow().run(name, row, filters);
        if envoys.end == End::Died
            && let Some(next) = envoy(&self.filters)
        {
            self.envoy.replace(next);
        }
        (envoys, self.lacis.run(name, row, filters))
    }
}

impl Sides {
    /// A counter or gauge of the filter, as both show it.
    pub(crate) fn exported(&self, name: &str) -> (Option<u64>, u64) {
        let envoys = match &self.envoy.borrow().proxy {
            Proxy::Envoy(envoy) => envoy.stat(&format!("wasmcustom.{name}")),
            Proxy::Lacis(..) => None,
        };
        let ours = match &self.lacis.proxy {
            Proxy::Lacis(sidecar, _) => sidecar.metric_becomes(name, &[], |value| value > 0.0) as u64,
            Proxy::Envoy(_) => 0,
        };
        (envoys, ours)
    }

    /// What root contexts logged, each line once.
    pub(crate) fn configured(&self) -> (Vec<String>, Vec<String>) {
        let lines = |side: &Side| {
            let lines = side.process().err.wait_within(PATIENCE, |lines| {
                let log = side.log(lines, "root");
                log.iter().any(|(_, _, line)| line.starts_with("cfg ")).then_some(log)
            });
            let mut lines: Vec<String> = lines.unwrap_or_default().into_iter().map(|(_, _, line)| line).collect();
            lines.sort();
            lines.dedup();
            lines.reverse();
            lines
        };
        (lines(&self.envoy.borrow()), lines(&self.lacis))
    }
}

/// Where nobody listens.
fn refused() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("a bound socket")
}

fn apps() -> Vec<(&'static str, App)> {
    vec![("app", App::named("app")), ("other", App::named("other")), ("grpc", App::h2c())]
}

fn envoy(filters: &[(String, Value)]) -> Option<Side> {
    let builder = Envoy::builder()?;
    let one = if let [(name, _)] = filters { name.clone() } else { String::new() };
    let apps = apps();
    let filters: Vec<Value> = filters
        .iter()
        .map(|(name, section)| {
            let mut section = section.clone();
            section["name"] = json!(name);
            section
        })
        .collect();
    let envoy = builder
        .http("main", apps[0].1.address(), &filters)
        .cluster("other", apps[1].1.address())
        .cluster_h2c("grpc", apps[2].1.address())
        .cluster("refused", refused())
        .node(NODE.with(|node| node.clone()))
        .start();
    Some(Side { address: envoy.listener("main"), proxy: Proxy::Envoy(envoy), one, apps })
}

fn lacis(filters: &[(String, Value)]) -> Side {
    let apps = apps();
    let mesh = Mesh::new();
    let sections: serde_json::Map<String, Value> =
        filters.iter().map(|(name, section)| (name.clone(), section.clone())).collect();
    let names: Vec<&str> = filters.iter().map(|(name, _)| name.as_str()).collect();
    let sidecar = mesh
        .sidecar("alpha")
        .calls("app", apps[0].1.address(), Link::Plaintext)
        .calls("other", apps[1].1.address(), Link::Plaintext)
        .calls("grpc", apps[2].1.address(), Link::Plaintext)
        .calls("refused", refused(), Link::Plaintext)
        .with(json!({"filters": sections, "outbound": {"filters": names}}))
        .with(json!({"workers": 1, "node": NODE.with(|node| node.clone())}))
        .start();
    Side { address: sidecar.outbound(), proxy: Proxy::Lacis(sidecar, mesh), one: String::new(), apps }
}

thread_local!(static NODE: Value = json!({"id": "node-1", "cluster": "cluster-1", "metadata": {"TEXT": "hello", "NUMBER": 2.5, "TRUE": true}}));

impl Side {
    /// Sends the request and waits until nothing more will come of it.
    fn run(&self, name: &str, row: &Row, filters: usize) -> Outcome {
        let before: Vec<_> = self.apps.iter().map(|(_, app)| (app.seen().len(), app.requests())).collect();
        let Row(_, request, scripts) = row;
        let mut fields = vec![("x-case", name)];
        // Where there are several filters, each has a part of its own: `script [b] script`.
        let scripts: Vec<&str> = scripts.split("[b]").map(str::trim).collect();
        let scripts: Vec<String> = scripts.iter().map(|script| script.replace("{case}", name)).collect();
        let named = ["x-script", "x-script-b"].into_iter().zip(scripts.iter().map(String::as_str));
        fields.extend(named.filter(|(_, script)| !script.is_empty()));
        let lines = &self.process().err;
        let start = lines.count();
        let response = Request::parse(request, &fields).send(self.address).map_err(|e| e.to_string());
        let over = lines.wait_within(PATIENCE, |lines| {
            let log = self.log(&lines[start..], name);
            is_over(&log, filters).then_some(log)
        });
        let (log, end) = match over {
            Some(log) => (log, End::Whole),
            None if self.process().err.is_ended() => (Vec::new(), End::Died),
            None => (self.log(&lines.all()[start..], name), End::Never),
        };
        for ((_, app), (seen, begun)) in self.apps.iter().zip(&before) {
            // An application notes a request when it has read it, and may have answered by then.
            let whole = || (app.seen().len() - seen) as u64 >= app.requests() - begun;
            let end = Instant::now() + NOTED;
            while !whole() && Instant::now() < end {
                std::thread::yield_now();
            }
        }
        let seen = self.apps.iter().zip(before).flat_map(|((name, app), (before, _))| {
            app.seen().split_off(before).into_iter().map(move |seen| (*name, seen))
        });
        Outcome { response, seen: seen.collect(), log, end }
    }

    fn process(&self) -> &Process {
        match &self.proxy {
            Proxy::Envoy(envoy) => envoy,
            Proxy::Lacis(sidecar, _) => sidecar,
        }
    }

    /// What guests logged of a case: plugin, level, message without the case.
    fn log(&self, lines: &[String], case: &str) -> Vec<(String, String, String)> {
        let of_case = |message: &str| message.strip_prefix(case)?.strip_prefix(' ').map(str::to_owned);
        match &self.proxy {
            Proxy::Envoy(_) => lacis_tests::envoy::wasm_lines(lines)
                .into_iter()
                .filter_map(|line| {
                    // Its root contexts log without a name.
                    let own = self.one.as_str();
                    let plugin =
                        line.plugin.split(' ').next().filter(|name| !name.is_empty()).unwrap_or(own).to_owned();
                    Some((plugin, line.level.replace("warning", "warn"), of_case(&line.message)?))
                })
                .collect(),
            Proxy::Lacis(..) => lines
                .iter()
                .filter(|line| line.contains(case))
                .filter_map(|line| serde_json::from_str::<Value>(line).ok())
                .filter_map(|line| {
                    let field =
                        |name: &str| line.get(name).or_else(|| line["fields"].get(name)).and_then(Value::as_str);
                    let level = field("level")?.to_ascii_lowercase();
                    Some((field("filter")?.to_owned(), level, of_case(field("message")?)?))
                })
                .collect(),
        }
    }
}

/// Whether every context has gone, and everything that was begun has come to its end. A trap ends all.
fn is_over(log: &[(String, String, String)], filters: usize) -> bool {
    let steps = |step: &str| log.iter().map(|(_, _, line)| line.matches(step).count()).sum::<usize>();
    let callbacks =
        |names: &[&str]| log.iter().filter(|(_, _, line)| names.iter().any(|name| line.starts_with(name))).count();
    if steps("| trap") > 0 || steps("| exit") > 0 {
        return true;
    }
    callbacks(&["dl "]) >= filters.min(1).max(callbacks(&["new "]))
        && callbacks(&["call "]) >= steps("| call 0")
        && callbacks(&["later "]) >= steps("| later 0")
        && callbacks(&["grpc-message ", "grpc-close "]) + steps("| gcancel 0") >= steps("| gcall 0")
        && callbacks(&["grpc-close "]) + steps("| gcancel 0") >= steps("| gstream 0")
}
