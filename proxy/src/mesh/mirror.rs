//! Copies of requests: sent to another service, and what comes of them is of no matter to the request.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use http::header;

use super::generation::Generation;
use super::hop::Hop;
use crate::cluster::Cluster;
use crate::cluster::replay::Replay;
use crate::config::fault::Mirror;
use crate::fault::Fault;
use crate::http::body::{Frame, Half, Length};
use crate::http::{Body, Request};
use crate::telemetry::labels::Mirrored;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::trail::Trail;
use crate::telemetry::why::What;

/// Copies under way in one worker. A service that is slow to answer copies must not gather them: each holds a body. So
/// many at 64 KiB are 16 MiB.
pub const MAX_MIRRORS: usize = 256;

/// How long a copy may take where its service has no `timeouts.request`.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes of an answer that are read, so that its connection can be used again.
const ANSWER_BYTES: usize = 64 * 1024;

/// Copies that are under way.
#[derive(Debug, Default)]
pub struct Mirrors(Rc<Cell<usize>>);

/// One of them.
#[derive(Debug)]
struct Under(Rc<Cell<usize>>);

impl Mirrors {
    fn begin(&self) -> Option<Under> {
        let now = self.0.get();
        (now < MAX_MIRRORS).then(|| {
            self.0.set(now + 1);
            Under(Rc::clone(&self.0))
        })
    }
}

impl Drop for Under {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// Has a request copied to those services that its share is for. A copy leaves when the request was read to its end: the
/// request waits for none, and one that is refused here is not copied.
pub(super) fn copies(hop: &Hop, generation: &Generation, mirrors: &[Mirror], trail: &Trail, request: &mut Request) {
    if request.body.length() == Length::Tunnel || request.head.upgrade.is_some() {
        return;
    }
    let met = |mirror: &&Mirror| mirror.portion.meets(|below| hop.chance.borrow_mut().u32(..below));
    let cluster = |mirror: &Mirror| generation.service(mirror.service).map(|service| Rc::clone(&service.cluster));
    let clusters: Vec<Rc<Cluster>> = mirrors.iter().filter(met).filter_map(cluster).collect();
    let Some(room) = clusters.iter().map(|cluster| cluster.replay_room()).max() else { return };
    let metrics = Rc::clone(&hop.ledger.metrics);
    let mut copies = Vec::new();
    for cluster in clusters {
        trail.note(|own| What::Mirrored(own.text(cluster.name())));
        let Some(under) = hop.mirrors.begin() else {
            metrics.mirrored(cluster.id(), Mirrored::Refused);
            continue;
        };
        let mut head = request.head.share();
        if head.headers.contains_key(header::EXPECT) {
            head.headers.remove(header::EXPECT);
        }
        let (body, interim) = (Body::empty(Half::Request), Rc::default());
        copies.push((cluster, Request { head, body, interim }, under));
    }
    if copies.is_empty() {
        return;
    }
    if request.body.is_end() {
        for (cluster, copy, under) in copies {
            send(cluster, copy, under, Rc::clone(&metrics));
        }
        return;
    }
    let replay = Replay::new(std::mem::replace(&mut request.body, Body::empty(Half::Request)), room);
    replay.when_read(move |replay| {
        for (cluster, copy, under) in copies {
            match replay {
                Some(replay) => send(cluster, Request { body: replay.take(), ..copy }, under, Rc::clone(&metrics)),
                None => metrics.mirrored(cluster.id(), Mirrored::TooLarge),
            }
        }
    });
    request.body = replay.take();
}

/// Sends a copy. Nothing waits for its task, the end of the process included: it is only a copy.
fn send(cluster: Rc<Cluster>, copy: Request, under: Under, metrics: Rc<Metrics>) {
    let timeout = Some(cluster.timeouts().request).filter(|timeout| !timeout.is_zero()).unwrap_or(PATIENCE);
    tokio::task::spawn_local(async move {
        let _under = under;
        let answered = tokio::time::timeout(timeout, answer(&cluster, copy)).await;
        let result = match answered {
            Ok(Ok(())) => Mirrored::Answered,
            Ok(Err(fault)) => {
                tracing::debug!(service = %cluster.name(), %fault, "a copy was not answered");
                Mirrored::Failed
            }
            Err(_) => Mirrored::Failed,
        };
        metrics.mirrored(cluster.id(), result);
    });
}

async fn answer(cluster: &Cluster, copy: Request) -> Result<(), Fault> {
    let trail = Trail::default();
    let mut response = cluster.send(copy, None, &trail).await?;
    let mut left = ANSWER_BYTES;
    while let Some(frame) = response.body.frame().await {
        if let Frame::Data(data) = frame? {
            left = left.saturating_sub(data.len());
        }
        if left == 0 {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_under_way_are_bounded() {
        let mirrors = Mirrors::default();
        let mut under: Vec<_> = (0..MAX_MIRRORS).map_while(|_| mirrors.begin()).collect();
        assert_eq!(under.len(), MAX_MIRRORS);
        assert!(mirrors.begin().is_none());
        under.pop();
        assert!(mirrors.begin().is_some());
        drop(under);
        assert_eq!(mirrors.0.get(), 0);
    }
}
