//! `rbuild build`: request, build, outputs.

use std::{io::Write, process::ExitCode, sync::Arc};

use crate::{
    build::{self, BuildError, Outcome, Progress, Request, chain},
    cli::{
        args::{BuildArgs, Cli, ImagesArgs},
        contexts, environment,
        failure::Failure,
        outputs::{OutputKind, OutputSpec},
        progress::{Built, Mode, Place, Reporter},
        request, services, write,
    },
    oci::{Digest, Reference},
};

/// Builds and writes the outputs.
pub fn build(cli: &Cli, args: &BuildArgs) -> Result<ExitCode, Failure> {
    let outputs = outputs(args)?;
    let tags = tags(args)?;
    let (mode, reporter) = reporter(args)?;
    let progress: Arc<dyn Progress> = reporter.clone();
    // What can be known to be wrong is said before anything is entered or made.
    let mut request = request::request(args, &outputs)?;
    let entered = services::enter()?;
    let services = services::services(cli, &entered, environment::source_options(args.offline, &request.ssh, contexts::is_by_ssh(args)))?;
    let runtime = services::runtime()?;
    let policy = request.layers;
    let result = services::drive(runtime, &services, async {
        // Fetched trees stay until everything is written.
        let _fetched = contexts::fetch(args, &request::remote_contexts(args), &mut request, &services).await?;
        let shown = request.clone();
        let outcome = build::build(request, services.clone(), progress.clone()).await.map_err(|error| failure(&shown, &error))?;
        let digest = write::write(&outcome, &tags, &outputs, policy, &services, &progress).await?;
        Ok((built(&outcome, &digest, &tags), digest))
    });
    let (built, digest) = result.inspect_err(|_: &Failure| reporter.failed())?;
    if let Some(path) = &args.iidfile {
        std::fs::write(path, digest.as_str()).map_err(|error| Failure::new(format!("cannot write {}: {error}", path.display())))?;
    }
    reporter.succeeded(&built);
    if mode == Mode::Quiet {
        let _ = writeln!(std::io::stdout(), "{digest}");
    }
    Ok(ExitCode::SUCCESS)
}

/// `rbuild images`.
pub fn images(cli: &Cli, args: &ImagesArgs) -> Result<ExitCode, Failure> {
    let store = services::open_store(cli)?;
    let images = store.images().map_err(|error| Failure::new(chain(&error)))?;
    let mut out = std::io::stdout().lock();
    for image in images {
        let line = match args.json {
            true => serde_json::json!({"name": image.name.to_string(), "digest": image.descriptor.digest}).to_string(),
            false => format!("{}  {}", image.descriptor.digest, image.name.familiar()),
        };
        let _ = writeln!(out, "{line}");
    }
    Ok(ExitCode::SUCCESS)
}

/// What the summary tells of the image.
fn built(outcome: &Outcome, digest: &Digest, tags: &[Reference]) -> Built {
    let layers = || outcome.platforms.iter().flat_map(|platform| &platform.image.layers);
    Built {
        digest: digest.to_string(),
        names: tags.iter().map(Reference::familiar).collect(),
        size_bytes: layers().map(|layer| layer.descriptor.size).sum(),
        layers: layers().count(),
    }
}

fn outputs(args: &BuildArgs) -> Result<Vec<OutputSpec>, Failure> {
    let mut list = args.outputs.iter().map(|text| OutputSpec::parse(text)).collect::<Result<Vec<_>, _>>()?;
    if args.push {
        list.push(OutputSpec::of(OutputKind::Registry));
    }
    if args.load {
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
fn reporter(args: &BuildArgs) -> Result<(Mode, Arc<Reporter>), Failure> {
    let place = Place::here();
    let word = if args.quiet { "quiet" } else { args.progress.as_str() };
    let mode = place.mode(word).ok_or_else(|| {
        Failure::usage(format!("--progress {word} is unknown")).with_hint("auto, plain, tty, quiet or rawjson; see `rbuild help progress`")
    })?;
    Ok((mode, Reporter::new(mode, place)))
}

/// A build's failure with the place in the Dockerfile.
fn failure(request: &Request, error: &BuildError) -> Failure {
    Failure::in_dockerfile(&request.dockerfile_name, &request.dockerfile, &error.diagnostic())
}
