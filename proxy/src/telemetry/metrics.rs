//! Every metric, declared in one list, and the handle by which a thread writes them.
//!
//! The struct of handles, the exposition and the documentation ([`table`]) all come from the list.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use foldhash::{HashMap, HashMapExt as _};

use super::cell::{Counter, FILTER_SECONDS, Gauge, Histogram, REQUEST_SECONDS, Sample};
use super::family::{Family, Kind, Readable};
use super::guest::{GuestMetrics, GuestShared, Guests};
use super::labels::{
    Authorization, AuthorizationKey, Away, CallResult, Callback, Cause, CauseKey, Certificate, CertificateKey, Check,
    CheckKey, Checked, ConnectionKey, Direction, DirectionKey, Discovered, DiscoveryKey, EdgeKey, EdgeStatusKey,
    FilterAwayKey, FilterCallKey, FilterCallbackKey, FilterKey, FilterLimitKey, FilterOutcomeKey, Handshake,
    HandshakeKey, HealthKey, HedgeKey, Hedged, Labels, Limit, Link, LinkCauseKey, Method, MirrorKey, Mirrored, NameId,
    Names, Origin, Outcome, PriorityKey, Protocol, RateLimitKey, Reload, ReloadKey, RequestKey, Status,
};
use crate::fault::Reason;

/// One line of the list: what is known of a metric before it has a value.
#[derive(Debug)]
pub struct Description {
    /// Its name, ending in its unit, for a counter in `_total`.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// One sentence.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($field:ident: $name:literal, $cell:ident($new:expr) by $key:ty, $help:literal;)+) => {
        /// Every metric, in the order of the exposition. A metric that a guest defines is not in it.
        pub const LIST: &[Description] = &[$(Description {
            name: $name, kind: Kind::$cell, labels: <$key as Labels>::NAMES, help: $help,
        },)+];

        #[derive(Debug)]
        struct Families { $($field: Family<$key, $cell>,)+ }

        impl Families {
            fn new() -> Self {
                Families { $($field: Family::new($new),)+ }
            }

            /// What the scrape sees, in the order of the list.
            fn readable(&self) -> Vec<Readable> {
                vec![$(self.$field.shared().into(),)+]
            }
        }
    };
}

