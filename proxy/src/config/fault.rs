//! Faults that are put into traffic on purpose, copies of it, and shares of it.

use std::time::Duration;

use http::HeaderName;

use super::matching::TextMatch;

/// Faults for some requests: what an application does about them can be seen before they happen by themselves.
#[derive(Clone, Debug, PartialEq)]
pub struct Faults {
    /// Only for requests with all of these fields.
    pub headers: Vec<(HeaderName, TextMatch)>,
    /// A wait before the request is sent, and for how many.
    pub delay: Option<(Duration, Portion)>,
    /// An answer in the place of the service's, and for how many. Independent of `delay`: some requests get both.
    pub abort: Option<(Abort, Portion)>,
}

/// An answer in the place of a service's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abort {
    /// This status, 200 to 599; a gRPC request gets the code that stands for it.
    Http(u16),
    /// This code of gRPC, 1 to 16; another request gets 200 with the field, as gRPC itself has it.
    Grpc(u8),
}

/// A copy of requests, whose answer nobody sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Index into [`super::Config::services`].
    pub service: usize,
    /// Of how many.
    pub portion: Portion,
}

/// A share of requests: so many of so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Portion {
    /// So many,
    pub numerator: u32,
    /// of so many, at least one.
    pub denominator: u32,
}

impl Portion {
    /// All of them.
    pub const ALL: Portion = Portion { numerator: 1, denominator: 1 };

    /// Whether one request is of them. `chance` gives a number below the one that it is given.
    pub fn meets(self, chance: impl FnOnce(u32) -> u32) -> bool {
        self.numerator >= self.denominator || self.numerator > 0 && chance(self.denominator) < self.numerator
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_portion_is_met_as_often_as_it_says() {
        let mut chance = fastrand::Rng::with_seed(7);
        let mut met = |numerator, denominator| {
            let portion = Portion { numerator, denominator };
            (0..10_000).filter(|_| portion.meets(|below| chance.u32(..below))).count()
        };
        assert_eq!((met(0, 1), met(0, 1_000_000), met(1, 1), met(1_000_000, 1_000_000)), (0, 0, 10_000, 10_000));
        assert!((900..1100).contains(&met(1, 10)));
        assert!((1..=30).contains(&met(1, 1000)));
        let edge = Portion { numerator: 3, denominator: 10 };
        assert!(edge.meets(|_| 2) && !edge.meets(|_| 3));
    }
}
