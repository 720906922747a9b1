//! One exchange: what is known of it, and the account of it that is written when it ends.

use std::borrow::Cow;
use std::cell::{Cell, OnceCell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

use crate::clock::Deadline;
use crate::config::Timeouts;
use crate::drain::{Drain, Guard, Phase};
use crate::fault::{Fault, Reason};
use crate::http::body::{Half, Observer};
use crate::http::fields::Value;
use crate::http::head::{RequestHead, Version};
use crate::http::{Body, Fields};
use crate::telemetry::access::{AccessLog, Record, Text, Verdict};
use crate::telemetry::labels::{Authorization, Direction, Link, Method, NameId, Protocol};
use crate::telemetry::metrics::{Metrics, RequestRecord};
use crate::telemetry::trace::TraceContext;
use crate::telemetry::trail::Trail;
use crate::telemetry::why::{self, End, Ending, Ring, What};
use crate::tls::Peer;

/// What is known of a connection.
#[derive(Debug)]
pub struct Conn {
    /// Tells the connections of this process apart (`connection.id`); see [`Conn::next_id`].
    pub id: u64,
    /// Which way its requests go.
    pub direction: Direction,
    /// What it speaks.
    pub protocol: Protocol,
    /// What carried it: none for the application's own connections.
    pub link: Link,
    /// Where it was accepted.
    pub local: SocketAddr,
    /// Where it came from.
    pub remote: SocketAddr,
    /// Who is at the other end.
    pub peer: Option<Arc<Peer>>,
    /// What our certificate said of us there.
    pub own: Option<Arc<Peer>>,
    /// The name that the peer asked for (SNI).
    pub server_name: Option<Arc<str>>,
    /// The peer as the application is told of it: `x-forwarded-client-cert`.
    pub forwarded: Option<HeaderValue>,
    /// The caller's service: our own, or that of the peer's identity.
    pub source: NameId,
    /// The end of its way through the sidecar.
    pub drain: Drain,
}

impl Conn {
    /// A number that no other connection of this process has.
    pub fn next_id() -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        NEXT.fetch_add(1, Ordering::Relaxed)
    }
}

/// Where accounts of exchanges go; one per worker.
#[derive(Debug)]
pub struct Ledger {
    /// The worker's metrics.
    pub metrics: Rc<Metrics>,
    /// The access log, if there is one.
    pub access: Option<AccessLog>,
    /// Records of the last requests, where these are wanted.
    pub why: Ring,
}

/// Envoy's `response_code_details` of what no service has answered.
const REPLIED: &str = "direct_response";

/// One exchange, from the first header to the last byte.
pub struct Exchange {
    /// Its connection.
    pub conn: Rc<Conn>,
    /// How it travels.
    pub trail: Trail,
    /// Runs out when the response does not begin in time.
    pub deadline: Deadline,
    _generation: Guard,
    ledger: Rc<Ledger>,
    started: Instant,
    ended: Cell<Option<Duration>>,
    method: Method,
    /// The application's side of this hop.
    protocol: Cell<Protocol>,
    destination: Cell<NameId>,
    service: RefCell<Option<Arc<str>>>,
    route: RefCell<Option<Arc<str>>>,
    timeouts: Cell<Timeouts>,
    idle: Deadline,
    /// Runs out when the exchange is not over in time, if that is bounded.
    stream: OnceCell<Deadline>,
    /// All of the request has come.
    request_read: Cell<bool>,
    request_ended: Cell<bool>,
    /// The request has ended when it has passed the filters, and not when it was read.
    filtered: Cell<bool>,
    status: Cell<u16>,
    reason: Cell<Reason>,
    /// It failed when the response had begun.
    broken_off: Cell<bool>,
    /// It is answered here, and not by the service.
    replied: Cell<bool>,
    bytes: [Cell<u64>; 2],
    /// Only where an access log is written.
    line: RefCell<Option<Box<Line>>>,
}

/// What only the access log wants to know.
struct Line {
    start: SystemTime,
    method: http::Method,
    path: Text,
    version: http::Version,
    authority: Text,
    x_forwarded_for: Text,
    user_agent: Text,
    request_id: Text,
    trace_id: Option<[u8; 16]>,
    failure: Text,
    details: Text,
    service_time: Option<Duration>,
    authorization: Option<(Authorization, Arc<str>)>,
    delayed: bool,
    verdicts: Vec<Verdict>,
}

