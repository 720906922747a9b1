//! Several things at once, and waiting for what others do.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use crate::task;

/// Waits for both, at the same time.
///
/// ```
/// # use lacis_sdk::{Call, CallError, join};
/// # async fn both() -> Result<(), CallError> {
/// let (user, rights) = join(Call::get("users", "/u").send(), Call::get("rights", "/r").send()).await;
/// let (user, rights) = (user?.success()?, rights?.success()?);
/// # Ok(())
/// # }
/// ```
pub async fn join<A, B>(a: impl Future<Output = A>, b: impl Future<Output = B>) -> (A, B) {
    let (mut a, mut b) = (pin!(a), pin!(b));
    let (mut first, mut second) = (None, None);
    poll_fn(|cx| {
        if first.is_none()
            && let Poll::Ready(value) = a.as_mut().poll(cx)
        {
            first = Some(value);
        }
        if second.is_none()
            && let Poll::Ready(value) = b.as_mut().poll(cx)
        {
            second = Some(value);
        }
        match (first.take(), second.take()) {
            (Some(first), Some(second)) => Poll::Ready((first, second)),
            values => {
                (first, second) = values;
                Poll::Pending
            }
        }
    })
    .await
}

/// Waits for all, at the same time; their values are in the order of the futures. For a few: all are looked at whenever
/// one of them is ready.
///
/// ```
/// # use lacis_sdk::{Answer, Call, CallError, join_all};
/// # async fn all() -> Result<Vec<Answer>, CallError> {
/// join_all(["a", "b", "c"].map(|service| Call::get(service, "/").send())).await.into_iter().collect()
/// # }
/// ```
pub async fn join_all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    enum Part<F: Future> {
        Waits(Pin<Box<F>>),
        Done(Option<F::Output>),
    }
    let mut parts: Vec<Part<F>> = futures.into_iter().map(|future| Part::Waits(Box::pin(future))).collect();
    poll_fn(move |cx| {
        let mut waits = false;
        for part in &mut parts {
            if let Part::Waits(future) = part {
                match future.as_mut().poll(cx) {
                    Poll::Ready(value) => *part = Part::Done(Some(value)),
                    Poll::Pending => waits = true,
                }
            }
        }
        if waits {
            return Poll::Pending;
        }
        let values = parts.iter_mut().filter_map(|part| match part {
            Part::Done(value) => value.take(),
            Part::Waits(_) => None,
        });
        Poll::Ready(values.collect())
    })
    .await
}

/// Wakes those who wait, for instance exchanges that wait for what [`Filter::run`](crate::Filter::run) fetches. It keeps
/// no value: that is in a `Cell` or `RefCell` beside it.
///
/// ```
/// # use std::cell::RefCell;
/// # use lacis_sdk::Notify;
/// struct Keys {
///     current: RefCell<Option<String>>,
///     changed: Notify,
/// }
///
/// impl Keys {
///     async fn first(&self) -> String {
///         loop {
///             if let Some(keys) = self.current.borrow().clone() {
///                 return keys;
///             }
///             self.changed.wait().await;
///         }
///     }
/// }
/// ```
#[derive(Debug, Default)]
pub struct Notify {
    times: Cell<u64>,
    wakers: RefCell<Vec<(u64, Waker)>>,
}

impl Notify {
    /// One that nobody waits for.
    pub const fn new() -> Self {
        Self { times: Cell::new(0), wakers: RefCell::new(Vec::new()) }
    }

    /// Wakes all who wait now. Those of other exchanges are run a little later, in callbacks of their own.
    pub fn notify(&self) {
        self.times.set(self.times.get() + 1);
        self.wakers.take().into_iter().for_each(|(_, waker)| waker.wake());
    }

    /// Waits for the next [`Notify::notify`].
    pub async fn wait(&self) {
        Wait { notify: self, before: self.times.get(), number: task::number() }.await;
    }
}

struct Wait<'n> {
    notify: &'n Notify,
    before: u64,
    number: u64,
}

impl Wait<'_> {
    fn forget(&self) {
        self.notify.wakers.borrow_mut().retain(|(number, _)| *number != self.number);
    }
}

impl Future for Wait<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.notify.times.get() != self.before {
            return Poll::Ready(());
        }
        self.forget();
        self.notify.wakers.borrow_mut().push((self.number, cx.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.forget();
    }
}
