//! Room for bytes, lent by the worker: a connection that rests has none, and one that moves bytes need not ask the
//! allocator for it.

use std::cell::RefCell;

use bytes::BytesMut;

/// Bytes that a worker keeps for others at the most: as much as some dozens of small messages need at a time.
const KEPT: usize = 256 * 1024;

/// Buffers that it keeps: what was read of one may still be held by others, and counts for nothing above.
const BUFFERS: usize = 64;

/// Buffers with more than this are kept for those who need as much: what a link gathers for one write would else find the small one of a
/// message, grow it by steps and copy what is in it each time.
const SMALL: usize = 8 * 1024;

thread_local! {
    static ROOM: RefCell<Room> = const { RefCell::new(Room { small: Vec::new(), large: Vec::new(), bytes: 0 }) };
}

struct Room {
    small: Vec<BytesMut>,
    large: Vec<BytesMut>,
    /// Bytes that are free in all of them.
    bytes: usize,
}

impl Room {
    fn of(&mut self, size: usize) -> &mut Vec<BytesMut> {
        if size > SMALL { &mut self.large } else { &mut self.small }
    }
}

/// A buffer with nothing in it, for about so many bytes: one that was used before if there is one, else a new one, which has no room if little
/// is needed.
pub(super) fn lend(size: usize) -> BytesMut {
    ROOM.with_borrow_mut(|room| match room.of(size).pop() {
        Some(buffer) => {
            room.bytes -= buffer.capacity();
            buffer
        }
        None if size > SMALL => BytesMut::with_capacity(size),
        None => BytesMut::new(),
    })
}

/// Takes a buffer back. What parts of it others still hold stays theirs.
pub(super) fn give_back(mut buffer: BytesMut) {
    buffer.clear();
    let bytes = buffer.capacity();
    ROOM.with_borrow_mut(|room| {
        if bytes > 0 && room.bytes + bytes <= KEPT && room.small.len() + room.large.len() < BUFFERS {
            room.bytes += bytes;
            room.of(bytes).push(buffer);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_used_again_up_to_a_bound() {
        let kept = || ROOM.with_borrow(|room| (room.small.len(), room.large.len(), room.bytes));
        let mut one = lend(0);
        assert_eq!(one.capacity(), 0, "there is none yet");
        one.reserve(1000);
        one.extend_from_slice(b"head");
        let (head, place) = (one.split_to(4).freeze(), one.as_ptr());
        give_back(one);
        let one = lend(0);
        assert_eq!((one.as_ptr(), one.len(), &head[..]), (place, 0, &b"head"[..]));
        give_back(one);
        give_back(BytesMut::new());
        give_back(BytesMut::with_capacity(KEPT));
        assert_eq!(kept(), (1, 0, 996), "more than is kept");
        drop(lend(0));
        give_back(BytesMut::with_capacity(KEPT));
        assert_eq!(kept(), (0, 1, KEPT));
        assert_eq!(lend(SMALL).capacity(), 0, "who needs little leaves it to others");
        let large = lend(SMALL + 1);
        assert_eq!((large.capacity(), kept()), (KEPT, (0, 0, 0)));
        assert!(lend(SMALL + 1).capacity() > SMALL, "a new one has the room at once");
        (0..=BUFFERS).for_each(|_| give_back(BytesMut::with_capacity(1)));
        assert_eq!(kept(), (BUFFERS, 0, BUFFERS));
    }
}
