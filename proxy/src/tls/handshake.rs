//! Handshakes on TCP, both sides.

use std::sync::Arc;

use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::{Alpn, Peer, TlsSettings, fault, peer, server_name};
use crate::fault::{Fault, Reason};

/// Connects to a service; what the two agreed to speak, and who answers there.
///
/// # Errors
/// If the server is not who it should be, does not accept us, or speaks no TLS 1.3. The request can go elsewhere.
pub async fn connect(
    tcp: TcpStream,
    settings: Arc<ClientConfig>,
    service: &str,
) -> Result<(client::TlsStream<TcpStream>, Option<Alpn>, Option<Peer>), Fault> {
    let stream = TlsConnector::from(settings).connect(server_name(service), tcp).await.map_err(fault)?;
    let session = stream.get_ref().1;
    let (alpn, server) = (Alpn::of(session.alpn_protocol()), session.peer_certificates().and_then(peer));
    Ok((stream, alpn, server))
}

/// A peer that was accepted.
pub struct Accepted {
    /// The connection.
    pub stream: server::TlsStream<TcpStream>,
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
pub async fn accept(tcp: TcpStream, settings: Arc<TlsSettings>) -> Result<Accepted, Fault> {
    let stream = TlsAcceptor::from(Arc::clone(settings.server())).accept(tcp).await.map_err(fault)?;
    let session = stream.get_ref().1;
    let peer = session.peer_certificates().and_then(|chain| settings.peer(chain));
    let peer = peer.ok_or_else(|| {
        Fault::new(Reason::TlsCertificateError).detail("the peer's certificate is no valid identity (any more)")
    })?;
    let (alpn, server_name) = (Alpn::of(session.alpn_protocol()), session.server_name().map(Arc::from));
    Ok(Accepted { stream, alpn, peer, server_name })
}
