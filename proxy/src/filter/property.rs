//! The properties of one exchange: the attributes of Envoy (`attributes.rst`, `source/extensions/filters/common/expr`) as
//! far as a sidecar has the facts. What comes of the request is there for the whole exchange; Envoy loses it with the
//! request's head.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use http::header::{self, HeaderName};
use lacis_host::abi::{Encoder, Status};
use lacis_host::{Half, Headers};

use super::grpc;
use super::seen::Seen;
use crate::fault::Reason;
use crate::http::body::Half as Direction;
use crate::http::head::Version;
use crate::telemetry::labels;
use crate::tls::Peer;

/// The only version of TLS that is spoken here.
const TLS_VERSION: &[u8] = b"TLSv1.3";

/// Writes the value of a property that an exchange has by itself. False if there is no property of this name.
///
/// # Errors
/// `NotFound` if it is not there (yet), `SerializationFailure` for an object that has no serial form.
pub(super) fn read(seen: &Seen, path: &[&[u8]], out: &mut Vec<u8>) -> Result<bool, Status> {
    let exchange = &*seen.exchange;
    let value = match path {
        [
            b"request" | b"response" | b"connection" | b"source" | b"destination" | b"upstream" | b"xds"
            | b"filter_state",
        ] => {
            return Err(Status::SerializationFailure);
        }
        [b"request", rest @ ..] => request(seen, rest),
        [b"response", rest @ ..] => response(seen, rest),
        [b"source", end @ ..] => address(exchange.conn.remote, end),
        [b"destination", end @ ..] => address(exchange.conn.local, end),
        [b"connection", rest @ ..] => connection(seen, rest),
        [b"connection_id"] => connection(seen, &[b"id"]),
        [b"upstream", rest @ ..] => upstream(seen, rest),
        // Ours has no metadata of its own; an empty message is what Envoy answers for that.
        [b"metadata"] | [b"xds", b"cluster_metadata" | b"route_metadata" | b"listener_metadata"] => Some(Vec::new()),
        [b"metadata", b"filter_metadata"]
        | [b"xds", b"cluster_metadata" | b"route_metadata" | b"listener_metadata", b"filter_metadata"] => {
            Some(0u32.to_le_bytes().to_vec())
        }
        // Where Envoy keeps what filters store.
        [b"filter_state", key] => key.strip_prefix(b"wasm.").and_then(|path| seen.kept(path)).map(<[u8]>::to_vec),
        [b"xds", b"listener_direction"] | [b"listener_direction"] => number(match exchange.conn.direction {
            labels::Direction::Inbound => 1,
            labels::Direction::Outbound => 2,
        }),
        [b"xds", b"cluster_name"] | [b"cluster_name"] => exchange.service().map(|name| name.as_bytes().into()),
        // `SERVICE/RULE`; empty where no rule has chosen.
        [b"xds", b"route_name"] | [b"route_name"] => {
            Some(exchange.route().map_or_else(Vec::new, |rule| rule.as_bytes().into()))
        }
        // Nothing here has a name of that kind.
        [b"xds", b"virtual_host_name" | b"filter_chain_name"] => Some(Vec::new()),
        _ => return Ok(false),
    };
    out.extend_from_slice(&value.ok_or(Status::NotFound)?);
    Ok(true)
}

/// The value, if there is one.
type Found = Option<Vec<u8>>;

fn request(seen: &Seen, path: &[&[u8]]) -> Found {
    let exchange = &*seen.exchange;
    let map = seen.request.as_ref();
    let head = map.map(|request| &request.head);
    let field = |name: HeaderName| head?.headers.get(name).map(|value| value.as_bytes().to_vec());
    match path {
        [b"path"] => Some(head?.path.as_str().into()),
        [b"url_path"] => Some(head?.path.path().into()),
        [b"query"] => Some(head?.path.query().unwrap_or("").into()),
        [b"host"] => Some(head?.authority.as_ref().map_or("", |authority| authority.as_str()).into()),
        [b"scheme"] => Some(if head?.https { b"https".to_vec() } else { b"http".to_vec() }),
        [b"method"] => Some(head?.method.as_str().into()),
        [b"headers"] => Some(pairs(map.map(|map| map as _))),
        [b"headers", name] => joined(map?, name),
        [b"referer"] => field(header::REFERER),
        [b"useragent"] => field(header::USER_AGENT),
        [b"id"] => field(HeaderName::from_static("x-request-id")),
        [b"protocol"] => Some(match head?.version {
            Version::Http10 => b"HTTP/1.0".to_vec(),
            Version::Http11 => b"HTTP/1.1".to_vec(),
            Version::Http2 => b"HTTP/2".to_vec(),
            Version::Http3 => b"HTTP/3".to_vec(),
        }),
        [b"time"] => number(exchange.since_epoch().as_nanos() as u64),
        [b"duration"] => duration(exchange.over()?),
        [b"size"] => {
            let announced = || std::str::from_utf8(&field(header::CONTENT_LENGTH)?).ok()?.parse().ok();
            let passed = exchange.bytes(Direction::Request);
            number(if exchange.over().is_some() { passed } else { announced().unwrap_or(passed) })
        }
        [b"headers_bytes"] => number(bytes(map.map(|map| map as _))),
        [b"total_size"] => number(exchange.bytes(Direction::Request) + bytes(map.map(|map| map as _))),
        _ => None,
    }
}

