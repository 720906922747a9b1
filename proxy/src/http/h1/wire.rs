//! One HTTP/1 connection: what was read and not used yet, what is to be written, and where in a message it stands.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::AsyncWrite;
use tokio::task::coop;
use tokio_util::io::poll_read_buf;

use super::chunk::{Chunked, Piece};
use super::client::{Idle, Lease};
use super::parse::Framing;
use super::write;
use crate::fault::{Fault, Reason};
use crate::http::body::{Body, Frame, Half};
use crate::http::output::Output;
use crate::http::room;
use crate::net::io::Io;
use crate::net::turn::{self, Writer};
use crate::telemetry::trail::Carrier;

/// Bytes asked of one read when little is expected.
const READ_SMALL: usize = 4 * 1024;

/// Bytes asked of one read while a body flows: a TLS record, and four of them make no difference any more.
const READ_LARGE: usize = 64 * 1024;

/// A message whose end has less than this to be written may wait for the other messages of its turn.
const COLLECT: usize = 16 * 1024;

/// A connection that speaks HTTP/1.
#[derive(Debug)]
pub struct Wire {
    io: Io,
    pub(super) input: BytesMut,
    /// How far `input` was searched for the end of a head.
    pub(super) scanned: usize,
    output: Output,
    decoder: Decoder,
    read_size: usize,
    /// Who looked for input last, and whether it is woken when there is some.
    reader: Option<Waker>,
    watched: bool,
    /// What it has to say is written at the end of this turn.
    waits: bool,
    /// The end of the connection is the end of what is sent, and was not sent yet.
    unfinished: bool,
    /// Counts it among those of its endpoint.
    _lease: Option<Lease>,
}

#[derive(Debug)]
enum Decoder {
    /// Nothing (more) of a body comes.
    End,
    Length(u64),
    Chunked(Chunked),
    Close,
}

impl Wire {
    /// A fresh connection.
    pub fn new(io: Io) -> Self {
        Wire {
            io,
            input: BytesMut::new(),
            scanned: 0,
            output: Output::default(),
            decoder: Decoder::End,
            read_size: READ_SMALL,
            reader: None,
            watched: false,
            waits: false,
            unfinished: false,
            _lease: None,
        }
    }

    /// The same, counted among those of its endpoint for as long as it is open.
    pub fn counted(io: Io, lease: Lease) -> Self {
        let mut wire = Wire::new(io);
        wire._lease = Some(lease);
        wire
    }

    /// A fresh connection that carries opaque bytes. It is closed in order only when all that was to be sent was sent: else
    /// it is reset, so that nobody takes a part for the whole.
    pub fn tunnel(io: Io) -> Self {
        let mut wire = Wire::new(io);
        wire.expect(Framing::Tunnel);
        wire.ends_with_it();
        wire
    }

    /// What is known of it.
    pub fn carrier(&self) -> Rc<Carrier> {
        self.io.carrier()
    }

    /// What is sent from here on ends with the connection, which is reset if it is dropped before: nobody is to take a part for the whole.
    pub(super) fn ends_with_it(&mut self) {
        self.unfinished = true;
    }

    /// Whether nobody can tell from what was sent that it is not all.
    pub(super) fn is_unfinished(&self) -> bool {
        self.unfinished
    }

    /// The message whose head was just read has content that is delimited so.
    pub(super) fn expect(&mut self, framing: Framing) {
        self.decoder = match framing {
            // Nothing more will come: waiting for it would be waiting for the next message.
            Framing::Empty | Framing::Length(0) => Decoder::End,
            Framing::Length(length) => Decoder::Length(length),
            Framing::Chunked => Decoder::Chunked(Chunked::Size),
            Framing::Close | Framing::Tunnel => Decoder::Close,
        };
    }

    /// Whether the content of the current message was read to its end.
    pub(super) fn body_read(&self) -> bool {
        matches!(self.decoder, Decoder::End)
    }

