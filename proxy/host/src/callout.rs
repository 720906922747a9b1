//! Call-outs: what a guest asks of other services, and what comes back.

use std::time::Duration;

use foldhash::HashMap;
use lacis_abi::Map;

use crate::stream::Headers;

/// A call-out in flight, in one VM. Its number says what it is: the two low bits are 0 for HTTP, 1 for a gRPC call and
/// 2 for a gRPC stream, as in Envoy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CallId(pub(crate) u32);

/// Header lines in their order, names in lower case; nothing else of them is checked.
pub type Lines = Vec<(Vec<u8>, Vec<u8>)>;

/// What a guest asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallOut {
    /// One HTTP request; answered by [`Vm::on_http_call`](crate::Vm::on_http_call), once.
    Http(HttpCall),
    /// One gRPC message for one gRPC message; answered by [`Vm::on_grpc`](crate::Vm::on_grpc), once: `Message` when it
    /// has succeeded, `Close` when it has not.
    Grpc(GrpcCall),
    /// A gRPC stream: messages follow by [`World::call_send`](crate::World::call_send), and events come by
    /// [`Vm::on_grpc`](crate::Vm::on_grpc) until `Close`.
    GrpcStream(GrpcCall),
}

/// An HTTP request of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpCall {
    /// Name of the service that is called.
    pub upstream: String,
    /// Header lines with pseudo-headers; `:method`, `:path` and `:authority`, or `host` in its place, are among them.
    pub headers: Lines,
    /// Body; mostly empty. A `content-length` in the headers may be wrong.
    pub body: Vec<u8>,
    /// Trailers; mostly none.
    pub trailers: Lines,
    /// Until the whole response is here; none waits for ever.
    pub timeout: Option<Duration>,
}

/// A gRPC call or stream of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrpcCall {
    /// Name of the service that is called: the guest passes it alone, or in Envoy's `GrpcService`, as a cluster or as a
    /// target of gRPC's own library.
    pub upstream: String,
    /// `:authority`; none is that of the upstream.
    pub authority: Option<String>,
    /// `:path` is `/service/method`.
    pub service: String,
    /// See `service`.
    pub method: String,
    /// Metadata; values of names in `-bin` are in base64 already.
    pub metadata: Lines,
    /// The message of a call, without framing; empty for a stream.
    pub message: Vec<u8>,
    /// Of the whole call; none waits for ever.
    pub timeout: Option<Duration>,
}

/// The response to an [`HttpCall`].
pub struct HttpAnswer {
    /// Its head, `:status` included.
    pub headers: Box<dyn Headers>,
    /// The whole body.
    pub body: Vec<u8>,
    /// Trailers, if there were any.
    pub trailers: Option<Box<dyn Headers>>,
}

/// What comes of a [`GrpcCall`]. Of a call, only `Message` and `Close` reach the guest, and either ends it.
pub enum GrpcEvent {
    /// Initial metadata.
    InitialMetadata(Box<dyn Headers>),
    /// A message, without framing.
    Message(Vec<u8>),
    /// Trailing metadata.
    TrailingMetadata(Box<dyn Headers>),
    /// The end, with the status of gRPC, 0 to 16, and its text.
    Close {
        /// Its number; also for failures below gRPC, as 14 (unavailable) when the connection fails.
        status: u32,
        /// Its text; may be empty.
        message: String,
    },
}

/// The call-outs of one VM.
#[derive(Default)]
pub(crate) struct CallOuts {
    flying: HashMap<u32, Flight>,
    /// Last number of each kind.
    last: [u32; 3],
    /// Bytes that those in flight send.
    bytes: usize,
    /// What can be read of an answer: only in its callback.
    pub(crate) answer: Option<Answer>,
    /// Text of the outcome that a callback tells of.
    pub(crate) text: Vec<u8>,
}

/// A call-out in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flight {
    pub(crate) root: u32,
    bytes: usize,
    /// The guest sends no more on this stream.
    pub(crate) closed: bool,
}

/// What it is, by the two low bits of its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallKind {
    Http = 0,
    Grpc = 1,
    GrpcStream = 2,
}

/// What the guest may read in the callback for a call-out, or for a foreign function.
pub(crate) enum Answer {
    Http(HttpAnswer),
    InitialMetadata(Box<dyn Headers>),
    Message(Vec<u8>),
    TrailingMetadata(Box<dyn Headers>),
    Foreign(Vec<u8>),
}

impl CallOuts {
    /// A number that is not in use; the first ones are 4, 5 and 6, as in Envoy.
    pub(crate) fn fresh(&mut self, kind: CallKind) -> CallId {
        let last = &mut self.last[kind as usize];
        loop {
            *last = last.wrapping_add(4);
            let id = *last | kind as u32;
            if id > 3 && !self.flying.contains_key(&id) {
                return CallId(id);
            }
        }
    }

    pub(crate) fn begin(&mut self, id: CallId, root: u32, bytes: usize) {
        self.bytes += bytes;
        self.flying.insert(id.0, Flight { root, bytes, closed: false });
    }

    /// Forgets a call-out; `None` when it was not in flight.
    pub(crate) fn end(&mut self, id: CallId) -> Option<Flight> {
        let flight = self.flying.remove(&id.0)?;
        self.bytes -= flight.bytes;
        Some(flight)
    }

    pub(crate) fn flight(&mut self, id: CallId) -> Option<&mut Flight> {
        self.flying.get_mut(&id.0)
    }

    /// A header map of the answer that is told now.
    pub(crate) fn headers(&self, map: Map) -> Option<&dyn Headers> {
        match (map, self.answer.as_ref()?) {
            (Map::CallResponseHeaders, Answer::Http(answer)) => Some(&*answer.headers),
            (Map::CallResponseTrailers, Answer::Http(answer)) => answer.trailers.as_deref(),
            (Map::GrpcInitialMetadata, Answer::InitialMetadata(headers)) => Some(&**headers),
            (Map::GrpcTrailingMetadata, Answer::TrailingMetadata(headers)) => Some(&**headers),
            _ => None,
        }
    }

    /// How many are in flight, and the bytes that they send.
    pub(crate) fn load(&self) -> (usize, usize) {
        (self.flying.len(), self.bytes)
    }

    /// Forgets those of a root context, or all, and says which they were.
    pub(crate) fn end_all(&mut self, root: Option<u32>) -> Vec<CallId> {
        let of = |flight: &Flight| root.is_none_or(|root| flight.root == root);
        let ended: Vec<CallId> =
            self.flying.iter().filter(|(_, flight)| of(flight)).map(|(id, _)| CallId(*id)).collect();
        for id in &ended {
            self.end(*id);
        }
        ended
    }
}

impl CallId {
    pub(crate) fn kind(self) -> Option<CallKind> {
        match self.0 & 3 {
            0 => Some(CallKind::Http),
            1 => Some(CallKind::Grpc),
            2 => Some(CallKind::GrpcStream),
            _ => None,
        }
    }
}
