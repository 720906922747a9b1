//! From an accepted connection to the protocol that serves it.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::error::SendError;

use super::{Order, Sockets, Worker};
use crate::drain::{Drain, Guard, Phase};
use crate::fault::{Fault, Reason};
use crate::filter::exchange::Conn;
use crate::http::{h1, h2, h3, rules};
use crate::mesh::hop::{Hop, Pinned, Served};
use crate::mesh::opaque;
use crate::net::detect::{Spoken, detect};
use crate::net::io::Io;
use crate::net::{listen, quic};
use crate::telemetry::labels::NameId;
use crate::telemetry::labels::{Direction, Link, Protocol};
use crate::tls::handshake::Accepted;
use crate::tls::{self, Alpn, Peer, Role};

/// From the connection to the end of its handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// One of the two ways through the sidecar, in this worker.
pub(super) struct Way {
    pub(super) hop: Rc<Hop>,
    pub(super) drain: Drain,
    /// Its listeners: quiet before `drain` is.
    pub(super) doors: Drain,
    /// Our own service.
    pub(super) source: NameId,
    /// Connections that it serves at the most, and now.
    pub(super) limit: usize,
    pub(super) connections: Rc<Cell<usize>>,
}

/// A connection that counts, until it has ended.
struct Admitted {
    connections: Rc<Cell<usize>>,
    _guard: Guard,
}

impl Way {
    /// Counts a connection, unless there are too many.
    fn admit(&self) -> Option<Admitted> {
        let open = self.connections.get();
        (open < self.limit).then(|| {
            self.connections.set(open + 1);
            Admitted { connections: Rc::clone(&self.connections), _guard: self.drain.guard() }
        })
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.connections.set(self.connections.get() - 1);
    }
}

/// A listening socket and what comes in by it.
pub(super) struct Entrance {
    /// Its number, the same in all workers.
    pub(super) place: usize,
    pub(super) local: SocketAddr,
    pub(super) direction: Direction,
    /// The service whose own port this is.
    service: Option<Pinned>,
    /// Quiet when the configuration has it no more.
    pub(super) closing: Drain,
}

impl Entrance {
    /// The entrance of a socket.
    ///
    /// # Errors
    /// If the socket has no address.
    pub(super) fn new(
        place: usize,
        listener: &std::net::TcpListener,
        direction: Direction,
        service: Option<&str>,
    ) -> io::Result<Rc<Self>> {
        let local = listener.local_addr()?;
        let service = service.map(|service| Rc::new(RefCell::new(service.into())));
        Ok(Rc::new(Entrance { place, local, direction, service, closing: Drain::default() }))
    }

    /// It is the port of another service from now on, for connections that are open, too.
    pub(super) fn lead_to(&self, service: &str) {
        if let Some(pinned) = &self.service {
            pinned.replace(service.into());
        }
    }
}

/// Accepts connections of one entrance until its way drains, or it closes; then the listener is closed, so that nobody
/// connects to what will not answer.
pub(super) async fn accept(worker: Rc<Worker>, entrance: Rc<Entrance>, listener: TcpListener) {
    let way = worker.way(entrance.direction);
    // The way has not ended before its queue is empty.
    let _guards = (way.drain.guard(), way.doors.guard());
    loop {
        let (stream, from) = tokio::select! {
            accepted = listen::accept(&listener) => accepted,
            () = way.doors.reached(Phase::Quiet) => break,
            () = entrance.closing.reached(Phase::Quiet) => break,
        };
        worker.publish();
        match worker.peers.settle(worker.number) {
            Some(other) => match stream.into_std() {
                Ok(stream) => {
                    // Comes back from one that has ended.
                    if let Err(SendError(Order::Adopt(place, stream, from))) =
                        other.send(Order::Adopt(entrance.place, stream, from))
                    {
                        worker.adopt(place, stream, from);
                    }
                }
                Err(error) => tracing::debug!(%error, "a connection was lost between workers"),
            },
            None => worker.serve(&entrance, stream, from),
        }
    }
    listen::shut(&listener);
    let mut settled = pin!(tokio::time::sleep(listen::HANDSHAKES));
    loop {
        tokio::select! {
            biased;
            (stream, from) = listen::accept(&listener) => worker.serve(&entrance, stream, from),
            () = &mut settled => return,
        }
    }
}

/// Accepts QUIC connections until the inbound way drains.
pub(super) async fn accept_quic(worker: Rc<Worker>, endpoint: quic::Endpoint) {
    let unproven = Rc::new(Cell::new(0));
    while let Some(incoming) = tokio::select! {
        incoming = endpoint.accept() => incoming,
        () = worker.inbound.drain.reached(Phase::Quiet) => None,
    } {
        let Some(admitted) = worker.inbound.admit() else {
            incoming.refuse();
            continue;
        };
        let Some(connecting) = quic::admit(incoming, unproven.get()) else { continue };
        let (worker, unproven) = (Rc::clone(&worker), Rc::clone(&unproven));
        unproven.set(unproven.get() + 1);
        tokio::task::spawn_local(async move {
            let from = connecting.remote_address();
            let shaken = worker.shaken(from, Link::H3, async { connecting.await.map_err(h3::handshake_fault) }).await;
            unproven.set(unproven.get() - 1);
            if let Some(connection) = shaken {
                worker.quic(connection).await;
            }
            drop(admitted);
        });
    }
}

