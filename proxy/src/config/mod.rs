//! The sidecar's settings: `raw` is the file as written, `resolve` makes it valid, and past that point only the plain
//! values of this module exist. Nothing downstream checks them again.

pub mod admission;
pub mod balance;
pub mod cases;
pub mod fault;
pub mod file;
pub mod matching;
mod names;
pub mod policy;
mod problem;
mod raw;
mod reader;
pub mod resolve;
pub mod route;
pub mod schema;
mod word;
mod yaml;

pub use admission::{Access, AccessRule, Concurrency, Overload, RateLimit};
pub use balance::{Affinity, Balance, HealthCheck, SlowStart};
pub use names::is_loopback;
pub use policy::{Limits, Outliers, Retries};
pub use problem::{Problem, Warning};
pub use resolve::{cases as read_cases, endpoints, load, locate, parse};
pub use route::{Route, Rule};
pub use word::{MAX_DURATION, MAX_SIZE};
pub use yaml::{MAX_DEPTH, MAX_FILE_BYTES, MAX_NODES};

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::identity::SpiffeId;

/// A valid configuration of one sidecar.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Who this sidecar is.
    pub node: Node,
    /// Where its certificate lives; absent only where nothing needs one.
    pub identity: Option<IdentityFiles>,
    /// The application's side: requests that the application makes.
    pub outbound: Option<Outbound>,
    /// The mesh's side: requests that peers make to the application.
    pub inbound: Option<Inbound>,
    /// Services that the application can call, in the order of the file.
    pub services: Vec<Service>,
    /// Rules for the requests to services, at most one for each, in the order in which the file first names them.
    pub routes: Vec<Route>,
    /// Filters that listeners, services and routes can name, in the order of the file.
    pub filters: Vec<Filter>,
    /// Where the admin endpoints listen; absent: nowhere.
    pub admin: Option<SocketAddr>,
    /// Where access records go; absent: nowhere.
    pub access_log: Option<AccessLog>,
    /// Which requests can be explained afterwards; absent: none.
    pub why: Option<Why>,
    /// When requests are refused, whatever they are for; `None`: never.
    pub overload: Option<Overload>,
    /// Number of worker threads, at least one.
    pub workers: usize,
}

impl Config {
    /// Every rate limit: of the inbound side, of services, of rules.
    pub fn rate_limits(&self) -> impl Iterator<Item = &RateLimit> {
        let rules = self.routes.iter().flat_map(|route| route.rules.iter());
        let inbound = self.inbound.iter().flat_map(|inbound| &inbound.rate_limits);
        inbound
            .chain(self.services.iter().flat_map(|service| &service.rate_limits))
            .chain(rules.flat_map(|rule| &rule.rate_limits))
    }

    /// Every list of filters that requests may pass, as indices into [`Config::filters`].
    pub fn chains(&self) -> impl Iterator<Item = &[usize]> {
        let listeners = self.outbound.iter().map(|outbound| &outbound.filters);
        let listeners = listeners.chain(self.inbound.iter().map(|inbound| &inbound.filters));
        let rules = self.routes.iter().flat_map(|route| route.rules.iter());
        listeners
            .chain(self.services.iter().map(|service| &service.filters))
            .chain(rules.map(|rule| &rule.filters))
            .map(Vec::as_slice)
    }
}

/// Who this sidecar is.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The service beside this sidecar.
    pub service: String,
    /// Its namespace.
    pub namespace: String,
    /// The trust domain of the mesh.
    pub trust_domain: String,
    /// The identity that this sidecar must have: `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE`.
    pub spiffe: SpiffeId,
    /// `node.id` for filters and control planes; `SERVICE.NAMESPACE` unless set.
    pub id: String,
    /// `node.cluster`; the service unless set.
    pub cluster: String,
    /// Where it is.
    pub locality: Locality,
    /// Free metadata, as JSON.
    pub metadata: serde_json::Map<String, serde_json::Value>,
}

/// Where a sidecar is; what is not known is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Locality {
    /// A region, such as eu-west-1.
    pub region: String,
    /// A zone of it, such as eu-west-1a.
    pub zone: String,
    /// A part of that.
    pub sub_zone: String,
}

/// PEM files, absolute paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFiles {
    /// Certificate chain, leaf first.
    pub certificate: PathBuf,
    /// Private key of the leaf (PKCS #8, SEC 1 or PKCS #1).
    pub private_key: PathBuf,
    /// The authorities that peers are verified against.
    pub trust_bundle: PathBuf,
}

/// The listener for the application's own requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Outbound {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Indices into [`Config::filters`], in the order in which requests pass them.
    pub filters: Vec<usize>,
}

