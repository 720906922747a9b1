//! Several callbacks in one entry of the guest, by the functions of `joint.rs`: how far they are, and what the host does
//! between them.

use wasmtime::Global;

use crate::contexts::{Contexts, Life, Part, Replied};
use crate::exports::{BODY, HEADERS};
use crate::stream::{ContextId, Half};

/// The globals by which the host knows how far an entry is, ends it, and says how many lines the head has that is shown and
/// from which level on lines are logged.
#[derive(Clone, Copy)]
pub(crate) struct Counters {
    pub(crate) step: Global,
    pub(crate) stop: Global,
    pub(crate) lines: Global,
    pub(crate) quiet: Global,
}

/// The callbacks of one entry, and how far the host has followed them: those before `at` have returned.
#[derive(Debug)]
pub(crate) struct Turn {
    kind: Kind,
    /// What is shown is the last.
    end: bool,
    /// The context of the first callback, and how many there are; where several exchanges end, of the one that is told.
    pub(crate) first: u32,
    contexts: u32,
    /// Which exchange that is, and the callback with which it begins.
    exchange: usize,
    from: u32,
    /// How many callbacks there are, and the first that is shown content, if any is.
    pub(crate) steps: u32,
    content: u32,
    pub(crate) at: u32,
    /// The callback whose time is taken.
    timed: u32,
    /// What had been answered before the callback began.
    pub(crate) replied: Replied,
    /// The callback that runs is the last.
    pub(crate) stopped: bool,
    /// How many lines the head has that is shown, as the guest knows it.
    pub(crate) lines: u32,
}

/// The callback of an entry that began last, and what had been answered before.
pub(crate) struct Last {
    pub(crate) step: u32,
    pub(crate) context: u32,
    pub(crate) replied: Replied,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Each context is made and sees the head of the request. Contexts are numbered upwards.
    Begin,
    /// Each sees the head of the response. Contexts are numbered downwards.
    Heads,
    /// Of each exchange all log, then each is done and deleted. Contexts are numbered upwards in each.
    End,
    /// Each sees content of the response. Contexts are numbered downwards.
    Body,
    /// Each sees the head of the response, then each all of its content. Contexts are numbered downwards.
    Response,
}

impl Turn {
    /// Contexts that are made and shown the head of the request, which has so many lines.
    pub(crate) fn begin(first: ContextId, contexts: u32, lines: u32) -> Turn {
        Turn { lines, ..Turn::new(Kind::Begin, first, contexts) }
    }

    /// Contexts that are shown the head of the response.
    pub(crate) fn heads(first: ContextId, contexts: u32, lines: u32) -> Turn {
        Turn { lines, ..Turn::new(Kind::Heads, first, contexts) }
    }

    /// Contexts that are shown content of the response.
    pub(crate) fn body(first: ContextId, contexts: u32, end: bool) -> Turn {
        Turn { end, ..Turn::new(Kind::Body, first, contexts) }
    }

    /// Contexts that are shown the head of the response, and all of its content.
    pub(crate) fn response(first: ContextId, contexts: u32, lines: u32) -> Turn {
        Turn { lines, end: true, ..Turn::new(Kind::Response, first, contexts) }
    }

    /// Exchanges that end, of which the first has so many contexts; so many callbacks in all.
    pub(crate) fn end(first: ContextId, contexts: u32, steps: u32) -> Turn {
        Turn { steps, ..Turn::new(Kind::End, first, contexts) }
    }

    fn new(kind: Kind, first: ContextId, contexts: u32) -> Turn {
        let (steps, content) = match kind {
            Kind::Begin => (contexts * 2, u32::MAX),
            Kind::Heads => (contexts, u32::MAX),
            Kind::End => (contexts * 3, u32::MAX),
            Kind::Body => (contexts, 0),
            Kind::Response => (contexts * 2, contexts),
        };
        Turn {
            kind,
            end: false,
            first: first.0,
            contexts,
            exchange: 0,
            from: 0,
            steps,
            content,
            at: 0,
            timed: 0,
            replied: Replied::Not,
            stopped: false,
            lines: 0,
        }
    }

    /// The context that a callback is for.
    pub(crate) fn context(&self, step: u32) -> u32 {
        match self.kind {
            Kind::Begin => self.first + step / 2,
            Kind::End => match step - self.from {
                step if step < self.contexts => self.first + step,
                step => self.first + (step - self.contexts) / 2,
            },
            Kind::Heads | Kind::Body | Kind::Response if step < self.contexts => self.first - step,
            Kind::Heads | Kind::Body | Kind::Response => self.first - (step - self.contexts),
        }
    }

    /// Whether a callback is shown content.
    pub(crate) fn shows_body(&self, step: u32) -> bool {
        step >= self.content
    }

    /// Whether there are callbacks between those that the host has followed and this one.
    #[inline]
    pub(crate) fn is_behind(&self, step: u32) -> bool {
        self.at < step
    }

    /// Whether this is a context that is made later.
    pub(crate) fn is_ahead(&self, context: u32) -> bool {
        self.kind == Kind::Begin && context > self.context(self.at) && context - self.first < self.contexts
    }

