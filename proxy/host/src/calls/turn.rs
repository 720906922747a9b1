//! Host calls of a guest that is in one of several callbacks of one entry: the host catches up with it, and has the entry
//! end where the embedder is to see to something first.

use wasmtime::{AsContextMut, Val};

use super::headers::Edited;
use super::{Answer, Call, When};
use crate::state::State;
use crate::turn::Turn;

/// A call of the host, when the entry is so far: what is to be done between the callbacks that have returned is done, so that
/// it finds what it would in an entry of its own. None of them has made one.
pub(crate) fn called(call: &mut Call<'_>, when: When, step: u32) {
    let state = call.data_mut();
    state.follow(step);
    if state.turn.as_ref().is_some_and(|turn| turn.ends_by(when == When::Last)) {
        stop(call);
    }
}

/// A call of the host that changes headers. What it does to the head that is shown the next is told of, unless the embedder is
/// to see to that first.
#[inline]
pub(crate) fn edited(call: &mut Call<'_>, edit: impl FnOnce(&mut Call<'_>) -> Edited) -> Answer {
    let lines = edit(call)?;
    if call.data().turn.as_ref().is_some_and(|turn| turn.shows_head() && lines != Some(turn.lines)) {
        tell(call, lines);
    }
    Ok(())
}

/// The head that is shown the next has so many lines now; or the embedder is to see to it first.
fn tell(call: &mut Call<'_>, lines: Option<u32>) {
    let state = call.data();
    let (Some(lines), Some(counters)) = (lines, state.counters) else { return stop(call) };
    if state.turn.as_ref().is_some_and(Turn::shows_body_next) {
        return;
    }
    // The global is there, and of this type.
    _ = counters.lines.set(&mut *call, Val::I32(lines.cast_signed()));
    if let Some(turn) = &mut call.data_mut().turn {
        turn.lines = lines;
    }
}

/// The callback that runs is the last of its entry.
#[cold]
fn stop(call: &mut Call<'_>) {
    if let Some(counters) = call.data().counters {
        // The global is there, and of this type.
        _ = counters.stop.set(&mut *call, Val::I32(1));
    }
    if let Some(turn) = &mut call.data_mut().turn {
        turn.stopped = true;
    }
}

/// As [`called`], where the guest did not say how far the entry is.
#[cold]
pub(crate) fn look(mut store: impl AsContextMut<Data = State>) {
    let mut store = store.as_context_mut();
    if store.data().turn.is_some() {
        let step = step(&mut store);
        store.data_mut().follow(step);
    }
}

/// How many callbacks of this entry have begun, but for the first.
fn step(mut store: impl AsContextMut<Data = State>) -> u32 {
    let mut store = store.as_context_mut();
    let step = store.data().counters.map(|counters| counters.step.get(&mut store));
    step.and_then(|step| u32::try_from(step.i32()?).ok()).unwrap_or(0)
}
