//! What a connection knows of its streams (RFC 9113 section 5).

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::task::{Context, Waker};

use bytes::Bytes;
use foldhash::fast::RandomState;
use slab::Slab;

use super::frame::Code;
use crate::http::Fields;
use crate::http::Interim;
use crate::http::head::ResponseHead;
use crate::http::message::Broken;

/// Why a stream is over before its messages were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The peer has reset it.
    Reset(Code),
    /// The peer has said that it will not touch it (RFC 9113 section 6.8).
    Unprocessed(Code),
    /// What the peer sent was wrong, and we have reset it.
    Malformed(&'static str),
    /// A head or trailers over a limit; we have reset it.
    TooLarge,
    /// The connection is gone.
    Lost(&'static str),
}

/// One direction of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Side {
    #[default]
    Open,
    /// END_STREAM was said.
    Ended,
}

/// What the client waits for on a stream.
#[derive(Debug)]
pub(super) enum Answer {
    /// Nothing: we are the server, or the head was taken.
    Taken,
    /// The head; until then interim responses go here.
    Awaited(Rc<Interim>),
    /// The head, which nobody has taken.
    Here(ResponseHead),
}

/// A stream.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: u32,
    pub(super) cause: Option<Cause>,
    /// Somebody reads the message that comes.
    pub(super) has_reader: bool,
    /// Somebody writes the message that goes.
    pub(super) has_writer: bool,
    /// It counts among those that are open.
    pub(super) counted: bool,

    pub(super) read: Side,
    pub(super) inbox: Inbox,
    pub(super) trailers: Option<Box<Fields>>,
    pub(super) answer: Answer,
    /// Content that must still come, if it was announced.
    pub(super) left: Option<u64>,
    /// A response to HEAD or CONNECT: what content-length means there is another matter.
    pub(super) method: Special,
    /// What the peer may still send.
    pub(super) receive_window: i64,
    /// What was read, and is not yet given back to the window.
    pub(super) released: u32,
    pub(super) reader: Option<Waker>,

    pub(super) written: Side,
    /// What we may still send; negative after the peer has made its windows smaller.
    pub(super) send_window: i64,
    /// To be sent.
    pub(super) waiting: Bytes,
    /// What follows after that.
    pub(super) after: After,
    /// It is in the row of those that have something to send.
    pub(super) queued: bool,
    pub(super) writer: Option<Waker>,
}

/// Methods that change what their response is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Special {
    #[default]
    None,
    Head,
    Connect,
}

/// What follows after the content that waits.
#[derive(Debug, Default)]
pub(super) enum After {
    #[default]
    More,
    End,
    Trailers(Box<Fields>),
}

/// Pieces that wait beyond which small ones are joined: each of them costs more than its few bytes.
const MANY: usize = 64;

/// A piece of this much is none that others are joined to.
const JOINED: usize = 4 * 1024;

/// Content that was not read yet. Most messages have one piece of it at a time, for which nothing is allocated.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    first: Bytes,
    more: VecDeque<Bytes>,
}

impl Inbox {
    pub(super) fn push(&mut self, data: Bytes) {
        if self.is_empty() {
            self.first = data;
        } else if !data.is_empty() {
            self.more.push_back(data);
        }
    }

    /// Adds a copy of a small piece. Where many wait, it is joined to the last one: a peer that says each byte in a frame of its own
    /// must not have them kept apart.
    pub(super) fn push_copy(&mut self, data: &[u8]) {
        if self.more.len() >= MANY
            && let Some(last) = self.more.back_mut().filter(|last| last.len() < JOINED)
        {
            match std::mem::take(last).try_into_mut() {
                Ok(mut own) => {
                    own.extend_from_slice(data);
                    *last = own.freeze();
                    return;
                }
                Err(shared) => *last = shared,
            }
        }
        self.push(Bytes::copy_from_slice(data));
    }

    pub(super) fn pop(&mut self) -> Option<Bytes> {
        if self.is_empty() {
            return None;
        }
        let next = self.more.pop_front().unwrap_or_default();
        Some(std::mem::replace(&mut self.first, next))
    }

    /// The only piece there is, if it `fits`.
    pub(super) fn take_only(&mut self, fits: impl Fn(usize) -> bool) -> Option<Bytes> {
        let only = !self.is_empty() && self.more.is_empty() && fits(self.first.len());
        only.then(|| std::mem::take(&mut self.first))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_empty()
    }

    /// Drops all of it and says how much it was.
    pub(super) fn clear(&mut self) -> usize {
        let inbox = std::mem::take(self);
        inbox.first.len() + inbox.more.iter().map(Bytes::len).sum::<usize>()
    }
}

impl Stream {
    pub(super) fn new(id: u32, receive_window: u32, send_window: i64) -> Self {
        Stream {
            id,
            cause: None,
            has_reader: true,
            has_writer: true,
            counted: true,
            read: Side::Open,
            inbox: Inbox::default(),
            trailers: None,
            answer: Answer::Taken,
            left: None,
            method: Special::None,
            receive_window: receive_window.into(),
            released: 0,
            reader: None,
            written: Side::Open,
            send_window,
            waiting: Bytes::new(),
            after: After::More,
            queued: false,
            writer: None,
        }
    }

    /// Whether both messages are over, or neither goes on.
    pub(super) fn is_closed(&self) -> bool {
        self.cause.is_some() || (self.read == Side::Ended && self.written == Side::Ended)
    }

    /// Whether there is something that only room keeps from being sent.
    pub(super) fn has_waiting(&self) -> bool {
        self.cause.is_none()
            && self.written == Side::Open
            && (!self.waiting.is_empty() || !matches!(self.after, After::More))
    }

