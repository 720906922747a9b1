//! Faults on purpose and copies of requests.

use std::time::Duration;

use super::super::fault::{Abort, Faults, Mirror, Portion};
use super::super::raw::fault as raw;
use super::super::raw::policy::Count;
use super::super::reader::{Field, Spot};
use super::super::word::Word;
use super::Resolver;
use super::route::Known;

/// Parts that a fraction is of, where that is not said (Gateway API, `Fraction.denominator`).
const DENOMINATOR: u32 = 100;

impl Resolver<'_> {
    pub(super) fn fault(&self, field: Field<raw::Fault>) -> Option<Option<Faults>> {
        self.optional(field, None, |raw::Fault { headers, delay, abort }, at| {
            if delay.is_absent() && abort.is_absent() {
                self.report.wrong_key(at, "does nothing; write `delay`, or `abort`");
                return None;
            }
            let headers = self.text_matches(headers, |name, spot| self.field_name(&name, spot));
            let delay = self.optional(delay, None, |raw::Delay { fixed, percentage }, at| {
                let fixed = self.required(fixed, at, "fixed", "a duration such as 2s").and_then(
                    |(Word(time), spot)| match time {
                        Duration::ZERO => self.refuse(spot, "no delay at all; write at least 1ms"),
                        time => Some(time),
                    },
                );
                let portion = self.percentage(percentage, at);
                Some(Some((fixed?, portion?)))
            });
            let abort = self.optional(abort, None, |raw::Abort { http_status, grpc_status, percentage }, at| {
                let portion = self.percentage(percentage, at);
                let abort = match (http_status, grpc_status) {
                    (Field::Given(status, spot), Field::Absent) => match status.within(200..=599) {
                        Some(status) => Some(Abort::Http(status)),
                        None => self.refuse(spot, "not a status of a response; write 200 to 599"),
                    },
                    (Field::Absent, Field::Given(Word(raw::GrpcCode(code)), _)) => Some(Abort::Grpc(code)),
                    (Field::Bad, _) | (_, Field::Bad) => None,
                    _ => self.refuse(at, "not one answer; write one of http_status and grpc_status"),
                };
                Some(Some((abort?, portion?)))
            });
            Some(Some(Faults { headers: headers?, delay: delay?, abort: abort? }))
        })
    }

    fn percentage(&self, field: Field<Word<Portion>>, at: Spot) -> Option<Portion> {
        let (Word(portion), _) = self.required(field, at, "percentage", "the share of requests, such as 10%")?;
        Some(portion)
    }

    pub(super) fn mirror(&self, raw: raw::Mirror, at: Spot, known: &Known<'_>) -> Option<Mirror> {
        let raw::Mirror { service, percent, fraction } = raw;
        let service = self
            .required(service, at, "service", "the name of the service that gets a copy")
            .and_then(|(name, spot)| self.http_service(&name, spot, known));
        let portion = match (percent, fraction) {
            (Field::Absent, Field::Absent) => Some(Portion::ALL),
            (Field::Given(Word(portion), _), Field::Absent) => Some(portion),
            (Field::Absent, Field::Given(raw::Fraction { numerator, denominator }, at)) => {
                let numerator = self.required(numerator, at, "numerator", "so many of 100");
                let (Count(denominator), (Count(numerator), spot)) = (denominator.or(Count(DENOMINATOR))?, numerator?);
                match denominator {
                    0 => self.refuse(at, "of nothing; write a denominator of at least 1"),
                    _ if numerator > denominator => {
                        self.refuse(spot, format!("more than all; write 0 to {denominator}"))
                    }
                    _ => Some(Portion { numerator, denominator }),
                }
            }
            (Field::Bad, _) | (_, Field::Bad) => None,
            _ => self.refuse(at, "not one share; write one of percent and fraction"),
        };
        Some(Mirror { service: service?, portion: portion? })
    }
}
