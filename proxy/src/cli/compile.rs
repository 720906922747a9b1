//! `lacis compile`: the compiler of filter modules, which `lacis run` starts in a process of its own.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::{process, thread};

use lacis_host::{Engine, Options};

use super::{Failure, Outcome};
use crate::control::modules::{self, MODULE_MAX, TIME_MAX};

/// What the compiler adds to its badness (`proc_pid_oom_score_adj(5)`): the kernel ends it first of all.
const OOM_SCORE: &str = "1000";

/// Compile a filter module for this version of lacis and this machine.
#[derive(Debug, clap::Args)]
pub struct Compile {
    /// Where the machine code goes; readable by this user only.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// The module; standard input unless given.
    module: Option<PathBuf>,
}

impl Compile {
    /// Runs the command.
    pub(super) fn execute(self) -> Outcome {
        // Where memory is short, not the sidecar, which serves requests meanwhile. One that cannot be told so is better than none.
        let _ = fs::write("/proc/self/oom_score_adj", OOM_SCORE);
        // Who started it stops it in time; unless that was killed, and then nobody else would.
        thread::spawn(|| {
            thread::sleep(TIME_MAX);
            process::exit(1);
        });
        let name = self.module.as_ref().map_or_else(|| "standard input".into(), |path| path.display().to_string());
        let code = match &self.module {
            Some(path) => File::open(path).and_then(|file| modules::module(&file, file.metadata()?.len())),
            None => modules::module(io::stdin().lock(), 0),
        };
        let code = code.map_err(|error| Failure::Input(format!("cannot read {name}: {error}")))?;
        if code.len() as u64 > MODULE_MAX {
            return Err(Failure::Input(format!("larger than the {} MiB that a module may have", MODULE_MAX >> 20)));
        }
        let engine = Engine::new(&Options::default()).map_err(|error| Failure::Input(error.to_string()))?;
        let artifact = engine.compile(&code).map_err(|error| Failure::Input(error.to_string()))?;
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.output);
        file.and_then(|mut file| file.write_all(&artifact))
            .map_err(|error| Failure::Input(format!("cannot write {}: {error}", self.output.display())))
    }
}
