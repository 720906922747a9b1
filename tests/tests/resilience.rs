//! Retries, limits and ejection, with backends that fail, hang and recover. Backends count by request id: what is not
//! safe to repeat must arrive once.

mod backends;
#[path = "resilience/chaos.rs"]
mod chaos;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use backends::{Act, Backend, Net, OK, lock};
use lacis_tests::client::{self, Client};
use lacis_tests::{Link, Mesh, on_links, until, unused};
use serde_json::{Value, json};

on_links! {
    /// By method, by key, by the word of the service; and with the body as it was.
    [H2, H3] fn an_answer_is_asked_for_again_only_where_that_is_harmless(link) {
        let backend = Backend::new(|_, before| if before == 0 { Act::Answer(503, &[]) } else { OK });
        let retries = json!({"retries": {"on": ["connect_failure", "refused_stream", 503], "body": "100KiB"}});
        let net = Net::new(link, &[&backend], retries);

        assert_eq!(net.get("get").status(), 200);
        let attempts: Vec<_> = backend.of("get").iter().map(|seen| seen.attempt).collect();
        assert_eq!(attempts, [Some(1), Some(2)]);
        let record = net.alpha.access("the repeated one", |record| record["request_id"] == "get");
        assert_eq!((&record["attempts"], &record["response_code"]), (&json!(2), &json!(200)));
        net.alpha.counts(1.0, "lacis_retries_total", &[("destination", "delta"), ("cause", "503")]);

        let answer = net.send("POST", "paid", &[], Some(b"once"));
        assert_eq!((answer.status(), backend.of("paid").len()), (503, 1), "nobody pays twice");

        // 100 KiB are kept, and not a byte more.
        let body: Vec<u8> = (0..100 * 1024 + 1).map(|i| (i % 251) as u8).collect();
        let key = [("idempotency-key", "k")];
        assert_eq!(net.send("POST", "fits", &key, Some(&body[1..])).status(), 200);
        let bodies: Vec<_> = backend.of("fits").into_iter().map(|seen| seen.body == body[1..]).collect();
        assert_eq!(bodies, [true, true]);
        assert_eq!(net.send("POST", "long", &key, Some(&body)).status(), 503);
        assert_eq!(backend.of("long").len(), 1);
        assert!(backend.of("long")[0].body == body, "sent as it is all the same");
        assert_eq!(net.send("PUT", "put", &[], Some(b"put")).status(), 200);
    }

    /// gRPC is always POST: its codes count where the service lets POST be repeated.
    [H2] fn codes_of_grpc_are_repeated_for_methods_that_may_be(link) {
        let unavailable = Act::Answer(200, &[("content-type", "application/grpc"), ("grpc-status", "14")]);
        let backend = Backend::new(move |_, before| if before < 2 { unavailable } else { OK });
        let retries = json!({"retries": {"on": ["unavailable"], "methods": ["POST"]}});
        let net = Net::new(link, &[&backend], retries);
        let grpc = [("content-type", "application/grpc"), ("te", "trailers")];
        let answer = net.send("POST", "call", &grpc, Some(b"call"));
        assert_eq!((answer.field("grpc-status"), backend.of("call").len()), (None, 3));
        net.alpha.counts(2.0, "lacis_retries_total", &[("cause", "grpc_14")]);
    }

    /// What hangs is given up and asked elsewhere; what may not be repeated is told so.
    [H2, H3] fn a_try_that_takes_too_long_is_given_up(link) {
        let backend = Backend::new(|_, before| if before == 0 { Act::Silent } else { OK });
        // On a busy machine tries may take too long that nobody holds up: also the one after, or before it has arrived.
        let net = Net::new(link, &[&backend], json!({"retries": {"attempts": 10, "per_try_timeout": "300ms"}}));
        assert_eq!(net.get("get").status(), 200);
        assert!(backend.of("get").len() >= 2);
        let answer = net.send("POST", "post", &[], Some(b"x"));
        assert_eq!((answer.status(), answer.proxy_error().as_deref()), (504, Some("http_response_timeout")));
        assert!(backend.of("post").len() <= 1);
        let record = net.alpha.access("the late one", |record| record["request_id"] == "post");
        assert_eq!(record["response_code_details"], "upstream_per_try_timeout");
    }

    /// One that fails is passed over, is tried after a while, and comes back when it is well.
    [H2, H3] fn an_endpoint_that_fails_is_ejected_until_it_is_well(link) {
        let (well, ill) = (Backend::new(|_, _| OK), Backend::new(|_, _| Act::Answer(503, &[])));
        let outliers = json!({"consecutive": 3, "ejection": "1h", "max_ejection": "1h"});
        let mut net = Net::new(link, &[&well, &ill], json!({"outliers": outliers, "balance": "round_robin"}));
        let failed = (0..20).filter(|i| net.get(&format!("a{i}")).status() == 503).count();
        assert_eq!((failed, ill.count(), well.count()), (3, 3, 17));
        net.alpha.counts(1.0, "lacis_ejections_total", &[("destination", "delta"), ("cause", "503")]);
        let ejected = &net.cluster()["endpoints"][1]["ejected"];
        assert_eq!((&ejected["cause"], &ejected["times"]), (&json!("503"), &json!(1)));
        assert_eq!(net.cluster()["endpoints"][0]["ejected"], Value::Null);

        // Never all of them: the other one is asked, however it fails.
        well.now(|_, _| Act::Answer(503, &[]));
        assert!((0..10).all(|i| net.get(&format!("b{i}")).status() == 503));
        assert_eq!(ill.count(), 3);
        well.now(|_, _| OK);

        // What it is now, it is for the changed service too; there a try comes soon.
        net.alpha.reload(json!({"services": {"delta": {"outliers": {"ejection": "1ms", "max_ejection": "1ms"}}}}));
        assert_eq!(net.cluster()["endpoints"][1]["ejected"]["cause"], "503");
    }
}

