//! Calls that filters make themselves: HTTP, gRPC calls and gRPC streams, to services of the configuration.
//!
//! Each is a task of the worker. What comes of it is told to the guest from that task, when no guest runs.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::time::Duration;

use http::header::{self, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, StatusCode};
use lacis_host::abi::Status;
use lacis_host::{CallId, CallOut, GrpcCall, GrpcEvent, HttpAnswer, HttpCall, Lines, RootId, limits};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};

use super::grpc::{self, Messages, Outbox, Verdict};
use super::guest::{self, GuestResponse, GuestTrailers};
use super::machine::Machine;
use crate::drain::Drain;
use crate::fault::{Fault, Reason};
use crate::http::body::{Frame, Half, Length, Source};
use crate::http::head::{RequestHead, ResponseHead, Version};
use crate::http::{Body, Fields, Interim, Request, Response, rules};
use crate::telemetry::labels::{CallResult, NameId};
use crate::telemetry::metrics::Metrics;

/// Sends requests that no application asked for. What the mesh is, filters do not know.
pub trait Upstreams {
    /// Whether there is a service of this name.
    fn has(&self, service: &str) -> bool;

    /// Sends a request to a service, by its own balancing and links, and waits for the head of its response. Boxed,
    /// because it is a rare way; no such service is a fault.
    fn send(&self, service: &str, request: Request) -> Sent;
}

/// A request under way.
pub type Sent = Pin<Box<dyn Future<Output = Result<Response, Fault>>>>;

/// What filters can reach. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Reach(Rc<RefCell<Reachable>>);

#[derive(Default)]
struct Reachable {
    /// The services of the generation in use, last, and those of earlier ones for as long as an exchange runs on them.
    all: Vec<(Rc<dyn Upstreams>, Drain)>,
    /// Those of the generation whose filters start now.
    starting: Option<Rc<dyn Upstreams>>,
}

impl Reach {
    /// Adds those of a generation that comes into use, and its exchanges.
    pub(super) fn add(&self, upstreams: Rc<dyn Upstreams>, exchanges: Drain) {
        let all = &mut self.0.borrow_mut().all;
        all.retain(|(_, exchanges)| exchanges.guards() > 0);
        all.push((upstreams, exchanges));
    }

    /// See [`Machines::starting`](super::machine::Machines::starting).
    pub(super) fn starting(&self, upstreams: Option<Rc<dyn Upstreams>>) {
        self.0.borrow_mut().starting = upstreams;
    }

    /// Lets go of earlier ones that no exchange runs on any more.
    pub(super) fn sweep(&self) {
        let all = &mut self.0.borrow_mut().all;
        let newest = all.pop();
        all.retain(|(_, exchanges)| exchanges.guards() > 0);
        all.extend(newest);
    }

    /// The newest that have this service.
    fn with(&self, service: &str) -> Option<Rc<dyn Upstreams>> {
        let Reachable { all, starting } = &*self.0.borrow();
        let newest = starting.iter().chain(all.iter().rev().map(|(upstreams, _)| upstreams));
        newest.into_iter().find(|upstreams| upstreams.has(service)).map(Rc::clone)
    }
}

/// The calls of one VM.
pub(super) struct Calls {
    reach: Reach,
    owner: Weak<Machine>,
    /// Most bytes of an answer, or of one message of it.
    limit: usize,
    metrics: Rc<Metrics>,
    flying: HashMap<CallId, Flying, foldhash::fast::RandomState>,
}

pub(super) struct Flying {
    filter: NameId,
    destination: NameId,
    task: AbortHandle,
    outbox: Option<Outbox>,
}

impl Calls {
    /// None yet.
    pub(super) fn new(reach: &Reach, owner: &Weak<Machine>, limit: usize, metrics: &Rc<Metrics>) -> Self {
        let (reach, owner, metrics) = (reach.clone(), owner.clone(), Rc::clone(metrics));
        Calls { reach, owner, limit, metrics, flying: HashMap::default() }
    }

