//! `/config`: what is in use, and what was bound.

use std::net::SocketAddr;
use std::sync::Arc;

use http::uri::Authority;
use http::{HeaderName, HeaderValue, Method};
use serde_json::{Map, Value, json};
use tokio::task::spawn_blocking;

use super::filters::failure;
use super::seconds;
use crate::config::admission::{Concurrency, Conditions, Overload, Priority, RateKey, RateLimit};
use crate::config::balance::{Hash, HashKey, HealthCheck, Probe, TableKind};
use crate::config::fault::{Abort, Faults, Mirror, Portion};
use crate::config::matching::{PathMatch, TextMatch};
use crate::config::policy::{After, Breaker, Hedge};
use crate::config::route::{Backend, FieldChanges, HostMatch, Match, PathChange, Redirect, Rewrite, Scheme};
use crate::config::{
    AccessLog, AccessRule, Allow, Balance, Config, Dns, Endpoint, Endpoints, Filter, FilterLimits, IdentityFiles,
    Limits, LinkPolicy, Locality, Module, Node, Outliers, Retries, Route, Rule, Service, ServiceProtocol, Source, Tell,
    Timeouts, Why,
};

/// `/config`: what is in use, and what was bound.
pub(in super::super) async fn config(
    config: Arc<Config>,
    generation: u64,
    addresses: Vec<(String, SocketAddr)>,
    ports: Vec<(String, SocketAddr)>,
) -> Value {
    spawn_blocking(move || page(&config, generation, &addresses, &ports)).await.unwrap_or_default()
}

/// What filters are given and what rules write into fields may be secrets, and is not shown.
fn page(config: &Config, generation: u64, addresses: &[(String, SocketAddr)], ports: &[(String, SocketAddr)]) -> Value {
    // Section by section, so that a new one cannot be forgotten here.
    let Config {
        node,
        identity,
        outbound,
        inbound,
        services,
        routes,
        filters,
        admin: _,
        access_log,
        why,
        overload: bounds,
        workers,
    } = config;
    // A service may be called as one of the sidecar's own listeners is: those come last, and the service shows its own.
    let bound = |(name, address): &(String, SocketAddr)| (name.clone(), json!(address.to_string()));
    let listeners: Map<_, _> = ports.iter().chain(addresses).map(bound).collect();
    let services: Map<_, _> = services.iter().map(|one| (one.name.clone(), service(one, config, ports))).collect();
    let filters: Map<_, _> = filters.iter().map(|one| (one.name.clone(), filter(one))).collect();
    let rules = |route: &Route| {
        let rules: Vec<_> = route.rules.iter().map(|one| rule(one, config)).collect();
        json!({"service": name(config, route.service), "hosts": route.hosts, "rules": rules})
    };
    json!({
        "generation": generation,
        "node": self::node(node),
        "identity": identity.as_ref().map(|IdentityFiles { certificate, private_key, trust_bundle }| json!({
            "certificate": certificate, "private_key": private_key, "trust_bundle": trust_bundle,
        })),
        "listeners": listeners,
        "outbound": outbound.as_ref().map(|outbound| json!({"filters": chain(config, &outbound.filters)})),
        "inbound": inbound.as_ref().map(|inbound| json!({
            "application": inbound.application.to_string(),
            "protocol": format!("{:?}", inbound.protocol).to_lowercase(),
            "filters": chain(config, &inbound.filters),
            "timeouts": {"idle": seconds(inbound.timeouts.idle), "stream": seconds(inbound.timeouts.stream)},
            "allow": inbound.access.allow.as_ref().map(|allow| allow.iter().map(access_rule).collect::<Vec<_>>()),
            "deny": inbound.access.deny.iter().map(access_rule).collect::<Vec<_>>(),
            "concurrency": inbound.concurrency.map(|Concurrency { min, max, initial }| json!({"min": min, "max": max, "initial": initial})),
            "rate_limits": inbound.rate_limits.iter().map(rate_limit).collect::<Vec<_>>(),
        })),
        "services": services,
        "routes": routes.iter().map(rules).collect::<Vec<_>>(),
        "filters": filters,
        "telemetry": {
            "access_log": access_log.as_ref().map(|AccessLog { path }| json!({ "path": path })),
            "why": why.as_ref().map(self::why),
        },
        "overload": bounds.as_ref().map(overload),
        "workers": workers,
    })
}

