//! Connections in memory, in all sorts of pieces: with each other, with rustls' own record layer, and over TCP with OpenSSL.

use std::future::poll_fn;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

use rustls::HandshakeKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::fault::Reason;
use crate::tls::handshake::{Accepted, accept, connect};
use crate::tls::tests::{Mesh, id, stranger};
use crate::tls::{Alpn, server_name};

type Pair = (Stream<Pieces>, Stream<Pieces>);

/// One end of a connection in memory, over which so many bytes come and go at a time at most.
struct Pieces {
    io: DuplexStream,
    most: usize,
}

impl AsyncRead for Pieces {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut piece = vec![0; buf.remaining().min(self.most)];
        let mut read = ReadBuf::new(&mut piece);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut read))?;
        buf.put_slice(read.filled());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let n = buf.len().min(self.most);
        Pin::new(&mut self.io).poll_write(cx, &buf[..n])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // Across the borders of records, as a socket takes them.
        let all = bufs.iter().flat_map(|buf| buf.iter().copied()).collect::<Vec<_>>();
        self.poll_write(cx, &all)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// A client and a server, with so many bytes on the way between them at most. A ticket must find room there.
async fn pair(room: usize) -> Pair {
    pieces(room, usize::MAX).await
}

async fn pieces(room: usize, most: usize) -> Pair {
    let mesh = Mesh::new();
    let (alpha, delta) = (mesh.settings("alpha"), mesh.settings("delta"));
    let (near, far) = duplex(room);
    let (near, far) = (Pieces { io: near, most }, Pieces { io: far, most });
    let client = alpha.client(&[id("delta")], Alpn::Http2);
    let (client, server) = tokio::join!(connect(near, client, &alpha, "delta"), accept(far, delta.clone()));
    let (client, alpn, answers) = client.expect("connected");
    let Accepted { stream, alpn: accepted, peer, server_name } = server.expect("accepted");
    assert_eq!((alpn, accepted), (Some(Alpn::Http2), Some(Alpn::Http2)));
    assert_eq!((&answers.spiffe, &peer.spiffe), (&id("delta"), &id("alpha")));
    assert_eq!(server_name.as_deref(), Some("delta"));
    (client, stream)
}

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|i| ((i * 31) >> 3) as u8).collect()
}

/// Sends in pieces of growing size and reads what comes back, which is the same.
async fn echo(mut client: Stream<Pieces>, mut server: Stream<Pieces>, length: usize) -> Pair {
    let sent = content(length);
    let mut received = vec![0; length];
    let there = async {
        let (mut buffer, mut left) = (vec![0; 50_000], length);
        while left > 0 {
            let n = server.read(&mut buffer).await.expect("read");
            server.write_all(&buffer[..n]).await.expect("write");
            server.flush().await.expect("flush");
            left -= n;
        }
    };
    let (mut reader, mut writer) = tokio::io::split(&mut client);
    let back = async {
        let (mut at, mut size) = (0, 1);
        while at < length {
            let end = length.min(at + size);
            let third = (end - at) / 3;
            let pieces = [IoSlice::new(&sent[at..at + third]), IoSlice::new(&[]), IoSlice::new(&sent[at + third..end])];
            at += writer.write_vectored(&pieces).await.expect("write");
            writer.flush().await.expect("flush");
            size *= 3;
        }
    };
    tokio::join!(there, back, async { reader.read_exact(&mut received).await.expect("read") });
    assert!(received == sent);
    (client, server)
}

#[tokio::test]
async fn everything_arrives_in_all_sorts_of_pieces() {
    for (room, most, length) in
        [(500, 1, 2_000), (1 << 20, 23, 40_000), (16_406, 9_999, 200_000), (1 << 20, 1 << 20, 900_000)]
    {
        let (mut client, mut server) = pieces(room, most).await;
        // Several changes of keys on the way, on both sides.
        client.sealer.wear(3);
        server.sealer.wear(2);
        let (mut client, server) = echo(client, server, length).await;
        for stream in [&mut client, &mut { server }] {
            assert!(poll_once(stream).await.is_pending());
            assert_eq!((stream.block.capacity(), stream.rest.capacity(), stream.outbox.len()), (0, 0, 0), "it rests");
        }
    }
}

