//! Header maps.

use lacis_abi::{AbiVersion, Encoder, Map, Status};

use super::{Answer, Call};
use crate::contexts::{Access, Exchange};
use crate::limits::Limit;
use crate::memory::{Given, Guest, give_few, give_promised, give_with, promise_scratch, split};
use crate::state::State;
use crate::stream::Headers;
use crate::trap::Fail;

/// What a change of a map says: how many lines that has now ([`Headers::lines`]).
pub(crate) type Edited = Result<Option<u32>, Fail>;

/// Bytes of all names and values. Envoy asks for the *mutable* map, so there is none in the log phase.
pub(crate) fn size(call: &mut Call<'_>, map: u32, size: u32) -> Answer {
    let map = which(map)?;
    let (mut guest, state) = split(call)?;
    let mut total = 0;
    let measured = state.writable(map)?.headers(map, |headers| {
        headers.visit(&mut |name, value| total += name.len() + value.len());
    });
    measured?.ok_or(Status::BadArgument)?;
    Ok(guest.write_u32(size, u32::try_from(total).unwrap_or(u32::MAX))?)
}

/// The whole map, serialized. One that is not there, or cannot be reached, is an empty one.
pub(crate) fn pairs(call: &mut Call<'_>, map: u32, pointer: u32, size: u32) -> Answer {
    let map = which(map)?;
    let (mut count, mut total) = (0, 4);
    call.data().read(map, |headers| {
        headers.visit(&mut |name, value| {
            count += 1;
            total += Encoder::pair_len(name, value);
        });
    })?;
    if count == 0 {
        total = 0;
    }
    give_with(call, total, pointer, size, |block, state| encode(block, count, state, map))
}

/// Written straight into guest memory. The map cannot have changed since it was measured: the guest's allocator may not
/// call for it.
fn encode(block: &mut [u8], count: usize, state: &mut State, map: Map) -> Answer {
    let mut encoder = Encoder::new(block, count).ok_or(Status::InternalFailure)?;
    state.read(map, |headers| headers.visit(&mut |name, value| _ = encoder.push(name, value)))?;
    if encoder.is_complete() { Ok(()) } else { Err(Status::InternalFailure.into()) }
}

/// Replaces the whole map.
pub(crate) fn set_pairs(call: &mut Call<'_>, map: u32, pointer: u32, size: u32) -> Edited {
    let map = which(map)?;
    let (guest, state) = split(call)?;
    let pairs = super::pairs(state, guest.read(pointer, size)?)?;
    let exchange = state.writable(map)?;
    charge(state, exchange, size as usize + pairs.len() * crate::limits::ENTRY)?;
    exchange.edit(map, |headers| {
        headers.clear();
        for (name, value) in pairs.iter() {
            headers.add(lower(name, &mut None), value);
        }
    })
}

/// First value of a name.
pub(crate) fn value(call: &mut Call<'_>, map: u32, name: u32, name_size: u32, pointer: u32, size: u32) -> Answer {
    let (mut guest, state) = split(call)?;
    find(&guest, state, map, name, name_size, |value| state.scratch.borrow_mut().extend_from_slice(value))?;
    promise_scratch(&mut guest, state, pointer, size)?;
    give_promised(call, pointer, size)
}

/// As [`value`], for a guest that takes a few bytes by itself.
#[inline]
pub(crate) fn few(
    call: &mut Call<'_>,
    map: u32,
    name: u32,
    name_size: u32,
    pointer: u32,
    size: u32,
) -> Result<Given, Fail> {
    let (mut guest, state) = split(call)?;
    let keep = |value: &[u8]| {
        let given = Given::of(value);
        if given.is_none() {
            state.scratch.borrow_mut().extend_from_slice(value);
        }
        given
    };
    match find(&guest, state, map, name, name_size, keep)? {
        Some(given) => {
            guest.promise(pointer, size)?;
            Ok(given)
        }
        None => give_few(call, pointer, size),
    }
}

/// Runs `f` on the first value of a name.
#[inline]
fn find<T: Default>(
    guest: &Guest<'_>,
    state: &State,
    map: u32,
    name: u32,
    name_size: u32,
    f: impl FnOnce(&[u8]) -> T,
) -> Result<T, Fail> {
    let map = which(map)?;
    let mut made = None;
    let name = lower(guest.read(name, name_size)?, &mut made);
    match state.read(map, |headers| headers.get(name).map(f))? {
        Some(Some(found)) => Ok(found),
        Some(None) if state.abi == AbiVersion::V0_1_0 => Ok(T::default()),
        Some(None) => Err(Status::NotFound.into()),
        None => Err(absent(state, map)),
    }
}

/// One more line.
#[inline]
pub(crate) fn add(call: &mut Call<'_>, map: u32, name: u32, name_size: u32, value: u32, value_size: u32) -> Edited {
    edit(call, map, (name, name_size), (value, value_size), |headers, name, value| headers.add(name, value))
}