/// After its time one request at a time tries it; the first that succeeds brings it back.
#[test]
fn an_ejected_endpoint_is_tried() {
    let (well, ill) = (Backend::new(|_, _| OK), Backend::new(|_, _| Act::Answer(503, &[])));
    let outliers = json!({"consecutive": 2, "ejection": "1ms", "max_ejection": "1ms"});
    let net = Net::new(Link::Plaintext, &[&well, &ill], json!({"outliers": outliers, "balance": "round_robin"}));
    // Each try ejects it again.
    until("it was tried and ejected again", || {
        net.get("try");
        (net.alpha.metrics().sum("lacis_ejections_total", &[]) >= 4.0).then_some(())
    });
    ill.now(|_, _| OK);
    until("it is back", || {
        net.get("try");
        net.cluster()["endpoints"][1]["ejected"].is_null().then_some(())
    });
    let before = ill.count();
    (0..4).for_each(|_| assert_eq!(net.get("share").status(), 200));
    assert_eq!(ill.count(), before + 2);
}

/// No answer at all: the stream broke, and nobody knows how far it came.
#[test]
fn what_broke_is_repeated_where_that_is_asked_for() {
    let backend = Backend::new(|_, before| if before == 0 { Act::Abort } else { OK });
    let net = Net::new(
        Link::Plaintext,
        &[&backend],
        json!({"retries": {"on": ["reset"]}, "limits": {"endpoint": {"requests": 1}}}),
    );
    assert_eq!(net.get("get").status(), 200);
    assert_eq!(net.send("POST", "post", &[], Some(b"x")).status(), 502);
    assert_eq!((backend.of("get").len(), backend.of("post").len()), (2, 1));

    let net = Net::new(Link::Plaintext, &[&backend], json!({"retries": {"attempts": 0}}));
    assert_eq!(net.get("never").status(), 502);
    assert_eq!((backend.of("never").len(), backend.of("never")[0].attempt), (1, Some(1)));
}

