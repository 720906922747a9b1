//! `lacis schema`: the JSON Schemas of the files that people write.

use super::{Outcome, print};
use crate::config;

/// Print the JSON Schema of the config file, for editors.
#[derive(Debug, clap::Args)]
pub struct Schema {
    /// Print that of the cases of a filter instead, which `lacis filter test` runs.
    #[arg(long)]
    cases: bool,
}

impl Schema {
    /// Runs the command.
    pub(super) fn execute(self) -> Outcome {
        print(&if self.cases { config::schema::cases() } else { config::schema::text() });
        Ok(())
    }
}
