//! The application's side: which service does it mean?

use std::rc::Rc;

use http::HeaderName;
use http::uri::Authority;

use super::generation::{Destination, Generation, Target};
use super::hop::Hop;
use super::opaque;
use crate::fault::{Fault, Reason};
use crate::filter::chain::Stop;
use crate::filter::exchange::{Conn, Exchange};
use crate::http::body::Half;
use crate::http::head::{RequestHead, Shared};
use crate::http::{Body, Response};
use crate::policy::Asked;
use crate::policy::rate::RateLimits;
use crate::route::{self, Found};
use crate::telemetry::labels::Protocol;
use crate::telemetry::trace::{self, TraceContext};
use crate::telemetry::why::What;

pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Gives the request what identifies it across the mesh, where the application did not; whether it has an `expect`. An HTTP client's
/// CONNECT is refused.
pub(super) fn admit(hop: &Hop, conn: &Conn, exchange: &Exchange, head: &mut RequestHead) -> Result<bool, Fault> {
    opaque::admit(head, conn.protocol == Protocol::Tcp)?;
    // One pass instead of a look-up for each.
    let (mut id, mut trace, mut state, mut expects) = (None, None, false, false);
    for (name, value) in &head.headers {
        match name.as_str() {
            "x-request-id" if id.is_none() => {
                let keeps = trace::keeps_request_id(value.as_bytes());
                if keeps {
                    exchange.identified(value.as_bytes(), || value.share());
                }
                id = Some(keeps);
            }
            "traceparent" => trace = Some(trace.is_none() && TraceContext::parse(value.as_bytes()).is_some()),
            "tracestate" => state = true,
            "expect" => expects = true,
            _ => {}
        }
    }
    let chance = &mut hop.chance.borrow_mut();
    let (had_id, had_trace) = (id.is_some(), trace.is_some());
    // One that is not there needs not be looked for.
    let set = |head: &mut RequestHead, name, had, value| match had {
        true => head.headers.insert(name, value),
        false => head.headers.append(name, value),
    };
    if id != Some(true) {
        let id = trace::request_id(chance);
        exchange.identified(id.as_bytes(), || id.clone());
        set(head, X_REQUEST_ID, had_id, id);
    }
    // A trace of the application's is passed on as it is: this hop records no span that could stand between. Several are none.
    if trace != Some(true) {
        let trace = TraceContext::start(chance, false);
        exchange.traced(trace.trace_id());
        set(head, TRACEPARENT, had_trace, trace.header());
        if state {
            head.headers.remove(TRACESTATE);
        }
    }
    Ok(expects)
}

/// The service that a request is for: that of the port it came in by, unless a filter named another; else that of its host.
pub(super) fn target<'a>(
    generation: &'a Generation,
    pinned: Option<&Rc<str>>,
    asked: Option<&Authority>,
    head: &RequestHead,
    protocol: Protocol,
) -> Result<&'a Destination, Fault> {
    let moved = head.authority.as_ref() != asked;
    let service = match pinned {
        // The name of a service is one of its hosts.
        Some(service) if !moved => generation.by_host(service),
        _ => generation.by_host(head.host()),
    };
    // Bytes and HTTP do not meet, whatever a reload has made of the service meanwhile.
    match service.filter(|service| service.cluster.is_opaque() == (protocol == Protocol::Tcp)) {
        Some(service) => Ok(service),
        None if pinned.is_some() && !moved => {
            Err(Fault::new(Reason::DestinationNotFound).detail("the service of this port is no longer configured"))
        }
        None if head.authority.is_none() => {
            Err(Fault::new(Reason::DestinationNotFound).detail("the request names no host"))
        }
        None => {
            Err(Fault::new(Reason::DestinationNotFound).detail(format!("no service has the host {:?}", head.host())))
        }
    }
}

/// Where a request to a service goes: to it, or where its routes say, which may change the head, or answer. The head is
/// shared with the filters that have seen it: to touch it where no rule changes it would copy it.
pub(super) fn route<'a>(
    hop: &Hop,
    generation: &'a Generation,
    service: &'a Destination,
    exchange: &Exchange,
    head: &mut Shared<RequestHead>,
) -> Result<Target<'a>, Stop> {
    let protocol = exchange.conn.protocol;
    let straight = |service: &'a Destination| Target {
        cluster: &service.cluster,
        filters: [generation.no_filters(), &service.filters],
        rule: None,
        protocol,
        fault: service.fault.as_deref(),
    };
    let Some(routes) = &service.routes else {
        return limited(straight(service), [None, service.limits.as_ref()], exchange, head);
    };
    // Whatever comes of it, the account names the service that was called, unless there is a backend.
    let (name, id) = (service.cluster.name(), service.cluster.id());
    exchange.destined(name, id, protocol);
    let found = routes.table.find(head).and_then(|found| Some((found, routes.rules.get(found.number)?)));
    let Some((Found { rule, prefix, .. }, own)) = found else {
        exchange.trail.note(|_| What::NoRule);
        let detail = format!("no rule of {name}'s routes is for {} {}", head.method, head.path.path());
        return Err(Fault::new(Reason::DestinationNotFound).detail(detail).into());
    };
    exchange.routed(&own.name);
    if rule.changes_request() {
        route::fields(&mut head.headers, &rule.request);
    }
    if let Some(redirect) = &rule.redirect {
        let mut head = route::redirect(head, redirect, prefix)?;
        route::fields(&mut head.headers, &rule.response);
        exchange.replied(b"");
        return Err(Stop::Reply(Box::new(Response { head: head.into(), body: Body::empty(Half::Response) })));
    }
    if let Some(rewrite) = &rule.rewrite {
        route::rewrite(head, rewrite, prefix)?;
    }
    let backend = match &rule.to[..] {
        [] => service,
        backends => route::pick(backends, |total| hop.chance.borrow_mut().u64(..total))
            .and_then(|backend| generation.service(backend.service))
            .ok_or_else(|| {
                let detail = format!("no backend of the rule {} has a weight", rule.name);
                Fault::new(Reason::ProxyConfigurationError).detail(detail)
            })?,
    };
    let filters = [&own.filters, &backend.filters];
    let straight = straight(backend);
    let target = Target { filters, rule: Some(rule), fault: rule.fault.as_ref().or(straight.fault), ..straight };
    limited(target, [own.limits.as_ref(), backend.limits.as_ref()], exchange, head)
}

/// Counts a request against the limits of where it goes.
fn limited<'a>(
    target: Target<'a>,
    limits: [Option<&RateLimits>; 2],
    exchange: &Exchange,
    head: &RequestHead,
) -> Result<Target<'a>, Stop> {
    for limits in limits.into_iter().flatten() {
        exchange.destined(target.cluster.name(), target.cluster.id(), target.protocol);
        limits.admit(&Asked::new(head, None, 0), exchange.started())?;
    }
    Ok(target)
}
