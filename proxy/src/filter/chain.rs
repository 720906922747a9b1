//! Filters in order, and the passage of one exchange through them: those of the listener, then those of where it goes.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, StatusCode};
use lacis_host::{Half, Reply};

use super::answer::broken;
use super::callout::Upstreams;
use super::compiled::Compiled;
use super::exchange::Exchange;
use super::flow::Flow;
use super::grpc;
use super::guest::{self, GuestRequest};
use super::machine::Machines;
use super::node::NodeFacts;
use super::run::Run;
use super::seen::Seen;
use super::tunnel;
use super::wasm::Filter;
use crate::fault::{Fault, Reason};
use crate::http::body::{self, Length, Observer};
use crate::http::{Body, Request, Response, ResponseHead, Shared};
use crate::net::turn;
use crate::telemetry::labels::{Away, Outcome};
use crate::telemetry::metrics::FilterMetrics;

/// Why an exchange ends before it has gone all the way; either way the answer is a response.
pub enum Stop {
    /// A filter answers by itself.
    Reply(Box<Response>),
    /// Something failed.
    Fault(Fault),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Stop::Fault(fault)
    }
}

/// The filters of a configuration, compiled: what workers make their chains of.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    filters: Vec<Option<Arc<Compiled>>>,
    missing: BTreeMap<usize, Missing>,
}

/// A filter without a module.
#[derive(Clone, Debug)]
struct Missing {
    name: Arc<str>,
    /// What is said of it where it fails closed; nothing where it fails open.
    why: Option<Arc<str>>,
}

impl Plan {
    /// `filters` by their place in the configuration, none where nothing names it.
    pub fn new(filters: Vec<Option<Arc<Compiled>>>) -> Self {
        Plan { filters, missing: BTreeMap::new() }
    }

    /// Whether no filter is to run.
    pub fn is_empty(&self) -> bool {
        self.filters.iter().all(Option::is_none)
    }

    /// The filter at this place of the configuration cannot be had yet. What has to pass it is refused with these words, or
    /// passes without it where there are none.
    pub fn miss(&mut self, filter: usize, name: &str, why: Option<&str>) {
        self.missing.insert(filter, Missing { name: name.into(), why: why.map(Arc::from) });
    }

    /// The filters that are used.
    pub fn filters(&self) -> impl Iterator<Item = &Arc<Compiled>> {
        self.filters.iter().flatten()
    }
}

/// The filters of a configuration in one worker. One that stands in several chains is one plugin.
pub struct Filters {
    filters: Vec<Option<Rc<Filter>>>,
    missing: BTreeMap<usize, Absent>,
    /// The chain of those who name no filter: one for all of them.
    none: Chain,
}

impl Filters {
    /// The filters of a plan. Those that are new are to be [started](Filters::start).
    pub fn new(plan: &Plan, machines: &Machines, generation: u64) -> Self {
        let make = |compiled| machines.filter(compiled, generation);
        let filters: Vec<_> = plan.filters.iter().map(|filter| filter.as_ref().map(make)).collect();
        let absent = |Missing { name, why }: &Missing| {
            let (name, metrics) = (Arc::clone(name), machines.metrics(name));
            Absent { name, metrics, why: why.clone(), behind: 0 }
        };
        let missing = plan.missing.iter().map(|(place, filter)| (*place, absent(filter))).collect();
        let none = Chain { filters: Rc::default(), node: Rc::clone(machines.node()), absent: None };
        Filters { filters, missing, none }
    }

    /// Starts the plugins that this generation brought, one in a turn of the worker: each may take long, and requests go on in
    /// between. They may call these services.
    ///
    /// # Errors
    /// Why some do not run, one to a line. They can be used all the same: requests follow the failure policy.
    pub async fn start(
        &self,
        machines: &Machines,
        upstreams: &Rc<dyn Upstreams>,
        generation: u64,
    ) -> Result<(), String> {
        let mut failures = Vec::new();
        for filter in self.filters.iter().flatten().filter(|filter| filter.came_with(generation)) {
            failures.extend(machines.starting(Rc::clone(upstreams), || filter.ready()).err());
            tokio::task::yield_now().await;
        }
        if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
    }

