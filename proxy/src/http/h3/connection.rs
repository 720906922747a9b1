//! What keeps a connection: its unidirectional streams (RFC 9114 section 6.2).

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{BufMut, Bytes, BytesMut};

use super::code::Code;
use super::coding::{self, Wire};
use super::control::{Control, MAX_FIELD_SECTION_SIZE, Said};
use super::frame::{FrameHeader, Violation, kind, write_varint};
use crate::http::rules::MAX_HEAD_BYTES;

/// Types of unidirectional streams (RFC 9114 section 6.2, RFC 9204 section 4.2).
const CONTROL: u64 = 0;
const PUSH: u64 = 1;
const ENCODER: u64 = 2;
const DECODER: u64 = 3;

/// Our control stream. Those of QPACK are not opened: without a dynamic table nothing would be said on them.
pub(super) struct Ours(RefCell<quinn::SendStream>);

impl Ours {
    /// Opens it: our SETTINGS are on their way.
    pub(super) async fn open(quic: &quinn::Connection) -> Result<Self, quinn::ConnectionError> {
        let mut stream = quic.open_uni().await?;
        let mut settings = BytesMut::new();
        write_varint(&mut settings, MAX_FIELD_SECTION_SIZE);
        write_varint(&mut settings, MAX_HEAD_BYTES as u64);
        let mut out = BytesMut::new();
        out.put_u8(CONTROL as u8);
        out.extend_from_slice(&coding::frame(kind::SETTINGS, settings.len(), &settings));
        match stream.write_all(&out).await {
            Ok(()) => Ok(Ours(RefCell::new(stream))),
            Err(quinn::WriteError::ConnectionLost(error)) => Err(error),
            Err(_) => {
                let (reason, what) = STOPPED;
                quic.close(reason.into(), what.as_bytes());
                Err(quinn::ConnectionError::LocallyClosed)
            }
        }
    }

    /// Resolves when the peer asks to stop it, or with the connection: it has no other end.
    fn stopped(&self) -> Stopped {
        let stopped = self.0.borrow().stopped();
        Box::pin(async move { matches!(stopped.await, Ok(Some(_))) })
    }

    /// Tells a client that requests from this id on are not processed.
    pub(super) fn go_away(&self, id: u64) {
        let mut payload = BytesMut::new();
        write_varint(&mut payload, id);
        let frame = coding::frame(kind::GOAWAY, payload.len(), &payload);
        // Written at the first poll, or the control stream is blocked and the client as good as gone.
        let _ = pin!(self.0.borrow_mut().write_all(&frame)).poll(&mut Context::from_waker(Waker::noop()));
    }
}

/// What ends a connection whose peer asks us to stop our control stream (RFC 9114 section 6.2.1).
const STOPPED: Violation = (Code::CLOSED_CRITICAL_STREAM, "the control stream was stopped");

/// The wait for the end of our control stream: whether the peer asked for it.
type Stopped = Pin<Box<dyn Future<Output = bool>>>;

/// The wait for a stream of the peer. Boxed because its type has no name; a connection makes some four of them.
type Accept = Pin<Box<dyn Future<Output = Result<quinn::RecvStream, quinn::ConnectionError>>>>;

/// The streams of the peer. How many there are at once is limited by QUIC.
pub(super) struct Theirs {
    wire: Rc<Wire>,
    accept: Accept,
    stopped: Stopped,
    streams: Vec<Stream>,
    /// The types that have come, which may do so once.
    seen: [bool; 4],
}

impl Theirs {
    /// With our control stream, which the peer must not stop.
    pub(super) fn new(wire: Rc<Wire>, ours: &Ours) -> Self {
        let accept = accept(wire.quic().clone());
        Theirs { wire, accept, stopped: ours.stopped(), streams: Vec::new(), seen: [false; 4] }
    }

    /// What the peer says next. `None` when the connection is closed, maybe for what the peer did.
    pub(super) async fn next(&mut self) -> Option<Said> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Said>> {
        while let Poll::Ready(stream) = self.accept.as_mut().poll(cx) {
            let Ok(quic) = stream else { return Poll::Ready(None) };
            self.streams.push(Stream { quic, chunk: Bytes::new(), at: At::Type(FrameHeader::default()) });
            self.accept = accept(self.wire.quic().clone());
        }
        if let Poll::Ready(stopped) = self.stopped.as_mut().poll(cx) {
            if stopped {
                self.wire.violated(STOPPED);
            }
            return Poll::Ready(None);
        }
        let mut number = 0;
        while let Some(stream) = self.streams.get_mut(number) {
            match stream.poll_next(cx, !self.wire.is_server(), &mut self.seen) {
                Poll::Pending => number += 1,
                Poll::Ready(Ok(Some(said))) => {
                    if let Said::Settings(most) = said {
                        self.wire.want(most);
                    }
                    return Poll::Ready(Some(said));
                }
                Poll::Ready(Ok(None)) => drop(self.streams.swap_remove(number)),
                Poll::Ready(Err(violation)) => {
                    self.wire.violated(violation);
                    return Poll::Ready(None);
                }
            }
        }
        Poll::Pending
    }
}

fn accept(quic: quinn::Connection) -> Accept {
    Box::pin(async move { quic.accept_uni().await })
}