/// What stands in the place of what may be a secret, as in Envoy's `/config_dump`.
const REDACTED: &str = "[redacted]";

/// The names of filters.
fn chain<'c>(config: &'c Config, filters: &[usize]) -> Vec<&'c str> {
    filters.iter().filter_map(|i| config.filters.get(*i)).map(|filter| filter.name.as_str()).collect()
}

/// The name of a service.
fn name(config: &Config, service: usize) -> Option<&str> {
    config.services.get(service).map(|service| service.name.as_str())
}

fn node(node: &Node) -> Value {
    let Node { service, namespace, trust_domain, spiffe, id, cluster, locality, metadata } = node;
    let Locality { region, zone, sub_zone } = locality;
    json!({
        "service": service, "namespace": namespace, "trust_domain": trust_domain, "identity": spiffe.to_string(), "id": id,
        "cluster": cluster, "locality": {"region": region, "zone": zone, "sub_zone": sub_zone}, "metadata": metadata,
    })
}

fn service(service: &Service, config: &Config, ports: &[(String, SocketAddr)]) -> Value {
    let Service {
        name,
        hosts,
        // What was bound: it may say any port.
        listen: _,
        protocol,
        filters,
        endpoints,
        identity,
        link: policy,
        balance: by,
        panic,
        prefers_zone,
        slow_start,
        affinity,
        health: check,
        timeouts: Timeouts { connect, request, idle, stream },
        retries: again,
        limits: most,
        rate_limits,
        outliers: out,
        breaker: rest,
        fault: faults,
    } = service;
    let endpoints = match endpoints {
        Endpoints::Listed(all) => all.iter().map(listed).collect(),
        Endpoints::Found(from) => source(from),
    };
    let listen = ports.iter().find(|(service, _)| service == name).map(|(_, address)| address.to_string());
    let protocol = match protocol {
        ServiceProtocol::Http => "http",
        ServiceProtocol::Tcp => "tcp",
    };
    json!({
        "hosts": hosts, "listen": listen, "protocol": protocol, "endpoints": endpoints,
        "identity": identity.iter().map(ToString::to_string).collect::<Vec<_>>(), "link": link(*policy),
        "balance": balance(by), "panic_threshold_percent": panic, "zones": if *prefers_zone { "prefer" } else { "ignore" },
        "slow_start": slow_start.as_ref().map(|slow| json!({
            "window": seconds(slow.window), "aggression": slow.aggression, "min_weight_percent": slow.min_weight,
        })),
        "affinity": affinity.as_ref().map(|affinity| json!({
            "cookie": affinity.cookie, "ttl": seconds(affinity.ttl), "shared": affinity.secret.is_some(),
        })),
        "health": check.as_deref().map(health),
        "timeouts": {"connect": seconds(*connect), "request": seconds(*request), "idle": seconds(*idle), "stream": seconds(*stream)},
        "filters": chain(config, filters), "retries": again.as_deref().map(retries), "limits": limits(most),
        "rate_limits": rate_limits.iter().map(rate_limit).collect::<Vec<_>>(), "outliers": out.as_deref().map(outliers),
        "breaker": rest.as_deref().map(breaker), "fault": faults.as_deref().map(fault),
    })
}

fn rule(rule: &Rule, config: &Config) -> Value {
    let Rule {
        name: own,
        matches,
        request,
        response,
        redirect,
        rewrite,
        filters,
        to,
        timeout,
        per_try_timeout,
        fault: faults,
        mirrors,
        rate_limits,
    } = rule;
    let backend = |to: &Backend| json!({"service": name(config, to.service), "weight": to.weight});
    let mirror = |mirror: &Mirror| {
        let Portion { numerator, denominator } = mirror.portion;
        json!({"service": name(config, mirror.service), "numerator": numerator, "denominator": denominator})
    };
    let redirect = redirect.as_ref().map(|Redirect { scheme, host, port, path, status }| {
        let scheme = scheme.map(|scheme| match scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        });
        json!({"scheme": scheme, "host": host, "port": port, "path": path.as_ref().map(path_change), "status": status})
    });
    let rewrite =
        rewrite.as_ref().map(|Rewrite { host, path }| json!({"host": host, "path": path.as_ref().map(path_change)}));
    json!({
        "name": &**own, "matches": matches.iter().map(request_match).collect::<Vec<_>>(),
        "request_headers": changes(request), "response_headers": changes(response), "redirect": redirect, "rewrite": rewrite,
        "filters": chain(config, filters), "to": to.iter().map(backend).collect::<Vec<_>>(),
        "mirrors": mirrors.iter().map(mirror).collect::<Vec<_>>(), "fault": faults.as_ref().map(fault),
        "rate_limits": rate_limits.iter().map(rate_limit).collect::<Vec<_>>(),
        "timeout": timeout.map(seconds), "per_try_timeout": per_try_timeout.map(seconds),
    })
}

