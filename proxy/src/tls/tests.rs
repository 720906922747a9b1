//! Handshakes in memory, between our settings and peers of every kind.

mod known;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{CertificateParams, SanType};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, Connection, DigitallySignedStruct, Error, HandshakeKind, NamedGroup,
    ServerConfig, ServerConnection, SignatureScheme,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::authority::{self, Authority, AuthorityError, Pair, init, issue};
use super::*;
use crate::config::IdentityFiles;
use crate::identity::SpiffeId;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) fn id(service: &str) -> SpiffeId {
    SpiffeId::service("mesh.local", "default", service).expect("id")
}

/// A directory with an authority, and what it signed.
pub(super) struct Mesh {
    directory: tempfile::TempDir,
    authority: Authority,
    now: SystemTime,
}

impl Mesh {
    pub(super) fn new() -> Self {
        Self::at(SystemTime::now())
    }

    fn at(now: SystemTime) -> Self {
        let directory = tempfile::tempdir().expect("tempdir");
        let (authority, _) = Authority::new("mesh.local", 10 * DAY, now).expect("authority");
        fs::write(directory.path().join("ca.pem"), &authority.certificate).expect("write");
        Mesh { directory, authority, now }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn files(&self) -> IdentityFiles {
        IdentityFiles {
            certificate: self.path("cert.pem"),
            private_key: self.path("key.pem"),
            trust_bundle: self.path("ca.pem"),
        }
    }

    fn pair(&self, service: &str) -> Pair {
        self.authority.issue(&id(service), DAY, self.now).expect("issued")
    }

    fn write(&self, pair: &Pair) {
        fs::write(self.path("cert.pem"), &pair.certificate).expect("write");
        fs::write(self.path("key.pem"), &pair.private_key).expect("write");
    }

    pub(super) fn settings(&self, service: &str) -> Arc<TlsSettings> {
        self.write(&self.pair(service));
        TlsSettings::load_at(&self.files(), &id(service), self.now).expect("usable")
    }

    fn params(&self) -> CertificateParams {
        let mut params = authority::params("delta", "mesh.local", self.now - DAY, self.now + DAY).expect("params");
        params.subject_alt_names = vec![uri("spiffe://mesh.local/ns/default/sa/delta")];
        params
    }

    fn sign(&self, change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let mut params = self.params();
        change(&mut params);
        self.authority.sign(&params).expect("signed")
    }
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("IA5"))
}

fn der(pair: &Pair) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let certificate = CertificateDer::from_pem_slice(pair.certificate.as_bytes()).expect("certificate");
    (vec![certificate], PrivateKeyDer::from_pem_slice(pair.private_key.as_bytes()).expect("key"))
}

/// Whom a certificate names.
fn holder(chain: &[CertificateDer<'_>]) -> Peer {
    let (_, leaf) = X509Certificate::from_der(&chain[0]).expect("a certificate");
    Peer::of(&chain[0], &leaf).expect("a peer")
}

/// A client that believes everybody and shows what it is given.
pub(super) fn stranger(pair: Option<&Pair>) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible));
    Arc::new(match pair.map(der) {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).expect("pair"),
        None => builder.with_no_client_auth(),
    })
}

/// A server that asks for nothing and shows what it is given.
fn impostor(pair: &Pair) -> Arc<ServerConfig> {
    let (chain, key) = der(pair);
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("versions");
    Arc::new(builder.with_no_client_auth().with_single_cert(chain, key).expect("pair"))
}

#[derive(Debug)]
struct Gullible;

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        unreachable!("TLS 1.3")
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Moves what is written on one side to the other until both are silent.
fn handshake(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
) -> Result<(ClientConnection, ServerConnection), Error> {
    let mut client = ClientConnection::new(client.clone(), server_name("delta")).expect("client");
    let mut server = ServerConnection::new(server.clone()).expect("server");
    fn carry(from: &mut Connection, to: &mut Connection) -> Result<bool, Error> {
        let mut bytes = Vec::new();
        while from.wants_write() {
            from.write_tls(&mut bytes).expect("memory");
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            to.read_tls(&mut rest).expect("memory");
            to.process_new_packets()?;
        }
        Ok(!bytes.is_empty())
    }
    let (mut c, mut s) = (Connection::Client(client), Connection::Server(server));
    while carry(&mut c, &mut s)? | carry(&mut s, &mut c)? {}
    (client, server) = match (c, s) {
        (Connection::Client(client), Connection::Server(server)) => (client, server),
        _ => unreachable!("as they were made"),
    };
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok((client, server))
}

