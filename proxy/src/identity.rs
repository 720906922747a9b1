//! SPIFFE identities: `spiffe://TRUST_DOMAIN/PATH` (SPIFFE-ID specification, sections 2.1 to 2.3).

use std::fmt;
use std::str::FromStr;

/// Longest SPIFFE ID in bytes (SPIFFE-ID section 2.3).
pub const MAX_ID_BYTES: usize = 2048;

/// Longest trust domain name in bytes (SPIFFE-ID section 2.3).
pub const MAX_TRUST_DOMAIN_BYTES: usize = 255;

/// The identity of a workload. Always valid; equal text means equal identity.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    text: Box<str>,
    trust_domain_end: usize,
}

/// What the certificate of a workload says of it, as verified by a handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its identity.
    pub spiffe: SpiffeId,
    /// SHA-256 of its certificate (DER), 64 lower-case hex digits.
    pub hash: Box<str>,
    /// The certificate's subject in the form of RFC 2253: printable ASCII, quotes and commas escaped by a backslash.
    /// Empty if the certificate has none, or one that is too long.
    pub subject: Box<str>,
    /// The first DNS name among the subject's alternative names. It means nothing; filters may ask for it.
    pub dns: Option<Box<str>>,
    /// The certificate itself (DER), some 600 bytes.
    pub certificate: Box<[u8]>,
}

impl Peer {
    /// This peer as one element of `x-forwarded-client-cert`, `by` being who received the connection.
    pub fn forwarded(&self, by: &SpiffeId) -> String {
        let Peer { spiffe, hash, subject, dns: _, certificate: _ } = self;
        format!("By={by};Hash={hash};Subject=\"{subject}\";URI={spiffe}")
    }
}

/// What is wrong with a text that should be a SPIFFE ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// Not `spiffe://…`.
    #[error("a SPIFFE ID starts with \"spiffe://\"")]
    Scheme,
    /// Longer than [`MAX_ID_BYTES`], or its trust domain than [`MAX_TRUST_DOMAIN_BYTES`].
    #[error("a SPIFFE ID has at most 2048 bytes, its trust domain at most 255")]
    TooLong,
    /// Empty, or with a character other than `a-z 0-9 . - _`.
    #[error("a trust domain consists of a-z, 0-9, '.', '-' and '_'")]
    TrustDomain,
    /// An empty or relative segment, a trailing slash, or a character other than `A-Z a-z 0-9 . - _`.
    #[error(
        "the path of a SPIFFE ID is one or more segments of A-Z, a-z, 0-9, '.', '-' and '_', none of them \".\" or \"..\""
    )]
    Path,
}

impl SpiffeId {
    /// The identity of a service by the convention that Istio and this mesh share:
    /// `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE`.
    ///
    /// # Errors
    /// If one of the three has a character that an identity may not have.
    pub fn service(trust_domain: &str, namespace: &str, service: &str) -> Result<Self, InvalidId> {
        format!("spiffe://{trust_domain}/ns/{namespace}/sa/{service}").parse()
    }

    /// The whole identity as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &str {
        &self.text["spiffe://".len()..self.trust_domain_end]
    }

    /// The path with its leading slash.
    pub fn path(&self) -> &str {
        &self.text[self.trust_domain_end..]
    }

    /// The service of an identity that follows the convention of [`SpiffeId::service`].
    pub fn service_name(&self) -> Option<&str> {
        self.conventional().map(|(_, service)| service)
    }

    /// The namespace of an identity that follows the convention of [`SpiffeId::service`].
    pub fn namespace(&self) -> Option<&str> {
        self.conventional().map(|(namespace, _)| namespace)
    }

    /// Namespace and service.
    fn conventional(&self) -> Option<(&str, &str)> {
        let mut segments = self.path().split('/').skip(1);
        match (segments.next(), segments.next(), segments.next(), segments.next(), segments.next()) {
            (Some("ns"), Some(namespace), Some("sa"), Some(service), None) => Some((namespace, service)),
            _ => None,
        }
    }
}

impl FromStr for SpiffeId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let rest = text.strip_prefix("spiffe://").ok_or(InvalidId::Scheme)?;
        let (domain, path) = rest.split_once('/').ok_or(InvalidId::Path)?;
        if text.len() > MAX_ID_BYTES || domain.len() > MAX_TRUST_DOMAIN_BYTES {
            return Err(InvalidId::TooLong);
        }
        let domain_byte = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
        if domain.is_empty() || !domain.bytes().all(domain_byte) {
            return Err(InvalidId::TrustDomain);
        }
        let segment_byte = |b: u8| domain_byte(b) || b.is_ascii_uppercase();
        let segment = |s: &str| !matches!(s, "" | "." | "..") && s.bytes().all(segment_byte);
        if !path.split('/').all(segment) {
            return Err(InvalidId::Path);
        }
        let trust_domain_end = "spiffe://".len() + domain.len();
        Ok(SpiffeId { text: text.into(), trust_domain_end })
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts() {
        let id = SpiffeId::service("mesh.local", "default", "alpha").expect("valid");
        assert_eq!(id.as_str(), "spiffe://mesh.local/ns/default/sa/alpha");
        assert_eq!(
            (id.trust_domain(), id.path(), id.service_name()),
            ("mesh.local", "/ns/default/sa/alpha", Some("alpha"))
        );
        assert_eq!(id.namespace(), Some("default"));
        let other: SpiffeId = "spiffe://mesh.local/ns/default/sa/alpha/x".parse().expect("valid");
        assert_eq!((other.namespace(), other.service_name()), (None, None));
    }

    #[test]
    fn refused() {
        for (text, why) in [
            ("https://mesh.local/a", InvalidId::Scheme),
            ("spiffe://mesh.local", InvalidId::Path),
            ("spiffe://mesh.local/", InvalidId::Path),
            ("spiffe://mesh.local/a/", InvalidId::Path),
            ("spiffe://mesh.local/a/../b", InvalidId::Path),
            ("spiffe://mesh.local/a%2fb", InvalidId::Path),
            ("spiffe://mesh.local/a?b", InvalidId::Path),
            ("spiffe:///a", InvalidId::TrustDomain),
            ("spiffe://Mesh.local/a", InvalidId::TrustDomain),
            ("spiffe://mesh.local:80/a", InvalidId::TrustDomain),
        ] {
            assert_eq!(text.parse::<SpiffeId>(), Err(why), "{text}");
        }
        let edge = |n: usize| format!("spiffe://m/{}", "a".repeat(n - "spiffe://m/".len()));
        assert!(edge(MAX_ID_BYTES).parse::<SpiffeId>().is_ok());
        assert_eq!(edge(MAX_ID_BYTES + 1).parse::<SpiffeId>(), Err(InvalidId::TooLong));
    }
}
