//! `rbuild logs` and `rbuild why`: what earlier builds left behind.

use std::{fs::File, io::Write, process::ExitCode};

use clap::Args;

use crate::{
    build::{Report, StepReport, StepResult, chain},
    cli::{args::Cli, failure::Failure, services},
    store::{BuildDir, Store},
};

/// `rbuild logs`.
#[derive(Debug, Args, Clone)]
pub struct LogsArgs {
    /// Build (its id or a part of it; the newest when it is left out) and step (its number or a word of its name)
    #[arg(value_name = "[BUILD] [STEP]", num_args = 0..=2, add = clap_complete::engine::ArgValueCandidates::new(crate::cli::complete::builds))]
    pub words: Vec<String>,
    /// The report, as JSON
    #[arg(long)]
    pub json: bool,
    /// The builds there are
    #[arg(short, long)]
    pub list: bool,
}

/// `rbuild why`.
#[derive(Debug, Args, Clone)]
pub struct WhyArgs {
    /// Build (its id or a part of it; the newest when it is left out) and step (its number or a word of its name)
    #[arg(value_name = "[BUILD] [STEP]", num_args = 0..=2, add = clap_complete::engine::ArgValueCandidates::new(crate::cli::complete::builds))]
    pub words: Vec<String>,
}

/// Shows whole logs, unchanged.
pub fn logs(cli: &Cli, args: &LogsArgs) -> Result<ExitCode, Failure> {
    let store = services::open_store(cli)?;
    let mut out = std::io::stdout().lock();
    if args.list {
        for build in store.builds().map_err(|error| Failure::new(chain(&error)))? {
            let _ = writeln!(out, "{}  {}", build.id(), outcome(&build));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let (build, step) = find(&store, &args.words)?;
    if args.json {
        let bytes = build.report().map_err(|error| Failure::new(chain(&error)))?;
        let _ = out.write_all(&bytes.ok_or_else(|| unfinished(&build))?);
        return Ok(ExitCode::SUCCESS);
    }
    let report = report(&build)?;
    let steps = chosen(&report, step.as_deref())?;
    // One step alone is its output and nothing else.
    let has_titles = step.is_none() || steps.len() > 1;
    for step in steps {
        if step.log.is_none() {
            continue;
        }
        let path = build.step_log_path(step.step);
        let mut file = File::open(&path).map_err(|error| Failure::new(format!("cannot open {}: {error}", path.display())))?;
        if has_titles {
            let _ = writeln!(out, "#{} {}", step.step, step.name);
        }
        // A closed standard output ends nothing but the printing.
        let _ = std::io::copy(&mut file, &mut out);
    }
    Ok(ExitCode::SUCCESS)
}

/// Says of each step why it ran or that it didn't.
pub fn why(cli: &Cli, args: &WhyArgs) -> Result<ExitCode, Failure> {
    let store = services::open_store(cli)?;
    let (build, step) = find(&store, &args.words)?;
    let report = report(&build)?;
    let mut out = std::io::stdout().lock();
    for step in chosen(&report, step.as_deref())? {
        let _ = writeln!(out, "#{} {}: {}", step.step, step.name, verdict(step));
        for line in step.why.iter().flat_map(|why| why.lines()) {
            let _ = writeln!(out, "    {line}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn verdict(step: &StepReport) -> &'static str {
    match (step.result, &step.why) {
        (StepResult::Cached, _) => "cached",
        (StepResult::NotReached, _) => "not reached",
        (StepResult::Failed, _) => "ran and failed",
        (StepResult::Cancelled | StepResult::Running, _) => "was cut short",
        (StepResult::Done, Some(_)) => "ran",
        (StepResult::Done, None) => "done",
    }
}

fn outcome(build: &BuildDir) -> String {
    match report(build) {
        Err(_) => "no report: it runs, or was killed".to_owned(),
        Ok(report) => {
            let cached = report.steps.iter().filter(|step| step.result == StepResult::Cached).count();
            let end = report.error.map_or_else(|| "succeeded".to_owned(), |error| format!("failed: {error}"));
            let seconds = report.duration_ms as f64 / 1000.0;
            format!("{seconds:>8.2} s  {cached}/{} cached  {}  {end}", report.steps.len(), report.dockerfile)
        }
    }
}

/// One word is a step of the newest build if that has such a step, else a build.
pub fn find(store: &Store, words: &[String]) -> Result<(BuildDir, Option<String>), Failure> {
    let open =
        |text: &str| store.open_build(text).map_err(|error| Failure::new(chain(&error)).with_hint("`rbuild logs --list` shows them"));
    match words {
        [build, step, ..] => Ok((open(build)?, Some(step.clone()))),
        [] => Ok((newest(store)?, None)),
        [word] => {
            let build = newest(store)?;
            let is_step = report(&build).is_ok_and(|report| chosen(&report, Some(word)).is_ok());
            if is_step { Ok((build, Some(word.clone()))) } else { Ok((open(word)?, None)) }
        }
    }
}

/// The newest build that has ended.
fn newest(store: &Store) -> Result<BuildDir, Failure> {
    let builds = store.builds().map_err(|error| Failure::new(chain(&error)))?;
    let ended = builds.into_iter().find(|build| build.report().is_ok_and(|report| report.is_some()));
    ended.ok_or_else(|| Failure::new("the store has no build that has ended"))
}

pub fn report(build: &BuildDir) -> Result<Report, Failure> {
    let bytes = build.report().map_err(|error| Failure::new(chain(&error)))?.ok_or_else(|| unfinished(build))?;
    serde_json::from_slice(&bytes).map_err(|error| Failure::new(format!("cannot read the report of build {}: {error}", build.id())))
}

fn unfinished(build: &BuildDir) -> Failure {
    Failure::new(format!("build {} has no report: it runs, or was killed", build.id()))
}

/// All steps, the one of a number, or those whose name has the word.
fn chosen<'a>(report: &'a Report, step: Option<&str>) -> Result<Vec<&'a StepReport>, Failure> {
    let Some(text) = step else { return Ok(report.steps.iter().collect()) };
    let number = text.trim_start_matches('#').parse::<usize>().ok();
    let matches = |step: &&StepReport| number.map_or_else(|| step.name.contains(text), |number| step.step == number);
    let found: Vec<_> = report.steps.iter().filter(matches).collect();
    if found.is_empty() { Err(Failure::new(format!("build {} has no step {text}", report.id))) } else { Ok(found) }
}
