//! The compiler in a process of its own, which takes the tens of MiB that compiling leaves behind with it.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::stop::Stop;
use crate::control::memory::resident;

/// Longest time that a module may compile, because the start waits for it. The largest modules we know, with the runtime
/// of Go in them, take some seconds of a core, and a sidecar may have a tenth of one; a hostile module takes any time.
pub const TIME_MAX: Duration = Duration::from_secs(120);

/// Most memory that the compiler may take, because the sidecar and it may share a bound beyond which the kernel ends both.
/// The largest modules we know take some 700 MiB, 25 times what they have in bytes; a hostile one of 2 MB takes any number.
const MEMORY_MAX: u64 = 2 << 30;

/// How often it is looked whether the compiler is done; adds half of this to each module.
const POLL: Duration = Duration::from_millis(5);

/// Most bytes of the compiler's own words that are kept: they become one line of ours.
const WORDS_MAX: u64 = 4096;

/// Exit code of `lacis` when what it was given is wrong.
const WRONG_INPUT: i32 = 1;

/// Compiles modules by running `lacis compile --output FILE`.
#[derive(Debug)]
pub(super) struct Compiler {
    /// The program.
    pub(super) program: PathBuf,
    /// What it is told before `--output FILE`.
    pub(super) arguments: Vec<&'static str>,
    /// Longest time for one module.
    pub(super) time: Duration,
    /// Most bytes of memory for one module.
    pub(super) memory: u64,
}

impl Compiler {
    /// This very program.
    pub(super) fn own() -> Result<Compiler, String> {
        // Not the path that it was started from: a newer version, with another compiler, may be installed there by now.
        let running = PathBuf::from("/proc/self/exe");
        let program = if running.exists() {
            running
        } else {
            std::env::current_exe()
                .map_err(|error| format!("cannot find the program that compiles filters: {error}"))?
        };
        Ok(Compiler { program, arguments: vec!["--log-level", "off", "compile"], time: TIME_MAX, memory: MEMORY_MAX })
    }

    /// Compiles a module to an artifact in the file `output`.
    ///
    /// # Errors
    /// What is wrong with the module, or what kept it from being compiled; that it was to stop, too.
    pub(super) fn compile(&self, module: &[u8], output: &Path, stop: &Stop) -> Result<(), String> {
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .arg("--output")
            .arg(output)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start the compiler {}: {error}", self.program.display()))?;
        let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
        // A thread of its own, because either pipe can block for as long as the child lives.
        let talk = move || {
            if let Some(mut stdin) = stdin {
                // If it stops reading, its exit status says why.
                let _ = stdin.write_all(module);
            }
            let mut words = Vec::new();
            if let Some(stderr) = stderr {
                let _ = stderr.take(WORDS_MAX).read_to_end(&mut words);
            }
            String::from_utf8_lossy(&words).trim().to_owned()
        };
        let (ended, words) = thread::scope(|scope| {
            let words = scope.spawn(talk);
            let ended = self.wait(&mut child, stop);
            (ended, words.join().unwrap_or_default())
        });
        match ended? {
            status if status.success() => Ok(()),
            status if status.code() == Some(WRONG_INPUT) && !words.is_empty() => {
                Err(words.strip_prefix("lacis: ").unwrap_or(&words).to_owned())
            }
            status => Err(format!("the compiler failed ({status}): {words}")),
        }
    }

    /// Waits for the end of the child, and makes it end where it takes too much of time or memory, or nobody waits for it.
    fn wait(&self, child: &mut Child, stop: &Stop) -> Result<ExitStatus, String> {
        let started = Instant::now();
        loop {
            let problem = match child.try_wait() {
                Ok(Some(status)) => return Ok(status),
                Ok(None) if stop.is_due() => "nobody waits for the module any more".into(),
                Ok(None) if started.elapsed() >= self.time => {
                    format!("the module takes longer than {:?} to compile", self.time)
                }
                Ok(None) if resident(child.id()).is_some_and(|bytes| bytes > self.memory) => {
                    format!("the module takes more than {} MiB of memory to compile", self.memory >> 20)
                }
                Ok(None) => {
                    thread::sleep(POLL);
                    continue;
                }
                Err(error) => format!("lost the compiler: {error}"),
            };
            // It has ended already, or cannot resist.
            let _ = child.kill();
            let _ = child.wait();
            return Err(problem);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::stop::Wish;
    use super::*;

    /// With a compiler that is a shell script; `$2` is the output.
    fn run(script: &'static str, module: &[u8], time: Duration) -> Result<Vec<u8>, String> {
        let output = tempfile::NamedTempFile::new().unwrap();
        let compiler =
            Compiler { program: "/bin/sh".into(), arguments: vec!["-c", script, "compiler"], time, memory: 64 << 20 };
        compiler.compile(module, output.path(), &Stop::default()).map(|()| std::fs::read(output.path()).unwrap())
    }

    #[test]
    fn it_ends_when_nobody_waits_for_it() {
        let (wish, stop) = Wish::new();
        let output = tempfile::NamedTempFile::new().unwrap();
        let compiler = Compiler {
            program: "/bin/sh".into(),
            arguments: vec!["-c", "exec sleep 600", "compiler"],
            time: TIME_MAX,
            memory: 64 << 20,
        };
        drop(wish);
        let given_up = compiler.compile(b"", output.path(), &stop);
        assert_eq!(given_up, Err("nobody waits for the module any more".into()));
    }

    #[test]
    fn the_module_goes_in_and_the_artifact_comes_out() {
        // More than a pipe holds.
        let module = vec![7; 1 << 20];
        assert_eq!(run("cat > \"$2\"", &module, TIME_MAX), Ok(module));
    }

    #[test]
    fn its_words_are_told() {
        let wrong = run("cat >&2; exit 1", b"lacis: not a module\n", TIME_MAX);
        assert_eq!(wrong, Err("not a module".into()));
        let defect = run("cat >&2; exit 70", b"lacis: a defect\n", TIME_MAX);
        assert_eq!(defect, Err("the compiler failed (exit status: 70): lacis: a defect".into()));
        let killed = run("kill -9 $$", b"", TIME_MAX);
        assert_eq!(killed, Err("the compiler failed (signal: 9 (SIGKILL)): ".into()));
        // Neither more than bounded, nor blocked on what is not read.
        let chatty = run("head -c 1000000 /dev/zero >&2; exit 1", b"", TIME_MAX);
        assert_eq!(chatty.unwrap_err().len() as u64, WORDS_MAX);
    }

    #[test]
    fn it_ends_in_time() {
        // Reads nothing, so that writing to it blocks; `exec`, so that nothing of it stays.
        let time = Duration::from_millis(50);
        let late = run("exec sleep 600", &vec![0; 1 << 20], time);
        assert_eq!(late, Err("the module takes longer than 50ms to compile".into()));
    }

    #[test]
    fn it_ends_before_it_has_all_memory() {
        // Keeps all of the last line, which never ends.
        let large = run("exec tail /dev/zero", b"", TIME_MAX);
        assert_eq!(large, Err("the module takes more than 64 MiB of memory to compile".into()));
    }

    #[test]
    fn where_there_is_none_it_is_named() {
        let compiler =
            Compiler { program: "/nonexistent".into(), arguments: vec![], time: TIME_MAX, memory: MEMORY_MAX };
        let error = compiler.compile(b"", Path::new("/dev/null"), &Stop::default()).unwrap_err();
        assert!(error.starts_with("cannot start the compiler /nonexistent: "), "{error}");
    }
}
