//! The operator's endpoints: plain HTTP/1.1 on a listener of its own, served by the control thread.
//!
//! Admin knows no worker: what it shows and does is handed in as closures.

mod answer;
mod gather;
mod readiness;
mod requests;

use std::cell::Cell;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

pub use self::gather::{Heard, gather};
pub use self::readiness::{Readiness, Token};
use crate::telemetry::metrics::Registry;
use crate::telemetry::why::Explanation;

/// Connections that are open at once, beside as many that are about to close. Probes, a scraper or two, and a human. A newer one ends one
/// that is not being answered, so that nobody keeps probes away by saying nothing; if all are, it waits in the listener's queue.
pub const MAX_CONNECTIONS: usize = 64;

/// Bytes of a request's head. Browsers and scrapers send less than 4 KiB.
pub const MAX_HEAD_BYTES: usize = 16 * 1024;

/// How long a request's head may take, and how long a connection may be idle: longer than the usual scrape interval.
pub const HEAD_TIME: Duration = Duration::from_secs(75);

/// How long a connection lives before it is closed after the answer it is at, so that a slow reader holds it for no
/// longer than this and [`CLOSE_TIME`].
pub const CONNECTION_TIME: Duration = Duration::from_secs(600);

/// How long a closing connection may take for the answer it is at.
pub const CLOSE_TIME: Duration = Duration::from_secs(10);

/// How long a worker may take to report before it is shown as stuck. A worker looks at its mailbox between requests, so
/// it answers within milliseconds unless something blocks it.
pub const REPORT_TIME: Duration = Duration::from_secs(1);

/// What the endpoints show and do.
pub struct Admin {
    /// Answers `/ready`.
    pub readiness: Readiness,
    /// Answers `/metrics`.
    pub metrics: Registry,
    /// Answers `/config`: the configuration in use, and the addresses that were bound.
    pub config: Box<Asked>,
    /// Answers `/clusters`.
    pub clusters: Box<Asked>,
    /// Answers `/filters`.
    pub filters: Box<Asked>,
    /// Answers `/generations`.
    pub generations: Box<Asked>,
    /// Answers `/requests` and `/requests/ID`.
    pub requests: Box<Requests>,
    /// Answers `/logging`: sets the levels if there are any, and tells those in use, or what is wrong.
    pub logging: Box<Logging>,
    /// Starts the drain; asked again it does nothing.
    pub drain: Box<dyn Fn()>,
    /// Ends the process at once; returns before that.
    pub quit: Box<dyn Fn()>,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("readiness", &self.readiness).finish_non_exhaustive()
    }
}

/// Changes the log levels, if there are new ones; tells those in use, or what is wrong with the new ones.
pub type Logging = dyn Fn(Option<&str>) -> Result<String, String>;

/// Asks every worker when it is called, if that is needed, and gives the page when they have answered: see [`gather`].
pub type Asked = dyn Fn() -> Pin<Box<dyn Future<Output = Value>>>;

/// Asks every worker for what it knows of the last requests: of those with an id or of all, the newest first, so many
/// at the most.
pub type Requests = dyn Fn(Option<&str>, usize) -> Pin<Box<dyn Future<Output = Vec<Explanation>>>>;

/// Serves the endpoints until the future is dropped; then its connections close at once. To be polled inside a
/// `LocalSet`.
pub async fn serve(admin: Rc<Admin>, listener: TcpListener) {
    // Without an address of its own the listener is not known to be loopback only; the check of hosts is then left out,
    // as it is for any listener that others can reach.
    let loopback = listener.local_addr().is_ok_and(|address| address.ip().to_canonical().is_loopback());
    let mut connections = JoinSet::new();
    let mut open = Open::default();
    loop {
        tokio::select! {
            accepted = listener.accept(), if open.has_room() && connections.len() < 2 * MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn_local(connection(admin.clone(), stream, loopback, open.begin()));
                }
                // A connection that is gone already, or no file descriptors: neither may end the endpoints.
                Err(error) => {
                    tracing::warn!(%error, "admin cannot accept");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
            () = open.answered.notified() => {}
        }
    }
}

/// The connections that are open, the oldest first.
#[derive(Default)]
struct Open {
    all: Vec<Rc<Place>>,
    /// Told when one has been answered.
    answered: Rc<Notify>,
}

/// One of them, until all who serve it have let it go.
struct Place {
    stage: Cell<Stage>,
    answered: Rc<Notify>,
    given_up: Notify,
}

/// How far a connection is; those that are less far make room first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// Nothing was asked on it yet.
    New,
    /// What was asked is answered, which it may still be reading.
    Answered,
    Asked,
}

impl Open {
    fn has_room(&mut self) -> bool {
        self.all.retain(|place| Rc::strong_count(place) > 1);
        self.all.len() < MAX_CONNECTIONS || self.all.iter().any(|place| place.stage.get() != Stage::Asked)
    }

    /// Begins another one, for which there is room.
    fn begin(&mut self) -> Rc<Place> {
        if self.all.len() >= MAX_CONNECTIONS
            && let Some((at, _)) = self.all.iter().enumerate().min_by_key(|(_, place)| place.stage.get())
        {
            self.all.remove(at).given_up.notify_one();
        }
        let (stage, answered) = (Cell::new(Stage::New), Rc::clone(&self.answered));
        let place = Rc::new(Place { stage, answered, given_up: Notify::new() });
        self.all.push(Rc::clone(&place));
        place
    }
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

async fn connection(admin: Rc<Admin>, stream: TcpStream, loopback: bool, place: Rc<Place>) {
    let asked = Rc::clone(&place);
    let service = service_fn(move |request| {
        let (admin, place) = (admin.clone(), asked.clone());
        async move {
            place.stage.set(Stage::Asked);
            let answer = answer::answer(&admin, &request, loopback).await;
            place.stage.set(Stage::Answered);
            place.answered.notify_one();
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = timeout(CONNECTION_TIME, place.given_up.notified()) => match place.stage.get() {
            Stage::New => Ok(()),
            // The answer that it is at may not have left yet.
            Stage::Answered | Stage::Asked => {
                connection.as_mut().graceful_shutdown();
                timeout(CLOSE_TIME, connection).await.unwrap_or(Ok(()))
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "admin connection ended");
    }
}

#[cfg(test)]
mod tests;
