//! One loaded identity, and the rustls settings that are made of it.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::aws_lc_rs::hmac;
use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite};
use rustls::pki_types::pem::{self, PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, DnsName, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ServerSessionMemoryCache;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, Error, RootCertStore, ServerConfig, WantsVerifier, version,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::known::Role;
use super::verify::{self, Peer, Unidentified, Verifier};
use crate::config::{IdentityFiles, file};
use crate::identity::SpiffeId;

/// Largest PEM file, in bytes. A bundle of a hundred authorities has about 150 KiB.
pub const MAX_PEM_BYTES: u64 = 1024 * 1024;

/// Sessions that a server keeps for resumption, for TCP and for QUIC each: one per client connection of the recent past.
/// A session holds the client's certificates, about 1 KiB.
const SERVER_SESSIONS: usize = 512;

/// Sessions that a client keeps per set of expected identities (rustls rounds up to eight per server name).
const CLIENT_SESSIONS: usize = 16;

/// Distinct client settings kept. A mesh has a few per service; the bound is for reloads that rename services for ever.
const MAX_CLIENTS: usize = 1024;

/// The protocols that a client offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// HTTP/2, or HTTP/1.1 with a peer that has nothing better.
    Http2,
    /// HTTP/1.1 only.
    Http1,
    /// HTTP/3, over QUIC.
    Http3,
}

impl Alpn {
    /// What two sides agreed on.
    pub(super) fn of(id: Option<&[u8]>) -> Option<Self> {
        match id? {
            b"h2" => Some(Alpn::Http2),
            b"http/1.1" => Some(Alpn::Http1),
            b"h3" => Some(Alpn::Http3),
            _ => None,
        }
    }

    /// Protocol ids in order of preference.
    fn ids(self) -> Vec<Vec<u8>> {
        match self {
            Alpn::Http2 => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            Alpn::Http1 => vec![b"http/1.1".to_vec()],
            Alpn::Http3 => vec![b"h3".to_vec()],
        }
    }
}

/// One identity (certificate, key, trust bundle) and everything that handshakes need of it.
///
/// Immutable: another certificate is another value. Sessions are resumed only within one value, so nobody gets in by a
/// ticket that an earlier trust bundle paid for.
pub struct TlsSettings {
    own: Arc<Peer>,
    valid_from: SystemTime,
    valid_until: SystemTime,
    bundle_until: SystemTime,
    warnings: Vec<String>,
    server: Arc<ServerConfig>,
    quic: Arc<ServerConfig>,
    client: ConfigBuilder<ClientConfig, WantsVerifier>,
    key: Arc<SingleCertAndKey>,
    verifier: Arc<Verifier>,
    clients: Mutex<Clients>,
    /// From the private key and the host's name, for [`TlsSettings::secret`].
    secrets: hmac::Key,
}

/// Client settings by who is expected and what is offered.
type Clients = HashMap<(Box<[SpiffeId]>, Alpn), Arc<ClientConfig>>;

impl TlsSettings {
    /// Reads the files of the identity `expected` and checks everything that a peer would check.
    ///
    /// # Errors
    /// If peers would refuse this identity now, or if it is not `expected`.
    pub fn load(files: &IdentityFiles, expected: &SpiffeId) -> Result<Arc<Self>, IdentityError> {
        Self::load_at(files, expected, SystemTime::now())
    }

    /// [`TlsSettings::load`], at a given time.
    ///
    /// # Errors
    /// As [`TlsSettings::load`].
    pub fn load_at(files: &IdentityFiles, expected: &SpiffeId, now: SystemTime) -> Result<Arc<Self>, IdentityError> {
        let IdentityFiles { certificate, private_key, trust_bundle } = files;
        let at = |file: &Path| {
            let file = file.to_owned();
            move |problem| IdentityError { file, problem }
        };
        let provider = Arc::new(provider());
        let chain = certificates(certificate).map_err(at(certificate))?;
        let (own, validity) = identify(&chain, expected, now).map_err(at(certificate))?;
        let (key, secrets) = signing_key(private_key, &chain, certificate, &provider).map_err(at(private_key))?;
        let bundle = Bundle::read(trust_bundle, now).map_err(at(trust_bundle))?;
        let inside = |error: Error| IdentityError { file: certificate.clone(), problem: Problem::Refused(error) };

        let verifier = Verifier::anybody(Arc::new(bundle.roots), expected.trust_domain(), &provider)
            .map_err(|error| inside(Error::General(error.to_string())))?;
        welcome(&verifier, &chain, trust_bundle, now).map_err(at(certificate))?;
        let verifier = Arc::new(verifier);

        let key = Arc::new(SingleCertAndKey::from(key));
        let server = |alpn: Alpn| -> Result<_, Error> {
            let mut server = ServerConfig::builder_with_provider(provider.clone())
                .with_protocol_versions(&[&version::TLS13])?
                .with_client_cert_verifier(verifier.clone())
                .with_cert_resolver(key.clone());
            server.alpn_protocols = alpn.ids();
            server.enable_secret_extraction = has_records(alpn);
            // Our order of cipher suites: many clients would have AES-256 with SHA-384, whose key schedule takes a
            // sixth of a resumed handshake, and nobody breaks AES-128.
            server.ignore_client_order = true;
            // Sessions stay here and tickets are handles: the hello of a client that returns still fits two packets,
            // and no ticket works twice.
            server.session_storage = ServerSessionMemoryCache::new(SERVER_SESSIONS);
            server.send_tls13_tickets = 1;
            // No 0-RTT: a request in it could be replayed (RFC 8446 section 8).
            server.max_early_data_size = 0;
            Ok(Arc::new(server))
        };
        Ok(Arc::new(TlsSettings {
            own: Arc::new(own),
            valid_from: validity.0,
            valid_until: validity.1,
            bundle_until: bundle.until,
            warnings: bundle.warnings,
            server: server(Alpn::Http2).map_err(inside)?,
            quic: server(Alpn::Http3).map_err(inside)?,
            client: ClientConfig::builder_with_provider(provider.clone())
                .with_protocol_versions(&[&version::TLS13])
                .map_err(inside)?,
            key,
            verifier,
            clients: Mutex::default(),
            secrets,
        }))
    }

