//! A certificate authority for development: `lacis cert init` and `lacis cert issue`.
//!
//! One self-signed authority (ECDSA P-256) signs workload certificates directly. Every file appears under its name
//! complete or not at all, and keys are readable by their owner only from their first byte, so that a running sidecar
//! can watch the directory while certificates are issued again.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, DnsName, pem::PemObject};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::settings::date;
use super::verify;
use crate::identity::{InvalidId, SpiffeId};

/// Longest validity, in days: a hundred years, which every date format and every verifier can hold.
pub const MAX_DAYS: u32 = 36_500;

/// The authority's certificate, which is also the trust bundle.
pub const AUTHORITY_FILE: &str = "ca.pem";

/// The authority's private key.
pub const AUTHORITY_KEY_FILE: &str = "ca-key.pem";

/// How long before now a certificate begins to be valid: clocks of machines differ.
const BACKDATE: Duration = Duration::from_secs(5 * 60);

/// What was written, and who it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// The certificate, leaf only: the authority signs it directly.
    pub certificate: PathBuf,
    /// Its key, mode 0600.
    pub private_key: PathBuf,
    /// The authority's certificate, for `identity.trust_bundle`.
    pub trust_bundle: PathBuf,
    /// Whose certificate it is: `spiffe://TRUST_DOMAIN` for the authority itself.
    pub identity: String,
    /// When it expires; never later than the authority.
    pub expires: SystemTime,
}

/// Makes an authority for `trust_domain` in `directory`, which is made too.
///
/// # Errors
/// If there is one already and `force` is not set: everything it signed would be worthless.
pub fn init(directory: &Path, trust_domain: &str, days: u32, force: bool) -> Result<Issued, AuthorityError> {
    let certificate = directory.join(AUTHORITY_FILE);
    let private_key = directory.join(AUTHORITY_KEY_FILE);
    let (authority, key) = Authority::new(trust_domain, lifetime(days)?, SystemTime::now())?;
    DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(at(directory))?;
    if !force && let Some(there) = [&certificate, &private_key].into_iter().find(|f| f.symlink_metadata().is_ok()) {
        return Err(AuthorityError::Exists(there.clone()));
    }
    publish(&private_key, key.as_bytes(), 0o600)?;
    publish(&certificate, authority.certificate.as_bytes(), 0o644)?;
    let Authority { expires, .. } = authority;
    Ok(Issued {
        trust_bundle: certificate.clone(),
        certificate,
        private_key,
        identity: format!("spiffe://{trust_domain}"),
        expires,
    })
}

/// Writes `SERVICE.pem` and `SERVICE-key.pem` for `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE`, with a new key, signed
/// by the authority in `directory`. Without a `trust_domain` it is the authority's. To rotate a certificate, issue it
/// again: running sidecars take it up.
///
/// # Errors
/// If there is no authority, if it is of another trust domain, or if the name cannot be an identity.
pub fn issue(
    directory: &Path,
    service: &str,
    namespace: &str,
    trust_domain: Option<&str>,
    days: u32,
) -> Result<Issued, AuthorityError> {
    let certificate = directory.join(format!("{service}.pem"));
    let private_key = directory.join(format!("{service}-key.pem"));
    let trust_bundle = directory.join(AUTHORITY_FILE);
    let authority = Authority::read(directory)?;
    let identity = SpiffeId::service(trust_domain.unwrap_or(&authority.trust_domain), namespace, service)?;
    // A slash would pass as two segments of the path, and lead out of the directory.
    if identity.service_name() != Some(service) {
        return Err(AuthorityError::Name(InvalidId::Path));
    }
    if service == "ca" || service.ends_with("-key") {
        return Err(AuthorityError::Reserved(service.to_owned()));
    }
    if authority.trust_domain != identity.trust_domain() {
        let (found, asked) = (authority.trust_domain, identity.trust_domain().to_owned());
        return Err(AuthorityError::TrustDomain { file: trust_bundle, found, asked });
    }
    let pair = authority.issue(&identity, lifetime(days)?, SystemTime::now())?;
    publish(&private_key, pair.private_key.as_bytes(), 0o600)?;
    publish(&certificate, pair.certificate.as_bytes(), 0o644)?;
    Ok(Issued { certificate, private_key, trust_bundle, identity: identity.to_string(), expires: pair.expires })
}

/// Why a certificate was not made.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file that cannot be read or written.
    #[error("{}: {error}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What the system says.
        #[source]
        error: io::Error,
    },
    /// No authority in the directory.
    #[error("{place}: there is no authority here; make one with `lacis cert init --dir {place}`", place = .0.display())]
    Missing(PathBuf),
    /// There is an authority already.
    #[error("{}: there is an authority already, and nobody would trust what it signed any more; --force replaces it", .0.display())]
    Exists(PathBuf),
    /// A file that is not what `lacis cert init` wrote.
    #[error("{}: {what}; make a new authority with `lacis cert init --force`", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The authority is of another trust domain.
    #[error("{}: this authority is of the trust domain {found}, and not of {asked}", file.display())]
    TrustDomain {
        /// The authority's certificate.
        file: PathBuf,
        /// Its trust domain.
        found: String,
        /// The one asked for.
        asked: String,
    },
    /// A trust domain, namespace or service that cannot be part of an identity.
    #[error("{0}; a service or a namespace is one segment")]
    Name(#[from] InvalidId),
    /// A service whose files would be the authority's, or whose certificate would be another one's key.
    #[error(
        "no certificate for a service called {0:?}: its files would replace the authority or the key of another service"
    )]
    Reserved(String),
    /// No days, or too many.
    #[error("a certificate is valid for 1 to 36500 days, not for {0}")]
    Days(u32),
    /// The certificate could not be made.
    #[error("the certificate cannot be made: {0}")]
    Encoding(#[from] rcgen::Error),
}

