//! Clients that leave while filters hold something: nothing waits for them, and every context goes.

use lacis_tests::{App, Link, Pair, on_links, script};
use serde_json::json;

/// A filter that does as a request says: where requests reach this link, or where the application is called without one.
fn scripted(link: Link) -> Pair {
    let filter = json!({"filters": {"one": script("")}});
    let (outbound, inbound) = (json!({"outbound": {"filters": ["one"]}}), json!({"inbound": {"filters": ["one"]}}));
    match link {
        Link::Plaintext => Pair::with(link, App::start(), |alpha| alpha.with(filter).with(outbound), |delta| delta),
        _ => Pair::with(link, App::start(), |alpha| alpha, |delta| delta.with(filter).with(inbound)),
    }
}

/// Waits for what the filter logs of a request.
fn logs(pair: &Pair, link: Link, line: &str) {
    let sidecar = if link == Link::Plaintext { &pair.alpha } else { pair.delta() };
    sidecar.err.wait_for(line, |lines| lines.iter().any(|logged| logged.contains(line)).then_some(()));
}

const UPLOAD: &str = "POST /echo HTTP/1.1\r\ncontent-length: 10\r\n";
const UPGRADE: &str = "GET /silent HTTP/1.1\r\nconnection: upgrade\r\nupgrade: words\r\n";

on_links! {
    /// An answer that is held, of the filter's own, to a request whose content nobody reads.
    [Plaintext, H1, H2, H3] fn an_answer_is_held(link) {
        let pair = scripted(link);
        for (case, head, sent) in [
            ("expecting", "POST /echo HTTP/1.1\r\ncontent-length: 10\r\nexpect: 100-continue\r\n", ""),
            ("in-mid-body", UPLOAD, "abc"),
            ("whole", UPLOAD, "abcdefghij"),
            ("more-than-is-read-at-once", "POST /echo HTTP/1.1\r\ncontent-length: 9000\r\n", &"x".repeat(9000)),
            ("more-than-is-read-ahead", "POST /echo HTTP/1.1\r\ncontent-length: 200000\r\n", &"x".repeat(160_000)),
            ("upgrade", UPGRADE, ""),
        ] {
            let mut client = pair.connect();
            let script = "x-script: rq reply 403 ~ no ~, ret 1 ; rs ret 1";
            client.send(format!("{head}host: delta\r\nx-case: {case}\r\n{script}\r\n\r\n{sent}"));
            logs(&pair, link, &format!("{case} rs 1 0 => 1"));
            drop(client);
            logs(&pair, link, &format!("{case} dl "));
        }
    }

    /// A request that breaks off while a filter holds it: no answer is made that nobody reads.
    [H2, H3] fn a_request_breaks_off(link) {
        let pair = scripted(link);
        let mut client = pair.connect();
        client.send(format!("{UPLOAD}host: delta\r\nx-case: broken\r\nx-script: rq ret 1\r\n\r\nabc"));
        logs(&pair, link, "broken new rq 1 0 => 1");
        drop(client);
        logs(&pair, link, "broken dl ");
        let seen = pair.delta().err.all().iter().filter(|line| line.contains("broken rs ")).count();
        assert_eq!(seen, 0, "the filter is shown an answer");
    }

    /// A request for another protocol that a filter holds, or that nobody answers.
    [Plaintext, H1, H2, H3] fn an_upgrade_is_under_way(link) {
        let pair = scripted(link);
        let mut client = pair.connect();
        client.send(format!("{UPGRADE}host: delta\r\nx-case: held\r\nx-script: rq ret 1\r\n\r\n"));
        logs(&pair, link, "held new rq 1 0 => 1");
        drop(client);
        logs(&pair, link, "held dl ");
        let mut client = pair.connect();
        client.send(format!("{UPGRADE}host: delta\r\nx-case: silent\r\n\r\n"));
        pair.app.wait_held(1);
        drop(client);
        logs(&pair, link, "silent dl ");
    }
}
