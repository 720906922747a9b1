//! Properties.

use lacis_abi::{Path, Status};

use super::headers::charge;
use super::{Answer, Call};
use crate::memory::{Given, give_few, give_scratch, split};
use crate::state::State;
use crate::trap::Fail;

/// Value of a property. The three names of the plugin itself always answer (SDKs choose their root context by them).
pub(crate) fn read(call: &mut Call<'_>, path: u32, path_size: u32, pointer: u32, size: u32) -> Answer {
    keep(call, path, path_size)?;
    give_scratch(call, pointer, size)
}

/// As [`read`], for a guest that takes a few bytes by itself.
pub(crate) fn few(call: &mut Call<'_>, path: u32, path_size: u32, pointer: u32, size: u32) -> Result<Given, Fail> {
    keep(call, path, path_size)?;
    give_few(call, pointer, size)
}

/// Puts the value of a property into the scratch buffer.
fn keep(call: &mut Call<'_>, path: u32, path_size: u32) -> Answer {
    let (guest, state) = split(call)?;
    let path = Path::new(guest.read(path, path_size)?);
    let mut out = std::mem::take(state.scratch.get_mut());
    let found = find(state, path, &mut out);
    if found.is_err() {
        out.clear();
    }
    *state.scratch.get_mut() = out;
    found
}

/// Keeps a value for this exchange; `NotFound` where there is none.
pub(crate) fn write(call: &mut Call<'_>, path: u32, path_size: u32, value: u32, value_size: u32) -> Answer {
    let (guest, state) = split(call)?;
    let (path, value) = (guest.read(path, path_size)?, guest.read(value, value_size)?);
    let exchange = state.exchange().ok_or(Status::NotFound)?;
    charge(state, exchange, path.len() + value.len())?;
    Ok(exchange.stream()?.set_property(Path::new(path), value)?)
}

fn find(state: &State, path: Path<'_>, out: &mut Vec<u8>) -> Answer {
    if path.is_empty() {
        return Err(Status::SerializationFailure.into());
    }
    let plugin = state.context().map(|context| &*context.plugin);
    match (path.bytes(), plugin) {
        (b"plugin_name", plugin) => out.extend(plugin.into_iter().flat_map(|plugin| plugin.name.bytes())),
        (b"plugin_root_id", plugin) => out.extend(plugin.into_iter().flat_map(|plugin| plugin.root_id.bytes())),
        (b"plugin_vm_id", _) => out.extend_from_slice(state.vm_id.as_bytes()),
        (_, _) => match state.exchange() {
            Some(exchange) => exchange.stream()?.property(path, out)?,
            None => state.world()?.property(path, out)?,
        },
    }
    Ok(())
}
