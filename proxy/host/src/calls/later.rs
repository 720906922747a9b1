//! Host functions that link but do nothing yet: call-outs, shared queues, foreign functions. Each answers with the
//! status by which the ABI says that there is no such thing here, one that SDKs take without a panic where there is one.

use lacis_abi::Status;

use super::{Answer, Call};
use crate::memory::split;

/// As for a cluster that does not exist. Ten parameters; the last is where the call's id goes.
#[expect(clippy::too_many_arguments, reason = "the ABI's signature")]
pub(crate) fn http_call(
    call: &mut Call<'_>,
    _upstream: u32,
    _upstream_size: u32,
    _headers: u32,
    _headers_size: u32,
    _body: u32,
    _body_size: u32,
    _trailers: u32,
    _trailers_size: u32,
    _timeout: u32,
    id: u32,
) -> Answer {
    no_call(call, id, Status::BadArgument)
}

/// The Rust SDK panics on any answer to this but parse failure and internal failure.
pub(crate) fn grpc_call(call: &mut Call<'_>, id: u32) -> Answer {
    no_call(call, id, Status::InternalFailure)
}

/// No id names a gRPC stream.
pub(crate) fn grpc_send(call: &mut Call<'_>, _id: u32, message: u32, size: u32, _end: u32) -> Answer {
    split(call)?.0.read(message, size)?;
    Err(Status::BadArgument.into())
}

/// No id names a gRPC call.
pub(crate) fn grpc_end(_: &mut Call<'_>, _id: u32) -> Answer {
    Err(Status::NotFound.into())
}

/// Outcome of the last call-out: none was made, so 0 and no text.
pub(crate) fn call_status(call: &mut Call<'_>, code: u32, text: u32, size: u32) -> Answer {
    let (mut guest, _) = split(call)?;
    guest.write_u32(code, 0)?;
    guest.write_u32(text, 0)?;
    Ok(guest.write_u32(size, 0)?)
}

/// The ABI has no status for "no queues here".
pub(crate) fn register_queue(call: &mut Call<'_>, name: u32, size: u32, id: u32) -> Answer {
    let (mut guest, _) = split(call)?;
    guest.read(name, size)?;
    guest.write_u32(id, 0)?;
    Err(Status::Unimplemented.into())
}

/// No queue has a name.
pub(crate) fn resolve_queue(
    call: &mut Call<'_>,
    vm_id: u32,
    vm_id_size: u32,
    name: u32,
    name_size: u32,
    id: u32,
) -> Answer {
    let (mut guest, _) = split(call)?;
    guest.read(vm_id, vm_id_size)?;
    guest.read(name, name_size)?;
    guest.write_u32(id, 0)?;
    Err(Status::NotFound.into())
}

/// No id names a queue.
pub(crate) fn enqueue(call: &mut Call<'_>, _id: u32, item: u32, size: u32) -> Answer {
    split(call)?.0.read(item, size)?;
    Err(Status::NotFound.into())
}

/// No id names a queue.
pub(crate) fn dequeue(_: &mut Call<'_>, _id: u32, _pointer: u32, _size: u32) -> Answer {
    Err(Status::NotFound.into())
}

/// No foreign function has a name.
pub(crate) fn foreign(
    call: &mut Call<'_>,
    name: u32,
    name_size: u32,
    arguments: u32,
    arguments_size: u32,
    _pointer: u32,
    _size: u32,
) -> Answer {
    let (guest, _) = split(call)?;
    guest.read(name, name_size)?;
    guest.read(arguments, arguments_size)?;
    Err(Status::NotFound.into())
}

/// 0.1.0. Routes are chosen after the filters ran, so there is nothing to forget.
pub(crate) fn clear_route_cache(_: &mut Call<'_>) -> Answer {
    Ok(())
}

fn no_call(call: &mut Call<'_>, id: u32, status: Status) -> Answer {
    split(call)?.0.write_u32(id, 0)?;
    Err(status.into())
}
