//! A wire between two sidecars: forwards TCP and UDP on one port number, records what passes, and can fail.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;

use crate::process::lock;
use crate::{block_on, runtime};

/// How much a relay keeps of what passed: enough for any secret marker of a test.
const RECORDED: usize = 8 << 20;

/// A relay before a target.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: watch::Sender<()>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    recorded: Mutex<Vec<u8>>,
    tcp: AtomicU64,
    udp: AtomicU64,
    mute: AtomicBool,
    cut: watch::Sender<u64>,
    silent: watch::Sender<u64>,
}

impl Relay {
    /// Forwards both protocols to `target`.
    pub fn new(target: SocketAddr) -> Relay {
        Relay::start(target, true)
    }

    /// Forwards TCP; nobody has the UDP port, so the sender hears so from its own machine at once.
    pub fn without_udp(target: SocketAddr) -> Relay {
        Relay::start(target, false)
    }

    /// Forwards TCP; UDP vanishes without an answer, as behind a firewall that drops it.
    pub fn mute_udp(target: SocketAddr) -> Relay {
        let relay = Relay::start(target, true);
        relay.set_mute(true);
        relay
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether UDP vanishes from now on.
    pub fn set_mute(&self, mute: bool) {
        self.shared.mute.store(mute, Ordering::SeqCst);
    }

    /// Drops every TCP connection that is open now.
    pub fn cut(&self) {
        self.shared.cut.send_modify(|n| *n += 1);
    }

    /// Forwards nothing more of the TCP connections that are open now, and leaves them open: what is behind a dead
    /// machine or a lost entry of a firewall looks like this.
    pub fn silence(&self) {
        self.shared.silent.send_modify(|n| *n += 1);
    }

    /// The bytes that passed so far, both directions and protocols mixed; at most 8 MiB.
    pub fn recorded(&self) -> Vec<u8> {
        lock(&self.shared.recorded).clone()
    }

    /// TCP connections taken so far.
    pub fn connections(&self) -> u64 {
        self.shared.tcp.load(Ordering::SeqCst)
    }

    /// Datagrams that arrived so far from the client's side, also those that then vanished.
    pub fn datagrams(&self) -> u64 {
        self.shared.udp.load(Ordering::SeqCst)
    }

    fn start(target: SocketAddr, with_udp: bool) -> Relay {
        let shared = Arc::new(Shared {
            target,
            recorded: Mutex::default(),
            tcp: AtomicU64::new(0),
            udp: AtomicU64::new(0),
            mute: AtomicBool::new(false),
            cut: watch::channel(0).0,
            silent: watch::channel(0).0,
        });
        let (stop, stopped) = watch::channel(());
        let (tcp, udp) = block_on(both());
        let address = tcp.local_addr().expect("a bound socket");
        runtime().spawn(until_stopped(stopped.clone(), forward_tcp(tcp, shared.clone(), stopped.clone())));
        if with_udp {
            runtime().spawn(until_stopped(stopped.clone(), forward_udp(Arc::new(udp), shared.clone(), stopped)));
        }
        Relay { address, shared, stop }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.stop.send(());
    }
}

/// TCP and UDP on one free port number.
async fn both() -> (TcpListener, UdpSocket) {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().expect("a bound socket")).await {
            return (tcp, udp);
        }
    }
}

async fn until_stopped(mut stopped: watch::Receiver<()>, work: impl Future<Output = ()>) {
    tokio::select! {
        _ = stopped.changed() => {}
        () = work => {}
    }
}

async fn forward_tcp(listener: TcpListener, shared: Arc<Shared>, stopped: watch::Receiver<()>) {
    while let Ok((near, _)) = listener.accept().await {
        shared.tcp.fetch_add(1, Ordering::SeqCst);
        let shared = shared.clone();
        let (mut cut, mut silent) = (shared.cut.subscribe(), shared.silent.subscribe());
        tokio::spawn(until_stopped(stopped.clone(), async move {
            let Ok(far) = TcpStream::connect(shared.target).await else { return };
            let (mut near_in, mut near_out) = near.into_split();
            let (mut far_in, mut far_out) = far.into_split();
            tokio::select! {
                _ = cut.changed() => {}
                _ = silent.changed() => std::future::pending().await,
                _ = async {
                    tokio::join!(
                        copy(&mut near_in, &mut far_out, &shared),
                        copy(&mut far_in, &mut near_out, &shared),
                    )
                } => {}
            }
        }));
    }
}

async fn copy(from: &mut (impl AsyncReadExt + Unpin), to: &mut (impl AsyncWriteExt + Unpin), shared: &Shared) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        shared.record(&buffer[..count]);
        if to.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

async fn forward_udp(socket: Arc<UdpSocket>, shared: Arc<Shared>, stopped: watch::Receiver<()>) {
    let mut flows: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut buffer = vec![0; 64 * 1024];
    // An error on a datagram socket is about an earlier datagram (ICMP), not about the socket.
    loop {
        let Ok((count, from)) = socket.recv_from(&mut buffer).await else { continue };
        shared.udp.fetch_add(1, Ordering::SeqCst);
        if shared.mute.load(Ordering::SeqCst) {
            continue;
        }
        shared.record(&buffer[..count]);
        if let Entry::Vacant(entry) = flows.entry(from) {
            let Ok(flow) = UdpSocket::bind("127.0.0.1:0").await else { continue };
            if flow.connect(shared.target).await.is_err() {
                continue;
            }
            let flow = Arc::new(flow);
            entry.insert(flow.clone());
            tokio::spawn(until_stopped(stopped.clone(), answer(flow, socket.clone(), from, shared.clone())));
        }
        let _ = flows[&from].send(&buffer[..count]).await;
    }
}

async fn answer(flow: Arc<UdpSocket>, socket: Arc<UdpSocket>, to: SocketAddr, shared: Arc<Shared>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(count) = flow.recv(&mut buffer).await else { continue };
        if shared.mute.load(Ordering::SeqCst) {
            continue;
        }
        shared.record(&buffer[..count]);
        let _ = socket.send_to(&buffer[..count], to).await;
    }
}

impl Shared {
    fn record(&self, bytes: &[u8]) {
        let mut recorded = lock(&self.recorded);
        let room = RECORDED.saturating_sub(recorded.len()).min(bytes.len());
        recorded.extend_from_slice(&bytes[..room]);
    }
}
