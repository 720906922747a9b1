//! `builtin:metrics`.

use serde_json::{Value, json};

use crate::both;

/// What makes a label of a part of a name on Envoy, as in Istio's bootstrap configuration.
fn tags(labels: &[&str]) -> Value {
    labels.iter().map(|label| json!({"tag_name": label, "regex": format!("({label}=\\.=(.*?);\\.;)")})).collect()
}

#[test]
fn requests_are_counted_by_labels() {
    let labels = json!([
        {"name": "tenant", "from": {"header": "x-tenant"}, "values": ["blue"]},
        {"name": "path", "paths": ["/bytes/{n}"]},
        {"name": "class", "response": "class"},
    ]);
    let metrics = json!({"metrics": [
        {"name": "tenants_total", "labels": labels},
        {"name": "received", "of": "request_bytes", "type": "counter"},
        {"name": "took_milliseconds", "of": "duration"},
    ]});
    both("metrics", metrics).tags(tags(&["tenant", "path", "class"])).run(|side| {
        for (tenant, path) in [("blue", "/bytes/1"), ("blue", "/bytes/2"), ("red", "/nowhere")] {
            side.get(path, &[("x-tenant", tenant)]);
        }
        let counts = |value, tenant, path, class| {
            side.counts(value, "tenants_total", &[("tenant", tenant), ("path", path), ("class", class)]);
        };
        counts(2.0, "blue", "/bytes/{n}", "2xx");
        counts(1.0, "other", "other", "4xx");
        side.counts(3.0, "took_milliseconds_count", &[]);
    });
}

#[test]
fn istios_metrics_are_the_same_everywhere() {
    // All of them, or the others stay in the name.
    let every = [
        "reporter",
        "source_workload",
        "source_canonical_service",
        "source_canonical_revision",
        "source_workload_namespace",
        "source_principal",
        "source_app",
        "source_version",
        "source_cluster",
        "destination_workload",
        "destination_workload_namespace",
        "destination_principal",
        "destination_app",
        "destination_version",
        "destination_service",
        "destination_canonical_service",
        "destination_canonical_revision",
        "destination_service_name",
        "destination_service_namespace",
        "destination_cluster",
        "request_protocol",
        "response_code",
        "grpc_response_status",
        "response_flags",
        "connection_security_policy",
    ];
    both("metrics", json!({"preset": "istio"})).tags(tags(&every)).run(|side| {
        side.get("/bytes/1", &[]);
        side.get("/bytes/1", &[]);
        side.get("/status/503", &[]);
        // Envoy's listener of this test says no direction, and its cluster has a name of its own.
        let (reporter, service) = if side.is_envoy() { ("destination", "unknown") } else { ("source", "app") };
        let with = |code| {
            [
                ("reporter", reporter),
                ("destination_service", service),
                ("request_protocol", "http"),
                ("response_code", code),
                ("response_flags", "-"),
                ("source_principal", "unknown"),
            ]
        };
        side.counts(2.0, "istio_requests_total", &with("200"));
        side.counts(1.0, "istio_requests_total", &with("503"));
        side.counts(2.0, "istio_request_duration_milliseconds_count", &with("200"));
        side.counts(2.0, "istio_request_bytes_count", &with("200"));
        side.counts(1.0, "istio_response_bytes_count", &with("503"));
    });
}
