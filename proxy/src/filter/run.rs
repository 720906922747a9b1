//! One exchange in the hands of its filters: what each is shown, what it holds back, and what goes on to the next.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use lacis_host::Half;
use lacis_host::abi::{Action, BodyAnswer};

use super::exchange::Exchange;
use super::guest::GuestResponse;
use super::legs::Legs;
use super::meter;
use super::seen::Seen;
use super::stage::{End, Head, Left, Part, Stage};
use super::tunnel;
use super::wasm::Filter;
use crate::fault::{Fault, Reason};
use crate::http::body::{self, Frame, Observer};
use crate::http::{Fields, ResponseHead, Shared};
use crate::telemetry::labels::Outcome;

/// One exchange in the hands of its filters.
pub(super) struct Run {
    pub(super) filters: Legs,
    pub(super) exchange: Rc<Exchange>,
    pub(super) seen: Rc<RefCell<Seen>>,
    /// The exchange is a TCP connection: its heads are shown to nobody, its bodies are the bytes of its two directions.
    pub(super) tcp: bool,
    /// The response is one of ours. A filter whose VM died has no part in it: mostly it is the very cause.
    pub(super) ours: Cell<bool>,
    /// Callbacks that could be entered together are not, and are measured.
    pub(super) apart: bool,
}

impl Run {
    /// An exchange that is about to pass the first of these. `tcp` for a connection.
    pub(super) fn new(
        exchange: &Rc<Exchange>,
        filters: &Rc<[Rc<Filter>]>,
        seen: Rc<RefCell<Seen>>,
        tcp: bool,
    ) -> Rc<Run> {
        Rc::new(Run {
            filters: Legs::new(filters),
            exchange: Rc::clone(exchange),
            seen,
            tcp,
            ours: Cell::new(false),
            apart: meter::apart(),
        })
    }

    /// There is a response, which nothing can follow if it is `bare`; its filters are to see its [head](Run::heads).
    pub(super) fn answered(&self, head: Shared<ResponseHead>, bare: bool) {
        let open = !bare && self.see(Half::Response);
        let mut seen = self.seen.borrow_mut();
        seen.response = Some(GuestResponse::new(head, open));
        let way = &mut seen.ways[Half::Response as usize];
        (way.bare, way.read, way.open) = (bare, bare, open);
    }

    /// Whether the head has passed all filters, and none of them has stopped anything: nothing is to be waited for.
    pub(super) fn has_gone(&self, half: Half) -> bool {
        let way = &self.seen.borrow().ways[half as usize];
        way.released && !way.halted
    }

    /// Whether what follows the head goes by all filters that are there, and nothing has been read of it.
    pub(super) fn goes_by(&self, half: Half) -> bool {
        let way = &self.seen.borrow().ways[half as usize];
        way.bare || !way.open && way.out.is_empty() && !way.ended
    }

    /// It is known where the exchange goes: these filters are next.
    pub(super) fn extend(&self, chains: [Rc<[Rc<Filter>]>; 2]) {
        let _ = self.filters.onward.set(chains);
    }

    /// Shows the head of the request, and what has come after it, to the filters that were added since. The first ones see
    /// the head here, too.
    pub(super) fn onward(&self) -> Result<(), Fault> {
        let half = Half::Request;
        let (first, came) = {
            let mut seen = self.seen.borrow_mut();
            let Seen { request, stages, ways, .. } = &mut *seen;
            let way = &mut ways[half as usize];
            way.heads = if self.filters.onward.get().is_some() { self.filters.listener.len() } else { 0 };
            way.released = false;
            way.open = !way.bare && self.see(half);
            if let Some(request) = request.as_mut().filter(|_| way.open) {
                request.open();
            }
            // Mostly nothing has: what follows is read when the head has gone.
            let came = (way.ended || !way.out.is_empty())
                .then(|| (std::mem::take(&mut way.out), std::mem::take(&mut way.ended)));
            (stages.len(), came)
        };
        self.heads(half)?;
        let Some((mut out, ended)) = came else { return Ok(()) };
        let next = Some(first).filter(|first| *first < self.seen.borrow().stages.len());
        let nothing = out.is_empty();
        while let Some(frame) = out.pop() {
            match frame {
                Frame::Data(data) => self.data(half, next, data, ended && out.is_empty())?,
                Frame::Trailers(_) => self.trailers(half, next)?,
            }
        }
        if ended && nothing { self.data(half, next, Bytes::new(), true) } else { Ok(()) }
    }

