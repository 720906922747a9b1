//! QUIC endpoints (RFC 9000): one UDP socket per worker, and the settings of the connections on it.

pub mod alive;
mod congestion;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use quinn::congestion::CubicConfig;
use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use quinn::{
    AckFrequencyConfig, ClientConfig, EndpointConfig, MtuDiscoveryConfig, ServerConfig, TransportConfig, VarInt,
};
pub use quinn::{Connection, ConnectionStats as Stats, Endpoint};
use quinn_proto::HashedConnectionIdGenerator;
use rustls_pki_types::CertificateDer;

use congestion::Discerns;

/// Streams that a client may have open before the server has seen how many it uses. quinn keeps places in two hash
/// tables for each stream that it allows, used or not: all from the start would cost a megabyte per idle link. With the eight
/// that go one way these are all that tables of 1024 places hold, 43 KB; fewer, and a burst opens another link.
pub const FIRST_STREAMS: u32 = 888;

/// Streams that a client may have open at the most; the server doubles the limit up to here when half of it is in use.
pub const MAX_STREAMS: u32 = 16 * 1024;

/// Bytes of one stream that wait for their reader at the most: what a stopped reader costs. 1 MiB lets one stream move
/// 1 GB/s at a round trip of a millisecond, which is a far zone of the same region.
pub const STREAM_WINDOW: u32 = 1024 * 1024;

/// Bytes of one connection that wait for their readers at the most. While this many streams' readers have stopped, the
/// others still move.
pub const CONNECTION_WINDOW: u32 = 16 * STREAM_WINDOW;

/// Bytes of one connection that we keep because they are not acknowledged yet. Bounds what a fast source and a slow
/// network add to our memory.
pub const SEND_WINDOW: u64 = 4 * 1024 * 1024;

/// How long a connection on which nothing comes is kept. Shorter than the time in which an operator notices, longer
/// than a restart of a network device.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// How often a client pings on an idle link, so that one packet may be lost twice before the link counts as dead. Only
/// clients ping: the link is theirs to keep or to close.
pub const KEEP_ALIVE: Duration = Duration::from_secs(9);

/// Handshakes of unproven addresses that run at the same time before a client must prove its address (RFC 9000
/// section 8.1): a signature each is what an attacker could make us spend for one forged packet.
pub const MAX_UNPROVEN: usize = 64;

/// Connection attempts that wait to be accepted, each with its first packets. More are refused.
const MAX_INCOMING: usize = 1024;

/// Early packets kept for an attempt that is not accepted yet: a ClientHello with a post-quantum key share is two
/// datagrams. quinn's defaults are 10 MiB for one and 100 MiB for all.
const INCOMING_BUFFER: u64 = 16 * 1024;

/// An estimate until the first measurement, from which the retransmission timer of the handshake is made (three times
/// this). Of RFC 9002's 333 ms, a lost first packet would cost a second; a cluster answers within some milliseconds.
const INITIAL_RTT: Duration = Duration::from_millis(20);

/// The UDP payload that fits every path of 1500 bytes, IPv6 included. Where a path is narrower, quinn notices that
/// packets of this size disappear and falls back to 1200.
const INITIAL_MTU: u16 = 1452;

/// The largest UDP payload, sent and received, where a path carries more than 1500 bytes: those of one machine, and the
/// jumbo frames of most clouds. A larger packet saves both sides the work that each packet is. Ten of these, which is what
/// quinn hands to the kernel at once, must fit the 65,507 bytes that one UDP datagram may have: the kernel refuses more.
pub const LARGEST_PAYLOAD: u16 = 6500;

/// The search for what a path carries ends where it is known this well. The three steps to [`LARGEST_PAYLOAD`] are
/// 3976, 5238 and the end; a path of 1500 bytes is known after two, each of them three packets that go nowhere.
const PAYLOAD_STEP: u16 = 1000;

/// Bytes sent before the first acknowledgement: 32 packets, where RFC 9002 allows 10 on the open internet.
const INITIAL_CONGESTION_WINDOW: u64 = 32 * INITIAL_MTU as u64;

/// Packets that a receiver collects before it acknowledges them, instead of every second one: an acknowledgement costs
/// both sides a packet. Must be well under the initial window, which would else wait for [`ACK_DELAY`].
const ACK_THRESHOLD: u32 = 10;

/// How long a receiver collects packets.
const ACK_DELAY: Duration = Duration::from_millis(5);

/// A secret that one endpoint after the other may have, but no two at the same time: each could be made to end the
/// connections of the other (RFC 9000 section 21.11).
pub type Secret = [u8; 32];

