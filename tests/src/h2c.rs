//! HTTP/2 with prior knowledge, in the hands of the h2 crate.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::task::Poll;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};
use tokio::net::TcpStream;

use crate::wire::Fields;

/// An h2c connection. Clones are the same connection.
#[derive(Clone, Debug)]
pub struct H2c {
    send: SendRequest<Bytes>,
}

/// A whole answer over h2c.
#[derive(Clone, Debug)]
pub struct H2Response {
    /// The status.
    pub status: u16,
    /// Statuses below 200 that came first.
    pub informational: Vec<u16>,
    /// The header section.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// The trailers.
    pub trailers: HeaderMap,
}

impl H2Response {
    /// The first value of a header field, as text.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }

    /// The first value of a trailer field, as text.
    pub fn trailer(&self, name: &str) -> Option<&str> {
        self.trailers.get(name).and_then(|v| v.to_str().ok())
    }
}

impl H2c {
    /// Connects, and waits for the peer's settings.
    pub async fn open(address: SocketAddr) -> io::Result<H2c> {
        let stream = TcpStream::connect(address).await?;
        let _ = stream.set_nodelay(true);
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(1 << 20).initial_connection_window_size(4 << 20).initial_max_send_streams(1);
        let (send, connection) = builder.handshake(stream).await.map_err(io::Error::other)?;
        tokio::spawn(async move {
            // Its error is every stream's error.
            let _ = connection.await;
        });
        Ok(H2c { send })
    }

    /// Begins a request.
    pub async fn begin(
        &self,
        request: Request<()>,
        end: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        let mut send = self.send.clone().ready().await?;
        send.send_request(request, end)
    }

    /// Sends a request with its whole body and trailers, and reads the whole answer.
    pub async fn request(
        &self,
        request: Request<()>,
        body: Bytes,
        trailers: Option<HeaderMap>,
    ) -> Result<H2Response, h2::Error> {
        let end = body.is_empty() && trailers.is_none();
        let (response, mut stream) = self.begin(request, end).await?;
        let upload = async {
            if end {
                return;
            }
            // A server may answer before it has read everything; its answer is what counts.
            if !body.is_empty() && send(&mut stream, body, trailers.is_none()).await.is_err() {
                return;
            }
            if let Some(trailers) = trailers {
                let _ = stream.send_trailers(trailers);
            }
        };
        let ((), answer) = tokio::join!(upload, whole(response));
        answer
    }
}

/// Reads a whole answer.
pub async fn whole(mut response: ResponseFuture) -> Result<H2Response, h2::Error> {
    let mut informational = Vec::new();
    let head = poll_fn(|cx| {
        while let Poll::Ready(Some(head)) = response.poll_informational(cx)? {
            informational.push(head.status().as_u16());
        }
        pin!(&mut response).poll(cx)
    });
    let (head, mut body) = head.await?.into_parts();
    let (bytes, trailers) = collect(&mut body).await?;
    Ok(H2Response { status: head.status.as_u16(), informational, headers: head.headers, body: bytes, trailers })
}

/// Reads a body to its end.
pub async fn collect(body: &mut RecvStream) -> Result<(Bytes, HeaderMap), h2::Error> {
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        bytes.extend_from_slice(&data);
    }
    Ok((bytes.into(), body.trailers().await?.unwrap_or_default()))
}

/// Sends data within what the peer's window allows.
pub async fn send(stream: &mut SendStream<Bytes>, mut data: Bytes, end: bool) -> Result<(), h2::Error> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let room = loop {
            match poll_fn(|cx| stream.poll_capacity(cx)).await {
                Some(Ok(0)) => {}
                Some(Ok(room)) => break room,
                Some(Err(error)) => return Err(error),
                None => return Err(h2::Reason::CANCEL.into()),
            }
        };
        let piece = data.split_to(room.min(data.len()));
        let last = end && data.is_empty();
        stream.send_data(piece, last)?;
        if last {
            return Ok(());
        }
    }
    if end { stream.send_data(Bytes::new(), true) } else { Ok(()) }
}

/// A header map as pairs.
pub(crate) fn fields(map: &HeaderMap) -> Fields {
    map.iter().map(|(n, v)| (n.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned())).collect()
}