on_links! {
    /// An answer that takes long is asked for elsewhere, too, where that is harmless; the first good one counts, and the
    /// other request is cancelled. A quantile is learned first.
    [H2, H3] fn what_takes_long_is_asked_for_elsewhere(link) {
        // Whoever is asked first is silent.
        let backends: Vec<Backend> = (0..2).map(|_| Backend::new(|_, _| OK)).collect();
        let hedge = |after: &str| json!({"retries": {"attempts": 1, "body": "1KiB", "hedge": {"after": after}}});
        let mut net = Net::new(link, &[&backends[0], &backends[1]], hedge("p50"));
        (0..100).for_each(|i| assert_eq!(net.get(&format!("learn{i}")).status(), 200));
        let silent_first = || backends.iter().for_each(|backend| {
            backend.now(|seen, _| if seen.attempt == Some(1) { Act::Silent } else { OK });
        });
        silent_first();
        let both = |id: &str| backends.iter().flat_map(|backend| backend.of(id)).collect::<Vec<_>>();
        // Each endpoint once. On a busy machine the first try is cancelled before it has arrived.
        let attempts = |id: &str| {
            let mut attempts: Vec<_> = both(id).iter().map(|seen| seen.attempt).collect();
            attempts.sort_unstable();
            assert!([&[Some(1), Some(2)][..], &[Some(2)]].contains(&&attempts[..]), "{id}: {attempts:?}");
        };
        assert_eq!(net.get("learned").status(), 200, "as long as half of them took");
        attempts("learned");

        net.alpha.reload(json!({"services": {"delta": {"retries": {"hedge": {"after": "20ms"}}}}}));
        assert_eq!(net.get("get").status(), 200);
        attempts("get");
        let record = net.alpha.access("the hedged one", |record| record["request_id"] == "get");
        let won = backends.iter().position(|backend| backend.of("get").iter().any(|seen| seen.attempt == Some(2)));
        let place = net.deltas[won.expect("one")].inbound().to_string();
        assert_eq!((&record["attempts"], &record["upstream_host"]), (&json!(2), &json!(place)));

        let key = [("idempotency-key", "k")];
        assert_eq!(net.send("POST", "key", &key, Some(b"body")).status(), 200);
        attempts("key");
        assert!(both("key").iter().all(|seen| seen.body == b"body"), "{:?}", both("key"));
        net.alpha.counts(3.0, "lacis_hedges_total", &[("destination", "delta"), ("result", "won")]);
        until("those that lost are cancelled", || {
            let endpoints = net.cluster()["endpoints"].clone();
            endpoints.as_array()?.iter().all(|endpoint| endpoint["requests"] == 0).then_some(())
        });

        // An answer that is no good is not waited for, and not taken either.
        backends.iter().for_each(|backend| {
            backend.now(|seen, _| if seen.attempt == Some(1) { Act::Hold(200) } else { Act::Answer(500, &[]) });
        });
        let mut waits = net.begin("bad");
        net.alpha.counts(1.0, "lacis_hedges_total", &[("result", "failed")]);
        backends.iter().for_each(Backend::release);
        assert_eq!(waits.response("GET").status(), 200);

        silent_first();
        let mut post = Client::connect(net.alpha.outbound());
        post.send("POST / HTTP/1.1\r\nhost: delta\r\nx-request-id: pay\r\ncontent-length: 0\r\n\r\n");
        until("it was sent", || (both("pay").len() == 1).then_some(()));
        assert_eq!(net.get("after").status(), 200, "which waited longer than a hedge does");
        assert_eq!(both("pay").len(), 1, "nobody pays twice");
        drop(post);
    }

    /// Who fails only after another was asked is known for it all the same, though nobody sees his answers.
    [H2, H3] fn an_endpoint_whose_failures_others_make_good_is_ejected(link) {
        let hold = || Backend::new(|seen, _| Act::Hold(if seen.attempt == Some(1) { 503 } else { 200 }));
        let backends = [hold(), hold()];
        let service = json!({
            "retries": {"attempts": 1, "hedge": {"after": "20ms"}},
            "outliers": {"consecutive": 1, "ejection": "1h", "max_ejection": "1h"},
        });
        let net = Net::new(link, &[&backends[0], &backends[1]], service);
        let mut waits = net.begin("get");
        backends.iter().for_each(|backend| backend.wait(1));
        let asked = |attempt| backends.iter().position(|b| b.of("get")[0].attempt == Some(attempt)).expect("one");
        let (first, second) = (asked(1), asked(2));
        backends[first].release();
        net.deltas[first].access("the first answer", |record| record["response_code"] == 503);
        backends[second].release();
        assert_eq!(waits.response("GET").status(), 200);
        net.alpha.counts(1.0, "lacis_ejections_total", &[("destination", "delta"), ("cause", "503")]);
        assert!(net.cluster()["endpoints"][first]["ejected"].is_object());
    }
}

