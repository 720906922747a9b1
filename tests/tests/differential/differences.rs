//! Where we mean to differ.

/// Cases in which we do not do what Envoy does.
pub(crate) struct Difference {
    /// The cases.
    pub(crate) cases: &'static [&'static str],
    /// What a line of Envoy's outcome has.
    pub(crate) envoy: &'static str,
    /// What a line of ours has.
    pub(crate) lacis: &'static str,
    /// Why.
    #[expect(dead_code, reason = "for whoever reads the table")]
    pub(crate) why: &'static str,
}

/// All of them. One that is none any more fails the suite.
pub(crate) const DIFFERENCES: &[Difference] = &[
    Difference {
        cases: &["request-headers/joined-by-the-library", "request-headers/add-to-accept"],
        envoy: "app: field accept: a,b",
        lacis: "app: field accept: b",
        why: "two lines are kept two lines; one with a comma says the same (RFC 9110 5.2)",
    },
    Difference {
        cases: &["request-headers/add-to-content-type"],
        envoy: "content-type=a,b",
        lacis: "content-type=a content-type=b",
        why: "as for accept",
    },
    Difference {
        cases: &["request-headers/add-to-user-agent"],
        envoy: "user-agent=a,b",
        lacis: "user-agent=a user-agent=b",
        why: "as for accept",
    },
    Difference {
        cases: &["request-headers/add-to-cookie"],
        envoy: "app: field cookie: b=2",
        lacis: "app: field cookie: a=1; b=2",
        why: "one Cookie line goes out (RFC 6265 5.4, RFC 9113 8.2.3)",
    },
    Difference {
        cases: &["request-headers/set-all-without-forwarded-proto"],
        envoy: "status 404",
        lacis: "status 200",
        why: "Envoy finds no route for a request without x-forwarded-proto, which it makes itself; we need none",
    },
    Difference {
        cases: &[
            "request-headers/set-all-without-method",
            "request-headers/remove-method",
            "request-headers/name-with-space",
            "request-headers/name-with-colon",
            "request-headers/name-with-newline",
            "request-headers/name-with-nul",
            "request-headers/name-empty",
            "request-headers/value-with-newline",
            "request-headers/value-with-line-feed",
            "request-headers/value-with-nul",
        ],
        envoy: "status 503",
        lacis: "status 500",
        why: "a filter that leaves what cannot be sent is a defect of the filter, not of the service: 500 (filter_invalid), \
              which no client repeats",
    },
    Difference {
        cases: &[
            "request-headers/set-all-without-path",
            "request-headers/set-all-without-authority",
            "request-headers/set-all-of-nothing",
            "request-headers/set-all-of-lies",
            "request-headers/remove-path",
            "request-headers/remove-authority",
            "request-headers/path-without-slash",
            "request-headers/path-absolute",
            "request-headers/path-empty",
        ],
        envoy: "status 404",
        lacis: "status 500",
        why: "as above: what is missing is no route but a part of the request",
    },
    Difference {
        cases: &[
            "response-headers/set-all-without-status",
            "response-headers/remove-status",
            "response-headers/add-status",
            "response-headers/status-of-letters",
            "response-headers/status-empty",
        ],
        envoy: "status 502",
        lacis: "status 500",
        why: "as above",
    },
    Difference {
        cases: &["request-headers/method-with-space"],
        envoy: "app: A B 0 bytes",
        lacis: "status 500",
        why: "Envoy shifts the request line: request smuggling",
    },
    Difference { cases: &["request-headers/method-empty"], envoy: "app:  /echo", lacis: "status 500", why: "as above" },
    Difference {
        cases: &["request-headers/path-with-space"],
        envoy: "app: GET /echo",
        lacis: "status 500",
        why: "as above",
    },
    Difference {
        cases: &["request-headers/authority-with-space"],
        envoy: "field host: a b",
        lacis: "status 500",
        why: "no valid Host (RFC 9112 3.2)",
    },
    Difference {
        cases: &["request-headers/scheme-own"],
        envoy: "get 0 'ftp'",
        lacis: "status 500",
        why: "there are the schemes http and https here",
    },
    Difference {
        cases: &["response-headers/value-with-newline"],
        envoy: "field x-b: 2",
        lacis: "status 500",
        why: "Envoy's response is split",
    },
    Difference {
        cases: &["response-headers/value-with-nul"],
        envoy: "status 200",
        lacis: "status 500",
        why: "as above: no value has a NUL (RFC 9110 5.5)",
    },
    Difference {
        cases: &["response-headers/name-with-space", "response-headers/name-empty"],
        envoy: "no whole response",
        lacis: "status 500",
        why: "Envoy sends a head that is none",
    },
    Difference {
        cases: &["replies/value-with-newline"],
        envoy: "field x-b: 2",
        lacis: "status 403",
        why: "Envoy's response is split; we leave the field out",
    },
    Difference {
        cases: &["request-headers/path-with-fragment"],
        envoy: "app: GET /echo#part",
        lacis: "app: GET /echo",
        why: "a fragment is never sent (RFC 9112 3.2)",
    },
    Difference {
        cases: &["request-headers/method-own"],
        envoy: "app: field content-length: 0",
        lacis: "app: BREW /echo",
        why: "a request without a body needs no length (RFC 9110 8.6)",
    },
    Difference {
        cases: &["request-headers/scheme-of-the-client"],
        envoy: "get 0 'https'",
        lacis: "get 0 'http'",
        why: "what a client says of its connection is not believed",
    },
    Difference {
        cases: &["request-headers/unknown-pseudo"],
        envoy: "get 0 '1'",
        lacis: "get 1 ''",
        why: "a pseudo-header that is not sent anyway is not kept",
    },
    Difference {
        cases: &["request-headers/connection"],
        envoy: "app: field connection: x-y",
        lacis: "get 1 ''",
        why: "the connection is not the filter's (RFC 9110 7.6.1)",
    },
    Difference {
        cases: &["request-headers/keep-alive"],
        envoy: "app: field keep-alive: 5",
        lacis: "status 200",
        why: "as above",
    },
    Difference {
        cases: &["response-headers/set-transfer-encoding", "response-headers/set-connection"],
        envoy: "| add 0 | get 0",
        lacis: "| add 0 | get 1",
        why: "as above",
    },
    Difference {
        cases: &["response-headers/chunked", "response-headers/upstream-closes"],
        envoy: "rs 1 0 | get 0",
        lacis: "rs 1 0 | get 1",
        why: "as above: framing and connection of another hop are no part of the message",
    },
    Difference {
        cases: &["request-headers/expect"],
        envoy: "get 1 ''",
        lacis: "get 0 '100-continue'",
        why: "the server is asked, not the proxy (RFC 9110 10.1.1)",
    },
    Difference {
        cases: &["response-headers/remove-length-of-head"],
        envoy: "field transfer-encoding: chunked",
        lacis: "status 200",
        why: "nothing says how the body of another method would be framed",
    },
    Difference {
        cases: &["response-headers/server-failed"],
        envoy: "status 503",
        lacis: "status 502",
        why: "answers of our own: status and proxy-status of RFC 9209, a fixed text",
    },
    Difference {
        cases: &["idle/silent-service"],
        envoy: "body \"stream timeout",
        lacis: "body \"http_response_timeout",
        why: "as above",
    },
    Difference {
        cases: &["life/unreachable", "properties/upstream-failed"],
        envoy: "body \"upstream connect error",
        lacis: "body \"connection_refused",
        why: "as above",
    },
    Difference {
        cases: &["replies/from-request-body"],
        envoy: "field connection: close",
        lacis: "status 422",
        why: "a short rest of a request is read, and the connection goes on",
    },
    Difference {
        cases: &["pauses/other-direction"],
        envoy: "the proxy died",
        lacis: "status 200",
        why: "Envoy dies when a response is resumed that is not there",
    },
    Difference {
        cases: &["replies/from-the-root"],
        envoy: "no whole response",
        lacis: "status 200",
        why: "Envoy stops the request for a reply that nobody gives, and it hangs",
    },
    Difference {
        cases: &["grpc-calls/unknown-ids"],
        envoy: "gcancel 2 | gclose 2",
        lacis: "gcancel 1 | gclose 1",
        why: "the Rust SDK panics on 2 and takes 1",
    },
    Difference {
        cases: &["grpc-calls/call-unary-error", "grpc-calls/stream-error"],
        envoy: "said so{via_upstream}'",
        lacis: "said so'",
        why: "what the server has not said is not in its message; how a call ended is told by logs and metrics",
    },
    Difference {
        cases: &["grpc-calls/stream-close", "grpc-calls/call-http-error", "grpc-calls/stream-http-error"],
        envoy: " via_upstream'",
        lacis: "status 0 '",
        why: "as above",
    },
    Difference {
        cases: &["grpc-calls/refused", "grpc-calls/call-timeout", "grpc-calls/stream-refused"],
        envoy: "{",
        lacis: "status 0 '14 upstream ",
        why: "as above",
    },
    Difference {
        cases: &["grpc-calls/call-refused"],
        envoy: "'5 said%2520so{via_upstream}'",
        lacis: "'5 said so'",
        why: "as above, and a message is percent-encoded on the wire only (gRPC over HTTP/2, \"Status-Message\")",
    },
    Difference {
        cases: &["hostile/queues"],
        envoy: "raw 6 | raw 7 | raw 6",
        lacis: "raw 6 | raw 6 | raw 6",
        why: "where an item goes is looked at before the queue, so that none is lost",
    },
    Difference {
        cases: &["foreign/set-filter-state-known"],
        envoy: "ff 0 '' | prop 0 'abc'",
        lacis: "ff 1 '' | prop 1 ''",
        why: "keys that steer Envoy's own filters mean nothing here, and to say otherwise would deceive",
    },
    Difference {
        cases: &["foreign/expr-garbage", "foreign/expr"],
        envoy: "ff ",
        lacis: "ff 1",
        why: "`expr_*` is left out: an expression would run outside the guest's limits of time and memory; a filter reads \
              the properties that it needs, and decides by them itself",
    },
    Difference {
        cases: &["foreign/sign-garbage"],
        envoy: "ff 2",
        lacis: "ff 1",
        why: "left out: a private key in a filter is one too many, and an RSA signature holds up a worker for milliseconds",
    },
    Difference {
        cases: &["properties/request-in-later-phases", "properties/request-in-done"],
        envoy: "prop 1 ''",
        lacis: "prop 0 '/",
        why: "what is known of the request is there for its whole life (envoyproxy/envoy#24194 asks for it)",
    },
    Difference {
        cases: &["inbound/request"],
        envoy: "prop 0 'https'",
        lacis: "prop 0 'http'",
        why: "the scheme is that of the applications' request, which is plain HTTP at both ends; TLS is the link's",
    },
    Difference {
        cases: &["properties/upstream-too-early"],
        envoy: "prop 0 '%01%00%00%00%00%00%00%00'",
        lacis: "prop 0 '%00%00%00%00%00%00%00%00' | prop 1 '' | prop 1 ''",
        why: "the destination is chosen after the filters, so how many endpoints it has is not known (num_endpoints)",
    },
    Difference {
        cases: &["properties/upstream"],
        envoy: "| propn 0 '#8' => 0",
        lacis: "| propn 1 '#0' => 0",
        why: "not known here: how long the pool took for a connection; to know it costs each request a look at the clock",
    },
    Difference {
        cases: &["properties/old-names"],
        envoy: "| prop 1 ''",
        lacis: "| prop 0 'node-1'",
        why: "the names of Envoy before 1.33 are kept: filters of Istio and Higress read them",
    },
    Difference {
        cases: &["set-properties/several-segments"],
        envoy: "setprop 0 | prop 1 ''",
        lacis: "setprop 0 | prop 0 'x'",
        why: "what was stored can be read back",
    },
    Difference {
        cases: &["held/released-by-a-piece"],
        envoy: "rqb 0 1 | get 0 '/echo'",
        lacis: "rqb 0 1 | get 2 ''",
        why: "headers that have gone on cannot be reached, however they went; Envoy forgets to take them away here",
    },
    Difference {
        cases: &["bodies/changed-after-its-resume-at-once"],
        envoy: "cont 0 | buf 0 '' | setbuf 2",
        lacis: "cont 0 | buf 0 'hello' | setbuf 0",
        why: "a body is in hand until its callback returns, whether it was buffered before, as Envoy wants it, or not",
    },
    Difference {
        cases: &["bodies/end-of-stream"],
        envoy: "log one: rqb 0 1 | buf 0 '' => 0",
        lacis: "log one: rqb 5 1 | buf 0 'hello' => 0",
        why: "an end that is known, by content-length or by the frame, is shown with the content before it: one callback \
              where Envoy makes two over HTTP/1. Over HTTP/2 it makes one, too, where the peer says the end with its last \
              DATA, so there is no filter that cannot do with one",
    },
    Difference {
        cases: &["bodies/end-of-stream-response"],
        envoy: "log one: rsb 0 1 | buf 0 '' => 0",
        lacis: "log one: rsb 5 1 | buf 0 '%00%01%02%03%04' => 0",
        why: "as above",
    },
    Difference {
        cases: &[
            "traps/request-headers",
            "traps/request-body",
            "traps/response-headers",
            "traps/exit",
            "traps/after-a-reply",
        ],
        envoy: "status 503",
        lacis: "body \"filter_trap",
        why: "the same status, and why",
    },
    Difference {
        cases: &["fails-open/request-headers"],
        envoy: "status 503",
        lacis: "status 200",
        why: "open means that no request is lost to a filter: not the one that it traps on either",
    },
    Difference {
        cases: &["grpc-calls/stream-messages"],
        envoy: "buf 0 'def' | gsend 0",
        lacis: "buf 0 'def' | gsend 2",
        why: "a message after the end of the stream is lost in Envoy; we say so",
    },
];
