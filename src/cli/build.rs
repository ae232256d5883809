//! `rbuild build`: request, build, outputs.

use std::{io::Write, process::ExitCode, sync::Arc};

use crate::{
    build::{self, BuildError, Outcome, Request},
    cli::{
        annotations::Annotation,
        args::{BuildArgs, Cli},
        attest, cache,
        call::{Call, Method},
        contexts, environment,
        failure::Failure,
        guarded, lint,
        outputs::{self, OutputKind, OutputSpec},
        progress::{Built, Mode, Place, Reporter},
        provenance, quality, reproducible, request, services, shell, upkeep, write,
    },
    dockerfile::lint::Warning,
    export::{self, FileDestination},
    oci::Reference,
    registry::Client,
    sandbox::Cancel,
};

/// Builds and writes the outputs.
pub fn build(cli: &Cli, args: &BuildArgs) -> Result<ExitCode, Failure> {
    let mut found = Found::default();
    let result = build_and_show(cli, args, &mut found);
    if let Some(path) = &args.code_quality {
        quality::write(path, &found.dockerfile, &found.warnings, result.as_ref().err())?;
    }
    result
}

/// What lint has found, and where.
#[derive(Default)]
struct Found {
    dockerfile: String,
    warnings: Vec<Warning>,
}

fn build_and_show(cli: &Cli, args: &BuildArgs, found: &mut Found) -> Result<ExitCode, Failure> {
    let mut wanted = wanted(args)?;
    let call = Call::of(args)?;
    let attestations = attest::Attestations::of(args)?;
    // What can be known to be wrong is said before anything is entered or made.
    wanted.check()?;
    let (mode, reporter) = reporter(args)?;
    let after = shell::OnError::of(args)?;
    check_told_files(args)?;
    let mut request = request::request(args, wanted.first_form()?.policy)?;
    wanted.check_platforms(request.plans.len(), &attestations)?;
    request.wants_files = wanted.has_files();
    let mut source = attestations.source(args, wanted.is_pushed()? || args.metadata_file.is_some());
    let entered = services::enter(cli)?;
    let services = services::services(cli, &entered, environment::source_options(args.offline, &request.ssh, contexts::is_by_ssh(args))?)?;
    let services = guarded::guard(services, args, &request);
    let store = services.store.clone();
    let runtime = services::runtime()?;
    found.dockerfile.clone_from(&request.dockerfile_name);
    let watcher = Arc::new(lint::Watcher::new(reporter.clone(), &request.dockerfile_name));
    let steps = write::Steps::new(watcher.clone());
    services::tell(&services.client, &steps);
    let result = services::drive(runtime, &services, async {
        // Fetched trees stay until everything is written.
        let fetched = contexts::fetch(args, &request::remote_contexts(args), &mut request, &services).await?;
        source.fetched = fetched.source.clone();
        if let Some(epoch) = request.plans.first().and_then(|plan| plan.context_epoch).filter(|_| args.reproducible && !has_own_epoch(args))
        {
            fix_times(epoch, &mut wanted, &mut request)?;
        }
        if call.method != Method::Build {
            return call.answer(&request, &services, &(steps.clone() as Arc<dyn build::Progress>)).await.map(Err);
        }
        watcher.look_at_args(&request);
        greet(&wanted, &services)?;
        if let Some(text) = services::rung_note(&entered) {
            build::Progress::event(&*steps, build::Event::Note { step: None, text: &text });
        }
        let Made { written, .. } = make(args, request, &wanted, (attestations, &source), &services, &steps, &after).await?;
        Ok(Ok((built(&written), written)))
    });
    let result = result.inspect_err(|_: &Failure| reporter.failed());
    upkeep::collect(&store, args.store_max.as_deref())?;
    reporter.stop();
    found.warnings = watcher.show(lint::Shown::of(args));
    let result = result.map_err(|failure| after.act(failure, &services));
    let (built, written) = match result? {
        Ok(done) => done,
        Err(code) => return Ok(code),
    };
    if let Some(path) = &args.iidfile {
        let text = written.image_id.as_str();
        export::write_file(FileDestination::Path(path.clone()), text.as_bytes()).map_err(|error| Failure::new(build::chain(&error)))?;
    }
    if let Some(path) = &args.metadata_file {
        written.write_metadata(path)?;
    }
    reporter.succeeded(&built);
    // Where an archive goes nothing else does.
    if mode == Mode::Quiet && !wanted.outputs.iter().any(OutputSpec::is_to_stdout) {
        let _ = writeln!(std::io::stdout(), "{}", written.image_id);
    }
    Ok(ExitCode::SUCCESS)
}

/// What was built and written.
pub struct Made {
    /// The images.
    pub outcome: Outcome,
    /// What became of them.
    pub written: write::Written,
}

