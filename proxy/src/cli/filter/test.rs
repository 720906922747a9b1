//! `lacis filter test`: does a filter what its cases say?

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use lacis_host::Plugin;
use serde_json::{Value, json};

use super::check::problems;
use super::project::{Aim, Project};
use super::trial::{Given, Seen, Stage, Stop};
use crate::cli::{Failure, Outcome, Output, print};
use crate::config::{self, Problem, cases::Case, cases::Cases};
use crate::control::modules::Workshop;

/// Lines of a filter's log that are shown with a case that fails.
const LOGGED: usize = 5;

/// Run a filter's tests: the native ones of its language, then cases.yaml against its module.
///
/// In a filter's directory all of that is found there, and the module is built first. With MODULE and CASES, which may be
/// of any language, only these are used. A case gives a request, and what services answer; what comes of it is compared with
/// what it expects. `lacis schema --cases` describes such a file. Exit code 1 if a test fails.
#[derive(Debug, clap::Args)]
pub(super) struct Test {
    /// A module, or builtin:NAME; without it the one of this directory, built now.
    #[arg(requires = "cases")]
    module: Option<String>,
    /// The file of cases.
    cases: Option<PathBuf>,
    /// Only cases whose name has this text in it.
    #[arg(long, value_name = "TEXT")]
    case: Option<String>,
    /// How the result is written.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    output: Output,
}

impl Test {
    /// Runs the command.
    pub(super) fn execute(self) -> Outcome {
        let Test { module, cases, case, output } = self;
        let (module, cases) = match (module, cases) {
            (Some(module), Some(cases)) => (module, Some(cases)),
            _ => {
                let project = Project::find(Path::new("."))?;
                project.native_tests()?;
                let module = project.build(Aim::Ship)?;
                let cases = project.cases();
                if !cases.exists() {
                    tracing::warn!("there is no {}: nothing was tried with {}", cases.display(), module.display());
                    return Ok(());
                }
                (module.display().to_string(), Some(cases))
            }
        };
        let Some(path) = cases else { return Ok(()) };
        let cases = config::read_cases(&path).map_err(|problems| {
            let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
            Failure::Input(lines.join("\n"))
        })?;
        let plugin = Workshop::default().load(&module).map_err(Failure::Input)?.plugin;
        let results = run(&plugin, &cases, &path, case.as_deref());
        if results.is_empty() {
            return Err(Failure::Input(format!("no case of {} has this in its name", path.display())));
        }
        let failed = results.iter().filter(|result| !result.problems.is_empty()).count();
        print(&match output {
            Output::Text => text(&results, failed),
            Output::Json => format!("{:#}\n", object(&results, failed)),
        });
        if failed == 0 { Ok(()) } else { Err(Failure::Input(String::new())) }
    }
}

/// What came of one case.
struct Result {
    name: String,
    problems: Vec<Problem>,
    /// The end of the filter's log.
    log: Vec<String>,
}

/// Runs the cases that are asked for, and those that they continue.
fn run(plugin: &Plugin, cases: &Cases, path: &Path, only: Option<&str>) -> Vec<Result> {
    let mut results = Vec::new();
    let mut stage = None;
    for (number, case) in cases.cases.iter().enumerate() {
        let asked = |case: &Case| only.is_none_or(|text| case.name.contains(text));
        let continued = cases.cases[number + 1..].iter().take_while(|next| next.continues).any(asked);
        if !asked(case) && !continued {
            continue;
        }
        let seen = play(plugin, cases, case, &mut stage);
        if !asked(case) {
            continue;
        }
        let log = stage.as_ref().map_or_else(Vec::new, |stage: &Stage| {
            let world = stage.world.borrow();
            let lines = world.lines.iter().map(|(_, level, text)| format!("{}: {}", level.name(), text.trim_end()));
            lines.skip(world.lines.len().saturating_sub(LOGGED)).collect()
        });
        let problem = |(spot, why): (config::cases::Spot, String)| Problem {
            file: path.display().to_string(),
            line: spot.line,
            column: spot.column,
            path: format!("case {}", case.name),
            message: why,
        };
        let problems = problems(case, &seen, stage.as_ref()).into_iter().map(problem).collect();
        results.push(Result { name: case.name.clone(), problems, log });
    }
    results
}

/// Plays one case on a stage of its own, or on that of the case before it.
fn play(plugin: &Plugin, cases: &Cases, case: &Case, stage: &mut Option<Stage>) -> Seen {
    let given = Given { config: &case.config, now: case.now, shared_data: &case.shared_data, answers: &case.answers };
    let ended = |stop| Seen { end: Err(stop), request: None, response: None, properties: Vec::new() };
    match stage {
        Some(stage) if case.continues => stage.again(&given),
        None if case.continues => {
            return ended(Stop::Broken("nothing: the case that it continues has no filter that runs".into()));
        }
        _ => match Stage::new(plugin, &cases.subject, &given) {
            Ok(new) => *stage = Some(new),
            Err(stop) => {
                *stage = None;
                return ended(stop);
            }
        },
    }
    let Some(on) = stage else { return ended(Stop::Broken("no filter".into())) };
    for _ in 0..case.ticks {
        match on.tick() {
            Ok(true) => {}
            Ok(false) => return ended(Stop::Broken("no tick: the filter has no timer".into())),
            Err(stop) => return ended(stop),
        }
    }
    let mut seen = on.exchange(&case.request, &case.response, &case.properties);
    for _ in 1..case.repeat {
        if seen.end.is_err() {
            break;
        }
        seen = on.exchange(&case.request, &case.response, &case.properties);
    }
    seen
}

fn text(results: &[Result], failed: usize) -> String {
    let mut text = String::new();
    let mut add = |line: &str| {
        let written = writeln!(text, "{line}");
        debug_assert!(written.is_ok(), "a string takes everything");
    };
    for Result { name, problems, log } in results {
        if problems.is_empty() {
            add(&format!("ok    {name}"));
            continue;
        }
        add(&format!("FAIL  {name}"));
        problems.iter().for_each(|problem| add(&problem.to_string()));
        log.iter().for_each(|line| add(&format!("      it logged {line}")));
    }
    let plural = if results.len() == 1 { "" } else { "s" };
    add(&format!("{} case{plural}, {failed} failed", results.len()));
    text
}

fn object(results: &[Result], failed: usize) -> Value {
    let case = |Result { name, problems, log }: &Result| {
        let problem = |Problem { file, line, column, path: _, message }: &Problem| json!({ "file": file, "line": line, "column": column, "message": message });
        let problems: Vec<Value> = problems.iter().map(problem).collect();
        json!({ "name": name, "passed": problems.is_empty(), "problems": problems, "log": log })
    };
    let all: Vec<Value> = results.iter().map(case).collect();
    json!({ "passed": results.len() - failed, "failed": failed, "cases": all })
}
