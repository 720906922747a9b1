//! One question to the DNS: which addresses a name has, and for how long.
//!
//! Each lookup is a resolver of its own. Nothing of an earlier one is kept but the answer, which
//! [`discovery`](super) keeps, and what the system says of its servers (/etc/resolv.conf, /etc/hosts) is read each time.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tokio::time::timeout;

use crate::config::Dns;

/// How long one question may take, with every server and every name of the search list. resolv.conf(5) gives a server
/// five seconds, twice.
const LOOKUP_TIME: Duration = Duration::from_secs(15);

/// What the DNS says of one family of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Records {
    /// The addresses in order, each once; none if there is no such name, or it has none of this family.
    pub(super) addresses: Vec<IpAddr>,
    /// How long that holds; nothing if the server did not say.
    pub(super) valid: Option<Duration>,
    /// Whether there is such a name (no NXDOMAIN, RFC 2308 section 2.1).
    pub(super) exists: bool,
}

/// The answers for A and for AAAA, or why there is none.
pub(super) type Answers = [Result<Records, String>; 2];

/// Asks for the addresses of a name.
pub(super) async fn lookup(dns: &Dns) -> Answers {
    let (resolver, mut name) = match resolver(dns).and_then(|resolver| Ok((resolver, name(dns)?))) {
        Ok(both) => both,
        Err(error) => return [Err(error.to_string()), Err(error.to_string())],
    };
    let four = records(&resolver, &mut name, RecordType::A).await;
    let six = match &four {
        Ok(_) => records(&resolver, &mut name, RecordType::AAAA).await,
        // Who did not answer one question will not answer the other.
        Err(error) => Err(error.clone()),
    };
    [four, six]
}

fn resolver(dns: &Dns) -> Result<TokioResolver, NetError> {
    let mut builder = match dns.server {
        None => TokioResolver::builder_tokio()?,
        Some(server) => {
            let at = |mut connection: ConnectionConfig| {
                connection.port = server.port();
                connection
            };
            // TCP is for answers that do not fit a datagram (RFC 7766).
            let connections = vec![at(ConnectionConfig::udp()), at(ConnectionConfig::tcp())];
            let server = NameServerConfig::new(server.ip(), true, connections);
            let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
            let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
            builder.options_mut().use_hosts_file = ResolveHosts::Never;
            builder
        }
    };
    builder.options_mut().cache_size = 0;
    builder.build()
}

fn name(dns: &Dns) -> Result<Name, NetError> {
    let mut name = Name::from_ascii(&dns.name)?;
    if dns.server.is_some() {
        name.set_fqdn(true);
    }
    Ok(name)
}

/// The records of this type. A name that was found with the search list is whole from then on: what has an A record
/// under one domain must not get its AAAA records from another.
async fn records(resolver: &TokioResolver, name: &mut Name, kind: RecordType) -> Result<Records, String> {
    let answer = timeout(LOOKUP_TIME, resolver.lookup(name.clone(), kind)).await;
    match answer.map_err(|_| format!("no answer within {} s", LOOKUP_TIME.as_secs()))? {
        Ok(lookup) => {
            *name = lookup.query().name().clone();
            let address = |data: &RData| match data {
                RData::A(address) => Some(IpAddr::V4(address.0)),
                RData::AAAA(address) => Some(IpAddr::V6(address.0)),
                _ => None,
            };
            let addresses = lookup.answers().iter().filter_map(|record| address(&record.data));
            // Not places where somebody answers: one would be this machine itself, the other everybody.
            let mut addresses: Vec<_> = addresses.filter(|ip| !ip.is_unspecified() && !ip.is_multicast()).collect();
            addresses.sort_unstable();
            addresses.dedup();
            let valid = Some(lookup.valid_until().saturating_duration_since(Instant::now()));
            Ok(Records { addresses, valid, exists: true })
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(none)))
            if matches!(none.response_code, ResponseCode::NoError | ResponseCode::NXDomain) =>
        {
            let valid = none.negative_ttl.map(|seconds| Duration::from_secs(seconds.into()));
            Ok(Records { addresses: Vec::new(), valid, exists: none.response_code == ResponseCode::NoError })
        }
        Err(error) => Err(error.to_string()),
    }
}
