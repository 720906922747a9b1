//! The state of a connection, the same for both sides. The driver (`driver.rs`) gives it what it reads (`receive.rs`) and writes what it
//! has to say (`send.rs`); the tasks of the streams reach it by the halves in `half.rs`. All of that is one thread's.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Waker};

use bytes::BufMut;
use tokio::sync::Notify;

use super::frame::{
    self, Code, DEFAULT_WINDOW, HEADER, Header, MAX_31_BITS, PREFACE, SMALLEST_MAX_FRAME, Wrong, kind, setting,
};
use super::hpack::{Decoder, Encoder};
use super::receive::{Accepted, Block, Content};
use super::stream::{Cause, Key, Side, Streams, watch};
use super::{CONNECTION_WINDOW, MAX_FRAME, MAX_STREAMS, STREAM_WINDOW, stream_fault};
use crate::fault::Fault;
use crate::http::body::Half;
use crate::http::output::Output;
use crate::http::rules::MAX_HEAD_BYTES;

/// Answers that wait to be written (of PING, SETTINGS, faulty streams) before no more is read that could provoke some. Content
/// does not count: two ends that both have much to send must go on reading.
const MAX_ANSWERS: usize = 16 * 1024;

/// What a server has to say before it reads no more requests. Heads of responses are not held back as content is, and a stream
/// that has ended makes room for another one: a client that asks and does not read would have us keep all answers (as in CVE-2019-9517,
/// there with content). So much is ten thousand usual heads, more than honest clients leave unread. A client does read on, so that
/// two of ours never wait for each other.
const MAX_OUTPUT: usize = 1024 * 1024;

/// Streams that we have reset and still know, so that what the peer had already sent on them is no error of it. Frames on older ones are
/// ignored, too.
const RESETS: usize = 64;

/// Places in the row of streams that are gone, beyond as many as there are streams: with more of them it is put in order.
const GONE: usize = 64;

/// What a keep-alive ping and the one that follows the first GOAWAY say.
const ALIVE: [u8; 8] = *b"alive?\0\0";
const SHUTDOWN: [u8; 8] = *b"drained?";

/// A connection, as its driver and its streams share it.
pub(super) type Shared = Rc<RefCell<Connection>>;

/// The state of a connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) server: bool,
    pub(super) streams: Streams,
    pub(super) output: Output,
    pub(super) decoder: Decoder,
    pub(super) encoder: Encoder,
    /// What the peer takes.
    pub(super) peer: Peer,
    /// Why it is over.
    pub(super) over: Option<Over>,

    /// A client's preface is still to be read.
    pub(super) preface: bool,
    /// The content that is being read.
    pub(super) content: Option<Content>,
    /// The field section that is being read, if it comes in several frames.
    pub(super) block: Option<Box<Block>>,
    /// What the peer may still send, and what was read of it and not given back.
    pub(super) receive_window: i64,
    pub(super) released: u32,
    /// The last stream that the client has opened.
    pub(super) last: u32,
    /// Requests that wait for a task of their own.
    pub(super) accepted: VecDeque<Accepted>,
    /// Bytes of answers that the peer has provoked, since all was written.
    pub(super) answers: usize,
    /// Frames in a row that moved nothing.
    pub(super) useless: u32,
    /// Frames, and field sections in several of them, that have come to their end; and whether another one has begun.
    pub(super) whole: u64,
    pub(super) half: bool,
    /// What was wrong with requests that were reset before anybody had them.
    pub(super) malformed: Vec<Fault>,
    /// Streams that the peer has made us reset.
    pub(super) errors: usize,
    resets: VecDeque<u32>,
    forgotten: u32,

    /// What we may still send.
    pub(super) send_window: i64,
    /// By how much the windows of all streams have changed that is not in them yet.
    pub(super) resized: i64,
    /// Streams that have something to send, in the order in which they may.
    pub(super) row: VecDeque<(Key, u32)>,
    /// The next stream that we open.
    pub(super) next: u32,

    /// The last stream that we have said we would serve, once it is final.
    pub(super) final_goaway: Option<u32>,
    draining: bool,
    /// The peer takes no new streams.
    pub(super) leaving: bool,
    /// A ping was answered.
    pub(super) pong: bool,
    pub(super) ponged: Rc<Notify>,
    /// Told when a stream could be opened, or never can; and how many wait for that.
    pub(super) room: Rc<Notify>,
    pub(super) waiting: usize,
    driver: Option<Waker>,
    /// The driver will come by itself.
    awake: bool,
}

