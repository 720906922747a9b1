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
        match (0..workers).map(|_| udp(bound, workers > 1)).collect::<io::Result<Vec<_>>>() {
            Ok(sockets) => return Ok(listeners.into_iter().zip(sockets).collect()),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

fn one_tcp(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    // Only among our own workers: a second process on the port must fail, not share.
    socket.set_reuse_port(shared)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A UDP socket for QUIC.
///
/// # Errors
/// If the address cannot be had.
pub fn udp(address: SocketAddr, shared: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    socket.set_reuse_port(shared)?;
    // The kernel gives what `rmem_max` and `wmem_max` allow; less works too.
    let _ = socket.set_recv_buffer_size(UDP_BUFFER);
    let _ = socket.set_send_buffer_size(UDP_BUFFER);
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Lets nobody in any more, and gives those who are in the queue: closing a listener resets them. New ones find no one
/// while the queue is emptied (their SYN is dropped, by a filter of one instruction) and nobody listening after that.
///
/// # Errors
/// If the system takes the listener away from the runtime no more.
pub fn finish(listener: tokio::net::TcpListener) -> io::Result<Vec<(TcpStream, SocketAddr)>> {
    let listener = listener.into_std()?;
    // BPF_RET | BPF_K with 0: keep no byte of the packet. Where filters are not to be had, a window of microseconds stays.
    let _ = SockRef::from(&listener).attach_filter(&[SockFilter::new(0x06, 0, 0, 0)]);
    let mut queue = Vec::new();
    while let Ok((stream, from)) = listener.accept() {
        stream.set_nonblocking(true)?;
        let stream = TcpStream::from_std(stream)?;
        prepare(&stream);
        queue.push((stream, from));
    }
    Ok(queue)
}

/// The next connection. Errors of single connections are skipped; where the process is exhausted, accepting rests and goes on.
pub async fn accept(listener: &tokio::net::TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                prepare(&stream);
                return (stream, from);
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted
                        | io::ErrorKind::ConnectionReset
                        | io::ErrorKind::ConnectionRefused
                ) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections for the moment");
                tokio::time::sleep(EXHAUSTED).await;
            }
        }
    }
}
