//! The policies against each other: ten endpoints that queue, requests that come by chance, and one thing that is wrong.
//! What comes of it is drawn in `docs/balancing.svg` (`LACIS_BLESS=1` does that).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::fmt::Write as _;
use std::time::Duration;

use super::*;
use crate::config::balance::{Hash, HashKey, TableKind};

/// How coarse the clock of the data path is.
const TICK: u64 = 100_000_000;

/// Simulated time, and what of it is not counted: all have to be asked a few times first.
const LENGTH: u64 = 35_000_000_000;
const WARM_UP: u64 = 5_000_000_000;

const SEEDS: u64 = 2;

/// One endpoint: so many requests at once, each for so long on average; more wait. Or it fails at once.
#[derive(Clone, Copy)]
struct Server {
    weight: u32,
    slots: usize,
    millis: f64,
    fails: bool,
}

const SOUND: Server = Server { weight: 1, slots: 8, millis: 10.0, fails: false };

struct Scenario {
    name: &'static str,
    servers: Vec<Server>,
    /// Requests a second.
    rate: f64,
}

/// One is slow (and works on more at once, so that nothing piles up), or has more weight, or fails. At 40 to 60 % of what
/// all can do.
fn scenarios() -> [Scenario; 3] {
    let ten = |first: Server| {
        let mut servers = vec![SOUND; 10];
        servers[0] = first;
        servers
    };
    let weighted = [1, 1, 2, 2, 4].map(|weight| Server { weight, slots: 8 * weight as usize, ..SOUND });
    [
        Scenario {
            name: "one of ten is ten times slower",
            servers: ten(Server { millis: 100.0, slots: 80, ..SOUND }),
            rate: 3000.0,
        },
        Scenario { name: "weights 1, 1, 2, 2, 4", servers: weighted.to_vec(), rate: 5000.0 },
        Scenario {
            name: "one of ten answers 503 at once",
            servers: ten(Server { millis: 0.2, fails: true, ..SOUND }),
            rate: 3000.0,
        },
    ]
}

/// What came of a run.
#[derive(Clone, Default)]
struct Outcome {
    /// Of good answers, in milliseconds, ascending.
    latencies: Vec<f64>,
    failed: usize,
    /// Requests by endpoint.
    shares: Vec<usize>,
}

impl Outcome {
    fn percentile(&self, percent: f64) -> f64 {
        let at = (self.latencies.len() as f64 * percent / 100.0) as usize;
        self.latencies.get(at.min(self.latencies.len().saturating_sub(1))).copied().unwrap_or(0.0)
    }

    fn failed_percent(&self) -> f64 {
        100.0 * self.failed as f64 / (self.failed + self.latencies.len()).max(1) as f64
    }

    /// The share of an endpoint, by what its weight says that it should have.
    fn fairness(&self, servers: &[Server]) -> Vec<f64> {
        let (total, weights) = (self.shares.iter().sum::<usize>(), servers.iter().map(|s| s.weight).sum::<u32>());
        let fair = |weight: u32| total as f64 * f64::from(weight) / f64::from(weights);
        self.shares.iter().zip(servers).map(|(n, server)| *n as f64 / fair(server.weight)).collect()
    }
}