    /// Reads what is there; 0 is the end of the connection.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // Most looks are in vain: something else has woken who looks.
        let watched = self.watched && self.reader.as_ref().is_some_and(|reader| reader.will_wake(cx.waker()));
        if watched && self.io.is_silent() {
            return Poll::Pending;
        }
        if self.input.capacity() == 0 {
            self.input = room::lend(0);
        }
        if self.input.capacity() - self.input.len() < self.read_size / 2 {
            self.input.reserve(self.read_size);
        }
        let Poll::Ready(read) = poll_read_buf(Pin::new(&mut self.io), cx, &mut self.input) else {
            match &mut self.reader {
                Some(reader) => reader.clone_from(cx.waker()),
                None => self.reader = Some(cx.waker().clone()),
            }
            // A task that has had its share of this turn is put off before anybody looks.
            self.watched = coop::has_budget_remaining();
            self.spare();
            return Poll::Pending;
        };
        self.watched = false;
        let n = read?;
        // A read that filled its room announces more of the same.
        self.read_size = if n >= self.read_size / 2 { (self.read_size * 4).min(READ_LARGE) } else { self.read_size };
        Poll::Ready(Ok(n))
    }

    /// Whether the other side has ended or reset the connection, as far as the kernel has heard of it.
    pub(super) fn is_hung_up(&self) -> bool {
        self.io.is_hung_up()
    }

    /// Open, and without a byte that nobody asked for: such a connection may carry a request (RFC 9112 section 9.3.1).
    pub(super) fn is_quiet(&mut self) -> bool {
        self.input.is_empty()
            && (self.io.is_silent() || self.poll_fill(&mut Context::from_waker(Waker::noop())).is_pending())
    }

    /// Gives back the room for reading while nothing is expected.
    pub(super) fn rest(&mut self) {
        self.read_size = READ_SMALL;
        self.spare();
        if self.output.is_empty() {
            self.output.rest();
        }
    }

    /// Leaves the block to the next reader, if nothing is in it.
    fn spare(&mut self) {
        if self.input.is_empty() && self.input.capacity() > 0 {
            room::give_back(std::mem::take(&mut self.input));
        }
    }

    /// Whoever reads it next is somebody else: the one before is not held on to.
    pub(super) fn unread(&mut self) {
        (self.reader, self.watched) = (None, false);
    }

    /// The next frame of the current message's body.
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        malformed: Reason,
        incomplete: Reason,
    ) -> Poll<Option<Result<Frame, Fault>>> {
        loop {
            match &mut self.decoder {
                Decoder::End => return Poll::Ready(None),
                Decoder::Length(left) if !self.input.is_empty() => {
                    let n = usize::try_from(*left).unwrap_or(usize::MAX).min(self.input.len());
                    *left -= n as u64;
                    if *left == 0 {
                        self.decoder = Decoder::End;
                    }
                    return Poll::Ready(Some(Ok(Frame::Data(self.input.split_to(n).freeze()))));
                }
                Decoder::Close if !self.input.is_empty() => {
                    return Poll::Ready(Some(Ok(Frame::Data(self.input.split().freeze()))));
                }
                Decoder::Length(_) | Decoder::Close => {}
                Decoder::Chunked(chunked) => match chunked.decode(&mut self.input) {
                    Ok(Piece::Data(data)) => return Poll::Ready(Some(Ok(Frame::Data(data)))),
                    Ok(Piece::Trailers(trailers)) => {
                        self.decoder = Decoder::End;
                        return Poll::Ready(Some(Ok(Frame::Trailers(trailers))));
                    }
                    Ok(Piece::End) => {
                        self.decoder = Decoder::End;
                        return Poll::Ready(None);
                    }
                    Ok(Piece::More) => {}
                    Err(why) => return Poll::Ready(Some(Err(Fault::new(malformed).detail(why)))),
                },
            }
            match ready!(self.poll_fill(cx)) {
                Ok(0) if matches!(self.decoder, Decoder::Close) => {
                    self.decoder = Decoder::End;
                    return Poll::Ready(None);
                }
                Ok(0) => {
                    return Poll::Ready(Some(Err(
                        Fault::new(incomplete).detail("the connection ended in the middle of a body")
                    )));
                }
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(Fault::new(incomplete).from(error)))),
            }
        }
    }

    /// All of the current message's content, if what is left of it was announced, is here, and `fits`.
    fn take_whole(&mut self, fits: impl Fn(usize) -> bool) -> Option<Bytes> {
        let Decoder::Length(left) = self.decoder else { return None };
        let length = usize::try_from(left).ok().filter(|length| *length <= self.input.len() && fits(*length))?;
        self.decoder = Decoder::End;
        Some(self.input.split_to(length).freeze())
    }

    /// Where heads are written.
    pub(super) fn head_out(&mut self) -> &mut BytesMut {
        self.output.tail()
    }

    /// Whether something waits that the end of this turn does not write.
    pub(super) fn has_rest(&self) -> bool {
        !self.waits && !self.output.is_empty()
    }

    /// Writes all that is collected.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.output.poll_write(Pin::new(&mut self.io), cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Tells the other side that nothing more will be sent.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
        self.unfinished = false;
        Poll::Ready(Ok(()))
    }
}

