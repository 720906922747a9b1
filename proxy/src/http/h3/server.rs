//! The server side: a connection becomes calls of a service.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h3::error::Code;
use h3::quic::StreamId;
use http::StatusCode;
use tokio::time::{sleep, timeout};

use super::Broken;
use super::body::{Incoming, Pump};
use super::coding::{Responder, Server};
use super::stream::{Part, Reader, Writer};
use crate::drain::{Drain, Phase};
use crate::http::body::{Half, Length, Source};
use crate::http::rules::{self, MAX_TARGET_BYTES};
use crate::http::{Body, Interim, Request, RequestHead, Response, ResponseHead, Service};
use crate::net::quic::{FIRST_STREAMS, MAX_STREAMS};

/// How long a client may take to send a head after it has opened a stream. nginx's client_header_timeout is 60 s for
/// browsers; between sidecars a head is one packet.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a connection that is drained and idle waits for the client to close it, so that what was sent last is
/// acknowledged before quinn forgets it (closing discards it, RFC 9000 section 10.2).
const LINGER: Duration = Duration::from_secs(1);

/// Bounds of the time between the two GOAWAYs, which is two round trips: requests that crossed the first one arrive.
const SETTLE: [Duration; 2] = [Duration::from_millis(5), Duration::from_secs(1)];

/// The id of the first GOAWAY: any request may still be processed (RFC 9114 section 5.2).
const ANY_REQUEST: u64 = (1 << 62) - 4;

/// Serves the requests of a connection, each in a task of its own, until it is closed or drained. All tasks have ended
/// when this has.
///
/// In [`Phase::Quiet`] the client is sent GOAWAY, what it asked for until then is answered, and the connection is
/// closed; in [`Phase::Cut`] it is closed at once. Must run in a `LocalSet`.
pub async fn serve<S: Service>(quic: quinn::Connection, service: Rc<S>, drain: Drain) {
    let _guard = drain.guard();
    let Ok(server) = Server::start(quic.clone()).await else { return };
    let server = Rc::new(server);
    let requests = Requests::default();
    tokio::select! {
        biased;
        () = drain.reached(Phase::Cut) => {}
        () = accept(&server, &quic, &service, &requests, &drain) => {}
    }
    server.wire.close(Code::H3_NO_ERROR, "");
    // They see the end of the connection.
    requests.open.idle().await;
}

/// The requests of a connection.
#[derive(Default)]
struct Requests {
    open: Drain,
    /// The first stream that was not accepted yet.
    next: Cell<u64>,
    /// The id of the last GOAWAY.
    refused: Cell<Option<u64>>,
}

/// Accepts requests until the connection is closed, or is drained and idle.
async fn accept<S: Service>(
    server: &Rc<Server>,
    quic: &quinn::Connection,
    service: &Rc<S>,
    requests: &Requests,
    drain: &Drain,
) {
    let mut run = pin!(run(server, quic, service, requests));
    tokio::select! {
        biased;
        () = &mut run => return,
        () = drain.reached(Phase::Quiet) => {}
    }
    let settle = (quic.rtt() * 2).clamp(SETTLE[0], SETTLE[1]);
    let leave = async {
        go_away(server, requests, ANY_REQUEST);
        sleep(settle).await;
        go_away(server, requests, requests.next.get());
        requests.open.idle().await;
        sleep(LINGER).await;
    };
    tokio::select! {
        biased;
        () = &mut run => {}
        () = leave => {}
    }
}

/// Accepts requests and runs h3, until the connection is closed.
async fn run<S: Service>(server: &Rc<Server>, quic: &quinn::Connection, service: &Rc<S>, requests: &Requests) {
    let mut limit = FIRST_STREAMS;
    loop {
        let control = poll_fn(|cx| match server.h3.borrow_mut().poll_accept_request_stream(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(()),
            // A client's GOAWAY is about pushes, which there are none of.
            Poll::Ready(Ok(_)) | Poll::Pending => Poll::Pending,
        });
        let (send, receive) = tokio::select! {
            biased;
            stream = quic.accept_bi() => match stream {
                Ok(stream) => stream,
                Err(_) => return,
            },
            () = control => return,
        };
        let mut writer = Writer::new(Rc::clone(&server.wire), send);
        let mut reader = Reader::new(Rc::clone(&server.wire), receive);
        if requests.refused.get().is_some_and(|refused| writer.id() >= refused) {
            reader.stop(Code::H3_REQUEST_REJECTED);
            writer.reset(Code::H3_REQUEST_REJECTED);
            continue;
        }
        requests.next.set(writer.id() + 4);
        if requests.open.guards() as u64 * 2 >= u64::from(limit) && limit < MAX_STREAMS {
            limit = (limit * 2).min(MAX_STREAMS);
            quic.set_max_concurrent_bi_streams(limit.into());
        }
        let (server, service, open) = (Rc::clone(server), Rc::clone(service), requests.open.guard());
        tokio::task::spawn_local(async move {
            exchange(&server, service, reader, writer).await;
            drop(open);
        });
    }
}

