use lacis_sdk::testing::{Message, Plugin};

use super::*;

fn pass(plugin: &Plugin<Metrics>, request: Message, response: Message) {
    let mut exchange = plugin.exchange();
    exchange.request(request).unwrap();
    exchange.response(response).unwrap();
    exchange.end();
}

fn tenant(tenant: impl AsRef<[u8]>) -> Message {
    Message::get("/").header("x-tenant", tenant)
}

const TENANTS: &str = r#"{"metrics": [{"name": "tenants_total", "labels": [
    {"name": "tenant", "from": {"header": "x-tenant"}}, {"name": "class", "response": "class"}]}]}"#;

fn series(tenant: &str, class: &str) -> String {
    format!("tenant=.={tenant};.;class=.={class};.;tenants_total")
}

#[test]
fn requests_are_counted_by_their_labels() {
    let plugin = Plugin::configure(TENANTS).unwrap();
    for (name, status) in [("blue", 200), ("blue", 204), ("blue", 503), ("red;1", 404)] {
        pass(&plugin, tenant(name), Message::response(status));
    }
    pass(&plugin, Message::get("/"), Message::response(200));
    pass(&plugin, tenant(b"\xff"), Message::response(200));
    assert_eq!(plugin.metric(&series("blue", "2xx")), Some(2));
    assert_eq!(plugin.metric(&series("blue", "5xx")), Some(1));
    assert_eq!(plugin.metric(&series("red_1", "4xx")), Some(1));
    assert_eq!(plugin.metric(&series("none", "2xx")), Some(1));
    assert_eq!(plugin.metric(&series("_", "2xx")), Some(1));
    assert_eq!(plugin.metrics().len(), 5);
}

#[test]
fn callers_cannot_make_series_without_end() {
    let limited = TENANTS.replace(r#""x-tenant"}"#, r#""x-tenant"}, "limit": 2"#);
    let plugin = Plugin::configure(&limited).unwrap();
    for number in 0..100 {
        pass(&plugin, tenant(format!("t{number}")), Message::response(200));
    }
    assert_eq!(plugin.metrics(), [series("t0", "2xx"), series("t1", "2xx"), series("other", "2xx")]);
    assert_eq!(plugin.metric(&series("other", "2xx")), Some(98));

    let few = TENANTS.replace(r#"{"metrics""#, r#"{"series": 2, "metrics""#);
    let plugin = Plugin::configure(&few).unwrap();
    for number in 0..10 {
        pass(&plugin, tenant(format!("t{number}")), Message::response(200));
    }
    assert_eq!(plugin.metrics(), [series("t0", "2xx"), series("t1", "2xx"), series("other", "other")]);
    assert_eq!(plugin.metric(&series("other", "other")), Some(8));
    pass(&plugin, tenant("t0"), Message::response(200));
    assert_eq!(plugin.metric(&series("t0", "2xx")), Some(2));
}

#[test]
fn only_listed_values_and_paths_are_told_apart() {
    let config = r#"{"metrics": [{"name": "n", "labels": [
        {"name": "tenant", "from": {"header": "x-tenant"}, "values": ["gold"]},
        {"name": "path", "paths": ["/users/{id}", "/static/**"]}]}]}"#;
    let plugin = Plugin::configure(config).unwrap();
    pass(&plugin, tenant("blue").header(":path", "/users/7?a"), Message::response(200));
    pass(&plugin, tenant("gold").header(":path", "/nowhere"), Message::response(200));
    let names = ["tenant=.=other;.;path=.=/users/{id};.;n", "tenant=.=gold;.;path=.=other;.;n"];
    assert_eq!(plugin.metrics(), names);
}

#[test]
fn sizes_and_times_are_measured() {
    let config = r#"{"metrics": [{"name": "ms", "of": "duration"}, {"name": "in", "of": "request_bytes"},
        {"name": "out", "of": "response_bytes", "type": "counter"}]}"#;
    let plugin = Plugin::<Metrics>::configure(config).unwrap();
    let number = |number: u64| number.to_le_bytes();
    let mut exchange = plugin
        .exchange()
        .attribute("request.duration", number(12_999_999))
        .attribute("request.total_size", number(70))
        .attribute("response.total_size", number(u64::MAX));
    exchange.request(Message::get("/")).unwrap();
    exchange.response(Message::response(200)).unwrap();
    exchange.end();
    assert_eq!(["ms", "in", "out"].map(|name| plugin.metric(name)), [Some(12), Some(70), Some(0)]);
}