impl Writer for RefCell<Wire> {
    fn write(&self, cx: &mut Context<'_>) {
        // Nobody holds on to it from one poll to the next.
        let Ok(mut wire) = self.try_borrow_mut() else { return };
        wire.waits = false;
        match wire.poll_flush(cx) {
            Poll::Ready(Ok(())) => wire.output.rest(),
            // Who uses it tries once more, and hears of it.
            Poll::Ready(Err(_)) => cx.waker().wake_by_ref(),
            Poll::Pending => {}
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.unfinished {
            self.io.reset();
        }
    }
}

/// Appends content as it is framed.
fn write_data(output: &mut Output, data: Bytes, framing: Framing) {
    if framing != Framing::Chunked {
        return output.push(data);
    }
    // At most 16 hexadecimal digits and the line end.
    let mut digits = [0; 16];
    output.tail().put_slice(hex(data.len(), &mut digits));
    output.tail().put_slice(b"\r\n");
    output.push(data);
    output.tail().put_slice(b"\r\n");
}

fn hex(mut n: usize, digits: &mut [u8; 16]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b"0123456789abcdef"[n & 15];
        n >>= 4;
        if n == 0 {
            return &digits[at..];
        }
    }
}

/// The body of the message that a connection is reading.
#[derive(Debug)]
pub struct Incoming {
    wire: Rc<RefCell<Wire>>,
    half: Half,
    /// Where a client connection goes when the message is over and it may carry another.
    home: Option<Rc<Idle>>,
}

impl Incoming {
    pub(super) fn new(wire: Rc<RefCell<Wire>>, half: Half, home: Option<Rc<Idle>>) -> Self {
        Incoming { wire, half, home }
    }

    /// The next frame.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Fault>>> {
        let (malformed, incomplete) = match self.half {
            Half::Request => (Reason::HttpRequestError, Reason::RequestIncomplete),
            Half::Response => (Reason::HttpProtocolError, Reason::ConnectionTerminated),
        };
        let mut wire = self.wire.borrow_mut();
        let frame = ready!(wire.poll_frame(cx, malformed, incomplete));
        let done = wire.body_read();
        drop(wire);
        if done {
            self.rest();
        }
        Poll::Ready(frame)
    }

    /// Whether nothing more will come.
    pub fn is_end(&self) -> bool {
        self.wire.borrow().body_read()
    }

    /// See [`Body::take_whole`].
    pub fn take_whole(&mut self, fits: impl Fn(usize) -> bool) -> Option<Bytes> {
        let content = self.wire.borrow_mut().take_whole(fits)?;
        self.rest();
        Some(content)
    }

    /// The message is over: its connection may carry another.
    fn rest(&mut self) {
        if let Some(home) = self.home.take() {
            home.put(Rc::clone(&self.wire));
        }
    }
}

