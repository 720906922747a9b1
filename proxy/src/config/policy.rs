//! What a service's traffic is protected by: repetitions, bounds, and the ejection of endpoints that fail.

use std::time::Duration;

use http::Method;

/// When a request is sent again, and what bounds that.
///
/// A request that may have been carried out is only ever repeated if its method is idempotent (RFC 9110 section 9.2.2),
/// if it has an `idempotency-key`, or if its method is one of `methods`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retries {
    /// Repetitions at the most: a request is sent once more than this.
    pub attempts: u16,
    /// What it is repeated for.
    pub on: RetryOn,
    /// Methods that the service lets be repeated, beside those that are idempotent anyway.
    pub methods: Vec<Method>,
    /// Repetitions under way at once, in percent of the requests in flight (see [`MIN_BUDGET`]), in each worker.
    pub budget: u8,
    /// The wait before a repetition is a random part of this, which doubles with each.
    pub backoff: Backoff,
    /// From the end of the request until the head of the response, for each try; zero: no bound.
    pub per_try: Duration,
    /// When another endpoint is asked beside one that takes long.
    pub hedge: Option<Hedge>,
    /// Bytes of a request's body that are kept for a repetition; a longer one is not repeated once it was begun to be read.
    pub body: u64,
}

/// Repetitions that a budget always allows at once: a share of few requests would be none (Envoy's
/// `min_retry_concurrency`).
pub const MIN_BUDGET: u32 = 3;

/// What a request is repeated for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryOn {
    /// No connection could be made.
    pub connect_failure: bool,
    /// The server has provably not processed it.
    pub refused_stream: bool,
    /// Stream or connection broke before an answer.
    pub reset: bool,
    /// Statuses 400 to 599.
    pub statuses: Statuses,
    /// gRPC codes 0 to 16, a bit each.
    pub grpc: u32,
}

/// A set of statuses from 400 to 599.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statuses([u64; 4]);

impl Statuses {
    /// None at all.
    pub const NONE: Statuses = Statuses([0; 4]);

    /// Adds a status; those outside of 400 to 599 are no failures and stay out.
    pub fn insert(&mut self, status: u16) {
        if let Some((word, bit)) = Self::place(status) {
            self.0[word] |= bit;
        }
    }

    /// Whether a status is in it.
    pub fn contains(self, status: u16) -> bool {
        Self::place(status).is_some_and(|(word, bit)| self.0[word] & bit != 0)
    }

    fn place(status: u16) -> Option<(usize, u64)> {
        let at = usize::from(status).checked_sub(400).filter(|at| *at < 200)?;
        Some((at / 64, 1 << (at % 64)))
    }
}

/// When another endpoint is asked beside one whose answer takes long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hedge {
    /// After what wait from the end of the request.
    pub after: After,
    /// How many at the most, 1 to [`MAX_HEDGES`].
    pub max: u16,
}

/// Most endpoints that one request asks beside the first: a third rarely comes before the second.
pub const MAX_HEDGES: u16 = 3;

/// A wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// This.
    Fixed(Duration),
    /// As long as so many thousandths of the recent answers took at the most.
    Quantile(u16),
}

/// Exponential, with full jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The longest wait before the first repetition.
    pub base: Duration,
    /// The longest wait at all.
    pub max: Duration,
}

/// How much a service may be asked at once, by each worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open connections to all its endpoints. Beyond it requests wait for one; an endpoint without any gets one all the same.
    pub connections: u32,
    /// Requests that wait for a connection.
    pub pending: u32,
    /// Requests in flight, to the last byte of their responses.
    pub requests: u32,
    /// Repetitions under way.
    pub retries: u32,
    /// The same for each endpoint.
    pub endpoint: EndpointLimits,
}

/// How much one endpoint may be asked at once, by each worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointLimits {
    /// Open connections.
    pub connections: u32,
    /// Requests in flight.
    pub requests: u32,
}

impl Limits {
    /// None at all.
    pub const NONE: Limits = Limits {
        connections: u32::MAX,
        pending: u32::MAX,
        requests: u32::MAX,
        retries: u32::MAX,
        endpoint: EndpointLimits { connections: u32::MAX, requests: u32::MAX },
    };
}

/// When an endpoint that fails is passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outliers {
    /// Failures in a row; zero: they do not count.
    pub consecutive: u32,
    /// How often success rates are compared, and how long an endpoint has to stay for an ejection of it to be forgotten.
    pub interval: Duration,
    /// How long the first ejection lasts; each further one by as much longer.
    pub ejection: Duration,
    /// How long one lasts at the most.
    pub max_ejection: Duration,
    /// Endpoints that may be ejected at once, in percent; one always, if there are others.
    pub max_ejected: u8,
    /// Whether success rates are compared.
    pub success_rate: Option<SuccessRate>,
    /// Whether latencies are compared.
    pub latency: Option<Latency>,
}

/// When an endpoint answers much later than the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    /// Endpoints with enough answers that there have to be.
    pub endpoints: u32,
    /// Answers of an endpoint in an interval for it to be compared.
    pub requests: u32,
    /// By how many thousandths of it its median has to be above the group's.
    pub factor: u32,
}

/// When an endpoint succeeds much more rarely than the others (Envoy's `success_rate_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SuccessRate {
    /// Endpoints with enough requests that there have to be.
    pub endpoints: u32,
    /// Requests to an endpoint in an interval for it to be compared.
    pub requests: u32,
    /// By how many thousandths of a standard deviation below the mean one is ejected.
    pub deviation: u32,
}

/// When all requests to a service are refused for a while, in each worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breaker {
    /// The share of requests that fail (5xx, or no answer), in percent.
    pub failures: Option<u8>,
    /// The share of requests whose answer takes this long, in percent.
    pub slow: Option<(u8, Duration)>,
    /// The time that requests are counted over; it slides.
    pub window: Duration,
    /// Requests in it, below which it says nothing.
    pub requests: u32,
    /// How long they are refused.
    pub open: Duration,
    /// Requests that try the service then, all of which have to go well.
    pub probes: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_those_of_failures() {
        let mut set = Statuses::default();
        for status in [0, 200, 399, 400, 463, 464, 503, 599, 600, u16::MAX] {
            assert!(!set.contains(status));
            set.insert(status);
        }
        let within: Vec<u16> = (0..=u16::MAX).filter(|status| set.contains(*status)).collect();
        assert_eq!(within, [400, 463, 464, 503, 599]);
    }
}
