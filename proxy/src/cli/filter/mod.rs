//! `lacis filter`: make, build, test, look into and try out a filter.

mod check;
mod echo;
mod inspect;
mod measure;
mod new;
mod project;
mod run;
mod test;
mod trial;

use super::Outcome;

/// Make a filter, build and test it, see what it does and costs, and try it out.
#[derive(Debug, clap::Args)]
pub struct Filter {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    New(new::New),
    Build(project::Build),
    Test(test::Test),
    Inspect(inspect::Inspect),
    Run(run::Run),
}

impl Filter {
    /// Runs the command.
    pub(super) fn execute(self) -> Outcome {
        match self.command {
            Command::New(new) => new.execute(),
            Command::Build(build) => build.execute(),
            Command::Test(test) => test.execute(),
            Command::Inspect(inspect) => inspect.execute(),
            Command::Run(run) => run.execute(),
        }
    }
}
