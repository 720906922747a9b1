//! One running `lacis run`.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::app::App;
use crate::client;
use crate::mesh::{Link, TRUST_DOMAIN};
use crate::metrics::Metrics;
use crate::process::{Process, command, lacis};
use crate::until;
use crate::wire::Response;

/// `timeouts.connect` of every service here unless a test says otherwise. The default of 1 s is for a machine that does
/// not compile something else meanwhile.
const CONNECT: &str = "10s";

/// What sidecars log: everything of ours. The frames of libraries, one line each, would make a test of the log.
const LOG_LEVEL: &str = "info,lacis=debug";

/// The configuration of a sidecar that is not running yet.
#[derive(Debug)]
pub struct SidecarBuilder {
    dir: PathBuf,
    service: String,
    config: Value,
    args: Vec<String>,
    env: Vec<(String, String)>,
    /// What runs it, and that program's arguments.
    under: Vec<String>,
}

impl SidecarBuilder {
    /// Identity `service`, an outbound and an admin listener, access records on standard output.
    pub(crate) fn new(dir: &Path, service: &str) -> Self {
        let config = json!({
            "node": {"service": service, "trust_domain": TRUST_DOMAIN},
            "identity": {
                "certificate": format!("certs/{service}.pem"),
                "private_key": format!("certs/{service}-key.pem"),
                "trust_bundle": "certs/ca.pem",
            },
            "outbound": {"listen": "127.0.0.1:0"},
            "admin": {"listen": "127.0.0.1:0"},
            "telemetry": {"access_log": {"path": "/dev/stdout", "format": "json"}},
        });
        let args = Vec::new();
        SidecarBuilder {
            dir: dir.to_owned(),
            service: service.to_owned(),
            config,
            args,
            env: Vec::new(),
            under: Vec::new(),
        }
    }

    /// Adds an inbound listener before an application, with the protocol that it speaks.
    #[must_use]
    pub fn application(self, app: &App) -> Self {
        let protocol = if app.is_h2c() { "h2c" } else { "http1" };
        self.application_at(app.address()).with(json!({"inbound": {"protocol": protocol}}))
    }

    /// Adds an inbound listener before an HTTP/1.1 application that is not ours.
    #[must_use]
    pub fn application_at(self, address: SocketAddr) -> Self {
        self.with(json!({"inbound": {"listen": "127.0.0.1:0", "application": address.to_string()}}))
    }

    /// Adds a service with one endpoint.
    #[must_use]
    pub fn calls(self, service: &str, endpoint: SocketAddr, link: Link) -> Self {
        self.calls_all(service, &[endpoint], link)
    }

    /// Adds a service with these endpoints. A handshake may take [`CONNECT`]: how long it takes says how busy the
    /// machine is, and no test is about that.
    #[must_use]
    pub fn calls_all(self, service: &str, endpoints: &[SocketAddr], link: Link) -> Self {
        let endpoints: Vec<String> = endpoints.iter().map(SocketAddr::to_string).collect();
        let timeouts = json!({"connect": CONNECT});
        self.with(json!({"services": {service: {"endpoints": endpoints, "link": link.name(), "timeouts": timeouts}}}))
    }

    /// Merges into the configuration: maps key by key, anything else replaces what was there, `null` removes it.
    #[must_use]
    pub fn with(mut self, more: Value) -> Self {
        merge(&mut self.config, more);
        self
    }

