//! One exchange or TCP connection, as a guest may see it. The embedder implements [`Stream`], [`Headers`] and [`Buffer`]
//! for its own types.

use std::ops::Range;

use lacis_abi::{Map, Path, Status};

/// An exchange's context in one VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContextId(pub(crate) u32);

impl ContextId {
    /// The one that is made so many after this one, as long as numbers are not used again.
    pub fn after(self, count: u32) -> Option<ContextId> {
        self.0.checked_add(count).map(ContextId)
    }
}

/// One exchange, or one TCP connection. A method is called while a guest callback runs and must not act on what it is told: it takes a note,
/// and the embedder acts when the callback has returned. So a guest is never entered twice at once.
///
/// The VM borrows a `Stream` for the length of one host call only. The embedder must not hold a borrow of its own while
/// it calls a method of [`Vm`](crate::Vm).
pub trait Stream {
    /// Which of the VM's contexts the next method is called for, but for [`headers`](Stream::headers). Several contexts may be
    /// of one stream, in one VM or in several, and what one of them holds back is not the others'; the heads and trailers are.
    fn asked_by(&mut self, context: ContextId) {
        _ = context;
    }

    /// A header map of this exchange, if there is one (yet). Whether the guest may reach it in the present callback is
    /// decided by the VM before it asks; names and values are to be judged by the embedder when the callback has
    /// returned, as Envoy does.
    ///
    /// Trailers are asked for in their callback, while they are held, and in the log phase; and besides in the body
    /// callback with which a half without trailers ends, where the guest may make some: answer an empty map then, and
    /// send it as trailers only if something is in it afterwards.
    fn headers(&mut self, map: Map) -> Option<&mut dyn Headers>;

    /// The bytes that the guest sees of a half's body now: what [`BodyAnswer`](lacis_abi::BodyAnswer) says of the
    /// answers to earlier pieces. Of a TCP connection, `Request` are the bytes from the client, `Response` those to it.
    /// Asked for in the body callback, and as long as the half is held after it. None is an empty body that cannot be
    /// changed.
    fn body(&mut self, half: Half) -> Option<&mut dyn Buffer> {
        _ = half;
        None
    }

    /// What the contexts before this one were shown of the response's body in one step is shown to this one now: they have
    /// let it go on. Only where the embedder has several contexts of one stream see content together
    /// ([`Vm::on_bodies`](crate::Vm::on_bodies)).
    fn shown(&mut self, context: ContextId) {
        _ = context;
    }