async fn poll_once(stream: &mut Stream<Pieces>) -> Poll<io::Result<Option<BytesMut>>> {
    poll_fn(|cx| Poll::Ready(stream.poll_content(cx))).await
}

#[tokio::test]
async fn content_is_read_where_it_lies() {
    let (mut client, mut server) = pair(1 << 20).await;
    for text in ["one", "two", "three"] {
        client.write_all(text.as_bytes()).await.expect("write");
    }
    let first = poll_fn(|cx| server.poll_content(cx)).await.expect("read").expect("content");
    assert_eq!(first, "one");
    // One read has brought all three.
    assert!(!server.block.is_empty());
    let mut part = [0; 2];
    server.read_exact(&mut part).await.expect("read");
    assert_eq!(&part, b"tw");
    let rest = poll_fn(|cx| server.poll_content(cx)).await.expect("read").expect("content");
    assert_eq!(rest, "o");
    let third = poll_fn(|cx| server.poll_content(cx)).await.expect("read").expect("content");
    assert_eq!(third, "three");
}

#[tokio::test]
async fn what_is_written_waits_only_up_to_a_limit() {
    let (mut client, mut server) = pair(1000).await;
    let sent = content(10 * BATCH);
    let n = poll_fn(|cx| Poll::Ready(Pin::new(&mut client).poll_write(cx, &sent))).await;
    assert!(matches!(n, Poll::Ready(Ok(n)) if n == BATCH), "{n:?}");
    for _ in 0..3 {
        assert!(poll_fn(|cx| Poll::Ready(Pin::new(&mut client).poll_write(cx, &sent))).await.is_pending());
        assert!(client.outbox.len() <= RECORDS);
    }
    let mut received = vec![0; BATCH];
    let (flushed, read) = tokio::join!(client.flush(), server.read_exact(&mut received));
    assert!(flushed.is_ok() && read.is_ok() && received == sent[..BATCH]);
}

#[tokio::test]
async fn each_direction_ends_by_itself() {
    let (mut client, mut server) = pair(100_000).await;
    client.write_all(b"last").await.expect("write");
    client.shutdown().await.expect("shutdown");
    assert_eq!(client.write(b"more").await.expect_err("over").kind(), io::ErrorKind::BrokenPipe);
    let mut text = String::new();
    server.read_to_string(&mut text).await.expect("an end that was said");
    assert_eq!(text, "last");
    server.write_all(b"answer").await.expect("still open");
    server.shutdown().await.expect("shutdown");
    text.clear();
    client.read_to_string(&mut text).await.expect("an end that was said");
    assert_eq!(text, "answer");

    // An end that just happens is none, be it between two records or within one.
    for torn in [false, true] {
        let (mut client, mut server) = pair(100_000).await;
        client.write_all(b"part").await.expect("write");
        if torn {
            client.io.write_all(&[23, 3, 3]).await.expect("write");
        }
        drop(client);
        let mut read = Vec::new();
        let error = server.read_to_end(&mut read).await.expect_err("truncated");
        assert_eq!((error.kind(), &read[..]), (io::ErrorKind::UnexpectedEof, &b"part"[..]));
    }
}

/// What a client may say that no client should: records that it seals, or bytes as they are.
enum Wrong<'a> {
    Sealed(&'a [(u8, &'a [u8])]),
    Raw(&'a [u8]),
    Updates(usize),
}

