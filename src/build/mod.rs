//! Scheduler, executor, cache look-up, progress events: `Plan` -> `Image`. Unaware of terminals and flags.

mod abort;
mod arriving;
mod assemble;
mod bases;
mod blob;
mod buildkit;
mod cache_mount;
mod check;
mod copy;
mod emulators;
mod engine;
mod error;
mod explain;
mod failed;
mod fetched;
mod forecast;
mod foreign;
mod guard;
mod harvest;
mod inputs;
mod key;
mod layer;
mod lock;
mod lowers;
mod materials;
mod pack;
mod progress;
mod recompress;
mod recorder;
mod records;
mod remember;
mod remote;
mod report;
mod request;
mod root;
mod run;
mod secrets;
mod sources;
mod straight;
mod trust;
mod turns;
mod unpack;

use std::sync::Arc;

pub use blob::Fetcher;
pub use buildkit::Graph as BuildkitCache;
pub use check::{check, check_unparsed, unused_build_args};
pub use emulators::prepare_emulation;
pub use error::{BuildError, Kind, chain};
pub use explain::{Difference, Why};
pub use failed::{FailedRun, copy_out};
pub use forecast::{Forecast, Prospect, forecast};
pub use foreign::{ForeignProgram, foreign_programs};
pub use key::{CommonFacts, Facts, ResultId, facts};
pub use layer::{Layer, short};
pub use lock::{Lock, lock};
pub use materials::{Material, MaterialKind};
pub use progress::{Event, OutputStream, Progress, Silent, StepId};
pub use remote::{CacheEntry, KnownLayer, Outline, RemoteCache};
pub use report::{Hit, LayerReport, Report, ResultReport, StepReport, StepResult, Transfer};
pub use request::{CacheMode, ContextSource, LayerPolicy, Outcome, PlatformOutcome, PullPolicy, Request, Services};
pub use root::make_writable;
pub use secrets::{MIN_BYTES as MIN_SECRET_BYTES, Secret, Secrets};
pub use sources::{SourceOptions, Sources, downloads_directory, repositories_directory};
pub use trust::{Authorities, certificates};
pub use turns::Turns;

use crate::plan::Plan;

/// Builds the target of each platform that was asked for.
pub async fn build(request: Request, services: Services, progress: Arc<dyn Progress>) -> Result<Outcome, BuildError> {
    let request = Arc::new(request);
    // What builds left that were killed. Beside this one: there may be much of it, and nobody waits for it.
    let store = services.store.clone();
    drop(tokio::task::spawn_blocking(move || store.sweep_temporary()));
    let inputs = Arc::new(inputs::Inputs::new(request.clone(), services.clone()));
    let recorder = Arc::new(recorder::Recorder::new(&services.store, new_report(&request, &services), services.secrets.clone(), progress));
    // Written whatever happens, also when a signal drops us.
    let unfinished = recorder::Unfinished(recorder.clone());
    for name in services.secrets.too_short() {
        let text = format!("secret {name} is shorter than {} bytes: it is not searched for in what the build makes", secrets::MIN_BYTES);
        Progress::event(&*recorder, Event::Note { step: None, text: &text });
    }
    for text in crate::sandbox::limits::shortfalls(&request.limits) {
        Progress::event(&*recorder, Event::Note { step: None, text: &text });
    }
    let result = build_recorded(request, services.clone(), inputs.clone(), recorder.clone()).await;
    // Also after a failure: the next build starts from what this one found out.
    inputs.save_digests();
    unfinished.finish(result.as_ref().err());
    services.store.flush_uses().map_err(BuildError::store)?;
    result
}

async fn build_recorded(
    request: Arc<Request>,
    services: Services,
    inputs: Arc<inputs::Inputs>,
    recorder: Arc<recorder::Recorder>,
) -> Result<Outcome, BuildError> {
    let abort = Arc::new(abort::Abort::new(services.cancel.clone()));
    let progress: Arc<dyn Progress> = recorder.clone();
    let dockerfile = crate::dockerfile::parse(&request.dockerfile).map_err(|fault| {
        progress.warnings(&check_unparsed(&request).0.warnings);
        BuildError::from(fault)
    })?;
    let mut first_step = 1;
    let mut engines = Vec::new();
    let mut report = crate::dockerfile::lint::Report::default();
    for options in &request.plans {
        let (plan, bases) = match bases::plan(&dockerfile, options, &request, &services, &progress).await {
            Ok(planned) => planned,
            Err(error) => {
                // What is wrong may be the cause of what a warning says, or the other way round.
                let found = check::with_bases(&dockerfile, options, &request, &bases::ResolvedBases::new(), false)?;
                progress.warnings(&found.warnings);
                return Err(error);
            }
        };
        check::merge(&mut report, check::with_bases(&dockerfile, options, &request, &bases, false)?);
        let world = engine::World {
            request: request.clone(),
            services: services.clone(),
            inputs: inputs.clone(),
            progress: progress.clone(),
            abort: abort.clone(),
            recorder: recorder.clone(),
        };
        let engine = engine::Engine::new(plan, bases, world, first_step);
        first_step += engine.steps();
        engines.push(engine);
    }
    progress.warnings(&report.warnings);
    if let Some(message) = report.error() {
        return Err(BuildError { span: report.warnings.first().map(|warning| warning.span), ..BuildError::new(Kind::Dockerfile, message) });
    }
    let runs = engines.iter().map(|engine| engine.clone().run());
    let platforms = futures_util::future::try_join_all(runs).await.map_err(|error| abort.cause_of(error));
    engines.iter().try_for_each(|engine| engine.write_facts())?;
    Ok(Outcome { platforms: platforms? })
}

fn new_report(request: &Request, services: &Services) -> Report {
    Report {
        format: report::FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started: jiff::Timestamp::now(),
        dockerfile: request.dockerfile_name.clone(),
        rung: services.rung.clone(),
        platforms: request.plans.iter().map(|options| options.target_platform.to_string()).collect(),
        ..Report::default()
    }
}

/// The build graph of each platform, with base images resolved and nothing built.
pub async fn plan(request: &Request, services: &Services, progress: &Arc<dyn Progress>) -> Result<Vec<Plan>, BuildError> {
    let dockerfile = crate::dockerfile::parse(&request.dockerfile).map_err(BuildError::from)?;
    let mut plans = Vec::new();
    for options in &request.plans {
        plans.push(bases::plan(&dockerfile, options, request, services, progress).await?.0);
    }
    Ok(plans)
}

/// The directories of what was just built, top first.
pub async fn root_directories(
    built: &PlatformOutcome,
    services: &Services,
    progress: &Arc<dyn Progress>,
) -> Result<Vec<std::path::PathBuf>, BuildError> {
    layer::directories(&built.stack, services, progress).await
}

/// The directories of an image of the store, top first: what `rbuild run` mounts. Layers that are elsewhere are fetched.
pub async fn unpack_image(
    image: &crate::oci::Image,
    step: StepId,
    services: &Services,
    progress: &Arc<dyn Progress>,
) -> Result<Vec<std::path::PathBuf>, BuildError> {
    let stack = Layer::base_stack(&image.layers, &layer::BlobSource::Store, step, services);
    layer::directories(&stack, services, progress).await
}