    /// Some of them in order, by their place in the configuration.
    pub fn chain(&self, order: &[usize]) -> Chain {
        if order.is_empty() {
            return self.none.clone();
        }
        let (mut filters, mut absent) = (Vec::new(), Vec::new());
        for place in order {
            absent.extend(self.missing.get(place).map(|missing| Absent { behind: filters.len(), ..missing.clone() }));
            filters.extend(self.filters.get(*place).cloned().flatten());
        }
        let absent = (!absent.is_empty()).then(|| absent.into());
        Chain { filters: filters.into(), node: Rc::clone(&self.none.node), absent }
    }

    /// The chain without a filter.
    pub fn none(&self) -> &Chain {
        &self.none
    }

    /// Takes them into use by a generation.
    pub fn used_by(&self, generation: u64) {
        self.filters.iter().flatten().for_each(|filter| filter.used_by(generation));
    }

    /// Those that have no module, by name, with what is counted of them.
    pub fn missing(&self) -> impl Iterator<Item = (Arc<str>, FilterMetrics)> {
        self.missing.values().map(|absent| (Arc::clone(&absent.name), absent.metrics.clone()))
    }

    /// How many are used.
    pub fn count(&self) -> usize {
        self.filters.iter().flatten().count()
    }
}

/// Filters in the order in which requests pass them, of a listener, a route's rule or a service, in one worker.
#[derive(Clone)]
pub struct Chain {
    pub(super) filters: Rc<[Rc<Filter>]>,
    pub(super) node: Rc<NodeFacts>,
    /// Those that have no module, if there are such.
    absent: Option<Rc<[Absent]>>,
}

/// A filter without a module, in one worker.
#[derive(Clone)]
struct Absent {
    name: Arc<str>,
    metrics: FilterMetrics,
    why: Option<Arc<str>>,
    /// How many of its chain that are there requests pass before it.
    behind: usize,
}

impl Chain {
    /// Refuses what would come to filters that are missing, where one of them fails closed.
    pub(super) fn complete(&self) -> Result<(), Fault> {
        for absent in self.absent.iter().flat_map(|absent| absent.iter()) {
            if let Some(why) = &absent.why {
                absent.metrics.unavailable(Away::Refused);
                return Err(Fault::new(Reason::FilterUnavailable).detail(why.to_string()));
            }
        }
        Ok(())
    }

    /// Counts what passes without the filters that are missing, those of them before which there are at most so many others.
    pub(super) fn skipped(&self, behind: usize) {
        let absent = self.absent.iter().flat_map(|absent| absent.iter());
        absent.filter(|absent| absent.behind <= behind).for_each(|absent| absent.metrics.unavailable(Away::Skipped));
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }

    /// Begins the passage of an exchange, with these as the filters of its listener. `grpc` if its caller speaks that.
    pub fn open(&self, grpc: bool) -> Passage<'_> {
        let method = Method::GET;
        Passage { chain: self, run: None, flow: None, expects: false, grpc, method, answered: false }
    }
}

/// One exchange on its way through the filters. Nothing where there are none.
pub struct Passage<'c> {
    chain: &'c Chain,
    pub(super) run: Option<Rc<Run>>,
    /// What follows the request's head, once a filter has made that wait; until then it is with the request.
    flow: Option<Box<Flow>>,
    /// The client waits to be told that its content is wanted.
    expects: bool,
    grpc: bool,
    method: Method,
    /// A response that must not pass the filters any more.
    answered: bool,
}