#[tokio::test]
async fn whoever_breaks_the_rules_is_told_how() {
    const DATA: u8 = 23;
    const HANDSHAKE: u8 = 22;
    const ALERT: u8 = 21;
    let large = vec![1; MAX_CONTENT + 1];
    let ticket = [4, 0, 0, 1, 0];
    let mut forged = vec![23, 3, 3, 0, 40];
    forged.resize(45, 7);
    let cases: &[(&str, Wrong<'_>, AlertDescription)] = &[
        ("an empty part of a handshake", Wrong::Sealed(&[(HANDSHAKE, b"")]), AlertDescription::UnexpectedMessage),
        ("an empty alert", Wrong::Sealed(&[(ALERT, b"")]), AlertDescription::UnexpectedMessage),
        ("half an alert", Wrong::Sealed(&[(ALERT, &[2])]), AlertDescription::DecodeError),
        ("two alerts", Wrong::Sealed(&[(ALERT, &[2, 40, 2, 40])]), AlertDescription::DecodeError),
        ("a protected change_cipher_spec", Wrong::Sealed(&[(20, &[1])]), AlertDescription::UnexpectedMessage),
        ("an unknown type", Wrong::Sealed(&[(99, b"x")]), AlertDescription::UnexpectedMessage),
        ("no type", Wrong::Sealed(&[(0, &[0, 0, 0])]), AlertDescription::UnexpectedMessage),
        ("a wish that is none", Wrong::Sealed(&[(HANDSHAKE, &[24, 0, 0, 1, 2])]), AlertDescription::IllegalParameter),
        ("a long update", Wrong::Sealed(&[(HANDSHAKE, &[24, 0, 0, 2, 0, 0])]), AlertDescription::DecodeError),
        (
            "something behind an update",
            Wrong::Sealed(&[(HANDSHAKE, &[24, 0, 0, 1, 0, 24])]),
            AlertDescription::UnexpectedMessage,
        ),
        ("a ticket of a client", Wrong::Sealed(&[(HANDSHAKE, &ticket)]), AlertDescription::UnexpectedMessage),
        ("a hello", Wrong::Sealed(&[(HANDSHAKE, &[1, 0, 0, 0])]), AlertDescription::UnexpectedMessage),
        ("interleaving", Wrong::Sealed(&[(HANDSHAKE, &[24, 0]), (DATA, b"x")]), AlertDescription::UnexpectedMessage),
        (
            "an alert within",
            Wrong::Sealed(&[(HANDSHAKE, &[24]), (ALERT, &[1, 0])]),
            AlertDescription::UnexpectedMessage,
        ),
        ("too much content", Wrong::Sealed(&[(DATA, &large)]), AlertDescription::RecordOverflow),
        ("too many empty ones", Wrong::Sealed(&[(DATA, &[][..]); 33]), AlertDescription::UnexpectedMessage),
        ("too many warnings", Wrong::Sealed(&[(ALERT, &[1, 90][..]); 33]), AlertDescription::UnexpectedMessage),
        ("too many updates", Wrong::Updates(33), AlertDescription::UnexpectedMessage),
        ("a record over the limit", Wrong::Raw(&[23, 3, 3, 0x41, 1]), AlertDescription::RecordOverflow),
        ("a forged record", Wrong::Raw(&forged), AlertDescription::BadRecordMac),
        ("a record too short for a tag", Wrong::Raw(&[23, 3, 3, 0, 3, 1, 2, 3]), AlertDescription::BadRecordMac),
        ("an empty record", Wrong::Raw(&[23, 3, 3, 0, 0]), AlertDescription::BadRecordMac),
        ("an alert that anybody can send", Wrong::Raw(&[21, 3, 3, 0, 2, 2, 40]), AlertDescription::UnexpectedMessage),
        ("no TLS", Wrong::Raw(b"GET / HTTP/1.1\r\n\r\n"), AlertDescription::UnexpectedMessage),
    ];
    for (name, wrong, alert) in cases {
        let (mut client, mut server) = pair(1 << 20).await;
        match wrong {
            Wrong::Sealed(records) => {
                for (kind, content) in *records {
                    client.seal(ContentType::from(*kind), OutboundChunks::Single(content)).expect("sealed");
                }
            }
            Wrong::Raw(bytes) => client.io.write_all(bytes).await.expect("written"),
            Wrong::Updates(n) => update(&mut client, *n),
        }
        client.flush().await.expect("written");
        // The second time says the same, and writing too.
        for _ in 0..2 {
            let error = server.read_u8().await.expect_err(name);
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{name}: {error}");
            assert!(error.get_ref().is_some_and(|e| e.is::<Error>()), "{name}");
        }
        assert_eq!(server.write(b"x").await.expect_err(name).kind(), io::ErrorKind::InvalidData, "{name}");
        let error = client.read_u8().await.expect_err(name);
        let told = error.get_ref().and_then(|e| e.downcast_ref::<Error>());
        assert_eq!(told, Some(&Error::AlertReceived(*alert)), "{name}: {error}");
        // And no alert answers an alert.
        assert!(client.outbox.is_empty());
        server.shutdown().await.expect("shutdown");
        assert!(matches!(client.io.read(&mut [0]).await, Ok(0)), "{name}: one alert, and the end");
    }
}

/// Changes the client's keys so many times, with nothing said between.
fn update(client: &mut Stream<Pieces>, times: usize) {
    for _ in 0..times {
        let update = [24, 0, 0, 1, 0];
        let sealed = client.sealer.seal(ContentType::Handshake, OutboundChunks::Single(&update)).expect("sealed");
        client.outbox.push_back(sealed);
        client.sealer = Sealer::new(client.suite, client.secrets.next_to_seal().expect("a key")).expect("a sealer");
    }
}

#[tokio::test]
async fn what_is_odd_but_allowed_passes() {
    let (mut client, mut server) = pair(1 << 20).await;
    for _ in 0..3 {
        for _ in 0..31 {
            client.seal(ContentType::ApplicationData, OutboundChunks::Single(b"")).expect("sealed");
        }
        client.seal(ContentType::Alert, OutboundChunks::Single(&[1, 90])).expect("user_canceled");
        client.seal(ContentType::ApplicationData, OutboundChunks::Single(b"x")).expect("sealed");
    }
    update(&mut client, 32);
    client.seal(ContentType::ApplicationData, OutboundChunks::Single(b"y")).expect("sealed");
    // A message in parts.
    for part in [&[24][..], &[0, 0], &[1]] {
        client.seal(ContentType::Handshake, OutboundChunks::Single(part)).expect("sealed");
    }
    client.seal(ContentType::Handshake, OutboundChunks::Single(&[1])).expect("sealed");
    client.sealer = Sealer::new(client.suite, client.secrets.next_to_seal().expect("a key")).expect("a sealer");
    client.seal(ContentType::ApplicationData, OutboundChunks::Single(b"z")).expect("sealed");
    client.flush().await.expect("written");
    let mut read = [0; 5];
    server.read_exact(&mut read).await.expect("read");
    assert_eq!(&read, b"xxxyz");

    // It asked for our key to change, which it does before the next that we say.
    assert!(server.answer);
    server.write_all(b"after").await.expect("write");
    assert!(!server.answer);
    client.read_exact(&mut read).await.expect("read");
    assert_eq!(&read, b"after");
}

#[tokio::test]
async fn sessions_are_resumed_with_peers_of_rustls() {
    let mesh = Mesh::new();
    let (alpha, delta) = (mesh.settings("alpha"), mesh.settings("delta"));
    let config = alpha.client(&[id("delta")], Alpn::Http2);
    for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let (near, far) = duplex(10_000);
        let there = TlsAcceptor::from(delta.server().clone()).accept(far);
        let (client, server) = tokio::join!(connect(near, config.clone(), &alpha, "delta"), there);
        let ((mut client, _, peer), mut server) = (client.expect("connected"), server.expect("accepted"));
        assert_eq!(server.get_ref().1.handshake_kind(), Some(kind));
        assert_eq!(peer.spiffe, id("delta"));
        server.get_mut().1.refresh_traffic_keys().expect("an update");
        server.write_all(b"hello").await.expect("write");
        server.flush().await.expect("flush");
        let mut text = [0; 5];
        client.read_exact(&mut text).await.expect("read: the ticket came before");
        client.sealer.wear(0);
        client.write_all(&text).await.expect("write");
        client.shutdown().await.expect("shutdown");
        let mut echoed = Vec::new();
        server.read_to_end(&mut echoed).await.expect("read");
        assert_eq!(echoed, b"hello");
    }

    let config = mesh.settings("alpha").client(&[id("delta")], Alpn::Http1);
    for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let (near, far) = duplex(10_000);
        let here = TlsConnector::from(config.clone()).connect(server_name("delta"), near);
        let (client, server) = tokio::join!(here, accept(far, delta.clone()));
        let (mut client, mut server) = (client.expect("connected"), server.expect("accepted"));
        assert_eq!(client.get_ref().1.handshake_kind(), Some(kind));
        assert_eq!((server.peer.spiffe.clone(), server.alpn), (id("alpha"), Some(Alpn::Http1)));
        server.stream.write_all(b"hello").await.expect("write");
        server.stream.shutdown().await.expect("shutdown");
        let mut text = Vec::new();
        client.read_to_end(&mut text).await.expect("read");
        assert_eq!(text, b"hello");
    }
}

