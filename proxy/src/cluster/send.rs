//! One request to a destination: which endpoint, which link, and what is done when a try comes to nothing.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use http::{HeaderName, HeaderValue};

use super::balance::{Candidates as _, Looked, Want, id};
use super::breaker::{Breaker, Went};
use super::endpoint::Endpoint;
use super::gate::{Repeating, SOON, Waiting};
use super::members::Members;
use super::outlier::{self, Health, Result as Came};
use super::replay::Replay;
use super::retry::{self, Outcome};
use super::{Carriage, Cluster, Transport, explain};
use crate::clock::{self, Deadline};
use crate::config::{Balance, Limits, Retries};
use crate::fault::{Fault, Reason, Side};
use crate::http::body::{Half, Length};
use crate::http::client::Link;
use crate::http::head::ResponseHead;
use crate::http::{Body, Request, Response, deadline};
use crate::telemetry::labels::Cause;
use crate::telemetry::trail::{Busy, Trail};
use crate::telemetry::why::What;

/// Which try this is, as the server may want to know (Envoy's `include_request_attempt_count`).
pub(super) const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");

impl Cluster {
    /// Sends a request and waits for the head of its response. Chooses the endpoint and the link, and sends it again, or
    /// elsewhere, as the service's `retries` allow. `per_try` stands in place of the bound of a try that they say.
    ///
    /// # Errors
    /// The fault of the last try, or that a limit is used up, or that no sidecar reads so large a head.
    pub async fn send(
        &self,
        mut request: Request,
        per_try: Option<Duration>,
        trail: &Trail,
    ) -> Result<Response, Fault> {
        if self.settings.retries.is_some() {
            request.head.headers.insert(ATTEMPT_COUNT, HeaderValue::from(1_u16));
        }
        if matches!(self.transport, Transport::Mesh(..)) {
            request.head.check_size()?;
        }
        let mut pass = match self.breaker() {
            // Boxed: few services have a breaker, and each request would hold room for it.
            Some(breaker) => Some(Box::new(self.told(trail, Pass::new(self, breaker, trail))?)),
            None => None,
        };
        if self.counts {
            self.told(trail, self.gate().admit(&self.settings.limits, trail))?;
        }
        let per_try = per_try.unwrap_or(self.retries().per_try);
        let replay = self.replay(&mut request, per_try);
        if let Some(key) = &self.key {
            let Want { hash, token } = key.want(&request.head, trail.source());
            trail.seeks(hash, token);
        }
        // Endpoints that are better avoided, as long as there are others.
        let mut tried = Vec::new();
        let mut repeated: u16 = 0;
        // Counted until there is an answer.
        let mut under: Option<Repeating> = None;
        let answer = loop {
            let mut looked = trail.is_recorded().then(Looked::default);
            let (at, mut endpoint) = match self.picked(&tried, trail, looked.as_mut()) {
                Ok(picked) => picked,
                Err(fault) => break Err(fault),
            };
            let carriage = Carriage::of(&request.head);
            trail.attempt(endpoint.address);
            if let Some(looked) = looked {
                self.chose(at, &endpoint, looked, trail);
            }
            // From now on, not only once there is a link: those that come meanwhile would all be sent there, too.
            endpoint.load.start();
            trail.carried(Rc::clone(&endpoint) as Rc<dyn Busy>);
            // Boxed: few services eject endpoints, and each request would hold room for it.
            let mut watch = self.settings.outliers.is_some().then(|| Box::new(Watch::new(self, &endpoint, trail)));
            let again = match self.link_in_bounds(&endpoint, carriage, trail).await {
                Err(fault) => {
                    explain::failed(trail, &fault, false);
                    if fault.side() == Side::Upstream {
                        endpoint.rest();
                        came(&mut watch, Came::Failure(Cause::Reason(fault.reason)));
                    }
                    tried.push(endpoint.address);
                    let elsewhere = self.is_left(&tried);
                    // Where nothing is said of retries, an endpoint is not asked twice.
                    let kept = Some(request).filter(|_| elsewhere || self.settings.retries.is_some());
                    drop(under.take());
                    match self.again(&Outcome::Unreached(&fault, elsewhere), repeated, kept, None, trail) {
                        Some(again) => again,
                        None => break Err(fault),
                    }
                }
                Ok(link) => {
                    trail.leaves(link.carrier(), Instant::now());
                    if repeated > 0 && self.settings.retries.is_some() {
                        request.head.headers.insert(ATTEMPT_COUNT, HeaderValue::from(repeated + 1));
                    }
                    let mut kept = self.kept(&mut request, replay.as_ref(), repeated);
                    let sent = if let Some(hedging) = self.hedging(kept.as_ref(), repeated) {
                        let first = within(per_try, replay.as_deref(), link.send(request));
                        let mut asked = tried.clone();
                        asked.push(endpoint.address);
                        // Boxed: few services have hedges, and each request would hold room for them.
                        let hedged = self.hedged(first, hedging, &mut kept, replay.as_ref(), asked, trail);
                        let (answer, won) = Box::pin(hedged).await;
                        if let Some((second, lost)) = won {
                            self.lost(&endpoint, &mut watch, &lost);
                            (endpoint, watch) = (second.endpoint, second.watch);
                        }
                        answer
                    } else {
                        let sent = if per_try.is_zero() {
                            link.send(request).await
                        } else {
                            // Boxed: few services have such a bound, and each request would hold room for it.
                            Box::pin(within(per_try, replay.as_deref(), link.send(request))).await
                        };
                        if sent.is_ok() {
                            self.learn(trail.sent());
                        }
                        sent
                    };
                    drop(under.take());
                    match sent {
                        Ok(mut response) => {
                            let took = trail.sent().map_or(Duration::ZERO, |sent| sent.elapsed());
                            explain::answered(trail, &response.head, took);
                            self.answered(&endpoint, &response.head, took);
                            if let Some(auto) = &endpoint.auto {
                                auto.choice.answered(trail.link(), took);
                            }
                            if watch.is_some() {
                                came(&mut watch, of_answer(&response.head));
                            }
                            let outcome = Outcome::Answered(&response.head);
                            match self.again(&outcome, repeated, kept, replay.as_deref(), trail) {
                                Some(again) => {
                                    tried.push(endpoint.address);
                                    again
                                }
                                None => {
                                    if let Some(key) = &self.key {
                                        key.keep(trail.key()[1], id(&endpoint.address), &mut response.head);
                                    }
                                    break Ok(response);
                                }
                            }
                        }
                        Err(fault) => {
                            explain::failed(trail, &fault, true);
                            let refused = fault.reason == Reason::RefusedStream;
                            if fault.side() == Side::Upstream && !refused {
                                endpoint.load.failed(Duration::ZERO, clock::nanos());
                                came(&mut watch, Came::Failure(Cause::Reason(fault.reason)));
                            }
                            match self.again(&Outcome::Failed(&fault), repeated, kept, replay.as_deref(), trail) {
                                Some(again) => {
                                    if !refused {
                                        tried.push(endpoint.address);
                                    }
                                    again
                                }
                                None => break Err(fault),
                            }
                        }
                    }
                }
            };
            drop(watch);
            trail.put_down();
            if !self.is_left(&tried) {
                tried.clear();
            }
            repeated += 1;
            under = Some(again.under);
            request = again.request;
            if !again.after.is_zero() {
                // Boxed: the clock of the path is too coarse for it, and few requests wait.
                Box::pin(tokio::time::sleep(again.after)).await;
            }
            if let Some(due) = trail.due() {
                let grpc = request.head.is_grpc();
                deadline::pass_on(&mut request.head, grpc, due.saturating_duration_since(Instant::now()));
            }
        };
        if let Some(pass) = &mut pass {
            pass.answered(&answer);
        }
        self.told(trail, answer)
    }

