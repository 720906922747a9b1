//! The server side: a connection becomes calls of a service.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use super::code::Code;
use tokio::time::{sleep, timeout};

use super::Broken;
use super::body::{Incoming, Pump};
use super::coding::Wire;
use super::connection::{Ours, Theirs};
use super::frame::Part;
use super::stream::{Reader, Writer};
use crate::clock::Deadline;
use crate::drain::{Drain, Phase};
use crate::fault::{Fault, Reason, Side};
use crate::http::body::{Half, Length, Source};
use crate::http::rules::{self, HEAD_TIMEOUT, IDLE_TIMEOUT};
use crate::http::{Body, Interim, Request, RequestHead, Response, Service};
use crate::net::quic::{FIRST_STREAMS, MAX_STREAMS};

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
/// closed; in [`Phase::Cut`] it is closed at once. Must run in a `LocalSet`. What the client did wrong, if it was closed for that.
pub async fn serve<S: Service>(quic: quinn::Connection, service: Rc<S>, drain: Drain) -> Option<&'static str> {
    let _guard = drain.guard();
    // Pending where the client allows no stream to it, which it must (RFC 9114 section 6.2).
    let Ok(Ok(ours)) = timeout(HEAD_TIMEOUT, Ours::open(&quic)).await else { return None };
    let wire = Wire::new(quic, Side::Downstream);
    let mut theirs = Theirs::new(Rc::clone(&wire), &ours);
    // What a client says matters to the wire alone: its GOAWAY is about pushes, which there are none of.
    let listen = tokio::task::spawn_local(async move { while theirs.next().await.is_some() {} });
    let requests = Requests::default();
    tokio::select! {
        biased;
        () = drain.reached(Phase::Cut) => {}
        () = accept(&wire, &ours, &service, &requests, &drain) => {}
    }
    wire.close(Code::NO_ERROR, "");
    // All see the end of the connection.
    requests.open.idle().await;
    let _ = listen.await;
    wire.wrong()
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

/// Accepts requests until the connection is closed, or is drained or unused and then idle.
async fn accept<S: Service>(wire: &Rc<Wire>, ours: &Ours, service: &Rc<S>, requests: &Requests, drain: &Drain) {
    let mut run = pin!(run(wire, service, requests));
    tokio::select! {
        biased;
        () = &mut run => return,
        () = drain.reached(Phase::Quiet) => {}
        () = unused(requests) => {}
    }
    let settle = (wire.quic().rtt() * 2).clamp(SETTLE[0], SETTLE[1]);
    let leave = async {
        go_away(ours, requests, ANY_REQUEST);
        sleep(settle).await;
        go_away(ours, requests, requests.next.get());
        requests.open.idle().await;
        sleep(LINGER).await;
    };
    tokio::select! {
        biased;
        () = &mut run => {}
        () = leave => {}
    }
}

/// Accepts requests until the connection is closed.
async fn run<S: Service>(wire: &Rc<Wire>, service: &Rc<S>, requests: &Requests) {
    let mut limit = FIRST_STREAMS;
    while let Ok((send, receive)) = wire.quic().accept_bi().await {
        let mut writer = Writer::new(Rc::clone(wire), send);
        let mut reader = Reader::new(Rc::clone(wire), receive);
        if requests.refused.get().is_some_and(|refused| writer.id() >= refused) {
            reader.stop(Code::REQUEST_REJECTED);
            writer.reset(Code::REQUEST_REJECTED);
            continue;
        }
        requests.next.set(writer.id() + 4);
        if requests.open.guards() as u64 * 2 >= u64::from(limit) && limit < MAX_STREAMS {
            limit = (limit * 2).min(MAX_STREAMS);
            wire.quic().set_max_concurrent_bi_streams(limit.into());
        }
        let (wire, service, open) = (Rc::clone(wire), Rc::clone(service), requests.open.guard());
        // Boxed: the runtime moves a task some eight times, and this one has kilobytes.
        tokio::task::spawn_local(Box::pin(async move {
            exchange(&wire, service, reader, writer).await;
            drop(open);
        }));
    }
}

/// Resolves when nothing was asked for [`IDLE_TIMEOUT`]. Pings keep a connection open, but not for ever.
async fn unused(requests: &Requests) {
    let deadline = Deadline::new();
    loop {
        requests.open.idle().await;
        let next = requests.next.get();
        deadline.set(IDLE_TIMEOUT);
        // Looked at with each request that is accepted.
        let asked = poll_fn(|cx| match requests.next.get() == next {
            true => deadline.poll(cx).map(|()| false),
            false => Poll::Ready(true),
        });
        if !asked.await {
            return;
        }
    }
}

/// Tells the client which requests are not processed: those from this id on.
fn go_away(ours: &Ours, requests: &Requests, id: u64) {
    requests.refused.set(Some(id));
    ours.go_away(id);
}

