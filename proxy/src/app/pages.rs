//! What the admin listener shows of the configuration and the workers.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::uri::Authority;
use http::{HeaderName, Method};
use serde_json::{Map, Value, json};
use tokio::sync::oneshot;

use crate::admin::{Heard, gather};
use crate::cluster::choice::{ChoiceReport, Verdict};
use crate::cluster::{ClusterReport, EndpointReport, Usage};
use crate::config::admission::{Concurrency, Conditions, Overload, Priority, RateKey, RateLimit};
use crate::config::balance::{Hash, HashKey, HealthCheck, Probe, TableKind};
use crate::config::fault::{Abort, Faults, Portion};
use crate::config::matching::{PathMatch, TextMatch};
use crate::config::policy::{After, Breaker, Hedge};
use crate::config::{
    self, AccessRule, Balance, Config, Dns, Endpoint, Endpoints, Failure, Limits, LinkPolicy, Outliers, Retries, Rule,
    Source,
};
use crate::control::discovery::{Discovery, Status};
use crate::control::generations::{Entry, Generations, State};
use crate::control::health::{Health, HealthReport};
use crate::filter::wasm::FilterReport;
use crate::telemetry::cell::Histogram;
use crate::telemetry::labels::{Callback, Outcome};
use crate::telemetry::metrics::FilterMetrics;
use crate::telemetry::why::Explanation;
use crate::tls::settings::date;
use crate::worker::{Order, Peers, Report};

/// Asks every worker how it is.
pub(super) fn ask(peers: &Peers) -> Vec<impl Future<Output = Option<Report>> + use<>> {
    let mut asked: Vec<oneshot::Receiver<Report>> = Vec::new();
    peers.tell(|| {
        let (answer, report) = oneshot::channel();
        asked.push(report);
        Order::Report(answer)
    });
    asked.into_iter().map(|report| async move { report.await.ok() }).collect()
}

/// `/requests`: what the workers know of the last requests, the newest first.
pub(super) fn requests(peers: &Peers, id: Option<&str>, most: usize) -> impl Future<Output = Vec<Explanation>> + use<> {
    let id: Option<Arc<str>> = id.map(Arc::from);
    let mut asked: Vec<oneshot::Receiver<Vec<Explanation>>> = Vec::new();
    peers.tell(|| {
        let (answer, records) = oneshot::channel();
        asked.push(records);
        Order::Requests(id.clone(), most, answer)
    });
    let asked = asked.into_iter().map(|records| async move { records.await.ok() }).collect::<Vec<_>>();
    async move {
        let heard = gather(asked).await;
        let mut all: Vec<Explanation> = heard.iter().filter_map(Heard::said).flatten().cloned().collect();
        all.sort_by_key(|record| Reverse(record.started()));
        all.truncate(most);
        all
    }
}