    /// Whether nothing more will be read.
    pub(super) fn is_read(&self) -> bool {
        self.read == Side::Ended && self.inbox.is_empty() && self.trailers.is_none()
    }

    pub(super) fn wake_reader(&mut self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }

    pub(super) fn wake_writer(&mut self) {
        if let Some(waker) = self.writer.take() {
            waker.wake();
        }
    }

    /// Ends it. Content that came and was whole can still be read.
    pub(super) fn end(&mut self, cause: Cause) {
        self.cause.get_or_insert(cause);
        self.waiting = Bytes::new();
        self.after = After::More;
        self.wake_reader();
        self.wake_writer();
    }

    /// What is wrong with a message, as the end of its stream.
    pub(super) fn cause_of(broken: &Broken) -> Cause {
        match broken {
            Broken::Malformed(what) => Cause::Malformed(what),
            Broken::Refused(_) => Cause::Malformed("a message that is none"),
            Broken::TooLarge => Cause::TooLarge,
        }
    }
}

/// Has this task woken.
pub(super) fn watch(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) if waker.will_wake(cx.waker()) => {}
        _ => *place = Some(cx.waker().clone()),
    }
}

/// Where a stream is among those of its connection. Valid for as long as somebody reads or writes it.
pub(super) type Key = usize;

/// Places for streams of which more are not kept for others.
const KEPT: usize = 64;

thread_local! {
    /// Places for whoever has streams next: a connection that has none holds none.
    static SPARE: Cell<Slab<Stream>> = const { Cell::new(Slab::new()) };
}

/// The streams of a connection.
#[derive(Debug, Default)]
pub(super) struct Streams {
    slots: Slab<Stream>,
    keys: HashMap<u32, Key, RandomState>,
    /// Those that count as open.
    pub(super) open: usize,
}

impl Streams {
    pub(super) fn insert(&mut self, stream: Stream) -> Key {
        self.open += 1;
        let id = stream.id;
        if self.slots.capacity() == 0 {
            self.slots = SPARE.take();
        }
        let key = self.slots.insert(stream);
        self.keys.insert(id, key);
        key
    }

    pub(super) fn find(&self, id: u32) -> Option<Key> {
        self.keys.get(&id).copied()
    }

    pub(super) fn get(&mut self, key: Key) -> Option<&mut Stream> {
        self.slots.get_mut(key)
    }

    pub(super) fn by_id(&mut self, id: u32) -> Option<(Key, &mut Stream)> {
        let key = self.find(id)?;
        Some((key, self.slots.get_mut(key)?))
    }

    pub(super) fn remove(&mut self, key: Key) {
        if let Some(stream) = self.slots.try_remove(key) {
            self.keys.remove(&stream.id);
        }
        // A connection that rests holds nothing for the streams that it once had.
        if self.slots.is_empty() {
            let slots = std::mem::take(&mut self.slots);
            if slots.capacity() <= KEPT {
                SPARE.set(slots);
            } else {
                self.keys.shrink_to_fit();
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (Key, &mut Stream)> {
        self.slots.iter_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_read_in_order() {
        let mut inbox = Inbox::default();
        assert_eq!(inbox.pop(), None);
        for piece in ["one", "two", "", "three"] {
            inbox.push(Bytes::from(piece));
        }
        assert_eq!(inbox.pop().unwrap(), "one");
        inbox.push(Bytes::from("four"));
        assert_eq!([inbox.pop().unwrap(), inbox.pop().unwrap()], ["two", "three"]);
        assert!(!inbox.is_empty());
        assert_eq!(inbox.take_only(|length| length == 5), None, "another length");
        inbox.push(Bytes::from("five"));
        assert_eq!(inbox.take_only(|_| true), None, "not the only one");
        assert_eq!([inbox.pop().unwrap(), inbox.take_only(|length| length == 4).unwrap()], ["four", "five"]);
        assert_eq!((inbox.take_only(|_| true), inbox.is_empty()), (None, true));
        inbox.push(Bytes::from("four"));
        assert_eq!((inbox.clear(), inbox.pop()), (4, None));
    }

    #[test]
    fn many_small_pieces_are_joined() {
        let (mut inbox, all) = (Inbox::default(), vec![b'x'; 100 * JOINED]);
        all.iter().for_each(|byte| inbox.push_copy(&[*byte]));
        let pieces: Vec<_> = std::iter::from_fn(|| inbox.pop()).collect();
        assert!((MANY..MANY + 110).contains(&pieces.len()), "{} pieces", pieces.len());
        assert_eq!(pieces.concat(), all);
    }

    #[test]
    fn a_stream_is_found_by_its_number_until_it_is_removed() {
        let mut streams = Streams::default();
        let keys: Vec<_> = (0..200).map(|n| streams.insert(Stream::new(n * 2 + 1, 0, 0))).collect();
        assert_eq!(streams.by_id(7).map(|(key, stream)| (key, stream.id)), Some((keys[3], 7)));
        keys.iter().for_each(|key| streams.remove(*key));
        assert!(streams.find(7).is_none() && streams.len() == 0);
        assert_eq!((streams.slots.capacity(), streams.keys.capacity()), (0, 0), "nothing is held");
        let key = streams.insert(Stream::new(1, 0, 0));
        assert!(streams.get(key).is_some() && SPARE.take().capacity() == 0, "many were not kept");
        streams.remove(key);
        assert_eq!(streams.slots.capacity(), 0, "one is left to others");
        assert!(SPARE.take().capacity() > 0);
    }
}
