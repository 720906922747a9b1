//! Child processes: the `lacis` binary, its logs, its memory, its end.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use crate::{PATIENCE, until};

/// The `lacis` binary: `LACIS_BIN`, or the one that cargo builds now with the profile of this test.
pub fn lacis() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| env::var_os("LACIS_BIN").map_or_else(build, PathBuf::from))
}

/// A command that runs `lacis` with these arguments.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(lacis());
    command.args(args);
    command
}

/// The target directory that this test was built into.
pub(crate) fn target() -> PathBuf {
    profile_dir().parent().map(Path::to_path_buf).unwrap_or_default()
}

/// A child process whose output is kept line by line. Dropped: killed; and if the test is failing, its logs are shown.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Mutex<Child>,
    pid: u32,
    /// Standard output.
    pub out: Lines,
    /// Standard error.
    pub err: Lines,
}

impl Process {
    /// Starts it. `name` is for messages.
    pub fn start(name: &str, mut command: Command) -> Process {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{name}: {command:?} does not start: {e}"));
        let out = Lines::read(child.stdout.take().expect("piped"));
        let err = Lines::read(child.stderr.take().expect("piped"));
        Process { name: name.to_owned(), pid: child.id(), child: Mutex::new(child), out, err }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.pid
    }

    /// Sends a signal by name: `TERM`, `HUP`, `KILL`, `STOP`, `CONT`.
    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").arg(format!("-{signal}")).arg(self.pid.to_string()).status();
        assert!(status.is_ok_and(|s| s.success()), "{}: kill -{signal} {}", self.name, self.pid);
    }

    /// Whether it still runs; its status if not.
    pub fn ended(&self) -> Option<ExitStatus> {
        lock(&self.child).try_wait().expect("a child of ours")
    }

    /// Waits for its end.
    pub fn wait(&self) -> ExitStatus {
        until(&format!("{} ends", self.name), || self.ended())
    }

    /// Resident memory now, in bytes.
    pub fn rss(&self) -> u64 {
        self.status_kib("VmRSS:") * 1024
    }

    /// The highest resident memory since the last [`Process::forget_peak`], in bytes.
    pub fn peak(&self) -> u64 {
        self.status_kib("VmHWM:") * 1024
    }

    /// Starts a new measurement of the peak (proc_pid_clear_refs(5): 5 resets the high water mark).
    pub fn forget_peak(&self) {
        fs::write(format!("/proc/{}/clear_refs", self.pid), "5").expect("clear_refs of a child");
    }

    /// How many MiB its resident memory grew at the most while this ran.
    pub fn growth<T>(processes: &[&Process], work: impl FnOnce() -> T) -> (Vec<u64>, T) {
        let before: Vec<u64> = processes.iter().map(|process| process.rss()).collect();
        processes.iter().for_each(|process| process.forget_peak());
        let done = work();
        let growth = processes.iter().zip(before).map(|(process, before)| process.peak().saturating_sub(before) >> 20);
        (growth.collect(), done)
    }

    /// How many file descriptors it has open.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid)).map_or(0, Iterator::count)
    }

    /// The processes it started that still run, by id.
    pub fn children(&self) -> Vec<u32> {
        let path = format!("/proc/{0}/task/{0}/children", self.pid);
        let text = fs::read_to_string(path).unwrap_or_default();
        text.split_whitespace().filter_map(|id| id.parse().ok()).collect()
    }

    fn status_kib(&self, key: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).expect("a running process");
        let line = status.lines().find(|line| line.starts_with(key));
        line.and_then(|line| line.split_whitespace().nth(1)).and_then(|kib| kib.parse().ok()).expect("a number")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let mut child = lock(&self.child);
        let _ = child.kill();
        let status = child.wait();
        if std::thread::panicking() {
            eprintln!("──── {} (pid {}, {status:?})", self.name, self.pid);
            let lines = [self.out.all(), self.err.all()].concat();
            for line in &lines[lines.len().saturating_sub(SHOWN)..] {
                eprintln!("  {line}");
            }
        }
    }
}

