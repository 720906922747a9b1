use std::rc::Rc;

use super::record::USUAL_STEPS;
use super::words::Word;
use super::*;
use crate::identity::SpiffeId;
use crate::telemetry::labels::{Direction, Method};
use crate::telemetry::trail::Trail;

/// What a record takes, and how much of it a usual request: in lines of the cache.
const LINE_BYTES: usize = 64;
const RECORD_BYTES: usize = 10 * LINE_BYTES;
const USUAL_BYTES: usize = 6 * LINE_BYTES;

const DELTA: [&str; 3] = ["10.0.0.4:15006", "10.0.0.5:15006", "10.0.0.6:15006"];

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn asked(keep: usize) -> Asked<'static> {
    Asked { keep, method: None, host: "delta", path: "/v1/items", query: true, identity: None }
}

fn record(id: &str) -> Box<Record> {
    let mut record = Ring::default().begin(&asked(1));
    record.identify(id.as_bytes());
    record
}

fn ending(end: End) -> Ending {
    let caller = ([127, 0, 0, 1], 40000).into();
    Ending { started: Instant::now(), direction: Direction::Outbound, method: Method::Get, caller, first: None, end }
}

/// What is told of a request that was noted so, and ended so.
fn told(noted: Box<Record>, ending: Ending) -> Explanation {
    let ring = Ring::default();
    ring.push(noted, ending);
    ring.find(None, 1).remove(0)
}

fn kinds(told: &Explanation) -> Vec<String> {
    let all = json(told)["steps"].as_array().expect("a list").clone();
    all.iter().map(|step| step["step"].as_str().expect("text").to_owned()).collect()
}

fn end(status: u16, reason: Reason) -> End {
    let (service, route) = (Some("delta".into()), Some("delta/v1".into()));
    let (duration, bound) = (Duration::from_micros(1500), Duration::from_secs(15));
    End { status, reason, duration, link: Link::H3, attempts: 2, bound, service, route }
}

fn candidate(at: usize, standing: Standing) -> Candidate {
    Candidate { address: address(DELTA[at]), in_flight: at as u32, weight: 1, score: Some(1.5), standing }
}

const CHOSEN: Chosen = Chosen { in_flight: 0, weight: 1, total: 3, score: Some(1.5) };

/// The text but for the moment when it began, which is of now.
fn text(told: &Explanation) -> String {
    let text = told.to_string();
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
        ring.push(record, ending(end(200, Reason::None)));
    };
    for id in ["a", "b", "c", "b"] {
        push(id, 3);
    }
    let ids = |found: Vec<Explanation>| found.iter().map(|record| record.id().to_owned()).collect::<Vec<_>>();
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
    let steps = |record: &Record| record.rest().map(|more| (more.steps.len(), more.lost));
    assert_eq!(steps(&record), Some((MAX_STEPS, 0)));
    record.note(None, |own| What::NoUdp(own.text("is not even written")));
    assert_eq!(steps(&record), Some((MAX_STEPS, 1)));
    assert!(text(&told(record, ending(end(200, Reason::None)))).contains("and 1 steps more: 96 are kept"));

    let long = "é".repeat(store::MAX_TEXT_BYTES);
    let mut clipped = Ring::default().begin(&Asked { path: &long, method: Some(&long), ..asked(1) });
    clipped.identify(long.as_bytes());
    clipped.failed(&long);
    let told = told(clipped, ending(end(503, Reason::LimitReached)));
    let lengths = [told.path().len(), told.id().len(), told.failure().expect("one").len(), told.record.method().len()];
    assert_eq!(lengths, [MAX_PATH_BYTES, MAX_NAME_BYTES, store::MAX_TEXT_BYTES, MAX_NAME_BYTES]);
    assert_eq!(told.host(), "delta");
    let odd = Ring::default().begin(&Asked { path: &long[..MAX_PATH_BYTES - 2], ..asked(1) });
    assert_eq!(odd.read(Word::Path).len(), MAX_PATH_BYTES - 2, "whole");
    // What is kept of each request: a step is as large as its largest kind.
    assert!(size_of::<Step>() <= 48, "{}", size_of::<Step>());
    assert_eq!((size_of::<Record>(), align_of::<Record>()), (RECORD_BYTES, LINE_BYTES));
}

/// A trail on which this was noted of a request's only try.
fn travelled(ring: &Ring, id: &str, rival: Option<Candidate>) -> Trail {
    let trail = Trail::default();
    trail.record(ring.begin(&asked(1)), false, false);
    trail.identify(id.as_bytes());
    try_once(&trail, rival);
    trail
}

fn try_once(trail: &Trail, rival: Option<Candidate>) {
    trail.attempt(address(DELTA[0]));
    trail.chose(CHOSEN, rival);
    trail.over(Link::H2, Because::UdpFailed);
    trail.leaves(Rc::default(), Instant::now());
    trail.noted(Answer { status: 200, code: Some(14), took: Duration::from_millis(2) });
}

