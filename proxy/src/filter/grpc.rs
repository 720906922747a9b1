//! gRPC over HTTP/2 as far as a caller needs it: messages in frames of their own, and a status at the end
//! (grpc/doc/PROTOCOL-HTTP2.md).

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::StatusCode;
use http::header::{HeaderName, HeaderValue};
use lacis_host::{GrpcEvent, limits};

use crate::fault::Fault;
use crate::http::Fields;
use crate::http::body::{Frame, Made};
use crate::http::fields::Value;

pub(super) const STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(super) const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
pub(super) const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

pub(super) const UNKNOWN: u32 = 2;
pub(super) const RESOURCE_EXHAUSTED: u32 = 8;
pub(super) const INTERNAL: u32 = 13;
pub(super) const UNAVAILABLE: u32 = 14;

/// The byte that says whether a message is compressed, and its length in four.
const PREFIX: usize = 5;

/// A message in its frame.
pub(super) fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(PREFIX + message.len());
    frame.put_u8(0);
    // A guest's memory is smaller than 4 GiB.
    frame.put_u32(message.len() as u32);
    frame.put_slice(message);
    frame.freeze()
}

/// A timeout as `grpc-timeout` says it: at most eight digits, rounded up.
pub(super) fn timeout(timeout: Duration) -> HeaderValue {
    let millis = timeout.as_millis();
    let text = match millis {
        0..=99_999_999 => format!("{millis}m"),
        _ => format!("{}S", (millis.div_ceil(1000)).min(99_999_999)),
    };
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("99999999S"))
}

/// The gRPC code for an HTTP status (grpc/doc/http-grpc-status-mapping.md).
pub fn of_http(status: StatusCode) -> u32 {
    match status.as_u16() {
        400 => INTERNAL,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => UNAVAILABLE,
        _ => UNKNOWN,
    }
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) status: u32,
    pub(super) message: String,
}

impl Verdict {
    pub(super) fn new(status: u32, message: &str) -> Self {
        Verdict { status, message: message.into() }
    }

    /// What trailers say; nothing if they have no status. One that does not exist is "unknown".
    pub(super) fn read(fields: &Fields) -> Option<Verdict> {
        let status =
            fields.get(STATUS)?.to_str().ok().and_then(|text| text.parse().ok()).filter(|status| *status <= 16);
        let message = fields.get(MESSAGE).map_or(&b""[..], Value::as_bytes);
        Some(Verdict { status: status.unwrap_or(UNKNOWN), message: percent_decoded(message) })
    }
}

impl From<Verdict> for GrpcEvent {
    fn from(Verdict { status, message }: Verdict) -> Self {
        GrpcEvent::Close { status, message }
    }
}

