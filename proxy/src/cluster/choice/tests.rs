use super::*;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// A network and a service behind it, for requests that come at a steady rate.
#[derive(Clone, Copy)]
struct World {
    /// Requests per second.
    rate: u32,
    round_trip: Duration,
    /// Of packets, in each direction.
    loss: f64,
    /// Of a request with its answer.
    bytes: u64,
    /// The service itself: how long it takes, and the share of answers for which it takes ten times as long.
    service: (Duration, f64),
    /// UDP is slow: what it takes longer.
    udp_slower: Duration,
}

const NEAR: World =
    World { rate: 200, round_trip: MS, loss: 0.0, bytes: 2048, service: (MS, 0.01), udp_slower: Duration::ZERO };
const FAR: World = World { round_trip: Duration::from_millis(50), loss: 0.01, ..NEAR };

struct Simulation {
    choice: Choice,
    now: Instant,
    chance: fastrand::Rng,
    /// Until then the stream of TCP stands still, because a packet was lost.
    stalled: Instant,
    /// What each link has carried.
    carried: [u32; 2],
    /// Changes of the link.
    changes: Vec<Verdict>,
    silent: bool,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let now = Instant::now();
        Simulation {
            choice: Choice::new(now),
            now,
            chance: fastrand::Rng::with_seed(seed),
            stalled: now,
            carried: [0, 0],
            changes: Vec::new(),
            silent: false,
        }
    }

    fn run(&mut self, world: World, seconds: u32) {
        for _ in 0..seconds {
            let mut sample = Sample { rtt: world.round_trip, ..Sample::default() };
            for _ in 0..world.rate {
                self.now += SECOND / world.rate;
                self.request(world, &mut sample);
            }
            let before = self.choice.verdict().link;
            if let Some(verdict) = self.choice.consider(self.now, sample, self.silent)
                && verdict.link != before
            {
                self.changes.push(verdict);
            }
        }
    }

    fn request(&mut self, world: World, sample: &mut Sample) {
        let slow = if self.chance.f64() < world.service.1 { 10 } else { 1 };
        let takes = world.round_trip + world.service.0 * slow;
        // Found by the packets after it, and sent again.
        let again = world.round_trip * 5 / 4;
        let lost = (0..2).filter(|_| self.chance.f64() < world.loss).count() as u32;
        let link = self.choice.next(&mut self.chance);
        if link == Link::H3 {
            self.carried[1] += 1;
            sample.received += 2;
            sample.sent += 2;
            sample.lost += u64::from(lost);
            sample.bytes += world.bytes;
            self.choice.answered(link, takes + again * lost + world.udp_slower);
        } else {
            self.carried[0] += 1;
            self.stalled = self.stalled.max(self.now) + again * lost;
            let held = self.stalled.saturating_duration_since(self.now);
            self.choice.answered(link, takes + held);
        }
    }

    fn verdict(&self) -> (Link, Cause) {
        let Verdict { link, cause } = self.choice.verdict();
        (link, cause)
    }
}

fn run(world: World, seconds: u32, seed: u64) -> Simulation {
    let mut simulation = Simulation::new(seed);
    simulation.run(world, seconds);
    simulation
}

#[test]
fn a_near_path_without_losses_settles_on_what_is_cheaper_and_stays_there() {
    for seed in 0..8 {
        let simulation = run(NEAR, 600, seed);
        assert_eq!(simulation.verdict(), (Link::H2, Cause::Cpu), "seed {seed}: {:?}", simulation.changes);
        assert_eq!(simulation.changes.len(), 1, "seed {seed}: {:?}", simulation.changes);
        let explored = f64::from(simulation.carried[1]) / f64::from(600 * NEAR.rate);
        assert!(explored < 0.04, "seed {seed}: {explored}");
    }
}

#[test]
fn a_far_path_that_loses_packets_keeps_http3() {
    for seed in 0..8 {
        let simulation = run(FAR, 600, seed);
        assert_eq!(simulation.verdict().0, Link::H3, "seed {seed}: {:?}", simulation.changes);
        assert!(simulation.changes.is_empty(), "seed {seed}: {:?}", simulation.changes);
        assert!(simulation.carried[0] < 600 * FAR.rate / 20, "seed {seed}: {:?}", simulation.carried);
    }
}

#[test]
fn a_path_that_becomes_lossy_brings_http3_and_one_that_heals_http2() {
    for seed in 0..8 {
        let mut simulation = run(World { loss: 0.0, ..FAR }, 120, seed);
        assert_eq!(simulation.verdict(), (Link::H2, Cause::Cpu), "seed {seed}");
        simulation.run(FAR, 60);
        assert_eq!(simulation.verdict().0, Link::H3, "seed {seed}: {:?}", simulation.choice.report(simulation.now));
        simulation.run(World { loss: 0.0, ..FAR }, 1800);
        assert_eq!(
            simulation.verdict(),
            (Link::H2, Cause::Cpu),
            "seed {seed}: {:?}",
            simulation.choice.report(simulation.now)
        );
        assert!(simulation.changes.len() <= 5, "seed {seed}: {:?}", simulation.changes);
    }
}

