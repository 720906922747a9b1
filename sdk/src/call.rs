//! Calls to other services.

use std::cell::RefCell;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::backend::{Backend, Host};
use crate::headers::{Value, is_header_name, is_header_value};
use crate::reply::Reply;
use crate::task::{self, Root};

/// How long a call may take unless it says so: a filter that waits longer keeps callers waiting for nothing.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Hosts do not say why.
pub(crate) const NOT_TAKEN: &str =
    "the proxy did not take it (it has no such service, none that this filter may call, or too many calls at once)";

/// A request that the filter sends itself: to a service on Lacis, to a cluster on Envoy, by its name there.
///
/// ```
/// use std::time::Duration;
/// use lacis_sdk::testing::{Answer, Message, Plugin};
/// use lacis_sdk::{Call, ConfigError, Filter, Flow, Reply, Request};
///
/// struct Ask;
/// impl Filter for Ask {
///     type Config = ();
///     fn new(_: ()) -> Result<Self, ConfigError> {
///         Ok(Self)
///     }
///     async fn on_request(&self, request: &mut Request) -> Result<Flow, Reply> {
///         let call = Call::get("users", "/who").timeout(Duration::from_millis(200));
///         let answer = call.header("x-path", request.path()).send().await?.success()?;
///         request.headers_mut().set("x-user", answer.body())?;
///         Ok(Flow::Continue)
///     }
/// }
///
/// let plugin = Plugin::<Ask>::configure("")?;
/// plugin.on_call("users", |_| Answer::new(200).body("alice"));
/// let passed = plugin.exchange().request(Message::get("/")).unwrap();
/// assert_eq!(passed.value("x-user").unwrap(), "alice");
/// # Ok::<(), String>(())
/// ```
#[must_use = "a call is made with `send`"]
#[derive(Clone, Debug)]
pub struct Call {
    outgoing: Outgoing,
    invalid: Option<String>,
}

/// A call as a host takes it.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    pub(crate) service: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) timeout: Duration,
}

impl Call {
    /// A call without a body. The path may have a query. `:authority` is the service's name.
    pub fn new(method: &str, service: &str, path: &str) -> Self {
        let head = [(":method", method), (":path", path), (":authority", service), (":scheme", "http")];
        let headers = head.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let outgoing = Outgoing { service: service.to_owned(), headers, body: Vec::new(), timeout: CALL_TIMEOUT };
        let fits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        let invalid = [method, path].into_iter().find(|text| !fits(text)).map(|text| format!("{text:?}"));
        Self { outgoing, invalid }
    }

    /// A GET.
    pub fn get(service: &str, path: &str) -> Self {
        Self::new("GET", service, path)
    }

    /// A POST.
    pub fn post(service: &str, path: &str) -> Self {
        Self::new("POST", service, path)
    }

    /// Adds a header. With one that cannot stand in a message, or is not UTF-8, the call is not made.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        match std::str::from_utf8(value.as_ref()) {
            Ok(value) if is_header_name(name) && is_header_value(value.as_bytes()) => {
                self.outgoing.headers.push((name.to_owned(), value.to_owned()));
            }
            _ => self.invalid = Some(format!("the header {name:?}")),
        }
        self
    }

    /// Sets the authority, where it is not the service's name.
    pub fn authority(mut self, authority: &str) -> Self {
        if authority.is_empty() || !authority.bytes().all(|byte| byte.is_ascii_graphic()) {
            self.invalid = Some(format!("the authority {authority:?}"));
        } else if let Some((_, value)) = self.outgoing.headers.iter_mut().find(|(name, _)| name == ":authority") {
            authority.clone_into(value);
        }
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.outgoing.body = body.into();
        self
    }

    /// How long the answer may take, in place of [`CALL_TIMEOUT`]; at least 1 ms.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.outgoing.timeout = timeout.max(Duration::from_millis(1));
        self
    }

    /// Makes the call and waits for the answer. If the future is dropped, the answer is of no interest to anyone; the
    /// call itself cannot be taken back.
    ///
    /// # Errors
    ///
    /// [`CallError`] if it could not be made, or no answer came. A proxy tells a service that cannot be reached as an
    /// answer 503, and one that takes too long as 504: [`Answer::success`] makes errors of these.
    pub async fn send(self) -> Result<Answer, CallError> {
        let Self { outgoing, invalid } = self;
        let service = &outgoing.service;
        if let Some(what) = invalid {
            return Err(CallError::new(service, CallErrorKind::Refused(format!("{what} cannot stand in a message"))));
        }
        match pending(|| Host::call(&outgoing), |_| {}).await {
            None => Err(CallError::new(service, CallErrorKind::Refused(NOT_TAKEN.to_owned()))),
            Some(Told::Answer(answer)) if !answer.headers.is_empty() => {
                Ok(Answer { service: outgoing.service, ..answer })
            }
            Some(_) => Err(CallError::new(service, CallErrorKind::NoAnswer)),
        }
    }
}

