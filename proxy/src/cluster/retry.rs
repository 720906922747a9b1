//! Whether a request is sent again, and after what wait. Pure: time and chance are given.

use std::time::{Duration, SystemTime};

use http::header::{HeaderName, RETRY_AFTER};

use crate::config::Retries;
use crate::config::policy::{Backoff, RetryOn};
use crate::fault::{Fault, Reason, Retry};
use crate::http::Fields;
use crate::http::head::{RequestHead, ResponseHead};
use crate::telemetry::labels::Cause;

/// A key by which a server recognises a request that it has seen (draft-ietf-httpapi-idempotency-key-header).
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// When a gRPC client may try again (gRFC A6).
const GRPC_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// A server that asks for a longer wait than this is not tried again: what it said is for the caller, who knows whether
/// the answer is still wanted then.
pub const MAX_WAIT: Duration = Duration::from_secs(10);

/// What came of a try.
#[derive(Debug)]
pub enum Outcome<'a> {
    /// There was no connection. Whether another endpoint is left that could be reached.
    Unreached(&'a Fault, bool),
    /// It was sent, and no answer came.
    Failed(&'a Fault),
    /// An answer.
    Answered(&'a ResponseHead),
}

impl Outcome<'_> {
    /// Whether somebody could wish for another.
    pub fn is_failure(&self) -> bool {
        match self {
            Outcome::Unreached(..) | Outcome::Failed(_) => true,
            Outcome::Answered(head) => head.status.is_server_error() || grpc_status(head).is_some_and(|code| code != 0),
        }
    }
}

/// A repetition.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Again {
    /// The wait before it.
    pub after: Duration,
    /// Nobody has spent anything on the try: the budget is for others.
    pub free: bool,
    /// Why.
    pub cause: Cause,
}

/// Where nothing is said of retries: what provably reached nobody is sent elsewhere, or again.
pub static UNSAID: Retries = Retries {
    attempts: 2,
    on: RetryOn {
        connect_failure: true,
        refused_stream: true,
        reset: false,
        statuses: crate::config::policy::Statuses::NONE,
        grpc: 0,
    },
    methods: Vec::new(),
    budget: 100,
    backoff: Backoff { base: Duration::from_millis(25), max: Duration::from_millis(250) },
    per_try: Duration::ZERO,
    hedge: None,
    body: 0,
};

impl Retries {
    /// Whether a request may be sent again although it may have been carried out.
    pub fn repeatable(&self, head: &RequestHead) -> bool {
        head.method.is_idempotent() || self.methods.contains(&head.method) || head.headers.contains_key(IDEMPOTENCY_KEY)
    }

    /// Whether to send a request again that was sent again `repeated` times before.
    pub fn again(
        &self,
        outcome: &Outcome<'_>,
        repeated: u16,
        repeatable: impl Fn() -> bool,
        now: impl FnOnce() -> SystemTime,
        chance: &mut fastrand::Rng,
    ) -> Option<Again> {
        if repeated >= self.attempts {
            return None;
        }
        let (free, cause, hint) = match outcome {
            Outcome::Unreached(fault, _) if fault.retry == Retry::Safe && self.on.connect_failure => {
                (true, Cause::Reason(fault.reason), Hint::None)
            }
            // As in gRPC (A6): once without asking, for a server that goes away refuses many at once; one that does so
            // again and again has too much to do.
            Outcome::Failed(fault) if fault.retry == Retry::Safe && self.on.refused_stream => {
                (repeated == 0, Cause::Reason(fault.reason), Hint::None)
            }
            Outcome::Failed(fault) if self.is_for(fault.reason) && repeatable() => {
                (false, Cause::Reason(fault.reason), Hint::None)
            }
            Outcome::Answered(head) => {
                let cause = self.answer(head)?;
                if !repeatable() {
                    return None;
                }
                (false, cause, Hint::of(&head.headers, now))
            }
            Outcome::Unreached(..) | Outcome::Failed(_) => return None,
        };
        let after = match (outcome, hint) {
            (Outcome::Unreached(_, true), _) => Duration::ZERO,
            (Outcome::Failed(_), _) if free => Duration::ZERO,
            (_, Hint::None) => self.backoff.wait(repeated, chance),
            (_, Hint::AtLeast(wait)) => self.backoff.wait(repeated, chance).max(wait),
            (_, Hint::Exactly(wait)) => wait,
            (_, Hint::Never) => return None,
        };
        (after <= MAX_WAIT).then_some(Again { after, free, cause })
    }

