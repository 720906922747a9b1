//! Heads as they should be, and as they should not.

use super::*;

fn parse(text: &str) -> Result<Parsed<Shared<RequestHead>>, Reason> {
    match request(&mut BytesMut::from(text), &mut 0) {
        Ok(parsed) => Ok(parsed.unwrap_or_else(|| panic!("incomplete: {text:?}"))),
        Err(fault) => Err(fault.reason),
    }
}

#[test]
fn forms_of_a_target() {
    for (text, authority, path) in [
        ("GET /a?b HTTP/1.1\r\nHost: x:1\r\n\r\n", "x:1", "/a?b"),
        ("GET http://y/a HTTP/1.1\r\nHost: x\r\n\r\n", "y", "/a"),
        ("GET http://y HTTP/1.1\r\nHost: x\r\n\r\n", "y", "/"),
        ("GET http://y?b=/c HTTP/1.1\r\nHost: x\r\n\r\n", "y", "/?b=/c"),
        ("OPTIONS http://y HTTP/1.1\r\nHost: x\r\n\r\n", "y", "*"),
        ("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", "x", "*"),
        ("\r\n\r\nGET / HTTP/1.0\r\n\r\n", "", "/"),
    ] {
        let head = parse(text).expect(text).head;
        assert_eq!(
            (head.authority.as_ref().map_or("", |a| a.as_str()), head.path.as_str()),
            (authority, path),
            "{text}"
        );
    }
}