    /// Adds an argument to `lacis run`.
    #[must_use]
    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Has this program run it: its path and arguments, before those of `lacis run`.
    #[must_use]
    pub fn under(mut self, program: &[&str]) -> Self {
        self.under = program.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Has `lacis check` look at it first, which compiles its modules: a debug build takes longer over a large one than a
    /// test waits for a sidecar.
    #[must_use]
    pub fn checked(self) -> Self {
        let path = self.dir.join(format!("{}-{}.yaml", self.service, unique()));
        write(&path, &self.config);
        let output = command(&["check", "-c"]).arg(&path).current_dir(&self.dir).output().expect("lacis runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&[output.stdout, output.stderr].concat()));
        self
    }

    /// Starts it and waits until it is ready.
    pub fn start(self) -> Sidecar {
        let sidecar = self.start_unready();
        until(&format!("{} is ready", sidecar.service), || {
            if let Some(status) = sidecar.process.ended() {
                panic!("{} ended at once: {status}", sidecar.service);
            }
            (sidecar.admin_get("/ready").status() == 200).then_some(())
        });
        sidecar
    }

    /// Starts it and waits only until its listeners are bound.
    pub fn start_unready(self) -> Sidecar {
        let path = self.dir.join(format!("{}-{}.yaml", self.service, unique()));
        write(&path, &self.config);
        let mut lacis = match self.under.split_first() {
            None => command(&["run", "-c"]),
            Some((program, arguments)) => {
                let mut under = Command::new(program);
                under.args(arguments).arg(lacis()).args(["run", "-c"]);
                under
            }
        };
        lacis.arg(&path).args(["--log-format", "json", "--log-level", LOG_LEVEL]).args(&self.args);
        lacis.current_dir(&self.dir).envs(self.env);
        let process = Process::start(&format!("lacis {}", self.service), lacis);
        let wanted = listeners(&self.config);
        let ports = process.err.wait_for(&format!("{} listens as {wanted:?}", self.service), |lines| {
            let found: BTreeMap<String, SocketAddr> = lines.iter().filter_map(|line| listening(line)).collect();
            wanted.iter().all(|name| found.contains_key(name)).then_some(found)
        });
        Sidecar { service: self.service, config: self.config, path, ports, process }
    }
}

/// A running sidecar; as a [`Process`] it has signals, memory and an end.
#[derive(Debug)]
pub struct Sidecar {
    service: String,
    config: Value,
    path: PathBuf,
    ports: BTreeMap<String, SocketAddr>,
    process: Process,
}

impl Sidecar {
    /// The outbound listener.
    pub fn outbound(&self) -> SocketAddr {
        self.port("outbound")
    }

    /// The inbound listener, TCP and UDP.
    pub fn inbound(&self) -> SocketAddr {
        self.port("inbound")
    }

    /// The admin listener.
    pub fn admin(&self) -> SocketAddr {
        self.port("admin")
    }

    /// The loopback port of a service.
    pub fn service(&self, name: &str) -> SocketAddr {
        self.port(name)
    }

    /// `GET` from the admin listener.
    pub fn admin_get(&self, path: &str) -> Response {
        client::get(self.admin(), "localhost", path)
    }

    /// `/metrics`, read now.
    pub fn metrics(&self) -> Metrics {
        let answer = self.admin_get("/metrics");
        assert_eq!(answer.status(), 200, "/metrics: {}", answer.text());
        Metrics::parse(&answer.text())
    }

    /// Waits until a metric, summed over the series that have these labels, is what `is` wants.
    pub fn metric_becomes(&self, name: &str, labels: &[(&str, &str)], is: impl Fn(f64) -> bool) -> f64 {
        until(&format!("{name}{labels:?} of {} is as wanted", self.service), || {
            let value = self.metrics().sum(name, labels);
            is(value).then_some(value)
        })
    }

    /// Waits until a metric is exactly `value`. A request is counted just after its last byte has left, so a test that
    /// has the answer in its hand may still be early.
    pub fn counts(&self, value: f64, name: &str, labels: &[(&str, &str)]) {
        self.metric_becomes(name, labels, |sum| sum == value);
    }

    /// Waits for an access record that `pick` accepts.
    pub fn access(&self, what: &str, pick: impl Fn(&Value) -> bool) -> Value {
        self.out.wait_for(&format!("an access record: {what}"), |lines| {
            lines.iter().filter_map(|line| serde_json::from_str(line).ok()).find(&pick)
        })
    }

    /// Waits for a log line that `pick` accepts, as JSON.
    pub fn log(&self, what: &str, pick: impl Fn(&Value) -> bool) -> Value {
        self.err.wait_for(&format!("a log line: {what}"), |lines| {
            lines.iter().filter_map(|line| serde_json::from_str(line).ok()).find(&pick)
        })
    }

    /// Writes a changed configuration over the running one (see [`SidecarBuilder::with`]), atomically.
    pub fn reconfigure(&mut self, more: Value) {
        merge(&mut self.config, more);
        write(&self.path, &self.config);
    }

    /// `/generations` once its newest generation is what `is` wants.
    pub fn generation(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        until(&format!("{what} of {}", self.service), || {
            let page: Value = serde_json::from_str(&self.admin_get("/generations").text()).expect("JSON");
            let newest = page["generations"][0].clone();
            is(&newest).then_some(newest)
        })
    }

    /// Writes a changed configuration (see [`Sidecar::reconfigure`]) and waits until the generation with it is in use.
    pub fn reload(&mut self, more: Value) {
        let before = self.generation("a generation", |_| true)["number"].as_u64();
        self.reconfigure(more);
        let now = self.generation("another generation", |now| now["number"].as_u64() > before);
        assert_eq!(now["state"], "active", "{now}");
    }

    /// Writes a changed configuration and waits until it is refused; gives the reason.
    pub fn refused(&mut self, more: Value) -> String {
        let before = self.generation("a generation", |_| true)["number"].as_u64();
        self.reconfigure(more);
        let now = self.generation("another generation", |now| now["number"].as_u64() > before);
        assert_eq!(now["state"], "rejected", "{now}");
        now["error"].as_str().expect("a reason").to_owned()
    }

    /// Its configuration file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn port(&self, listener: &str) -> SocketAddr {
        *self.ports.get(listener).unwrap_or_else(|| panic!("{} does not listen as {listener}", self.service))
    }
}

impl Deref for Sidecar {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

/// The listeners that this configuration makes.
fn listeners(config: &Value) -> Vec<String> {
    let fixed = ["outbound", "inbound", "admin"].into_iter().filter(|name| config[name]["listen"].is_string());
    let services = config["services"].as_object().into_iter().flatten();
    let own = services.filter(|(_, service)| service["listen"].is_string()).map(|(name, _)| name.as_str());
    fixed.chain(own).map(str::to_owned).collect()
}

/// Listener and address, if this log line announces one.
fn listening(line: &str) -> Option<(String, SocketAddr)> {
    let line: Value = serde_json::from_str(line).ok()?;
    // Fields stand beside the message, or in `fields` as tracing-subscriber puts them.
    let field = |name: &str| line.get(name).or_else(|| line["fields"].get(name)).and_then(Value::as_str);
    (field("message")? == "listening").then_some(())?;
    Some((field("listener")?.to_owned(), field("address")?.parse().ok()?))
}

fn merge(into: &mut Value, more: Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                if value.is_null() {
                    into.remove(&key);
                } else {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (into, more) => *into = more,
    }
}

/// JSON is YAML, and it quotes by itself.
fn write(path: &Path, config: &Value) {
    let text = serde_json::to_string_pretty(config).expect("JSON");
    let new = path.with_extension("new");
    fs::write(&new, text).and_then(|()| fs::rename(&new, path)).expect("a written configuration");
}

/// Tells sidecars of one service and one mesh apart.
fn unique() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
