use super::*;
use crate::identity::SpiffeId;

const DELTA: [&str; 3] = ["10.0.0.4:15006", "10.0.0.5:15006", "10.0.0.6:15006"];

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn asked(keep: usize) -> Asked<'static> {
    Asked {
        started: Instant::now(),
        direction: Direction::Outbound,
        asked: false,
        keep,
        method: &http::Method::GET,
        grpc: false,
        host: "delta",
        path: "/v1/items",
        query: true,
        caller: ([127, 0, 0, 1], 40000).into(),
        identity: None,
    }
}

fn record(id: &str) -> Box<Record> {
    let mut record = Ring::default().begin(&asked(1));
    record.identify(id.as_bytes());
    record
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
    let push = |id: &str, keep| {
        let mut record = ring.begin(&asked(keep));
        record.identify(id.as_bytes());
        ring.push(record);
    };
    for id in ["a", "b", "c", "b"] {
        push(id, 3);
    }
    let ids = |found: Vec<Record>| found.iter().map(|record| record.id().to_owned()).collect::<Vec<_>>();
    assert_eq!(ids(ring.find(None, 9)), ["b", "c", "b"], "the oldest went, the newest is first");
    assert_eq!(ids(ring.find(None, 1)), ["b"]);
    assert_eq!((ring.find(Some("b"), 9).len(), ring.find(Some("a"), 9).len()), (2, 0));
    ring.keep(2);
    assert_eq!(ids(ring.find(None, 9)), ["b", "c"]);
    ring.keep(0);
    assert!(ring.find(None, 9).is_empty());
    push("d", 1);
    push("e", 1);
    assert_eq!(ids(ring.find(None, 9)), ["e"], "as the newest configuration says");
}

#[test]
fn a_record_is_bounded() {
    let mut record = record("a");
    for _ in 0..MAX_STEPS {
        record.note(None, |_| What::Trial);
    }
    assert_eq!((record.steps.len(), record.lost), (MAX_STEPS, 0));
    record.note(None, |own| What::NoUdp(own.text("is not even written")));
    assert_eq!((record.steps.len(), record.lost), (MAX_STEPS, 1));
    assert!(record.to_string().contains("and 1 steps more: 96 are kept"));

    let long = "é".repeat(store::MAX_TEXT_BYTES);
    let ring = Ring::default();
    let mut clipped = ring.begin(&Asked { path: &long, ..asked(1) });
    clipped.identify(long.as_bytes());
    clipped.failed(&long);
    let lengths = |record: &Record| {
        [Some(record.path), Some(record.id), record.failure].map(|at| record.own.read(at.unwrap_or_default()).len())
    };
    assert_eq!(lengths(&clipped), [MAX_PATH_BYTES, MAX_NAME_BYTES, store::MAX_TEXT_BYTES]);
    assert_eq!(clipped.own.read(clipped.host), "delta");
    let odd = ring.begin(&Asked { path: &long[..MAX_PATH_BYTES - 2], ..asked(1) });
    assert_eq!(odd.own.read(odd.path).len(), MAX_PATH_BYTES - 2, "whole");
    // What is kept of each request: a step is as large as its largest kind.
    assert!(size_of::<Step>() <= 48, "{}", size_of::<Step>());
    assert!(size_of::<Record>() <= 320, "{}", size_of::<Record>());
}

/// The one that comes next uses the room of the oldest, and has nothing else of it.
#[test]
fn a_record_is_used_again() {
    let ring = Ring::default();
    let caller = "spiffe://mesh.local/ns/default/sa/alpha".parse::<SpiffeId>().expect("an identity");
    let mut first = ring.begin(&Asked { identity: Some(&caller), asked: true, grpc: true, ..asked(1) });
    first.identify(b"first");
    for _ in 0..MAX_STEPS {
        let all = [candidate(0, Standing::Fine); MAX_SHOWN];
        first.note(None, |own| What::Chosen(own.endpoints(|kept| kept.extend(all)), MAX_SHOWN));
    }
    first.note(None, |_| What::Trial);
    first.note(None, |own| {
        own.state(State {
            endpoints: Box::default(),
            total: 0,
            requests: (0, None),
            pending: (0, None),
            retries: (0, None),
            breaker: None,
        });
        What::State
    });
    first.failed("x".repeat(store::MAX_TEXT_BYTES));
    first.ended(end(503, Reason::BreakerOpen));
    let room = |record: &Record| (record.steps.capacity(), record.own.room());
    let block: *const Record = &*first;
    ring.push(first);
    let second = ring.begin(&asked(1));
    assert!(!std::ptr::eq(block, &*second), "it is still kept");
    ring.push(second);
    let mut third = ring.begin(&asked(1));
    assert!(std::ptr::eq(block, &*third), "the blocks of the first");
    assert_eq!(room(&third), (USUAL_STEPS, store::USUAL), "what was unusual of it went back");
    let mut fresh = Ring::default().begin(&Asked { started: third.started, ..asked(1) });
    [&mut third, &mut fresh].into_iter().for_each(|record| record.ended(end(200, Reason::None)));
    assert_eq!(json(&third)["steps"], json(&fresh)["steps"]);
    assert_eq!(text(&third), text(&fresh));
    assert_eq!((third.is_asked(), third.is_grpc(), third.id()), (false, false, ""));
}

#[test]
fn a_refusal_is_explained() {
    let mut record = record("7f");
    record.note(None, |own| What::Filter(own.text("canary"), Outcome::Continue, Duration::from_micros(100)));
    record.note(None, |own| What::Rule(own.text("delta/v1"), None));
    record.note(None, |own| {
        own.state(State {
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
        });
        What::State
    });
    record.failed("breaker_open: too many requests to delta failed");
    record.ended(End { link: Link::None, attempts: 0, ..end(503, Reason::BreakerOpen) });
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
    let mut record = record("7f");
    let start = record.started;
    let own_at = |millis| Some(start + Duration::from_millis(millis));
    let both = [candidate(0, Standing::Fine), candidate(1, Standing::Full)];
    record.note(None, |own| What::Chosen(own.endpoints(|kept| kept.extend(both)), 3));
    record.note(None, |_| What::Link(Link::H3, Because::UdpWorks));
    record.note(own_at(1), |_| What::Sent);
    record.note(own_at(3), |_| What::Answered(503, None, Duration::from_millis(2)));
    record.note(None, |_| What::Again(Cause::Status(503), Duration::ZERO));
    record.note(own_at(4), |own| What::Failed(own.say("stream_reset: \u{1b}[2J"), true));
    record.note(None, |_| What::NotAgain(NotAgain::Unsafe));
    record.ended(end(503, Reason::None));
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
