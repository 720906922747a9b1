//! Properties.

use super::Row;

pub(crate) const READ: &[Row] = &[
    Row(
        "request",
        "GET /bytes/3?a=b referer:ref user-agent:ua x-a:1",
        "rq prop request.path, prop request.url_path, prop request.query, prop request.host, prop request.scheme, prop request.method, prop request.referer, prop request.useragent, prop request.protocol",
    ),
    Row(
        "request-absent",
        "GET /bytes/3",
        "rq prop request.query, prop request.referer, prop request.useragent, prop request.nothing, prop request.path.x",
    ),
    Row(
        "request-headers",
        "GET /bytes/3 x-a:1 x-a:2",
        "rq prop request.headers.x-a, prop request.headers.X-A, prop request.headers.absent, prop request.headers.%3Apath, props request.headers, prop request.headers.x-a.y",
    ),
    Row("request-headers-map", "GET /bytes/3 x-a:1 x-b:3", "rq propmap request.headers"),
    Row(
        "request-changed",
        "GET /bytes/3",
        "rq rep 0 :path /bytes/3?x=y, rep 0 :method POST, add 0 x-new 1, prop request.path, prop request.query, prop request.method, prop request.headers.x-new",
    ),
    Row(
        "request-sizes",
        "POST /drain <hello",
        "rq prop request.size, propn request.total_size, propn request.headers_bytes, propn request.time, prop request.duration ; rqb ret 1 ; rqbe prop request.size ; lg prop request.size, propn request.total_size, propn request.headers_bytes, propn request.duration, propn request.time",
    ),
    Row("request-size-chunked", "POST /drain <<hello", "rq prop request.size ; lg prop request.size"),
    Row(
        "request-in-later-phases",
        "POST /echo <abc",
        "rqb1 prop request.path, prop request.method, props request.headers, prop request.protocol ; rs prop request.path, prop request.host, prop request.headers.host, prop request.scheme",
    ),
    Row(
        "request-in-the-log",
        "GET /bytes/3 x-a:1",
        "lg prop request.path, prop request.method, prop request.headers.x-a, prop request.host, prop request.protocol, propn request.id",
    ),
    Row(
        "request-in-done",
        "GET /bytes/3",
        "dn prop request.path, prop request.protocol, prop response.code ; dl prop request.path, prop response.code",
    ),
    Row(
        "response-too-early",
        "GET /bytes/3",
        "rq prop response.code, prop response.code_details, prop response.flags, prop response.size, prop response.total_size, prop response.grpc_status, props response.headers, prop response.headers.x, props response.trailers, prop response.backend_latency, prop response.headers_bytes",
    ),
    Row(
        "response-headers",
        "GET /bytes/3",
        "rs prop response.headers.x-app, prop response.headers.absent, prop response.headers.content-length, props response.headers, prop response.size, prop response.flags",
    ),
    Row("response-code-in-headers", "GET /status/404", "rs prop response.code"),
    Row(
        "response-in-the-log",
        "GET /bytes/3",
        "lg prop response.code, prop response.code_details, prop response.flags, prop response.size, propn response.total_size, propn response.headers_bytes, prop response.headers.x-app, propn response.backend_latency",
    ),
    Row("response-broken-off", "GET /truncate", "lg prop response.code, prop response.code_details"),
    Row("response-grpc-status", "GET /status/404", "lg prop response.grpc_status"),
    Row("response-grpc-status-ok", "GET /status/200", "lg prop response.grpc_status"),
    Row(
        "response-trailers",
        "GET /trailers",
        "rst prop response.trailers.x-count, props response.trailers ; lg prop response.trailers.x-count, prop response.trailers.absent",
    ),
    Row(
        "response-changed",
        "GET /bytes/3",
        "rs rep 2 :status 418, add 2 x-new 1, prop response.headers.x-new ; lg prop response.code",
    ),
    Row(
        "source",
        "GET /bytes/3",
        "rq props source.address, propn source.port, prop source.nothing ; rs props source.address ; lg props source.address",
    ),
    Row(
        "destination",
        "GET /bytes/3",
        "rq props destination.address, propn destination.port ; lg props destination.address",
    ),
    Row(
        "connection",
        "GET /bytes/3",
        "rq propn connection.id, propn connection_id, prop connection.mtls, prop connection.requested_server_name, prop connection.tls_version, prop connection.subject_peer_certificate, prop connection.subject_local_certificate, prop connection.termination_details, prop connection.transport_failure_reason",
    ),
    Row(
        "connection-certificates",
        "GET /bytes/3",
        "rq prop connection.dns_san_local_certificate, prop connection.dns_san_peer_certificate, prop connection.uri_san_local_certificate, prop connection.uri_san_peer_certificate, prop connection.sha256_peer_certificate_digest, prop connection.peer_certificate",
    ),
    Row(
        "upstream-too-early",
        "GET /bytes/3",
        "rq props upstream.address, props upstream.port, props upstream.local_address, prop upstream.transport_failure_reason, prop upstream.request_attempt_count, prop upstream.cx_pool_ready_duration, prop upstream.num_endpoints, prop upstream.tls_version",
    ),
    Row(
        "upstream",
        "GET /bytes/3",
        "rs props upstream.address, propn upstream.port, props upstream.local_address, prop upstream.transport_failure_reason, prop upstream.request_attempt_count, propn upstream.cx_pool_ready_duration ; lg props upstream.address, prop upstream.request_attempt_count",
    ),
    Row(
        "upstream-certificates",
        "GET /bytes/3",
        "rs prop upstream.tls_version, prop upstream.subject_local_certificate, prop upstream.subject_peer_certificate, prop upstream.dns_san_local_certificate, prop upstream.dns_san_peer_certificate, prop upstream.uri_san_local_certificate, prop upstream.uri_san_peer_certificate, prop upstream.sha256_peer_certificate_digest",
    ),
    Row(
        "upstream-failed",
        "GET /echo host:refused",
        "lg prop upstream.request_attempt_count, props upstream.transport_failure_reason, prop response.code, propn response.flags",
    ),
    Row("plugin", "GET /bytes/3", "rq prop plugin_name, prop plugin_root_id, prop plugin_vm_id, prop plugin_nothing"),
    Row(
        "node",
        "GET /bytes/3",
        "rq prop xds.node.id, prop xds.node.cluster, prop xds.node.metadata.TEXT, prop xds.node.metadata.NUMBER, prop xds.node.metadata.TRUE, prop xds.node.metadata.ABSENT, prop xds.node.nothing",
    ),
    Row(
        "node-of-the-root",
        "GET /bytes/3",
        "rq eff root, prop xds.node.id, prop request.path, prop xds.cluster_name, prop plugin_name",
    ),
    Row(
        "old-names",
        "GET /bytes/3",
        "rq prop node.id, prop cluster_name, prop route_name, prop listener_direction, prop upstream_host_metadata, prop listener_metadata, prop cluster_metadata, prop route_metadata",
    ),
    Row(
        "xds",
        "GET /bytes/3",
        "rq propn xds.listener_direction, props xds.route_name, props xds.virtual_host_name, prop xds.filter_chain_name, prop xds.nothing",
    ),
    Row("cluster-name", "GET /bytes/3 host:other", "rs prop xds.cluster_name ; lg prop xds.cluster_name"),
    Row(
        "metadata",
        "GET /bytes/3",
        "rq prop metadata.filter_metadata.a, prop metadata.filter_metadata.a.b, prop xds.cluster_metadata.filter_metadata.a, prop xds.route_metadata.filter_metadata.a, prop xds.listener_metadata.filter_metadata.a, prop xds.upstream_host_metadata, prop xds.virtual_host_metadata.filter_metadata.a",
    ),
    Row(
        "metadata-whole",
        "GET /bytes/3",
        "rq prop metadata, prop xds.cluster_metadata, prop xds.route_metadata, prop xds.listener_metadata, prop metadata.filter_metadata",
    ),
    Row(
        "filter-state-absent",
        "GET /bytes/3",
        "rq prop filter_state.a, prop upstream_filter_state.a, prop filter_state, prop upstream_filter_state",
    ),
    Row(
        "whole-objects",
        "GET /bytes/3",
        "rq prop request, prop response, prop connection, prop source, prop destination, prop upstream, prop xds, prop ~",
    ),
    Row(
        "paths",
        "GET /bytes/3",
        "rq prop request%2Epath, prop %00request%00path, prop request.path%00, prop request%00path%00%00, prop nothing, prop nothing.more, prop request.",
    ),
];

pub(crate) const WRITTEN: &[Row] = &[
    Row(
        "own",
        "GET /bytes/3",
        "rq setprop mine hello, prop mine ; rs prop mine, setprop mine bye ; lg prop mine, setprop mine again, prop mine ; dn prop mine ; dl prop mine",
    ),
    Row("empty", "GET /bytes/3", "rq setprop mine ~, prop mine"),
    Row("absent", "GET /bytes/3", "rq prop mine"),
    Row("several-segments", "GET /bytes/3", "rq setprop mine.two x, prop mine.two, prop mine"),
    Row(
        "in-filter-state",
        "GET /bytes/3",
        "rq setprop mine hello, prop filter_state.wasm%2Emine, prop filter_state.mine",
    ),
    Row(
        "real-ones-win",
        "GET /bytes/3",
        "rq setprop request.path /other, prop request.path, setprop plugin_name x, prop plugin_name, setprop request x, prop request",
    ),
    Row("empty-path", "GET /bytes/3", "rq setprop ~ x, prop ~"),
    Row("from-the-root", "GET /bytes/3", "rq eff root, setprop mine x, prop mine"),
    Row("bytes", "GET /bytes/3", "rq setprop mine %00%01%FF, prop mine"),
];
