//! Whether the sidecar can do its job, and what is missing if not.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Everything that must be there before the sidecar is ready, each part as a [`Token`]. Ready is when no token waits.
/// Clones are the same set.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<Parts>>);

impl Readiness {
    /// A part that must be there, and what it waits for until then, in words. A new token makes a ready process not
    /// ready again, which is how a drain announces itself.
    pub fn token(&self, part: &str, waits_for: impl Into<String>) -> Token {
        let id = self.change(|parts| {
            parts.next += 1;
            parts.missing.insert(parts.next, (part.to_owned(), waits_for.into()));
            parts.next
        });
        Token { readiness: self.clone(), id, part: part.to_owned() }
    }

    /// What is missing, as `part: what it waits for`, in the order in which the tokens were made. Ready if empty.
    pub fn missing(&self) -> Vec<String> {
        self.change(|parts| parts.missing.values().map(|(part, what)| format!("{part}: {what}")).collect())
    }

    /// What one part waits for, if it is missing.
    pub fn waits_for(&self, part: &str) -> Option<String> {
        self.change(|parts| parts.missing.values().find(|(own, _)| own == part).map(|(_, what)| what.clone()))
    }

    fn change<T>(&self, change: impl FnOnce(&mut Parts) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One part of [`Readiness`], held by who makes it ready. A token that is dropped before it was ever
/// [ready](Token::ready) goes on waiting: a part that failed must not look like one that succeeded.
#[derive(Debug)]
pub struct Token {
    readiness: Readiness,
    id: u64,
    part: String,
}

impl Token {
    /// The part is there.
    pub fn ready(&self) {
        self.readiness.change(|parts| parts.missing.remove(&self.id));
    }

    /// The part is not there (any more); says what it waits for.
    pub fn waits_for(&self, what: impl Into<String>) {
        self.readiness.change(|parts| parts.missing.insert(self.id, (self.part.clone(), what.into())));
    }
}

#[derive(Debug, Default)]
struct Parts {
    next: u64,
    missing: BTreeMap<u64, (String, String)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_when_no_token_waits() {
        let readiness = Readiness::default();
        assert!(readiness.missing().is_empty());
        let certificate = readiness.token("certificate", "not read yet");
        let worker = readiness.token("worker 0", "starting");
        certificate.waits_for("certs/alpha.pem: no such file");
        assert_eq!(readiness.missing(), ["certificate: certs/alpha.pem: no such file", "worker 0: starting"]);
        assert_eq!(readiness.waits_for("worker 0").as_deref(), Some("starting"));
        assert_eq!(readiness.waits_for("worker"), None);
        certificate.ready();
        worker.ready();
        assert!(readiness.missing().is_empty());
        certificate.waits_for("the certificate has expired");
        assert_eq!(readiness.missing(), ["certificate: the certificate has expired"]);
    }

    #[test]
    fn a_part_that_was_given_up_is_still_missing() {
        let readiness = Readiness::default();
        drop(readiness.token("worker 0", "starting"));
        assert_eq!(readiness.missing(), ["worker 0: starting"]);
        let ready = readiness.token("worker 1", "starting");
        ready.ready();
        drop(ready);
        assert_eq!(readiness.missing(), ["worker 0: starting"]);
    }
}
