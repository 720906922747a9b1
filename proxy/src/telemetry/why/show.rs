//! A record in words, and as JSON.

use std::fmt::{self, Display, Formatter, Write as _};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Map, Value, json};

use super::{
    Because, BreakerState, Candidate, End, Explanation, MAX_STEPS, NotAgain, Record, Span, Standing, State, Step, What,
};
use crate::fault::Reason;
use crate::telemetry::access::Timestamp;
use crate::telemetry::labels::{Cause, Direction, Link, Outcome};

/// What is told of a request as JSON; in words it is what [`Explanation`]'s `Display` says.
pub fn json(told: &Explanation) -> Value {
    let record = &told.record;
    let End { status, reason, duration, link, attempts, bound: _, service, route } = &record.end;
    let state = told.state();
    json!({
        "id": told.id(),
        "start_time": start(record).to_string(),
        "direction": record.direction.token(),
        "method": record.method(),
        "host": told.host(),
        "path": told.path(),
        "query": record.query,
        "caller": {"address": record.caller.to_string(), "identity": told.identity()},
        "service": service.as_deref(),
        "route": route.as_deref(),
        "status": status,
        "reason": reason.token(),
        "duration_ms": millis(*duration),
        "link": link.token(),
        "attempts": attempts,
        "why": why(told),
        "steps": told.steps.iter().map(|each| step(told, each)).collect::<Vec<_>>(),
        "steps_lost": told.lost(),
        "state": state.map(|state| json!({
            "endpoints": state.endpoints.iter().map(candidate).collect::<Vec<_>>(),
            "endpoints_total": state.total,
            "requests": usage(state.requests),
            "pending": usage(state.pending),
            "retries": usage(state.retries),
            "breaker": state.breaker.map(|BreakerState { state, left, window: [requests, failed, slow] }| json!({
                "state": state, "open_ms": millis(left), "requests": requests, "failed": failed, "slow": slow,
            })),
        })),
    })
}

impl Display for Explanation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let record = &self.record;
        let End { status, reason, duration, service, .. } = &record.end;
        match (reason, status) {
            (Reason::None, 0) => f.write_str("no answer")?,
            (Reason::None, status) => write!(f, "{status}")?,
            (reason, 0) => write!(f, "no answer, {reason}")?,
            (reason, status) => write!(f, "{status} {reason}")?,
        }
        writeln!(f, ": {}", why(self))?;
        let query = if record.query { "?…" } else { "" };
        write!(f, "  {} {}{}{query}", record.method(), Safe(self.host()), Safe(self.path()))?;
        let (way, ours) = match record.direction {
            Direction::Outbound => ("to", "our application"),
            Direction::Inbound => ("for", "a peer"),
        };
        if let Some(service) = service {
            write!(f, " {way} {service}")?;
        }
        write!(f, ", {} from {ours} at {}", record.direction.token(), record.caller)?;
        if let Some(identity) = self.identity() {
            write!(f, " ({identity})")?;
        }
        let id = if self.id().is_empty() { "none" } else { self.id() };
        writeln!(f, "\n  began {}, took {}; id {}", start(record), Time(*duration), Safe(id))?;
        for Step { at, what } in &self.steps {
            match at {
                Some(at) => write!(f, "  {:>10}  ", Time(self.since(*at)).to_string())?,
                None => write!(f, "  {:>10}  ", "")?,
            }
            writeln!(f, "{}", Said(self, what))?;
        }
        if self.lost() > 0 {
            writeln!(f, "  and {} steps more: {MAX_STEPS} are kept", self.lost())?;
        }
        if let Some(state) = self.state() {
            Table(state).fmt(f)?;
        }
        Ok(())
    }
}

