//! `lacis schema`: the JSON Schema of the config.

use super::{Outcome, print};
use crate::config;

/// Print the JSON Schema of the config file, for editors.
#[derive(Debug, clap::Args)]
pub struct Schema {}

impl Schema {
    /// Runs the command.
    pub(super) fn execute(self) -> Outcome {
        print(&config::schema::text());
        Ok(())
    }
}
