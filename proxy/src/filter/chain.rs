//! The filters of one listener, in order, and the passage of one exchange through them.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use lacis_host::{Half, HeadersAction, Reply};

use super::exchange::Exchange;
use super::guest::{self, GuestRequest, GuestResponse};
use super::machine::Machines;
use super::seen::{Seen, resumed};
use super::wasm::{Compiled, Filter, Place};
use super::world::NodeFacts;
use crate::fault::{Fault, Reason};
use crate::http::body::{self, Observer};
use crate::http::{Body, Request, Response, ResponseHead};
use crate::telemetry::labels::Outcome;

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

/// The filters of both sides, compiled: what workers make their chains of.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    filters: Vec<Option<Arc<Compiled>>>,
    outbound: Vec<usize>,
    inbound: Vec<usize>,
}

impl Plan {
    /// `filters` by their place in the configuration, none where no listener uses it; then the order on each side.
    pub fn new(filters: Vec<Option<Arc<Compiled>>>, outbound: Vec<usize>, inbound: Vec<usize>) -> Self {
        Plan { filters, outbound, inbound }
    }

    /// The filters that are used.
    pub fn filters(&self) -> impl Iterator<Item = &Arc<Compiled>> {
        self.filters.iter().flatten()
    }
}

/// The filters of one listener in one worker.
pub struct Chain {
    filters: Rc<[Rc<Filter>]>,
    node: Rc<NodeFacts>,
}

impl Chain {
    /// The chains of the outbound and the inbound side, their plugins started. A filter that is on both is one filter.
    ///
    /// # Errors
    /// Why a plugin that is new does not run, one to a line. The chains can be used all the same: requests follow the failure policy.
    pub fn both(plan: &Plan, machines: &Machines, generation: u64) -> (Chain, Chain, Result<(), String>) {
        let make = |compiled| machines.filter(compiled, generation);
        let filters: Vec<_> = plan.filters.iter().map(|filter| filter.as_ref().map(make)).collect();
        let failures: Vec<_> = filters.iter().flatten().filter_map(|filter| filter.ready(generation).err()).collect();
        let chain = |order: &[usize]| Chain {
            filters: order.iter().filter_map(|i| filters.get(*i)?.clone()).collect(),
            node: Rc::clone(machines.node()),
        };
        let ready = if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) };
        (chain(&plan.outbound), chain(&plan.inbound), ready)
    }

    /// Takes the filters into use by a generation.
    pub fn used_by(&self, generation: u64) {
        self.filters.iter().for_each(|filter| filter.used_by(generation));
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.filters.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }

    /// Begins the passage of an exchange.
    pub fn open(&self, exchange: &Rc<Exchange>) -> Passage {
        if self.filters.is_empty() {
            return Passage(None);
        }
        Passage(Some(Box::new(Run {
            filters: Rc::clone(&self.filters),
            exchange: Rc::clone(exchange),
            node: Rc::clone(&self.node),
            seen: None,
            places: Vec::with_capacity(self.filters.len()),
            grpc: false,
            method: Method::GET,
            answered: false,
        })))
    }
}

/// One exchange on its way through the filters. Nothing where there are none.
pub struct Passage(Option<Box<Run>>);

struct Run {
    filters: Rc<[Rc<Filter>]>,
    exchange: Rc<Exchange>,
    node: Rc<NodeFacts>,
    seen: Option<Rc<RefCell<Seen>>>,
    /// The contexts that are open, in the order of the filters, and which filter each belongs to.
    places: Vec<(usize, Place)>,
    grpc: bool,
    method: Method,
    /// A response that must not pass the filters any more.
    answered: bool,
}

impl Passage {
    /// The request goes through the filters in order.
    ///
    /// # Errors
    /// If one of them answers by itself, or fails closed, or leaves a message that cannot be sent.
    pub async fn request(&mut self, request: Request) -> Result<Request, Stop> {
        match &mut self.0 {
            None => Ok(request),
            Some(run) => run.request(request).await,
        }
    }

    /// The response goes back through those filters that have seen the request, last first.
    ///
    /// # Errors
    /// As for the request.
    pub async fn response(&mut self, response: Response) -> Result<Response, Stop> {
        match &mut self.0 {
            None => Ok(response),
            Some(run) if run.answered => Ok(response),
            Some(run) => run.response(response).await,
        }
    }

    /// What observes the response: the exchange, and the filters, which want to know of its end.
    pub fn observer(self, exchange: Rc<Exchange>) -> Rc<dyn Observer> {
        match self.0 {
            None => exchange,
            Some(run) => Rc::new(Tail { exchange, _run: run }),
        }
    }
}

impl Run {
    async fn request(&mut self, request: Request) -> Result<Request, Stop> {
        let Request { head, body, interim } = request;
        self.grpc = head.is_grpc();
        self.method = head.method.clone();
        let end = body.is_end();
        let seen = Rc::new(RefCell::new(Seen::new(&self.exchange, &self.node, GuestRequest::new(head))));
        self.seen = Some(Rc::clone(&seen));
        for (number, filter) in Rc::clone(&self.filters).iter().enumerate() {
            let start = Instant::now();
            let Some(place) = filter.open(Rc::clone(&seen) as _)? else { continue };
            self.places.push((number, place));
            let count = seen.borrow().request.as_ref().map_or(0, GuestRequest::count);
            let outcome = self.step(filter, place, &seen, Half::Request, count, end).await;
            self.verdict(filter, &outcome, start.elapsed());
            outcome?;
            let checked = seen.borrow_mut().request.as_mut().map_or(Ok(()), GuestRequest::check);
            checked.map_err(|why| invalid(filter, why))?;
        }
        // The log callback may still read the request; upstream gets it now.
        let head = seen.borrow().request.as_ref().map(|request| request.head.clone());
        let head = head.ok_or_else(|| Fault::new(Reason::ProxyInternalError).detail("the filters lost the request"))?;
        Ok(Request { head, body, interim })
    }