/// What is not said is not shown, but the path, which is compared in any case.
fn request_match(wanted: &Match) -> Value {
    let Match { host, path, method, headers, query } = wanted;
    let host = host.as_ref().map(|host| match host {
        HostMatch::Exact(host) => json!(host),
        HostMatch::Under(end) => json!(format!("*{end}")),
    });
    let parameter = |(name, wanted): &(String, TextMatch)| text_match(name, wanted);
    let list = |all: Vec<Value>| (!all.is_empty()).then(|| json!(all));
    let all = [
        ("host", host),
        ("path", Some(path_match(path))),
        ("method", method.as_ref().map(|method| json!(method.as_str()))),
        ("headers", list(headers.iter().map(field).collect())),
        ("query", list(query.iter().map(parameter).collect())),
    ];
    all.into_iter().filter_map(|(key, of)| Some((key.to_owned(), of?))).collect()
}

/// The names alone: a value may be the key by which a service knows us.
fn changes(changes: &FieldChanges) -> Value {
    let FieldChanges { set, add, remove } = changes;
    let names =
        |fields: &[(HeaderName, HeaderValue)]| json!(fields.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>());
    let remove = json!(remove.iter().map(HeaderName::as_str).collect::<Vec<_>>());
    json!({"set": names(set), "add": names(add), "remove": remove})
}

fn path_change(change: &PathChange) -> Value {
    match change {
        PathChange::Full(path) => json!({"full": path}),
        PathChange::Prefix(path) => json!({"prefix": path}),
    }
}

fn filter(filter: &Filter) -> Value {
    let Filter {
        name: _,
        module,
        sha256,
        config,
        failure: on_failure,
        limits,
        allow: Allow { functions, calls },
        root_id,
        vm_id,
        vm_config,
        env,
        head_waits_alone,
    } = filter;
    let FilterLimits {
        memory,
        time,
        buffer,
        calls: at_once,
        table,
        log_lines,
        metrics,
        shared_data,
        queues,
        queue_items,
        queue_size,
        ticks,
    } = limits;
    let credentials = match module {
        Module::Remote(remote) => remote.credentials.as_deref(),
        Module::Builtin(_) | Module::Path(_) => None,
    };
    // Keys, passwords, tokens: nobody but the filter knows what is one.
    let hidden = |payload: &[u8]| (!payload.is_empty()).then_some(REDACTED);
    json!({
        "module": module.to_string(), "sha256": sha256, "credentials": credentials, "config": hidden(config),
        "failure": failure(*on_failure),
        "limits": {
            "memory": memory, "time": seconds(*time), "buffer": buffer, "calls": at_once, "table": table,
            "log_lines": log_lines, "metrics": metrics, "shared_data": shared_data, "queues": queues,
            "queue_items": queue_items, "queue_size": queue_size, "ticks_percent": ticks,
        },
        "allow": {
            "calls": calls, "functions": functions.as_ref().map(|allow| allow.functions().collect::<Vec<_>>()),
        },
        "root_id": root_id, "vm_id": vm_id, "vm_config": hidden(vm_config),
        "env": env.iter().map(|(name, _)| (name.clone(), json!(REDACTED))).collect::<Map<_, _>>(),
        "allow_on_headers_stop_iteration": head_waits_alone,
    })
}

fn why(why: &Why) -> Value {
    let Why { sample, keep, header, trusted } = why;
    let header = match header {
        Tell::Asked => "asked",
        Tell::Failed => "failed",
        Tell::Always => "always",
    };
    let trusted: Vec<_> = trusted.iter().map(ToString::to_string).collect();
    json!({"sample_percent": sample, "keep": keep, "header": header, "trusted": trusted})
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
    let all = [
        ("identity", identities.iter().map(|id| json!(id.to_string())).collect::<Vec<_>>()),
        ("namespace", namespaces.iter().map(|name| json!(name)).collect()),
        ("path", paths.iter().map(path_match).collect()),
        ("method", methods.iter().map(|method| json!(method.as_str())).collect()),
        ("headers", headers.iter().map(field).collect()),
        ("port", ports.iter().map(|port| json!(port)).collect()),
    ];
    all.into_iter().filter(|(_, of)| !of.is_empty()).map(|(key, of)| (key.to_owned(), Value::from(of))).collect()
}

