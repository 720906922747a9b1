//! From the file to valid values. Reports everything that is wrong with it at once, each with its place.

mod admission;
mod balance;
mod cases;
mod fault;
mod filter;
mod policy;
mod route;
mod service;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::cases::Cases;
use super::file;
use super::names::{is_label, overlap};
use super::raw::{self, Workers};
use super::reader::{Entries, Field, Report, Spot, Whole};
use super::word::{LogFormat, Notation, Percent, Size, Word};
use super::yaml::{Document, EMPTY, MAX_FILE_BYTES, Value, clip};
use super::{
    AccessLog, AppProtocol, Config, Endpoint, Endpoints, IdentityFiles, Inbound, LinkPolicy, Locality, MAX_RECORDS,
    Node, Outbound, Problem, Source, Tell, Warning, Why,
};
use crate::identity::SpiffeId;
use admission::Side;
use route::Known;
use service::Beside;

/// A valid config with what is worth a thought, or every reason why it is none.
pub type Outcome = Result<(Config, Vec<Warning>), Vec<Problem>>;

/// What a config may ask of the machine that it is for.
pub struct Host<'a> {
    /// An environment variable.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// Whether a file is there.
    pub exists: &'a dyn Fn(&Path) -> bool,
    /// Cores that the process may use.
    pub cores: usize,
}

/// Reads a config file for this machine. Blocks; reads at most [`MAX_FILE_BYTES`] and one byte.
///
/// # Errors
/// Every problem at once, in the order of the file (at most a thousand, then how many more).
pub fn load(path: &Path) -> Outcome {
    let name = path.display().to_string();
    let text = read(path).map_err(|error| unreadable(&name, &error))?;
    let absolute = std::path::absolute(path).map_err(|error| unreadable(&name, &error))?;
    let (config, warnings) = parse(&text, &name, absolute.parent().unwrap_or(Path::new("/")), &here())?;
    let mut problems = Vec::new();
    for service in &config.services {
        let Endpoints::Found(source) = &service.endpoints else { continue };
        let Source::File(file) = &**source else { continue };
        let Err(more) = endpoints(file) else { continue };
        problems.extend(more.into_iter().map(|problem| match problem.line {
            0 => {
                let (line, column) = locate(path, &["services", &service.name, "file"]).unwrap_or_default();
                let (path, message) = (format!("services.{}.file", service.name), problem.to_string());
                Problem { file: name.clone(), line, column, path, message }
            }
            _ => problem,
        }));
    }
    if problems.is_empty() { Ok((config, warnings)) } else { Err(problems) }
}

/// Reads a file of endpoints: a map with the one key `endpoints`, a list as that of a service, which may be empty.
/// Blocks, but not for what is no file; reads at most [`MAX_FILE_BYTES`] and one byte.
///
/// # Errors
/// As [`load`].
pub fn endpoints(path: &Path) -> Result<Vec<Endpoint>, Vec<Problem>> {
    let name = path.display().to_string();
    let text = file::open(path).and_then(contents).map_err(|error| unreadable(&name, &error))?;
    let (base, host) = (Path::new("/"), here());
    let resolve = |report: &Report<'_>, raw, at| Resolver { report, base, host: &host }.endpoints_file(raw, at);
    Ok(document(&text, &name, resolve)?.0)
}

/// Reads a file of cases of a filter. Blocks; reads at most [`MAX_FILE_BYTES`] and one byte.
///
/// # Errors
/// As [`load`].
pub fn cases(path: &Path) -> Result<Cases, Vec<Problem>> {
    let name = path.display().to_string();
    let text = read(path).map_err(|error| unreadable(&name, &error))?;
    let (base, host) = (Path::new("/"), here());
    Ok(document(&text, &name, |report, raw, at| Resolver { report, base, host: &host }.cases(raw, at))?.0)
}

/// This machine.
fn here() -> Host<'static> {
    Host {
        variable: &|name| std::env::var(name).ok(),
        exists: &|path| path.exists(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
    }
}

