//! h3's view of a connection: the traits of `h3::quic` on quinn.
//!
//! The unidirectional streams are real, and what h3 reads from them comes in whole frames of bounded size. Request streams
//! it never sees.

use std::cell::Cell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h3::error::Code;
use h3::proto::varint::VarInt;
use h3::quic::{self, ConnectionErrorIncoming, StreamErrorIncoming, StreamId, WriteBuf};

use super::code;
use super::control::{self, Control};
use super::frame::{FrameHeader, Violation, varint};

/// Types of unidirectional streams (RFC 9114 section 6.2).
const CONTROL: u64 = 0;
const PUSH: u64 = 1;

/// The wait for a stream of the peer. Boxed because its type has no name; a connection makes four of them.
type Accept = Pin<Box<dyn Future<Output = Result<quinn::RecvStream, quinn::ConnectionError>>>>;

/// A connection.
pub(super) struct Quic {
    quic: quinn::Connection,
    outgoing: Vec<quinn::SendStream>,
    incoming: Option<Accept>,
    wanted: Rc<Cell<u64>>,
}

impl Quic {
    /// Opens the three streams that h3 will ask for: control, and one for each direction of QPACK.
    pub(super) async fn open(quic: quinn::Connection) -> Result<Self, quinn::ConnectionError> {
        let mut outgoing = Vec::with_capacity(3);
        for _ in 0..3 {
            outgoing.push(quic.open_uni().await?);
        }
        Ok(Quic { quic, outgoing, incoming: None, wanted: Rc::new(Cell::new(u64::MAX)) })
    }

    /// Most that a field section may count which the peer takes, once its SETTINGS have come.
    pub(super) fn wanted(&self) -> Rc<Cell<u64>> {
        Rc::clone(&self.wanted)
    }
}

impl quic::Connection<Bytes> for Quic {
    type RecvStream = Incoming;
    type OpenStreams = Opener;

    fn poll_accept_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Incoming, ConnectionErrorIncoming>> {
        let quic = &self.quic;
        let accept = self.incoming.get_or_insert_with(|| {
            let quic = quic.clone();
            Box::pin(async move { quic.accept_uni().await })
        });
        let stream = ready!(accept.as_mut().poll(cx));
        self.incoming = None;
        let (quic, wanted, at) = (self.quic.clone(), self.wanted(), At::Type(FrameHeader::default()));
        Poll::Ready(match stream {
            Ok(stream) => Ok(Incoming { quic, stream, chunk: Bytes::new(), at, wanted }),
            Err(error) => Err(lost(error)),
        })
    }

    fn poll_accept_bidi(&mut self, _: &mut Context<'_>) -> Poll<Result<Request, ConnectionErrorIncoming>> {
        // The server accepts requests beside h3; a client allows the server none.
        Poll::Pending
    }

    fn opener(&self) -> Opener {
        Opener { quic: self.quic.clone() }
    }
}

impl quic::OpenStreams<Bytes> for Quic {
    type BidiStream = Request;
    type SendStream = Outgoing;

    fn poll_open_bidi(&mut self, _: &mut Context<'_>) -> Poll<Result<Request, StreamErrorIncoming>> {
        Poll::Ready(Err(refused("request streams are opened beside h3")))
    }

    fn poll_open_send(&mut self, _: &mut Context<'_>) -> Poll<Result<Outgoing, StreamErrorIncoming>> {
        let stream = self.outgoing.pop().ok_or_else(|| refused("h3 opens three streams"));
        Poll::Ready(stream.map(|stream| Outgoing { stream, queue: BytesMut::new() }))
    }

    fn close(&mut self, reason: Code, text: &[u8]) {
        self.quic.close(code(reason), text);
    }
}

/// Opens requests, as far as h3 knows.
#[derive(Clone)]
pub(super) struct Opener {
    quic: quinn::Connection,
}

impl quic::OpenStreams<Bytes> for Opener {
    type BidiStream = Request;
    type SendStream = Outgoing;

    fn poll_open_bidi(&mut self, _: &mut Context<'_>) -> Poll<Result<Request, StreamErrorIncoming>> {
        Poll::Ready(Err(refused("request streams are opened beside h3")))
    }

    fn poll_open_send(&mut self, _: &mut Context<'_>) -> Poll<Result<Outgoing, StreamErrorIncoming>> {
        Poll::Ready(Err(refused("no stream is opened but by the connection")))
    }

    fn close(&mut self, reason: Code, text: &[u8]) {
        self.quic.close(code(reason), text);
    }
}

/// A request stream, as far as h3 knows: it never gets one.
pub(super) enum Request {}

impl quic::SendStream<Bytes> for Request {
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        match *self {}
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, _: T) -> Result<(), StreamErrorIncoming> {
        match *self {}
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        match *self {}
    }

    fn reset(&mut self, _: u64) {
        match *self {}
    }

    fn send_id(&self) -> StreamId {
        match *self {}
    }
}

impl quic::RecvStream for Request {
    type Buf = Bytes;

    fn poll_data(&mut self, _: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        match *self {}
    }

    fn stop_sending(&mut self, _: u64) {
        match *self {}
    }

    fn recv_id(&self) -> StreamId {
        match *self {}
    }
}

/// A unidirectional stream of ours.
pub(super) struct Outgoing {
    stream: quinn::SendStream,
    queue: BytesMut,
}