    /// Whether a guest has answered or closed the exchange, as a fault: whoever can still answer finds the answer in
    /// [`Seen`]; for whoever cannot, the fault ends the exchange.
    ///
    /// # Errors
    /// If so.
    #[inline]
    pub(super) fn noted(&self) -> Result<(), Fault> {
        let seen = self.seen.borrow();
        if seen.closed || seen.reply.is_some() { self.over(&seen) } else { Ok(()) }
    }

    #[cold]
    fn over(&self, seen: &Seen) -> Result<(), Fault> {
        let what = match seen.closed {
            // What was let through before is still sent; then [`Flow`] ends it.
            true if self.tcp && seen.ways[Half::Request as usize].released => return Ok(()),
            true => "a filter closed the stream",
            false => "a filter answered by itself",
        };
        Err(Fault::new(Reason::FilterReset).detail(what))
    }

    /// Whether a guest has closed the connection: nothing more is read.
    pub(super) fn closed(&self) -> bool {
        self.seen.borrow().closed
    }

    /// As [`Run::noted`], for a task that waits for something else.
    pub(super) fn poll_noted(&self, cx: &Context<'_>) -> Poll<Fault> {
        let mut seen = self.seen.borrow_mut();
        if (seen.closed || seen.reply.is_some())
            && let Err(fault) = self.over(&seen)
        {
            return Poll::Ready(fault);
        }
        seen.wait(cx);
        Poll::Pending
    }

    /// A piece of content has been read, or the end.
    pub(super) fn read(&self, half: Half, data: Bytes, end: bool) -> Result<(), Fault> {
        let first = {
            let mut seen = self.seen.borrow_mut();
            if end {
                seen.read(half);
            }
            seen.first(half)
        };
        self.data(half, first, data, end)
    }

    /// The trailers have been read.
    pub(super) fn read_trailers(&self, half: Half, fields: Fields) -> Result<(), Fault> {
        let first = {
            let mut seen = self.seen.borrow_mut();
            seen.ways[half as usize].read = true;
            seen.trailers[half as usize].came(fields);
            seen.first(half)
        };
        self.trailers(half, first)
    }

    /// Shows content to a filter, and to those after it as far as they let it go on; `None` is whoever writes it.
    fn data(&self, half: Half, at: Option<usize>, data: Bytes, end: bool) -> Result<(), Fault> {
        if let Some((data, end)) = self.through(half, at, data, end)? {
            self.write(half, data, end);
        }
        Ok(())
    }

    /// As [`Run::data`], but that it leaves to the caller what is to be [written](Run::write).
    pub(super) fn through(
        &self,
        half: Half,
        mut at: Option<usize>,
        mut data: Bytes,
        mut end: bool,
    ) -> Result<Option<(Bytes, bool)>, Fault> {
        while let Some(to) = at {
            let Some(from) = self.show(half, to, data, end)? else { return Ok(None) };
            let gone = self.release(half, from)?;
            if gone.end == End::Trailers || gone.is_nothing() {
                return self.reach(half, gone).map(|()| None);
            }
            (at, data, end) = (gone.next, gone.data, gone.end == End::Body);
        }
        Ok(Some((data, end)))
    }

    /// Content has passed all filters.
    pub(super) fn write(&self, half: Half, data: Bytes, end: bool) {
        let way = &mut self.seen.borrow_mut().ways[half as usize];
        if !data.is_empty() {
            way.out.push(Frame::Data(data));
        }
        way.ended |= end;
    }