/// One request and its response.
async fn exchange<S: Service>(wire: &Wire, service: Rc<S>, mut reader: Reader, mut writer: Writer) {
    let received = {
        let mut received = pin!(receive(wire, &mut reader));
        // Nearly always there with the stream: no clock is read then.
        match poll_fn(|cx| Poll::Ready(received.as_mut().poll(cx))).await {
            Poll::Ready(received) => received,
            Poll::Pending => match timeout(HEAD_TIMEOUT, received).await {
                Ok(received) => received,
                Err(_) => Err(Refusal::Answer(Fault::new(Reason::RequestTimeout))),
            },
        }
    };
    let (head, body) = match received {
        Ok(received) => received,
        Err(Refusal::Answer(fault)) => {
            reader.stop(Code::NO_ERROR);
            return write(wire, service.refuse(fault), writer).await;
        }
        Err(Refusal::Reset(code, fault)) => {
            reader.stop(code);
            writer.reset(code);
            return service.reset(fault);
        }
        Err(Refusal::Gone) => {
            reader.stop(Code::REQUEST_CANCELLED);
            return writer.reset(Code::REQUEST_CANCELLED);
        }
    };
    let body = match body {
        Some(length) => Body::source(Half::Request, Source::H3(Box::new(Incoming::new(reader, None))), length),
        None => Body::empty(Half::Request),
    };
    let method = head.method.clone();
    let interim = Rc::new(Interim::default());
    let mut stopped = pin!(writer.stopped());
    let mut call = pin!(service.call(Request { head: head.into(), body, interim: Rc::clone(&interim) }));
    let response = poll_fn(|cx| {
        let response = call.as_mut().poll(cx);
        // Also those that came with the final head: they go before it. Others wait while the client has not taken those before. One that
        // cannot be said is left out: it carries no obligation.
        if !interim.is_empty() && (response.is_ready() || writer.poll_flush(cx).is_ready()) {
            let heads = interim.take();
            heads.iter().flat_map(|head| wire.encode_response(head)).for_each(|frame| writer.frame(frame));
        }
        if let Poll::Ready(response) = response {
            return Poll::Ready(Some(response));
        }
        match writer.poll_flush(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(None),
            _ => stopped.as_mut().poll(cx).map(|_| None),
        }
    });
    // Else the client has gone: the call is dropped, and with it what it does upstream.
    let Some(mut response) = response.await else { return writer.reset(Code::REQUEST_CANCELLED) };
    let unsent = response.head.is_bodiless(&method);
    let unsent = unsent.then(|| std::mem::replace(&mut response.body, Body::empty(Half::Response)));
    let written = pin!(async {
        write(wire, response, writer).await;
        if let Some(mut body) = unsent {
            let _ = poll_fn(|cx| body.poll_rest(cx)).await;
        }
    });
    // A response that was read to its end is no stop: the request may still be on its way.
    let gone = async {
        if let Ok(None) = stopped.await {
            std::future::pending().await
        }
    };
    tokio::select! {
        biased;
        () = written => {}
        () = gone => {}
    }
}

/// What becomes of a request that is not one.
enum Refusal {
    /// The service answers it with this.
    Answer(Fault),
    /// RFC 9114 section 4.1.2: a malformed message is a stream error.
    Reset(Code, Fault),
    /// The client does not want it any more.
    Gone,
}

impl From<Broken> for Refusal {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::TooLarge | Broken::Refused(_) => Refusal::Answer(broken.fault(Side::Downstream)),
            Broken::Incomplete => Refusal::Reset(Code::REQUEST_INCOMPLETE, broken.fault(Side::Downstream)),
            Broken::Reset(_) | Broken::Lost(_) => Refusal::Gone,
            Broken::Malformed(_) | Broken::Garbled(_) | Broken::Unwanted => {
                Refusal::Reset(Code::MESSAGE_ERROR, broken.fault(Side::Downstream))
            }
        }
    }
}

/// Reads a head. The length is that of the body, if there is one.
async fn receive(wire: &Wire, reader: &mut Reader) -> Result<(RequestHead, Option<Length>), Refusal> {
    let payload = match poll_fn(|cx| reader.poll_part(cx)).await? {
        Some(Part::Fields(payload)) => payload,
        Some(Part::Content(_)) | None => return Err(Broken::Incomplete.into()),
    };
    let head = wire.decode_request(payload)?;
    let length = rules::request_length(&head.method, &head.headers)
        .map_err(|fault| Refusal::Reset(Code::MESSAGE_ERROR, fault))?;
    let end = poll_fn(|cx| Poll::Ready(reader.is_end(cx))).await;
    match length {
        Length::Known(1..) if end => Err(Broken::Malformed("less content than content-length announced").into()),
        _ if end => Ok((head, None)),
        length => Ok((head, Some(length))),
    }
}

/// Writes a response. What goes wrong resets the stream; the exchange, which watches the body, has recorded it.
async fn write(wire: &Wire, response: Response, mut writer: Writer) {
    match wire.encode_response(&response.head) {
        Ok(frame) => writer.frame(frame),
        Err(_) => return writer.reset(Code::INTERNAL_ERROR),
    }
    let mut pump = Pump::new(writer, response.body);
    let _ = poll_fn(|cx| pump.poll(cx)).await;
}