/// `/config`: what is in use, and what was bound.
pub(super) fn config(config: &Config, generation: u64, addresses: &[(String, SocketAddr)]) -> Value {
    let listeners: serde_json::Map<_, _> =
        addresses.iter().map(|(name, address)| (name.clone(), json!(address.to_string()))).collect();
    let filters = |indices: &[usize]| -> Vec<_> {
        indices.iter().filter_map(|i| config.filters.get(*i)).map(|f| f.name.clone()).collect()
    };
    let services: serde_json::Map<_, _> = config
        .services
        .iter()
        .map(|service| {
            let endpoints = match &service.endpoints {
                Endpoints::Listed(all) => all.iter().map(listed).collect(),
                Endpoints::Found(from) => source(from),
            };
            let identity: Vec<_> = service.identity.iter().map(ToString::to_string).collect();
            let timeouts = json!({
                "connect": seconds(service.timeouts.connect), "request": seconds(service.timeouts.request), "idle": seconds(service.timeouts.idle),
                "stream": seconds(service.timeouts.stream),
            });
            let about = json!({
                "hosts": service.hosts, "endpoints": endpoints, "identity": identity, "link": link(service.link),
                "balance": balance(&service.balance), "panic_threshold_percent": service.panic,
                "zones": if service.prefers_zone { "prefer" } else { "ignore" },
                "slow_start": service.slow_start.as_ref().map(|slow| json!({
                    "window": seconds(slow.window), "aggression": slow.aggression, "min_weight_percent": slow.min_weight,
                })),
                "affinity": service.affinity.as_ref().map(|affinity| json!({
                    "cookie": affinity.cookie, "ttl": seconds(affinity.ttl), "shared": affinity.secret.is_some(),
                })),
                "health": service.health.as_deref().map(health), "timeouts": timeouts, "filters": filters(&service.filters),
                "retries": service.retries.as_deref().map(retries), "limits": limits(&service.limits),
                "rate_limits": service.rate_limits.iter().map(rate_limit).collect::<Vec<_>>(),
                "outliers": service.outliers.as_deref().map(outliers), "breaker": service.breaker.as_deref().map(breaker),
                "fault": service.fault.as_deref().map(fault),
            });
            (service.name.clone(), about)
        })
        .collect();
    let name = |service: usize| config.services.get(service).map(|service| service.name.as_str());
    let rule = |rule: &Rule| {
        let to: Vec<_> = rule.to.iter().map(|to| json!({"service": name(to.service), "weight": to.weight})).collect();
        let mirrors: Vec<_> = rule
            .mirrors
            .iter()
            .map(|mirror| {
                let Portion { numerator, denominator } = mirror.portion;
                json!({"service": name(mirror.service), "numerator": numerator, "denominator": denominator})
            })
            .collect();
        let fault = rule.fault.as_ref().map(fault);
        let limits: Vec<_> = rule.rate_limits.iter().map(rate_limit).collect();
        json!({
            "name": &*rule.name, "filters": filters(&rule.filters), "to": to, "mirrors": mirrors, "fault": fault,
            "rate_limits": limits, "timeout": rule.timeout.map(seconds), "per_try_timeout": rule.per_try_timeout.map(seconds),
        })
    };
    let routes: Vec<_> = config
        .routes
        .iter()
        .map(|route| json!({"service": name(route.service), "rules": route.rules.iter().map(rule).collect::<Vec<_>>()}))
        .collect();
    json!({
        "generation": generation,
        "node": {"service": config.node.service, "namespace": config.node.namespace, "identity": config.node.spiffe.to_string(), "id": config.node.id},
        "listeners": listeners,
        "outbound": config.outbound.as_ref().map(|outbound| json!({"filters": filters(&outbound.filters)})),
        "inbound": config.inbound.as_ref().map(|inbound| json!({
            "application": inbound.application.to_string(),
            "protocol": format!("{:?}", inbound.protocol).to_lowercase(),
            "filters": filters(&inbound.filters),
            "allow": inbound.access.allow.as_ref().map(|allow| allow.iter().map(access_rule).collect::<Vec<_>>()),
            "deny": inbound.access.deny.iter().map(access_rule).collect::<Vec<_>>(),
            "concurrency": inbound.concurrency.map(|Concurrency { min, max, initial }| json!({"min": min, "max": max, "initial": initial})),
            "rate_limits": inbound.rate_limits.iter().map(rate_limit).collect::<Vec<_>>(),
        })),
        "services": services,
        "routes": routes,
        "overload": config.overload.as_ref().map(overload),
        "workers": config.workers,
    })
}

/// What is not said is not shown.
fn access_rule(rule: &AccessRule) -> Value {
    let AccessRule { name, when, except, dry_run } = rule;
    json!({"name": &**name, "when": conditions(when), "except": except.as_ref().map(conditions), "dry_run": dry_run})
}

fn rate_limit(limit: &RateLimit) -> Value {
    let RateLimit { name, matches, requests, per, burst, key, max_keys } = limit;
    let key = key.as_ref().map(|key| match key {
        RateKey::Identity => json!("identity"),
        RateKey::Header(name) => json!({"header": name.as_str()}),
    });
    json!({
        "name": &**name, "matches": matches.iter().map(conditions).collect::<Vec<_>>(), "requests": requests,
        "per": seconds(*per), "burst": burst, "key": key, "max_keys": max_keys,
    })
}

fn overload(overload: &Overload) -> Value {
    let Overload { requests, memory, priorities } = overload;
    let rule = |(priority, matches): &(Priority, Vec<Conditions>)| json!({"priority": priority.token(), "matches": matches.iter().map(conditions).collect::<Vec<_>>()});
    json!({"requests": requests, "memory": memory, "priorities": priorities.iter().map(rule).collect::<Vec<_>>()})
}

