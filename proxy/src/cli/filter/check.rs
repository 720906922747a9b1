//! What came of a case, compared with what should.

use lacis_host::CallOut;
use lacis_host::testing::List;
use serde_json::Value;

use super::trial::{Seen, Sent, Stage, Stop, called};
use crate::config::cases::{Case, Content, Expectation, Expected, Outcome, Spot, Whose};

/// Longest text that is shown of a value, in characters.
const SHOWN: usize = 200;

/// Why a case fails, and the place of the expectation; nothing if it does not.
pub(super) fn problems(case: &Case, seen: &Seen, stage: Option<&Stage>) -> Vec<(Spot, String)> {
    let wanted = case.expect.iter().find_map(|expectation| match &expectation.what {
        Expected::Outcome(outcome) => Some((expectation.spot, *outcome)),
        _ => None,
    });
    // The rest of what should be is of no interest if the exchange itself is another.
    match (&seen.end, wanted) {
        (Ok(is), Some((spot, should))) if *is != should => {
            let response = seen.response.as_ref().filter(|_| *is == Outcome::Reply).map(|sent| {
                let status = values(&sent.head, ":status").join(",");
                format!(" of {status}: {}", shown(&String::from_utf8_lossy(&sent.body)))
            });
            vec![(spot, format!("expected {}, was {}{}", outcome(should), outcome(*is), response.unwrap_or_default()))]
        }
        (Err(Stop::Refused(_)), Some((_, Outcome::Refused))) | (Err(Stop::Reset), Some((_, Outcome::Reset))) => {
            compare(case, seen, stage)
        }
        (Err(stop), wanted) => {
            let spot = wanted.map_or(case.spot, |(spot, _)| spot);
            let should = wanted.map_or("an exchange", |(_, should)| outcome(should));
            vec![(spot, format!("expected {should}, was {}", stopped(stop)))]
        }
        (Ok(_), _) => compare(case, seen, stage),
    }
}

fn compare(case: &Case, seen: &Seen, stage: Option<&Stage>) -> Vec<(Spot, String)> {
    let calls: Vec<CallOut> = stage
        .map_or_else(Vec::new, |stage| stage.world.borrow().calls.iter().map(|(_, _, call)| call.clone()).collect());
    let differs = |Expectation { spot, what }: &Expectation| Some((*spot, difference(what, seen, stage, &calls)?));
    case.expect.iter().filter_map(differs).collect()
}

/// What is other than expected.
fn difference(what: &Expected, seen: &Seen, stage: Option<&Stage>, calls: &[CallOut]) -> Option<String> {
    let nothing = || "nothing".to_owned();
    match what {
        Expected::Outcome(_) => None,
        Expected::Field { of, trailer, name, values: wanted } => {
            let what = match (trailer, name.strip_prefix(':')) {
                (_, Some(pseudo)) => pseudo.to_owned(),
                (true, None) => format!("trailer {name}"),
                (false, None) => format!("header {name}"),
            };
            let should = |was: String| {
                let of = whose(*of);
                Some(match wanted.is_empty() {
                    true => format!("expected no {what} of {of}, was {was}"),
                    false => format!("expected the {what} of {of} to be {}, was {was}", quoted(wanted)),
                })
            };
            let Some(sent) = message(*of, seen, calls) else { return should("no such message".into()) };
            let is = values(if *trailer { &sent.trailers } else { &sent.head }, name);
            if is == *wanted {
                return None;
            }
            should(if is.is_empty() { "not there".into() } else { quoted(&is) })
        }
        Expected::Body { of, body } => {
            let is = message(*of, seen, calls).map(|sent| sent.body);
            content(&format!("as the body of {}", whose(*of)), body, is.as_deref())
        }
        Expected::Calls(wanted) => {
            let list: Vec<String> = calls.iter().map(called).map(|(s, p)| format!("{p} of {s}")).collect();
            let was = if list.is_empty() { nothing() } else { list.join(", ") };
            let plural = if *wanted == 1 { "" } else { "s" };
            (list.len() != *wanted).then(|| format!("expected {wanted} call{plural}, was {}: {was}", list.len()))
        }
        Expected::Service(number, wanted) => {
            let is = calls.get(*number).map_or_else(nothing, |call| called(call).0);
            (is != *wanted).then(|| format!("expected a call to the service {wanted}, was {is}"))
        }
        Expected::Log(wanted) => {
            let lines: Vec<String> = stage
                .map_or_else(Vec::new, |stage| stage.world.borrow().lines.iter().map(|(_, _, l)| l.clone()).collect());
            if lines.iter().any(|line| line.contains(wanted)) {
                return None;
            }
            let was = if lines.is_empty() { nothing() } else { shown(&lines.join(" | ")) };
            Some(format!("expected a line of the log with {wanted:?}, was {was}"))
        }
        Expected::Metric(name, wanted) => {
            let world = stage.map(|stage| stage.world.borrow());
            let metrics = world.as_ref().map(|world| world.metrics.as_slice()).unwrap_or_default();
            let is = metrics.iter().find(|(_, own, _)| own == name).map(|(_, _, value)| *value);
            let was = || match is {
                Some(is) => is.to_string(),
                None if metrics.is_empty() => "not defined; no metric is".to_owned(),
                None => {
                    let names: Vec<&str> = metrics.iter().map(|(_, name, _)| name.as_str()).collect();
                    format!("not defined; defined are {}", shown(&names.join(", ")))
                }
            };
            (is != Some(*wanted)).then(|| format!("expected the metric {name} to be {wanted}, was {}", was()))
        }
        Expected::Shared(key, wanted) => {
            let is = stage.and_then(|stage| stage.shared(key));
            content(&format!("as the shared data {key}"), wanted, is.as_deref())
        }
        Expected::Property(path, wanted) => {
            let is = seen.properties.iter().find(|(own, _)| own == path).map(|(_, value)| value.as_slice());
            let name = String::from_utf8_lossy(path).replace('\0', ".");
            content(&format!("as the property {name}"), &Content::Bytes(wanted.clone()), is)
        }
    }
}

