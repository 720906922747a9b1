//! Balancing, health checks and ejection by latency, with backends that fail, are slow, and come and go. Only counts are
//! compared: which backend has had how many requests.

mod backends;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use backends::{Act, Backend, Net, OK, Seen};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use lacis_tests::{Link, Mesh, Sidecar, block_on, on_links, runtime, until};
use serde_json::{Value, json};
use tokio::net::TcpListener;

fn backends(count: usize) -> Vec<Backend> {
    (0..count).map(|_| Backend::new(|_, _| OK)).collect()
}

fn all(backends: &[Backend]) -> Vec<&Backend> {
    backends.iter().collect()
}

/// Requests that are no health checks.
fn served(backend: &Backend) -> usize {
    backend.seen().iter().filter(|seen| seen.path == "/").count()
}

/// Which of them answers a request with these fields.
fn who(net: &Net, backends: &[Backend], fields: &[(&str, &str)]) -> usize {
    let before: Vec<usize> = backends.iter().map(served).collect();
    let answer = net.send("GET", "who", fields, None);
    assert_eq!(answer.status(), 200, "{}", answer.text());
    backends.iter().zip(before).position(|(backend, before)| served(backend) > before).expect("somebody answered")
}

on_links! {
    /// One that fails at once has nothing in flight and the shortest latency, and gets the less for it.
    [H2, Plaintext] fn failing_quickly_attracts_nothing(link) {
        let (well, ill) = (backends(2), Backend::new(|_, _| Act::Answer(503, &[])));
        let net = Net::new(link, &[&well[0], &well[1], &ill], json!({}));
        // On a busy machine the others' answers are late now and then, and its are not.
        until("it is asked once in a while", || {
            let before = ill.count();
            let failed = (0..150).filter(|i| net.get(&format!("a{i}")).status() == 503).count();
            assert_eq!(failed, ill.count() - before);
            (failed <= 12).then_some(())
        });
        assert!(ill.count() > 0);
        let shown = &net.cluster()["endpoints"][2];
        assert!(shown["load"]["failing"].as_f64() > Some(0.0), "{shown}");
        assert_eq!((&shown["used"], &net.cluster()["balance"]), (&json!(true), &json!("least_load")));
    }

    /// One that asks not to be asked is not asked, as long as there is another.
    [H2, Plaintext] fn a_wish_not_to_be_asked_is_honoured(link) {
        let (well, ill) = (Backend::new(|_, _| OK), Backend::new(|_, _| OK));
        let net = Net::new(link, &[&well, &ill], json!({"balance": "least_load"}));
        for fields in [
            &[("retry-after", "300")][..],
            &[("content-type", "application/grpc"), ("grpc-status", "8"), ("grpc-retry-pushback-ms", "300000")],
        ] {
            let net = match fields.len() {
                1 => &net,
                _ => &Net::new(link, &[&well, &ill], json!({})),
            };
            let status = if fields.len() == 1 { 429 } else { 200 };
            ill.now(move |_, _| Act::Answer(status, fields));
            let before = ill.count();
            until("it was asked once", || {
                net.get("once");
                (ill.count() > before).then_some(())
            });
            ill.now(|_, _| OK);
            assert!((0..40).all(|_| net.get("more").status() == 200));
            assert_eq!(ill.count(), before + 1);
            assert_eq!(net.cluster()["endpoints"][1]["load"]["held"], true);
        }
    }

    /// A key has its endpoint; when another endpoint goes, it keeps it.
    [H2, Plaintext] fn a_key_finds_its_endpoint(link) {
        let backends = backends(4);
        let balance = json!({"hash": {"header": "x-user", "table": "ring"}});
        let mut list = Vec::new();
        let net = Net::with(link, &all(&backends), |mesh, endpoints| {
            list = endpoints.to_vec();
            mesh.file("delta.yaml", json!({ "endpoints": addresses(&list) }).to_string());
            json!({"services": {"delta": {"endpoints": null, "file": "delta.yaml", "balance": balance}}})
        });
        let homes = || -> BTreeMap<String, usize> {
            // So many that none of four endpoints, whose ports are of chance, is left without: of 24, one run in some 250 did.
            let users = (0..100).map(|i| format!("user-{i}"));
            users.map(|user| (user.clone(), who(&net, &backends, &[("x-user", &user)]))).collect()
        };
        let first = homes();
        assert!((0..4).all(|i| first.values().any(|home| *home == i)), "{first:?}");
        assert_eq!(homes(), first);
        assert_eq!(net.cluster()["balance"], balance);

        net.mesh.file("delta.yaml", json!({ "endpoints": addresses(&list[1..]) }).to_string());
        until("one is gone", || {
            (net.cluster()["endpoints"].as_array().is_some_and(|all| all.len() == 3)).then_some(())
        });
        let second = homes();
        assert!(first.iter().all(|(user, home)| if *home == 0 { second[user] != 0 } else { second[user] == *home }));
        // Without a key anybody will do.
        let anybody: std::collections::BTreeSet<_> = (0..40).map(|_| who(&net, &backends, &[])).collect();
        assert_eq!(anybody.len(), 3);
    }

    /// A client that brings the cookie comes back; when its endpoint is gone, it gets another one, and another cookie.
    [H2, Plaintext] fn a_cookie_brings_a_client_back(link) {
        let backends = backends(3);
        let service = json!({
            "affinity": {"cookie": "session", "ttl": "1h"}, "balance": "round_robin",
            "outliers": {"consecutive": 1, "ejection": "1h", "max_ejection": "1h"},
        });
        let net = Net::new(link, &all(&backends), service);
        let first = net.get("first");
        let set = first.field("set-cookie").expect("a cookie").to_owned();
        let (pair, attributes) = set.split_once(';').expect("attributes");
        assert_eq!(attributes, " Path=/; HttpOnly; Max-Age=3600");
        let token = pair.strip_prefix("session=").expect("its name");
        assert!(token.len() == 16 && token.bytes().all(|b| b.is_ascii_hexdigit()), "{token}");
        let home = backends.iter().position(|backend| backend.count() == 1).expect("somebody answered");
        let cookie = format!("theme=dark; {pair}");
        let fields = [("cookie", cookie.as_str())];
        assert!((0..8).all(|_| who(&net, &backends, &fields) == home));
        assert_eq!(net.send("GET", "known", &fields, None).field("set-cookie"), None);

        backends[home].now(|_, _| Act::Answer(503, &[]));
        assert_eq!(net.send("GET", "ejects", &fields, None).status(), 503);
        let moved = net.send("GET", "moved", &fields, None);
        assert_eq!(moved.status(), 200);
        let again = moved.field("set-cookie").expect("another cookie").split(';').next().expect("a pair").to_owned();
        assert_ne!(again, pair);
        let other = who(&net, &backends, &[("cookie", &again)]);
        assert_ne!(other, home);
        assert!((0..4).all(|_| who(&net, &backends, &[("cookie", &again)]) == other));
    }

    /// The own zone is asked while enough of it are well, then the others of the same priority, and the rest for need only;
    /// a file says all of that, and checks say who is well.
    [H2, Plaintext] fn zones_priorities_and_checks(link) {
        let backends = backends(4);
        let net = Net::with(link, &all(&backends), |mesh, endpoints| {
            let endpoint = |(i, address): (usize, &SocketAddr)| match i {
                0 | 1 => json!({"address": address.to_string(), "zone": "eu-1a", "weight": 1 + 2 * i}),
                2 => json!({"address": address.to_string(), "zone": "eu-1b"}),
                _ => json!({"address": address.to_string(), "zone": "eu-1a", "priority": 1}),
            };
            let list: Vec<Value> = endpoints.iter().enumerate().map(endpoint).collect();
            mesh.file("delta.yaml", json!({ "endpoints": list }).to_string());
            let health = json!({"http": {"path": "/health"}, "interval": "100ms", "timeout": "20s", "unhealthy": 1, "healthy": 1});
            json!({
                "node": {"locality": {"region": "eu-1", "zone": "eu-1a"}},
                "services": {"delta": {
                    "endpoints": null, "file": "delta.yaml", "balance": "round_robin", "health": health,
                }},
            })
        });
        let shares = |count: usize| {
            let mut shares = vec![0; backends.len()];
            (0..count).for_each(|_| shares[who(&net, &backends, &[])] += 1);
            shares
        };
        let well = |health: [bool; 4]| {
            for (backend, well) in backends.iter().zip(health) {
                let status = if well { 200 } else { 500 };
                backend.now(move |seen: &Seen, _| if seen.path == "/health" { Act::Answer(status, &[]) } else { OK });
            }
            until("the checks have told", || {
                let cluster = net.cluster();
                let of = |i: usize| if health[i] { "healthy" } else { "unhealthy" };
                (0..4).all(|i| cluster["endpoints"][i]["health"] == of(i)).then_some(())
            });
            let count = |well| health.iter().filter(|own| **own == well).count() as f64;
            net.alpha.counts(count(true), "lacis_endpoints_checked", &[("destination", "delta"), ("health", "healthy")]);
            net.alpha.counts(count(false), "lacis_endpoints_checked", &[("destination", "delta"), ("health", "unhealthy")]);
        };
        well([true, true, true, true]);
        assert_eq!(shares(8), [2, 6, 0, 0], "by weight");
        let endpoint = &net.cluster()["endpoints"][3];
        assert_eq!((&endpoint["zone"], &endpoint["priority"], &endpoint["used"]), (&json!("eu-1a"), &json!(1), &json!(false)));

        well([true, false, true, true]);
        let spilt = shares(100);
        assert!(spilt[1] == 0 && spilt[3] == 0, "{spilt:?}");
        assert!((50..=88).contains(&spilt[0]) && spilt[0] + spilt[2] == 100, "half of the zone is 70 %: {spilt:?}");

        well([false, false, true, true]);
        assert_eq!(shares(10), [0, 0, 10, 0]);
        well([false, false, false, true]);
        assert_eq!(shares(10), [0, 0, 0, 10]);

        // Nobody is well: all are asked, for a guess beats a refusal.
        well([false, false, false, false]);
        assert_eq!(net.cluster()["panic"], true);
        assert!(shares(100).iter().all(|share| *share > 0));
        well([true, true, true, true]);
        assert_eq!((&net.cluster()["panic"], shares(8)), (&json!(false), vec![2, 6, 0, 0]));

        let page: Value = serde_json::from_str(&net.alpha.admin_get("/clusters").text()).expect("JSON");
        let checks = page["checks"]["delta"].as_object().expect("endpoints");
        assert!(checks.len() == 4 && checks.values().all(|check| check["health"] == "healthy"), "{checks:?}");
        // Each change is told once, however many checks there were.
        let told = |i: usize| {
            let address = page["workers"][0]["clusters"]["delta"]["endpoints"][i]["address"].as_str().expect("text").to_owned();
            net.alpha.err.wait_for("the log", |lines| {
                let lines = lines.iter().filter(|line| line.contains("an endpoint is unhealthy") && line.contains(&address));
                Some(lines.count()).filter(|count| *count > 0)
            })
        };
        assert_eq!([told(0), told(1), told(2), told(3)], [1, 1, 1, 1]);
    }

    /// An endpoint that is far slower than the others is ejected, as one that fails is.
    [H2, Plaintext] fn a_slow_endpoint_is_ejected(link) {
        let backends = backends(3);
        backends[1].now(|_, _| Act::Late(Duration::from_millis(400)));
        let outliers = json!({
            "consecutive": 0, "interval": "1s", "ejection": "1h", "max_ejection": "1h",
            "latency": {"factor": 2, "requests": 2},
        });
        let net = Net::new(link, &all(&backends), json!({"balance": "round_robin", "outliers": outliers}));
        until("it is ejected", || {
            net.get("a");
            (net.alpha.metrics().sum("lacis_ejections_total", &[("cause", "latency")]) >= 1.0).then_some(())
        });
        assert_eq!(net.cluster()["endpoints"][1]["ejected"]["cause"], "latency");
        let before = backends[1].count();
        assert!((0..20).all(|_| net.get("b").status() == 200));
        assert_eq!(backends[1].count(), before);
    }

    /// A service of gRPC says how it is by the protocol that is there for that.
    [H2, Plaintext] fn grpc_says_how_it_is(link) {
        let servers = [Health::start(), Health::start()];
        let mesh = Mesh::new();
        let deltas: Vec<Sidecar> = match link {
            Link::Plaintext => Vec::new(),
            _ => servers.iter().map(|server| {
                let delta = mesh.sidecar("delta").application_at(server.address);
                delta.with(json!({"inbound": {"protocol": "h2c"}})).start()
            }).collect(),
        };
        let endpoints: Vec<SocketAddr> = match link {
            Link::Plaintext => servers.iter().map(|server| server.address).collect(),
            _ => deltas.iter().map(Sidecar::inbound).collect(),
        };
        let health = json!({"grpc": {"service": "lacis.test"}, "interval": "100ms", "timeout": "20s", "unhealthy": 2});
        let alpha = mesh.sidecar("alpha").calls_all("delta", &endpoints, link);
        let alpha = alpha.with(json!({"services": {"delta": {"health": health}}})).start();
        let are = |healthy: f64, unhealthy: f64| {
            alpha.counts(healthy, "lacis_endpoints_checked", &[("health", "healthy")]);
            alpha.counts(unhealthy, "lacis_endpoints_checked", &[("health", "unhealthy")]);
        };
        are(2.0, 0.0);
        servers[1].status.store(2, Ordering::SeqCst);
        are(1.0, 1.0);
        let page: Value = serde_json::from_str(&alpha.admin_get("/clusters").text()).expect("JSON");
        let check = &page["checks"]["delta"][endpoints[1].to_string()];
        assert_eq!(check["last_error"], "not serving (serving status 2)", "{check}");
        servers[1].status.store(1, Ordering::SeqCst);
        are(2.0, 0.0);
        alpha.metric_becomes("lacis_health_checks_total", &[("result", "failure")], |failed| failed >= 2.0);
    }
}

