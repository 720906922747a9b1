//! The keys of an issuer that come from a service: when to ask for them, and how long what came may be used.

use std::time::Duration;

use crate::jose::KeySet;

/// The first wait after a failure; it doubles up to [`SLOWEST`].
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest wait after a failure, if refreshes are not more frequent anyway.
const SLOWEST: Duration = Duration::from_secs(60);
/// How often tokens with an unknown key may have the keys fetched out of turn: whoever can send tokens can send such ones.
const OUT_OF_TURN: Duration = Duration::from_secs(5);
/// How long keys are used that cannot be refreshed. Long enough for an issuer's bad day, not for ever: a key that was
/// taken away because it was stolen must not live on where its issuer is kept from saying so.
const LONGEST_USE: Duration = Duration::from_secs(24 * 60 * 60);

/// What is known of the keys. Times are of any clock that goes on steadily.
#[derive(Debug, Default)]
pub(crate) struct Source {
    keys: Option<(KeySet, Duration)>,
    /// When the last attempt ended.
    last: Option<Duration>,
    failures: u32,
    under_way: bool,
}

/// What a request does that would need other keys than there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lack {
    /// It has them fetched, and waits.
    Ask,
    /// It waits for the attempt that is under way.
    Wait,
    /// They were fetched a moment ago.
    GiveUp,
}

impl Source {
    /// The keys, if there are some that may still be used.
    pub(crate) fn keys(&self, now: Duration) -> Option<&KeySet> {
        self.keys.as_ref().filter(|(_, since)| now.saturating_sub(*since) < LONGEST_USE).map(|(keys, _)| keys)
    }

    /// An attempt begins.
    pub(crate) fn begin(&mut self) {
        self.under_way = true;
    }

    /// What a request does that would need other keys than there are.
    pub(crate) fn lack(&self, now: Duration) -> Lack {
        let asked = self.last.is_some_and(|last| now.saturating_sub(last) < OUT_OF_TURN);
        match (self.under_way, asked) {
            (true, _) => Lack::Wait,
            (false, false) => Lack::Ask,
            (false, true) => Lack::GiveUp,
        }
    }

    /// Takes what an attempt brought, and says how long to wait before the next one.
    pub(crate) fn arrived(&mut self, now: Duration, refresh: Duration, keys: Option<KeySet>) -> Duration {
        self.under_way = false;
        self.last = Some(now);
        let Some(keys) = keys else {
            let wait = FIRST_RETRY * 2_u32.saturating_pow(self.failures.min(16));
            self.failures = self.failures.saturating_add(1);
            return wait.min(SLOWEST).min(refresh);
        };
        self.keys = Some((keys, now));
        self.failures = 0;
        refresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors;

    const REFRESH: Duration = Duration::from_secs(600);

    fn second(second: u64) -> Duration {
        Duration::from_secs(second)
    }

    fn keys() -> Option<KeySet> {
        Some(KeySet::configured(&vectors::keys()).unwrap())
    }

    #[test]
    fn failures_are_tried_again_more_and_more_slowly() {
        let mut source = Source::default();
        assert!(source.keys(second(5)).is_none());
        let waits: Vec<u64> = (0..9).map(|at| source.arrived(second(at), REFRESH, None).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert!(source.keys(second(9)).is_none());
        assert_eq!(source.arrived(second(10), second(30), None), second(30), "refreshes are more frequent");
        assert_eq!(source.arrived(second(11), REFRESH, keys()), REFRESH);
        assert_eq!(source.arrived(second(12), REFRESH, None), second(1));
    }

    #[test]
    fn keys_outlive_failures_for_a_day() {
        let mut source = Source::default();
        source.arrived(second(100), REFRESH, keys());
        source.arrived(second(700), REFRESH, None);
        let day = 100 + LONGEST_USE.as_secs();
        assert!(source.keys(second(day - 1)).is_some());
        assert!(source.keys(second(day)).is_none());
        // A clock that was set back makes nothing older.
        assert!(source.keys(second(0)).is_some());
    }

    #[test]
    fn unknown_keys_are_asked_for_once_in_five_seconds() {
        let mut source = Source::default();
        assert_eq!(source.lack(second(100)), Lack::Ask);
        for result in [keys(), None] {
            source.begin();
            assert_eq!(source.lack(second(100)), Lack::Wait);
            source.arrived(second(100), REFRESH, result);
            assert_eq!(source.lack(second(104)), Lack::GiveUp);
            assert_eq!(source.lack(second(105)), Lack::Ask);
        }
    }
}