/// Builds what needs no more fetching, and writes the outputs.
pub async fn make(
    args: &BuildArgs,
    request: Request,
    wanted: &write::Wanted,
    (attestations, source): (attest::Attestations, &provenance::Source),
    services: &build::Services,
    steps: &Arc<write::Steps>,
    after: &shell::OnError,
) -> Result<Made, Failure> {
    let started = jiff::Timestamp::now();
    let shown = request.clone();
    let caches = cache::Caches::open(args, services, steps).await?;
    let mut outcome = build_with_caches(request, caches.clone(), services, steps).await.map_err(|error| {
        after.remember(&error);
        failure(&shown, &error, &services.secrets)
    })?;
    cache::put_inline(args, &mut outcome)?;
    if !args.allow_foreign {
        refuse_foreign_programs(&outcome, services, steps).await?;
    }
    guarded::check_annotations(wanted, &services.secrets)?;
    let (request, secrets) = (&shown, &services.secrets);
    let attester = attest::Attester { wanted: attestations, args, request, outcome: &outcome, source, secrets, started };
    let written = write::write(&outcome, wanted, services, &|output| push_client(output, wanted, services), steps, &attester).await?;
    cache::export(args, &outcome, caches.as_ref(), services, steps).await?;
    reproducible::record(&services.store, &written, &shown.dockerfile)?;
    Ok(Made { outcome, written })
}

/// What the flags want of the result.
pub fn wanted(args: &BuildArgs) -> Result<write::Wanted, Failure> {
    let outputs = outputs(args)?;
    let is_files = |output: &OutputSpec| matches!(output.kind, OutputKind::Local | OutputKind::Tar);
    if args.iidfile.is_some() && outputs.iter().any(is_files) {
        return Err(Failure::usage("--iidfile names an image, and --output writes files").with_hint("leave one of them out"));
    }
    let annotations = args.annotations.iter().map(|text| Annotation::parse_flag(text)).collect::<Result<Vec<_>, _>>()?;
    Ok(write::Wanted {
        tags: tags(args)?,
        outputs,
        annotations: annotations.into_iter().flatten().collect(),
        build_args: request::build_args(args)?,
        reproducible: args.reproducible,
        tag_digest: args.tag_digest,
    })
}

/// `--iidfile` and `--metadata-file` can be written, and say nothing of an earlier build if this one fails.
fn check_told_files(args: &BuildArgs) -> Result<(), Failure> {
    for (flag, file) in [("--iidfile", &args.iidfile), ("--metadata-file", &args.metadata_file)] {
        let Some(file) = file else { continue };
        let shown = file.display();
        if file.is_dir() {
            return Err(Failure::usage(format!("{flag} {shown} is a directory")));
        }
        if !outputs::has_parent(file) {
            return Err(Failure::usage(format!("{flag}: there is no directory for {shown}")));
        }
    }
    match args.iidfile.as_deref().filter(|file| file.is_file()).map(std::fs::remove_file) {
        Some(Err(error)) => Err(Failure::new(format!("cannot remove the old {}: {error}", args.iidfile.as_deref().unwrap().display()))),
        _ => Ok(()),
    }
}

/// Meets the registries that are pushed to while the build goes on.
fn greet(wanted: &write::Wanted, services: &build::Services) -> Result<(), Failure> {
    for output in &wanted.outputs {
        if output.is_pushed()? && !output.flag("registry.insecure", false)? {
            for name in wanted.names(output)? {
                let client = services.client.clone();
                drop(tokio::spawn(async move { client.greet(&name).await }));
            }
        }
    }
    Ok(())
}

/// The client of an output: one of its own if it is to be less strict.
fn push_client(output: &OutputSpec, wanted: &write::Wanted, services: &build::Services) -> Result<Client, Failure> {
    if !output.flag("registry.insecure", false)? {
        return Ok(services.client.clone());
    }
    let hosts: Vec<String> = wanted.names(output)?.iter().map(|name| name.registry().to_owned()).collect();
    Ok(services.client.with_insecure(&hosts))
}

