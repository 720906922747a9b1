//! How much memory the process uses, for bounds of it: read here, so that no request waits for it.

use std::fmt::Display;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::generations::Generations;
use crate::policy::shed::Load;

/// How often it is read where it is bounded: memory grows by what is in flight, and that takes about as long.
const INTERVAL: Duration = Duration::from_millis(100);

/// Reads it for as long as the process runs, where the configuration in use bounds it.
pub async fn watch(load: Arc<Load>, generations: Rc<Generations>) {
    loop {
        let bounded = generations.config().overload.as_ref().is_some_and(|overload| overload.memory.is_some());
        if let Some(bytes) = bounded.then(|| resident("self")).flatten() {
            load.use_memory(bytes);
        }
        match bounded {
            true => tokio::time::sleep(INTERVAL).await,
            false => generations.another().await,
        }
    }
}

/// Resident memory of a process (its number, or `self`) in bytes, as Linux says it (`man proc_pid_status`). `None` elsewhere.
pub(super) fn resident(process: impl Display) -> Option<u64> {
    of(&std::fs::read_to_string(format!("/proc/{process}/status")).ok()?)
}

fn of(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_some() {
        assert!(resident("self").is_some_and(|bytes| bytes > 1 << 20));
        assert_eq!(of("VmPeak:\t  9 kB\nVmRSS:\t    1234 kB\nThreads:\t1\n"), Some(1234 * 1024));
        assert_eq!(of("VmRSS:\t many kB"), None);
        assert_eq!(of(""), None);
    }
}