metrics! {
    requests: "lacis_requests_total", Counter(Counter::default) by RequestKey,
        "Requests that ended, by why they failed if they did.";
    request_duration: "lacis_request_duration_seconds", Histogram(|| Histogram::new(&REQUEST_SECONDS)) by EdgeStatusKey,
        "Time from the first byte of a request to the last byte of its response.";
    request_bytes: "lacis_request_bytes_total", Counter(Counter::default) by EdgeKey,
        "Bytes of request bodies.";
    response_bytes: "lacis_response_bytes_total", Counter(Counter::default) by EdgeKey,
        "Bytes of response bodies.";
    requests_active: "lacis_requests_active", Gauge(Gauge::default) by DirectionKey,
        "Requests that have begun and not ended.";
    connections_active: "lacis_connections_active", Gauge(Gauge::default) by ConnectionKey,
        "Accepted connections that are open.";
    connections: "lacis_connections_total", Counter(Counter::default) by ConnectionKey,
        "Connections that were accepted.";
    link_handshakes: "lacis_link_handshakes_total", Counter(Counter::default) by HandshakeKey,
        "Handshakes of links to and from peers, by how they ended.";
    retries: "lacis_retries_total", Counter(Counter::default) by CauseKey,
        "Requests that were sent again, by why.";
    ejections: "lacis_ejections_total", Counter(Counter::default) by CauseKey,
        "Endpoints that were taken out of balancing, by why.";
    link_chosen: "lacis_link_chosen", Gauge(Gauge::default) by LinkCauseKey,
        "Endpoints of services with `link: auto` that requests were given to, and the link that carries these, as workers chose it, and why.";
    link_choices: "lacis_link_choices_total", Counter(Counter::default) by LinkCauseKey,
        "Changes to another link, of services with `link: auto`.";
    endpoints: "lacis_endpoints_checked", Gauge(Gauge::default) by HealthKey,
        "Endpoints with active health checks, by what these say.";
    health_checks: "lacis_health_checks_total", Counter(Counter::default) by CheckKey,
        "Active health checks that ended, by how.";
    breaker_open: "lacis_breaker_open", Gauge(Gauge::default) by CauseKey,
        "Workers in which a limit of a destination is used up.";
    authorization: "lacis_authorization_total", Counter(Counter::default) by AuthorizationKey,
        "Requests that a rule of authorization was about, by what it says of them.";
    hedges: "lacis_hedges_total", Counter(Counter::default) by HedgeKey,
        "Requests that were sent beside one whose answer took long, by what became of them.";
    faults: "lacis_faults_total", Counter(Counter::default) by CauseKey,
        "Faults on purpose that requests met.";
    mirrors: "lacis_mirrors_total", Counter(Counter::default) by MirrorKey,
        "Copies of requests, by what became of them.";
    concurrency_limit: "lacis_concurrency_limit", Gauge(Gauge::default) by (),
        "Requests that the application may be asked at a time, where that limit is adaptive.";
    shed: "lacis_shed_total", Counter(Counter::default) by PriorityKey,
        "Requests that were refused because the sidecar had enough, by how much they mattered.";
    rate_limited: "lacis_rate_limited_total", Counter(Counter::default) by RateLimitKey,
        "Requests that were refused because a rate limit was used up.";
    filter_requests: "lacis_filter_requests_total", Counter(Counter::default) by FilterOutcomeKey,
        "Requests that a filter has seen, by how it left them.";
    filter_unavailable: "lacis_filter_unavailable_total", Counter(Counter::default) by FilterAwayKey,
        "Requests that came to a filter while its VM was being replaced or its module missing, by what became of them.";
    filter_duration: "lacis_filter_duration_seconds", Histogram(|| Histogram::new(&FILTER_SECONDS)) by FilterKey,
        "Time from a filter's first callback for a request until it let the request go on or answered it. Of requests that go on at once one in 61 is measured, and stands for those up to the next.";
    filter_callback: "lacis_filter_callback_seconds", Histogram(|| Histogram::new(&FILTER_SECONDS)) by FilterCallbackKey,
        "Time of one callback of a filter. One in 61 is measured, beginning with the first.";
    filter_calls: "lacis_filter_calls_total", Counter(Counter::default) by FilterCallKey,
        "Calls that a filter made and that have ended, by how.";
    filter_refusals: "lacis_filter_refusals_total", Counter(Counter::default) by FilterLimitKey,
        "What a filter was refused because it reached a limit or is not allowed it.";
    filter_memory: "lacis_filter_memory_bytes", Gauge(Gauge::default) by FilterKey,
        "Linear memory of virtual machines, each counted for the first of the filters in it.";
    config_generation: "lacis_config_generation", Gauge(Gauge::default) by (),
        "Number of the configuration in use.";
    config_reloads: "lacis_config_reloads_total", Counter(Counter::default) by ReloadKey,
        "Changed configurations that were read.";
    discoveries: "lacis_discoveries_total", Counter(Counter::default) by DiscoveryKey,
        "Answers to where services are, of the DNS and of files of endpoints.";
    certificate_expiry: "lacis_certificate_expiry_seconds", Gauge(Gauge::default) by CertificateKey,
        "When a certificate expires, in seconds since 1970-01-01 UTC.";
    access_log_dropped: "lacis_access_log_dropped_total", Counter(Counter::default) by (),
        "Access records that were lost because the log could not keep up or could not be written.";
}

/// The list as a Markdown table, for the documentation.
pub fn table() -> String {
    let mut out = String::from("| name | type | labels | meaning |\n| --- | --- | --- | --- |\n");
    for Description { name, kind, labels, help } in LIST {
        out.push_str(&format!("| `{name}` | {} | {} | {help} |\n", kind.token(), labels.join(", ")));
    }
    out
}

/// The metrics of the process: hands out one [`Metrics`] per writing thread and is what a scrape reads. Clones are the
/// same registry.
#[derive(Clone, Debug, Default)]
pub struct Registry(Arc<Mutex<Vec<Arc<Block>>>>);

impl Registry {
    /// A set of metrics for the calling thread. It adds to the scrape for as long as the process runs, so make one per
    /// thread, not one per use.
    pub fn metrics(&self) -> Metrics {
        let (metrics, block) = Metrics::new();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::new(block));
        metrics
    }

    /// What every thread has written so far.
    pub(super) fn blocks(&self) -> Vec<Arc<Block>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The scrape's side of one thread's metrics.
