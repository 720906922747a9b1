//! Call-outs.

use super::Row;

/// A request to `other`, in short.
macro_rules! to {
    ($path:literal) => {
        concat!(":method=GET&:path=", $path, "&:authority=other")
    };
}

pub(crate) const HTTP: &[Row] = &[
    Row(
        "ok",
        "GET /echo",
        concat!(
            "rq call other ",
            to!("/bytes/5"),
            " done, ret 1 ; done get 6 :status, get 6 content-length, buf 4 0 100, bufstat 4, eff, add 0 x-asked 1, cont 0"
        ),
    ),
    Row(
        "maps-after-effective-context",
        "GET /echo",
        concat!(
            "rq call other ",
            to!("/status/404"),
            " done, ret 1 ; done eff, get 6 :status, names 6, buf 4 0 100, get 7 x, pairs 7, cont 0"
        ),
    ),
    Row(
        "trailers",
        "GET /echo",
        concat!(
            "rq call other ",
            to!("/trailers"),
            " done, ret 1 ; done get 7 x-checksum, pairs 7, buf 4 0 9, eff, cont 0"
        ),
    ),
    Row(
        "with-body",
        "GET /echo",
        "rq call other :method=POST&:path=/drain&:authority=other done 5000 hello, ret 1 ; done buf 4 0 9, eff, cont 0",
    ),
    Row(
        "with-body-and-trailers",
        "GET /echo",
        "rq call other :method=POST&:path=/drain&:authority=other done 5000 hello x-t=1, ret 1 ; done buf 4 0 9, eff, cont 0",
    ),
    Row(
        "with-headers",
        "GET /echo",
        concat!(
            "rq call other ",
            to!("/drain"),
            "&X-Own=1&x-own=2&:scheme=https done, ret 1 ; done get 6 :status, eff, cont 0"
        ),
    ),
    Row(
        "read-only",
        "GET /echo",
        concat!(
            "rq call other ",
            to!("/bytes/5"),
            " done, ret 1 ; done add 6 x 1, rem 6 x, rep 6 x 1, set 6 a=b, setbuf 4 0 0 x, size 6, eff, cont 0"
        ),
    ),
    Row("unknown-upstream", "GET /echo", concat!("rq call nowhere ", to!("/"), " done, call ~ ", to!("/"), " done")),
    Row(
        "missing-fields",
        "GET /echo",
        "rq call other :method=GET&:path=/ done, call other :method=GET&:authority=x done, call other :path=/&:authority=x done, call other ~ done",
    ),
    Row(
        "host-is-authority",
        "GET /echo",
        "rq call other :method=GET&:path=/drain&host=me done, ret 1 ; done get 6 :status, eff, cont 0",
    ),
    Row("name-empty", "GET /echo", concat!("rq call other ", to!("/drain"), "&=1 done")),
    Row("path-without-slash", "GET /echo", "rq call other :method=GET&:path=drain&:authority=other done"),
    Row("path-empty", "GET /echo", "rq call other :method=GET&:path=&:authority=other done"),
    Row("method-with-space", "GET /echo", "rq call other :method=A%20B&:path=/drain&:authority=other done"),
    Row("authority-empty", "GET /echo", "rq call other :method=GET&:path=/drain&:authority= done"),
    Row("twice-the-same-name", "GET /echo", "rq call other :method=GET&:path=/drain&:path=/b&:authority=other done"),
    Row(
        "length-without-body",
        "GET /echo",
        concat!("rq call other ", to!("/drain"), "&content-length=5 done 300, ret 1 ; done get 6 :status, eff, cont 0"),
    ),
    Row(
        "with-connection",
        "GET /echo",
        concat!(
            "rq call other ",
            to!("/drain"),
            "&te=trailers&upgrade=x done, ret 1 ; done get 6 :status, eff, cont 0"
        ),
    ),
    Row("negative-timeout", "GET /echo", concat!("rq call other ", to!("/"), " done -1")),
    Row(
        "refused",
        "GET /echo",
        concat!(
            "rq call refused ",
            to!("/"),
            " done, ret 1 ; done get 6 :status, get 6 content-type, status, eff, cont 0"
        ),
    ),
    Row(
        "timeout",
        "GET /echo",
        concat!("rq call other ", to!("/silent"), " done 50, ret 1 ; done get 6 :status, buf 4 0 99, eff, cont 0"),
    ),
    Row(
        "connection-lost",
        "GET /echo",
        concat!("rq call other ", to!("/abort"), " done, ret 1 ; done get 6 :status, eff, cont 0"),
    ),
    Row(
        "truncated",
        "GET /echo",
        concat!(
            "rq call other ",
            to!("/truncate"),
            " done, ret 1 ; done get 6 :status, pairs 6, buf 4 0 9, status, eff, cont 0"
        ),
    ),
    Row(
        "chained",
        "GET /echo",
        concat!(
            "rq call other ",
            to!("/bytes/1"),
            " a, ret 1 ; a eff, call other ",
            to!("/bytes/2"),
            " b ; b eff, add 0 x-both 1, cont 0"
        ),
    ),
    Row(
        "chained-from-the-root",
        "GET /echo",
        concat!("rq call other ", to!("/bytes/1"), " a, ret 1 ; a call other ", to!("/bytes/2"), " b ; b eff, cont 0"),
    ),
    Row(
        "from-response-headers",
        "GET /bytes/3",
        concat!("rs call other ", to!("/bytes/1"), " a, ret 1 ; a eff, add 2 x-asked 1, cont 1"),
    ),
    Row(
        "from-request-body",
        "POST /echo <hello",
        concat!(
            "rqb1 ret 1 ; rqbe call other ",
            to!("/bytes/1"),
            " a, ret 1 ; a eff, buf 0 0 9, setbuf 0 0 5 HELLO, cont 0"
        ),
    ),
    Row(
        "from-response-body",
        "GET /bytes/3",
        concat!("rsb1 ret 1 ; rsbe call other ", to!("/bytes/1"), " a, ret 1 ; a eff, bufstat 1, cont 1"),
    ),
    Row("from-the-log", "GET /bytes/3", concat!("lg call other ", to!("/bytes/1"), " a ; a log 2 {case}%20never")),
    Row("outlives-the-stream", "GET /bytes/3", concat!("rq call other ", to!("/silent"), " a 500 ; a get 6 :status")),
    Row(
        "reply-from-the-answer",
        "GET /echo",
        concat!(
            "rq call other ",
            to!("/status/403"),
            " a, ret 1 ; a get 6 :status, eff, reply 403 denied no ~ ; rs get 2 :status"
        ),
    ),
    Row(
        "reply-without-context",
        "GET /echo",
        concat!("rq call other ", to!("/status/403"), " a, ret 1 ; a reply 403 denied no ~, cont 0, eff, cont 0"),
    ),
    Row("outside-the-callback", "GET /echo", "rq get 6 :status, pairs 6, buf 4 0 9, status"),
    Row(
        "properties-in-the-callback",
        "GET /echo",
        concat!(
            "rq call other ",
            to!("/bytes/1"),
            " a, ret 1 ; a prop request.path, eff, prop request.path, prop request.method, setprop own 1, cont 0 ; lg prop own"
        ),
    ),
];

