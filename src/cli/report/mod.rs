//! `rbuild report`: a build to look at, as a page that needs nothing else, as text, or as JSON.

mod text;
mod tree;

use std::{collections::BTreeMap, io::Write, path::PathBuf, process::ExitCode};

use clap::Args;
use serde::Serialize;

use self::tree::Node;
use crate::{
    build::{Report, StepReport, StepResult, chain},
    cli::{args::Cli, failure::Failure, history, services},
    export,
    oci::{Image, ImageConfig, Platform},
    store::Store,
};

/// The page; the data stands in it as JSON.
const PAGE: &str = include_str!("page.html");
const DATA: &str = "@DATA@";

/// `rbuild report`.
#[derive(Debug, Args, Clone)]
pub struct ReportArgs {
    /// Build: its id or a part of it [default: the newest]
    #[arg(add = clap_complete::engine::ArgValueCandidates::new(crate::cli::complete::builds))]
    pub build: Option<String>,
    /// Write a page for a browser to FILE (`-`: standard output)
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// All that is shown.
#[derive(Debug, Serialize)]
struct Shown {
    report: Report,
    /// Steps of the critical path, the first first.
    critical: Vec<usize>,
    /// The step at its end whose layer was still being packed when all steps were over.
    critical_pack: Option<usize>,
    /// How long the build would have taken with any number of workers.
    critical_ms: u64,
    /// Why steps ran, in words.
    why: BTreeMap<usize, Vec<String>>,
    /// Bottom first, platform after platform.
    layers: Vec<ShownLayer>,
}

#[derive(Debug, Serialize)]
struct ShownLayer {
    platform: String,
    digest: String,
    by: String,
    size_bytes: u64,
    in_store: bool,
    file_bytes: u64,
    wasted_bytes: u64,
    tree: Vec<Node>,
}

/// Shows a build.
pub fn report(cli: &Cli, args: &ReportArgs) -> Result<ExitCode, Failure> {
    let store = services::open_store(cli)?;
    let words: Vec<String> = args.build.iter().cloned().collect();
    let (build, step) = history::find(&store, &words)?;
    if let Some(step) = step {
        return Err(Failure::usage(format!("{step} is a step; a report is of a whole build")).with_hint(format!("`rbuild why {step}`")));
    }
    let report = history::report(&build)?;
    let path = critical_path(&report.steps);
    let packed = path.last().copied().filter(|step| packed_ms(step) > end_ms(step));
    let shown = Shown {
        critical: path.iter().map(|step| step.step).collect(),
        critical_pack: packed.map(|step| step.step),
        critical_ms: critical_ms(&path, packed),
        why: report.steps.iter().filter_map(|step| Some((step.step, step.why.as_ref()?.lines()))).collect(),
        layers: layers(&store, &report)?,
        report,
    };
    let json = || serde_json::to_string(&shown).expect("plain data has a JSON form");
    if let Some(path) = &args.html {
        // No text of a build can end the element that it stands in.
        let page = PAGE.replacen(DATA, &json().replace('<', "\\u003c"), 1);
        if path.as_os_str() == "-" {
            let _ = std::io::stdout().write_all(page.as_bytes());
        } else {
            std::fs::write(path, page).map_err(|error| Failure::new(format!("cannot write {}: {error}", path.display())))?;
            eprintln!("{}", path.display());
        }
        return Ok(ExitCode::SUCCESS);
    }
    let text = if args.json { json() + "\n" } else { text::text(&shown) };
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(ExitCode::SUCCESS)
}

/// When nothing of a step was left to do.
fn end_ms(step: &StepReport) -> u64 {
    let pulled = step.transfers.iter().map(|transfer| transfer.ended_ms).max().unwrap_or(0);
    (step.started_ms + step.duration_ms).max(pulled)
}

/// When its layer was packed too, which no other step waits for, but the image does.
fn packed_ms(step: &StepReport) -> u64 {
    step.pack_started_ms.map_or(0, |began| began + step.pack_ms).max(end_ms(step))
}

/// When something of a step began, the pull of its base included.
fn began_ms(step: &StepReport) -> u64 {
    step.transfers.iter().map(|transfer| transfer.started_ms).chain([step.started_ms]).min().unwrap_or(0)
}

/// How long a step kept those that need it waiting.
fn worked_ms(step: &StepReport) -> u64 {
    end_ms(step).saturating_sub(began_ms(step))
}

/// The time that a path covers, and the packing after it: what two steps did at once (one prepares while its input ends)
/// counts once.
fn critical_ms(path: &[&StepReport], packed: Option<&StepReport>) -> u64 {
    let (mut spent, mut covered) = (0, 0);
    for step in path {
        let (began, end) = (began_ms(step).max(covered), end_ms(step).max(covered));
        spent += end.saturating_sub(began);
        covered = end;
    }
    spent + packed.map_or(0, |step| packed_ms(step) - end_ms(step))
}

/// The chain of steps that ended last: each waited for the one before it longer than for any other.
fn critical_path(steps: &[StepReport]) -> Vec<&StepReport> {
    let worked = |step: &&StepReport| matches!(step.result, StepResult::Done | StepResult::Failed);
    let by_number: BTreeMap<usize, &StepReport> = steps.iter().map(|step| (step.step, step)).collect();
    let mut path = Vec::new();
    let mut next = steps.iter().filter(worked).max_by_key(|step| packed_ms(step));
    while let Some(step) = next {
        path.push(step);
        let inputs = step.inputs.iter().filter(|number| **number < step.step).filter_map(|number| by_number.get(number).copied());
        next = inputs.filter(worked).max_by_key(|input| end_ms(input));
    }
    path.reverse();
    // What took no time is on the way and explains nothing.
    path.retain(|step| worked_ms(step) > 0);
    path
}

fn layers(store: &Store, report: &Report) -> Result<Vec<ShownLayer>, Failure> {
    let mut list = Vec::new();
    for result in &report.results {
        let image = Image {
            platform: Platform::host(),
            config: ImageConfig::default(),
            layers: result.layers.iter().map(|layer| layer.layer.clone()).collect(),
        };
        let listing = export::list(store, &image, false).map_err(|error| Failure::new(chain(&error)))?;
        let trees = tree::trees(&listing);
        for ((layer, facts), tree) in result.layers.iter().zip(&listing.layers).zip(trees) {
            let by = made_by(&layer.created_by);
            list.push(ShownLayer {
                platform: result.platform.clone(),
                digest: layer.layer.descriptor.digest.to_string(),
                by: if report.results.len() > 1 { format!("{}: {by}", result.platform) } else { by },
                size_bytes: layer.layer.descriptor.size,
                in_store: facts.is_here,
                file_bytes: facts.file_bytes,
                wasted_bytes: facts.wasted_bytes,
                tree,
            });
        }
    }
    Ok(list)
}

/// As the Dockerfile has it.
fn made_by(created_by: &str) -> String {
    let words = created_by.split_whitespace().collect::<Vec<_>>().join(" ");
    let text = words.strip_suffix(" # buildkit").unwrap_or(&words);
    match text.strip_prefix("RUN /bin/sh -c ") {
        Some(command) => format!("RUN {command}"),
        None if text.is_empty() => "base image".to_owned(),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(number: usize, inputs: &[usize], started_ms: u64, duration_ms: u64) -> StepReport {
        StepReport {
            step: number,
            inputs: inputs.to_vec(),
            started_ms,
            duration_ms,
            result: StepResult::Done,
            name: format!("RUN step {number}"),
            ..StepReport::default()
        }
    }

    #[test]
    fn the_critical_path_is_the_chain_that_ended_last() {
        let cached = StepReport { result: StepResult::Cached, duration_ms: 0, ..step(1, &[], 0, 0) };
        let steps = [cached, step(2, &[1], 10, 100), step(3, &[1], 10, 500), step(4, &[2, 3], 510, 50), step(5, &[2], 110, 20)];
        let numbers: Vec<usize> = critical_path(&steps).iter().map(|step| step.step).collect();
        assert_eq!(numbers, [3, 4]);
    }

    #[test]
    fn a_layer_that_is_packed_last_ends_the_critical_path() {
        let packed = StepReport { pack_started_ms: Some(100), pack_ms: 900, ..step(1, &[], 0, 100) };
        let steps = [packed, step(2, &[1], 100, 50)];
        let path: Vec<usize> = critical_path(&steps).iter().map(|step| step.step).collect();
        assert_eq!((path, packed_ms(&steps[0])), (vec![1], 1000));
    }

    #[test]
    fn time_that_two_steps_share_counts_once_and_waiting_counts_not_at_all() {
        let steps = [step(1, &[], 0, 100), step(2, &[1], 60, 100), step(3, &[2], 200, 50)];
        let path: Vec<&StepReport> = steps.iter().collect();
        assert_eq!(critical_ms(&path, None), 210);
        let packed = StepReport { pack_started_ms: Some(250), pack_ms: 30, ..step(3, &[2], 200, 50) };
        assert_eq!(critical_ms(&path, Some(&packed)), 240);
    }

    #[test]
    fn layers_are_named_as_in_the_dockerfile() {
        assert_eq!(made_by("RUN /bin/sh -c make  all # buildkit"), "RUN make all");
        assert_eq!(made_by("RUN |1 A=b /bin/sh -c make # buildkit"), "RUN |1 A=b /bin/sh -c make");
        assert_eq!([made_by("COPY a / # buildkit"), made_by("")], ["COPY a /", "base image"]);
    }

    #[test]
    fn the_page_has_one_place_for_the_data_and_loads_nothing() {
        assert_eq!(PAGE.matches(DATA).count(), 1);
        assert!(!PAGE.contains("http://") && !PAGE.contains("https://") && !PAGE.contains("src=\""));
    }
}
