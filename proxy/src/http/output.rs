//! What a connection has to say: many small things, one write. Heads and frames are written here as they are made, large content goes by
//! reference, and all of it leaves together.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncWrite;

use super::room;

/// What waits here before more content is asked for: four full TLS records.
const ENOUGH: usize = 64 * 1024;

/// Content of this much is not copied.
const LARGE: usize = 8 * 1024;

/// Pieces of one write.
const PIECES: usize = 32;

/// A block that is larger is not kept for others.
const KEPT: usize = 64 * 1024;

/// What is to be written.
#[derive(Debug, Default)]
pub(super) struct Output {
    /// The first part, if large content is among it.
    pieces: VecDeque<Bytes>,
    tail: BytesMut,
    /// Bytes of `pieces`.
    length: usize,
    /// What was written last at once of the tail, and so is expected next time.
    usual: usize,
}

impl Output {
    /// Where small things are appended.
    pub(super) fn tail(&mut self) -> &mut BytesMut {
        if self.tail.capacity() == 0 {
            self.tail = room::lend(self.usual);
        }
        &mut self.tail
    }

    /// Appends content, behind what says how long it is.
    pub(super) fn push(&mut self, data: Bytes) {
        if data.len() < LARGE {
            return self.tail().extend_from_slice(&data);
        }
        let tail = self.tail.split().freeze();
        for piece in [tail, data] {
            if !piece.is_empty() {
                self.length += piece.len();
                self.pieces.push_back(piece);
            }
        }
    }

    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.length + self.tail.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether content should be added now.
    pub(super) fn has_room(&self) -> bool {
        self.len() < ENOUGH
    }

    /// Writes all of it.
    pub(super) fn poll_write(
        &mut self,
        mut io: Pin<&mut impl AsyncWrite>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.tail.is_empty() {
            self.usual = self.tail.len();
        }
        while !self.is_empty() {
            let n = if self.pieces.is_empty() {
                ready!(io.as_mut().poll_write(cx, &self.tail))?
            } else {
                let mut slices = [IoSlice::new(&[]); PIECES];
                let all = self.pieces.iter().map(|piece| &piece[..]).chain([&self.tail[..]]);
                let count = slices.iter_mut().zip(all).map(|(slice, piece)| *slice = IoSlice::new(piece)).count();
                ready!(io.as_mut().poll_write_vectored(cx, &slices[..count]))?
            };
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(n);
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut n: usize) {
        while let Some(piece) = self.pieces.front_mut() {
            let part = piece.len().min(n);
            piece.advance(part);
            self.length -= part;
            n -= part;
            if !piece.is_empty() {
                return;
            }
            self.pieces.pop_front();
        }
        if n == self.tail.len() {
            // And all of its room is free again.
            self.tail.clear();
        } else {
            self.tail.advance(n);
        }
    }

    /// Gives back what an idle connection does not need. All of it is written.
    pub(super) fn rest(&mut self) {
        let tail = std::mem::take(&mut self.tail);
        if tail.capacity() <= KEPT {
            room::give_back(tail);
        }
        if self.pieces.capacity() > 0 {
            self.pieces = VecDeque::new();
        }
    }

    /// All of it, as if it were written.
    #[cfg(test)]
    pub(super) fn take(&mut self) -> BytesMut {
        let mut all = BytesMut::new();
        self.pieces.drain(..).for_each(|piece| all.extend_from_slice(&piece));
        all.extend_from_slice(&self.tail.split());
        self.length = 0;
        all
    }

    /// Whether it holds no memory.
    #[cfg(test)]
    pub(super) fn is_at_rest(&self) -> bool {
        self.tail.capacity() == 0 && self.pieces.capacity() == 0
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn small_and_large_leave_in_order_and_nothing_is_held() {
        let mut output = Output::default();
        let mut expected = Vec::new();
        for number in 0..100_u8 {
            let piece = vec![number; if number % 3 == 0 { LARGE + 5 } else { 7 }];
            output.tail().extend_from_slice(b"frame");
            output.push(Bytes::from(piece.clone()));
            expected.extend_from_slice(b"frame");
            expected.extend_from_slice(&piece);
        }
        assert_eq!(output.len(), expected.len());
        assert!(!output.has_room());
        // A pipe that takes it in parts.
        let (mut near, mut far) = tokio::io::duplex(10_000);
        let mut read = vec![0; expected.len()];
        let (written, got) =
            tokio::join!(poll_fn(|cx| output.poll_write(Pin::new(&mut near), cx)), far.read_exact(&mut read));
        assert_eq!((written.unwrap(), got.unwrap()), ((), expected.len()));
        output.rest();
        assert!(read == expected && output.is_at_rest());
    }
}