fn conditions(conditions: &Conditions) -> Value {
    let Conditions { identities, namespaces, paths, methods, headers, ports, lenient: _ } = conditions;
    let path = |path: &PathMatch| match path {
        PathMatch::Exact(path) => json!({"exact": path}),
        PathMatch::Prefix(path) => json!({"prefix": path}),
        PathMatch::Regex(pattern) => json!({"regex": pattern.as_str()}),
    };
    let header = |(name, text): &(HeaderName, TextMatch)| match text {
        TextMatch::Exact(value) => json!({"name": name.as_str(), "value": value}),
        TextMatch::Regex(pattern) => json!({"name": name.as_str(), "regex": pattern.as_str()}),
    };
    let all = [
        ("identity", identities.iter().map(|id| json!(id.to_string())).collect::<Vec<_>>()),
        ("namespace", namespaces.iter().map(|name| json!(name)).collect()),
        ("path", paths.iter().map(path).collect()),
        ("method", methods.iter().map(|method| json!(method.as_str())).collect()),
        ("headers", headers.iter().map(header).collect()),
        ("port", ports.iter().map(|port| json!(port)).collect()),
    ];
    all.into_iter().filter(|(_, of)| !of.is_empty()).map(|(key, of)| (key.to_owned(), Value::from(of))).collect()
}

fn listed(endpoint: &Endpoint) -> Value {
    let Endpoint { address, weight, zone, priority } = endpoint;
    json!({"address": address.to_string(), "weight": weight, "zone": zone.as_deref(), "priority": priority})
}

fn balance(balance: &Balance) -> Value {
    let Hash { key, table } = match balance {
        Balance::LeastLoad => return json!("least_load"),
        Balance::LeastRequest => return json!("least_request"),
        Balance::RoundRobin => return json!("round_robin"),
        Balance::Random => return json!("random"),
        Balance::Hash(hash) => &**hash,
    };
    let (name, value) = match key {
        HashKey::Header(name) => ("header", json!(name.as_str())),
        HashKey::Cookie(name) => ("cookie", json!(name)),
        HashKey::Query(name) => ("query", json!(name)),
        HashKey::Source => ("source", json!(true)),
    };
    let table = match table {
        TableKind::Maglev => "maglev",
        TableKind::Ring => "ring",
    };
    json!({"hash": {name: value, "table": table}})
}

fn health(check: &HealthCheck) -> Value {
    let HealthCheck { probe, interval, timeout, unhealthy, healthy } = check;
    let (name, probe) = match probe {
        Probe::Http { path, host, statuses } => {
            ("http", json!({"path": path.as_str(), "host": host.as_ref().map(Authority::as_str), "status": statuses}))
        }
        Probe::Grpc { service } => ("grpc", json!({ "service": service })),
        Probe::Tcp => ("tcp", json!({})),
    };
    json!({
        name: probe, "interval": seconds(*interval), "timeout": seconds(*timeout), "unhealthy": unhealthy, "healthy": healthy,
    })
}

/// What active health checks say of services, by address.
pub(super) fn checks(health: &Health) -> Value {
    let endpoint = |report: HealthReport| {
        let HealthReport { address, healthy, age, error } = report;
        (address.to_string(), json!({"health": word(healthy), "age_seconds": age.map(seconds), "last_error": error}))
    };
    let service = |(name, endpoints): (String, Vec<HealthReport>)| {
        (name, Value::Object(endpoints.into_iter().map(endpoint).collect()))
    };
    Value::Object(health.report().into_iter().map(service).collect())
}

fn word(healthy: Option<bool>) -> &'static str {
    match healthy {
        None => "unknown",
        Some(true) => "healthy",
        Some(false) => "unhealthy",
    }
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

/// What is repeated by default is not shown: nothing was said of it.
fn retries(retries: &Retries) -> Value {
    let Retries { attempts, on, methods, budget, backoff, per_try, hedge, body } = retries;
    let words = [("connect_failure", on.connect_failure), ("refused_stream", on.refused_stream), ("reset", on.reset)];
    let on: Vec<Value> = words
        .iter()
        .filter(|(_, is)| *is)
        .map(|(word, _)| json!(word))
        .chain((400..600).filter(|status| on.statuses.contains(*status)).map(|status| json!(status)))
        .chain((1..=16).filter(|code| on.grpc & 1 << code != 0).map(|code| json!(format!("grpc_{code}"))))
        .collect();
    json!({
        "attempts": attempts, "on": on, "methods": methods.iter().map(Method::as_str).collect::<Vec<_>>(),
        "budget_percent": budget, "backoff": seconds(backoff.base), "max_backoff": seconds(backoff.max),
        "per_try_timeout": seconds(*per_try), "body": body,
        "hedge": hedge.map(|Hedge { after, max }| match after {
            After::Fixed(after) => json!({"after": seconds(after), "max": max}),
            After::Quantile(per_mille) => json!({"quantile": f64::from(per_mille) / 1000.0, "max": max}),
        }),
    })
}