#[derive(Debug)]
pub(super) struct Block {
    /// In the order of [`LIST`].
    pub(super) families: Vec<Readable>,
    pub(super) guests: Arc<GuestShared>,
}

/// One request at its end.
#[derive(Clone, Copy, Debug)]
pub struct RequestRecord {
    /// Which way it went.
    pub direction: Direction,
    /// The calling service: inbound that of the peer's identity, outbound our own.
    pub source: NameId,
    /// The called service.
    pub destination: NameId,
    /// Its method.
    pub method: Method,
    /// The status of the final response, 0 if none was sent.
    pub status: u16,
    /// What the application spoke.
    pub protocol: Protocol,
    /// What carried it between sidecars.
    pub link: Link,
    /// Why it failed, or [`Reason::None`].
    pub reason: Reason,
    /// From its first byte to the last byte of the response.
    pub duration: Duration,
    /// Bytes of its body.
    pub request_bytes: u64,
    /// Bytes of the response's body.
    pub response_bytes: u64,
}

/// The metrics that one thread writes. Not `Send`: each cell has one writer.
#[derive(Debug)]
pub struct Metrics {
    names: RefCell<Names>,
    families: Families,
    ends: RefCell<Ends>,
    active: [Arc<Gauge>; Direction::ALL.len()],
    access_log_dropped: Arc<Counter>,
    guests: Rc<Guests>,
}

impl Metrics {
    fn new() -> (Self, Block) {
        let (families, names, guests) = (Families::new(), Names::default(), Rc::new(Guests::default()));
        let block = Block { families: families.readable(), guests: guests.shared() };
        let active = [Direction::Inbound, Direction::Outbound]
            .map(|direction| families.requests_active.cell(DirectionKey { direction }, &names));
        let access_log_dropped = families.access_log_dropped.cell((), &names);
        let ends = RefCell::new(Ends::default());
        (Metrics { names: RefCell::new(names), families, ends, active, access_log_dropped, guests }, block)
    }

    /// The id of a service's or filter's name on this thread. Not for the path: resolve when a connection, cluster or
    /// filter is made.
    pub fn name(&self, name: &str) -> NameId {
        self.names.borrow_mut().id(name)
    }

    /// Counts a request that ended: one hash at most, none where the last request had the same labels.
    #[inline]
    pub fn request_end(&self, record: &RequestRecord) {
        let key = RequestKey {
            direction: record.direction,
            source: record.source,
            destination: record.destination,
            method: record.method,
            status: Status(record.status),
            protocol: record.protocol,
            link: record.link,
            reason: record.reason,
        };
        let mut ends = self.ends.borrow_mut();
        let known = match ends.last {
            Some((last, place)) if last == key => Some(place),
            _ => ends.known.get(&key).copied(),
        };
        if let Some(place) = known
            && let Some(cells) = ends.cells.get(place)
        {
            cells.add(record);
            ends.last = Some((key, place));
        } else {
            self.resolve(key, &mut ends).add(record);
        }
    }

    /// The number of requests in flight, to be added to and subtracted from.
    #[inline]
    pub fn requests_active(&self, direction: Direction) -> &Gauge {
        let [inbound, outbound] = &self.active;
        match direction {
            Direction::Inbound => inbound,
            Direction::Outbound => outbound,
        }
    }

    /// Counts an accepted connection.
    pub fn connection_opened(&self, direction: Direction, protocol: Protocol) {
        let (key, names) = (ConnectionKey { direction, protocol }, self.names.borrow());
        self.families.connections.cell(key, &names).add(1);
        self.families.connections_active.cell(key, &names).add(1);
    }

    /// Counts the end of a connection that [`Metrics::connection_opened`] counted.
    pub fn connection_closed(&self, direction: Direction, protocol: Protocol) {
        let key = ConnectionKey { direction, protocol };
        self.families.connections_active.cell(key, &self.names.borrow()).sub(1);
    }

    /// Counts the end of a link's handshake.
    pub fn link_handshake(&self, link: Link, result: Result<(), Reason>) {
        let key = HandshakeKey { link, result: Handshake(result) };
        self.families.link_handshakes.cell(key, &self.names.borrow()).add(1);
    }