    /// The same; if it is a failure, the service as it was then is noted where that is wanted.
    fn told<T>(&self, trail: &Trail, outcome: Result<T, Fault>) -> Result<T, Fault> {
        if outcome.is_err() {
            trail.note(|own| self.noted(own));
        }
        outcome
    }

    /// When requests are sent again.
    pub(super) fn retries(&self) -> &Retries {
        self.settings.retries.as_deref().unwrap_or(&retry::UNSAID)
    }

    /// Has the body kept while it is sent, where that may be of use; or only its end seen, from which a bound of a try counts.
    fn replay(&self, request: &mut Request, per_try: Duration) -> Option<Rc<Replay>> {
        let retries = self.settings.retries.as_ref().filter(|retries| retries.attempts > 0);
        if retries.is_none() && per_try.is_zero() || request.body.is_end() || request.body.length() == Length::Tunnel {
            return None;
        }
        let room = retries.map_or(0, |retries| retries.body);
        let replay = Replay::new(std::mem::replace(&mut request.body, Body::empty(Half::Request)), room);
        request.body = replay.take();
        Some(replay)
    }

    /// The request once more, for the case that this try comes to nothing.
    fn kept(&self, request: &mut Request, replay: Option<&Rc<Replay>>, repeated: u16) -> Option<Request> {
        if repeated >= self.retries().attempts {
            return None;
        }
        let body = match replay {
            Some(replay) => replay.take(),
            None if request.body.is_end() => Body::empty(Half::Request),
            None => return None,
        };
        Some(Request { head: request.head.share(), body, interim: Rc::clone(&request.interim) })
    }

