//! What the table shows: counts of the services, and what the sidecars' metrics say about the same requests.

use std::collections::BTreeMap;
use std::time::Duration;

use super::tally::Tally;

/// Counts by a name.
pub(super) type Counts = BTreeMap<String, u64>;

/// The filters of the demo, by the sidecar that runs them.
const FILTERS: [(&str, &str); 3] = [("alpha", "routing"), ("delta", "metrics"), ("delta", "auth")];

/// The counter of `builtin:metrics` as delta's configuration names it.
const COUNTER: &str = "requests_by_tenant_total";

/// All of it at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    pub(super) elapsed: Duration,
    /// How many requests are wanted, if that was said.
    pub(super) wanted: Option<u64>,
    pub(super) requests: u64,
    /// Requests that did not end as they should.
    pub(super) wrong: u64,
    pub(super) median: Duration,
    pub(super) p99: Duration,
    pub(super) statuses: Counts,
    /// Requests by the protocol of the link, as alpha's sidecar says.
    pub(super) links: Counts,
    /// Handshakes of links that worked, as alpha's sidecar says.
    pub(super) handshakes: u64,
    /// For each filter its sidecar, its name, and the requests that it saw by how it left them.
    pub(super) verdicts: Vec<(&'static str, &'static str, Counts)>,
    /// What `builtin:metrics` has counted.
    pub(super) counted: Counts,
    /// Requests that delta had, by the name it was called.
    pub(super) names: Counts,
    /// Requests that delta had, by who was calling.
    pub(super) callers: Counts,
}

impl View {
    /// From the services' counts and the metrics of both sidecars.
    pub(super) fn new(tally: &Tally, alpha: &str, delta: &str) -> Self {
        let [median, p99] = tally.percentiles([50, 99]);
        let verdicts = FILTERS.map(|(sidecar, filter)| {
            let text = if sidecar == "alpha" { alpha } else { delta };
            let seen = samples(text).filter(|s| s.name == "lacis_filter_requests_total" && s.label("filter") == filter);
            (sidecar, filter, counts(seen.map(|s| (s.label("outcome"), s.value))))
        });
        let requests =
            samples(alpha).filter(|s| s.name == "lacis_requests_total" && s.label("direction") == "outbound");
        let handshakes =
            samples(alpha).filter(|s| s.name == "lacis_link_handshakes_total" && s.label("result") == "ok");
        let counted = samples(delta).filter(|s| s.name == COUNTER);
        let counted: Vec<_> =
            counted.map(|s| (format!("{}_{}", s.label("tenant"), s.label("class")), s.value)).collect();
        View {
            elapsed: tally.elapsed(),
            wanted: tally.wanted(),
            requests: tally.ended,
            wrong: tally.wrong,
            median,
            p99,
            statuses: tally.statuses.iter().map(|(status, count)| (status.to_string(), *count)).collect(),
            links: counts(requests.map(|s| (s.label("link"), s.value))),
            handshakes: handshakes.map(|s| s.value).sum(),
            verdicts: verdicts.into(),
            counted: counts(counted.iter().map(|(name, value)| (name.as_str(), *value))),
            names: tally.names.clone(),
            callers: tally.callers.clone(),
        }
    }

    /// What did not happen that should have, or the other way round. The sidecars may have seen more requests than
    /// alpha made: the demo invites its user to make some.
    pub(super) fn problems(&self, tally: &Tally) -> Vec<String> {
        let mut problems = Vec::new();
        if self.wrong > 0 {
            let first = tally.objection.as_deref().unwrap_or_default();
            problems.push(format!("{} of {} requests went wrong, the first with: {first}", self.wrong, self.requests));
        }
        if let Some(wanted) = self.wanted.filter(|wanted| *wanted != self.requests && !tally.stopped()) {
            problems.push(format!("{} requests were made instead of {wanted}", self.requests));
        }
        let mut at_least = |what: &str, found: u64, expected: u64| {
            if found < expected {
                problems.push(format!("{what}: {found} of {expected} requests"));
            }
        };
        at_least("over h3, says alpha's sidecar", count(&self.links, "h3"), self.requests);
        let answered = self.requests - tally.keyless;
        at_least(
            "from alpha, as delta's sidecar has verified",
            count(&self.callers, "spiffe://demo.local/ns/default/sa/alpha"),
            answered,
        );
        at_least("counted by the filter metrics", self.counted.values().sum(), self.requests);
        for (sidecar, filter, outcomes) in &self.verdicts {
            let refused = if *filter == "auth" { tally.keyless } else { 0 };
            for (outcome, expected) in [("continue", self.requests - refused), ("reply", refused)] {
                at_least(
                    &format!("filter {filter} of {sidecar}'s sidecar, outcome {outcome}"),
                    count(outcomes, outcome),
                    expected,
                );
            }
        }
        problems
    }
}

