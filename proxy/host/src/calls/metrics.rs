//! Metrics. The two low bits of an id are its kind; the first ids are 4, 5 and 6, as in Envoy.

use lacis_abi::{MetricKind, Status};

use super::{Answer, Call};
use crate::limits::{self, Limit};
use crate::memory::split;
use crate::world::Change;

/// Id of the metric of this kind and name; the same for the same pair. One too many gets the id 0, which nothing has:
/// the Rust SDK takes no refusal, and a filter whose metrics are named by callers must not end by that.
pub(crate) fn define(call: &mut Call<'_>, kind: u32, name: u32, name_size: u32, id: u32) -> Answer {
    let kind = MetricKind::from_u32(kind).ok_or(Status::BadArgument)?;
    let (mut guest, state) = split(call)?;
    guest.write_u32(id, 0)?;
    if name_size as usize > limits::METRIC_NAME {
        return Err(Status::BadArgument.into());
    }
    let name = String::from_utf8_lossy(guest.read(name, name_size)?);
    let total: usize = state.metrics.iter().map(Vec::len).sum();
    let more = total < state.limits.metrics;
    let Some(metric) = state.world_mut()?.define_metric(state.plugin(), kind, &name, more) else {
        return state.refused(Limit::Metrics);
    };
    let known = &mut state.metrics[kind as usize];
    let index = match known.iter().position(|other| *other == metric) {
        Some(index) => index,
        // It is there, from another life of the VM or another plugin.
        None if !more => return state.refused(Limit::Metrics),
        None => {
            known.push(metric);
            known.len() - 1
        }
    };
    Ok(guest.write_u32(id, (index as u32 + 1) << 2 | kind as u32)?)
}

/// Adds. A counter takes only what is more than 0; a histogram takes nothing.
pub(crate) fn increment(call: &mut Call<'_>, id: u32, delta: u64) -> Answer {
    let state = call.data();
    let (kind, metric) = state.metric(id).ok_or(unknown(id))?;
    match kind {
        MetricKind::Counter if (delta as i64) <= 0 => return Err(Status::BadArgument.into()),
        MetricKind::Histogram => return Err(Status::BadArgument.into()),
        MetricKind::Counter | MetricKind::Gauge => {}
    }
    state.world_mut()?.metric(metric, Change::Add(delta));
    Ok(())
}

/// Records: a counter adds, a gauge is set, a histogram takes a sample.
pub(crate) fn record(call: &mut Call<'_>, id: u32, value: u64) -> Answer {
    let state = call.data();
    let (kind, metric) = state.metric(id).ok_or(Status::NotFound)?;
    let change = match kind {
        MetricKind::Counter => Change::Add(value),
        MetricKind::Gauge => Change::Set(value),
        MetricKind::Histogram => Change::Sample(value),
    };
    state.world_mut()?.metric(metric, change);
    Ok(())
}

/// Value of a counter or gauge.
pub(crate) fn read(call: &mut Call<'_>, id: u32, value: u32) -> Answer {
    let (mut guest, state) = split(call)?;
    let (kind, metric) = state.metric(id).ok_or(unknown(id))?;
    if kind == MetricKind::Histogram {
        return Err(Status::BadArgument.into());
    }
    let now = state.world_mut()?.metric(metric, Change::Read);
    Ok(guest.write_u64(value, now)?)
}

/// What an id answers that no metric has, where it is not recorded: not found, if it could be one of a kind that this can
/// be done to.
fn unknown(id: u32) -> Status {
    match MetricKind::from_u32(id & 3) {
        Some(MetricKind::Counter | MetricKind::Gauge) => Status::NotFound,
        Some(MetricKind::Histogram) | None => Status::BadArgument,
    }
}