    /// What is sent again, and after what wait, if it is. Counts it then.
    fn again(
        &self,
        outcome: &Outcome<'_>,
        repeated: u16,
        kept: Option<Request>,
        replay: Option<&Replay>,
        trail: &Trail,
    ) -> Option<Again> {
        let retries = self.retries();
        let whole = replay.is_none_or(Replay::is_whole);
        let repeatable = |kept: &Request| retries.repeatable(&kept.head);
        let allowed = kept.as_ref().filter(|_| whole).and_then(|kept| {
            let chance = &mut self.dialer.chance();
            let again = retries.again(outcome, repeated, || repeatable(kept), SystemTime::now, chance)?;
            let budget = (!again.free && self.counts).then_some(retries.budget);
            Some((again, self.gate().repeat(&self.settings.limits, budget)?))
        });
        let Some((again, under)) = allowed else {
            if trail.is_recorded() && explain::is_failure(trail, outcome) {
                let known = [kept.is_some(), whole, kept.as_ref().is_some_and(repeatable)];
                trail.note(|_| What::NotAgain(self.not_again(outcome, retries, repeated, known)));
            }
            return None;
        };
        let request = kept?;
        trail.note(|_| What::Again(again.cause, again.after));
        self.dialer.metrics().retry(self.id(), again.cause);
        tracing::debug!(service = %self.name, cause = %again.cause, after = ?again.after, "sending again");
        Some(Again { request, under, after: again.after })
    }

    /// Notes how an endpoint has answered. One that says that it has too much to do, or has nobody behind it, does so
    /// quickly, and must not get more for it.
    pub(super) fn answered(&self, endpoint: &Endpoint, head: &ResponseHead, took: Duration) {
        let now = clock::nanos();
        // Where nobody asks what it costs, nobody looks for it in the head.
        let compared = self.balancer.rules().policy == Balance::LeastLoad && self.count() > 1;
        if compared && is_overloaded(head) {
            endpoint.load.failed(took, now);
            if let Some(wait) = retry::pushback(&head.headers, SystemTime::now) {
                endpoint.load.hold(wait, now);
            }
        } else {
            endpoint.load.answered(took, now, self.balancer.usual());
        }
        self.took(endpoint, took);
    }