fn unreadable(name: &str, error: &std::io::Error) -> Vec<Problem> {
    let (file, path, message) = (name.to_owned(), String::new(), format!("cannot be read: {error}"));
    vec![Problem { file, line: 0, column: 0, path, message }]
}

/// What an operator names may be a pipe, too: `lacis check -c <(…)`.
fn read(path: &Path) -> std::io::Result<String> {
    contents(File::open(path)?)
}

fn contents(file: File) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        // Whoever reads it says so; the cut may be within a character.
        Err(error) if error.as_bytes().len() > MAX_FILE_BYTES => Ok(String::from_utf8_lossy(error.as_bytes()).into()),
        Err(error) => {
            let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
            Err(std::io::Error::new(
                std::io::ErrorKind::InvalidData,
                format!("line {line} is not UTF-8; save the file as UTF-8"),
            ))
        }
    }
}

/// Where the value of a key stands in a file that [`load`] has taken, for problems that show only when it is used: line
/// and column, from 1. `None` where there is none, or no more.
pub fn locate(path: &Path, keys: &[&str]) -> Option<(usize, usize)> {
    let document = Document::parse(&read(path).ok()?).ok()?;
    let node = keys.iter().try_fold(0, |node, key| match document.value(node) {
        Value::Map(entries) => entries.iter().find(|entry| entry.key == *key).map(|entry| entry.value),
        Value::List(_) | Value::Scalar { .. } => None,
    })?;
    let place = document.place(node);
    Some((place.line, place.column))
}

/// Reads the text of a config. `file` is its name in what is said about it, relative paths in it start from `base`.
///
/// # Errors
/// As [`load`].
pub fn parse(text: &str, file: &str, base: &Path, host: &Host<'_>) -> Outcome {
    document(text, file, |report, raw, root| Resolver { report, base, host }.file(raw, root))
}

/// Reads a document and makes it valid.
fn document<R: Whole, T>(
    text: &str,
    file: &str,
    resolve: impl FnOnce(&Report<'_>, R, Spot) -> Option<T>,
) -> Result<(T, Vec<Warning>), Vec<Problem>> {
    let problem = |line, column, path, message| Problem { file: file.to_owned(), line, column, path, message };
    let document = Document::parse(text).map_err(|(place, mut message)| {
        if message == EMPTY {
            message = format!("{EMPTY}; the smallest useful one has {}", R::SMALLEST);
        }
        vec![problem(place.line, place.column, String::new(), message)]
    })?;
    let report = Report::new(&document);
    let value = match report.read::<R>() {
        Field::Given(raw, root) => resolve(&report, raw, root),
        Field::Absent | Field::Bad => None,
    };
    let (mut problems, mut warnings) = (Vec::new(), Vec::new());
    let (notes, unsaid) = report.into_notes();
    for note in notes {
        let told = problem(note.place.line, note.place.column, note.path, note.message);
        if note.wrong { problems.push(told) } else { warnings.push(Warning(told)) }
    }
    if unsaid > 0 {
        problems.push(problem(0, 0, String::new(), format!("{unsaid} more problems")));
    }
    match value {
        Some(value) if problems.is_empty() => Ok((value, warnings)),
        None if problems.is_empty() => {
            Err(vec![problem(0, 0, String::new(), "refused without a reason: a defect of lacis".into())])
        }
        _ => Err(problems),
    }
}

/// Makes sections valid. A method returns nothing where it has reported why.
struct Resolver<'a> {
    report: &'a Report<'a>,
    base: &'a Path,
    host: &'a Host<'a>,
}

/// Positions of filters by name.
type FilterNames = HashMap<String, usize>;

/// A listening address, where the file says so, and the name of the listener.
struct Listener {
    address: SocketAddr,
    spot: Spot,
    name: String,
}

