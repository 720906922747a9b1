//! Envoy beside us: the same filters, the same applications, its port and its log.
//!
//! ```no_run
//! use lacis_tests::{App, Envoy, client};
//! use serde_json::json;
//!
//! let app = App::start();
//! let Some(envoy) = Envoy::builder() else { return };
//! let filter = json!({"module": "/a/filter.wasm", "config": "hello"}); // as in a configuration of ours
//! let envoy = envoy.http("main", app.address(), &[filter]).cluster("other", app.address()).start();
//! assert_eq!(client::get(envoy.listener("main"), "app", "/echo").status(), 200);
//! assert!(envoy.wasm_log().iter().any(|line| line.message == "hello"));
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client;
use crate::mesh::Mesh;
use crate::metrics::Metrics;
use crate::peers::{Peer, peer};
use crate::process::Process;
use crate::until;
use crate::wire::Response;

/// An Envoy that is not running yet: one worker and plaintext unless something else is said, everything on loopback ports
/// that the system chooses.
#[derive(Debug)]
pub struct EnvoyBuilder {
    program: Peer,
    dir: TempDir,
    listeners: Vec<Value>,
    clusters: Vec<Value>,
    node: Value,
    stats_tags: Value,
    workers: usize,
}

/// A running Envoy; as a [`Process`] it has signals, memory and an end.
#[derive(Debug)]
pub struct Envoy {
    process: Process,
    admin: SocketAddr,
    ports: BTreeMap<String, SocketAddr>,
    _dir: TempDir,
}

/// A line that a guest has logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WasmLine {
    /// `trace`, `debug`, `info`, `warning`, `error`, `critical`.
    pub level: String,
    /// What stands between `wasm log` and the colon: the plugin's name, its root_id and vm_id if they are not empty.
    pub plugin: String,
    /// The message.
    pub message: String,
}

impl Envoy {
    /// Begins one; `None` (loudly, see [`peer`](crate::peer)) where there is no Envoy.
    pub fn builder() -> Option<EnvoyBuilder> {
        let program = peer("envoy")?;
        let dir = TempDir::with_prefix("envoy-").expect("a directory");
        let node = json!({"id": "envoy", "cluster": "tests"});
        let (listeners, clusters, stats_tags) = (Vec::new(), Vec::new(), Value::Null);
        Some(EnvoyBuilder { program, dir, listeners, clusters, node, stats_tags, workers: 1 })
    }

    /// Where a listener is bound.
    pub fn listener(&self, name: &str) -> SocketAddr {
        *self.ports.get(name).unwrap_or_else(|| panic!("Envoy does not listen as {name}"))
    }

    /// `GET` from its admin interface.
    pub fn admin_get(&self, path: &str) -> Response {
        client::get(self.admin, "localhost", path)
    }

    /// A counter or gauge, as `/stats` shows it; metrics of filters are called `wasmcustom.NAME`.
    pub fn stat(&self, name: &str) -> Option<u64> {
        let text = self.admin_get("/stats").text();
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")?.parse().ok())
    }

    /// What a scraper gets; metrics of filters have the names that they gave them.
    pub fn metrics(&self) -> Metrics {
        Metrics::parse(&self.admin_get("/stats/prometheus?usedonly").text())
    }

    /// What guests have logged so far, in order; a message of several lines is one.
    pub fn wasm_log(&self) -> Vec<WasmLine> {
        wasm_lines(&self.err.all())
    }

    /// Waits until `pick` finds something in what guests have logged.
    pub fn wait_for_wasm_log<T>(&self, what: &str, mut pick: impl FnMut(&[WasmLine]) -> Option<T>) -> T {
        self.err.wait_for(what, |lines| pick(&wasm_lines(lines)))
    }
}

impl Deref for Envoy {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl EnvoyBuilder {
    /// Adds an HTTP listener with these filters, in order, before an HTTP/1.1 application. A filter is written as in
    /// our configuration: `module` (a path), and if wanted `name`, `config`, `root_id`, `vm_id`, `vm_config`, `env`,
    /// `failure`, `allow_on_headers_stop_iteration`. What is asked of a [`cluster`](EnvoyBuilder::cluster) by name
    /// (`:authority`) is routed there, anything else to the application.
    #[must_use]
    pub fn http(self, name: &str, application: SocketAddr, filters: &[Value]) -> Self {
        self.http_with(name, application, filters, &json!({}))
    }

