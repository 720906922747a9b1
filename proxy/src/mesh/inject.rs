//! Faults on purpose: a request waits, or is answered in the place of the service. It reaches no endpoint then, so none
//! is judged by it.

use crate::cluster::Cluster;
use crate::config::fault::{Abort, Faults};
use crate::fault::{Fault, Reason};
use crate::filter::chain::Stop;
use crate::filter::exchange::Exchange;
use crate::http::head::RequestHead;
use crate::route::{self, Injected};
use crate::telemetry::labels::Cause;
use crate::telemetry::why::What;

use super::hop::Hop;
use super::reply;

/// Has a request meet what is meant for it.
///
/// # Errors
/// If it is answered here.
pub(super) async fn faults(
    hop: &Hop,
    exchange: &Exchange,
    cluster: &Cluster,
    faults: &Faults,
    head: &RequestHead,
) -> Result<(), Stop> {
    let Injected { delay, abort } = route::inject(faults, head, |below| hop.chance.borrow_mut().u32(..below));
    if let Some(delay) = delay {
        hop.ledger.metrics.fault(cluster.id(), Cause::Delay);
        exchange.delayed();
        exchange.trail.note(|_| What::Delayed(delay));
        tokio::time::sleep(delay).await;
    }
    if let Some(abort) = abort {
        hop.ledger.metrics.fault(cluster.id(), Cause::Abort);
        let what = match abort {
            Abort::Http(status) => format!("answered {status} on purpose, as `fault` says"),
            Abort::Grpc(code) => format!("answered with the gRPC code {code} on purpose, as `fault` says"),
        };
        exchange.failed(&Fault::new(Reason::FaultInjected).detail(what));
        return Err(Stop::Reply(Box::new(reply::aborted(&hop.node, abort, head.is_grpc()))));
    }
    Ok(())
}
