//! `/config`: what is in use, and what was bound.

use std::net::SocketAddr;
use std::sync::Arc;

use http::uri::Authority;
use http::{HeaderName, Method};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use super::seconds;
use crate::config::admission::{Concurrency, Conditions, Overload, Priority, RateKey, RateLimit};
use crate::config::balance::{Hash, HashKey, HealthCheck, Probe, TableKind};
use crate::config::fault::{Abort, Faults, Portion};
use crate::config::matching::{PathMatch, TextMatch};
use crate::config::policy::{After, Breaker, Hedge};
use crate::config::{
    AccessRule, Balance, Config, Dns, Endpoint, Endpoints, Limits, LinkPolicy, Outliers, Retries, Rule, Source,
};

/// `/config`: what is in use, and what was bound.
pub(in super::super) async fn config(
    config: Arc<Config>,
    generation: u64,
    addresses: Vec<(String, SocketAddr)>,
    ports: Vec<(String, SocketAddr)>,
) -> Value {
    let all: Vec<_> = addresses.into_iter().chain(ports).collect();
    spawn_blocking(move || page(&config, generation, &all)).await.unwrap_or_default()
}

fn page(config: &Config, generation: u64, addresses: &[(String, SocketAddr)]) -> Value {
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

pub(super) fn balance(balance: &Balance) -> Value {
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

pub(super) fn source(source: &Source) -> Value {
    match source {
        Source::Dns(Dns { name, port, server }) => {
            json!({"dns": {"name": name, "port": port, "server": server.map(|server| server.to_string())}})
        }
        Source::File(path) => json!({ "file": path }),
    }
}
