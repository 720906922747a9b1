//! The command line. Logs go to standard error, data to standard output.

pub mod cert;
pub mod check;
pub mod compile;
pub mod demo;
pub mod filter;
pub mod run;
pub mod schema;
pub mod why;

use std::ffi::OsString;
use std::io::{ErrorKind, Write as _};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::OnceLock;

use clap::{Parser, Subcommand, ValueEnum};

use crate::telemetry::log;

/// How a command can end other than well.
#[derive(Debug)]
pub enum Failure {
    /// What the user gave is wrong: exit code 1. Says what, where, and what would be right; empty if that was said.
    Input(String),
    /// A defect of ours: exit code 70 (`EX_SOFTWARE` of sysexits.h).
    Defect(String),
}

/// Result of a command.
pub type Outcome = Result<(), Failure>;

/// How a command writes its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

const INPUT: u8 = 1;
const USAGE: u8 = 2;
const DEFECT: u8 = 70;

/// A service-mesh sidecar that is programmed in WebAssembly.
#[derive(Debug, Parser)]
#[command(
    name = "lacis",
    version,
    after_help = "Exit codes: 0 fine, 1 the input is wrong, 2 the command line is wrong, 70 a defect of lacis."
)]
struct Arguments {
    /// What is logged: a level for everything, then levels for targets, such as info,filter=debug.
    ///
    /// Levels: trace, debug, info, warn, error, critical, off. The target of what filters log is `filter`.
    #[arg(long, global = true, value_name = "LEVELS", default_value = log::DEFAULT_LEVELS, value_parser = levels)]
    log_level: String,
    /// How a line of the log is written.
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    log_format: log::Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Run),
    Check(check::Check),
    Schema(schema::Schema),
    Cert(cert::Cert),
    Demo(demo::Demo),
    Filter(filter::Filter),
    Why(why::Why),
    #[command(hide = true)]
    Compile(compile::Compile),
}

/// The whole program: from arguments, the program's name first, to its exit code.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(said) => {
            // Help and version were asked for: data. A closed output is no reason to fail.
            let _ = said.print();
            return if said.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    if let Err(why) = log::start(&arguments.log_level, arguments.log_format) {
        return exit(Err(Failure::Defect(why)));
    }
    report_panics();
    exit(catch_unwind(AssertUnwindSafe(|| arguments.command.execute())).unwrap_or_else(|_| {
        // The hook has told the rest.
        Err(Failure::Defect("stopped by a defect".into()))
    }))
}

impl Command {
    fn execute(self) -> Outcome {
        match self {
            Command::Run(run) => run.execute(),
            Command::Check(check) => check.execute(),
            Command::Schema(schema) => schema.execute(),
            Command::Cert(cert) => cert.execute(),
            Command::Demo(demo) => demo.execute(),
            Command::Filter(filter) => filter.execute(),
            Command::Why(why) => why.execute(),
            Command::Compile(compile) => compile.execute(),
        }
    }
}

/// Why data could not be written, if it could not: what is in a file then looks whole.
static LOST: OnceLock<String> = OnceLock::new();

/// Writes data to standard output. That nobody reads it any more (`lacis schema | head`) is no failure.
pub(crate) fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => drop(LOST.set(error.to_string())),
        _ => {}
    }
}

fn exit(outcome: Outcome) -> ExitCode {
    // What was said before comes before.
    log::flush();
    let lost = LOST.get().map_or(Ok(()), |why| Err(Failure::Input(format!("cannot write to standard output: {why}"))));
    let (code, message) = match outcome.and(lost) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Input(message)) => (INPUT, message),
        Err(Failure::Defect(message)) => (DEFECT, format!("{message} (a defect of lacis; please report it)")),
    };
    if !message.is_empty() {
        let _ = writeln!(std::io::stderr(), "lacis: {message}");
    }
    ExitCode::from(code)
}

/// Panics become lines of the log; what they do to their thread stays as it is.
fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let what = panic.payload_as_str().unwrap_or("no message");
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(critical = true, place, %backtrace, "panic: {what}");
    }));
}

/// An address as an argument. What the standard library says of others does not say what would be right.
fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "write an IP address and a port such as 127.0.0.1:8080".to_owned())
}

fn levels(text: &str) -> Result<String, String> {
    log::directives(text).map(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn arguments_are_consistent() {
        super::Arguments::command().debug_assert();
    }
}
