//! One request, from its first header to its last byte. Read this first.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::{Method, StatusCode, header};

use super::generation::Generation;
use super::mirror::Mirrors;
use super::{inbound, inject, mirror, outbound, reply, why};
use crate::clock::Deadline;
use crate::config::Rule;
use crate::fault::{Fault, Reason};
use crate::filter::exchange::{Conn, Exchange, Ledger};
use crate::http::body::{Half, Length};
use crate::http::head::RequestHead;
use crate::http::{Body, Request, Response, Service, deadline};
use crate::policy::Asked;
use crate::route;
use crate::telemetry::labels::{Direction, NameId};
use crate::telemetry::why::What;

/// One of the two ways through a sidecar, in one worker.
pub struct Hop {
    /// Which of the two.
    pub direction: Direction,
    /// Where accounts go.
    pub ledger: Rc<Ledger>,
    /// What names this sidecar in `proxy-status`.
    pub node: Rc<str>,
    /// Where a request goes in metrics until that is chosen: inbound to our own service, outbound nowhere.
    pub nowhere: NameId,
    /// The configuration in use; an exchange keeps the one that it began with.
    pub generation: RefCell<Rc<Generation>>,
    /// For request ids and trace ids, which must only be unlikely to meet.
    pub chance: RefCell<fastrand::Rng>,
    /// Copies of requests that are under way.
    pub mirrors: Mirrors,
}