    /// See [`lacis_host::World::call_out`].
    pub(super) fn begin(&mut self, plugin: &str, id: CallId, root: RootId, call: CallOut) -> Result<(), Status> {
        let (CallOut::Http(HttpCall { upstream, .. })
        | CallOut::Grpc(GrpcCall { upstream, .. })
        | CallOut::GrpcStream(GrpcCall { upstream, .. })) = &call;
        let upstreams = self.reach.with(upstream).ok_or(Status::NotFound)?;
        let (filter, destination) = (self.metrics.name(plugin), self.metrics.name(upstream));
        let invalid = |why: String| {
            tracing::warn!(target: "filter", filter = plugin, why, "a call that cannot be made");
            Status::InternalFailure
        };
        let (owner, limit) = (self.owner.clone(), self.limit);
        let mut outbox = None;
        let task = match call {
            CallOut::Http(call) => {
                let (service, timeout) = (call.upstream.clone(), call.timeout);
                let request = http_request(call).map_err(invalid)?;
                tokio::task::spawn_local(async move {
                    let (answer, result) = http(upstreams.send(&service, request), timeout, limit).await;
                    if let Some(machine) = owner.upgrade() {
                        machine.http_called(root, id, answer, result);
                    }
                })
            }
            CallOut::Grpc(mut call) => {
                let (service, timeout) = (call.upstream.clone(), call.timeout);
                let body = Body::bytes(Half::Request, grpc::framed(&std::mem::take(&mut call.message)));
                let request = grpc_request(call, body).map_err(invalid)?;
                tokio::task::spawn_local(async move {
                    let mut message = None;
                    let close = grpc(upstreams.send(&service, request), timeout, limit, |event| {
                        if let GrpcEvent::Message(one) = event {
                            message = Some(one);
                        }
                    });
                    let (verdict, result) = close.await;
                    let event = match (verdict, message) {
                        (Verdict { status: 0, .. }, Some(message)) => GrpcEvent::Message(message),
                        // Envoy: success without a message is none.
                        (Verdict { status: 0, .. }, None) => Verdict::new(grpc::INTERNAL, "").into(),
                        (verdict, _) => verdict.into(),
                    };
                    if let Some(machine) = owner.upgrade() {
                        machine.grpc_event(root, id, event, Some(result));
                    }
                })
            }
            CallOut::GrpcStream(call) => {
                let (service, timeout) = (call.upstream.clone(), call.timeout);
                let own = Outbox::default();
                let body = Body::source(Half::Request, Source::Made(Box::new(own.clone())), Length::Unknown);
                outbox = Some(own);
                let request = grpc_request(call, body).map_err(invalid)?;
                tokio::task::spawn_local(async move {
                    let tell = |event, last| {
                        if let Some(machine) = owner.upgrade() {
                            machine.grpc_event(root, id, event, last);
                        }
                    };
                    let sent = upstreams.send(&service, request);
                    let (mut initial, mut trailing) = (false, false);
                    let closed = grpc(sent, timeout, limit, |event| {
                        initial |= matches!(event, GrpcEvent::InitialMetadata(_));
                        trailing |= matches!(event, GrpcEvent::TrailingMetadata(_));
                        tell(event, None);
                    });
                    let (verdict, result) = closed.await;
                    // However it ends, Envoy tells of metadata before, and where none came of none.
                    let none = || Box::new(GuestTrailers::default());
                    if !initial {
                        tell(GrpcEvent::InitialMetadata(none()), None);
                    }
                    if !trailing {
                        tell(GrpcEvent::TrailingMetadata(none()), None);
                    }
                    tell(verdict.into(), Some(result));
                })
            }
        };
        self.flying.insert(id, Flying { filter, destination, task: task.abort_handle(), outbox });
        Ok(())
    }

    /// See [`lacis_host::World::call_send`].
    pub(super) fn send(&mut self, id: CallId, message: Option<Vec<u8>>, end: bool) -> Result<(), Status> {
        let outboxes = || self.flying.values().filter_map(|flying| flying.outbox.as_ref());
        let outbox = self.flying.get(&id).and_then(|flying| flying.outbox.as_ref()).ok_or(Status::NotFound)?;
        let size = message.as_ref().map_or(0, Vec::len);
        if size > 0 && size + outboxes().map(Outbox::waiting).sum::<usize>() > limits::CALL_BYTES {
            return Err(Status::BadArgument);
        }
        outbox.push(message.as_deref(), end).then_some(()).ok_or(Status::BadArgument)
    }

    /// See [`lacis_host::World::call_cancel`].
    pub(super) fn cancel(&mut self, id: CallId) {
        if let Some(flying) = self.over(id, CallResult::Cancelled) {
            flying.task.abort();
        }
    }

    /// Ends all of them: their VM is dead, and the next one counts anew.
    pub(super) fn clear(&mut self) {
        let ids: Vec<_> = self.flying.keys().copied().collect();
        ids.into_iter().for_each(|id| self.cancel(id));
    }

