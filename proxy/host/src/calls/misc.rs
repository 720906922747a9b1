//! Log, clock, timer, and what compilers import.

use std::time::Duration;

use lacis_abi::{Level, Status};

use super::{Answer, Call};
use crate::memory::split;
use crate::world::RootId;

/// A log line. Envoy dies on a level that does not exist.
pub(crate) fn log(call: &mut Call<'_>, level: u32, text: u32, size: u32, step: u32) -> Answer {
    let level = Level::from_u32(level).ok_or(Status::BadArgument)?;
    let (guest, state) = split(call)?;
    let line = guest.read(text, size)?;
    // Of most lines nothing is to be seen, nor is the callback then.
    if !state.world()?.logs(level) {
        return Ok(());
    }
    state.follow(step);
    state.log(level, line)
}

/// The level from which lines are kept.
pub(crate) fn log_level(call: &mut Call<'_>, level: u32) -> Answer {
    let (mut guest, state) = split(call)?;
    let wanted = state.world()?.level();
    Ok(guest.write_u32(level, wanted as u32)?)
}

/// Nanoseconds since 1970.
pub(crate) fn time(call: &mut Call<'_>, time: u32) -> Answer {
    let (mut guest, state) = split(call)?;
    let now = state.world()?.now();
    Ok(guest.write_u64(time, now.unix)?)
}

/// Period of the timer of this plugin; 0 stops it.
pub(crate) fn set_tick(call: &mut Call<'_>, milliseconds: u32) -> Answer {
    let state = call.data();
    let context = state.context().ok_or(Status::BadArgument)?;
    let period = (milliseconds > 0).then(|| Duration::from_millis(milliseconds.into()));
    state.world_mut()?.set_tick(RootId(context.root), period);
    Ok(())
}

/// emscripten: threads are equal when they are the same.
pub(crate) fn pthread_equal(_: &mut Call<'_>, one: u32, other: u32) -> wasmtime::Result<u32> {
    Ok(u32::from(one == other))
}

/// emscripten tells the host that memory has grown; the host looks anew each time anyway.
pub(crate) fn memory_growth(_: &mut Call<'_>, _: u32) -> wasmtime::Result<()> {
    Ok(())
}