#[test]
fn big_answers_without_losses_are_not_worth_http3() {
    for seed in 0..8 {
        let big = World { bytes: 1 << 20, rate: 20, ..NEAR };
        assert_eq!(run(big, 600, seed).verdict(), (Link::H2, Cause::Cpu), "seed {seed}");
    }
}

#[test]
fn udp_that_is_slow_is_left_by_what_is_measured() {
    for seed in 0..8 {
        let slow = World { udp_slower: Duration::from_millis(20), loss: 0.01, ..NEAR };
        let simulation = run(slow, 300, seed);
        assert_eq!(simulation.verdict(), (Link::H2, Cause::Latency), "seed {seed}: {:?}", simulation.changes);
        assert!(simulation.changes.len() <= 3, "seed {seed}: {:?}", simulation.changes);
    }
}

#[test]
fn a_service_that_becomes_slow_over_both_is_no_reason() {
    for seed in 0..8 {
        let mut simulation = run(NEAR, 120, seed);
        let changes = simulation.changes.len();
        simulation.run(World { service: (Duration::from_millis(80), 0.1), ..NEAR }, 600);
        assert_eq!(simulation.changes.len(), changes, "seed {seed}: {:?}", simulation.changes);
    }
}

#[test]
fn a_path_at_the_edge_changes_seldom() {
    for seed in 0..8 {
        let mut simulation = Simulation::new(seed);
        for round in 0..360 {
            let loss = if round % 2 == 0 { 0.02 } else { 0.0 };
            simulation.run(World { loss, ..FAR }, 10);
        }
        // An hour that changes every ten seconds: at 20, 40, … 600 s.
        assert!(simulation.changes.len() <= 14, "seed {seed}: {:?}", simulation.changes);
    }
}

#[test]
fn few_requests_leave_it_at_http3() {
    let simulation = run(World { rate: 1, ..NEAR }, 3600, 1);
    assert_eq!((simulation.verdict(), simulation.changes.len()), ((Link::H3, Cause::Unmeasured), 0));
}

#[test]
fn udp_that_is_silent_is_no_choice_and_no_memory() {
    let mut simulation = run(NEAR, 60, 1);
    simulation.silent = true;
    simulation.run(World { rate: 0, ..NEAR }, 1);
    assert_eq!(simulation.verdict(), (Link::H2, Cause::Silent));
    assert_eq!(simulation.choice.next(&mut simulation.chance), Link::H3, "its retries are somebody else's");
    simulation.silent = false;
    simulation.run(World { rate: 0, ..NEAR }, 1);
    assert_eq!(simulation.verdict(), (Link::H3, Cause::Unmeasured));
}

#[test]
fn udp_that_falls_silent_is_noticed_and_one_that_idles_is_not() {
    let mut simulation = run(NEAR, 60, 1);
    let mut hear = |sent, received| {
        simulation.now += SECOND;
        simulation.choice.consider(simulation.now, Sample { sent, received, ..Sample::default() }, false);
        simulation.choice.is_unheard()
    };
    let heard = [(5, 0), (5, 0), (5, 1), (0, 0), (1, 0), (0, 0), (1, 0)].map(|(sent, received)| hear(sent, received));
    assert_eq!(heard, [false; 7]);
    assert!(hear(1, 0));
}

#[test]
fn a_dead_link_costs_few_requests() {
    let mut simulation = run(NEAR, 60, 1);
    let mut lost = 0;
    for request in 0..30 * NEAR.rate {
        lost += u32::from(simulation.choice.next(&mut simulation.chance) == Link::H3);
        if request % NEAR.rate == 0 {
            simulation.now += SECOND;
            simulation.choice.consider(simulation.now, Sample::default(), false);
        }
    }
    assert!(lost <= AT_RISK, "{lost}");
    assert!(lost > 0);
}

#[test]
fn a_quantile_is_at_most_a_step_too_long() {
    let answers = Answers::default();
    assert_eq!(answers.quantile(), Duration::ZERO);
    for took in [1_u64, 20, 333, 1_000, 77_000, 5_000_000] {
        answers.forget();
        let took = Duration::from_micros(took);
        (0..100).for_each(|_| answers.add(took));
        let found = answers.quantile().as_secs_f64() / took.max(Duration::from_nanos(1 << SHORTEST_LOG2)).as_secs_f64();
        assert!((1.0..=1.26).contains(&found), "{took:?}: {found}");
    }
    answers.add(Duration::from_secs(86_400));
    assert_eq!(answers.count(), 101.0);
}

#[test]
fn old_answers_fade() {
    let answers = Answers::default();
    (0..1000).for_each(|_| answers.add(MS));
    assert_eq!(answers.fade(1.0), 1000);
    assert!((answers.count() - MEMORY).abs() < 1.0, "{}", answers.count());
    answers.fade(0.5);
    assert!((answers.count() - MEMORY / 2.0).abs() < 1.0);
}
