//! `lacis demo`: a whole mesh on this machine.

use super::{Failure, Outcome};

/// Run a whole mesh on this machine: two services, two sidecars, an HTTP/3 link, filters, and live traffic.
///
/// Shows a table that updates, until Ctrl-C. Everything that it starts ends with it.
#[derive(Debug, clap::Args)]
pub struct Demo {
    /// End after so many requests, with a summary.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub requests: Option<u64>,
}

impl Demo {
    /// Runs the command.
    pub(super) fn execute(self) -> Outcome {
        let requests = self.requests.map_or_else(|| "live".into(), |n| n.to_string());
        Err(Failure::Input(format!("cannot make {requests} requests: this build has no demo yet")))
    }
}
