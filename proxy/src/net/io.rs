//! One I/O type, so that each protocol is compiled once.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use crate::identity::Peer;
use crate::telemetry::trail::Carrier;

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
    Tls(Box<TlsStream<TcpStream>>),
}

impl Io {
    /// Plain TCP, of which some bytes were already read.
    pub fn tcp(stream: TcpStream, replay: Bytes) -> Self {
        Io { replay, stream: Stream::Tcp(stream), carrier: None }
    }

    /// TLS.
    pub fn tls(stream: impl Into<TlsStream<TcpStream>>) -> Self {
        Io { replay: Bytes::new(), stream: Stream::Tls(Box::new(stream.into())), carrier: None }
    }

    /// Plain TCP that was opened from here.
    pub fn opened(stream: TcpStream) -> Self {
        let carrier = Carrier { local: stream.local_addr().ok(), ends: None };
        Io { carrier: Some(Rc::new(carrier)), ..Io::tcp(stream, Bytes::new()) }
    }

    /// TLS that was opened from here: what it has shown of both ends, ours and the other.
    pub fn opened_tls(stream: impl Into<TlsStream<TcpStream>>, ends: Option<(Arc<Peer>, Peer)>) -> Self {
        let stream = stream.into();
        let carrier = Carrier { local: stream.get_ref().0.local_addr().ok(), ends };
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
