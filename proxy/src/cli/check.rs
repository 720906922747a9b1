//! `lacis check`: is this config valid?

use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Failure, Outcome, Output, print};
use crate::config::{self, Config, Problem, Warning};

/// Tell every problem of a config file, as file:line:column: what is wrong, and what would be right.
///
/// Exit code 1 if there is one. Warnings are told too, and are no problems.
#[derive(Debug, clap::Args)]
pub struct Check {
    /// The config file.
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// How the result is written.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    output: Output,
}

impl Check {
    /// Runs the command.
    pub(super) fn execute(self) -> Outcome {
        let outcome = config::load(&self.config);
        let valid = outcome.is_ok();
        let (summary, warnings, problems) = match outcome {
            Ok((config, warnings)) => (Some(summary(&config)), warnings, Vec::new()),
            Err(problems) => (None, Vec::new(), problems),
        };
        print(&match self.output {
            Output::Text => {
                let mut text = lines(&problems) + &lines(&warnings);
                if let Some(summary) = summary {
                    text = format!("{text}{}: fine: {summary}\n", self.config.display());
                }
                text
            }
            Output::Json => {
                let warnings: Vec<Value> = warnings.iter().map(|Warning(warning)| object(warning)).collect();
                let problems: Vec<Value> = problems.iter().map(object).collect();
                format!("{:#}\n", json!({ "valid": valid, "problems": problems, "warnings": warnings }))
            }
        });
        if valid { Ok(()) } else { Err(Failure::Input(String::new())) }
    }
}

/// One line about what a config has.
fn summary(config: &Config) -> String {
    let Config { node, identity: _, outbound, inbound, services, filters, admin, access_log: _, workers } = config;
    let mut text = node.spiffe.to_string();
    let mut add = |item: String| {
        let written = write!(text, ", {item}");
        debug_assert!(written.is_ok(), "a string takes everything");
    };
    if let Some(outbound) = outbound {
        add(format!("outbound {}", outbound.listen));
    }
    if let Some(inbound) = inbound {
        add(format!("inbound {} to {}", inbound.listen, inbound.application));
    }
    if let Some(admin) = admin {
        add(format!("admin {admin}"));
    }
    for (count, word) in [(services.len(), "service"), (filters.len(), "filter"), (*workers, "worker")] {
        add(format!("{count} {word}{}", if count == 1 { "" } else { "s" }));
    }
    text
}

fn lines(items: &[impl std::fmt::Display]) -> String {
    items.iter().map(|item| format!("{item}\n")).collect()
}

fn object(problem: &Problem) -> Value {
    let Problem { file, line, column, path, message } = problem;
    json!({ "file": file, "line": line, "column": column, "path": path, "message": message })
}
