//! Mutually authenticated connections, opened as a peer's sidecar opens them: TLS 1.3, a client certificate, ALPN `h2`,
//! and the first frames of HTTP/2. For what a handshake costs, and for what a connection that rests costs.

use crate::{
    account::{Account, Usage},
    plan::Error,
};
use rustls::{
    ClientConfig, DigitallySignedStruct, HandshakeKind, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use serde::Serialize;
use std::{
    cell::RefCell,
    collections::BTreeMap,
    io,
    net::SocketAddr,
    path::Path,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// A handshake that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a client of HTTP/2 sends first (RFC 9113, 3.4): the preface, and SETTINGS without a setting.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// The head of the frame that the server sends first.
const FRAME_HEAD: usize = 9;

/// An open one. It closes when it is dropped.
pub type Connection = TlsStream<TcpStream>;

/// Whom to call, and as whom.
#[derive(Debug, Clone)]
pub struct Dialer {
    target: SocketAddr,
    connector: Connector,
}

#[derive(Clone)]
struct Connector(TlsConnector);

impl std::fmt::Debug for Connector {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Connector")
    }
}

/// What a server did in a window.
#[derive(Clone, Debug, Serialize)]
pub struct Handshakes {
    /// How long it was.
    pub seconds: f64,
    /// Connections that were opened with a full handshake.
    pub full: u64,
    /// Those that resumed an earlier session instead.
    pub resumed: u64,
    /// What went wrong since the start, and how often.
    pub errors: BTreeMap<String, u64>,
    /// What each process used, in the order of their ids.
    pub processes: Vec<Usage>,
}

impl Dialer {
    /// With the certificate and the key `alpha.pem` and `alpha-key.pem` in `certs`. `resume`: each connection
    /// resumes the session of an earlier one, where the server gave a ticket.
    ///
    /// # Errors
    /// When a file cannot be read, or is not what its name says.
    pub fn new(target: SocketAddr, certs: &Path, resume: bool) -> io::Result<Self> {
        let chain = CertificateDer::pem_file_iter(certs.join("alpha.pem"))
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(io::Error::other)?;
        let key = PrivateKeyDer::from_pem_file(certs.join("alpha-key.pem")).map_err(io::Error::other)?;
        let provider = Arc::new(CryptoProvider {
            // The group that all servers of a comparison have: what it costs is the same for all.
            kx_groups: vec![aws_lc_rs::kx_group::X25519],
            ..aws_lc_rs::default_provider()
        });
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(io::Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
            .with_client_auth_cert(chain, key)
            .map_err(io::Error::other)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        if !resume {
            config.resumption = Resumption::disabled();
        }
        Ok(Self { target, connector: Connector(TlsConnector::from(Arc::new(config))) })
    }

    /// Opens a connection, up to the server's first frame: by then it has all tickets, too.
    ///
    /// # Errors
    /// When there is none within ten seconds.
    pub async fn open(&self) -> io::Result<Connection> {
        let opening = async {
            let stream = TcpStream::connect(self.target).await?;
            stream.set_nodelay(true)?;
            let name = ServerName::try_from("delta").map_err(io::Error::other)?;
            let mut stream = self.connector.0.connect(name, stream).await?;
            stream.write_all(PREFACE).await?;
            stream.flush().await?;
            stream.read_exact(&mut [0; FRAME_HEAD]).await?;
            Ok(stream)
        };
        time::timeout(PATIENCE, opening).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    /// Opens and closes connections, `parallel` at a time, and says what that cost `pids` after the `warmup`.
    ///
    /// # Errors
    /// When a process cannot be read: most likely it has ended.
    pub async fn handshakes(
        &self,
        parallel: usize,
        warmup: Duration,
        window: Duration,
        pids: &[u32],
    ) -> Result<Handshakes, Error> {
        let count = Rc::new(RefCell::new(Count::default()));
        let mut callers = JoinSet::new();
        for _ in 0..parallel {
            let (dialer, count) = (self.clone(), Rc::clone(&count));
            callers.spawn_local(async move {
                loop {
                    let opened = dialer.open().await;
                    count.borrow_mut().note(&opened);
                    if let Ok(mut stream) = opened {
                        // An end that the server sees as one; its own end is not waited for.
                        let _ = stream.shutdown().await;
                    }
                }
            });
        }
        time::sleep(warmup).await;
        let (before, start) = (accounts(pids)?, Instant::now());
        count.borrow_mut().open();
        time::sleep(window).await;
        let after = accounts(pids)?;
        let seconds = start.elapsed().as_secs_f64();
        drop(callers);
        let count = count.borrow();
        Ok(Handshakes {
            seconds,
            full: count.full,
            resumed: count.resumed,
            errors: count.errors.clone(),
            processes: after.iter().zip(&before).map(|(after, before)| after.since(before)).collect(),
        })
    }
}

fn accounts(pids: &[u32]) -> Result<Vec<Account>, Error> {
    pids.iter().map(|&pid| Account::of(pid).map_err(|source| Error::Process { pid, source })).collect()
}

#[derive(Debug, Default)]
struct Count {
    full: u64,
    resumed: u64,
    errors: BTreeMap<String, u64>,
}

impl Count {
    fn open(&mut self) {
        (self.full, self.resumed) = (0, 0);
    }

    fn note(&mut self, opened: &io::Result<Connection>) {
        match opened {
            Ok(stream) if stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed) => self.resumed += 1,
            Ok(_) => self.full += 1,
            Err(error) => *self.errors.entry(error.to_string()).or_default() += 1,
        }
    }
}

/// Takes every server for the one that was meant: this is load, and the server's own check of us is what is measured.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
