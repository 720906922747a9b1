//! Handshakes on TCP, both sides: rustls says what to write and what it makes of what was read.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::Poll;

use bytes::{Buf, BytesMut};
use rustls::client::UnbufferedClientConnection;
use rustls::server::{ClientHello, ResolvesServerCert, UnbufferedServerConnection};
use rustls::sign::CertifiedKey;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, InsufficientSizeError, UnbufferedStatus};
use rustls::{ClientConfig, CommonState, Error, InvalidMessage, PeerMisbehaved, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::record::HEADER;
use super::stream::{Secrets, Stream};
use super::{Alpn, Peer, Role, TlsSettings, fault, refusal, server_name};
use crate::fault::Fault;

/// What is read of a peer at a time. Its part of a handshake has two or three KiB.
const READ: usize = 4 * 1024;

/// What is kept of a peer that does not go on: a message of a handshake may have 64 KiB.
const MAX_WAITING: usize = 64 * 1024;

/// Connects to a service, by settings that this identity has made for it; what the two agreed to speak, and who answers there.
///
/// # Errors
/// If the server is not who it should be, does not accept us, or speaks no TLS 1.3. The request can go elsewhere.
pub async fn connect<IO>(
    io: IO,
    settings: Arc<ClientConfig>,
    own: &TlsSettings,
    service: &str,
) -> Result<(Stream<IO>, Option<Alpn>, Arc<Peer>), Fault>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut session = UnbufferedClientConnection::new(settings, server_name(service)).map_err(broken).map_err(fault)?;
    let (io, read) = shake(&mut session, io).await.map_err(fault)?;
    let alpn = Alpn::of(session.alpn_protocol());
    let server = own.peer(Role::Server, session.peer_certificates().unwrap_or_default());
    let server = server.map_err(|error| refusal(&error))?;
    let made = session.dangerous_into_kernel_connection();
    let stream = made.and_then(|(extracted, keys)| Stream::new(io, extracted, Secrets::Client(keys), read));
    Ok((stream.map_err(broken).map_err(fault)?, alpn, server))
}

/// A peer that was accepted.
pub struct Accepted<IO = TcpStream> {
    /// The connection.
    pub stream: Stream<IO>,
    /// What the two agreed to speak.
    pub alpn: Option<Alpn>,
    /// Who the peer is.
    pub peer: Arc<Peer>,
    /// The name that it asked for (SNI), if it did.
    pub server_name: Option<Arc<str>>,
}

/// Accepts a peer.
///
/// # Errors
/// If the peer does not show a valid identity of the trust domain.
pub async fn accept<IO>(io: IO, settings: Arc<TlsSettings>) -> Result<Accepted<IO>, Fault>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let asked = Arc::new(Asked { key: settings.server().cert_resolver.clone(), name: OnceLock::new() });
    let mut own = ServerConfig::clone(settings.server());
    own.cert_resolver = asked.clone();
    let mut session = UnbufferedServerConnection::new(Arc::new(own)).map_err(broken).map_err(fault)?;
    let (io, read) = shake(&mut session, io).await.map_err(fault)?;
    let peer = settings.peer(Role::Client, session.peer_certificates().unwrap_or_default());
    let peer = peer.map_err(|error| refusal(&error))?;
    let (alpn, server_name) = (Alpn::of(session.alpn_protocol()), asked.name.get().cloned());
    let made = session.dangerous_into_kernel_connection();
    let stream = made.and_then(|(extracted, keys)| Stream::new(io, extracted, Secrets::Server(keys), read));
    Ok(Accepted { stream: stream.map_err(broken).map_err(fault)?, alpn, peer, server_name })
}

/// Keeps the name that a client asks for: a session of this kind does not tell it, but it chooses its certificate by it.
#[derive(Debug)]
struct Asked {
    key: Arc<dyn ResolvesServerCert>,
    name: OnceLock<Arc<str>>,
}

impl ResolvesServerCert for Asked {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if let Some(name) = hello.server_name() {
            self.name.get_or_init(|| name.into());
        }
        self.key.resolve(hello)
    }
}

fn broken(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn is_alert(error: &io::Error) -> bool {
    matches!(error.get_ref().and_then(|error| error.downcast_ref()), Some(Error::AlertReceived(_)))
}

/// One side's session.
trait Session: std::ops::Deref<Target: std::ops::Deref<Target = CommonState>> {
    type Data;

    fn process<'c, 'i>(&'c mut self, read: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Session for UnbufferedClientConnection {
    type Data = rustls::client::ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, read: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(read)
    }
}

impl Session for UnbufferedServerConnection {
    type Data = rustls::server::ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, read: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(read)
    }
}