    /// Whether a head is shown to others yet, or what follows it is.
    pub(crate) fn shows_head(&self) -> bool {
        let heads = match self.kind {
            Kind::Begin | Kind::Heads => self.steps - 1,
            Kind::Response => self.contexts,
            Kind::End | Kind::Body => 0,
        };
        self.at < heads && !self.stopped
    }

    /// Whether what is shown next is content.
    pub(crate) fn shows_body_next(&self) -> bool {
        self.kind == Kind::Response && self.at + 1 == self.contexts
    }

    /// Whether a context is made in this step, of which nothing is to be done outside.
    fn makes(&self, step: u32) -> bool {
        self.kind == Kind::Begin && step.is_multiple_of(2)
    }

    /// Whether a call of the host has this callback be the last: `last` if it is such a call in callbacks of other kinds.
    pub(crate) fn ends_by(&self, last: bool) -> bool {
        // Of one that is shown content, what it does may concern those who would come next.
        let ends = self.shows_body(self.at) || last && self.kind != Kind::End;
        ends && !self.stopped
    }

    /// The callback that runs.
    pub(crate) fn callback(&self) -> &'static str {
        let step = self.at;
        match self.kind {
            Kind::Begin if step.is_multiple_of(2) => "proxy_on_context_create",
            Kind::Begin => HEADERS[Half::Request as usize],
            _ if self.shows_body(step) => BODY[Half::Response as usize],
            Kind::Heads | Kind::Body | Kind::Response => HEADERS[Half::Response as usize],
            Kind::End => match step - self.from {
                step if step < self.contexts => "proxy_on_log",
                step if (step - self.contexts).is_multiple_of(2) => "proxy_on_done",
                _ => "proxy_on_delete",
            },
        }
    }

    /// Whether the callback that runs is not the one whose time was taken so far; from now on it is.
    pub(crate) fn is_another(&mut self) -> bool {
        std::mem::replace(&mut self.timed, self.at) != self.at
    }

    /// The callback at which the turn is is about to begin, as far as others can see that.
    #[inline]
    pub(crate) fn reach(&mut self, contexts: &Contexts) {
        if self.makes(self.at) {
            return;
        }
        let Some(exchange) = contexts.exchange(self.context(self.at)) else { return };
        match self.kind {
            Kind::Begin => exchange.request.begin(Part::Head),
            _ if self.shows_body(self.at) => {
                exchange.response.begin(Part::Body);
                exchange.response.ended.set(self.end);
            }
            Kind::Heads | Kind::Body | Kind::Response => exchange.response.begin(Part::Head),
            Kind::End if self.at - self.from < self.contexts => exchange.life.set(Life::Logging),
            Kind::End => exchange.life.set(Life::Ended),
        }
        self.replied = exchange.replied.get();
    }

    /// Callbacks before this one have returned, and let go on what they were shown, whether each was [reached](Turn::reach), or
    /// began and returned unseen; and this one has begun, or none has, when it is the number of all.
    pub(crate) fn advance(&mut self, to: u32, ending: &[(ContextId, u32)], contexts: &mut Contexts) {
        if self.at >= to {
            return;
        }
        match self.kind {
            Kind::Begin => {
                // One that nobody has seen yet is as it was made: nothing of it is held.
                if let Some(exchange) = contexts.exchange(self.context(self.at)) {
                    exchange.request.pass();
                }
            }
            Kind::Heads | Kind::Body | Kind::Response => {
                for step in self.at..to {
                    let Some(exchange) = contexts.exchange(self.context(step)) else { continue };
                    exchange.response.pass();
                    if self.shows_body(step) {
                        exchange.response.ended.set(self.end);
                    }
                }
            }
            Kind::End => self.close(to, ending, contexts),
        }
        self.at = to;
        if to < self.steps {
            self.reach(contexts);
        }
    }

    /// Callbacks at the end of exchanges have returned: of one after the other.
    fn close(&mut self, to: u32, ending: &[(ContextId, u32)], contexts: &mut Contexts) {
        loop {
            let next = self.from + self.contexts * 3;
            self.close_one(to.min(next), contexts);
            let Some((first, count)) = ending.get(self.exchange + 1).filter(|_| to >= next) else { return };
            (self.first, self.contexts, self.from, self.at) = (first.0, *count, next, next);
            self.exchange += 1;
        }
    }

    fn close_one(&self, to: u32, contexts: &mut Contexts) {
        let (at, to) = (self.at - self.from, to - self.from);
        // After the log callbacks of all there are two of each.
        let gone = |step: u32| step.saturating_sub(self.contexts) / 2;
        if to < self.contexts * 3 {
            let logged = |step: u32| self.first + step.min(self.contexts);
            for number in logged(at)..logged(to) {
                if let Some(exchange) = contexts.exchange(number) {
                    exchange.life.set(Life::Logged);
                }
            }
        }
        for number in self.first + gone(at)..self.first + gone(to) {
            contexts.end(number);
        }
    }
}