/// The listener for peers.
#[derive(Clone, Debug, PartialEq)]
pub struct Inbound {
    /// Where it listens, TCP and UDP on one port number.
    pub listen: SocketAddr,
    /// The application.
    pub application: SocketAddr,
    /// What the application speaks.
    pub protocol: AppProtocol,
    /// Indices into [`Config::filters`], in the order in which requests pass them.
    pub filters: Vec<usize>,
    /// Who may ask what of it.
    pub access: Access,
    /// How often it may be asked.
    pub rate_limits: Vec<RateLimit>,
    /// How much it is asked at a time; `None`: no limit.
    pub concurrency: Option<Concurrency>,
    /// Bounds on the application side.
    pub timeouts: Timeouts,
}

/// What an application speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppProtocol {
    /// HTTP/1.1 with keep-alive.
    Http1,
    /// HTTP/2 with prior knowledge (gRPC).
    H2c,
    /// Opaque bytes over TCP.
    Tcp,
}

/// How a service's bytes are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceProtocol {
    /// As HTTP.
    Http,
    /// Not at all: each connection to the service's own port is one to the service.
    Tcp,
}

/// A service that the application can call. There may be thousands of which few are ever called: what is rarely said of
/// one takes room only where it is, and is shared with the workers.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Its name, unique in the file.
    pub name: String,
    /// Host names (lower case, without port) that mean this service; its name is always one of them, and
    /// the only one of opaque TCP, which no HTTP client can mean.
    pub hosts: Vec<String>,
    /// A loopback port of its own; always there for opaque TCP.
    pub listen: Option<SocketAddr>,
    /// How its bytes are understood.
    pub protocol: ServiceProtocol,
    /// Indices into [`Config::filters`], in the order in which requests to it pass them, after those of the listener.
    pub filters: Vec<usize>,
    /// Where it is.
    pub endpoints: Endpoints,
    /// Who may answer for it; never empty unless the link is plaintext.
    pub identity: Arc<[SpiffeId]>,
    /// How its peers are reached.
    pub link: LinkPolicy,
    /// How an endpoint is chosen.
    pub balance: Balance,
    /// With fewer percent of the endpoints neither ejected nor unhealthy, all are used.
    pub panic: u8,
    /// Whether endpoints of the own zone are preferred, if that is known.
    pub prefers_zone: bool,
    /// How endpoints that are new get their share; `None`: at once.
    pub slow_start: Option<Arc<SlowStart>>,
    /// Whether clients that come again reach the same endpoint.
    pub affinity: Option<Arc<Affinity>>,
    /// How it is found out whether endpoints are well, besides by the requests that they get.
    pub health: Option<Arc<HealthCheck>>,
    /// Its bounds.
    pub timeouts: Timeouts,
    /// When its requests are sent again; `None`: only those that provably reached nobody, up to twice.
    pub retries: Option<Arc<Retries>>,
    /// How much it may be asked at once.
    pub limits: Limits,
    /// How often it may be asked.
    pub rate_limits: Vec<RateLimit>,
    /// When endpoints are passed over, beside those that cannot be reached.
    pub outliers: Option<Arc<Outliers>>,
    /// When all requests to it are refused for a while.
    pub breaker: Option<Arc<policy::Breaker>>,
    /// Faults on purpose for its requests, where the rule that they follow has none of its own.
    pub fault: Option<Arc<fault::Faults>>,
}

/// Where a service is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoints {
    /// Here, never empty.
    Listed(Arc<[Endpoint]>),
    /// Where this says, from time to time.
    Found(Arc<Source>),
}

/// What says where a service is while the sidecar runs. Services with equal ones share its answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// The addresses of a name.
    Dns(Dns),
    /// A list in a file, absolute path; see [`endpoints`].
    File(PathBuf),
}

/// A name in the DNS and what to do with its addresses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Dns {
    /// The name, in lower case. The system's search list applies to it, unless it ends with a dot or `server` is set.
    pub name: String,
    /// The port at each address.
    pub port: u16,
    /// Who is asked; `None`: those whom the system asks.
    pub server: Option<SocketAddr>,
}

/// One place where a service answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The peer sidecar's inbound listener (or the plaintext server itself).
    pub address: SocketAddr,
    /// Its share of requests relative to its siblings, 1 to 1,000,000.
    pub weight: u32,
    /// The zone that it is in, if that is known.
    pub zone: Option<Arc<str>>,
    /// Which level it belongs to, 0 to 127: others are asked as far as too few of those before them are well.
    pub priority: u8,
}

impl Endpoint {
    /// An address of which nothing else is known.
    pub fn new(address: SocketAddr) -> Self {
        Endpoint { address, weight: 1, zone: None, priority: 0 }
    }
}

/// How the peers of a service are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkPolicy {
    /// HTTP/3 where UDP answers, else HTTP/2, else HTTP/1.1.
    Auto,
    /// HTTP/3 over QUIC only.
    H3,
    /// HTTP/2 over TLS only.
    H2,
    /// HTTP/1.1 over TLS only.
    H1,
    /// No TLS and no identity: HTTP/1.1, or h2c for an application that speaks HTTP/2.
    Plaintext,
}

