//! What the workers say when they are asked; one that says nothing in time is shown as stuck and holds up no other.

use std::future::Future;

use serde_json::{Map, Value, json};
use tokio::time::{Instant, timeout_at};

use super::REPORT_TIME;

/// What one worker said, or why it said nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard<T> {
    /// It is running, and this is how it is.
    Said(T),
    /// It has ended.
    Gone,
    /// It has not answered within [`REPORT_TIME`].
    Stuck,
}

/// Waits for the answers of workers that have been asked, in their order.
pub async fn gather<T, F: Future<Output = Option<T>>>(answers: Vec<F>) -> Vec<Heard<T>> {
    let deadline = Instant::now() + REPORT_TIME;
    let mut heard = Vec::with_capacity(answers.len());
    // One after the other is enough: the questions have been posted, and all answers share the deadline.
    for answer in answers {
        heard.push(match timeout_at(deadline, Box::pin(answer)).await {
            Ok(Some(said)) => Heard::Said(said),
            Ok(None) => Heard::Gone,
            Err(_) => Heard::Stuck,
        });
    }
    heard
}

impl<T> Heard<T> {
    /// What it said.
    pub fn said(&self) -> Option<&T> {
        match self {
            Heard::Said(said) => Some(said),
            Heard::Gone | Heard::Stuck => None,
        }
    }

    /// The worker on a page: its number, its state, and what `fields` makes of what it said.
    pub fn show(&self, worker: usize, fields: impl FnOnce(&T) -> Map<String, Value>) -> Value {
        let mut shown = Map::new();
        let mut add = |name: &str, value| shown.insert(name.to_owned(), value);
        add("worker", json!(worker));
        match self {
            Heard::Said(said) => {
                add("state", json!("running"));
                shown.extend(fields(said));
            }
            Heard::Gone => drop(add("state", json!("gone"))),
            Heard::Stuck => {
                add("state", json!("stuck"));
                add("waited_ms", json!(REPORT_TIME.as_millis() as u64));
            }
        }
        Value::Object(shown)
    }
}
