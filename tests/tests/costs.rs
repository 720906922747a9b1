//! What a request costs in calls of the kernel, which are most of what a proxy costs: counted, so that a change that adds
//! one is seen on any machine.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use lacis_tests::{App, Link, Mesh, Pair, Sidecar, client, peer};

/// Requests between two marks, one after the other on one connection: there each costs the same, every time.
const REQUESTS: usize = 100;
/// So often so many requests are counted, and the least of it is what they cost: a machine that is busy with something else
/// wakes a worker between two packets that were one, which adds calls and never takes one away.
const ROUNDS: usize = 5;

/// Both messages are read once and written once, and each of the two reads is waited for. What is above these six is messages
/// that the application has written in two.
#[test]
fn a_request_over_one_hop() {
    costs(Link::Plaintext, &[6.8]);
}

/// No more over the link: a request is one record, and so is its answer.
#[test]
fn a_request_over_h2() {
    costs(Link::H2, &[6.9, 6.9]);
}

/// QUIC looks for datagrams until there are none, and acknowledges some alone.
#[test]
fn a_request_over_h3() {
    costs(Link::H3, &[10.4, 10.4]);
}

/// At most so many calls per request of the worker of alpha, and of that of delta.
fn costs(link: Link, limits: &[f64]) {
    let Some(strace) = peer("strace") else { return };
    // Where it is installed it may still be forbidden: in many containers nobody may trace.
    let probe = strace.command().args(["-o", "/dev/null", "true"]).output();
    let allowed = probe.is_ok_and(|output| output.status.success());
    if !allowed {
        eprintln!("skipped: processes may not be traced here");
        return;
    }
    let strace = strace.path().display().to_string();
    if peer("setpriv").is_none() {
        return;
    }
    let mesh = Mesh::new();
    // Not beside the configuration: its directory is watched, and each line of a trace would make the next one.
    fs::create_dir(mesh.dir().join("traces")).expect("a directory");
    let traces = ["alpha", "delta"].map(|service| mesh.dir().join("traces").join(service));
    // Should a test fail, the tracer is killed, and what it traces must not live on.
    let under = |trace: &Path| {
        let trace = trace.display().to_string();
        [&strace, "-f", "-qq", "-s64", "-o", &trace, "setpriv", "--pdeathsig", "KILL", "--"].map(str::to_owned)
    };
    let [alpha, delta] = [under(&traces[0]), under(&traces[1])];
    let [alpha, delta] = [&alpha, &delta].map(|words| words.each_ref().map(String::as_str));
    let pair = Pair::inside(mesh, link, App::start(), |it| it.under(&alpha), |it| it.under(&delta));
    let mut client = pair.connect();
    assert_eq!(client.get("delta", "/bytes/1").status(), 200, "what is opened once is not counted");
    for round in 0..ROUNDS {
        assert_eq!(client.get("delta", &format!("/bytes/1?{}", mark(round))).status(), 200);
        for _ in 0..REQUESTS {
            assert_eq!(client.get("delta", "/bytes/1").status(), 200);
        }
    }
    assert_eq!(client.get("delta", &format!("/bytes/1?{}", mark(ROUNDS))).status(), 200);
    let sidecars = std::iter::once(&pair.alpha).chain((link != Link::Plaintext).then(|| pair.delta()));
    for ((sidecar, trace), &limit) in sidecars.zip(&traces).zip(limits) {
        end(sidecar);
        let text = fs::read_to_string(trace).expect("a trace");
        let rounds = (0..ROUNDS).map(|round| calls(&text, round));
        let calls = rounds.min_by_key(|calls| calls.values().sum::<usize>()).expect("a round");
        let per_request = calls.values().sum::<usize>() as f64 / REQUESTS as f64;
        println!("{}: {per_request:.2} calls per request, {calls:?}", trace.display());
        assert!(per_request > 4.0, "these are not all calls: {calls:?}");
        assert!(per_request <= limit, "{per_request:.2} calls per request, and not {limit}: {calls:?}");
    }
}

/// Ends a sidecar, and with it the program that writes its trace.
fn end(sidecar: &Sidecar) {
    assert_eq!(client::request(sidecar.admin(), "POST", "localhost", "/quit", &[], Some(b"")).status(), 200);
    sidecar.wait();
}

/// What is in the path of the request with which a round begins, and the one before ends.
fn mark(round: usize) -> String {
    format!("costs-from-{round}.")
}

/// The calls of a round of the thread that read its mark, by name. What it writes to its log is the tests' wish.
fn calls(trace: &str, round: usize) -> BTreeMap<&str, usize> {
    let lines: Vec<_> = trace.lines().filter_map(|line| line.split_once(' ')).collect();
    let at = |text: &str| {
        let found = lines.iter().position(|(_, call)| call.contains(text));
        found.unwrap_or_else(|| panic!("{text} is not in the trace"))
    };
    let (begin, end) = (at(&mark(round)), at(&mark(round + 1)));
    let thread = lines[begin].0;
    let mut calls = BTreeMap::new();
    for (_, call) in
        lines[begin..end].iter().filter(|(of, call)| *of == thread && !call.trim_start().starts_with("write(2,"))
    {
        // Where another thread came between, the second half of a call has a line of its own, without a name before `(`.
        if let Some((name, _)) = call
            .trim_start()
            .split_once('(')
            .filter(|(name, _)| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
        {
            *calls.entry(name).or_default() += 1;
        }
    }
    calls
}
