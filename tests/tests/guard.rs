//! Who is let in, and how much: rules of access, rate limits, load shedding, over real links.

use lacis_tests::{App, Pair, SidecarBuilder, TRUST_DOMAIN, client, on_links, until};
use serde_json::{Value, json};

/// What asks for one path as it stands, and for gRPC as gRPC does.
const GRPC: (&str, &str) = ("content-type", "application/grpc");

on_links! {
    /// Rules over path, method, field and caller; the caller learns that it is refused, the access record by which rule.
    [H2, H3] fn rules_say_who_may_ask_what(link) {
        let rules = json!({"inbound": {
            "deny": [
                {"name": "no-admin", "path": {"prefix": "/admin"},
                    "except": {"identity": format!("spiffe://{TRUST_DOMAIN}/ns/default/sa/ops*")}},
                {"name": "no-debug", "headers": [{"name": "x-debug", "regex": "(?i)yes|1"}]},
                {"name": "trial", "path": {"exact": "/bytes/2"}, "dry_run": true},
            ],
            "allow": [
                {"name": "known", "namespace": "default", "method": ["GET", "POST"]},
            ],
        }});
        let pair = Pair::with(link, App::start(), |alpha| alpha, |delta| delta.with(rules));
        let ask = |method, path: &str, fields: &[(&str, &str)]| {
            client::request(pair.alpha.outbound(), method, "delta", path, fields, None)
        };
        assert_eq!(ask("GET", "/bytes/1", &[]).status(), 200);
        let refused = ask("GET", "/admin/keys", &[]);
        assert_eq!((refused.status(), refused.proxy_error().as_deref()), (403, Some("http_request_denied")));
        assert!(!refused.text().contains("admin"), "nothing of the rule: {}", refused.text());
        // However it is spelled.
        for path in ["/ADMIN", "/%61dmin/x", "//admin", "/admin;x=1/y", "/x/../admin", "/x/%2e%2e/admin", "/x%2f..%2fadmin", "/%2561dmin"] {
            assert_eq!(ask("GET", path, &[]).status(), 403, "{path}");
        }
        assert_eq!(ask("PUT", "/bytes/1", &[]).status(), 403);
        assert_eq!(ask("GET", "/bytes/1", &[("x-debug", "no"), ("x-debug", "YES")]).status(), 403);
        let grpc = ask("POST", "/admin.Keys/Get", &[GRPC]);
        assert_eq!((grpc.status(), grpc.field("grpc-status")), (404, None), "another element than /admin");
        let grpc = ask("POST", "/admin/Get", &[GRPC]);
        assert_eq!((grpc.status(), grpc.field("grpc-status")), (200, Some("7")));
        assert_eq!(ask("GET", "/bytes/2", &[]).status(), 200);
        assert_eq!(pair.app.requests(), 3);

        let delta = pair.delta();
        delta.counts(10.0, "lacis_authorization_total", &[("rule", "no-admin"), ("verdict", "deny")]);
        delta.counts(1.0, "lacis_authorization_total", &[("rule", "trial"), ("verdict", "would_deny")]);
        delta.counts(1.0, "lacis_authorization_total", &[("rule", "default"), ("verdict", "deny")]);
        delta.counts(3.0, "lacis_authorization_total", &[("rule", "known"), ("verdict", "allow")]);
        let record = delta.access("the refusal", |record| record["path"] == "/admin/keys");
        assert_eq!(record["authorization"], "deny no-admin");
        assert_eq!(record["reason"], "http_request_denied");
        let record = delta.access("the dry run", |record| record["path"] == "/bytes/2");
        assert_eq!((&record["authorization"], &record["response_code"]), (&json!("would_deny trial"), &json!(200)));
        let page = delta.admin_get("/config").json();
        assert_eq!(page["inbound"]["deny"][0]["when"], json!({"path": [{"prefix": "/admin"}]}));

        let ops = pair.mesh.sidecar("ops").calls("delta", delta.inbound(), link).start();
        assert_eq!(client::get(ops.outbound(), "delta", "/admin/keys").status(), 404, "of the application");
    }

    /// What was let in goes on when the rules change; the next one meets the new ones.
    [H2] fn rules_change_for_requests_to_come(link) {
        let mut pair = Pair::new(link);
        let (mut first, mut second) = (pair.connect(), pair.connect());
        first.send("GET /hold HTTP/1.1\r\nhost: delta\r\n\r\n");
        pair.app.wait_held(1);
        pair.delta_mut().reload(json!({"inbound": {"deny": [{"path": {"exact": "/hold"}}]}}));
        assert_eq!(second.get("delta", "/hold").status(), 403);
        pair.app.release();
        assert_eq!(first.response("GET").status(), 200);
        let refused = pair.delta_mut().refused(json!({"inbound": {"deny": [{}]}}));
        assert!(refused.contains("inbound.deny[0]: no condition"), "{refused}");
    }
}