    /// Counts a request that is sent again.
    pub fn retry(&self, destination: NameId, cause: Cause) {
        self.families.retries.cell(CauseKey { destination, cause }, &self.names.borrow()).add(1);
    }

    /// Counts an endpoint that is taken out of balancing.
    pub fn ejection(&self, destination: NameId, cause: Cause) {
        self.families.ejections.cell(CauseKey { destination, cause }, &self.names.borrow()).add(1);
    }

    /// Counts a request that was sent beside another.
    pub fn hedged(&self, destination: NameId, result: Hedged) {
        self.families.hedges.cell(HedgeKey { destination, result }, &self.names.borrow()).add(1);
    }

    /// Counts a fault on purpose.
    pub fn fault(&self, destination: NameId, cause: Cause) {
        self.families.faults.cell(CauseKey { destination, cause }, &self.names.borrow()).add(1);
    }

    /// Counts a copy of a request.
    pub fn mirrored(&self, destination: NameId, result: Mirrored) {
        self.families.mirrors.cell(MirrorKey { destination, result }, &self.names.borrow()).add(1);
    }

    /// Says how many endpoints of a destination are as health checks say. For control alone: what several threads set is
    /// summed.
    pub fn endpoints_checked(&self, destination: NameId, health: Checked, count: usize) {
        self.families.endpoints.cell(HealthKey { destination, health }, &self.names.borrow()).set(count as u64);
    }

    /// Counts the end of a health check.
    pub fn health_check(&self, destination: NameId, result: Check) {
        self.families.health_checks.cell(CheckKey { destination, result }, &self.names.borrow()).add(1);
    }

    /// Says whether a limit of a destination is used up in this worker.
    pub fn breaker(&self, destination: NameId, cause: Cause, open: bool) {
        self.families.breaker_open.cell(CauseKey { destination, cause }, &self.names.borrow()).set(open.into());
    }

    /// Where what a rule of authorization says is counted.
    pub fn authorization(&self, rule: &str, verdict: Authorization) -> Arc<Counter> {
        let key = AuthorizationKey { rule: self.name(rule), verdict };
        self.families.authorization.cell(key, &self.names.borrow())
    }

    /// Where requests of a priority are counted that are refused because the sidecar has enough.
    pub fn shed(&self, priority: &str) -> Arc<Counter> {
        self.families.shed.cell(PriorityKey { priority: self.name(priority) }, &self.names.borrow())
    }

    /// The adaptive limit of this thread: what it changes by is added.
    pub fn concurrency_limit(&self) -> Arc<Gauge> {
        self.families.concurrency_limit.cell((), &self.names.borrow())
    }

    /// Where what a rate limit refuses is counted.
    pub fn rate_limited(&self, limit: &str) -> Arc<Counter> {
        self.families.rate_limited.cell(RateLimitKey { limit: self.name(limit) }, &self.names.borrow())
    }

    /// A link was chosen for an endpoint. Counted among what is chosen until the cell that this gives is less by one.
    pub fn link_chosen(&self, destination: NameId, link: Link, cause: Cause) -> Arc<Gauge> {
        let cell = self.families.link_chosen.cell(LinkCauseKey { destination, link, cause }, &self.names.borrow());
        cell.add(1);
        cell
    }

    /// Another link was chosen for an endpoint.
    pub fn link_choice(&self, destination: NameId, link: Link, cause: Cause) {
        self.families.link_choices.cell(LinkCauseKey { destination, link, cause }, &self.names.borrow()).add(1);
    }

    /// The metrics of a filter of the configuration. Handles for the same name share their cells.
    pub fn filter(&self, name: &str) -> FilterMetrics {
        let filter = self.name(name);
        let names = self.names.borrow();
        let outcome = |outcome| self.families.filter_requests.cell(FilterOutcomeKey { filter, outcome }, &names);
        let away = |result| self.families.filter_unavailable.cell(FilterAwayKey { filter, result }, &names);
        FilterMetrics {
            outcomes: [Outcome::Continue, Outcome::Reply, Outcome::Trap, Outcome::Timeout].map(outcome),
            away: [Away::Skipped, Away::Refused].map(away),
            duration: self.families.filter_duration.cell(FilterKey { filter }, &names),
            memory: self.families.filter_memory.cell(FilterKey { filter }, &names),
        }
    }

