//! Another endpoint is asked beside one whose answer takes long, and the first good answer counts (Dean and Barroso, "The
//! Tail at Scale"). Only what is harmless to repeat, and only as much as the budget of repetitions allows.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::HeaderValue;

use super::endpoint::Endpoint;
use super::gate::Repeating;
use super::outlier::Result as Came;
use super::replay::Replay;
use super::retry::Outcome;
use super::send::{ATTEMPT_COUNT, Watch, came, of_answer};
use super::{Carriage, Cluster, explain};
use crate::clock;
use crate::config::policy::After;
use crate::fault::{Fault, Reason, Side};
use crate::http::body::Half;
use crate::http::{Body, Request, Response};
use crate::telemetry::labels::{Cause, Hedged};
use crate::telemetry::trail::{Busy, Trail};
use crate::telemetry::why::What;

/// How one request may be hedged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hedging {
    /// After this wait, and after as long again,
    after: Duration,
    /// up to so many times.
    most: u16,
    /// How often it was sent again before.
    repeated: u16,
}

/// Another request beside the first, and what came of it.
pub(super) struct Second<'a> {
    pub(super) endpoint: Rc<Endpoint>,
    pub(super) watch: Option<Box<Watch<'a>>>,
    trail: Trail,
    answer: Result<Response, Fault>,
}

/// A request that is of no use, since another one was answered, or may be.
pub(super) struct Lost {
    /// What came of it, if it failed; else it was still under way.
    answer: Option<Result<Response, Fault>>,
    /// Until then, from when it was sent.
    took: Duration,
}

impl Lost {
    fn new(answer: Option<Result<Response, Fault>>, sent: Option<Instant>) -> Self {
        Lost { answer, took: sent.map_or(Duration::ZERO, |sent| sent.elapsed()) }
    }
}

impl Cluster {
    /// Whether a request is to be hedged, of which this was kept for a repetition.
    pub(super) fn hedging(&self, kept: Option<&Request>, repeated: u16) -> Option<Hedging> {
        let retries = self.settings.retries.as_ref()?;
        let hedge = retries.hedge.as_ref()?;
        let after = match hedge.after {
            After::Fixed(after) => after,
            After::Quantile(_) => self.quantile()?.value()?,
        };
        kept.filter(|kept| retries.repeatable(&kept.head)).map(|_| Hedging { after, most: hedge.max, repeated })
    }

    /// A request that was sent at this moment is answered; or another was, and this would have taken longer still.
    pub(super) fn learn(&self, sent: Option<Instant>) {
        if let (Some(quantile), Some(sent)) = (self.quantile(), sent) {
            quantile.note(sent.elapsed());
        }
    }