impl Worker {
    fn way(&self, direction: Direction) -> &Way {
        match direction {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
        }
    }

    /// Tells the other workers how busy this one is.
    fn publish(&self) {
        self.peers.publish(self.number, self.inbound.connections.get() + self.outbound.connections.get());
    }

    /// Serves a connection that another worker accepted.
    pub(super) fn adopt(self: &Rc<Self>, place: usize, stream: std::net::TcpStream, from: SocketAddr) {
        let Some(entrance) = self.entrances.borrow().get(&place).cloned() else { return };
        match TcpStream::from_std(stream) {
            Ok(stream) => self.serve(&entrance, stream, from),
            Err(error) => tracing::debug!(%error, "a connection was lost between workers"),
        }
    }

    fn serve(self: &Rc<Self>, entrance: &Entrance, stream: TcpStream, from: SocketAddr) {
        let way = self.way(entrance.direction);
        let Some(admitted) = way.admit() else {
            tracing::warn!(limit = way.limit, "too many connections: a new one was closed");
            return;
        };
        let (worker, service, direction) = (Rc::clone(self), entrance.service.clone(), entrance.direction);
        self.publish();
        // A task has the room for the largest thing that it ever waits for, all the time. So that a link at rest holds
        // little of it, what comes before and what other protocols need are in boxes of their own.
        tokio::task::spawn_local(async move {
            match direction {
                Direction::Outbound => worker.application(stream, from, service).await,
                Direction::Inbound => worker.peer(stream, from).await,
            }
            drop(admitted);
            worker.publish();
        });
    }

    /// A connection of the application: plain HTTP, or opaque where the service is.
    async fn application(self: &Rc<Self>, mut stream: TcpStream, from: SocketAddr, pinned: Option<Pinned>) {
        let way = &self.outbound;
        let opaque = pinned.as_ref().is_some_and(|service| {
            way.hop.generation.borrow().by_host(&service.borrow()).is_some_and(|service| service.cluster.is_opaque())
        });
        let (protocol, read) = if opaque {
            (Protocol::Tcp, Bytes::new())
        } else {
            match Box::pin(self.spoken(&mut stream)).await {
                Some((Spoken::Http1, read)) => (Protocol::Http1, read),
                Some((Spoken::Http2, read)) => (Protocol::H2, read),
                None => return,
            }
        };
        let Ok(local) = stream.local_addr() else { return };
        let conn = Conn {
            id: Conn::next_id(),
            direction: Direction::Outbound,
            protocol,
            link: Link::None,
            local,
            remote: from,
            peer: None,
            own: None,
            server_name: None,
            forwarded: None,
            source: way.source,
            drain: way.drain.clone(),
        };
        let served = self.served(way, conn, pinned);
        let counted = Counted::new(&way.hop, Direction::Outbound, protocol);
        let io = Io::tcp(stream, read);
        match protocol {
            Protocol::Tcp => Box::pin(opaque::serve(io, served, way.drain.clone())).await,
            Protocol::H2 => violated(h2::serve(io, served, way.drain.clone()).await, from),
            Protocol::Http1 | Protocol::H3 => Box::pin(h1::serve(io, served, way.drain.clone())).await,
        }
        drop(counted);
    }

    /// What the application speaks, and what was read to find out; nothing if the connection ends first.
    async fn spoken(&self, stream: &mut TcpStream) -> Option<(Spoken, Bytes)> {
        let quiet = async {
            self.outbound.drain.reached(Phase::Quiet).await;
            tokio::time::sleep(h1::FIRST_REQUEST).await;
        };
        tokio::select! {
            biased;
            // An application may open connections in advance.
            spoken = detect(stream, rules::IDLE_TIMEOUT, rules::HEAD_TIMEOUT) => spoken.ok(),
            () = quiet => None,
        }
    }

    /// A connection of a peer: mutual TLS.
    async fn peer(self: &Rc<Self>, stream: TcpStream, from: SocketAddr) {
        let way = &self.inbound;
        let Some((io, conn)) = Box::pin(self.welcome(stream, from)).await else { return };
        let protocol = conn.protocol;
        let served = self.served(way, conn, None);
        let counted = Counted::new(&way.hop, Direction::Inbound, protocol);
        match protocol {
            Protocol::H2 => violated(h2::serve(io, served, way.drain.clone()).await, from),
            _ => Box::pin(h1::serve(io, served, way.drain.clone())).await,
        }
        drop(counted);
    }

