//! Whether the other end of a connection is still there.
//!
//! Of a process that died TCP hears from the kernel that ran it. A UDP socket that speaks with many peers hears nothing: what it
//! sends is gone, and after a timeout so is the connection. So a connection that carries requests is looked at from time to time
//! ([`Watch`]), and where packets are not acknowledged, the peer's port is asked by a socket that speaks with it alone
//! ([`ask`]): such a socket is told when nobody has the port (ICMP, which the kernel matches to our own ports), and a QUIC
//! server that is there answers a version of QUIC that does not exist (RFC 9000 section 6.1).

use std::future::pending;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{sleep, timeout};

use super::Stats;
use crate::clock::{Deadline, TICK};

/// Between two looks lie as many ticks of the coarse clock as the shortest deadline has.
const LOOK: Duration = TICK.saturating_mul(2);

/// Looks at which nothing has come until the port is asked. At the first one, what is not acknowledged may just have been sent.
const ASKED: u32 = 2;

/// Looks until no more requests are sent there: a second. They are better off on a new link, or at another endpoint.
const QUIET: u32 = 5;

/// Looks until a connection is given up whose server is there and does not know it any more: it came back with another
/// secret than the one that died. Two seconds: the one who answered may be another worker than the one who is busy.
const DISOWNED: u32 = 10;

/// Looks until one is given up that nobody answers: ten seconds, which is longer than a machine takes to move to another host.
const LOST: u32 = 50;

/// What is measured on a path of so many round trips comes on top.
const ROUND_TRIPS: u32 = 3;

/// How long a handshake may take before the port is asked.
const HANDSHAKE: Duration = Duration::from_millis(50);

/// How often it is asked then.
const AGAIN: Duration = Duration::from_secs(1);

/// Smaller packets are not answered (RFC 9000 section 14.1).
const SIZE: usize = 1200;

/// A version that exists to be refused (RFC 9000 section 15).
const NO_VERSION: [u8; 4] = [0x0a, 0x2a, 0x5a, 0x7a];

/// What a connection has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Datagrams that came.
    received: u64,
    /// Frames that were sent and must be acknowledged, repetitions included.
    sent: u64,
    rtt: Duration,
}

impl From<Stats> for Seen {
    fn from(stats: Stats) -> Self {
        let sent = stats.frame_tx;
        // All but ACK and CONNECTION_CLOSE that is sent once a handshake is over (RFC 9000 section 13.2); what is repeated because
        // it was not acknowledged goes with PING or IMMEDIATE_ACK if there is nothing else.
        let asks =
            [sent.ping, sent.immediate_ack, sent.ack_frequency, sent.stream, sent.reset_stream, sent.stop_sending];
        let flow = [sent.max_data, sent.max_stream_data, sent.max_streams_bidi, sent.max_streams_uni];
        let rest = [sent.new_connection_id, sent.retire_connection_id, sent.path_challenge, sent.path_response];
        let sent = asks.iter().chain(&flow).chain(&rest).sum();
        Seen { received: stats.udp_rx.datagrams, sent, rtt: stats.path.rtt }
    }
}

/// What looks at a connection have shown. They are counted, as time would also pass while this process itself is held up.
#[derive(Debug, Default)]
pub struct Watch {
    /// When something was heard last.
    heard: Seen,
    /// Looks since then at which something was not acknowledged.
    silent: u32,
    /// Looks that round trips take.
    far: u32,
    /// What had been sent when somebody answered at the port.
    lives: Option<u64>,
}

impl Watch {
    /// The connection as it is now. Why it is dead, if it is.
    pub fn look(&mut self, seen: Seen) -> Option<&'static str> {
        if seen.received != self.heard.received {
            *self = Watch { heard: seen, ..Watch::default() };
        }
        if seen.sent == self.heard.sent {
            return None;
        }
        self.silent += 1;
        self.far = u32::try_from((seen.rtt * ROUND_TRIPS).as_nanos() / LOOK.as_nanos()).unwrap_or(LOST);
        match self.lives {
            Some(sent) if self.is(DISOWNED) && seen.sent > sent => Some("the server does not know the link any more"),
            _ if self.is(LOST) => Some("the server is silent"),
            _ => None,
        }
    }

    /// Somebody answered at the port.
    pub fn lives(&mut self, seen: Seen) {
        self.lives = Some(seen.sent);
    }

    /// Whether the port should be asked.
    pub fn doubts(&self) -> bool {
        self.is(ASKED) && self.lives.is_none()
    }

    /// How long an answer of the port may take: it is asked instead of a pause.
    pub fn patience(&self) -> Duration {
        LOOK + self.heard.rtt
    }

    /// Whether nothing new should be sent over the connection.
    pub fn is_quiet(&self) -> bool {
        self.is(QUIET)
    }

    /// Whether all is acknowledged.
    pub fn is_well(&self) -> bool {
        self.silent == 0
    }

    fn is(&self, silent: u32) -> bool {
        self.silent >= silent.saturating_add(self.far)
    }
}

/// The wait for the next look.
#[derive(Debug, Default)]
pub struct Pause(Deadline);

impl Pause {
    /// Until then.
    pub async fn over(&self) {
        self.0.set(TICK);
        self.0.passed().await;
    }
}

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A QUIC server is there.
    Lives,
    /// The port is nobody's.
    Refused,
    /// None came.
    Silence,
}

/// Asks who has this UDP port, and waits so long for an answer. It says that somebody is there, and nothing about who.
pub async fn ask(address: SocketAddr, patience: Duration) -> Answer {
    let asked = timeout(patience, async {
        match answer(address).await {
            Ok(()) => Answer::Lives,
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Answer::Refused,
            // It cannot be asked now.
            Err(_) => pending().await,
        }
    });
    asked.await.unwrap_or(Answer::Silence)
}

