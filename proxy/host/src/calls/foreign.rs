//! Foreign functions: whatever the embedder offers beyond the ABI.

use lacis_abi::Status;

use super::{Answer, Call};
use crate::contexts::Life;
use crate::memory::{give_scratch, split};

/// Runs the function of this name: for the exchange, if there is one and it knows the name, else for the plugin. The
/// guest may not want the result; then both its pointers are null.
pub(crate) fn call(
    call: &mut Call<'_>,
    name: u32,
    name_size: u32,
    arguments: u32,
    arguments_size: u32,
    pointer: u32,
    size: u32,
) -> Answer {
    let (guest, state) = split(call)?;
    let (name, arguments) = (guest.read(name, name_size)?, guest.read(arguments, arguments_size)?);
    let mut out = std::mem::take(state.scratch.get_mut());
    let exchange = state.exchange().filter(|exchange| exchange.life.get() != Life::Ended);
    let mut done = match exchange {
        Some(exchange) if name == CLEAR_ROUTE_CACHE => {
            exchange.stream()?.clear_route_cache();
            Ok(())
        }
        Some(exchange) => exchange.stream()?.foreign(name, arguments, &mut out),
        None if name == CLEAR_ROUTE_CACHE => Ok(()),
        None => Err(Status::NotFound),
    };
    if done == Err(Status::NotFound) {
        out.clear();
        done = state.world_mut()?.foreign(state.plugin(), name, arguments, &mut out);
    }
    if done.is_err() || (pointer, size) == (0, 0) {
        out.clear();
    }
    *state.scratch.get_mut() = out;
    done?;
    if (pointer, size) == (0, 0) { Ok(()) } else { give_scratch(call, pointer, size) }
}

/// 0.1.0.
pub(crate) fn clear_route_cache(call: &mut Call<'_>) -> Answer {
    if let Some(exchange) = call.data().exchange() {
        exchange.stream()?.clear_route_cache();
    }
    Ok(())
}

const CLEAR_ROUTE_CACHE: &[u8] = b"clear_route_cache";
