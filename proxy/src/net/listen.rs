//! Listening: sockets that several workers share, and accept loops that never end.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, Type};
use tokio::net::TcpStream;

use super::connect::prepare;

/// Connections that may wait to be accepted; the kernel's own limit (`somaxconn`) cuts it.
const BACKLOG: i32 = 4096;

/// How long accepting rests when the process is out of descriptors or memory: until something else has ended.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// Tries to find a port that is free for TCP and UDP alike.
const PORT_TRIES: usize = 16;

/// Socket buffer of a QUIC socket, bytes: bursts of many peers arrive between two turns of a worker.
const UDP_BUFFER: usize = 4 * 1024 * 1024;

/// One TCP socket per worker on the same address (`SO_REUSEPORT`); port 0 takes a free one.
///
/// # Errors
/// If the address cannot be had.
pub fn tcp(address: SocketAddr, workers: usize) -> io::Result<Vec<TcpListener>> {
    let mut address = address;
    if workers > 1 {
        // Those of another process of this user, who shares its port among workers, too, would share it with ours.
        address = bound(address, Type::STREAM, Protocol::TCP, false)?.local_addr()?.as_socket().unwrap_or(address);
    }
    let first = one_tcp(address, workers > 1)?;
    let address = first.local_addr()?;
    let mut sockets = vec![first];
    for _ in 1..workers {
        sockets.push(one_tcp(address, true)?);
    }
    Ok(sockets)
}

