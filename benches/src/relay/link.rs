//! What lies between the two relays of a pair: bytes in order, as they are or sealed.

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, Tag, UnboundKey};
use mio::{
    Interest, Registry, Token,
    net::{TcpStream, UdpSocket},
};
use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use std::{
    io::{self, IoSliceMut, Read, Write},
    net::SocketAddr,
};

/// What one read takes.
const READ_SIZE: usize = 64 << 10;
/// Most that one seal covers over TCP: a TLS record (RFC 8446 section 5.1).
const RECORD: usize = 16 << 10;
/// What one packet carries, sealed: that of QUIC on an Ethernet.
const PACKET: usize = 1452;
/// Packets that one call sends: what fits into the 64 KiB that UDP segmentation offload takes.
const SEGMENTS: usize = 44;
/// Buffers of one call that receives.
const BATCH: usize = 8;
/// Room for packets that wait to be read: nobody sends a lost one again.
const ROOM: usize = 4 << 20;
const TAG: usize = 16;
const LENGTH: usize = 4;

/// How the bytes of many connections travel between the two relays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// As they are, on one TCP connection (F1b).
    Tcp,
    /// The same, sealed by AES-128-GCM (F2).
    Sealed,
    /// Sealed, in packets of UDP with segmentation offload both ways, and nothing against losses (F3).
    Udp,
}

/// One end of it.
pub(super) struct Link {
    socket: Socket,
    key: Option<LessSafeKey>,
    /// Which of the two it is: both have one key, and a nonce is used once.
    end: u8,
    sealed: u64,
    opened: u64,
    /// Read and not opened yet.
    raw: Vec<u8>,
    /// On its way out, and how much of it has gone.
    unsent: (Vec<u8>, usize),
}

enum Socket {
    Tcp(TcpStream),
    Udp { socket: UdpSocket, state: UdpSocketState, peer: Option<SocketAddr>, buffers: Vec<Vec<u8>> },
}

impl Link {
    pub(super) fn tcp(stream: TcpStream, sealed: bool, end: u8) -> io::Result<Link> {
        stream.set_nodelay(true)?;
        Link::new(Socket::Tcp(stream), sealed, end)
    }

    /// `peer` is who has the other end, where that is known: else it is who sends the first packet.
    pub(super) fn udp(socket: UdpSocket, peer: Option<SocketAddr>, end: u8) -> io::Result<Link> {
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        state.set_recv_buffer_size(UdpSockRef::from(&socket), ROOM)?;
        state.set_send_buffer_size(UdpSockRef::from(&socket), ROOM)?;
        let buffers = vec![vec![0; READ_SIZE]; BATCH];
        Link::new(Socket::Udp { socket, state, peer, buffers }, true, end)
    }

