//! `linkshim`: a network between two namespaces, with the delay, loss and rate that is asked for. See `benches/README.md`.

use clap::Parser;
use lacis_benches::shim::{Conditions, Direction, Fate};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    thread::set_current_timer_slack,
};
use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    error::Error,
    io::{self, ErrorKind, Read, Write},
    num::NonZeroU64,
    process::ExitCode,
    time::{Duration, Instant},
};
use tun_rs::{DeviceBuilder, SyncDevice};

/// No packet is longer: what an IP header can say.
const LONGEST: usize = 64 << 10;
/// Packets taken from one device before the other one has its turn.
const TURN: usize = 64;
/// Packets on their way at the most, in both directions together. What comes beyond is dropped, and counted as overflow.
const UNDER_WAY: usize = 256 << 10;

/// Moves packets between two TUN devices, as a network would between two machines.
///
/// It makes both devices where it runs; who starts it moves them to where they belong (`ip link set NAME netns PID`). Each
/// line on standard input is conditions as JSON, which hold until the next line; the answer is what became of the packets
/// since the line before. It ends with its input.
#[derive(Debug, Parser)]
struct Arguments {
    /// The name of one device.
    #[arg(long, default_value = "near")]
    near: String,
    /// The name of the other.
    #[arg(long, default_value = "far")]
    far: String,
}

fn main() -> ExitCode {
    match work(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("linkshim: {error}");
            ExitCode::FAILURE
        }
    }
}

fn work(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    // Of 50 µs by default, which is half of the shortest delay that is asked for.
    set_current_timer_slack(NonZeroU64::new(1))?;
    let devices = [open(&arguments.near)?, open(&arguments.far)?];
    println!("{}", serde_json::json!({ "near": devices[0].name()?, "far": devices[1].name()? }));
    let mut link = Link::new(devices);
    let mut lines = Lines::default();
    loop {
        let wait =
            link.next().map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() });
        let stdin = io::stdin();
        let mut ready = [
            PollFd::new(&link.devices[0], PollFlags::IN),
            PollFd::new(&link.devices[1], PollFlags::IN),
            PollFd::new(&stdin, PollFlags::IN),
        ];
        match poll(&mut ready, wait.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [near, far, input] = ready.map(|each| !each.revents().is_empty());
        for (index, ready) in [near, far].into_iter().enumerate() {
            if ready {
                link.take(index)?;
            }
        }
        link.deliver()?;
        if input {
            let Some(complete) = lines.read(&mut stdin.lock())? else { return Ok(()) };
            for line in complete {
                let conditions: Conditions = serde_json::from_str(&line)?;
                conditions.check()?;
                println!("{}", link.change(conditions));
                io::stdout().flush()?;
            }
        }
    }
}

fn open(name: &str) -> Result<SyncDevice, Box<dyn Error>> {
    // Without a header for offloads the kernel cuts packets to the MTU before they come here, so that each is lost by itself.
    let device = DeviceBuilder::new().name(name).offload(false).packet_information(false).enable(false).build_sync();
    let device = device.map_err(|error| format!("cannot make the TUN device {name}: {error}"))?;
    device.set_nonblocking(true)?;
    Ok(device)
}

/// The network: packets come in at `devices[i]`, cross `directions[i]`, and go out at the other device.
struct Link {
    devices: [SyncDevice; 2],
    directions: [Direction; 2],
    start: Instant,
    under_way: BinaryHeap<Reverse<Packet>>,
    sequence: u64,
    /// Of packets that arrived, for the next ones.
    spare: Vec<Vec<u8>>,
    buffer: Box<[u8]>,
    refused: u64,
}

/// On its way. The first to arrive is the smallest.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Packet {
    at: Duration,
    sequence: u64,
    to: usize,
    bytes: Vec<u8>,
}

impl Link {
    fn new(devices: [SyncDevice; 2]) -> Self {
        Self {
            devices,
            directions: directions(Conditions::default()),
            start: Instant::now(),
            under_way: BinaryHeap::new(),
            sequence: 0,
            spare: Vec::new(),
            buffer: vec![0; LONGEST].into(),
            refused: 0,
        }
    }

    /// How long until the next packet arrives.
    fn next(&self) -> Option<Duration> {
        self.under_way.peek().map(|Reverse(packet)| packet.at.saturating_sub(self.start.elapsed()))
    }

    /// Takes what was sent at one end.
    fn take(&mut self, from: usize) -> io::Result<()> {
        for _ in 0..TURN {
            let length = match self.devices[from].recv(&mut self.buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            let fate = self.directions[from].send(self.start.elapsed(), length);
            let Fate::Arrives(at) = fate else { continue };
            if self.under_way.len() >= UNDER_WAY {
                self.refused += 1;
                continue;
            }
            let mut bytes = self.spare.pop().unwrap_or_default();
            bytes.clear();
            bytes.extend_from_slice(&self.buffer[..length]);
            self.sequence += 1;
            self.under_way.push(Reverse(Packet { at, sequence: self.sequence, to: 1 - from, bytes }));
        }
        Ok(())
    }

    /// Hands over what has arrived.
    fn deliver(&mut self) -> io::Result<()> {
        while let Some(Reverse(packet)) = self.under_way.peek() {
            if packet.at > self.start.elapsed() {
                break;
            }
            match self.devices[packet.to].send(&packet.bytes) {
                Ok(_) => {}
                // A device that is down, on its way to another namespace, or without room: the packet is lost there.
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::InvalidInput) => {
                    self.refused += 1
                }
                Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => self.refused += 1,
                Err(error) => return Err(error),
            }
            if let Some(Reverse(packet)) = self.under_way.pop() {
                self.spare.push(packet.bytes);
            }
        }
        Ok(())
    }

    /// Other conditions from now on; what became of the packets so far. Those under way arrive as they would have.
    fn change(&mut self, conditions: Conditions) -> serde_json::Value {
        let [near, far] = std::mem::replace(&mut self.directions, directions(conditions));
        let refused = std::mem::take(&mut self.refused);
        serde_json::json!({ "from_near": near.counts(), "from_far": far.counts(), "refused": refused })
    }
}

fn directions(conditions: Conditions) -> [Direction; 2] {
    [Direction::new(conditions, 0), Direction::new(conditions, 1)]
}

/// Lines of an input that comes in pieces.
#[derive(Debug, Default)]
struct Lines(Vec<u8>);

impl Lines {
    /// Reads once: the lines that are complete now, none at the end of the input.
    fn read(&mut self, input: &mut impl Read) -> io::Result<Option<Vec<String>>> {
        let mut piece = [0; 4096];
        let count = input.read(&mut piece)?;
        if count == 0 {
            return Ok(None);
        }
        self.0.extend_from_slice(&piece[..count]);
        let mut complete = Vec::new();
        while let Some(end) = self.0.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.0.drain(..=end).collect();
            complete.push(String::from_utf8_lossy(&line).trim().to_owned());
        }
        Ok(Some(complete))
    }
}
