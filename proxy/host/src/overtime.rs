//! When a guest call has had its time.
//!
//! The engine's clock says how long a call has lasted, which is not what the guest has used: on a busy machine its thread
//! may hardly have run meanwhile, and to kill a VM for that would make load worse. To ask for the thread's CPU time costs
//! more than a cheap call. So half of the budget goes by the clock alone; a call that outlasts it is asked for CPU time
//! from there on, and is stopped once it has run for the other half. It is never stopped before its budget is over.

use std::fs;
use std::time::Duration;

use wasmtime::UpdateDeadline;

use crate::engine::Clock;
use crate::limits;

/// Time that a call may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    pub(crate) time: Duration,
    /// Ticks of the clock in half of it.
    pub(crate) half: u64,
}

impl Budget {
    /// So much time, or the shortest that can be measured.
    pub(crate) fn of(time: Duration, clock: &Clock) -> Budget {
        let time = time.max(limits::MIN_TIME);
        Budget { time, half: clock.ticks(time / 2) }
    }
}

/// How far a call is over the first half of its budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overtime {
    /// It is not.
    None,
    /// The thread's CPU time when the first half was over; `None` where the kernel does not tell.
    Since(Option<u64>),
}

impl Overtime {
    /// What to do with a call whose deadline has come, when its thread has run for `cpu` nanoseconds in all.
    pub(crate) fn decide(&mut self, budget: Budget, cpu: Option<u64>) -> UpdateDeadline {
        match (*self, cpu) {
            (Overtime::None, _) => {
                *self = Overtime::Since(cpu);
                // A deadline comes with a tick: the first one after it is a whole step away, unlike that of a call's beginning.
                UpdateDeadline::Continue(budget.half.saturating_sub(1).max(1))
            }
            (Overtime::Since(Some(then)), Some(now)) if u128::from(now.saturating_sub(then)) < half(budget.time) => {
                UpdateDeadline::Continue(1)
            }
            (Overtime::Since(_), _) => UpdateDeadline::Interrupt,
        }
    }
}

/// Nanoseconds for which the calling thread has run so far; `None` where the kernel does not tell.
pub(crate) fn thread_cpu() -> Option<u64> {
    let statistics = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    statistics.split_ascii_whitespace().next()?.parse().ok()
}

fn half(time: Duration) -> u128 {
    time.as_nanos() / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: Budget = Budget { time: Duration::from_millis(20), half: 3 };
    const MS: u64 = 1_000_000;

    fn run(cpu: &[Option<u64>]) -> Vec<String> {
        let mut overtime = Overtime::None;
        cpu.iter()
            .map(|cpu| match overtime.decide(BUDGET, *cpu) {
                UpdateDeadline::Continue(ticks) => ticks.to_string(),
                _ => "stop".into(),
            })
            .collect()
    }

    #[test]
    fn a_call_that_runs_is_stopped_after_its_second_half() {
        assert_eq!(run(&[Some(500 * MS), Some(511 * MS)]), ["2", "stop"]);
        assert_eq!(run(&[Some(500 * MS), Some(510 * MS - 1), Some(510 * MS)]), ["2", "1", "stop"]);
    }

    #[test]
    fn a_call_that_is_kept_from_running_goes_on() {
        assert_eq!(run(&[Some(0), Some(MS), Some(2 * MS), Some(9 * MS), Some(10 * MS)]), ["2", "1", "1", "1", "stop"]);
    }

    #[test]
    fn where_cpu_time_is_not_told_the_clock_decides() {
        assert_eq!(run(&[None, None]), ["2", "stop"]);
        assert_eq!(run(&[Some(1), None]), ["2", "stop"]);
    }
}
