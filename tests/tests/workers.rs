//! Several workers in one process: they share the ports and nothing else, and look like one from outside.

use lacis_tests::client::Client;
use lacis_tests::{App, Link, Pair, Sidecar, client, on_links};
use serde_json::{Value, json};

/// A pair whose sidecars have two workers each.
fn two_each(link: Link) -> Pair {
    let two = || json!({"workers": 2});
    Pair::with(link, App::start(), |alpha| alpha.with(two()), |delta| delta.with(two()))
}

/// What each worker says of its way to delta: requests in flight, and open links.
fn workers(alpha: &Sidecar) -> Vec<(u64, u64)> {
    let page: Value = serde_json::from_str(&alpha.admin_get("/clusters").text()).expect("JSON");
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("a number in {page}"));
    let worker = |worker: &Value| {
        let endpoint = &worker["clusters"]["delta"]["endpoints"][0];
        let links = &endpoint["links"];
        let open = number(&links["h1_idle"]) + number(&links["h2"]["open"]) + number(&links["h3"]["open"]);
        (number(&endpoint["requests"]), open)
    };
    page["workers"].as_array().expect("workers").iter().map(worker).collect()
}

on_links! {
    /// Connections of one listener live in both workers: the kernel spreads them, and one that has clearly more hands
    /// the next over. Every worker opens links of its own, and a scrape sums what both counted.
    [H2, H3] fn connections_are_spread_over_the_workers(link) {
        const CONNECTIONS: usize = 48;
        let pair = two_each(link);
        let mut clients: Vec<Client> = Vec::new();
        for count in 1..=CONNECTIONS {
            let mut client = pair.connect();
            client.send("GET /hold HTTP/1.1\r\nhost: delta\r\n\r\n");
            clients.push(client);
            pair.app.wait_held(count as u64);
            // Without hand-over chance alone would keep the two this close at every step once in a thousand runs.
            let requests: Vec<u64> = workers(&pair.alpha).iter().map(|(requests, _)| *requests).collect();
            assert_eq!(requests.iter().sum::<u64>(), count as u64, "{requests:?}");
            assert!(requests[0].abs_diff(requests[1]) <= 2, "after {count} connections: {requests:?}");
        }
        let links: Vec<u64> = workers(&pair.alpha).iter().map(|(_, links)| *links).collect();
        assert!(links.len() == 2 && links.iter().all(|open| *open >= 1), "{links:?}");
        pair.alpha.counts(CONNECTIONS as f64, "lacis_connections_active", &[("direction", "outbound")]);
        pair.alpha.counts(CONNECTIONS as f64, "lacis_requests_active", &[("direction", "outbound")]);

        pair.app.release();
        for client in &mut clients {
            assert_eq!(client.response("GET").text(), "held");
            assert_eq!(client.get("delta", "/bytes/1").status(), 200, "and the connection goes on where it lives");
        }
        for (side, direction) in [(&pair.alpha, "outbound"), (pair.delta(), "inbound")] {
            side.counts(2.0 * CONNECTIONS as f64, "lacis_requests_total", &[("direction", direction), ("status", "200")]);
        }
        pair.alpha.counts(CONNECTIONS as f64, "lacis_connections_total", &[("direction", "outbound")]);
    }

    /// SIGTERM under load: all workers drain, and no request is lost with any of them.
    [H1, H2, H3] fn all_workers_drain(link) {
        let pair = two_each(link);
        let load = client::load(pair.alpha.outbound(), "delta", "/bytes/1000", 16);
        load.wait_more(200);
        pair.alpha.signal("TERM");
        assert!(pair.alpha.wait().success());
        let load = load.join();
        assert_eq!((load.failed(), load.refused), (0, 16), "{load:?}");
        pair.delta().signal("TERM");
        assert!(pair.delta().wait().success());
    }
}
