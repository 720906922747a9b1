//! The server side: each stream of a connection is a request, in a task of its own.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http::uri::{self, Scheme};
use http::{Method, header};

use super::body::{Pump, incoming_body};
use super::gather::Gather;
use super::{CONNECTION_WINDOW, MAX_FRAME, MAX_STREAMS, SEND_BUFFER, STREAM_WINDOW};
use crate::drain::{Drain, Phase};
use crate::fault::{Fault, Reason};
use crate::http::body::Half;
use crate::http::head::{RequestHead, ResponseHead, Version};
use crate::http::rules::{self, MAX_HEAD_BYTES};
use crate::http::{Interim, Request, Response, Service};
use crate::net::io::Io;

/// Streams that a peer may reset before we took them (CVE-2023-44487, rapid reset), per connection. A link carries many
/// callers, and one that leaves resets all of his at once; such a stream costs no more than one that is open.
const MAX_PENDING_RESETS: usize = MAX_STREAMS as usize;

/// Streams that we have reset and still know, so that what a client had already sent on them is no error of it.
const RESET_STREAMS: usize = 1024;

/// Streams that a client may make us reset by errors of its own, over the life of the connection (CVE-2025-8671). A link
/// lives for weeks, so this is no small number.
const MAX_ERROR_RESETS: usize = 65_536;

/// Serves one connection until it ends.
pub async fn serve<S: Service>(io: Io, service: Rc<S>, drain: Drain) {
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(MAX_STREAMS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_header_list_size(MAX_HEAD_BYTES as u32)
        .max_send_buffer_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_concurrent_reset_streams(RESET_STREAMS)
        .max_local_error_reset_streams(Some(MAX_ERROR_RESETS));
    let gather = Gather::new(io);
    let Ok(mut connection) = builder.handshake::<_, Bytes>(gather.clone()).await else { return };
    let mut quiet = pin!(drain.reached(Phase::Quiet));
    let mut cut = pin!(drain.reached(Phase::Cut));
    let mut draining = false;
    poll_fn(|cx| {
        if cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if !draining && quiet.as_mut().poll(cx).is_ready() {
            draining = true;
            connection.graceful_shutdown();
        }
        gather.turn(cx, |cx| {
            loop {
                match ready!(connection.poll_accept(cx)) {
                    Some(Ok((request, respond))) => {
                        // Its end is the connection's, which ends when its last stream has.
                        tokio::task::spawn_local(exchange(Rc::clone(&service), request, respond));
                    }
                    Some(Err(error)) => {
                        // Its GOAWAY is written; asked again it would say the same for ever.
                        tracing::debug!(%error, "an HTTP/2 connection broke");
                        return Poll::Ready(());
                    }
                    None => return Poll::Ready(()),
                }
            }
        })
    })
    .await;
}

/// One request and its response.
async fn exchange<S: Service>(
    service: Rc<S>,
    request: http::Request<RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
) {
    let interim = Rc::new(Interim::default());
    let method = request.method().clone();
    let response = match incoming_request(request, &interim) {
        Err(fault) => service.refuse(fault),
        Ok(request) => {
            let mut call = pin!(service.call(request));
            let answered = poll_fn(|cx| {
                let response = call.as_mut().poll(cx);
                // Also those that came with the final head: they go before it.
                for head in interim.take() {
                    // A stream that is gone shows below.
                    let _ = respond.send_informational(outgoing_response(head));
                }
                match response {
                    Poll::Ready(response) => Poll::Ready(Some(response)),
                    Poll::Pending => respond.poll_reset(cx).map(|_| None),
                }
            });
            match answered.await {
                Some(response) => response,
                None => return,
            }
        }
    };
    let Response { head, body } = response;
    let bodiless = head.is_bodiless(&method);
    let end = body.is_end() || bodiless;
    let Ok(stream) = respond.send_response(outgoing_response(head.take()), end) else { return };
    if end {
        let mut body = body;
        let _ = poll_fn(|cx| body.poll_uploaded(cx)).await;
    } else {
        let mut pump = Pump::new(body, stream, Half::Response);
        // The exchange has recorded what went wrong, the stream was reset.
        let _ = poll_fn(|cx| pump.poll(cx)).await;
    }
}

fn incoming_request(request: http::Request<RecvStream>, interim: &Rc<Interim>) -> Result<Request, Fault> {
    let malformed = |why: &'static str| Fault::new(Reason::HttpRequestError).detail(why);
    let (parts, stream) = request.into_parts();
    let mut headers = parts.headers;
    rules::check_fields(&headers, Reason::HttpRequestError)?;
    let length = rules::request_length(&parts.method, &headers)?;
    let uri::Parts { scheme, authority, path_and_query, .. } = parts.uri.into_parts();
    let host = headers.remove(header::HOST);
    let authority = match (authority, host) {
        // RFC 9113 section 8.3.1: they may both be there if they agree.
        (Some(authority), Some(host)) if !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) => {
            return Err(malformed("host and :authority differ"));
        }
        (Some(authority), _) => Some(authority),
        (None, Some(host)) => Some(
            uri::Authority::from_maybe_shared(Bytes::from_owner(host))
                .map_err(|_| malformed("a host that is not a host"))?,
        ),
        (None, None) => return Err(malformed("neither :authority nor host")),
    };
    let path = match path_and_query {
        Some(path) if parts.method != Method::CONNECT => path,
        // RFC 9113 section 8.5.
        None if parts.method == Method::CONNECT => uri::PathAndQuery::from_static("/"),
        _ => return Err(malformed("a :path that does not fit the method, or none")),
    };
    let head = RequestHead {
        method: parts.method,
        authority,
        path,
        https: scheme == Some(Scheme::HTTPS),
        headers,
        version: Version::Http2,
        upgrade: None,
    };
    let body = incoming_body(stream, length, Half::Request, None);
    Ok(Request { head: head.into(), body, interim: Rc::clone(interim) })
}

fn outgoing_response(head: ResponseHead) -> http::Response<()> {
    let mut response = http::Response::new(());
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    response
}
