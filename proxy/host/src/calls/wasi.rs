//! The WASI preview-1 functions that compilers import, as far as they mean something in a proxy: standard output goes to
//! the log; there are environment variables, clocks and random bytes; there are no arguments, files or sockets. Functions
//! that do nothing stand in the table of `imports.rs` with the number they answer.

use lacis_abi::Status;

use super::{Answer, Call, IntoResult};
use crate::limits;
use crate::memory::split;
use crate::trap::{Exit, Fail};

/// Bad descriptor. Also ends libc's search for directories that were opened for it.
pub(crate) const BADF: u32 = 8;
/// Bad address.
pub(crate) const FAULT: u32 = 21;
/// Bad argument.
pub(crate) const INVAL: u32 = 28;
/// No such file.
pub(crate) const NOENT: u32 = 44;
/// The host does not do this.
pub(crate) const NOSYS: u32 = 52;
/// Not a directory.
pub(crate) const NOTDIR: u32 = 54;
/// Not supported.
pub(crate) const NOTSUP: u32 = 58;

/// What a WASI function answers: an error number, 0 for none.
pub(crate) enum Errno {
    Number(u32),
    Fail(Fail),
}

type Done = Result<(), Errno>;

impl From<u32> for Errno {
    fn from(number: u32) -> Errno {
        Errno::Number(number)
    }
}

impl From<Fail> for Errno {
    fn from(fail: Fail) -> Errno {
        match fail {
            // The only thing that can be wrong with what a WASI function was passed is an address.
            Fail::Status(_) => Errno::Number(FAULT),
            Fail::Trap(_) => Errno::Fail(fail),
        }
    }
}

impl From<Status> for Errno {
    fn from(status: Status) -> Errno {
        Fail::Status(status).into()
    }
}

impl IntoResult for Done {
    fn into_result(self) -> wasmtime::Result<u32> {
        match self {
            Ok(()) => Ok(0),
            Err(Errno::Number(number)) => Ok(number),
            Err(Errno::Fail(fail)) => Answer::Err(fail).into_result(),
        }
    }
}

/// What a function answers that does nothing.
pub(crate) fn inert(number: u32) -> Done {
    if number == 0 { Ok(()) } else { Err(number.into()) }
}

/// Standard output is logged at info, standard error at error. A line is logged when a write ends it; what is written
/// without an end of line waits for one (Rust's `eprintln!` writes in pieces).
pub(crate) fn fd_write(call: &mut Call<'_>, fd: u32, vectors: u32, count: u32, written: u32, step: u32) -> Done {
    let output = match fd {
        1 | 2 => fd as usize - 1,
        _ => return Err(BADF.into()),
    };
    if count > limits::VECTORS {
        return Err(INVAL.into());
    }
    let (mut guest, state) = split(call)?;
    state.follow(step);
    let mut total = 0u32;
    let table = guest.read(vectors, count * 8)?;
    for vector in table.chunks_exact(8) {
        let [a, b, c, d, e, f, g, h] = *vector else { continue };
        let bytes = guest.read(u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))?;
        let room = limits::LOG_LINE.saturating_sub(state.output[output].len());
        state.output[output].extend_from_slice(&bytes[..bytes.len().min(room)]);
        total = total.wrapping_add(bytes.len() as u32);
    }
    guest.write_u32(written, total)?;
    let pending = &state.output[output];
    if pending.ends_with(b"\n") || pending.len() >= limits::LOG_LINE {
        state.flush(output)?;
    }
    Ok(())
}

/// A positioned write is a write.
pub(crate) fn fd_pwrite(
    call: &mut Call<'_>,
    fd: u32,
    vectors: u32,
    count: u32,
    _at: u64,
    written: u32,
    step: u32,
) -> Done {
    fd_write(call, fd, vectors, count, written, step)
}

/// The three standard streams can be closed, without effect.
pub(crate) fn fd_close(_: &mut Call<'_>, fd: u32) -> Done {
    if fd <= 2 { Ok(()) } else { Err(BADF.into()) }
}

/// See [`fd_close`].
pub(crate) fn fd_seek(call: &mut Call<'_>, fd: u32, _offset: u64, _whence: u32, position: u32) -> Done {
    if fd > 2 {
        return Err(BADF.into());
    }
    Ok(split(call)?.0.write_u64(position, 0)?)
}

/// Always at the beginning.
pub(crate) fn fd_tell(call: &mut Call<'_>, fd: u32, position: u32) -> Done {
    output(fd)?;
    Ok(split(call)?.0.write_u64(position, 0)?)
}

