//! A record as it is told: all of its steps in sequence.

use std::time::{Duration, Instant};

use super::store::{Span, Store};
use super::words::Word;
use super::{Record, State, Step, What};

/// What is told of one request.
#[derive(Clone, Debug)]
pub struct Explanation {
    pub(super) record: Record,
    pub(super) steps: Vec<Step>,
    /// What the steps refer to.
    pub(super) own: Store,
}

impl From<&Record> for Explanation {
    /// Puts what was not noted as a step where it belongs.
    fn from(record: &Record) -> Self {
        let (mut steps, mut own) = record.rest().map(|more| (more.steps.clone(), more.own.clone())).unwrap_or_default();
        if let Some(first) = &record.first {
            first.steps(record.rival, &mut own, &mut steps);
        }
        // It was bounded before anything of what sending it notes.
        let sends = |step: &Step| matches!(step.what, What::Due(_) | What::Trial | What::Chosen(..) | What::State);
        if let Some(at) = steps.iter().position(sends) {
            steps.insert(at, step(None, What::Bound(record.end.bound)));
        }
        if let (Some(at), Some(rule)) = (record.rule_at, &record.end.route) {
            // The rule of a service is called after it.
            let service = record.end.service.as_deref().unwrap_or_default();
            let elsewhere = !rule.strip_prefix(service).is_some_and(|rest| rest.starts_with('/'));
            let backend = elsewhere.then(|| own.text(service));
            steps.insert(usize::from(at).min(steps.len()), step(None, What::Rule(own.text(rule), backend)));
        }
        Explanation { record: record.clone(), steps, own }
    }
}

fn step(at: Option<Instant>, what: What) -> Step {
    Step { at, what }
}

impl Explanation {
    /// When the request began.
    pub fn started(&self) -> Instant {
        self.record.started
    }

    /// The request's id; empty if it has none.
    pub fn id(&self) -> &str {
        self.record.id()
    }

    pub(super) fn read(&self, span: Span) -> &str {
        self.own.read(span)
    }

    pub(super) fn host(&self) -> &str {
        self.record.read(Word::Host)
    }

    pub(super) fn path(&self) -> &str {
        self.record.read(Word::Path)
    }

    /// Who called, as far as TLS has said it.
    pub(super) fn identity(&self) -> Option<&str> {
        Some(self.record.read(Word::Caller)).filter(|identity| !identity.is_empty())
    }

    /// What it failed by.
    pub(super) fn failure(&self) -> Option<&str> {
        Some(self.own.read(self.record.rest()?.failure?))
    }

    /// Steps that were too many.
    pub(super) fn lost(&self) -> u32 {
        self.record.rest().map_or(0, |more| more.lost)
    }

    /// Of the service, when it failed.
    pub(super) fn state(&self) -> Option<&State> {
        self.own.kept_state()
    }

    /// When a step was, from the beginning.
    pub(super) fn since(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.record.started)
    }
}
