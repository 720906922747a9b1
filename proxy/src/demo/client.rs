//! A client of HTTP/1.1 as an application has one: a connection that is kept, one request at a time.

use std::io::{Error, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::header::HOST;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio::time::timeout;

/// How long an answer may take: longer than the sidecar waits, so that its answer is what one sees.
const PATIENCE: Duration = Duration::from_secs(20);

/// Bytes of an answer's body. The longest is what a sidecar has to say of a thousand requests: some kilobytes of each,
/// and a hundred of one that has tried everything.
const MAX_BODY: usize = 256 << 20;

/// Asks one server.
#[derive(Debug)]
pub(crate) struct Client {
    address: SocketAddr,
    idle: Option<SendRequest<Full<Bytes>>>,
}

/// What it said.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Client { address, idle: None }
    }

    /// Where it asks.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// One request and its answer; `host` is the server's address unless `fields` has another.
    ///
    /// # Errors
    /// If there was no answer in time, or none of text.
    pub(crate) async fn ask(
        &mut self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: &'static [u8],
    ) -> std::io::Result<Answer> {
        let mut request = Request::builder().method(method).uri(path);
        if !fields.iter().any(|(name, _)| *name == HOST) {
            request = request.header(HOST, self.address.to_string());
        }
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::from(body)).map_err(Error::other)?;
        timeout(PATIENCE, self.exchange(request)).await.map_err(|_| Error::from(ErrorKind::TimedOut))?
    }

    /// The connection is kept only after a whole answer.
    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> std::io::Result<Answer> {
        let mut connection = match self.idle.take().filter(SendRequest::is_ready) {
            Some(connection) => connection,
            None => {
                let stream = TcpStream::connect(self.address).await?;
                let (connection, driver) = handshake(TokioIo::new(stream)).await.map_err(Error::other)?;
                // Ends with the connection, that is when this client is dropped; what went wrong is the request's error.
                spawn_local(driver);
                connection
            }
        };
        let answer = connection.send_request(request).await.map_err(Error::other)?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), MAX_BODY).collect().await.map_err(Error::other)?.to_bytes();
        let body = String::from_utf8(body.into()).map_err(Error::other)?;
        if connection.ready().await.is_ok() {
            self.idle = Some(connection);
        }
        Ok(Answer { status, body })
    }
}