/// An endpoint on this socket. With server settings it accepts connections; it can connect in both cases.
///
/// Where it has the secret of another, whose process was killed, it tells those who still write to the connections of that one
/// that they are gone (a stateless reset, RFC 9000 section 10.3), as a kernel does for TCP. Without, they learn it after
/// [`IDLE_TIMEOUT`].
///
/// # Errors
/// The system's, if the socket cannot be used.
pub fn endpoint(socket: UdpSocket, server: Option<ServerConfig>, secret: Option<Secret>) -> io::Result<Endpoint> {
    let mut config = EndpointConfig::default();
    // quinn's receive buffer is 2048 times this, 13 MiB, of which the pages that packets really fill are used: the kernel
    // joins at most 64 KiB of them.
    config.max_udp_payload_size(LARGEST_PAYLOAD).map_err(io::Error::other)?;
    if let Some(secret) = secret {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        // By these bits, which are no secret, an endpoint sees that a connection id is of its making.
        let ids =
            hmac::sign(&key, b"connection ids").as_ref().iter().take(8).fold(0, |id, byte| id << 8 | u64::from(*byte));
        config.reset_key(Arc::new(key)).cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(ids)));
    }
    Endpoint::new(config, server, socket, Arc::new(quinn::TokioRuntime))
}

/// Settings of a server. Replace them at any time with `Endpoint::set_server_config`; open connections keep theirs.
///
/// # Errors
/// If these TLS settings lack the cipher suite that QUIC starts with.
pub fn server(tls: Arc<rustls::ServerConfig>) -> Result<ServerConfig, NoInitialCipherSuite> {
    let mut transport = transport();
    // Raised by `http::h3::serve` for clients that use them up.
    transport.max_concurrent_bidi_streams(VarInt::from_u32(FIRST_STREAMS));
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config
        .transport_config(Arc::new(transport))
        // The kernel picks a worker by address and port; a connection that moved would reach another one.
        .migration(false)
        .max_incoming(MAX_INCOMING)
        .incoming_buffer_size(INCOMING_BUFFER)
        .incoming_buffer_size_total(INCOMING_BUFFER * 64);
    Ok(config)
}

/// Settings of a client.
///
/// # Errors
/// If these TLS settings lack the cipher suite that QUIC starts with.
pub fn client(tls: Arc<rustls::ClientConfig>) -> Result<ClientConfig, NoInitialCipherSuite> {
    let mut transport = transport();
    // HTTP/3 servers open none (RFC 9114 section 6.1).
    transport.max_concurrent_bidi_streams(VarInt::from_u32(0)).keep_alive_interval(Some(KEEP_ALIVE));
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// Takes a connection attempt, or has the client prove its address first when `unproven` handshakes run already.
pub fn admit(incoming: quinn::Incoming, unproven: usize) -> Option<quinn::Connecting> {
    if unproven >= MAX_UNPROVEN && !incoming.remote_address_validated() && incoming.may_retry() {
        // Cannot fail: asked for above.
        let _ = incoming.retry();
        return None;
    }
    incoming.accept().ok()
}

/// The certificate chain that the peer proved to own in the handshake, leaf first.
pub fn peer_certificates(connection: &Connection) -> Option<Vec<CertificateDer<'static>>> {
    connection.peer_identity()?.downcast().ok().map(|chain| *chain)
}

/// The name that the client of an accepted connection asked for (SNI), if it did.
pub fn server_name(connection: &Connection) -> Option<Arc<str>> {
    let data = connection.handshake_data()?.downcast::<quinn::crypto::rustls::HandshakeData>().ok()?;
    data.server_name.map(Arc::from)
}

/// Our own address on the way to another, as the kernel's routes have it; nothing is sent. quinn knows that of accepted
/// connections only.
pub fn source_to(address: SocketAddr) -> Option<IpAddr> {
    let any = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
    socket.connect(address).ok()?;
    socket.local_addr().ok().map(|own| own.ip())
}

fn transport() -> TransportConfig {
    let mut acknowledge = AckFrequencyConfig::default();
    acknowledge.ack_eliciting_threshold(VarInt::from_u32(ACK_THRESHOLD)).max_ack_delay(Some(ACK_DELAY));
    let mut search = MtuDiscoveryConfig::default();
    search.upper_bound(LARGEST_PAYLOAD).minimum_change(PAYLOAD_STEP);
    let mut congestion = CubicConfig::default();
    congestion.initial_window(INITIAL_CONGESTION_WINDOW);
    let mut transport = TransportConfig::default();
    transport
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(SEND_WINDOW)
        // Control, two of QPACK, and room for kinds that we do not know and stop at once.
        .max_concurrent_uni_streams(VarInt::from_u32(8))
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(IDLE_TIMEOUT.try_into().ok())
        .initial_rtt(INITIAL_RTT)
        .initial_mtu(INITIAL_MTU)
        .mtu_discovery_config(Some(search))
        .ack_frequency_config(Some(acknowledge))
        .congestion_controller_factory(Arc::new(Discerns(Arc::new(congestion))))
        .allow_spin(false);
    transport
}
