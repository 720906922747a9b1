//! Call-outs: HTTP requests, gRPC calls and streams. They are noted with the world, and belong to the plugin.

use std::rc::Rc;
use std::time::Duration;

use lacis_abi::{Level, Status};

use super::headers::lower;
use super::{Answer, Call, pairs};
use crate::callout::{CallId, CallKind, CallOut, GrpcCall, HttpCall, Lines};
use crate::contexts::Kind;
use crate::grpc_service::Target;
use crate::limits::Limit;
use crate::memory::{give_scratch, split};
use crate::state::State;
use crate::trap::Fail;
use crate::world::RootId;

/// An HTTP request. `BadArgument` for a negative timeout, for headers that make no request, and for an upstream that
/// there is not; `InternalFailure` when it cannot be begun.
#[expect(clippy::too_many_arguments, reason = "the ABI's signature")]
pub(crate) fn http_call(
    call: &mut Call<'_>,
    upstream: u32,
    upstream_size: u32,
    headers: u32,
    headers_size: u32,
    body: u32,
    body_size: u32,
    trailers: u32,
    trailers_size: u32,
    timeout: u32,
    id: u32,
) -> Answer {
    let (mut guest, state) = split(call)?;
    guest.write_u32(id, 0)?;
    let upstream = guest.read(upstream, upstream_size)?;
    let (headers, trailers) = (guest.read(headers, headers_size)?, guest.read(trailers, trailers_size)?);
    let body = guest.read(body, body_size)?;
    if i32::try_from(timeout).is_err() {
        return Err(Status::BadArgument.into());
    }
    let upstream = text(upstream).ok_or(Status::BadArgument)?;
    let size = headers.len() + trailers.len() + body.len();
    let (headers, trailers) = (lines(state, headers)?, lines(state, trailers)?);
    let has = |name: &[u8]| headers.iter().any(|(other, _)| other == name);
    // As everywhere, `host` is another name of `:authority`.
    if !(has(b":method") && has(b":path") && (has(b":authority") || has(b"host"))) {
        return Err(Status::BadArgument.into());
    }
    let number = begin(state, CallKind::Http, &upstream, size, Status::BadArgument, || {
        CallOut::Http(HttpCall {
            upstream: upstream.clone(),
            headers,
            body: body.to_vec(),
            trailers,
            timeout: milliseconds(timeout),
        })
    })?;
    Ok(guest.write_u32(id, number.0)?)
}

/// One gRPC message for one. `ParseFailure` for an upstream that cannot be read or that there is not (the Rust SDK panics
/// on the rest); `InternalFailure` when it cannot be begun.
#[expect(clippy::too_many_arguments, reason = "the ABI's signature")]
pub(crate) fn grpc_call(
    call: &mut Call<'_>,
    upstream: u32,
    upstream_size: u32,
    service: u32,
    service_size: u32,
    method: u32,
    method_size: u32,
    metadata: u32,
    metadata_size: u32,
    message: u32,
    message_size: u32,
    timeout: u32,
    id: u32,
) -> Answer {
    let path = [upstream, upstream_size, service, service_size, method, method_size];
    grpc(call, CallKind::Grpc, path, (metadata, metadata_size), (message, message_size), timeout, id)
}

/// A gRPC stream; answers as [`grpc_call`].
#[expect(clippy::too_many_arguments, reason = "the ABI's signature")]
pub(crate) fn grpc_stream(
    call: &mut Call<'_>,
    upstream: u32,
    upstream_size: u32,
    service: u32,
    service_size: u32,
    method: u32,
    method_size: u32,
    metadata: u32,
    metadata_size: u32,
    id: u32,
) -> Answer {
    let path = [upstream, upstream_size, service, service_size, method, method_size];
    grpc(call, CallKind::GrpcStream, path, (metadata, metadata_size), (0, 0), 0, id)
}

/// One more message on a stream. `BadArgument` for what is no stream, for one that the guest has ended, and when too
/// much waits to be sent already.
pub(crate) fn grpc_send(call: &mut Call<'_>, id: u32, message: u32, size: u32, end: u32) -> Answer {
    let (guest, state) = split(call)?;
    let message = guest.read(message, size)?;
    let id = CallId(id);
    if id.kind() != Some(CallKind::GrpcStream) || is_closed(state, id)? {
        return Err(Status::BadArgument.into());
    }
    let sent = state.world_mut()?.call_send(id, Some(message.to_vec()), end != 0);
    if sent.is_err() {
        state.refused(Limit::Calls)?;
        return Err(Status::BadArgument.into());
    }
    close(state, id, end != 0);
    Ok(())
}

/// Resets a gRPC call or stream: nothing of it is told any more.
pub(crate) fn grpc_cancel(call: &mut Call<'_>, id: u32) -> Answer {
    let (state, id) = (call.data_mut(), CallId(id));
    is_closed(state, id)?;
    state.calls.end(id);
    state.world_mut()?.call_cancel(id);
    Ok(())
}

