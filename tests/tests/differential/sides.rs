//! Envoy and us with the same filters, each before applications of its own.

use std::cell::RefCell;
use std::net::SocketAddr;

use lacis_tests::{App, Envoy, Link, Mesh, Process, Sidecar, SidecarBuilder, TRUST_DOMAIN, script, tls, until, unused};
use serde_json::{Value, json};

use crate::areas::Row;
use crate::outcome::{End, Outcome};
use crate::request::{Door, PATIENCE, Request};

/// A filter: its name, its script, and what else its section has.
pub(crate) type Filter<'a> = (&'a str, &'a str, Value);

/// Where the filters stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Before a service that is called in plaintext.
    Plaintext,
    /// Before the application, where callers come with TLS.
    Inbound,
    /// Before a service that is called with TLS: a sidecar of ours.
    Link,
    /// Before the application, as `Inbound`, where requests come through another sidecar of ours.
    Beyond,
}

/// How both run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    pub(crate) place: Place,
    pub(crate) workers: usize,
    /// What sidecars call each other over, where the place has two of them.
    pub(crate) link: Link,
    /// How many milliseconds an exchange may do nothing.
    pub(crate) idle: Option<u32>,
}

impl Setting {
    /// One worker, before a service that is called in plaintext.
    pub(crate) const PLAIN: Setting = Setting { place: Place::Plaintext, workers: 1, link: Link::H1, idle: None };
}

/// Both of them.
pub(crate) struct Sides {
    envoy: RefCell<Side>,
    lacis: Side,
    setting: Setting,
    filters: Vec<(String, Value)>,
}

