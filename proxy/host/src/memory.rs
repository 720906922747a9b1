//! Guest memory. The only code that handles guest pointers: each is checked, with 64-bit sums, before it is followed.

use std::ops::Range;

use lacis_abi::Status;
use wasmtime::{Caller, Extern, Memory};

use crate::joint::{FEW, WORDS};
use crate::limits;
use crate::state::{Phase, State};
use crate::trap::Fail;

/// The linear memory of a guest, borrowed for part of one host call.
pub(crate) struct Guest<'a>(&'a mut [u8]);

/// Guest memory and the host's state, both borrowed. Must be called again after the guest's allocator ran: memory may
/// have grown, and moved.
#[inline]
pub(crate) fn split<'a>(caller: &'a mut Caller<'_, State>) -> Result<(Guest<'a>, &'a mut State), Fail> {
    let memory = match caller.data().memory {
        Some(memory) => memory,
        None => find(caller)?,
    };
    let (bytes, state) = memory.data_and_store_mut(caller);
    Ok((Guest(bytes), state))
}

/// A start section (AssemblyScript) runs before the host could look the export up.
#[cold]
fn find(caller: &mut Caller<'_, State>) -> Result<Memory, Status> {
    match caller.get_export("memory") {
        Some(Extern::Memory(memory)) => Ok(*caller.data_mut().memory.insert(memory)),
        _ => Err(Status::InvalidMemoryAccess),
    }
}

impl Guest<'_> {
    /// Bytes that the guest passed. Any pointer will do when the size is 0.
    pub(crate) fn read(&self, pointer: u32, size: u32) -> Result<&[u8], Status> {
        Ok(&self.0[self.range(pointer, size)?])
    }

    /// A block that the guest wants filled.
    pub(crate) fn block(&mut self, pointer: u32, size: u32) -> Result<&mut [u8], Status> {
        let range = self.range(pointer, size)?;
        Ok(&mut self.0[range])
    }

    pub(crate) fn write_u32(&mut self, pointer: u32, value: u32) -> Result<(), Status> {
        self.block(pointer, 4)?.copy_from_slice(&value.to_le_bytes());
        Ok(())
    }

    pub(crate) fn write_u64(&mut self, pointer: u32, value: u64) -> Result<(), Status> {
        self.block(pointer, 8)?.copy_from_slice(&value.to_le_bytes());
        Ok(())
    }

    /// Says that nothing is given yet, where a block's pointer and size will be told. Before the allocator runs: a block that
    /// cannot be told of would leak.
    pub(crate) fn promise(&mut self, pointer: u32, size: u32) -> Result<(), Status> {
        self.write_u32(pointer, 0)?;
        self.write_u32(size, 0)
    }

    fn range(&self, pointer: u32, size: u32) -> Result<Range<usize>, Status> {
        if size == 0 {
            return Ok(0..0);
        }
        let end = u64::from(pointer) + u64::from(size);
        match end <= self.0.len() as u64 {
            true => Ok(pointer as usize..end as usize),
            false => Err(Status::InvalidMemoryAccess),
        }
    }
}

/// What a call of the host answers that gives bytes to the guest, where these are few: the guest itself asks its allocator
/// for the block then, and puts them there (`joint/functions.rs`), which is far cheaper than to be entered once more.
#[derive(Default)]
pub(crate) struct Given {
    /// The status, and above it how many bytes there are; none also if they have been given already.
    pub(crate) answer: u64,
    /// The first bytes and then the last, as many of both as the largest power of two that is not above how many there are.
    pub(crate) words: [u64; WORDS],
}

impl Given {
    pub(crate) fn status(status: Status) -> Given {
        Given { answer: status as u64, ..Given::default() }
    }

    /// Some bytes; none if they are more than a few.
    #[inline]
    pub(crate) fn of(bytes: &[u8]) -> Option<Given> {
        let mut words = [0; WORDS];
        match bytes.len() {
            0 => {}
            1 => ends::<1>(bytes, &mut words)?,
            2..4 => ends::<2>(bytes, &mut words)?,
            4..8 => ends::<4>(bytes, &mut words)?,
            8..16 => ends::<8>(bytes, &mut words)?,
            16..32 => ends::<16>(bytes, &mut words)?,
            32..=FEW => ends::<32>(bytes, &mut words)?,
            _ => return None,
        }
        Some(Given { answer: (bytes.len() as u64) << 32, words })
    }
}

/// The first and the last N of some bytes, in words.
#[inline]
fn ends<const N: usize>(bytes: &[u8], words: &mut [u64; WORDS]) -> Option<()> {
    let (first, last) = (bytes.first_chunk::<N>()?, bytes.last_chunk::<N>()?);
    for (word, bytes) in words.iter_mut().zip(first.chunks(8).chain(last.chunks(8))) {
        let mut eight = [0; 8];
        eight.get_mut(..bytes.len())?.copy_from_slice(bytes);
        *word = u64::from_le_bytes(eight);
    }
    Some(())
}

/// Hands `bytes` to the guest: in a block from its own allocator, whose pointer and size are stored where it said. The
/// guest owns the block. No bytes are the pointer 0 and the size 0; the allocator is never asked for nothing (the Go SDK
/// panics on that).
pub(crate) fn give(caller: &mut Caller<'_, State>, bytes: &[u8], pointer: u32, size: u32) -> Result<(), Fail> {
    give_with(caller, bytes.len(), pointer, size, |block, _| {
        block.copy_from_slice(bytes);
        Ok(())
    })
}

