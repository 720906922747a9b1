//! Why an exchange failed: one vocabulary for the wire, the metrics and the access log.
//!
//! A [`Fault`] is made where the failure happens and shown in one place (`mesh/reply.rs`). What a reader of it needs
//! (whose fault, may it be repeated) is data; nothing is ever recovered by downcasting.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

/// Whose side failed, as seen from this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client of this hop: the application on the outbound side, the peer sidecar on the inbound side.
    Downstream,
    /// The server of this hop: the peer sidecar on the outbound side, the application on the inbound side.
    Upstream,
    /// This process: its limits, its policy, its configuration, a filter.
    Proxy,
}

/// Whether the same request may be sent again elsewhere without the risk that it is carried out twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Nothing of the request can have been processed (RFC 9110 section 9.2.2, RFC 9113 section 8.7, RFC 9114 section 4.1.1).
    Safe,
    /// Parts of it may have been processed, or a repetition would fail the same way.
    Unsafe,
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $token:literal, $rfc:literal, $status:literal, $grpc:literal, $flag:literal, $details:literal, $side:ident, $retry:ident;)+) => {
        /// The cause of a failure. Alphabetical; where RFC 9209 (Proxy-Status) has a token, it is used.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Reason { $($(#[doc = $doc])+ $name,)+ }

        impl Reason {
            /// Every reason, in order of declaration.
            pub const ALL: &[Reason] = &[$(Reason::$name,)+];

            /// The row of the one table that says what a reason means everywhere.
            pub const fn row(self) -> &'static Row {
                match self { $(Reason::$name => &Row { token: $token, proxy_status: $rfc, status: $status, grpc: $grpc,
                    flag: $flag, details: $details, side: Side::$side, retry: Retry::$retry },)+ }
            }
        }
    };
}

/// What one [`Reason`] means to each of its readers.
#[derive(Debug)]
pub struct Row {
    /// Metric label and access-log field.
    pub token: &'static str,
    /// The `error` parameter of `proxy-status` (RFC 9209 section 2.3).
    pub proxy_status: &'static str,
    /// HTTP status of the answer.
    pub status: u16,
    /// gRPC status code of the answer (0 to 16).
    pub grpc: u8,
    /// Envoy's response flag, for dashboards that read those.
    pub flag: &'static str,
    /// Envoy's response code details, or ours in the same style.
    pub details: &'static str,
    /// Whose side failed.
    pub side: Side,
    /// Whether a repetition is safe.
    pub retry: Retry,
}