fn path_match(path: &PathMatch) -> Value {
    match path {
        PathMatch::Exact(path) => json!({"exact": path}),
        PathMatch::Prefix(path) => json!({"prefix": path}),
        PathMatch::Regex(pattern) => json!({"regex": pattern.as_str()}),
    }
}

fn field((name, wanted): &(HeaderName, TextMatch)) -> Value {
    text_match(name.as_str(), wanted)
}

fn text_match(name: &str, wanted: &TextMatch) -> Value {
    match wanted {
        TextMatch::Exact(value) => json!({"name": name, "value": value}),
        TextMatch::Regex(pattern) => json!({"name": name, "regex": pattern.as_str()}),
    }
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{self, resolve::Host};

    const TEXT: &str = r#"
node: {service: alpha, metadata: {team: blue}}
outbound: {listen: "127.0.0.1:0", filters: [guard]}
services:
  delta: {link: plaintext, endpoints: ["127.0.0.1:1"]}
  admin: {link: plaintext, endpoints: ["127.0.0.1:1"], listen: "127.0.0.1:0"}
routes:
  - service: delta
    rules:
      - matches: [{host: delta.example, path: {prefix: /v2}, method: GET, headers: [{name: x-tenant, value: blue}], query: [{name: q, regex: "a+"}]}]
        filters:
          - request_headers: {set: [{name: authorization, value: hunter2}], remove: [cookie]}
          - rewrite: {path: {prefix: /}}
filters:
  guard:
    module: builtin:auth
    config: {keys: [hunter2]}
    vm_config: hunter2
    env: {KEY: hunter2}
    allow: {functions: [log], calls: [delta]}
telemetry:
  access_log: {path: /dev/null}
  why: {sample: 10%, header: failed}
"#;

    #[test]
    fn all_is_shown_but_what_may_be_a_secret() {
        let bound = |name: &str, port| [(name.to_owned(), SocketAddr::from(([127, 0, 0, 1], port)))];
        let host = Host { variable: &|_| None, exists: &|_| true, cores: 1 };
        let (config, _) = config::parse(TEXT, "lacis.yaml", Path::new("/"), &host).expect("a config");
        let page = page(&config, 7, &bound("admin", 9), &bound("admin", 8));
        assert!(!page.to_string().contains("hunter2"), "{page:#}");
        assert_eq!(
            (&page["listeners"]["admin"], &page["services"]["admin"]["listen"]),
            (&json!("127.0.0.1:9"), &json!("127.0.0.1:8"))
        );
        assert_eq!(page["node"]["metadata"], json!({"team": "blue"}));
        assert_eq!(page["telemetry"]["access_log"], json!({"path": "/dev/null"}));
        let why = json!({"sample_percent": 10, "keep": 1000, "header": "failed", "trusted": []});
        assert_eq!(page["telemetry"]["why"], why);
        let guard = &page["filters"]["guard"];
        assert_eq!((&guard["module"], &guard["failure"]), (&json!("builtin:auth"), &json!("closed")));
        assert_eq!((&guard["config"], &guard["vm_config"]), (&json!("[redacted]"), &json!("[redacted]")));
        assert_eq!(guard["env"], json!({"KEY": "[redacted]"}));
        assert_eq!(guard["limits"]["memory"], 64 << 20);
        assert_eq!(guard["allow"]["calls"], json!(["delta"]));
        assert!(guard["allow"]["functions"].as_array().is_some_and(|all| all.contains(&json!("proxy_log"))));
        let rule = &page["routes"][0]["rules"][0];
        let matched = json!({
            "host": "delta.example", "path": {"prefix": "/v2"}, "method": "GET",
            "headers": [{"name": "x-tenant", "value": "blue"}], "query": [{"name": "q", "regex": "a+"}],
        });
        assert_eq!(rule["matches"], json!([matched]));
        assert_eq!(rule["request_headers"], json!({"set": ["authorization"], "add": [], "remove": ["cookie"]}));
        assert_eq!(rule["rewrite"], json!({"host": null, "path": {"prefix": ""}}));
    }
}
