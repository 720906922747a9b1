//! The services that `lacis filter run` puts behind a filter: each answers with what it was sent.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

/// Bytes of a request's body that are echoed; one that is longer is answered 413.
const MAX_BODY: usize = 1 << 20;

/// How long to wait when no connection can be accepted, as when there are no descriptors left.
const PAUSE: Duration = Duration::from_millis(100);

/// Services by their names, each with a port of its own on this machine.
pub(super) struct Echo {
    services: Vec<(String, TcpListener)>,
}

impl Echo {
    /// Binds a port for each.
    pub(super) fn bind(names: impl IntoIterator<Item = String>) -> io::Result<Echo> {
        let bind = |name| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            listener.set_nonblocking(true)?;
            Ok((name, listener))
        };
        Ok(Echo { services: names.into_iter().map(bind).collect::<io::Result<_>>()? })
    }

    /// Where they are.
    pub(super) fn addresses(&self) -> io::Result<Vec<(String, SocketAddr)>> {
        self.services.iter().map(|(name, listener)| Ok((name.clone(), listener.local_addr()?))).collect()
    }

    /// Answers, on a thread of its own, until the process ends.
    pub(super) fn start(self) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let serve = async move {
            let mut services = tokio::task::JoinSet::new();
            for (name, listener) in self.services {
                services.spawn_local(serve(name, listener));
            }
            while services.join_next().await.is_some() {}
        };
        let body = move || tokio::task::LocalSet::new().block_on(&runtime, serve);
        thread::Builder::new().name("echo".into()).spawn(body).map(drop)
    }
}

async fn serve(name: String, listener: TcpListener) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(service = name, %error, "no echo"),
    };
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let name = name.clone();
        let service = service_fn(move |request| echo(name.clone(), request));
        tokio::task::spawn_local(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn echo(name: String, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
        return Ok(response);
    };
    let mut text = format!("{name}: {} {} {:?}\n", head.method, head.uri, head.version);
    for (field, value) in &head.headers {
        let written = writeln!(text, "{field}: {}", String::from_utf8_lossy(value.as_bytes()));
        debug_assert!(written.is_ok(), "a string takes everything");
    }
    let trailers = body.trailers().cloned();
    let body = body.to_bytes();
    if !body.is_empty() {
        text.push('\n');
    }
    let mut answer = text.into_bytes();
    answer.extend_from_slice(&body);
    for (field, value) in trailers.iter().flatten() {
        answer.extend_from_slice(format!("\n{field}: ").as_bytes());
        answer.extend_from_slice(value.as_bytes());
    }
    Ok(Response::new(Full::from(answer)))
}
