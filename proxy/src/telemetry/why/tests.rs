use super::*;

const DELTA: [&str; 3] = ["10.0.0.4:15006", "10.0.0.5:15006", "10.0.0.6:15006"];

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn record(id: &str, keep: usize) -> Arc<Record> {
    Record::new(&Asked {
        started: Instant::now(),
        direction: Direction::Outbound,
        asked: false,
        keep,
        id,
        method: &http::Method::GET,
        host: "delta",
        path: "/v1/items",
        query: true,
        caller: address("127.0.0.1:40000"),
        identity: None,
    })
}

fn end(status: u16, reason: Reason) -> End {
    let (service, route) = (Some("delta".into()), Some("delta/v1".into()));
    End { status, reason, duration: Duration::from_micros(1500), link: Link::H3, attempts: 2, service, route }
}

fn candidate(at: usize, standing: Standing) -> Candidate {
    Candidate { address: address(DELTA[at]), in_flight: at as u32, weight: 1, score: 1.5, standing }
}

/// The text but for the moment when it began, which is of now.
fn text(record: &Record) -> String {
    let text = record.to_string();
    let lines = text.lines().map(|line| match line.split_once("began ") {
        Some((before, after)) => format!("{before}began …{}\n", &after[24..]),
        None => format!("{line}\n"),
    });
    lines.collect()
}

#[test]
fn the_last_ones_are_kept() {
    let ring = Ring::default();
    for id in ["a", "b", "c", "b"] {
        ring.push(record(id, 3));
    }
    let ids = |found: Vec<Arc<Record>>| found.iter().map(|record| record.id().to_owned()).collect::<Vec<_>>();
    assert_eq!(ids(ring.find(None, 9)), ["b", "c", "b"], "the oldest went, the newest is first");
    assert_eq!(ids(ring.find(None, 1)), ["b"]);
    assert_eq!((ring.find(Some("b"), 9).len(), ring.find(Some("a"), 9).len()), (2, 0));
    ring.keep(2);
    assert_eq!(ids(ring.find(None, 9)), ["b", "c"]);
    ring.keep(0);
    assert!(ring.find(None, 9).is_empty());
    ring.push(record("d", 1));
    ring.push(record("e", 1));
    assert_eq!(ids(ring.find(None, 9)), ["e"], "as the newest configuration says");
}

#[test]
fn a_record_is_bounded() {
    let mut record = record("a", 1);
    let record = Arc::get_mut(&mut record).expect("one holder");
    for _ in 0..MAX_STEPS {
        record.note(None, What::Trial);
    }
    assert_eq!((record.steps.len(), record.lost), (MAX_STEPS, 0));
    record.note(None, What::Trial);
    assert_eq!((record.steps.len(), record.lost), (MAX_STEPS, 1));
    assert!(record.to_string().contains("and 1 steps more: 96 are kept"));

    let long = "é".repeat(MAX_PATH_BYTES);
    let asked = |path, id| Asked {
        started: Instant::now(),
        direction: Direction::Inbound,
        asked: true,
        keep: 1,
        id,
        method: &http::Method::GET,
        host: "delta",
        path,
        query: false,
        caller: address("127.0.0.1:1"),
        identity: None,
    };
    let clipped = Record::new(&asked(&long, &long));
    assert_eq!((clipped.path().len(), clipped.id().len()), (MAX_PATH_BYTES, MAX_NAME_BYTES));
    assert_eq!(clipped.host(), "delta");
    let odd = Record::new(&asked(&long[..MAX_PATH_BYTES - 2], "x"));
    assert_eq!(odd.path().len(), MAX_PATH_BYTES - 2, "whole");
    // What is kept of each request: a step is as large as its largest kind.
    assert!(size_of::<Step>() <= 72, "{}", size_of::<Step>());
}

