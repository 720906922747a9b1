//! A whole mesh on this machine: two services in this process, their two sidecars as processes of their own, the
//! filters that ship, live traffic, and a table of what the sidecars say about it.

mod child;
pub mod client;
mod mesh;
mod service;
mod table;
mod tally;
mod view;

use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::rc::Rc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use self::child::Directory;
pub use self::child::keep_directory;
use self::mesh::Mesh;
use self::table::Screen;
use self::tally::Tally;

/// How often the table is drawn.
const TICK: Duration = Duration::from_millis(500);

/// Requests of alpha that are on their way at once.
const CALLERS: usize = 4;

/// How long a caller rests between two requests where nobody said how many: a demo should leave the machine usable.
const REST: Duration = Duration::from_millis(20);

/// How long the requests that are on their way may take at the end.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// How long the sidecars' counters may lag behind what alpha has seen.
const LAST_COUNTS: Duration = Duration::from_secs(2);

/// Runs the mesh until `requests` were answered, or for ever, or until SIGINT or SIGTERM; a second one ends at once.
/// Whatever was started has ended when this returns, and where this process is killed it ends too.
///
/// # Errors
/// What did not work, in words for the one who watches: something could not be started, or the mesh did not do what it
/// was to show.
pub fn run(requests: Option<u64>) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot start: {error}"))?;
    LocalSet::new().block_on(&runtime, async {
        let mut signals = Signals::new().map_err(|error| format!("cannot wait for signals: {error}"))?;
        let directory = Directory::new()?;
        // Whoever does not listen at the beginning may still want the end's exit code.
        let _ = Screen::begin();
        let tally = Rc::new(RefCell::new(Tally::new(requests)));
        let mut mesh = match signals.or(Mesh::start(&directory, &tally)).await {
            Some(started) => started?,
            None => return Ok(()),
        };
        let shown = show(&mut mesh, &tally, &mut signals).await;
        let drained = signals.or(mesh.drain()).await.unwrap_or(Ok(()));
        shown.and(drained)
    })
}

/// Carries traffic and shows it, to its end.
async fn show(mesh: &mut Mesh, tally: &Rc<RefCell<Tally>>, signals: &mut Signals) -> Result<(), String> {
    let mut screen = Screen::new();
    // Nobody watches any more: `lacis demo | head` has what it wanted.
    let watched = |shown: io::Result<()>| match shown {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(format!("cannot write the table: {error}")),
    };
    let mut going = watched(Screen::introduce(mesh))?;
    let rest = if tally.borrow().wanted().is_some() { Duration::ZERO } else { REST };
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        callers.spawn_local(service::alpha(mesh.outbound(), Rc::clone(tally), rest));
    }
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick.reset();
    while going {
        tokio::select! {
            () = signals.any() => going = false,
            caller = callers.join_next() => match caller {
                Some(ended) => ended.map_err(|error| format!("a caller was lost: {error}"))?,
                None => going = false,
            },
            _ = tick.tick() => {
                mesh.check()?;
                let now = tally.borrow().clone();
                let view = mesh.view(&now).await?;
                going = watched(screen.update(&view))?;
            }
        }
    }
    tally.borrow_mut().stop();
    // A caller that waits longer than this is dropped, which cancels its request.
    let _ = signals.or(timeout(LAST_ANSWERS, async { while callers.join_next().await.is_some() {} })).await;
    callers.shutdown().await;
    let tally = tally.borrow().clone();
    let patience = Instant::now() + LAST_COUNTS;
    let (view, problems) = loop {
        let view = mesh.view(&tally).await?;
        let problems = view.problems(&tally);
        if problems.is_empty() || Instant::now() > patience {
            break (view, problems);
        }
        sleep(TICK / 10).await;
    };
    watched(screen.finish(&view))?;
    if problems.is_empty() { Ok(()) } else { Err(format!("the demo did not work:\n  {}", problems.join("\n  "))) }
}

/// What ends the demo from outside.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Signals { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// What `work` gives, or nothing if a signal came first.
    async fn or<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = work => Some(done),
            () = self.any() => None,
        }
    }
}