pub(crate) const GRPC: &[Row] = &[
    Row("call-unary-error", "GET /echo", "rq gcall grpc grpc 5 done abc, ret 1 ; done status, eff, cont 0"),
    Row("call-refused", "GET /echo", "rq gcall grpc grpc-refused 5 done abc, ret 1 ; done status, eff, cont 0"),
    Row("call-ok-without-message", "GET /echo", "rq gcall grpc grpc 0 done abc, ret 1 ; done status, eff, cont 0"),
    Row("stream-error", "GET /echo", "rq gstream grpc grpc 3 s, gsend k abc 1, ret 1 ; s.close status, eff, cont 0"),
    Row("stream-cancel", "GET /echo", "rq gstream grpc grpc 3 s, gcancel k"),
    Row("unknown-upstream", "GET /echo", "rq gcall nowhere s m done, gstream nowhere s m done"),
    Row(
        "unknown-ids",
        "GET /echo",
        "rq gcancel 999, gclose 999, gsend 999 x 0, gsend 4 x 0, gsend 998 x 0, gcancel 4, gclose 4",
    ),
    Row("refused", "GET /echo", "rq gcall refused s m done abc, ret 1 ; done status, eff, cont 0"),
    Row(
        "stream-messages",
        "GET /echo",
        "rq gstream grpc mirror x s x-own=1, gsend k abc 0, ret 1 ; s.message buf 5 0 9, gsend k def 1 ; s.close status, eff, cont 0",
    ),
    Row("stream-close", "GET /echo", "rq gstream grpc mirror x s, gclose k, ret 1 ; s.close status, eff, cont 0"),
    Row(
        "stream-initial-metadata",
        "GET /echo",
        "rq gstream grpc grpc 0 s, gsend k abc 1, ret 1 ; s.initial get 4 :status, get 4 content-type ; s.trailing get 5 grpc-status, get 5 absent ; s.close eff, cont 0",
    ),
    Row(
        "stream-refused",
        "GET /echo",
        "rq gstream refused a b s, gsend k abc 1, ret 1 ; s.initial pairs 4 ; s.close status, eff, cont 0",
    ),
    Row(
        "stream-http-error",
        "GET /echo",
        "rq gstream grpc status 404 s, gsend k abc 1, ret 1 ; s.initial pairs 4 ; s.trailing pairs 5 ; s.close status, eff, cont 0",
    ),
    Row("call-timeout", "GET /echo", "rq gcall grpc silent x done abc ~ 100, ret 1 ; done status, eff, cont 0"),
    Row("call-http-error", "GET /echo", "rq gcall grpc status 404 done abc, ret 1 ; done status, eff, cont 0"),
    Row("stream-from-the-log", "GET /bytes/1", "lg gstream grpc grpc 3 s, gsend k abc 1"),
];