    fn is_for(&self, reason: Reason) -> bool {
        match reason {
            Reason::ConnectionTerminated | Reason::StreamReset | Reason::HttpResponseIncomplete => self.on.reset,
            Reason::PerTryTimeout => true,
            _ => false,
        }
    }

    fn answer(&self, head: &ResponseHead) -> Option<Cause> {
        let status = head.status.as_u16();
        if self.on.statuses.contains(status) {
            return Some(Cause::Status(status));
        }
        if self.on.grpc == 0 {
            return None;
        }
        let code = grpc_status(head)?;
        (self.on.grpc & 1 << code != 0).then_some(Cause::Grpc(code))
    }
}

/// The code of a gRPC answer of headers only, 0 to 16; that of others comes when it is too late to try again.
pub fn grpc_status(head: &ResponseHead) -> Option<u8> {
    let code = head.headers.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()?;
    (code <= 16).then_some(code)
}

impl Backoff {
    /// A random part of the longest wait, which doubles with each repetition: many who failed together come back apart.
    fn wait(&self, repeated: u16, chance: &mut fastrand::Rng) -> Duration {
        let longest = self.base.saturating_mul(1 << repeated.min(20)).min(self.max);
        longest.mul_f64(chance.f64())
    }
}

/// How long a server asks not to be asked, if it does (gRFC A6; RFC 9110 section 10.2.3).
pub fn pushback(headers: &Fields, now: impl FnOnce() -> SystemTime) -> Option<Duration> {
    match Hint::of(headers, now) {
        Hint::AtLeast(wait) | Hint::Exactly(wait) => Some(wait),
        Hint::None | Hint::Never => None,
    }
}

/// What a server says of when to come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hint {
    None,
    AtLeast(Duration),
    Exactly(Duration),
    Never,
}

impl Hint {
    fn of(headers: &Fields, now: impl FnOnce() -> SystemTime) -> Self {
        if let Some(pushback) = headers.get(GRPC_PUSHBACK) {
            // What is negative or no number means: do not (gRFC A6).
            let millis = pushback.to_str().ok().and_then(|text| text.parse().ok());
            return millis.map_or(Hint::Never, |millis| Hint::Exactly(Duration::from_millis(millis)));
        }
        let Some(text) = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()) else { return Hint::None };
        if let Ok(seconds) = text.parse() {
            return Hint::AtLeast(Duration::from_secs(seconds));
        }
        // RFC 9110 section 10.2.3: or a date. What is neither says nothing.
        match httpdate::parse_http_date(text) {
            Ok(date) => Hint::AtLeast(date.duration_since(now()).unwrap_or_default()),
            Err(_) => Hint::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Method, StatusCode};

    use super::*;

    fn policy(on: RetryOn) -> Retries {
        Retries { attempts: 3, on, ..UNSAID.clone() }
    }

    fn on_503() -> RetryOn {
        let mut on = UNSAID.on;
        on.statuses.insert(503);
        on.grpc = 1 << 14;
        on
    }

