//! One filter on both, Envoy and Lacis, each before applications of its own: what a filter does must not depend on whose
//! it is.
//!
//! ```no_run
//! use lacis_tests::Both;
//! use serde_json::json;
//!
//! let module = lacis::filter::builtin::module("routing").unwrap();
//! let config = json!({"rules": [{"match": [{"from": {"header": "x-v2"}}], "to": [{"service": "v2"}]}]});
//! Both::new("routing", module, config).app("v2").run(|side| {
//!     assert_eq!(side.get("/echo", &[]).status(), 200);
//!     side.get("/echo", &[("x-v2", "")]);
//!     assert_eq!((side.app("app").requests(), side.app("v2").requests()), (1, 1));
//! });
//! ```

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use crate::wire::Response;
use crate::{App, Envoy, Link, Mesh, Sidecar, client, guest, until};

/// A filter, and what it needs around it. The application behind it is `app`.
#[derive(Debug)]
pub struct Both {
    name: String,
    module: Vec<u8>,
    config: Value,
    apps: Vec<String>,
    servers: Vec<(String, SocketAddr, bool)>,
    section: Value,
    tags: Value,
    /// A pause at a head holds that alone on Envoy, as Lacis does it for filters of the SDK.
    alone: bool,
}

/// The filter on one of them.
#[derive(Debug)]
pub struct Side {
    proxy: Proxy,
    apps: Vec<(String, App)>,
    _mesh: Mesh,
}

#[derive(Debug)]
enum Proxy {
    Envoy(Box<Envoy>),
    Lacis(Box<Sidecar>),
}

impl Both {
    /// `builtin:NAME`, whose module this is, with a configuration.
    pub fn new(name: &str, module: &[u8], config: Value) -> Both {
        // The default of 20 ms is for a machine that does not compile something else meanwhile.
        let section = json!({"limits": {"time": "2s"}});
        let (name, module, tags) = (name.to_owned(), module.to_owned(), Value::Null);
        Both { name, module, config, apps: vec!["app".to_owned()], servers: Vec::new(), section, tags, alone: true }
    }

    /// A filter of `tests/guest`, which is written on the bare `proxy-wasm` crate: a pause at a head holds what follows, too.
    pub fn guest(kind: &str) -> Both {
        let section = guest(kind);
        let module = Path::new(section["module"].as_str().expect("a path")).to_owned();
        Both { alone: false, ..Both::of(kind, &module, json!(kind)) }
    }

    /// A module in a file, with a configuration.
    pub fn of(name: &str, module: &Path, config: Value) -> Both {
        let bytes = fs::read(module).expect("a module");
        let mut both = Both::new(name, &bytes, config);
        both.section["module"] = json!(module);
        both
    }

    /// Adds a service, with an application of its own on each side.
    #[must_use]
    pub fn app(mut self, name: &str) -> Both {
        self.apps.push(name.to_owned());
        self
    }

    /// Adds a service that speaks HTTP/1.1 and stands behind both sides.
    #[must_use]
    pub fn http(mut self, name: &str, address: SocketAddr) -> Both {
        self.servers.push((name.to_owned(), address, false));
        self
    }

    /// Adds a service that speaks gRPC (HTTP/2 with prior knowledge) and stands behind both sides.
    #[must_use]
    pub fn grpc(mut self, name: &str, address: SocketAddr) -> Both {
        self.servers.push((name.to_owned(), address, true));
        self
    }

    /// Envoy's `stats_tags`: what makes labels of the names of metrics there.
    #[must_use]
    pub fn tags(mut self, tags: Value) -> Both {
        self.tags = tags;
        self
    }

    /// Runs a scenario on Lacis, and on Envoy if there is one (see [`peer`](crate::peer)). What fails says where.
    pub fn run(self, scenario: impl Fn(&Side)) {
        println!("{} on Lacis:", self.name);
        scenario(&self.lacis());
        if let Some(envoy) = self.envoy() {
            println!("{} on Envoy:", self.name);
            scenario(&envoy);
        }
    }

    fn applications(&self) -> Vec<(String, App)> {
        self.apps.iter().map(|name| (name.clone(), App::named(name))).collect()
    }

    fn lacis(&self) -> Side {
        let (mesh, apps) = (Mesh::new(), self.applications());
        let mut section = self.section.clone();
        if section["module"].is_null() {
            section["module"] = json!(format!("builtin:{}", self.name));
        }
        section["config"] = self.config.clone();
        let mut alpha = mesh.sidecar("alpha");
        for (name, app) in &apps {
            alpha = alpha.calls(name, app.address(), Link::Plaintext);
        }
        for (name, address, _) in &self.servers {
            alpha = alpha.calls(name, *address, Link::Plaintext);
        }
        let config = json!({"filters": {"shipped": section}, "outbound": {"filters": ["shipped"]}});
        Side { proxy: Proxy::Lacis(Box::new(alpha.with(config).checked().start())), apps, _mesh: mesh }
    }

    fn envoy(&self) -> Option<Side> {
        let builder = Envoy::builder()?;
        let (mesh, apps) = (Mesh::new(), self.applications());
        let path = mesh.file("shipped.wasm", &self.module);
        let filter = json!({"name": "shipped", "module": path, "config": self.config,
            // What a filter that reads bodies before it lets a head go asks for here.
            "allow_on_headers_stop_iteration": self.alone});
        let mut builder = builder.http("main", apps[0].1.address(), &[filter]).stats_tags(&self.tags);
        for (name, app) in &apps {
            builder = builder.cluster(name, app.address());
        }
        for (name, address, grpc) in &self.servers {
            builder = if *grpc { builder.cluster_h2c(name, *address) } else { builder.cluster(name, *address) };
        }
        Some(Side { proxy: Proxy::Envoy(Box::new(builder.start())), apps, _mesh: mesh })
    }
}

impl Side {
    /// Where requests go.
    pub fn address(&self) -> SocketAddr {
        match &self.proxy {
            Proxy::Envoy(envoy) => envoy.listener("main"),
            Proxy::Lacis(alpha) => alpha.outbound(),
        }
    }

    /// Whether this is Envoy: for what differs in the host, never for what differs in a filter.
    pub fn is_envoy(&self) -> bool {
        matches!(self.proxy, Proxy::Envoy(_))
    }

    /// One of the applications.
    pub fn app(&self, name: &str) -> &App {
        let found = self.apps.iter().find(|(own, _)| own == name);
        found.map(|(_, app)| app).unwrap_or_else(|| panic!("there is no application {name}"))
    }

    /// Sends a request to `app`.
    pub fn ask(&self, method: &str, path: &str, fields: &[(&str, &str)], body: Option<&[u8]>) -> Response {
        client::request(self.address(), method, "app", path, fields, body)
    }

    /// A `GET` to `app`.
    pub fn get(&self, path: &str, fields: &[(&str, &str)]) -> Response {
        self.ask("GET", path, fields, None)
    }

    /// Waits until a counter of the filter, or a gauge, has this value. Labels are seen on Envoy if
    /// [`tags`](Both::tags) find them.
    pub fn counts(&self, value: f64, name: &str, labels: &[(&str, &str)]) {
        match &self.proxy {
            Proxy::Lacis(alpha) => alpha.counts(value, name, labels),
            Proxy::Envoy(envoy) => until(&format!("{name}{labels:?} is {value}"), || {
                (envoy.metrics().sum(name, labels) == value).then_some(())
            }),
        }
    }
}
