//! Getting what lies at a URL: HTTP/1.1, one connection for each request, everything bounded.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::uri::{Authority, Scheme, Uri};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::super::MODULE_MAX;
use crate::config::is_loopback;
use crate::tls::web::{self, Web};

/// Redirects that are followed for one request: registries send blobs to a store of theirs, with one or two.
const REDIRECTS: u32 = 5;

/// How long a connection may take to open, of the time of an attempt: an address that does not answer must leave time for
/// the next one of the same name.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// Gets files over HTTPS.
pub(super) struct Client {
    /// Or why there is no HTTPS here.
    web: Result<Web, String>,
}

/// Why something could not be fetched.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) why: String,
    /// Whether the same may work a moment later.
    pub(super) passes: bool,
    /// Nobody speaks TLS there.
    pub(super) no_tls: bool,
}

impl Trouble {
    /// What may be over soon.
    pub(super) fn passing(why: impl Into<String>) -> Self {
        Trouble { why: why.into(), passes: true, no_tls: false }
    }

    /// What somebody must repair.
    pub(super) fn lasting(why: impl Into<String>) -> Self {
        Trouble { why: why.into(), passes: false, no_tls: false }
    }

    /// An answer that is not the wanted one.
    pub(super) fn answered(uri: &Uri, status: StatusCode) -> Self {
        let why = format!("{uri} answers {status}");
        let passes = status.is_server_error()
            || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS | StatusCode::TOO_EARLY);
        if passes { Trouble::passing(why) } else { Trouble::lasting(why) }
    }
}

/// An answer with all of its body.
pub(super) struct Answer {
    /// Who gave it, after redirects.
    pub(super) from: Option<Authority>,
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

/// What is asked.
pub(super) struct Ask<'a> {
    pub(super) uri: &'a Uri,
    /// Media types that are understood.
    pub(super) accept: &'static str,
    pub(super) authorization: Option<&'a HeaderValue>,
    /// Largest body.
    pub(super) most: u64,
}

impl Client {
    pub(super) fn new() -> Client {
        Client { web: Web::open() }
    }

    /// A module, or an archive with one.
    pub(super) async fn file(&self, uri: &Uri) -> Result<Vec<u8>, Trouble> {
        let ask = Ask { uri, accept: "*/*", authorization: None, most: MODULE_MAX };
        match self.get(ask).await? {
            Answer { status: StatusCode::OK, body, .. } => Ok(body),
            Answer { status, .. } => Err(Trouble::answered(uri, status)),
        }
    }

    /// Asks, and follows where it is sent; credentials are for the first server only.
    pub(super) async fn get(&self, ask: Ask<'_>) -> Result<Answer, Trouble> {
        let Ask { uri, accept, mut authorization, most } = ask;
        let mut uri = uri.clone();
        for _ in 0..=REDIRECTS {
            let (parts, body) = self.once(&uri, accept, authorization).await?.into_parts();
            let redirect = matches!(parts.status.as_u16(), 301 | 302 | 303 | 307 | 308);
            if !redirect {
                let body = read(body, &uri, most).await?;
                return Ok(Answer {
                    from: uri.authority().cloned(),
                    status: parts.status,
                    headers: parts.headers,
                    body,
                });
            }
            let next = location(&uri, parts.headers.get(header::LOCATION)).map_err(Trouble::lasting)?;
            if next.authority() != uri.authority() {
                authorization = None;
            }
            uri = next;
        }
        Err(Trouble::lasting(format!("more than {REDIRECTS} redirects, the last to {}", told(&uri))))
    }

    async fn once(
        &self,
        uri: &Uri,
        accept: &'static str,
        authorization: Option<&HeaderValue>,
    ) -> Result<http::Response<Incoming>, Trouble> {
        let authority = uri.authority().ok_or_else(|| Trouble::lasting(format!("{uri} has no host")))?;
        let tls = uri.scheme() == Some(&Scheme::HTTPS);
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let cannot = |error: io::Error| Trouble::passing(format!("cannot reach {authority}: {error}"));
        let late = |_| Trouble::passing(format!("{authority} does not answer a TLS handshake within {CONNECT_TIME:?}"));
        let stream = connect(host, port).await.map_err(cannot)?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::get(path)
            .header(header::HOST, authority.as_str())
            .header(header::ACCEPT, accept)
            .header(header::USER_AGENT, concat!("lacis/", env!("CARGO_PKG_VERSION")));
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let request = request.body(Empty::new()).map_err(|error| Trouble::lasting(format!("{uri}: {error}")))?;
        if !tls {
            return send(authority, stream, request).await;
        }
        let client = self.web.as_ref().map_err(|why| Trouble::lasting(why.clone()))?;
        let stream = timeout(CONNECT_TIME, client.connect(host, stream)).await.map_err(late)?;
        let refused = |error: io::Error| Trouble::passing(web::refusal(authority.as_str(), &error));
        let stream = stream.map_err(|error| Trouble { no_tls: web::is_no_tls(&error), ..refused(error) })?;
        send(authority, stream, request).await
    }
}