#[test]
fn istios_metrics_have_istios_labels() {
    let plugin = Plugin::<Metrics>::configure(r#"{"preset": "istio"}"#).unwrap();
    let mut exchange = plugin
        .exchange()
        .attribute("xds.listener_direction", 1_u64.to_le_bytes())
        .attribute("connection.mtls", [1])
        .attribute("connection.uri_san_peer_certificate", "spiffe://cluster.local/ns/shop/sa/cart")
        .attribute("connection.uri_san_local_certificate", "spiffe://cluster.local/ns/shop/sa/stock")
        .attribute("node.metadata.WORKLOAD_NAME", "stock-v2")
        .attribute("response.flags", 0x4000_u64.to_le_bytes());
    exchange.request(Message::get("/")).unwrap();
    exchange.response(Message::response(503)).unwrap();
    exchange.end();
    let labels = "reporter=.=destination;.;source_workload=.=cart;.;source_canonical_service=.=cart;.;\
        source_canonical_revision=.=latest;.;source_workload_namespace=.=shop;.;\
        source_principal=.=spiffe://cluster.local/ns/shop/sa/cart;.;source_app=.=cart;.;source_version=.=unknown;.;\
        source_cluster=.=unknown;.;destination_workload=.=stock-v2;.;destination_workload_namespace=.=shop;.;\
        destination_principal=.=spiffe://cluster.local/ns/shop/sa/stock;.;destination_app=.=stock;.;\
        destination_version=.=unknown;.;destination_service=.=stock-v2;.;destination_canonical_service=.=stock-v2;.;\
        destination_canonical_revision=.=latest;.;destination_service_name=.=stock-v2;.;\
        destination_service_namespace=.=shop;.;destination_cluster=.=unknown;.;request_protocol=.=http;.;\
        response_code=.=503;.;grpc_response_status=.=;.;response_flags=.=DC;.;connection_security_policy=.=mutual_tls;.;";
    let names = ["requests_total", "request_duration_milliseconds", "request_bytes", "response_bytes"];
    assert_eq!(plugin.metrics(), names.map(|name| format!("{labels}istio_{name}")));
}

#[test]
fn the_caller_reports_too() {
    let plugin = Plugin::<Metrics>::configure(r#"{"preset": "istio"}"#).unwrap();
    let mut exchange = plugin
        .exchange()
        .attribute("xds.listener_direction", 2_u64.to_le_bytes())
        .attribute("xds.cluster_name", "outbound|80||ratings.shop.svc.cluster.local")
        .attribute("upstream.uri_san_peer_certificate", "spiffe://cluster.local/ns/shop/sa/ratings-sa")
        .attribute("response.grpc_status", 5_u64.to_le_bytes());
    exchange.request(Message::get("/").header("content-type", "application/grpc+proto")).unwrap();
    exchange.response(Message::response(200)).unwrap();
    exchange.end();
    let name = plugin.metrics().remove(0);
    for label in [
        "reporter=.=source",
        "source_principal=.=unknown",
        "destination_workload=.=ratings-sa",
        "destination_service=.=ratings.shop.svc.cluster.local",
        "destination_service_name=.=ratings",
        "destination_service_namespace=.=shop",
        "request_protocol=.=grpc",
        "grpc_response_status=.=5",
        "connection_security_policy=.=unknown",
    ] {
        assert!(name.contains(&format!("{label};.;")), "{label}: {name}");
    }
}

#[test]
fn mistakes_are_named_and_limits_checked_at_their_edges() {
    let label = |label: &str| format!(r#"{{"metrics": [{{"name": "n", "labels": [{label}]}}]}}"#);
    let limit = |limit: usize| label(&format!(r#"{{"name": "a", "from": "path", "limit": {limit}}}"#));
    let series = |series: usize| format!(r#"{{"preset": "istio", "series": {series}}}"#);
    for config in [limit(1), limit(1000), series(1), series(1023)] {
        assert!(Plugin::<Metrics>::configure(&config).is_ok(), "{config}");
    }
    for (config, why) in [
        (String::new(), "it needs `metrics`, or `preset: istio`"),
        (r#"{"preset": "linkerd"}"#.to_owned(), "unknown variant `linkerd`, expected `istio`"),
        (r#"{"metrics": [{"name": "a b"}]}"#.to_owned(), "metrics[0]: \"a b\" is no name of a metric"),
        (r#"{"metrics": [{"name": "a"}, {"name": "a"}]}"#.to_owned(), "metrics[1]: there is a metric \"a\" before"),
        (r#"{"metrics": [{"name": "a", "type": "histogram"}]}"#.to_owned(), "needs another `of`"),
        (label(r#"{"name": "filter", "from": "path"}"#), "\"filter\" is no name of a label"),
        (label(r#"{"name": "a"}"#), "exactly one of `from`, `paths` (not empty) and `response`"),
        (label(r#"{"name": "a", "from": "path", "response": "class"}"#), "exactly one of"),
        (label(r#"{"name": "a", "paths": []}"#), "exactly one of"),
        (label(r#"{"name": "a", "paths": ["users"]}"#), "is no pattern of paths"),
        (label(r#"{"name": "a", "response": {"header": ""}}"#), "no name of a header"),
        (label(r#"{"name": "a", "from": "path"}, {"name": "a", "from": "path"}"#), "the same name"),
        (label(r#"{"name": "a", "header": "b"}"#), "unknown field `header`, expected one of `name`, `from`"),
        (limit(0), "1 to 1000"),
        (limit(1001), "1 to 1000"),
        (series(0), "with 4 metrics it may be 1 to 1023"),
        (series(1024), "1 to 1023"),
    ] {
        let error = Plugin::<Metrics>::configure(&config).err().unwrap();
        assert!(error.contains(why), "{config}: {error}");
    }
}

#[test]
fn the_schema_is_the_one_in_the_file() {
    lacis_filter_parts::schema::matches_file::<Config>(env!("CARGO_MANIFEST_DIR")).unwrap();
}