/// Ends the guest's side of a stream; cancels a call.
pub(crate) fn grpc_close(call: &mut Call<'_>, id: u32) -> Answer {
    let (state, number) = (call.data_mut(), CallId(id));
    if number.kind() != Some(CallKind::GrpcStream) {
        return grpc_cancel(call, id);
    }
    if !is_closed(state, number)? {
        // The end takes no room, so it cannot be refused for want of it.
        _ = state.world_mut()?.call_send(number, None, true);
        close(state, number, true);
    }
    Ok(())
}

/// Outcome of the last call-out of this plugin: the status of gRPC, or 11 for an HTTP call without a response; the text
/// only in the callback that tells of it.
pub(crate) fn status(call: &mut Call<'_>, code: u32, text: u32, size: u32) -> Answer {
    let (mut guest, state) = split(call)?;
    let root = state.context().and_then(|context| state.contexts.get(context.root));
    let last = match root.map(|root| &root.kind) {
        Some(Kind::Root { status, .. }) => status.get(),
        Some(Kind::Exchange(_)) | None => 0,
    };
    guest.write_u32(code, last)?;
    state.scratch.get_mut().extend_from_slice(&state.calls.text);
    give_scratch(call, text, size)
}

fn grpc(
    call: &mut Call<'_>,
    kind: CallKind,
    path: [u32; 6],
    metadata: (u32, u32),
    message: (u32, u32),
    timeout: u32,
    id: u32,
) -> Answer {
    let (mut guest, state) = split(call)?;
    guest.write_u32(id, 0)?;
    let [upstream, upstream_size, service, service_size, method, method_size] = path;
    let upstream = guest.read(upstream, upstream_size)?;
    let (service, method) = (guest.read(service, service_size)?, guest.read(method, method_size)?);
    let (metadata, message) = (guest.read(metadata.0, metadata.1)?, guest.read(message.0, message.1)?);
    let target = Target::of(upstream).ok_or(Status::ParseFailure)?;
    let (service, method) = text(service).zip(text(method)).ok_or(Status::ParseFailure)?;
    let size = upstream.len() + metadata.len() + message.len();
    let metadata = lines(state, metadata)?;
    let Target { name, authority, timeout: own, metadata: first } = target;
    let number = begin(state, kind, &name, size, Status::ParseFailure, || {
        let call = GrpcCall {
            upstream: name.clone(),
            authority,
            service,
            method,
            metadata: first.into_iter().chain(metadata).collect(),
            message: message.to_vec(),
            timeout: milliseconds(timeout).or(own),
        };
        if kind == CallKind::Grpc { CallOut::Grpc(call) } else { CallOut::GrpcStream(call) }
    })?;
    Ok(guest.write_u32(id, number.0)?)
}

/// Notes a call-out with the world, if it may be. `absent` is what the guest is told of an upstream that there is not,
/// for it.
fn begin(
    state: &mut State,
    kind: CallKind,
    upstream: &str,
    size: usize,
    absent: Status,
    make: impl FnOnce() -> CallOut,
) -> Result<CallId, Fail> {
    let context = state.context().ok_or(absent)?;
    let (root, plugin) = (context.root, Rc::clone(&context.plugin));
    if plugin.upstreams.as_ref().is_some_and(|allowed| !allowed.iter().any(|name| name == upstream)) {
        state.refused(Limit::Upstream)?;
        state.log(Level::Warn, format!("a call to \"{upstream}\", which this filter is not allowed").as_bytes())?;
        return Err(absent.into());
    }
    let (calls, bytes) = state.calls.load();
    if calls >= state.limits.calls || bytes + size > state.limits.call_bytes {
        state.refused(Limit::Calls)?;
        return Err(Status::InternalFailure.into());
    }
    let id = state.calls.fresh(kind);
    let begun = state.world_mut()?.call_out(&plugin.name, id, RootId(root), make());
    begun.map_err(|status| if status == Status::NotFound { absent } else { Status::InternalFailure })?;
    state.calls.begin(id, root, size);
    Ok(id)
}

/// Whether the guest has ended its side of a gRPC call-out of this plugin's; `NotFound` for any other.
fn is_closed(state: &mut State, id: CallId) -> Result<bool, Status> {
    let root = state.context().ok_or(Status::NotFound)?.root;
    match state.calls.flight(id) {
        Some(flight) if flight.root == root && id.kind() != Some(CallKind::Http) => Ok(flight.closed),
        Some(_) | None => Err(Status::NotFound),
    }
}

fn close(state: &mut State, id: CallId, end: bool) {
    if let Some(flight) = state.calls.flight(id) {
        flight.closed |= end;
    }
}

fn lines(state: &State, map: &[u8]) -> Result<Lines, Fail> {
    let lower = |(name, value): (&[u8], &[u8])| (lower(name, &mut None).to_vec(), value.to_vec());
    Ok(pairs(state, map)?.iter().map(lower).collect())
}

fn text(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

fn milliseconds(timeout: u32) -> Option<Duration> {
    (timeout > 0).then(|| Duration::from_millis(timeout.into()))
}
