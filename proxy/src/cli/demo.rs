//! `lacis demo`: a whole mesh on this machine.

use super::{Failure, Outcome};
use crate::demo;

/// Run a whole mesh on this machine: two services, two sidecars, an HTTP/3 link, filters, and live traffic.
///
/// Shows a table that updates, until Ctrl-C. Everything that it starts ends with it. Exit code 1 if the mesh did not do
/// what it was to show.
#[derive(Debug, clap::Args)]
pub struct Demo {
    /// End after so many requests, with a summary. They are made as fast as possible, else about 150 a second.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub requests: Option<u64>,
    /// Make a directory, and remove it when standard input closes: for the demo itself.
    #[arg(long, hide = true, conflicts_with = "requests")]
    keep_directory: bool,
}

impl Demo {
    /// Runs the command.
    pub(super) fn execute(self) -> Outcome {
        if self.keep_directory {
            return demo::keep_directory().map_err(|error| Failure::Input(error.to_string()));
        }
        demo::run(self.requests).map_err(Failure::Input)
    }
}