fn addresses(endpoints: &[SocketAddr]) -> Vec<String> {
    endpoints.iter().map(SocketAddr::to_string).collect()
}

/// Where nobody listens any more, a check finds out before a request does; the same for a peer that cannot prove who it is.
#[test]
fn a_link_that_cannot_be_opened_is_no_health() {
    let (mesh, backends) = (Mesh::new(), backends(1));
    let right = mesh.sidecar("delta").application_at(backends[0].address).start();
    let wrong = mesh.sidecar("gamma").application_at(backends[0].address).start();
    let alpha = mesh.sidecar("alpha").calls_all("delta", &[right.inbound(), wrong.inbound()], Link::H2);
    let health = json!({"tcp": {}, "interval": "100ms", "timeout": "20s"});
    let mut alpha = alpha.with(json!({"services": {"delta": {"health": health, "balance": "round_robin"}}})).start();
    alpha.counts(1.0, "lacis_endpoints_checked", &[("health", "healthy")]);
    alpha.counts(1.0, "lacis_endpoints_checked", &[("health", "unhealthy")]);
    let get = |alpha: &Sidecar| lacis_tests::client::get(alpha.outbound(), "delta", "/").status();
    assert!((0..6).all(|_| get(&alpha) == 200));
    let page: Value = serde_json::from_str(&alpha.admin_get("/clusters").text()).expect("JSON");
    let check = &page["checks"]["delta"][wrong.inbound().to_string()];
    assert!(check["last_error"].as_str().is_some_and(|error| error.contains("gamma")), "{check}");
    assert_eq!(wrong.metrics().sum("lacis_requests_total", &[("direction", "inbound")]), 0.0);

    // What checks have said is forgotten with them.
    alpha.reload(json!({"services": {"delta": {"health": null}}}));
    let page: Value = serde_json::from_str(&alpha.admin_get("/clusters").text()).expect("JSON");
    assert_eq!(page["workers"][0]["clusters"]["delta"]["endpoints"][1]["health"], Value::Null);
    assert_eq!(page["checks"], json!({}));
    alpha.counts(0.0, "lacis_endpoints_checked", &[]);
}