/// Ends when the port proves to be nobody's while a handshake takes long.
pub async fn refused(address: SocketAddr) {
    sleep(HANDSHAKE).await;
    loop {
        match ask(address, AGAIN).await {
            Answer::Refused => return,
            // Who is there may be slow.
            Answer::Lives => pending().await,
            Answer::Silence => {}
        }
    }
}

async fn answer(address: SocketAddr) -> io::Result<()> {
    let any = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(address).await?;
    let (question, id) = question();
    socket.send(&question).await?;
    let mut answer = [0; 256];
    loop {
        match socket.recv(&mut answer).await {
            Ok(length) if is_answer(&answer[..length], &id) => return Ok(()),
            // A path that is closed for now, or a stranger.
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Err(error),
            Err(_) => {}
        }
    }
}

/// The first packet of a connection of a version that does not exist, and the id to which it is answered.
fn question() -> ([u8; SIZE], [u8; 8]) {
    let ids: [[u8; 8]; 2] = std::array::from_fn(|_| fastrand::u64(..).to_ne_bytes());
    let mut packet = [0; SIZE];
    // A long header (RFC 8999 section 5.1).
    packet[0] = 0xc0;
    packet[1..5].copy_from_slice(&NO_VERSION);
    for (place, id) in [5, 14].into_iter().zip(&ids) {
        packet[place] = 8;
        packet[place + 1..place + 9].copy_from_slice(id);
    }
    (packet, ids[1])
}

/// Whether this says which versions there are (RFC 8999 section 6), to who asked.
fn is_answer(packet: &[u8], id: &[u8; 8]) -> bool {
    matches!(packet, [first, 0, 0, 0, 0, 8, to @ ..] if first & 0x80 != 0 && to.starts_with(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEAR: Duration = Duration::from_millis(1);

    fn seen(received: u64, sent: u64, rtt: Duration) -> Seen {
        Seen { received, sent, rtt }
    }

    /// Looks until something is said, and how often.
    fn looks(watch: &mut Watch, mut at: impl FnMut(u32) -> Seen) -> (u32, Option<&'static str>) {
        (1..=1000).map(|nth| (nth, watch.look(at(nth)))).find(|(_, said)| said.is_some()).unwrap_or((1000, None))
    }

    #[test]
    fn what_is_acknowledged_is_well_however_long_an_answer_takes() {
        let mut watch = Watch::default();
        assert_eq!(looks(&mut watch, |_| seen(7, 9, NEAR)), (1000, None));
        assert_eq!(looks(&mut watch, |nth| seen(7 + u64::from(nth), 9 + u64::from(nth), NEAR)), (1000, None));
        // Every other look, so that one is never too late.
        assert_eq!(looks(&mut watch, |nth| seen(u64::from(nth / 2), u64::from(nth), NEAR)), (1000, None));
        assert!(!watch.doubts() && !watch.is_quiet());
    }

    #[test]
    fn silence_is_doubted_then_quiet_then_the_end() {
        for (rtt, more) in [(NEAR, 0), (Duration::from_millis(400), 6)] {
            let mut watch = Watch::default();
            assert_eq!(watch.look(seen(5, 5, rtt)), None);
            for nth in 1..LOST + more {
                assert_eq!(watch.look(seen(5, 6, rtt)), None);
                assert!(!watch.is_well());
                assert_eq!(watch.doubts(), nth >= ASKED + more, "{nth}");
                assert_eq!(watch.is_quiet(), nth >= QUIET + more, "{nth}");
            }
            assert!(watch.look(seen(5, 6, rtt)).is_some());
            assert_eq!(watch.look(seen(6, 6, rtt)), None, "it was only slow");
            assert!(watch.is_well() && !watch.is_quiet());
        }
    }

    #[test]
    fn a_server_that_lives_and_does_not_acknowledge_has_forgotten_the_link() {
        let mut watch = Watch::default();
        watch.look(seen(5, 5, NEAR));
        watch.look(seen(5, 6, NEAR));
        watch.look(seen(5, 6, NEAR));
        assert!(watch.doubts());
        watch.lives(seen(5, 6, NEAR));
        assert!(!watch.doubts(), "it is known");
        assert_eq!(
            looks(&mut watch, |nth| seen(5, if nth < 20 { 6 } else { 7 }, NEAR)).0,
            20,
            "not before it was asked itself"
        );
        let mut watch = Watch::default();
        watch.look(seen(5, 5, NEAR));
        watch.lives(seen(5, 5, NEAR));
        assert_eq!(looks(&mut watch, |_| seen(5, 6, NEAR)).0, DISOWNED);
    }

    fn run<T>(paused: bool, test: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(paused).build();
        runtime.expect("a runtime").block_on(test)
    }

    #[test]
    fn a_port_without_owner_is_refused_and_one_that_says_nothing_is_silent() {
        let owned = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
        let address = owned.local_addr().expect("bound");
        assert_eq!(run(true, ask(address, LOOK)), Answer::Silence);
        drop(owned);
        assert_eq!(run(false, ask(address, LOOK)), Answer::Refused);
        run(false, refused(address));
    }

    #[test]
    fn only_an_answer_to_the_question_is_one() {
        let (_, id) = question();
        let answer = [&[0xc0, 0, 0, 0, 0, 8][..], &id, &[1, 9, 0, 0, 0, 1]].concat();
        assert!(is_answer(&answer, &id));
        for place in [0, 2, 5, 7] {
            let mut other = answer.clone();
            other[place] ^= 0xc0;
            assert!(!is_answer(&other, &id), "{place}");
        }
        assert!((0..14).all(|cut| !is_answer(&answer[..cut], &id)));
    }
}