#[tokio::test]
async fn both_hear_why_a_handshake_failed() {
    let mesh = Mesh::new();
    let delta = mesh.settings("delta");
    let (near, far) = duplex(10_000);
    let here = async {
        let mut client = TlsConnector::from(stranger(None)).connect(server_name("delta"), near).await.expect("so far");
        client.read_u8().await.expect_err("refused").to_string()
    };
    let (told, fault) = tokio::join!(here, async { accept(far, delta.clone()).await.err().expect("refused") });
    assert_eq!(fault.to_string(), "tls_certificate_error: peer sent no certificates");
    assert_eq!(told, "received fatal alert: CertificateRequired");

    // What is no TLS is refused by its first bytes, although it could be the beginning of something long.
    let (mut near, far) = duplex(10_000);
    near.write_all(b"GET / HTTP/1.1\r\n").await.expect("write");
    let fault = accept(far, delta.clone()).await.err().expect("refused");
    assert_eq!(fault.reason, Reason::TlsProtocolError);
    let mut told = Vec::new();
    near.read_to_end(&mut told).await.expect("read");
    assert_eq!((told[0], told.len()), (21, 7), "an alert");

    // The alert comes behind the hello of the server.
    let (near, far) = duplex(10_000);
    let mut other = rustls::ClientConfig::clone(&stranger(None));
    other.alpn_protocols = vec![b"other".to_vec()];
    let here = TlsConnector::from(std::sync::Arc::new(other)).connect(server_name("delta"), near);
    let (told, fault) = tokio::join!(here, async { accept(far, delta.clone()).await.err().expect("refused") });
    assert_eq!(fault.reason, Reason::TlsProtocolError);
    assert_eq!(told.expect_err("refused").to_string(), "received fatal alert: NoApplicationProtocol");

    let (near, far) = duplex(10_000);
    drop(near);
    let fault = accept(far, delta.clone()).await.err().expect("refused");
    assert!(fault.to_string().ends_with("tls handshake eof"), "{fault}");
}