impl Passage<'_> {
    /// The head of the request goes through the filters of its listener, in order. Its body is not there until it has
    /// gone on ([`Passage::onward`]).
    ///
    /// # Errors
    /// If one of them answers by itself, or fails closed, or leaves a message that cannot be sent.
    pub async fn request(&mut self, exchange: &Rc<Exchange>, request: &mut Request) -> Result<(), Stop> {
        self.chain.complete()?;
        if self.chain.is_empty() {
            self.chain.skipped(0);
            return Ok(());
        }
        self.begin(exchange, request);
        let passed = self.leg(request).await;
        self.skipped(self.chain, 0, passed.is_ok());
        passed
    }

    /// Now that it is known where it goes, the request goes through the filters of there, chain by chain. Then its head
    /// is as all filters left it, and its body passes them while it is read. `changed` if somebody else has changed the
    /// head since the last filter.
    ///
    /// # Errors
    /// As [`Passage::request`].
    pub async fn onward(
        &mut self,
        exchange: &Rc<Exchange>,
        request: &mut Request,
        chains: [&Chain; 2],
        changed: bool,
    ) -> Result<(), Stop> {
        for chain in chains {
            chain.complete().map_err(|fault| self.stop(fault))?;
        }
        if chains.iter().any(|chain| !chain.is_empty()) {
            match &self.run {
                None => self.begin(exchange, request),
                // Nobody else may hold the head that they may change.
                Some(run) => {
                    let head = std::mem::take(&mut request.head);
                    if changed {
                        run.seen.borrow_mut().replace_request(head);
                    }
                }
            }
            if let Some(run) = &self.run {
                run.extend(chains.map(|chain| Rc::clone(&chain.filters)));
            }
            let passed = self.leg(request).await;
            let second = self.chain.filters.len() + chains[0].filters.len();
            self.skipped(chains[0], self.chain.filters.len(), passed.is_ok());
            self.skipped(chains[1], second, passed.is_ok());
            passed?;
        } else {
            chains.iter().for_each(|chain| chain.skipped(0));
            if let Some(run) = self.run.as_ref().filter(|_| changed) {
                // The log callbacks may read it.
                run.seen.borrow_mut().replace_request(request.head.share());
            }
        }
        let flow = match &self.run {
            Some(run) if self.flow.is_none() && !run.goes_by(Half::Request) => Some(flow(run, request, self.expects)),
            _ => self.flow.take(),
        };
        let mut asks = self.expects;
        if let Some(flow) = flow {
            if flow.has_asked() {
                request.head.headers.remove(header::EXPECT);
                asks = false;
            }
            if let Some(length) = flow.body(&request.head.headers, &mut request.body)? {
                request.head.headers.insert(header::CONTENT_LENGTH, length);
            }
            if self.run.as_ref().is_some_and(|run| !run.goes_by(Half::Request)) {
                exchange.filtered(&mut request.body);
            }
        }
        if asks && !request.head.headers.contains_key(header::EXPECT) {
            // Somebody has taken it away: the service is not asked, and nobody else would say that the content is wanted.
            request.interim.push(ResponseHead::new(StatusCode::CONTINUE));
        }
        Ok(())
    }

    /// The client waits to be told that its content is wanted (RFC 9110 section 10.1.1).
    pub fn expects(&mut self) {
        self.expects = true;
    }

    /// Puts the head of a request into the hands of filters.
    fn begin(&mut self, exchange: &Rc<Exchange>, request: &mut Request) {
        let head = std::mem::take(&mut request.head);
        self.method.clone_from(&head.method);
        let bare = request.body.is_end();
        self.expects |= !bare && head.headers.contains_key(header::EXPECT);
        let guest = GuestRequest::new(head, false);
        let seen = Seen::new(exchange, &self.chain.node, Some(guest), bare, self.chain.filters.len());
        self.run = Some(Run::new(exchange, &self.chain.filters, seen, false));
    }

    /// Counts what has passed filters of a chain that are missing, whose others are numbered from here: all of them if `all`, else those
    /// before the filter that it came to last.
    fn skipped(&self, chain: &Chain, from: usize, all: bool) {
        if chain.absent.is_none() {
            return;
        }
        let last = || self.run.as_ref()?.seen.borrow().stages.last()?.number.checked_sub(from);
        if let Some(behind) = if all { Some(usize::MAX) } else { last() } {
            chain.skipped(behind);
        }
    }

    /// The head passes the filters that it has not passed.
    async fn leg(&mut self, request: &mut Request) -> Result<(), Stop> {
        let Some(run) = &self.run else { return Err(lost("request").into()) };
        run.onward().map_err(|fault| self.stop(fault))?;
        if !run.has_gone(Half::Request) {
            let expects = self.expects;
            let passed = self.flow.get_or_insert_with(|| flow(run, request, expects)).head().await;
            passed.map_err(|fault| self.stop(fault))?;
        }
        // The log callback may still read the request; upstream gets it now.
        let head = run.seen.borrow().request.as_ref().map(|request| Rc::clone(&request.head));
        request.head = head.ok_or_else(|| lost("request"))?.into();
        Ok(())
    }

    /// The response goes back through those filters that have seen the request, last first.
    ///
    /// # Errors
    /// As for the request; another response is to take the place of this one then.
    pub async fn response(&mut self, response: &mut Response) -> Result<(), Stop> {
        let Some(run) = self.run.as_ref().filter(|_| !self.answered) else { return Ok(()) };
        if run.tcp {
            return tunnel::response(run, response).map_err(Stop::Fault);
        }
        // Guests are much code, and so is what else is ready: behind it, responses find what the one before left in caches.
        turn::gather().await;
        if run.seen.borrow().closed || run.exchange.reason() == Reason::DownstreamAborted {
            // What a filter closed has no response (Envoy), nor has what a client has left; what ends it for whoever waits passes no filter.
            return Ok(());
        }
        let Response { head, body } = response;
        let bare = body.is_end() || head.is_bodiless(&self.method) && body.length() != Length::Tunnel;
        run.answered(std::mem::take(head), bare);
        let passed = back(run, response).await;
        passed.map_err(|fault| {
            // What is sent instead passes no filter again.
            self.answered = true;
            self.stop(fault)
        })
    }

    /// Ready when a filter ends the exchange while something else is waited for.
    pub fn poll_stopped(&self, cx: &Context<'_>) -> Poll<Fault> {
        self.run.as_ref().map_or(Poll::Pending, |run| run.poll_noted(cx))
    }

    /// What a fault means here: a filter that answers by itself ends whatever was going on, and its answer counts.
    pub fn stop(&self, fault: Fault) -> Stop {
        if let Some(run) = &self.run {
            run.ours.set(true);
            if matches!(fault.reason, Reason::FilterTrap | Reason::FilterTimeout | Reason::FilterUnavailable) {
                // What a filter said before it died would cut off the answer that there is instead.
                run.seen.borrow_mut().reply = None;
            }
        }
        let Some(run) = self.run.as_ref().filter(|_| fault.reason == Reason::FilterReset) else {
            return Stop::Fault(fault);
        };
        let (reply, last) = {
            let mut seen = run.seen.borrow_mut();
            let reply = if seen.closed { None } else { seen.reply.take() };
            seen.details = reply.as_ref().map(|reply| reply.details.clone());
            (reply, seen.stages.len().checked_sub(1))
        };
        match (reply, last) {
            (Some(reply), Some(last)) => {
                run.said(last, Outcome::Reply);
                run.exchange.replied(&reply.details);
                Stop::Reply(Box::new(local_reply(*reply, self.grpc)))
            }
            _ => Stop::Fault(fault),
        }
    }

    /// This head is sent instead of that which passed the filters; their log callbacks read it.
    pub fn replaced(&self, head: &mut Shared<ResponseHead>) {
        if let Some(run) = self.run.as_ref().filter(|run| !run.tcp) {
            run.seen.borrow_mut().replace_response(head.share());
        }
    }

    /// What a filter has closed has no response (Envoy): this one, which is there for its account, breaks off before its head is written,
    /// also where gRPC has a fault told without content.
    pub fn cut(&self, body: &mut Body) {
        if self.run.as_ref().is_some_and(|run| !run.tcp && run.closed()) {
            let fault = Fault::new(Reason::FilterReset).detail("a filter closed the stream");
            *body = broken(fault, Length::Unknown);
        }
    }

    /// What observes the response: the exchange, and the filters, which want to know of its end.
    pub fn observer(self, exchange: Rc<Exchange>) -> Rc<dyn Observer> {
        match self.run {
            None => exchange,
            Some(run) => run,
        }
    }
}

