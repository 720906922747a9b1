//! HTTP/3 over loopback: our two sides against each other, and each against a peer that is made by hand.

mod client;
mod exchange;
mod limits;
mod server;

use std::cell::RefCell;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use http::uri::{Authority, PathAndQuery};
use quinn::VarInt;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::task::LocalSet;

use super::{Link, serve};
use crate::drain::Drain;
use crate::fault::{Fault, Reason};
use crate::http::body::{Body, Frame, Half};
use crate::http::head::Version;
use crate::http::{Fields, Interim, Request, RequestHead, Response, ResponseHead, Service};
use crate::net::quic;

/// Frames and sections by hand. All indexes are of the static table.
const SETTINGS: &[u8] = &[0x00, 0x04, 0x00];
const GET: &[u8] = &[0xd1, 0xd7, 0xc1, 0x50, 0x01, b'a'];
const POST: &[u8] = &[0xd4, 0xd7, 0xc1, 0x50, 0x01, b'a'];
const OK: &[u8] = &[0xd9];

/// A HEADERS frame with these lines.
fn headers(lines: &[&[u8]]) -> Vec<u8> {
    frame(1, &[&[0, 0], &lines.concat()[..]].concat())
}

/// A frame of a type below 64.
fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = announce(kind, payload.len());
    frame.extend_from_slice(payload);
    frame
}

/// The type and length of a frame.
fn announce(kind: u8, length: usize) -> Vec<u8> {
    [&[kind][..], &(length as u32 | 0x8000_0000).to_be_bytes()].concat()
}

/// A literal line.
fn line(name: &str, value: &str) -> Vec<u8> {
    let length = |prefix: u8, mask: usize, length: usize| match length.checked_sub(mask) {
        None => vec![prefix | length as u8],
        Some(more) if more < 128 => vec![prefix | mask as u8, more as u8],
        Some(more) => {
            vec![prefix | mask as u8, more as u8 | 0x80, (more >> 7) as u8 | 0x80, (more >> 14) as u8]
        }
    };
    [&length(0x20, 7, name.len())[..], name.as_bytes(), &length(0, 127, value.len()), value.as_bytes()].concat()
}

fn code(code: super::code::Code) -> VarInt {
    code.into()
}

/// Runs a test as a worker would.
fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(std::time::Duration::from_secs(60), test).await.expect("the test hangs")
    })
}

/// What a connection was closed with; the test gives its end. On a busy machine it is run again: who has forgotten a connection,
/// three probe timeouts after its end, answers what still comes with a stateless reset, and quinn lets one that it reads
/// together with the CONNECTION_CLOSE before it stand for both.
fn closed_with(what: &str, test: impl AsyncFn() -> quinn::ConnectionError) -> VarInt {
    loop {
        match run(test()) {
            quinn::ConnectionError::ApplicationClosed(close) => return close.error_code,
            quinn::ConnectionError::Reset => {}
            error => panic!("{what}: {error:?}"),
        }
    }
}

/// A certificate of its own authority, for `localhost`.
struct Certificate {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Certificate {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        Certificate { chain: vec![made.cert.der().clone()], key }
    }

    fn roots(&self) -> Arc<rustls::RootCertStore> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.chain[0].clone()).unwrap();
        Arc::new(roots)
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Where both ends of a test live.
struct Net {
    server: quinn::Endpoint,
    client: quinn::Endpoint,
    config: quinn::ClientConfig,
    drain: Drain,
    noted: Rc<RefCell<Vec<Reason>>>,
}

impl Net {
    fn new() -> Self {
        let certificate = Certificate::new();
        let roots = certificate.roots();
        let server = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(certificate.chain, certificate.key)
            .unwrap();
        Net::with(server, roots)
    }

    fn with(mut server: rustls::ServerConfig, roots: Arc<rustls::RootCertStore>) -> Self {
        server.alpn_protocols = vec![b"h3".to_vec()];
        let mut client = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.alpn_protocols = vec![b"h3".to_vec()];
        let socket = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        Net {
            server: quic::endpoint(socket(), Some(quic::server(Arc::new(server)).unwrap()), None).unwrap(),
            client: quic::endpoint(socket(), None, None).unwrap(),
            config: quic::client(Arc::new(client)).unwrap(),
            drain: Drain::default(),
            noted: Rc::default(),
        }
    }

