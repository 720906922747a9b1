//! The floors under proxies. Under one hop (F1): a relay that forwards bytes and reads none of them. What a request
//! costs here is what the kernel takes for moving it: two reads, two writes, and the waits. Under a pair of sidecars: [`near`] and [`Far`].

mod link;
mod pair;
pub mod tasks;

pub use link::Kind;
pub use pair::{Far, near};

use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};
use slab::Slab;
use std::{
    io::{self, Read, Write},
    net::SocketAddr,
};

const LISTENER: Token = Token(usize::MAX);
const EVENTS: usize = 256;
/// What one read takes, and what one direction of a connection holds at most.
const READ_SIZE: usize = 64 << 10;

/// Two connections that are one.
#[derive(Debug)]
struct Pair {
    /// The accepted one, and its own to the target.
    ends: [TcpStream; 2],
    /// What was read of the *other* end and not yet taken by this one, and how much of it has gone.
    unsent: [(Vec<u8>, usize); 2],
    /// An end was closed; the other is closed when it has everything.
    closed: bool,
}

/// Relays what comes to `listener` to `target`, each connection over one of its own, until the process ends.
///
/// # Errors
/// When the machine fails; never for a single connection.
pub fn relay(listener: std::net::TcpListener, target: SocketAddr) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let mut listener = TcpListener::from_std(listener);
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let (mut events, mut pairs) = (Events::with_capacity(EVENTS), Slab::<Pair>::new());
    let mut buffer = vec![0; READ_SIZE];
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for event in &events {
            if event.token() == LISTENER {
                accept(&listener, target, &poll, &mut pairs)?;
                continue;
            }
            let (key, end) = (event.token().0 / 2, event.token().0 % 2);
            let Some(pair) = pairs.get_mut(key) else { continue };
            // A writable end may take what waits for it, and then the other may be read on.
            let gone = pair.flush(end).and_then(|()| pair.forward(1 - end, &mut buffer)).is_err()
                || pair.forward(end, &mut buffer).is_err();
            if gone || pair.closed && pair.unsent.iter().all(|(bytes, _)| bytes.is_empty()) {
                pairs.remove(key);
            }
        }
    }
}

fn accept(listener: &TcpListener, target: SocketAddr, poll: &Poll, pairs: &mut Slab<Pair>) -> io::Result<()> {
    loop {
        let accepted = match listener.accept() {
            Ok((accepted, _)) => accepted,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        let entry = pairs.vacant_entry();
        let mut ends = [accepted, TcpStream::connect(target)?];
        for (end, stream) in ends.iter_mut().enumerate() {
            let token = Token(entry.key() * 2 + end);
            poll.registry().register(stream, token, Interest::READABLE | Interest::WRITABLE)?;
        }
        ends[0].set_nodelay(true)?;
        entry.insert(Pair { ends, unsent: Default::default(), closed: false });
    }
}

impl Pair {
    /// Reads one end and writes to the other, until there is nothing more or the other takes no more.
    fn forward(&mut self, from: usize, buffer: &mut [u8]) -> io::Result<()> {
        let to = 1 - from;
        while self.unsent[to].0.is_empty() {
            let count = match self.ends[from].read(buffer) {
                Ok(0) => {
                    self.closed = true;
                    return Ok(());
                }
                Ok(count) => count,
                Err(error) if waits(&error) => return Ok(()),
                Err(error) => return Err(error),
            };
            let sent = match self.ends[to].write(&buffer[..count]) {
                Ok(sent) => sent,
                Err(error) if waits(&error) => 0,
                Err(error) => return Err(error),
            };
            if sent < count {
                self.unsent[to] = (buffer[sent..count].to_vec(), 0);
            } else if count < buffer.len() {
                // A read that did not fill the buffer has emptied the socket; what comes next is an event.
                return Ok(());
            }
        }
        Ok(())
    }

    /// Writes what waits for this end.
    fn flush(&mut self, end: usize) -> io::Result<()> {
        drain(&mut self.ends[end], &mut self.unsent[end])
    }
}

/// Writes what waits, and how much of it has gone before.
fn drain(stream: &mut TcpStream, (bytes, sent): &mut (Vec<u8>, usize)) -> io::Result<()> {
    while *sent < bytes.len() {
        match stream.write(&bytes[*sent..]) {
            Ok(count) => *sent += count,
            Err(error) if waits(&error) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    bytes.clear();
    *sent = 0;
    Ok(())
}

/// True for what is no failure: the socket is not ready, or not yet connected.
fn waits(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{net, thread};

    #[test]
    fn forwards_all_of_it_both_ways() {
        let target = net::TcpListener::bind("127.0.0.1:0").unwrap();
        let listener = net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (at, to) = (listener.local_addr().unwrap(), target.local_addr().unwrap());
        thread::spawn(move || relay(listener, to));
        // Far more than the sockets hold, so that writes are cut short.
        let sent: Vec<u8> = (0..16_u32 << 20).map(|n| n.to_le_bytes()[1]).collect();
        let mut client = net::TcpStream::connect(at).unwrap();
        let mut server = target.accept().unwrap().0;
        let mut echo = server.try_clone().unwrap();
        thread::spawn(move || io::copy(&mut server, &mut echo));
        let mut writer = client.try_clone().unwrap();
        let bytes = sent.clone();
        thread::spawn(move || {
            writer.write_all(&bytes).unwrap();
        });
        let mut received = vec![0; sent.len()];
        client.read_exact(&mut received).unwrap();
        assert!(received == sent, "what came back is what was sent");
    }
}
