//! One half of an exchange on its way through the filters: its head, its content piece by piece, its trailers.
//!
//! A half is pulled like any body: a frame is read from below only while it can move on, goes from filter to filter, and
//! is what the reader above gets. What a filter stops stays with it until it lets it go on; nothing overtakes.

use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderValue};
use lacis_host::Half;

use super::machine::DeathWatch;
use super::run::Run;
use super::seen::Seen;
use crate::clock::Deadline;
use crate::fault::{Fault, Reason};
use crate::http::body::{self, Frame, Length, Made, Source};
use crate::http::fields::Value;
use crate::http::rules;
use crate::http::{Body, Fields, Interim, ResponseHead};

/// How long a filter may stop a head: Envoy's default of `stream_idle_timeout`. Nothing else bounds it.
const PATIENCE: Duration = Duration::from_secs(300);

/// One half of it: what is pulled from below, filtered.
pub(super) struct Flow {
    run: Rc<Run>,
    half: Half,
    below: Body,
    /// Where a client is told that its content is wanted, if it waits for that.
    expects: Option<Rc<Interim>>,
    asked: bool,
    /// How much is announced, once the head has gone, and how much has passed.
    announced: Option<u64>,
    passed: u64,
    /// What makes the body as long as announced, until it is known that nothing follows: whoever has it all, and is told by
    /// the connection's end only that there was more, takes a cut body for a whole one.
    held: Option<Bytes>,
    patience: Option<Deadline>,
    watch: Option<DeathWatch>,
}

impl Flow {
    /// A half whose head is with filters or has passed them, and what follows it, which is taken out of the message. Needed
    /// where that passes filters, or is waited for.
    pub(super) fn new(run: &Rc<Run>, half: Half, below: &mut Body) -> Box<Flow> {
        let empty = Body::empty(of(half));
        // Made in its place: it is large.
        Box::write(
            Box::new_uninit(),
            Flow {
                run: Rc::clone(run),
                half,
                below: std::mem::replace(below, empty),
                expects: None,
                asked: false,
                announced: None,
                passed: 0,
                held: None,
                patience: None,
                watch: None,
            },
        )
    }

    /// The client waits to be told that its content is wanted (RFC 9110 section 10.1.1). The server that would say so does
    /// not have the head yet when a filter wants the content first.
    pub(super) fn expects(&mut self, interim: &Rc<Interim>) {
        self.expects = Some(Rc::clone(interim));
    }

    /// Whether it was told so here.
    pub(super) fn has_asked(&self) -> bool {
        self.asked
    }

    /// Waits until the head, which is [on its way](Run::onward), has passed all filters that are there now, and as much of
    /// what follows as it takes for that.
    ///
    /// # Errors
    /// If a filter answers, closes, or fails; see [`Run::noted`].
    pub(super) async fn head(&mut self) -> Result<(), Fault> {
        poll_fn(|cx| self.poll_head(cx)).await
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        loop {
            self.run.notice(self.half)?;
            if self.run.seen.borrow().ways[self.half as usize].released {
                (self.patience, self.watch) = (None, None);
                return Poll::Ready(Ok(()));
            }
            // A response may wait here while the rest of its request moves on.
            self.below.poll_upload(cx)?;
            // Not while a filter may still refuse the request.
            if self.run.takes(self.half)
                && !self.run.is_closed(self.half)
                && let Some(interim) = self.expects.take()
            {
                interim.push(ResponseHead::new(StatusCode::CONTINUE));
                self.asked = true;
            }
            if self.poll_pull(cx)?.is_ready() {
                continue;
            }
            self.wait(cx);
            let patience = self.patience.get_or_insert_with(|| {
                let deadline = Deadline::new();
                deadline.set(PATIENCE);
                deadline
            });
            return patience.poll(cx).map(|()| {
                let whole = self.half == Half::Response || self.below.is_end();
                let reason = if whole { Reason::StreamIdleTimeout } else { Reason::RequestTimeout };
                Err(Fault::new(reason).detail("a filter stopped a head and never let it go on"))
            });
        }
    }

    /// Puts what follows into `body`, filtered, now that the head has passed and has these `fields`. Where these say another
    /// length than the content has by now: the right one.
    ///
    /// # Errors
    /// If a filter announces a length that is none.
    pub(super) fn body(self: Box<Self>, fields: &Fields, body: &mut Body) -> Result<Option<HeaderValue>, Fault> {
        if self.run.goes_by(self.half) {
            *body = self.below;
            return Ok(None);
        }
        let (length, right) = self.length(fields)?;
        self.put(length, body);
        Ok(right)
    }

    /// Puts what follows into `body`, filtered, where the head has passed and says that it is so long.
    pub(super) fn put(mut self: Box<Self>, length: Length, body: &mut Body) {
        if let Length::Known(length) = length {
            self.announced = Some(length);
        }
        let upload = self.below.take_upload();
        *body = Body::source(of(self.half), Source::Made(self), length);
        if let Some(upload) = upload {
            body.carry(upload);
        }
    }

    /// The same where filters have made the head of a response one that no content follows (RFC 9110 section 6.4.1): they are
    /// shown all of it, as in Envoy, and nothing comes out.
    pub(super) fn withhold(mut self: Box<Self>, body: &mut Body) {
        let upload = self.below.take_upload();
        *body = Body::source(of(self.half), Source::Made(Box::new(Withheld(self))), Length::Known(0));
        if let Some(upload) = upload {
            body.carry(upload);
        }
    }