    /// Who we are.
    pub fn identity(&self) -> &SpiffeId {
        &self.own.spiffe
    }

    /// What our certificate says of us.
    pub fn own(&self) -> &Arc<Peer> {
        &self.own
    }

    /// When our certificate begins to be valid.
    pub fn valid_from(&self) -> SystemTime {
        self.valid_from
    }

    /// When the first certificate of our chain expires.
    pub fn valid_until(&self) -> SystemTime {
        self.valid_until
    }

    /// When the first authority of the trust bundle expires, of those that were valid when it was loaded.
    pub fn bundle_until(&self) -> SystemTime {
        self.bundle_until
    }

    /// What an operator should know although it works: authorities that were left out, one sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// For connections accepted on TCP: `h2`, `http/1.1`. Every identity of the trust domain passes the handshake.
    pub fn server(&self) -> &Arc<ServerConfig> {
        &self.server
    }

    /// For connections accepted on QUIC: `h3`, no 0-RTT. Otherwise as [`TlsSettings::server`].
    pub fn server_quic(&self) -> &Arc<ServerConfig> {
        &self.quic
    }

    /// Who is at the other end, from the certificates (leaf first) of a connection whose handshake is complete, and if that resumed a
    /// session: one that does so verifies no certificate.
    ///
    /// # Errors
    /// If a full handshake would refuse them now.
    pub fn peer(&self, role: Role, chain: &[CertificateDer<'_>]) -> Result<Arc<Peer>, Error> {
        self.verifier.peer(role, chain, SystemTime::now())
    }

    /// A secret for this purpose, which stays the same as long as the private key does, also over restarts. Hosts with the same private
    /// key have others.
    pub fn secret(&self, purpose: &[u8]) -> [u8; 32] {
        let mut secret = [0; 32];
        secret.copy_from_slice(hmac::sign(&self.secrets, purpose).as_ref());
        secret
    }

    /// For connections to a server that must be one of `expected`. The same settings, with their sessions, for the
    /// same question.
    pub fn client(&self, expected: &[SpiffeId], alpn: Alpn) -> Arc<ClientConfig> {
        let key = (Box::from(expected), alpn);
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&key) {
            return client.clone();
        }
        if clients.len() == MAX_CLIENTS {
            clients.clear();
        }
        let verifier = Arc::new(self.verifier.one_of(expected));
        let mut client = self
            .client
            .clone()
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(self.key.clone());
        client.alpn_protocols = alpn.ids();
        client.enable_secret_extraction = has_records(alpn);
        client.resumption = Resumption::in_memory_sessions(CLIENT_SESSIONS);
        let client = Arc::new(client);
        clients.insert(key, client.clone());
        client
    }
}

impl fmt::Debug for TlsSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSettings").field("identity", self.identity()).finish_non_exhaustive()
    }
}

/// Whether the keys of a handshake are those of our own records ([`super::stream`]), and not of QUIC's packets.
fn has_records(alpn: Alpn) -> bool {
    alpn != Alpn::Http3
}

/// The name that a client sends (SNI) when it connects to `service`: the service's own, if DNS would have it, else
/// none. It means nothing; identities are what is verified.
pub fn server_name(service: &str) -> ServerName<'static> {
    match DnsName::try_from(service.to_owned()) {
        Ok(name) => ServerName::DnsName(name),
        // An address is never sent (RFC 6066 section 3).
        Err(_) => ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into()),
    }
}