    /// Notes how long an answer took, where latencies are compared.
    pub(super) fn took(&self, endpoint: &Endpoint, took: Duration) {
        if self.settings.outliers.as_ref().is_some_and(|outliers| outliers.latency.is_some()) {
            endpoint.health.took(took);
        }
    }

    /// Chooses an endpoint, and says where it stands in the list.
    pub(super) fn pick(&self, tried: &[SocketAddr], trail: &Trail) -> Result<(usize, Rc<Endpoint>), Fault> {
        self.picked(tried, trail, None)
    }

    /// The same, and says in `looked` what was looked at.
    fn picked(
        &self,
        tried: &[SocketAddr],
        trail: &Trail,
        looked: Option<&mut Looked>,
    ) -> Result<(usize, Rc<Endpoint>), Fault> {
        let [hash, token] = trail.key();
        let want = Want { hash, token };
        let members = self.members.borrow();
        let most = self.settings.limits.endpoint.requests;
        let full = |at: usize| members.in_flight(at) >= most;
        // That one was passed over is noted where it is, which is rare.
        let passes = Cell::new(false);
        let passed = |at: usize| {
            let passed = members.address(at).is_none_or(|address| tried.contains(&address)) || full(at);
            if passed {
                passes.set(true);
            }
            passed
        };
        let now = clock::nanos();
        let mut seen = Looked::default();
        let see = looked.is_some().then_some(&mut seen);
        let mut picked = self.balancer.choose(&*members, want, passed, now, &mut self.dialer.chance(), see);
        if picked.is_none() && !tried.is_empty() {
            picked = self.balancer.pick(&*members, want, full, now, &mut self.dialer.chance());
        }
        if let Some(looked) = looked {
            *looked = Looked { passes: seen.passes || passes.get(), ..seen };
        }
        let picked = picked.and_then(|at| Some((at, self.endpoint(&members, at)?)));
        picked.ok_or_else(|| self.nowhere(&members, full))
    }

    /// How many endpoints there are.
    fn count(&self) -> usize {
        self.members.borrow().count()
    }

    /// Whether there is an endpoint that was not tried: the service may have moved since those were.
    fn is_left(&self, tried: &[SocketAddr]) -> bool {
        self.members.borrow().addresses().any(|address| !tried.contains(&address))
    }

    /// Why there is no endpoint.
    #[cold]
    fn nowhere(&self, members: &Members, full: impl Fn(usize) -> bool) -> Fault {
        if (0..members.count()).any(full) {
            return Fault::new(Reason::LimitReached)
                .detail(format!("every endpoint of {} has all it may", self.name))
                .wait(SOON);
        }
        match &members.place().unknown {
            Some(why) => Fault::new(Reason::DnsError).detail(format!("{} has no endpoint: {why}", self.name)),
            None => Fault::new(Reason::DestinationUnavailable).detail(format!("{} has no endpoint", self.name)),
        }
    }

    /// A link; a request that has to wait for one counts as one that waits.
    pub(super) async fn link_in_bounds(
        &self,
        endpoint: &Rc<Endpoint>,
        carriage: Carriage,
        trail: &Trail,
    ) -> Result<Link, Fault> {
        if self.settings.limits.pending == u32::MAX {
            return self.link(endpoint, carriage, trail).await;
        }
        let wait = || self.gate().wait(&self.settings.limits);
        // Boxed: each request would hold room for a link twice.
        Box::pin(bounded(wait, self.link(endpoint, carriage, trail))).await
    }

    /// Whether another connection to an endpoint may be opened beside those that are. The first always may: else a service
    /// with more endpoints than connections would never reach some of them.
    pub(super) fn may_connect(&self, endpoint: &Endpoint) -> bool {
        let Limits { connections, endpoint: own, .. } = self.settings.limits;
        if connections == u32::MAX && own.connections == u32::MAX {
            return true;
        }
        let here = endpoint.connections();
        here == 0
            || here < own.connections as usize
                && self.members.borrow().used().map(|e| e.connections()).sum::<usize>() < connections as usize
    }