    /// Like [`http`](EnvoyBuilder::http), with more fields of Envoy's `HttpConnectionManager`.
    #[must_use]
    pub fn http_with(mut self, name: &str, application: SocketAddr, filters: &[Value], more: &Value) -> Self {
        let cluster = format!("{name}-application");
        let filters = filters.iter().enumerate().map(|(at, filter)| {
            let kind = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm";
            let mut plugin = plugin(filter, &format!("{name}-{at}"));
            if let Some(alone) = filter.get("allow_on_headers_stop_iteration") {
                plugin["allow_on_headers_stop_iteration"] = alone.clone();
            }
            json!({"name": format!("wasm-{at}"), "typed_config": {"@type": kind, "config": plugin}})
        });
        let router = json!({"name": "router", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}});
        let mut manager = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": name,
            "http_protocol_options": {"enable_trailers": true},
            "http_filters": filters.chain([router]).collect::<Vec<_>>(),
            "route_config": {"name": "routes", "virtual_hosts": [
                {"name": "application", "domains": ["*"], "routes": [route(&cluster)]},
            ]},
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            manager[key] = value.clone();
        }
        let chain = json!({"name": "envoy.http_connection_manager", "typed_config": manager});
        self.listeners.push(listener(name, [chain]));
        self.clusters.push(cluster_at(&cluster, application));
        self
    }

    /// Adds a TCP listener with these filters (see [`http`](EnvoyBuilder::http)) before an application.
    #[must_use]
    pub fn tcp(mut self, name: &str, application: SocketAddr, filters: &[Value]) -> Self {
        let cluster = format!("{name}-application");
        let filters = filters.iter().enumerate().map(|(at, filter)| {
            let kind = "type.googleapis.com/envoy.extensions.filters.network.wasm.v3.Wasm";
            let plugin = plugin(filter, &format!("{name}-{at}"));
            json!({"name": format!("wasm-{at}"), "typed_config": {"@type": kind, "config": plugin}})
        });
        let proxy = json!({"name": "envoy.tcp_proxy", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": name, "cluster": cluster}});
        self.listeners.push(listener(name, filters.chain([proxy])));
        self.clusters.push(cluster_at(&cluster, application));
        self
    }

    /// Adds a service that speaks HTTP/1.1, for call-outs and for requests with this `:authority`.
    #[must_use]
    pub fn cluster(mut self, name: &str, address: SocketAddr) -> Self {
        self.clusters.push(cluster_at(name, address));
        self
    }

    /// Adds a service that speaks HTTP/2 with prior knowledge, as gRPC calls need.
    #[must_use]
    pub fn cluster_h2c(mut self, name: &str, address: SocketAddr) -> Self {
        self.clusters.push(cluster_of(name, address, "http2_protocol_options"));
        self
    }

    /// Its node: `id`, `cluster`, `metadata`.
    #[must_use]
    pub fn node(mut self, node: Value) -> Self {
        self.node = node;
        self
    }

    /// Its `stats_tags`, by which names of metrics become labels; `null` for Envoy's own.
    #[must_use]
    pub fn stats_tags(mut self, tags: &Value) -> Self {
        self.stats_tags = tags.clone();
        self
    }

    /// How many workers.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// Has a listener demand TLS, as this service of a mesh.
    #[must_use]
    pub fn secured(mut self, listener: &str, mesh: &Mesh, service: &str) -> Self {
        let listener = self.listeners.iter_mut().find(|own| own["name"] == listener).expect("a listener");
        let inspector = "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector";
        listener["listener_filters"] =
            json!([{"name": "envoy.filters.listener.tls_inspector", "typed_config": {"@type": inspector}}]);
        let more = json!({"require_client_certificate": true});
        listener["filter_chains"][0]["transport_socket"] = tls("DownstreamTlsContext", mesh, service, more);
        self
    }

    /// Has a cluster (that of a listener's application is called `LISTENER-application`) speak TLS, as this service of a mesh.
    #[must_use]
    pub fn cluster_secured(mut self, cluster: &str, mesh: &Mesh, service: &str) -> Self {
        let cluster = self.clusters.iter_mut().find(|own| own["name"] == cluster).expect("a cluster");
        cluster["transport_socket"] = tls("UpstreamTlsContext", mesh, service, json!({}));
        self
    }

    /// Starts it and waits until every listener is bound.
    pub fn start(self) -> Envoy {
        let names: Vec<String> = self.listeners.iter().map(|l| text(&l["name"])).collect();
        let process = self.run();
        let file = self.dir.path().join("admin");
        let what = "Envoy is ready";
        let alive = || assert!(process.ended().is_none(), "Envoy ended at once");
        let admin: SocketAddr = until(what, || {
            alive();
            fs::read_to_string(&file).ok()?.trim().parse().ok()
        });
        let ports = until(what, || {
            alive();
            let page: Value =
                serde_json::from_slice(&client::get(admin, "localhost", "/listeners?format=json").body).ok()?;
            let bound: BTreeMap<String, SocketAddr> =
                page["listener_statuses"].as_array()?.iter().filter_map(bound).collect();
            let ready = client::get(admin, "localhost", "/ready").status() == 200;
            (ready && names.iter().all(|name| bound.contains_key(name))).then_some(bound)
        });
        Envoy { process, admin, ports, _dir: self.dir }
    }

    /// Starts one that is expected to refuse its configuration, and gives what it said until its end.
    pub fn refused(self) -> String {
        let process = self.run();
        assert!(!process.wait().success(), "Envoy ended well");
        process.err.to_end().join("\n")
    }

    fn run(&self) -> Process {
        let mut listeners = self.listeners.clone();
        for manager in listeners.iter_mut().map(|l| &mut l["filter_chains"][0]["filters"][0]["typed_config"]) {
            // Whatever was added later is to be found by every listener.
            if let Some(hosts) = manager.pointer_mut("/route_config/virtual_hosts").and_then(Value::as_array_mut) {
                for name in
                    self.clusters.iter().map(|c| text(&c["name"])).filter(|name| !name.ends_with("-application"))
                {
                    let domains = [name.clone(), format!("{name}:*")];
                    hosts.push(json!({"name": name, "domains": domains, "routes": [route(&name)]}));
                }
            }
        }
        let config = json!({
            "node": self.node,
            "admin": {"address": address(SocketAddr::from(([127, 0, 0, 1], 0)))},
            "static_resources": {"listeners": listeners, "clusters": self.clusters},
            "stats_config": {"stats_tags": self.stats_tags},
        });
        let path = self.dir.path().join("envoy.json");
        fs::write(&path, serde_json::to_string_pretty(&config).expect("JSON")).expect("a written configuration");
        let mut command = self.program.command();
        command.arg("-c").arg(path).arg("--admin-address-path").arg(self.dir.path().join("admin"));
        command.args(["--concurrency", &self.workers.to_string(), "--disable-hot-restart", "--log-format", "%l|%n|%v"]);
        command.args(["--log-level", "warning", "--component-log-level", "wasm:trace"]);
        Process::start("envoy", command)
    }
}

/// A transport socket with the certificate of a service, which trusts the mesh.
fn tls(kind: &str, mesh: &Mesh, service: &str, more: Value) -> Value {
    let mut context = json!({
        "@type": format!("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{kind}"),
        "common_tls_context": {
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
            "tls_certificates": [{"certificate_chain": {"filename": mesh.certificate(service)},
                "private_key": {"filename": mesh.key(service)}}],
            "validation_context": {"trusted_ca": {"filename": mesh.ca()}},
        },
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        context[key] = value.clone();
    }
    json!({"name": "envoy.transport_sockets.tls", "typed_config": context})
}

/// A `PluginConfig` of a filter section of ours.
fn plugin(filter: &Value, name: &str) -> Value {
    let payload = |value: &Value| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        json!({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": text})
    };
    let module = Path::new(filter["module"].as_str().expect("a module")).canonicalize().expect("the module's file");
    let mut vm = json!({
        "vm_id": text(&filter["vm_id"]), "runtime": "envoy.wasm.runtime.v8", "code": {"local": {"filename": module}},
    });
    if let Some(config) = filter.get("vm_config") {
        vm["configuration"] = payload(config);
    }
    if let Some(env) = filter.get("env") {
        vm["environment_variables"] = json!({"key_values": env});
    }
    let failure = match filter["failure"].as_str() {
        Some("open") => "FAIL_OPEN",
        // The nearest to ours, which replaces a dead VM always.
        _ => "FAIL_RELOAD",
    };
    let name = filter["name"].as_str().unwrap_or(name);
    let mut plugin =
        json!({"name": name, "root_id": text(&filter["root_id"]), "failure_policy": failure, "vm_config": vm});
    if let Some(config) = filter.get("config") {
        plugin["configuration"] = payload(config);
    }
    plugin
}

fn listener(name: &str, filters: impl IntoIterator<Item = Value>) -> Value {
    let filters: Vec<Value> = filters.into_iter().collect();
    let address = address(SocketAddr::from(([127, 0, 0, 1], 0)));
    json!({"name": name, "address": address, "filter_chains": [{"filters": filters}]})
}

fn cluster_at(name: &str, at: SocketAddr) -> Value {
    cluster_of(name, at, "http_protocol_options")
}

fn cluster_of(name: &str, at: SocketAddr, protocol: &str) -> Value {
    let options = if protocol == "http_protocol_options" { json!({"enable_trailers": true}) } else { json!({}) };
    let http = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {protocol: options}}});
    json!({"name": name, "type": "STATIC", "connect_timeout": "10s", "typed_extension_protocol_options": http,
        "load_assignment": {"cluster_name": name, "endpoints": [
            {"lb_endpoints": [{"endpoint": {"address": address(at)}}]}]}})
}

