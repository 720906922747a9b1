//! Moves bytes between a connection's state and its socket.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::AsyncWrite;

use super::connection::{Connection, Over, Shared};
use crate::net::io::Io;

/// Reads in one turn: others of the same worker want to be served, too.
const READS: usize = 16;

/// A connection's socket.
#[derive(Debug)]
pub(super) struct Driver {
    io: Io,
    shared: Shared,
    /// The beginning of a frame.
    buffer: BytesMut,
    /// Something was written that may still be in TLS.
    unflushed: bool,
    /// What the socket said when it broke.
    broken: Option<io::Error>,
}

impl Driver {
    pub(super) fn new(io: Io, server: bool) -> Self {
        let shared = Rc::new(RefCell::new(Connection::new(server)));
        Driver { io, shared, buffer: BytesMut::new(), unflushed: false, broken: None }
    }

    pub(super) fn shared(&self) -> Shared {
        Rc::clone(&self.shared)
    }

    /// What the socket said when it broke.
    pub(super) fn take_error(&mut self) -> Option<io::Error> {
        self.broken.take()
    }

    /// Reads what is there and hands it to the state. The caller then looks at what that has made, and calls [`Driver::write`].
    pub(super) fn read(&mut self, cx: &mut Context<'_>) {
        let connection = &mut *self.shared.borrow_mut();
        connection.driven(cx, true);
        for turn in 0.. {
            if connection.over.is_some() || connection.is_behind() {
                break;
            }
            if turn == READS {
                cx.waker().wake_by_ref();
                break;
            }
            match self.io.poll_fill(cx, &mut self.buffer) {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => connection.end(Over::Lost("the peer closed the connection")),
                Poll::Ready(Ok(_)) => connection.receive(&mut self.buffer),
                Poll::Ready(Err(error)) => {
                    self.broken = Some(error);
                    connection.end(Over::Lost("the connection broke"));
                }
            }
        }
        self.io.rest(&mut self.buffer);
    }

    /// Writes what the state has to say. Afterwards the task is woken when there is more, or room for it.
    pub(super) fn write(&mut self, cx: &mut Context<'_>) {
        let connection = &mut *self.shared.borrow_mut();
        loop {
            if connection.over.is_none() {
                connection.schedule();
            }
            if connection.output.is_empty() {
                connection.answers = 0;
                break;
            }
            let blocked = connection.is_behind();
            self.unflushed = true;
            match connection.output.poll_write(Pin::new(&mut self.io), cx) {
                Poll::Ready(Ok(())) => connection.output.rest(),
                Poll::Ready(Err(error)) => {
                    self.broken = Some(error);
                    connection.end(Over::Lost("the connection broke"));
                    connection.output = Default::default();
                    break;
                }
                Poll::Pending => break,
            }
            if blocked {
                // There is room again for what was not read.
                cx.waker().wake_by_ref();
            }
        }
        if self.unflushed {
            match Pin::new(&mut self.io).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(error)) => {
                    self.broken = Some(error);
                    connection.end(Over::Lost("the connection broke"));
                }
                Poll::Pending => {}
            }
        }
        connection.driven(cx, false);
    }

    /// Whether all that was to be said has left.
    pub(super) fn is_written(&self, connection: &Connection) -> bool {
        connection.output.is_empty() && !self.unflushed
    }

    /// Whether it holds no memory for what comes.
    #[cfg(test)]
    pub(super) fn is_at_rest(&self) -> bool {
        self.buffer.capacity() == 0
    }

    /// Says the end of the connection, as far as that can be said at once.
    pub(super) fn shutdown(&mut self, cx: &mut Context<'_>) {
        self.write(cx);
        // Whoever does not read it will see the socket closed.
        let _ = Pin::new(&mut self.io).poll_shutdown(cx);
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.shared.borrow_mut().end(Over::Lost("the connection was closed here"));
    }
}
