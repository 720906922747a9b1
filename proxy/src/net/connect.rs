//! Opening TCP connections.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use crate::fault::{Fault, Reason};

/// How a dead peer is noticed on a connection that carries nothing: asked after a minute, three times, ten seconds apart.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(std::time::Duration::from_secs(60))
    .with_interval(std::time::Duration::from_secs(10))
    .with_retries(3);

/// Connects. The caller bounds the time.
///
/// # Errors
/// If nobody answers there; the request can go elsewhere.
pub async fn tcp(address: SocketAddr) -> Result<TcpStream, Fault> {
    let stream = TcpStream::connect(address).await.map_err(|error| {
        let reason = match error.kind() {
            io::ErrorKind::TimedOut => Reason::ConnectionTimeout,
            _ => Reason::ConnectionRefused,
        };
        Fault::new(reason).detail(format!("connecting to {address}")).from(error)
    })?;
    prepare(&stream);
    Ok(stream)
}

/// Options that every connection has: no Nagle (we collect what belongs together ourselves), keep-alive.
/// A socket that refuses them still works. What a listener accepts has those of the listener.
pub(super) fn prepare(socket: &impl AsFd) {
    let socket = SockRef::from(socket);
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_keepalive(&KEEPALIVE);
}
