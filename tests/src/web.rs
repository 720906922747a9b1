//! A web server with a certificate of an authority of its own: where sidecars fetch things for themselves.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::{block_on, runtime};

/// A request for a page.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Path and query.
    pub target: String,
    /// Its `authorization`; empty if there is none.
    pub authorization: String,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Page {
    status: u16,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
    claims: Option<u64>,
}

impl Page {
    /// 200.
    pub fn ok(body: impl Into<Vec<u8>>) -> Page {
        Page { status: 200, fields: Vec::new(), body: body.into(), claims: None }
    }

    /// Without a body.
    pub fn status(status: u16) -> Page {
        Page { status, ..Page::ok("") }
    }

    /// Adds a field.
    #[must_use]
    pub fn field(mut self, name: &str, value: &str) -> Page {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Says that the body is so long, whatever it is.
    #[must_use]
    pub fn claims(mut self, length: u64) -> Page {
        self.claims = Some(length);
        self
    }
}

/// What answers.
type Handler = dyn Fn(&Asked) -> Page + Send + Sync;

/// A running server; it goes when this is dropped.
pub struct Web {
    address: SocketAddr,
    scheme: &'static str,
    directory: TempDir,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: JoinHandle<()>,
}

impl Web {
    /// With TLS, as `localhost` and 127.0.0.1.
    pub fn start(handler: impl Fn(&Asked) -> Page + Send + Sync + 'static) -> Web {
        let directory = TempDir::with_prefix("lacis-web-").expect("a directory");
        let key = || KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, key()).expect("an authority");
        std::fs::write(directory.path().join("ca.pem"), ca.pem()).expect("a written authority");
        let own = key();
        let params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).expect("parameters");
        let leaf = params.signed_by(&own, &ca).expect("a certificate");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::Pkcs8(own.serialize_der().into()))
            .expect("a configuration");
        Web::serve(Some(TlsAcceptor::from(Arc::new(config))), directory, Arc::new(handler))
    }

    /// Without TLS.
    pub fn plain(handler: impl Fn(&Asked) -> Page + Send + Sync + 'static) -> Web {
        let directory = TempDir::with_prefix("lacis-web-").expect("a directory");
        Web::serve(None, directory, Arc::new(handler))
    }

    fn serve(tls: Option<TlsAcceptor>, directory: TempDir, handler: Arc<Handler>) -> Web {
        let listener = block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let address = listener.local_addr().expect("its address");
        let asked = Arc::<Mutex<Vec<Asked>>>::default();
        let (heard, scheme) = (Arc::clone(&asked), if tls.is_some() { "https" } else { "http" });
        let task = runtime().spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, handler, heard) = (tls.clone(), Arc::clone(&handler), Arc::clone(&heard));
                tokio::spawn(async move {
                    match tls {
                        Some(tls) => answer(tls.accept(stream).await?, &*handler, &heard).await,
                        None => answer(stream, &*handler, &heard).await,
                    }
                });
            }
        });
        Web { address, scheme, directory, asked, task }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of a page.
    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    /// The authority of its certificate, for `SSL_CERT_FILE`.
    pub fn authority(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// What was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("no panic").clone()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One request, one answer, and the end.
async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    handler: &Handler,
    heard: &Mutex<Vec<Asked>>,
) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let field = |name: &str| {
        let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with(name));
        line.and_then(|line| line.split_once(": ")).map_or("", |(_, value)| value).to_owned()
    };
    let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let asked = Asked { target, authorization: field("authorization:") };
    heard.lock().expect("no panic").push(asked.clone());
    let Page { status, fields, body, claims } = handler(&asked);
    let mut text = format!("HTTP/1.1 {status} x\r\nconnection: close\r\n");
    for (name, value) in fields {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str(&format!("content-length: {}\r\n\r\n", claims.unwrap_or(body.len() as u64)));
    stream.write_all(&[text.as_bytes(), &body].concat()).await?;
    stream.shutdown().await
}
