//! `rbuild plan`: the graph of a build before it is built, as text, JSON, a picture (SVG) or for Graphviz.

mod dot;
mod layout;
mod svg;
mod text;

use std::{io::Write, process::ExitCode, sync::Arc};

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::{
    build::{self, Forecast, Progress, Prospect, Request},
    cli::{
        args::{BuildArgs, Cli},
        build::wanted,
        contexts, environment,
        failure::Failure,
        progress::{Place, Reporter},
        request, services,
    },
    dockerfile::{position::line_of, redact::redact_url},
    plan::{Input, MountKind, Op, SourceFrom, Vertex},
};

/// `rbuild plan`.
#[derive(Debug, Args, Clone)]
pub struct PlanArgs {
    /// What is printed
    #[arg(long, value_name = "text|json|svg|dot", default_value = "text")]
    pub format: Format,
    /// As for `rbuild build`
    #[command(flatten)]
    pub build: BuildArgs,
}

/// What is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For a terminal.
    Text,
    /// For a program.
    Json,
    /// For a browser.
    Svg,
    /// For Graphviz.
    Dot,
}

/// The graph of one platform as it is shown.
#[derive(Debug, Clone, Serialize)]
pub struct Graph {
    /// The Dockerfile as it was named.
    pub dockerfile: String,
    /// The stage that is built.
    pub target: String,
    /// For which platform.
    pub platform: String,
    /// In the order of the file.
    pub stages: Vec<Stage>,
    /// In an order in which they could be done.
    pub steps: Vec<Step>,
}

/// A stage.
#[derive(Debug, Clone, Serialize)]
pub struct Stage {
    /// Its name, or `stage-N`.
    pub name: String,
    /// What stands behind FROM.
    pub base: String,
    /// The FROM's line.
    pub line: usize,
    /// Whether the target needs it.
    pub needed: bool,
    /// Whether it is the target.
    pub target: bool,
    /// Names of the stages that it needs itself.
    pub needs: Vec<String>,
    /// Its instructions without FROM.
    pub instructions: usize,
}

/// A step: an instruction that makes a layer, or a base image.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    /// Its number in the build's output.
    pub step: usize,
    /// Its stage's name.
    pub stage: String,
    /// In one line.
    pub text: String,
    /// Where the Dockerfile says it.
    pub line: usize,
    /// The step whose root filesystem it starts from.
    pub parent: Option<usize>,
    /// Other steps whose files it takes.
    pub takes_from: Vec<usize>,
    /// Contexts whose files it takes; the main one is `context`.
    pub contexts: Vec<String>,
    /// What becomes of it.
    pub state: Prospect,
}

/// Prints the graph.
pub fn plan(cli: &Cli, args: &PlanArgs) -> Result<ExitCode, Failure> {
    let policy = wanted(&args.build)?.first_form()?.policy;
    let mut request = request::request(&args.build, policy)?;
    let entered = services::enter(cli)?;
    let options = environment::source_options(args.build.offline, &request.ssh, contexts::is_by_ssh(&args.build))?;
    let services = services::services(cli, &entered, options)?;
    let place = Place::here();
    // Only what has to be pulled is shown.
    let mode = place.mode(&args.build.progress).ok_or_else(|| Failure::usage(format!("--progress {} is unknown", args.build.progress)))?;
    let reporter = Reporter::new(mode, place);
    let runtime = services::runtime()?;
    let graphs = services::drive(runtime, &services, async {
        let _fetched = contexts::fetch(&args.build, &request::remote_contexts(&args.build), &mut request, &services).await?;
        let progress: Arc<dyn Progress> = reporter.clone();
        let forecasts = build::forecast(&request, &services, &progress).await;
        let forecasts =
            forecasts.map_err(|error| Failure::in_dockerfile(&request.dockerfile_name, &request.dockerfile, &error.diagnostic()))?;
        Ok(forecasts.iter().map(|forecast| graph(forecast, &request)).collect::<Vec<_>>())
    });
    reporter.stop();
    let graphs = graphs?;
    let text = match args.format {
        Format::Text => text::text(&graphs),
        Format::Json => serde_json::to_string_pretty(&graphs).expect("plain data has a JSON form") + "\n",
        Format::Svg => svg::svg(&graphs),
        Format::Dot => graphs.iter().map(dot::dot).collect(),
    };
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(ExitCode::SUCCESS)
}

fn graph(forecast: &Forecast, request: &Request) -> Graph {
    let Forecast { plan, stages, prospects } = forecast;
    let line = |offset: usize| line_of(&request.dockerfile, offset);
    let shown = |name: &str| if name.is_empty() { "stage-0".to_owned() } else { name.to_owned() };
    let list = stages.iter().map(|stage| Stage {
        name: shown(&stage.name),
        base: stage.base.clone(),
        line: line(stage.span.start),
        needed: stage.is_needed,
        target: stage.is_target,
        needs: stage.needs.iter().map(|index| shown(&stages[*index].name)).collect(),
        instructions: stage.instructions,
    });
    let steps = plan.vertices.iter().zip(prospects).enumerate().map(|(index, (vertex, prospect))| Step {
        step: index + 1,
        stage: shown(&vertex.stage),
        text: instruction(&vertex.name),
        line: line(vertex.span.start),
        parent: vertex.parent.map(|id| id.0 + 1),
        takes_from: vertex.inputs().into_iter().filter(|id| Some(*id) != vertex.parent).map(|id| id.0 + 1).collect(),
        contexts: contexts_of(vertex),
        state: *prospect,
    });
    Graph {
        dockerfile: request.dockerfile_name.clone(),
        target: stages.iter().find(|stage| stage.is_target).map(|stage| shown(&stage.name)).unwrap_or_default(),
        platform: plan.target.platform.to_string(),
        stages: list.collect(),
        steps: steps.collect(),
    }
}

