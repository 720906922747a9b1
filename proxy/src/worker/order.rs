//! Everything that another thread can tell a worker.

use std::net::SocketAddr;
use std::net::TcpStream;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::cluster::EndpointReport;
use crate::tls::TlsSettings;

/// An order to a worker. Carried out in sequence.
pub enum Order {
    /// Serve this connection, which another worker accepted on the listener of this number.
    Adopt(usize, TcpStream, SocketAddr),
    /// Use this identity for handshakes from now on; links that are open stay.
    Identity(Arc<TlsSettings>),
    /// Take nothing new, finish what runs, then end: inbound first, outbound when inbound is idle.
    Drain,
    /// End now.
    Cut,
    /// Tell how you are.
    Report(oneshot::Sender<Report>),
}

/// How a worker is.
#[derive(Debug)]
pub struct Report {
    /// Clusters by name, each with its endpoints.
    pub clusters: Vec<(Arc<str>, Vec<EndpointReport>)>,
}