fn ended(trail: &Trail) -> Explanation {
    let first = trail.first();
    let noted = trail.recorded().expect("a record");
    told(noted, Ending { first, ..ending(end(200, Reason::None)) })
}

/// Of a usual request nothing is noted but its words, and little of what is kept of it is written: a thousand of them must
/// find room in the processor's cache beside what forwards.
#[test]
fn a_usual_request_touches_few_lines_of_the_cache() {
    let trail = travelled(&Ring::default(), "3f2b8c1e-7d49-4a5b-9c0d-1e2f3a4b5c6d", None);
    trail.write(|record| {
        record.routed();
        assert!(record.rest().is_none(), "nothing was noted elsewhere");
        assert!(record.used() <= USUAL_BYTES, "{} bytes", record.used());
    });
    assert_eq!(kinds(&ended(&trail)), ["rule", "bound", "chosen", "link", "sent", "answered"]);
}

/// The same is told of the first try, whether it is kept beside the rest or as steps.
#[test]
fn the_first_try_is_told_as_any_other() {
    let rival = Some(Candidate { in_flight: 4, ..candidate(1, Standing::Fine) });
    let of = |tries: usize, more: usize| {
        let trail = Trail::default();
        trail.record(Ring::default().begin(&asked(1)), false, false);
        trail.note(|own| What::Filter(own.text("canary"), Outcome::Continue, None));
        trail.write(Record::routed);
        trail.note(|_| What::Due(Duration::from_secs(1)));
        (0..tries).for_each(|_| try_once(&trail, rival));
        (0..more).for_each(|_| trail.note(|_| What::NotAgain(NotAgain::Unsafe)));
        let told = ended(&trail);
        let steps = json(&told)["steps"].as_array().expect("a list").clone();
        let known = |step: &serde_json::Value| {
            let mut step = step.clone();
            step["at_ms"].take();
            step
        };
        (kinds(&told), steps.iter().map(known).collect::<Vec<_>>())
    };
    let ((names, once), (_, noted), (_, twice)) = (of(1, 0), of(1, 1), of(2, 1));
    assert_eq!(names, ["filter", "rule", "bound", "due", "chosen", "link", "sent", "answered"]);
    assert_eq!(once[4]["considered"][1]["in_flight"], 4);
    assert_eq!((once.len(), noted.len(), twice.len()), (8, 9, 13));
    assert_eq!(once[..], noted[..8]);
    assert_eq!((&once[4..], &once[4..]), (&twice[4..8], &twice[8..12]));

    // What comes in between is told in between.
    let trail = Trail::default();
    trail.record(Ring::default().begin(&asked(1)), false, false);
    trail.attempt(address(DELTA[0]));
    trail.chose(CHOSEN, None);
    trail.over(Link::H3, Because::UdpUnknown);
    trail.note(|own| What::NoUdp(own.text("silence")));
    trail.over(Link::H2, Because::UdpFailed);
    trail.leaves(Rc::default(), Instant::now());
    trail.note_at(Instant::now(), |own| What::Failed(own.text("reset"), true));
    let told = ended(&trail);
    assert_eq!(kinds(&told), ["bound", "chosen", "link", "no_udp", "link", "sent", "failed"]);
    let json = json(&told);
    assert_eq!((&json["steps"][2]["link"], &json["steps"][4]["link"]), (&"h3".into(), &"h2".into()));
    assert_eq!(json["steps"][1]["considered"].as_array().map(Vec::len), Some(1));
}

/// Words that find no room beside the rest are kept elsewhere, and a method of one's own is told as it was said.
#[test]
fn long_words_and_strange_methods_are_told() {
    let caller = "spiffe://mesh.local/ns/default/sa/alpha".parse::<SpiffeId>().expect("an identity");
    let path = "/p".repeat(180);
    let strange = Asked { path: &path, method: Some("BREW"), identity: Some(&caller), ..asked(1) };
    let mut record = Ring::default().begin(&strange);
    record.identify("i".repeat(250).as_bytes());
    assert_eq!(record.id().len(), 250);
    record.identify(b"\xff");
    assert_eq!(record.id(), "", "what is no text is no id");
    record.identify(b"7f");
    let told = told(record, Ending { method: Method::Other, ..ending(end(200, Reason::None)) });
    let json = json(&told);
    assert_eq!((&json["path"], &json["host"], &json["id"]), (&path.into(), &"delta".into(), &"7f".into()));
    assert_eq!((&json["method"], &json["caller"]["identity"]), (&"BREW".into(), &caller.as_str().into()));
}