fn limits(limits: &Limits) -> Value {
    let Limits { connections, pending, requests, retries, endpoint } = limits;
    let shown = |limit: &u32| (*limit != u32::MAX).then_some(*limit);
    json!({
        "connections": shown(connections), "pending": shown(pending), "requests": shown(requests), "retries": shown(retries),
        "endpoint": {"connections": shown(&endpoint.connections), "requests": shown(&endpoint.requests)},
    })
}

fn outliers(outliers: &Outliers) -> Value {
    let Outliers { consecutive, interval, ejection, max_ejection, max_ejected, success_rate, latency } = outliers;
    json!({
        "consecutive": consecutive, "interval": seconds(*interval), "ejection": seconds(*ejection),
        "max_ejection": seconds(*max_ejection), "max_ejected_percent": max_ejected,
        "latency": latency.map(|latency| json!({
            "factor": f64::from(latency.factor) / 1000.0, "endpoints": latency.endpoints, "requests": latency.requests,
        })),
        "success_rate": success_rate.map(|rate| json!({
            "endpoints": rate.endpoints, "requests": rate.requests, "deviation": f64::from(rate.deviation) / 1000.0,
        })),
    })
}

fn breaker(breaker: &Breaker) -> Value {
    let Breaker { failures, slow, window, requests, open, probes } = breaker;
    json!({
        "failures_percent": failures, "window": seconds(*window), "requests": requests, "open": seconds(*open), "probes": probes,
        "slow": slow.map(|(share, after)| json!({"percent": share, "after": seconds(after)})),
    })
}

fn fault(faults: &Faults) -> Value {
    let Faults { headers, delay, abort } = faults;
    let share = |Portion { numerator, denominator }: Portion| f64::from(numerator) * 100.0 / f64::from(denominator);
    json!({
        "headers": headers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        "delay": delay.map(|(time, portion)| json!({"fixed": seconds(time), "percentage": share(portion)})),
        "abort": abort.map(|(abort, portion)| match abort {
            Abort::Http(status) => json!({"http_status": status, "percentage": share(portion)}),
            Abort::Grpc(code) => json!({"grpc_status": code, "percentage": share(portion)}),
        }),
    })
}

fn link(policy: LinkPolicy) -> &'static str {
    match policy {
        LinkPolicy::Auto => "auto",
        LinkPolicy::H3 => "h3",
        LinkPolicy::H2 => "h2",
        LinkPolicy::H1 => "h1",
        LinkPolicy::Plaintext => "plaintext",
    }
}

fn source(source: &Source) -> Value {
    match source {
        Source::Dns(Dns { name, port, server }) => {
            json!({"dns": {"name": name, "port": port, "server": server.map(|server| server.to_string())}})
        }
        Source::File(path) => json!({ "file": path }),
    }
}

/// What says where services are, how old its last good answer is, and why there is no newer one.
pub(super) fn sources(discovery: &Discovery, config: &Config) -> Value {
    let about = |(name, from, status): (&str, &Source, Status)| {
        let age = status.answered.map(|answered| seconds(answered.elapsed()));
        (name.to_owned(), json!({"source": source(from), "answer_age_seconds": age, "last_error": status.error}))
    };
    Value::Object(discovery.report(config).map(about).collect())
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

/// `/clusters`: services, endpoints and links, as each worker sees them, and what says where they are.
pub(super) async fn clusters(asked: Vec<impl Future<Output = Option<Report>>>, sources: Value, checks: Value) -> Value {
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
    let of_worker = |report: &Report| {
        let clusters: Map<_, _> = report.clusters.iter().map(cluster).collect();
        Map::from_iter([("clusters".to_owned(), Value::Object(clusters))])
    };
    json!({ "workers": workers(&gather(asked).await, of_worker), "sources": sources, "checks": checks })
}

fn workers(heard: &[Heard<Report>], fields: impl Fn(&Report) -> Map<String, Value>) -> Vec<Value> {
    heard.iter().enumerate().map(|(worker, heard)| heard.show(worker, &fields)).collect()
}

/// The filters of a configuration whose modules are missing, as `waits_for` says of the part [`filter_part`].
pub(super) fn missing(config: &Config, generation: u64, waits_for: impl Fn(&str) -> Option<String>) -> Vec<Value> {
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
            "unavailable": null,
            "duration_seconds": null,
            "callback_seconds": {},
            "traps": 0,
            "last_error": why,
        }))
    };
    config.filters.iter().filter_map(shown).collect()
}

