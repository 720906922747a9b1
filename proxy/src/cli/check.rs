//! `lacis check`: is this config valid?

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Failure, Outcome, Output, print};
use crate::config::{self, Config, Problem, Warning};
use crate::control::modules::{Refusal, Stop, Workshop};
use crate::telemetry::access;
use crate::tls::{self, IdentityError, TlsSettings};

/// Tell every problem of a config file, as file:line:column: what is wrong, and what would be right.
///
/// The files of the identity are read, and filters that a listener names are fetched, compiled, started and configured once, as
/// `run` does it. Exit code 1 if there is a problem. Warnings are told too, and are no problems; so are files of the identity that
/// cannot be read here, and an access log for which there is no directory here, or which may not be written.
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
        let (summary, warnings, problems) = match config::load(&self.config) {
            Ok((config, mut warnings)) => {
                let mut problems = self.filters(&config);
                for (problem, certain) in self.access_log(&config).into_iter().chain(self.identity(&config)) {
                    if certain {
                        problems.insert(0, problem);
                    } else {
                        warnings.push(Warning(problem));
                    }
                }
                (summary(&config), warnings, problems)
            }
            Err(problems) => (String::new(), Vec::new(), problems),
        };
        let valid = problems.is_empty();
        print(&match self.output {
            Output::Text => {
                let mut text = lines(&problems) + &lines(&warnings);
                if valid {
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

    /// What shows only when filters are started.
    fn filters(&self, config: &Config) -> Vec<Problem> {
        let problem = |Refusal { filter, why }: Refusal| match &*filter {
            "" => self.problem(&["filters"], why),
            filter => self.problem(&["filters", filter], why),
        };
        Workshop::default()
            .prepare(config, &Stop::default())
            .err()
            .unwrap_or_default()
            .into_iter()
            .map(problem)
            .collect()
    }

    /// What is wrong with the files of the identity, and whether that would be so elsewhere: the place where a config is checked
    /// may have no keys, of which the config has warned already, or none that may be read.
    fn identity(&self, config: &Config) -> Option<(Problem, bool)> {
        let files = config.identity.as_ref()?;
        let error = TlsSettings::load(files, &config.node.spiffe).err()?;
        let IdentityError { file, problem } = &error;
        let key = match file {
            file if *file == files.certificate => "certificate",
            file if *file == files.private_key => "private_key",
            _ => "trust_bundle",
        };
        let certain = match problem {
            tls::Problem::Unreadable(error) if error.kind() == ErrorKind::NotFound => return None,
            tls::Problem::Unreadable(_) => false,
            _ => true,
        };
        Some((self.problem(&["identity", key], error.to_string()), certain))
    }

    /// What keeps the access log from being opened, and whether that would be so elsewhere, as another user.
    fn access_log(&self, config: &Config) -> Option<(Problem, bool)> {
        let path = &config.access_log.as_ref()?.path;
        let error = access::check(path).err()?;
        let (certain, right) = match error.kind() {
            ErrorKind::NotFound => (false, "; its directory is not made by `lacis run`"),
            ErrorKind::PermissionDenied => (false, ""),
            _ => (true, "; write the path of a file, /dev/stdout or /dev/stderr"),
        };
        let message = format!("{} cannot be opened: {error}{right}", path.display());
        Some((self.problem(&["telemetry", "access_log", "path"], message), certain))
    }

    /// One at the value of a key.
    fn problem(&self, keys: &[&str], message: String) -> Problem {
        let (line, column) = config::locate(&self.config, keys).unwrap_or_default();
        Problem { file: self.config.display().to_string(), line, column, path: keys.join("."), message }
    }
}

/// One line about what a config has.
fn summary(config: &Config) -> String {
    let Config {
        node,
        identity: _,
        outbound,
        inbound,
        services,
        filters,
        admin,
        access_log: _,
        why: _,
        workers,
        routes,
        overload: _,
    } = config;
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
    let rules: usize = routes.iter().map(|route| route.rules.len()).sum();
    for (count, word) in [(services.len(), "service"), (rules, "rule"), (filters.len(), "filter"), (*workers, "worker")]
    {
        if (count, word) == (0, "rule") {
            continue;
        }
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
