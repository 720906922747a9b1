//! Two filters, `script [b] script`, and one that may hold its headers alone.

use super::Row;

pub(crate) const CHAIN: &[Row] = &[
    Row("order", "POST /echo <abc", "rq log 2 {case}%20a [b] rq log 2 {case}%20b"),
    Row("headers-go-on", "GET /echo", "rq add 0 x-a 1, rep 0 :path /echo?a [b] rq get 0 x-a, get 0 :path, add 0 x-b 2"),
    Row("responses-come-back", "GET /bytes/3", "rs get 2 x-b, add 2 x-a 1 [b] rs add 2 x-b 2, get 2 x-a"),
    Row("bodies-go-on", "POST /echo <hello", "rqb ret 1 ; rqbe setbuf 0 0 5 HELLO [b] rqb ret 1 ; rqbe buf 0 0 9"),
    Row(
        "bodies-come-back",
        "GET /bytes/3",
        "rsb ret 1 ; rsbe buf 1 0 9, ret 0 [b] rsb ret 1 ; rsbe setbuf 1 0 3 abc, ret 0",
    ),
    Row("first-pauses", "GET /echo", "rq later go, ret 1 ; go eff, add 0 x-a 1, cont 0 [b] rq get 0 x-a"),
    Row("second-pauses", "GET /echo", "rq add 0 x-a 1 [b] rq later go, ret 1 ; go eff, get 0 x-a, cont 0"),
    Row("first-answers", "GET /echo", "rq reply 403 ~ no ~, ret 1 [b] rq log 2 {case}%20never"),
    Row(
        "second-answers",
        "GET /echo",
        "rs get 2 :status, add 2 x-a 1 [b] rq reply 403 ~ no ~, ret 1 ; rs get 2 :status",
    ),
    Row("second-answers-the-body", "POST /echo <abc", "rs get 2 :status [b] rqb ret 1 ; rqbe reply 403 ~ no ~, ret 1"),
    Row("second-answers-the-response", "GET /bytes/3", "rs log 2 {case}%20never [b] rs reply 503 ~ no ~, ret 1"),
    Row("first-answers-the-response", "GET /bytes/3", "rs reply 503 ~ no ~, ret 1 [b] rs get 2 :status"),
    // Without a script of its request the second does what it is configured with.
    Row("second-is-not-reached", "GET /echo", "rq reply 403 ~ no ~, ret 1"),
    Row("second-has-logged-it", "GET /echo", "rq sget logged, sset logged 0 0, close 0, ret 1"),
    Row("second-has-logged-a-close", "GET /echo", "rq sget logged"),
    Row(
        "properties-are-shared",
        "GET /bytes/3",
        "rq setprop mine 1 ; lg prop mine [b] rq prop mine, setprop mine 2 ; rs prop mine",
    ),
    Row("data-is-shared", "GET /bytes/3", "rq sset chain a 0 [b] rq sget chain, sset chain b c ; lg sget chain"),
    Row("metrics-of-one-name", "GET /bytes/3", "rq mdef 0 own, minc m 1 [b] rq mdef 0 own, minc m 2, mget m"),
    Row("names", "GET /bytes/3", "rq prop plugin_name, prop plugin_root_id, prop plugin_vm_id [b] rq prop plugin_name"),
    Row("trailers-go-on", "POST /echo <<abc >>x-t:1", "rqt add 1 x-a 1 [b] rqt get 1 x-a, pairs 1"),
    Row("both-pause", "GET /echo", "rq later go, ret 1 ; go eff, cont 0 [b] rq later go, ret 1 ; go eff, cont 0"),
    Row(
        "both-pause-the-response",
        "GET /bytes/3",
        "rs later go, ret 1 ; go eff, cont 1 [b] rs later go, ret 1 ; go eff, cont 1",
    ),
];

/// With `allow_on_headers_stop_iteration`.
pub(crate) const HELD: &[Row] = &[
    Row(
        "body-before-headers",
        "POST /echo <hello",
        "rq ret 1 ; rqb ret 1 ; rqbe rem 0 content-length, add 0 x-late 1, get 0 :path, setbuf 0 0 5 goodbye",
    ),
    Row("released-by-a-piece", "POST /echo <<hello", "rq ret 1 ; rqb1 get 0 :path ; rqbe get 0 :path"),
    Row(
        "changed-after-a-piece",
        "POST /echo <<hello >>x-t:1",
        "rq ret 1 ; rqb1 add 0 x-too-late 1 ; rqt add 0 x-too-late 2, get 0 x-too-late",
    ),
    Row(
        "response-changed-after-a-piece",
        "GET /trailers te:trailers",
        "rs ret 1 ; rsb1 get 2 :status ; rst add 2 x-too-late 2, get 2 x-too-late, rep 2 :status 404, get 2 :status",
    ),
    Row("no-body", "GET /echo", "rq later go, ret 1 ; go eff, add 0 x-late 1, cont 0"),
    Row("stop-all", "POST /echo <hello", "rq later go, ret 4 ; rqb buf 0 0 9 ; go eff, cont 0"),
    Row("response", "GET /bytes/3", "rs ret 1 ; rsb ret 1 ; rsbe rep 2 :status 418, get 2 :status, ret 0"),
    Row("response-by-a-tick", "HEAD /bytes/3", "rs later go, ret 1 ; go eff, add 2 x-late 1, cont 1"),
    Row("trailers", "POST /echo <<abc >>x-t:1", "rq ret 1 ; rqb ret 1 ; rqt add 0 x-late 1, get 1 x-t"),
    Row(
        "answer-from-the-body",
        "POST /echo <hello",
        "rq ret 1 ; rqb ret 1 ; rqbe reply 403 ~ no ~, ret 1 ; rs get 2 :status",
    ),
    Row("answer-from-the-response-body", "GET /bytes/3", "rs ret 1 ; rsb ret 1 ; rsbe reply 503 ~ no ~, ret 1"),
    Row(
        "body-and-call",
        "POST /echo <hello",
        "rq ret 1 ; rqb ret 1 ; rqbe call other :method=GET&:path=/bytes/1&:authority=other a, ret 1 ; a eff, add 0 x-late 1, buf 0 0 9, cont 0",
    ),
];

/// Each with a filter of its own, which it kills.
pub(crate) const TRAPS: &[Row] = &[
    Row("request-headers", "GET /echo", "rq trap"),
    Row("request-body", "POST /echo <abc", "rqb trap"),
    Row("response-headers", "GET /bytes/3", "rs trap"),
    Row("log", "GET /bytes/3", "lg trap"),
    Row("exit", "GET /echo", "rq exit 0"),
    Row("after-a-reply", "GET /echo", "rq reply 403 ~ no ~, trap"),
];

/// The same with a filter that fails open.
pub(crate) const OPEN: &[Row] =
    &[Row("request-headers", "GET /bytes/3", "rq trap"), Row("log", "GET /bytes/3", "lg trap")];