/// Runs one request. Never fails: a fault becomes a response. Dropping the future cancels the request.
async fn run(hop: &Hop, conn: &Rc<Conn>, pinned: Option<&Rc<str>>, mut request: Request) -> Response {
    let generation = Rc::clone(&hop.generation.borrow());
    let exchange = hop.open(&generation, conn, &request.head);
    request.body.observe(exchange.clone());
    let (grpc, method) = (request.head.is_grpc(), request.head.method.clone());
    let mut passage = generation.chain(hop.direction).open(grpc);
    let refused = generation.why().is_some_and(|settings| why::begin(hop, settings, &exchange, &request.head));
    let outcome = async {
        let room = generation.shed().map_or(Ok(()), |shed| {
            let peer = conn.peer.as_ref().map(|peer| &peer.spiffe);
            shed.enter(&Asked::new(&request.head, peer, 0), &exchange.trail)
        });
        let admitted = room.and_then(|()| match hop.direction {
            Direction::Outbound => outbound::admit(hop, conn, &exchange, &mut request.head),
            Direction::Inbound => inbound::admit(&generation, conn, &mut request.head, &exchange).map(|()| false),
        });
        if refused {
            why::refuse(&mut request.head);
        }
        let expects = admitted.inspect_err(|_| why::identify(&exchange, &request.head))?;
        if expects && !request.body.is_end() {
            passage.expects();
        }
        let asked = request.head.authority.clone();
        // Those of a listener that has them beside HTTP see HTTP only.
        if method != Method::CONNECT {
            passage.request(&exchange, &mut request).await?;
        }
        let target = match hop.direction {
            Direction::Outbound => {
                let target = outbound::target(&generation, pinned, asked.as_ref(), &request.head, conn.protocol)?;
                outbound::route(hop, &generation, target, &exchange, &mut request.head)?
            }
            Direction::Inbound => inbound::target(&generation)?,
        };
        exchange.destined(target.cluster.name(), target.cluster.id(), target.protocol);
        match method {
            Method::CONNECT => {
                let chain = match hop.direction {
                    Direction::Outbound => target.filters[1],
                    Direction::Inbound => generation.chain(hop.direction),
                };
                passage.connect(&exchange, &mut request, chain).await?;
            }
            _ => {
                passage
                    .onward(&exchange, &mut request, target.filters, target.rule.is_some_and(Rule::changes_request))
                    .await?
            }
        }
        if let Some(faults) = target.fault {
            // Boxed, as each request would hold room for it.
            Box::pin(inject::faults(hop, &exchange, target.cluster, faults, &request.head)).await?;
        }
        if let Some(Rule { mirrors, .. }) = target.rule.filter(|rule| !rule.mirrors.is_empty()) {
            mirror::copies(hop, &generation, mirrors, &exchange.trail, &mut request);
        }
        exchange.bounded(target.timeouts());
        if target.cluster.wants_source() {
            exchange.trail.came_from(conn.remote.ip());
        }
        // What the caller says of how long it waits; counts from the beginning.
        let due = match deadline::of(&request.head, grpc) {
            Some(asked) => {
                let left = asked.saturating_sub(exchange.elapsed());
                deadline::pass_on(&mut request.head, grpc, left);
                exchange.trail.wanted(Instant::now() + left);
                exchange.trail.note(|_| What::Due(left));
                let due = Deadline::new();
                due.set(left.max(Duration::from_millis(1)));
                Some(due)
            }
            None => None,
        };
        if method == Method::CONNECT {
            // Its answer waits for no end of it.
            exchange.deadline.set(target.timeouts().request);
        }
        // Bounded by `timeouts.request`, which counts from the end of the request, by `timeouts.idle` until then, and by a filter that answers
        // meanwhile.
        // Pinned here, not handed to a function: that would hold room for it twice.
        let mut sent = pin!(target.cluster.send(request, target.per_try(), &exchange.trail));
        let answered = poll_fn(|cx| match sent.as_mut().poll(cx) {
            Poll::Pending => match passage.poll_stopped(cx) {
                Poll::Ready(fault) => Poll::Ready(Err(fault)),
                Poll::Pending => {
                    if exchange.poll_stream(cx).is_ready() {
                        exchange.trail.expire();
                        exchange.trail.note(|own| target.cluster.noted(own));
                        return Poll::Ready(Err(Fault::new(Reason::StreamTimeout).detail("no answer in time")));
                    }
                    if let Poll::Ready(fault) = exchange.poll_stalled(cx) {
                        return Poll::Ready(Err(fault));
                    }
                    let passed = exchange.deadline.poll(cx).is_ready();
                    if !passed && due.as_ref().is_none_or(|due| due.poll(cx).is_pending()) {
                        return Poll::Pending;
                    }
                    exchange.trail.expire();
                    exchange.trail.note(|own| target.cluster.noted(own));
                    let detail = if passed { "no answer in time" } else { "the caller's deadline has passed" };
                    Poll::Ready(Err(Fault::new(Reason::HttpResponseTimeout).detail(detail)))
                }
            },
            answered => answered,
        });
        let mut response = answered.await.map_err(|fault| passage.stop(fault))?;
        if let Some(rule) = target.rule {
            route::fields(&mut response.head.headers, &rule.response);
        }
        Ok(response)
    }
    .await;
    let mut response = reply::settle(&hop.node, &exchange, grpc, outcome);
    if let Err(stop) = passage.response(&mut response).await {
        response = reply::settle(&hop.node, &exchange, grpc, Err(stop));
        passage.replaced(&mut response.head);
    }
    if hop.direction == Direction::Inbound
        && let Err(fault) = response.head.check_size()
    {
        response = reply::settle(&hop.node, &exchange, grpc, Err(passage.stop(fault)));
        passage.replaced(&mut response.head);
    }
    if response.body.length() == Length::Tunnel
        && method != Method::CONNECT
        && response.head.status != StatusCode::SWITCHING_PROTOCOLS
    {
        // A filter has made the switch to another protocol another answer: to whoever reads that, what follows would be the next one.
        response.head.upgrade = None;
        response.body = Body::empty(Half::Response);
    }
    if response.head.is_bodiless(&method) && !matches!(response.body.length(), Length::Tunnel | Length::Known(0)) {
        // An answer of ours to HEAD has its content only announced (RFC 9110 section 9.3.2). What comes with no length is
        // none, though filters may be shown some.
        response.body = Body::empty(Half::Response);
    } else if response.body.length() == Length::Known(0)
        && !response.head.is_bodiless(&method)
        && response.head.headers.get(header::CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0")
    {
        // A filter has made another request a HEAD: its answer announces what does not come, and who asked would take the next answer for it.
        response.head.headers.remove(header::CONTENT_LENGTH);
    }
    passage.cut(&mut response.body);
    exchange.answered(response.head.status);
    if let Some(settings) = generation.why() {
        why::tell(settings, &exchange, &mut response.head);
    }
    response.body.observe(passage.observer(exchange));
    response
}

impl Hop {
    /// Begins the account of a request. What the application speaks depends on the connection where it is the caller.
    pub(super) fn open(&self, generation: &Generation, conn: &Rc<Conn>, head: &RequestHead) -> Rc<Exchange> {
        let protocol = match self.direction {
            Direction::Outbound => conn.protocol,
            Direction::Inbound => generation.application().map_or(conn.protocol, |(_, protocol)| protocol),
        };
        Exchange::open(conn, &self.ledger, head, self.nowhere, protocol, generation.exchanges().guard())
    }
}

/// A connection of one hop, as the protocols serve it.
pub struct Served {
    /// The hop.
    pub hop: Rc<Hop>,
    /// The connection.
    pub conn: Rc<Conn>,
    /// The service whose own port it came in by.
    pub pinned: Option<Pinned>,
}

/// The service that a port is of, by name: the port, and connections to it, may outlive a generation, and be another's in
/// the next.
pub type Pinned = Rc<RefCell<Rc<str>>>;

impl Service for Served {
    async fn call(self: Rc<Self>, request: Request) -> Response {
        let pinned = self.pinned.as_ref().map(|pinned| Rc::clone(&pinned.borrow()));
        run(&self.hop, &self.conn, pinned.as_ref(), request).await
    }

    fn refuse(&self, fault: Fault) -> Response {
        reply::refuse(&self.hop, &self.conn, fault)
    }

    fn reset(&self, fault: Fault) {
        reply::reset(&self.hop, &self.conn, &fault);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each request is a future that is moved into its task, or lies in that of its connection for as long as that lives:
    /// its size is paid for in copies and in memory. What is rarely needed (dialling) is boxed where it is awaited.
    #[test]
    fn a_request_is_small() {
        const LIMIT: usize = 2304;
        fn size<F: Future>(_: impl FnOnce(Rc<Served>, Request) -> F) -> usize {
            size_of::<F>()
        }
        let size = size(|served, request| served.call(request));
        assert!(size <= LIMIT, "{size} bytes");
    }
}
