//! A TLS 1.3 connection after its handshake, with a record layer of our own.
//!
//! What rustls does: the handshake (whose end [`super::handshake`] awaits), the schedule of keys and the memory of sessions (a
//! `KernelConnection`, which it has for just this division of labour, kernel TLS being the other use), and every cipher. What is
//! done here is the rest of RFC 8446: records with their numbers and limits ([`super::record`]), the messages that may follow a
//! handshake and the order of everything ([`super::reader`]), alerts, the answer to an update of keys and our own before a key has
//! protected too much, and the two ends of a connection, which are ended apart: `close_notify` for what we say, and for what we hear
//! a difference between an end that was said and one that just happened.
//!
//! Why not rustls' own record layer: it reads 18 KiB at most at a time into a buffer of each connection, moves what is left of a record
//! to its front, copies content into a vector per record and from there to the reader. Here many records come with one read into a block
//! of the worker ([`crate::tls::block`]) and are opened where they lie, and [`Stream::poll_content`] hands those places out: content is
//! copied nowhere. A connection that rests holds keys, and no block.
//!
//! Everything that a peer can make this hold is bounded: one block with the beginning of a record, a message of 64 KiB, and
//! [`BATCH`] of sealed records, before which nothing more is accepted for writing.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use rustls::client::ClientConnectionData;
use rustls::crypto::cipher::OutboundChunks;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{
    AlertDescription, ConnectionTrafficSecrets, ContentType, Error, ExtractedSecrets, HandshakeType,
    SupportedCipherSuite, Tls13CipherSuite,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

use super::block;
use super::reader::{Event, Reader};
use super::record::{Broken, MAX_CONTENT, MAX_RECORD, Opener, Sealer};

/// Content that is sealed for one write: a little more than four full records, so that what HTTP/2 gathers, four full frames with their
/// headers, leaves at once.
const BATCH: usize = 5 * MAX_CONTENT;

/// Pieces that are gathered for one write; what has more goes in several.
const PIECES: usize = 32;

/// Records of one write: a batch, and what may come before it and after it.
const RECORDS: usize = 8;

/// A warning, in an alert. All but `close_notify` are fatal.
const WARNING: u8 = 1;
const FATAL: u8 = 2;

/// An established connection.
pub struct Stream<IO = TcpStream> {
    io: IO,
    secrets: Secrets,
    suite: &'static Tls13CipherSuite,
    reader: Reader,
    /// Records that were read.
    block: BytesMut,
    /// Content of which a part was taken.
    rest: BytesMut,
    /// Nothing more is read.
    end: Option<End>,
    sealer: Sealer,
    /// Sealed records that are not written, and how much of the first one is.
    outbox: VecDeque<Vec<u8>>,
    written: usize,
    /// The peer wants our key to change before we say anything more.
    answer: bool,
    /// Nothing more is said: `close_notify` or another alert was.
    silent: bool,
}

/// How reading ended.
enum End {
    /// The peer said so.
    Closed,
    Broken(Error),
}

/// The schedule of keys.
pub(super) enum Secrets {
    Client(KernelConnection<ClientConnectionData>),
    Server(KernelConnection<ServerConnectionData>),
}

impl Secrets {
    fn suite(&self) -> SupportedCipherSuite {
        match self {
            Secrets::Client(keys) => keys.negotiated_cipher_suite(),
            Secrets::Server(keys) => keys.negotiated_cipher_suite(),
        }
    }

    fn next_to_open(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error> {
        match self {
            Secrets::Client(keys) => keys.update_rx_secret(),
            Secrets::Server(keys) => keys.update_rx_secret(),
        }
    }

    fn next_to_seal(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error> {
        match self {
            Secrets::Client(keys) => keys.update_tx_secret(),
            Secrets::Server(keys) => keys.update_tx_secret(),
        }
    }

    /// Keeps a ticket. The reader has none for a server.
    fn keep(&mut self, ticket: &[u8]) -> Result<(), Error> {
        match self {
            Secrets::Client(keys) => keys.handle_new_session_ticket(ticket),
            Secrets::Server(_) => Ok(()),
        }
    }
}

impl<IO> Stream<IO> {
    /// A connection whose handshake is done, with what was read beyond it.
    ///
    /// # Errors
    /// If what was agreed is not TLS 1.3.
    pub(super) fn new(io: IO, extracted: ExtractedSecrets, secrets: Secrets, read: BytesMut) -> Result<Self, Error> {
        let suite = secrets.suite().tls13().ok_or(Error::HandshakeNotComplete)?;
        let reader = Reader::new(Opener::new(suite, extracted.rx)?, matches!(secrets, Secrets::Client(_)));
        let sealer = Sealer::new(suite, extracted.tx)?;
        Ok(Stream {
            io,
            secrets,
            suite,
            reader,
            block: read,
            rest: BytesMut::new(),
            end: None,
            sealer,
            outbox: VecDeque::new(),
            written: 0,
            answer: false,
            silent: false,
        })
    }

    /// What it runs on.
    pub fn io(&self) -> &IO {
        &self.io
    }

    /// Seals a record into the outbox, behind a change of our key if one is due.
    fn seal(&mut self, kind: ContentType, content: OutboundChunks<'_>) -> Result<(), Error> {
        if self.answer || self.sealer.is_worn() {
            let update = [HandshakeType::KeyUpdate.into(), 0, 0, 1, 0];
            self.outbox.push_back(self.sealer.seal(ContentType::Handshake, OutboundChunks::Single(&update))?);
            self.sealer = Sealer::new(self.suite, self.secrets.next_to_seal()?)?;
            self.answer = false;
        }
        self.outbox.push_back(self.sealer.seal(kind, content)?);
        Ok(())
    }

    /// Seals an alert, after which nothing more is said.
    fn alert(&mut self, level: u8, description: AlertDescription) -> Result<(), Error> {
        self.silent = true;
        self.seal(ContentType::Alert, OutboundChunks::Single(&[level, description.into()]))
    }

    /// Handles what is no content.
    fn handle(&mut self, event: Event) -> Result<Option<BytesMut>, Broken> {
        let ours = |error| Broken::new(AlertDescription::InternalError, error);
        match event {
            Event::Content(content) => return Ok(Some(content)),
            Event::Closed => {
                self.end = Some(End::Closed);
                // What follows is ignored (RFC 8446 section 6.1).
                self.block = BytesMut::new();
            }
            Event::Ticket(ticket) => self.secrets.keep(&ticket).map_err(|error| match error {
                Error::InvalidMessage(_) => Broken::new(AlertDescription::DecodeError, error),
                error => Broken::new(AlertDescription::IllegalParameter, error),
            })?,
            Event::KeyUpdate { answer } => {
                self.answer |= answer;
                let next = self.secrets.next_to_open().map_err(ours)?;
                self.reader.rekey(Opener::new(self.suite, next).map_err(ours)?);
            }
        }
        Ok(None)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Stream<IO> {
    /// The next content, where it was read to; `None` at the end that the peer has said.
    ///
    /// # Errors
    /// If the connection broke, or ended without having said so: [`io::ErrorKind::UnexpectedEof`]. An error of TLS, an alert of the
    /// peer included, is a [`rustls::Error`] inside.
    pub fn poll_content(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<BytesMut>>> {
        if !self.rest.is_empty() {
            return Poll::Ready(Ok(Some(std::mem::take(&mut self.rest))));
        }
        loop {
            match &self.end {
                Some(End::Closed) => return Poll::Ready(Ok(None)),
                Some(End::Broken(error)) => return Poll::Ready(Err(invalid(error.clone()))),
                None => {}
            }
            let next = self.reader.next(&mut self.block);
            match next.and_then(|event| event.map(|event| self.handle(event)).transpose()) {
                Ok(Some(Some(content))) => {
                    self.give_back();
                    return Poll::Ready(Ok(Some(content)));
                }
                Ok(Some(None)) => {}
                Ok(None) => {
                    let read = self.poll_read_records(cx);
                    self.give_back();
                    if ready!(read)? == 0 {
                        let text = "the peer closed the connection without close_notify";
                        return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, text)));
                    }
                }
                Err(broken) => self.broke(cx, broken),
            }
        }
    }

    fn poll_read_records(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        block::prepare(&mut self.block, MAX_RECORD);
        poll_read_buf(Pin::new(&mut self.io), cx, &mut self.block)
    }

    /// A connection that rests holds no block.
    fn give_back(&mut self) {
        if self.block.is_empty() {
            block::give_back(&mut self.block);
        }
    }

    /// Ends both directions, and tells the peer why, as far as that can be written at once.
    fn broke(&mut self, cx: &mut Context<'_>, Broken { error, alert }: Broken) {
        self.block = BytesMut::new();
        self.end = Some(End::Broken(error));
        if let Some(alert) = alert
            && !self.silent
            && self.alert(FATAL, alert).is_ok()
        {
            let _ = self.poll_outbox(cx);
        }
        self.silent = true;
    }

    /// Writes what is sealed.
    fn poll_outbox(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(first) = self.outbox.front() {
            let io = Pin::new(&mut self.io);
            let n = if self.outbox.len() == 1 {
                ready!(io.poll_write(cx, &first[self.written..]))?
            } else {
                let mut slices = [IoSlice::new(&[]); RECORDS];
                let waiting = slices.iter_mut().zip(&self.outbox);
                let count = waiting.map(|(slice, record)| *slice = IoSlice::new(record)).count();
                slices[0] = IoSlice::new(&first[self.written..]);
                ready!(io.poll_write_vectored(cx, &slices[..count]))?
            };
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += n;
            while let Some(first) = self.outbox.front()
                && self.written >= first.len()
            {
                self.written -= first.len();
                self.outbox.pop_front();
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Seals as much as one write carries, and writes it as far as it goes; the rest waits, and nothing more is taken before it is written.
    fn poll_write_pieces(&mut self, cx: &mut Context<'_>, pieces: &[&[u8]]) -> Poll<io::Result<usize>> {
        ready!(self.poll_outbox(cx))?;
        match &self.end {
            Some(End::Broken(error)) => return Poll::Ready(Err(invalid(error.clone()))),
            _ if self.silent => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            _ => {}
        }
        let length = pieces.iter().map(|piece| piece.len()).sum::<usize>().min(BATCH);
        for start in (0..length).step_by(MAX_CONTENT) {
            let end = length.min(start + MAX_CONTENT);
            let content = match pieces {
                [piece] => OutboundChunks::Single(&piece[start..end]),
                chunks => OutboundChunks::Multiple { chunks, start, end },
            };
            self.seal(ContentType::ApplicationData, content).map_err(io::Error::other)?;
        }
        match self.poll_outbox(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(length)),
        }
    }
}

fn invalid(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(mut content) = ready!(this.poll_content(cx))? {
            let n = content.len().min(buf.remaining());
            buf.put_slice(&content[..n]);
            content.advance(n);
            if !content.is_empty() {
                this.rest = content;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_write_pieces(cx, &[buf])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut pieces: [&[u8]; PIECES] = [&[]; PIECES];
        let filled = bufs.iter().filter(|buf| !buf.is_empty());
        let count = pieces.iter_mut().zip(filled).map(|(piece, buf)| *piece = buf).count();
        self.get_mut().poll_write_pieces(cx, &pieces[..count])
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_outbox(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    /// Says that nothing more will be said; what the peer says is still read.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.silent {
            this.alert(WARNING, AlertDescription::CloseNotify).map_err(io::Error::other)?;
        }
        ready!(this.poll_outbox(cx))?;
        match ready!(Pin::new(&mut this.io).poll_shutdown(cx)) {
            // The peer was faster.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            shut => Poll::Ready(shut),
        }
    }
}

impl<IO> fmt::Debug for Stream<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").finish_non_exhaustive()
    }
}