reasons! {
    /// Too many requests to the service failed, or were answered late: it is given a rest.
    BreakerOpen = "breaker_open", "destination_unavailable", 503, 14, "UO", "breaker_open", Proxy, Unsafe;
    /// The link or the application connection could not be opened: nobody listens.
    ConnectionRefused = "connection_refused", "connection_refused", 503, 14, "UF", "upstream_reset_before_response_started{connection_failure}", Upstream, Safe;
    /// The server closed or reset before the response was complete.
    ConnectionTerminated = "connection_terminated", "connection_terminated", 502, 14, "UC", "upstream_reset_before_response_started{connection_termination}", Upstream, Unsafe;
    /// The link or the application connection was not open within `timeouts.connect`.
    ConnectionTimeout = "connection_timeout", "connection_timeout", 504, 14, "UF", "upstream_reset_before_response_started{connection_timeout}", Upstream, Safe;
    /// A filter held back more of a request than it may (RFC 9110 section 15.5.14).
    ContentTooLarge = "content_too_large", "http_request_error", 413, 8, "", "request_payload_too_large", Proxy, Unsafe;
    /// No service has this host name, or none of the rules of its routes is for this request.
    DestinationNotFound = "destination_not_found", "destination_not_found", 404, 12, "NR", "route_not_found", Proxy, Unsafe;
    /// The service has no endpoint that could take the request.
    DestinationUnavailable = "destination_unavailable", "destination_unavailable", 503, 14, "UH", "no_healthy_upstream", Upstream, Safe;
    /// Nobody could say where the service is: DNS did not answer, or knows no address (RFC 9209 section 2.3.2).
    DnsError = "dns_error", "dns_error", 503, 14, "DF", "dns_resolution_failure", Upstream, Safe;
    /// The client went away before the response was complete. Nobody reads this answer.
    DownstreamAborted = "downstream_aborted", "http_request_error", 499, 1, "DC", "downstream_remote_disconnect", Downstream, Unsafe;
    /// This process ended before the response was complete: its deadline for draining passed, or it was told to end at
    /// once. Nobody reads this answer.
    Draining = "draining", "proxy_internal_response", 503, 14, "OM", "draining", Proxy, Unsafe;
    /// The answer is one on purpose: the configuration says that some requests fail (`fault.abort`).
    FaultInjected = "fault_injected", "proxy_internal_response", 503, 14, "FI", "fault_filter_abort", Proxy, Unsafe;
    /// A filter left a message that cannot be sent: an invalid field, or a pseudo-header removed.
    FilterInvalid = "filter_invalid", "proxy_internal_error", 500, 13, "", "wasm_invalid_message", Proxy, Unsafe;
    /// A filter ended the stream, or answered where no answer could be sent any more.
    FilterReset = "filter_reset", "connection_terminated", 502, 14, "", "wasm_close_stream", Proxy, Unsafe;
    /// A filter's virtual machine could not be made, or is being replaced, and the filter fails closed.
    FilterUnavailable = "filter_unavailable", "proxy_internal_error", 503, 14, "", "wasm_fail_stream", Proxy, Unsafe;
    /// A filter ran longer than its time limit and fails closed.
    FilterTimeout = "filter_timeout", "proxy_internal_error", 503, 14, "", "wasm_timeout", Proxy, Unsafe;
    /// A filter trapped and fails closed.
    FilterTrap = "filter_trap", "proxy_internal_error", 503, 14, "", "wasm_fail_stream", Proxy, Unsafe;
    /// The protocol of the link was violated by the server.
    HttpProtocolError = "http_protocol_error", "http_protocol_error", 502, 13, "UPE", "upstream_protocol_error", Upstream, Unsafe;
    /// The identity of the caller may not call this service.
    HttpRequestDenied = "http_request_denied", "http_request_denied", 403, 7, "UAEX", "rbac_access_denied", Proxy, Unsafe;
    /// The request is malformed.
    HttpRequestError = "http_request_error", "http_request_error", 400, 13, "DPE", "http1.codec_error", Downstream, Unsafe;
    /// A filter held back more of a response than it may.
    HttpResponseBodySize = "http_response_body_size", "http_response_body_size", 500, 13, "", "response_payload_too_large", Proxy, Unsafe;
    /// The head of the response is larger than the limit.
    HttpResponseHeaderSectionSize = "http_response_header_section_size", "http_response_header_section_size", 502, 13, "UPE", "upstream_header_section_size", Upstream, Unsafe;
    /// The response ended before it was complete.
    HttpResponseIncomplete = "http_response_incomplete", "http_response_incomplete", 502, 13, "UC", "upstream_response_incomplete", Upstream, Unsafe;
    /// The server did not answer within `timeouts.request`.
    HttpResponseTimeout = "http_response_timeout", "http_response_timeout", 504, 4, "UT", "response_timeout", Upstream, Unsafe;
    /// A limit of the service is used up: requests in flight, or requests that wait for a connection.
    LimitReached = "limit_reached", "connection_limit_reached", 503, 14, "UO", "upstream_reset_before_response_started{overflow}", Proxy, Unsafe;
    /// No failure.
    None = "none", "", 200, 0, "", "via_upstream", Proxy, Unsafe;
    /// A bound of the whole sidecar is reached: requests in flight, memory, or what the system lets it open.
    Overload = "overload", "proxy_internal_response", 503, 14, "OM", "overload", Proxy, Unsafe;
    /// The server did not answer within `retries.per_try_timeout`, and the request was not sent again.
    PerTryTimeout = "per_try_timeout", "http_response_timeout", 504, 4, "UT", "upstream_per_try_timeout", Upstream, Unsafe;
    /// The route that a request follows leads nowhere: none of its backends has a weight.
    ProxyConfigurationError = "proxy_configuration_error", "proxy_configuration_error", 500, 13, "NC", "route_without_backend", Proxy, Unsafe;
    /// A defect or an exhausted resource of this process.
    ProxyInternalError = "proxy_internal_error", "proxy_internal_error", 500, 13, "", "internal_error", Proxy, Unsafe;
    /// A rate limit is used up (RFC 6585 section 4).
    RateLimited = "rate_limited", "http_request_denied", 429, 8, "RL", "local_rate_limited", Proxy, Unsafe;
    /// The server refused the stream before it processed anything of it.
    RefusedStream = "refused_stream", "connection_limit_reached", 503, 14, "UR", "upstream_reset_before_response_started{refused_stream}", Upstream, Safe;
    /// The request body ended before it was complete.
    RequestIncomplete = "request_incomplete", "http_request_error", 400, 13, "DPE", "downstream_request_incomplete", Downstream, Unsafe;
    /// The head of the request is larger than the limit, or has too many fields (RFC 6585 section 5).
    RequestHeaderSectionSize = "request_header_section_size", "http_request_error", 431, 8, "DPE", "request_header_section_size", Downstream, Unsafe;
    /// The client did not send its request in time (RFC 9110 section 15.5.9).
    RequestTimeout = "request_timeout", "http_request_error", 408, 4, "SI", "stream_idle_timeout", Downstream, Unsafe;
    /// Nothing moved on the stream for `timeouts.idle`.
    StreamIdleTimeout = "stream_idle_timeout", "connection_read_timeout", 504, 4, "SI", "stream_idle_timeout", Upstream, Unsafe;
    /// The server reset the stream.
    StreamReset = "stream_reset", "connection_terminated", 502, 14, "UR", "upstream_reset_before_response_started{remote_reset}", Upstream, Unsafe;
    /// The exchange was not over within `timeouts.stream`.
    StreamTimeout = "stream_timeout", "http_response_timeout", 504, 4, "UMSDR", "upstream_max_stream_duration_reached", Upstream, Unsafe;
    /// The peer's certificate was not acceptable: wrong authority, expired, or not the identity asked for.
    TlsCertificateError = "tls_certificate_error", "tls_certificate_error", 503, 14, "UF", "upstream_reset_before_response_started{tls_certificate_error}", Upstream, Safe;
    /// The TLS handshake failed for another cause.
    TlsProtocolError = "tls_protocol_error", "tls_protocol_error", 503, 14, "UF", "upstream_reset_before_response_started{tls_protocol_error}", Upstream, Safe;
    /// The request target is longer than the limit (RFC 9110 section 15.5.15).
    UriTooLong = "uri_too_long", "http_request_error", 414, 13, "DPE", "uri_too_long", Downstream, Unsafe;
    /// The client asked for a method or transfer coding that is not spoken here (RFC 9112 section 6.1).
    UnsupportedRequest = "unsupported_request", "http_request_error", 501, 12, "DPE", "unsupported_request", Downstream, Unsafe;
    /// The client speaks a version of HTTP that is not spoken here (RFC 9110 section 15.6.6).
    UnsupportedVersion = "unsupported_version", "http_request_error", 505, 12, "DPE", "unsupported_version", Downstream, Unsafe;
}

