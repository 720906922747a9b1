//! The mesh's side: who is calling, and may they?

use std::rc::Rc;
use std::time::Duration;

use http::HeaderName;

use super::generation::{Generation, Target};
use super::opaque;
use crate::config::admission::{Priority, UNMATCHED};
use crate::fault::{Fault, Reason};
use crate::filter::exchange::{Conn, Exchange};
use crate::http::head::RequestHead;
use crate::http::rules;
use crate::identity::SpiffeId;
use crate::policy::Asked;
use crate::policy::access::{Access, Decision};
use crate::telemetry::labels::{Authorization, Protocol};
use crate::telemetry::trail::Busy;

/// When to ask an application again that has enough.
const SOON: Duration = Duration::from_secs(1);

const X_FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static(rules::CLIENT_CERT);

/// Checks the caller and tells the application who it is. What the caller says of itself is dropped.
pub(super) fn admit(
    generation: &Generation,
    conn: &Conn,
    head: &mut RequestHead,
    exchange: &Exchange,
) -> Result<(), Fault> {
    let peer =
        conn.peer.as_ref().ok_or_else(|| Fault::new(Reason::HttpRequestDenied).detail("the caller has no identity"))?;
    let inbound =
        generation.inbound().ok_or_else(|| Fault::new(Reason::DestinationNotFound).detail("no inbound section"))?;
    let (access, limits) = (generation.access(), generation.rate_limits());
    if access.is_some() || limits.is_some() {
        let asked = Asked::new(head, Some(&peer.spiffe), inbound.application.port());
        access.map_or(Ok(()), |access| authorize(access, &asked, exchange))?;
        limits.map_or(Ok(()), |limits| limits.admit(&asked, exchange.started()))?;
    }
    if let Some(adaptive) = generation.concurrency() {
        // Where nothing is said of importance, all are as important.
        let priority = || {
            generation.shed().map_or(Priority::Critical, |shed| shed.priority(&Asked::new(head, Some(&peer.spiffe), 0)))
        };
        adaptive.enter(priority).map_err(|now| {
            let detail = format!("{now} requests are in flight, and the application would not answer more any sooner");
            Fault::new(Reason::LimitReached).detail(detail).wait(SOON)
        })?;
        exchange.trail.held_by(Rc::clone(adaptive) as Rc<dyn Busy>);
    }
    opaque::admit(head, target(generation)?.protocol == Protocol::Tcp)?;
    head.headers.retain(|name| !rules::says_who_calls(name.as_str()));
    if let Some(forwarded) = &conn.forwarded {
        head.headers.append(X_FORWARDED_CLIENT_CERT, forwarded.clone());
    }
    Ok(())
}

/// Asks the rules. The caller learns that it is refused; the log and the access record, by which rule.
fn authorize(access: &Access, asked: &Asked<'_>, exchange: &Exchange) -> Result<(), Fault> {
    let Decision { refused_by, dry_run } = access.decide(asked);
    if let Some((verdict, rule)) = dry_run {
        tracing::debug!(rule = &**rule, verdict = verdict.token(), "a rule in its dry run");
        exchange.authorized(verdict, rule);
    }
    let Some(rule) = refused_by else { return Ok(()) };
    exchange.authorized(Authorization::Deny, rule);
    let (peer, head) = (asked.peer().map_or("", SpiffeId::as_str), asked.head());
    let said = match **rule == *UNMATCHED {
        true => "no rule of inbound.allow lets".to_owned(),
        false => format!("the rule {rule} of inbound.deny does not let"),
    };
    let detail = format!("{said} {peer} ask {} {}", head.method, head.path.path());
    Err(Fault::new(Reason::HttpRequestDenied).detail(detail))
}

/// The application.
pub(super) fn target(generation: &Generation) -> Result<Target<'_>, Fault> {
    let application = generation.application().map(|(cluster, protocol)| Target {
        cluster,
        filters: [generation.no_filters(); 2],
        rule: None,
        protocol,
        fault: None,
    });
    application.ok_or_else(|| Fault::new(Reason::DestinationNotFound).detail("no inbound section"))
}
