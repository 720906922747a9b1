//! Balancing and health checks of a service.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use http::uri::{Authority, PathAndQuery};

use super::super::balance::{Affinity, Balance, Hash, HashKey, HealthCheck, Probe, SlowStart, TableKind};
use super::super::raw::balance as raw;
use super::super::reader::{Field, Spot};
use super::super::word::{Percent, Word};
use super::super::yaml::clip;
use super::super::{Node, ServiceProtocol};
use super::Resolver;

/// Fewest bytes of a secret: as many as cannot be tried out.
const MIN_SECRET: usize = 16;

/// Shortest interval of health checks: each is a request to every endpoint.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// What of a service decides about its endpoints, as written.
pub(super) struct Balancing {
    pub(super) balance: Field<raw::Policy>,
    pub(super) panic_threshold: Field<Word<Percent>>,
    pub(super) zones: Field<Word<raw::Zones>>,
    pub(super) slow_start: Field<raw::SlowStart>,
    pub(super) affinity: Field<raw::Affinity>,
    pub(super) health: Field<raw::Health>,
}

/// The same, valid.
pub(super) struct Balanced {
    pub(super) balance: Balance,
    pub(super) panic: u8,
    pub(super) prefers_zone: bool,
    pub(super) slow_start: Option<SlowStart>,
    pub(super) affinity: Option<Affinity>,
    pub(super) health: Option<HealthCheck>,
}