#[test]
fn two_members_of_a_mesh() {
    let mesh = Mesh::new();
    let (alpha, delta) = (mesh.settings("alpha"), mesh.settings("delta"));
    for (alpn, chosen) in [(Alpn::Http2, "h2"), (Alpn::Http1, "http/1.1")] {
        let client = alpha.client(&[id("other"), id("delta")], alpn);
        let (client, server) = handshake(&client, delta.server()).expect("handshake");
        let caller = holder(server.peer_certificates().expect("chain"));
        assert_eq!(caller.spiffe, id("alpha"));
        assert_eq!(&*caller.subject, "CN=alpha,O=mesh.local");
        let text = caller.forwarded(delta.identity());
        let hash = &caller.hash;
        assert_eq!(hash.len(), 64);
        assert_eq!(
            text,
            format!(
                "By=spiffe://mesh.local/ns/default/sa/delta;Hash={hash};Subject=\"CN=alpha,O=mesh.local\";\
                 URI=spiffe://mesh.local/ns/default/sa/alpha"
            )
        );
        assert_eq!(client.alpn_protocol(), Some(chosen.as_bytes()));
        assert_eq!(server.server_name(), Some("delta"));
        let known = delta.peer(Role::Client, server.peer_certificates().expect("chain"));
        assert_eq!(known.as_deref(), Ok(&caller));
        let suite = client.negotiated_cipher_suite().map(|s| s.suite());
        assert_eq!(suite, Some(CipherSuite::TLS13_AES_128_GCM_SHA256));
        let group = client.negotiated_key_exchange_group().map(|g| g.name());
        assert_eq!(group, Some(NamedGroup::X25519MLKEM768));
    }
}

/// Everybody who must not get in, and what is said of them.
fn unwelcome(mesh: &Mesh) -> Vec<(Pair, &'static str)> {
    let other = Mesh::new();
    let now = mesh.now;
    vec![
        // The other authority has the same name as ours, so that only its signature tells.
        (other.pair("delta"), "BadSignature"),
        (mesh.sign(|p| p.not_after = (now - DAY / 2).into()), "certificate expired"),
        (mesh.sign(|p| p.not_before = (now + DAY / 2).into()), "certificate not valid yet"),
        (mesh.sign(|p| p.subject_alt_names.clear()), "has no URI name; a SPIFFE certificate has exactly one"),
        (mesh.sign(|p| p.subject_alt_names.push(uri("spiffe://mesh.local/b"))), "has 2 URI names"),
        (mesh.sign(|p| p.subject_alt_names.push(uri("https://mesh.local/b"))), "has 2 URI names"),
        (mesh.sign(|p| p.subject_alt_names = vec![uri("https://mesh.local/b")]), "is no SPIFFE ID"),
        (
            mesh.sign(|p| p.subject_alt_names = vec![uri("spiffe://mesh.local.evil/ns/default/sa/delta")]),
            "not of the trust domain mesh.local",
        ),
        (mesh.sign(|p| p.key_usages.push(rcgen::KeyUsagePurpose::KeyCertSign)), "may sign certificates"),
        (mesh.sign(|p| p.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained)), "CaUsedAsEndEntity"),
    ]
}

#[test]
fn clients_that_a_server_refuses() {
    let mesh = Mesh::new();
    let delta = mesh.settings("delta");
    let (anybody, _) = handshake(&stranger(Some(&mesh.pair("anybody"))), delta.server()).expect("the method is sound");
    let suite = anybody.negotiated_cipher_suite().map(|s| s.suite());
    assert_eq!(suite, Some(CipherSuite::TLS13_AES_128_GCM_SHA256), "which is ours, not the first of the client's");

    let error = handshake(&stranger(None), delta.server()).expect_err("no certificate");
    assert_eq!((&error, reason(&error)), (&Error::NoCertificatesPresented, Reason::TlsCertificateError));
    for (pair, why) in unwelcome(&mesh) {
        let error = handshake(&stranger(Some(&pair)), delta.server()).expect_err(why);
        assert!(format!("{} {error:?}", explain(&error)).contains(why), "{error:?} for {why}");
        assert_eq!(reason(&error), Reason::TlsCertificateError, "{why}");
    }
}