/// Who never answers is ejected although others answer in its place.
#[test]
fn an_endpoint_that_others_always_outrun_is_ejected() {
    let (well, ill) = (Backend::new(|_, _| OK), Backend::new(|_, _| Act::Silent));
    let service = json!({
        "balance": "round_robin",
        "retries": {"attempts": 1, "hedge": {"after": "20ms"}},
        "outliers": {"consecutive": 3, "ejection": "1h", "max_ejection": "1h"},
    });
    let net = Net::new(Link::H2, &[&well, &ill], service);
    until("it is ejected", || {
        assert_eq!(net.get("get").status(), 200);
        (net.cluster()["endpoints"][1]["ejected"]["cause"] == "http_response_timeout").then_some(())
    });
    let before = ill.count();
    (0..4).for_each(|_| assert_eq!(net.get("after").status(), 200));
    assert_eq!(ill.count(), before);
}

/// An endpoint that cannot be reached costs no request, body or not, whatever the method; and counts against no budget.
#[test]
fn what_reached_nobody_goes_elsewhere() {
    let backend = Backend::new(|_, _| OK);
    for mut service in [json!({}), json!({"retries": {"budget": "0%"}}), json!({"outliers": {"consecutive": 1}})] {
        service["balance"] = json!("round_robin");
        let net = Net::with(Link::Plaintext, &[&backend], |_, alive| {
            service["endpoints"] = json!([alive[0].to_string(), unused().to_string()]);
            json!({"services": {"delta": service}})
        });
        let sent: Vec<u16> = (0..12).map(|i| net.send("POST", &format!("p{i}"), &[], Some(b"body")).status()).collect();
        assert_eq!(sent, [200; 12], "{service}");
        assert!(net.alpha.metrics().sum("lacis_retries_total", &[("cause", "connection_refused")]) >= 1.0);
    }
    assert_eq!(backend.count(), 36);
}

/// Where no connection can be opened for want of descriptors, those that are open do.
#[test]
fn without_descriptors_requests_take_the_connections_that_are_open() {
    const FILES: usize = 60;
    let (mesh, backend) = (Mesh::new(), Backend::new(|_, _| OK));
    let few = format!("--nofile={FILES}:{FILES}");
    let alpha = mesh.sidecar("alpha").calls("delta", backend.address, Link::Plaintext).under(&["prlimit", &few]);
    let alpha = alpha.with(json!({"services": {"delta": {"timeouts": {"connect": "20s"}}}})).start();
    assert_eq!(client::get(alpha.outbound(), "delta", "/").status(), 200);
    let mut clients: Vec<Client> = (0..FILES).map(|_| Client::connect(alpha.outbound())).collect();
    alpha.log("no descriptor is left", |line| line["message"] == "cannot accept connections for the moment");
    clients.iter_mut().for_each(|client| client.send("GET / HTTP/1.1\r\nhost: delta\r\n\r\n"));
    for mut client in clients {
        assert_eq!(client.response("GET").status(), 200);
    }
}

/// What a server asks for decides: a wait that is too long is the caller's.
#[test]
fn retry_after_is_honoured() {
    let backend = Backend::new(|_, before| match before {
        0 => Act::Answer(503, &[("retry-after", "60")]),
        _ => OK,
    });
    let net = Net::new(Link::Plaintext, &[&backend], json!({"retries": {"attempts": 2}}));
    let answer = net.get("late");
    assert_eq!((answer.status(), answer.field("retry-after"), backend.count()), (503, Some("60"), 1));
    backend.now(|_, before| if before == 0 { Act::Answer(503, &[("retry-after", "1")]) } else { OK });
    let start = Instant::now();
    assert_eq!(net.get("soon").status(), 200);
    assert!(start.elapsed() >= Duration::from_secs(1), "no sooner than asked");
}

