//! Repetitions, bounds and ejection of a service.

use std::time::Duration;

use http::Method;

use super::super::Timeouts;
use super::super::policy::{
    After, Backoff, Breaker, EndpointLimits, Hedge, Latency, Limits, MAX_HEDGES, Outliers, Retries, RetryOn,
    SuccessRate,
};
use super::super::raw::policy as raw;
use super::super::raw::{CONNECT, IDLE, InboundTimeouts as WrittenInbound, REQUEST, STREAM, Timeouts as Written};
use super::super::reader::{Field, Spot};
use super::super::word::{Percent, Size, Word};
use super::super::yaml::clip;
use super::Resolver;

/// Until a connection to the own application is open (Envoy's default). A full accept queue drops SYNs, which are
/// repeated after one and three seconds: a burst must get in.
const APPLICATION_CONNECT: Duration = Duration::from_secs(5);

/// Most repetitions of one request: ten more multiply a failure, and no endpoint is missed by then.
const MAX_ATTEMPTS: u32 = 10;

/// Most bytes of a body that are kept: each request in flight may hold so much.
const MAX_BODY: u64 = 64 << 20;

/// Shortest interval: success rates are compared for the whole service at once.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// Fewest endpoints whose success rates say something about one of them.
const MIN_RATED: u32 = 3;

/// The same for latencies: with two, one may be slow.
const MIN_TIMED: u32 = 2;