    /// The handshake with a peer; nothing if it is turned away.
    async fn welcome(&self, stream: TcpStream, from: SocketAddr) -> Option<(Io, Conn)> {
        let local = stream.local_addr().ok()?;
        let settings = self.tls.borrow().clone()?;
        // One that fails counts as one of HTTP/2, which nearly all are.
        let Accepted { stream, alpn, peer, server_name } =
            self.shaken(from, Link::H2, tls::handshake::accept(stream, settings)).await?;
        let spoken = if alpn == Some(Alpn::Http2) { (Protocol::H2, Link::H2) } else { (Protocol::Http1, Link::H1) };
        self.inbound.hop.ledger.metrics.link_handshake(spoken.1, Ok(()));
        Some((Io::tls(stream), self.inbound_conn(spoken, local, from, peer, server_name)))
    }

    /// What comes of a peer's handshake; nothing if it is turned away.
    async fn shaken<T>(
        &self,
        from: SocketAddr,
        link: Link,
        handshake: impl Future<Output = Result<T, Fault>>,
    ) -> Option<T> {
        let place = self.handshakes.begin();
        let shaken = tokio::select! {
            biased;
            shaken = handshake => shaken,
            () = place.given_up() => Err(Fault::new(Reason::LimitReached).detail("its handshake made room for newer ones")),
            () = tokio::time::sleep(HANDSHAKE_TIMEOUT) => {
                Err(Fault::new(Reason::ConnectionTimeout).detail("its handshake took too long"))
            }
            () = self.inbound.drain.reached(Phase::Cut) => return None,
        };
        shaken.map_err(|fault| self.turned_away(from, link, &fault)).ok()
    }

    fn turned_away(&self, from: SocketAddr, link: Link, fault: &Fault) {
        self.inbound.hop.ledger.metrics.link_handshake(link, Err(fault.reason));
        tracing::info!(%fault, peer = %from, "a peer was turned away");
    }

    /// A QUIC connection of a peer, after its handshake.
    async fn quic(self: &Rc<Self>, connection: quic::Connection) {
        let way = &self.inbound;
        let from = connection.remote_address();
        let Some(settings) = self.tls.borrow().clone() else { return };
        let chain = quic::peer_certificates(&connection).unwrap_or_default();
        let peer = match settings.peer(Role::Client, &chain) {
            Ok(peer) => peer,
            Err(error) => {
                self.turned_away(from, Link::H3, &tls::refusal(&error));
                connection.close(0u32.into(), b"");
                return;
            }
        };
        way.hop.ledger.metrics.link_handshake(Link::H3, Ok(()));
        let bound = self.entrances.borrow().get(&Sockets::INBOUND).map_or(from, |entrance| entrance.local);
        // The address that was called, of all that the socket has.
        let local = SocketAddr::new(connection.local_ip().unwrap_or(bound.ip()), bound.port());
        let server_name = quic::server_name(&connection);
        let conn = self.inbound_conn((Protocol::H3, Link::H3), local, from, peer, server_name);
        let counted = Counted::new(&way.hop, Direction::Inbound, Protocol::H3);
        let wrong = h3::serve(connection, self.served(way, conn, None), way.drain.clone()).await;
        violated(wrong, from);
        drop(counted);
    }

    fn inbound_conn(
        &self,
        (protocol, link): (Protocol, Link),
        local: SocketAddr,
        remote: SocketAddr,
        peer: Arc<Peer>,
        server_name: Option<Arc<str>>,
    ) -> Conn {
        let metrics = &self.inbound.hop.ledger.metrics;
        let source = metrics.name(peer.spiffe.service_name().unwrap_or("unknown"));
        let own = self.tls.borrow().as_ref().map(|tls| Arc::clone(tls.own()));
        let forwarded = own.as_ref().map(|own| peer.forwarded(&own.spiffe));
        Conn {
            id: Conn::next_id(),
            direction: Direction::Inbound,
            protocol,
            link,
            local,
            remote,
            peer: Some(peer),
            own,
            server_name,
            forwarded: forwarded.and_then(|text| HeaderValue::from_maybe_shared(Bytes::from(text)).ok()),
            source,
            drain: self.inbound.drain.clone(),
        }
    }

    fn served(&self, way: &Way, conn: Conn, pinned: Option<Pinned>) -> Rc<Served> {
        Rc::new(Served { hop: Rc::clone(&way.hop), conn: Rc::new(conn), pinned })
    }
}

/// Tells what a client did wrong, if that ended its connection: no request shows it.
fn violated(wrong: Option<&'static str>, peer: SocketAddr) {
    if let Some(what) = wrong {
        tracing::info!(what, %peer, "a connection was closed for what its client did");
    }
}

/// A connection in the metrics, as long as it is open.
struct Counted<'a>(&'a Hop, Direction, Protocol);

impl<'a> Counted<'a> {
    fn new(hop: &'a Hop, direction: Direction, protocol: Protocol) -> Self {
        hop.ledger.metrics.connection_opened(direction, protocol);
        Counted(hop, direction, protocol)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.ledger.metrics.connection_closed(self.1, self.2);
    }
}