impl Exchange {
    /// Begins the account of a request. `nowhere` is the destination until one is chosen, and
    /// `protocol` what the application speaks; `generation` counts it until it ends.
    pub fn open(
        conn: &Rc<Conn>,
        ledger: &Rc<Ledger>,
        head: &RequestHead,
        nowhere: NameId,
        protocol: Protocol,
        generation: Guard,
    ) -> Rc<Self> {
        ledger.metrics.requests_active(conn.direction).add(1);
        let field = |name: &str| Text::from(head.headers.get(name).map(Value::share));
        let line = ledger.access.is_some().then(|| {
            Box::new(Line {
                start: SystemTime::now(),
                method: head.method.clone(),
                path: head.path.clone().into(),
                version: match head.version {
                    Version::Http10 => http::Version::HTTP_10,
                    Version::Http11 => http::Version::HTTP_11,
                    Version::Http2 => http::Version::HTTP_2,
                    Version::Http3 => http::Version::HTTP_3,
                },
                authority: head.authority.clone().into(),
                x_forwarded_for: field("x-forwarded-for"),
                user_agent: field("user-agent"),
                request_id: field("x-request-id"),
                trace_id: TraceContext::read(head.headers.get_all("traceparent").map(|v| v.as_bytes()))
                    .map(|t| t.trace_id()),
                failure: Text::None,
                details: Text::None,
                service_time: None,
                authorization: None,
                delayed: false,
                verdicts: Vec::new(),
            })
        });
        Rc::new(Exchange {
            conn: Rc::clone(conn),
            trail: Trail::default(),
            deadline: Deadline::new(),
            _generation: generation,
            ledger: Rc::clone(ledger),
            started: Instant::now(),
            ended: Cell::new(None),
            method: Method::from(&head.method),
            protocol: Cell::new(protocol),
            destination: Cell::new(nowhere),
            service: RefCell::new(None),
            route: RefCell::new(None),
            timeouts: Cell::new(Timeouts::NONE),
            idle: Deadline::new(),
            stream: OnceCell::new(),
            request_read: Cell::new(false),
            request_ended: Cell::new(false),
            filtered: Cell::new(false),
            status: Cell::new(0),
            reason: Cell::new(Reason::None),
            broken_off: Cell::new(false),
            replied: Cell::new(false),
            bytes: [Cell::new(0), Cell::new(0)],
            line: RefCell::new(line),
        })
    }

    /// The destination is chosen: its name, and what the application on this hop speaks.
    pub fn destined(&self, service: &Arc<str>, id: NameId, protocol: Protocol) {
        self.destination.set(id);
        self.protocol.set(protocol);
        *self.service.borrow_mut() = Some(Arc::clone(service));
    }

    /// It follows this rule.
    pub fn routed(&self, rule: &Arc<str>) {
        if self.trail.is_recorded() {
            self.trail.write(why::Record::routed);
        }
        *self.route.borrow_mut() = Some(Arc::clone(rule));
    }

    /// The request leaves for its destination: from now on these are its bounds.
    pub fn bounded(&self, timeouts: Timeouts) {
        self.timeouts.set(timeouts);
        self.idle.set(timeouts.idle);
        if timeouts.stream > Duration::ZERO {
            let left = timeouts.stream.saturating_sub(self.elapsed()).max(Duration::from_millis(1));
            self.stream.get_or_init(Deadline::new).set(left);
        }
        if self.request_ended.get() {
            self.deadline.set(timeouts.request);
        }
    }

    /// This is what follows the head of the request when filters have seen it. What they hold back the service does not have: how long its
    /// answer may take counts from the end of this.
    pub fn filtered(self: &Rc<Self>, body: &mut Body) {
        self.filtered.set(true);
        self.request_ended.set(false);
        body.observe(Rc::new(Filtered(Rc::clone(self))));
    }

    /// All of the request is there.
    fn request_ended(&self) {
        self.request_ended.set(true);
        if self.status.get() == 0 {
            self.deadline.set(self.timeouts.get().request);
        }
    }

    /// The final response begins.
    pub fn answered(&self, status: StatusCode) {
        self.status.set(status.as_u16());
        self.deadline.clear();
        let answered = self.reason.get() == Reason::None;
        if answered {
            self.trail.answered();
        }
        // A head is movement, too: what follows it has all of its time, however long the head took.
        self.idle.set(self.timeouts.get().idle);
        if let Some(line) = self.line.borrow_mut().as_mut() {
            line.service_time = self.trail.sent().filter(|_| answered).map(|sent| sent.elapsed());
        }
    }

    /// The exchange failed; the first cause counts.
    pub fn failed(&self, fault: &Fault) {
        if let (Reason::StreamTimeout, Some(stream)) = (fault.reason, self.stream.get()) {
            // What is said of it may take its time.
            stream.clear();
        }
        if self.reason.get() == Reason::None {
            self.reason.set(fault.reason);
            self.broken_off.set(self.status.get() != 0);
            if let Some(line) = self.line.borrow_mut().as_mut() {
                line.failure = Text::Shared(fault.to_string().into());
            }
            self.trail.write(|record| record.failed(fault));
        }
    }

