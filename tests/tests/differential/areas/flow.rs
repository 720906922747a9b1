//! Pausing and resuming; the life of contexts.

use super::Row;

pub(crate) const PAUSES: &[Row] = &[
    Row("tick-resumes-request", "GET /echo", "rq later go, ret 1 ; go eff, add 0 x-late 1, get 0 :path, cont 0"),
    Row(
        "tick-resumes-post",
        "POST /echo <hello",
        "rq later go, ret 1 ; go eff, add 0 x-late 1, cont 0 ; rqb buf 0 0 9",
    ),
    Row("tick-resumes-chunked", "POST /echo <<hel|lo", "rq later go, ret 1 ; go eff, cont 0 ; rqb buf 0 0 9"),
    Row(
        "tick-resumes-trailers",
        "POST /echo <<hel|lo >>x-t:1",
        "rq later go, ret 1 ; go eff, cont 0 ; rqb buf 0 0 9 ; rqt get 1 x-t",
    ),
    Row(
        "tick-resumes-body",
        "POST /echo <hello",
        "rqb1 ret 1 ; rqbe later go, ret 1 ; go eff, buf 0 0 9, setbuf 0 0 5 HELLO, cont 0",
    ),
    Row("tick-resumes-response", "GET /bytes/3", "rs later go, ret 1 ; go eff, add 2 x-late 1, get 2 :status, cont 1"),
    Row(
        "tick-resumes-response-body",
        "GET /bytes/3",
        "rsb1 ret 1 ; rsbe later go, ret 1 ; go eff, bufstat 1, setbuf 1 0 3 abc, cont 1",
    ),
    Row("tick-resumes-response-pieces", "GET /bytes/3", "rs later go, ret 1 ; go eff, cont 1 ; rsb bufstat 1"),
    Row(
        "response-headers-after-their-resume",
        "GET /bytes/3",
        "rs later go, ret 1 ; go eff, cont 1 ; rsb ret 1 ; rsbe get 2 :status, names 2, get 2 x-app, ret 0",
    ),
    Row(
        "response-headers-after-their-resume-in-trailers",
        "GET /trailers te:trailers",
        "rs later go, ret 1 ; go eff, cont 1 ; rst get 2 :status, get 2 x-app",
    ),
    Row("without-effective-context", "GET /echo", "rq later go, ret 1 ; go cont 0, eff, cont 0"),
    Row("twice", "GET /echo", "rq later go, ret 1 ; go eff, cont 0, cont 0, get 0 :path"),
    Row("other-direction", "GET /echo", "rq later go, ret 1 ; go eff, cont 1, cont 0"),
    Row("not-paused", "GET /echo", "rq cont 0, ret 1"),
    Row("unknown-stream", "GET /echo", "rq cont 2, cont 3, cont 4, cont 99"),
    Row("header-answer-2", "GET /echo", "rq ret 2"),
    Row("header-answer-3", "GET /echo", "rq later go, ret 3 ; go eff, cont 0"),
    Row("header-answer-4", "GET /echo", "rq later go, ret 4 ; go eff, cont 0"),
    Row("header-answer-9", "GET /echo", "rq later go, ret 9 ; go eff, cont 0"),
    Row("response-answer-2", "GET /bytes/3", "rs ret 2"),
    Row("response-answer-4", "GET /bytes/3", "rs later go, ret 4 ; go eff, cont 1"),
    Row("both-halves", "POST /echo <abc", "rq later a, ret 1 ; a eff, cont 0 ; rs later b, ret 1 ; b eff, cont 1"),
    Row(
        "all-phases",
        "POST /echo <<abc >>x-t:1",
        "rq later a, ret 1 ; a eff, cont 0 ; rqb ret 1 ; rqt later b, ret 1 ; b eff, cont 0 ; rs later c, ret 1 ; c eff, cont 1",
    ),
    Row(
        "headers-while-held",
        "GET /echo x-a:1",
        "rq later go, ret 1 ; go get 0 x-a, eff, get 0 x-a, rep 0 x-a 2, rem 0 x-b, set 0 :method=GET&:path=/echo&:authority=app&:scheme=http&x-forwarded-proto=http&x-n=1, pairs 0, cont 0",
    ),
    Row("close-from-a-tick", "GET /echo", "rq later go, ret 1 ; go eff, close 0"),
    Row("close", "GET /echo", "rq close 0, ret 1"),
    Row("close-of-grpc", "POST /a/b content-type:application/grpc <abc", "rq close 0, ret 1"),
    Row("close-response", "GET /echo", "rs close 1, ret 1"),
    Row("close-response-in-the-log", "GET /bytes/3", "rs close 1, ret 1 ; lg get 2 :status"),
    Row("close-unknown", "GET /echo", "rq close 2, close 3, close 99"),
];

pub(crate) const LIFE: &[Row] = &[
    Row(
        "order",
        "POST /echo <abc",
        "rq log 2 {case}%20a ; rs log 2 {case}%20b ; lg log 2 {case}%20c ; dn log 2 {case}%20d ; dl log 2 {case}%20e",
    ),
    Row("done-answers-false", "GET /echo", "dn ret 0, done ; dl done"),
    Row("done-in-a-callback", "GET /echo", "rq done"),
    Row(
        "effective-context",
        "GET /echo",
        "rq eff root, get 0 :path, eff own, get 0 :path, eff 99999, eff 0, get 0 :path",
    ),
    Row("effective-context-in-the-log", "GET /echo", "lg eff root, eff own, get 0 :path"),
    Row("too-late", "GET /echo", "lg later go ; go log 2 {case}%20never"),
    Row("client-error", "GET /status/404", "rs get 2 :status"),
    Row("unreachable", "GET /echo host:refused", "rs get 2 :status ; lg get 2 :status"),
];
