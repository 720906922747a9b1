//! The mesh's side: who is calling, and may they?

use http::HeaderName;

use super::generation::{Generation, Target};
use super::opaque;
use crate::fault::{Fault, Reason};
use crate::filter::exchange::Conn;
use crate::http::head::RequestHead;
use crate::telemetry::labels::Protocol;

const X_FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// Checks the caller and tells the application who it is. What the caller says of itself is dropped.
pub(super) fn admit(generation: &Generation, conn: &Conn, head: &mut RequestHead) -> Result<(), Fault> {
    let peer =
        conn.peer.as_ref().ok_or_else(|| Fault::new(Reason::HttpRequestDenied).detail("the caller has no identity"))?;
    let inbound =
        generation.inbound().ok_or_else(|| Fault::new(Reason::DestinationNotFound).detail("no inbound section"))?;
    if inbound.allow.as_ref().is_some_and(|allow| !allow.contains(&peer.spiffe)) {
        return Err(Fault::new(Reason::HttpRequestDenied).detail(format!("{} is not in inbound.allow", peer.spiffe)));
    }
    opaque::admit(head, target(generation)?.protocol == Protocol::Tcp)?;
    match &conn.forwarded {
        Some(forwarded) => head.headers.insert(X_FORWARDED_CLIENT_CERT, forwarded.clone()),
        None => head.headers.remove(X_FORWARDED_CLIENT_CERT),
    };
    Ok(())
}

/// The application.
pub(super) fn target(generation: &Generation) -> Result<Target<'_>, Fault> {
    let application = generation.application().map(|(cluster, protocol)| Target {
        cluster,
        filters: [generation.no_filters(); 2],
        rule: None,
        protocol,
    });
    application.ok_or_else(|| Fault::new(Reason::DestinationNotFound).detail("no inbound section"))
}
