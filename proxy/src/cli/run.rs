//! `lacis run`: the sidecar.

use std::path::PathBuf;
use std::{io, process, thread};

use super::{Failure, Outcome};
use crate::app;
use crate::control::reload::Source;

/// Run the sidecar.
///
/// The file, filter modules and certificates are taken up when they change; what is wrong changes nothing. SIGHUP does so
/// at once, and opens the access log again; SIGTERM drains and ends, a second one ends at once.
#[derive(Debug, clap::Args)]
pub struct Run {
    /// The config file.
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,
    /// End at once when standard input closes: for a parent that this process must not outlive.
    #[arg(long, hide = true)]
    until_stdin_closes: bool,
}

impl Run {
    /// Runs the command.
    pub(super) fn execute(self) -> Outcome {
        let (source, config) = Source::open(&self.config).map_err(|problems| {
            let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
            Failure::Input(lines.join("\n"))
        })?;
        if self.until_stdin_closes {
            let parent = thread::Builder::new().name("parent".into());
            parent.spawn(end_without_parent).map_err(|error| Failure::Input(format!("cannot start: {error}")))?;
        }
        app::run(source, config, |_| {}).map_err(Failure::Input)
    }
}

/// The kernel closes a pipe when the process at its other end is gone, however that ended; a signal on its death would
/// be lost if it died before it was asked for.
fn end_without_parent() {
    let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
    process::exit(0);
}
