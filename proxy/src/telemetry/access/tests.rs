use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use super::*;

#[test]
fn a_line_is_what_was_agreed() {
    let mut out = Vec::new();
    line(&full(), &mut out);
    line(&empty(), &mut out);
    let text = String::from_utf8(out).unwrap();
    if std::env::var_os("LACIS_BLESS").is_some() {
        std::fs::write(format!("{}/src/telemetry/golden/access.jsonl", env!("CARGO_MANIFEST_DIR")), text).unwrap();
    } else {
        assert_eq!(
            text,
            include_str!("../golden/access.jsonl"),
            "golden/access.jsonl differs; LACIS_BLESS=1 rewrites it"
        );
    }
}

#[test]
fn hostile_bytes_stay_inside_their_value() {
    let every_byte: Vec<u8> = (0..=255).collect();
    let mut record = empty();
    record.path = Bytes::from(every_byte).into();
    record.user_agent = Bytes::from_static(b"\",\"reason\":\"none\"}\r\n{\"\xe2\x80\xa8\xc2\x9b31m\\").into();
    record.filters = vec![Verdict { filter: "a\"b".into(), outcome: Outcome::Trap }];
    let mut out = Vec::new();
    line(&record, &mut out);
    assert_eq!(out.iter().filter(|b| b.is_ascii_control()).count(), 1, "only the newline at the end");
    let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(value["user_agent"], "\",\"reason\":\"none\"}\r\n{\"\u{2028}\u{9b}31m\\");
    assert_eq!(value["filters"][0]["filter"], "a\"b");
    let path = value["path"].as_str().unwrap();
    assert_eq!(path.chars().take(128).map(u32::from).collect::<Vec<_>>(), (0..128).collect::<Vec<_>>());
    assert!(path.chars().skip(128).all(|c| c == '\u{fffd}'));
}

#[test]
fn long_values_are_cut() {
    for (length, cut) in [(MAX_VALUE_BYTES, false), (MAX_VALUE_BYTES + 1, true)] {
        let mut record = empty();
        record.path = Bytes::from(vec![b'x'; length]).into();
        let mut out = Vec::new();
        line(&record, &mut out);
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value["path"].as_str().unwrap().ends_with('…'), cut);
    }
}

#[test]
fn timestamps_have_milliseconds() {
    for (since, text) in [
        (Duration::ZERO, "1970-01-01T00:00:00.000Z"),
        (Duration::from_millis(951_827_696_789), "2000-02-29T12:34:56.789Z"),
        (Duration::from_secs(4_102_444_799), "2099-12-31T23:59:59.000Z"),
        (Duration::from_secs(1 << 40), "9999-12-31T23:59:59.000Z"),
    ] {
        assert_eq!(Timestamp(SystemTime::UNIX_EPOCH + since).to_string(), text);
    }
    assert_eq!(Timestamp(SystemTime::UNIX_EPOCH - Duration::from_secs(1)).to_string(), "1970-01-01T00:00:00.000Z");
}

#[test]
fn everything_is_written_before_the_writer_ends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let registry = Registry::default();
    let (queue, writer) = open(&path).unwrap();
    let writer = thread::spawn({
        let registry = registry.clone();
        move || writer.run(&registry)
    });
    let log = queue.log(&registry.metrics());
    for _ in 0..100 {
        log.write(Box::new(empty()));
    }
    drop((queue, log));
    writer.join().unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 100);
}

#[test]
fn a_full_channel_drops_and_counts() {
    let dir = tempfile::tempdir().unwrap();
    let metrics = Registry::default().metrics();
    let (queue, writer) = open(&dir.path().join("access.log")).unwrap();
    let log = queue.log(&metrics);
    for _ in 0..MAX_WAITING {
        log.write(Box::new(empty()));
    }
    assert_eq!(metrics.access_log_dropped().read(), 0);
    log.write(Box::new(empty()));
    assert_eq!(metrics.access_log_dropped().read(), 1);
    drop(writer);
    log.write(Box::new(empty()));
    assert_eq!(metrics.access_log_dropped().read(), 2, "a log whose writer is gone loses records, not requests");
}

#[test]
fn a_rotated_file_is_let_go_of() {
    let dir = tempfile::tempdir().unwrap();
    let (path, rotated) = (dir.path().join("access.log"), dir.path().join("access.log.1"));
    let metrics = Registry::default().metrics();
    let (queue, mut writer) = open(&path).unwrap();
    let (log, lost) = (queue.log(&metrics), Counter::default());
    let turn = |writer: &mut Writer| writer.turn(writer.receiver.recv().unwrap(), &lost);
    log.write(Box::new(empty()));
    turn(&mut writer);
    std::fs::rename(&path, &rotated).unwrap();
    queue.reopen();
    turn(&mut writer);
    log.write(Box::new(empty()));
    log.write(Box::new(empty()));
    turn(&mut writer);
    let lines = |path| std::fs::read_to_string(path).unwrap().lines().count();
    assert_eq!((lines(&rotated), lines(&path), lost.read()), (1, 2, 0));
}

#[test]
fn records_that_cannot_be_written_are_counted() {
    let metrics = Registry::default().metrics();
    let Ok((queue, mut writer)) = open(Path::new("/dev/full")) else {
        eprintln!("skipped: /dev/full cannot be opened");
        return;
    };
    let (log, lost) = (queue.log(&metrics), Counter::default());
    for _ in 0..3 {
        log.write(Box::new(empty()));
    }
    let first = writer.receiver.recv().unwrap();
    writer.turn(first, &lost);
    assert_eq!(lost.read(), 3);
}

