//! What is demanded of a peer, in both directions: a chain to the trust bundle and exactly one SPIFFE ID of our trust
//! domain (X.509-SVID sections 3 to 5). A client also demands that the server is one of those it meant to reach. DNS
//! names mean nothing here.

use std::fmt::{self, Write};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerIncompatible, RootCertStore,
    SignatureScheme,
};
use x509_parser::prelude::{ASN1Time, FromDer, GeneralName, X509Certificate, X509Name};

use super::known::{Known, Role};
pub use crate::identity::Peer;
use crate::identity::{InvalidId, SpiffeId};

/// Longest subject that is passed on, in bytes: it becomes part of a request header, and real ones have about 100.
pub const MAX_SUBJECT_BYTES: usize = 1024;

/// Longest part of a peer's URI that an error repeats, in bytes.
const MAX_QUOTED_BYTES: usize = 256;

impl Peer {
    /// The holder of a certificate, if it names one.
    pub(super) fn of(der: &[u8], leaf: &X509Certificate<'_>) -> Option<Peer> {
        let names = leaf.subject_alternative_name().ok()?;
        let dns = names.iter().flat_map(|names| &names.value.general_names).find_map(|name| match name {
            GeneralName::DNSName(name) => Some(Box::from(*name)),
            _ => None,
        });
        Some(Peer {
            spiffe: spiffe_id(leaf).ok()?,
            hash: hex(&sha256(der)).into(),
            subject: subject(leaf.subject()).into(),
            dns,
            certificate: der.into(),
        })
    }
}

/// Why a certificate does not give its holder an identity, or not a welcome one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unidentified {
    /// Not X.509, or an extension that cannot be read.
    #[error("is not a readable X.509 certificate")]
    Malformed,
    /// No URI among the subject's alternative names.
    #[error("has no URI name; a SPIFFE certificate has exactly one, such as {example}", example = EXAMPLE)]
    NoUri,
    /// More than one URI (X.509-SVID section 2).
    #[error("has {0} URI names; a SPIFFE certificate has exactly one")]
    ManyUris(usize),
    /// A URI that is no SPIFFE ID.
    #[error("has the URI name {uri:?}, which is no SPIFFE ID: {problem}")]
    InvalidId {
        /// The URI, its first 256 bytes.
        uri: String,
        /// What is wrong with it.
        problem: InvalidId,
    },
    /// A key that may sign certificates (X.509-SVID section 5.2).
    #[error("may sign certificates; a workload's certificate must not")]
    Authority,
    /// Another trust domain.
    #[error("is of {id}, and not of the trust domain {trust_domain}")]
    TrustDomain {
        /// Whose it is.
        id: SpiffeId,
        /// Ours.
        trust_domain: Box<str>,
    },
    /// Somebody else's.
    #[error("is of {id}, and not of {}", list(expected))]
    Unexpected {
        /// Whose it is.
        id: SpiffeId,
        /// Who was to be reached.
        expected: Arc<[SpiffeId]>,
    },
}

const EXAMPLE: &str = "spiffe://mesh.local/ns/default/sa/alpha";

impl From<Unidentified> for Error {
    fn from(error: Unidentified) -> Self {
        Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
    }
}

/// The one SPIFFE ID of a workload's certificate.
///
/// # Errors
/// If there is not exactly one, or if the certificate is not a workload's.
pub fn spiffe_id(leaf: &X509Certificate<'_>) -> Result<SpiffeId, Unidentified> {
    let usage = leaf.key_usage().map_err(|_| Unidentified::Malformed)?;
    if leaf.is_ca() || usage.is_some_and(|u| u.value.key_cert_sign() || u.value.crl_sign()) {
        return Err(Unidentified::Authority);
    }
    let names = leaf.subject_alternative_name().map_err(|_| Unidentified::Malformed)?;
    let mut uris = Vec::new();
    for name in names.iter().flat_map(|n| &n.value.general_names) {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            // What cannot be read may be a second URI.
            GeneralName::Invalid(..) => return Err(Unidentified::Malformed),
            _ => {}
        }
    }
    match uris[..] {
        [] => Err(Unidentified::NoUri),
        [uri] => uri.parse().map_err(|problem| Unidentified::InvalidId { uri: quoted(uri), problem }),
        _ => Err(Unidentified::ManyUris(uris.len())),
    }
}

/// What one side of a handshake demands of the other.
pub(crate) struct Verifier {
    roots: Arc<RootCertStore>,
    clients: Arc<dyn ClientCertVerifier>,
    algorithms: WebPkiSupportedAlgorithms,
    trust_domain: Box<str>,
    /// Chains that were verified, for all that was made of the same roots.
    known: Arc<Known>,
    /// `None`: anybody of the trust domain.
    expected: Option<Arc<[SpiffeId]>>,
}

