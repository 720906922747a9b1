//! Opening TCP connections.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use crate::fault::{Fault, Reason, Retry};

/// How a dead peer is noticed on a connection that carries nothing: asked after a minute, three times, ten seconds apart.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(std::time::Duration::from_secs(60))
    .with_interval(std::time::Duration::from_secs(10))
    .with_retries(3);

/// Too many open files: in this process, and in the system (errno(3)). `io::ErrorKind` has no word for it.
const OUT_OF_FILES: [i32; 2] = [24, 23];

/// Connects. The caller bounds the time.
///
/// # Errors
/// If nobody answers there, or there is no socket to be had; the request can go elsewhere.
pub async fn tcp(address: SocketAddr) -> Result<TcpStream, Fault> {
    let stream = TcpStream::connect(address).await.map_err(|error| failed(address, error))?;
    prepare(&stream);
    Ok(stream)
}

/// Why there is no connection. What is for want of descriptors or memory here says nothing of who was called.
fn failed(address: SocketAddr, error: io::Error) -> Fault {
    let reason = match error.kind() {
        io::ErrorKind::TimedOut => Reason::ConnectionTimeout,
        io::ErrorKind::OutOfMemory => Reason::Overload,
        _ if error.raw_os_error().is_some_and(|code| OUT_OF_FILES.contains(&code)) => Reason::Overload,
        _ => Reason::ConnectionRefused,
    };
    Fault::new(reason).retry(Retry::Safe).detail(format!("connecting to {address}")).from(error)
}

/// Options that every connection has: no Nagle (we collect what belongs together ourselves), keep-alive.
/// A socket that refuses them still works. What a listener accepts has those of the listener.
pub(super) fn prepare(socket: &impl AsFd) {
    let socket = SockRef::from(socket);
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_keepalive(&KEEPALIVE);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Side;

    #[test]
    fn what_is_missing_here_is_not_blamed_on_who_is_called() {
        let fault = |code| failed(([127, 0, 0, 1], 1).into(), io::Error::from_raw_os_error(code));
        // EMFILE, ENFILE, ENOMEM; ECONNREFUSED, EADDRNOTAVAIL (::1 without IPv6), ETIMEDOUT.
        for (own, theirs) in [(24, 111), (23, 99), (12, 110)] {
            let (own, theirs) = (fault(own), fault(theirs));
            assert_eq!((own.side(), own.retry), (Side::Proxy, Retry::Safe), "{own}");
            assert_eq!((theirs.side(), theirs.retry), (Side::Upstream, Retry::Safe), "{theirs}");
        }
    }
}
