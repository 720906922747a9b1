//! `/filters`: filters over all workers, what they did and what they cost.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::workers;
use crate::admin::gather;
use crate::config::{self, Config, Failure};
use crate::filter::wasm::FilterReport;
use crate::telemetry::cell::Histogram;
use crate::telemetry::labels::{Callback, Outcome};
use crate::telemetry::metrics::FilterMetrics;
use crate::worker::Report;

/// `/filters`: each filter over all workers, and once more for each earlier generation that still needs it; first those
/// that are `missing`.
pub(in super::super) async fn filters(asked: Vec<impl Future<Output = Option<Report>>>, missing: Vec<Value>) -> Value {
    let heard = gather(asked).await;
    let reports: Vec<_> =
        heard.iter().enumerate().filter_map(|(worker, heard)| Some((worker, heard.said()?))).collect();
    let all = || reports.iter().flat_map(|(worker, report)| report.filters.iter().map(move |f| (*worker, f)));
    let kinds: BTreeSet<_> = all().map(|(_, f)| (f.name.clone(), std::cmp::Reverse(f.since))).collect();
    let running = kinds
        .into_iter()
        .map(|(name, since)| filter(&all().filter(|(_, f)| f.name == name && f.since == since.0).collect::<Vec<_>>()));
    let missing = missing.into_iter().map(|mut shown| {
        let absent = reports.iter().flat_map(|(_, report)| &report.missing).filter(|(name, _)| shown["name"] == **name);
        shown["unavailable"] = unavailable(absent.map(|(_, metrics)| metrics));
        shown
    });
    let filters: Vec<_> = missing.chain(running).collect();
    json!({ "filters": filters, "workers": workers(&heard, |_| Map::new()) })
}

/// One filter, of which each worker has one.
fn filter(of_workers: &[(usize, &FilterReport)]) -> Value {
    let Some((_, first)) = of_workers.first() else { return Value::Null };
    let all = || of_workers.iter().map(|(_, report)| *report);
    let settings = &first.compiled.settings;
    // Filters that share a VM each show it, with its memory.
    let vms: BTreeSet<_> =
        of_workers.iter().filter(|(_, f)| f.contexts.is_some()).map(|(w, f)| (*w, f.machine)).collect();
    let outcomes = sums(all().map(|f| f.metrics.requests()));
    let traps: u64 = outcomes
        .iter()
        .filter(|(outcome, _)| matches!(outcome, Outcome::Trap | Outcome::Timeout))
        .map(|(_, n)| n)
        .sum();
    json!({
        "name": *first.name,
        "generation": first.generation,
        "since": first.since,
        "module": settings.module.to_string(),
        "sha256": first.compiled.digest,
        "abi": first.compiled.plugin.abi().name(),
        "language": first.compiled.language,
        "failure": failure(settings.failure),
        "missing": null,
        "vms": vms.len(),
        "contexts": all().filter_map(|f| f.contexts).sum::<usize>(),
        "memory_bytes": all().map(|f| f.memory).sum::<usize>(),
        "calls": outcomes.iter().map(|(outcome, n)| (outcome.token().to_owned(), json!(n))).collect::<Map<_, _>>(),
        "unavailable": unavailable(all().map(|f| &f.metrics)),
        "duration_seconds": histogram(&all().map(|f| f.metrics.duration()).collect::<Vec<_>>()),
        "callback_seconds": callbacks(all().map(|f| &f.callbacks)),
        "traps": traps,
        "last_error": all().find_map(|f| f.last_error.as_deref()),
    })
}

/// The filters of a configuration whose modules are missing, as `waits_for` says of the part [`filter_part`].
pub(in super::super) fn missing(
    config: &Config,
    generation: u64,
    waits_for: impl Fn(&str) -> Option<String>,
) -> Vec<Value> {
    let shown = |filter: &config::Filter| {
        let why = waits_for(&filter_part(&filter.name))?;
        Some(json!({
            "name": filter.name,
            "generation": generation,
            "since": generation,
            "module": filter.module.to_string(),
            "sha256": filter.sha256,
            "abi": null,
            "language": null,
            "failure": failure(filter.failure),
            "missing": why,
            "vms": 0,
            "contexts": 0,
            "memory_bytes": 0,
            "calls": {},
            "duration_seconds": null,
            "callback_seconds": {},
            "traps": 0,
            "last_error": why,
        }))
    };
    config.filters.iter().filter_map(shown).collect()
}

/// What `/ready` calls a filter whose module is missing.
pub(in super::super) fn filter_part(name: &str) -> String {
    format!("filters.{name}")
}

pub(super) fn failure(failure: Failure) -> &'static str {
    match failure {
        Failure::Closed => "closed",
        Failure::Open => "open",
    }
}

/// The times of each callback of which one was measured.
fn callbacks<'a>(all: impl Iterator<Item = &'a Vec<(Callback, Arc<Histogram>)>> + Clone) -> Map<String, Value> {
    let of = |callback: Callback| {
        let times: Vec<&Histogram> =
            all.clone().flatten().filter(|(own, _)| *own == callback).map(|(_, times)| &**times).collect();
        (!times.is_empty()).then(|| (callback.token().to_owned(), histogram(&times)))
    };
    Callback::ALL.iter().filter_map(|callback| of(*callback)).collect()
}

/// The requests that came to a filter while it was away.
fn unavailable<'a>(all: impl Iterator<Item = &'a FilterMetrics>) -> Value {
    let counted = sums(all.map(FilterMetrics::unavailables));
    counted.into_iter().map(|(result, n)| (result.token().to_owned(), json!(n))).collect::<Map<_, _>>().into()
}

/// What all have counted together, by label. Each names the same labels in the same order.
fn sums<L>(all: impl Iterator<Item = impl Iterator<Item = (L, u64)>>) -> Vec<(L, u64)> {
    all.map(Iterator::collect::<Vec<_>>)
        .reduce(|mut sums, more| {
            sums.iter_mut().zip(more).for_each(|((_, sum), (_, count))| *sum += count);
            sums
        })
        .unwrap_or_default()
}

/// The sum of histograms with equal bounds, its buckets cumulative as on `/metrics`.
fn histogram(all: &[&Histogram]) -> Value {
    let Some(first) = all.first() else { return Value::Null };
    let mut counts = vec![0u64; first.bounds().steps.len() + 1];
    for histogram in all {
        counts.iter_mut().zip(histogram.buckets()).for_each(|(sum, count)| *sum += count);
    }
    let ends = first.bounds().steps.iter().map(|(_, text)| *text).chain(["+Inf"]);
    let mut total = 0;
    let buckets: Map<_, _> = ends
        .zip(counts)
        .map(|(end, count)| {
            total += count;
            (end.to_owned(), json!(total))
        })
        .collect();
    let sum = all.iter().map(|h| h.sum()).sum::<u64>() as f64 / first.bounds().scale as f64;
    json!({ "count": total, "sum": sum, "buckets": buckets })
}