fn simulate(scenario: &Scenario, policy: &Balance, seed: u64) -> Outcome {
    let mut chance = fastrand::Rng::with_seed(seed);
    let all: Vec<Fake> = scenario.servers.iter().enumerate().map(|(i, s)| Fake::new(i, s.weight)).collect();
    let rules = Rules { policy: policy.clone(), panic: 50, slow_start: None };
    let balancer = Balancer::new(rules, Rc::default(), None);
    let mut outcome = Outcome { shares: vec![0; all.len()], ..Outcome::default() };
    let (mut busy, mut waiting) = (vec![0; all.len()], vec![VecDeque::<u64>::new(); all.len()]);
    // When a request ends, where, and when it came.
    let mut ends: BinaryHeap<Reverse<(u64, usize, u64)>> = BinaryHeap::new();
    let exponential = |chance: &mut fastrand::Rng, mean: f64| -(1.0 - chance.f64()).ln() * mean;
    let mut next = 0u64;
    loop {
        while let Some(Reverse((end, at, came))) = ends.peek().copied().filter(|Reverse((end, ..))| *end <= next) {
            ends.pop();
            let (load, took) = (&all[at].load, Duration::from_nanos(end - came));
            load.end();
            match scenario.servers[at].fails {
                true => load.failed(took, end / TICK * TICK),
                false => load.answered(took, end / TICK * TICK, balancer.usual()),
            }
            if came >= WARM_UP {
                match scenario.servers[at].fails {
                    true => outcome.failed += 1,
                    false => outcome.latencies.push(took.as_secs_f64() * 1000.0),
                }
            }
            busy[at] -= 1;
            if let Some(came) = waiting[at].pop_front() {
                busy[at] += 1;
                let millis = exponential(&mut chance, scenario.servers[at].millis);
                ends.push(Reverse((end + (millis * 1e6) as u64, at, came)));
            }
        }
        if next >= LENGTH {
            outcome.latencies.sort_unstable_by(f64::total_cmp);
            return outcome;
        }
        let want = Want { hash: Some(chance.u64(..)), token: None };
        let at = balancer.pick(&all[..], want, |_| false, next / TICK * TICK, &mut chance).expect("an endpoint");
        all[at].load.start();
        if next >= WARM_UP {
            outcome.shares[at] += 1;
        }
        if busy[at] < scenario.servers[at].slots {
            busy[at] += 1;
            let millis = exponential(&mut chance, scenario.servers[at].millis);
            ends.push(Reverse((next + (millis * 1e6) as u64, at, next)));
        } else {
            waiting[at].push_back(next);
        }
        next += (exponential(&mut chance, 1e9 / scenario.rate) as u64).max(1);
    }
}