/// The one sentence that a reader wants first.
fn why(told: &Explanation) -> String {
    let End { status, reason, link, attempts, .. } = &told.record.end;
    let service = told.record.end.service.as_deref().unwrap_or("the service");
    let mut text = match (told.failure(), reason) {
        (Some(failure), reason) => match failure.strip_prefix(reason.token()).map(|rest| rest.trim_start_matches(": "))
        {
            Some("") | None => failure.to_owned(),
            Some(rest) => rest.to_owned(),
        },
        (None, _) => match (last_answer(told), answered_by_filter(told)) {
            (_, Some(filter)) => format!("the filter {filter} answered by itself"),
            (Some(status), None) => {
                let over = if *link == Link::None { String::new() } else { format!(" over {}", link.token()) };
                let tries = if *attempts > 1 { format!(", at try {attempts}") } else { String::new() };
                let own = if status >= 500 { " itself" } else { "" };
                format!("{service} answered {status}{own}{over}{tries}")
            }
            (None, None) if *status == 0 => "nobody waited for the answer".to_owned(),
            (None, None) => "answered here, by the rule that it followed".to_owned(),
        },
    };
    if let Some(not) = told.steps.iter().rev().find_map(|step| match step.what {
        What::NotAgain(not) => Some(not),
        _ => None,
    }) {
        let _ = write!(text, "; not sent again: {}", not_again(not));
    }
    if let Some(state) = told.state().filter(|_| told.failure().is_some()) {
        let _ = write!(text, "; {service} has {}", endpoints(state.total));
        let out = |standing: fn(Standing) -> bool| state.endpoints.iter().filter(|c| standing(c.standing)).count();
        let parts = [
            (out(|s| matches!(s, Standing::Ejected(..))), "ejected"),
            (out(|s| s == Standing::Unreachable), "not reachable a moment ago"),
            (out(|s| s == Standing::Unhealthy), "unhealthy"),
            (out(|s| s == Standing::Held), "asking for no requests"),
            (out(|s| s == Standing::Full), "full"),
        ];
        for (count, what) in parts.into_iter().filter(|(count, _)| *count > 0) {
            let _ = write!(text, ", {count} {what}");
        }
        if let Some(breaker) = state.breaker.filter(|breaker| breaker.state != "closed") {
            let _ = write!(text, "; {}", Gate(&breaker));
        }
    }
    text
}

fn last_answer(told: &Explanation) -> Option<u16> {
    told.steps.iter().rev().find_map(|step| match step.what {
        What::Answered(status, ..) => Some(status),
        _ => None,
    })
}

fn answered_by_filter(told: &Explanation) -> Option<&str> {
    told.steps.iter().rev().find_map(|step| match &step.what {
        What::Filter(filter, Outcome::Reply, _) => Some(told.read(*filter)),
        _ => None,
    })
}

/// One step in words.
struct Said<'a>(&'a Explanation, &'a What);

impl Display for Said<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let own = &self.0.own;
        let read = |span: &Span| own.read(*span);
        match self.1 {
            What::Paused(filter) => write!(f, "the filter {} held it back", read(filter)),
            What::Filter(filter, outcome, took) => {
                let did = match outcome {
                    Outcome::Continue => "let it go on",
                    Outcome::Reply => "answered by itself",
                    Outcome::Trap => "trapped",
                    Outcome::Timeout => "used up its time",
                };
                write!(f, "the filter {} {did}", read(filter))?;
                took.map_or(Ok(()), |took| write!(f, ", after {}", Time(took)))
            }
            What::Rule(rule, None) => write!(f, "it follows the rule {}", read(rule)),
            What::Rule(rule, Some(backend)) => {
                write!(f, "it follows the rule {}, to {}", read(rule), read(backend))
            }
            What::NoRule => f.write_str("no rule of the service's routes is for it"),
            What::Delayed(delay) => write!(f, "it waits for {} on purpose, as `fault` says", Time(*delay)),
            What::Mirrored(service) => write!(f, "a copy is for {}", read(service)),
            What::Bound(Duration::ZERO) => f.write_str("an answer may take any time"),
            What::Bound(bound) => write!(f, "an answer may take {}", Time(*bound)),
            What::Due(left) => write!(f, "its caller waits for another {}", Time(*left)),
            What::Trial => f.write_str("the breaker is half open, and this is one of those that try the service"),
            What::Chosen(all, total) => {
                let all = own.candidates(*all);
                let mut others = all.iter();
                match others.next() {
                    Some(chosen) => {
                        write!(f, "of {} {} is chosen: {}", endpoints(*total), chosen.address, Score(chosen))?
                    }
                    None => write!(f, "one of {} is chosen", endpoints(*total))?,
                }
                for other in others {
                    write!(f, "; {}: {}", other.address, Score(other))?;
                }
                match total.saturating_sub(all.len()) {
                    0 => Ok(()),
                    more => write!(f, "; and {more} more"),
                }
            }
            What::Link(link, because) => {
                write!(f, "over {}: ", link.token())?;
                match because {
                    Because::Configured => f.write_str("the configuration says so"),
                    Because::Upgrade => f.write_str("it asks for an upgrade"),
                    Because::Measured(cause) => write!(f, "it was measured to be better ({cause})"),
                    Because::Explored => f.write_str("it is tried now and then"),
                    Because::UdpWorks => f.write_str("the peer's UDP answers"),
                    Because::UdpUnknown => f.write_str("whether the peer's UDP answers is not known yet"),
                    Because::UdpSilent(after) => {
                        write!(f, "the peer's UDP did not answer, and is asked again in {}", Time(*after))
                    }
                    Because::UdpFailed => f.write_str("the peer's UDP did not answer just now"),
                    Because::NothingBetter => f.write_str("the peer has nothing better"),
                }
            }
            What::NoUdp(why) => write!(f, "no link by UDP: {}", Safe(read(why))),
            What::Sent => f.write_str("sent"),
            What::Answered(status, None, took) => write!(f, "answered {status}, {} after it was sent", Time(*took)),
            What::Answered(status, Some(code), took) => {
                write!(f, "answered {status} with the gRPC code {code}, {} after it was sent", Time(*took))
            }
            What::Failed(why, true) => write!(f, "the try failed: {}", Safe(read(why))),
            What::Failed(why, false) => write!(f, "it could not be sent: {}", Safe(read(why))),
            What::Hedge(address) => write!(f, "the answer takes long: {} is asked, too", read(address)),
            What::Won(address) => write!(f, "{} was the first with a good answer", read(address)),
            What::Again(cause, Duration::ZERO) => write!(f, "it is sent again at once, for {cause}"),
            What::Again(cause, after) => write!(f, "it is sent again after {}, for {cause}", Time(*after)),
            What::NotAgain(not) => write!(f, "it is not sent again: {}", not_again(*not)),
            What::Ejected(address, cause) => write!(f, "{} is ejected, for {cause}", read(address)),
            What::State => f.write_str("it failed; the service as it was then:"),
        }
    }
}

