//! Cases of a filter: from the file to requests and expectations.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{HeaderName, HeaderValue};
use lacis_host::abi;

use super::super::cases::{
    Answer, Answered, Case, Cases, Content, Expectation, Expected, Message, Outcome, Spot as Place, Subject, Whose,
};
use super::super::raw::cases as raw;
use super::super::raw::filter::Payload;
use super::super::reader::{Entries, Field, Spot};
use super::super::word::Number;
use super::super::yaml::clip;
use super::Resolver;

/// Most repetitions and ticks of a case: what takes a second or so, and shows what a limit does at its edge.
const MAX_COUNT: u32 = 10_000;

/// The latest time, in seconds, that can be told in nanoseconds.
const MAX_SECONDS: u64 = u64::MAX / 1_000_000_000;

impl Resolver<'_> {
    /// The whole file.
    pub(super) fn cases(&self, raw: raw::File, at: Spot) -> Option<Cases> {
        let raw::File { config, root_id, vm_config, env, allow_on_headers_stop_iteration, cases } = raw;
        let config = config.or(Payload::default());
        let (root_id, vm_config) = (root_id.or(String::new()), vm_config.or(Payload::default()));
        let env = self.environment(env, Field::Absent);
        let head_waits_alone = allow_on_headers_stop_iteration.or(false);
        let (cases, spot) = self.required(cases, at, "cases", "a list of cases")?;
        if cases.is_empty() {
            return self.refuse(spot, "no case; write one");
        }
        let mut names = HashMap::new();
        let mut first = true;
        let cases = self.each(cases, |case, spot| {
            let first = std::mem::take(&mut first);
            self.case(case, spot, &config.as_ref()?.0, &mut names, first)
        });
        let subject =
            Subject { root_id: root_id?, vm_config: vm_config?.0, env: env?, head_waits_alone: head_waits_alone? };
        config?;
        Some(Cases { subject, cases: cases? })
    }

    fn case(
        &self,
        raw: raw::Case,
        at: Spot,
        common: &[u8],
        names: &mut HashMap<String, usize>,
        first: bool,
    ) -> Option<Case> {
        let raw::Case {
            name,
            config,
            continues,
            repeat,
            now,
            ticks,
            properties,
            shared_data,
            calls,
            request,
            response,
            expect,
        } = raw;
        let name = self.required(name, at, "name", "what the case shows, in a few words").and_then(|(name, spot)| {
            if name.is_empty() || name.contains(char::is_control) {
                return self.refuse(spot, "not a name; write a few words");
            }
            match names.insert(name.clone(), self.report.line(spot)) {
                Some(line) => self.refuse(spot, format!("the case at line {line} has this name; write another")),
                None => Some(name),
            }
        });
        let spot = self.case_place(at);
        let continues = self.optional(continues, false, |continues, spot| match continues && first {
            true => self.refuse(spot, "there is no case before this one; remove it"),
            false => Some(continues),
        });
        if let (Some(true), Some(spot)) = (continues, config.spot()) {
            self.report.wrong_key(spot, "the filter is configured already in the case that this one continues");
        }
        let config = config.or(Payload(common.to_vec()));
        let count = |field, least, default, what: &str| {
            self.optional(field, default, |count: Number, spot| {
                let count = count.within(least..=MAX_COUNT);
                count.or_else(|| self.refuse(spot, format!("not a number of {what}; write {least} to {MAX_COUNT}")))
            })
        };
        let (repeat, ticks) = (count(repeat, 1, 1, "repetitions"), count(ticks, 0, 0, "ticks"));
        let now = self.optional(now, None, |seconds, spot| match seconds {
            seconds if seconds <= MAX_SECONDS => Some(Some(seconds * 1_000_000_000)),
            _ => self.refuse(spot, "too late; write the time in seconds since 1970"),
        });
        let properties = self.entries(properties, |path, value, _| Some((self::path(&path), property(value))));
        let shared_data =
            self.entries(shared_data, |key, raw::Bytes(value), spot| Some((key, self.bytes(value, spot)?)));
        let answers = calls.or(Vec::new()).and_then(|calls| self.each(calls, |call, spot| self.answer(call, spot)));
        let request = request.or(raw::Request::default()).and_then(|request| self.request(request));
        let response = response.or(raw::Response::default()).and_then(|response| {
            let raw::Response { status, headers, body, trailers } = response;
            self.response(status, headers, body, trailers)
        });
        let expect = self.required(expect, at, "expect", "what should come of it, such as {reply: {status: 401}}");
        let expect = expect.and_then(|(expect, spot)| self.expect(expect, spot));
        Some(Case {
            name: name?,
            spot,
            config: config?.0,
            continues: continues?,
            repeat: repeat?,
            now: now?,
            ticks: ticks?,
            properties: properties?,
            shared_data: shared_data?,
            answers: answers?,
            request: request?,
            response: response?,
            expect: expect?,
        })
    }

    fn request(&self, raw: raw::Request) -> Option<Message> {
        let raw::Request { method, path, authority, scheme, headers, body, trailers } = raw;
        let pseudo = [
            (":authority", authority, "app"),
            (":path", path, "/"),
            (":method", method, "GET"),
            (":scheme", scheme, "http"),
        ];
        let pseudo = pseudo.map(|(name, field, default)| {
            let value = self.optional(field, default.to_owned(), |value, spot| self.value(value, spot));
            Some((name.to_owned(), value?))
        });
        self.message(pseudo.into_iter().collect::<Option<_>>(), headers, body, trailers)
    }

    fn response(
        &self,
        status: Field<Number>,
        headers: Field<Entries<raw::Lines>>,
        body: Field<raw::Pieces>,
        trailers: Field<Entries<raw::Lines>>,
    ) -> Option<Message> {
        let status = self.optional(status, 200u32, |status, spot| {
            let status = status.within(200..=599);
            status.or_else(|| self.refuse(spot, "not the status of a response; write 200 to 599"))
        });
        let head = status.map(|status| vec![(":status".to_owned(), status.to_string())]);
        self.message(head, headers, body, trailers)
    }

    fn message(
        &self,
        head: Option<Vec<(String, String)>>,
        headers: Field<Entries<raw::Lines>>,
        body: Field<raw::Pieces>,
        trailers: Field<Entries<raw::Lines>>,
    ) -> Option<Message> {
        let lines = |(name, values): (String, Vec<String>)| values.into_iter().map(move |value| (name.clone(), value));
        let headers = self.lines(headers).map(|all| all.into_iter().flat_map(lines).collect::<Vec<_>>());
        let trailers = self.lines(trailers).map(|all| all.into_iter().flat_map(lines).collect());
        let body = self.optional(body, Vec::new(), |raw::Pieces(pieces), spot| {
            pieces.into_iter().map(|piece| self.bytes(piece, spot)).collect()
        });
        let mut head = head?;
        head.extend(headers?);
        Some(Message { head, body: body?, trailers: trailers? })
    }

    fn answer(&self, raw: raw::Answer, at: Spot) -> Option<Answer> {
        let raw::Answer { service, path, status, headers, body, trailers, grpc, fails } = raw;
        let service = self.required(service, at, "service", "the name of the service that is called");
        let path = self.optional(path, None, |path, _| Some(Some(path)));
        let fails = fails.or(false)?;
        let http = [status.spot(), headers.spot(), body.spot(), trailers.spot()].into_iter().flatten().next();
        if fails && (http.is_some() || !grpc.is_absent()) {
            return self.refuse(at, "a call that fails has no answer; remove `fails`, or the answer");
        }
        if let (Some(spot), Some(_)) = (http, grpc.spot()) {
            self.report.wrong_key(spot, "a gRPC call has no HTTP answer; remove `grpc`, or this");
            return None;
        }
        let outcome = match grpc {
            Field::Bad => return None,
            Field::Given(raw::Grpc { status, text, messages }, _) => {
                let status = self.optional(status, 0, |status, spot| {
                    let status = status.within(0..=16);
                    status.or_else(|| self.refuse(spot, "not a status of gRPC; write 0 to 16"))
                });
                let messages = messages
                    .or(Vec::new())
                    .and_then(|messages| self.each(messages, |raw::Bytes(message), spot| self.bytes(message, spot)));
                Answered::Grpc { messages: messages?, status: status?, text: text.or(String::new())? }
            }
            Field::Absent if fails => Answered::Failure,
            Field::Absent => {
                let body = match body {
                    Field::Absent => Field::Absent,
                    Field::Bad => Field::Bad,
                    Field::Given(raw::Bytes(body), spot) => Field::Given(raw::Pieces(vec![body]), spot),
                };
                Answered::Http(self.response(status, headers, body, trailers)?)
            }
        };
        Some(Answer { service: service?.0, path: path?, outcome })
    }

    fn expect(&self, raw: raw::Expect, at: Spot) -> Option<Vec<Expectation>> {
        let raw::Expect { request, response, reply, reset, refused, calls, log, metrics, shared_data, properties } =
            raw;
        let outcomes = [
            (request.spot(), Outcome::Continue),
            (reply.spot(), Outcome::Reply),
            (reset.spot(), Outcome::Reset),
            (refused.spot(), Outcome::Refused),
        ];
        let mut all = Vec::new();
        let mut outcomes = outcomes.into_iter().filter_map(|(spot, outcome)| Some((spot?, outcome)));
        if let Some((spot, outcome)) = outcomes.next() {
            all.push(self.wanted(spot, Expected::Outcome(outcome)));
        }
        if outcomes.next().is_some() {
            self.report
                .wrong_key(at, "an exchange ends in one way: keep one of `request`, `reply`, `reset`, `refused`");
            return None;
        }
        let mut good = true;
        for (message, of) in [(request, Whose::Request), (response, Whose::Response), (reply, Whose::Response)] {
            match message {
                Field::Absent => {}
                Field::Bad => good = false,
                Field::Given(message, _) => match self.expected(message, of) {
                    Some(more) => all.extend(more),
                    None => good = false,
                },
            }
        }
        good &= !matches!(reset, Field::Bad) && !matches!(refused, Field::Bad);
        if let Field::Given(calls, spot) = calls {
            all.push(self.wanted(spot, Expected::Calls(calls.len())));
            let mut number = 0;
            let more = self.each(calls, |call, _| {
                number += 1;
                self.expected(call, Whose::Call(number - 1))
            });
            all.extend(more?.into_iter().flatten());
        }
        let log = log
            .or(Vec::new())
            .and_then(|texts| self.each(texts, |text, spot| Some(self.wanted(spot, Expected::Log(text)))));
        let metrics = self.entries(metrics, |name, value, spot| Some(self.wanted(spot, Expected::Metric(name, value))));
        let shared = self.entries(shared_data, |key, value, spot| {
            Some(self.wanted(spot, Expected::Shared(key, self.content(value, spot)?)))
        });
        let properties = self.entries(properties, |path, value, spot| {
            Some(self.wanted(spot, Expected::Property(self::path(&path), property(value))))
        });
        for more in [log, metrics, shared, properties] {
            all.extend(more?);
        }
        if all.is_empty() && good {
            self.report.wrong_key(at, "nothing is expected; write what should come of it, such as {request: {}}");
            return None;
        }
        good.then_some(all)
    }

    /// What a message should be.
    fn expected(&self, raw: raw::Message, of: Whose) -> Option<Vec<Expectation>> {
        let raw::Message { status, service, method, path, authority, headers, absent, body, trailers } = raw;
        let request = of != Whose::Response;
        let misplaced = [
            (status.spot(), request),
            (service.spot(), !matches!(of, Whose::Call(_))),
            (method.spot(), !request),
            (path.spot(), !request),
            (authority.spot(), !request),
        ];
        let mut good = true;
        for spot in misplaced.into_iter().filter_map(|(spot, wrong)| spot.filter(|_| wrong)) {
            self.report.wrong_key(spot, "this message has no such thing; remove it");
            good = false;
        }
        let mut all = Vec::new();
        let field = |name: &str, value: String| Expected::Field {
            of,
            trailer: false,
            name: name.to_owned(),
            values: vec![value],
        };
        if let Some((status, spot)) = status.given() {
            match status.within(100u16..=599) {
                Some(status) => all.push(self.wanted(spot, field(":status", status.to_string()))),
                None => {
                    self.report.wrong(spot, "not a status; write 100 to 599");
                    good = false;
                }
            }
        }
        if let (Some((service, spot)), Whose::Call(number)) = (service.given(), of) {
            all.push(self.wanted(spot, Expected::Service(number, service)));
        }
        for (name, text) in [(":method", method), (":path", path), (":authority", authority)] {
            if let Some((text, spot)) = text.given() {
                all.push(self.wanted(spot, field(name, text)));
            }
        }
        for (lines, trailer) in [(headers, false), (trailers, true)] {
            all.extend(self.entries(lines, |name, raw::Lines(values), spot| {
                let name = self.name(&name, spot)?;
                Some(self.wanted(spot, Expected::Field { of, trailer, name, values }))
            })?);
        }
        let absent = absent.or(Vec::new()).and_then(|names| {
            self.each(names, |name, spot| {
                let name = self.name(&name, spot)?;
                Some(self.wanted(spot, Expected::Field { of, trailer: false, name, values: Vec::new() }))
            })
        });
        all.extend(absent?);
        if let Some((body, spot)) = body.given() {
            all.push(self.wanted(spot, Expected::Body { of, body: self.content(body, spot)? }));
        }
        good.then_some(all)
    }

    fn wanted(&self, spot: Spot, what: Expected) -> Expectation {
        Expectation { spot: self.case_place(spot), what }
    }

    fn case_place(&self, spot: Spot) -> Place {
        let place = self.report.place(spot);
        Place { line: place.line, column: place.column }
    }

    /// Header lines by name.
    fn lines(&self, field: Field<Entries<raw::Lines>>) -> Option<Vec<(String, Vec<String>)>> {
        self.entries(field, |name, raw::Lines(values), spot| {
            let name = self.name(&name, spot);
            let values: Option<Vec<_>> = values.into_iter().map(|value| self.value(value, spot)).collect();
            Some((name?, values?))
        })
    }

    /// What `check` makes of every entry of a map, which may be absent.
    fn entries<T, U>(
        &self,
        field: Field<Entries<T>>,
        mut check: impl FnMut(String, T, Spot) -> Option<U>,
    ) -> Option<Vec<U>> {
        let Entries(entries) = field.or(Entries(Vec::new()))?;
        let all: Vec<_> = entries
            .into_iter()
            .map(|(name, field)| field.given().and_then(|(value, spot)| check(name, value, spot)))
            .collect();
        all.into_iter().collect()
    }

    fn name(&self, text: &str, spot: Spot) -> Option<String> {
        match HeaderName::from_bytes(text.as_bytes()) {
            Ok(name) => Some(name.as_str().to_owned()),
            Err(_) => {
                let right = "write letters, digits and '-'; what begins with ':' has a key of its own";
                self.report.wrong_key(spot, format!("\"{}\" is not the name of a header; {right}", clip(text)));
                None
            }
        }
    }

    fn value(&self, text: String, spot: Spot) -> Option<String> {
        match HeaderValue::from_str(&text) {
            Ok(_) => Some(text),
            Err(_) => self.refuse(spot, format!("\"{}\" cannot be in a header; write visible ASCII", clip(&text))),
        }
    }

    fn bytes(&self, wanted: raw::Wanted, spot: Spot) -> Option<Vec<u8>> {
        Some(match self.content(wanted, spot)? {
            Content::Bytes(bytes) => bytes,
            Content::Json(value) => value.to_string().into_bytes(),
        })
    }

    fn content(&self, wanted: raw::Wanted, spot: Spot) -> Option<Content> {
        Some(match wanted {
            raw::Wanted::Text(text) => Content::Bytes(text.into_bytes()),
            raw::Wanted::Json(value) => Content::Json(value),
            raw::Wanted::Base64(text) => match STANDARD.decode(&text) {
                Ok(bytes) => Content::Bytes(bytes),
                Err(_) => return self.refuse(spot, format!("\"{}\" is not base64 (RFC 4648)", clip(&text))),
            },
        })
    }
}

/// A dotted path as the ABI has it.
fn path(dotted: &str) -> Vec<u8> {
    dotted.bytes().map(|byte| if byte == b'.' { 0 } else { byte }).collect()
}

/// A property as the ABI has it.
fn property(value: raw::Property) -> Vec<u8> {
    match value {
        raw::Property::Text(text) => text.into_bytes(),
        raw::Property::Number(number) => number.to_le_bytes().to_vec(),
        raw::Property::Truth(truth) => vec![u8::from(truth)],
        raw::Property::Map(pairs) => encode(&pairs),
    }
}

fn encode(pairs: &[(String, String)]) -> Vec<u8> {
    let bytes = || pairs.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    let mut block = vec![0; abi::encoded_len(bytes())];
    if let Some(mut encoder) = abi::Encoder::new(&mut block, pairs.len()) {
        let whole = bytes().all(|(name, value)| encoder.push(name, value)) && encoder.is_complete();
        debug_assert!(whole, "the block has the size of the map");
    }
    block
}
