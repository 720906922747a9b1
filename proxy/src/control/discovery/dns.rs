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

/// The same for AAAA where there are A records, which are of use at once: some servers never answer such a question
/// (RFC 4074 section 4.1). Enough for the resolver to give up one way of asking, after five seconds, and to try another: a
/// TCP connection that a long answer has left behind may lead nowhere. One that is slow gets twice the time that it took for A.
const OTHER_FAMILY_TIME: Duration = Duration::from_secs(7);

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
    let asked = Instant::now();
    let four = records(&resolver, &mut name, RecordType::A, LOOKUP_TIME).await;
    let six = match &four {
        Ok(found) => {
            let patience = other_family(found, asked.elapsed());
            records(&resolver, &mut name, RecordType::AAAA, patience).await
        }
        // Who did not answer one question will not answer the other.
        Err(error) => Err(error.clone()),
    };
    [four, six]
}

/// How long AAAA records are waited for, once A records were found after this time.
fn other_family(found: &Records, took: Duration) -> Duration {
    if found.addresses.is_empty() { LOOKUP_TIME } else { (2 * took).clamp(OTHER_FAMILY_TIME, LOOKUP_TIME) }
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
async fn records(
    resolver: &TokioResolver,
    name: &mut Name,
    kind: RecordType,
    patience: Duration,
) -> Result<Records, String> {
    let answer = timeout(patience, resolver.lookup(name.clone(), kind)).await;
    match answer.map_err(|_| format!("no answer within {patience:?}"))? {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_family_is_waited_for_as_long_as_nothing_else_is_known() {
        let found = |addresses: &[IpAddr]| Records { addresses: addresses.to_vec(), valid: None, exists: true };
        let (none, some) = (found(&[]), found(&[IpAddr::from([10, 0, 0, 1])]));
        assert_eq!(other_family(&none, Duration::ZERO), LOOKUP_TIME);
        assert_eq!(other_family(&some, Duration::ZERO), OTHER_FAMILY_TIME);
        assert_eq!(other_family(&some, OTHER_FAMILY_TIME), 2 * OTHER_FAMILY_TIME);
        assert_eq!(other_family(&some, LOOKUP_TIME), LOOKUP_TIME);
    }
}
