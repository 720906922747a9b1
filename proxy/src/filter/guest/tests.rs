use http::HeaderName;

use super::*;
use crate::http::head::Version;

fn request() -> GuestRequest {
    request_with(false)
}

fn request_with(open: bool) -> GuestRequest {
    let mut headers = Fields::new();
    headers.insert(HeaderName::from_static("a"), HeaderValue::from_static("1"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("5"));
    let head = RequestHead {
        method: Method::POST,
        authority: Some(Authority::from_static("delta")),
        path: PathAndQuery::from_static("/x"),
        https: false,
        headers,
        version: Version::Http11,
        upgrade: None,
    };
    GuestRequest::new(head.into(), open)
}

fn pairs(map: &dyn Headers) -> String {
    let mut out = Vec::new();
    map.visit(&mut |name, value| {
        out.push(format!("{}={}", String::from_utf8_lossy(name), String::from_utf8_lossy(value)))
    });
    out.join(" ")
}

#[test]
fn one_map_of_pseudo_headers_and_fields() {
    let mut map = request();
    assert_eq!(pairs(&map), ":authority=delta :path=/x :method=POST :scheme=http a=1 content-length=5");
    assert_eq!(map.count(), 6);
    map.replace(b"host", b"delta-v2");
    map.add(b"a", b"2");
    map.replace(b":path", b"/y?z");
    map.remove(b"content-length");
    assert_eq!(pairs(&map), ":authority=delta-v2 :path=/y?z :method=POST :scheme=http a=1 a=2");
    assert_eq!(map.get(b"a"), Some(&b"1"[..]));
    map.replace(b"a", b"1");
    assert_eq!(pairs(&map), ":authority=delta-v2 :path=/y?z :method=POST :scheme=http a=1");
    map.replace(b"a", b"3");
    map.add(b":scheme", b"https");
    assert_eq!(pairs(&map), ":authority=delta-v2 :path=/y?z :method=POST :scheme=https a=3");
    map.add(b"host", b"delta-v3");
    assert_eq!((map.get(b":authority"), map.get(b"host")), (Some(&b"delta-v2,delta-v3"[..]), map.get(b":authority")));
    assert_eq!(map.check(), Ok(()));
}

#[test]
fn nothing_that_cannot_be_sent_passes() {
    for (name, value, why) in [
        ("a", "b\r\nc: d", "invalid header value for: a"),
        ("a b", "c", "invalid header name: a b"),
        ("", "c", "invalid header name: "),
        (":path", "/a b", "invalid header value for: :path"),
        (":path", "x", "invalid header value for: :path"),
        (":path", "http://evil/", "invalid header value for: :path"),
        (":method", "GET /x", "invalid header value for: :method"),
        (":method", "CONNECT", "invalid header value for: :method"),
        (":authority", "a b", "invalid header value for: :authority"),
    ] {
        let mut map = request();
        map.replace(name.as_bytes(), value.as_bytes());
        assert_eq!(map.check(), Err(why.into()), "{name}: {value}");
    }
    let mut map = request();
    map.remove(b":scheme");
    assert_eq!((map.get(b":scheme"), map.count()), (None, 5));
    assert_eq!(map.check(), Ok(()), "nobody needs it");
    map.replace(b":scheme", b"https");
    assert_eq!((map.get(b":scheme"), map.count()), (Some(&b"https"[..]), 6));
    for name in [":path", ":method", ":authority"] {
        let mut map = request();
        map.remove(name.as_bytes());
        assert_eq!(map.check(), Err(format!("missing required header: {name}")));
    }
    let mut response = GuestResponse::new(ResponseHead::new(StatusCode::OK).into(), false);
    for bad in ["", "0", "100", "1000", "abc"] {
        response.replace(b":status", bad.as_bytes());
        assert!(response.check().is_err(), "{bad}");
    }
    response.replace(b":status", b"404");
    response.add(b":status", b"200");
    assert_eq!(response.get(b":status"), Some(&b"404,200"[..]));
    assert!(response.check().is_err(), "two are none");
    response.replace(b":status", b"404");
    assert_eq!((response.check(), response.head.status), (Ok(()), StatusCode::NOT_FOUND));
}

#[test]
fn what_is_mended_in_time_passes() {
    let mut map = request();
    for (bad, value, good) in [
        ("a", "b\r\nc: d", "1"),
        ("new", "\0", "1"),
        (":path", "x", "/x"),
        (":method", "GET /x", "POST"),
        (":authority", "a b", "delta"),
    ] {
        map.add(bad.as_bytes(), value.as_bytes());
        map.replace(bad.as_bytes(), good.as_bytes());
    }
    map.replace(b"host", b"a b");
    map.replace(b":authority", b"delta");
    map.add(b"a b", b"");
    map.remove(b"a b");
    assert_eq!(map.check(), Ok(()));
    assert_eq!(pairs(&map), ":authority=delta :path=/x :method=POST :scheme=http a=1 content-length=5 new=1");
    map.add(b"a", b"\n");
    map.add(b"b", b"\n");
    map.replace(b"a", b"2");
    assert_eq!(map.check(), Err("invalid header value for: b".into()), "one of two");
    map.add(b"a", b"\n");
    map.add(b"a", b"3");
    assert!(map.check().is_err(), "another line mends none");
    for number in 0..=MENDED {
        map.add(format!("{number} ").as_bytes(), b"");
    }
    for number in 0..=MENDED {
        map.remove(format!("{number} ").as_bytes());
    }
    assert!(map.check().is_err(), "more than anybody mends");
    map.add(b"a b", b"");
    map.clear();
    assert_eq!(map.check(), Err("missing required header: :authority".into()));
}

#[test]
fn framing_is_not_the_guests() {
    let mut map = request();
    map.add(b"transfer-encoding", b"chunked");
    map.add(b"connection", b"close");
    map.replace(b"content-length", b"500");
    assert_eq!(map.check(), Ok(()));
    assert_eq!(pairs(&map), ":authority=delta :path=/x :method=POST :scheme=http a=1 content-length=5");
    let mut map = request_with(true);
    map.replace(b"content-length", b"500");
    assert_eq!(map.check(), Ok(()));
    assert_eq!(map.get(b"content-length"), Some(&b"500"[..]), "who sees the content may say how long it becomes");
}

#[test]
fn trailers_are_fields_that_may_stand_there() {
    let mut map = GuestTrailers::default();
    map.add(b"x-sum", b"1");
    map.add(b"x-sum", b"2");
    map.add(b"content-length", b"7");
    map.add(b"transfer-encoding", b"chunked");
    assert_eq!((map.check(), pairs(&map).as_str()), (Ok(()), "x-sum=1 x-sum=2"));
    map.replace(b"x-sum", b"a\r\nb");
    assert!(map.check().is_err());
    map.add(b":status", b"200");
    assert!(map.check().is_err(), "a pseudo-header is no field");
}

#[test]
fn the_number_of_lines_is_bounded() {
    let mut map = GuestResponse::new(ResponseHead::new(StatusCode::OK).into(), false);
    let most = Fields::MOST + 1;
    for line in 0..Fields::MOST {
        map.add(format!("x-{line}").as_bytes(), b"1");
    }
    map.replace(b"x-0", b"2");
    assert_eq!((map.check(), map.count() as usize, map.get(b"x-0")), (Ok(()), most, Some(&b"2"[..])));
    map.add(b"x-0", b"3");
    assert_eq!(map.check(), Err("too many headers".into()));
    map.replace(b"another", b"3");
    assert_eq!(map.check(), Err("too many headers".into()));
    map.remove(b"x-0");
    map.replace(b"another", b"3");
    assert_eq!((map.check(), map.count() as usize), (Ok(()), most));
}

/// Of trailers that no sidecar reads a whole connection may end.
#[test]
fn trailers_are_as_large_as_sidecars_read() {
    let mut map = GuestTrailers::default();
    for line in 0..rules::MAX_FIELDS {
        map.add(format!("x-{line}").as_bytes(), b"1");
    }
    assert_eq!(map.check(), Ok(()));
    map.add(b"more", b"1");
    assert!(map.check().unwrap_err().starts_with("101 fields with those that were added here"));
    map.clear();
    let value = |room: usize| vec![b'v'; rules::MAX_HEAD_BYTES - "a".len() - room];
    map.add(b"a", &value(32));
    assert_eq!(map.check(), Ok(()));
    map.replace(b"a", &value(31));
    assert!(map.check().unwrap_err().starts_with("65537 bytes of fields"));
}

#[test]
fn a_head_that_others_hold_is_copied_for_a_change_only() {
    let mut map = request();
    let theirs = Rc::clone(&map.head);
    assert_eq!((map.get(b"a"), map.count()), (Some(&b"1"[..]), 6));
    assert_eq!(map.check(), Ok(()));
    assert!(Rc::ptr_eq(&map.head, &theirs));
    map.replace(b"content-length", b"9");
    assert_eq!((map.check(), map.get(b"content-length")), (Ok(()), Some(&b"5"[..])));
    map.replace(b"a", b"2");
    assert_eq!(
        (&theirs.headers["a"], &map.head.headers["a"]),
        (&HeaderValue::from_static("1"), &HeaderValue::from_static("2"))
    );
    let mine = Rc::as_ptr(&map.head);
    map.add(b"b", b"");
    assert_eq!(Rc::as_ptr(&map.head), mine, "nobody else holds it");
}

#[test]
fn an_upgrade_is_seen_and_not_changed() {
    let upgrade = HeaderValue::from_static("websocket");
    let mut map = request();
    Rc::make_mut(&mut map.head).upgrade = Some(upgrade.clone());
    let mut answer = GuestResponse::new(ResponseHead::new(StatusCode::SWITCHING_PROTOCOLS).into(), false);
    Rc::make_mut(&mut answer.head).upgrade = Some(upgrade);
    let maps: [(&mut dyn Headers, &str); 2] = [
        (&mut map, ":authority=delta :path=/x :method=POST :scheme=http a=1 content-length=5"),
        (&mut answer, ":status=101"),
    ];
    for (map, before) in maps {
        map.replace(b"upgrade", b"h2c");
        map.add(b"connection", b"close");
        map.remove(b"upgrade");
        assert_eq!(pairs(map), format!("{before} connection=upgrade upgrade=websocket"));
        assert_eq!(map.lines(), Some(before.split(' ').count() as u32 + 2));
        assert_eq!((map.get(b"connection"), map.get(b"upgrade")), (Some(&b"upgrade"[..]), Some(&b"websocket"[..])));
    }
    assert_eq!((request().get(b"connection"), request().get(b"upgrade")), (None, None));
}
