//! Calls that filters make: they go to services of the configuration, as an application's requests do.

use std::collections::HashMap;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::cluster::Cluster;
use crate::fault::{Fault, Reason};
use crate::filter::callout::{Sent, Upstreams};
use crate::http::Fields;
use crate::http::Request;
use crate::http::body::{Half, Observer};
use crate::telemetry::trail::Trail;

/// The services that filters may name.
pub(super) struct Services(HashMap<Box<str>, Rc<Cluster>, foldhash::fast::RandomState>);

impl Services {
    /// By their names. Calls are HTTP, so without those that take opaque bytes.
    pub(super) fn new<'c>(clusters: impl Iterator<Item = &'c Rc<Cluster>>) -> Self {
        let clusters = clusters.filter(|cluster| !cluster.is_opaque());
        Services(clusters.map(|cluster| (cluster.name().as_ref().into(), Rc::clone(cluster))).collect())
    }
}

impl Upstreams for Services {
    fn has(&self, service: &str) -> bool {
        self.0.contains_key(service)
    }

    fn send(&self, service: &str, request: Request) -> Sent {
        let cluster = self.0.get(service).map(Rc::clone);
        Box::pin(async move {
            let cluster = cluster.ok_or_else(|| Fault::new(Reason::DestinationNotFound))?;
            // Nobody accounts for it; the load of its endpoint counts until the response is read.
            let trail = Trail::default();
            let mut response = cluster.send(request, None, &trail).await?;
            response.body.observe(Rc::new(Carried(trail)));
            Ok(response)
        })
    }
}

/// Ends the way of a request with its response's body.
struct Carried(#[expect(dead_code, reason = "ends when it is dropped")] Trail);

impl Observer for Carried {
    fn data(&self, _: Half, _: usize) {}

    fn trailers(&self, _: Half, _: &Fields) {}

    fn end(&self, _: Half, _: Option<Result<(), &Fault>>) {}

    fn poll_idle(&self, _: &mut Context<'_>) -> Poll<Fault> {
        Poll::Pending
    }
}
