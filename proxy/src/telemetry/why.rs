//! Why a request ended as it did: what was decided on its way is noted while it runs, and put into words when somebody
//! asks.
//!
//! A [`Record`] is small typed values: nothing is formatted by a worker, and the clock is not read for it, but where
//! something failed. It holds no field of a message, and of a query only that there was one: no credential gets into it.
//!
//! Each request may have one, so it must cost next to nothing: what belongs to it lies in a few blocks, steps refer to
//! them by place, and whoever falls out of the [`Ring`] leaves its blocks to who comes next.

mod ring;
mod show;
mod store;

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use ring::Ring;
pub use show::json;
pub use store::{Span, Store};

use super::labels::{Cause, Direction, Link, Outcome};
use crate::fault::Reason;
use crate::identity::SpiffeId;

/// Steps of one request that are kept: a few for each filter and each try. What is beyond is counted.
pub const MAX_STEPS: usize = 96;

/// Endpoints of a service that are shown with each choice; the one that was chosen always is.
pub const MAX_SHOWN: usize = 8;

/// Bytes of a path that are kept.
pub const MAX_PATH_BYTES: usize = 512;

/// Bytes of a host, or of an id, that are kept: a host name has at most 253, and longer ids are not taken over.
pub const MAX_NAME_BYTES: usize = 256;

/// Steps that a record has room for when it is used again: most have fewer, and what a rare one needed is given back.
const USUAL_STEPS: usize = 16;

/// What is known of one request.
#[derive(Clone, Debug)]
pub struct Record {
    started: Instant,
    direction: Direction,
    asked: bool,
    grpc: bool,
    query: bool,
    keep: usize,
    method: http::Method,
    id: Span,
    host: Span,
    path: Span,
    caller: SocketAddr,
    identity: Option<Span>,
    steps: Vec<Step>,
    /// What steps and the spans above refer to.
    own: Store,
    /// Steps that did not fit.
    lost: u32,
    failure: Option<Span>,
    end: End,
}

/// A request as it is seen when its record begins.
#[derive(Debug)]
pub struct Asked<'a> {
    /// When its first byte came.
    pub started: Instant,
    /// Which way it goes.
    pub direction: Direction,
    /// Whether somebody asked for this record.
    pub asked: bool,
    /// How many records are kept when this one is put to them.
    pub keep: usize,
    /// Its method.
    pub method: &'a http::Method,
    /// Whether it is one of gRPC, in any of its forms.
    pub grpc: bool,
    /// Host, and port if it says one.
    pub host: &'a str,
    /// Its path, without the query.
    pub path: &'a str,
    /// Whether it has a query.
    pub query: bool,
    /// Who connected.
    pub caller: SocketAddr,
    /// Who that is.
    pub identity: Option<&'a SpiffeId>,
}

/// How a request ended.
#[derive(Clone, Debug)]
pub struct End {
    /// The final status; 0 if none was sent.
    pub status: u16,
    /// Why it failed, or [`Reason::None`].
    pub reason: Reason,
    /// From its first byte to the last byte of the response.
    pub duration: Duration,
    /// What carried it last.
    pub link: Link,
    /// How often it was sent.
    pub attempts: u16,
    /// The service that it went to.
    pub service: Option<Arc<str>>,
    /// The rule that it followed, `SERVICE/NAME`.
    pub route: Option<Arc<str>>,
}

impl Default for End {
    fn default() -> Self {
        End {
            status: 0,
            reason: Reason::None,
            duration: Duration::ZERO,
            link: Link::None,
            attempts: 0,
            service: None,
            route: None,
        }
    }
}

/// Something that was decided, or happened.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// When, where that is known.
    pub at: Option<Instant>,
    /// What.
    pub what: What,
}

/// What happened. Words and endpoints are in the [`Store`] of its record.
#[derive(Clone, Copy, Debug)]
pub enum What {
    /// A filter held the request, or its response, back.
    Paused(Span),
    /// A filter has said what becomes of the request, and took so long for it.
    Filter(Span, Outcome, Duration),
    /// A rule was followed; to this service, if its backends gave another one.
    Rule(Span, Option<Span>),
    /// There was no rule for it.
    NoRule,
    /// It is made to wait so long on purpose.
    Delayed(Duration),
    /// A copy goes to this service.
    Mirrored(Span),
    /// The head of the response must come within this time from the end of the request; zero: no bound.
    Bound(Duration),
    /// Its caller waits so long yet.
    Due(Duration),
    /// The breaker is half open, and this is one of those that try the service.
    Trial,
    /// The first of these endpoints was chosen; how many there are in all.
    Chosen(Span, usize),
    /// This kind of link is to carry it.
    Link(Link, Because),
    /// A link by UDP did not come about, for this reason.
    NoUdp(Span),
    /// It was sent.
    Sent,
    /// An answer came: its status, its code of gRPC if that is in the head, and after what time.
    Answered(u16, Option<u8>, Duration),
    /// The try failed; whether the request was sent before.
    Failed(Span, bool),
    /// The answer takes long, and this endpoint is asked, too.
    Hedge(Span),
    /// Of those that were asked this one was the first with a good answer.
    Won(Span),
    /// It is sent again, for this, after this wait.
    Again(Cause, Duration),
    /// It is not sent again.
    NotAgain(NotAgain),
    /// The endpoint was ejected, for this.
    Ejected(Span, Cause),
    /// It failed; how the service was then is in the store, as of the last time.
    State,
}

/// An endpoint as it was when one was chosen.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Where it is.
    pub address: SocketAddr,
    /// Requests that it carried.
    pub in_flight: u32,
    /// Its share relative to its siblings.
    pub weight: u32,
    /// What one request more costs there, by the balancer's measure: lower is better.
    pub score: f64,
    /// What keeps requests away from it.
    pub standing: Standing,
}