impl Resolver<'_> {
    pub(super) fn timeouts(&self, field: Field<Written>) -> Option<Timeouts> {
        let Written { connect, request, idle, stream } = field.or(Written::default())?;
        let connect = match connect {
            Field::Given(Word(Duration::ZERO), spot) => {
                self.refuse(spot, "a link cannot be open at once; write at least 1ms")
            }
            connect => self.word(connect, CONNECT),
        };
        let (request, idle) = (self.word(request, REQUEST), self.word(idle, IDLE));
        let stream = self.word(stream, STREAM);
        Some(Timeouts { connect: connect?, request: request?, idle: idle?, stream: stream? })
    }

    /// Those of the application. The caller's side bounds the wait for an answer: a second bound here could only cut what
    /// that one allows.
    pub(super) fn inbound_timeouts(&self, field: Field<WrittenInbound>) -> Option<Timeouts> {
        let WrittenInbound { idle, stream } = field.or(WrittenInbound::default())?;
        let (idle, stream) = (self.word(idle, IDLE), self.word(stream, STREAM));
        Some(Timeouts { connect: APPLICATION_CONNECT, request: Duration::ZERO, idle: idle?, stream: stream? })
    }

    pub(super) fn retries(&self, field: Field<raw::Retries>) -> Option<Option<Retries>> {
        self.optional(field, None, |raw, _| {
            let raw::Retries { attempts, on, methods, budget, backoff, max_backoff, per_try_timeout, hedge, body } =
                raw;
            let none = matches!(attempts, Field::Given(raw::Count(0), _));
            let attempts = self.optional(attempts, raw::ATTEMPTS, |raw::Count(count), spot| match count {
                0..=MAX_ATTEMPTS => Some(count),
                _ => self.refuse(spot, format!("too many; write 0 to {MAX_ATTEMPTS}")),
            });
            let mut all = RetryOn::default();
            let on = match on {
                Field::Absent => {
                    raw::ON.iter().filter_map(|text| raw::Condition::read(text).ok()).for_each(|c| c.add_to(&mut all));
                    Some(())
                }
                on => on.given().and_then(|(conditions, spot)| {
                    if conditions.is_empty() {
                        return self.refuse(spot, "nothing is repeated for nothing; write attempts: 0, or remove `on`");
                    }
                    self.each(conditions, |condition, _| {
                        condition.add_to(&mut all);
                        Some(())
                    })
                    .map(|_| ())
                }),
            };
            let methods = methods.or(Vec::new()).and_then(|methods| {
                self.each(methods, |name, spot| match Method::from_bytes(name.as_bytes()) {
                    Ok(Method::CONNECT) => self.refuse(spot, "what went through a tunnel cannot be sent again"),
                    Ok(method) if name.bytes().all(|b| !b.is_ascii_lowercase()) => Some(method),
                    _ => self.refuse(spot, format!("\"{}\" is not a method such as POST", clip(&name))),
                })
            });
            let budget = self.word(budget, raw::BUDGET);
            let backoff = self.backoff(backoff, max_backoff);
            let per_try = self.word(per_try_timeout, raw::PER_TRY);
            let body = match body {
                Field::Given(Word(Size(bytes)), spot) if bytes > MAX_BODY => {
                    self.refuse(spot, "each request in flight may hold this much in memory; write 64MiB or less")
                }
                body => self.word(body, raw::BODY),
            };
            let hedge = self.optional(hedge, None, |raw::Hedge { after, max }, at| {
                let after = self.required(after, at, "after", "a wait such as 50ms, or p95");
                let after = after.and_then(|(Word(after), spot)| match after {
                    After::Fixed(Duration::ZERO) => {
                        self.refuse(spot, "every request would be sent twice; write at least 1ms")
                    }
                    after => Some(after),
                });
                let most = u32::from(MAX_HEDGES);
                let max = self.optional(max, 1, |raw::Count(max), spot| match max {
                    max if (1..=most).contains(&max) => Some(max as u16),
                    _ => self.refuse(spot, format!("not a number of hedges; write 1 to {most}")),
                });
                if none {
                    self.report.wrong_key(at, "a hedge is a repetition, and `attempts` allows none; write at least 1");
                    return None;
                }
                Some(Some(Hedge { after: after?, max: max? }))
            });
            let ((), Percent(budget), Size(body)) = (on?, budget?, body?);
            Some(Some(Retries {
                attempts: attempts? as u16,
                on: all,
                methods: methods?,
                budget,
                backoff: backoff?,
                per_try: per_try?,
                hedge: hedge?,
                body,
            }))
        })
    }

    fn backoff(&self, base: Field<Word<Duration>>, max: Field<Word<Duration>>) -> Option<Backoff> {
        let spot = max.spot();
        let given = spot.is_some();
        let (base, max) = (self.word(base, raw::BACKOFF), self.word(max, raw::MAX_BACKOFF));
        let (base, max) = (base?, max?);
        match spot {
            Some(spot) if max < base => {
                self.refuse(spot, format!("shorter than the first wait, {base:?}; write at least that"))
            }
            // As Envoy: ten times the first, unless it is said.
            _ => Some(Backoff { base, max: if given { max } else { base * 10 } }),
        }
    }

    pub(super) fn limits(&self, field: Field<raw::Limits>) -> Option<Limits> {
        self.optional(field, Limits::NONE, |raw, _| {
            let raw::Limits { connections, pending, requests, retries, endpoint } = raw;
            let none = "nothing could pass; write at least 1, or remove it";
            let connections = self.at_least(connections, u32::MAX, 1, none);
            // Whoever opens a connection waits for it.
            let pending =
                self.at_least(pending, u32::MAX, 1, "no connection could be opened; write at least 1, or remove it");
            let requests = self.at_least(requests, u32::MAX, 1, none);
            let retries = self.at_least(retries, u32::MAX, 0, none);
            let endpoint = self.optional(endpoint, Limits::NONE.endpoint, |raw, _| {
                let raw::EndpointLimits { connections, requests } = raw;
                let connections = self.at_least(connections, u32::MAX, 1, none);
                let requests = self.at_least(requests, u32::MAX, 1, none);
                Some(EndpointLimits { connections: connections?, requests: requests? })
            });
            Some(Limits {
                connections: connections?,
                pending: pending?,
                requests: requests?,
                retries: retries?,
                endpoint: endpoint?,
            })
        })
    }

    pub(super) fn outliers(&self, field: Field<raw::Outliers>) -> Option<Option<Outliers>> {
        self.optional(field, None, |raw, at| {
            let raw::Outliers { consecutive, interval, ejection, max_ejection, max_ejected, success_rate, latency } =
                raw;
            let consecutive = consecutive.or(raw::Count(raw::CONSECUTIVE)).map(|raw::Count(count)| count);
            let interval = self.duration(interval, raw::INTERVAL, MIN_INTERVAL);
            let ejection = self.duration(ejection, raw::EJECTION, Duration::from_millis(1));
            let (longest, said) = (max_ejection.spot(), max_ejection.spot().is_some());
            let max_ejection = self.word(max_ejection, raw::MAX_EJECTION);
            let max_ejected = match max_ejected {
                Field::Given(Word(Percent(0)), spot) => {
                    self.refuse(spot, "nothing would be ejected; write at least 1%, or remove `outliers`")
                }
                share => self.word(share, raw::MAX_EJECTED),
            };
            let success_rate = self.optional(success_rate, None, |raw, _| {
                let raw::SuccessRate { endpoints, requests, deviation } = raw;
                let few = "too few to compare one with the others; write at least 3";
                let endpoints = self.at_least(endpoints, raw::RATED_ENDPOINTS, MIN_RATED, few);
                let requests = self.at_least(requests, raw::RATED_REQUESTS, 1, "write at least 1");
                let deviation = self.optional(deviation, raw::DEVIATION, |number, spot| match number {
                    number if (0.1..=100.0).contains(&number) => Some(number),
                    _ => self.refuse(spot, "not a number of standard deviations; write 0.1 to 100, such as 1.9"),
                });
                let deviation = (deviation? * 1000.0).round() as u32;
                Some(Some(SuccessRate { endpoints: endpoints?, requests: requests?, deviation }))
            });
            let latency = self.optional(latency, None, |raw, _| self.latency(raw).map(Some));
            let (consecutive, ejection, max_ejection, success_rate, latency) =
                (consecutive?, ejection?, max_ejection?, success_rate?, latency?);
            if consecutive == 0 && success_rate.is_none() && latency.is_none() {
                let message = "nothing ejects an endpoint; write `consecutive`, `success_rate`, or `latency`";
                self.report.wrong_key(at, message);
                return None;
            }
            if let Some(spot) = longest.filter(|_| max_ejection < ejection) {
                return self
                    .refuse(spot, format!("shorter than the first ejection, {ejection:?}; write at least that"));
            }
            let Percent(max_ejected) = max_ejected?;
            Some(Some(Outliers {
                consecutive,
                interval: interval?,
                ejection,
                max_ejection: if said { max_ejection } else { max_ejection.max(ejection) },
                max_ejected,
                success_rate,
                latency,
            }))
        })
    }

    fn latency(&self, raw: raw::Latency) -> Option<Latency> {
        let raw::Latency { factor, endpoints, requests } = raw;
        let factor = self.optional(factor, raw::FACTOR, |number, spot| match number {
            number if (1.5..=1000.0).contains(&number) => Some(number),
            _ => self.refuse(spot, "less than chance makes of it, or no number; write 1.5 to 1000, such as 3"),
        });
        let few = "too few to compare one with the others; write at least 2";
        let endpoints = self.at_least(endpoints, raw::TIMED_ENDPOINTS, MIN_TIMED, few);
        let requests = self.at_least(requests, raw::TIMED_REQUESTS, 1, "write at least 1");
        let factor = (factor? * 1000.0).round() as u32;
        Some(Latency { endpoints: endpoints?, requests: requests?, factor })
    }

    pub(super) fn breaker(&self, field: Field<raw::Breaker>) -> Option<Option<Breaker>> {
        self.optional(field, None, |raw, at| {
            let raw::Breaker { failures, slow, window, requests, open, probes } = raw;
            let share = |Word(Percent(share)): Word<Percent>, spot| match share {
                0 => self.refuse(spot, "nothing could pass; write at least 1%"),
                share => Some(share),
            };
            if failures.is_absent() && slow.is_absent() {
                self.report.wrong_key(at, "nothing opens it; write `failures`, or `slow`");
                return None;
            }
            let failures = self.optional(failures, None, |word, spot| share(word, spot).map(Some));
            let slow = self.optional(slow, None, |raw::Slow { share: part, after }, spot| {
                let part = self.required(part, spot, "share", "a percentage such as 50%");
                let part = part.and_then(|(word, spot)| share(word, spot));
                let (Word(after), _) = self.required(after, spot, "after", "a duration such as 1s")?;
                Some(Some((part?, after)))
            });
            let window = self.duration(window, raw::WINDOW, MIN_INTERVAL);
            let requests = self.at_least(requests, raw::MIN_REQUESTS, 1, "write at least 1");
            let open = self.duration(open, raw::OPEN, Duration::from_millis(1));
            let probes = self.at_least(probes, raw::PROBES, 1, "it would never close again; write at least 1");
            Some(Some(Breaker {
                failures: failures?,
                slow: slow?,
                window: window?,
                requests: requests?,
                open: open?,
                probes: probes?,
            }))
        })
    }

    pub(super) fn at_least(&self, field: Field<raw::Count>, default: u32, least: u32, why: &str) -> Option<u32> {
        self.optional(
            field,
            default,
            |raw::Count(count), spot| if count < least { self.refuse(spot, why) } else { Some(count) },
        )
    }

    pub(super) fn duration(&self, field: Field<Word<Duration>>, default: &str, least: Duration) -> Option<Duration> {
        match field {
            Field::Given(Word(time), spot) if time < least => self.too_short(spot, least),
            field => self.word(field, default),
        }
    }

    fn too_short(&self, spot: Spot, least: Duration) -> Option<Duration> {
        self.refuse(spot, format!("too short; write at least {}ms", least.as_millis()))
    }
}