    /// Draws the conclusions from what came of a request.
    fn judge(&self, endpoint: &Endpoint, trying: bool, came: Option<Came>, trail: &Trail) {
        let Some(policy) = &self.settings.outliers else { return };
        let now = Instant::now();
        self.sweep(now);
        let ejected = match (trying, came) {
            (true, came) => endpoint.health.tried(came, policy, now),
            (false, None) => None,
            (false, Some(came)) => endpoint.health.note(came, policy, now, || {
                let members = self.members.borrow();
                let ejected = members.used().filter(|endpoint| endpoint.health.is_ejected()).count();
                outlier::may_eject(ejected, members.count(), policy)
            }),
        };
        if let Some(cause) = ejected {
            trail.note(|own| What::Ejected(own.say(endpoint.address), cause));
            self.ejected(endpoint, cause);
        } else if trying && endpoint.health.is_ejected() {
            // Nothing came of it: another request may try it.
            endpoint.changed();
        } else if trying {
            endpoint.returned();
        }
    }

    /// Once in an interval. There is no timer for it: without requests nothing changes.
    fn sweep(&self, now: Instant) {
        let Some(policy) = &self.settings.outliers else { return };
        let since = now.saturating_duration_since(self.swept.get());
        if since < policy.interval {
            return;
        }
        self.swept.set(now);
        let intervals = (since.as_millis() / policy.interval.as_millis().max(1)).try_into().unwrap_or(u32::MAX);
        let (members, unused) = (self.members.borrow(), Health::default());
        let all = members.all().map(|used| used.map_or(&unused, |endpoint| &endpoint.health));
        for (at, cause) in outlier::sweep(all, intervals, policy, now) {
            if let Some(endpoint) = members.get(at) {
                self.ejected(endpoint, cause);
            }
        }
    }

    #[cold]
    fn ejected(&self, endpoint: &Endpoint, cause: Cause) {
        endpoint.changed();
        self.dialer.metrics().ejection(self.id(), cause);
        let left = endpoint.health.ejected(Instant::now()).map(|ejected| ejected.left);
        tracing::info!(service = %self.name, endpoint = %endpoint.address, ?cause, ?left, "an endpoint is ejected");
    }
}

/// A request that the breaker has let in. Tells it how it went, even if nobody waits for it any more.
struct Pass<'a> {
    cluster: &'a Cluster,
    breaker: &'a Breaker,
    trail: &'a Trail,
    start: Instant,
    trying: bool,
    over: bool,
}

impl<'a> Pass<'a> {
    fn new(cluster: &'a Cluster, breaker: &'a Breaker, trail: &'a Trail) -> Result<Self, Fault> {
        let start = Instant::now();
        let trying = breaker.admit(start).map_err(|left| {
            let detail = format!("too many requests to {} failed, or were answered late", cluster.name);
            Fault::new(Reason::BreakerOpen).wait(left).detail(detail)
        })?;
        if trying {
            trail.note(|_| What::Trial);
        }
        Ok(Pass { cluster, breaker, trail, start, trying, over: false })
    }

    fn answered(&mut self, answer: &Result<Response, Fault>) {
        let failed = match answer {
            Ok(response) => of_answer(&response.head) != Came::Success,
            Err(fault) if fault.side() == Side::Upstream => true,
            // A limit, or the caller: that says nothing of the service.
            Err(_) => return,
        };
        self.went(Some(failed));
    }

    fn went(&mut self, failed: Option<bool>) {
        self.over = true;
        let now = Instant::now();
        let went = failed.map(|failed| Went { failed, took: now.saturating_duration_since(self.start) });
        if let Some(change) = self.breaker.note(self.trying, went, now) {
            tracing::info!(service = %self.cluster.name, ?change, "a breaker changed");
            self.cluster.gate().changed(change);
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.went(self.trail.is_expired().then_some(true));
        }
    }
}