/// One TCP and one UDP socket per worker, all on one port number.
///
/// # Errors
/// If the address cannot be had for both.
pub fn tcp_and_udp(address: SocketAddr, workers: usize) -> io::Result<Vec<(TcpListener, UdpSocket)>> {
    let mut failed = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..if address.port() == 0 { PORT_TRIES } else { 1 } {
        let listeners = tcp(address, workers)?;
        let bound = listeners.first().ok_or(io::ErrorKind::InvalidInput)?.local_addr()?;
        let alone = if workers > 1 { udp(bound, false).map(drop) } else { Ok(()) };
        let sockets = |()| (0..workers).map(|_| udp(bound, workers > 1)).collect::<io::Result<Vec<_>>>();
        match alone.and_then(sockets) {
            Ok(sockets) => return Ok(listeners.into_iter().zip(sockets).collect()),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

fn one_tcp(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = bound(address, Type::STREAM, Protocol::TCP, shared)?;
    // Here once, instead of five calls for each connection.
    prepare(&socket);
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn bound(address: SocketAddr, kind: Type, protocol: Protocol, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind.nonblocking(), Some(protocol))?;
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    socket.set_reuse_port(shared)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// A UDP socket for QUIC.
///
/// # Errors
/// If the address cannot be had.
pub fn udp(address: SocketAddr, shared: bool) -> io::Result<UdpSocket> {
    let socket = bound(address, Type::DGRAM, Protocol::UDP, shared)?;
    // The kernel gives what `rmem_max` and `wmem_max` allow; less works too.
    let _ = socket.set_recv_buffer_size(UDP_BUFFER);
    let _ = socket.set_send_buffer_size(UDP_BUFFER);
    Ok(socket.into())
}

/// What would be right where an address cannot be listened on.
pub fn right(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; choose another port, or end what has it",
        io::ErrorKind::AddrNotAvailable => "; write an address of this machine",
        io::ErrorKind::PermissionDenied => "; choose a port from 1024 on, or let the process bind lower ones",
        _ => "",
    }
}

/// How long a handshake that has begun may take to end once [`shut`] lets no other begin. Loopback needs microseconds,
/// a neighbouring zone a millisecond or two. Whoever knocks meanwhile asks again a second later.
pub const HANDSHAKES: Duration = Duration::from_millis(20);

/// Lets no connection begin any more, as closing does, and lets those come that have begun: closing resets what is in the
/// queue or on its way there, of `SO_REUSEPORT` listeners too. Their SYN is dropped by a filter; where filters are not to
/// be had, they are still let in.
pub fn shut(listener: &tokio::net::TcpListener) {
    // What a listener's filter sees begins with the TCP header (RFC 9293 section 3.1).
    let drop_syn = [
        // BPF_LD | BPF_B | BPF_ABS: the flags.
        SockFilter::new(0x30, 0, 0, 13),
        // BPF_ALU | BPF_AND | BPF_K: SYN among them.
        SockFilter::new(0x54, 0, 0, 2),
        // BPF_JMP | BPF_JEQ | BPF_K: if it is not set, keep the packet.
        SockFilter::new(0x15, 1, 0, 0),
        // BPF_RET | BPF_K: nothing of it, or all.
        SockFilter::new(0x06, 0, 0, 0),
        SockFilter::new(0x06, 0, 0, u32::MAX),
    ];
    let _ = SockRef::from(listener).attach_filter(&drop_syn);
}

/// The next connection. Errors of single connections are skipped; where the process is exhausted, accepting rests and goes on.
pub async fn accept(listener: &tokio::net::TcpListener) -> (TcpStream, SocketAddr) {
    let mut told = false;
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted
                        | io::ErrorKind::ConnectionReset
                        | io::ErrorKind::ConnectionRefused
                ) => {}
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(%error, "cannot accept connections for the moment");
                }
                tokio::time::sleep(EXHAUSTED).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::io::ErrorKind;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn what_is_accepted_has_the_options_of_every_connection() {
        let listener = tcp("127.0.0.1:0".parse().expect("an address"), 1).expect("a port").remove(0);
        let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
        let address = listener.local_addr().expect("its address");
        let (opened, accepted) = tokio::join!(super::super::connect::tcp(address), accept(&listener));
        let opened = opened.expect("a connection");
        let options = |stream: &TcpStream| {
            let socket = SockRef::from(stream);
            let waits = (socket.tcp_keepalive_time(), socket.tcp_keepalive_interval(), socket.tcp_keepalive_retries());
            assert!(socket.tcp_nodelay().expect("an option") && socket.keepalive().expect("an option"));
            (waits.0.expect("an option"), waits.1.expect("an option"), waits.2.expect("an option"))
        };
        assert_eq!(options(&accepted.0), options(&opened));
    }

    #[test]
    fn a_port_is_shared_among_our_own_workers_only() {
        let any = "127.0.0.1:0".parse().expect("an address");
        let pairs = tcp_and_udp(any, 2).expect("a port");
        let address = pairs[0].0.local_addr().expect("its address");
        assert!(
            pairs
                .iter()
                .all(|(tcp, udp)| { (tcp.local_addr().ok(), udp.local_addr().ok()) == (Some(address), Some(address)) })
        );
        for taken in [tcp(address, 2).map(drop), tcp_and_udp(address, 2).map(drop), tcp(address, 1).map(drop)] {
            assert_eq!(taken.expect_err("taken").kind(), ErrorKind::AddrInUse);
        }
        let (tcps, udps): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        drop(tcps);
        assert_eq!(tcp_and_udp(address, 2).map(drop).expect_err("taken by UDP").kind(), ErrorKind::AddrInUse);
        drop(udps);
    }

    #[tokio::test]
    async fn a_shut_listener_takes_those_who_have_knocked_and_nobody_else() {
        // Not where everybody listens: a port that is given back there may be anybody's before the second SYN comes.
        let listener = tcp("127.0.53.1:0".parse().expect("an address"), 1).expect("a port").remove(0);
        let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
        let address = listener.local_addr().expect("its address");
        let mut early = TcpStream::connect(address).await.expect("a connection");
        shut(&listener);
        // Sends its SYN now, and again after a second.
        let mut late = pin!(TcpStream::connect(address));
        assert!(late.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let (mut served, _) = accept(&listener).await;
        early.write_all(b"hello").await.expect("a way in");
        let mut read = [0; 5];
        served.read_exact(&mut read).await.expect("what was sent");
        assert_eq!(&read, b"hello");
        drop(listener);
        assert_eq!(late.await.expect_err("it was let in").kind(), ErrorKind::ConnectionRefused);
    }
}
