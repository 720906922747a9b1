//! Time, chance, and waiting: all from the host, so that a native test can give them.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use crate::backend::{Backend, Host};
use crate::task::{self, Root};

/// The time of day.
pub fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + unix_time()
}

/// The time since 1970 in UTC, without leap seconds.
pub fn unix_time() -> Duration {
    Host::unix_time()
}

/// Random bits, fit for secrets.
pub fn random_u64() -> u64 {
    Host::random()
}

/// Waits. Hosts count milliseconds, and run what is due one callback at a time: it may take a little longer, never less.
pub fn sleep(duration: Duration) -> Sleep {
    Sleep { duration, timer: None }
}

/// Waits for a future, but not longer than this; none if it takes longer. The future is dropped then, with its calls.
pub async fn timeout<T>(duration: Duration, future: impl Future<Output = T>) -> Option<T> {
    let (mut future, mut sleep) = (pin!(future), pin!(sleep(duration)));
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => sleep.as_mut().poll(cx).map(|()| None),
    })
    .await
}

/// Runs a future beside everything else, in the virtual machine that it was begun in; it ends with it at the latest.
///
/// It does not belong to an exchange: headers and attributes read as empty there.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    match task::current() {
        Some(root) => root.spawn(future),
        None => crate::error!("a task was begun outside of a callback; it is dropped"),
    }
}

/// Waits for a time: [`sleep`].
#[must_use = "it waits only when it is awaited"]
pub struct Sleep {
    duration: Duration,
    /// The plugin whose ticks it waits for, when it is due, and its number.
    timer: Option<(Rc<Root>, Duration, u64)>,
}

impl std::fmt::Debug for Sleep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sleep").field("duration", &self.duration).finish_non_exhaustive()
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let now = Host::elapsed();
        let duration = self.duration;
        if self.timer.is_none() {
            let Some(root) = task::current() else { return Poll::Ready(()) };
            self.timer = Some((root, now.saturating_add(duration), task::number()));
        } else if self.timer.as_ref().is_some_and(|(_, at, _)| *at <= now) {
            return Poll::Ready(());
        }
        if let Some((root, at, number)) = &self.timer {
            root.wake_at(*at, *number, cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some((root, at, number)) = &self.timer {
            root.take_back(*at, *number);
        }
    }
}
