//! Which rule a request follows, and what that makes of it (Gateway API, HTTPRoute). Nothing here waits, and chance is
//! an argument.

mod change;
mod inject;
mod matcher;

use std::sync::Arc;

use matcher::Matcher;

pub use change::{fields, redirect, rewrite};
pub use inject::{Injected, inject};
pub use matcher::has_headers;

use crate::config::Rule;
use crate::config::route::Backend;
use crate::http::RequestHead;

/// The rules of one service, to be found by request. What it costs to find one does not grow with their number.
#[derive(Debug)]
pub struct Table {
    rules: Arc<[Rule]>,
    matcher: Matcher,
}

/// The rule that a request follows.
#[derive(Clone, Copy, Debug)]
pub struct Found<'t> {
    /// The rule.
    pub rule: &'t Rule,
    /// Its place among those of the service.
    pub number: usize,
    /// Bytes of the path that its match is a prefix of.
    pub prefix: usize,
}

impl Table {
    /// Compiles the rules of a service.
    pub fn new(rules: &Arc<[Rule]>) -> Self {
        Table { matcher: Matcher::new(rules), rules: Arc::clone(rules) }
    }

    /// The rule for a request: of all whose match it meets the one with (1) the most specific host, exact before the
    /// longest end; (2) an exact path, the longest prefix, a pattern; (3) a method; (4) the most headers; (5) the most
    /// parameters; (6) the first place in the file.
    pub fn find(&self, head: &RequestHead) -> Option<Found<'_>> {
        let (number, prefix) = self.matcher.find(&self.rules, head)?;
        Some(Found { rule: self.rules.get(number)?, number, prefix })
    }
}

/// The ends of a host that a wildcard may stand before, with their dot, the longest first: each leaves at least a label.
pub fn ends(host: &str) -> impl Iterator<Item = &str> {
    host.match_indices('.').filter(|(dot, _)| *dot > 0).filter_map(|(dot, _)| host.get(dot..))
}

/// One of several backends, by weight. `chance` gives a number below the one that it is given. `None` if none has a weight.
pub fn pick(backends: &[Backend], chance: impl FnOnce(u64) -> u64) -> Option<&Backend> {
    let total: u64 = backends.iter().map(|backend| u64::from(backend.weight)).sum();
    if total == 0 {
        return None;
    }
    let mut left = chance(total);
    backends.iter().find(|backend| {
        let weight = u64::from(backend.weight);
        let here = left < weight;
        left = left.saturating_sub(weight);
        here
    })
}

#[cfg(test)]
mod tests;