/// What follows the head of a request, for filters.
fn flow(run: &Rc<Run>, request: &mut Request, expects: bool) -> Box<Flow> {
    let mut flow = Flow::new(run, Half::Request, &mut request.body);
    if expects {
        flow.expects(&request.interim);
    }
    flow
}

/// Has a response, whose head is with the filters, pass them.
async fn back(run: &Rc<Run>, response: &mut Response) -> Result<(), Fault> {
    if run.answer(&mut response.body)? {
        response.head = passed_head(run)?;
        return Ok(());
    }
    let gone = run.has_gone(Half::Response);
    let tunnel = response.body.length() == Length::Tunnel;
    let mut flow = None;
    if !gone || !run.goes_by(Half::Response) {
        flow = Some(Flow::new(run, Half::Response, &mut response.body));
    }
    if let Some(flow) = flow.as_mut().filter(|_| !gone) {
        flow.head().await?;
    }
    response.head = passed_head(run)?;
    let Some(flow) = flow else { return Ok(()) };
    if response.head.is_without_content() && !tunnel && !run.goes_by(Half::Response) {
        flow.withhold(&mut response.body);
    } else if let Some(length) = flow.body(&response.head.headers, &mut response.body)? {
        response.head.headers.insert(header::CONTENT_LENGTH, length);
    }
    Ok(())
}

