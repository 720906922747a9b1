//! Many frames, one write. The `h2` crate flushes after every DATA frame that is not tiny, so responses that are ready
//! together would each cost a system call and a TLS record of their own. Here they are gathered while the connection is
//! polled, and written when that is done.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::net::io::Io;

/// Most that is gathered before it is written: four full TLS records. More would wait for no use.
const MAX: usize = 64 * 1024;

/// One write of this much goes by itself if nothing waits before it: copying it would cost more than it saves.
const LARGE: usize = 16 * 1024;

/// The connection as the `h2` crate sees it, and, as a clone, as the driver of the connection does.
#[derive(Clone, Debug)]
pub(super) struct Gather(Rc<RefCell<State>>);

#[derive(Debug)]
struct State {
    io: Io,
    /// Gathered, not written yet.
    waiting: BytesMut,
    /// A turn is on: a flush can wait for its end.
    turn: bool,
    /// A write at the end of a turn failed: whoever reads or writes next is told.
    broken: Option<io::Error>,
}

impl Gather {
    pub(super) fn new(io: Io) -> Self {
        Gather(Rc::new(RefCell::new(State { io, waiting: BytesMut::new(), turn: false, broken: None })))
    }

    /// Polls the connection, then writes what that made.
    pub(super) fn turn<T>(&self, cx: &mut Context<'_>, poll: impl FnOnce(&mut Context<'_>) -> T) -> T {
        self.0.borrow_mut().turn = true;
        let polled = poll(cx);
        let state = &mut *self.0.borrow_mut();
        state.turn = false;
        // If the connection takes no more now, this task is woken when it does, and comes here again.
        if let Poll::Ready(Err(error)) = state.poll_flush(cx) {
            state.broken = Some(error);
            cx.waker().wake_by_ref();
        }
        polled
    }
}

impl State {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            let n = ready!(Pin::new(&mut self.io).poll_write(cx, &self.waiting))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.waiting.advance(n);
        }
        // An idle connection holds no room for what it may say one day.
        self.waiting = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Err(error));
        }
        let length: usize = bufs.iter().map(|buf| buf.len()).sum();
        if self.waiting.len() + length > MAX {
            ready!(self.poll_drain(cx))?;
        }
        if self.waiting.is_empty() && length >= LARGE {
            return Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        }
        self.waiting.reserve(length);
        bufs.iter().for_each(|buf| self.waiting.extend_from_slice(buf));
        Poll::Ready(Ok(length))
    }
}

impl AsyncRead for Gather {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let state = &mut *self.0.borrow_mut();
        match state.broken.take() {
            Some(error) => Poll::Ready(Err(error)),
            None => Pin::new(&mut state.io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Gather {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_write(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_write(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let state = &mut *self.0.borrow_mut();
        if state.turn { Poll::Ready(Ok(())) } else { state.poll_flush(cx) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let state = &mut *self.0.borrow_mut();
        ready!(state.poll_drain(cx))?;
        Pin::new(&mut state.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use bytes::Bytes;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    fn with_a_pair<F: Future<Output = ()>>(test: impl FnOnce(Gather, TcpStream) -> F) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let near = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a connection");
            let (far, _) = listener.accept().await.expect("a connection");
            test(Gather::new(Io::tcp(near, Bytes::new())), far).await;
        });
    }

    #[test]
    fn what_a_turn_writes_goes_at_its_end() {
        with_a_pair(|gather, mut far| async move {
            poll_fn(|cx| {
                gather.turn(cx, |cx| {
                    for piece in [&b"one "[..], b"two "] {
                        assert!(matches!(Pin::new(&mut gather.clone()).poll_write(cx, piece), Poll::Ready(Ok(4))));
                        assert!(matches!(Pin::new(&mut gather.clone()).poll_flush(cx), Poll::Ready(Ok(()))));
                    }
                    let waiting = gather.0.borrow().waiting.len();
                    assert_eq!(waiting, 8, "a flush waits for the end of the turn");
                    Poll::Ready(())
                })
            })
            .await;
            assert_eq!(gather.0.borrow().waiting.capacity(), 0, "written, and its room given back");
            // Outside a turn, as in a handshake, a flush is a flush.
            gather.clone().write_all(b"three").await.expect("written");
            gather.clone().flush().await.expect("flushed");
            let mut read = [0; 13];
            far.read_exact(&mut read).await.expect("all of it");
            assert_eq!(&read, b"one two three");
        });
    }

    #[test]
    fn no_more_waits_than_the_limit() {
        with_a_pair(|gather, mut far| async move {
            let piece = vec![7; LARGE - 1];
            let mut written = 0;
            // Nobody reads: the socket fills, then what waits, then a write must wait.
            poll_fn(|cx| {
                gather.turn(cx, |cx| {
                    while let Poll::Ready(n) = Pin::new(&mut gather.clone()).poll_write(cx, &piece) {
                        written += n.expect("written");
                        assert!(gather.0.borrow().waiting.len() <= MAX);
                    }
                });
                Poll::Ready(())
            })
            .await;
            assert!(!gather.0.borrow().waiting.is_empty());
            // Whoever reads gets all of it, in the end.
            let read = async {
                let mut bytes = vec![0; written];
                far.read_exact(&mut bytes).await.expect("all of it");
                bytes
            };
            let (bytes, flushed) = tokio::join!(read, async { gather.clone().flush().await });
            flushed.expect("flushed");
            assert!(bytes.iter().all(|byte| *byte == 7));
        });
    }

    #[test]
    fn a_failed_write_is_told() {
        with_a_pair(|gather, far| async move {
            drop(far);
            let mut other = gather.clone();
            let told =
                poll_fn(|cx| gather.turn(cx, |cx| Pin::new(&mut other).poll_write(cx, b"anybody?").map(|n| n.err())));
            // The first write after a close is taken by the kernel; one of the next is refused.
            let mut told = told.await;
            while told.is_none() {
                let mut other = gather.clone();
                told =
                    poll_fn(|cx| gather.turn(cx, |cx| Pin::new(&mut other).poll_write(cx, b"hello?").map(|n| n.err())))
                        .await;
                tokio::task::yield_now().await;
            }
            assert!(told.is_some());
        });
    }
}
