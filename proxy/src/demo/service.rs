//! The two services: alpha asks, delta answers. They know nothing of the mesh but the sidecar's port.

use std::cell::RefCell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::client::Client;
use super::tally::{Question, Tally};

/// The key that delta's filter knows; its SHA-256 is in delta's configuration.
pub(super) const KEY: &str = "open-sesame";

/// Bytes of a request's body that delta takes.
const MAX_BODY: usize = 64 * 1024;

/// How long alpha waits after a request that had no answer.
const PAUSE: Duration = Duration::from_millis(100);

/// One caller: asks delta through the sidecar at `outbound` until there is nothing more to ask.
pub(super) async fn alpha(outbound: SocketAddr, tally: Rc<RefCell<Tally>>, rest: Duration) {
    let mut client = Client::new(outbound);
    loop {
        let Some(question) = tally.borrow_mut().next() else { return };
        let begun = Instant::now();
        let answer = client.ask(question.method(), "/greeting", &fields(&question), question.body()).await;
        let failed = answer.is_err();
        let answer = answer.map(|answer| (answer.status, answer.body)).map_err(|error| error.to_string());
        tally.borrow_mut().answered(&question, answer, begun.elapsed());
        sleep(if failed { PAUSE } else { rest }).await;
    }
}

fn fields(question: &Question) -> Vec<(&'static str, &'static str)> {
    let mut fields = vec![("host", "delta"), ("x-tenant", question.tenant)];
    if question.key {
        fields.push(("x-api-key", KEY));
    }
    if question.canary {
        fields.push(("x-canary", "yes"));
    }
    fields
}

/// The whole of delta: says by which name it was called, and how much it was given.
pub(super) async fn delta(listener: TcpListener, tally: Rc<RefCell<Tally>>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let tally = Rc::clone(&tally);
                    let service = service_fn(move |request| greeting(request, Rc::clone(&tally)));
                    connections.spawn_local(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
                }
                Err(_) => sleep(PAUSE).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn greeting(request: Request<Incoming>, tally: Rc<RefCell<Tally>>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
        return Ok(response);
    };
    let host = text(&head.headers, HOST.as_str());
    tally.borrow_mut().asked(host, caller(text(&head.headers, "x-forwarded-client-cert")));
    Ok(Response::new(Full::from(answer(host, body.to_bytes().len()))))
}

/// What delta says.
pub(super) fn answer(host: &str, bytes: usize) -> String {
    format!("{host}: {bytes} bytes\n")
}

/// The identity that delta's sidecar has verified (Envoy's form of `x-forwarded-client-cert`).
fn caller(forwarded: &str) -> &str {
    forwarded.split(';').find_map(|part| part.strip_prefix("URI=")).unwrap_or("nobody")
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caller_is_the_verified_one() {
        let forwarded = r#"By=spiffe://d/ns/n/sa/delta;Hash=ab;Subject="CN=alpha";URI=spiffe://d/ns/n/sa/alpha"#;
        assert_eq!(caller(forwarded), "spiffe://d/ns/n/sa/alpha");
        assert_eq!(caller(""), "nobody");
    }
}
