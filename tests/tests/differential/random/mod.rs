//! Rows that chance makes ([`cases`]), by fixed seeds: what differs is made smaller before it is shown. `LACIS_RANDOM=SEED:COUNT` has
//! each test here try so many others.

mod case;
mod cases;

use fastrand::Rng;
use lacis_tests::Link;
use serde_json::{Value, json};

use crate::outcome::{End, Outcome};
use crate::sides::{self, Place, Setting, Side};
use case::Case;
use cases::Kind;

/// One filter, in Envoy and here.
#[test]
fn one_filter() {
    let kind = Kind { filters: 1, ..Kind::default() };
    compare(1, 120, kind, false, ENVOY);
}

/// Three in one VM, which are entered together where that can be.
#[test]
fn a_chain() {
    let kind = Kind { filters: 3, ..Kind::default() };
    compare(2, 120, kind, false, ENVOY);
}

/// Two with VMs of their own.
#[test]
fn a_chain_of_vms() {
    let kind = Kind { filters: 2, ..Kind::default() };
    compare(3, 60, kind, true, ENVOY);
}

/// One that may stop its headers and see the body all the same.
#[test]
fn headers_held_alone() {
    let kind = Kind { filters: 1, alone: true, ..Kind::default() };
    compare(4, 60, kind, false, ENVOY);
}

/// Clients that speak HTTP/2.
#[test]
fn over_http2() {
    let kind = Kind { filters: 1, http2: true, ..Kind::default() };
    compare(5, 60, kind, false, (None, far(Place::Link, Link::H1)));
}

/// The filters of a caller, whatever its link.
#[test]
fn before_a_link() {
    let kind = Kind { filters: 2, http2: true, ..Kind::default() };
    for link in [Link::H2, Link::H3] {
        compare(6, 60, kind, false, (Some(far(Place::Link, Link::H1)), far(Place::Link, link)));
    }
}

/// The filters of a service, whatever its link.
#[test]
fn beyond_a_link() {
    let kind = Kind { filters: 2, http2: true, ..Kind::default() };
    for link in [Link::H2, Link::H3] {
        compare(7, 60, kind, false, (Some(far(Place::Beyond, Link::H1)), far(Place::Beyond, link)));
    }
}

/// What is compared: us in this setting, or else Envoy; and us.
type Settings = (Option<Setting>, Setting);

const ENVOY: Settings = (None, Setting::PLAIN);

fn far(place: Place, link: Link) -> Setting {
    Setting { place, link, ..Setting::PLAIN }
}

/// Tries cases by chance; `vms` where each filter has a VM of its own.
fn compare(seed: u64, count: usize, kind: Kind, vms: bool, settings: Settings) {
    let wanted = std::env::var("LACIS_RANDOM").ok();
    let wanted = wanted.as_deref().map(|wanted| wanted.split_once(':').expect("SEED:COUNT"));
    let (seed, count) =
        wanted.map_or((seed, count), |(seed, count)| (seed.parse().expect("a seed"), count.parse().expect("a number")));
    let Some(mut pair) = Pair::start(filters(kind, vms), settings) else { return };
    let mut rng = Rng::with_seed(seed);
    let mut wrong = Vec::new();
    for number in 0..count {
        let case = cases::case(&mut rng, kind);
        // What three tries do not all show is chance of another kind: which of two things is quicker.
        if let Some(small) = (0..3).all(|_| pair.differs(&case)).then(|| pair.smaller(case)) {
            let (first, second) = pair.lines(&small);
            let text = crate::diff(&first, &second);
            wrong.push(format!(
                "──── {number} of seed {seed}\n     {}\n     {}\n{text}",
                small.request(),
                small.scripts()
            ));
        }
    }
    crate::report(wrong);
    pair.second.is_clean();
}

/// As many as wanted, each with the script of its own field.
fn filters(kind: Kind, vms: bool) -> Vec<(String, Value)> {
    let names = [("a", "x-script|"), ("b", "x-script-b|"), ("c", "x-script-c|")];
    let section = |(name, script): &(&str, &str)| {
        let vm = if vms { *name } else { "" };
        sides::section(&(*name, *script, json!({"allow_on_headers_stop_iteration": kind.alone, "vm_id": vm})))
    };
    names[..kind.filters].iter().map(section).collect()
}