    /// A call has ended, and how is counted.
    pub(super) fn over(&mut self, id: CallId, result: CallResult) -> Option<Flying> {
        let flying = self.flying.remove(&id)?;
        self.metrics.filter_call(flying.filter, flying.destination, result);
        Some(flying)
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Sends, and collects the whole response. `None` where Envoy tells of a reset: the response began and did not end.
async fn http(sent: Sent, timeout: Option<Duration>, limit: usize) -> (Option<HttpAnswer>, CallResult) {
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    match within(deadline, sent).await {
        Some(Ok(response)) => match whole(response, deadline, limit).await {
            Ok(answer) => (Some(answer), CallResult::Answered),
            Err(result) => (None, result),
        },
        Some(Err(fault)) => (Some(made(StatusCode::SERVICE_UNAVAILABLE, &reset_text(&fault))), CallResult::Failed),
        None => (Some(made(StatusCode::GATEWAY_TIMEOUT, "upstream request timeout")), CallResult::Timeout),
    }
}

async fn whole(response: Response, deadline: Option<Instant>, limit: usize) -> Result<HttpAnswer, CallResult> {
    let Response { head, mut body } = response;
    let mut content = Vec::new();
    let mut trailers = None;
    while let Some(frame) = within(deadline, body.frame()).await.ok_or(CallResult::Timeout)? {
        match frame.map_err(|_| CallResult::Failed)? {
            Frame::Data(data) if content.len() + data.len() > limit => {
                tracing::warn!(target: "filter", limit, "the answer to a filter's call is larger than limits.buffer");
                return Err(CallResult::TooLarge);
            }
            Frame::Data(data) => content.extend_from_slice(&data),
            Frame::Trailers(fields) => trailers = Some(fields),
        }
    }
    Ok(HttpAnswer {
        headers: Box::new(GuestResponse::new(head, false)),
        body: content,
        trailers: trailers.map(|fields| Box::new(GuestTrailers::new(fields)) as _),
    })
}

/// Sends, tells what comes, and how it ended.
async fn grpc(
    sent: Sent,
    timeout: Option<Duration>,
    limit: usize,
    mut tell: impl FnMut(GrpcEvent),
) -> (Verdict, CallResult) {
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let late = || (Verdict::new(grpc::UNAVAILABLE, "upstream request timeout"), CallResult::Timeout);
    let failed = |code, text: &str| (Verdict::new(code, text), CallResult::Failed);
    let Response { head, mut body } = match within(deadline, sent).await {
        Some(Ok(response)) => response,
        Some(Err(fault)) => return failed(grpc::UNAVAILABLE, &reset_text(&fault)),
        None => return late(),
    };
    let trailing = |fields: Fields, tell: &mut dyn FnMut(GrpcEvent)| {
        let verdict = Verdict::read(&fields);
        tell(GrpcEvent::TrailingMetadata(Box::new(GuestTrailers::new(fields))));
        (verdict.unwrap_or_else(|| Verdict::new(grpc::UNKNOWN, "")), CallResult::Answered)
    };
    if head.status != StatusCode::OK {
        return (Verdict::new(grpc::of_http(head.status), ""), CallResult::Answered);
    }
    if head.headers.contains_key(grpc::STATUS) {
        // "Trailers-Only": as Envoy, after initial metadata of nothing.
        tell(GrpcEvent::InitialMetadata(Box::new(GuestTrailers::default())));
        return trailing(head.take().headers, &mut tell);
    }
    tell(GrpcEvent::InitialMetadata(Box::new(GuestResponse::new(head, false))));
    let mut messages = Messages::new(limit);
    loop {
        match within(deadline, body.frame()).await {
            Some(Some(Ok(Frame::Data(data)))) => {
                messages.push(data);
                loop {
                    match messages.next() {
                        Ok(Some(message)) => tell(GrpcEvent::Message(message)),
                        Ok(None) => break,
                        Err(verdict) if verdict.status == grpc::RESOURCE_EXHAUSTED => {
                            return (verdict, CallResult::TooLarge);
                        }
                        Err(verdict) => return (verdict, CallResult::Failed),
                    }
                }
            }
            Some(Some(Ok(Frame::Trailers(fields)))) => return trailing(fields, &mut tell),
            Some(Some(Err(fault))) => return failed(grpc::UNAVAILABLE, fault.reason.token()),
            // No trailers are told as empty ones.
            Some(None) => return trailing(Fields::new(), &mut tell),
            None => return late(),
        }
    }
}

/// `None` when it takes too long.
async fn within<T>(deadline: Option<Instant>, future: impl Future<Output = T>) -> Option<T> {
    match deadline {
        Some(deadline) => timeout_at(deadline, future).await.ok(),
        None => Some(future.await),
    }
}

/// An answer as a proxy makes it for a server that gives none.
fn made(status: StatusCode, text: &str) -> HttpAnswer {
    let mut head = ResponseHead::new(status);
    head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(text.len()));
    head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    HttpAnswer { headers: Box::new(GuestResponse::new(head.into(), false)), body: text.into(), trailers: None }
}

/// What Envoy says of it; filters read that text.
fn reset_text(fault: &Fault) -> String {
    let why = match fault.reason {
        Reason::DestinationUnavailable => return "no healthy upstream".into(),
        Reason::ConnectionRefused | Reason::TlsCertificateError | Reason::TlsProtocolError => {
            "remote connection failure"
        }
        Reason::ConnectionTimeout => "connection timeout",
        Reason::StreamReset => "remote reset",
        Reason::RefusedStream => "remote refused stream reset",
        Reason::HttpProtocolError => "protocol error",
        _ => "connection termination",
    };
    format!("upstream connect error or disconnect/reset before headers. reset reason: {why}")
}

fn http_request(call: HttpCall) -> Result<Request, String> {
    let HttpCall { upstream: _, headers, body, trailers, timeout: _ } = call;
    let mut head = head(&headers)?;
    if !body.is_empty() {
        head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    let body = match trailers.is_empty() {
        true => Body::bytes(Half::Request, body.into()),
        false => {
            let length = Length::Known(body.len() as u64);
            let outbox = Outbox::whole(body.into(), fields(&trailers, rules::clean_trailers)?);
            Body::source(Half::Request, Source::Made(Box::new(outbox)), length)
        }
    };
    Ok(Request { head: head.into(), body, interim: Rc::new(Interim::default()) })
}

fn grpc_request(call: GrpcCall, body: Body) -> Result<Request, String> {
    let GrpcCall { upstream, authority, service, method, metadata, message: _, timeout } = call;
    let mut headers = fields(&metadata, |_| ())?;
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    if let Some(timeout) = timeout {
        headers.insert(grpc::TIMEOUT, grpc::timeout(timeout));
    }
    let authority = authority.unwrap_or(upstream);
    let head = RequestHead {
        method: Method::POST,
        authority: Some(guest::authority(authority.as_bytes()).ok_or_else(|| format!("the authority {authority:?}"))?),
        path: path(format!("/{service}/{method}").as_bytes())?,
        https: false,
        headers,
        version: Version::Http2,
        upgrade: None,
    };
    Ok(Request { head: head.into(), body, interim: Rc::new(Interim::default()) })
}

/// A head of a guest's header lines, or what is wrong with them.
fn head(lines: &Lines) -> Result<RequestHead, String> {
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let pseudo = |name: &[u8]| lines.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_slice());
    let method = pseudo(b":method").unwrap_or_default();
    let authority = pseudo(b":authority").or_else(|| pseudo(b"host")).unwrap_or_default();
    let mut headers = fields(lines, |headers| {
        headers.remove(header::CONTENT_LENGTH);
    })?;
    headers.remove(header::HOST);
    let head = RequestHead {
        method: Method::from_bytes(method)
            .ok()
            .filter(|method| method != Method::CONNECT)
            .ok_or_else(|| format!("the method {}", text(method)))?,
        authority: Some(guest::authority(authority).ok_or_else(|| format!("the authority {}", text(authority)))?),
        path: path(pseudo(b":path").unwrap_or_default())?,
        https: pseudo(b":scheme").is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"https")),
        headers,
        version: Version::Http11,
        upgrade: None,
    };
    Ok(head)
}

fn path(path: &[u8]) -> Result<PathAndQuery, String> {
    PathAndQuery::try_from(path)
        .ok()
        .filter(|_| path.starts_with(b"/") || path == b"*")
        .ok_or_else(|| format!("the path {}", String::from_utf8_lossy(path)))
}

/// Fields of a guest's header lines, without pseudo-headers and what belongs to a connection.
fn fields(lines: &Lines, clean: impl FnOnce(&mut Fields)) -> Result<Fields, String> {
    let (mut headers, mut broken) = (Fields::new(), guest::Broken::default());
    for (name, value) in lines.iter().filter(|(name, _)| !name.starts_with(b":")) {
        guest::append(&mut headers, &mut broken, name, value);
    }
    headers.remove(header::TE);
    clean(&mut headers);
    broken.take().map_or(Ok(headers), Err)
}