/// A unidirectional stream of the peer.
struct Stream {
    quic: quinn::RecvStream,
    /// Received and not read yet.
    chunk: Bytes,
    at: At,
}

enum At {
    /// Before or in the stream's type.
    Type(FrameHeader),
    Control(Control),
    /// The peer's encoder of field sections.
    Encoder,
    /// The peer's decoder; whether an integer goes on.
    Decoder(bool),
}

impl Stream {
    /// What is said on it next; `None` when nothing more will be.
    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        of_server: bool,
        seen: &mut [bool; 4],
    ) -> Poll<Result<Option<Said>, Violation>> {
        loop {
            match &mut self.at {
                At::Type(header) => {
                    if let Some(kind) = header.read_type(&mut self.chunk) {
                        self.at = match begin(kind, of_server, seen)? {
                            Some(at) => at,
                            None => {
                                // Fails where it has ended: nothing to stop then.
                                let _ = self.quic.stop(Code::STREAM_CREATION_ERROR.into());
                                return Poll::Ready(Ok(None));
                            }
                        };
                        continue;
                    }
                }
                At::Control(control) => {
                    if let Some(said) = control.read(&mut self.chunk)? {
                        return Poll::Ready(Ok(Some(said)));
                    }
                }
                At::Encoder => check_encoder(&std::mem::take(&mut self.chunk))?,
                At::Decoder(goes_on) => check_decoder(&std::mem::take(&mut self.chunk), goes_on)?,
            }
            match ready!(pin!(self.quic.read_chunk(usize::MAX, true)).poll(cx)) {
                Ok(Some(chunk)) => self.chunk = chunk.bytes,
                Ok(None) | Err(quinn::ReadError::Reset(_)) => {
                    return Poll::Ready(match self.at {
                        // One that ends or is reset before its type says nothing (RFC 9114 section 6.2).
                        At::Type(_) => Ok(None),
                        _ => Err((Code::CLOSED_CRITICAL_STREAM, "a stream that must stay open has ended")),
                    });
                }
                // The connection is closed.
                Err(_) => return Poll::Ready(Ok(None)),
            }
        }
    }
}

/// How to read a stream of this type; `None` if it is unknown.
fn begin(kind: u64, of_server: bool, seen: &mut [bool; 4]) -> Result<Option<At>, Violation> {
    if kind == PUSH {
        // RFC 9114 sections 4.6 and 6.2.2: clients have none, and we as a client allow none.
        return Err(match of_server {
            false => (Code::STREAM_CREATION_ERROR, "a push stream of a client"),
            true => (Code::ID_ERROR, "a push stream where no push is allowed"),
        });
    }
    let Some(seen) = usize::try_from(kind).ok().and_then(|kind| seen.get_mut(kind)) else { return Ok(None) };
    if std::mem::replace(seen, true) {
        return Err((Code::STREAM_CREATION_ERROR, "a second stream of a type that is there once"));
    }
    Ok(match kind {
        CONTROL => Some(At::Control(Control::new(!of_server))),
        ENCODER => Some(At::Encoder),
        DECODER => Some(At::Decoder(false)),
        _ => None,
    })
}

/// An encoder may say that it uses no dynamic table, and nothing else: we allow none (RFC 9204 section 4.3).
fn check_encoder(said: &[u8]) -> Result<(), Violation> {
    const CAPACITY_0: u8 = 0x20;
    match said.iter().all(|byte| *byte == CAPACITY_0) {
        true => Ok(()),
        false => Err((Code::QPACK_ENCODER_STREAM_ERROR, "an instruction for a dynamic table that we do not have")),
    }
}

/// A decoder may say that it has given up a stream, and nothing else: we use no dynamic table (RFC 9204 section 4.4).
fn check_decoder(said: &[u8], goes_on: &mut bool) -> Result<(), Violation> {
    for byte in said {
        if *goes_on {
            *goes_on = byte & 0x80 != 0;
        } else if byte & 0xc0 == 0x40 {
            *goes_on = byte & 0x3f == 0x3f;
        } else {
            return Err((Code::QPACK_DECODER_STREAM_ERROR, "it acknowledges what was never said"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_qpack_may_say_without_a_table() {
        assert!(check_encoder(&[]).is_ok() && check_encoder(&[0x20, 0x20]).is_ok());
        for said in [0x21, 0x3f, 0x40, 0x80, 0x00] {
            assert!(check_encoder(&[0x20, said]).is_err(), "{said:x}");
        }
        let decoder = |said: &[u8]| {
            let (mut whole, mut cut) = (false, false);
            let at_once = check_decoder(said, &mut whole);
            let bytewise = said.iter().try_for_each(|byte| check_decoder(&[*byte], &mut cut));
            assert_eq!((at_once, whole), (bytewise, cut), "{said:x?}");
            at_once.is_ok()
        };
        assert!(decoder(&[0x40, 0x7f, 0x81, 0x80, 0x01, 0x44]), "cancellations of streams, one with a long id");
        for said in [&[0x80][..], &[0x00], &[0x01], &[0x7f, 0x00, 0x80]] {
            assert!(!decoder(said), "{said:x?}");
        }
    }
}
