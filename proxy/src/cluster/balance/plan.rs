//! Who may get requests: what follows from the list, and what follows from how its endpoints are now.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::hash::{Entry, Table};
use super::levels::{Count, shares};
use super::load::nanos;
use super::turn::Turns;
use super::{Candidates, Rules, hash};
use crate::config::balance::{Balance, SlowStart, TableKind};

/// What weights are multiplied by, so that a part of the least one is still a number.
const FINE: u64 = 1000;

/// How often the shares of endpoints that are new are counted again, and at the least.
const STEPS: u32 = 50;
const SHORTEST_STEP: Duration = Duration::from_millis(100);

/// How an endpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Neither ejected nor unhealthy.
    pub fit: bool,
    /// It could be reached lately, as far as that was tried.
    pub reachable: bool,
    /// When it began to get requests.
    pub since: u64,
    /// When this changes without anybody saying so.
    pub until: u64,
}

impl Standing {
    /// As an endpoint is of which nothing is wrong.
    pub const GOOD: Standing = Standing { fit: true, reachable: true, since: 0, until: u64::MAX };

    fn is_usable(&self) -> bool {
        self.fit && self.reachable
    }
}

/// What follows from a list of endpoints, however they are.
#[derive(Debug)]
pub(super) struct Roster {
    /// From the one that is preferred on.
    groups: Vec<Group>,
    tokens: HashMap<u64, u32, foldhash::fast::RandomState>,
}

/// Endpoints of one priority, and with several zones of the own one or of the others.
#[derive(Debug)]
struct Group {
    members: Vec<u32>,
    table: Option<Table>,
}

impl Roster {
    pub(super) fn new<C: Candidates + ?Sized>(all: &C, policy: &Balance, token: Option<&dyn Fn(u64) -> u64>) -> Self {
        let hashed = match policy {
            Balance::Hash(hash) => Some(hash.table),
            Balance::LeastLoad | Balance::LeastRequest | Balance::RoundRobin | Balance::Random => None,
        };
        let mut groups = BTreeMap::<(u8, bool), Vec<u32>>::new();
        for i in 0..all.count() {
            // A key has one endpoint, wherever it is asked for.
            let far = hashed.is_none() && !all.is_near(i);
            groups.entry((all.priority(i), far)).or_default().push(i as u32);
        }
        let table = |members: &[u32]| {
            let entry = |i: &u32| Entry { id: all.id(*i as usize), weight: all.weight(*i as usize) };
            let entries: Vec<Entry> = members.iter().map(entry).collect();
            hashed.map(|kind| match kind {
                TableKind::Maglev => Table::maglev(&entries),
                TableKind::Ring => Table::ring(&entries),
            })
        };
        let group = |members: Vec<u32>| Group { table: table(&members), members };
        let named = |token: &dyn Fn(u64) -> u64| (0..all.count()).map(|i| (token(all.id(i)), i as u32)).collect();
        Roster { groups: groups.into_values().map(group).collect(), tokens: token.map(named).unwrap_or_default() }
    }

    /// The endpoint that has this token.
    pub(super) fn named(&self, token: u64) -> Option<usize> {
        self.tokens.get(&token).map(|i| *i as usize)
    }

    /// The endpoint of a group for a hash.
    pub(super) fn find(&self, group: usize, hash: u64) -> Option<usize> {
        let group = self.groups.get(group)?;
        group.members.get(group.table.as_ref()?.find(hash)?).map(|i| *i as usize)
    }
}

/// Who is used now.
#[derive(Debug)]
pub(super) struct Plan {
    changes: u64,
    until: u64,
    levels: Vec<Level>,
    /// A bit for each endpoint that is not used.
    out: Vec<u64>,
    panics: bool,
    ails: bool,
}

/// Endpoints that share some percent of the requests.
#[derive(Debug)]
pub(super) struct Level {
    /// Percent of the requests up to here.
    upto: u64,
    /// Its group in the roster.
    pub(super) group: usize,
    members: Vec<u32>,
    /// Where each ends on a line on which it stands as wide as its weight; empty if all are as wide.
    ends: Vec<u64>,
    turns: Option<Turns>,
}

