//! `lacis run`: the sidecar.

use std::path::PathBuf;

use super::{Failure, Outcome};
use crate::{app, config};

/// Run the sidecar.
///
/// Certificates are taken up when they change. SIGHUP opens the access log again; SIGTERM drains and ends, a second one
/// ends at once.
#[derive(Debug, clap::Args)]
pub struct Run {
    /// The config file.
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,
}

impl Run {
    /// Runs the command.
    pub(super) fn execute(self) -> Outcome {
        let (config, warnings) = config::load(&self.config).map_err(|problems| {
            let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
            Failure::Input(lines.join("\n"))
        })?;
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        app::run(config).map_err(Failure::Input)
    }
}