fn response(seen: &Seen, path: &[&[u8]]) -> Found {
    let exchange = &*seen.exchange;
    let map = seen.response.as_ref().map(|map| map as &dyn Headers);
    let trailers = seen.trailers[Half::Response as usize].get().map(|map| map as &dyn Headers);
    let status = seen.response.as_ref().map(|response| response.head.status);
    match path {
        [b"code"] => number(status?.as_u16().into()),
        // Those of an answer also where it could only end what there was.
        [b"code_details"] => match (seen.details.as_ref().or(unsent(seen)), exchange.reason()) {
            (Some(details), _) => Some(details.clone()),
            (None, Reason::None) => status.map(|_| exchange.details().as_bytes().into()),
            (None, _) => Some(exchange.details().as_bytes().into()),
        },
        [b"flags"] => number(flag(exchange.reason().row().flag)),
        [b"grpc_status"] => {
            let told = [trailers, map].into_iter().flatten().find_map(|map| map.get(grpc::STATUS.as_str().as_bytes()));
            let told = told.and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
            number(told.unwrap_or(u64::from(grpc::of_http(status?))))
        }
        [b"headers"] => Some(pairs(map)),
        [b"headers", name] => joined(map?, name),
        [b"trailers"] => Some(pairs(trailers)),
        [b"trailers", name] => joined(trailers?, name),
        [b"size"] => number(exchange.bytes(Direction::Response)),
        [b"headers_bytes"] => number(bytes(map)),
        [b"total_size"] => number(exchange.bytes(Direction::Response) + bytes(map) + bytes(trailers)),
        [b"backend_latency"] => duration(exchange.backend_latency()?),
        _ => None,
    }
}

/// What a filter said of an answer for which it was too late.
fn unsent(seen: &Seen) -> Option<&Vec<u8>> {
    seen.reply.as_ref().filter(|_| seen.exchange.reason() == Reason::FilterReset).map(|reply| &reply.details)
}

fn connection(seen: &Seen, path: &[&[u8]]) -> Found {
    let conn = &seen.exchange.conn;
    match path {
        [b"id"] => number(conn.id),
        [b"mtls"] => Some(vec![u8::from(conn.peer.is_some())]),
        [b"requested_server_name"] => Some(conn.server_name.as_deref().unwrap_or_default().into()),
        [name] => certificates(conn.own.as_deref()?, conn.peer.as_ref()?, name),
        _ => None,
    }
}

/// What TLS has shown of both ends of a connection.
fn certificates(own: &Peer, peer: &Peer, name: &[u8]) -> Found {
    match name {
        b"tls_version" => Some(TLS_VERSION.into()),
        b"subject_local_certificate" => Some(own.subject.as_bytes().into()),
        b"subject_peer_certificate" => Some(peer.subject.as_bytes().into()),
        b"uri_san_local_certificate" => Some(own.spiffe.as_str().into()),
        b"uri_san_peer_certificate" => Some(peer.spiffe.as_str().into()),
        b"dns_san_local_certificate" => own.dns.as_ref().map(|name| name.as_bytes().into()),
        b"dns_san_peer_certificate" => peer.dns.as_ref().map(|name| name.as_bytes().into()),
        b"sha256_peer_certificate_digest" => Some(peer.hash.as_bytes().into()),
        b"peer_certificate" => Some(pem(&peer.certificate).into_bytes()),
        _ => None,
    }
}

/// A certificate as PEM (RFC 7468).
fn pem(der: &[u8]) -> String {
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for (at, letter) in base64::engine::general_purpose::STANDARD.encode(der).chars().enumerate() {
        if at > 0 && at % 64 == 0 {
            text.push('\n');
        }
        text.push(letter);
    }
    text.push_str("\n-----END CERTIFICATE-----\n");
    text
}

fn upstream(seen: &Seen, path: &[&[u8]]) -> Found {
    let trail = &seen.exchange.trail;
    let carrier = trail.carrier();
    match path {
        [b"request_attempt_count"] => number(trail.attempts().into()),
        [b"transport_failure_reason"] => {
            trail.address()?;
            let reason = seen.exchange.reason();
            let failed = matches!(reason, Reason::TlsCertificateError | Reason::TlsProtocolError);
            Some(if failed { reason.row().token.into() } else { Vec::new() })
        }
        [b"address" | b"port"] => address(trail.address()?, path),
        [b"local_address"] => address(carrier?.local?, &[b"address"]),
        [b"local_port"] => address(carrier?.local?, &[b"port"]),
        [name] => {
            let (own, peer) = carrier.as_ref()?.ends.as_ref()?;
            certificates(own, peer, name)
        }
        _ => None,
    }
}