/// Two sides, with names for the cases that they are shown.
struct Pair {
    filters: Vec<(String, Value)>,
    settings: Settings,
    first: Side,
    second: Side,
    cases: usize,
}

impl Pair {
    fn start(filters: Vec<(String, Value)>, settings: Settings) -> Option<Pair> {
        let first = match settings.0 {
            None => sides::envoy(Setting::PLAIN, &filters)?,
            Some(setting) => sides::lacis(setting, &filters),
        };
        let second = sides::lacis(settings.1, &filters);
        Some(Pair { filters, settings, first, second, cases: 0 })
    }

    /// What a case shows on both. What ended one of them is shown to nobody again.
    fn lines(&mut self, case: &Case) -> (Vec<String>, Vec<String>) {
        self.cases += 1;
        let name = format!("c{}-", self.cases);
        let (request, scripts) = (case.request(), case.scripts());
        let run = |side: &Side| side.run(&name, &request, &scripts, self.filters.len());
        let (first, second) = (run(&self.first), run(&self.second));
        if (first.end, second.end) != (End::Whole, End::Whole) {
            let filters = std::mem::take(&mut self.filters);
            let cases = self.cases;
            *self = Pair { cases, ..Pair::start(filters, self.settings).expect("another pair") };
        }
        let lines = |outcome: &Outcome| -> Vec<String> {
            normal(&scripts, outcome).into_iter().map(|line| line.replace(&name, "")).collect()
        };
        (lines(&first), lines(&second))
    }

    fn differs(&mut self, case: &Case) -> bool {
        let (first, second) = self.lines(case);
        first != second
    }

    /// The case without what is not needed for a difference.
    fn smaller(&mut self, mut case: Case) -> Case {
        loop {
            let smaller = case.parts().into_iter().map(|part| case.without(part)).find(|smaller| self.differs(smaller));
            match smaller {
                Some(smaller) => case = smaller,
                None => return case,
            }
        }
    }
}

/// The lines of an outcome but for what [`differences`](crate::differences) lists of every message.
fn normal(scripts: &str, outcome: &Outcome) -> Vec<String> {
    let scripts: Vec<&str> = scripts.split("[b]").flat_map(|part| part.split("[c]")).collect();
    let mut lines = outcome.lines();
    // How nothing is framed is each version's own affair.
    if lines.iter().any(|line| line == "body \"\"") {
        lines.retain(|line| line != "field content-length: 0");
        for line in lines.iter_mut().filter(|line| line.starts_with("status ")) {
            line.truncate("status 000".len());
        }
    }
    for line in &mut lines {
        *line = line.replace(" chunked 0 bytes", " 0 bytes");
    }
    // Whether all of a request has been read when it is answered; how the content of another method would be framed.
    lines.retain(|line| line != "field connection: close" && line != "field transfer-encoding: chunked");
    for line in lines.iter_mut().filter(|line| line.starts_with("log ")) {
        let (filter, rest) = line.split_once(": ").unwrap_or_default();
        let script = ["log a", "log b", "log c"].iter().zip(&scripts).find(|(name, _)| **name == filter);
        let mut words: Vec<&str> = rest.split(' ').collect();
        let at = usize::from(words.first() == Some(&"new"));
        let body = words.get(at).is_some_and(|word| ["rqb", "rsb"].contains(word));
        // How a body comes of which a filter does not want all is each one's affair.
        if body && script.is_some_and(|(_, script)| !script.contains(&format!("{} ret 1", words[at]))) {
            words.drain(at + 1..at + 3);
        }
        let text = format!("{filter}: {}", words.join(" "));
        *line = OF_THE_CONNECTION.iter().fold(text, |text, own| text.replace(&format!(" {own}"), ""));
    }
    lines
}

/// What Envoy shows of the connection that a response came on; never the first in a line.
const OF_THE_CONNECTION: &[&str] =
    &["transfer-encoding=chunked", "connection=close", "transfer-encoding", "connection"];
