//! The words that label metrics: closed sets, interned names, and the keys made of them.

mod cause;

use std::fmt::Write as _;
use std::hash::Hash;

pub use super::keys::*;
pub use super::names::{MAX_NAMES, NameId, Names};
pub(super) use super::names::{escape, label};
use crate::fault::Reason;

pub use cause::Cause;

/// The values of one metric's labels, small enough to be hashed for every request.
pub trait Labels: Copy + Eq + Hash {
    /// The names of the labels, in the order in which they are shown.
    const NAMES: &'static [&'static str];
    /// Appends `name="value",…`.
    fn write(&self, names: &Names, out: &mut String);
}

/// One label's value.
pub trait Label: Copy {
    /// Appends the value, escaped as it stands between the quotes.
    fn write(self, names: &Names, out: &mut String);
}

macro_rules! words {
    ($($(#[doc = $doc:literal])+ pub enum $name:ident { $($(#[doc = $word_doc:literal])+ $word:ident = $token:literal,)+ })+) => { $(
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[doc = $word_doc])+ $word,)+ }

        impl $name {
            /// Every value, in order of declaration.
            pub const ALL: &[$name] = &[$($name::$word,)+];

            /// The value as metrics and access records show it.
            pub const fn token(self) -> &'static str {
                match self { $($name::$word => $token,)+ }
            }
        }

        impl Label for $name {
            fn write(self, _: &Names, out: &mut String) {
                out.push_str(self.token());
            }
        }
    )+ };
}

words! {
    /// Which way a request or connection goes.
    pub enum Direction {
        /// From a peer to our application.
        Inbound = "inbound",
        /// From our application to a peer.
        Outbound = "outbound",
    }

    /// What a connection or request speaks on the side named by the metric.
    pub enum Protocol {
        /// HTTP/1.0 or HTTP/1.1.
        Http1 = "http1",
        /// HTTP/2.
        H2 = "h2",
        /// HTTP/3.
        H3 = "h3",
        /// Opaque bytes.
        Tcp = "tcp",
    }

    /// What carries a request between sidecars.
    pub enum Link {
        /// No link was involved: the request ended before it had one.
        None = "none",
        /// HTTP/1.1 over TLS.
        H1 = "h1",
        /// HTTP/2 over TLS.
        H2 = "h2",
        /// HTTP/3 over QUIC.
        H3 = "h3",
        /// HTTP without TLS, as configured.
        Plaintext = "plaintext",
    }

    /// The request methods that have a label of their own (RFC 9110 section 9.3, RFC 5789).
    pub enum Method {
        /// CONNECT
        Connect = "CONNECT",
        /// DELETE
        Delete = "DELETE",
        /// GET
        Get = "GET",
        /// HEAD
        Head = "HEAD",
        /// OPTIONS
        Options = "OPTIONS",
        /// PATCH
        Patch = "PATCH",
        /// POST
        Post = "POST",
        /// PUT
        Put = "PUT",
        /// TRACE
        Trace = "TRACE",
        /// Any other: extension methods are chosen by strangers, so they share a label.
        Other = "other",
    }

    /// The first digit of a status.
    pub enum StatusClass {
        /// Nothing was sent, or not a status.
        None = "none",
        /// Informational; as the final one only 101.
        Informational = "1xx",
        /// Success.
        Success = "2xx",
        /// Redirection.
        Redirection = "3xx",
        /// Client error.
        ClientError = "4xx",
        /// Server error.
        ServerError = "5xx",
    }

    /// How a filter left one request.
    pub enum Outcome {
        /// It let the request go on.
        Continue = "continue",
        /// It answered by itself.
        Reply = "reply",
        /// It trapped.
        Trap = "trap",
        /// It used up its time.
        Timeout = "timeout",
    }

    /// What became of a request that came to a filter while that was away.
    pub enum Away {
        /// It passed without the filter, which fails open.
        Skipped = "skipped",
        /// It was refused, for the filter fails closed.
        Refused = "refused",
    }

    /// What a filter reached, or wanted without being allowed. The first ones are named as in `limits`.
    pub enum Limit {
        /// A message that it holds back, or an answer to a call of its own.
        Buffer = "buffer",
        /// Calls under way, and what they send.
        Calls = "calls",
        /// Log lines in a second.
        LogLines = "log_lines",
        /// Linear memory.
        Memory = "memory",
        /// Metrics that it defines.
        Metrics = "metrics",
        /// Shared queues, and what waits in one.
        Queues = "queues",
        /// Shared data.
        SharedData = "shared_data",
        /// Elements of a table.
        Table = "table",
        /// Time of all ticks together.
        Ticks = "ticks",
        /// Time of a callback.
        Time = "time",
        /// A body as it has changed it.
        Body = "body",
        /// Headers and properties that it wrote for one exchange.
        Headers = "headers",
        /// A host function that it is not allowed.
        Function = "function",
        /// A call to a service that it is not allowed.
        Service = "service",
    }

    /// How a call that a filter made ended.
    pub enum CallResult {
        /// There was a whole answer, whatever it says.
        Answered = "answered",
        /// No answer in the time that the filter gave.
        Timeout = "timeout",
        /// The answer is larger than the filter may receive.
        TooLarge = "too_large",
        /// No answer, or none to its end.
        Failed = "failed",
        /// The filter, or the end of its VM, has cancelled it.
        Cancelled = "cancelled",
    }

    /// What health checks say of an endpoint.
    pub enum Checked {
        /// It is well.
        Healthy = "healthy",
        /// It is not.
        Unhealthy = "unhealthy",
        /// It was not checked yet.
        Unknown = "unknown",
    }

    /// How a health check ended.
    pub enum Check {
        /// As it should.
        Success = "success",
        /// With another answer, or none.
        Failure = "failure",
        /// Not in time.
        Timeout = "timeout",
    }

    /// A callback of a filter.
    pub enum Callback {
        /// The begin or the end of its context.
        Context = "context",
        /// A request's head.
        RequestHeaders = "request_headers",
        /// A piece of a request's body.
        RequestBody = "request_body",
        /// A request's trailers.
        RequestTrailers = "request_trailers",
        /// A response's head.
        ResponseHeaders = "response_headers",
        /// A piece of a response's body.
        ResponseBody = "response_body",
        /// A response's trailers.
        ResponseTrailers = "response_trailers",
        /// The begin or the end of a connection.
        Connection = "connection",
        /// Bytes of the client of a connection.
        DownstreamData = "downstream_data",
        /// Bytes of the server of a connection.
        UpstreamData = "upstream_data",
        /// The log phase.
        Log = "log",
        /// A tick, an item of a shared queue, or what came of a call of its own.
        Aside = "aside",
    }

    /// What a rule of authorization says of a request.
    pub enum Authorization {
        /// It lets it in.
        Allow = "allow",
        /// It refuses it.
        Deny = "deny",
        /// It would let it in, were it no dry run; nothing else does.
        WouldAllow = "would_allow",
        /// It would refuse it, were it no dry run.
        WouldDeny = "would_deny",
    }

    /// What became of a changed configuration.
    pub enum Reload {
        /// It is in use.
        Accepted = "accepted",
        /// It is wrong; the previous one stays in use.
        Rejected = "rejected",
    }

    /// What says where services are.
    pub enum Origin {
        /// The DNS.
        Dns = "dns",
        /// A file of endpoints.
        File = "file",
    }

    /// What came of asking where services are.
    pub enum Discovered {
        /// They are elsewhere.
        Changed = "changed",
        /// They are where they were.
        Same = "same",
        /// No answer, or a wrong one; what was known stays.
        Failed = "failed",
    }

    /// What became of a request that was sent beside another.
    pub enum Hedged {
        /// Its answer was the first good one.
        Won = "won",
        /// Another was, and it was cancelled.
        Lost = "lost",
        /// It had no good answer.
        Failed = "failed",
        /// It was not sent: the budget is used up.
        Refused = "refused",
    }

    /// What became of a copy of a request.
    pub enum Mirrored {
        /// It was answered, which nobody sees.
        Answered = "answered",
        /// It was not answered.
        Failed = "failed",
        /// It was not sent: too many are under way.
        Refused = "refused",
        /// It was not sent: its body is longer than what is kept of one.
        TooLarge = "too_large",
    }

    /// Which certificate.
    pub enum Certificate {
        /// The workload's own leaf.
        Leaf = "certificate",
        /// The authority of the trust bundle that expires first.
        TrustBundle = "trust_bundle",
    }
}