/// What a peer takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    /// Streams at a time.
    pub(super) streams: usize,
    /// Window of a new stream.
    pub(super) window: u32,
    /// Payload of a frame.
    pub(super) frame: usize,
    /// It has said so.
    pub(super) known: bool,
}

/// What a server waits for where no stream says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Awaited {
    /// Nothing: there are streams.
    Nothing,
    /// The next request.
    Request,
    /// The rest of what has begun: after so many that were whole.
    Rest(u64),
    /// The client's own end, after it was told to go.
    Leave,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// The peer violated the protocol; it was told.
    Violated(&'static str),
    /// It was closed, or broke.
    Lost(&'static str),
}

impl Connection {
    /// A fresh connection, with what it says first.
    pub(super) fn new(server: bool) -> Connection {
        let mut connection = Connection {
            server,
            streams: Streams::default(),
            output: Output::default(),
            decoder: Decoder::default(),
            encoder: Encoder::default(),
            // RFC 9113 section 6.5.2 recommends no less than 100 streams.
            peer: Peer { streams: 100, window: DEFAULT_WINDOW, frame: SMALLEST_MAX_FRAME as usize, known: false },
            over: None,
            preface: server,
            content: None,
            block: None,
            receive_window: CONNECTION_WINDOW.into(),
            released: 0,
            last: 0,
            accepted: VecDeque::new(),
            answers: 0,
            useless: 0,
            whole: 0,
            half: false,
            malformed: Vec::new(),
            errors: 0,
            resets: VecDeque::new(),
            forgotten: 0,
            send_window: DEFAULT_WINDOW.into(),
            resized: 0,
            row: VecDeque::new(),
            next: 1,
            final_goaway: None,
            draining: false,
            leaving: false,
            pong: false,
            ponged: Rc::default(),
            room: Rc::default(),
            waiting: 0,
            driver: None,
            awake: false,
        };
        let out = connection.output.tail();
        let common = [
            (setting::INITIAL_WINDOW_SIZE, STREAM_WINDOW),
            (setting::MAX_FRAME_SIZE, MAX_FRAME),
            (setting::MAX_HEADER_LIST_SIZE, MAX_HEAD_BYTES as u32),
        ];
        if server {
            frame::write_settings(out, &[&[(setting::MAX_CONCURRENT_STREAMS, MAX_STREAMS)], &common[..]].concat());
        } else {
            out.put_slice(PREFACE);
            frame::write_settings(out, &[&[(setting::ENABLE_PUSH, 0)], &common[..]].concat());
        }
        connection.write(kind::WINDOW_UPDATE, 0, 0, &(CONNECTION_WINDOW - DEFAULT_WINDOW).to_be_bytes());
        connection
    }

    /// Writes a frame with a short payload.
    pub(super) fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        frame::write(self.output.tail(), kind, flags, stream, payload);
    }

    /// The driver comes, or has left and is to be woken when there is something to do.
    pub(super) fn driven(&mut self, cx: &Context<'_>, awake: bool) {
        watch(&mut self.driver, cx);
        self.awake = awake;
    }

    /// Has the driver come: something is to be written, or nothing more is to be done.
    pub(super) fn poke(&mut self) {
        if !self.awake
            && let Some(driver) = &self.driver
        {
            self.awake = true;
            driver.wake_by_ref();
        }
    }

    /// Whether another stream can be opened, now or later.
    pub(super) fn is_open(&self) -> bool {
        self.over.is_none() && !self.leaving && self.next <= MAX_31_BITS
    }

    /// Whether the peer reads too little of what it provokes to be read itself.
    pub(super) fn is_behind(&self) -> bool {
        self.answers > MAX_ANSWERS || self.server && self.output.len() > MAX_OUTPUT
    }

    /// What a server waits for. What it does not read cannot come.
    pub(super) fn awaited(&self) -> Awaited {
        match self.streams.len() {
            _ if self.half && !self.is_behind() => Awaited::Rest(self.whole),
            0 if self.draining => Awaited::Leave,
            0 => Awaited::Request,
            _ => Awaited::Nothing,
        }
    }

    /// Asks the peer whether it is there.
    pub(super) fn ping(&mut self) {
        self.pong = false;
        self.write(kind::PING, 0, 0, &ALIVE);
        self.poke();
    }

    /// A ping was answered.
    pub(super) fn ponged(&mut self, payload: &[u8]) {
        if payload == ALIVE {
            self.pong = true;
            self.ponged.notify_one();
        } else if payload == SHUTDOWN && self.draining && self.final_goaway.is_none() {
            // What the client had sent before it knew has arrived.
            self.final_goaway = Some(self.last);
            self.goaway(self.last, Code::NO_ERROR, "");
        }
    }

    /// Takes no new requests, in a way that loses none of those that are on their way (RFC 9113 section 6.8).
    pub(super) fn drain(&mut self) {
        if !self.draining && self.over.is_none() {
            self.draining = true;
            self.goaway(MAX_31_BITS, Code::NO_ERROR, "");
            self.write(kind::PING, 0, 0, &SHUTDOWN);
        }
    }

    /// Whether it was drained and its last stream has ended.
    pub(super) fn is_drained(&self) -> bool {
        self.final_goaway.is_some() && self.streams.len() == 0
    }

    /// Says GOAWAY.
    pub(super) fn goaway(&mut self, last: u32, code: Code, what: &str) {
        let out = self.output.tail();
        let header = Header { length: 8 + what.len(), kind: kind::GOAWAY, flags: 0, stream: 0 };
        out.reserve(HEADER + header.length);
        out.put_slice(&header.bytes());
        out.put_u32(last);
        out.put_u32(code.0);
        out.put_slice(what.as_bytes());
    }

    /// Ends it after a violation, which the peer is told.
    pub(super) fn fail(&mut self, code: Code, what: &'static str) {
        if self.over.is_none() {
            self.goaway(self.last, code, what);
            self.end(Over::Violated(what));
        }
    }

    /// Ends it, and all that it carries.
    pub(super) fn end(&mut self, over: Over) {
        if self.over.is_some() {
            return;
        }
        self.over = Some(over);
        let (Over::Violated(what) | Over::Lost(what)) = over;
        let keys: Vec<Key> = self.streams.iter_mut().map(|(key, _)| key).collect();
        for key in keys {
            self.end_stream(key, Cause::Lost(what));
        }
        self.room.notify_waiters();
        self.poke();
    }

    /// The next request that came. One that was reset meanwhile (CVE-2023-44487) is none: it has cost its head, and costs nobody
    /// upstream anything.
    pub(super) fn next_request(&mut self) -> Option<Accepted> {
        loop {
            let accepted = self.accepted.pop_front()?;
            if self.streams.len() == self.streams.open {
                // None that is over is still here.
                return Some(accepted);
            }
            let Some(stream) = self.streams.get(accepted.key) else { continue };
            match stream.cause {
                None => return Some(accepted),
                Some(cause @ (Cause::Malformed(_) | Cause::TooLarge)) => {
                    self.malformed.push(stream_fault(cause, Half::Request));
                }
                Some(_) => {}
            }
            (stream.has_reader, stream.has_writer) = (false, false);
            let unread = stream.inbox.clear();
            self.release_connection(unread);
            self.settle(accepted.key);
        }
    }

    /// Ends a stream.
    pub(super) fn end_stream(&mut self, key: Key, cause: Cause) {
        if let Some(stream) = self.streams.get(key) {
            stream.end(cause);
            self.closed(key);
            self.settle(key);
        }
    }

    /// Resets a stream.
    pub(super) fn reset(&mut self, id: u32, code: Code) {
        if self.over.is_some() {
            return;
        }
        self.write(kind::RST_STREAM, 0, id, &code.0.to_be_bytes());
        if self.resets.len() == RESETS
            && let Some(oldest) = self.resets.pop_front()
        {
            self.forgotten = self.forgotten.max(oldest);
        }
        self.resets.push_back(id);
        self.poke();
    }

    /// A stream made by the peer's mistake is reset.
    ///
    /// # Errors
    /// If there were too many of those.
    pub(super) fn reset_by_error(&mut self, id: u32, code: Code, what: &'static str) -> Result<(), Wrong> {
        tracing::debug!(id, %code, what, "an HTTP/2 stream is reset");
        self.errors += 1;
        if self.server && self.errors > super::server::MAX_ERROR_RESETS {
            return Err(Wrong::Connection(Code::ENHANCE_YOUR_CALM, "too many streams with errors"));
        }
        self.answers += HEADER + 4;
        self.reset(id, code);
        if let Some(key) = self.streams.find(id) {
            self.end_stream(key, Cause::Malformed(what));
        }
        Ok(())
    }

    /// What a frame means that came on a stream which is over.
    ///
    /// # Errors
    /// If the peer must have known that.
    pub(super) fn late(&self, id: u32) -> Result<(), Wrong> {
        let untouched = self.final_goaway.is_some_and(|last| id > last);
        match untouched || id <= self.forgotten || self.resets.contains(&id) || self.over.is_some() {
            true => Ok(()),
            false => Err(Wrong::Connection(Code::STREAM_CLOSED, "a frame on a stream that is closed")),
        }
    }

    /// Counts a stream no more, if it is over.
    pub(super) fn closed(&mut self, key: Key) {
        let Some(stream) = self.streams.get(key) else { return };
        if stream.counted && stream.is_closed() {
            stream.counted = false;
            self.streams.open -= 1;
            if self.waiting > 0 {
                self.room.notify_one();
            }
        }
    }

    /// Forgets a stream that nobody reads or writes any more. If it is not over, that ends it.
    pub(super) fn settle(&mut self, key: Key) {
        let Some(stream) = self.streams.get(key) else { return };
        if stream.has_reader || stream.has_writer || stream.has_waiting() {
            return;
        }
        if !stream.is_closed() {
            // RFC 9113 section 8.1: the response is complete, the rest of the request is not wanted.
            let answered = stream.written == Side::Ended;
            let (id, code) = (stream.id, if self.server && answered { Code::NO_ERROR } else { Code::CANCEL });
            stream.cause = Some(Cause::Reset(code));
            self.closed(key);
            self.reset(id, code);
        }
        let queued = self.streams.get(key).is_some_and(|stream| stream.queued);
        self.streams.remove(key);
        if queued && self.row.len() > 2 * self.streams.len() + GONE {
            // Else one stream that may not send would keep the places of all that came after it and were reset.
            let Connection { row, streams, .. } = self;
            row.retain(|(key, id)| streams.get(*key).is_some_and(|stream| stream.id == *id));
        }
        if self.streams.len() == 0 {
            self.row = VecDeque::new();
            // It may be what the end of the connection waits for.
            self.poke();
        }
    }

    /// Gives what was read back to the window of the connection.
    pub(super) fn release_connection(&mut self, length: usize) {
        self.released += length as u32;
        if self.released >= CONNECTION_WINDOW / 2 && self.over.is_none() {
            self.receive_window += i64::from(self.released);
            self.write(kind::WINDOW_UPDATE, 0, 0, &self.released.to_be_bytes());
            self.released = 0;
            self.poke();
        }
    }

    /// Gives what was read from a stream back to both windows.
    pub(super) fn release(&mut self, key: Key, length: usize) {
        self.release_connection(length);
        let Some(stream) = self.streams.get(key) else { return };
        stream.released += length as u32;
        if stream.released >= STREAM_WINDOW / 2 && stream.read == Side::Open && stream.cause.is_none() {
            stream.receive_window += i64::from(stream.released);
            let (id, released) = (stream.id, std::mem::take(&mut stream.released));
            self.write(kind::WINDOW_UPDATE, 0, id, &released.to_be_bytes());
            self.poke();
        }
    }

    /// Whether it holds no memory for what passes.
    #[cfg(test)]
    pub(super) fn is_at_rest(&self) -> bool {
        self.output.is_at_rest() && self.block.is_none() && self.streams.len() == 0 && self.row.capacity() == 0
    }
}
