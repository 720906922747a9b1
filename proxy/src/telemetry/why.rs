//! Why a request ended as it did: what was decided on its way is noted while it runs, and put into words when somebody
//! asks.
//!
//! A [`Record`] is small typed values: nothing is formatted by a worker, and the clock is not read for it, but where
//! something failed. It holds no field of a message, and of a query only that there was one: no credential gets into it.
//!
//! Each request may have one, so it must cost next to nothing. What all have (what was asked, one try, how it ended) lies
//! in one place of the [`Ring`], a few lines of the cache, and is not even noted where the exchange has it anyway. What only
//! some have (filters, repetitions, failures) is steps, in blocks of their own; whoever falls out of the ring leaves these
//! to who comes next. An [`Explanation`] is the whole in sequence, made when somebody asks.

mod explanation;
mod record;
mod ring;
mod show;
mod store;
mod words;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use explanation::Explanation;
pub use record::{Answer, Asked, Chosen, Ending, First, Record, Stage};
pub use ring::Ring;
pub use show::json;
pub use store::{Span, Store};

use super::labels::{Cause, Link, Outcome};
use crate::fault::Reason;

/// Steps of one request that are kept: a few for each filter and each try. What is beyond is counted.
pub const MAX_STEPS: usize = 96;

/// Endpoints of a service that are shown with a choice for which some were passed over, and with a failure.
pub const MAX_SHOWN: usize = 8;

/// Bytes of a path that are kept.
pub const MAX_PATH_BYTES: usize = 512;

/// Bytes of a host, or of an id, that are kept: a host name has at most 253, and longer ids are not taken over.
pub const MAX_NAME_BYTES: usize = 256;

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
    /// Within what time the head of the response had to come, if it came to be sent; zero: no bound.
    pub bound: Duration,
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
            bound: Duration::ZERO,
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
    /// A filter has said what becomes of the request, and took so long for it, if that was measured.
    Filter(Span, Outcome, Option<Duration>),
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
    /// What one request more costs there, by the balancer's measure, if that was asked for: lower is better.
    pub score: Option<f32>,
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

#[cfg(test)]
mod tests;