    /// Waits for an answer that is under way, and asks other endpoints, too, when it takes long. Gives the first good
    /// answer, and whose it is if it is not the one that was waited for, with what came of that. What is given up then is
    /// cancelled.
    pub(super) async fn hedged<'a>(
        &'a self,
        first: impl Future<Output = Result<Response, Fault>>,
        hedging: Hedging,
        kept: &mut Option<Request>,
        replay: Option<&Rc<Replay>>,
        mut asked: Vec<SocketAddr>,
        trail: &'a Trail,
    ) -> (Result<Response, Fault>, Option<(Second<'a>, Lost)>) {
        let Hedging { after, most: mut left, repeated } = hedging;
        let (mut first, since) = (pin!(first), trail.sent());
        let mut failed: Option<Lost> = None;
        let mut others: Vec<Pin<Box<dyn Future<Output = Second<'a>> + 'a>>> = Vec::new();
        // Not the clock of the path, which is too coarse for it.
        let mut wait = pin!(tokio::time::sleep(after));
        let mut waits = false;
        let (answer, won) = poll_fn(|cx| {
            if failed.is_none()
                && let Poll::Ready(answer) = first.as_mut().poll(cx)
            {
                if others.is_empty() || is_good(&answer) {
                    return Poll::Ready((answer, None));
                }
                failed = Some(Lost::new(Some(answer), since));
            }
            loop {
                let mut at = 0;
                while let Some(other) = others.get_mut(at) {
                    match other.as_mut().poll(cx) {
                        Poll::Pending => at += 1,
                        Poll::Ready(mut second) => {
                            drop(others.swap_remove(at));
                            if is_good(&second.answer) {
                                let answer = std::mem::replace(&mut second.answer, Err(Fault::new(Reason::None)));
                                return Poll::Ready((answer, Some(second)));
                            }
                            self.counted(Hedged::Failed);
                            if let Err(fault) = &second.answer {
                                explain::failed(trail, fault, second.trail.sent().is_some());
                            }
                            let lost = Lost::new(Some(second.answer), second.trail.sent());
                            self.lost(&second.endpoint, &mut second.watch, &lost);
                        }
                    }
                }
                if others.is_empty()
                    && let Some(answer) = failed.as_mut().and_then(|lost| lost.answer.take())
                {
                    return Poll::Ready((answer, None));
                }
                // From the end of the request: until then it is the caller who takes long. And two can read what was kept
                // of it only if nobody has to read on.
                if left == 0 || failed.is_some() || !replay.is_none_or(|replay| replay.is_read()) {
                    return Poll::Pending;
                }
                if !std::mem::replace(&mut waits, true) {
                    wait.as_mut().reset(tokio::time::Instant::now() + after);
                }
                if wait.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                (waits, left) = (false, left - 1);
                match self.second(kept, replay, &mut asked, repeated, trail) {
                    Some(other) => others.push(other),
                    None => left = 0,
                }
            }
        })
        .await;
        for _ in &others {
            self.counted(Hedged::Lost);
        }
        if answer.is_ok() {
            self.learn(since);
        }
        let won = won.map(|second| {
            self.counted(Hedged::Won);
            trail.adopt(&second.trail);
            trail.note(|own| What::Won(own.say(second.endpoint.address)));
            (second, failed.unwrap_or_else(|| Lost::new(None, since)))
        });
        (answer, won)
    }

    /// What a request that is of no use says of its endpoint. One that is slow, and then fails, would else never be
    /// known as such: others answer in its place.
    pub(super) fn lost(&self, endpoint: &Endpoint, watch: &mut Option<Box<Watch<'_>>>, lost: &Lost) {
        match &lost.answer {
            Some(Ok(response)) => {
                self.answered(endpoint, &response.head, lost.took);
                came(watch, of_answer(&response.head));
            }
            Some(Err(fault)) if fault.side() == Side::Upstream && fault.reason != Reason::RefusedStream => {
                endpoint.load.failed(Duration::ZERO, clock::nanos());
                came(watch, Came::Failure(Cause::Reason(fault.reason)));
            }
            Some(Err(_)) => {}
            None => {
                endpoint.load.unanswered(lost.took, clock::nanos());
                self.took(endpoint, lost.took);
                came(watch, Came::Outrun);
            }
        }
    }

    fn counted(&self, hedged: Hedged) {
        self.dialer.metrics().hedged(self.id(), hedged);
    }

    /// Asks another endpoint, if there is one and the budget allows it.
    fn second<'a>(
        &'a self,
        kept: &mut Option<Request>,
        replay: Option<&Rc<Replay>>,
        asked: &mut Vec<SocketAddr>,
        repeated: u16,
        trail: &'a Trail,
    ) -> Option<Pin<Box<dyn Future<Output = Second<'a>> + 'a>>> {
        let kept = kept.as_mut()?;
        if !replay.is_none_or(|replay| replay.is_whole()) {
            return None;
        }
        let (_, endpoint) = self.pick(asked, trail).ok().filter(|(_, endpoint)| !asked.contains(&endpoint.address))?;
        let Some(under) = self.gate().repeat(&self.settings.limits, Some(self.retries().budget)) else {
            self.counted(Hedged::Refused);
            return None;
        };
        asked.push(endpoint.address);
        trail.doubled();
        trail.note_at(Instant::now(), |own| What::Hedge(own.say(endpoint.address)));
        let body = replay.map_or_else(|| Body::empty(Half::Request), Replay::take);
        let mut head = kept.head.share();
        let number = repeated.saturating_add(u16::try_from(asked.len()).unwrap_or(u16::MAX));
        head.headers.insert(ATTEMPT_COUNT, HeaderValue::from(number));
        let request = Request { head, body, interim: Rc::clone(&kept.interim) };
        Some(Box::pin(self.ask(request, endpoint, under, trail)))
    }

    async fn ask<'a>(
        &'a self,
        request: Request,
        endpoint: Rc<Endpoint>,
        under: Repeating,
        of: &'a Trail,
    ) -> Second<'a> {
        let trail = Trail::default();
        trail.attempt(endpoint.address);
        endpoint.load.start();
        trail.carried(Rc::clone(&endpoint) as Rc<dyn Busy>);
        let watch = self.settings.outliers.is_some().then(|| Box::new(Watch::new(self, &endpoint, of)));
        let answer = match self.link_in_bounds(&endpoint, Carriage::of(&request.head), &trail).await {
            Ok(link) => {
                trail.leaves(link.carrier(), Instant::now());
                link.send(request).await
            }
            Err(fault) => {
                if fault.side() == Side::Upstream {
                    endpoint.rest();
                }
                Err(fault)
            }
        };
        drop(under);
        Second { endpoint, watch, trail, answer }
    }
}

fn is_good(answer: &Result<Response, Fault>) -> bool {
    answer.as_ref().is_ok_and(|response| !Outcome::Answered(&response.head).is_failure())
}
