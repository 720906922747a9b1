//! `link: auto`: has each endpoint's [`Choice`] see what it needs, and does what it says.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::choice::{Choice, ChoiceReport, Sample, Verdict};
use super::endpoint::{Endpoint, Udp};
use super::{Cluster, Dialer, Transport};
use crate::config::LinkPolicy;
use crate::fault::{Fault, Reason};
use crate::http::h2;
use crate::identity::SpiffeId;
use crate::net::quic;
use crate::telemetry::cell::Gauge;
use crate::telemetry::labels::{Cause, Link, NameId};
use crate::telemetry::why::Because;

/// What carries the requests to one endpoint.
#[derive(Debug)]
pub(super) struct Auto {
    pub(super) choice: Choice,
    /// Counts what is chosen, in the metric of all endpoints.
    counted: RefCell<Arc<Gauge>>,
    /// What QUIC had counted when it was asked last, of all open links together.
    seen: Cell<Sample>,
}

impl Auto {
    /// Of an endpoint that is reached like this; none where there is no choice.
    pub(super) fn of(transport: &Transport, destination: NameId, dialer: &Dialer) -> Option<Self> {
        let Transport::Mesh(LinkPolicy::Auto, ..) = transport else { return None };
        let choice = Choice::new(Instant::now());
        let Verdict { link, cause } = choice.verdict();
        let counted = RefCell::new(dialer.metrics().link_chosen(destination, link, cause));
        Some(Auto { choice, counted, seen: Cell::default() })
    }

    /// What is shown of an endpoint that was never used.
    pub(super) fn unused(transport: &Transport) -> Option<ChoiceReport> {
        let now = Instant::now();
        matches!(transport, Transport::Mesh(LinkPolicy::Auto, ..)).then(|| Choice::new(now).report(now))
    }

    /// Why a request goes over this link, if that was measured.
    pub(super) fn because(&self, link: Link) -> Option<Because> {
        let chosen = self.choice.verdict();
        match chosen.cause {
            Cause::Unmeasured | Cause::Silent => None,
            cause if link == chosen.link => Some(Because::Measured(cause)),
            _ => Some(Because::Explored),
        }
    }

    /// What QUIC has seen since it was asked last. A link that was closed meanwhile takes what it saw with it.
    fn sample(&self, endpoint: &Endpoint) -> Sample {
        let (mut now, mut links) = (Sample::default(), 0);
        endpoint.h3.each(|link| {
            let quic::Stats { path, udp_tx, udp_rx, .. } = link.stats();
            now.sent += path.sent_packets;
            now.lost += path.lost_packets;
            now.received += udp_rx.datagrams;
            now.bytes += udp_tx.bytes + udp_rx.bytes;
            now.rtt += path.rtt;
            links += 1;
        });
        let before = self.seen.replace(now);
        Sample {
            sent: now.sent.saturating_sub(before.sent),
            lost: now.lost.saturating_sub(before.lost),
            received: now.received.saturating_sub(before.received),
            bytes: now.bytes.saturating_sub(before.bytes),
            rtt: now.rtt.checked_div(links).unwrap_or(Duration::ZERO),
        }
    }
}

impl Drop for Auto {
    fn drop(&mut self) {
        self.counted.borrow().sub(1);
    }
}

impl Cluster {
    /// Thinks about the links of endpoints with `link: auto`. Called about every second.
    pub fn choose_links(&self) {
        if !matches!(self.transport, Transport::Mesh(LinkPolicy::Auto, ..)) {
            return;
        }
        let now = Instant::now();
        for endpoint in self.members.borrow().used() {
            let Some(auto) = &endpoint.auto else { continue };
            let silent = matches!(endpoint.udp.get(), Udp::Silent(..));
            if !silent && auto.choice.is_unheard() {
                let fault =
                    Fault::new(Reason::ConnectionTimeout).detail("nothing comes over its HTTP/3 links any more");
                endpoint.udp_failed(&fault, &self.name);
                // What they carry may still be answered; nothing new is sent there.
                endpoint.h3.close();
                continue;
            }
            let before = auto.choice.verdict();
            let Some(Verdict { link, cause }) = auto.choice.consider(now, auto.sample(endpoint), silent) else {
                continue;
            };
            let metrics = self.dialer.metrics();
            auto.counted.replace(metrics.link_chosen(self.id(), link, cause)).sub(1);
            if before.link != link {
                metrics.link_choice(self.id(), link, cause);
                let link = link.token();
                tracing::info!(service = %self.name, endpoint = %endpoint.address, link, %cause, "another link is chosen");
            }
        }
    }

    /// The HTTP/2 link for a request, if that is to carry it and is open. No request waits for what is chosen, or tried: until it
    /// is open, the other one carries them.
    pub(super) fn chosen(&self, auto: &Auto, endpoint: &Rc<Endpoint>, identity: &[SpiffeId]) -> Option<h2::Link> {
        let Verdict { link: usual, cause } = auto.choice.verdict();
        if cause == Cause::Unmeasured || cause == Cause::Silent {
            return None;
        }
        match auto.choice.next(&mut self.dialer.chance()) {
            Link::H2 => {
                let ready = endpoint.h2.ready();
                if ready.is_none() {
                    self.open_h2(endpoint, identity);
                }
                ready
            }
            Link::H3 if usual == Link::H2 && endpoint.h3.ready().is_none() => {
                let ready = endpoint.h2.ready()?;
                if self.may_connect(endpoint) && self.tries_udp(endpoint, identity) {
                    let connect = self.settings.timeouts.connect;
                    endpoint
                        .h3
                        .dialing_in_background(|| self.dialer.h3(endpoint.address, &self.name, identity, connect));
                }
                Some(ready)
            }
            _ => None,
        }
    }

    fn open_h2(&self, endpoint: &Rc<Endpoint>, identity: &[SpiffeId]) {
        if endpoint.only_http1(Instant::now()) || !self.may_connect(endpoint) {
            return;
        }
        let connect = self.settings.timeouts.connect;
        let dial = || {
            let wires = Rc::clone(&endpoint.h1);
            let (link, to) =
                (self.dialer.h2(endpoint.address, &self.name, identity, connect, wires), Rc::clone(endpoint));
            async move {
                let link = link.await;
                if matches!(link, Ok(None)) {
                    to.has_only_http1(Instant::now());
                }
                link
            }
        };
        endpoint.h2.dialing_in_background(dial);
    }
}
