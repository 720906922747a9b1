//! The filters of one listener, in order, and the passage of one exchange through them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, StatusCode};
use lacis_host::{Half, Reply};

use super::exchange::Exchange;
use super::flow::Flow;
use super::grpc;
use super::guest::{self, GuestRequest, GuestResponse};
use super::machine::Machines;
use super::run::Run;
use super::seen::Seen;
use super::wasm::{Compiled, Filter};
use super::world::NodeFacts;
use crate::fault::{Fault, Reason};
use crate::http::body::{self, Length, Observer};
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
    /// Filters without a module that fail closed, and what is said of them.
    missing: BTreeMap<usize, Arc<str>>,
}

impl Plan {
    /// `filters` by their place in the configuration, none where no listener uses it; then the order on each side.
    pub fn new(filters: Vec<Option<Arc<Compiled>>>, outbound: Vec<usize>, inbound: Vec<usize>) -> Self {
        Plan { filters, outbound, inbound, missing: BTreeMap::new() }
    }

    /// The filter at this place of the configuration cannot be had yet, and must not be passed by without it: what has to
    /// pass it is refused. One that fails open needs no word: it is none of `filters`.
    pub fn miss(&mut self, filter: usize, why: &str) {
        self.missing.insert(filter, why.into());
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
    /// One of its filters is missing, and nothing passes without it.
    missing: Option<Arc<str>>,
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
            missing: order.iter().find_map(|i| plan.missing.get(i).cloned()),
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
        self.filters.is_empty() && self.missing.is_none()
    }

    /// Begins the passage of an exchange.
    pub fn open(&self) -> Passage<'_> {
        Passage { chain: self, run: None, grpc: false, method: Method::GET, answered: false }
    }

    /// Whether a filter has callbacks for more than the heads of a half.
    fn sees(&self, half: Half) -> bool {
        self.filters.iter().any(|filter| filter.sees(half))
    }
}

/// One exchange on its way through the filters. Nothing where there are none.
pub struct Passage<'c> {
    chain: &'c Chain,
    run: Option<Rc<Run>>,
    grpc: bool,
    method: Method,
    /// A response that must not pass the filters any more.
    answered: bool,
}

impl Passage<'_> {
    /// The request goes through the filters in order. What comes back is its head as they left it, and a body that
    /// passes them while it is read.
    ///
    /// # Errors
    /// If one of them answers by itself, or fails closed, or leaves a message that cannot be sent.
    pub async fn request(&mut self, exchange: &Rc<Exchange>, request: Request) -> Result<Request, Stop> {
        if let Some(why) = &self.chain.missing {
            return Err(Fault::new(Reason::FilterUnavailable).detail(why.to_string()).into());
        }
        if self.chain.filters.is_empty() {
            return Ok(request);
        }
        let Request { head, body, interim } = request;
        (self.grpc, self.method) = (head.is_grpc(), head.method.clone());
        let bare = body.is_end();
        let expects = !bare && head.headers.contains_key(header::EXPECT);
        let head = GuestRequest::new(head, !bare && self.chain.sees(Half::Request));
        let seen = Seen::new(exchange, &self.chain.node, head, self.chain.filters.len());
        let run = Rc::new(Run {
            filters: Rc::clone(&self.chain.filters),
            exchange: Rc::clone(exchange),
            seen: Rc::new(RefCell::new(seen)),
            ours: Cell::new(false),
        });
        self.run = Some(Rc::clone(&run));
        let mut flow = Flow::new(&run, Half::Request, body, bare);
        if expects {
            flow.expects(&interim);
        }
        flow.head().await.map_err(|fault| self.stop(fault))?;
        // The log callback may still read the request; upstream gets it now.
        let head = run.seen.borrow().request.as_ref().map(|request| request.head.clone());
        let mut head = head.ok_or_else(|| lost("request"))?;
        if expects && flow.has_asked() {
            head.headers.remove(header::EXPECT);
        }
        let body = flow.body(&mut head.headers)?;
        Ok(Request { head, body, interim })
    }

    /// The response goes back through those filters that have seen the request, last first.
    ///
    /// # Errors
    /// As for the request.
    pub async fn response(&mut self, response: Response) -> Result<Response, Stop> {
        let Some(run) = self.run.clone().filter(|_| !self.answered) else { return Ok(response) };
        let Response { head, body } = response;
        let bare = body.is_end() || head.is_bodiless(&self.method) && body.length() != Length::Tunnel;
        run.seen.borrow_mut().response = Some(GuestResponse::new(head, !bare && self.chain.sees(Half::Response)));
        let mut flow = Flow::new(&run, Half::Response, body, bare);
        let passed = match flow.head().await {
            Ok(()) => {
                let head = run.seen.borrow().response.as_ref().map(|response| response.head.clone());
                head.ok_or_else(|| lost("response"))
                    .and_then(|mut head| flow.body(&mut head.headers).map(|body| Response { head, body }))
            }
            Err(fault) => Err(fault),
        };
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
        }
        let Some(run) = self.run.as_ref().filter(|_| fault.reason == Reason::FilterReset) else {
            return Stop::Fault(fault);
        };
        let (reply, last) = {
            let mut seen = run.seen.borrow_mut();
            let reply = if seen.closed { None } else { seen.reply.take() };
            (reply, seen.stages.len().checked_sub(1))
        };
        match (reply, last) {
            (Some(reply), Some(last)) => {
                run.said(last, Outcome::Reply);
                Stop::Reply(Box::new(local_reply(reply, self.grpc)))
            }
            _ => Stop::Fault(fault),
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
    let mut broken = None;
    for (name, value) in headers.iter().filter(|(name, _)| !name.starts_with(b":") && name != b"content-length") {
        guest::append(&mut head.headers, &mut broken, name, value);
    }
    if let Some(broken) = broken {
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
        return Response { head, body: Body::empty(body::Half::Response) };
    }
    let bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if body.is_empty() || bodiless {
        return Response { head, body: Body::empty(body::Half::Response) };
    }
    head.headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static("text/plain"));
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
