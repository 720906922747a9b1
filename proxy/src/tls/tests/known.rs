//! What was verified before passes more cheaply, and nothing else passes.

use rcgen::ExtendedKeyUsagePurpose::ClientAuth;
use rcgen::{BasicConstraints, CustomExtension, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519};
use rustls::RootCertStore;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use tokio::io::duplex;
use tokio_rustls::TlsAcceptor;

use super::super::handshake::connect;
use super::super::known::{MAX_CHAIN_BYTES, MAX_CHAINS};
use super::super::verify::Verifier;
use super::*;

type Chain = Vec<CertificateDer<'static>>;

fn verifier(mesh: &Mesh) -> Verifier {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(mesh.authority.certificate.as_bytes()).expect("certificate");
    roots.add(authority).expect("an authority");
    Verifier::anybody(Arc::new(roots), "mesh.local", &Arc::new(default_provider())).expect("a verifier")
}

fn as_client(verifier: &Verifier, chain: &Chain, now: SystemTime) -> Result<(), Error> {
    verifier.verify_client_cert(&chain[0], &chain[1..], unix(now)).map(drop)
}

fn as_server(verifier: &Verifier, chain: &Chain, now: SystemTime) -> Result<(), Error> {
    verifier.verify_server_cert(&chain[0], &chain[1..], &server_name("delta"), &[], unix(now)).map(drop)
}

fn unix(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(time.duration_since(UNIX_EPOCH).expect("after 1970"))
}

#[test]
fn it_passes_in_its_time_only() {
    let mesh = Mesh::new();
    let (from, until) = (mesh.now - DAY, mesh.now + DAY);
    let chain = der(&mesh.sign(|_| {})).0;
    let warm = verifier(&mesh);
    let anybody = warm.one_of(&[id("delta")]);
    as_client(&warm, &chain, mesh.now).expect("a client");
    as_server(&anybody, &chain, mesh.now).expect("a server");
    assert_eq!(warm.remembers(), 2, "both verifiers remember together");
    let second = Duration::from_secs(1);
    for now in [from - second, from, from + second, mesh.now, until - second, until, until + second, until + DAY] {
        let cold = verifier(&mesh);
        assert_eq!(as_client(&warm, &chain, now), as_client(&cold, &chain, now));
        assert_eq!(as_server(&anybody, &chain, now), as_server(&cold.one_of(&[id("delta")]), &chain, now));
        let roles = [(Role::Client, &warm), (Role::Server, &anybody)];
        roles.iter().for_each(|(role, warm)| assert_eq!(warm.peer(*role, &chain, now), cold.peer(*role, &chain, now)));
    }
    as_client(&warm, &chain, from - second).expect_err("it is not valid yet");
    as_client(&warm, &chain, until + second).expect_err("it has expired");
    warm.peer(Role::Client, &chain, until + DAY).expect_err("nor does a resumed session outlive it");
}

/// An intermediate authority that ends before the leaf does ends the chain.
#[test]
fn every_certificate_of_a_chain_counts() {
    let mesh = Mesh::new();
    let (below, _) = Authority::new("mesh.local", DAY / 2, mesh.now).expect("an authority");
    let leaf = mesh.pair("delta");
    let mut chain = der(&leaf).0;
    chain.push(CertificateDer::from_pem_slice(below.certificate.as_bytes()).expect("certificate"));
    let warm = verifier(&mesh);
    as_client(&warm, &chain, mesh.now).expect("one more than is needed does no harm");
    assert_eq!(warm.remembers(), 1);
    // Later than that one is valid, all is verified again, which finds that it is not needed.
    as_client(&warm, &chain, mesh.now + DAY * 3 / 4).expect("still valid without it");
    warm.peer(Role::Client, &chain, mesh.now + DAY * 3 / 4).expect("as a resumed session finds out, too");
    // Without it the chain is another one.
    chain.pop();
    as_client(&warm, &chain, mesh.now).expect("verified anew");
}

/// An intermediate authority that ends before the leaf does ends the sessions that can be resumed.
#[test]
fn a_resumed_session_does_not_outlive_an_intermediate() {
    let mesh = Mesh::new();
    let key = || KeyPair::generate().expect("a key");
    let authority = |until: SystemTime| {
        let mut params = authority::params("an authority", "mesh.local", mesh.now - DAY, until).expect("params");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params
    };
    let (above, below, own) = (key(), key(), key());
    let (first, second) = (authority(mesh.now + DAY), authority(mesh.now + DAY / 2));
    let root = first.self_signed(&above).expect("an authority");
    let middle = second.signed_by(&below, &Issuer::new(first, above)).expect("an authority");
    let leaf = mesh.params().signed_by(&own, &Issuer::new(second, below)).expect("a certificate");
    let chain = vec![leaf.into(), middle.into()];
    let mut roots = RootCertStore::empty();
    roots.add(root.into()).expect("an authority");
    let warm = Verifier::anybody(Arc::new(roots), "mesh.local", &Arc::new(default_provider())).expect("a verifier");
    for (role, verifier) in [(Role::Client, &warm), (Role::Server, &warm.one_of(&[id("delta")]))] {
        assert_eq!(verifier.peer(role, &chain, mesh.now).expect("a peer").spiffe, id("delta"));
        let error = verifier.peer(role, &chain, mesh.now + DAY * 3 / 4).expect_err("its authority has ended");
        assert!(
            matches!(error, Error::InvalidCertificate(rustls::CertificateError::ExpiredContext { .. })),
            "{error:?}"
        );
    }
}

/// The time in which a certificate was valid that has expired since.
#[derive(Debug)]
struct Past(SystemTime);