fn policies() -> [(&'static str, Balance); 5] {
    [
        ("least_load", Balance::LeastLoad),
        ("least_request", Balance::LeastRequest),
        ("round_robin", Balance::RoundRobin),
        ("random", Balance::Random),
        ("hash", Balance::Hash(Hash { key: HashKey::Source, table: TableKind::Maglev }.into())),
    ]
}

/// Each scenario with each policy, in their order; of all seeds together.
fn outcomes() -> Vec<(Scenario, Vec<(&'static str, Outcome)>)> {
    let run = |scenario: Scenario| {
        let of = |(name, policy): (&'static str, Balance)| {
            let mut sum = Outcome { shares: vec![0; scenario.servers.len()], ..Outcome::default() };
            for seed in 0..SEEDS {
                let outcome = simulate(&scenario, &policy, seed);
                sum.latencies.extend(outcome.latencies);
                sum.failed += outcome.failed;
                sum.shares.iter_mut().zip(outcome.shares).for_each(|(sum, n)| *sum += n);
            }
            sum.latencies.sort_unstable_by(f64::total_cmp);
            (name, sum)
        };
        let outcomes = policies().into_iter().map(of).collect();
        (scenario, outcomes)
    };
    scenarios().into_iter().map(run).collect()
}

#[test]
fn the_policies_differ_as_they_should() {
    let all = outcomes();
    let find = |scenario: usize, policy: &str| {
        all[scenario].1.iter().find(|(name, _)| *name == policy).map(|(_, outcome)| outcome).expect("a policy")
    };
    if std::env::var_os("LACIS_BLESS").is_some() {
        std::fs::write(format!("{}/docs/balancing.svg", env!("CARGO_MANIFEST_DIR")), draw(&all)).expect("written");
    }
    let p99 = |scenario, policy| find(scenario, policy).percentile(99.0);
    let slow = |policy| p99(0, policy);
    assert!(slow("least_load") < 60.0, "{}", slow("least_load"));
    for policy in ["round_robin", "random", "hash"] {
        assert!(slow("least_load") * 3.0 < slow(policy), "{policy}: {}", slow(policy));
    }
    assert!(slow("least_request") < slow("round_robin"));
    for (policy, most) in
        [("least_load", 0.25), ("least_request", 0.25), ("round_robin", 0.001), ("random", 0.02), ("hash", 0.05)]
    {
        let fair = find(1, policy).fairness(&all[1].0.servers);
        assert!(fair.iter().all(|share| (share - 1.0).abs() <= most), "{policy}: {fair:?}");
    }
    let failed = |policy| find(2, policy).failed_percent();
    assert!(failed("least_load") < 0.5, "{}", failed("least_load"));
    assert!(failed("round_robin") > 9.0 && failed("least_request") > failed("round_robin"), "a black hole attracts");
}

/// Three panels of bars as SVG.
fn draw(all: &[(Scenario, Vec<(&'static str, Outcome)>)]) -> String {
    const COLOURS: [&str; 5] = ["#1b6ca8", "#3fa34d", "#e08e1b", "#b23a48", "#7d5ba6"];
    const WIDTH: f64 = 300.0;
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 960 330\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"960\" height=\"330\" fill=\"white\"/>\n",
    );
    let text = |svg: &mut String, x: f64, y: f64, anchor: &str, text: &str| {
        let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>");
    };
    let bar = |svg: &mut String, x: f64, top: f64, bottom: f64, width: f64, colour: &str| {
        let height = (bottom - top).max(0.5);
        let _ = writeln!(
            svg,
            "<rect x=\"{x:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>"
        );
    };
    /// What its axis says, what is drawn, the highest value, and whether it is logarithmic.
    type Panel = (&'static str, fn(&Scenario, &Outcome) -> Vec<(String, f64)>, f64, bool);
    let panels: [Panel; 3] = [
        (
            "latency, ms (logarithmic)",
            |_, outcome| [50.0, 99.0, 99.9].map(|p| (format!("p{p}"), outcome.percentile(p))).to_vec(),
            1000.0,
            true,
        ),
        (
            "share of requests by weight (1 is fair)",
            |scenario, outcome| {
                let fair = outcome.fairness(&scenario.servers);
                let names = scenario.servers.iter().enumerate().map(|(i, s)| format!("#{i} ({})", s.weight));
                names.zip(fair).collect()
            },
            1.5,
            false,
        ),
        ("requests that failed, %", |_, outcome| vec![(String::new(), outcome.failed_percent())], 100.0, false),
    ];
    for (n, ((scenario, outcomes), (axis, values, most, logarithmic))) in all.iter().zip(panels).enumerate() {
        let (left, top, bottom) = (20.0 + n as f64 * (WIDTH + 20.0), 60.0, 270.0);
        text(&mut svg, left, 24.0, "start", scenario.name);
        text(&mut svg, left, 42.0, "start", axis);
        let columns: Vec<Vec<(String, f64)>> = outcomes.iter().map(|(_, outcome)| values(scenario, outcome)).collect();
        let groups = columns[0].len();
        let width = WIDTH / groups as f64;
        for group in 0..groups {
            let x = left + group as f64 * width;
            text(&mut svg, x + width / 2.0, bottom + 16.0, "middle", &columns[0][group].0);
            let step = width * 0.85 / columns.len() as f64;
            for (policy, column) in columns.iter().enumerate() {
                let value = column[group].1;
                let part = if logarithmic { (value.max(1.0)).log10() / most.log10() } else { value / most };
                let height = bottom - part.min(1.0) * (bottom - top);
                let x = x + policy as f64 * step;
                bar(&mut svg, x, height, bottom, step * 0.9, COLOURS[policy]);
                if groups <= 3 {
                    let shown = if value >= 10.0 { format!("{value:.0}") } else { format!("{value:.1}") };
                    text(&mut svg, x + step * 0.45, height - 3.0, "middle", &shown);
                }
            }
        }
    }
    for (policy, (name, _)) in policies().iter().enumerate() {
        let x = 20.0 + policy as f64 * 130.0;
        bar(&mut svg, x, 302.0, 312.0, 10.0, COLOURS[policy]);
        text(&mut svg, x + 16.0, 311.0, "start", name);
    }
    svg.push_str("</svg>\n");
    svg
}
