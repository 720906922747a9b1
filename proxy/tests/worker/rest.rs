//! What a connection holds that has been used and rests: bytes, counted by the allocator. The other end is in this process,
//! but holds nothing: it forgets its side of TLS when it has its answer. Only that of QUIC counts, too.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use lacis::net::{listen, quic};
use lacis::tls::{Alpn, ClientSettings, server_name};
use lacis::worker::Sockets;
use rustls::{ClientConnection, Stream};

use super::{ALLOCATOR, INBOUND, Mesh, OUTBOUND, PATIENCE, alone, any_port, cut, identity, is_served, start};

/// Bytes of a plain connection of HTTP/1.1 that has been used, and of one of HTTP/2 in mutual TLS.
const PLAIN: usize = 5_600;
const MUTUAL: usize = 6_200;

/// Bytes of both ends of a QUIC connection.
const QUIC: usize = 140_000;

/// Connections before those that count: what a worker keeps for all of them has its size then, as do the sessions that a
/// server keeps.
const BEFORE: usize = 600;

/// Connections that count. Tables that double with their number would show in a part of them only.
const COUNTED: usize = 256;

/// A preface, SETTINGS, and GET / (RFC 9113 section 3.4, RFC 7541 appendix C).
const REQUEST: &[u8] =
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x0a\x01\x05\0\0\0\x01\x82\x86\x84\x41\x05delta";

/// Opens, uses and closes connections, then opens some more and says how many bytes there are for each of them.
fn resting(open: impl Fn() -> TcpStream) -> usize {
    for _ in 0..BEFORE {
        drop(open());
    }
    // Those that are closed are gone when one that came after them was served.
    let _last = open();
    let mut open_ones = Vec::with_capacity(COUNTED);
    let before = kept();
    for _ in 0..COUNTED {
        open_ones.push(open());
    }
    let _settled = open();
    (kept() - before) / (COUNTED + 1)
}

/// Bytes of this process.
fn kept() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

/// Whether a server's answer to the first request is here.
fn is_answered(mut frames: &[u8]) -> bool {
    while let [a, b, c, kind, flags, rest @ ..] = frames {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        // DATA with END_STREAM.
        if *kind == 0 && flags & 1 == 1 && rest.len() >= 4 + length {
            return true;
        }
        frames = rest.get(4 + length..).unwrap_or_default();
    }
    false
}

fn mutual(address: std::net::SocketAddr, settings: Arc<ClientSettings>) -> TcpStream {
    let mut tcp = TcpStream::connect(address).expect("a connection");
    tcp.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let mut session = ClientConnection::new(settings, server_name("delta")).expect("a session");
    let mut tls = Stream::new(&mut session, &mut tcp);
    tls.write_all(REQUEST).expect("a way in");
    let (mut answer, mut piece) = (Vec::new(), [0; 1024]);
    while !is_answered(&answer) {
        let length = tls.read(&mut piece).expect("an answer");
        assert!(length > 0, "the connection was closed");
        answer.extend_from_slice(&piece[..length]);
    }
    tcp
}

#[test]
fn a_plain_connection_at_rest() {
    let _alone = alone();
    let listener = listen::tcp(any_port(), 1).expect("a port").remove(0);
    let address = listener.local_addr().expect("its address");
    let sockets = Sockets { outbound: Some(listener), ..Sockets::default() };
    let (orders, worker) = start(OUTBOUND, sockets, None, 2 * BEFORE);
    let bytes = resting(|| {
        let mut stream = TcpStream::connect(address).expect("a connection");
        assert!(is_served(&mut stream));
        stream
    });
    println!("{bytes} bytes");
    assert!(bytes <= PLAIN, "{bytes} bytes");
    cut(&orders, worker);
}

#[test]
fn a_mutual_connection_at_rest() {
    let _alone = alone();
    let mesh = Mesh::new();
    let pair = listen::tcp_and_udp(any_port(), 1).expect("a port").remove(0);
    let address = pair.0.local_addr().expect("its address");
    let sockets = Sockets { inbound: Some(pair), ..Sockets::default() };
    let (orders, worker) = start(INBOUND, sockets, Some(mesh.tls("delta")), 2 * BEFORE);
    let settings = mesh.tls("alpha").client(&[identity("delta")], Alpn::Http2);
    let bytes = resting(|| mutual(address, Arc::clone(&settings)));
    println!("{bytes} bytes");
    assert!(bytes <= MUTUAL, "{bytes} bytes");
    cut(&orders, worker);
}

#[test]
fn a_quic_connection_at_rest() {
    let _alone = alone();
    let mesh = Mesh::new();
    let pair = listen::tcp_and_udp(any_port(), 1).expect("a port").remove(0);
    let address = pair.1.local_addr().expect("its address");
    let sockets = Sockets { inbound: Some(pair), ..Sockets::default() };
    let (orders, worker) = start(INBOUND, sockets, Some(mesh.tls("delta")), 2 * BEFORE);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let bytes = runtime.block_on(async {
        let client = quic::endpoint(listen::udp(any_port(), false).expect("a port"), None, None).expect("an endpoint");
        let settings = mesh.tls("alpha").client(&[identity("delta")], Alpn::Http3);
        let settings = quic::client(settings).expect("settings");
        let open = async || {
            let opening = client.connect_with(settings.clone(), address, "delta").expect("an attempt");
            let connection = tokio::time::timeout(PATIENCE, opening).await.expect("an end").expect("a connection");
            // The server has accepted it when it opens its control stream.
            let control = tokio::time::timeout(PATIENCE, connection.accept_uni()).await.expect("an end");
            (control.expect("a stream"), connection)
        };
        let count = 64;
        let mut open_ones = Vec::with_capacity(2 * count);
        for _ in 0..count {
            open_ones.push(open().await);
        }
        let before = kept();
        for _ in 0..count {
            open_ones.push(open().await);
        }
        (kept() - before) / count
    });
    println!("{bytes} bytes");
    assert!(bytes <= QUIC, "{bytes} bytes");
    cut(&orders, worker);
}
