//! What a filter costs, by the clock: instructions cannot be counted everywhere, and a median of many runs says as much.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use lacis_host::testing::{List, TestStream, TestWorld};
use lacis_host::{Half, Plugin, PluginSettings, RootId, Vm, VmSettings};

use super::trial::{clock, reads};
use crate::config::cases::{Message, Subject};

/// Starts that are measured: each takes up to some milliseconds.
const STARTS: usize = 15;

/// Most exchanges that are measured, and the time after which no more are begun if there were enough.
const MOST: usize = 5000;
const PATIENCE: Duration = Duration::from_millis(500);
const LEAST: usize = 50;

/// Callbacks of an exchange, in their order, and what the host does around them.
const CALLBACKS: [&str; 6] = [
    "proxy_on_context_create",
    "proxy_on_request_headers",
    "proxy_on_request_body",
    "proxy_on_response_headers",
    "proxy_on_response_body",
    "proxy_on_log, proxy_on_done and proxy_on_delete",
];

/// What is sent through a filter.
pub(super) struct Sample {
    /// What it is, in words.
    pub(super) name: String,
    pub(super) subject: Subject,
    pub(super) config: Vec<u8>,
    pub(super) request: Message,
    pub(super) response: Message,
}

/// What a filter costs.
pub(super) struct Cost {
    /// What was sent through it.
    pub(super) sample: String,
    /// Or why that cannot be said.
    pub(super) measured: Result<Measured, String>,
}

/// See [`Cost`]. Times in nanoseconds.
pub(super) struct Measured {
    pub(super) runs: usize,
    pub(super) starts: usize,
    pub(super) start: u64,
    /// Linear memory after the last run, in bytes.
    pub(super) memory: usize,
    /// The callbacks that the module has.
    pub(super) callbacks: Vec<(&'static str, u64)>,
}

/// Measures a filter.
pub(super) fn cost(plugin: &Plugin, sample: &Sample) -> Cost {
    Cost { sample: sample.name.clone(), measured: measure(plugin, sample) }
}

fn measure(plugin: &Plugin, sample: &Sample) -> Result<Measured, String> {
    let world = TestWorld::shared();
    world.borrow_mut().now = clock(None);
    let mut starts = Vec::new();
    let mut last = None;
    for _ in 0..STARTS {
        drop(last.take());
        let since = Instant::now();
        last = Some(start(plugin, sample, &world)?);
        starts.push(since.elapsed());
    }
    let Some((mut vm, root)) = last else { return Err("nothing was started".into()) };
    let mut times: [Vec<Duration>; CALLBACKS.len()] = Default::default();
    let reads = reads(&world.borrow());
    let begun = Instant::now();
    while times[0].len() < MOST && (times[0].len() < LEAST || begun.elapsed() < PATIENCE) {
        world.borrow_mut().lines.clear();
        world.borrow_mut().missed.clear();
        exchange(&mut vm, root, sample, reads, &mut times).map_err(|trap| trap.to_string())?;
    }
    let runs = times[0].len();
    let has = |name: &str| name.split([',', ' ']).any(|callback| plugin.exports(callback));
    let callbacks = CALLBACKS.into_iter().zip(&mut times).filter(|(name, times)| has(name) && !times.is_empty());
    let callbacks = callbacks.map(|(name, times)| (name, median(times))).collect();
    Ok(Measured { runs, starts: starts.len(), start: median(&mut starts), memory: vm.memory(), callbacks })
}

fn start(plugin: &Plugin, sample: &Sample, world: &Rc<RefCell<TestWorld>>) -> Result<(Vm, RootId), String> {
    let Subject { root_id, vm_config, env, head_waits_alone } = &sample.subject;
    let settings = VmSettings { configuration: vm_config.clone(), env: env.clone(), ..VmSettings::default() };
    let needs = |error: &dyn std::fmt::Display| {
        let last = world.borrow().lines.last().map(|(_, _, text)| format!("; it logged last: {}", text.trim()));
        format!("{error}{}; give it what it needs by --filter-config or --cases", last.unwrap_or_default())
    };
    let mut vm = Vm::new(plugin, settings, world.clone()).map_err(|error| needs(&error))?;
    let settings = PluginSettings {
        name: "filter".into(),
        root_id: root_id.clone(),
        configuration: sample.config.clone(),
        allow_on_headers_stop_iteration: *head_waits_alone || reads(&world.borrow()).is_some(),
        upstreams: None,
    };
    let root = vm.start_root(settings).map_err(|error| needs(&error))?;
    Ok((vm, root))
}

/// One exchange, whatever the filter says of it: what it would hold back or answer is shown to it all the same.
fn exchange(
    vm: &mut Vm,
    root: RootId,
    sample: &Sample,
    reads: Option<[bool; 2]>,
    times: &mut [Vec<Duration>; CALLBACKS.len()],
) -> Result<(), lacis_host::Trap> {
    let lines = |message: &Message| {
        List(message.head.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect())
    };
    let [open, request_head, request_body, response_head, response_body, close] = times;
    let stream = Rc::new(RefCell::new(TestStream { request: lines(&sample.request), ..TestStream::default() }));
    let id = timed(open, || vm.open(root, stream.clone()))?;
    let halves = [
        (Half::Request, &sample.request, request_head, request_body),
        (Half::Response, &sample.response, response_head, response_body),
    ];
    for (half, message, head_times, body_times) in halves {
        if half == Half::Response {
            stream.borrow_mut().response = Some(lines(message));
        }
        let body = message.body.concat();
        let count = u32::try_from(message.head.len()).unwrap_or(u32::MAX);
        timed(head_times, || vm.on_headers(id, half, count, body.is_empty()))?;
        let seen = reads.is_none_or(|reads| reads[half as usize]);
        if stream.borrow().reply.is_none() && !body.is_empty() && seen {
            let size = body.len();
            stream.borrow_mut().bodies[half as usize] = Some(body);
            timed(body_times, || vm.on_body(id, half, size, true))?;
        }
    }
    timed(close, || vm.close(id))
}

fn timed<T>(times: &mut Vec<Duration>, work: impl FnOnce() -> T) -> T {
    let since = Instant::now();
    let done = work();
    times.push(since.elapsed());
    done
}

/// In nanoseconds.
fn median(times: &mut [Duration]) -> u64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let of =
            |nanoseconds: &[u64]| median(&mut nanoseconds.iter().map(|n| Duration::from_nanos(*n)).collect::<Vec<_>>());
        assert_eq!((of(&[9, 1, 5]), of(&[3]), of(&[])), (5, 3, 0));
    }
}
