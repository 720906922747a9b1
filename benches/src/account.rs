//! Who used the processors: per process from the scheduler's own nanoseconds, per processor from its ticks.

use serde::Serialize;
use std::{collections::BTreeMap, fs, io, path::Path};

/// Ticks per second in `/proc/stat` and `/proc/PID/stat`: `USER_HZ`, 100 on every Linux that runs Lacis.
const TICKS_PER_SECOND: u64 = 100;
/// What opening or reading the files of a thread that has ended gives.
const ENOENT: i32 = 2;
const ESRCH: i32 = 3;

/// What a process has used so far, thread by thread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    threads: BTreeMap<u32, Thread>,
    user_ns: u64,
    system_ns: u64,
}

/// What a process used between two readings of its account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Time on a processor, in nanoseconds (`schedstat`, first field).
    pub cpu_ns: u64,
    /// The most of it that one thread used.
    pub busiest_ns: u64,
    /// Time runnable and waiting for a processor, in nanoseconds (`schedstat`, second field).
    pub run_delay_ns: u64,
    /// The part of `cpu_ns` in user space, as the kernel estimates it from its ticks.
    pub user_ns: u64,
    /// The part of `cpu_ns` in the kernel, as the kernel estimates it from its ticks.
    pub system_ns: u64,
    /// Times that a thread gave its processor up to wait.
    pub voluntary_switches: u64,
    /// Times that a thread lost its processor to another.
    pub involuntary_switches: u64,
    /// Threads that ended in between: `cpu_ns` lacks what they used.
    pub ended_threads: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Thread {
    cpu_ns: u64,
    run_delay_ns: u64,
    voluntary_switches: u64,
    involuntary_switches: u64,
}

impl Account {
    /// Reads that of process `pid`.
    ///
    /// # Errors
    /// When there is no such process (any more), or `/proc` is not Linux's.
    pub fn of(pid: u32) -> io::Result<Self> {
        let mut account = Self::default();
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = task?;
            let id = task.file_name().to_str().and_then(|name| name.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
            // It may have ended between the listing and now.
            if let Some(thread) = Thread::read(&task.path())? {
                account.threads.insert(id, thread);
            }
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The program's name stands in parentheses and may hold anything, parentheses too. proc_pid_stat(5): what follows
        // it is field 3, a letter; utime is field 14 and stime 15.
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap_or_default().1.split_ascii_whitespace().collect();
        if let [user, system] = fields.get(11..13).unwrap_or_default() {
            account.user_ns = ticks_to_ns(user.parse().unwrap_or(0));
            account.system_ns = ticks_to_ns(system.parse().unwrap_or(0));
        }
        Ok(account)
    }

    /// What was used since `earlier`.
    pub fn since(&self, earlier: &Self) -> Usage {
        let mut usage = Usage {
            user_ns: self.user_ns.saturating_sub(earlier.user_ns),
            system_ns: self.system_ns.saturating_sub(earlier.system_ns),
            ended_threads: earlier.threads.keys().filter(|id| !self.threads.contains_key(id)).count(),
            ..Usage::default()
        };
        for (id, now) in &self.threads {
            let then = earlier.threads.get(id).copied().unwrap_or_default();
            let used = now.cpu_ns.saturating_sub(then.cpu_ns);
            usage.cpu_ns += used;
            usage.busiest_ns = usage.busiest_ns.max(used);
            usage.run_delay_ns += now.run_delay_ns.saturating_sub(then.run_delay_ns);
            usage.voluntary_switches += now.voluntary_switches.saturating_sub(then.voluntary_switches);
            usage.involuntary_switches += now.involuntary_switches.saturating_sub(then.involuntary_switches);
        }
        usage
    }
}

impl Thread {
    fn read(task: &Path) -> io::Result<Option<Self>> {
        let (schedstat, status) = match read_both(task) {
            Ok(texts) => texts,
            Err(error) if [Some(ENOENT), Some(ESRCH)].contains(&error.raw_os_error()) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut thread = Self::default();
        if let [cpu, delay, ..] = numbers(&schedstat)[..] {
            (thread.cpu_ns, thread.run_delay_ns) = (cpu, delay);
        }
        for line in status.lines() {
            if let Some(count) = line.strip_prefix("voluntary_ctxt_switches:") {
                thread.voluntary_switches = numbers(count).first().copied().unwrap_or(0);
            } else if let Some(count) = line.strip_prefix("nonvoluntary_ctxt_switches:") {
                thread.involuntary_switches = numbers(count).first().copied().unwrap_or(0);
            }
        }
        Ok(Some(thread))
    }
}

fn read_both(task: &Path) -> io::Result<(String, String)> {
    Ok((fs::read_to_string(task.join("schedstat"))?, fs::read_to_string(task.join("status"))?))
}

/// What one processor did since the machine started, in nanoseconds with the resolution of a tick (10 ms).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Processor {
    /// Its number.
    pub number: u32,
    /// In user space, niced or not.
    pub user_ns: u64,
    /// In the kernel, for a process.
    pub system_ns: u64,
    /// In interrupts, hard and soft. Where the kernel does not account them apart, they are in the other two.
    pub interrupt_ns: u64,
    /// Taken by the hypervisor for another machine.
    pub steal_ns: u64,
}

impl Processor {
    /// Reads all processors of this machine.
    ///
    /// # Errors
    /// When `/proc/stat` cannot be read.
    pub fn all() -> io::Result<Vec<Self>> {
        Ok(fs::read_to_string("/proc/stat")?.lines().filter_map(Self::parse).collect())
    }