struct CancelOnDrop(Arc<Cancel>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// A cache that turns out to fail is a miss: the build goes on with the others, from what it has made so far.
async fn build_with_caches(
    request: Request,
    caches: Option<Arc<cache::Caches>>,
    services: &build::Services,
    steps: &Arc<write::Steps>,
) -> Result<Outcome, BuildError> {
    let mut left = caches.as_ref().map_or(0, |caches| caches.left());
    while let Some(caches) = caches.as_ref().filter(|_| left > 0) {
        // The first failure cancels all steps for good, and the next try needs them: this one has a switch of its own,
        // which a signal turns by dropping us.
        let Ok(cancel) = Cancel::new().map(Arc::new) else { break };
        let _cancelled = CancelOnDrop(cancel.clone());
        let with_caches = build::Services { remote: Some(caches.clone()), cancel, ..services.clone() };
        match build::build(request.clone(), with_caches, steps.clone()).await {
            Err(error) if error.kind == build::Kind::Cache => {
                let text = format!("warning: {error}; building without it");
                build::Progress::event(&**steps, build::Event::Note { step: None, text: &text });
                // One that fails in a way that nobody answers for must not be tried for ever.
                left = caches.left().min(left - 1);
            }
            result => return result,
        }
    }
    build::build(request, services.clone(), steps.clone()).await
}

fn has_own_epoch(args: &BuildArgs) -> bool {
    std::env::var_os("SOURCE_DATE_EPOCH").is_some() || args.build_args.iter().any(|text| text.starts_with("SOURCE_DATE_EPOCH"))
}

/// A context that was fetched has a time of its own: its commit's.
fn fix_times(epoch: i64, wanted: &mut write::Wanted, request: &mut Request) -> Result<(), Failure> {
    let name = || "SOURCE_DATE_EPOCH".to_owned();
    wanted.build_args.insert(name(), epoch.to_string());
    request.plans.iter_mut().for_each(|plan| drop(plan.build_args.insert(name(), epoch.to_string())));
    request.layers = wanted.first_form()?.policy;
    Ok(())
}

async fn refuse_foreign_programs(outcome: &Outcome, services: &build::Services, steps: &Arc<write::Steps>) -> Result<(), Failure> {
    let progress: Arc<dyn build::Progress> = steps.clone();
    for platform in &outcome.platforms {
        let programs = build::foreign_programs(platform, services, &progress).await.map_err(Failure::from)?;
        let Some(program) = programs.into_iter().next() else { continue };
        let path = program.path.display();
        let failure = Failure::new(format!("{path} is a program for {}, the image is for {}", program.architecture, platform.platform));
        return Err(failure.with_hint("build it for the target (TARGETARCH), or say --allow-foreign if it is meant to be there"));
    }
    Ok(())
}

/// What the summary tells of the image.
fn built(written: &write::Written) -> Built {
    Built {
        digest: written.descriptor.digest.to_string(),
        names: written.names.iter().map(Reference::familiar).collect(),
        size_bytes: written.layer_sizes.iter().sum(),
        layers: written.layer_sizes.len(),
    }
}

fn outputs(args: &BuildArgs) -> Result<Vec<OutputSpec>, Failure> {
    let mut list = args.outputs.iter().map(|text| OutputSpec::parse(text)).collect::<Result<Vec<_>, _>>()?;
    // As with buildx the short flags are about outputs of their kind, where there are such.
    if args.push {
        let mut images = list.iter_mut().filter(|output| matches!(output.kind, OutputKind::Image | OutputKind::Registry)).peekable();
        match images.peek() {
            Some(_) => images.for_each(|output| drop(output.attributes.insert("push".to_owned(), "true".to_owned()))),
            None => list.push(OutputSpec::of(OutputKind::Registry)),
        }
    }
    if args.load && !list.iter().any(|output| output.kind == OutputKind::Docker && output.dest.is_none()) {
        list.push(OutputSpec::of(OutputKind::Docker));
    }
    Ok(list)
}

fn tags(args: &BuildArgs) -> Result<Vec<Reference>, Failure> {
    let parse = |text: &String| text.parse::<Reference>().map_err(|error| Failure::usage(format!("--tag: {error}")));
    let tags: Vec<Reference> = args.tags.iter().map(parse).collect::<Result<_, _>>()?;
    match tags.iter().find(|tag| tag.digest().is_some()) {
        Some(tag) => Err(Failure::usage(format!("--tag {tag}: a name to give can't have a digest"))),
        None => Ok(tags),
    }
}

/// How progress is shown, and what shows it.
pub fn reporter(args: &BuildArgs) -> Result<(Mode, Arc<Reporter>), Failure> {
    let place = Place::here();
    let word = if args.quiet { "quiet" } else { args.progress.as_str() };
    let mode = place.mode(word).ok_or_else(|| {
        Failure::usage(format!("--progress {word} is unknown")).with_hint("auto, plain, tty, quiet or rawjson; see `rbuild help progress`")
    })?;
    Ok((mode, Reporter::new(mode, place)))
}

/// A build's failure with the place in the Dockerfile.
fn failure(request: &Request, error: &BuildError, secrets: &build::Secrets) -> Failure {
    let mut fault = error.diagnostic();
    fault.message = secrets.mask(&fault.message).into_owned();
    // The line that is pointed at may hold a secret itself.
    Failure::in_dockerfile(&request.dockerfile_name, &secrets.blot(&request.dockerfile), &fault)
}