#[tokio::test]
async fn what_comes_with_the_end_of_a_handshake_is_not_lost() {
    let mesh = Mesh::new();
    let (alpha, delta) = (mesh.settings("alpha"), mesh.settings("delta"));
    let (near, mut middle) = duplex(100_000);
    let (mut other, far) = duplex(100_000);
    let client = async {
        let config = alpha.client(&[id("delta")], Alpn::Http2);
        let (mut client, _, _) = connect(near, config, &alpha, "delta").await.expect("connected");
        client.write_all(b"at once").await.expect("write");
        client.shutdown().await.expect("shutdown");
        let mut text = String::new();
        client.read_to_string(&mut text).await.expect("read");
        text
    };
    let server = async {
        let mut server = accept(far, delta.clone()).await.expect("accepted").stream;
        let mut text = String::new();
        server.read_to_string(&mut text).await.expect("read");
        server.write_all(text.as_bytes()).await.expect("write");
        server.shutdown().await.expect("shutdown");
    };
    // The server sees the client's last flight, content and end in one piece.
    let carrier = async {
        let mut hello = vec![0; 10_000];
        let n = middle.read(&mut hello).await.expect("read");
        other.write_all(&hello[..n]).await.expect("write");
        let mut flight = vec![0; 10_000];
        let n = other.read(&mut flight).await.expect("read");
        middle.write_all(&flight[..n]).await.expect("write");
        let mut all = Vec::new();
        middle.read_to_end(&mut all).await.expect("read");
        other.write_all(&all).await.expect("write");
        tokio::io::copy(&mut other, &mut middle).await.expect("carried");
        middle.shutdown().await.expect("shutdown");
    };
    let (text, (), ()) = tokio::join!(client, server, carrier);
    assert_eq!(text, "at once");
}