#[test]
fn servers_that_a_client_refuses() {
    let mesh = Mesh::new();
    let alpha = mesh.settings("alpha");
    let client = alpha.client(&[id("delta")], Alpn::Http2);
    handshake(&client, &impostor(&mesh.pair("delta"))).expect("the method is sound");

    let mut cases = unwelcome(&mesh);
    let other = "is of spiffe://mesh.local/ns/default/sa/mallory, and not of spiffe://mesh.local/ns/default/sa/delta";
    cases.push((mesh.pair("mallory"), other));
    for (pair, why) in cases {
        let error = handshake(&client, &impostor(&pair)).expect_err(why);
        assert!(format!("{} {error:?}", explain(&error)).contains(why), "{error:?} for {why}");
        assert_eq!(reason(&error), Reason::TlsCertificateError, "{why}");
    }
    let nobody = alpha.client(&[], Alpn::Http2);
    handshake(&nobody, &impostor(&mesh.pair("delta"))).expect_err("nobody may answer");
}

#[test]
fn a_resumed_session_knows_its_peer_and_ends_with_the_settings() {
    let mesh = Mesh::new();
    let (alpha, delta) = (mesh.settings("alpha"), mesh.settings("delta"));
    let client = alpha.client(&[id("delta")], Alpn::Http2);
    assert!(Arc::ptr_eq(&client, &alpha.client(&[id("delta")], Alpn::Http2)));

    let (_, server) = handshake(&client, delta.server()).expect("first");
    assert_eq!(server.handshake_kind(), Some(HandshakeKind::Full));
    let (resumed, server) = handshake(&client, delta.server()).expect("second");
    assert_eq!(server.handshake_kind(), Some(HandshakeKind::Resumed));
    let chain = server.peer_certificates().expect("chain");
    assert_eq!(delta.peer(Role::Client, chain).expect("peer").spiffe, id("alpha"));
    let chain = resumed.peer_certificates().expect("chain");
    assert_eq!(alpha.peer(Role::Server, chain).expect("peer").spiffe, id("delta"));

    // Other settings of the client or of the server, or another question: from the beginning.
    let question = alpha.client(&[id("delta"), id("other")], Alpn::Http2);
    let rotated = mesh.settings("delta");
    let renewed = mesh.settings("alpha").client(&[id("delta")], Alpn::Http2);
    for (client, server) in [(&question, delta.server()), (&renewed, delta.server()), (&client, rotated.server())] {
        let (_, server) = handshake(client, server).expect("handshake");
        assert_eq!(server.handshake_kind(), Some(HandshakeKind::Full));
    }
}

#[test]
fn quic() {
    use rustls::quic;
    let mesh = Mesh::new();
    let (alpha, delta) = (mesh.settings("alpha"), mesh.settings("delta"));
    let config = alpha.client(&[id("delta")], Alpn::Http3);
    let version = quic::Version::V1;
    for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let name = server_name("delta");
        let mut client = quic::ClientConnection::new(config.clone(), version, name, vec![1]).expect("client");
        let mut server = quic::ServerConnection::new(delta.server_quic().clone(), version, vec![2]).expect("server");
        loop {
            // One flight at a time: what follows a change of keys belongs to another packet space.
            let (mut there, mut back) = (Vec::new(), Vec::new());
            let mut news = client.write_hs(&mut there).is_some();
            server.read_hs(&there).expect("server reads");
            news |= server.write_hs(&mut back).is_some();
            client.read_hs(&back).expect("client reads");
            if !news && there.is_empty() && back.is_empty() {
                break;
            }
        }
        assert!(!client.is_handshaking() && !server.is_handshaking());
        assert_eq!(server.handshake_kind(), Some(kind));
        assert_eq!(server.alpn_protocol(), Some(&b"h3"[..]));
        assert_eq!(holder(server.peer_certificates().expect("chain")).spiffe, id("alpha"));
    }
}