    /// Shows content to a filter, and perhaps to others together with it: which of them has it now, and lets it go on.
    fn show(&self, half: Half, at: usize, data: Bytes, end: bool) -> Result<Option<usize>, Fault> {
        match self.answer_to(half, at, data, end) {
            Ok(Some((at, BodyAnswer::Continue))) => Ok(Some(at)),
            Ok(Some((at, answer))) => self.hold(half, at, answer).map(|()| None),
            waits => {
                self.seen.borrow_mut().put_down();
                waits.map(|_| None)
            }
        }
    }

    /// As [`Run::show`]: which of them has it, and its answer; none if it waits here for the head.
    fn answer_to(&self, half: Half, at: usize, data: Bytes, end: bool) -> Result<Option<(usize, BodyAnswer)>, Fault> {
        let (filter, place, size, absent, fellows) = {
            let seen = &mut *self.seen.borrow_mut();
            let size = seen.take_up(half, at, data, end);
            if end {
                // The guest may make some now.
                seen.trailers[half as usize].may_come();
            }
            let Stage { number, place, ref parts, .. } = seen.stages[at];
            let part = &parts[half as usize];
            if part.head == Head::Stopped {
                return Ok(None);
            }
            let (filter, absent) = (&self.filters[number], part.absent);
            let fellows = match half {
                Half::Response if at > 0 && !self.tcp => seen.fellows(at, |number| self.filters[number].sees(half)),
                _ => 1,
            };
            (filter, place, size, absent, fellows)
        };
        if absent || !self.sees(filter, half) {
            return Ok(Some((at, BodyAnswer::Continue)));
        }
        let (at, answer) = match fellows {
            2.. if !self.apart && filter.has(place) => self.together(at, place, fellows, size, end)?,
            _ => {
                if fellows > 1 {
                    filter.measured();
                }
                let shown = if self.tcp {
                    tunnel::tap(filter, place, half, end)
                } else {
                    filter.on_body(place, half, size, end)
                };
                (at, shown?)
            }
        };
        self.noted()?;
        Ok(Some((at, answer)))
    }

    /// A filter has stopped content.
    #[inline(never)]
    pub(super) fn hold(&self, half: Half, at: usize, answer: BodyAnswer) -> Result<(), Fault> {
        let filter = self.filter(at);
        let limit = filter.buffer_limit();
        let held = {
            let mut seen = self.seen.borrow_mut();
            seen.put_down();
            seen.ways[half as usize].halted = true;
            let part = &mut seen.stages[at].parts[half as usize];
            part.stopped = Some(answer);
            match answer {
                BodyAnswer::Continue | BodyAnswer::Buffer => {}
                BodyAnswer::Watermark => {
                    let content = part.take_content().take();
                    part.held().kept.append(content);
                }
                BodyAnswer::Discard => drop(part.take_content()),
            }
            part.len() + part.kept()
        };
        // Of a connection no more is read meanwhile.
        if answer == BodyAnswer::Buffer && held > limit && !self.tcp {
            filter.held_too_much();
            return Err(too_large(half, limit));
        }
        Ok(())
    }

    /// Shows the trailers to a filter; `None` is whoever writes them.
    fn trailers(&self, half: Half, at: Option<usize>) -> Result<(), Fault> {
        let Some(at) = at else {
            let mut seen = self.seen.borrow_mut();
            let Seen { trailers, ways, .. } = &mut *seen;
            let way = &mut ways[half as usize];
            way.ended = true;
            let Some(trailers) = trailers[half as usize].get_mut() else { return Ok(()) };
            trailers.check().map_err(|why| Fault::new(Reason::FilterInvalid).detail(why))?;
            if !trailers.fields.is_empty() {
                // The log callbacks may read them once more.
                way.out.push(Frame::Trailers(trailers.fields.clone()));
            }
            return Ok(());
        };
        let (filter, place, count, absent) = {
            let mut seen = self.seen.borrow_mut();
            let count = seen.trailers[half as usize].count();
            let Stage { number, place, parts, .. } = &mut seen.stages[at];
            let part = &mut parts[half as usize];
            part.end = End::Trailers;
            if part.head == Head::Stopped {
                return Ok(());
            }
            (&self.filters[*number], *place, count, part.absent)
        };
        if absent || !self.sees(filter, half) {
            return self.forward(half, at);
        }
        let action = filter.on_trailers(place, half, count)?;
        self.noted()?;
        match action {
            Action::Continue => self.forward(half, at),
            Action::Pause => {
                self.seen.borrow_mut().ways[half as usize].halted = true;
                self.part(half, at, |part| *part.stopped.get_or_insert(BodyAnswer::Buffer));
                Ok(())
            }
        }
    }

