//! The h2c side of the application.

use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response, StatusCode};
use tokio::net::TcpStream;

use super::{Seen, Shared, Unread, pattern, route};
use crate::h2c::{fields, send};

/// Streams that one connection may hold: more than any test opens, so that a bound is never the application's.
const STREAMS: u32 = 20_000;

/// Serves a connection to its end.
pub(super) async fn serve(stream: TcpStream, shared: &Arc<Shared>, connection: u64) -> Result<(), h2::Error> {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(STREAMS).initial_window_size(1 << 20).initial_connection_window_size(4 << 20);
    let mut h2 = builder.handshake(stream).await?;
    while let Some(next) = h2.accept().await {
        let (request, respond) = next?;
        let shared = shared.clone();
        // The test ends these with the connection: without it, every send fails.
        tokio::spawn(async move {
            let unread = shared.begin();
            let _ = Exchange::new(&shared, connection, request, respond, unread).run().await;
        });
    }
    Ok(())
}

struct Exchange<'a> {
    shared: &'a Shared,
    body: RecvStream,
    respond: SendResponse<Bytes>,
    seen: Seen,
    unread: Option<Unread<'a>>,
    head_only: bool,
}

impl<'a> Exchange<'a> {
    fn new(
        shared: &'a Shared,
        connection: u64,
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
        unread: Unread<'a>,
    ) -> Exchange<'a> {
        let (head, body) = request.into_parts();
        let mut all = vec![
            (":authority".to_owned(), head.uri.authority().map_or_else(String::new, ToString::to_string)),
            (":scheme".to_owned(), head.uri.scheme_str().unwrap_or_default().to_owned()),
        ];
        all.extend(fields(&head.headers));
        let seen = Seen {
            connection,
            method: head.method.to_string(),
            target: head.uri.path_and_query().map_or_else(String::new, ToString::to_string),
            version: "HTTP/2".to_owned(),
            fields: all,
            length: 0,
            chunked: false,
            trailers: Vec::new(),
        };
        let head_only = head.method == http::Method::HEAD;
        Exchange { shared, body, respond, seen, unread: Some(unread), head_only }
    }

    async fn run(mut self) -> Result<(), h2::Error> {
        let target = self.seen.target.clone();
        let (name, argument) = route(&target);
        let number = || argument.parse::<u64>().unwrap_or(0);
        match name {
            "echo" => {
                let mut body = Vec::new();
                self.read(|bytes| body.extend_from_slice(bytes)).await?;
                let json = self.seen.json(&body).to_string();
                self.answer(200, json.into()).await
            }
            "back" => {
                let mut body = Vec::new();
                self.read(|bytes| body.extend_from_slice(bytes)).await?;
                self.answer(200, body.into()).await
            }
            "mirror" => self.mirror().await,
            "bytes" | "chunked" => self.pattern(number(), name == "bytes").await,
            "drain" => {
                self.read(|_| {}).await?;
                self.answer(200, self.seen.length.to_string().into()).await
            }
            "trailers" => {
                self.read(|_| {}).await?;
                let mut stream = self.start(200, &[], false)?;
                send(&mut stream, Bytes::from_static(b"hello"), false).await?;
                stream.send_trailers(map(&[("x-checksum", "abc"), ("x-count", "5")]))
            }
            "grpc" => {
                self.read(|_| {}).await?;
                let mut stream = self.start(200, &[("content-type", "application/grpc")], false)?;
                send(&mut stream, Bytes::from_static(b"\0\0\0\0\x02hi"), false).await?;
                stream.send_trailers(map(&[("grpc-status", argument), ("grpc-message", "said so")]))
            }
            "grpc-refused" => {
                self.read(|_| {}).await?;
                let said =
                    [("content-type", "application/grpc"), ("grpc-status", argument), ("grpc-message", "said%20so")];
                self.start(200, &said, true).map(drop)
            }
            "status" => {
                self.read(|_| {}).await?;
                let code = u16::try_from(number()).unwrap_or(500);
                let body = if code == 204 || code == 304 { Bytes::new() } else { Bytes::from_static(b"status") };
                self.answer(code, body).await
            }
            "hints" => {
                self.read(|_| {}).await?;
                let mut hints = Response::new(());
                *hints.status_mut() = StatusCode::EARLY_HINTS;
                *hints.headers_mut() = map(&[("link", "</style.css>; rel=preload")]);
                self.respond.send_informational(hints)?;
                self.answer(200, Bytes::from_static(b"hinted")).await
            }
            "early" => {
                self.answer(200, Bytes::from_static(b"early")).await?;
                self.read(|_| {}).await
            }
            "hold" => {
                self.read(|_| {}).await?;
                self.held().await?;
                self.answer(200, Bytes::from_static(b"held")).await
            }
            "stall" => {
                self.held().await?;
                self.read(|_| {}).await?;
                self.answer(200, self.seen.length.to_string().into()).await
            }
            "drip" => {
                self.read(|_| {}).await?;
                let mut stream = self.start(200, &[], false)?;
                send(&mut stream, Bytes::from_static(b"first"), false).await?;
                self.held_stream(&mut stream).await?;
                send(&mut stream, Bytes::from_static(b"second"), true).await
            }
            "silent" => {
                self.read(|_| {}).await?;
                let _held = self.shared.hold();
                poll_fn(|cx| self.respond.poll_reset(cx)).await.map(|_| ())
            }
            "truncate" | "truncate-chunked" | "reset" | "tear" => {
                self.read(|_| {}).await?;
                let mut stream = self.start(200, &[("content-length", "100")], false)?;
                send(&mut stream, Bytes::from_static(&[b'x'; 50]), false).await?;
                if name == "tear" {
                    self.held_stream(&mut stream).await?;
                }
                stream.send_reset(Reason::INTERNAL_ERROR);
                Ok(())
            }
            "abort" => {
                self.read(|_| {}).await?;
                self.respond.send_reset(Reason::INTERNAL_ERROR);
                Ok(())
            }
            _ => {
                self.read(|_| {}).await?;
                self.answer(404, Bytes::from_static(b"no such route")).await
            }
        }
    }

    fn start(&mut self, status: u16, more: &[(&str, &str)], end: bool) -> Result<SendStream<Bytes>, h2::Error> {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
        *response.headers_mut() = map(more);
        response.headers_mut().extend(map(&[("x-app", &self.shared.name)]));
        self.respond.send_response(response, end)
    }

    /// Counts as held until the test lets go, or the caller goes away; before the head of the answer.
    async fn held(&mut self) -> Result<(), h2::Error> {
        let _held = self.shared.hold();
        tokio::select! {
            () = self.shared.released() => Ok(()),
            reset = poll_fn(|cx| self.respond.poll_reset(cx)) => Err(reset?.into()),
        }
    }

    /// The same after the head.
    async fn held_stream(&self, stream: &mut SendStream<Bytes>) -> Result<(), h2::Error> {
        let _held = self.shared.hold();
        tokio::select! {
            () = self.shared.released() => Ok(()),
            reset = poll_fn(|cx| stream.poll_reset(cx)) => Err(reset?.into()),
        }
    }

    async fn answer(&mut self, status: u16, body: Bytes) -> Result<(), h2::Error> {
        let length = body.len().to_string();
        let sized = [("content-length", length.as_str())];
        // A length of a 204 would be wrong (RFC 9110 section 8.6), of a 304 untrue.
        let more: &[(&str, &str)] = if status == 204 || status == 304 { &[] } else { &sized };
        let end = self.head_only || body.is_empty();
        let mut stream = self.start(status, more, end)?;
        if end { Ok(()) } else { send(&mut stream, body, true).await }
    }

    async fn read(&mut self, mut take: impl FnMut(&[u8])) -> Result<(), h2::Error> {
        while let Some(bytes) = self.body.data().await {
            let bytes = bytes?;
            self.body.flow_control().release_capacity(bytes.len())?;
            self.seen.length += bytes.len() as u64;
            take(&bytes);
        }
        self.seen.trailers = self.body.trailers().await?.as_ref().map(fields).unwrap_or_default();
        self.note();
        Ok(())
    }

    /// The request was read to its end.
    fn note(&mut self) {
        if let Some(unread) = self.unread.take() {
            unread.see(self.seen.clone());
        }
    }

    async fn mirror(&mut self) -> Result<(), h2::Error> {
        let mut stream = self.start(200, &[], false)?;
        while let Some(bytes) = self.body.data().await {
            let bytes = bytes?;
            self.body.flow_control().release_capacity(bytes.len())?;
            self.seen.length += bytes.len() as u64;
            send(&mut stream, bytes, false).await?;
        }
        let trailers = self.body.trailers().await?;
        self.seen.trailers = trailers.as_ref().map(fields).unwrap_or_default();
        self.note();
        match trailers {
            Some(trailers) => stream.send_trailers(trailers),
            None => send(&mut stream, Bytes::new(), true).await,
        }
    }

    async fn pattern(&mut self, length: u64, sized: bool) -> Result<(), h2::Error> {
        self.read(|_| {}).await?;
        let text = length.to_string();
        let more = [("content-length", text.as_str())];
        let end = self.head_only || length == 0;
        let mut stream = self.start(200, if sized { &more } else { &[] }, end)?;
        let mut sent = 0;
        while sent < length && !end {
            let piece = pattern(sent, usize::try_from(length - sent).unwrap_or(usize::MAX).min(64 * 1024));
            sent += piece.len() as u64;
            send(&mut stream, piece, sent == length).await?;
        }
        Ok(())
    }
}

fn map(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        let name: http::HeaderName = name.parse().expect("a field name");
        map.append(name, value.parse().expect("a field value"));
    }
    map
}
