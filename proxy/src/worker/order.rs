//! Everything that another thread can tell a worker.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::cluster::{ClusterReport, Place};
use crate::config::Source;
use crate::filter::wasm::FilterReport;
use crate::mesh::generation::Snapshot;
use crate::telemetry::metrics::FilterMetrics;
use crate::telemetry::why::Explanation;
use crate::tls::TlsSettings;

/// An order to a worker. Carried out in sequence.
pub enum Order {
    /// Serve this connection, which another worker accepted on the listener of this place.
    Adopt(usize, TcpStream, SocketAddr),
    /// Use this identity for handshakes from now on; links that are open stay.
    Identity(Arc<TlsSettings>),
    /// Make a generation ready beside the one in use, and say whether that can be.
    Prepare(Box<Next>),
    /// Begin requests on the generation of this number, which was made ready, from now on; and say when.
    Switch(u64, oneshot::Sender<()>),
    /// Forget the generation of this number, which was made ready: another worker, or control, could not.
    Discard(u64),
    /// The services that this source speaks for are here from now on.
    Moved(Source, Arc<Place>),
    /// Active health checks say this of an endpoint of a service.
    Checked {
        /// The service.
        service: Arc<str>,
        /// The endpoint.
        address: SocketAddr,
        /// Whether it is well.
        healthy: bool,
    },
    /// Take nothing new, finish what runs, then end: inbound first, outbound when inbound is idle.
    Drain,
    /// End now.
    Cut,
    /// Tell how you are.
    Report {
        /// How each endpoint is, too: of thousands that takes long enough for requests to notice.
        clusters: bool,
        /// Where.
        answer: oneshot::Sender<Report>,
    },
    /// Tell what is known of the last requests: of those with this id or of all, the newest first, so many at the most.
    Requests(Option<Arc<str>>, usize, oneshot::Sender<Vec<Explanation>>),
}

/// A generation for one worker.
pub struct Next {
    /// The configuration and its filters.
    pub snapshot: Snapshot,
    /// Ports of services that the generation in use does not have.
    pub ports: Vec<Port>,
    /// Places of those that this one does not have any more.
    pub closed: Vec<usize>,
    /// Places of those that are another service's in this one, and which.
    pub moved: Vec<(usize, Arc<str>)>,
    /// Where the worker says that it is ready, or why it cannot be.
    pub answer: oneshot::Sender<Result<(), String>>,
}

/// A service's own port in one worker.
#[derive(Debug)]
pub struct Port {
    /// The number of the listener, the same in all workers and never used again.
    pub place: usize,
    /// The service.
    pub service: Arc<str>,
    /// This worker's socket.
    pub listener: TcpListener,
}

/// How a worker is.
#[derive(Debug)]
pub struct Report {
    /// Clusters, if that was asked.
    pub clusters: Vec<ClusterReport>,
    /// Filters, those of earlier generations included while a request uses them.
    pub filters: Vec<FilterReport>,
    /// Filters of the generation in use that have no module, with what is counted of them.
    pub missing: Vec<(Arc<str>, FilterMetrics)>,
    /// Generations by number with the exchanges that run on them: the one in use, then those that end.
    pub generations: Vec<(u64, usize)>,
}