/// A repetition that is about to be.
struct Again {
    request: Request,
    under: Repeating,
    after: Duration,
}

/// Tells an endpoint's health what came of a try, even if nobody waits for it any more.
pub(super) struct Watch<'a> {
    cluster: &'a Cluster,
    endpoint: Rc<Endpoint>,
    trail: &'a Trail,
    /// It is the one that tries an ejected endpoint.
    trying: bool,
    over: bool,
}

impl<'a> Watch<'a> {
    pub(super) fn new(cluster: &'a Cluster, endpoint: &Rc<Endpoint>, trail: &'a Trail) -> Self {
        let trying = endpoint.health.is_ejected() && endpoint.health.begin(Instant::now());
        if trying {
            endpoint.changed();
        }
        Watch { cluster, endpoint: Rc::clone(endpoint), trail, trying, over: false }
    }
}

/// What came of a try, for the one who watches the endpoint, if somebody does.
pub(super) fn came(watch: &mut Option<Box<Watch<'_>>>, came: Came) {
    if let Some(watch) = watch
        && !std::mem::replace(&mut watch.over, true)
    {
        watch.cluster.judge(&watch.endpoint, watch.trying, Some(came), watch.trail);
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if !self.over {
            let late = Came::Failure(Cause::Reason(Reason::HttpResponseTimeout));
            self.cluster.judge(&self.endpoint, self.trying, self.trail.is_expired().then_some(late), self.trail);
        }
    }
}

/// Whether an answer says that more requests there are of no use now: 429 and 503, what gateways say of those behind them,
/// and the same in gRPC.
fn is_overloaded(head: &ResponseHead) -> bool {
    matches!(head.status.as_u16(), 429 | 502..=504) || matches!(retry::grpc_status(head), Some(8 | 14))
}

/// What an answer says of who gave it. The codes of gRPC count as the statuses that stand for them.
pub(super) fn of_answer(head: &ResponseHead) -> Came {
    match (head.status.as_u16(), retry::grpc_status(head)) {
        (status @ 502..=504, _) => Came::Failure(Cause::Status(status)),
        (500.., _) => Came::Error,
        (_, Some(code @ (4 | 14))) => Came::Failure(Cause::Grpc(code)),
        (_, Some(2 | 13 | 15)) => Came::Error,
        _ => Came::Success,
    }
}

/// Gives a try up when no answer comes within this time from the end of the request.
async fn within(
    per_try: Duration,
    replay: Option<&Replay>,
    sent: impl Future<Output = Result<Response, Fault>>,
) -> Result<Response, Fault> {
    let (deadline, mut counts, mut sent) = (Deadline::new(), false, pin!(sent));
    poll_fn(|cx| {
        if let Poll::Ready(answer) = sent.as_mut().poll(cx) {
            return Poll::Ready(answer);
        }
        if !counts && replay.is_none_or(Replay::is_read) {
            deadline.set(per_try);
            counts = true;
        }
        deadline
            .poll(cx)
            .map(|()| Err(Fault::new(Reason::PerTryTimeout).detail(format!("no answer within {per_try:?}"))))
    })
    .await
}

/// Waits if `wait` lets it.
async fn bounded<T>(
    wait: impl Fn() -> Result<Waiting, Fault>,
    link: impl Future<Output = Result<T, Fault>>,
) -> Result<T, Fault> {
    let (mut waits, mut link) = (None, pin!(link));
    poll_fn(|cx| {
        if let Poll::Ready(link) = link.as_mut().poll(cx) {
            return Poll::Ready(link);
        }
        if waits.is_none() {
            waits = Some(wait()?);
        }
        Poll::Pending
    })
    .await
}