/// The head of the response, as filters have left it; the log callbacks may still read it.
fn passed_head(run: &Run) -> Result<Shared<ResponseHead>, Fault> {
    let head = run.seen.borrow().response.as_ref().map(|response| Rc::clone(&response.head));
    Ok(head.ok_or_else(|| lost("response"))?.into())
}

fn lost(what: &str) -> Fault {
    Fault::new(Reason::ProxyInternalError).detail(format!("the filters lost the {what}"))
}

/// The answer that a guest made (`proxy_send_local_response`), as Envoy sends it, but never one that cannot be sent.
fn local_reply(reply: Reply, grpc: bool) -> Response {
    let Reply { status, details: _, body, headers, grpc_status } = reply;
    let status =
        u16::try_from(status).ok().and_then(|s| StatusCode::from_u16(s).ok()).filter(|s| !s.is_informational());
    let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut head = ResponseHead::new(status);
    let mut broken = guest::Broken::default();
    for (name, value) in headers.iter().filter(|(name, _)| !name.starts_with(b":") && name != b"content-length") {
        guest::append(&mut head.headers, &mut broken, name, value);
    }
    if let Some(broken) = broken.take() {
        tracing::warn!(target: "filter", broken, "a field of a local reply was left out");
    }
    if grpc {
        let code = grpc_status.unwrap_or_else(|| grpc::of_http(status));
        head.status = StatusCode::OK;
        head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        head.headers.insert(grpc::STATUS, HeaderValue::from(code));
        if !body.is_empty() {
            head.headers.insert(grpc::MESSAGE, percent_encoded(&body));
        }
        return Response { head: head.into(), body: Body::empty(body::Half::Response) };
    }
    if body.is_empty() {
        // The type of no content.
        head.headers.remove(header::CONTENT_TYPE);
    }
    let bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if body.is_empty() || bodiless {
        return Response { head: head.into(), body: Body::empty(body::Half::Response) };
    }
    if !head.headers.contains_key(header::CONTENT_TYPE) {
        head.headers.append(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    Response::whole(head, Bytes::from(body))
}

/// Text in `grpc-message` (gRPC over HTTP/2, "Percent-Encoded").
fn percent_encoded(text: &[u8]) -> HeaderValue {
    let mut out = String::with_capacity(text.len());
    for byte in text {
        match byte {
            b' '..=b'~' if *byte != b'%' => out.push(*byte as char),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    HeaderValue::try_from(out).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u32, body: &str, headers: &[(&str, &str)]) -> Reply {
        let headers = headers.iter().map(|(n, v)| (n.as_bytes().to_vec(), v.as_bytes().to_vec())).collect();
        Reply { status, details: Vec::new(), body: body.into(), headers, grpc_status: None }
    }

    #[test]
    fn local_replies_are_whole_messages() {
        let head = |r: Reply| local_reply(r, false).head;
        assert_eq!(head(reply(403, "no", &[])).headers[header::CONTENT_TYPE], "text/plain");
        assert_eq!(head(reply(403, "no", &[("content-type", "a/b")])).headers[header::CONTENT_TYPE], "a/b");
        for (given, sent) in [(0, 500), (100, 500), (1000, 500), (204, 204)] {
            assert_eq!(head(reply(given, "", &[])).status.as_u16(), sent);
        }
        assert!(local_reply(reply(204, "body", &[]), false).body.is_end());
        let hostile = head(reply(
            200,
            "",
            &[("a", "b\r\nc: d"), ("content-length", "99"), ("transfer-encoding", "chunked"), (":status", "500")],
        ));
        assert!(hostile.headers.is_empty(), "{hostile:?}");
    }

    #[test]
    fn a_grpc_caller_gets_grpcs_words() {
        let response = local_reply(reply(403, "no such\nkey", &[]), true);
        assert_eq!(
            (response.head.status, &response.head.headers["grpc-status"]),
            (StatusCode::OK, &HeaderValue::from(7))
        );
        assert_eq!(response.head.headers["grpc-message"], "no such%0Akey");
        assert!(response.body.is_end());
    }
}