    /// It is answered here, and not by the service; whoever does says why, if it does.
    pub fn replied(&self, details: &[u8]) {
        self.replied.set(true);
        if let Some(line) = self.line.borrow_mut().as_mut() {
            line.details = match details {
                [] => Text::Static(REPLIED),
                _ => Text::Bytes(Bytes::copy_from_slice(details)),
            };
        }
    }

    /// It is made to wait on purpose.
    pub fn delayed(&self) {
        if let Some(line) = self.line.borrow_mut().as_mut() {
            line.delayed = true;
        }
    }

    /// Why nobody waits for the response any more: the client went away, or we do.
    fn abandoned(&self) -> Fault {
        match self.conn.drain.phase() {
            Phase::Cut => Fault::new(Reason::Draining),
            Phase::Running | Phase::Quiet => Fault::new(Reason::DownstreamAborted),
        }
    }

    /// What a rule of authorization said of it.
    pub fn authorized(&self, verdict: Authorization, rule: &Arc<str>) {
        if let Some(line) = self.line.borrow_mut().as_mut() {
            line.authorization = Some((verdict, Arc::clone(rule)));
        }
    }

    /// What a filter said of it, and after what time, if that was measured, where that is to be written.
    pub fn verdict(&self, took: Option<Duration>, verdict: impl Fn() -> Verdict) {
        self.trail.note(|own| {
            let Verdict { filter, outcome } = verdict();
            What::Filter(own.text(&filter), outcome, took)
        });
        if let Some(line) = self.line.borrow_mut().as_mut() {
            line.verdicts.push(verdict());
        }
    }

    /// What identifies it across the mesh, where that was not known when it began.
    pub fn identified(&self, id: &[u8], share: impl FnOnce() -> HeaderValue) {
        self.trail.identify(id);
        if let Some(line) = self.line.borrow_mut().as_mut() {
            line.request_id = Text::Value(share());
        }
    }

    /// The trace that begins with it.
    pub fn traced(&self, id: [u8; 16]) {
        if let Some(line) = self.line.borrow_mut().as_mut() {
            line.trace_id = Some(id);
        }
    }

    /// Its method.
    pub fn method(&self) -> Method {
        self.method
    }

    /// When its first byte came.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Ready when all of its time is over, if that is bounded.
    pub fn poll_stream(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.get().map_or(Poll::Pending, |stream| stream.poll(cx))
    }

    /// Ready when nothing has moved for too long while the service does not have all of the request; when it has, `deadline` counts. Its body
    /// alone does not tell: that is not looked at while a filter holds what there is of it, or the service takes nothing.
    pub fn poll_stalled(&self, cx: &mut Context<'_>) -> Poll<Fault> {
        if self.request_ended.get() { Poll::Pending } else { self.poll_idle(cx) }
    }

    /// Since its first byte.
    pub fn elapsed(&self) -> Duration {
        self.ended.get().unwrap_or_else(|| self.started.elapsed())
    }

    /// How long it took; none while it runs.
    pub fn over(&self) -> Option<Duration> {
        self.ended.get()
    }

    /// From when it was last sent to its end; none while it runs, and where it was not sent.
    pub fn backend_latency(&self) -> Option<Duration> {
        let sent = self.trail.sent()?;
        Some((self.started + self.over()?).saturating_duration_since(sent))
    }

    /// When it began, since 1970.
    pub fn since_epoch(&self) -> Duration {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        now.saturating_sub(self.started.elapsed())
    }

    /// The service that it goes to, once that is chosen.
    pub fn service(&self) -> Option<Arc<str>> {
        self.service.borrow().clone()
    }

    /// The rule that it follows, `SERVICE/NAME`; none where the service has no routes.
    pub fn route(&self) -> Option<Arc<str>> {
        self.route.borrow().clone()
    }

    /// The status of the final response; 0 before it.
    pub fn status(&self) -> u16 {
        self.status.get()
    }

    /// Why it failed, if it did.
    pub fn reason(&self) -> Reason {
        self.reason.get()
    }

    /// How it ended, as `response_code_details`.
    pub fn details(&self) -> Cow<'static, str> {
        match self.reason.get() {
            Reason::None if self.replied.get() => REPLIED.into(),
            reason => reason.details(self.broken_off.get()),
        }
    }

    /// Content bytes that passed.
    pub fn bytes(&self, half: Half) -> u64 {
        self.bytes[half as usize].get()
    }

    /// Puts the record of it to those of the last requests.
    #[inline]
    fn remember(&self, noted: Box<why::Record>, first: Option<why::First>, how: &RequestRecord) {
        // Nobody asks for them any more but the access log, if there is one.
        let logged = self.ledger.access.is_some();
        self.ledger.why.push(
            noted,
            Ending {
                started: self.started,
                direction: how.direction,
                method: how.method,
                caller: self.conn.remote,
                first,
                end: End {
                    status: how.status,
                    reason: how.reason,
                    duration: how.duration,
                    link: how.link,
                    attempts: self.trail.attempts(),
                    bound: self.timeouts.get().request,
                    service: if logged { self.service() } else { self.service.take() },
                    route: if logged { self.route() } else { self.route.take() },
                },
            },
        );
    }
}