    /// Everything that is with a filter goes on to the next.
    fn forward(&self, half: Half, at: usize) -> Result<(), Fault> {
        let gone = self.release(half, at)?;
        self.reach(half, gone)
    }

    /// Takes everything that is with a filter; its head goes on.
    pub(super) fn release(&self, half: Half, at: usize) -> Result<Gone, Fault> {
        let mut seen = self.seen.borrow_mut();
        let (data, end) = seen.take(half, at);
        if seen.stages[at].parts[half as usize].head == Head::Held {
            drop(seen);
            self.head_goes(half, at)?;
            self.heads(half)?;
            seen = self.seen.borrow_mut();
        }
        let trailers = &mut seen.trailers[half as usize];
        let end = match end {
            // A guest has made some.
            End::Body if trailers.count() > 0 => End::Trailers,
            End::Body => {
                trailers.are_none();
                End::Body
            }
            end => end,
        };
        Ok(Gone { next: seen.after(half, at), data, end })
    }

    /// What a filter has let go on is shown to the next.
    #[inline(never)]
    pub(super) fn reach(&self, half: Half, gone: Gone) -> Result<(), Fault> {
        let Gone { next, data, end } = gone;
        if !data.is_empty() || end == End::Body {
            self.data(half, next, data, end == End::Body)?;
        }
        if end == End::Trailers { self.trailers(half, next) } else { Ok(()) }
    }

    /// Does what guests asked for since this was last called, and what must be done where one has died.
    #[inline]
    pub(super) fn notice(&self, half: Half) -> Result<(), Fault> {
        let calm = self.seen.borrow().is_calm(half);
        if calm { Ok(()) } else { self.resume(half) }
    }

    /// What filters have stopped and let go on now does, and so does what nobody will let go on any more. Apart from what
    /// each frame calls, as few exchanges need it.
    #[inline(never)]
    fn resume(&self, half: Half) -> Result<(), Fault> {
        self.noted()?;
        let mut next = self.seen.borrow().first(half);
        while let Some(at) = next {
            next = self.seen.borrow().after(half, at);
            let (resumed, head, stopped) =
                self.part(half, at, |part| (std::mem::take(&mut part.resumed), part.head, part.stopped.is_some()));
            let waits = stopped || matches!(head, Head::Stopped | Head::Held);
            if !waits {
                continue;
            }
            if resumed && half == Half::Request {
                // Whatever has become of its VM since.
                self.said(at, Outcome::Continue);
            }
            if !resumed {
                let place = self.seen.borrow().stages[at].place;
                if self.filter(at).has(place) {
                    continue;
                }
                self.filter(at).lost()?;
                // It did not let it go on.
                let skips = half == Half::Request && self.seen.borrow_mut().stages[at].leave().is_some();
                if skips {
                    self.filter(at).skipped();
                }
            }
            if head != Head::Stopped {
                self.forward(half, at)?;
                continue;
            }
            self.head_goes(half, at)?;
            self.heads(half)?;
            // What has come meanwhile is new to this filter.
            let (data, end) = self.part(half, at, Part::unseen);
            if !data.is_empty() || end == End::Body {
                self.data(half, Some(at), data, end == End::Body)?;
            }
            if end == End::Trailers {
                self.trailers(half, Some(at))?;
            }
        }
        Ok(())
    }

    /// Whether something that is read from below would move on, or may be kept.
    pub(super) fn takes(&self, half: Half) -> bool {
        let seen = self.seen.borrow();
        let way = &seen.ways[half as usize];
        !way.read && (!way.halted || self.has_room(&seen, half))
    }

