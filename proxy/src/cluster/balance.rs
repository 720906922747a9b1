//! Which endpoint gets the next request. Pure: loads, time and chance are given.
//!
//! What can be known before a request comes is known before: who is in a list, and where its tables point to, is made
//! once for the list; who of them is used now, once after each change of one of them ([`Plan`]). A choice costs the
//! logarithm of the number of endpoints at the most, and no allocation.

pub mod hash;
mod levels;
mod load;
mod plan;
mod turn;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

pub use load::{Load, Usual};
use plan::{Level, Plan, Roster};
pub use plan::{Standing, id};

use crate::config::balance::{Balance, SlowStart};

/// An endpoint whose cost is so much higher is left for the second that was drawn. What is less is noise: it would make
/// the one that was quickest last get everything, and weights mean nothing.
const MARGIN: f32 = 1.25;

/// How many tries an endpoint's hash has to find one that is in use before any will do.
const REHASHES: u64 = 8;

/// What a balancer needs to know of the endpoints of a service. They are asked by their place in the list.
pub trait Candidates {
    /// How many there are.
    fn count(&self) -> usize;
    /// How busy one is; none: it was never asked anything.
    fn load(&self, at: usize) -> Option<&Load>;
    /// Its share relative to its siblings.
    fn weight(&self, at: usize) -> u32;
    /// Which level it belongs to: that of the smallest number is asked first.
    fn priority(&self, at: usize) -> u8;
    /// Whether it is in our own zone.
    fn is_near(&self, at: usize) -> bool;
    /// Tells it from its siblings, and is the same in all sidecars.
    fn id(&self, at: usize) -> u64;
    /// Whether it should get requests; `now` in nanoseconds, as for [`Load`].
    fn standing(&self, at: usize, now: u64) -> Standing;
}

/// What a request wants of a choice.
#[derive(Clone, Copy, Debug, Default)]
pub struct Want {
    /// What finds its endpoint in a table; none: any.
    pub hash: Option<u64>,
    /// The token of the endpoint that it was sent to before.
    pub token: Option<u64>,
}

/// What a choice has looked at, for those who want to tell.
#[derive(Clone, Copy, Debug, Default)]
pub struct Looked {
    /// Whether some endpoints were passed over, or would be at times, for how they are.
    pub passes: bool,
    /// What one request more costs at the chosen one, by the measure of the policy; then the place of the one that it was
    /// compared with, and what it costs there.
    pub compared: Option<(f32, usize, f32)>,
}

/// How a balancer chooses.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The policy.
    pub policy: Balance,
    /// With fewer percent of the endpoints fit than this, all are used.
    pub panic: u8,
    /// How endpoints that are new get their share.
    pub slow_start: Option<Arc<SlowStart>>,
}

/// Chooses among the endpoints of one service.
pub struct Balancer {
    rules: Rules,
    usual: Usual,
    /// Moves on with every change of an endpoint, its weight or the list.
    changes: Rc<Cell<u64>>,
    /// What an endpoint is called in cookies, by [`Candidate::id`].
    token: Option<Box<dyn Fn(u64) -> u64>>,
    /// Both are made at the first choice: few services are ever called.
    roster: RefCell<Option<Box<Roster>>>,
    plan: RefCell<Option<Box<Plan>>>,
}

impl Balancer {
    /// A balancer by these rules. `changes` is moved on by whoever changes an endpoint; `token` names endpoints for
    /// [`Want::token`], if that is wanted.
    pub fn new(rules: Rules, changes: Rc<Cell<u64>>, token: Option<Box<dyn Fn(u64) -> u64>>) -> Self {
        Balancer {
            rules,
            usual: Usual::default(),
            changes,
            token,
            roster: RefCell::default(),
            plan: RefCell::default(),
        }
    }

    /// How it chooses.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// What is usual among its endpoints.
    pub fn usual(&self) -> &Usual {
        &self.usual
    }

    /// The list is another, or weights or zones in it.
    pub fn relist(&self) {
        self.roster.take();
        self.changed();
    }

    /// Something about an endpoint has changed.
    pub fn changed(&self) {
        self.changes.set(self.changes.get().wrapping_add(1));
    }

    /// The endpoint for the next request. Those for which `passed` holds are left out; those that are not in use are
    /// taken only where no other is left, for a guess beats a refusal.
    pub fn pick<C: Candidates + ?Sized>(
        &self,
        all: &C,
        want: Want,
        passed: impl Fn(usize) -> bool,
        now: u64,
        chance: &mut fastrand::Rng,
    ) -> Option<usize> {
        self.choose(all, want, passed, now, chance, None)
    }