impl From<&http::Method> for Method {
    fn from(method: &http::Method) -> Self {
        match method.as_str() {
            "CONNECT" => Method::Connect,
            "DELETE" => Method::Delete,
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "OPTIONS" => Method::Options,
            "PATCH" => Method::Patch,
            "POST" => Method::Post,
            "PUT" => Method::Put,
            "TRACE" => Method::Trace,
            _ => Method::Other,
        }
    }
}

impl From<u16> for StatusClass {
    fn from(status: u16) -> Self {
        match status / 100 {
            1 => StatusClass::Informational,
            2 => StatusClass::Success,
            3 => StatusClass::Redirection,
            4 => StatusClass::ClientError,
            5 => StatusClass::ServerError,
            _ => StatusClass::None,
        }
    }
}

/// An HTTP status; 0 where nothing was sent (as Istio shows it).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Status(pub u16);

impl Label for Status {
    fn write(self, _: &Names, out: &mut String) {
        // Writing to a String cannot fail.
        let _ = write!(out, "{}", self.0);
    }
}

impl Label for Reason {
    fn write(self, _: &Names, out: &mut String) {
        out.push_str(self.token());
    }
}

/// How a handshake ended: `ok`, or the reason why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handshake(pub Result<(), Reason>);

impl Label for Handshake {
    fn write(self, _: &Names, out: &mut String) {
        out.push_str(self.0.map_or_else(|reason| reason.token(), |()| "ok"));
    }
}

impl Labels for () {
    const NAMES: &'static [&'static str] = &[];

    fn write(&self, _: &Names, _: &mut String) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_of_http_has_its_own_label() {
        for method in Method::ALL.iter().filter(|&&method| method != Method::Other) {
            let http = http::Method::from_bytes(method.token().as_bytes()).unwrap();
            assert_eq!(Method::from(&http), *method);
        }
        for stranger in ["get", "BREW", "PROPFIND"] {
            assert_eq!(Method::from(&http::Method::from_bytes(stranger.as_bytes()).unwrap()), Method::Other);
        }
    }

    #[test]
    fn status_classes() {
        for (status, token) in
            [(0, "none"), (101, "1xx"), (200, "2xx"), (304, "3xx"), (499, "4xx"), (599, "5xx"), (600, "none")]
        {
            assert_eq!(StatusClass::from(status).token(), token);
        }
    }

    #[test]
    fn label_values_are_escaped() {
        let mut names = Names::default();
        let destination = names.id("a\\b\"c\nd");
        let mut out = String::new();
        CauseKey { destination, cause: Cause::Status(503) }.write(&names, &mut out);
        assert_eq!(out, r#"destination="a\\b\"c\nd",cause="503""#);
    }
}