/// Hands over what the state's scratch buffer holds, which is empty afterwards.
pub(crate) fn give_scratch(caller: &mut Caller<'_, State>, pointer: u32, size: u32) -> Result<(), Fail> {
    let (mut guest, state) = split(caller)?;
    promise_scratch(&mut guest, state, pointer, size)?;
    give_promised(caller, pointer, size)
}

/// As [`give_scratch`], where the guest takes a few bytes by itself.
pub(crate) fn give_few(caller: &mut Caller<'_, State>, pointer: u32, size: u32) -> Result<Given, Fail> {
    let (mut guest, state) = split(caller)?;
    promise_scratch(&mut guest, state, pointer, size)?;
    let scratch = state.scratch.get_mut();
    if let Some(given) = Given::of(scratch) {
        scratch.clear();
        return Ok(given);
    }
    give_promised(caller, pointer, size)?;
    Ok(Given::default())
}

/// The first half of [`give_scratch`], for whoever has both in his hands: the second is [`give_promised`].
#[inline]
pub(crate) fn promise_scratch(guest: &mut Guest<'_>, state: &mut State, pointer: u32, size: u32) -> Result<(), Fail> {
    guest.promise(pointer, size).map_err(|status| {
        state.scratch.get_mut().clear();
        status.into()
    })
}

/// Hands over what the state's scratch buffer holds, as [`promise_scratch`] has promised. None of the calls that a guest's
/// allocator may make uses that.
pub(crate) fn give_promised(caller: &mut Caller<'_, State>, pointer: u32, size: u32) -> Result<(), Fail> {
    let length = caller.data_mut().scratch.get_mut().len();
    let given = fill_promised(caller, length, pointer, size, |block, state| {
        let bytes = state.scratch.get_mut();
        if bytes.len() != block.len() {
            return Err(Fail::host("the answer for a guest has changed"));
        }
        block.copy_from_slice(bytes);
        Ok(())
    });
    let scratch = caller.data_mut().scratch.get_mut();
    if scratch.capacity() <= limits::SCRATCH {
        scratch.clear();
    } else {
        *scratch = Vec::new();
    }
    given
}

/// As [`give`], for bytes that are written straight into the guest's block.
pub(crate) fn give_with(
    caller: &mut Caller<'_, State>,
    length: usize,
    pointer: u32,
    size: u32,
    fill: impl FnOnce(&mut [u8], &mut State) -> Result<(), Fail>,
) -> Result<(), Fail> {
    split(caller)?.0.promise(pointer, size)?;
    fill_promised(caller, length, pointer, size, fill)
}

fn fill_promised(
    caller: &mut Caller<'_, State>,
    length: usize,
    pointer: u32,
    size: u32,
    fill: impl FnOnce(&mut [u8], &mut State) -> Result<(), Fail>,
) -> Result<(), Fail> {
    let length = u32::try_from(length).map_err(|_| Status::InvalidMemoryAccess)?;
    if length == 0 {
        return Ok(());
    }
    let block = allocate(caller, length)?;
    let (mut guest, state) = split(caller)?;
    fill(guest.block(block, length)?, state)?;
    guest.write_u32(pointer, block)?;
    guest.write_u32(size, length)?;
    Ok(())
}

/// Calls the guest's allocator. While it runs the guest may call next to nothing of the host (`Phase::Allocating`).
fn allocate(caller: &mut Caller<'_, State>, size: u32) -> Result<u32, Fail> {
    let state = caller.data_mut();
    // Not the function itself: a clone of that counts up an atomic which all workers share.
    let Some(allocator) = state.allocator.clone() else { return Err(Status::InvalidMemoryAccess.into()) };
    let phase = std::mem::replace(&mut state.phase, Phase::Allocating);
    let block = allocator.call(&mut *caller, size);
    caller.data_mut().phase = phase;
    let block = block.map_err(Fail::Trap)?;
    if block == 0 { Err(Status::InvalidMemoryAccess.into()) } else { Ok(block) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_end_where_memory_ends() {
        let mut bytes = [7; 16];
        let mut guest = Guest(&mut bytes);
        assert_eq!(guest.read(0, 16).unwrap().len(), 16);
        assert_eq!(guest.read(12, 4).unwrap().len(), 4);
        assert_eq!(guest.read(u32::MAX, 0).unwrap().len(), 0);
        for (pointer, size) in [(0, 17), (13, 4), (16, 1), (u32::MAX, 1), (1, u32::MAX), (u32::MAX, u32::MAX)] {
            assert_eq!(guest.read(pointer, size), Err(Status::InvalidMemoryAccess), "{pointer} {size}");
            assert!(guest.block(pointer, size).is_err());
        }
        assert!(guest.write_u32(12, 1).is_ok());
        assert!(guest.write_u32(13, 1).is_err());
        assert!(guest.write_u64(8, 1).is_ok());
        assert!(guest.write_u64(9, 1).is_err());
        assert_eq!(guest.read(8, 8), Ok(&[1, 0, 0, 0, 0, 0, 0, 0][..]));
    }
}
