//! gRPC calls to other services: messages are bytes, encoded by whatever library the filter uses.

use std::fmt;
use std::time::Duration;

use crate::backend::{Backend, Host};
use crate::call::{CALL_TIMEOUT, NOT_TAKEN, Told, pending};
use crate::headers::{is_header_name, is_header_value};
use crate::reply::Reply;

/// One gRPC message for one, to a service on Lacis, to a cluster on Envoy.
///
/// ```
/// # use lacis_sdk::{GrpcCall, GrpcError};
/// # async fn check(request: Vec<u8>) -> Result<Vec<u8>, GrpcError> {
/// GrpcCall::new("authz", "envoy.service.auth.v3.Authorization", "Check").message(request).send().await
/// # }
/// ```
#[must_use = "a call is made with `send`"]
#[derive(Clone, Debug)]
pub struct GrpcCall {
    unary: Unary,
    /// Why it is not made.
    invalid: Option<&'static str>,
}

/// A call as a host takes it.
#[derive(Clone, Debug)]
pub(crate) struct Unary {
    pub(crate) upstream: String,
    pub(crate) service: String,
    pub(crate) method: String,
    pub(crate) metadata: Vec<(String, Vec<u8>)>,
    pub(crate) message: Vec<u8>,
    pub(crate) timeout: Duration,
}

impl GrpcCall {
    /// A call of a method of a gRPC service (with its package), sent to `upstream`. Without a name for that none is made.
    pub fn new(upstream: &str, service: &str, method: &str) -> Self {
        let (metadata, message, timeout) = (Vec::new(), Vec::new(), CALL_TIMEOUT);
        let [upstream, service, method] = [upstream, service, method].map(str::to_owned);
        // Envoy takes an empty name for a description of a service, and aborts because nothing stands in it.
        let invalid = upstream.is_empty().then_some("it has no name");
        Self { unary: Unary { upstream, service, method, metadata, message, timeout }, invalid }
    }

    /// Sets the message, encoded.
    pub fn message(mut self, message: impl Into<Vec<u8>>) -> Self {
        self.unary.message = message.into();
        self
    }

    /// Adds metadata. With a name or value that cannot stand in a message the call is not made.
    pub fn metadata(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        if !is_header_name(name) || !is_header_value(value.as_ref()) {
            self.invalid = Some("its metadata cannot stand in a message");
        }
        self.unary.metadata.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    /// How long the answer may take, in place of [`CALL_TIMEOUT`]; at least 1 ms.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.unary.timeout = timeout.max(Duration::from_millis(1));
        self
    }

    /// Makes the call and waits for the message that answers it. If the future is dropped, the call is cancelled.
    ///
    /// # Errors
    ///
    /// [`GrpcError`] with the status, if that is not `OK`. A call that could not be made is 14 (`UNAVAILABLE`).
    pub async fn send(self) -> Result<Vec<u8>, GrpcError> {
        let Self { unary, invalid } = self;
        let told = match invalid {
            Some(_) => None,
            None => pending(|| Host::grpc_call(&unary), Host::cancel_grpc).await,
        };
        let upstream = unary.upstream;
        match told {
            Some(Told::Message(message)) => Ok(message),
            Some(Told::Closed(code)) => Err(GrpcError { upstream, code, refused: None }),
            Some(Told::Answer(_)) | None => {
                Err(GrpcError { upstream, code: UNAVAILABLE, refused: Some(invalid.unwrap_or(NOT_TAKEN)) })
            }
        }
    }
}

const UNAVAILABLE: u32 = 14;

/// How a gRPC call failed. As a [`Reply`] it is 503, with the detail in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrpcError {
    upstream: String,
    code: u32,
    /// Why it was not made.
    refused: Option<&'static str>,
}

impl GrpcError {
    /// The gRPC status, 1 to 16; other numbers are a server's own.
    pub fn code(&self) -> u32 {
        self.code
    }
}

impl fmt::Display for GrpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { upstream, code, refused } = self;
        match refused {
            Some(why) => write!(f, "{upstream} could not be called: {why}"),
            None => write!(f, "the call to {upstream} ended with gRPC status {code}"),
        }
    }
}

impl std::error::Error for GrpcError {}

impl From<GrpcError> for Reply {
    fn from(error: GrpcError) -> Self {
        crate::warn!("{error}");
        Reply::new(503)
    }
}