#[test]
fn smuggling_shapes_are_refused() {
    use Reason::{HttpRequestError as Bad, UnsupportedRequest as Unsupported, UnsupportedVersion as Version};
    let with = |fields: &str| format!("POST / HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
    for (text, why) in [
        (with("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), Bad),
        (with("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"), Bad),
        (with("Content-Length: 5\r\nContent-Length: 5\r\n"), Bad),
        (with("Content-Length: 5\r\nContent-Length: 6\r\n"), Bad),
        (with("Content-Length: 5, 5\r\n"), Bad),
        (with("Content-Length: +5\r\n"), Bad),
        (with("Content-Length: 0x5\r\n"), Bad),
        (with("Content-Length:\r\n"), Bad),
        (with("Transfer-Encoding: chunked, chunked\r\n"), Unsupported),
        (with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), Unsupported),
        (with("Transfer-Encoding: gzip, chunked\r\n"), Unsupported),
        (with("Transfer-Encoding: xchunked\r\n"), Unsupported),
        (with("Transfer-Encoding : chunked\r\n"), Bad),
        (with("Transfer-Encoding\u{b}: chunked\r\n"), Bad),
        (with("X: a\r\n b\r\n"), Bad),
        (with(" X: a\r\n"), Bad),
        (with("X: a\rb\r\n"), Bad),
        (with("X: a\0b\r\n"), Bad),
        (with("X: a\nY: b\r\n"), Bad),
        (with("Host: y\r\n"), Bad),
        (with(&format!("Connection: {}\r\n", "a,".repeat(MAX_FIELDS + 1))), Bad),
        ("GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n".into(), Bad),
        ("GET http://x/a#b HTTP/1.1\r\nHost: x\r\n\r\n".into(), Bad),
        ("GET http://x?a#b HTTP/1.1\r\nHost: x\r\n\r\n".into(), Bad),
        (with(": a\r\n"), Bad),
        ("POST / HTTP/1.1\r\n\r\n".into(), Bad),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".into(), Bad),
        ("GET / HTTP/1.1\nHost: x\n\n".into(), Bad),
        ("GET  / HTTP/1.1\r\nHost: x\r\n\r\n".into(), Bad),
        ("GET / HTTP/2.0\r\nHost: x\r\n\r\n".into(), Version),
        ("GET x HTTP/1.1\r\nHost: x\r\n\r\n".into(), Bad),
        ("GET /a b HTTP/1.1\r\nHost: x\r\n\r\n".into(), Bad),
        ("GET http://a@b/ HTTP/1.1\r\nHost: b\r\n\r\n".into(), Bad),
        ("GET ftp://b/ HTTP/1.1\r\nHost: b\r\n\r\n".into(), Bad),
        ("CONNECT b:1 HTTP/1.1\r\nHost: b:1\r\n\r\n".into(), Unsupported),
    ] {
        assert_eq!(parse(&text).map(|p| p.framing), Err(why), "{text:?}");
    }
}

#[test]
fn fields_of_the_connection_are_taken_away() {
    let parsed = parse("GET / HTTP/1.1\r\nHost: x\r\nConnection: X-Hop, host, close\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nTE: gzip, trailers\r\nX: y\r\n\r\n").expect("fine");
    let mut left: Vec<_> =
        parsed.head.headers.iter().map(|(n, v)| format!("{n}={}", v.to_str().expect("ASCII"))).collect();
    left.sort();
    assert_eq!((left.join(" ").as_str(), parsed.keep_alive), ("te=trailers x=y", false));
    let upgrade =
        parse("GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").expect("fine");
    assert_eq!(
        (upgrade.head.take().upgrade, upgrade.framing),
        (Some(HeaderValue::from_static("websocket")), Framing::Tunnel)
    );
    let h2c = parse("GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n").expect("fine");
    assert_eq!((h2c.head.take().upgrade, h2c.framing), (None, Framing::Empty));
}

/// RFC 9110 section 10.1.4.
#[test]
fn who_sends_te_says_that_it_is_for_the_next_hop() {
    for (more, said) in
        [("", "connection: te\r\n"), ("Upgrade: x\r\n", "connection: te\r\nconnection: upgrade\r\nupgrade: x\r\n")]
    {
        let text = format!("GET / HTTP/1.1\r\nHost: x\r\nConnection: TE, upgrade\r\nTE: trailers\r\n{more}\r\n");
        let mut out = BytesMut::new();
        super::super::write::request(&mut out, &parse(&text).expect("fine").head, Framing::Empty);
        assert_eq!(out, format!("GET / HTTP/1.1\r\nhost: x\r\nte: trailers\r\n{said}\r\n"));
    }
}

#[test]
fn a_head_that_drips_in_is_the_same() {
    for text in ["\r\nGET /a HTTP/1.1\r\nHost: x\r\nX: y\r\n\r\nGET", "GET / HTTP/1.1\r\nHost: x\r\nX y: z\r\n\r\n"] {
        let (mut input, mut scanned, mut read) = (BytesMut::new(), 0, None);
        for byte in text.bytes().take_while(|_| read.is_none()).collect::<Vec<_>>() {
            input.extend_from_slice(&[byte]);
            read = read.or(request(&mut input, &mut scanned).transpose());
            assert!(read.is_some() || scanned + 1 >= input.len(), "what was looked at is not looked at again");
        }
        let dripped = read.map(|read| read.map(|p| p.head.headers.clone()).map_err(|fault| fault.reason));
        assert_eq!(dripped, Some(parse(text).map(|p| p.head.headers.clone())), "{text}");
    }
}

#[test]
fn limits_at_their_edge() {
    // What is of the connection counts for none, as it crosses no hop.
    let with = |own: &str, n: usize| format!("GET / HTTP/1.1\r\nHost: x\r\n{own}{}\r\n", "a: b\r\n".repeat(n));
    let fields = |n: usize| with("Connection: te, close\r\nKeep-Alive: 5\r\n", n);
    assert!(parse(&fields(MAX_FIELDS)).is_ok());
    assert!(parse(&with("TE: trailers\r\n", MAX_FIELDS - 1)).is_ok());
    let refused = parse(&with("TE: trailers\r\n", MAX_FIELDS)).map(|p| p.framing);
    assert_eq!(refused, Err(Reason::RequestHeaderSectionSize));
    let named = format!("GET / HTTP/1.1\r\nHost: x\r\nConnection: {}\r\n\r\n", "a,".repeat(MAX_FIELDS));
    assert!(parse(&named).is_ok());
    assert_eq!(parse(&fields(MAX_FIELDS + 1)).map(|p| p.framing), Err(Reason::RequestHeaderSectionSize));
    let size = |n: usize| format!("GET / HTTP/1.1\r\nHost: x\r\na: {}\r\n\r\n", "b".repeat(n - 32));
    assert_eq!(size(1000).len(), 1000);
    assert!(parse(&size(MAX_HEAD_BYTES)).is_ok());
    assert_eq!(parse(&size(MAX_HEAD_BYTES + 1)).map(|p| p.framing), Err(Reason::RequestHeaderSectionSize));
    let target = |n: usize| format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(n - 1));
    assert!(parse(&target(MAX_TARGET_BYTES)).is_ok());
    assert_eq!(parse(&target(MAX_TARGET_BYTES + 1)).map(|p| p.framing), Err(Reason::UriTooLong));
}

#[test]
fn a_response_without_content_has_no_length() {
    for (status, lengths) in [(103, 0), (200, 1), (204, 0), (304, 1)] {
        let text = format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\n");
        let parsed = response(&mut BytesMut::from(&*text), &mut 0, &Method::HEAD).expect("fine").expect("whole");
        assert_eq!(parsed.head.headers.len(), lengths, "{status}");
    }
}

#[test]
fn framing_of_responses() {
    let parse = |text: &str, method| match response(&mut BytesMut::from(text), &mut 0, &method) {
        Ok(parsed) => Ok(parsed.map(|p| (p.framing, p.keep_alive))),
        Err(fault) => Err(fault.reason),
    };
    let bad = Err(Reason::HttpProtocolError);
    for (text, method, want) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Method::GET, Ok(Some((Framing::Length(5), true)))),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Method::HEAD, Ok(Some((Framing::Empty, true)))),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", Method::GET, Ok(Some((Framing::Empty, true)))),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Method::GET, Ok(Some((Framing::Chunked, true)))),
        ("HTTP/1.1 200\r\n\r\n", Method::GET, Ok(Some((Framing::Close, false)))),
        ("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", Method::GET, Ok(Some((Framing::Length(5), false)))),
        (
            "HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
            Method::GET,
            Ok(Some((Framing::Tunnel, true))),
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", Method::GET, bad),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", Method::GET, bad),
        ("HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", Method::GET, bad),
        ("HTTP/1.1 200 OK\nX: a\n\n", Method::GET, bad),
        ("SSH-2.0-OpenSSH\r\n\r\n", Method::GET, bad),
        ("HTTP/1.1 200 OK\r\nConte", Method::GET, Ok(None)),
    ] {
        assert_eq!(parse(text, method), want, "{text:?}");
    }
}