    fn address(&self) -> SocketAddr {
        self.server.local_addr().unwrap()
    }

    /// Serves one connection.
    fn serve<F: Future<Output = Response> + 'static>(&self, service: impl Fn(Request) -> F + 'static) {
        let (endpoint, drain, noted) = (self.server.clone(), self.drain.clone(), Rc::clone(&self.noted));
        tokio::task::spawn_local(async move {
            let connection = quic::admit(endpoint.accept().await.unwrap(), 0).unwrap().await.unwrap();
            serve(connection, Rc::new(Handler(service, noted)), drain).await;
        });
    }

    async fn try_connect(&self) -> Result<Link, Fault> {
        let (config, guard) = (self.config.clone(), Drain::default().guard());
        Link::connect(&self.client, config, self.address(), "localhost", None, guard).await
    }

    async fn connect(&self) -> Link {
        self.try_connect().await.unwrap()
    }

    /// A server by hand, and a link to it. The stream is the server's control stream, SETTINGS sent.
    async fn raw_server(&self) -> (Link, quinn::Connection, quinn::SendStream) {
        let accept = async {
            let connection = self.server.accept().await.unwrap().await.unwrap();
            let mut control = connection.open_uni().await.unwrap();
            control.write_all(SETTINGS).await.unwrap();
            (connection, control)
        };
        let (link, (connection, control)) = tokio::join!(self.connect(), accept);
        (link, connection, control)
    }

    /// A client by hand.
    async fn raw_client(&self) -> quinn::Connection {
        let connecting = self.client.connect_with(self.config.clone(), self.address(), "localhost").unwrap();
        let connection = connecting.await.unwrap();
        let mut control = connection.open_uni().await.unwrap();
        control.write_all(SETTINGS).await.unwrap();
        // Kept open to the end of the test: it is a critical stream.
        tokio::task::spawn_local({
            let connection = connection.clone();
            async move {
                connection.closed().await;
                drop(control);
            }
        });
        connection
    }
}

/// Answers requests, and takes note of those that were reset.
struct Handler<F>(F, Rc<RefCell<Vec<Reason>>>);

impl<F: Fn(Request) -> R + 'static, R: Future<Output = Response> + 'static> Service for Handler<F> {
    fn call(self: Rc<Self>, request: Request) -> impl Future<Output = Response> + 'static {
        (self.0)(request)
    }

    fn refuse(&self, fault: Fault) -> Response {
        response(fault.reason.row().status, Body::empty(Half::Response))
    }

    fn reset(&self, fault: Fault) {
        self.1.borrow_mut().push(fault.reason);
    }
}

fn request(method: Method, body: Body) -> Request {
    let head = RequestHead {
        method,
        authority: Some(Authority::from_static("a")),
        path: PathAndQuery::from_static("/path?query"),
        https: true,
        headers: Fields::new(),
        version: Version::Http11,
        upgrade: None,
    };
    Request { head: head.into(), body, interim: Rc::new(Interim::default()) }
}

fn get() -> Request {
    request(Method::GET, Body::empty(Half::Request))
}

fn response(status: u16, body: Body) -> Response {
    Response { head: ResponseHead::new(status.try_into().unwrap()).into(), body }
}

fn text(text: &'static str) -> Body {
    Body::bytes(Half::Response, Bytes::from_static(text.as_bytes()))
}

/// All of a body.
async fn read(body: &mut Body) -> Result<(Vec<u8>, Option<Fields>), Fault> {
    let mut content = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame? {
            Frame::Data(data) => content.extend_from_slice(&data),
            Frame::Trailers(trailers) => return Ok((content, Some(trailers))),
        }
    }
    Ok((content, None))
}

/// Turns a request of the server side into one of the client side, as a hop does, or a fault into a status.
async fn forward(link: Link, request: Request) -> Response {
    match link.send(request).await {
        Ok(response) => response,
        Err(fault) => response(fault.reason.row().status, Body::empty(Half::Response)),
    }
}
