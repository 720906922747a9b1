//! Buffers. A body or message that cannot be reached now is an empty one that cannot be changed, as in Envoy; a
//! configuration, or the body of an answer, is not found.

use lacis_abi::{Buffer, Status};

use super::{Answer, Call};
use crate::callout::Answer as CallAnswer;
use crate::contexts::Exchange;
use crate::limits::Limit;
use crate::memory::{give_with, split};
use crate::state::{Phase, State};
use crate::stream::{self, Half};
use crate::trap::Fail;

/// Part of a buffer: up to `max` bytes from `start`. Nothing in that range is a null pointer and the size 0.
pub(crate) fn bytes(call: &mut Call<'_>, buffer: u32, start: u32, max: u32, pointer: u32, size: u32) -> Answer {
    let buffer = which(buffer)?;
    let len = read(call.data(), buffer, |content| content.len())?;
    let start = len.min(start as usize);
    let taken = (len - start).min(max as usize);
    give_with(call, taken, pointer, size, |block, state| read(state, buffer, |content| content.copy(start, block)))
}

/// Length of a buffer, and its flags, which are always 0.
pub(crate) fn status(call: &mut Call<'_>, buffer: u32, length: u32, flags: u32) -> Answer {
    let buffer = which(buffer)?;
    let (mut guest, state) = split(call)?;
    let content = read(state, buffer, |content| content.len())?;
    guest.write_u32(length, u32::try_from(content).unwrap_or(u32::MAX))?;
    Ok(guest.write_u32(flags, 0)?)
}

/// Changes a body: from 0 on, that many bytes are replaced, all if there are fewer; from its end on or beyond, bytes are
/// added. As in Envoy nothing else can be done, and nothing else be changed.
pub(crate) fn set(call: &mut Call<'_>, buffer: u32, start: u32, length: u32, data: u32, size: u32) -> Answer {
    let buffer = which(buffer)?;
    let (guest, state) = split(call)?;
    let data = guest.read(data, size)?;
    let Some((exchange, half)) = body(state, buffer) else {
        read(state, buffer, |_| ())?;
        return Err(Status::BadArgument.into());
    };
    let mut stream = exchange.stream()?;
    let body = stream.body(half).ok_or(Status::BadArgument)?;
    let len = body.len();
    let range = match start as usize {
        0 => 0..len.min(length as usize),
        start if start >= len => len..len,
        _ => return Err(Status::BadArgument.into()),
    };
    let left = len - range.len() + data.len();
    if left > len && left > state.limits.body {
        drop(stream);
        state.refused(Limit::Body)?;
        return Err(Status::InternalFailure.into());
    }
    body.replace(range, data);
    Ok(())
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

/// Runs `f` on what a buffer holds now.
fn read<R>(state: &State, buffer: Buffer, f: impl FnOnce(&dyn stream::Buffer) -> R) -> Result<R, Fail> {
    let nothing = Vec::new();
    let content = match (buffer, &state.calls.answer) {
        (Buffer::VmConfiguration, _) => &state.configuration,
        (Buffer::PluginConfiguration, _) => match state.context() {
            Some(context) if state.phase == Phase::Configuring => &context.plugin.configuration,
            Some(_) | None => return Err(Status::NotFound.into()),
        },
        (Buffer::CallResponseBody, Some(CallAnswer::Http(answer))) => &answer.body,
        (Buffer::GrpcMessage, Some(CallAnswer::Message(message))) => message,
        (Buffer::CallData, Some(CallAnswer::Foreign(arguments))) => arguments,
        (Buffer::CallResponseBody, _) => return Err(Status::NotFound.into()),
        // As in Envoy, which keeps these two for ever.
        (Buffer::GrpcMessage | Buffer::CallData, _) => &nothing,
        (Buffer::RequestBody | Buffer::ResponseBody | Buffer::DownstreamData | Buffer::UpstreamData, _) => {
            let Some((exchange, half)) = body(state, buffer) else { return Ok(f(&nothing)) };
            return Ok(match exchange.stream()?.body(half) {
                Some(body) => f(&*body),
                None => f(&nothing),
            });
        }
    };
    Ok(f(content))
}

/// The body of the effective context that a buffer stands for, if the guest may reach it.
fn body(state: &State, buffer: Buffer) -> Option<(&Exchange, Half)> {
    let (half, tcp) = match buffer {
        Buffer::RequestBody => (Half::Request, false),
        Buffer::ResponseBody => (Half::Response, false),
        Buffer::DownstreamData => (Half::Request, true),
        Buffer::UpstreamData => (Half::Response, true),
        _ => return None,
    };
    let exchange = state.exchange()?;
    let here = exchange.tcp == tcp && exchange.reaches_body(half);
    (here && !state.hides_bodies).then_some((exchange, half))
}
