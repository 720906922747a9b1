//! The floors under a pair of sidecars (F1b, F2, F3): two relays, and between them one link that all connections share. They
//! number the connections, say how long each piece is, and do nothing else of what a mesh does: no HTTP, no choice, no
//! flow control between connections.

use super::link::{Kind, Link};
use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream, UdpSocket},
};
use std::{
    io::{self, Read, Write},
    net::{self, SocketAddr},
    thread,
    time::{Duration, Instant},
};

const LISTENER: Token = Token(usize::MAX);
const LINK: Token = Token(usize::MAX - 1);
const EVENTS: usize = 256;
/// What one read takes.
const READ_SIZE: usize = 64 << 10;
/// Before each piece: the connection's number and the length; none ends the connection.
const HEAD: usize = 8;
/// For the far half to listen.
const PATIENCE: Duration = Duration::from_secs(5);

struct Relay {
    poll: Poll,
    link: Link,
    /// Connections of this side, by their numbers.
    ends: Vec<Option<End>>,
    free: Vec<usize>,
    /// Where new numbers lead; none on the side that gives them out.
    target: Option<SocketAddr>,
    /// For the link.
    out: Vec<u8>,
    /// From the link.
    plain: Vec<u8>,
    buffer: Vec<u8>,
}

struct End {
    stream: TcpStream,
    /// What it has not taken yet, and how much of that has gone.
    unsent: (Vec<u8>, usize),
}

/// The caller's side: takes connections, and sends them all over one link to a far side, until the process ends.
///
/// # Errors
/// When the machine or the link fails.
pub fn near(listener: net::TcpListener, far: SocketAddr, kind: Kind) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let mut listener = TcpListener::from_std(listener);
    let link = match kind {
        Kind::Udp => Link::udp(UdpSocket::bind(SocketAddr::new(far.ip(), 0))?, Some(far), 0)?,
        Kind::Tcp | Kind::Sealed => Link::tcp(plain(connect(far)?)?, kind == Kind::Sealed, 0)?,
    };
    let relay = Relay::new(link, None)?;
    relay.poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    relay.run(Some(&listener))
}

/// The service's side, which takes one link and opens a connection to the target for each that comes over it.
#[derive(Debug)]
pub struct Far(Bound);

#[derive(Debug)]
enum Bound {
    Udp(UdpSocket),
    Tcp(net::TcpListener, Kind),
}

impl Far {
    /// Takes the address that the link comes to.
    ///
    /// # Errors
    /// When it is not to be had.
    pub fn bind(listen: SocketAddr, kind: Kind) -> io::Result<Far> {
        Ok(Far(match kind {
            Kind::Udp => Bound::Udp(UdpSocket::bind(listen)?),
            Kind::Tcp | Kind::Sealed => Bound::Tcp(net::TcpListener::bind(listen)?, kind),
        }))
    }

    /// Where the link comes to.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            Bound::Udp(socket) => socket.local_addr(),
            Bound::Tcp(listener, _) => listener.local_addr(),
        }
    }

    /// Relays until the process ends.
    ///
    /// # Errors
    /// When the machine or the link fails.
    pub fn run(self, target: SocketAddr) -> io::Result<()> {
        let link = match self.0 {
            Bound::Udp(socket) => Link::udp(socket, None, 1)?,
            Bound::Tcp(listener, kind) => Link::tcp(plain(listener.accept()?.0)?, kind == Kind::Sealed, 1)?,
        };
        Relay::new(link, Some(target))?.run(None)
    }
}

/// The two halves are started together: the other may not listen yet.
fn connect(far: SocketAddr) -> io::Result<net::TcpStream> {
    let begun = Instant::now();
    loop {
        match net::TcpStream::connect(far) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && begun.elapsed() < PATIENCE => {
                thread::sleep(PATIENCE / 1000);
            }
            connected => return connected,
        }
    }
}

fn plain(stream: net::TcpStream) -> io::Result<TcpStream> {
    stream.set_nonblocking(true)?;
    Ok(TcpStream::from_std(stream))
}

impl Relay {
    fn new(mut link: Link, target: Option<SocketAddr>) -> io::Result<Relay> {
        let poll = Poll::new()?;
        link.register(poll.registry(), LINK)?;
        let (ends, free, out, plain) = Default::default();
        Ok(Relay { poll, link, ends, free, target, out, plain, buffer: vec![0; READ_SIZE] })
    }