impl Resolver<'_> {
    pub(super) fn balanced(
        &self,
        raw: Balancing,
        protocol: Option<ServiceProtocol>,
        node: Option<&Node>,
    ) -> Option<Balanced> {
        let Balancing { balance, panic_threshold, zones, slow_start, affinity, health } = raw;
        let opaque = protocol == Some(ServiceProtocol::Tcp);
        let (slow_spot, affinity_spot) = (slow_start.spot(), affinity.spot());
        let balance = self.optional(balance, Balance::LeastLoad, |policy, spot| match policy {
            raw::Policy::Word(balance) => Some(balance),
            raw::Policy::Map(raw::PolicyMap { hash }) => {
                let (hash, spot) = self.required(hash, spot, "hash", "{hash: {header: x-user}}")?;
                self.hash(hash, spot, opaque).map(|hash| Balance::Hash(Arc::new(hash)))
            }
        });
        let panic = self.word(panic_threshold, raw::PANIC_THRESHOLD);
        let prefers_zone = self.optional(zones, true, |Word(zones), spot| {
            if zones == raw::Zones::Prefer && node.is_some_and(|node| node.locality.zone.is_empty()) {
                return self.refuse(spot, "nobody has said where this sidecar is; write `node: {locality: {zone: …}}`");
            }
            Some(zones == raw::Zones::Prefer)
        });
        let slow_start = self.optional(slow_start, None, |raw, _| self.slow_start(raw).map(Some));
        let affinity = self.optional(affinity, None, |raw, spot| {
            if opaque {
                return self.refuse(spot, "opaque TCP has no cookies; write `balance: {hash: {source: true}}` instead");
            }
            self.affinity(raw).map(Some)
        });
        let health = self.optional(health, None, |raw, spot| self.health(raw, spot, opaque).map(Some));
        if let Some(Balance::Hash(_)) = balance {
            if let Some(spot) = slow_spot {
                let why = "a key has one endpoint, and cannot go there a little at first; remove `slow_start`";
                return self.refuse(spot, format!("{why}, or choose another `balance`"));
            }
            if let Some(spot) = affinity_spot {
                return self.refuse(spot, "`balance: hash` says already where a request goes; keep one of them");
            }
        }
        let Percent(panic) = panic?;
        Some(Balanced {
            balance: balance?,
            panic,
            prefers_zone: prefers_zone?,
            slow_start: slow_start?,
            affinity: affinity?,
            health: health?,
        })
    }

    fn hash(&self, raw: raw::Hash, at: Spot, opaque: bool) -> Option<Hash> {
        let raw::Hash { header, cookie, query, source, table } = raw;
        let given = [
            ("header", header.is_absent(), header.spot()),
            ("cookie", cookie.is_absent(), cookie.spot()),
            ("query", query.is_absent(), query.spot()),
            ("source", source.is_absent(), source.spot()),
        ];
        let mut given = given.into_iter().filter(|(_, absent, _)| !absent);
        let Some((first, _, first_spot)) = given.next() else {
            self.report
                .wrong_key(at, "nothing to hash; write header: NAME, cookie: NAME, query: NAME, or source: true");
            return None;
        };
        let mut sound = true;
        for (_, _, spot) in given {
            self.report.wrong_key(spot.unwrap_or(at), format!("`{first}` is hashed already; keep one of them"));
            sound = false;
        }
        if opaque && first != "source" {
            self.report.wrong_key(first_spot.unwrap_or(at), "opaque TCP has none; write source: true");
            sound = false;
        }
        let key = match (header, cookie, query, source) {
            (Field::Absent, Field::Absent, Field::Absent, source) => match source.given()? {
                (true, _) => Some(HashKey::Source),
                (false, spot) => self.refuse(spot, "nothing to hash; write source: true, or a header, cookie or query"),
            },
            (Field::Absent, Field::Absent, query, _) => {
                let (name, spot) = query.given()?;
                let sound = !name.is_empty() && !name.contains(['&', '=', '#']);
                if sound {
                    Some(HashKey::Query(name))
                } else {
                    self.refuse(spot, "not the name of a parameter such as user")
                }
            }
            (Field::Absent, cookie, ..) => {
                let (name, spot) = cookie.given()?;
                self.cookie(name, spot).map(HashKey::Cookie)
            }
            (header, ..) => {
                let (name, spot) = header.given()?;
                match HeaderName::from_bytes(name.as_bytes()) {
                    Ok(name) if name == http::header::HOST => {
                        self.refuse(spot, "every request to a service has the same one; hash something else")
                    }
                    Ok(name) => Some(HashKey::Header(name)),
                    Err(_) => {
                        self.refuse(spot, format!("\"{}\" is not the name of a field such as x-user", clip(&name)))
                    }
                }
            }
        };
        let table = table.or(Word(TableKind::Maglev)).map(|Word(table)| table);
        let (key, table) = (key?, table?);
        sound.then_some(Hash { key, table })
    }

    /// The name of a cookie (RFC 6265 section 4.1.1).
    fn cookie(&self, name: String, spot: Spot) -> Option<String> {
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        match (1..=256).contains(&name.len()) && name.bytes().all(token) {
            true => Some(name),
            false => self.refuse(spot, format!("\"{}\" is not the name of a cookie such as session", clip(&name))),
        }
    }

    fn slow_start(&self, raw: raw::SlowStart) -> Option<SlowStart> {
        let raw::SlowStart { window, aggression, min_weight } = raw;
        let window = match window {
            Field::Given(Word(Duration::ZERO), spot) => self.refuse(spot, "not slow; write at least 1ms, or remove it"),
            window => self.word(window, raw::WINDOW),
        };
        let aggression = self.optional(aggression, raw::AGGRESSION, |number, spot| match number {
            number if (0.1..=100.0).contains(&number) => Some(number),
            _ => self.refuse(spot, "write 0.1 to 100; 1 rises evenly, 2 rises soon"),
        });
        let min_weight = match min_weight {
            Field::Given(Word(Percent(0)), spot) => {
                self.refuse(spot, "it would never get its first request; write at least 1%")
            }
            min_weight => self.word(min_weight, raw::MIN_WEIGHT),
        };
        let Percent(min_weight) = min_weight?;
        Some(SlowStart { window: window?, aggression: aggression?, min_weight })
    }

    fn affinity(&self, raw: raw::Affinity) -> Option<Affinity> {
        let raw::Affinity { cookie, ttl, secret_env } = raw;
        let cookie = self.optional(cookie, raw::COOKIE.into(), |name, spot| self.cookie(name, spot));
        let ttl = self.word(ttl, raw::TTL);
        let secret = self.optional(secret_env, None, |name, spot| match (self.host.variable)(&name) {
            Some(secret) if secret.len() >= MIN_SECRET => Some(Some(secret)),
            Some(_) => self.refuse(spot, format!("what {} has is too short; at least {MIN_SECRET} bytes", clip(&name))),
            None => self.refuse(spot, format!("there is no environment variable \"{}\"", clip(&name))),
        });
        Some(Affinity { cookie: cookie?, ttl: ttl?, secret: secret? })
    }

    fn health(&self, raw: raw::Health, at: Spot, opaque: bool) -> Option<HealthCheck> {
        let raw::Health { http, grpc, tcp, interval, timeout, unhealthy, healthy } = raw;
        let given = [
            ("http", http.is_absent(), http.spot()),
            ("grpc", grpc.is_absent(), grpc.spot()),
            ("tcp", tcp.is_absent(), tcp.spot()),
        ];
        let mut given = given.into_iter().filter(|(_, absent, _)| !absent);
        let Some((first, _, first_spot)) = given.next() else {
            self.report.wrong_key(at, "nothing is asked; write http: {path: /health}, grpc: {}, or tcp: {}");
            return None;
        };
        let mut sound = true;
        for (_, _, spot) in given {
            self.report.wrong_key(spot.unwrap_or(at), format!("`{first}` is asked already; keep one of them"));
            sound = false;
        }
        if opaque && first != "tcp" {
            self.report.wrong_key(first_spot.unwrap_or(at), "nobody knows what opaque TCP speaks; write tcp: {}");
            sound = false;
        }
        let probe = match (http, grpc, tcp) {
            (Field::Absent, Field::Absent, tcp) => {
                let (raw::TcpCheck {}, _) = tcp.given()?;
                Some(Probe::Tcp)
            }
            (Field::Absent, grpc, _) => {
                let (raw::GrpcCheck { service }, _) = grpc.given()?;
                service.or(String::new()).map(|service| Probe::Grpc { service })
            }
            (http, ..) => {
                let (http, spot) = http.given()?;
                self.http_check(http, spot)
            }
        };
        let interval = self.duration(interval, raw::INTERVAL, MIN_INTERVAL);
        let timeout = self.duration(timeout, raw::TIMEOUT, Duration::from_millis(1));
        let unhealthy = self.at_least(unhealthy, raw::UNHEALTHY, 1, "write at least 1");
        let healthy = self.at_least(healthy, raw::HEALTHY, 1, "write at least 1");
        let check = HealthCheck {
            probe: probe?,
            interval: interval?,
            timeout: timeout?,
            unhealthy: unhealthy?,
            healthy: healthy?,
        };
        sound.then_some(check)
    }

    fn http_check(&self, raw: raw::HttpCheck, at: Spot) -> Option<Probe> {
        let raw::HttpCheck { path, host, status } = raw;
        let path = self.required(path, at, "path", "a path such as /health").and_then(|(text, spot)| {
            match PathAndQuery::try_from(text.as_str()) {
                Ok(path) if text.starts_with('/') => Some(path),
                _ => self.refuse(spot, format!("\"{}\" is not a path such as /health", clip(&text))),
            }
        });
        let host = self.optional(host, None, |text, spot| match Authority::try_from(text.as_str()) {
            Ok(host) if !text.contains('@') => Some(Some(host)),
            _ => self.refuse(spot, format!("\"{}\" is not a host such as delta", clip(&text))),
        });
        let statuses = self.optional(status, vec![raw::STATUS], |statuses, spot| {
            if statuses.is_empty() {
                return self.refuse(spot, "nothing would be good; write [200]");
            }
            self.each(statuses, |raw::StatusCode(status), _| Some(status))
        });
        Some(Probe::Http { path: path?, host: host?, statuses: statuses? })
    }
}