/// The answer to a [`Call`].
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub(crate) service: String,
    pub(crate) headers: Vec<(String, Value)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, Value)>,
}

impl Answer {
    /// Its status; 0 if the host shows none.
    pub fn status(&self) -> u16 {
        self.header(":status").and_then(Value::parse).unwrap_or(0)
    }

    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&Value> {
        self.headers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// All headers in their order, `:status` included.
    pub fn headers(&self) -> &[(String, Value)] {
        &self.headers
    }

    /// The body.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The trailers in their order.
    pub fn trailers(&self) -> &[(String, Value)] {
        &self.trailers
    }

    /// The body read as JSON.
    ///
    /// # Errors
    ///
    /// If it is not JSON, or not of this type.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, CallError> {
        let wrong = |error: serde_json::Error| CallError::new(&self.service, CallErrorKind::Content(error.to_string()));
        serde_json::from_slice(&self.body).map_err(wrong)
    }

    /// The answer, if its status is 200 to 299.
    ///
    /// # Errors
    ///
    /// If it is another one.
    pub fn success(self) -> Result<Self, CallError> {
        match self.status() {
            200..=299 => Ok(self),
            status => Err(CallError::new(&self.service, CallErrorKind::Status(status))),
        }
    }
}

/// Why a call has no answer, or none that is of use. As a [`Reply`] it is 503, with the detail in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallError {
    service: String,
    kind: CallErrorKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum CallErrorKind {
    Refused(String),
    NoAnswer,
    Status(u16),
    Content(String),
}

impl CallError {
    fn new(service: &str, kind: CallErrorKind) -> Self {
        Self { service: service.to_owned(), kind }
    }

    /// The status, if there was an answer and that was what was wrong with it.
    pub fn status(&self) -> Option<u16> {
        match self.kind {
            CallErrorKind::Status(status) => Some(status),
            _ => None,
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let service = &self.service;
        match &self.kind {
            CallErrorKind::Refused(why) => write!(f, "{service} could not be called: {why}"),
            CallErrorKind::NoAnswer => write!(f, "{service} did not answer"),
            CallErrorKind::Status(status) => write!(f, "{service} answered with status {status}"),
            CallErrorKind::Content(error) => write!(f, "{service} answered what was not expected: {error}"),
        }
    }
}

impl std::error::Error for CallError {}

impl From<CallError> for Reply {
    fn from(error: CallError) -> Self {
        crate::warn!("{error}");
        Reply::new(503)
    }
}

/// What a host tells of a call.
#[derive(Debug)]
#[cfg_attr(target_family = "wasm", expect(unreachable_pub, reason = "a part of `testing`"))]
pub enum Told {
    /// The answer to an HTTP call; without headers there is none.
    Answer(Answer),
    /// The message that answers a gRPC call.
    Message(Vec<u8>),
    /// The status other than 0 with which a gRPC call has ended.
    Closed(u32),
}

/// Where what is told is kept until the caller is run.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    told: Option<Told>,
    waker: Option<Waker>,
}

impl Root {
    /// The host has an answer to a call of this plugin; it is made only if somebody waits for it.
    pub(crate) fn told(&self, token: u32, told: impl FnOnce() -> Told) {
        let slot = self.calls.borrow_mut().remove(token);
        if let Some(slot) = slot {
            let waker = {
                let slot = &mut *slot.borrow_mut();
                slot.told = Some(told());
                slot.waker.take()
            };
            waker.into_iter().for_each(Waker::wake);
        }
    }
}

/// Begins a call and waits for what is told of it; none if the host did not take it.
pub(crate) async fn pending(begin: impl FnOnce() -> Option<u32>, cancel: fn(u32)) -> Option<Told> {
    let root = task::current()?;
    if root.is_configuring() {
        // A moment later it is in use, or was tried only.
        crate::time::sleep(Duration::ZERO).await;
    }
    let token = begin()?;
    let slot = Rc::default();
    root.calls.borrow_mut().insert(token, Rc::clone(&slot));
    Pending { root, token, slot, cancel }.await
}

struct Pending {
    root: Rc<Root>,
    token: u32,
    slot: Rc<RefCell<Slot>>,
    cancel: fn(u32),
}

impl Future for Pending {
    type Output = Option<Told>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let slot = &mut *self.slot.borrow_mut();
        match slot.told.take() {
            Some(told) => Poll::Ready(Some(told)),
            None => {
                slot.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let waiting = self.root.calls.borrow_mut().remove(self.token);
        if waiting.is_some() {
            (self.cancel)(self.token);
        }
    }
}
