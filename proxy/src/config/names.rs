//! Names and addresses that must make sense before anything uses them.

use std::net::{IpAddr, SocketAddr};

/// Longest DNS label (RFC 1035 section 2.3.4).
const MAX_LABEL: usize = 63;

/// Longest host name as text (RFC 1035 section 2.3.4: 255 octets on the wire).
const MAX_HOST: usize = 253;

/// Whether a name is a DNS label as Kubernetes has them for services and namespaces (RFC 1123 section 2.1, lower case).
pub(super) fn is_label(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=MAX_LABEL).contains(&name.len()) && name.bytes().all(inner) && !name.starts_with('-') && !name.ends_with('-')
}

/// A host as requests name it, in lower case: a DNS name (`_` is taken too, as in practice), an IPv4 address, or an
/// IPv6 address in brackets.
///
/// # Errors
/// What is wrong with it, and what would be right.
pub(super) fn host(text: &str) -> Result<String, &'static str> {
    let host = text.to_ascii_lowercase();
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return match address.parse::<std::net::Ipv6Addr>() {
            Ok(address) => Ok(format!("[{address}]")),
            Err(_) => Err("is not an IPv6 address; write one such as [::1]"),
        };
    }
    if host.contains('*') {
        return Err("has a wildcard, which is not supported yet; write the names out");
    }
    if host.contains(':') {
        return Err("is not a host name; write it without scheme and port, and an IPv6 address in brackets");
    }
    let label = |label: &str| {
        let word = label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        word && (1..=MAX_LABEL).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    if host.len() > MAX_HOST || !host.split('.').all(label) {
        return Err("is not a host name; write one such as delta.default.svc.cluster.local");
    }
    Ok(host)
}

/// Whether a host is this machine, by its name alone.
pub fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Whether two listeners cannot both have their address, or a listener would answer at the other address.
pub(super) fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    // An unspecified IPv6 address takes the IPv4 connections too, unless the system says otherwise.
    let covers = |all: IpAddr, one: IpAddr| all.is_unspecified() && (all.is_ipv6() || one.is_ipv4());
    a.port() != 0 && a.port() == b.port() && (a.ip() == b.ip() || covers(a.ip(), b.ip()) || covers(b.ip(), a.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels() {
        for name in ["a", "delta-v2", "4u", &"x".repeat(63)] {
            assert!(is_label(name), "{name:?}");
        }
        for name in ["", "-a", "a-", "A", "a_b", "a.b", "ä", &"x".repeat(64)] {
            assert!(!is_label(name), "{name:?}");
        }
    }

    #[test]
    fn hosts() {
        for (text, name) in [("Delta.Example", "delta.example"), ("10.0.0.4", "10.0.0.4"), ("[::0:1]", "[::1]")] {
            assert_eq!(host(text).as_deref(), Ok(name));
        }
        for text in ["", "a..b", "a.", "a:80", "::1", "http://a", "[x]", "*.a", "a b", &"a.".repeat(127)] {
            assert!(host(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn overlaps() {
        let overlap = |a: &str, b: &str| overlap(a.parse().expect("address"), b.parse().expect("address"));
        assert!(overlap("127.0.0.1:1", "127.0.0.1:1"));
        assert!(overlap("0.0.0.0:1", "127.0.0.1:1") && overlap("127.0.0.1:1", "0.0.0.0:1"));
        assert!(overlap("[::]:1", "127.0.0.1:1") && overlap("[::]:1", "[::1]:1"));
        assert!(!overlap("127.0.0.1:1", "127.0.0.2:1") && !overlap("127.0.0.1:1", "127.0.0.1:2"));
        assert!(!overlap("0.0.0.0:1", "[::1]:1") && !overlap("0.0.0.0:0", "0.0.0.0:0"));
    }
}
