//! Opening links: TCP or UDP, then mutual TLS, then a protocol.

use std::cell::{OnceCell, RefCell, RefMut};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::drain::Drain;
use crate::fault::{Fault, Reason};
use crate::http::{h1, h2, h3};
use crate::identity::SpiffeId;
use crate::net::io::Io;
use crate::net::{connect, quic};
use crate::telemetry::labels::Link;
use crate::telemetry::metrics::Metrics;
use crate::tls::{self, Alpn, TlsSettings};

/// What a client handshake is made with, and who we are in it.
type Client = (Arc<tls::ClientSettings>, Arc<TlsSettings>);

/// What a worker needs to open links.
pub struct Dialer {
    tls: Rc<RefCell<Option<Arc<TlsSettings>>>>,
    udp: OnceCell<quic::Endpoint>,
    metrics: Rc<Metrics>,
    drain: Drain,
    chance: RefCell<fastrand::Rng>,
}

impl Dialer {
    /// `tls` is the worker's current identity, `drain` is held by the drivers of links.
    pub fn new(tls: Rc<RefCell<Option<Arc<TlsSettings>>>>, metrics: Rc<Metrics>, drain: Drain) -> Self {
        Dialer { tls, udp: OnceCell::new(), metrics, drain, chance: RefCell::new(fastrand::Rng::new()) }
    }

    /// Makes it able to open HTTP/3 links, once: `open` gives the socket if there is none yet.
    ///
    /// # Errors
    /// Those of `open`.
    pub fn enable_udp(&self, open: impl FnOnce() -> io::Result<quic::Endpoint>) -> io::Result<()> {
        if self.udp.get().is_none() {
            let _ = self.udp.set(open()?);
        }
        Ok(())
    }

    /// The worker's metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The worker's chance.
    pub fn chance(&self) -> RefMut<'_, fastrand::Rng> {
        self.chance.borrow_mut()
    }

    /// An HTTP/3 link within this time.
    pub(super) fn h3(
        self: &Rc<Self>,
        address: SocketAddr,
        service: &Arc<str>,
        identity: &[SpiffeId],
        patience: Duration,
    ) -> impl Future<Output = Result<Option<h3::Link>, Fault>> + 'static {
        let (this, service, tls) = (Rc::clone(self), Arc::clone(service), self.client(identity, Alpn::Http3));
        async move {
            let open = async {
                let udp = this
                    .udp
                    .get()
                    .ok_or_else(|| Fault::new(Reason::ConnectionRefused).detail("this worker has no UDP socket"))?;
                let (tls, own) = tls?;
                let settings = quic::client(tls).map_err(|error| Fault::new(Reason::ProxyInternalError).from(error))?;
                h3::Link::connect(udp, settings, address, &service, Some(&own), this.drain.guard()).await
            };
            this.counted(Link::H3, within(patience, open)).await.map(Some)
        }
    }

    /// An HTTP/2 link, or none where the peer speaks HTTP/1.1 only: the connection is put to `wires` then.
    pub(super) fn h2(
        self: &Rc<Self>,
        address: SocketAddr,
        service: &Arc<str>,
        identity: &[SpiffeId],
        patience: Duration,
        wires: Rc<h1::Idle>,
    ) -> impl Future<Output = Result<Option<h2::Link>, Fault>> + 'static {
        let (this, service, tls) = (Rc::clone(self), Arc::clone(service), self.client(identity, Alpn::Http2));
        async move {
            let open = async {
                let (io, alpn) = handshake(address, tls?, &service).await?;
                if alpn == Some(Alpn::Http2) {
                    return h2::Link::open(io, this.drain.guard()).await.map(Some);
                }
                let wire = h1::Wire::counted(io, wires.lease());
                wires.put(Rc::new(RefCell::new(wire)));
                Ok(None)
            };
            this.counted(Link::H2, within(patience, open)).await
        }
    }

    /// An HTTP/2 link without TLS.
    pub(super) fn h2c(
        self: &Rc<Self>,
        address: SocketAddr,
        patience: Duration,
    ) -> impl Future<Output = Result<Option<h2::Link>, Fault>> + 'static {
        let guard = self.drain.guard();
        async move {
            let open = async { h2::Link::open(Io::opened(connect::tcp(address).await?), guard).await };
            within(patience, open).await.map(Some)
        }
    }

    /// An HTTP/1 connection with TLS.
    pub(super) async fn http1_tls(
        &self,
        address: SocketAddr,
        service: &str,
        identity: &[SpiffeId],
        patience: Duration,
        lease: h1::Lease,
    ) -> Result<Rc<RefCell<h1::Wire>>, Fault> {
        let open = async {
            let (io, _) = handshake(address, self.client(identity, Alpn::Http1)?, service).await?;
            Ok(Rc::new(RefCell::new(h1::Wire::counted(io, lease))))
        };
        self.counted(Link::H1, within(patience, open)).await
    }

    /// An HTTP/1 connection without TLS.
    pub(super) async fn http1(
        &self,
        address: SocketAddr,
        patience: Duration,
        lease: h1::Lease,
    ) -> Result<Rc<RefCell<h1::Wire>>, Fault> {
        let open = async { Ok(Io::opened(connect::tcp(address).await?)) };
        within(patience, open).await.map(|io| Rc::new(RefCell::new(h1::Wire::counted(io, lease))))
    }

    /// A TCP connection for opaque bytes.
    pub(super) async fn tcp(&self, address: SocketAddr, patience: Duration) -> Result<h1::Wire, Fault> {
        let open = async { Ok(h1::Wire::tunnel(Io::opened(connect::tcp(address).await?))) };
        within(patience, open).await
    }

    fn client(&self, identity: &[SpiffeId], alpn: Alpn) -> Result<Client, Fault> {
        match self.tls.borrow().as_ref() {
            Some(tls) => Ok((tls.client(identity, alpn), Arc::clone(tls))),
            None => Err(Fault::new(Reason::TlsCertificateError).detail("this sidecar has no identity")),
        }
    }

    async fn counted<T>(&self, link: Link, open: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
        let opened = open.await;
        self.metrics.link_handshake(link, opened.as_ref().map(|_| ()).map_err(|fault| fault.reason));
        opened
    }
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialer").finish_non_exhaustive()
    }
}

/// Opens a TCP connection with TLS; what both sides agreed to speak.
async fn handshake(address: SocketAddr, (tls, own): Client, service: &str) -> Result<(Io, Option<Alpn>), Fault> {
    let (stream, alpn, peer) = tls::handshake::connect(connect::tcp(address).await?, tls, &own, service).await?;
    Ok((Io::opened_tls(stream, (Arc::clone(own.own()), peer)), alpn))
}

async fn within<T>(patience: Duration, open: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    match tokio::time::timeout(patience, open).await {
        Ok(opened) => opened,
        Err(_) => Err(Fault::new(Reason::ConnectionTimeout).detail(format!("no link within {patience:?}"))),
    }
}