    /// Where the times of a filter's callbacks are counted.
    pub fn filter_callback(&self, filter: NameId, callback: Callback) -> Arc<Histogram> {
        self.families.filter_callback.cell(FilterCallbackKey { filter, callback }, &self.names.borrow())
    }

    /// Counts the end of a call that a filter made.
    pub fn filter_call(&self, filter: NameId, destination: NameId, result: CallResult) {
        let key = FilterCallKey { filter, destination, result };
        self.families.filter_calls.cell(key, &self.names.borrow()).add(1);
    }

    /// Counts what a filter was refused.
    pub fn filter_refused(&self, filter: &str, limit: Limit) {
        let key = FilterLimitKey { filter: self.name(filter), limit };
        self.families.filter_refusals.cell(key, &self.names.borrow()).add(1);
    }

    /// The metrics that a filter's guest defines by itself.
    pub fn guest(&self, filter: &str) -> GuestMetrics {
        GuestMetrics::new(filter, self.guests.clone())
    }

    /// Sets the number of the configuration in use. For control alone: what several threads set is summed.
    pub fn config_generation(&self, number: u64) {
        self.families.config_generation.cell((), &self.names.borrow()).set(number);
    }

    /// Counts a changed configuration.
    pub fn config_reload(&self, result: Reload) {
        self.families.config_reloads.cell(ReloadKey { result }, &self.names.borrow()).add(1);
    }

    /// Counts an answer to where services are.
    pub fn discovery(&self, origin: Origin, result: Discovered) {
        self.families.discoveries.cell(DiscoveryKey { origin, result }, &self.names.borrow()).add(1);
    }

    /// Sets when a certificate expires, in seconds since the epoch. For control alone, as above.
    pub fn certificate_expiry(&self, kind: Certificate, unix_seconds: u64) {
        self.families.certificate_expiry.cell(CertificateKey { kind }, &self.names.borrow()).set(unix_seconds);
    }

    /// Counts access records that were lost.
    pub fn access_log_dropped(&self) -> Arc<Counter> {
        self.access_log_dropped.clone()
    }

    /// The cells of labels that no request had so far.
    #[cold]
    fn resolve(&self, key: RequestKey, ends: &mut Ends) -> RequestCells {
        let RequestKey { direction, source, destination, status: Status(status), .. } = key;
        let (families, names) = (&self.families, self.names.borrow());
        let edge = EdgeKey { direction, source, destination };
        let by_status = EdgeStatusKey { direction, source, destination, status_class: status.into() };
        let own = families.requests.lookup(key, &names);
        let remember = own.is_some();
        let cells = RequestCells {
            requests: own.unwrap_or_else(|| families.requests.other()),
            duration: families.request_duration.cell(by_status, &names),
            request_bytes: families.request_bytes.cell(edge, &names),
            response_bytes: families.response_bytes.cell(edge, &names),
        };
        // What is counted with all others is not remembered, so that this map is bounded as the family is.
        if remember {
            ends.known.insert(key, ends.cells.len());
            ends.cells.push(cells.clone());
        }
        cells
    }
}

/// The metrics of one filter.
#[derive(Clone, Debug)]
pub struct FilterMetrics {
    outcomes: [Arc<Counter>; Outcome::ALL.len()],
    away: [Arc<Counter>; Away::ALL.len()],
    duration: Arc<Histogram>,
    memory: Arc<Gauge>,
}

impl FilterMetrics {
    /// Counts a request that the filter has left, after a time that is a sample of [`FILTER_SECONDS`].
    #[inline]
    pub fn request(&self, outcome: Outcome, took: Sample) {
        let [on, reply, trap, timeout] = &self.outcomes;
        match outcome {
            Outcome::Continue => on,
            Outcome::Reply => reply,
            Outcome::Trap => trap,
            Outcome::Timeout => timeout,
        }
        .add(1);
        self.duration.count(took);
    }

    /// Requests that the filter has left so far, by how.
    pub fn requests(&self) -> impl Iterator<Item = (Outcome, u64)> {
        Outcome::ALL.iter().copied().zip(self.outcomes.iter().map(|counter| counter.read()))
    }