impl Plan {
    pub(super) fn new<C: Candidates + ?Sized>(
        all: &C,
        roster: &Roster,
        rules: &Rules,
        changes: u64,
        now: u64,
        chance: &mut fastrand::Rng,
    ) -> Self {
        let standings: Vec<Standing> = (0..all.count()).map(|i| all.standing(i, now)).collect();
        let of = |i: &u32| standings.get(*i as usize).copied().unwrap_or(Standing::GOOD);
        let count = |group: &Group| {
            let mut count = Count { all: group.members.len() as u32, ..Count::default() };
            for standing in group.members.iter().map(of) {
                count.fit += u32::from(standing.fit);
                count.usable += u32::from(standing.is_usable());
            }
            count
        };
        let counts: Vec<Count> = roster.groups.iter().map(count).collect();
        let mut plan = Plan {
            changes,
            until: standings.iter().map(|standing| standing.until).min().unwrap_or(u64::MAX),
            levels: Vec::new(),
            out: vec![u64::MAX; all.count().div_ceil(64)],
            panics: false,
            ails: !standings.iter().all(Standing::is_usable),
        };
        let mut upto = 0;
        for (at, (group, share)) in roster.groups.iter().zip(shares(&counts, rules.panic)).enumerate() {
            if share.percent == 0 {
                continue;
            }
            let among = |fits: &dyn Fn(&Standing) -> bool| -> Vec<u32> {
                group.members.iter().copied().filter(|i| fits(&of(i))).collect()
            };
            let mut members = among(&|standing| standing.reachable && (share.panic || standing.fit));
            if members.is_empty() {
                members.clone_from(&group.members);
            }
            for i in &members {
                if let Some(word) = plan.out.get_mut(*i as usize / 64) {
                    *word &= !(1 << (i % 64));
                }
            }
            let ramp = |i: &u32| match &rules.slow_start {
                Some(slow) => slow.part(now.saturating_sub(of(i).since)),
                None => 1.0,
            };
            let weight = |i: &u32| ((u64::from(all.weight(*i as usize)) * FINE) as f64 * ramp(i)).max(1.0) as u64;
            let weights: Vec<u64> = members.iter().map(weight).collect();
            if let Some(slow) = &rules.slow_start
                && members.iter().any(|i| ramp(i) < 1.0)
            {
                plan.until = plan.until.min(now.saturating_add(nanos((slow.window / STEPS).max(SHORTEST_STEP))));
            }
            plan.panics |= share.panic;
            upto += u64::from(share.percent);
            plan.levels.push(Level::new(upto, at, members, &weights, rules, chance));
        }
        plan
    }

    /// Whether it still holds.
    pub(super) fn holds(&self, changes: u64, now: u64) -> bool {
        self.changes == changes && now < self.until
    }

    /// Whether an endpoint is not used.
    pub(super) fn is_out(&self, i: usize) -> bool {
        self.out.get(i / 64).is_none_or(|word| word & 1 << (i % 64) != 0)
    }

    /// Whether endpoints are used that are not fit.
    pub(super) fn panics(&self) -> bool {
        self.panics
    }

    /// Whether something is wrong with an endpoint.
    pub(super) fn ails(&self) -> bool {
        self.ails
    }

    /// The level for some number.
    pub(super) fn level(&self, number: u64) -> Option<&Level> {
        if let [only] = &*self.levels {
            return Some(only);
        }
        let point = ((number >> 32) * 100) >> 32;
        self.levels.iter().find(|level| point < level.upto).or_else(|| self.levels.last())
    }

