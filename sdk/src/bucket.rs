//! A rate that holds for all workers together.

use std::time::Duration;

use crate::backend::{Backend, Host};
use crate::shared::{SharedError, update};

/// A token bucket in shared data: it holds so many tokens at most, gets more at a constant rate, and who takes some must
/// find them there. All workers take from the same one.
///
/// ```
/// use lacis_sdk::{Flow, Reply, Take, TokenBucket};
/// # fn on_request() -> Result<Flow, Reply> {
/// let bucket = TokenBucket::new("quota:alice", 100, 10.0);
/// match bucket.take(1)? {
///     Take::Granted { .. } => Ok(Flow::Continue),
///     Take::Denied { retry_after } => {
///         // In whole seconds, and no sooner.
///         Err(Reply::new(429).header("retry-after", &retry_after.as_secs_f64().ceil().to_string()))
///     }
/// }
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct TokenBucket {
    name: String,
    capacity: f64,
    per_second: f64,
}

/// What [`TokenBucket::take`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// The tokens were there, and are gone.
    Granted {
        /// How many whole ones are left.
        remaining: u64,
    },
    /// They were not, and none was taken.
    Denied {
        /// When they will be, if nobody else takes any; [`Duration::MAX`] if never.
        retry_after: Duration,
    },
}

impl TokenBucket {
    /// The bucket with this name among the shared data, full if nobody has taken any yet. It is kept in 16 bytes, which
    /// stay: names that come from callers need a bound.
    pub fn new(name: impl Into<String>, capacity: u64, per_second: f64) -> Self {
        let per_second = if per_second.is_finite() { per_second.max(0.0) } else { 0.0 };
        Self { name: name.into(), capacity: capacity as f64, per_second }
    }

    /// Takes so many tokens, or none.
    ///
    /// # Errors
    ///
    /// If others were faster 32 times, or the host has no room for it.
    pub fn take(&self, tokens: u64) -> Result<Take, SharedError> {
        let wanted = tokens as f64;
        update(&self.name, |old| {
            let now = Host::unix_time();
            let (level, at) = old.and_then(read).unwrap_or((self.capacity, now));
            // Clocks of two workers are the same one, but it may be set back.
            let passed = now.saturating_sub(at).as_secs_f64();
            let level = (level + passed * self.per_second).clamp(0.0, self.capacity);
            let (level, take) = if wanted <= level {
                (level - wanted, Take::Granted { remaining: (level - wanted) as u64 })
            } else {
                (level, Take::Denied { retry_after: self.wait(wanted, level) })
            };
            Ok((write(level, now), take))
        })
    }

    fn wait(&self, wanted: f64, level: f64) -> Duration {
        if wanted > self.capacity {
            return Duration::MAX;
        }
        Duration::try_from_secs_f64((wanted - level) / self.per_second).unwrap_or(Duration::MAX)
    }
}

fn write(level: f64, at: Duration) -> Vec<u8> {
    let nanoseconds = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
    [level.to_le_bytes(), nanoseconds.to_le_bytes()].concat()
}

fn read(bytes: &[u8]) -> Option<(f64, Duration)> {
    let (level, at) = bytes.split_at_checked(8)?;
    let level = f64::from_le_bytes(level.try_into().ok()?);
    let at = Duration::from_nanos(u64::from_le_bytes(at.try_into().ok()?));
    level.is_finite().then_some((level, at))
}