impl Observer for Exchange {
    fn data(&self, half: Half, bytes: usize) {
        let passed = &self.bytes[half as usize];
        passed.set(passed.get() + bytes as u64);
        self.idle.set(self.timeouts.get().idle);
    }

    fn trailers(&self, _: Half, _: &Fields) {}

    fn end(&self, half: Half, outcome: Option<Result<(), &Fault>>) {
        match (half, outcome) {
            (_, Some(Err(fault))) => self.failed(fault),
            (Half::Request, Some(Ok(()))) => {
                self.request_read.set(true);
                if !self.filtered.get() {
                    self.request_ended();
                }
            }
            (Half::Request, None) => {}
            (Half::Response, Some(Ok(()))) => {}
            (Half::Response, None) => self.failed(&self.abandoned()),
        }
        if half == Half::Response {
            self.ended.set(Some(self.started.elapsed()));
            self.trail.end();
        }
    }

    fn poll_idle(&self, cx: &mut Context<'_>) -> Poll<Fault> {
        if self.poll_stream(cx).is_ready() {
            return Poll::Ready(Fault::new(Reason::StreamTimeout));
        }
        // Before an answer it is who still sends a request that is waited for; else a filter, or the service.
        let sends = !self.request_read.get() && self.status.get() == 0;
        let reason = if sends { Reason::RequestTimeout } else { Reason::StreamIdleTimeout };
        self.idle.poll(cx).map(|()| Fault::new(reason).detail("nothing has moved for `timeouts.idle`"))
    }
}

/// Learns of the end of a request that filters have seen. What it carries was counted when it came.
struct Filtered(Rc<Exchange>);

impl Observer for Filtered {
    fn data(&self, _: Half, _: usize) {}

    fn trailers(&self, _: Half, _: &Fields) {}

    fn end(&self, _: Half, outcome: Option<Result<(), &Fault>>) {
        if let Some(Ok(())) = outcome {
            self.0.request_ended();
        }
    }

    fn poll_idle(&self, _: &mut Context<'_>) -> Poll<Fault> {
        Poll::Pending
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if self.status.get() == 0 {
            // Cancelled before there was an answer.
            self.failed(&self.abandoned());
        }
        // A tunnel is over when both of its directions are.
        let duration = if self.method == Method::Connect { self.started.elapsed() } else { self.elapsed() };
        let record = RequestRecord {
            direction: self.conn.direction,
            source: self.conn.source,
            destination: self.destination.get(),
            method: self.method,
            status: self.status.get(),
            protocol: self.protocol.get(),
            link: if self.conn.link == Link::None { self.trail.link() } else { self.conn.link },
            reason: self.reason.get(),
            duration,
            request_bytes: self.bytes(Half::Request),
            response_bytes: self.bytes(Half::Response),
        };
        self.ledger.metrics.requests_active(self.conn.direction).sub(1);
        self.ledger.metrics.request_end(&record);
        let first = self.trail.first();
        if let Some(noted) = self.trail.recorded() {
            self.remember(noted, first, &record);
        }
        if let (Some(access), Some(line)) = (&self.ledger.access, self.line.take()) {
            let Line {
                start,
                method,
                path,
                version,
                authority,
                x_forwarded_for,
                user_agent,
                request_id,
                trace_id,
                failure,
                details,
                service_time,
                authorization,
                delayed,
                verdicts,
            } = *line;
            access.write(Box::new(Record {
                start,
                direction: record.direction,
                method: Some(method),
                path,
                protocol: (self.conn.protocol != Protocol::Tcp).then_some(version),
                authority,
                status: record.status,
                reason: record.reason,
                broken_off: self.broken_off.get(),
                delayed,
                failure,
                details,
                bytes_received: record.request_bytes,
                bytes_sent: record.response_bytes,
                duration,
                upstream_service_time: service_time,
                x_forwarded_for,
                user_agent,
                request_id,
                trace_id,
                upstream_host: self.trail.address(),
                upstream_cluster: self.service.take().into(),
                upstream_local_address: self.trail.carrier().and_then(|carrier| carrier.local),
                downstream_local_address: Some(self.conn.local),
                downstream_remote_address: Some(self.conn.remote),
                requested_server_name: self.conn.server_name.clone().into(),
                route_name: self.route.take().into(),
                link: record.link,
                peer: self.conn.peer.as_ref().map(|peer| Arc::new(peer.spiffe.clone())),
                attempts: self.trail.attempts(),
                authorization,
                filters: verdicts,
            }));
        }
    }
}