    /// Any endpoint that is open, those that are used first.
    #[cold]
    pub(super) fn rest(&self, all: usize, open: impl Fn(&usize) -> bool, chance: &mut fastrand::Rng) -> Option<usize> {
        for level in &self.levels {
            // By their weights, as long as that is quick; then those that follow on anyone.
            for _ in 0..4 {
                if let Some(i) = level.draw(chance).filter(&open) {
                    return Some(i);
                }
            }
            let start = chance.usize(..level.len().max(1));
            let (before, after) = level.members.split_at_checked(start)?;
            if let Some(i) = after.iter().chain(before).map(|i| *i as usize).find(&open) {
                return Some(i);
            }
        }
        let start = chance.usize(..all.max(1));
        (start..all).chain(0..start).find(open)
    }
}

impl Level {
    fn new(
        upto: u64,
        group: usize,
        members: Vec<u32>,
        weights: &[u64],
        rules: &Rules,
        chance: &mut fastrand::Rng,
    ) -> Self {
        let even = weights.windows(2).all(|two| two.first() == two.last());
        let turns = (rules.policy == Balance::RoundRobin).then(|| match even {
            true => Turns::even(members.len(), chance),
            false => Turns::weighted(weights.iter().copied(), chance),
        });
        let mut end = 0u64;
        let ends = weights.iter().map(|weight| {
            end = end.saturating_add(*weight);
            end
        });
        let ends = if even { Vec::new() } else { ends.collect() };
        Level { upto, group, members, ends, turns }
    }

    /// How many endpoints it has.
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    fn member(&self, at: usize) -> Option<usize> {
        self.members.get(at).map(|i| *i as usize)
    }

    /// The one whose turn it is.
    pub(super) fn next(&self) -> Option<usize> {
        self.member(self.turns.as_ref()?.next()?)
    }

    /// One at random, by weight.
    pub(super) fn draw(&self, chance: &mut fastrand::Rng) -> Option<usize> {
        let at = match self.ends.last() {
            None if self.members.is_empty() => return None,
            None => chance.usize(..self.members.len()),
            Some(total) => self.at(chance.u64(..*total)),
        };
        self.member(at)
    }

    /// Two at random, by weight, if there are two, and by how much the weight of each is less than the mean.
    #[expect(clippy::type_complexity, reason = "one caller takes it apart at once")]
    pub(super) fn two(&self, chance: &mut fastrand::Rng) -> Option<((usize, f32), Option<(usize, f32)>)> {
        let count = self.members.len();
        let Some(total) = self.ends.last().copied() else {
            if count == 0 {
                return None;
            }
            let one = chance.usize(..count);
            if count == 1 {
                return Some(((self.member(one)?, 1.0), None));
            }
            let other = chance.usize(..count - 1);
            let two = other + usize::from(other >= one);
            return Some(((self.member(one)?, 1.0), Some((self.member(two)?, 1.0))));
        };
        let mean = total as f32 / count as f32;
        let span = |at: usize| {
            let start = at.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
            (start, self.ends.get(at).copied().unwrap_or(total) - start)
        };
        let with = |at: usize| Some((self.member(at)?, mean / span(at).1 as f32));
        let one = self.at(chance.u64(..total));
        // On the line without the first.
        let (start, width) = span(one);
        let rest = total - width;
        if rest == 0 {
            return Some((with(one)?, None));
        }
        let point = chance.u64(..rest);
        let two = self.at(if point < start { point } else { point + width });
        Some((with(one)?, with(two)))
    }

    fn at(&self, point: u64) -> usize {
        self.ends.partition_point(|end| *end <= point)
    }
}

impl SlowStart {
    /// The part of its weight that an endpoint has after so many nanoseconds, as in Envoy.
    fn part(&self, age: u64) -> f64 {
        let share = age as f64 / nanos(self.window).max(1) as f64;
        if share >= 1.0 { 1.0 } else { share.powf(1.0 / self.aggression).max(f64::from(self.min_weight) / 100.0) }
    }
}

/// The id of an endpoint for [`Candidate::id`].
pub fn id(address: &std::net::SocketAddr) -> u64 {
    let port = address.port().to_be_bytes();
    match address.ip() {
        std::net::IpAddr::V4(ip) => hash::of(ip.octets().into_iter().chain(port)),
        std::net::IpAddr::V6(ip) => hash::of(ip.octets().into_iter().chain(port)),
    }
}
