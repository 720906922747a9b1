//! Buffers. Of bodies, TCP data and call-outs none is held yet, so each answers as Envoy does outside of its callback.

use lacis_abi::{Buffer, Status};

use super::{Answer, Call};
use crate::memory::{give_scratch, split};
use crate::state::{Phase, State};

/// Part of a buffer: up to `max` bytes from `start`. Nothing in that range is a null pointer and the size 0.
pub(crate) fn bytes(call: &mut Call<'_>, buffer: u32, start: u32, max: u32, pointer: u32, size: u32) -> Answer {
    let buffer = which(buffer)?;
    let state = call.data_mut();
    let mut out = std::mem::take(&mut state.scratch);
    let found = content(state, buffer).map(|content| {
        let start = content.len().min(start as usize);
        let end = content.len().min(start.saturating_add(max as usize));
        out.extend_from_slice(&content[start..end]);
    });
    state.scratch = out;
    found?;
    give_scratch(call, pointer, size)
}

/// Length of a buffer, and its flags, which are always 0.
pub(crate) fn status(call: &mut Call<'_>, buffer: u32, length: u32, flags: u32) -> Answer {
    let buffer = which(buffer)?;
    let (mut guest, state) = split(call)?;
    let content = content(state, buffer)?.len();
    guest.write_u32(length, u32::try_from(content).unwrap_or(u32::MAX))?;
    Ok(guest.write_u32(flags, 0)?)
}

/// Changes a buffer. None of those that exist now can be changed.
pub(crate) fn set(call: &mut Call<'_>, buffer: u32, _start: u32, _length: u32, data: u32, size: u32) -> Answer {
    let buffer = which(buffer)?;
    let (guest, state) = split(call)?;
    guest.read(data, size)?;
    content(state, buffer)?;
    Err(Status::BadArgument.into())
}

/// 0.1.0: configuration of the plugin while it is configured, else that of the VM.
pub(crate) fn configuration(call: &mut Call<'_>, pointer: u32, size: u32) -> Answer {
    let buffer = match call.data().phase {
        Phase::Configuring => Buffer::PluginConfiguration,
        Phase::Starting | Phase::Running | Phase::Allocating => Buffer::VmConfiguration,
    };
    bytes(call, buffer as u32, 0, u32::MAX, pointer, size)
}

fn which(buffer: u32) -> Result<Buffer, Status> {
    Buffer::from_u32(buffer).ok_or(Status::BadArgument)
}

fn content(state: &State, buffer: Buffer) -> Result<&[u8], Status> {
    match (buffer, &state.context) {
        (Buffer::VmConfiguration, _) => Ok(&state.configuration),
        (Buffer::PluginConfiguration, Some(context)) if state.phase == Phase::Configuring => {
            Ok(&context.plugin.configuration)
        }
        (Buffer::RequestBody | Buffer::ResponseBody | Buffer::DownstreamData | Buffer::UpstreamData, _) => Ok(&[]),
        (
            Buffer::PluginConfiguration | Buffer::CallResponseBody | Buffer::GrpcMessage | Buffer::CallData,
            Some(_) | None,
        ) => Err(Status::NotFound),
    }
}
