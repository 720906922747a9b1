//! Why a request ended as it did: what was decided on its way is noted while it runs, and put into words when somebody
//! asks.
//!
//! A [`Record`] is small typed values: nothing is formatted by a worker, and the clock is not read for it, but where
//! something failed. It holds no field of a message, and of a query only that there was one: no credential gets into it.

mod show;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use show::json;

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

/// What is known of one request.
#[derive(Debug)]
pub struct Record {
    started: Instant,
    direction: Direction,
    asked: bool,
    keep: usize,
    method: http::Method,
    /// Id, host and path behind one another: one allocation.
    text: Box<str>,
    /// Where the id ends, and where the host.
    ends: [usize; 2],
    query: bool,
    caller: SocketAddr,
    identity: Option<SpiffeId>,
    steps: Vec<Step>,
    /// Steps that did not fit.
    lost: u32,
    failure: Option<Box<str>>,
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
    /// Its id, which may be empty.
    pub id: &'a str,
    /// Its method.
    pub method: &'a http::Method,
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

/// Something that was decided, or happened.
#[derive(Debug)]
pub struct Step {
    /// When, from the first byte of the request, where that is known.
    pub at: Option<Duration>,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Debug)]
pub enum What {
    /// A filter held the request, or its response, back.
    Paused(Arc<str>),
    /// A filter has said what becomes of the request, and took so long for it.
    Filter(Arc<str>, Outcome, Duration),
    /// A rule was followed; to this service, if its backends gave another one.
    Rule(Arc<str>, Option<Arc<str>>),
    /// There was no rule for it.
    NoRule,
    /// It is made to wait so long on purpose.
    Delayed(Duration),
    /// A copy goes to this service.
    Mirrored(Arc<str>),
    /// The head of the response must come within this time from the end of the request; zero: no bound.
    Bound(Duration),
    /// Its caller waits so long yet.
    Due(Duration),
    /// The breaker is half open, and this is one of those that try the service.
    Trial,
    /// An endpoint was chosen among these; its place in the list, and how many there are in all.
    Chosen(Box<[Candidate]>, usize, usize),
    /// This kind of link is to carry it.
    Link(Link, Because),
    /// A link by UDP did not come about, for this reason.
    NoUdp(Box<str>),
    /// It was sent.
    Sent,
    /// An answer came: its status, its code of gRPC if that is in the head, and after what time.
    Answered(u16, Option<u8>, Duration),
    /// The try failed; whether the request was sent before.
    Failed(Box<str>, bool),
    /// The answer takes long, and this endpoint is asked, too.
    Hedge(SocketAddr),
    /// Of those that were asked this one was the first with a good answer.
    Won(SocketAddr),
    /// It is sent again, for this, after this wait.
    Again(Cause, Duration),
    /// It is not sent again.
    NotAgain(NotAgain),
    /// The endpoint was ejected, for this.
    Ejected(SocketAddr, Cause),
    /// The service as it was when it failed.
    State(Box<State>),
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
#[derive(Debug)]
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
    /// Begins one.
    pub fn new(asked: &Asked<'_>) -> Arc<Self> {
        let Asked { started, direction, asked, keep, id, method, host, path, query, caller, identity } = *asked;
        let (id, host) = (clip(id, MAX_NAME_BYTES), clip(host, MAX_NAME_BYTES));
        let path = clip(path, MAX_PATH_BYTES);
        let mut text = String::with_capacity(id.len() + host.len() + path.len());
        text.push_str(id);
        text.push_str(host);
        text.push_str(path);
        Arc::new(Record {
            started,
            direction,
            asked,
            keep,
            method: method.clone(),
            text: text.into_boxed_str(),
            ends: [id.len(), id.len() + host.len()],
            query,
            caller,
            identity: identity.cloned(),
            steps: Vec::with_capacity(8),
            lost: 0,
            failure: None,
            end: End {
                status: 0,
                reason: Reason::None,
                duration: Duration::ZERO,
                link: Link::None,
                attempts: 0,
                service: None,
                route: None,
            },
        })
    }

    /// Adds a step.
    pub fn note(&mut self, at: Option<Instant>, what: What) {
        if self.steps.len() < MAX_STEPS {
            let at = at.map(|at| at.saturating_duration_since(self.started));
            self.steps.push(Step { at, what });
        } else {
            self.lost = self.lost.saturating_add(1);
        }
    }

    /// What it failed by, in words.
    pub fn failed(&mut self, why: &str) {
        self.failure = Some(why.into());
    }

    /// It is over.
    pub fn ended(&mut self, end: End) {
        self.end = end;
    }

    /// Its id; empty if it has none.
    pub fn id(&self) -> &str {
        self.text.get(..self.ends[0]).unwrap_or_default()
    }

    /// Whether somebody asked for it.
    pub fn is_asked(&self) -> bool {
        self.asked
    }

    /// When it began.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// What happened, in sequence.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    fn host(&self) -> &str {
        self.text.get(self.ends[0]..self.ends[1]).unwrap_or_default()
    }

    fn path(&self) -> &str {
        self.text.get(self.ends[1]..).unwrap_or_default()
    }

    /// Of the service, when it failed.
    fn state(&self) -> Option<&State> {
        self.steps.iter().rev().find_map(|step| match &step.what {
            What::State(state) => Some(&**state),
            _ => None,
        })
    }
}

/// The beginning of a text that is too long.
fn clip(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most)).unwrap_or(text)
}

/// The last records of one worker.
#[derive(Debug, Default)]
pub struct Ring(RefCell<VecDeque<Arc<Record>>>);

impl Ring {
    /// Takes a record, in the place of the oldest if there are as many as are kept.
    pub fn push(&self, record: Arc<Record>) {
        let mut records = self.0.borrow_mut();
        while records.len() >= record.keep.max(1) {
            records.pop_front();
        }
        records.push_back(record);
    }

    /// Keeps no more than this from now on.
    pub fn keep(&self, most: usize) {
        let mut records = self.0.borrow_mut();
        let over = records.len().saturating_sub(most);
        records.drain(..over);
        records.shrink_to(most);
    }

    /// Those with this id, or all; the newest first, and no more than so many.
    pub fn find(&self, id: Option<&str>, most: usize) -> Vec<Arc<Record>> {
        let records = self.0.borrow();
        let fits = |record: &&Arc<Record>| id.is_none_or(|id| record.id() == id);
        records.iter().rev().filter(fits).take(most).map(Arc::clone).collect()
    }
}

#[cfg(test)]
mod tests;
