//! Lint with what only a build knows: base images, the platforms they came with, the context's names.
//! Unaware of how warnings are shown.

use std::{os::fd::AsFd, path::Path, sync::Arc};

use rustix::fs::FileType;

use crate::{
    build::{
        BuildError, Progress,
        bases::{self, ResolvedBases},
        request::{ContextSource, Request, Services},
    },
    dockerfile::{
        self, Diagnostic, Dockerfile, Environment,
        ignore::{IgnoreFile, Matcher},
        lint::{self, Report},
        suggest,
        tree::{InstructionKind, Source},
    },
    oci::{Platform, Reference},
    plan::{self, BaseSource, Bases, Options},
    sys::{
        root::RootDir,
        walk::{Decision, WalkError, walk},
    },
};

/// What tells on itself lies near the top; deeper and further a build does not look for it.
const MAX_DEPTH: usize = 4;
const MAX_NAMES: usize = 20_000;

/// Checks a Dockerfile without building it: all its stages, unless a target is named. What can't be resolved (a registry
/// that is away) only makes the check say less. An error of the file comes with the warnings before it.
pub async fn check(request: &Request, services: &Services, progress: &Arc<dyn Progress>) -> (Report, Option<BuildError>) {
    let dockerfile = match dockerfile::parse(&request.dockerfile) {
        Ok(dockerfile) => dockerfile,
        Err(_) => {
            let (report, error) = check_unparsed(request);
            return (report, error.map(BuildError::from));
        }
    };
    let mut report = Report::default();
    for options in &request.plans {
        let (mut known, error) = match bases::plan(&dockerfile, options, request, services, progress).await {
            Ok((_, known)) => (known, None),
            Err(error) => (ResolvedBases::new(), Some(error)),
        };
        if options.target.is_none() {
            bases::resolve_others(&dockerfile, options, &mut known, request, services, progress).await;
        }
        match with_bases(&dockerfile, options, request, &known, options.target.is_none()) {
            Ok(found) => merge(&mut report, found),
            Err(fault) => return (report, Some(fault.into())),
        }
        if let Some(error) = error.filter(|error| error.kind == super::Kind::Dockerfile) {
            return (report, Some(error));
        }
    }
    (report, None)
}

/// The warnings before the place where a text can't be read.
pub fn check_unparsed(request: &Request) -> (Report, Option<Diagnostic>) {
    let check = request.plans.first().and_then(|options| options.build_args.get("BUILDKIT_DOCKERFILE_CHECK"));
    lint::check_text(&request.dockerfile, &lint::Options { check: check.map(String::as_str), ..lint::Options::default() })
}

/// Each warning once, however many platforms have it.
pub(super) fn merge(report: &mut Report, more: Report) {
    report.fails |= more.fails;
    for warning in more.warnings {
        if !report.warnings.contains(&warning) {
            report.warnings.push(warning);
        }
    }
}

/// Lint of one platform's build.
pub(super) fn with_bases(
    dockerfile: &Dockerfile,
    options: &Options,
    request: &Request,
    known: &ResolvedBases,
    all_stages: bool,
) -> Result<Report, Diagnostic> {
    let ignore = ignore_file(&request.context);
    let matcher = ignore.as_ref().map(IgnoreFile::matcher);
    let names = if copies_context(dockerfile) { context_names(&request.context, matcher) } else { None };
    let bases: Bases = known.iter().map(|(key, found)| (key.clone(), found.base.clone())).collect();
    let lint_options = lint::Options {
        build_args: options.build_args.clone(),
        predefined_args: plan::predefined_args(dockerfile, options),
        target: options.target.as_deref(),
        all_stages,
        base: &|name| base(name, known),
        platform: &|text| text.parse::<Platform>().ok().map(|platform| (platform.os, platform.architecture)),
        is_reference: &|name| name == "scratch" || name.parse::<Reference>().is_ok(),
        ignored: matcher,
        context_paths: names.as_deref(),
        wrong_platforms: wrong_platforms(dockerfile, options, &bases),
        check: options.build_args.get("BUILDKIT_DOCKERFILE_CHECK").map(String::as_str),
    };
    lint::check(dockerfile, &request.dockerfile, &lint_options)
}