    /// Appends the value of a property to `out`, in the encoding of the ABI (integers 8 bytes little-endian, booleans
    /// 1 byte, maps as pairs). `NotFound` when there is no such property, or not yet; `SerializationFailure` for an
    /// object without a serial form, as `request` alone. `plugin_name`, `plugin_root_id` and `plugin_vm_id` never come
    /// here: the VM answers them.
    fn property(&self, path: Path<'_>, out: &mut Vec<u8>) -> Result<(), Status>;

    /// Keeps a value under a path, for every filter of this exchange. It never shadows a property that exists otherwise.
    fn set_property(&mut self, path: Path<'_>, value: &[u8]) -> Result<(), Status>;

    /// The guest answers the exchange itself. At most once for each context, never in its log or done phase.
    fn reply(&mut self, reply: Reply);

    /// A half on which this filter had paused goes on, in whatever phase it is, with everything that is held of it. A
    /// resume within the very callback that would pause is not told: that callback answers `Continue`. Of a TCP
    /// connection only `Request` is ever resumed: data from the client.
    fn resume(&mut self, half: Half);

    /// The guest resets the exchange. Not for TCP connections.
    fn close(&mut self);

    /// The guest closes one side of a TCP connection, after what was let through has been sent: the client's
    /// (`Request`) or the service's (`Response`).
    fn close_side(&mut self, half: Half) {
        _ = half;
    }

    /// The guest wants the route chosen anew, from the head as it is now (0.1.0's `proxy_clear_route_cache`, the foreign
    /// function `clear_route_cache`). An embedder that chooses after its filters ran need do nothing.
    fn clear_route_cache(&mut self) {}

    /// Runs a foreign function that concerns this exchange, and appends what it answers to `out`. `NotFound` for a name
    /// that it does not know: then [`World::foreign`](crate::World::foreign) is asked. Other errors that SDKs take:
    /// `BadArgument`, `SerializationFailure`, `InternalFailure`.
    fn foreign(&mut self, name: &[u8], arguments: &[u8], out: &mut Vec<u8>) -> Result<(), Status> {
        _ = (name, arguments, out);
        Err(Status::NotFound)
    }
}

/// Bytes that a guest may read and change.
pub trait Buffer {
    /// How many there are.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `out` with the bytes from `start` on. The VM asks for none that are not there.
    fn copy(&self, start: usize, out: &mut [u8]);

    /// Puts `bytes` in the place of a range. The VM names none that is not there; an empty range at 0 or at the end
    /// inserts there.
    fn replace(&mut self, range: Range<usize>, bytes: &[u8]);
}

impl Buffer for Vec<u8> {
    fn len(&self) -> usize {
        Vec::len(self)
    }

    fn copy(&self, start: usize, out: &mut [u8]) {
        out.copy_from_slice(&self[start..start + out.len()]);
    }

    fn replace(&mut self, range: Range<usize>, bytes: &[u8]) {
        self.splice(range, bytes.iter().copied());
    }
}

/// What becomes of a head that a guest was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadersAction {
    /// It goes to the next filter.
    Continue,
    /// It stays, and nothing of what follows in its half is shown to the guest, until [`Stream::resume`]. Then it goes
    /// on, and what has arrived of the body meanwhile is shown to this guest as one piece. The sender is to be held back
    /// where that becomes too much.
    Pause,
    /// It stays, and what follows is shown to the guest all the same. It goes on with the first piece of the body, or
    /// the trailers, that do, or with [`Stream::resume`]. Only with
    /// [`allow_on_headers_stop_iteration`](crate::PluginSettings::allow_on_headers_stop_iteration), and never when
    /// nothing follows.
    Hold,
}

/// A header map: pseudo-headers first, then header lines in their order; names repeat. Names come and go in lower case.
pub trait Headers {
    /// First value of a name.
    fn get(&self, name: &[u8]) -> Option<&[u8]>;

    /// Shows every pair in order.
    fn visit(&self, pair: &mut dyn FnMut(&[u8], &[u8]));

    /// Adds one more pair at the end.
    fn add(&mut self, name: &[u8], value: &[u8]);

    /// Sets the one value of a name, where its first pair was, or at the end; any other pair of that name goes.
    fn replace(&mut self, name: &[u8], value: &[u8]);

    /// Removes every pair of a name.
    fn remove(&mut self, name: &[u8]);

    /// Removes everything; what a guest sets as a whole map follows as [`add`](Headers::add).
    fn clear(&mut self);

    /// How many pairs a head has, after a guest has changed it; none if the embedder is to look at it before another guest
    /// does. Asked for only where several are shown a head together ([`Vm::begin`](crate::Vm::begin),
    /// [`Vm::on_response_heads`](crate::Vm::on_response_heads)).
    fn lines(&self) -> Option<u32> {
        None
    }
}

/// One direction of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Half {
    /// From the client.
    Request,
    /// To the client.
    Response,
}

/// An answer made by a guest (`proxy_send_local_response`), as it was given: nothing is checked but names are in lower
/// case, blanks in `details` are `_`, and a gRPC status is one that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Status code; any number, so check it.
    pub status: u32,
    /// Why, for logs (`response.code_details`); may be empty.
    pub details: Vec<u8>,
    /// Body; may be empty.
    pub body: Vec<u8>,
    /// Header lines to add.
    pub headers: Vec<(Vec<u8>, Vec<u8>)>,
    /// Status for a gRPC client, 0 to 16.
    pub grpc_status: Option<u32>,
}
