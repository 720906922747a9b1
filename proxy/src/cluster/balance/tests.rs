//! Choices with made-up endpoints.

mod simulation;

use std::time::Duration;

use super::*;
use crate::config::balance::{Hash, HashKey, TableKind};

const SECOND: u64 = 1_000_000_000;

struct Fake {
    load: Load,
    weight: u32,
    priority: u8,
    near: bool,
    id: u64,
    standing: Cell<Standing>,
}

impl Candidates for [Fake] {
    fn count(&self) -> usize {
        self.len()
    }
    fn load(&self, at: usize) -> Option<&Load> {
        Some(&self[at].load)
    }
    fn weight(&self, at: usize) -> u32 {
        self[at].weight
    }
    fn priority(&self, at: usize) -> u8 {
        self[at].priority
    }
    fn is_near(&self, at: usize) -> bool {
        self[at].near
    }
    fn id(&self, at: usize) -> u64 {
        self[at].id
    }
    fn standing(&self, at: usize, _: u64) -> Standing {
        self[at].standing.get()
    }
}

impl Fake {
    fn new(i: usize, weight: u32) -> Self {
        let id = hash::of(format!("10.0.0.{i}:1").bytes());
        Fake { load: Load::default(), weight, priority: 0, near: true, id, standing: Cell::new(Standing::GOOD) }
    }

    fn is(&self, standing: Standing) {
        self.standing.set(standing);
    }
}

const UNFIT: Standing = Standing { fit: false, ..Standing::GOOD };
const UNREACHABLE: Standing = Standing { reachable: false, ..Standing::GOOD };

fn endpoints(weights: &[u32]) -> Vec<Fake> {
    weights.iter().enumerate().map(|(i, weight)| Fake::new(i, *weight)).collect()
}

fn rules(policy: Balance) -> Rules {
    Rules { policy, panic: 50, slow_start: None }
}

fn balancer(policy: Balance) -> Balancer {
    Balancer::new(rules(policy), Rc::default(), None)
}

fn hashed(table: TableKind) -> Balance {
    Balance::Hash(Hash { key: HashKey::Source, table }.into())
}

fn shares_by(balancer: &Balancer, all: &[Fake], n: usize, now: u64) -> Vec<usize> {
    let mut chance = fastrand::Rng::with_seed(7);
    let mut counts = vec![0; all.len()];
    for _ in 0..n {
        let want = Want { hash: Some(chance.u64(..)), token: None };
        counts[balancer.pick(all, want, |_| false, now, &mut chance).expect("one")] += 1;
    }
    counts
}

fn shares(policy: Balance, all: &[Fake], n: usize) -> Vec<usize> {
    shares_by(&balancer(policy), all, n, 0)
}

fn policies() -> [Balance; 6] {
    let hashed = [hashed(TableKind::Maglev), hashed(TableKind::Ring)];
    let [maglev, ring] = hashed;
    [Balance::LeastLoad, Balance::LeastRequest, Balance::RoundRobin, Balance::Random, maglev, ring]
}

#[test]
fn weights_are_shares() {
    assert_eq!(shares(Balance::RoundRobin, &endpoints(&[1, 1]), 400), [200, 200]);
    for (policy, off) in policies().into_iter().zip([40, 40, 1, 40, 80, 160]) {
        let counts = shares(policy.clone(), &endpoints(&[1, 2, 1, 4]), 800);
        assert!(counts.iter().zip([100, 200, 100, 400]).all(|(n, w)| n.abs_diff(w) <= off), "{policy:?}: {counts:?}");
    }
}

#[test]
fn a_slow_endpoint_is_left_alone_until_that_is_forgotten() {
    for weights in [[1, 1, 1], [1, 2, 2]] {
        let (all, balancer) = (endpoints(&weights), balancer(Balance::LeastLoad));
        for (fake, millis) in all.iter().zip([100, 1, 1]) {
            fake.load.answered(Duration::from_millis(millis), 0, balancer.usual());
        }
        assert_eq!(shares_by(&balancer, &all, 300, 0)[0], 0);
        assert!(shares_by(&balancer, &all, 300, 200 * SECOND)[0] > 30, "it is tried again");
    }
}

#[test]
fn a_busy_endpoint_gets_less() {
    for policy in [Balance::LeastLoad, Balance::LeastRequest] {
        let all = endpoints(&[1, 1]);
        all[0].load.start();
        assert_eq!(shares(policy.clone(), &all, 100), [0, 100]);
        all[0].load.end();
        assert_eq!(all[0].load.in_flight(), 0);
        // Three in flight are little to who has six times the weight.
        let all = endpoints(&[1, 6]);
        (0..3).for_each(|_| all[1].load.start());
        all[0].load.start();
        assert_eq!(shares(policy, &all, 100), [0, 100]);
    }
}