fn percent_decoded(text: &[u8]) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, more)) = rest.split_first() {
        let code = more.get(..2).filter(|_| *byte == b'%');
        let code = code.and_then(|hex| std::str::from_utf8(hex).ok()).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        out.push(code.unwrap_or(*byte));
        rest = if code.is_some() { &more[2..] } else { more };
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Messages out of content that comes in any pieces.
#[derive(Debug)]
pub(super) struct Messages {
    waiting: BytesMut,
    limit: usize,
}

impl Messages {
    /// Of at most this many bytes each.
    pub(super) fn new(limit: usize) -> Self {
        Messages { waiting: BytesMut::new(), limit }
    }

    pub(super) fn push(&mut self, data: Bytes) {
        self.waiting.extend_from_slice(&data);
    }

    /// The next whole message.
    ///
    /// # Errors
    /// If it is compressed, which nobody asked for, or too large.
    pub(super) fn next(&mut self) -> Result<Option<Vec<u8>>, Verdict> {
        let Some([compressed, length @ ..]) = self.waiting.first_chunk::<PREFIX>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if *compressed != 0 {
            return Err(Verdict::new(INTERNAL, "a compressed message"));
        }
        if length > self.limit {
            return Err(Verdict::new(RESOURCE_EXHAUSTED, "a message larger than limits.buffer"));
        }
        if self.waiting.len() < PREFIX + length {
            return Ok(None);
        }
        self.waiting.advance(PREFIX);
        Ok(Some(self.waiting.split_to(length).to_vec()))
    }
}

/// A body that is written piece by piece. Clones are the same body.
#[derive(Clone, Debug, Default)]
pub(super) struct Outbox(Rc<RefCell<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    frames: VecDeque<Frame>,
    bytes: usize,
    end: bool,
    waker: Option<Waker>,
}

impl Outbox {
    /// Content and trailers, all here.
    pub(super) fn whole(content: Bytes, trailers: Fields) -> Self {
        let content = Some(content).filter(|content| !content.is_empty()).map(Frame::Data);
        let frames = content.into_iter().chain([Frame::Trailers(trailers)]).collect();
        Outbox(Rc::new(RefCell::new(Waiting { frames, end: true, ..Waiting::default() })))
    }

    /// Bytes that wait.
    pub(super) fn waiting(&self) -> usize {
        self.0.borrow().bytes
    }

    /// Adds a message, and the end after it. False if too much waits already, or it has ended.
    pub(super) fn push(&self, message: Option<&[u8]>, end: bool) -> bool {
        let mut waiting = self.0.borrow_mut();
        if waiting.end || waiting.bytes > limits::CALL_QUEUED {
            return false;
        }
        if let Some(message) = message {
            let frame = framed(message);
            waiting.bytes += frame.len();
            waiting.frames.push_back(Frame::Data(frame));
        }
        waiting.end = end;
        if let Some(waker) = waiting.waker.take() {
            waker.wake();
        }
        true
    }
}

impl Made for Outbox {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Fault>>> {
        let mut waiting = self.0.borrow_mut();
        match waiting.frames.pop_front() {
            Some(frame) => {
                if let Frame::Data(data) = &frame {
                    waiting.bytes = waiting.bytes.saturating_sub(data.len());
                }
                Poll::Ready(Some(Ok(frame)))
            }
            None if waiting.end => Poll::Ready(None),
            None => {
                waiting.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn is_end(&self) -> bool {
        let waiting = self.0.borrow();
        waiting.end && waiting.frames.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_whole_out_of_any_pieces() {
        let wire = [&framed(b"one")[..], &framed(b""), &framed(b"three")].concat();
        for size in 1..=wire.len() {
            let mut messages = Messages::new(5);
            let mut got = Vec::new();
            for piece in wire.chunks(size) {
                messages.push(Bytes::copy_from_slice(piece));
                while let Some(message) = messages.next().unwrap() {
                    got.push(message);
                }
            }
            assert_eq!(got, [&b"one"[..], b"", b"three"], "pieces of {size}");
        }
    }

    #[test]
    fn hostile_frames_end_the_call() {
        let status = |wire: &[u8]| {
            let mut messages = Messages::new(4);
            messages.push(Bytes::copy_from_slice(wire));
            messages.next().map_err(|verdict| verdict.status)
        };
        assert_eq!(status(&[0, 0, 0, 0, 5]), Err(RESOURCE_EXHAUSTED), "said, and not waited for");
        assert_eq!(status(&[0, 0xff, 0xff, 0xff, 0xff]), Err(RESOURCE_EXHAUSTED));
        assert_eq!(status(&[1, 0, 0, 0, 0]), Err(INTERNAL));
        assert_eq!(status(&[0, 0, 0, 0, 4, 1, 2, 3]), Ok(None));
    }

    #[test]
    fn the_status_is_in_the_trailers() {
        let read = |lines: &[(&'static str, &'static str)]| {
            Verdict::read(&lines.iter().map(|(n, v)| ((*n).parse().unwrap(), v.parse().unwrap())).collect())
        };
        assert_eq!(read(&[]), None);
        assert_eq!(read(&[("grpc-status", "0")]), Some(Verdict::new(0, "")));
        let said = read(&[("grpc-status", "5"), ("grpc-message", "no%20such%2Z%E2%82%AC%")]);
        assert_eq!(said, Some(Verdict::new(5, "no such%2Z€%")));
        for bad in ["17", "-1", "x", ""] {
            assert_eq!(read(&[("grpc-status", bad)]).unwrap().status, UNKNOWN, "{bad}");
        }
    }

    #[test]
    fn timeouts_have_at_most_eight_digits() {
        for (given, said) in [(1, "1m"), (99_999_999, "99999999m"), (100_000_001, "100001S"), (u64::MAX, "99999999S")] {
            assert_eq!(timeout(Duration::from_millis(given)), said);
        }
    }

    #[test]
    fn an_outbox_takes_no_more_than_it_may_hold() {
        let outbox = Outbox::default();
        assert!(outbox.push(Some(&vec![0; limits::CALL_QUEUED]), false));
        assert!(!outbox.push(Some(b"more"), false));
        let mut reader = outbox.clone();
        assert!(reader.poll_frame(&mut Context::from_waker(Waker::noop())).is_ready());
        assert!(outbox.push(None, true));
        assert!(!outbox.push(Some(b"after the end"), false));
    }
}