/// What is other than expected of some bytes.
fn content(what: &str, wanted: &Content, is: Option<&[u8]>) -> Option<String> {
    let (fits, should) = match wanted {
        Content::Bytes(wanted) => (is == Some(wanted), bytes(wanted)),
        Content::Json(wanted) => {
            let is = is.and_then(|is| serde_json::from_slice::<Value>(is).ok());
            (is.as_ref() == Some(wanted), shown(&wanted.to_string()))
        }
    };
    let was = is.map_or_else(|| "nothing".to_owned(), bytes);
    (!fits).then(|| format!("expected {should} {what}, was {was}"))
}

fn message(of: Whose, seen: &Seen, calls: &[CallOut]) -> Option<Sent> {
    match of {
        Whose::Request => seen.request.clone(),
        Whose::Response => seen.response.clone(),
        Whose::Call(number) => calls.get(number).map(|call| match call {
            CallOut::Http(call) => Sent {
                head: List(call.headers.clone()),
                body: call.body.clone(),
                trailers: List(call.trailers.clone()),
            },
            CallOut::Grpc(inner) | CallOut::GrpcStream(inner) => {
                let mut head = vec![(b":path".to_vec(), called(call).1.into_bytes())];
                head.extend(inner.authority.iter().map(|name| (b":authority".to_vec(), name.clone().into_bytes())));
                head.extend(inner.metadata.iter().cloned());
                Sent { head: List(head), body: inner.message.clone(), trailers: List::default() }
            }
        }),
    }
}

fn values(list: &List, name: &str) -> Vec<String> {
    let own = list.0.iter().filter(|(own, _)| own == name.as_bytes());
    own.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
}

fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Continue => "the request to go on",
        Outcome::Reply => "a reply of the filter",
        Outcome::Reset => "the filter to close the stream",
        Outcome::Refused => "the filter to refuse its configuration",
    }
}

fn stopped(stop: &Stop) -> String {
    match stop {
        Stop::Refused(why) | Stop::Broken(why) => why.clone(),
        Stop::Reply(_) => outcome(Outcome::Reply).into(),
        Stop::Reset => "closed by the filter".into(),
        Stop::Held(half) => {
            let what = if *half == lacis_host::Half::Request { "request" } else { "response" };
            format!("the {what} held by the filter, which waits for nothing that could make it go on")
        }
        Stop::Unanswered(what) => format!("a call that the case has no answer for: {what}"),
    }
}

fn whose(of: Whose) -> String {
    match of {
        Whose::Request => "the request".into(),
        Whose::Response => "the response".into(),
        Whose::Call(number) => format!("call {}", number + 1),
    }
}

fn quoted(values: &[String]) -> String {
    shown(&values.iter().map(|value| format!("{value:?}")).collect::<Vec<_>>().join(", "))
}

fn bytes(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains(|c: char| c.is_control() && !c.is_whitespace()) => shown(&format!("{text:?}")),
        _ => {
            let hex: Vec<String> = bytes.iter().take(SHOWN / 3).map(|byte| format!("{byte:02x}")).collect();
            format!("{} bytes {}", bytes.len(), hex.join(" "))
        }
    }
}

/// One line, not long.
fn shown(text: &str) -> String {
    let mut line: String = text.chars().take(SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(SHOWN).is_some() {
        line.push('…');
    }
    line
}
