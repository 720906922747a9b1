//! A DNS server that says what a test wants.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// What it answers for a name.
#[derive(Clone, Debug)]
pub enum Says {
    /// These addresses, for so many seconds.
    Addresses(BTreeSet<IpAddr>, u32),
    /// There is no such name.
    NoName,
    /// It could not find out (SERVFAIL).
    Failure,
    /// Nothing at all.
    Nothing,
    /// This IPv4 address, and nothing to a question for any other kind (RFC 4074 section 4.1).
    OnlyIpv4(Ipv4Addr),
}

/// A server on a loopback UDP port. It ends with the process.
#[derive(Debug)]
pub struct Dns {
    address: SocketAddr,
    names: Arc<Mutex<BTreeMap<String, Says>>>,
    asked: Arc<Mutex<BTreeSet<String>>>,
}

impl Dns {
    /// Knows no name.
    pub fn start() -> Dns {
        Dns::at("127.0.0.1:0".parse().expect("an address")).expect("a port")
    }

    /// The same at this address.
    ///
    /// # Errors
    /// If it cannot be bound; ports below 1024 are the administrator's.
    pub fn at(address: SocketAddr) -> io::Result<Dns> {
        let socket = UdpSocket::bind(address)?;
        let address = socket.local_addr()?;
        let names = Arc::<Mutex<BTreeMap<String, Says>>>::default();
        let known = names.clone();
        let asked = Arc::<Mutex<BTreeSet<String>>>::default();
        let noted = asked.clone();
        thread::spawn(move || {
            let mut message = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut message) {
                let says = |name: &str| {
                    noted.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
                    known.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned().unwrap_or(Says::NoName)
                };
                if let Some(answer) = answer(&message[..length], says) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Ok(Dns { address, names, asked })
    }

    /// How many names it was asked for.
    pub fn asked(&self) -> usize {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Where it is asked.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Says this of a name (lower case, without a dot at the end) from now on.
    pub fn says(&self, name: &str, says: Says) {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), says);
    }

    /// Says these addresses for a second: until the next question, that is.
    pub fn is_at(&self, name: &str, addresses: &[IpAddr]) {
        self.says(name, Says::Addresses(addresses.iter().copied().collect(), 1));
    }
}

/// The response to a query (RFC 1035 section 4.1), if it is one for an address.
fn answer(query: &[u8], says: impl Fn(&str) -> Says) -> Option<Vec<u8>> {
    const A: u16 = 1;
    const AAAA: u16 = 28;
    let (mut at, mut labels) = (12, Vec::new());
    loop {
        let length = usize::from(*query.get(at)?);
        let label = query.get(at + 1..at + 1 + length)?;
        at += 1 + length;
        if label.is_empty() {
            break;
        }
        labels.push(String::from_utf8_lossy(label).to_lowercase());
    }
    let kind = u16::from_be_bytes([*query.get(at)?, *query.get(at + 1)?]);
    let question = query.get(12..at + 4)?;
    let (code, addresses, ttl) = match says(&labels.join(".")) {
        Says::Addresses(addresses, ttl) => (0, addresses, ttl),
        Says::NoName => (3, BTreeSet::new(), 0),
        Says::Failure => (2, BTreeSet::new(), 0),
        Says::OnlyIpv4(address) if kind == A => (0, BTreeSet::from([address.into()]), 1),
        Says::OnlyIpv4(_) | Says::Nothing => return None,
    };
    let data = |ip: &IpAddr| match (ip, kind) {
        (IpAddr::V4(ip), A) => Some(ip.octets().to_vec()),
        (IpAddr::V6(ip), AAAA) => Some(ip.octets().to_vec()),
        _ => None,
    };
    let records: Vec<_> = addresses.iter().filter_map(data).collect();
    // A response with recursion, to the one question, without authorities or more.
    let mut message = query.get(..2)?.to_vec();
    message.extend_from_slice(&[0x81, 0x80 | code, 0, 1, 0, u8::try_from(records.len()).ok()?, 0, 0, 0, 0]);
    message.extend_from_slice(question);
    for data in records {
        // The name is that of the question, at byte 12; class IN.
        message.extend_from_slice(&[0xc0, 12]);
        message.extend_from_slice(&kind.to_be_bytes());
        message.extend_from_slice(&[0, 1]);
        message.extend_from_slice(&ttl.to_be_bytes());
        message.extend_from_slice(&[0, u8::try_from(data.len()).ok()?]);
        message.extend_from_slice(&data);
    }
    Some(message)
}