    fn answer(status: u16, fields: &[(&'static str, &str)]) -> ResponseHead {
        let mut head = ResponseHead::new(StatusCode::from_u16(status).expect("a status"));
        for (name, value) in fields {
            head.headers.insert(http::HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"));
        }
        head
    }

    fn again(policy: &Retries, outcome: Outcome<'_>, repeated: u16, repeatable: bool) -> Option<Again> {
        let now = || SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        policy.again(&outcome, repeated, || repeatable, now, &mut fastrand::Rng::with_seed(7))
    }

    #[test]
    fn what_may_have_been_carried_out_is_repeated_only_where_that_is_harmless() {
        let policy = policy(on_503());
        let reset = Fault::new(Reason::StreamReset);
        let refused = Fault::new(Reason::RefusedStream);
        let unreached = Fault::new(Reason::ConnectionRefused);
        for repeatable in [false, true] {
            assert_eq!(again(&policy, Outcome::Answered(&answer(503, &[])), 0, repeatable).is_some(), repeatable);
            assert!(again(&policy, Outcome::Failed(&reset), 0, repeatable).is_none(), "nothing is said of resets");
            assert!(again(&policy, Outcome::Failed(&refused), 0, repeatable).is_some_and(|a| a.free));
            assert!(again(&policy, Outcome::Unreached(&unreached, true), 0, repeatable).is_some_and(|a| a.free));
        }
        let on_reset = super::tests::policy(RetryOn { reset: true, ..on_503() });
        assert!(again(&on_reset, Outcome::Failed(&reset), 0, true).is_some_and(|a| !a.free));
        assert!(again(&on_reset, Outcome::Failed(&reset), 0, false).is_none());
    }

    #[test]
    fn a_request_is_repeatable_by_its_method_its_key_or_the_services_word() {
        let mut policy = policy(on_503());
        let head = |method| RequestHead { method, ..RequestHead::unread() };
        for method in [Method::GET, Method::HEAD, Method::PUT, Method::DELETE, Method::OPTIONS] {
            assert!(policy.repeatable(&head(method)));
        }
        let mut post = head(Method::POST);
        assert!(!policy.repeatable(&post) && !policy.repeatable(&head(Method::PATCH)));
        post.headers.insert(IDEMPOTENCY_KEY, HeaderValue::from_static("1"));
        assert!(policy.repeatable(&post));
        policy.methods.push(Method::POST);
        assert!(policy.repeatable(&head(Method::POST)) && !policy.repeatable(&head(Method::PATCH)));
    }

    #[test]
    fn attempts_are_bounded() {
        let policy = policy(on_503());
        let last = |repeated| again(&policy, Outcome::Answered(&answer(503, &[])), repeated, true);
        assert!(last(2).is_some());
        assert!(last(3).is_none());
        let refused = Fault::new(Reason::RefusedStream);
        assert!(again(&policy, Outcome::Failed(&refused), 1, true).is_some_and(|a| !a.free), "the second is not free");
        assert!(again(&Retries { attempts: 0, ..UNSAID.clone() }, Outcome::Failed(&refused), 0, true).is_none());
    }

    #[test]
    fn codes_of_grpc_are_read_from_answers_of_headers_only() {
        let policy = policy(on_503());
        let code = |code| again(&policy, Outcome::Answered(&answer(200, &[("grpc-status", code)])), 0, true);
        assert_eq!(code("14").map(|a| a.cause), Some(Cause::Grpc(14)));
        for other in ["0", "13", "17", "99999", "x", ""] {
            assert_eq!(code(other), None, "{other}");
        }
    }

    #[test]
    fn what_a_server_asks_for_is_honoured() {
        let policy = policy(on_503());
        let after = |name, value| {
            again(&policy, Outcome::Answered(&answer(503, &[(name, value)])), 0, true).map(|again| again.after)
        };
        assert_eq!(after("retry-after", "2"), Some(Duration::from_secs(2)));
        assert!(after("retry-after", "0").is_some_and(|wait| wait < policy.backoff.base));
        assert_eq!(after("retry-after", "10"), Some(MAX_WAIT));
        assert_eq!(after("retry-after", "11"), None, "the caller learns it instead");
        // 1994-11-06T08:49:37Z is `now`.
        assert_eq!(after("retry-after", "Sun, 06 Nov 1994 08:49:40 GMT"), Some(Duration::from_secs(3)));
        assert!(after("retry-after", "Sun, 06 Nov 1994 08:49:00 GMT").is_some_and(|wait| wait < policy.backoff.base));
        assert!(after("retry-after", "soon").is_some());
        assert_eq!(after("grpc-retry-pushback-ms", "1500"), Some(Duration::from_millis(1500)));
        assert_eq!(after("grpc-retry-pushback-ms", "0"), Some(Duration::ZERO));
        assert_eq!(after("grpc-retry-pushback-ms", "-1"), None);
        assert_eq!(after("grpc-retry-pushback-ms", "x"), None);
    }

    #[test]
    fn waits_are_a_random_part_of_what_doubles() {
        let backoff = Backoff { base: Duration::from_millis(25), max: Duration::from_millis(250) };
        let mut chance = fastrand::Rng::with_seed(7);
        for (repeated, most) in [(0, 25), (1, 50), (2, 100), (3, 200), (4, 250), (1000, 250)] {
            let waits: Vec<f64> = (0..2000).map(|_| backoff.wait(repeated, &mut chance).as_secs_f64() * 1e3).collect();
            let mean = waits.iter().sum::<f64>() / 2000.0;
            assert!(waits.iter().all(|wait| *wait <= f64::from(most)), "{repeated}");
            assert!((mean / f64::from(most) - 0.5).abs() < 0.05, "{repeated}: {mean} of {most}");
        }
    }
}