/// Who is checked in another way from now on is not checked in the old way beside.
#[test]
fn checks_end_with_their_configuration() {
    let backends = backends(1);
    let health = |path: &str| json!({"health": {"http": {"path": path}, "interval": "100ms", "timeout": "20s"}});
    let mut net = Net::new(Link::Plaintext, &all(&backends), health("/old"));
    let seen = |path: &str| backends[0].seen().iter().filter(|seen| seen.path == path).count();
    until("it is checked", || (seen("/old") > 0).then_some(()));
    net.alpha.reload(json!({"services": {"delta": health("/new")}}));
    until("it is checked in the new way", || (seen("/new") > 0).then_some(()));
    let old = seen("/old");
    until("it is checked again and again", || (seen("/new") > 10).then_some(()));
    // One may have been on its way.
    assert!(seen("/old") <= old + 1, "{} more in the old way", seen("/old") - old);
}

/// A server of `grpc.health.v1.Health`, and of nothing else.
struct Health {
    address: SocketAddr,
    /// The status that it gives.
    status: Arc<AtomicU8>,
}

impl Health {
    fn start() -> Health {
        let listener = block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let (address, status) = (listener.local_addr().expect("a bound socket"), Arc::new(AtomicU8::new(1)));
        let shared = Arc::clone(&status);
        runtime().spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let status = Arc::clone(&shared);
                tokio::spawn(async move {
                    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                    while let Some(Ok((request, mut respond))) = connection.accept().await {
                        let status = Arc::clone(&status);
                        tokio::spawn(async move {
                            let asked = request.uri().path() == "/grpc.health.v1.Health/Check";
                            let mut body = request.into_body();
                            let mut question = Vec::new();
                            while let Some(Ok(data)) = body.data().await {
                                question.extend_from_slice(&data);
                            }
                            let right = asked && question == b"\0\0\0\0\x0c\x0a\x0alacis.test";
                            let mut head = Response::new(());
                            head.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
                            // An error is the peer's way to end.
                            let Ok(mut send) = respond.send_response(head, false) else { return };
                            let said = if right { status.load(Ordering::SeqCst) } else { 3 };
                            let _ = send.send_data(Bytes::from(vec![0, 0, 0, 0, 2, 8, said]), false);
                            let mut trailers = HeaderMap::new();
                            trailers.insert("grpc-status", HeaderValue::from_static("0"));
                            let _ = send.send_trailers(trailers);
                        });
                    }
                });
            }
        });
        Health { address, status }
    }
}