/// What a session asks for next.
enum Step {
    Again,
    Send,
    Read,
    Done,
}

/// Goes through the handshake; gives what was read beyond it.
async fn shake<S: Session, IO>(session: &mut S, mut io: IO) -> io::Result<(IO, BytesMut)>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let (mut incoming, mut outgoing) = (Incoming::default(), Vec::new());
    loop {
        match incoming.step(session, &mut outgoing) {
            Ok(Step::Again) => {}
            Ok(Step::Send) => {
                io.write_all(&outgoing).await?;
                io.flush().await?;
                outgoing.clear();
            }
            Ok(Step::Read) => {
                while !incoming.show_more() {
                    if incoming.bytes.len() >= MAX_WAITING {
                        return Err(broken(InvalidMessage::HandshakePayloadTooLarge.into()));
                    }
                    incoming.bytes.reserve(READ);
                    if io.read_buf(&mut incoming.bytes).await? == 0 {
                        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "tls handshake eof"));
                    }
                }
            }
            // All that rustls was shown is used: what follows is read by our own records.
            Ok(Step::Done) if incoming.shown == 0 => return Ok((io, incoming.bytes)),
            Ok(Step::Done) => return Err(broken(PeerMisbehaved::KeyEpochWithPendingFragment.into())),
            Err(error) => {
                // The steps that are left give the alert that was made of it, behind what else was to be said, which is written as far as it can
                // be at once. None answers an alert, and a session that failed is asked for nothing else.
                let answered = !is_alert(&error);
                while answered && session.wants_write() && incoming.step(session, &mut outgoing).is_ok() {}
                if !outgoing.is_empty() {
                    let _ = poll_fn(|cx| Poll::Ready(Pin::new(&mut io).poll_write(cx, &outgoing))).await;
                }
                return Err(error);
            }
        }
    }
}

fn encode<D>(data: &mut EncodeTlsData<'_, D>, outgoing: &mut Vec<u8>) -> io::Result<()> {
    // It says how much room it needs, but only when it has none.
    let Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) = data.encode(&mut []) else {
        return Ok(());
    };
    let start = outgoing.len();
    outgoing.resize(start + required_size, 0);
    data.encode(&mut outgoing[start..]).map(|_| ()).map_err(|error| io::Error::other(error.to_string()))
}

/// What was read and is not done with. rustls is shown one record after the other, so that it never opens one that follows the
/// handshake; of one that is not all there it is shown the beginning, since it refuses what is no TLS by that.
#[derive(Default)]
struct Incoming {
    bytes: BytesMut,
    /// Where the last record begins that rustls is shown.
    record: usize,
    shown: usize,
}

impl Incoming {
    /// One step of the session, by what it is shown; what it asks for next.
    fn step<S: Session>(&mut self, session: &mut S, outgoing: &mut Vec<u8>) -> io::Result<Step> {
        let UnbufferedStatus { discard, state } = session.process(&mut self.bytes[..self.shown]);
        let step = match state {
            Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, outgoing).map(|()| Step::Again),
            Ok(ConnectionState::TransmitTlsData(data)) => {
                data.done();
                Ok(Step::Send)
            }
            Ok(ConnectionState::WriteTraffic(_)) => Ok(Step::Done),
            Ok(ConnectionState::BlockedHandshake) => Ok(Step::Read),
            Ok(state) => Err(io::Error::other(format!("no part of a handshake: {state:?}"))),
            Err(error) => Err(broken(error)),
        };
        self.bytes.advance(discard);
        self.shown -= discard;
        self.record = self.record.saturating_sub(discard);
        match step {
            // A server could speak first to a client that it does not ask who it is.
            Ok(Step::Done) if session.is_handshaking() => Ok(Step::Read),
            step => step,
        }
    }

    /// Whether there is more to be shown.
    fn show_more(&mut self) -> bool {
        loop {
            let header = self.bytes[self.record..].first_chunk::<HEADER>();
            let end =
                header.map(|&[.., high, low]| self.record + HEADER + usize::from(u16::from_be_bytes([high, low])));
            let show = end.map_or(self.bytes.len(), |end| end.min(self.bytes.len()));
            if show > self.shown {
                self.shown = show;
                return true;
            }
            match end {
                Some(end) if end <= self.bytes.len() => self.record = end,
                _ => return false,
            }
        }
    }
}
