//! One exchange, as a guest may see it. The embedder implements [`Stream`] and [`Headers`] for its own types.

use lacis_abi::{Map, Path, Status};

/// One exchange. A method is called while a guest callback runs and must not act on what it is told: it takes a note,
/// and the embedder acts when the callback has returned. So a guest is never entered twice at once.
///
/// The VM borrows a `Stream` for the length of one host call only. The embedder must not hold a borrow of its own while
/// it calls a method of [`Vm`](crate::Vm).
pub trait Stream {
    /// A header map of this exchange, if there is one (yet). Whether the guest may reach it in the present callback is
    /// decided by the VM before it asks; names and values are to be judged by the embedder when the callback has
    /// returned, as Envoy does.
    fn headers(&mut self, map: Map) -> Option<&mut dyn Headers>;

    /// Appends the value of a property to `out`, in the encoding of the ABI (integers 8 bytes little-endian, booleans
    /// 1 byte, maps as pairs). `NotFound` when there is no such property, or not yet; `SerializationFailure` for an
    /// object without a serial form, as `request` alone. `plugin_name`, `plugin_root_id` and `plugin_vm_id` never come
    /// here: the VM answers them.
    fn property(&self, path: Path<'_>, out: &mut Vec<u8>) -> Result<(), Status>;

    /// Keeps a value under a path, for every filter of this exchange. It never shadows a property that exists otherwise.
    fn set_property(&mut self, path: Path<'_>, value: &[u8]) -> Result<(), Status>;

    /// The guest answers the exchange itself. At most once for each context, never in its log or done phase.
    fn reply(&mut self, reply: Reply);

    /// A half on which this filter had paused goes on. A resume within the very callback that would pause is not told:
    /// that callback answers `Continue`.
    fn resume(&mut self, half: Half);

    /// The guest resets the exchange.
    fn close(&mut self);
}

/// A header map: pseudo-headers first, then header lines in their order; names repeat. Names come and go in lower case.
pub trait Headers {
    /// First value of a name.
    fn get(&self, name: &[u8]) -> Option<&[u8]>;

    /// Shows every pair in order.
    fn visit(&self, pair: &mut dyn FnMut(&[u8], &[u8]));

    /// Adds one more pair at the end.
    fn add(&mut self, name: &[u8], value: &[u8]);

    /// Sets the one value of a name: every pair of that name goes, the new one is at the end.
    fn replace(&mut self, name: &[u8], value: &[u8]);

    /// Removes every pair of a name.
    fn remove(&mut self, name: &[u8]);

    /// Removes everything; what a guest sets as a whole map follows as [`add`](Headers::add).
    fn clear(&mut self);
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