on_links! {
    /// Of the inbound side by caller, of a service by a field, of a rule; the answer says when to come again.
    [H2, H3] fn rate_limits_refuse_what_is_too_much(link) {
        let hour = |more: Value| {
            let mut limit = json!({"per": "1h"});
            limit.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
            limit
        };
        let inbound = json!({"inbound": {"rate_limits": [
            hour(json!({"name": "callers", "requests": 3, "key": "identity", "matches": [{"path": {"prefix": "/bytes"}}]})),
        ]}});
        let outbound = json!({
            "services": {"delta": {"rate_limits": [
                hour(json!({"name": "users", "requests": 2, "key": {"header": "x-user"}, "matches": [{"method": "PUT"}]})),
            ]}},
            "routes": [{"service": "delta", "rules": [
                {"name": "once", "matches": [{"path": {"exact": "/once"}}], "rate_limits": [hour(json!({"requests": 1}))]},
                {},
            ]}],
        });
        let mut pair = Pair::with(link, App::start(), |alpha| alpha.with(outbound), |delta| delta.with(inbound));
        let address = pair.alpha.outbound();
        let ask = |method: &str, path: &str, fields: &[(&str, &str)]| {
            client::request(address, method, "delta", path, fields, None)
        };
        // The whole burst, and then none; another spelling is no other path.
        let statuses = ["/bytes/1", "/bytes/1", "/BYTES/1", "/bytes/1", "/%62ytes/1"].map(|path| ask("GET", path, &[]).status());
        assert_eq!(statuses, [200, 200, 404, 429, 429]);
        let refused = ask("GET", "/bytes/1", &[]);
        assert_eq!((refused.status(), refused.proxy_error().as_deref()), (429, Some("http_request_denied")));
        let wait: u64 = refused.field("retry-after").expect("a time").parse().expect("seconds");
        assert!((1100..=1200).contains(&wait), "a third of an hour: {wait}");
        let limit = ["x-ratelimit-limit", "x-ratelimit-remaining"].map(|name| refused.field(name));
        assert_eq!(limit, [Some("3"), Some("0")]);
        let grpc = ask("POST", "/bytes/1", &[GRPC]);
        assert_eq!((grpc.status(), grpc.field("grpc-status")), (200, Some("8")));
        assert!(grpc.field("grpc-retry-pushback-ms").is_some());
        assert_eq!(ask("GET", "/echo", &[]).status(), 200, "nothing is said of others");

        // Nobody else's is used up; and what was counted outlives a change that leaves the limit as it is.
        let ops = pair.mesh.sidecar("ops").calls("delta", pair.delta().inbound(), link).start();
        assert_eq!(client::get(ops.outbound(), "delta", "/bytes/1").status(), 200);
        pair.delta_mut().reload(json!({"inbound": {"deny": [{"path": {"exact": "/never"}}]}}));
        assert_eq!(ask("GET", "/bytes/1", &[]).status(), 429);
        pair.delta_mut().reload(json!({"inbound": {"rate_limits": [hour(json!({"name": "callers", "requests": 4}))]}}));
        assert_eq!(ask("GET", "/bytes/1", &[]).status(), 200, "another limit");

        let user = |user| ask("PUT", "/echo", &[("x-user", user)]).status();
        assert_eq!(["ann", "ann", "ann", "bob"].map(user), [200, 200, 429, 200]);
        assert_eq!(["/once", "/once"].map(|path| ask("GET", path, &[]).status()), [429; 2], "the inbound limit has gone");
        pair.alpha.counts(1.0, "lacis_rate_limited_total", &[("limit", "delta/users")]);
        pair.alpha.counts(1.0, "lacis_rate_limited_total", &[("limit", "delta/once/limit-1")]);
        pair.delta().counts(6.0, "lacis_rate_limited_total", &[("limit", "callers")]);
        pair.delta().counts(5.0, "lacis_requests_total", &[("reason", "rate_limited"), ("status", "429")]);
    }

    /// `timeouts.stream` bounds an exchange that moves all the time; what had not begun is answered 504.
    [H2, H3] fn a_stream_ends_when_its_time_is_over(link) {
        let timeouts = json!({"services": {"delta": {"timeouts": {"stream": "300ms", "request": "0s", "idle": "0s"}}}});
        let pair = Pair::with(link, App::start(), |alpha| alpha.with(timeouts), |delta| delta);
        let late = pair.get("/hold");
        assert_eq!((late.status(), late.proxy_error().as_deref()), (504, Some("http_response_timeout")));
        // On a busy machine the time may be over before anything has begun.
        until("a body breaks off", || {
            let mut client = pair.connect();
            client.send("GET /drip HTTP/1.1\r\nhost: delta\r\n\r\n");
            client.try_response("GET").is_err().then_some(())
        });
        pair.alpha.metric_becomes("lacis_requests_total", &[("reason", "stream_timeout")], |ended| ended >= 2.0);
        until("what is quick is served", || (pair.get("/bytes/1").status() == 200).then_some(()));
        pair.alpha.counts(1.0, "lacis_requests_total", &[("reason", "none"), ("status", "200")]);
    }

    /// A request that does not go on is given up after `timeouts.idle`; no other bound runs before it has ended.
    [Plaintext, H1, H2, H3] fn a_request_that_stops_is_given_up(link) {
        let timeouts = json!({"services": {"delta": {"timeouts": {"idle": "300ms"}}}});
        let pair = Pair::with(link, App::start(), |alpha| alpha.with(timeouts), |delta| delta);
        let mut client = pair.connect();
        client.send("POST /echo HTTP/1.1\r\nhost: delta\r\ncontent-length: 10\r\n\r\nabc");
        let answer = client.response("POST");
        assert_eq!((answer.status(), answer.proxy_error().as_deref()), (408, Some("http_request_error")));
        pair.alpha.counts(1.0, "lacis_requests_total", &[("reason", "request_timeout"), ("status", "408")]);
        pair.alpha.metric_becomes("lacis_requests_active", &[], |active| active == 0.0);
    }
}