impl Reason {
    /// Metric label and access-log field.
    pub const fn token(self) -> &'static str {
        self.row().token
    }

    /// Envoy's `response_code_details`, which tell whether a response had `begun` that was broken off.
    pub fn details(self, begun: bool) -> Cow<'static, str> {
        let details = self.row().details;
        match details.strip_prefix("upstream_reset_before_response_started") {
            Some(why) if begun => format!("upstream_reset_after_response_started{why}").into(),
            _ => details.into(),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.token())
    }
}

/// A failure on its way to the one place that answers it.
///
/// The outside learns only what [`Reason`] fixes; `source` and `detail` are for the log.
#[derive(Debug)]
pub struct Fault {
    /// The cause.
    pub reason: Reason,
    /// May the request be sent again? Starts as the reason's own answer and can only become safer by proof
    /// (a GOAWAY below the stream) or less safe by it (a body that was consumed).
    pub retry: Retry,
    /// When to try again, if that is known.
    pub wait: Option<Duration>,
    /// How many requests the limit allows that refused it, if one did.
    pub quota: Option<NonZeroU32>,
    detail: Option<Box<str>>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Fault {
    /// A fault of this reason, with the reason's own word on retries.
    pub fn new(reason: Reason) -> Self {
        Fault { reason, retry: reason.row().retry, wait: None, quota: None, detail: None, source: None }
    }

    /// Adds what happened, for the log only.
    #[must_use]
    pub fn detail(mut self, text: impl Into<Box<str>>) -> Self {
        self.detail = Some(text.into());
        self
    }

    /// Adds the error that caused it, for the log only.
    #[must_use]
    pub fn from(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Says when to try again.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = Some(wait);
        self
    }

    /// Says how many requests the limit allows that refused it.
    #[must_use]
    pub fn quota(mut self, quota: Option<NonZeroU32>) -> Self {
        self.quota = quota;
        self
    }

    /// Replaces the word on retries.
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// Whose side failed.
    pub fn side(&self) -> Side {
        self.reason.row().side
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason.token())?;
        if let Some(detail) = &self.detail {
            write!(f, ": {detail}")?;
        }
        let mut cause: Option<&(dyn StdError + 'static)> = self.source.as_deref().map(|e| e as _);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl StdError for Fault {}
