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

/// Gives the room of an empty buffer to whoever reads next.
pub fn give_back(buffer: &mut BytesMut) {
    debug_assert!(buffer.is_empty());
    if buffer.capacity() > 0 {
        SPARE.set(std::mem::take(buffer));
    }
}
