//! What alpha asks, and what became of it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::service;

/// The tenants that alpha asks for in turn; delta's filter counts them.
const TENANTS: [&str; 3] = ["blue", "green", "red"];

/// One request in so many has no API key: delta's filter refuses it.
const KEYLESS: u64 = 10;

/// One request in so many is for the canary: alpha's filter sends it there.
const CANARY: u64 = 4;

/// One request in so many has a body.
const POST: u64 = 5;

/// The answers that the percentiles are about: the last ones.
const RECENT: usize = 8192;

/// Names that are counted on their own: anybody on this machine can ask delta by any name.
const MAX_NAMES: usize = 8;

/// What a request is to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) key: bool,
    pub(super) canary: bool,
    pub(super) tenant: &'static str,
    post: bool,
}

impl Question {
    /// The question with this number, from 1.
    fn new(number: u64) -> Self {
        let turn = usize::try_from(number % TENANTS.len() as u64).unwrap_or_default();
        Question {
            key: !number.is_multiple_of(KEYLESS),
            canary: number.is_multiple_of(CANARY),
            tenant: TENANTS.get(turn).copied().unwrap_or_default(),
            post: number.is_multiple_of(POST),
        }
    }

    pub(super) fn method(&self) -> &'static str {
        if self.post { "POST" } else { "GET" }
    }

    pub(super) fn body(&self) -> &'static [u8] {
        if self.post { b"hello from alpha" } else { b"" }
    }

    /// What is wrong with an answer to it.
    fn objection(&self, answer: &Result<(u16, String), String>) -> Option<String> {
        let (status, body) = match answer {
            Ok(answer) => answer,
            Err(error) => return Some(error.clone()),
        };
        if !self.key {
            return (*status != 401).then(|| format!("status {status} instead of 401 for a request without a key"));
        }
        let name = if self.canary { "delta-canary" } else { "delta" };
        if *status != 200 {
            return Some(format!("status {status} instead of 200: {}", body.trim_end()));
        }
        let expected = service::answer(name, self.body().len());
        (*body != expected).then(|| format!("{body:?} instead of {expected:?}"))
    }
}

/// Counts of both services.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    begun: Instant,
    wanted: Option<u64>,
    stopped: Option<Instant>,
    asked: u64,
    /// Requests of alpha that ended, with or without an answer.
    pub(super) ended: u64,
    /// Those of them that had no API key.
    pub(super) keyless: u64,
    /// Answers by status.
    pub(super) statuses: BTreeMap<u16, u64>,
    /// Requests that did not end as they should.
    pub(super) wrong: u64,
    /// What was wrong with the first of them.
    pub(super) objection: Option<String>,
    recent: VecDeque<Duration>,
    /// Requests that delta had, by the name it was called.
    pub(super) names: BTreeMap<String, u64>,
    /// Requests that delta had, by who was calling.
    pub(super) callers: BTreeMap<String, u64>,
}

impl Tally {
    /// Nothing yet, of as many as are wanted.
    pub(super) fn new(wanted: Option<u64>) -> Self {
        Tally {
            begun: Instant::now(),
            wanted,
            stopped: None,
            asked: 0,
            ended: 0,
            keyless: 0,
            statuses: BTreeMap::new(),
            wrong: 0,
            objection: None,
            recent: VecDeque::new(),
            names: BTreeMap::new(),
            callers: BTreeMap::new(),
        }
    }

    /// How many requests are wanted, if that was said.
    pub(super) fn wanted(&self) -> Option<u64> {
        self.wanted
    }

    /// The next question, if there is one.
    pub(super) fn next(&mut self) -> Option<Question> {
        if self.asked == 0 {
            self.begun = Instant::now();
        }
        if self.stopped.is_some() || self.wanted.is_some_and(|wanted| self.asked >= wanted) {
            return None;
        }
        self.asked += 1;
        Some(Question::new(self.asked))
    }

    /// No more questions.
    pub(super) fn stop(&mut self) {
        self.stopped = Some(Instant::now());
    }

    /// Whether it was stopped before all was asked.
    pub(super) fn stopped(&self) -> bool {
        self.stopped.is_some() && self.wanted.is_none_or(|wanted| self.asked < wanted)
    }