#[test]
fn subjects_cannot_leave_their_quotes() {
    let mesh = Mesh::new();
    let pair = mesh.sign(|p| {
        p.distinguished_name = rcgen::DistinguishedName::new();
        p.distinguished_name.push(rcgen::DnType::OrganizationName, " a\",URI=spiffe://x;\r\n\\ü ");
        p.distinguished_name.push(rcgen::DnType::CommonName, "#1");
    });
    let subject = holder(&der(&pair).0).subject;
    assert_eq!(&*subject, r#"CN=\#1,O=\ a\"\,URI=spiffe://x\;\0D\0A\\\C3\BC\ "#);

    let long = |n: usize| mesh.sign(|p| p.distinguished_name.push(rcgen::DnType::CommonName, "x".repeat(n)));
    let length = |pair: &Pair| holder(&der(pair).0).subject.len();
    let frame = "CN=,O=mesh.local".len();
    assert_eq!(length(&long(verify::MAX_SUBJECT_BYTES - frame)), verify::MAX_SUBJECT_BYTES);
    assert_eq!(length(&long(verify::MAX_SUBJECT_BYTES - frame + 1)), 0);
}

#[test]
fn names_for_sni() {
    assert_eq!(server_name("delta").to_str(), "delta");
    assert_eq!(server_name("no name").to_str(), "0.0.0.0");
}

#[test]
fn what_alerts_mean() {
    let table = [(42, true), (46, true), (48, true), (49, true), (116, true), (40, false), (80, false), (255, false)];
    for (code, certificate) in table {
        assert_eq!(alert_reason(code) == Reason::TlsCertificateError, certificate, "{code}");
    }
    let refused = fault(io::Error::new(io::ErrorKind::InvalidData, Error::NoCertificatesPresented));
    assert_eq!(refused.to_string(), "tls_certificate_error: peer sent no certificates");
    let ours = fault(io::Error::new(io::ErrorKind::InvalidData, Error::from(verify::Unidentified::ManyUris(2))));
    let text = "tls_certificate_error: the certificate has 2 URI names; a SPIFFE certificate has exactly one";
    assert_eq!(ours.to_string(), text);
    assert_eq!(fault(io::ErrorKind::UnexpectedEof.into()).reason, Reason::TlsProtocolError);
}

/// Every mistake in an identity, as an operator reads it. `BLESS=1` writes the file again.
#[test]
fn identity_errors() {
    let now = UNIX_EPOCH + Duration::from_secs(1_900_000_000);
    let mesh = Mesh::at(now);
    let good = mesh.pair("delta");
    let mut text = String::new();
    let mut case = |title: &str, break_it: &dyn Fn(&Mesh)| {
        mesh.write(&good);
        fs::write(mesh.path("ca.pem"), &mesh.authority.certificate).expect("write");
        break_it(&mesh);
        let error = TlsSettings::load_at(&mesh.files(), &id("delta"), now).expect_err(title);
        let error = error.to_string().replace(&mesh.directory.path().display().to_string(), "certs");
        text.push_str(&format!("{title}\n  {error}\n"));
    };
    let put = |name: &str, content: &str| {
        let (name, content) = (name.to_owned(), content.to_owned());
        move |mesh: &Mesh| fs::write(mesh.path(&name), &content).expect("write")
    };
    let signed = |pair: Pair| move |mesh: &Mesh| mesh.write(&pair);
    let old = Mesh::at(now - 20 * DAY);
    let past = |p: &mut CertificateParams| {
        p.not_before = (now - 2 * DAY).into();
        p.not_after = (now - DAY).into();
    };
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let weak = "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n";
    let broken = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";

    case("missing", &|mesh| fs::remove_file(mesh.path("cert.pem")).expect("remove"));
    case("too large", &put("ca.pem", &"x".repeat(1024 * 1024 + 1)));
    case("empty certificate", &put("cert.pem", ""));
    case("no PEM", &put("cert.pem", "certificate"));
    case("cut off", &put("cert.pem", good.certificate.split_at(200).0));
    case("key for a certificate", &put("cert.pem", &good.private_key));
    case("no X.509", &put("cert.pem", broken));
    case("empty key", &put("key.pem", "\n"));
    case("certificate for a key", &put("key.pem", &good.certificate));
    case("encrypted key", &put("key.pem", encrypted));
    case("unreadable key", &put("key.pem", weak));
    case("another key", &put("key.pem", &mesh.pair("delta").private_key));
    case("expired", &signed(mesh.sign(past)));
    case("not yet valid", &signed(mesh.sign(|p| p.not_before = (now + DAY / 2).into())));
    case("no identity", &signed(mesh.sign(|p| p.subject_alt_names.clear())));
    case("two identities", &signed(mesh.sign(|p| p.subject_alt_names.push(uri("spiffe://mesh.local/b")))));
    case("no SPIFFE ID", &signed(mesh.sign(|p| p.subject_alt_names = vec![uri("spiffe://Mesh.local/b")])));
    case("authority's own", &signed(mesh.sign(|p| p.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign])));
    case("other identity", &signed(mesh.pair("alpha")));
    case("empty bundle", &put("ca.pem", ""));
    case("expired bundle", &put("ca.pem", &old.authority.certificate));
    case("other authority", &put("ca.pem", &Mesh::at(now).authority.certificate));
    case(
        "server only",
        &signed(mesh.sign(|p| p.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth])),
    );

    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tls/identity-errors.txt");
    if std::env::var_os("BLESS").is_some() {
        fs::write(&golden, &text).expect("bless");
    }
    assert_eq!(text, fs::read_to_string(&golden).expect("golden"), "BLESS=1 writes it again");
}