/// A file of the identity, and what is wrong with it.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", file.display())]
pub struct IdentityError {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it, and what would be right.
    #[source]
    pub problem: Problem,
}

/// What can be wrong with an identity.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The file is missing, or may not be read.
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
    /// More than [`MAX_PEM_BYTES`].
    #[error("is larger than 1 MiB, which no file of certificates is")]
    TooLarge,
    /// A section that does not end, or is not base64.
    #[error("is not well-formed PEM: {}", pem_problem(.0))]
    Pem(pem::Error),
    /// No certificate in the file.
    #[error("has no certificate in it; one starts with \"-----BEGIN CERTIFICATE-----\"{found}")]
    NoCertificate {
        /// What is there instead, as the end of the sentence.
        found: &'static str,
    },
    /// A section that is no X.509 certificate.
    #[error("certificate {0} in it is not a readable X.509 certificate")]
    Malformed(usize),
    /// No private key in the file.
    #[error("has no private key in it; one starts with \"-----BEGIN PRIVATE KEY-----\"{found}")]
    NoKey {
        /// What is there instead, as the end of the sentence.
        found: &'static str,
    },
    /// A key that cannot sign.
    #[error(
        "has a private key that cannot be used; ECDSA (P-256, P-384, P-521), Ed25519 and RSA (2048 to 8192 bits) can"
    )]
    UnusableKey(Error),
    /// A key that is not the certificate's.
    #[error("is not the key of the certificate in {}; the two files must be issued together", certificate.display())]
    OtherKey {
        /// The certificate's file.
        certificate: PathBuf,
    },
    /// The leaf expired.
    #[error("expired at {}; issue a new certificate", date(*.0))]
    Expired(SystemTime),
    /// The leaf is not valid yet.
    #[error("is not valid before {}; is the clock of this machine right?", date(*.0))]
    NotYetValid(SystemTime),
    /// The leaf names nobody.
    #[error("{0}")]
    Unidentified(Unidentified),
    /// The leaf names somebody else.
    #[error("is the certificate of {found}, but `node` says that this is {expected}; change one of the two")]
    OtherIdentity {
        /// Whose certificate it is.
        found: SpiffeId,
        /// Who the config says we are.
        expected: SpiffeId,
    },
    /// Every authority of the bundle expired.
    #[error("every authority in it has expired, the last one at {}; distribute a new trust bundle", date(*.0))]
    BundleExpired(SystemTime),
    /// The chain does not lead to the bundle.
    #[error("is not signed by an authority in {}; peers with that trust bundle would refuse it", bundle.display())]
    UnknownAuthority {
        /// The bundle's file.
        bundle: PathBuf,
    },
    /// Peers would refuse it for another cause.
    #[error("would be refused by peers: {}", super::explain(.0))]
    Refused(Error),
}

fn pem_problem(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a section in it does not end; is the file complete?",
        pem::Error::IllegalSectionStart { .. } => {
            "a line that begins a section ends with something else than \"-----\""
        }
        pem::Error::Base64Decode(_) => "a section in it is not base64",
        _ => "a section in it cannot be read",
    }
}

/// A time as logs and errors show it (RFC 3339, UTC, seconds).
pub(crate) fn date(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let whole = UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(UNIX_EPOCH);
    let text = time::OffsetDateTime::from(whole).format(&time::format_description::well_known::Rfc3339);
    text.unwrap_or_else(|_| format!("{seconds} s after 1970"))
}

/// AES-128 first: it is the fastest here, and with X25519MLKEM768 as the first key exchange nobody breaks either.
pub(super) fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..aws_lc_rs::default_provider()
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    let opened = file::open(path).map_err(Problem::Unreadable)?;
    opened.take(MAX_PEM_BYTES + 1).read_to_end(&mut bytes).map_err(Problem::Unreadable)?;
    if bytes.len() as u64 > MAX_PEM_BYTES { Err(Problem::TooLarge) } else { Ok(bytes) }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let pem = read(file)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().map_err(Problem::Pem)?;
    for (i, der) in chain.iter().enumerate() {
        X509Certificate::from_der(der).map_err(|_| Problem::Malformed(i + 1))?;
    }
    if chain.is_empty() { Err(Problem::NoCertificate { found: found(&pem) }) } else { Ok(chain) }
}

