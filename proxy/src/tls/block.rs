//! Room to read into: a large block for whoever reads next, so that a connection that rests holds none.

use std::cell::Cell;

use bytes::BytesMut;

/// Four full records, or a few dozen small messages.
const BLOCK: usize = 64 * 1024;

thread_local! {
    static SPARE: Cell<BytesMut> = Cell::new(BytesMut::new());
}

/// Has a buffer have room for so many bytes, and then for as many as a block has.
pub fn prepare(buffer: &mut BytesMut, room: usize) {
    if buffer.capacity() == 0 {
        *buffer = SPARE.take();
    }
    if buffer.capacity() - buffer.len() < room {
        buffer.reserve(BLOCK.saturating_sub(buffer.len()).max(room));
    }
}

/// Gives the room of an empty buffer to whoever reads next; that of a handshake is not worth a block.
pub fn give_back(buffer: &mut BytesMut) {
    debug_assert!(buffer.is_empty());
    let (own, spare) = (std::mem::take(buffer), SPARE.take());
    SPARE.set(if own.capacity() > spare.capacity() { own } else { spare });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_larger_one_is_kept() {
        let (mut large, mut small) = (BytesMut::new(), BytesMut::with_capacity(100));
        prepare(&mut large, 1);
        let place = large.as_ptr();
        give_back(&mut large);
        give_back(&mut small);
        assert_eq!((large.capacity(), small.capacity()), (0, 0), "neither is held by who gave it back");
        prepare(&mut small, BLOCK);
        assert_eq!((small.as_ptr(), small.capacity()), (place, BLOCK));
    }
}