/// Those that come next use the room of the oldest, and have nothing else of it.
#[test]
fn a_record_is_used_again() {
    let ring = Ring::default();
    let caller = "spiffe://mesh.local/ns/default/sa/alpha".parse::<SpiffeId>().expect("an identity");
    let mut first = ring.begin(&Asked { identity: Some(&caller), method: Some("BREW"), ..asked(1) });
    first.identify(b"first");
    for _ in 0..=MAX_STEPS {
        let all = [candidate(0, Standing::Fine); MAX_SHOWN];
        first.note(None, |own| What::Chosen(own.endpoints(|kept| kept.extend(all)), MAX_SHOWN));
    }
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
    let block: *const Record = &*first;
    ring.push(first, ending(end(503, Reason::BreakerOpen)));
    let told = |ring: &Ring| text(&ring.find(None, 1)[0]);
    assert!(told(&ring).starts_with("503 breaker_open: xxx"), "{}", told(&ring));
    // One that has steps gets those of the one that is kept; then they are there for the next.
    for _ in 0..2 {
        let mut next = ring.begin(&asked(1));
        assert!(std::ptr::eq(block, &*next), "it is warm");
        assert!(next.rest().is_none() && next.id().is_empty(), "it has said nothing yet");
        next.note(None, |_| What::Trial);
        let room = next.rest().map(|more| (more.steps.capacity(), more.own.room()));
        let fresh = Ring::default();
        let mut other = fresh.begin(&asked(1));
        other.note(None, |_| What::Trial);
        let least = other.rest().map(|more| (more.steps.capacity(), more.own.room()));
        assert!(room == least || room == Some((USUAL_STEPS, store::USUAL)), "what was unusual went back: {room:?}");
        ring.push(next, ending(end(200, Reason::None)));
        fresh.push(other, ending(end(200, Reason::None)));
        assert_eq!(told(&ring), told(&fresh));
    }
    // One that has none hides those that were.
    ring.push(ring.begin(&asked(1)), ending(end(200, Reason::None)));
    assert_eq!(kinds(&ring.find(None, 1)[0]), [""; 0]);
}

#[test]
fn a_refusal_is_explained() {
    let mut record = record("7f");
    record.note(None, |own| What::Filter(own.text("canary"), Outcome::Continue, Some(Duration::from_micros(100))));
    record.routed();
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
    let told = told(record, ending(End { link: Link::None, attempts: 0, ..end(503, Reason::BreakerOpen) }));
    assert_eq!(
        text(&told),
        "503 breaker_open: too many requests to delta failed; delta has 3 endpoints, 1 ejected, 1 not reachable a moment \
         ago; its breaker is open for another 4.2 s: of 20 requests in its window 12 failed and 0 were slow\n\
         \x20 GET delta/v1/items?… to delta, outbound from our application at 127.0.0.1:40000\n\
         \x20 began …, took 1.5 ms; id 7f\n\
         \x20             the filter canary let it go on, after 0.1 ms\n\
         \x20             it follows the rule delta/v1\n\
         \x20             an answer may take 15.0 s\n\
         \x20             it failed; the service as it was then:\n\
         \x20   10.0.0.4:15006: score 1.50, 0 in flight\n\
         \x20   10.0.0.5:15006: score 1.50, 1 in flight, ejected for 503 for another 3.0 s\n\
         \x20   10.0.0.6:15006: score 1.50, 2 in flight, not reachable a moment ago\n\
         \x20   requests in flight: 2 of 4\n\
         \x20   its breaker is open for another 4.2 s: of 20 requests in its window 12 failed and 0 were slow\n"
    );
    let json = json(&told);
    assert_eq!((&json["reason"], &json["state"]["breaker"]["failed"]), (&"breaker_open".into(), &12.into()));
    assert_eq!(json["state"]["endpoints"][1]["cause"], "503");
}

#[test]
fn tries_are_told_in_sequence() {
    let mut record = record("7f");
    let start = Instant::now();
    let own_at = |millis| Some(start + Duration::from_millis(millis));
    let both = [candidate(0, Standing::Fine), candidate(1, Standing::Full)];
    record.note(None, |own| What::Chosen(own.endpoints(|kept| kept.extend(both)), 3));
    record.note(None, |_| What::Link(Link::H3, Because::UdpWorks));
    record.note(own_at(1), |_| What::Sent);
    record.note(own_at(3), |_| What::Answered(503, None, Duration::from_millis(2)));
    record.note(None, |_| What::Again(Cause::Status(503), Duration::ZERO));
    record.note(own_at(4), |own| What::Failed(own.say("stream_reset: \u{1b}[2J"), true));
    record.note(None, |_| What::NotAgain(NotAgain::Unsafe));
    let told = told(record, Ending { started: start, ..ending(end(503, Reason::None)) });
    let text = text(&told);
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
    let json = json(&told);
    assert_eq!((&json["steps"][4]["step"], &json["steps"][4]["at_ms"]), (&"answered".into(), &3.0.into()));
}