/// What a PEM file holds that should hold something else.
fn found(pem: &[u8]) -> &'static str {
    let encrypted = b"-----BEGIN ENCRYPTED PRIVATE KEY-----";
    if pem.trim_ascii().is_empty() {
        return ", and the file is empty";
    }
    if pem.windows(encrypted.len()).any(|w| w == encrypted) {
        return ", and what is there is an encrypted key, which nobody could unlock here";
    }
    match <(SectionKind, Vec<u8>)>::pem_slice_iter(pem).next() {
        Some(Ok((SectionKind::Certificate, _))) => ", and what is there is a certificate",
        Some(Ok((SectionKind::PrivateKey | SectionKind::EcPrivateKey | SectionKind::RsaPrivateKey, _))) => {
            ", and what is there is a private key"
        }
        Some(Ok((SectionKind::Csr, _))) => ", and what is there is a certificate request",
        _ => "",
    }
}

/// Checks whose the leaf is and when; gives what it says, and the time in which the whole chain is valid.
fn identify(
    chain: &[CertificateDer<'_>],
    expected: &SpiffeId,
    now: SystemTime,
) -> Result<(Peer, (SystemTime, SystemTime)), Problem> {
    let (mut own, mut validity) = (None, (UNIX_EPOCH, None::<SystemTime>));
    for (i, der) in chain.iter().enumerate() {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| Problem::Malformed(i + 1))?;
        let from = verify::time(certificate.validity().not_before);
        let until = verify::time(certificate.validity().not_after);
        if now > until {
            return Err(Problem::Expired(until));
        }
        if now < from {
            return Err(Problem::NotYetValid(from));
        }
        if i == 0 {
            let found = verify::spiffe_id(&certificate).map_err(Problem::Unidentified)?;
            if found != *expected {
                return Err(Problem::OtherIdentity { found, expected: expected.clone() });
            }
            own = Peer::of(der, &certificate);
        }
        validity = (validity.0.max(from), Some(validity.1.map_or(until, |earlier| earlier.min(until))));
    }
    let own = own.ok_or(Problem::Malformed(1))?;
    Ok((own, (validity.0, validity.1.unwrap_or(now))))
}

fn signing_key(
    file: &Path,
    chain: &[CertificateDer<'static>],
    certificate: &Path,
    provider: &CryptoProvider,
) -> Result<(CertifiedKey, hmac::Key), Problem> {
    let pem = read(file)?;
    let der = match PrivateKeyDer::pem_slice_iter(&pem).next() {
        Some(der) => der.map_err(Problem::Pem)?,
        None => return Err(Problem::NoKey { found: found(&pem) }),
    };
    // A system that does not tell its name has none.
    let host = fs::read("/proc/sys/kernel/hostname").unwrap_or_default();
    let secrets = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, der.secret_der()), &host);
    let secrets = hmac::Key::new(hmac::HMAC_SHA256, secrets.as_ref());
    let key = provider.key_provider.load_private_key(der).map_err(Problem::UnusableKey)?;
    let key = CertifiedKey::new(chain.to_vec(), key);
    key.keys_match().map_err(|_| Problem::OtherKey { certificate: certificate.to_owned() })?;
    Ok((key, secrets))
}

/// The authorities of a trust bundle that are valid.
struct Bundle {
    roots: RootCertStore,
    until: SystemTime,
    warnings: Vec<String>,
}

impl Bundle {
    /// webpki takes no notice of a trust anchor's own validity, so what has expired is left out here.
    fn read(file: &Path, now: SystemTime) -> Result<Self, Problem> {
        let mut bundle = Bundle { roots: RootCertStore::empty(), until: UNIX_EPOCH, warnings: Vec::new() };
        let mut expired = UNIX_EPOCH;
        for (i, der) in certificates(file)?.into_iter().enumerate() {
            let (_, certificate) = X509Certificate::from_der(&der).map_err(|_| Problem::Malformed(i + 1))?;
            let until = verify::time(certificate.validity().not_after);
            if until < now {
                expired = expired.max(until);
                let text =
                    format!("{}: authority {} expired at {} and is left out", file.display(), i + 1, date(until));
                bundle.warnings.push(text);
                continue;
            }
            bundle.until = if bundle.roots.is_empty() { until } else { bundle.until.min(until) };
            bundle.roots.add(der.clone()).map_err(|_| Problem::Malformed(i + 1))?;
        }
        if bundle.roots.is_empty() { Err(Problem::BundleExpired(expired)) } else { Ok(bundle) }
    }
}

/// Asks what a peer with the same trust bundle would say of us, as its client and as its server.
fn welcome(verifier: &Verifier, chain: &[CertificateDer<'_>], bundle: &Path, now: SystemTime) -> Result<(), Problem> {
    let Some((leaf, intermediates)) = chain.split_first() else { return Err(Problem::NoCertificate { found: "" }) };
    let now = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default());
    let refused = |error| match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            Problem::UnknownAuthority { bundle: bundle.to_owned() }
        }
        error => Problem::Refused(error),
    };
    verifier.verify_client_cert(leaf, intermediates, now).map_err(refused)?;
    verifier.verify_server_cert(leaf, intermediates, &server_name(""), &[], now).map_err(refused)?;
    Ok(())
}