/// `RUN make` of `[builder 2/5] RUN make`, in one line.
fn instruction(name: &str) -> String {
    let text = match name.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
        Some((_, text)) => text,
        None => name,
    };
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.strip_prefix("FROM ") {
        Some(image) => format!("FROM {}", shortened(image)),
        None => text,
    }
}

/// An image as people write it: without Docker's own registry, of a digest the beginning.
fn shortened(image: &str) -> String {
    let name = image.strip_prefix("docker.io/").unwrap_or(image);
    let name = name.strip_prefix("library/").unwrap_or(name);
    match name.split_once("@sha256:") {
        Some((name, digest)) if digest.len() > 12 => format!("{name}@sha256:{}…", &digest[..12]),
        _ => name.to_owned(),
    }
}

fn contexts_of(vertex: &Vertex) -> Vec<String> {
    let named = |input: &Input| match input {
        Input::Context(name) if name.is_empty() => Some("context".to_owned()),
        Input::Context(name) => Some(name.clone()),
        Input::Vertex(_) => None,
    };
    let mut list: Vec<String> = match &vertex.op {
        Op::Image(_) | Op::Workdir(_) => Vec::new(),
        Op::Copy(copy) => {
            let from = copy.sources.iter().filter_map(|source| match &source.from {
                SourceFrom::Input(input) => named(input),
                SourceFrom::Url { url, .. } => Some(redact_url(url).into_owned()),
                SourceFrom::Git { reference, .. } => Some(redact_url(reference).into_owned()),
                SourceFrom::Inline { .. } => None,
            });
            from.collect()
        }
        Op::Run(run) => {
            let from = run.mounts.iter().filter_map(|mount| match &mount.kind {
                MountKind::Bind { from, .. } | MountKind::Cache { from: Some(from), .. } => named(from),
                _ => None,
            });
            from.collect()
        }
    };
    list.sort();
    list.dedup();
    list
}

impl Graph {
    /// The steps of a stage, in order.
    fn steps_of<'a>(&'a self, stage: &'a Stage) -> impl Iterator<Item = &'a Step> {
        self.steps.iter().filter(|step| step.stage == stage.name)
    }

    /// `7 steps: 4 cached, 2 run, 1 open`; base images are no work.
    fn summary(&self) -> String {
        let count = |state: Prospect| self.steps.iter().filter(|step| step.state == state).count();
        let work = self.steps.len() - count(Prospect::Base);
        let states = [(Prospect::Cached, "cached"), (Prospect::Runs, "to run"), (Prospect::Open, "open")];
        let parts = states.map(|(state, word)| (count(state), word)).into_iter().filter(|(count, _)| *count > 0);
        let parts: Vec<String> = parts.map(|(count, word)| format!("{count} {word}")).collect();
        let steps = if work == 1 { "1 step".to_owned() } else { format!("{work} steps") };
        if parts.is_empty() { steps } else { format!("{steps}: {}", parts.join(", ")) }
    }
}

impl Stage {
    /// `line 3, 1 instruction`.
    fn place(&self) -> String {
        format!("line {}, {} instruction{}", self.line, self.instructions, if self.instructions == 1 { "" } else { "s" })
    }
}

/// The word for what becomes of a step.
fn word(state: Prospect) -> &'static str {
    match state {
        Prospect::Base => "base",
        Prospect::Cached => "cached",
        Prospect::Runs => "runs",
        Prospect::Open => "open",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A graph of two stages, a third that is not needed.
    pub fn example() -> Graph {
        let stage = |name: &str, needed, target, needs: &[&str], line| Stage {
            name: name.into(),
            base: "alpine".into(),
            line,
            needed,
            target,
            needs: needs.iter().map(|name| (*name).to_owned()).collect(),
            instructions: 1,
        };
        let step = |step, stage: &str, text: &str, parent, takes_from: &[usize], state| Step {
            step,
            stage: stage.into(),
            text: text.into(),
            line: step,
            parent,
            takes_from: takes_from.to_vec(),
            contexts: Vec::new(),
            state,
        };
        Graph {
            dockerfile: "Dockerfile".into(),
            target: "app".into(),
            platform: "linux/amd64".into(),
            stages: vec![
                stage("builder", true, false, &[], 1),
                stage("test", false, false, &["builder"], 3),
                stage("app", true, true, &["builder"], 5),
            ],
            steps: vec![
                step(1, "builder", "FROM alpine", None, &[], Prospect::Base),
                step(2, "builder", "RUN make \"<all>\"", Some(1), &[], Prospect::Runs),
                step(3, "app", "COPY --from=builder /a /a", None, &[2], Prospect::Open),
            ],
        }
    }

    #[test]
    fn names_lose_their_place_and_their_lines() {
        assert_eq!(instruction("[builder 2/5] RUN a &&   b\n"), "RUN a && b");
        assert_eq!(instruction("[[x] y"), "y");
        assert_eq!(instruction("plain"), "plain");
        assert_eq!(instruction("[1/2] FROM docker.io/library/a:1@sha256:0123456789abcdef"), "FROM a:1@sha256:0123456789ab…");
    }

    #[test]
    fn the_summary_counts_work_only() {
        assert_eq!(example().summary(), "2 steps: 1 to run, 1 open");
    }
}