    async fn response(&mut self, response: Response) -> Result<Response, Stop> {
        let Some(seen) = self.seen.clone() else { return Ok(response) };
        let Response { head, body } = response;
        let end = body.is_end() || head.is_bodiless(&self.method);
        seen.borrow_mut().response = Some(GuestResponse::new(head));
        for (number, place) in self.places.clone().into_iter().rev() {
            let Some(filter) = self.filters.get(number).cloned() else { continue };
            let count = seen.borrow().response.as_ref().map_or(0, GuestResponse::count);
            let outcome = self.step(&filter, place, &seen, Half::Response, count, end).await;
            if outcome.is_err() {
                // What is sent instead passes no filter again.
                self.answered = true;
            }
            outcome?;
            let checked = seen.borrow_mut().response.as_mut().map_or(Ok(()), GuestResponse::check);
            if let Err(why) = checked {
                self.answered = true;
                return Err(invalid(&filter, why).into());
            }
        }
        let head = seen.borrow().response.as_ref().map(|response| response.head.clone());
        let head =
            head.ok_or_else(|| Fault::new(Reason::ProxyInternalError).detail("the filters lost the response"))?;
        Ok(Response { head, body })
    }

    /// One callback of one filter, and the wait if it pauses.
    async fn step(
        &self,
        filter: &Filter,
        place: Place,
        seen: &Rc<RefCell<Seen>>,
        half: Half,
        count: u32,
        end: bool,
    ) -> Result<(), Stop> {
        seen.borrow_mut().expect(half);
        let action = filter.on_headers(place, half, count, end)?;
        self.noted(seen)?;
        if action == Some(HeadersAction::Pause) {
            resumed(seen, half).await;
            self.noted(seen)?;
        }
        Ok(())
    }

    /// What the guest wished to happen.
    fn noted(&self, seen: &RefCell<Seen>) -> Result<(), Stop> {
        let mut seen = seen.borrow_mut();
        if let Some(reply) = seen.reply.take() {
            return Err(Stop::Reply(Box::new(local_reply(reply, self.grpc))));
        }
        match seen.closed {
            true => Err(Fault::new(Reason::ConnectionTerminated).detail("a filter closed the stream").into()),
            false => Ok(()),
        }
    }

    fn verdict(&self, filter: &Filter, outcome: &Result<(), Stop>, took: Duration) {
        let said = match outcome {
            Ok(()) => Outcome::Continue,
            Err(Stop::Reply(_)) => Outcome::Reply,
            // Counted where it was noticed.
            Err(Stop::Fault(_)) => return,
        };
        self.exchange.verdict(filter.said(said, took));
    }
}

impl Drop for Run {
    /// The exchange is over: all log, then all go (Envoy's order).
    fn drop(&mut self) {
        for (number, place) in &self.places {
            if let Some(filter) = self.filters.get(*number) {
                filter.log(*place);
            }
        }
        for (number, place) in &self.places {
            if let Some(filter) = self.filters.get(*number) {
                filter.close(*place);
            }
        }
    }
}

fn invalid(_: &Filter, why: String) -> Fault {
    Fault::new(Reason::FilterInvalid).detail(why)
}

/// The answer that a guest made (`proxy_send_local_response`), as Envoy sends it, but never one that cannot be sent.
fn local_reply(reply: Reply, grpc: bool) -> Response {
    let Reply { status, details: _, body, headers, grpc_status } = reply;
    let status =
        u16::try_from(status).ok().and_then(|s| StatusCode::from_u16(s).ok()).filter(|s| !s.is_informational());
    let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut head = ResponseHead::new(status);
    let mut broken = None;
    for (name, value) in headers.iter().filter(|(name, _)| !name.starts_with(b":") && name != b"content-length") {
        guest::append(&mut head.headers, &mut broken, name, value);
    }
    if let Some(broken) = broken {
        tracing::warn!(target: "filter", broken, "a field of a local reply was left out");
    }
    if grpc {
        let code = grpc_status.unwrap_or_else(|| grpc_code(status));
        head.status = StatusCode::OK;
        head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        head.headers.insert(HeaderName::from_static("grpc-status"), HeaderValue::from(code));
        if !body.is_empty() {
            head.headers.insert(HeaderName::from_static("grpc-message"), percent_encoded(&body));
        }
        return Response { head, body: Body::empty(body::Half::Response) };
    }
    let bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if body.is_empty() || bodiless {
        return Response { head, body: Body::empty(body::Half::Response) };
    }
    head.headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static("text/plain"));
    Response::whole(head, Bytes::from(body))
}

/// The gRPC code for an HTTP status (grpc/doc/http-grpc-status-mapping.md).
fn grpc_code(status: StatusCode) -> u32 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
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

/// Observes a response for its exchange, and ends the filters' part after it.
struct Tail {
    exchange: Rc<Exchange>,
    _run: Box<Run>,
}

impl Observer for Tail {
    fn data(&self, half: body::Half, bytes: usize) {
        self.exchange.data(half, bytes);
    }

    fn trailers(&self, half: body::Half, trailers: &HeaderMap) {
        self.exchange.trailers(half, trailers);
    }

    fn end(&self, half: body::Half, outcome: Option<Result<(), &Fault>>) {
        self.exchange.end(half, outcome);
    }

    fn poll_idle(&self, cx: &mut Context<'_>) -> Poll<Fault> {
        self.exchange.poll_idle(cx)
    }
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