/// What an image brings into a stage.
fn base(name: &str, known: &ResolvedBases) -> Option<lint::Base> {
    let reference: Reference = name.parse().ok()?;
    let context = plan::default_context(name);
    let found = known.iter().find(|(key, _)| match &key.source {
        BaseSource::Registry(known) => *known == reference,
        BaseSource::Context(known) => context.as_ref().is_some_and(|name| known.split("::").next() == Some(name)),
    });
    let config = &found?.1.base.image.config.config;
    let environment = config.env.iter().map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    Some(lint::Base { environment: Environment::new(environment), has_shell: !config.shell.is_empty(), triggers: config.on_build.clone() })
}

fn wrong_platforms(dockerfile: &Dockerfile, options: &Options, bases: &Bases) -> Vec<(usize, String, String, String)> {
    let keys = plan::stage_bases(dockerfile, options, bases).unwrap_or_default();
    let wrong = keys.into_iter().enumerate().filter_map(|(index, key)| {
        let key = key?;
        let (found, wanted) = (&bases.get(&key)?.image.platform, &key.platform);
        let same = found.os == wanted.os && found.architecture == wanted.architecture;
        let name = match &key.source {
            BaseSource::Registry(reference) => reference.familiar(),
            BaseSource::Context(name) => name.clone(),
        };
        (!same).then(|| (index, name, found.to_string(), wanted.to_string()))
    });
    wrong.collect()
}

fn ignore_file(context: &ContextSource) -> Option<IgnoreFile> {
    match context {
        ContextSource::Directory { ignore: Some((_, text)), .. } => IgnoreFile::parse(text).ok(),
        _ => None,
    }
}

fn copies_context(dockerfile: &Dockerfile) -> bool {
    let instructions = dockerfile.stages.iter().flat_map(|stage| &stage.instructions);
    let has_paths = |sources: &[Source]| sources.iter().any(|source| matches!(source, Source::Path(_)));
    instructions.into_iter().any(|instruction| match &instruction.kind {
        InstructionKind::Copy(copy) => copy.from.is_none() && has_paths(&copy.transfer.sources),
        InstructionKind::Add(add) => has_paths(&add.transfer.sources),
        _ => false,
    })
}

/// Names near the top of a context; None when there is no context or it can't be read.
fn context_names(context: &ContextSource, ignore: Option<&Matcher>) -> Option<Vec<String>> {
    let (ContextSource::Directory { path, .. } | ContextSource::Fetched { path }) = context else { return None };
    let root = RootDir::open(path).ok()?;
    let mut names = Vec::new();
    let mut decide = |path: &Path, listed: FileType| {
        let Some(text) = path.to_str().filter(|_| names.len() < MAX_NAMES) else { return Decision::Skip };
        if ignore.is_some_and(|ignore| ignore.matches(text)) {
            let may_hold_more = ignore.is_some_and(|ignore| ignore.may_except_below(text));
            return if listed == FileType::Directory && may_hold_more { Decision::Descend } else { Decision::Skip };
        }
        names.push(text.to_owned());
        let last = text.rsplit('/').next().unwrap_or(text);
        let is_closed = matches!(last, ".git" | ".hg" | ".svn" | "node_modules");
        let goes_on = listed == FileType::Directory && !is_closed && text.split('/').count() < MAX_DEPTH;
        if goes_on { Decision::Descend } else { Decision::Skip }
    };
    let walked: Result<(), WalkError> = walk(root.as_fd(), &mut decide, &mut |_| Ok(()));
    walked.ok()?;
    Some(names)
}

/// `--build-arg`s that nothing declares: name, and the name that may have been meant.
pub fn unused_build_args(dockerfile: &Dockerfile, options: &Options) -> Vec<(String, Option<String>)> {
    let stages = dockerfile.stages.iter().flat_map(|stage| &stage.instructions);
    let mut declared: Vec<String> = plan::predefined_args(dockerfile, options).into_iter().map(|(name, _)| name).collect();
    let mut triggers_declare = false;
    for instruction in dockerfile.global_args.iter().chain(stages) {
        match &instruction.kind {
            InstructionKind::Arg(definitions) => declared.extend(definitions.iter().map(|definition| definition.name.text.clone())),
            InstructionKind::Onbuild { .. } => triggers_declare = true,
            _ => {}
        }
    }
    let is_own = |name: &str| {
        let lower = name.to_lowercase();
        name.starts_with("BUILDKIT_")
            || name == "SOURCE_DATE_EPOCH"
            || ["http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"].contains(&lower.as_str())
    };
    if triggers_declare {
        return Vec::new();
    }
    let unused = options.build_args.keys().filter(|name| !is_own(name) && !declared.contains(name));
    unused.map(|name| (name.clone(), suggest::nearest(name, &declared).map(|near| near.to_string()))).collect()
}