fn not_again(not: NotAgain) -> &'static str {
    match not {
        NotAgain::Spent => "`retries.attempts` is used up, or its body was not kept",
        NotAgain::Body => "its body is longer than `retries.body`",
        NotAgain::Unsafe => {
            "it may have been carried out, and neither its method nor a key says that once more is harmless"
        }
        NotAgain::Unasked => "`retries.on` does not name that, or the server asked for a longer wait",
        NotAgain::Budget => "`retries.budget` or `limits.retries` is used up",
    }
}

fn endpoints(count: usize) -> String {
    if count == 1 { "1 endpoint".to_owned() } else { format!("{count} endpoints") }
}

/// A service's state, line by line.
struct Table<'a>(&'a State);

impl Display for Table<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let State { endpoints, total, requests, pending, retries, breaker } = self.0;
        for candidate in endpoints {
            writeln!(f, "    {}: {}", candidate.address, Score(candidate))?;
        }
        if let Some(more) = total.checked_sub(endpoints.len()).filter(|more| *more > 0) {
            writeln!(f, "    and {more} more")?;
        }
        let limited =
            [("requests in flight", requests), ("waiting for a connection", pending), ("repetitions", retries)];
        for (what, (now, limit)) in limited {
            if let Some(limit) = limit {
                writeln!(f, "    {what}: {now} of {limit}")?;
            }
        }
        match breaker {
            Some(breaker) => writeln!(f, "    {}", Gate(breaker)),
            None => Ok(()),
        }
    }
}

struct Gate<'a>(&'a BreakerState);

impl Display for Gate<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let BreakerState { state, left, window: [requests, failed, slow] } = self.0;
        write!(f, "its breaker is {}", state.replace('_', " "))?;
        if *left > Duration::ZERO {
            write!(f, " for another {}", Time(*left))?;
        }
        write!(f, ": of {requests} requests in its window {failed} failed and {slow} were slow")
    }
}

struct Score<'a>(&'a Candidate);

impl Display for Score<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Candidate { address: _, in_flight, weight, score, standing } = self.0;
        if let Some(score) = score {
            write!(f, "score {score:.2}, ")?;
        }
        write!(f, "{in_flight} in flight")?;
        if *weight != 1 {
            write!(f, ", weight {weight}")?;
        }
        match standing {
            Standing::Fine => Ok(()),
            Standing::Unreachable => f.write_str(", not reachable a moment ago"),
            Standing::Unhealthy => f.write_str(", unhealthy"),
            Standing::Held => f.write_str(", asking for no requests"),
            Standing::Ejected(cause, Duration::ZERO) => write!(f, ", ejected for {cause} until it was tried"),
            Standing::Ejected(cause, left) => write!(f, ", ejected for {cause} for another {}", Time(*left)),
            Standing::Full => f.write_str(", full"),
        }
    }
}

