//! The books of a plan under way: what is due, what came back, and what all that cost.

use crate::{
    account::{Account, Processor},
    message,
    plan::{Error, Heavy, Latency, Plan, Window},
    schedule::Schedule,
};
use hdrhistogram::Histogram;
use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    process,
    time::{Duration, Instant},
};

/// Slower answers than this are recorded as this.
const LATENCY_LIMIT: Duration = Duration::from_secs(60);
/// A target that fails so often is not measured.
const ERRORS: u64 = 1000;

/// A plan under way.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) target: SocketAddr,
    pub(crate) request: Vec<u8>,
    pub(crate) start: Instant,
    /// None in a closed loop.
    pub(crate) schedule: Option<Schedule>,
    /// Requests that are due and wait for a free connection: any, then heavy ones.
    pub(crate) due: [VecDeque<Instant>; 2],
    /// Connections that were free, the same two kinds.
    pub(crate) free: [VecDeque<usize>; 2],
    /// Which connections get most, if some do.
    heavy: Option<Heavy>,
    /// The clock is not watched.
    pub(crate) sleeps: bool,
    /// The part of them that is in effect, and how much of the next request is theirs.
    part: f64,
    share: f64,
    /// How many were opened.
    opened: usize,
    /// Requests that were sent on connections that are not heavy, and on those that are.
    pub(crate) sent: [u64; 2],
    /// Requests under way.
    pub(crate) waiting: usize,
    /// Nothing more is sent.
    pub(crate) closing: bool,
    pub(crate) offered: u64,
    pub(crate) late: u64,
    pub(crate) closed: u64,
    pub(crate) errors: BTreeMap<String, u64>,
    latency: Histogram<u64>,
    /// Spent on watching the clock.
    pub(crate) idle: Duration,
}

impl Run {
    pub(crate) fn new(plan: &Plan, start: Instant) -> Result<Self, Error> {
        let limit = LATENCY_LIMIT.as_nanos() as u64;
        let latency =
            Histogram::new_with_bounds(1, limit, 3).map_err(|_| Error::Plan("no histogram has these bounds"))?;
        Ok(Self {
            target: plan.target,
            request: message::request(&plan.host),
            start,
            schedule: plan.rate.map(|rate| Schedule::new(plan.arrivals, rate, start, u64::from(process::id()))),
            due: Default::default(),
            free: Default::default(),
            part: plan.heavy.as_ref().filter(|heavy| !heavy.late).map_or(0.0, |heavy| heavy.part),
            heavy: plan.heavy.clone(),
            sleeps: plan.sleeps,
            share: 0.0,
            opened: 0,
            sent: [0; 2],
            waiting: 0,
            closing: false,
            offered: 0,
            late: 0,
            closed: 0,
            errors: BTreeMap::new(),
            latency,
            idle: Duration::ZERO,
        })
    }

    /// Moves what has become due to the queue.
    pub(crate) fn arrive(&mut self, now: Instant) {
        let Some(schedule) = &mut self.schedule else { return };
        while schedule.next() <= now {
            self.share += self.part;
            let heavy = self.share >= 1.0;
            if heavy {
                self.share -= 1.0;
            }
            self.due[usize::from(heavy)].push_back(schedule.next());
            self.offered += 1;
            schedule.advance();
        }
    }

    /// Whether the connection that is opened now is one of the heavy ones.
    pub(crate) fn opens(&mut self) -> bool {
        self.opened += 1;
        self.heavy.as_ref().is_some_and(|heavy| heavy.of.contains(&(self.opened - 1)))
    }

    /// A connection is free.
    pub(crate) fn frees(&mut self, key: usize, heavy: bool) {
        self.free[usize::from(heavy && self.part > 0.0)].push_back(key);
    }

    /// The next of the connections that were free. The last one first: a few busy ones show what many idle ones would hide;
    /// but where the plan says who is busy, all have their turn.
    pub(crate) fn take_free(&mut self, kind: usize) -> Option<usize> {
        if self.heavy.is_some() { self.free[kind].pop_front() } else { self.free[kind].pop_back() }
    }

    /// When something becomes due that no answer announces. In a closed loop, and while all connections are busy, never.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        if self.closing { None } else { self.schedule.as_ref().map(Schedule::next) }
    }

    pub(crate) fn answered(&mut self, due: Instant) {
        self.waiting -= 1;
        self.latency.saturating_record(due.elapsed().as_nanos() as u64);
    }

    pub(crate) fn fail(&mut self, reason: String) -> Result<(), Error> {
        *self.errors.entry(reason).or_default() += 1;
        if self.errors.values().sum::<u64>() > ERRORS {
            return Err(Error::Plan("the target fails too often to be measured"));
        }
        Ok(())
    }

    /// Begins the window: what was counted before it does not count. `is_heavy` tells of a connection whether it is.
    pub(crate) fn open(&mut self, is_heavy: impl Fn(usize) -> bool) {
        self.latency.reset();
        if let Some(heavy) = self.heavy.as_ref().filter(|heavy| heavy.late) {
            self.part = heavy.part;
            let free = std::mem::take(&mut self.free[0]);
            free.into_iter().for_each(|key| self.frees(key, is_heavy(key)));
        }
        (self.offered, self.late, self.closed, self.idle) = (0, 0, 0, Duration::ZERO);
    }

    /// Ends the window, and stops sending.
    pub(crate) fn close(&mut self, before: &Accounts, after: &Accounts) -> Window {
        self.closing = true;
        self.due.iter_mut().for_each(VecDeque::clear);
        Window {
            seconds: (after.at - before.at).as_secs_f64(),
            offered: self.offered,
            done: self.latency.len(),
            errors: BTreeMap::new(),
            closed: self.closed,
            late: self.late,
            latency: Latency::from(&self.latency),
            processes: after
                .processes
                .iter()
                .zip(&before.processes)
                .map(|(after, before)| after.since(before))
                .collect(),
            generator: after.generator.since(&before.generator),
            generator_idle_ns: self.idle.as_nanos() as u64,
            processors: after
                .processors
                .iter()
                .zip(&before.processors)
                .map(|(after, before)| after.since(before))
                .collect(),
        }
    }
}

/// Everything that is read at the edges of a window.
#[derive(Debug)]
pub(crate) struct Accounts {
    at: Instant,
    processes: Vec<Account>,
    generator: Account,
    processors: Vec<Processor>,
}

impl Accounts {
    pub(crate) fn read(plan: &Plan) -> Result<Self, Error> {
        let processes = plan.pids.iter().map(|&pid| Account::of(pid).map_err(|source| Error::Process { pid, source }));
        Ok(Self {
            processes: processes.collect::<Result<_, _>>()?,
            generator: Account::of(process::id())?,
            processors: Processor::all()?,
            at: Instant::now(),
        })
    }
}