/// A disk that is full in the middle of a record, and has room again later.
#[test]
fn what_a_failure_tore_is_a_line_of_its_own() {
    let metrics = Registry::default().metrics();
    let directory = tempfile::tempdir().unwrap();
    let (queue, mut writer) = open(&directory.path().join("access.log")).unwrap();
    let (log, lost) = (queue.log(&metrics), Counter::default());
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_nonblocking(true).unwrap();
    writer.sink = Sink::File(File::from(OwnedFd::from(ours)));
    let mut text = Vec::new();
    let mut total = 0;
    for records in [MAX_WAITING, 1] {
        for _ in 0..records {
            log.write(Box::new(full()));
        }
        total += records as u64;
        let first = writer.receiver.recv().unwrap();
        writer.turn(first, &lost);
        // Takes what is there; then there is room.
        assert_eq!(theirs.read_to_end(&mut text).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
    let text = String::from_utf8(text).unwrap();
    let whole = text.lines().filter(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()).count() as u64;
    assert!(lost.read() > 0 && whole > 1, "{whole} and {}", lost.read());
    assert_eq!(whole + lost.read(), total, "each is there or counted");
    assert!(text.lines().count() as u64 <= whole + 1, "but for one they are whole");
    assert!(text.ends_with('\n') && !text.contains("\n\n"));
}

#[test]
fn a_path_that_cannot_be_opened_is_an_error_at_once() {
    assert!(open(Path::new("/nowhere/at/all")).is_err());
    let dir = tempfile::tempdir().unwrap();
    let (new, file) = (dir.path().join("new"), dir.path().join("file"));
    std::fs::write(&file, "before\n").unwrap();
    for (path, fine) in [
        (Path::new("/nowhere/at/all"), false),
        (dir.path(), false),
        (&file.join("below"), false),
        (&file, true),
        (&new, true),
        (Path::new("/dev/stdout"), true),
    ] {
        assert_eq!(check(path).is_ok(), fine, "{}", path.display());
        assert!(path != new || !new.exists(), "a look makes no file");
        assert_eq!(open(path).is_ok(), fine, "{}", path.display());
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "before\n");
}

#[test]
fn a_response_that_was_broken_off_had_begun() {
    for (broken_off, when) in [(false, "before"), (true, "after")] {
        let mut text = Vec::new();
        line(&Record { reason: Reason::StreamReset, broken_off, ..empty() }, &mut text);
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains(&format!("\"upstream_reset_{when}_response_started{{remote_reset}}\"")), "{text}");
    }
}

fn full() -> Record {
    let address = |port| Some(SocketAddr::from(([127, 0, 0, 1], port)));
    Record {
        start: SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_000_000_042),
        direction: Direction::Inbound,
        method: Some(http::Method::POST),
        path: PathAndQuery::from_static("/a?b=c").into(),
        protocol: Some(http::Version::HTTP_3),
        authority: Authority::from_static("delta:80").into(),
        status: 504,
        reason: Reason::HttpResponseTimeout,
        broken_off: false,
        delayed: false,
        failure: "no response within 15s".into(),
        details: Text::None,
        bytes_received: 12,
        bytes_sent: 345,
        duration: Duration::from_micros(15_000_123),
        upstream_service_time: Some(Duration::from_millis(3)),
        x_forwarded_for: HeaderValue::from_static("10.1.2.3").into(),
        user_agent: HeaderValue::from_static("curl/8").into(),
        request_id: HeaderValue::from_static("0b9c9c34-9c1d-4b52-8f1e-2f4b8b0a1c2d").into(),
        trace_id: Some([0x4b; 16]),
        upstream_host: address(8080),
        upstream_cluster: Arc::<str>::from("delta").into(),
        upstream_local_address: address(40_000),
        downstream_local_address: address(15_006),
        downstream_remote_address: address(50_000),
        requested_server_name: Bytes::from_static(b"delta").into(),
        route_name: Text::None,
        link: Link::H3,
        peer: Some(Arc::new("spiffe://mesh.local/ns/default/sa/alpha".parse().unwrap())),
        attempts: 2,
        authorization: Some((Authorization::WouldDeny, "no-admin".into())),
        filters: vec![
            Verdict { filter: "auth".into(), outcome: Outcome::Continue },
            Verdict { filter: "canary".into(), outcome: Outcome::Reply },
        ],
    }
}

fn empty() -> Record {
    Record {
        start: SystemTime::UNIX_EPOCH,
        direction: Direction::Outbound,
        method: None,
        path: Text::None,
        protocol: None,
        authority: Text::None,
        status: 0,
        reason: Reason::None,
        broken_off: false,
        delayed: false,
        failure: Text::None,
        details: Text::None,
        bytes_received: 0,
        bytes_sent: 0,
        duration: Duration::ZERO,
        upstream_service_time: None,
        x_forwarded_for: Text::None,
        user_agent: Text::None,
        request_id: Text::None,
        trace_id: None,
        upstream_host: None,
        upstream_cluster: Text::None,
        upstream_local_address: None,
        downstream_local_address: None,
        downstream_remote_address: None,
        requested_server_name: Text::None,
        route_name: Text::None,
        link: Link::None,
        peer: None,
        attempts: 0,
        authorization: None,
        filters: Vec::new(),
    }
}