/// Envoy's legacy bit of a response flag (`response_flag.h`).
fn flag(short: &str) -> u64 {
    match short {
        "UH" => 0x2,
        "UT" => 0x4,
        "UR" => 0x10,
        "UF" => 0x20,
        "UC" => 0x40,
        "UO" => 0x80,
        "NR" => 0x100,
        "FI" => 0x400,
        "RL" => 0x800,
        "UAEX" => 0x1000,
        "DC" => 0x4000,
        "SI" => 0x1_0000,
        "DPE" => 0x4_0000,
        "UMSDR" => 0x8_0000,
        "UPE" => 0x80_0000,
        "OM" => 0x200_0000,
        "DF" => 0x400_0000,
        "NC" => 0x800_0000,
        _ => 0,
    }
}

fn number(n: u64) -> Found {
    Some(n.to_le_bytes().to_vec())
}

fn duration(time: Duration) -> Found {
    number(time.as_nanos() as u64)
}

fn address(address: SocketAddr, end: &[&[u8]]) -> Found {
    match end {
        [b"address"] => Some(address.to_string().into_bytes()),
        [b"port"] => number(address.port().into()),
        _ => None,
    }
}

/// All values of a name, joined by commas.
fn joined(map: &dyn Headers, name: &[u8]) -> Found {
    let name = name.to_ascii_lowercase();
    let mut all: Option<Vec<u8>> = None;
    map.visit(&mut |own, value| {
        if own == name {
            match &mut all {
                Some(all) => all.extend([b",", value].concat()),
                None => all = Some(value.to_vec()),
            }
        }
    });
    all.or_else(|| map.get(&name).map(<[u8]>::to_vec))
}

/// Bytes of all names and values.
fn bytes(map: Option<&dyn Headers>) -> u64 {
    let mut total = 0;
    if let Some(map) = map {
        map.visit(&mut |name, value| total += (name.len() + value.len()) as u64);
    }
    total
}

/// A header map in the serial form of the ABI; none is an empty one.
fn pairs(map: Option<&dyn Headers>) -> Vec<u8> {
    let mut pairs = Vec::new();
    if let Some(map) = map {
        map.visit(&mut |name, value| pairs.push((name.to_vec(), value.to_vec())));
    }
    let mut block = vec![0; lacis_host::abi::encoded_len(pairs.iter().map(|(n, v)| (n.as_slice(), v.as_slice())))];
    if let Some(mut encoder) = Encoder::new(&mut block, pairs.len()) {
        for (name, value) in &pairs {
            encoder.push(name, value);
        }
    }
    block
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::filter::guest::GuestTrailers;
    use crate::http::Fields;

    #[test]
    fn values_of_one_name_are_joined() {
        let mut fields = Fields::new();
        for (name, value) in [("a", "1"), ("b", "x"), ("a", "2"), ("empty", "")] {
            fields.append(http::HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let map = GuestTrailers::new(fields);
        assert_eq!(joined(&map, b"A").unwrap(), b"1,2");
        assert_eq!(joined(&map, b"empty").unwrap(), b"");
        assert_eq!(joined(&map, b"absent"), None);
        assert_eq!(bytes(Some(&map)), 11);
        assert_eq!((pairs(None).as_slice(), bytes(None)), (&[0; 4][..], 0));
    }

    #[test]
    fn a_certificate_is_pem_in_lines_of_64() {
        let body = |der: &[u8]| {
            let text = pem(der);
            let text = text.strip_prefix("-----BEGIN CERTIFICATE-----\n").unwrap();
            text.strip_suffix("\n-----END CERTIFICATE-----\n").unwrap().to_owned()
        };
        assert_eq!(body(&[0xfb, 0xff, 0xfe, 0xff]), "+//+/w==");
        assert_eq!(body(&[0; 48]), "A".repeat(64));
        assert_eq!(body(&[0; 51]), format!("{}\nAAAA", "A".repeat(64)));
    }

    #[test]
    fn every_flag_that_we_have_has_a_bit_of_its_own() {
        let mut flags: Vec<&str> = Reason::ALL.iter().map(|reason| reason.row().flag).collect();
        flags.sort_unstable();
        flags.dedup();
        let bits: Vec<u64> = flags.iter().filter(|short| !short.is_empty()).map(|short| flag(short)).collect();
        assert!(bits.iter().all(|bit| bit.is_power_of_two()), "{flags:?}: {bits:?}");
        assert_eq!(bits.iter().fold(0, |all, bit| all | bit).count_ones() as usize, bits.len(), "{flags:?}");
    }
}