    /// Counts a request that came while the filter was away.
    pub fn unavailable(&self, result: Away) {
        let [skipped, refused] = &self.away;
        match result {
            Away::Skipped => skipped,
            Away::Refused => refused,
        }
        .add(1);
    }

    /// Requests that came while the filter was away so far, by what became of them.
    pub fn unavailables(&self) -> impl Iterator<Item = (Away, u64)> {
        Away::ALL.iter().copied().zip(self.away.iter().map(|counter| counter.read()))
    }

    /// The time that it spent on each.
    pub fn duration(&self) -> &Histogram {
        &self.duration
    }

    /// Bytes of linear memory: add what a machine grows by, subtract what it had when it goes, so that the machines of
    /// two generations add up.
    pub fn memory(&self) -> &Gauge {
        &self.memory
    }
}

/// The cells that the end of a request writes, found by one key.
#[derive(Clone, Debug)]
struct RequestCells {
    requests: Arc<Counter>,
    duration: Arc<Histogram>,
    request_bytes: Arc<Counter>,
    response_bytes: Arc<Counter>,
}

impl RequestCells {
    #[inline]
    fn add(&self, record: &RequestRecord) {
        self.requests.add(1);
        self.duration.observe_duration(record.duration);
        self.request_bytes.add(record.request_bytes);
        self.response_bytes.add(record.response_bytes);
    }
}

/// Where the cells of each combination of labels are; the last one found without a hash.
#[derive(Debug)]
struct Ends {
    last: Option<(RequestKey, usize)>,
    known: HashMap<RequestKey, usize>,
    cells: Vec<RequestCells>,
}

impl Default for Ends {
    fn default() -> Self {
        Ends { last: None, known: HashMap::new(), cells: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::family::MAX_SERIES;
    use super::*;

    #[test]
    fn the_list_is_what_the_documentation_says() {
        if std::env::var_os("LACIS_BLESS").is_some() {
            std::fs::write(format!("{}/src/telemetry/golden/metrics.md", env!("CARGO_MANIFEST_DIR")), table()).unwrap();
        } else {
            assert_eq!(
                table(),
                include_str!("golden/metrics.md"),
                "golden/metrics.md differs; LACIS_BLESS=1 rewrites it"
            );
        }
    }

    #[test]
    fn names_end_in_their_unit_and_counters_in_total() {
        for Description { name, kind, labels, .. } in LIST {
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
            assert!(name.starts_with("lacis_") && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
            assert!(labels.iter().all(|label| *label != "le" && !label.starts_with("__")), "{name}");
        }
    }

    #[test]
    fn requests_beyond_the_limit_are_counted_as_other() {
        let registry = Registry::default();
        let metrics = registry.metrics();
        let total = MAX_SERIES as u16 + 10;
        for status in 0..total {
            metrics.request_end(&record(status));
        }
        let Readable::Counter(requests) = &registry.blocks()[0].families[0] else { panic!("not a counter") };
        let series = requests.series();
        assert_eq!(series.len(), MAX_SERIES + 1);
        assert_eq!(series.iter().map(|s| s.cell.read()).sum::<u64>(), u64::from(total));
        let other = series.iter().find(|s| s.labels.contains("direction=\"other\"")).unwrap();
        assert_eq!(other.cell.read(), 10);
        assert_eq!(metrics.ends.borrow().known.len(), MAX_SERIES);
    }

    #[test]
    fn a_change_of_labels_changes_the_series() {
        let registry = Registry::default();
        let metrics = registry.metrics();
        for status in [200, 200, 503, 200] {
            metrics.request_end(&record(status));
        }
        let Readable::Counter(requests) = &registry.blocks()[0].families[0] else { panic!("not a counter") };
        let counts: Vec<_> = requests.series().iter().map(|s| s.cell.read()).collect();
        assert_eq!(counts, [3, 1]);
    }

    fn record(status: u16) -> RequestRecord {
        RequestRecord {
            direction: Direction::Outbound,
            source: NameId::UNKNOWN,
            destination: NameId::UNKNOWN,
            method: Method::Get,
            status,
            protocol: Protocol::Http1,
            link: Link::H3,
            reason: Reason::None,
            duration: Duration::from_millis(3),
            request_bytes: 0,
            response_bytes: 10,
        }
    }
}