impl TimeProvider for Past {
    fn current_time(&self) -> Option<UnixTime> {
        self.0.duration_since(UNIX_EPOCH).ok().map(UnixTime::since_unix_epoch)
    }
}

#[tokio::test]
async fn a_session_is_not_resumed_with_a_server_that_has_expired() {
    let mesh = Mesh::new();
    let alpha = mesh.settings("alpha");
    let server = impostor(&mesh.sign(|params| params.not_after = (mesh.now - DAY / 2).into()));
    let mut config = ClientConfig::clone(&alpha.client(&[id("delta")], Alpn::Http2));
    config.time_provider = Arc::new(Past(mesh.now - DAY * 3 / 4));
    let config = Arc::new(config);
    handshake(&config, &server).expect("it was valid then");
    let (near, far) = duplex(10_000);
    let there = TlsAcceptor::from(server).accept(far);
    let (client, _) = tokio::join!(connect(near, config, &alpha, "delta"), there);
    let fault = client.expect_err("refused");
    assert_eq!(fault.reason, Reason::TlsCertificateError, "{fault}");
}

#[test]
fn nobody_else_passes_because_it_did() {
    let mesh = Mesh::new();
    let chain = der(&mesh.pair("delta")).0;
    let warm = verifier(&mesh);
    as_client(&warm, &chain, mesh.now).expect("a client");
    for (pair, why) in unwelcome(&mesh) {
        for _ in 0..2 {
            as_client(&warm, &der(&pair).0, mesh.now).expect_err(why);
        }
    }
    let mut forged = chain[0].to_vec();
    *forged.last_mut().expect("a signature") ^= 1;
    as_client(&warm, &vec![forged.into()], mesh.now).expect_err("one bit of the signature is wrong");
    assert_eq!(warm.remembers(), 1);
    as_server(&warm.one_of(&[id("other")]), &chain, mesh.now).expect_err("it is not who was to be reached");
    as_server(&warm.one_of(&[id("delta")]), &chain, mesh.now).expect("it is");
    as_server(&warm.one_of(&[id("other")]), &chain, mesh.now).expect_err("it still is not");

    let client_only = der(&mesh.sign(|p| p.extended_key_usages = vec![ClientAuth])).0;
    as_client(&warm, &client_only, mesh.now).expect("a client");
    as_server(&warm.one_of(&[id("delta")]), &client_only, mesh.now).expect_err("it may not be a server");
}

#[test]
fn another_trust_bundle_begins_anew() {
    let (mesh, other) = (Mesh::new(), Mesh::new());
    let (before, after) = (mesh.settings("delta"), other.settings("delta"));
    let client = stranger(Some(&mesh.pair("alpha")));
    for _ in 0..2 {
        handshake(&client, before.server()).expect("a member");
    }
    let error = handshake(&client, after.server()).expect_err("its authority is not trusted any more");
    assert_eq!(reason(&error), Reason::TlsCertificateError);
}

#[test]
fn who_has_not_the_key_does_not_pass() {
    let mesh = Mesh::new();
    let delta = mesh.settings("delta");
    let (owner, thief) = (mesh.pair("alpha"), mesh.pair("mallory"));
    handshake(&stranger(Some(&owner)), delta.server()).expect("the owner");
    let signer = default_provider().key_provider.load_private_key(der(&thief).1).expect("a key");
    let stolen = SingleCertAndKey::from(CertifiedKey::new(der(&owner).0, signer));
    let mut client = Arc::unwrap_or_clone(stranger(None));
    client.client_auth_cert_resolver = Arc::new(stolen);
    let error = handshake(&Arc::new(client), delta.server()).expect_err("a thief");
    assert!(matches!(error, Error::InvalidCertificate(rustls::CertificateError::BadSignature)), "{error:?}");
}

#[test]
fn so_many_are_remembered() {
    let mesh = Mesh::new();
    let warm = verifier(&mesh);
    for number in 1..=MAX_CHAINS + 1 {
        as_client(&warm, &der(&mesh.pair("alpha")).0, mesh.now).expect("a client");
        assert_eq!(warm.remembers(), if number > MAX_CHAINS { 1 } else { number });
    }
}

/// What a peer sends beside its chain is not for us to keep.
#[test]
fn a_long_chain_is_verified_and_not_remembered() {
    let mesh = Mesh::new();
    let leaf = der(&mesh.pair("delta")).0;
    // Whose signatures all have one length.
    let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
    let beside = |extension: usize| -> CertificateDer<'static> {
        let mut params = mesh.params();
        params.custom_extensions = vec![CustomExtension::from_oid_content(&[2, 999, 1], vec![0; extension])];
        params.self_signed(&key).expect("a certificate").into()
    };
    let others = beside(MAX_CHAIN_BYTES / 2).len() - MAX_CHAIN_BYTES / 2;
    let most = MAX_CHAIN_BYTES - leaf[0].len() - others;
    for (extension, remembered) in [(most, 1), (most + 1, 0)] {
        let warm = verifier(&mesh);
        let chain = vec![leaf[0].clone(), beside(extension)];
        let bytes: usize = chain.iter().map(|der| der.len()).sum();
        assert_eq!(bytes <= MAX_CHAIN_BYTES, remembered == 1, "{bytes}");
        for _ in 0..2 {
            as_client(&warm, &chain, mesh.now).expect("a client");
            warm.peer(Role::Client, &chain, mesh.now).expect("as a resumed session finds, too");
        }
        assert_eq!(warm.remembers(), remembered, "{bytes} bytes");
    }
}
