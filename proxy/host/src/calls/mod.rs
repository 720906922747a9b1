//! Host functions, one file per family, and what they have in common: how they answer, and when they may be called.
//! The table that gives each its import name and type is in `imports.rs`.

pub(crate) mod buffers;
pub(crate) mod callout;
pub(crate) mod foreign;
pub(crate) mod headers;
pub(crate) mod metrics;
pub(crate) mod misc;
pub(crate) mod property;
pub(crate) mod shared;
pub(crate) mod stream;
pub(crate) mod turn;
pub(crate) mod wasi;

use lacis_abi::{Pairs, Status};
use wasmtime::Caller;

use crate::joint::{ALLOCATING, WORDS};
use crate::limits::Limit;
use crate::memory::Given;
use crate::state::{Phase, State};
use crate::trap::Fail;

/// The guest that called.
pub(crate) type Call<'a> = Caller<'a, State>;

/// What a host function of the ABI answers.
pub(crate) type Answer = Result<(), Fail>;

/// A map that the guest gives. What is no serialized map counts as an empty one, as in Envoy. `InternalFailure` for one over the
/// limits of a map, which Envoy takes for an empty one, too: nobody would be told that it is missing.
pub(crate) fn pairs<'a>(state: &State, bytes: &'a [u8]) -> Result<Pairs<'a>, Fail> {
    match Pairs::decode(bytes) {
        Ok(pairs) => Ok(pairs),
        Err(_) if Pairs::are_too_many(bytes) => {
            state.refused(Limit::Headers)?;
            Err(Status::InternalFailure.into())
        }
        Err(_) => Ok(Pairs::default()),
    }
}

/// What goes back to the guest as the result of an import.
pub(crate) trait IntoResult {
    fn into_result(self) -> wasmtime::Result<u32>;
}

impl IntoResult for Answer {
    fn into_result(self) -> wasmtime::Result<u32> {
        match self {
            Ok(()) => Ok(Status::Ok as u32),
            Err(Fail::Status(status)) => Ok(status as u32),
            Err(Fail::Trap(error)) => Err(error),
        }
    }
}

impl IntoResult for wasmtime::Result<u32> {
    fn into_result(self) -> wasmtime::Result<u32> {
        self
    }
}

impl IntoResult for wasmtime::Result<()> {
    fn into_result(self) -> wasmtime::Result<u32> {
        self.map(|()| 0)
    }
}

/// What goes back to a guest that takes bytes by itself: see [`Given`].
pub(crate) type Words = (u64, u64, u64, u64, u64, u64, u64, u64, u64);

/// What goes back where nothing does.
pub(crate) fn into_nothing(answer: impl IntoResult) -> wasmtime::Result<()> {
    answer.into_result().map(drop)
}

#[inline]
pub(crate) fn into_words(given: Result<Given, Fail>) -> wasmtime::Result<Words> {
    let Given { answer, words } = match given {
        Ok(given) => given,
        Err(Fail::Status(status)) => Given::status(status),
        Err(Fail::Trap(error)) => return Err(error),
    };
    let [a, b, c, d, e, f, g, h]: [u64; WORDS] = words;
    Ok((answer, a, b, c, d, e, f, g, h))
}

/// When an import may be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// Always, even from the guest's allocator.
    Always,
    /// While the VM starts, and in callbacks.
    Start,
    /// In callbacks.
    Callback,
    /// In callbacks, of which it is to be the last in its entry of the guest: what it does, the embedder sees to before the
    /// next context is shown anything.
    Last,
}

/// Traps a guest that calls where it must not: nothing it could be told would make sense of such a call. What may be called
/// always, and speaks of the context that runs, sees to it by itself that this is the right one (`State::follow`). `step` is how
/// far the entry of the guest is.
#[inline]
pub(crate) fn permit(call: &mut Call<'_>, when: When, name: &str, step: u32) -> wasmtime::Result<()> {
    if call.data().turn.is_some() && when != When::Always {
        turn::called(call, when, step);
    }
    let phase = if step & ALLOCATING == 0 { call.data().phase } else { Phase::Allocating };
    let place = match (phase, when) {
        (Phase::Running | Phase::Configuring, _) | (_, When::Always) | (Phase::Starting, When::Start) => return Ok(()),
        (Phase::Starting, _) => "while the module starts, before a context exists",
        (Phase::Allocating, _) => "from the memory allocator",
    };
    Err(wasmtime::Error::msg(format!("{name} called {place}")))
}