/// How many lines of a process a failing test shows: enough for the story, not for a flood.
const SHOWN: usize = 200;

/// The lines of a stream that is still being read.
#[derive(Clone, Debug)]
pub struct Lines {
    shared: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<String>,
    ended: bool,
}

impl Lines {
    /// Reads a stream to its end, in the background.
    pub fn read(stream: impl Read + Send + 'static) -> Lines {
        let lines = Lines { shared: Arc::default() };
        let shared = lines.shared.clone();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stream);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                lock(&shared.0).lines.push(text);
                shared.1.notify_all();
                line.clear();
            }
            lock(&shared.0).ended = true;
            shared.1.notify_all();
        });
        lines
    }

    /// Every line so far.
    pub fn all(&self) -> Vec<String> {
        lock(&self.shared.0).lines.clone()
    }

    /// How many lines there are so far.
    pub fn count(&self) -> usize {
        lock(&self.shared.0).lines.len()
    }

    /// Whether the stream has ended: nothing more will come.
    pub fn is_ended(&self) -> bool {
        lock(&self.shared.0).ended
    }

    /// Waits until `pick` finds something in the lines so far; panics with `what` if the stream ends or
    /// [`PATIENCE`] does.
    pub fn wait_for<T>(&self, what: &str, pick: impl FnMut(&[String]) -> Option<T>) -> T {
        self.wait_within(PATIENCE, pick).unwrap_or_else(|| {
            let state = lock(&self.shared.0);
            assert!(!state.ended, "the process ended before {what}: {}", state.lines.join("\n"));
            panic!("waited in vain for {what}")
        })
    }

    /// Like [`Lines::wait_for`], but `None` if the stream ends or this time is over.
    pub fn wait_within<T>(&self, time: Duration, mut pick: impl FnMut(&[String]) -> Option<T>) -> Option<T> {
        let end = Instant::now() + time;
        let mut state = lock(&self.shared.0);
        loop {
            if let Some(value) = pick(&state.lines) {
                return Some(value);
            }
            let left = end.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                return None;
            }
            state = self.shared.1.wait_timeout(state, left).unwrap_or_else(|e| e.into_inner()).0;
        }
    }

    /// Waits for the end of the stream and gives everything.
    pub fn to_end(&self) -> Vec<String> {
        let end = Instant::now() + PATIENCE;
        let mut state = lock(&self.shared.0);
        while !state.ended {
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "waited in vain for the end of the output");
            state = self.shared.1.wait_timeout(state, left).unwrap_or_else(|e| e.into_inner()).0;
        }
        state.lines.clone()
    }
}

/// Locks, whatever another thread's panic did: a failing test still wants its logs.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// Where cargo put this test's profile: `TARGET[/TRIPLE]/PROFILE/deps/TEST`.
fn profile_dir() -> PathBuf {
    let exe = env::current_exe().expect("a path of our own");
    exe.ancestors().nth(2).map(Path::to_path_buf).unwrap_or_default()
}

/// Builds the binary. The layer test is named beside it so that cargo resolves the same features as for the tests
/// themselves (development dependencies count) and compiles no dependency a second time.
fn build() -> PathBuf {
    let dir = profile_dir();
    let profile = match dir.file_name().and_then(|n| n.to_str()) {
        Some("debug") | None => "dev",
        Some(other) => other,
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(root)
        .args(["build", "--bin", "lacis", "--test", "layers", "--message-format", "json-render-diagnostics"])
        .args(["--profile", profile])
        .arg("--target-dir")
        .arg(dir.parent().expect("a target directory"))
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo could not build lacis");
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    messages.lines().find_map(executable).expect("cargo names the binary it built")
}

/// The binary's path, if this message of cargo's is about it.
fn executable(line: &str) -> Option<PathBuf> {
    let message: BTreeMap<String, serde_json::Value> = serde_json::from_str(line).ok()?;
    let target = message.get("target")?;
    let ours = target["name"] == "lacis" && target["kind"][0] == "bin";
    ours.then(|| message.get("executable").and_then(|p| p.as_str()).map(PathBuf::from)).flatten()
}
