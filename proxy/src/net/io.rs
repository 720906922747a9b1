//! One I/O type, so that each protocol is compiled once.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use rustix::event::{self, PollFd, PollFlags, Timespec};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

use crate::identity::Peer;
use crate::telemetry::trail::Carrier;
use crate::tls::{self, block};

/// What must be free of a block for another read.
const ROOM: usize = 16 * 1024;

/// A connection, after TLS if there is any.
#[derive(Debug)]
pub struct Io {
    /// Bytes that were read to find out the protocol, to be read again first.
    replay: Bytes,
    stream: Stream,
    /// What is known of a connection of ours.
    carrier: Option<Rc<Carrier>>,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Tls(Box<tls::Stream>),
}

impl Io {
    /// Plain TCP, of which some bytes were already read.
    pub fn tcp(stream: TcpStream, replay: Bytes) -> Self {
        Io { replay, stream: Stream::Tcp(stream), carrier: None }
    }

    /// TLS.
    pub fn tls(stream: tls::Stream) -> Self {
        Io { replay: Bytes::new(), stream: Stream::Tls(Box::new(stream)), carrier: None }
    }

    /// Plain TCP that was opened from here.
    pub fn opened(stream: TcpStream) -> Self {
        let carrier = Carrier { local: stream.local_addr().ok(), ends: None };
        Io { carrier: Some(Rc::new(carrier)), ..Io::tcp(stream, Bytes::new()) }
    }

    /// TLS that was opened from here: what it has shown of both ends, ours and the other.
    pub fn opened_tls(stream: tls::Stream, ends: (Arc<Peer>, Arc<Peer>)) -> Self {
        let carrier = Carrier { local: stream.io().local_addr().ok(), ends: Some(ends) };
        Io { carrier: Some(Rc::new(carrier)), ..Io::tls(stream) }
    }

    /// What is known of it; nothing if it was accepted.
    pub fn carrier(&self) -> Rc<Carrier> {
        self.carrier.clone().unwrap_or_default()
    }

    /// Whether nothing has come since it was last read to the end, as far as that is known without asking: never of TLS.
    #[inline]
    pub fn is_silent(&self) -> bool {
        match &self.stream {
            Stream::Tcp(stream) => self.replay.is_empty() && stream.try_io(Interest::READABLE, || Ok(())).is_err(),
            Stream::Tls(_) => false,
        }
    }

    /// Whether the other side has ended or reset the connection, as far as the kernel has heard of it: also where it sent something before
    /// that nobody has read.
    pub fn is_hung_up(&self) -> bool {
        let socket = match &self.stream {
            Stream::Tcp(stream) => stream,
            Stream::Tls(stream) => stream.io(),
        };
        let ends = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        let mut asked = [PollFd::new(socket, ends)];
        let answered = event::poll(&mut asked, Some(&Timespec::default()));
        answered.is_ok() && asked.iter().any(|asked| asked.revents().intersects(ends))
    }

    /// Reads what is there, behind what a buffer holds; 0 is the end. An empty buffer is made one that holds what was read where it was read
    /// to: a part of a block of the worker, which is to go back ([`Io::rest`]) when nothing more comes and all of it was used.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
        let Stream::Tls(stream) = &mut self.stream else {
            block::prepare(buffer, ROOM);
            return poll_read_buf(Pin::new(self), cx, buffer);
        };
        if buffer.is_empty() {
            // Nothing holds on to the block: it can be used again.
            *buffer = BytesMut::new();
        }
        let Some(content) = ready!(stream.poll_content(cx))? else { return Poll::Ready(Ok(0)) };
        let n = content.len();
        if buffer.is_empty() {
            *buffer = content;
        } else {
            buffer.extend_from_slice(&content);
        }
        Poll::Ready(Ok(n))
    }

    /// Gives back the room of a buffer that [`Io::poll_fill`] has filled, if it is empty.
    pub fn rest(&self, buffer: &mut BytesMut) {
        match &self.stream {
            _ if !buffer.is_empty() => {}
            Stream::Tcp(_) => block::give_back(buffer),
            // The block is TLS', and went back already.
            Stream::Tls(_) => *buffer = BytesMut::new(),
        }
    }

    /// Has the connection reset, not closed, when this is dropped: what is still to be sent is lost. For plain TCP; TLS has
    /// an end of its own, which is not sent then.
    pub fn reset(&self) {
        if let Stream::Tcp(stream) = &self.stream {
            // One that refuses is closed, which says less.
            let _ = stream.set_zero_linger();
        }
    }
}

macro_rules! stream {
    ($self:ident, $io:ident => $e:expr) => {
        match &mut $self.get_mut().stream {
            Stream::Tcp($io) => $e,
            Stream::Tls($io) => $e,
        }
    };
}

impl AsyncRead for Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.replay.has_remaining() {
            let n = self.replay.len().min(buf.remaining());
            buf.put_slice(&self.replay.split_to(n));
            return Poll::Ready(Ok(()));
        }
        stream!(self, io => Pin::new(io).poll_read(cx, buf))
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        stream!(self, io => Pin::new(io).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        stream!(self, io => Pin::new(io).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        stream!(self, io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        stream!(self, io => Pin::new(io).poll_shutdown(cx))
    }
}
