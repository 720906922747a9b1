//! What is noted of one request while it runs, and kept when it is over.

use std::fmt::Display;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::store::{Span, Store};
use super::words::{WORDS, Word, Words};
use super::{Because, Candidate, End, MAX_NAME_BYTES, MAX_PATH_BYTES, MAX_STEPS, Standing, Step, What};
use crate::identity::SpiffeId;
use crate::telemetry::labels::{Direction, Link, Method};

/// Steps that a record has room for when it is used again: most have fewer, and what a rare one needed is given back.
pub(super) const USUAL_STEPS: usize = 16;

/// What is known of one request. It is written in one that is used again and again, and stays in the nearest cache; what is
/// said of a usual one there is copied at its end, beside what its exchange knows, into a place that was not touched for as
/// many requests as are kept. In the sequence in which it lies in memory, what all have first: six lines of the cache.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct Record {
    pub(super) started: Instant,
    pub(super) caller: SocketAddr,
    pub(super) direction: Direction,
    pub(super) method: Method,
    pub(super) query: bool,
    /// Whether there are steps, or words that found no room here.
    has_more: bool,
    /// How many steps were noted before a rule was found, if it was.
    pub(super) rule_at: Option<u8>,
    keep: u32,
    more: Option<Box<More>>,
    pub(super) end: End,
    /// The first try, where nothing else was noted from then on.
    pub(super) first: Option<First>,
    words: Words,
    /// The endpoint that was compared with that of the first try.
    pub(super) rival: Option<Candidate>,
}

/// What only some requests have.
#[derive(Clone, Debug, Default)]
pub(super) struct More {
    pub(super) steps: Vec<Step>,
    /// What steps and the spans here refer to.
    pub(super) own: Store,
    /// Steps that did not fit.
    pub(super) lost: u32,
    pub(super) failure: Option<Span>,
    words: [Option<Span>; WORDS],
    /// A method that has no label of its own.
    method: Option<Span>,
}

/// The first try of a request, as far as it has come.
#[derive(Clone, Copy, Debug)]
pub struct First {
    /// Where it goes.
    pub address: SocketAddr,
    /// What was known of that.
    pub chosen: Chosen,
    /// How far it has come: what belongs to later stages means nothing.
    pub stage: Stage,
    /// What carries it.
    pub link: Link,
    /// Why.
    pub because: Because,
    /// When it was sent.
    pub sent: Option<Instant>,
    /// The answer.
    pub answer: Answer,
}

/// How far the first try of a request has come, as long as nothing else is noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// It has an endpoint.
    Chosen,
    /// And a kind of link.
    Linked,
    /// And is sent.
    Sent,
    /// And answered.
    Answered,
}

/// The head of an answer: the status, the code of gRPC if that is in it, and how long after the request was sent it came.
#[derive(Clone, Copy, Debug, Default)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The code of gRPC.
    pub code: Option<u8>,
    /// Since the request was sent.
    pub took: Duration,
}

/// What was known of the endpoint that was chosen for a try, where nothing keeps requests away from it, and none was passed
/// over.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chosen {
    /// Requests that it carried.
    pub in_flight: u32,
    /// Its share relative to its siblings.
    pub weight: u32,
    /// How many endpoints there are.
    pub total: u32,
    /// What one request more cost there, if it was compared with another.
    pub score: Option<f32>,
}

/// A request as it is seen when its record begins.
#[derive(Debug)]
pub struct Asked<'a> {
    /// How many records are kept when this one is put to them.
    pub keep: usize,
    /// Its method, if that is one of its own ([`Method::Other`]).
    pub method: Option<&'a str>,
    /// Host, and port if it says one.
    pub host: &'a str,
    /// Its path, without the query.
    pub path: &'a str,
    /// Whether it has a query.
    pub query: bool,
    /// Who called.
    pub identity: Option<&'a SpiffeId>,
}

/// What is known of a request at its end.
#[derive(Debug)]
pub struct Ending {
    /// When its first byte came.
    pub started: Instant,
    /// Which way it went.
    pub direction: Direction,
    /// Its method.
    pub method: Method,
    /// Who connected.
    pub caller: SocketAddr,
    /// Its only try, if nothing came of it but an answer.
    pub first: Option<First>,
    /// How it ended.
    pub end: End,
}

impl Default for Record {
    fn default() -> Self {
        Record {
            started: Instant::now(),
            caller: (Ipv4Addr::UNSPECIFIED, 0).into(),
            direction: Direction::Outbound,
            method: Method::Other,
            query: false,
            has_more: false,
            rule_at: None,
            keep: 0,
            more: None,
            end: End::default(),
            first: None,
            words: Words::default(),
            rival: None,
        }
    }
}

impl Record {
    /// Begins anew. Nothing is left of what was noted in it before.
    #[inline]
    pub(super) fn begin(&mut self, of: &Asked<'_>) {
        let Asked { keep, method, host, path, query, identity } = *of;
        self.query = query;
        self.rule_at = None;
        self.keep = keep as u32;
        self.put(Word::Host, clip(host, MAX_NAME_BYTES).as_bytes());
        self.put(Word::Path, clip(path, MAX_PATH_BYTES).as_bytes());
        if let Some(identity) = identity {
            self.put(Word::Caller, identity.as_str().as_bytes());
        }
        if let Some(method) = method {
            let more = self.more();
            more.method = Some(more.own.text(clip(method, MAX_NAME_BYTES)));
        }
    }