#[test]
fn a_choice_tells_what_it_compared() {
    let looks = |policy: Balance, all: &[Fake]| {
        let (balancer, mut looked) = (balancer(policy), Looked::default());
        let chance = &mut fastrand::Rng::with_seed(7);
        let picked = balancer.choose(all, Want::default(), |_| false, 0, chance, Some(&mut looked));
        (picked.expect("one"), looked.passes, looked.compared)
    };
    let all = endpoints(&[1, 1]);
    (0..3).for_each(|_| all[0].load.start());
    assert_eq!(looks(Balance::LeastRequest, &all), (1, false, Some((1.0, 0, 4.0))));
    assert_eq!(looks(Balance::LeastLoad, &all), (1, false, Some((1e6, 0, 4e6))));
    let (_, passes, compared) = looks(Balance::RoundRobin, &all);
    assert_eq!((passes, compared), (false, None), "it does not compare");
    all[1].load.hold(Duration::from_secs(1), 0);
    assert_eq!(looks(Balance::LeastLoad, &all), (0, true, Some((4e6, 1, 1e6))), "the other wants no requests");
    for bad in [UNFIT, UNREACHABLE] {
        let all = endpoints(&[1, 1, 1]);
        all[2].is(bad);
        assert!(policies().into_iter().all(|policy| looks(policy, &all).1), "one is out");
    }
}

#[test]
fn one_that_wants_no_requests_gets_none_while_there_are_others() {
    let (all, balancer) = (endpoints(&[1, 1]), balancer(Balance::LeastLoad));
    all[1].load.hold(Duration::from_secs(30), 0);
    all[0].load.answered(Duration::from_secs(9), 0, balancer.usual());
    (0..50).for_each(|_| all[0].load.start());
    assert_eq!(shares_by(&balancer, &all, 100, 29 * SECOND), [100, 0], "however busy the other is");
    assert!(shares_by(&balancer, &all, 100, 30 * SECOND)[1] > 90);
    let mut chance = fastrand::Rng::with_seed(7);
    assert_eq!(balancer.pick(&all[..], Want::default(), |i| i == 0, 0, &mut chance), Some(1), "better than nothing");
}

#[test]
fn endpoints_that_are_out_are_the_last_resort() {
    for policy in policies() {
        for bad in [UNFIT, UNREACHABLE] {
            let all = endpoints(&[1, 1, 1]);
            all[0].is(bad);
            let counts = shares(policy.clone(), &all, 100);
            assert!(counts[0] == 0 && counts[1] > 20 && counts[2] > 20, "{policy:?}: {counts:?}");
            let (balancer, mut chance) = (balancer(policy.clone()), fastrand::Rng::with_seed(7));
            let mut pick =
                |out: &[usize]| balancer.pick(&all[..], Want::default(), |i| out.contains(&i), 0, &mut chance);
            assert_eq!((pick(&[1, 2]), pick(&[2]), pick(&[0, 1, 2])), (Some(0), Some(1), None));
            assert_eq!(balancer.pick(&all[..0], Want::default(), |_| false, 0, &mut chance), None);
        }
    }
}

#[test]
fn below_the_threshold_all_are_used_but_those_that_cannot_be_reached() {
    for policy in policies() {
        let all = endpoints(&[1; 5]);
        let balancer = balancer(policy.clone());
        let used = |all: &[Fake]| {
            balancer.changed();
            shares_by(&balancer, all, 400, 0).iter().map(|n| u8::from(*n > 0)).collect::<Vec<_>>()
        };
        all[0].is(UNFIT);
        all[1].is(UNFIT);
        assert_eq!(used(&all), [0, 0, 1, 1, 1], "{policy:?}: three of five are enough");
        all[2].is(UNFIT);
        assert_eq!(used(&all), [1, 1, 1, 1, 1], "two are not");
        let mut chance = fastrand::Rng::with_seed(1);
        assert_eq!(balancer.in_use(&all[..], 0, &mut chance), (vec![true; 5], true));
        all[3].is(UNREACHABLE);
        assert_eq!(used(&all), [1, 1, 1, 0, 1]);
        all.iter().for_each(|fake| fake.is(UNREACHABLE));
        assert_eq!(used(&all), [1, 1, 1, 1, 1], "a guess beats a refusal");
    }
}

