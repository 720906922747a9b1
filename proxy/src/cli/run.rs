//! `lacis run`: the sidecar.

use std::path::PathBuf;

use super::{Failure, Outcome};

/// Run the sidecar.
///
/// Reloads when the file, a module or a certificate changes, and on SIGHUP; SIGTERM drains and ends, a second one ends
/// at once.
#[derive(Debug, clap::Args)]
pub struct Run {
    /// The config file.
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,
}

impl Run {
    /// Runs the command.
    pub(super) fn execute(self) -> Outcome {
        Err(Failure::Input(format!("cannot run {}: this build has no sidecar yet", self.config.display())))
    }
}