    /// Alpha has an answer, or an error instead.
    pub(super) fn answered(&mut self, question: &Question, answer: Result<(u16, String), String>, took: Duration) {
        self.ended += 1;
        self.keyless += u64::from(!question.key);
        if let Some(objection) = question.objection(&answer) {
            self.wrong += 1;
            self.objection.get_or_insert(objection);
        }
        if let Ok((status, _)) = answer {
            *self.statuses.entry(status).or_default() += 1;
        }
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(took);
    }

    /// Delta was asked under a name, by a caller.
    pub(super) fn asked(&mut self, name: &str, caller: &str) {
        for (names, name) in [(&mut self.names, name), (&mut self.callers, caller)] {
            let name = if names.len() < MAX_NAMES || names.contains_key(name) { name } else { "others" };
            *names.entry(name.to_owned()).or_default() += 1;
        }
    }

    /// How long it has gone on.
    pub(super) fn elapsed(&self) -> Duration {
        self.stopped.unwrap_or_else(Instant::now).duration_since(self.begun)
    }

    /// The times that so many per cent of the last answers did not exceed.
    pub(super) fn percentiles<const N: usize>(&self, per_cent: [usize; N]) -> [Duration; N] {
        let mut sorted: Vec<Duration> = self.recent.iter().copied().collect();
        sorted.sort_unstable();
        per_cent.map(|p| sorted.get((sorted.len() * p).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_question_comes_in_the_first_fifty() {
        let questions: Vec<_> = (1..=50).map(Question::new).collect();
        assert_eq!(questions.iter().filter(|q| !q.key).count(), 5);
        assert_eq!(questions.iter().filter(|q| q.canary && q.key).count(), 10);
        assert!(questions.iter().any(|q| q.post && q.key));
        assert_eq!(
            questions[0],
            Question { key: true, canary: false, tenant: "green", post: false },
            "the first is plain"
        );
    }

    #[test]
    fn as_many_are_asked_as_are_wanted() {
        let mut tally = Tally::new(Some(3));
        assert_eq!(std::iter::from_fn(|| tally.next()).count(), 3);
        let mut tally = Tally::new(None);
        assert!(tally.next().is_some());
        tally.stop();
        assert!(tally.next().is_none());
    }

    #[test]
    fn an_answer_must_be_the_right_one() {
        let ok = |status, body: &str| Ok((status, body.to_owned()));
        let (plain, canary, keyless) = (Question::new(1), Question::new(4), Question::new(10));
        assert_eq!(plain.objection(&ok(200, "delta: 0 bytes\n")), None);
        assert_eq!(canary.objection(&ok(200, "delta-canary: 0 bytes\n")), None);
        assert_eq!(keyless.objection(&ok(401, "an API key is required\n")), None);
        for (question, answer) in [
            (plain, ok(200, "delta-canary: 0 bytes\n")),
            (plain, ok(503, "connection_refused\n")),
            (canary, ok(200, "delta: 0 bytes\n")),
            (keyless, ok(200, "delta: 16 bytes\n")),
            (plain, Err("timed out".to_owned())),
        ] {
            let mut tally = Tally::new(None);
            tally.answered(&question, answer, Duration::ZERO);
            assert_eq!(tally.wrong, 1);
            assert!(tally.objection.is_some());
        }
    }

    #[test]
    fn percentiles_are_of_the_last_answers() {
        let mut tally = Tally::new(None);
        assert_eq!(tally.percentiles([50, 99]), [Duration::ZERO; 2]);
        for number in 0..RECENT as u64 + 100 {
            let took = Duration::from_millis(if number < 100 { 1_000_000 } else { number % 100 + 1 });
            tally.answered(&Question::new(1), Err(String::new()), took);
        }
        assert_eq!(tally.recent.len(), RECENT);
        assert_eq!(tally.percentiles([50, 99, 100]), [50, 99, 100].map(Duration::from_millis));
    }

    #[test]
    fn strangers_cannot_make_names_without_end() {
        let mut tally = Tally::new(None);
        for number in 0..100 {
            tally.asked(&number.to_string(), "alpha");
        }
        assert_eq!(tally.names.len(), MAX_NAMES + 1);
        assert_eq!((tally.names["others"], tally.callers["alpha"]), (100 - MAX_NAMES as u64, 100));
    }
}