#[test]
fn an_expired_authority_is_left_out() {
    let mesh = Mesh::new();
    mesh.write(&mesh.pair("delta"));
    let old = Mesh::at(mesh.now - 20 * DAY).authority.certificate;
    fs::write(mesh.path("ca.pem"), format!("{old}{}", mesh.authority.certificate)).expect("write");
    let settings = TlsSettings::load_at(&mesh.files(), &id("delta"), mesh.now).expect("usable");
    assert!(settings.bundle_until() > mesh.now);
    assert_eq!(settings.warnings().len(), 1);
    assert!(settings.warnings()[0].contains("ca.pem: authority 1 expired at "), "{:?}", settings.warnings());
}

#[test]
fn issued_files() {
    let directory = tempfile::tempdir().expect("tempdir");
    let at = directory.path().join("certs");
    assert!(matches!(issue(&at, "alpha", "default", Some("mesh.local"), 1), Err(AuthorityError::Missing(_))));
    init(&at, "mesh.local", 10, false).expect("init");
    assert!(matches!(init(&at, "mesh.local", 10, false), Err(AuthorityError::Exists(_))));
    let mode = |name: &str| fs::metadata(at.join(name)).expect("file").permissions().mode() & 0o777;

    let issued = issue(&at, "alpha", "default", Some("mesh.local"), 365).expect("issue");
    assert_eq!((mode("ca-key.pem"), mode("alpha-key.pem")), (0o600, 0o600));
    assert_eq!(fs::read_dir(&at).expect("list").count(), 4, "no temporary file is left");
    assert_eq!(issued.identity, "spiffe://mesh.local/ns/default/sa/alpha");
    assert!(issued.expires < SystemTime::now() + 11 * DAY, "not after the authority");
    let files = IdentityFiles {
        certificate: issued.certificate,
        private_key: issued.private_key,
        trust_bundle: issued.trust_bundle,
    };
    TlsSettings::load(&files, &id("alpha")).expect("usable");

    for name in ["ca", "ca-key", "alpha-key", "../alpha", "a/b", "", "a b"] {
        let error = issue(&at, name, "default", Some("mesh.local"), 1).expect_err(name);
        assert!(matches!(error, AuthorityError::Reserved(_) | AuthorityError::Name(_)), "{name}: {error}");
    }
    let error = issue(&at, "alpha", "default", Some("other.local"), 1).expect_err("other trust domain");
    assert!(error.to_string().ends_with("this authority is of the trust domain mesh.local, and not of other.local"));
    for (days, fine) in [(0, false), (1, true), (authority::MAX_DAYS, true), (authority::MAX_DAYS + 1, false)] {
        assert_eq!(issue(&at, "alpha", "default", Some("mesh.local"), days).is_ok(), fine, "{days}");
    }
    init(&at, "mesh.local", authority::MAX_DAYS, true).expect("forced");
    let error = TlsSettings::load(&files, &id("alpha")).expect_err("another authority");
    assert!(matches!(error.problem, Problem::UnknownAuthority { .. }), "{error}");
}

#[test]
fn openssl_agrees() {
    let directory = tempfile::tempdir().expect("tempdir");
    let at = directory.path();
    init(at, "mesh.local", 10, false).expect("init");
    issue(at, "alpha", "default", None, 5).expect("issue");
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).current_dir(at).output().ok()?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    for purpose in ["sslclient", "sslserver"] {
        let verify = ["verify", "-x509_strict", "-purpose", purpose, "-CAfile", "ca.pem", "alpha.pem"];
        // A machine without openssl has nothing to agree with.
        let Some(text) = openssl(&verify) else { return };
        assert_eq!(text, "alpha.pem: OK\n");
    }
    let text = openssl(&["x509", "-in", "alpha.pem", "-noout", "-text"]).expect("text");
    for part in [
        "CA:FALSE",
        "URI:spiffe://mesh.local/ns/default/sa/alpha, DNS:alpha\n",
        "TLS Web Client Authentication, TLS Web Server Authentication",
        "Digital Signature\n",
        "id-ecPublicKey",
        "prime256v1",
        "Version: 3",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    let text = openssl(&["x509", "-in", "ca.pem", "-noout", "-text"]).expect("text");
    for part in ["CA:TRUE, pathlen:0", "Certificate Sign, CRL Sign", "URI:spiffe://mesh.local\n"] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    openssl(&["pkey", "-in", "alpha-key.pem", "-check", "-noout"]);
}