/// What keeps requests away from an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing.
    Fine,
    /// It could not be reached a moment ago.
    Unreachable,
    /// Active health checks say that it is not well.
    Unhealthy,
    /// It has asked not to be asked now.
    Held,
    /// It is ejected, for this, for so long yet; zero: until it was tried.
    Ejected(Cause, Duration),
    /// It carries all that it may.
    Full,
}

/// Why a kind of link was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Because {
    /// The configuration says so.
    Configured,
    /// The request asks for an upgrade, which only HTTP/1.1 has.
    Upgrade,
    /// The peer's UDP answers.
    UdpWorks,
    /// Whether the peer's UDP answers is not known yet.
    UdpUnknown,
    /// The peer's UDP did not answer before; it is asked again after this.
    UdpSilent(Duration),
    /// The peer's UDP has just not answered.
    UdpFailed,
    /// The peer has nothing better.
    NothingBetter,
    /// Of the two links this one was measured to be better, in this respect.
    Measured(Cause),
    /// The other link was measured to be better, and this one is tried now and then.
    Explored,
}

/// Why a request is not sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAgain {
    /// It was as often as it may be, or its body passed by without being kept.
    Spent,
    /// Its body is longer than what is kept of one.
    Body,
    /// It may have been carried out, and is not safe to repeat.
    Unsafe,
    /// The service's `retries` do not say so.
    Unasked,
    /// The budget, or `limits.retries`, is used up.
    Budget,
}

/// A service as it was.
#[derive(Clone, Debug)]
pub struct State {
    /// Its endpoints, [`MAX_SHOWN`] of them.
    pub endpoints: Box<[Candidate]>,
    /// How many there are.
    pub total: usize,
    /// Requests in flight, and how many may be.
    pub requests: (u32, Option<u32>),
    /// Those that wait for a connection.
    pub pending: (u32, Option<u32>),
    /// Repetitions.
    pub retries: (u32, Option<u32>),
    /// Its breaker, if it has one.
    pub breaker: Option<BreakerState>,
}

/// A breaker as it was.
#[derive(Clone, Copy, Debug)]
pub struct BreakerState {
    /// `closed`, `open` or `half_open`.
    pub state: &'static str,
    /// How long it stays open yet.
    pub left: Duration,
    /// Requests in its window, those of them that failed, those that were slow.
    pub window: [u32; 3],
}

impl Record {
    fn new(asked: &Asked<'_>) -> Self {
        let mut record = Record {
            started: asked.started,
            direction: asked.direction,
            asked: false,
            grpc: false,
            query: false,
            keep: 0,
            method: http::Method::GET,
            id: Span::default(),
            host: Span::default(),
            path: Span::default(),
            caller: asked.caller,
            identity: None,
            steps: Vec::with_capacity(8),
            own: Store::default(),
            lost: 0,
            failure: None,
            end: End::default(),
        };
        record.begin(asked);
        record
    }

    /// Forgets everything, and begins anew.
    fn begin(&mut self, asked: &Asked<'_>) {
        let Asked { started, direction, asked, keep, method, grpc, host, path, query, caller, identity } = *asked;
        self.steps.clear();
        self.steps.shrink_to(USUAL_STEPS);
        self.own.clear();
        self.started = started;
        self.direction = direction;
        self.asked = asked;
        self.grpc = grpc;
        self.query = query;
        self.keep = keep;
        self.method = method.clone();
        self.id = Span::default();
        self.host = self.own.text(clip(host, MAX_NAME_BYTES));
        self.path = self.own.text(clip(path, MAX_PATH_BYTES));
        self.caller = caller;
        self.identity = identity.map(|identity| self.own.text(identity.as_str()));
        self.lost = 0;
        self.failure = None;
        // How it ends is said when it does: what was said of the one before stays until then.
    }

    /// By this id it is known across the mesh. What is no text is no id.
    pub fn identify(&mut self, id: &[u8]) {
        self.id = self.own.text(clip(std::str::from_utf8(id).unwrap_or_default(), MAX_NAME_BYTES));
    }

    /// Adds a step, if there is room for it.
    #[inline]
    pub fn note(&mut self, at: Option<Instant>, what: impl FnOnce(&mut Store) -> What) {
        if self.steps.len() < MAX_STEPS {
            let what = what(&mut self.own);
            self.steps.push(Step { at, what });
        } else {
            self.lost = self.lost.saturating_add(1);
        }
    }

    /// What it failed by, in words.
    pub fn failed(&mut self, why: impl Display) {
        self.failure = Some(self.own.say(why));
    }

    /// It is over.
    pub fn ended(&mut self, end: End) {
        self.end = end;
    }

    /// Its id; empty if it has none.
    pub fn id(&self) -> &str {
        self.own.read(self.id)
    }

    /// Whether somebody asked for it.
    pub fn is_asked(&self) -> bool {
        self.asked
    }

    /// Whether it is a request of gRPC.
    pub fn is_grpc(&self) -> bool {
        self.grpc
    }

    /// When it began.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// What happened, in sequence.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// When a step was, from the beginning.
    fn since(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.started)
    }

    /// Of the service, when it failed.
    fn state(&self) -> Option<&State> {
        self.own.kept_state()
    }
}

/// The beginning of a text that is too long.
#[inline]
fn clip(text: &str, most: usize) -> &str {
    if text.len() <= most {
        return text;
    }
    text.get(..text.floor_char_boundary(most)).unwrap_or(text)
}

#[cfg(test)]
mod tests;