    fn new(socket: Socket, sealed: bool, end: u8) -> io::Result<Link> {
        let key = UnboundKey::new(&AES_128_GCM, &[7; 16]).map_err(|_| io::ErrorKind::InvalidInput)?;
        let key = sealed.then(|| LessSafeKey::new(key));
        Ok(Link { socket, key, end, sealed: 0, opened: 0, raw: Vec::new(), unsent: Default::default() })
    }

    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        match &mut self.socket {
            Socket::Tcp(stream) => registry.register(stream, token, Interest::READABLE | Interest::WRITABLE),
            Socket::Udp { socket, .. } => registry.register(socket, token, Interest::READABLE | Interest::WRITABLE),
        }
    }

    /// Appends all that has come.
    pub(super) fn read(&mut self, plain: &mut Vec<u8>, buffer: &mut [u8]) -> io::Result<()> {
        if matches!(self.socket, Socket::Udp { .. }) { self.packets(plain) } else { self.stream(plain, buffer) }
    }

    fn stream(&mut self, plain: &mut Vec<u8>, buffer: &mut [u8]) -> io::Result<()> {
        let Socket::Tcp(stream) = &mut self.socket else { return Ok(()) };
        loop {
            let count = match stream.read(buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(error) if super::waits(&error) => break,
                Err(error) => return Err(error),
            };
            if self.key.is_some() { &mut self.raw } else { &mut *plain }.extend_from_slice(&buffer[..count]);
            if count < buffer.len() {
                break;
            }
        }
        let Some(key) = &self.key else { return Ok(()) };
        let mut at = 0;
        while let Some(length) = self.raw.get(at..at + LENGTH) {
            let length = u32::from_le_bytes(length.try_into().map_err(|_| io::ErrorKind::InvalidData)?) as usize;
            let Some(record) = self.raw.get_mut(at + LENGTH..at + LENGTH + length) else { break };
            plain.extend_from_slice(open(key, 1 - self.end, &mut self.opened, record)?);
            at += LENGTH + length;
        }
        self.raw.drain(..at);
        Ok(())
    }

    fn packets(&mut self, plain: &mut Vec<u8>) -> io::Result<()> {
        let Socket::Udp { socket, state, peer, buffers } = &mut self.socket else { return Ok(()) };
        let Some(key) = &self.key else { return Ok(()) };
        loop {
            let mut metas = [RecvMeta::default(); BATCH];
            let received = {
                let mut slices: Vec<_> = buffers.iter_mut().map(|buffer| IoSliceMut::new(buffer)).collect();
                state.recv(UdpSockRef::from(&*socket), &mut slices, &mut metas)
            };
            let count = match received {
                Ok(count) => count,
                Err(error) if super::waits(&error) => return Ok(()),
                Err(error) => return Err(error),
            };
            for (buffer, meta) in buffers.iter_mut().zip(&metas[..count]) {
                peer.get_or_insert(meta.addr);
                for packet in buffer[..meta.len].chunks_mut(meta.stride) {
                    // One that was lost makes the next one's nonce wrong, and ends the run.
                    plain.extend_from_slice(open(key, 1 - self.end, &mut self.opened, packet)?);
                }
            }
            if count < BATCH {
                return Ok(());
            }
        }
    }

    /// Sends all of it, and what waits from before. What the socket does not take now goes when it is writable.
    pub(super) fn send(&mut self, plain: &mut Vec<u8>) -> io::Result<()> {
        let (unsent, _) = &mut self.unsent;
        match (&self.key, &self.socket) {
            (None, _) if unsent.is_empty() => std::mem::swap(unsent, plain),
            (None, _) => unsent.append(plain),
            (Some(key), socket) => {
                let packets = matches!(socket, Socket::Udp { .. });
                for chunk in plain.chunks_mut(if packets { PACKET - TAG } else { RECORD }) {
                    let tag = seal(key, self.end, &mut self.sealed, chunk)?;
                    if !packets {
                        unsent.extend_from_slice(&((chunk.len() + TAG) as u32).to_le_bytes());
                    }
                    unsent.extend_from_slice(chunk);
                    unsent.extend_from_slice(tag.as_ref());
                }
            }
        }
        plain.clear();
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        let (bytes, sent) = &mut self.unsent;
        while *sent < bytes.len() {
            let result = match &mut self.socket {
                Socket::Tcp(stream) => stream.write(&bytes[*sent..]),
                Socket::Udp { socket, state, peer, .. } => {
                    let Some(destination) = *peer else { return Ok(()) };
                    let contents = &bytes[*sent..bytes.len().min(*sent + PACKET * SEGMENTS)];
                    let segment_size = (contents.len() > PACKET).then_some(PACKET);
                    let transmit = Transmit { destination, ecn: None, contents, segment_size, src_ip: None };
                    state.try_send(UdpSockRef::from(&*socket), &transmit).map(|()| contents.len())
                }
            };
            match result {
                Ok(count) => *sent += count,
                Err(error) if super::waits(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        bytes.clear();
        *sent = 0;
        Ok(())
    }
}

fn nonce(end: u8, count: &mut u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[0] = end;
    nonce[4..].copy_from_slice(&count.to_le_bytes());
    *count += 1;
    Nonce::assume_unique_for_key(nonce)
}

fn seal(key: &LessSafeKey, end: u8, count: &mut u64, bytes: &mut [u8]) -> io::Result<Tag> {
    key.seal_in_place_separate_tag(nonce(end, count), Aad::empty(), bytes)
        .map_err(|_| io::ErrorKind::InvalidData.into())
}

fn open<'a>(key: &LessSafeKey, end: u8, count: &mut u64, bytes: &'a mut [u8]) -> io::Result<&'a [u8]> {
    let opened = key.open_in_place(nonce(end, count), Aad::empty(), bytes);
    opened.map(|plain| &*plain).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a packet of the link was lost"))
}