on_links! {
    /// Who does not go on with a request holds it, and what it has opened, no longer than `timeouts.idle`.
    [H2, H3] fn a_request_that_stops_half_way_ends(link) {
        let timeouts = json!({"services": {"delta": {"timeouts": {"request": "0s", "idle": "1s"}}}});
        let pair = Pair::with(link, App::start(), |alpha| alpha.with(timeouts), |delta| delta);
        let mut client = pair.connect();
        client.send("POST /echo HTTP/1.1\r\nhost: delta\r\ncontent-length: 10\r\n\r\nhalf");
        let late = client.response("POST");
        assert_eq!((late.status(), late.proxy_error().as_deref()), (408, Some("http_request_error")));
        pair.alpha.counts(1.0, "lacis_requests_total", &[("reason", "request_timeout")]);
        pair.delta().counts(0.0, "lacis_requests_active", &[]);
    }
}

on_links! {
    /// The side of the application has a bound of its own: it can be shorter than the caller's, or longer.
    [H2] fn the_application_has_an_idle_bound_of_its_own(link) {
        for (caller, own) in [("0s", "300ms"), ("300ms", "0s")] {
            let timeouts = json!({"services": {"delta": {"timeouts": {"request": "0s", "idle": caller}}}});
            let inbound = json!({"inbound": {"timeouts": {"idle": own}}});
            let pair = Pair::with(link, App::start(), |alpha| alpha.with(timeouts), |delta| delta.with(inbound));
            let mut client = pair.connect();
            client.send("POST /echo HTTP/1.1\r\nhost: delta\r\ncontent-length: 10\r\n\r\nhalf");
            assert_eq!(client.response("POST").status(), 408);
            for (side, idle) in [(&pair.alpha, caller), (pair.delta(), own)] {
                side.metric_becomes("lacis_requests_active", &[], |active| active == 0.0);
                let ended = if idle == "0s" { 0.0 } else { 1.0 };
                side.counts(ended, "lacis_requests_total", &[("reason", "request_timeout")]);
            }
        }
    }
}

