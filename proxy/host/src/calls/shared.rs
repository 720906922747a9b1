//! Shared data.

use super::{Answer, Call};
use crate::memory::{give_scratch, split};

/// Value of a key, and its version for [`set`].
pub(crate) fn get(call: &mut Call<'_>, key: u32, key_size: u32, pointer: u32, size: u32, cas: u32) -> Answer {
    let (mut guest, state) = split(call)?;
    guest.write_u32(cas, 0)?;
    let version = state.shared.get(guest.read(key, key_size)?, &mut state.scratch)?;
    guest.write_u32(cas, version)?;
    give_scratch(call, pointer, size)
}

/// Sets a key, if its version is `cas` or `cas` is 0.
pub(crate) fn set(call: &mut Call<'_>, key: u32, key_size: u32, value: u32, value_size: u32, cas: u32) -> Answer {
    let (guest, state) = split(call)?;
    Ok(state.shared.set(guest.read(key, key_size)?, guest.read(value, value_size)?, cas)?)
}