#[test]
fn a_refusal_is_explained() {
    let mut record = record("7f", 1);
    let own = Arc::get_mut(&mut record).expect("one holder");
    own.note(None, What::Filter("canary".into(), Outcome::Continue, Duration::from_micros(100)));
    own.note(None, What::Rule("delta/v1".into(), None));
    own.note(
        None,
        What::State(Box::new(State {
            endpoints: Box::new([
                candidate(0, Standing::Fine),
                candidate(1, Standing::Ejected(Cause::Status(503), Duration::from_secs(3))),
                candidate(2, Standing::Unreachable),
            ]),
            total: 3,
            requests: (2, Some(4)),
            pending: (0, None),
            retries: (0, None),
            breaker: Some(BreakerState { state: "open", left: Duration::from_millis(4200), window: [20, 12, 0] }),
        })),
    );
    own.failed("breaker_open: too many requests to delta failed");
    own.ended(End { link: Link::None, attempts: 0, ..end(503, Reason::BreakerOpen) });
    assert_eq!(
        text(&record),
        "503 breaker_open: too many requests to delta failed; delta has 3 endpoints, 1 ejected, 1 not reachable a moment \
         ago; its breaker is open for another 4.2 s: of 20 requests in its window 12 failed and 0 were slow\n\
         \x20 GET delta/v1/items?… to delta, outbound from our application at 127.0.0.1:40000\n\
         \x20 began …, took 1.5 ms; id 7f\n\
         \x20             the filter canary let it go on, after 0.1 ms\n\
         \x20             it follows the rule delta/v1\n\
         \x20             it failed; the service as it was then:\n\
         \x20   10.0.0.4:15006: score 1.50, 0 in flight\n\
         \x20   10.0.0.5:15006: score 1.50, 1 in flight, ejected for 503 for another 3.0 s\n\
         \x20   10.0.0.6:15006: score 1.50, 2 in flight, not reachable a moment ago\n\
         \x20   requests in flight: 2 of 4\n\
         \x20   its breaker is open for another 4.2 s: of 20 requests in its window 12 failed and 0 were slow\n"
    );
    let json = json(&record);
    assert_eq!((&json["reason"], &json["state"]["breaker"]["failed"]), (&"breaker_open".into(), &12.into()));
    assert_eq!(json["state"]["endpoints"][1]["cause"], "503");
}

#[test]
fn tries_are_told_in_sequence() {
    let mut record = record("7f", 1);
    let own = Arc::get_mut(&mut record).expect("one holder");
    let start = own.started;
    let own_at = |millis| Some(start + Duration::from_millis(millis));
    own.note(None, What::Chosen(Box::new([candidate(0, Standing::Fine), candidate(1, Standing::Full)]), 0, 3));
    own.note(None, What::Link(Link::H3, Because::UdpWorks));
    own.note(own_at(1), What::Sent);
    own.note(own_at(3), What::Answered(503, None, Duration::from_millis(2)));
    own.note(None, What::Again(Cause::Status(503), Duration::ZERO));
    own.note(own_at(4), What::Failed("stream_reset: \u{1b}[2J".into(), true));
    own.note(None, What::NotAgain(NotAgain::Unsafe));
    own.ended(end(503, Reason::None));
    let text = text(&record);
    for line in [
        "503: delta answered 503 itself over h3, at try 2; not sent again: it may have been carried out, and neither its \
         method nor a key says that once more is harmless\n",
        "\n              of 3 endpoints 10.0.0.4:15006 is chosen: score 1.50, 0 in flight; 10.0.0.5:15006: score 1.50, 1 in \
         flight, full; and 1 more\n",
        "\n              over h3: the peer's UDP answers\n",
        "\n      1.0 ms  sent\n      3.0 ms  answered 503, 2.0 ms after it was sent\n",
        "\n              it is sent again at once, for 503\n",
        "\n      4.0 ms  the try failed: stream_reset: \\u{1b}[2J\n",
    ] {
        assert!(text.contains(line), "{line}\nin\n{text}");
    }
    let json = json(&record);
    assert_eq!((&json["steps"][3]["step"], &json["steps"][3]["at_ms"]), (&"answered".into(), &3.0.into()));
}