/// The first of a host's addresses that answers.
async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in tokio::net::lookup_host((host, port)).await? {
        match timeout(CONNECT_TIME, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, format!("{address} does not answer")),
        }
    }
    Err(last)
}

async fn send(
    authority: &Authority,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Empty<Bytes>>,
) -> Result<http::Response<Incoming>, Trouble> {
    let broke = |error: hyper::Error| Trouble::passing(format!("the connection to {authority} broke: {error}"));
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broke)?;
    // Ends with the body, or when that is dropped; what went wrong is told there.
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(broke)
}

async fn read(mut body: Incoming, uri: &Uri, most: u64) -> Result<Vec<u8>, Trouble> {
    let too_large = || Trouble::lasting(format!("what {} answers is larger than {most} bytes", told(uri)));
    if body.size_hint().lower() > most {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| Trouble::passing(format!("the answer of {} broke off: {error}", told(uri))))?;
        let Ok(data) = frame.into_data() else { continue };
        if (bytes.len() + data.len()) as u64 > most {
            return Err(too_large());
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

/// Where a redirect leads: anywhere with TLS, from there never to where there is none.
fn location(from: &Uri, location: Option<&HeaderValue>) -> Result<Uri, String> {
    let text =
        location.and_then(|value| value.to_str().ok()).ok_or_else(|| format!("{} redirects nowhere", told(from)))?;
    let wrong = || {
        let text = text.split('?').next().unwrap_or_default();
        format!("{} redirects to {text}, which is no URL that is understood", told(from))
    };
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    let mut parts = uri.into_parts();
    if parts.scheme.is_none() {
        if parts.authority.is_some() || !text.starts_with('/') || text.starts_with("//") {
            return Err(wrong());
        }
        (parts.scheme, parts.authority) = (from.scheme().cloned(), from.authority().cloned());
    }
    let uri = Uri::from_parts(parts).map_err(|_| wrong())?;
    let local = |uri: &Uri| uri.scheme() == Some(&Scheme::HTTP) && uri.host().is_some_and(is_loopback);
    if uri.scheme() == Some(&Scheme::HTTPS) || local(from) && local(&uri) {
        Ok(uri)
    } else {
        Err(format!("{} redirects to {}; only https:// is followed", told(from), told(&uri)))
    }
}

/// A URL as it is told to logs and pages: in the query of a store's there may be a signature, which lets in whoever knows it.
fn told(uri: &Uri) -> String {
    let text = uri.to_string();
    text.split_once('?').map_or_else(|| text.clone(), |(before, _)| format!("{before}?…"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_stay_with_tls() {
        let next = |from: &'static str, to: &'static str| {
            location(&Uri::from_static(from), Some(&HeaderValue::from_static(to))).map(|uri| uri.to_string())
        };
        assert_eq!(next("https://a:8/x?y", "/b?c"), Ok("https://a:8/b?c".into()));
        assert_eq!(next("https://a/x", "https://b/y"), Ok("https://b/y".into()));
        assert_eq!(next("http://localhost:1/x", "https://b/y"), Ok("https://b/y".into()));
        assert_eq!(next("http://localhost:1/x", "http://127.0.0.1:2/y"), Ok("http://127.0.0.1:2/y".into()));
        for (from, to) in [
            ("https://a/x", "http://a/y"),
            ("https://a/x", "http://localhost/y"),
            ("http://localhost/x", "http://a/y"),
            ("https://a/x", "file:///etc/passwd"),
            ("https://a/x", "y"),
            ("https://a/x", "//b/y"),
            ("https://a/x", ""),
        ] {
            assert!(next(from, to).is_err(), "{from} to {to}: {:?}", next(from, to));
        }
        assert!(location(&Uri::from_static("https://a/"), None).is_err());
    }

    #[test]
    fn signatures_are_not_told() {
        let from = Uri::from_static("https://store/blob?signature=hunter2");
        for to in ["http://other/blob?signature=hunter2", "y?signature=hunter2"] {
            let why = location(&from, Some(&HeaderValue::from_static(to))).unwrap_err();
            assert!(why.starts_with("https://store/blob?… redirects to ") && !why.contains("hunter2"), "{why}");
        }
        assert_eq!(told(&Uri::from_static("https://a/b")), "https://a/b");
    }

    #[test]
    fn what_may_pass_is_tried_again() {
        let uri = Uri::from_static("https://a/");
        let passes = |status| Trouble::answered(&uri, StatusCode::from_u16(status).unwrap()).passes;
        assert!([500, 502, 503, 504, 408, 429].into_iter().all(passes));
        assert!(![400, 401, 403, 404, 410].into_iter().any(passes));
    }
}