    fn run(mut self, listener: Option<&TcpListener>) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            for event in &events {
                match event.token() {
                    LISTENER => listener.map_or(Ok(()), |listener| self.accept(listener))?,
                    LINK => {
                        self.link.read(&mut self.plain, &mut self.buffer)?;
                        self.deliver()?;
                    }
                    Token(number) => self.collect(number),
                }
            }
            // All that one look for events has brought is one write.
            self.link.send(&mut self.out)?;
        }
    }

    fn accept(&mut self, listener: &TcpListener) -> io::Result<()> {
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    let number = self.free.pop().unwrap_or(self.ends.len());
                    self.add(number, stream)?;
                }
                Err(error) if super::waits(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn add(&mut self, number: usize, mut stream: TcpStream) -> io::Result<()> {
        self.poll.registry().register(&mut stream, Token(number), Interest::READABLE | Interest::WRITABLE)?;
        if self.ends.len() <= number {
            self.ends.resize_with(number + 1, || None);
        }
        self.ends[number] = Some(End { stream, unsent: Default::default() });
        Ok(())
    }

    /// Reads what a connection has, for the link.
    fn collect(&mut self, number: usize) {
        let Some(end) = self.ends.get_mut(number).and_then(Option::as_mut) else { return };
        let mut alive = end.flush().is_ok();
        while alive {
            match end.stream.read(&mut self.buffer) {
                Ok(0) => alive = false,
                Ok(count) => {
                    piece(&mut self.out, number, &self.buffer[..count]);
                    if count < self.buffer.len() {
                        return;
                    }
                }
                Err(error) if super::waits(&error) => return,
                Err(_) => alive = false,
            }
        }
        piece(&mut self.out, number, &[]);
        self.remove(number);
    }

    /// Gives what came over the link to its connections.
    fn deliver(&mut self) -> io::Result<()> {
        let plain = std::mem::take(&mut self.plain);
        let mut rest = &plain[..];
        while let Some((number, bytes, after)) = split(rest) {
            rest = after;
            if bytes.is_empty() {
                self.remove(number);
                continue;
            }
            if self.ends.get(number).is_none_or(Option::is_none)
                && let Some(target) = self.target
            {
                self.add(number, TcpStream::connect(target)?)?;
            }
            if let Some(end) = self.ends.get_mut(number).and_then(Option::as_mut)
                && end.write(bytes).is_err()
            {
                piece(&mut self.out, number, &[]);
                self.remove(number);
            }
        }
        let done = plain.len() - rest.len();
        self.plain = plain;
        self.plain.drain(..done);
        Ok(())
    }

    fn remove(&mut self, number: usize) {
        if self.ends.get_mut(number).and_then(Option::take).is_some() && self.target.is_none() {
            self.free.push(number);
        }
    }
}

fn piece(out: &mut Vec<u8>, number: usize, bytes: &[u8]) {
    out.extend_from_slice(&(number as u32).to_le_bytes());
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// The next whole piece: its connection, its bytes, and what follows.
fn split(bytes: &[u8]) -> Option<(usize, &[u8], &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<HEAD>()?;
    let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
    let (piece, after) = rest.split_at_checked(number(4))?;
    Some((number(0), piece, after))
}

impl End {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let sent = if !self.unsent.0.is_empty() {
            0
        } else {
            match self.stream.write(bytes) {
                Ok(sent) => sent,
                Err(error) if super::waits(&error) => 0,
                Err(error) => return Err(error),
            }
        };
        self.unsent.0.extend_from_slice(&bytes[sent..]);
        Ok(())
    }

    /// Writes what waits.
    fn flush(&mut self) -> io::Result<()> {
        super::drain(&mut self.stream, &mut self.unsent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out_over_each_link() {
        for kind in [Kind::Tcp, Kind::Sealed, Kind::Udp] {
            let target = net::TcpListener::bind("127.0.0.1:0").unwrap();
            let listener = net::TcpListener::bind("127.0.0.1:0").unwrap();
            let (at, to) = (listener.local_addr().unwrap(), target.local_addr().unwrap());
            let service = Far::bind("127.0.0.1:0".parse().unwrap(), kind).unwrap();
            let between = service.address().unwrap();
            thread::spawn(move || service.run(to).unwrap());
            thread::spawn(move || near(listener, between, kind).unwrap());
            thread::spawn(move || {
                while let Ok((mut stream, _)) = target.accept() {
                    thread::spawn(move || io::copy(&mut stream.try_clone().unwrap(), &mut stream));
                }
            });
            let clients: Vec<_> = (0..3_u8)
                .map(|number| {
                    thread::spawn(move || {
                        let mut client = net::TcpStream::connect(at).unwrap();
                        for length in [1, 1000, 30_000] {
                            let sent: Vec<u8> = (0..length).map(|n| (n as u8).wrapping_mul(number)).collect();
                            client.write_all(&sent).unwrap();
                            let mut received = vec![0; sent.len()];
                            client.read_exact(&mut received).unwrap();
                            assert!(received == sent, "{kind:?}: each has its own");
                        }
                    })
                })
                .collect();
            clients.into_iter().for_each(|client| client.join().unwrap());
        }
    }
}