on_links! {
    /// What matters least is refused first, and at once; what matters most is let in to the end.
    [H2, H3] fn a_sidecar_that_has_enough_refuses_the_least_important(link) {
        let overload = json!({"overload": {"requests": 10, "priorities": [
            {"priority": "critical", "matches": [{"path": {"exact": "/status/204"}}]},
            {"priority": "low", "matches": [{"path": {"prefix": "/chunked"}}]},
        ]}});
        let pair = Pair::with(link, App::start(), |alpha| alpha, |delta| delta.with(overload));
        let held = |already: u64| {
            let mut client = pair.connect();
            client.send("GET /hold HTTP/1.1\r\nhost: delta\r\n\r\n");
            pair.app.wait_held(already + 1);
            client
        };
        let mut clients: Vec<_> = (0..7).map(held).collect();
        assert_eq!(pair.get("/chunked/1").status(), 200);
        clients.push(held(7));
        let shed = pair.get("/chunked/1");
        assert_eq!((shed.status(), shed.field("retry-after")), (503, Some("1")));
        assert_eq!(shed.proxy_error().as_deref(), Some("proxy_internal_response"));
        assert_eq!(pair.get("/bytes/1").status(), 200);
        clients.push(held(8));
        assert_eq!(pair.get("/bytes/1").status(), 503);
        let grpc = client::request(pair.alpha.outbound(), "POST", "delta", "/bytes/1", &[GRPC], None);
        assert_eq!((grpc.status(), grpc.field("grpc-status")), (200, Some("14")));
        assert_eq!(pair.get("/status/204").status(), 204, "a probe");
        assert_eq!(pair.get("/grpc.health.v1.Health/Check").status(), 404, "another, which the application does not know");
        let delta = pair.delta();
        delta.counts(1.0, "lacis_shed_total", &[("priority", "low")]);
        delta.counts(2.0, "lacis_shed_total", &[("priority", "normal")]);
        delta.counts(3.0, "lacis_requests_total", &[("reason", "overload")]);
        pair.app.release();
        assert!(clients.iter_mut().all(|client| client.response("GET").status() == 200));
        delta.counts(0.0, "lacis_requests_active", &[]);
        assert_eq!(pair.get("/chunked/1").status(), 200);
    }

    /// Bodies that are kept for a repetition fill the memory: the least important is refused first, in the end everything.
    /// When it is given back, all are let in again.
    [H2] fn memory_that_is_used_up_refuses_the_least_important(link) {
        const BODY: usize = 5 << 20;
        let overload = |bytes: u64| json!({"overload": {"memory": format!("{bytes}B"), "priorities": [
            {"priority": "critical", "matches": [{"path": {"exact": "/status/204"}}]},
            {"priority": "low", "matches": [{"path": {"prefix": "/chunked"}}]},
        ]}});
        let kept = json!({"services": {"delta": {
            "retries": {"body": "8MiB"}, "timeouts": {"request": "0s", "idle": "0s"},
        }}});
        let alpha = |alpha: SidecarBuilder| alpha.with(kept).with(overload(4 << 30)).env("MIMALLOC_PURGE_DELAY", "10");
        let mut pair = Pair::with(link, App::start(), alpha, |delta| delta);
        let statuses = |pair: &Pair| ["/chunked/1", "/bytes/1", "/status/204"].map(|path| pair.get(path).status());
        assert_eq!(statuses(&pair), [200, 200, 204]);
        let before = pair.alpha.rss();
        let body = vec![b'x'; BODY];
        let hold = |pair: &Pair, number: u64, body: &[u8]| {
            let mut client = pair.connect();
            client.send(format!("PUT /hold HTTP/1.1\r\nhost: delta\r\ncontent-length: {}\r\n\r\n", body.len()));
            client.send(body);
            pair.app.wait_held(number);
            client
        };
        let mut clients: Vec<_> = (1..=20).map(|number| hold(&pair, number, &body)).collect();
        let full = pair.alpha.rss();
        assert!(full - before > 16 * BODY as u64, "{before} became {full} with 20 bodies");

        // So much of it is in use: a half, nine tenths, all but nothing, more than all.
        for (percent, expected) in [(50, [200, 200, 204]), (88, [503, 200, 204]), (97, [503, 503, 204]), (125, [503; 3])] {
            until(&format!("{percent} % is {expected:?}"), || {
                // Of what it has now: on a busy machine it gives back late what it needed for a moment.
                pair.alpha.reload(overload(pair.alpha.rss() * 100 / percent));
                (statuses(&pair) == expected).then_some(())
            });
        }
        let refused = pair.get("/status/204");
        assert_eq!((refused.status(), refused.field("retry-after")), (503, Some("1")));
        assert_eq!(refused.proxy_error().as_deref(), Some("proxy_internal_response"));
        for priority in ["low", "normal", "critical"] {
            pair.alpha.metric_becomes("lacis_shed_total", &[("priority", priority)], |count| count >= 1.0);
        }

        pair.app.release();
        assert!(clients.iter_mut().all(|client| client.response("PUT").status() == 200), "what was let in ends well");
        drop(clients);
        pair.app.hold();
        // As many in flight as before, so that memory counts: a few are let in whatever it says.
        let _held: Vec<_> = (1..=16).map(|number| hold(&pair, number, b"x")).collect();
        until("its memory is given back", || (statuses(&pair) == [200, 200, 204]).then_some(()));
    }

    /// The application is asked no more at a time than the limit; a change of the configuration keeps it, or takes it away.
    [H2] fn an_adaptive_limit_is_kept(link) {
        let limit = json!({"inbound": {"concurrency": {"min": 2, "max": 2}}});
        let mut pair = Pair::with(link, App::start(), |alpha| alpha, |delta| delta.with(limit));
        pair.delta().counts(2.0, "lacis_concurrency_limit", &[]);
        let mut clients = [pair.connect(), pair.connect()];
        clients.iter_mut().for_each(|client| client.send("GET /hold HTTP/1.1\r\nhost: delta\r\n\r\n"));
        pair.app.wait_held(2);
        let refused = pair.get("/bytes/1");
        assert_eq!((refused.status(), refused.field("retry-after")), (503, Some("1")));
        pair.delta().counts(1.0, "lacis_requests_total", &[("reason", "limit_reached")]);
        pair.delta_mut().reload(json!({"inbound": {"deny": [{"path": {"exact": "/never"}}]}}));
        assert_eq!(pair.get("/bytes/1").status(), 503, "they are still in flight");
        pair.app.release();
        assert!(clients.iter_mut().all(|client| client.response("GET").status() == 200));
        pair.delta().counts(0.0, "lacis_requests_active", &[]);
        assert_eq!(pair.get("/bytes/1").status(), 200);
        pair.delta_mut().reload(json!({"inbound": {"concurrency": null}}));
        assert_eq!(pair.get("/bytes/1").status(), 200);
        pair.delta().counts(0.0, "lacis_concurrency_limit", &[]);
    }
}