    /// Takes over what was noted, which is forgotten there, and what is known at the end.
    #[inline]
    pub(super) fn take(&mut self, noted: &mut Record, ending: Ending) {
        let Ending { started, direction, method, caller, first, end } = ending;
        self.started = started;
        self.caller = caller;
        self.direction = direction;
        self.method = method;
        self.query = noted.query;
        self.rule_at = noted.rule_at;
        self.end = end;
        self.first = first;
        self.words.copy(&noted.words);
        if first.is_some_and(|first| first.chosen.score.is_some()) {
            self.rival = noted.rival;
        }
        if self.has_more || noted.has_more {
            self.take_more(noted);
        }
    }

    /// By this id it is known across the mesh. What is no text is no id.
    #[inline]
    pub fn identify(&mut self, id: &[u8]) {
        if id.len() <= MAX_NAME_BYTES {
            self.put(Word::Id, id);
        } else {
            self.put(Word::Id, clip(std::str::from_utf8(id).unwrap_or_default(), MAX_NAME_BYTES).as_bytes());
        }
    }

    /// Adds a step, if there is room for it.
    pub fn note(&mut self, at: Option<Instant>, what: impl FnOnce(&mut Store) -> What) {
        let more = self.more();
        if more.steps.len() < MAX_STEPS {
            let what = what(&mut more.own);
            more.steps.push(Step { at, what });
        } else {
            more.lost = more.lost.saturating_add(1);
        }
    }

    /// Its first try was compared with this endpoint.
    pub fn compared(&mut self, rival: Candidate) {
        self.rival = Some(rival);
    }

    /// Adds the first try as steps, as others are to come.
    pub fn tried(&mut self, first: &First) {
        let rival = self.rival;
        let mut steps = Vec::new();
        first.steps(rival, &mut self.more().own, &mut steps);
        steps.into_iter().for_each(|Step { at, what }| self.note(at, |_| what));
    }

    /// There is a rule for it. How that is called is said at the end.
    pub fn routed(&mut self) {
        self.rule_at = Some(self.rest().map_or(0, |more| more.steps.len() as u8));
    }

    /// What it failed by, in words.
    pub fn failed(&mut self, why: impl Display) {
        let more = self.more();
        more.failure = Some(more.own.say(why));
    }

    /// Its id; empty if it has none.
    pub fn id(&self) -> &str {
        self.read(Word::Id)
    }

    /// How many records are kept when it is put to them.
    pub(super) fn keep(&self) -> usize {
        self.keep as usize
    }

    /// What is said of it beyond what all have.
    pub(super) fn rest(&self) -> Option<&More> {
        self.more.as_deref().filter(|_| self.has_more)
    }

    /// Bytes from its beginning to the last word that lies in it.
    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        std::mem::offset_of!(Record, words) + self.words.used()
    }

    pub(super) fn read(&self, word: Word) -> &str {
        match self.rest().and_then(|more| Some(more.own.read(more.words[word as usize]?))) {
            Some(elsewhere) => elsewhere,
            None => std::str::from_utf8(self.words.read(word)).unwrap_or_default(),
        }
    }

    /// The method as the request said it.
    pub(super) fn method(&self) -> &str {
        match self.rest().and_then(|more| Some(more.own.read(more.method?))) {
            Some(own) => own,
            None => self.method.token(),
        }
    }

    #[inline]
    fn put(&mut self, word: Word, text: &[u8]) {
        if !self.words.put(word, text) {
            self.spill(word, text);
        } else if self.has_more {
            // An id may be said twice.
            self.more().words[word as usize] = None;
        }
    }

    #[cold]
    fn spill(&mut self, word: Word, text: &[u8]) {
        let more = self.more();
        more.words[word as usize] = Some(more.own.text(std::str::from_utf8(text).unwrap_or_default()));
    }

    fn more(&mut self) -> &mut More {
        self.has_more = true;
        self.more.get_or_insert_default()
    }

    /// What is noted takes the place of what was, whose blocks whoever notes next may use.
    fn take_more(&mut self, noted: &mut Record) {
        if let Some(more) = self.more.as_mut().filter(|_| self.has_more) {
            more.clear();
        }
        self.has_more = std::mem::take(&mut noted.has_more);
        if self.has_more {
            std::mem::swap(&mut self.more, &mut noted.more);
        }
    }
}

impl More {
    /// Forgets everything, and keeps the room that is usual.
    fn clear(&mut self) {
        let More { steps, own, lost, failure, words, method } = self;
        steps.clear();
        steps.shrink_to(USUAL_STEPS);
        own.clear();
        (*lost, *failure, *words, *method) = (0, None, [None; WORDS], None);
    }
}

impl First {
    /// As steps; `rival` is the endpoint that its own was compared with.
    pub(super) fn steps(&self, rival: Option<Candidate>, own: &mut Store, to: &mut Vec<Step>) {
        let First { address, chosen, stage, link, because, sent, answer } = *self;
        let mut step = |from, at, what| {
            if stage >= from {
                to.push(Step { at, what });
            }
        };
        step(Stage::Chosen, None, chosen.step(address, rival, own));
        step(Stage::Linked, None, What::Link(link, because));
        step(Stage::Sent, sent, What::Sent);
        let Answer { status, code, took } = answer;
        step(Stage::Answered, sent.map(|sent| sent + took), What::Answered(status, code, took));
    }
}

impl Chosen {
    /// As a step of its own.
    pub fn step(self, address: SocketAddr, rival: Option<Candidate>, own: &mut Store) -> What {
        let Chosen { in_flight, weight, total, score } = self;
        let chosen = Candidate { address, in_flight, weight, score, standing: Standing::Fine };
        let among = own.endpoints(|all| {
            all.push(chosen);
            all.extend(rival.filter(|_| score.is_some()));
        });
        What::Chosen(among, total as usize)
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