fn route(cluster: &str) -> Value {
    json!({"match": {"prefix": "/"}, "route": {"cluster": cluster}})
}

fn address(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

/// Name and address of one entry of `/listeners`.
fn bound(status: &Value) -> Option<(String, SocketAddr)> {
    let socket = &status["local_address"]["socket_address"];
    let port = u16::try_from(socket["port_value"].as_u64()?).ok()?;
    Some((text(&status["name"]), SocketAddr::new(socket["address"].as_str()?.parse().ok()?, port)))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The lines that guests wrote among those of Envoy, whose format is `LEVEL|LOGGER|MESSAGE`.
pub fn wasm_lines(lines: &[String]) -> Vec<WasmLine> {
    let mut found: Vec<WasmLine> = Vec::new();
    let mut ours = false;
    for line in lines {
        let mut parts = line.splitn(3, '|');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(level), Some("wasm"), Some(rest)) => {
                let line = rest
                    .strip_prefix("wasm log")
                    .and_then(|rest| rest.split_once(": ").or(rest.strip_suffix(':').map(|plugin| (plugin, ""))));
                ours = line.is_some();
                found.extend(line.map(|(plugin, message)| WasmLine {
                    level: level.to_owned(),
                    plugin: plugin.trim().to_owned(),
                    message: message.to_owned(),
                }));
            }
            (Some("trace" | "debug" | "info" | "warning" | "error" | "critical"), Some(_), Some(_)) => ours = false,
            // What follows a line break within a message.
            _ => {
                if let Some(last) = found.last_mut().filter(|_| ours) {
                    last.message.push('\n');
                    last.message.push_str(line);
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{App, guest};

    #[test]
    fn lines_of_guests_are_found() {
        let log = [
            "info|main|x: y",
            "warning|wasm|wasm log p root vm: one: two",
            "three|",
            "error|wasm|Function: f failed",
            "info|wasm|wasm log:",
        ];
        let line = |level: &str, plugin: &str, message: &str| WasmLine {
            level: level.into(),
            plugin: plugin.into(),
            message: message.into(),
        };
        let log = log.map(str::to_owned);
        assert_eq!(wasm_lines(&log), [line("warning", "p root vm", "one: two\nthree|"), line("info", "", "")]);
    }

    #[test]
    fn a_filter_runs_in_it() {
        let app = App::start();
        let Some(envoy) = Envoy::builder() else { return };
        let mut upper = guest("upper");
        upper["name"] = json!("upper");
        let envoy = envoy.http("main", app.address(), &[upper]).start();
        let answer = client::request(envoy.listener("main"), "POST", "app", "/mirror", &[], Some(b"hello"));
        assert_eq!((answer.status(), answer.text().as_str()), (200, "HELLO"));
    }
}