#[test]
fn priorities_fail_over_and_zones_spill_over() {
    for (by_zone, policy) in [(false, Balance::Random), (false, hashed(TableKind::Ring)), (true, Balance::LeastRequest)]
    {
        let mut all = endpoints(&[1; 8]);
        all.iter_mut().skip(4).for_each(|fake| (fake.priority, fake.near) = (u8::from(!by_zone), !by_zone));
        let balancer = balancer(policy);
        let first = |all: &[Fake]| {
            balancer.changed();
            shares_by(&balancer, all, 2000, 0)[..4].iter().sum::<usize>()
        };
        assert_eq!(first(&all), 2000);
        all[0].is(UNFIT);
        assert_eq!(first(&all), 2000, "three of four can do it: 75 % × 1.4");
        all[1].is(UNREACHABLE);
        assert!(first(&all).abs_diff(1400) < 90, "two of four: 50 % × 1.4");
        all[2].is(UNFIT);
        all[3].is(UNFIT);
        assert_eq!(first(&all), 0);
    }
    // A key has one home, wherever it is asked for.
    let mut all = endpoints(&[1; 8]);
    let balancer = balancer(hashed(TableKind::Maglev));
    let before = shares_by(&balancer, &all, 100, 0);
    all.iter_mut().skip(4).for_each(|fake| fake.near = false);
    balancer.relist();
    assert_eq!(shares_by(&balancer, &all, 100, 0), before);
}

#[test]
fn a_key_stays_while_its_endpoint_does() {
    for table in [TableKind::Maglev, TableKind::Ring] {
        let all = endpoints(&[1; 10]);
        let (balancer, mut chance) = (balancer(hashed(table)), fastrand::Rng::with_seed(3));
        let mut find = |key: u64| {
            let want = Want { hash: Some(hash::mix(key)), token: None };
            balancer.pick(&all[..], want, |_| false, 0, &mut chance).expect("one")
        };
        let homes: Vec<usize> = (1..1000).map(&mut find).collect();
        all[3].is(UNFIT);
        balancer.changed();
        let meanwhile: Vec<usize> = (1..1000).map(&mut find).collect();
        assert!(homes.iter().zip(&meanwhile).all(|(a, b)| if *a == 3 { *b != 3 } else { a == b }));
        assert_eq!((1..1000).map(&mut find).collect::<Vec<_>>(), meanwhile, "its keys have a second home, too");
        let second: std::collections::BTreeSet<_> =
            homes.iter().zip(&meanwhile).filter(|(a, _)| **a == 3).map(|(_, b)| *b).collect();
        assert!(second.len() > 5, "which is not one for all of them: {second:?}");
        all[3].is(Standing::GOOD);
        balancer.changed();
        assert_eq!((1..1000).map(&mut find).collect::<Vec<_>>(), homes);
    }
}

#[test]
fn a_token_finds_its_endpoint_while_that_can_be_used() {
    let all = endpoints(&[1; 4]);
    let token = |id: u64| id ^ 7;
    let balancer = Balancer::new(rules(Balance::RoundRobin), Rc::default(), Some(Box::new(token)));
    let mut chance = fastrand::Rng::with_seed(3);
    let want = Want { hash: None, token: Some(token(all[2].id)) };
    assert!((0..20).all(|_| balancer.pick(&all[..], want, |_| false, 0, &mut chance) == Some(2)));
    assert_ne!(balancer.pick(&all[..], want, |i| i == 2, 0, &mut chance), Some(2));
    all[2].is(UNFIT);
    balancer.changed();
    assert!((0..20).all(|_| balancer.pick(&all[..], want, |_| false, 0, &mut chance) != Some(2)));
    let unknown = Want { hash: None, token: Some(99) };
    assert!(balancer.pick(&all[..], unknown, |_| false, 0, &mut chance).is_some());
}

#[test]
fn a_new_endpoint_starts_slowly() {
    let window = Duration::from_secs(10);
    for (aggression, halfway) in [(1.0, 333), (2.0, 414), (0.5, 200)] {
        let slow_start = Some(SlowStart { window, aggression, min_weight: 10 }.into());
        let rules = Rules { slow_start, ..rules(Balance::RoundRobin) };
        let balancer = Balancer::new(rules, Rc::default(), None);
        let all = endpoints(&[1, 1]);
        all[1].is(Standing { since: 100 * SECOND, ..Standing::GOOD });
        let at = |seconds| shares_by(&balancer, &all, 1000, seconds * SECOND)[1];
        assert!(at(100).abs_diff(91) <= 2, "a tenth");
        assert!(at(105).abs_diff(halfway) <= 3, "{aggression}: {}", at(105));
        assert_eq!(at(110), 500);
    }
}

/// What is planned holds until somebody says that something has changed, or the time has come.
#[test]
fn nothing_is_planned_twice() {
    let all = endpoints(&[1, 1, 1]);
    let balancer = balancer(Balance::Random);
    all[0].is(Standing { fit: false, until: 5 * SECOND, ..Standing::GOOD });
    assert_eq!(shares_by(&balancer, &all, 90, 0)[0], 0);
    all[0].is(Standing::GOOD);
    assert_eq!(shares_by(&balancer, &all, 90, 5 * SECOND - 1)[0], 0);
    assert!(shares_by(&balancer, &all, 90, 5 * SECOND)[0] > 10);
}