impl Verifier {
    /// Anybody of the trust domain: what a server demands, because who may do what is decided per request.
    ///
    /// # Errors
    /// If `roots` is empty.
    pub(crate) fn anybody(
        roots: Arc<RootCertStore>,
        trust_domain: &str,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, VerifierBuilderError> {
        // The names of our authorities would tell a peer nothing: it has one certificate or none.
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .clear_root_hint_subjects()
            .build()?;
        let algorithms = provider.signature_verification_algorithms;
        let (trust_domain, known) = (trust_domain.into(), Arc::default());
        Ok(Verifier { roots, clients, algorithms, trust_domain, known, expected: None })
    }

    /// One of these only: what a client demands. Nobody, if there are none.
    pub(crate) fn one_of(&self, expected: &[SpiffeId]) -> Self {
        let Verifier { roots, clients, algorithms, trust_domain, known, expected: _ } = self;
        Verifier {
            roots: roots.clone(),
            clients: clients.clone(),
            algorithms: *algorithms,
            trust_domain: trust_domain.clone(),
            known: known.clone(),
            expected: Some(expected.into()),
        }
    }

    /// Who has shown this chain (leaf first) in a handshake that is complete. A handshake that resumes a session verifies no
    /// certificate, and must not outlive what the session stands for: so this demands all that a full one does now.
    ///
    /// # Errors
    /// If a full handshake would refuse it.
    pub(crate) fn peer(&self, role: Role, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<Arc<Peer>, Error> {
        let (leaf, intermediates) = chain.split_first().ok_or(Error::NoCertificatesPresented)?;
        let since = now.duration_since(UNIX_EPOCH).map_err(|_| Error::FailedToGetCurrentTime)?;
        // The next whole second: a part of one after its end is after its end.
        let second = UnixTime::since_unix_epoch(Duration::from_nanos(999_999_999) + since);
        self.demand(role, leaf, intermediates, second)
    }

    /// Demands of a chain that it leads to the roots now, and that it is of somebody who is welcome.
    fn demand(
        &self,
        role: Role,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Arc<Peer>, Error> {
        let peer = match self.known.find(role, leaf, intermediates, now) {
            Some(peer) => peer,
            None => {
                self.verify(role, leaf, intermediates, now)?;
                let peer = Arc::new(self.identify(leaf)?);
                self.known.add(role, leaf, intermediates, peer.clone());
                peer
            }
        };
        match &self.expected {
            Some(expected) if !expected.contains(&peer.spiffe) => {
                Err(Unidentified::Unexpected { id: peer.spiffe.clone(), expected: expected.clone() }.into())
            }
            _ => Ok(peer),
        }
    }

    /// Whether a chain leads to the roots, and may be of one in this role.
    fn verify(
        &self,
        role: Role,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        match role {
            Role::Client => self.clients.verify_client_cert(leaf, intermediates, now).map(drop),
            Role::Server => {
                let parsed = ParsedCertificate::try_from(leaf)?;
                verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, self.algorithms.all)
            }
        }
    }

    /// Somebody of the trust domain.
    fn identify(&self, der: &CertificateDer<'_>) -> Result<Peer, Unidentified> {
        let (_, leaf) = X509Certificate::from_der(der).map_err(|_| Unidentified::Malformed)?;
        let id = spiffe_id(&leaf)?;
        if id.trust_domain() != &*self.trust_domain {
            return Err(Unidentified::TrustDomain { id, trust_domain: self.trust_domain.clone() });
        }
        Peer::of(der, &leaf).ok_or(Unidentified::Malformed)
    }

    /// Chains that are remembered.
    #[cfg(test)]
    pub(super) fn remembers(&self) -> usize {
        self.known.len()
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier")
            .field("trust_domain", &self.trust_domain)
            .field("expected", &self.expected)
            .finish_non_exhaustive()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.demand(Role::Server, leaf, intermediates, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::ServerDoesNotSupportTls12Or13.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.clients.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.demand(Role::Client, leaf, intermediates, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.clients.verify_tls13_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.clients.supported_verify_schemes()
    }
}

/// A time in a certificate. Times before 1970 are all the same to us.
pub(crate) fn time(asn1: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(asn1.timestamp()).unwrap_or(0);
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(UNIX_EPOCH)
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    digest
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn quoted(uri: &str) -> String {
    uri[..uri.floor_char_boundary(MAX_QUOTED_BYTES)].to_owned()
}

fn list(ids: &[SpiffeId]) -> String {
    match ids {
        [] => "anybody that may be reached".to_owned(),
        ids => ids.iter().map(SpiffeId::as_str).collect::<Vec<_>>().join(" or "),
    }
}

/// A name as RFC 2253 writes it, with everything but printable ASCII as `\XX`: what OpenSSL and Envoy print, and what
/// can stand in a quoted header value as it is.
fn subject(name: &X509Name<'_>) -> String {
    let mut text = String::new();
    let relative: Vec<_> = name.iter().collect();
    for (i, part) in relative.into_iter().rev().enumerate() {
        for (j, attribute) in part.iter().enumerate() {
            text.push_str(match (i, j) {
                (0, 0) => "",
                (_, 0) => ",",
                _ => "+",
            });
            let kind = attribute.attr_type();
            match x509_parser::objects::oid2abbrev(kind, x509_parser::objects::oid_registry()) {
                Ok(short) => text.push_str(short),
                Err(_) => text.push_str(&kind.to_id_string()),
            }
            text.push('=');
            match attribute.as_str() {
                Ok(value) => escape(value, &mut text),
                Err(_) => {
                    text.push('#');
                    text.push_str(&hex(attribute.as_slice()));
                }
            }
            if text.len() > MAX_SUBJECT_BYTES {
                return String::new();
            }
        }
    }
    text
}

fn escape(value: &str, text: &mut String) {
    let last = value.len().wrapping_sub(1);
    for (i, byte) in value.bytes().enumerate() {
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => text.extend(['\\', char::from(byte)]),
            b'#' if i == 0 => text.push_str("\\#"),
            b' ' if i == 0 || i == last => text.push_str("\\ "),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => {
                let _ = write!(text, "\\{byte:02X}");
            }
        }
    }
}