impl quic::SendStream<Bytes> for Outgoing {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        while !self.queue.is_empty() {
            let written = ready!(pin!(self.stream.write(&self.queue)).poll(cx)).map_err(|error| match error {
                quinn::WriteError::Stopped(code) => {
                    StreamErrorIncoming::StreamTerminated { error_code: code.into_inner() }
                }
                quinn::WriteError::ConnectionLost(error) => {
                    StreamErrorIncoming::ConnectionErrorIncoming { connection_error: lost(error) }
                }
                error => StreamErrorIncoming::Unknown(Box::new(error)),
            })?;
            self.queue.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        self.queue.put(data.into());
        Ok(())
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        Poll::Ready(self.stream.finish().map_err(|error| StreamErrorIncoming::Unknown(Box::new(error))))
    }

    fn reset(&mut self, reset_code: u64) {
        let _ = self.stream.reset(quinn::VarInt::from_u64(reset_code).unwrap_or(quinn::VarInt::MAX));
    }

    fn send_id(&self) -> StreamId {
        id(quinn::VarInt::from(self.stream.id()).into_inner())
    }
}

/// A unidirectional stream of the peer.
pub(super) struct Incoming {
    quic: quinn::Connection,
    stream: quinn::RecvStream,
    chunk: Bytes,
    at: At,
    wanted: Rc<Cell<u64>>,
}

enum At {
    /// Before or in the stream's type.
    Type(FrameHeader),
    /// In a control stream.
    Control(Control),
    /// In a stream of another type, of which h3 reads nothing more.
    Other,
}

impl quic::RecvStream for Incoming {
    type Buf = Bytes;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        loop {
            if let At::Control(control) = &mut self.at
                && let Some(frame) =
                    control.read(&mut self.chunk).map_err(|violation| violated(&self.quic, violation))?
            {
                if let Some(wanted) = control::max_field_section_size(&frame) {
                    self.wanted.set(wanted);
                }
                return Poll::Ready(Ok(Some(frame)));
            }
            if self.chunk.is_empty() {
                match ready!(pin!(self.stream.read_chunk(usize::MAX, true)).poll(cx)) {
                    Ok(Some(chunk)) => self.chunk = chunk.bytes,
                    Ok(None) => return Poll::Ready(Ok(None)),
                    Err(error) => return Poll::Ready(Err(unreadable(error))),
                }
            }
            match &mut self.at {
                At::Type(header) => {
                    if let Some(bytes) = header.read_type(&mut self.chunk) {
                        self.at = match varint(&mut &bytes[..]) {
                            Some(CONTROL) => At::Control(Control::default()),
                            Some(PUSH) => return Poll::Ready(Err(violated(&self.quic, pushed(self.quic.side())))),
                            _ => At::Other,
                        };
                        return Poll::Ready(Ok(Some(bytes)));
                    }
                }
                At::Control(_) => {}
                At::Other => return Poll::Ready(Ok(Some(std::mem::take(&mut self.chunk)))),
            }
        }
    }

    fn stop_sending(&mut self, error_code: u64) {
        let _ = self.stream.stop(quinn::VarInt::from_u64(error_code).unwrap_or(quinn::VarInt::MAX));
    }

    fn recv_id(&self) -> StreamId {
        id(quinn::VarInt::from(self.stream.id()).into_inner())
    }
}

/// What a push stream is: clients have none, and we as a client allow none (RFC 9114 sections 4.6 and 6.2.2).
fn pushed(side: quinn::Side) -> Violation {
    match side {
        quinn::Side::Server => (Code::H3_STREAM_CREATION_ERROR, "a push stream of a client"),
        quinn::Side::Client => (Code::H3_ID_ERROR, "a push stream where no push is allowed"),
    }
}

/// Closes the connection for what the peer did.
fn violated(quic: &quinn::Connection, (reason, what): Violation) -> StreamErrorIncoming {
    quic.close(code(reason), what.as_bytes());
    refused(what)
}

fn id(id: u64) -> StreamId {
    // Every id that quinn gives is a valid one.
    StreamId::try_from(id).unwrap_or_else(|_| VarInt::from(0_u8).into())
}

fn refused(what: &str) -> StreamErrorIncoming {
    StreamErrorIncoming::ConnectionErrorIncoming {
        connection_error: ConnectionErrorIncoming::InternalError(what.to_owned()),
    }
}

fn lost(error: quinn::ConnectionError) -> ConnectionErrorIncoming {
    match error {
        quinn::ConnectionError::ApplicationClosed(close) => {
            ConnectionErrorIncoming::ApplicationClose { error_code: close.error_code.into_inner() }
        }
        quinn::ConnectionError::TimedOut => ConnectionErrorIncoming::Timeout,
        error => ConnectionErrorIncoming::Undefined(Arc::new(error)),
    }
}

fn unreadable(error: quinn::ReadError) -> StreamErrorIncoming {
    match error {
        quinn::ReadError::Reset(code) => StreamErrorIncoming::StreamTerminated { error_code: code.into_inner() },
        quinn::ReadError::ConnectionLost(error) => {
            StreamErrorIncoming::ConnectionErrorIncoming { connection_error: lost(error) }
        }
        error => StreamErrorIncoming::Unknown(Box::new(error)),
    }
}