/// A count by name; nothing counted is none.
fn count(counts: &Counts, name: &str) -> u64 {
    counts.get(name).copied().unwrap_or_default()
}

fn counts<'a>(items: impl Iterator<Item = (&'a str, u64)>) -> Counts {
    let mut counts = Counts::new();
    for (name, value) in items.filter(|(_, value)| *value > 0) {
        *counts.entry(name.to_owned()).or_default() += value;
    }
    counts
}

/// One counter of a page of metrics.
struct Sample<'a> {
    name: &'a str,
    labels: Vec<(&'a str, &'a str)>,
    value: u64,
}

impl<'a> Sample<'a> {
    fn label(&self, name: &str) -> &'a str {
        self.labels.iter().find(|(own, _)| *own == name).map(|(_, value)| *value).unwrap_or_default()
    }
}

/// The counters of a page in Prometheus' text format; what has no whole number as its value is left out.
fn samples(page: &str) -> impl Iterator<Item = Sample<'_>> {
    page.lines().filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let value = value.parse().ok()?;
        let Some((name, labels)) = series.split_once('{') else {
            return Some(Sample { name: series, labels: Vec::new(), value });
        };
        // No label that is looked at has a value with a quote or a comma in it.
        let labels = labels.trim_end_matches('}').split(',');
        let labels =
            labels.filter_map(|label| Some((label.split_once('=')?.0, label.split_once('=')?.1.trim_matches('"'))));
        Some(Sample { name, labels: labels.collect(), value })
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const ALPHA: &str = "\
# TYPE lacis_requests_total counter
lacis_requests_total{direction=\"outbound\",destination=\"delta\",status=\"200\",link=\"h3\"} 2
lacis_requests_total{direction=\"outbound\",destination=\"delta\",status=\"401\",link=\"h3\"} 1
lacis_request_duration_seconds_sum{direction=\"outbound\"} 0.632403622
lacis_link_handshakes_total{link=\"h3\",result=\"ok\"} 2
lacis_link_handshakes_total{link=\"h3\",result=\"error\"} 5
lacis_filter_requests_total{filter=\"routing\",outcome=\"continue\"} 3
lacis_config_generation 1
";
    const DELTA: &str = "\
lacis_filter_requests_total{filter=\"metrics\",outcome=\"continue\"} 3
lacis_filter_requests_total{filter=\"auth\",outcome=\"continue\"} 2
lacis_filter_requests_total{filter=\"auth\",outcome=\"reply\"} 1
requests_by_tenant_total{filter=\"metrics\",tenant=\"blue\",class=\"2xx\"} 2
requests_by_tenant_total{filter=\"metrics\",tenant=\"red\",class=\"4xx\"} 1
";

    fn tally() -> Tally {
        let mut tally = Tally::new(None);
        for question in std::iter::from_fn(|| tally.next()).take(10).collect::<Vec<_>>().into_iter().skip(7) {
            let answer = if question.key { (200, "delta: 0 bytes\n") } else { (401, "an API key is required\n") };
            tally.answered(&question, Ok((answer.0, answer.1.to_owned())), Duration::from_millis(1));
            if question.key {
                tally.asked("delta", "spiffe://demo.local/ns/default/sa/alpha");
            }
        }
        tally.stop();
        tally
    }

    #[test]
    fn metrics_are_read() {
        let view = View::new(&tally(), ALPHA, DELTA);
        assert_eq!(view.links, Counts::from([("h3".into(), 3)]));
        assert_eq!(view.handshakes, 2);
        assert_eq!(view.counted, Counts::from([("blue_2xx".into(), 2), ("red_4xx".into(), 1)]));
        assert_eq!(view.verdicts[2], ("delta", "auth", Counts::from([("continue".into(), 2), ("reply".into(), 1)])));
    }

    #[test]
    fn what_is_missing_is_told() {
        let mut tally = tally();
        tally.wrong = 0;
        assert_eq!(View::new(&tally, ALPHA, DELTA).problems(&tally), [] as [String; 0]);
        let told = |alpha: &str, delta: &str| View::new(&tally, alpha, delta).problems(&tally);
        assert_eq!(told(&ALPHA.replace("h3", "h2"), DELTA), ["over h3, says alpha's sidecar: 0 of 3 requests"]);
        let refused = DELTA.replace("reply", "trap");
        assert_eq!(told(ALPHA, &refused), ["filter auth of delta's sidecar, outcome reply: 0 of 1 requests"]);
        assert_eq!(told(ALPHA, "").len(), 4);
        tally.wrong = 1;
        tally.objection = Some("timed out".into());
        let view = View::new(&tally, ALPHA, DELTA);
        assert_eq!(view.problems(&tally), ["1 of 3 requests went wrong, the first with: timed out"]);
    }
}