    /// One line of `/proc/stat`: `cpuN user nice system idle iowait irq softirq steal …` (proc_stat(5)).
    fn parse(line: &str) -> Option<Self> {
        let (name, fields) = line.split_once(' ')?;
        let number = name.strip_prefix("cpu")?.parse().ok()?;
        let [user, nice, system, _idle, _wait, hard, soft, steal, ..] = numbers(fields)[..] else { return None };
        Some(Self {
            number,
            user_ns: ticks_to_ns(user + nice),
            system_ns: ticks_to_ns(system),
            interrupt_ns: ticks_to_ns(hard + soft),
            steal_ns: ticks_to_ns(steal),
        })
    }

    /// What it did since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            number: self.number,
            user_ns: self.user_ns.saturating_sub(earlier.user_ns),
            system_ns: self.system_ns.saturating_sub(earlier.system_ns),
            interrupt_ns: self.interrupt_ns.saturating_sub(earlier.interrupt_ns),
            steal_ns: self.steal_ns.saturating_sub(earlier.steal_ns),
        }
    }
}

fn numbers(text: &str) -> Vec<u64> {
    text.split_ascii_whitespace().map_while(|word| word.parse().ok()).collect()
}

fn ticks_to_ns(ticks: u64) -> u64 {
    ticks * (1_000_000_000 / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{process, thread, time::Instant};

    #[test]
    fn counts_the_time_of_every_thread() {
        let before = Account::of(process::id()).unwrap();
        let burn = || {
            let start = Instant::now();
            // The scheduler's figure of a running thread lags by up to a tick of the kernel.
            while start.elapsed().as_millis() < 50 {}
            Account::of(process::id()).unwrap()
        };
        let after = thread::spawn(burn).join().unwrap();
        assert!(after.since(&before).cpu_ns > 0);
    }

    #[test]
    fn counts_a_thread_that_ended_as_such() {
        let thread = |cpu_ns| Thread { cpu_ns, ..Thread::default() };
        let before = Account { threads: [(1, thread(10)), (2, thread(500))].into(), ..Account::default() };
        let after = Account { threads: [(1, thread(30)), (3, thread(7))].into(), ..Account::default() };
        let usage = after.since(&before);
        assert_eq!((usage.cpu_ns, usage.ended_threads), (27, 1));
    }

    #[test]
    fn reads_a_line_of_proc_stat() {
        let processor = Processor::parse("cpu1 10 1 20 300 5 2 3 4 0 0").unwrap();
        let expected = Processor {
            number: 1,
            user_ns: 110_000_000,
            system_ns: 200_000_000,
            interrupt_ns: 50_000_000,
            steal_ns: 40_000_000,
        };
        assert_eq!(processor, expected);
        assert_eq!(Processor::parse("cpu  10 1 20 300 5 2 3 4 0 0"), None, "the sum of all is not one of them");
        assert_eq!(Processor::parse("intr 1 2 3"), None);
    }

    #[test]
    fn says_when_a_process_is_gone() {
        assert_eq!(Account::of(u32::MAX).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
