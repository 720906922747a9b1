//! Faults become responses here and nowhere else.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderName, HeaderValue};

use super::hop::Hop;
use crate::config::fault::Abort;
use crate::fault::{Fault, Reason, Side};
use crate::filter::chain::Stop;
use crate::filter::exchange::{Conn, Exchange};
use crate::filter::grpc;
use crate::http::body::Half;
use crate::http::head::RequestHead;
use crate::http::{Body, Response, ResponseHead};

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
const GRPC_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// The response that an exchange ends with.
pub(super) fn settle(node: &str, exchange: &Exchange, grpc: bool, outcome: Result<Response, Stop>) -> Response {
    match outcome {
        Ok(response) => response,
        Err(Stop::Reply(response)) => *response,
        Err(Stop::Fault(fault)) => {
            match fault.side() {
                Side::Downstream => tracing::debug!(%fault, "request ended"),
                Side::Proxy if fault.reason == Reason::ProxyInternalError => tracing::error!(%fault, "request failed"),
                Side::Proxy | Side::Upstream => tracing::info!(%fault, "request failed"),
            }
            exchange.failed(&fault);
            response(node, &fault, grpc)
        }
    }
}

/// The answer to a request that could not be read; counted like any other.
pub(super) fn refuse(hop: &Hop, conn: &Rc<Conn>, fault: Fault) -> Response {
    let exchange = hop.open(&hop.generation.borrow(), conn, &RequestHead::unread());
    let mut response = settle(&hop.node, &exchange, false, Err(Stop::Fault(fault)));
    exchange.answered(response.head.status);
    response.body.observe(exchange);
    response
}

/// The account of a request that could not be read, and that a reset has answered.
pub(super) fn reset(hop: &Hop, conn: &Rc<Conn>, fault: &Fault) {
    tracing::debug!(%fault, "request ended");
    hop.open(&hop.generation.borrow(), conn, &RequestHead::unread()).failed(fault);
}

/// An answer on purpose. Who did not ask in gRPC gets a code of it all the same, and who did gets that of a status.
pub(super) fn aborted(node: &str, abort: Abort, grpc: bool) -> Response {
    let mut response = response(node, &Fault::new(Reason::FaultInjected), grpc || matches!(abort, Abort::Grpc(_)));
    match abort {
        Abort::Http(status) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
            if grpc {
                response.head.headers.insert(GRPC_STATUS, HeaderValue::from(grpc::of_http(status)));
            } else {
                response.head.status = status;
            }
        }
        Abort::Grpc(code) => {
            response.head.headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(code)));
        }
    }
    response
}

/// A fault as its caller sees it: the status, `proxy-status` (RFC 9209), and a fixed text; for gRPC a response of
/// headers only with the mapped code (gRPC over HTTP/2, "Trailers-Only").
fn response(node: &str, fault: &Fault, grpc: bool) -> Response {
    let (row, wait) = (fault.reason.row(), fault.wait);
    let mut head = ResponseHead::new(StatusCode::from_u16(row.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR));
    // The node's name is a token or was made one when the configuration was read.
    if let Ok(status) = HeaderValue::try_from(format!("{node}; error={}", row.proxy_status)) {
        head.headers.insert(PROXY_STATUS, status);
    }
    // In whole seconds, and no sooner: zero would have all of them come back at once.
    let seconds = |wait: Duration| u64::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u64::MAX).max(1);
    if let (Some(quota), Some(wait)) = (fault.quota, wait) {
        let fields = [(LIMIT, u64::from(quota.get())), (REMAINING, 0), (RESET, seconds(wait))];
        head.headers.extend(fields.map(|(name, value)| (name, HeaderValue::from(value))));
    }
    if grpc {
        head.status = StatusCode::OK;
        head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        head.headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(row.grpc)));
        head.headers.insert(GRPC_MESSAGE, HeaderValue::from_static(row.token));
        if let Some(wait) = wait {
            let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            head.headers.insert(GRPC_PUSHBACK, HeaderValue::from(millis));
        }
        return Response { head: head.into(), body: Body::empty(Half::Response) };
    }
    if let Some(wait) = wait {
        head.headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds(wait)));
    }
    head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    head.headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Response::whole(head, Bytes::from(format!("{}\n", row.token)))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    #[test]
    fn every_reason_has_an_answer_in_both_vocabularies() {
        for reason in Reason::ALL.iter().filter(|r| **r != Reason::None) {
            let plain = response("delta", &Fault::new(*reason), false);
            assert_eq!(plain.head.status.as_u16(), reason.row().status);
            assert_eq!(plain.head.headers[PROXY_STATUS], format!("delta; error={}", reason.row().proxy_status));
            assert!(!plain.body.is_end());
            let grpc = response("delta", &Fault::new(*reason), true);
            assert_eq!(
                (grpc.head.status, &grpc.head.headers[GRPC_STATUS]),
                (StatusCode::OK, &HeaderValue::from(u16::from(reason.row().grpc)))
            );
            assert!(grpc.body.is_end(), "headers only");
        }
    }

    #[test]
    fn an_answer_on_purpose_is_in_the_callers_words() {
        let told = |abort, grpc| {
            let head = aborted("delta", abort, grpc).head;
            let code = head.headers.get(GRPC_STATUS).map(|code| code.to_str().expect("text").to_owned());
            (head.status.as_u16(), code)
        };
        assert_eq!(told(Abort::Http(418), false), (418, None));
        assert_eq!(told(Abort::Http(404), true), (200, Some("12".into())));
        assert_eq!(told(Abort::Grpc(8), true), (200, Some("8".into())));
        assert_eq!(told(Abort::Grpc(8), false), (200, Some("8".into())));
    }

    #[test]
    fn a_time_to_come_back_is_told() {
        for (millis, seconds) in [(0, "1"), (1, "1"), (1000, "1"), (1001, "2")] {
            let fault = Fault::new(Reason::BreakerOpen).wait(Duration::from_millis(millis));
            assert_eq!(response("delta", &fault, false).head.headers["retry-after"], seconds);
            assert_eq!(response("delta", &fault, true).head.headers[GRPC_PUSHBACK], millis.to_string());
            let fault = fault.quota(NonZeroU32::new(7));
            for grpc in [false, true] {
                let headers = &response("delta", &fault, grpc).head.headers;
                assert_eq!([&headers[LIMIT], &headers[REMAINING], &headers[RESET]], ["7", "0", seconds]);
            }
        }
    }

    #[test]
    fn the_whole_table_is_pinned() {
        let mut table = String::new();
        for reason in Reason::ALL {
            let row = reason.row();
            table.push_str(&format!(
                "{} {} {} {} {} {} {:?} {:?}\n",
                row.token,
                if row.proxy_status.is_empty() { "-" } else { row.proxy_status },
                row.status,
                row.grpc,
                if row.flag.is_empty() { "-" } else { row.flag },
                row.details,
                row.side,
                row.retry
            ));
        }
        assert_eq!(table, include_str!("faults.golden"), "the table changed:\n{table}");
    }
}