/// Sets the one value of a name.
#[inline]
pub(crate) fn replace(call: &mut Call<'_>, map: u32, name: u32, name_size: u32, value: u32, value_size: u32) -> Edited {
    edit(call, map, (name, name_size), (value, value_size), |headers, name, value| headers.replace(name, value))
}

#[inline]
fn edit(
    call: &mut Call<'_>,
    map: u32,
    name: (u32, u32),
    value: (u32, u32),
    f: impl FnOnce(&mut dyn Headers, &[u8], &[u8]),
) -> Edited {
    let map = which(map)?;
    let (guest, state) = split(call)?;
    let (name, value) = (guest.read(name.0, name.1)?, guest.read(value.0, value.1)?);
    let exchange = state.writable(map)?;
    charge(state, exchange, name.len() + value.len())?;
    let mut made = None;
    let name = lower(name, &mut made);
    exchange.edit(map, |headers| f(headers, name, value))
}

/// Removes a name; fine when it is not there.
pub(crate) fn remove(call: &mut Call<'_>, map: u32, name: u32, name_size: u32) -> Edited {
    let map = which(map)?;
    let (guest, state) = split(call)?;
    let mut made = None;
    let name = lower(guest.read(name, name_size)?, &mut made);
    state.writable(map)?.edit(map, |headers| headers.remove(name))
}

/// Where a name lies that had to be made one in lower case.
pub(crate) enum Lowered {
    /// So many bytes, as of most names: they need no block of memory.
    Few(usize, [u8; FEW]),
    Many(Vec<u8>),
}

/// Most bytes of a name that needs no block.
const FEW: usize = 64;

/// Names are in lower case on our side; lookups ignore case. Almost every guest passes them so, which costs no copy.
#[inline]
pub(crate) fn lower<'a>(name: &'a [u8], made: &'a mut Option<Lowered>) -> &'a [u8] {
    if has_no_capital(name) { name } else { lowered(name, made) }
}

#[cold]
fn lowered<'a>(name: &'a [u8], made: &'a mut Option<Lowered>) -> &'a [u8] {
    if !name.iter().any(u8::is_ascii_uppercase) {
        return name;
    }
    let mut few = [0; FEW];
    let lowered = match few.get_mut(..name.len()) {
        Some(room) => {
            room.copy_from_slice(name);
            room.make_ascii_lowercase();
            Lowered::Few(name.len(), few)
        }
        None => Lowered::Many(name.to_ascii_lowercase()),
    };
    match made.insert(lowered) {
        Lowered::Few(length, few) => few.get(..*length).unwrap_or_default(),
        Lowered::Many(many) => many,
    }
}

/// Whether all bytes have the bit that makes a letter a small one, as everything has that names are made of but `_`. Looked at
/// several at a time, the last of them perhaps twice.
#[inline]
fn has_no_capital(name: &[u8]) -> bool {
    const SMALL: u8 = 0x20;
    let (eight, four) = (u64::from_ne_bytes([SMALL; 8]), u32::from_ne_bytes([SMALL; 4]));
    if let Some(last) = name.last_chunk() {
        let words = name.as_chunks().0.iter();
        return words.fold(u64::from_ne_bytes(*last), |all, word| all & u64::from_ne_bytes(*word)) & eight == eight;
    }
    match (name.first_chunk(), name.last_chunk()) {
        (Some(first), Some(last)) => u32::from_ne_bytes(*first) & u32::from_ne_bytes(*last) & four == four,
        _ => name.iter().all(|byte| byte & SMALL != 0),
    }
}

fn which(map: u32) -> Result<Map, Status> {
    Map::from_u32(map).ok_or(Status::BadArgument)
}

#[inline]
pub(super) fn charge(state: &State, exchange: &Exchange, bytes: usize) -> Answer {
    match exchange.charge(bytes) {
        Ok(()) => Ok(()),
        Err(status) => {
            state.refused(Limit::Headers)?;
            Err(status.into())
        }
    }
}

/// What reading a value of a map answers that is not there.
fn absent(state: &State, map: Map) -> Fail {
    match state.access(map) {
        Access::Read | Access::NothingToLog => Status::NotFound.into(),
        Access::Nothing | Access::Write => Status::BadArgument.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_any_length_are_made_lower_case() {
        for length in (0..40).chain([FEW, FEW + 1]) {
            for fill in [b'a', b'-', b'_', 0, 0xff] {
                for (at, byte) in (0..length).flat_map(|at| (0..=u8::MAX).map(move |byte| (at, byte))) {
                    let mut name = vec![fill; length];
                    name[at] = byte;
                    assert_eq!(lower(&name, &mut None), name.to_ascii_lowercase(), "{name:?}");
                }
            }
        }
        let mut made = None;
        assert_eq!([lower(b":authority", &mut None), lower(b"x_y", &mut made)], [&b":authority"[..], b"x_y"]);
        assert!(made.is_none(), "as it was given");
        assert_eq!(lower(b"", &mut None), b"");
    }
}
