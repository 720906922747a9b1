//! The books of a plan under way: what is due, what came back, and what all that cost.

use crate::{
    account::{Account, Processor},
    message,
    plan::{Error, Latency, Plan, Window},
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
    /// Requests that are due and wait for a free connection.
    pub(crate) due: VecDeque<Instant>,
    /// Connections that were free, the last one first: a few busy ones show what many idle ones would hide.
    pub(crate) free: Vec<usize>,
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
            due: VecDeque::new(),
            free: Vec::with_capacity(plan.connections),
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
            self.due.push_back(schedule.next());
            self.offered += 1;
            schedule.advance();
        }
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

    /// Begins the window: what was counted before it does not count.
    pub(crate) fn open(&mut self) {
        self.latency.reset();
        (self.offered, self.late, self.closed, self.idle) = (0, 0, 0, Duration::ZERO);
    }

    /// Ends the window, and stops sending.
    pub(crate) fn close(&mut self, before: &Accounts, after: &Accounts) -> Window {
        self.closing = true;
        self.due.clear();
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