/// Fifty requests fail at once: of those in flight a fifth is sent again, and no more.
#[test]
fn a_budget_stops_a_storm() {
    const MANY: usize = 50;
    let backend = Backend::new(|seen, _| if seen.attempt == Some(1) { Act::Hold(503) } else { Act::Silent });
    let net = Net::new(Link::Plaintext, &[&backend], json!({"retries": {"attempts": 2}}));
    let mut clients: Vec<Client> = (0..MANY).map(|i| net.begin(&format!("s{i}"))).collect();
    backend.wait(MANY);
    assert_eq!(net.cluster()["limits"]["requests"]["now"], MANY);
    // The second tries are never answered, so they stay under way until all is decided.
    backend.release();
    until("the budget is used up", || {
        let retries = &net.cluster()["limits"]["retries"];
        (retries["refused"] == MANY - MANY / 5).then(|| assert_eq!(retries["now"], MANY / 5))
    });
    backend.wait(MANY + MANY / 5);
    net.alpha.counts(1.0, "lacis_breaker_open", &[("destination", "delta"), ("cause", "retries")]);
    net.alpha.counts((MANY / 5) as f64, "lacis_retries_total", &[("cause", "503")]);
    drop(clients.split_off(0));
    net.alpha.counts(0.0, "lacis_breaker_open", &[("cause", "retries")]);
    assert_eq!(backend.count(), MANY + MANY / 5);
}

on_links! {
    /// The last that fits is served, the next is refused at once, with a reason, and a time to come back.
    [H2, H3] fn requests_are_limited(link) {
        let backend = Backend::new(|_, _| Act::Hold(200));
        let net = Net::new(link, &[&backend], json!({"limits": {"requests": 2}}));
        let mut held = [net.begin("one"), net.begin("two")];
        backend.wait(2);
        let answer = net.get("three");
        assert_eq!((answer.status(), answer.field("retry-after")), (503, Some("1")));
        assert_eq!(answer.proxy_error().as_deref(), Some("connection_limit_reached"));
        let record = net.alpha.access("the refused one", |record| record["request_id"] == "three");
        assert_eq!((&record["response_flags"], &record["reason"]), (&json!("UO"), &json!("limit_reached")));
        let grpc = net.send("POST", "four", &[("content-type", "application/grpc")], Some(b""));
        assert_eq!((grpc.field("grpc-status"), grpc.field("grpc-retry-pushback-ms")), (Some("14"), Some("1000")));
        assert_eq!(net.cluster()["limits"]["requests"], json!({"now": 2, "limit": 2, "refused": 2}));
        net.alpha.counts(1.0, "lacis_breaker_open", &[("destination", "delta"), ("cause", "requests")]);
        backend.release();
        assert!(held.iter_mut().all(|client| client.response("GET").status() == 200));
        net.alpha.counts(0.0, "lacis_breaker_open", &[("destination", "delta"), ("cause", "requests")]);
        assert_eq!(net.get("five").status(), 200);
        assert_eq!(backend.count(), 3);
    }
}

/// Beyond `connections` requests wait, beyond `pending` they do not.
#[test]
fn connections_and_those_who_wait_for_them_are_limited() {
    let backend = Backend::new(|_, _| Act::Hold(200));
    let net = Net::new(Link::Plaintext, &[&backend], json!({"limits": {"connections": 1, "pending": 1}}));
    let mut first = net.begin("first");
    backend.wait(1);
    let mut second = net.begin("second");
    until("the second waits", || (net.cluster()["limits"]["pending"]["now"] == 1).then_some(()));
    let answer = net.get("third");
    assert_eq!((answer.status(), answer.proxy_error().as_deref()), (503, Some("connection_limit_reached")));
    assert_eq!(net.cluster()["limits"]["connections"], json!({"now": 1, "limit": 1}));
    backend.release();
    assert_eq!((first.response("GET").status(), second.response("GET").status()), (200, 200));
    assert_eq!((backend.count(), backend.shared.connections.load(Ordering::SeqCst)), (2, 1));
}

