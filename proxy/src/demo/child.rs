//! The processes that the demo starts. Each has a pipe as its standard input and ends when that closes, which the
//! kernel sees to however this process ends; so nothing outlives it.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::client::Client;

/// How long a sidecar may take to start. The first time it compiles its filters, by a debug build on a busy machine
/// perhaps: some ten seconds of processor time.
const START: Duration = Duration::from_secs(180);

/// How long a sidecar may take to drain: nothing is on its way any more.
const DRAIN: Duration = Duration::from_secs(10);

/// How often an ending process is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Lines of a sidecar's log that wait to be read. More are dropped: the log must never hold the sidecar up.
const QUEUE: usize = 256;

/// Lines of a sidecar's log that are kept to tell why it ended.
const KEPT: usize = 20;

/// A directory of the demo's own below `TMPDIR`, which another process removes when this one has let go of it.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    keeper: Child,
}

impl Directory {
    /// Makes it.
    pub(super) fn new() -> Result<Self, String> {
        let mut command = command()?;
        command.args(["demo", "--keep-directory"]).stdout(Stdio::piped());
        let mut keeper = command.spawn().map_err(|error| format!("cannot start a process: {error}"))?;
        let mut path = Vec::new();
        let said = keeper.stdout.take().map(|out| BufReader::new(out).read_until(b'\n', &mut path));
        if path.pop() != Some(b'\n') {
            let _ = keeper.kill().and_then(|()| keeper.wait());
            let why = said.and_then(Result::err).map(|error| format!(": {error}")).unwrap_or_default();
            let place = std::env::temp_dir();
            return Err(format!(
                "cannot make a directory in {}{why}; set TMPDIR to one that can be written",
                place.display()
            ));
        }
        Ok(Directory { path: OsString::from_vec(path).into(), keeper })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Closes the keeper's standard input first. If the keeper was killed, this does its work.
        let _ = self.keeper.wait();
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Makes a directory below `TMPDIR` that only its owner can enter, writes its path, and removes it with everything in it
/// when standard input closes.
///
/// # Errors
/// If it could not be made, or its path not be written.
pub fn keep_directory() -> io::Result<()> {
    let path = std::env::temp_dir().join(format!("lacis-demo-{:08x}", fastrand::u32(..)));
    // Fails if it is there, so that it is ours alone.
    DirBuilder::new().mode(0o700).create(&path)?;
    let mut out = io::stdout().lock();
    let written = out.write_all(&[path.as_os_str().as_bytes(), b"\n"].concat()).and_then(|()| out.flush());
    let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
    fs::remove_dir_all(&path).and(written)
}

/// A sidecar: `lacis run` on a file.
#[derive(Debug)]
pub(super) struct Sidecar {
    name: &'static str,
    child: Child,
    listeners: BTreeMap<String, SocketAddr>,
    log: mpsc::Receiver<String>,
    kept: VecDeque<String>,
}

impl Sidecar {
    /// Starts it, and waits until it listens.
    pub(super) async fn start(name: &'static str, config: &Path) -> Result<Self, String> {
        let mut command = command()?;
        command.args(["--log-format", "json", "--log-level", "info", "run", "--until-stdin-closes", "-c"]);
        // What it leaves in there, however it ends, is removed with the rest.
        let directory = config.parent().unwrap_or(Path::new("."));
        command.arg(config).env("TMPDIR", directory).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("cannot start {name}'s sidecar: {error}"))?;
        let (line, log) = mpsc::channel(QUEUE);
        let stderr = child.stderr.take();
        let mut sidecar = Sidecar { name, child, listeners: BTreeMap::new(), log, kept: VecDeque::new() };
        if let Some(stderr) = stderr {
            let reader = std::thread::Builder::new().name(format!("log-{name}")).spawn(move || read(stderr, &line));
            reader.map_err(|error| format!("cannot start a thread: {error}"))?;
        }
        match timeout(START, sidecar.ready()).await {
            Ok(true) => Ok(sidecar),
            Ok(false) => Err(sidecar.ended("did not start")),
            Err(_) => Err(sidecar.ended(&format!("was not ready after {} s", START.as_secs()))),
        }
    }

    /// Whether it says that it is ready before it ends; what it listens on is known then.
    async fn ready(&mut self) -> bool {
        while let Some(line) = self.log.recv().await {
            let said = serde_json::from_str::<Value>(&line).unwrap_or_default();
            self.keep(line);
            match said["message"].as_str() {
                Some("listening") => {
                    let address = said["address"].as_str().and_then(|address| address.parse().ok());
                    if let (Some(listener), Some(address)) = (said["listener"].as_str(), address) {
                        self.listeners.insert(listener.to_owned(), address);
                    }
                }
                Some("ready") => return true,
                _ => {}
            }
        }
        false
    }

    /// Its process id.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it listens on under this name: `outbound`, `inbound`, `admin`.
    pub(super) fn listener(&self, name: &str) -> Result<SocketAddr, String> {
        self.listeners.get(name).copied().ok_or_else(|| self.ended(&format!("has no listener {name:?}")))
    }

    /// Fails if it has ended.
    pub(super) fn check(&mut self) -> Result<(), String> {
        while let Ok(line) = self.log.try_recv() {
            self.keep(line);
        }
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.ended(&format!("ended ({status})"))),
            Err(error) => Err(self.ended(&format!("is lost: {error}"))),
        }
    }

    /// Lets it finish and end.
    pub(super) async fn drain(&mut self, admin: &mut Client) -> Result<(), String> {
        let asked = admin.ask("POST", "/drain", &[], b"").await;
        asked.map_err(|error| self.ended(&format!("cannot be asked to drain: {error}")))?;
        let status = timeout(DRAIN, async {
            loop {
                match self.child.try_wait() {
                    Ok(None) => sleep(LOOK).await,
                    ended => return ended,
                }
            }
        });
        match status.await {
            Ok(Ok(Some(status))) if status.success() => Ok(()),
            Ok(status) => Err(self.ended(&format!("ended badly ({status:?})"))),
            Err(_) => Err(self.ended(&format!("did not drain in {} s", DRAIN.as_secs()))),
        }
    }

    fn keep(&mut self, line: String) {
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(line);
    }

    /// What happened to it, with the end of its log.
    fn ended(&self, what: &str) -> String {
        let log: String = self.kept.iter().map(|line| format!("\n  {line}")).collect();
        format!("{}'s sidecar {what}; the end of its log:{log}", self.name)
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// This program, in a process group of its own: Ctrl-C reaches the demo alone, which then ends the others in order.
fn command() -> Result<Command, String> {
    let program = std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
    let mut command = Command::new(program);
    command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(command)
}

fn read(log: ChildStderr, lines: &mpsc::Sender<String>) {
    let mut log = BufReader::new(log);
    let mut line = Vec::new();
    // No line of ours is longer, and one that is must not fill the memory.
    while log.by_ref().take(LONGEST).read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        let _ = lines.try_send(String::from_utf8_lossy(&line).trim_end().to_owned());
        line.clear();
    }
}

/// Longest line of a log in bytes.
const LONGEST: u64 = 64 * 1024;
