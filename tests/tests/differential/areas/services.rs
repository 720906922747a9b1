//! What outlives a request: shared data, queues, metrics; and what is no part of it: foreign functions, the system, and
//! arguments that make no sense.

use super::Row;

pub(crate) const SHARED_DATA: &[Row] = &[
    Row("absent", "GET /echo", "rq sget absent"),
    Row("set-and-get", "GET /echo", "rq sset k1 v1 0, sget k1"),
    Row("over-requests", "GET /echo", "rq sget k1, sset k1 v2 c, sget k1"),
    Row("old-cas", "GET /echo", "rq sset k2 v1 0, sget k2, sset k2 v2 c, sset k2 v3 c, sget k2"),
    Row("no-cas", "GET /echo", "rq sset k3 v1 0, sset k3 v2 0, sget k3"),
    Row("cas-of-an-absent-key", "GET /echo", "rq sset k4 v1 12345, sget k4"),
    Row("wrong-cas", "GET /echo", "rq sset k5 v1 0, sset k5 v2 4294967295, sget k5"),
    Row("empty-value", "GET /echo", "rq sset k6 ~ 0, sget k6"),
    Row("empty-key", "GET /echo", "rq sset ~ v 0, sget ~"),
    Row("bytes", "GET /echo", "rq sset %00%FF %00%01%FE 0, sget %00%FF"),
    Row(
        "in-every-phase",
        "GET /bytes/1",
        "rq sset k7 1 0 ; rs sget k7 ; lg sget k7 ; dn sget k7 ; dl sget k7, sset k7 2 c",
    ),
];

pub(crate) const QUEUES: &[Row] = &[
    Row("unknown", "GET /echo", "rq qres ~ absent, qdeq 9999, qenq 9999 x"),
    Row("own", "GET /echo", "rq qreg q1, qdeq q, qenq q a, qenq q b, qdeq q, qdeq q, qdeq q"),
    Row("again-the-same", "GET /echo", "rq qreg q1, qenq q a, qreg q1, qdeq q"),
    Row("resolve", "GET /echo", "rq qreg q2, qenq q a, qres ~ q2, qdeq q, qres other-vm q2"),
    Row("empty-item", "GET /echo", "rq qreg q3, qenq q ~, qdeq q, qdeq q"),
    Row("over-requests", "GET /echo", "rq qreg q4, qenq q x"),
    Row("over-requests-taken", "GET /echo", "rq qres ~ q4, qdeq q, qdeq q"),
];

pub(crate) const METRICS: &[Row] = &[
    Row("counter", "GET /echo", "rq mdef 0 c1, mget m, minc m 1, minc m 41, mget m, mrec m 8, mget m"),
    Row("counter-down", "GET /echo", "rq mdef 0 c2, minc m -1, minc m 0, mget m"),
    Row("gauge", "GET /echo", "rq mdef 1 g1, mget m, mrec m 10, mget m, minc m 5, mget m, minc m -3, mget m"),
    Row("gauge-below-zero", "GET /echo", "rq mdef 1 g2, mrec m 5, minc m -98, mget m"),
    Row("histogram", "GET /echo", "rq mdef 2 h1, mrec m 10, minc m 1, mget m"),
    Row("same-again", "GET /echo", "rq mdef 0 c3, minc m 1, mdef 0 c3, minc m 1, mget m"),
    Row(
        "same-name-other-kind",
        "GET /echo",
        "rq mdef 0 both, minc m 7, mdef 1 both, mget m, mrec m 3, mget m, mdef 0 both, mget m",
    ),
    Row("unknown-kind", "GET /echo", "rq mdef 3 x, mdef 99 x"),
    Row(
        "unknown-id",
        "GET /echo",
        "rq minc 9999 1, mrec 9999 1, mget 9999, minc 0 1, mrec 0 1, mget 0, minc 3 1, mrec 3 1, mget 3",
    ),
    Row(
        "names",
        "GET /echo",
        "rq mdef 0 a.b.c, minc m 1, mget m, mdef 0 a%20b, minc m 2, mget m, mdef 0 %C3%A4, minc m 3, mget m",
    ),
    Row("over-requests", "GET /echo", "rq mdef 0 c1, mget m"),
    Row("in-the-log", "GET /echo", "lg mdef 0 c4, minc m 2, mget m ; dn mget m"),
];