    /// The same, and says in `looked` what it has looked at.
    #[inline]
    pub fn choose<C: Candidates + ?Sized>(
        &self,
        all: &C,
        want: Want,
        passed: impl Fn(usize) -> bool,
        now: u64,
        chance: &mut fastrand::Rng,
        mut looked: Option<&mut Looked>,
    ) -> Option<usize> {
        let count = all.count();
        if count < 2 {
            return (count == 1 && !passed(0)).then_some(0);
        }
        self.refresh(all, now, chance);
        let (roster, plan) = (self.roster.borrow(), self.plan.borrow());
        let (roster, plan) = (roster.as_ref()?, plan.as_ref()?);
        if let Some(looked) = &mut looked {
            looked.passes = plan.ails();
        }
        let open = |i: &usize| !passed(*i);
        if let Some(token) = want.token
            && let Some(i) = roster.named(token).filter(|i| !plan.is_out(*i) && open(i))
        {
            return Some(i);
        }
        // Which level, too, is a matter of the hash where there is one: else a key would change its endpoint.
        let level = plan.level(want.hash.map_or_else(|| chance.u64(..), hash::mix))?;
        let picked = match &self.rules.policy {
            Balance::Random => level.draw(chance).filter(open),
            Balance::RoundRobin => (0..level.len()).find_map(|_| level.next().filter(open)),
            Balance::LeastLoad => better(level, open, chance, looked, |i, relative| match all.load(i) {
                Some(load) => (load.is_held(now), load.cost(relative, now, &self.usual)),
                None => (false, self.usual.cost()),
            }),
            Balance::LeastRequest => better(level, open, chance, looked, |i, relative| {
                (false, all.load(i).map_or(1.0, |load| load.queue(relative)))
            }),
            Balance::Hash(_) => match want.hash {
                Some(hash) => (0..REHASHES).find_map(|n| {
                    let hash = if n == 0 { hash } else { hash::mix(hash ^ n) };
                    roster.find(level.group, hash).filter(|i| !plan.is_out(*i) && open(i))
                }),
                None => level.draw(chance).filter(open),
            },
        };
        picked.or_else(|| plan.rest(count, open, chance))
    }

    /// Makes the plan anew if something has changed.
    fn refresh<C: Candidates + ?Sized>(&self, all: &C, now: u64, chance: &mut fastrand::Rng) {
        let mut plan = self.plan.borrow_mut();
        let changes = self.changes.get();
        if plan.as_ref().is_some_and(|plan| plan.holds(changes, now)) {
            return;
        }
        let mut roster = self.roster.borrow_mut();
        let roster = roster.get_or_insert_with(|| Box::new(self.roster(all)));
        *plan = Some(Box::new(Plan::new(all, roster, &self.rules, changes, now, chance)));
    }

    fn roster<C: Candidates + ?Sized>(&self, all: &C) -> Roster {
        Roster::new(all, &self.rules.policy, self.token.as_deref())
    }

    /// Which endpoints are in use now, and whether some are only for want of others. Who looks makes nothing that stays.
    pub fn in_use<C: Candidates + ?Sized>(&self, all: &C, now: u64, chance: &mut fastrand::Rng) -> (Vec<bool>, bool) {
        let shown = |plan: &Plan| ((0..all.count()).map(|i| !plan.is_out(i)).collect(), plan.panics());
        let changes = self.changes.get();
        if let Some(plan) = self.plan.borrow().as_ref().filter(|plan| plan.holds(changes, now)) {
            return shown(plan);
        }
        match &*self.roster.borrow() {
            Some(roster) => shown(&Plan::new(all, roster, &self.rules, changes, now, chance)),
            None => shown(&Plan::new(all, &self.roster(all), &self.rules, changes, now, chance)),
        }
    }
}

/// Of two that are drawn the one with the lower cost; by `held` one is only ever the second choice.
fn better(
    level: &Level,
    open: impl Fn(&usize) -> bool,
    chance: &mut fastrand::Rng,
    looked: Option<&mut Looked>,
    cost: impl Fn(usize, f32) -> (bool, f32),
) -> Option<usize> {
    let ((one, one_relative), two) = level.two(chance)?;
    let Some((two, two_relative)) = two.filter(|(two, _)| open(two)) else { return Some(one).filter(open) };
    if !open(&one) {
        return Some(two);
    }
    let (first, second) = (cost(one, one_relative), cost(two, two_relative));
    let other = match (first.0, second.0) {
        (true, false) => true,
        (false, true) => false,
        _ => second.1 * MARGIN < first.1,
    };
    if let Some(looked) = looked {
        looked.passes |= first.0 || second.0;
        looked.compared = Some(if other { (second.1, one, first.1) } else { (first.1, two, second.1) });
    }
    Some(if other { two } else { one })
}

impl std::fmt::Debug for Balancer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Balancer").field("rules", &self.rules).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