    /// How long the content will be, as far as that is known, with a head of these `fields`; and the right length to say, where
    /// they say another.
    fn length(&self, fields: &Fields) -> Result<(Length, Option<HeaderValue>), Fault> {
        let seen = self.run.seen.borrow();
        let way = &seen.ways[self.half as usize];
        let length = match self.below.length() {
            Length::Tunnel => Length::Tunnel,
            _ if self.run.tcp => Length::Tunnel,
            // All of it is here: what is said of its length can be set right.
            _ if way.ended && fields.contains_key(header::CONTENT_LENGTH) => {
                let total = way.out.len();
                let right = HeaderValue::from(total);
                let said = fields.get_all(header::CONTENT_LENGTH).map(Value::as_bytes);
                let wrong = !said.eq([right.as_bytes()]);
                return Ok((Length::Known(total), wrong.then_some(right)));
            }
            _ if way.ended => Length::Unknown,
            length => announced(&seen, self.half, fields, length)?,
        };
        Ok((length, None))
    }

    /// Reads one frame from below, if it can move on, and shows it. Pending also when it cannot.
    fn poll_pull(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Fault> {
        if !self.run.takes(self.half) {
            return Ok(Poll::Pending);
        }
        let Poll::Ready(frame) = self.below.poll_frame(cx) else { return Ok(Poll::Pending) };
        match frame.transpose()? {
            Some(Frame::Data(data)) => {
                // An end that is known is shown with what comes before it. That of a connection comes by itself.
                let end = self.below.is_end() && !self.run.tcp;
                if end || !data.is_empty() {
                    self.run.read(self.half, data, end)?;
                }
            }
            Some(Frame::Trailers(fields)) => self.run.read_trailers(self.half, fields)?,
            None => self.run.read(self.half, Bytes::new(), true)?,
        }
        Ok(Poll::Ready(()))
    }

    /// Wakes this task when a guest lets something go on, or dies.
    fn wait(&mut self, cx: &mut Context<'_>) {
        self.run.seen.borrow_mut().wait(cx);
        self.watch = self.run.is_stopped(self.half).then(|| DeathWatch::new(cx));
    }
}

/// How long content of this length will be by what a head of these `fields` says, where filters may have changed that.
pub(super) fn announced(seen: &Seen, half: Half, fields: &Fields, length: Length) -> Result<Length, Fault> {
    if !seen.has_length_of_theirs(half) {
        return Ok(length);
    }
    Ok(rules::content_length(fields, Reason::FilterInvalid)?.map_or(Length::Unknown, Length::Known))
}

/// The half of a message, as bodies call it.
fn of(half: Half) -> body::Half {
    match half {
        Half::Request => body::Half::Request,
        Half::Response => body::Half::Response,
    }
}

impl Made for Flow {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Fault>>> {
        loop {
            if let Err(fault) = self.run.notice(self.half) {
                return Poll::Ready(Some(Err(fault)));
            }
            let (frame, ended, last) = {
                let way = &mut self.run.seen.borrow_mut().ways[self.half as usize];
                (way.out.pop(), way.ended, way.ended && way.out.is_empty())
            };
            if let Some(Frame::Data(data)) = &frame {
                self.passed += data.len() as u64;
            }
            // What was announced has gone out: it cannot be mended any more, only kept from doing harm.
            let over = ended && !matches!(frame, Some(Frame::Data(_)));
            let wrong = match self.announced {
                Some(announced) => self.passed > announced || over && self.passed != announced,
                None => false,
            };
            if wrong {
                let text = "a filter changed the length of a body and not its content-length";
                return Poll::Ready(Some(Err(Fault::new(Reason::FilterInvalid).detail(text))));
            }
            match frame {
                Some(Frame::Data(data)) if !last && self.announced == Some(self.passed) => {
                    if !data.is_empty() {
                        self.held = Some(data);
                    }
                    continue;
                }
                Some(frame) => {
                    let frame = match self.held.take() {
                        None => frame,
                        Some(held) => {
                            if !matches!(&frame, Frame::Data(data) if data.is_empty()) {
                                self.run.seen.borrow_mut().ways[self.half as usize].out.unshift(frame);
                            }
                            Frame::Data(held)
                        }
                    };
                    return Poll::Ready(Some(Ok(frame)));
                }
                None if ended => return Poll::Ready(self.held.take().map(|held| Ok(Frame::Data(held)))),
                None if self.run.closed() => {
                    self.below = Body::empty(body::Half::Request);
                    let fault = Fault::new(Reason::FilterReset).detail("a filter closed the connection");
                    self.run.exchange.failed(&fault);
                    return Poll::Ready(None);
                }
                None => {}
            }
            match self.poll_pull(cx) {
                Ok(Poll::Ready(())) => {}
                Ok(Poll::Pending) => {
                    self.wait(cx);
                    return Poll::Pending;
                }
                Err(fault) => return Poll::Ready(Some(Err(fault))),
            }
        }
    }

    fn is_end(&self) -> bool {
        let way = &self.run.seen.borrow().ways[self.half as usize];
        way.ended && way.out.is_empty() && self.held.is_none()
    }
}

/// What is shown to filters and not sent.
#[derive(Debug)]
struct Withheld(Box<Flow>);

impl Made for Withheld {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Fault>>> {
        loop {
            match ready!(self.0.poll_frame(cx)) {
                Some(Ok(_)) => {}
                end => return Poll::Ready(end),
            }
        }
    }

    fn is_end(&self) -> bool {
        self.0.is_end()
    }
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flow").field("half", &self.half).field("below", &self.below).finish_non_exhaustive()
    }
}