fn step(told: &Explanation, step: &Step) -> Value {
    let own = &told.own;
    let read = |span: &Span| own.read(*span);
    let mut fields = Map::new();
    let (kind, more) = match &step.what {
        What::Paused(filter) => ("paused", json!({"filter": read(filter)})),
        What::Filter(filter, outcome, took) => {
            ("filter", json!({"filter": read(filter), "outcome": outcome.token(), "took_ms": took.map(millis)}))
        }
        What::Rule(rule, backend) => ("rule", json!({"rule": read(rule), "backend": backend.as_ref().map(read)})),
        What::NoRule => ("no_rule", json!({})),
        What::Delayed(delay) => ("delayed", json!({"delay_ms": millis(*delay)})),
        What::Mirrored(service) => ("mirrored", json!({"service": read(service)})),
        What::Bound(bound) => ("bound", json!({"request_ms": millis(*bound)})),
        What::Due(left) => ("due", json!({"left_ms": millis(*left)})),
        What::Trial => ("trial", json!({})),
        What::Chosen(all, total) => (
            "chosen",
            json!({
                "endpoint": own.candidates(*all).first().map(|chosen| chosen.address.to_string()),
                "considered": own.candidates(*all).iter().map(candidate).collect::<Vec<_>>(),
                "total": total,
            }),
        ),
        What::Link(link, because) => ("link", json!({"link": link.token(), "because": because_token(*because)})),
        What::NoUdp(why) => ("no_udp", json!({"error": read(why)})),
        What::Sent => ("sent", json!({})),
        What::Answered(status, code, took) => {
            ("answered", json!({"status": status, "grpc_status": code, "took_ms": millis(*took)}))
        }
        What::Failed(why, sent) => ("failed", json!({"error": read(why), "sent": sent})),
        What::Hedge(address) => ("hedge", json!({"endpoint": read(address)})),
        What::Won(address) => ("won", json!({"endpoint": read(address)})),
        What::Again(cause, after) => ("again", json!({"cause": cause.to_string(), "after_ms": millis(*after)})),
        What::NotAgain(not) => ("not_again", json!({"because": not_again(*not)})),
        What::Ejected(address, cause) => ("ejected", json!({"endpoint": read(address), "cause": cause.to_string()})),
        What::State => ("state", json!({})),
    };
    fields.insert("at_ms".to_owned(), json!(step.at.map(|at| millis(told.since(at)))));
    fields.insert("step".to_owned(), json!(kind));
    if let Value::Object(more) = more {
        fields.extend(more);
    }
    Value::Object(fields)
}

fn because_token(because: Because) -> &'static str {
    match because {
        Because::Configured => "configured",
        Because::Upgrade => "upgrade",
        Because::UdpWorks => "udp_works",
        Because::Measured(Cause::Latency) => "measured_latency",
        Because::Measured(Cause::Loss) => "measured_loss",
        Because::Measured(_) => "measured_cpu",
        Because::Explored => "explored",
        Because::UdpUnknown => "udp_unknown",
        Because::UdpSilent(_) => "udp_silent",
        Because::UdpFailed => "udp_failed",
        Because::NothingBetter => "nothing_better",
    }
}

fn candidate(candidate: &Candidate) -> Value {
    let Candidate { address, in_flight, weight, score, standing } = candidate;
    let (standing, cause, left) = match standing {
        Standing::Fine => ("fine", None, None),
        Standing::Unreachable => ("unreachable", None, None),
        Standing::Unhealthy => ("unhealthy", None, None),
        Standing::Held => ("held", None, None),
        Standing::Full => ("full", None, None),
        Standing::Ejected(cause, left) => ("ejected", Some(cause.to_string()), Some(millis(*left))),
    };
    json!({
        "endpoint": address.to_string(), "in_flight": in_flight, "weight": weight, "score": score,
        "standing": standing, "cause": cause, "left_ms": left,
    })
}

fn usage((now, limit): (u32, Option<u32>)) -> Value {
    json!({"now": now, "limit": limit})
}

/// When it began, by the clock of now: only the monotonic one was read then.
fn start(record: &Record) -> Timestamp {
    let ago = Instant::now().saturating_duration_since(record.started);
    Timestamp(SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH))
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// A time as one reads it.
struct Time(Duration);

impl Display for Time {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            time if time < Duration::from_secs(1) => write!(f, "{:.1} ms", time.as_secs_f64() * 1e3),
            time => write!(f, "{:.1} s", time.as_secs_f64()),
        }
    }
}

/// Text of strangers: what could command a terminal is escaped.
struct Safe<'a>(&'a str);

impl Display for Safe<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0
            .chars()
            .try_for_each(|c| if c.is_control() { write!(f, "{}", c.escape_unicode()) } else { f.write_char(c) })
    }
}