impl Resolver<'_> {
    fn file(&self, raw: raw::File, root: Spot) -> Option<Config> {
        let raw::File {
            node,
            identity,
            outbound,
            inbound,
            services,
            routes,
            filters,
            admin,
            telemetry,
            overload,
            workers,
        } = raw;
        let mut listeners = Vec::new();
        let (no_identity, inbound_spot) = (identity.is_absent(), inbound.spot());
        let node = self.node(node, root);
        let identity = self.optional(identity, None, |raw, spot| self.identity(raw, spot).map(Some));
        let names = positions(&filters);
        let outbound =
            self.optional(outbound, None, |raw, spot| self.outbound(raw, spot, &names, &mut listeners).map(Some));
        let application = inbound_application(&inbound);
        let inbound =
            self.optional(inbound, None, |raw, spot| self.inbound(raw, spot, &names, &mut listeners).map(Some));
        let (service_spots, service_names) = (service_spots(&services), positions(&services));
        let mut hosts = HashMap::new();
        let beside = Beside { node: node.as_ref(), filters: &names };
        let services = self.services(services.or(Entries(Vec::new())), &beside, &mut hosts, &mut listeners);
        let known = Known { services: &service_names, read: services.as_deref(), hosts, filters: &names };
        let routes = self.routes(routes, known);
        let chains = [
            outbound.iter().flatten().flat_map(|outbound| &outbound.filters).collect::<Vec<_>>(),
            inbound.iter().flatten().flat_map(|inbound| &inbound.filters).collect(),
            services.iter().flatten().flat_map(|service| &service.filters).collect(),
            routes.iter().flatten().flat_map(|route| route.rules.iter().flat_map(|rule| &rule.filters)).collect(),
        ];
        let used: HashSet<usize> = chains.into_iter().flatten().copied().collect();
        let names: Option<Vec<&str>> = services.as_ref().map(|all| all.iter().map(|one| one.name.as_str()).collect());
        let filters = self.filters(filters.or(Entries(Vec::new())), &used, names.as_deref());
        let admin = self.optional(admin, None, |raw, spot| {
            let raw::Admin { listen } = raw;
            self.listen(listen, raw::ADMIN_LISTEN, spot, "admin", &mut listeners).map(Some)
        });
        let told = self.optional(telemetry, (None, None), |raw, _| self.telemetry(raw));
        let overload = self.overload(overload);
        let workers = match workers.or(Workers::Count(1))? {
            Workers::Auto => self.host.cores.max(1),
            Workers::Count(count) => count,
        };
        self.clashes(&listeners, application);
        self.circles(services.as_deref().unwrap_or_default(), &service_spots, &listeners);
        if listeners.is_empty() && outbound.is_some() && inbound.is_some() && services.is_some() {
            self.report.wrong_key(root, "nothing to listen on; add `outbound`, `inbound`, or `listen` to a service");
        }
        if no_identity {
            self.without_identity(root, inbound_spot, services.as_deref(), &service_spots);
        }
        let (access_log, why) = told?;
        Some(Config {
            node: node?,
            identity: identity?,
            outbound: outbound?,
            inbound: inbound?,
            services: services?,
            routes: routes?,
            filters: filters?,
            admin: admin?,
            access_log,
            why,
            overload: overload?,
            workers,
        })
    }

    fn node(&self, field: Field<raw::Node>, root: Spot) -> Option<Node> {
        let (raw, at) = self.required(field, root, "node", "`node: {service: NAME}`")?;
        let raw::Node { service, namespace, trust_domain, id, cluster, locality, metadata } = raw;
        let service = self
            .required(service, at, "service", "the name of the service beside this sidecar")
            .and_then(|(name, spot)| self.label(name, spot, "a service name"));
        let namespace =
            self.optional(namespace, raw::NAMESPACE.into(), |name, spot| self.label(name, spot, "a namespace"));
        let trust_domain =
            self.optional(trust_domain, raw::TRUST_DOMAIN.into(), |name, spot| {
                match SpiffeId::service(&name, "default", "service") {
                    Ok(_) => Some(name),
                    Err(why) => self.refuse(spot, format!("\"{}\" is not a trust domain: {why}", clip(&name))),
                }
            });
        let (id, cluster) = (id.or(String::new()), cluster.or(String::new()));
        let metadata = metadata.or(raw::Metadata::default()).map(|raw::Metadata(map)| map);
        let locality = self.optional(locality, Locality::default(), |raw, _| {
            let raw::Locality { region, zone, sub_zone } = raw;
            let (region, zone, sub_zone) =
                (region.or(String::new()), zone.or(String::new()), sub_zone.or(String::new()));
            Some(Locality { region: region?, zone: zone?, sub_zone: sub_zone? })
        });
        let (service, namespace, trust_domain) = (service?, namespace?, trust_domain?);
        let spiffe = match SpiffeId::service(&trust_domain, &namespace, &service) {
            Ok(spiffe) => spiffe,
            Err(why) => return self.refuse(at, format!("has no identity: {why}")),
        };
        let or = |text: String, default: String| if text.is_empty() { default } else { text };
        Some(Node {
            id: or(id?, format!("{service}.{namespace}")),
            cluster: or(cluster?, service.clone()),
            locality: locality?,
            metadata: metadata?,
            service,
            namespace,
            trust_domain,
            spiffe,
        })
    }

    fn identity(&self, raw: raw::Identity, at: Spot) -> Option<IdentityFiles> {
        let raw::Identity { certificate, private_key, trust_bundle } = raw;
        let file = |field, key| {
            let (path, spot) = self.required(field, at, key, "the path of a PEM file")?;
            self.path(path, spot)
        };
        let (certificate, private_key, trust_bundle) =
            (file(certificate, "certificate"), file(private_key, "private_key"), file(trust_bundle, "trust_bundle"));
        Some(IdentityFiles { certificate: certificate?, private_key: private_key?, trust_bundle: trust_bundle? })
    }

    fn outbound(
        &self,
        raw: raw::Outbound,
        at: Spot,
        names: &FilterNames,
        listeners: &mut Vec<Listener>,
    ) -> Option<Outbound> {
        let raw::Outbound { listen, filters } = raw;
        let listen = self.listen(listen, raw::OUTBOUND_LISTEN, at, "outbound", listeners);
        let filters = self.chain(filters, names);
        Some(Outbound { listen: listen?, filters: filters? })
    }

    fn inbound(
        &self,
        raw: raw::Inbound,
        at: Spot,
        names: &FilterNames,
        listeners: &mut Vec<Listener>,
    ) -> Option<Inbound> {
        let raw::Inbound { listen, application, protocol, filters, allow, deny, rate_limits, concurrency, timeouts } =
            raw;
        let listen = self.listen(listen, raw::INBOUND_LISTEN, at, "inbound", listeners);
        let application = self
            .required(application, at, "application", "where the application listens, such as 127.0.0.1:8080")
            .and_then(|(Word(address), spot)| self.target(address, spot));
        let protocol = protocol.or(Word(AppProtocol::Http1));
        let filters = self.chain(filters, names);
        let opaque = matches!(protocol, Some(Word(AppProtocol::Tcp)));
        let access = self.access(allow, deny, opaque);
        let concurrency = self.concurrency(concurrency);
        let rate_limits = self.rate_limits(rate_limits, &Side { prefix: "", inbound: true, opaque });
        let timeouts = self.inbound_timeouts(timeouts);
        Some(Inbound {
            listen: listen?,
            application: application?,
            protocol: protocol?.0,
            filters: filters?,
            access: access?,
            rate_limits: rate_limits?,
            concurrency: concurrency?,
            timeouts: timeouts?,
        })
    }

    fn telemetry(&self, raw: raw::Telemetry) -> Option<(Option<AccessLog>, Option<Why>)> {
        let raw::Telemetry { access_log, why } = raw;
        let access_log = self.optional(access_log, None, |raw, _| {
            let raw::AccessLog { path, format } = raw;
            let path = match path {
                Field::Absent => Some(PathBuf::from(raw::ACCESS_LOG)),
                Field::Bad => None,
                Field::Given(path, spot) => self.absolute(&path, spot),
            };
            let Word(LogFormat::Json) = format.or(Word(LogFormat::Json))?;
            Some(Some(AccessLog { path: path? }))
        });
        let why = self.optional(why, None, |raw, _| {
            let raw::Why { sample, keep, header, trusted } = raw;
            let sample = self.word(sample, raw::SAMPLE).map(|Percent(sample)| sample);
            let keep = self.optional(keep, raw::KEEP, |keep, spot| {
                let keep = keep.within(1..=MAX_RECORDS);
                keep.or_else(|| self.refuse(spot, format!("not a number of records; write 1 to {MAX_RECORDS}")))
            });
            let header = header.or(Word(Tell::Asked)).map(|Word(tell)| tell);
            let trusted = trusted.or(Vec::new()).and_then(|all| self.each(all, |Word(id), _| Some(id)));
            Some(Some(Why { sample: sample?, keep: keep?, header: header?, trusted: trusted? }))
        });
        Some((access_log?, why?))
    }

    /// Filters by name, in the order of the list.
    fn chain(&self, field: Field<Vec<Field<String>>>, names: &FilterNames) -> Option<Vec<usize>> {
        self.names(field.or(Vec::new())?, names)
    }

    fn names(&self, chain: Vec<Field<String>>, names: &FilterNames) -> Option<Vec<usize>> {
        let mut seen = HashSet::new();
        self.each(chain, |name, spot| match names.get(&name) {
            Some(&position) if seen.insert(position) => Some(position),
            Some(_) => self.refuse(spot, format!("\"{}\" is in this list already; name it once", clip(&name))),
            None => {
                let right = match self.report.suggest(&name, names.keys().map(String::as_str)) {
                    Some(known) => format!("did you mean \"{known}\"?"),
                    None => "define it under `filters`".into(),
                };
                self.refuse(spot, format!("no filter \"{}\"; {right}", clip(&name)))
            }
        })
    }

    /// A listening address; warns if it is open to others where only this machine should come in.
    fn listen(
        &self,
        field: Field<Word<SocketAddr>>,
        default: &str,
        section: Spot,
        name: &str,
        listeners: &mut Vec<Listener>,
    ) -> Option<SocketAddr> {
        let spot = field.spot().unwrap_or(section);
        let address: SocketAddr = self.word(field, default)?;
        if !address.ip().is_loopback() && name != "inbound" {
            let danger = match name {
                "admin" => "whoever reaches it can stop this sidecar",
                _ => "whoever reaches it calls with this service's identity",
            };
            self.report.warn(spot, format!("{address} is not a loopback address: {danger}"));
        }
        listeners.push(Listener { address, spot, name: name.to_owned() });
        Some(address)
    }

    /// An address that something else listens on.
    fn target(&self, address: SocketAddr, spot: Spot) -> Option<SocketAddr> {
        if address.port() == 0 {
            return self.refuse(spot, "nothing listens on port 0; write the port");
        }
        if address.ip().is_unspecified() {
            return self.refuse(spot, format!("{} is where one listens; write the address to call", address.ip()));
        }
        Some(address)
    }

    fn clashes(&self, listeners: &[Listener], application: Option<(SocketAddr, Spot)>) {
        let mut by_port: HashMap<u16, Vec<&Listener>> = HashMap::new();
        for listener in listeners {
            let others = by_port.entry(listener.address.port()).or_default();
            if let Some(other) = others.iter().find(|other| overlap(other.address, listener.address)) {
                let (address, line) = (listener.address, self.report.line(other.spot));
                let message = format!("{address} is taken by `{}` (line {line}); choose another port", other.name);
                self.report.wrong_key(listener.spot, message);
            }
            others.push(listener);
        }
        if let Some((address, spot)) = application
            && let Some(own) = listeners.iter().find(|l| overlap(l.address, address))
        {
            let message =
                format!("{address} is this sidecar's own listener `{}`; write the application's port", own.name);
            self.report.wrong(spot, message);
        }
    }

    /// Says what the absence of `identity` means: an error where something needs it, else a thing to know.
    fn without_identity(
        &self,
        root: Spot,
        inbound: Option<Spot>,
        services: Option<&[super::Service]>,
        spots: &HashMap<String, Spot>,
    ) {
        let right = "add `identity: {certificate: FILE, private_key: FILE, trust_bundle: FILE}`";
        let linked = services.unwrap_or_default().iter().find(|service| service.link != LinkPolicy::Plaintext);
        if let Some(spot) = inbound {
            self.report.wrong_key(spot, format!("peers are answered with an identity; {right}"));
        } else if let Some(service) = linked {
            let spot = spots.get(&service.name).copied().unwrap_or(root);
            self.report.wrong_key(spot, format!("its link needs an identity; {right}, or write `link: plaintext`"));
        } else if services.is_some() {
            self.report.warn(root, "no `identity`: every link is plaintext, and no peer is verified");
        }
    }

    /// A path that is read; warns if nothing is there.
    fn path(&self, path: String, spot: Spot) -> Option<PathBuf> {
        let path = self.absolute(&path, spot)?;
        if !(self.host.exists)(&path) {
            self.report.warn(spot, format!("no file at {}", clip(&path.display().to_string())));
        }
        Some(path)
    }

    fn absolute(&self, path: &str, spot: Spot) -> Option<PathBuf> {
        if path.is_empty() || path.contains('\0') {
            return self.refuse(spot, "not a path; write one, relative to this file or absolute");
        }
        Some(self.base.join(path))
    }

    fn label(&self, name: String, spot: Spot, what: &str) -> Option<String> {
        if is_label(&name) { Some(name) } else { self.refuse(spot, not_label(&name, what)) }
    }

    /// A word, or what its default says.
    fn word<T: Notation>(&self, field: Field<Word<T>>, default: &str) -> Option<T> {
        match field {
            Field::Absent => T::read(default).ok(),
            Field::Bad => None,
            Field::Given(Word(value), _) => Some(value),
        }
    }

    fn required<T>(&self, field: Field<T>, section: Spot, key: &str, right: &str) -> Option<(T, Spot)> {
        if field.is_absent() {
            self.report.wrong_key(section, format!("`{key}` is missing; write {right}"));
        }
        field.given()
    }

    /// What `check` makes of a value that is there; `default` where the key is not.
    fn optional<T, U>(&self, field: Field<T>, default: U, check: impl FnOnce(T, Spot) -> Option<U>) -> Option<U> {
        match field {
            Field::Absent => Some(default),
            Field::Bad => None,
            Field::Given(value, spot) => check(value, spot),
        }
    }

    /// What `check` makes of every item; nothing if it refuses one, but only after all were seen.
    fn each<T, U>(&self, items: Vec<Field<T>>, mut check: impl FnMut(T, Spot) -> Option<U>) -> Option<Vec<U>> {
        let checked: Vec<Option<U>> =
            items.into_iter().map(|item| item.given().and_then(|(value, spot)| check(value, spot))).collect();
        checked.into_iter().collect()
    }

    fn refuse<T>(&self, spot: Spot, message: impl Into<String>) -> Option<T> {
        self.report.wrong(spot, message);
        None
    }
}

fn not_label(name: &str, what: &str) -> String {
    format!("\"{}\" is not {what}; write 1 to 63 of a-z, 0-9 and '-', not beginning or ending with '-'", clip(name))
}

fn positions<T>(entries: &Field<Entries<T>>) -> HashMap<String, usize> {
    match entries {
        Field::Given(Entries(entries), _) => entries.iter().map(|(name, _)| name.clone()).zip(0..).collect(),
        Field::Absent | Field::Bad => HashMap::new(),
    }
}

fn service_spots(services: &Field<Entries<raw::Service>>) -> HashMap<String, Spot> {
    match services {
        Field::Given(Entries(entries), _) => {
            entries.iter().filter_map(|(name, service)| Some((name.clone(), service.spot()?))).collect()
        }
        Field::Absent | Field::Bad => HashMap::new(),
    }
}

fn inbound_application(inbound: &Field<raw::Inbound>) -> Option<(SocketAddr, Spot)> {
    match inbound {
        Field::Given(raw::Inbound { application: Field::Given(Word(address), spot), .. }, _) => Some((*address, *spot)),
        _ => None,
    }
}