pub(crate) const FOREIGN: &[Row] = &[
    Row("unknown", "GET /echo", "rq ff nothing x, ff ~ x"),
    Row("clear-route-cache", "GET /echo", "rq rep 0 :authority other, ff clear_route_cache"),
    Row("compress", "GET /echo", "rq ff compress hello, ff uncompress $"),
    Row("compress-nothing", "GET /echo", "rq ff compress ~, ff uncompress $"),
    Row("uncompress-garbage", "GET /echo", "rq ff uncompress garbage, ff uncompress ~"),
    Row(
        "declare-property",
        "GET /echo",
        "rq ff declare_property %0A%05mine1, setprop mine1 a, prop mine1, setprop mine1 b, prop mine1, ff declare_property %0A%05mine1",
    ),
    Row(
        "declare-read-only",
        "GET /echo",
        "rq ff declare_property %0A%05mine2%10%01, setprop mine2 a, prop mine2, setprop mine2 b, prop mine2",
    ),
    Row("declare-string", "GET /echo", "rq ff declare_property %0A%05mine3%18%01, setprop mine3 text, prop mine3"),
    Row("declare-garbage", "GET /echo", "rq ff declare_property %FF%FF, ff declare_property ~"),
    Row("set-filter-state-garbage", "GET /echo", "rq ff set_envoy_filter_state %FF, ff set_envoy_filter_state ~"),
    Row(
        "set-filter-state-unknown",
        "GET /echo",
        "rq ff set_envoy_filter_state %0A%03abc%12%01x, prop filter_state.abc",
    ),
    Row(
        "set-filter-state-known",
        "GET /echo",
        "rq ff set_envoy_filter_state %0A%22envoy.network.upstream_server_name%12%03abc, prop filter_state.envoy%2Enetwork%2Eupstream_server_name",
    ),
    Row("expr-garbage", "GET /echo", "rq ff expr_create %28%28, ff expr_evaluate 12, ff expr_delete 12"),
    Row("expr", "GET /echo", "rq ff expr_create 1%2B1, ff expr_evaluate %00%00%00%00"),
    Row("sign-garbage", "GET /echo", "rq ff sign %FF"),
];

pub(crate) const SYSTEM: &[Row] = &[
    Row(
        "log-levels",
        "GET /echo",
        "rq log 2 {case}%20info, log 3 {case}%20warn, log 4 {case}%20error, log 5 {case}%20critical",
    ),
    Row("log-nothing", "GET /echo", "rq log 2 ~"),
    Row("log-newline", "GET /echo", "rq log 2 {case}%20a%0Ab"),
    Row("output", "GET /echo", "rq out {case}%20out%0A, err {case}%20err%0A"),
    Row("output-in-pieces", "GET /echo", "rq out {case}%20one, out %20two%0A"),
    Row("time", "GET /echo", "rq time"),
    Row("environment", "GET /echo", "rq env NAME, env EMPTY, env PATH, env ABSENT"),
    Row("no-arguments", "GET /echo", "rq args"),
    Row("no-files", "GET /echo", "rq file /etc/passwd, file relative"),
    Row("configurations", "GET /echo", "rq buf 6 0 100, buf 7 0 100 ; lg buf 6 0 100"),
    Row("tick-of-nothing", "GET /echo", "rq tick 0"),
];

pub(crate) const HOSTILE: &[Row] = &[
    Row(
        "get-value",
        "GET /echo",
        "rq raw get_header_map_value 0 4294967295 5 16 20, raw get_header_map_value 0 0 4294967295 16 20, raw get_header_map_value 0 1024 5 4294967295 16",
    ),
    Row(
        "get-pairs",
        "GET /echo",
        "rq raw get_header_map_pairs 0 4294967295 16, raw get_header_map_pairs 0 16 4294967295, raw get_header_map_pairs 0 4294967292 16",
    ),
    Row(
        "add-value",
        "GET /echo",
        "rq raw add_header_map_value 0 4294967295 2 1024 2, raw add_header_map_value 0 1024 2 4294967295 2, raw add_header_map_value 0 1024 4294967295 1024 2",
    ),
    Row("set-pairs", "GET /echo", "rq raw set_header_map_pairs 0 4294967295 8"),
    Row(
        "get-buffer",
        "POST /drain <<hello",
        "rqb1 raw get_buffer_bytes 0 0 5 4294967295 16, raw get_buffer_bytes 0 4294967295 4294967295 1024 1028",
    ),
    Row("set-buffer", "POST /drain <<hello", "rqb1 raw set_buffer_bytes 0 0 0 4294967295 5"),
    Row("log", "GET /echo", "rq raw log 2 4294967295 5, raw log 2 0 4294967295"),
    Row(
        "property",
        "GET /echo",
        "rq raw get_property 4294967295 5 16 20, raw set_property 4294967295 5 0 0, raw set_property 1024 4 4294967295 2",
    ),
    Row(
        "shared-data",
        "GET /echo",
        "rq raw set_shared_data 4294967295 5 0 0 0, raw get_shared_data 4294967295 5 16 20 24",
    ),
    Row(
        "queues",
        "GET /echo",
        "rq raw register_shared_queue 4294967295 5 16, raw dequeue_shared_queue 1 4294967295 16, raw enqueue_shared_queue 1 4294967295 5",
    ),
    Row("metrics", "GET /echo", "rq raw define_metric 0 4294967295 5 16, raw get_metric 4 4294967295"),
    Row(
        "reply",
        "GET /echo",
        "rq raw send_local_response 403 4294967295 5 0 0 0 0 0, raw send_local_response 403 0 0 4294967295 5 0 0 0, raw send_local_response 403 0 0 0 0 4294967295 5 0",
    ),
    Row(
        "call",
        "GET /echo",
        "rq raw http_call 4294967295 5 0 0 0 0 0 0 1000 16, raw http_call 1024 5 4294967295 5 0 0 0 0 1000 16",
    ),
    Row("foreign", "GET /echo", "rq raw call_foreign_function 4294967295 5 0 0 16 20"),
    Row(
        "level-and-time",
        "GET /echo",
        "rq raw get_log_level 4294967295, raw get_current_time_nanoseconds 4294967295, raw get_header_map_size 0 4294967295, raw get_buffer_status 0 4294967295 16, raw get_status 4294967295 16 20",
    ),
];
