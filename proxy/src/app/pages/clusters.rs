//! `/clusters`: services, endpoints and links, and what says where they are and how they are.

use std::future::Future;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::task::spawn_blocking;

use super::config::{balance, source};
use super::{seconds, word, workers};
use crate::admin::gather;
use crate::cluster::choice::{ChoiceReport, Verdict};
use crate::cluster::{ClusterReport, EndpointReport, Usage};
use crate::config::{Config, Source};
use crate::control::discovery::{Discovery, Status};
use crate::control::health::{Health, HealthReport};
use crate::worker::Report;

/// `/clusters`: services, endpoints and links, as each worker sees them, and what says where they are.
pub(in super::super) async fn clusters(
    asked: Vec<impl Future<Output = Option<Report>>>,
    sources: Value,
    checks: Value,
) -> Value {
    let heard = gather(asked).await;
    let page = move || json!({ "workers": workers(&heard, of_worker), "sources": sources, "checks": checks });
    // Of thousands of endpoints it takes long enough for probes to notice.
    spawn_blocking(page).await.unwrap_or_default()
}

/// What one worker knows of its clusters.
fn of_worker(report: &Report) -> Map<String, Value> {
    let endpoint = |e: &EndpointReport| {
        json!({
            "address": e.address.to_string(), "weight": e.weight, "zone": e.zone.as_deref(), "priority": e.priority,
            "used": e.used, "health": e.healthy.map(|healthy| word(Some(healthy))),
            "load": {"latency": seconds(e.latency), "failing": e.failing, "held": e.held, "cost": seconds(e.cost)}, "requests": e.requests, "reachable": !e.resting, "udp": e.udp,
            "links": {"h1_idle": e.h1_idle, "h2": {"open": e.h2.0, "requests": e.h2.1}, "h3": {"open": e.h3.0, "requests": e.h3.1}},
            "connections": e.connections,
            "auto": e.choice.as_ref().map(choice),
            "ejected": e.ejected.map(|ejected| json!({
                "cause": ejected.cause.to_string(), "seconds_left": seconds(ejected.left), "times": ejected.times,
            })),
        })
    };
    let usage = |Usage { now, limit, refused }: Usage| json!({"now": now, "limit": limit, "refused": refused});
    let cluster =
        |ClusterReport { name, gate, breaker, balance: policy, panics, connections, endpoints }: &ClusterReport| {
            let about = json!({
                "balance": balance(policy), "panic": panics,
                "limits": {
                    "connections": {"now": connections.now, "limit": connections.limit},
                    "pending": usage(gate.pending), "requests": usage(gate.requests), "retries": usage(gate.retries),
                },
                "breaker": breaker.map(|breaker| json!({
                    "state": breaker.state, "seconds_left": seconds(breaker.left), "requests": breaker.window.requests,
                    "failed": breaker.window.failed, "slow": breaker.window.slow,
                })),
                "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
            });
            (name.to_string(), about)
        };
    let mut clusters = Map::new();
    for (name, about) in report.clusters.iter().map(cluster) {
        // The application comes last. A file for all sidecars of a mesh names its own service, too.
        let name = if clusters.contains_key(&name) { format!("{name} (application)") } else { name };
        clusters.insert(name, about);
    }
    Map::from_iter([("clusters".to_owned(), Value::Object(clusters))])
}

/// What carries the requests to an endpoint with `link: auto`, and what is known of both links.
fn choice(choice: &ChoiceReport) -> Value {
    let ChoiceReport { verdict, held, trial, h2, h3, loss, rtt, bytes } = *choice;
    let answers = |(count, p95): (u32, Duration)| json!({"answers": count, "p95_seconds": p95.as_secs_f64()});
    let of = |verdict: Verdict| json!({"link": verdict.link.token(), "cause": verdict.cause.to_string()});
    json!({
        "chosen": of(verdict), "held_seconds": seconds(held), "trying": trial.map(of),
        "h2": answers(h2), "h3": answers(h3), "loss": loss, "round_trip_seconds": rtt.as_secs_f64(), "request_bytes": bytes,
    })
}

/// What says where services are, how old its last good answer is, and why there is no newer one.
pub(in super::super) fn sources(discovery: &Discovery, config: &Config) -> Value {
    let about = |(name, from, status): (&str, &Source, Status)| {
        let age = status.answered.map(|answered| seconds(answered.elapsed()));
        (
            name.to_owned(),
            json!({"source": source(from), "answer_age_seconds": age, "last_error": status.error.or(status.lacks)}),
        )
    };
    Value::Object(discovery.report(config).map(about).collect())
}

/// What active health checks say of services, by address.
pub(in super::super) fn checks(health: &Health) -> Value {
    let endpoint = |report: HealthReport| {
        let HealthReport { address, healthy, age, error } = report;
        (address.to_string(), json!({"health": word(healthy), "age_seconds": age.map(seconds), "last_error": error}))
    };
    let service = |(name, endpoints): (String, Vec<HealthReport>)| {
        (name, Value::Object(endpoints.into_iter().map(endpoint).collect()))
    };
    Value::Object(health.report().into_iter().map(service).collect())
}