on_links! {
    /// Too many failures: all are refused at once, until it was tried and is well.
    [H2, H3] fn a_breaker_gives_the_service_a_rest(link) {
        let backend = Backend::new(|_, _| Act::Answer(500, &[]));
        let breaker = json!({"failures": "50%", "requests": 6, "window": "1h", "open": "1h", "probes": 1});
        let mut net = Net::new(link, &[&backend], json!({"breaker": breaker}));
        assert!((0..6).all(|i| net.get(&format!("a{i}")).status() == 500));
        let answer = net.get("refused");
        assert_eq!(answer.status(), 503);
        let wait = answer.field("retry-after").and_then(|seconds| seconds.parse().ok());
        assert!(wait.is_some_and(|seconds: u64| (3000..=3600).contains(&seconds)), "what is left of an hour: {wait:?}");
        assert_eq!(answer.proxy_error().as_deref(), Some("destination_unavailable"));
        let record = net.alpha.access("the refused one", |record| record["request_id"] == "refused");
        assert_eq!((&record["response_flags"], &record["reason"]), (&json!("UO"), &json!("breaker_open")));
        assert_eq!(backend.count(), 6);
        assert_eq!(net.cluster()["breaker"]["state"], "open");
        net.alpha.counts(1.0, "lacis_breaker_open", &[("destination", "delta"), ("cause", "failures")]);

        backend.now(|_, _| OK);
        net.alpha.reload(json!({"services": {"delta": {"breaker": {"open": "1ms"}}}}));
        assert_eq!(net.get("fresh").status(), 200, "another breaker, which is closed");
        backend.now(|_, _| Act::Answer(500, &[]));
        until("it is open", || {
            net.get("b");
            (net.cluster()["breaker"]["state"] == "open").then_some(())
        });
        backend.now(|_, _| OK);
        until("it is closed", || {
            let answer = net.get("c");
            (answer.status() == 200 && net.cluster()["breaker"]["state"] == "closed").then_some(())
        });
    }

    /// The caller's deadline bounds the request, and is told on, shortened.
    [H2, H3] fn a_deadline_is_honoured_and_passed_on(link) {
        let backend = Backend::new(|_, _| OK);
        let net = Net::new(link, &[&backend], json!({}));
        assert_eq!(net.send("GET", "told", &[("x-envoy-upstream-rq-timeout-ms", "30000")], None).status(), 200);
        assert_eq!(net.send("GET", "none", &[], None).status(), 200);
        let grpc = [("content-type", "application/grpc"), ("grpc-timeout", "30S")];
        net.send("POST", "call", &grpc, Some(b"x"));
        let left = |id: &str| backend.of(id)[0].deadline;
        assert!(left("told").is_some_and(|left| (1..=30_000).contains(&left)), "{:?}", left("told"));
        assert_eq!(left("none"), None);
        assert!(left("call").is_some_and(|left| (1..=30_000).contains(&left)), "{:?}", left("call"));

        backend.now(|_, _| Act::Silent);
        let answer = net.send("GET", "late", &[("x-envoy-upstream-rq-timeout-ms", "50")], None);
        assert_eq!((answer.status(), answer.proxy_error().as_deref()), (504, Some("http_response_timeout")));
        let grpc = [("content-type", "application/grpc"), ("grpc-timeout", "50m")];
        assert_eq!(net.send("POST", "late-call", &grpc, Some(b"x")).field("grpc-status"), Some("4"));
    }
}

/// One that has all it may is passed over; where all have, there is no waiting.
#[test]
fn endpoints_are_limited() {
    let backends = [Backend::new(|_, _| Act::Hold(200)), Backend::new(|_, _| Act::Hold(200))];
    let net = Net::new(
        Link::Plaintext,
        &[&backends[0], &backends[1]],
        json!({"limits": {"endpoint": {"requests": 1}}, "balance": "random"}),
    );
    let mut held = [net.begin("one"), net.begin("two")];
    backends.iter().for_each(|backend| backend.wait(1));
    let answer = net.get("three");
    assert_eq!((answer.status(), answer.field("retry-after")), (503, Some("1")));
    backends.iter().for_each(Backend::release);
    assert!(held.iter_mut().all(|client| client.response("GET").status() == 200));
}
