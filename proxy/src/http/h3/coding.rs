//! Heads and trailers to and from the frames that carry them.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::code::Code;
use bytes::{Bytes, BytesMut};

use super::frame::{Violation, kind, write_varint};
use super::qpack::Section;
use super::{Broken, section};
use crate::fault::Side;
use crate::http::Fields;
use crate::http::head::{RequestHead, ResponseHead};
use crate::http::rules;

/// What is written leaves in pieces of blocks of this size. A peer that acknowledges nothing holds a block for each piece at
/// the worst; of smaller ones there would be more to allocate.
const BLOCK: usize = 16 * 1024;

thread_local! {
    /// The block that is written to, by all connections of a worker: one that is idle needs none.
    static OUT: RefCell<BytesMut> = RefCell::default();
}

/// A connection, as its streams share it.
pub(super) struct Wire {
    quic: quinn::Connection,
    peer: Side,
    /// Most that a section may count which the peer takes (SETTINGS_MAX_FIELD_SECTION_SIZE, RFC 9114 section 7.2.4.1).
    wanted: Cell<u64>,
    section: RefCell<Section>,
    /// What the peer did wrong, for which it was closed.
    wrong: Cell<Option<&'static str>>,
}

impl Wire {
    pub(super) fn new(quic: quinn::Connection, peer: Side) -> Rc<Self> {
        Rc::new(Wire { quic, peer, wanted: Cell::new(u64::MAX), section: RefCell::default(), wrong: Cell::default() })
    }

    pub(super) fn quic(&self) -> &quinn::Connection {
        &self.quic
    }

    /// Notes most that a section may count which the peer takes.
    pub(super) fn want(&self, most: u64) {
        self.wanted.set(most);
    }

    /// On which side the peer is.
    pub(super) fn peer(&self) -> Side {
        self.peer
    }

    pub(super) fn is_server(&self) -> bool {
        self.peer == Side::Downstream
    }

    /// Closes the connection at once.
    pub(super) fn close(&self, reason: Code, what: &str) {
        self.quic.close(reason.into(), what.as_bytes());
    }

    /// Closes the connection at once for what the peer did.
    pub(super) fn violated(&self, (reason, what): Violation) {
        self.wrong.set(self.wrong.get().or(Some(what)));
        self.close(reason, what);
    }

    /// What the peer did wrong, if it was closed for that.
    pub(super) fn wrong(&self) -> Option<&'static str> {
        self.wrong.get()
    }

    /// The frame that carries the head of a request, whose authority is known.
    pub(super) fn encode_request(&self, head: &RequestHead) -> Result<BytesMut, Broken> {
        self.encode(|section| section::write_request(head, section))
    }

    /// The frame that carries the head of a response.
    pub(super) fn encode_response(&self, head: &ResponseHead) -> Result<BytesMut, Broken> {
        self.encode(|section| section::write_response(head, section))
    }

    /// The frame that carries these trailers.
    pub(super) fn encode_trailers(&self, mut trailers: Fields) -> Result<BytesMut, Broken> {
        rules::clean_trailers(&mut trailers);
        self.encode(|section| section::write_fields(&trailers, section))
    }

    fn encode(&self, write: impl FnOnce(&mut Section)) -> Result<BytesMut, Broken> {
        let mut section = self.section.borrow_mut();
        section.begin();
        write(&mut section);
        if section.size() as u64 > self.wanted.get() {
            return Err(Broken::Unwanted);
        }
        Ok(frame(kind::HEADERS, section.bytes().len(), section.bytes()))
    }

    /// The head of a request, from its section.
    pub(super) fn decode_request(&self, payload: Bytes) -> Result<RequestHead, Broken> {
        section::request(payload).inspect_err(|broken| self.check(broken))
    }

    /// The head of a response, from its section.
    pub(super) fn decode_response(&self, payload: Bytes) -> Result<ResponseHead, Broken> {
        section::response(payload).inspect_err(|broken| self.check(broken))
    }

    /// Trailers, from their section.
    pub(super) fn decode_trailers(&self, payload: Bytes) -> Result<Fields, Broken> {
        section::trailers(payload).inspect_err(|broken| self.check(broken))
    }

    /// A section that cannot be decoded closes the connection: what later ones mean is unknown (RFC 9204 section 2.2).
    fn check(&self, broken: &Broken) {
        if let Broken::Garbled(what) = broken {
            self.violated((Code::QPACK_DECOMPRESSION_FAILED, what));
        }
    }
}

/// A frame, or its beginning: what is there of its content. Pieces that are written one after the other lie side by side.
pub(super) fn frame(kind: u64, length: usize, content: &[u8]) -> BytesMut {
    /// Two variable-length integers.
    const HEADER: usize = 16;
    OUT.with_borrow_mut(|out| {
        let room = HEADER + content.len();
        if out.capacity() < room {
            out.reserve(room.max(BLOCK));
        }
        write_varint(out, kind);
        write_varint(out, length as u64);
        out.extend_from_slice(content);
        out.split()
    })
}
