//! Room for bytes, lent by the worker: a connection that rests has none, and one that moves bytes need not ask the
//! allocator for it.

use std::cell::RefCell;

use bytes::BytesMut;

/// Bytes that a worker keeps for others at the most: as much as some dozens of small messages need at a time.
const KEPT: usize = 256 * 1024;

/// Buffers that it keeps: what was read of one may still be held by others, and counts for nothing above.
const BUFFERS: usize = 64;

thread_local! {
    static ROOM: RefCell<Room> = const { RefCell::new(Room { free: Vec::new(), bytes: 0 }) };
}

struct Room {
    free: Vec<BytesMut>,
    /// Bytes that are free in all of them.
    bytes: usize,
}

/// A buffer with nothing in it: one that was used before if there is one, else without room.
pub(super) fn lend() -> BytesMut {
    ROOM.with_borrow_mut(|room| {
        let buffer = room.free.pop().unwrap_or_default();
        room.bytes -= buffer.capacity();
        buffer
    })
}

/// Takes a buffer back. What parts of it others still hold stays theirs.
pub(super) fn give_back(mut buffer: BytesMut) {
    buffer.clear();
    let bytes = buffer.capacity();
    ROOM.with_borrow_mut(|room| {
        if bytes > 0 && room.bytes + bytes <= KEPT && room.free.len() < BUFFERS {
            room.bytes += bytes;
            room.free.push(buffer);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_used_again_up_to_a_bound() {
        let mut one = lend();
        assert_eq!(one.capacity(), 0, "there is none yet");
        one.reserve(1000);
        one.extend_from_slice(b"head");
        let (head, place) = (one.split_to(4).freeze(), one.as_ptr());
        give_back(one);
        let one = lend();
        assert_eq!((one.as_ptr(), one.len(), &head[..]), (place, 0, &b"head"[..]));
        give_back(one);
        give_back(BytesMut::new());
        give_back(BytesMut::with_capacity(KEPT));
        assert_eq!(ROOM.with_borrow(|room| (room.free.len(), room.bytes)), (1, 996), "more than is kept");
        drop(lend());
        give_back(BytesMut::with_capacity(KEPT));
        assert_eq!(ROOM.with_borrow(|room| (room.free.len(), room.bytes)), (1, KEPT));
        drop(lend());
        (0..=BUFFERS).for_each(|_| give_back(BytesMut::with_capacity(1)));
        assert_eq!(ROOM.with_borrow(|room| (room.free.len(), room.bytes)), (BUFFERS, BUFFERS));
    }
}