/// Tells the client which requests are not processed: those from this id on.
fn go_away(server: &Server, requests: &Requests, id: u64) {
    requests.refused.set(Some(id));
    let Ok(id) = StreamId::try_from(id) else { return };
    let (mut h3, mut sent) = (server.h3.borrow_mut(), None);
    // Written at the first poll, or the control stream is blocked and the client as good as gone.
    let _ = pin!(h3.inner.shutdown(&mut sent, id)).poll(&mut Context::from_waker(Waker::noop()));
}

/// One request and its response.
async fn exchange<S: Service>(server: &Rc<Server>, service: Rc<S>, mut reader: Reader, mut writer: Writer) {
    let head = timeout(HEAD_TIMEOUT, receive(server, &mut reader)).await;
    let (head, responder, body) = match head {
        Ok(Ok(request)) => request,
        Ok(Err(broken)) => return refuse(reader, writer, broken).await,
        Err(_) => {
            reader.stop(Code::H3_REQUEST_INCOMPLETE);
            return writer.reset(Code::H3_REQUEST_INCOMPLETE);
        }
    };
    let body = match body {
        Some(length) => Body::source(Half::Request, Source::H3(Incoming::new(reader, None)), length),
        None => Body::empty(Half::Request),
    };
    respond(server, service, head, responder, body, writer).await;
}

/// Reads a head. The length is that of the body, if there is one.
async fn receive(server: &Server, reader: &mut Reader) -> Result<(RequestHead, Responder, Option<Length>), Broken> {
    let payload = match poll_fn(|cx| reader.poll_part(cx)).await? {
        Some(Part::Fields(payload)) => payload,
        Some(Part::Content(_)) | None => return Err(Broken::Incomplete),
    };
    let (head, responder) = server.decode(payload)?;
    let length = rules::content_length(&head.headers, crate::fault::Reason::HttpRequestError)
        .map_err(|_| Broken::Malformed("a content-length that is not one number"))?;
    let end = poll_fn(|cx| Poll::Ready(reader.is_end(cx))).await;
    match length {
        Some(1..) if end => Err(Broken::Malformed("less content than content-length announced")),
        _ if end => Ok((head, responder, None)),
        length => Ok((head, responder, Some(length.map_or(Length::Unknown, Length::Known)))),
    }
}

/// Calls the service and writes its response, unless the client cancels.
async fn respond<S: Service>(
    server: &Rc<Server>,
    service: Rc<S>,
    head: RequestHead,
    mut responder: Responder,
    body: Body,
    mut writer: Writer,
) {
    if head.path.as_str().len() > MAX_TARGET_BYTES {
        drop(body);
        return answer(server, responder, writer, StatusCode::URI_TOO_LONG).await;
    }
    let interim = Rc::new(Interim::default());
    let mut stopped = pin!(writer.stopped());
    let mut call = pin!(service.call(Request { head, body, interim: Rc::clone(&interim) }));
    let response = poll_fn(|cx| {
        let response = call.as_mut().poll(cx);
        for head in interim.take() {
            match server.encode(&mut responder, head) {
                Ok(frame) => writer.frame(frame),
                // It carries no obligation.
                Err(_) => continue,
            }
        }
        match (response, writer.poll_flush(cx)) {
            (_, Poll::Ready(Err(_))) => Poll::Ready(None),
            (Poll::Ready(response), _) => Poll::Ready(Some(response)),
            (Poll::Pending, _) => stopped.as_mut().poll(cx).map(|_| None),
        }
    });
    // The client has gone: the call is dropped, and with it what it does upstream.
    let Some(Response { head, body }) = response.await else { return writer.reset(Code::H3_REQUEST_CANCELLED) };
    match server.encode(&mut responder, head) {
        Ok(frame) => writer.frame(frame),
        Err(_) => return writer.reset(Code::H3_INTERNAL_ERROR),
    }
    let mut pump = Pump::new(writer, body);
    poll_fn(|cx| match pump.poll(cx) {
        Poll::Ready(_) => Poll::Ready(()),
        Poll::Pending => stopped.as_mut().poll(cx).map(|_| ()),
    })
    .await;
}

/// Answers a message that is not taken: with a status where the client can make use of it, else by resetting.
async fn refuse(mut reader: Reader, mut writer: Writer, broken: Broken) {
    let reason = match broken {
        Broken::TooLarge => {
            // Encoded by hand, as h3 has no stream to answer on: literal with name reference, `:status: 431`.
            const HEAD: &[u8] = b"\x01\x08\0\0\x5f\x09\x03431";
            reader.stop(Code::H3_EXCESSIVE_LOAD);
            writer.frame(Bytes::from_static(HEAD));
            return finish(writer).await;
        }
        Broken::Incomplete => Code::H3_REQUEST_INCOMPLETE,
        _ => Code::H3_MESSAGE_ERROR,
    };
    reader.stop(reason);
    writer.reset(reason);
}

/// Answers with this status and nothing else.
async fn answer(server: &Server, mut responder: Responder, mut writer: Writer, status: StatusCode) {
    match server.encode(&mut responder, ResponseHead::new(status)) {
        Ok(frame) => writer.frame(frame),
        Err(_) => return writer.reset(Code::H3_INTERNAL_ERROR),
    }
    finish(writer).await;
}

async fn finish(mut writer: Writer) {
    if poll_fn(|cx| writer.poll_flush(cx)).await.is_ok() {
        writer.finish();
    }
}