/// A certificate and its key, as PEM.
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// PKCS #8.
    pub private_key: String,
    /// When it expires.
    pub expires: SystemTime,
}

/// An authority in memory.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate, as PEM.
    pub certificate: String,
    trust_domain: String,
    expires: SystemTime,
}

impl Authority {
    /// A new authority, and its key as PEM.
    ///
    /// # Errors
    /// If the trust domain is none.
    pub fn new(trust_domain: &str, lifetime: Duration, now: SystemTime) -> Result<(Self, String), AuthorityError> {
        SpiffeId::service(trust_domain, "any", "any")?;
        let expires = now + lifetime;
        let mut params = params("Lacis development authority", trust_domain, now - BACKDATE, expires)?;
        params.subject_alt_names = vec![SanType::URI(format!("spiffe://{trust_domain}").try_into()?)];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let private_key = key.serialize_pem();
        let certificate = params.self_signed(&key)?.pem();
        let issuer = Issuer::new(params, key);
        Ok((Authority { issuer, certificate, trust_domain: trust_domain.to_owned(), expires }, private_key))
    }

    /// The authority in `directory`.
    ///
    /// # Errors
    /// If it is missing, unreadable, expired, or if its two files do not belong together.
    pub fn read(directory: &Path) -> Result<Self, AuthorityError> {
        let file = directory.join(AUTHORITY_FILE);
        let read = |file: &Path| {
            fs::read_to_string(file).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => AuthorityError::Missing(directory.to_owned()),
                _ => at(file)(error),
            })
        };
        let certificate = read(&file)?;
        let key_file = directory.join(AUTHORITY_KEY_FILE);
        let key = KeyPair::from_pem(&read(&key_file)?)
            .map_err(|error| AuthorityError::Damaged { file: key_file, what: error.to_string() })?;

        let damaged = |what: &str| AuthorityError::Damaged { file: file.clone(), what: what.to_owned() };
        let der = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|_| damaged("this is not the certificate of an authority"))?;
        let (_, x509) =
            X509Certificate::from_der(&der).map_err(|_| damaged("this is not the certificate of an authority"))?;
        if x509.public_key().raw != rcgen::PublicKeyData::subject_public_key_info(&key) {
            return Err(damaged("the certificate does not belong to the key beside it"));
        }
        let expires = verify::time(x509.validity().not_after);
        if expires <= SystemTime::now() {
            return Err(damaged(&format!("the authority expired at {}", date(expires))));
        }
        let names = x509.subject_alternative_name().ok().flatten();
        let trust_domain = names.iter().flat_map(|n| &n.value.general_names).find_map(|name| match name {
            GeneralName::URI(uri) => uri.strip_prefix("spiffe://").map(str::to_owned),
            _ => None,
        });
        let trust_domain = trust_domain.ok_or_else(|| damaged("the certificate does not say its trust domain"))?;
        let issuer = Issuer::from_ca_cert_der(&der, key)?;
        Ok(Authority { issuer, certificate, trust_domain, expires })
    }

    /// A certificate for `identity` with a new key, for clients and servers alike.
    ///
    /// Its only URI is the identity, as SPIFFE wants it. The service's name is there as a DNS name too, so that tools
    /// that know nothing of SPIFFE (curl, grpcurl) can verify the server in their way; nobody in the mesh reads it.
    ///
    /// # Errors
    /// If it cannot be encoded.
    pub fn issue(&self, identity: &SpiffeId, lifetime: Duration, now: SystemTime) -> Result<Pair, AuthorityError> {
        let name = identity.service_name().unwrap_or("workload");
        let mut params = params(name, identity.trust_domain(), now - BACKDATE, self.expires.min(now + lifetime))?;
        params.subject_alt_names = vec![SanType::URI(identity.as_str().try_into()?)];
        if DnsName::try_from(name).is_ok() {
            params.subject_alt_names.push(SanType::DnsName(name.try_into()?));
        }
        self.sign(&params)
    }

    /// A certificate with a new key as `params` say.
    pub(crate) fn sign(&self, params: &CertificateParams) -> Result<Pair, AuthorityError> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Pair { certificate, private_key: key.serialize_pem(), expires: params.not_after.into() })
    }
}

/// What every certificate of ours has: a workload's usages, which the authority replaces.
pub(crate) fn params(
    name: &str,
    trust_domain: &str,
    from: SystemTime,
    until: SystemTime,
) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    params.not_before = OffsetDateTime::from(from);
    params.not_after = OffsetDateTime::from(until);
    params.serial_number = Some(serial()?);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, trust_domain);
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}

/// 127 random bits: positive, and never the same twice (RFC 5280 section 4.1.2.2).
fn serial() -> Result<SerialNumber, AuthorityError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| rcgen::Error::RingUnspecified)?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn lifetime(days: u32) -> Result<Duration, AuthorityError> {
    match days {
        1..=MAX_DAYS => Ok(Duration::from_secs(u64::from(days) * 24 * 60 * 60)),
        _ => Err(AuthorityError::Days(days)),
    }
}

/// Puts `bytes` at `path` in one step. The file has its mode before it has its first byte.
fn publish(path: &Path, bytes: &[u8], mode: u32) -> Result<(), AuthorityError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{:x}.tmp", fastrand::u64(..)));
    let temporary = path.with_file_name(name);
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|error| {
        let _ = fs::remove_file(&temporary);
        at(path)(error)
    })
}

fn at(file: &Path) -> impl Fn(io::Error) -> AuthorityError {
    let file = file.to_owned();
    move |error| AuthorityError::File { file: file.clone(), error }
}