    /// Whether the first filter that has stopped something may keep more.
    fn has_room(&self, seen: &Seen, half: Half) -> bool {
        let mut next = seen.first(half);
        while let Some(at) = next {
            let stage = &seen.stages[at];
            let part = &stage.parts[half as usize];
            let limit = || self.filters[stage.number].buffer_limit();
            match (part.head, part.stopped) {
                // What arrives meanwhile is kept for it, as in Envoy: one piece, when the head has gone.
                (Head::Stopped, _) => return part.len() < limit(),
                (_, Some(BodyAnswer::Watermark)) => return part.kept() < limit(),
                (_, Some(_)) => return !self.tcp || part.len() < limit(),
                (_, None) => next = seen.after(half, at),
            }
        }
        true
    }

    /// Whether a filter has stopped the head, and sees nothing of what follows.
    pub(super) fn is_closed(&self, half: Half) -> bool {
        self.seen.borrow().stages.iter().any(|stage| stage.parts[half as usize].head == Head::Stopped)
    }

    /// Whether a filter has stopped something.
    pub(super) fn is_stopped(&self, half: Half) -> bool {
        self.seen.borrow().stages.iter().any(|stage| {
            let part = &stage.parts[half as usize];
            part.stopped.is_some() || matches!(part.head, Head::Stopped | Head::Held)
        })
    }

    /// Counts what a filter said of the request, once.
    pub(super) fn said(&self, at: usize, outcome: Outcome) {
        let left = self.seen.borrow_mut().stages[at].leave();
        if let Some(left) = left {
            self.count(left, outcome);
        }
    }

    pub(super) fn count(&self, left: Left, outcome: Outcome) {
        let filter = &self.filters[left.number];
        let took = filter.said(outcome, left.since, left.waited);
        self.exchange.verdict(took, || filter.verdict(outcome));
    }

    /// Whether there is a filter with callbacks for content of this half.
    pub(super) fn see(&self, half: Half) -> bool {
        self.filters.any(|filter| self.sees(filter, half))
    }

    /// Whether a filter has callbacks for content of this half.
    fn sees(&self, filter: &Filter, half: Half) -> bool {
        if self.tcp { filter.taps(half) } else { filter.sees(half) }
    }

    pub(super) fn filter(&self, at: usize) -> &Filter {
        &self.filters[self.seen.borrow().stages[at].number]
    }

    pub(super) fn part<T>(&self, half: Half, at: usize, f: impl FnOnce(&mut Part) -> T) -> T {
        f(&mut self.seen.borrow_mut().stages[at].parts[half as usize])
    }
}

/// What has left a filter, for the next.
pub(super) struct Gone {
    pub(super) next: Option<usize>,
    pub(super) data: Bytes,
    pub(super) end: End,
}

impl Gone {
    fn is_nothing(&self) -> bool {
        self.data.is_empty() && self.end == End::Open
    }
}

fn too_large(half: Half, limit: usize) -> Fault {
    let reason = match half {
        Half::Request => Reason::ContentTooLarge,
        Half::Response => Reason::HttpResponseBodySize,
    };
    Fault::new(reason).detail(format!("a filter held back more than {limit} bytes (limits.buffer)"))
}

/// The exchange accounts for the response; a guest may still end it.
impl Observer for Run {
    fn data(&self, half: body::Half, bytes: usize) {
        self.exchange.data(half, bytes);
    }

    fn trailers(&self, half: body::Half, trailers: &Fields) {
        self.exchange.trailers(half, trailers);
    }

    fn end(&self, half: body::Half, outcome: Option<Result<(), &Fault>>) {
        self.exchange.end(half, outcome);
    }

    fn poll_idle(&self, cx: &mut Context<'_>) -> Poll<Fault> {
        match self.poll_noted(cx) {
            Poll::Ready(fault) => Poll::Ready(fault),
            Poll::Pending => self.exchange.poll_idle(cx),
        }
    }
}