/// Standard output and error are character devices, which libc buffers by line, and can be written.
pub(crate) fn fd_fdstat_get(call: &mut Call<'_>, fd: u32, stat: u32) -> Done {
    const CHARACTER_DEVICE: u8 = 2;
    const RIGHT_WRITE: u8 = 64;
    output(fd)?;
    let mut bytes = [0; 24];
    bytes[0] = CHARACTER_DEVICE;
    bytes[8] = RIGHT_WRITE;
    split(call)?.0.block(stat, 24)?.copy_from_slice(&bytes);
    Ok(())
}

/// What one may do to standard output without effect, whatever the arguments.
pub(crate) fn on_output(_: &mut Call<'_>, fd: u32) -> Done {
    output(fd)
}

/// Renumbering is not supported.
pub(crate) fn fd_renumber(_: &mut Call<'_>, fd: u32, _to: u32) -> Done {
    output(fd)?;
    Err(NOTSUP.into())
}

/// There are no directories.
pub(crate) fn fd_readdir(call: &mut Call<'_>, _fd: u32, _p: u32, _n: u32, _cookie: u64, used: u32) -> Done {
    split(call)?.0.write_u32(used, 0)?;
    Err(NOTDIR.into())
}

/// Number of environment variables, and the bytes they take.
pub(crate) fn environ_sizes_get(call: &mut Call<'_>, count: u32, bytes: u32) -> Done {
    let (mut guest, state) = split(call)?;
    let size: usize = state.env.iter().map(|line| line.len() + 1).sum();
    guest.write_u32(count, u32::try_from(state.env.len()).map_err(|_| FAULT)?)?;
    Ok(guest.write_u32(bytes, u32::try_from(size).map_err(|_| FAULT)?)?)
}

/// The environment variables, `NAME=value` with a NUL each, and a table of pointers to them.
pub(crate) fn environ_get(call: &mut Call<'_>, mut pointers: u32, mut buffer: u32) -> Done {
    let (mut guest, state) = split(call)?;
    for line in &state.env {
        let size = u32::try_from(line.len()).map_err(|_| FAULT)?.checked_add(1).ok_or(FAULT)?;
        let block = guest.block(buffer, size)?;
        block[..line.len()].copy_from_slice(line.as_bytes());
        block[line.len()] = 0;
        guest.write_u32(pointers, buffer)?;
        pointers = pointers.checked_add(4).ok_or(FAULT)?;
        buffer = buffer.checked_add(size).ok_or(FAULT)?;
    }
    Ok(())
}

/// There are no arguments.
pub(crate) fn args_sizes_get(call: &mut Call<'_>, count: u32, bytes: u32) -> Done {
    let (mut guest, _) = split(call)?;
    guest.write_u32(count, 0)?;
    Ok(guest.write_u32(bytes, 0)?)
}

/// Wall clock (0), or the monotonic one, which has to do for CPU time (2, 3), too.
pub(crate) fn clock_time_get(call: &mut Call<'_>, clock: u32, _precision: u64, time: u32) -> Done {
    let (mut guest, state) = split(call)?;
    let now = state.world()?.now();
    let now = match clock {
        0 => now.unix,
        1..=3 => now.monotonic,
        _ => return Err(NOTSUP.into()),
    };
    Ok(guest.write_u64(time, now)?)
}

/// A nanosecond.
pub(crate) fn clock_res_get(call: &mut Call<'_>, clock: u32, resolution: u32) -> Done {
    if clock > 3 {
        return Err(NOTSUP.into());
    }
    Ok(split(call)?.0.write_u64(resolution, 1)?)
}

/// Random bytes fit for keys.
pub(crate) fn random_get(call: &mut Call<'_>, pointer: u32, size: u32) -> Done {
    if size > limits::RANDOM {
        return Err(INVAL.into());
    }
    let (mut guest, _) = split(call)?;
    // The system's, and not a generator in the process: seeding one takes longer than a callback may.
    getrandom::fill(guest.block(pointer, size)?).map_err(|_| Errno::Fail(Fail::host("the system has no random bytes")))
}

/// No event ever comes, at once: a guest cannot wait. Go's scheduler needs this to be a success.
pub(crate) fn poll_oneoff(call: &mut Call<'_>, _in: u32, _out: u32, _count: u32, events: u32) -> Done {
    Ok(split(call)?.0.write_u32(events, 0)?)
}

/// Leaves the guest: its code after this call is `unreachable`.
pub(crate) fn proc_exit(_: &mut Call<'_>, code: u32) -> wasmtime::Result<()> {
    Err(Exit(code as i32).into())
}

fn output(fd: u32) -> Done {
    if fd == 1 || fd == 2 { Ok(()) } else { Err(BADF.into()) }
}
