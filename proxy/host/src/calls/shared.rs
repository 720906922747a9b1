//! Shared data and shared queues.

use std::sync::Arc;

use lacis_abi::Status;

use super::{Answer, Call};
use crate::limits::{self, Limit};
use crate::memory::{give, give_scratch, split};
use crate::queue::Consumer;

/// Value of a key, and its version for [`set`].
pub(crate) fn get(call: &mut Call<'_>, key: u32, key_size: u32, pointer: u32, size: u32, cas: u32) -> Answer {
    let (mut guest, state) = split(call)?;
    guest.write_u32(cas, 0)?;
    let version = state.shared.get(guest.read(key, key_size)?, state.scratch.get_mut())?;
    guest.write_u32(cas, version)?;
    give_scratch(call, pointer, size)
}

/// Sets a key, if its version is `cas` or `cas` is 0. No room for it is answered as if somebody else had been faster,
/// which is all that the Rust SDK takes: callers that choose keys must not be able to end a guest.
pub(crate) fn set(call: &mut Call<'_>, key: u32, key_size: u32, value: u32, value_size: u32, cas: u32) -> Answer {
    let (guest, state) = split(call)?;
    let set = state.shared.set(guest.read(key, key_size)?, guest.read(value, value_size)?, cas, &state.limits);
    if set == Err(Status::InternalFailure) {
        state.refused(Limit::SharedData)?;
        return Err(Status::CasMismatch.into());
    }
    Ok(set?)
}

/// Number of the queue of this name, of the guest's own `vm_id`; made if there is none. Its items are told to this
/// plugin in this VM from now on.
pub(crate) fn register(call: &mut Call<'_>, name: u32, size: u32, id: u32) -> Answer {
    let (mut guest, state) = split(call)?;
    guest.write_u32(id, 0)?;
    let root = state.context().ok_or(Status::BadArgument)?.root;
    let consumer = Consumer { mailbox: Arc::downgrade(&state.mailbox), root };
    let name = guest.read(name, size)?;
    let registered = match name.len() <= limits::QUEUE_NAME {
        true => state.process.register(&state.shared, name, consumer, &state.limits),
        false => None,
    };
    match registered {
        Some(number) => Ok(guest.write_u32(id, number)?),
        None => {
            state.refused(Limit::Queues)?;
            Err(Status::InternalFailure.into())
        }
    }
}

/// Number of a queue by the `vm_id` that it belongs to, the guest's own if that is empty, and its name.
pub(crate) fn resolve(call: &mut Call<'_>, vm_id: u32, vm_id_size: u32, name: u32, name_size: u32, id: u32) -> Answer {
    let (mut guest, state) = split(call)?;
    guest.write_u32(id, 0)?;
    let vm_id = std::str::from_utf8(guest.read(vm_id, vm_id_size)?).map_err(|_| Status::NotFound)?;
    let vm_id = if vm_id.is_empty() { &state.vm_id } else { vm_id };
    let number = state.process.resolve(vm_id, guest.read(name, name_size)?).ok_or(Status::NotFound)?;
    Ok(guest.write_u32(id, number)?)
}

/// Appends an item. A full queue answers as one that does not exist, which is all that SDKs take.
pub(crate) fn enqueue(call: &mut Call<'_>, id: u32, item: u32, size: u32) -> Answer {
    let (guest, state) = split(call)?;
    let item = guest.read(item, size)?;
    match state.process.queue(id)?.push(item, &state.limits) {
        true => Ok(()),
        false => {
            state.refused(Limit::Queues)?;
            Err(Status::NotFound.into())
        }
    }
}

/// Takes the oldest item out.
pub(crate) fn dequeue(call: &mut Call<'_>, id: u32, pointer: u32, size: u32) -> Answer {
    let (mut guest, state) = split(call)?;
    // An item that cannot be handed over is better left where it is.
    guest.write_u32(pointer, 0)?;
    guest.write_u32(size, 0)?;
    let item = state.process.queue(id)?.pop()?;
    give(call, &item, pointer, size)
}