/// One of them.
pub(crate) struct Side {
    proxy: Proxy,
    door: Door,
    /// The name of the filter, if there is just one.
    one: String,
    apps: Vec<(&'static str, App)>,
    /// The sidecar at the other end of the link.
    _peer: Option<Sidecar>,
    _mesh: Mesh,
}

enum Proxy {
    Envoy(Envoy),
    Lacis(Sidecar),
}

impl Sides {
    /// Starts both with a chain of filters; `None` where there is no Envoy.
    pub(crate) fn start(filters: &[Filter<'_>]) -> Option<Sides> {
        Sides::start_in(Setting::PLAIN, filters)
    }

    /// The same in another setting.
    pub(crate) fn start_in(setting: Setting, filters: &[Filter<'_>]) -> Option<Sides> {
        let filters: Vec<(String, Value)> = filters.iter().map(section).collect();
        Some(Sides {
            envoy: RefCell::new(envoy(setting, &filters)?),
            lacis: lacis(setting, &filters),
            setting,
            filters,
        })
    }

    /// Runs a case on both.
    pub(crate) fn both(&self, name: &str, row: &Row) -> (Outcome, Outcome) {
        let filters = self.filters.len();
        let Row(_, request, scripts) = *row;
        let envoys = self.envoy.borrow().run(name, request, scripts, filters);
        if envoys.end == End::Died
            && let Some(next) = envoy(self.setting, &self.filters)
        {
            self.envoy.replace(next);
        }
        (envoys, self.lacis.run(name, request, scripts, filters))
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
            Proxy::Lacis(sidecar) => sidecar.metric_becomes(name, &[], |value| value > 0.0) as u64,
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

/// A filter's name, and its section of a configuration.
pub(crate) fn section((name, config, more): &Filter<'_>) -> (String, Value) {
    let mut section = script(config);
    for (key, value) in more.as_object().into_iter().flatten() {
        section[key] = value.clone();
    }
    ((*name).to_owned(), section)
}

fn apps() -> Vec<(&'static str, App)> {
    vec![("app", App::named("app")), ("other", App::named("other")), ("grpc", App::h2c())]
}

/// The sidecar before the application `app`, where that is called with TLS.
fn called(setting: Setting, mesh: &Mesh, app: &App) -> Option<Sidecar> {
    (setting.place == Place::Link).then(|| mesh.sidecar("delta").application(app).start())
}

/// Envoy; `None` where there is none.
pub(crate) fn envoy(setting: Setting, filters: &[(String, Value)]) -> Option<Side> {
    let Setting { place, workers, link: _, idle } = setting;
    let builder = Envoy::builder()?;
    let one = if let [(name, _)] = filters { name.clone() } else { String::new() };
    let (apps, mesh) = (apps(), Mesh::new());
    let filters: Vec<Value> = filters
        .iter()
        .map(|(name, section)| {
            let mut section = section.clone();
            section["name"] = json!(name);
            section
        })
        .collect();
    let called = called(setting, &mesh, &apps[0].1);
    let app = called.as_ref().map_or(apps[0].1.address(), Sidecar::inbound);
    let more = idle.map_or(json!({}), |idle| json!({"stream_idle_timeout": format!("{}s", f64::from(idle) / 1000.0)}));
    let mut builder = builder
        .http_with("main", app, &filters, &more)
        .cluster("other", apps[1].1.address())
        .cluster_h2c("grpc", apps[2].1.address())
        .cluster("refused", unused())
        .node(NODE.with(|node| node.clone()))
        .workers(workers);
    builder = match place {
        Place::Plaintext => builder,
        Place::Inbound | Place::Beyond => builder.secured("main", &mesh, "delta"),
        Place::Link => builder.cluster_secured("main-application", &mesh, "alpha"),
    };
    let envoy = builder.start();
    let door = door(place, envoy.listener("main"), &mesh);
    Some(Side { door, proxy: Proxy::Envoy(envoy), one, apps, _peer: called, _mesh: mesh })
}

/// Us.
pub(crate) fn lacis(setting: Setting, filters: &[(String, Value)]) -> Side {
    let Setting { place, workers, link, idle } = setting;
    let (apps, mesh) = (apps(), Mesh::new());
    let sections: serde_json::Map<String, Value> =
        filters.iter().map(|(name, section)| (name.clone(), section.clone())).collect();
    let names: Vec<&str> = filters.iter().map(|(name, _)| name.as_str()).collect();
    let called = called(setting, &mesh, &apps[0].1);
    let builder = match (place, &called) {
        (Place::Inbound | Place::Beyond, _) => {
            mesh.sidecar("delta").application(&apps[0].1).with(json!({"inbound": {"filters": names}}))
        }
        (Place::Link, Some(called)) => calls_delta(&mesh, called, link).with(json!({"outbound": {"filters": names}})),
        _ => {
            let builder = mesh.sidecar("alpha").calls("app", apps[0].1.address(), Link::Plaintext);
            builder.with(json!({"outbound": {"filters": names}}))
        }
    };
    let idle = idle.map_or(json!({}), |idle| {
        let idle = format!("{idle}ms");
        json!({"services": {"app": {"timeouts": {"request": idle, "idle": idle}}}})
    });
    let sidecar = builder
        .calls("other", apps[1].1.address(), Link::Plaintext)
        .calls("grpc", apps[2].1.address(), Link::Plaintext)
        .calls("refused", unused(), Link::Plaintext)
        .with(json!({"filters": sections, "workers": workers, "node": NODE.with(|node| node.clone())}))
        .with(idle)
        .start();
    let caller = (place == Place::Beyond).then(|| calls_delta(&mesh, &sidecar, link).start());
    let address = match (place, &caller) {
        (Place::Inbound, _) => sidecar.inbound(),
        (_, Some(caller)) => caller.outbound(),
        (_, None) => sidecar.outbound(),
    };
    let door = door(place, address, &mesh);
    Side { door, proxy: Proxy::Lacis(sidecar), one: String::new(), apps, _peer: called.or(caller), _mesh: mesh }
}

/// A sidecar that reaches `app` at another.
fn calls_delta(mesh: &Mesh, delta: &Sidecar, link: Link) -> SidecarBuilder {
    // Its identity is not the one of the service's name.
    let identity = format!("spiffe://{TRUST_DOMAIN}/ns/default/sa/delta");
    mesh.sidecar("alpha")
        .calls("app", delta.inbound(), link)
        .with(json!({"services": {"app": {"identity": [identity]}}}))
}

fn door(place: Place, address: SocketAddr, mesh: &Mesh) -> Door {
    Door { address, tls: (place == Place::Inbound).then(|| tls::connector(mesh, "alpha")) }
}

thread_local!(static NODE: Value = json!({"id": "node-1", "cluster": "cluster-1", "metadata": {"TEXT": "hello", "NUMBER": 2.5, "TRUE": true}}));

impl Side {
    /// Sends the request and waits until nothing more will come of it.
    pub(crate) fn run(&self, name: &str, request: &str, scripts: &str, filters: usize) -> Outcome {
        let before: Vec<_> = self.apps.iter().map(|(_, app)| app.seen().len()).collect();
        let mut fields = vec![("x-case", name)];
        // Where there are several filters, each has a part of its own: `script [b] script [c] script`.
        let scripts: Vec<&str> = scripts.split("[b]").flat_map(|part| part.split("[c]")).map(str::trim).collect();
        let scripts: Vec<String> = scripts.iter().map(|script| script.replace("{case}", name)).collect();
        let named = ["x-script", "x-script-b", "x-script-c"].into_iter().zip(scripts.iter().map(String::as_str));
        fields.extend(named.filter(|(_, script)| !script.is_empty()));
        let lines = &self.process().err;
        let start = lines.count();
        let response = Request::parse(request, &fields).send(&self.door).map_err(|e| e.to_string());
        let over = lines.wait_within(PATIENCE, |lines| {
            let log = self.log(&lines[start..], name);
            is_over(&log, filters).then_some(log)
        });
        let (log, end) = match over {
            Some(log) => (log, End::Whole),
            None if self.process().err.is_ended() => (Vec::new(), End::Died),
            None => (self.log(&lines.all()[start..], name), End::Never),
        };
        if end == End::Whole {
            // An application may have answered before it has read all of the request.
            self.apps.iter().for_each(|(_, app)| app.wait_read());
        }
        let seen =
            self.apps.iter().zip(before).flat_map(|((name, app), before)| {
                app.seen().split_off(before).into_iter().map(move |seen| (*name, seen))
            });
        Outcome { response, seen: seen.collect(), log, end }
    }

    /// Waits until a sidecar of ours has no context of an exchange any more; nothing in it has panicked, and no guest trapped.
    pub(crate) fn is_clean(&self) {
        let Proxy::Lacis(sidecar) = &self.proxy else { return };
        until("no context has stayed", || {
            let filters = sidecar.admin_get("/filters").json()["filters"].take();
            let filters = filters.as_array().expect("filters");
            assert!(filters.iter().all(|filter| filter["traps"] == 0), "{filters:?}");
            filters.iter().all(|filter| filter["contexts"] == 1).then_some(())
        });
        let panicked = |line: &&String| line.contains("panicked");
        assert_eq!(sidecar.err.all().iter().find(panicked), None);
    }

    fn process(&self) -> &Process {
        match &self.proxy {
            Proxy::Envoy(envoy) => envoy,
            Proxy::Lacis(sidecar) => sidecar,
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