/// What `/ready` calls a filter whose module is missing.
pub(super) fn filter_part(name: &str) -> String {
    format!("filters.{name}")
}

fn failure(failure: Failure) -> &'static str {
    match failure {
        Failure::Closed => "closed",
        Failure::Open => "open",
    }
}

/// `/filters`: each filter over all workers, and once more for each earlier generation that still needs it; first those
/// that are `missing`.
pub(super) async fn filters(asked: Vec<impl Future<Output = Option<Report>>>, missing: Vec<Value>) -> Value {
    let heard = gather(asked).await;
    let reports: Vec<_> =
        heard.iter().enumerate().filter_map(|(worker, heard)| Some((worker, heard.said()?))).collect();
    let all = || reports.iter().flat_map(|(worker, report)| report.filters.iter().map(move |f| (*worker, f)));
    let kinds: BTreeSet<_> = all().map(|(_, f)| (f.name.clone(), std::cmp::Reverse(f.since))).collect();
    let running = kinds
        .into_iter()
        .map(|(name, since)| filter(&all().filter(|(_, f)| f.name == name && f.since == since.0).collect::<Vec<_>>()));
    let filters: Vec<_> = missing.into_iter().chain(running).collect();
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
    let outcomes = sums(all(), FilterMetrics::requests);
    let unavailable = sums(all(), FilterMetrics::unavailables);
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
        "unavailable": unavailable.iter().map(|(result, n)| (result.token().to_owned(), json!(n))).collect::<Map<_, _>>(),
        "duration_seconds": histogram(&all().map(|f| f.metrics.duration()).collect::<Vec<_>>()),
        "callback_seconds": callbacks(all().map(|f| &f.callbacks)),
        "traps": traps,
        "last_error": all().find_map(|f| f.last_error.as_deref()),
    })
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

/// What all have counted together, by label. Each names the same labels in the same order.
fn sums<'a, L, I>(all: impl Iterator<Item = &'a FilterReport>, counts: impl Fn(&'a FilterMetrics) -> I) -> Vec<(L, u64)>
where
    I: Iterator<Item = (L, u64)>,
{
    all.map(|report| counts(&report.metrics).collect::<Vec<_>>())
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

/// `/generations`: the newest first.
pub(super) async fn generations(asked: Vec<impl Future<Output = Option<Report>>>, known: Rc<Generations>) -> Value {
    let heard = gather(asked).await;
    let running = |number: u64| {
        let of_worker = |report: &Report| report.generations.iter().find(|(own, _)| *own == number).map(|(_, n)| *n);
        heard.iter().filter_map(Heard::said).filter_map(of_worker).fold(None, |sum, n| Some(sum.unwrap_or(0) + n))
    };
    let current = known.current();
    let show = |Entry { number, time, files, state }: Entry| {
        let (state, error) = match state {
            State::Rejected(why) => ("rejected", Some(why)),
            State::Accepted if number == current => ("active", None),
            State::Accepted if running(number).is_some() => ("draining", None),
            State::Accepted => ("ended", None),
        };
        json!({
            "number": number,
            "state": state,
            "time": date(time),
            "files": files,
            "in_flight": running(number).unwrap_or(0),
            "error": error,
        })
    };
    let entries = known.entries();
    // Those that end for so long that they are no longer remembered.
    let numbers = |report: &Report| report.generations.iter().map(|(number, _)| *number).collect::<Vec<_>>();
    let forgotten: BTreeSet<_> = heard
        .iter()
        .filter_map(Heard::said)
        .flat_map(numbers)
        .filter(|number| *number < current && entries.iter().all(|entry| entry.number != *number))
        .collect();
    let forgotten = forgotten
        .into_iter()
        .rev()
        .map(|number| json!({ "number": number, "state": "draining", "in_flight": running(number).unwrap_or(0) }));
    let on = |report: &Report| {
        let number = report.generations.first().map(|(number, _)| json!(number));
        Map::from_iter(number.map(|number| ("generation".to_owned(), number)))
    };
    json!({
        "current": current,
        "generations": entries.iter().cloned().map(show).chain(forgotten).collect::<Vec<_>>(),
        "workers": workers(&heard, on),
    })
}