/// `openssl s_server`, which changes its keys at a word.
struct OpenSsl {
    process: Child,
    output: BufReader<ChildStdout>,
}

impl OpenSsl {
    fn say(&mut self, text: &str) {
        self.process.stdin.as_mut().expect("a pipe").write_all(text.as_bytes()).expect("written");
    }

    fn wait(&mut self, text: &str) -> String {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            assert!(self.output.read_line(&mut line).expect("a line") > 0, "no {text}");
        }
        line
    }
}

#[tokio::test]
async fn openssl_changes_keys_with_us() {
    let mesh = Mesh::new();
    let (alpha, _) = (mesh.settings("alpha"), mesh.settings("delta"));
    let arguments = ["s_server", "-accept", "127.0.0.1:0", "-cert", "cert.pem", "-key", "key.pem", "-CAfile", "ca.pem"];
    let mut command = Command::new("openssl");
    command.args(arguments).args(["-Verify", "2", "-verify_return_error", "-alpn", "h2"]).current_dir(mesh.path(""));
    let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    // A machine without openssl has nothing to agree with.
    let Ok(mut process) = spawned else { return };
    let output = BufReader::new(process.stdout.take().expect("a pipe"));
    let mut openssl = OpenSsl { process, output };
    let accepting = openssl.wait("ACCEPT ");
    let address = accepting.trim().trim_start_matches("ACCEPT ");
    let tcp = TcpStream::connect(address).await.expect("connected");
    let config = alpha.client(&[id("delta")], Alpn::Http2);
    let (mut stream, alpn, _) = connect(tcp, config, &alpha, "delta").await.expect("a handshake");
    assert_eq!(alpn, Some(Alpn::Http2));
    let mut text = [0; 4];
    // It changes its own key and wants ours to change, too.
    for (word, changes) in [("one\n", false), ("two\n", true), ("six\n", true)] {
        if changes {
            openssl.say("K\n");
            poll_fn(|cx| match stream.poll_content(cx) {
                Poll::Pending if stream.answer => Poll::Ready(()),
                Poll::Pending => Poll::Pending,
                read => panic!("{read:?}"),
            })
            .await;
        }
        openssl.say(word);
        stream.read_exact(&mut text).await.expect("read");
        assert_eq!(&text, word.as_bytes());
        stream.write_all(format!("heard {word}").as_bytes()).await.expect("write");
        openssl.wait(&format!("heard {}", word.trim()));
    }
    // And ours changes by itself.
    for round in 0..5 {
        stream.sealer.wear(0);
        stream.write_all(format!("round {round}\n").as_bytes()).await.expect("write");
        openssl.wait(&format!("round {round}"));
    }
    stream.shutdown().await.expect("shutdown");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.expect("it says its end, too");
    openssl.process.kill().expect("killed");
    openssl.process.wait().expect("gone");
    openssl.output.read_to_end(&mut rest).expect("the end");
}

#[test]
fn what_a_resting_connection_holds() {
    // Without the keys, which are rustls': two ciphers and their schedule.
    assert!(size_of::<Stream>() <= 900, "{}", size_of::<Stream>());
}