/// A body on its way into a connection.
#[derive(Debug)]
pub struct Pump {
    body: Body,
    wire: Rc<RefCell<Wire>>,
    framing: Framing,
    state: Stage,
    side: Half,
    /// The end of a message may wait for other messages: whoever polls this needs not be told that it was written.
    waits: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Body,
    /// All is collected, and may wait for other messages.
    Turn,
    Flush,
    Shutdown,
    Upload,
}

impl Pump {
    pub(super) fn new(body: Body, wire: Rc<RefCell<Wire>>, framing: Framing, side: Half) -> Self {
        Pump { body, wire, framing, state: Stage::Body, side, waits: !framing.ends_with_connection() }
    }

    /// From now on it is not polled again unless it is woken.
    pub(super) fn carried(mut self) -> Self {
        self.waits = false;
        self
    }

    /// See [`crate::http::body::Pump::poll`].
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        let gone = match self.side {
            Half::Request => Reason::ConnectionTerminated,
            Half::Response => Reason::DownstreamAborted,
        };
        let broken = |error: io::Error| Fault::new(gone).from(error);
        loop {
            match self.state {
                Stage::Body => {
                    if !self.wire.borrow().output.has_room() {
                        self.body.poll_upload(cx)?;
                        ready!(self.wire.borrow_mut().poll_flush(cx)).map_err(broken)?;
                    }
                    let Poll::Ready(frame) = self.body.poll_frame(cx) else {
                        ready!(self.wire.borrow_mut().poll_flush(cx)).map_err(broken)?;
                        return Poll::Pending;
                    };
                    let frame = frame.transpose()?;
                    let mut wire = self.wire.borrow_mut();
                    self.state = match frame {
                        Some(Frame::Data(data)) if data.is_empty() || self.framing == Framing::Empty => Stage::Body,
                        Some(Frame::Data(data)) => {
                            write_data(&mut wire.output, data, self.framing);
                            Stage::Body
                        }
                        Some(Frame::Trailers(trailers)) if self.framing == Framing::Chunked => {
                            wire.output.tail().put_slice(b"0\r\n");
                            write::trailers(wire.output.tail(), &trailers);
                            self.framing = Framing::Empty;
                            Stage::Body
                        }
                        // RFC 9110 section 6.5.2: a framing without trailers drops them.
                        Some(Frame::Trailers(_)) => Stage::Body,
                        None => {
                            if self.framing == Framing::Chunked {
                                wire.output.tail().put_slice(b"0\r\n\r\n");
                            }
                            Stage::Turn
                        }
                    };
                }
                Stage::Turn => {
                    self.state = Stage::Flush;
                    let mut wire = self.wire.borrow_mut();
                    if self.waits
                        && wire.output.len() < COLLECT
                        && !self.body.uploads()
                        && turn::collect(&self.wire, cx)
                    {
                        wire.waits = true;
                        drop(wire);
                        return match self.side {
                            // What comes of it is told to who reads the answer.
                            Half::Request => Poll::Pending,
                            // And here to who reads the next request.
                            Half::Response => Poll::Ready(Ok(())),
                        };
                    }
                }
                Stage::Flush => {
                    let flushed = self.wire.borrow_mut().poll_flush(cx).map_err(broken)?;
                    if flushed.is_pending() {
                        if self.side == Half::Response {
                            // A client that makes no room for the end would hold it for ever.
                            self.body.poll_upload(cx)?;
                        }
                        return Poll::Pending;
                    }
                    self.state = if self.framing.ends_with_connection() { Stage::Shutdown } else { Stage::Upload };
                }
                // A tunnel ends in each direction for itself.
                Stage::Shutdown => {
                    self.body.poll_upload(cx)?;
                    ready!(self.wire.borrow_mut().poll_shutdown(cx)).map_err(broken)?;
                    self.state = Stage::Upload;
                }
                Stage::Upload => return self.body.poll_uploaded(cx),
            }
        }
    }
}