/// Bounds in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Until a link (TCP and TLS, or QUIC) is open.
    pub connect: Duration,
    /// From the end of the request until the head of the response; zero: no bound.
    pub request: Duration,
    /// Silence on a stream or an unused connection; zero: no bound.
    pub idle: Duration,
    /// From the first byte of a request to the last of its response; zero: no bound.
    pub stream: Duration,
}

impl Timeouts {
    /// No bound at all.
    pub const NONE: Timeouts =
        Timeouts { connect: Duration::ZERO, request: Duration::ZERO, idle: Duration::ZERO, stream: Duration::ZERO };
}

/// A filter that listeners, services and routes can name.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    /// Its name, unique in the file.
    pub name: String,
    /// Its code.
    pub module: Module,
    /// Expected SHA-256 of the module's bytes, of the file at a URL, or of an image's manifest; lower-case hex. Always
    /// there for [`Module::Remote`].
    pub sha256: Option<String>,
    /// What the plugin reads as its configuration: a map as JSON, a string as it is.
    pub config: Vec<u8>,
    /// What happens to requests when the filter cannot run.
    pub failure: Failure,
    /// Its bounds.
    pub limits: FilterLimits,
    /// What it may use.
    pub allow: Allow,
    /// `plugin_root_id`.
    pub root_id: String,
    /// Plugins with equal `vm_id`, `vm_config`, environment and code share one VM.
    pub vm_id: String,
    /// What the VM reads as its configuration.
    pub vm_config: Vec<u8>,
    /// Environment variables of the VM, own and taken from the host.
    pub env: Vec<(String, String)>,
    /// `allow_on_headers_stop_iteration`: a pause at the headers holds only them, and bodies are still shown.
    pub head_waits_alone: bool,
}

/// Where a filter's code comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Module {
    /// One of those compiled into this binary: `builtin:NAME`.
    Builtin(String),
    /// A file, absolute path.
    Path(PathBuf),
    /// Another machine.
    Remote(Remote),
}

/// Where a module is fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// As the file says it.
    pub url: String,
    /// What is asked there.
    pub place: Place,
    /// A `config.json` as Docker writes it, absolute path; `None`: Docker's own place for it.
    pub credentials: Option<PathBuf>,
}

/// A place on another machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A file: `https:`, or `http:` on loopback.
    Url(http::Uri),
    /// An image in a registry. Its tag says something to people only: what is asked for is the digest.
    Image {
        /// Host, and port if it is not the usual one.
        registry: String,
        /// Name there.
        repository: String,
    },
}

impl fmt::Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Module::Builtin(name) => write!(f, "builtin:{name}"),
            Module::Path(path) => write!(f, "{}", path.display()),
            Module::Remote(remote) => f.write_str(&remote.url),
        }
    }
}

/// What a filter may use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Allow {
    /// Host functions; `None`: all.
    pub functions: Option<lacis_host::Allow>,
    /// Services, by name; `None`: all.
    pub calls: Option<Vec<String>>,
}

/// What happens to requests when a filter cannot run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// They are answered 503.
    Closed,
    /// They skip the filter.
    Open,
}

/// Bounds of one filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FilterLimits {
    /// Linear memory, bytes.
    pub memory: u64,
    /// Time of one callback.
    pub time: Duration,
    /// Bytes of a body that it may hold back, and of an answer to a call of its own.
    pub buffer: u64,
    /// Calls of its own under way at once, in each worker.
    pub calls: u32,
    /// Elements of a table.
    pub table: u32,
    /// Log lines in a second, in each worker.
    pub log_lines: u32,
    /// Metrics that it defines, in each worker.
    pub metrics: u32,
    /// Bytes of the shared data of its `vm_id`.
    pub shared_data: u64,
    /// Shared queues of its `vm_id`.
    pub queues: u32,
    /// Items that wait in one of them.
    pub queue_items: u32,
    /// Bytes that wait in one of them.
    pub queue_size: u64,
    /// Of a hundred parts of a worker's time, those that its ticks may take.
    pub ticks: u8,
}

/// Where access records go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLog {
    /// A file (appended to), `/dev/stdout` or `/dev/stderr`.
    pub path: PathBuf,
}

/// Which requests can be explained afterwards (`lacis why`, `/requests`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Why {
    /// How many of a hundred; those of whom that is asked always are.
    pub sample: u8,
    /// The last so many of each worker, 1 to [`MAX_RECORDS`].
    pub keep: usize,
    /// Which responses say under which id.
    pub header: Tell,
    /// Peers who may ask for it with `x-lacis-why`, beside the own application.
    pub trusted: Vec<SpiffeId>,
}

/// Most records that a worker may be told to keep: each takes 0.7 KiB, with filters or failures 1 to 3, with many tries up
/// to 10, and all of them are looked through when somebody asks.
pub const MAX_RECORDS: usize = 10_000;

/// Which responses say by what id they can be explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tell {
    /// Those to requests that ask for it.
    Asked,
    /// Those that failed, too.
    Failed,
    /// All.
    Always,
}
