//! What a guest asks of the exchange itself: answer it, let it go on, close it, switch to another one.

use lacis_abi::{GRPC_STATUS_MAX, Status, StreamType};

use super::headers::lower;
use super::{Answer, Call, pairs};
use crate::contexts::{Exchange, Kind, Life, Part, Replied};
use crate::limits::Limit;
use crate::memory::split;
use crate::stream::{Half, Reply};
use crate::trap::Fail;

/// Answers the exchange. Status 0 also where it has no effect: on a root context, in the log and done phases (Envoy dies
/// there), and the second time; but an answer of its own that comes back to it as a response can be replaced as any other.
/// `InternalFailure` for a body that is too large, and for too many headers.
#[expect(clippy::too_many_arguments, reason = "the ABI's signature")]
pub(crate) fn reply(
    call: &mut Call<'_>,
    status: u32,
    details: u32,
    details_size: u32,
    body: u32,
    body_size: u32,
    headers: u32,
    headers_size: u32,
    grpc_status: u32,
) -> Answer {
    let (guest, state) = split(call)?;
    let details = guest.read(details, details_size)?;
    let body = guest.read(body, body_size)?;
    let headers = pairs(state, guest.read(headers, headers_size)?)?;
    if body.len() > state.limits.body {
        state.refused(Limit::Body)?;
        return Err(Status::InternalFailure.into());
    }
    let Some(exchange) = state.exchange() else { return Ok(()) };
    let answered = match exchange.side(Half::Response).is_here(Part::Head) {
        true => Replied::Response,
        false => Replied::Request,
    };
    if exchange.tcp || exchange.life.get() != Life::Open || exchange.replied.get() >= answered {
        return Ok(());
    }
    exchange.replied.set(answered);
    exchange.stream()?.reply(Reply {
        status,
        details: details.iter().map(|b| if b.is_ascii_whitespace() { b'_' } else { *b }).collect(),
        body: body.to_vec(),
        headers: headers.iter().map(|(name, value)| (lower(name, &mut None).to_vec(), value.to_vec())).collect(),
        grpc_status: (grpc_status <= GRPC_STATUS_MAX).then_some(grpc_status),
    });
    Ok(())
}

/// Lets a paused half go on; status 0 and no effect when it is not paused, or there is no exchange.
pub(crate) fn resume(call: &mut Call<'_>, stream: u32) -> Answer {
    let (half, tcp) = match StreamType::from_u32(stream).ok_or(Status::BadArgument)? {
        StreamType::Request => (Half::Request, false),
        StreamType::Response => (Half::Response, false),
        StreamType::Downstream => (Half::Request, true),
        StreamType::Upstream => return Err(Status::Unimplemented.into()),
    };
    match call.data().exchange() {
        Some(exchange) if exchange.life.get() == Life::Open && exchange.tcp == tcp => release(exchange, half),
        Some(_) | None => Ok(()),
    }
}

/// 0.1.0.
pub(crate) fn resume_request(call: &mut Call<'_>) -> Answer {
    resume(call, StreamType::Request as u32)
}

/// 0.1.0.
pub(crate) fn resume_response(call: &mut Call<'_>) -> Answer {
    resume(call, StreamType::Response as u32)
}

/// Resets the exchange, or closes one side of a TCP connection. Fine, without effect, for a kind of stream that this is
/// not.
pub(crate) fn close(call: &mut Call<'_>, stream: u32) -> Answer {
    let stream = StreamType::from_u32(stream).ok_or(Status::BadArgument)?;
    let Some(exchange) = call.data().exchange().filter(|exchange| exchange.life.get() == Life::Open) else {
        return Ok(());
    };
    match (stream, exchange.tcp) {
        (StreamType::Request | StreamType::Response, false) => exchange.stream()?.close(),
        (StreamType::Downstream, true) => exchange.stream()?.close_side(Half::Request),
        (StreamType::Upstream, true) => exchange.stream()?.close_side(Half::Response),
        (_, _) => {}
    }
    Ok(())
}

/// Has the host calls of this callback act on another context; 0 is the one that it was called for.
pub(crate) fn set_effective_context(call: &mut Call<'_>, id: u32) -> Answer {
    let state = call.data_mut();
    state.context = match id {
        0 => state.called,
        // Of one that is to begin in this entry of the guest it does not know yet.
        id if state.turn.as_ref().is_some_and(|turn| turn.is_ahead(id)) => return Err(Status::BadArgument.into()),
        id => state.contexts.get(id).ok_or(Status::BadArgument)?.id,
    };
    Ok(())
}

/// Ends a root context whose `proxy_on_done` answered false; `NotFound` when nothing waits for it.
pub(crate) fn done(call: &mut Call<'_>) -> Answer {
    let state = call.data_mut();
    match state.context().map(|context| &context.kind) {
        Some(Kind::Root { ending, .. }) if ending.take() => {
            state.done.push(state.context);
            Ok(())
        }
        Some(Kind::Root { .. } | Kind::Exchange(_)) | None => Err(Status::NotFound.into()),
    }
}

fn release(exchange: &Exchange, half: Half) -> Result<(), Fail> {
    // Answered: the request has nowhere to go on to.
    if half == Half::Request && exchange.replied.get() != Replied::Not {
        return Ok(());
    }
    if exchange.side(half).release(half) {
        exchange.stream()?.resume(half);
    }
    Ok(())
}
